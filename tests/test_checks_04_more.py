"""Lesson 4's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import math

import numpy as np
import pytest
import torch
from catalogues import assert_accepted, assert_refused, judged, listed
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


def unless(guilty, other):
    """The right number of steps; another one where guilty(sampler, budget, guided)."""
    return lambda *inputs: other(*inputs) if guilty(*inputs) else steps_for(*inputs)


def half_up(sampler, budget, guided):
    return steps_for(sampler, round(budget / 2) if guided else budget, False)


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


def with_seed(answer):
    """The answer, which sets the seed of all random numbers before."""
    def seeding(*inputs):
        torch.manual_seed(0)
        return answer(*inputs)
    return seeding


def ends_together(schedule, x, x0_hat, t, s, eta, z):
    """Wrong where a part of the batch goes to s = 0."""
    return x0_hat if (s == 0).any() else ddim_step(schedule, x, x0_hat, t, s, eta, z)


def mixed_by_eta(schedule, x, x0_hat, t, s, eta, z):
    ends = [ddim_step(schedule, x, x0_hat, t, s, e, z) for e in (0, 1)]
    return (1 - eta) * ends[0] + eta * ends[1]


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


def by_table(draw=None, ratio=lambda a, b: 1 - a / b, T=None, final=torch.ones_like):
    """The right sampler, but for the draw (x, generator) -> z, 1 - a / b, T, or the last b."""
    def answer(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
        size = T or len(alpha_bar)
        indices = [k * size // steps - 1 for k in range(steps, 0, -1)]
        for i, j in zip(indices, [*indices[1:], None]):
            a = alpha_bar[i]
            b = final(alpha_bar[-1]) if j is None else alpha_bar[j]
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


def own_generator(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    return repaired()(eps_net, alpha_bar, x, steps, eta, generator or torch.Generator())


def writes_into_the_table(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    end = repaired()(eps_net, alpha_bar, x, steps, eta, generator)
    alpha_bar[0] = 1
    return end


def one_index_down(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """Each step but the last goes one index down."""
    levels = torch.cat([alpha_bar[:-1], alpha_bar[-1:]])
    first = len(alpha_bar) // steps - 1
    step = lambda table, i: table[i - 1] if i > first else torch.ones(()).to(table)
    return repaired(after=step)(eps_net, levels, x, steps, eta, generator)


def number_for_each(x, generator):
    return torch.randn(len(x), 1, generator=generator, dtype=x.dtype)


# ---- 4.4

def variance(var_x0=None, w_of=lambda w: w, ratio=lambda a, c: (a / c) ** 2):
    """(4.3), but for Var(x0 | x_t) (a, b, w), w, or the ratio in sigma_{t|s}^2."""
    def answer(schedule, t, s, w):
        a, b, c, d = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        w, var_ts = w_of(w), b**2 - ratio(a, c) * d**2
        of_x0 = var_x0(a, b, w) if var_x0 else (w * b) ** 2 / ((a * w) ** 2 + b**2)
        return (d / b) ** 2 * var_ts + (c * var_ts / b**2) ** 2 * of_x0
    return answer


def exact(change=lambda c, V_s, var_ts, V_t: V_s * var_ts / V_t, bound=lambda t, w: (t, w)):
    """V_s sigma_{t|s}^2 / V_t, changed, or for a bounded t or w."""
    def answer(schedule, t, s, w):
        t, w = bound(t, w)
        a, b, c, d = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
        parts = (c * w) ** 2 + d**2, b**2 - (a / c * d) ** 2, (a * w) ** 2 + b**2
        return change((a, b, c, d), *parts)
    return answer


def mean_of_two(q, V_s, var_ts, V_t):
    return (1 + (q[3] / q[1]) ** 2) * var_ts / 2


# ---- 4.5

class Keeps:
    """Heun's step, with a first slope that is kept from the step before."""

    def __init__(self):
        self.kept = {}

    def __call__(self, D, schedule, x, t, s):
        x0_hat = D(x, t)
        if s == 0:
            return x0_hat
        u = self.kept.pop(float(t), None)
        if u is None:
            u = slope(lambda x, t: x0_hat, schedule, x, t)
        y = x + (s - t) * u
        self.kept[float(s)] = slope(D, schedule, y, s)
        return x + (s - t) * (u + self.kept[float(s)]) / 2


def clamped_heun(D, schedule, x, t, s):
    return heun()(lambda x, t: D(x, t).clamp(-1, 1), schedule, x, t, s)


def minus_slope(D, schedule, x, t):
    return 2 * schedule.d_alpha(t) * D(x, t) - slope(D, schedule, x, t)


