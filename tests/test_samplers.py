"""Samplers: Gaussian data has closed-form answers, diffusers gives an independent opinion, and
orders are measured.
"""
import math

import pytest
import torch

from course_lib import Schedule, ancestral, cfg, clip, ddim, last, timesteps
from course_lib.lab.data import GaussianMixture
from course_lib.samplers import step

MEAN, STD = 0.5, 0.3
SCHEDULES = [Schedule.linear(), Schedule.cosine(), Schedule.flow(), Schedule.edm(5.0, 3.0)]


def gaussian_denoiser(schedule):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2), from the textbook formula for two jointly Gaussian
    numbers.
    """
    def D(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
    return D


def flow_map(schedule, x, t, s):
    """Where the probability-flow ODE takes x from level t to s: it keeps the number of standard
    deviations from the mean.
    """
    width = lambda u: (schedule.alpha(u) ** 2 * STD**2 + schedule.sigma(u) ** 2).sqrt()
    return schedule.alpha(s) * MEAN + width(s) / width(t) * (x - schedule.alpha(t) * MEAN)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_ddim_converges_to_the_flow_at_first_order(schedule):
    x, errors = torch.tensor([-1.2, 0.1, 2.0], dtype=torch.float64), []
    for n in (40, 80, 160):
        ts = torch.linspace(0.95, 0.05, n + 1, dtype=torch.float64)
        errors.append(
            (
                last(ddim(gaussian_denoiser(schedule), schedule, x, ts))
                - flow_map(schedule, x, ts[0], ts[-1])
            )
            .abs()
            .max()
        )
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert errors[-1] < 0.02 and all(0.85 < order < 1.15 for order in orders), (errors, orders)


def spread(schedule, n):
    """The exact standard deviation after n steps of the textbook posterior (variance per step by
    hand: everything is linear).
    """
    alpha, sigma = schedule.alpha(1.0), schedule.sigma(1.0)
    variance = alpha**2 * STD**2 + sigma**2
    for t, s in zip(timesteps(schedule, n)[:-1], timesteps(schedule, n)[1:]):
        alpha_t = schedule.alpha(t)
        alpha_s = schedule.alpha(s)
        var_t = schedule.sigma(t) ** 2
        var_s = schedule.sigma(s) ** 2
        ratio = alpha_t / alpha_s
        beta = var_t - ratio**2 * var_s                           # the variance of q(x_t | x_s)
        guess = alpha_t * STD**2 / (alpha_t**2 * STD**2 + var_t)  # the slope of E[x0 | x_t]
        # of the posterior's mean, DDPM eq. 7
        slope = ratio * var_s / var_t + alpha_s * beta / var_t * guess
        variance = slope**2 * variance + var_s / var_t * beta
    return variance.sqrt().item()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_any_eta_ends_in_the_data(schedule, eta):
    """20,000 draws: the spread is right within 3 % after 800 steps, and its first-order error at
    eta = 1 halves with the step.
    """
    g = torch.Generator().manual_seed(0)
    alpha = schedule.alpha(1.0)
    start = alpha * MEAN + (alpha**2 * STD**2 + schedule.sigma(1.0) ** 2).sqrt() * torch.randn(
        20_000, generator=g, dtype=torch.float64
    )
    x = last(
        ddim(
            gaussian_denoiser(schedule),
            schedule,
            start,
            timesteps(schedule, 800),
            eta=eta,
            generator=g,
        )
    )
    assert x.mean() == pytest.approx(MEAN, abs=0.01) and x.std() == pytest.approx(STD, rel=0.03)
    if eta == 1:
        errors = [STD - spread(schedule, n) for n in (400, 800, 1600)]
        assert (
            all(1.8 < a / b < 2.2 for a, b in zip(errors, errors[1:]))
            and abs(errors[-1]) < 0.01 * STD
        )
        assert x.std() == pytest.approx(spread(schedule, 800), abs=5 * STD / (2 * 20_000) ** 0.5)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_one_stochastic_step_has_the_exact_marginal(schedule):
    """If x0_hat *is* x0, a step with any eta lands exactly in q(x_s | x_0): mean and variance, 5
    standard errors.
    """
    n = 200_000
    t = torch.tensor(0.7).double()
    s = torch.tensor(0.4).double()
    g = torch.Generator().manual_seed(0)
    x0 = torch.full((n,), 1.3, dtype=torch.float64)
    x = schedule.perturb(x0, t, torch.randn(n, generator=g, dtype=torch.float64))
    variance = schedule.sigma(s) ** 2
    for eta in (0.0, 0.4, 1.0):
        y = step(schedule, x, x0, t, s, eta, g)
        assert abs(y.mean() - schedule.alpha(s) * 1.3) < 5 * (variance / n).sqrt()
        assert abs(y.var() - variance) < 5 * variance * (2 / n) ** 0.5


def test_eta_one_is_the_bayesian_posterior():
    """The step's noise against beta_tilde = (1 - abar_s) / (1 - abar_t) * beta, and its mean
    against eq. 7 of DDPM.
    """
    schedule = Schedule.linear()
    t = torch.tensor(0.6).double()
    s = torch.tensor(0.35).double()
    at, as_ = schedule.alpha(t) ** 2, schedule.alpha(s) ** 2
    beta = 1 - at / as_
    n, g = 200_000, torch.Generator().manual_seed(0)
    y = step(
        schedule, torch.full((n,), 0.9).double(), torch.full((n,), -0.2).double(), t, s, 1.0, g
    )
    mean = as_.sqrt() * beta / (1 - at) * -0.2 + (at / as_).sqrt() * (1 - as_) / (1 - at) * 0.9
    variance = (1 - as_) / (1 - at) * beta
    assert (
        abs(y.mean() - mean) < 5 * (variance / n).sqrt()
        and abs(y.var() - variance) < 5 * variance * (2 / n) ** 0.5
    )


def test_variance_beta():
    schedule = Schedule.linear()
    t = torch.tensor(0.6).double()
    s = torch.tensor(0.35).double()
    n = 200_000
    x, x0_hat = torch.full((n,), 0.9).double(), torch.full((n,), -0.2).double()
    small = step(schedule, x, x0_hat, t, s, 1.0, torch.Generator().manual_seed(0))
    large = step(schedule, x, x0_hat, t, s, 1.0, torch.Generator().manual_seed(0), variance="beta")
    beta = 1 - (schedule.alpha(t) / schedule.alpha(s)) ** 2
    assert (
        abs(large.var() - beta) < 5 * beta * (2 / n) ** 0.5
        and abs(large.mean() - small.mean()) < 5 * (2 * beta / n).sqrt()
    )
    end = step(schedule, x, x0_hat, s, torch.tensor(0.0).double(), 1.0, variance="beta")
    assert torch.equal(end, x0_hat), "no noise in the step to s = 0"


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_is_the_step_with_its_variance(variance):
    schedule, ts = Schedule.linear(), torch.tensor([0.6, 0.35]).double()
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(1) for _ in range(2)]
    D = lambda x, t: 0.3 * x
    end = last(ancestral(D, schedule, x, ts, variance=variance, generator=noise[0]))
    assert torch.equal(end, step(schedule, x, D(x, ts), *ts, 1.0, noise[1], variance=variance))


@pytest.mark.parametrize("steps", [16, 40])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_against_diffusers_ddim(steps, eta):
    """diffusers' DDIM with trailing spacing, its table set to float64: the same states to 1e-10."""
    diffusers = pytest.importorskip("diffusers")
    T = 640
    schedule = Schedule.linear(T)
    theirs = diffusers.DDIMScheduler(
        T,
        trained_betas=schedule.betas.numpy(),
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    theirs.alphas_cumprod = torch.cumprod(1 - schedule.betas, 0)
    theirs.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    theirs.set_timesteps(steps)
    D, g = gaussian_denoiser(schedule), torch.Generator().manual_seed(0)
    x = y = torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64)
    ts = timesteps(schedule, steps)
    assert theirs.timesteps.tolist() == ((ts[:-1] * T).round() - 1).tolist()
    ours = list(ddim(D, schedule, x, ts, eta=eta, generator=torch.Generator().manual_seed(1)))
    g = torch.Generator().manual_seed(1)
    for k, i in enumerate(theirs.timesteps.tolist()):
        alpha, sigma = schedule.alpha(ts[k]), schedule.sigma(ts[k])
        noise = torch.randn(y.shape, generator=g, dtype=torch.float64) if eta > 0 else None
        y = theirs.step(
            (y - alpha * D(y, ts[k])) / sigma, i, y, eta=eta, variance_noise=noise
        ).prev_sample
        if eta > 0 and k == steps - 1:
            break  # diffusers adds 0 * noise at the end, we draw none
        torch.testing.assert_close(ours[k + 1], y, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(ours[-1], y, atol=1e-10, rtol=1e-10)


def test_mixture_is_sampled():
    """Three far blobs, exact denoiser: every sample lands within 5 standard deviations of a blob,
    shares as given (n = 4,000).
    """
    mixture = GaussianMixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.1, [0.5, 0.3, 0.2])
    schedule, g = Schedule.cosine(), torch.Generator().manual_seed(0)
    for x in (
        last(
            ddim(
                mixture.denoiser(schedule),
                schedule,
                schedule.sample_prior((4000, 2), generator=g),
                timesteps(schedule, 100),
            )
        ),
        last(
            ancestral(
                mixture.denoiser(schedule),
                schedule,
                schedule.sample_prior((4000, 2), generator=g),
                timesteps(schedule, 100),
                generator=g,
            )
        ),
    ):
        distance, nearest = torch.cdist(x.double(), mixture.means).min(dim=1)
        assert (distance < 0.5).double().mean() > 0.98
        shares = torch.bincount(nearest, minlength=3) / 4000
        torch.testing.assert_close(shares.double(), mixture.weights, atol=0.04, rtol=0)


