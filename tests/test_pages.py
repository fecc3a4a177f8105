"""The pages of docs/: their numbers and links are those of the lessons."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/instructors/*.md"), *ROOT.glob("[A-Z]*.md")]
)
ROW = re.compile(r"^# \| (\d\.\d+) [^|]*\| (core|deeper) \| (\d+) \|", re.M)


def core_minutes() -> dict[str, int]:
    """Section -> the minutes of its core part, by the lessons' tables."""
    texts = (file.read_text("utf-8") for file in ROOT.glob("lessons/0?_*.py"))
    rows = (row for text in texts for row in ROW.findall(text))
    return {section: int(minutes) for section, kind, minutes in rows if kind == "core"}


def test_the_evening_adds_up():
    """Each row has the minutes of its sections, and the sum is the sum."""
    text, minutes = (ROOT / "docs/evening.md").read_text("utf-8"), core_minutes()
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", text, re.M)
    assert len(rows) > 10
    for total, sections in rows:
        numbers = re.findall(r"\b\d\.\d+", sections)
        assert sum(minutes[number] for number in numbers) == int(total), sections
    assert f"That is {sum(int(total) for total, _ in rows)} minutes" in text


def test_the_evening_s_exercises_take_what_it_says():
    text = (ROOT / "docs/evening.md").read_text("utf-8")
    said = int(re.search(r"two exercises, (\d+) minutes", text)[1])
    found = 0
    for number in re.findall(r"\[(\d\.\d+), [^]]*\]\(../exercises", text):
        [sheet] = ROOT.glob(f"lessons/0{number[0]}_*_exercises.py")
        title = rf"^# ## {re.escape(number)} .*, (\d+) minutes\)"
        found += int(re.search(title, sheet.read_text("utf-8"), re.M)[1])
    assert found == said


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not re.match(r"\w+:", link):
            assert (page.parent / link).exists(), link
