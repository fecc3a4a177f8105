"""Every tagged formula of lesson 1, checked numerically.

`test_lesson_tags.py` keeps the list complete.
"""
import math

import pytest
import torch

from course_lib import DDPM, Denoiser, Schedule
from course_lib.lab.data import GaussianMixture

F64 = torch.float64
# alpha_bar ends near one half: both its ends and its root show
BETAS = torch.linspace(1e-3, 0.05, 25, dtype=F64)
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)
BEFORE = torch.cat([torch.ones(1, dtype=F64), ALPHA_BAR[:-1]])
BETA_TILDE = BETAS * (1 - BEFORE) / (1 - ALPHA_BAR)
SNR, SNR_BEFORE = ALPHA_BAR / (1 - ALPHA_BAR), BEFORE / (1 - BEFORE)
MIXTURE = GaussianMixture([[-1.0], [1.0]], stds=0.3, weights=[1.0, 2.0])
Y = torch.linspace(-8, 8, 32_001, dtype=F64)          # a fine line to integrate over
N = 200_000


def noise(g):
    return torch.randn(N, generator=g, dtype=F64)


def close_mean(x, wanted, variance):
    assert abs(x.mean() - wanted) < 5 * (variance / N) ** 0.5


def close_variance(x, wanted):
    assert abs(x.var() - wanted) < 5 * wanted * (2 / N) ** 0.5


def log_normal(x, m, v):
    return -0.5 * ((x - m) ** 2 / v + math.log(2 * math.pi) + torch.as_tensor(v, dtype=F64).log())


def integral(f):
    return torch.trapezoid(f, Y)


def moments(log_density):
    """Mean and variance of a density over Y that need not be normalised."""
    p = torch.softmax(log_density, 0)
    mean = (p * Y).sum()
    return mean, (p * (Y - mean) ** 2).sum()


def test_eq_1_1():
    """Scaling and adding, by a million draws and by the characteristic numbers of the result."""
    g = torch.Generator().manual_seed(0)
    x = 0.6 * (1.5 + 2 * noise(g)) - 0.7 * noise(g)
    close_mean(x, 0.9, 0.36 * 4 + 0.49)
    close_variance(x, 0.36 * 4 + 0.49)
    assert abs(((x - x.mean()) / x.std()).pow(4).mean() - 3) < 5 * (96 / N) ** 0.5, (
        "a Gaussian's fourth moment"
    )


def test_eq_1_2():
    """A product of two Gaussians, integrated."""
    m, v = moments(log_normal(Y, 0.7, 0.5) + log_normal(Y, -1.0, 0.2))
    wanted = 1 / (1 / 0.5 + 1 / 0.2)
    assert v == pytest.approx(wanted) and m == pytest.approx(wanted * (0.7 / 0.5 - 1.0 / 0.2))


def test_eq_1_3():
    """KL by integration, against the formula and torch's."""
    q, p = (log_normal(Y, m, v) for m, v in ((0.5, 0.3), (-1.0, 2.0)))
    formula = 0.5 * (math.log(2.0 / 0.3) + (0.3 + 1.5**2) / 2.0 - 1)
    assert integral(q.exp() * (q - p)) == pytest.approx(formula)
    N_ = torch.distributions.Normal
    by_torch = torch.distributions.kl_divergence(N_(0.5, 0.3**0.5), N_(-1.0, 2**0.5))
    assert by_torch == pytest.approx(formula, rel=1e-5)


def test_eq_1_4():
    """One step: `renoise` from t = 4/25 to 5/25 has mean sqrt(1 - beta) x and variance beta."""
    schedule, beta = Schedule.from_betas(BETAS), BETAS[4]
    g, x = torch.Generator().manual_seed(0), torch.full((N,), 1.7, dtype=F64)
    x = schedule.renoise(x, 4 / 25, 5 / 25, generator=g)
    close_mean(x, (1 - beta).sqrt() * 1.7, beta)
    close_variance(x, beta)


def test_eq_1_5():
    """The variance after one step, from data of variance 4, and its way to 1."""
    g, beta = torch.Generator().manual_seed(0), BETAS[20]
    x = (1 - beta).sqrt() * 2 * noise(g) + beta.sqrt() * noise(g)
    close_variance(x, (1 - beta) * 4 + beta)
    assert ((1 - beta) * 4 + beta - 1) == pytest.approx((1 - beta).item() * 3), (
        "the distance to 1 shrinks by 1 - beta"
    )


