"""What lesson 5's single draws cannot decide: a little guidance, and DPS with more steps.

    python benchmarks/lesson5_spread.py

Part 1: real digits, twelve draws of 2,000, as many of each label (the floor); then eight guidance
scales on the shipped model of digits, five seeds of 2,000 digits each, 10 steps of DPM-Solver++;
scales with the same seed begin with the same noise, so differences are paired. Part 2: three
measurements of 200 digits, three draws of the measurement's noise: the shortest answer with and
without clamping, the Wiener filter, and DPS with 20, 40 and 80 steps. Rows go to
course_lib/assets/lesson5_spread.csv as they are finished; a row that is there is not repeated.
Interrupted, the same command goes on.
"""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common.digits import digits_of_each_label
from common.growing_table import Table

from course_lib import Schedule, ancestral, clip, dpmpp, editing, guidance, last, timesteps
from course_lib.lab import data, features, metrics, storage, train

CSV = storage.ASSETS / "lesson5_spread.csv"
KEY = ("part", "what", "setting", "seed")
SCALES = (1.0, 1.05, 1.1, 1.15, 1.25, 1.5, 2.0, 3.0)
N = 2_000
SOLVED = 200
NOISE_STD = 0.05
ZETA = 50.0
DPS_STEPS = (20, 40, 80)
MEASUREMENTS = ("blur", "7 x 7", "left half")
COSINE = Schedule.cosine()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crowd(x: torch.Tensor, y: torch.Tensor) -> dict:
    """The metrics of digits x (N, 1, 28, 28) with labels y, against the test split."""
    found, real = features.digit_features(x), features.features_of_test_split()
    precision, recall = metrics.precision_recall(real[:N], found)
    return {
        "n": len(x),
        "agreement": metrics.class_agreement(x, y),
        "distance": metrics.frechet_distance(found, real),
        "kid": metrics.kid(found, real)[0],
        "precision": precision,
        "recall": recall,
    }


def guided_digits(scale: float, seed: int) -> dict:
    device = train.default_device()
    D = train.load("mnist", device=device)
    D = D if scale == 1 else guidance.cfg(D, scale, {"y": 10})
    g, parts = generator(seed), []
    y = (torch.arange(N) % 10).to(device)
    for labels in y.split(500):
        noise = COSINE.sample_prior((len(labels), 1, 28, 28), generator=g).to(device)
        with train.autocast(device):
            x = last(dpmpp(clip(D), COSINE, noise, timesteps(COSINE, 10), y=labels))
        parts.append(x.float())
    return crowd(torch.cat(parts), y)


def measurement(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Lesson 5's three: images (B, 1, 28, 28) -> numbers (B, m)."""
    bell = torch.exp(-torch.arange(-4.0, 5) ** 2 / 8)       # 2 pixels wide
    kernel = torch.outer(bell, bell)
    kernel = (kernel / kernel.sum())[None, None]
    return {
        "blur": lambda x: F.conv2d(x, kernel, padding=4).flatten(1),
        "7 x 7": lambda x: F.avg_pool2d(x, 4).flatten(1),
        "left half": lambda x: x[..., :14].flatten(1),
    }[name]


def solved(name: str, method: str, seed: int) -> dict:
    """One method's answers to one measurement of SOLVED test digits."""
    measure = measurement(name)
    x0, labels = (part[:SOLVED] for part in data.mnist("test"))
    A, clean = measure(torch.eye(784).view(784, 1, 28, 28)).T, measure(x0)
    y = clean + NOISE_STD * torch.randn(clean.shape, generator=generator(seed))
    if method.startswith("DPS"):
        steps = int(method.split()[1])
        D = train.load("mnist_small", device="cpu")
        D = clip(editing.dps(D, COSINE, measure, y, ZETA))
        start = torch.randn(x0.shape, generator=generator(100 + seed))
        ts = timesteps(COSINE, steps)
        x = last(ancestral(D, COSINE, start, ts, generator=generator(200 + seed)))
    else:
        x = linear_answer(A, y, method).view_as(x0)
        x = x if method.endswith("unclamped") else x.clamp(-1, 1)
    rms = lambda difference: difference.square().mean().sqrt().item()
    return {
        "n": SOLVED,
        "agreement": metrics.class_agreement(x.clamp(-1, 1), labels),
        "error": rms(x - x0),
        "residual": rms(measure(x) - y) / NOISE_STD,
    }


def linear_answer(A: torch.Tensor, y: torch.Tensor, method: str) -> torch.Tensor:
    """The best linear answers for digits of mean 0 and covariance I, or of their own: (B, 784)."""
    mean, C = torch.zeros(784), torch.eye(784)
    if method.startswith("Wiener"):
        x = data.mnist("train")[0].flatten(1)
        mean, C = x.mean(0), torch.cov(x.T)
    gain = torch.linalg.solve(A @ C @ A.T + NOISE_STD**2 * torch.eye(len(A)), A @ C)
    return mean + (y - A @ mean) @ gain


def wanted() -> list[tuple]:
    """The keys of all rows."""
    keys = [("crowd", "real", "", seed) for seed in range(12)]
    keys += [("crowd", "guided", w, seed) for seed in range(5) for w in SCALES]
    methods = ["shortest", "shortest, unclamped", "Wiener", *(f"DPS {n}" for n in DPS_STEPS)]
    keys += [("inverse", name, method, seed)
             for seed in range(3) for name in MEASUREMENTS for method in methods]
    return keys


def row_of(part: str, what: str, setting: float | str, seed: int) -> dict:
    """What is measured for one key."""
    if part == "inverse":
        return solved(what, setting, seed)
    if what == "real":
        return crowd(*digits_of_each_label(N, seed))
    return guided_digits(setting, seed)


def main() -> None:
    table = Table(CSV, *KEY)
    print(train.about_machine())
    for key in wanted():
        if key not in table:
            table.add(**dict(zip(KEY, key)), **row_of(*key))


if __name__ == "__main__":
    main()
