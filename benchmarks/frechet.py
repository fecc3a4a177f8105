"""The Fréchet distance of two clouds of features: metrics.frechet_distance beside the usual way,
scipy's square root of a matrix.

    python benchmarks/frechet.py
        d = 2048, n = 5,000 each; then n = 1,500 each, fewer points than dimensions
    python benchmarks/frechet.py --d 1024 --rounds 3
    (needs pip install scipy, which the course itself does not use)

Both get the same means and covariances in float64, made before the clock starts, and compute
|mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)): ours from eigenvalues of symmetric matrices, the other
from scipy.linalg.sqrtm(A B), as most code for the FID does. They take turns. The last columns add
the time that each takes from features to statistics, torch for ours and numpy for the other; with
fewer points than dimensions ours needs no covariances, and is timed from the features.
"""
import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from course_lib.lab import metrics, train


def cloud(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """n correlated points, their spread falling from direction to direction, as real features'
    does: (n, d) float64.
    """
    g = torch.Generator().manual_seed(seed)
    mix = (
        torch.randn(d, d, generator=g, dtype=torch.float64)
        * torch.arange(1, d + 1).double().rsqrt()[:, None]
    )
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix / d**0.5 + shift


def by_square_root(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
    """The distance from (mean, covariance) of each cloud; rounding leaves an imaginary part, which
    is dropped, as is usual.
    """
    (mu_a, A), (mu_b, B) = a, b
    return float(((mu_a - mu_b) ** 2).sum() + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real))


def timed(run: Callable, *inputs) -> tuple[float, object]:
    start = time.perf_counter()
    result = run(*inputs)
    return time.perf_counter() - start, result


def moments(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return z.mean(0), np.cov(z, rowvar=False)


def compare(n: int, d: int, rounds: int) -> None:
    """One line: both ways in turns, on the same two clouds."""
    a = cloud(n, d, 0)
    b = cloud(n, d, 1, shift=0.1)
    rows = []
    for _ in range(rounds):
        ours_statistics, ours_moments = timed(lambda: [metrics.RunningMoments(z) for z in (a, b)])
        their_statistics, their_moments = timed(lambda: [moments(z.numpy()) for z in (a, b)])
        ours, distance = timed(metrics.frechet_distance, *ours_moments)
        theirs, reference = timed(by_square_root, *their_moments)
        whole = (
            timed(metrics.frechet_distance, a, b) if n <= d else (ours_statistics + ours, distance)
        )
        rows.append(
            (
                ours,
                theirs,
                theirs / ours,
                abs(distance / reference - 1),
                whole[0],
                their_statistics + theirs,
                (their_statistics + theirs) / whole[0],
                abs(whole[1] / reference - 1),
            )
        )
    middle = [statistics.median(column) for column in zip(*rows)]
    lowest, highest = min(row[2] for row in rows), max(row[2] for row in rows)
    worst = max(max(row[3], row[7]) for row in rows)
    shown = lambda k: f"{middle[k]:8.2f} {middle[k + 1]:8.2f} {middle[k + 2]:7.1f}"
    print(
        (
            f"{n:6,} {d:6} {shown(0)}   ({lowest:.1f} to {highest:.1f})   {shown(4)}   "
            f"{worst:.1e}   {distance:.6f}"
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--d", type=int, default=2048, help="the number of features")
    parser.add_argument(
        "--n",
        type=int,
        nargs="+",
        help="points in each cloud; default 5,000 and 1,500 (less where d is less)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{train.about_machine()}, scipy {scipy.__version__}, numpy {np.__version__}")
    small = [cloud(300, 100, seed) for seed in (0, 1)]
    # warm up
    metrics.frechet_distance(*small)
    by_square_root(*(moments(z.numpy()) for z in small))
    print(
        f"seconds, median of {args.rounds} turns: ours, scipy's, their ratio (and its range); then "
        "the same from features to distance;\nthe largest relative difference of the two "
        "distances; the distance"
    )
    print(
        f"{'n':>6} {'d':>6} {'ours':>8} {'scipy':>8} {'ratio':>7}   {'range':12}   {'ours':>8} "
        f"{'scipy':>8} {'ratio':>7}   {'differ':7}   distance"
    )
    for n in args.n or (5000, 1500 * args.d // 2048):
        compare(n, args.d, args.rounds)


if __name__ == "__main__":
    main()
