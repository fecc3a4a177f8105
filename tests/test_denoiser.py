"""Denoiser: a network that answers exactly what it is asked for must lead back to the exact x0."""
import math

import pytest
import torch
from torch import nn

from course_lib.denoiser import TARGETS, Denoiser
from course_lib.schedules import Schedule


class Exact(nn.Module):
    """Knows x0 and eps, and answers the target by its definition in the papers."""

    def __init__(self, schedule, target, x0, eps):
        super().__init__()
        self.schedule, self.target, self.x0, self.eps, self.seen = schedule, target, x0, eps, None

    def forward(self, x, t, **condition):
        self.seen = t
        alpha, sigma = (c.view(-1, 1, 1, 1).to(x.dtype) for c in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return {"eps": self.eps, "x0": self.x0, "v": alpha * self.eps - sigma * self.x0, "flow": self.eps - self.x0}[self.target]


x0, eps = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)


@pytest.mark.parametrize("schedule", [Schedule.linear(), Schedule.cosine(), Schedule.flow(), Schedule.edm()], ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_exact_answers_give_exact_x0(schedule, target):
    t = torch.tensor([0.01, 0.3, 0.6, 0.9], dtype=torch.float64)
    D = Denoiser(Exact(schedule, target, x0, eps), schedule, target)
    torch.testing.assert_close(D(schedule.perturb(x0, t, eps), t), x0, atol=1e-10, rtol=1e-10)
    assert D.loss(x0, t, eps).shape == (4,) and D.loss(x0, t, eps).abs().max() < 1e-18
    assert D.loss(x0 + 1, t, eps)[1:].min() > 1e-6 or target == "eps"    # at t = 0.01 EDM's sigma is 1e-12


def test_loss_is_the_mean_square_per_example():
    D = Denoiser(lambda_net(lambda x: torch.zeros_like(x)), Schedule.flow(), "flow")
    torch.testing.assert_close(D.loss(x0, torch.full((4,), 0.4), eps), (eps - x0).square().mean(dim=(1, 2, 3)))


def lambda_net(f):
    class Net(nn.Module):
        def forward(self, x, t, **condition):
            return f(x)
    return Net()


def test_ends_of_time():
    schedule = Schedule.zero_terminal_snr()
    out = torch.randn_like(x0)
    assert torch.equal(Denoiser(lambda_net(lambda x: out), schedule, "x0")(x0, 0.0), out), "target x0 returns the output itself"
    torch.testing.assert_close(Denoiser(lambda_net(lambda x: out), schedule, "v")(x0, 0.0), x0)
    torch.testing.assert_close(Denoiser(lambda_net(lambda x: out), schedule, "v")(x0, 1.0), -out)
    with pytest.raises(ValueError, match="target 'eps' says nothing about x0 at t = 1 .*alpha = 0"):
        Denoiser(lambda_net(lambda x: out), schedule, "eps")(x0, 1.0)


def test_a_target_of_your_own_and_a_time_of_your_own():
    net = Exact(Schedule.flow(), "flow", x0, eps)
    D = Denoiser(net, Schedule.flow(), target=lambda alpha, sigma: (-1.0, 1.0), time=lambda t: (1000 * t - 1).round())
    net.schedule = Schedule.edm()                       # never asked: the flow target has constant coefficients
    D(x0, 0.5)
    assert net.seen.tolist() == [499.0] * 4


def test_one_time_for_all_or_one_each():
    D = Denoiser(lambda_net(lambda x: 0.1 * x), Schedule.cosine(), "v")
    each, one = D(x0, torch.full((4,), 0.3)), D(x0, torch.tensor(0.3))
    torch.testing.assert_close(each, one)
    torch.testing.assert_close(one, D(x0, 0.3))


@pytest.mark.parametrize("t", [500.0, -0.1, math.nan])
def test_time_outside(t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]; got .*step index\? use \(i \+ 1\) / T"):
        Denoiser(lambda_net(lambda x: x), Schedule.cosine())(x0, t)


def test_other_bad_input():
    D = Denoiser(lambda_net(lambda x: x), Schedule.cosine())
    with pytest.raises(ValueError, match="of shape \\(4,\\) like the batch"):
        D(x0, torch.rand(3))
    with pytest.raises(TypeError, match="scale with x / 127.5 - 1"):
        D.loss(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.rand(2))
    with pytest.raises(ValueError, match="target must be one of eps, x0, v, flow"):
        Denoiser(D.net, Schedule.cosine(), "velocity")
