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
import csv
import hashlib
import json
import math
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from course_lib.lab import storage  # noqa: E402

CARDS = ROOT / "docs/cards"
ENTRIES = Path(__file__).with_suffix(".toml")
MISSING = "not recorded"
NO_ASSETS = ("LICENSES.md", "__init__.py")
SHORT = 24                                                  # rows of a table that is shown whole
FEW = 12                                                    # values that are counted or listed

# ---- what a person says

MODEL = {"what", "trained_on", "intended", "out_of_scope", "factors", "evaluation_data", "ethics",
         "caveats"}
MODEL_MORE = {"like", "expected", "made_with", "judged_with", "tables", "n_covers", "terms",
              "load", "licence", "developed_by", "made_by"}
DATA = {"what", "motivation", "collection", "people", "preprocessing", "uses", "not_for"}
DATA_MORE = {"like", "expected", "made_from", "made_by", "labels", "licence", "columns"}
PROSE = (MODEL | DATA) - {"trained_on"}
FIELDS = {"model": (MODEL, MODEL_MORE), "data": (DATA, DATA_MORE)}
# numbers that are names: code, addresses, years, licences, data sets, sections
NAMES = re.compile(
    r"`[^`]*`|https?://\S+|\b(19|20)\d\d\b|CC0 1\.0|CC BY(-SA)? 3\.0( US)?|CIFAR-10|LPIPS 0\.1|"
    r"Apache 2\.0|BSD [23]-Clause|\b[Ll]essons? \d( (and|to) \d)?|[Ss]ections? \d\.\d+|"
    r"\b(fp|bf|int)\d+\b|3-D|1-NNA|\[-1, 1\]|80 Million Tiny Images|all-MiniLM-L6-v2"
)
LICENCES = re.compile(
    r"CC BY-SA 3\.0|CC BY 3\.0 US|CC BY 3\.0|CC0 1\.0|Apache 2\.0|BSD 2-Clause|BSD 3-Clause|MIT"
)


class CardError(Exception):
    """What a person must mend, a sentence each."""

    def __init__(self, sentences: list[str]):
        super().__init__("\n".join(sentences))
        self.sentences = sentences


@dataclass
class Course:
    """The files, and what cards.toml and LICENSES.md say of them."""
    assets: Path = storage.ASSETS
    toml: Path = ENTRIES
    root: Path = ROOT
    said: dict = field(init=False)

    def __post_init__(self):
        self.said = tomllib.loads(self.toml.read_text(encoding="utf-8"))

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every asset by its name."""
        found = [f for f in sorted(self.assets.rglob("*")) if f.is_file()]
        return {f.name: f for f in found
                if f.name not in NO_ASSETS and "__pycache__" not in f.parts}

    @cached_property
    def licences(self) -> dict[str, str]:
        """The licence column of LICENSES.md by file name."""
        text = (self.assets / "LICENSES.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", text, re.M)
        return {Path(name).name: licence.strip() for name, licence in rows}

    def kind(self, name: str) -> str:
        """"model" for a checkpoint, else "data"."""
        if name in self.files:
            return "model" if self.files[name].parent.name == "checkpoints" else "data"
        return "model" if Path(name).stem in self.said.get("model", {}) else "data"

    def entry(self, name: str) -> dict:
        """What cards.toml says of a file, its group's words included; {} if nothing."""
        kind = self.kind(name)
        key = Path(name).stem if kind == "model" else name
        own = self.said.get(kind, {}).get(key, {})
        return self.said.get("group", {}).get(own.get("like"), {}) | own

    def expected(self) -> list[str]:
        """Files that have an entry and are not there yet."""
        names = [f"{stem}.safetensors" for stem in self.said.get("model", {})]
        return [n for n in (*names, *self.said.get("data", {})) if n not in self.files]

    def upstream(self, name: str) -> list[str]:
        """The data and models that a file was made from, near ones first, each once."""
        found, queue = [], [name]
        while queue:
            entry = self.entry(queue.pop(0))
            for field_name in ("trained_on", "made_with", "made_from"):
                for other in entry.get(field_name, []):
                    if other not in found and other != name:
                        found.append(other)
                        queue.append(other)
        return found

    def licence_of(self, name: str) -> str:
        """The licence of a file or of data that is not shipped."""
        if name in self.said.get("source", {}):
            return self.said["source"][name]["licence"]
        return self.licences.get(name) or self.entry(name).get("licence", MISSING)

    def short_licence(self, name: str) -> str:
        """The licences' names, such as "CC0 1.0, CC BY 3.0"; of data not shipped all that is said.
        """
        text = self.licence_of(name)
        found = ", ".join(dict.fromkeys(LICENCES.findall(text)))
        return text if name in self.said.get("source", {}) else found or text

    def share_alike(self, name: str) -> list[str]:
        """What a file was made from that is under a share-alike licence."""
        return [other for other in self.upstream(name) if "-SA" in self.licence_of(other)]


