"""Variants of lesson 3: the weight of a target, a Fréchet distance, averages of weights."""
import math
from collections.abc import Callable, Iterable

import torch

from ...denoiser import TARGETS
from ...lab.evaluation.metrics import frechet_distance
from ...schedules import Schedule
from ..common import F64
from .core import Case, Numbers, Variant, variance_preserving

# ---- 3.A: the weight of a target

SETTINGS = {
    "v": "v, on a schedule with `alpha^2 + sigma^2 = 1`",
    "flow": "eps - x0, on the flow schedule `alpha = 1 - t`, `sigma = t`",
}
WEIGHTS = {"v": lambda snr: snr + 1, "flow": lambda snr: (1 + math.sqrt(snr)) ** 2}
OTHER_TARGET = {"v": "flow", "flow": "v"}


def draw_weight(n: Numbers) -> Case:
    return Case(target=n.one_of(["v", "flow"]), log_snr=n.decimal(-3, 4, 2))


def text_weight(c: Case) -> str:
    return (
        f"A network predicts {SETTINGS[c.target]}. At a log SNR (natural logarithm) of "
        f"{c.log_snr:g}, the squared error of its output is how many times the squared error of "
        "the x0-prediction that belongs to it?"
    )


def right_weight(c: Case) -> float:
    schedule = {"v": variance_preserving, "flow": Schedule.flow}[c.target]()
    t = schedule.t_from_log_snr(torch.tensor(c.log_snr, dtype=F64))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    a, b = TARGETS[c.target](alpha, sigma)
    return ((alpha * b - sigma * a) / sigma).square().item()


def weight_at(scale: float) -> Callable[[Case], float]:
    """Case -> the target's weight with scale * log_snr in place of log_snr"""
    return lambda c: WEIGHTS[c.target](math.exp(scale * c.log_snr))


WEIGHT = Variant(
    "3.A", draw_weight, text_weight, right_weight,
    {
        "that is the SNR, the weight of an epsilon-prediction":
            lambda c: math.exp(c.log_snr),
        "that is the weight of the other target of the lesson: v's and flow's differ":
            lambda c: WEIGHTS[OTHER_TARGET[c.target]](math.exp(c.log_snr)),
        "exp(log SNR / 2) is alpha / sigma; the SNR is its square": weight_at(0.5),
        "the logarithm is the natural one, not that to base 10": weight_at(math.log(10)),
        "that is in units of the error of epsilon; the error of x0 was asked for":
            lambda c: right_weight(c) / math.exp(c.log_snr),
    },
    "(3.5)",
)


# ---- 3.B: the Fréchet distance

def draw_frechet(n: Numbers) -> Case:
    point = lambda: [n.decimal(-1, 1, 1), n.decimal(-1, 1, 1)]
    variances = lambda: [n.decimal(0.1, 4, 1), n.decimal(0.1, 4, 1)]
    return Case(mean_a=point(), mean_b=point(), var_a=variances(), var_b=variances())


def text_frechet(c: Case) -> str:
    pair = lambda values: f"({values[0]:g}, {values[1]:g})"
    return (
        f"Features of two dimensions: the real ones have the mean {pair(c.mean_a)} and variances "
        f"{pair(c.var_a)}, the generated ones the mean {pair(c.mean_b)} and variances "
        f"{pair(c.var_b)}, with covariances 0. What is the Fréchet distance, squared as is usual?"
    )


def cloud(mean: list[float], variances: list[float]) -> torch.Tensor:
    """Four points with exactly this mean, these variances and no covariance: (4, 2)"""
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=F64)
    spread = torch.tensor(variances, dtype=F64).mul(3 / 4).sqrt()
    return torch.tensor(mean, dtype=F64) + signs * spread


def right_frechet(c: Case) -> float:
    return frechet_distance(cloud(c.mean_a, c.var_a), cloud(c.mean_b, c.var_b))


def of_means(c: Case) -> float:
    return sum((a - b) ** 2 for a, b in zip(c.mean_a, c.mean_b))


def of_variances(c: Case, f: Callable[[float, float], float]) -> float:
    """|mean_a - mean_b|^2 + sum of f(variance a, variance b)"""
    return of_means(c) + sum(map(f, c.var_a, c.var_b))


