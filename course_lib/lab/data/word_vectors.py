"""Word vectors of a pretrained sentence encoder, shipped in place of the encoder.

The encoder is all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019). Its vectors of the
Nouns' names and of common English words were computed once by tools/recipes/make_minilm.py,
projected from 384 to 128 numbers and rounded to 8 bits.
"""
import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ..storage import ASSETS, load_arrays
from . import noun_parts

SHA256 = "d692bac7843d32ea22951292620a5a9d522d2cad6fbc265f2261bb2dfbb2fd5b"


class WordVectors(NamedTuple):
    """index: each word's row; words (4731, 128) and, for each part of the Nouns, its names
    (K, 128).

    All vectors have length 1.
    """
    index: dict[str, int]
    words: Tensor
    names: dict[str, Tensor]


@lru_cache(maxsize=1)
def load_vectors(file: Path = ASSETS / "minilm.npz") -> WordVectors:
    """The shipped vectors.

    Raises FileNotFoundError or OSError when the file is missing or damaged.
    """
    arrays = load_arrays(file, SHA256)

    def unit(name: str) -> Tensor:
        return F.normalize(torch.from_numpy(arrays[name]).float(), dim=1)
    index = {word: k for k, word in enumerate(arrays["words"].tolist())}
    return WordVectors(index, unit("vectors"), {part: unit(part) for part in noun_parts.PARTS})


def has_vector(word: str) -> bool:
    """Whether the word is among the shipped ones."""
    validate.instance(word, str, "word", "'kitten'")
    return word.lower() in load_vectors().index


def vector(word: str) -> Tensor:
    """The encoder's vector of one word: (128,), of length 1.

    Raises TypeError or ValueError for a word without one.
    """
    number = load_vectors().index
    if not has_vector(word):
        raise ValueError(
            f"{word!r} is not among the {len(number):,} words that the course ships vectors for "
            "(common English words, animals, food, things, colours): try a more common word, or "
            "run the encoder itself as tools/recipes/make_minilm.py does"
        )
    return load_vectors().words[number[word.lower()]]


def nearest(word: str, part: str, k: int = 3) -> list[tuple[str, float]]:
    """The k names of a part of the Nouns nearest to a word: [(name, cosine)], nearest first.

    nearest("kitten", "head") begins with ("cat", 0.84). Raises ValueError for another part, a word
    that is not shipped, or a k that is not there.
    """
    if part not in noun_parts.PARTS:
        raise ValueError(f"part must be one of {', '.join(noun_parts.PARTS)}; got {part!r}")
    names = noun_parts.load_art().names[part]
    k = validate.whole(k, "k", 1, len(names), f"of the names of {part}")
    cosine, which = (load_vectors().names[part] @ vector(word)).topk(k)
    return [(names[i], c) for i, c in zip(which.tolist(), cosine.tolist())]


def synonyms() -> list[tuple[str, str, set[str]]]:
    """71 test questions, written before any was tried: (word, part, names that count as right)."""
    with (ASSETS / "synonyms.csv").open(encoding="utf-8") as file:
        return [
            (row["word"], row["part"], set(row["accepted"].split("|")))
            for row in csv.DictReader(file)
        ]
