"""Preference pairs: the loss by hand, its gradient, where it begins, and where it leads."""
import math

import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.preference import dpo_loss


class Shift(nn.Module):
    """Predicts that the clean data is one number."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self, x, t):
        return self.value.expand_as(x)


class Given:
    """A model whose losses are given, first those of the winners; keeps what it was called with."""

    def __init__(self, *losses):
        self.losses = [torch.tensor(values, requires_grad=True) for values in losses]
        self.calls = []

    def loss(self, x0, t, eps, **condition):
        self.calls.append((x0, t, eps, condition))
        return self.losses[len(self.calls) - 1]


def model(value=0.0):
    return Denoiser(Shift(value), Schedule.flow(), "x0")


def pairs(B=6):
    g = torch.Generator().manual_seed(0)
    w, l, eps = (torch.randn(B, 3, generator=g) for _ in range(3))
    return w, l, torch.rand(B, generator=g), eps


def test_by_hand():
    """With target x0 a loss is the mean of (value - x0)^2."""
    w, l, t, eps = pairs()
    found = dpo_loss(model(0.5), model(-0.2), w, l, t, eps, beta=3.0)
    loss = lambda value, x: (value - x).square().mean(1)
    inner = (loss(0.5, w) - loss(-0.2, w)) - (loss(0.5, l) - loss(-0.2, l))
    torch.testing.assert_close(found, -torch.sigmoid(-3.0 * inner).log())


def test_it_begins_at_log_two():
    w, l, t, eps = pairs()
    found = dpo_loss(model(), model(), w, l, t, eps, beta=5.0)
    torch.testing.assert_close(found, torch.full((6,), math.log(2)))
    same = dpo_loss(model(0.5), model(), w, w, t, eps, beta=5.0)        # nothing to prefer
    torch.testing.assert_close(same, torch.full((6,), math.log(2)))


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_gradient(beta):
    """By the winner's loss beta (1 - sigmoid), by the loser's minus that: the winner's loss is to
    fall, the loser's to rise, and a pair that is well told apart counts little.
    """
    w, l, t, eps = (value[:3] for value in pairs())
    D, reference = Given([0.3, 0.2, 0.5], [0.3, 0.7, 0.1]), Given([0.3] * 3, [0.3] * 3)
    dpo_loss(D, reference, w, l, t, eps, beta).sum().backward()
    margin = -beta * (torch.tensor([0.3, 0.2, 0.5]) - torch.tensor([0.3, 0.7, 0.1]))
    wanted = beta * (1 - margin.sigmoid())
    torch.testing.assert_close(D.losses[0].grad, wanted)
    torch.testing.assert_close(D.losses[1].grad, -wanted)
    assert wanted[0] == beta / 2 and wanted[1] < wanted[0] < wanted[2]
    assert reference.losses[0].grad is None and reference.losses[1].grad is None


def test_the_reference_sets_the_margin():
    """Only the change counts: a pair that the reference already tells apart, and D as well as it,
    is at log 2.
    """
    w, l, t, eps = (value[:2] for value in pairs())
    D, reference = Given([0.1, 0.1], [0.9, 0.9]), Given([0.1, 0.4], [0.9, 0.4])
    found = dpo_loss(D, reference, w, l, t, eps, 2.0)
    wanted = [math.log(2), math.log(1 + math.exp(-2.0 * 0.8))]
    torch.testing.assert_close(found.detach(), torch.tensor(wanted))


def test_one_time_one_noise_and_one_condition_for_all_four():
    w, l, t, eps = (value[:2] for value in pairs())
    D, reference = (Given([0.1, 0.1], [0.2, 0.3]) for _ in range(2))
    dpo_loss(D, reference, w, l, t, eps, 2.0, y="both")
    for calls in (D.calls, reference.calls):
        assert torch.equal(calls[0][0], w) and torch.equal(calls[1][0], l) and len(calls) == 2
        for _, time, noise, condition in calls:
            assert torch.equal(time, t) and torch.equal(noise, eps) and condition == {"y": "both"}


def test_a_swapped_pair_differs_by_the_margin():
    """-log sigmoid(m) + log sigmoid(-m) = -m."""
    w, l, t, eps = pairs()
    D, reference = model(0.5), model(-0.2)
    right, swapped = (dpo_loss(D, reference, *pair, t, eps, 3.0) for pair in ((w, l), (l, w)))
    margin = 3.0 * 2 * (0.5 + 0.2) * (w - l).mean(1)                    # the squares cancel
    torch.testing.assert_close(right - swapped, -margin)


def test_it_goes_to_the_winners_and_leaves_the_reference():
    D, reference = model(), model()
    winner, loser = torch.ones(4, 3), -torch.ones(4, 3)
    t, eps = torch.full((4,), 0.5), torch.zeros(4, 3)
    optimizer = torch.optim.SGD(D.parameters(), lr=0.1)
    for _ in range(20):
        loss = dpo_loss(D, reference, winner, loser, t, eps, beta=1.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert D.net.value.item() > 0.3 and loss < 0.5
    assert reference.net.value.item() == 0 and reference.net.value.grad is None


def test_what_cannot_be_a_pair():
    w, l, t, eps = pairs()
    with pytest.raises(ValueError, match="loser"):
        dpo_loss(model(), model(), w, l[:3], t, eps, beta=1.0)
    with pytest.raises(TypeError, match="eps must be a tensor; got None"):
        dpo_loss(model(), model(), w, l, t, None, beta=1.0)
    with pytest.raises(ValueError, match="beta"):
        dpo_loss(model(), model(), w, l, t, eps, beta=0.0)
    with pytest.raises(TypeError, match="reference must have a loss"):
        dpo_loss(model(), len, w, l, t, eps, beta=1.0)
