"""Every tagged formula of lesson 3, checked numerically; `test_lesson_tags.py` keeps the
list complete.
"""
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import DDPM, Denoiser, Schedule, ddim, last
from course_lib.ddpm import discretised_gaussian_log_prob
from course_lib.denoiser import TARGETS
from course_lib.lab import features, metrics, train
from course_lib.lab.data import GaussianMixture
from course_lib.lab.training.muon import orthogonalize

F64 = torch.float64
G = lambda seed=0: torch.Generator().manual_seed(seed)
# a lopsided Y
SKEW = torch.cat([torch.full((60,), 0.0), torch.full((30,), 1.0), torch.full((10,), 5.0)]).double()


# ---- part I: losses, targets, schedules, variance, averages


def smallest(loss):
    """Where the mean loss over SKEW is smallest, by looking everywhere."""
    g = torch.linspace(-1, 6, 70_001, dtype=torch.float64)
    return g[torch.cat([loss(part[:, None] - SKEW).mean(1) for part in g.split(7000)]).argmin()]


def test_eq_3_1():
    """The squared error is smallest at the mean."""
    assert smallest(lambda r: r.square()) == pytest.approx(SKEW.mean().item(), abs=2e-4)


def test_eq_3_2():
    """The absolute error is smallest where as much lies above as below; on a lopsided Y that is not
    the mean.
    """
    y = torch.randn(5001, generator=G()).double().exp()
    g = torch.linspace(0.2, 4, 4001, dtype=torch.float64)
    best = g[torch.stack([(a - y).abs().mean() for a in g]).argmin()]
    assert abs((y < best).double().mean() - (y > best).double().mean()) < 2e-3
    assert best < y.mean() - 0.3


def test_eq_3_3():
    """Huber's loss is smallest where the errors, cut off at delta, cancel; from the median to the
    mean as delta grows.
    """
    huber = lambda r, delta: F.huber_loss(r, 0 * r, reduction="none", delta=delta)
    best = smallest(lambda r: huber(r, 0.7))
    assert (SKEW - best).clamp(-0.7, 0.7).mean().item() == pytest.approx(0, abs=2e-4)
    small, large = (smallest(lambda r, d=d: huber(r, d)).item() for d in (1e-3, 10.0))
    assert small == pytest.approx(SKEW.median().item(), abs=2e-3)
    assert large == pytest.approx(SKEW.mean().item(), abs=2e-4)
    assert small < best < large


def test_eq_3_4():
    """The error of any target beside the error of x0: random predictions, random coefficients, any
    schedule.
    """
    for schedule in (Schedule.cosine(), Schedule.flow(), Schedule.edm()):
        x0, eps, out = torch.randn(3, 50, 4, generator=G(), dtype=torch.float64)
        t = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
        for pair in (*TARGETS.values(), lambda alpha, sigma: (0.3 - sigma, 2 + alpha)):
            D = Denoiser(lambda x, t: out, schedule, pair)
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            a, b = pair(alpha, sigma)
            x0_hat = D(schedule.perturb(x0, t, eps), t)
            torch.testing.assert_close(
                (out - a[:, None] * x0 - b[:, None] * eps).square().sum(1),
                ((alpha * b - sigma * a) / sigma) ** 2 * (x0_hat - x0).square().sum(1),
                rtol=1e-6,
                atol=1e-9,
            )


def test_eq_3_5():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    def weight(target, schedule):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        a, b = TARGETS[target](alpha, sigma)
        return ((alpha * b - sigma * a) / sigma) ** 2
    cosine, flow = Schedule.cosine(), Schedule.flow()
    snr, snr_flow = cosine.log_snr(t).exp(), flow.log_snr(t).exp()
    for target, schedule, wanted in (
        ("eps", cosine, snr),
        ("x0", cosine, torch.ones_like(t)),
        ("v", cosine, snr + 1),
        ("flow", flow, (1 + snr_flow.sqrt()) ** 2),
    ):
        torch.testing.assert_close(weight(target, schedule), wanted)


