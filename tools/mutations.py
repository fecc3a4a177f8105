"""Break a formula on purpose: does a test go red?    python tools/mutations.py

Each entry of mutations.toml changes one expression, of the library or of a lesson's formula as its
test writes it down, in a copy of the repository, and runs the tests that should notice.
`python tools/mutations.py posterior` runs the entries whose line contains that word (or
"equations": the formulas of the lessons).
The tests must pass before anything is changed. Prints one line per entry; exit status 1 if any
change went unnoticed.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def noticed(path: Path, old: str, new: str, tests: list[str]) -> bool:
    """Whether these tests fail once `old` reads `new` in this file."""
    text = path.read_text(encoding="utf-8")
    if text.count(old) != 1:
        raise SystemExit(
            f"{path.name}: {old!r} stands there {text.count(old)} times; "
            "mutations.toml must follow the code"
        )
    path.write_text(text.replace(old, new), encoding="utf-8")
    root = next(p for p in path.parents if (p / "pyproject.toml").exists())
    status, said = _run(root, tests)
    path.write_text(text, encoding="utf-8")
    if status not in (0, 1):
        raise SystemExit(said)
    return status == 1


def _run(root: Path, tests: list[str]) -> tuple[int, str]:
    """Exit status and output of these tests, at most one failing."""
    # plugins of pytest that the tests do not need take three seconds to import
    own = {"PYTHONPATH": str(root), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=root, env=os.environ | own, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def entries(root: Path) -> list[tuple[Path, str, str, list[str]]]:
    """Every mutation of the repository at `root`: the file, the expression, what it becomes, and
    the tests that should notice.

    Raises SystemExit for a test that is not there.
    """
    found = []
    for entry in TABLE["library"]:
        file, *name = entry["tests"].split("::")
        _validate_test(root / f"tests/test_{file}.py", *name)
        path = root / "course_lib" / entry["file"]
        tests = ["::".join([f"tests/test_{file}.py", *name])]
        found.append((path, entry["old"], entry["new"], tests))
    for entry in TABLE["formula"]:
        lesson, number = entry["eq"].split(".")
        name = entry.get("test", f"test_eq_{lesson}_{number}")
        file = _test_file(root, int(lesson), name)
        found.append((file, entry["old"], entry["new"], [f"tests/{file.name}::{name}"]))
    return found


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


def main() -> int:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    missed = 0
    ignored = shutil.ignore_patterns(".git", ".venv", "runs", "*.ipynb", "__pycache__")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "course")
        shutil.copytree(ROOT, copy, ignore=ignored)
        lines = {}
        for path, old, new, tests in entries(copy):
            line = f"{tests[0]}: {old.strip()}  ->  {new.strip()}"
            if wanted in line:
                lines[line] = path, old, new, tests
        if not lines:
            raise SystemExit(f"no entry contains {wanted!r}")
        status, said = _run(copy, sorted({test for *_, tests in lines.values() for test in tests}))
        if status:
            raise SystemExit(f"the tests fail before anything is changed:\n{said}")
        for line, entry in lines.items():
            red = noticed(*entry)
            missed += not red
            print(f"{'red ' if red else 'GREEN'}  {line}", flush=True)
    print(f"{len(lines) - missed} of {len(lines)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
