"""Seeded variants: right answers and mistakes over many seeds, sheets, rosters, nbgrader."""
import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from course_lib.checks import CheckFailed
from course_lib.checks.variants import (
    Numbers,
    check_variant,
    grade_variant,
    key,
    names,
    note_variant,
    seed_here,
    student_seed,
    variant,
)
from course_lib.checks.variants.__main__ import main
from course_lib.checks.variants.core import (
    LESSONS,
    OTHER,
    answers,
    case_of,
    find,
    question_text,
    right_answer,
    verdict,
)
from course_lib.checks.variants.roster import read_roster
from course_lib.checks.variants.sheet import sheet, source
from course_lib.lab.evaluation.profiling import multiply_adds
from course_lib.networks.dit import DiTBlock

ROOT = Path(__file__).parents[1]
SEEDS = range(30)
ALL = [name for lesson in LESSONS for name in names(lesson)]
every = pytest.mark.parametrize("name", ALL)


def stub():
    raise NotImplementedError


def rounded(value: float) -> float:
    return float(f"{value:.3g}")


# ---- a second way to each answer

def step_below(c):
    left = 1.0
    for t in range(1, c.T + 1):
        left *= 1 - (c.first + (t - 1) / (c.T - 1) * (c.last - c.first))
        if left < c.s * (1 - left):
            return t


def product_of_bells(m1, v1, m2, v2):
    """Mean and variance of N(m1, v1) times N(m2, v2), by (1.2)."""
    v = 1 / (1 / v1 + 1 / v2)
    return v * (m1 / v1 + m2 / v2), v


def bayes(before, alpha, x, x0):
    """Of x_{t-1}: from x_t, then from x_0."""
    variance = (1 - alpha) / alpha
    return product_of_bells(x / alpha**0.5, variance, before**0.5 * x0, 1 - before)


