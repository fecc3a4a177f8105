"""Variants of lesson 7: an adapter's size, what guidance costs, a p-value, a skew, a service."""
import math
from collections.abc import Iterable

import torch

from ...lab.evaluation.inference import amdahl
from ...lab.evaluation.release import tempered_share
from ...networks.stable_diffusion.lora import LowRank
from ...watermark import detect, marked_noise
from .core import Case, Numbers, Variant

# ---- 7.A: the numbers of an adapter

def draw_adapter(n: Numbers) -> Case:
    return Case(blocks=n.whole(2, 16), d=32 * n.whole(4, 40), context=32 * n.whole(2, 40),
                rank=n.one_of([2, 4, 8, 16, 32]))


def text_adapter(c: Case) -> str:
    return (
        f"A U-Net has {c.blocks} transformer blocks of width {c.d}. Each has a self-attention and "
        f"a cross-attention, which takes its keys and values from text vectors of {c.context} "
        f"numbers. LoRA of rank {c.rank} is added to the weight matrices of the keys and of the "
        "values, in both attentions. How many numbers are trained?"
    )


def right_adapter(c: Case) -> int:
    return c.blocks * 2 * (size(c.d, c.d, c.rank) + size(c.d, c.context, c.rank))


def size(m: int, n: int, rank: int) -> int:
    """The numbers of both factors for a weight (m, n)."""
    with torch.device("meta"):
        factors = LowRank(torch.empty(m, n), rank, rank, "lora")
    return sum(p.numel() for p in factors.parameters())


ADAPTER = Variant(
    "7.A", draw_adapter, text_adapter, right_adapter,
    {
        "that is the size of the full matrices; a change of rank r has r (m + n) numbers":
            lambda c: c.blocks * 2 * c.d * (c.d + c.context),
        "only one of the two factors is counted: A has r n numbers, B has r m":
            lambda c: c.blocks * 4 * c.rank * c.d,
        "in cross-attention keys and values are made from the text: n is its width there":
            lambda c: c.blocks * 8 * c.rank * c.d,
        "keys and values are two matrices in each attention":
            lambda c: right_adapter(c) // 2,
        "each block has two attentions; you counted the cross-attention alone":
            lambda c: c.blocks * 2 * c.rank * (c.d + c.context),
        "that counts queries and outputs, too: these have no factors here":
            lambda c: right_adapter(c) + c.blocks * 8 * c.rank * c.d,
    },
    "(7.11)", whole=True,
)


# ---- 7.B: fewer and cheaper evaluations

def draw_speed(n: Numbers) -> Case:
    return Case(text=n.whole(5, 60), each=n.whole(20, 200), decoder=n.whole(20, 300),
                before=n.whole(10, 50), after=n.whole(1, 8))


def text_speed(c: Case) -> str:
    return (
        f"A picture takes {c.text} ms for its text, {c.each} ms for each evaluation of the U-Net, "
        f"and {c.decoder} ms for the decoder. Before: {c.before} guided steps, two evaluations "
        f"each. After a distillation: {c.after} step(s) with one evaluation each. How many times "
        "faster is a picture drawn?"
    )


def total(c: Case, evaluations: float) -> float:
    """Milliseconds of a picture."""
    return c.text + evaluations * c.each + c.decoder


def right_speed(c: Case) -> float:
    fraction = 2 * c.before * c.each / total(c, 2 * c.before)
    return amdahl(fraction, 2 * c.before / c.after)


SPEED = Variant(
    "7.B", draw_speed, text_speed, right_speed,
    {
        "that is the ratio of the evaluations; text and decoder take as long as before":
            lambda c: 2 * c.before / c.after,
        "guidance takes two evaluations a step":
            lambda c: total(c, c.before) / total(c, c.after),
        "after the distillation a step takes one evaluation":
            lambda c: total(c, 2 * c.before) / total(c, 2 * c.after),
        "upside down: before, divided by after": lambda c: 1 / right_speed(c),
        "that is the part of the time that is saved": lambda c: 1 - 1 / right_speed(c),
        "text and decoder are missing after the distillation: they take as long as before":
            lambda c: total(c, 2 * c.before) / (c.after * c.each),
    },
    "(7.34), (7.35)",
)


# ---- 7.C: a watermark's p-value

