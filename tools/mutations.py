"""Break the code on purpose: does a test go red?

    python tools/mutations.py                   every entry of mutations.toml
    python tools/mutations.py posterior         those whose line contains this word
    python tools/mutations.py equations         the formulas of the lessons
    python tools/mutations.py --random 60       random flips of operators and constants in the
                                                library (--seed 1: others)

An entry changes one expression, of the library or of a lesson's formula as its test writes it down,
in a copy of the repository, and runs the tests that should notice. A random flip runs every test
that some entry names for its file, and the table of doors; if they stay green, the other tests of
the library. The tests must pass before anything is changed. Prints one line per change; exit status
1 if any went unnoticed (a random flip may be one that changes nothing).
"""
import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
LONGEST = 600                                               # seconds for the tests of one change
LONGEST_OTHERS = 3600                                       # ... for all others
IGNORED = shutil.ignore_patterns(".git", ".venv", "runs", "*.ipynb", "__pycache__")


class Change(NamedTuple):
    """One expression of a file, what it becomes, and the tests that should notice."""
    path: Path
    old: str
    new: str
    tests: list[str]
    start: int | None = None                    # where it stands; None: the only place there is

    def line(self) -> str:
        return f"{self.tests[0]}: {self.old.strip()}  ->  {self.new.strip()}"


# ---- the table

def entries(root: Path) -> list[Change]:
    """Every mutation of the repository at `root`.

    Raises SystemExit for a test that is not there.
    """
    found = []
    for entry in TABLE["library"]:
        path = root / "course_lib" / entry["file"]
        found.append(Change(path, entry["old"], entry["new"], [_library_test(root, entry)]))
    for entry in TABLE["formula"]:
        lesson, number = entry["eq"].split(".")
        name = entry.get("test", f"test_eq_{lesson}_{number}")
        file = _test_file(root, int(lesson), name)
        found.append(Change(file, entry["old"], entry["new"], [f"tests/{file.name}::{name}"]))
    return found


def _library_test(root: Path, entry: dict) -> str:
    file, *name = entry["tests"].split("::")
    _validate_test(root / f"tests/test_{file}.py", *name)
    return "::".join([f"tests/test_{file}.py", *name])


def _test_file(root: Path, lesson: int, name: str) -> Path:
    """The file of a lesson's equations that has this test."""
    files = sorted((root / "tests").glob(f"test_equations_{lesson:02d}*.py"))
    found = [file for file in files if f"def {name}(" in file.read_text(encoding="utf-8")]
    if not found:
        raise SystemExit(f"no test is called {name}; mutations.toml must follow the tests")
    return found[0]


def _validate_test(file: Path, name: str | None = None) -> None:
    there = file.exists()
    if there and name is not None:
        there = f"def {name}(" in file.read_text(encoding="utf-8")
    if not there:
        raise SystemExit(
            f"there is no {file.name}{f'::{name}' if name else ''}; "
            "mutations.toml must follow the tests"
        )


# ---- random flips

OPERATORS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.Pow: "*",
    ast.Lt: ">=", ast.LtE: ">", ast.Gt: "<=", ast.GtE: "<", ast.Eq: "!=", ast.NotEq: "==",
}                                                                                    # fmt: skip
SIGNS = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}                                                                                    # fmt: skip


def flips(path: Path, tests: list[str]) -> Iterator[Change]:
    """Every flip of a file: an operator for its opposite, a number for another."""
    text = path.read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        row = text[starts[line - 1] : starts[line]].encode()
        return starts[line - 1] + len(row[:column].decode())    # the tree counts bytes

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield from _operator(path, text, tests, node.left, node.op, node.right, at)
        if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            pair = node.left, node.ops[0], node.comparators[0]
            yield from _operator(path, text, tests, *pair, at)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            start = at(node.lineno, node.col_offset)
            old = text[start : at(node.end_lineno, node.end_col_offset)]
            new = {0: "1", 1: "2"}.get(node.value, f"({old} * 1.5)")
            if isinstance(node.value, int) and node.value > 1:
                new = str(node.value + 1)
            yield Change(path, old, new, tests, start)


def _operator(path: Path, text: str, tests: list[str], left, operator, right, at):
    """The flip of the operator that stands between two expressions."""
    begin = at(left.end_lineno, left.end_col_offset)
    end = at(right.lineno, right.col_offset)
    sign = SIGNS[type(operator)]
    place = text.find(sign, begin, end)
    if place >= 0:
        yield Change(path, sign, OPERATORS[type(operator)], tests, place)


