"""The cards: up to date, linked, every number out of a file, and what is not known said so."""
import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from course_lib.lab import storage

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import cards  # noqa: E402
from card_pages.files import measures_of  # noqa: E402
from card_pages.model import training  # noqa: E402
from card_pages.text import CARDS, shown  # noqa: E402

MODEL_SECTIONS = ["Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
                  "Training data", "Quantitative analyses", "Ethical considerations",
                  "Caveats and recommendations"]
DATA_SECTIONS = ["Motivation", "Composition", "Collection process",
                 "Preprocessing, cleaning, labelling", "Uses", "Distribution", "Maintenance"]
SAID = """
settings = []
names_within = []
spreads = ["error"]
[text]
developed_by = "us"
made_by_model = "Made by a tool."
made_by_data = "Made by a tool."
share_alike = "SHARE-ALIKE HERE"
maintenance = "Kept."
index = "All."
[terms]
score = "how good"
[source.outside]
what = "pictures that are not shipped"
licence = "none stated"
people = "Nobody was asked."
[group.words]
intended = "To teach."
out_of_scope = "All else."
factors = "None."
evaluation_data = "The test split."
ethics = "None."
caveats = "Small."
[model.one]
like = "words"
what = "A small model."
trained_on = ["digits.npz"]
n_covers = ["score"]
[model.two]
like = "words"
what = "Made from the first one."
trained_on = ["outside"]
made_with = ["one.safetensors"]
[model.later]
like = "words"
what = "It will come."
trained_on = ["outside"]
expected = true
[data."digits.npz"]
what = "Digits."
motivation = "To teach."
collection = "By hand."
people = "None."
preprocessing = "None."
uses = "Lesson 1."
not_for = "anything else."
"""
LICENCES = """| file | what it is | licence |
| --- | --- | --- |
| `digits.npz` | digits | [CC BY-SA 3.0](https://example.org). By somebody |
| `checkpoints/one.safetensors` | a model | MIT, like the code |
| `checkpoints/two.safetensors` | a model | MIT, like the code |
"""
ABOUT = {
    "data": "digits",
    "command": "python tools/cards.py",
    "config": {"train": {"steps": 123}},
    "metrics": {
        "n": 4321,
        "score": 0.98765,
        "error": 0.0,
        "judged_by": "python tools/nowhere.py",
        "machine": "a cpu",
    },
}


@pytest.fixture
def course(tmp_path):
    """Two models and a data file, in a folder of their own."""
    assets = tmp_path / "assets"
    (assets / "checkpoints").mkdir(parents=True)
    (assets / "LICENSES.md").write_text(LICENCES)
    np.savez(assets / "digits.npz", x=np.zeros((5, 3)), y=np.array([0, 1, 1, 1, 0]))
    write(assets / "checkpoints/one.safetensors", ABOUT)
    write(assets / "checkpoints/two.safetensors", {"data": "outside"})
    return new_course(tmp_path, SAID)


def new_course(folder, said):
    (folder / "cards.toml").write_text(said)
    return cards.Course(folder / "assets", folder / "cards.toml", ROOT)


def write(file, about):
    header = {"format": 2, "net": ["UNet", {"channels": 1}], "about": about}
    storage.save_tensors(file, {"w": torch.ones(6, 7).half()}, header)


def sections(page):
    return re.findall(r"^## (.+)$", page, re.M)


def section(page, name):
    return page.split(f"## {name}\n")[1].split("\n## ")[0]


# ---- what is shipped

@pytest.fixture(scope="module")
def pages():
    return cards.make_pages(cards.Course())


def test_the_cards_are_up_to_date():
    """`python tools/cards.py --check` finds nothing."""
    assert cards.out_of_date(cards.Course(), CARDS) == []


def test_every_asset_has_a_page_with_all_sections(pages):
    course = cards.Course()
    shipped = {f"{f.name}.md" for f in storage.ASSETS.rglob("*")
               if f.suffix in (".safetensors", ".npz", ".csv")}
    assert shipped == {*pages} - {"README.md"} and len(shipped) > 30
    for name in course.files:
        wanted = MODEL_SECTIONS if course.kind(name) == "model" else DATA_SECTIONS
        assert sections(pages[f"{name}.md"]) == wanted, name
        assert f"({name}.md)" in pages["README.md"]