def mistakes(course: Course) -> Iterator[str]:
    """What is wrong with cards.toml, a sentence each."""
    known = {*course.files, *course.expected(), *course.said.get("source", {})}
    for name in course.files:
        if not course.entry(name):
            kind = course.kind(name)
            key = Path(name).stem if kind == "model" else f'"{name}"'
            yield (f"{name} has no entry in {course.toml.name}: add [{kind}.{key}] with "
                   f"{', '.join(sorted(FIELDS[kind][0]))}")
    for name in [*course.files, *course.expected()]:
        if course.entry(name):
            yield from mistakes_of(course, name, known)
    yield from numbers_in_prose(course)


def mistakes_of(course: Course, name: str, known: set[str]) -> Iterator[str]:
    """What is wrong with the entry of a file."""
    entry, (needed, more) = course.entry(name), FIELDS[course.kind(name)]
    where = f"{course.toml.name}, {name}"
    if name not in course.files and not entry.get("expected"):
        yield (f"{where}: there is no such file; remove the entry, or say expected = true if it "
               "will come")
    for group in {entry.get("like")} - {None, *course.said.get("group", {})}:
        yield f"{where}: there is no group {group!r}"
    if needed - entry.keys():
        yield f"{where}: {', '.join(sorted(needed - entry.keys()))} must be said"
    if entry.keys() - needed - more:
        unknown = ", ".join(sorted(entry.keys() - needed - more))
        yield f"{where}: {unknown} is unknown; known are {', '.join(sorted(needed | more))}"
    for field_name in ("trained_on", "made_with", "made_from", "judged_with", "tables"):
        for other in entry.get(field_name, []):
            if other not in known:
                yield f"{where}: {field_name} names {other}, which is no asset and no source"


def numbers_in_prose(course: Course) -> Iterator[str]:
    """Numbers that a person typed: they belong to a header or a table."""
    for table in ("group", "model", "data", "source"):
        for name, entry in course.said.get(table, {}).items():
            for key, text in entry.items():
                is_prose = isinstance(text, str) and (key in PROSE or table == "source")
                found = re.search(r"\d[\d.,]*", NAMES.sub("", text)) if is_prose else None
                if found:
                    yield (f"{course.toml.name}, {table}.{name}, {key}: the number {found[0]!r} "
                           "is typed by hand; numbers come from a header or a table")


# ---- what a file says

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
NO_MEASURES = {"judged_by", "machine", "n", "training"}


def measures_of(about: dict) -> dict:
    """The numbers that were measured, by name."""
    metrics = about.get("metrics", {})
    own = {key: value for key, value in about.items() if key not in SETTINGS}
    kept = {key: value for key, value in metrics.items() if key not in NO_MEASURES}
    if isinstance(kept.get("seconds"), (int, float)):
        del kept["seconds"]                                 # the training's
    return own | kept


# ---- text

def shown(value: object) -> str:
    """A value as a cell of a table has it."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key} {shown(part)}" for key, part in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


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


def shortened(value: object) -> object:
    """Settings with long lists as their lengths."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    if isinstance(value, list) and len(value) > FEW:
        return f"{len(value)} entries"
    return value


def as_code(value: object) -> str:
    return f"`{json.dumps(shortened(value), ensure_ascii=False)}`".replace("|", "\\|")


def flat(row: dict, prefix: str = "") -> dict:
    """A row with the keys of the rows inside it, such as "right.head"."""
    found = {}
    for key, value in row.items():
        inside = isinstance(value, dict)
        found |= flat(value, f"{prefix}{key}.") if inside else {f"{prefix}{key}": value}
    return found


def table(rows: list[dict]) -> list[str]:
    """Rows as a Markdown table; what a row lacks is an empty cell."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    if not heads:
        return []
    for row in rows:
        cells = [shown(row[head]) if head in row else "" for head in heads]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def link(course: Course, name: str) -> str:
    """A file's page, or its name where there is no page."""
    if name in course.files:
        return f"[{name}]({name}.md)"
    return f"`{name}`" + (" (not there yet)" if name in course.expected() else "")


def command_note(course: Course, command: str | None) -> str:
    """The command, and a word where it names a script that is not there (any more)."""
    if command is None:
        return MISSING
    text = f"`{shown(command)}`"
    for word in re.findall(r"\S+\.(?:py|toml)\b", command):
        if not (course.root / word).exists():
            folders = ("tools", "benchmarks", "configs")
            found = [f for folder in folders
                     for f in (course.root / folder).rglob(Path(word).name)]
            now = f"now `{found[0].relative_to(course.root).as_posix()}`" if found else "gone"
            text += f" ({word} is {now})"
    return text


