"""Lesson 6's checks: each solution is right, each stub is not attempted, and each plausible mistake
gets its own diagnosis.
"""
import math
from pathlib import Path

import pytest
import torch
from catalogues import (
    ODD,
    assert_own_diagnoses,
    assert_random_numbers_are_left_alone,
    assert_refused_in_one_sentence,
    cases,
    stub,
    verdicts,
)
from scipy.optimize import linear_sum_assignment

import course_lib
from course_lib import Schedule, last, samplers, sde, timesteps
from course_lib.checks import Checker, lesson06
from course_lib.checks.common import fresh_generator, one_thread
from course_lib.checks.lesson06 import KINDS, QUESTIONS
from course_lib.lab import data
from course_lib.schedules import append_dims

LESSONS = Path(__file__).parents[1] / "lessons"
NAME = "06_advanced_techniques_exercises.py"
SHEET = LESSONS / NAME
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
    "the same generator gave two different": estimates(lambda x, g: signs(x, fresh_generator())),
    "make no generator of your own": estimates(
        lambda x, g: signs(x, torch.Generator().manual_seed(0))),
    "autograd keeps no graph": without_grad,
    "once is enough": twice,
    "J is the Jacobian at x": at_zero,
    "are nan or inf": estimates(product=lambda row, z: (row * z).flatten(1).sum(1) / 0),
    "got float": lambda f, x, g: 1.0,
    "does it end with `return`": lambda *a: None,
}


# ---- 6.3

def bits_per_dimension(log_prob, pixels, generator):
    u = torch.rand(pixels.shape, generator=generator) - 0.5
    x = (pixels + u) / 127.5 - 1
    return -log_prob(x) / math.log(2) / x[0].numel() + math.log2(127.5)


def bits_of_three(log_prob, pixels, generator):
    """Right, averaged over three draws of the noise, in the unit of x."""
    bits = 0.0
    for _ in range(3):
        u = torch.rand(pixels.shape, generator=generator, dtype=torch.float64)
        x = pixels / 127.5 - 1 + (2 * u - 1) / 255
        bits = bits - log_prob(x) / 3
    return (bits / pixels[0].numel() - math.log(2 / 255)) / math.log(2)


def reverse_step(D, schedule, x, t, s, level, z):
    f, g, h = sde.drift(schedule, t), sde.diffusion(schedule, t), t - s
    slope = f * x - (1 + level**2) / 2 * g**2 * sde.score(D, schedule, x, t)
    return x - h * slope + level * g * h.sqrt() * z


def reverse_step_by_parts(D, schedule, x, t, s, level, z):
    """Right, as a step of the ODE, a step of Langevin dynamics, and noise."""
    h, g2 = t - s, sde.diffusion(schedule, t) ** 2
    force = (schedule.alpha(t) * D(x, t) - x) / schedule.sigma(t) ** 2
    ode = -h * (schedule.d_alpha(t) / schedule.alpha(t) * x - g2 / 2 * force)
    return x + ode + level**2 * g2 * h / 2 * force + level * (g2 * h) ** 0.5 * z


def bits(x=None, noise=None, result=None):
    """Both functions, with bits_per_dimension changed.

    x: of (pixels, u); noise: of (pixels, generator); result: of (nats, dimensions).
    """
    def answer(log_prob, pixels, generator):
        draw = noise or (lambda pixels, g: torch.rand(pixels.shape, generator=g) - 0.5)
        place = x or (lambda pixels, u: (pixels + u) / 127.5 - 1)
        end = result or (lambda nats, d: -nats / math.log(2) / d + math.log2(127.5))
        return end(log_prob(place(pixels, draw(pixels, generator))), pixels[0].numel())
    return answer, reverse_step


def of_result(end):
    return bits(result=end)


def step(x=lambda x, g, h, level, z: x, push=lambda g, level: (1 + level**2) / 2 * g**2,
         std=lambda g, h, level: level * g * h.sqrt(), drift=1, sign=1):
    """Both functions, with reverse_step changed: x before the score, the score's factor, noise."""
    def answer(D, schedule, start, t, s, level, z):
        f, g, h = sde.drift(schedule, t), sde.diffusion(schedule, t), t - s
        at = x(start, g, h, level, z)
        slope = drift * f * at - push(g, level) * sde.score(D, schedule, at, t)
        return at - sign * h * slope + std(g, h, level) * z
    return bits_per_dimension, answer


