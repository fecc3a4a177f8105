"""How good are the samples? Distances between clouds of features, whoever made the features (lab/features.py).

Each takes features (N, d), real and generated. Each depends on N: compare at one N, print it, and put beside the number what real
data score against real data (`floor`).
"""
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from . import nouns
from .data import mnist
from .features import (DigitClassifier, alexnet, class_agreement, classifier, dinov2, features, inception, lpips, predict,  # noqa: F401
                       probabilities, test_features)


class Statistics:
    """The mean and covariance of a stream of features, summed in float64, so that a million pictures need no memory.

    `Statistics(features)`, or update(features) with any number of parts (n, d); then `n`, `mean` (d,), `covariance` (d, d).
    """

    def __init__(self, features: Tensor | Iterable[Tensor] = ()):
        self.n, self.mean, self._scatter = 0, None, None
        for part in [features] if isinstance(features, Tensor) else features:
            self.update(part)

    def update(self, features: Tensor) -> "Statistics":
        """Add a part, by the rule for joining two groups of numbers. (Chan et al. 1983)"""
        z = checked_features(features)
        n, mean = len(z), z.mean(0)
        scatter = (z - mean).T @ (z - mean)                                             # (d, d)
        if self.n == 0:
            self.n, self.mean, self._scatter = n, mean, scatter
            return self
        step, total = mean - self.mean, self.n + n
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self.mean, self.n = self.mean + step * (n / total), total
        return self

    @property
    def covariance(self) -> Tensor:
        return self._scatter / (self.n - 1)


def frechet_distance(a: Tensor | Statistics, b: Tensor | Statistics) -> float:
    """The Fréchet (Wasserstein-2) distance, squared, between Gaussians fitted to two clouds of features.

    a: (N, d), b: (M, d), or their Statistics; computed in float64. |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the last trace from
    the eigenvalues of the symmetric S^T B S with A = S S^T; or, where there are fewer points than dimensions, from the singular
    values of one cloud against the other, which is the same number at a fraction of the cost. Biased upwards, the more the smaller
    N is. Raises ValueError for features that are not finite or do not match. Source: Dowson & Landau 1982; Heusel et al. 2017.
    """
    clouds = [z if isinstance(z, Statistics) else checked_features(z) for z in (a, b)]
    d = [len(z.mean) if isinstance(z, Statistics) else z.shape[1] for z in clouds]
    n = [z.n if isinstance(z, Statistics) else len(z) for z in clouds]
    if d[0] != d[1] or min(n) < 2:
        raise ValueError(f"two clouds of features (N, d) and (M, d) are needed, at least two points each; got ({n[0]}, {d[0]}) and ({n[1]}, {d[1]})")
    if max(n) <= d[0] and not any(isinstance(z, Statistics) for z in clouds):
        return _frechet_of_few(*clouds)
    a, b = (z if isinstance(z, Statistics) else Statistics(z) for z in clouds)
    A, B = a.covariance, b.covariance
    S = _root(A)                                                                        # (d, d), A = S S^T
    cross = torch.linalg.eigvalsh(S.T @ B @ S).clamp(min=0).sqrt().sum()                # tr (A B)^(1/2)
    return ((a.mean - b.mean).square().sum() + A.trace() + B.trace() - 2 * cross).item()


def _root(A: Tensor) -> Tensor:
    """Some S with A = S S^T: Cholesky's triangle, or from the eigenvectors where A is singular.   (d, d) -> (d, d)"""
    S, failed = torch.linalg.cholesky_ex(A)
    if not failed:
        return S
    w, V = torch.linalg.eigh(A)
    return V * w.clamp(min=0).sqrt()


def _frechet_of_few(a: Tensor, b: Tensor) -> float:
    """With A = X^T X and B = Y^T Y, tr (A B)^(1/2) is the sum of the singular values of X Y^T, (N, M)."""
    X, Y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (a, b))
    cross = torch.linalg.svdvals(X @ Y.T).sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + X.square().sum() + Y.square().sum() - 2 * cross).item()


def kid(a: Tensor, b: Tensor, size: int = 1000, subsets: int = 50, seed: int = 0) -> tuple[float, float]:
    """Kernel distance with the kernel (x.y / d + 1)^3: mean over random subsets of `size`, and the mean's standard error.

    Unbiased: 0 on average for two clouds from one distribution, whatever N. Source: Binkowski et al. 2018.
    """
    a, b = checked_features(a), checked_features(b)
    size, g = min(size, len(a), len(b)), torch.Generator().manual_seed(seed)
    pick = lambda z: z[torch.randperm(len(z), generator=g)[:size]]
    values = torch.tensor([mmd(pick(a), pick(b), lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3) for _ in range(subsets)])
    return values.mean().item(), (values.std(correction=1) / subsets**0.5).item() if subsets > 1 else float("nan")


def gaussian_kernel_distance(a: Tensor, b: Tensor, width: float = 10.0) -> float:
    """Kernel distance with the kernel exp(-|x - y|^2 / (2 width^2)): CMMD's, with any features.   Jayasumana et al. 2024

    Unbiased; it sees every difference of two distributions, not only of their means and covariances.
    """
    return mmd(checked_features(a), checked_features(b), lambda x, y: (-torch.cdist(x, y).square() / (2 * width**2)).exp())


