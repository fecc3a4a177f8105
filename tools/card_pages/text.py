"""Values, tables and links as Markdown, and what all pages share."""
import json
import math
import re
from pathlib import Path

from .entries import MISSING, ROOT, Course

CARDS = ROOT / "docs/cards"
SHORT = 24                                                  # rows of a table that is shown whole
FEW = 12                                                    # values that are counted or listed


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


def footer(course: Course, name: str) -> list[str]:
    """Links: what was made with this file, the index, the licences."""
    users = [other for other in course.files if name in course.upstream(other)]
    lines = [f"Made with it: {', '.join(link(course, u) for u in users) or 'nothing'}.", ""]
    up = "../" * len(CARDS.relative_to(ROOT).parts)
    return [*lines, f"[All cards](README.md) · [licences]({up}course_lib/assets/LICENSES.md)", ""]
