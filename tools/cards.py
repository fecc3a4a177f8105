"""Model cards and data sheets: a page for each file of course_lib/assets, from the file itself.

    python tools/cards.py             writes docs/cards/, a page for each file and an index
    python tools/cards.py --check     says what is out of date; writes nothing; exit status 1 if
                                      anything is

Numbers come from the headers of checkpoints, from arrays and from tables, never from a person; what
no file knows (what it is for, its limits, who was asked) is in cards.toml. What nobody recorded is
called "not recorded". A file without an entry, and an entry without its file, are refused in one
sentence; an entry that says `expected = true` may wait for its file.

Sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting", and Gebru et al.
2021, "Datasheets for Datasets".
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from card_pages.data import data_sheet  # noqa: E402
from card_pages.entries import MISSING, CardError, Course, mistakes  # noqa: E402
from card_pages.model import model_card  # noqa: E402
from card_pages.text import CARDS, link, table  # noqa: E402

from course_lib.lab import storage  # noqa: E402


def index(course: Course, pages: dict[str, str]) -> str:
    """The list of all pages, and how much of each nobody recorded."""
    groups = {"model": [], "data": []}
    for name in course.files:
        made = [link(course, o) if o in course.files else o for o in course.upstream(name)]
        groups[course.kind(name)].append({
            "file": link(course, name),
            "what it is": course.entry(name)["what"],
            "made from, or measured on": ", ".join(made),
            "licence": course.short_licence(name),
            "licences of those": "; ".join(
                dict.fromkeys(course.short_licence(o) for o in course.upstream(name))),
            f'"{MISSING}"': without_preface(course, pages[name]).count(MISSING),
        })
    waiting = ", ".join(f"`{name}`" for name in course.expected())
    lines = ["# Cards", "", course.said["text"]["index"], "",
             "## Models", "", *table(groups["model"]), "## Data", "", *table(groups["data"])]
    lines += [f"Entries that wait for their files: {waiting}.", ""] if waiting else []
    return "\n".join(lines)


def without_preface(course: Course, page: str) -> str:
    """A page without the words that all pages begin with."""
    for key in ("made_by_model", "made_by_data"):
        page = page.replace(course.said["text"][key], "")
    return page


def make_pages(course: Course) -> dict[str, str]:
    """{file name: text} of all pages. Raises CardError with what must be mended first."""
    found = [*mistakes(course)]
    if found:
        raise CardError(found)
    write = {"model": model_card, "data": data_sheet}
    pages = {name: write[course.kind(name)](course, name) for name in course.files}
    named = {f"{name}.md": text for name, text in pages.items()}
    return {"README.md": index(course, pages)} | named


def out_of_date(course: Course, folder: Path) -> list[str]:
    """What is wrong with the pages in a folder, a sentence each."""
    remedy = "run `python tools/cards.py`"
    pages, there = make_pages(course), {file.name for file in folder.glob("*.md")}
    found = [f"{name} is of no asset (any more): {remedy}" for name in sorted(there - {*pages})]
    for name, text in pages.items():
        if name not in there:
            found.append(f"{name} is missing: {remedy}")
        elif (folder / name).read_text(encoding="utf-8") != text:
            found.append(f"{name} is out of date: {remedy}")
    return found


def write_pages(course: Course, folder: Path) -> int:
    """Write all pages, remove those of no asset; how many there are."""
    pages = make_pages(course)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        storage.write_text(folder / name, text)
    return len(pages)


def main(arguments: list[str] | None = None, course: Course | None = None,
         folder: Path = CARDS) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    course = course or Course()
    try:
        found = out_of_date(course, folder) if check else []
        done = "all cards are up to date" if check else f"{write_pages(course, folder)} pages"
    except CardError as error:
        found = error.sentences
    print("\n".join(found) if found else done)
    if course.expected():
        print("entries that wait for their files:", ", ".join(course.expected()))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
