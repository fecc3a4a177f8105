"""Variants of lesson 1: levels, the posterior, respacing, the score."""
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ...ddpm import DDPM
from ...schedules import Schedule
from ...sde import score
from ..common import F64
from .core import Case, Numbers, Variant, clear, column, time_of_alpha, variance_preserving

# ---- 1.A: the first step with less signal than s

def draw_level(n: Numbers) -> Case:
    T = 10 * n.whole(15, 60)
    first, last = n.decimal(0.0001, 0.002, 4), n.decimal(0.02, 0.05, 3)
    return Case(T=T, first=first, last=last, s=n.decimal(0.05, 0.5, 2))


def text_level(c: Case) -> str:
    return (
        f"A forward process has {c.T} steps, t = 1 ... {c.T}, and its betas lie on a straight line "
        f"from `beta_1` = {c.first:g} to `beta_{c.T}` = {c.last:g}. At which step is the SNR (of "
        f"variances, for data of variance 1) below {c.s:g} for the first time?"
    )


def betas(c: Case) -> Tensor:
    """(T,)"""
    return torch.linspace(c.first, c.last, c.T, dtype=F64)


def snr(c: Case) -> Tensor:
    """The SNR of steps 1 ... T: (T,)"""
    t = torch.arange(1, c.T + 1, dtype=F64) / c.T
    return Schedule.from_betas(betas(c)).log_snr(t).exp()


def first_below(values: Tensor, s: float) -> float:
    """The first step, from 1, with a value below s; nan where there is none."""
    below = (values < s).nonzero()
    return below[0].item() + 1 if len(below) else math.nan


def of_ratio(alpha_bar: Tensor) -> Tensor:
    return alpha_bar / (1 - alpha_bar)


LEVEL = Variant(
    "1.A", draw_level, text_level, lambda c: first_below(snr(c), c.s),
    {
        "that is one step too early: at it the SNR is not yet below; the steps count from 1":
            lambda c: first_below(snr(c), c.s) - 1,
        "that is one step too late: the SNR is below at the step before, too":
            lambda c: first_below(snr(c), c.s) + 1,
        "that is where alpha_bar falls below; the SNR divides it by 1 - alpha_bar":
            lambda c: first_below((1 - betas(c)).cumprod(0), c.s),
        "that is where the ratio of standard deviations falls below; the SNR is its square":
            lambda c: first_below(snr(c).sqrt(), c.s),
        "alpha_bar is the product of the 1 - beta, not of their roots":
            lambda c: first_below(of_ratio((1 - betas(c)).sqrt().cumprod(0)), c.s),
        "alpha_bar is the product of the 1 - beta; 1 minus the sum of the betas is another number":
            lambda c: first_below(of_ratio((1 - betas(c).cumsum(0)).clamp(min=0)), c.s),
    },
    "(1.8), (1.10)", whole=True,
)


# ---- 1.B: the posterior's mean

def draw_posterior(n: Numbers) -> Case:
    beta, before = n.decimal(0.05, 0.4, 2), n.decimal(0.2, 0.9, 2)
    return Case(beta=beta, before=before, x=n.decimal(-2, 2, 1), x0=n.decimal(-1, 1, 2))


def text_posterior(c: Case) -> str:
    return (
        f"At some step t of a forward process, `beta_t` = {c.beta:g} and `alpha_bar_(t-1)` = "
        f"{c.before:g}. A pixel is {c.x:g} in `x_t`, and {c.x0:g} in `x_0`. What is its mean under "
        "the posterior q(x_(t-1) | x_t, x_0)?"
    )


