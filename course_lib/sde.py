"""Continuous time: the SDE behind a schedule, its reverse processes, and likelihoods.

    forward   dx = f(t) x dt + g(t) dw
    reverse   dx = [f(t) x - (1 + lambda^2) / 2 g(t)^2 score(x, t)] dt + lambda g(t) dw

with f = alpha' / alpha and g^2 = 2 sigma sigma' - 2 f sigma^2. lambda = 1 is Anderson's reverse
process, lambda = 0 the probability-flow ODE; all have the same marginals. (Song et al. 2021, score
SDE, section 3 and 4; Kingma et al. 2021, appendix)
"""
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from . import validate
from .guidance import Denoise
from .samplers import sampler, validate_grid, validate_model
from .schedules import Schedule, append_dims, randn_like


def drift(schedule: Schedule, t: Tensor | float) -> Tensor:
    """f(t) = alpha'(t) / alpha(t), the factor on x in the forward SDE: like t, float64.

    Raises ValueError where alpha = 0.
    """
    alpha = schedule.alpha(t)
    if (alpha == 0).any():
        raise ValueError("the drift alpha' / alpha is infinite where alpha = 0: start below t = 1")
    return schedule.d_alpha(t) / alpha


def diffusion(schedule: Schedule, t: Tensor | float) -> Tensor:
    """g(t), the factor on the noise in the forward SDE: like t, float64.

    g^2 = 2 sigma sigma' - 2 f sigma^2, which is -sigma^2 times the derivative of the log-SNR.
    (Kingma et al. 2021, VDM, appendix)
    """
    sigma = schedule.sigma(t)
    squared = 2 * sigma * schedule.d_sigma(t) - 2 * drift(schedule, t) * sigma**2
    return squared.clamp(min=0).sqrt()


def score(D: Denoise, schedule: Schedule, x: Tensor, t: Tensor | float, **condition) -> Tensor:
    """The score that belongs to D, by Tweedie's formula: (alpha x0_hat - x) / sigma^2.   like x

    Raises ValueError where sigma = 0, and where the prediction is not like x.
    """
    validate_model(D, schedule)
    x, t = validate.real(x), validate.time(t, x)
    if (schedule.sigma(t) == 0).any():
        raise ValueError("there is no score without noise: t must be above 0")
    return _score(schedule, x, validate.prediction(D(x, t, **condition), x), t)


@sampler
@torch.no_grad()
def euler_maruyama(D: Denoise, schedule: Schedule, x: Tensor, ts: Iterable[float], *,
                   noise_level: float | Callable = 1.0, generator: torch.Generator | None = None,
                   **condition) -> Iterator[Tensor]:
    """The reverse SDE with noise lambda g, by Euler's method: order 1/2 in paths, 1 in averages.

    noise_level: lambda, 0 or more, or a function of t: 0 is Euler for the probability-flow ODE, 1
                 Anderson's reverse process
    The last step, into sigma = 0, goes to the mean. Raises ValueError for a grid that starts where
    alpha = 0. (Song et al. 2021, score SDE, appendix D)
    """
    drift(schedule, ts[0])
    if not callable(noise_level):
        validate.number(noise_level, "noise_level", 0)
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        level = noise_level(t) if callable(noise_level) else noise_level
        x0_hat = D(x, t, **condition)
        f, g = drift(schedule, t), diffusion(schedule, t)
        slope = append_dims(f, x) * x
        slope = slope - append_dims((1 + level**2) / 2 * g**2, x) * _score(schedule, x, x0_hat, t)
        x = x - append_dims(t - s, x) * slope
        if level > 0 and schedule.sigma(s) > 0:
            x = x + append_dims(level * g * (t - s).sqrt(), x) * randn_like(x, generator)
        yield x


