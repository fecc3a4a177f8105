"""Real digits as benchmarks draw them."""
import torch
from torch import Tensor

from course_lib.lab import data


def digits_of_each_label(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n training digits, n / 10 of each label: (n, 1, 28, 28), (n,)"""
    x, y = data.mnist("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[y[order] == label][: n // 10] for label in range(10)])
    return x[rows], y[rows]
