"""The check system itself, with a question of its own."""
from types import SimpleNamespace

import pytest
import torch

from course_lib import checks
from course_lib.checks.common import (
    Case,
    Checker,
    Question,
    Wrong,
    call_twice,
    compare,
    compare_case,
    draw_case,
    fill,
    is_stub,
    reject_first,
    wrong_answers,
)


@pytest.fixture
def check(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    def judge(f):
        compare(
            f(torch.tensor([1.0, 2.0])),
            torch.tensor([2.0, 4.0]),
            {"you add two: double it": torch.tensor([3.0, 4.0])},
            otherwise="not twice the number",
        )
    monkeypatch.setattr(
        checks.common,
        "_questions",
        lambda lesson: {
            "9.1": Question("9.1", 2, judge, "well done", ("think", "x * 2")),
            "9.2": Question("9.2", 3, judge),
        },
    )
    checker = Checker()
    monkeypatch.setattr(checks.common, "check", checker)
    return checker


def stub(x):
    raise NotImplementedError


def calls_a_stub(x):
    return 2 * stub(x)


def works_on(x):
    x = 2 * x
    raise NotImplementedError


def misspelt(x):
    class Misspelt(torch.nn.Module):
        def foward(self, x):
            return 2 * x
    return Misspelt()(x)


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda x: 2 * x, "9.1 right: well done"),
        (lambda x: x + 2, "9.1 not yet: you add two: double it"),
        (lambda x: x * 3, "9.1 not yet: not twice the number"),
        (lambda x: None, "does it end with `return`?"),
        (lambda x: 3.0, "expected a tensor; got float"),
        (lambda x: x[:1], r"expected shape (2,); got (1,)"),
        (lambda x: x / 0 * 0, "2 of the values are nan or inf"),
        (lambda x: x @ torch.ones(3), "your answer raised RuntimeError"),
        (stub, "9.1 not attempted"),
        (torch.no_grad()(stub), "9.1 not attempted"),
        (calls_a_stub, "not yet: your answer calls stub, which is not written yet"),
        (works_on, "not yet: your answer gets to `raise NotImplementedError`"),
        (misspelt, 'raised NotImplementedError: Module [Misspelt] is missing the required "forw'),
        (None, "9.1 not attempted"),
        (..., "9.1 not attempted"),
    ],
)
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


def test_methods_and_pairs_that_are_not_written():
    """Only the stubs of the answer itself are not attempted."""
    class Unwritten:
        def __init__(self):
            raise NotImplementedError

        def half(self):
            self.done = True
            raise NotImplementedError

    def raised(f, *inputs):
        with pytest.raises(NotImplementedError) as error:
            f(*inputs)
        return error.value

    assert is_stub(raised(Unwritten), Unwritten)
    assert not is_stub(raised(Unwritten.half, SimpleNamespace()), Unwritten)
    assert is_stub(raised(stub, 1), (calls_a_stub, stub))
    assert not is_stub(raised(calls_a_stub, 1), calls_a_stub)


def test_judging_leaves_the_notebook_as_it_is(check):
    """Random numbers and autograd's switch."""
    state = torch.get_rng_state()
    with torch.no_grad():
        check("9.1", lambda x: torch.randn(2) if torch.is_grad_enabled() else 2 * x)
        assert not check.passed("9.1") and not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_an_answer_that_exits_is_not_yet_right(check, capsys):
    check("9.1", lambda x: exit())
    assert "9.1 not yet: your answer raised SystemExit" in capsys.readouterr().out


@pytest.mark.parametrize("lesson", [9, 0, "1", 1.5])
def test_a_summary_of_a_lesson_that_is_not_there(lesson):
    with pytest.raises(ValueError, match="lesson must be one of 1, 2, 3, 4, 5, 6, 7; got"):
        Checker().summary(lesson)


def test_names_that_do_not_exist():
    for name in ("1.99", "77.1", "first", 3):
        with pytest.raises(ValueError, match="there is no question"):
            checks.question(name)


def test_wrong_is_only_raised_by_judges():
    with pytest.raises(Wrong, match="the values differ by up to 1"):
        compare(torch.zeros(2), torch.ones(2))


# ---- questions as tables

def right_double(c):
    return 2 * c.x


DOUBLE_MISTAKES = {
    "that is x_{t-1}": lambda c: c.x + 2,
    "at x = {c.x:.1f} you square": lambda c: c.x**2,
    "only above zero": lambda c: None if c.x <= 0 else 0.0,
}


def test_sentences_are_filled_from_the_case():
    assert fill("{c.n:,} weights, not {c.other}", Case(n=1200, other="x")) == "1,200 weights, not x"
    assert fill("alpha_bar_{t-1} stays", Case()) == "alpha_bar_{t-1} stays"


def test_wrong_answers_leave_out_what_does_not_apply():
    answers = wrong_answers(DOUBLE_MISTAKES, Case(x=-3.0))
    assert {words: a.item() for words, a in answers.items()} == {
        "that is x_{t-1}": -1, "at x = -3.0 you square": 9}
    assert len(wrong_answers(DOUBLE_MISTAKES, Case(x=3.0))) == 3


@pytest.mark.parametrize("got, said", [
    (5.0, "that is x_{t-1}"), (9.0, "at x = 3.0 you square"), (0.0, "only above zero"),
    (1.0, "not twice 3.0")])
def test_compare_case_names_the_mistake(got, said):
    c = Case(x=torch.tensor(3.0).double())
    compare_case(2 * c.x, c, right_double, DOUBLE_MISTAKES)
    with pytest.raises(Wrong) as error:
        compare_case(torch.tensor(got).double(), c, right_double, DOUBLE_MISTAKES,
                     otherwise="not twice {c.x:.1f}")
    assert str(error.value) == said


def test_draw_case_draws_until_the_answers_differ():
    """At x = 2.0001 doubling, adding 2 and squaring cannot be told apart."""
    values = iter([2.0001, 5.0, 7.0])
    draw = lambda: Case(x=torch.tensor(next(values)).double())
    assert draw_case(draw, right_double, DOUBLE_MISTAKES).x == 5


def test_draw_case_says_when_it_finds_no_case():
    """The suite turns this warning into an error: a table that never differs is seen here."""
    draw = lambda: Case(x=torch.tensor(2.0001).double())
    with pytest.warns(UserWarning, match="no case tells all mistakes apart"):
        draw_case(draw, right_double, DOUBLE_MISTAKES)


def test_float32_made_inside_an_answer_is_no_mistake():
    rotation = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    x = torch.randn(3, 2).double()
    assert torch.equal(call_twice(lambda x: x @ rotation, x), x.float() @ rotation)


def test_call_twice_compares_each_part_of_a_pair():
    for pair in (tuple, list):
        with pytest.raises(Wrong, match="two different answers"):
            call_twice(lambda x, pair=pair: pair([x, torch.rand(2)]), torch.zeros(1))
    call_twice(lambda x: (x, 2 * x, "words"), torch.zeros(1))


def test_reject_first_evaluates_no_further_than_it_must():
    suspects = {"no tensor": lambda c: c.x is None, "{c.x} is negative": lambda c: c.x < 0}
    reject_first(suspects, Case(x=1))
    for x, said in ((None, "no tensor"), (-1, "-1 is negative")):
        with pytest.raises(Wrong, match=said):
            reject_first(suspects, Case(x=x))
