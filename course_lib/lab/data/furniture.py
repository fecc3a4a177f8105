"""Point clouds of chairs, tables and lamps, sampled from the surfaces of 124 models.

x points to the right, y up, z to the front: a chair faces the viewer. Each cloud is centred in its
box and its largest coordinate is 1, so a lamp post is as large as a desk lamp.
"""
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import validate
from ..storage import ASSETS, load_arrays

SHA256 = "711c56bbc8eaa399919b708c1b7307f977f8e4c3681ea79aa7e8e7943b80f459"
CLASSES = ("chair", "table", "lamp")
POINTS = 2048                                               # of each shipped cloud
SPLITS = ("train", "test", "all")


class Clouds(NamedTuple):
    """x (N, P, 3) float32 in [-1, 1], y (N,) int64 as in CLASSES, names, and group (N,) int64:
    models that look alike have one number, and are in one split.
    """
    x: Tensor
    y: Tensor
    names: list[str]
    group: Tensor


def clouds(
    split: str = "train", points: int = 512, seed: int = 0, file: Path = ASSETS / "clouds.npz"
) -> Clouds:
    """The models of one split, "train" (85), "test" (39) or "all", with so many of their points.

    points: up to 2,048, at random, the same for the same seed; fewer are the first of many. Two
            seeds share points; x[:, :512] and x[:, 512:1024] do not
    Raises TypeError or ValueError for another split, more points than there are, and a negative
    seed, FileNotFoundError or OSError when the shipped file is missing or damaged.
    """
    validate.choice(split, "split", SPLITS)
    points = validate.whole(points, "points", 1, POINTS)
    g = torch.Generator().manual_seed(validate.seed(seed))
    arrays = load_arrays(file, SHA256)
    # differences of whole numbers, modulo 256 like the sum that undoes them
    whole = np.cumsum(arrays["deltas"], axis=2, dtype=np.int8).transpose(0, 2, 1)   # (N, POINTS, 3)
    x = _subset(torch.from_numpy(whole).float() / 127, points, g)
    test = arrays["test"]
    rows = np.flatnonzero({"train": ~test, "test": test, "all": test | True}[split])
    y, group = (torch.from_numpy(arrays[key][rows]).long() for key in ("y", "group"))
    return Clouds(x[rows], y, arrays["names"][rows].tolist(), group)


def augment(
    x: Tensor, n: int, points: int = 512, seed: int = 0, turns: int = 1
) -> tuple[Tensor, Tensor]:
    """n variants (n, points, 3) of given clouds x (N, P, 3), and which cloud each is of (n,).

    Each has a random subset of the points, is stretched by 0.9 to 1.1 along each axis, mirrored
    left for right with probability 1/2, turned about the vertical by a random multiple of
    360 / turns degrees, and normalised. turns = 1 leaves a chair's front where it is, as in the
    clouds that samples are compared with; 360 turns it by any whole number of degrees.
    Raises TypeError or ValueError for clouds of another shape, more points than they have, and
    numbers that are no whole ones.
    """
    x, n = _validate_clouds(x), validate.whole(n, "n")
    points = validate.whole(points, "points", 1, x.shape[1])
    turns = validate.whole(turns, "turns")
    g = torch.Generator().manual_seed(validate.seed(seed))
    which = torch.randint(len(x), (n,), generator=g)
    parts = [_variants(x[rows], points, turns, g) for rows in which.split(500)]
    return torch.cat(parts), which


def _variants(x: Tensor, points: int, turns: int, g: torch.Generator) -> Tensor:
    """One variant of each cloud: (B, P, 3) -> (B, points, 3)"""
    B = len(x)
    scale = 0.9 + 0.2 * torch.rand(B, 1, 3, generator=g)
    scale[:, :, 0] *= 1 - 2 * torch.randint(2, (B, 1), generator=g)
    angle = 2 * math.pi / turns * torch.randint(turns, (B,), generator=g)
    return _subset(normalise(rotate(x * scale, angle)), points, g)


def rotate(x: Tensor, angle: Tensor | float) -> Tensor:
    """Clouds (N, P, 3), turned about the vertical: the front, +z, goes to the right, +x.

    angle: in radians, one number or (N,). Raises TypeError or ValueError for another shape.
    """
    x = _validate_clouds(x)
    angle = validate.broadcast(angle, x[:, 0, 0], "angle").to(x).expand(len(x))[:, None]    # (N, 1)
    side, up, front = x.unbind(2)                                                           # (N, P)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * side + sin * front, up, cos * front - sin * side], dim=2)


def normalise(x: Tensor) -> Tensor:
    """Clouds (N, P, 3), each centred in its box and scaled so that its largest coordinate is 1.

    Raises TypeError or ValueError for another shape, and where all points of a cloud are one.
    """
    x = _validate_clouds(x)
    low, high = x.aminmax(dim=1, keepdim=True)                                          # (N, 1, 3)
    half = (high - low).amax(2, keepdim=True) / 2
    if (half == 0).any():
        raise ValueError("a cloud whose points are all the same has no size to normalise")
    return (x - (low + high) / 2) / half


def _subset(x: Tensor, points: int, g: torch.Generator) -> Tensor:
    """Random points of each cloud, in random order: (N, P, 3) -> (N, points, 3)"""
    chosen = torch.rand(x.shape[:2], generator=g).argsort(1)[:, :points]
    return x.take_along_dim(chosen[..., None], dim=1)


def _validate_clouds(x: Tensor) -> Tensor:
    x = validate.real(x)
    if x.ndim != 3 or x.shape[2] != 3:
        raise ValueError(f"clouds are (N, points, 3); got {tuple(x.shape)}")
    return x
