"""Does nbgrader mark all seven sheets? Full marks for the solutions, none for untouched sheets.

    python tools/try_nbgrader.py
        all sheets: generate_assignment, autograde, generate_feedback; prints a table
    python tools/try_nbgrader.py 3 5
        these sheets
    python tools/try_nbgrader.py 3 --folder course
        in this folder, which stays: the same command goes on where it was stopped

Each sheet goes through the commands of docs/instructors/README.md with the configuration that is
shipped beside it. Two students hand in: one the solved sheet, one the sheet of exercises/ as it is.
Exit status 1 if a mark is not what it should be.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "docs/instructors/nbgrader_config.py"
STUDENTS = {"solved": "solutions", "untouched": "exercises"}
HOOKS = '''

# ---- added by tools/try_nbgrader.py: when each cell begins
import json
import time

import psutil


def _begin(cell, cell_index):
    """Write down the clock, and the processor time of the kernel, which is below this process."""
    below = psutil.Process().children(recursive=True)
    spent = sum(p.cpu_times().user + p.cpu_times().system for p in below)
    with open(os.environ["CELL_TIMES"], "a") as file:
        print(json.dumps([cell.id, time.monotonic(), spent]), file=file)


c.Execute.on_cell_execute = _begin
'''


@dataclass
class Marked:
    """What nbgrader made of one sheet; seconds are those of the cells of the solved sheet."""

    lesson: int
    points: float
    marks: dict[str, float]
    seconds: float
    processor: float
    longest_seconds: float
    longest_processor: float
    longest_cell: str

    def right(self) -> bool:
        """Whether the solution has full marks and the untouched sheet none."""
        return self.marks == {"solved": self.points, "untouched": 0} and self.points > 0


def sheet(lesson: int) -> str:
    """The name of a lesson's sheet, such as 03_training_diffusion."""
    return next((ROOT / "solutions").glob(f"{lesson:02d}_*.ipynb")).stem


def prepare(course: Path, lesson: int) -> str:
    """Put the configuration, the source and both submissions into the folder of a course.

    Returns the name of the assignment.
    """
    assignment, file = f"lesson{lesson:02d}", f"{sheet(lesson)}.ipynb"
    config = course / "nbgrader_config.py"
    if not config.exists():
        course.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG.read_text(encoding="utf-8") + HOOKS, encoding="utf-8")
    places = {"solutions": [f"source/{assignment}"]}
    for student, folder in STUDENTS.items():
        places.setdefault(folder, []).append(f"submitted/{student}/{assignment}")
    for folder, targets in places.items():
        for target in targets:
            (course / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / folder / file, course / target / file)
    return assignment


def nbgrader(course: Path, *words: str, times: Path | None = None) -> None:
    """One command of nbgrader in the folder of the course.

    times: where the hooks write what each cell took. Raises RuntimeError, with what was said, if
    the command fails.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"   # it calls alembic
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words],
        cwd=course,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path, "CELL_TIMES": str(times)},
    )
    if done.returncode:
        raise RuntimeError(f"nbgrader {' '.join(words)}:\n{done.stderr[-4000:]}")


def scores(course: Path, assignment: str) -> tuple[float, dict[str, float]]:
    """(points, student -> mark), from the gradebook."""
    from nbgrader.api import Gradebook
    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        found = book.assignment_submissions(assignment)
        return found[0].max_score, {s.student.id: s.score for s in found}


def released_differs(course: Path, assignment: str, lesson: int) -> bool:
    """Whether the sheet that students get is another than the one in exercises/."""
    name = f"{sheet(lesson)}.ipynb"
    ours = nbformat.read(ROOT / "exercises" / name, 4)
    theirs = nbformat.read(course / "release" / assignment / name, 4)
    texts = [[cell.source for cell in book.cells] for book in (ours, theirs)]
    return texts[0] != texts[1]


def mark(course: Path, lesson: int) -> Marked:
    """Take one sheet from generate_assignment to generate_feedback.

    Raises RuntimeError where a command fails or writes something else than it should.
    """
    assignment = prepare(course, lesson)
    nbgrader(course, "generate_assignment", assignment)
    if released_differs(course, assignment, lesson):
        raise RuntimeError(f"{assignment}: the released sheet is not the one in exercises/")
    for student in STUDENTS:
        times = course / f"times-{assignment}-{student}.jsonl"
        nbgrader(course, "autograde", assignment, f"--student={student}", times=times)
    nbgrader(course, "generate_feedback", assignment)
    for student in STUDENTS:
        page = course / f"feedback/{student}/{assignment}/{sheet(lesson)}.html"
        if not page.exists():
            raise RuntimeError(f"{assignment}: {student} has no feedback")
    return Marked(
        lesson,
        *scores(course, assignment),
        *cell_times(course / f"times-{assignment}-solved.jsonl"),
    )


def cell_times(file: Path) -> tuple[float, float, float, float, str]:
    """Seconds and processor seconds of all cells, then of the longest; and that cell's name.

    A cell ends where the next one begins; the last one prints a summary and does not count.
    """
    begun = [json.loads(line) for line in file.read_text().splitlines()]
    cells = [
        (after[1] - before[1], after[2] - before[2], before[0])
        for before, after in zip(begun, begun[1:])
    ]
    longest = max(cells, key=lambda cell: cell[1])
    return (*(sum(column) for column in [*zip(*cells)][:2]), *longest)


def row(marked: Marked) -> str:
    """A row of the table."""
    marks = [f"{marked.marks[student]:g}" for student in STUDENTS]
    times = (marked.seconds, marked.processor, marked.longest_seconds, marked.longest_processor)
    cells = [str(marked.lesson), f"{marked.points:g}", *marks, *(f"{t:.0f}" for t in times)]
    return f"| {' | '.join([*cells, f'`{marked.longest_cell}`'])} |"


HEAD = """| lesson | points | solved | untouched | s, solved | of the processor \
| longest cell, s | of the processor | which |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lessons", nargs="*", type=int, help="1 to 7; all when none is given")
    parser.add_argument("--folder", type=Path, help="a new folder for the course, which stays")
    args = parser.parse_args()
    print(HEAD, flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        course = args.folder.resolve() if args.folder else Path(scratch)
        for lesson in args.lessons or range(1, 8):
            marked = mark(course, lesson)
            print(row(marked), flush=True)
            failed |= not marked.right()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
