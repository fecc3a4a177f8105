"""Attribute accuracy of captioned figures (nouns): is each named part as it was asked for?"""
from functools import lru_cache

import torch
from torch import Tensor

from ... import validate
from ..data import noun_parts
from ..storage import ASSETS, load_tensors

BACKGROUND = noun_parts.PARTS.index("background")


def attributes_correct(x: Tensor, parts: Tensor) -> Tensor:
    """Whether each part of each figure is the one asked for: (N, 5) bool.

    x: (N, 3, 32, 32) in [-1, 1], parts: (N, 5). For one part at a time every candidate is rendered,
    the other parts as asked for; the candidate nearest to x must look like what was asked for
    (where an accessory hides the body, all bodies do). The background is read where no part of any
    figure stands, since a wrong head would be taken for it. Real images score 1, chance is
    `chance_accuracy(parts)`.
    Raises TypeError or ValueError for images or parts of another shape or range.
    """
    parts = noun_parts._validate_parts(parts)
    x = _validate_nouns(x, len(parts))
    palette = noun_parts.load_art().palette
    matches = torch.empty(len(x), len(noun_parts.PARTS), dtype=torch.bool)
    start = torch.arange(1024) * palette.shape[1]  # where each pixel's row of the table begins
    for picture, row, match in zip(x, parts, matches):
        # (1024, colours): how far each pixel is from each colour
        far = (picture.flatten(1)[..., None] - palette[:, None]).square().sum(0)
        for column in range(len(row)):
            drawn = _candidates(row, column)                                            # (K, 1024)
            off = far.take(start + drawn)                                               # (K, 1024)
            off = off[:, _always_background()] if column == BACKGROUND else off
            nearest = off.sum(1).argmin()
            match[column] = torch.equal(drawn[nearest], drawn[row[column]])
    return matches


def chance_accuracy(parts: Tensor) -> Tensor:
    """The attribute accuracy of guessing, for each part: (N, 5) -> (5,).

    The mean fraction of candidates that look like what was asked for.
    """
    parts = noun_parts._validate_parts(parts)
    if len(parts) == 0:
        raise ValueError("parts must be at least one row")
    share = torch.empty(parts.shape)
    for row, chance in zip(parts, share):
        for column in range(len(row)):
            drawn = _candidates(row, column)
            chance[column] = (drawn == drawn[row[column]]).all(1).float().mean()
    return share.mean(0)


@lru_cache(maxsize=1)
def _always_background() -> Tensor:
    """The pixels that no part of any figure covers: (1024,) bool."""
    layers = noun_parts.load_art().layers
    covered = [(layers[part] != 0).any(0) for part in noun_parts.PARTS if part != "background"]
    return ~torch.stack(covered).any(0).flatten()


def _candidates(row: Tensor, column: int) -> Tensor:
    """One combination (5,) with every possibility for one of its parts, as palette indices:
    (K, 1024).
    """
    count = len(noun_parts.load_art().layers[noun_parts.PARTS[column]])
    rows = row.repeat(count, 1)
    rows[:, column] = torch.arange(count)
    return noun_parts.indices(rows).flatten(1)


def _validate_nouns(x: Tensor, n: int) -> Tensor:
    """n images on the CPU, clipped to [-1, 1]. Raises TypeError or ValueError for others."""
    x = validate.tensor(x, "x")
    if x.shape != (n, 3, 32, 32):
        raise ValueError(
            f"nouns are pictures (N, 3, 32, 32) in [-1, 1], with as many rows of parts; got "
            f"{tuple(x.shape)} and {n} rows"
        )
    return validate.images(x.detach().cpu(), "x", limit=2).float().clamp(-1, 1)


def nouns_training_results() -> dict:
    """Results of three minutes of training, by `python tools/recipes/nouns_live.py`.

    images x, their parts, losses (n, 2), right (5,), and about
    """
    tensors, header = load_tensors(ASSETS / "nouns_live.safetensors")
    results = {name: value.float() for name, value in tensors.items() if name != "parts"}
    return results | {"parts": tensors["parts"].long(), "about": header["about"]}
