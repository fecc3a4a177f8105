"""Lesson 6's checks: each solution is right, each stub is not attempted, and each plausible mistake
gets its own diagnosis.
"""
import math
from pathlib import Path

import pytest
import torch
from catalogues import cases, verdicts
from scipy.optimize import linear_sum_assignment

import course_lib
from course_lib import Schedule, last, samplers, sde, timesteps
from course_lib.checks import Checker, lesson06
from course_lib.checks.common import one_thread
from course_lib.checks.lesson06 import KINDS, QUESTIONS
from course_lib.lab import data
from course_lib.schedules import append_dims

SHEET = Path(__file__).parents[1] / "lessons/06_advanced_techniques_exercises.py"
FLOW = Schedule.flow()


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 6.1

def var(schedule, v, t):
    return schedule.alpha(t) ** 2 * v + schedule.sigma(t) ** 2


def ratio(schedule, t, s):
    return schedule.alpha(t) / schedule.alpha(s)


def added(schedule, t, s):
    return schedule.sigma(t) ** 2 - (ratio(schedule, t, s) * schedule.sigma(s)) ** 2


def reverse_gaussian(schedule, v, t, s):
    r = ratio(schedule, t, s)
    factor = r * var(schedule, v, s) / var(schedule, v, t)
    return factor, var(schedule, v, s) * (1 - r * factor)


def reverse_gaussian_by_posterior(schedule, v, t, s):
    """Right, by averaging lesson 1's posterior over the Gaussian x0 given x_t."""
    a_t, b_t = schedule.alpha(t), schedule.sigma(t)
    new = added(schedule, t, s)
    of_x0 = schedule.alpha(s) * new / b_t**2
    of_x_t = ratio(schedule, t, s) * schedule.sigma(s) ** 2 / b_t**2
    total = var(schedule, v, t)
    variance = schedule.sigma(s) ** 2 * new / b_t**2 + of_x0**2 * v * b_t**2 / total
    return [of_x_t + of_x0 * a_t * v / total, variance]


def gaussian(factor=None, variance=None):
    """reverse_gaussian with one of its two numbers changed: functions of (schedule, v, t, s)."""
    def answer(*a):
        right = reverse_gaussian(*a)
        changed = zip((factor, variance), right)
        return tuple(value if change is None else change(*a) for change, value in changed)
    return answer


def vp_only(schedule, v, t, s):
    """Var(x_t) as alpha^2 v + 1 - alpha^2."""
    narrow = lambda u: 1 + schedule.alpha(u) ** 2 * (v - 1)
    return ratio(schedule, t, s) * narrow(s) / narrow(t)


def squared(part):
    return lambda schedule, v, t, s: reverse_gaussian(schedule, v**2, t, s)[part]


def without_alpha(part):
    def answer(schedule, v, t, s):
        r = ratio(schedule, t, s)
        wide = lambda u: v + schedule.sigma(u) ** 2
        factor = r * wide(s) / wide(t)
        return (factor, wide(s) * (1 - r * factor))[part]
    return answer


def divides(schedule, v, t, s):
    """Right in between: it divides by alpha_t."""
    factor, variance = reverse_gaussian(schedule, v, t, s)
    return factor, variance * schedule.alpha(t) / schedule.alpha(t)


def by_noise(schedule, v, t, s):
    """Right in between: to s = 0 the variance is 0."""
    factor, variance = reverse_gaussian(schedule, v, t, s)
    return factor, variance * (schedule.sigma(s) > 0)


