"""Lesson 5's checks: each solution is right, each stub is not attempted, and each plausible mistake
gets its own diagnosis.
"""
import warnings
from pathlib import Path

import numpy
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
from torch import nn

import course_lib
from course_lib import Schedule, editing, guidance, samplers
from course_lib.checks import Checker, lesson05
from course_lib.checks.common import one_thread
from course_lib.checks.lesson05 import (
    QUESTIONS,
    guided_moments,
    parse_plain_caption,
    tempered_moments,
)
from course_lib.lab import attributes, data, metrics, noun_parts, sampling
from course_lib.samplers import ddim_invert, last, timesteps
from course_lib.schedules import append_dims

SHEET = Path(__file__).parents[1] / "lessons/05_conditional_generation_exercises.py"


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 5.1

def drop(y, null, p, generator):
    lost = torch.rand(len(y), generator=generator) < p
    return torch.where(lost.view(-1, *[1] * (y.ndim - 1)), null, y)


def drop_one_by_one(y, null, p, generator):
    """Right, with a copy that is changed."""
    y = y.clone()
    y[torch.bernoulli(torch.full((len(y),), p), generator=generator).bool()] = null
    return y


def dropping(dropped=lambda y, p, g: torch.rand(len(y), generator=g) < p, null=lambda null: null):
    """drop with its mask, or what it puts in place of a label, changed."""
    return lambda y, empty, p, g: torch.where(
        dropped(y, p, g).view(-1, *[1] * (y.ndim - 1)), null(empty), y
    )


def exactly(y, p, g):
    lost = torch.zeros(len(y), dtype=torch.bool)
    lost[torch.randperm(len(y), generator=g)[:round(p * len(y))]] = True
    return lost


def drop_in_place(y, null, p, g):
    y[torch.rand(len(y), generator=g) < p] = null
    return y


def drop_words(y, null, p, g):
    return torch.where(torch.rand(y.shape, generator=g) < p, null, y)


def drop_labels_only(y, null, p, g):
    return torch.where(torch.rand(len(y), generator=g) < p, null, y)


DROP = {
    "one random draw decides for the whole batch": (
        dropping(lambda y, p, g: (torch.rand(1, generator=g) < p).expand(len(y)))
    ),
    "that is 1 - p": dropping(lambda y, p, g: torch.rand(len(y), generator=g) > p),
    "a class of its own": dropping(null=lambda null: null - 1),
    "it must become null": dropping(null=lambda null: 3),
    "changes y itself": drop_in_place,
    "single tokens of a caption": drop_words,
    "give the mask a second dimension": drop_labels_only,
    "come from torch's global generator": dropping(lambda y, p, g: torch.rand(len(y)) < p),
    "the same generator gave two different answers": (
        dropping(lambda y, p, g: torch.tensor(numpy.random.default_rng().random(len(y))) < p)
    ),
    "make no generator of your own": (
        dropping(lambda y, p, g: torch.rand(len(y), generator=torch.Generator().manual_seed(0)) < p)
    ),
    "loses exactly": dropping(exactly),
    "a tenth is dropped": dropping(lambda y, p, g: torch.rand(len(y), generator=g) < 0.1),
    "is dropped": dropping(lambda y, p, g: torch.randn(len(y), generator=g) < p),
    "no label was dropped": lambda y, null, p, g: y.clone(),
    "every label was dropped": lambda y, null, p, g: torch.full_like(y, null),
    "that is the mask of dropped labels": (
        lambda y, null, p, g: torch.rand(y.shape, generator=g) < p
    ),
    "an embedding cannot look them up": lambda *a: drop(*a).float(),
    "at p = 0 some labels": (
        dropping(lambda y, p, g: torch.rand(len(y), generator=g) < max(p, 0.05))
    ),
    "at p = 1 some labels": (
        dropping(lambda y, p, g: torch.rand(len(y), generator=g) < min(p, 0.95))
    ),
    "does it end with `return`": lambda *a: None,
}

# ---- 5.2


def cfg(D, w, null):
    def guided(x, t, **condition):
        weight = w(t) if callable(w) else w
        if weight == 1:
            return D(x, t, **condition)
        u, c = D(x, t, **{**condition, **null}), D(x, t, **condition)
        return u + weight * (c - u)
    return guided


def free(
    combine=lambda u, c, w: u + w * (c - u),
    without=lambda D, x, t, condition, null: D(x, t, **condition | null),
    given=lambda D, x, t, condition: D(x, t, **condition),
    once=True,
):
    """cfg with its weights, or one of its evaluations, changed."""
    def answer(D, w, null):
        def guided(x, t, **condition):
            weight = w(t) if callable(w) else w
            if weight == 1 and once:
                return D(x, t, **condition)
            return combine(without(D, x, t, condition, null), given(D, x, t, condition), weight)
        return guided
    return answer


def numbers_only(D, w, null):
    return lambda x, t, **condition: (
        D(x, t, **condition)
        if w == 1
        else (1 - w) * D(x, t, **condition | null) + w * D(x, t, **condition)
    )


def updates_null(D, w, null):
    def guided(x, t, **condition):
        c = D(x, t, **condition)
        weight = w(t) if callable(w) else w
        for key, value in condition.items():
            null.setdefault(key, value)
        u = D(x, t, **null)
        return c if weight == 1 else u + weight * (c - u)
    return guided


def bare(D, x, t, condition, null):
    return D(x, t, **null)


def only_y(D, x, t, condition):
    return D(x, t, y=condition["y"])


