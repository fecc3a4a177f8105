"""Train a ControlNet for mini-SD: outlines as a hint, mini-SD itself frozen.

    python tools/recipes/train_mini_sd_control.py
        to runs/mini_sd_control; stopped, the same command goes on
    python tools/recipes/train_mini_sd_control.py --judge
        F1 of the outlines of 500 samples, with the hint and without it, and of reconstructions

The captions name the background and the glasses alone: head, body and accessory are for the hint.
"""
import argparse
import json

import torch
from torch import Tensor, nn
from train_mini_sd import EXAMPLES, without_withheld

from course_lib import Denoiser
from course_lib.lab import data, noun_parts, sampling, train
from course_lib.lab.data.outlines import outline, outline_f1
from course_lib.lab.training.configured import to_latents
from course_lib.networks.stable_diffusion.control import ControlNet

WIDTH = 24


class Controlled(nn.Module):
    """A ControlNet as the training loop takes it: the denoiser around it does not change."""

    def __init__(self, D: Denoiser):
        super().__init__()
        self.control = ControlNet(D.net.unet, 1, 4, WIDTH)
        D.net.control = None
        self.frozen = [D.requires_grad_(False)]             # in a list: no part of this module

    def draw(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        t, eps = self.frozen[0].draw_noise(batch["x0"], generator)
        return batch | {"t": t, "eps": eps}

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor, hint: Tensor) -> Tensor:
        net = self.frozen[0].net
        net.control = self.control
        try:
            return self.frozen[0].loss(x0, t, eps, tokens=tokens, hint=hint)
        finally:
            net.control = None


def short_captions(parts: Tensor) -> list[str]:
    """What the outline does not say: the background and the glasses."""
    names = noun_parts.load_art().names
    columns = {part: noun_parts.PARTS.index(part) for part in ("background", "glasses")}
    read = lambda row, part: names[part][row[columns[part]]]
    return [
        f"a {read(row, 'background')} background, {read(row, 'glasses')} glasses"
        for row in parts.tolist()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", action="store_true")
    arguments = parser.parse_args()
    D, vae = train.load("mini_sd"), train.load("nouns_vae")
    model = Controlled(D)
    figures = without_withheld(data.nouns(EXAMPLES // 2))
    z = to_latents(figures.x, "nouns_vae")
    batch = {
        "x0": z,
        "tokens": D.net.tokenizer(short_captions(figures.parts)),
        "hint": outline(figures.x),
    }
    model = train.train(
        model, batch, steps=3_000, batch_size=32, lr=2e-3, data_range=None, seed=0,
        run_name="mini_sd_control",
    )
    if arguments.judge:
        print(json.dumps(judge(model, D, vae), indent=1))


@torch.no_grad()
def judge(model: Controlled, D: Denoiser, vae: nn.Module, n: int = 500) -> dict:
    """Mean F1 at one pixel: chance, with the hint, and the reconstruction's."""
    parts = noun_parts.draw_parts(n, seed=5, split="test")
    x, tokens = noun_parts.render(parts), D.net.tokenizer(short_captions(parts))
    hint = outline(x)
    D.net.control = model.control
    found = {}
    for name, condition in {"no hint": {"tokens": tokens},
                            "hint": {"tokens": tokens, "hint": hint}}.items():
        samples = sampling.sample_batches(
            D, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae, batch_size=100
        )
        found[name] = outline_f1(outline(samples.clamp(-1, 1)), hint)
    again = vae.to_images(vae.to_latents(x.to(vae.shift.device))).cpu().clamp(-1, 1)
    found["reconstruction"] = outline_f1(outline(again), hint)
    return {name: [f.mean().item(), (f.std() / n**0.5).item()] for name, f in found.items()}


if __name__ == "__main__":
    main()