def slope(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


def pixels_seen(c):
    """Which input pixels the output pixel 0 comes from, layer by layer."""
    seen = {0}
    for k, s in reversed(list(zip(c.kernels, c.strides))):
        seen = {s * place + j for place in seen for j in range(k)}
    return max(seen) + 1


def counted_block(c):
    """Million multiply-adds, counted while a block runs."""
    n = (c.side // c.patch) ** 2
    with torch.device("meta"):
        total = multiply_adds(DiTBlock(c.d, 4), torch.zeros(1, n, c.d), torch.zeros(1, c.d))
    return (total - 6 * c.d**2) / 1e6


def ratio_of_errors(c):
    """A target's squared error over that of x0, for one pair of numbers."""
    r = math.exp(c.log_snr / 2)                             # alpha / sigma
    size = 1 + r if c.target == "flow" else math.hypot(1, r)
    alpha, sigma = r / size, 1 / size
    a, b = (-1, 1) if c.target == "flow" else (-sigma, alpha)
    out = lambda x0: a * x0 + b * (0.7 - alpha * x0) / sigma        # at x_t = 0.7
    return (out(0.3) - out(-0.2)) ** 2 / 0.5**2


def gaussian_frechet(c):
    means = np.subtract(c.mean_a, c.mean_b)
    widths = np.sqrt(c.var_a) - np.sqrt(c.var_b)
    return float(means @ means + widths @ widths)


def step_down(c):
    """The step of DDIM as a multiple of x_t and one of x0_hat."""
    ratio = math.sqrt((1 - c.s**2) / (1 - c.t**2))
    return ratio * c.x + (c.s - ratio * c.t) * c.x0_hat


def noise_of_step(c):
    """eta times the deviation of x_s given x_t and x_0, by inverse variances."""
    factor, clean = c.t / c.s, 1 - c.s**2
    forward = 1 - c.t**2 - factor**2 * clean
    return c.eta / math.sqrt(factor**2 / forward + 1 / clean)


def noise_rate(c):
    """-sigma^2 times the derivative of the log SNR, times h."""
    log_snr = lambda t: 2 * math.log((1 - c.a * t) / (c.b * t))
    return -((c.b * c.t) ** 2) * slope(log_snr, c.t) * c.h


def bits(c):
    values = 3 * c.side**2
    return (values * math.log(255 / 2) - c.nats) / (values * math.log(2))


def at_least(c):
    ways = sum(math.comb(c.signs, k) for k in range(c.agree, c.signs + 1))
    return ways / 2**c.signs


def tempered(c):
    odds = lambda p: p / (1 - p)
    both = odds(c.p) ** (1 - c.w) * odds(c.given) ** c.w
    return both / (1 + both)


def block_of(c):
    shortcut = c.inside * c.out + c.out
    convs = 9 * c.inside * c.out + c.out + 9 * c.out**2 + c.out
    return 2 * c.inside + 2 * c.out + convs + 2 * c.out * c.emb + 2 * c.out + shortcut


BY_HAND = {
    "1.A": step_below,
    "1.B": lambda c: bayes(c.before, 1 - c.beta, c.x, c.x0)[0],
    "1.C": lambda c: bayes(c.s, c.t / c.s, 0, 0)[1],
    "1.D": lambda c: slope(lambda x: -(x - c.a**0.5 * c.x0_hat) ** 2 / (2 * (1 - c.a)), c.x),
    "2.A": pixels_seen,
    "2.B": block_of,
    "2.C": counted_block,
    "2.D": lambda c: math.sin(1000 * c.t * math.exp(-math.log(1e4) * c.k / (c.K - 1))),
    "3.A": ratio_of_errors,
    "3.B": gaussian_frechet,
    "3.C": lambda c: math.floor(math.log(c.share / 100) / math.log(c.decay)) + 1,
    "3.D": lambda c: 1 - ((c.steps - c.last) / c.steps) ** (c.gamma + 1),
    "4.A": step_down,
    "4.B": noise_of_step,
    "4.C": lambda c: -np.polyfit(np.log([c.fewer, c.more]), np.log([c.first, c.second]), 1)[0],
    "4.D": lambda c: max(n for n in range(1, 300) if (2 * n - 1) * c.ms <= 1000 * c.seconds + 1e-6),
    "5.A": lambda c: (1 + c.s) * c.label - c.s * c.none,
    "5.B": lambda c: c.none + c.w * (1 / c.alpha - c.alpha) * c.grad,
    "5.C": lambda c: (1 - c.w1 - c.w2) * c.none + c.w1 * c.one + c.w2 * c.two,
    "5.D": lambda c: math.sqrt(2) * c.strength / (1 - c.strength),
    "6.A": lambda c: c.t / (c.t + c.c * (1 - c.t)),
    "6.B": noise_rate,
    "6.C": bits,
    "6.D": lambda c: -math.log(math.prod(c.p[k - 1] for k in c.places)) / c.t,
    "7.A": lambda c: 2 * c.blocks * c.rank * (3 * c.d + c.context),
    "7.B": lambda c: (c.text + c.decoder + 2 * c.before * c.each)
    / (c.text + c.decoder + c.after * c.each),
    "7.C": at_least,
    "7.D": tempered,
    "7.E": lambda c: c.price * (1000 / c.batch * c.seconds / 3600) / c.busy,
}


def test_three_or_more_a_lesson_each_with_three_mistakes_or_more():
    assert all(len(names(lesson)) >= 3 for lesson in LESSONS)
    assert len(ALL) == len({*ALL}) and {*ALL} == {*BY_HAND}
    assert all(len(find(name).mistakes) >= 3 and find(name).formula for name in ALL)


def close(name: str, wanted: float, seed) -> bool:
    """Whether the key is this number: a tenth of the tolerance, for what is computed in float32."""
    return key(name, seed) == pytest.approx(wanted, rel=0 if find(name).whole else 1e-3)


@every
def test_the_key_agrees_with_a_second_computation(name):
    for seed in (2026, "another", *SEEDS):
        wanted = BY_HAND[name](case_of(find(name), seed))
        assert close(name, wanted, seed), seed


# ---- verdicts

@every
def test_right_answers_are_accepted(name):
    v = find(name)
    for seed in SEEDS:
        right = right_answer(v, seed)
        forms = [right, lambda: right, np.float64(right), torch.tensor(float(right)).double()]
        forms += [right] if v.whole else [rounded(right), float(f"{right:.6g}")]
        for form in forms:
            assert verdict(v, seed, form) == ("right", ""), (seed, form)


@every
def test_each_mistake_is_refused_with_its_own_sentence(name):
    v = find(name)
    for seed in SEEDS:
        _, *wrong = answers(v, seed)
        for sentence, value in zip(v.mistakes, wrong):
            for given in (value, value if v.whole else rounded(value)):
                assert verdict(v, seed, given) == ("not yet", sentence), (seed, given)


@every
def test_other_answers(name):
    v = find(name)
    for given, said in ((1e9 + 0.25, OTHER), (math.nan, "nan or inf"), (None, ""), (..., ""),
                        (stub, ""), ("0.1", "one number is wanted; got str"),
                        ([1, 2], "one number is wanted"), (lambda: None, "`return`"),
                        (lambda: 1 / 0, "raised ZeroDivisionError"), (1 + 2j, "number is wanted")):
        found, words = verdict(v, 1, given)
        unattempted = given in (None, ..., stub)
        assert found == ("not attempted" if unattempted else "not yet")
        if v.whole and given == 1e9 + 0.25:
            said = "a whole number is wanted"
        assert said in words, words


@every
def test_sentences_are_single_and_differ(name):
    sentences = list(find(name).mistakes)
    assert len({*sentences}) == len(sentences)
    assert all("\n" not in s and not s.endswith(".") for s in sentences)


# ---- numbers

def numbers_in(value) -> list[float]:
    if isinstance(value, SimpleNamespace):
        return numbers_in(list(vars(value).values()))
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in numbers_in(part)]
    return [value] if isinstance(value, (int, float)) else []


@every
def test_the_text_holds_every_number_that_is_needed(name):
    v = find(name)
    for seed in SEEDS:
        c, text = case_of(v, seed), question_text(v, seed)
        for number in numbers_in(c):
            if name == "2.A":                               # pairs, in their order
                continue
            if (name, number) == ("2.D", c.__dict__.get("K")):
                assert f"k = 0 ... {number - 1}" in text
            assert f"{number:g}" in text or str(number) in text, (seed, number, text)
        if name == "2.A":
            found = re.findall(r"\((\d), (\d)\)", text)
            assert found == [(str(k), str(s)) for k, s in zip(c.kernels, c.strides)]


@every
def test_the_numbers_of_the_text_suffice(name):
    """The case as a reader has it: each number as it is printed."""
    printed = lambda value: (
        [printed(part) for part in value] if isinstance(value, list)
        else float(f"{value:g}") if isinstance(value, float) else value)
    for seed in SEEDS:
        c = case_of(find(name), seed)
        read = SimpleNamespace(**{field: printed(value) for field, value in vars(c).items()})
        assert close(name, BY_HAND[name](read), seed), seed


@every
def test_another_seed_gives_other_numbers(name):
    texts = {question_text(find(name), seed) for seed in SEEDS}
    assert len(texts) >= len(SEEDS) - 1


def test_one_seed_gives_the_same_numbers_everywhere():
    """Written down: a change of these changes every sheet that was handed out."""
    n = Numbers("words")
    assert [n.below(1000) for _ in range(5)] == NUMBERS
    assert [n.whole(3, 5), n.decimal(-1, 1, 2), n.one_of("abc")] == KINDS
    assert {name: key(name, 2026) for name in FIRST} == pytest.approx(FIRST, rel=1e-6)
    assert question_text(find("4.C"), 2026) == question_text(find("4.C"), "2026")
    code = ("from course_lib.checks.variants.core import *\n"
            "print(question_text(find('3.D'), 7), right_answer(find('3.D'), 7))")
    said = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           env=os.environ | {"PYTHONHASHSEED": seed}).stdout for seed in "12"}
    wanted = f"{question_text(find('3.D'), 7)} {key('3.D', 7)}\n"
    assert said == {wanted}