def test_eq_1_6():
    """Two steps in one: the two noises together have variance 1 - alpha_t alpha_{t-1}."""
    g, (a1, a2) = torch.Generator().manual_seed(0), 1 - BETAS[[19, 24]]
    x = a2.sqrt() * (a1.sqrt() * 1.7 + (1 - a1).sqrt() * noise(g)) + (1 - a2).sqrt() * noise(g)
    close_mean(x, (a1 * a2).sqrt() * 1.7, 1 - a1 * a2)
    close_variance(x, 1 - a1 * a2)
    assert a2 * (1 - a1) + (1 - a2) == pytest.approx((1 - a1 * a2).item())


def test_eq_1_7():
    """A walk of 25 steps against the closed form, and against q_sample."""
    g, x = torch.Generator().manual_seed(0), torch.full((N,), 1.7, dtype=F64)
    jump = DDPM(None, BETAS).q_sample(x, torch.full((N,), 24), noise(g))
    for beta in BETAS:
        x = (1 - beta).sqrt() * x + beta.sqrt() * noise(g)
    for draw in (x, jump):
        close_mean(draw, ALPHA_BAR[-1].sqrt() * 1.7, 1 - ALPHA_BAR[-1])
        close_variance(draw, 1 - ALPHA_BAR[-1])


def test_eq_1_8():
    """Variance of the signal over that of the noise, on data of variance 1; the library's log."""
    g, schedule = torch.Generator().manual_seed(0), Schedule.from_betas(BETAS)
    x0, eps = noise(g), noise(g)
    zero = torch.zeros(N, dtype=F64)
    ratio = schedule.perturb(x0, 10 / 25, zero).var() / schedule.perturb(zero, 10 / 25, eps).var()
    assert ratio == pytest.approx(SNR[9].item(), rel=0.02)
    log_snr = schedule.log_snr(torch.arange(1, 26) / 25)
    torch.testing.assert_close(log_snr, SNR.log(), rtol=1e-6, atol=1e-6)


def test_eq_1_9():
    """The density of x_t: the integral over x_0, against the mixture of moved and widened modes."""
    a, x = ALPHA_BAR[20], torch.tensor([-0.9, 0.1, 1.3], dtype=F64)
    data = MIXTURE.log_prob(Y[:, None]).exp()
    by_integral = [integral(log_normal(v, a.sqrt() * Y, 1 - a).exp() * data) for v in x]
    formula = sum(
        w * log_normal(x, a.sqrt() * m, a * 0.09 + 1 - a).exp()
        for w, m in ((1 / 3, -1.0), (2 / 3, 1.0))
    )
    torch.testing.assert_close(torch.stack(by_integral), formula)
    library = MIXTURE.log_prob(x[:, None], a.sqrt(), (1 - a).sqrt())
    torch.testing.assert_close(library.exp(), formula)


def test_eq_1_10():
    """The paper's betas: the ends, equal steps, and the middle."""
    betas = torch.tensor([1e-4 + (t - 1) / 999 * (0.02 - 1e-4) for t in range(1, 1001)], dtype=F64)
    assert betas[0] == 1e-4 and betas[-1] == pytest.approx(0.02)
    torch.testing.assert_close(betas, Schedule.linear(1000).betas)
    assert Schedule.linear(1000).alpha(1.0) ** 2 == pytest.approx(4.0358e-5, rel=1e-4), (
        "REFERENCE: the well-known end of DDPM's schedule"
    )


def test_eq_1_11():
    """Nichol & Dhariwal's curve, from math.cos, and the cap, which only the last step reaches."""
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    schedule = Schedule.cosine(1000)
    for t in (1, 100, 500, 998):
        assert schedule.alpha(t / 1000) ** 2 == pytest.approx(f(t / 1000) / f(0), rel=1e-9)
        assert schedule.betas[t - 1] == pytest.approx(1 - f(t / 1000) / f((t - 1) / 1000), rel=1e-6)
    assert schedule.betas[-1] == 0.999 and (schedule.betas[:-1] < 0.999).all()


def test_eq_1_12():
    """Jabri et al.'s curve, in their own form.

    (sigmoid of the end - sigmoid) over (sigmoid of the end - sigmoid of the start)
    """
    sig = lambda z: 1 / (1 + math.exp(-z))
    for t in (1, 250, 500, 900):
        theirs = (sig(3) - sig(-3 + 6 * t / 1000)) / (sig(3) - sig(-3))
        assert Schedule.sigmoid(1000).alpha(t / 1000) ** 2 == pytest.approx(theirs, rel=1e-9)


