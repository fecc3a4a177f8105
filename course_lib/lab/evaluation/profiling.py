"""The cost of a network: its parameters, its multiply-adds, its time."""
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ... import validate


def count_parameters(net: nn.Module) -> int:
    """The number of parameters that require a gradient."""
    validate.instance(net, nn.Module, "net", "UNet(channels=1)")
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@torch.no_grad()
def multiply_adds(net: Callable, *inputs, **conditions) -> int:
    """Multiply-adds of one forward pass, in convolutions and matrix products
    (half of torch's FLOPs).

    Raises TypeError for a net that is no function, and inputs without a tensor.
    """
    validate.function(net, "net", "of the inputs, such as UNet(channels=1)")
    if inputs and not any(isinstance(value, Tensor) for value in inputs):
        raise TypeError(f"inputs must be net's, such as torch.zeros(1, 1, 28, 28); got {inputs}")
    # the fused attention of a CPU is not counted: take the plain one
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(*inputs, **conditions)
    return counter.get_total_flops() // 2


def median_seconds(*runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """The median time of each function, in seconds, called in turns, so that all share the
    machine's noise.

    The first round only warms up. Raises TypeError or ValueError for no functions.
    """
    if not runs:
        raise TypeError("pass at least one function, such as lambda: net(x, t)")
    for run in runs:
        validate.function(run, "each of runs", "() -> anything, such as lambda: net(x, t)")
    validate.whole(rounds, "rounds")
    times = []
    for _ in range(rounds + 1):
        row = []
        for run in runs:
            start = time.perf_counter()
            run()
            row.append(time.perf_counter() - start)
        times.append(row)
    return [statistics.median(column) for column in zip(*times[1:])]
