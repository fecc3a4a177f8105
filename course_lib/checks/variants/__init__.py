"""Seeded variants: questions whose numbers come from a seed, three or more a lesson.

    variant("1.A", 2026)                    prints the question
    check_variant("1.A", 2026, 0.25)        right, not yet (and why), or not attempted
    python -m course_lib.checks.variants --help     writes sheets and prints keys

One seed always gives the same numbers. What they are for: docs/instructors/variants.md.
"""
from .core import (
    POINTS,
    Numbers,
    Seed,
    Variant,
    find,
    noted,
    of_lesson,
    question_text,
    right_answer,
    say,
    verdict,
)
from .roster import seed_here, student_seed

__all__ = [
    "POINTS",
    "Numbers",
    "Variant",
    "check_variant",
    "grade_variant",
    "key",
    "names",
    "note_variant",
    "seed_here",
    "student_seed",
    "variant",
]


def names(lesson: int) -> list[str]:
    """The variants of a lesson, such as ["1.A", "1.B"]. Raises ValueError for another lesson."""
    return list(of_lesson(lesson))


def variant(name: str, seed: Seed) -> None:
    """Print a question. seed: a whole number, at least 0, or a text of one line.

    Raises TypeError or ValueError for a name that is not there, and for another seed.
    """
    v = find(name)
    print(f"{name} ({POINTS} points). {question_text(v, seed)}")


def check_variant(name: str, seed: Seed, answer: object = None) -> None:
    """Judge an answer and print the verdict: right, not yet (and why), or not attempted.

    answer: a number, or a function without arguments that returns it. With COURSE_STRICT=1 any
    verdict but "right" raises CheckFailed. Raises TypeError or ValueError as `variant` does.
    """
    v = find(name)
    say(v, verdict(v, seed, answer), strict=False)


def grade_variant(name: str, seed: Seed, answer: object = None) -> None:
    """As check_variant; raises CheckFailed for any verdict but "right", for a graded cell."""
    v = find(name)
    say(v, verdict(v, seed, answer), strict=True)


def note_variant(name: str, answer: object = None) -> None:
    """Say that an answer is one number, or not attempted, and not whether it is right."""
    v = find(name)
    say(v, noted(v, answer), strict=False)


def key(name: str, seed: Seed) -> float:
    """The right answer. Raises TypeError or ValueError as `variant` does."""
    return right_answer(find(name), seed)