def test_eq_3_6():
    """The line is flow's schedule, its speed the derivative, and the target named flow."""
    x0 = torch.tensor(0.7, dtype=torch.float64)
    eps = torch.tensor(-1.3, dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = (1 - t) * x0 + t * eps
    assert torch.autograd.grad(x, t)[0] == pytest.approx((eps - x0).item())
    flow = Schedule.flow()
    assert flow.perturb(x0[None], 0.4, eps[None]).item() == pytest.approx(x.item())
    assert TARGETS["flow"](flow.alpha(t), flow.sigma(t)) == (-1, 1)


LINE = GaussianMixture([[-1.0], [1.0]], 0.3, [0.3, 0.7])


def mean_speed(x, t):
    """E[eps - x0 | x_t = x] of the mixture on flow's schedule, from the exact denoiser."""
    x0_hat = LINE.denoiser(Schedule.flow())(x, t)
    return (x - x0_hat) / t                                             # eps = (x - (1 - t) x0) / t


def test_eq_3_7():
    """Among a million lines, those that pass near x at t move with the mean speed there."""
    x0 = LINE.sample(1_000_000)[:, 0].double()
    eps, t = torch.randn(1_000_000, generator=G(1)).double(), 0.45
    x = (1 - t) * x0 + t * eps
    for place in (-0.5, 0.2, 0.9):
        near = (x - place).abs() < 0.02
        speed = (eps - x0)[near]
        wanted = mean_speed(
            torch.tensor([[place]], dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
        ).item()
        standard_error = speed.std().item() / near.sum().item() ** 0.5
        assert speed.mean().item() == pytest.approx(wanted, abs=5 * standard_error + 0.02)


def test_eq_3_8():
    """d/dt E f(x_t) = E[f'(x_t) u(x_t, t)], the left side from the mixture's own density, for
    f = x^2 and f = sin.
    """
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    density = lambda t: LINE.log_prob(grid, 1 - t, t).exp()
    h = 1e-4
    t = 0.5
    dx = 12 / 4000
    for f, slope in ((lambda x: x**2, lambda x: 2 * x), (torch.sin, torch.cos)):
        left = ((density(t + h) - density(t - h)) * f(grid[:, 0])).sum() * dx / (2 * h)
        u = mean_speed(grid, torch.tensor(t, dtype=torch.float64))[:, 0]
        right = (density(t) * slope(grid[:, 0]) * u).sum() * dx
        assert left.item() == pytest.approx(right.item(), rel=1e-5) and abs(left) > 0.05


def test_eq_3_9():
    """The loss against single lines is smallest at the mean speed: any other function is worse, by
    the mean square of its distance.
    """
    x0, eps = LINE.sample(400_000).double(), torch.randn(400_000, 1, generator=G(2)).double()
    t = torch.tensor(0.6, dtype=torch.float64)
    x = (1 - t) * x0 + t * eps
    u = mean_speed(x, t)
    excess = lambda net: ((net - (eps - x0)).square() - (u - (eps - x0)).square()).mean().item()
    for other in (0.2 * torch.sin(x), 0.1 + 0 * x, -0.3 * x):
        assert excess(u + other) == pytest.approx(other.square().mean().item(), rel=0.08)


def test_eq_3_10():
    flow, x = Schedule.flow(), torch.randn(6, 1, generator=G(), dtype=torch.float64)
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.45))
    torch.testing.assert_close(
        last(ddim(LINE.denoiser(flow), flow, x, [t, s])), x + (s - t) * mean_speed(x, t)
    )


S = 0.5
SIGMA = torch.logspace(-2, 2, 9, dtype=torch.float64)
SIZE = (S**2 + SIGMA**2).sqrt()
C_IN = 1 / SIZE
C_SKIP = S**2 / SIZE**2
C_OUT = SIGMA * S / SIZE


def test_eq_3_11():
    """The library's target "edm" is the paper's D."""
    weight = torch.randn(3, 3, generator=G(), dtype=torch.float64)
    net = lambda x, t: torch.tanh(x @ weight + t[:, None])
    schedule = Schedule.edm()
    t = schedule.t_from_log_snr(-2 * SIGMA.clamp(max=79).log())
    sigma = schedule.sigma(t)
    r = (S**2 + sigma**2).sqrt()
    x = torch.randn(9, 3, generator=G(1), dtype=torch.float64)
    by_hand = (
        (S**2 / r**2)[:, None] * x
        + (sigma * S / r)[:, None] * net(x / r[:, None], sigma.log() / 4)
    )
    torch.testing.assert_close(Denoiser(net, schedule, "edm", sigma_data=S)(x, t), by_hand)


def draws(n=200_000):
    x0 = S * torch.randn(n, 1, generator=G(3), dtype=torch.float64)
    return x0, x0 + SIGMA * torch.randn(n, 1, generator=G(4), dtype=torch.float64)  # (n, 1), (n, 9)


def test_eq_3_12():
    x = draws()[1]
    torch.testing.assert_close((C_IN * x).std(0), torch.ones(9).double(), rtol=0.01, atol=0)


def test_eq_3_13():
    """Whatever c_skip is, this c_out gives F a target of variance 1."""
    x0, x = draws()
    for c in (C_SKIP, 0.3 * torch.ones(9), 1.2 * C_SKIP):
        c_out = ((1 - c) ** 2 * S**2 + c**2 * SIGMA**2).sqrt()
        torch.testing.assert_close(
            ((x0 - c * x) / c_out).std(0), torch.ones(9).double(), rtol=0.01, atol=0
        )


