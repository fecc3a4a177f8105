"""Lesson 4's checks.

Each solution is right, each stub is not attempted, each plausible mistake gets its own diagnosis.
"""
import math
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from catalogues import (
    assert_own_diagnoses,
    assert_random_numbers_are_left_alone,
    assert_refused_in_one_sentence,
    cases,
    stub,
    verdicts,
)

from course_lib import Schedule, samplers
from course_lib.checks import Checker
from course_lib.checks.common import one_thread
from course_lib.checks.lesson04 import (
    BUMPS,
    COSINE,
    GOOD_ENOUGH,
    MEASURED,
    QUESTIONS,
    UNIT,
    measured,
    timesteps_error,
)
from course_lib.samplers import ddim_invert, last, timesteps
from course_lib.schedules import append_dims

SHEET = Path(__file__).parents[1] / "lessons/04_sampling_generation_exercises.py"


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 4.1

def steps_for(sampler, budget, guided):
    calls = budget // (1 + guided)
    return -(-calls // 2) if sampler == "heun" else calls


def steps_by_floor(sampler, budget, guided):
    """Right, as a tensor."""
    calls = budget // 2 if guided else budget
    return torch.tensor(math.floor((calls + 1) / 2 if sampler == "heun" else calls))


def for_one(name, change, when=None):
    """The right answer, but for one sampler (and only with or without guidance)."""
    def answer(sampler, budget, guided):
        if sampler == name and when in (None, guided):
            return change(budget, budget // (1 + guided))
        return steps_for(sampler, budget, guided)
    return answer


def by_price(guided_price, unguided_price=1):
    """The right answer, but for the cost of a prediction."""
    def answer(sampler, budget, guided):
        price = guided_price if guided else unguided_price
        return steps_for(sampler, int(budget / price), False)
    return answer


STEPS = {
    "it evaluates a second time": for_one("heun", lambda b, c: c),
    "so n steps cost 2 n - 1, and an odd evaluation": for_one("heun", lambda b, c: c // 2),
    "that is what so many steps cost": for_one("heun", lambda b, c: 2 * c - 1),
    "first find how many predictions": for_one("heun", lambda b, c: (b + 1) // 2 // 2, True),
    "the corrector's evaluation is the next step's": for_one("unipc", lambda b, c: c // 2),
    "the first prediction is paid by the last step": for_one("unipc", lambda b, c: c - 1),
    "its second prediction is an old one": for_one("dpmpp", lambda b, c: c // 2),
    "a guided prediction costs two evaluations": by_price(1),
    "you multiply the budget by two": by_price(0.5),
    "three for a prediction is too much": by_price(3),
    "you halve the budget": by_price(2, 2),
    "ddim, guided: you round up": for_one("ddim", lambda b, c: -(-b // 2), True),
    "heun: you round up": for_one("heun", lambda b, c: (c + 2) // 2),
    "dpmpp: that is the number of timesteps": for_one("dpmpp", lambda b, c: c + 1),
    "divide with //": for_one("heun", lambda b, c: (c + 1) / 2),
    "count the calls of the denoiser": for_one("ddim", lambda b, c: 10),
    "does it end with `return`": lambda sampler, budget, guided: None,
    "your answer raised KeyError": lambda sampler, budget, guided: {"ddim": budget}[sampler],
}

# ---- 4.2


def four(schedule, t, s):
    """alpha_t, sigma_t, alpha_s, sigma_s."""
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


def coefficients(schedule, t, s, x):
    """The four, for x of any shape."""
    return [c.view(-1, *[1] * (x.ndim - 1)) for c in four(schedule, t, s)]


def ddim_step(schedule, x, x0_hat, t, s, eta, z):
    a, b, c, d = coefficients(schedule, t, s, x)
    v = eta * d / b * (b**2 - (a / c * d) ** 2).sqrt()
    return c * x0_hat + (d**2 - v**2).sqrt() * (x - a * x0_hat) / b + v * z


def by_library(schedule, x, x0_hat, t, s, eta, z):
    """Right, from the library's step without noise, in single precision."""
    a, b, c, d = (append_dims(q, x) for q in four(schedule, t, s))
    variance = eta**2 * (d / b) ** 2 * (b * b - (a * d / c) ** 2)
    x_s = samplers.step(schedule, x, x0_hat, t, s)
    x_s = x_s + ((d * d - variance).sqrt() - d) * ((x - a * x0_hat) / b)
    return (x_s + variance.sqrt() * z).float()


def member(v=None, kept=None, drawn=None, eps=None, front=None, shape=coefficients):
    """ddim_step with one part changed.

    Each part is a function of (alpha_t, sigma_t, alpha_s, sigma_s) and what it needs.
    """
    def answer(schedule, x, x0_hat, t, s, eta, z):
        q = a, b, c, d = shape(schedule, t, s, x)
        tilde = d / b * (b**2 - (a / c * d) ** 2).sqrt()
        std = v(*q, eta) if v else eta * tilde
        noise = eps(*q, x, x0_hat) if eps else (x - a * x0_hat) / b
        rest = kept(d, std, tilde, eta) if kept else (d**2 - std**2).sqrt()
        new = drawn(std, tilde, eta) if drawn else std
        return (front(*q) if front else c) * x0_hat + rest * noise + new * z
    return answer


def for_images(schedule, t, s, x):
    return [q.view(-1, 1, 1, 1) for q in four(schedule, t, s)]


def unshaped(schedule, t, s, x):
    return four(schedule, t, s)


def with_an_if(schedule, x, x0_hat, t, s, eta, z):
    return ddim_step(schedule, x, x0_hat, t, s, eta, z) if s > 0 else x0_hat


def in_place(schedule, x, x0_hat, t, s, eta, z):
    a, b, c, d = coefficients(schedule, t, s, x)
    x -= a * x0_hat
    return ddim_step(schedule, x + a * x0_hat, x0_hat, t, s, eta, z)


def over_alpha(schedule, x, x0_hat, t, s, eta, z):
    a, *_ = coefficients(schedule, t, s, x)
    return ddim_step(schedule, (x / a) * a, x0_hat, t, s, eta, z)


def over_sigma(schedule, x, x0_hat, t, s, eta, z):
    *_, d = coefficients(schedule, t, s, x)
    return ddim_step(schedule, x, x0_hat, t, s, eta, z) / d * d


def noisy_end(schedule, x, x0_hat, t, s, eta, z):
    *_, b, _, d = coefficients(schedule, t, s, x)
    return ddim_step(schedule, x, x0_hat, t, s, eta, z) + torch.where(d == 0, eta * b, 0) * z


def sticks_at_the_end(schedule, x, x0_hat, t, s, eta, z):
    *_, d = coefficients(schedule, t, s, x)
    return torch.where(d == 0, x, ddim_step(schedule, x, x0_hat, t, s, eta, z))


def wrong_from_noise(schedule, x, x0_hat, t, s, eta, z):
    a, *_ = coefficients(schedule, t, s, x)
    return torch.where(a == 0, z, ddim_step(schedule, x, x0_hat, t, s, eta, z))


def own_noise(*inputs):
    return ddim_step(*inputs[:-1], torch.randn_like(inputs[-1]))


DDIM = {
    "z is multiplied by a variance": member(drawn=lambda v, tilde, eta: v**2),
    "eps_hat is multiplied by a variance": member(kept=lambda d, v, tilde, eta: d**2 - v**2),
    "v = eta sigma-tilde has one eta": (
        member(v=lambda a, b, c, d, eta: eta**2 * d / b * (b**2 - (a / c * d) ** 2).sqrt())
    ),
    "eta counts twice in front of z": member(drawn=lambda v, tilde, eta: eta * v),
    "under the root eta is still to be squared": (
        member(kept=lambda d, v, tilde, eta: (d**2 - eta * tilde**2).sqrt())
    ),
    "under the root eta is missing": member(kept=lambda d, v, tilde, eta: (d**2 - tilde**2).sqrt()),
    "eta is missing in front of z": member(drawn=lambda v, tilde, eta: tilde),
    "noise is added, but none is taken away": member(kept=lambda d, v, tilde, eta: d),
    "noise is taken away, but none is added": member(drawn=lambda v, tilde, eta: 0),
    "alpha_t stands before x0_hat": member(front=lambda a, b, c, d: a),
    "alpha_s is missing before x0_hat": member(front=lambda a, b, c, d: 1),
    "the coefficients of level s": member(eps=lambda a, b, c, d, x, x0_hat: (x - c * x0_hat) / d),
    "eps_hat is not divided": member(eps=lambda a, b, c, d, x, x0_hat: x - a * x0_hat),
    "eps_hat has the wrong sign": member(eps=lambda a, b, c, d, x, x0_hat: (a * x0_hat - x) / b),
    "x stands where eps_hat belongs": member(eps=lambda a, b, c, d, x, x0_hat: x),
    "your v comes from sigma_{t|s}": (
        member(v=lambda a, b, c, d, eta: eta * (b**2 - (a / c * d) ** 2).sqrt())
    ),
    "the ratio of the alphas is missing": (
        member(v=lambda a, b, c, d, eta: eta * d / b * (b**2 - d**2).sqrt())
    ),
    "right only where alpha^2 + sigma^2 = 1": (
        member(v=lambda a, b, c, d, eta: eta * d / b * (1 - (a / c) ** 2).sqrt())
    ),
    "sigma_s / sigma_t is upside down": (
        member(v=lambda a, b, c, d, eta: eta * b / d * (b**2 - (a / c * d) ** 2).sqrt())
    ),
    "below a root stands something negative": (
        member(v=lambda a, b, c, d, eta: eta * d / b * (b**2 - (c / a * d) ** 2 - 1).sqrt())
    ),
    "nothing is random": lambda *inputs: ddim_step(*inputs[:5], 0.0, inputs[6]),
    "that is the step for eta = 1": lambda *inputs: ddim_step(*inputs[:5], 1.0, inputs[6]),
    "draw no noise of your own": own_noise,
    "that is x0_hat alone": lambda schedule, x, x0_hat, *r: x0_hat,
    "x has not moved": lambda schedule, x, *r: x,
    "right for images": member(shape=for_images),
    "reshape them, t.view": member(shape=unshaped),
    "an `if` cannot decide": with_an_if,
    "changes the tensors": in_place,
    "never by alpha_t": over_alpha,
    "do not divide by it": over_sigma,
    "the step to s = 0 adds noise": noisy_end,
    "must end at x0_hat itself": sticks_at_the_end,
    "wrong from t = 1, where alpha = 0": wrong_from_noise,
    "one by one": member(v=lambda a, b, c, d, eta: 0.37 * d),
    "does it end with `return`": lambda *inputs: None,
}

# ---- 4.3


def repaired(
    indices=lambda T, steps: [k * T // steps - 1 for k in range(steps, 0, -1)],
    final=lambda alpha_bar: 1.0,
    kept=lambda a, b, v, eta: (1 - b - v**2) ** 0.5,
    drawn=lambda a, b, v, eta, toward: v,
    z=lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype),
    after=None,
):
    """The right answer, with parts to change."""
    def answer(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
        evaluated = indices(len(alpha_bar), steps)
        ends = [*alpha_bar[evaluated[1:]], torch.as_tensor(final(alpha_bar)).to(alpha_bar)]
        for i, b in zip(evaluated, ends):
            a, eps = alpha_bar[i], eps_net(x, i)
            b = after(alpha_bar, i) if after else b
            v = eta * ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
            toward = kept(a, b, v, eta) * eps
            x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + toward
            x = x + drawn(a, b, v, eta, toward) * z(x, generator)
        return x
    return answer


def by_denoiser(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """Right, through the library's sampler."""
    T = len(alpha_bar)
    before = torch.cat([torch.ones(1).to(alpha_bar), alpha_bar[:-1]])
    schedule = Schedule.from_betas(1 - alpha_bar / before)
    ts = torch.tensor([(k * T // steps) / T for k in range(steps, -1, -1)], dtype=torch.float64)

    def D(x, t):
        i = round(t.item() * T) - 1
        return (x - (1 - alpha_bar[i]).sqrt() * eps_net(x, i)) / alpha_bar[i].sqrt()
    return last(samplers.ddim(D, schedule, x, ts, eta=eta, generator=generator))


def copied_indices(T, steps):
    return [*range(0, T, T // steps), T - 1][::-1]


def copied(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """The sheet's code with all of its defects."""
    image = lambda a, b, v, eta, toward: eta * (1 - b - toward**2).sqrt()
    answer = repaired(indices=copied_indices, final=lambda alpha_bar: alpha_bar[0], drawn=image)
    return answer(eps_net, alpha_bar, x, steps, eta, generator)


def with_eta(change):
    """The right answer for another eta."""
    def answer(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
        return repaired()(eps_net, alpha_bar, x, steps, change(eta), generator)
    return answer


def without_last(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    states = []

    def recorded(y, i):
        states.append(y.clone())
        return eps_net(y, i)
    repaired()(recorded, alpha_bar, x, steps, eta, generator)
    return states[-1]


REPAIRED = {
    "0 * nan is nan": repaired(drawn=lambda a, b, v, eta, toward: eta * (1 - b - toward**2).sqrt()),
    "right at eta = 0, but nan at eta > 0": repaired(
        drawn=lambda a, b, v, eta, toward: eta * (1 - b - toward**2).sqrt() if eta > 0 else 0
    ),
    "cut off at 0: toward**2 contains": (
        repaired(drawn=lambda a, b, v, eta, toward: eta * (1 - b - toward**2).clamp(min=0).sqrt())
    ),
    "even without eta in front": repaired(
        drawn=lambda a, b, v, eta, toward: (1 - b - toward**2).clamp(min=0).sqrt() if eta > 0 else 0
    ),
    "eta counts twice": repaired(drawn=lambda a, b, v, eta, toward: eta * v),
    "the last step ends at alpha_bar[0]": repaired(final=lambda alpha_bar: alpha_bar[0]),
    "the network was evaluated 9 times": repaired(indices=copied_indices),
    "pure noise is at T - 1": (
        repaired(indices=lambda T, steps: [k * (T // steps) for k in range(steps)][::-1])
    ),
    "must fall": repaired(indices=lambda T, steps: [T - 1] * steps),
    "evaluations, as it should be, but at": (
        repaired(indices=lambda T, steps: [T - 1, *range(steps - 1, 0, -1)])
    ),
    "the last step is missing": without_last,
    "one index down": repaired(
        after=lambda alpha_bar, i: alpha_bar[i - 1] if i else torch.ones_like(alpha_bar[0])
    ),
    "nothing moves": repaired(after=lambda alpha_bar, i: alpha_bar[i]),
    "two runs with the same generator differ": repaired(z=lambda x, g: torch.randn_like(x)),
    "noise is added, but none": repaired(kept=lambda a, b, v, eta: (1 - b).sqrt()),
    "noise is taken away, but none": repaired(drawn=lambda a, b, v, eta, toward: 0),
    "eta is not used": with_eta(lambda eta: 0.0),
    "eta is always 1": with_eta(lambda eta: float(eta > 0)),
    "z is multiplied by a variance": repaired(drawn=lambda a, b, v, eta, toward: v**2),
    "the noise is that of sigma_{t|s}": (
        repaired(drawn=lambda a, b, v, eta, toward: eta * (1 - a / b).sqrt())
    ),
    "eta is missing below the root": repaired(
        kept=lambda a, b, v, eta: (
            (1 - b - (v / max(eta, 1e-9)) ** 2).sqrt() if eta else (1 - b).sqrt()
        )
    ),
    "compare one step with (4.8)": repaired(kept=lambda a, b, v, eta: 1 - b),
    "must be the same variance": repaired(drawn=lambda a, b, v, eta, toward: 0.7 * eta),
    "was never evaluated": lambda net, alpha_bar, x, steps, eta=0.0, generator=None: x,
}

# ---- 4.4


def exact_variance(schedule, t, s, w):
    """The right answer, by (4.3) as it stands."""
    a, b, c, d = four(schedule, t, s)
    up = b**2 - (a / c * d) ** 2
    return d**2 * up / b**2 + (c * up / b**2) ** 2 * (w * b) ** 2 / ((a * w) ** 2 + b**2)


def by_correlation(schedule, t, s, w):
    """Right, from the joint Gaussian: Var(x_s) (1 - correlation^2)."""
    a, b, c, d = (q.float() for q in four(schedule, t, s))
    V_t, V_s = (a * w) ** 2 + b**2, (c * w) ** 2 + d**2
    return V_s * (1 - (a / c) ** 2 * V_s / V_t)


def with_parts(change, V=lambda a, b, w: (a * w) ** 2 + b**2):
    """(4.3), put together by change(tilde, k, var_x0, up, w, alpha_t, sigma_t, alpha_s, sigma_s).

    tilde: the posterior's variance; k: the factor of x0 in its mean; var_x0: Var(x0 | x_t);
    up: sigma_{t|s}^2.
    """
    def answer(schedule, t, s, w):
        q = a, b, c, d = four(schedule, t, s)
        up = b**2 - (a / c * d) ** 2
        return change(d**2 * up / b**2, c * up / b**2, (w * b) ** 2 / V(a, b, w), up, w, *q)
    return answer


def nan_at_the_end(schedule, t, s, w):
    return exact_variance(schedule, t, s, w) / schedule.sigma(s) * schedule.sigma(s)


def zero_at_the_end(schedule, t, s, w):
    return torch.where(s > 0, exact_variance(schedule, t, s, w), 0)


VARIANCE = {
    "that is the posterior's variance": with_parts(lambda tilde, k, var_x0, *r: tilde),
    "that is sigma_{t|s}^2": with_parts(lambda tilde, k, var_x0, up, *r: up),
    "that is a standard deviation": lambda *inputs: exact_variance(*inputs).sqrt(),
    "Var(x0 | x_t) is not w^2": (
        with_parts(lambda tilde, k, var_x0, up, w, *r: tilde + k**2 * w**2)
    ),
    "Var(x0 | x_t) is sigma_t^2 only": (
        with_parts(lambda tilde, k, var_x0, up, w, a, b, *r: tilde + k**2 * b**2)
    ),
    "is still to be squared, (4.3)": (
        with_parts(lambda tilde, k, var_x0, *r: tilde + k * var_x0)
    ),
    "that is the second part of (4.3)": (
        with_parts(lambda tilde, k, var_x0, *r: k**2 * var_x0)
    ),
    "Var(x0 | x_t) alone": with_parts(lambda tilde, k, var_x0, *r: tilde + var_x0),
    "that is Var(x0 | x_t);": with_parts(lambda tilde, k, var_x0, *r: var_x0),
    "has alpha_s, not alpha_t": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: tilde + (a * up / b**2) ** 2 * var_x0
    ),
    "w is still to be squared": lambda schedule, t, s, w: exact_variance(schedule, t, s, w.sqrt()),
    "Var(x_t) has alpha_t^2 w^2": with_parts(
        lambda tilde, k, var_x0, *r: tilde + k**2 * var_x0, V=lambda a, b, w: w**2 + b**2
    ),
    "that is Var(x_s)": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: (c * w) ** 2 + d**2
    ),
    "that is Var(x_t)": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: (a * w) ** 2 + b**2
    ),
    "have changed places": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: (
            ((a * w) ** 2 + b**2) * up / ((c * w) ** 2 + d**2)
        )
    ),
    "1 - (alpha_t / alpha_s)^2 is not": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: (
            ((c * w) ** 2 + d**2) * (1 - (a / c) ** 2) / ((a * w) ** 2 + b**2)
        )
    ),
    "1 - alpha^2 stands where": with_parts(
        lambda tilde, k, var_x0, up, w, a, b, c, d: (
            ((c * w) ** 2 + 1 - c**2) * (1 - (a / c) ** 2) / ((a * w) ** 2 + 1 - a**2)
        )
    ),
    "are added, not subtracted": (
        with_parts(lambda tilde, k, var_x0, *r: tilde - k**2 * var_x0)
    ),
    "divide by neither": nan_at_the_end,
    "but not at the ends": zero_at_the_end,
    "Try w = 0": with_parts(lambda tilde, k, var_x0, *r: 2 * tilde),
    "is not positive": with_parts(lambda tilde, k, var_x0, up, *r: (-up).sqrt()),
    "expected shape (5,); got ()": lambda *inputs: exact_variance(*inputs).mean(),
    "does it end with `return`": lambda *inputs: None,
}

# ---- 4.5


def slope(D, schedule, x, t, at=None, rates=None):
    at, rates = t if at is None else at, t if rates is None else rates
    x0_hat = D(x, t)
    eps_hat = (x - schedule.alpha(at) * x0_hat) / schedule.sigma(at)
    return schedule.d_alpha(rates) * x0_hat + schedule.d_sigma(rates) * eps_hat


def at_s(slope):
    """A second slope, taken at the predicted state."""
    return lambda D, schedule, x, x_pred, t, s: slope(D, schedule, x_pred, s)


SLOPE_AT_S = at_s(slope)


def heun(
    second=SLOPE_AT_S,
    combine=lambda x, h, u, u2: x + h * (u + u2) / 2,
    first=slope,
    x_pred=lambda x, h, u: x + h * u,
    last=lambda D, schedule, x, t: D(x, t),
):
    def answer(D, schedule, x, t, s):
        if s == 0:
            return last(D, schedule, x, t)
        u = first(D, schedule, x, t)
        return combine(x, s - t, u, second(D, schedule, x, x_pred(x, s - t, u), t, s))
    return answer


def one_step_of(sampler):
    return lambda D, schedule, x, t, s: last(sampler(D, schedule, x, torch.stack([t, s])))


def heun_by_autograd(D, schedule, x, t, s):
    """Right, with the derivatives taken here, and half steps in place of the mean."""
    def u(x, t):
        x0_hat = D(x, t)
        eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
        rate = lambda f: torch.autograd.functional.jacobian(f, t)
        return rate(schedule.alpha) * x0_hat + rate(schedule.sigma) * eps_hat

    if not schedule.sigma(s):
        return D(x, t)
    here = u(x, t)
    there = u(x + (s - t) * here, s)
    return (x + 0.5 * (s - t) * here + 0.5 * (s - t) * there).float()


def flow_slope(D, schedule, x, t):
    x0_hat = D(x, t)
    return (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t) - x0_hat


def swapped(D, schedule, x, t):
    x0_hat = D(x, t)
    eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    return schedule.d_sigma(t) * x0_hat + schedule.d_alpha(t) * eps_hat


def by_score(D, schedule, x, t):
    """(4.13): right where alpha > 0."""
    a, b = schedule.alpha(t), schedule.sigma(t)
    da, db = schedule.d_alpha(t), schedule.d_sigma(t)
    score = -(x - a * D(x, t)) / b**2
    return da / a * x - (b * db - b**2 * da / a) * score


def mean_predictions(D, schedule, x, t, s):
    x0_hat = D(x, t)
    eps = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    x_pred = x + (s - t) * (schedule.d_alpha(t) * x0_hat + schedule.d_sigma(t) * eps)
    x0_hat = (x0_hat + D(x_pred, s)) / 2
    eps = (eps + (x_pred - schedule.alpha(s) * D(x_pred, s)) / schedule.sigma(s)) / 2
    return schedule.alpha(s) * x0_hat + schedule.sigma(s) * eps


HEUN = {
    "that is Euler's step": heun(combine=lambda x, h, u, u2: x + h * u),
    "the two slopes are added up": heun(combine=lambda x, h, u, u2: x + h * (u + u2)),
    "you go a second step": heun(combine=lambda x, h, u, u2: x + h * u + h * (u + u2) / 2),
    "the second slope alone": heun(combine=lambda x, h, u, u2: x + h * u2),
    "the second slope is taken at level t": (
        heun(second=lambda D, schedule, x, x_pred, t, s: slope(D, schedule, x_pred, t))
    ),
    "with the alpha' and sigma' of t": (
        heun(second=lambda D, schedule, x, x_pred, t, s: slope(D, schedule, x_pred, s, rates=t))
    ),
    "computed with alpha and sigma of t": (
        heun(second=lambda D, schedule, x, x_pred, t, s: slope(D, schedule, x_pred, s, at=t))
    ),
    "but for the old x": heun(second=lambda D, schedule, x, x_pred, t, s: slope(D, schedule, x, s)),
    "time runs the wrong way": (
        heun(x_pred=lambda x, h, u: x - h * u, combine=lambda x, h, u, u2: x - h * (u + u2) / 2)
    ),
    "the Euler step to the predicted state runs": heun(x_pred=lambda x, h, u: x - h * u),
    "is the slope of the flow schedule": heun(first=flow_slope, second=at_s(flow_slope)),
    "that is first order; average the slopes": mean_predictions,
    "that is the lesson's Heun": one_step_of(samplers.heun),
    "alpha' and sigma' have changed places": heun(first=swapped, second=at_s(swapped)),
    "that is ddim's step": one_step_of(samplers.ddim),
    "x has not moved": lambda D, schedule, x, t, s: x,
    "two are enough": heun(first=lambda D, schedule, x, t: slope(D, schedule, x, t) + 0 * D(x, t)),
    "divide by sigma only": heun(first=by_score, second=at_s(by_score)),
    "wrong from t = 1 of the flow": (
        lambda D, schedule, x, t, s: x if t == 1 else heun()(D, schedule, x, t, s)
    ),
    "return the prediction instead": (
        heun(last=lambda D, schedule, x, t: slope(D, schedule, x, 0 * t))
    ),
    "Euler's in t, and noise is left over": (
        heun(last=lambda D, schedule, x, t: x - t * slope(D, schedule, x, t))
    ),
    "no second evaluation where sigma = 0": heun(last=lambda D, schedule, x, t: x),
    "once is enough": heun(last=lambda D, schedule, x, t: D(x, t) + 0 * D(x, t)),
    "the mean of both": heun(combine=lambda x, h, u, u2: x + h * (0.9 * u + 0.1 * u2)),
    "does it end with `return`": lambda D, schedule, x, t, s: None,
}

# ---- 4.6


def good_pair(ns, errors, floor):
    keep = errors > 10 * floor
    return ns[keep][-2:], errors[keep][-2:]


def order(ns, errors, floor):
    n, e = good_pair(ns, errors, floor)
    return (e[0] / e[1]).log2() / (n[1] / n[0]).log2()


def without_floor(ns, errors, floor):
    """Right in another way: without the rounding, by a line through the last three."""
    keep = errors > 6 * floor
    clean = (errors[keep] ** 2 - floor**2).sqrt()
    return fit(ns[keep][-3:], clean[-3:])


def of_pair(change):
    return lambda ns, errors, floor: change(*good_pair(ns, errors, floor))


def of_all(change):
    """change(orders of neighbouring pairs)."""
    def answer(ns, errors, floor):
        return change((errors[:-1] / errors[1:]).log() / (ns[1:] / ns[:-1]).log())
    return answer


def fit(n, e):
    """The order by least squares."""
    return -float(numpy.polyfit(n.log().numpy(), e.log().numpy(), 1)[0])


def divides_in_place(ns, errors, floor):
    errors /= errors[0].clone()
    return order(ns, errors, floor / errors[0])


ORDER = {
    "the sign: an error": lambda *inputs: -order(*inputs),
    "log2 above and the natural one below": (
        of_pair(lambda n, e: (e[0] / e[1]).log2() / (n[1] / n[0]).log())
    ),
    "the natural one above and log2 below": (
        of_pair(lambda n, e: (e[0] / e[1]).log() / (n[1] / n[0]).log2())
    ),
    "the decimal and the natural one": (
        of_pair(lambda n, e: (e[0] / e[1]).log10() / (n[1] / n[0]).log())
    ),
    "the natural and the decimal one": (
        of_pair(lambda n, e: (e[0] / e[1]).log() / (n[1] / n[0]).log10())
    ),
    "only where the steps double": of_pair(lambda n, e: (e[0] / e[1]).log2()),
    "that is the logarithm of the ratio of errors": of_pair(lambda n, e: (e[0] / e[1]).log()),
    "that is the ratio of two errors": of_pair(lambda n, e: e[0] / e[1]),
    "you divide by a difference of steps": (
        of_pair(lambda n, e: (e[0] / e[1]).log() / (n[1] - n[0]))
    ),
    "the order is upside down": of_pair(lambda n, e: (n[1] / n[0]).log() / (e[0] / e[1]).log()),
    "one too many": lambda *inputs: order(*inputs) + 1,
    "one too few": lambda *inputs: order(*inputs) - 1,
    "that is the order of the first pair": of_all(lambda pairs: pairs[0]),
    "that is the order of the last pair": of_all(lambda pairs: pairs[-1]),
    "first and last value alone": (
        lambda ns, e, floor: (e[0] / e[-1]).log() / (ns[-1] / ns[0]).log()
    ),
    "through all points;": lambda ns, e, floor: fit(ns, e),
    "through all points above the floor": (
        lambda ns, e, floor: fit(ns[e > 10 * floor], e[e > 10 * floor])
    ),
    "that is the mean of all pairs": of_all(lambda pairs: pairs.mean()),
    "that is the largest of all pairs": of_all(lambda pairs: pairs.max()),
    "that is the smallest of all pairs": of_all(lambda pairs: pairs.min()),
    "that is the median of all pairs": of_all(lambda pairs: pairs.median()),
    "changes the tensors": divides_in_place,
    "your order is nan": lambda ns, e, floor: (floor - e).log().sum(),
    "Plot log error over log n": lambda ns, errors, floor: len(ns) - 0.7,
    "one number is wanted; got": lambda ns, e, floor: e,
    "does it end with `return`": lambda *inputs: None,
}

# ---- 4.7


def power(p, start=1.0, n=8):
    return lambda: start * (torch.arange(n, -1, -1, dtype=torch.float64) / n) ** p


TIMESTEPS = {
    "eight steps have nine times, start and end included; got 8 times": (
        lambda: power(2, 0.95)()[:-1]
    ),
    "got shape (1, 9)": lambda: power(2, 0.95)()[None],
    "nan or inf": lambda: power(2, 0.95)() / power(2, 0.95)(),
    "times lie in [0, 1]": lambda: 1000 * power(2, 0.95)(),
    "your times rise": lambda: power(2, 0.95)().flip(0),
    "a time comes twice": lambda: power(2, 0.95)()[[0, 1, 2, 3, 4, 5, 6, 8, 8]],
    "do not fall all the way": lambda: power(2, 0.95)()[[0, 2, 1, 3, 4, 5, 6, 7, 8]],
    "noise is left over": lambda: power(2, 0.95)().clamp(min=0.01),
    "has none of it": power(2, 0.5),
    "more than times even in t": lambda: timesteps(COSINE, 8, "karras"),
    "as times even in t do": power(1),
    "not yet as good as quadratic": power(1.5),
    "as the quadratic ones do": power(2),
    "and close; the goal is": power(1.78, 0.975),
    "got str": lambda: "text",
    "does it end with `return`": lambda: None,
}

# ---- 4.8


def edit(D, schedule, x, before, after, n, strength):
    ts = timesteps(schedule, n, start=strength)
    z = last(ddim_invert(D, schedule, x, ts.flip(0), y=before))
    return last(samplers.ddim(D, schedule, z, ts, y=after))


def edit_by_hand(D, schedule, x, before, after, n, strength):
    """Right, written out: inversion and sampling by (4.9), in x / alpha and sigma / alpha."""
    ts = strength * torch.arange(n + 1, dtype=torch.float64) / n
    r = schedule.sigma(ts) / schedule.alpha(ts)

    def eps_hat(x, k, y):
        return (x - D(schedule.alpha(ts[k]) * x, ts[k].float(), y=y)) / r[k]

    for k in range(n):
        x = x + (r[k + 1] - r[k]) * eps_hat(x, max(k, 1), before)
    for k in range(n, 0, -1):
        x = x + (r[k - 1] - r[k]) * eps_hat(x, k, after)
    return x.float()


def edited(
    up="before",
    down="after",
    start=lambda s: s,
    stop=lambda s: s,
    count=lambda n: n,
    invert=ddim_invert,
    between=lambda z, x: z,
):
    """edit with parts changed.

    up, down: which condition inversion and sampling use, None for no condition, "none" to leave
    them out; start, stop: where their timesteps start.
    """
    def answer(D, schedule, x, before, after, n, strength):
        given = {"before": {"y": before}, "after": {"y": after}, None: {}}
        ts_up = timesteps(schedule, count(n), start=start(strength)).flip(0)
        ts_down = timesteps(schedule, count(n), start=stop(strength))
        z = x if up == "none" else last(invert(D, schedule, x, ts_up, **given[up]))
        if down == "none":
            return z
        return last(samplers.ddim(D, schedule, between(z, x), ts_down, **given[down]))
    return answer


def other_invert(where="here", scaled=True):
    """ddim_invert with D evaluated elsewhere, or without rescaling x for it."""
    def answer(D, schedule, x, ts, **condition):
        for t, s in zip(ts[:-1], ts[1:]):
            r = {"here": t if t > 0 else s, "ahead": s, "always here": t}[where]
            x_r = x * schedule.alpha(r) / schedule.alpha(t) if scaled else x
            eps_hat = (x_r - schedule.alpha(r) * D(x_r, r, **condition)) / schedule.sigma(r)
            x_base = schedule.alpha(s) / schedule.alpha(t) * (x - schedule.sigma(t) * eps_hat)
            x = x_base + schedule.sigma(s) * eps_hat
        yield x
    return answer


def rising_forgotten(D, schedule, x, before, after, n, strength):
    return last(ddim_invert(D, schedule, x, timesteps(schedule, n), y=before))


def with_noise(D, schedule, x, ts, **condition):
    yield schedule.perturb(x, ts[-1], torch.randn_like(x))


EDIT = {
    "that is the round trip": edited(down="before"),
    "both with `after`": edited(up="after"),
    "`before` and `after` have changed places": edited(up="after", down="before"),
    "the conditions are not passed on": edited(up=None, down=None),
    "but sampled without a condition": edited(down=None),
    "inverted without a condition": edited(up=None),
    "the sampling is missing": edited(down="none"),
    "the image itself is taken for a noisy one": edited(up="none"),
    "x has not changed": lambda D, schedule, x, *r: x,
    "you split the n steps": edited(count=lambda n: n // 2),
    "evaluated at the upper level s": edited(invert=other_invert("ahead")),
    "to look like an image of that level": edited(invert=other_invert(scaled=False)),
    "strength is not used": edited(start=lambda s: 1.0, stop=lambda s: 1.0),
    "you invert up to 1 - strength": edited(start=lambda s: 1 - s, stop=lambda s: 1 - s),
    "but the sampling starts from t = 1": edited(stop=lambda s: 1.0),
    "the inversion goes to t = 1": edited(start=lambda s: 1.0),
    "draw no noise of your own": edited(invert=with_noise),
    "evaluate one level up": edited(invert=other_invert("always here")),
    "goes from data to noise: ts must be rising": rising_forgotten,
    "a mistake that is known here": edited(between=lambda z, x: 0.8 * z),
    "does it end with `return`": lambda *inputs: None,
}

# ---- 4.9


@torch.no_grad()
def student_target(D, schedule, x, t, m, s):
    column = lambda c: c[:, None]
    at = lambda r: (column(schedule.alpha(r)), column(schedule.sigma(r)))
    (a_t, b_t), (a_m, b_m), (a_s, b_s) = at(t), at(m), at(s)
    x0_t = D(x, t)
    x_m = a_m * x0_t + b_m / b_t * (x - a_t * x0_t)
    x0_m = D(x_m, m)
    x_s = a_s * x0_m + b_s / b_m * (x_m - a_m * x0_m)
    return (x_s - b_s / b_t * x) / (a_s - b_s / b_t * a_t)


def two_predictions(D, schedule, x, t, m):
    """The teacher's first prediction, x_m, and its second prediction."""
    first = D(x, t)
    x_m = samplers.step(schedule, x, first, t, m)
    return first, x_m, D(x_m, m)


@torch.no_grad()
def weighted(D, schedule, x, t, m, s):
    """Right, as a weighted mean of the two predictions.

    The weights are those of the steps in sigma / alpha, multiplied out.
    """
    first, _, second = two_predictions(D, schedule, x, t, m)
    a = lambda r: append_dims(schedule.alpha(r), x)
    b = lambda r: append_dims(schedule.sigma(r), x)
    w_second, w_first = a(s) - b(s) / b(m) * a(m), b(s) / b(m) * (a(m) - b(m) / b(t) * a(t))
    return ((w_first * first + w_second * second) / (w_first + w_second)).float()


def distilled(finish, evaluate=None, land=None):
    """student_target with parts changed.

    finish(q): the target from all that was computed; evaluate(D, q): the second prediction;
    land(q): x_s.
    """
    @torch.no_grad()
    def answer(D, schedule, x, t, m, s):
        q = SimpleNamespace(schedule=schedule, x=x, t=t, m=m, s=s)
        q.first, q.x_m, q.second = two_predictions(D, schedule, x, t, m)
        q.second = evaluate(D, q) if evaluate else q.second
        q.x_s = land(q) if land else samplers.step(schedule, q.x_m, q.second, m, s)
        q.a_t, q.b_t, q.a_s, q.b_s = (append_dims(c, x) for c in four(schedule, t, s))
        q.r = q.b_s / q.b_t
        return finish(q)
    return answer


def solved(q):
    return (q.x_s - q.r * q.x) / (q.a_s - q.r * q.a_t)


def from_x_t(q):
    return samplers.step(q.schedule, q.x, q.second, q.m, q.s)


def with_old_noise(q):
    a_t, b_t, a_s, b_s = (append_dims(c, q.x) for c in four(q.schedule, q.t, q.s))
    return a_s * q.second + b_s / b_t * (q.x - a_t * q.first)


def with_gradients(D, schedule, x, t, m, s):
    return student_target(D, schedule, x, t, m, s) + 0 * D(x, t)


def over_alpha_t(D, schedule, x, t, m, s):
    one = append_dims(schedule.alpha(t) / schedule.alpha(t), x)
    return student_target(D, schedule, x, t, m, s) * one


def unshaped_factor(D, schedule, x, t, m, s):
    return student_target(D, schedule, x, t, m, s) * schedule.alpha(t)


def wrong_at_zero(D, schedule, x, t, m, s):
    return torch.where(s[:, None] == 0, x, student_target(D, schedule, x, t, m, s))


TARGET = {
    "that is x_s, where the teacher lands": distilled(lambda q: q.x_s),
    "that is x_m": distilled(lambda q: q.x_m),
    "that is the teacher's first prediction": distilled(lambda q: q.first),
    "that is the teacher's second prediction": distilled(lambda q: q.second),
    "the mean of the teacher's two predictions": distilled(lambda q: (q.first + q.second) / 2),
    "evaluates the teacher at x_t instead of x_m": distilled(solved, lambda D, q: D(q.x, q.m)),
    "the second step evaluates the teacher at t": distilled(solved, lambda D, q: D(q.x_m, q.t)),
    "the second step starts from x_t": distilled(solved, land=from_x_t),
    "keeps the first step's eps_hat": distilled(solved, land=with_old_noise),
    "starts from x_m in your formula":
        distilled(lambda q: (q.x_s - q.r * q.x_m) / (q.a_s - q.r * q.a_t)),
    "x_s + ratio x_t has the wrong sign":
        distilled(lambda q: (q.x_s + q.r * q.x) / (q.a_s - q.r * q.a_t)),
    "alpha_s + ratio alpha_t has the wrong sign":
        distilled(lambda q: (q.x_s - q.r * q.x) / (q.a_s + q.r * q.a_t)),
    "below the line the second part is missing": distilled(lambda q: (q.x_s - q.r * q.x) / q.a_s),
    "it is not divided": distilled(lambda q: q.x_s - q.r * q.x),
    "sigma_s / sigma_t is upside down":
        distilled(lambda q: (q.x_s - q.x / q.r) / (q.a_s - q.a_t / q.r)),
    "the ratio is squared":
        distilled(lambda q: (q.x_s - q.r**2 * q.x) / (q.a_s - q.r**2 * q.a_t)),
    "have changed places below the line":
        distilled(lambda q: (q.x_s - q.r * q.x) / (q.a_t - q.r * q.a_s)),
    "gradients flow through it": with_gradients,
    "divide by neither of these": over_alpha_t,
    "but not from alpha_t = 0": wrong_at_zero,
    "reshape them, t.view": unshaped_factor,
    "and solve for x0_hat": distilled(lambda q: 0.3 * q.first + 0.7 * q.second + 1),
    "although 0 < s < m < t < 1": distilled(lambda q: q.x_s / 0),
    "does it end with `return`": lambda *inputs: None,
}

RIGHT = {
    "4.1": steps_for,
    "4.2": ddim_step,
    "4.3": repaired(),
    "4.4": exact_variance,
    "4.5": heun(),
    "4.6": order,
    "4.7": power(2, 0.95),
    "4.8": edit,
    "4.9": student_target,
}
OTHER_STYLE = {
    "4.1": steps_by_floor,
    "4.2": by_library,
    "4.3": by_denoiser,
    "4.4": by_correlation,
    "4.5": heun_by_autograd,
    "4.6": without_floor,
    "4.7": [0.96, 0.76, 0.59, 0.40, 0.25, 0.145, 0.077, 0.0194, 0],
    "4.8": edit_by_hand,
    "4.9": weighted,
}
WRONG = {
    "4.1": STEPS,
    "4.2": DDIM,
    "4.3": REPAIRED,
    "4.4": VARIANCE,
    "4.5": HEUN,
    "4.6": ORDER,
    "4.7": TIMESTEPS,
    "4.8": EDIT,
    "4.9": TARGET,
}
CASES = cases(WRONG)
verdict = verdicts(WRONG)


@pytest.mark.parametrize("name, diagnosis", CASES)
def test_wrong(name, diagnosis):
    passed, said = verdict(name, diagnosis)
    assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("style", [RIGHT, OTHER_STYLE], ids=["right", "other style"])
def test_right(capsys, name, style):
    check = Checker()
    # the checks draw new numbers each time
    for _ in range(5):
        check(name, style[name])
        assert check.passed(name), capsys.readouterr().out


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert len(CASES) >= 60 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        check(q.name, stub)
        assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) >= 2
    assert sum(q.points for q in QUESTIONS) == 26


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


ODD_ANSWERS = (
    3,
    "text",
    [1.0, 2.0],
    lambda *a: "text",
    lambda *a: torch.zeros(3, 2),
    lambda *a: torch.zeros(0),
    lambda *a: 1 / 0,
    lambda *a: a[0],
    lambda: None,
    lambda *a: torch.ones(5),
)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    assert_refused_in_one_sentence(name, ODD_ANSWERS)


def test_the_copied_code_is_refused_until_all_four_defects_are_repaired(capsys):
    """4.3: whichever three of them are repaired, the fourth is found, with words of its own."""
    image = lambda a, b, v, eta, toward: eta * (1 - b - toward**2).sqrt()
    twice = lambda a, b, v, eta, toward: eta * v
    first = lambda alpha_bar: alpha_bar[0]
    check, said = Checker(), []
    for answer in (
        copied,
        repaired(drawn=image),
        repaired(drawn=twice),
        repaired(final=first),
        repaired(indices=copied_indices),
        repaired(indices=copied_indices, final=first),
        repaired(final=first, drawn=twice),
    ):
        check("4.3", answer)
        said.append(capsys.readouterr().out)
        assert not check.passed("4.3")
    assert len(set(said[1:5])) == 4


def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT, OTHER_STYLE)


def test_the_references_are_the_librarys():
    """The judges' own formulas are those of course_lib's samplers."""
    x, x0_hat = torch.randn(2, 5, 3, dtype=torch.float64)
    s = torch.rand(5, dtype=torch.float64) * 0.4 + 0.1
    for schedule in (COSINE, Schedule.flow(), Schedule.linear()):
        for eta in (0.0, 0.6, 1.0):
            g = torch.Generator().manual_seed(0)
            theirs = samplers.step(schedule, x, x0_hat, s + 0.3, s, eta, g)
            z = torch.zeros_like(x)
            if eta:
                z = torch.randn(x.shape, generator=g.manual_seed(0), dtype=x.dtype)
            torch.testing.assert_close(ddim_step(schedule, x, x0_hat, s + 0.3, s, eta, z), theirs)
    for name in MEASURED:
        c = measured(name)
        assert abs(order(c.n, c.errors, c.floor) - c.p) < 0.1


def test_the_errors_of_4_6_were_measured():
    """Three samplers on the lesson's mixture, from the same noise."""
    D = BUMPS.denoiser(COSINE)
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    even = lambda n: COSINE.t_from_log_snr(torch.linspace(-7, 5, n + 1, dtype=torch.float64))
    truth = last(samplers.unipc(D, COSINE, x, even(450)))
    for name, (_, counts, errors, _floor) in MEASURED.items():
        for n, error in list(zip(counts, errors))[::3]:
            end = last(getattr(samplers, name)(D, COSINE, x, even(n)))
            end = (end / UNIT).round() * UNIT if name == "unipc" else end
            assert (end - truth).square().sum(1).mean().sqrt() == pytest.approx(error, rel=0.02)


def test_the_goal_of_the_timesteps_can_be_reached_and_is_no_gift():
    """4.7: of a coarse table of two numbers, some are good enough with room to spare.

    No spacing of the library is.
    """
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = last(
        samplers.unipc(BUMPS.denoiser(COSINE), COSINE, x, timesteps(COSINE, 100, "log_snr"))
    )
    error = lambda ts: timesteps_error(ts, x, truth)
    table = [error(power(p, start)()) for p in (1.5, 2, 2.5) for start in (1, 0.95, 0.9)]
    assert min(table) < 0.9 * GOOD_ENOUGH
    for spacing in samplers.SPACINGS:
        assert error(timesteps(COSINE, 8, spacing)) > 1.1 * GOOD_ENOUGH


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures."""
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {"check": Checker(), "torch": torch, "samplers": samplers, "last": last}
    for cell in jupytext.read(SHEET).cells:
        if any(tag.startswith(("answer:", "check:")) for tag in cell.metadata.get("tags", [])):
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS)