def changes_pixels(log_prob, pixels, generator):
    pixels += 1
    return bits_per_dimension(log_prob, pixels - 1, generator)


def without_log_prob(log_prob, pixels, generator):
    return torch.ones(len(pixels))


def of_one_picture(log_prob, pixels, generator):
    return bits_per_dimension(log_prob, pixels[:1], generator)


def rand(*shape):
    """Uniform noise of a batch shape with some dimensions 1."""
    return lambda pixels, g: torch.rand([n or pixels.shape[k] for k, n in enumerate(shape)],
                                        generator=g) - 0.5


add_first = lambda x, g, h, level, z: x + g * h.sqrt() * z
add_level_first = lambda x, g, h, level, z: x + level * g * h.sqrt() * z
no_noise = lambda g, h, level: 0.0

TWO_FUNCTIONS = {
    "log_prob is never called": (without_log_prob, reverse_step),
    "pictures (60, 1, 6, 6) are wanted": (of_one_picture, reverse_step),
    "changes the pixels": (changes_pixels, reverse_step),
    "without dequantisation noise": bits(noise=lambda pixels, g: 0.0),
    "yours lie in [0, 1]": bits(lambda pixels, u: (pixels + u) / 255),
    "yours lie in [0, 256]": bits(lambda pixels, u: pixels + u),
    "the noise is added to x, where": bits(lambda pixels, u: pixels / 127.5 - 1 + u),
    "u lies in [0, 1]": bits(
        noise=lambda pixels, g: torch.rand(pixels.shape, generator=g)),
    "one number is added to all pixels": bits(noise=rand(None, 1, 1, 1)),
    "all pictures get the same noise": bits(noise=rand(1, None, None, None)),
    "a bin is 1 wide": bits(
        noise=lambda pixels, g: torch.randn(pixels.shape, generator=g)),
    "not uniform over the bin": bits(noise=lambda pixels, g: (
        torch.rand(pixels.shape, generator=g) - torch.rand(pixels.shape, generator=g)) / 2),
    "bits: the draws come from torch's global": bits(
        noise=lambda pixels, g: torch.rand(pixels.shape) - 0.5),
    "8 is the offset of data in [0, 1]": of_result(lambda nats, d: -nats / math.log(2) / d + 8),
    "8 is subtracted": of_result(lambda nats, d: -nats / math.log(2) / d - 8),
    "no offset is left": of_result(lambda nats, d: -nats / math.log(2) / d),
    "the offset is subtracted": of_result(
        lambda nats, d: -nats / math.log(2) / d - math.log2(127.5)),
    "7 is the offset of bins": of_result(lambda nats, d: -nats / math.log(2) / d + 7),
    "log2(255) is the offset": of_result(
        lambda nats, d: -nats / math.log(2) / d + math.log2(255)),
    "the offset is in nats": of_result(
        lambda nats, d: -nats / math.log(2) / d + math.log(127.5)),
    "those are nats per dimension": of_result(lambda nats, d: -nats / d + math.log(127.5)),
    "the density is in nats still": of_result(lambda nats, d: -nats / d + math.log2(127.5)),
    "is multiplied by log 2": of_result(
        lambda nats, d: -nats * math.log(2) / d + math.log2(127.5)),
    "bits: not divided by the number": of_result(
        lambda nats, d: -nats / math.log(2) + d * math.log2(127.5)),
    "the density is not divided": of_result(
        lambda nats, d: -nats / math.log(2) + math.log2(127.5)),
    "and is not divided by their number": of_result(
        lambda nats, d: (-nats / math.log(2) + math.log2(127.5)) / d),
    "the sign of log_prob": of_result(
        lambda nats, d: nats / math.log(2) / d + math.log2(127.5)),
    "as it came, in nats": of_result(lambda nats, d: nats),
    "x is right, the number is not": of_result(lambda nats, d: 0 * nats + 3),
    "expected shape (60,)": of_result(lambda nats, d: nats.mean()),
    "bits: the same generator gave": bits(
        noise=lambda pixels, g: torch.rand(pixels.shape, generator=fresh_generator()) - 0.5),
    "bits: two generators with two seeds": bits(noise=lambda pixels, g: torch.rand(
        pixels.shape, generator=torch.Generator().manual_seed(0)) - 0.5),
    "the noise enters twice still": step(add_first),
    "step: the noise is added before the score": step(add_first, std=no_noise),
    "lambda g sqrt(h) z is added before": step(add_level_first, std=no_noise),
    "both noises are added at the end": step(
        std=lambda g, h, level: (1 + level) * g * h.sqrt()),
    "the noise is g sqrt(h) z, whatever": step(std=lambda g, h, level: g * h.sqrt()),
    "no noise is left": step(std=no_noise),
    "scaled by lambda^2": step(std=lambda g, h, level: level**2 * g * h.sqrt()),
    "scaled by h;": step(std=lambda g, h, level: level * g * h),
    "scaled by g^2;": step(std=lambda g, h, level: level * g**2 * h.sqrt()),
    "scaled by sqrt(1 + lambda^2)": step(
        std=lambda g, h, level: (1 + level**2) ** 0.5 * g * h.sqrt()),
    "the score's factor is the ODE's": step(push=lambda g, level: g**2 / 2),
    "right for lambda = 1 only": step(push=lambda g, level: g**2),
    "has lambda, not lambda^2": step(push=lambda g, level: (1 + level) / 2 * g**2),
    "the score's factor has g;": step(push=lambda g, level: (1 + level**2) / 2 * g),
    "the score has the wrong sign": step(push=lambda g, level: -(1 + level**2) / 2 * g**2),
    "time runs the wrong way": step(sign=-1),
    "the drift f x is missing": step(drift=0),
    "the score is missing": step(push=lambda g, level: 0),
    "step: x has not changed": (bits_per_dimension, lambda D, S, x, *a: x),
    "with f, g and the score at t": (
        bits_per_dimension, lambda D, S, x, t, s, *a: samplers.step(S, x, D(x, t), t, s)),
    "bits_per_dimension is not attempted": (stub, reverse_step),
    "reverse_step is not attempted": (bits_per_dimension, stub),
    "both functions are wanted": bits_per_dimension,
    "does it end with `return`": (lambda *a: None, reverse_step),
}

