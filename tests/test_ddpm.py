"""The textbook class: against Bayes' rule by numerical integration, against the general step,
against diffusers; the bound against an entropy.
"""
import math

import numpy
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from course_lib import DDPM, Denoiser, Schedule, ancestral, clip, last
from course_lib.ddpm import discretised_gaussian_log_prob, gaussian_kl
from course_lib.samplers import step

BETAS = torch.linspace(1e-3, 0.3, 20, dtype=torch.float64)


class Net(nn.Module):
    def forward(self, x, t):
        return 0.3 * x * (1 + t.view(-1, *[1] * (x.ndim - 1)))


def test_q_sample_is_the_walk():
    """Twenty steps of q(x_t | x_{t-1}) against one jump: mean and variance, 5 standard errors,
    n = 200,000.
    """
    n = 200_000
    i = 11
    g = torch.Generator().manual_seed(0)
    x = torch.full((n,), 1.5, dtype=torch.float64)
    jump = DDPM(Net(), BETAS).q_sample(
        x, torch.full((n,), i), torch.randn(n, generator=g, dtype=torch.float64)
    )
    for beta in BETAS[: i + 1]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(n, generator=g, dtype=torch.float64)
    error = (x.var() / n).sqrt() * 2**0.5
    assert (
        abs(x.mean() - jump.mean()) < 5 * error
        and abs(x.var() / jump.var() - 1) < 5 * (4 / n) ** 0.5
    )


@pytest.mark.parametrize("i", [1, 7, 19])
def test_q_posterior_is_bayes_rule(i):
    """q(x_{t-1} | x_t, x_0) by brute force: the product of two Gaussian densities on a grid,
    normalised.
    """
    ddpm = DDPM(Net(), BETAS)
    x0 = 0.8
    x = -0.4
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    normal = lambda y, mean, variance: torch.exp(-((y - mean) ** 2) / (2 * variance))
    before = torch.prod(1 - BETAS[:i])
    density = (
        normal(x, (1 - BETAS[i]).sqrt() * grid, BETAS[i])
        * normal(grid, before.sqrt() * x0, 1 - before)
    )
    density = density / density.sum()
    mean = (grid * density).sum()
    one = lambda v: torch.tensor([v], dtype=torch.float64)
    got_mean, got_variance = ddpm.q_posterior(one(x0), one(x), torch.tensor([i]))
    assert got_mean.item() == pytest.approx(mean.item(), abs=1e-6)
    assert (
        got_variance.item()
        == pytest.approx((((grid - mean) ** 2) * density).sum().item(), rel=1e-5)
    )


def test_the_last_step_adds_no_noise():
    ddpm, x = DDPM(Net(), BETAS), torch.randn(3, 1, 2, 2, dtype=torch.float64)
    mean, variance, x0_hat = ddpm.p_mean_variance(x, torch.zeros(3, dtype=torch.long))
    assert (
        (variance == 0).all()
        and torch.equal(ddpm.p_sample(x, torch.zeros(3, dtype=torch.long)), mean)
    )
    torch.testing.assert_close(mean, x0_hat)


@pytest.mark.parametrize("i", [0, 1, 10, 19])
@pytest.mark.parametrize("clipped", [False, True])
def test_p_sample_is_the_general_step(i, clipped):
    x, schedule = 2 * torch.randn(4, 1, 3, 3, dtype=torch.float64), Schedule.from_betas(BETAS)
    D = Denoiser(Net(), schedule, "eps")
    D = clip(D) if clipped else D
    t, s = (torch.tensor(k / 20, dtype=torch.float64) for k in (i + 1, i))
    general = step(schedule, x, D(x, t), t, s, 1.0, torch.Generator().manual_seed(5))
    textbook = DDPM(Net(), BETAS).p_sample(
        x, torch.full((4,), i), torch.Generator().manual_seed(5), clip_denoised=clipped
    )
    torch.testing.assert_close(textbook, general, atol=1e-12, rtol=1e-10)


def test_sample_is_ancestral():
    schedule, g = Schedule.from_betas(BETAS), torch.Generator().manual_seed(1)
    states = list(DDPM(Net(), BETAS).sample((2, 1, 3, 3), g))
    assert len(states) == 21 and not states[-1].requires_grad
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, 3, 3, generator=g)
    ts = torch.arange(20, -1, -1) / 20
    again = last(ancestral(Denoiser(Net(), schedule, "eps"), schedule, x, ts, generator=g))
    torch.testing.assert_close(states[-1], again, atol=1e-5, rtol=1e-5)


