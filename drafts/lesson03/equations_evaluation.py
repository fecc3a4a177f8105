"""Every tagged formula of the section on evaluation, checked numerically."""
import math

import pytest
import torch

from course_lib import Schedule
from course_lib.lab import features, metrics
from course_lib.lab.data import GaussianMixture

F64 = torch.float64
N = 200_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def covariance(d, seed):
    """A covariance of full rank, no multiple of the identity, and not diagonal."""
    S = torch.randn(d, d, generator=generator(seed), dtype=F64)
    return S @ S.T / d + 0.2 * torch.eye(d, dtype=F64)


def power(C, p):
    w, V = torch.linalg.eigh(C)
    return (V * w**p) @ V.T


A, B = covariance(4, 1), covariance(4, 2)
R = power(power(A, 0.5) @ B @ power(A, 0.5), 0.5)
MU1, MU2 = torch.randn(2, 4, generator=generator(3), dtype=F64)


def test_eq_COUPLING():
    """A coupling that is neither independent nor the best, by Monte Carlo to 5 standard errors, with the covariance known in advance."""
    u, v = torch.randn(2, N, generator=generator(), dtype=F64)
    x, y = 0.3 + 1.5 * u, -0.4 + 0.5 * (0.6 * u + 0.8 * v)
    cost = (x - y).square()
    formula = (0.3 + 0.4) ** 2 + 1.5**2 + 0.5**2 - 2 * 1.5 * 0.5 * 0.6
    assert abs(cost.mean() - formula) < 5 * cost.std() / N**0.5


def test_eq_LINE():
    """On a line the best pairing is the sorted one: the integral over quantiles; the library agrees."""
    q = (torch.arange(N, dtype=F64) + 0.5) / N
    z = 2**0.5 * torch.erfinv(2 * q - 1)
    formula = (0.3 + 0.4) ** 2 + (1.5 - 0.5) ** 2
    assert ((0.3 + 1.5 * z) - (-0.4 + 0.5 * z)).square().mean() == pytest.approx(formula, rel=1e-4)
    z = (z - z.mean()) / z.std()
    assert metrics.frechet_distance((0.3 + 1.5 * z)[:, None], (-0.4 + 0.5 * z)[:, None]) == pytest.approx(formula, rel=1e-9)


def test_eq_PAIRS():
    """Four dimensions, a coupling through a contraction K, by Monte Carlo."""
    K = 0.7 * torch.linalg.qr(torch.randn(4, 4, generator=generator(5), dtype=F64))[0]
    u, w = torch.randn(2, N, 4, generator=generator(), dtype=F64)
    v = u @ K + 0.51**0.5 * w                                                           # E u v^T = K, Cov(v) = I
    x, y = MU1 + u @ power(A, 0.5), MU2 + v @ power(B, 0.5)
    cost = (x - y).square().sum(1)
    cross = power(A, 0.5) @ K @ power(B, 0.5)
    formula = (MU1 - MU2).square().sum() + A.trace() + B.trace() - 2 * cross.trace()
    assert abs(cost.mean() - formula) < 5 * cost.std() / N**0.5


def test_eq_BOUND():
    """tr KM for many contractions K stays below tr R, which is the sum of M's singular values; the rotation Q P^T attains it."""
    M = power(B, 0.5) @ power(A, 0.5)
    P, s, Qt = torch.linalg.svd(M)
    assert R.trace() == pytest.approx(s.sum().item())
    g = generator()
    for _ in range(200):
        K = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=F64))[0]
        total = sum(s[i] * Qt[i] @ K @ P[:, i] for i in range(4))
        assert (K @ M).trace() == pytest.approx(total.item()) and total <= R.trace() + 1e-12
    assert (Qt.T @ P.T @ M).trace() == pytest.approx(R.trace().item())


def test_eq_MAP():
    T = power(A, -0.5) @ R @ power(A, -0.5)
    torch.testing.assert_close(T, T.T)
    torch.testing.assert_close(T @ A @ T, B)
    assert (A @ T).trace() == pytest.approx(R.trace().item())


