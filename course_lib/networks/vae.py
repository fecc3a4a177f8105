"""The autoencoder of latent diffusion, in Stable Diffusion's layout.

Rombach et al. 2022, Latent diffusion; Kingma & Welling 2014, Variational autoencoders. Lesson 6
builds and trains a small one, lesson 7 loads the published weights into the same modules.
"""
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import validate
from .layers import (
    AttentionBlock,
    Upsample,
    _require,
    _validate_sizes,
    group_norm,
    hidden_matrices,
    zero_init,
)


class ConvBlock(nn.Module):
    """Two convolutions with group norm and a residual shortcut, as in a U-Net, without a time.

    (B, in_channels, H, W) -> (B, out_channels, H, W)
    """

    def __init__(self, in_channels: int, out_channels: int, norm=group_norm):
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels)
        self.conv2 = zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded on the right and at the bottom only.

    (B, C, H, W) -> (B, C, H / 2, W / 2)
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Encoder(nn.Module):
    """Images (B, C, H, W) -> features (B, out_channels, H / f, W / f)."""

    def __init__(self, channels, out_channels, widths, depth, patch_size, norm):
        super().__init__()
        self.patch_size = patch_size
        self.stem = nn.Conv2d(channels * patch_size**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        c = widths[0]
        for level, width in enumerate(widths):
            for _ in range(depth):
                self.down.append(ConvBlock(c, width, norm))
                c = width
            if level < len(widths) - 1:
                self.down.append(Downsample(c))
        self.middle = _middle(c, norm)
        self.norm = norm(c)
        self.out = nn.Conv2d(c, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(_channels_last(F.pixel_unshuffle(x, self.patch_size)))
        for layer in (*self.down, *self.middle):
            h = layer(h)
        return self.out(F.silu(self.norm(h)))


class Decoder(nn.Module):
    """Latents (B, in_channels, h, w) -> images (B, C, f h, f w)."""

    def __init__(self, in_channels, channels, widths, depth, patch_size, norm):
        super().__init__()
        self.patch_size = patch_size
        c = widths[-1]
        self.stem = nn.Conv2d(in_channels, c, 3, padding=1)
        self.middle = _middle(c, norm)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(depth + 1):
                self.up.append(ConvBlock(c, width, norm))
                c = width
            if level:
                self.up.append(Upsample(c, c))
        self.norm = norm(c)
        self.out = nn.Conv2d(c, channels * patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stem(_channels_last(z))
        for layer in (*self.middle, *self.up):
            h = layer(h)
        return F.pixel_shuffle(self.out(F.silu(self.norm(h))), self.patch_size)


class AutoencoderKL(nn.Module):
    """A variational autoencoder of images: x (B, C, H, W) in [-1, 1] <-> latents (B, c, H/f, W/f).

    channels, latent_channels: C and c
    widths:     channels of the levels; each level but the last halves height and width
    depth:      blocks per level of the encoder; the decoder has one more
    patch_size: the first layer folds patch_size x patch_size pixels into channels (1 in Stable
                Diffusion), so f = patch_size * 2^(levels - 1)
    kl_weight:  of the KL divergence, in nats, beside the sum of squared errors
    num_groups: of every group norm; None: 16 channels a group

    `encode` and `decode` are the bare networks. `to_latents` and `to_images` shift and scale, so
    that a diffusion model sees latents whose draws have mean 0 and standard deviation 1, per
    channel: z = (latent - shift) * scale, with the buffers that `fit_scale` sets.
    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on.
    """

    def __init__(
        self,
        channels: int = 3,
        latent_channels: int = 4,
        widths: tuple[int, ...] = (128, 256, 512, 512),
        depth: int = 2,
        patch_size: int = 1,
        kl_weight: float = 1e-6,
        num_groups: int | None = None,
    ):
        super().__init__()
        _validate_sizes(channels=channels, latent_channels=latent_channels, depth=depth)
        _validate_sizes(patch_size=patch_size)
        validate.number(kl_weight, "kl_weight", 0)
        widths = tuple(validate.whole(width, "each of widths") for width in widths)
        self.config = dict(
            channels=channels,
            latent_channels=latent_channels,
            widths=list(widths),
            depth=depth,
            patch_size=patch_size,
            kl_weight=kl_weight,
            num_groups=num_groups,
        )
        self.channels = channels
        self.latent_channels = latent_channels
        self.factor = patch_size * 2 ** (len(widths) - 1)
        self.kl_weight = kl_weight
        norm = partial(_norm, num_groups=num_groups)
        moments = 2 * latent_channels
        self.encoder = Encoder(channels, moments, widths, depth, patch_size, norm)
        self.quant = nn.Conv2d(moments, moments, 1)
        self.post_quant = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(latent_channels, channels, widths, depth, patch_size, norm)
        self.register_buffer("shift", torch.zeros(latent_channels))
        self.register_buffer("scale", torch.ones(latent_channels))
        self.to(memory_format=torch.channels_last)             # faster on a CPU

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(latent | x): (B, c, H/f, W/f) each.

        Raises TypeError or ValueError for images of another shape or dtype.
        """
        _require("this autoencoder takes images", x, "B", self.channels, "H", "W")
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"height and width must be multiples of {self.factor}; "
                f"got {x.shape[2]} x {x.shape[3]}"
            )
        mean, log_variance = self.quant(self.encoder(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """The image of a latent: (B, c, h, w) -> (B, C, f h, f w), near [-1, 1]."""
        _require("this decoder takes latents", latent, "B", self.latent_channels, "H", "W")
        return self.decoder(self.post_quant(latent))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x, from the mean of its latent."""
        return self.decode(self.encode(x)[0])

    @torch.no_grad()
    def to_latents(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images to what a diffusion model sees: (mean - shift) * scale, or a draw of q with a
        generator.
        """
        latent, log_variance = self.encode(x)
        if generator is not None:
            noise = torch.randn(latent.shape, generator=generator).to(latent)
            latent = latent + (log_variance / 2).exp() * noise
        return (latent - _per_channel(self.shift)) * _per_channel(self.scale)

    @torch.no_grad()
    def to_images(self, z: Tensor) -> Tensor:
        """The inverse of `to_latents`, through the decoder."""
        return self.decode(z / _per_channel(self.scale) + _per_channel(self.shift))

    @torch.no_grad()
    def fit_scale(self, x: Tensor, batch_size: int = 250) -> None:
        """Set shift to the mean of each channel's latents, scale to 1 / standard deviation.

        That of draws from q: a channel that the encoder does not use (posterior collapse: q is the
        prior for every image) keeps its deviation of 1, and is not blown up to it.
        """
        mean, log_variance = (
            torch.cat(parts) for parts in zip(*(self.encode(part) for part in x.split(batch_size)))
        )
        variance = mean.var((0, 2, 3)) + log_variance.exp().mean((0, 2, 3))
        self.shift.copy_(mean.mean((0, 2, 3)))
        self.scale.copy_(variance.rsqrt())

    def draw(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Adds the noise of the latents, like them, to a batch of images."""
        B, _, H, W = batch["x0"].shape
        shape = (B, self.latent_channels, H // self.factor, W // self.factor)
        return batch | {"eps": torch.randn(shape, generator=generator)}

    def loss(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Squared error and weighted KL divergence of each image, per pixel value: (B,).

        (sum |x - x_hat|^2 + kl_weight * KL) / D, D the number of pixel values. (Kingma & Welling
        2014, eq. 10, times 2 s^2 = kl_weight where s is the decoder's standard deviation)
        """
        mean, log_variance = self.encode(x0)
        x_hat = self.decode(mean + (log_variance / 2).exp() * eps.to(mean))
        error = (x_hat - x0).square().flatten(1).sum(1)
        return (error + self.kl_weight * kl_to_standard_normal(mean, log_variance)) / x0[0].numel()

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: those of all layers but the first and the last."""
        outer = (self.encoder.stem, self.decoder.out, self.quant, self.post_quant)
        return hidden_matrices(self, (*outer, self.encoder.out, self.decoder.stem))


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, summed over each example: (B, ...) -> (B,)

    (Kingma & Welling 2014, appendix B)
    """
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return terms.flatten(1).sum(1) / 2


def _middle(channels: int, norm) -> nn.ModuleList:
    attention = AttentionBlock(channels, num_heads=1)
    attention.norm = norm(channels)
    return nn.ModuleList(
        [ConvBlock(channels, channels, norm), attention, ConvBlock(channels, channels, norm)]
    )


def _norm(channels: int, num_groups: int | None) -> nn.GroupNorm:
    """As in Stable Diffusion with num_groups = 32; a smaller epsilon than torch's."""
    norm = group_norm(channels)
    groups = norm.num_groups if num_groups is None else num_groups
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]