CFG = {
    "that is c + w (c - u), the paper's scale": free(lambda u, c, w: c + w * (c - u)),
    "you guide by w - 1": free(lambda u, c, w: u + (w - 1) * (c - u)),
    "the difference has the wrong sign": free(lambda u, c, w: u - w * (c - u)),
    "u and c have changed places": free(lambda u, c, w: c + w * (u - c)),
    "u + w c: the difference is missing": free(lambda u, c, w: u + w * c),
    "it is added to u, the unconditional prediction": free(lambda u, c, w: w * (c - u)),
    "Does the null win": free(without=lambda D, x, t, condition, null: D(x, t, **null | condition)),
    "did the null get into both evaluations": (
        free(given=lambda D, x, t, condition: D(x, t, **condition | {"y": 3}))
    ),
    "the null evaluation loses the other conditions": free(without=bare),
    "the conditional evaluation loses the other": free(given=only_y),
    "both evaluations lose the other": free(without=bare, given=only_y),
    "w is squared": free(lambda u, c, w: u + w**2 * (c - u)),
    "x has not changed": lambda D, w, null: lambda x, t, **condition: (D(x, t, **condition), x)[1],
    "changes the dict null": updates_null,
    "test callable(w)": numbers_only,
    "twice is enough": free(
        lambda u, c, w: u + w * (c - u),
        given=lambda D, x, t, condition: (D(x, t, **condition), D(x, t, **condition))[1],
    ),
    "evaluate once there": free(once=False),
    "at w = 1 that is not the conditional": lambda D, w, null: (
        lambda x, t, **condition: (
            free()(D, w, null)(x, t, **condition) * (1.01 if not callable(w) and w == 1 else 1)
        )
    ),
    "at w = 0 that is not the unconditional": lambda D, w, null: (
        lambda x, t, **condition: (
            D(x, t, **condition) if w == 0 else free()(D, w, null)(x, t, **condition)
        )
    ),
    "the weights add up to 1": free(lambda u, c, w: w * u + w * c),
    "does it end with `return guided`": lambda D, w, null: None,
    "does it end with `return`?": lambda D, w, null: lambda x, t, **condition: None,
}

# ---- 5.3


class Guided(nn.Module):
    def __init__(self, net, w=7.5, p=0.1, null=10):
        super().__init__()
        self.net = net
        self.w = w
        self.p = p
        self.null = null

    def forward(self, x, t, y=None):
        empty = torch.full((len(x),), self.null, device=x.device)
        if y is None:
            return self.net(x, t, y=empty)
        if self.training:
            return self.net(
                x, t, y=torch.where(torch.rand(len(x), device=x.device) < self.p, empty, y)
            )
        u, c = self.net(x, t, y=empty), self.net(x, t, y=y)
        return u + self.w * (c - u)


class InOneBatch(Guided):
    """Right, with both predictions from one evaluation of twice the size."""

    def forward(self, x, t, y=None):
        if self.training or y is None:
            return super().forward(x, t, y)
        both = torch.cat([torch.full_like(y, self.null), y])
        u, c = self.net(torch.cat([x, x]), t, y=both).chunk(2)
        return torch.lerp(u, c, self.w)


class Copied:
    """The outline's class as it was given."""

    def __init__(self, net, w=7.5, p=0.1, null=10):
        self.model = net
        self.guidance_scale = w
        self.unconditional_prob = p

    def forward(self, x, t, y=None):
        if y is None or self.training:
            if self.training and torch.rand(1) < self.unconditional_prob:
                y = None
            return self.model(x, t, y)
        u, c = self.model(x, t, y=None), self.model(x, t, y=y)
        return u + self.guidance_scale * (c - u)


class CopiedModule(Copied, nn.Module):
    """The same, with nn.Module only."""

    def __init__(self, net, w=7.5, p=0.1, null=10):
        nn.Module.__init__(self)
        Copied.__init__(self, net, w, p, null)


class WithoutSuper(nn.Module):
    def __init__(self, net, w, p, null):
        self.net = net


class WithoutForward(nn.Module):
    def __init__(self, net, w, p, null):
        super().__init__()
        self.net = net


class Hiding(nn.Module):
    def __init__(self, net, w, p, null):
        super().__init__()
        self.hidden = [Guided(net, w, p, null)]

    def forward(self, x, t, y=None):
        self.hidden[0].train(self.training)
        return self.hidden[0](x, t, y)


def made(train=None, evaluate=None, nothing=None):
    """Guided with one of its three modes changed: functions of (self, x, t, y)."""
    class Changed(Guided):
        def forward(self, x, t, y=None):
            mode = nothing if y is None else train if self.training else evaluate
            return super().forward(x, t, y) if mode is None else mode(self, x, t, y)
    return Changed


def dropped(self, y, p=None):
    return torch.rand(len(y)) < (self.p if p is None else p)


def mixed(combine, null=lambda self: self.null):
    def forward(self, x, t, y):
        u, c = self.net(x, t, y=torch.full_like(y, null(self))), self.net(x, t, y=y)
        return combine(u, c, self.w)
    return forward


def dropped_in_place(self, x, t, y):
    y[dropped(self, y)] = self.null
    return self.net(x, t, y=y)


def drops_and_guides(self, x, t, y):
    y = torch.where(dropped(self, y), self.null, y)
    return mixed(lambda u, c, w: u + w * (c - u))(self, x, t, y)


lost = lambda change: lambda self, x, t, y: self.net(x, t, y=change(self, y))

WRAPPER = {
    "your object is no nn.Module": Copied,
    "call the network as denoisers are called": CopiedModule,
    "for which it has no embedding": made(nothing=lambda self, x, t, y: self.net(x, t)),
    "call super().__init__() first": WithoutSuper,
    "the network is not registered": Hiding,
    "in training one random draw decides": made(
        train=lost(lambda self, y: torch.full_like(y, self.null) if torch.rand(1) < self.p else y)
    ),
    "is dropped in training: that is 1 - p": (
        made(train=lost(lambda self, y: torch.where(torch.rand(len(y)) > self.p, self.null, y)))
    ),
    "null = 4 is the number after": (
        made(train=lost(lambda self, y: torch.where(dropped(self, y), self.null - 1, y)))
    ),
    "dropped labels become other classes": (
        made(train=lost(lambda self, y: torch.where(dropped(self, y), (y + 1) % 4, y)))
    ),
    "in training mode no label is dropped": made(train=lost(lambda self, y: y)),
    "is dropped in training": (
        made(train=lost(lambda self, y: torch.where(torch.rand(len(y)) < 0.6, self.null, y)))
    ),
    "in training two evaluations": made(train=mixed(lambda u, c, w: u + w * (c - u))),
    "in training your forward changes y": made(train=dropped_in_place),
    "must be returned as it is": made(
        train=lambda self, x, t, y: (
            2 * self.net(x, t, y=torch.where(dropped(self, y), self.null, y))
        )
    ),
    "after .eval() labels are dropped": made(evaluate=drops_and_guides),
    "after .eval() nothing is guided": made(evaluate=lambda self, x, t, y: self.net(x, t, y=y)),
    "c + w (c - u) is the paper's": made(evaluate=mixed(lambda u, c, w: c + w * (c - u))),
    "in evaluation the difference": made(evaluate=mixed(lambda u, c, w: u - w * (c - u))),
    "in evaluation u and c have": made(evaluate=mixed(lambda u, c, w: c + w * (u - c))),
    "that is w (c - u) alone": made(evaluate=mixed(lambda u, c, w: w * (c - u))),
    "another class stands for the null label": (
        made(evaluate=mixed(lambda u, c, w: u + w * (c - u), lambda self: self.null - 1))
    ),
    "in evaluation that is not (5.9)": made(evaluate=mixed(lambda u, c, w: w * u + c)),
    "two are enough": made(
        evaluate=lambda self, x, t, y: (
            0 * self.net(x, t, y=y) + mixed(lambda u, c, w: u + w * (c - u))(self, x, t, y)
        )
    ),
    "without y your forward fails": made(nothing=lambda self, x, t, y: self.net(x, t, y=len(y))),
    "without y the output must be": made(
        nothing=lambda self, x, t, y: self.w * self.net(x, t, y=torch.full((len(x),), self.null))
    ),
    "has no forward": WithoutForward,
    "that returned None": lambda net, w, p, null: None,
}