STORED = torch.tensor([[-1.0, 0.2], [0.4, 0.9], [1.0, -0.5]], dtype=F64)


def posterior(x, a):
    return torch.softmax(-torch.cdist(x, a.sqrt() * STORED) ** 2 / (2 * (1 - a)), dim=1)


def test_eq_1_13():
    """The posterior over stored points, against counting.

    Make many noisy points, keep those in a small box, see where they came from.
    """
    g, a = torch.Generator().manual_seed(0), ALPHA_BAR[-1]
    n = torch.randint(3, (2_000_000,), generator=g)
    x = a.sqrt() * STORED[n] + (1 - a).sqrt() * torch.randn(len(n), 2, generator=g, dtype=F64)
    position = torch.tensor([[0.2, 0.3]], dtype=F64)
    inside = (x - position).abs().max(1).values < 0.05
    fraction = (torch.bincount(n[inside], minlength=3) / inside.sum()).double()
    atol = 5 * 0.5 / inside.sum().item() ** 0.5
    torch.testing.assert_close(fraction, posterior(position, a)[0], atol=atol, rtol=0)


def test_eq_1_14():
    """The prior's mismatch, against torch's KL summed over the pixels."""
    x0, a = torch.tensor([0.3, -1.0, 0.8], dtype=F64), ALPHA_BAR[-1]
    formula = 0.5 * (a * x0.square().sum() - 3 * a - 3 * torch.log1p(-a))
    Normal = torch.distributions.Normal
    q, p = Normal(a.sqrt() * x0, (1 - a).sqrt()), Normal(torch.zeros(3, dtype=F64), 1.0)
    wanted = torch.distributions.kl_divergence(q, p).sum()
    assert formula == pytest.approx(wanted.item())


def reverse_step(x, beta):
    """(1.15): log q(x_{t-1} | x_t = x) over Y but for a constant; x_{t-1} comes from MIXTURE."""
    return log_normal(x, (1 - beta) ** 0.5 * Y, beta) + MIXTURE.log_prob(Y[:, None])


def test_eq_1_15():
    """Bayes' rule: normalised by q(x_t), the reverse step integrates to 1.

    Its mean is that of simulated pairs.
    """
    beta, x = 0.2, 0.15
    q_t = MIXTURE.log_prob(torch.tensor([[x]]), (1 - beta) ** 0.5, beta**0.5)
    assert integral((reverse_step(x, beta) - q_t).exp()) == pytest.approx(1, rel=1e-6)
    g = torch.Generator().manual_seed(0)
    x_before = MIXTURE.sample(2_000_000, seed=1)[:, 0]
    x_t = (1 - beta) ** 0.5 * x_before + beta**0.5 * torch.randn(len(x_before), generator=g)
    pairs = x_before[(x_t - x).abs() < 0.01]
    mean, variance = moments(reverse_step(x, beta))
    assert abs(pairs.mean() - mean) < 5 * (variance / len(pairs)) ** 0.5


def test_eq_1_16():
    """For smaller and smaller steps the exact reverse step takes the formula's mean and variance.

    The errors shrink like beta^2.
    """
    errors = []
    for beta in (4e-3, 1e-3):
        c = 0.15 / (1 - beta) ** 0.5
        slope = MIXTURE.score(torch.tensor([[c]], dtype=F64)).item()
        mean, variance = moments(reverse_step(0.15, beta))
        step = beta / (1 - beta)
        errors.append((abs(mean - c - step * slope), abs(variance - step)))
    assert errors[-1][0] < 0.02 * beta * abs(slope) and errors[-1][1] < 0.02 * beta, (
        "the mean's move and the variance, to 2 %"
    )
    for large, small in zip(*errors):
        assert 10 < large / small < 20, "a quarter of the step: about a sixteenth of the error"


def posterior_by_integration(i, x0, x):
    """Mean and variance of q(x_{t-1} | x_t, x_0): Bayes' rule on a fine grid."""
    return moments(
        log_normal(x, (1 - BETAS[i]).sqrt() * Y, BETAS[i])
        + log_normal(Y, BEFORE[i].sqrt() * x0, 1 - BEFORE[i])
    )