NUMBERS = [552, 500, 452, 924, 737]
KINDS = [5, 0.73, "b"]
FIRST = {"1.A": 127, "3.B": 2.9646179408, "7.A": 565248}


def test_torch_s_random_numbers_are_left_alone():
    state = torch.get_rng_state()
    for name in ALL:
        verdict(find(name), "a fresh seed", 0.5)
    assert torch.equal(torch.get_rng_state(), state)


# ---- the functions

def test_what_is_printed(capsys):
    variant("1.A", 2026)
    check_variant("1.A", 2026, key("1.A", 2026))
    check_variant("1.A", 2026, key("1.A", 2026) - 1)
    check_variant("1.A", 2026)
    check_variant("1.A", 2026, stub)
    note_variant("1.A", lambda: 12)
    note_variant("1.A", "twelve")
    note_variant("1.A", stub)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1.A (2 points). A forward process has ")
    assert said[1] == "1.A right"
    assert said[2].startswith("1.A not yet: that is one step too early")
    assert said[3:] == ["1.A not attempted", "1.A not attempted", "1.A noted: 12",
                        "1.A not yet: one number is wanted; got str", "1.A not attempted"]


def test_strict(monkeypatch):
    for given in (0.1, None, stub):
        with pytest.raises(CheckFailed, match="1.A not"):
            grade_variant("1.A", 2026, given)
    grade_variant("1.A", 2026, key("1.A", 2026))
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(CheckFailed):
        check_variant("1.A", 2026, stub)


