"""Where the lessons, or else the tests, use each public function: examples that are run.

A lesson's cells are run by nbval, a test by pytest, so what stands here works.
"""
import ast
import functools
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 8                         # lines of an example
HEADING = re.compile(r"# #+ (\d\.\d+) ")


class Example(NamedTuple):
    where: str                      # "lesson 4, 4.3" or "tests/test_sde.py"
    code: str


def name_of(thing: object) -> str:
    """module.qualname, of functions and classes; of others nothing."""
    module = getattr(thing, "__module__", None)
    return f"{module}.{thing.__qualname__}" if hasattr(thing, "__qualname__") and module else ""


@functools.cache
def examples() -> dict[str, Example]:
    """Full name -> the shortest statement that uses it, from a lesson if there is one."""
    found: dict[str, Example] = {}
    for files in (sorted(ROOT.glob("lessons/0*.py")), sorted(ROOT.glob("tests/test_*.py"))):
        new: dict[str, Example] = {}
        for file in files:
            for name, example in uses(file):
                if name not in new or len(example.code) < len(new[name].code):
                    new[name] = example
        found = new | found
    return found


def uses(file: Path) -> Iterator[tuple[str, Example]]:
    """(full name, example) for each statement of a file that uses something of course_lib."""
    source = re.sub(r"^( *)[%!]", r"\1# ", file.read_text(encoding="utf-8"), flags=re.M)
    tree, lines = ast.parse(source), source.split("\n")
    known, places = dict(imported(tree)), list(sections(file, lines))
    for statement in statements(tree):
        first, last = statement.lineno - 1, statement.end_lineno
        if last - first > LONGEST:
            continue
        code = textwrap.dedent("\n".join(lines[first:last])).strip()
        example = Example(places[first], code)
        for node in ast.walk(statement):
            if isinstance(node, (ast.Name, ast.Attribute)) and (name := full_name(node, known)):
                yield name, example


def imported(tree: ast.Module) -> Iterator[tuple[str, object]]:
    """(name in this file, object) for what is imported from course_lib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                thing = getattr(module, alias.name, None)
                if thing is None:
                    thing = importlib.import_module(f"{node.module}.{alias.name}")
                yield alias.asname or alias.name, thing


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Simple statements and short `with` blocks, wherever they stand."""
    simple = (ast.Expr, ast.Assign, ast.Return, ast.AugAssign, ast.Assert, ast.With)
    return (node for node in ast.walk(tree) if isinstance(node, simple))


def full_name(node: ast.expr, known: dict[str, object]) -> str:
    """The full name of what `a.b.c` is, if it begins with something imported."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in known:
        return ""
    thing = known[node.id]
    for name in reversed(names):
        thing = getattr(thing, name, None)
    return name_of(thing)


def sections(file: Path, lines: list[str]) -> Iterator[str]:
    """For each line its lesson and section, or the test's file."""
    if file.parent.name != "lessons":
        yield from [file.relative_to(ROOT).as_posix()] * len(lines)
        return
    what = "sheet" if "exercises" in file.stem else "lesson"
    where = f"{what} {int(file.stem[:2])}"
    for line in lines:
        if heading := HEADING.match(line):
            where = f"{what} {int(file.stem[:2])}, {heading[1]}"
        yield where
