"""Notebooks of variants: the sheet that a student gets, and the source that nbgrader grades by.

Both are plain JSON in nbformat 4.5, so that nothing but Python is needed to write them.
"""
import json
from pathlib import Path

from .core import POINTS, Seed, Variant, find, question_text, validate_seed

IMPORT = f"from {__package__} import"
TITLES = {
    1: "Diffusion fundamentals",
    2: "Denoising networks",
    3: "Training diffusion models",
    4: "Sampling and generation",
    5: "Conditional generation",
    6: "Advanced techniques",
    7: "Applications and deployment",
}
BEGIN, END = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
STUB = "    # YOUR CODE HERE\n    raise NotImplementedError"
SOLVED = f"""    ### BEGIN SOLUTION
    {IMPORT} key, seed_here
    return key({{name!r}}, {{seed}})
    ### END SOLUTION"""
INTRODUCTION = """# Lesson {lesson} · {title}: questions with numbers

Each question asks for one number. Write a function that returns it: a formula, or the number that \
you found. The cell below says {says}."""
SAYS = {
    False: "whether it is right, and if not, often why",
    True: "that your answer is noted, and not whether it is right",
}
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sheet(names: list[str], seed: Seed, exam: bool) -> dict:
    """The notebook that a student gets, as nbformat's JSON: text, stubs and checks.

    exam: without verdicts, and without the seed
    """
    seed = validate_seed(seed)
    cells = _head(names, exam)
    for name in names:
        check = f"note_variant({name!r}, {_function(name)})"
        if not exam:
            check = f"check_variant({name!r}, {seed!r}, {_function(name)})"
        cells += _question(find(name), seed, STUB, check)
    return _notebook(cells)


def source(names: list[str], seed: Seed, exam: bool, each: bool) -> dict:
    """The notebook for nbgrader's source/: solved, with the grading in hidden tests.

    each: every student has an own seed, found from the folder that nbgrader runs in
    """
    seed = validate_seed(seed)
    shown = f"seed_here({seed!r})" if each else repr(seed)
    cells = _head(names, exam)
    for name in names:
        answer = _function(name)
        check = f"check_variant({name!r}, {seed!r}, {answer})"
        if exam or each:
            check = f"note_variant({name!r}, {answer})"
        graded = f"{IMPORT} grade_variant, seed_here\ngrade_variant({name!r}, {shown}, {answer})"
        solved = SOLVED.format(name=name, seed=shown)
        cells += _question(find(name), seed, solved, f"{check}\n{BEGIN}\n{graded}\n{END}")
    return _notebook(cells)


def write(notebook: dict, file: Path) -> None:
    """Write a notebook. Raises FileExistsError, and writes nothing, where the file is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False)
    with open(file, "x", encoding="utf-8", newline="\n") as out:
        out.write(f"{text}\n")


# ---- cells

def _head(names: list[str], exam: bool) -> list[dict]:
    """Title and set-up."""
    lesson = find(names[0]).lesson
    words = INTRODUCTION.format(lesson=lesson, title=TITLES[lesson], says=SAYS[exam])
    imported = "note_variant" if exam else "check_variant, note_variant"
    return [_text(words), _code(f"import math\n\n{IMPORT} {imported}")]


def _question(v: Variant, seed: str, body: str, check: str) -> list[dict]:
    """The text, the student's cell and the graded cell."""
    return [
        _text(f"## {v.name} ({POINTS} points)\n\n{question_text(v, seed)}"),
        _code(f'def {_function(v.name)}():\n    """-> one number"""\n{body}',
              _grading("answer", v.name)),
        _code(check, _grading("check", v.name)),
    ]


def _function(name: str) -> str:
    """The student's function, answer_3_A."""
    return f"answer_{name.replace('.', '_')}"


def _grading(kind: str, name: str) -> dict:
    """nbgrader's metadata, as tools/build.py writes it into the sheets."""
    graded = {"points": POINTS} if kind == "check" else {}
    return {
        "nbgrader": {
            "grade": kind == "check",
            "grade_id": f"{kind}-variant-{name.replace('.', '-')}",
            "locked": kind == "check",
            "solution": kind == "answer",
            "task": False,
            "schema_version": 3,
        }
        | graded
    }


def _text(words: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": words}


def _code(lines: str, metadata: dict | None = None) -> dict:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": metadata or {},
        "outputs": [],
        "source": lines,
    }


def _notebook(cells: list[dict]) -> dict:
    """The cells, each with an id that depends on its place alone."""
    for number, cell in enumerate(cells):
        cell["id"] = f"variants-{number:03d}"
    return {"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}
