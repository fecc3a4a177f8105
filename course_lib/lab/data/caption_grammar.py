"""The grammar of the figures' captions, read backwards: what a caption names, and how likely it is.

`noun_parts.captions` draws a caption of random parts. What it can say is known, and so is the
probability of every caption: a language model's loss has a known floor.
"""
import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from ... import validate
from ...networks.text import Tokenizer
from .noun_parts import (
    HEAD,
    NOUNS,
    PARTS,
    PHRASES,
    SYNONYMS,
    article,
    load_art,
    vocabulary,
)  # fmt: skip
from .noun_parts import captions as captions_of

Words = tuple[str, ...]
Meanings = dict[int | None, float]                          # index of the name: probability
_split = Tokenizer([]).split


def draw_captions(n: int, seed: int = 0, omit: float = 0.0) -> list[str]:
    """n captions of the distribution that `caption_log_prob` knows: every part equally likely.

    omit: the probability that a part is left out. The same for the same seed, fewer the first of
    more. Raises TypeError or ValueError for n below 1, a negative seed, and omit outside [0, 1].
    """
    n = validate.whole(n, "n")
    names = load_art().names
    counts = torch.tensor([len(names[part]) for part in PARTS])
    g = torch.Generator().manual_seed(validate.seed(seed))
    u = torch.rand(n, len(PARTS), generator=g, dtype=torch.float64)
    return captions_of((u * counts).long(), seed, omit)


@cache
def caption_tokenizer() -> Tokenizer:
    """The tokenizer of the figures' captions, 32 tokens each."""
    return Tokenizer(vocabulary())


def caption_tokens(n: int, seed: int = 0, omit: float = 0.0) -> Tensor:
    """`draw_captions` as token ids (n, 32) int64, padded with 0."""
    return caption_tokenizer()(draw_captions(n, seed, omit))


def split_words(caption: str) -> Words:
    """The words of a caption in lower case, without commas and hyphens, as a Tokenizer has them."""
    return tuple(_split(caption))


def caption_log_prob(captions: list[str], omit: float = 0.0) -> Tensor:
    """log p of each caption in nats, -inf where the grammar cannot say it: (n,) float64.

    p is that of `noun_parts.captions(parts, omit=omit)` with every part equally likely, summed over
    all ways to say the same words. Commas and hyphens do not count.
    Raises TypeError or ValueError for captions that are no strings, and omit outside [0, 1].
    """
    validate.number(omit, "omit", 0, 1, what="the probability that a part is left out")
    captions = validate.strings(captions, "captions")
    p = [sum(p for _, p in _readings(split_words(caption), omit)) for caption in captions]
    return torch.tensor(p, dtype=torch.float64).log()


def parse_caption(caption: str) -> dict[str, str] | None:
    """The parts that a caption names, {"head": "shark", ...}; None where it is no caption.

    Of several readings the likeliest. A part that the caption leaves out is not in the answer.
    """
    readings = list(_readings(split_words(caption), omit=0.1))
    if not readings:
        return None
    found, _ = max(readings, key=lambda pair: pair[1])
    names = load_art().names
    return {part: names[part][found[part]] for part in PARTS if found.get(part) is not None}


# ---- every way to read a caption

def _readings(words: Words, omit: float) -> Iterator[tuple[dict[str, int], float]]:
    """Each reading: the index of every part that is named, and its probability."""
    for first, meanings in _matches(words, "head"):
        for head, p in meanings.items():
            for found, q, n in _rest(words[first:], tuple(PHRASES)):
                total = p * q * _said(head is not None, n, omit) / math.factorial(n)
                if total:
                    yield ({"head": head} if head is not None else {}) | found, total


def _rest(words: Words, parts: Words) -> Iterator[tuple[dict[str, int], float, int]]:
    """Readings of the words as phrases of some of these parts: indices, probability, how many."""
    if not words:
        yield {}, 1.0, 0
        return
    for part in parts:
        others = tuple(other for other in parts if other != part)
        for length, meanings in _matches(words, part):
            for found, q, n in _rest(words[length:], others):
                for index, p in meanings.items():
                    yield {part: index} | found, p * q, n + 1


def _matches(words: Words, part: str) -> Iterator[tuple[int, Meanings]]:
    """The phrases of a part that the words begin with: how many words, and what they mean."""
    phrases, longest = _phrases(part)
    for length in range(1, min(longest, len(words)) + 1):
        if words[:length] in phrases:
            yield length, phrases[words[:length]]


def _said(head: bool, n: int, omit: float) -> float:
    """The probability that exactly these n phrases, and the head or not, are said."""
    count = n + head
    if count == 0:
        return 0.0                                          # then the head is said
    p = (1 - omit) ** count * omit ** (len(PARTS) - count)
    return p + omit ** len(PARTS) if head and n == 0 else p


@cache
def _phrases(part: str) -> tuple[dict[Words, Meanings], int]:
    """Every phrase of a part with what it can mean, and the longest one's number of words.

    For the head also the first phrase of a caption without one; its probability is that of the
    noun.
    """
    phrases: dict[Words, Meanings] = {}

    def add(text: str, index: int | None, p: float) -> None:
        meanings = phrases.setdefault(split_words(text), {})
        meanings[index] = meanings.get(index, 0.0) + p

    forms = HEAD if part == "head" else PHRASES[part]
    names = load_art().names[part]
    for index, name in enumerate(names):
        said = SYNONYMS[name] if part == "background" else (name,)
        for form in forms:
            nouns = NOUNS if "{noun}" in form else ("",)
            for word in said:
                for noun in nouns:
                    text = form.replace("{a} ", article(word)).replace("{noun}", noun)
                    p = 1 / len(names) / len(forms) / len(said) / len(nouns)
                    add(text.replace("{}", word), index, p)
    if part == "head":
        for noun in NOUNS:
            add(f"a {noun}", None, 1 / len(NOUNS))
    return phrases, max(map(len, phrases))
