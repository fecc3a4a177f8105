"""A catalogue of wrong answers, question -> diagnosis -> answer, judged once for several tests."""
import contextlib
import io
from collections.abc import Callable, Iterable
from functools import cache

import pytest
import torch

from course_lib.checks import Checker

# answers to nothing that was asked; with a result of another kind, shape or size, or an error
ODD = (
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


def stub(*arguments):
    raise NotImplementedError


def cases(wrong: dict) -> list:
    """(question, diagnosis) for each wrong answer, as pytest's parameters."""
    return [
        pytest.param(name, diagnosis, id=f"{name} {diagnosis}")
        for name, answers in wrong.items()
        for diagnosis in answers
    ]


def listed(answers: list) -> list:
    """pytest's parameters of (question, diagnosis, wrong answer) or (question, right answer)."""
    return [
        pytest.param(*case, id=" ".join([*case[:-1], str(k)])) for k, case in enumerate(answers)
    ]


def assert_refused(name: str, diagnosis: str, answer: object, times: int = 3) -> None:
    """The answer is refused with these words, whenever it is judged."""
    for _ in range(times):
        passed, said = judged(name, answer)
        assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


def assert_accepted(name: str, answer: object, times: int = 3) -> None:
    """The answer is right, whenever it is judged."""
    for _ in range(times):
        passed, said = judged(name, answer)
        assert passed, said


def judged(name: str, answer: object) -> tuple[bool, str]:
    """Whether an answer passes, and what is printed."""
    check, said = Checker(), io.StringIO()
    with contextlib.redirect_stdout(said):
        check(name, answer)
    return check.passed(name), said.getvalue()


def verdicts(wrong: dict) -> Callable:
    """verdict(question, diagnosis): `judged` for this wrong answer, once."""
    return cache(lambda name, diagnosis: judged(name, wrong[name][diagnosis]))


def assert_refused_in_one_sentence(name: str, answers: Iterable) -> None:
    """No answer, however odd, ends in a traceback or passes."""
    for answer in answers:
        passed, said = judged(name, answer)
        assert not passed and said.count("\n") == 1, said


def assert_own_diagnoses(wrong: dict, verdict: Callable) -> None:
    """Two mistakes of one question never get the same words."""
    for name, answers in wrong.items():
        said = [verdict(name, diagnosis)[1] for diagnosis in answers]
        assert len(set(said)) == len(said), [s for s in said if said.count(s) > 1]


def assert_random_numbers_are_left_alone(*catalogues: dict) -> None:
    """Judging these answers, question -> answer, does not move torch's generator."""
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    for answers in catalogues:
        for name, answer in answers.items():
            Checker()(name, answer)
    assert torch.equal(torch.rand(3), wanted)
