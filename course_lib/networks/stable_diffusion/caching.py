"""Caching of a U-Net's deep features between sampling steps. (Ma et al. 2024, DeepCache)

The features of low resolution change little from one step to the next. So they are computed at some
steps and kept for the others, which compute the outermost layers alone.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from .unet import StableDiffusionUNet, _validate_step


class CachedUNet(nn.Module):
    """A StableDiffusionUNet that computes its deep part at every interval-th step: it stands in its
    place, as (x, step, context) -> like x.

    unet:     the network; it is shared, not copied
    interval: 1: everything at each step; 3: at the first, the fourth, the seventh step, ...
    fresh:    how many of the encoder's feature maps, from the stem's on, and as many of the
              decoder's last blocks are computed at each step; at most all feature maps but one

    What is kept is the input of the first of these decoder blocks, without its skip connection. A
    step above the last one begins a new trajectory, with everything; so does `reset`. A batch may
    become smaller on the way, as where guidance ends: it is the first examples of the larger one.
    With an interval of 1 it is the U-Net, called as one likes.
    Raises TypeError or ValueError for another network, and numbers out of range.
    """

    def __init__(self, unet: StableDiffusionUNet, interval: int = 2, fresh: int = 1):
        super().__init__()
        validate.instance(unet, StableDiffusionUNet, "unet", "D.net.unet")
        self.unet = unet
        self.interval = validate.whole(interval, "interval")
        self.fresh = validate.whole(fresh, "fresh", 1, len(unet.skips) - 1)
        self.reset()

    def reset(self) -> None:
        """The next step computes everything."""
        self.deep: Tensor | None = None
        self.last_step = 0.0
        self.steps_done = 0

    def forward(
        self, x: Tensor, step: Tensor, context: Tensor, control: list[Tensor] | None = None
    ) -> Tensor:
        """x: (B, C, H, W), step: (B,), the same for all, context: (B, L, context_dim)

        Raises ValueError for two calls at one step, for examples at different steps, and with a
        control; TypeError or ValueError as the U-Net does.
        """
        if control is not None:
            raise ValueError("a ControlNet changes the features that are kept: use the U-Net alone")
        if self._is_due(x, _validate_step(step, x)):
            return self._everything(x, step, context)
        return self._outermost(x, step, context)

    def _is_due(self, x: Tensor, step: Tensor) -> bool:
        """Whether this step computes everything."""
        now = step[0].item()
        if (step != now).any():
            raise ValueError("features are kept from step to step: all examples need the same step")
        if self.interval > 1 and self.deep is not None and now == self.last_step:
            raise ValueError(
                f"step {now:g} was computed already, and its features are another caption's: guide "
                "in one pass (inference.batched_cfg), or call reset() before a new trajectory"
            )
        begins = self.deep is None or now > self.last_step or len(x) > len(self.deep)
        self.steps_done = 0 if begins else self.steps_done + 1
        self.last_step = now
        return self.steps_done % self.interval == 0

    def _everything(self, x: Tensor, step: Tensor, context: Tensor) -> Tensor:
        """The U-Net itself; what arrives at the first of the last blocks is kept."""
        level, k = decoder_blocks(self.unet)[-self.fresh]
        skip_channels = self.unet.skips[self.fresh - 1][0]

        def keep(block: nn.Module, inputs: tuple) -> None:
            self.deep = inputs[0][:, :-skip_channels]
        handle = level.blocks[k].register_forward_pre_hook(keep)
        try:
            return self.unet(x, step, context)
        finally:
            handle.remove()

    def _outermost(self, x: Tensor, step: Tensor, context: Tensor) -> Tensor:
        """The encoder's first feature maps, and the decoder's last blocks on the kept features."""
        unet = self.unet
        emb = unet.time(_validate_step(step, x))                        # (B, 4 widths[0])
        h = unet.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level, k in encoder_layers(unet)[:self.fresh - 1]:
            h = level.resample(h) if k is None else level.step(k, h, emb, context)
            skips.append(h)
        h = self.deep[:len(x)]
        for level, k in decoder_blocks(unet)[-self.fresh:]:
            h = level.step(k, torch.cat([h, skips.pop()], dim=1), emb, context)
            if k == len(level.blocks) - 1 and level.resample is not None:
                h = level.resample(h)
        return unet.out(F.silu(unet.norm(h)))


def encoder_layers(unet: StableDiffusionUNet) -> list[tuple[nn.Module, int | None]]:
    """(level, block) in the order of the encoder, one for each feature map behind the stem's; None:
    the level's way down.
    """
    layers = []
    for level in unet.down:
        layers += [(level, k) for k in range(len(level.blocks))]
        if level.resample is not None:
            layers.append((level, None))
    return layers


def decoder_blocks(unet: StableDiffusionUNet) -> list[tuple[nn.Module, int]]:
    """(level, block) in the order of the decoder: as many as feature maps of the encoder."""
    return [(level, k) for level in unet.up for k in range(len(level.blocks))]
