"""Layers that several networks share: embeddings, convolution blocks, attention.

They know no schedule.
"""
import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import validate


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
    norm): a scale and a shift per channel, linear in the embedding. kernel_size: odd, of both
    convolutions, one number or (height, width). (Dhariwal & Nichol 2021, section 3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        dropout: float = 0.0,
        kernel_size: int | tuple[int, int] = 3,
    ):
        super().__init__()
        validate.number(dropout, "dropout", 0, 0.999)
        self.norm1 = group_norm(in_channels)
        self.conv1 = same_conv(in_channels, out_channels, kernel_size)
        self.emb = nn.Linear(emb_dim, 2 * out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(same_conv(out_channels, out_channels, kernel_size))
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
    """Nearest-neighbour upsampling by `factor`, then a convolution, 3x3 unless said otherwise.

    (B, C, H, W) -> (B, out, 2H, 2W)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        factor: tuple[int, int] = (2, 2),
    ):
        super().__init__()
        self.conv = same_conv(in_channels, out_channels, kernel_size)
        self.factor = tuple(float(side) for side in factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.factor, mode="nearest"))


def same_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
) -> nn.Conv2d:
    """A convolution whose padding keeps height and width, but for its stride."""
    sides = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    padding = tuple(side // 2 for side in sides)
    return nn.Conv2d(in_channels, out_channels, sides, stride=stride, padding=padding)


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 16 channels a group where they fit, else one group.

    With fewer channels a group, the CPU's bf16 kernel for channels-last images is many times
    slower.
    """
    size = math.gcd(validate.whole(channels, "channels"), 16)
    return nn.GroupNorm(channels // size if size >= 4 else 1, channels)


def zero_init(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to 0, so that its residual block begins as the
    identity.
    """
    validate.instance(layer, nn.Module, "layer", "nn.Linear(2, 2)")
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def hidden_matrices(net: nn.Module, outer: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The weights of all linear and convolution layers of `net` but the `outer` ones: Muon's part.

    Raises ValueError where an outer one is no layer of the network.
    """
    outer = outer.modules() if isinstance(outer, nn.Module) else outer
    skipped = {id(layer) for layer in outer}
    if skipped - {id(layer) for layer in net.modules()}:
        raise ValueError("outer must be layers of the network, such as (net.stem, net.out)")
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    return [layer.weight for layer in layers if id(layer) not in skipped]


def _require(what: str, x: Tensor, *shape: int | str) -> None:
    """Raises TypeError or ValueError unless x is floating point and of this shape; a name in it
    stands for any size but 0. (Called by every block: it has to be fast.)
    """
    real = isinstance(x, Tensor) and x.is_floating_point()
    if real and x.ndim == len(shape):
        if all([n if isinstance(m, str) else n == m for n, m in zip(x.shape, shape)]):
            return
    got = tuple(x.shape) if real else x.dtype if isinstance(x, Tensor) else type(x).__name__
    more = "" if real and x.numel() else ", a floating-point tensor, not empty"
    wanted = str(shape).replace("'", "")
    raise (ValueError if real else TypeError)(f"{what} {wanted}{more}; got {got}")


def _validate_pictures(name: str, x: Tensor, *shape: int | str) -> None:
    """Raises TypeError or ValueError for images that are not (B, *shape), or in [0, 255]."""
    _require(f"{name} must be images", x, "B", *shape)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (end.item() for end in x.detach().aminmax())
    if math.isnan(low):
        raise ValueError(f"{name} has values that are not finite (nan)")
    if low >= 0 and high > 2:  # samples and noisy images exceed [-1, 1] on both sides
        raise ValueError(
            f"{name} must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]: {validate.SCALE}"
        )


def _validate_dtype(x: Tensor, dtype: torch.dtype, owner: str) -> None:
    """Raises TypeError where nothing will cast x to the dtype of its partner."""
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x is {x.dtype}, and {owner} {dtype}: pass x.to({dtype})")


def _validate_sizes(low: int = 1, **sizes: int) -> None:
    """Raises TypeError or ValueError for a size that is no whole number from low on."""
    for name, size in sizes.items():
        validate.whole(size, name, low)


def _validate_even(emb_dim: int) -> None:
    if validate.whole(emb_dim, "emb_dim") % 2:
        raise ValueError(f"emb_dim must be even; got {emb_dim}")


def _validate_conditions(
    net: nn.Module, x: Tensor, t: Tensor, y: Tensor | int | None
) -> Tensor | None:
    """The labels (B,) int64 where x is, None for a network without.

    Raises TypeError or ValueError for a dtype, a time or a label that cannot be right.
    """
    if x.dtype != torch.float32:                                        # which most are
        _validate_dtype(x, next(net.parameters()).dtype, "the network")
    if not isinstance(t, Tensor) or t.shape != x.shape[:1] or not t.is_floating_point():
        got = f"{t.dtype} {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise ValueError(f"t must be one real number per image, shape ({len(x)},); got {got}")
    none = net.num_classes
    if none is None:
        if y is None:
            return None
        raise ValueError(
            "this network was built without labels: "
            f"pass num_classes to {type(net).__name__}, or no y"
        )
    if y is None or isinstance(y, int) and 0 <= y <= none:
        return torch.full((len(x),), none if y is None else y, device=x.device)
    y = validate.tensor(y, "labels")
    y = validate.labels(y, len(x), none if y.ndim > 1 else None)
    # looking at a GPU's labels would make it wait
    if y.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (end.item() for end in y.aminmax())
        if low < 0 or high > none:
            raise ValueError(
                f"labels are integers from 0 to {none - 1}, and {none} for none; "
                f"got {low} to {high}"
            )
    return y.to(x.device, non_blocking=True).expand(len(x))


def _validate_mask(context: Tensor | None, mask: Tensor | None) -> None:
    """Raises ValueError for a mask that is not the context's."""
    right = isinstance(mask, Tensor) and mask.dtype == torch.bool and context is not None
    if mask is not None and not (right and mask.shape == context.shape[:2]):
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(f"context_mask must be bool (B, L) like the context; got {got}")


def _validate_heads(channels: int, num_heads: int) -> None:
    _validate_sizes(channels=channels, num_heads=num_heads)
    if channels % num_heads:
        raise ValueError(
            "attention splits its channels among its heads: "
            f"{channels} channels cannot be split among {num_heads}"
        )
