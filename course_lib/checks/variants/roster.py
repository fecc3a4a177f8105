"""Students, and a seed for each of them."""
import csv
import hashlib
import re
from pathlib import Path

from .core import Seed, validate_seed

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")


def student_seed(seed: Seed, student: str) -> str:
    """A student's own seed, 16 hexadecimal digits of SHA-256 of the seed and the student's id.

    Nobody finds another's from it, or the seed it was made from, if that is long.
    Raises TypeError or ValueError for another seed, and an id that could not name a folder.
    """
    words = f"{validate_seed(seed)}\n{_validate_student(student)}"
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def seed_here(seed: Seed) -> str:
    """The own seed of the student whose folder this is: nbgrader runs autograded/STUDENT/SHEET/."""
    return student_seed(seed, Path.cwd().parent.name)


def read_roster(file: str | Path) -> list[str]:
    """The ids of a CSV file with a column `id`, in its order; nbgrader's lists of students have it.

    Raises ValueError for a file without that column, without rows, and with an id twice or one that
    could not name a folder.
    """
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or "id" not in rows[0]:
        raise ValueError(f"{file} must have a column `id` in its first line, and a row a student")
    students = [_validate_student((row["id"] or "").strip()) for row in rows]
    seen = set()
    for student in students:
        if student.casefold() in seen:
            raise ValueError(f"{file} has the id {student!r} twice, capitals aside")
        seen.add(student.casefold())
    return students


def _validate_student(student: str) -> str:
    """The id. Raises TypeError or ValueError for one that could not name a folder."""
    if not isinstance(student, str):
        raise TypeError(f"a student's id must be a text; got {type(student).__name__}")
    if not NAME.fullmatch(student):
        raise ValueError(
            "a student's id has letters, digits and _ . @ - alone, and does not begin with "
            f". @ or -; got {student!r}"
        )
    return student
