"""Lesson 3's trial with a folder of 300 pictures, trained for longer, and judged at each length.

    python benchmarks/lesson3_pictures.py
        three trainings: 1,000, 4,000 and 16,000 updates of 32

The figures, configuration and scores of section 3.17: 1-NNA against 100 held-out pictures,
and the distance to the nearest training picture, over that of held-out ones, each with its 95 %
interval. Rows go to course_lib/assets/lesson3_pictures.csv as they are finished; one that is there
is not repeated. Interrupted, the same command goes on.
"""
import torch
from common.growing_table import Table

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import data, features, sampling, small_sets, storage, train

CSV = storage.ASSETS / "lesson3_pictures.csv"
LENGTHS = (1_000, 4_000, 16_000)


def judged(x: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> dict:
    """The scores of pictures (100, 3, 32, 32)."""
    new, known, real = map(features.alexnet_features, (x, training, held_out))
    nna = small_sets.one_nna(new, real, torch.cdist)
    near = small_sets.nearest_ratio(torch.cdist(new, known), torch.cdist(real, known))
    return {"nna": nna.accuracy, "nna_low": nna.low, "nna_high": nna.high,
            "near": near.median, "near_low": near.low, "near_high": near.high}


def trained(x: torch.Tensor, steps: int) -> Denoiser:
    """Kept in runs/, so that an interrupted training goes on."""
    torch.manual_seed(0)
    D = Denoiser(UNet(3, widths=(16, 32), patch_size=2), Schedule.cosine(), target="v")
    D = train.train(D, x, steps=steps, batch_size=32, lr=2e-3, run_name=f"lesson3_{steps}")
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


def main() -> None:
    training, held_out = data.nouns(400).x.split((300, 100))
    table = Table(CSV, "steps")
    for steps in LENGTHS:
        if (steps,) in table:
            continue
        x = sampling.samples(trained(training, steps), n=100).float().cpu().clamp(-1, 1)
        table.add(steps=steps, **judged(x, training, held_out))


if __name__ == "__main__":
    main()
