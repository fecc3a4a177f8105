"""The U-Net: (x, t, y, context) -> a tensor like x. It knows nothing of schedules; lesson 2 takes it apart."""
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
        checked_heads(channels, heads)
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


class CrossAttentionBlock(nn.Module):
    """Every pixel looks at the tokens of a context, such as the words of a caption.   Rombach et al. 2022, section 3.3

    x: (B, channels, H, W), context: (B, L, context_dim), context_mask: (B, L) bool, False where there is no token;
    every example needs at least one token -> (B, channels, H, W)
    """

    def __init__(self, channels: int, context_dim: int, heads: int = 2):
        super().__init__()
        checked_heads(channels, heads)
        self.heads = heads
        self.norm = group_norm(channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(context_dim, 2 * channels)
        self.proj = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        B, C, H, W = x.shape
        split = lambda tokens: tokens.view(B, tokens.shape[1], self.heads, -1).transpose(1, 2)      # (B, heads, tokens, d)
        q = split(self.q(self.norm(x).flatten(2).transpose(1, 2)))
        k, v = (split(tokens) for tokens in self.kv(context).chunk(2, dim=-1))
        mask = None if context_mask is None else context_mask[:, None, None]                        # (B, 1, 1, L)
        h = attention(q, k, v, mask).transpose(1, 2).reshape(B, H * W, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, for (..., tokens, d); mask: bool, False where a query may not look.

    On a CPU two matrix products: there the fused kernel's backward pass in bf16 is ten times slower (torch 2.15).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(-1) @ v


class Stage(nn.Module):
    """A ResnetBlock, then self-attention, then cross-attention, where they are wanted."""

    def __init__(self, block: nn.Module, attend: nn.Module | None = None, cross: nn.Module | None = None):
        super().__init__()
        self.block, self.attend, self.cross = block, attend, cross

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        h = self.block(h, emb)
        h = h if self.attend is None else self.attend(h)
        return h if self.cross is None else self.cross(h, context, context_mask)


class UNet(nn.Module):
    """Down, through the middle and up again, with bridges across.   Ronneberger et al. 2015; Ho et al. 2020

    channels:       of the images (1 for digits, 3 for colour)
    widths:         channels per level; every level after the first halves the height and the width
    depth:          ResnetBlocks per level, on each side
    num_classes:    labels 0 ... num_classes - 1, and num_classes for "no label" (y = None means it too); None: no labels at all
    context_dim:    size of the context's tokens; with it, cross-attention follows every self-attention
    extra_channels: of further images that are laid on top of x, such as a mask or a blurred picture
    attend:         one bool per level: self-attention after its blocks? None: in the middle alone, which always has it
    patch:          the first layer folds patch x patch pixels into channels: cheap, and a fourth of the work at 2

    Height and width must be divisible by patch * 2^(levels - 1).
    """

    Block = ResnetBlock

    def __init__(self, channels: int, widths: tuple[int, ...] = (48, 96), depth: int = 1, num_classes: int | None = None,
                 context_dim: int | None = None, extra_channels: int = 0, attend: tuple[bool, ...] | None = None,
                 patch: int = 2, heads: int = 2, emb_dim: int = 128, dropout: float = 0.0):
        super().__init__()
        attend = (False,) * len(widths) if attend is None else tuple(attend)
        if len(attend) != len(widths):
            raise ValueError(f"attend needs one True or False per level, {len(widths)} of them; got {len(attend)}")
        self.config = dict(channels=channels, widths=list(widths), depth=depth, num_classes=num_classes, context_dim=context_dim,
                           extra_channels=extra_channels, attend=list(attend), patch=patch, heads=heads, emb_dim=emb_dim, dropout=dropout)
        self.channels, self.extra_channels, self.num_classes, self.context_dim, self.patch = channels, extra_channels, num_classes, context_dim, patch
        self.multiple = patch * 2 ** (len(widths) - 1)
        self.null = {} if num_classes is None else {"y": num_classes}      # the conditions that say nothing

        def stage(a: int, b: int, attends: bool) -> Stage:
            cross = CrossAttentionBlock(b, context_dim, heads) if attends and context_dim else None
            return Stage(self.Block(a, b, emb_dim, dropout), AttentionBlock(b, heads) if attends else None, cross)

        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, emb_dim)
        self.null_token = nn.Parameter(0.02 * torch.randn(1, 1, context_dim)) if context_dim else None  # there is always one token to look at
        self.stem = nn.Conv2d((channels + extra_channels) * patch**2, widths[0], 3, padding=1)

        self.down, self.up, bridges, c = nn.ModuleList(), nn.ModuleList(), [], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(c, width, 3, stride=2, padding=1))
                c = width
            for _ in range(depth):
                self.down.append(stage(c, width, attend[level]))
                bridges.append(width)
                c = width
        self.middle = nn.ModuleList([stage(c, c, True), stage(c, c, False)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(depth):
                self.up.append(stage(c + bridges.pop(), width, attend[level]))
                c = width
            if level:
                self.up.append(Upsample(c, widths[level - 1]))
                c = widths[level - 1]
        self.norm = group_norm(c)
        self.out = zero(nn.Conv2d(c, channels * patch**2, 3, padding=1))
        self.memory_format = torch.channels_last                        # on a CPU convolutions are faster than in torch's default order
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None, context: Tensor | None = None,
                context_mask: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """x: (B, channels, H, W), t: (B,) real numbers, y: (B,) integers, one integer, or None -> like x

        context: (B, L, context_dim) or None for none, context_mask: (B, L) bool; extra: (B, extra_channels, H, W)
        """
        self._check(x, t, y, context, context_mask, extra)
        emb = F.silu(self._embed(x, t, y, context, context_mask))      # (B, emb_dim)
        if self.context_dim:
            context, context_mask = self._with_null(context, context_mask, len(x))
        x = x if extra is None else torch.cat([x, extra], dim=1)
        h, bridges = self.stem(F.pixel_unshuffle(x, self.patch).contiguous(memory_format=self.memory_format)), []
        for layer in self.down:
            if isinstance(layer, Stage):
                h = layer(h, emb, context, context_mask)
                bridges.append(h)
            else:
                h = layer(h)
        for layer in self.middle:
            h = layer(h, emb, context, context_mask)
        for layer in self.up:
            h = layer(self.join(h, bridges.pop()), emb, context, context_mask) if isinstance(layer, Stage) else layer(h)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch)

    @staticmethod
    def join(h: Tensor, bridge: Tensor) -> Tensor:
        """A bridge: what the way down knew is laid beside what comes up."""
        return torch.cat([h, bridge], dim=1)

    def _embed(self, x: Tensor, t: Tensor, y: Tensor | int | None, context: Tensor | None, mask: Tensor | None) -> Tensor:
        """What every block is told: the time and the label (a network that reads adds its caption)."""
        emb = self.time(t)
        if self.label is None:
            return emb
        y = self.num_classes if y is None else y
        return emb + self.label(y.expand(len(x)) if isinstance(y, Tensor) else torch.full((len(x),), y, device=x.device))

    def _with_null(self, context: Tensor | None, mask: Tensor | None, B: int) -> tuple[Tensor, Tensor | None]:
        """The null token in front of the context: what a pixel looks at when nothing else is there."""
        null = self.null_token.expand(B, -1, -1)
        if context is None:
            return null, None
        return torch.cat([null.to(context.dtype), context], dim=1), None if mask is None else F.pad(mask, (1, 0), value=True)

    def _check(self, x: Tensor, t: Tensor, y, context: Tensor | None, mask: Tensor | None, extra: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"this network takes images (B, {self.channels}, H, W); got {tuple(x.shape)}")
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(f"height and width must be multiples of {self.multiple} to be halved this often; got {x.shape[2]} x {x.shape[3]}: pad the images")
        if self.extra_channels != (0 if extra is None else extra.shape[1]) or extra is not None and extra.shape[::2] != x.shape[::2]:
            raise ValueError(f"this network takes {self.extra_channels} extra channels of x's size; got {None if extra is None else tuple(extra.shape)}")
        checked_conditions(self, x, t, y)
        if context is not None and (self.context_dim is None or context.ndim != 3 or context.shape[0] != len(x) or context.shape[2] != self.context_dim):
            raise ValueError(f"this network takes {f'a context ({len(x)}, L, {self.context_dim})' if self.context_dim else 'no context: pass context_dim to UNet'}; got {tuple(context.shape)}")
        if mask is not None and (context is None or mask.dtype != torch.bool or mask.shape != context.shape[:2]):
            raise ValueError(f"context_mask must be bool (B, L) like the context; got {mask.dtype} {tuple(mask.shape)}")


def checked_conditions(net: nn.Module, x: Tensor, t: Tensor, y: Tensor | int | None) -> None:
    """One clear sentence for a time or a label that cannot be right."""
    if t.shape != x.shape[:1] or not t.is_floating_point():
        raise ValueError(f"t must be one real number per image, shape ({len(x)},); got {t.dtype} {tuple(t.shape)}")
    if y is not None and net.num_classes is None:
        raise ValueError(f"this network was built without labels: pass num_classes to {type(net).__name__}, or no y")
    if y is None or torch.compiler.is_compiling() or isinstance(y, Tensor) and y.is_cuda:   # looking at a GPU's labels would make it wait
        return
    y = torch.as_tensor(y)
    if y.is_floating_point() or y.numel() and (y.min() < 0 or y.max() > net.num_classes):
        raise ValueError(f"labels are integers from 0 to {net.num_classes - 1}, and {net.num_classes} for none; got {y.min()} to {y.max()}")


def checked_heads(channels: int, heads: int) -> None:
    if heads < 1 or channels % heads:
        raise ValueError(f"attention splits its channels among its heads: {channels} channels cannot be split among {heads}")


class Upsample(nn.Module):
    """Doubles height and width: each pixel becomes four, then a convolution.   (B, C, H, W) -> (B, out, 2H, 2W)"""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def group_norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels where they fit: with fewer, the CPU's bf16 kernel for channels-last images is many times slower."""
    size = math.gcd(channels, 16)
    return nn.GroupNorm(channels // size if size >= 4 else 1, channels)


def zero(layer: nn.Module) -> nn.Module:
    """Starts a layer at zero, so that its block begins as the identity and learns what to add."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
