"""Train mini-SD's inpainting U-Net: latent, mask and masked latent as its input.

    python tools/recipes/train_mini_sd_inpaint.py
        to runs/mini_sd_inpaint; stopped, the same command goes on

It begins with mini-SD's weights; the new channels of the first layer begin at zero, as in Stable
Diffusion's own inpainting model.
"""
import torch
from torch import Tensor
from train_mini_sd import EXAMPLES, without_withheld

from course_lib import Denoiser
from course_lib.lab import data, train
from course_lib.lab.training.configured import to_latents
from course_lib.networks.stable_diffusion.model import StableDiffusionNet


def masks(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Random rectangles, 1 where the picture is drawn anew: (n, 1, size, size)"""
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g) * 0.6
    high = low + 0.25 + 0.35 * torch.rand(n, 2, generator=g)
    place = (torch.arange(size) + 0.5) / size
    inside = [(place >= low[:, k, None]) & (place < high[:, k, None]) for k in range(2)]
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


@torch.no_grad()
def extra_channels(vae, x: Tensor, mask: Tensor) -> Tensor:
    """The mask at the latent's size and the masked picture's latent: (n, 1 + c, h, w).

    A latent's place is drawn anew where any of its pixels is.
    """
    masked = vae.to_latents(torch.where(mask.bool(), 0.0, x).to(vae.shift.device)).cpu()
    return torch.cat([torch.nn.functional.max_pool2d(mask, vae.factor), masked], dim=1)


def inpainting_model(D: Denoiser) -> Denoiser:
    """A Denoiser like D whose U-Net takes 1 + c more channels, which begin at zero."""
    config = D.net.config
    c = config["unet"]["in_channels"]
    unet = config["unet"] | {"in_channels": 2 * c + 1, "out_channels": c}
    net = StableDiffusionNet(unet, config["text"], config["tokenizer"], config["steps"])
    state = {k: v.clone() for k, v in D.net.state_dict().items()}
    stem = torch.zeros_like(net.unet.stem.weight)
    stem[:, :c] = state["unet.stem.weight"]
    net.load_state_dict(state | {"unet.stem.weight": stem})
    net.text.requires_grad_(False)
    return Denoiser(net, D.schedule, D.target)


def main() -> None:
    D, vae = train.load("mini_sd"), train.load("nouns_vae")
    figures = without_withheld(data.nouns(EXAMPLES // 2))
    mask = masks(len(figures.x))
    parts = list(zip(figures.x.split(500), mask.split(500)))
    z = to_latents(figures.x, "nouns_vae")
    extra = torch.cat([extra_channels(vae, x, m) for x, m in parts])
    train.train(
        inpainting_model(D),
        {"x0": z, "tokens": D.net.tokenizer(figures.captions), "extra": extra},
        steps=3_000,
        batch_size=64,
        lr=1e-3,
        muon_lr=0.005,
        p_drop=0.1,
        data_range=None,
        seed=0,
        run_name="mini_sd_inpaint",
    )


if __name__ == "__main__":
    main()