def draw_mark(n: Numbers) -> Case:
    signs = n.whole(20, 90)
    return Case(signs=signs, agree=n.whole(signs // 2 + 3, signs // 2 + signs // 5 + 3))


def text_mark(c: Case) -> str:
    return (
        f"A detector of a watermark in the noise counts {c.signs} signs of a picture; {c.agree} of "
        "them agree with the key's bits. What is the p-value?"
    )


def right_mark(c: Case) -> float:
    """The detector's, for marked noise with some signs turned."""
    noise = marked_noise((1, c.signs), 1, 1, generator=torch.Generator().manual_seed(0))
    turned = torch.arange(c.signs) >= c.agree
    return detect(torch.where(turned, -noise, noise), 1, 1).p_value.item()


def exactly(c: Case) -> float:
    """The probability of exactly so many."""
    return math.comb(c.signs, c.agree) / 2**c.signs


def standard_deviations(c: Case) -> float:
    return (c.agree - c.signs / 2) / math.sqrt(c.signs / 4)


MARK = Variant(
    "7.C", draw_mark, text_mark, right_mark,
    {
        "that many or more: you left out the case of exactly so many":
            lambda c: right_mark(c) - exactly(c),
        "that is the probability of exactly so many; the p-value is that of so many or more":
            exactly,
        "too few agreeing signs are no mark: one side alone counts":
            lambda c: 2 * right_mark(c),
        "the normal distribution is an approximation; the binomial sum is exact":
            lambda c: math.erfc(standard_deviations(c) / math.sqrt(2)) / 2,
        "that is the share of signs that agree": lambda c: c.agree / c.signs,
        "that is the probability of fewer; the p-value is that of so many or more":
            lambda c: 1 - right_mark(c),
    },
    "(7.41)",
)


# ---- 7.D: what guidance makes of a skew

def draw_skew(n: Numbers) -> Case:
    p, given = n.decimal(0.1, 0.9, 2), n.decimal(0.1, 0.9, 2)
    return Case(p=p, given=given, w=n.decimal(1.5, 4, 1))


def text_skew(c: Case) -> str:
    return (
        f"An attribute that no prompt names has the share {c.p:g} in all of a training set, and "
        f"{c.given:g} under one prompt. If guidance tempers the shares of this attribute alone, "
        f"which share does it have in pictures drawn for that prompt with w = {c.w:g}?"
    )


def share(p: float, given: float, w: float) -> float:
    return tempered_share(p, given, w)


SKEW = Variant(
    "7.D", draw_skew, text_skew, lambda c: share(c.p, c.given, c.w),
    {
        "guidance extrapolates the logits, not the shares":
            lambda c: (1 - c.w) * c.p + c.w * c.given,
        "the two products p^(1-w) q^w, for yes and for no, must be brought to the sum 1":
            lambda c: c.p ** (1 - c.w) * c.given**c.w,
        "the two shares have changed places": lambda c: share(c.given, c.p, c.w),
        "w = 1 is no guidance: the weights are w and 1 - w, not 1 + w and -w":
            lambda c: share(c.p, c.given, 1 + c.w),
        "that is the odds; the share is odds / (1 + odds)":
            lambda c: share(c.p, c.given, c.w) / (1 - share(c.p, c.given, c.w)),
        "the logit of the share in all data is missing: its weight is 1 - w":
            lambda c: share(0.5, c.given, c.w),
    },
    "(7.39)",
)


# ---- 7.E: what pictures cost

def draw_cost(n: Numbers) -> Case:
    return Case(batch=n.whole(2, 16), seconds=n.decimal(0.5, 30, 1), price=n.decimal(0.2, 4, 2),
                busy=n.decimal(0.1, 0.9, 2))


def text_cost(c: Case) -> str:
    return (
        f"A machine costs {c.price:g} an hour, whether it draws or not, and is busy {c.busy:g} of "
        f"the time. It draws batches of {c.batch} pictures in {c.seconds:g} s each batch. What do "
        "1,000 pictures cost?"
    )


def right_cost(c: Case) -> float:
    return 1000 * c.seconds / c.batch * c.price / 3600 / c.busy


COST = Variant(
    "7.E", draw_cost, text_cost, right_cost,
    {
        "the idle time is paid, too: divide by the part in which the machine is busy":
            lambda c: right_cost(c) * c.busy,
        "a machine that is idle half of the time costs more per picture, not less: divide":
            lambda c: right_cost(c) * c.busy**2,
        "the time is that of a batch, not of a picture": lambda c: right_cost(c) * c.batch,
        "an hour has 3600 seconds, not 60": lambda c: right_cost(c) * 60,
        "that is the cost of one picture": lambda c: right_cost(c) / 1000,
    },
    "(7.42)",
)


VARIANTS: Iterable[Variant] = (ADAPTER, SPEED, MARK, SKEW, COST)
