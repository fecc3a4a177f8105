"""Lesson 5's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from catalogues import assert_accepted, assert_refused, listed
from scipy.integrate import quad
from test_checks_05 import EXPECTED as PARTS
from test_checks_05 import (
    Guided,
    at_s,
    bells,
    drop,
    dropped,
    dropping,
    edit,
    edits,
    exactly,
    free,
    generalisation,
    made,
    measures,
    repaint_step,
    repaints,
    rise,
    steers,
    tells,
)
from torch import nn

from course_lib import Schedule, guidance, samplers
from course_lib.checks.common import one_thread
from course_lib.lab import attributes, noun_parts
from course_lib.samplers import last, timesteps
from course_lib.schedules import append_dims


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 5.1

def by_arithmetic(y, null, p, generator):
    """Right, with numbers in place of torch.where."""
    lost = (torch.rand(len(y), generator=generator, dtype=torch.float64) < p).long()
    lost = lost.reshape(-1, *[1] * (y.ndim - 1))
    return lost * null + (1 - lost) * y


def from_a_copy(y, null, p, generator):
    copied = torch.Generator()
    copied.set_state(generator.get_state())
    return drop(y, null, p, copied)


# ---- 5.2

class AsObject:
    """Right: an object that can be called."""

    def __init__(self, D, w, null):
        self.D = D
        self.w = w
        self.null = null

    def __call__(self, x, t, **condition):
        w = float(self.w(t)) if callable(self.w) else self.w
        if w == 1:
            return self.D(x, t, **condition)
        u = self.D(x, t, **dict(condition, **self.null))
        return (1 - w) * u + w * self.D(x, t, **condition)



def doubled(D, w, null):                                                        # F6
    """Right: both predictions from one evaluation of a doubled batch."""
    def guided(x, t, **condition):
        weight = w(t) if callable(w) else w
        if weight == 1:
            return D(x, t, **condition)
        both = {}
        for name, value in condition.items():
            empty = torch.as_tensor(null.get(name, value)).expand(len(x))
            both[name] = torch.cat([empty, value])
        u, c = D(torch.cat([x, x]), t, **both).chunk(2)
        return torch.lerp(u, c, torch.as_tensor(weight, dtype=u.dtype))
    return guided


def doubled_always(D, w, null):
    def guided(x, t, **condition):
        weight = w(t) if callable(w) else w
        both = {k: torch.cat([torch.as_tensor(null.get(k, v)).expand(len(x)), v])
                for k, v in condition.items()}
        u, c = D(torch.cat([x, x]), t, **both).chunk(2)
        return u + weight * (c - u)
    return guided


def doubled_without_size(D, w, null):
    def guided(x, t, y, **others):
        if w == 1:
            return D(x, t, y=y, **others)
        empty = torch.full_like(y, null["y"])
        u, c = D(torch.cat([x, x]), t, y=torch.cat([empty, y])).chunk(2)
        return u + (w(t) if callable(w) else w) * (c - u)
    return guided


def guides_in_place(D, w, null):
    def guided(x, t, **condition):
        u = D(x, t, **condition | null)
        x += 0.1
        c = D(x - 0.1, t, **condition)
        weight = w(t) if callable(w) else w
        return u + weight * (c - u)
    return guided


def keeps_the_null(D, w, null):
    """The unconditional prediction of the first call serves for all."""
    kept = []
    def guided(x, t, **condition):
        weight = w(t) if callable(w) else w
        if weight == 1:
            return D(x, t, **condition)
        kept.append(D(x, t, **condition | null))
        return kept[0] + weight * (D(x, t, **condition) - kept[0])
    return guided


def with_nulls(choose, near=0.0):
    """cfg with another null evaluation, and with no guidance where w is near 1."""
    def make(D, w, null):
        def guided(x, t, **condition):
            weight = w(t) if callable(w) else w
            if abs(weight - 1) <= near:
                return D(x, t, **condition)
            u = D(x, t, **condition | choose(null, condition))
            return u + weight * (D(x, t, **condition) - u)
        return guided
    return make


def the_first_null(null, condition):
    name = next(iter(null))
    return {name: null[name]}


def other_time(change):
    """cfg whose function w is given another time."""
    return lambda D, w, null: with_nulls(lambda null, condition: null)(
        D, (lambda t: w(change(t))) if callable(w) else w, null)


def rescaled(u, c, w):
    guided = u + w * (c - u)
    return guided * c.std() / guided.std()


# ---- 5.3

def without_null_gradients(self, x, t, y):
    lost = dropped(self, y)
    out = self.net(x, t, y=torch.where(lost, self.null, y))
    return torch.where(lost[:, None], out.detach(), out)


def random_without_labels(self, x, t, y):
    low = 0 if self.training else self.null
    return self.net(x, t, y=torch.randint(low, self.null + 1, (len(x),)))


def training(self, x, t, y):
    return self.net(x, t, y=torch.where(dropped(self, y), self.null, y))


class UnderNoGrad(Guided):
    @torch.no_grad()
    def forward(self, x, t, y=None):
        return super().forward(x, t, y)


class EvaluatesUnderNoGrad(Guided):
    """Right: the no_grad is for sampling alone."""

    def forward(self, x, t, y=None):
        with torch.set_grad_enabled(self.training):
            return super().forward(x, t, y)


class OwnFlag(Guided):
    """Notices .eval(), and never .train() after it."""

    def eval(self):
        self.sampling = True
        return super().eval()

    def forward(self, x, t, y=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "training", not hasattr(self, "sampling"))
            return super().forward(x, t, y)


class OverridesEval(OwnFlag):
    def train(self, mode=True):
        if mode and hasattr(self, "sampling"):
            del self.sampling
        return super().train(mode)


class OfACopy(Guided):
    def __init__(self, net, *options, **named):
        super().__init__(copy.deepcopy(net), *options, **named)


def seeded(self, x, t, y):
    torch.manual_seed(0)
    return training(self, x, t, y)


def ignores_its_null(self, x, t, y):                                            # F24
    return self.net(x, t, y=torch.where(dropped(self, y), 10, y))


def twice_without_labels(self, x, t, y):                                        # F17
    u, c = (self.net(x, t, y=torch.full((len(x),), self.null)) for _ in range(2))
    return u + self.w * (c - u)


class ByBernoulli(Guided):
    """Right: dropped by bernoulli and masked_fill."""

    def forward(self, x, t, y=None):
        if self.training and y is not None:
            lost = torch.bernoulli(torch.full((len(x),), self.p)).bool()
            return self.net(x, t, y=y.masked_fill(lost, self.null))
        return super().forward(x, t, y)


# ---- 5.4

def by_quad(w, m, s, S):
    """Right, with an integral of scipy and numbers of numpy."""
    h = lambda r: (s**2 + r**2) ** (w / 2) * (S**2 + r**2) ** ((1 - w) / 2)
    integral = quad(lambda r: w * r / ((s**2 + r**2) * h(r)), 0, np.inf)[0]
    v = 1 / (w / s**2 + (1 - w) / S**2)
    return np.array([v * w * m / s**2, np.sqrt(v), m * h(0) * integral, h(0)])


# ---- 5.5

def cut_at(r_max):
    """bells with the integral from 0 to r_max."""
    def answer(w, m, s, S):
        h = lambda r: (s**2 + r**2) ** (w / 2) * (S**2 + r**2) ** ((1 - w) / 2)
        integral = quad(lambda r: w * r / ((s**2 + r**2) * h(r)), 0, r_max)[0]
        return *bells(w, m, s, S)[:2], m * h(0) * integral, h(0)
    return answer


def guided_pair(change):
    """bells whose guided pair is change(mean, std, w, m, s, S)."""
    return lambda *a: (*bells(*a)[:2], *change(*bells(*a)[2:], *a))


def predicts_once(D, schedule, x, *others):
    x0_hat = D(x, others[2])
    return repaint_step(lambda *a: x0_hat, schedule, x, *others)


def pastes_last(D, schedule, x, known, mask, t, s, repeats, noise):
    x = repaint_step(D, schedule, x, known, torch.ones_like(mask), t, s, 1, lambda: 0 * x)
    for _ in range(repeats - 1 if s > 0 else 0):
        x = rise(schedule, x, known, mask, t, s, noise())
        x = samplers.step(schedule, x, D(x, t), t, s)
    return mask * x + (1 - mask) * at_s(schedule, known, t, s, noise())


def nearly_to_the_bit(schedule, x, known, mask, t, s, z):
    return x + (1 - mask) * (at_s(schedule, known, t, s, z) - x)


def begins_again(D, schedule, x, known, mask, t, s, repeats, noise):            # F23
    start = x
    for k in range(repeats if s > 0 else 1):
        x = samplers.step(schedule, start, D(start, t), t, s)
        x = mask * x + (1 - mask) * at_s(schedule, known, t, s, noise())
        if k < repeats - 1:
            noise()
    return x if s > 0 else torch.where(mask.bool(), x, known)


def reuses_noise(D, schedule, x, known, mask, t, s, repeats, noise):
    for k in range(repeats if s > 0 else 1):
        z = noise()
        x = samplers.step(schedule, x, D(x, t), t, s)
        x = mask * x + (1 - mask) * at_s(schedule, known, t, s, z)
        if k < repeats - 1:
            x = rise(schedule, x, known, mask, t, s, z)
    return x


# ---- 5.6

def fills_null(D, schedule, x0, before, after, n, w, null):
    for name, value in after.items():
        null.setdefault(name, value)
    return edit(D, schedule, x0, before, after, n, w, null)


def guides_by_three(D, schedule, x0, before, after, n, w, null):
    return edit(D, schedule, x0, before, after, n, 3.0, null)


def only_y(D, schedule, x0, before, after, n, w, null):                         # F5
    return edit(D, schedule, x0, {"y": before["y"]}, {"y": after["y"]}, n, w, null)


def null_alone(D, schedule, x0, before, after, n, w, null):
    def guided(x, t, **condition):
        u = D(x, t, **null)
        return u + w * (D(x, t, **condition) - u)

    ts = timesteps(schedule, n)
    z = last(samplers.ddim_invert(D, schedule, x0, ts.flip(0), **before))
    return last(samplers.ddim(guided, schedule, z, ts, **after))


def by_func(D, schedule, classify, y, w):
    """Right, with torch.func."""
    def guided(x, t):
        log_p = lambda z: -F.cross_entropy(classify(z, t), y, reduction="sum")
        a, b = (append_dims(c, x) for c in (schedule.alpha(t), schedule.sigma(t)))
        return D(x, t) + w * b**2 / a * torch.func.grad(log_p)(x).detach()
    return guided


# ---- 5.8

# of two heads the model draws the first
DRAWN = ("a shark-headed noun with a pizza head", "head", "two at once", PARTS)
NOT_DRAWN = ("a shark-headed noun with a pizza head", "head", "two at once",
             PARTS | {"head": "pizza"})


# ---- 5.9

def half_of_them_twice(draw, n):
    right = {}
    for split in ("test", "pairs"):
        parts = noun_parts.draw_parts((n + 1) // 2, split=split).repeat(2, 1)[:n]
        x = draw(noun_parts.plain_captions(parts))
        right[split] = attributes.attributes_correct(x, parts).float().mean(0)
    return right


def the_same_noun(split):                                                       # F18
    def answer(draw, n):
        accuracy = {}
        for name in ("test", "pairs"):
            parts = noun_parts.draw_parts(n, split=name)
            parts = parts[:1].expand(n, -1) if name == split else parts
            x = draw(noun_parts.plain_captions(parts))
            accuracy[name] = attributes.attributes_correct(x, parts).float().mean(0)
        return accuracy
    return answer


def by_numpy(draw, n):
    return {name: value.numpy() for name, value in generalisation(draw, n).items()}


def updates_before(D, schedule, x0, before, after, n, w, null):
    z = last(samplers.ddim_invert(D, schedule, x0, timesteps(schedule, n).flip(0), **before))
    before.update(after)
    guide = guidance.cfg(D, w, null)
    return last(samplers.ddim(guide, schedule, z, timesteps(schedule, n), **before))


def from_y_before(D, schedule, x0, before, after, n, w, null):
    z = last(samplers.ddim_invert(D, schedule, x0, timesteps(schedule, n).flip(0), **before))
    guide = guidance.cfg(D, w, {"y": before["y"]})
    return last(samplers.ddim(guide, schedule, z, timesteps(schedule, n), **after))


# ---- 5.7

def steers_points(D, schedule, classify, y, w):
    """Right for points (B, 2) only, with t of shape (B,)."""
    def guided(x, t):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            log_p = classify(z, t).log_softmax(1).gather(1, y[:, None]).sum()
            grad, = torch.autograd.grad(log_p, z)
        factor = schedule.sigma(t) ** 2 / schedule.alpha(t)
        return D(x, t) + w * (factor[:, None] if factor.ndim else factor) * grad
    return guided


def keyword_y(D, w, null):
    return lambda x, t, y: free()(D, w, null)(x, t, y=y)


def alphabetical(draw, n):
    order = sorted(range(5), key=lambda k: noun_parts.PARTS[k])
    return {split: right[order] for split, right in generalisation(draw, n).items()}


CUT = "in training no gradient reaches the network"
WRONG = [
    ("5.2", "both evaluations lose the other conditions", doubled_without_size),
    ("5.2", "evaluate once there", doubled_always),
    ("5.2", "guided changes x or a condition", guides_in_place),
    ("5.3", CUT, UnderNoGrad),                                                  # F1
    ("5.3", CUT, made(train=lambda self, x, t, y: training(self, x, t, y).detach())),
    ("5.3", CUT, made(train=torch.inference_mode()(training))),
    ("5.3", "set no seed inside", made(train=seeded)),                          # F3
    ("5.3", "call the network as denoisers are called",                         # F17
     made(train=lambda self, x, t, y: self.net(x, t, torch.where(dropped(self, y), self.null, y)))),
    ("5.3", "right, but without y the network is evaluated 2 times",
     made(nothing=twice_without_labels)),
    ("5.3", "was given the label 10; here null = 4", made(train=ignores_its_null)),
    ("5.3", "pass the class itself, its name without brackets", Guided(nn.Identity())),
    ("5.6", "both ways have the condition y alone", only_y),
    ("5.6", "inversion has the condition y alone",
     edits(up=lambda D, before, after, null, guide: (D, {"y": before["y"]}))),
    ("5.6", "sampling has the condition y alone",
     edits(down=lambda D, before, after, null, guide: (guide, {"y": after["y"]}))),
    ("5.6", "the null evaluation loses the other", null_alone),
    ("5.7", "sigma^2 is multiplied by alpha", steers(factor=lambda a, b: b**2 * a)),      # F23
    ("5.7", "1 / alpha alone is there", steers(factor=lambda a, b: 1 / a)),
    ("5.7", "1 / sigma stands where", steers(factor=lambda a, b: 1 / b)),
    ("5.7", "of the first one", steers(shape=lambda c, x: c.flatten()[0])),
    ("5.7", "w is squared", steers(weight=lambda w: w**2)),
    ("5.7", "you divide by w", steers(weight=lambda w: 1 / w)),
    ("5.7", "append_dims(..., x)", steers_points),
    ("5.5", "go on from where the last one ended", begins_again),
    ("5.5", "the noise that was pasted", reuses_noise),
    ("5.5", "the denoiser is evaluated at s",
     repaints(step=lambda D, schedule, x, known, mask, t, s: (
         samplers.step(schedule, x, D(x, s), t, s)))),
    ("5.5", "x is still there, too",
     repaints(lambda schedule, x, known, mask, t, s, z: (
         x + (1 - mask) * at_s(schedule, known, t, s, z)))),
    ("5.5", "lacks the (alpha_t / alpha_s)^2",
     repaints(up=lambda schedule, x, known, mask, t, s, z: (
         schedule.alpha(t) / schedule.alpha(s) * x
         + (schedule.sigma(t) ** 2 - schedule.sigma(s) ** 2).sqrt() * z))),
    ("5.8", "nothing in your caption speaks of the head", tells("please draw a figure")),   # F9
    ("5.8", "nothing in your caption speaks of the head", tells("please draw a nice head")),
    ("5.8", "nothing in your caption speaks of the glasses",
     tells("please draw a picture", part="glasses")),
    ("5.8", "of the two, another one fails", tells(*DRAWN)),
    ("5.9", "your 6 nouns of the split test are one and the same", the_same_noun("test")),  # F18
    ("5.9", "your 6 nouns of the split pairs are one and the same", the_same_noun("pairs")),
]
# from twenty answers to each question, written with no look at the checks
WRONG += [
    ("5.1", "draw from the generator itself, not from a copy", from_a_copy),
    ("5.1", "it must become null, which is",
     lambda y, null, p, g: drop(y, 10 if y.ndim == 1 else 0, p, g)),
    ("5.2", "clipped to [-1, 1]", free(lambda u, c, w: (u + w * (c - u)).clamp(-1, 1))),
    ("5.2", "takes no condition but y", keyword_y),
    ("5.3", "loses exactly",
     made(train=lambda self, x, t, y: self.net(x, t, y=dropping(exactly)(y, 4, self.p, None)))),
    ("5.3", "after .eval() and then .train() it does not train again", OwnFlag),
    ("5.3", "not after .train(False)", OverridesEval),
    ("5.3", "the network inside is a copy", OfACopy),
    ("5.4", "that mean is right for w = 3 only",
     guided_pair(lambda mean, std, w, m, s, S: (m * (1 + 2 * (s / S) ** 2), std))),
    ("5.4", "Does the integral (or the run) stop too early", cut_at(3.5)),
    ("5.4", "at w = 1", lambda w, *a: bells(max(w, 1.2), *a)),
    ("5.4", "h(0) lacks its second factor",
     guided_pair(lambda mean, std, w, m, s, S: (mean * S ** (w - 1), std))),
    ("5.4", "w does not simply multiply",
     guided_pair(lambda mean, std, w, m, *a: (w * m, std))),
    ("5.4", "the std is multiplied by S",
     guided_pair(lambda mean, std, w, m, s, S: (mean, std * S))),
    ("5.4", "the mean is not m", lambda w, m, *a: (m, *bells(w, m, *a)[1:])),
    ("5.4", "w is rounded down", lambda w, *a: bells(int(w), *a)),
    ("5.5", "variances are subtracted",
     repaints(up=lambda schedule, x, known, mask, t, s, z: (
         schedule.alpha(t) / schedule.alpha(s) * (x - schedule.sigma(s) * z)
         + schedule.sigma(t) * z))),
    ("5.5", "evaluate the denoiser anew", predicts_once),
    ("5.5", "the whole picture goes up",
     repaints(up=lambda schedule, x, known, mask, t, s, z: (
         torch.where(mask == 1, rise(schedule, x, known, mask, t, s, z), x)))),
    ("5.5", "paste after each step", pastes_last),
    ("5.5", "not the original to the bit", repaints(nearly_to_the_bit)),
    ("5.6", "changes a dict that it was given", fills_null),
    ("5.6", "w is not used: you guide by 3", guides_by_three),
    ("5.6", "has null's value of the condition",
     edits(up=lambda D, before, after, null, guide: (D, before | null))),
    ("5.6", "clipped to [-1, 1]",
     edits(down=lambda D, before, after, null, guide: (guidance.clip(guide), after))),
    ("5.7", "the class of the first one", steers(lambda l, y: l.log_softmax(1)[:, y[0]].sum())),
    ("5.7", "log_p[:, y] is (B, B)", steers(lambda l, y: l.log_softmax(1)[:, y].sum())),
    ("5.7", "the rule for predictions of the noise", steers(factor=lambda a, b: -b)),
    ("5.9", "in alphabetical order", alphabetical),
    ("5.9", "five times", measures(lambda right: right.all(1).float().mean().expand(5))),
]
# from some twenty-five answers to each question, by a reader of the sheet alone
WRONG += [
    ("5.1", "the examples 1 apart in the batch share",
     dropping(lambda y, p, g: (
         (torch.rand(len(y), generator=g) < p)[::2].repeat_interleave(2)[:len(y)]))),
    ("5.1", "equal labels share one random draw",
     dropping(lambda y, p, g: (
         (torch.rand(1000, generator=g) < p)[y if y.ndim == 1 else y[:, 0]]))),
    ("5.1", "became 10; it must become null, which is 0 here",
     lambda y, null, p, g: drop(y, null or 10, p, g)),
    ("5.1", "p is rounded to tenths",
     dropping(lambda y, p, g: torch.randint(10, (len(y),), generator=g) < round(10 * p))),
    ("5.1", "that is p^2",
     dropping(lambda y, p, g: torch.rand(2, len(y), generator=g).amax(0) < p)),
    ("5.2", "keep nothing from one call to the next", keeps_the_null),
    ("5.2", "you replace y alone", with_nulls(the_first_null)),
    ("5.2", "only w = 1 is no guidance", with_nulls(lambda null, condition: null, near=0.15)),
    ("5.2", "null's number for the other conditions",
     with_nulls(lambda null, condition: {name: 3 for name in condition})),
    ("5.2", "w(t) is taken at t = 1", other_time(lambda t: 1.0)),
    ("5.2", "w is called with 1 - t", other_time(lambda t: 1 - t)),
    ("5.2", "w is rounded down", free(lambda u, c, w: u + int(w) * (c - u))),
    ("5.2", "rescaled to the standard deviation of c", free(rescaled)),
    ("5.3", "the null label train the network, too", made(train=without_null_gradients)),
    ("5.3", "the gradient of x is cut",
     made(train=lambda self, x, t, y: training(self, x.detach(), t, y))),
    ("5.3", "in training, without y", made(nothing=random_without_labels)),
    ("5.4", "the sign of m is lost", lambda w, m, *a: bells(w, abs(m), *a)),
    ("5.4", "w is rounded", lambda w, *a: bells(int(w + 0.999), *a)),
    ("5.4", "guided: the mean and the std have changed places",
     guided_pair(lambda mean, std, w, m, s, S: (std, mean))),
    ("5.4", "both the mean and the std lack it",
     guided_pair(lambda mean, std, w, m, s, S: (mean * S ** (w - 1), s**w))),
    ("5.4", "tends to for large w",
     guided_pair(lambda mean, std, w, m, s, S: (m / (1 - (s / S) ** 2), std))),
    ("5.4", "the mean is not w m", lambda w, m, *a: (w * m, *bells(w, m, *a)[1:])),
    ("5.5", "take the one that is given",
     lambda D, schedule, *a: repaint_step(D, Schedule.cosine(), *a)),
    ("5.5", "noise of the first one",
     repaints(lambda schedule, x, known, mask, t, s, z: (
         mask * x + (1 - mask) * at_s(schedule, known, t, s, z[:1])))),
    ("5.6", "changes a dict that it was given", updates_before),
    ("5.6", "away from the y of `before`", from_y_before),
    ("5.6", "leads from null to null",
     edits(down=lambda D, before, after, null, guide: (guide, after | null))),
    ("5.6", "yours have n + 1", edits(steps=lambda n: n + 1)),
    ("5.6", "take the one that is given", lambda D, schedule, *a: edit(D, Schedule.cosine(), *a)),
    ("5.7", "1 - alpha^2 stands for sigma^2", steers(factor=lambda a, b: (1 - a**2) / a)),
    ("5.7", "softmax is taken twice",
     steers(lambda l, y: l.softmax(1).log_softmax(1).gather(1, y[:, None]).sum())),
    ("5.7", "no float()", steers(shape=lambda c, x: float(c))),
    ("5.9", "some are the same", half_of_them_twice),
]
RIGHT = [
    ("5.1", by_arithmetic),
    ("5.2", AsObject),
    ("5.3", ByBernoulli),
    ("5.4", by_quad),
    ("5.7", by_func),
    ("5.8", tells(*NOT_DRAWN)),
    ("5.9", by_numpy),                                                          # F12
    ("5.2", doubled),
    ("5.3", EvaluatesUnderNoGrad),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)
