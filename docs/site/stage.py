"""Collect the pages of the site in one folder, from which Sphinx builds it.

    python docs/site/stage.py build/site-src

Nothing is run: built notebooks, sheets without outputs, cards and the capstone are copied, links
that start a notebook are put in, and the glossary is made from the lessons' tables of terms.
"""
import base64
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BADGE = re.compile(r"^\[!\[Open in Colab\].*$", re.M)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
PROJECT = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
TABLE = re.compile(r"^\| term \| in one line \|\n\|[- |]+\|\n((?:\|.*(?:\n|$))+)", re.M)


def address() -> str:
    """The public address of the repository, as pyproject.toml has it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["urls"]["Repository"]


def lessons() -> list[Path]:
    """The built notebooks, in their order."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def read(file: Path) -> dict:
    """A notebook, whose sources are strings."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def texts(file: Path) -> str:
    """All text cells of a notebook."""
    cells = read(file)["cells"]
    return "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")


@functools.cache
def formulas() -> dict[tuple[str, str], str]:
    """(lesson, number) of each formula -> the page that holds it."""
    return {
        number: f"notebooks/{file.stem}"
        for file in lessons()
        for number in re.findall(r"\\tag\{(\d+)\.(\d+)\}", texts(file))
    }


# ---- notebooks

def launch(path: str) -> str:
    """A line of links that start the notebook."""
    repository = address().removeprefix("https://github.com/")
    file = f"github/{repository}/blob/main/{path}"
    kaggle = f"https://kaggle.com/kernels/welcome?src={address()}/blob/main/{path}"
    links = {
        "Colab": f"https://colab.research.google.com/{file}",
        "Binder": f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{path}",
        "Kaggle": kaggle,
        "GitHub": f"{address()}/blob/main/{path}",
    }
    return "Open in " + " · ".join(f"[{name}]({link})" for name, link in links.items())


def notebook_page(file: Path) -> dict:
    """A notebook as a page: links in place of the badge, the set-up cell folded."""
    notebook = read(file)
    line = launch(file.relative_to(ROOT).as_posix())
    for k, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            cell["source"] = BADGE.sub(line, cell["source"])
            if k > 0:                                   # one title a page; parts are sections
                cell["source"] = re.sub(r"^# (?=Part )", "## ", cell["source"], flags=re.M)
            cell["source"] = re.sub(
                r"`(exercises|notebooks)/(0\d_\w+\.ipynb)`", r"[\1/\2](../\1/\2)", cell["source"]
            )
        tags = cell["metadata"].get("tags", [])
        if "setup" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-cell"]
    return notebook


def alternatives(file: Path) -> dict[str, str]:
    """The digest of each picture -> its alternative text."""
    found, cells = {}, read(file)["cells"]
    heading = ""
    for k, cell in enumerate(cells):
        heads = re.findall(r"^#+ (.*)$", cell["source"], re.M)
        if cell["cell_type"] == "markdown" and heads:
            heading = heads[-1]
        following = cells[k + 1]["source"] if k + 1 < len(cells) else ""
        for output in cell.get("outputs", []):
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    data = base64.b64decode("".join(output["data"][kind]))
                    alt = output.get("metadata", {}).get(kind, {}).get("alt")
                    alt = alt or _said(heading, following)
                    found[hashlib.sha256(data).hexdigest()] = alt
    return found


def _said(heading: str, following: str) -> str:
    """An alternative text from the heading before a picture and the sentence after it."""
    match = re.match(r"\*\*What [^*]+\*\*\s*(.+?[.:])(\s|$)", following)
    words = f"Figure of section {heading}" + (f": {match[1]}" if match else "")
    return re.sub(r"[$*`\\]", "", words)


# ---- the glossary

def rows(file: Path) -> list[tuple[str, str]]:
    """(terms, meaning) of each row of a lesson's tables of terms."""
    found = []
    for table in TABLE.findall(texts(file)):
        for line in table.strip().splitlines():
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"), maxsplit=1)
            found.append((cells[0].strip(), cells[1].strip()))
    return found


