"""Variants of lesson 5: two scales, a classifier's gradient, two prompts, how much to forget."""
import math
from collections.abc import Iterable

import torch

from ...guidance import cfg, classifier_guidance, compose_conditions
from ...schedules import Schedule
from ..common import F64
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

HALF = torch.tensor(0.5, dtype=F64)                         # a time, where none matters


def table(*predictions: float):
    """A denoiser that predicts predictions[y]."""
    return lambda x, t, y: torch.full_like(x, predictions[y])


# ---- 5.A: guidance, with the paper's scale

def draw_guided(n: Numbers) -> Case:
    return Case(none=n.decimal(-1, 1, 2), label=n.decimal(-1, 1, 2), s=n.decimal(0.5, 6, 1))


def text_guided(c: Case) -> str:
    return (
        f"For a pixel a denoiser predicts {c.none:g} without a label and {c.label:g} with it. A "
        f"program guides with s = {c.s:g} in the convention of Ho and Salimans' paper, where s = 0 "
        "is no guidance. What is the guided prediction?"
    )


def guided(c: Case, w: float) -> float:
    """The prediction on the course's scale, w = 1 for no guidance."""
    D = cfg(table(c.none, c.label), w, {"y": 0})
    return D(column(0.0), HALF, y=1).item()


GUIDED = Variant(
    "5.A", draw_guided, text_guided, clear(lambda c: guided(c, 1 + c.s)),
    {
        "you took s for w: on the course's scale w = 1 + s": lambda c: guided(c, c.s),
        "w = 1 + s, not s - 1: the paper's scale is the smaller number":
            lambda c: c.none + (c.s - 1) * (c.label - c.none),
        "the sign: guidance leads away from the prediction without the label":
            lambda c: c.none - (1 + c.s) * (c.label - c.none),
        "with w = 1 + s the difference is added to the prediction without the label":
            lambda c: guided(c, 2 + c.s),
        "the two predictions have changed places":
            lambda c: c.label + (1 + c.s) * (c.none - c.label),
        "the weights must add up to 1: (1 + s) with the label, -s without":
            lambda c: (1 + c.s) * c.label + c.s * c.none,
    },
    "(5.10)",
)


# ---- 5.B: classifier guidance

def draw_gradient(n: Numbers) -> Case:
    return Case(alpha=n.decimal(0.2, 0.9, 2), none=n.decimal(-1, 1, 2), grad=n.decimal(-3, 3, 1),
                w=n.decimal(1.5, 5, 1))


def text_gradient(c: Case) -> str:
    return (
        f"Where `alpha_t` = {c.alpha:g} (and `alpha^2 + sigma^2 = 1`), a denoiser without labels "
        f"predicts {c.none:g} for a pixel. The derivative of a classifier's log p_t(y | x_t) with "
        f"respect to this pixel of x_t is {c.grad:g}. What does classifier guidance with w = "
        f"{c.w:g} predict?"
    )


def right_gradient(c: Case) -> float:
    predict = lambda x, t: torch.full_like(x, c.none)
    log_prob = lambda x, t: c.grad * x.sum(1)
    D = classifier_guidance(predict, variance_preserving(), log_prob, c.w)
    return D(column(0.0), time_of_alpha(c.alpha)).item()


def moved(c: Case, factor: float) -> float:
    return c.none + factor * c.grad


GRADIENT = Variant(
    "5.B", draw_gradient, text_gradient, clear(right_gradient),
    {
        "that is w = 1, Bayes' rule: multiply the gradient by w":
            lambda c: moved(c, sigma_of(c.alpha) ** 2 / c.alpha),
        "the gradient is multiplied by sigma^2 / alpha, not by sigma / alpha":
            lambda c: moved(c, c.w * sigma_of(c.alpha) / c.alpha),
        "the division by alpha_t is missing":
            lambda c: moved(c, c.w * sigma_of(c.alpha) ** 2),
        "the gradient belongs to x_t: sigma^2 / alpha makes a change of the prediction of it":
            lambda c: moved(c, c.w),
        "the sign: climb towards a more probable label":
            lambda c: moved(c, -c.w * sigma_of(c.alpha) ** 2 / c.alpha),
    },
    "(5.6)",
)


# ---- 5.C: two prompts at once

def draw_prompts(n: Numbers) -> Case:
    return Case(none=n.decimal(-1, 1, 2), one=n.decimal(-1, 1, 2), two=n.decimal(-1, 1, 2),
                w1=n.decimal(0.5, 3, 1), w2=n.decimal(0.5, 3, 1))


def text_prompts(c: Case) -> str:
    return (
        f"For a pixel a denoiser predicts {c.none:g} without a prompt, {c.one:g} with the first "
        f"prompt, {c.two:g} with the second. What does the composition of both predict, with the "
        f"weights {c.w1:g} for the first and {c.w2:g} for the second?"
    )


def right_prompts(c: Case) -> float:
    D = compose_conditions(table(c.none, c.one, c.two), [{"y": 1}, {"y": 2}], {"y": 0},
                           [c.w1, c.w2])
    return D(column(0.0), HALF).item()


def added(c: Case) -> float:
    """The two weighted differences."""
    return right_prompts(c) - c.none


PROMPTS = Variant(
    "5.C", draw_prompts, text_prompts, clear(right_prompts),
    {
        "the weights multiply the differences from the prediction without a prompt":
            lambda c: c.w1 * c.one + c.w2 * c.two,
        "the differences are added to the prediction without a prompt, which is missing": added,
        "that guides by the first prompt, then by the second from there":
            lambda c: (1 - c.w2) * (c.none + c.w1 * (c.one - c.none)) + c.w2 * c.two,
        "add both differences; you took their mean":
            lambda c: c.none + added(c) / 2,
        "each difference has its own weight; you divided by the sum of the weights":
            lambda c: c.none + added(c) / (c.w1 + c.w2),
        "the prediction without a prompt was added once for each prompt: it counts once":
            lambda c: 2 * c.none + added(c),
    },
    "(5.20)",
)


# ---- 5.D: what SDEdit forgets

def draw_forgotten(n: Numbers) -> Case:
    return Case(strength=n.decimal(0.1, 0.9, 3))


def text_forgotten(c: Case) -> str:
    return (
        f"SDEdit noises a sketch to t = {c.strength:g} of the flow schedule, `alpha = 1 - t`, "
        "`sigma = t`. At which distance of two pictures, the norm of their difference, is the KL "
        "divergence of their noisy versions exactly 1?"
    )


def snr(c: Case) -> float:
    return Schedule.flow().log_snr(torch.tensor(c.strength, dtype=F64)).exp().item()


FORGOTTEN = Variant(
    "5.D", draw_forgotten, text_forgotten, lambda c: math.sqrt(2 / snr(c)),
    {
        "that is the square of the distance": lambda c: 2 / snr(c),
        "the divergence is half of SNR times the squared distance: the factor 2 is missing":
            lambda c: math.sqrt(1 / snr(c)),
        "upside down: the more noise, the more is forgotten": lambda c: math.sqrt(snr(c) / 2),
        "alpha / sigma is the root of the SNR": lambda c: math.sqrt(2 / math.sqrt(snr(c))),
        "the noise at t is not 1 - t: t = 0 is the data": lambda c: math.sqrt(2 * snr(c)),
    },
    "(5.38)",
)


VARIANTS: Iterable[Variant] = (GUIDED, GRADIENT, PROMPTS, FORGOTTEN)
