"""Every tagged formula of lesson 3, checked numerically; `test_every_tag_has_its_test` keeps the list complete."""
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from course_lib import DDPM, Denoiser, Schedule, ddim, last
from course_lib.denoiser import TARGETS
from course_lib.lab.data import GaussianMixture

G = lambda seed=0: torch.Generator().manual_seed(seed)
SKEW = torch.cat([torch.full((60,), 0.0), torch.full((30,), 1.0), torch.full((10,), 5.0)]).double()          # a lopsided Y


def smallest(loss):
    """Where the mean loss over SKEW is smallest, by looking everywhere."""
    g = torch.linspace(-1, 6, 70_001, dtype=torch.float64)
    return g[torch.cat([loss(part[:, None] - SKEW).mean(1) for part in g.split(7000)]).argmin()]


def test_eq_l2():
    """The squared error is smallest at the mean."""
    assert smallest(lambda r: r.square()) == pytest.approx(SKEW.mean().item(), abs=2e-4)


def test_eq_l1():
    """The absolute error is smallest where as much lies above as below; on a lopsided Y that is not the mean."""
    y = torch.randn(5001, generator=G()).double().exp()
    g = torch.linspace(0.2, 4, 4001, dtype=torch.float64)
    best = g[torch.stack([(a - y).abs().mean() for a in g]).argmin()]
    assert abs((y < best).double().mean() - (y > best).double().mean()) < 2e-3 and best < y.mean() - 0.3


def test_eq_huber():
    """Huber's loss is smallest where the errors, cut off at delta, cancel."""
    best = smallest(lambda r: F.huber_loss(r, 0 * r, reduction="none", delta=0.7))
    assert (SKEW - best).clamp(-0.7, 0.7).mean().item() == pytest.approx(0, abs=2e-4)
    assert SKEW.median() < best < SKEW.mean()


def test_eq_targets():
    """The error of any target beside the error of x0: random guesses, random coefficients, any schedule."""
    for schedule in (Schedule.cosine(), Schedule.flow(), Schedule.edm()):
        x0, eps, out = torch.randn(3, 50, 4, generator=G(), dtype=torch.float64)
        t = torch.linspace(0.1, 0.9, 50, dtype=torch.float64)
        for pair in (*TARGETS.values(), lambda alpha, sigma: (0.3 - sigma, 2 + alpha)):
            D = Denoiser(lambda x, t: out, schedule, pair)
            alpha, sigma = schedule.alpha(t), schedule.sigma(t)
            a, b = pair(alpha, sigma)
            x0_hat = D(schedule.perturb(x0, t, eps), t)
            torch.testing.assert_close((out - a[:, None] * x0 - b[:, None] * eps).square().sum(1),
                                       ((alpha * b - sigma * a) / sigma) ** 2 * (x0_hat - x0).square().sum(1), rtol=1e-6, atol=1e-9)


def test_eq_four():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    weight = lambda target, s: ((s.alpha(t) * TARGETS[target](s.alpha(t), s.sigma(t))[1] - s.sigma(t) * TARGETS[target](s.alpha(t), s.sigma(t))[0]) / s.sigma(t)) ** 2
    cosine, flow = Schedule.cosine(), Schedule.flow()
    snr, snr_flow = cosine.log_snr(t).exp(), flow.log_snr(t).exp()
    for target, schedule, wanted in (("eps", cosine, snr), ("x0", cosine, torch.ones_like(t)), ("v", cosine, snr + 1), ("flow", flow, (1 + snr_flow.sqrt()) ** 2)):
        torch.testing.assert_close(weight(target, schedule), wanted)


def test_eq_path():
    """The line is flow's schedule, its speed the derivative, and the target named flow."""
    x0, eps, t = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = (1 - t) * x0 + t * eps
    assert torch.autograd.grad(x, t)[0] == pytest.approx((eps - x0).item())
    flow = Schedule.flow()
    assert flow.perturb(x0[None], 0.4, eps[None]).item() == pytest.approx(x.item()) and TARGETS["flow"](flow.alpha(t), flow.sigma(t)) == (-1, 1)


