"""Every tagged formula of lesson 1, checked numerically; `test_every_tag_has_its_test` keeps the list complete."""
import re
from pathlib import Path

import pytest
import torch

from course_lib import DDPM, Denoiser, Schedule

BETAS = torch.linspace(1e-3, 0.05, 25, dtype=torch.float64)     # alpha_bar ends near one half: both its ends and its root show
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)
N = 200_000


def noise(g):
    return torch.randn(N, generator=g, dtype=torch.float64)


def close_mean(x, wanted, variance):
    assert abs(x.mean() - wanted) < 5 * (variance / N) ** 0.5


def close_variance(x, wanted):
    assert abs(x.var() - wanted) < 5 * wanted * (2 / N) ** 0.5


def test_every_tag_has_its_test():
    lesson = (Path(__file__).parents[1] / "lessons/01_diffusion_fundamentals.py").read_text()
    tags = set(re.findall(r"\\tag\{1\.(\d+)\}", lesson))
    assert tags and tags == {name.removeprefix("test_eq_1_") for name in globals() if name.startswith("test_eq_1_")}


def test_eq_1_1():
    """One step: `renoise` from t = 4/25 to 5/25 has mean sqrt(1 - beta) x and variance beta."""
    schedule, beta = Schedule.from_betas(BETAS), BETAS[4]
    x = schedule.renoise(torch.full((N,), 1.7, dtype=torch.float64), 4 / 25, 5 / 25, torch.Generator().manual_seed(0))
    close_mean(x, (1 - beta).sqrt() * 1.7, beta)
    close_variance(x, beta)


def test_eq_1_2():
    """The variance after one step, from data of variance 4, and its way to 1."""
    g, beta = torch.Generator().manual_seed(0), BETAS[20]
    x = (1 - beta).sqrt() * 2 * noise(g) + beta.sqrt() * noise(g)
    close_variance(x, (1 - beta) * 4 + beta)
    assert ((1 - beta) * 4 + beta - 1) == pytest.approx((1 - beta).item() * 3), "the distance to 1 shrinks by 1 - beta"


def test_eq_1_3():
    """Two steps in one: the two noises together have variance 1 - alpha_t alpha_{t-1}."""
    g, (a1, a2) = torch.Generator().manual_seed(0), 1 - BETAS[[19, 24]]
    x = a2.sqrt() * (a1.sqrt() * 1.7 + (1 - a1).sqrt() * noise(g)) + (1 - a2).sqrt() * noise(g)
    close_mean(x, (a1 * a2).sqrt() * 1.7, 1 - a1 * a2)
    close_variance(x, 1 - a1 * a2)
    assert a2 * (1 - a1) + (1 - a2) == pytest.approx((1 - a1 * a2).item())


def test_eq_1_4():
    """A walk of 25 steps against the closed form, and against q_sample."""
    g, x = torch.Generator().manual_seed(0), torch.full((N,), 1.7, dtype=torch.float64)
    jump = DDPM(None, BETAS).q_sample(x, torch.full((N,), 24), noise(g))
    for beta in BETAS:
        x = (1 - beta).sqrt() * x + beta.sqrt() * noise(g)
    for draw in (x, jump):
        close_mean(draw, ALPHA_BAR[-1].sqrt() * 1.7, 1 - ALPHA_BAR[-1])
        close_variance(draw, 1 - ALPHA_BAR[-1])


class Knows(torch.nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x, t):
        return self.eps


def test_eq_1_5():
    """Noise known, image known: the lesson's line, DDPM's guess and Denoiser's guess."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 1, 2, 2, generator=g, dtype=torch.float64)
    i = torch.tensor([0, 5, 10, 20, 24])
    a = ALPHA_BAR[i].view(-1, 1, 1, 1)
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    torch.testing.assert_close((x - (1 - a).sqrt() * eps) / a.sqrt(), x0)
    torch.testing.assert_close(DDPM(Knows(eps), BETAS).p_mean_variance(x, i)[2], x0)
    torch.testing.assert_close(Denoiser(Knows(eps), Schedule.from_betas(BETAS), "eps")(x, (i + 1).double() / 25), x0)


def test_eq_1_6():
    """The loss of the best linear guess g = c x_t of the noise of N(0, 1) data is 1 - (1 - alpha_bar), at c = sqrt(1 - alpha_bar)."""
    class Linear(torch.nn.Module):
        def forward(self, x, t):
            return (1 - ALPHA_BAR[14]).sqrt() * x
    g = torch.Generator().manual_seed(0)
    loss = DDPM(Linear(), BETAS).p_losses(noise(g).view(-1, 1), torch.full((N,), 14), noise(g).view(-1, 1))
    assert loss.mean() == pytest.approx(ALPHA_BAR[14].item(), rel=0.02)


def test_eq_1_7():
    """Mean squared error = variance + squared distance from the mean, for noise given x_t of two-point data (exact sums)."""
    a, x = ALPHA_BAR[14], 0.3
    x0 = torch.tensor([-1.0, 1.0], dtype=torch.float64)                     # two equally likely pixels
    eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
    weight = torch.softmax(-eps**2 / 2, 0)                                  # p(x0 | x_t), by Bayes' rule
    m = (weight * eps).sum()
    for guess in (-1.0, 0.0, 2.5):
        error = (weight * (eps - guess) ** 2).sum()
        assert error == pytest.approx(((weight * (eps - m) ** 2).sum() + (m - guess) ** 2).item())


def posterior_by_integration(i, x0, x):
    """Mean and variance of q(x_{t-1} | x_t, x_0): Bayes' rule on a fine grid."""
    y = torch.linspace(-6, 6, 400_001, dtype=torch.float64)
    before = ALPHA_BAR[i - 1]
    log_density = -((x - (1 - BETAS[i]).sqrt() * y) ** 2) / (2 * BETAS[i]) - (y - before.sqrt() * x0) ** 2 / (2 * (1 - before))
    p = torch.softmax(log_density, 0)
    mean = (p * y).sum()
    return mean, (p * (y - mean) ** 2).sum()


def test_eq_1_8():
    for i in (1, 10, 24):
        beta_tilde = (1 - ALPHA_BAR[i - 1]) / (1 - ALPHA_BAR[i]) * BETAS[i]
        assert beta_tilde == pytest.approx(posterior_by_integration(i, 0.4, -0.7)[1].item(), rel=1e-6)
        assert 1 / beta_tilde == pytest.approx(((1 - BETAS[i]) / BETAS[i] + 1 / (1 - ALPHA_BAR[i - 1])).item())
        assert DDPM(None, BETAS).q_posterior(torch.zeros(1), torch.zeros(1), torch.tensor([i]))[1] == pytest.approx(beta_tilde.item())


def test_eq_1_9():
    for i in (1, 10, 24):
        x0, x = torch.tensor([0.4], dtype=torch.float64), torch.tensor([-0.7], dtype=torch.float64)
        mean = ((1 - BETAS[i]).sqrt() * (1 - ALPHA_BAR[i - 1]) * x + ALPHA_BAR[i - 1].sqrt() * BETAS[i] * x0) / (1 - ALPHA_BAR[i])
        assert mean == pytest.approx(posterior_by_integration(i, 0.4, -0.7)[0].item(), abs=1e-6)
        assert DDPM(None, BETAS).q_posterior(x0, x, torch.tensor([i]))[0] == pytest.approx(mean.item())
