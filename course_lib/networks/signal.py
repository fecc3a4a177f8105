"""The U-Net of signals: waveforms (B, C, T), as images one pixel high."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import _require, _validate_conditions, _validate_sizes
from .unet import UNet


class SignalUNet(UNet):
    """A U-Net whose convolutions run along time. (Kong et al. 2021, DiffWave; Stoller et al. 2018,
    Wave-U-Net)

    channels:   of the signals, 1 for mono
    patch_size: so many neighbouring samples are folded into channels
    the others: as in UNet; every level after the first is a quarter as long

    The convolutions are circular: the end is followed by the beginning. Beside a border of zeros
    the noise of the last samples is predicted worse than elsewhere, and sounds end in a click. One
    more input says where each sample is, falling from 1 at the beginning to -1 at the end.

    T must be divisible by patch_size * 4^(levels - 1), two times or more.
    Raises TypeError or ValueError as UNet does.
    """

    kernel_size = (1, 5)
    stride = (1, 4)

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (48, 64, 96),
        depth: int = 1,
        num_classes: int | None = None,
        attention_levels: tuple[bool, ...] | None = None,
        patch_size: int = 16,
        num_heads: int = 2,
        emb_dim: int = 128,
        dropout: float = 0.0,
    ):
        _validate_sizes(channels=channels, patch_size=patch_size)
        options = dict(
            widths=widths,
            depth=depth,
            num_classes=num_classes,
            attention_levels=attention_levels,
            num_heads=num_heads,
            emb_dim=emb_dim,
            dropout=dropout,
        )
        super().__init__(channels * patch_size, patch_size=1, extra_channels=1, **options)
        options = {name: self.config[name] for name in options}         # lists, as files hold them
        self.config = {"channels": channels, "patch_size": patch_size} | options
        self.channels = channels
        self.patch_size = patch_size
        self.multiple *= patch_size
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size[1] > 1:
                layer.padding_mode = "circular"

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, channels, T), t: (B,) real, y: (B,) integers, one integer, or None -> like x

        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        _require("this network takes signals", x, "B", self.channels, "T")
        if x.shape[2] % self.multiple or x.shape[2] < 2 * self.multiple:
            raise ValueError(
                f"the length must be a multiple of {self.multiple}, and twice that or more; got "
                f"{x.shape[2]}: pad the signals"
            )
        y = _validate_conditions(self, x, t, y)
        emb = F.silu(self._embed(x, t, y, None, None))                  # (B, emb_dim)
        h = x.unflatten(2, (-1, self.patch_size)).transpose(2, 3)       # (B, C, patch, T / patch)
        h = h.flatten(1, 2)[:, :, None]                                 # (B, C patch, 1, T / patch)
        where = torch.linspace(1, -1, h.shape[3], device=h.device, dtype=h.dtype)
        h = torch.cat([h, where.expand(len(h), 1, 1, -1)], dim=1)
        h = self._levels(h, emb, None, None)                            # (B, C patch, 1, T / patch)
        h = h[:, :, 0].unflatten(1, (self.channels, self.patch_size))
        return h.transpose(2, 3).flatten(2)                             # (B, C, T)
