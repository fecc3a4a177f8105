"""A ControlNet: a second encoder reads a hint, such as an outline, and adds to the U-Net's features
through convolutions that start at zero.

Zhang et al. 2023. Theirs is a copy of the U-Net's encoder, and sees x_t, too; this one is small and
sees the hint alone, as in Mou et al. 2023 (T2I-Adapter): it is computed from the hint once.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ..layers import _require, _validate_sizes, group_norm, same_conv, zero_init
from .unet import StableDiffusionUNet


class ControlNet(nn.Module):
    """A hint (B, channels, f H, f W) -> what is added to each skip connection of the U-Net, and to
    its middle, for latents of H x W.

    unet:     the U-Net; its sizes are read, nothing of it is kept
    channels: of the hint
    factor:   f, pixels of a latent's side
    width:    channels inside
    Raises TypeError or ValueError for another U-Net, and sizes that are no whole numbers from 1 on.
    """

    def __init__(self, unet: StableDiffusionUNet, channels: int, factor: int, width: int = 32):
        super().__init__()
        validate.instance(unet, StableDiffusionUNet, "unet", "D.net.unet")
        _validate_sizes(channels=channels, factor=factor, width=width)
        self.config = {"channels": channels, "factor": factor, "width": width}
        self.channels = channels
        self.factor = factor
        self.stem = same_conv(channels * factor**2, width)
        levels = unet.skips[-1][1] + 1
        self.blocks = nn.ModuleList([HintBlock(width) for _ in range(levels)])
        self.down = nn.ModuleList([same_conv(width, width, stride=2) for _ in range(levels - 1)])
        middle = (unet.config["widths"][-1], levels - 1)
        self.places = [level for _, level in (*unet.skips, middle)]
        self.zeros = nn.ModuleList(
            [zero_init(nn.Conv2d(width, c, 1)) for c, _ in (*unet.skips, middle)]
        )

    def forward(self, hint: Tensor) -> list[Tensor]:
        """Raises TypeError or ValueError for a hint of another shape."""
        _require("a hint must be", hint, "B", self.channels, "H", "W")
        if hint.shape[2] % self.factor or hint.shape[3] % self.factor:
            raise ValueError(
                f"height and width of a hint must be multiples of {self.factor}; got "
                f"{hint.shape[2]} x {hint.shape[3]}"
            )
        h = self.stem(F.pixel_unshuffle(hint, self.factor))
        features = []
        for level, block in enumerate(self.blocks):
            h = block(h if level == 0 else self.down[level - 1](h))
            features.append(h)
        return [zero(features[level]) for zero, level in zip(self.zeros, self.places)]


class HintBlock(nn.Module):
    """Two convolutions with a residual connection: (B, width, H, W) -> the same."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = group_norm(width)
        self.conv1 = same_conv(width, width)
        self.norm2 = group_norm(width)
        self.conv2 = same_conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))