def test_eq_1_17():
    for i in (1, 10, 24):
        by_integration = posterior_by_integration(i, 0.4, -0.7)[1]
        assert BETA_TILDE[i] == pytest.approx(by_integration.item(), rel=1e-6)
        inverse = (1 - BETAS[i]) / BETAS[i] + 1 / (1 - BEFORE[i])
        assert 1 / BETA_TILDE[i] == pytest.approx(inverse.item())
        zero = torch.zeros(1)
        library = DDPM(None, BETAS).q_posterior(zero, zero, torch.tensor([i]))[1]
        assert library == pytest.approx(BETA_TILDE[i].item())


def mu(i, x, x0):
    numerator = (1 - BETAS[i]).sqrt() * (1 - BEFORE[i]) * x + BEFORE[i].sqrt() * BETAS[i] * x0
    return numerator / (1 - ALPHA_BAR[i])


def test_eq_1_18():
    for i in (1, 10, 24):
        x0, x = torch.tensor([0.4], dtype=F64), torch.tensor([-0.7], dtype=F64)
        by_integration = posterior_by_integration(i, 0.4, -0.7)[0]
        assert mu(i, x, x0) == pytest.approx(by_integration.item(), abs=1e-6)
        library = DDPM(None, BETAS).q_posterior(x0, x, torch.tensor([i]))[0]
        assert library == pytest.approx(mu(i, x, x0).item())
    assert mu(0, x, x0) == pytest.approx(x0.item()), "the last reverse step ends in x0"


# A chain of three steps on a line, small enough to integrate.
# x_0 is a number, the model a linear network.
CHAIN = torch.tensor([0.2, 0.3, 0.4], dtype=F64)
CHAIN_BAR = torch.cumprod(1 - CHAIN, 0)
X0 = 0.7


def chain_draws(g):
    """x_1, x_2, x_3 of the forward process from X0, and log q of the trajectory."""
    x, log_q = [torch.full((N,), X0, dtype=F64)], 0.0
    for beta in CHAIN:
        x.append((1 - beta).sqrt() * x[-1] + beta.sqrt() * noise(g))
        log_q = log_q + log_normal(x[-1], (1 - beta).sqrt() * x[-2], beta)
    return x, log_q


def model_step(x, i):
    """Mean and variance of p(x_{t-1} | x_t): made up, with t = i + 1."""
    return 0.8 * x + 0.05 * i, torch.tensor(0.25, dtype=F64) + 0.05 * i


def log_model(x):
    """(1.19): log p(x_0, ..., x_T)."""
    prior = log_normal(x[3], torch.zeros((), dtype=F64), torch.ones((), dtype=F64))
    return prior + sum(log_normal(x[i], *model_step(x[i + 1], i)) for i in range(3))


def log_evidence():
    """log p(X0), exact: mean and variance of a linear Gaussian chain, step by step (1.1)."""
    m, v = torch.zeros((), dtype=F64), torch.ones((), dtype=F64)
    for i in (2, 1, 0):
        mean, variance = model_step(m, i)
        m, v = mean, 0.64 * v + variance
    return log_normal(torch.tensor(X0, dtype=F64), m, v)


def test_eq_1_19():
    """The chain's density: averaged over forward trajectories, p / q gives the exact evidence."""
    x, log_q = chain_draws(torch.Generator().manual_seed(0))
    ratio = (log_model(x) - log_q).exp()
    assert abs(ratio.mean() - log_evidence().exp()) < 5 * ratio.std() / N**0.5


def test_eq_1_20():
    """Jensen: the average of log q / p lies above -log p(x0), by more than chance.

    Equality holds when the ratio is constant.
    """
    x, log_q = chain_draws(torch.Generator().manual_seed(0))
    L = log_q - log_model(x)
    assert L.mean() - 5 * L.std() / N**0.5 > -log_evidence()


def test_eq_1_21():
    """The forward process written backwards: the same density, for every trajectory."""
    x, log_q = chain_draws(torch.Generator().manual_seed(0))
    ddpm = DDPM(None, CHAIN)
    backwards = log_normal(x[3], CHAIN_BAR[2].sqrt() * X0, 1 - CHAIN_BAR[2])
    for i in (1, 2):
        mean, variance = ddpm.q_posterior(x[0], x[i + 1], torch.full((N,), i))
        backwards = backwards + log_normal(x[i], mean, variance)
    torch.testing.assert_close(backwards, log_q)


