"""Lesson 5's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_05 import Guided, dropped, edit, edits, made

from course_lib import samplers
from course_lib.checks.common import one_thread
from course_lib.samplers import last, timesteps


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 5.2

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


# ---- 5.3

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


def seeded(self, x, t, y):
    torch.manual_seed(0)
    return training(self, x, t, y)


# ---- 5.6

def only_y(D, schedule, x0, before, after, n, w, null):                         # F5
    return edit(D, schedule, x0, {"y": before["y"]}, {"y": after["y"]}, n, w, null)


def null_alone(D, schedule, x0, before, after, n, w, null):
    def guided(x, t, **condition):
        u = D(x, t, **null)
        return u + w * (D(x, t, **condition) - u)

    ts = timesteps(schedule, n)
    z = last(samplers.ddim_invert(D, schedule, x0, ts.flip(0), **before))
    return last(samplers.ddim(guided, schedule, z, ts, **after))


CUT = "in training no gradient reaches the network"
WRONG = [
    ("5.2", "both evaluations lose the other conditions", doubled_without_size),
    ("5.2", "evaluate once there", doubled_always),
    ("5.3", CUT, UnderNoGrad),                                                  # F1
    ("5.3", CUT, made(train=lambda self, x, t, y: training(self, x, t, y).detach())),
    ("5.3", CUT, made(train=torch.inference_mode()(training))),
    ("5.3", "set no seed inside", made(train=seeded)),                          # F3
    ("5.6", "both ways have the condition y alone", only_y),
    ("5.6", "inversion has the condition y alone",
     edits(up=lambda D, before, after, null, guide: (D, {"y": before["y"]}))),
    ("5.6", "sampling has the condition y alone",
     edits(down=lambda D, before, after, null, guide: (guide, {"y": after["y"]}))),
    ("5.6", "the null evaluation loses the other", null_alone),
]
RIGHT = [
    ("5.2", doubled),
    ("5.3", EvaluatesUnderNoGrad),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)