def test_every_link_leads_somewhere(pages):
    for name, page in pages.items():
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page):
            there = target in pages if "/" not in target else (CARDS / target).exists()
            assert there, (name, target)


def test_the_digest_is_the_header_s(pages):
    files = set(storage.CHECKPOINTS.glob("*.safetensors"))
    for file in files - {storage.CHECKPOINTS / "mini_sd_faded.safetensors"}:   # published layout
        tensors, header = storage.load_tensors(file)
        digest = storage.digest(tensors, json.dumps(header))
        assert f"`{digest}`" in pages[f"{file.name}.md"]


def test_numbers_are_those_of_the_headers(pages):
    """Each row of samples of a shipped model, and its n."""
    for name in ("mnist", "nouns", "sudoku", "mnist_consistency"):
        header = storage.load_header(storage.CHECKPOINTS / f"{name}.safetensors")
        text = section(pages[f"{name}.safetensors.md"], "Quantitative analyses")
        lines = text.split("**samples**")[1].split("\n")[4:]
        for row, line in zip(header["about"]["metrics"]["samples"], lines):
            cells = line.strip("| ").split(" | ")
            values = [*row.values()]
            if "right" in row:                              # a row in the row
                at = [*row].index("right")
                values[at:at + 1] = row["right"].values()
            assert len(cells) == len(values)
            for cell, value in zip(cells, values):
                number = float(cell.replace(",", "")) if not isinstance(value, str) else cell
                assert number == (value if isinstance(value, str) else pytest.approx(value, 1e-3))


def test_a_short_table_is_shown_whole(pages):
    with (storage.ASSETS / "sculptures.csv").open() as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        assert f"| {' | '.join(row)} |" in pages["sculptures.csv.md"]


def test_every_measurement_is_explained(pages):
    for name, page in pages.items():
        assert "not explained" not in page, name


def test_which_models_share_alike_reaches():
    course = cards.Course()
    reached = {Path(name).stem for name in course.files
               if course.share_alike(name) and not name.endswith(".csv")}
    digits = {f.stem for f in storage.CHECKPOINTS.glob("mnist*")}
    pictures = {"super_resolution", "generations", "halves", "duplicates", "membership", "erasure"}
    shown = {f"lesson7_{name}" for name in pictures}        # of digits, or their losses
    assert reached == digits | shown | {"moving_digits", "sculptures"}


def test_what_was_not_recorded(pages):
    """The seconds of `mnist` and its machine: the header names the judge's machine alone."""
    training = section(pages["mnist.safetensors.md"], "Training data")
    assert "| seconds | not recorded |" in training and "| machine | not recorded |" in training
    judging = section(pages["mnist.safetensors.md"], "Quantitative analyses")
    assert "| machine | course_lib 0.1.0 on cpu" in judging
    assert "asks for 170" in section(pages["cifar10.safetensors.md"], "Training data")
    drums = storage.load_header(storage.CHECKPOINTS / "drums.safetensors")["about"]["metrics"]
    seconds = f"| seconds | {drums['training']['seconds']:,} |"
    assert seconds in section(pages["drums.safetensors.md"], "Training data")


def test_a_command_that_has_moved_is_noticed(pages):
    assert "now `tools/recipes/nouns_live.py`" in pages["nouns_live.safetensors.md"]


