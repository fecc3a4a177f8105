"""What a network costs: its parameters, its multiply-adds, its time."""
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(net: nn.Module) -> int:
    """The number of weights that are trained."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def multiply_adds(net: Callable, *inputs, **conditions) -> int:
    """Multiply-adds of one forward pass, in convolutions and matrix products (half of what torch counts as operations)."""
    with FlopCounterMode(display=False) as counter:
        net(*inputs, **conditions)
    return counter.get_total_flops() // 2


def seconds(*runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """The median time of each run, taken in turns so that a noisy machine is noisy for all of them; the first round only warms up."""
    times = []
    for _ in range(rounds + 1):
        row = []
        for run in runs:
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        times.append(row)
    return [statistics.median(column) for column in zip(*times[1:])]
