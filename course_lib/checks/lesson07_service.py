"""Questions 7.11 and 7.12: what a service leaks, and the card of a checkpoint."""
import copy
import hashlib
import re
import secrets
from collections.abc import Callable
from decimal import Decimal

import torch
from torch import Tensor

from .common import (
    Case,
    Question,
    Wrong,
    as_function,
    between,
    reject_first,
    reject_if,
    reject_none,
)
from .lesson07_board import is_text, plain

# ---- 7.11: a service in small, and its leaks

LONGEST = 60                                                # letters of a prompt


class Refused(Exception):
    """A request that the service does not serve; its words go to the client."""


class Service:
    """A service without queue, page and network. Its pictures are noise, made from the prompt, the
    seed and the scale. Whoever has the id of a request may look at its picture.
    """

    def __init__(self):
        self.log: list[str] = []
        self._done: dict[str, dict] = {}

    def ask(self, prompt: str, seed: int | None = None, scale: float | None = None) -> str:
        """Draws a picture and returns the request's id.

        seed: None, and the service draws one; scale: None is 2.0. Raises Refused for a prompt of
        more than 60 letters.
        """
        if len(prompt) > LONGEST:
            self._write_refusal(prompt)
            raise Refused(self._too_long(prompt))
        seed = self._seed(seed)
        scale = self._scale(scale)
        picture = self._picture(prompt, seed, scale)
        id = self._new_id()
        self._done[id] = {"prompt": prompt, "seed": seed, "scale": scale, "picture": picture}
        self._write(prompt, seed, scale)
        return id

    def look(self, id: str) -> dict:
        """{"seed": int, "picture": (4, 4)} of a request. Raises Refused for an unknown id."""
        if id not in self._done:
            raise Refused(self._unknown(id))
        return {name: self._done[id][name] for name in ("seed", "picture")}

    def health(self) -> dict:
        """How the service is, for everybody."""
        return {"state": "well", "drawn": len(self._done)}

    # what follows is where it may leak

    def _new_id(self) -> str:
        return secrets.token_urlsafe(16)

    def _seed(self, seed: int | None) -> int:
        return secrets.randbelow(2**31) if seed is None else seed

    def _scale(self, scale: float | None) -> float:
        return 2.0 if scale is None else scale

    def _picture(self, prompt: str, seed: int, scale: float) -> Tensor:
        g = torch.Generator().manual_seed(_number(prompt, seed))
        return scale * torch.randn(4, 4, generator=g)

    def _write(self, prompt: str, seed: int, scale: float) -> None:
        self.log.append(f"done: a picture, {len(prompt)} letters, 10 steps")

    def _write_refusal(self, prompt: str) -> None:
        self.log.append("refused: too long")

    def _too_long(self, prompt: str) -> str:
        return f"a prompt has at most {LONGEST} letters; yours has {len(prompt)}"

    def _unknown(self, id: str) -> str:
        return "there is no such request, or it is forgotten"


