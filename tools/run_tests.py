"""All tests: pytest on tests/, then every notebook, solution and exercise sheet through nbval.

    python tools/run_tests.py        everything
    python tools/run_tests.py 03     one lesson: its formulas' tests and its notebooks

The unit tests run on all cores, one thread each. The notebooks run one after the other, each with
the whole machine, as a student would run them; trainings in them start from nothing, in a fresh
$COURSE_RUNS. Solutions run with COURSE_STRICT=1: a wrong one is an error.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from build import validate_lesson

ROOT = Path(__file__).parents[1]
WORKERS = str(min(os.cpu_count() or 1, 8))
PARALLEL = ["-n", WORKERS, "--dist", "worksteal"]
NBVAL = [
    "-p",
    "no:python",
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-cell-timeout=900",
    "-q",
    "--no-header",
]
INLINE = "module://matplotlib_inline.backend_inline"


def run(what: str, *arguments: str, **environment: str) -> bool:
    """One pytest process; says what it runs and how long it took. No test at all passes, too."""
    print(f"== {what}", flush=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.run(command, cwd=ROOT, env=os.environ | environment).returncode
    good = code in (0, 5)
    verdict = "passed" if good else f"FAILED (pytest {code})"
    print(f"== {what}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    return good


def unit_tests(lesson: str) -> list[bool]:
    """The tests of one lesson, or all of them."""
    tests = ["tests"]
    if lesson:
        tests = sorted(str(p) for p in (ROOT / "tests").glob(f"*_{lesson}*.py"))
    if not tests:
        return []
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return [run("tests", *PARALLEL, *tests, **one_thread)]


def notebook(file: Path) -> bool:
    """One notebook, as a student would run it."""
    with tempfile.TemporaryDirectory() as runs:
        return run(
            f"{file.parent.name}/{file.name}",
            *NBVAL,
            str(file),
            COURSE_RUNS=runs,
            COURSE_STATIC="0",
            COURSE_STRICT="1" if file.parent.name == "solutions" else "0",
            MPLBACKEND=INLINE,
        )


def main() -> int:
    lesson = sys.argv[1] if len(sys.argv) > 1 else ""
    if lesson:
        validate_lesson(lesson)
    good = unit_tests(lesson)
    for folder in ("notebooks", "solutions", "exercises"):
        good += [notebook(file) for file in sorted((ROOT / folder).glob(f"{lesson}*.ipynb"))]
    print(f"== {sum(good)} of {len(good)} parts passed", flush=True)
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
