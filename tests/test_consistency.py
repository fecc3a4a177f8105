"""Consistency models: what is trained and what is not, and the shipped two-step digits.

(The formulas: test_equations_04.py)
"""
import copy

import pytest
import torch

from course_lib import Consistency, Schedule, clip, consistency_sampling, last, timesteps
from course_lib.lab import data, features, metrics, train

COSINE = Schedule.cosine()


class Line(torch.nn.Module):
    """x (B, 1), t (B,) -> (B, 1), linear in x with a slope for each level."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(9))

    def forward(self, x, t):
        return self.slope[(8 * t).round().long()][:, None] * x


def test_it_learns_where_the_path_ends():
    """Data N(0, 0.6^2): the end of the path through (x, t) is x times 0.6 over the width of x_t, at
    every level.
    """
    mixture = data.GaussianMixture([[0.0]], 0.6)
    torch.manual_seed(0)
    D = Consistency(Line(), COSINE, mixture.denoiser(COSINE), levels=8, c=1.0)
    optimizer = torch.optim.Adam(D.parameters(), lr=0.05)
    for k in range(600):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - k / 600)
        optimizer.zero_grad()
        D.loss(0.6 * torch.randn(256, 1), D.time_sampler(torch.rand(256))).mean().backward()
        optimizer.step()
    t = torch.arange(1, 9) / 8
    reached = D(torch.ones(8, 1), t)[:, 0].detach()
    width = ((COSINE.alpha(t) * 0.6) ** 2 + COSINE.sigma(t) ** 2).sqrt()
    ends = torch.ones(8, 1, dtype=torch.float64)
    for k in range(8, 0, -1):                   # the guide's own path of ddim steps, level by level
        at = COSINE.alpha(t) * 0.36 / width**2  # the exact guess is at * x
        a_t, s_t, a_s, s_s = (
            f(torch.tensor(level / 8)) for level in (k, k - 1) for f in (COSINE.alpha, COSINE.sigma)
        )
        ends[k - 1:] *= a_s * at[k - 1] + s_s * (1 - a_t * at[k - 1]) / s_t
    torch.testing.assert_close(reached.double(), ends[:, 0], rtol=0.03, atol=0.01)


def test_the_guide_is_not_trained_saved_or_counted():
    guide = torch.nn.Linear(1, 1)
    D = Consistency(Line(), COSINE, lambda x, t: guide(x), levels=8)
    direct = Consistency(Line(), COSINE, guide, levels=8)
    assert (
        [n for n, _ in D.named_parameters()]
        == [n for n, _ in direct.named_parameters()]
        == ["net.slope"]
    )
    assert list(D.state_dict()) == ["net.slope"] and copy.deepcopy(D).levels == 8


def test_levels_and_errors():
    D = Consistency(Line(), COSINE, None, levels=4)
    assert (
        D.time_sampler(torch.tensor([1e-6, 0.25, 0.26, 0.75, 0.9, 1.0])).tolist()
        == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    )
    with pytest.raises(ValueError, match="any named target but x0"):
        Consistency(Line(), COSINE, None, target="x0")
    with pytest.raises(ValueError, match="levels must be a whole number, at least 1"):
        Consistency(Line(), COSINE, None, levels=0)


def test_without_a_guide_pairs_share_their_noise():
    D = Consistency(Line(), COSINE, None, levels=8, c=1e-9)
    with torch.no_grad():
        D.net.slope.uniform_(0.2, 0.8)
    x0, eps, t = torch.randn(2, 50, 1).unbind() + (torch.full((50,), 0.5),)
    r = t - 0.125
    by_hand = (
        (D(COSINE.perturb(x0, t, eps), t) - D(COSINE.perturb(x0, r, eps), r)).abs()[:, 0]
        / COSINE.sigma(0.5)
    )
    torch.testing.assert_close(D.loss(x0, t, eps), by_hand.float(), rtol=1e-4, atol=1e-6)


def test_gradients_flow_through_the_noisy_guess_alone():
    D = Consistency(Line(), COSINE, lambda x, t: 0.5 * x, levels=8)
    D.loss(torch.randn(20, 1), torch.full((20,), 0.5)).mean().backward()
    assert D.net.slope.grad.nonzero().flatten().tolist() == [4]


def test_the_same_loop_trains_it_under_autocast(monkeypatch):
    """In half precision too the pass without gradients must not spoil the pass with them."""
    monkeypatch.setenv("COURSE_PRECISION", "bfloat16")
    teacher = train.load("mnist_small", device="cpu")
    D = Consistency(
        copy.deepcopy(teacher.net).requires_grad_(True), teacher.schedule, clip(teacher)
    )
    before = [p.clone() for p in D.parameters()]
    x, y = (part[:64] for part in data.mnist("test"))
    train.train(D, (x, y), steps=2, batch_size=32, device="cpu")
    moved = [not torch.equal(a, b) for a, b in zip(before, D.parameters())]
    assert sum(moved) > 0.9 * len(moved)


def test_the_shipped_two_step_digits():
    """As good in two evaluations as the card says, and the card says: at most 1.5 times the
    teacher's distance in eighteen.
    """
    D = train.load("mnist_consistency", device="cpu")
    rows = {(r["model"], r["sampler"], r["evaluations"]): r for r in D.about["metrics"]["samples"]}
    assert (
        rows["student", "consistency", 2]["frechet_distance"]
        < 1.5 * rows["teacher", "ddim", 18]["frechet_distance"]
    )
    assert D.about["steps"] * 5 / 3 <= 5000 / 4, (
        "each step costs a pass with gradients (3 units) and two without: 5 units against "
        "the teacher's 3"
    )
    y = torch.arange(200) % 10
    x = D.schedule.sample_prior((200, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    x = last(
        consistency_sampling(
            clip(D),
            D.schedule,
            x,
            timesteps(D.schedule, 2),
            generator=torch.Generator().manual_seed(1),
            y=y,
        )
    )
    assert metrics.class_agreement(x, y) >= rows["student", "consistency", 2]["agreement"] - 0.05
    real = features.digit_features(data.mnist("test")[0][::4])
    assert metrics.frechet_distance(features.digit_features(x), real) < 4


class Knows(torch.nn.Module):
    """Answers v of the x0 and eps that it was told."""

    def __init__(self, schedule, x0, eps):
        super().__init__()
        self.schedule = schedule
        self.x0 = x0
        self.eps = eps

    def forward(self, x, t):
        alpha, sigma = (c[:, None].to(x) for c in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return alpha * self.eps - sigma * self.x0


def test_the_loss_of_a_perfect_prediction_is_zero():
    """Pseudo-Huber begins at 0, and grows like c^-1 e^2 / 2 at first."""
    schedule, x0, eps = Schedule.cosine(), torch.randn(6, 2), torch.randn(6, 2)
    D = Consistency(Knows(schedule, x0, eps), schedule, None, levels=4, c=0.1)
    assert D.loss(x0, torch.full((6,), 0.25), eps).abs().max() < 1e-6
    D.net.eps = eps + 0.001
    error = (D.schedule.alpha(0.25) * 0.001) ** 2
    wanted = (error + 0.01) ** 0.5 - 0.1
    assert D.loss(x0, torch.full((6,), 0.25), eps).mean() == pytest.approx(wanted.item(), rel=0.05)
