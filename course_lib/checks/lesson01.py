"""The questions of lesson 1.

Each judge computes the right answer and the well-known wrong ones, and tells them apart.
"""
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from unittest import mock

import torch
from torch import Tensor

from ..lab.data import mnist
from ..schedules import Schedule
from .common import (
    F64,
    SEEDED,
    Case,
    Question,
    Wrong,
    as_function,
    as_scalar,
    as_tensor,
    call_twice,
    compare,
    compare_case,
    draws,
    fill,
    reject_cut,
    reject_first,
    reject_if,
    reject_none,
)

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
ALPHA_BAR = torch.cumprod(1 - BETAS, dim=0)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def ask(f: Callable, *inputs: object) -> tuple[object, list]:
    """The reader's answer to copies of the inputs, and the copies as they are after the call.

    A function that makes float32 tensors of its own gets float32 ones.
    """
    as_function(f)
    try:
        given = copies(inputs, F64)
        return f(*given), given
    except RuntimeError as error:
        if "dtype" not in str(error):
            raise
    given = copies(inputs, torch.float32)
    return f(*given), given


def copies(inputs: tuple, dtype: torch.dtype) -> list:
    """Copies of the tensors, real numbers in this dtype; anything else as it is."""
    def copy(x: object) -> object:
        if not torch.is_tensor(x):
            return x
        return x.to(dtype if x.is_floating_point() else x.dtype, copy=True)

    return [copy(x) for x in inputs]


def changed(x: Tensor, given: Tensor) -> bool:
    """Whether this copy of x is another tensor now."""
    return not torch.equal(x.to(given.dtype), given)


NEARLY = ("{name} is nearly right, up to {part:.2g} of its size: is there an eps or a floor in "
          "your formula, or a rounding?")


def nearly(got: Tensor, wanted: Tensor, name: str) -> str:
    """The sentence on an answer a few percent away from the right one, or ""."""
    if got.shape != wanted.shape:
        return ""
    part = ((got - wanted).abs() / wanted.abs().clamp(min=1e-9)).max().item()
    return NEARLY.format(name=name, part=part) if part < 0.03 else ""


def compare_pairs(got: object, c: Case, right: Callable, mistakes: dict[str, Callable],
                  names: tuple[str, str], advice: str = "",
                  otherwise: Callable | str = "{name} is not what it should be") -> None:
    """Compare a pair of answers.

    A mistake is a pair, too; its sentence is raised when either half of it is what came.
    advice: what to add where one of the two is None, nan or inf. otherwise: for other mistakes, a
    sentence or a function of the half and its name that writes one.
    """
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        kind = type(got).__name__
        came = f"a {kind} of {len(got)}" if isinstance(got, (tuple, list)) else kind
        raise Wrong(f"return two things, {names[0]} and {names[1]}; got {came}")
    reject_exchanged(got, right(c), names)
    wrong = {fill(words, c): mistake(c) for words, mistake in mistakes.items()}
    for half, wanted, name, k in zip(got, right(c), names, (0, 1)):
        reject_missing(half, name, f": {advice}" if advice else "")
        known = {words: pair[k] for words, pair in wrong.items()
                 if pair is not None and not torch.allclose(pair[k], wanted)}
        half = torch.as_tensor(half, dtype=F64)
        words = otherwise(half, name) if callable(otherwise) else otherwise.format(name=name)
        compare(half, wanted, known, otherwise=words)


def reject_exchanged(got: tuple, wanted: tuple, names: tuple[str, str]) -> None:
    """Raise Wrong if the shapes of two halves show that they came in the wrong order."""
    shapes = [tuple(getattr(half, "shape", ())) for half in got]
    in_order = [tuple(half.shape) for half in wanted]
    reject_if((shapes != in_order and shapes == in_order[::-1],
               f"{names[0]} and {names[1]} have changed places"))


def reject_missing(half: object, name: str, advice: str) -> None:
    """Raise Wrong if one half of a pair is None, nan or inf."""
    if half is None:
        raise Wrong(f"{name} is None{advice}")
    if isinstance(half, Tensor) and not half.isfinite().all():
        raise Wrong(f"{name} is nan or inf{advice}")


# ---- 1.1: the variance after a forward process

def variance_cases() -> Iterator[Case]:
    for v, betas in ((9.0, torch.tensor([0.1, 0.35, 0.2], dtype=F64)),
                     (0.25, torch.linspace(0.01, 0.2, 12, dtype=F64))):
        yield Case(v=v, betas=betas, left=torch.prod(1 - betas))


def walked(c: Case, step: Callable) -> Tensor:
    """The end of v -> step(v, beta), over all betas."""
    v = c.v
    for beta in c.betas:
        v = step(v, beta)
    return v


def right_variance(c: Case) -> Tensor:
    return 1 + (c.v - 1) * c.left


VARIANCE_MISTAKES = {
    "that only adds the betas up: each step also multiplies the variance that is there by 1 - beta":
        lambda c: c.v + c.betas.sum(),
    "that is the data's share alone; the noise of all the steps is missing":
        lambda c: c.v * c.left,
    "the second part is a standard deviation: variances add, not their roots":
        lambda c: c.v * c.left + (1 - c.left).sqrt(),
    "the image is multiplied by sqrt(1 - beta), so its variance by 1 - beta: no root here":
        lambda c: c.v * c.left.sqrt() + 1 - c.left,
    "that is a single step, with the last beta; the process has as many steps as betas":
        lambda c: (1 - c.betas[-1]) * c.v + c.betas[-1],
    "you multiply the betas; multiply the 1 - beta":
        lambda c: 1 + (c.v - 1) * c.betas.prod(),
    "you multiply the betas; what is left of v is the product of the 1 - beta":
        lambda c: c.v * c.betas.prod(),
    "that is the end of the lesson's thousand betas: take those that your function is given":
        lambda c: 1 + (c.v - 1) * ALPHA_BAR[-1],
    "1 is where an endless process ends; after these few steps the start still shows":
        lambda c: 1.0,
    "that is how far the variance is from 1; add the 1 back":
        lambda c: (c.v - 1) * c.left,
    "the distance to 1 shrinks by 1 - beta in each step, not by its root":
        lambda c: 1 + (c.v - 1) * c.left.sqrt(),
    "the starting variance enters as it is, not squared: v is a variance already":
        lambda c: 1 + (c.v**2 - 1) * c.left,
    "what shrinks is the distance to 1, which is v - 1, not v":
        lambda c: 1 + c.v * c.left,
    "a beta is a variance already: multiply the 1 - beta, not the 1 - beta^2":
        lambda c: 1 + (c.v - 1) * torch.prod(1 - c.betas**2),
    "the noise of the last step alone is there; that of the earlier steps is missing":
        lambda c: c.v * c.left + c.betas[-1],
    "later steps shrink the noise of the earlier ones, too: the betas do not just add up":
        lambda c: c.v * c.left + c.betas.sum(),
    "that is a standard deviation; the variance is wanted":
        lambda c: right_variance(c).sqrt(),
    "the sign: a variance above 1 stays above 1, one below stays below":
        lambda c: 1 - (c.v - 1) * c.left,
    "the last beta is left out":
        lambda c: 1 + (c.v - 1) * torch.prod(1 - c.betas[:-1]),
    "the first beta is left out":
        lambda c: 1 + (c.v - 1) * torch.prod(1 - c.betas[1:]),
    "the betas differ: every step has its own, not the last one's":
        lambda c: 1 + (c.v - 1) * (1 - c.betas[-1]) ** len(c.betas),
    "the betas differ: every step has its own, not their mean":
        lambda c: 1 + (c.v - 1) * (1 - c.betas.mean()) ** len(c.betas),
    "the distance to 1 is multiplied by 1 - beta in every step; 1 minus the sum of the betas is "
    "right for tiny ones only":
        lambda c: 1 + (c.v - 1) * (1 - c.betas.sum()),
    "exp(-sum of the betas) is the limit of tiny steps; here multiply the 1 - beta":
        lambda c: 1 + (c.v - 1) * (-c.betas.sum()).exp(),
    "each step adds beta to the variance, not beta^2: beta is a variance already":
        lambda c: walked(c, lambda v, beta: (1 - beta) * v + beta**2),
    "each step multiplies the variance by 1 - beta, the square of sqrt(1 - beta); you square once "
    "more":
        lambda c: walked(c, lambda v, beta: (1 - beta) ** 2 * v + beta),
}


def judge_variance(f: Callable) -> None:
    """1.1: variance_after(v, betas), the variance of x_T where x_0 has variance v."""
    for c in variance_cases():
        given = c.betas.clone()
        got = as_scalar(as_function(f)(c.v, given))
        again = as_scalar(f(c.v, c.betas.clone()))
        reject_if((not torch.equal(given, c.betas), "your function changes the betas it was given"),
                  (not torch.allclose(got, again, equal_nan=True),
                   "two calls gave two answers: a formula gives the variance without drawing"))
        compare_case(got, c, right_variance, VARIANCE_MISTAKES)


# ---- 1.2: one large step of the forward process

def right_jump(c: Case) -> tuple[Tensor, Tensor]:
    return (c.t / c.s).sqrt(), 1 - c.t / c.s


JUMP_MISTAKES = {
    "the factor and the variance have changed places":
        lambda c: (c.variance, c.factor),
    "that is the jump from x_0; yours starts from x_s, which holds noise already":
        lambda c: (c.t.sqrt(), 1 - c.t),
    "the factor shrinks x_s by alpha_bar_t / alpha_bar_s; q asks for its square root":
        lambda c: (c.t / c.s, 1 - c.t / c.s),
    "the factor is upside down: it must be below 1":
        lambda c: ((c.s / c.t).sqrt(), 1 - c.s / c.t),
    "you subtract the two variances; but the noise in x_s is multiplied by the factor, too, "
    "so less of it arrives":
        lambda c: (c.factor, c.s - c.t),
    "that is a standard deviation; return the variance":
        lambda c: (c.factor, c.variance.sqrt()),
    "the factor is the difference of the two; factors of steps multiply, so divide them":
        lambda c: (c.t.sqrt() - c.s.sqrt(), c.s - c.t),
    "alpha_bar_t / alpha_bar_s is what remains of the variance of x_s; the noise fills it up to 1":
        lambda c: (c.factor, c.t / c.s),
    "standard deviations do not subtract; variances do, once that of x_s is multiplied by the "
    "square of the factor":
        lambda c: (c.factor, ((1 - c.t).sqrt() - (1 - c.s).sqrt()) ** 2),
    "1 minus the factor is no variance: it is 1 minus its square":
        lambda c: (c.factor, 1 - c.factor),
    "the factor multiplies the noise in x_s, so its square multiplies that noise's variance":
        lambda c: (c.factor, 1 - c.t - c.factor * (1 - c.s)),
    "the noise that x_s brings along is part of 1 - alpha_bar_t: subtract it, do not add it":
        lambda c: (c.factor, 1 - c.t + c.factor**2 * (1 - c.s)),
    "the root in the factor is that of the whole ratio, alpha_bar_s as well":
        lambda c: (c.t.sqrt() / c.s, 1 - c.t / c.s),
    "beta is 1 - alpha_bar_t / alpha_bar_s, a ratio; you took the difference of the two":
        lambda c: ((1 - c.s + c.t).sqrt(), c.s - c.t),
    "that is the variance of the step back, (1.17), which knows x_0; this jump goes forward":
        lambda c: (c.factor, c.variance * (1 - c.s) / (1 - c.t)),
    "you look the levels up in the lesson's table; a_s and a_t may be any levels":
        lambda c: right_jump(Case(s=tabled(c.s), t=tabled(c.t))),
}
TINY_JUMP = ("right for large jumps, but for a tiny one, from alpha_bar = 0.6 to 0.5999, {name} is "
             "not: put no floor under it, and no eps")
