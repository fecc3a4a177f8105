"""Inpainting by a U-Net of its own, which gets mask and masked picture as channels.

Stable Diffusion's has nine channels: 4 of the latent, 1 of the mask, 4 of the masked latent.
(Rombach et al. 2022, section 4.5, and its published inpainting models)
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ...masks import _validate_mask
from ..vae import AutoencoderKL
from .model import StableDiffusionNet


def inpainting_net(net: StableDiffusionNet) -> StableDiffusionNet:
    """A network like net whose U-Net takes `extra`: 1 + c channels beside a latent of c.

    The new channels' weights are zero, so it begins as net. The U-Net is a copy; the text encoder
    is net's own, frozen.
    Raises TypeError for another network, ValueError for one that has such channels already.
    """
    validate.instance(net, StableDiffusionNet, "net", "D.net")
    sizes = net.config["unet"]
    c = sizes["out_channels"]
    if sizes["in_channels"] != c:
        raise ValueError(
            f"net must take latents alone, {c} channels; this U-Net takes {sizes['in_channels']}"
        )
    new = with_text_of(net, sizes | {"in_channels": 2 * c + 1})
    state = {name: value.clone() for name, value in net.unet.state_dict().items()}
    stem = state["stem.weight"]                                         # (width, c, 3, 3)
    state["stem.weight"] = F.pad(stem, (0, 0, 0, 0, 0, c + 1))          # (width, 2 c + 1, 3, 3)
    new.unet.load_state_dict(state)
    return new


def with_text_of(net: StableDiffusionNet, sizes: dict) -> StableDiffusionNet:
    """A new U-Net of these sizes, on net's device, with net's own text encoder, which is frozen."""
    new = StableDiffusionNet(sizes, net.config["text"], net.tokenizer, net.steps)
    new.text = net.text.requires_grad_(False)
    return new.to(net.unet.stem.weight.device)


@torch.no_grad()
def extra_channels(vae: AutoencoderKL, x: Tensor, mask: Tensor) -> Tensor:
    """The mask at the latent's size, and the latent of the masked picture: (B, 1 + c, h, w).

    x: pictures (B, C, H, W) in [-1, 1]; mask: (1 or B, 1, H, W), 1 = drawn anew
    A place of the latent is drawn anew where any of its pixels is. Masked pixels are 0, grey.
    Raises TypeError or ValueError for pictures that the autoencoder does not take, and a mask of
    another shape or with other values.
    """
    validate.instance(vae, AutoencoderKL, "vae", "train.load('nouns_vae')")
    x = validate.images(x, "pictures", (vae.channels,))
    mask = _validate_mask(mask, x[:, :1]).expand(len(x), 1, *x.shape[2:])
    masked = vae.to_latents(torch.where(mask, 0.0, x).to(vae.shift.device))     # (B, c, h, w)
    small = F.max_pool2d(mask.to(masked), vae.factor)                           # (B, 1, h, w)
    return torch.cat([small, masked], dim=1)