@pytest.mark.parametrize("name, said", [
    ("1.Z", "there is no variant '1.Z': lesson 1 has 1.A, 1.B, 1.C, 1.D"),
    ("8.A", "names look like '1.A'"), ("A", "names look like"), (1.1, "names look like"),
    ("", "names look like"), ("1", "lesson 1 has"), (None, "names look like")])
def test_bad_names(name, said):
    for call in (lambda: variant(name, 1), lambda: check_variant(name, 1, 2), lambda: key(name, 1)):
        with pytest.raises(ValueError, match=said) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed, kind", [
    (-1, ValueError), (1.5, TypeError), (None, TypeError), ("", ValueError), ("  ", ValueError),
    ("a\nb", ValueError), (True, (TypeError, ValueError)), ([1], TypeError)])
def test_bad_seeds(seed, kind):
    for call in (lambda: variant("1.A", seed), lambda: check_variant("1.A", seed, 2),
                 lambda: sheet(["1.A"], seed, False), lambda: student_seed(seed, "ann")):
        with pytest.raises(kind, match="seed must be") as error:
            call()
        assert "\n" not in str(error.value)


def test_names_of_lessons():
    assert names(1)[0] == "1.A"
    for lesson in (0, 8, "1", None):
        with pytest.raises(ValueError, match="lesson must be one of"):
            names(lesson)


# ---- notebooks

def run(notebook: dict, folder: Path) -> str:
    """What a notebook prints."""
    book = nbformat.from_dict(notebook)
    nbformat.validate(book)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def with_answers(notebook: dict, answer) -> dict:
    """The sheet with `return answer(name)` in place of each stub."""
    filled = json.loads(json.dumps(notebook))
    for cell in filled["cells"]:
        name = cell["source"].partition("def answer_")[2].partition("(")[0].replace("_", ".")
        if name:
            stubs = "    # YOUR CODE HERE\n    raise NotImplementedError"
            assert stubs in cell["source"]
            cell["source"] = cell["source"].replace(stubs, f"    return {answer(name)}")
    return filled


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_sheet_is_a_notebook_with_points(lesson):
    book = nbformat.from_dict(sheet(names(lesson), 5, False))
    nbformat.validate(book)
    graded = [cell.metadata.nbgrader for cell in book.cells if "nbgrader" in cell.metadata]
    assert [m.points for m in graded if m.grade] == [2] * len(names(lesson))
    assert len({m.grade_id for m in graded}) == len(graded) == 2 * len(names(lesson))
    texts = "\n".join(cell.source for cell in book.cells)
    assert all(question_text(find(name), 5) in texts for name in names(lesson))