JUMP_OTHERWISE = ("{name} is not what it should be: from a_s = {s:g} to a_t = {t:g}, factor^2 * "
                  "{s:g} must be {t:g}, and factor^2 * {left:g} + variance must be {noise:g}")


def tabled(a: Tensor) -> Tensor:
    """The level of the lesson's table that is nearest to a."""
    return ALPHA_BAR[(ALPHA_BAR - a).abs().argmin()]


def about_jump(half: Tensor, name: str, c: Case) -> str:
    """The sentence on a factor or a variance that no mistake of the table explains."""
    if c.t == 0.5999:
        return TINY_JUMP.format(name=name)
    wanted = c.factor if name == "the factor" else c.variance
    return nearly(half, wanted, name) or JUMP_OTHERWISE.format(
        name=name, s=c.s, t=c.t, left=1 - c.s, noise=1 - c.t)


def judge_jump(f: Callable) -> None:
    """1.2: jump(a_s, a_t) -> factor on x_s, variance of the noise, from level s to level t > s."""
    for a_s, a_t in ((0.9, 0.4), (0.6, 0.1), (1.0, 0.3), (0.6, 0.5999)):
        c = Case(s=scalar(a_s), t=scalar(a_t))
        c.factor, c.variance = right_jump(c)
        got = as_tensor(call_twice(f, c.s, c.t))
        got = tuple(got) if torch.is_tensor(got) and got.shape == (2,) else got
        compare_pairs(got, c, right_jump, JUMP_MISTAKES, ("the factor", "the variance"),
                      otherwise=partial(about_jump, c=c))


# ---- 1.3: q_sample

STEPS_OF_1_3 = torch.tensor([0, 1, 164, 500, 800, 999])


def q_sample_case(shape: tuple[int, ...]) -> Case:
    """x0, eps: of this shape; a = alpha_bar_t, before = alpha_bar_{t-1}, beta: (6, 1, ..., 1).

    kept: as before, with alpha_bar_1 at the first step; clean: with 1 there. cumulated: the
    products of alpha_bar.
    """
    as_column = lambda values: values.view(-1, *[1] * (len(shape) - 1))
    return Case(
        shape=shape,
        B=shape[0],
        x0=draws(*shape),
        eps=draws(*shape, seed=12),
        t=STEPS_OF_1_3,
        a=as_column(ALPHA_BAR[STEPS_OF_1_3]),
        before=as_column(ALPHA_BAR[STEPS_OF_1_3 - 1]),
        kept=as_column(ALPHA_BAR[(STEPS_OF_1_3 - 1).clamp(min=0)]),
        clean=as_column(torch.cat([torch.ones(1, dtype=F64), ALPHA_BAR])[STEPS_OF_1_3]),
        cumulated=as_column(ALPHA_BAR.cumprod(0)[STEPS_OF_1_3]),
        beta=as_column(BETAS[STEPS_OF_1_3]),
        only="right for images, but " if len(shape) == 2 else "",
        std=(1 - ALPHA_BAR[500]).sqrt(),
        variance=1 - ALPHA_BAR[500],
    )


def noised(c: Case, signal: Tensor, noise: Tensor) -> Tensor:
    return signal * c.x0 + noise * c.eps


def right_q_sample(c: Case) -> Tensor:
    return noised(c, c.a.sqrt(), (1 - c.a).sqrt())


Q_SAMPLE_MISTAKES = {
    "at step 500 your noise has standard deviation {c.variance:.2f}, q asks for {c.std:.2f}. "
    "You multiply by the *variance*: look at the square root":
        lambda c: noised(c, c.a.sqrt(), 1 - c.a),
    "you count one step too few: steps count from 0, and alpha_bar[i] already includes step i":
        lambda c: noised(c, c.before.sqrt(), (1 - c.before).sqrt()),
    "the mean shrinks by alpha_bar; q asks for its square root":
        lambda c: noised(c, c.a, (1 - c.a).sqrt()),
    "both coefficients lack their square root: alpha_bar and 1 - alpha_bar are variances":
        lambda c: noised(c, c.a, 1 - c.a),
    "signal and noise have changed places: at step 0 nearly all must be signal":
        lambda c: noised(c, (1 - c.a).sqrt(), c.a.sqrt()),
    "that is one step, q(x_t | x_{t-1}) with beta_t; the jump from x_0 needs alpha_bar":
        lambda c: noised(c, (1 - c.beta).sqrt(), c.beta.sqrt()),
    "the noise is subtracted; it has the right size, but the check (and the loss later) needs "
    "+ eps":
        lambda c: noised(c, c.a.sqrt(), -(1 - c.a).sqrt()),
    "the noise is not scaled at all: its standard deviation is sqrt(1 - alpha_bar)":
        lambda c: noised(c, c.a.sqrt(), torch.ones_like(c.a)),
    "x0 is not scaled at all: the mean shrinks by sqrt(alpha_bar)":
        lambda c: noised(c, torch.ones_like(c.a), (1 - c.a).sqrt()),
    "1 - sqrt(alpha_bar) is no standard deviation: it is sqrt(1 - alpha_bar)":
        lambda c: noised(c, c.a.sqrt(), 1 - c.a.sqrt()),
    "the root is taken before the difference: sqrt(1 - alpha_bar), not sqrt(1 - sqrt(alpha_bar))":
        lambda c: noised(c, c.a.sqrt(), (1 - c.a.sqrt()).sqrt()),
    "signal and noise have one and the same coefficient":
        lambda c: noised(c, c.a.sqrt(), c.a.sqrt()),
    "the signal has alpha_t of one step; it needs alpha_bar":
        lambda c: noised(c, (1 - c.beta).sqrt(), (1 - c.a).sqrt()),
    "the noise has beta_t of one step; it needs 1 - alpha_bar":
        lambda c: noised(c, c.a.sqrt(), c.beta.sqrt()),
    "right at i = 0, but from i = 1 on you count one step too few: alpha_bar[i] already includes "
    "step i":
        lambda c: noised(c, c.kept.sqrt(), (1 - c.kept).sqrt()),
    "at i = 0 your alpha_bar is 1, and every later step has that of the step before: alpha_bar[i] "
    "already includes step i":
        lambda c: noised(c, c.clean.sqrt(), (1 - c.clean).sqrt()),
    "every example is noised with the mean of their levels: i holds a step for each":
        lambda c: noised(c, c.a.mean().sqrt(), (1 - c.a.mean()).sqrt()),
    "every example is noised as the first one is: i holds a step for each":
        lambda c: noised(c, c.a[:1].sqrt(), (1 - c.a[:1]).sqrt()),
    "you clip x_t: noise takes it out of [-1, 1], so leave it as it is":
        lambda c: right_q_sample(c).clamp(-1, 1),
    "you rescale x0 by 2 x0 - 1; the data lies near [-1, 1] already":
        lambda c: right_q_sample(c) + c.a.sqrt() * (c.x0 - 1),
    "you multiply alpha_bar up once more; it is the product of the 1 - beta already":
        lambda c: noised(c, c.cumulated.sqrt(), (1 - c.cumulated).sqrt()),
}
BROADCAST = ("{c.only}x0 of shape {c.shape} fails: alpha_bar[i] has shape ({c.B},); give it as "
             "many dimensions as x0 has")
CHANGES_X0 = ("your function changes x0 itself (an operation such as `x0 *= ...`): compute a new "
              "tensor")
CHANGES_EPS = "your function changes eps itself (such as `eps *= ...`): compute a new tensor"
CHANGES_TABLE = ("your function changes alpha_bar itself (such as `alpha_bar.sqrt_()`), which the "
                 "next call needs as it was: compute a new tensor")


def ask_q_sample(f: Callable, c: Case) -> object:
    """The reader's x_t. Raises Wrong if an input was changed or alpha_bar does not broadcast."""
    try:
        got, (x0, _, eps, alpha_bar) = ask(f, c.x0, c.t, c.eps, ALPHA_BAR)
    except RuntimeError as error:
        if "size" in str(error) or "shape" in str(error):
            raise Wrong(fill(BROADCAST, c)) from None
        raise
    reject_if((changed(c.x0, x0), CHANGES_X0),
              (changed(c.eps, eps), CHANGES_EPS),
              (changed(ALPHA_BAR, alpha_bar), CHANGES_TABLE))
    return got


def draws_own_noise(f: Callable, c: Case, got: Tensor) -> bool:
    """Whether a second call with the same eps gives another x_t."""
    if got.shape != c.x0.shape:
        return False
    again, _ = ask(f, c.x0, c.t, c.eps, ALPHA_BAR)
    return not torch.allclose(got, again, equal_nan=True)


def right_steps(got: object, c: Case) -> str:
    """A sentence on an x_t that is right at some steps alone, or ""."""
    if not torch.is_tensor(got) or got.shape != c.x0.shape:
        return ""
    same = (got - right_q_sample(c)).abs().flatten(1).amax(1) < 1e-4
    if same.all() or not same.any():
        return ""
    return (f"right at the steps {c.t[same].tolist()}, but not at {c.t[~same].tolist()}: one "
            "formula holds for all, without floor or eps")


def judge_q_sample(f: Callable) -> None:
    """1.3: q_sample(x0, i, eps, alpha_bar), a draw from q(x_t | x_0)."""
    for shape in ((6, 3, 4, 4), (6, 2)):
        c = q_sample_case(shape)
        got = ask_q_sample(f, c)
        if torch.is_tensor(got):
            reject_if(
                (draws_own_noise(f, c, got),
                 "the same eps twice gave two answers: use the eps you are given, draw none of "
                 "your own"),
                (got.ndim > len(shape),
                 f"{c.only}x0 of shape {shape} comes back as {tuple(got.shape)}: "
                 "give alpha_bar as many dimensions as x0 has"))
        compare_case(got, c, right_q_sample, Q_SAMPLE_MISTAKES, otherwise=right_steps(got, c))
    judge_another_table(f)