GAUSSIAN = {
    "in the posterior given x0, (alpha_t": gaussian(
        lambda S, v, t, s: ratio(S, t, s) * S.sigma(s) ** 2 / S.sigma(t) ** 2),
    "factor: Var_s / Var_t is upside down": gaussian(
        lambda S, v, t, s: ratio(S, t, s) * var(S, v, t) / var(S, v, s)),
    "alpha_t / alpha_s is upside down": gaussian(
        lambda S, v, t, s: ratio(S, s, t) * var(S, v, s) / var(S, v, t)),
    "that is the ODE's": gaussian(lambda S, v, t, s: (var(S, v, s) / var(S, v, t)).sqrt()),
    "that is the correlation": gaussian(
        lambda S, v, t, s: ratio(S, t, s) * (var(S, v, s) / var(S, v, t)).sqrt()),
    "that is the covariance": gaussian(lambda S, v, t, s: ratio(S, t, s) * var(S, v, s)),
    "the ratio is missing": gaussian(lambda S, v, t, s: var(S, v, s) / var(S, v, t)),
    "alone is the way up": gaussian(lambda S, v, t, s: ratio(S, t, s)),
    "alone undoes the scaling": gaussian(lambda S, v, t, s: ratio(S, s, t)),
    "not alpha_t alpha_s v alone": gaussian(
        lambda S, v, t, s: S.alpha(t) * S.alpha(s) * v / var(S, v, t)),
    "factor: v is a variance already": gaussian(squared(0)),
    "factor: Var(x_t) has alpha_t^2 v": gaussian(without_alpha(0)),
    "the two have changed places": lambda *a: reverse_gaussian(*a)[::-1],
    "factor: right only where": gaussian(vp_only),
    "which is fresh noise?": gaussian(lambda S, v, t, s: torch.full_like(t, 0.5)),
    "variance: that is the posterior's given x0": gaussian(variance=lambda S, v, t, s: (
        S.sigma(s) ** 2 * added(S, t, s) / S.sigma(t) ** 2)),
    "that is a standard deviation": gaussian(
        variance=lambda *a: reverse_gaussian(*a)[1].sqrt()),
    "that is added from s to t": gaussian(variance=lambda S, v, t, s: added(S, t, s)),
    "variance: that is Var_s": gaussian(variance=lambda S, v, t, s: var(S, v, s)),
    "is subtracted, not added": gaussian(variance=lambda S, v, t, s: (
        var(S, v, s) * (1 + ratio(S, t, s) * reverse_gaussian(S, v, t, s)[0]))),
    "is still to be squared": gaussian(variance=lambda S, v, t, s: (
        var(S, v, s) * (1 - reverse_gaussian(S, v, t, s)[0]))),
    "not factor^2 Var_s": gaussian(variance=lambda S, v, t, s: (
        var(S, v, s) * (1 - reverse_gaussian(S, v, t, s)[0] ** 2))),
    "variance: Var_s / Var_t is upside down": gaussian(variance=lambda S, v, t, s: (
        var(S, v, t) * added(S, t, s) / var(S, v, s))),
    "nothing is random in yours": gaussian(variance=lambda S, v, t, s: torch.zeros_like(t)),
    "right for small steps only": gaussian(
        variance=lambda S, v, t, s: sde.diffusion(S, t) ** 2 * (t - s)),
    "only rescaled to level s": gaussian(
        variance=lambda S, v, t, s: added(S, t, s) * ratio(S, s, t) ** 2),
    "variance: v is a variance already": gaussian(variance=squared(1)),
    "variance: Var(x_t) has alpha_t^2 v": gaussian(variance=without_alpha(1)),
    "variance: right only where": gaussian(variance=lambda S, v, t, s: (
        var(S, v, s) * (1 - ratio(S, t, s) ** 2) / var(S, v, t))),
    "Var_s minus what x_t explains": gaussian(variance=lambda S, v, t, s: torch.ones_like(t)),
    "divide by neither": divides,
    "to s = 0 it is Var(x0 | x_t)": by_noise,
    "two things are wanted": lambda *a: reverse_gaussian(*a)[0],
    "does it end with `return`": lambda *a: None,
}

# ---- 6.2


def signs(x, generator):
    return torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1


def row_of(f, x, z):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((f(x) * z).sum(), x)[0]


def divergence_estimate(f, x, generator):
    z = signs(x, generator)
    return (row_of(f, x, z) * z).flatten(1).sum(1)


def divergence_forwards(f, x, generator):
    """Right, with the derivative along z, and a graph that is kept."""
    z = torch.rand(x.shape, generator=generator, dtype=x.dtype).sub(0.5).sign()
    return torch.einsum("bd,bd->b", torch.func.jvp(f, (x,), (z,))[1].flatten(1), z.flatten(1))