def change_schedule(D: Denoise, schedule: Schedule) -> Denoise:
    """D, which has a schedule of its own, as a denoiser under another one.

    x is rescaled by the ratio of the two alphas, and t is moved to where D's own log-SNR is the
    same: the prediction is the same function of the noisy image, in another unit and at another
    time. Raises TypeError for a D without a schedule.
    """
    own = getattr(D, "schedule", None)
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate.instance(own, Schedule, "D.schedule", "that of a Denoiser")
    validate.instance(schedule, Schedule, "schedule", "Schedule.flow()")

    def converted(x: Tensor, t: Tensor, **condition) -> Tensor:
        t_own = own.t_from_log_snr(schedule.log_snr(t))
        # alpha_own / alpha, also where alpha is 0: both are proportional to sigma there
        by_alpha = own.alpha(t_own) / schedule.alpha(t)
        by_sigma = own.sigma(t_own) / schedule.sigma(t)
        ratio = torch.where(schedule.alpha(t) > schedule.sigma(t), by_alpha, by_sigma)
        return D(append_dims(ratio, x) * x, t_own, **condition)
    converted.schedule = schedule
    return converted


# ---- likelihood

def divergence(value: Tensor, x: Tensor, probe: Tensor | None = None) -> Tensor:
    """The divergence of value, a differentiable function of x, per example: (B, ...) -> (B,).

    probe: None: exact, one backward pass per dimension; noise like x with mean 0 and variance 1:
           Hutchinson's unbiased estimate, probe^T J probe, by one backward pass. (Grathwohl et al.
           2019, FFJORD, section 3)
    """
    if probe is not None:
        row = torch.autograd.grad((value * probe).sum(), x, retain_graph=True)[0]
        return (row * probe).flatten(1).sum(1)
    total = torch.zeros(len(x), dtype=value.dtype, device=x.device)
    flat = value.flatten(1)
    for k in range(flat.shape[1]):
        column = torch.autograd.grad(flat[:, k].sum(), x, retain_graph=True)[0]
        total = total + column.flatten(1)[:, k]
    return total


def log_likelihood(
    D: Denoise,
    schedule: Schedule,
    x: Tensor,
    ts: Iterable[float],
    *,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    **condition,
) -> Tensor:
    """log p(x) at t = ts[0] under the probability-flow ODE from the normal prior at ts[-1]: (B,),
    in nats, float64.

    x:      (B, ...), at noise level ts[0], such as schedule.perturb(x0, ts[0], eps)
    ts:     a rising grid above 0; alpha > 0 at its end. In u = log(sigma / alpha) the ODE for
            y = x / alpha and its log-density are
                dy / du       = y - x0_hat
                d log p / du  = div(x0_hat) - D,   D the number of dimensions
            Second order, two evaluations a step: the linear parts are solved exactly, x0_hat and
            its divergence are interpolated linearly
    probes: None: the exact divergence; else the number of Rademacher probes (Hutchinson), the same
            at all times
    (Chen et al. 2018, neural ODEs, eq. 8; Song et al. 2021, score SDE, appendix D.2)
    """
    validate_model(D, schedule)
    x = validate.real(x, "x")
    ts = validate_grid(ts, rising=True)
    if ts[0] == 0 or schedule.alpha(ts[-1]) == 0:
        raise ValueError("ts must lie where alpha and sigma are both above 0")
    noises = _probes(x, probes, validate.generator(generator))
    y = x / append_dims(schedule.alpha(ts[0]), x)
    total = torch.zeros(len(x), dtype=torch.float64)
    predict = _with_divergence(D, schedule, noises, condition)
    for t, s in zip(ts[:-1], ts[1:]):
        h = ((schedule.log_snr(t) - schedule.log_snr(s)) / 2).item()   # the step in u
        x0_hat, div = predict(y, t)
        first = math.expm1(h)                               # the integrals of e^(h - u), and of
        second = first / h - 1                              # e^(h - u) u / h, from 0 to h
        y_pred = math.exp(h) * y - first * x0_hat
        x0_pred, div_pred = predict(y_pred, s)
        y = y_pred - second * (x0_pred - x0_hat)
        total = total + h * (x[0].numel() - (div + div_pred) / 2)
    end = append_dims(schedule.alpha(ts[-1]), y) * y
    # densities of x, not of x / alpha, at both ends
    volume = x[0].numel() * (schedule.alpha(ts[-1]) / schedule.alpha(ts[0])).log()
    return normal_log_prob(end, schedule.sigma(ts[-1])) + total + volume