def split_bound(x):
    """L_T, L_{t-1} for t = 3 and 2, and L_0 of (1.22), for each trajectory, with torch's KL."""
    Normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    L_T = kl(Normal(CHAIN_BAR[2].sqrt() * X0, (1 - CHAIN_BAR[2]).sqrt()), Normal(0.0, 1.0))
    between = []
    for i in (2, 1):
        q_mean, q_variance = DDPM(None, CHAIN).q_posterior(x[0], x[i + 1], torch.full((N,), i))
        p_mean, p_variance = model_step(x[i + 1], i)
        between.append(kl(Normal(q_mean, q_variance.sqrt()), Normal(p_mean, p_variance.sqrt())))
    return L_T, between, -log_normal(x[0], *model_step(x[1], 0))


def test_eq_1_22():
    """The three kinds of terms sum to the bound of (1.20)."""
    x, log_q = chain_draws(torch.Generator().manual_seed(0))
    L_T, between, L_0 = split_bound(x)
    direct = log_q - log_model(x)
    difference = L_T + sum(between) + L_0 - direct
    assert abs(difference.mean()) < 5 * difference.std() / N**0.5


def test_eq_1_23():
    """One term: squared distance of the means and a constant, against torch's KL."""
    x, _ = chain_draws(torch.Generator().manual_seed(0))
    for i, wanted in zip((2, 1), split_bound(x)[1]):
        q_mean, tilde = DDPM(None, CHAIN).q_posterior(x[0], x[i + 1], torch.full((N,), i))
        p_mean, variance = model_step(x[i + 1], i)
        constant = 0.5 * ((variance / tilde).log() + tilde / variance - 1)
        formula = (q_mean - p_mean) ** 2 / (2 * variance) + constant
        torch.testing.assert_close(formula, wanted)


def test_eq_1_24():
    """In units of x0 with the posterior's variance: half the loss of SNR."""
    for i in (1, 10, 24):
        miss = mu(i, torch.tensor(-0.7).double(), 0.4) - mu(i, torch.tensor(-0.7).double(), 0.1)
        formula = 0.5 * (SNR_BEFORE[i] - SNR[i]) * 0.3**2
        assert miss**2 / (2 * BETA_TILDE[i]) == pytest.approx(formula.item())


def test_eq_1_25():
    """In units of eps, for either variance."""
    x0, eps, eps_hat = 0.4, 0.9, 0.2
    for i in (1, 10, 24):
        x = ALPHA_BAR[i].sqrt() * x0 + (1 - ALPHA_BAR[i]).sqrt() * eps
        x0_hat = (x - (1 - ALPHA_BAR[i]).sqrt() * eps_hat) / ALPHA_BAR[i].sqrt()
        for variance in (BETAS[i], BETA_TILDE[i]):
            weight = BETAS[i] ** 2 / (2 * variance * (1 - BETAS[i]) * (1 - ALPHA_BAR[i]))
            distance = (mu(i, x, x0) - mu(i, x, x0_hat)) ** 2
            formula = weight * (eps - eps_hat) ** 2
            assert distance / (2 * variance) == pytest.approx(formula.item())


def test_eq_1_26():
    """The loss of the best linear prediction of the noise, g = c x_t, of N(0, 1) data.

    It is 1 - (1 - alpha_bar), at c = sqrt(1 - alpha_bar).
    """
    class Linear(torch.nn.Module):
        def forward(self, x, t):
            return (1 - ALPHA_BAR[14]).sqrt() * x

    g = torch.Generator().manual_seed(0)
    x0, eps = noise(g).view(-1, 1), noise(g).view(-1, 1)
    loss = DDPM(Linear(), BETAS).p_losses(x0, torch.full((N,), 14), eps)
    assert loss.mean() == pytest.approx(ALPHA_BAR[14].item(), rel=0.02)


class Returns(torch.nn.Module):
    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x, t):
        return self.eps