def test_eq_FRECHET():
    """Clouds whitened and coloured, so that their moments are exact: the library, and the work of the best map."""
    z = torch.randn(500, 4, generator=generator(), dtype=F64)
    z = (z - z.mean(0)) @ power(z.T.cov(), -0.5)
    x, other = MU1 + z @ power(A, 0.5), MU2 + z.flip(0) @ power(B, 0.5)
    formula = (MU1 - MU2).square().sum() + (A + B - 2 * R).trace()
    assert metrics.frechet_distance(x, other) == pytest.approx(formula.item(), rel=1e-9)
    y = MU2 + (x - MU1) @ power(A, -0.5) @ R @ power(A, -0.5)
    work = (MU1 - MU2).square().sum() + ((x - MU1) - (y - MU2)).square().sum() / 499
    assert work == pytest.approx(formula.item())


LAM = torch.tensor([0.5, 1.0, 3.0], dtype=F64)


def test_eq_SECOND():
    """The expansion against the exact distance for smaller and smaller errors: what is left shrinks with the third power."""
    C, E = LAM.diag(), torch.tensor([[0.3, -0.2, 0.4], [-0.2, -0.5, 0.1], [0.4, 0.1, 0.7]], dtype=F64)
    left = []
    for size in (0.02, 0.01):
        S = power(C, 0.5)
        exact = (C + C + size * E - 2 * power(S @ (C + size * E) @ S, 0.5)).trace()
        second = 0.5 * ((size * E) ** 2 / (LAM[:, None] + LAM)).sum()
        left.append((exact - second).abs().item())
        assert exact == pytest.approx(second.item(), rel=0.02)
    assert 6 < left[0] / left[1] < 10
    X = size * E * (LAM[:, None] * LAM).sqrt() / (LAM[:, None] + LAM)
    assert (X**2 / LAM[:, None]).sum() == pytest.approx(second.item()), "the first of the equalities"


def test_eq_BIAS():
    """The library's mean distance between clouds of 200 and 500 points of one Gaussian, to 5 standard errors and 3 %."""
    n, m, g = 200, 500, generator()
    draw = lambda count: torch.randn(count, 3, generator=g, dtype=F64) * LAM.sqrt()
    values = torch.tensor([metrics.frechet_distance(draw(n), draw(m)) for _ in range(1000)])
    bracket = LAM.sum() + 0.5 * (LAM[:, None] * LAM / (LAM[:, None] + LAM)).sum() + 0.25 * LAM.sum()
    formula = ((1 / n + 1 / m) * bracket).item()
    assert abs(values.mean() - formula) < 5 * values.std() / 1000**0.5 and values.std() / 1000**0.5 < 0.03 * formula
    equal = torch.full((7,), 2.0, dtype=F64)
    assert 1.25 * equal.sum() + 0.5 * (equal[:, None] * equal / (equal[:, None] + equal)).sum() == pytest.approx(2.0 * (7**2 + 5 * 7) / 4)


X, Y = torch.randn(6, 2, generator=generator(7), dtype=F64), 0.5 + torch.randn(4, 2, generator=generator(8), dtype=F64)


def cubic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def phi(x):
    """The cubic kernel's own features in one dimension: (xy + 1)^3 = phi(x) . phi(y)."""
    return torch.stack([torch.ones_like(x), 3**0.5 * x, 3**0.5 * x**2, x**3], dim=-1)


def test_eq_MMD():
    """Whole distributions of three and two points: means of features on the left, means of kernels on the right."""
    x, y = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    k = lambda a, b: cubic(a[:, None], b[:, None]).mean()
    left = (phi(x).mean(0) - phi(y).mean(0)).square().sum()
    assert left == pytest.approx((k(x, x) + k(y, y) - 2 * k(x, y)).item())


def test_eq_DIAGONAL():
    """All samples of n = 3 points from a distribution on three values, each with its probability: the mean, exact."""
    values, p, n = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.2, 0.5, 0.3], dtype=F64), 3
    picks = torch.cartesian_prod(*[torch.arange(3)] * n)                                # (27, 3)
    weight = p[picks].prod(1)
    assert weight.sum() == pytest.approx(1)
    left = (weight * phi(values[picks]).mean(1).square().sum(1)).sum()                  # mean of (1 / n^2) sum k(x_i, x_j)
    mean = (p[:, None] * phi(values)).sum(0).square().sum()
    itself = (p * phi(values).square().sum(1)).sum()
    assert left == pytest.approx((mean + (itself - mean) / n).item())


