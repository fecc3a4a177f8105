"""Lesson 6's checks, answers of readers who had seen the sheet alone: the kinds of a review of
lessons 1 to 5, where they occur here (F1 and so on are its numbers).
"""
import numpy as np
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_06 import RIGHT as RIGHT_ANSWERS
from test_checks_06 import as_flow, assigned, costs, couple
from test_checks_06_data import (
    draw_tokens,
    masked_bound,
    mean_net,
    net,
    next_frames,
    over_frames,
    unmask_step,
)

from course_lib import Schedule, sde
from course_lib.checks import lesson06
from course_lib.checks.common import one_thread
from course_lib.checks.lesson06_data import is_number


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


def only_y(D):                                                                  # F5
    return lambda x, t, y=2, **others: as_flow(D)(x, t, y=y)


def converts_when_called(D):
    """The forbidden function is called later, by the denoiser that is returned."""
    return lambda x, t, **condition: sde.change_schedule(D, Schedule.flow())(x, t, **condition)


def without_gradient():
    made = mean_net()
    made.forward = torch.no_grad()(made.forward)
    return made


def by_numpy(schedule, v, t, s):
    return [part.numpy() for part in RIGHT_ANSWERS["6.1"](schedule, v, t, s)]


WRONG = [
    ("6.4", "the condition y alone is passed on", only_y),
    ("6.4", "write it without sde.change_schedule",                             # F16
     lambda D: sde.change_schedule(D, Schedule.flow())),
    ("6.4", "write it without sde.change_schedule", converts_when_called),
    ("6.6", "those are the indices", lambda x0, eps: assigned(costs(x0, eps)).tolist()),
    ("6.6", "x0 and eps come back", lambda x0, eps: [x0, couple(x0, eps)]),
    ("6.6", "expected a tensor; got str", lambda x0, eps: "eps"),               # F24
    ("6.10", "frames: right, but no gradient gets through",                     # F1
     (torch.no_grad()(over_frames), next_frames)),
    ("6.10", "frames: right, but no gradient gets through",
     (lambda attend, x: over_frames(attend, x.detach()), next_frames)),
    ("6.11", "equivariant, but no gradient gets through", without_gradient),
    ("6.11", "equivariant, but no gradient gets through",
     net(lambda self, h, x: (h + h.mean(1, keepdim=True)).detach())),
]
RIGHT = [
    ("6.1", by_numpy),                                                          # F12
    ("6.2", lambda *inputs: RIGHT_ANSWERS["6.2"](*inputs).numpy()),
    ("6.2", lambda *inputs: RIGHT_ANSWERS["6.2"](*inputs).tolist()),
    ("6.6", lambda x0, eps: couple(x0, eps).numpy()),
    ("6.6", lambda x0, eps: couple(x0, eps).tolist()),
    ("6.8", lambda *inputs: unmask_step(*inputs).numpy()),
    ("6.8", lambda *inputs: unmask_step(*inputs).tolist()),
    ("6.9", (masked_bound, lambda *inputs: draw_tokens(*inputs).numpy())),
    ("6.10", (over_frames, next_frames)),
    ("6.11", mean_net),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)


def test_numbers_of_numpy_are_numbers():
    """6.7's channels and 6.12's report."""
    assert lesson06.as_channels(np.array([0, 3])) == [0, 3]
    assert lesson06.as_channels([np.int64(1), 4]) == [1, 4]
    assert lesson06.as_channels([1.5]) is None
    assert is_number(np.float32(0.2)) and is_number(np.array(0.3)) and is_number(torch.ones(1))
    assert not is_number(True) and not is_number([0.2]) and not is_number("0.2")
