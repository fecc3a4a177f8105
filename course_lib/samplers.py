"""Samplers: from noise to data, with any denoiser (x, t, **condition) -> x0_hat.

Each is a generator that yields the state at every point of the grid, the start included:
`*path, x = ddim(D, schedule, x, ts)`, or `last(ddim(...))` to keep the end only.
"""
import collections
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .schedules import Schedule, as_float64, over, randn_like

Denoise = Callable[..., Tensor]


def _even_in_log_snr(schedule: Schedule, start: float, n: int) -> Tensor:
    first = schedule.log_snr(start).clamp(min=-14)
    final = schedule.log_snr(min(1e-3, start / 2)).clamp(max=14)        # sigma / alpha = 1e-3: cleaner than a byte can tell
    ts = schedule.t_from_log_snr(torch.linspace(first, final, n, dtype=torch.float64))
    ts[0] = start
    return ts


SPACINGS: dict[str, Callable[[Schedule, float, int], Tensor]] = {
    "time":    lambda schedule, start, n: start * torch.arange(n, 0, -1, dtype=torch.float64) / n,
    "log_snr": _even_in_log_snr,
}


def grid(schedule: Schedule, n: int, spacing: str | Callable = "time", start: float = 1.0) -> Tensor:
    """n + 1 falling times, float64: start, ..., 0.

    spacing "time" is even in t (diffusers' `trailing`); "log_snr" is even in log-SNR, at most from -14 to 14 or to
    t = 1e-3, then 0 (Lu et al. 2022); or a function (schedule, start, n) -> n falling times.
    """
    if n < 1 or not 0 < start <= 1:
        raise ValueError(f"a grid needs n >= 1 steps and a start in (0, 1]; got n = {n}, start = {start}")
    if isinstance(spacing, str) and spacing not in SPACINGS:
        raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, or a function; got {spacing!r}")
    ts = (SPACINGS[spacing] if isinstance(spacing, str) else spacing)(schedule, start, n)
    return torch.cat([ts, torch.zeros(1, dtype=torch.float64)])


def step(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, eta: float = 0.0,
         generator: torch.Generator | None = None, sigma_hat: bool = False) -> Tensor:
    """From level t down to level s < t, given the denoiser's guess. (Song et al. 2021, DDIM, eq. 12 and 16)

    eta = 0 is deterministic; eta = 1 draws from the DDPM posterior q(x_s | x_t, x0_hat). sigma_hat = True keeps eta = 1's
    mean and takes DDPM's other choice of noise, the variance of q(x_t | x_s), which is beta_t between
    neighbouring steps (none in the step to s = 0).
    """
    alpha_t, alpha_s, sigma_t, sigma_s = schedule.alpha(t), schedule.alpha(s), schedule.sigma(t), schedule.sigma(s)
    ratio = alpha_t / alpha_s
    std = eta * sigma_s * (1 - (ratio * sigma_s / sigma_t) ** 2).clamp(min=0).sqrt()
    eps_hat = (x - over(alpha_t, x) * x0_hat) / over(sigma_t, x)
    x_s = over(alpha_s, x) * x0_hat + over((sigma_s**2 - std**2).clamp(min=0).sqrt(), x) * eps_hat
    noise = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt() * (s > 0) if sigma_hat else std
    return x_s + over(noise, x) * randn_like(x, generator) if (noise > 0).any() else x_s


@torch.no_grad()
def ddim(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], eta: float = 0.0,
         generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Song et al. 2021, DDIM, eq. 12. At eta = 0 also Euler for flow matching and EDM, and first-order DPM-Solver++.

    x: (B, ...) at level ts[0]; ts: falling, in [0, 1]; condition: tensors that D takes. Yields len(ts) states.
    """
    steps = _pairs(ts, x, eta)
    yield x
    for t, s in steps:
        x = step(schedule, x, D(x, t, **condition), t, s, eta, generator)
        yield x


@torch.no_grad()
def ancestral(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], generator: torch.Generator | None = None,
              sigma_hat: bool = False, **condition) -> Iterator[Tensor]:
    """Ho et al. 2020, algorithm 2, on any falling grid: every step draws from q(x_s | x_t, x0_hat).

    sigma_hat = True is the paper's other variance, beta_t in place of the posterior's beta_tilde_t.
    """
    steps = _pairs(ts, x)
    yield x
    for t, s in steps:
        x = step(schedule, x, D(x, t, **condition), t, s, 1.0, generator, sigma_hat)
        yield x


def last(states: Iterable[Tensor]) -> Tensor:
    """The final state of a sampler, without keeping the ones before it."""
    return collections.deque(states, maxlen=1).pop()


def _pairs(ts: Iterable[float], x: Tensor, eta: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps (t, s) of a falling grid, after a look at what the caller passed."""
    ts = as_float64(ts)
    if ts.ndim != 1 or len(ts) < 2 or not (ts[1:] < ts[:-1]).all() or ts[0] > 1 or ts[-1] < 0:
        raise ValueError("a sampler walks from noise to data: ts must be at least two times in [0, 1], strictly falling (grid(schedule, n) makes them)")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1]; got {eta}")
    if not x.isfinite().all():
        raise ValueError("the starting x has values that are not finite (nan or inf)")
    return zip(ts[:-1], ts[1:])