def _number(*parts: object) -> int:
    """A number below 2^31 from a few values, always the same."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


# ---- right services that look otherwise

class CachedRightly(Service):
    """The same prompt, seed and scale are drawn once."""
    def _picture(self, prompt: str, seed: int, scale: float) -> Tensor:
        self.cache = getattr(self, "cache", {})
        key = prompt, seed, scale
        if key not in self.cache:
            self.cache[key] = super()._picture(*key)
        return self.cache[key]


class TalksOfNumbers(Service):
    """Ids in hexadecimal, numbers in the log, more in its health."""
    def _new_id(self) -> str:
        return secrets.token_hex(16)

    def _write(self, prompt: str, seed: int, scale: float) -> None:
        self.log.append(f"a request was drawn at scale {scale:.1f}; {len(self._done)} so far")

    def health(self) -> dict:
        return super().health() | {"model": "mini_sd", "waiting": 0, "drawing": 0}


# ---- leaky ones

class CountedIds(Service):
    def _new_id(self) -> str:
        return str(10001 + len(self._done))


class NumberedIds(Service):
    def _new_id(self) -> str:
        self.first = getattr(self, "first", secrets.randbelow(9000))
        return f"job-{self.first + len(self._done):06d}"


class CachedByPrompt(Service):
    def _picture(self, prompt: str, seed: int, scale: float) -> Tensor:
        same = [job["picture"] for job in self._done.values() if job["prompt"] == prompt]
        return same[0] if same else super()._picture(prompt, seed, scale)


class CachedByText(Service):
    def _picture(self, prompt: str, seed: int, scale: float) -> Tensor:
        self.cache = getattr(self, "cache", {})
        key = prompt.lower().strip(), scale
        return self.cache.setdefault(key, super()._picture(prompt, seed, scale))


class LogsPrompts(Service):
    def _write(self, prompt: str, seed: int, scale: float) -> None:
        self.log.append(f"done: {prompt!r}, seed {seed}")


class LogsRefusals(Service):
    def _write_refusal(self, prompt: str) -> None:
        self.log.append(f"refused: {prompt}")


class SharedGenerator(Service):
    def _seed(self, seed: int | None) -> int:
        if not hasattr(self, "generator"):
            self.generator = torch.Generator()
            self.generator.seed()
        if seed is None:
            return torch.randint(2**31, (), generator=self.generator).item()
        self.generator.manual_seed(seed)
        return seed


class NextSeed(Service):
    def _seed(self, seed: int | None) -> int:
        last = getattr(self, "last_seed", secrets.randbelow(2**31))
        self.last_seed = last + 1 if seed is None else seed
        return self.last_seed


class TellsIds(Service):
    def _unknown(self, id: str) -> str:
        return f"there is no request {id!r}; there are {', '.join(self._done)}"


class TellsPrompts(Service):
    def _too_long(self, prompt: str) -> str:
        last = [job["prompt"] for job in self._done.values()][-1:]
        return f"a prompt has at most {LONGEST} letters, such as {last[0] if last else 'a cat'!r}"


class HealthOfPrompts(Service):
    def health(self) -> dict:
        return super().health() | {"last": [job["prompt"] for job in self._done.values()][-1:]}


class HealthOfIds(Service):
    def health(self) -> dict:
        return super().health() | {"jobs": {id: "done" for id in self._done}}


class StickyScale(Service):
    def _scale(self, scale: float | None) -> float:
        self.scale = getattr(self, "scale", 2.0) if scale is None else scale
        return self.scale


class MeanScale(Service):
    def _scale(self, scale: float | None) -> float:
        if scale is not None:
            return scale
        return sum((job["scale"] for job in self._done.values()), 2.0) / (1 + len(self._done))


RIGHT_SERVICES = (Service, CachedRightly, TalksOfNumbers)
LEAKY_SERVICES = {
    "ids": (CountedIds, NumberedIds),
    "cache": (CachedByPrompt, CachedByText),
    "log": (LogsPrompts, LogsRefusals),
    "generator": (SharedGenerator, NextSeed),
    "errors": (TellsIds, TellsPrompts),
    "health": (HealthOfPrompts, HealthOfIds),
    "settings": (StickyScale, MeanScale),
}
MISSED = {
    CountedIds: "its first id is '10001', and its second '10002': whoever counts may look",
    NumberedIds: "its ids are 'job-000017', 'job-000018', ...: take the numbers out of two ids, "
                 "and subtract",
    CachedByPrompt: "one prompt with two seeds gives one picture, that of the first client",
    CachedByText: "'A cat' and 'a cat', or one prompt with two seeds, give the first client's "
                  "picture",
    LogsPrompts: "the prompt stands in its log",
    LogsRefusals: "a prompt that was refused stands in its log, and no other: ask for something "
                  "too long, and read",
    SharedGenerator: "a client's seed decides which seed the next client is given: ask two fresh "
                     "services with one seed, then without, and compare",
    NextSeed: "who gives no seed gets the last client's seed plus one",
    TellsIds: "ask it for an id that is none: its refusal names all others",
    TellsPrompts: "ask it for too long a prompt: its refusal quotes another client's",
    HealthOfPrompts: "its health has the last client's prompt in it",
    HealthOfIds: "its health has ids in it, perhaps as the keys of a dict",
    StickyScale: "who gives no scale gets the last client's",
    MeanScale: "who gives no scale gets a mean of those of all clients",
}
ACCUSED = {
    "ids": "its ids are random. Two ids may have a letter or a digit in common by chance",
    "cache": "the same prompt, seed and scale give the same picture, and they should",
    "log": "no prompt is in its log, only its length, or words of its own: take a prompt that "
           "stands in no log by chance",
    "generator": "it draws a fresh seed for whoever gives none; one that was given it keeps",
    "errors": "its refusals say what the limit is, and nothing of another client",
    "health": "its health has numbers and words of its own",
    "settings": "who gives no scale gets 2.0, whatever others gave; pictures of other seeds differ "
                "for that reason",
}


def make_of(*kinds: type) -> Callable[[], Service]:
    """A function that gives new services with all these leaks; their class tells nothing."""
    return type("Service", kinds, {})


def leaky(reader: str) -> Callable[[], Service]:
    """A kind of service with three leaks of the seven: leaky(reader)() is a new one.

    reader: decides which three. Raises ValueError for a reader without a name.
    """
    if not is_text(reader):
        raise ValueError(f"reader must be a name, such as 'Ada'; got {reader!r}")
    return make_of(*(LEAKY_SERVICES[name][0] for name in three_leaks(reader)))


def three_leaks(reader: str) -> list[str]:
    """The leaks of this reader's service."""
    place = lambda name: hashlib.sha256(f"{plain(reader)}: {name}".encode()).hexdigest()
    return sorted(sorted(LEAKY_SERVICES, key=place)[:3])


