"""The build: reproducible, stamped, and an exercise sheet that holds no solution."""
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import build  # noqa: E402

LESSON = """# %% [markdown]
# # A small lesson
# {{badge}}

# %% tags=["setup"]
{{setup}}

# %%
from course_lib.schedules import Schedule
print(Schedule.flow().alpha(0.25).item())
"""
SHEET = """# %% tags=["setup"]
{{setup}}

# %%
import torch
from course_lib.checks import check

# %% tags=["answer:1.3"]
def my_q_sample(x0, t, eps, alpha_bar):
    ### BEGIN SOLUTION
    a = alpha_bar[t].view(-1, *[1] * (x0.ndim - 1))
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    ### END SOLUTION

# %% tags=["check:1.3"]
check("1.3", my_q_sample)
### BEGIN HIDDEN TESTS
assert check.passed("1.3")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# The secret is the square root.
"""


def small_course(tmp_path):
    """A course of one small lesson and one sheet, in this folder."""
    for folder in ("lessons", "tools"):
        (tmp_path / folder).mkdir()
    for name in ("pyproject.toml", "tools/setup_cell.py", "README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(
        ROOT / "course_lib",
        tmp_path / "course_lib",
        ignore=shutil.ignore_patterns("*.npz", "__pycache__"),
    )
    (tmp_path / "lessons/01_small.py").write_text(LESSON)
    (tmp_path / "lessons/01_small_exercises.py").write_text(SHEET)
    return tmp_path


