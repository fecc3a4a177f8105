"""Is the code readable? ruff (pyproject.toml), and what ruff cannot see.

    python tools/lint.py
        says what is wrong, file and line; exit status 1 if anything is
    python tools/lint.py --numbers
        also how long lines and functions are, by folder

Code in lessons and sheets has at most 92 columns (a JupyterLab window of 1366 pixels with its file
browser shows 108, Colab and GitHub fewer), other code 100. A function has at most 40 lines, a
constructor may have more; the median is at most 8. A line holds one statement.
"""
import argparse
import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("course_lib", "lessons", "tests", "tools", "benchmarks")
LESSON_WIDTH = 92
WIDTH = 100
FUNCTION_LINES = 40
MEDIAN_LINES = 8


def sources(folder: str) -> list[Path]:
    """The Python files below a folder of the repository."""
    return sorted((ROOT / folder).rglob("*.py"))


def code_lines(file: Path) -> list[tuple[int, str]]:
    """(number, text) of each line of code; a lesson's text cells are comments and do not count."""
    lines = list(enumerate(file.read_text(encoding="utf-8").splitlines(), 1))
    if "lessons" not in file.parts:
        return lines
    found, in_text = [], False
    for number, line in lines:
        if line.startswith("# %%"):
            in_text = "[markdown]" in line
        elif not in_text:
            found.append((number, line))
    return found


def wide(file: Path) -> Iterator[str]:
    """Lines of code that are wider than the window."""
    limit = LESSON_WIDTH if "lessons" in file.parts or file.name == "setup_cell.py" else WIDTH
    for number, line in code_lines(file):
        if len(line) > limit:
            yield f"{file.relative_to(ROOT)}:{number}: {len(line)} columns, at most {limit}"


def functions(file: Path) -> list[tuple[str, int, int]]:
    """(name, first line, number of lines) of each function, decorators and docstring included."""
    tree = ast.parse(file.read_text(encoding="utf-8").replace("{{setup}}", "pass"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(f.name, f.lineno, f.end_lineno - f.lineno + 1 - _docstring(f)) for f in found]


def _docstring(function: ast.FunctionDef) -> int:
    """The lines of a function's docstring, which are no code."""
    first = function.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (
        first.end_lineno - first.lineno + 1 if is_text and isinstance(first.value.value, str) else 0
    )


def long(file: Path) -> Iterator[str]:
    """Functions that are too long."""
    for name, line, count in functions(file):
        if count > FUNCTION_LINES and name != "__init__":
            yield (
                f"{file.relative_to(ROOT)}:{line}: {name} has {count} lines, "
                f"at most {FUNCTION_LINES}"
            )


def crowded(file: Path) -> Iterator[str]:
    """Lines that assign several attributes at once: one statement a line."""
    tree = ast.parse(file.read_text(encoding="utf-8").replace("{{setup}}", "pass"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else []
        if sum(isinstance(target, ast.Attribute) for target in targets) > 1:
            yield f"{file.relative_to(ROOT)}:{node.lineno}: several attributes are assigned at once"


def median_length() -> float:
    """The median length of the package's functions."""
    lengths = [count for file in sources("course_lib") for _, _, count in functions(file)]
    return statistics.median(lengths)


def problems() -> list[str]:
    """Everything that is wrong, ruff's findings aside."""
    found = []
    for folder in FOLDERS:
        for file in sources(folder):
            found += [*wide(file), *crowded(file)]
            found += long(file) if folder in ("course_lib", "tools") else []
    if median_length() > MEDIAN_LINES:
        found.append(f"the median function of course_lib has {median_length():g} lines")
    return found


def numbers() -> None:
    """Print lines, widths and function lengths by folder."""
    print(f"{'folder':12} {'lines':>7} {'widest':>7} {'over 100':>9} {'functions':>10} "
          f"{'median':>7} {'longest':>8}")
    for folder in FOLDERS:
        lines = [line for file in sources(folder) for _, line in code_lines(file)]
        lengths = [count for file in sources(folder) for _, _, count in functions(file)]
        over = sum(len(line) > WIDTH for line in lines)
        print(f"{folder:12} {len(lines):7} {max(map(len, lines)):7} {over:9} {len(lengths):10} "
              f"{statistics.median(lengths):7g} {max(lengths):8}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numbers", action="store_true")
    if parser.parse_args().numbers:
        numbers()
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", "."]
    ruff = subprocess.run(command, cwd=ROOT)
    found = problems()
    print("\n".join(found) if found else "widths, statements and lengths are as they should be")
    return int(ruff.returncode != 0 or bool(found))


if __name__ == "__main__":
    sys.exit(main())
