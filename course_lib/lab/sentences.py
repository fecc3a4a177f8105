"""What a pretrained sentence encoder knows of words: its vectors of the Nouns' names and of common English words, shipped in place of the encoder.

The encoder is all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019), trained on a billion pairs of sentences that belong together.
tools/make_minilm.py ran it once; its 384 numbers were projected to 128 and rounded to 8 bits.
"""
import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import nouns
from .assets import ASSETS, check_digest

SHA256 = "d692bac7843d32ea22951292620a5a9d522d2cad6fbc265f2261bb2dfbb2fd5b"


class Sentences(NamedTuple):
    """number: each word's row; words (4731, 128) and for each part of the Nouns its names (K, 128): vectors of length 1"""
    number: dict[str, int]
    words: Tensor
    names: dict[str, Tensor]


@lru_cache(maxsize=1)
def shipped(file: Path = ASSETS / "minilm.npz") -> Sentences:
    """The shipped vectors. Raises FileNotFoundError or OSError when the file is missing or damaged."""
    check_digest(file, SHA256)
    with np.load(file) as arrays:
        unit = lambda name: F.normalize(torch.from_numpy(arrays[name]).float(), dim=1)
        return Sentences({word: k for k, word in enumerate(arrays["words"].tolist())}, unit("vectors"), {part: unit(part) for part in nouns.PARTS})


def known(word: str) -> bool:
    """Is there a vector for this word?"""
    return word.lower() in shipped().number


def vector(word: str) -> Tensor:
    """What the encoder makes of one word: (128,), of length 1. Raises ValueError for a word that is not among the shipped ones."""
    number = shipped().number
    if word.lower() not in number:
        raise ValueError(f"{word!r} is not among the {len(number):,} words that the course ships vectors for (common English words, animals, food, things, colours): "
                         "try a more common word, or run the encoder itself as tools/make_minilm.py does")
    return shipped().words[number[word.lower()]]


def nearest(word: str, part: str, k: int = 3) -> list[tuple[str, float]]:
    """The k names of a part of the Nouns that mean most nearly this word: [(name, cosine)], nearest first.

    nearest("kitten", "head") begins with ("cat", 0.84). Raises ValueError for another part, a word that is not shipped, or a k that is not there.
    """
    if part not in nouns.PARTS:
        raise ValueError(f"part must be one of {', '.join(nouns.PARTS)}; got {part!r}")
    names = nouns.art().names[part]
    if not 1 <= k <= len(names):
        raise ValueError(f"{part} has {len(names)} names; got k = {k}")
    cosine, which = (shipped().names[part] @ vector(word)).topk(k)
    return [(names[i], c) for i, c in zip(which.tolist(), cosine.tolist())]


def synonyms() -> list[tuple[str, str, set[str]]]:
    """71 test questions, written before any was asked: (a word, a part, the names that count as right)."""
    with (ASSETS / "synonyms.csv").open(encoding="utf-8") as file:
        return [(row["word"], row["part"], set(row["accepted"].split("|"))) for row in csv.DictReader(file)]
