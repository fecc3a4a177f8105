"""What all seeded variants share: numbers from a seed, a case whose answers differ, verdicts.

A variant is a question whose numbers are drawn from its name and a seed. The right answer and the
answers that known mistakes give are computed for these numbers.
"""
import hashlib
import importlib
import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor

from ... import validate
from ...schedules import Schedule
from ..common import F64, CheckFailed, Question, Wrong, _judge, as_scalar, compare

LESSONS = range(1, 8)
POINTS = 2                                                  # of each variant
RTOL = 0.01                                                 # three digits err by 0.005 at most
ATTEMPTS = 1000
WHOLE = "Answer with a whole number."
DIGITS = "Answer with one number, to at least three significant digits."
OTHER = "that is not the number, and no mistake that is known here gives it"
Case = SimpleNamespace
Seed = int | str


class Numbers:
    """A stream of numbers drawn by SHA-256 from words: the same in every Python, on every machine.
    """

    def __init__(self, words: str):
        self.words = words
        self.drawn = 0

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, each about equally likely."""
        self.drawn += 1
        digest = hashlib.sha256(f"{self.words}|{self.drawn}".encode()).digest()
        return int.from_bytes(digest, "big") % n

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + self.below(high - low + 1)

    def decimal(self, low: float, high: float, digits: int) -> float:
        """A number from low to high with so many digits after the point."""
        scale = 10**digits
        return self.whole(round(low * scale), round(high * scale)) / scale

    def one_of(self, choices: Sequence) -> object:
        """One of the choices."""
        return choices[self.below(len(choices))]


@dataclass(frozen=True, eq=False)
class Variant:
    """A question with numbers from a seed.

    name:     "1.A", lesson first
    draw:     Numbers -> Case, the numbers of the question
    text:     Case -> the question, with every number that is needed
    right:    Case -> the right answer, a number
    mistakes: diagnosis -> (Case -> what this mistake gives), at least three
    formula:  the lesson's formula that answers it, for the key
    whole:    whether the answer is a whole number, compared exactly; others may differ by 1 %
    """
    name: str
    draw: Callable[[Numbers], Case]
    text: Callable[[Case], str]
    right: Callable[[Case], float]
    mistakes: Mapping[str, Callable[[Case], float]]
    formula: str
    whole: bool = False

    @property
    def lesson(self) -> int:
        return int(self.name.split(".")[0])


def validate_seed(seed: Seed) -> str:
    """The seed as text: 2026 and "2026" are one seed.

    Raises TypeError or ValueError for what is neither a whole number, at least 0, nor a text of one
    line.
    """
    if isinstance(seed, str):
        if not seed.strip() or not seed.isprintable():
            raise ValueError(f"seed must be a text of one line, not empty; got {seed!r}")
        return seed
    return str(validate.whole(seed, "seed", 0, what="or a text"))


@cache
def of_lesson(lesson: int) -> dict[str, Variant]:
    """The variants of a lesson by name. Raises ValueError for a lesson that is not there."""
    validate.choice(lesson, "lesson", LESSONS)
    module = importlib.import_module(f"{__package__}.lesson{lesson:02d}")
    return {v.name: v for v in module.VARIANTS}


def find(name: str) -> Variant:
    """The variant of this name. Raises ValueError if there is none."""
    lesson = name.split(".")[0] if isinstance(name, str) else ""
    if lesson not in map(str, LESSONS):
        raise ValueError(f"there is no variant {name!r}: names look like '1.A', lesson first")
    there = of_lesson(int(lesson))
    if name not in there:
        raise ValueError(f"there is no variant {name!r}: lesson {lesson} has {', '.join(there)}")
    return there[name]


# ---- a case

def case_of(v: Variant, seed: Seed) -> Case:
    """The numbers of a variant: the first drawn for which all answers can be told apart."""
    return _drawn(v, validate_seed(seed))[0]


def answers(v: Variant, seed: Seed) -> list[float]:
    """The right answer, then that of each mistake."""
    return _drawn(v, validate_seed(seed))[1]


@cache
def _drawn(v: Variant, seed: str) -> tuple[Case, list[float]]:
    """The case and its answers."""
    for attempt in range(ATTEMPTS):
        c = v.draw(Numbers(f"{v.name}|{seed}|{attempt}"))
        found = _answers(v, c)
        if _distinguishable(v, found):
            return c, found
    raise RuntimeError(f"variant {v.name}: {ATTEMPTS} cases, none tells its mistakes apart")


def _answers(v: Variant, c: Case) -> list[float]:
    with torch.random.fork_rng(devices=[]):
        return [float(f(c)) for f in (v.right, *v.mistakes.values())]


def _distinguishable(v: Variant, found: list[float]) -> bool:
    """Whether all are finite and no two of them could be taken for each other."""
    pairs = [(a, b) for k, a in enumerate(found) for b in found[:k]]
    return all(map(math.isfinite, found)) and all(_apart(a, b, v.whole) for a, b in pairs)


def _apart(a: float, b: float, whole: bool) -> bool:
    return abs(a - b) >= (1 if whole else 3 * RTOL * max(abs(a), abs(b)))


# ---- what is asked, and what is said to an answer

def question_text(v: Variant, seed: Seed) -> str:
    """The question with its numbers, and in which form the answer is wanted."""
    return f"{v.text(case_of(v, seed))} {WHOLE if v.whole else DIGITS}"


def right_answer(v: Variant, seed: Seed) -> float:
    """The right answer; an int where a whole number is asked for."""
    found = answers(v, seed)[0]
    return round(found) if v.whole else found


def verdict(v: Variant, seed: Seed, answer: object) -> tuple[str, str]:
    """("right", ""), ("not attempted", "") or ("not yet", why).

    answer: a number, or a function without arguments that returns it; None and ... are no attempt
    """
    found = answers(v, seed)
    return _judge(Question(v.name, POINTS, lambda given: _compare(v, found, given)), answer)


def _compare(v: Variant, found: list[float], given: object) -> None:
    """Raise Wrong unless given is right."""
    got = as_scalar(given() if callable(given) else given)
    right, *wrong = map(_scalar, found)
    tolerance = {"rtol": 0, "atol": 0.01} if v.whole else {"rtol": RTOL, "atol": 0}
    compare(got, right, dict(zip(v.mistakes, wrong)), **tolerance, otherwise=_otherwise(v, got))


def _otherwise(v: Variant, got: Tensor) -> str:
    if v.whole and got.isfinite() and got != got.round():
        return "a whole number is wanted"
    return OTHER


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def validate_kind(answer: object) -> None:
    """Raise Wrong unless the answer is one finite number, or a function that returns one."""
    got = as_scalar(answer() if callable(answer) else answer)
    if not got.isfinite():
        raise Wrong(f"one finite number is wanted; got {got.item()}")


def noted(v: Variant, answer: object) -> tuple[str, str]:
    """("noted", the number), without saying whether it is right; else as `verdict`."""
    found, words = _judge(Question(v.name, POINTS, validate_kind), answer)
    if found != "right":
        return found, words
    return "noted", f"{as_scalar(answer() if callable(answer) else answer).item():g}"


def say(v: Variant, found: tuple[str, str], strict: bool) -> None:
    """Print a verdict. strict: raise CheckFailed for any but "right"."""
    verdict, words = found
    print(f"{v.name} {verdict}{': ' + words if words else ''}")
    if verdict not in ("right", "noted") and (strict or os.environ.get("COURSE_STRICT") == "1"):
        raise CheckFailed(f"{v.name} {verdict}: {words}")


# ---- what several lessons' variants compute with

def clear(f: Callable[[Case], float]) -> Callable[[Case], float]:
    """f, but nan where it is below 0.1: another case is drawn, in which rounding costs less."""
    def checked(c: Case) -> float:
        value = f(c)
        return value if abs(value) >= 0.1 else math.nan
    return checked


def column(*values: float) -> Tensor:
    """Numbers as a batch of examples of one dimension: (B, 1), float64."""
    return torch.tensor(values, dtype=F64)[:, None]


def variance_preserving() -> Schedule:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2)."""
    return Schedule(lambda t: (math.pi / 2 * t).cos(), lambda t: (math.pi / 2 * t).sin())


def time_of_alpha(alpha: float) -> Tensor:
    """Where variance_preserving() has this alpha: a tensor ()"""
    return _scalar(2 / math.pi * math.acos(alpha))


def sigma_of(alpha: float) -> float:
    """sqrt(1 - alpha^2)."""
    return math.sqrt(1 - alpha**2)


def listed(values: Sequence[numbers.Number]) -> str:
    """Numbers of a text, "0.1, 0.2, 0.3"."""
    return ", ".join(f"{value:g}" for value in values)
