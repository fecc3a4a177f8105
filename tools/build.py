"""Lessons -> notebooks, solved sheets -> solutions and exercises.

One way only: the .py files are what is edited.

    python tools/build.py
        build what is out of date (prose alone changed: the outputs are kept)
    python tools/build.py 01 --force
        build lesson 01 and run it, whatever the stamps say
    python tools/build.py --check
        say what is out of date, run nothing; exit status 1 if anything is
    python tools/build.py --repo owner/name
        set the public address first, wherever it stands

Every notebook is stamped with hashes of its code and of the course_lib files that its run loaded;
docstrings and comments of these files do not count.
"""
import argparse
import ast
import copy
import hashlib
import io
import os
import re
import sys
import tempfile
import time
import tokenize
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert.exporters import NotebookExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
COLAB = "https://colab.research.google.com"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LOADED = """import sys as _s
try:
    import resource as _r
    print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss * (1 if _s.platform == "darwin" else 1024))
except ImportError:
    print(0)
_m = [m for m in list(_s.modules.values()) if getattr(m, "__name__", "").startswith("course_lib")]
print(*sorted(m.__file__ for m in _m if getattr(m, "__file__", None)), sep="\\n")"""


# ---- from a .py file to a notebook without outputs

def address(root: Path = ROOT) -> str:
    """The public address of the repository, as pyproject.toml has it."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"][
        "Repository"
    ]


def set_address(repo: str, root: Path = ROOT) -> None:
    """owner/name, in pyproject.toml and in the two files that repeat it (notebooks get it when they
    are built).
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise SystemExit(f"REPO must look like owner/name; got {repo!r}")
    old, new = address(root).removeprefix("https://github.com/"), repo
    for name in ("pyproject.toml", "README.md", "CITATION.cff"):
        file = root / name
        file.write_text(
            file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8", newline="\n"
        )


def read_source(file: Path, root: Path = ROOT) -> NotebookNode:
    """The notebook that a lesson or sheet describes: set-up cell and badge filled in, ids and
    metadata made stable.
    """
    repository, stem = address(root), file.stem.removesuffix("_exercises")
    folder = "exercises" if file.stem.endswith("_exercises") else "notebooks"
    on_colab = repository.replace("https://github.com", f"{COLAB}/github")
    colab = f"{on_colab}/blob/main/{folder}/{stem}.ipynb"
    fill = {
        "{{setup}}": (root / "tools/setup_cell.py").read_text(encoding="utf-8").strip(),
        "{{address}}": repository,
        "{{badge}}": f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({colab})",
    }
    notebook = jupytext.read(file)
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python")
    )
    notebook.nbformat = 4
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        for mark, text in fill.items():
            cell.source = cell.source.replace(mark, text)
        cell.id = f"{re.sub('[^a-zA-Z0-9]', '-', stem)}-{number:03d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode(_grading(tags) | ({"tags": tags} if tags else {}))
    return notebook


def _grading(tags: list[str]) -> dict:
    """nbgrader's metadata, from a tag "answer:1.1" (the reader's cell) or "check:1.1"
    (the graded cell).
    """
    for tag in tags:
        kind, _, name = tag.partition(":")
        if kind in ("answer", "check"):
            from course_lib.checks import question
            graded = {"points": question(name).points} if kind == "check" else {}
            return {
                "nbgrader": {
                    "grade": kind == "check",
                    "grade_id": f"{kind}-{name.replace('.', '-')}",
                    "locked": kind == "check",
                    "solution": kind == "answer",
                    "task": False,
                    "schema_version": 3,
                }
                | graded
            }
    return {}


