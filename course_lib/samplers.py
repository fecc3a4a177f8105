"""Samplers: from noise to data, with any denoiser (x, t, **condition) -> x0_hat.

Each yields the state at every time of ts, the start included:
`*path, x = ddim(D, schedule, x, ts)`, or `last(ddim(...))` to keep the end only.
x: (B, ...), the state at ts[0]. ts: (n + 1,), strictly falling times in [0, 1] (see `timesteps`).
generator: the source of fresh noise; deterministic samplers accept it and ignore it.
**condition goes to D, such as y=labels. Each raises TypeError or ValueError, when it is called, for
a bad x, ts or option and for a schedule that is not D's; on the way for a prediction that is not
like x, or not finite.
"""
import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from . import validate
from .schedules import Schedule, append_dims, randn_like, validate_schedule

Denoise = Callable[..., Tensor]


# ---- where to put the steps

def _even_in_log_snr(schedule: Schedule, start: float, n: int) -> Tensor:
    first = schedule.log_snr(start).clamp(min=-14)
    final = schedule.log_snr(min(1e-3, start / 2)).clamp(max=14)    # sigma / alpha = 1e-3
    ts = schedule.t_from_log_snr(torch.linspace(first, final, n, dtype=torch.float64))
    return torch.cat([ts.new_tensor([start]), ts[1:]])


def _karras(schedule: Schedule, start: float, n: int, rho: float = 7.0,
            sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    high = min(sigma_max, _edm_sigma(schedule, torch.tensor(start)).item()) ** (1 / rho)
    low = sigma_min ** (1 / rho)
    sigma = (high + torch.linspace(0, 1, n, dtype=torch.float64) * (low - high)) ** rho
    return schedule.t_from_log_snr(-2 * sigma.log())


SPACINGS: dict[str, Callable[[Schedule, float, int], Tensor]] = {
    "time":      lambda schedule, start, n: start * torch.arange(n, 0, -1).double() / n,
    "quadratic": lambda schedule, start, n: start * (torch.arange(n, 0, -1).double() / n) ** 2,
    "log_snr":   _even_in_log_snr,
    "karras":    _karras,
}


def timesteps(schedule: Schedule, n: int, spacing: str | Callable = "time",
              start: float = 1.0) -> Tensor:
    """n + 1 falling times, float64: start, ..., 0.

    spacing: "time" is even in t (diffusers' `trailing`); "quadratic" in sqrt(t) (Song et al. 2021,
    DDIM); "log_snr" in log-SNR, at most from -14 to 14 or to t = 1e-3, then 0 (Lu et al. 2022);
    "karras" in (sigma / alpha)^(1/7), from 80 at most to 0.002, then 0 (Karras et al. 2022, eq. 5:
    its first time may lie below `start`); or a function (schedule, start, n) -> n falling times.
    Raises ValueError for another spacing, n < 1 and a start outside (0, 1].
    """
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    n = validate.whole(n, "n", what="the number of steps")
    start = validate.number(start, "start", 0, 1, above=True, what="(i + 1) / T for step i of T")
    if not callable(spacing):
        validate.choice(spacing, "spacing", (*SPACINGS, "or a function"))
    ts = (spacing if callable(spacing) else SPACINGS[spacing])(schedule, start, n)
    ts = torch.cat([validate.time(ts).flatten(), torch.zeros(1, dtype=torch.float64)])
    if len(ts) != n + 1 or not (ts[1:] < ts[:-1]).all():
        raise ValueError(f"spacing must return {n} falling times above 0; got {ts[:-1].tolist()}")
    return ts


# ---- what every sampler does with what it is given

def sampler(walk: Callable[..., Iterator[Tensor]]) -> Callable[..., Iterator[Tensor]]:
    """A sampler whose arguments are checked when it is called, and each prediction of D when it is
    made. `walk` gets ts as a tensor.
    """
    validate.function(walk, "a sampler", "(D, schedule, x, ts, **options) that yields states")

    @functools.wraps(walk)
    def checked(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], **options):
        validate_model(D, schedule)
        x = validate.real(x, "the starting x")
        ts = validate_grid(ts, rising=walk.__name__ == "ddim_invert")
        validate.generator(options.get("generator"))
        states = walk(predictions(D), schedule, x, ts, **options)
        return itertools.chain([next(states)], states)      # as far as x: options are checked
    return checked


