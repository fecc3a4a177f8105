"""The SDE of a schedule, its reverse family and likelihoods, against closed forms."""
import math

import pytest
import torch

from course_lib import Denoiser, Schedule, UNet, ddim, last, sde, timesteps
from course_lib.lab import data

T = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
MIXTURE = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], [0.2, 0.4], [0.3, 0.7])
SCHEDULES = [Schedule.linear(), Schedule.flow(), Schedule.edm()]
CPU = torch.Generator


def noised(schedule, t, n=200):
    """n points of the mixture at level t, in float64."""
    g = CPU().manual_seed(1)
    eps = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return schedule.perturb(MIXTURE.sample(n).double(), t, eps)


# ---- drift, diffusion, score

def test_drift_and_diffusion_of_the_well_known_schedules():
    vp, flow, ve = SCHEDULES
    torch.testing.assert_close(sde.diffusion(vp, T) ** 2, -2 * sde.drift(vp, T))
    betas = vp.betas[(T * 1000).long()]                     # beta(t) = 1000 beta_i
    torch.testing.assert_close(sde.diffusion(vp, T + 5e-4) ** 2 / 1000, betas, rtol=0.02, atol=0)
    torch.testing.assert_close(sde.drift(flow, T), -1 / (1 - T))
    torch.testing.assert_close(sde.diffusion(flow, T) ** 2, 2 * T / (1 - T))
    assert (sde.drift(ve, T) == 0).all()
    variance_rate = 80.0**2 * 14 * T**13                    # d sigma^2 / dt, sigma = 80 t^7
    torch.testing.assert_close(sde.diffusion(ve, T) ** 2, variance_rate)


@pytest.mark.parametrize("schedule", [Schedule.cosine(), *SCHEDULES], ids=str)
def test_g_squared_is_the_fall_of_the_log_snr(schedule):
    t = T + 2.5e-4                                          # between the points of a discrete one
    change = (schedule.log_snr(t + 1e-5) - schedule.log_snr(t - 1e-5)) / 2e-5
    expected = -change * schedule.sigma(t) ** 2
    torch.testing.assert_close(sde.diffusion(schedule, t) ** 2, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_forward_sde_keeps_the_marginal_variance(schedule):
    """d Var / dt = 2 f Var + g^2, for data of variance v: alpha^2 v + sigma^2."""
    v, h = 0.3, 1e-5
    t = T + 2.5e-4
    variance = lambda t: schedule.alpha(t) ** 2 * v + schedule.sigma(t) ** 2
    rate = (variance(t + h) - variance(t - h)) / (2 * h)
    expected = 2 * sde.drift(schedule, t) * variance(t) + sde.diffusion(schedule, t) ** 2
    torch.testing.assert_close(rate, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("t", [0.2, 0.8])
def test_the_score_of_an_exact_denoiser(schedule, t):
    x = noised(schedule, t)
    found = sde.score(MIXTURE.denoiser(schedule), schedule, x, t)
    torch.testing.assert_close(found, MIXTURE.score(x, schedule.alpha(t), schedule.sigma(t)))


# ---- the reverse family

@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, lambda t: 3.0 * t], ids=["ode", "1", "2", "3t"])
def test_every_noise_level_has_the_same_marginals(level):
    """Mean and covariance at the end against the mixture's own, 5 standard errors."""
    n, schedule = 5_000, Schedule.flow()
    ts = torch.linspace(0.98, 0.02, 120, dtype=torch.float64)
    x = noised(schedule, ts[0].item(), n)
    D = MIXTURE.denoiser(schedule)
    g = CPU().manual_seed(3)
    x = last(sde.euler_maruyama(D, schedule, x, ts, noise_level=level, generator=g))
    wanted = noised(schedule, ts[-1].item(), n)
    assert (x.mean(0) - wanted.mean(0)).abs().max() < 0.07
    assert (x.T.cov() - wanted.T.cov()).abs().max() < 0.07
    # the histogram of the first coordinate, too: two lumps, not one
    edges = torch.linspace(-2, 2.5, 10, dtype=torch.float64)
    found, right = (torch.histogram(y[:, 0].contiguous(), edges)[0] / n for y in (x, wanted))
    assert (found - right).abs().max() < 0.03


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_euler_maruyama_is_of_first_order_in_the_variance(level):
    """One Gaussian of variance v: each step is linear, so the variance follows exactly."""
    v, schedule = 0.25, Schedule.flow()
    one = data.GaussianMixture([[0.0]], v**0.5)
    errors = []
    for steps in (50, 100, 200):
        ts = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        x = torch.ones(1, 1, dtype=torch.float64)
        path = list(sde.euler_maruyama(one.denoiser(schedule), schedule, x, ts, noise_level=0))
        factor = [(b / a).item() for a, b in zip(path[:-1], path[1:])]
        variance = (0.1 * math.sqrt(v)) ** 2 + 0.9**2       # alpha(0.9)^2 v + sigma^2
        for t, s in zip(ts[:-1], ts[1:]):
            f, g = sde.drift(schedule, t), sde.diffusion(schedule, t)
            total = ((1 - t) ** 2 * v + t**2).item()
            a = 1 - (t - s) * (f + (1 + level**2) / 2 * g**2 / total)
            variance = (a**2 * variance + level**2 * g**2 * (t - s)).item()
        if level == 0:
            assert math.isclose(math.prod(factor) ** 2 * (0.1**2 * v + 0.81), variance,
                                rel_tol=1e-9)
        errors.append(abs(variance - (0.9**2 * v + 0.1**2)))
    orders = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:])]
    assert all(0.85 < order < 1.15 for order in orders)


