"""Lesson 4's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import math

import numpy as np
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_04 import (
    RIGHT as RIGHT_ANSWERS,
)
from test_checks_04 import (
    ddim_step,
    fit,
    heun,
    member,
    power,
    repaired,
    slope,
    steps_for,
    student_target,
)

from course_lib import Schedule, last, samplers
from course_lib.checks.common import one_thread

COSINE = Schedule.cosine()


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 4.1

def at_least_one(sampler, budget, guided):
    return max(1, steps_for(sampler, budget, guided))


# ---- 4.2

def step_with(schedule_of=lambda schedule: schedule, change=lambda x0_hat: x0_hat):
    """The right step with another schedule, or another x0_hat."""
    def answer(schedule, x, x0_hat, t, s, eta, z):
        return ddim_step(schedule_of(schedule), x, change(x0_hat), t, s, eta, z)
    return answer


def without_sigma(schedule):
    return Schedule(schedule.alpha, lambda t: (1 - schedule.alpha(t) ** 2).sqrt())


def as_alpha_bar(schedule):
    return Schedule(lambda t: schedule.alpha(t).sqrt(), lambda t: (1 - schedule.alpha(t)).sqrt())


def of_the_first(schedule, x, x0_hat, t, s, eta, z):                            # F23
    return ddim_step(schedule, x, x0_hat, t[:1].expand_as(t), s[:1].expand_as(s), eta, z)


def example_by_example(schedule, x, x0_hat, t, s, eta, z):
    """Right, in a loop."""
    return torch.stack([
        ddim_step(schedule, x[k:k + 1], x0_hat[k:k + 1], t[k:k + 1], s[k:k + 1], eta, z[k:k + 1])[0]
        for k in range(len(x))
    ])


# ---- 4.3

def clamped(anew=False):                                                        # F15
    """The right sampler, but for a clamped x0_hat."""
    def answer(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
        T = len(alpha_bar)
        indices = [k * T // steps - 1 for k in range(steps, 0, -1)]
        for i, j in zip(indices, [*indices[1:], None]):
            a = alpha_bar[i]
            b = torch.ones_like(a) if j is None else alpha_bar[j]
            eps = eps_net(x, i)
            x0_hat = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            if anew:
                eps = (x - a.sqrt() * x0_hat) / (1 - a).sqrt()
            v = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = b.sqrt() * x0_hat + (1 - b - v**2).sqrt() * eps + v * z
        return x
    return answer


def by_table(draw=None, ratio=lambda a, b: 1 - a / b, T=None):
    """The right sampler, but for the draw (x, generator) -> z, 1 - a / b, or T."""
    def answer(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
        size = T or len(alpha_bar)
        indices = [k * size // steps - 1 for k in range(steps, 0, -1)]
        for i, j in zip(indices, [*indices[1:], None]):
            a = alpha_bar[i]
            b = torch.ones_like(a) if j is None else alpha_bar[j]
            eps = eps_net(x, i)
            x0_hat = (x - (1 - a).sqrt() * eps) / a.sqrt()
            var = eta**2 * (1 - b) / (1 - a) * ratio(a, b)
            z = draw(x, generator) if draw else torch.randn(
                x.shape, generator=generator, dtype=x.dtype)
            toward = (1 - b - var).clamp(min=0).sqrt() * eps
            x = b.sqrt() * x0_hat + toward + var.clamp(min=0).sqrt() * z
        return x
    return answer


def second_draw(x, generator):
    torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)


def seeds(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):               # F3
    generator.manual_seed(0)
    return repaired()(eps_net, alpha_bar, x, steps, eta, generator)


def seeds_globally(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    torch.manual_seed(0)
    return repaired()(eps_net, alpha_bar, x, steps, eta, None)


def in_place(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    x *= 1.0001
    return repaired()(eps_net, alpha_bar, x / 1.0001, steps, eta, generator)


# ---- 4.4

def variance(var_x0=None, w_of=lambda w: w, ratio=lambda a, c: (a / c) ** 2):
    """(4.3), but for Var(x0 | x_t) (a, b, w), w, or the ratio in sigma_{t|s}^2."""
    def answer(schedule, t, s, w):
        a, b, c, d = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        w, var_ts = w_of(w), b**2 - ratio(a, c) * d**2
        of_x0 = var_x0(a, b, w) if var_x0 else (w * b) ** 2 / ((a * w) ** 2 + b**2)
        return (d / b) ** 2 * var_ts + (c * var_ts / b**2) ** 2 * of_x0
    return answer


# ---- 4.5

def with_threshold(least):
    """Heun's step, with every s below a threshold taken for 0."""
    def answer(D, schedule, x, t, s):
        return D(x, t) if s < least else heun()(D, schedule, x, t, s)
    return answer


