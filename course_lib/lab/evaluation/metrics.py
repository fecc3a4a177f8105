"""Metrics of samples: distances between features (N, d) of real and of generated images.

Each depends on N: compare at one N, print it, and put beside the number what real data score
against real data (`real_baseline`). Feature extractors are in features.py.
"""
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ..data import mnist
from .features import digit_features, features_of_test_split, lpips_network, predict_digits


class RunningMoments:
    """Mean and covariance of a stream of features, accumulated in float64.

    RunningMoments(features), or update(features) with any number of parts (n, d); then `n`, `mean`
    (d,), `covariance` (d, d). Raises TypeError or ValueError for features that are not finite or of
    another d, and for the covariance of fewer than two points.
    """

    def __init__(self, features: Tensor | Iterable[Tensor] = ()):
        self.n = 0
        self.mean = None
        self._scatter = None
        for part in [features] if isinstance(features, (Tensor, np.ndarray)) else features:
            self.update(part)

    def update(self, features: Tensor) -> "RunningMoments":
        """Add a part (n, d). (Chan et al. 1983)"""
        z = _validate_features(features)
        if self.n and z.shape[1] != len(self.mean):
            raise ValueError(f"features must be (n, {len(self.mean)}); got {tuple(z.shape)}")
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
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two points; got {self.n}")
        return self._scatter / (self.n - 1)


def frechet_distance(a: Tensor | RunningMoments, b: Tensor | RunningMoments) -> float:
    """The squared Fréchet (Wasserstein-2) distance between Gaussians fitted to two sets of
    features.

    a: (N, d), b: (M, d), or their RunningMoments; computed in float64. |mu_a - mu_b|^2 + tr(A + B -
    2 (A B)^(1/2)), the last trace from the eigenvalues of the symmetric S^T B S with A = S S^T, or,
    with fewer points than dimensions, from singular values, which is the same number. Biased
    upwards, the more the smaller N is. Raises TypeError or ValueError for features that are not
    finite or do not match. (Dowson & Landau 1982; Heusel et al. 2017)
    """
    clouds = [z if isinstance(z, RunningMoments) else _validate_features(z) for z in (a, b)]
    moments = [isinstance(z, RunningMoments) for z in clouds]
    sizes = [(z.n, len(z.mean) if z.n else 0) if m else z.shape for z, m in zip(clouds, moments)]
    _validate_match(*sizes)
    if max(sizes[0][0], sizes[1][0]) <= sizes[0][1] and not any(moments):
        return _frechet_of_few(*clouds)
    a, b = (z if m else RunningMoments(z) for z, m in zip(clouds, moments))
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
    size: of each subset, 2 or more. Raises TypeError or ValueError for features that are not finite
    or do not match. (Binkowski et al. 2018)
    """
    a, b = _validate_pair(a, b)
    size = min(validate.whole(size, "size", 2), len(a), len(b))
    validate.whole(subsets, "subsets")
    g = torch.Generator().manual_seed(validate.seed(seed))
    pick = lambda z: z[torch.randperm(len(z), generator=g)[:size]]
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    values = torch.tensor([mmd(pick(a), pick(b), kernel) for _ in range(subsets)])
    if subsets == 1:
        return values.item(), float("nan")
    return values.mean().item(), (values.std(correction=1) / subsets**0.5).item()


def gaussian_kernel_distance(a: Tensor, b: Tensor, width: float = 10.0) -> float:
    """Squared MMD with the kernel exp(-|x - y|^2 / (2 width^2)): CMMD's, with any features.

    Unbiased; unlike a Fréchet distance it is 0 on average only for equal distributions.
    Raises TypeError or ValueError for features that are not finite or do not match, and a width
    that is not above 0. (Jayasumana et al. 2024)
    """
    width = validate.number(width, "width", 0, above=True)
    a, b = _validate_pair(a, b)
    return mmd(a, b, lambda x, y: (-torch.cdist(x, y).square() / (2 * width**2)).exp())


def mmd(a: Tensor, b: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy.

    a: (N, d), b: (M, d), two points or more; kernel: of them, (N, M); Gretton et al. 2012, eq. 3
    Raises TypeError or ValueError for other shapes.
    """
    validate.function(kernel, "kernel", "(a (N, d), b (M, d)) -> (N, M)")
    a, b = validate.tensor(a, "a"), validate.tensor(b, "b")
    _validate_match(a.shape, b.shape)
    N, M = len(a), len(b)
    K_aa, K_bb, K_ab = kernel(a, a), kernel(b, b), kernel(a, b)
    for K, shape in ((K_aa, (N, N)), (K_bb, (M, M)), (K_ab, (N, M))):
        if not isinstance(K, Tensor) or K.shape != shape:
            raise ValueError(f"kernel must return a tensor {shape}; got {getattr(K, 'shape', K)}")
    within = (
        (K_aa.sum() - K_aa.trace()) / (N * (N - 1))
        + (K_bb.sum() - K_bb.trace()) / (M * (M - 1))
    )
    return (within - 2 * K_ab.mean()).item()