def test_eq_3_14():
    """The smallest c_out of all, found by looking; and its closed form."""
    c = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    c_out_squared = (1 - c) ** 2 * S**2 + c**2 * SIGMA**2                # (100001, 9)
    torch.testing.assert_close(c[c_out_squared.argmin(0), 0], C_SKIP, atol=1e-5, rtol=0)
    torch.testing.assert_close(c_out_squared.min(0).values.sqrt(), C_OUT, rtol=1e-5, atol=1e-7)


def test_eq_3_15():
    """As weights of the x0 error: min(SNR, gamma), and the eps weight over 1 + SNR."""
    cosine, t = Schedule.cosine(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    snr = cosine.log_snr(t).exp()
    alpha, sigma = cosine.alpha(t), cosine.sigma(t)
    v = ((alpha * alpha + sigma * sigma) / sigma) ** 2      # of the v loss on the x0 error
    min_snr = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    torch.testing.assert_close(min_snr * v, snr.clamp(max=5))
    torch.testing.assert_close(snr / (snr + 1) ** 2 * v, snr / (1 + snr))


def test_eq_3_16():
    """The mean is the same whichever times are drawn, if they are weighed back."""
    w, L = (lambda t: 1 + t), (lambda t: (5 * t).sin() ** 2)
    middles = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    exact = (w(middles) * L(middles)).mean().item()
    t = torch.rand(400_000, generator=G(), dtype=torch.float64).sqrt()   # density 2 t
    values = w(t) * L(t) / (2 * t)
    assert values.mean().item() == pytest.approx(exact, abs=5 * values.std().item() / 400_000**0.5)


def test_eq_3_17():
    """The second moment with p proportional to g is the square of g's integral, and no other
    density tried has less.
    """
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    g = (3 * u).exp() + u.sin()
    moment = lambda p: (g**2 / p).mean()
    best = moment(g / g.mean())
    assert best.item() == pytest.approx((g.mean() ** 2).item(), rel=1e-12)
    for k in range(20):
        p = g * (0.3 * torch.randn(10_000, generator=G(k), dtype=torch.float64)).exp()
        assert moment(p / p.mean()) > best
    assert moment(torch.ones_like(u)) > 1.3 * best


def test_eq_3_18():
    """Averages of k x k pixels: their noise, measured; and the log-SNR it gives."""
    for k in (2, 4):
        noise = F.avg_pool2d(0.8 * torch.randn(200, 1, 32, 32, generator=G()).double(), k)
        measured = 2 * math.log(0.6) - math.log(noise.var().item())
        assert measured == pytest.approx(2 * math.log(0.6 / 0.8) + 2 * math.log(k), abs=0.03)


def test_eq_3_19():
    for k in (2.0, 3.0):
        t = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        new = k * t / (1 + (k - 1) * t)
        torch.testing.assert_close(
            Schedule.flow().log_snr(new), Schedule.flow().log_snr(t) - 2 * math.log(k)
        )


BETAS = Schedule.cosine(50).betas


def two_outputs(r):
    """A network that returns eps = 0 and puts the variance at r in [0, 1]."""
    return lambda x, t: torch.cat([torch.zeros_like(x), torch.full_like(x, 2 * r - 1)], dim=1)


def test_eq_3_20():
    """r = 0 is beta tilde, r = 1 is beta, and between them the logarithms are mixed."""
    x, i = torch.randn(4, 2, generator=G(), dtype=torch.float64), torch.tensor([5, 20, 33, 48])
    log_variance = {
        r: DDPM(two_outputs(r), BETAS, learn_variance=True).p_mean_variance(x, i)[1].log()
        for r in (0.0, 0.25, 1.0)
    }
    tilde = DDPM(lambda x, t: 0 * x, BETAS).q_posterior(x, x, i)[1]
    torch.testing.assert_close(log_variance[0.0], tilde.log()[:, None].expand(4, 2))
    torch.testing.assert_close(log_variance[1.0], BETAS[i].log()[:, None].expand(4, 2))
    torch.testing.assert_close(
        log_variance[0.25], 0.75 * log_variance[0.0] + 0.25 * log_variance[1.0]
    )


def test_eq_3_21():
    """The simple loss plus a thousandth of the bound in bits per dimension, a sum over T steps
    estimated by T times one; its gradient moves the variance only.
    """
    x0 = torch.randn(6, 2, generator=G(), dtype=torch.float64)
    eps = torch.randn(6, 2, generator=G(1), dtype=torch.float64)
    i = torch.arange(1, 49, 8)
    out = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    ddpm = DDPM(lambda x, t: out, BETAS, learn_variance=True)
    x, alpha_bar = ddpm.q_sample(x0, i, eps), ddpm.alphas_cumprod[i][:, None]
    true_mean, true_variance = ddpm.q_posterior(x0, x, i)
    mean, variance, _ = ddpm.p_mean_variance(x, i)
    ratio = true_variance[:, None] / variance
    nats = (ratio - ratio.log() - 1 + (true_mean - mean) ** 2 / variance) / 2
    bits = (nats / math.log(2)).mean(1)
    # of the answer eps = 0
    simple = ((x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()).square().mean(1)
    hybrid = ddpm.hybrid_loss(x0, i, eps)
    torch.testing.assert_close(hybrid, simple + 0.001 * 50 * bits)
    of_hybrid, of_simple = (
        torch.autograd.grad(loss.sum(), out, retain_graph=True)[0]
        for loss in (hybrid, ddpm.p_losses(x0, i, eps))
    )
    torch.testing.assert_close(of_hybrid[:, :2], of_simple[:, :2])
    assert of_hybrid[:, 2:].abs().min() > 0 and not of_simple[:, 2:].any()


def test_eq_3_22():
    """All 256 levels together are certain, and each is what the Gaussian puts between the
    midpoints.
    """
    both_ends(0.97)
    both_ends(-0.97)


def both_ends(mean, s=0.05):
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), s)
    levels = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
    upper = torch.where(levels > 0.999, 1.0, normal.cdf(levels + 1 / 255))
    lower = torch.where(levels < -0.999, 0.0, normal.cdf(levels - 1 / 255))
    p = upper - lower
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(
        discretised_gaussian_log_prob(levels, torch.tensor(mean), torch.tensor(s)).exp(),
        p,
        rtol=1e-5,
        atol=2e-12,
    )
    x = mean + s * torch.randn(1_000_000, generator=G(), dtype=torch.float64)
    draws = ((x + 1) * 127.5).round().clamp(0, 255).long()
    counts = torch.bincount(draws, minlength=256) / 1_000_000
    close = (counts - p).abs() < 5 * (p / 1_000_000).sqrt() + 1e-5
    assert close.all(), "the last level has the whole tail"


