"""Variants of lesson 4: a DDIM step, its noise, orders, what a budget buys."""
import math
from collections.abc import Iterable
from functools import cache

import torch

from ...samplers import heun, last, step, timesteps
from ...schedules import Schedule
from .core import (
    Case,
    Numbers,
    Variant,
    clear,
    column,
    sigma_of,
    time_of_alpha,
    variance_preserving,
)

# ---- 4.A: one step of DDIM

def draw_levels(n: Numbers) -> tuple[float, float]:
    """alpha at the noisier level t, and at the cleaner one s."""
    alpha_t = n.decimal(0.1, 0.7, 2)
    return alpha_t, n.decimal(alpha_t + 0.1, 0.95, 2)


def draw_ddim(n: Numbers) -> Case:
    alpha_t, alpha_s = draw_levels(n)
    return Case(t=alpha_t, s=alpha_s, x=n.decimal(-2, 2, 1), x0_hat=n.decimal(-1, 1, 2))


def text_ddim(c: Case) -> str:
    return (
        f"On a schedule with `alpha^2 + sigma^2 = 1`, a step leads from `alpha_t` = {c.t:g} to "
        f"`alpha_s` = {c.s:g}. A pixel of `x_t` is {c.x:g}, and the denoiser predicts `x0_hat` = "
        f"{c.x0_hat:g} for it. What is it after one step of DDIM without noise (eta = 0)?"
    )


def right_ddim(c: Case) -> float:
    t, s = time_of_alpha(c.t), time_of_alpha(c.s)
    return step(variance_preserving(), column(c.x), column(c.x0_hat), t, s).item()


def eps_hat(c: Case) -> float:
    return (c.x - c.t * c.x0_hat) / sigma_of(c.t)


def posterior_mean(c: Case) -> float:
    """The mean of the step of ancestral sampling."""
    factor = c.t / c.s
    between = sigma_of(c.t) ** 2 - factor**2 * sigma_of(c.s) ** 2
    mean = factor * sigma_of(c.s) ** 2 * c.x + c.s * between * c.x0_hat
    return mean / sigma_of(c.t) ** 2


DDIM = Variant(
    "4.A", draw_ddim, text_ddim, clear(right_ddim),
    {
        "the noise prediction is (x_t - alpha_t x0_hat) / sigma_t: you did not divide":
            lambda c: c.s * c.x0_hat + sigma_of(c.s) * (c.x - c.t * c.x0_hat),
        "the noise is multiplied by sigma_s, of the level where the step arrives, not by sigma_t":
            lambda c: c.s * c.x0_hat + sigma_of(c.t) * eps_hat(c),
        "that is the mean of ancestral sampling's step, eta = 1; DDIM keeps all of the noise":
            posterior_mean,
        "the data is multiplied by alpha_s, of the level where the step arrives, not by alpha_t":
            lambda c: c.t * c.x0_hat + sigma_of(c.s) * eps_hat(c),
        "sigma is a standard deviation, sqrt(1 - alpha^2), not 1 - alpha^2":
            lambda c: c.s * c.x0_hat
            + (1 - c.s**2) * (c.x - c.t * c.x0_hat) / (1 - c.t**2),
        "that is alpha_s x0_hat: the noise that the step keeps is missing":
            lambda c: c.s * c.x0_hat,
    },
    "(4.8)",
)


# ---- 4.B: the noise of a step

def draw_noise(n: Numbers) -> Case:
    alpha_t, alpha_s = draw_levels(n)
    return Case(t=alpha_t, s=alpha_s, eta=n.decimal(0.2, 0.9, 1))


def text_noise(c: Case) -> str:
    return (
        f"On a schedule with `alpha^2 + sigma^2 = 1`, a step of the DDIM family with eta = "
        f"{c.eta:g} leads from `alpha_t` = {c.t:g} to `alpha_s` = {c.s:g}. What is the standard "
        "deviation of the fresh noise that it adds?"
    )


def right_noise(c: Case) -> float:
    """A step from 0 with the prediction 0 is the fresh noise alone."""
    t, s = time_of_alpha(c.t), time_of_alpha(c.s)
    zero = column(0.0)
    generator = lambda: torch.Generator().manual_seed(0)
    noisy = step(variance_preserving(), zero, zero, t, s, c.eta, generator())
    return (noisy / torch.randn(1, 1, generator=generator(), dtype=zero.dtype)).item()