def test_mini_sd_and_its_parts_are_expected(tmp_path):
    """The entries of the shipped table take files like those that will come."""
    course = cards.Course()
    names = ["mini_sd", "mini_sd_control", "mini_sd_inpaint", "mini_sd_faded"]
    assert {*names} <= {*course.said["model"]}
    assets = tmp_path / "assets"
    shutil.copytree(storage.ASSETS, assets, copy_function=lambda a, b: Path(b).symlink_to(a))
    judged = {"n": 77, "f1": {"hint": [0.81, 0.01]}, "withheld": {"n": 55, "way": [0.9, 0.02]}}
    part = {"part": "ControlNet", "config": {"width": 24}, "base": "ab" * 32,
            "about": {"base": "mini_sd", "options": {"lr": 0.002}, "metrics": judged}}
    for name in names:
        file = assets / f"checkpoints/{name}.safetensors"
        file.unlink(missing_ok=True)
        if name == "mini_sd_faded":                         # an adapter in the published layout
            save_file({"up": torch.ones(3)}, file, metadata={"format": "pt"})
        else:
            storage.save_tensors(file, {"w": torch.ones(3)}, part)
    made = cards.make_pages(cards.Course(assets))
    for name in names:
        assert sections(made[f"{name}.safetensors.md"]) == MODEL_SECTIONS
    control, adapter = (made[f"mini_sd_{k}.safetensors.md"] for k in ("control", "faded"))
    assert f"| belongs to weights | `{'ab' * 32}` |" in control
    assert "| network | `ControlNet`" in control and '`{"options": {"lr": 0.002}}`' in control
    assert "**withheld**, n 55" in control and "not explained" not in control
    assert "`base`" not in control and "**options**" not in control     # no measurements
    assert "**f1**, n 77" in made["mini_sd_inpaint.safetensors.md"]     # n_covers all
    assert "| command | `python tools/recipes/train_mini_sd_style.py`" in adapter
    assert '| the file\'s own metadata | `{"format": "pt"}` |' in adapter
    assert "mini_sd_control.safetensors.md" in made["nouns_vae.safetensors.md"]


# ---- how a page is made

def test_a_model_s_page(course):
    page = cards.make_pages(course)["one.safetensors.md"]
    assert "| numbers | 42 in 1 tensors, float16 |" in page
    assert "| steps | 123 |" in page and "| seconds | not recorded |" in page
    assert "| `score` | 0.9877 | 4,321 |" in page
    assert "| `error` | 0 | not recorded |" in page          # n_covers names score alone
    assert "- `score`: how good" in page and "- `error`: not explained" in page
    assert "(tools/nowhere.py is gone)" in page and "(tools/cards.py is" not in page
    assert "SHARE-ALIKE HERE" in page
    assert "| [digits.npz](digits.npz.md) | CC BY-SA 3.0 | yes |" in page
    assert "Made with it: [two.safetensors](two.safetensors.md)." in page


def test_share_alike_passes_through_another_model(course):
    page = cards.make_pages(course)["two.safetensors.md"]
    assert "SHARE-ALIKE HERE" in page and "Nobody was asked." in page
    assert "| pictures that are not shipped | none stated | no |" in page
    assert "Measurements: not recorded." in page and "Measures: not recorded." in page


def test_a_data_sheet_counts_few_values(course):
    page = cards.make_pages(course)["digits.npz.md"]
    assert "| y | int64 | 5 | 0: 2; 1: 3 |" in page and "| x | float64 | 5 x 3 |  |" in page
    assert "By somebody" in section(page, "Distribution") and "SHARE-ALIKE" not in page


def test_a_file_that_the_course_did_not_write(course):
    """An adapter in the published layout has no header of ours: nothing is known, nothing fails."""
    file = course.assets / "checkpoints/two.safetensors"
    save_file({"up": torch.zeros(2, 3)}, file, metadata={"format": "pt"})
    page = cards.make_pages(course)["two.safetensors.md"]
    assert "| numbers | 6 in 1 tensors, float32 |" in page
    assert "| network | not recorded |" in page and "| command | not recorded |" in page


@pytest.mark.parametrize("value, text", [
    (0, "0"), (0.0, "0"), (None, "not recorded"), (12345, "12,345"), (0.123456, "0.1235"),
    (2048.4, "2,048"), (True, "yes"), ([0.5, 1], "0.5, 1"), ([], "none"), ("a|b", "a\\|b"),
    (float("inf"), "inf"), (-1234.5, "-1,234"),
])
def test_values_as_cells(value, text):
    assert shown(value) == text


def test_seconds_that_are_rows_are_no_training(course):
    """mini-SD's header has `seconds` of drawing as rows; they are measurements."""
    rows = [{"batch": 1, "mini_sd": 0.1}]
    assert measures_of({"metrics": {"seconds": rows}}) == {"seconds": rows}
    assert measures_of({"metrics": {"seconds": 62}}) == {}
    assert training(course, {"metrics": {"seconds": rows}})["seconds"] == cards.MISSING
    assert training(course, {"metrics": {"seconds": 62}})["seconds"] == "62"


