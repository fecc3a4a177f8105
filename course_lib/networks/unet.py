"""The U-Net: (x, t, y) -> a tensor like x. It knows nothing of schedules; lesson 2 takes it apart."""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """A real number t in [0, 1] as `dim` sines and cosines, from fast to slow: (B,) -> (B, dim).   Vaswani et al. 2017

    Multiplies t by 1000 first: the frequencies were chosen for step indices, and without it t = 0.001 and 0.9 look alike.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"a time embedding needs an even dim of at least 4; got {dim}")
        half = dim // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1)), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = 1000 * t.float()[:, None] * self.frequencies           # (B, dim / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)           # (B, dim)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions around a scale and shift that the embedding chooses, and a way past them.

    x: (B, in_channels, H, W), emb: (B, emb_dim) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))                           # (B, out, H, W)
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)  # (B, out, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class AttentionBlock(nn.Module):
    """Every pixel looks at every other pixel: (B, C, H, W) -> (B, C, H, W).   Vaswani et al. 2017"""

    def __init__(self, channels: int, heads: int = 2):
        super().__init__()
        if channels % heads:
            raise ValueError(f"attention splits its channels among its heads: {channels} channels cannot be split among {heads}")
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)                                # (B, HW, C)
        q, k, v = self.qkv(tokens).view(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)   # (B, heads, HW, d) each
        h = attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)                     # (B, HW, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, for (..., tokens, d).

    On a CPU two matrix products: there the fused kernel's backward pass in bf16 is ten times slower (torch 2.15).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v


class UNet(nn.Module):
    """Down, through the middle and up again, with bridges across.   Ronneberger et al. 2015; Ho et al. 2020

    channels:     of the images (1 for digits, 3 for colour)
    widths:       channels per level; every level after the first halves the height and the width
    depth:        ResnetBlocks per level, on each side
    num_classes:  labels 0 ... num_classes - 1, and num_classes for "no label" (y = None means it too); None: no labels at all
    patch:        the first layer folds patch x patch pixels into channels: cheap, and a fourth of the work at 2

    Height and width must be divisible by patch * 2^(levels - 1).
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (48, 96), depth: int = 1, num_classes: int | None = None,
                 patch: int = 2, heads: int = 2, emb_dim: int = 128, dropout: float = 0.0):
        super().__init__()
        self.config = dict(channels=channels, widths=list(widths), depth=depth, num_classes=num_classes, patch=patch,
                           heads=heads, emb_dim=emb_dim, dropout=dropout)
        self.channels, self.num_classes, self.patch = channels, num_classes, patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        block = lambda a, b: ResnetBlock(a, b, emb_dim, dropout)

        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, emb_dim)
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)

        self.down, self.up, bridges, c = nn.ModuleList(), nn.ModuleList(), [], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(c, width, 3, stride=2, padding=1))
                c = width
            for _ in range(depth):
                self.down.append(block(c, width))
                bridges.append(width)
                c = width
        self.middle = nn.ModuleList([block(c, c), AttentionBlock(c, heads), block(c, c)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(depth):
                self.up.append(block(c + bridges.pop(), width))
                c = width
            if level:
                self.up.append(Upsample(c, widths[level - 1]))
                c = widths[level - 1]
        self.norm = group_norm(c)
        self.out = zero(nn.Conv2d(c, channels * patch**2, 3, padding=1))
        self.memory_format = torch.channels_last                        # on a CPU convolutions are faster than in torch's default order
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, channels, H, W), t: (B,) real numbers, y: (B,) integers, one integer, or None -> like x"""
        self._check(x, t, y)
        emb = self.time(t)                                              # (B, emb_dim)
        if self.label is not None:
            y = self.num_classes if y is None else y
            emb = emb + self.label(y.expand(len(x)) if isinstance(y, Tensor) else torch.full((len(x),), y, device=x.device))
        emb = F.silu(emb)
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=self.memory_format)
        h, bridges = self.stem(x), []
        for layer in self.down:
            if isinstance(layer, ResnetBlock):
                h = layer(h, emb)
                bridges.append(h)
            else:
                h = layer(h)
        for layer in self.middle:
            h = layer(h, emb) if isinstance(layer, ResnetBlock) else layer(h)
        for layer in self.up:
            h = layer(torch.cat([h, bridges.pop()], dim=1), emb) if isinstance(layer, ResnetBlock) else layer(h)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)

    def _check(self, x: Tensor, t: Tensor, y: Tensor | int | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"this network takes images (B, {self.channels}, H, W); got {tuple(x.shape)}")
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(f"height and width must be multiples of {self.multiple} to be halved this often; got {x.shape[2]} x {x.shape[3]}: pad the images")
        if t.shape != x.shape[:1] or not t.is_floating_point():
            raise ValueError(f"t must be one real number per image, shape ({len(x)},); got {t.dtype} {tuple(t.shape)}")
        if y is not None and self.num_classes is None:
            raise ValueError("this network was built without labels: pass num_classes to UNet, or no y")
        if isinstance(y, Tensor) and y.is_cuda or y is None:            # looking at a GPU's labels would make it wait
            return
        y = torch.as_tensor(y)
        if y.is_floating_point() or y.numel() and (y.min() < 0 or y.max() > self.num_classes):
            raise ValueError(f"labels are integers from 0 to {self.num_classes - 1}, and {self.num_classes} for none; got {y.min()} to {y.max()}")


class Upsample(nn.Module):
    """Doubles height and width: each pixel becomes four, then a convolution.   (B, C, H, W) -> (B, out, 2H, 2W)"""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels: with fewer, the CPU's kernel for channels-last images falls back to a slow path."""
    if channels % 16:
        raise ValueError(f"widths must be multiples of 16 (the size of a normalisation group); got {channels}")
    return nn.GroupNorm(channels // 16, channels)


def zero(layer: nn.Module) -> nn.Module:
    """Starts a layer at zero, so that its block begins as the identity and learns what to add."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
