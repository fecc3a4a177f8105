"""Lesson 5's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_05 import Guided, dropped, made

from course_lib.checks.common import one_thread


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


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


CUT = "in training no gradient reaches the network"
WRONG = [
    ("5.3", CUT, UnderNoGrad),                                                  # F1
    ("5.3", CUT, made(train=lambda self, x, t, y: training(self, x, t, y).detach())),
    ("5.3", CUT, made(train=torch.inference_mode()(training))),
    ("5.3", "set no seed inside", made(train=seeded)),                          # F3
]
RIGHT = [
    ("5.3", EvaluatesUnderNoGrad),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)
