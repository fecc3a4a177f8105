"""What does a noise schedule do to samples? Lesson 3's five targets and schedules, on digits.

    python benchmarks/lesson3_schedules.py
        five pairs, two seeds: ten trainings, a few minutes each of two idle cores

The same U-Net (widths 16, 32, patch 2), 3,000 updates of 128; 1,000 digits each in 50 ancestral
steps, and their Fréchet distance to the test digits. Rows go to
course_lib/assets/lesson3_schedules.csv as they are finished; a row that is there is not repeated.
Interrupted, the same command goes on.
"""
import csv
import itertools

import torch

from course_lib import Denoiser, Schedule, UNet, ancestral, last, timesteps
from course_lib.lab import data, features, metrics, storage, train

CSV = storage.ASSETS / "lesson3_schedules.csv"
SCHEDULES = {"cosine": Schedule.cosine(), "flow": Schedule.flow(), "linear": Schedule.linear()}
PAIRS = (("v", "cosine"), ("flow", "flow"), ("v", "flow"), ("eps", "cosine"), ("eps", "linear"))
SEEDS = (0, 1)
STEPS = 3_000
N = 1_000
COLUMNS = ["target", "schedule", "seed", "steps", "n", "distance"]


def trained(target: str, schedule: str, seed: int, x: torch.Tensor) -> Denoiser:
    """Kept in runs/, so that an interrupted training goes on."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(1, widths=(16, 32), patch_size=2), SCHEDULES[schedule], target=target)
    run = f"lesson3_{target}_{schedule}_{seed}"
    D = train.train(D, x, steps=STEPS, batch_size=128, lr=4e-3, seed=seed, run_name=run)
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    return D


@torch.no_grad()
def distance(D: Denoiser) -> float:
    """The Fréchet distance of N samples to the test digits."""
    g = torch.Generator().manual_seed(1)
    device = train.default_device()
    parts = []
    with train.autocast():
        for _ in range(N // 250):
            x = D.schedule.sample_prior((250, 1, 28, 28), generator=g, device=device)
            x = last(ancestral(D, D.schedule, x, timesteps(D.schedule, 50), generator=g))
            parts.append(x.float().cpu().clamp(-1, 1))
    found = features.digit_features(torch.cat(parts))
    return metrics.frechet_distance(found, features.features_of_test_split())


def main() -> None:
    x = data.mnist("train")[0]
    rows = []
    if CSV.is_file():
        with CSV.open() as file:
            rows = list(csv.DictReader(file))
    there = {(row["target"], row["schedule"], int(row["seed"])) for row in rows}
    for seed, (target, schedule) in itertools.product(SEEDS, PAIRS):
        if (target, schedule, seed) in there:
            continue
        D = trained(target, schedule, seed, x)
        row = {"target": target, "schedule": schedule, "seed": seed, "steps": STEPS, "n": N}
        rows.append(row | {"distance": distance(D)})
        print(rows[-1], flush=True)
        with CSV.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
