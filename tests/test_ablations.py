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

from course_lib.lab import profiling  # noqa: E402

ROWS = list(csv.DictReader(ablations.CSV.open()))


def test_the_shipped_table():
    """Two seeds each, the same number of images, at least ten single changes beside the base.

    Every name is still in the script.
    """
    by_name = {}
    for row in ROWS:
        by_name.setdefault(row["variant"], set()).add(row["seed"])
        assert math.isfinite(float(row["validation_loss"])) and float(row["frechet_distance"]) > 0
    assert all(seeds == {"0", "1"} for seeds in by_name.values())
    assert len({row["images"] for row in ROWS}) == 1
    assert set(by_name) <= set(ablations.VARIANTS) and len(by_name) >= 11 and "base" in by_name
    assert tuple(ROWS[0]) == ablations.COLUMNS


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_variants_are_what_the_table_says(name):
    """Each builds, trains and has the cost that stands in the table."""
    D = ablations.variant(name)
    x = torch.rand(2, 1, 28, 28) * 2 - 1
    loss = D.loss(x, torch.tensor([0.2, 0.8]), y=torch.tensor([3, 10]))
    loss.sum().backward()
    assert D.net.out.weight.grad is not None
    image, t, y = torch.zeros(1, 1, 28, 28), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    for row in ROWS:
        if row["variant"] == name:
            assert profiling.count_parameters(D.net) == int(row["parameters"])
            multiply_adds = profiling.multiply_adds(D.net.eval(), image, t, y)
            assert multiply_adds == int(row["multiply_adds"])


def test_seeds_change_the_start_and_nothing_else():
    a, b, again = (ablations.variant("base", seed).state_dict() for seed in (0, 1, 0))
    assert all(torch.equal(a[k], again[k]) for k in a)
    assert not all(torch.equal(a[k], b[k]) for k in a)


def test_a_variant_is_trained_and_measured():
    """A training of one step, and four samples."""
    D = ablations.train_on_cpu(ablations.variant("base"), steps=1, seed=0)
    assert ablations.samples(D, n=4).shape == (4, 1, 28, 28)
    assert 0.5 < ablations.validation_loss(D, n=8, levels=2) < 2


def test_a_row_has_every_column(monkeypatch):
    monkeypatch.setattr(ablations, "train_on_cpu", lambda D, steps, seed: D)
    monkeypatch.setattr(ablations, "measure", lambda D: (0.123456, 7.8912))
    row = ablations.row("base", seed=1, steps=250)
    assert tuple(row) == ablations.COLUMNS and row["seed"] == 1 and row["images"] == 32_000
    assert (row["validation_loss"], row["frechet_distance"]) == (0.12346, 7.891)