def test_p_losses_agrees_with_denoiser():
    x0 = torch.randn(5, 1, 2, 2)
    eps = torch.randn(5, 1, 2, 2)
    i = torch.tensor([0, 3, 9, 15, 19])
    textbook = DDPM(Net(), BETAS).p_losses(x0, i, eps)
    torch.testing.assert_close(
        textbook, Denoiser(Net(), Schedule.from_betas(BETAS), "eps").loss(x0, (i + 1) / 20, eps)
    )
    by_hand = (
        (Net()(DDPM(Net(), BETAS).q_sample(x0, i, eps), (i + 1) / 20) - eps)
        .square()
        .mean((1, 2, 3))
    )
    torch.testing.assert_close(textbook, by_hand)


def test_against_diffusers():
    """Four steps of a thousand, float32: DDPMScheduler's own previous-sample mean and variance (its
    tables are float32, hence 1e-4).
    """
    diffusers = pytest.importorskip("diffusers")
    betas = torch.linspace(1e-4, 0.02, 1000)
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        trained_betas=betas.numpy(),
        clip_sample=False,
        variance_type="fixed_small",
    )
    ours = DDPM(Net(), betas)
    x = torch.randn(2, 1, 4, 4)
    eps_hat = None
    for i in (999, 500, 100, 1):
        eps_hat = Net()(x, torch.full((2,), (i + 1) / 1000))
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        previous = theirs.step(
            eps_hat, i, x, generator=torch.Generator().manual_seed(i)
        ).prev_sample
        mean, variance, _ = ours.p_mean_variance(x, torch.full((2,), i))
        torch.testing.assert_close(
            mean + variance.sqrt().float().view(2, 1, 1, 1) * z, previous, atol=1e-4, rtol=1e-4
        )


