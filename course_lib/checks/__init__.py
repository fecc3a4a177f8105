"""Answers that answer back: `check("1.1", my_function)` says right, not yet (and why), or not attempted.

A question is a `Question` in `checks/lesson01.py` and its siblings. With COURSE_STRICT=1 anything but "right" raises.
"""
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["check", "hint", "Question", "Wrong", "compare", "function", "number"]


class Wrong(Exception):
    """A diagnosis: one sentence that says what is wrong and where to look."""


class WrongAnswer(AssertionError):
    """What a wrong answer raises when COURSE_STRICT=1."""


@dataclass(frozen=True)
class Question:
    """One question: `judge(answer)` returns when the answer is right and raises Wrong with a diagnosis when it is not."""
    name: str
    points: int
    judge: Callable[[object], None]
    praise: str = ""
    hints: tuple[str, ...] = ()


@dataclass
class Checker:
    """Keeps the verdicts of one session: question name -> "right", "not yet" or "not attempted"."""
    verdicts: dict[str, str] = field(default_factory=dict)
    hints_given: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str, answer: object = None) -> None:
        """Judge one answer and print the verdict."""
        q = question(name)
        verdict, words = _judge(q, answer)
        self.verdicts[name] = verdict
        print(f"{name} {verdict}{': ' + words if words else ''}")
        if verdict != "right" and os.environ.get("COURSE_STRICT") == "1":
            raise WrongAnswer(f"{name} {verdict}: {words}")

    def passed(self, name: str) -> bool:
        """Whether the last answer to this question was right."""
        return self.verdicts.get(name) == "right"

    def summary(self, lesson: int | None = None) -> None:
        """Points and progress, for one lesson or for every lesson that was begun."""
        lessons = [lesson] if lesson else sorted({int(name.split(".")[0]) for name in self.verdicts})
        if not lessons:
            print("No question has been checked yet.")
        for number in lessons:
            questions = _questions(number)
            got = sum(q.points for q in questions.values() if self.passed(q.name))
            print(f"Lesson {number}: {got} of {sum(q.points for q in questions.values())} points")
            for q in questions.values():
                print(f"  {q.name}  {self.verdicts.get(q.name, 'not attempted'):<14} {q.points} points")


def question(name: str) -> Question:
    """The question of this name, or one clear sentence."""
    try:
        questions = _questions(int(name.split(".")[0]))
    except (ValueError, AttributeError, ModuleNotFoundError):
        raise ValueError(f"there is no question {name!r}: names look like '1.1', lesson first") from None
    if name not in questions:
        raise ValueError(f"there is no question {name!r}: lesson {name.split('.')[0]} asks {', '.join(questions)}")
    return questions[name]


def hint(name: str) -> None:
    """The next hint for a question: the first nudges, the last nearly tells."""
    hints = question(name).hints
    given = check.hints_given.get(name, 0)
    if given >= len(hints):
        print(f"{name}: that was the last of {len(hints)} hints." if hints else f"{name} has no hints.")
        return
    check.hints_given[name] = given + 1
    print(f"{name}, hint {given + 1} of {len(hints)}: {hints[given]}")


def _questions(lesson: int) -> dict[str, Question]:
    return {q.name: q for q in importlib.import_module(f"{__name__}.lesson{lesson:02d}").QUESTIONS}


def _judge(q: Question, answer: object) -> tuple[str, str]:
    if answer is None or answer is ...:
        return "not attempted", ""
    try:
        q.judge(answer)
    except NotImplementedError:
        return "not attempted", ""
    except Wrong as diagnosis:
        return "not yet", str(diagnosis)
    except Exception as error:                  # the reader's own code failed: say how, lose nothing
        return "not yet", f"your answer raised {type(error).__name__}: {error}"
    return "right", q.praise


def compare(got: object, wanted: Tensor, mistakes: dict[str, Tensor] | None = None, rtol: float = 1e-4, atol: float = 1e-5,
            otherwise: str = "") -> None:
    """Raise Wrong unless got equals wanted; a known mistake (diagnosis -> what it would have computed) names itself."""
    if not isinstance(got, Tensor):
        raise Wrong("your function returned None: does it end with `return`?" if got is None else f"expected a tensor; got {type(got).__name__}")
    if got.shape != wanted.shape:
        raise Wrong(f"expected shape {tuple(wanted.shape)}; got {tuple(got.shape)}")
    same = lambda other: torch.allclose(got.double(), other.double(), rtol=rtol, atol=atol)
    if same(wanted):
        return
    if not got.isfinite().all():
        raise Wrong(f"{(~got.isfinite()).sum()} of the values are nan or inf")
    for diagnosis, result in (mistakes or {}).items():
        if result.shape == wanted.shape and same(result):
            raise Wrong(diagnosis)
    difference = (got.double() - wanted.double()).abs().max()
    raise Wrong(otherwise or f"the values differ by up to {difference:.3g}")


def function(answer: object) -> Callable:
    """The reader's function, or a sentence that says what came in its place."""
    if not callable(answer):
        raise Wrong(f"pass the function itself, its name without brackets; got {type(answer).__name__}")
    return answer


def number(got: object) -> Tensor:
    """What should be one number, as a float64 tensor without dimensions, or a sentence that says what came in its place."""
    if got is None:
        raise Wrong("your function returned None: does it end with `return`?")
    if not isinstance(got, (int, float, Tensor)) or isinstance(got, Tensor) and got.numel() != 1:
        raise Wrong(f"one number is wanted; got {f'a tensor of shape {tuple(got.shape)}' if isinstance(got, Tensor) else type(got).__name__}")
    return torch.as_tensor(got, dtype=torch.float64).reshape(())


check = Checker()