def test_eq_3_23():
    """Unrolled: what weights of k steps ago count, and the start."""
    beta, n = 0.93, 40
    theta = torch.randn(n + 1, generator=G(), dtype=torch.float64)      # the start, then n steps
    average = theta[0]
    for value in theta[1:]:
        average = beta * average + (1 - beta) * value
    # k steps ago
    counts = torch.tensor([(1 - beta) * beta**k for k in range(n)], dtype=torch.float64)
    unrolled = (counts * theta[1:].flip(0)).sum().item() + beta**n * theta[0].item()
    assert average.item() == pytest.approx(unrolled)


def test_eq_3_24():
    gamma, n = 9, 500
    theta = torch.randn(n + 1, generator=G(), dtype=torch.float64)
    average = theta[0]
    for k in range(1, n + 1):
        average = torch.lerp(theta[k], average, (1 - 1 / k) ** (gamma + 1))
    k = torch.arange(1, n + 1, dtype=torch.float64)
    counts = (1 - (1 - 1 / k) ** (gamma + 1)) * (k / n) ** (gamma + 1)
    assert counts.sum().item() == pytest.approx(1), "nothing is left of the start"
    assert average.item() == pytest.approx((counts * theta[1:]).sum().item())
    torch.testing.assert_close(
        counts[300:], ((gamma + 1) / n * (k / n) ** gamma)[300:], rtol=0.02, atol=0
    )


# ---- the debugging clinic

LEVELS = (0.3, 0.65, 0.8)  # none of them where alpha = sigma, so that exchanging the two is seen


def coefficients(t):
    return Schedule.cosine().alpha(t), Schedule.cosine().sigma(t)


def uneven(n=200_000):
    """x0 with mean 0.4 and standard deviation 0.6, not Gaussian; eps; float64."""
    g = G()
    uniform = torch.rand(n, generator=g, dtype=torch.float64) * 12**0.5 - 3**0.5
    return 0.4 + 0.6 * uniform, torch.randn(n, generator=g, dtype=torch.float64)


def within(values, expected, errors=5):
    """The mean of independent values, to five standard errors."""
    assert abs(values.mean() - expected) < errors * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("t", LEVELS)
def test_eq_3_25(t):
    """The loss of an output 0: the mean square of x0, not its variance, stands beside sigma
    squared.
    """
    (alpha, sigma), (x0, eps) = coefficients(t), uneven()
    expected = alpha**2 + sigma**2 * (0.4**2 + 0.6**2)
    within((alpha * eps - sigma * x0) ** 2, expected)
    silent = Denoiser(lambda x, t, y: torch.zeros_like(x), Schedule.cosine(), "v")
    within(silent.loss(x0[:, None], torch.full((len(x0),), t), eps[:, None], y=None), expected)


