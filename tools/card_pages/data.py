"""A data file's page, in the sections of Gebru et al. 2021."""
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from .entries import Course
from .files import look_up, read_csv, read_header, read_tensors
from .text import FEW, SHORT, command_note, footer, provenance, shown, table


def composition(course: Course, name: str) -> list[str]:
    """What is in a file: arrays, tensors, or columns."""
    file = course.files[name]
    if file.suffix == ".npz":
        return of_arrays(file, course.entry(name).get("labels", {}))
    if file.suffix == ".safetensors":
        header, digest = read_header(file)
        tensors = read_tensors(file, bool(header))
        rows = [{"tensor": key, "type": str(t.dtype).removeprefix("torch."),
                 "shape": " x ".join(map(str, t.shape)),
                 "values": t.tolist() if t.numel() <= FEW else ""} for key, t in tensors.items()]
        said = [f"The header's note: {header['about']}", ""] if "about" in header else []
        return [*table(rows), *said, f"Digest of tensors and header: `{digest}`", ""]
    if file.suffix == ".csv":
        return of_columns(read_csv(file), course.entry(name).get("columns", {}))
    return [f"{file.stat().st_size:,} bytes", ""]


def of_arrays(file: Path, labels: dict[str, list[str]]) -> list[str]:
    """Arrays with their types and shapes; how often each of few values occurs."""
    with np.load(file) as arrays:
        rows = [{"array": key, "type": str(a.dtype), "shape": " x ".join(map(str, a.shape)),
                 "values": counted(a, labels.get(key))} for key, a in arrays.items()]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    size = f"{file.stat().st_size:,} bytes"
    return [*table(rows), f"{size}; SHA-256 of the file: `{digest}`", ""]


def counted(array: np.ndarray, labels: list[str] | None) -> str:
    """How often each value of a list occurs, where they are few."""
    if array.ndim != 1:
        return ""
    counts = Counter(array.tolist())
    if len(counts) > FEW or len(counts) == len(array):
        return f"{len(counts):,} different"
    named = lambda value: labels[value] if labels else shown(value)
    return "; ".join(f"{named(value)}: {counts[value]:,}" for value in sorted(counts))


def of_columns(rows: list[dict], meanings: dict[str, str]) -> list[str]:
    """Columns with their ranges; the whole table where it is short."""
    found = []
    for key in rows[0] if rows else []:
        given = [row[key] for row in rows if row[key] != ""]
        numbers = [v for v in given if isinstance(v, (int, float))]
        kinds = list(dict.fromkeys(map(shown, given)))
        values = f"{len(kinds)} different" if len(kinds) > FEW else "; ".join(kinds)
        if len(numbers) == len(given) > 0:
            values = f"{shown(min(numbers))} to {shown(max(numbers))}"
        row = {"column": f"`{key}`", "values": values, "empty": len(rows) - len(given)}
        found.append(row | {"means": meanings.get(key, "as the command's script says")})
    lines = [f"{len(rows):,} rows.", "", *table(found)]
    return lines + (table(rows) if len(rows) <= SHORT else [])


def data_sheet(course: Course, name: str) -> str:
    """The page of a data file."""
    entry, file = course.entry(name), course.files[name]
    header = read_header(file)[0] if file.suffix == ".safetensors" else {}
    command = entry.get("made_by") or look_up(header, "command")
    lines = [
        f"# Data sheet: {name}", "", course.said["text"]["made_by_data"], "", entry["what"], "",
        "## Motivation", "", entry["motivation"], "",
        "## Composition", "", *composition(course, name), f"People: {entry['people']}", "",
        "## Collection process", "", entry["collection"], "",
        f"Made by {command_note(course, command)}.", "", *provenance(course, name),
        "## Preprocessing, cleaning, labelling", "", entry["preprocessing"], "",
        "## Uses", "", entry["uses"], "", f"Not for: {entry['not_for']}", "",
        "## Distribution", "", course.licence_of(name), "",
        "## Maintenance", "", course.said["text"]["maintenance"], "",
        *footer(course, name),
    ]
    return "\n".join(lines)
