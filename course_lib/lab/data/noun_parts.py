"""Nouns: captioned 32 x 32 pixel figures, composed of five named parts. The art is CC0.

2 backgrounds x 30 bodies x 143 accessories x 254 heads x 23 glasses are 50 million images.
"""
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import validate
from ..storage import ASSETS, load_arrays

SHA256 = "38724607556896f562c0ea4d6822324af1d2b71899ace47de96e041072e09006"
# from the bottom layer to the top one
PARTS = ("background", "body", "accessory", "head", "glasses")
SPLITS = ("train", "test", "pairs")


class Nouns(NamedTuple):
    """n images x (n, 3, 32, 32) in [-1, 1], their captions, and their parts (n, 5), columns as in
    PARTS.
    """
    x: Tensor
    captions: list[str]
    parts: Tensor


class Art(NamedTuple):
    """layers: for each part (K, 32, 32) palette indices, 0 where it is transparent; palette
    (3, colours) in [-1, 1]; names: for each part K words.
    """
    layers: dict[str, Tensor]
    palette: Tensor
    names: dict[str, list[str]]


@lru_cache(maxsize=1)
def load_art(file: Path = ASSETS / "nouns.npz") -> Art:
    """The shipped parts.

    Raises FileNotFoundError or OSError when the file is missing or damaged.
    """
    arrays = load_arrays(file, SHA256)
    layers = {part: torch.from_numpy(arrays[part]) for part in PARTS}
    palette = torch.from_numpy(arrays["palette"]).float().div(127.5).sub(1).T.contiguous()
    return Art(layers, palette, {part: arrays[f"{part}_names"].tolist() for part in PARTS})


def nouns(n: int, seed: int = 0, split: str = "train", omit: float = 0.1) -> Nouns:
    """n random figures with captions, the same for the same seed; nouns(10) are the first of
    nouns(100).

    split: "train"; "test": combinations of parts that "train" never has; "pairs": a head with
           glasses, and a body with an accessory, that never occur together in "train" or "test"
    omit:  the probability that a caption leaves a part out
    Raises TypeError or ValueError for another split, n below 1, a negative seed and an omit outside
    [0, 1], OSError when the shipped file is missing or damaged.
    """
    parts = draw_parts(n, seed, split)
    return Nouns(render(parts), captions(parts, seed, omit), parts)


def draw_parts(n: int, seed: int = 0, split: str = "train") -> Tensor:
    """n combinations of parts (n, 5) of one split, every part equally likely.

    Raises TypeError or ValueError for another split, n below 1, and a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    n, g = validate.whole(n, "n"), torch.Generator().manual_seed(validate.seed(seed))
    found = 0
    rows = []
    while found < n:
        drawn = torch.stack(
            [torch.randint(len(load_art().layers[part]), (4096,), generator=g) for part in PARTS],
            dim=1,
        )
        rows.append(drawn[_split_of(drawn) == SPLITS.index(split)])
        found += len(rows[-1])
    return torch.cat(rows)[:n]


def _split_of(parts: Tensor) -> Tensor:
    """The split of each combination (n, 5) -> (n,): 0 train, 1 test, 2 pairs; 3: none, one unseen
    pair.
    """
    background, body, accessory, head, glasses = parts.T.numpy().astype(np.uint64)
    new = (_mixed(head, glasses, 1) % 10 == 0).astype(int) + (_mixed(body, accessory, 2) % 10 == 0)
    test = _mixed(background, body, accessory, head, glasses) % 20 == 0
    return torch.from_numpy(np.where(new == 2, 2, np.where(new == 1, 3, test)))


def _mixed(*keys) -> np.ndarray:
    """A hash of whole numbers.   Steele et al. 2014, SplitMix64"""
    h = np.zeros(np.broadcast(*keys).shape, np.uint64)
    for key in keys:
        h = (h ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return h


def render(parts: Tensor) -> Tensor:
    """The parts, one layer over the other: (n, 5) indices -> (n, 3, 32, 32) in [-1, 1].

    Raises ValueError for indices that no part has.
    """
    parts = _validate_parts(parts)
    x = torch.empty(len(parts), 3, 32, 32)
    # few enough to stay in the processor's cache
    for rows, pictures in zip(parts.split(256), x.split(256)):
        index = indices(rows).long()
        for channel, colours in enumerate(load_art().palette):
            pictures[:, channel] = colours.take(index)
    return x


def indices(parts: Tensor) -> Tensor:
    """The same images as palette indices: (n, 5) -> (n, 32, 32) bytes.

    Raises ValueError for indices that no part has.
    """
    index = None
    for part, which in zip(PARTS, _validate_parts(parts).T):
        layer = load_art().layers[part][which]
        index = layer if index is None else torch.where(layer == 0, index, layer)
    return index


def _validate_parts(parts: Tensor) -> Tensor:
    """The indices of parts on the CPU.

    Raises TypeError or ValueError for another shape or indices that no part has.
    """
    parts = validate.tensor(parts, "parts").cpu()
    counts = torch.tensor([len(load_art().layers[part]) for part in PARTS])
    if parts.ndim != 2 or parts.shape[1] != len(PARTS) or parts.is_floating_point():
        raise ValueError(
            f"parts are whole numbers (n, {len(PARTS)}): {', '.join(PARTS)}; got {parts.dtype} "
            f"{tuple(parts.shape)}"
        )
    strange = ((parts < 0) | (parts >= counts)).nonzero()  # (how many, 2): row and column
    if len(strange):
        row, column = strange[0].tolist()
        there = ", ".join(f"{count} of {part}" for part, count in zip(PARTS, counts.tolist()))
        raise ValueError(
            f"there are {there}, counted from 0; got {PARTS[column]} number {parts[row, column]} "
            f"in row {row}"
        )
    return parts.long()


def index_of(part: str, name: str) -> int:
    """The index of a part's name: index_of("head", "shark").

    Raises ValueError for another part, and for another name, with those that come close.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
    validate.instance(name, str, "name", "'shark'")
    names = load_art().names[part]
    if name not in names:
        close = [other for other in names if set(other.split()) & set(name.split())] or names
        raise ValueError(
            f"no {part} is called {name!r}; there is "
            f"{', '.join(close[:12])}{' ...' if len(close) > 12 else ''}"
        )
    return names.index(name)


