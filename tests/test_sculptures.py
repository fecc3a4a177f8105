"""The table of the two-shadow sculptures: what it says of the shipped ones is true of them."""
import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import sculptures  # noqa: E402

from course_lib.distillation import shadow  # noqa: E402
from course_lib.lab import data, storage, train  # noqa: E402

ROWS = {row["way"]: row for row in csv.DictReader(sculptures.CSV.open())}


def shipped():
    tensors, about = storage.load_tensors(sculptures.CSV.with_suffix(".safetensors"))
    bits = np.unpackbits(tensors["distilled"].numpy(), axis=1)
    return torch.from_numpy(bits).view(about["shape"]).float()


def test_the_shipped_sculptures_cast_the_shadows_that_the_table_counts():
    density, read = shipped(), train.load("mnist_classifier", device="cpu")
    found = sculptures.judged(density)
    assert found["both_rounded"] == int(ROWS["distilled"]["both_rounded"])
    assert found["voxels"] == float(ROWS["distilled"]["voxels"])
    turned = density.transpose(1, 3)                                    # seen from the other side
    assert (read(shadow(turned)).argmax(1) == 7).sum() > 15
    assert (read(shadow(turned, "side")).argmax(1) == 3).sum() > 15


def test_every_way_has_its_row():
    assert set(ROWS) == {"distilled", "without guidance", "fitted", "real digits"}
    assert {row["n"] for row in ROWS.values()} == {"20"}
    assert sculptures.real(20)["variety_front"] == float(ROWS["real digits"]["variety_front"])


def test_pairs_of_digits_have_the_same_height():
    x = sculptures.same_height(6)
    assert x.shape == (12, 1, 28, 28)
    inked = (x[:, 0] > 0).any(2)
    span = lambda rows: (rows.nonzero().min().item(), rows.nonzero().max().item())
    assert [span(rows) for rows in inked[:6]] == [span(rows) for rows in inked[6:]]
    real, y = data.mnist("test")
    labels = [y[(real == image).flatten(1).all(1)].tolist() for image in x]
    assert labels == [[3]] * 6 + [[7]] * 6


def test_variety_is_the_mean_distance():
    x = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    assert sculptures.variety(x) == pytest.approx((1 + 3 + 2) / 3)