def predictions(D: Denoise) -> Denoise:
    """D, whose predictions are checked: like x, and finite."""
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")

    def predict(x: Tensor, t: Tensor, **condition) -> Tensor:
        return validate.prediction(D(x, t, **condition), x)
    return predict


def validate_model(D: Denoise, schedule: Schedule) -> None:
    """D is a denoiser and schedule its own, where D says which that is."""
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate_schedule(D, schedule)


def validate_grid(ts: Iterable[float], rising: bool = False) -> Tensor:
    """ts as falling (or rising) times in [0, 1], float64 on the CPU, at least two."""
    ts = list(ts) if isinstance(ts, Iterator) else ts
    ts = validate.tensor(ts, "ts", torch.float64).cpu()
    if (ts > 1).any():
        raise ValueError(f"ts must lie in [0, 1]; got {ts.max():g}: "
                         "a grid of whole steps i must say (i + 1) / T")
    order = ts.flip(0) if rising else ts
    if ts.ndim != 1 or len(ts) < 2 or not (order[1:] < order[:-1]).all() or not order[-1] >= 0:
        if rising:
            raise ValueError("this goes from data to noise: ts must be rising, such as "
                             "timesteps(schedule, n).flip(0)")
        raise ValueError("a sampler walks from noise to data: ts must be at least two times in "
                         "[0, 1], strictly falling (timesteps(schedule, n) makes them)")
    return ts


# ---- DDPM and DDIM

def step(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, eta: float = 0.0,
         generator: torch.Generator | None = None, *, variance: str = "posterior") -> Tensor:
    """One step of DDIM, from level t down to level s < t. (Song et al. 2021, DDIM, eq. 12 and 16)

    eta = 0 is deterministic; eta = 1 draws from the DDPM posterior q(x_s | x_t, x0_hat).
    variance: "beta" keeps the mean, and the noise has the variance of q(x_t | x_s), beta_t between
    neighbouring steps (sigma-hat in the DDIM paper); there is none in the step to s = 0.
    Raises TypeError or ValueError for levels that do not fall, and an x0_hat that is not like x.
    """
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    x = validate.real(x)
    validate.prediction(x0_hat, x)
    t, s = validate.time(t, x), validate.time(s, x)
    if t.device.type == s.device.type == "cpu" and (s >= t).any():
        raise ValueError(f"a step goes down, to s < t; got t = {t.min():.4g}, s = {s.max():.4g}")
    validate.number(eta, "eta", 0, 1)
    validate.generator(generator)
    validate.choice(variance, "variance", ("posterior", "beta"))
    return _step(schedule, x, x0_hat, t, s, eta, generator, variance)


def _step(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, eta: float = 0.0,
          generator: torch.Generator | None = None, variance: str = "posterior") -> Tensor:
    """The step of samplers, whose arguments were checked before."""
    alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
    sigma_t, sigma_s = schedule.sigma(t), schedule.sigma(s)
    ratio = alpha_t / alpha_s
    std = eta * sigma_s * (1 - (ratio * sigma_s / sigma_t) ** 2).clamp(min=0).sqrt()
    rest = append_dims((sigma_s**2 - std**2).clamp(min=0).sqrt(), x)
    x_s = append_dims(alpha_s, x) * x0_hat + rest * _eps_hat(schedule, x, x0_hat, t)
    if variance == "beta":
        std = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt() * (s > 0)
    return x_s + append_dims(std, x) * randn_like(x, generator) if (std > 0).any() else x_s