def test_eq_UNBIASED():
    """Pair by pair, beside the library; and its exact mean over all samples is the true distance."""
    total = sum(cubic(X[i:i + 1], X[j:j + 1]) for i in range(6) for j in range(6) if i != j) / 30 \
        + sum(cubic(Y[i:i + 1], Y[j:j + 1]) for i in range(4) for j in range(4) if i != j) / 12 \
        - 2 / 24 * sum(cubic(X[i:i + 1], Y[j:j + 1]) for i in range(6) for j in range(4))
    assert metrics.mmd(X, Y, cubic) == pytest.approx(total.item())
    values, p, q = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.6, 0.1, 0.3], dtype=F64)
    truth = ((p - q)[:, None] * phi(values)).sum(0).square().sum()
    mean = sum(p[i] * p[j] * q[k] * q[m] * metrics.mmd(values[[i, j], None], values[[k, m], None], cubic)
               for i in range(3) for j in range(3) for k in range(3) for m in range(3))
    assert mean == pytest.approx(truth.item())


def test_eq_IS():
    """Both forms and the library, on probabilities that are neither sure nor even; and the two ends."""
    p = (2 * torch.randn(50, 10, generator=generator(), dtype=F64)).softmax(1)
    mean = p.mean(0)
    kl = torch.stack([sum(row[k] * math.log(row[k] / mean[k]) for k in range(10)) for row in p]).mean()
    entropy = lambda q: -(q * q.log()).sum(-1)
    assert kl.exp() == pytest.approx((entropy(mean) - entropy(p).mean()).exp().item())
    assert metrics.inception_score(p, splits=1)[0] == pytest.approx(kl.exp().item())
    assert 1 < kl.exp() < 10
    assert metrics.inception_score(torch.eye(10), splits=1)[0] == pytest.approx(10)
    assert metrics.inception_score(p[:1].repeat(20, 1), splits=1)[0] == pytest.approx(1)


def test_eq_BALLS():
    """Point by point, beside the library, where precision and recall differ."""
    real, made = torch.randn(40, 2, generator=generator(), dtype=F64), 2 * torch.randn(30, 2, generator=generator(1), dtype=F64)

    def share(points, cloud, k):
        radius = [sorted((c - o).norm().item() for o in cloud)[k] for c in cloud]       # the 0th is the point itself
        return sum(any((p - c).norm() <= r for c, r in zip(cloud, radius)) for p in points) / len(points)

    for k in (1, 3):
        precision, recall = share(made, real, k), share(real, made, k)
        assert precision != recall and 0 < precision < 1
        assert metrics.precision_recall(real, made, k) == (pytest.approx(precision), pytest.approx(recall))


def test_eq_LPIPS():
    """Layer by layer with torchvision's own AlexNet layers, each sum written out, beside the library."""
    x, y = torch.rand(2, 1, 3, 40, 56, generator=generator()) * 2 - 1                   # height and width differ
    net, total = features.lpips_network(), 0.0
    for layer, head in zip((1, 4, 7, 9, 11), net.heads):
        a, b = (net.body[:layer + 1]((z - net.shift) / net.scale)[0] for z in (x, y))   # (C, H, W)
        a, b = (h / h.square().sum(0).sqrt() for h in (a, b))
        H, W = a.shape[1:]
        assert (head >= 0).all()
        total += (head.flatten()[:, None, None] * (a - b) ** 2).nan_to_num().sum() / (H * W)
    assert metrics.lpips(x, y).item() == pytest.approx(total.item(), rel=1e-4)


def test_eq_EXCESS():
    """A wrong denoiser beside the exact one, by Monte Carlo: the mixed term is 0 to 5 standard errors, and the excess is not."""
    bumps, schedule = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.2, [1.0, 2.0]), Schedule.cosine()
    exact, g = bumps.denoiser(schedule), generator()
    x0 = bumps.sample(N).double()
    for t in (0.2, 0.6):
        x = schedule.perturb(x0, t, torch.randn(x0.shape, generator=g, dtype=F64))
        best = exact(x, t)
        wrong = best + 0.3 * torch.sin(3 * x) + 0.1
        gap = (wrong - x0).square().sum(1) - (best - x0).square().sum(1) - (wrong - best).square().sum(1)
        assert abs(gap.mean()) < 5 * gap.std() / N**0.5
        assert (wrong - best).square().sum(1).mean() > 50 * gap.std() / N**0.5
