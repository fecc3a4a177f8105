"""Variants of lesson 2: the receptive field, weights of a block, a transformer's cost, time."""
import math
from collections.abc import Callable, Iterable
from functools import cache

import torch

from ...lab.evaluation.profiling import count_parameters
from ...networks.layers import ResnetBlock, TimeEmbedding
from .core import Case, Numbers, Variant, clear

# ---- 2.A: the receptive field of a stack

def draw_stack(n: Numbers) -> Case:
    count = n.whole(4, 6)
    return Case(kernels=[n.one_of([3, 5, 7]) for _ in range(count)],
                strides=[n.one_of([1, 1, 2, 3]) for _ in range(count)])


def text_stack(c: Case) -> str:
    layers = ", ".join(f"({k}, {s})" for k, s in zip(c.kernels, c.strides))
    return (
        f"A stack of convolutions, from the input on, as pairs (kernel size, stride): {layers}. "
        "What is the side of the receptive field of one output pixel, in input pixels?"
    )


def field(kernels: list[int], strides: list[int]) -> int:
    """The side of the receptive field, by (2.1)."""
    side, jump = 1, 1
    for kernel, stride in zip(kernels, strides):
        side += (kernel - 1) * jump
        jump *= stride
    return side


STACK = Variant(
    "2.A", draw_stack, text_stack, lambda c: field(c.kernels, c.strides),
    {
        "that is the field without any stride: a layer reaches further by all strides before it":
            lambda c: field(c.kernels, [1] * len(c.kernels)),
        "a layer's own stride does not widen its own reach, only that of the layers after it":
            lambda c: 1 + sum((k - 1) * math.prod(c.strides[:j])
                              for j, k in enumerate(c.kernels, 1)),
        "a kernel of size k adds k - 1 pixels, not k":
            lambda c: field([k + 1 for k in c.kernels], c.strides),
        "the pixel itself is missing: the sum begins with 1":
            lambda c: field(c.kernels, c.strides) - 1,
        "the strides multiply, layer by layer; you took the last one alone":
            lambda c: 1 + sum((k - 1) * s for k, s in zip(c.kernels, [1, *c.strides])),
    },
    "(2.1)", whole=True,
)


# ---- 2.B: the weights of a residual block

def draw_block(n: Numbers) -> Case:
    inside = 16 * n.whole(1, 8)
    outside = 16 * n.whole(1, 8)
    return Case(inside=inside, out=outside + 16 * (outside == inside), emb=4 * n.whole(8, 64))


def text_block(c: Case) -> str:
    return (
        f"A residual block as in section 2.3 takes {c.inside} channels to {c.out}, and has an "
        f"embedding of {c.emb} numbers: group norm, SiLU, 3x3 convolution, group norm, FiLM, SiLU, "
        "3x3 convolution, and a 1x1 convolution as shortcut. All convolutions and linear layers "
        "have biases, the norms a scale and a shift per channel. How many parameters has it?"
    )


def block_parameters(c: Case) -> int:
    return counted(c.inside, c.out, c.emb)


@cache
def counted(inside: int, out: int, emb: int) -> int:
    with torch.device("meta"):
        return count_parameters(ResnetBlock(inside, out, emb))


BLOCK = Variant(
    "2.B", draw_block, text_block, block_parameters,
    {
        "the shortcut is missing: the numbers of channels differ, so it is a 1x1 convolution":
            lambda c: block_parameters(c) - (c.inside + 1) * c.out,
        "FiLM needs a scale and a shift per channel, so the linear layer has twice as many outputs":
            lambda c: block_parameters(c) - (c.emb + 1) * c.out,
        "the biases of the convolutions and of the linear layer are missing":
            lambda c: block_parameters(c) - 5 * c.out,
        "the group norms are missing: a scale and a shift per channel each":
            lambda c: block_parameters(c) - 2 * (c.inside + c.out),
        "the linear layer that makes scale and shift from the embedding is missing":
            lambda c: block_parameters(c) - (c.emb + 1) * 2 * c.out,
    },
    "section 2.3", whole=True,
)


# ---- 2.C: the cost of a transformer's block

def draw_transformer(n: Numbers) -> Case:
    patch = n.one_of([2, 4, 8])
    return Case(patch=patch, side=patch * n.whole(8, 24), d=32 * n.whole(2, 16))


def text_transformer(c: Case) -> str:
    return (
        f"A diffusion transformer cuts pictures of {c.side:g} x {c.side:g} pixels into patches of "
        f"{c.patch:g} x {c.patch:g}; its tokens have width {c.d}. One block is self-attention and "
        "an MLP that is four times as wide inside. How many million multiply-adds does a block "
        "need for one picture, without the map from the embedding?"
    )


def tokens(c: Case) -> int:
    return (c.side // c.patch) ** 2


def million(tokens_of: Callable[[Case], int], linear: int, pairs: int) -> Callable[[Case], float]:
    """Case -> (linear N d^2 + pairs N^2 d) / 1e6"""
    return lambda c: (linear * tokens_of(c) * c.d**2 + pairs * tokens_of(c) ** 2 * c.d) / 1e6


TRANSFORMER = Variant(
    "2.C", draw_transformer, text_transformer, million(tokens, 12, 2),
    {
        "the number of tokens is the square of (side / patch)": million(
            lambda c: c.side // c.patch, 12, 2),
        "every patch is one token, not every pixel": million(lambda c: c.side**2, 12, 2),
        "the comparisons of all tokens with all tokens, 2 N^2 d, are missing": million(
            tokens, 12, 0),
        "the MLP is missing": million(tokens, 4, 2),
        "attention's own linear maps are missing: queries, keys, values and the last one": million(
            tokens, 8, 2),
        "the MLP widens by four and narrows again: two maps of 4 N d^2": million(tokens, 8 + 4, 1),
    },
    "(2.14)",
)


# ---- 2.D: one number of the time embedding

def draw_time(n: Numbers) -> Case:
    K = 2 ** n.whole(3, 6)
    return Case(K=K, k=n.whole(1, K - 2), t=n.decimal(0.02, 0.98, 2))


def text_time(c: Case) -> str:
    return (
        f"A time embedding has {c.K} sines and {c.K} cosines, at frequencies `omega_k`, k = 0 ... "
        f"{c.K - 1}, that fall from 1 to 1/10000 in equal ratios, as in lesson 2 (times are "
        f"multiplied by 1000). What is its sine number k = {c.k} at t = {c.t:g}?"
    )


def right_time(c: Case) -> float:
    embedded = TimeEmbedding(2 * c.K)(torch.tensor([c.t], dtype=torch.float64))
    return embedded[0, c.k].item()


def angle(c: Case, exponent: float) -> float:
    """1000 t omega, with omega = 10000 ** -exponent"""
    return 1000 * c.t * 10_000**-exponent


TIME = Variant(
    "2.D", draw_time, text_time, clear(right_time),
    {
        "that is the cosine": lambda c: math.cos(angle(c, c.k / (c.K - 1))),
        "t is multiplied by 1000 first": lambda c: math.sin(angle(c, c.k / (c.K - 1)) / 1000),
        "the frequencies reach 1/10000 at the last k, so the exponent is k / (K - 1), not k / K":
            lambda c: math.sin(angle(c, c.k / c.K)),
        "the angle is in radians, not in degrees":
            lambda c: math.sin(math.radians(angle(c, c.k / (c.K - 1)))),
    },
    "(2.3)",
)


VARIANTS: Iterable[Variant] = (STACK, BLOCK, TRANSFORMER, TIME)
