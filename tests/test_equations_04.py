"""Every tagged formula of lesson 4 checked numerically; `test_lesson_tags.py` keeps the
list complete.
"""
import math

import pytest
import torch

from course_lib import Consistency, Denoiser, Schedule, last, samplers
from course_lib.guidance import threshold
from course_lib.lab.data import GaussianMixture

F64 = torch.float64
G = lambda seed=0: torch.Generator().manual_seed(seed)
T, S = torch.tensor(0.7, dtype=F64), torch.tensor(0.45, dtype=F64)
SCHEDULES = [Schedule.cosine(), Schedule.flow(), Schedule.edm(5.0, 3.0)]
MIX = GaussianMixture([[-1.0, 0.3], [0.8, -0.4]], [0.3, 0.5], [1.0, 2.0])
X = torch.randn(40, 2, generator=G(), dtype=F64)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def four(schedule, t=T, s=S):
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


def jump(schedule, t=T, s=S):
    """alpha_{t|s} and the variance sigma_{t|s}^2"""
    a_t, s_t, a_s, s_s = four(schedule, t, s)
    return a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2


def exact(schedule, x, t):
    """The exact x0_hat and eps_hat"""
    x0 = MIX.denoiser(schedule)(x, t)
    return x0, (x - schedule.alpha(t) * x0) / schedule.sigma(t)


def close(a, b, **kw):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), **kw)


@each_schedule
def test_eq_4_1(schedule):
    """One jump after another is the whole jump; from data it is (alpha, sigma)."""
    middle = torch.tensor(0.6, dtype=F64)
    (r1, v1), (r2, v2), (r, v) = (
        jump(schedule, middle, S),
        jump(schedule, T, middle),
        jump(schedule),
    )
    close(r1 * r2, r)
    close(r2**2 * v1 + v2, v)
    r0, v0 = jump(schedule, T, torch.tensor(0.0, dtype=F64))
    close(r0, schedule.alpha(T))
    close(v0, schedule.sigma(T) ** 2)
    betas = torch.linspace(0.01, 0.2, 10, dtype=F64)
    r, v = jump(
        Schedule.from_betas(betas), torch.tensor(0.6, dtype=F64), torch.tensor(0.5, dtype=F64)
    )
    close(r**2, 1 - betas[5])
    close(v, betas[5])


@each_schedule
def test_eq_4_2(schedule):
    """By Gaussian regression of x_s on x_t, with x0 fixed, from covariances alone."""
    a_t, s_t, a_s, s_s = four(schedule)
    r, v = jump(schedule)
    x0, x_t = 1.3, -0.4
    covariance, var_t = r * s_s**2, s_t**2
    mean = a_s * x0 + covariance / var_t * (x_t - a_t * x0)
    close(r * s_s**2 / s_t**2 * x_t + a_s * v / s_t**2 * x0, mean)
    close(s_s**2 * v / s_t**2, s_s**2 - covariance**2 / var_t)


@each_schedule
def test_eq_4_3(schedule):
    """Data N(0, w^2): the variance of x_s given x_t is that of a regression without x0.

    And the two ends.
    """
    a_t, s_t, a_s, s_s = four(schedule)
    r, v = jump(schedule)
    for w in (0.1, 0.6, 2.0):
        var_s, var_t = a_s**2 * w**2 + s_s**2, a_t**2 * w**2 + s_t**2
        x0_given = w**2 * s_t**2 / var_t
        close(
            s_s**2 * v / s_t**2 + (a_s * v / s_t**2) ** 2 * x0_given,
            var_s - (r * var_s) ** 2 / var_t,
        )
    cosine = SCHEDULES[0]
    a_t, s_t, a_s, s_s = four(cosine)
    v = jump(cosine)[1]
    close(s_s**2 * v / s_t**2 + (a_s * v / s_t**2) ** 2 * s_t**2, v)


@each_schedule
def test_eq_4_4(schedule):
    """200,000 draws at level t, one step with x0 known: the mean and its noise against the
    library's step, and Monte Carlo.
    """
    a_t, s_t, a_s, s_s = four(schedule)
    n, x0 = 200_000, 1.3
    eps, z = torch.randn(2, n, generator=G(), dtype=F64)
    for part in (0.0, 0.4, 0.9):
        v = part * s_s
        x_s = a_s * x0 + (s_s**2 - v**2).sqrt() * (a_t * x0 + s_t * eps - a_t * x0) / s_t + v * z
        assert (
            abs(x_s.mean() - a_s * x0) < 5 * s_s / n**0.5
            and abs(x_s.var() - s_s**2) < 5 * s_s**2 * (2 / n) ** 0.5
        )
    x_t = torch.tensor([0.3], dtype=F64)
    close(
        a_s * x0 + s_s * (x_t - a_t * x0) / s_t,
        samplers.step(schedule, x_t, torch.full_like(x_t, x0), T, S, 0.0),
    )


