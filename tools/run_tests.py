"""All tests: pytest on tests/, then every notebook, solution and exercise sheet through nbval.

    python tools/run_tests.py        everything
    python tools/run_tests.py 03     one lesson: its formulas' tests and its notebooks

The unit tests run on all cores, one thread each. The notebooks run one after the other, each with
the whole machine, as a student would run them; trainings in them start from nothing, in a fresh
$COURSE_RUNS. Solutions and exercise sheets are shorter: they run on all cores, one thread each,
solutions with COURSE_STRICT=1: a wrong one is an error.
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
WHOLE_FILES = ["-n", WORKERS, "--dist", "loadfile"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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
    return [run("tests", *PARALLEL, *tests, **ONE_THREAD)]


def notebooks(what: str, files: list[Path], *options: str, **environment: str) -> bool:
    """Notebooks through nbval, in a fresh $COURSE_RUNS."""
    with tempfile.TemporaryDirectory() as runs:
        return run(
            what,
            *NBVAL,
            *options,
            *map(str, files),
            COURSE_RUNS=runs,
            COURSE_STATIC="0",
            MPLBACKEND=INLINE,
            **environment,
        )


def main() -> int:
    lesson = sys.argv[1] if len(sys.argv) > 1 else ""
    if lesson:
        validate_lesson(lesson)
    good = unit_tests(lesson)
    found = lambda folder: sorted((ROOT / folder).glob(f"{lesson}*.ipynb"))
    for file in found("notebooks"):
        good.append(notebooks(f"notebooks/{file.name}", [file], COURSE_STRICT="0"))
    for folder, strict in (("solutions", "1"), ("exercises", "0")):
        if found(folder):
            good.append(notebooks(folder, found(folder), *WHOLE_FILES, **ONE_THREAD,
                                  COURSE_STRICT=strict))
    print(f"== {sum(good)} of {len(good)} parts passed", flush=True)
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
