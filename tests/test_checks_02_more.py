"""Lesson 2's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import pytest
from catalogues import assert_accepted, assert_refused, listed
from test_checks_02 import hidden
from torch import nn

from course_lib.checks.common import one_thread


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 2.8

class Misspelt(nn.Module):                                                      # F4
    def __init__(self, dim):
        super().__init__()
        self.net = hidden(dim)

    def foward(self, emb, thickness):
        return emb + self.net(thickness[:, None])


WRONG = [
    ("2.8", "your module has no forward(self, emb, thickness)", Misspelt),
]
RIGHT = [
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)
