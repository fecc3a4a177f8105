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

from course_lib.checks.common import one_thread


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 4.2

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


def seeds(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):               # F3
    generator.manual_seed(0)
    return repaired()(eps_net, alpha_bar, x, steps, eta, generator)


def seeds_globally(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    torch.manual_seed(0)
    return repaired()(eps_net, alpha_bar, x, steps, eta, None)


def in_place(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    x *= 1.0001
    return repaired()(eps_net, alpha_bar, x / 1.0001, steps, eta, generator)


# ---- 4.5

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


def by_gradient(ns, errors, floor):
    """The last of the differences that lie above the floor."""
    keep = (errors > 10 * floor).numpy()
    x, y = np.log(ns.numpy()[keep]), np.log(errors.numpy()[keep])
    return -np.diff(y)[-1] / np.diff(x)[-1]


# ---- 4.9

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
