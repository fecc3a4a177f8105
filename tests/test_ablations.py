"""The ablation table that lesson 2 prints: what it claims to compare is what the script builds."""
import csv
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import ablations  # noqa: E402

from course_lib.lab import cost  # noqa: E402

ROWS = list(csv.DictReader(ablations.CSV.open()))


def test_the_shipped_table():
    """Two seeds each, the same number of images, at least ten single changes beside the base, every name still in the script."""
    by_name = {}
    for row in ROWS:
        by_name.setdefault(row["variant"], set()).add(row["seed"])
        assert math.isfinite(float(row["validation_loss"])) and float(row["frechet_distance"]) > 0
    assert all(seeds == {"0", "1"} for seeds in by_name.values()) and len({row["images"] for row in ROWS}) == 1
    assert set(by_name) <= set(ablations.VARIANTS) and len(by_name) >= 11 and "base" in by_name
    assert tuple(ROWS[0]) == ablations.COLUMNS


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_variants_are_what_the_table_says(name):
    """Each builds, trains and has the cost that stands in the table."""
    D = ablations.variant(name)
    D.loss(torch.rand(2, 1, 28, 28) * 2 - 1, torch.tensor([0.2, 0.8]), y=torch.tensor([3, 10])).sum().backward()
    assert D.net.out.weight.grad is not None
    for row in ROWS:
        if row["variant"] == name:
            assert cost.parameters(D.net) == int(row["parameters"])
            adds = cost.multiply_adds(D.net.eval(), torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long))
            assert adds == int(row["multiply_adds"])


def test_seeds_change_the_start_and_nothing_else():
    a, b, again = (ablations.variant("base", seed).state_dict() for seed in (0, 1, 0))
    assert all(torch.equal(a[k], again[k]) for k in a) and not all(torch.equal(a[k], b[k]) for k in a)
