"""A catalogue of wrong answers, question -> diagnosis -> answer, judged once for several tests."""
import contextlib
import io
from collections.abc import Callable
from functools import cache

import pytest

from course_lib.checks import Checker


def cases(wrong: dict) -> list:
    """(question, diagnosis) for each wrong answer, as pytest's parameters."""
    return [
        pytest.param(name, diagnosis, id=f"{name} {diagnosis}")
        for name, answers in wrong.items()
        for diagnosis in answers
    ]


def verdicts(wrong: dict) -> Callable:
    """verdict(question, diagnosis): whether this wrong answer passes, and what is printed."""
    @cache
    def verdict(name: str, diagnosis: str) -> tuple[bool, str]:
        check, said = Checker(), io.StringIO()
        with contextlib.redirect_stdout(said):
            check(name, wrong[name][diagnosis])
        return check.passed(name), said.getvalue()

    return verdict
