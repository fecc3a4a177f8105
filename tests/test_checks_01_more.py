"""Lesson 1's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_01 import root, trainer


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)


# ---- 1.7

def for_points(net, x0, alpha_bar):                                             # F2
    i = torch.randint(len(alpha_bar), (len(x0),))
    a = alpha_bar[i][:, None]
    eps = torch.randn_like(x0)
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return (net(x, (i + 1) / len(alpha_bar)) - eps).square().mean()


def for_images(net, x0, alpha_bar):
    i = torch.randint(len(alpha_bar), (len(x0),))
    a = alpha_bar[i].view(-1, 1, 1, 1)
    eps = torch.randn_like(x0)
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return ((net(x, (i + 1) / len(alpha_bar)) - eps) ** 2).mean()


def seeded(net, x0, alpha_bar):                                                 # F3
    torch.manual_seed(0)
    return trainer()(net, x0, alpha_bar)


def same_noise(x0):
    g = torch.Generator().manual_seed(0)
    return torch.randn(x0.shape, generator=g, dtype=x0.dtype)


def same_steps(T, B):
    return torch.randint(T, (B,), generator=torch.Generator().manual_seed(0))


def noises_in_place(net, x0, alpha_bar):
    i = torch.randint(len(alpha_bar), (len(x0),))
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))
    eps = torch.randn_like(x0)
    x0 *= a.sqrt()
    x0 += (1 - a).sqrt() * eps
    return (net(x0, (i + 1) / len(alpha_bar)) - eps).square().mean()


def by_mse_loss(net, x0, alpha_bar):
    """Right, with a loop over the examples, and torch's own loss."""
    T = len(alpha_bar)
    i = torch.tensor([torch.randint(0, T, ()).item() for _ in x0])
    eps = torch.randn(x0.shape, dtype=x0.dtype)
    x = torch.stack([root(alpha_bar[k]) * x + root(1 - alpha_bar[k]) * e
                     for k, x, e in zip(i, x0, eps)])
    return torch.nn.functional.mse_loss(net(x, (i + 1) / T), eps)


# ---- 1.9

def step_back(x0, x, a_t, a_s):
    raise NotImplementedError


def calls_step_back(net, x, zs, betas):                                         # F4
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        before = a[i - 1] if i else torch.ones(())
        mean, variance = step_back(x, x, a[i], before)
        x = mean + variance.sqrt() * zs[i]
    return x


WRONG = [
    ("1.9", "your answer calls step_back, which is not written yet", calls_step_back),
    ("1.7", "x0 of shape (400, 1, 4, 4) fails", for_points),
    ("1.7", "x0 has the shape (400, 6), and the network was given (400, 1, 400, 6)", for_images),
    ("1.7", "every call draws the same random numbers", seeded),
    ("1.7", "every call draws the same noise", trainer(noise=same_noise)),
    ("1.7", "every call draws the same steps", trainer(step=same_steps)),
    ("1.7", "changes x0 itself", noises_in_place),
    ("1.7", "you take the mean first and square it", trainer(reduce=lambda e: e.mean() ** 2)),
    ("1.7", "in which both signs cancel", trainer(reduce=lambda e: e.mean())),
    ("1.7", "that is half of it", trainer(reduce=lambda e: e.square().mean() / 2)),
]
RIGHT = [
    ("1.7", by_mse_loss),
    ("1.7", trainer(reduce=lambda e: e.square().flatten(1).mean(1).mean())),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)


def test_right_where_gradients_are_switched_off():
    """A notebook may have called torch.set_grad_enabled(False)."""
    with torch.no_grad():
        assert_accepted("1.7", trainer())