def test_a_table_with_a_column_model_shows_its_rows(course):
    with (course.assets / "marks.csv").open("w") as file:
        file.write("model,score\none,0.25\ntwo,0.75\n")
    said = SAID.replace("n_covers = [", 'tables = ["marks.csv"]\nn_covers = [')
    said += SAID[SAID.index('[data."digits.npz"]'):].replace("digits.npz", "marks.csv")
    page = cards.make_pages(new_course(course.assets.parent, said))["one.safetensors.md"]
    assert "**From [marks.csv](marks.csv.md)**: 1 rows" in page
    assert "| one | 0.25 |" in page and "0.75" not in page


# ---- what is refused

def said_by(arguments, course, folder, capsys):
    status = cards.main(arguments, course, folder)
    return status, capsys.readouterr().out.splitlines()


def test_write_then_check(course, tmp_path, capsys):
    folder = tmp_path / "docs"
    assert said_by([], course, folder, capsys) == (
        0, ["4 pages", "entries that wait for their files: later.safetensors"])
    (folder / "gone.npz.md").write_text("of a file that was removed")
    status, lines = said_by(["--check"], course, folder, capsys)
    assert status == 1 and lines[0].startswith("gone.npz.md is of no asset")
    assert said_by([], course, folder, capsys)[0] == 0 and not (folder / "gone.npz.md").exists()
    assert said_by(["--check"], course, folder, capsys)[1][0] == "all cards are up to date"


def test_a_header_that_changes_makes_its_page_out_of_date(course, tmp_path):
    folder = tmp_path / "docs"
    cards.write_pages(course, folder)
    other = ABOUT | {"metrics": ABOUT["metrics"] | {"score": 0.5}}
    write(course.assets / "checkpoints/one.safetensors", other)
    found = cards.out_of_date(course, folder)
    assert found == ["one.safetensors.md is out of date: run `python tools/cards.py`"]
    (folder / "two.safetensors.md").unlink()
    assert "two.safetensors.md is missing" in cards.out_of_date(course, folder)[1]


@pytest.mark.parametrize("name, words", [
    ("checkpoints/new.safetensors", r"new\.safetensors has no entry .* add \[model\.new\] with"),
    ("new.npz", r'new\.npz has no entry .* add \[data\."new\.npz"\] with'),
    ("new.bin", r'new\.bin has no entry .* add \[data\."new\.bin"\] with'),
])
def test_an_unknown_file_is_refused_in_one_sentence(course, tmp_path, capsys, name, words):
    (course.assets / name).write_bytes(b"")
    status, lines = said_by([], course, tmp_path / "docs", capsys)
    assert status == 1 and len(lines) == 2 and re.search(words, lines[0])
    assert not (tmp_path / "docs").exists()                  # nothing was written


@pytest.mark.parametrize("old, new, words", [
    ('caveats = "Small."', "", "one.safetensors: caveats must be said"),
    ('caveats = "Small."', 'caveats = "98.5 % are right."', "the number '98.5' is typed by hand"),
    ('what = "Digits."', 'what = "70000 digits"', "the number '70000' is typed by hand"),
    ('what = "A small', 'whta = "A small', "whta is unknown; known are caveats"),
    ("expected = true", "", "later.safetensors: there is no such file; remove the entry"),
    ('["digits.npz"]', '["digit.npz"]', "trained_on names digit.npz, which is no asset"),
    ('like = "words"', 'like = "word"', "there is no group 'word'"),
])
def test_mistakes_of_the_table(course, old, new, words):
    mended = new_course(course.assets.parent, SAID.replace(old, new))
    with pytest.raises(cards.CardError, match=re.escape(words)):
        cards.make_pages(mended)


def test_numbers_that_are_names_are_no_numbers(course):
    said = SAID.replace('"Small."', '"In 2021, lesson 5, CC BY 3.0, fp16, CIFAR-10, `n = 7`."')
    assert [*cards.mistakes(new_course(course.assets.parent, said))] == []


def test_a_damaged_file_is_one_sentence(course):
    file = course.assets / "checkpoints/one.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(cards.CardError, match=r"^one\.safetensors is damaged .*digest differs"):
        cards.make_pages(course)
    file.write_bytes(b"nothing")
    with pytest.raises(cards.CardError, match="one.safetensors is no whole safetensors file"):
        cards.make_pages(course)
