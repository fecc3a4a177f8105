"""Clips of moving digits: which digit each frame shows, where it is, and how far it moves."""
from torch import Tensor

from ... import validate
from ...schedules import as_float64
from ..data.digit_clips import _centre_of_mass, _window
from .features import predict_digits

FAINT = 0.1                                                 # up to here no ink; 1 is white


def read_digits(x: Tensor) -> Tensor:
    """The digit that the shipped classifier reads in each frame: (n, F) int64; -1 for no ink.

    x: (n, F, 1, H, W) in [-1, 1]. As MNIST was made, the centre of mass is moved by whole pixels to
    the middle of a 28 x 28 window. One core reads about 500 frames in a second.
    Raises TypeError or ValueError for clips of another shape or range.
    """
    ink = _ink(x)
    centre = _centre(ink)                                               # (n, F, 2)
    images = _window(ink, (centre - 14).nan_to_num().round(), 28) * 2 - 1
    digits = predict_digits(images.flatten(0, 1)[:, None]).view(ink.shape[:2])
    return digits.where(centre.isfinite().all(-1), -1)


def positions(x: Tensor) -> Tensor:
    """The centre of mass in each frame, in the coordinates of `moving_digits`: (n, F, 2); nan for
    no ink.

    x: (n, F, 1, H, W) in [-1, 1]. Raises TypeError or ValueError for clips of another shape or
    range.
    """
    return _centre(_ink(x))


def speeds(x: Tensor) -> Tensor:
    """How far the centre of mass moves from each frame to the next, in pixels: (n, F - 1).

    That is less than a digit's speed where it bounces in between. x, errors: as in `positions`.
    """
    return positions(x).diff(dim=1).norm(dim=-1)


def identity_loss(digits: Tensor) -> Tensor:
    """The share of clips whose frame f does not show the digit of their first frame: (F,) float64

    digits: (n, F) from `read_digits`; -1 is not the same digit as another -1.
    Raises TypeError or ValueError for others.
    """
    digits = validate.tensor(digits, "digits")
    if digits.ndim != 2 or digits.is_floating_point() or digits.numel() == 0:
        raise ValueError(
            "digits are whole numbers (n, F), as read_digits gives them; "
            f"got {digits.dtype} {tuple(digits.shape)}"
        )
    return as_float64((digits != digits[:, :1]) | (digits < 0)).mean(0)


def _ink(x: Tensor) -> Tensor:
    """The ink of each pixel, 0 for black and 1 for white: (n, F, H, W)"""
    x = validate.tensor(x, "clips")
    if x.ndim != 5 or x.shape[2] != 1:
        raise ValueError(f"clips are (n, F, 1, H, W); got {tuple(x.shape)}")
    frames = validate.images(x.flatten(0, 1), "clips", limit=2)         # (n * F, 1, H, W)
    return (frames.view(x.shape)[:, :, 0].float() + 1) / 2


def _centre(ink: Tensor) -> Tensor:
    """The centre of mass of what is not faint: a model's black is not quite black."""
    return _centre_of_mass(ink.where(ink > FAINT, 0))
