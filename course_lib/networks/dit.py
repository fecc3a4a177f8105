"""The diffusion transformer: (x, t, y) -> a tensor like x.   Peebles & Xie 2023; lesson 2 builds it."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .unet import TimeEmbedding, attention, checked_conditions, checked_heads, zero


class DiTBlock(nn.Module):
    """Attention among the tokens, then a small network on each, both steered by the embedding (adaLN-zero).

    x: (B, N, dim), emb: (B, dim) -> (B, N, dim)
    """

    def __init__(self, dim: int, heads: int, ratio: int = 4):
        super().__init__()
        checked_heads(dim, heads)
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(dim, elementwise_affine=False) for _ in range(2))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(approximate="tanh"), nn.Linear(ratio * dim, dim))
        self.emb = zero(nn.Linear(dim, 6 * dim))                        # gates of zero: the block begins as the identity

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.emb(emb)[:, None].chunk(6, dim=-1)      # (B, 1, dim) each
        x = x + gate1 * self._attend(torch.addcmul(shift1, self.norm1(x), 1 + scale1))
        return x + gate2 * self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))

    def _attend(self, x: Tensor) -> Tensor:
        B, N, dim = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)                  # (B, heads, N, d) each
        return self.proj(attention(q, k, v).transpose(1, 2).reshape(B, N, dim))


class DiT(nn.Module):
    """A plain transformer on patches of the image: every token has the same width from the first block to the last.

    channels, size: of the images, size x size;  patch: pixels per side of a token;  dim, depth, heads: of the transformer
    num_classes: as in UNet
    """

    def __init__(self, channels: int, size: int, patch: int = 4, dim: int = 128, depth: int = 4, heads: int = 4, num_classes: int | None = None):
        super().__init__()
        if size % patch or dim % 4:
            raise ValueError(f"patches of {patch} must divide the size {size}, and dim must be a multiple of 4; got dim = {dim}")
        self.config = dict(channels=channels, size=size, patch=patch, dim=dim, depth=depth, heads=heads, num_classes=num_classes)
        self.channels, self.size, self.patch, self.num_classes = channels, size, patch, num_classes
        self.null = {} if num_classes is None else {"y": num_classes}      # the conditions that say nothing
        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, dim)
        self.stem = nn.Linear(channels * patch**2, dim)
        self.register_buffer("positions", positions_2d(size // patch, dim), persistent=False)       # (N, dim)
        self.blocks = nn.ModuleList(DiTBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.final = zero(nn.Linear(dim, 2 * dim))
        self.out = zero(nn.Linear(dim, channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, channels, size, size), t: (B,) real numbers, y: (B,) integers, one integer, or None -> like x"""
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise ValueError(f"this network takes images (B, {self.channels}, {self.size}, {self.size}); got {tuple(x.shape)}")
        checked_conditions(self, x, t, y)
        emb = self.time(t)
        if self.label is not None:
            y = torch.as_tensor(self.num_classes if y is None else y, device=x.device)
            emb = emb + self.label(y.expand(len(x)))
        emb = F.silu(emb)                                               # (B, dim)
        tokens = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)                        # (B, N, channels * patch^2)
        h = self.stem(tokens) + self.positions.to(x.dtype)
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.final(emb)[:, None].chunk(2, dim=-1)
        h = self.out(torch.addcmul(shift, self.norm(h), 1 + scale))     # (B, N, channels * patch^2)
        side = self.size // self.patch
        return F.pixel_shuffle(h.transpose(1, 2).reshape(len(x), -1, side, side), self.patch)


def positions_2d(side: int, dim: int) -> Tensor:
    """Sines and cosines of the row and of the column of each token: (side * side, dim), fixed, not learned."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency                     # (side, dim / 4)
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)                 # (side, dim / 2)
    rows, columns = wave[:, None].expand(-1, side, -1), wave[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, dim)
