"""Captions of picture files, from a metadata.csv or from text files beside the pictures."""
import csv
import io
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


def read_captions(folder: Path, files: list[Path]) -> list[str] | None:
    """A caption for each file, from metadata.csv or from text files; None if there are neither."""
    table = folder / "metadata.csv"
    if table.is_file():
        captions, where = _read_table(table), "row in metadata.csv"
        keys = [_normal(file.relative_to(folder).as_posix()) for file in files]
        if strangers := captions.keys() - set(keys):
            raise ValueError(f"{table} names {len(strangers)} files that are not pictures of this "
                             f"folder: {some(sorted(strangers))}")
    else:
        paths = (path for parent in {file.parent for file in files} for path in visible(parent))
        texts = {path.with_suffix(""): path for path in paths if path.suffix.lower() == ".txt"}
        keys, where = [file.with_suffix("") for file in files], "text file beside them"
        captions = {key: _read_text(texts[key]).strip() for key in keys if key in texts}
        if not captions:
            return None
    if without := [file.name for file, key in zip(files, keys) if key not in captions]:
        raise ValueError(f"{len(without)} of {len(files)} pictures in {folder} have no {where}: "
                         f"{some(without)}")
    return [captions[key] for key in keys]


def _read_table(table: Path) -> dict[str, str]:
    """The captions of a metadata.csv, by file name."""
    rows = csv.DictReader(io.StringIO(_read_text(table), newline=""), restval="")
    columns = rows.fieldnames or []
    column = next((name for name in ("text", "caption") if name in columns), None)
    if "file_name" not in columns or column is None:
        raise ValueError(f"{table} needs the columns file_name, and text or caption; "
                         f"it has {', '.join(columns) or 'none'}")
    captions: dict[str, str] = {}
    for row in rows:
        name = _normal(row["file_name"])
        if name in captions:
            raise ValueError(f"{table} has more than one row for {name}")
        captions[name] = row[column].strip()
    return captions


def _normal(name: str) -> str:
    """One spelling of a path: forward slashes, no leading ./, composed accents."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name.strip().replace("\\", "/"))))


def _read_text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not in UTF-8: save it again in that encoding") from None


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def visible(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, sorted by name."""
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(paths, key=lambda path: path.name)