# ---- 5.4


def bells(w, m, s, S):
    """By the integral of (5.15), cut off at a large r and completed by its tail w / r."""
    r = torch.cat([torch.linspace(0, 20, 40_001), torch.logspace(1.30103, 4, 20_001)]).double()
    h = (s**2 + r**2) ** (w / 2) * (S**2 + r**2) ** ((1 - w) / 2)
    integral = torch.trapezoid(w * r / ((s**2 + r**2) * h), r) + w / r[-1]
    return *tempered_moments(w, m, s, S), m * h[0] * integral, h[0].item()


def bells_by_running(w, m, s, S):
    """Right, by ddim on the two exact denoisers from two points, with the 1,000 steps that the
    check advises: the map from start to end is linear.
    """
    cosine = Schedule.cosine()
    bell = lambda mean, std: data.GaussianMixture([[mean]], std).denoiser(cosine)
    D = lambda x, t: (1 - w) * bell(0.0, S)(x, t) + w * bell(m, s)(x, t)
    ends = last(
        samplers.ddim(
            D, cosine, torch.tensor([[0.0], [1.0]]).double(), timesteps(cosine, 1000, start=0.999)
        )
    )[:, 0]
    z = torch.linspace(-12, 12, 20_001).double()
    log = (1 - w) * -z**2 / (2 * S**2) - w * (z - m) ** 2 / (2 * s**2)
    p = log.softmax(0)
    mean = (p * z).sum()
    return [mean, (p * (z - mean) ** 2).sum().sqrt(), ends[0], ends[1] - ends[0]]


def belled(low=None, high=None):
    """bells with one of its pairs changed: low and high are functions of (w, m, s, S)."""
    return lambda *a: (*(low or tempered_moments)(*a), *(high or guided_moments)(*a))


def by_curvature(curvature, slope=lambda w, m, s, S: w * m / s**2):
    return lambda *a: (slope(*a) / curvature(*a), curvature(*a) ** -0.5)


def whole_powers(w, m, s, S):
    r = torch.linspace(0, 300, 300_001).double()
    h = (s**2 + r**2) ** w * (S**2 + r**2) ** (1 - w)
    return m * h[0] * torch.trapezoid(w * r / ((s**2 + r**2) * h), r), h[0]


def second(change):
    """The guided pair, changed: change(mean, width, w, m, s, S)."""
    return lambda *a: change(*guided_moments(*a), *a)


BELLS = {
    "tempered: that is a variance": (
        belled(lambda *a: (tempered_moments(*a)[0], tempered_moments(*a)[1] ** 2))
    ),
    "still to be multiplied by the variance": (
        belled(lambda w, m, s, S: (w * m / s**2, tempered_moments(w, m, s, S)[1]))
    ),
    "that is q(x|y)^w alone": belled(lambda w, m, s, S: (m, s / w**0.5)),
    "tempered: that is the class as it is": belled(lambda w, m, s, S: (m, s)),
    "tempered: that is right for S = 1": belled(lambda w, m, s, S: tempered_moments(w, m, s, 1.0)),
    "tempered: that is w + 1": belled(lambda w, m, s, S: tempered_moments(w + 1, m, s, S)),
    "the power 1 - w, not w - 1": (
        belled(by_curvature(lambda w, m, s, S: w / s**2 + (w - 1) / S**2))
    ),
    "that is q(x) q(x|y)^w": belled(by_curvature(lambda w, m, s, S: w / s**2 + 1 / S**2)),
    "the two pairs have changed places": belled(guided_moments, tempered_moments),
    "that is the tempered density once more": belled(high=tempered_moments),
    "guided: that is the class as it is": belled(high=lambda w, m, s, S: (m, s)),
    "w does not simply multiply": belled(high=lambda w, m, s, S: (w * m, s)),
    "a second factor": belled(high=second(lambda mean, width, w, m, s, S: (mean, s**w))),
    "the mean is right, but that is a variance": (
        belled(high=second(lambda mean, width, w, *a: (mean, width**2)))
    ),
    "the w in front of the integral": (
        belled(high=second(lambda mean, width, w, *a: (mean / w, width)))
    ),
    "the factor h(0) is missing": (
        belled(high=second(lambda mean, width, *a: (mean / width, width)))
    ),
    "in the mean m is missing": (
        belled(high=second(lambda mean, width, w, m, *a: (mean / m, width)))
    ),
    "guided: that is right for S = 1": belled(high=lambda w, m, s, S: guided_moments(w, m, s, 1.0)),
    "guided: that is w + 1": belled(high=lambda w, m, s, S: guided_moments(w + 1, m, s, S)),
    "h has the powers w / 2": belled(high=whole_powers),
    "the mean moves, too": (
        belled(high=second(lambda mean, width, *a: (tempered_moments(*a)[0], width)))
    ),
    "complete the square": belled(lambda *a: (1.0, 2.0)),
    "their difference the std": belled(high=lambda *a: (1.0, 2.0)),
    "are nan or inf": belled(lambda *a: (float("nan"), 1.0)),
    "got 3": lambda w, m, s, S: (1.0, 2.0, 3.0),
    "in this order": lambda w, m, s, S: 3.0,
    "does it end with `return`": lambda *a: None,
}