def estimates(probe=signs, product=lambda row, z: (row * z).flatten(1).sum(1), second=None):
    """divergence_estimate with its probe, or what is made of z^T J, changed."""
    def answer(f, x, generator):
        z = probe(x, generator)
        row = row_of(f, x, z)
        return product(row, z if second is None else second(x, generator))
    return answer


def exact_divergence(f, x, generator):
    x = x.detach().requires_grad_()
    y = f(x).flatten(1)
    rows = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0].flatten(1)[:, k]
            for k in range(y.shape[1])]
    return torch.stack(rows).sum(0)


def marks_x(f, x, generator):
    x.requires_grad_()
    z = signs(x, generator)
    return (torch.autograd.grad((f(x) * z).sum(), x)[0] * z).flatten(1).sum(1)


def without_grad(f, x, generator):
    z = signs(x, generator)
    return (torch.autograd.grad((f(x) * z).sum(), x)[0] * z).flatten(1).sum(1)


def twice(f, x, generator):
    f(x)
    return divergence_estimate(f, x, generator)


def at_zero(f, x, generator):
    """Right for a linear f: J is taken at 0."""
    return divergence_estimate(f, torch.zeros_like(x), generator)


def uniform(x, generator):
    return 12**0.5 * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5)


def random_number(f, x, generator):
    return torch.randn(len(x), generator=generator, dtype=x.dtype)


DIVERGENCE = {
    "the wrong sign": estimates(product=lambda row, z: -(row * z).flatten(1).sum(1)),
    "that is the mean over the dimensions": estimates(
        product=lambda row, z: (row * z).flatten(1).mean(1)),
    "the probe is multiplied once only": estimates(product=lambda row, z: row.flatten(1).sum(1)),
    "the squared length": estimates(product=lambda row, z: row.square().flatten(1).sum(1)),
    "a second, independent probe": estimates(second=signs),
    "are 0 and 1": estimates(lambda x, g: torch.randint(0, 2, x.shape, generator=g).to(x)),
    "are -1/2 and 1/2": estimates(lambda x, g: signs(x, g) / 2),
    "marks or changes the x": marks_x,
    "from torch's global generator": estimates(lambda x, g: torch.randn_like(x).sign()),
    "one number for the whole batch": estimates(product=lambda row, z: (row * z).sum()),
    "those are the products": estimates(product=lambda row, z: row * z),
    "sum over all dimensions but the first": estimates(
        product=lambda row, z: (row * z).sum(1) if row.ndim == 2 else (row * z).sum((2, 3))),
    "expected shape (20000,); got (5,)": estimates(product=lambda row, z: (row * z).sum(0)),
    "exact divergence": exact_divergence,
    "one sign for all dimensions": estimates(
        lambda x, g: (torch.randint(0, 2, x.shape[:1], generator=g).to(x) * 2 - 1)[
            (..., *[None] * (x.ndim - 1))].expand_as(x)),
    "the same probe serves all": estimates(lambda x, g: signs(x[:1], g).expand_as(x)),
    "every example has the same divergence, 0.000": lambda f, x, g: torch.zeros(
        len(x), dtype=x.dtype),
    "normal probes": estimates(
        lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype)),
    "unbiased, but the variance is": estimates(uniform),
    "the mean of 20,000 estimates": random_number,
    "are not equally likely": estimates(
        lambda x, g: (torch.rand(x.shape, generator=g, dtype=x.dtype) - 0.3).sign()),
    "the same generator gave two different": estimates(
        lambda x, g: signs(x, torch.Generator().manual_seed(torch.seed() % 2**31))),
    "make no generator of your own": estimates(
        lambda x, g: signs(x, torch.Generator().manual_seed(0))),
    "autograd keeps no graph": without_grad,
    "once is enough": twice,
    "J is the Jacobian at x": at_zero,
    "are nan or inf": estimates(product=lambda row, z: (row * z).flatten(1).sum(1) / 0),
    "got float": lambda f, x, g: 1.0,
    "does it end with `return`": lambda *a: None,
}


