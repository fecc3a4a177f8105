"""Byte-pair encoding: text to token ids and back, as CLIP does it, and how such a code is learned.

Sennrich et al. 2016; Radford et al. 2021. Every text can be written: the smallest tokens are bytes.
"""
import errno
import json
import unicodedata
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path

import regex
import torch
from torch import Tensor

from ... import validate
from ..text import _validate_ids

START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL = regex.compile(f"({regex.escape(START)}|{regex.escape(END)})")
# the words that are encoded one by one: endings such as 're, letters, one digit, other signs
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
SMALLEST = 514                                              # bytes, bytes at a word's end, two more
Pair = tuple[str, str]


def byte_signs() -> dict[int, str]:
    """A printable sign for each of the 256 bytes: itself where it is one, else a letter from 256
    on. (Radford et al. 2019, GPT-2)
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + k) for k, byte in enumerate(others)
    }


SIGNS = byte_signs()
BYTES = {sign: byte for byte, sign in SIGNS.items()}


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, composed (NFC), white space left out; START and END, where
    the text has them, as they are.
    """
    words = []
    for k, part in enumerate(SPECIAL.split(text)):
        composed = unicodedata.normalize("NFC", part).lower()
        words += [part] if k % 2 else WORDS.findall(composed)
    return words


def _signs(word: str) -> tuple[str, ...]:
    """A word as signs of its bytes, the last one marked as the word's end."""
    signs = [SIGNS[byte] for byte in word.encode()]
    return (*signs[:-1], signs[-1] + "</w>")