def judge_another_table(f: Callable) -> None:
    """1.3 with a table of 20 steps, which no notebook has, and with one example alone."""
    alpha_bar = torch.linspace(0.98, 0.05, 20, dtype=F64)
    for shape, i in (((3, 2), [0, 7, 19]), ((1, 2), [7]), ((1, 1, 2, 2), [7])):
        x0 = draws(*shape)
        eps = draws(*shape, seed=12)
        i = torch.tensor(i)
        a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))
        got, _ = ask(f, x0, i, eps, alpha_bar)
        reject_if((len(i) == 1 and torch.is_tensor(got) and got.shape != shape,
                   f"one example alone, x0 of shape {shape}, comes back as {shape_of(got)}"))
        compare(got, a.sqrt() * x0 + (1 - a).sqrt() * eps,
                otherwise="right for the table of the notebook, but not for another one: take the "
                "alpha_bar that your function is given")


def shape_of(got: object) -> tuple | None:
    return tuple(got.shape) if torch.is_tensor(got) else None


# ---- 1.4: the sigmoid schedule

def sigmoid_curve(u: Tensor) -> Tensor:
    return torch.sigmoid(3 - 6 * u) - torch.sigmoid(scalar(-3.0))


def cosine_curve(u: Tensor) -> Tensor:
    return torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2


def betas_of(curve: Tensor) -> Tensor:
    """1 minus the ratio of neighbours of alpha_bar, with the cap of (1.11): (T + 1,) -> (T,)"""
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


def right_sigmoid(c: Case) -> Tensor:
    return betas_of(c.g)


def slope(c: Case) -> Tensor:
    """minus the slope of log alpha_bar in the middle of each step, times 1 / T"""
    s = torch.sigmoid(3 - 6 * (c.u[1:] + c.u[:-1]) / 2)
    return (6 * s * (1 - s) / (s - torch.sigmoid(scalar(-3.0))) / c.T).clamp(max=0.999)