def second_at_old_x(D, schedule, x, x_pred, t, s):
    return slope(lambda y, r: D(x, r), schedule, x_pred, s)


def second_with_old_eps(D, schedule, x, x_pred, t, s):
    eps_hat = (x - schedule.alpha(t) * D(x, t)) / schedule.sigma(t)
    return schedule.d_alpha(s) * D(x_pred, s) + schedule.d_sigma(s) * eps_hat


def in_float32(D, schedule, x, t, s):
    """Right, with coefficients in float32."""
    class Rounded:
        def __getattr__(self, name):
            return lambda t: getattr(schedule, name)(t).float()
    return heun()(D, Rounded(), x, t, s)


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


def rounded(*inputs):
    return round(float(of_last(lambda n: 2)(*inputs)), 1)


def at_most_3(*inputs):
    return min(3.0, float(of_last(lambda n: 2)(*inputs)))


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


def leaves_same_kind(D, schedule, x, before, after, n, strength):
    edited = edit_with()(D, schedule, x, before, after, n, strength)
    return torch.where((before == after)[:, None], x, edited)


def quadratic(D, schedule, x, before, after, n, strength):
    ts = samplers.timesteps(schedule, n, "quadratic", start=strength)
    z = last(samplers.ddim_invert(D, schedule, x, ts.flip(0), y=before))
    return last(samplers.ddim(D, schedule, z, ts, y=after))


def but_the_last(D, schedule, z, ts, y):
    return samplers.ddim(D, schedule, z, ts[:-1], y=y)


def twice_as_many(D, schedule, z, ts, y):
    ts = samplers.timesteps(schedule, 2 * len(ts) - 2, start=ts[0].item())
    return samplers.ddim(D, schedule, z, ts, y=y)


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


def other_target(land):
    """land((D, schedule), x, x_s, t, m, s, two predictions): what follows the two steps."""
    @torch.no_grad()
    def answer(D, schedule, x, t, m, s):
        first = D(x, t)
        x_m = samplers.step(schedule, x, first, t, m)
        second = D(x_m, m)
        x_s = samplers.step(schedule, x_m, second, m, s)
        return land(schedule, x, x_s, t[:, None], m[:, None], s[:, None], (first, second))
    return answer


def by_flow(schedule, x, x_s, t, m, s, predictions):
    return x - t * (x - x_s) / (t - s)


def by_angles(schedule, x, x_s, t, m, s, predictions):
    angle_t, angle_s = (torch.atan2(schedule.sigma(r), schedule.alpha(r)) for r in (t, s))
    return (angle_t.sin() * x_s - angle_s.sin() * x) / (angle_t - angle_s).sin()


def by_time(schedule, x, x_s, t, m, s, predictions):
    return ((t - m) * predictions[0] + (m - s) * predictions[1]) / (t - s)


def bounded(schedule, x, x_s, t, m, s, predictions):
    r = schedule.sigma(s) / schedule.sigma(t)
    return (x_s - r * x) / (schedule.alpha(s) - r * schedule.alpha(t)).clamp(min=0.1)


def two_coordinates(D, schedule, x, t, m, s):
    return student_target(D, schedule, x, t, m, s)[:, :2]


def off_the_end(D, schedule, x, t, m, s):
    return student_target(D, schedule, x, t, m, s.clamp(min=1e-3))


def first_where_short(D, schedule, x, t, m, s):
    target = student_target(D, schedule, x, t, m, s)
    return torch.where((t - s)[:, None] < 0.1, D(x, t).detach(), target)


def without_gradients(D, schedule, x, t, m, s):
    torch.set_grad_enabled(False)
    return student_target(D, schedule, x, t, m, s)


def freezes(D, schedule, x, t, m, s):
    D.requires_grad_(False)
    return student_target(D, schedule, x, t, m, s)


def through_x(D, schedule, x, t, m, s):
    """Right, but only the predictions are without gradients."""
    still = lambda x, t: D(x, t).detach()
    return student_target.__wrapped__(still, schedule, x, t, m, s)


