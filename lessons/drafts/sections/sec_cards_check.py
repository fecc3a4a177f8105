"""Draft of the check of question 7.N, for course_lib/checks: judge_card(model_card).

Names to import there from .common: Case, Question, Wrong, as_function, between, reject_first,
reject_if, reject_none.
"""
import copy
import re
from collections.abc import Callable

from course_lib.checks.common import (
    Case,
    Question,
    as_function,
    between,
    reject_first,
    reject_if,
    reject_none,
)

SECTIONS = ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
            "Training data", "Quantitative analyses", "Ethical considerations",
            "Caveats and recommendations")
TEXTS = {
    "intended use": "to be looked at", "factors": "the kind of cloud",
    "metrics": "chosen by a committee", "evaluation data": "clouds over the sea",
    "ethical considerations": "clouds were not asked",
    "caveats and recommendations": "rain is missing",
}
MISSING = "not recorded"
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def drawn_header() -> tuple[dict, dict]:
    """A header and what was said, with new numbers each time; one measure is 0."""
    # two digits of such a value are off by more than three digits may be
    a, b, c = (between(10, 48, 3).int().double() / 100 + between(0.0036, 0.0046, 3)).tolist()
    e = between(0.6, 0.9).item()                            # in per cent above all values
    n, steps, seconds = between(1000, 9000, 3).int().tolist()
    metrics = {"sharpness": round(a, 5), "near_copies": 0.0, "wetness": [round(b, 5), e / 100],
               "roundness": round(c, 5), "n": n, "judged_by": "python judge.py"}
    about = {"data": "photographs of clouds", "command": "python paint.py", "steps": steps,
             "seconds": seconds, "metrics": metrics}
    return about, dict(TEXTS)


def card_case(f: Callable, about: dict, said: dict) -> Case:
    """The reader's card of a header, by sections."""
    given = copy.deepcopy((about, said))
    card = as_function(f)(*given)
    reject_none(card)
    c = Case(about=about, said=said, card=card, kind=type(card).__name__)
    c.changed = given != (about, said)
    if isinstance(card, str):
        describe(c)
    return c


def describe(c: Case) -> None:
    """Sections, lines of measures and numbers of a card."""
    c.heads = [head.strip() for head in re.findall(r"^## +(.+)$", c.card, re.M)]
    c.missing_head = next((s for s in SECTIONS if s not in c.heads), "")
    parts = re.split(r"^## +(.+)$", c.card, flags=re.M)
    c.under = {head.strip(): body for head, body in zip(parts[1::2], parts[2::2])}
    metrics = c.about.get("metrics", {})
    c.n = metrics.get("n")
    c.measures = {k: v for k, v in metrics.items() if k not in ("n", "judged_by")}
    lines = c.under.get("Quantitative analyses", "").splitlines()
    c.lines = {name: next((line for line in lines if name in line), "") for name in c.measures}
    words = [c.about.get("data"), c.about.get("command"), metrics.get("judged_by")]
    rest = c.card
    for text in [*filter(None, words), *c.said.values()]:
        rest = rest.replace(text, "")
    known = [*flat(metrics), *flat({k: c.about.get(k) for k in ("steps", "seconds")})]
    c.strange = next((m for m in NUMBER.findall(rest)
                      if not any(near(number(m), v) for v in known)), "")


def flat(table: dict) -> list[float]:
    """All numbers of a table."""
    found = []
    for value in table.values():
        found += [v for v in (value if isinstance(value, list) else [value])
                  if isinstance(v, (int, float))]
    return found


def number(text: str) -> float:
    return float(text.replace(",", ""))


def near(got: float, wanted: float) -> bool:
    """The same to three digits, also in per cent."""
    return any(abs(got - w) <= 0.006 * abs(w) for w in (wanted, 100 * wanted))


def first_measure(c: Case, wrong: Callable) -> str:
    """The first measure for which wrong(c, name, line, value) holds; "" if for none."""
    c.name = next((k for k, v in c.measures.items() if wrong(c, k, c.lines[k], v)), "")
    return c.name


def head_of(value: object) -> float:
    return value[0] if isinstance(value, list) else value


def has(line: str, value: float) -> bool:
    return any(near(number(m), value) for m in NUMBER.findall(line))


def section_without(c: Case) -> bool:
    """A section whose text is missing from under its heading."""
    c.section = next((s for s in SECTIONS if s.lower() in c.said
                      and c.said[s.lower()] not in c.under[s]), "")
    return bool(c.section)


def section_unsaid(c: Case) -> bool:
    """A section that nobody spoke about, and that does not say so."""
    c.section = next((s for s in SECTIONS if s.lower() in TEXTS and s.lower() not in c.said
                      and MISSING not in c.under[s]), "")
    return bool(c.section)


