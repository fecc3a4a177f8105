"""The formulas of lesson 6, part III: text, video, sound, shapes, actions."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib import Schedule
from course_lib.discrete import mask_tokens, masked_nll
from course_lib.distillation import score_distillation, shadow
from course_lib.lab import policies, small_sets, sounds
from course_lib.lab.data.percussion import augment, drums
from course_lib.networks.actions import MixtureNet
from course_lib.networks.points import PointTransformer
from course_lib.video import after

M, L = 3, 3                                                             # the mask's id; places
FLOW = Schedule.flow()
close = torch.testing.assert_close


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def masks(length=L):
    """Every set of masked places, (2^length, length) bool."""
    return torch.tensor(list(itertools.product([False, True], repeat=length)))


def probability(masked, t):
    """(6.36) of each set of masked places: (S,)"""
    return torch.where(masked, t, 1 - t).prod(1)


def random_table(seed=0):
    """A made-up p_theta: for each partly masked text some distribution at each place."""
    table = {}

    def log_p(x):
        key = tuple(x.tolist())
        if key not in table:
            g = seeded(hash(key) % 10_000 + seed)
            table[key] = torch.randn(L, M, generator=g, dtype=torch.float64).log_softmax(1)
        return table[key]
    return log_p


def quadrature(f, n=400):
    """The integral of f over [0, 1], by Gauss and Legendre."""
    import numpy as np
    nodes, weights = np.polynomial.legendre.leggauss(min(n, 60))
    return sum(w / 2 * f((1 + u) / 2) for u, w in zip(nodes, weights))


def bound(log_p, x0):
    """The right side of (6.40), by listing all masks."""
    def at(t):
        total = 0.0
        for masked, q in zip(masks(), probability(masks(), torch.tensor(t)).tolist()):
            x = torch.where(masked, M, x0)
            losses = -log_p(x).gather(1, x0[:, None])[:, 0]
            total += q / t * losses[masked].sum().item()
        return total
    return quadrature(at)


def test_eq_6_36():
    x0 = torch.arange(3).repeat(60_000, 1)
    x = mask_tokens(x0, 0.3, M, seeded(0))
    found = (x == M).double()
    assert ((x == M) | (x == x0)).all()
    shares = torch.stack([(found.bool() == m).all(1).double().mean() for m in masks()])
    wanted = probability(masks(), torch.tensor(0.3, dtype=torch.float64))
    assert (shares - wanted).abs().max() < 5 * (0.25 / 60_000) ** 0.5


def test_eq_6_37():
    """The derivative of E phi, for a random function phi of the set of masked places."""
    phi, t, h = torch.randn(8, generator=seeded(1), dtype=torch.float64), 0.4, 1e-5
    mean = lambda t: probability(masks(), torch.tensor(t, dtype=torch.float64)) @ phi
    slope = (mean(t + h) - mean(t - h)) / (2 * h)
    generator = torch.zeros(8, dtype=torch.float64)
    for k, masked in enumerate(masks()):
        for i in range(L):
            if not masked[i]:
                jumped = masked.clone()
                jumped[i] = True
                other = (masks() == jumped).all(1).nonzero().item()
                generator[k] += (phi[other] - phi[k]) / (1 - t)
    close(slope, probability(masks(), torch.tensor(t, dtype=torch.float64)) @ generator,
          rtol=1e-6, atol=1e-8)


def test_eq_6_38():
    """By Bayes' rule: masked by s with probability s, between s and t with (t - s) / (1 - s)."""
    s, t = 0.3, 0.7
    masked_at_s, masked_later = s, (1 - s) * (t - s) / (1 - s)
    assert masked_at_s + masked_later == pytest.approx(t)               # (6.36) at t
    assert masked_at_s / t == pytest.approx(s / t)
    assert masked_later / t == pytest.approx((t - s) / t)
    x0 = torch.zeros(200_000, 1, dtype=torch.int64)
    u = torch.rand(200_000, generator=seeded(0))
    at_s, at_t = (u < s), (u < t)                                       # one path, both times
    assert at_s[at_t].double().mean() == pytest.approx(s / t, abs=5e-3)
    assert x0[at_t & ~at_s].numel() / at_t.sum() == pytest.approx((t - s) / t, abs=5e-3)


def test_eq_6_39():
    s, t, p = 0.3, 0.7, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    q = torch.tensor([0, (t - s) / t, 0, s / t], dtype=torch.float64)   # the true token is 1
    model = torch.cat([(t - s) / t * p, torch.tensor([s / t])])
    kl = torch.special.xlogy(q, q / model).sum()
    assert kl.item() == pytest.approx(-(t - s) / t * math.log(0.5))