def part_names(parts: Tensor) -> list[dict[str, str]]:
    """The names of each row of parts (n, 5): {"background": "cool", "body": "red", ...}."""
    return [
        {part: load_art().names[part][k] for part, k in zip(PARTS, row)}
        for row in _validate_parts(parts).tolist()
    ]


# The grammar of the captions. {} is the part's name, {a} its article.

NOUNS = ("noun", "character", "figure")
HEAD = (
    "{a} {}-headed {noun}",
    "a {noun} with {a} {} head",
    "a {noun} whose head is {a} {}",
    "{a} {} head",
)
PHRASES = {
    "glasses": (
        "with {} glasses",
        "with {} square glasses",
        "in {} spectacles",
        "wearing {} specs",
        "{} glasses",
    ),
    "accessory": (
        "wearing {a} {}",
        "with {a} {} on its shirt",
        "{a} {} on the chest",
        "showing {a} {}",
    ),
    "body":       ("{a} {} body", "with {a} {} body", "{a} {} torso", "{} body"),
    "background": ("{} background", "on a {} background", "before a {} backdrop", "{} backdrop"),
}
SYNONYMS = {"cool": ("cool", "cold", "bluish"), "warm": ("warm", "hot", "rosy")}
NO_ARTICLE = {"rain", "grease", "wet money", "flash", "uroko", "tatewaku"}


def article(name: str) -> str:
    """"a ", "an ", or nothing before plurals and what cannot be counted."""
    validate.instance(name, str, "name", "'shark'")
    if name in NO_ARTICLE or name.endswith("s") and not name.endswith("ss"):
        return ""
    return "an " if name.startswith(("a", "e", "i", "o", "rgb", "umb")) else "a "


def plain_captions(parts: Tensor) -> list[str]:
    """Captions of parts (n, 5) in one fixed wording: "a shark-headed noun with blue glasses,
    wearing ...".
    """
    return [
        (
            f"{article(w['head'])}{w['head']}-headed noun with {w['glasses']} glasses, wearing "
            f"{article(w['accessory'])}{w['accessory']}, {w['body']} body, {w['background']} "
            f"background"
        )
        for w in part_names(parts)
    ]


def captions(parts: Tensor, seed: int = 0, omit: float = 0.0) -> list[str]:
    """Captions of parts (n, 5) in varied words: synonyms, phrases in any order after the head.

    omit: the probability that a part is left out. Raises TypeError or ValueError for a negative
    seed, and for an omit outside [0, 1].
    """
    validate.number(omit, "omit", 0, 1, what="the probability that a part is left out")
    g, names = np.random.default_rng((validate.seed(seed), 5)), part_names(parts)
    choices = g.random((len(names), 16)).tolist()
    return [_caption(w, row, omit) for w, row in zip(names, choices)]


def _caption(named: dict[str, str], u: list[float], omit: float) -> str:
    """u: 16 random numbers in [0, 1): five for omitting a part, five for wordings, four for the
    order, the noun, a synonym.
    """
    pick = lambda options, at: options[int(at * len(options))]          # at in [0, 1)
    said = [part for part, chance in zip(PARTS, u[:5]) if chance >= omit] or ["head"]
    noun = pick(NOUNS, u[14])
    background = pick(SYNONYMS[named["background"]], u[15])
    def phrase(form, name):
        return form.replace("{a} ", article(name)).replace("{noun}", noun).replace("{}", name)
    first = phrase(pick(HEAD, u[5]), named["head"]) if "head" in said else f"a {noun}"
    order = sorted((u[10 + k], part) for k, part in enumerate(PHRASES) if part in said)
    rest = [
        phrase(pick(PHRASES[part], u[6 + k]), background if part == "background" else named[part])
        for k, (_, part) in enumerate(order)
    ]
    return ", ".join([first, *rest])


def vocabulary() -> list[str]:
    """Every word that a caption can have, in alphabetical order."""
    forms = [
        *HEAD,
        *NOUNS,
        *(form for forms in PHRASES.values() for form in forms),
        *(word for same in SYNONYMS.values() for word in same),
        "a an",
    ]
    names = [name for names in load_art().names.values() for name in names]
    return sorted(
        {
            word
            for text in forms + names
            for word in re.findall(r"[a-z]+", re.sub(r"\{.*?\}", " ", text))
        }
    )