def random_flips(root: Path, n: int, seed: int) -> list[Change]:
    """n random flips of the files that mutations.toml has entries for."""
    tests: dict[Path, set[str]] = {}
    for entry in TABLE["library"]:
        test = _library_test(root, entry).split("::")[0]
        tests.setdefault(root / "course_lib" / entry["file"], set()).add(test)
    doors = "tests/test_doors.py"                           # what guards are for; slow, so last
    every = [
        flip
        for path, names in sorted(tests.items())
        for flip in flips(path, [*sorted(names - {doors}), doors])
    ]
    return random.Random(seed).sample(every, min(n, len(every)))


def other_tests(root: Path, tests: list[str]) -> list[str]:
    """The files of unit tests but these, and but those of lessons, sheets and whole notebooks."""
    lessons = ("test_checks_0", "test_equations_0", "test_build", "test_colab", "test_project")
    names = sorted(f"tests/{file.name}" for file in (root / "tests").glob("test_*.py"))
    return [n for n in names if n not in tests and not Path(n).name.startswith(lessons)]


# ---- what the tests say

def outcome(root: Path, tests: list[str], longest: float = LONGEST) -> tuple[int | None, str]:
    """Exit status (None: it took too long) and output of these tests, at most one failing.

    They run in a fork of this process, which has torch imported and the course not.
    """
    log = root / "said.txt"
    pid = os.fork()
    if pid == 0:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        import pytest
        unit = ["-m", "not browser and not slow"]
        status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *unit, *tests])
        sys.stdout.flush()
        os._exit(int(status))
    end = time.monotonic() + longest
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            said = log.read_text(encoding="utf-8", errors="replace")
            return os.waitstatus_to_exitcode(status), said
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None, "the tests took too long"


def noticed(root: Path, change: Change) -> bool:
    """Whether the tests fail, or never end, once the change is made."""
    path, old, new, tests, start = change
    text = path.read_text(encoding="utf-8")
    if start is None and text.count(old) != 1:
        raise SystemExit(
            f"{path.name}: {old!r} stands there {text.count(old)} times; "
            "mutations.toml must follow the code"
        )
    start = text.index(old) if start is None else start
    path.write_text(text[:start] + new + text[start + len(old) :], encoding="utf-8")
    random_flip = change.start is not None                  # may break an import: red, too
    status, said = outcome(root, tests)
    if status == 0 and random_flip:
        status, said = outcome(root, other_tests(root, tests), LONGEST_OTHERS)
    path.write_text(text, encoding="utf-8")
    if status not in (0, 1, None) and not random_flip:
        raise SystemExit(said)
    return status != 0


def prepare(root: Path) -> None:
    """This process as the tests' forks find it: in the copy, with what the course imports."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    sys.dont_write_bytecode = True
    os.chdir(root)
    sys.path[:0] = [str(root), str(root / "tests")]
    import accelerate  # noqa: F401
    import torch
    import torchvision  # noqa: F401
    torch.set_num_threads(1)


def _where(change: Change) -> str:
    """The line of a random flip, and the flip."""
    text = change.path.read_text(encoding="utf-8")
    number = text.count("\n", 0, change.start) + 1
    code = text.splitlines()[number - 1].strip()
    return f"{change.path.name}:{number}  {change.old} -> {change.new}  in  {code}"


def _chosen(root: Path, arguments: argparse.Namespace) -> dict[str, Change]:
    if arguments.random:
        return {_where(c): c for c in random_flips(root, arguments.random, arguments.seed)}
    lines = {change.line(): change for change in entries(root)}
    chosen = {line: change for line, change in lines.items() if arguments.word in line}
    if not chosen:
        raise SystemExit(f"no entry contains {arguments.word!r}")
    return chosen


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the code on purpose: does a test go red?")
    parser.add_argument("word", nargs="?", default="", help="only entries that contain it")
    parser.add_argument("--random", type=int, default=0, help="so many random flips instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random flips")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "course")
        shutil.copytree(ROOT, root, ignore=IGNORED)
        chosen = _chosen(root, arguments)
        prepare(root)
        every_test = sorted({test for change in chosen.values() for test in change.tests})
        if arguments.random:                                # what a green flip is shown next
            every_test += other_tests(root, every_test)
        status, said = outcome(root, every_test, LONGEST_OTHERS)
        if status:
            raise SystemExit(f"the tests fail before anything is changed:\n{said}")
        missed = 0
        for line, change in chosen.items():
            red = noticed(root, change)
            missed += not red
            print(f"{'red ' if red else 'GREEN'}  {line}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
