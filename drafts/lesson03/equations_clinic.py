"""The tagged formulas of the debugging clinic (lesson 3), checked numerically."""
import pytest
import torch

from course_lib import Denoiser, Schedule
from course_lib.lab import data

LEVELS = (0.3, 0.65, 0.8)                   # none of them where alpha = sigma, so that exchanging the two is seen


def coefficients(t):
    return Schedule.cosine().alpha(t), Schedule.cosine().sigma(t)


def draws(n=200_000):
    """x0 with mean 0.4 and standard deviation 0.6, not Gaussian; eps; float64."""
    g = torch.Generator().manual_seed(0)
    uniform = torch.rand(n, generator=g, dtype=torch.float64) * 12**0.5 - 3**0.5
    return 0.4 + 0.6 * uniform, torch.randn(n, generator=g, dtype=torch.float64)


def within(values, expected, errors=5):
    """The mean of independent values, to five standard errors."""
    assert abs(values.mean() - expected) < errors * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("t", LEVELS)
def test_eq_ZERO(t):
    """The loss of an output 0: the mean square of x0, not its variance, stands beside sigma squared."""
    (alpha, sigma), (x0, eps) = coefficients(t), draws()
    expected = alpha**2 + sigma**2 * (0.4**2 + 0.6**2)
    within((alpha * eps - sigma * x0) ** 2, expected)
    silent = Denoiser(lambda x, t, y: torch.zeros_like(x), Schedule.cosine(), "v")
    within(silent.loss(x0[:, None], torch.full((len(x0),), t), eps[:, None], y=None), expected)


@pytest.mark.parametrize("t", LEVELS)
def test_eq_VAR(t):
    (alpha, sigma), (x0, eps) = coefficients(t), draws()
    x_t = Schedule.cosine().perturb(x0, t, eps)
    within((x_t - alpha * 0.4) ** 2, alpha**2 * 0.6**2 + sigma**2)


@pytest.mark.parametrize("t", LEVELS)
def test_eq_BACK(t):
    """The target as the network's answer gives the data back, through the formula and through the library."""
    (alpha, sigma), (x0, eps) = coefficients(t), draws(100)
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    torch.testing.assert_close(alpha * x_t - sigma * v, x0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    torch.testing.assert_close(Denoiser(lambda x, t: v[:, None], Schedule.cosine(), "v")(x_t[:, None], t), x0[:, None])
    assert (Denoiser(lambda x, t: -v[:, None], Schedule.cosine(), "v")(x_t[:, None], t) - x0[:, None]).abs().max() > 0.1


@pytest.mark.parametrize("t", LEVELS)
def test_eq_GAUSS(t):
    """The perfect network for N(0, s^2): as the slope of a regression of v on x_t, and from the exact posterior mean."""
    (alpha, sigma), s, g = coefficients(t), 0.5, torch.Generator().manual_seed(1)
    x0, eps = s * torch.randn(200_000, generator=g, dtype=torch.float64), torch.randn(200_000, generator=g, dtype=torch.float64)
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    slope = alpha * sigma * (1 - s**2) / (alpha**2 * s**2 + sigma**2)
    within((v - slope * x_t) * x_t, 0)                                                      # the normal equation of the regression
    mean = data.GaussianMixture([[0.0]], s).posterior_mean(x_t[:50, None], alpha, sigma)    # (50, 1)
    torch.testing.assert_close((alpha * x_t[:50, None] - mean) / sigma, slope * x_t[:50, None])
    torch.testing.assert_close(mean, alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x_t[:50, None])


def test_eq_LAG():
    """The average step by step against the sum; the share of the start that the lesson states."""
    g, d, n = torch.Generator().manual_seed(2), 0.9, 12
    w = torch.randn(n + 1, generator=g, dtype=torch.float64)
    average = w[0]
    for k in range(1, n + 1):
        average = d * average + (1 - d) * w[k]
    k = torch.arange(1, n + 1)
    torch.testing.assert_close(average, d**n * w[0] + (1 - d) * (d ** (n - k) * w[1:]).sum())
    assert round(0.9999**400, 2) == 0.96