@sampler
@torch.no_grad()
def ddim(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *, eta: float = 0.0,
         generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Song et al. 2021, DDIM, eq. 12. eta in [0, 1] scales the noise.

    At eta = 0 it is also Euler's method for flow matching and EDM, and DPM-Solver++ of order 1.
    """
    validate.number(eta, "eta", 0, 1)
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x = _step(schedule, x, D(x, t, **condition), t, s, eta, generator)
        yield x


@sampler
@torch.no_grad()
def ancestral(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *,
              variance: str = "posterior", generator: torch.Generator | None = None,
              **condition) -> Iterator[Tensor]:
    """Ho et al. 2020, algorithm 2, on any grid: every step draws from q(x_s | x_t, x0_hat).

    variance: "posterior" is the paper's beta_tilde_t, "beta" its other choice, beta_t.
    """
    validate.choice(variance, "variance", ("posterior", "beta"))
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x = _step(schedule, x, D(x, t, **condition), t, s, 1.0, generator, variance)
        yield x


# ---- solvers of the probability-flow ODE

@sampler
@torch.no_grad()
def heun(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *, s_churn: float = 0.0,
         s_range: tuple[float, float] = (0.0, math.inf), s_noise: float = 1.0,
         generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Karras et al. 2022, algorithm 1; with s_churn > 0 algorithm 2. Second order.

    Euler predictor, then a trapezoidal corrector, for x / alpha as a function of sigma / alpha: two
    evaluations a step, one in the step to sigma = 0. s_churn, s_range, s_noise: S_churn, (S_tmin,
    S_tmax) in sigma / alpha, and S_noise. Raises ValueError where alpha < 1e-3 at ts[0].
    """
    steps = list(zip(ts[:-1], ts[1:]))
    if schedule.alpha(ts[0]) < 1e-3:
        raise ValueError(f"heun divides by alpha, which is {schedule.alpha(ts[0]):.2g} at t = "
                         f"{ts[0]:g} of {schedule}: start below, as timesteps(schedule, n, "
                         "'karras') does")
    validate.number(s_churn, "s_churn", 0)
    if not isinstance(s_range, (tuple, list)) or len(s_range) != 2 or not s_range[0] <= s_range[1]:
        raise ValueError(f"s_range must be (low, high), in sigma / alpha; got {s_range}")
    validate.number(s_noise, "s_noise", 0)
    gamma = min(s_churn / len(steps), 2**0.5 - 1)
    yield x
    for t, s in steps:
        sigma = _edm_sigma(schedule, t)
        if gamma > 0 and s_range[0] <= sigma <= s_range[1]:
            x, t = _churn(schedule, x, t, (1 + gamma) * sigma, s_noise, generator)
        eps_hat = _eps_hat(schedule, x, D(x, t, **condition), t)
        x_pred = _euler_step(schedule, x, eps_hat, t, s)
        if schedule.sigma(s) > 0:
            eps_pred = _eps_hat(schedule, x_pred, D(x_pred, s, **condition), s)
            x_pred = _euler_step(schedule, x, (eps_hat + eps_pred) / 2, t, s)
        x = x_pred
        yield x


@sampler
@torch.no_grad()
def dpmpp(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *,
          generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: second order, one evaluation a step.

    In lambda = log(alpha / sigma) the ODE is solved exactly except for an integral of x0_hat, which
    is extrapolated linearly from the last two. The first step and the step to 0 are DDIM's.
    """
    previous = None
    h_previous = math.inf
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x0_hat, h = D(x, t, **condition), _lambda(schedule, s) - _lambda(schedule, t)
        x0_line = x0_hat
        if previous is not None and h.isfinite():
            x0_line = x0_hat + append_dims(h / (2 * h_previous), x) * (x0_hat - previous)
        x_base = append_dims(schedule.sigma(s) / schedule.sigma(t), x) * x
        x = x_base - append_dims(schedule.alpha(s) * torch.expm1(-h), x) * x0_line
        previous, h_previous = x0_hat, h
        yield x


@sampler
@torch.no_grad()
def unipc(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *, order: int = 2,
          solver_type: str | None = None, generator: torch.Generator | None = None,
          **condition) -> Iterator[Tensor]:
    """UniPC, Zhao et al. 2023: a predictor of the given order, a corrector of order + 1.

    Both integrate a polynomial in lambda through past x0_hats; the corrector adds the one at the
    predicted state, which the next step needs anyway: one evaluation a step. order: 1, 2 or 3; at
    most 2 in the last step but one of a grid that ends at 0. solver_type: B(h), which replaces an
    exact integral where a polynomial has two points: h ("bh1") or 1 - e^-h ("bh2", as in `dpmpp`).
    Both equal diffusers' UniPCMultistepScheduler, except that it does not correct the end of a grid
    above 0. None: bh2 in predictors, exact correctors; at orders 2 and 3 this differs from "bh2" in
    the first correction alone.
    """
    steps = list(zip(ts[:-1], ts[1:]))
    order = validate.whole(order, "order", 1, 3)
    validate.choice(solver_type, "solver_type", (None, *B_H))
    end, history = steps[-1][1], collections.deque(maxlen=order)    # (time, x0_hat), newest first
    yield x
    x0_hat = D(x, steps[0][0], **condition)
    for left, (t, s) in zip(range(len(steps), 0, -1), steps):
        history.appendleft((t, x0_hat))
        points = list(history)[:left if end == 0 else order]
        x_pred = _exponential_step(schedule, x, t, s, points, solver_type or "bh2")
        if schedule.sigma(s) > 0:
            x0_hat = D(x_pred, s, **condition)
            points.append((s, x0_hat))
            x_pred = _exponential_step(schedule, x, t, s, points, solver_type)
        if schedule.alpha(t) == 0:
            history.clear()                             # lambda = -inf is no point for later steps
        x = x_pred
        yield x


@sampler
@torch.no_grad()
def ddim_invert(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *,
                generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """DDIM backwards: from data to the noise that ddim would have started from.

    ts: rising, such as timesteps(schedule, n).flip(0). Each step evaluates D where it starts; the
    step from t = 0 at the next level. (Song et al. 2021, DDIM, section 4.3)
    """
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        r = t if schedule.sigma(t) > 0 else s
        x_r = append_dims(schedule.alpha(r) / schedule.alpha(t), x) * x
        eps_hat = _eps_hat(schedule, x_r, D(x_r, r, **condition), r)
        x0_hat = x - append_dims(schedule.sigma(t), x) * eps_hat
        x = schedule.perturb(x0_hat / append_dims(schedule.alpha(t), x), s, eps_hat)
        yield x


@sampler
@torch.no_grad()
def consistency_sampling(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *,
                         generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Song et al. 2023, consistency models, algorithm 1: predict x0, add fresh noise, repeat.

    For a D that maps any point of a trajectory to its endpoint (course_lib.consistency); ts: the
    levels it was trained at, then 0.
    """
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x = schedule.perturb(D(x, t, **condition), s, randn_like(x, generator))
        yield x


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """Spherical interpolation, from a (fraction 0) to b (1), per example. (Shoemake 1985)

    a, b: (B, ...). Between two noises it keeps the length of noise; a straight line does not.
    Raises ValueError where shapes differ, and for opposite ends, between which there are many ways.
    """
    a = validate.real(a, "a", ndim=2)
    b = validate.real(b, "b", like=a, ndim=2)
    fraction = validate.number(fraction, "fraction", 0, 1)
    cosine = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
    if cosine.isnan().any():
        raise ValueError("a and b have a direction each; one of them is 0")
    if (cosine < -1 + 1e-6).any():
        raise ValueError("a and b are opposite: every way between them is as long as any other")
    angle = cosine.clamp(-1, 1).acos().clamp(min=1e-6)              # (B,)
    weight_a = ((1 - fraction) * angle).sin() / angle.sin()
    weight_b = (fraction * angle).sin() / angle.sin()
    return append_dims(weight_a, a) * a + append_dims(weight_b, b) * b


def last(states: Iterable[Tensor]) -> Tensor:
    """The final state of a sampler, without keeping the ones before it.

    Raises TypeError for what is no sampler's states, ValueError where there are none.
    """
    if not isinstance(states, Iterable) or isinstance(states, (Tensor, str)):
        raise TypeError("last takes the states that a sampler yields, such as ddim(D, schedule, "
                        f"x, ts); got {type(states).__name__}")
    end = collections.deque(states, maxlen=1)
    if not end:
        raise ValueError("there are no states: the sampler was used up before")
    return end.pop()


# ---- parts of the solvers

def _lambda(schedule: Schedule, t: Tensor) -> Tensor:
    """log(alpha / sigma), half the log-SNR."""
    return schedule.log_snr(t) / 2


def _edm_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """sigma / alpha: what Karras et al. 2022 call sigma."""
    return schedule.sigma(t) / schedule.alpha(t)


def _eps_hat(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    """The noise prediction that belongs to x0_hat."""
    return (x - append_dims(schedule.alpha(t), x) * x0_hat) / append_dims(schedule.sigma(t), x)


def _euler_step(schedule: Schedule, x: Tensor, eps_hat: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Euler's step for x / alpha as a function of sigma / alpha, whose slope is eps_hat."""
    ratio = schedule.alpha(s) / schedule.alpha(t)
    h = schedule.sigma(s) - ratio * schedule.sigma(t)
    return append_dims(ratio, x) * x + append_dims(h, x) * eps_hat


def _churn(schedule: Schedule, x: Tensor, t: Tensor, sigma_hat: Tensor, s_noise: float,
           generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """x with fresh noise, at sigma / alpha = sigma_hat, and its time. (Karras et al., algorithm 2)

    s_noise scales the fresh noise. Beyond the schedule's end, x is noised up to t = 1.
    """
    t_hat = torch.maximum(schedule.t_from_log_snr(-2 * sigma_hat.log()), t)
    x_base = append_dims(schedule.alpha(t_hat) / schedule.alpha(t), x) * x
    return torch.lerp(x_base, schedule.renoise(x, t, t_hat, generator), s_noise), t_hat


B_H = {"bh1": lambda h: h, "bh2": lambda h: -torch.expm1(-h)}      # Zhao et al. 2023


def _exponential_step(schedule: Schedule, x: Tensor, t: Tensor, s: Tensor,
                      points: list[tuple[Tensor, Tensor]], solver_type: str | None) -> Tensor:
    """x_s = sigma_s / sigma_t x + alpha_s sum_j w_j x0_hat_j, with sum_j w_j u_j^k = I_k.

    Exact where x0_hat is a polynomial in lambda. points: K pairs (time, x0_hat), the first at t;
    u_j: lambda at their times minus lambda at t. solver_type: see `unipc`. A step from alpha = 0 or
    to sigma = 0, infinitely long in lambda, uses the first point alone: DDIM.
    """
    u = torch.stack([_lambda(schedule, r) for r, _ in points])
    h, u = _lambda(schedule, s) - u[0], u - u[0]
    if not h.isfinite():
        return _step(schedule, x, points[0][1], t, s)
    integrals = _exponential_integrals(h, len(points))
    if solver_type and len(points) == 2:
        integrals[1] = h * B_H[solver_type](h) / 2
    powers = u ** torch.arange(len(points), device=u.device)[:, None]       # (K, K), row k: u_j^k
    w = schedule.alpha(s) * torch.linalg.solve(powers, integrals)
    x_base = append_dims(schedule.sigma(s) / schedule.sigma(t), x) * x
    return x_base + sum(append_dims(w_j, x) * x0_hat for w_j, (_, x0_hat) in zip(w, points))


def _exponential_integrals(h: Tensor, K: int) -> Tensor:
    """I_k, the integral of e^(u - h) u^k over u from 0 to h, for k = 0 ... K - 1: (K,)"""
    integrals = [-torch.expm1(-h)]
    for k in range(1, K):
        integrals.append(h**k - k * integrals[-1])
    return torch.stack(integrals)
