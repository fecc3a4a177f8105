"""Every numbered formula of a lesson has its test, `test_eq_LESSON_NUMBER`, and every such test its
formula.
"""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# formulas that a second edition put between older ones or moved; all kept their numbers
LATER = {1: ["37"], 3: ["34", "44", "45", "46"], 4: ["37", "42"]}


def with_test(lesson: int) -> set[str]:
    """The numbers of the formulas that have a test."""
    names = [
        node.name
        for file in Path(__file__).parent.glob(f"test_equations_{lesson:02}*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    found = (re.fullmatch(rf"test_eq_{lesson}_(\d+)", name) for name in names)
    return {match[1] for match in found if match}


@pytest.mark.parametrize("lesson", range(1, 8))
def test_every_tag_has_its_test(lesson):
    [file] = (file for file in (ROOT / "lessons").glob(f"{lesson:02}_*.py")
              if "exercises" not in file.name)
    tags = re.findall(rf"\\tag\{{{lesson}\.(\d+)\}}", file.read_text(encoding="utf-8"))
    assert tags and len(tags) == len(set(tags)), "a number twice"
    later = LATER.get(lesson, [])
    in_order = [str(k) for k in range(1, len(tags) + 1) if str(k) not in later]
    assert [tag for tag in tags if tag not in later] == in_order, "numbered from 1, in order"
    assert set(tags) == with_test(lesson)
