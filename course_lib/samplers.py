"""Samplers: from noise to data, with any denoiser (x, t, **condition) -> x0_hat.

Each is a generator that yields the state at every point of the grid, the start included:
`*path, x = ddim(D, schedule, x, ts)`, or `last(ddim(...))` to keep the end only.
"""
import collections
import math
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


def _karras(schedule: Schedule, start: float, n: int, rho: float = 7.0, low: float = 0.002, high: float = 80.0) -> Tensor:
    high, low = min(high, _noise_ratio(schedule, torch.tensor(start)).item()), low ** (1 / rho)
    sigma = (high ** (1 / rho) + torch.linspace(0, 1, n, dtype=torch.float64) * (low - high ** (1 / rho))) ** rho
    return schedule.t_from_log_snr(-2 * sigma.log())


SPACINGS: dict[str, Callable[[Schedule, float, int], Tensor]] = {
    "time":      lambda schedule, start, n: start * torch.arange(n, 0, -1, dtype=torch.float64) / n,
    "quadratic": lambda schedule, start, n: start * (torch.arange(n, 0, -1, dtype=torch.float64) / n) ** 2,
    "log_snr":   _even_in_log_snr,
    "karras":    _karras,
}


def grid(schedule: Schedule, n: int, spacing: str | Callable = "time", start: float = 1.0) -> Tensor:
    """n + 1 falling times, float64: start, ..., 0.

    spacing "time" is even in t (diffusers' `trailing`); "quadratic" in sqrt(t), more steps near the data (Song et al. 2021,
    DDIM); "log_snr" in log-SNR, at most from -14 to 14 or to t = 1e-3, then 0 (Lu et al. 2022); "karras" in
    (sigma / alpha)^(1/7), from 80 at most to 0.002, then 0 (Karras et al. 2022, eq. 5: its first time may lie below `start`);
    or a function (schedule, start, n) -> n falling times.
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
    eps_hat = _eps_hat(schedule, x, x0_hat, t)
    x_s = over(alpha_s, x) * x0_hat + over((sigma_s**2 - std**2).clamp(min=0).sqrt(), x) * eps_hat
    noise = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt() * (s > 0) if sigma_hat else std
    return x_s + over(noise, x) * randn_like(x, generator) if (noise > 0).any() else x_s


@torch.no_grad()
def ddim(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], eta: float = 0.0,
         generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Song et al. 2021, DDIM, eq. 12. At eta = 0 also Euler for flow matching and EDM, and first-order DPM-Solver++.

    x: (B, ...) at level ts[0]; ts: falling, in [0, 1]; condition: tensors that D takes. Yields len(ts) states.
    """
    steps = checked_steps(ts, x, eta)
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
    steps = checked_steps(ts, x)
    yield x
    for t, s in steps:
        x = step(schedule, x, D(x, t, **condition), t, s, 1.0, generator, sigma_hat)
        yield x


