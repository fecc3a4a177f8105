"""What does a noise schedule do to samples? One network under seven pairs of target and schedule.

    python benchmarks/schedules.py
        seven pairs, two seeds: fourteen trainings of about six minutes of one idle core
    python benchmarks/schedules.py --seeds 1
        those of one seed alone

The same U-Net (widths 16, 32, patch 2), 1,000 updates of 128 digits; 1,000 samples each in 100
ancestral steps, and their Fréchet distance to the test digits, beside as many training digits
(target none). Predictions of the image are clipped to [-1, 1], or not (the columns _unclipped);
most_frequent is the share of the digit that occurs most. Lesson 1 reads the rows of target eps,
lesson 3 five pairs. Rows go to course_lib/assets/schedules.csv as they are finished; a row that is
there is not repeated. Interrupted, the same command goes on.
"""
import argparse
import itertools

import torch
from common.growing_table import Table

from course_lib import Denoiser, Schedule, UNet, ancestral, clip, last, timesteps
from course_lib.lab import data, features, metrics, storage, train

CSV = storage.ASSETS / "schedules.csv"
SCHEDULES = {
    "linear": Schedule.linear(T=1000),
    "cosine": Schedule.cosine(),
    "sigmoid": Schedule.sigmoid(),
    "scaled linear": Schedule.scaled_linear(),
    "flow": Schedule.flow(),
}
PAIRS = (
    ("eps", "linear"),
    ("eps", "cosine"),
    ("eps", "sigmoid"),
    ("eps", "scaled linear"),
    ("v", "cosine"),
    ("flow", "flow"),
    ("v", "flow"),
)
SEEDS = (0, 1)
STEPS = 1_000
N = 1_000


def trained(target: str, schedule: str, seed: int, x: torch.Tensor) -> Denoiser:
    """Kept in runs/, so that an interrupted training goes on."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(1, widths=(16, 32), patch_size=2), SCHEDULES[schedule], target=target)
    run = f"schedules_{target}_{schedule.replace(' ', '_')}_{seed}"
    D = train.train(D, x, steps=STEPS, batch_size=128, lr=4e-3, seed=seed, run_name=run)
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


@torch.no_grad()
def samples(D: Denoiser, guess) -> torch.Tensor:
    """N digits by a denoiser, D or clip(D)."""
    g, parts = torch.Generator().manual_seed(1), []
    device = train.default_device()
    with train.autocast():
        for _ in range(N // 250):
            x = D.schedule.sample_prior((250, 1, 28, 28), generator=g, device=device)
            x = last(ancestral(guess, D.schedule, x, timesteps(D.schedule, 100), generator=g))
            parts.append(x.float().cpu().clamp(-1, 1))
    return torch.cat(parts)


def measured(D: Denoiser) -> dict:
    """`judged` of samples whose predictions are clipped to [-1, 1], and of others."""
    unclipped = {f"{name}_unclipped": v for name, v in judged(samples(D, D)).items()}
    return judged(samples(D, clip(D))) | unclipped


def judged(x: torch.Tensor) -> dict:
    """Of digits: their distance, and the share of the digit that occurs most."""
    found = features.digit_features(x)
    counts = features.digit_probabilities(x).argmax(1).bincount(minlength=10)
    distance = metrics.frechet_distance(found, features.features_of_test_split())
    return {"distance": distance, "most_frequent": counts.max().item() / len(x)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    seeds = parser.parse_args().seeds
    x = data.mnist("train")[0]
    table = Table(CSV, "target", "schedule", "seed")
    for seed, (target, name) in itertools.product(seeds, (*PAIRS, ("none", "real digits"))):
        if (target, name, seed) in table:
            continue
        row = {"target": target, "schedule": name, "seed": seed, "steps": STEPS, "n": N}
        if target == "none":
            found = judged(x[N * seed:N * (seed + 1)])
        else:
            D = trained(target, name, seed, x)
            found = {"loss": sum(value for _, value in D.history[-10:]) / 10} | measured(D)
        table.add(**row, **found)


if __name__ == "__main__":
    main()
