"""How well an inpainted picture fits what was known: its border, and the known pixels."""
from torch import Tensor

from ... import validate
from ...masks import _validate_mask


def seam(x: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of the pixels on both sides of the mask's border: (B,).

    Of each pair of neighbours, in a row or in a column, one of which is drawn anew and one known;
    over the channels, too. To be compared with what the real picture has there.
    x: (B, C, H, W); mask: (1 or B, 1, H, W), 1 = drawn anew
    Raises TypeError or ValueError for pictures or masks of another shape, a mask with other values,
    and one that has no border.
    """
    x, mask = _validated(x, mask)
    total, count = 0, 0
    for axis in (2, 3):
        n = x.shape[axis] - 1
        first, second = (mask.narrow(axis, k, n) for k in (0, 1))       # (B, 1, H or H - 1, ...)
        border = (first != second).to(x)
        step = (x.narrow(axis, 1, n) - x.narrow(axis, 0, n)).abs().mean(1, keepdim=True)
        total = total + (step * border).flatten(1).sum(1)
        count = count + border.flatten(1).sum(1)
    if (count == 0).any():
        raise ValueError("the mask must have a border: some pixels drawn anew, some known")
    return total / count


def known_error(x: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error of the known pixels, those where the mask is 0: (B,).

    x, wanted: (B, C, H, W); mask: (1 or B, 1, H, W), 1 = drawn anew
    Raises TypeError or ValueError for pictures or masks of another shape, a mask with other values,
    and one that leaves nothing known.
    """
    x, mask = _validated(x, mask)
    wanted = validate.real(wanted, "wanted", like=x)
    known = (~mask).to(x)
    count = known.flatten(1).sum(1)
    if (count == 0).any():
        raise ValueError("the mask must leave some pixels known")
    return ((x - wanted).abs().mean(1, keepdim=True) * known).flatten(1).sum(1) / count


def _validated(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """x, and the mask as bool (B, 1, H, W)."""
    x = validate.real(x, "x", ndim=4)
    mask = _validate_mask(mask, x[:, :1])
    return x, mask.expand(len(x), 1, *x.shape[2:])

