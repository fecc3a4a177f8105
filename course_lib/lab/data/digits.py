"""MNIST, shipped with the course."""
from pathlib import Path

import torch
from torch import Tensor

from ..storage import ASSETS, load_arrays

SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"


def mnist(split: str = "train", file: Path = ASSETS / "mnist.npz") -> tuple[Tensor, Tensor]:
    """MNIST's digits: x (N, 1, 28, 28) float32 in [-1, 1] and y (N,) int64; N = 60,000 for "train",
    10,000 for "test".

    Raises ValueError for another split, FileNotFoundError or OSError when the shipped file is
    missing or damaged.
    Source: LeCun et al. 1998; see assets/LICENSES.md.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    arrays = load_arrays(file, SHA256)
    x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    return torch.from_numpy(x)[:, None].float().div_(127.5).sub_(1), torch.from_numpy(y).long()