@torch.no_grad()
def variational_bound(
    D: Denoise,
    schedule: Schedule,
    x0: Tensor,
    ts: Iterable[float],
    *,
    generator: torch.Generator | None = None,
    **condition,
) -> Tensor:
    """An upper bound on -log p(x0) of the reverse process with noise, estimated: (B,), in nats,
    float64.

        1/2 integral of E |eps - eps_hat|^2 over the log-SNR, from that of ts[-1] to that of ts[0]
        + KL(q(x | x0) || N(0, sigma^2)) at ts[-1]
        - E log N(x0; x / alpha, (sigma / alpha)^2) at ts[0]

    x0: (B, ...) clean; ts: a rising grid above 0, alpha > 0 at its end; fresh noise at every t, the
    integral by the trapezoidal rule. (Kingma et al. 2021, VDM, eq. 11 to 15)
    """
    validate_model(D, schedule)
    x0, ts = validate.real(x0, "x0"), validate_grid(ts, rising=True)
    if ts[0] == 0 or schedule.alpha(ts[-1]) == 0:
        raise ValueError("ts must lie where alpha and sigma are both above 0")
    generator = validate.generator(generator)
    errors, first = [], None
    for t in ts:
        eps = randn_like(x0, generator)
        x = schedule.perturb(x0, t, eps)
        x0_hat = validate.prediction(D(x, t, **condition), x)
        scale = schedule.alpha(t) / schedule.sigma(t)       # eps - eps_hat = scale (x0_hat - x0)
        errors.append(scale**2 * (x0_hat - x0).double().cpu().square().flatten(1).sum(1))
        if first is None:                                   # -log N(x0; x / alpha, 1 / scale^2)
            first = -normal_log_prob(eps, 1.0) - x0[0].numel() * scale.log()
    integral = -torch.trapezoid(torch.stack(errors), schedule.log_snr(ts), dim=0) / 2
    ratio = schedule.alpha(ts[-1]) / schedule.sigma(ts[-1])
    return integral + ratio**2 * x0.double().cpu().square().flatten(1).sum(1) / 2 + first


def normal_log_prob(x: Tensor, std: Tensor | float) -> Tensor:
    """log N(x; 0, std^2 I) of each example, float64: (B, ...) -> (B,)"""
    normal = torch.distributions.Normal(0.0, torch.as_tensor(std, dtype=torch.float64))
    return normal.log_prob(x.double().cpu()).flatten(1).sum(1)


def _with_divergence(D: Denoise, schedule: Schedule, noises: list, condition: dict) -> Callable:
    """(y, t) -> x0_hat at x = alpha y, like y, and its divergence with respect to y, (B,)."""
    def predict(y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            y = y.detach().clone().requires_grad_()
            x = append_dims(schedule.alpha(t), y) * y
            x0_hat = validate.prediction(D(x, t, **condition), y)
            div = sum(divergence(x0_hat, y, probe).double() for probe in noises) / len(noises)
        return x0_hat.detach(), div.detach().cpu()
    return predict


def _probes(x: Tensor, probes: int | None, generator: torch.Generator | None) -> list:
    """Rademacher probes like x; [None] for the exact divergence."""
    if probes is None:
        return [None]
    validate.whole(probes, "probes")
    return [randn_like(x, generator).sign() for _ in range(probes)]


def _score(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    variance = append_dims(schedule.sigma(t) ** 2, x)
    return (append_dims(schedule.alpha(t), x) * x0_hat - x) / variance