def test_eq_6_40():
    """It bounds -log p of the reverse process: with small steps, each state listed."""
    log_p, x0 = random_table(), torch.tensor([2, 0, 1])
    steps = 400
    state = {(M, M, M): 1.0}                                            # p(x_t), t falling
    for k in range(steps, 0, -1):
        t, s = k / steps, (k - 1) / steps
        after_step = {}
        for x, p in state.items():
            logs = log_p(torch.tensor(x))
            ways = [[(M, s / t), (x0[i].item(), (t - s) / t * logs[i, x0[i]].exp().item())]
                    if x[i] == M else [(x[i], 1.0)] for i in range(L)]
            for choice in itertools.product(*ways):
                y = tuple(value for value, _ in choice)
                after_step[y] = after_step.get(y, 0.0) + p * math.prod(q for _, q in choice)
        state = after_step
    exact = -math.log(state[tuple(x0.tolist())])
    assert exact < bound(log_p, x0) < exact + 3
    # one draw of t and the masks, as it is trained: the mean is the bound
    n = 20_000
    t = (torch.arange(n) + torch.rand(n, generator=seeded(0), dtype=torch.float64)) / n
    x = mask_tokens(x0.expand(n, -1), t, M, seeded(1))
    rows, which = x.unique(dim=0, return_inverse=True)
    logits = torch.stack([log_p(row) for row in rows])[which]
    logits = F.pad(logits, (0, 1))                                      # the mask's own
    estimates = masked_nll(logits, x0.expand(n, -1), x, t, M).double()
    error = estimates.std().item() / n**0.5
    assert abs(estimates.mean().item() - bound(log_p, x0)) < 4 * error


def test_eq_6_41():
    for length in (3, 6):
        for k in range(1, length + 1):
            integral = quadrature(lambda t: t ** (k - 1) * (1 - t) ** (length - k))
            beta = math.factorial(k - 1) * math.factorial(length - k) / math.factorial(length)
            assert integral == pytest.approx(beta)
            assert math.comb(length, k) * beta == pytest.approx(1 / k)


def test_eq_6_42():
    log_p, x0 = random_table(), torch.tensor([2, 0, 1])
    losses = []
    for order in itertools.permutations(range(L)):
        x, total = torch.full((L,), M), 0.0
        for i in order:
            total -= log_p(x)[i, x0[i]].item()
            x = x.clone()
            x[i] = x0[i]
        losses.append(total)
    assert max(losses) - min(losses) > 0.5                              # the orders differ
    assert bound(log_p, x0) == pytest.approx(sum(losses) / 6)


def test_eq_6_43():
    g = seeded(0)
    p, q = (torch.rand(6, generator=g).double().add(0.1) for _ in range(2))
    p, q = p / p.sum(), q / q.sum()
    excess = -(p * q.log()).sum() + (p * p.log()).sum()
    close(excess, F.kl_div(q.log(), p, reduction="sum"))
    assert excess > 0.01 and -(p * p.log()).sum() + (p * p.log()).sum() == 0


def test_eq_6_44():
    joint = torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=torch.float64)  # New York, San Francisco
    for p in (joint, torch.rand(3, 4, generator=seeded(0)).double()):
        p = p / p.sum()
        a, b = p.sum(1), p.sum(0)
        kl = torch.special.xlogy(p, p / (a[:, None] * b)).sum()
        entropy = lambda p: -torch.special.xlogy(p, p).sum()
        close(kl, entropy(a) + entropy(b) - entropy(p))
    assert torch.special.xlogy(joint, joint / 0.25).sum().item() == pytest.approx(math.log(2))


def test_eq_6_45():
    x0, t = torch.full((50_000, 3, 2), 0.7), torch.tensor([0.1, 0.5, 0.9]).expand(50_000, -1)
    x = FLOW.perturb(x0, t, torch.randn(x0.shape, generator=seeded(0)))
    mean, std = x.mean((0, 2)), x.std((0, 2))
    close(mean, 0.7 * (1 - t[0]), rtol=0, atol=0.02)
    close(std, t[0], rtol=0.02, atol=0)