def strip(notebook: NotebookNode) -> NotebookNode:
    """A solved sheet without its solutions, hidden tests and outputs."""
    config = Config()
    config.NotebookExporter.preprocessors = [
        "nbconvert.preprocessors.TagRemovePreprocessor",
        "nbgrader.preprocessors.ClearSolutions",
        "nbgrader.preprocessors.ClearHiddenTests",
        "nbconvert.preprocessors.ClearOutputPreprocessor",
    ]
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_cell_tags = {"solution"}
    config.ClearSolutions.enforce_metadata = config.ClearHiddenTests.enforce_metadata = False
    config.ClearSolutions.code_stub = {"python": "# YOUR CODE HERE\nraise NotImplementedError"}
    text, _ = NotebookExporter(config=config).from_notebook_node(copy.deepcopy(notebook))
    stripped = nbformat.reads(text, 4)
    stripped.metadata = copy.deepcopy(notebook.metadata)
    return stripped


# ---- running and stamping

def execute(notebook: NotebookNode, folder: Path, strict: bool) -> tuple[list[str], str]:
    """Run a notebook in place, as a student would; returns the course_lib files that the run
    loaded, and what it cost.
    """
    start = time.monotonic()
    notebook.cells.append(nbformat.v4.new_code_cell(LOADED))
    with tempfile.TemporaryDirectory() as runs:
        environment = os.environ | {
            "COURSE_STATIC": "1",
            "COURSE_RUNS": runs,
            "COURSE_STRICT": "1" if strict else "0",
            "PYTHONHASHSEED": "0",
        }
        NotebookClient(
            notebook,
            timeout=900,
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        ).execute(env=environment)
    memory, *loaded = notebook.cells.pop().outputs[0]["text"].splitlines()
    cost = f"{time.monotonic() - start:.0f} s, peak memory {int(memory) / 1e9:.1f} GB"
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        _last_words(cell)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = NotebookNode(name="python")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get(
                "name"
            ) == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                raise SystemExit(
                    f"{cell.id} writes to stderr or leaves a widget:\n{output.get('text', '')}"
                )
            if output.output_type in ("display_data", "execute_result"):
                if {"image/png", "image/jpeg"} & output["data"].keys():
                    output["data"].pop("text/plain", None)
    return sorted(Path(file).resolve().relative_to(ROOT).as_posix() for file in loaded), cost


def _last_words(cell: NotebookNode) -> None:
    """Of a progress bar that overwrote itself, keep what stood there in the end."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            output.text = re.sub(r"[^\n]*\r", "", output.text)
    if "outputs" in cell:
        cell.outputs = [o for o in cell.outputs if o.output_type != "stream" or o.text.strip()]


def digest(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def code_digest(notebook: NotebookNode) -> str:
    """A hash of what is run: every code cell but the set-up (which holds the address)."""
    return digest(
        "\0".join(
            cell.source
            for cell in notebook.cells
            if cell.cell_type == "code" and "setup" not in cell.metadata.get("tags", [])
        )
    )


def file_digests(names: list[str], root: Path = ROOT) -> dict[str, str]:
    """A hash of each file's statements: a docstring or a comment changes no notebook."""
    return {
        name: digest(statements((root / name).read_text("utf-8")))
        if (root / name).exists()
        else "gone"
        for name in names
    }


def statements(source: str) -> str:
    """The lines of a Python file without docstrings, comments and blank lines."""
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            text = node.body[0]
            before = lines[text.lineno - 1][:text.col_offset]
            lines[text.lineno - 1:text.end_lineno] = [
                before, *[""] * (text.end_lineno - text.lineno)
            ]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def stale(file: Path, target: Path, root: Path = ROOT) -> tuple[str, bool]:
    """(why the built notebook is out of date, or "", and whether it must be run again)."""
    if not target.exists():
        return "it has never been built", True
    built, source = nbformat.read(target, 4), read_source(file, root)
    stamp = built.metadata.get("course", {})
    if not stamp.get("modules") or code_digest(source) != stamp.get("code"):
        return f"the code in {file.name} changed", True
    changed = [
        name
        for name, value in file_digests(list(stamp["modules"]), root).items()
        if value != stamp["modules"][name]
    ]
    if changed:
        return f"{', '.join(changed)} changed", True
    plain = lambda notebook: [(c.id, c.cell_type, c.source, c.metadata) for c in notebook.cells]
    return (
        ("", False)
        if plain(built) == plain(source)
        else (f"text in {file.name} (or in the notebook) changed", False)
    )


# ---- the whole course