def test_states_grid_and_last():
    schedule, x = Schedule.cosine(), torch.randn(2, 2)
    D = gaussian_denoiser(schedule)
    *path, end = ddim(D, schedule, x, timesteps(schedule, 7))
    assert (
        len(path) == 7
        and torch.equal(path[0], x)
        and torch.equal(end, last(ddim(D, schedule, x, timesteps(schedule, 7))))
    )
    assert (
        timesteps(schedule, 4).tolist() == [1, 0.75, 0.5, 0.25, 0]
        and timesteps(schedule, 2, start=0.6).tolist() == [0.6, 0.3, 0]
    )
    even = timesteps(schedule, 10, "log_snr")
    gaps = schedule.log_snr(even[1:-1]).diff()
    assert (
        even[0] == 1
        and even[-1] == 0
        and torch.allclose(gaps, gaps[0].expand(8), atol=1e-6)
        and (even.diff() < 0).all()
    )
    assert Schedule.edm().sigma(timesteps(Schedule.edm(), 10, "log_snr"))[-2] == pytest.approx(
        1e-3, rel=0.1
    ), "no level that nobody could see"
    assert timesteps(
        schedule, 3, lambda schedule, start, n: start * torch.tensor([1.0, 0.3, 0.1]).double()
    ).tolist() == pytest.approx([1, 0.3, 0.1, 0])


