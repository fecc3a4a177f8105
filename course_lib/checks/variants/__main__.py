"""Sheets of variants for students, their source for nbgrader, and keys.

    python -m course_lib.checks.variants --lesson 3 --seed 2026
        print the questions
    python -m course_lib.checks.variants --lesson 3 --seed 2026 --answers
        print the key
    python -m course_lib.checks.variants --lesson 3 --seed 2026 --out sheet.ipynb
        write the sheet that all students get
    python -m course_lib.checks.variants --lesson 3 --seed SECRET --students roster.csv --out sheets
        write sheets/STUDENT/variants03.ipynb, each with numbers of its own
    ... --source source/variants03/variants03.ipynb
        also write the notebook by which nbgrader marks them
    ... --exam
        sheets without verdicts, and without the seed

No file is ever overwritten. roster.csv has a column `id`.
"""
import argparse
import csv
import sys
from pathlib import Path

from . import POINTS, key, names, variant
from .core import LESSONS, find
from .roster import read_roster, student_seed
from .sheet import sheet, source, write

PROGRAM = "python -m course_lib.checks.variants"


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        _validate(args)
        _run(args)
    except FileExistsError as error:
        parser.exit(2, f"{error.filename} is there already: nothing is overwritten\n")
    except OSError as error:
        parser.exit(2, f"{error.filename}: {error.strerror}\n")
    except (TypeError, ValueError) as error:
        parser.exit(2, f"{error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--lesson", type=int, required=True, choices=LESSONS)
    parser.add_argument("--seed", required=True, help="a number or a text; a long one for an exam")
    parser.add_argument("--questions", help='some of the lesson\'s, "3.A,3.C"; all if not given')
    parser.add_argument("--students", type=Path, help="a CSV file with a column `id`")
    parser.add_argument("--out", type=Path, help="the sheet; with --students a folder")
    parser.add_argument("--source", type=Path, help="the notebook for nbgrader's source folder")
    parser.add_argument("--exam", action="store_true", help="sheets without verdicts and seed")
    parser.add_argument("--answers", action="store_true", help="print the key")
    return parser


def _validate(args: argparse.Namespace) -> None:
    """The questions as a list, the students as ids. Raises ValueError for what does not fit."""
    there = names(args.lesson)
    args.questions = args.questions.split(",") if args.questions else there
    for name in args.questions:
        if find(name).lesson != args.lesson:
            raise ValueError(f"{name} is no question of lesson {args.lesson}: there are "
                             f"{', '.join(there)}")
    args.students = read_roster(args.students) if args.students else []
    if args.out and not args.students and args.out.suffix != ".ipynb":
        raise ValueError(f"--out must be a notebook, such as sheet.ipynb; got {args.out}")
    files = [*_sheets(args), *([args.source] if args.source else [])]
    for file in files:
        if file.exists():
            raise ValueError(f"{file} is there already: nothing is overwritten")


def _sheets(args: argparse.Namespace) -> dict[Path, str]:
    """The sheets to write: file -> seed."""
    if not args.out:
        return {}
    if not args.students:
        return {args.out: args.seed}
    name = f"variants{args.lesson:02d}.ipynb"
    return {args.out / s / name: student_seed(args.seed, s) for s in args.students}


def _run(args: argparse.Namespace) -> None:
    for file, seed in _sheets(args).items():
        write(sheet(args.questions, seed, args.exam), file)
        print(file, file=sys.stderr)
    if args.source:
        write(source(args.questions, args.seed, args.exam, bool(args.students)), args.source)
        print(args.source, file=sys.stderr)
    if args.answers:
        _print_key(args)
    elif not args.out and not args.source:
        for name in args.questions:
            variant(name, args.seed)


def _print_key(args: argparse.Namespace) -> None:
    """A row for each question, or, with --students, a CSV with a row for each of them."""
    if not args.students:
        for name in args.questions:
            shown = _shown(name, args.seed)
            print(f"{name}  {shown:<12} {POINTS} points  {find(name).formula}")
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["id", *args.questions])
    for student in args.students:
        seed = student_seed(args.seed, student)
        out.writerow([student, *(_shown(name, seed) for name in args.questions)])


def _shown(name: str, seed: str) -> str:
    """The right answer: every digit of a whole number, six of another."""
    value = key(name, seed)
    return str(value) if isinstance(value, int) else f"{value:.6g}"


if __name__ == "__main__":
    main()