def targets(
    root: Path = ROOT, only: list[str] | None = None
) -> list[tuple[Path, Path, Path | None]]:
    """(source, built notebook, stripped sheet or None) for every lesson and sheet."""
    found = []
    for file in sorted((root / "lessons").glob("[0-9]*.py")):
        if only and not any(file.name.startswith(prefix) for prefix in only):
            continue
        stem, sheet = file.stem.removesuffix("_exercises"), file.stem.endswith("_exercises")
        found.append(
            (
                file,
                root / ("solutions" if sheet else "notebooks") / f"{stem}.ipynb",
                root / f"exercises/{stem}.ipynb" if sheet else None,
            )
        )
    return found


def write(notebook: NotebookNode, file: Path) -> None:
    nbformat.validate(notebook)
    file.parent.mkdir(exist_ok=True)
    text = nbformat.writes(notebook, 4, sort_keys=True, indent=1, ensure_ascii=False)
    file.write_text(text.rstrip("\n") + "\n", encoding="utf-8", newline="\n")


def build(
    file: Path,
    target: Path,
    sheet: Path | None,
    run: bool = True,
    force: bool = False,
    root: Path = ROOT,
) -> str:
    """Build one notebook (and its stripped sheet); returns what was done, in a few words."""
    why, rerun = stale(file, target, root)
    notebook, done = read_source(file, root), "only its text"
    target.parent.mkdir(exist_ok=True)
    if not run:
        done = "without running it"
    elif rerun or force:
        modules, cost = execute(notebook, target.parent, strict=sheet is not None)
        notebook.metadata["course"] = {
            "code": code_digest(notebook),
            "modules": file_digests(modules, root),
        }
        done = f"by running it, {cost}"
    elif why:
        built = nbformat.read(target, 4)
        outputs = iter(
            [(c.outputs, c.execution_count) for c in built.cells if c.cell_type == "code"]
        )
        for cell in (c for c in notebook.cells if c.cell_type == "code"):
            cell.outputs, cell.execution_count = next(outputs)
        notebook.metadata["course"] = built.metadata["course"]
    elif (
        sheet is None
        or sheet.exists()
        and nbformat.read(sheet, 4) == strip(read_source(file, root))
    ):
        return "up to date"
    else:
        notebook = nbformat.read(target, 4)
    write(notebook, target)
    if sheet is not None:
        write(strip(read_source(file, root)), sheet)
    return f"built {done}" + (f" ({why})" if why else "")


def validate_lesson(lesson: str, root: Path = ROOT) -> str:
    """The lesson's prefix. Raises SystemExit, and says which lessons there are, for another."""
    there = sorted({file.name[:2] for file in (root / "lessons").glob("[0-9]*.py")})
    if lesson[:2] not in there or not list((root / "lessons").glob(f"{lesson}*.py")):
        raise SystemExit(f"there is no lesson {lesson}: there are {', '.join(there)}")
    return lesson


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("lessons", nargs="*", help="prefixes such as 01; all when none is given")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--force", action="store_true")
    parser.add_argument(
        "--no-run", action="store_true", help="convert only: byte for byte reproducible"
    )
    parser.add_argument("--repo", default="")
    args = parser.parse_args()
    if args.repo:
        set_address(args.repo)
    found = targets(only=[validate_lesson(lesson) for lesson in args.lessons])
    if args.check:
        problems = [
            f"{target.relative_to(ROOT)}: {why}"
            for file, target, _ in found
            if (why := stale(file, target)[0])
        ]
        problems += [
            f"{sheet.relative_to(ROOT)}: differs from its solved sheet"
            for file, _, sheet in found
            if sheet and (not sheet.exists() or nbformat.read(sheet, 4) != strip(read_source(file)))
        ]
        print(
            "\n".join(problems) + "\nout of date: run `make build`"
            if problems
            else f"{len(found)} notebooks are up to date"
        )
        sys.exit(bool(problems))
    for file, target, sheet in found:
        print(
            (
                f"{target.relative_to(ROOT)}: "
                f"{build(file, target, sheet, run=not args.no_run, force=args.force)}"
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
