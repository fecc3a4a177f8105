"""The U-Net for clips: an image network whose stages also attend over the frames."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import AttentionBlock, TimeEmbedding, _require, attention
from .unet import UNet, UNetStage


class FrameAttention(AttentionBlock):
    """Multi-head self-attention over the frames at each place, residual.

    x: (B * frames, C, H, W), the frames of a clip one after the other -> the same. Frames are
    numbered by sines and cosines, and each is normalised alone: in a norm over all of them, early
    frames would depend on late ones. causal: a frame attends to itself and to those before it.
    Raises ValueError where num_heads does not divide channels, and for odd channels or fewer than
    4. (Ho et al. 2022, Video diffusion models, section 3)
    """

    def __init__(self, channels: int, num_heads: int = 2, causal: bool = False):
        super().__init__(channels, num_heads)
        self.causal = causal
        self.position = TimeEmbedding(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if len(x) % frames:
            raise ValueError(f"x must be whole clips of {frames} frames each; got {len(x)} frames")
        number = torch.arange(frames, device=x.device)
        tokens = self.norm(x).flatten(2).transpose(1, 2)                # (B * frames, HW, C)
        tokens = tokens.unflatten(0, (-1, frames))                      # (B, frames, HW, C)
        tokens = tokens + self.position(number / 1000)[:, None].to(x.dtype)
        qkv = self.qkv(tokens).unflatten(3, (3, self.num_heads, -1))    # (..., HW, 3, heads, d)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5)                     # (B, HW, heads, frames, d) each
        past = number[:, None] >= number if self.causal else None       # (frames, frames)
        h = attention(q, k, v, past).permute(0, 3, 1, 2, 4).flatten(3)  # (B, frames, HW, C)
        return x + self.proj(h).flatten(0, 1).transpose(1, 2).view(x.shape)


class VideoStage(UNetStage):
    """A UNetStage within each frame, then attention over the frames. emb: (B, frames, emb_dim)"""

    def __init__(self, block: nn.Module, attention: nn.Module | None, frames: FrameAttention):
        super().__init__(block, attention)
        self.frames = frames

    def forward(
        self, h: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None
    ) -> Tensor:
        h = super().forward(h, emb.flatten(0, 1), context, context_mask)
        return self.frames(h, emb.shape[1])


class VideoUNet(UNet):
    """A U-Net for clips: convolutions within each frame, and attention over the frames at each
    place after every stage.

    causal:  a frame attends to itself and to those before it. Diffusion forcing works with both.
             False: frames that are drawn together agree with each other, and any frame may be the
             known one; of a frame of pure noise nothing can be learnt, and its time says so (Chen
             et al. 2024, Diffusion forcing, section 3.1). True: no frame depends on a later one
             (section 3.2), so that what was computed for the past stays valid
    options: as in UNet, but for context_dim and extra_channels

    It begins as an image network, a UNet of the same weights that sees each frame alone.
    Raises TypeError or ValueError as UNet does, and for a causal that is not a bool.
    """

    time_axes = 2                               # of t: a Denoiser draws one for each frame

    def __init__(self, channels: int, causal: bool = False, **options):
        unused = sorted(options.keys() & {"context_dim", "extra_channels"})
        if unused:
            raise TypeError(f"a VideoUNet has no {unused[0]}: leave it out")
        if not isinstance(causal, bool):
            raise TypeError(f"causal must be True or False; got {causal!r}")
        self.causal = causal                    # first: super().__init__ makes the stages
        super().__init__(channels, **options)
        del self.config["context_dim"], self.config["extra_channels"]
        self.config["causal"] = causal

    def _stage(self, in_channels: int, out_channels: int, attends: bool) -> VideoStage:
        stage = super()._stage(in_channels, out_channels, attends)
        frames = FrameAttention(out_channels, self.config["num_heads"], self.causal)
        return VideoStage(stage.block, stage.attention, frames)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, frames, channels, H, W), any number of frames -> like x

        t: one real number for each clip, (B,), or for each frame, (B, frames); y: (B,) integers,
        one integer, or None.
        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        _require("this network takes clips", x, "B", "frames", self.channels, "H", "W")
        t = _per_frame(t, x)                                            # (B, frames)
        y = self._validate(x[:, 0], t[:, 0], y, None, None, None)       # (B,)
        y = None if y is None else y.repeat_interleave(x.shape[1])      # (B * frames,)
        images = x.flatten(0, 1)                                        # (B * frames, C, H, W)
        emb = F.silu(self._embed(images, t.flatten(), y, None, None)).unflatten(0, t.shape)
        h = F.pixel_unshuffle(images, self.patch_size)
        return F.pixel_shuffle(self._levels(h, emb, None, None), self.patch_size).view(x.shape)


def _per_frame(t: Tensor, x: Tensor) -> Tensor:
    """t as (B, frames). Raises ValueError for another shape."""
    if not isinstance(t, Tensor) or t.shape not in (x.shape[:1], x.shape[:2]):
        got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
        raise ValueError(
            f"t must be one real number per clip, ({len(x)},), or per frame, "
            f"{tuple(x.shape[:2])}; got {got}"
        )
    return t if t.ndim == 2 else t[:, None].expand(x.shape[:2])
