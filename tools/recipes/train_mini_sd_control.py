"""Train a ControlNet for mini-SD: outlines as a hint, mini-SD itself frozen.

    python tools/recipes/train_mini_sd_control.py
        to runs/mini_sd_control; stopped, the same command goes on
    python tools/recipes/train_mini_sd_control.py --judge --ship
        F1 of the outlines of 500 samples, with the hint and without it, and of reconstructions; the
        same for withheld heads; with --ship also
        course_lib/assets/checkpoints/mini_sd_control.safetensors

The captions name the background and the glasses alone: head, body and accessory are for the hint.
There are 46 such captions, so the text encoder reads each of them once.
"""
import argparse
import json

import torch
from ship_mini_sd import HEAD, known_parts, withheld_ids
from torch import Tensor, nn
from train_mini_sd import EXAMPLES, WITHHELD, without_withheld

from course_lib import Denoiser
from course_lib.lab import attributes, data, noun_parts, sampling, storage, train
from course_lib.lab.data.outlines import outline, outline_f1
from course_lib.lab.training import parts as model_parts
from course_lib.lab.training.configured import to_latents
from course_lib.networks.stable_diffusion.control import ControlNet

WIDTH = 32
P_DROP = 0.1                                                # of the caption, for guidance
OPTIONS = dict(steps=6_000, batch_size=32, lr=2e-3, data_range=None, seed=0)
NAMED = [noun_parts.PARTS.index(part) for part in ("background", "glasses")]
COMMAND = "python tools/recipes/train_mini_sd_control.py"


class Controlled(nn.Module):
    """A ControlNet as the training loop takes it: the denoiser around it does not change.

    contexts: (K + 1, L, dim), the text encoder's output for K captions, and for none
    """

    def __init__(self, D: Denoiser, contexts: Tensor):
        super().__init__()
        torch.manual_seed(0)
        self.control = ControlNet(D.net.unet, 1, 4, WIDTH)
        D.net.control = None
        self.frozen = [D.requires_grad_(False), contexts]   # in a list: no part of this module

    def draw(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        D, contexts = self.frozen
        t, eps = D.draw_noise(batch["x0"], generator)
        dropped = torch.rand(len(t), generator=generator) < P_DROP
        caption = torch.where(dropped.to(t.device), len(contexts) - 1, batch["caption"])
        return batch | {"t": t, "eps": eps, "caption": caption}

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, caption: Tensor, hint: Tensor) -> Tensor:
        D, contexts = self.frozen
        context = contexts.to(x0.device)[caption]
        D.net.control = self.control
        try:
            return D.loss(x0, t, eps, context=context, hint=hint.to(x0))
        finally:
            D.net.control = None


def short_captions(parts: Tensor) -> list[str]:
    """What the outline does not say: the background and the glasses."""
    return [
        f"a noun with {names['glasses']} glasses, {names['background']} background"
        for names in noun_parts.part_names(parts)
    ]


@torch.no_grad()
def caption_table(D: Denoiser, captions: list[str]) -> tuple[Tensor, Tensor]:
    """The text encoder's output for each different caption and, last, for none; and each caption's
    row of it: (K + 1, L, dim), (n,).
    """
    different = sorted(set(captions))
    rows = {caption: k for k, caption in enumerate(different)}
    tokens = D.net.tokenizer([*different, ""])
    contexts = D.net.encode(tokens, len(tokens))["context"]
    return contexts, torch.tensor([rows[caption] for caption in captions])


def trained(D: Denoiser) -> Controlled:
    """The ControlNet of a finished run, or of one that is trained now."""
    figures = without_withheld(data.nouns(EXAMPLES // 4))
    contexts, rows = caption_table(D, short_captions(figures.parts))
    batch = {
        "x0": to_latents(figures.x, "nouns_vae"),
        "caption": rows,
        "hint": outline(figures.x).bool(),
    }
    return train.train(Controlled(D, contexts), batch, run_name="mini_sd_control", **OPTIONS)


# ---- how good it is

def judged(D: Denoiser, vae: nn.Module, parts: Tensor) -> dict:
    """F1 at one pixel and the share of right parts: without the hint, with it, and of the pictures
    through the autoencoder; the fraction of the way from the first to the last; each F1 with its
    standard error.
    """
    x, tokens = noun_parts.render(parts), D.net.tokenizer(short_captions(parts))
    hint = outline(x)
    drawn = {
        "no hint": samples(D, vae, {"tokens": tokens}),
        "hint": samples(D, vae, {"tokens": tokens, "hint": hint}),
        "reconstruction": reconstructions(vae, x),
    }
    f1 = {name: outline_f1(outline(y), hint) for name, y in drawn.items()}
    low, high, top = f1.values()
    right = {name: attributes.attributes_correct(y, parts).double().mean(0).tolist()
             for name, y in drawn.items()}
    right["guessing"] = attributes.chance_accuracy(parts).tolist()
    return {
        "n": len(parts),
        "f1": {name: with_error(values) for name, values in f1.items()},
        "way": fraction_of_the_way(low, high, top),
        "right": {name: dict(zip(noun_parts.PARTS, row)) for name, row in right.items()},
    }


def samples(D: Denoiser, vae: nn.Module, condition: dict[str, Tensor]) -> Tensor:
    return sampling.sample_batches(
        D, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae, batch_size=100
    )


@torch.no_grad()
def reconstructions(vae: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([vae(part.to(vae.shift.device)).cpu() for part in x.split(250)]).clamp(-1, 1)


def with_error(values: Tensor) -> list[float]:
    """The mean and its standard error."""
    return [values.mean().item(), (values.std() / len(values) ** 0.5).item()]


def fraction_of_the_way(low: Tensor, high: Tensor, top: Tensor) -> list[float]:
    """(mean high - mean low) / (mean top - mean low), with its standard error to first order."""
    span = (top - low).mean()
    fraction = (high - low).mean() / span
    residual = (high - low) - fraction * (top - low)        # of mean 0
    return [fraction.item(), (residual.std() / span / len(low) ** 0.5).item()]


def withheld_parts(n: int) -> Tensor:
    """n figures whose heads mini-SD never saw: (n, 5)"""
    parts = noun_parts.draw_parts(n, seed=6, split="test")
    parts[:, HEAD] = withheld_ids()[torch.arange(n) % len(WITHHELD)]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini_sd", help="a shipped model, or its file")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    D, vae = train.load(arguments.base), train.load("nouns_vae")
    model = trained(D)
    if not arguments.judge and not arguments.ship:
        return
    D.net.control = model.control
    numbers = judged(D, vae, known_parts(arguments.n, "test"))
    numbers |= {
        "withheld": judged(D, vae, withheld_parts(arguments.n)),
        "judged_by": f"{COMMAND} --judge --n {arguments.n}",
        "machine": train.about_machine(),
    }
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        ship(model, D, arguments.base, numbers)


def ship(model: Controlled, D: Denoiser, base: str, numbers: dict) -> None:
    file = storage.CHECKPOINTS / "mini_sd_control.safetensors"
    about = {
        "base": base,
        "command": COMMAND,
        "steps": model.history[-1][0],
        "options": OPTIONS | {"p_drop": P_DROP},
        "metrics": numbers,
    }
    model_parts.save_control(model.control, D, file, **about)
    print(f"{file}: {file.stat().st_size / 1e6:.3f} MB")


if __name__ == "__main__":
    main()
