"""The questions of lesson 6. Tables list the well-known mistakes: diagnosis -> what it computes."""
import itertools
import math
import numbers
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .. import samplers, sde
from ..lab import attributes, data, noun_parts, train
from ..lab.data import GaussianMixture
from ..networks.vae import AutoencoderKL, kl_to_standard_normal
from ..samplers import last, timesteps
from ..schedules import Schedule, append_dims
from .common import (
    COSINE,
    F64,
    SCHEDULES,
    Case,
    Question,
    Wrong,
    as_drawn,
    as_function,
    between,
    bumps,
    call_pure,
    compare,
    compare_case,
    draw_case,
    forbidden,
    fresh_generator,
    is_stub,
    noise,
    not_finite,
    one_thread,
    reject_first,
    reject_if,
    reject_none,
    wrong_answers,
)

FLOW = SCHEDULES["flow"]
VP = {"cosine": COSINE, "linear": Schedule.linear()}


def coefficients(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """alpha_t, sigma_t, alpha_s, sigma_s."""
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


def fresh_seed() -> int:
    return fresh_generator().initial_seed() % 2**30


def pair_of(got: object, words: str) -> tuple:
    """The two things that the reader returned. Raises Wrong with these words for anything else."""
    reject_none(got)
    kind = type(got).__name__
    reject_if((not isinstance(got, (tuple, list)) or len(got) != 2, f"{words}; got {kind}"))
    return tuple(got)


def judge_two(answer: object, parts: dict[str, Callable], name: str, probe: tuple) -> None:
    """A question of two functions. probe: arguments that make a stub which came alone raise."""
    if callable(answer):
        raise_if_stub(answer, probe)
    words = f'both functions are wanted: check("{name}", ({", ".join(parts)}))'
    missing = []
    for (part, judge), f in zip(parts.items(), pair_of(answer, words)):
        try:
            judge(f)
        except NotImplementedError as error:
            if not is_stub(error, f):
                raise
            missing.append((part, error))
    if len(missing) == 2:
        raise missing[0][1]
    for part, _ in missing:
        raise Wrong(f"{part} is not attempted; the other function is right")


def raise_if_stub(answer: Callable, probe: tuple) -> None:
    """Raises NotImplementedError for a stub that was passed alone."""
    try:
        answer(*probe)
    except NotImplementedError:
        raise
    except Exception:                                       # no stub: the pair is missed next
        return


# ---- 6.1: a Gaussian, backwards

def gaussian_case(schedule: Schedule, v: Tensor, t: Tensor, s: Tensor) -> Case:
    """The variances along the process of data N(0, v)."""
    c = Case(schedule=schedule, inputs=(schedule, v, t, s), v=v, t=t, s=s)
    c.a_t, c.b_t, c.a_s, c.b_s = coefficients(schedule, t, s)
    c.ratio = c.a_t / c.a_s
    c.added = c.b_t**2 - (c.ratio * c.b_s) ** 2
    c.var_t, c.var_s = variances(c, v)
    return c


def variances(c: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """Var(x_t) and Var(x_s)."""
    return c.a_t**2 * v + c.b_t**2, c.a_s**2 * v + c.b_s**2


def draw_gaussian(schedule: Schedule) -> Case:
    s = between(0.2, 0.5, 5)
    return gaussian_case(schedule, between(0.2, 0.8, 5), s + between(0.15, 0.4, 5), s)


def right_factor(c: Case) -> Tensor:
    return c.ratio * c.var_s / c.var_t


def right_variance(c: Case) -> Tensor:
    return c.var_s * c.added / c.var_t


def with_variances(c: Case, var_t: Tensor, var_s: Tensor) -> Case:
    """The case with other variances of x_t and x_s."""
    return Case(**vars(c) | {"var_t": var_t, "var_s": var_s})


def with_v_squared(c: Case) -> Case:
    return with_variances(c, *variances(c, c.v**2))


def with_alpha_forgotten(c: Case) -> Case:
    return with_variances(c, c.v + c.b_t**2, c.v + c.b_s**2)


def conditional(c: Case) -> Tensor:
    """Var_s (1 - ratio^2 Var_s / Var_t)."""
    return c.var_s * (1 - c.ratio**2 * c.var_s / c.var_t)


FACTOR_MISTAKES = {
    "factor: that is the factor of x_t in the posterior given x0, (alpha_t / alpha_s) sigma_s^2 / "
    "sigma_t^2; here x0 is unknown, and Var_s stands where sigma_s^2 stood":
        lambda c: c.ratio * c.b_s**2 / c.b_t**2,
    "factor: Var_s / Var_t is upside down":
        lambda c: c.ratio * c.var_t / c.var_s,
    "factor: alpha_t / alpha_s is upside down":
        lambda c: c.var_s / c.var_t / c.ratio,
    "factor: that is the ODE's, sqrt(Var_s / Var_t), which keeps the variances right without "
    "noise; here noise is added":
        lambda c: (c.var_s / c.var_t).sqrt(),
    "factor: that is the correlation of x_s and x_t; a regression divides the covariance by "
    "Var_t":
        lambda c: c.ratio * (c.var_s / c.var_t).sqrt(),
    "factor: that is the covariance of x_s and x_t; divide it by Var_t":
        lambda c: c.ratio * c.var_s,
    "factor: the covariance of x_s and x_t is (alpha_t / alpha_s) Var_s; the ratio is missing":
        lambda c: c.var_s / c.var_t,
    "factor: alpha_t / alpha_s alone is the way up, from s to t":
        lambda c: c.ratio,
    "factor: alpha_s / alpha_t alone undoes the scaling, and takes all the noise for signal":
        lambda c: 1 / c.ratio,
    "factor: the covariance is not alpha_t alpha_s v alone: the noise that is in x_s is in x_t, "
    "too":
        lambda c: c.a_t * c.a_s * c.v / c.var_t,
    "factor: v is a variance already, and yours is squared":
        lambda c: right_factor(with_v_squared(c)),
    "factor: Var(x_t) has alpha_t^2 v in it, not v":
        lambda c: right_factor(with_alpha_forgotten(c)),
    "the two have changed places: the factor first, then the variance":
        right_variance,
    "factor: right only where alpha^2 + sigma^2 = 1: Var(x_t) is alpha_t^2 v + sigma_t^2 in every "
    "schedule":
        lambda c: right_factor(with_variances(c, 1 + c.a_t**2 * (c.v - 1),
                                              1 + c.a_s**2 * (c.v - 1))),
}

VARIANCE_MISTAKES = {
    "variance: that is the posterior's given x0 (lesson 1); x0 is unknown here, and adds to it":
        lambda c: c.b_s**2 * c.added / c.b_t**2,
    "variance: that is a standard deviation":
        lambda c: right_variance(c).sqrt(),
    "variance: that is the variance of the noise that is added from s to t; on the way back it is "
    "smaller by Var_s / Var_t":
        lambda c: c.added,
    "variance: that is Var_s, over all x_s; given x_t less is left":
        lambda c: c.var_s,
    "variance: what x_t explains is subtracted, not added":
        lambda c: c.var_s * (1 + c.ratio**2 * c.var_s / c.var_t),
    "variance: alpha_t / alpha_s is still to be squared":
        lambda c: c.var_s * (1 - c.ratio * c.var_s / c.var_t),
    "variance: what x_t explains is factor^2 Var_t, not factor^2 Var_s":
        lambda c: c.var_s * (1 - right_factor(c) ** 2),
    "variance: Var_s / Var_t is upside down":
        lambda c: c.var_t * c.added / c.var_s,
    "variance: nothing is random in yours: that is the ODE":
        lambda c: torch.zeros_like(c.var_s),
    "variance: that is g^2 (t - s), which is right for small steps only":
        lambda c: sde.diffusion(c.schedule, c.t) ** 2 * (c.t - c.s),
    "variance: the added noise is only rescaled to level s, (alpha_s / alpha_t)^2 of it":
        lambda c: c.added / c.ratio**2,
    "variance: v is a variance already, and yours is squared":
        lambda c: conditional(with_v_squared(c)),
    "variance: Var(x_t) has alpha_t^2 v in it, not v":
        lambda c: conditional(with_alpha_forgotten(c)),
    "variance: right only where alpha^2 + sigma^2 = 1: 1 - (alpha_t / alpha_s)^2 is not "
    "sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 in every schedule":
        lambda c: c.var_s * (1 - c.ratio**2) / c.var_t,
}

TWO_TENSORS = "two things are wanted, the factor and the variance, each like t"


def judge_gaussian(f: Callable) -> None:
    """6.1: reverse_gaussian(schedule, v, t, s) -> factor and variance of q(x_s | x_t)."""
    for name in ("flow", "cosine"):
        draw = partial(draw_gaussian, SCHEDULES[name])
        tell_apart = partial(draw_case, right=right_factor, mistakes=FACTOR_MISTAKES)
        c = draw_case(partial(tell_apart, draw), right_variance, VARIANCE_MISTAKES, atol=1e-4)
        factor, variance = pair_of(call_pure(f, *c.inputs), TWO_TENSORS)
        compare_case(factor, c, right_factor, FACTOR_MISTAKES, rtol=1e-3, otherwise=(
            f"{name}: factor: not Cov(x_s, x_t) / Var(x_t). Which part of x_t is x_s, and which "
            "is fresh noise?"))
        compare_case(variance, c, right_variance, VARIANCE_MISTAKES, rtol=1e-3, otherwise=(
            f"{name}: the factor is right, the variance is not: Var_s minus what x_t explains, "
            "factor^2 Var_t"))
    judge_gaussian_at_the_ends(f)


def judge_gaussian_at_the_ends(f: Callable) -> None:
    """6.1 from alpha = 0, and to s = 0."""
    t, s = torch.tensor([1.0, 0.6], dtype=F64), torch.tensor([0.4, 0.0], dtype=F64)
    c = gaussian_case(FLOW, between(0.2, 0.8, 2), t, s)
    got = pair_of(call_pure(f, *c.inputs), TWO_TENSORS)
    for part in got:
        not_finite(part, "right in between, but nan or inf at t = 1 (alpha = 0) or at s = 0 "
                   "(sigma = 0): divide by neither")
    for part, right in zip(got, (right_factor, right_variance)):
        compare(part, right(c), otherwise="right in between, but not at the ends: from alpha_t = 0 "
                "the factor is 0 and the variance Var_s; to s = 0 it is Var(x0 | x_t)")


# ---- 6.2: Hutchinson's estimate

class Field:
    """f(x) = tanh(A x / scale) scale, the dimensions of each example flattened.

    Linear where scale is None. calls counts its evaluations.
    """

    def __init__(self, d: int, scale: float | None = None):
        off_diagonal = between(-1, 1, d, d) * (1 - torch.eye(d, dtype=F64))
        self.A = off_diagonal + between(1, 2, d).diag()
        self.scale = scale
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = x.flatten(1) @ self.A.T.to(x.dtype)
        if self.scale is not None:
            y = self.scale * (y / self.scale).tanh()
        return y.view(x.shape)

    def jacobians(self, x: Tensor) -> Tensor:
        """(B, d, d)"""
        y = x.flatten(1) @ self.A.T
        slope = torch.ones_like(y) if self.scale is None else 1 - (y / self.scale).tanh() ** 2
        return slope[:, :, None] * self.A


def patterns(values: tuple[float, float], d: int) -> Tensor:
    """All probes whose entries are one of two values: (2^d, d)."""
    return torch.tensor(list(itertools.product(values, repeat=d)), dtype=F64)


def forms(J: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
    """z^T J y for each probe: (..., K) for J (..., d, d) and z, y (K, d); y: z if None."""
    return torch.einsum("ki,...ij,kj->...k", z, J, z if y is None else y)


def all_among(got: Tensor, candidates: Tensor) -> bool:
    """Whether each number of got (B,) is one of the candidates (K,) or (B, K)."""
    distance = (got.double()[:, None] - candidates).abs().amin(1)
    return bool((distance < 1e-4 * (1 + got.double().abs())).all())


def draw_field() -> Case:
    """A linear field in five dimensions, with all that each mistake could return."""
    c = Case(f=Field(5), d=5)
    c.J = c.f.A
    c.signs = patterns((-1.0, 1.0), 5)
    c.right = forms(c.J, c.signs)
    c.trace = c.J.trace()
    S = (c.J + c.J.T) / 2
    c.variance = 2 * (S.square().sum() - S.diagonal().square().sum())
    c.normal_variance = 2 * S.square().sum()
    every = list(itertools.product(c.signs, c.signs))
    c.first = torch.stack([z for z, _ in every])
    c.second = torch.stack([y for _, y in every])
    return c


# what the reader's numbers may be, whatever the probe: candidates
PATTERN_MISTAKES = {
    "the wrong sign: the divergence is z^T J z":
        lambda c: -c.right,
    "that is the mean over the dimensions; the trace is a sum":
        lambda c: c.right / c.d,
    "the probe is multiplied once only: z^T J is a row, and (z^T J z) its product with z":
        lambda c: (c.signs @ c.J).sum(1),
    "that is the squared length of z^T J; multiply z^T J by z":
        lambda c: (c.signs @ c.J).square().sum(1),
    "z^T J is multiplied by a second, independent probe: the mean is 0 then. Take the same z "
    "twice":
        lambda c: forms(c.J, c.first, c.second),
    "the entries of your probe are 0 and 1: their mean must be 0 and their variance 1, so -1 "
    "and 1":
        lambda c: forms(c.J, (c.signs + 1) / 2),
    "the entries of your probe are -1/2 and 1/2: their variance must be 1":
        lambda c: c.right / 4,
}

DIVERGENCE_SUSPECTS = {
    "your function marks or changes the x that it was given: work on x.detach().requires_grad_()":
        lambda c: c.changed,
    "the draws come from torch's global generator, so nobody can repeat them: use "
    "generator=generator":
        lambda c: c.global_draws,
    "a tensor (B,) is wanted, one number for each example; got {c.came}":
        lambda c: not isinstance(c.got, Tensor),
    "one number for the whole batch: each example has a divergence of its own, "
    ".flatten(1).sum(1)":
        lambda c: c.got.numel() == 1,
    "those are the products z * (z^T J), one for each dimension: sum them over the dimensions":
        lambda c: c.got.shape == c.x.shape,
    "expected shape {c.expected}; got {c.got_shape}: sum over all dimensions but the first":
        lambda c: c.got_shape != c.expected,
    "{c.bad} of the values are nan or inf":
        lambda c: c.bad,
}

SAME_SUSPECTS = {
    "every example has the exact divergence, trace J: that costs a backward pass for each "
    "dimension. An estimate by one random probe is wanted":
        lambda c: c.same and near(c.firsts, c.trace),
    "your probe has one sign for all dimensions of an example: every entry needs a sign of its "
    "own":
        lambda c: c.same and near(c.firsts, c.J.sum()),
    "the same probe serves all examples, so their errors are the same, and a mean over the batch "
    "does not remove them: draw a probe like x":
        lambda c: c.same and all_among(c.firsts, c.right),
    "every example has the same divergence, {c.got[0]:.3f}; the trace is {c.trace:.3f}, and an "
    "estimate varies":
        lambda c: c.same,
}

PROBE_SUSPECTS = {
    "normal probes: unbiased, but the variance is {c.found:.2f}, and with signs it is "
    "{c.variance:.2f}: with z_i = -1 or 1 the diagonal of J causes no error":
        lambda c: c.unbiased and abs(c.found / c.normal_variance - 1) < 0.1,
    "unbiased, but the variance is {c.found:.2f}, and with signs, -1 or 1, it is "
    "{c.variance:.2f}":
        lambda c: c.unbiased,
    "the mean of 20,000 estimates is {c.mean:.3f}, and the trace {c.trace:.3f}: z^T J z, with one "
    "probe z of signs, -1 or 1, from torch.autograd.grad((f(x) * z).sum(), x)":
        lambda c: True,
}


def near(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() < 1e-4 * (1 + b.abs())).all())


def judge_divergence(f: Callable) -> None:
    """6.2: divergence_estimate(f, x, generator) -> (B,), z^T J z with a Rademacher probe."""
    seed = fresh_seed()
    c = draw_field()
    x = noise(20_000, 5)
    call_divergence(f, c, x, seed)
    reject_first(DIVERGENCE_SUSPECTS, c)
    judge_repeatable(f, c, x, seed)
    judge_probe(c)
    judge_images(f, seed)


def call_divergence(f: Callable, c: Case, x: Tensor, seed: int) -> None:
    """One call of the reader's function; c gets what it returned."""
    given = x.clone()
    c.f.calls = 0
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            got = as_function(f)(c.f, given, torch.Generator().manual_seed(seed))
            c.global_draws = not torch.equal(before, torch.random.get_rng_state())
    except RuntimeError as error:
        reject_if(("does not require grad" in str(error),
                   "autograd keeps no graph of f(x): x is data, so it does not ask for gradients. "
                   f"Take x.detach().requires_grad_() before f ({error})"))
        raise
    reject_none(got)
    got = as_drawn(got)
    c.x = x
    c.changed = given.requires_grad or not torch.equal(given, x)
    c.came = type(got).__name__
    c.got = got.detach() if torch.is_tensor(got) else got
    c.got_shape = tuple(getattr(got, "shape", ()))
    c.expected = (len(x),)
    c.bad = int((~c.got.isfinite()).sum()) if torch.is_tensor(got) else 0


def judge_repeatable(f: Callable, c: Case, x: Tensor, seed: int) -> None:
    """The generator decides: equal seeds give equal numbers, other seeds others.

    c.firsts: the first example's numbers with six seeds.
    """
    again, *others = [Case(f=c.f) for _ in range(6)]
    for k, case in enumerate((again, *others)):
        call_divergence(f, case, x, seed + k)
    c.firsts = torch.stack([case.got[0] for case in (again, *others)]).double()
    other = others[0]
    varies = not torch.equal(c.got, c.got[:1].expand(len(x)))
    reject_if((not torch.equal(c.got, again.got), "the same generator gave two different answers: "
               "draw with generator=generator"),
              (varies and torch.equal(c.got, other.got), "two generators with two seeds gave the "
               "same answers: draw with generator=generator, and make no generator of your own"))


def judge_probe(c: Case) -> None:
    """Whether the 20,000 numbers are z^T J z for signs z, all patterns equally often."""
    got = c.got.double()
    c.same = bool((got - got[0]).abs().max() < 1e-6)
    reject_first(SAME_SUSPECTS, c)
    c.mean = got.mean()
    c.found = got.var()
    error = (c.found / len(got)).sqrt()
    c.unbiased = bool((c.mean - c.trace).abs() < 6 * error)
    if all_among(got, c.right):
        frequency = frequencies(got, c.right[:16])
        reject_if(((frequency - 1 / 16).abs().max() > 0.012, "your signs are not equally likely, "
                   "or not independent: up to the sign of all there are 16 patterns, and one of "
                   f"them has a frequency of {frequency.max():.3f} in place of 0.063"))
        return
    for words, candidates in wrong_answers(PATTERN_MISTAKES, c).items():
        reject_if((all_among(got, candidates), words))
    reject_first(PROBE_SUSPECTS, c)


def frequencies(got: Tensor, values: Tensor) -> Tensor:
    """How often each of the values (K,) occurs among got (B,)."""
    nearest = (got[:, None] - values).abs().argmin(1)
    return torch.bincount(nearest, minlength=len(values)) / len(got)


def judge_images(f: Callable, seed: int) -> None:
    """A field that is not linear, and examples with three dimensions."""
    c = Case(f=Field(4, scale=0.7))
    call_divergence(f, c, noise(200, 1, 2, 2), seed)
    reject_if((c.got_shape != c.expected,
               f"right for points, but x of shape (200, 1, 2, 2) gives {c.got_shape}: sum over all "
               "dimensions but the first, .flatten(1).sum(1)"))
    signs = patterns((-1.0, 1.0), 4)
    reject_if((not all_among(c.got, forms(c.f.jacobians(c.x), signs)),
               "right where f is linear, but not for f(x) = tanh(A x): J is the Jacobian at x"),
              (c.f.calls != 1, f"right, but f was evaluated {c.f.calls} times; once is enough"))


# ---- 6.3: two functions, three bugs

LEVELS = 127.5                                              # x = pixels / 127.5 - 1


class Density:
    """log_prob(x): independent Gaussians, nats. seen and given list its inputs and answers."""

    def __init__(self):
        self.mean = between(-0.5, 0.5)
        self.std = between(0.4, 0.9)
        self.seen = []
        self.given = []

    def __call__(self, x: Tensor) -> Tensor:
        reject_if((not torch.is_tensor(x), "log_prob takes a tensor of pictures"))
        self.seen.append(x.detach().double())
        self.given.append(sde.normal_log_prob(x - self.mean, self.std))
        return self.given[-1]


INPUT_SUSPECTS = {
    "bits: log_prob is never called":
        lambda c: not c.density.seen,
    "bits: log_prob gets {c.got_shape}; pictures {c.shape} are wanted":
        lambda c: c.got_shape != c.shape,
    "bits: your function changes the pixels that it was given":
        lambda c: not torch.equal(c.given, c.pixels),
    "bits: pixels are whole numbers, and log_prob is a density: without dequantisation noise a "
    "model with spikes at the 256 values reaches any likelihood. Add u to the pixels":
        lambda c: c.u.abs().max() < 1e-3,
    "bits: log_prob is a density of x in [-1, 1]; yours lie in [0, 1]":
        lambda c: c.x.min() > -0.1 and c.x.max() < 1.1,
    "bits: log_prob is a density of x in [-1, 1]; yours lie in [0, 256]":
        lambda c: c.x.max() > 200,
    "bits: the noise is added to x, where a bin has the width 1 / 127.5; u in [-1/2, 1/2] belongs "
    "to the pixels, before they are scaled":
        lambda c: c.u.abs().max() > 30,
    "bits: u lies in [0, 1]; a bin reaches from half a level below to half a level above, so "
    "[-1/2, 1/2]":
        lambda c: c.u.min() > -0.01 and 0.9 < c.u.max() < 1.01,
    "bits: one number is added to all pixels of a picture; each needs a draw of its own":
        lambda c: c.u.flatten(1).std(1).max() < 1e-3,
    "bits: all pictures get the same noise; draw it like the batch":
        lambda c: (c.u - c.u[:1]).abs().max() < 1e-3,
    "bits: the noise reaches from {c.low:.2f} to {c.high:.2f} levels; a bin is 1 wide, so it must "
    "be uniform in [-1/2, 1/2]":
        lambda c: c.high > 0.51 or c.low < -0.51 or c.high - c.low < 0.9,
    "bits: the noise is not uniform over the bin: its standard deviation is {c.spread:.3f} "
    "levels, and should be {c.uniform:.3f}":
        lambda c: abs(c.spread - c.uniform) > 0.02 or c.u.mean().abs() > 0.03,
    "bits: the draws come from torch's global generator: use generator=generator":
        lambda c: c.global_draws,
}

BITS_MISTAKES = {
    "bits: 8 is the offset of data in [0, 1], where a bin is 1/256 wide; for x = pixels / 127.5 - "
    "1 a bin is 1 / 127.5 wide":
        lambda c: c.bits + 8,
    "bits: 8 is subtracted; it is not this data's offset, and it would have to be added":
        lambda c: c.bits - 8,
    "bits: no offset is left: the mass of a bin is density times width, 1 / 127.5":
        lambda c: c.bits,
    "bits: the offset is subtracted; a narrower bin holds less, and costs more bits":
        lambda c: c.bits - c.offset,
    "bits: 7 is the offset of bins that are 2/256 wide; ours are 2/255, so log2(127.5)":
        lambda c: c.bits + 7,
    "bits: log2(255) is the offset of data in [0, 1]; ours are in [-1, 1], twice as wide":
        lambda c: c.bits + math.log2(255),
    "bits: the offset is in nats, log 127.5; bits have log2":
        lambda c: c.bits + math.log(LEVELS),
    "bits: those are nats per dimension: divide by log 2":
        lambda c: c.bits * math.log(2) + math.log(LEVELS),
    "bits: the density is in nats still: divide by log 2":
        lambda c: c.bits * math.log(2) + c.offset,
    "bits: log_prob is multiplied by log 2; divide by it":
        lambda c: c.bits * math.log(2) ** 2 + c.offset,
    "bits: not divided by the number of dimensions":
        lambda c: c.d * (c.bits + c.offset),
    "bits: the density is not divided by the number of dimensions":
        lambda c: c.d * c.bits + c.offset,
    "bits: the offset is one for each dimension, and is not divided by their number":
        lambda c: c.bits + c.offset / c.d,
    "bits: the sign of log_prob: rarer pictures cost more bits":
        lambda c: c.offset - c.bits,
    "bits: that is log_prob as it came, in nats":
        lambda c: c.nats,
}


def right_bits(c: Case) -> Tensor:
    return c.bits + c.offset


def judge_bits(f: Callable) -> None:
    """6.3: bits_per_dimension(log_prob, pixels, generator) -> (B,)."""
    pixels = torch.randint(0, 256, (60, 1, 6, 6), generator=fresh_generator())
    seed = fresh_seed()
    c = call_bits(f, pixels, seed)
    reject_first(INPUT_SUSPECTS, c)
    c.nats = torch.stack(c.density.given).mean(0)
    c.bits = -c.nats / math.log(2) / c.d
    c.offset = math.log2(LEVELS)
    compare_case(c.got, c, right_bits, BITS_MISTAKES, rtol=0, atol=1e-3, otherwise=(
        "bits: x is right, the number is not: -log_prob(x) / log 2 / dimensions + log2(127.5)"))
    again, other = call_bits(f, pixels, seed), call_bits(f, pixels, seed + 1)
    reject_if((not torch.equal(c.u, again.u),
               "bits: the same generator gave two different answers: use generator=generator"),
              (torch.equal(c.u, other.u), "bits: two generators with two seeds gave the same "
               "noise: make no generator of your own"))


def call_bits(f: Callable, pixels: Tensor, seed: int) -> Case:
    """One call of the reader's function; u: the noise that log_prob saw, in levels."""
    c = Case(density=Density(), pixels=pixels, given=pixels.clone(), d=pixels[0].numel())
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        generator = torch.Generator().manual_seed(seed)
        c.got = as_function(f)(c.density, c.given, generator)
        c.global_draws = not torch.equal(before, torch.random.get_rng_state())
    reject_none(c.got)
    c.shape = tuple(pixels.shape)
    c.x = c.density.seen[0] if c.density.seen else torch.zeros(0, dtype=F64)
    c.got_shape = tuple(c.x.shape)
    if c.got_shape == c.shape:
        c.u = (c.x + 1) * LEVELS - pixels
        c.low = c.u.min()
        c.high = c.u.max()
        c.spread = c.u.std()
        c.uniform = 12**-0.5
    return c


def draw_step(schedule: Schedule, level: float) -> Case:
    """One Euler-Maruyama step from t to s, its parts, and the noise z."""
    s = between(0.3, 0.5)
    c = Case(schedule=schedule, D=bumps().denoiser(schedule), x=noise(6, 2), z=noise(6, 2),
             s=s, t=s + between(0.1, 0.2), level=level)
    c.h = c.t - c.s
    c.f = sde.drift(schedule, c.t)
    c.g = sde.diffusion(schedule, c.t)
    c.inputs = c.D, schedule, c.x, c.t, c.s, level, c.z
    return c


def euler_step(c: Case, *, x: Tensor | None = None, push: float | Tensor | None = None,
               drift: float | Tensor | None = None, std: float | Tensor | None = None,
               h: Tensor | None = None) -> Tensor:
    """x - h (f x - push score) + std z, with parts replaced."""
    x = c.x if x is None else x
    push = (1 + c.level**2) / 2 * c.g**2 if push is None else push
    std = c.level * c.g * c.h.sqrt() if std is None else std
    slope = (c.f if drift is None else drift) * x - push * sde.score(c.D, c.schedule, x, c.t)
    return x - (c.h if h is None else h) * slope + std * c.z


def noised_first(c: Case, level: float) -> Tensor:
    return c.x + level * c.g * c.h.sqrt() * c.z


STEP_MISTAKES = {
    "step: the noise enters twice still: before the score, where x_t has its noise already, and "
    "at the end":
        lambda c: euler_step(c, x=noised_first(c, 1.0)),
    "step: the noise is added before the score is evaluated, so x does not fit t any more; add it "
    "at the end":
        lambda c: euler_step(c, x=noised_first(c, 1.0), std=0.0),
    "step: lambda g sqrt(h) z is added before the score is evaluated, so x does not fit t any "
    "more; add it at the end":
        lambda c: euler_step(c, x=noised_first(c, c.level), std=0.0),
    "step: both noises are added at the end, g sqrt(h) z and lambda g sqrt(h) z":
        lambda c: euler_step(c, std=(1 + c.level) * c.g * c.h.sqrt()),
    "step: the noise is g sqrt(h) z, whatever lambda is":
        lambda c: euler_step(c, std=c.g * c.h.sqrt()),
    "step: no noise is left; lambda g sqrt(h) z belongs to it, once":
        lambda c: euler_step(c, std=0.0),
    "step: the noise is scaled by lambda^2; lambda is a standard deviation's factor":
        lambda c: euler_step(c, std=c.level**2 * c.g * c.h.sqrt()),
    "step: the noise is scaled by h; variances add up over steps, so sqrt(h)":
        lambda c: euler_step(c, std=c.level * c.g * c.h),
    "step: the noise is scaled by g^2; g is a standard deviation's factor":
        lambda c: euler_step(c, std=c.level * c.g**2 * c.h.sqrt()),
    "step: the noise is scaled by sqrt(1 + lambda^2)":
        lambda c: euler_step(c, std=(1 + c.level**2) ** 0.5 * c.g * c.h.sqrt()),
    "step: the score's factor is the ODE's, g^2 / 2; noise must be paid for with "
    "(1 + lambda^2) / 2 g^2":
        lambda c: euler_step(c, push=c.g**2 / 2),
    "step: the score's factor is g^2, which is right for lambda = 1 only":
        lambda c: euler_step(c, push=c.g**2),
    "step: the score's factor has lambda, not lambda^2":
        lambda c: euler_step(c, push=(1 + c.level) / 2 * c.g**2),
    "step: the score's factor has g; g^2 belongs there":
        lambda c: euler_step(c, push=(1 + c.level**2) / 2 * c.g),
    "step: the score has the wrong sign: x must move to where the density grows":
        lambda c: euler_step(c, push=-(1 + c.level**2) / 2 * c.g**2),
    "step: time runs the wrong way: t falls, so x - h times the slope":
        lambda c: euler_step(c, h=-c.h),
    "step: the drift f x is missing":
        lambda c: euler_step(c, drift=0.0),
    "step: the score is missing":
        lambda c: euler_step(c, push=0.0),
    "step: x has not changed":
        lambda c: c.x,
}


def judge_step(f: Callable) -> None:
    """6.3: reverse_step(D, schedule, x, t, s, level, z)."""
    for name, level in (("flow", between(0.5, 0.8).item()), ("cosine", between(1.3, 1.7).item()),
                        ("flow", 0.0)):
        draw = partial(draw_step, SCHEDULES[name], level)
        c = draw_case(draw, euler_step, STEP_MISTAKES, rtol=1e-4, atol=1e-4)
        got = call_pure(f, *c.inputs)
        not_finite(got, f"step: {name}: nan or inf, although 0 < s < t < 1")
        compare_case(got, c, euler_step, STEP_MISTAKES, rtol=1e-4, atol=1e-5, otherwise=(
            f"step: {name}, lambda = {level:.2f}: not x - h (f x - (1 + lambda^2) / 2 g^2 score) "
            "+ lambda g sqrt(h) z, with f, g and the score at t"))


def judge_two_functions(answer: object) -> None:
    """6.3: (bits_per_dimension, reverse_step)."""
    parts = {"bits_per_dimension": judge_bits, "reverse_step": judge_step}
    judge_two(answer, parts, "6.3", (Density(), torch.zeros(2, 1, 6, 6).long(), torch.Generator()))


# ---- 6.4: a network of another schedule

class VPDenoiser:
    """The exact denoiser of two classes under a VP schedule: y = 0, 1, or 2 for both together.

    A second condition, size (B,), makes its predictions larger.
    """

    def __init__(self, schedule: Schedule, d: int):
        self.schedule = schedule
        self.kinds = [bumps(d), bumps(d)]
        means, stds, weights = zip(*((q.means, q.stds, q.weights) for q in self.kinds))
        self.kinds.append(GaussianMixture(torch.cat(means), torch.cat(stds), torch.cat(weights)))

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | int = 2,
                 size: Tensor | float = 0.0) -> Tensor:
        return self.under(self.schedule, x, t, y, size)

    def under(self, schedule: Schedule, x: Tensor, t: Tensor, y: Tensor | int = 2,
              size: Tensor | float = 0.0) -> Tensor:
        """The exact denoiser under another schedule, for x of any shape."""
        points = x.flatten(1)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        each = torch.stack([q.posterior_mean(points, alpha, sigma) for q in self.kinds])
        index = torch.as_tensor(y).expand(len(x))
        x0_hat = each[index, torch.arange(len(x))].view(x.shape)
        return append_dims(1 + torch.as_tensor(size, dtype=F64), x) * x0_hat


def draw_conversion(name: str, shape: tuple[int, ...], t_per_example: bool) -> Case:
    """Levels on either side of t = 1/2, where log SNR is 0."""
    c = Case(name=name, own=VP[name], D=VPDenoiser(VP[name], math.prod(shape[1:])),
             x=0.8 * noise(*shape), y=torch.randint(0, 2, shape[:1], generator=fresh_generator()),
             size=between(-0.3, 0.3, shape[0]))
    low, high = between(0.2, 0.4, shape[0]), between(0.6, 0.8, shape[0])
    c.t = torch.where(torch.arange(shape[0]) % 2 == 0, low, high) if t_per_example else low[0]
    c.log_snr = FLOW.log_snr(c.t)
    c.t_own = c.own.t_from_log_snr(c.log_snr)
    c.scale = c.own.alpha(c.t_own) / FLOW.alpha(c.t)
    return c


def right_flow(c: Case) -> Tensor:
    return c.D.under(FLOW, c.x, c.t, c.y, c.size)


def ask(c: Case, scale: float | Tensor = 1.0, t: Tensor | None = None) -> Tensor:
    """D at (scale x, t)."""
    scale = torch.as_tensor(scale, dtype=F64)
    return c.D(append_dims(scale, c.x) * c.x, c.t if t is None else t, c.y, c.size)


def at_log_snr(c: Case, log_snr: Tensor) -> Tensor:
    """D at this log-SNR of its own, x rescaled by the ratio of the alphas."""
    t = c.own.t_from_log_snr(log_snr)
    return ask(c, c.own.alpha(t) / FLOW.alpha(c.t), t)


def at_equal_sigma(c: Case) -> Tensor:
    """D at the time at which its own sigma is the flow's."""
    square = FLOW.sigma(c.t) ** 2
    t = c.own.t_from_log_snr((1 - square).log() - square.log())
    return ask(c, c.own.alpha(t) / FLOW.alpha(c.t), t)


CONVERSION_MISTAKES = {
    "{c.name}: that is D as it is: the flow's noise level at t is another one, and x is written "
    "in another size":
        lambda c: ask(c),
    "{c.name}: x is rescaled, but the time is not moved to where D's own log-SNR is the same":
        lambda c: ask(c, c.scale),
    "{c.name}: the time is right, but x still has the flow's size: D expects alpha x0 + sigma eps "
    "with its own alpha":
        lambda c: ask(c, t=c.t_own),
    "{c.name}: the ratio of the alphas is upside down: x / alpha is the same under all schedules":
        lambda c: ask(c, 1 / c.scale, c.t_own),
    "{c.name}: the ratio is squared; alpha is no variance":
        lambda c: ask(c, c.scale**2, c.t_own),
    "{c.name}: neither is right: x has the ratio of the alphas at one and the same t, and the time "
    "is not moved":
        lambda c: ask(c, c.own.alpha(c.t) / FLOW.alpha(c.t)),
    "{c.name}: the ratio of the alphas takes D's own alpha at the flow's t; take it at D's own "
    "time":
        lambda c: ask(c, c.own.alpha(c.t) / FLOW.alpha(c.t), c.t_own),
    "{c.name}: log(alpha / sigma) is half of the log-SNR: SNR is a ratio of powers":
        lambda c: at_log_snr(c, c.log_snr / 2),
    "{c.name}: that is twice the log-SNR: log(alpha^2 / sigma^2)":
        lambda c: at_log_snr(c, 2 * c.log_snr),
    "{c.name}: the log-SNR has the wrong sign: noise stands below the line":
        lambda c: at_log_snr(c, -c.log_snr),
    "{c.name}: you look for an equal sigma; equal ratios alpha / sigma are wanted":
        at_equal_sigma,
    "{c.name}: the prediction is multiplied by the ratio, too; x0_hat is in the data's size under "
    "every schedule":
        lambda c: append_dims(c.scale, c.x) * right_flow(c),
    "{c.name}: the prediction is divided by the ratio; x0_hat is in the data's size under every "
    "schedule":
        lambda c: right_flow(c) / append_dims(c.scale, c.x),
    "{c.name}: that is the velocity, eps_hat - x0_hat; a denoiser returns x0_hat":
        lambda c: (c.x - right_flow(c)) / append_dims(c.t, c.x),
    "{c.name}: the condition is not passed on: D(x, t, **condition)":
        lambda c: c.D.under(FLOW, c.x, c.t),
    "{c.name}: the condition y alone is passed on; pass all of them (here size, too), **condition":
        lambda c: c.D.under(FLOW, c.x, c.t, c.y),
    "{c.name}: x has not changed":
        lambda c: c.x,
}


def judge_conversion(f: Callable) -> None:
    """6.4: as_flow(D) -> a denoiser under the flow schedule."""
    for name, shape, t_per_example in (("cosine", (6, 2), False), ("linear", (6, 2), False),
                                       ("linear", (6, 1, 2, 2), True)):
        draw = partial(draw_conversion, name, shape, t_per_example)
        c = draw_case(draw, right_flow, CONVERSION_MISTAKES, rtol=2e-4, atol=2e-4)
        view = converted(f, c)
        got = call_view(view, c, c.x, c.t)
        compare_case(got, c, right_flow, CONVERSION_MISTAKES, rtol=2e-4, atol=2e-4, otherwise=(
            "{c.name}: not the same function of the same noisy data. Where is D's own alpha / "
            "sigma equal to (1 - t) / t, and how large is D's x there?"))
        judge_conversion_at_the_ends(view, c)
    judge_conversion_in_sampler(view, c)


def converted(f: Callable, c: Case) -> Callable:
    """The reader's denoiser."""
    with forbidden(sde, "change_schedule", "write it without sde.change_schedule"):
        view = as_function(f)(c.D)
    kind = type(view).__name__
    came = "None: does it end with `return`?" if view is None else kind
    reject_if((not callable(view),
               f"as_flow returns a denoiser, a function of (x, t, **condition); got {came}"))
    return view


def call_view(view: Callable, c: Case, x: Tensor, t: Tensor) -> object:
    """What the reader's denoiser returns, for the classes y."""
    def given(x: Tensor, t: Tensor) -> object:
        return view(x, t, y=c.y, size=c.size)

    with forbidden(sde, "change_schedule", "write it without sde.change_schedule"):
        return call_pure(given, x, t)


def right_view(c: Case) -> Callable:
    """D under the flow schedule; where D's own schedule ends in a little signal, D's end."""
    def view(x: Tensor, t: Tensor, y: Tensor, size: Tensor) -> Tensor:
        ratio = ((1 - t) ** 2 + t**2).rsqrt()
        return c.D(append_dims(ratio, x) * x, c.own.t_from_log_snr(FLOW.log_snr(t)), y, size)

    return view


def judge_conversion_at_the_ends(view: Callable, c: Case) -> None:
    """t = 1, where alpha = 0, and t = 0, where sigma = 0."""
    for t, words in ((1.0, "t = 1, where the flow's alpha is 0: the ratio of the sigmas is the "
                      "same ratio there"),
                     (0.0, "t = 0, where sigma is 0: the ratio of the alphas is 1 there")):
        t = torch.tensor(t, dtype=F64)
        got = call_view(view, c, c.x, t)
        not_finite(got, f"right in between, but nan or inf at {words}")
        compare(got, right_view(c)(c.x, t, c.y, c.size), rtol=5e-3, atol=5e-3,
                otherwise=f"right in between, but not at {words}")


def judge_conversion_in_sampler(view: Callable, c: Case) -> None:
    """ddim under the flow schedule."""
    ts = timesteps(FLOW, 8)
    try:
        got = last(samplers.ddim(view, FLOW, c.x, ts, y=c.y, size=c.size))
    except ValueError as error:
        reject_if(("D has the schedule" in str(error), "your denoiser says that its schedule is "
                   f"D's; it is the flow's now ({error})"))
        raise
    wanted = last(samplers.ddim(right_view(c), FLOW, c.x, ts, y=c.y, size=c.size))
    compare(got, wanted, rtol=5e-3, atol=5e-3,
            otherwise="right by itself, but not inside ddim(view, Schedule.flow(), x, ts, y=y)")


# ---- 6.5: which of four forgot its scale?

SD = Schedule.scaled_linear()
KINDS = ("too large", "too small")
# the mean of the toy's latents, in deviations: Stable Diffusion's are not centred either
LATENT_MEAN = torch.tensor([1.2, 0.9], dtype=F64)


def toy_latents() -> GaussianMixture:
    """Three clusters in the plane, of deviation 1 around a mean that is not 0."""
    angles = between(0, 2 * math.pi) + torch.arange(3) * 2 * math.pi / 3 + between(-0.4, 0.4, 3)
    means = torch.stack([angles.cos(), angles.sin()], 1) * between(0.9, 1.3, 3)[:, None]
    stds, weights = between(0.2, 0.4, 3), between(0.5, 1.5, 3)
    weights = weights / weights.sum()
    means = means - weights @ means
    variance = weights @ (means.square().sum(1) / 2 + stds**2)
    means, stds = means / variance.sqrt(), stds / variance.sqrt()
    return GaussianMixture(means + LATENT_MEAN, stds, weights)


def sample_latents(mixture: GaussianMixture, c: float, n: int, seed: int,
                   steps: int = 20) -> Tensor:
    """n latents in units of the mixture, from a perfect network that was trained on c times them.

    Stable Diffusion's schedule, ddim, from N(0, sigma(1)^2): (n, 2)
    """
    trained_on = GaussianMixture(c * mixture.means, c * mixture.stds, mixture.weights)
    g = torch.Generator().manual_seed(seed)
    x = SD.sigma(1.0) * torch.randn(n, 2, generator=g, dtype=F64)
    return last(samplers.ddim(trained_on.denoiser(SD), SD, x, timesteps(SD, steps))) / c


def draw_models(kind: str) -> Case:
    """Four models, one of which was trained on latents that are too large, or too small; drawn
    until the two kinds can be told apart by the deviations, and by the means as well.
    """
    for _ in range(20):
        c = four_models(kind)
        std, mean = ratio_of_stds(c)[c.name], distance_of_means(c)[c.name]
        if (std > 0.85 and mean > 0.3) if kind == "too large" else (std < 0.75 and mean < 0.2):
            break
    return c


def four_models(kind: str) -> Case:
    g = fresh_generator()
    mixture = toy_latents()
    c = Case(kind=kind, names=["A", "B", "C", "D"], factor=between(5, 7).item())
    c.name = c.names[int(torch.randint(0, 4, (1,), generator=g))]
    factor = c.factor if kind == "too large" else 1 / c.factor
    c.real = mixture.sample(2000, seed=fresh_seed()).double()
    c.drawn = {name: sample_latents(mixture, factor if name == c.name else 1.0, 2000, fresh_seed())
               for name in c.names}
    c.truth = c.name, kind
    return c


def ratio_of_stds(c: Case) -> dict[str, float]:
    return {name: (x.std(0) / c.real.std(0)).mean().item() for name, x in c.drawn.items()}


def distance_of_means(c: Case) -> dict[str, float]:
    return {name: (x.mean(0) - c.real.mean(0)).norm().item() for name, x in c.drawn.items()}


def extreme(values: dict[str, float], kind: str) -> tuple[str, str]:
    return max(values, key=values.get), kind


def other(kind: str) -> str:
    return KINDS[1 - KINDS.index(kind)]


FORGOTTEN_MISTAKES = {
    "the right model each time, but the two kinds have changed places: latents that are too large "
    "leave signal at t = 1, so the start is wrong; too small, and the last steps come too early":
        lambda c: (c.name, other(c.kind)),
    "the right model each time, but you always say \"too large\"":
        lambda c: (c.name, "too large"),
    "the right model each time, but you always say \"too small\": the deviation tells which model, "
    "and not which kind. Where the latents are too large the mean is off, too":
        lambda c: (c.name, "too small"),
    "you take the largest deviation for latents that are too large; all four are in the data's "
    "unit again, so what is left is another symptom":
        lambda c: extreme(ratio_of_stds(c), "too large"),
    "you always take the model whose mean is furthest off and say \"too large\": where the latents "
    "are too small the mean is right":
        lambda c: extreme(distance_of_means(c), "too large"),
}


def judge_forgotten(f: Callable) -> None:
    """6.5: forgotten(real, drawn) -> the model's name, and "too large" or "too small"."""
    cases = distinct_cases()
    got = [name_and_kind(as_function(f)(c.real.clone(), {k: x.clone() for k, x in c.drawn.items()}),
                         c) for c in cases]
    truth = [c.truth for c in cases]
    if got == truth:
        return
    reject_if((len(set(got)) == 1, f"in six cases out of six you say {got[0]}: another model each "
               "time, and half of the time too large"))
    for words, wrong in FORGOTTEN_MISTAKES.items():
        reject_if((got == [wrong(c) for c in cases], words))
    names = sum(name == c.name for (name, _), c in zip(got, cases))
    reject_if((len({kind for _, kind in got}) == 1,
               f"{names} of 6 names are right, and you say {got[0][1]!r} each time; half of the "
               "time it is the other kind"))
    missed = [(c, answer) for c, answer in zip(cases, got) if answer != c.truth]
    c, answer = missed[0]
    raise Wrong(f"{6 - len(missed)} of 6 cases are right. In one of the others it is {c.truth} and "
                f"not {answer}: deviations over the data's {rounded(ratio_of_stds(c))}, distances "
                f"of the means {rounded(distance_of_means(c))}")


def distinct_cases() -> list[Case]:
    """Six cases, three of each kind, in which no two of truth and known mistakes are the same."""
    for _ in range(20):
        cases = [draw_models(kind) for kind in KINDS * 3]
        rules = [lambda c: c.truth, *FORGOTTEN_MISTAKES.values()]
        answers = {tuple(rule(c) for c in cases) for rule in rules}
        if len({c.name for c in cases}) > 1 and len(answers) == len(rules):
            break
    return cases


def name_and_kind(got: object, c: Case) -> tuple[str, str]:
    words = 'two things are wanted, the name of a model and "too large" or "too small"'
    name, kind = pair_of(got, words)
    reject_if((not isinstance(name, str) or name not in c.drawn,
               f"the first must be one of {', '.join(c.drawn)}; got {name!r:.40}"),
              (kind not in KINDS,
               f'the second must be "too large" or "too small"; got {kind!r:.40}'))
    return name, kind


def rounded(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items())


# ---- 6.6: optimal transport within a batch

def squared_distances(x0: Tensor, eps: Tensor) -> Tensor:
    """(B, B): row i, column j: between x0[i] and eps[j]."""
    return (x0.flatten(1)[:, None] - eps.flatten(1)[None]).square().sum(2)


def assign(cost: Tensor, maximize: bool = False) -> Tensor:
    """The column for each row, (B,), of the cheapest assignment."""
    return torch.as_tensor(linear_sum_assignment(cost.numpy(), maximize=maximize)[1])


def greedy(cost: Tensor) -> Tensor:
    """Row by row, the nearest column that is left: (B,)."""
    left, columns = cost.clone(), []
    for row in left:
        columns.append(int(row.argmin()))
        left[:, columns[-1]] = math.inf
    return torch.tensor(columns)


def sorted_pairs(c: Case, key: Callable[[Tensor], Tensor]) -> Tensor:
    """eps such that its ranks by key are those of x0."""
    order = key(c.eps.flatten(1)).argsort()
    ranks = key(c.x0.flatten(1)).argsort().argsort()
    return c.eps[order[ranks]]


def draw_batch(*shape: int) -> Case:
    c = Case(x0=noise(*shape), eps=noise(*shape))
    c.cost = squared_distances(c.x0, c.eps)
    return c


def right_coupling(c: Case) -> Tensor:
    return c.eps[assign(c.cost)]


COUPLING_MISTAKES = {
    "eps has not changed: that is the independent coupling":
        lambda c: c.eps,
    "rows and columns have changed places: column j belongs to row i, so eps[columns], and the "
    "rows are x0's":
        lambda c: c.eps[assign(c.cost).argsort()],
    "each x0 takes the nearest noise, whoever else has it: some noises come twice and others "
    "never, so they are not normal any more. An assignment takes each once":
        lambda c: c.eps[c.cost.argmin(1)],
    "each noise takes the nearest x0, and noises come twice: an assignment takes each once":
        lambda c: c.eps[c.cost.argmin(0)],
    "one after the other each x0 takes the nearest noise that is left (greedy): the last ones get "
    "what nobody wanted. linear_sum_assignment finds the least sum":
        lambda c: c.eps[greedy(c.cost)],
    "the distances are not squared: the cost of optimal transport, and of the flow's loss, is the "
    "sum of squares":
        lambda c: c.eps[assign(c.cost.sqrt())],
    "the squares are squared once more":
        lambda c: c.eps[assign(c.cost**2)],
    "both are sorted by their first coordinate: optimal in one dimension only":
        lambda c: sorted_pairs(c, lambda x: x[:, 0]),
    "both are sorted by their length":
        lambda c: sorted_pairs(c, lambda x: x.norm(dim=1)),
    "both are sorted by their sum":
        lambda c: sorted_pairs(c, lambda x: x.sum(1)),
    "that is the most expensive assignment: minimise":
        lambda c: c.eps[assign(c.cost, maximize=True)],
    "those are the x0: eps is wanted, in another order":
        lambda c: c.x0,
}

COUPLING_SUSPECTS = {
    "that is the cost; eps is wanted, in another order":
        lambda c: torch.is_tensor(c.got) and c.got.numel() == 1 or isinstance(c.got, float),
    "x0 and eps come back; return eps alone, in the order of x0":
        lambda c: c.pair,
    "those are the indices: return eps[indices]":
        lambda c: torch.is_tensor(c.got) and not c.got.is_floating_point(),
}


def judge_coupling(f: Callable) -> None:
    """6.6: couple(x0, eps) -> eps in another order."""
    for shape in ((12, 2), (12, 3), (12, 1, 1, 3)):
        c = draw_distinct(partial(draw_batch, *shape), right_coupling, COUPLING_MISTAKES)
        c.got = call_coupling(f, c)
        reject_none(c.got)
        c.pair = isinstance(c.got, (tuple, list)) and len(c.got) == 2
        c.got = as_drawn(c.got)
        reject_first(COUPLING_SUSPECTS, c)
        not_finite(c.got, "some of the values are nan or inf")
        compare_case(c.got, c, right_coupling, COUPLING_MISTAKES, rtol=1e-6, atol=1e-7,
                     otherwise=describe_coupling(c))


def call_coupling(f: Callable, c: Case) -> object:
    try:
        return call_pure(f, c.x0, c.eps)
    except (RuntimeError, ValueError) as error:
        reject_if((c.x0.ndim > 2, "right for points, but images (B, C, H, W) fail: flatten them "
                   f"for the distances, .flatten(1) ({error})"))
        raise


def describe_coupling(c: Case) -> str:
    """What is wrong with rows that are no known mistake."""
    if getattr(c.got, "shape", None) != c.eps.shape:
        return ""
    mine, theirs = c.got.double().flatten(1), c.eps.flatten(1)
    among = (mine[:, None] == theirs[None]).all(2)                              # (B, B)
    cost = (mine - c.x0.flatten(1)).square().sum()
    best = c.cost.gather(1, assign(c.cost)[:, None]).sum()
    if not among.any(1).all():
        return "some of your rows are no rows of eps: only their order may change"
    if not among.any(0).all():
        return "some noises come twice and others never: only their order may change"
    return f"the sum of squared distances is {cost:.3f}; {best:.3f} is possible"


def draw_distinct(draw: Callable[[], Case], right: Callable, mistakes: dict) -> Case:
    """Draw cases until no mistake gives the right answer, and no two give the same."""
    for _ in range(300):
        c = draw()
        answers = [right(c), *wrong_answers(mistakes, c).values()]
        if not any(torch.equal(a, b) for a, b in itertools.combinations(answers, 2)):
            break
    return c


# ---- 6.7: the channels that Nouns needs

GOOD_ENOUGH = 0.95
TEST_SEED = 6
# nouns of each measurement
HOW_MANY = 200


@lru_cache(maxsize=1)
def nouns_vae() -> AutoencoderKL:
    return train.load("nouns_vae", device="cpu")


@lru_cache(maxsize=1)
def latents_of_test_split() -> tuple[Tensor, Tensor, Tensor]:
    """Means of the latents (N, c, h, w), parts (N, 5), and the KL of each channel, in nats."""
    test = data.nouns(HOW_MANY, seed=TEST_SEED, split="test")
    with torch.no_grad(), one_thread():
        mean, log_variance = nouns_vae().encode(test.x)
    kl = [kl_to_standard_normal(mean[:, k], log_variance[:, k]).mean()
          for k in range(mean.shape[1])]
    return mean, test.parts, torch.stack(kl)


@lru_cache(maxsize=64)
def accuracy_with(channels: frozenset[int]) -> Tensor:
    """Attribute accuracy (5,) after decoding, with all other channels at their mean."""
    mean, parts, _ = latents_of_test_split()
    vae = nouns_vae()
    kept = torch.tensor([k in channels for k in range(mean.shape[1])])[:, None, None]
    with torch.no_grad(), one_thread():
        x = vae.decode(torch.where(kept, mean, vae.shift[:, None, None]))
        return attributes.attributes_correct(x.clamp(-1, 1), parts).double().mean(0)


def sufficient(channels: frozenset[int]) -> bool:
    return bool((accuracy_with(channels) >= GOOD_ENOUGH).all())


CHANNEL_SUSPECTS = {
    "which channels, please, and not how many: a list such as [0, 3]":
        lambda c: isinstance(c.answer, (int, float)),
    "a list of channels is wanted, such as [0, 3]; got {c.came}":
        lambda c: c.channels is None,
    "a channel comes twice":
        lambda c: len(set(c.channels)) < len(c.channels),
    "the latent has {c.count} channels, counted from 0; there is no channel {c.highest}":
        lambda c: c.channels and not 0 <= min(c.channels) <= max(c.channels) < c.count,
    "without any channel every picture is the same":
        lambda c: not c.channels,
}

SUFFICIENT_SUSPECTS = {
    "those are the channels to leave out: the others suffice":
        lambda c: not sufficient(c.kept) and sufficient(c.others),
    "with these channels {c.worst!r} is right in {c.least:.0%} of {c.n} pictures; 95 % of each "
    "part are wanted":
        lambda c: not sufficient(c.kept),
    "that suffices, but channel {c.collapsed[0]} has collapsed: its mean hardly moves, and its KL "
    "is {c.collapsed_kl:.3f} nats a picture. Leave it out":
        lambda c: c.collapsed,
    "that suffices, but channel {c.cheapest} may go, too: without it each part is right in at "
    "least {c.without:.1%}":
        lambda c: sufficient(c.kept - {c.cheapest}),
}


def judge_channels(answer: object) -> None:
    """6.7: enough() -> the fewest channels of nouns_vae with which each part is 95 % right."""
    with torch.random.fork_rng(devices=[]):
        answer = answer() if callable(answer) else answer
    reject_none(answer)
    c = Case(answer=answer, channels=as_channels(answer), came=type(answer).__name__,
             count=nouns_vae().latent_channels, n=HOW_MANY)
    c.highest = max(c.channels, key=abs) if c.channels else None
    reject_first(CHANNEL_SUSPECTS, c)
    kl = latents_of_test_split()[2]
    c.kept = frozenset(c.channels)
    c.others = frozenset(range(c.count)) - c.kept
    accuracy = accuracy_with(c.kept)
    c.worst = noun_parts.PARTS[int(accuracy.argmin())]
    c.least = accuracy.min()
    # the KL of a channel that is used is above a hundred nats
    c.collapsed = [k for k in sorted(c.kept) if kl[k] < 1]
    c.collapsed_kl = kl[c.collapsed].max() if c.collapsed else None
    c.cheapest = min(c.kept, key=lambda k: kl[k])
    # computed only where it decides
    if sufficient(c.kept) and not c.collapsed:
        c.without = accuracy_with(c.kept - {c.cheapest}).min()
    reject_first(SUFFICIENT_SUSPECTS, c)


def as_channels(answer: object) -> list[int] | None:
    """The reader's channels; None for what is no list of whole numbers."""
    values = answer.tolist() if isinstance(answer, (Tensor, np.ndarray)) else answer
    if not isinstance(values, (list, tuple, set, frozenset, range)):
        return None
    whole = all(isinstance(k, numbers.Integral) and not isinstance(k, bool) for k in values)
    return [int(k) for k in values] if whole else None


QUESTIONS = [
    Question(
        "6.1", 3, judge_gaussian,
        "two Gaussians, one covariance; with small steps that is Anderson's reverse process",
        ("x_t is (alpha_t / alpha_s) x_s and fresh noise, which is independent of x_s. What is "
         "Cov(x_s, x_t)?",
         "For two jointly Gaussian numbers with mean 0 the conditional mean is Cov / Var(x_t) "
         "times x_t, and the conditional variance Var(x_s) - Cov^2 / Var(x_t).",
         "V = alpha^2 v + sigma^2 at each level, r = alpha_t / alpha_s: "
         "return r * V_s / V_t, V_s * (1 - r**2 * V_s / V_t)")),
    Question(
        "6.2", 3, judge_divergence,
        "one evaluation, one backward pass, and an error that is independent between examples",
        ("(f(x) * z).sum() is one number. What is its gradient with respect to x?",
         "The gradient is z^T J, a row for each example. Multiply it by z once more, and sum over "
         "all dimensions but the first. Signs: torch.randint(0, 2, x.shape, generator=generator) "
         "* 2 - 1.",
         "x = x.detach().requires_grad_(); z = torch.randint(0, 2, x.shape, "
         "generator=generator).to(x) * 2 - 1; g = torch.autograd.grad((f(x) * z).sum(), x)[0]; "
         "return (g * z).flatten(1).sum(1)")),
    Question(
        "6.3", 5, judge_two_functions,
        "a density becomes a probability by its bin, and noise is added once",
        ("How wide is a bin of x = pixels / 127.5 - 1? What may a density do on 256 points? And "
         "with lambda = 0, what should a step be?",
         "The pixels get uniform noise in [-1/2, 1/2] before they are scaled, and the offset is "
         "-log2 of the bin's width. In the step z may occur once, at the end.",
         "u = torch.rand(pixels.shape, generator=generator) - 0.5; x = (pixels + u) / 127.5 - 1; "
         "... + math.log2(127.5). In the step: delete the line that adds g * h.sqrt() * z to x")),
    Question(
        "6.4", 4, judge_conversion,
        "the same network, another clock and another ruler",
        ("x / alpha is the same noisy data under every schedule, if alpha / sigma is the same. "
         "Where is D's alpha / sigma equal to the flow's?",
         "t_own = D.schedule.t_from_log_snr(Schedule.flow().log_snr(t)); then x must be multiplied "
         "by alpha_own / alpha_flow. For a VP schedule there is a ratio that never divides by 0.",
         "x / sqrt((1 - t)^2 + t^2) has alpha^2 + sigma^2 = 1: return "
         "D(append_dims(((1 - t)**2 + t**2).rsqrt(), x) * x, t_own, **condition), with t as a "
         "float64 tensor")),
    Question(
        "6.5", 2, judge_forgotten,
        "a wrong start changes the composition, a last step that comes too early the details",
        ("Draw with c = 5 and with c = 1/5, and compare each with the data: means, deviations, "
         "the sizes of the clusters.",
         "Too large: at t = 1 there is still signal, so N(0, I) is the wrong start; the mean is "
         "off. Too small: the last step comes from a large noise level; the deviation is too "
         "small.",
         "if the largest distance of the means exceeds 0.25: that model, \"too large\"; else the "
         "model of the smallest deviation, \"too small\"")),
    Question(
        "6.6", 3, judge_coupling,
        "each noise is used once, so the noise is as normal as before",
        ("scipy.optimize.linear_sum_assignment(cost) returns rows and columns. What is the cost "
         "of pairing x0[i] with eps[j]?",
         "torch.cdist(x0.flatten(1), eps.flatten(1)) are distances; square them.",
         "cost = torch.cdist(x0.flatten(1), eps.flatten(1)).square(); rows, columns = "
         "linear_sum_assignment(cost); return eps[torch.as_tensor(columns)]")),
    Question(
        "6.7", 3, judge_channels,
        "now train one with so few channels, and see what its latents are worth",
        ("Which channels carry anything? Compute the KL of each channel, or the deviation of its "
         "mean over pictures.",
         "Two channels have collapsed. Of the other six, leave out one at a time, and look at the "
         "five parts.",
         "The channel with the lowest KL of the six that are used may go, too")),
]