def split_terms(cell: str) -> list[str]:
    """The terms that one cell lists; terms.toml spells out those that share a word."""
    spelled = tomllib.loads((HERE / "terms.toml").read_text(encoding="utf-8"))
    if cell in spelled:
        return spelled[cell]
    cell = re.sub(r"\s*\((section )?\d[\d.]*\)", "", cell).replace("$", "")
    return [term.strip() for term in re.split(r"[,;:] ", cell)]


def glossary() -> dict[str, list[str]]:
    """Each term, once -> what each lesson says of it, in Markdown."""
    found = {}
    for file in lessons():
        link = f"[lesson {int(file.stem[:2])}](notebooks/{file.name})"
        for cell, meaning in rows(file):
            terms = split_terms(cell)
            said = f"*{cell}*: {meaning}" if len(terms) > 1 else meaning
            for term in terms:
                found.setdefault(term, []).append(f"{said} ({link})")
    return found


def glossary_page() -> str:
    """The page, in MyST."""
    lines = []
    for term, meanings in glossary().items():
        lines.append(term)
        lines += [f"  - {text}" if len(meanings) > 1 else f"  {text}" for text in meanings]
        lines.append("")
    terms = "\n".join(lines)
    text = (HERE / "glossary.md").read_text(encoding="utf-8")
    return text.replace("{{terms}}", terms)


# ---- everything

def stage(target: Path) -> None:
    """Fill the folder `target`, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(HERE, target, ignore=shutil.ignore_patterns("*.py", "*.toml", "__pycache__"))
    (target / "glossary.md").write_text(glossary_page(), encoding="utf-8")
    for folder in ("notebooks", "exercises", "docs/capstone"):
        (target / folder).mkdir(parents=True)
        for file in (ROOT / folder).glob("*.ipynb"):
            page = json.dumps(notebook_page(file), ensure_ascii=False)
            (target / folder / file.name).write_text(page, encoding="utf-8")
    stage_cards(target)
    for file in pages():
        (target / file.parent).mkdir(parents=True, exist_ok=True)
        (target / file).write_text(text_page(file, target), encoding="utf-8")
    (target / "assets").mkdir()
    shutil.copy(ROOT / "assets/nouns.png", target / "assets")


def pages() -> list[Path]:
    """The pages of text, relative to the project, which keep their places in the site."""
    folders = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/instructors/*.md")]
    files = [*folders, *(ROOT / name for name in PROJECT)]
    return sorted(file.relative_to(ROOT) for file in files if file.exists())


def text_page(file: Path, target: Path) -> str:
    """A page whose links to files that are no pages lead to the repository."""
    here = set(pages())

    def lead(match: re.Match) -> str:
        link, anchor = match[1], match[2] or ""
        path = Path(os.path.normpath(file.parent / link))
        known = path in here or (target / path).is_file()
        if re.match(r"\w+:", link) or known:
            return match[0]
        return f"]({address()}/blob/main/{path.as_posix()}{anchor})"
    return LINK.sub(lead, (ROOT / file).read_text(encoding="utf-8"))


def stage_cards(target: Path) -> None:
    """The cards, listed in the table of contents, and the page of licences that they link to."""
    (target / "docs/cards").mkdir()
    for file in (ROOT / "docs/cards").glob("*.md"):
        text = file.read_text(encoding="utf-8")
        text = text.replace("../../course_lib/assets/LICENSES.md", "../licences.md")
        if file.name == "README.md":
            text += "\n```{toctree}\n:hidden:\n:glob:\n\n*.csv\n*.npz\n*.safetensors\n```\n"
        (target / "docs/cards" / file.name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "course_lib/assets/LICENSES.md", target / "docs/licences.md")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
