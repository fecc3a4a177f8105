"""Denoiser: a network that answers exactly what it is asked for must lead back to the exact x0."""
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib.denoiser import TARGETS, Denoiser
from course_lib.networks.unet import UNet
from course_lib.schedules import Schedule, append_dims


class Exact(nn.Module):
    """Knows x0 and eps, and answers the target by its definition in the papers."""

    def __init__(self, schedule, target, x0, eps):
        super().__init__()
        self.schedule = schedule
        self.target = target
        self.x0 = x0
        self.eps = eps
        self.seen = None

    def forward(self, x, t, **condition):
        self.seen = t
        alpha, sigma = (
            c.view(-1, 1, 1, 1).to(x.dtype)
            for c in (self.schedule.alpha(t), self.schedule.sigma(t))
        )
        return {
            "eps": self.eps,
            "x0": self.x0,
            "v": alpha * self.eps - sigma * self.x0,
            "flow": self.eps - self.x0,
        }[self.target]


x0, eps = torch.randn(
    2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
).unbind(0)


@pytest.mark.parametrize(
    "schedule", [Schedule.linear(), Schedule.cosine(), Schedule.flow(), Schedule.edm()], ids=repr
)
# its network sees other things: tests of its own below
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "edm"])
def test_exact_answers_give_exact_x0(schedule, target):
    t = torch.tensor([0.01, 0.3, 0.6, 0.9], dtype=torch.float64)
    D = Denoiser(Exact(schedule, target, x0, eps), schedule, target)
    torch.testing.assert_close(D(schedule.perturb(x0, t, eps), t), x0, atol=1e-10, rtol=1e-10)
    assert D.loss(x0, t, eps).shape == (4,) and D.loss(x0, t, eps).abs().max() < 1e-18
    # at t = 0.01 EDM's sigma is 1e-12
    assert D.loss(x0 + 1, t, eps)[1:].min() > 1e-6 or target == "eps"


def test_loss_is_the_mean_square_per_example():
    D = Denoiser(lambda_net(lambda x: torch.zeros_like(x)), Schedule.flow(), "flow")
    torch.testing.assert_close(
        D.loss(x0, torch.full((4,), 0.4), eps), (eps - x0).square().mean(dim=(1, 2, 3))
    )


def lambda_net(f):
    class Net(nn.Module):
        def forward(self, x, t, **condition):
            return f(x)
    return Net()


def test_ends_of_time():
    schedule = Schedule.zero_terminal_snr()
    out = torch.randn_like(x0)
    assert torch.equal(Denoiser(lambda_net(lambda x: out), schedule, "x0")(x0, 0.0), out), (
        "target x0 returns the output itself"
    )
    torch.testing.assert_close(Denoiser(lambda_net(lambda x: out), schedule, "v")(x0, 0.0), x0)
    torch.testing.assert_close(Denoiser(lambda_net(lambda x: out), schedule, "v")(x0, 1.0), -out)
    with pytest.raises(ValueError, match="target 'eps' says nothing about x0 at t = 1 .*alpha = 0"):
        Denoiser(lambda_net(lambda x: out), schedule, "eps")(x0, 1.0)


def test_a_target_of_your_own_and_a_time_of_your_own():
    net = Exact(Schedule.flow(), "flow", x0, eps)
    D = Denoiser(
        net,
        Schedule.flow(),
        target=lambda alpha, sigma: (-1.0, 1.0),
        time_transform=lambda t: (1000 * t - 1).round(),
    )
    net.schedule = SimpleNamespace(alpha=torch.sin, sigma=torch.cos)        # not asked: t is 499
    D(x0, 0.5)
    assert net.seen.tolist() == [499.0] * 4


def test_one_time_for_all_or_one_each():
    D = Denoiser(lambda_net(lambda x: 0.1 * x), Schedule.cosine(), "v")
    each, one = D(x0, torch.full((4,), 0.3)), D(x0, torch.tensor(0.3))
    torch.testing.assert_close(each, one)
    torch.testing.assert_close(one, D(x0, 0.3))


@pytest.mark.parametrize("t", [500.0, -0.1, math.nan])
def test_time_outside(t):
    with pytest.raises(
        ValueError, match=r"t must lie in \[0, 1\]; got .*step index\? use \(i \+ 1\) / T"
    ):
        Denoiser(lambda_net(lambda x: x), Schedule.cosine())(x0, t)


def test_other_bad_input():
    D = Denoiser(lambda_net(lambda x: x), Schedule.cosine())
    with pytest.raises(ValueError, match="of shape \\(4,\\) like the batch"):
        D(x0, torch.rand(3))
    with pytest.raises(TypeError, match="scale bytes with x / 127.5 - 1"):
        D.loss(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.rand(2))
    with pytest.raises(ValueError, match="target must be one of eps, x0, v, flow"):
        Denoiser(D.net, Schedule.cosine(), "velocity")
    for wrong in (0.0, -0.5, math.nan):
        with pytest.raises(
            ValueError, match="sigma_data must be a number above 0"
        ):
            Denoiser(D.net, Schedule.edm(), "edm", sigma_data=wrong)


# ---- target edm: Karras et al. 2022

def table_1(sigma, s):
    """Karras et al. 2022, table 1, last column: c_skip, c_out, c_in, c_noise."""
    return (
        s**2 / (sigma**2 + s**2),
        sigma * s / (s**2 + sigma**2).sqrt(),
        1 / (sigma**2 + s**2).sqrt(),
        sigma.log() / 4,
    )


