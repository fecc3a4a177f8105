"""benchmarks/mnist_minutes.py: its drawing, with a network that has learnt nothing."""
import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks/mnist_minutes.py"


@pytest.fixture(scope="module")
def minutes():
    spec = importlib.util.spec_from_file_location("mnist_minutes", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("scale, eta", [(1.0, 1.0), (2.0, 0.0)])
def test_a_digit_for_each_label(minutes, scale, eta):
    images = minutes.draw(minutes.denoiser(), torch.arange(3), scale, eta, steps=2)
    assert images.shape == (3, 1, 28, 28) and images.isfinite().all()
