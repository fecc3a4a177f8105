"""Masks for inpainting, (1, 1, H, W): 1 where the image is to be drawn anew, 0 where it is known.
"""
import math
import operator
from collections.abc import Iterable

import torch
from torch import Tensor

from . import validate

KINDS = ("center", "border", "half", "random")


def create_mask(
    size: int | tuple[int, int],
    kind: str = "center",
    fraction: float = 0.5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A mask (1, 1, H, W) float: 1 on about `fraction` of the pixels, those to be drawn anew.

    size: H = W, or (H, W)
    kind: "center" a rectangle in the middle, of the image's proportions; "border" all but such a
          rectangle; "half" the columns on the right; "random" exactly round(fraction H W) pixels
    Raises ValueError for another kind, for a bad size, and for a fraction outside (0, 1) or so near
    its ends that no pixel, or every one, is drawn anew.
    """
    H, W = _validate_size(size)
    if kind not in KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)}; got {kind!r} (brush makes free-hand masks)"
        )
    fraction = validate.number(fraction, "fraction", what="the part to be drawn anew")
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction is the part of the picture to be drawn anew, between 0 and 1; got {fraction}"
        )
    validate.generator(generator)
    mask = torch.zeros(1, 1, H, W)
    if kind == "half":
        mask[..., W - round(fraction * W) :] = 1
    elif kind == "random":
        order = torch.randperm(H * W, generator=generator)
        mask.view(-1)[order[: round(fraction * H * W)]] = 1
    else:
        _fill_rectangle(mask, fraction if kind == "center" else 1 - fraction)
        mask = mask if kind == "center" else 1 - mask
    if mask.min() == mask.max():
        raise ValueError(
            f"fraction = {fraction} of {H} x {W} pixels rounds to "
            f"{'all' if mask.min() else 'none'} of them: take another fraction, or a larger picture"
        )
    return mask


def _fill_rectangle(mask: Tensor, fraction: float) -> None:
    """Set to 1 the centred rectangle of the mask's proportions whose area is nearest to `fraction`.
    """
    H, W = mask.shape[-2:]
    sides = [
        (math.floor(fraction**0.5 * side), math.ceil(fraction**0.5 * side)) for side in (H, W)
    ]
    candidates = [(h, w) for h in sides[0] for w in sides[1] if h * w]
    h, w = min(candidates, key=lambda pair: abs(pair[0] * pair[1] - fraction * H * W))
    top, left = (H - h) // 2, (W - w) // 2
    mask[..., top : top + h, left : left + w] = 1


def brush(
    size: int | tuple[int, int], strokes: list[list[tuple[float, float]]], radius: float = 2.0
) -> Tensor:
    """A free-hand mask (1, 1, H, W): 1 where a pixel's centre is within `radius` pixels of a
    stroke.

    strokes: each a list of points (row, column), joined by straight lines; one point makes a dot.
    Pixel (0, 0) is at the top left.
    Raises ValueError for strokes that are no such lists, and for a radius that is not above 0.
    """
    H, W = _validate_size(size)
    a, b = _segments(strokes, radius).unbind(1)                         # (S, 2) each
    rows, columns = torch.arange(H).double(), torch.arange(W).double()
    pixels = torch.cartesian_prod(rows, columns)[:, None]               # (H W, 1, 2)
    # the projection on each segment, from 0 (at a) to 1 (at b)
    length2 = (b - a).square().sum(-1).clamp(min=1e-12)                 # (S,)
    along = (((pixels - a) * (b - a)).sum(-1) / length2).clamp(0, 1)    # (H W, S)
    nearest = a + along[..., None] * (b - a)                            # (H W, S, 2)
    distance = (pixels - nearest).norm(dim=-1).min(1).values            # (H W,)
    return (distance <= radius).float().view(1, 1, H, W)


def _segments(strokes: list[list[tuple[float, float]]], radius: float) -> Tensor:
    """The strokes' segments, (S, 2, 2). Raises ValueError for what is no list of strokes."""
    try:
        strokes = [[tuple(map(float, point)) for point in stroke] for stroke in strokes]
        pairs = [pair for stroke in strokes for pair in zip(stroke, stroke[1:] or stroke)]
        ends = torch.tensor(pairs, dtype=torch.float64)
    except (TypeError, ValueError):
        strokes, ends = [[]], torch.empty(0)
    validate.number(radius, "radius", 0, above=True)
    full = ends.isfinite().all() and all(len(stroke) for stroke in strokes)
    if ends.shape[1:] != (2, 2) or not full:
        raise ValueError(
            "brush needs strokes, each a list of points (row, column), and a radius above 0; "
            f"got {strokes} and {radius}"
        )
    return ends


def _validate_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W). Raises ValueError for what is no size."""
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    try:
        H, W = (operator.index(side) for side in pair if not isinstance(side, bool))
    except (TypeError, ValueError):
        H = W = 0
    if H < 1 or W < 1:
        got = validate.show(size)
        raise ValueError(f"size is a number of pixels, or (height, width); got {got}")
    return H, W


def _validate_mask(mask: Tensor, known: Tensor) -> Tensor:
    """The mask as bool (True: drawn anew), on the device of the known image.

    Raises ValueError for another shape or values other than 0 and 1.
    """
    mask = validate.tensor(mask, "the mask")
    fits = mask.ndim == known.ndim and all(
        m in (1, k) or (axis == 0 and k == 1)
        for axis, (m, k) in enumerate(zip(mask.shape, known.shape))
    )
    if not fits:
        raise ValueError(
            f"the mask must have the shape of the known picture, {tuple(known.shape)}, "
            f"or 1 along an axis; got {tuple(mask.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            "a mask is 0 (known) and 1 (drawn anew), nothing between; "
            f"got values from {mask.min():.4g} to {mask.max():.4g}"
        )
    return mask.bool().to(known.device)


def _validate_known(known: Tensor, x: Tensor) -> None:
    """Raises ValueError unless the known image is one for all of x, or one for each."""
    if known.shape[1:] != x.shape[1:] or len(known) not in (1, len(x)):
        raise ValueError(
            f"the known picture must have the shape of what is drawn, {tuple(x.shape)}, "
            f"or 1 in front; got {tuple(known.shape)}"
        )
