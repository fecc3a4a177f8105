"""Variants of lesson 6: a forgotten scale, the SDE's noise, bits, the bound of masked diffusion."""
import math
from collections.abc import Iterable

import torch

from ...ddpm import bits_per_dim
from ...discrete import masked_nll
from ...schedules import Schedule
from ...sde import diffusion
from ..common import F64
from .core import Case, Numbers, Variant, column, listed

# ---- 6.A: latents of the wrong size

def draw_scale(n: Numbers) -> Case:
    return Case(c=n.decimal(1.5, 9, 1), t=n.decimal(0.1, 0.95, 2))


def text_scale(c: Case) -> str:
    return (
        f"Somebody forgets the factor on the latents, so they are {c.c:g} times too large. The "
        f"schedule is the flow, `alpha = 1 - t`, `sigma = t`. At t = {c.t:g} these latents are as "
        "noisy (in log SNR) as latents of the right size at which time?"
    )


def same_level(c: Case, factor: float) -> float:
    """The time of the right latents where theirs are larger by this factor."""
    flow = Schedule.flow()
    log_snr = flow.log_snr(torch.tensor(c.t, dtype=F64)) + 2 * math.log(factor)
    return flow.t_from_log_snr(log_snr).item()


SCALE = Variant(
    "6.A", draw_scale, text_scale, lambda c: same_level(c, c.c),
    {
        "the other way: larger latents have more signal, so they are cleaner":
            lambda c: same_level(c, 1 / c.c),
        "the SNR is a ratio of variances, so a factor c multiplies it by c^2":
            lambda c: same_level(c, math.sqrt(c.c)),
        "alpha / sigma is multiplied by c, the SNR by c^2; you took c^4":
            lambda c: same_level(c, c.c**2),
        "t is not divided by c: sigma / alpha = t / (1 - t) is": lambda c: c.t / c.c,
    },
    "(6.6), (6.7)",
)


# ---- 6.B: the noise of a small step of the SDE

def draw_sde(n: Numbers) -> Case:
    return Case(a=n.decimal(0.3, 0.95, 2), b=n.decimal(0.5, 2, 1), t=n.decimal(0.1, 0.9, 2),
                h=n.one_of([0.001, 0.002, 0.004, 0.005]))


def text_sde(c: Case) -> str:
    return (
        f"A schedule has `alpha(t) = 1 - {c.a:g} t` and `sigma(t) = {c.b:g} t`. In the limit of "
        "small steps, which variance does the noise have that the forward process adds between t = "
        f"{c.t:g} and t + h, for h = {c.h:g}? (To first order in h.)"
    )


def right_sde(c: Case) -> float:
    schedule = Schedule(lambda t: 1 - c.a * t, lambda t: c.b * t)
    return diffusion(schedule, torch.tensor(c.t, dtype=F64)).item() ** 2 * c.h


def growth(c: Case) -> float:
    """2 sigma sigma'"""
    return 2 * c.b**2 * c.t


def shrunk(c: Case) -> float:
    """2 f sigma^2, which is negative."""
    return -2 * c.a / (1 - c.a * c.t) * (c.b * c.t) ** 2


SDE = Variant(
    "6.B", draw_sde, text_sde, right_sde,
    {
        "that is the growth of sigma^2 alone; the step also shrinks the noise that is there":
            lambda c: growth(c) * c.h,
        "the sign of f: alpha falls, so -2 f sigma^2 adds to the noise":
            lambda c: (growth(c) + shrunk(c)) * c.h,
        "that is a standard deviation; the variance is wanted":
            lambda c: math.sqrt(right_sde(c)),
        "that is g^2; a step of length h adds h times as much":
            lambda c: right_sde(c) / c.h,
        "f is alpha' / alpha: the division by alpha is missing":
            lambda c: (growth(c) + 2 * c.a * (c.b * c.t) ** 2) * c.h,
        "the variance of the noise is g^2 h, not g h":
            lambda c: math.sqrt(right_sde(c) / c.h) * c.h,
    },
    "(6.14)",
)