class RandomNet(nn.Module):
    """A random network in float64, not linear in x or time, that keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.w, self.u = torch.randn(
            2, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )

    def forward(self, x, t, **condition):
        self.seen = (x, t)
        return torch.tanh(self.w * x + append_dims(t, x) * self.u) + 0.1 * x**2


@pytest.mark.parametrize("schedule", [Schedule.edm(), Schedule.cosine(), Schedule.flow()], ids=repr)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_is_the_paper(schedule, sigma_data):
    """D = c_skip x + c_out F(c_in x; c_noise), and the loss is lambda |D - x0|^2 with lambda = 1 /
    c_out^2; x / alpha and sigma / alpha are the paper's.
    """
    net, t = RandomNet(), torch.tensor([0.2, 0.4, 0.7, 0.95], dtype=torch.float64)
    D = Denoiser(net, schedule, target="edm", sigma_data=sigma_data)
    x, alpha = schedule.perturb(x0, t, eps), append_dims(schedule.alpha(t), x0)
    c_skip, c_out, c_in, c_noise = table_1(append_dims(schedule.sigma(t), x0) / alpha, sigma_data)
    paper = c_skip * x / alpha + c_out * net(c_in * x / alpha, c_noise.flatten())
    torch.testing.assert_close(D(x, t), paper, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        D.loss(x0, t, eps), ((paper - x0) ** 2 / c_out**2).mean((1, 2, 3)), atol=1e-12, rtol=1e-10
    )
    torch.testing.assert_close(net.seen[1], c_noise.flatten())
    assert D.target == "edm" and D.sigma_data == sigma_data


@pytest.mark.parametrize(
    "schedule", [Schedule.edm(), Schedule.cosine(), Schedule.zero_terminal_snr()], ids=repr
)
def test_edm_at_the_ends_of_time(schedule):
    """At sigma = 0 the answer is x itself, and at alpha = 0 there is one: both times are finite."""
    net = RandomNet()
    D = Denoiser(net, schedule, "edm", sigma_data=0.7)
    assert (
        torch.equal(D(x0, 0.0), x0)
        and net.seen[1].tolist() == pytest.approx([math.log(1e-4) / 4] * 4)
    )
    assert (
        D(x0, 1.0).isfinite().all()
        and net.seen[1].isfinite().all()
        and D.loss(x0, torch.ones(4), eps).isfinite().all()
    )


@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_edm_inputs_and_targets_have_variance_one(t):
    """What the paper asks of its scalings, for data of standard deviation 0.7; n = 100,000, 5
    standard errors.
    """
    data, noise = torch.randn(
        2, 100_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ).unbind(0)
    for schedule in (Schedule.edm(), Schedule.cosine()):
        net = RandomNet()
        net.w, net.u = torch.zeros(2, 1, dtype=torch.float64)
        D = Denoiser(net, schedule, "edm", sigma_data=0.7)
        a, b = D.coefficients(schedule.alpha(t), schedule.sigma(t))
        D(schedule.perturb(0.7 * data, t, noise), t)
        assert net.seen[0].var().item() == pytest.approx(1, abs=5 * (2 / 100_000) ** 0.5)
        assert (
            (a * 0.7 * data + b * noise).var().item()
            == pytest.approx(1, abs=5 * (2 / 100_000) ** 0.5)
        )


def test_edm_of_unit_data_is_minus_v():
    schedule, t = Schedule.cosine(), torch.linspace(0, 1, 11, dtype=torch.float64)
    edm = Denoiser(RandomNet(), schedule, "edm", sigma_data=1.0)
    v = Denoiser(RandomNet(), schedule, "v")
    for a, b in zip(
        edm.coefficients(schedule.alpha(t), schedule.sigma(t)),
        v.coefficients(schedule.alpha(t), schedule.sigma(t)),
    ):
        torch.testing.assert_close(a, -b)


def test_edm_with_a_time_of_your_own_and_frames():
    """A time per frame, (B, F), and a network that wants log(sigma) itself."""
    net = RandomNet()
    schedule = Schedule.edm()
    frames = torch.rand(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    got = Denoiser(net, schedule, "edm", time_transform=lambda c_noise: 4 * c_noise)(x0, frames)
    c_skip, c_out, c_in, _ = table_1(append_dims(schedule.sigma(frames), x0), 0.5)
    torch.testing.assert_close(
        got, c_skip * x0 + c_out * net(c_in * x0, schedule.sigma(frames).clamp(min=1e-4).log())
    )


def test_an_unknown_condition_is_refused():
    """By the names in the network's forward; a network with **condition decides for itself."""
    x, t = torch.zeros(2, 1, 8, 8), torch.tensor([0.3, 0.6])
    plain = Denoiser(lambda x, t: x, Schedule.cosine())
    labelled = Denoiser(UNet(1, widths=(16,), num_classes=3), Schedule.cosine())
    anything = Denoiser(lambda x, t, **condition: x * condition["w"], Schedule.cosine())
    for call in (
        lambda D, **condition: D(x, t, **condition),
        lambda D, **condition: D.loss(x, t, **condition),
    ):
        with pytest.raises(TypeError, match="function takes no condition; got y"):
            call(plain, y=1)
        with pytest.raises(TypeError, match="UNet takes .*, y; got classes, labels"):
            call(labelled, y=1, labels=1, classes=2)
        call(labelled, y=1)
        call(anything, w=2.0)
    assert Denoiser(nn.Identity(), Schedule.cosine()) is not None, (
        "a forward with one argument only is refused when it is called"
    )
