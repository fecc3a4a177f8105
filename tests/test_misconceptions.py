"""The pages of diagnoses: up to date, and what the catalogues of wrong answers expect is there."""
import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import misconceptions  # noqa: E402

MODULE = '''
"""A file of questions."""
ROOT = "that is a square root of something"
LATER = {"{c.name}: you multiply by the weight, so divide": lambda c: c.x * c.w}
NEVER_USED = {"nobody says this sentence to anybody": lambda c: c}
SIZES = {"a text that only names a size": 3}


def help_with(c):
    """A docstring is no diagnosis of anything."""
    return f"not right at {c.t:.2f}: compare it with the lesson's"


def judge(f):
    reject_if((f is None, ROOT), (f == 3, "your function returned nothing at all"))
    compare_case(f, LATER, SIZES, otherwise=help_with(f))


QUESTIONS = [Question("9.1", 2, judge, "this is the praise for it", ("this is a hint for it",))]
'''


def test_the_pages_are_up_to_date():
    assert misconceptions.out_of_date() == [], "run `python tools/misconceptions.py`"


def test_what_a_judge_reaches_and_says(monkeypatch):
    monkeypatch.setattr(misconceptions, "modules", lambda: [ast.parse(MODULE)])
    assert misconceptions.diagnoses() == {"9.1": [
        "…: you multiply by the weight, so divide",
        "not right at …: compare it with the lesson's",
        "that is a square root of something",
    ]}


def test_every_question_has_its_title_and_its_diagnoses():
    found = misconceptions.diagnoses()
    assert found.keys() == misconceptions.titles().keys() and len(found) == 70
    assert all(len(rows) >= 2 and len(set(rows)) == len(rows) for rows in found.values())


def test_a_page_that_is_gone_or_left_over_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(misconceptions, "PAGES", tmp_path)
    for name, page in misconceptions.pages().items():
        (tmp_path / name).write_text(page, encoding="utf-8")
    assert misconceptions.out_of_date() == []
    (tmp_path / "misconceptions_3.md").unlink()
    (tmp_path / "misconceptions_9.md").write_text("of no lesson")
    assert misconceptions.out_of_date() == ["misconceptions_3.md", "misconceptions_9.md"]


@pytest.mark.parametrize("row, shown", [
    ("alpha_bar, a * b", r"alpha\_bar, a \* b"),
    ("Var(x | y)", r"Var(x \| y)"),
    ("`a_b` is [0, 1]", r"`a_b` is \[0, 1\]"),
    ("a dict {{y: 3}}", "a dict {y: 3}"),
])
def test_a_sentence_as_a_cell(row, shown):
    assert misconceptions.cell(row) == shown


# ---- against the catalogues

def catalogue(file):
    """(question, a part of the diagnosis) of each wrong answer in a file's tables WRONG."""
    known = misconceptions.definitions(ast.parse(file.read_text(encoding="utf-8")))
    wrong = getattr(known.get("WRONG"), "value", None)
    if not isinstance(wrong, ast.Dict):
        return
    for question, table in zip(wrong.keys, wrong.values):
        answers = known[table.id].value if isinstance(table, ast.Name) else None
        keys = answers.keys if isinstance(answers, ast.Dict) else []
        yield from ((question.value, key.value) for key in keys if isinstance(key, ast.Constant))


def test_most_wrong_answers_of_the_catalogues_find_their_diagnosis():
    """The last words of what is expected; some speak of the form, some are filled in."""
    found = misconceptions.diagnoses()
    files = sorted((ROOT / "tests").glob("test_checks_0*.py"))
    expected = [pair for file in files for pair in catalogue(file)]
    assert len(expected) > 1500 and {name for name, _ in expected} == found.keys()
    there = [any(" ".join(part.split()[-4:]) in row for row in found[name])
             for name, part in expected]
    assert sum(there) > 0.7 * len(there)