def test_eq_6_46():
    """Two frames of correlation 0.8: the exact denoiser given the first one, known."""
    rho = 0.8
    covariance = torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)

    def D(x, t):                                            # x (B, 2, 1), t (B, 2): E[x0 | x_t]
        alpha, sigma = FLOW.alpha(t[0]), FLOW.sigma(t[0])
        A = alpha.diag()
        gain = covariance @ A @ torch.linalg.inv(A @ covariance @ A + (sigma**2 + 1e-12).diag())
        return x @ gain.T if x.ndim == 2 else torch.einsum("ij,bjk->bik", gain, x)
    known = torch.tensor([[[1.3]]], dtype=torch.float64)
    x, t = torch.tensor([[[0.4]]], dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    found = after(D, FLOW, known)(x, t)
    mean, variance = rho * 1.3, 1 - rho**2                  # of the second, given the first
    alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
    gain = variance * alpha / (alpha**2 * variance + sigma**2)
    close(found, mean + gain * (x - alpha * mean), rtol=1e-6, atol=1e-6)


def test_eq_6_47():
    train, held_out = drums("train").x[:6], drums("test").x[:3]
    samples = augment(train, 4, seed=3)[0]
    def nearest(x):
        return torch.stack([sounds.nearest_distance(x, one[None])[0] for one in train]).amin(0)
    wanted = nearest(samples) / nearest(held_out).median()
    close(sounds.nearest_training_ratio(samples, train, held_out), wanted)


def test_eq_6_48():
    density = torch.rand(2, 3, 4, 5, generator=seeded(0), dtype=torch.float64)
    front, side = density.permute(0, 2, 3, 1), density.permute(0, 2, 1, 3)
    for name, rays in (("front", front), ("side", side)):
        light = torch.ones(rays.shape[:3], dtype=torch.float64)
        for k in range(rays.shape[3]):
            light = light * (1 - rays[..., k])
        close((shadow(density, name)[:, 0] + 1) / 2, 1 - light)


def test_eq_6_49():
    """The chain rule to a parameter, the network's own derivative left out."""
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    base = torch.randn(1, 6, generator=seeded(0), dtype=torch.float64)
    eps = torch.randn(1, 6, generator=seeded(1), dtype=torch.float64)
    D, t = lambda x, t: (0.5 * x).sin(), torch.tensor(0.4, dtype=torch.float64)
    x = theta * base
    score_distillation(D, FLOW, x, t, eps).sum().backward()
    x_t = FLOW.perturb(x.detach(), t, eps)
    eps_hat = (x_t - FLOW.alpha(t) * D(x_t, t)) / FLOW.sigma(t)
    close(theta.grad, (FLOW.sigma(t) ** 2 * (eps_hat - eps) * base).sum())


def test_eq_6_50():
    g, t = seeded(0), torch.tensor(0.4, dtype=torch.float64)
    x, eps, x0_hat = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(3))
    alpha, sigma = FLOW.alpha(t), FLOW.sigma(t)
    eps_hat = (alpha * x + sigma * eps - alpha * x0_hat) / sigma
    close(eps_hat - eps, alpha / sigma * (x - x0_hat))


def test_eq_6_51():
    torch.manual_seed(0)
    net = PointTransformer(dim=16, depth=2, num_heads=2).double()
    for p in net.parameters():                                          # it begins at 0
        p.data += 0.1 * torch.randn_like(p)
    x, t = torch.randn(2, 9, 3, dtype=torch.float64), torch.tensor([0.2, 0.7]).double()
    order = torch.randperm(9, generator=seeded(0))
    close(net(x[:, order], t), net(x, t)[:, order], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(net(x[:, order], t), net(x, t))


def test_eq_6_52():
    g = seeded(0)
    a, b = (torch.randn(2, n, 3, generator=g, dtype=torch.float64) for n in (5, 7))
    d = torch.cdist(a[0], b[1]).square()
    close(small_sets.chamfer(a, b)[0, 1], d.amin(1).mean() + d.amin(0).mean())


def test_eq_6_53():
    """Left or right with equal probability: the best single answer goes straight ahead."""
    a = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    guesses = torch.linspace(-1, 1, 201)
    errors = (guesses[:, None] - a).square().mean(1)
    assert guesses[errors.argmin()].abs() < 1e-6 and errors.min() == pytest.approx(1.0)


def test_eq_6_54():
    torch.manual_seed(0)
    model = policies.MixtureDensity(MixtureNet(2, 3, components=4, width=8, depth=1))
    o, a = torch.randn(5, 2), torch.randn(5, 3, 2)
    logits, means, scales = model.net(o)
    normals = torch.distributions.Normal(means, F.softplus(scales) + policies.MIN_STD)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits), torch.distributions.Independent(normals, 2)
    )
    close(model.log_prob(a, o), mixture.log_prob(a))
