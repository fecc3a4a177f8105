"""A checkpoint's page, in the sections of Mitchell et al. 2019."""
from collections.abc import Iterator
from pathlib import Path

from .entries import MISSING, Course
from .files import (
    about_of,
    look_up,
    measures_of,
    read_csv,
    read_header,
    read_metadata,
    read_tensors,
)
from .text import SHORT, as_code, command_note, flat, footer, link, provenance, shown, table


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