# ---- 6.4


def own_time(D, t):
    return D.schedule.t_from_log_snr(FLOW.log_snr(t))


def as_flow(D):
    def view(x, t, **condition):
        t = torch.as_tensor(t, dtype=torch.float64)
        ratio = ((1 - t) ** 2 + t**2).rsqrt()
        return D(append_dims(ratio, x) * x, own_time(D, t), **condition)
    return view


def as_flow_by_bisection(D):
    """Right, with a bisection of its own, and the library's two ratios."""
    def find(t):
        wanted = (1 - t) / t.clamp(min=1e-300)
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(50):
            middle = (low + high) / 2
            clean = D.schedule.alpha(middle) / D.schedule.sigma(middle) > wanted
            low, high = torch.where(clean, middle, low), torch.where(clean, high, middle)
        return torch.where(t == 0, 0.0, high)

    def view(x, t, **condition):
        t = torch.as_tensor(t, dtype=torch.float64)
        own = find(t)
        by_alpha, by_sigma = D.schedule.alpha(own) / (1 - t), D.schedule.sigma(own) / t
        return D(append_dims(torch.where(t < 0.5, by_alpha, by_sigma), x) * x, own, **condition)
    view.schedule = Schedule.flow()
    return view


class AsFlow:
    """Right: an object that can be called."""

    def __init__(self, D):
        self.view = as_flow(D)

    def __call__(self, x, t, **condition):
        return self.view(x, t, **condition)


def converts(scale=None, time=own_time, result=lambda out, x, t, r: out, dims=append_dims):
    """as_flow with parts changed: scale and time are functions of (D, t)."""
    right = lambda D, t: D.schedule.alpha(own_time(D, t)) / FLOW.alpha(t)

    def answer(D):
        def view(x, t, **condition):
            t = torch.as_tensor(t, dtype=torch.float64)
            r = (scale or right)(D, t)
            out = D(dims(torch.as_tensor(r), x) * x, time(D, t), **condition)
            return result(out, x, append_dims(t, x), append_dims(torch.as_tensor(r), x))
        return view
    return answer