@each_schedule
def test_eq_4_5(schedule):
    """The covariance of a whole chain of steps with different v: sigma_s^2 at each level, exactly.
    """
    variance = schedule.sigma(torch.tensor(0.9, dtype=F64)) ** 2
    levels = torch.tensor([0.9, 0.6, 0.35, 0.1], dtype=F64)
    for t, s, part in zip(levels, levels[1:], (0.0, 0.8, 0.3)):
        _, s_t, _, s_s = four(schedule, t, s)
        v = part * s_s
        variance = (s_s**2 - v**2) / s_t**2 * variance + v**2
        close(variance, s_s**2)


@each_schedule
def test_eq_4_6(schedule):
    a_t, s_t, a_s, s_s = four(schedule)
    r, v = jump(schedule)
    tilde2 = s_s**2 * v / s_t**2
    close((s_s**2 - tilde2).sqrt(), s_s / s_t * (s_t**2 - v).sqrt())
    close((s_s**2 - tilde2).sqrt(), r * s_s**2 / s_t)
    close(a_s - a_t * r * s_s**2 / s_t**2, a_s * v / s_t**2)


@each_schedule
def test_eq_4_7(schedule):
    """The divergence of the two Gaussians of a step, by averaging log densities on a fine line."""
    a_t, s_t, a_s, s_s = four(schedule)
    v = 0.6 * s_s
    x_t = 0.4
    x0 = 1.0
    guess = 0.7
    mean = lambda x: a_s * x + (s_s**2 - v**2).sqrt() * (x_t - a_t * x) / s_t
    y = mean(x0) + v * torch.linspace(-12, 12, 20_001, dtype=F64)
    log = lambda m: -(y - m) ** 2 / (2 * v**2)
    p = log(mean(x0)).softmax(0)
    close(
        (p * (log(mean(x0)) - log(mean(guess)))).sum(),
        (a_s - a_t / s_t * (s_s**2 - v**2).sqrt()) ** 2 * (x0 - guess) ** 2 / (2 * v**2),
        rtol=1e-6,
        atol=0,
    )


@each_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eq_4_8(schedule, eta):
    """Beside the library's step with the same draw; at eta = 1 beside the posterior."""
    a_t, s_t, a_s, s_s = four(schedule)
    r, v = jump(schedule)
    tilde = s_s * v.sqrt() / s_t
    x0, eps = exact(schedule, X, T)
    z = torch.randn(X.shape, generator=G(3), dtype=F64)
    step = a_s * x0 + (s_s**2 - (eta * tilde) ** 2).sqrt() * eps + eta * tilde * z
    close(step, samplers.step(schedule, X, x0, T, S, eta, G(3)))
    if eta == 1:
        close(step, r * s_s**2 / s_t**2 * X + a_s * v / s_t**2 * x0 + tilde * z)


@each_schedule
def test_eq_4_9(schedule):
    a_t, s_t, a_s, s_s = four(schedule)
    x0, eps = exact(schedule, X, T)
    ahead = last(samplers.ddim(MIX.denoiser(schedule), schedule, X, torch.stack([T, S])))
    close(ahead / a_s, x0 + s_s / a_s * eps)
    close(ahead / a_s, X / a_t + (s_s / a_s - s_t / a_t) * eps)


SMOOTH = [
    Schedule.flow(),
    Schedule.edm(5.0, 3.0),
    Schedule(lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t)),
]


def rank_slope(schedule, t, d=1e-4):
    """On a line the true flow keeps each particle's rank: dx/dt from the quantiles of q_t alone, no
    solver.  -> x, slope, x0_hat, eps_hat
    """
    line = GaussianMixture([[-1.0], [0.8]], [0.3, 0.5], [1.0, 2.0])
    def cdf(x, u):
        return (
            line.weights
            * torch.special.ndtr(
                (x[:, None] - schedule.alpha(u) * line.means[:, 0])
                / ((schedule.alpha(u) * line.stds) ** 2 + schedule.sigma(u) ** 2).sqrt()
            )
        ).sum(1)
    x = torch.tensor([-1.5, -0.4, 0.2, 0.9, 2.0], dtype=F64)
    rank, ends = cdf(x, t), []
    for u in (t - d, t + d):
        low, high = x - 1, x + 1
        for _ in range(60):
            middle = (low + high) / 2
            low = torch.where(cdf(middle, u) < rank, middle, low)
            high = torch.where(cdf(middle, u) < rank, high, middle)
        ends.append(high)
    x0 = line.denoiser(schedule)(x[:, None], t)[:, 0]
    score = line.score(x[:, None], schedule.alpha(t), schedule.sigma(t))[:, 0]
    return (
        x,
        (ends[1] - ends[0]) / (2 * d),
        x0,
        (x - schedule.alpha(t) * x0) / schedule.sigma(t),
        score,
    )