@pytest.mark.parametrize("t", LEVELS)
def test_eq_3_26(t):
    (alpha, sigma), (x0, eps) = coefficients(t), uneven()
    x_t = Schedule.cosine().perturb(x0, t, eps)
    within((x_t - alpha * 0.4) ** 2, alpha**2 * 0.6**2 + sigma**2)


@pytest.mark.parametrize("t", LEVELS)
def test_eq_3_27(t):
    """The target as the network's answer gives the data back, through the formula and through the
    library.
    """
    (alpha, sigma), (x0, eps) = coefficients(t), uneven(100)
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    torch.testing.assert_close(alpha * x_t - sigma * v, x0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    right = Denoiser(lambda x, t: v[:, None], Schedule.cosine(), "v")
    wrong_sign = Denoiser(lambda x, t: -v[:, None], Schedule.cosine(), "v")
    torch.testing.assert_close(right(x_t[:, None], t), x0[:, None])
    assert (wrong_sign(x_t[:, None], t) - x0[:, None]).abs().max() > 0.1


@pytest.mark.parametrize("t", LEVELS)
def test_eq_3_28(t):
    """The perfect network for N(0, s^2): as the slope of a regression of v on x_t, and from the
    exact posterior mean.
    """
    (alpha, sigma), s, g = coefficients(t), 0.5, torch.Generator().manual_seed(1)
    x0 = s * torch.randn(200_000, generator=g, dtype=torch.float64)
    eps = torch.randn(200_000, generator=g, dtype=torch.float64)
    x_t, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    slope = alpha * sigma * (1 - s**2) / (alpha**2 * s**2 + sigma**2)
    within((v - slope * x_t) * x_t, 0)  # the normal equation of the regression
    mean = GaussianMixture([[0.0]], s).posterior_mean(x_t[:50, None], alpha, sigma)    # (50, 1)
    torch.testing.assert_close((alpha * x_t[:50, None] - mean) / sigma, slope * x_t[:50, None])
    torch.testing.assert_close(mean, alpha * s**2 / (alpha**2 * s**2 + sigma**2) * x_t[:50, None])


# ---- part II: metrics

N = 200_000


def covariance(d, seed):
    """A covariance of full rank, no multiple of the identity, and not diagonal."""
    S = torch.randn(d, d, generator=G(seed), dtype=F64)
    return S @ S.T / d + 0.2 * torch.eye(d, dtype=F64)


def power(C, p):
    w, V = torch.linalg.eigh(C)
    return (V * w**p) @ V.T


A, B = covariance(4, 1), covariance(4, 2)
R = power(power(A, 0.5) @ B @ power(A, 0.5), 0.5)
MU1, MU2 = torch.randn(2, 4, generator=G(3), dtype=F64)


def test_eq_3_29():
    """A coupling that is neither independent nor the best, by Monte Carlo to 5 standard errors,
    with the covariance known in advance.
    """
    u, v = torch.randn(2, N, generator=G(), dtype=F64)
    x, y = 0.3 + 1.5 * u, -0.4 + 0.5 * (0.6 * u + 0.8 * v)
    cost = (x - y).square()
    formula = (0.3 + 0.4) ** 2 + 1.5**2 + 0.5**2 - 2 * 1.5 * 0.5 * 0.6
    assert abs(cost.mean() - formula) < 5 * cost.std() / N**0.5


def test_eq_3_30():
    """On a line the best pairing is the sorted one: the integral over quantiles; the library
    agrees.
    """
    q = (torch.arange(N, dtype=F64) + 0.5) / N
    z = 2**0.5 * torch.erfinv(2 * q - 1)
    formula = (0.3 + 0.4) ** 2 + (1.5 - 0.5) ** 2
    assert ((0.3 + 1.5 * z) - (-0.4 + 0.5 * z)).square().mean() == pytest.approx(formula, rel=1e-4)
    z = (z - z.mean()) / z.std()
    distance = metrics.frechet_distance((0.3 + 1.5 * z)[:, None], (-0.4 + 0.5 * z)[:, None])
    assert distance == pytest.approx(formula, rel=1e-9)


def test_eq_3_31():
    """Four dimensions, a coupling through a contraction K, by Monte Carlo."""
    K = 0.7 * torch.linalg.qr(torch.randn(4, 4, generator=G(5), dtype=F64))[0]
    u, w = torch.randn(2, N, 4, generator=G(), dtype=F64)
    v = u @ K + 0.51**0.5 * w  # E u v^T = K, Cov(v) = I
    x, y = MU1 + u @ power(A, 0.5), MU2 + v @ power(B, 0.5)
    cost = (x - y).square().sum(1)
    cross = power(A, 0.5) @ K @ power(B, 0.5)
    formula = (MU1 - MU2).square().sum() + A.trace() + B.trace() - 2 * cross.trace()
    assert abs(cost.mean() - formula) < 5 * cost.std() / N**0.5


def test_eq_3_32():
    """tr KM for many contractions K stays below tr R, which is the sum of M's singular values; the
    rotation Q P^T attains it.
    """
    M = power(B, 0.5) @ power(A, 0.5)
    P, s, Qt = torch.linalg.svd(M)
    assert R.trace() == pytest.approx(s.sum().item())
    g = G()
    for _ in range(200):
        size = torch.rand(1, generator=g, dtype=F64)
        K = size * torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=F64))[0]
        total = sum(s[i] * Qt[i] @ K @ P[:, i] for i in range(4))
        assert (K @ M).trace() == pytest.approx(total.item()) and total <= R.trace() + 1e-12
    assert (Qt.T @ P.T @ M).trace() == pytest.approx(R.trace().item())


