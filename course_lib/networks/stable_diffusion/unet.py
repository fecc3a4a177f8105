"""Stable Diffusion's U-Net: (x, step, context) -> a tensor like x.

Rombach et al. 2022. Lesson 2's U-Net with other blocks: the time is added, not a scale and a shift;
transformers read the caption; every feature map of the encoder is kept for the decoder. Sizes and
oddities are those of the published files, which `layout.py` maps to these names.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ..layers import (
    Upsample,
    _require,
    _validate_dtype,
    _validate_heads,
    _validate_sizes,
    attention,
    hidden_matrices,
    same_conv,
    zero_init,
)


class StepEmbedding(nn.Module):
    """Sinusoidal embedding of a step 0 ... T - 1: (B,) -> (B, dim), cosines then sines.

    Another order than lesson 2's `TimeEmbedding`, and other frequencies: the last is 10,000^(2/dim
    - 1), not 1/10,000.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, step: Tensor) -> Tensor:
        half = self.dim // 2                                # in float32, whatever the weights are
        k = torch.arange(half, dtype=torch.float32, device=step.device)
        frequencies = torch.exp(-math.log(10_000) * k / half)
        angles = step.float()[:, None] * frequencies                    # (B, dim / 2)
        return torch.cat([angles.cos(), angles.sin()], dim=1).to(step.dtype)


