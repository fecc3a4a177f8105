"""The shipped checkpoints: whole, described, small, and as good as their cards say."""
import tomllib
from pathlib import Path

import pytest
import torch

from course_lib import clip, ddim, grid, last
from course_lib.lab import data, metrics, study, train

ROOT = Path(__file__).parents[1]
NAMES = sorted(p.stem for p in (data.ASSETS / "checkpoints").glob("*.safetensors") if (ROOT / f"configs/{p.stem}.toml").exists() and "network" in tomllib.loads((ROOT / f"configs/{p.stem}.toml").read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_how_it_was_made(name):
    """The configuration in the header is the one in configs/, with the command and the measured numbers beside it."""
    D = train.load(name, on="cpu")
    assert D.about["config"] == tomllib.loads((ROOT / f"configs/{name}.toml").read_text()) and f"configs/{name}.toml" in D.about["command"]
    samples = D.about["metrics"]["samples"]
    least, measured = (500, "squared_error") if name == "nouns" else (2000, "frechet_distance")
    assert samples[0]["n"] >= least and 0 < samples[0][measured] and "tools/ship.py" in D.about["metrics"]["judged_by"]
    assert (data.ASSETS / f"checkpoints/{name}.safetensors").stat().st_size < 8e6


@pytest.mark.parametrize("name", [name for name in NAMES if "mnist" in name])
def test_it_draws_what_it_is_asked_for(name):
    """A hundred digits in ten steps: the classifier sees the digit that was asked for, nearly as often as the card says."""
    D, y = train.load(name, on="cpu"), torch.arange(100) % 10
    x = D.schedule.prior((100, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = last(ddim(clip(D), D.schedule, x, grid(D.schedule, 10), y=y))
    assert metrics.class_agreement(x.clamp(-1, 1), y) >= D.about["metrics"]["samples"][0]["class_agreement"] - 0.04


def test_photographs():
    """Two of each class in eight steps: colours as spread as CIFAR-10's (standard deviation 0.5), and the class matters."""
    D, y = train.load("cifar10", on="cpu"), torch.arange(20) % 10
    x, calls, _ = study.drawn(D, study.WAYS["dpmpp"], 8, y)
    assert calls == 8 and x.shape == (20, 3, 32, 32) and 0.35 < x.std() < 0.65 and x.mean().abs() < 0.25
    other, _, _ = study.drawn(D, study.WAYS["dpmpp"], 8, y.flip(0))
    assert (x - other).square().mean().sqrt() > 0.2, "the same noise with other labels"


def test_mnist_is_shipped():
    assert {"mnist", "mnist_small", "cifar10"} <= set(NAMES)