def test_conditions_reach_the_denoiser_and_no_gradient_is_kept():
    seen = []

    def D(x, t, y):
        seen.append(y)
        return x * torch.ones(1, requires_grad=True)
    schedule = Schedule.flow()
    x = last(ddim(D, schedule, torch.ones(2), timesteps(schedule, 3), y=7))
    assert seen == [7, 7, 7] and not x.requires_grad
    x.requires_grad_()
    for _ in ddim(D, schedule, x, timesteps(schedule, 2), y=1):
        assert torch.is_grad_enabled(), "the sampler must not switch gradients off for its caller"


@pytest.mark.parametrize(
    "ts",
    [
        [0.0, 0.5, 1.0],
        [1.0, 0.5, 0.5],
        [0.5, -0.1],
        [0.5],
        [],
        [[1.0, 0.0]],
        [1.0, math.nan],
        [math.nan, 0.0],
    ],
)
def test_bad_grids(ts):
    for sampler in (ddim, ancestral):
        with pytest.raises(ValueError, match="strictly falling"):
            next(
                sampler(
                    gaussian_denoiser(Schedule.flow()),
                    Schedule.flow(),
                    torch.zeros(2),
                    torch.tensor(ts),
                )
            )


def test_other_bad_input():
    schedule = Schedule.flow()
    with pytest.raises(ValueError, match="eta must be a number from 0 to 1"):
        next(
            ddim(
                gaussian_denoiser(schedule),
                schedule,
                torch.zeros(2),
                timesteps(schedule, 2),
                eta=1.5,
            )
        )
    with pytest.raises(ValueError, match="not finite"):
        next(
            ddim(
                gaussian_denoiser(schedule),
                schedule,
                torch.tensor([math.nan]),
                timesteps(schedule, 2),
            )
        )
    with pytest.raises(ValueError, match="n must be a whole number, at least 1"):
        timesteps(schedule, 0)
    with pytest.raises(ValueError, match="spacing must be one of time, quadratic, log_snr, karras"):
        timesteps(schedule, 2, "cubic")
    for start in (0.0, 1.5, 999):
        with pytest.raises(
            ValueError, match=r"start must be a number above 0, at most 1 .\(i \+ 1\) / T for"
        ):
            timesteps(schedule, 2, start=start)


def test_guidance():
    calls = []

    def D(x, t, y):
        calls.append(y)
        return x + y
    x, t = torch.zeros(3), torch.tensor(0.5)
    for w, expected in ((0.0, 10.0), (1.0, 2.0), (2.0, -6.0), (0.5, 6.0)):
        torch.testing.assert_close(cfg(D, w, {"y": 10})(x, t, y=2), torch.full((3,), expected))
    calls.clear()
    cfg(D, 1.0, {"y": 10})(x, t, y=2)
    assert calls == [2], "w = 1 is the conditional model, at the price of one call"
    interval = cfg(D, lambda t: 2.0 if t < 0.4 else 1.0, {"y": 10})
    each = cfg(D, lambda t: 2 * t, {"y": 10})(torch.zeros(2, 3), torch.tensor([0.5, 1.0]), y=2)
    assert each.tolist() == [[2.0] * 3, [-6.0] * 3], "a weight for each example"
    assert interval(x, torch.tensor(0.3), y=2)[0] == -6 and interval(x, t, y=2)[0] == 2
    assert clip(cfg(D, 2.0, {"y": 10}))(x, t, y=2).tolist() == [-1.0] * 3