@torch.no_grad()
def heun(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], churn: float = 0.0, noisy: tuple[float, float] = (0.0, math.inf),
         s_noise: float = 1.0, generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Karras et al. 2022, algorithm 1; with churn > 0 algorithm 2. Second order, two evaluations a step (one in the step to 0).

    In the paper's x / alpha and r = sigma / alpha, where the slope is eps_hat: a step with the slope here, one look at where it
    leads, and the same step with the mean of both slopes. churn, noisy, s_noise are S_churn, (S_tmin, S_tmax) and S_noise: before a
    step with r in `noisy`, fresh noise lifts x to the higher level at which the denoiser then looks.
    """
    steps = list(checked_steps(ts, x))
    if schedule.alpha(steps[0][0]) == 0:
        raise ValueError(f"heun divides by alpha, which is 0 at t = {steps[0][0]:.4g} of {schedule}: start below, as grid(schedule, n, 'karras') does")
    yield x
    for t, s in steps:
        r = _noise_ratio(schedule, t)
        if churn and noisy[0] <= r <= noisy[1]:
            x, t = _lifted(schedule, x, t, r * (1 + min(churn / len(steps), 2**0.5 - 1)), s_noise, generator)
        eps_hat = _eps_hat(schedule, x, D(x, t, **condition), t)
        ahead = _along(schedule, x, eps_hat, t, s)
        if schedule.sigma(s) > 0:
            eps_ahead = _eps_hat(schedule, ahead, D(ahead, s, **condition), s)
            ahead = _along(schedule, x, (eps_hat + eps_ahead) / 2, t, s)
        x = ahead
        yield x


@torch.no_grad()
def dpmpp(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], **condition) -> Iterator[Tensor]:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: second order, one evaluation a step.

    In lambda = log(alpha / sigma) the way from t to s is known but for an integral over the guesses; the last two guesses are
    continued along it by a straight line. The first step, and the step to s = 0, are ddim's.
    """
    steps, known = checked_steps(ts, x), collections.deque(maxlen=2)           # (lambda, guess), newest first
    yield x
    for t, s in steps:
        guess = D(x, t, **condition)
        ahead, h = step(schedule, x, guess, t, s), _h(schedule, t, s)
        if h.isfinite():                                                # not from alpha = 0, not to sigma = 0
            known.appendleft((_lambda(schedule, t), guess))
            ahead = ahead + over(schedule.alpha(s), x) * _curved([((at - known[0][0]) / h, D1) for at, D1 in known], h)
        x = ahead
        yield x


@torch.no_grad()
def unipc(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], **condition) -> Iterator[Tensor]:
    """A predictor and a corrector from one evaluation a step, of third order, after UniPC (Zhao et al. 2023).

    Each step goes ahead like dpmpp of order 2. The guess made there, which the next step needs anyway, corrects this step: the guesses
    on both sides of it are joined by a parabola, over which the integral is exact.
    """
    steps, known, guess = checked_steps(ts, x), collections.deque(maxlen=2), None
    yield x
    for t, s in steps:
        guess = D(x, t, **condition) if guess is None else guess
        ahead, h = step(schedule, x, guess, t, s), _h(schedule, t, s)
        if h.isfinite():
            known.appendleft((_lambda(schedule, t), guess))
            plain, nodes = ahead, [((at - known[0][0]) / h, D1) for at, D1 in known]
            guess = D(plain + over(schedule.alpha(s), x) * _curved(nodes, h), s, **condition)
            ahead = plain + over(schedule.alpha(s), x) * _curved([*nodes, (torch.ones_like(h), guess)], h)
        else:
            guess = None
        x = ahead
        yield x


@torch.no_grad()
def consistency(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Song et al. 2023, consistency models, algorithm 1: guess the end, go back to the next level with fresh noise, guess again.

    For denoisers whose guess is an end of the path (course_lib.consistency); ts: the levels they were trained at, then 0.
    """
    steps = checked_steps(ts, x)
    yield x
    for t, s in steps:
        x = schedule.perturb(D(x, t, **condition), s, randn_like(x, generator))
        yield x


@torch.no_grad()
def invert(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], **condition) -> Iterator[Tensor]:
    """ddim backwards: from data to the noise that ddim would have started from. ts: rising, such as grid(schedule, n).flip(0).

    Song et al. 2021, DDIM, section 4.3. Each step takes the guess where it is, the first (at t = 0) at the next level.
    """
    ts = as_float64(ts)
    if ts.ndim != 1 or not (ts[1:] > ts[:-1]).all():
        raise ValueError("invert walks from data to noise: ts must be rising, such as grid(schedule, n).flip(0)")
    steps = [(s, t) for t, s in checked_steps(ts.flip(0), x)][::-1]
    yield x
    for t, s in steps:
        look = t if schedule.sigma(t) > 0 else s
        seen = x * over(schedule.alpha(look) / schedule.alpha(t), x)
        eps_hat = _eps_hat(schedule, seen, D(seen, look, **condition), look)
        x0_hat = (x - over(schedule.sigma(t), x) * eps_hat) / over(schedule.alpha(t), x)
        x = over(schedule.alpha(s), x) * x0_hat + over(schedule.sigma(s), x) * eps_hat
        yield x


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From noise a to noise b along the sphere, so that what lies between has the length of noise, too.   (B, ...) twice; Shoemake 1985"""
    cosine = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)                  # (B,)
    return over(((1 - share) * angle).sin() / angle.sin(), a) * a + over((share * angle).sin() / angle.sin(), b) * b