@pytest.mark.slow
def test_a_sheet_runs_as_it_is_and_solved(tmp_path):
    untouched = sheet(names(2), "s", False)
    wanted = "".join(f"{name} not attempted\n" for name in names(2))
    assert run(untouched, tmp_path) == wanted
    solved = with_answers(untouched, lambda name: key(name, "s"))
    assert run(solved, tmp_path) == wanted.replace("not attempted", "right")
    exam = sheet(names(2), "a long secret", True)
    assert run(exam, tmp_path) == wanted
    assert "secret" not in json.dumps(exam)
    assert run(with_answers(exam, lambda name: 3), tmp_path) == "".join(
        f"{name} noted: 3\n" for name in names(2))


@pytest.mark.parametrize("exam", [False, True])
def test_nbgrader_makes_the_sheet_of_the_source(exam):
    sys.path.insert(0, str(ROOT / "tools"))
    import build
    made = source(names(4), 2026, exam, each=False)
    nbformat.validate(nbformat.from_dict(made))
    stripped = build.strip(nbformat.from_dict(made))
    wanted = sheet(names(4), 2026, exam)
    assert [cell.source for cell in stripped.cells] == [c["source"] for c in wanted["cells"]]


# ---- rosters and the command line

def roster(folder: Path, *students: str) -> Path:
    file = folder / "roster.csv"
    file.write_text("".join(f"{row}\n" for row in ("id,email", *(f"{s}," for s in students))))
    return file


def test_each_student_has_an_own_seed(tmp_path, monkeypatch):
    assert student_seed(2026, "ann") == student_seed("2026", "ann") == ANN
    assert len({student_seed(2026, f"student{k}") for k in range(100)}) == 100
    here = tmp_path / "autograded/ann/variants03"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert seed_here(2026) == student_seed(2026, "ann")


ANN = "a5834c86c13aff97"


@pytest.mark.parametrize("rows, said", [
    ("name\nann\n", "a column `id`"), ("id\n", "a column `id`"), ("", "a column `id`"),
    ("id\nann\nAnn\n", "twice"), ("id\n../ann\n", "id has letters"), ("id\n,\n", "id has letters"),
    ("id\n.hidden\n", "id has letters")])
def test_bad_rosters(tmp_path, rows, said):
    file = tmp_path / "roster.csv"
    file.write_text(rows)
    with pytest.raises(ValueError, match=said) as error:
        read_roster(file)
    assert "\n" not in str(error.value)


def test_a_roster_of_a_spreadsheet(tmp_path):
    file = tmp_path / "roster.csv"
    file.write_bytes("\ufeffid,email\r\nann@uni,x\r\n bob ,y\r\n".encode())
    assert read_roster(file) == ["ann@uni", "bob"]