def thinned(c: Case) -> Tensor | None:
    """Those betas of a thousand steps that fall on T steps, times 1000 / T."""
    if 1000 % c.T:
        return None
    betas = betas_of(sigmoid_curve(torch.linspace(0, 1, 1001, dtype=F64)))
    return (betas[1000 // c.T - 1::1000 // c.T] * 1000 / c.T).clamp(max=0.999)


SIGMOID_MISTAKES = {
    "sig(-3) is not subtracted, so alpha_bar does not end at 0":
        lambda c: betas_of(torch.sigmoid(3 - 6 * c.u)),
    "that is alpha_bar; the question asks for the betas: 1 minus the ratio of neighbours":
        lambda c: c.g[1:] / c.g[:1],
    "that ratio is alpha_t; a beta is 1 minus it":
        lambda c: c.g[1:] / c.g[:-1],
    "your curve runs from noise to data: the sigmoid's argument falls from 3 to -3 as u rises":
        lambda c: right_sigmoid(c).flip(0),
    "the ratio is upside down: alpha_bar_t over alpha_bar_{t-1}, not the reverse":
        lambda c: (c.g[:-1] / c.g[1:] - 1).clamp(max=0.999),
    "that is the cosine schedule":
        lambda c: betas_of(cosine_curve(c.u)),
    "these are betas that follow a sigmoid; in (1.12) it is alpha_bar that follows it":
        lambda c: 1e-4 + (0.02 - 1e-4) * torch.linspace(-6, 6, c.T, dtype=F64).sigmoid(),
    "the first beta lacks its division by g(0): before the first step alpha_bar is g(0) / g(0)":
        lambda c: betas_of(torch.cat([torch.ones(1, dtype=F64), c.g[1:]])),
    "your u is t / 1000; it is t / T":
        lambda c: betas_of(sigmoid_curve(torch.arange(c.T + 1, dtype=F64) / 1000)),
    "these are standard deviations; betas are variances, without a root":
        lambda c: right_sigmoid(c).sqrt(),
    "(1.12) is alpha_bar itself, not its root: do not square it":
        lambda c: (1 - (c.g[1:] / c.g[:-1]) ** 2).clamp(max=0.999),
    "that is 1 - sqrt(alpha_t); a beta is 1 - alpha_t, the ratio without a root":
        lambda c: (1 - (c.g[1:] / c.g[:-1]).clamp(min=0).sqrt()).clamp(max=0.999),
    "that is the slope of log alpha_bar, right for tiny steps only: take the ratio of neighbours":
        slope,
    "that is minus the log of the ratio, right for tiny steps only: a beta is 1 minus the ratio":
        lambda c: (-(c.g[1:] / c.g[:-1]).log()).clamp(max=0.999),
    "these are betas of a thousand steps, rescaled; compute the curve at the T + 1 times":
        thinned,
    "your sigmoid runs from 6 to -6; (1.12) takes it from 3 to -3":
        lambda c: betas_of(torch.sigmoid(6 - 12 * c.u) - torch.sigmoid(scalar(-6.0))),
}
SIGMOID_OTHERWISE = (
    "these are not the betas of (1.12): plot your alpha_bar at the T + 1 times 0, 1/T, ..., 1 "
    "beside Schedule.sigmoid(T).alpha(t)**2 (comparing is allowed) and see where it leaves the "
    "curve")


TOO_COARSE = ("numbers of 16 bits are too coarse: neighbours of alpha_bar are nearly the same; "
              "compute in float64")


def is_coarse(got: object) -> bool:
    return torch.is_tensor(got) and got.dtype in (torch.float16, torch.bfloat16)


def other_cap(got: Tensor, c: Case) -> bool:
    """Whether only the last beta is wrong, between 0.9 and 1."""
    if got.shape != (c.T,) or not 0.9 < got[-1] <= 1 or abs(got[-1] - 0.999) < 1e-4:
        return False
    return torch.allclose(got[:-1].double(), right_sigmoid(c)[:-1], rtol=5e-4)


def floored(got: Tensor, c: Case) -> bool:
    """Whether the smallest betas alone are wrong, all raised to one value."""
    wanted = right_sigmoid(c)
    if got.shape != (c.T,) or got.min() < 1.01 * wanted.min():
        return False
    return torch.allclose(got.double(), wanted.clamp(min=got.min().item()), rtol=5e-4)


def reject_length_or_cap(got: Tensor, c: Case) -> None:
    if got.shape in ((c.T + 1,), (c.T - 1,)):
        raise Wrong(f"T = {c.T} steps need {c.T} betas; got {len(got)}: alpha_bar lives at T + 1 "
                    "times 0, 1/T, ..., 1, and a beta lies between neighbours")
    if got.shape == (c.T,) and got[0] == 0:
        raise Wrong("your first beta is 0, so the first step does nothing: the T betas lie between "
                    "T + 1 times, from 0 to 1")
    if floored(got, c):
        raise Wrong(f"no beta of yours is below {got.min():.3g}: (1.11) has a cap, but no floor")
    if other_cap(got, c):
        raise Wrong(f"your last beta is {got[-1]:.4f}: the cap of (1.11) is 0.999, so that "
                    "something of the image is left to divide by")


@contextmanager
def without_library_sigmoid() -> Iterator[None]:
    """In this context Schedule.sigmoid is refused, whatever name it was given before."""
    library = Schedule._from_alpha_bar

    def ask(curve: Callable, T: int, name: str) -> Schedule:
        reject_if((name == "sigmoid", "compare with Schedule.sigmoid, but do not call it in your "
                                      "answer: write (1.12)"))
        return library(curve, T, name)

    with mock.patch.object(Schedule, "_from_alpha_bar", ask):
        yield


def judge_sigmoid(f: Callable) -> None:
    """1.4: sigmoid_betas(T), eq. (1.12) with the betas and the cap of (1.11)."""
    for T in (10, 1000, 37, 4000):
        u = torch.linspace(0, 1, T + 1, dtype=F64)
        c = Case(T=T, u=u, g=sigmoid_curve(u))
        with without_library_sigmoid():
            got = as_tensor(as_function(f)(T))
        if torch.is_tensor(got):
            reject_length_or_cap(got, c)
        rtol = 5e-4 if T <= 1000 else 5e-3                     # float32 will do
        compare_case(got, c, right_sigmoid, SIGMOID_MISTAKES, rtol=rtol, atol=1e-6,
                     otherwise=sigmoid_words(got, c))


def sigmoid_words(got: object, c: Case) -> str:
    """The sentence on betas that no mistake of the table explains."""
    if is_coarse(got):
        return TOO_COARSE
    close = nearly(got, right_sigmoid(c), "your row of betas") if torch.is_tensor(got) else ""
    return close or SIGMOID_OTHERWISE


# ---- 1.5: enough steps

STEPS_MISTAKES = {                          # diagnosis -> factor on (1.14)
    "that is where the mismatch falls below one *nat*: divide by log 2 to have bits": math.log(2),
    "that is one bit per *pixel*: add the pixels up, an image has 784 of them": 1 / 784,
    "the half in front of (1.14) is missing": 2.0,
    "half of (1.14) is below 1 there: is the half taken twice?": 0.5,
    "that is (1.14) divided by log 10; for bits, divide by log 2": math.log(2) / math.log(10),
    "(1.14) is in nats: for bits divide it by log 2, do not multiply": math.log(2) ** 2,
}
STEPS_READINGS = {                          # diagnosis -> (1.14) as misread, for T steps
    "that keeps the first T of a thousand betas; here T betas run from 1e-4 to 0.02":
        lambda T: bits_left(ALPHA_BAR[T - 1], powers().mean()),
    "there the mismatch is below one bit for *every* digit; the question asks for the average":
        lambda T: bits_left(last_level(T), powers().max()),
    "that is (1.14) with sqrt(alpha_bar_T) in place of alpha_bar_T":
        lambda T: bits_left(last_level(T).sqrt(), powers().mean()),
    "the term - d alpha_bar_T of (1.14) is missing":
        lambda T: bits_left(last_level(T), powers().mean() + 784),
    "that is for digits in [0, 1]; `digits` lie in [-1, 1]: take them as they are":
        lambda T: bits_left(last_level(T), unit_powers().mean()),
    "(1.14) has the square of the norm of x_0; yours is not squared":
        lambda T: bits_left(last_level(T), powers().sqrt().mean()),
    "the whole of (1.14) is divided by log 2, not its logarithm alone":
        lambda T: log2_alone(last_level(T)),
    "the betas of Schedule.linear(T) are multiplied by 1000 / T; these are kept unchanged":
        lambda T: bits_left(torch.prod(1 - Schedule.linear(T).betas), powers().mean()),
}


@cache
def last_level(T: int) -> Tensor:
    """alpha_bar_T of DDPM's betas in T steps."""
    return torch.prod(1 - torch.linspace(1e-4, 0.02, T, dtype=F64))


def bits_left(a: Tensor, power: Tensor, pixels: int = 784) -> float:
    """(1.14) in bits, for images of squared norm `power`."""
    nats = 0.5 * (a * power - pixels * a - pixels * torch.log1p(-a))
    return (nats / math.log(2)).item()


def log2_alone(a: Tensor) -> float:
    """(1.14) with the logarithm to base 2, all else in nats."""
    return (0.5 * (a * (powers().mean() - 784) - 784 * torch.log2(1 - a))).item()


def mismatch(T: int) -> float:
    return bits_left(last_level(T), powers().mean())


@cache
def powers() -> Tensor:
    """Squared norms of the first 1,000 test digits, (1000,)."""
    return mnist("test")[0][:1000].double().square().sum((1, 2, 3))


@cache
def unit_powers() -> Tensor:
    """powers() of the digits in [0, 1]"""
    return ((mnist("test")[0][:1000].double() + 1) / 2).square().sum((1, 2, 3))


def steps_needed(bits: Callable = mismatch, factor: float = 1.0) -> int:
    """The smallest number of steps with factor * bits(T) below 1."""
    return next(T for T in range(20, 3000) if factor * bits(T) < 1)


def is_number_of_steps(answer: object) -> bool:
    if answer is None or isinstance(answer, bool):
        return False
    try:
        number = as_scalar(answer)
    except Wrong:
        return False
    return bool(number.isfinite() and number == number.round() and number >= 1)


def judge_steps(answer: object) -> None:
    """1.5: the smallest number of steps with a mismatch below one bit, on 1,000 test digits."""
    answer = answer() if callable(answer) else answer
    if not is_number_of_steps(answer):
        raise Wrong(f"the answer is a whole number of steps, such as 100; got {answer!r}")
    answer = int(answer)
    if answer == steps_needed():
        return
    for diagnosis, factor in STEPS_MISTAKES.items():
        if abs(answer - steps_needed(factor=factor)) <= 1:
            raise Wrong(diagnosis)
    for diagnosis, bits in STEPS_READINGS.items():
        if abs(answer - steps_needed(bits)) <= 1:
            raise Wrong(diagnosis)
    bits = mismatch(answer)
    advice = "still above 1: more steps" if bits >= 1 else "below 1: fewer steps would do"
    raise Wrong(f"with T = {answer} steps the mismatch is {bits:.4g} bits, {advice}")


# ---- 1.6: the posterior q(x_s | x_t, x_0)

def step_back_case(a_t: float, a_s: float) -> Case:
    """x0, x: (4, 3); t, s: alpha_bar of the two levels; alpha, beta: of the step between them."""
    t = scalar(a_t)
    s = scalar(a_s)
    c = Case(x0=draws(4, 3), x=draws(4, 3, seed=12), t=t, s=s, alpha=t / s, beta=1 - t / s)
    c.eps = (c.x - t.sqrt() * c.x0) / (1 - t).sqrt()
    c.mean, c.variance = right_step_back(c)
    c.on_x = c.alpha.sqrt() * (1 - s)
    c.on_x0 = s.sqrt() * c.beta
    return c


def posterior_mean(c: Case, on_x: Tensor, on_x0: Tensor) -> Tensor:
    return (on_x * c.x + on_x0 * c.x0) / (1 - c.t)


def right_step_back(c: Case) -> tuple[Tensor, Tensor]:
    mean = posterior_mean(c, c.alpha.sqrt() * (1 - c.s), c.s.sqrt() * c.beta)
    return mean, c.beta * (1 - c.s) / (1 - c.t)


def tabled_beta(a: Tensor) -> Tensor:
    """The beta of the step of the lesson's table that ends nearest to the level a."""
    return BETAS[(ALPHA_BAR - a).abs().argmin()]


def levels_exchanged(c: Case) -> tuple[Tensor, Tensor] | None:
    """The answer with a_t and a_s in each other's place; None at s = 0, where it divides by 0."""
    if c.s == 1:
        return None
    alpha = c.s / c.t
    return right_step_back(Case(x=c.x, x0=c.x0, t=c.s, s=c.t, alpha=alpha, beta=1 - alpha))


STEP_BACK_MISTAKES = {
    "the step from s to t has beta = 1 - alpha_bar_t / alpha_bar_s; you took 1 - alpha_bar_t, "
    "the step from the data":
        lambda c: (posterior_mean(c, c.t.sqrt() * (1 - c.s), c.s.sqrt() * (1 - c.t)), 1 - c.s),
    "beta is 1 - alpha_bar_t / alpha_bar_s, a ratio; you took the difference of the two":
        lambda c: (posterior_mean(c, c.on_x, c.s.sqrt() * (c.s - c.t)),
                   (c.s - c.t) * (1 - c.s) / (1 - c.t)),
    "alpha is alpha_bar_t / alpha_bar_s, and beta 1 minus it; you took the difference of the two "
    "as beta":
        lambda c: (posterior_mean(c, (1 - c.s + c.t).sqrt() * (1 - c.s),
                                  c.s.sqrt() * (c.s - c.t)), c.variance),
    "a_t and a_s have changed places: a_t is the noisier level, the smaller number":
        levels_exchanged,
    "x_t and x_0 have changed places":
        lambda c: (posterior_mean(c, c.on_x0, c.on_x), c.variance),
    "the weight of x_t lacks a square root: sqrt(alpha), with alpha = alpha_bar_t / alpha_bar_s":
        lambda c: (posterior_mean(c, c.alpha * (1 - c.s), c.on_x0), c.variance),
    "the weight of x_0 lacks a square root: sqrt(alpha_bar_s)":
        lambda c: (posterior_mean(c, c.on_x, c.s * c.beta), c.variance),
    "both weights lack their square roots: sqrt(alpha) and sqrt(alpha_bar_s)":
        lambda c: (posterior_mean(c, c.alpha * (1 - c.s), c.s * c.beta), c.variance),
    "the weight of x_t has the root of alpha_bar_t; it is that of alpha = alpha_bar_t / "
    "alpha_bar_s":
        lambda c: (posterior_mean(c, c.t.sqrt() * (1 - c.s), c.on_x0), c.variance),
    "the weight of x_0 has alpha_bar_t; it is the *earlier* level's, alpha_bar_s":
        lambda c: (posterior_mean(c, c.on_x, c.t.sqrt() * c.beta), c.variance),
    "the weight of x_t has beta; it is 1 - alpha_bar_s there":
        lambda c: (posterior_mean(c, c.alpha.sqrt() * c.beta, c.on_x0), c.variance),
    "you clip x_0; it enters as it is":
        lambda c: (right_step_back(Case(**vars(c) | {"x0": c.x0.clamp(-1, 1)}))[0], c.variance),
    "you take beta from the lesson's table, that of one step; here beta = 1 - alpha_bar_t / "
    "alpha_bar_s":
        lambda c: right_step_back(Case(**vars(c) | {"alpha": 1 - tabled_beta(c.t),
                                                    "beta": tabled_beta(c.t)})),
    "both weights are still to be divided by 1 - alpha_bar_t":
        lambda c: (c.on_x * c.x + c.on_x0 * c.x0, c.variance),
    "that mean puts all the old noise back, as a deterministic step does; the posterior keeps "
    "only a part of it":
        lambda c: (c.s.sqrt() * c.x0 + (1 - c.s).sqrt() * c.eps, c.variance),
    "that variance is beta, the step forward's; knowing x_0 makes the step back narrower: (1.17)":
        lambda c: (c.mean, c.beta),
    "that is a standard deviation; return the variance":
        lambda c: (c.mean, c.variance.sqrt()),
    "the two levels have changed places in the variance":
        lambda c: None if c.s == 1 else (c.mean, c.beta * (1 - c.t) / (1 - c.s)),
}
AT_THE_DATA = (
    "at s = 0, where alpha_bar_s = 1, something divides by 1 - alpha_bar_s; multiply it out, as "
    "the right-hand sides of (1.17) and (1.18) do")


ONLY_AT_THE_DATA = (
    "right between noisy levels, but not at s = 0: there the mean is x_0, exactly, and the "
    "variance 0")
NEAR_THE_DATA = (
    "right between noisy levels, but {name} is not near the data, at alpha_bar_s = 0.9999: one "
    "formula holds there, too, and no floor or `if` is needed")
KEEPS_X = {"at s = 0 you return x_t; there the mean is x_0, exactly": lambda c: (c.x, c.variance)}


def about_weights(mean: Tensor, name: str, c: Case) -> str:
    """The sentence on a mean, (4, 3), or a variance that no mistake of the table explains."""
    close = nearly(mean, c.mean if name == "the mean" else c.variance, name)
    if close or name != "the mean" or mean.shape != c.x.shape:
        return close or f"{name} is not what it should be"
    inputs = torch.stack([c.x.flatten(), c.x0.flatten()], 1)
    weights = torch.linalg.lstsq(inputs, mean.reshape(-1, 1)).solution
    if not torch.allclose(inputs @ weights, mean.reshape(-1, 1), atol=1e-4):
        return "the mean is no weighted sum of x_t and x_0, as (1.18) is"
    of_x, of_x0 = weights.flatten().tolist()
    x_right = abs(of_x - c.on_x / (1 - c.t)) < 1e-4
    x0_right = abs(of_x0 - c.on_x0 / (1 - c.t)) < 1e-4
    both = f"from a_t = {c.t:g} to a_s = {c.s:g} it is {of_x:.3g} x_t + {of_x0:.3g} x_0"
    guilty = "that of x_0 is" if x_right else "that of x_t is" if x0_right else "both are"
    return f"look at the weights of the mean, (1.18): {both}; {guilty} wrong"


def judge_step_back(f: Callable) -> None:
    """1.6: step_back(x0, x, a_t, a_s) -> mean and variance of q(x_s | x_t, x_0)."""
    for a_t, a_s in ((0.3, 0.7), (0.05, 0.06), (0.4, 1.0), (0.9, 0.9999)):
        c = step_back_case(a_t, a_s)
        got = call_twice(f, c.x0, c.x, c.t, c.s)
        words = {1.0: ONLY_AT_THE_DATA, 0.9999: NEAR_THE_DATA}.get(a_s, partial(about_weights, c=c))
        mistakes = {1.0: KEEPS_X, 0.9999: {}}.get(a_s, STEP_BACK_MISTAKES)
        compare_pairs(got, c, right_step_back, mistakes, ("the mean", "the variance"),
                      AT_THE_DATA, otherwise=words)


# ---- 1.7: the training loss

ALPHA_BARS_OF_1_7 = {                                       # shape of x0 -> alpha_bar
    (400, 6): torch.tensor([0.9, 0.6, 0.3, 0.05], dtype=F64),
    (400, 2, 4, 4): torch.tensor([0.95, 0.8, 0.6, 0.3, 0.1], dtype=F64),
}


class Spy(torch.nn.Module):
    """A network that keeps its inputs and gives 0.5 x + 0.1."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(scalar(0.5))
        self.calls = []

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append((x.detach(), t.detach() if torch.is_tensor(t) else t))
        return self.scale * x + 0.1

    def inputs(self, B: int) -> tuple[Tensor, object]:
        """x and t of the last call, or of all calls if each had a part of the B examples."""
        xs, ts = zip(*self.calls)
        parts = all(torch.is_tensor(t) and t.shape == x.shape[:1] for x, t in self.calls)
        if not parts or len({x.shape[1:] for x in xs}) > 1 or sum(map(len, xs)) != B:
            return self.calls[-1]
        return torch.cat(xs), torch.cat(ts)


TIME_SUSPECTS = {
    "the network was given t = {c.largest:.0f}: it expects (i + 1) / T, a number in (0, 1]":
        lambda c: c.largest >= 2,
    "the network was given t = 0: step i = 0 is the time 1 / T, so divide i + 1 by T":
        lambda c: c.t.min() == 0,
    "the network was given t = {c.odd[0]:.4g}; with T = {c.T} steps the times are {c.times}: "
    "divide a whole i + 1 by T = len(alpha_bar)":
        lambda c: len(c.odd),
    "all examples got the same step: draw one for each, torch.randint(T, (B,))":
        lambda c: len(c.i.unique()) == 1,
    "with T = {c.T} the steps {c.never} never came in 400 draws: torch.randint(T, (B,)) gives "
    "0 ... T-1":
        lambda c: len(c.i.unique()) < c.T,
}
NOISE_SUSPECTS = {
    "the network was given the clean x0: make x_t first":
        lambda c: torch.allclose(c.x, c.x0),
    "every example got the same noise: draw as much noise as there is data, torch.randn_like(x0)":
        lambda c: c.std < 1e-6,
    "numbers of one example share their noise: draw as much noise as there is data, "
    "torch.randn_like(x0)":
        lambda c: shares_noise(c.eps),
    "your noise has mean {c.mean:.2f}: torch.randn_like, not torch.rand_like":
        lambda c: c.mean.abs() > 0.15,
    "x_t is made with alpha_bar[i - 1]; alpha_bar[i] already includes step i":
        lambda c: c.off and fits(c, c.alpha_bar[c.i - 1]),
    "x_t is made with alpha_bar[i + 1]; step i has alpha_bar[i]":
        lambda c: c.off and (fits(c, c.alpha_bar.roll(-1)[c.i])
                             or fits(c, torch.cat([c.alpha_bar, c.alpha_bar[-1:]])[c.i + 1])),
    "x_t is made with the lesson's alpha_bar; take the one that your function is given":
        lambda c: c.off and fits(c, ALPHA_BAR[c.i]),
    "the noise in x_t has standard deviation {c.std:.2f} times what (1.7) asks for: look at the "
    "two square roots":
        lambda c: c.off,
    "x0 is in x_t with another factor than sqrt(alpha_bar): look at its root":
        lambda c: abs(left_of_x0(c.eps, c.x0)) > 0.15,
    "at some steps the noise in x_t has another standard deviation than sqrt(1 - alpha_bar): add "
    "no eps, and no floor":
        lambda c: c.many and not fits(c, c.alpha_bar[c.i], 0.08),
    "your noise is not Gaussian, it has too few large values: torch.randn_like, and do not clip it":
        lambda c: c.many and kurtosis(c.eps) < 2.7,
}


def left_of_x0(eps: Tensor, x0: Tensor) -> float:
    """How much of x0 is in eps: the slope of a line."""
    return ((eps * x0).sum() / x0.square().sum()).item()


def kurtosis(eps: Tensor) -> float:
    """Mean fourth power over the squared mean square: 3 for a Gaussian, 1.8 for even numbers."""
    return (eps.pow(4).mean() / eps.square().mean() ** 2).item()


def shares_noise(eps: Tensor) -> bool:
    """Whether two numbers of an example always have about the same noise.   eps: (B, ...)"""
    return bool((torch.corrcoef(eps.flatten(1).T).triu(1) > 0.5).any())


def noise_in(x: Tensor, x0: Tensor, a: Tensor) -> Tensor:
    """The eps in x = sqrt(a) x0 + sqrt(1 - a) eps.   x, x0: (B, ...), a: (B,)"""
    a = a.view(-1, *[1] * (x0.ndim - 1))
    return (x - a.sqrt() * x0) / (1 - a).sqrt()


def fits(c: Case, a: Tensor, tolerance: float = 0.15) -> bool:
    """Whether c.x at every step holds as much noise as these alpha_bar, (B,), ask for."""
    eps = noise_in(c.x, c.x0, a)
    return all(abs(eps[c.i == k].std() - 1) < tolerance for k in c.i.unique())


def squared_error(c: Case, target: Tensor) -> Tensor:
    return (c.out - target).square()


def right_loss(c: Case) -> Tensor:
    return squared_error(c, c.eps).mean()


LOSS_MISTAKES = {
    "the network's output is compared with x0; (1.26) compares it with the noise":
        lambda c: squared_error(c, c.x0).mean(),
    "the network's output is compared with x_t; (1.26) compares it with the noise":
        lambda c: squared_error(c, c.x).mean(),
    "that is the sum of the squares; take the mean, so that predicting 0 costs 1":
        lambda c: squared_error(c, c.eps).sum(),
    "that is the sum over an example's numbers; take the mean over these, too":
        lambda c: squared_error(c, c.eps).flatten(1).sum(1).mean(),
    "that is the mean absolute error; (1.26) squares":
        lambda c: (c.out - c.eps).abs().mean(),
    "you take the mean first and square it, so errors of both signs cancel; square first":
        lambda c: (c.out - c.eps).mean().square(),
    "that is the mean of the differences, in which both signs cancel; square them first":
        lambda c: (c.out - c.eps).mean(),
    "that is half of it: (1.26) has no 1/2":
        lambda c: right_loss(c) / 2,
    "that is the root of the mean square; leave the root out":
        lambda c: right_loss(c).sqrt(),
    "the output is compared with v; (1.26) compares it with the noise":
        lambda c: squared_error(c, c.a.sqrt() * c.eps - (1 - c.a).sqrt() * c.x0).mean(),
    "that is the smooth (Huber) loss; (1.26) squares errors of any size":
        lambda c: torch.nn.functional.smooth_l1_loss(c.out, c.eps),
    "the output is compared with fresh noise: keep the eps that made x_t":
        lambda c: c.out.square().mean() + 1,
    "the noise has the wrong sign: the network must predict + eps":
        lambda c: squared_error(c, -c.eps).mean(),
}
LOSS_OTHERWISE = ("this is not the mean of (output - eps)^2 with the eps that made x_t: keep that "
                  "eps, compare with it, and give all numbers the same weight")


TOO_FEW_STEPS = ("{} values meet {} examples: draw a step for every example, and steps may come "
                 "again, torch.randint(T, (B,))")


def check_times(t: object, T: int) -> Tensor:
    """The steps i, (400,), that belong to the times given to the network, (i + 1) / T."""
    if not torch.is_tensor(t) or t.shape != (400,):
        came = tuple(t.shape) if torch.is_tensor(t) else repr(t)
        raise Wrong(f"the network needs one time per example, shape (400,); it was given {came}: "
                    "draw a step for each example")
    t = t.double()
    nearest = (t * T).round()
    i = nearest.long() - 1
    odd = t[(nearest / T - t).abs() > 1e-4] if t.max() <= 1 else t[t > 1]
    never = sorted(set(range(T)) - set(i.tolist()))
    times = ", ".join(f"{(k + 1) / T:g}" for k in range(T))
    reject_first(TIME_SUSPECTS, Case(t=t, largest=t.max(), odd=odd, i=i, never=never, T=T,
                                     times=times))
    return i


def check_noise(x: Tensor, x0: Tensor, i: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise that x_t was made with, like x0.   i: (400,), alpha_bar: (T,)"""
    if x.shape != x0.shape:
        raise Wrong(f"x0 has the shape {tuple(x0.shape)}, and the network was given "
                    f"{tuple(x.shape)}: alpha_bar[i] needs as many dimensions as x0 has")
    eps = noise_in(x, x0, alpha_bar[i])
    std = eps.std(dim=0).mean()
    reject_first(NOISE_SUSPECTS, Case(x=x, x0=x0, i=i, alpha_bar=alpha_bar, eps=eps,
                                      mean=eps.mean(), std=std, off=abs(std - 1) > 0.07,
                                      many=eps.numel() > 10_000))
    return eps


def check_loss(loss: object, c: Case) -> None:
    reject_none(loss)
    if not torch.is_tensor(loss):
        raise Wrong(f"return the loss as a tensor; got {type(loss).__name__}: without .item(), so "
                    "that it can be differentiated")
    if loss.shape == (400,):
        raise Wrong("one number is wanted, the mean over the batch; got one per example")
    compare_case(loss.detach(), c, right_loss, LOSS_MISTAKES, rtol=1e-3, otherwise=LOSS_OTHERWISE)
    reject_cut(loss, [c.net.scale], "the value is right, but it carries no gradient: no "
               "torch.no_grad() and no .detach() in a loss")


def ask_loss(f: Callable, x0: Tensor, alpha_bar: Tensor, seed: int) -> Case:
    """The reader's loss, and the steps i and the noise eps that it drew."""
    c = Case(net=Spy(), x0=x0)
    torch.manual_seed(seed)
    try:
        c.loss, (_, given, table) = ask(f, c.net, x0, alpha_bar)
    except RuntimeError as error:
        T = len(alpha_bar)
        reject_if((T not in x0.shape and f"({T})" in str(error), TOO_FEW_STEPS.format(T, len(x0))),
                  ("size" in str(error) or "shape" in str(error),
                   fill(BROADCAST, Case(only="", shape=tuple(x0.shape), B=len(x0)))))
        raise
    reject_if((changed(x0, given), CHANGES_X0),
              (changed(alpha_bar, table), CHANGES_TABLE),
              (not c.net.calls, "the network was never called: call net(x_t, t)"))
    x, t = c.net.inputs(len(x0))
    c.x = x.double()
    c.i = check_times(t, len(alpha_bar))
    c.a = alpha_bar[c.i].view(-1, *[1] * (x0.ndim - 1))
    c.eps = check_noise(c.x, x0, c.i, alpha_bar)
    c.out = 0.5 * c.x + 0.1
    return c


PAIRED_STEPS = ("your steps are not independent: those of some examples tell those of others; draw "
                "each by itself, torch.randint(T, (B,))")
BALANCED = ("your steps are not independent: step i comes exactly as often as step T - 1 - i in "
            "every call; draw one for each example, torch.randint(T, (B,))")
PAIRED_NOISE = ("the noise of some examples is that of others, or minus it: draw it for each "
                "example, torch.randn_like(x0)")
FREQUENCY = ("step i = {i} came {n:.0f} times in {draws} draws; each of the {T} steps is due about "
             "{due:.0f} times: torch.randint(T, (B,)) gives all the same chance")


def alike(values: Tensor) -> bool:
    """Whether examples a fixed distance apart have tied values.   values: (400, ...)

    Distances up to 201 are tried, and neighbours two by two. Independent values of 199 examples
    have a correlation below 0.5 by seven standard deviations.
    """
    v = values.double().flatten(1)
    v = v - v.mean(0)
    spread = v.square().mean()
    if (v[::2] * v[1::2]).mean().abs() > 0.6 * spread:
        return True
    return any((v[k:] * v[:-k]).mean().abs() > 0.5 * spread for k in range(1, 202))


def is_mirrored(i: Tensor, T: int) -> bool:
    """Whether step k comes as often as step T - 1 - k, for all k."""
    counts = i.bincount(minlength=T)
    return torch.equal(counts, counts.flip(0))


def check_independence(c: Case, other: Case, T: int) -> None:
    """Raise Wrong if the draws of two calls are the same, or those of the examples are tied."""
    same_steps = torch.equal(c.i, other.i)
    same_noise = torch.allclose(c.eps, other.eps)
    reject_if((same_steps and same_noise, SEEDED),
              (same_steps, "every call draws the same steps: they must be new in each"),
              (same_noise, "every call draws the same noise: it must be new in each"),
              (alike(c.i[:, None]), PAIRED_STEPS),
              (alike(c.eps), PAIRED_NOISE),
              (is_mirrored(c.i, T) and is_mirrored(other.i, T), BALANCED))


def check_frequency(f: Callable, x0: Tensor, alpha_bar: Tensor) -> None:
    """Raise Wrong if a step comes too often or too rarely in ten calls, by six deviations.

    No seed is that of `draws`: noise drawn first would be x0.
    """
    T = len(alpha_bar)
    i = torch.cat([ask_loss(f, x0, alpha_bar, seed).i for seed in range(20, 30)])
    counts = i.bincount(minlength=T).double()
    due = len(i) / T
    off = (counts - due).abs() / math.sqrt(due * (1 - 1 / T))
    worst = off.argmax()
    reject_if((off[worst] > 6, FREQUENCY.format(i=worst, n=counts[worst], draws=len(i), T=T,
                                                due=due)))


def check_one_example(f: Callable) -> None:
    """Raise Wrong if the loss of a batch of one example is none."""
    net = Spy()
    loss, _ = ask(f, net, draws(1, 2), ALPHA_BARS_OF_1_7[400, 6])
    x, t = net.inputs(1)
    reject_if((x.shape != (1, 2) or not torch.is_tensor(t) or t.shape != (1,),
               f"right for many examples, but for one alone, x0 of shape (1, 2), the network was "
               f"given x_t of shape {shape_of(x)} and t of shape {shape_of(t)}"),
              (loss.numel() != 1 or not loss.isfinite(),
               "right for many examples, but for one alone the loss is no number"))


def judge_loss(f: Callable) -> None:
    """1.7: training_loss(net, x0, alpha_bar), one number."""
    asked = [[ask_loss(f, 0.8 * draws(*shape), alpha_bar, seed) for seed in (3, 4)]
             for shape, alpha_bar in ALPHA_BARS_OF_1_7.items()]
    for (c, other), alpha_bar in zip(asked, ALPHA_BARS_OF_1_7.values()):
        check_loss(c.loss, c)
        check_independence(c, other, len(alpha_bar))
    check_frequency(f, 0.8 * draws(400, 6), ALPHA_BARS_OF_1_7[400, 6])
    check_one_example(f)


# ---- 1.8: the score

def right_score(c: Case) -> Tensor:
    return (c.signal - c.x) / (1 - c.a)


SCORE_MISTAKES = {
    "the sign is wrong: the score points from the noisy x towards the data":
        lambda c: (c.x - c.signal) / (1 - c.a),
    "that is the prediction of the noise; the score is minus it, over sqrt(1 - alpha_bar)":
        lambda c: (c.x - c.signal) / (1 - c.a).sqrt(),
    "that is minus the prediction of the noise; divide by sqrt(1 - alpha_bar) once more":
        lambda c: (c.signal - c.x) / (1 - c.a).sqrt(),
    "x lies around sqrt(alpha_bar) x_0, not around x_0":
        lambda c: (c.x0_hat - c.x) / (1 - c.a),
    "x lies around sqrt(alpha_bar) x_0: a square root is missing":
        lambda c: (c.a * c.x0_hat - c.x) / (1 - c.a),
    "the direction is right; its length is not: divide by the variance of the noise":
        lambda c: c.signal - c.x,
    "you divide by alpha_bar; the variance of the noise is 1 - alpha_bar":
        lambda c: (c.signal - c.x) / c.a,
    "you divide by the square of the variance: 1 - alpha_bar is a variance already":
        lambda c: (c.signal - c.x) / (1 - c.a) ** 2,
    "1 - sqrt(alpha_bar) is not the variance of the noise: that is 1 - alpha_bar":
        lambda c: (c.signal - c.x) / (1 - c.a.sqrt()),
    "you multiply by the variance of the noise; divide":
        lambda c: (c.signal - c.x) * (1 - c.a),
    "the sign is wrong, and x lies around sqrt(alpha_bar) x_0, not around x_0":
        lambda c: (c.x - c.x0_hat) / (1 - c.a),
    "x lies around sqrt(alpha_bar) x_0, not around x_0, and the variance of the noise is missing":
        lambda c: c.x0_hat - c.x,
    "x lies around sqrt(alpha_bar) x_0, not around x_0; and divide by the variance, without a root":
        lambda c: (c.x0_hat - c.x) / (1 - c.a).sqrt(),
    "that is the score of x_0's own density, N(0, I): where is the prediction?":
        lambda c: -c.x,
    "(1 - alpha_bar) / alpha_bar is the variance of the noise in x / sqrt(alpha_bar), not in x":
        lambda c: (c.x0_hat - c.x) * c.a / (1 - c.a),
    "a is alpha_bar already, a variance; you take it for its root":
        lambda c: (c.a * c.x0_hat - c.x) / (1 - c.a**2),
    "you clip x0_hat; take the prediction as it is":
        lambda c: (c.a.sqrt() * c.x0_hat.clamp(-1, 1) - c.x) / (1 - c.a),
    "that is the gradient with respect to x_0; the score is the one with respect to x":
        lambda c: c.a.sqrt() * (c.x - c.signal) / (1 - c.a),
    "a pair of brackets is missing: both terms are divided by 1 - alpha_bar":
        lambda c: c.signal - c.x / (1 - c.a),
    "in (1.30) sqrt(alpha_bar) divides x; solved for the score it multiplies x0_hat, and x stays "
    "as it is":
        lambda c: (c.x0_hat - c.x / c.a.sqrt()) / (1 - c.a),
    "that is the score divided by the number of values: differentiate a sum, not a mean":
        lambda c: right_score(c) / c.x.numel(),
    "that is twice the score: the 2 of the square and the 1/2 of the Gaussian cancel":
        lambda c: 2 * right_score(c),
    "that is half the score: the 2 of the square and the 1/2 of the Gaussian cancel":
        lambda c: right_score(c) / 2,
    "x and x0_hat have changed places":
        lambda c: (c.a.sqrt() * c.x - c.x0_hat) / (1 - c.a),
    "the score is the gradient with respect to x itself: no factor sqrt(alpha_bar) in front":
        lambda c: c.a.sqrt() * right_score(c),
}
LITTLE_NOISE = 0.995


def about_length(got: object, c: Case) -> str:
    """A sentence on a score that is a multiple of the right one, or ""."""
    wanted = right_score(c)
    if not torch.is_tensor(got) or got.shape != wanted.shape:
        return ""
    k = (got.double() * wanted).sum() / wanted.square().sum()
    if not torch.allclose(got.double(), k * wanted, rtol=1e-3):
        return ""
    if c.a == LITTLE_NOISE:
        return (f"right where there is more noise, but at alpha_bar = 0.995 yours is {k:.3g} times "
                "the score: divide by 1 - alpha_bar itself, without floor or eps")
    return f"the direction is right, but at alpha_bar = {c.a:g} yours is {k:.3g} times the score"


def judge_score(f: Callable) -> None:
    """1.8: to_score(x0_hat, x, a), the score from the prediction of the clean image."""
    x0_hat = draws(5, 3)
    x = draws(5, 3, seed=12)
    for a in (scalar(0.9), scalar(0.2), scalar(LITTLE_NOISE)):
        c = Case(x0_hat=x0_hat, x=x, a=a, signal=a.sqrt() * x0_hat)
        got = as_tensor(call_twice(f, x0_hat, x, a))
        compare_case(got, c, right_score, SCORE_MISTAKES, otherwise=about_length(got, c))


# ---- 1.9: ancestral sampling

def toy_network(x: Tensor, t: Tensor) -> Tensor:
    """x: (6, ...), t: (6,) -> like x. Raises Wrong if t is not one time per example."""
    if not torch.is_tensor(t) or t.shape != (6,):
        came = tuple(t.shape) if torch.is_tensor(t) else repr(t)
        raise Wrong(f"the network needs one time per example, shape (6,); it was given {came}: "
                    "torch.full((len(x),), ...)")
    t = t.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
    return x * torch.tanh(2 * t) + 0.3 * t


def predict_x0(x: Tensor, eps_hat: Tensor, a: Tensor) -> Tensor:
    """(1.27)"""
    return (x - (1 - a).sqrt() * eps_hat) / a.sqrt()


def ancestral(c: Case, *, steps: range = range(4, -1, -1), width: Callable = torch.sqrt,
              z: Callable = lambda zs, i: zs[i], time: Callable = lambda i, T: (i + 1) / T,
              last_variance: Tensor | float = 0.0, forward_variance: bool = False,
              mean_before: Callable = lambda before, a: before, to_x0: Callable = predict_x0,
              first: int | None = None, wrap_variance: bool = False) -> Tensor:
    """Algorithm 2 of Ho et al. 2020, with switches for its well-known wrong versions.

    first: the entry of alpha_bar that is taken for the 1 before the first step
    """
    x, a, betas = c.x, c.a, c.betas
    before = torch.cat([torch.ones(1, dtype=F64) if first is None else a[[first]], a[:-1]])
    for i in steps:
        t = torch.full((len(x),), time(i, len(betas)), dtype=F64)
        x0_hat = to_x0(x, toy_network(x, t), a[i])
        previous = mean_before(before[i], a[i])
        on_x = (1 - betas[i]).sqrt() * (1 - previous)
        mean = (on_x * x + previous.sqrt() * betas[i] * x0_hat) / (1 - a[i])
        tilde = betas[i] * (1 - (a[i - 1] if wrap_variance else before[i])) / (1 - a[i])
        variance = betas[i] if forward_variance else tilde
        if i == 0 and first is None and not wrap_variance:
            variance = 0 * variance + last_variance
        x = mean + width(variance) * z(c.zs, i)
    return x


def by_eps(c: Case, factor: Callable = lambda beta, a: beta / (1 - a).sqrt(),
           over: Callable = torch.sqrt) -> Tensor:
    """Ancestral sampling with the mean as (x - factor eps_hat) / over(alpha)."""
    x = c.x
    for i in range(4, -1, -1):
        beta, a = c.betas[i], c.a[i]
        eps_hat = toy_network(x, torch.full((len(x),), (i + 1) / 5, dtype=F64))
        before = c.a[i - 1] if i else torch.ones((), dtype=F64)
        tilde = beta * (1 - before) / (1 - a)
        x = (x - factor(beta, a) * eps_hat) / over(1 - beta) + tilde.sqrt() * c.zs[i]
    return x


# the first levels of the sheet's alpha_bar, which is in float32
NOTEBOOK_CURVE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)[:5].double()


def asked_once(c: Case) -> Tensor:
    """Ancestral sampling with the eps_hat of the first call in every step."""
    once = toy_network(c.x, torch.ones(len(c.x), dtype=F64))
    return ancestral(c, to_x0=lambda x, eps_hat, a: predict_x0(x, once, a))


def noised_first(c: Case) -> Tensor:
    """Ancestral sampling with the noise of a step added before its mean."""
    x = c.x
    for i in range(4, -1, -1):
        beta, a = c.betas[i], c.a[i]
        before = c.a[i - 1] if i else torch.ones((), dtype=F64)
        x = x + (beta * (1 - before) / (1 - a)).sqrt() * c.zs[i]
        eps_hat = toy_network(x, torch.full((len(x),), (i + 1) / 5, dtype=F64))
        x = (x - beta / (1 - a).sqrt() * eps_hat) / (1 - beta).sqrt()
    return x


def without_noise(c: Case) -> Tensor:
    """The deterministic steps of DDIM."""
    x = c.x
    for i in range(4, -1, -1):
        eps_hat = toy_network(x, torch.full((len(x),), (i + 1) / 5, dtype=F64))
        before = c.a[i - 1] if i else torch.ones((), dtype=F64)
        x = before.sqrt() * predict_x0(x, eps_hat, c.a[i]) + (1 - before).sqrt() * eps_hat
    return x


def renoised(c: Case) -> Tensor:
    """In every step x0_hat, taken to the level before with z alone."""
    x = c.x
    for i in range(4, -1, -1):
        eps_hat = toy_network(x, torch.full((len(x),), (i + 1) / 5, dtype=F64))
        before = c.a[i - 1] if i else torch.ones((), dtype=F64)
        x = before.sqrt() * predict_x0(x, eps_hat, c.a[i]) + (1 - before).sqrt() * c.zs[i]
    return x


SAMPLE_MISTAKES = {
    "you go from i = 0 up to T-1: the reverse process begins at the noisy end":
        lambda c: ancestral(c, steps=range(5)),
    "you add noise in the last step, i = 0, too: there the variance (1.17) is 0":
        lambda c: ancestral(c, last_variance=c.betas[0]),
    "no noise is added on the way: a step is the mean *plus* sqrt(variance) z":
        lambda c: ancestral(c, width=torch.zeros_like),
    "you multiply z by the *variance*; look at the square root":
        lambda c: ancestral(c, width=lambda variance: variance),
    "your variance is beta_t, Ho et al.'s other choice; this question asks for (1.17)":
        lambda c: ancestral(c, forward_variance=True),
    "your variance is beta_t, and z is added in the last step, too":
        lambda c: ancestral(c, forward_variance=True, last_variance=c.betas[0]),
    "the network is given the index i; step i sits at t = (i + 1) / T":
        lambda c: ancestral(c, time=lambda i, T: i),
    "the network is given i + 1; step i sits at t = (i + 1) / T":
        lambda c: ancestral(c, time=lambda i, T: i + 1),
    "the network is given i / T; step i sits at t = (i + 1) / T":
        lambda c: ancestral(c, time=lambda i, T: i / T),
    "the mean uses alpha_bar_t where alpha_bar_{t-1} belongs":
        lambda c: ancestral(c, mean_before=lambda before, a: a),
    "you stop one step early: i runs down to 0":
        lambda c: ancestral(c, steps=range(4, 0, -1)),
    "you start one step late: i begins at T - 1":
        lambda c: ancestral(c, steps=range(3, -1, -1)),
    "the same z in every step: step i uses zs[i]":
        lambda c: ancestral(c, z=lambda zs, i: zs[0]),
    "your steps use the noise in the wrong order: step i uses zs[i]":
        lambda c: ancestral(c, z=lambda zs, i: zs[-1 - i]),
    "x0_hat is not divided by sqrt(alpha_bar): (1.27)":
        lambda c: ancestral(c, to_x0=lambda x, eps_hat, a: x - (1 - a).sqrt() * eps_hat),
    "the network predicts the noise, not x_0: use (1.27) first":
        lambda c: ancestral(c, to_x0=lambda x, eps_hat, a: eps_hat),
    "in (1.27) the noise is multiplied by sqrt(1 - alpha_bar): a root is missing":
        lambda c: ancestral(c, to_x0=lambda x, eps_hat, a: (x - (1 - a) * eps_hat) / a.sqrt()),
    "you clip x0_hat; that can help with images, but this question asks for the plain algorithm":
        lambda c: ancestral(c, to_x0=lambda *inputs: predict_x0(*inputs).clamp(-1, 1)),
    "at i = 0 your alpha_bar[i - 1] is alpha_bar[-1], the *last* entry; before the first step "
    "alpha_bar is 1":
        lambda c: ancestral(c, first=-1),
    "at i = 0 your variance has alpha_bar[i - 1], which is alpha_bar[-1], the *last* entry; before "
    "the first step alpha_bar is 1, and the variance 0":
        lambda c: ancestral(c, wrap_variance=True),
    "the mean lacks its division by sqrt(alpha_t): (x - beta / sqrt(1 - alpha_bar) eps_hat) / "
    "sqrt(alpha_t)":
        lambda c: by_eps(c, over=lambda alpha: 1.0),
    "in the mean eps_hat is multiplied by beta / (1 - alpha_bar); a root is missing below the line":
        lambda c: by_eps(c, factor=lambda beta, a: beta / (1 - a)),
    "in the mean eps_hat is multiplied by sqrt(beta); it is beta / sqrt(1 - alpha_bar)":
        lambda c: by_eps(c, factor=lambda beta, a: beta.sqrt()),
    "in the mean eps_hat is multiplied by sqrt(1 - alpha_bar), as if one step removed all noise":
        lambda c: by_eps(c, factor=lambda beta, a: (1 - a).sqrt()),
    "the network is given (i + 1) / 1000; divide by T = len(betas)":
        lambda c: ancestral(c, time=lambda i, T: (i + 1) / 1000),
    "at i = 0 your alpha_bar_{t-1} is alpha_bar[0], that of the first step; before it alpha_bar is "
    "1":
        lambda c: ancestral(c, first=0),
    "in the last step, i = 0, you add noise as large as that of i = 1; there the variance (1.17) "
    "is 0":
        lambda c: ancestral(c, last_variance=c.betas[1] * (1 - c.a[0]) / (1 - c.a[1])),
    "in the mean 1 / sqrt(alpha_t) multiplies x alone; it multiplies eps_hat, too":
        lambda c: by_eps(c, factor=lambda beta, a: beta * ((1 - beta) / (1 - a)).sqrt()),
    "you noise x0_hat afresh in each step; the mean (1.18) also keeps a part of x":
        renoised,
    "these are the lesson's betas: take those that your function is given":
        lambda c: ancestral(Case(x=c.x, zs=c.zs, betas=BETAS[:5], a=ALPHA_BAR[:5])),
    "your alpha_bar is the lesson's: take the products of the 1 - beta that your function is given":
        lambda c: by_eps(Case(x=c.x, zs=c.zs, betas=c.betas, a=NOTEBOOK_CURVE)),
    "your alpha_bar is the lesson's, not that of the betas that your function is given":
        lambda c: ancestral(Case(x=c.x, zs=c.zs, betas=c.betas, a=NOTEBOOK_CURVE)),
    "your step i uses zs[i - 1], the next one's noise: step i uses zs[i]":
        lambda c: ancestral(c, z=lambda zs, i: zs[i - 1]),
    "only the last step, i = 0, is without noise; yours is so at i = 1, too":
        lambda c: ancestral(c, z=lambda zs, i: zs[i] * (i > 1)),
    "these are the steps without noise, DDIM's: the mean is (1.18), and sqrt(variance) z comes on "
    "top":
        without_noise,
    "the network is asked once, at the start; ask it in every step, with the new x":
        asked_once,
    "z is added before the network is asked; first the mean (1.18) of x, then sqrt(variance) z":
        noised_first,
    "that is one prediction of x_0 from the starting noise: go step by step":
        lambda c: predict_x0(c.x, toy_network(c.x, torch.ones(6, dtype=F64)), c.a[-1]),
}
SAMPLE_OTHERWISE = (
    "your x_0 is not what it should be: print one step's mean and variance, and compare them "
    "with DDPM(net, betas).p_mean_variance")


def draws_own_zs(f: Callable, c: Case, got: object) -> bool:
    """Whether a second call with the same noise gives another x_0."""
    again, _ = ask(f, toy_network, c.x, c.zs, c.betas)
    if not (torch.is_tensor(got) and torch.is_tensor(again) and got.shape == again.shape):
        return False
    return not torch.allclose(got, again, equal_nan=True)


def judge_sample(f: Callable) -> None:
    """1.9: sample(net, x, zs, betas), the whole reverse process."""
    betas = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5], dtype=F64)
    for shape in ((6, 2), (6, 1, 2, 2)):
        c = Case(x=draws(*shape), zs=draws(5, *shape, seed=12), betas=betas,
                 a=torch.cumprod(1 - betas, 0))
        try:
            got, (_, x, zs, given) = ask(f, toy_network, c.x, c.zs, betas)
        except RuntimeError as error:
            reject_if((len(shape) > 2 and "size" in str(error),
                       f"right for points (6, 2), but x of shape {shape} fails: {error}"))
            raise
        reject_if((changed(c.x, x),
                   "your function changes the x it was given (an operation such as `x += ...`): "
                   "compute a new tensor"),
                  (changed(c.zs, zs) or changed(betas, given),
                   "your function changes the zs or the betas it was given: compute new tensors"),
                  (draws_own_zs(f, c, got),
                   "the same zs twice gave two answers: draw no noise, step i uses zs[i]"))
        compare_case(got, c, ancestral, SAMPLE_MISTAKES, otherwise=SAMPLE_OTHERWISE)


