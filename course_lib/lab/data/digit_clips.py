"""Moving digits: clips of one MNIST digit that crosses a black canvas and bounces off its walls.

Points and directions are (x, y) in pixels, x to the right and y down; the centre of the first pixel
is (0, 0).
"""
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import validate
from .digits import mnist

SPLITS = ("train", "test")
SPEEDS = (1.0, 3.0)                                         # the slowest and the fastest, per frame


class Clips(NamedTuple):
    """n clips x (n, F, 1, size, size) in [-1, 1], the digit y (n,) that each shows, its centre of
    mass in every frame, position (n, F, 2), and its velocity in the first, (n, 2) per frame.
    """
    x: Tensor
    y: Tensor
    position: Tensor
    velocity: Tensor


def moving_digits(
    n: int, frames: int = 8, seed: int = 0, split: str = "train", size: int = 32
) -> Clips:
    """n random clips, the same for the same seed; fewer clips are the first of many, and a shorter
    clip is the beginning of a longer one.

    Digit, starting point, direction and speed (SPEEDS) are uniform. A digit keeps MNIST's own size,
    at most 20 x 20, and is never cut: it turns where its first or last inked pixel meets a wall.
    split: the digits of MNIST's "train" or "test": a test clip shows a digit from no training clip
    Raises TypeError or ValueError for another split, a size below 24, and n or frames below 1,
    OSError when the shipped file is missing or damaged.
    (Srivastava et al. 2015, Moving MNIST, with one digit and sub-pixel positions)
    """
    n, frames = validate.whole(n, "n"), validate.whole(frames, "frames")
    size = validate.whole(size, "size", 24, what="of a side; a digit is 20 pixels high")
    validate.choice(split, "split", SPLITS)
    key = (validate.seed(seed), SPLITS.index(split))
    u = torch.from_numpy(np.random.default_rng(key).random((n, 5), np.float32))
    images, labels = mnist(split)
    chosen = (u[:, 0].double() * len(images)).long()
    ink = (images[chosen, 0] + 1) / 2                                   # (n, 28, 28)
    centre = _centre_of_mass(ink)                                        # (n, 2)
    low, high = _room(ink, centre, size)
    velocity = _directions(u[:, 3]) * torch.lerp(*torch.tensor(SPEEDS), u[:, 4:])
    start = torch.lerp(low, high, u[:, 1:3])
    straight = start[:, None] + torch.arange(frames)[:, None] * velocity[:, None]   # (n, F, 2)
    position = _bounce(straight, low[:, None], high[:, None])
    x = _window(ink[:, None], centre[:, None] - position, size)          # (n, F, size, size)
    return Clips(x[:, :, None].mul_(2).sub_(1), labels[chosen], position, velocity)


def _centre_of_mass(ink: Tensor) -> Tensor:
    """The centre of mass of images (..., H, W), none of them negative: (..., 2); nan for no ink."""
    rows, columns = ink.sum(-1), ink.sum(-2)                            # (..., H), (..., W)
    x = columns @ torch.arange(ink.shape[-1]).to(ink)
    y = rows @ torch.arange(ink.shape[-2]).to(ink)
    return torch.stack([x, y], dim=-1) / rows.sum(-1)[..., None]


def _bounce(straight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """A straight path, reflected at low and high, coordinate by coordinate."""
    width = high - low
    return low + width - ((straight - low) % (2 * width) - width).abs()


def _window(ink: Tensor, corner: Tensor, size: int) -> Tensor:
    """The size x size pixels whose first one is at `corner`, by bilinear interpolation.

    ink: (n, F or 1, H, W), 0 outside; corner: (n, F, 2) -> (n, F, size, size). Ink that stays
    inside keeps its sum and its centre of mass.
    """
    parts = []
    for image, first in zip(ink.split(500), corner.split(500)):         # to save memory
        columns = _weights(first[..., 0], size, image.shape[-1])
        rows = _weights(first[..., 1], size, image.shape[-2])
        parts.append(rows @ image @ columns.transpose(-1, -2))
    return torch.cat(parts)


def _weights(first: Tensor, size: int, side: int) -> Tensor:
    """The share of each of the image's rows (or columns) in each of the window's.

    first: (n, F) -> (n, F, size, side)
    """
    at = first[..., None] + torch.arange(size).to(first)                # (n, F, size)
    return (1 - (at[..., None] - torch.arange(side).to(first)).abs()).clamp(min=0)


def _room(ink: Tensor, centre: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest centre (n, 2) of which no ink leaves the canvas."""
    inked = torch.stack([ink.amax(-2), ink.amax(-1)], dim=1) > 0        # (n, 2, 28): columns, rows
    first = inked.float().argmax(-1)
    last = inked.shape[-1] - 1 - inked.flip(-1).float().argmax(-1)
    return centre - first, size - 1 - last + centre


def _directions(u: Tensor) -> Tensor:
    """Unit vectors (n, 2) from uniform numbers (n,)."""
    angle = 2 * math.pi * u
    return torch.stack([angle.cos(), angle.sin()], dim=1)