def test_sheets_and_key_of_a_roster(tmp_path, capsys):
    file = roster(tmp_path, "ann", "bob")
    options = ["--lesson", "3", "--seed", "s", "--students", str(file)]
    main([*options, "--out", str(tmp_path / "sheets"), "--answers"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["id"] for row in rows] == ["ann", "bob"]
    texts = []
    for row in rows:
        book = nbformat.read(tmp_path / f"sheets/{row['id']}/variants03.ipynb", 4)
        texts.append("\n".join(cell.source for cell in book.cells))
        seed = student_seed("s", row["id"])
        for name in names(3):
            assert question_text(find(name), seed) in texts[-1]
            assert verdict(find(name), seed, float(row[name])) == ("right", "")
    assert texts[0] != texts[1]


def test_the_command_line(tmp_path, capsys):
    main(["--lesson", "1", "--seed", "9"])
    said = capsys.readouterr().out
    assert all(question_text(find(name), 9) in said for name in names(1))
    main(["--lesson", "7", "--seed", "9", "--questions", "7.A,7.C", "--answers"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["7.A", str(key("7.A", 9))] and "(7.41)" in second
    out = tmp_path / "new/sheet.ipynb"
    main(["--lesson", "1", "--seed", "9", "--questions", "1.B", "--out", str(out)])
    assert json.loads(out.read_text("utf-8")) == sheet(["1.B"], 9, False)


@pytest.mark.parametrize("options, said", [
    (["--lesson", "8", "--seed", "1"], "invalid choice"),
    (["--lesson", "1"], "--seed"),
    (["--lesson", "1", "--seed", " "], "seed must be"),
    (["--lesson", "1", "--seed", "1", "--questions", "2.A"], "2.A is no question of lesson 1"),
    (["--lesson", "1", "--seed", "1", "--questions", "1.Z"], "lesson 1 has 1.A"),
    (["--lesson", "1", "--seed", "1", "--out", "sheet"], "must be a notebook"),
    (["--lesson", "1", "--seed", "1", "--out", "there.ipynb"], "nothing is overwritten"),
    (["--lesson", "1", "--seed", "1", "--out", "new.ipynb", "--source", "there.ipynb"], "is there"),
    (["--lesson", "1", "--seed", "1", "--students", "nowhere.csv"], "nowhere.csv: No such file")])
def test_bad_command_lines(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.ipynb").write_text("mine")
    with pytest.raises(SystemExit) as error:
        main(options)
    assert error.value.code == 2 and said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["there.ipynb"]
    assert (tmp_path / "there.ipynb").read_text() == "mine"


# ---- nbgrader, from the source to the marks

def nbgrader(course: Path, *words: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=course, text=True,
                          capture_output=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("exam", [[], ["--exam"]], ids=["practice", "exam"])
def test_nbgrader_marks_each_student_by_own_numbers(tmp_path, exam):
    """Full marks for own answers, none for an untouched sheet and for another's answers."""
    config = ROOT / "docs/instructors/nbgrader_config.py"
    (tmp_path / "nbgrader_config.py").write_text(config.read_text("utf-8"))
    students = roster(tmp_path, "ann", "bob", "eve")
    main(["--lesson", "5", "--seed", "a long secret", "--students", str(students), *exam,
          "--out", str(tmp_path / "sheets"),
          "--source", str(tmp_path / "source/variants05/variants05.ipynb")])
    nbgrader(tmp_path, "generate_assignment", "variants05")
    released = (tmp_path / "release/variants05/variants05.ipynb").read_text("utf-8")
    assert "secret" not in released and "grade_variant" not in released
    whose = {"ann": "ann", "bob": None, "eve": "ann"}       # whose answers each hands in
    for student, other in whose.items():
        book = json.loads((tmp_path / f"sheets/{student}/variants05.ipynb").read_text("utf-8"))
        if other:
            book = with_answers(book, lambda name: key(name, student_seed("a long secret", other)))
        folder = tmp_path / f"submitted/{student}/variants05"
        folder.mkdir(parents=True)
        (folder / "variants05.ipynb").write_text(json.dumps(book), encoding="utf-8")
    nbgrader(tmp_path, "autograde", "variants05")
    from nbgrader.api import Gradebook
    with Gradebook(f"sqlite:///{tmp_path}/gradebook.db") as gradebook:
        found = gradebook.assignment_submissions("variants05")
        assert {s.student.id: s.score for s in found} == {"ann": 8, "bob": 0, "eve": 0}
        assert found[0].max_score == 8