# ---- 1.10: the best variance

def best_variance_case(*values: float) -> Case:
    """tilde: beta tilde; v_before, v_after: the variances of x_{t-1} and x_t."""
    beta, before, v = (scalar(value) for value in values)
    a = before * (1 - beta)
    return Case(
        beta=beta,
        before=before,
        v=v,
        a=a,
        tilde=beta * (1 - before) / (1 - a),
        v_before=1 + (v - 1) * before,
        v_after=1 + (v - 1) * a,
    )


def right_best_variance(c: Case) -> Tensor:
    return c.beta * c.v_before / c.v_after


def reverse_variance(c: Case, v_before: Tensor) -> Tensor:
    """Var(x_{t-1} | x_t) where x_{t-1} has this variance."""
    return c.beta * v_before / (c.beta + (1 - c.beta) * v_before)


BEST_VARIANCE_MISTAKES = {
    "that is beta tilde, right only if the data is a single point (v = 0)":
        lambda c: c.tilde,
    "that is beta, right only for v = 1":
        lambda c: c.beta,
    "that is beta / alpha, (1.16)'s limit for a very wide density. Or is the noise missing in the "
    "variances of x_{t-1} and x_t? Each is alpha_bar v + 1 - alpha_bar":
        lambda c: c.beta / (1 - c.beta),
    "the ratio is upside down: for v = 0 it must give beta tilde, which is below beta":
        lambda c: c.beta * c.v_after / c.v_before,
    "that is a standard deviation; return the variance":
        lambda c: right_best_variance(c).sqrt(),
    "both ends, v = 0 and v = 1, are right, but between them it is not a straight line":
        lambda c: (1 - c.v) * c.tilde + c.v * c.beta,
    "v is the variance of x_0; what enters is the variance of x_{t-1}, by (1.7)":
        lambda c: c.v * c.beta / ((1 - c.beta) * c.v + c.beta),
    "that is the variance of x_t, by (1.7)":
        lambda c: c.v_after,
    "that is the sum of the two inverse variances; invert it":
        lambda c: 1 / right_best_variance(c),
    "variances do not add here, their inverses do":
        lambda c: c.beta / (1 - c.beta) + c.v_before,
    "as a function of x_{t-1} the step forward has the variance beta / alpha, not beta, (1.2)":
        lambda c: 1 / (1 / c.beta + 1 / c.v_before),
    "that is the variance of x_{t-1} before x_t is known":
        lambda c: c.v_before,
    "both ends, v = 0 and v = 1, are right, but between them it is no straight line of logarithms":
        lambda c: c.tilde ** (1 - c.v) * c.beta**c.v,
    "x_{t-1} holds noise, too: its variance is alpha_bar v + 1 - alpha_bar":
        lambda c: reverse_variance(c, c.before * c.v),
    "you square alpha_bar_{t-1}; in the variance of x_{t-1} it multiplies v as it is":
        lambda c: reverse_variance(c, 1 + (c.v - 1) * c.before**2),
    "v is a variance already: do not square it":
        lambda c: reverse_variance(c, 1 + (c.v**2 - 1) * c.before),
    "before is alpha_bar_{t-1} already: do not divide it by alpha_t":
        lambda c: reverse_variance(c, 1 + (c.v - 1) * c.before / (1 - c.beta)),
    "the step forward has alpha_t = 1 - beta_t; you took alpha_bar_t":
        lambda c: 1 / (1 / c.v_before + c.a / (1 - c.a)),
    "the square of the covariance is still to be divided by the variance of x_t":
        lambda c: c.v_before - (1 - c.beta) * c.v_before**2,
    "to beta tilde belongs what is unknown of x_0 once x_t is known, not all of v":
        lambda c: c.tilde + c.before * (c.beta / (1 - c.a)) ** 2 * c.v,
    "the weight of x_0 in (1.18) multiplies a variance: square it":
        lambda c: c.tilde + c.before.sqrt() * c.beta / (1 - c.a) * c.v * (1 - c.a) / c.v_after,
    "alpha_bar_{t-1} is a variance already: in the variance of x_{t-1} it multiplies v, without a "
    "root":
        lambda c: reverse_variance(c, c.before.sqrt() * c.v + 1 - c.before),
    "the square of the covariance is divided by the variance of x_t once, not by its square":
        lambda c: c.v_before - (1 - c.beta) * (c.v_before / c.v_after) ** 2,
    "the covariance of x_{t-1} and x_t is sqrt(alpha) times the variance of x_{t-1}: its square "
    "has alpha, not alpha^2":
        lambda c: c.v_before - ((1 - c.beta) * c.v_before) ** 2 / c.v_after,
    "both ends, v = 0 and v = 1, are right, but between them the inverse is no straight line":
        lambda c: 1 / ((1 - c.v) / c.tilde + c.v / c.beta),
    "that is still to be divided by alpha = 1 - beta":
        lambda c: right_best_variance(c) * (1 - c.beta),
    "a sign: to know x_t makes the variance smaller than beta / alpha, not larger":
        lambda c: c.beta / (1 - c.beta) * (1 + c.beta / c.v_after),
}


