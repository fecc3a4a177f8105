"""Checks of the exercises: `check("1.1", my_function)` prints a verdict.

The verdict is "right", "not yet" (and why) or "not attempted". The questions are in `lesson01.py`
and its siblings, what they share in `common.py`. With COURSE_STRICT=1 anything but "right" raises.
"""
from .common import Checker, CheckFailed, Question, Wrong, check, hint, question

__all__ = ["check", "hint", "question", "Checker", "Question", "Wrong", "CheckFailed"]
