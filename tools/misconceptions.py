"""What the checks can say to a wrong answer -> docs/instructors/misconceptions*.md.

    python tools/misconceptions.py
        write the pages, an index and one for each lesson
    python tools/misconceptions.py --check
        say whether they are up to date, write nothing; exit status 1 if they are not

The diagnoses are read in the source of course_lib/checks, and nothing is run: from the function
that judges a question, through the functions and tables of the same file that it uses. Numbers that
a check fills in stand as "…". What all questions share, common.py, is left out.
"""
import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = ROOT / "course_lib/checks"
PAGES = ROOT / "docs/instructors"
SAYS = ("Wrong", "reject_if", "reject_first", "reject_cut", "not_finite", "forbidden")
CODE = (ast.Lambda, ast.Call, ast.Name, ast.Attribute, ast.BinOp, ast.Tuple)
FORM = re.compile(                      # about the form of an answer, not about what it computes
    r"expected |your function (changes|returned)|must return|pass the |got … *$|in place$"
    r"|one number is wanted|a dict is wanted|nan or inf|seed|your answer raised|`return`"
    r"|the check must"
)
FEWEST_LETTERS = 25
HEAD = """# Lesson {lesson}: what wrong answers look like

Made by `tools/misconceptions.py` from the checks: [what the rows are](misconceptions.md).
"""
INDEX = """# What wrong answers look like

Each row of the seven pages is a diagnosis that a check can give to a wrong answer, word for word.
"…" stands for a number or a name that the check fills in. Complaints about the form of an answer,
such as a wrong shape or a forgotten `return`, are left out. The pages are made by
`tools/misconceptions.py` from the source of the checks.

Three mistakes of each lesson matter most; they stand in [the instructors' page](README.md) in plain
words.

| question | | diagnoses |
| --- | --- | --- |
{rows}
"""


def modules() -> Iterator[ast.Module]:
    """The files of questions, parsed, in their order."""
    for file in sorted(CHECKS.glob("lesson*.py")):
        yield ast.parse(file.read_text(encoding="utf-8"))


def definitions(module: ast.Module) -> dict[str, ast.stmt]:
    """Name -> its definition, for the functions, classes and tables of a file."""
    found = {}
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def questions(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """(number, the expression that judges it) of each question of a file."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Question":
            yield node.args[0].value, node.args[2]


def reached(start: ast.expr, known: dict[str, ast.stmt]) -> list[ast.stmt]:
    """The definitions that an expression uses, directly or through others, in their order."""
    names, waiting = set(), [start]
    while waiting:
        used = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)}
        new = (used & known.keys()) - names
        names |= new
        waiting += [known[name] for name in new]
    return [node for name, node in known.items() if name in names]


def text(node: ast.expr, known: dict[str, ast.stmt]) -> str:
    """A string as it is shown, with "…" for what is filled in; "" for any other expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{c\.[^{}]*\}", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [text(part, known) for part in node.values]
        return "".join(parts)
    if isinstance(node, ast.FormattedValue):
        return "…"
    if isinstance(node, ast.Name) and isinstance(known.get(node.id), ast.Assign):
        return text(known[node.id].value, known)
    return ""


def said(definition: ast.stmt, known: dict[str, ast.stmt]) -> Iterator[str]:
    """The diagnoses that stand in one definition."""
    for node in ast.walk(definition):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values)
            found = [key for key, value in pairs if key and isinstance(value, CODE)]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in SAYS:
            inner = [a.elts if isinstance(a, ast.Tuple) else [a] for a in node.args]
            found = [part for parts in inner for part in parts]
        elif isinstance(node, (ast.Return, ast.keyword)):
            words = isinstance(node, ast.Return) or node.arg == "otherwise"
            found = [node.value] if words and node.value else []
        else:
            found = []
        yield from (text(part, known) for part in found)


def diagnoses() -> dict[str, list[str]]:
    """Question -> its distinct diagnoses, without those about the form, in the lessons' order."""
    found = {}
    for module in modules():
        known = definitions(module)
        for name, judge in questions(module):
            rows = [row for part in reached(judge, known) for row in said(part, known)]
            found[name] = [row for row in dict.fromkeys(rows) if tells(row)]
    return dict(sorted(found.items(), key=lambda item: [*map(int, item[0].split("."))]))


def tells(row: str) -> bool:
    """Whether a sentence says what was computed wrongly."""
    return len(re.sub(r"[^a-z]", "", row.lower())) >= FEWEST_LETTERS and not FORM.search(row)


def titles() -> dict[str, str]:
    """Question -> its title in the sheet."""
    found = {}
    for file in sorted((ROOT / "lessons").glob("[0-9]*_exercises.py")):
        head = r"^# ## (\d+\.\d+) (.+?) \(\d+ points"
        found |= dict(re.findall(head, file.read_text(encoding="utf-8"), re.M))
    return found


def cell(row: str) -> str:
    """A sentence as a cell of a table, in which nothing is Markdown by accident."""
    parts = row.replace("{{", "{").replace("}}", "}").replace("|", r"\|").split("`")
    if len(parts) % 2:                                      # the odd ones are code
        parts[::2] = [re.sub(r"([*_<$\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def pages() -> dict[str, str]:
    """Name of a file -> its text."""
    title, made, index = titles(), {}, []
    for name, rows in diagnoses().items():
        lesson = name.split(".")[0]
        file = f"misconceptions_{lesson}.md"
        page = made.setdefault(file, HEAD.format(lesson=lesson))
        lines = "\n".join(f"| {cell(row)} |" for row in rows)
        made[file] = f"{page}\n## {name} {title[name]}\n\n| diagnosis |\n| --- |\n{lines}\n"
        index.append(f"| [{name}]({file}) | {title[name]} | {len(rows)} |")
    return {"misconceptions.md": INDEX.format(rows="\n".join(index))} | made


def out_of_date() -> list[str]:
    """The names of pages that are not as they should be."""
    made = pages()
    there = {file.name: file.read_text(encoding="utf-8") for file in
             PAGES.glob("misconceptions*.md")}
    return sorted(name for name in made | there if made.get(name) != there.get(name))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = out_of_date()
    if check:
        found = f"{', '.join(stale)}: out of date, run `python tools/misconceptions.py`"
        print(found if stale else "all pages are up to date")
        return int(bool(stale))
    for file in PAGES.glob("misconceptions*.md"):
        file.unlink()
    for name, page in pages().items():
        (PAGES / name).write_text(page, encoding="utf-8", newline="\n")
    print(f"{sum(map(len, diagnoses().values()))} diagnoses of {len(diagnoses())} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
