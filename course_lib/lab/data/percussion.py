"""Percussion: 54 one-shots of 40 sources, 0.512 s at 16 kHz, shipped with the course.

Recordings of one source (a drum hit hard and softly, one hit at several pitches) are in one split.
"""
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ..storage import ASSETS, load_arrays

SHA256 = "c4ccd50ffcc62c186f9983d8e6e5872cd7d548c6faf000d6122d1a3513d82f11"
CLASSES = ("kick", "snare", "cymbal", "tom")
SPLITS = ("train", "test", "all")
RATE = 16_000                                               # samples per second

# the most that `augment` changes
SEMITONES = 3.0
DECIBELS = 6.0
SHIFT = 64                                                  # samples
TILT = 0.2
FADE = 256                                                  # samples of fade-out


class Drums(NamedTuple):
    """N sounds x (N, 1, 8192) float32 in [-1, 1], their classes y (N,) int64, and the names of the
    recordings and of their sources.
    """
    x: Tensor
    y: Tensor
    names: list[str]
    sources: list[str]


def drums(split: str = "train", file: Path = ASSETS / "drums.npz") -> Drums:
    """The sounds of one split, class by class; y counts CLASSES. The onset is at 1 ms, the peak is
    0.9.

    split: "train" (40 sounds of 28 sources), "test" (14 of 12), or "all"
    Raises ValueError for another split, FileNotFoundError or OSError when the shipped file is
    missing or damaged.
    Source: Sonic Pi, Audiophob, rumpf_kit_z01; see assets/LICENSES.md.
    """
    validate.choice(split, "split", SPLITS)
    arrays = load_arrays(file, SHA256)
    rows = {"train": ~arrays["test"], "test": arrays["test"], "all": slice(None)}[split]
    x, y, names, sources = (arrays[name][rows] for name in ("x", "y", "names", "sources"))
    x = torch.from_numpy(x)[:, None].float().div_(32768)
    return Drums(x, torch.from_numpy(y).long(), names.tolist(), sources.tolist())


def folds(k: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """k-fold cross-validation over the sources: k times (rows to train on, held-out rows) of
    drums("all").

    A source is never on both sides; each is held out once. Sources are dealt out at random, class
    by class, so that each fold holds out some of every class. Another seed deals anew.
    Raises TypeError or ValueError for k outside 2 ... 4 (there are four sources of toms) and a
    negative seed.
    """
    k, g = validate.whole(k, "k", 2, 4), torch.Generator().manual_seed(validate.seed(seed))
    _, y, _, sources = drums("all")
    fold = {}
    for label in range(len(CLASSES)):
        found = dict.fromkeys(s for s, c in zip(sources, y.tolist()) if c == label)
        dealt = torch.randperm(len(found), generator=g) % k
        fold |= dict(zip(found, dealt.tolist()))
    held_out = torch.tensor([fold[source] for source in sources])
    return [((held_out != j).nonzero()[:, 0], (held_out == j).nonzero()[:, 0]) for j in range(k)]


def augment(x: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """n variants (n, 1, T) of the sounds x (N, 1, T), each sound in turn, and the row of x that
    each came from (n,).

    Resampled, which moves pitch and duration, by up to 3 semitones either way; up to 4 ms later;
    brighter or duller (filtered by 1 + a z^-1, |a| <= 0.2); with a peak up to 6 dB lower; half with
    the other sign. The first variants are the same for every n.
    Raises TypeError or ValueError for sounds of another shape or range, n below 1, and a negative
    seed.
    """
    x, n = _validate_sounds(x), validate.whole(n, "n")
    rows = torch.arange(n) % len(x)
    u = torch.rand(n, 5, generator=torch.Generator().manual_seed(validate.seed(seed)))
    return torch.stack([_variant(x[k], *choices) for k, choices in zip(rows, u.tolist())]), rows


def _variant(x: Tensor, pitch: float, late: float, tilt: float, gain: float, sign: float) -> Tensor:
    """A variant of one sound (1, T), by five numbers in [0, 1)."""
    T = x.shape[1]
    a = TILT * (2 * tilt - 1)
    y = _resampled(x, 2 ** (SEMITONES * (2 * pitch - 1) / 12))
    y = F.pad(y, (int(late * (SHIFT + 1)), 0))[:, :T]
    y = _faded(y + a * F.pad(y, (1, 0))[:, :T])
    peak = x.abs().max() * 10 ** (-DECIBELS * gain / 20)
    return y * peak / y.abs().max().clamp(min=1e-9) * (1 if sign < 0.5 else -1)


def _resampled(x: Tensor, ratio: float) -> Tensor:
    """x (1, T) with its pitch times `ratio`, band-limited, cut to T."""
    T = x.shape[1]
    padded = F.pad(x, (0, T // 4))              # the shorter ones reach T, too; the filter wraps
    n = padded.shape[1]
    m = round(n / ratio)
    return torch.fft.irfft(torch.fft.rfft(padded), m)[:, :T] * (m / n)


def _faded(x: Tensor) -> Tensor:
    """x (1, T) with a fade-out, half a period of a cosine."""
    fade = 0.5 + 0.5 * (torch.pi * torch.arange(1, FADE + 1) / FADE).cos()
    return x * F.pad(fade, (x.shape[1] - FADE, 0), value=1.0)


def _validate_sounds(x: Tensor, what: str = "x", limit: float = 2.0) -> Tensor:
    """Sounds (N, 1, T), T >= 256, float32, on the CPU. Samples may exceed [-1, 1] by a factor of 2.

    Raises TypeError or ValueError for another shape, dtype or range.
    """
    x = validate.tensor(x, what)
    if not x.is_floating_point():
        raise TypeError(f"{what} must be floating point in [-1, 1]; got {x.dtype}: x / 32768")
    if x.ndim != 3 or x.shape[1] != 1 or len(x) == 0 or x.shape[2] < FADE:
        raise ValueError(
            f"{what} must be sounds (N, 1, T), at least one, T >= {FADE}; got {tuple(x.shape)}"
        )
    x = x.detach().cpu().float()
    validate.finite(x, what)
    if x.abs().max() > limit:
        raise ValueError(f"{what} must lie in [-1, 1]; got a peak of {x.abs().max():.4g}")
    return x
