"""The diffusion transformer: (x, t, y) -> a tensor like x.

Peebles & Xie 2023. Lesson 2 builds it.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import (
    TimeEmbedding,
    _require,
    _validate_conditions,
    _validate_heads,
    _validate_sizes,
    attention,
    hidden_matrices,
    zero_init,
)
from .text import PAD, TextEncoder, Tokenizer, pooled


class DiTBlock(nn.Module):
    """Transformer block with adaLN-Zero: self-attention, then an MLP, both modulated by the
    embedding.

    x: (B, N, dim), emb: (B, dim) -> (B, N, dim). (Peebles & Xie 2023, section 3.2)
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4):
        super().__init__()
        _validate_heads(dim, num_heads)
        _validate_sizes(mlp_ratio=mlp_ratio)
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        hidden = mlp_ratio * dim
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim)
        )
        # gates of zero: the block begins as the identity
        self.emb = zero_init(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        q, k, v, modulation = self.project(x, emb)
        return self.finish(x, attention(q, k, v), modulation)

    def project(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Queries, keys and values (B, heads, N, d), and the modulation that `finish` needs."""
        shift, scale, *modulation = self.emb(emb)[:, None].chunk(6, dim=-1)   # 6 of (B, 1, dim)
        h = torch.addcmul(shift, self.norm1(x), 1 + scale)
        qkv = self.qkv(h).view(*x.shape[:2], 3, self.num_heads, -1)     # (B, N, 3, heads, d)
        return *qkv.permute(2, 0, 3, 1, 4), modulation

    def finish(self, x: Tensor, attended: Tensor, modulation: list[Tensor]) -> Tensor:
        """x with what attention found, (B, heads, N, d), then the MLP."""
        gate1, shift2, scale2, gate2 = modulation
        x = x + gate1 * self.proj(attended.transpose(1, 2).reshape(x.shape))
        return x + gate2 * self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2))


class JointBlock(nn.Module):
    """A block of MM-DiT: two streams of tokens, each with weights of its own, that share one
    attention.

    x: (B, N, dim) image tokens, c: (B, L, dim) text tokens, emb: (B, dim), mask: (B, L) bool, False
    where there is no text -> x and c. Queries and keys are normalised (RMS), which keeps attention
    in half precision from growing. (Esser et al. 2024, figure 2 and section 5.3.2)
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: int = 4):
        super().__init__()
        self.image = DiTBlock(dim, num_heads, mlp_ratio)
        self.text = DiTBlock(dim, num_heads, mlp_ratio)
        head = dim // num_heads
        self.q_norms = nn.ModuleList([nn.RMSNorm(head), nn.RMSNorm(head)])
        self.k_norms = nn.ModuleList([nn.RMSNorm(head), nn.RMSNorm(head)])

    def forward(self, x: Tensor, c: Tensor, emb: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        streams = ((self.image, x), (self.text, c))
        q, k, v, modulations = zip(*(stream.project(h, emb) for stream, h in streams))
        q = torch.cat([norm(part) for norm, part in zip(self.q_norms, q)], dim=2)
        k = torch.cat([norm(part) for norm, part in zip(self.k_norms, k)], dim=2)
        v = torch.cat(v, dim=2)                                         # (B, heads, N + L, d)
        keys = F.pad(mask, (x.shape[1], 0), value=True)[:, None, None]  # (B, 1, 1, N + L)
        parts = attention(q, k.to(q.dtype), v.to(q.dtype), keys).split([x.shape[1], c.shape[1]], 2)
        x, c = (
            stream.finish(h, part, modulation)
            for (stream, h), part, modulation in zip(streams, parts, modulations)
        )
        return x, c


class DiT(nn.Module):
    """A transformer on image patches, with the time and the label in its adaLN-Zero modulation.

    channels, size:        of the images, size x size
    patch_size:            pixels per side of a token
    dim, depth, num_heads: of the transformer
    num_classes:           as in UNet

    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on, and where
    patch_size does not divide size, or 4 does not divide dim.
    """

    Block: type[nn.Module] = DiTBlock

    def __init__(
        self,
        channels: int,
        size: int,
        patch_size: int = 4,
        dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        num_classes: int | None = None,
    ):
        super().__init__()
        _validate_sizes(channels=channels, size=size, patch_size=patch_size, dim=dim, depth=depth)
        _validate_sizes(num_classes=1 if num_classes is None else num_classes)
        if size % patch_size or dim % 4:
            raise ValueError(
                f"patches of {patch_size} must divide the size {size}, "
                f"and dim must be a multiple of 4; got dim = {dim}"
            )
        self.config = dict(
            channels=channels,
            size=size,
            patch_size=patch_size,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            num_classes=num_classes,
        )
        self.channels = channels
        self.size = size
        self.patch_size = patch_size
        self.num_classes = num_classes
        # the conditions that mean "none"
        self.null = {} if num_classes is None else {"y": num_classes}
        self.time = nn.Sequential(
            TimeEmbedding(64), nn.Linear(64, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, dim)
        self.stem = nn.Linear(channels * patch_size**2, dim)
        positions = sincos_position_embedding_2d(size // patch_size, dim)   # (N, dim)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(self.Block(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.final = zero_init(nn.Linear(dim, 2 * dim))
        self.out = zero_init(nn.Linear(dim, channels * patch_size**2))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, channels, size, size), t: (B,) real, y: (B,) integers, one integer, or None
        -> like x

        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        _require("this network takes images", x, "B", self.channels, self.size, self.size)
        y = _validate_conditions(self, x, t, y)
        emb = self._embed(t, y)                                      # (B, dim)
        h = self._tokens(x)
        for block in self.blocks:
            h = block(h, emb)                                           # (B, N, dim)
        return self._image(h, emb)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: those of all layers but the first and the last."""
        return hidden_matrices(self, (self.stem, self.out))

    def _tokens(self, x: Tensor) -> Tensor:
        """Patches of the image as tokens, with their positions: (B, N, dim)."""
        tokens = F.pixel_unshuffle(x, self.patch_size).flatten(2)       # (B, channels * patch^2, N)
        return self.stem(tokens.transpose(1, 2)) + self.positions.to(x.dtype)

    def _image(self, h: Tensor, emb: Tensor) -> Tensor:
        """The last layer, and tokens back to an image."""
        shift, scale = self.final(emb)[:, None].chunk(2, dim=-1)
        h = self.out(torch.addcmul(shift, self.norm(h), 1 + scale))     # (B, N, channels * patch^2)
        side = self.size // self.patch_size
        h = h.transpose(1, 2).reshape(len(h), -1, side, side)
        return F.pixel_shuffle(h, self.patch_size)

    def _embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """The embedding that modulates every block: (B, dim), of the time and the label."""
        emb = self.time(t)
        if self.label is not None:
            emb = emb + self.label(y)
        return F.silu(emb)


class MMDiT(DiT):
    """A transformer on image patches and caption tokens: joint attention, both streams modulated by
    the time and the mean of the caption.

    words, length, text_dim, text_depth: of the captions, as in ConditionalUNet
    options:                             as in DiT, but for num_classes

    net(x, t, tokens): tokens (B, L) from net.tokenizer, 0 everywhere for "no caption"; None means
    it too. (Esser et al. 2024, Stable Diffusion 3, figure 2)
    """

    Block = JointBlock

    def __init__(
        self,
        channels: int,
        size: int,
        words: list[str],
        length: int = 32,
        text_dim: int = 128,
        text_depth: int = 2,
        **options,
    ):
        super().__init__(channels, size, **options)
        dim = self.config["dim"]
        text = {"length": length, "text_dim": text_dim, "text_depth": text_depth}
        self.tokenizer = Tokenizer(words, length)
        vocabulary = self.tokenizer.words
        self.config = {"channels": channels, "size": size, "words": vocabulary[2:]} | text | options
        self.text = TextEncoder(len(vocabulary), length, text_dim, text_depth)
        self.context_proj = nn.Linear(text_dim, dim)
        self.pool_proj = nn.Linear(text_dim, dim)
        self.null = {"tokens": PAD}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | int | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x: (B, channels, size, size), t: (B,) real, tokens: (B, L), (1, L), or one id -> like x

        context, context_mask: the text encoder's output, in place of tokens.
        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        _require("this network takes images", x, "B", self.channels, self.size, self.size)
        _validate_conditions(self, x, t, None)
        if context is None:
            context, context_mask = self.text.of_batch(PAD if tokens is None else tokens, len(x))
        elif tokens is not None:
            raise ValueError("pass tokens, or the context of net.text(tokens), not both")
        emb = F.silu(self.time(t) + self.pool_proj(pooled(context, context_mask)))  # (B, dim)
        h, c = self._tokens(x), self.context_proj(context)              # (B, N, dim), (B, L, dim)
        for block in self.blocks:
            h, c = block(h, c, emb, context_mask)
        return self._image(h, emb)

    def encode(self, tokens: Tensor | int, B: int) -> dict[str, Tensor]:
        """As in ConditionalUNet: context and context_mask, which do not depend on t."""
        context, mask = self.text.of_batch(tokens, B, trim=True)
        return {"context": context, "context_mask": mask}


def sincos_position_embedding_2d(side: int, dim: int) -> Tensor:
    """Fixed sines and cosines of the row and of the column of each token: (side * side, dim)."""
    _validate_sizes(side=side, dim=dim)
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4; got {dim}")
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency                     # (side, dim / 4)
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)                 # (side, dim / 2)
    rows = wave[:, None].expand(-1, side, -1)
    columns = wave[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, dim)