# ---- 6.C: bits per dimension

def draw_bits(n: Numbers) -> Case:
    side = 4 * n.whole(4, 32)
    return Case(side=side, channels=3, nats=10 * n.whole(3 * side**2 // 10, 12 * side**2 // 10))


def text_bits(c: Case) -> str:
    return (
        f"Pictures of {c.side} x {c.side} pixels and {c.channels} channels have values 0 ... 255, "
        "brought to [-1, 1], so that levels are 2/255 apart. A model's log-density of a "
        f"dequantised test picture is {c.nats} nats on average. How many bits per dimension "
        "is that?"
    )


def values(c: Case) -> int:
    return c.channels * c.side**2


def right_bits(c: Case) -> float:
    return bits_per_dim(column(-c.nats / values(c))).item() - math.log2(2 / 255)


def density_bits(c: Case) -> float:
    return -c.nats / values(c) / math.log(2)


BITS = Variant(
    "6.C", draw_bits, text_bits, right_bits,
    {
        "8 bits belong to pixels in [0, 256) / 256; here the levels are 2/255 apart":
            lambda c: density_bits(c) + 8,
        "the nats are not turned into bits: divide them by log 2":
            lambda c: -c.nats / values(c) - math.log2(2 / 255),
        "the width of a level is missing: a density is no probability": density_bits,
        "the sign: a higher density means fewer bits":
            lambda c: -density_bits(c) - math.log2(2 / 255),
        "every channel counts: divide by the number of values, not of pixels":
            lambda c: c.channels * density_bits(c) - math.log2(2 / 255),
    },
    "(6.34)",
)


# ---- 6.D: the bound of masked diffusion, from one draw

def draw_masked(n: Numbers) -> Case:
    L = n.whole(5, 7)
    places = sorted({n.whole(1, L), n.whole(1, L), n.whole(1, L)})
    return Case(p=[n.decimal(0.05, 0.95, 2) for _ in range(L)], places=places,
                t=n.decimal(0.2, 0.8, 2))


def text_masked(c: Case) -> str:
    return (
        f"A text of {len(c.p)} tokens. At t = {c.t:g} the places {listed(c.places)} are masked, "
        "counted from 1, and for its tokens, from the first to the last, the network gives the "
        f"true ones the probabilities {listed(c.p)}. Which estimate of the bound on -log p(text), "
        "in nats, does this one draw give?"
    )


def right_masked(c: Case) -> float:
    p = torch.tensor([c.p], dtype=F64)
    logits = torch.stack([p.log(), (1 - p).log(), 0 * p], dim=2)                # (1, L, 3)
    x0 = torch.zeros(1, len(c.p), dtype=torch.long)
    x = x0.clone()
    x[0, [place - 1 for place in c.places]] = 2
    return masked_nll(logits, x0, x, c.t, 2).item()


def loss(p: list[float]) -> float:
    """The sum of -log p."""
    return -sum(map(math.log, p))


def hidden(c: Case) -> list[float]:
    """The probabilities at the masked places."""
    return [c.p[place - 1] for place in c.places]


MASKED = Variant(
    "6.D", draw_masked, text_masked, right_masked,
    {
        "the weight 1 / t is missing: without it the loss is no bound":
            lambda c: loss(hidden(c)),
        "only masked places count": lambda c: loss(c.p) / c.t,
        "that is the mean over the masked places; the bound adds them up":
            lambda c: loss(hidden(c)) / c.t / len(c.places),
        "those are bits; nats are wanted": lambda c: loss(hidden(c)) / c.t / math.log(2),
        "t was multiplied; the weight is 1 / t": lambda c: loss(hidden(c)) * c.t,
        "the weight is 1 / t, not 1 / (1 - t): t is the probability of a mask":
            lambda c: loss(hidden(c)) / (1 - c.t),
    },
    "(6.40)",
)


VARIANTS: Iterable[Variant] = (SCALE, SDE, BITS, MASKED)
