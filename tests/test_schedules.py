"""Schedules: against the papers' own formulas, finite differences and Monte Carlo."""
import math

import pytest
import torch

from course_lib.schedules import Schedule, append_dims, randn_like

ALL = {
    "linear": Schedule.linear(),
    "linear_100": Schedule.linear(100),
    "scaled_linear": Schedule.scaled_linear(),
    "cosine": Schedule.cosine(),
    "sigmoid": Schedule.sigmoid(),
    "zero_terminal_snr": Schedule.zero_terminal_snr(),
    "edm": Schedule.edm(),
    "flow": Schedule.flow(),
}
PRESERVING = [s for name, s in ALL.items() if name not in ("edm", "flow")]
inside = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_ends_and_direction(schedule):
    t = torch.linspace(0, 1, 501)
    assert (
        schedule.alpha(0.0) == 1 and schedule.sigma(0.0) == 0 and schedule.log_snr(0.0) == math.inf
    )
    assert (schedule.log_snr(t).diff() < 0).all()
    assert schedule.alpha(t).dtype == torch.float64 and schedule.alpha(t).shape == t.shape


@pytest.mark.parametrize("schedule", PRESERVING, ids=repr)
def test_variance_preserving(schedule):
    torch.testing.assert_close(
        schedule.alpha(inside) ** 2 + schedule.sigma(inside) ** 2,
        torch.ones_like(inside),
        atol=1e-12,
        rtol=0,
    )


def test_from_betas_is_the_running_product():
    betas = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    schedule = Schedule.from_betas(betas)
    alpha_bar, product = [], 1.0
    for beta in betas.tolist():
        product *= 1 - beta
        alpha_bar.append(product)
    t = torch.arange(1, 51, dtype=torch.float64) / 50
    torch.testing.assert_close(
        schedule.alpha(t) ** 2, torch.tensor(alpha_bar, dtype=torch.float64), atol=1e-13, rtol=0
    )
    middle = schedule.alpha((t[3] + t[4]) / 2) ** 2
    assert middle == pytest.approx((alpha_bar[3] + alpha_bar[4]) / 2, abs=1e-13), (
        "alpha^2 is linear between steps"
    )
    assert schedule.T == 50


def test_linear_rescales_its_betas():
    assert Schedule.linear(1000).betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert Schedule.linear(100).betas[[0, -1]].tolist() == pytest.approx([1e-3, 0.2])
    # the paper's, T = 1000
    assert Schedule.linear(1000).alpha(1.0) ** 2 == pytest.approx(4.0358e-5, rel=1e-4)
    assert Schedule.linear(100).alpha(1.0) ** 2 < 1e-4  # unscaled it would be 0.36


@pytest.mark.parametrize("arguments", [{}, {"beta_start": 1e-4, "beta_end": 0.02}])
def test_scaled_linear_is_that_of_diffusers(arguments):
    """Their table is float32; ours is a straight line in sqrt(beta)."""
    diffusers = pytest.importorskip("diffusers")
    schedule = Schedule.scaled_linear(**arguments)
    theirs = diffusers.DDIMScheduler(
        1000,
        beta_schedule="scaled_linear",
        **{"beta_start": 0.00085, "beta_end": 0.012} | arguments,
    )
    torch.testing.assert_close(schedule.betas, theirs.betas.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        schedule.betas.sqrt().diff().diff(),
        torch.zeros(998, dtype=torch.float64),
        rtol=0,
        atol=1e-15,
    )


def test_scaled_linear_rescales_its_betas():
    sd, short = Schedule.scaled_linear(), Schedule.scaled_linear(100)
    assert (
        sd.betas[[0, -1]].tolist() == pytest.approx([0.00085, 0.012])
        and sd.alpha(1.0) == pytest.approx(0.0683, abs=1e-4)
    )
    assert (
        short.betas[[0, -1]].tolist() == pytest.approx([0.0085, 0.12])
        and short.alpha(1.0) == pytest.approx(0.0683, abs=0.01)
    )
    with pytest.raises(
        ValueError, match="betas rescaled to T = 11 steps would exceed 1: take T >= 12"
    ):
        Schedule.scaled_linear(11)
    again = getattr(Schedule, short.spec[0])(**short.spec[1])
    assert (
        repr(short) == "Schedule.scaled_linear(T=100, beta_start=0.00085, beta_end=0.012)"
        and torch.equal(again.betas, short.betas)
    )


