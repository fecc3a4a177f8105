"""The examination questions: five a lesson, from sections that exist, and every number computed."""
import math
import re
from pathlib import Path

import pytest

from course_lib import Schedule

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/instructors/exam.md").read_text(encoding="utf-8")
QUESTION = re.compile(
    r"^\*\*(\d+)\. (.+?)\*\* (.+?)\n\n\*Answer \((.+?)\)\.\* (.+?)(?=\n\n|\Z)", re.M | re.S
)


def lessons():
    """Lesson -> its questions, each (number, title, question, sections, answer)."""
    parts = re.split(r"^## Lesson (\d)$", PAGE, flags=re.M)[1:]
    return {
        int(lesson): [(int(n), *rest) for n, *rest in QUESTION.findall(text)]
        for lesson, text in zip(parts[::2], parts[1::2])
    }


def answer(number):
    """The model answer of a question."""
    return next(q[-1] for part in lessons().values() for q in part if q[0] == number)


def tables(lesson):
    """Section -> whether it has a core row and whether it has a deeper one."""
    file = next(f for f in ROOT.glob(f"lessons/0{lesson}_*.py") if "exercises" not in f.name)
    rows = re.findall(r"^# \| (\d\.\d+) [^|]*\| (core|deeper) \|", file.read_text("utf-8"), re.M)
    return {section: {kind for number, kind in rows if number == section} for section, _ in rows}


def test_five_questions_a_lesson_numbered_through():
    found = lessons()
    assert {lesson: len(part) for lesson, part in found.items()} == dict.fromkeys(range(1, 8), 5)
    assert [q[0] for part in found.values() for q in part] == [*range(1, 36)]


def test_each_question_comes_from_sections_of_its_lesson():
    for lesson, part in lessons().items():
        known = tables(lesson)
        for number, _, _, sections, _ in part:
            named = re.findall(r"(\d\.\d+)(, deeper)?", sections)
            assert named, number
            for section, deeper in named:
                assert section in known, (number, section)
                assert ("deeper" if deeper else "core") in known[section], (number, section)


def test_formulas_that_answers_name_stand_in_that_lesson():
    for lesson, part in lessons().items():
        file = next(f for f in ROOT.glob(f"lessons/0{lesson}_*.py") if "exercises" not in f.name)
        tags = set(re.findall(r"\\tag\{(\d\.\d+)\}", file.read_text("utf-8")))
        for number, *_, text in part:
            assert {*re.findall(r"\((\d\.\d+)\)", text)} <= tags, number


def test_answers_are_short():
    for part in lessons().values():
        for number, *_, text in part:
            assert 200 < len(text) < 620, (number, len(text))


SD_END = Schedule.scaled_linear().alpha(1.0)


@pytest.mark.parametrize("number, value, shown", [
    (1, 1 + 1000 * 0.01, "= 11$"),
    (1, 0.99**1000 * 1e5, r"4.3\cdot10^{-5}"),
    (1, 0.99**1000 / (1 - 0.99**1000) * 1e5, r"4.3\cdot10^{-5}"),
    (2, -0.5 * math.log(0.95), "0.0256$ nats"),
    (2, -0.5 * math.log(0.95) * 784, "20.1"),
    (2, 0.05**0.5, r"0.22\,x_0"),
    (4, 1e-4 / (2 * (1 - 1e-4) * 1e-4), "0.50"),
    (4, 0.02 / (2 * 0.98 * (1 - Schedule.linear().alpha(1.0).item()**2)), "0.010"),
    (4, 0.5 / (1 - 1e-4) / (0.01 / 0.98), "49 times"),
    (5, 0.1 * (0.99 / 0.01)**0.5, "0.995"),
    (5, 0.1 * (0.01 / 0.99)**0.5, "0.010"),
    (6, 100 * (1 - 18 / 25), "28 %"),
    (7, 2 * math.pi / 1000, "0.0063"),
    (8, math.exp(8), "2{,}981"),
    (8, math.e, "2.7"),
    (9, (64 * 64 / 256)**2, "256 times"),
    (9, 64 * 64 / 256, "16 times"),
    (10, 0.003 / 3**0.5, "0.0017"),
    (10, 0.003 / 3**0.5 * 2**0.5, "0.0024"),
    (10, 0.003 / (0.003 / 3**0.5 * 2**0.5), "1.2 of"),
    (11, 0.4 - 0.6, "$-0.2$"),
    (13, float(SD_END), "0.0683"),
    (13, float(SD_END) * 4096**0.5, "4.4"),
    (14, 100 * 0.999**1000, r"37\,\%"),
    (14, 100 * 0.9999**1000, r"90\,\%"),
    (15, 12 - 5, "7 is left"),
    (15, 10 - 1, "9 of B"),
    (18, 20 * 0.08 / 0.005, "320 evaluations"),
    (18, 2 * 20 * (0.02 / 0.005)**0.5, "80 in all"),
    (21, 0.7 * 0.8 - 0.3 * 0.6, "0.38"),
    (21, 0.38 + 3 * (0.8 - 0.38), "1.64"),
    (25, 2 / (100 * 0.5**2), "0.08"),
    (25, math.atan(0.08**-0.5) * 2 / math.pi, "0.82"),
    (26, 2 * math.log(5), "3.22"),
    (29, math.log(2), "0.69"),
    (31, 4 * (320 + 768), "4{,}352"),
    (31, 100 * 4 * (320 + 768) / (320 * 768), "1.8 %"),
    (32, 100 * 0.3 * math.e**2 / (0.3 * math.e**2 + 0.7), r"76\,\%"),
    (33, 10 * math.log10(2), "3.0 dB"),
    (34, 1 / (1 - 0.8 + 0.8 / 4), "= 2.5$"),
    (34, 1 / 0.2, "= 5$"),
    (35, 3 * math.log(7 / 3), "2.54"),
    (35, 100 / (1 + (3 / 7)**3), "93 %"),
])
def test_numbers_of_the_answers(number, value, shown):
    """The number is in the answer, and computed anew it rounds to what is shown."""
    assert shown in answer(number)
    digits = re.search(r"-?\d[\d{},]*(\.\d+)?", shown)[0].replace("{,}", "")
    places = len(digits.partition(".")[2])
    assert f"{value:.{places}f}" == digits
