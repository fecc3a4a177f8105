"""The U-Net: (x, t, y, context) -> a tensor like x. It knows no schedule. Lesson 2 builds it."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import validate
from .layers import (
    AttentionBlock,
    CrossAttentionBlock,
    ResnetBlock,
    TimeEmbedding,
    Upsample,
    _require,
    _validate_conditions,
    _validate_even,
    _validate_mask,
    _validate_sizes,
    group_norm,
    hidden_matrices,
    same_conv,
    zero_init,
)


class UNetStage(nn.Module):
    """A ResnetBlock, then self-attention and cross-attention where they are given."""

    def __init__(
        self,
        block: nn.Module,
        attention: nn.Module | None = None,
        cross_attention: nn.Module | None = None,
    ):
        super().__init__()
        self.block = block
        self.attention = attention
        self.cross_attention = cross_attention

    def forward(
        self, h: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None
    ) -> Tensor:
        h = self.block(h, emb)
        if self.attention is not None:
            h = self.attention(h)
        if self.cross_attention is not None:
            h = self.cross_attention(h, context, context_mask)
        return h


class UNet(nn.Module):
    """Encoder, bottleneck, decoder, with skip connections.

    Ronneberger et al. 2015; Ho et al. 2020

    channels:         of the images (1 for digits, 3 for colour)
    widths:           channels per level; every level after the first halves height and width
    depth:            ResnetBlocks per level, in the encoder and in the decoder
    num_classes:      labels 0 ... num_classes - 1, and num_classes for "no label"
                      (y = None means it too); None: no labels at all
    context_dim:      size of the context's tokens; with it, cross-attention follows each
                      self-attention
    extra_channels:   of images that are concatenated to x, such as a mask or a blurred picture
    attention_levels: one bool per level: self-attention after its blocks? None: in the bottleneck
                      alone, which always has it
    patch_size:       the first layer folds patch_size x patch_size pixels into channels; 2 takes
                      about a quarter of the work

    Height and width must be divisible by patch_size * 2^(levels - 1).
    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on (extra_channels:
    from 0), an odd emb_dim, and where attention_levels has not one entry per level.
    """

    Block = ResnetBlock
    kernel_size = 3                             # of the convolutions, one number or (height, width)
    stride = (2, 2)                             # between levels, (height, width)

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...] = (48, 96),
        depth: int = 1,
        num_classes: int | None = None,
        context_dim: int | None = None,
        extra_channels: int = 0,
        attention_levels: tuple[bool, ...] | None = None,
        patch_size: int = 2,
        num_heads: int = 2,
        emb_dim: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        widths, levels = _validate_levels(widths, attention_levels)
        _validate_sizes(channels=channels, depth=depth, patch_size=patch_size)
        _validate_even(emb_dim)
        _validate_sizes(0, extra_channels=extra_channels)
        classes = 1 if num_classes is None else num_classes
        context = 1 if context_dim is None else context_dim
        _validate_sizes(num_classes=classes, context_dim=context)
        self.config = dict(
            channels=channels,
            widths=widths,
            depth=depth,
            num_classes=num_classes,
            context_dim=context_dim,
            extra_channels=extra_channels,
            attention_levels=levels,
            patch_size=patch_size,
            num_heads=num_heads,
            emb_dim=emb_dim,
            dropout=dropout,
        )
        self.channels = channels
        self.extra_channels = extra_channels
        self.num_classes = num_classes
        self.context_dim = context_dim
        self.patch_size = patch_size
        self.multiple = patch_size * self.stride[1] ** (len(widths) - 1)
        # the conditions that mean "none"
        self.null = {} if num_classes is None else {"y": num_classes}

        self.time = nn.Sequential(
            TimeEmbedding(64), nn.Linear(64, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim)
        )
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, emb_dim)
        # the null token: attention needs at least one key
        null_token = 0.02 * torch.randn(1, 1, context_dim) if context_dim else None
        self.null_token = None if null_token is None else nn.Parameter(null_token)
        folded = (channels + extra_channels) * patch_size**2
        self.stem = same_conv(folded, widths[0], self.kernel_size)
        self._build_levels(widths, depth, levels)
        self.norm = group_norm(widths[0])
        out = same_conv(widths[0], channels * patch_size**2, self.kernel_size)
        self.out = zero_init(out)
        # on a CPU convolutions are faster than in torch's default order
        self.memory_format = torch.channels_last
        self.to(memory_format=self.memory_format)

    def _build_levels(self, widths: list[int], depth: int, levels: list[bool]) -> None:
        """Encoder `down`, bottleneck `middle` and decoder `up`."""
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        skips: list[int] = []                                           # their channels
        c = widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(same_conv(c, width, self.kernel_size, self.stride))
                c = width
            for _ in range(depth):
                self.down.append(self._stage(c, width, levels[level]))
                skips.append(width)
                c = width
        self.middle = nn.ModuleList([self._stage(c, c, True), self._stage(c, c, False)])
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(depth):
                self.up.append(self._stage(c + skips.pop(), width, levels[level]))
                c = width
            if level:
                self.up.append(Upsample(c, widths[level - 1], self.kernel_size, self.stride))
                c = widths[level - 1]

    def _stage(self, in_channels: int, out_channels: int, attends: bool) -> UNetStage:
        config = self.config
        num_heads = config["num_heads"]
        # created in this order: seeded initial weights depend on it
        cross = None
        if attends and self.context_dim:
            cross = CrossAttentionBlock(out_channels, self.context_dim, num_heads)
        sizes = in_channels, out_channels, config["emb_dim"]
        block = self.Block(*sizes, config["dropout"], self.kernel_size)
        return UNetStage(block, AttentionBlock(out_channels, num_heads) if attends else None, cross)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """x: (B, channels, H, W), t: (B,) real, y: (B,) integers, one integer, or None -> like x

        context: (B, L, context_dim) or None for none, context_mask: (B, L) bool;
        extra: (B, extra_channels, H, W).
        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        y = self._validate(x, t, y, context, context_mask, extra)
        emb = F.silu(self._embed(x, t, y, context, context_mask))       # (B, emb_dim)
        if self.context_dim:
            context, context_mask = self._with_null(context, context_mask, len(x))
        x = x if extra is None else torch.cat([x, validate.tensor(extra).to(x)], dim=1)
        h = F.pixel_unshuffle(x, self.patch_size)
        h = self._levels(h, emb, context, context_mask)
        return F.pixel_shuffle(h, self.patch_size)

    def _levels(
        self, h: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None
    ) -> Tensor:
        """From the folded image to the folded output: stem, encoder, bottleneck, decoder."""
        h = self.stem(h.contiguous(memory_format=self.memory_format))
        skips = []
        for layer in self.down:
            if isinstance(layer, UNetStage):
                h = layer(h, emb, context, context_mask)
                skips.append(h)
            else:
                h = layer(h)
        for layer in self.middle:
            h = layer(h, emb, context, context_mask)
        for layer in self.up:
            if isinstance(layer, UNetStage):
                h = layer(self.concat_skip(h, skips.pop()), emb, context, context_mask)
            else:
                h = layer(h)
        return self.out(F.silu(self.norm(h)))

    @staticmethod
    def concat_skip(h: Tensor, skip: Tensor) -> Tensor:
        """A skip connection: the encoder's features, concatenated to the decoder's along the
        channels.
        """
        return torch.cat([h, skip], dim=1)

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: those of all layers but the first and the last."""
        return hidden_matrices(self, (self.stem, self.out))

    def _embed(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        context: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """The embedding that conditions every block: (B, emb_dim), of the time and the label."""
        emb = self.time(t)
        return emb if self.label is None else emb + self.label(y)

    def _with_null(
        self, context: Tensor | None, mask: Tensor | None, B: int
    ) -> tuple[Tensor, Tensor | None]:
        """The context with the null token in front, and its mask."""
        null = self.null_token.expand(B, -1, -1)
        if context is None:
            return null, None
        context = torch.cat([null.to(context.dtype), context], dim=1)
        return context, None if mask is None else F.pad(mask, (1, 0), value=True)

    def _validate(self, x, t, y, context, mask, extra) -> Tensor | None:
        """The labels, checked like everything else."""
        _require("this network takes images", x, "B", self.channels, "H", "W")
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(
                f"height and width must be multiples of {self.multiple} to be halved this often; "
                f"got {x.shape[2]} x {x.shape[3]}: pad the images"
            )
        self._validate_extra(x, extra)
        if context is not None:
            if self.context_dim is None:
                raise ValueError("this network takes no context: pass context_dim to UNet")
            _require("this network takes a context", context, len(x), "L", self.context_dim)
        _validate_mask(context, mask)
        return _validate_conditions(self, x, t, y)

    def _validate_extra(self, x: Tensor, extra: Tensor | None) -> None:
        wanted = (len(x), self.extra_channels, *x.shape[2:])
        extra = None if extra is None else validate.real(extra, "extra")
        shape = None if extra is None else tuple(extra.shape)
        if shape != (wanted if self.extra_channels else None):
            raise ValueError(
                f"this network takes {self.extra_channels} extra channels of x's size; "
                f"got {shape}"
            )


def _validate_levels(
    widths: tuple[int, ...], levels: tuple[bool, ...] | None
) -> tuple[list[int], list[bool]]:
    """Both as lists. Raises TypeError or ValueError unless they are whole numbers and bools, one
    per level.
    """
    if not isinstance(widths, (tuple, list)) or not widths:
        raise TypeError(f"widths must be whole numbers, one per level, at least one; got {widths}")
    widths = [validate.whole(width, "each of widths") for width in widths]
    levels = [False] * len(widths) if levels is None else levels
    if not isinstance(levels, (tuple, list)) or len(levels) != len(widths):
        raise ValueError(
            f"attention_levels needs one True or False per level, {len(widths)} of them; "
            f"got {len(levels) if isinstance(levels, (tuple, list)) else repr(levels)}"
        )
    if not all(isinstance(level, bool) for level in levels):
        raise TypeError(f"attention_levels are True or False, one per level; got {levels}")
    return widths, list(levels)