def posterior(before: float, beta: float, x: float, x0: float) -> tuple[float, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0)."""
    ddpm = DDPM(None, torch.tensor([1 - before, beta], dtype=F64))
    mean, variance = ddpm.q_posterior(column(x0), column(x), torch.tensor([1]))
    return mean.item(), variance.item()


def of_factors(c: Case, on_x: float, on_x0: float) -> float:
    """(on_x x_t + on_x0 x_0) / (1 - alpha_bar_t)"""
    return (on_x * c.x + on_x0 * c.x0) / (1 - c.before * (1 - c.beta))


MEAN = Variant(
    "1.B", draw_posterior, text_posterior,
    clear(lambda c: posterior(c.before, c.beta, c.x, c.x0)[0]),
    {
        "x_t and x_0 have changed places":
            lambda c: posterior(c.before, c.beta, c.x0, c.x)[0],
        "both factors have a square root: sqrt(alpha_t) with x_t, sqrt(alpha_bar_(t-1)) with x_0":
            lambda c: of_factors(c, (1 - c.beta) * (1 - c.before), c.before * c.beta),
        "that is the mean of x_(t-1) given x_0 alone; x_t says something, too":
            lambda c: math.sqrt(c.before) * c.x0,
        "that is a step of the forward process; the posterior goes back":
            lambda c: math.sqrt(1 - c.beta) * c.x,
        "you took alpha_bar_t for alpha_bar_(t-1), in both factors":
            lambda c: of_factors(
                c, math.sqrt(1 - c.beta) * (1 - c.before * (1 - c.beta)),
                math.sqrt(c.before * (1 - c.beta)) * c.beta),
    },
    "(1.18)",
)


# ---- 1.C: the reverse step of a process with fewer steps

def draw_respaced(n: Numbers) -> Case:
    s = n.decimal(0.3, 0.95, 2)
    return Case(s=s, t=n.decimal(0.05, s - 0.1, 2))


def text_respaced(c: Case) -> str:
    return (
        "Of a forward process only some levels are kept. Two neighbours among them have "
        f"`alpha_bar` = {c.s:g} (the cleaner one) and {c.t:g}. What is the variance of the "
        "posterior, given `x_0`, of the reverse step from the noisier to the cleaner level?"
    )


def forward_beta(c: Case) -> float:
    return 1 - c.t / c.s


RESPACED = Variant(
    "1.C", draw_respaced, text_respaced,
    lambda c: posterior(c.s, forward_beta(c), 0.0, 0.0)[1],
    {
        "that is the variance of the forward step, beta'; the posterior's is smaller":
            forward_beta,
        "that is a standard deviation; the variance is wanted":
            lambda c: math.sqrt(posterior(c.s, forward_beta(c), 0.0, 0.0)[1]),
        "the beta of the large step is 1 minus the ratio of the alpha_bars, not their difference":
            lambda c: (1 - c.s) / (1 - c.t) * (c.s - c.t),
        "the factor on beta' is upside down: it is below 1":
            lambda c: (1 - c.t) / (1 - c.s) * forward_beta(c),
        "beta' is 1 minus the ratio of the alpha_bars, without a root":
            lambda c: (1 - c.s) / (1 - c.t) * (1 - math.sqrt(c.t / c.s)),
    },
    "(1.37), (1.17)",
)


# ---- 1.D: from a prediction to the score

def draw_score(n: Numbers) -> Case:
    return Case(a=n.decimal(0.1, 0.9, 2), x=n.decimal(-2, 2, 1), x0_hat=n.decimal(-1, 1, 2))


def text_score(c: Case) -> str:
    return (
        f"Where `alpha_bar_t` = {c.a:g}, a pixel of `x_t` is {c.x:g}, and the perfect denoiser "
        f"predicts that it was {c.x0_hat:g} in `x_0`. What is the score, the derivative of "
        "log q(x_t) with respect to this pixel?"
    )


def right_score(c: Case) -> float:
    predict = lambda x, t: torch.full_like(x, c.x0_hat)
    t = time_of_alpha(math.sqrt(c.a))
    return score(predict, variance_preserving(), column(c.x), t).item()


def gap(c: Case, factor: float) -> float:
    """factor x0_hat - x_t"""
    return factor * c.x0_hat - c.x


SCORE = Variant(
    "1.D", draw_score, text_score, clear(right_score),
    {
        "the sign: the score points from x_t to where the data is":
            lambda c: -right_score(c),
        "that is minus the predicted noise; the score divides it by sqrt(1 - alpha_bar_t)":
            lambda c: gap(c, math.sqrt(c.a)) / math.sqrt(1 - c.a),
        "the prediction is multiplied by sqrt(alpha_bar_t), not by alpha_bar_t":
            lambda c: gap(c, c.a) / (1 - c.a),
        "the prediction must be multiplied by sqrt(alpha_bar_t) before x_t is subtracted":
            lambda c: gap(c, 1) / (1 - c.a),
        "divide by the variance of the noise, 1 - alpha_bar_t":
            lambda c: gap(c, math.sqrt(c.a)),
    },
    "(1.30)",
)


VARIANTS: Iterable[Variant] = (LEVEL, MEAN, RESPACED, SCORE)
