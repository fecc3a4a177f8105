"""Spread, floors, precision and recall of lesson 4's samplers, on the shipped model of digits.

    python benchmarks/lesson4_spread.py

Part 1: real digits, as many of each label, twelve draws at n = 1,000, 2,000 and 4,000 (the floors).
Part 2: the small teacher and its consistency student with at most four evaluations, three seeds,
n = 2,000. Part 3: five samplers with 8 and 30 evaluations at w = 1, then four of them with 8 at
w = 2, three seeds each, n = 2,000; samplers with the same seed begin with the same noise and
labels, so differences are paired. Features of real images are those of the test split; recall
counts test digits that lie near a sample. Rows go to course_lib/assets/lesson4_spread.csv as they
are finished; a row that is there is not repeated. Interrupted, the same command goes on. About an
hour of one core.
"""
import torch
from common.digits import digits_of_each_label
from common.growing_table import Table

from course_lib import samplers
from course_lib.lab import features, metrics, sampling, storage, train

CSV = storage.ASSETS / "lesson4_spread.csv"
KEY = ("model", "sampler", "scale", "asked", "n", "seed")
NAMES = ("ancestral", "ddim", "heun", "dpmpp", "unipc")
N = 2_000
FLOOR_SIZES = (1_000, N, 4_000)
FLOOR_DRAWS = 12
ASKED = {1.0: (8, 30), 2.0: (8,)}                       # by guidance scale
SEEDS = range(3)
RECALL_POINTS = 2_000
consistency = sampling.SamplerConfig(samplers.consistency_sampling)
SMALL = {
    "mnist_small": {name: sampling.SAMPLERS[name] for name in ("ddim", "ancestral", "unipc")},
    "mnist_consistency": {},
}
for configs in SMALL.values():
    configs["consistency"] = consistency


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


def wanted() -> list[tuple]:
    """The keys of all rows."""
    rows = [("real", "real", 1.0, 0, n, seed) for n in FLOOR_SIZES for seed in range(FLOOR_DRAWS)]
    rows += [(model, name, 1.0, asked, N, seed)
             for seed in SEEDS for model, configs in SMALL.items() for asked in (1, 2, 4)
             for name in configs if asked == 4 or name in ("ddim", "consistency")]
    rows += [("mnist", name, scale, asked, N, seed)
             for scale, counts in ASKED.items() for asked in counts for seed in SEEDS
             for name in NAMES if scale == 1 or name != "heun"]
    return rows


def row_of(model: str, name: str, scale: float, asked: int, n: int, seed: int) -> dict:
    """What is measured for one key."""
    if model == "real":
        return {"evaluations": 0} | measured(*digits_of_each_label(n, seed))
    config = SMALL.get(model, sampling.SAMPLERS)[name]
    y = torch.arange(n) % 10
    x, evaluations, _ = sampling.sample_labels(train.load(model), config, asked, y, scale, seed)
    return {"evaluations": evaluations} | measured(x, y)


def main() -> None:
    table = Table(CSV, *KEY)
    print(train.about_machine())
    for key in wanted():
        if key not in table:
            table.add(**dict(zip(KEY, key)), **row_of(*key))


if __name__ == "__main__":
    main()