def test_eq_3_33():
    T = power(A, -0.5) @ R @ power(A, -0.5)
    torch.testing.assert_close(T, T.T)
    torch.testing.assert_close(T @ A @ T, B)
    assert (A @ T).trace() == pytest.approx(R.trace().item())


def test_eq_3_34():
    """Clouds whitened and coloured, so that their moments are exact: the library, and the work of
    the best map.
    """
    z = torch.randn(500, 4, generator=G(), dtype=F64)
    z = (z - z.mean(0)) @ power(z.T.cov(), -0.5)
    x, other = MU1 + z @ power(A, 0.5), MU2 + z.flip(0) @ power(B, 0.5)
    formula = (MU1 - MU2).square().sum() + (A + B - 2 * R).trace()
    assert metrics.frechet_distance(x, other) == pytest.approx(formula.item(), rel=1e-9)
    y = MU2 + (x - MU1) @ power(A, -0.5) @ R @ power(A, -0.5)
    work = (MU1 - MU2).square().sum() + ((x - MU1) - (y - MU2)).square().sum() / 499
    assert work == pytest.approx(formula.item())


LAM = torch.tensor([0.5, 1.0, 3.0], dtype=F64)


def test_eq_3_35():
    """The expansion against the exact distance for smaller and smaller errors: what is left shrinks
    with the third power.
    """
    C = LAM.diag()
    E = torch.tensor([[0.3, -0.2, 0.4], [-0.2, -0.5, 0.1], [0.4, 0.1, 0.7]], dtype=F64)
    left = []
    for size in (0.02, 0.01):
        S = power(C, 0.5)
        exact = (C + C + size * E - 2 * power(S @ (C + size * E) @ S, 0.5)).trace()
        second = 0.5 * ((size * E) ** 2 / (LAM[:, None] + LAM)).sum()
        left.append((exact - second).abs().item())
        assert exact == pytest.approx(second.item(), rel=0.02)
    assert 6 < left[0] / left[1] < 10
    X = size * E * (LAM[:, None] * LAM).sqrt() / (LAM[:, None] + LAM)
    first_form = (X**2 / LAM[:, None]).sum()
    assert first_form == pytest.approx(second.item()), "the first of the equalities"
    second_form = (0.5 * (1 / LAM[:, None] + 1 / LAM) * X**2).sum()
    assert second_form == pytest.approx(second.item()), "the second"


def test_eq_3_36():
    """The library's mean distance between clouds of 200 and 500 points of one Gaussian, to 5
    standard errors and 3 %.
    """
    n = 200
    m = 500
    g = G()
    draw = lambda count: torch.randn(count, 3, generator=g, dtype=F64) * LAM.sqrt()
    values = torch.tensor([metrics.frechet_distance(draw(n), draw(m)) for _ in range(1000)])
    bracket = LAM.sum() + 0.5 * (LAM[:, None] * LAM / (LAM[:, None] + LAM)).sum() + 0.25 * LAM.sum()
    formula = ((1 / n + 1 / m) * bracket).item()
    standard_error = values.std() / 1000**0.5
    assert abs(values.mean() - formula) < 5 * standard_error
    assert standard_error < 0.03 * formula
    # one dimension, without the means
    spread = lambda count: torch.randn(4000, count, generator=g, dtype=F64).std(1)
    one = (spread(n) - spread(m)).square().mean().item()
    wanted = pytest.approx((0.25 + 0.25) * (1 / n + 1 / m), rel=5 * 2**0.5 / 4000**0.5)
    assert one == wanted, "lambda / 4 from the trace, as much from the sum"
    equal = torch.full((7,), 2.0, dtype=F64)
    double_sum = (equal[:, None] * equal / (equal[:, None] + equal)).sum()
    bracket = 1.25 * equal.sum() + 0.5 * double_sum
    assert bracket == pytest.approx(2.0 * (7**2 + 5 * 7) / 4)