def safe(scale=None, time=own_time, **parts):
    """converts, with a time and ratio that are right at both ends of the flow."""
    ratio = lambda D, t: ((1 - t) ** 2 + t**2).rsqrt()
    return converts(scale or ratio, time, **parts)


same_time = lambda D, t: t
alphas = lambda D, own, t: D.schedule.alpha(own) / FLOW.alpha(t)


def own_at(change):
    """A time of D's own at another log-SNR, and the ratio that belongs to it."""
    time = lambda D, t: D.schedule.t_from_log_snr(change(FLOW.log_snr(t), t))
    return converts(lambda D, t: alphas(D, time(D, t), t), time)


def keeps_schedule(D):
    view = as_flow(D)
    wrapped = lambda x, t, **condition: view(x, t, **condition)
    wrapped.schedule = D.schedule
    return wrapped


def clean_end(D):
    """Right but at t = 1: 0 there."""
    view = as_flow(D)
    return lambda x, t, **c: view(x, t, **c) * append_dims((torch.as_tensor(t) < 1).double(), x)


def only_inside(D):
    """Right for float64 tensors of one dimension; ddim's scalars get another answer."""
    view = as_flow(D)
    return lambda x, t, **c: view(x, t, **c) * (1 if t.ndim or t in (0.0, 1.0) or t < 0.42 else 2)


CONVERSION = {
    "that is D as it is": converts(lambda D, t: 1.0, same_time),
    "x is rescaled, but the time": safe(time=same_time),
    "the time is right, but x still": converts(lambda D, t: 1.0),
    "the ratio of the alphas is upside down": converts(
        lambda D, t: 1 / alphas(D, own_time(D, t), t)),
    "the ratio is squared": converts(lambda D, t: alphas(D, own_time(D, t), t) ** 2),
    "neither is right": converts(lambda D, t: alphas(D, t, t), same_time),
    "takes D's own alpha at the flow's t": converts(lambda D, t: alphas(D, t, t)),
    "is half of the log-SNR": own_at(lambda log_snr, t: log_snr / 2),
    "that is twice the log-SNR": own_at(lambda log_snr, t: 2 * log_snr),
    "the log-SNR has the wrong sign": own_at(lambda log_snr, t: -log_snr),
    "you look for an equal sigma": own_at(lambda log_snr, t: (1 - t**2).log() - 2 * t.log()),
    "the prediction is multiplied": safe(result=lambda out, x, t, r: r * out),
    "the prediction is divided": safe(result=lambda out, x, t, r: out / r),
    "that is the velocity": safe(result=lambda out, x, t, r: (x - out) / t),
    "the condition is not passed on": lambda D: lambda x, t, **c: as_flow(D)(x, t),
    "x has not changed": lambda D: lambda x, t, **c: x.clone(),
    "nan or inf at t = 1": converts(),
    "nan or inf at t = 0": converts(
        lambda D, t: D.schedule.sigma(own_time(D, t)) / FLOW.sigma(t)),
    "but not at t = 1": clean_end,
    "coefficients of shape (B,) meet x": safe(dims=lambda r, x: r),
    "its schedule is D's": keeps_schedule,
    "not inside ddim": only_inside,
    "Where is D's own alpha": safe(result=lambda out, x, t, r: out + 0.3),
    "got None": lambda D: None,
    "got Tensor": lambda D: torch.zeros(6, 2),
    "does it end with `return`?": lambda D: lambda x, t, **c: None,
}


# ---- 6.5

def far(real, drawn):
    """The distance of each model's mean from the data's."""
    return {name: (x.mean(0) - real.mean(0)).norm().item() for name, x in drawn.items()}


def wide(real, drawn):
    """The deviation of each model over the data's."""
    return {name: (x.std(0) / real.std(0)).mean().item() for name, x in drawn.items()}


def most(values):
    return max(values, key=values.get)


def least(values):
    return min(values, key=values.get)


def forgotten(real, drawn):
    distances = far(real, drawn)
    if max(distances.values()) > 0.25:
        return most(distances), "too large"
    return least(wide(real, drawn)), "too small"


