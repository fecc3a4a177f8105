"""Train an adapter for a style of mini-SD: faded figures, as on an old photograph.

    python tools/recipes/train_mini_sd_style.py
        to course_lib/assets/checkpoints/mini_sd_faded.safetensors, in the published layout
    python tools/recipes/train_mini_sd_style.py --judge
        how faded 200 pictures are, and whether their parts are still right, without the adapter,
        with it, and turned up by half

The style is one change of colour for all pixels: colours lose 60 % of what distinguishes them from
grey, the contrast a fifth, and all becomes lighter and warmer. The autoencoder was not trained on
such pictures, and still reconstructs them; a night style, half the contrast and darker, it does
not (`--judge` prints both).
"""
import argparse
import json

import torch
from mini_sd_lora import fine_tune
from torch import Tensor, nn
from train_mini_sd import three_wordings, without_withheld

from course_lib import Denoiser
from course_lib.lab import attributes, data, noun_parts, sampling, storage, train
from course_lib.networks.stable_diffusion import lora

FILE = storage.CHECKPOINTS / "mini_sd_faded.safetensors"
EXAMPLES, RANK, STEPS, LR = 1_000, 8, 500, 3e-3
COLOUR, CONTRAST, LIGHT = 0.4, 0.8, (0.15, 0.1, 0.0)
NIGHT = (-0.45, -0.4, -0.25)


def faded(x: Tensor) -> Tensor:
    """x (B, 3, H, W) in [-1, 1] -> the same, in this style"""
    grey = x.mean(1, keepdim=True)
    light = torch.tensor(LIGHT).to(x)[:, None, None]
    return CONTRAST * (COLOUR * x + (1 - COLOUR) * grey) + light


def unfaded(y: Tensor) -> Tensor:
    """The inverse of `faded`."""
    x = (y - torch.tensor(LIGHT).to(y)[:, None, None]) / CONTRAST
    return (x - (1 - COLOUR) * x.mean(1, keepdim=True)) / COLOUR


def accuracies(x: Tensor, parts: Tensor) -> dict:
    """Of pictures x (n, 3, 32, 32) with the colours changed back: how many show parts (n, 5)."""
    right = attributes.attributes_correct(x.clamp(-1, 1), parts).double().mean(0)
    return dict(zip(noun_parts.PARTS, right.tolist()))


def marks(x: Tensor, parts: Tensor) -> dict:
    """Of pictures x (n, 3, 32, 32) that should show parts (n, 5) in this style.

    faded: the fraction that is nearer to the faded figure than to the figure as it is; and the
    accuracy of each part
    """
    real = noun_parts.render(parts)
    far = lambda figure: (x - figure).square().flatten(1).sum(1)
    is_faded = (far(faded(real)) < far(real)).double().mean().item()
    return {"faded": is_faded} | accuracies(unfaded(x), parts)


@torch.no_grad()
def reconstructed(vae: nn.Module, x: Tensor) -> Tensor:
    return vae.to_images(vae.to_latents(x.to(vae.shift.device))).cpu().clamp(-1, 1)


def judge(D: Denoiser, vae: nn.Module, n: int = 200) -> dict:
    """The marks of reconstructed pictures, of the base, and of the adapter at two dials."""
    parts = noun_parts.draw_parts(n, seed=5, split="test")
    x = noun_parts.render(parts)
    night = torch.tensor(NIGHT)[:, None, None]
    found = {
        "reconstructed": marks(reconstructed(vae, faded(x)), parts),
        "reconstructed night": accuracies((reconstructed(vae, x / 2 + night) - night) * 2, parts),
    }
    lora.load_lora(D.net.unet, FILE, "faded")
    for dial in (0.0, 1.0, 1.5):
        lora.set_dial(D.net.unet, dial, "faded")
        x = sampling.text_to_image(D, noun_parts.plain_captions(parts), vae=vae)
        found[f"dial {dial}"] = marks(x, parts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--model", default="mini_sd", help="a checkpoint's name or file")
    arguments = parser.parse_args()
    D, vae = train.load(arguments.model), train.load("nouns_vae")
    if arguments.judge:
        print(json.dumps(judge(D, vae), indent=1))
        return
    figures = without_withheld(data.nouns(EXAMPLES))
    torch.manual_seed(0)
    factors = lora.add_lora(D.net.unet, RANK, name="faded")
    fine_tune(D, vae, factors, faded(figures.x), three_wordings(figures), LR, STEPS)
    lora.save_lora(D.net.unet, FILE, "faded")
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
