"""Spread, floors, precision and recall of lesson 4's samplers, on the shipped model of digits.

    python benchmarks/lesson4_spread.py

Part 1: real digits, as many of each label, twelve draws at n = 4,000 and at n = 1,000 (the floors).
Part 2: five samplers with 8, 15, 30 and 50 evaluations at w = 1 and w = 2, three seeds each,
n = 4,000; samplers with the same seed begin with the same noise and labels, so differences are
paired. Part 3: the small teacher and its consistency student with four evaluations and fewer.
Features of real images are those of the test split; recall counts test digits that lie near a
sample. Rows go to course_lib/assets/lesson4_spread.csv as they are finished; a row that is there is
not repeated. Interrupted, the same command goes on.
"""
import csv

import torch

from course_lib import samplers
from course_lib.lab import data, features, metrics, sampling, storage, train

CSV = storage.ASSETS / "lesson4_spread.csv"
COLUMNS = ["model", "sampler", "scale", "asked", "evaluations", "n", "seed", "distance", "kid",
           "precision", "recall", "agreement"]
KEY = ("model", "sampler", "scale", "asked", "n", "seed")
NAMES = ("ancestral", "ddim", "heun", "dpmpp", "unipc")
N = 4_000
FLOOR_DRAWS = 12
RECALL_POINTS = 2_000
consistency = sampling.SamplerConfig(samplers.consistency_sampling)
SMALL = {
    "mnist_small": {name: sampling.SAMPLERS[name] for name in ("ddim", "ancestral", "unipc")},
    "mnist_consistency": {},
}
for configs in SMALL.values():
    configs["consistency"] = consistency


def real_digits(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n training digits, n / 10 of each label: (n, 1, 28, 28), (n,)"""
    x, y = data.mnist("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[y[order] == label][: n // 10] for label in range(10)])
    return x[rows], y[rows]


def measured(x: torch.Tensor, y: torch.Tensor) -> dict:
    """Distances to the test digits; precision and recall on RECALL_POINTS of each, drawn once."""
    found, real = features.digit_features(x), features.features_of_test_split()
    g = torch.Generator().manual_seed(0)
    few = [z[torch.randperm(len(z), generator=g)[:RECALL_POINTS]] for z in (real, found)]
    precision, recall = metrics.precision_recall(*few)
    return {
        "distance": metrics.frechet_distance(found, real),
        "kid": metrics.kid(found, real)[0],
        "precision": precision,
        "recall": recall,
        "agreement": metrics.class_agreement(x, y),
    }


def wanted() -> list[dict]:
    """The keys of all rows."""
    rows = [dict(zip(KEY, ("real", "real", 1.0, 0, n, seed)))
            for n in (1_000, N) for seed in range(FLOOR_DRAWS)]
    rows += [dict(zip(KEY, ("mnist", name, scale, asked, N, seed)))
             for seed in range(3) for scale in (1.0, 2.0) for asked in (8, 15, 30, 50)
             for name in NAMES]
    rows += [dict(zip(KEY, (model, name, 1.0, asked, N, seed)))
             for seed in range(3) for model, configs in SMALL.items() for asked in (1, 2, 4)
             for name in configs if asked == 4 or name in ("ddim", "consistency")]
    return rows


def row_of(key: dict) -> dict:
    if key["model"] == "real":
        return key | {"evaluations": 0} | measured(*real_digits(key["n"], key["seed"]))
    configs = SMALL.get(key["model"], sampling.SAMPLERS)
    y = torch.arange(key["n"]) % 10
    x, evaluations, _ = sampling.sample_labels(
        train.load(key["model"]), configs[key["sampler"]], key["asked"], y, key["scale"],
        key["seed"])
    return key | {"evaluations": evaluations} | measured(x, y)


def identity(row: dict) -> tuple:
    """The key of a row, as the file spells it."""
    return tuple(str(row[name]) for name in KEY)


def main() -> None:
    done = set()
    if CSV.is_file():
        with CSV.open() as file:
            done = {identity(row) for row in csv.DictReader(file)}
    print(train.about_machine())
    for key in wanted():
        if identity(key) in done:
            continue
        row = row_of(key)
        with CSV.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        print(*(f"{row[name]:.4g}" if isinstance(row[name], float) else row[name]
                for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