def forgotten_by_quantiles(real, drawn):
    """Right, with the product of the deviations, then with medians and quartiles."""
    points = torch.tensor([0.25, 0.5, 0.75]).double()
    of = lambda x: torch.quantile(x, points, dim=0)
    size = lambda x: x.std(0).prod()
    small = {name: (size(x) / size(real)).item() for name, x in drawn.items()}
    if min(small.values()) < 0.53:
        return [least(small), "too small"]
    off = {name: (of(x) - of(real)).mean(0).norm().item() for name, x in drawn.items()}
    return [most(off), "too large"]


def says(change):
    """forgotten with its answer changed: change(name, kind)."""
    return lambda real, drawn: change(*forgotten(real, drawn))


def half_right(real, drawn):
    """Right where the latents are too large; another model where they are too small."""
    name, kind = forgotten(real, drawn)
    return (name if kind == "too large" else "AB"[name == "A"]), kind


FORGOTTEN = {
    "the two kinds have changed places": says(lambda name, kind: (name, KINDS[kind == KINDS[0]])),
    'but you always say "too large"': says(lambda name, kind: (name, "too large")),
    'but you always say "too small"': says(lambda name, kind: (name, "too small")),
    "half of the time it is the other": lambda real, drawn: (
        most({name: -value for name, value in far(real, drawn).items()}), "too small"),
    "you take the largest deviation": lambda real, drawn: (
        most(wide(real, drawn)), "too large"),
    "whose mean is furthest off": lambda real, drawn: (most(far(real, drawn)), "too large"),
    "in six cases out of six": lambda real, drawn: ("B", "too small"),
    "of 6 cases are right": half_right,
    "the first must be one of": says(lambda name, kind: ("model " + name, kind)),
    "the second must be": says(lambda name, kind: (name, kind[4:])),
    "two things are wanted, the name": says(lambda name, kind: name),
    "does it end with `return`": lambda *a: None,
}

# ---- 6.6


def costs(x0, eps):
    return torch.cdist(x0.flatten(1), eps.flatten(1)).square()


def assigned(cost, **options):
    return torch.as_tensor(linear_sum_assignment(cost, **options)[1])


def couple(x0, eps):
    return eps[assigned(costs(x0, eps))]


def couple_by_products(x0, eps):
    """Right, with the largest sum of products, since the squares add up to the same."""
    products = x0.flatten(1) @ eps.flatten(1).T
    return eps[assigned(products, maximize=True)]


def couples(columns):
    """couple with another choice of columns, from (x0, eps), both flattened."""
    return lambda x0, eps: eps[columns(x0.flatten(1), eps.flatten(1))]


def one_by_one(x0, eps):
    left = costs(x0, eps)
    columns = []
    for row in left:
        columns.append(row.argmin())
        left[:, columns[-1]] = math.inf
    return torch.stack(columns)


def by_rank(key):
    return couples(lambda x0, eps: key(eps).argsort()[key(x0).argsort().argsort()])


def in_place(x0, eps):
    eps[:] = couple(x0, eps)
    return eps


def of_points(x0, eps):
    return eps[assigned(torch.cdist(x0, eps).square())]


COUPLING = {
    "eps has not changed": lambda x0, eps: eps.clone(),
    "rows and columns have changed places": couples(
        lambda x0, eps: assigned(costs(eps, x0))),
    "each x0 takes the nearest noise": couples(lambda x0, eps: costs(x0, eps).argmin(1)),
    "each noise takes the nearest x0": couples(lambda x0, eps: costs(x0, eps).argmin(0)),
    "one after the other": couples(one_by_one),
    "the distances are not squared": couples(
        lambda x0, eps: assigned(torch.cdist(x0, eps))),
    "the squares are squared": couples(lambda x0, eps: assigned(costs(x0, eps) ** 2)),
    "sorted by their first coordinate": by_rank(lambda x: x[:, 0]),
    "sorted by their length": by_rank(lambda x: x.norm(dim=1)),
    "sorted by their sum": by_rank(lambda x: x.sum(1)),
    "the most expensive assignment": couples(
        lambda x0, eps: assigned(costs(x0, eps), maximize=True)),
    "those are the x0": lambda x0, eps: x0.clone(),
    "that is the cost": lambda x0, eps: (couple(x0, eps) - x0).square().sum(),
    "return eps alone": lambda x0, eps: (x0, couple(x0, eps)),
    "expected shape (12, 2); got (11, 2)": lambda x0, eps: couple(x0, eps).tolist()[1:],
    "those are the indices": lambda x0, eps: assigned(costs(x0, eps)),
    "changes the tensors it was given": in_place,
    "flatten them for the distances": of_points,
    "no rows of eps": lambda x0, eps: couple(x0, eps) + 0.1,
    "some noises come twice": lambda x0, eps: eps[[0] * len(eps)],
    "is possible": lambda x0, eps: couple(x0, eps).roll(1, 0),
    "are nan or inf": lambda x0, eps: couple(x0, eps) / 0,
    "does it end with `return`": lambda *a: None,
}

