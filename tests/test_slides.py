"""The slides: which figures, their words, and pictures of the right size with sharp pixels."""
import base64
import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import slides  # noqa: E402


def picture(width=300, height=100, kind="PNG"):
    """A red picture, as a file in base64."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def text(words):
    return {"cell_type": "markdown", "source": words.splitlines(keepends=True)}


def code(**data):
    outputs = [{"data": {f"image/{kind}": value}} for kind, value in data.items()]
    return {"cell_type": "code", "source": ["draw()"], "outputs": outputs}


@pytest.fixture
def notebook(tmp_path):
    """A notebook of five figures; no sentence about them follows the third and the last."""
    cells = [
        text("# Lesson 3\n\n## 3.4 EDM: near one · deeper\n\nWords."),
        code(png=picture()),
        text("**What the figure shows.** With $\\sigma = 1. 5$ it is *red*, as `plots` has it. "
             "Karras et al. say so."),
        text("### A part of it"),
        code(png=picture()),
        text("It is red.\n\nAnother paragraph."),
        code(png=picture()),
        code(jpeg=picture(40, 400, "JPEG")),
        text("**What this shows (one run).** It is narrow."),
        code(png=picture()),
        text("**Is it green?** Look at another one."),
    ]
    file = tmp_path / "03_small.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    return file


def test_figures_their_sections_and_their_words(notebook):
    found = slides.slides_of(notebook)
    assert [(s.name, s.section, s.title, s.text) for s in found] == [
        ("3_04_1.png", "3.4", "EDM: near one",
         "With $\\sigma = 1. 5$ it is *red*, as `plots` has it. Karras et al. say so."),
        ("3_04_2.png", "3.4", "A part of it", "It is red."),
        ("3_04_3.png", "3.4", "A part of it", "It is narrow."),
    ]


def test_slides_have_their_size_and_enlarge_threefold_at_most(notebook, tmp_path):
    found = slides.slides_of(notebook)
    slides.write(found, tmp_path / "out")
    (tmp_path / "out/9_09_1.png").write_bytes(b"")
    slides.write(found, tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "3_04_1.png", "3_04_2.png", "3_04_3.png", "index.html"]
    for slide, size in zip(found, [(900, 300), (900, 300), (70, 700)]):
        image = Image.open(tmp_path / "out" / slide.name)
        assert image.size == (1920, 1080)
        red = image.point(lambda v: 255 * (v > 128)).getcolors()
        count = dict((color, n) for n, color in red)[(255, 0, 0)]
        assert count == pytest.approx(size[0] * size[1], rel=0.02)
        assert len(red) > 2                                     # and words in black and grey
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img") == 3 and "It is narrow." in page


@pytest.mark.parametrize("words, drawn", [
    ("see [lesson 2](02.ipynb), **bold** and `a_b`", "see lesson 2, bold and a_b"),
    (r"$\mathcal N(0, I)$", r"$\mathcal{N}(0, I)$"),
    (r"$\tfrac{\pi t}2$", r"$\frac{\pi t}{2}$"),
    (r"$\nonsense{x}$", "nonsensex"),
    ("it costs 3 $", r"it costs 3 \$"),
])
def test_markdown_as_it_is_drawn(words, drawn):
    assert slides.shown(words) == drawn


def test_lines_are_cut_outside_of_formulas():
    assert slides.lines("one $a + b + c$ two", 8) == "one\n$a + b + c$\ntwo"


def test_every_lesson_has_slides_and_every_formula_can_be_drawn():
    found = slides.chosen([], [])
    assert {s.lesson for s in found} == {*range(1, 8)} and len(found) > 80
    assert len({s.name for s in found}) == len(found)
    for slide in found:
        for words in (slide.title, slide.text):
            formulas = words.count("$")
            assert slides.shown(words).count("$") >= formulas, (slide.name, words)


def test_a_section_without_a_slide_is_refused():
    assert {s.section for s in slides.chosen([], ["1.4"])} == {"1.4"}
    with pytest.raises(SystemExit, match="no slide comes from 9.9: see --list"):
        slides.chosen([], ["1.4", "9.9"])