@pytest.mark.parametrize("schedule", SMOOTH)
def test_eq_4_10(schedule):
    """d(x / alpha) / d(sigma / alpha) from ranks."""
    d = 1e-4
    x, slope, _, eps, _ = rank_slope(schedule, T, d)
    a = schedule.alpha(T)
    b = schedule.sigma(T)
    da = schedule.d_alpha(T)
    db = schedule.d_sigma(T)
    close((slope / a - x * da / a**2) / (db / a - b * da / a**2), eps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", SMOOTH)
def test_eq_4_11(schedule):
    x, slope, x0, eps, _ = rank_slope(schedule, T)
    close(schedule.d_alpha(T) * x0 + schedule.d_sigma(T) * eps, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", SMOOTH)
def test_eq_4_13(schedule):
    x, slope, _, _, score = rank_slope(schedule, T)
    a = schedule.alpha(T)
    b = schedule.sigma(T)
    da = schedule.d_alpha(T)
    db = schedule.d_sigma(T)
    close(da / a * x - (2 * b * db - 2 * b**2 * da / a) / 2 * score, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", SMOOTH)
def test_eq_4_12(schedule):
    """f(x) = sin(x): d/dt of its exact mean (from the density on a line), against both averages of
    slopes, by quadrature.
    """
    line, d = GaussianMixture([[-1.0], [0.8]], [0.3, 0.5], [1.0, 2.0]), 1e-4
    x = torch.linspace(-12, 12, 24_001, dtype=F64)[:, None]
    q = lambda t: line.log_prob(x, schedule.alpha(t), schedule.sigma(t)).exp() * (x[1] - x[0])
    left = ((q(T + d) - q(T - d)) / (2 * d) * torch.sin(x[:, 0])).sum()
    x0 = line.denoiser(schedule)(x, T)
    eps = (x - schedule.alpha(T) * x0) / schedule.sigma(T)
    right = (
        q(T) * torch.cos(x[:, 0]) * (schedule.d_alpha(T) * x0 + schedule.d_sigma(T) * eps)[:, 0]
    ).sum()
    close(left, right, rtol=1e-5, atol=1e-7)
    n = 400_000  # the pairs (x0, eps) themselves, to 5 standard errors
    clean, noise = line.sample(n)[:, 0].double(), torch.randn(n, generator=G(1), dtype=F64)
    values = (
        torch.cos(schedule.alpha(T) * clean + schedule.sigma(T) * noise)
        * (schedule.d_alpha(T) * clean + schedule.d_sigma(T) * noise)
    )
    assert (
        abs(values.mean() - left) < 5 * values.std() / n**0.5
        and abs(left) > 10 * values.std() / n**0.5
    )


@each_schedule
def test_eq_4_14(schedule):
    """The remainder falls with v^4: sixteen times for half of v."""
    a, b = schedule.alpha(T), schedule.sigma(T)
    _, eps = exact(schedule, X, T)
    score = MIX.score(X, a, b)
    left = [
        ((b**2 - v**2).sqrt() * eps - (b * eps + v**2 / 2 * score)).abs().max()
        for v in (0.1 * b, 0.05 * b)
    ]
    assert 15 < left[0] / left[1] < 17


def gaussian_langevin(m, v, s2):
    """N(m, v) under dx = 1/2 grad log N(0, s2) dtau + dw: the rates of m and v."""
    return -m / (2 * s2), 1 - v / s2


def test_eq_4_15():
    """One tiny step of the walk itself on a mixture, averaged by quadrature; both right-hand sides.
    """
    q = GaussianMixture([[-1.0], [0.8]], [0.3, 0.5])
    p = GaussianMixture([[0.2], [1.0]], [0.4, 0.6])
    tau = 1e-4
    x, z = torch.linspace(-6, 6, 4001, dtype=F64)[:, None], torch.linspace(-8, 8, 801, dtype=F64)
    weight, normal = p.log_prob(x).softmax(0), (-z**2 / 2).softmax(0)
    moved = x + tau / 2 * q.score(x) + tau**0.5 * z  # (4001, 801)
    left = ((weight[:, None] * normal * (torch.sin(2 * moved) - torch.sin(2 * x))).sum() / tau)
    slope, bend = 2 * torch.cos(2 * x), -4 * torch.sin(2 * x)
    close(left, 0.5 * (weight[:, None] * (slope * q.score(x) + bend)).sum(), rtol=1e-3, atol=0)
    close(
        left, 0.5 * (weight[:, None] * slope * (q.score(x) - p.score(x))).sum(), rtol=1e-3, atol=0
    )


def test_eq_4_16():
    """Gaussians: the divergence along the exact solution, differentiated by autograd, against the
    formula.
    """
    m = torch.tensor([0.7, 0.4], dtype=F64, requires_grad=True)
    v = 0.4
    s2 = 1.5
    mean, var = m[0], m[1]
    kl = 0.5 * (torch.log(s2 / var) + (var + mean**2) / s2 - 1)
    dm, dv = gaussian_langevin(0.7, v, s2)
    gradient, = torch.autograd.grad(kl, m)
    x = 0.7 + v**0.5 * torch.linspace(-10, 10, 20_001, dtype=F64)
    p = (-(x - 0.7) ** 2 / (2 * v)).softmax(0)
    close(
        gradient[0] * dm + gradient[1] * dv,
        -0.5 * (p * (-(x - 0.7) / v + x / s2) ** 2).sum(),
        rtol=1e-6,
        atol=0,
    )


def test_eq_4_17():
    """x' = -sin x: x'' = sin x cos x. The remainder falls with h^3."""
    x = torch.tensor(1.1, dtype=F64)
    left = []
    for h in (0.02, 0.01):
        fine = x.clone()
        for _ in range(2000):
            k = -torch.sin(fine)
            fine = fine - h / 2000 * torch.sin(fine + h / 4000 * k)
        left.append((fine - (x - h * torch.sin(x)) - h**2 / 2 * torch.sin(x) * torch.cos(x)).abs())
    assert 7 < left[0] / left[1] < 9


def test_eq_4_18():
    """The recursion run with equality never exceeds either bound, and meets the first."""
    C = 0.7
    K = 1.3
    L = 2.0
    for p in (1, 2, 3):
        for n in (4, 50):
            h, e = L / n, 0.0
            for _ in range(n):
                e = (1 + K * h) * e + C * h ** (p + 1)
            assert (
                e == pytest.approx(C * h ** (p + 1) * ((1 + K * h) ** n - 1) / (K * h))
                and e <= C * (math.exp(K * L) - 1) / K * h**p
            )
    assert e > 0.9 * C * (math.exp(K * L) - 1) / K * h**3


def test_eq_4_19():
    """One step of the library's heun on the EDM schedule against the exact flow: the error falls
    with h^3; its global order is 2.
    """
    schedule, D = Schedule.edm(5.0, 1.0), MIX.denoiser(Schedule.edm(5.0, 1.0))
    one, many = [], []
    for h in (0.02, 0.01):
        ts = torch.tensor([0.3, 0.3 - h], dtype=F64)
        truth = last(samplers.unipc(D, schedule, X, torch.linspace(0.3, 0.3 - h, 41, dtype=F64)))
        one.append((last(samplers.heun(D, schedule, X, ts)) - truth).abs().max())
    for n in (40, 80):
        truth = last(samplers.unipc(D, schedule, X, torch.linspace(0.6, 0.05, 641, dtype=F64)))
        many.append(
            (
                last(samplers.heun(D, schedule, X, torch.linspace(0.6, 0.05, n + 1, dtype=F64)))
                - truth
            )
            .abs()
            .max()
        )
    assert 6.5 < one[0] / one[1] < 9.5 and 3.4 < many[0] / many[1] < 4.6


@pytest.mark.parametrize("schedule", SMOOTH)
def test_eq_4_20(schedule):
    """By the chain rule from (flow) and the schedule's own derivatives: d(x / sigma) / d lambda."""
    a = schedule.alpha(T)
    b = schedule.sigma(T)
    da = schedule.d_alpha(T)
    db = schedule.d_sigma(T)
    x, slope, x0, _, _ = rank_slope(schedule, T)
    close((slope / b - x * db / b**2) / (da / a - db / b), a / b * x0, rtol=1e-5, atol=1e-5)


@each_schedule
def test_eq_4_21(schedule):
    """The guess along the exact path, integrated by Simpson's rule, gives the end of the path."""
    n = 601
    lam = torch.linspace(schedule.log_snr(T) / 2, schedule.log_snr(S) / 2, n, dtype=F64)
    ts, D = schedule.t_from_log_snr(2 * lam), MIX.denoiser(schedule)
    states = list(samplers.unipc(D, schedule, X, ts))
    simpson = torch.ones(n, dtype=F64)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    total = (
        sum(w * l.exp() * D(x, t) for w, l, x, t in zip(simpson, lam, states, ts))
        * (lam[1] - lam[0])
        / 3
    )
    _, s_t, _, s_s = four(schedule)
    close(states[-1], s_s / s_t * X + s_s * total, rtol=1e-6, atol=1e-6)


def integral(f, h, n=100_001):
    u = torch.linspace(0, h, n, dtype=F64)
    return torch.trapezoid((u - h).exp() * f(u), u)


def test_eq_4_22():
    for h in (0.3, 1.7):
        I = 1 - math.exp(-h)
        close(integral(torch.ones_like, h), I, rtol=1e-8, atol=0)
        for k in (1, 2, 3):
            I = h**k - k * I
            close(integral(lambda u: u**k, h), I, rtol=1e-8, atol=0)


@each_schedule
def test_eq_4_23(schedule):
    """Beside the library; exact for a constant guess; for a straight line wrong by O(h^3), as (h/2)
    I_0 - I_1 says.
    """
    ts = torch.tensor([0.8, 0.7, 0.45], dtype=F64)
    D = MIX.denoiser(schedule)
    _, x, end = samplers.dpmpp(D, schedule, X, ts)
    lam = schedule.log_snr(ts) / 2
    h, before = lam[2] - lam[1], lam[1] - lam[0]
    _, s_t, a_s, s_s = four(schedule)
    now, old = D(x, ts[1]), D(X, ts[0])
    close(end, s_s / s_t * x + a_s * (1 - (-h).exp()) * (now + h / (2 * before) * (now - old)))
    left = []
    for h in (0.02, 0.01):
        # guesses 1 + u: 1 now, 0.97 before
        left.append(
            (1 - math.exp(-h)) * (1 + h / (2 * 0.03) * 0.03) - integral(lambda u: 1 + u, h).item()
        )
    assert (
        left[0] / left[1] == pytest.approx(8, rel=0.05)
        and abs(left[0] / (-(0.02**3) / 12)) == pytest.approx(1, rel=0.05)
    )


def weights(u, h):
    I = [1 - math.exp(-h)]
    for k in range(1, len(u)):
        I.append(h**k - k * I[-1])
    u = torch.tensor(u, dtype=F64)
    return torch.linalg.solve((u[:, None] ** torch.arange(len(u))).T, torch.tensor(I, dtype=F64))


def test_eq_4_24():
    """Cubics in u are integrated exactly by four guesses on either side of the step; the library's
    corrector has the three-guess weights.
    """
    u, h = [0.4, 0.0, -0.3, -0.7], 0.4
    f = lambda u: 1 - 2 * u + 3 * u**2 + 0.5 * u**3
    close((weights(u, h) * f(torch.tensor(u, dtype=F64))).sum(), integral(f, h), rtol=1e-8, atol=0)
    schedule = Schedule.cosine()
    ts, guesses = torch.tensor([0.8, 0.7, 0.6], dtype=F64), []

    def D(x, t):
        guesses.append(MIX.denoiser(schedule)(x, t))
        return guesses[-1]

    _, x, end = samplers.unipc(D, schedule, X, ts)
    lam = schedule.log_snr(ts) / 2
    w = weights((lam.flip(0) - lam[1]).tolist(), (lam[2] - lam[1]).item())
    assert len(guesses) == 3
    close(
        end,
        schedule.sigma(ts[2]) / schedule.sigma(ts[1]) * x
        + schedule.alpha(ts[2]) * sum(w_j * g for w_j, g in zip(w, guesses[::-1])),
    )


def test_eq_4_25():
    """The paper's own loop, beside the library's grid, and its ends."""
    n = 9
    low = 0.002
    high = 80.0
    rho = 7
    schedule = Schedule.edm()
    expected = [
        (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        for i in range(n)
    ]
    close(
        schedule.sigma(samplers.timesteps(schedule, n, "karras"))[:-1],
        expected,
        rtol=1e-6,
        atol=1e-9,
    )
    assert expected[0] == pytest.approx(80) and expected[-1] == pytest.approx(0.002)


def test_eq_4_26():
    """The distance to the geometric grid falls like 1 / rho; at rho = 1 the grid is even."""
    c = 0.3
    low = 0.002
    high = 80.0
    grid = lambda rho: (high ** (1 / rho) + c * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    limit = high ** (1 - c) * low**c
    gaps = [abs(grid(rho) - limit) for rho in (1e3, 2e3)]
    assert gaps[1] < 0.02 * limit and gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)
    assert grid(1) == pytest.approx(high + c * (low - high))


@each_schedule
def test_eq_4_27(schedule):
    """Fresh noise on a sample of level t makes one of level sigma-hat: Monte Carlo on x / alpha,
    and the library's own lift.
    """
    n = 200_000
    gamma = min(10 / 20, 2**0.5 - 1)
    x0 = 1.3
    r = schedule.sigma(S) / schedule.alpha(S)
    hat = (1 + gamma) * r
    x = x0 + r * torch.randn(n, generator=G(), dtype=F64)
    lifted = x + (hat**2 - r**2).sqrt() * torch.randn(n, generator=G(1), dtype=F64)
    assert (
        abs(lifted.var() - hat**2) < 5 * hat**2 * (2 / n) ** 0.5
        and abs(lifted.mean() - x0) < 5 * hat / n**0.5
    )
    theirs, up = samplers._churn(schedule, schedule.alpha(S) * x, S, hat, 1.0, G(1))
    close(theirs / schedule.alpha(up), lifted, rtol=1e-3, atol=1e-4)


def test_eq_4_28():
    new = lambda gamma: (1 + gamma) ** 2 - 1
    assert new(2**0.5 - 1) == pytest.approx(1) and new(0.41) < 1 < new(0.42)
    for gamma in (0.1, 0.3):
        r, hat = 2.0, 2.0 * (1 + gamma)
        assert hat**2 - r**2 == pytest.approx(new(gamma) * r**2)


def test_eq_4_29():
    """By hand on one row with and one without a value beyond 1; the library agrees."""
    wild, tame = torch.linspace(-3, 2, 101, dtype=F64), torch.linspace(-0.5, 0.4, 101, dtype=F64)
    x0 = torch.stack([wild, tame])
    s = sorted(wild.abs().tolist())[90]  # the 90 % quantile of 101 values
    out = threshold(lambda x, t: x0, 0.9)(x0, 0.5)
    close(out[0], wild.clamp(-s, s) / s, rtol=1e-6, atol=1e-6)
    close(out[1], tame, rtol=0, atol=0)
    assert s > 1 and out.abs().max() <= 1 + 1e-6


def test_eq_4_30():
    n, theta = 400_000, 0.4
    z1, z2 = torch.randn(2, n, generator=G(), dtype=F64)
    on_arc, straight = math.cos(theta) * z1 + math.sin(theta) * z2, 0.5 * (z1 + z2)
    assert (
        abs(on_arc.var() - 1) < 5 * (2 / n) ** 0.5
        and abs(straight.var() - 0.5) < 5 * 0.5 * (2 / n) ** 0.5
    )
    a, b = torch.tensor([[2.0, 0.0]]).double(), torch.tensor([[0.0, 2.0]]).double()
    close(samplers.slerp(a, b, 2 * theta / math.pi), math.cos(theta) * a + math.sin(theta) * b)


@each_schedule
def test_eq_4_31(schedule):
    """Beside the library; and with the slope held fixed, down and up again is the identity."""
    D = MIX.denoiser(schedule)
    a_s, s_s, a_t, s_t = four(schedule)  # here from the cleaner S up to T
    a_from = a_t
    s_from = s_t
    a_to = a_s
    s_to = s_s
    _, eps = exact(schedule, X, S)
    up = a_to / a_from * (X - s_from * eps) + s_to * eps
    close(up, last(samplers.ddim_invert(D, schedule, X, torch.stack([S, T]))))
    close(a_from / a_to * (up - s_to * eps) + s_from * eps, X)
    errors = []
    for n in (40, 80):
        ts = torch.linspace(0.9, 0.1, n + 1, dtype=F64)
        errors.append(
            (
                last(
                    samplers.ddim(
                        D, schedule, last(samplers.ddim_invert(D, schedule, X, ts.flip(0))), ts
                    )
                )
                - X
            )
            .square()
            .mean()
            .sqrt()
        )
    assert 1.7 < errors[0] / errors[1] < 2.3, "there and back misses by O(h)"


# ---- part III: a few steps

W = 0.6  # data N(0, W^2): its ODE in closed form


def width_at(schedule, t):
    """The standard deviation of x_t; an ODE's path keeps x_t / width."""
    return ((schedule.alpha(t) * W) ** 2 + schedule.sigma(t) ** 2).sqrt()


def of_gaussian(schedule):
    """The exact denoiser, and the exact end of the path through (x, t)."""
    def guess(x, t):
        return (
            (schedule.alpha(t) * W**2 / width_at(schedule, t) ** 2).view(-1, *[1] * (x.ndim - 1))
            * x
        )
    end = lambda x, t: W / width_at(schedule, t) * x
    return guess, end


@each_schedule
def test_eq_4_32(schedule):
    """The end of the path, from a fine ODE solution, is one and the same from both of its points,
    and the point itself at t = 0.
    """
    guess, end = of_gaussian(schedule)
    x = torch.tensor([[0.4], [-1.1]], dtype=F64)
    ts = torch.linspace(T.item(), S.item(), 4001, dtype=F64)
    x_s = last(samplers.ddim(guess, schedule, x, ts))
    close(end(x, T), end(x_s, S), rtol=2e-3, atol=0)
    assert (end(x_s, T) - end(x, T)).abs().min() > 0.01, "at the wrong time it is another end"
    close(end(x, torch.tensor(0.0, dtype=F64)), x)


def test_eq_4_33():
    """At t = 0 every target but x0 gives x back, whatever the network says."""
    x, out = torch.randn(2, 5, 3, generator=G())
    for schedule in SCHEDULES:
        for target in ("v", "eps", "flow", "edm"):
            close(Denoiser(lambda x, t: out, schedule, target)(x, 0.0), x)
    assert not torch.allclose(Denoiser(lambda x, t: out, SCHEDULES[0], "x0")(x, 0.0), x)


def test_eq_4_34():
    """The library's loss is the formula; the true ends make it (nearly) nothing, a denoiser does
    not.
    """
    cosine, c = SCHEDULES[0], 1e-6
    guess, end = of_gaussian(cosine)

    def loss_of(f, levels):
        D = Consistency(torch.nn.Identity(), cosine, guess, levels=levels, c=c)
        D.forward = lambda x, t: f(x, torch.as_tensor(t).view(-1, 1))
        x0 = W * torch.randn(4000, 1, generator=G(), dtype=F64)
        t = D.time_sampler(torch.rand(4000, generator=G(1), dtype=F64))
        eps = torch.randn(4000, 1, generator=G(2), dtype=F64)
        r = t - 1 / levels
        x = cosine.perturb(x0, t, eps)
        cleaner = samplers.step(cosine, x, guess(x, t), t, r.clamp(min=0))
        by_hand = (
            (D.forward(x, t) - D.forward(cleaner, r.clamp(min=0))).abs()[:, 0]
            / cosine.sigma(t)
        )
        close(D.loss(x0, t, eps) + c, (by_hand**2 + c**2).sqrt())
        return by_hand.mean().item()
    right, fine = loss_of(end, 16), loss_of(end, 64)
    assert fine < right / 2 and loss_of(lambda x, t: guess(x, t[:, 0]), 64) > 5 * fine


@each_schedule
def test_eq_4_35(schedule):
    """x_r from the same x0 and eps, given x_t, by weighting 400,000 draws: its mean is a ddim step,
    its variance the formula's.
    """
    a_t, s_t, a_s, s_s = four(schedule)
    x0 = MIX.sample(400_000, seed=3).double()[:, :1]
    x_t = torch.tensor([[0.25]], dtype=F64)
    share = (-((x_t - a_t * x0) / s_t).square() / 2).exp()
    share = share / share.sum()
    x_r = a_s * x0 + s_s / s_t * (x_t - a_t * x0)
    mean, var = (share * x_r).sum(), (share * (x_r - (share * x_r).sum()) ** 2).sum()
    x0_mean, x0_var = (share * x0).sum(), (share * (x0 - (share * x0).sum()) ** 2).sum()
    close(mean, a_s * x0_mean + s_s * (x_t[0, 0] - a_t * x0_mean) / s_t)
    close(var, (a_s - s_s / s_t * a_t) ** 2 * x0_var)
    line = GaussianMixture(MIX.means[:, :1], MIX.stds, MIX.weights)
    close(
        mean,
        samplers.step(schedule, x_t, line.denoiser(schedule)(x_t, T), T, S)[0, 0],
        rtol=0.02,
        atol=0.005,
    )


def test_eq_4_36():
    """f curved, the noise narrow: the difference of means tends to half f'' times the variance; it
    falls with the square of the gap.
    """
    f = torch.sin
    bend = lambda x: -torch.sin(x)
    nodes = torch.randn(2_000_000, generator=G(), dtype=F64)
    nodes = (nodes - nodes.mean()) / nodes.std()
    for std in (0.05, 0.1):
        difference = f(0.8 + std * nodes).mean() - f(torch.tensor(0.8, dtype=F64))
        close(difference, 0.5 * bend(torch.tensor(0.8, dtype=F64)) * std**2, rtol=0.03, atol=0)
    flow = SCHEDULES[1]
    def factor(gap):
        return (flow.alpha(T - gap) - flow.sigma(T - gap) / flow.sigma(T) * flow.alpha(T)) ** 2
    assert 3.5 < factor(0.02) / factor(0.01) < 4.5


@each_schedule
def test_eq_4_37(schedule):
    """If guesses are draws of the data, independent of the fresh noise, x_s has the right width; it
    is (4.4) with v = sigma_s.
    """
    n = 200_000
    x0 = W * torch.randn(n, 1, generator=G(), dtype=F64)
    z = torch.randn(n, 1, generator=G(1), dtype=F64)
    x_s = schedule.alpha(S) * x0 + schedule.sigma(S) * z
    assert abs(x_s.std() / width_at(schedule, S) - 1) < 5 / (2 * n) ** 0.5
    states = list(
        samplers.consistency_sampling(
            lambda x, t: 0 * x + 0.3,
            schedule,
            X,
            torch.tensor([0.7, 0.45, 0.0], dtype=F64),
            generator=G(4),
        )
    )
    close(
        states[1],
        schedule.alpha(S) * 0.3
        + schedule.sigma(S) * torch.randn(X.shape, generator=G(4), dtype=F64),
    )
    close(states[2], torch.full_like(X, 0.3))


@each_schedule
def test_eq_4_38(schedule):
    """One ddim step with this guess lands where two steps of a teacher land."""
    middle = (T + S) / 2
    for s in (S, torch.tensor(0.0, dtype=F64)):
        guess = MIX.denoiser(schedule)
        x_m = samplers.step(schedule, X, guess(X, T), T, middle)
        x_s = samplers.step(schedule, x_m, guess(x_m, middle), middle, s)
        ratio = schedule.sigma(s) / schedule.sigma(T)
        target = (x_s - ratio * X) / (schedule.alpha(s) - ratio * schedule.alpha(T))
        close(samplers.step(schedule, X, target, T, s), x_s)


def mean_velocity(x, r, t):
    """u of the data N(0, W^2) under the flow schedule, from its paths x_r = x_t width_r / width_t.
    """
    flow = SCHEDULES[1]
    return x * (1 - width_at(flow, r) / width_at(flow, t)) / (t - r)


def velocity(x, t):
    """v = E[eps - x0 | x_t] for the data N(0, W^2)."""
    return x * (t - (1 - t) * W**2) / width_at(SCHEDULES[1], t) ** 2


def test_eq_4_39():
    """The average velocity by integration along the path; and the step that it makes."""
    x = torch.tensor(0.9, dtype=F64)
    r = torch.tensor(0.2, dtype=F64)
    t = torch.tensor(0.8, dtype=F64)
    flow, taus = SCHEDULES[1], torch.linspace(0.2, 0.8, 20_001, dtype=F64)
    along = velocity(x * width_at(flow, taus) / width_at(flow, t), taus)
    close(torch.trapezoid(along, taus) / (t - r), mean_velocity(x, r, t), rtol=1e-6, atol=0)
    close(x - (t - r) * mean_velocity(x, r, t), x * width_at(flow, r) / width_at(flow, t))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_eq_4_40():
    """The identity, with du / dt by forward differentiation along (v, 0, 1); the plain derivative
    by t alone would not do.
    """
    x = torch.tensor(0.9, dtype=F64)
    r = torch.tensor(0.2, dtype=F64)
    t = torch.tensor(0.8, dtype=F64)
    v = velocity(x, t)
    zero = torch.zeros_like(t)
    one = torch.ones_like(t)
    u, du = torch.func.jvp(mean_velocity, (x, r, t), (v, zero, one))
    close(u, v - (t - r) * du)
    _, partial = torch.func.jvp(mean_velocity, (x, r, t), (zero, zero, one))
    assert (u - (v - (t - r) * partial)).abs() > 0.05


def test_eq_4_41():
    """Two steps of length d are one of length 2 d, at the average of their velocities."""
    x = torch.tensor(0.9, dtype=F64)
    t = torch.tensor(0.8, dtype=F64)
    d = 0.25
    first = mean_velocity(x, t - d, t)
    second = mean_velocity(x - d * first, t - 2 * d, t - d)
    close((first + second) / 2, mean_velocity(x, t - 2 * d, t))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("schedule", [Schedule.cosine(), Schedule.flow()], ids=repr)
def test_eq_4_42(schedule, eta):
    """A tiny step of DDIM's family has the drift and the noise of (4.42).

    The same generator gives the noise alone, so what is left is the drift.
    """
    mix = GaussianMixture([[-1.0], [0.8]], [0.3, 0.5], [1.0, 2.0])
    t = torch.tensor(0.6005, dtype=F64, requires_grad=True)
    dt = 1e-6
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    [d_alpha] = torch.autograd.grad(alpha, t)
    [d_sigma] = torch.autograd.grad(sigma, t)
    t, alpha, sigma = t.detach(), alpha.detach(), sigma.detach()
    g2 = 2 * sigma * d_sigma - 2 * sigma**2 * d_alpha / alpha
    x = torch.tensor([[-0.7], [0.1], [1.3]], dtype=F64).repeat(100, 1)
    x0_hat = mix.denoiser(schedule)(x, t)
    score = (alpha * x0_hat - x) / sigma**2
    drift = d_alpha / alpha * x - (1 + eta**2) / 2 * g2 * score
    z = torch.randn(x.shape, dtype=F64, generator=G(3))
    y = samplers.step(schedule, x, x0_hat, t, t - dt, eta, generator=G(3))
    noise = eta * (g2 * dt).sqrt()
    close(y - x + drift * dt, noise * z, rtol=1e-5, atol=1e-3 * dt)