LINE = GaussianMixture([[-1.0], [1.0]], 0.3, [0.3, 0.7])


def mean_speed(x, t):
    """E[eps - x0 | x_t = x] of the mixture on flow's schedule, from the exact denoiser."""
    x0_hat = LINE.denoiser(Schedule.flow())(x, t)
    return (x - x0_hat) / t                                             # eps = (x - (1 - t) x0) / t


def test_eq_marginal():
    """Among a million lines, those that pass near x at t move with the mean speed there."""
    x0 = LINE.sample(1_000_000)[:, 0].double()
    eps, t = torch.randn(1_000_000, generator=G(1)).double(), 0.45
    x = (1 - t) * x0 + t * eps
    for place in (-0.5, 0.2, 0.9):
        near = (x - place).abs() < 0.02
        speed = (eps - x0)[near]
        wanted = mean_speed(torch.tensor([[place]], dtype=torch.float64), torch.tensor(t, dtype=torch.float64)).item()
        assert speed.mean().item() == pytest.approx(wanted, abs=5 * speed.std().item() / near.sum().item() ** 0.5 + 0.02)


def test_eq_transport():
    """d/dt E f(x_t) = E[f'(x_t) u(x_t, t)], the left side from the mixture's own density, for f = x^2 and f = sin."""
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    density = lambda t: LINE.log_prob(grid, 1 - t, t).exp()
    h, t, dx = 1e-4, 0.5, 12 / 4000
    for f, slope in ((lambda x: x**2, lambda x: 2 * x), (torch.sin, torch.cos)):
        left = ((density(t + h) - density(t - h)) * f(grid[:, 0])).sum() * dx / (2 * h)
        right = (density(t) * slope(grid[:, 0]) * mean_speed(grid, torch.tensor(t, dtype=torch.float64))[:, 0]).sum() * dx
        assert left.item() == pytest.approx(right.item(), rel=1e-5) and abs(left) > 0.05


def test_eq_cfm():
    """The loss against single lines is smallest at the mean speed: any other function is worse, by the mean square of its distance."""
    x0, eps = LINE.sample(400_000).double(), torch.randn(400_000, 1, generator=G(2)).double()
    t = torch.tensor(0.6, dtype=torch.float64)
    x = (1 - t) * x0 + t * eps
    u = mean_speed(x, t)
    excess = lambda net: ((net - (eps - x0)).square() - (u - (eps - x0)).square()).mean().item()
    for other in (0.2 * torch.sin(x), 0.1 + 0 * x, -0.3 * x):
        assert excess(u + other) == pytest.approx(other.square().mean().item(), rel=0.08)


def test_eq_euler():
    flow, x = Schedule.flow(), torch.randn(6, 1, generator=G(), dtype=torch.float64)
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (0.7, 0.45))
    torch.testing.assert_close(last(ddim(LINE.denoiser(flow), flow, x, [t, s])), x + (s - t) * mean_speed(x, t))


S = 0.5
SIGMA = torch.logspace(-2, 2, 9, dtype=torch.float64)
R = (S**2 + SIGMA**2).sqrt()
C_IN, C_SKIP, C_OUT = 1 / R, S**2 / R**2, SIGMA * S / R


def test_eq_edm():
    """The library's target "edm" is the paper's D."""
    weight = torch.randn(3, 3, generator=G(), dtype=torch.float64)
    net = lambda x, t: torch.tanh(x @ weight + t[:, None])
    schedule = Schedule.edm()
    t = schedule.t_from_log_snr(-2 * SIGMA.clamp(max=79).log())
    sigma = schedule.sigma(t)
    r = (S**2 + sigma**2).sqrt()
    x = torch.randn(9, 3, generator=G(1), dtype=torch.float64)
    by_hand = (S**2 / r**2)[:, None] * x + (sigma * S / r)[:, None] * net(x / r[:, None], sigma.log() / 4)
    torch.testing.assert_close(Denoiser(net, schedule, "edm", sigma_data=S)(x, t), by_hand)


def draws(n=200_000):
    x0 = S * torch.randn(n, 1, generator=G(3), dtype=torch.float64)
    return x0, x0 + SIGMA * torch.randn(n, 1, generator=G(4), dtype=torch.float64)                             # (n, 1), (n, 9)