def last(states: Iterable[Tensor]) -> Tensor:
    """The final state of a sampler, without keeping the ones before it."""
    return collections.deque(states, maxlen=1).pop()


def _lambda(schedule: Schedule, t: Tensor) -> Tensor:
    """log(alpha / sigma), half the log-SNR."""
    return schedule.log_snr(t) / 2


def _noise_ratio(schedule: Schedule, t: Tensor) -> Tensor:
    """r = sigma / alpha: the noise level where the signal has size 1, "sigma" in Karras et al. 2022."""
    return schedule.sigma(t) / schedule.alpha(t)


def _eps_hat(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    """The noise that is left when the guess is taken away."""
    return (x - over(schedule.alpha(t), x) * x0_hat) / over(schedule.sigma(t), x)


def _along(schedule: Schedule, x: Tensor, eps_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """A straight step in x / alpha over r: its slope is eps_hat."""
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
    return over(alpha_s / alpha_t, x) * x + over(schedule.sigma(s) - alpha_s / alpha_t * schedule.sigma(t), x) * eps_hat


def _lifted(schedule: Schedule, x: Tensor, t: Tensor, r: Tensor, s_noise: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """x with fresh noise, at the level where sigma / alpha is r (or at the schedule's end); and that level's time."""
    up = torch.maximum(schedule.t_from_log_snr(-2 * r.log()), t)
    plain = over(schedule.alpha(up) / schedule.alpha(t), x) * x
    return torch.lerp(plain, schedule.renoise(x, t, up, generator), s_noise), up


def _h(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """How far a step goes in lambda: infinite from alpha = 0, and to sigma = 0."""
    return _lambda(schedule, s) - _lambda(schedule, t)


def _curved(nodes: list[tuple[Tensor, Tensor]], h: Tensor) -> Tensor | float:
    """What a curve through the guesses adds to a step that takes the first of them all the way, divided by alpha_s.

    nodes: (place, guess), places in units of the step, 0 first. The integral of e^(u - h) (P(u) - P(0)) over u from 0 to h, exactly, for
    the line or the parabola P through the nodes; two guesses behind each other as in DPM-Solver++(2M), where it is rounded.
    """
    (_, D0), *others = nodes
    if not others:
        return 0.0
    of_line = 1 + torch.expm1(-h) / h                                   # the integral of e^(u - h) u / h
    of_square = 1 - 2 * of_line / h                                     # and with (u / h)^2
    (v, D1), *rest = others
    if not rest:
        weight = of_line if v > 0 else -torch.expm1(-h) / 2
        return over(weight / v, D0) * (D1 - D0)
    w, D2 = rest[0]
    d1, d2 = (D1 - D0) / over(v, D0), (D2 - D0) / over(w, D0)           # divided differences
    bend = (d2 - d1) / over(w - v, D0)
    return over(of_line, D0) * (d1 - over(v, D0) * bend) + over(of_square, D0) * bend


def checked_steps(ts: Iterable[float], x: Tensor, eta: float = 0.0) -> Iterator[tuple[Tensor, Tensor]]:
    """The steps (t, s) of a falling grid, after a look at what the caller passed."""
    ts = as_float64(ts)
    if ts.ndim != 1 or len(ts) < 2 or not (ts[1:] < ts[:-1]).all() or ts[0] > 1 or ts[-1] < 0:
        raise ValueError("a sampler walks from noise to data: ts must be at least two times in [0, 1], strictly falling (grid(schedule, n) makes them)")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1]; got {eta}")
    if not x.isfinite().all():
        raise ValueError("the starting x has values that are not finite (nan or inf)")
    return zip(ts[:-1], ts[1:])