def inception_score(p: Tensor, splits: int = 10) -> tuple[float, float]:
    """exp of the mean KL from each image's class probabilities to their mean: (mean, std) over
    splits.

    p: (N, K), rows adding up to 1. Between 1 and K. It uses no real data. Raises TypeError or
    ValueError for rows that are no probabilities, and for fewer rows than splits.
    (Salimans et al. 2016)
    """
    p, splits = _validate_features(p), validate.whole(splits, "splits")
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
    in its own set. Raises TypeError or ValueError for features that do not match, and for k or
    fewer points. (Kynkäänniemi et al. 2019)
    """
    real, generated = _validate_pair(real, generated, validate.whole(k, "k"))
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
    Raises TypeError or ValueError for an n that leaves fewer than two points on a side, and for a
    metric that returns no number.
    """
    validate.function(metric, "metric", "of two sets of features, such as frechet_distance")
    real, n = validate.tensor(real, "real"), validate.whole(n, "n", 2)
    if n > len(real) - 2:
        raise ValueError(f"n must leave at least two of the {len(real)} real points; got {n}")
    g, values = torch.Generator().manual_seed(validate.seed(seed)), []
    for _ in range(validate.whole(draws, "draws")):
        order = torch.randperm(len(real), generator=g)
        found = metric(real[order[:n]], real[order[n:]])
        values.append(validate.number(found, "what metric returns"))
    return torch.tensor(values).mean().item(), torch.tensor(values).std().item()


def frechet_real_baseline(n: int, seed: int = 0, balanced: bool = False) -> float:
    """The Fréchet distance of n *real* training digits to the test digits: what a perfect model
    scores.

    balanced: n / 10 of each label, for models that were given equally many of each; else at random.
    Raises TypeError or ValueError for more digits than there are.
    """
    if not isinstance(balanced, bool):
        raise TypeError(f"balanced must be True or False; got {balanced!r}")
    x, y = mnist("train")
    most = 10 * y.bincount().min().item() if balanced else len(x)
    n = validate.whole(n, "n", 10 if balanced else 2, most, "of the training digits")
    if balanced and n % 10:
        raise ValueError(f"n must be a multiple of 10, as many of each label; got {n}")
    g = torch.Generator().manual_seed(validate.seed(seed))
    order = torch.randperm(len(x), generator=g)
    rows = order[:n]
    if balanced:
        rows = torch.cat([order[y[order] == label][: n // 10] for label in range(10)])
    return frechet_distance(digit_features(x[rows]), features_of_test_split())


def class_agreement(x: Tensor, y: Tensor) -> float:
    """The fraction of images in which the digit classifier's prediction is the label asked for.

    x: (N, 1, 28, 28) in [-1, 1], y: (N,) int64. Raises TypeError or ValueError for other images and
    labels.
    """
    read = predict_digits(x)
    y = validate.labels(y, len(read), 10, "labels y")
    return (read == y.to(read.device)).double().mean().item()


def lpips(x: Tensor, y: Tensor, enlarge_to: int | None = None) -> Tensor:
    """LPIPS: the perceptual distance of image pairs, x, y (N, 3 or 1, H, W) in [-1, 1] -> (N,).

    AlexNet needs 32 pixels or more; enlarge_to=64 enlarges smaller images first (bilinear).
    Raises TypeError or ValueError for images of another shape or range, or too small.
    (Zhang et al. 2018)
    """
    x, y = validate.images(x, "x").float(), validate.images(y, "y").float()
    if x.shape != y.shape:
        raise ValueError(
            f"two batches of pictures (N, 3 or 1, H, W) in [-1, 1] are compared pair by pair; got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    if enlarge_to is not None:
        size = (validate.whole(enlarge_to, "enlarge_to", 32),) * 2
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

    Raises TypeError or ValueError for another shape or values that are not finite.
    """
    given = z.dtype == np.float64 if isinstance(z, np.ndarray) else False
    z = (torch.from_numpy(z) if given else validate.tensor(z, "features")).detach().cpu().double()
    if z.ndim != 2 or z.numel() == 0:
        raise ValueError(
            f"a cloud of features is (N, d), one row for each picture; got {tuple(z.shape)}"
        )
    if not z.isfinite().all():
        raise ValueError(
            "features that are not finite (nan or inf) have no distance: look at the samples first"
        )
    return z


def _validate_pair(a: Tensor, b: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Two clouds of features of one d, with more than k points each."""
    a, b = _validate_features(a), _validate_features(b)
    if min(len(a), len(b)) <= k > 1:
        raise ValueError(f"each cloud needs more than k = {k} points; got {len(a)} and {len(b)}")
    _validate_match(a.shape, b.shape)
    return a, b


def _validate_match(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raises ValueError for sizes that are not (N, d) and (M, d), N and M at least 2."""
    if len(a) != 2 or len(b) != 2 or a[1] != b[1] or min(a[0], b[0]) < 2:
        raise ValueError(
            f"two clouds of features (N, d) and (M, d) are needed, at least two points each; got "
            f"{tuple(a)} and {tuple(b)}"
        )
