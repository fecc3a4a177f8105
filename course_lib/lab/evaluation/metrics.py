"""Metrics of samples: distances between features (N, d) of real and of generated images.

Each depends on N: compare at one N, print it, and put beside the number what real data score
against real data (`real_baseline`). Feature extractors are in features.py.
"""
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import mnist
from .features import digit_features, features_of_test_split, lpips_network, predict_digits


class RunningMoments:
    """Mean and covariance of a stream of features, accumulated in float64.

    RunningMoments(features), or update(features) with any number of parts (n, d); then `n`, `mean`
    (d,), `covariance` (d, d).
    """

    def __init__(self, features: Tensor | Iterable[Tensor] = ()):
        self.n = 0
        self.mean = None
        self._scatter = None
        for part in [features] if isinstance(features, Tensor) else features:
            self.update(part)

    def update(self, features: Tensor) -> "RunningMoments":
        """Add a part (n, d). (Chan et al. 1983)"""
        z = _validate_features(features)
        n, mean = len(z), z.mean(0)
        scatter = (z - mean).T @ (z - mean)                                             # (d, d)
        if self.n == 0:
            self.n = n
            self.mean = mean
            self._scatter = scatter
            return self
        step, total = mean - self.mean, self.n + n
        self._scatter = self._scatter + scatter + torch.outer(step, step) * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total
        return self

    @property
    def covariance(self) -> Tensor:
        return self._scatter / (self.n - 1)


def frechet_distance(a: Tensor | RunningMoments, b: Tensor | RunningMoments) -> float:
    """The squared Fréchet (Wasserstein-2) distance between Gaussians fitted to two sets of
    features.

    a: (N, d), b: (M, d), or their RunningMoments; computed in float64. |mu_a - mu_b|^2 + tr(A + B -
    2 (A B)^(1/2)), the last trace from the eigenvalues of the symmetric S^T B S with A = S S^T, or,
    with fewer points than dimensions, from singular values, which is the same number. Biased
    upwards, the more the smaller N is. Raises ValueError for features that are not finite or do not
    match. (Dowson & Landau 1982; Heusel et al. 2017)
    """
    clouds = [z if isinstance(z, RunningMoments) else _validate_features(z) for z in (a, b)]
    d = [len(z.mean) if isinstance(z, RunningMoments) else z.shape[1] for z in clouds]
    n = [z.n if isinstance(z, RunningMoments) else len(z) for z in clouds]
    if d[0] != d[1] or min(n) < 2:
        raise ValueError(
            f"two clouds of features (N, d) and (M, d) are needed, at least two points each; got "
            f"({n[0]}, {d[0]}) and ({n[1]}, {d[1]})"
        )
    if max(n) <= d[0] and not any(isinstance(z, RunningMoments) for z in clouds):
        return _frechet_of_few(*clouds)
    a, b = (z if isinstance(z, RunningMoments) else RunningMoments(z) for z in clouds)
    A, B = a.covariance, b.covariance
    S = _root(A)                                                          # (d, d), A = S S^T
    cross = torch.linalg.eigvalsh(S.T @ B @ S).clamp(min=0).sqrt().sum()  # tr (A B)^(1/2)
    return ((a.mean - b.mean).square().sum() + A.trace() + B.trace() - 2 * cross).item()


def _root(A: Tensor) -> Tensor:
    """Some S with A = S S^T: Cholesky's factor, or from the eigenvectors where A is singular.

    (d, d) -> (d, d)
    """
    S, failed = torch.linalg.cholesky_ex(A)
    if not failed:
        return S
    w, V = torch.linalg.eigh(A)
    return V * w.clamp(min=0).sqrt()