def midpoint(D, schedule, x, t, s):                                             # F23
    if s == 0:
        return D(x, t)
    middle = x + (s - t) / 2 * slope(D, schedule, x, t)
    return x + (s - t) * slope(D, schedule, middle, (t + s) / 2)


# ---- 4.6

def of_last(count):                                                             # F13
    """The slope of a line through the last few good points; count(of how many)."""
    def answer(ns, errors, floor):
        keep = errors > 10 * floor
        k = count(int(keep.sum()))
        return fit(ns[keep][-k:], errors[keep][-k:])
    return answer


def order_with(keep=lambda e, f: e > 10 * f, steps_too=True):
    """The slope of the last two that are kept."""
    def answer(ns, errors, floor):
        kept = keep(errors, floor)
        return fit((ns[kept] if steps_too else ns)[-2:], errors[kept][-2:])
    return answer


def by_gradient(ns, errors, floor):
    """The last of the differences that lie above the floor."""
    keep = (errors > 10 * floor).numpy()
    x, y = np.log(ns.numpy()[keep]), np.log(errors.numpy()[keep])
    return -np.diff(y)[-1] / np.diff(x)[-1]


# ---- 4.8

def edit_with(schedule_of=lambda schedule: schedule, n_of=lambda n: n,
              before_of=lambda y: y, after_of=lambda before, after: after,
              down=samplers.ddim):
    """The edit, but for one of its parts."""
    def answer(D, schedule, x, before, after, n, strength):
        schedule = schedule_of(schedule)
        ts = samplers.timesteps(schedule, n_of(n), start=strength)
        z = last(samplers.ddim_invert(D, schedule, x, ts.flip(0), y=before_of(before)))
        return last(down(D, schedule, z, ts, y=after_of(before, after)))
    return answer


# ---- 4.9

def target_with(change=lambda target, c: target, middle=False):
    """The right target changed, or with m in the middle."""
    @torch.no_grad()
    def answer(D, schedule, x, t, m, s):
        target = student_target(D, schedule, x, t, (t + s) / 2 if middle else m, s)
        return change(target, (x, schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]))
    return answer


@torch.no_grad()
def one_by_one(D, schedule, x, t, m, s):
    """Right, in a loop."""
    return torch.cat([
        student_target(D, schedule, x[k:k + 1], t[k:k + 1], m[k:k + 1], s[k:k + 1])
        for k in range(len(x))
    ])


@torch.no_grad()
def target_of_the_first(D, schedule, x, t, m, s):                               # F23
    return student_target(D, schedule, x, *(r[:1].expand_as(r) for r in (t, m, s)))