def test_euler_without_noise_is_the_probability_flow_ode():
    """d x / dt = alpha' x0_hat + sigma' eps_hat, one step."""
    schedule, t, s = Schedule.cosine(), 0.5, 0.4995
    x = noised(schedule, t)
    D = MIXTURE.denoiser(schedule)
    path = list(sde.euler_maruyama(D, schedule, x, [t, s], noise_level=0.0))
    x0_hat = D(x, torch.tensor(t))
    eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    slope = schedule.d_alpha(t) * x0_hat + schedule.d_sigma(t) * eps_hat
    torch.testing.assert_close(path[1], x - (t - s) * slope)


# ---- one denoiser, other schedules

@pytest.mark.parametrize("schedule", [Schedule.flow(), Schedule.edm(), Schedule.linear()], ids=str)
def test_the_same_picture_under_every_schedule(schedule):
    """DDIM at the same log-SNR points: x / alpha is the same, at every step."""
    own = Schedule.cosine()
    D = MIXTURE.denoiser(own)
    log_snr = torch.linspace(-5, 7, 12, dtype=torch.float64)
    ts, us = own.t_from_log_snr(log_snr), schedule.t_from_log_snr(log_snr)
    x = noised(own, ts[0].item(), 50)
    y = x * schedule.alpha(us[0]) / own.alpha(ts[0])
    one = list(ddim(D, own, x, ts))
    other = list(ddim(sde.change_schedule(D, schedule), schedule, y, us))
    for k in range(len(ts)):
        torch.testing.assert_close(one[k] / own.alpha(ts[k]), other[k] / schedule.alpha(us[k]),
                                   rtol=1e-7, atol=1e-7)


def test_change_schedule_starts_at_pure_noise():
    """The flow at t = 1 has alpha = 0, and so has zero-terminal SNR."""
    own, schedule = Schedule.zero_terminal_snr(), Schedule.flow()
    D = sde.change_schedule(MIXTURE.denoiser(own), schedule)
    x = torch.randn(10, 2, generator=CPU().manual_seed(0), dtype=torch.float64)
    x = last(ddim(D, schedule, x, timesteps(schedule, 20)))
    assert x.isfinite().all() and D.schedule is schedule


def test_change_schedule_ends_at_the_data():
    """At t = 0, where sigma is 0 in both schedules, x is the data."""
    D = sde.change_schedule(MIXTURE.denoiser(Schedule.cosine()), Schedule.flow())
    x = MIXTURE.sample(4, seed=0).double()
    torch.testing.assert_close(D(x, torch.zeros(4, dtype=torch.float64)), x)


# ---- divergence and likelihood

def test_divergence_of_a_linear_map():
    g = CPU().manual_seed(0)
    A = torch.randn(5, 5, generator=g, dtype=torch.float64)
    x = torch.randn(7, 5, generator=g, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sde.divergence(x @ A.T, x), A.trace().expand(7))
    probe = torch.randn(7, 5, generator=g, dtype=torch.float64)
    expected = torch.einsum("bi,ij,bj->b", probe, A, probe)
    torch.testing.assert_close(sde.divergence(x @ A.T, x, probe), expected)
    nonlinear = x**3
    torch.testing.assert_close(sde.divergence(nonlinear, x), (3 * x**2).sum(1))


