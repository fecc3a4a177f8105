"""Preference pairs: the loss by hand, where it begins, and where it leads."""
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
