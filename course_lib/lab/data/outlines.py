"""Outlines of pictures: a hint that says where things are, and not what."""
import torch.nn.functional as F
from torch import Tensor

from ... import validate

CHANGE = 0.25                                               # of a colour, in [-1, 1]


def outline(x: Tensor, change: float = CHANGE) -> Tensor:
    """1 where a pixel's colour differs from its right or lower neighbour's, else 0: (B, 1, H, W).

    x: (B, C, H, W) in [-1, 1]; change: the difference of one channel that counts
    Raises TypeError or ValueError for pictures of another shape or range, and a change outside
    [0, 2].
    """
    x = validate.images(x, "pictures", limit=2)
    change = validate.number(change, "change", 0, 2)
    right = F.pad((x[..., 1:] - x[..., :-1]).abs().amax(1, keepdim=True), (0, 1))
    lower = F.pad((x[..., 1:, :] - x[..., :-1, :]).abs().amax(1, keepdim=True), (0, 0, 0, 1))
    return ((right > change) | (lower > change)).to(x.dtype)


def outline_f1(found: Tensor, wanted: Tensor, tolerance: int = 1) -> Tensor:
    """F1 of two outlines (B, 1, H, W) of 0 and 1: (B,). 1 where both are empty.

    The harmonic mean of precision and recall; a point counts where the other outline has one at
    most `tolerance` pixels away, diagonally, too. (Martin et al. 2004, up to their matching)
    Raises TypeError or ValueError for outlines of unequal shape, and a tolerance that is no whole
    number.
    """
    wanted = validate.real(wanted, "wanted")
    found = validate.real(found, "found", like=wanted)
    side = 2 * validate.whole(tolerance, "tolerance", 0) + 1
    wide = lambda x: F.max_pool2d(x, side, 1, side // 2)
    precision = (found * wide(wanted)).flatten(1).sum(1) / found.flatten(1).sum(1).clamp(min=1)
    recall = (wanted * wide(found)).flatten(1).sum(1) / wanted.flatten(1).sum(1).clamp(min=1)
    both_empty = (found.flatten(1).amax(1) == 0) & (wanted.flatten(1).amax(1) == 0)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return f1.masked_fill(both_empty, 1.0)
