"""Layers that several networks share: embeddings, convolution blocks, attention.

They know no schedule.
"""
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of a real number t in [0, 1]: (B,) -> (B, dim), sines then cosines.

    Multiplies t by 1000 first: the frequencies were chosen for step indices, and without it
    t = 0.001 and 0.9 look alike. Raises ValueError for an odd dim or one below 4.
    (Vaswani et al. 2017, 3.5)
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"a time embedding needs an even dim of at least 4; got {dim}")
        half = dim // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = 1000 * t.float()[:, None] * self.frequencies           # (B, dim / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)           # (B, dim)


class ResnetBlock(nn.Module):
    """Two convolutions with FiLM conditioning and a residual shortcut.

    x: (B, in_channels, H, W), emb: (B, emb_dim) -> (B, out_channels, H, W). FiLM (adaptive group
    norm): a scale and a shift per channel, linear in the embedding. (Dhariwal & Nichol 2021,
    section 3)
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))                           # (B, out, H, W)
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)  # (B, out, 1, 1) each
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class AttentionBlock(nn.Module):
    """Multi-head self-attention over the pixels, residual: (B, C, H, W) -> (B, C, H, W).

    Raises ValueError where num_heads does not divide channels. (Vaswani et al. 2017)
    """

    def __init__(self, channels: int, num_heads: int = 2):
        super().__init__()
        _validate_heads(channels, num_heads)
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)                # (B, HW, C)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.num_heads, -1)    # (B, HW, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                            # (B, heads, HW, d) each
        h = attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)     # (B, HW, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)


class CrossAttentionBlock(nn.Module):
    """Cross-attention: queries from the pixels, keys and values from a context such as a caption.

    x: (B, channels, H, W), context: (B, L, context_dim), context_mask: (B, L) bool, False where
    there is no token; every example needs at least one token -> (B, channels, H, W)
    Raises ValueError where num_heads does not divide channels. (Rombach et al. 2022, section 3.3)
    """

    def __init__(self, channels: int, context_dim: int, num_heads: int = 2):
        super().__init__()
        _validate_heads(channels, num_heads)
        self.num_heads = num_heads
        self.norm = group_norm(channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(context_dim, 2 * channels)
        self.proj = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        B, C, H, W = x.shape
        q = self._split(self.q(self.norm(x).flatten(2).transpose(1, 2)))       # (B, heads, HW, d)
        k, v = (self._split(part) for part in self.kv(context).chunk(2, dim=-1))  # (B, heads, L, d)
        mask = None if context_mask is None else context_mask[:, None, None]   # (B, 1, 1, L)
        h = attention(q, k, v, mask).transpose(1, 2).reshape(B, H * W, C)      # (B, HW, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)

    def _split(self, tokens: Tensor) -> Tensor:
        """(B, tokens, C) -> (B, heads, tokens, d)"""
        return tokens.view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, softmax(q k^T / sqrt(d)) v.   (..., tokens, d)
    -> (..., tokens, d)

    mask: bool, False where a query must not attend. torch's fused kernel, but for training on a
    CPU: there its backward pass in bf16 is ten times slower than two matrix products (torch 2.15).
    """
    if q.device.type != "cpu" or not (torch.is_grad_enabled() and q.requires_grad):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution.

    (B, C, H, W) -> (B, out, 2H, 2W)
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 16 channels a group where they fit, else one group.

    With fewer channels a group, the CPU's bf16 kernel for channels-last images is many times
    slower.
    """
    size = math.gcd(channels, 16)
    return nn.GroupNorm(channels // size if size >= 4 else 1, channels)


def zero_init(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to 0, so that its residual block begins as the
    identity.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def hidden_matrices(net: nn.Module, outer: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The weights of all linear and convolution layers of `net` but the `outer` ones: Muon's part.
    """
    skipped = {id(layer) for layer in outer}
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return [layer.weight for layer in layers if id(layer) not in skipped]


def _validate_conditions(net: nn.Module, x: Tensor, t: Tensor, y: Tensor | int | None) -> None:
    """Raises ValueError for a time or a label that cannot be right."""
    if t.shape != x.shape[:1] or not t.is_floating_point():
        raise ValueError(
            f"t must be one real number per image, shape ({len(x)},); got {t.dtype} "
            f"{tuple(t.shape)}"
        )
    if y is None:
        return
    if net.num_classes is None:
        raise ValueError(
            "this network was built without labels: "
            f"pass num_classes to {type(net).__name__}, or no y"
        )
    # looking at a GPU's labels would make it wait
    if torch.compiler.is_compiling() or isinstance(y, Tensor) and y.is_cuda:
        return
    _validate_labels(torch.as_tensor(y), len(x), net.num_classes)


def _validate_labels(y: Tensor, B: int, num_classes: int) -> None:
    """Raises ValueError unless y is () or (B,) whole numbers from 0 to num_classes."""
    if y.ndim > 1 or y.ndim == 1 and len(y) not in (1, B):
        hint = ": pass y.argmax(1)" if y.ndim == 2 and y.shape[1] == num_classes else ""
        raise ValueError(
            f"labels are one whole number per image, ({B},); got {tuple(y.shape)}{hint}"
        )
    if y.is_floating_point() or y.numel() and (y.min() < 0 or y.max() > num_classes):
        raise ValueError(
            f"labels are integers from 0 to {num_classes - 1}, and {num_classes} for none; "
            f"got {y.min()} to {y.max()}"
        )


def _validate_heads(channels: int, num_heads: int) -> None:
    if num_heads < 1 or channels % num_heads:
        raise ValueError(
            "attention splits its channels among its heads: "
            f"{channels} channels cannot be split among {num_heads}"
        )