# ---- a model's page

def details(course: Course, name: str, header: dict, digest: str | None) -> dict[str, str]:
    """The rows of "Model details"; MISSING where the header does not say."""
    about, entry, file = about_of(header), course.entry(name), course.files[name]
    tensors = read_tensors(file, bool(header))
    kind, config = header.get("net", (header.get("part"), header.get("config")))
    spec = header.get("denoiser") or header.get("tokens")
    stem = file.stem
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})
    return {
        "what it is": entry["what"],
        "developed by": entry.get("developed_by", course.said["text"]["developed_by"]),
        "date of the training": shown(look_up(about, "date")),
        "network": MISSING if kind is None else f"`{kind}`, {as_code(config)}",
        **({"prediction": as_code(spec)} if spec else {}),
        "numbers": f"{sum(t.numel() for t in tensors.values()):,} in {len(tensors):,} tensors, "
                   f"{', '.join(dtypes)}",
        **({} if header else {"the file's own metadata": as_code(read_metadata(file))}),
        "belongs to weights": f"`{header['base']}`" if "base" in header else "no others",
        "loaded by": entry.get("load", f'`train.load("{stem}")`'),
        "file": f"`{file.relative_to(course.assets).as_posix()}`, {file.stat().st_size:,} bytes",
        "digest (SHA-256 of tensors and header)": f"`{digest}`" if digest else MISSING,
        "licence of the weights": course.licence_of(name),
    }


def training(course: Course, about: dict, command: str | None = None) -> dict[str, str]:
    """The rows of the training, from the header; MISSING where it does not say.

    command: what cards.toml says for a file without a header of ours
    """
    metrics, config = about.get("metrics", {}), about.get("config", {})
    seconds = look_up(about, "metrics.training.seconds", "metrics.seconds", "seconds")
    if seconds is None and look_up(config, "train.seconds", "seconds") is not None:
        asked = look_up(config, "train.seconds", "seconds")
        seconds = f"{MISSING}; the configuration asks for {shown(asked)}"
    others = ("options", "batch", "batch_size", "rates", "levels", "schedule")
    more = {key: about[key] for key in others if key in about}
    return {
        "data, as the header names them": shown(look_up(about, "data", "source")),
        "command": command_note(course, look_up(about, "command") or command),
        "configuration": as_code(config) if config else MISSING,
        **({"more settings": as_code(more)} if more else {}),
        "steps": shown(look_up(about, "steps", "config.train.steps", "config.steps")),
        "examples seen": shown(look_up(metrics, "training.examples")),
        "seconds": shown(seconds),
        "machine": MISSING if "judged_by" in metrics
        else shown(look_up(about, "machine", "metrics.machine")),
    }


def judging(course: Course, about: dict) -> dict[str, str]:
    """What computed the numbers: a command of its own, or the training's."""
    metrics = about.get("metrics", {})
    own = look_up(metrics, "judged_by")
    return {
        "computed by": command_note(course, own or look_up(about, "command")),
        "machine": shown(look_up(metrics, "machine") or look_up(about, "machine")),
    }


def quantities(course: Course, name: str, about: dict) -> list[str]:
    """"Quantitative analyses": every measured number, with its n."""
    measures, entry = measures_of(about), course.entry(name)
    settings = {k: v for k, v in measures.items() if is_setting(course, k, v)}
    lines = table([{"": key, "value": value} for key, value in judging(course, about).items()])
    if settings:
        lines += table([{"settings": f"`{key}`", "value": v} for key, v in settings.items()])
    alone = []
    for key, value in measures.items():
        covered = {key, "*"} & {*entry.get("n_covers", [])}
        n = look_up(about.get("metrics", {}), "n") if covered else None
        if isinstance(value, dict):
            n = value.get("n", n)
        rows = rows_of(value)
        if key in settings:
            continue
        if rows is None:
            alone.append({"measure": f"`{key}`", "value": value, "n": n})
        else:
            said = "" if any("n" in row for row in rows) else f", n {shown(n)}"
            lines += [f"**{key}**{said}", "", *table(rows)]
    if not measures:
        lines += [f"Measurements: {MISSING}.", ""]
    return lines + (table(alone) if alone else []) + shared_tables(course, name)


def is_setting(course: Course, key: str, value: object) -> bool:
    """Whether a number among the measurements is a choice of who measured."""
    return key in course.said["settings"] and not isinstance(value, dict)