X = torch.randn(6, 2, generator=G(7), dtype=F64)
Y = 0.5 + torch.randn(4, 2, generator=G(8), dtype=F64)


def cubic(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def phi(x):
    """The cubic kernel's own features in one dimension: (xy + 1)^3 = phi(x) . phi(y)."""
    return torch.stack([torch.ones_like(x), 3**0.5 * x, 3**0.5 * x**2, x**3], dim=-1)


def test_eq_3_37():
    """Whole distributions of three and two points: means of features on the left, means of kernels
    on the right.
    """
    x, y = torch.tensor([-1.0, 0.5, 2.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    k = lambda a, b: cubic(a[:, None], b[:, None]).mean()
    left = (phi(x).mean(0) - phi(y).mean(0)).square().sum()
    assert left == pytest.approx((k(x, x) + k(y, y) - 2 * k(x, y)).item())


def test_eq_3_38():
    """All samples of n = 3 points from a distribution on three values, each with its probability:
    the mean, exact.
    """
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    n = 3
    picks = torch.cartesian_prod(*[torch.arange(3)] * n)                                # (27, 3)
    weight = p[picks].prod(1)
    assert weight.sum() == pytest.approx(1)
    # mean of (1 / n^2) sum k(x_i, x_j)
    left = (weight * phi(values[picks]).mean(1).square().sum(1)).sum()
    mean = (p[:, None] * phi(values)).sum(0).square().sum()
    itself = (p * phi(values).square().sum(1)).sum()
    assert left == pytest.approx((mean + (itself - mean) / n).item())


def test_eq_3_39():
    """Pair by pair, beside the library; and its exact mean over all samples is the true distance.
    """
    total = sum(cubic(X[i:i + 1], X[j:j + 1]) for i in range(6) for j in range(6) if i != j) / 30 \
        + sum(cubic(Y[i:i + 1], Y[j:j + 1]) for i in range(4) for j in range(4) if i != j) / 12 \
        - 2 / 24 * sum(cubic(X[i:i + 1], Y[j:j + 1]) for i in range(6) for j in range(4))
    assert metrics.mmd(X, Y, cubic) == pytest.approx(total.item())
    values = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    p = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    q = torch.tensor([0.6, 0.1, 0.3], dtype=F64)
    truth = ((p - q)[:, None] * phi(values)).sum(0).square().sum()
    mean = sum(
        p[i] * p[j] * q[k] * q[m] * metrics.mmd(values[[i, j], None], values[[k, m], None], cubic)
        for i in range(3)
        for j in range(3)
        for k in range(3)
        for m in range(3)
    )
    assert mean == pytest.approx(truth.item())


def test_eq_3_40():
    """Both forms and the library, on probabilities that are neither sure nor even; and the two
    ends.
    """
    p = (2 * torch.randn(50, 10, generator=G(), dtype=F64)).softmax(1)
    mean = p.mean(0)
    kl_of = lambda row: sum(row[k] * math.log(row[k] / mean[k]) for k in range(10))
    kl = torch.stack([kl_of(row) for row in p]).mean()
    entropy = lambda q: -(q * q.log()).sum(-1)
    assert kl.exp() == pytest.approx((entropy(mean) - entropy(p).mean()).exp().item())
    assert metrics.inception_score(p, splits=1)[0] == pytest.approx(kl.exp().item())
    assert 1 < kl.exp() < 10
    assert metrics.inception_score(torch.eye(10), splits=1)[0] == pytest.approx(10)
    assert metrics.inception_score(p[:1].repeat(20, 1), splits=1)[0] == pytest.approx(1)


def test_eq_3_41():
    """Point by point, beside the library, where precision and recall differ."""
    real = torch.randn(40, 2, generator=G(), dtype=F64)
    made = 2 * torch.randn(30, 2, generator=G(1), dtype=F64)

    def covered_fraction(points, cloud, k):
        # the 0th is the point itself
        radius = [sorted((c - o).norm().item() for o in cloud)[k] for c in cloud]
        covered = [any((p - c).norm() <= r for c, r in zip(cloud, radius)) for p in points]
        return sum(covered) / len(points)

    for k in (1, 3):
        precision = covered_fraction(made, real, k)
        recall = covered_fraction(real, made, k)
        assert precision != recall
        assert 0 < precision < 1
        wanted = (pytest.approx(precision), pytest.approx(recall))
        assert metrics.precision_recall(real, made, k) == wanted


def test_eq_3_42():
    """Layer by layer with torchvision's own AlexNet layers, each sum written out, beside the
    library.
    """
    x, y = torch.rand(2, 1, 3, 40, 56, generator=G()) * 2 - 1  # height and width differ
    net, total = features.lpips_network(), 0.0
    for layer, head in zip((1, 4, 7, 9, 11), net.heads):
        a, b = (net.body[:layer + 1]((z - net.shift) / net.scale)[0] for z in (x, y))   # (C, H, W)
        a, b = (h / h.square().sum(0).sqrt() for h in (a, b))
        H, W = a.shape[1:]
        assert (head >= 0).all()
        total += (head.flatten()[:, None, None] * (a - b) ** 2).nan_to_num().sum() / (H * W)
    assert metrics.lpips(x, y).item() == pytest.approx(total.item(), rel=1e-4)


def test_eq_3_43():
    """A wrong denoiser beside the exact one, by Monte Carlo: the mixed term is 0 to 5 standard
    errors, and the excess is not.
    """
    bumps, schedule = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.2, [1.0, 2.0]), Schedule.cosine()
    exact, g = bumps.denoiser(schedule), G()
    x0 = bumps.sample(N).double()
    for t in (0.2, 0.6):
        x = schedule.perturb(x0, t, torch.randn(x0.shape, generator=g, dtype=F64))
        best = exact(x, t)
        wrong = best + 0.3 * torch.sin(3 * x) + 0.1
        gap = (
            (wrong - x0).square().sum(1)
            - (best - x0).square().sum(1)
            - (wrong - best).square().sum(1)
        )
        assert abs(gap.mean()) < 5 * gap.std() / N**0.5
        assert (wrong - best).square().sum(1).mean() > 50 * gap.std() / N**0.5


# ---- formulas of the second edition


def _weight(alpha, sigma, a, b, t):
    """Weight of the eps error of the target a x0 + b eps, times |dt / d lambda|, by autograd."""
    lam = 2 * (alpha(t).log() - sigma(t).log())
    slope = torch.autograd.grad(lam.sum(), t)[0]
    al, si = alpha(t), sigma(t)
    return (((al * b(t) - si * a(t)) / al) ** 2 / slope.abs()).detach(), lam.detach()


def test_eq_3_44():
    t = torch.linspace(0.02, 0.98, 50, dtype=torch.float64, requires_grad=True)
    cos, sin = (lambda t: (math.pi / 2 * t).cos()), (lambda t: (math.pi / 2 * t).sin())
    w, lam = _weight(cos, sin, lambda t: -sin(t), cos, t)
    torch.testing.assert_close(w, (-lam / 2).exp() / math.pi)
    line, same = (lambda t: 1 - t), (lambda t: t)
    w, lam = _weight(line, same, lambda t: -1 + 0 * t, lambda t: 1 + 0 * t, t)
    torch.testing.assert_close(w, (-lam / 2).exp() / 2)
    torch.testing.assert_close(lam, Schedule.flow().log_snr(t.detach()))


def test_eq_3_45():
    g = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=g, dtype=torch.float64)
    p = torch.nn.Parameter(start.clone())
    lr, decay, betas, eps = 0.1, 0.3, (0.9, 0.99), 1e-8
    optimizer = torch.optim.AdamW([p], lr, betas=betas, eps=eps, weight_decay=decay)
    m = v = torch.zeros_like(start)
    theta = start
    for n in range(1, 4):
        grad = torch.randn(5, generator=g, dtype=torch.float64)
        p.grad = grad.clone()
        optimizer.step()
        m, v = betas[0] * m + (1 - betas[0]) * grad, betas[1] * v + (1 - betas[1]) * grad**2
        m_hat, v_hat = m / (1 - betas[0] ** n), v / (1 - betas[1] ** n)
        theta = (1 - lr * decay) * theta - lr * m_hat / (v_hat.sqrt() + eps)
        torch.testing.assert_close(p.detach(), theta)


def test_eq_3_46():
    g = torch.Generator().manual_seed(0)
    grad = torch.randn(16, 8, generator=g)
    u, _, vh = torch.linalg.svd(grad, full_matrices=False)
    start = torch.randn(16, 8, generator=g)
    p = torch.nn.Parameter(start.clone())
    p.grad = grad.clone()
    lr, decay = 0.1, 0.5
    train.Muon([p], lr, weight_decay=decay).step()
    step = ((1 - lr * decay) * start - p.detach()) / lr
    core = u.T @ step @ vh.T                                # diagonal, with values near 1
    torch.testing.assert_close(core, core.diagonal().diag(), atol=2e-3, rtol=0)
    assert core.diagonal().min() > 0.6 and core.diagonal().max() < 1.3
    torch.testing.assert_close(step, orthogonalize([grad])[0], atol=2e-3, rtol=0)