# ---- 6.7

CHANNELS = {
    "channel 2 has collapsed": lambda: list(range(8)),
    "channel 3 has collapsed": lambda: [0, 1, 3, 4, 5, 6, 7],
    "channel 4 may go, too": lambda: [0, 1, 4, 5, 6, 7],
    "those are the channels to leave out": lambda: [2, 3, 4],
    "there is no channel 8": lambda: [1, 2, 6, 7, 8],
    "there is no channel -1": lambda: [0, -1],
    "'glasses' is right in": lambda: [0, 1, 6, 7],
    "'accessory' is right in": lambda: [0, 1, 5, 7],
    "a channel comes twice": lambda: [0, 0, 1, 5, 6, 7],
    "without any channel": lambda: [],
    "and not how many": lambda: 5,
    "a list of channels is wanted": lambda: ["0", "1"],
    "does it end with `return`": lambda: None,
}

RIGHT = {
    "6.1": reverse_gaussian,
    "6.2": divergence_estimate,
    "6.3": (bits_per_dimension, reverse_step),
    "6.4": as_flow,
    "6.5": forgotten,
    "6.6": couple,
    "6.7": lambda: [0, 1, 5, 6, 7],
}
OTHER_STYLE = {
    "6.1": reverse_gaussian_by_posterior,
    "6.2": divergence_forwards,
    "6.3": [bits_of_three, reverse_step_by_parts],
    "6.4": as_flow_by_bisection,
    "6.5": forgotten_by_quantiles,
    "6.6": couple_by_products,
    "6.7": torch.tensor([7, 6, 5, 1, 0]),
}
THIRD_STYLE = {
    "6.4": AsFlow,
    "6.7": {0, 1, 5, 6, 7},
}
WRONG = {
    "6.1": GAUSSIAN,
    "6.2": DIVERGENCE,
    "6.3": TWO_FUNCTIONS,
    "6.4": CONVERSION,
    "6.5": FORGOTTEN,
    "6.6": COUPLING,
    "6.7": CHANNELS,
}
STUBS = {"6.3": (stub, stub)}
CASES = cases(WRONG)
verdict = verdicts(WRONG)


@pytest.mark.parametrize("name, diagnosis", CASES)
def test_wrong(name, diagnosis):
    passed, said = verdict(name, diagnosis)
    assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("style", [RIGHT, OTHER_STYLE, THIRD_STYLE],
                         ids=["right", "other style", "third style"])
def test_right(capsys, name, style):
    check = Checker()
    for _ in range(5 if name in style else 0):  # the checks draw new numbers each time
        check(name, style[name])
        assert check.passed(name), capsys.readouterr().out


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert len(CASES) >= 60 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        for answer in (stub, STUBS.get(q.name, stub)):
            check(q.name, answer)
            assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) >= 2
    assert sum(q.points for q in QUESTIONS) == 23


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    assert_refused_in_one_sentence(name, [*ODD, *((odd, odd) for odd in ODD)])


def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT, OTHER_STYLE)


