"""What people say of the files of course_lib/assets: cards.toml and LICENSES.md, and what is wrong
with them.
"""
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from course_lib.lab import storage

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = ROOT / "tools/cards.toml"
MISSING = "not recorded"
NO_ASSETS = ("LICENSES.md", "__init__.py")

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