def forward_std(c: Case) -> float:
    """sigma_{t|s}, of the forward step from s to t."""
    return math.sqrt(sigma_of(c.t) ** 2 - (c.t / c.s * sigma_of(c.s)) ** 2)


NOISE = Variant(
    "4.B", draw_noise, text_noise, right_noise,
    {
        "that is the variance": lambda c: right_noise(c) ** 2,
        "that is the noise of eta = 1: multiply by eta": lambda c: right_noise(c) / c.eta,
        "eta multiplies the standard deviation, not the variance":
            lambda c: right_noise(c) / math.sqrt(c.eta),
        "that is eta times the forward step's noise; the posterior's is sigma_s / sigma_t of it":
            lambda c: c.eta * forward_std(c),
        "sigma_s and sigma_t have changed places":
            lambda c: c.eta * forward_std(c) * sigma_of(c.t) / sigma_of(c.s),
        "that is eta sigma_s; the step keeps some of the noise of x_t":
            lambda c: c.eta * sigma_of(c.s),
    },
    "(4.2), (4.8)",
)


# ---- 4.C: the order of a sampler

def draw_order(n: Numbers) -> Case:
    fewer = n.whole(8, 30)
    order = n.decimal(0.9, 3.2, 2)
    more = n.whole(fewer + 6, 3 * fewer)
    error = n.decimal(0.02, 0.2, 3)
    return Case(fewer=fewer, more=more, first=error,
                second=float(f"{error * (fewer / more) ** order:.3g}"))


def text_order(c: Case) -> str:
    return (
        f"With {c.fewer} equal steps a sampler errs by {c.first:g}, with {c.more} by "
        f"{c.second:g}. Which order do these two errors show? (Not rounded to a whole number.)"
    )


def right_order(c: Case) -> float:
    return math.log(c.first / c.second) / math.log(c.more / c.fewer)


ORDER = Variant(
    "4.C", draw_order, text_order, right_order,
    {
        "log2 of the errors' ratio is right for twice the steps; divide by that of the steps":
            lambda c: math.log2(c.first / c.second),
        "that divides the ratio of the errors by that of the steps; divide their logarithms":
            lambda c: c.first / c.second / (c.more / c.fewer),
        "the sign: the error falls when the steps become more":
            lambda c: -right_order(c),
        "upside down: the logarithm of the errors' ratio is divided by that of the steps' ratio":
            lambda c: 1 / right_order(c),
        "that is the ratio of the errors": lambda c: c.first / c.second,
    },
    "(4.18)",
)


# ---- 4.D: what a budget buys

def draw_budget(n: Numbers) -> Case:
    return Case(ms=n.whole(15, 90), seconds=n.decimal(1, 6, 1))


def text_budget(c: Case) -> str:
    return (
        f"One evaluation of a network takes {c.ms} ms, and everything else nothing. A picture may "
        f"take {c.seconds:g} s. How many steps can Heun's method make at most? (Its last step, "
        "into sigma = 0, is a plain Euler step.)"
    )


@cache
def evaluations(steps: int) -> int:
    """How often heun evaluates the denoiser in so many steps."""
    calls = []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(t)
        return 0 * x

    schedule = Schedule.cosine()
    last(heun(predict, schedule, column(1.0), timesteps(schedule, steps, start=0.5)))
    return len(calls)


def affordable(c: Case) -> int:
    """Evaluations in the time."""
    return round(1000 * c.seconds) // c.ms


def right_budget(c: Case) -> int:
    each = evaluations(3) - evaluations(2)
    return (affordable(c) - evaluations(2)) // each + 2


BUDGET = Variant(
    "4.D", draw_budget, text_budget, right_budget,
    {
        "that is the number of evaluations; Heun takes two a step": affordable,
        "the last step takes one evaluation, so one step more fits in":
            lambda c: affordable(c) // 2,
        "one step too many: its evaluations take longer than there is time":
            lambda c: right_budget(c) + 1,
        "that is the number of evaluations of so many steps; the steps are asked for":
            lambda c: 2 * affordable(c) - 1,
    },
    "section 4.6", whole=True,
)


VARIANTS: Iterable[Variant] = (DDIM, NOISE, ORDER, BUDGET)