def test_the_reverse_gaussian_keeps_the_marginal_and_ends_in_andersons_process():
    """6.1: factor^2 Var_t + variance = Var_s; and for small steps (factor, variance) are those of
    the reverse SDE.
    """
    t, v = torch.tensor([0.3, 0.5, 0.8]).double(), torch.tensor([0.3, 0.5, 0.7]).double()
    h = 1e-5
    factor, variance = reverse_gaussian(FLOW, v, t, t - h)
    total = factor**2 * var(FLOW, v, t) + variance
    torch.testing.assert_close(total, var(FLOW, v, t - h))
    f, g2 = sde.drift(FLOW, t), sde.diffusion(FLOW, t) ** 2
    torch.testing.assert_close((1 - factor) / h, f + g2 / var(FLOW, v, t), rtol=1e-3, atol=0)
    torch.testing.assert_close(variance / h, g2, rtol=1e-3, atol=0)


def test_hutchinson_is_the_librarys():
    """6.2 with the probe that the library is given, and the two variances of the lesson."""
    c = lesson06.draw_field()
    x = torch.randn(4, 5).double().requires_grad_()
    z = signs(x, torch.Generator().manual_seed(3))
    mine = divergence_estimate(c.f, x, torch.Generator().manual_seed(3))
    torch.testing.assert_close(mine, sde.divergence(c.f(x), x, z))
    assert torch.allclose(c.right.var(correction=0), c.variance)
    assert torch.allclose(c.right.mean(), c.trace)


def test_the_repaired_step_is_the_librarys():
    """6.3's step against sde.euler_maruyama, and bits against a mass that is known: a density that
    is uniform over [-1, 1] and half a bin more has log2(256) bits.
    """
    D = data.GaussianMixture([[0.5, 0.2], [-0.5, 0.1]], 0.2).denoiser(FLOW)
    x = torch.randn(6, 2).double()
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t, s = torch.tensor([0.6, 0.5]).double()
    walk = sde.euler_maruyama(D, FLOW, x, torch.stack([t, s]), noise_level=0.7,
                              generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(reverse_step(D, FLOW, x, t, s, 0.7, z), last(walk))
    even = lambda x: torch.full((len(x),), -12 * math.log(256 / 127.5)).double()
    pixels = torch.randint(0, 256, (3, 12))
    found = bits_per_dimension(even, pixels, torch.Generator())
    torch.testing.assert_close(found, torch.full((3,), 8.0).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgotten_scale_shows(kind):
    """6.5: the two symptoms, in thirty toys: each model that did not forget is on the other side.

    What the sheet says: too large, and the mean is off; too small, and the deviation is.
    """
    for _ in range(30):
        c = lesson06.draw_models(kind)
        distances, deviations = far(c.real, c.drawn), wide(c.real, c.drawn)
        others = [name for name in c.drawn if name != c.name]
        assert max(distances[name] for name in others) < 0.25
        assert min(deviations[name] for name in others) > 0.85
        assert (distances[c.name] > 0.25) == (kind == "too large")
        assert kind == "too large" or deviations[c.name] < 0.78


def test_the_scale_is_all_that_differs():
    """6.5: with c = 1, and with many steps from enough noise, nobody forgot anything."""
    mixture = lesson06.toy_latents()
    real = mixture.sample(4000, seed=1).double()
    for c in (0.2, 1.0):
        x = lesson06.sample_latents(mixture, c, 4000, seed=2, steps=500)
        assert abs((x.std(0) / real.std(0)).mean() - 1) < 0.08
        assert (x.mean(0) - real.mean(0)).norm() < 0.2


def test_five_channels_are_the_fewest():
    """6.7: no other set of five channels that are used suffices, so none of four does."""
    used = {0, 1, 4, 5, 6, 7}
    assert set(lesson06.latents_of_test_split()[2].gt(1).nonzero().flatten().tolist()) == used
    enough = [k for k in used if lesson06.sufficient(frozenset(used - {k}))]
    assert enough == [4]


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures; 6.8 to 6.12 are in
    test_checks_06_data.py.
    """
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {
        "check": Checker(),
        "torch": torch,
        "math": math,
        "Schedule": Schedule,
        "sde": sde,
        "linear_sum_assignment": linear_sum_assignment,
        "append_dims": append_dims,
        "timesteps": timesteps,
        "course_lib": course_lib,
    }
    wanted = {f"{kind}:6.{k}" for k in range(1, 8) for kind in ("answer", "check")}
    for cell in jupytext.read(SHEET).cells:
        if wanted & set(cell.metadata.get("tags", [])):
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(f"6.{k}") for k in range(1, 8))