def rows_of(value: object) -> list[dict] | None:
    """A measurement as rows; None for a number, a text, or a list of them."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return [flat(row) for row in value]
    if not isinstance(value, dict):
        return None
    if all(isinstance(row, dict) for row in value.values()):
        return [{"": key} | flat(row) for key, row in value.items()]
    return [{"": key, "value": part} for key, part in flat(value).items()]


def shared_tables(course: Course, name: str) -> list[str]:
    """The tables of the assets that measure this model: its rows, or a link where they are many."""
    lines = []
    for other in course.entry(name).get("tables", []):
        if other not in course.files:
            continue
        rows = read_csv(course.files[other])
        if rows and "model" in rows[0]:
            rows = [row for row in rows if row["model"] == Path(name).stem]
        lines += [f"**From {link(course, other)}**: {len(rows):,} rows", ""]
        lines += table(rows) if 0 < len(rows) <= SHORT else []
    return lines


def explained(course: Course, name: str, about: dict) -> list[str]:
    """"Metrics": what each measured name means, and which come with a spread."""
    terms = course.said["terms"] | course.entry(name).get("terms", {})
    measures = {k: v for k, v in measures_of(about).items() if not is_setting(course, k, v)}
    names = list(dict.fromkeys(names_in(measures, course.said["names_within"])))
    lines = [f"- `{key}`: {terms.get(key, 'not explained')}" for key in names]
    spread = [key for key in names if key in course.said["spreads"]]
    if names:
        said = ", ".join(f"`{key}`" for key in spread) or MISSING
        lines += ["", f"Spreads (standard error, interval or several draws): {said}."]
    return [*(lines or [f"Measures: {MISSING}."]), ""]


def names_in(value: object, names_within: list[str], inside: str = "") -> Iterator[str]:
    """The names of measurements in nested rows, without names of groups such as "head"."""
    if isinstance(value, list):
        for part in value:
            yield from names_in(part, names_within, inside)
    if isinstance(value, dict):
        for key, part in value.items():
            if inside not in names_within:
                yield key
            yield from names_in(part, names_within, key if inside not in names_within else "")


def provenance(course: Course, name: str) -> list[str]:
    """What the file was made from, with licences; what follows from a share-alike one."""
    sources, rows = course.said.get("source", {}), []
    made = "measured on" if name.endswith(".csv") else "made from"
    for other in course.upstream(name):
        licence, is_source = course.short_licence(other), other in sources
        rows.append({
            made: sources[other]["what"] if is_source else link(course, other),
            "licence": licence,
            "share-alike": "-SA" in licence,
        })
    people = [sources[other]["people"] for other in course.upstream(name) if other in sources]
    notes = [line for text in people for line in (text, "")]
    if course.share_alike(name) and made == "made from":
        notes += [course.said["text"]["share_alike"], ""]
    return table(rows) + notes


def model_card(course: Course, name: str) -> str:
    """The page of a checkpoint."""
    header, digest = read_header(course.files[name])
    about, entry = about_of(header), course.entry(name)
    facts = details(course, name, header, digest)
    listed = lambda rows: table([{"": key, "says": value} for key, value in rows.items()])
    judges = entry.get("judged_with", [])
    by = ("The judges' mistakes are in the numbers: "
          f"{', '.join(link(course, judge) for judge in judges)}.")
    lines = [
        f"# Model card: {name}", "", course.said["text"]["made_by_model"], "",
        "## Model details", "", *listed(facts),
        "## Intended use", "", entry["intended"], "", f"Out of scope: {entry['out_of_scope']}", "",
        "## Factors", "", entry["factors"], "",
        "## Metrics", "", *explained(course, name, about),
        "## Evaluation data", "", entry["evaluation_data"], "", *([by, ""] if judges else []),
        "## Training data", "", *listed(training(course, about, entry.get("made_by"))),
        *provenance(course, name),
        "## Quantitative analyses", "", *quantities(course, name, about),
        "## Ethical considerations", "", entry["ethics"], "",
        "## Caveats and recommendations", "", entry["caveats"], "",
        *footer(course, name),
    ]
    return "\n".join(lines)


def footer(course: Course, name: str) -> list[str]:
    """Links: what was made with this file, the index, the licences."""
    users = [other for other in course.files if name in course.upstream(other)]
    lines = [f"Made with it: {', '.join(link(course, u) for u in users) or 'nothing'}.", ""]
    up = "../" * len(CARDS.relative_to(ROOT).parts)
    return [*lines, f"[All cards](README.md) · [licences]({up}course_lib/assets/LICENSES.md)", ""]


# ---- the page of a data file

def read_csv(file: Path) -> list[dict]:
    with file.open(newline="", encoding="utf-8") as stream:
        return [{key: from_text(cell) for key, cell in row.items()}
                for row in csv.DictReader(stream)]


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


# ---- all pages

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