def by_numpy(D, schedule, x, t, m, s):
    """Right; numpy takes no x with a gradient."""
    with torch.no_grad():
        x.numpy()
        return student_target(D, schedule, x, t, m, s).numpy()


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
    ("4.1", "takes 0 steps with a budget of 1", unless(
        lambda sampler, budget, guided: sampler == "unipc" and budget // (1 + guided) < 2,
        lambda *inputs: 0)),
    ("4.1", "the first step has no old prediction", unless(
        lambda sampler, budget, guided: sampler == "dpmpp",
        lambda *inputs: max(steps_for(*inputs) - 1, 0))),
    ("4.1", "you round half an evaluation", half_up),
    ("4.1", "the last step has one prediction, and that costs two", unless(
        lambda sampler, budget, guided: sampler == "heun" and guided,
        lambda sampler, budget, guided: (budget + 3) // 4)),
    ("4.2", "but not where one example does", ends_together),
    ("4.2", "no straight line in eta", mixed_by_eta),
    ("4.2", "sets the seed of all random numbers", with_seed(ddim_step)),
    ("4.2", "would be right for sigma-tilde = sigma_s", member(
        kept=lambda d, v, tilde, eta: (1 - eta**2) ** 0.5 * d)),
    ("4.2", "a variance, stands in sigma-tilde", member(
        v=lambda a, b, c, d, eta: eta * d / b * (b**2 - (a / c * d) ** 2))),
    ("4.3", "set no seed, and make no generator", own_generator),
    ("4.3", "changes the table alpha_bar", writes_into_the_table),
    ("4.3", "and the last to 1", one_index_down),
    ("4.3", "the end of the table, pure noise", by_table(final=torch.clone)),
    ("4.3", "one number for each example", by_table(number_for_each)),
    ("4.3", "at eta = 0 the samples depend on z", repaired(
        drawn=lambda a, b, v, eta, toward: (1 - b - toward**2).clamp(min=0) ** 0.5)),
    ("4.4", "for any w, so bound it nowhere", exact(bound=lambda t, w: (t, w.clamp(max=1)))),
    ("4.4", "for any w, so bound it nowhere", exact(bound=lambda t, w: (t, w.clamp(min=0.05)))),
    ("4.4", "not at the ends", exact(bound=lambda t, w: (t.clamp(max=0.99), w))),
    ("4.4", "that is the variance of x_s / alpha_s", exact(
        lambda q, V_s, var_ts, V_t: V_s * var_ts / V_t / q[2] ** 2)),
    ("4.4", "the mean of Ho et al.'s two variances", exact(mean_of_two)),
    ("4.4", "sigma_t^2 is missing above its line", variance(
        lambda a, b, w: w**2 / ((a * w) ** 2 + b**2))),
    ("4.5", "that is the step of the cosine schedule",
     lambda D, schedule, x, t, s: heun()(D, COSINE, x, t, s)),
    ("4.5", "keep nothing from step to step", Keeps()),
    ("4.5", "x0_hat is clamped", clamped_heun),
    ("4.5", "(4.11) adds it", heun(
        first=minus_slope,
        second=lambda D, schedule, x, y, t, s: minus_slope(D, schedule, y, s))),
    ("4.5", "the second prediction is made at the old x", heun(second_at_old_x)),
    ("4.5", "the second slope keeps the first eps_hat", heun(second_with_old_eps)),
    ("4.6", "every order has one digit after the point", rounded),
    ("4.6", "a sampler of order 4: yours says 3.00", at_most_3),
    ("4.8", "with before == after comes back as it was", leaves_same_kind),
    ("4.8", "the result is clamped to [-1, 1]",
     lambda *inputs: edit_with()(*inputs).clamp(-1, 1)),
    ("4.8", "neither the edit nor", lambda *inputs: edit_with()(*inputs).clamp(-1.5, 1.5)),
    ("4.8", "that is unipc on the way down", edit_with(down=samplers.unipc)),
    ("4.8", "your timesteps are quadratic", quadratic),
    ("4.8", "that is the state before the last", edit_with(down=but_the_last)),
    ("4.8", "the sampling takes 2 n steps", edit_with(down=twice_as_many)),
    ("4.8", "you take n - 1 steps each way", edit_with(n_of=lambda n: n - 1)),
    ("4.9", "the target of the flow schedule", other_target(by_flow)),
    ("4.9", "sines of angles", other_target(by_angles)),
    ("4.9", "weighted by t - m and m - s", other_target(by_time)),
    ("4.9", "not where t - s = 0.04", other_target(bounded)),
    ("4.9", "not where t - s = 0.04", first_where_short),
    ("4.9", "expected shape (5, 3)", two_coordinates),
    ("4.9", "not in the step to s = 0", off_the_end),
    ("4.9", "gradients stay switched off", without_gradients),
    ("4.9", "the teacher's parameters do not learn any more", freezes),
    ("4.9", "a gradient flows through it into x", through_x),
    ("4.9", "sets the seed of all random numbers", with_seed(student_target)),
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
    ("4.9", by_numpy),
    ("4.5", in_float32),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


def test_a_grid_near_the_goal_of_4_7_is_judged_alike_each_time():
    said = {judged("4.7", power(2, 0.98)) for _ in range(4)}
    assert len(said) == 1, said


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer, 20 if name == "4.6" else 3)