def test_eq_cin():
    x = draws()[1]
    torch.testing.assert_close((C_IN * x).std(0), torch.ones(9).double(), rtol=0.01, atol=0)


def test_eq_cout():
    """Whatever c_skip is, this c_out gives F a target of variance 1."""
    x0, x = draws()
    for c in (C_SKIP, 0.3 * torch.ones(9), 1.2 * C_SKIP):
        c_out = ((1 - c) ** 2 * S**2 + c**2 * SIGMA**2).sqrt()
        torch.testing.assert_close(((x0 - c * x) / c_out).std(0), torch.ones(9).double(), rtol=0.01, atol=0)


def test_eq_cskip():
    """The smallest c_out of all, found by looking; and its closed form."""
    c = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    c_out_squared = (1 - c) ** 2 * S**2 + c**2 * SIGMA**2                # (100001, 9)
    torch.testing.assert_close(c[c_out_squared.argmin(0), 0], C_SKIP, atol=1e-5, rtol=0)
    torch.testing.assert_close(c_out_squared.min(0).values.sqrt(), C_OUT, rtol=1e-5, atol=1e-7)


def test_eq_weights():
    """As weights of the x0 error: min(SNR, gamma), and the eps weight over 1 + SNR."""
    cosine, t = Schedule.cosine(), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    snr = cosine.log_snr(t).exp()
    v = ((cosine.alpha(t) * cosine.alpha(t) + cosine.sigma(t) * cosine.sigma(t)) / cosine.sigma(t)) ** 2       # of the v loss on the x0 error
    torch.testing.assert_close(torch.minimum(snr, torch.tensor(5.0)) / (snr + 1) * v, snr.clamp(max=5))
    torch.testing.assert_close(snr / (snr + 1) ** 2 * v, snr / (1 + snr))


def test_eq_importance():
    """The mean is the same whichever times are drawn, if they are weighed back."""
    w, L = (lambda t: 1 + t), (lambda t: (5 * t).sin() ** 2)
    exact = sum((w(t := torch.tensor((k + 0.5) / 20_000, dtype=torch.float64)) * L(t)).item() for k in range(20_000)) / 20_000
    t = torch.rand(400_000, generator=G(), dtype=torch.float64).sqrt()   # density 2 t
    values = w(t) * L(t) / (2 * t)
    assert values.mean().item() == pytest.approx(exact, abs=5 * values.std().item() / 400_000**0.5)


def test_eq_best():
    """The second moment with p proportional to g is the square of g's integral, and no other density tried has less."""
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    g = (3 * u).exp() + u.sin()
    moment = lambda p: (g**2 / p).mean()
    best = moment(g / g.mean())
    assert best.item() == pytest.approx((g.mean() ** 2).item(), rel=1e-12)
    for k in range(20):
        p = g * (0.3 * torch.randn(10_000, generator=G(k), dtype=torch.float64)).exp()
        assert moment(p / p.mean()) > best
    assert moment(torch.ones_like(u)) > 1.3 * best


def test_eq_shift():
    """Averages of k x k pixels: their noise, measured; and the log-SNR it gives."""
    for k in (2, 4):
        noise = F.avg_pool2d(0.8 * torch.randn(200, 1, 32, 32, generator=G()).double(), k)
        measured = 2 * math.log(0.6) - math.log(noise.var().item())
        assert measured == pytest.approx(2 * math.log(0.6 / 0.8) + 2 * math.log(k), abs=0.03)


def test_eq_clock():
    for k in (2.0, 3.0):
        t = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
        new = k * t / (1 + (k - 1) * t)
        torch.testing.assert_close(Schedule.flow().log_snr(new), Schedule.flow().log_snr(t) - 2 * math.log(k))


BETAS = Schedule.cosine(50).betas


def two_outputs(r):
    """A network that says eps = 0 and puts the variance at r in [0, 1]."""
    return lambda x, t: torch.cat([torch.zeros_like(x), torch.full_like(x, 2 * r - 1)], dim=1)