@pytest.fixture
def course(tmp_path, monkeypatch):
    """The small course, nothing built, in a folder of the test's own."""
    monkeypatch.setattr(build, "ROOT", small_course(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def built_once(tmp_path_factory):
    """The small course, built by running it, and what was said."""
    folder = small_course(tmp_path_factory.mktemp("course"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROOT", folder)
        patch.setenv("PYTHONPATH", str(folder))
        return folder, make(folder)


@pytest.fixture
def executed(built_once, tmp_path, monkeypatch):
    """A copy of the small course that was built by running it."""
    folder, said = built_once
    assert all("by running it" in done for done in said)
    course = shutil.copytree(folder, tmp_path / "course")
    monkeypatch.setattr(build, "ROOT", course)
    monkeypatch.setenv("PYTHONPATH", str(course))
    return course


def make(course, **options):
    return [build.build(*target, root=course, **options) for target in build.targets(course)]


def everything(course):
    return {p.relative_to(course): p.read_bytes() for p in course.rglob("*.ipynb")}


def test_two_conversions_are_byte_identical(course):
    make(course, run=False)
    first = everything(course)
    shutil.rmtree(course / "notebooks")
    make(course, run=False)
    assert first == everything(course) and len(first) == 3


def test_executed_stamped_and_then_stale(executed):
    course = executed
    notebook = nbformat.read(course / "notebooks/01_small.ipynb", 4)
    assert notebook.cells[2].outputs[0].text == "0.75\n"
    assert (
        "course_lib/schedules.py" in notebook.metadata.course.modules
        and "widgets" not in notebook.metadata
    )
    assert [cell.id for cell in notebook.cells] == ["01-small-000", "01-small-001", "01-small-002"]
    assert make(course) == ["up to date"] * 2
    lesson, target, _ = build.targets(course)[0]

    plain = LESSON.replace("A small lesson", "A short lesson")
    lesson.write_text(plain)
    assert (
        build.stale(lesson, target, course)
        == ("text in 01_small.py (or in the notebook) changed", False)
    )
    assert "only its text" in build.build(lesson, target, None, root=course)
    kept = nbformat.read(target, 4)
    assert kept.cells[2].outputs[0].text == "0.75\n" and "short" in kept.cells[0].source

    lesson.write_text(plain.replace("0.25", "0.5"))
    assert build.stale(lesson, target, course) == ("the code in 01_small.py changed", True)
    lesson.write_text(plain)
    library = course / "course_lib/schedules.py"
    source = library.read_text()
    library.write_text(source + "\n# a comment\n")
    assert not build.stale(lesson, target, course)[1]
    library.write_text(source + "\nTOUCHED = True\n")
    assert build.stale(lesson, target, course) == ("course_lib/schedules.py changed", True)


def test_docstrings_and_comments_are_no_statements():
    code = 'X = "# no comment"\n\n\ndef f(x):{}\n    return x{}\n'
    plain = build.statements(code.format("", ""))
    assert plain == 'X = "# no comment"\ndef f(x):\n    return x'
    for words in ('\n    """One line."""', '\n    """Two\n\n    lines."""', "   # a comment"):
        assert build.statements(code.format(words, "   # (B,)")) == plain
    assert build.statements(code.format("", " + 1")) != plain
    assert build.statements('"""A file."""\nclass A:\n    """Words."""\n') == "class A:"


def test_a_wrong_solution_does_not_build(course):
    sheet = course / "lessons/01_small_exercises.py"
    sheet.write_text(SHEET.replace("(1 - a).sqrt()", "(1 - a)"))
    with pytest.raises(Exception, match="You multiply by the"):
        build.build(*build.targets(course)[1], root=course)


def test_stderr_is_refused(course):
    (course / "lessons/01_small.py").write_text("# %%\nimport sys\nprint('oh', file=sys.stderr)\n")
    with pytest.raises(SystemExit, match="writes to stderr"):
        build.build(*build.targets(course)[0], root=course)


def test_stripped_sheet_holds_no_solution_and_no_output(executed):
    text = (executed / "exercises/01_small.ipynb").read_text()
    for secret in ("alpha_bar[t]", "SOLUTION", "HIDDEN", "check.passed", "secret", "right"):
        assert secret not in text
    sheet = nbformat.reads(text, 4)
    assert all(
        not cell.outputs and cell.execution_count is None
        for cell in sheet.cells
        if cell.cell_type == "code"
    )
    assert "raise NotImplementedError" in text and 'check(\\"1.3\\", my_q_sample)' in text


def test_the_address_stands_once(course):
    build.set_address("someone/her-course", course)
    make(course, run=False)
    text = (course / "notebooks/01_small.ipynb").read_text()
    assert (
        "git+https://github.com/someone/her-course" in text
        and "colab.research.google.com/github/someone/her-course/blob/main/notebooks/01_small.ipynb"
        in text
    )
    for name in ("README.md", "CITATION.cff", "pyproject.toml"):
        assert "someone/her-course" in (course / name).read_text()
    with pytest.raises(SystemExit, match="owner/name"):
        build.set_address("no slash", course)


def test_the_committed_notebooks_are_up_to_date():
    """What `make check` says, for the real course."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/build.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_notebooks_are_small_and_clean():
    for file in ROOT.glob("*/[0-9]*.ipynb"):
        most = 3e6 if file.name[:2] in ("06", "07") else 1.5e6          # they have sounds, too
        assert file.stat().st_size < most, f"{file.name} is over {most / 1e6} MB"
        for cell in nbformat.read(file, 4).cells:
            assert not any(
                o.get("name") == "stderr" or o.output_type == "error"
                for o in cell.get("outputs", [])
            ), f"{file.name} {cell.id}"


@pytest.mark.slow
def test_nbgrader_gives_full_marks_to_the_solution_and_none_to_the_stub(tmp_path):
    """Sheet 1 from generate_assignment to feedback, with the shipped configuration.

    `python tools/try_nbgrader.py` does it with all seven.
    """
    import try_nbgrader
    marked = try_nbgrader.mark(tmp_path, 1)
    assert marked.right(), marked
    assert marked.points == 27 and set(marked.marks) == {"solved", "untouched"}
    feedback = tmp_path / "feedback/untouched/lesson01/01_diffusion_fundamentals.html"
    assert "not attempted" in feedback.read_text(encoding="utf-8")


def test_a_lesson_that_is_not_there_is_refused(course):
    build.validate_lesson("01", course)
    for lesson in ("9", "09", "01_large", ""):
        with pytest.raises(SystemExit, match="there is no lesson .*: there are 01"):
            build.validate_lesson(lesson or "00", course)
    with pytest.raises(SystemExit, match="owner/name"):
        build.set_address("../..", course)