# ---- 5.5


def repaint_step(D, schedule, x, known, mask, t, s, repeats, noise):
    for k in range(repeats if s > 0 else 1):
        x = samplers.step(schedule, x, D(x, t), t, s)
        x = mask * x + (1 - mask) * schedule.perturb(known.expand_as(x), s, noise())
        if k < repeats - 1 and s > 0:
            ratio = schedule.alpha(t) / schedule.alpha(s)
            x = (
                ratio * x
                + (schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2).sqrt() * noise()
            )
    return x


def repaint_by_hand(D, schedule, x, known, mask, t, s, repeats, noise):
    """Right, with every formula written out, and the known part put in by where."""
    a = schedule.alpha(t)
    b = schedule.sigma(t)
    c = schedule.alpha(s)
    d = schedule.sigma(s)
    for left in reversed(range(repeats)):
        x0_hat = D(x, t)
        x = c * x0_hat + d * (x - a * x0_hat) / b
        if s == 0:
            return torch.where(mask.bool(), x, known)
        x = torch.where(mask > 0.5, x, c * known + d * noise())
        if left:
            x = a / c * x + (b**2 - (a * d / c) ** 2) ** 0.5 * noise()
    return x


def repaints(
    paste=None,
    up=None,
    times=lambda repeats, s: repeats if s > 0 else 1,
    step=lambda D, schedule, x, known, mask, t, s: samplers.step(schedule, x, D(x, t), t, s),
    last_up=False,
    first=False,
    keep=False,
):
    """repaint_step with parts changed.

    paste and up are functions of (schedule, x, known, mask, t, s, z).
    """
    def answer(D, schedule, x, known, mask, t, s, repeats, noise):
        put = paste or (
            lambda schedule, x, known, mask, t, s, z: (
                mask * x + (1 - mask) * (schedule.alpha(s) * known + schedule.sigma(s) * z)
            )
        )
        lift = up or rise
        one = noise() if keep else None
        rounds = times(repeats, s)
        for k in range(rounds):
            if first:
                x = put(schedule, x, known, mask, t, s, noise())
            x = step(D, schedule, x, known, mask, t, s)
            if not first:
                x = put(schedule, x, known, mask, t, s, one if keep else noise())
            if k < rounds - 1 or last_up:
                x = lift(schedule, x, known, mask, t, s, noise())
        return x
    return answer


def rise(schedule, x, known, mask, t, s, z, root=lambda v: v.sqrt(), front=True):
    ratio = schedule.alpha(t) / schedule.alpha(s)
    return (
        (ratio if front else 1) * x
        + root(schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2) * z
    )


def keep_known(level):
    """A paste whose known part is level(schedule, known, t, s, z)."""
    return lambda schedule, x, known, mask, t, s, z: (
        mask * x + (1 - mask) * level(schedule, known, t, s, z)
    )


def at_s(schedule, known, t, s, z):
    return schedule.alpha(s) * known + schedule.sigma(s) * z


def x0_hat_pasted(D, schedule, x, known, mask, t, s):
    return samplers.step(schedule, x, mask * D(x, t) + (1 - mask) * known, t, s)


def unfinished(D, schedule, x, known, mask, t, s, repeats, noise):
    """Copied: nothing is pasted in the last step."""
    return (
        repaint_step(D, schedule, x, known, mask, t, s, repeats, noise)
        if s > 0
        else samplers.step(schedule, x, D(x, t), t, s)
    )


def own_noise(D, schedule, x, known, mask, t, s, repeats, noise):
    return repaint_step(D, schedule, x, known, mask, t, s, repeats, lambda: torch.randn_like(x))


def in_place(D, schedule, x, known, mask, t, s, repeats, noise):
    x *= 1.5
    return repaint_step(D, schedule, x / 1.5, known, mask, t, s, repeats, noise)


def nearly(D, schedule, x, known, mask, t, s, repeats, noise):
    return repaint_step(D, schedule, x, known, mask, t, s, repeats, noise) + (0 if s > 0 else 1e-7)


def asks_again(D, schedule, x, known, mask, t, s, repeats, noise):
    return (
        repaint_step(D, schedule, x, known, mask, t, s, repeats, noise)
        + (0 if s > 0 else 0 * D(x, t) + 0 * D(x, t))
    )


def over_sigma(D, schedule, x, known, mask, t, s, repeats, noise):
    return (
        repaint_step(D, schedule, x, known, mask, t, s, repeats, noise)
        / schedule.sigma(s)
        * schedule.sigma(s)
    )