def test_cosine_is_the_papers():
    """Nichol & Dhariwal 2021, eq. 17, written out: f(i / T) / f(0), the last beta capped at 0.999.
    """
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    schedule = Schedule.cosine(1000)
    for i in (1, 250, 500, 900, 999):
        assert schedule.alpha(i / 1000) ** 2 == pytest.approx(f(i / 1000) / f(0), rel=1e-9)
    assert schedule.betas[-1] == 0.999
    assert schedule.alpha(1.0) == pytest.approx(4.93e-5, rel=2e-3)


def test_sigmoid_is_the_papers():
    """Jabri et al. 2022, algorithm in appendix: gamma from sigmoid(-3) to sigmoid(3)."""
    s = lambda u: 1 / (1 + math.exp(-u))
    gamma = lambda u: (s(3) - s(6 * u - 3)) / (s(3) - s(-3))
    for i in (1, 300, 500, 700, 990):
        assert Schedule.sigmoid().alpha(i / 1000) ** 2 == pytest.approx(gamma(i / 1000), rel=1e-9)


def test_zero_terminal_snr():
    """Lin et al. 2023, algorithm 1: the last alpha is exactly 0, the first is kept, sqrt(alpha_bar)
    is stretched in a straight line.
    """
    old, new = Schedule.linear(), Schedule.zero_terminal_snr()
    t = torch.tensor([1, 400, 999, 1000], dtype=torch.float64) / 1000
    first, end = old.alpha(0.001), old.alpha(1.0)
    assert new.alpha(1.0) == 0 and new.betas[-1] == 1 and new.log_snr(1.0) == -math.inf
    torch.testing.assert_close(
        new.alpha(t), (old.alpha(t) - end) * first / (first - end), atol=1e-9, rtol=0
    )
    assert Schedule.zero_terminal_snr(torch.full((10,), 0.1)).T == 10


