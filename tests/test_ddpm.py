"""The textbook class: against Bayes' rule by numerical integration, against the general step, and against diffusers."""
import pytest
import torch
from torch import nn

from course_lib import DDPM, Denoiser, Schedule, ancestral, clip, last
from course_lib.samplers import step

BETAS = torch.linspace(1e-3, 0.3, 20, dtype=torch.float64)


class Net(nn.Module):
    def forward(self, x, t):
        return 0.3 * x * (1 + t.view(-1, *[1] * (x.ndim - 1)))


def test_q_sample_is_the_walk():
    """Twenty steps of q(x_t | x_{t-1}) against one jump: mean and variance, 5 standard errors, n = 200,000."""
    n, i, g = 200_000, 11, torch.Generator().manual_seed(0)
    x = torch.full((n,), 1.5, dtype=torch.float64)
    jump = DDPM(Net(), BETAS).q_sample(x, torch.full((n,), i), torch.randn(n, generator=g, dtype=torch.float64))
    for beta in BETAS[: i + 1]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, generator=g, dtype=torch.float64)
    error = (x.var() / n).sqrt() * 2**0.5
    assert abs(x.mean() - jump.mean()) < 5 * error and abs(x.var() / jump.var() - 1) < 5 * (4 / n) ** 0.5


@pytest.mark.parametrize("i", [1, 7, 19])
def test_q_posterior_is_bayes_rule(i):
    """q(x_{t-1} | x_t, x_0) by brute force: the product of two Gaussian densities on a grid, normalised."""
    ddpm, x0, x = DDPM(Net(), BETAS), 0.8, -0.4
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    normal = lambda y, mean, variance: torch.exp(-((y - mean) ** 2) / (2 * variance))
    before = torch.prod(1 - BETAS[:i])
    density = normal(x, (1 - BETAS[i]).sqrt() * grid, BETAS[i]) * normal(grid, before.sqrt() * x0, 1 - before)
    density = density / density.sum()
    mean = (grid * density).sum()
    one = lambda v: torch.tensor([v], dtype=torch.float64)
    got_mean, got_variance = ddpm.q_posterior(one(x0), one(x), torch.tensor([i]))
    assert got_mean.item() == pytest.approx(mean.item(), abs=1e-6)
    assert got_variance.item() == pytest.approx((((grid - mean) ** 2) * density).sum().item(), rel=1e-5)


def test_the_last_step_adds_no_noise():
    ddpm, x = DDPM(Net(), BETAS), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    mean, variance, x0_hat = ddpm.p_mean_variance(x, torch.zeros(3, dtype=torch.long))
    assert (variance == 0).all() and torch.equal(ddpm.p_sample(x, torch.zeros(3, dtype=torch.long)), mean)
    torch.testing.assert_close(mean, x0_hat)


@pytest.mark.parametrize("i", [0, 1, 10, 19])
@pytest.mark.parametrize("clipped", [False, True])
def test_p_sample_is_the_general_step(i, clipped):
    x, schedule = 2 * torch.randn(4, 1, 3, 3, dtype=torch.float64), Schedule.from_betas(BETAS)
    D = Denoiser(Net(), schedule, "eps")
    D = clip(D) if clipped else D
    t, s = (torch.tensor(k / 20, dtype=torch.float64) for k in (i + 1, i))
    general = step(schedule, x, D(x, t), t, s, 1.0, torch.Generator().manual_seed(5))
    textbook = DDPM(Net(), BETAS).p_sample(x, torch.full((4,), i), torch.Generator().manual_seed(5), clip_denoised=clipped)
    torch.testing.assert_close(textbook, general, atol=1e-12, rtol=1e-10)


def test_sample_is_ancestral():
    schedule, g = Schedule.from_betas(BETAS), torch.Generator().manual_seed(1)
    states = list(DDPM(Net(), BETAS).sample((2, 1, 3, 3), g))
    assert len(states) == 21 and not states[-1].requires_grad
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 3, 3, generator=g)
    again = last(ancestral(Denoiser(Net(), schedule, "eps"), schedule, x, torch.arange(20, -1, -1) / 20, g))
    torch.testing.assert_close(states[-1], again, atol=1e-5, rtol=1e-5)


def test_p_losses_agrees_with_denoiser():
    x0, eps, i = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2), torch.tensor([0, 3, 9, 15, 19])
    textbook = DDPM(Net(), BETAS).p_losses(x0, i, eps)
    torch.testing.assert_close(textbook, Denoiser(Net(), Schedule.from_betas(BETAS), "eps").loss(x0, (i + 1) / 20, eps))
    by_hand = (Net()(DDPM(Net(), BETAS).q_sample(x0, i, eps), (i + 1) / 20) - eps).square().mean((1, 2, 3))
    torch.testing.assert_close(textbook, by_hand)


def test_against_diffusers():
    """Four steps of a thousand, float32: DDPMScheduler's own previous-sample mean and variance (its tables are float32, hence 1e-4)."""
    diffusers = pytest.importorskip("diffusers")
    betas = torch.linspace(1e-4, 0.02, 1000)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, trained_betas=betas.numpy(), clip_sample=False, variance_type="fixed_small")
    ours, x, eps_hat = DDPM(Net(), betas), torch.randn(2, 1, 4, 4), None
    for i in (999, 500, 100, 1):
        eps_hat = Net()(x, torch.full((2,), (i + 1) / 1000))
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        previous = theirs.step(eps_hat, i, x, generator=torch.Generator().manual_seed(i)).prev_sample
        mean, variance, _ = ours.p_mean_variance(x, torch.full((2,), i))
        torch.testing.assert_close(mean + variance.sqrt().float().view(2, 1, 1, 1) * z, previous, atol=1e-4, rtol=1e-4)


def test_bad_input():
    ddpm = DDPM(Net(), BETAS)
    for i in (torch.tensor([20]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="steps are integers from 0 to 19"):
            ddpm.q_sample(torch.zeros(1, 1), i)
    with pytest.raises(TypeError, match="scale with x / 127.5 - 1"):
        ddpm.p_losses(torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([1]))
    with pytest.raises(ValueError, match="a last beta of 1"):
        DDPM(Net(), torch.tensor([0.1, 1.0])).p_mean_variance(torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match="betas must be"):
        DDPM(Net(), torch.tensor([0.1, 1.5]))
