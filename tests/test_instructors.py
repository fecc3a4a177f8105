"""The instructors' page: its plan, its tables and the configuration that it ships."""
import os
import re
import sys
from pathlib import Path

import pytest
from nbgrader.apps import NbGraderAPI
from nbgrader.preprocessors import ClearSolutions, Execute
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import course_plan  # noqa: E402
import try_nbgrader  # noqa: E402

from course_lib.checks.common import _questions  # noqa: E402

PAGE = course_plan.PAGE.read_text(encoding="utf-8")
LESSONS = range(1, 8)


@pytest.fixture
def config(monkeypatch) -> Config:
    """What nbgrader reads; the variables that the file sets are forgotten afterwards."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    file = try_nbgrader.CONFIG
    return PyFileConfigLoader(file.name, path=str(file.parent)).load_config()


def measured() -> list[list[str]]:
    """The rows of the page's table of sheets that were tried."""
    table = PAGE.split(try_nbgrader.HEAD)[1].strip().split("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


# ---- the configuration

def test_the_limit_is_ours_and_holds_for_autograde_and_validate(config):
    execute = Execute(config=config)
    assert execute.timeout == 600 > 30 and execute.iopub_timeout == 60
    assert ClearSolutions(config=config).code_stub["python"].endswith("raise NotImplementedError")


def test_the_limit_leaves_room_for_slow_machines(config):
    """Ten times the longest cell, by processor seconds on one thread; and what was waited for."""
    longest = max(float(row[7]) for row in measured())
    waited = max(float(row[6]) for row in measured())
    assert config.Execute.timeout >= 10 * longest and config.Execute.timeout > 3 * waited
    assert f"{longest:.0f} seconds" in PAGE and "600 seconds" in PAGE


def test_each_student_has_a_folder_of_trainings(config):
    config.Autograde.pre_convert_hook(assignment="lesson03", student="ada", notebooks=[])
    first = Path(os.environ["COURSE_RUNS"])
    assert first.is_dir()
    config.Autograde.post_convert_hook(assignment="lesson03", student="ada", notebooks=[])
    assert not first.exists() and "COURSE_RUNS" not in os.environ
    config.Autograde.post_convert_hook(assignment="lesson03", student="ada", notebooks=[])
    config.Autograde.pre_convert_hook(assignment="lesson03", student="bob", notebooks=[])
    assert Path(os.environ["COURSE_RUNS"]) != first
    config.Autograde.post_convert_hook(assignment="lesson03", student="bob", notebooks=[])


@pytest.mark.slow
def test_released_sheets_are_the_public_ones_and_tell_no_solution(config, tmp_path):
    """generate_assignment of all seven, without running one."""
    config.CourseDirectory.root = str(tmp_path)
    api = NbGraderAPI(config=config)
    for lesson in LESSONS:
        assignment = try_nbgrader.prepare(tmp_path, lesson)
        result = api.generate_assignment(assignment)
        assert result["success"], result["log"][-2000:]
        assert not try_nbgrader.released_differs(tmp_path, assignment, lesson)
        sheet = next((tmp_path / "release" / assignment).glob("*.ipynb")).read_text("utf-8")
        for secret in ("BEGIN SOLUTION", "assert check.passed", "**Solution"):
            assert secret not in sheet, (lesson, secret)


# ---- the page

def test_the_plan_is_up_to_date():
    assert course_plan.filled(PAGE) == PAGE, "run `python tools/course_plan.py`"


def test_points_are_those_of_the_checks():
    for lesson in LESSONS:
        worth = {item.number: item.points for item in course_plan.questions(lesson)}
        assert worth == {q.name: q.points for q in _questions(lesson).values()}


def test_hours_are_full_and_in_order():
    items = course_plan.questions(7)
    blocks = [*course_plan.hours(items)]
    assert [item for block in blocks for item in block] == items
    totals = [course_plan.minutes(block) for block in blocks]
    assert max(totals) <= 60
    for before, after in zip(blocks, blocks[1:]):
        assert course_plan.minutes(before) + after[0].minutes > 60


def test_a_page_without_places_is_refused():
    with pytest.raises(ValueError, match="no place for plan"):
        course_plan.filled("# For instructors\n")


def test_weeks_are_those_of_the_readme():
    """Lessons week by week, as the README's table or the outline's has them."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    rows = re.findall(r"^\| (\d) \| (\d(?:, \d)*) \| ", "\n".join(
        file.read_text("utf-8") for file in files), re.M)
    weeks = {int(week): tuple(map(int, lessons.split(", "))) for week, lessons in rows}
    assert weeks == course_plan.WEEKS


def test_the_measured_table_has_the_points_of_each_sheet_and_names_those_not_tried():
    rows = {int(row[0]): row for row in measured()}
    for lesson in LESSONS:
        points = sum(q.points for q in _questions(lesson).values())
        if lesson in rows:
            assert [float(cell) for cell in rows[lesson][1:4]] == [points, points, 0]
        else:
            assert f"Sheet {lesson}: not tried to the end yet" in PAGE


def test_files_and_commands_of_the_page_are_there():
    for name in re.findall(r"(?:\$COURSE/|`)((?:solutions|docs|tools|lessons)/[\w/.]+\.\w+)", PAGE):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (try_nbgrader.CONFIG.parent / link).exists(), link
    assert "18 in lesson 3" in PAGE and len(course_plan.questions(3)) == 9


def test_the_longest_cell_counts_from_start_to_start(tmp_path):
    file = tmp_path / "times.jsonl"
    file.write_text('["a", 10.0, 5.0]\n["b", 12.0, 6.0]\n["c", 30.0, 9.0]\n')
    assert try_nbgrader.cell_times(file) == (20.0, 4.0, 18.0, 3.0, "b")
