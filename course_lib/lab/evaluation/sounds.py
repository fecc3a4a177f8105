"""Metrics of short sounds (N, 1, T) at 16 kHz: log-mel spectrograms, how near samples are to their
training data, whether a classifier finds the class that was asked for, level and clipping.

With so few recordings each score stands beside that of held-out recordings and that of `augment`ed
training sounds.
"""
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import validate
from ..data.percussion import RATE, _validate_sounds, augment

RANGE = 60.0                                                # dB below the maximum that count
ATTACK = 4                                                  # frames of 16 ms
SHRINKAGE = 0.1
SILENCE = -60.0                                             # dB


def mel_filters(bands: int = 40, n_fft: int = 1024) -> Tensor:
    """Triangular filters (bands, n_fft / 2 + 1), their centres evenly spaced in mel: the weights of
    an FFT's frequencies. (Davis & Mermelstein 1980; mel(f) = 2595 log10(1 + f / 700))

    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on, and where a band
    is too narrow to have a frequency.
    """
    bands, n_fft = validate.whole(bands, "bands"), validate.whole(n_fft, "n_fft", 16)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    mel = torch.linspace(0, top, bands + 2, dtype=torch.float64)
    low, centre, high = (700 * (10 ** (mel / 2595) - 1)).unfold(0, 3, 1)[..., None].unbind(1)
    f = torch.linspace(0, RATE / 2, n_fft // 2 + 1, dtype=torch.float64)
    filters = torch.minimum((f - low) / (centre - low), (high - f) / (high - centre)).clamp(min=0)
    if (filters.sum(1) == 0).any():
        raise ValueError(f"{bands} bands are too many for {n_fft} samples: take fewer")
    return filters.float()


def log_mel(x: Tensor, bands: int = 40, n_fft: int = 1024, hop: int = 256) -> Tensor:
    """Log-mel spectrograms in dB, at least -120: x (N, 1, T) -> (N, bands, 1 + T // hop).

    A sine of amplitude 1 has 0 dB at its frequency; windows (Hann, n_fft samples) are centred on
    every hop-th sample. Raises TypeError or ValueError for sounds and sizes that cannot be right.
    """
    filters, hop = mel_filters(bands, n_fft), validate.whole(hop, "hop")
    window = torch.hann_window(n_fft)
    x = _validate_sounds(x)[:, 0]
    z = torch.stft(x, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    power = filters @ (z.abs() / (window.sum() / 2)).square()           # (N, bands, frames)
    return 10 * power.clamp(min=1e-12).log10()


def nearest_training_ratio(
    x: Tensor, train: Tensor, held_out: Tensor, decibels: float = RANGE
) -> Tensor:
    """How near each sound is to its nearest training sound, as a multiple of what is usual for
    recordings that were never trained on: (N,). Far below 1 is a near copy.

    train: the training sounds; with variants of them by `augment`, copies at another pitch are
    found, too. decibels: as in `nearest_distance`.
    Raises TypeError or ValueError for sounds that cannot be right, and where most of held_out is in
    train.
    """
    held_out = _validate_sounds(held_out, "held_out")
    usual = nearest_distance(held_out, train, decibels)[0].median()
    if usual < 0.1:
        raise ValueError("held_out must not be in train; the median of their distances is 0 dB")
    return nearest_distance(x, train, decibels)[0] / usual


def nearest_distance(
    x: Tensor, train: Tensor, decibels: float = RANGE
) -> tuple[Tensor, Tensor]:
    """The distance of each sound to its nearest training sound, and that one's row: (N,) each.

    Root mean square difference of the log-mel spectrograms in dB, each relative to its own maximum,
    the smallest of shifts by -1, 0 and 1 frames (16 ms).

    decibels: what is quieter than the maximum by more counts as if it were quieter by so much. A
              soft hiss fills every pause, and a copy that hisses is found only above it
    Raises TypeError or ValueError for sounds that cannot be right, and decibels outside (0, 120].
    """
    decibels = validate.number(decibels, "decibels", 0, 120, above=True)
    x, train = _validate_sounds(x), _validate_sounds(train, "train")
    a, b = _spectrum(x, decibels), _spectrum(train, decibels)
    if a.shape[2] != b.shape[2]:
        raise ValueError(f"both need one length; got {x.shape[2]} and {train.shape[2]} samples")
    pairs = ((a, b), (a[..., 1:], b[..., :-1]), (a[..., :-1], b[..., 1:]))
    distances = [torch.cdist(p.flatten(1), q.flatten(1)) / p[0].numel() ** 0.5 for p, q in pairs]
    return torch.stack(distances).amin(0).min(1)


def sound_classifier(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """A function sounds (n, 1, T) -> classes (n,), fitted to sounds x (N, 1, T) of classes y (N,).

    Linear discriminant analysis of the mean log-mel spectra of the attack and of the rest, with
    equal priors and a shrunk covariance. (Friedman 1989, Regularized discriminant analysis)
    Raises TypeError or ValueError for sounds and classes that cannot be right.
    """
    z = _features(x)
    predict = _discriminants(z, validate.labels(y, len(z), None).expand(len(z)))
    return lambda sounds: predict(_features(sounds))


def cross_validate(
    x: Tensor, y: Tensor, sources: Sequence[str], variants: int = 4, seed: int = 0
) -> Tensor:
    """The class of each sound by a `sound_classifier` fitted without its source: (N,).

    Each is fitted to `variants` variants (`augment`) of every sound of the other sources.
    Raises TypeError or ValueError for sounds, classes and sources that cannot be right.
    """
    x, variants = _validate_sounds(x), validate.whole(variants, "variants")
    more, rows = augment(x, variants * len(x), seed)
    y = validate.labels(y, len(x), None).expand(len(x))
    sources = validate.strings(sources, "sources")
    if len(sources) != len(x) or len(set(sources)) < 2:
        raise ValueError(f"sources are {len(x)} names, two or more; got {len(sources)} names")
    for label in y.unique():
        if len({name for name, own in zip(sources, y == label) if own}) < 2:
            raise ValueError(f"class {label} has one source: without it nothing is fitted to it")
    z, fitted_to, predicted = _features(x), _features(more), torch.empty_like(y)
    for source in set(sources):
        own = torch.tensor([name == source for name in sources])
        others = ~own[rows]
        predicted[own] = _discriminants(fitted_to[others], y[rows[others]])(z[own])
    return predicted


def sound_checks(x: Tensor) -> dict[str, Tensor]:
    """What can be wrong with a sound (N, 1, T) of any level, (N,) each: "loudness", the root mean
    square in dB of full scale; "silent", that below -60 dB; "clipped", the fraction of samples that
    reach +-1.

    Raises TypeError or ValueError for another shape or dtype.
    """
    x = _validate_sounds(x, limit=math.inf)[:, 0]
    loudness = 10 * x.square().mean(1).clamp(min=1e-12).log10()
    clipped = (x.abs() >= 32767 / 32768).float().mean(1)
    return {"loudness": loudness, "silent": loudness < SILENCE, "clipped": clipped}


def _spectrum(x: Tensor, decibels: float = RANGE) -> Tensor:
    """Log-mel spectrograms relative to their maximum, at least -decibels: independent of the gain.
    """
    db = log_mel(x)
    return (db - db.amax((1, 2), keepdim=True)).clamp(min=-decibels)


def _features(x: Tensor) -> Tensor:
    """Mean spectra of the attack and of the rest: (N, 80) float64."""
    attack, rest = _spectrum(x).double().tensor_split([ATTACK], dim=2)
    if rest.shape[2] == 0:
        raise ValueError(f"sounds must have at least 1024 samples; got {x.shape[2]}")
    return torch.cat([attack.mean(2), rest.mean(2)], dim=1)


def _discriminants(z: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """Linear discriminants of features z (N, d) with classes y (N,): features -> classes."""
    classes, y = y.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError("a classifier is fitted to two classes or more; got one")
    means = torch.stack([z[y == c].mean(0) for c in range(len(classes))])
    off = z - means[y]
    weight = (1 / y.bincount().double())[y, None]                       # each class counts the same
    covariance = off.T @ (weight * off) / len(classes)
    if not covariance.any():
        raise ValueError("at least one class needs two sounds that differ")
    covariance += SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    w = torch.linalg.solve(covariance, means.T)                         # (d, classes)
    b = (means.T * w).sum(0) / 2
    return lambda features: classes[(features @ w - b).argmax(1)]