def test_edm_and_flow():
    assert (
        Schedule.edm(80, 7).sigma(1.0) == 80
        and Schedule.edm(80, 7).sigma(0.5) == 80 * 0.5**7
        and Schedule.edm().alpha(0.7) == 1
    )
    assert (
        Schedule.flow().alpha(0.3) == pytest.approx(0.7)
        and Schedule.flow().sigma(0.3) == pytest.approx(0.3)
    )


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_log_snr_and_its_inverse(schedule):
    torch.testing.assert_close(
        schedule.log_snr(inside),
        (schedule.alpha(inside) ** 2 / schedule.sigma(inside) ** 2).log(),
        atol=1e-9,
        rtol=1e-9,
    )
    torch.testing.assert_close(
        schedule.t_from_log_snr(schedule.log_snr(inside)), inside, atol=1e-9, rtol=0
    )
    assert schedule.t_from_log_snr(math.inf) == 0 and schedule.t_from_log_snr(-math.inf) == 1


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_derivatives(schedule):
    t, h = inside + 1e-4 / 3, 1e-7                                      # between table entries
    for f, d in ((schedule.alpha, schedule.d_alpha), (schedule.sigma, schedule.d_sigma)):
        torch.testing.assert_close(d(t), (f(t + h) - f(t - h)) / (2 * h), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert (
            Schedule.flow().d_alpha(0.3) == -1
            and Schedule.flow().d_sigma(0.3) == 1
            and Schedule.edm().d_alpha(0.3) == 0
        )


def test_perturb_broadcasts_and_casts():
    schedule = Schedule.cosine()
    x0 = torch.randn(3, 2, 4, 4)
    eps = torch.randn(3, 2, 4, 4)
    t = torch.tensor([0.0, 0.5, 1.0])
    x = schedule.perturb(x0, t, eps)
    assert x.dtype == torch.float32 and torch.equal(x[0], x0[0])
    torch.testing.assert_close(
        x[1], schedule.alpha(0.5).float() * x0[1] + schedule.sigma(0.5).float() * eps[1]
    )
    frames = schedule.perturb(x0, torch.tensor([[0.0, 1.0]] * 3), eps)
    assert torch.equal(frames[:, 0], x0[:, 0]), "t of shape (B, F): each frame has its own level"
    assert append_dims(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape == (2, 1, 1)


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_renoise_reaches_the_marginal(schedule):
    """Noise to s, then on to t, has the mean and the variance of noising to t at once: 5 standard
    errors, n = 200,000.
    """
    n = 200_000
    s = 0.3
    t = 0.55
    x0 = 1.7
    g = torch.Generator().manual_seed(0)
    start = torch.full((n,), x0, dtype=torch.float64)
    x = schedule.renoise(schedule.perturb(start, s, randn_like(start, g)), s, t, g)
    variance = schedule.sigma(t) ** 2
    assert abs(x.mean() - schedule.alpha(t) * x0) < 5 * (variance / n).sqrt()
    assert abs(x.var() - variance) < 5 * variance * (2 / n) ** 0.5


def test_prior():
    g = torch.Generator().manual_seed(0)
    assert Schedule.edm().sample_prior((50_000,), generator=g).std() == pytest.approx(80, rel=0.02)
    assert (
        Schedule.flow().sample_prior((50_000,), t=0.5, generator=g).std()
        == pytest.approx(0.5, rel=0.02)
    )
    again = lambda: Schedule.cosine().sample_prior((4,), generator=torch.Generator().manual_seed(3))
    assert torch.equal(again(), again())


@pytest.mark.parametrize(
    "betas", [[0.0, 0.1], [0.5, 1.01], [-0.1], [], [[0.1, 0.2]], [float("nan")]]
)
def test_bad_betas(betas):
    with pytest.raises(ValueError, match=r"betas must be one row of variances in \(0, 1\]"):
        Schedule.from_betas(torch.tensor(betas))


def test_other_bad_input():
    with pytest.raises(ValueError, match="take T >= 20"):
        Schedule.linear(10)
    with pytest.raises(ValueError, match="t must be at least s"):
        Schedule.flow().renoise(torch.zeros(2), 0.5, 0.4)


def test_repr_says_how_it_was_made():
    assert (
        repr(Schedule.cosine(50)) == "Schedule.cosine(T=50)"
        and repr(Schedule.from_betas(torch.tensor([0.1, 0.2]))) == "Schedule.from_betas(T=2)"
    )


def test_only_strange_functions_are_warned_of(recwarn):
    """alpha falls from 1 and sigma rises from 0 in every named schedule, and in one's own."""
    for schedule in (Schedule.linear(), Schedule.cosine(), Schedule.edm(), Schedule.flow()):
        Schedule(schedule.alpha, schedule.sigma)
    assert not recwarn.list
    for alpha, sigma in ((lambda t: t, lambda t: 1 - t), (lambda t: 1 - t / 2, lambda t: 0.1 + t)):
        with pytest.warns(UserWarning, match="alpha must fall from 1 and sigma rise from 0"):
            Schedule(alpha, sigma)


def test_numbers_of_python_and_numpy_are_not_rounded():
    """Lists and arrays in float64 give what tensors in float64 give, bit for bit."""
    betas = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    schedule = Schedule.from_betas(betas)
    for same in (betas.tolist(), betas.numpy()):
        assert torch.equal(Schedule.from_betas(same).betas, betas)
    t = torch.tensor([0.1, 0.7], dtype=torch.float64)
    for same in (t.tolist(), t.numpy()):
        assert torch.equal(schedule.alpha(same), schedule.alpha(t))
        assert torch.equal(schedule.t_from_log_snr(same), schedule.t_from_log_snr(t))
