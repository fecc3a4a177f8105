"""The check system itself, with a question of its own."""
import pytest
import torch

from course_lib import checks
from course_lib.checks import Checker, Question, Wrong, compare


@pytest.fixture
def check(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    def judge(f):
        compare(f(torch.tensor([1.0, 2.0])), torch.tensor([2.0, 4.0]), {"you add two: double it": torch.tensor([3.0, 4.0])}, otherwise="not twice the number")
    monkeypatch.setattr(checks, "_questions", lambda lesson: {"9.1": Question("9.1", 2, judge, "well done", ("think", "x * 2")), "9.2": Question("9.2", 3, judge)})
    checker = Checker()
    monkeypatch.setattr(checks, "check", checker)
    return checker


def stub(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer, said", [
    (lambda x: 2 * x, "9.1 right: well done"), (lambda x: x + 2, "9.1 not yet: you add two: double it"), (lambda x: x * 3, "9.1 not yet: not twice the number"),
    (lambda x: None, "does it end with `return`?"), (lambda x: 3.0, "expected a tensor; got float"), (lambda x: x[:1], r"expected shape (2,); got (1,)"),
    (lambda x: x / 0 * 0, "2 of the values are nan or inf"), (lambda x: x @ torch.ones(3), "your answer raised RuntimeError"),
    (stub, "9.1 not attempted"), (None, "9.1 not attempted"), (..., "9.1 not attempted")])
def test_verdicts(check, capsys, answer, said):
    check("9.1", answer)
    assert said in capsys.readouterr().out
    assert check.passed("9.1") == ("right" in said)


def test_strict(check, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    check("9.1", lambda x: 2 * x)
    for answer in (lambda x: x, stub, None):
        with pytest.raises(AssertionError, match="9.1 not"):
            check("9.1", answer)


def test_hints_grow_and_end(check, capsys):
    for said in ("hint 1 of 2: think", "hint 2 of 2: x * 2", "that was the last of 2 hints"):
        checks.hint("9.1")
        assert said in capsys.readouterr().out
    checks.hint("9.2")
    assert "has no hints" in capsys.readouterr().out


def test_summary(check, capsys):
    check.summary()
    assert "No question has been checked yet" in capsys.readouterr().out
    check("9.1", lambda x: 2 * x)
    check.summary()
    said = capsys.readouterr().out
    assert "Lesson 9: 2 of 5 points" in said and "9.2  not attempted" in said


def test_names_that_do_not_exist():
    for name in ("1.99", "77.1", "first", 3):
        with pytest.raises(ValueError, match="there is no question"):
            checks.question(name)


def test_wrong_is_only_raised_by_judges():
    with pytest.raises(Wrong, match="the values differ by up to 1"):
        compare(torch.zeros(2), torch.ones(2))