def test_eq_logvar():
    """r = 0 is beta tilde, r = 1 is beta, and between them the logarithms are mixed."""
    x, i = torch.randn(4, 2, generator=G(), dtype=torch.float64), torch.tensor([5, 20, 33, 48])
    log_variance = {r: DDPM(two_outputs(r), BETAS, learn_variance=True).p_mean_variance(x, i)[1].log() for r in (0.0, 0.25, 1.0)}
    tilde = DDPM(lambda x, t: 0 * x, BETAS).q_posterior(x, x, i)[1]
    torch.testing.assert_close(log_variance[0.0], tilde.log()[:, None].expand(4, 2))
    torch.testing.assert_close(log_variance[1.0], BETAS[i].log()[:, None].expand(4, 2))
    torch.testing.assert_close(log_variance[0.25], 0.75 * log_variance[0.0] + 0.25 * log_variance[1.0])


def test_eq_hybrid():
    """The simple loss plus a thousandth of the bound in bits per dimension, a sum over T steps estimated by T times one; its gradient moves the variance only."""
    x0, eps, i = torch.randn(6, 2, generator=G(), dtype=torch.float64), torch.randn(6, 2, generator=G(1), dtype=torch.float64), torch.arange(1, 49, 8)
    out = torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    ddpm = DDPM(lambda x, t: out, BETAS, learn_variance=True)
    simple, bits = ddpm.p_losses(x0, i, eps), ddpm.vlb_terms(x0, i, eps)
    hybrid = ddpm.hybrid_loss(x0, i, eps)
    torch.testing.assert_close(hybrid, simple + 0.001 * 50 * bits)
    of_hybrid, of_simple = (torch.autograd.grad(loss.sum(), out, retain_graph=True)[0] for loss in (hybrid, simple))
    torch.testing.assert_close(of_hybrid[:, :2], of_simple[:, :2])
    assert of_hybrid[:, 2:].abs().min() > 0 and not of_simple[:, 2:].any()


def test_eq_discrete():
    """All 256 levels together are certain, and each is what the Gaussian puts between the midpoints."""
    mean, s = 0.83, 0.05
    normal = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), s)
    levels = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
    upper = torch.where(levels > 0.999, 1.0, normal.cdf(levels + 1 / 255))
    lower = torch.where(levels < -0.999, 0.0, normal.cdf(levels - 1 / 255))
    p = upper - lower
    assert p.sum().item() == pytest.approx(1, abs=1e-12) and p[-1] > 5 * p[-2] * 0.1
    draws = (((mean + s * torch.randn(1_000_000, generator=G(), dtype=torch.float64)) + 1) * 127.5).round().clamp(0, 255).long()
    counts = torch.bincount(draws, minlength=256) / 1_000_000
    assert (counts - p).abs().max() < 5 * (p.max() / 1_000_000) ** 0.5


def test_eq_ema():
    """Unrolled: what weights of k steps ago count, and the start."""
    beta, n = 0.93, 40
    theta = torch.randn(n + 1, generator=G(), dtype=torch.float64)      # the start, then n steps
    average = theta[0]
    for value in theta[1:]:
        average = beta * average + (1 - beta) * value
    counts = torch.tensor([(1 - beta) * beta**k for k in range(n)], dtype=torch.float64)                       # k steps ago
    assert average.item() == pytest.approx((counts * theta[1:].flip(0)).sum().item() + beta**n * theta[0].item())


def test_eq_power():
    gamma, n = 9, 500
    theta = torch.randn(n + 1, generator=G(), dtype=torch.float64)
    average = theta[0]
    for k in range(1, n + 1):
        average = torch.lerp(theta[k], average, (1 - 1 / k) ** (gamma + 1))
    k = torch.arange(1, n + 1, dtype=torch.float64)
    counts = (1 - (1 - 1 / k) ** (gamma + 1)) * (k / n) ** (gamma + 1)
    assert counts.sum().item() == pytest.approx(1), "nothing is left of the start"
    assert average.item() == pytest.approx((counts * theta[1:]).sum().item())
    torch.testing.assert_close(counts[300:], ((gamma + 1) / n * (k / n) ** gamma)[300:], rtol=0.02, atol=0)
