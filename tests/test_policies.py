"""Policies: the networks, the rivals' losses against torch.distributions, and what each draws."""
import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from course_lib import Denoiser, Schedule
from course_lib.lab import train
from course_lib.lab.evaluation.policies import MixtureDensity, Regression, diffusion_policy
from course_lib.networks.actions import ActionBlock, ActionNet, MixtureNet, RegressionNet
from course_lib.samplers import ancestral, ddim, dpmpp

K, A, O = 3, 2, 4
seeded = lambda seed: torch.Generator().manual_seed(seed)
X = torch.randn(5, K, A, generator=seeded(0))
SEEN = torch.randn(5, O, generator=seeded(1))
T = torch.linspace(0.1, 0.9, 5)


def awake(net: nn.Module, size: float = 0.2) -> nn.Module:
    """All weights random: layers of zero would hide everything behind them."""
    g = seeded(0)
    for p in net.parameters():
        p.data += size * torch.randn(p.shape, generator=g)
    return net


class Fixed(nn.Module):
    """The same logits, means and standard deviations for every observation."""

    def __init__(self, logits, means, stds):
        super().__init__()
        scales = (torch.as_tensor(stds) - 0.01).expm1().log()           # softplus's inverse
        self.parts = torch.as_tensor(logits), torch.as_tensor(means), scales

    def forward(self, observation):
        return tuple(part.expand(len(observation), *part.shape) for part in self.parts)


# ---- networks

@pytest.mark.parametrize("net, shapes", [
    (ActionNet(O, K, A), (K, A)),
    (RegressionNet(O, K, A), (K, A)),
    (MixtureNet(O, K, A, components=7), ((7,), (7, K, A), (7, K, A))),
    (ActionNet(1, 1, 5, width=8, depth=1), None),
    (RegressionNet(O, K, 5, width=8, depth=1), (K, 5)),
])
def test_shapes_and_what_a_config_rebuilds(net, shapes):
    again = type(net)(**net.config)
    again.load_state_dict(net.state_dict())
    if shapes is None:
        return
    given = (X, T, SEEN) if isinstance(net, ActionNet) else (SEEN,)
    found, same = net(*given), again(*given)
    found, same = (v if isinstance(v, tuple) else (v,) for v in (found, same))
    shapes = shapes if isinstance(shapes[0], tuple) else (shapes,)
    assert [tuple(v.shape) for v in found] == [(5, *shape) for shape in shapes]
    assert all(torch.equal(a, b) for a, b in zip(found, same))


