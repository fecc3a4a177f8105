"""Metrics of small sets: the Chamfer distance of point clouds, 1-NNA, and distances to the training
set.

The last two take any distance, of sounds or images as well. Each comes with a 95 % interval, since
sets are small here.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ... import validate


class OneNNA(NamedTuple):
    """1-NNA in [0, 1], and its 95 % interval."""
    accuracy: float
    low: float
    high: float


class NearestRatio(NamedTuple):
    """The ratio of each sample (N,), their median, and its 95 % interval."""
    each: Tensor
    median: float
    low: float
    high: float


def chamfer(a: Tensor, b: Tensor, squared: bool = True) -> Tensor:
    """The Chamfer distance of each cloud of a (N, P, D) to each of b (M, Q, D): (N, M) float64.

    The mean, over the points of one cloud, of the distance to the nearest point of the other, both
    ways, added. squared: of squared distances, as in published tables (Fan et al. 2017; Yang et al.
    2019, PointFlow, section 5.1); else of the distances themselves, which are lengths. 0 for equal
    sets of points, and for them alone. Raises TypeError or ValueError for other shapes.
    """
    a, b = _validate_clouds(a, "a"), _validate_clouds(b, "b")
    if a.shape[2] != b.shape[2]:
        raise ValueError(f"points must have as many coordinates; got {a.shape[2]}, {b.shape[2]}")
    validate.instance(squared, bool, "squared", "True")
    power = 2 if squared else 1
    return _one_way(a, b, power).T + _one_way(b, a, power)


def _one_way(a: Tensor, b: Tensor, power: int) -> Tensor:
    """Mean over the points of each b of (distance to the nearest point of each a)^power: (M, N)"""
    points, threads = b.flatten(0, 1).numpy(), torch.get_num_threads()      # (M Q, D)
    columns = []
    for cloud in a.numpy():
        nearest, _ = KDTree(cloud).query(points, workers=threads)           # (M Q,)
        columns.append((nearest**power).reshape(b.shape[:2]).mean(1))
    return torch.from_numpy(np.stack(columns, axis=1))


def one_nna(
    a: Tensor, b: Tensor, distance: Callable[[Tensor, Tensor], Tensor] = chamfer
) -> OneNNA:
    """1-nearest-neighbour accuracy: how often the nearest other example is of the same set.

    a, b: two sets of equal size N, at least 2; distance: (K, ...), (K, ...) -> (K, K), of all K =
    2 N examples. 1 for sets apart, (N - 1) / (2 N - 1), about one half, for sets from one
    distribution, and 0 where each example of one set is copied in the other: below one half is no
    better than one half. With a table of distances D pass rows of it and
    `lambda i, j: D[i][:, j]`. Nearest examples at equal distance count in parts.

    The interval is Wilson's (1927). Two examples that are nearest to each other are right or wrong
    together, so they count as one.
    Raises TypeError or ValueError for sets of unequal sizes, and a distance of another shape.
    (Lopez-Paz & Oquab 2017; Yang et al. 2019, PointFlow, section 5.1)
    """
    a, b = validate.tensor(a, "a"), validate.tensor(b, "b")
    validate.function(distance, "distance", "(K, ...), (K, ...) -> (K, K)")
    if a.ndim == 0 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            "two sets of equal size are compared, two examples or more (else chance is not one "
            f"half); got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    both = torch.cat([a, b])
    d = _validate_distances(distance(both, both), "distance", (len(both), len(both))).clone()
    d.fill_diagonal_(torch.inf)
    nearest = d == d.amin(1, keepdim=True)                              # (K, K), one or more a row
    of_b = torch.arange(len(both)) >= len(a)
    same = of_b[:, None] == of_b
    right = ((nearest & same).sum(1).double() / nearest.sum(1)).mean().item()
    mutual = (nearest & nearest.T).any(1).double().mean().item()
    return OneNNA(right, *_wilson(right, len(both) / (1 + mutual)))


def _wilson(p: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The ends of Wilson's interval for a fraction p of n."""
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def nearest_ratio(
    samples_to_train: Tensor, held_out_to_train: Tensor, seed: int = 0
) -> NearestRatio:
    """How near samples are to the training set, in units of how near real held-out examples are.

    samples_to_train: (N, M) distances, held_out_to_train: (K, M), to the same M training examples.
    Each sample's distance to the nearest training example, divided by the median of the held-out
    ones' distances. 1 is as new as real data, 0 an exact copy. Two samples of one surface are not
    at distance 0: put the ratio of training examples, sampled again, beside it. The interval is the
    bootstrap's, over samples and held-out examples (1,000 draws; training examples stay).
    Raises TypeError or ValueError for other shapes, negative distances, and where a held-out
    example is in the training set.
    """
    new = _validate_distances(samples_to_train, "samples_to_train").amin(1)             # (N,)
    real = _validate_distances(held_out_to_train, "held_out_to_train").amin(1)          # (K,)
    if len(samples_to_train[0]) != len(held_out_to_train[0]):
        raise ValueError("both are distances to the same training examples: as many columns")
    if (real == 0).any():
        raise ValueError(f"{(real == 0).sum()} of the held-out examples are in the training set")
    g = torch.Generator().manual_seed(validate.seed(seed))
    draw = lambda z: z[torch.randint(len(z), (1000, len(z)), generator=g)].quantile(0.5, dim=1)
    low, high = (draw(new) / draw(real)).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    each = new / real.quantile(0.5)
    return NearestRatio(each, each.quantile(0.5).item(), low, high)


def _validate_clouds(x: Tensor, name: str) -> Tensor:
    """Clouds in float64 on the CPU."""
    x = validate.real(x, name)
    if x.ndim != 3:
        raise ValueError(f"{name} must be clouds (N, points, coordinates); got {tuple(x.shape)}")
    return x.detach().cpu().double()


def _validate_distances(d: Tensor, name: str, shape: tuple[int, int] | None = None) -> Tensor:
    """Distances (N, M) in float64 on the CPU."""
    d = validate.real(d, name)
    if d.ndim != 2 or shape is not None and d.shape != shape:
        wanted = "(N, M)" if shape is None else shape
        raise ValueError(f"{name} must be a table of distances {wanted}; got {tuple(d.shape)}")
    d = d.detach().cpu().double()
    if (d < 0).any():
        raise ValueError(f"{name} must be distances, 0 or more; got {d.min().item():.4g}")
    return d