def about_limits(f: Callable, c: Case) -> str:
    """The sentence on a formula that no mistake of the table explains."""
    of = lambda v: as_scalar(f(c.beta.clone(), c.before.clone(), scalar(v)))
    clean, one = of(0.0), of(1.0)
    begins = torch.isclose(clean, c.tilde, rtol=1e-4)
    ends = torch.isclose(one, c.beta, rtol=1e-4)
    if begins and ends:
        return f"both ends, v = 0 and v = 1, are right, but at v = {c.v:g} it is not"
    at = f"with beta = {c.beta:g} and before = {c.before:g} yours gives"
    if begins:
        return f"v = 0 gives beta tilde, as it must, but v = 1 must give beta; {at} {one:.4g}"
    if ends:
        return f"v = 1 gives beta, as it must, but v = 0 must give beta tilde; {at} {clean:.4g}"
    return ("try the limits: v = 0 must give beta tilde, v = 1 must give beta; "
            f"{at} {clean:.4g} and {one:.4g}")


def judge_best_variance(f: Callable) -> None:
    """1.10: best_variance(beta, before, v), Var(x_{t-1} | x_t) for Gaussian data of variance v."""
    for values in ((0.1, 0.6, 0.25), (0.02, 0.3, 4.0), (0.3, 0.95, 0.01), (0.1, 1.0, 0.5),
                   (0.2, 0.5, 0.0)):
        c = best_variance_case(*values)
        got, _ = ask(f, c.beta, c.before, c.v)
        got = as_scalar(got)
        if not torch.isclose(got, right_best_variance(c), rtol=1e-4):
            compare_case(got, c, right_best_variance, BEST_VARIANCE_MISTAKES,
                         otherwise=about_limits(f, c))