def _merged(parts: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """The parts with each occurrence of the pair made one."""
    merged, k = [], 0
    while k < len(parts):
        both = parts[k : k + 2] == pair
        merged.append("".join(pair) if both else parts[k])
        k += 2 if both else 1
    return tuple(merged)


class BytePairTokenizer:
    """Texts to token ids (B, length): start, the text, end, then padding.

    vocabulary: token -> id, with START and END
    merges:     pairs of tokens, the earliest first
    length:     of every row
    pad:        the token that fills a row: END in Stable Diffusion 1.x, "!" in 2.x

    A text that is too long is cut, and a warning says where. Raises TypeError or ValueError for a
    vocabulary without one of these tokens, a merge that makes no token, and a length below 2.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: list[Pair], length: int = 77, pad: str = END
    ):
        validate.instance(vocabulary, dict, "vocabulary", '{"a": 0, ...}')
        wrong = [pair for pair in merges if isinstance(pair, str) or len(pair) != 2]
        if wrong:
            raise ValueError(f"a merge is a pair of tokens, such as ('a', 't'); got {wrong[0]!r}")
        missing = [token for token in (START, END, pad) if token not in vocabulary]
        missing += [a + b for a, b in merges if a + b not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary has no token {missing[0]!r}")
        self.vocabulary = vocabulary
        self.merges = [tuple(pair) for pair in merges]
        self.length = validate.whole(length, "length", 2)
        self.pad = pad
        self.rank = {pair: k for k, pair in enumerate(self.merges)}
        self.tokens = {k: token for token, k in vocabulary.items()}
        self._parts = lru_cache(maxsize=100_000)(self._merge)

    @classmethod
    def from_folder(cls, folder: str | Path, **options) -> "BytePairTokenizer":
        """From `vocab.json` and `merges.txt`, or from `tokenizer.json` with both.

        Raises FileNotFoundError where one is missing, OSError where one is damaged.
        """
        folder = Path(folder)
        if (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            model = _json(folder / "tokenizer.json")["model"]
            vocabulary, lines = model["vocab"], model["merges"]
        else:
            vocabulary = _json(folder / "vocab.json")
            lines = _read(folder / "merges.txt").split("\n")
            lines = [line for line in lines if not line.startswith("#version")]
        pairs = [tuple(line.split(" ") if isinstance(line, str) else line) for line in lines]
        return cls(vocabulary, [pair for pair in pairs if len(pair) == 2], **options)

    @classmethod
    def learn(cls, texts: list[str], size: int, length: int = 77) -> "BytePairTokenizer":
        """A code of `size` tokens: 512 of bytes, the merges, START and END.

        Each merge is the pair that occurs most often in the texts, written with the merges so far;
        of equal ones the first in alphabetical order. Raises ValueError for a size below 514, and
        where the texts have not so many pairs.
        """
        texts = validate.strings(texts, "texts")
        words = Counter(_signs(word) for text in texts for word in split_words(text))
        merges: list[Pair] = []
        while len(merges) < validate.whole(size, "size", SMALLEST) - SMALLEST:
            pairs = Counter()
            for parts, n in words.items():
                for pair in zip(parts, parts[1:]):
                    pairs[pair] += n
            if not pairs:
                raise ValueError(f"these texts have {len(merges)} pairs to merge: ask for less")
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            merges.append(best)
            merged = Counter()
            for parts, n in words.items():
                merged[_merged(parts, best)] += n
            words = merged
        return cls.from_merges([" ".join(pair) for pair in merges], length)

    @classmethod
    def from_merges(cls, merges: list[str], length: int = 77) -> "BytePairTokenizer":
        """From merges, "a b" each, with CLIP's order of ids: bytes, bytes that end a word, merged
        tokens, START, END.
        """
        merges = [] if merges == [] else validate.strings(merges, "merges")
        pairs = [tuple(merge.split(" ")) for merge in merges]
        tokens = [sign + end for end in ("", "</w>") for sign in SIGNS.values()]
        tokens += ["".join(pair) for pair in pairs] + [START, END]
        return cls({token: k for k, token in enumerate(tokens)}, pairs, length)

    def split(self, text: str) -> list[str]:
        """The tokens of a text, </w> at the end of a word."""
        if not isinstance(text, str):
            raise TypeError(f"a text is a string; got {validate.show(text)}")
        return [part for word in split_words(text) for part in self._parts(word)]

    def _merge(self, word: str) -> tuple[str, ...]:
        """One word: its bytes, then the earliest merge again and again."""
        if word in (START, END):
            return (word,)
        parts = _signs(word)
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            parts = _merged(parts, best)
        return parts

    def __call__(self, texts: str | list[str]) -> Tensor:
        """Token ids (B, length) int64 of one text or of B.

        Warns where a text is cut. Raises TypeError for texts that are no strings.
        """
        texts = [texts] if isinstance(texts, str) else validate.strings(texts, "texts")
        rows = torch.full((len(texts), self.length), self.vocabulary[self.pad], device="cpu")
        for row, text in zip(rows, texts):
            parts = self.split(text)
            left_out = self._text(parts[self.length - 2 :])
            if left_out:
                warnings.warn(
                    f"a text has at most {self.length - 2} tokens; left out: {left_out!r}",
                    stacklevel=2,
                )
            parts = [START, *parts[: self.length - 2], END]
            row[: len(parts)] = torch.tensor([self._id(part) for part in parts], device="cpu")
        return rows

    def _id(self, part: str) -> int:
        """A published vocabulary has every byte; one that has not: its end, like CLIP's."""
        return self.vocabulary.get(part, self.vocabulary[END])

    def decode(self, tokens: Tensor) -> list[str]:
        """Token ids (B, L) -> B texts, up to the first END. Raises ValueError for other ids."""
        tokens = validate.tensor(tokens, "tokens")
        _validate_ids(tokens, len(self.vocabulary), tokens.shape[-1] if tokens.ndim else 1)
        rows = []
        for row in tokens.tolist():
            row = row[: row.index(self.vocabulary[END])] if self.vocabulary[END] in row else row
            rows.append(self._text([self.tokens[k] for k in row if self.tokens[k] != START]))
        return rows

    @staticmethod
    def _text(parts: list[str]) -> str:
        """Tokens without START and END as text."""
        signs = "".join(parts).replace("</w>", " ")
        values = bytes(b for sign in signs for b in ([32] if sign == " " else [BYTES[sign]]))
        return values.decode(errors="replace").strip()


def _read(file: Path) -> str:
    if not file.is_file():
        needed = "a tokenizer is vocab.json and merges.txt, or tokenizer.json; there is no file"
        raise FileNotFoundError(errno.ENOENT, needed, str(file))
    return file.read_text(encoding="utf-8")


def _json(file: Path) -> dict:
    try:
        return json.loads(_read(file))
    except ValueError as error:
        raise OSError(f"{file} is damaged, or no JSON ({error})") from error