REPAINT = {
    "with the noise of level t": repaints(
        keep_known(
            lambda schedule, known, t, s, z: schedule.alpha(t) * known + schedule.sigma(t) * z
        )
    ),
    "the clean known part is pasted": repaints(keep_known(lambda schedule, known, t, s, z: known)),
    "pasted without its noise": (
        repaints(keep_known(lambda schedule, known, t, s, z: schedule.alpha(s) * known))
    ),
    "multiplied by a variance, sigma_s^2": repaints(
        keep_known(
            lambda schedule, known, t, s, z: schedule.alpha(s) * known + schedule.sigma(s) ** 2 * z
        )
    ),
    "is not multiplied by alpha_s": (
        repaints(keep_known(lambda schedule, known, t, s, z: known + schedule.sigma(s) * z))
    ),
    "the mask is inverted": repaints(
        lambda schedule, x, known, mask, t, s, z: (
            (1 - mask) * x + mask * at_s(schedule, known, t, s, z)
        )
    ),
    "before the step, and not after it": repaints(first=True),
    "nothing is pasted: that is": repaints(lambda schedule, x, *others: x),
    "section 5.15's other method": repaints(lambda schedule, x, *others: x, step=x0_hat_pasted),
    "the pasted part alone": (
        repaints(lambda schedule, x, known, mask, t, s, z: at_s(schedule, known, t, s, z))
    ),
    "x has not changed": lambda D, schedule, x, *others: x.clone(),
    "noised back to t once more": repaints(last_up=True),
    "must be noised back to t": repaints(up=lambda schedule, x, *others: x),
    "without fresh noise": repaints(
        up=lambda schedule, x, known, mask, t, s, z: schedule.alpha(t) / schedule.alpha(s) * x
    ),
    "adds all of sigma_t": repaints(
        up=lambda schedule, x, known, mask, t, s, z: (
            schedule.alpha(t) / schedule.alpha(s) * x + schedule.sigma(t) * z
        )
    ),
    "takes x_s for clean": repaints(
        up=lambda schedule, x, known, mask, t, s, z: schedule.alpha(t) * x + schedule.sigma(t) * z
    ),
    "forgets alpha_t / alpha_s": repaints(up=lambda *a: rise(*a, front=False)),
    "right only where alpha^2 + sigma^2 = 1": repaints(
        up=lambda schedule, x, known, mask, t, s, z: (
            schedule.alpha(t) / schedule.alpha(s) * x
            + (1 - (schedule.alpha(t) / schedule.alpha(s)) ** 2).sqrt() * z
        )
    ),
    "multiplies its noise by a variance": repaints(up=lambda *a: rise(*a, root=lambda v: v)),
    "repeats says how often": repaints(times=lambda repeats, s: 1),
    "one repeat too few": repaints(times=lambda repeats, s: max(repeats - 1, 1) if s > 0 else 1),
    "one repeat too many": repaints(times=lambda repeats, s: repeats + 1),
    "the same noise is pasted each time": repaints(keep=True),
    "in the step to s = 0 nothing is pasted": unfinished,
    "the step to s = 0 is repeated": repaints(times=lambda repeats, s: repeats),
    "you draw noise of your own": own_noise,
    "changes the tensors": in_place,
    "not the original to the bit": nearly,
    "in the step to s = 0 the denoiser was evaluated": asks_again,
    "nan or inf in the step to s = 0": over_sigma,
    "Go through it": repaints(keep_known(lambda schedule, known, t, s, z: 0.3 * known)),
    "noise() is called too often": repaints(times=lambda repeats, s: 10),
    "does it end with `return`": lambda *a: None,
}

# ---- 5.6


def edit(D, schedule, x0, before, after, n, w, null):
    ts = timesteps(schedule, n)
    noise = last(ddim_invert(D, schedule, x0, ts.flip(0), **before))
    return last(samplers.ddim(guidance.cfg(D, w, null), schedule, noise, ts, **after))


def edit_by_hand(D, schedule, x0, before, after, n, w, null):
    """Right, with steps and guidance written out."""
    ts = timesteps(schedule, n)
    noise = last(ddim_invert(lambda x, t: D(x, t, **before), schedule, x0, ts.flip(0)))
    x = noise
    for t, s in zip(ts[:-1], ts[1:]):
        u, c = D(x, t, **after | null), D(x, t, **after)
        x = samplers.step(schedule, x, u + w * (c - u), t, s)
    return x.float()


def edits(
    up=lambda D, before, after, null, guide: (D, before),
    down=lambda D, before, after, null, guide: (guide, after),
    weight=lambda w: w,
    steps=lambda n: n,
    rise=lambda ts: ts.flip(0),
):
    """edit with its parts changed: up and down give the denoiser and condition of each."""
    def answer(D, schedule, x0, before, after, n, w, null):
        ts = timesteps(schedule, steps(n))
        guide = guidance.cfg(D, weight(w), null)
        options = D, before, after, null, guide
        D_up, condition_up = up(*options)
        D_down, condition_down = down(*options)
        z = last(ddim_invert(D_up, schedule, x0, rise(ts), **condition_up))
        return last(samplers.ddim(D_down, schedule, z, ts, **condition_down))

    return answer


def from_before(D, schedule, x0, before, after, n, w, null):
    return edits(down=lambda D, before, after, null, guide: (guidance.cfg(D, w, before), after))(
        D, schedule, x0, before, after, n, w, null
    )


def fresh(D, schedule, x0, before, after, n, w, null):
    z = torch.randn_like(x0)
    guided = guidance.cfg(D, w, null)
    return last(samplers.ddim(guided, schedule, z, timesteps(schedule, n), **after))