@pytest.mark.parametrize("schedule, start", [
    (Schedule.linear(), 1.0), (Schedule.cosine(), 0.998), (Schedule.flow(), 0.999),
    (Schedule.edm(), 1.0),
], ids=str)                                                                          # fmt: skip
def test_the_likelihood_of_an_exact_denoiser(schedule, start):
    """Within 0.01 nats of log q at t_min; the prior at the top is not quite normal."""
    log_snr = torch.linspace(8.0, schedule.log_snr(start), 200, dtype=torch.float64)
    ts = schedule.t_from_log_snr(log_snr)
    x = noised(schedule, ts[0].item(), 100)
    found = sde.log_likelihood(MIXTURE.denoiser(schedule), schedule, x, ts)
    right = MIXTURE.log_prob(x, schedule.alpha(ts[0]), schedule.sigma(ts[0]))
    assert (found - right).abs().mean() < 0.01 and (found - right).abs().max() < 0.05


def test_the_likelihood_converges_with_the_grid():
    """Second order: half the step, a quarter of the error."""
    schedule = Schedule.edm()
    ends = schedule.log_snr(0.2), schedule.log_snr(1.0)
    x = noised(schedule, 0.2, 50)
    values = []
    for n in (41, 81, 161):
        ts = schedule.t_from_log_snr(torch.linspace(*ends, n, dtype=torch.float64))
        x_start = x / schedule.alpha(0.2)
        values.append(sde.log_likelihood(MIXTURE.denoiser(schedule), schedule, x_start, ts))
    first, second = ((a - b).abs().mean() for a, b in zip(values[:-1], values[1:]))
    assert 3 < first / second < 5


def test_hutchinson_is_unbiased_and_its_variance_is_as_derived():
    """Rademacher: 2 (|S|^2 - sum of S_ii^2); Gaussian: 2 |S|^2, with S the symmetric part."""
    g = CPU().manual_seed(0)
    A = torch.randn(6, 6, generator=g, dtype=torch.float64)
    S = (A + A.T) / 2
    n = 200_000
    x = torch.zeros(n, 6, dtype=torch.float64, requires_grad=True)
    normal = torch.randn(n, 6, generator=g, dtype=torch.float64)
    for probe, variance in (
        (normal.sign(), 2 * (S.square().sum() - S.diag().square().sum())),
        (normal, 2 * S.square().sum()),
    ):
        found = sde.divergence(x @ A.T, x, probe)
        assert (found.mean() - A.trace()).abs() < 4 * (variance / n).sqrt()
        torch.testing.assert_close(found.var(), variance, rtol=0.03, atol=0)


def test_probes_estimate_the_likelihood():
    schedule = Schedule.edm()
    log_snr = torch.linspace(schedule.log_snr(0.2), schedule.log_snr(1.0), 60, dtype=torch.float64)
    ts = schedule.t_from_log_snr(log_snr)
    x = noised(schedule, ts[0].item(), 400)
    D = MIXTURE.denoiser(schedule)
    exact = sde.log_likelihood(D, schedule, x, ts)
    g = CPU().manual_seed(0)
    estimate = sde.log_likelihood(D, schedule, x, ts, probes=4, generator=g)
    error = estimate - exact
    assert error.abs().max() > 1e-3 and error.mean().abs() < 4 * error.std() / 20


def test_the_signs_of_probes_are_independent():
    """A linear denoiser whose dimensions mix: probes of one sign only would be off, always."""
    schedule, mix = Schedule.edm(), torch.tensor([[0.3, 0.2], [0.2, 0.3]], dtype=torch.float64)
    ts = torch.linspace(0.2, 0.6, 5, dtype=torch.float64)
    D, x = lambda x, t: x @ mix, noised(schedule, 0.2, 1000)
    estimate = sde.log_likelihood(D, schedule, x, ts, probes=1, generator=CPU().manual_seed(0))
    error = estimate - sde.log_likelihood(D, schedule, x, ts)
    assert error.std() > 0.1 and error.mean().abs() < 4 * error.std() / 1000**0.5