FRECHET = Variant(
    "3.B", draw_frechet, text_frechet, right_frechet,
    {
        "that compares variances; the distance compares standard deviations, their roots":
            lambda c: of_variances(c, lambda a, b: (a - b) ** 2),
        "that is the distance of the means alone": of_means,
        "that is the root; the squared distance is wanted":
            lambda c: math.sqrt(right_frechet(c)),
        "that is the cost of pairing independently: -2 s1 s2 is missing in each dimension":
            lambda c: of_variances(c, lambda a, b: a + b),
        "that leaves out the means":
            lambda c: right_frechet(c) - of_means(c),
        "the trace is of the root of the product: 2 sqrt(v1 v2), not 2 v1 v2":
            lambda c: of_variances(c, lambda a, b: a + b - 2 * a * b),
    },
    "(3.34)",
)


# ---- 3.C: an EMA forgets its random start

def draw_start(n: Numbers) -> Case:
    decay = n.one_of([0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998]) - 1e-5 * n.whole(0, 9)
    return Case(decay=round(decay, 5), share=n.whole(1, 30))


def text_start(c: Case) -> str:
    return (
        f"An EMA of weights with the constant decay {c.decay:g}, without a warm-up, begins with "
        "the network's random weights. After how many steps do these count less than "
        f"{c.share:g} % of the average, for the first time?"
    )


def steps_until(decay: float, share: float) -> int:
    """The fewest steps after which the start counts less than this share."""
    left, steps = 1.0, 0
    while left >= share:
        left *= decay
        steps += 1
    return steps


START = Variant(
    "3.C", draw_start, text_start, lambda c: steps_until(c.decay, c.share / 100),
    {
        "one step too few: after these it is not yet below":
            lambda c: steps_until(c.decay, c.share / 100) - 1,
        "one step too many: it is below after one step less":
            lambda c: steps_until(c.decay, c.share / 100) + 1,
        "that is 1 / (1 - decay), the length of the average; the share asked for does not enter":
            lambda c: round(1 / (1 - c.decay)),
        "that is when the new weights count so much, not when the start counts so little":
            lambda c: steps_until(c.decay, 1 - c.share / 100),
        "that divides log10 of the share by 1 - decay: take the natural logarithm":
            lambda c: math.ceil(-math.log10(c.share / 100) / (1 - c.decay)),
    },
    "(3.23)", whole=True,
)


# ---- 3.D: how much of a power-function EMA is the end of the run

def draw_power(n: Numbers) -> Case:
    steps = 1000 * n.whole(2, 40)
    return Case(gamma=n.whole(3, 16), steps=steps, last=50 * n.whole(2, steps // 200))


def text_power(c: Case) -> str:
    return (
        "A power-function EMA of weights, with the decay (1 - 1/n)^(gamma + 1) at step n and "
        f"gamma = {c.gamma}, has made {c.steps} steps. How much do the weights of the last "
        f"{c.last} steps count together? (A number between 0 and 1.)"
    )


def right_power(c: Case) -> float:
    """1 minus what the weights before count: the product of the last decays."""
    n = torch.arange(c.steps - c.last + 1, c.steps + 1, dtype=F64)
    return 1 - (1 - 1 / n).pow(c.gamma + 1).prod().item()


def earlier(c: Case) -> float:
    """The part of the run before the last steps."""
    return 1 - c.last / c.steps


POWER = Variant(
    "3.D", draw_power, text_power, right_power,
    {
        "that is what all the steps before count": lambda c: 1 - right_power(c),
        "the exponent is gamma + 1, not gamma": lambda c: 1 - earlier(c) ** c.gamma,
        "all steps would count alike for gamma = 0; here late ones count more":
            lambda c: c.last / c.steps,
        "the power is of the part before, (n - m) / n; and what it counts is subtracted from 1":
            lambda c: (c.last / c.steps) ** (c.gamma + 1),
        "you took the last step's decay for all: it grows from step to step":
            lambda c: 1 - (1 - 1 / c.steps) ** ((c.gamma + 1) * c.last),
    },
    "(3.24)",
)


VARIANTS: Iterable[Variant] = (WEIGHT, FRECHET, START, POWER)
