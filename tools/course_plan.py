"""The four weeks hour by hour, from the lessons' tables of sections and the sheets' own times.

    python tools/course_plan.py
        write the plan and the table of points into docs/instructors/README.md
    python tools/course_plan.py --check
        say whether they are up to date, write nothing; exit status 1 if they are not

The page has two places for them, between comments `<!-- plan -->` and `<!-- points -->` and their
ends. A block takes sections or questions in their order until an hour is full.
"""
import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/instructors/README.md"
WEEKS = {1: (1,), 2: (2, 3), 3: (4,), 4: (5, 6, 7)}         # as in the README of the course
HOUR = 60


@dataclass(frozen=True)
class Item:
    """A section of a lesson, core or deeper, or a question of a sheet, with its points."""

    lesson: int
    number: str
    title: str
    minutes: int
    kind: str
    points: int = 0


def source(lesson: int, sheet: bool = False) -> str:
    """The text of a lesson or of its sheet."""
    files = sorted((ROOT / "lessons").glob(f"{lesson:02d}_*.py"))
    return next(f for f in files if f.stem.endswith("_exercises") == sheet).read_text("utf-8")


def sections(lesson: int) -> list[Item]:
    """The rows of a lesson's table of sections."""
    row = r"^# \| (\d+\.\d+) (.+?) \| (core|deeper) \| (\d+) \|"
    return [
        Item(lesson, number, title, int(minutes), kind)
        for number, title, kind, minutes in re.findall(row, source(lesson), re.M)
    ]


def questions(lesson: int) -> list[Item]:
    """The questions of a lesson's sheet, as their headings say."""
    head = r"^# ## (\d+\.\d+) (.+?) \((\d+) points, (\d+) minutes"
    return [
        Item(lesson, number, title, int(minutes), "question", int(points))
        for number, title, points, minutes in re.findall(head, source(lesson, True), re.M)
    ]


def hours(items: list[Item]) -> Iterator[list[Item]]:
    """The items in blocks of at most an hour."""
    block = []
    for item in items:
        if block and minutes(block) + item.minutes > HOUR:
            yield block
            block = []
        block.append(item)
    if block:
        yield block


def minutes(items: list[Item]) -> int:
    return sum(item.minutes for item in items)


def long(total: int) -> str:
    """Minutes as hours and minutes."""
    return f"{total // 60} h {total % 60:02d}"


def core(lesson: int) -> list[Item]:
    return [item for item in sections(lesson) if item.kind == "core"]


def deeper(lesson: int) -> list[Item]:
    return [item for item in sections(lesson) if item.kind == "deeper"]


def week(number: int) -> str:
    """A week: a table of its hours, and what it adds up to."""
    lines = ["| hour | what | minutes | points |", "| --- | --- | --- | --- |"]
    hour = 0
    for lesson in WEEKS[number]:
        for items in (core(lesson), questions(lesson)):
            for block in hours(items):
                hour += 1
                what = "; ".join(f"{item.number} {item.title}" for item in block)
                kind = "Sheet" if block[0].points else "Lesson"
                points = sum(item.points for item in block) or ""
                lines.append(f"| {hour} | {kind}: {what} | {minutes(block)} | {points} |")
    names = " and ".join([", ".join(map(str, WEEKS[number][:-1])), str(WEEKS[number][-1])])
    names = names.removeprefix(" and ")
    title = f"### Week {number}: lesson{'s' * (len(WEEKS[number]) > 1)} {names}"
    return "\n".join([title, "", *lines, "", sums(WEEKS[number])])


def sums(lessons: tuple[int, ...]) -> str:
    """One sentence: core sections, sheets, both, and what is left to read."""
    read = sum(minutes(core(lesson)) for lesson in lessons)
    solve = sum(minutes(questions(lesson)) for lesson in lessons)
    more = sum(minutes(deeper(lesson)) for lesson in lessons)
    return (f"Core sections {long(read)}, sheets {long(solve)}, together **{long(read + solve)}**. "
            f"At home, for those who want more: deeper sections, {long(more)}.")


def plan() -> str:
    """All weeks, and their sum."""
    everything = tuple(lesson for lessons in WEEKS.values() for lesson in lessons)
    total = f"**All four weeks.** {sums(everything)}"
    return "\n\n".join([*map(week, WEEKS), total])


def points() -> str:
    """A table: what each sheet is worth, and how long it takes."""
    rows = ["| lesson | questions | points | minutes |", "| --- | --- | --- | --- |"]
    sheets = {lesson: questions(lesson) for lessons in WEEKS.values() for lesson in lessons}
    for lesson, items in [*sheets.items(), ("all", sum(sheets.values(), []))]:
        worth = sum(item.points for item in items)
        rows.append(f"| {lesson} | {len(items)} | {worth} | {minutes(items)} |")
    return "\n".join(rows)


def filled(page: str) -> str:
    """The page with both places filled in. Raises ValueError if one is missing."""
    for name, text in {"plan": plan(), "points": points()}.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
        if not place.search(page):
            raise ValueError(f"the page has no place for {name}: <!-- {name} -->")
        page = place.sub(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    return page


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    if check:
        stale = filled(page) != page
        print("out of date: run `python tools/course_plan.py`" if stale else "up to date")
        return int(stale)
    PAGE.write_text(filled(page), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
