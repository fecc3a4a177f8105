"""Two-dimensional toys: (N, 2) float32, centred, about one unit wide, so that N(0, I) is a good
prior.

Each takes n >= 1, a seed and the deviation of its noise; raises TypeError or ValueError for others.
"""
import math

import torch
from torch import Tensor

from ... import validate


def _validated(n: int, seed: int, noise: float = 0.0) -> tuple[int, torch.Generator]:
    """n, and the generator of this seed. Raises TypeError or ValueError for other values."""
    validate.number(noise, "noise", 0)
    return validate.whole(n, "n"), torch.Generator().manual_seed(validate.seed(seed))


def two_moons(n: int, seed: int = 0, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles: (n, 2)."""
    n, g = _validated(n, seed, noise)
    angle = math.pi * torch.rand(n, generator=g)
    upper = torch.rand(n, generator=g) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], dim=1) + noise * torch.randn(n, 2, generator=g)


def swiss_roll(n: int, seed: int = 0, noise: float = 0.04) -> Tensor:
    """One arm that winds outwards by one and a half turns: (n, 2)."""
    n, g = _validated(n, seed, noise)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g).sqrt())
    arm = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / 9
    return arm + noise * torch.randn(n, 2, generator=g)


def spiral(n: int, seed: int = 0, noise: float = 0.03) -> Tensor:
    """Two arms, half a turn apart: (n, 2)."""
    n, g = _validated(n, seed, noise)
    radius = torch.rand(n, generator=g).sqrt()
    sign = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    angle = 3 * math.pi * radius
    arms = 1.4 * sign[:, None] * radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return arms + noise * torch.randn(n, 2, generator=g)


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """The black squares of a 4 x 4 board on [-1.5, 1.5]^2: (n, 2)."""
    n, g = _validated(n, seed)
    column = torch.randint(4, (n,), generator=g)
    row = 2 * torch.randint(2, (n,), generator=g) + column % 2
    corner = torch.stack([column, row], dim=1)
    return (corner + torch.rand(n, 2, generator=g)) * 0.75 - 1.5