def test_bad_input():
    ddpm = DDPM(Net(), BETAS)
    for i in (torch.tensor([20]), torch.tensor([-1]), torch.tensor([0.5])):
        with pytest.raises(ValueError, match="steps are integers from 0 to 19"):
            ddpm.q_sample(torch.zeros(1, 1), i)
    with pytest.raises(TypeError, match="scale bytes with x / 127.5 - 1"):
        ddpm.p_losses(torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([1]))
    for takes_images in (lambda x0: ddpm.vlb_terms(x0, torch.tensor([1])), ddpm.prior_bits):
        with pytest.raises(TypeError, match="scale bytes with x / 127.5 - 1"):
            takes_images(torch.zeros(1, 1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="eps and v, 2 channels for these x; got 1"):
        DDPM(Net(), BETAS, learn_variance=True).p_sample(torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match="hybrid_loss trains a variance: make DDPM"):
        ddpm.hybrid_loss(torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match="a last beta of 1"):
        DDPM(Net(), torch.tensor([0.1, 1.0])).p_mean_variance(torch.zeros(1, 1), torch.tensor([1]))
    with pytest.raises(ValueError, match="betas must be"):
        DDPM(Net(), torch.tensor([0.1, 1.5]))


# ---- learned variance and the bound

# images (B, C, H, W) and points (B, d)
STEPS, SHAPES = torch.tensor([1, 4, 9, 19]), [(4, 2, 3, 3), (4, 2)]


class Two(nn.Module):
    """Both answers, eps and v, as smooth functions of x with a parameter each."""

    def __init__(self, eps=0.4, v=0.7):
        super().__init__()
        self.eps, self.v = (nn.Parameter(torch.tensor(p, dtype=torch.float64)) for p in (eps, v))

    def forward(self, x, t):
        return torch.cat([self.eps * x, torch.tanh(self.v + x)], dim=1)


def constant_v(v):
    """The eps of `Net`, and one v for all."""
    class ConstantV(Net):
        def forward(self, x, t):
            eps = super().forward(x, t)
            return torch.cat([eps, torch.full_like(eps, v)], dim=1)
    return ConstantV()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_learned_variance_lies_between_the_two(shape):
    """v = -1 is beta_tilde, v = 1 is beta, v = 0 their geometric mean; the mean is that of eps
    alone.
    """
    x, fixed = random(*shape), DDPM(Net(), BETAS)
    mean, tilde, x0_hat = fixed.p_mean_variance(x, STEPS)
    learned = [
        DDPM(constant_v(v), BETAS, learn_variance=True).p_mean_variance(x, STEPS)
        for v in (-1.0, 0.0, 1.0, 3.0)
    ]
    for wanted, (its_mean, variance, its_x0_hat) in zip(
        [tilde, (tilde * BETAS[STEPS]).sqrt(), BETAS[STEPS], BETAS[STEPS] ** 2 / tilde], learned
    ):
        assert (
            variance.shape == shape
            and torch.equal(its_mean, mean)
            and torch.equal(its_x0_hat, x0_hat)
        )
        torch.testing.assert_close(variance, wanted.view(-1, *[1] * (x.ndim - 1)).expand(shape))


def test_the_learned_variance_of_the_last_step_and_of_a_single_one():
    """At i = 0, where beta_tilde is 0, that of step 1 stands in for it; where there is no step 1,
    beta does.
    """
    x = random(2, 1)
    variance = DDPM(constant_v(-1.0), BETAS, learn_variance=True).p_mean_variance(
        x, torch.tensor([0, 1])
    )[1]
    assert (
        variance[0]
        == variance[1]
        == pytest.approx((BETAS[1] * BETAS[0] / (1 - (1 - BETAS[0]) * (1 - BETAS[1]))).item())
    )
    assert DDPM(constant_v(-1.0), BETAS[:1], learn_variance=True).p_mean_variance(
        x, torch.tensor([0, 0])
    )[1][0].item() == pytest.approx(BETAS[0].item())


@pytest.mark.parametrize("shape", SHAPES)
def test_p_sample_draws_from_the_learned_variance(shape):
    ddpm = DDPM(Two(), BETAS, learn_variance=True)
    x = random(*shape)
    i = torch.tensor([0, 4, 9, 19])
    mean, variance, _ = ddpm.p_mean_variance(x, i)
    drawn = ddpm.p_sample(x, i, torch.Generator().manual_seed(5))
    assert torch.equal(drawn[0], mean[0]) and variance[0].min() > 0
    torch.testing.assert_close(drawn[1:], (mean + variance.sqrt() * random(*shape, seed=5))[1:])
    assert last(ddpm.sample(shape)).isfinite().all()


def test_normal_kl_against_torch():
    mean, other_mean, a, b = random(4, 1000)
    theirs = kl_divergence(Normal(mean, (a / 2).exp()), Normal(other_mean, (b / 2).exp()))
    torch.testing.assert_close(gaussian_kl(mean, a, other_mean, b), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("net", [Net(), Two()])
def test_vlb_terms_are_divergences_in_bits(shape, net):
    ddpm = DDPM(net, BETAS, learn_variance=isinstance(net, Two))
    x0 = random(*shape)
    eps = random(*shape, seed=1)
    x = ddpm.q_sample(x0, STEPS, eps)
    column = lambda c: c.view(-1, *[1] * (c.ndim == 1) * (x0.ndim - 1))
    (q_mean, q_variance), (mean, variance, _) = (
        ddpm.q_posterior(x0, x, STEPS),
        ddpm.p_mean_variance(x, STEPS),
    )
    kl = kl_divergence(
        Normal(q_mean, column(q_variance).sqrt()),
        Normal(mean, column(variance).sqrt() if variance.ndim == 1 else variance.sqrt()),
    )
    torch.testing.assert_close(ddpm.vlb_terms(x0, STEPS, eps), kl.flatten(1).mean(1) / math.log(2))


@pytest.mark.parametrize("shape", SHAPES)
def test_prior_bits_are_a_divergence(shape):
    x0, kept = random(*shape), torch.prod(1 - BETAS)
    kl = kl_divergence(Normal(kept.sqrt() * x0, (1 - kept).sqrt()), Normal(0.0, 1.0))
    torch.testing.assert_close(
        DDPM(Net(), BETAS).prior_bits(x0), kl.flatten(1).mean(1) / math.log(2)
    )


LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


@pytest.mark.parametrize("mean", [-1.2, -0.99, 0.013, 1.0])
@pytest.mark.parametrize("std", [0.002, 0.3])
def test_256_levels_share_the_whole_mass(mean, std):
    """Each level takes what lies nearer to it than to its neighbours; the ends take their tails."""
    mass = discretised_gaussian_log_prob(LEVELS, torch.tensor(mean), torch.tensor(std)).exp()
    normal = Normal(torch.tensor(mean).double(), torch.tensor(std).double())
    between = normal.cdf((LEVELS[1:] + LEVELS[:-1]) / 2)
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    torch.testing.assert_close(mass[0], between[0], atol=2e-12, rtol=1e-6)
    torch.testing.assert_close(mass[-1], 1 - between[-1], atol=2e-12, rtol=1e-6)
    torch.testing.assert_close(mass[1:-1], between.diff(), atol=2e-12, rtol=1e-6)


def test_the_term_of_the_last_step_is_the_pixels():
    """-log2 of a level's mass under p(x0 | x_1), averaged over pixels, with the variance that
    p_mean_variance tells (or step 1's beta_tilde).
    """
    x0 = LEVELS[torch.tensor([[0, 40], [128, 255]])].view(2, 2, 1, 1)
    eps = random(2, 2, 1, 1)
    i = torch.zeros(2, dtype=torch.long)
    for net in (Net(), Two()):
        ddpm = DDPM(net, BETAS, learn_variance=isinstance(net, Two))
        mean, variance, _ = ddpm.p_mean_variance(ddpm.q_sample(x0, i, eps), i)
        variance = (
            variance
            if ddpm.learn_variance
            else ddpm.q_posterior(x0[:1], x0[:1], torch.ones(1, dtype=torch.long))[1].view(
                1, 1, 1, 1
            )
        )
        bits = -discretised_gaussian_log_prob(x0, mean, variance.sqrt()) / math.log(2)
        torch.testing.assert_close(ddpm.vlb_terms(x0, i, eps), bits.mean((1, 2, 3)))


class Gaussian(nn.Module):
    """The exact eps for data N(0, c^2), and with v = "exact" the v that makes p the exact reverse
    of q; or one number v; or None, no v.
    """

    def __init__(self, ddpm, c, v=None):
        super().__init__()
        self.ddpm = ddpm
        self.c = c
        self.v = v

    def forward(self, x, t):
        i = (t * self.ddpm.T).round().long() - 1
        kept, before, beta = (
            table[i].view(-1, 1)
            for table in (self.ddpm.alphas_cumprod, self.ddpm.alphas_cumprod_prev, self.ddpm.betas)
        )
        total = kept * self.c**2 + 1 - kept  # the variance of x_t
        eps_hat = (1 - kept).sqrt() * x / total
        if self.v is None:
            return eps_hat
        left = (before * self.c**2 + 1 - before) * beta / total  # the variance of x_{t-1} given x_t
        tilde = self.ddpm.log_beta_tilde[i].view(-1, 1)
        v = 2 * (left.log() - tilde) / (beta.log() - tilde) - 1 if self.v == "exact" else self.v
        return torch.cat([eps_hat, v + 0 * x], dim=1)


# exact means over N(0, 1) of polynomials
NODES, WEIGHTS = (torch.from_numpy(a) for a in numpy.polynomial.hermite_e.hermegauss(12))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def test_each_term_of_the_bound_for_gaussian_data():
    """KL_i = (SNR_{i-1} - SNR_i) / 2 times the error c^2 / (1 + c^2 SNR_i) of the best guess of x0:
    the mean is exact, by quadrature.
    """
    ddpm, c = DDPM(None, BETAS), 0.6
    ddpm.net = Gaussian(ddpm, c)
    snr = ddpm.alphas_cumprod / (1 - ddpm.alphas_cumprod)
    x0 = c * NODES.repeat_interleave(12)
    eps = NODES.repeat(12)
    weight = torch.outer(WEIGHTS, WEIGHTS).flatten()
    for i in (1, 7, 19):
        got = weight @ ddpm.vlb_terms(x0.view(-1, 1), torch.full((144,), i), eps.view(-1, 1))
        wanted = (snr[i - 1] - snr[i]) / 2 * c**2 / (1 + c**2 * snr[i]) / math.log(2)
        assert got.item() == pytest.approx(wanted.item(), rel=1e-9)


def bound_and_entropy(T, v, c=0.25):
    """The whole bound, averaged over one-pixel images N(0, c^2) rounded to 256 levels, and their
    entropy: both in bits.
    """
    ddpm = DDPM(None, Schedule.cosine(T).betas, learn_variance=v is not None)
    ddpm.net = Gaussian(ddpm, c, v)
    below = Normal(torch.tensor(0.0).double(), c).cdf((LEVELS[1:] + LEVELS[:-1]) / 2)
    mass = torch.cat([torch.zeros(1), below, torch.ones(1)]).diff()
    x0 = LEVELS.repeat_interleave(12)
    eps = NODES.repeat(256)
    weight = torch.outer(mass, WEIGHTS).flatten()
    terms = sum(
        weight @ ddpm.vlb_terms(x0.view(-1, 1), torch.full((len(x0),), i), eps.view(-1, 1))
        for i in range(T)
    )
    return (
        (terms + mass @ ddpm.prior_bits(LEVELS.view(-1, 1))).item(),
        -torch.xlogy(mass, mass).sum().item() / math.log(2),
    )


@pytest.mark.parametrize("T", [4, 40])
def test_the_bound_is_above_the_entropy_and_touches_it(T):
    """No code is shorter than the entropy.

    With the exact eps and variance only the rounding of the data is lost: less than 1e-4 bits.
    """
    exact, entropy = bound_and_entropy(T, "exact")
    # a Gaussian's, in levels of 2/255
    assert (
        entropy
        == pytest.approx(math.log2(0.25 * (2 * math.pi * math.e) ** 0.5 * 127.5), abs=1e-3)
    )
    assert entropy < exact < entropy + 1e-4


def test_the_bound_with_a_fixed_variance():
    """Above the entropy; nearer to it with more steps where the variance is beta, v = 1; without v
    it is that of beta_tilde, v = -1.
    """
    (coarse, entropy), (fine, _), (finer, _) = (bound_and_entropy(T, 1.0) for T in (10, 40, 80))
    assert entropy < finer < entropy + 0.06 and finer < fine - 0.02 < coarse - 0.1
    tilde, entropy = bound_and_entropy(10, -1.0)
    assert (
        bound_and_entropy(10, None)[0] == pytest.approx(tilde, rel=1e-9) and tilde > entropy + 0.1
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_hybrid_loss_is_the_sum_and_keeps_eps_and_v_apart(shape):
    """eps learns from the simple loss alone, v from the bound alone: T weight times a term in bits.
    """
    net = Two()
    x0 = random(*shape).clamp(-1, 1)
    eps = random(*shape, seed=1)
    i = torch.tensor([0, 4, 9, 19])
    ddpm = DDPM(net, BETAS, learn_variance=True)
    simple = ddpm.p_losses(x0, i, eps)
    bound = ddpm.vlb_terms(x0, i, eps)
    hybrid = ddpm.hybrid_loss(x0, i, eps, weight=0.01)
    torch.testing.assert_close(hybrid, simple + 0.01 * 20 * bound)
    torch.testing.assert_close(ddpm.hybrid_loss(x0, i, eps), simple + 0.001 * 20 * bound)
    for k in range(4):
        def slope(loss, p):
            return torch.autograd.grad(loss[k], p, retain_graph=True, allow_unused=True)[0]
        assert (
            slope(simple, net.v) == 0
            and slope(bound, net.eps).abs() > 1e-6
            and slope(bound, net.v).abs() > 1e-9
        )
        torch.testing.assert_close(slope(hybrid, net.eps), slope(simple, net.eps))
        torch.testing.assert_close(slope(hybrid, net.v), 0.2 * slope(bound, net.v))


def test_the_bound_has_finite_gradients_far_from_the_data():
    """Pixels of no mass at all, in float32: the logarithm stops at 1e-12, and no slope is nan."""
    net = Two(eps=50.0).float()
    ddpm = DDPM(net, torch.linspace(1e-4, 0.02, 1000), learn_variance=True)
    x0 = LEVELS[torch.tensor([0, 100, 255])].float().view(1, 3, 1, 1)
    for i in (0, 1, 999):
        gradient = torch.autograd.grad(
            ddpm.vlb_terms(x0, torch.tensor([i])).sum(), list(net.parameters())
        )
        assert all(g.isfinite().all() for g in gradient)


def test_hybrid_loss_asks_the_network_once():
    calls, two = [], Two()
    ddpm = DDPM(lambda x, t: calls.append(t) or two(x, t), BETAS, learn_variance=True)
    ddpm.hybrid_loss(random(4, 2), STEPS)
    assert len(calls) == 1