def found_by(f: Callable, kinds: tuple[type, ...]) -> set[str]:
    """The leaks that the reader's probe finds. Raises Wrong for what are no names of leaks."""
    try:
        got = as_function(f)(make_of(*kinds))
    except Refused as refusal:
        raise Wrong(f"your probe stops at a refusal ({refusal}): catch it, its words are a "
                    "finding") from None
    reject_none(got)
    reject_if((isinstance(got, str) or not isinstance(got, (set, frozenset, list, tuple)),
               f"a set of names is wanted; got {type(got).__name__}"))
    strange = [name for name in got if name not in LEAKY_SERVICES]
    reject_if((strange, f"{strange[:1]} is none of the leaks: {', '.join(LEAKY_SERVICES)}"))
    return set(got)


def judge_probe(f: Callable) -> None:
    """7.11: probe(make) -> the names of the leaks."""
    for kind in RIGHT_SERVICES:
        for name in sorted(found_by(f, (kind,))):
            raise Wrong(f"a service that leaks nothing is accused of {name!r}: {ACCUSED[name]}")
    for leak, kinds in LEAKY_SERVICES.items():
        for kind in kinds:
            found = found_by(f, (kind,))
            reject_if((leak not in found, f"a service passes that leaks by {leak!r}: "
                       f"{MISSED[kind]}"))
            for name in sorted(found - {leak}):
                raise Wrong(f"a service that leaks by {leak!r} alone is accused of {name!r}, too; "
                            f"ask what else changed between its two answers. {ACCUSED[name]}")
    for _ in range(5):
        leaks = three_leaks(secrets.token_hex(8))
        found = found_by(f, tuple(secrets.choice(LEAKY_SERVICES[name]) for name in leaks))
        reject_if((found != {*leaks}, f"right for one leak at a time; of a service with the three "
                   f"leaks {leaks} it says {sorted(found)}: make a new service for each test"))


# ---- 7.12: the card of a checkpoint

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
    errors = [v[1] for v in c.measures.values() if isinstance(v, list)]
    c.strange = next((m for m in NUMBER.findall(rest)
                      if not any(near(number(m), v) for v in known)
                      and not any(rounded(m, v) for v in errors)), "")


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