def test_eq_1_27():
    """Noise known, image known: the lesson's line, DDPM's and Denoiser's x0-prediction."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 1, 2, 2, generator=g, dtype=F64)
    i = torch.tensor([0, 5, 10, 20, 24])
    a = ALPHA_BAR[i].view(-1, 1, 1, 1)
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    torch.testing.assert_close((x - (1 - a).sqrt() * eps) / a.sqrt(), x0)
    torch.testing.assert_close(DDPM(Returns(eps), BETAS).p_mean_variance(x, i)[2], x0)
    D = Denoiser(Returns(eps), Schedule.from_betas(BETAS), "eps")
    torch.testing.assert_close(D(x, (i + 1).double() / 25), x0)


def test_eq_1_28():
    """Mean squared error = variance + squared distance from the mean.

    For noise given x_t of two-point data: exact sums.
    """
    a, x = ALPHA_BAR[14], 0.3
    x0 = torch.tensor([-1.0, 1.0], dtype=F64)      # two equally likely pixels
    eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
    weight = torch.softmax(-eps**2 / 2, 0)         # p(x0 | x_t), by Bayes' rule
    m = (weight * eps).sum()
    for prediction in (-1.0, 0.0, 2.5):
        error = (weight * (eps - prediction) ** 2).sum()
        variance = (weight * (eps - m) ** 2).sum()
        assert error == pytest.approx((variance + (m - prediction) ** 2).item())


def given_x(x, a):
    """Weights p(x0 | x_t = x) over Y, by Bayes' rule."""
    return torch.softmax(log_normal(x, a.sqrt() * Y, 1 - a) + MIXTURE.log_prob(Y[:, None]), 0)


def test_eq_1_29():
    """The score, by autograd, against the average noise, by integration."""
    for i in (2, 14, 24):
        a, x = ALPHA_BAR[i], torch.tensor([[0.3]], dtype=F64, requires_grad=True)
        score, = torch.autograd.grad(MIXTURE.log_prob(x, a.sqrt(), (1 - a).sqrt()).sum(), x)
        mean_eps = (given_x(0.3, a) * (0.3 - a.sqrt() * Y) / (1 - a).sqrt()).sum()
        assert score.item() == pytest.approx((-mean_eps / (1 - a).sqrt()).item())
        torch.testing.assert_close(MIXTURE.score(x.detach(), a.sqrt(), (1 - a).sqrt()), score)


def test_eq_1_30():
    """Tweedie: the average clean point, by integration, from the score, by autograd."""
    for i in (2, 14, 24):
        a, x = ALPHA_BAR[i], torch.tensor([[0.3]], dtype=F64, requires_grad=True)
        score, = torch.autograd.grad(MIXTURE.log_prob(x, a.sqrt(), (1 - a).sqrt()).sum(), x)
        formula = (0.3 + (1 - a) * score) / a.sqrt()
        assert formula.item() == pytest.approx((given_x(0.3, a) * Y).sum().item())


def test_eq_1_31():
    """The mixture's denoiser, from the formula and from the library, against integration."""
    x, means = torch.tensor(0.3, dtype=F64), torch.tensor([-1.0, 1.0], dtype=F64)
    log_weights = torch.tensor([1 / 3, 2 / 3]).log()
    for i in (2, 14, 24):
        a = ALPHA_BAR[i]
        variance, offset = a * 0.09 + 1 - a, x - a.sqrt() * means
        fraction = torch.softmax(log_weights + log_normal(x, a.sqrt() * means, variance), 0)
        formula = (fraction * (means + a.sqrt() * 0.09 / variance * offset)).sum()
        assert formula == pytest.approx((given_x(0.3, a) * Y).sum().item(), rel=1e-6)
        library = MIXTURE.posterior_mean(x.view(1, 1), a.sqrt(), (1 - a).sqrt())
        assert library.item() == pytest.approx(formula.item())


def test_eq_1_32():
    """The denoiser of stored images is that of a mixture whose modes have (almost) no width."""
    x, a = torch.tensor([[0.2, 0.3], [1.0, -1.0]], dtype=F64), ALPHA_BAR[-1]
    exact = GaussianMixture(STORED, stds=1e-6).posterior_mean(x, a.sqrt(), (1 - a).sqrt())
    torch.testing.assert_close(posterior(x, a) @ STORED, exact)


def test_eq_1_33():
    """The continuous schedule: discrete ones of ever more steps converge to it, at first order."""
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    formula = torch.exp(-0.1 * t - 0.5 * (20 - 0.1) * t**2)
    errors = [
        ((Schedule.linear(T).alpha(t) ** 2).log() - formula.log()).abs().max().item()
        for T in (1000, 10_000)
    ]
    assert errors[1] < 0.01 and 8 < errors[0] / errors[1] < 12
    fine = torch.linspace(0, 0.9, 100_001, dtype=F64)
    assert torch.trapezoid(0.1 + 19.9 * fine, fine) == pytest.approx(-formula[2].log().item()), (
        "and the integral itself"
    )