def mmd(a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy.   a: (N, d), b: (M, d); Gretton et al. 2012, eq. 3"""
    N, M = len(a), len(b)
    K_aa, K_bb, K_ab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = (K_aa.sum() - K_aa.trace()) / (N * (N - 1)) + (K_bb.sum() - K_bb.trace()) / (M * (M - 1))
    return (within - 2 * K_ab.mean()).item()


def inception_score(p: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL from each picture's class probabilities to their mean; mean and standard deviation over `splits`.

    p: (N, K), rows adding up to 1. Between 1 and K. It never looks at real data. Source: Salimans et al. 2016.
    """
    p = checked_features(p)
    if len(p) < splits or (p < 0).any() or ((p.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError(f"probabilities (N, K) with N >= {splits} are needed, rows adding up to 1; got {tuple(p.shape)}, sums from {p.sum(1).min():.3g} to {p.sum(1).max():.3g}")
    scores = []
    for part in p.tensor_split(splits):
        mean = part.mean(0, keepdim=True)
        scores.append((torch.xlogy(part, part) - torch.xlogy(part, mean)).sum(1).mean().exp())
    return torch.stack(scores).mean().item(), torch.stack(scores).std(correction=0).item()


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall): the share of generated points near a real one, and of real points near a generated one.

    Near: not farther away than that point's own k-th neighbour in its cloud. Source: Kynkäänniemi et al. 2019.
    """
    real, generated = checked_features(real), checked_features(generated)
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"each cloud needs more than k = {k} points; got {len(real)} and {len(generated)}")
    return _covered(generated, real, k), _covered(real, generated, k)


def _covered(points: Tensor, cloud: Tensor, k: int) -> float:
    """The share of `points` that lie in one of the balls around the points of `cloud`."""
    radius = torch.cat([torch.cdist(part, cloud).kthvalue(k + 1, dim=1).values for part in cloud.split(1000)])      # its nearest is itself
    return torch.cat([(torch.cdist(part, cloud) <= radius).any(1) for part in points.split(1000)]).double().mean().item()


def floor(metric: Callable[[Tensor, Tensor], float], real: Tensor, n: int, draws: int = 5, seed: int = 0) -> tuple[float, float]:
    """What n real points score against real ones: mean and standard deviation over `draws` random splits of `real` (N, d) into n and the rest."""
    if not 2 <= n <= len(real) - 2:
        raise ValueError(f"n must leave at least two of the {len(real)} real points; got {n}")
    g, values = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        order = torch.randperm(len(real), generator=g)
        values.append(metric(real[order[:n]], real[order[n:]]))
    return torch.tensor(values).mean().item(), torch.tensor(values).std().item()


def frechet_floor(n: int, seed: int = 0, balanced: bool = False) -> float:
    """What n *real* training digits score against the test digits: no honest model should be expected to score less.

    balanced: n / 10 of each label, for models that were asked for equally many of each; else drawn at random.
    """
    x, y = mnist("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[y[order] == label][:n // 10] for label in range(10)]) if balanced else order[:n]
    return frechet_distance(features(x[rows]), test_features())


def part_matches(x: Tensor, parts: Tensor) -> Tensor:
    """Whether each part of each noun is the one that was asked for: x (N, 3, 32, 32) in [-1, 1], parts (N, 5) -> (N, 5) bool.

    For one part at a time every candidate is drawn, the other parts as asked for; the nearest to the picture must look like what
    was asked (where an accessory hides the body, all bodies do). Real pictures score 1; chance is `part_chance(parts)`.
    """
    x, parts = checked_nouns(x, parts), nouns.checked_parts(parts)
    palette, matches = nouns.art().palette, torch.empty(len(x), len(nouns.PARTS), dtype=torch.bool)
    start = torch.arange(1024) * palette.shape[1]                                       # where each pixel's row of the table begins
    for picture, row, match in zip(x, parts, matches):
        far = (picture.flatten(1)[..., None] - palette[:, None]).square().sum(0)        # (1024, colours): how far each pixel is from each colour
        for column in range(len(row)):
            drawn = _candidates(row, column)                                            # (K, 1024)
            nearest = far.take(start + drawn).sum(1).argmin()
            match[column] = torch.equal(drawn[nearest], drawn[row[column]])
    return matches


def part_chance(parts: Tensor) -> Tensor:
    """What guessing scores, for each part: the mean share of the candidates that look like what was asked for.   (N, 5) -> (5,)"""
    parts = nouns.checked_parts(parts)
    share = torch.empty(parts.shape)
    for row, chance in zip(parts, share):
        for column in range(len(row)):
            drawn = _candidates(row, column)
            chance[column] = (drawn == drawn[row[column]]).all(1).float().mean()
    return share.mean(0)


def _candidates(row: Tensor, column: int) -> Tensor:
    """One combination (5,) with every possibility for one of its parts, as palette indices: (K, 1024)."""
    count = len(nouns.art().layers[nouns.PARTS[column]])
    rows = row.repeat(count, 1)
    rows[:, column] = torch.arange(count)
    return nouns.indices(rows).flatten(1)


def checked_nouns(x: Tensor, parts: Tensor) -> Tensor:
    """Pictures on the CPU, cut to [-1, 1], or one clear sentence."""
    if x.ndim != 4 or x.shape[1:] != (3, 32, 32) or len(x) != len(parts) or not x.is_floating_point():
        raise ValueError(f"nouns are pictures (N, 3, 32, 32) in [-1, 1], with as many rows of parts; got {x.dtype} {tuple(x.shape)} and {len(parts)} rows")
    if not x.isfinite().all():
        raise ValueError("the pictures have values that are not finite (nan or inf)")
    return x.detach().cpu().float().clamp(-1, 1)


def checked_features(z: Tensor) -> Tensor:
    """Features in float64 on the CPU, or one clear sentence."""
    z = torch.as_tensor(z).detach().cpu().double()
    if z.ndim != 2 or len(z) == 0:
        raise ValueError(f"a cloud of features is (N, d), one row for each picture; got {tuple(z.shape)}")
    if not z.isfinite().all():
        raise ValueError("features that are not finite (nan or inf) have no distance: look at the samples first")
    return z