def rounded(text: str, wanted: float) -> bool:
    """Whether the printed number is this one, plain or in per cent, rounded at its last place."""
    got, last_place = number(text), Decimal(text.replace(",", "")).as_tuple().exponent
    half = 0.501 * 10.0**last_place
    return got != 0 and any(abs(got - w) <= half for w in (wanted, 100 * wanted))


def first_measure(c: Case, wrong: Callable) -> str:
    """The first measure for which wrong(c, name, line, value) holds; "" if for none."""
    c.name = next((k for k, v in c.measures.items() if wrong(c, k, c.lines[k], v)), "")
    return c.name


def error_unsaid(line: str, value: object) -> bool:
    """Whether a measure has a standard error that its line lacks."""
    return isinstance(value, list) and not any(
        rounded(m, value[1]) for m in NUMBER.findall(line)
    )


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


def zero_detail(c: Case) -> bool:
    """A detail that is 0, and not in its section."""
    details = c.under["Model details"]
    c.name = next((k for k in ("steps", "seconds")
                   if c.about.get(k) == 0 and not has(details, 0.0)), "")
    return bool(c.name)


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
    "nothing is left of the standard error of {c.name} after rounding: keep a digit of it":
        lambda c: first_measure(c, lambda c, k, line, v: error_unsaid(line, v)
                                and any(number(m) == 0 for m in NUMBER.findall(line))),
    "the standard error of {c.name} is in the header and not in the card":
        lambda c: first_measure(c, lambda c, k, line, v: error_unsaid(line, v)),
    "{c.name} stands there without its n: what it is worth depends on it":
        lambda c: first_measure(c, lambda c, k, line, v: c.n is not None and not has(line, c.n)),
    "the header has no n, and the line of {c.name} does not say that: `n = not recorded`":
        lambda c: first_measure(c, lambda c, k, line, v: c.n is None and MISSING not in line),
    "under {c.section!r} the text that was said is missing":
        section_without,
    "nobody said anything for {c.section!r}, and the card does not say that: `not recorded`":
        section_unsaid,
    "{c.name} is 0 in the header, so it is known, and Model details lacks it or calls it `not "
    "recorded`: `or` and `if value` take 0 for nothing":
        zero_detail,
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
    """7.12: model_card(about, said) -> a text, for whole headers and for such with gaps."""
    about, said = drawn_header()
    unsaid = {k: v for k, v in said.items() if k != "ethical considerations"}
    gaps = (
        (about, said, ""),
        (about | {"steps": 0}, said, ""),                   # not trained at all
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


QUESTIONS = [
    Question(
        "7.11", 3, judge_probe,
        "a probe that accuses nobody wrongly is worth as much as one that finds",
        ("Be two clients of one service. What may the second know, or be given, because the first "
         "was there? Use prompts that stand nowhere by chance, such as 'xylophone'.",
         "One test for each name, each with a service of its own, make(). cache: one prompt, two "
         "seeds. generator: two fresh services, the same seed first, then none. settings: a scale "
         "first, then none, and the same prompt and seed on a fresh service. errors: an id that "
         "is none, and a prompt of 100 letters.",
         "ids: without their digits, re.sub(r'\\d', '', id), two ids in turn are equal, and their "
         "numbers, re.sub(r'\\D', '', id), differ by 1. log: ask for SECRET, and in a try for "
         "SECRET * 20, then any(SECRET in line for line in service.log). health: SECRET or the id "
         "in str(service.health()).")),
    Question(
        "7.12", 3, judge_card,
        "a card that says what is known, with its n, and names what is not",
        ("`about.get(\"seconds\")` gives None where it is missing. What does it give for a 0?",
         "The measures are what is in `metrics` beside `n` and `judged_by`. A header without "
         "`metrics` has none: `about.get(\"metrics\", {})`.",
         "One function for all gaps: `\"not recorded\" if table.get(key) is None else "
         "table[key]`.")),
]