def test_a_network_of_pictures_has_a_likelihood():
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (8,), num_classes=3), Schedule.cosine(), "v")
    x = torch.randn(2, 1, 8, 8, generator=CPU().manual_seed(0))
    ts = timesteps(D.schedule, 4, start=0.9).flip(0)[1:]
    g = CPU().manual_seed(0)
    found = sde.log_likelihood(D, D.schedule, x, ts, probes=1, generator=g, y=torch.tensor([0, 2]))
    assert found.shape == (2,) and found.dtype == torch.float64 and found.isfinite().all()


@pytest.mark.parametrize("schedule", [Schedule.flow(), Schedule.edm()], ids=str)
def test_the_bound_of_an_exact_denoiser_is_its_density(schedule):
    """The process with noise is the forward process, backwards: nothing is lost."""
    x0 = MIXTURE.sample(2000, seed=3).double()
    ts = schedule.t_from_log_snr(torch.linspace(11, -8, 200, dtype=torch.float64))
    g = CPU().manual_seed(0)
    bound = sde.variational_bound(MIXTURE.denoiser(schedule), schedule, x0, ts, generator=g)
    excess = bound + MIXTURE.log_prob(x0)
    assert bound.shape == (2000,) and bound.dtype == torch.float64
    assert excess.mean().abs() < 4 * excess.std() / 2000**0.5


def test_a_wrong_denoiser_has_a_larger_bound():
    schedule, x0 = Schedule.flow(), MIXTURE.sample(500, seed=3).double()
    ts = schedule.t_from_log_snr(torch.linspace(9, -8, 100, dtype=torch.float64))
    right = MIXTURE.denoiser(schedule)
    bound = lambda D: sde.variational_bound(D, schedule, x0, ts, generator=CPU().manual_seed(0))
    assert bound(lambda x, t: right(x, t) + 0.1).mean() > bound(right).mean() + 1


def test_normal_log_prob():
    x = torch.randn(3, 2, 2, generator=CPU().manual_seed(0))
    expected = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), 4.0 * torch.eye(4, dtype=torch.float64)
    ).log_prob(x.flatten(1).double())
    torch.testing.assert_close(sde.normal_log_prob(x, 2.0), expected)


@pytest.mark.parametrize("call, words", [
    (lambda D, S, x: sde.drift(S, 1.0), "alpha = 0: start below t = 1"),
    (lambda D, S, x: sde.score(D, S, x, 0.0), "t must be above 0"),
    (lambda D, S, x: sde.euler_maruyama(D, S, x, [1.0, 0.5]), "alpha = 0"),
    (lambda D, S, x: last(sde.euler_maruyama(D, S, x, [0.9, 0.5], noise_level=-1.0)),
     "noise_level must be"),
    (lambda D, S, x: sde.change_schedule(lambda x, t: x, S), "D.schedule must be a Schedule"),
    (lambda D, S, x: sde.change_schedule(D, "flow"), "schedule must be a Schedule"),
    (lambda D, S, x: sde.log_likelihood(D, S, x, [0.9, 0.1]), "rising"),
    (lambda D, S, x: sde.log_likelihood(D, S, x, [0.0, 0.1]), "both above 0"),
    (lambda D, S, x: sde.log_likelihood(D, S, x, [0.1, 1.0]), "both above 0"),
    (lambda D, S, x: sde.log_likelihood(D, S, x, [0.1, 0.9], probes=0), "probes must be"),
    (lambda D, S, x: sde.log_likelihood(D, S, x, [0.1, 0.9], generator=0), "generator must be"),
    (lambda D, S, x: sde.variational_bound(D, S, x, [0.9, 0.1]), "rising"),
    (lambda D, S, x: sde.variational_bound(D, S, x, [0.0, 0.1]), "both above 0"),
    (lambda D, S, x: sde.variational_bound(D, S, x, [0.1, 1.0]), "both above 0"),
    (lambda D, S, x: sde.variational_bound(D, S, "x", [0.1, 0.9]), "x0 must be"),
    (lambda D, S, x: sde.variational_bound(D, S, x, [0.1, 0.9], generator=0), "generator must be"),
    (lambda D, S, x: sde.variational_bound(lambda x, t: x[:1], S, x, [0.1, 0.9]),
     "a prediction of x.s shape"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    schedule = Schedule.flow()
    with pytest.raises((TypeError, ValueError), match=words):
        call(MIXTURE.denoiser(schedule), schedule, noised(schedule, 0.5, 5))