SCHEDULES = Schedule.linear(), Schedule.cosine(), Schedule.sigmoid()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
class TestConversions:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)

    def noisy(self, schedule):
        x0, eps = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
        x = schedule.perturb(x0, self.t, eps)
        return x0, eps, x, schedule.alpha(self.t), schedule.sigma(self.t)

    def test_edm(self, schedule):
        x0, eps, x, alpha, sigma = self.noisy(schedule)
        torch.testing.assert_close(x / alpha[:, None], x0 + (sigma / alpha)[:, None] * eps)
        torch.testing.assert_close(sigma / alpha, ((1 - alpha**2) / alpha**2).sqrt())

    def test_flow(self, schedule):
        x0, eps, x, alpha, sigma = self.noisy(schedule)
        flow = Schedule.flow().perturb(x0, sigma / (alpha + sigma), eps)
        torch.testing.assert_close(x / (alpha + sigma)[:, None], flow)

    def test_log_snr(self, schedule):
        _, _, _, alpha, sigma = self.noisy(schedule)
        edm, t_flow = sigma / alpha, sigma / (alpha + sigma)
        for other in (
            -2 * edm.log(),
            2 * ((1 - t_flow) / t_flow).log(),
            Schedule.flow().log_snr(t_flow),
            (alpha**2 / (1 - alpha**2)).log(),
        ):
            torch.testing.assert_close(schedule.log_snr(self.t), other)


def test_eq_1_34():
    """An EDM denoiser, of x_EDM and sigma_EDM, equals ours, of x_t and t: exactly, on a mixture."""
    t, x = torch.tensor([0.3], dtype=F64), torch.tensor([[0.4]], dtype=F64)
    schedule = Schedule.cosine()
    sigma_edm = schedule.sigma(t) / schedule.alpha(t)
    ours = MIXTURE.posterior_mean(x, schedule.alpha(t), schedule.sigma(t))
    edm = MIXTURE.posterior_mean(x / schedule.alpha(t), torch.ones(1), sigma_edm)
    torch.testing.assert_close(edm, ours)


def test_eq_1_35():
    """The same for flow matching."""
    t, x = torch.tensor([0.3], dtype=F64), torch.tensor([[0.4]], dtype=F64)
    schedule, flow = Schedule.cosine(), Schedule.flow()
    total = schedule.alpha(t) + schedule.sigma(t)
    t_flow = schedule.sigma(t) / total
    ours = MIXTURE.posterior_mean(x, schedule.alpha(t), schedule.sigma(t))
    of_flow = MIXTURE.posterior_mean(x / total, flow.alpha(t_flow), flow.sigma(t_flow))
    torch.testing.assert_close(of_flow, ours)


def test_eq_1_36():
    """log-SNR as the common time.

    Finding it in one schedule and looking it up in another gives the same noise per signal.
    """
    edm, flow, cosine = Schedule.edm(), Schedule.flow(), Schedule.cosine()
    level = cosine.log_snr(0.4)
    assert edm.sigma(edm.t_from_log_snr(level)) == pytest.approx(math.exp(-level / 2), rel=1e-6)
    s = flow.t_from_log_snr(level)
    assert 2 * math.log((1 - s) / s) == pytest.approx(level.item(), rel=1e-6)
def test_eq_1_37():
    """Levels that are left out: the fewer, larger steps lead to the same q(x_t | x_0).

    By merging two steps as in (1.6), and with the library's tables of the levels that are kept.
    """
    betas = Schedule.linear(T=1000).betas
    alpha_bar = torch.cumprod(1 - betas, 0)
    first, second = 1 - betas[400], 1 - betas[401]
    merged = second * (1 - first) + (1 - second)            # the variance of both steps' noise
    assert merged.item() == pytest.approx((1 - alpha_bar[401] / alpha_bar[399]).item(), rel=1e-9)
    kept = alpha_bar[torch.tensor([9, 99, 250, 777, 999])]
    large = 1 - kept / torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    fewer = Schedule.from_betas(large)
    t = torch.arange(1, 6) / 5
    torch.testing.assert_close(fewer.alpha(t).square().double(), kept.double())
    assert (large > betas[[9, 99, 250, 777, 999]]).all()
