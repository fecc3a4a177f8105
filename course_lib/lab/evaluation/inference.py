"""Cheaper sampling with the same model, and how its cost is measured."""
import copy
import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...guidance import Denoise, Scale, _validate_scale, as_wrapper
from ...schedules import append_dims

# ---- guidance

def batched_cfg(D: Denoise, scale: Scale, null: dict) -> Denoise:
    """Classifier-free guidance in one pass: a batch of 2 B, the conditions first, then "none".

    The numbers are those of `cfg`, up to rounding, and so is the work; but each layer is called
    once a step, not twice. At scale 1 it is D alone, on a batch of B.

    scale: a number, (B,), or a function of t such as `guidance_interval`
    null:  the conditions that mean "none", such as {"context": (1, L, d)}; a negative prompt is
           another one
    Raises TypeError or ValueError as `cfg` does.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate.instance(null, dict, "null", 'D.net.encode(D.net.null["tokens"], 1)')
    if not null:
        raise ValueError('batched_cfg needs to know what "no condition" is: null is empty')

    def guided(x: Tensor, t: Tensor | float, **condition) -> Tensor:
        if null.keys() - condition.keys():
            missing = ", ".join(sorted(null.keys() - condition.keys()))
            raise ValueError(f"null names {missing}, and no {missing} was passed to lead to")
        weight = _validate_scale(scale(t) if callable(scale) else scale)
        if (weight == 1).all():
            return D(x, t, **condition)
        B = len(x)
        both = {
            name: torch.cat([_rows(value, B, name), _rows(null.get(name, value), B, name)])
            for name, value in condition.items()
        }
        twice = torch.cat([x, x])                                       # (2 B, ...)
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        high, low = validate.prediction(D(twice, times, **both), twice).chunk(2)
        return torch.lerp(low, high, append_dims(weight, x))
    return as_wrapper(guided, D)


def _rows(value: Tensor, B: int, name: str) -> Tensor:
    """A condition with one row for each example: (B, ...)."""
    value = validate.tensor(value, name)
    value = value.reshape(1) if value.ndim == 0 else value
    if len(value) not in (1, B):
        raise ValueError(f"{name} needs one row for each of {B} examples; got {len(value)}")
    return value.expand(B, *value.shape[1:])


# ---- another way to compute the same network

def with_unet(D: Denoiser, unet: nn.Module) -> Denoiser:
    """D with another U-Net, such as a CachedUNet; all other parts are shared.

    Raises TypeError for a D whose network has no U-Net, and a unet that is no module.
    """
    validate.instance(D, Denoiser, "D", "train.load('mini_sd')")
    validate.instance(unet, nn.Module, "unet", "CachedUNet(D.net.unet)")
    if not isinstance(getattr(D.net, "unet", None), nn.Module):
        raise TypeError(f"D.net must have a U-Net, as train.load('mini_sd'); got {type(D.net)}")
    return _with(D, "net", _with(D.net, "unet", unet))


def _with(module: nn.Module, name: str, part: nn.Module) -> nn.Module:
    """The module with another part of that name; the old one keeps its own."""
    other = copy.copy(module)
    other._modules = module._modules | {name: part}
    return other


# ---- cost

class Latency(NamedTuple):
    """Of one call, in seconds: the median, the 95th percentile, and how many were timed."""
    median: float
    p95: float
    rounds: int


def amdahl(fraction: float, factor: float) -> float:
    """How many times faster the whole is, if this fraction of its time is `factor` times faster.

    (Amdahl 1967) factor may be infinite: 1 / (1 - fraction). Raises TypeError or ValueError unless
    fraction is in [0, 1) and factor above 0.
    """
    fraction = validate.number(fraction, "fraction", 0, 1)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise TypeError(f"factor must be a number above 0; got {factor!r}")
    if fraction == 1 or not factor > 0:
        raise ValueError(f"fraction must be below 1, factor above 0; got {fraction} and {factor}")
    return 1 / (1 - fraction + fraction / factor)


def time_in_turns(
    runs: dict[str, Callable[[], object]], rounds: int = 10, seed: int = 0
) -> dict[str, list[float]]:
    """The seconds of each call of each function, `rounds` calls each: {name: [...]}

    In each round every function is called once, in an order drawn anew, so that all share what else
    the machine does. One call of each before the first round is not timed. Raises TypeError or
    ValueError for no functions.
    """
    validate.instance(runs, dict, "runs", '{"10 steps": lambda: draw(10)}')
    if not runs:
        raise ValueError('runs is empty: pass functions by name, {"10 steps": lambda: draw(10)}')
    for name, run in runs.items():
        validate.function(run, f"runs[{name!r}]", "() -> anything")
        run()
    seconds, order = {name: [] for name in runs}, random.Random(validate.seed(seed))
    for _ in range(validate.whole(rounds, "rounds")):
        for name in order.sample(list(runs), len(runs)):
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def latency(seconds: list[float]) -> Latency:
    """Median and 95th percentile, by linear interpolation between calls.

    With fewer than 20 calls the percentile lies above the last call but one. Raises TypeError or
    ValueError for no times, and times that are not above 0.
    """
    seconds = [validate.number(value, "each of seconds", 0, above=True) for value in seconds]
    if not seconds:
        raise ValueError("there are no times")
    ordered = torch.tensor(seconds, dtype=torch.float64)
    p95 = ordered.quantile(0.95).item()
    return Latency(statistics.median(seconds), p95, len(seconds))