def test_a_block_by_hand():
    block = awake(ActionBlock(6))
    h, emb = torch.randn(2, 4, 6, generator=seeded(2))
    scale, shift = block.emb(emb)[:, :6], block.emb(emb)[:, 6:]
    normal = (h - h.mean(1, True)) / (h.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    first, _, second = block.mlp
    hidden = nn.functional.silu(first(normal * (1 + scale) + shift))
    torch.testing.assert_close(block(h, emb), h + second(hidden))
    assert torch.equal(ActionBlock(6)(h, emb), h)           # begins as the identity


def test_the_action_network_uses_all_it_is_given():
    assert (ActionNet(O, K, A)(X, T, SEEN) == 0).all()
    net = awake(ActionNet(O, K, A))
    y = net(X, T, SEEN)
    for other in ((X.flip(1), T, SEEN), (X.flip(2), T, SEEN), (X, T.flip(0), SEEN)):
        assert not torch.allclose(net(*other), y, atol=1e-3)
    for column in range(O):
        moved = SEEN + torch.eye(O)[column]
        assert (net(X, T, moved) - y).abs().amax((1, 2)).min() > 1e-3
    torch.testing.assert_close(net(X[2:3], T[2:3], SEEN[2:3]), y[2:3], rtol=1e-4, atol=1e-4)
    y.square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_depth_counts_hidden_layers():
    for depth in (1, 2, 4):
        for net in (RegressionNet(O, K, depth=depth), MixtureNet(O, K, depth=depth)):
            assert sum(isinstance(layer, nn.SiLU) for layer in net.mlp) == depth
        assert len(ActionNet(O, K, depth=depth).blocks) == depth


# ---- the rivals' losses

def test_the_mixture_s_density_is_torch_s():
    model = MixtureDensity(awake(MixtureNet(O, K, A, components=4), 0.05))
    logits, means, scales = model.net(SEEN)
    stds = nn.functional.softplus(scales) + 0.01
    parts = Independent(Normal(means, stds), 2)
    other = MixtureSameFamily(Categorical(logits=logits), parts)
    torch.testing.assert_close(model.log_prob(X, SEEN), other.log_prob(X))
    torch.testing.assert_close(model.loss(X, SEEN), -other.log_prob(X) / (K * A))
    assert len(logits.softmax(1).unique()) > 4 and stds.std() > 0.01        # all differ


def test_far_away_the_density_is_still_a_number():
    """Each component's density is 0 in float32 there; the largest one's logarithm is exact."""
    model = MixtureDensity(Fixed([0.0, math.log(3)], torch.tensor([[[0.0]], [[50.0]]]),
                                 torch.tensor([[[1.0]], [[1.0]]])))
    x0 = torch.tensor([[[-1000.0]], [[1050.0]], [[0.0]]])
    found = model.log_prob(x0, SEEN[:3])
    normal = -math.log(2 * math.pi) / 2
    wanted = torch.tensor([-500_000 + math.log(1 / 4), -500_000 + math.log(3 / 4),
                           math.log(1 / 4)]) + normal
    torch.testing.assert_close(found, wanted)
    x0.requires_grad_()
    assert torch.autograd.grad(model.log_prob(x0, SEEN[:3]).sum(), x0)[0].isfinite().all()


def test_a_density_has_mass_one():
    model = MixtureDensity(Fixed([0.3, -1.0, 0.8], torch.tensor([-1.0, 0.2, 2.0]).view(3, 1, 1),
                                 torch.tensor([0.3, 0.05, 1.0]).view(3, 1, 1)))
    grid = torch.linspace(-12, 12, 20_001)
    p = model.log_prob(grid.view(-1, 1, 1), torch.zeros(len(grid), O)).exp()
    assert torch.trapezoid(p, grid).item() == pytest.approx(1, abs=1e-4)


def test_regression_s_loss_is_each_chunk_s_mean_square():
    model = Regression(awake(RegressionNet(O, K, A)))
    found = model.loss(X, SEEN)
    for k in range(5):
        wanted = sum((model.net(SEEN)[k, i, j] - X[k, i, j]) ** 2
                     for i in range(K) for j in range(A)) / (K * A)
        torch.testing.assert_close(found[k], wanted)


def test_an_observation_may_be_an_array():
    for model in (Regression(RegressionNet(O, K, A)), MixtureDensity(MixtureNet(O, K, A))):
        x = model.sample(SEEN.numpy(), seeded(0))
        assert torch.equal(x, model.sample(SEEN, seeded(0))) and x.dtype == torch.float32
    assert torch.equal(model(SEEN)[1], model.net(SEEN)[1])


# ---- what they draw

def test_the_mixture_draws_from_its_density():
    """Weights, means and deviations; and a whole chunk comes from one component."""
    n, weights = 40_000, torch.tensor([0.2, 0.5, 0.3])
    means = torch.tensor([-9.0, 0.0, 9.0])[:, None, None] + torch.arange(6).view(K, A) / 10
    stds = torch.tensor([0.1, 0.3, 0.5])[:, None, None] * (1 + torch.arange(6).view(K, A) / 5)
    model = MixtureDensity(Fixed(weights.log(), means, stds))
    x = model.sample(torch.zeros(n, O), seeded(3))
    assert torch.equal(x, model.sample(torch.zeros(n, O), seeded(3)))
    assert not torch.equal(x, model.sample(torch.zeros(n, O), seeded(4)))
    chosen = ((x > -4).long() + (x > 4).long()).flatten(1)
    assert (chosen == chosen[:, :1]).all()
    for m in range(3):
        rows = x[chosen[:, 0] == m]
        p = weights[m].item()
        assert abs(len(rows) / n - p) < 4 * (p * (1 - p) / n) ** 0.5
        error = (rows.mean(0) - means[m]) / stds[m] * len(rows) ** 0.5
        assert error.abs().max() < 4.5
        spread = rows.std(0) / stds[m] - 1
        assert spread.abs().max() < 4.5 / (2 * len(rows)) ** 0.5
    correlation = torch.corrcoef(((x - means[1]) / stds[1])[chosen[:, 0] == 1].flatten(1).T)
    assert (correlation - torch.eye(6)).abs().max() < 4.5 / (0.5 * n) ** 0.5


class Gaussian(nn.Module):
    """The exact x0-prediction for chunks N(mean(observation), 0.2^2) under a schedule."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    @staticmethod
    def mean(observation):
        return torch.stack([observation[:, :2], observation[:, 2:], -observation[:, :2]], dim=1)

    def forward(self, x, t, observation):
        alpha, sigma = (f(t).float()[:, None, None] for f in (self.schedule.alpha,
                                                              self.schedule.sigma))
        mean, variance = self.mean(observation), 0.2**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return mean + gain * (x - alpha * mean)


@pytest.mark.parametrize("sampler", [ddim, ancestral, dpmpp])
def test_a_diffusion_policy_draws_what_its_denoiser_knows(sampler):
    D = Denoiser(Gaussian(Schedule.cosine()), Schedule.cosine(), "x0")
    D.data_shape, n = (K, A), 4000
    policy = diffusion_policy(D, D.schedule, 60, sampler)
    seen = SEEN[:2].repeat_interleave(n, 0)
    x = policy(seen, seeded(5))
    assert x.shape == (2 * n, K, A) and torch.equal(x, policy(seen, seeded(5)))
    for rows, mean in zip(x.split(n), Gaussian.mean(SEEN[:2])):
        assert (rows.mean(0) - mean).abs().max() < 4.5 * 0.2 / n**0.5 + 0.005
        assert (rows.std(0) / 0.2 - 1).abs().max() < 0.15   # 60 steps: ancestral is too narrow


def test_what_the_sampler_is_given():
    D = Denoiser(Gaussian(Schedule.cosine()), Schedule.cosine(), "x0")
    D.data_shape, calls = (K, A), []

    def sampler(*given, **named):
        calls.append((*given, named))
        return iter([torch.zeros(5, K, A), given[2]])
    policy = diffusion_policy(D, D.schedule, 4, sampler)
    g = seeded(6)
    x = policy(SEEN, g)
    (denoiser, schedule, start, ts, named), = calls
    assert denoiser is D and schedule is D.schedule and torch.equal(x, start)
    assert ts.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert torch.equal(start, torch.randn(5, K, A, generator=seeded(6)))
    assert torch.equal(named["observation"], SEEN) and named["generator"] is g


def two_ways(n: int) -> dict[str, torch.Tensor]:
    """Chunks near 1 or near -1, by a coin, whatever is seen."""
    way = 2 * torch.randint(2, (n, 1, 1), generator=seeded(7)) - 1.0
    noise = 0.1 * torch.randn(n, K, A, generator=seeded(8))
    return {"x0": way + noise, "observation": torch.zeros(n, O)}


def test_two_ways_have_a_mean_that_is_none(runs):
    """Regression learns 0, the mixture both ways: each trained by the one loop."""
    torch.manual_seed(0)
    regression = Regression(RegressionNet(O, K, A, width=16, depth=1))
    mixture = MixtureDensity(MixtureNet(O, K, A, components=3, width=16, depth=1))
    for model in (regression, mixture):
        trained = train.train(model, two_ways(512), steps=100, batch_size=64, lr=3e-2)
        x = trained.sample(torch.zeros(400, O), seeded(9)).flatten(1)
        if model is regression:
            assert x.abs().max() < 0.2
    assert ((x.abs() - 1).abs() < 0.5).double().mean() > 0.98
    assert (x.sign() == x.sign()[:, :1]).all(1).double().mean() > 0.98
    assert 0.4 < (x[:, 0] > 0).double().mean() < 0.6


class TwoWays(nn.Module):
    """The exact x0-prediction for chunks that are all 1 or all -1, by a coin."""

    def forward(self, x, t, observation):
        schedule = Schedule.cosine()
        ratio = (schedule.alpha(t) / schedule.sigma(t) ** 2).float()
        return torch.tanh(ratio * x.sum((1, 2)))[:, None, None].expand_as(x)


def test_a_diffusion_policy_goes_both_ways():
    D = Denoiser(TwoWays(), Schedule.cosine(), "x0")
    D.data_shape = (K, A)
    x = diffusion_policy(D, D.schedule, 20)(torch.zeros(2000, O), seeded(9)).flatten(1)
    assert ((x.abs() - 1).abs() < 0.05).double().mean() > 0.99
    assert (x.sign() == x.sign()[:, :1]).all()
    assert abs((x[:, 0] > 0).double().mean() - 0.5) < 4 * (0.25 / 2000) ** 0.5


def test_a_denoiser_of_chunks_trains(runs):
    torch.manual_seed(0)
    D = Denoiser(ActionNet(O, K, A, width=16, depth=1), Schedule.cosine(), "edm")
    D = train.train(D, two_ways(64), steps=100, batch_size=32, lr=1e-2)
    assert D.data_shape == (K, A) and D.history[-1][1] < 0.9 * D.history[0][1]
    x = diffusion_policy(D, D.schedule, 5)(torch.zeros(7, O), seeded(1))
    assert x.shape == (7, K, A) and not x.requires_grad


# ---- bad input

def untrained(shape=None):
    D = Denoiser(ActionNet(O, K), Schedule.cosine())
    D.data_shape = shape
    return D


@pytest.mark.parametrize("call, said", [
    (lambda: ActionNet(O, 0), "chunk must be a whole number, at least 1; got 0"),
    (lambda: RegressionNet(0, K), "observation_size must be"),
    (lambda: MixtureNet(O, K, components=0), "components must be"),
    (lambda: RegressionNet(O, K, depth=0), "depth must be"),
    (lambda: ActionNet(O, K)(X[:, :2], T, SEEN), r"takes chunks \(B, 3, 2\); got \(5, 2, 2\)"),
    (lambda: ActionNet(O, K)(X, T[:2], SEEN), r"one real number per chunk, \(5,\); got \(2,\)"),
    (lambda: ActionNet(O, K)(X, T, SEEN[:2]), r"takes an observation \(5, 4\); got \(2, 4\)"),
    (lambda: RegressionNet(O, K)(SEEN[:, :3]), r"an observation \(B, 4\); got \(5, 3\)"),
    (lambda: MixtureNet(O, K)(SEEN[:, :3]), r"an observation \(B, 4\); got \(5, 3\)"),
    (lambda: Regression(None), "net must be a function observation"),
    (lambda: MixtureDensity(RegressionNet), "net must be a function observation"),
    (lambda: Regression(RegressionNet(O, K)).loss(X[:, :2], SEEN), r"x0 must have the shape \(5, "),
    (lambda: MixtureDensity(MixtureNet(O, K)).loss(X[0], SEEN), r"x0 must have the shape \(5, 3"),
    (lambda: Regression(RegressionNet(O, K)).sample(None), "observation must be a tensor"),
    (lambda: MixtureDensity(MixtureNet(O, K)).sample(SEEN[0]), "observation must be a batch"),
    (lambda: MixtureDensity(RegressionNet(O, K)).loss(X, SEEN), "as a MixtureNet does"),
    (lambda: MixtureDensity(RegressionNet(O, K)).loss(X[:3], SEEN[:3]), "as a MixtureNet does"),
    (lambda: MixtureDensity(MixtureNet(O, K)).sample(SEEN, 0), "generator must be"),
    (lambda: diffusion_policy(untrained(), Schedule.cosine()), "the shape of its chunks"),
    (lambda: diffusion_policy(untrained((K, A)), Schedule.flow()), "D has the schedule"),
    (lambda: diffusion_policy(untrained((K, A)), Schedule.cosine(), 0), "n must be a whole number"),
    (lambda: diffusion_policy(untrained((K, A)), Schedule.cosine(), 5, None), "sampler must be"),
    (lambda: diffusion_policy(None, Schedule.cosine()), "D must be a function"),
])
def test_bad_input_is_said(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()
