"""What a file says of itself: headers of checkpoints, tensors, tables."""
import csv
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from course_lib.lab import storage

from .entries import CardError


def read_metadata(file: Path) -> dict[str, str]:
    """The texts in the head of a safetensors file, whoever wrote it."""
    try:
        with safe_open(file, framework="pt") as stored:
            return stored.metadata() or {}
    except SafetensorError as error:
        raise CardError([f"{file.name} is no whole safetensors file ({error})"]) from error


def read_header(file: Path) -> tuple[dict, str | None]:
    """(header, digest) of a safetensors file; ({}, None) of one that the course did not write."""
    metadata = read_metadata(file)
    if "course" not in metadata:
        return {}, None
    return json.loads(metadata["course"]), metadata.get("digest")


def read_tensors(file: Path, written_by_us: bool) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, after its digest was compared."""
    if not written_by_us:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    try:
        return storage.load_tensors(file)[0]
    except OSError as error:
        raise CardError([str(error).replace(str(file), file.name)]) from error


def about_of(header: dict) -> dict:
    """What a header says about the training; a sentence becomes its "note"."""
    about = header.get("about", {})
    own = {key: header[key] for key in ("command",) if key in header}
    return own | (about if isinstance(about, dict) else {"note": about})


def look_up(table: dict, *paths: str) -> object:
    """The first of these paths, such as "train.steps", that leads to a value; None if none does."""
    for path in paths:
        value: object = table
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and not isinstance(value, (dict, list)):
            return value
    return None


SETTINGS = {"data", "config", "command", "machine", "steps", "source", "licence", "metrics",
            "note", "batch", "batch_size", "rates", "levels", "schedule", "seed", "date", "base",
            "options"}
NO_MEASURES = {"judged_by", "machine", "timed_on", "n", "training"}


def measures_of(about: dict) -> dict:
    """The numbers that were measured, by name."""
    metrics = about.get("metrics", {})
    own = {key: value for key, value in about.items() if key not in SETTINGS}
    kept = {key: value for key, value in metrics.items() if key not in NO_MEASURES}
    if isinstance(kept.get("seconds"), (int, float)):
        del kept["seconds"]                                 # the training's
    return own | kept


def read_csv(file: Path) -> list[dict]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{key: from_text(cell) for key, cell in row.items()}
                for row in csv.DictReader(stream)]


def from_text(cell: str | None) -> object:
    """A cell of a CSV file: a number where it is one."""
    if cell is None:
        return ""                                           # of a row that is too short
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