WRONG = [
    ("4.1", "divide with //", lambda sampler, budget, guided: (
        steps_for(sampler, budget, guided) + 0.5 * (sampler == "heun"))),
    ("4.1", "heun: that is one evaluation a step",
     lambda sampler, budget, guided: np.int64(budget // (1 + guided))),
    ("4.2", "every example gets the levels of the first", of_the_first),
    ("4.2", "not sigma_s - v", member(kept=lambda d, v, tilde, eta: d - v)),
    ("4.2", "v is still to be squared", member(kept=lambda d, v, tilde, eta: (d**2 - v).sqrt())),
    ("4.2", "v is eta sigma_s", member(v=lambda a, b, c, d, eta: eta * d)),
    ("4.2", "is still to be squared",
     member(v=lambda a, b, c, d, eta: eta * d / b * (b**2 - a / c * d**2).sqrt())),
    ("4.3", "you clamp x0_hat to [-1, 1]; that is no repair", clamped()),
    ("4.3", "you clamp x0_hat to [-1, 1]; that is no repair", clamped(anew=True)),
    ("4.3", "two generators with two seeds give the same samples", seeds),
    ("4.3", "two generators with two seeds give the same samples", seeds_globally),
    ("4.3", "changes the x it was given", in_place),
    ("4.5", "that is the midpoint method", midpoint),
    ("4.5", "has half the length", heun(x_pred=lambda x, h, u: x + h / 2 * u)),
    ("4.5", "not 1/4 and 3/4", heun(combine=lambda x, h, u, u2: x + h * (u + 3 * u2) / 4)),
    ("4.9", "every example gets the levels of the first", target_of_the_first),
    ("4.1", "does not pay for a prediction", at_least_one),
    ("4.1", "not one evaluation more in all", lambda sampler, budget, guided: (
        steps_for(sampler, budget - guided, False))),
    ("4.2", "x0_hat is clamped", step_with(change=lambda x0_hat: x0_hat.clamp(-1, 1))),
    ("4.2", "sigma is computed from alpha", step_with(without_sigma)),
    ("4.2", "alpha is taken for alpha-bar", step_with(as_alpha_bar)),
    ("4.2", "the step of the cosine schedule", step_with(lambda schedule: COSINE)),
    ("4.3", "two draws in each step", by_table(second_draw)),
    ("4.3", "z is drawn in float32", by_table(lambda x, g: torch.randn(x.shape, generator=g))),
    ("4.3", "1 - a / b, the variance that this step added", by_table(ratio=lambda a, b: 1 - a)),
    ("4.3", "z has the factor 0", by_table(ratio=lambda a, b: 1 - b / a)),
    ("4.3", "an index lies outside the table", by_table(T=100)),
    ("4.4", "yours has 1 - alpha_t^2 in place of sigma_t^2", variance(
        lambda a, b, w: (w * b) ** 2 / ((a * w) ** 2 + 1 - a**2))),
    ("4.4", "for data of width 1", variance(w_of=torch.ones_like)),
    ("4.4", "the first w is used for all", variance(w_of=lambda w: w[0])),
    ("4.4", "your ratio is not squared", variance(ratio=lambda a, c: a / c)),
    ("4.5", "a small s is taken for 0", with_threshold(0.01)),
    ("4.5", "a small s is taken for 0", with_threshold(1e-3)),
    ("4.6", "but not the numbers of steps that belong to them", order_with(steps_too=False)),
    ("4.6", "are still among yours", order_with(lambda e, f: e > 2 * f)),
    ("4.6", "look at the floor", order_with(lambda e, f: e > f)),
    ("4.6", "comes out for every sampler", lambda ns, errors, floor: 2.0),
    ("4.6", "do not round", lambda *inputs: round(float(of_last(lambda n: 2)(*inputs)))),
    ("4.8", "the condition 1 - before", edit_with(after_of=lambda before, after: 1 - before)),
    ("4.8", "the inversion has the condition 0", edit_with(before_of=torch.zeros_like)),
    ("4.8", "you take 2 n steps each way", edit_with(n_of=lambda n: 2 * n)),
    ("4.8", "that is dpmpp on the way down", edit_with(down=samplers.dpmpp)),
    ("4.8", "the edit with the cosine schedule", edit_with(lambda schedule: COSINE)),
    ("4.9", "clamped to [-1, 1]", target_with(lambda target, c: target.clamp(-1, 1))),
    ("4.9", "the middle of t and s", target_with(middle=True)),
    ("4.9", "the target as a v", target_with(lambda p, c: (c[1] * c[0] - p) / c[2])),
]
RIGHT = [
    ("4.1", lambda *inputs: np.int64(steps_for(*inputs))),                      # F12
    ("4.1", lambda *inputs: np.float32(steps_for(*inputs))),
    ("4.1", lambda *inputs: np.array(steps_for(*inputs))),
    ("4.2", example_by_example),
    ("4.4", lambda *inputs: RIGHT_ANSWERS["4.4"](*inputs).numpy()),
    ("4.6", of_last(lambda n: 2)),
    ("4.6", of_last(lambda n: 3)),
    ("4.6", of_last(lambda n: math.ceil(n / 2))),
    ("4.6", of_last(lambda n: max(n // 2, 2))),
    ("4.6", by_gradient),
    ("4.3", by_table()),
    ("4.4", variance()),
    ("4.5", with_threshold(1e-9)),
    ("4.8", edit_with()),
    ("4.7", lambda: power(2, 0.95)().numpy()),
    ("4.7", lambda: [torch.tensor(t) for t in power(2, 0.95)().tolist()]),
    ("4.9", one_by_one),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer, 20 if name == "4.6" else 3)
