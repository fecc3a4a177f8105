"""The web site: its pages, its glossary, and that nothing comes from elsewhere."""
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import course_lib

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs/site"
LOADED = re.compile(r"<(?:script|img|iframe|audio|video|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*")
LINKED = re.compile(r"<link\b[^>]*\brel=\"(?:stylesheet|preload|icon)\"[^>]*href=\"(?:https?:)?//")


def loaded(name: str):
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stage():
    return loaded("stage")


def test_every_lesson_has_a_table_of_terms(stage):
    for file in stage.lessons():
        if "| in one line |" not in stage.texts(file):
            continue                                        # built before its table was written
        rows = stage.rows(file)
        assert len(rows) > 9 and all(term and meaning for term, meaning in rows), file.name


def test_the_glossary_has_every_term_once(stage):
    cells = [cell for file in stage.lessons() for cell, _ in stage.rows(file)]
    terms = {term for cell in cells for term in stage.split_terms(cell)}
    page = stage.glossary_page()
    for term in terms:
        assert len(re.findall(rf"^{re.escape(term)}$", page, re.M)) == 1, term


def test_every_notebook_is_in_the_table_of_contents(stage):
    text = (SITE / "index.md").read_text(encoding="utf-8")
    assert len(stage.lessons()) == 7
    for name in ("notebooks/*", "exercises/*", "glossary", "notation", "docs/cards/README"):
        assert f"\n{name}\n" in text
    assert "solutions" not in text


def test_every_picture_has_an_alternative_text(stage):
    for file in stage.lessons():
        found = stage.alternatives(file)
        assert found and all(text.strip() for text in found.values()), file.name


def test_the_page_of_notation_names_formulas_that_exist(stage):
    text = (SITE / "notation.md").read_text(encoding="utf-8")
    found = re.findall(r"\((\d)\.(\d+)\)", text)
    assert len(found) > 30 and all(number in stage.formulas() for number in found)


def test_terms_toml_has_no_stale_cells(stage):
    """Each cell that terms.toml spells out stands in a lesson's table."""
    spelled = tomllib.loads((SITE / "terms.toml").read_text(encoding="utf-8"))
    cells = {cell for file in stage.lessons() for cell, _ in stage.rows(file)}
    assert set(spelled) <= cells


def test_what_the_package_offers_first_has_an_example_that_is_run():
    """Each name of `course_lib` itself: a statement of a lesson, a sheet or a test."""
    examples = loaded("examples")
    found = examples.examples()
    things = [getattr(course_lib, name) for name in course_lib.__all__]
    names = [name for name in map(examples.name_of, things) if name]
    assert len(names) > 20 and len(found) > 300
    assert [name for name in names if name not in found] == []
    assert found["course_lib.samplers.ddim"].where.startswith("lesson")


def test_nothing_is_loaded_from_elsewhere():
    for file in [SITE / "conf.py", *SITE.rglob("*.css"), *SITE.rglob("*.html")]:
        assert not re.search(r"https?://|//cdn", file.read_text(encoding="utf-8")), file.name


@pytest.mark.slow
def test_the_built_site(tmp_path):
    """Nothing from elsewhere, alternative texts, and links that lead to a file and an id."""
    pytest.importorskip("sphinx_book_theme")
    source, target = tmp_path / "source", tmp_path / "site"
    subprocess.run([sys.executable, SITE / "stage.py", source], check=True)
    command = [sys.executable, "-m", "sphinx", "-W", "-E", "-q", "-c", SITE, source, target]
    subprocess.run(command, check=True)
    pages = {file: file.read_text(encoding="utf-8") for file in target.rglob("*.html")}
    for file, text in pages.items():
        assert not LOADED.search(text) and not LINKED.search(text), file.name
        for image in re.findall(r"<img\b[^>]*>", text):
            assert re.search(r'alt="[^"]+"', image), (file.name, image[:200])
        for link in re.findall(r'<a\b[^>]*href="([^"]*)"', text):
            path, _, name = link.partition("#")
            if re.match(r"\w+:", link) or not link:
                continue
            page = (file.parent / path).resolve() if path else file
            assert page.exists(), (file.name, link)
            if name and page in pages:
                assert f'id="{name}"' in pages[page], (file.name, link)