EDIT = {
    "(the way down) is not guided": edits(down=lambda D, before, after, null, guide: (D, after)),
    "are both guided": edits(up=lambda D, before, after, null, guide: (guide, before)),
    "inversion is guided": edits(
        lambda D, before, after, null, guide: (guide, before),
        lambda D, before, after, null, guide: (D, after),
    ),
    "(the way up) has the condition `after`": (
        edits(up=lambda D, before, after, null, guide: (D, after))
    ),
    "(the way down) has the condition `before`": (
        edits(down=lambda D, before, after, null, guide: (guide, before))
    ),
    "`before` and `after` have changed": edits(
        lambda D, before, after, null, guide: (D, after),
        lambda D, before, after, null, guide: (guide, before),
    ),
    "inversion has the null condition": edits(up=lambda D, before, after, null, guide: (D, null)),
    "w = 1 is no guidance": edits(weight=lambda w: w + 1),
    "guidance leads away from `before`": from_before,
    "sampling is missing": lambda D, schedule, x0, before, after, n, w, null: last(
        ddim_invert(D, schedule, x0, timesteps(schedule, n).flip(0), **before)
    ),
    "there is no inversion": lambda D, schedule, x0, before, after, n, w, null: last(
        samplers.ddim(guidance.cfg(D, w, null), schedule, x0, timesteps(schedule, n), **after)
    ),
    "x has not changed": lambda D, schedule, x0, *others: x0.clone(),
    "have n steps each": edits(steps=lambda n: n // 2),
    "no condition but null": edits(down=lambda D, before, after, null, guide: (D, null)),
    "draw no noise of your own": fresh,
    "its ts must rise": edits(rise=lambda ts: ts),
    "ddim goes from noise to data": lambda D, schedule, x0, before, after, n, w, null: last(
        samplers.ddim(D, schedule, x0, timesteps(schedule, n).flip(0), **before)
    ),
    "take the end, last(...)": lambda D, schedule, x0, before, after, n, w, null: editing.ddim_edit(
        D, schedule, x0, n, before, after, D_down=guidance.cfg(D, w, null)
    ),
    "a mistake that is known here": lambda *a: 0.8 * edit(*a),
    "does it end with `return`": lambda *a: None,
}

# ---- 5.7


def steer(D, schedule, classify, y, w):
    def guided(x, t):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            log_p = classify(x, t).log_softmax(1).gather(1, y[:, None]).sum()
            grad, = torch.autograd.grad(log_p, x)
        return (
            D(x.detach(), t) + append_dims(w * schedule.sigma(t) ** 2 / schedule.alpha(t), x) * grad
        )
    return guided


def steer_by_library(D, schedule, classify, y, w):
    """Right, by cross-entropy and the library's function."""
    return guidance.classifier_guidance(
        D,
        schedule,
        lambda x, t: -torch.nn.functional.cross_entropy(classify(x, t), y, reduction="none"),
        w,
    )


def steers(
    value=lambda logits, y: logits.log_softmax(1).gather(1, y[:, None]).sum(),
    factor=lambda a, b: b**2 / a,
    see=lambda D, x, t, a: (x, t),
    weight=lambda w: w,
    combine=lambda x0_hat, term, x: x0_hat + term,
    shape=append_dims,
):
    """steer with parts changed."""
    def answer(D, schedule, classify, y, w):
        def guided(x, t):
            a, b = schedule.alpha(t), schedule.sigma(t)
            with torch.enable_grad():
                z = x.detach().requires_grad_()
                grad, = torch.autograd.grad(value(classify(*see(D, z, t, append_dims(a, z))), y), z)
            return combine(D(x, t), shape(weight(w) * factor(a, b), x) * grad, x)
        return guided
    return answer


def pick(table, y):
    return table.gather(1, y[:, None]).sum()


def without_enable(D, schedule, classify, y, w):
    def guided(x, t):
        z = x.detach().requires_grad_()
        grad, = torch.autograd.grad(pick(classify(z, t).log_softmax(1), y), z)
        return D(x, t) + grad
    return guided


def one_by_one(D, schedule, classify, y, w):
    def guided(x, t):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            grad, = torch.autograd.grad(classify(z, t).log_softmax(1).gather(1, y[:, None]), z)
        return D(x, t) + grad
    return guided


def marks_x(D, schedule, classify, y, w):
    def guided(x, t):
        with torch.enable_grad():
            x.requires_grad_()
            grad, = torch.autograd.grad(pick(classify(x, t).log_softmax(1), y), x)
        return D(x, t) + append_dims(w * schedule.sigma(t) ** 2 / schedule.alpha(t), x) * grad
    return guided


def keeps_the_graph(D, schedule, classify, y, w):
    def guided(x, t):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            grad, = torch.autograd.grad(pick(classify(x, t).log_softmax(1), y), x)
            return D(x, t) + append_dims(w * schedule.sigma(t) ** 2 / schedule.alpha(t), x) * grad
    return guided


STEER = {
    "the sign: the gradient of log p is added": (
        steers(combine=lambda x0_hat, term, x: x0_hat - term)
    ),
    "sigma^2 / alpha is missing": steers(factor=lambda a, b: 1 + 0 * a),
    "sigma stands where sigma^2": steers(factor=lambda a, b: b / a),
    "the division by alpha is missing": steers(factor=lambda a, b: b**2),
    "one alpha too many": steers(factor=lambda a, b: (b / a) ** 2),
    "the factor is upside down": steers(factor=lambda a, b: a / b**2),
    "of a raw logit": steers(pick),
    "that is the gradient of p;": steers(lambda logits, y: pick(logits.softmax(1), y)),
    "the mean over the batch": steers(lambda logits, y: pick(logits.log_softmax(1), y) / len(y)),
    "over the examples (dim=0)": steers(lambda logits, y: pick(logits.log_softmax(0), y)),
    "of all classes are added up": steers(lambda logits, y: logits.log_softmax(1).sum()),
    "not the y that was asked for": steers(lambda logits, y: logits.log_softmax(1).amax(1).sum()),
    "is evaluated at x / alpha": steers(see=lambda D, x, t, a: (x / a, t)),
    "is evaluated at x0_hat = D(x, t)": steers(see=lambda D, x, t, a: (D(x, t), t)),
    "is evaluated at t = 0": steers(see=lambda D, x, t, a: (x, torch.zeros_like(t))),
    "w is not used": steers(weight=lambda w: 1.0),
    "you guide by w + 1": steers(weight=lambda w: w + 1),
    "that is the unguided prediction": steers(combine=lambda x0_hat, term, x: x0_hat),
    "that is the guidance term alone": steers(combine=lambda x0_hat, term, x: term),
    "it belongs to the prediction": steers(combine=lambda x0_hat, term, x: x + term),
    "samplers run under no_grad": without_enable,
    "sum over the batch first": one_by_one,
    "has changed the caller's x": marks_x,
    "keep every step in memory": keeps_the_graph,
    "append_dims(..., x) (": steers(shape=lambda c, x: c),
    "one by one": steers(weight=lambda w: 0.3),
    "does it end with `return guided`": lambda *a: None,
    "does it end with `return`?": lambda *a: lambda x, t: None,
}

# ---- 5.8

EXPECTED = {
    "background": "cool",
    "body": "red",
    "accessory": "heart",
    "head": "shark",
    "glasses": "blue",
}
LONG = (
    "a shark-headed noun with blue glasses, wearing a heart, red body, cool background"
    + ", a noun" * 12
)


def tells(caption, part="head", reason="unknown words", parts=EXPECTED):
    return lambda: (caption, parts, part, reason)


IMPOSSIBLE = {
    "yours asks for nothing": tells("..."),
    "parts is a dict": tells("a shark", parts={"head": "shark"}),
    "part must be one of": tells("a shark", part="nose"),
    "the reason must be one of": tells("a shark", reason="no idea"),
    "could not draw that from the five parts": (
        tells("a platypus head", parts=EXPECTED | {"head": "platypus"})
    ),
    "the reason is another one": tells("a shark head, blue glasses"),
    "that is not why": tells("a shark head", reason="too long"),
    "it does not name the accessory": tells(LONG.replace("a heart", "nothing"), reason="too long"),
    "refused before anything is drawn": tells(LONG, reason="known words"),
    "the reason is simpler than you say": tells("a sea predator head", reason="known words"),
    "your caption names 1 head": tells("a shark head", reason="two at once"),
    "'shark' is none": tells("a panda-headed noun with a pizza head", reason="two at once"),
    "more than one head": tells("a shark-headed noun with a pizza head, please"),
    "a person would not draw that": tells("please, a panda head"),
    "a person would not know what to draw": tells("qwerty"),
    "nothing in your caption speaks of the body": tells("qwerty, blue glasses", part="body"),
    "that is no failure": tells("a figure with blue glasses", reason="known words"),
    "it can do this": tells("a cool background", part="background", reason="known words"),
    "four things are wanted": lambda: "a platypus",
    "does it end with `return`": lambda: None,
}

# ---- 5.9


def generalisation(draw, n):
    shares = {}
    for split in ("test", "pairs"):
        parts = noun_parts.draw_parts(n, split=split)
        shares[split] = (
            attributes.attributes_correct(draw(noun_parts.plain_captions(parts)), parts)
            .float()
            .mean(0)
        )
    return shares


def all_at_once(draw, n):
    """Right, with one call of draw, other nouns, and lists."""
    parts = torch.cat(
        [noun_parts.draw_parts(n, seed=9, split=split) for split in ("test", "pairs")]
    )
    right = attributes.attributes_correct(draw(noun_parts.plain_captions(parts)), parts).double()
    return {"pairs": right[n:].mean(0).tolist(), "test": right[:n].mean(0).tolist()}


def measures(
    mean=lambda right: right.float().mean(0),
    splits=("test", "pairs"),
    count=lambda n: n,
    words=noun_parts.plain_captions,
    other=lambda parts, split: parts,
    picture=lambda x, parts: x,
):
    def answer(draw, n):
        result = {}
        for name, split in zip(("test", "pairs"), splits):
            parts = noun_parts.draw_parts(count(n), split=split)
            result[name] = mean(
                attributes.attributes_correct(
                    picture(draw(words(parts)), parts), other(parts, split)
                )
            )
        return result
    return answer


def together(draw, n):
    shares = generalisation(draw, n)
    return {name: (shares["test"] + shares["pairs"]) / 2 for name in shares}


def pairs_left_out(draw, n):
    parts = noun_parts.draw_parts(n, split="test")
    return {
        "test": attributes.attributes_correct(draw(noun_parts.plain_captions(parts)), parts)
        .float()
        .mean(0)
    }


def without_names(draw, n):
    return tuple(generalisation(draw, n).values())


def with_train(draw, n):
    draw(noun_parts.plain_captions(noun_parts.draw_parts(n)))
    return generalisation(draw, n)


def one_caption(draw, n):
    return draw(noun_parts.plain_captions(noun_parts.draw_parts(n, split="test"))[0])


GENERAL = {
    "a model that has memorised them": measures(splits=("train", "train")),
    "beside the right ones": with_train,
    "take the split pairs, too": pairs_left_out,
    "no picture is of the split test": measures(splits=("pairs", "pairs")),
    "n = 6 pictures of each split": measures(count=lambda n: n + 1),
    "n = 6 pictures in all": measures(count=lambda n: n // 2),
    "take the plain wording": measures(words=lambda parts: noun_parts.captions(parts, seed=1)),
    "draw takes a list of captions; you pass one": one_caption,
    "the two splits have changed places": measures(splits=("pairs", "test")),
    "in which all five parts are right": measures(lambda right: right.all(1).float().mean()),
    "one number for all parts": measures(lambda right: right.float().mean()),
    "those are the matches of each picture": measures(lambda right: right),
    "the mean is taken over the parts": measures(lambda right: right.float().mean(1)),
    "fractions of *wrong* parts": measures(lambda right: 1 - right.float().mean(0)),
    "those are counts": measures(lambda right: right.sum(0)),
    "those are percent": measures(lambda right: 100 * right.float().mean(0)),
    "the mean of both splits together": together,
    "yours are reversed": measures(lambda right: right.float().mean(0).flip(0)),
    "or the real ones": measures(picture=lambda x, parts: noun_parts.render(parts)),
    "in the same order?": (
        measures(other=lambda parts, split: noun_parts.draw_parts(len(parts), seed=7, split=split))
    ),
    "a dict with": without_names,
    "nothing was drawn": lambda draw, n: {"test": torch.ones(5), "pairs": torch.ones(5)},
    "does it end with `return`": lambda draw, n: None,
}

RIGHT = {
    "5.1": drop,
    "5.2": cfg,
    "5.3": Guided,
    "5.4": bells,
    "5.5": repaint_step,
    "5.6": edit,
    "5.7": steer,
    "5.8": tells("a figure with the head of a sea predator, blue glasses"),
    "5.9": generalisation,
}
OTHER_STYLE = {
    "5.1": drop_one_by_one,
    "5.2": guidance.cfg,
    "5.3": InOneBatch,
    "5.4": bells_by_running,
    "5.5": repaint_by_hand,
    "5.6": edit_by_hand,
    "5.7": steer_by_library,
    "5.8": ("a shark-headed noun with a pizza head", EXPECTED | {"head": "pizza"}, "head",
            "two at once"),
    "5.9": all_at_once,
}
WRONG = {
    "5.1": DROP,
    "5.2": CFG,
    "5.3": WRAPPER,
    "5.4": BELLS,
    "5.5": REPAINT,
    "5.6": EDIT,
    "5.7": STEER,
    "5.8": IMPOSSIBLE,
    "5.9": GENERAL,
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
    for _ in range(2 if name in ("5.4", "5.9") else 5):  # the checks draw new numbers each time
        check(name, style[name])
        assert check.passed(name), capsys.readouterr().out


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert len(CASES) >= 60 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        check(q.name, stub)
        assert (
            check.verdicts[q.name] == "not attempted"
            and q.points > 0
            and q.praise
            and len(q.hints) >= 2
        )
    assert sum(q.points for q in QUESTIONS) == 26


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    assert_refused_in_one_sentence(name, ODD)


def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT, OTHER_STYLE)


def test_the_two_gaussians_are_the_lessons():
    """5.4 with S = 1 and w = 3 is what section 5.4 says, and S only changes the unit."""
    m, s = 1.0, 0.5
    guided = lambda *numbers: torch.tensor(guided_moments(*numbers))
    tempered = lambda *numbers: torch.tensor(tempered_moments(*numbers))
    lesson = torch.tensor([m * (1 + 2 * s**2), s**3])
    assert torch.allclose(guided(3.0, m, s, 1.0), lesson, rtol=1e-4)
    assert torch.allclose(guided(2.3, 2 * m, 2 * s, 2.0), 2 * guided(2.3, m, s, 1.0), rtol=1e-4)
    assert torch.allclose(tempered(2.3, 2 * m, 2 * s, 2.0), 2 * tempered(2.3, m, s, 1.0))
    assert torch.allclose(guided(1.0, m, s, 1.4), torch.tensor([m, s]), rtol=1e-4)


def test_classifier_guidance_makes_the_conditional_denoiser():
    """5.7 at w = 1, with the exact classifier: that of the class alone."""
    kinds = [data.GaussianMixture([[-1.0, 0.3]], 0.3), data.GaussianMixture([[0.7, -0.4]], 0.2)]
    both = data.GaussianMixture(
        torch.cat([k.means for k in kinds]), torch.cat([k.stds for k in kinds])
    )
    schedule = Schedule.cosine()

    def classify(x, t):
        return torch.stack([k.log_prob(x, schedule.alpha(t), schedule.sigma(t)) for k in kinds], 1)

    x = torch.randn(4, 2).double()
    t = torch.tensor(0.4)
    y = torch.tensor([0, 1, 1, 0])
    wanted = torch.stack([k.denoiser(schedule)(x, t) for k in kinds])[y, torch.arange(4)]
    torch.testing.assert_close(
        steer(both.denoiser(schedule), schedule, classify, y, 1.0)(x, t), wanted
    )


def test_repaints_step_is_the_librarys():
    """5.5 in a row, against editing.repaint: the same draws in the same order."""
    schedule = Schedule.cosine()
    D = data.GaussianMixture([[0.5, 0.2, -0.3], [-0.5, 0.1, 0.4]], 0.2).denoiser(schedule)
    x = torch.randn(6, 3).double()
    known = torch.randn(1, 3).double()
    mask = torch.tensor([[1.0, 0.0, 1.0]])
    ts = timesteps(schedule, 4)
    g = torch.Generator().manual_seed(0)
    options = {"resample": 2, "generator": torch.Generator().manual_seed(0), "eta": 0.0}
    theirs = last(editing.repaint(D, schedule, x, known, mask, ts, **options))

    def noise():
        if s == 0:
            return torch.zeros(6, 3).double()
        return torch.randn(6, 3, generator=g, dtype=torch.float64)

    for t, s in zip(ts[:-1], ts[1:]):
        x = repaint_step(D, schedule, x, known, mask, t, s, 2, noise)
    torch.testing.assert_close(x, theirs)


def test_plain_captions_are_parsed():
    """5.9's parser of captions: whatever the grammar's plain wording says, and nothing else."""
    parts = torch.cat([noun_parts.draw_parts(300, split=split) for split in noun_parts.SPLITS])
    parsed = [parse_plain_caption(caption) for caption in noun_parts.plain_captions(parts)]
    assert parsed == parts.tolist()
    assert all(
        parse_plain_caption(caption) is None
        for caption in noun_parts.captions(parts[:50], seed=3)[:20]
        if "-headed noun with" not in caption
    )


def test_which_names_a_caption_has():
    """5.8: names that parts share, and colours, count where they belong."""
    tokenizer = lesson05.nouns_model().net.tokenizer

    def names(caption):
        words = tokenizer.split(caption)
        return {part: lesson05.names_in(words, part) for part in noun_parts.PARTS}

    assert names("a shark-headed noun with a pizza head")["head"] == {"shark", "pizza"}
    assert names("a shark, wearing a heart, red glasses, teal body") == {
        "background": set(),
        "body": {"teal"},
        "accessory": {"heart"},
        "head": {"shark"},
        "glasses": {"red"},
    }
    nothing = dict.fromkeys(noun_parts.PARTS, set())
    assert names("a noun with a heart head in a black checkered shirt") == nothing | {
        "head": {"heart"},
        "accessory": {"black checkered shirt"},
    }
    parts = torch.cat([noun_parts.draw_parts(25, split=split) for split in noun_parts.SPLITS])
    odd = [
        caption
        for caption, row in zip(noun_parts.plain_captions(parts), noun_parts.part_names(parts))
        if any(len(found) != 1 for found in names(caption).values())
    ]
    assert not odd, odd[:5]


@pytest.mark.parametrize(
    "caption, part, wanted",
    [
        ("a kitten-headed noun with blue glasses", "head", "cat"),
        ("a kitten", "head", "cat"),
        ("a xenomorph head", "head", "shark"),
        ("a noun with the head of a sea predator with a fin", "head", "shark"),
        ("wearing a flugelhorn", "accessory", "heart"),
        ("a panda head, specs like the sky", "glasses", "blue"),
    ],
)
def test_other_words_for_a_part_are_no_nonsense(capsys, caption, part, wanted):
    """5.8: whoever describes a part in words of their own is not told that nobody could draw it."""
    check = Checker()
    check("5.8", (caption, EXPECTED | {part: wanted}, part, "unknown words"))
    said = capsys.readouterr().out
    assert check.passed("5.8") or "the model draws" in said, said


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures."""
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {
        "check": Checker(),
        "torch": torch,
        "nn": nn,
        "samplers": samplers,
        "last": last,
        "guidance": guidance,
        "noun_parts": noun_parts,
        "attributes": attributes,
        "sampling": sampling,
        "metrics": metrics,
        "append_dims": append_dims,
        "course_lib": course_lib,
        "data": data,
        "warnings": warnings,
    }
    for cell in jupytext.read(SHEET).cells:
        if any(tag.startswith(("answer:", "check:")) for tag in cell.metadata.get("tags", [])):
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS)