def detail_without(c: Case) -> bool:
    """A known detail that is not in its section."""
    metrics, details = c.about.get("metrics", {}), c.under["Model details"]
    words = {"command": c.about.get("command"), "judged_by": metrics.get("judged_by")}
    c.name = next((k for k, v in words.items() if v and v not in details), "")
    sizes = {k: c.about.get(k) for k in ("steps", "seconds")}
    c.name = c.name or next((k for k, v in sizes.items() if v and not has(details, v)), "")
    return bool(c.name)


def detail_unsaid(c: Case) -> bool:
    """A detail that the header lacks, and that the card does not call so."""
    details = c.under["Model details"]
    known = {**c.about, **c.about.get("metrics", {})}
    lacking = [k for k in ("command", "steps", "seconds", "judged_by") if known.get(k) is None]
    c.name = ", ".join(lacking)
    return len(lacking) > details.count(MISSING)


SUSPECTS = {
    "your function changes the header it was given (`pop`?): read it, and leave it as it is":
        lambda c: c.changed,
    "the card is a text; got {c.kind}":
        lambda c: not isinstance(c.card, str),
    "the section {c.missing_head!r} is missing: its heading is a line of its own, "
    "`## {c.missing_head}`":
        lambda c: c.missing_head,
    "the sections stand in another order than in Mitchell et al. 2019":
        lambda c: [h for h in c.heads if h in SECTIONS] != list(SECTIONS),
    "`None` stands in the card: a reader would not know what that means; say `not recorded`":
        lambda c: "None" in c.card,
    "{c.name} is 0, which is a measurement, and it is left out or called `not recorded`: `or` and "
    "`if value` take 0 for nothing":
        lambda c: first_measure(c, lambda c, k, line, v: v == 0 and not re.search(
            r"(?<![\d.,])0(\.0+)?(?![\d.]*[1-9])", line.split("n =")[0])),
    "{c.name} has no line under Quantitative analyses":
        lambda c: first_measure(c, lambda c, k, line, v: not line),
    "of {c.name} another number is given than the header's, or one of fewer than three digits":
        lambda c: first_measure(c, lambda c, k, line, v: v != 0 and not has(line, head_of(v))),
    "the standard error of {c.name} is in the header and not in the card":
        lambda c: first_measure(c, lambda c, k, line, v: isinstance(v, list)
                                and not has(line, v[1])),
    "{c.name} stands there without its n: what it is worth depends on it":
        lambda c: first_measure(c, lambda c, k, line, v: c.n is not None and not has(line, c.n)),
    "the header has no n, and the line of {c.name} does not say that: `n = not recorded`":
        lambda c: first_measure(c, lambda c, k, line, v: c.n is None and MISSING not in line),
    "under {c.section!r} the text that was said is missing":
        section_without,
    "nobody said anything for {c.section!r}, and the card does not say that: `not recorded`":
        section_unsaid,
    "{c.name} is in the header and not under Model details":
        detail_without,
    "the header does not say {c.name}, and Model details does not say that: `not recorded`":
        detail_unsaid,
    "the data that the header names are not under Training data":
        lambda c: c.about.get("data") and c.about["data"] not in c.under["Training data"],
    "the header names no data, and Training data does not say that: `not recorded`":
        lambda c: not c.about.get("data") and MISSING not in c.under["Training data"],
    "something is called `not recorded` though all of it is known":
        lambda c: c.whole and MISSING in c.card,
    "the number {c.strange} stands in the card, and neither in the header nor in what was said":
        lambda c: c.strange,
}


def without(about: dict, *paths: str) -> dict:
    """A header that lacks these."""
    about = copy.deepcopy(about)
    for path in paths:
        table = about
        *inside, last = path.split(".")
        for key in inside:
            table = table[key]
        del table[last]
    return about


def judge_card(f: Callable) -> None:
    """7.N: model_card(about, said) -> a text, for whole headers and for such with gaps."""
    about, said = drawn_header()
    unsaid = {k: v for k, v in said.items() if k != "ethical considerations"}
    gaps = (
        (about, said, ""),
        (without(about, "seconds", "metrics.n"), said, "seconds and n are missing"),
        (without(about, "metrics.judged_by", "steps", "data"), unsaid,
         "judged_by, steps, data and one text are missing"),
        (without(about, "metrics", "command"), {}, "metrics, command and all texts are missing"),
    )
    for header, words, gap in gaps:
        try:
            c = card_case(f, header, words)
        except (KeyError, TypeError) as error:
            reject_if((gap, f"where {gap} your function raises {type(error).__name__}: {error}; "
                       "the card is wanted all the same"))
            raise
        c.whole = not gap
        reject_first(SUSPECTS, c)


QUESTION = Question(
    "7.N", 3, judge_card,
    praise="a card that says what is known, with its n, and names what is not",
    hints=(
        "`about.get(\"seconds\")` gives None where it is missing. What does it give for a 0?",
        "The measures are what is in `metrics` beside `n` and `judged_by`. A header without "
        "`metrics` has none: `about.get(\"metrics\", {})`.",
        "One function for all gaps: `\"not recorded\" if table.get(key) is None else table[key]`.",
    ),
)