QUESTIONS = [
    Question(
        "1.1", 2, judge_variance,
        "the smaller the product of all 1 - beta, the nearer to 1 it ends, for any v: variance "
        "preserving",
        ("What does one step do to the distance v - 1?",
         "Every step multiplies the distance to 1 by 1 - beta.",
         "1 + (v - 1) * torch.prod(1 - betas)")),
    Question(
        "1.2", 2, judge_jump,
        "these are alpha and beta of one large step: with them, every formula of sections 1.6 and "
        "1.7 holds between any two levels",
        ("Write x_t by (1.7) from x_0, and x_t from x_s as factor * x_s + noise, with x_s by "
         "(1.7). Compare the factors of x_0.",
         "The factors give sqrt(a_t / a_s). Now the variances: factor^2 (1 - a_s) + variance must "
         "be 1 - a_t.",
         "variance = 1 - a_t / a_s")),
    Question(
        "1.3", 3, judge_q_sample,
        "the difference was largest at i = 164, where 1 - alpha_bar = 1/4 (noise of standard "
        "deviation 0.25 in place of 0.5); at the end the wrong one looks fine, which is why it "
        "survived",
        ("Draw 10,000 copies of one pixel and compare the standard deviation of what comes out "
         "with the forward process, step by step.",
         "The second argument of N(mean, variance) is a variance. What must multiply eps to give "
         "that variance?",
         "x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with alpha_bar[i] given one "
         "dimension per dimension of x0.")),
    Question(
        "1.4", 3, judge_sigmoid,
        "and only the last beta reached the cap",
        ("alpha_bar is needed at T + 1 times: 0, 1/T, ..., 1.",
         "The factor 1 / g(0) cancels in the ratio of neighbours.",
         "(1 - g(u[1:]) / g(u[:-1])).clamp(max=0.999)")),
    Question(
        "1.5", 2, judge_steps,
        "T = 619: DDPM's betas need most of their thousand steps",
        ("alpha_bar_T is the product of T factors 1 - beta.",
         "Compute (1.14) for the digits in bits, for T = 100, 200, ...; then look closer.",
         "A loop over T: a = torch.prod(1 - torch.linspace(1e-4, 0.02, T)), then (1.14) as in the "
         "lesson's prior_mismatch, until it is below 1.")),
    Question(
        "1.6", 3, judge_step_back,
        "with this a thousand-step model can be sampled in fifty",
        ("Exercise 1.2 gave alpha and beta of the large step. What in (1.17) and (1.18) belongs "
         "to the step, and what to the two levels?",
         "alpha_t becomes a_t / a_s, beta_t becomes 1 - a_t / a_s, alpha_bar_{t-1} becomes a_s.",
         "variance = beta (1 - a_s) / (1 - a_t);  "
         "mean = (sqrt(alpha) (1 - a_s) x + sqrt(a_s) beta x0) / (1 - a_t)")),
    Question(
        "1.7", 3, judge_loss,
        "this line is all the training there is",
        ("Three draws: a step for every example, noise like x0, and x_t from both.",
         "The network is given (i + 1) / T and predicts eps.",
         "i = torch.randint(T, (B,)); eps = torch.randn_like(x0); "
         "a = alpha_bar[i].view(-1, 1, ...); ((net(x_t, (i + 1) / T) - eps) ** 2).mean()")),
    Question(
        "1.8", 2, judge_score,
        "to remove noise is to climb: the score points from x towards sqrt(alpha_bar) x0_hat",
        ("Solve Tweedie's formula (1.30) for the score.",
         "(1 - a) * score = sqrt(a) * x0_hat - x")),
    Question(
        "1.9", 4, judge_sample,
        "you have written a DDPM",
        ("One step is: call the network, x0_hat by (1.27), the mean by (1.18), the variance by "
         "(1.17), then mean + sqrt(variance) z.",
         "alpha_bar_{t-1} is alpha_bar[i - 1], and 1 for i = 0: then the variance is 0 by itself.",
         "for i in reversed(range(T)): t = torch.full((len(x),), (i + 1) / T); "
         "x0_hat = (x - sqrt(1 - a) net(x, t)) / sqrt(a); ...")),
    Question(
        "1.10", 3, judge_best_variance,
        "beta tilde for v = 0, beta for v = 1: Ho et al.'s two choices are the two ends",
        ("x_{t-1} and x_t are Gaussian together. What are their variances, by 1.1?",
         "Use (1.2): as a function of x_{t-1}, the step forward has variance beta / alpha, and "
         "x_{t-1} itself 1 + (v - 1) alpha_bar_{t-1}. Inverse variances add.",
         "beta * (1 + (v - 1) * before) / (1 + (v - 1) * before * (1 - beta))")),
]