def _frechet_of_few(a: Tensor, b: Tensor) -> float:
    """With A = X^T X and B = Y^T Y, tr (A B)^(1/2) is the sum of the singular values of X
    Y^T (N, M).
    """
    X, Y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (a, b))
    cross = torch.linalg.svdvals(X @ Y.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return (means + X.square().sum() + Y.square().sum() - 2 * cross).item()


def kid(
    a: Tensor, b: Tensor, size: int = 1000, subsets: int = 50, seed: int = 0
) -> tuple[float, float]:
    """Kernel inception distance, kernel (x.y / d + 1)^3: mean over random subsets, and its standard
    error.

    a: (N, d), b: (M, d). Unbiased: 0 on average for two sets from one distribution, whatever N.
    size: of each subset. Raises ValueError for features that are not finite.
    (Binkowski et al. 2018)
    """
    a, b = _validate_features(a), _validate_features(b)
    size, g = min(size, len(a), len(b)), torch.Generator().manual_seed(seed)
    pick = lambda z: z[torch.randperm(len(z), generator=g)[:size]]
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    values = torch.tensor([mmd(pick(a), pick(b), kernel) for _ in range(subsets)])
    if subsets == 1:
        return values.item(), float("nan")
    return values.mean().item(), (values.std(correction=1) / subsets**0.5).item()


def gaussian_kernel_distance(a: Tensor, b: Tensor, width: float = 10.0) -> float:
    """Squared MMD with the kernel exp(-|x - y|^2 / (2 width^2)): CMMD's, with any features.

    Unbiased; unlike a Fréchet distance it is 0 on average only for equal distributions.
    (Jayasumana et al. 2024)
    """
    return mmd(
        _validate_features(a),
        _validate_features(b),
        lambda x, y: (-torch.cdist(x, y).square() / (2 * width**2)).exp(),
    )


def mmd(a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy.

    a: (N, d), b: (M, d); Gretton et al. 2012, eq. 3
    """
    N, M = len(a), len(b)
    K_aa = kernel(a, a)
    K_bb = kernel(b, b)
    K_ab = kernel(a, b)
    within = (
        (K_aa.sum() - K_aa.trace()) / (N * (N - 1))
        + (K_bb.sum() - K_bb.trace()) / (M * (M - 1))
    )
    return (within - 2 * K_ab.mean()).item()


def inception_score(p: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL from each image's class probabilities to their mean: (mean, std) over
    splits.

    p: (N, K), rows adding up to 1. Between 1 and K. It uses no real data. Raises ValueError for
    rows that are no probabilities, and for fewer rows than splits. (Salimans et al. 2016)
    """
    p = _validate_features(p)
    if len(p) < splits or (p < 0).any() or ((p.sum(1) - 1).abs() > 1e-3).any():
        raise ValueError(
            f"probabilities (N, K) with N >= {splits} are needed, rows adding up to 1; got "
            f"{tuple(p.shape)}, sums from {p.sum(1).min():.3g} to {p.sum(1).max():.3g}"
        )
    scores = []
    for part in p.tensor_split(splits):
        mean = part.mean(0, keepdim=True)
        scores.append((torch.xlogy(part, part) - torch.xlogy(part, mean)).sum(1).mean().exp())
    return torch.stack(scores).mean().item(), torch.stack(scores).std(correction=0).item()


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall): fractions of generated points near a real one, and of real near a
    generated one.

    real: (N, d), generated: (M, d). Near: within the distance of that point to its k-th neighbour
    in its own set. Raises ValueError for k or fewer points. (Kynkäänniemi et al. 2019)
    """
    real, generated = _validate_features(real), _validate_features(generated)
    if min(len(real), len(generated)) <= k:
        raise ValueError(
            f"each cloud needs more than k = {k} points; got {len(real)} and {len(generated)}"
        )
    return _covered(generated, real, k), _covered(real, generated, k)


def _covered(points: Tensor, cloud: Tensor, k: int) -> float:
    """The fraction of `points` that lie in a ball around a point of `cloud`."""
    # k + 1: its nearest neighbour is the point itself
    distances = (torch.cdist(part, cloud) for part in cloud.split(1000))
    radius = torch.cat([d.kthvalue(k + 1, dim=1).values for d in distances])     # (M,)
    distances = (torch.cdist(part, cloud) for part in points.split(1000))
    return torch.cat([(d <= radius).any(1) for d in distances]).double().mean().item()


def real_baseline(
    metric: Callable[[Tensor, Tensor], float], real: Tensor, n: int, draws: int = 5, seed: int = 0
) -> tuple[float, float]:
    """What n real points score against other real ones: (mean, std) over `draws` random splits.

    real: (N, d), split into n and the rest; metric: of two sets of features.
    Raises ValueError for an n that leaves fewer than two points on a side.
    """
    if not 2 <= n <= len(real) - 2:
        raise ValueError(f"n must leave at least two of the {len(real)} real points; got {n}")
    g, values = torch.Generator().manual_seed(seed), []
    for _ in range(draws):
        order = torch.randperm(len(real), generator=g)
        values.append(metric(real[order[:n]], real[order[n:]]))
    return torch.tensor(values).mean().item(), torch.tensor(values).std().item()


def frechet_real_baseline(n: int, seed: int = 0, balanced: bool = False) -> float:
    """The Fréchet distance of n *real* training digits to the test digits: what a perfect model
    scores.

    balanced: n / 10 of each label, for models that were given equally many of each; else at random.
    """
    x, y = mnist("train")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rows = order[:n]
    if balanced:
        rows = torch.cat([order[y[order] == label][: n // 10] for label in range(10)])
    return frechet_distance(digit_features(x[rows]), features_of_test_split())


def class_agreement(x: Tensor, y: Tensor) -> float:
    """The fraction of images in which the digit classifier's prediction is the label asked for.

    x: (N, 1, 28, 28) in [-1, 1], y: (N,) int64. Raises ValueError where the sizes differ.
    """
    return (predict_digits(x) == y.to(x.device)).double().mean().item()


def lpips(x: Tensor, y: Tensor, enlarge_to: int | None = None) -> Tensor:
    """LPIPS: the perceptual distance of image pairs, x, y (N, 3 or 1, H, W) in [-1, 1] -> (N,).

    AlexNet needs 32 pixels or more; enlarge_to=64 enlarges smaller images first (bilinear).
    Raises ValueError for images of another shape or range, or too small. (Zhang et al. 2018)
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise ValueError(
            f"two batches of pictures (N, 3 or 1, H, W) in [-1, 1] are compared pair by pair; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    if max(x.abs().max(), y.abs().max()) > 1.001:
        raise ValueError(
            f"pictures must lie in [-1, 1]; got up to {max(x.abs().max(), y.abs().max()):.4g}: "
            f"scale with x / 127.5 - 1, or clamp samples"
        )
    if enlarge_to is not None:
        size = (enlarge_to, enlarge_to)
        x, y = (F.interpolate(z, size=size, mode="bilinear") for z in (x, y))
    if min(x.shape[2:]) < 32:
        raise ValueError(
            f"AlexNet needs images of 32 pixels or more; these have {x.shape[2]} x {x.shape[3]}: "
            "pass enlarge_to=64 to enlarge them first, and say so beside the number"
        )
    net = lpips_network(x.device)
    x, y = (z.expand(-1, 3, -1, -1) for z in (x, y))
    return torch.cat([net(a, b) for a, b in zip(x.split(100), y.split(100))])


def _validate_features(z: Tensor) -> Tensor:
    """Features in float64 on the CPU.

    Raises ValueError for another shape or values that are not finite.
    """
    z = torch.as_tensor(z).detach().cpu().double()
    if z.ndim != 2 or len(z) == 0:
        raise ValueError(
            f"a cloud of features is (N, d), one row for each picture; got {tuple(z.shape)}"
        )
    if not z.isfinite().all():
        raise ValueError(
            "features that are not finite (nan or inf) have no distance: look at the samples first"
        )
    return z
