"""All tests: pytest on tests/, then every notebook, solution and exercise sheet through nbval.

    python tools/run_tests.py        everything
    python tools/run_tests.py 03     one lesson: its formulas' tests and its notebooks

The notebooks run one after the other, each with the whole machine, as a student would run them; trainings in them start
from nothing ($COURSE_RUNS is a fresh folder). Solutions run with COURSE_STRICT=1: a wrong one is an error.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NBVAL = ["-p", "no:python", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "-q", "--no-header"]


def run(what: str, *arguments: str, **environment: str) -> bool:
    """One pytest process; says what it runs and how long it took."""
    print(f"== {what}", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=os.environ | environment).returncode
    print(f"== {what}: {'passed' if code == 0 else f'FAILED (pytest {code})'} in {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def main() -> int:
    lesson = sys.argv[1] if len(sys.argv) > 1 else ""
    tests = sorted(str(p) for p in (ROOT / "tests").glob(f"*_{lesson}*.py")) if lesson else ["tests"]
    good = [run("tests", *tests)] if tests else []
    for folder in ("notebooks", "solutions", "exercises"):
        for notebook in sorted((ROOT / folder).glob(f"{lesson}*.ipynb")):
            with tempfile.TemporaryDirectory() as runs:
                good.append(run(f"{folder}/{notebook.name}", *NBVAL, str(notebook), COURSE_RUNS=runs, MPLBACKEND="module://matplotlib_inline.backend_inline",
                                COURSE_STRICT="1" if folder == "solutions" else "0", COURSE_STATIC="0"))
    print(f"== {sum(good)} of {len(good)} parts passed", flush=True)
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