class StepBlock(nn.Module):
    """Two convolutions with a residual shortcut; the time is added between them.

    (B, in_channels, H, W), (B, emb_dim) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels)
        self.conv1 = same_conv(in_channels, out_channels)
        self.emb = nn.Linear(emb_dim, out_channels)
        self.norm2 = nn.GroupNorm(num_groups, out_channels)
        self.conv2 = zero_init(same_conv(out_channels, out_channels))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.emb(F.silu(emb))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Queries from the tokens x (B, N, dim); keys and values from a context (B, L, context_dim).

    upcast: queries and keys in float32 (Stable Diffusion 2.1 at 768 pixels overflows in half)
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, upcast: bool):
        super().__init__()
        _validate_heads(dim, num_heads)
        self.num_heads = num_heads
        self.upcast = upcast
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(context_dim, dim, bias=False)
        self.v = nn.Linear(context_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (self._split(h) for h in (self.q(x), self.k(context), self.v(context)))
        if self.upcast:
            h = attention(q.float(), k.float(), v.float()).to(v.dtype)
        else:
            h = attention(q, k, v)                                      # (B, heads, N, d)
        return self.out(h.transpose(1, 2).flatten(2))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class GEGLU(nn.Module):
    """An MLP with a gate: the first half of the hidden numbers times GELU of the second half.

    (Shazeer 2020)
    """

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, 8 * dim)
        self.out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(h * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """The pixels as tokens: self-attention, cross-attention to the caption, MLP; residual.

    (B, C, H, W), (B, L, context_dim) -> (B, C, H, W)
    linear: the projections before and after are linear layers (2.x), not 1x1 convolutions (1.x)
    """

    def __init__(
        self,
        channels: int,
        context_dim: int,
        num_heads: int,
        num_groups: int,
        linear: bool,
        upcast: bool,
    ):
        super().__init__()
        project = nn.Linear if linear else (lambda c, d: nn.Conv2d(c, d, 1))
        self.linear = linear
        self.norm = nn.GroupNorm(num_groups, channels, eps=1e-6)        # 1e-5 in all blocks
        self.proj_in = project(channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, channels, num_heads, upcast)
        self.norm2 = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels, context_dim, num_heads, upcast)
        self.norm3 = nn.LayerNorm(channels)
        self.mlp = GEGLU(channels)
        self.proj_out = zero_init(project(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self._tokens(self.norm(x), self.proj_in)                    # (B, HW, C)
        tokens = self.norm1(h)
        h = h + self.self_attention(tokens, tokens)
        h = h + self.cross_attention(self.norm2(h), context)
        h = h + self.mlp(self.norm3(h))
        if self.linear:
            return x + self.proj_out(h).transpose(1, 2).view(x.shape)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))

    def _tokens(self, x: Tensor, project: nn.Module) -> Tensor:
        if self.linear:
            return project(x.flatten(2).transpose(1, 2))
        return project(x).flatten(2).transpose(1, 2)


class Level(nn.Module):
    """The blocks of one resolution, with a transformer behind each where `transformers` has them,
    then the way to the next resolution, if any.
    """

    def __init__(self, blocks: list, transformers: list, resample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.transformers = nn.ModuleList(transformers)
        self.resample = resample

    def step(self, k: int, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        """Block k and its transformer."""
        h = self.blocks[k](h, emb)
        return self.transformers[k](h, context) if self.transformers else h


class StableDiffusionUNet(nn.Module):
    """Encoder, middle, decoder: x (B, in_channels, H, W) -> (B, out_channels, H, W).

    in_channels:       4 for a latent; 9 for inpainting: latent, mask, masked latent
    out_channels:      None: as many
    widths, depth:     channels of the levels; blocks per level of the encoder, the decoder has one
                       more
    context_dim:       of the text encoder's tokens
    num_heads:         of each level's attention; one number: the same for all
    attention_levels:  one bool per level; None: all but the last
    linear_projection, upcast_attention: as in Stable Diffusion 2.x; False in 1.x
    num_groups:        of every group norm
    middle:            False: no blocks between encoder and decoder (some distilled models)

    Height and width must be multiples of 2^(levels - 1).
    Raises TypeError or ValueError for sizes that are no whole numbers, or do not divide each other.
    """

    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int | None = None,
        widths: tuple[int, ...] = (320, 640, 1280, 1280),
        depth: int = 2,
        context_dim: int = 768,
        num_heads: int | tuple[int, ...] = 8,
        attention_levels: tuple[bool, ...] | None = None,
        linear_projection: bool = False,
        upcast_attention: bool = False,
        num_groups: int = 32,
        middle: bool = True,
    ):
        super().__init__()
        _validate_sizes(in_channels=in_channels, depth=depth, context_dim=context_dim)
        _validate_sizes(num_groups=num_groups)
        if not isinstance(widths, (tuple, list)):
            raise TypeError(f"widths must be whole numbers, one per level; got {widths!r}")
        widths = [validate.whole(width, "each of widths") for width in widths]
        heads = [num_heads] * len(widths) if isinstance(num_heads, int) else list(num_heads)
        if attention_levels is None:
            attention_levels = [True] * (len(widths) - 1) + [False]
        if not len(widths) == len(heads) == len(attention_levels) > 0:
            raise ValueError("widths, num_heads and attention_levels need one entry per level")
        if any(width % num_groups for width in widths):
            raise ValueError(f"each of widths must be a multiple of {num_groups} groups: {widths}")
        self.config = dict(
            in_channels=in_channels,
            out_channels=in_channels if out_channels is None else out_channels,
            widths=widths,
            depth=depth,
            context_dim=context_dim,
            num_heads=heads,
            attention_levels=list(attention_levels),
            linear_projection=linear_projection,
            upcast_attention=upcast_attention,
            num_groups=num_groups,
            middle=middle,
        )
        self.in_channels = in_channels
        self.multiple = 2 ** (len(widths) - 1)
        emb_dim = 4 * widths[0]
        self.time = nn.Sequential(
            StepEmbedding(widths[0]),
            nn.Linear(widths[0], emb_dim),
            nn.SiLU(),
            nn.Linear(emb_dim, emb_dim),
        )
        self.stem = same_conv(in_channels, widths[0])
        self._build_levels(widths, depth, middle)
        self.norm = nn.GroupNorm(num_groups, widths[0])
        self.out = zero_init(same_conv(widths[0], self.config["out_channels"]))
        self.to(memory_format=torch.channels_last)                      # faster on a CPU

    def _build_levels(self, widths: list[int], depth: int, middle: bool) -> None:
        last, c = len(widths) - 1, widths[0]
        skips = [c]                                         # the stem's features are kept, too
        factors = [0]                                       # how often each was halved
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for k, width in enumerate(widths):
            sizes = [(c if j == 0 else width, width) for j in range(depth)]
            resample = same_conv(width, width, stride=2) if k < last else None
            self.down.append(self._level(k, sizes, resample))
            skips += [width] * (depth + (k < last))
            factors += [k] * depth + [k + 1] * (k < last)
            c = width
        # of each skip connection: its channels, and how often its height and width were halved
        self.skips = list(zip(skips, factors))
        # always with a transformer, also where the last level has none
        self.middle = self._level(last, [(c, c)] * 2, None, 1) if middle else None
        for k, width in reversed(list(enumerate(widths))):
            sizes = [((c if j == 0 else width) + skips.pop(), width) for j in range(depth + 1)]
            self.up.append(self._level(k, sizes, Upsample(width, width) if k else None))
            c = width

    def _level(
        self, k: int, sizes: list, resample: nn.Module | None, transformers: int | None = None
    ) -> Level:
        """transformers: how many; None: one for each block where level k attends."""
        config = self.config
        if transformers is None:
            transformers = len(sizes) if config["attention_levels"][k] else 0
        emb_dim, groups = 4 * config["widths"][0], config["num_groups"]
        made = [
            SpatialTransformer(
                sizes[0][1],
                config["context_dim"],
                config["num_heads"][k],
                groups,
                config["linear_projection"],
                config["upcast_attention"],
            )
            for _ in range(transformers)
        ]
        return Level([StepBlock(c, d, emb_dim, groups) for c, d in sizes], made, resample)

    def forward(
        self, x: Tensor, step: Tensor, context: Tensor, control: list[Tensor] | None = None
    ) -> Tensor:
        """x: (B, in_channels, H, W), step: (B,), 0 ... T - 1, context: (B, L, context_dim)

        control: what is added to each skip connection, then to the middle, as a ControlNet makes it
        Raises TypeError or ValueError for inputs of another shape.
        """
        _require("this network takes latents", x, "B", self.in_channels, "H", "W")
        _require("this network takes a context", context, len(x), "L", self.config["context_dim"])
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(
                f"height and width of a latent must be multiples of {self.multiple}; "
                f"got {x.shape[2]} x {x.shape[3]}"
            )
        _validate_dtype(x, self.stem.weight.dtype, "the network")
        emb = self.time(_validate_step(step, x))                        # (B, 4 widths[0])
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level in self.down:
            for k in range(len(level.blocks)):
                h = level.step(k, h, emb, context)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)
                skips.append(h)
        if self.middle is not None:
            h = self.middle.step(0, h, emb, context)
            h = self.middle.blocks[1](h, emb)
        if control is not None:
            _validate_control(control, [*skips, h])
            skips = [skip + more for skip, more in zip(skips, control[:-1], strict=True)]
            h = h + control[-1]
        for level in self.up:
            for k in range(len(level.blocks)):
                h = level.step(k, torch.cat([h, skips.pop()], dim=1), emb, context)
            h = h if level.resample is None else level.resample(h)
        return self.out(F.silu(self.norm(h)))

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: those of all layers but the first and the last."""
        return hidden_matrices(self, (self.stem, self.out))


def _validate_step(step: Tensor, x: Tensor) -> Tensor:
    """step as real numbers (B,)."""
    if not isinstance(step, Tensor) or step.shape != x.shape[:1]:
        got = validate.show(step)
        raise ValueError(f"step must be one number per latent, ({len(x)},); got {got}")
    return step if step.is_floating_point() else step.to(x.dtype)


def _validate_control(control: list[Tensor], features: list[Tensor]) -> None:
    """Raises ValueError unless each has its partner's shape; a batch of one stands for all."""
    fits = len(control) == len(features) and all(
        c.shape[1:] == h.shape[1:] and len(c) in (1, len(h)) for c, h in zip(control, features)
    )
    if not fits:
        raise ValueError(
            f"control must be {len(features)} tensors like the skip connections and the middle, "
            "as a ControlNet of this U-Net makes them from a hint for latents of this size"
        )
