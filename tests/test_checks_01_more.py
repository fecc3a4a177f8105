"""Lesson 1's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import math

import numpy as np
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_01 import RIGHT as RIGHT_ANSWERS
from test_checks_01 import back, best, on_x, on_x0, root, sampling, shaped, sigmoid, tilde, trainer

from course_lib import Schedule

STEP_BACK_RIGHT = RIGHT_ANSWERS["1.6"]


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


def one_noise_for_all_channels(x0):
    return torch.randn_like(x0) if x0.ndim == 2 else torch.randn_like(x0[:, :1]).expand_as(x0)


def loss_of(table):
    """The loss, with x_t made by table(alpha_bar)."""
    def training_loss(net, x0, alpha_bar):
        return trainer()(net, x0, table(alpha_bar))
    return training_loss


def compares_with_v(net, x0, alpha_bar):
    i = torch.randint(len(alpha_bar), (len(x0),))
    a = shaped(alpha_bar[i], x0)
    eps = torch.randn_like(x0)
    v = root(a) * eps - root(1 - a) * x0
    x = root(a) * x0 + root(1 - a) * eps
    return (net(x, (i + 1) / len(alpha_bar)) - v).square().mean()


# ---- 1.2, 1.6 and 1.8

def jump_in_place(s, t):
    t /= s
    return root(t), 1 - t


def step_back_drawn(x0, x, a_t, a_s):
    mean, variance = STEP_BACK_RIGHT(x0, x, a_t, a_s)
    return mean + root(variance) * torch.randn_like(x), variance


def step_back_in_place(x0, x, a_t, a_s):
    mean, variance = STEP_BACK_RIGHT(x0, x, a_t, a_s)
    return x.copy_(mean), variance


def score_in_place(x0, x, a):
    x0 *= root(a)
    return (x0 - x) / (1 - a)


# ---- 1.9

def for_points_only(net, x, zs, betas):
    """The variance as a column, which fits points alone."""
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        column = torch.full((len(x), 1), float(betas[i]), dtype=x.dtype)
        before = a[i - 1] if i else torch.ones(()).double()
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        mean = (x - column / root(1 - a[i]) * eps_hat) / root(1 - betas[i])
        x = mean + root(column * (1 - before) / (1 - a[i])) * zs[i]
    return x


def step_back(x0, x, a_t, a_s):
    raise NotImplementedError


def calls_step_back(net, x, zs, betas):                                         # F4
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        before = a[i - 1] if i else torch.ones(())
        mean, variance = step_back(x, x, a[i], before)
        x = mean + variance.sqrt() * zs[i]
    return x


# ---- 1.1

def walks(step):
    """variance_after by a loop of steps v -> step(v, beta)."""
    def variance_after(v, betas):
        for beta in betas:
            v = step(v, beta)
        return v
    return variance_after


def left(change=lambda betas: torch.prod(1 - betas)):
    return lambda v, betas: 1 + (v - 1) * change(betas)


# ---- 1.3

def of_the_notebook(x0, i, eps, alpha_bar):                                     # F20
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    return q_sample()(x0, i.clamp(max=999), eps, table)


def q_sample(signal=root, noise=lambda a: root(1 - a)):
    def answer(x0, i, eps, alpha_bar):
        a = shaped(alpha_bar[i], x0)
        return signal(a) * x0 + noise(a) * eps
    return answer


def one_by_one(x0, i, eps, alpha_bar):
    """Right, example by example."""
    return torch.stack([
        alpha_bar[k] ** 0.5 * x + (1 - alpha_bar[k]) ** 0.5 * e for k, x, e in zip(i, x0, eps)
    ])


def in_place(x0, i, eps, alpha_bar):
    a = shaped(alpha_bar[i], x0)
    eps *= root(1 - a)
    return root(a) * x0 + eps


# ---- 1.4

def betas_by_numpy(T):
    """Right, as an array."""
    u = np.arange(T + 1) / T
    g = 1 / (1 + np.exp(6 * u - 3)) - 1 / (1 + np.exp(3))
    return np.minimum(1 - g[1:] / g[:-1], 0.999)


def betas_one_by_one(T):
    """Right, as a list of numbers."""
    g = [1 / (1 + math.exp(6 * k / T - 3)) - 1 / (1 + math.exp(3)) for k in range(T + 1)]
    return [min(1 - later / before, 0.999) for before, later in zip(g, g[1:])]


LIBRARY_SIGMOID = Schedule.sigmoid                          # bound before any check


def betas_from(curve):
    return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)


def sigmoid_g(T):
    """(1.12)'s g at T + 1 times."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    return torch.sigmoid(3 - 6 * u) - 1 / (1 + math.exp(3))


# ---- 1.9

def noise_at_the_end(net, x, zs, betas):
    """Right, but for noise of variance (1.17) for i = 1 in the last step."""
    a = torch.cumprod(1 - betas, 0)
    return eps_form()(net, x, zs, betas) + root(betas[1] * (1 - a[0]) / (1 - a[1])) * zs[0]


def first_level_twice(net, x, zs, betas):
    """(1.17) and (1.18) with alpha_bar[0] before the first step, too."""
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        before = a[max(i - 1, 0)]
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        x0_hat = (x - root(1 - a[i]) * eps_hat) / root(a[i])
        mean = root(1 - betas[i]) * (1 - before) * x + root(before) * betas[i] * x0_hat
        x = mean / (1 - a[i]) + root(betas[i] * (1 - before) / (1 - a[i])) * zs[i]
    return x


def noises_afresh(net, x, zs, betas):
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        before = a[i - 1] if i else torch.ones(()).double()
        x0_hat = (x - root(1 - a[i]) * eps_hat) / root(a[i])
        x = root(before) * x0_hat + root(1 - before) * zs[i]
    return x


def eps_form(
    factor=lambda beta, a: beta / root(1 - a),
    over=root,
    before=lambda a, i: a[i - 1] if i else torch.ones(()).double(),
):
    """sample with the mean in terms of eps_hat."""
    def sample(net, x, zs, betas):
        a = torch.cumprod(1 - betas, 0)
        for i in reversed(range(len(betas))):
            eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
            mean = (x - factor(betas[i], a[i]) * eps_hat) / over(1 - betas[i])
            variance = betas[i] * (1 - before(a, i)) / (1 - a[i])
            x = mean + root(variance) * zs[i]
        return x
    return sample


# ---- 1.10

def total_variance(unknown, power):
    """beta tilde, plus a power of x_0's weight in (1.18) times what is unknown of x_0."""
    def answer(beta, before, v):
        a = before * (1 - beta)
        weight = root(before) * beta / (1 - a)
        return beta * (1 - before) / (1 - a) + power(weight) * unknown(a, v)
    return answer


def by_precision(beta, before, v):
    """Right, by numpy."""
    return np.float64(1) / ((1 - beta) / beta + 1 / (1 + (v - 1) * before)).numpy()


# ---- answers that were once accepted, refused, or refused without a name

def corrupts_alpha_bar(x0, i, eps, alpha_bar):
    alpha_bar.sqrt_()
    signal = shaped(alpha_bar[i], x0)
    return signal * x0 + root(1 - signal**2) * eps


def balanced_steps(T, B):
    return torch.cat([torch.randperm(T) for _ in range(B // T + 1)])[:B]


def antithetic_steps(T, B):
    half = torch.randint(T, (B // 2 + 1,))
    return torch.cat([half, T - 1 - half])[:B]


def neighbouring_steps(T, B):
    half = torch.randint(T, ((B + 1) // 2,))
    return torch.stack([half, T - 1 - half], 1).flatten()[:B]


def repeated_steps(T, B):
    return torch.randint(T, (B // 2 + 1,)).repeat(2)[:B]


def rounded_steps(T, B):
    return (torch.rand(B) * (T - 1)).round().long()


def antithetic_noise(x0):
    half = torch.randn_like(x0[:(len(x0) + 1) // 2])
    return torch.cat([half, -half])[:len(x0)]


def squeezes_the_step(net, x0, alpha_bar):
    """Right for more than one example."""
    i = torch.randint(len(alpha_bar), (len(x0),)).squeeze()
    eps = torch.randn_like(x0)
    a = shaped(alpha_bar[i], x0)
    return (net(root(a) * x0 + root(1 - a) * eps, (i + 1) / len(alpha_bar)) - eps).square().mean()


def noise_before_steps(net, x0, alpha_bar):
    """Right; the noise is the first that is drawn."""
    eps = torch.randn_like(x0)
    i = torch.randint(len(alpha_bar), (len(x0),))
    a = shaped(alpha_bar[i], x0)
    return (net(root(a) * x0 + root(1 - a) * eps, (i + 1) / len(alpha_bar)) - eps).square().mean()


def with_coefficients(signal, noise):
    def training_loss(net, x0, alpha_bar):
        i = torch.randint(len(alpha_bar), (len(x0),))
        a = shaped(alpha_bar[i], x0)
        eps = torch.randn_like(x0)
        x = signal(a) * x0 + noise(a) * eps
        return (net(x, (i + 1) / len(alpha_bar)) - eps).square().mean()
    return training_loss


def one_after_the_other(net, x0, alpha_bar):
    """Right, with a call of the network for each example, in float32."""
    T, errors = len(alpha_bar), []
    for x in x0:
        i = int(torch.randint(T, ()))
        eps = torch.randn_like(x)
        noisy = root(alpha_bar[i]) * x + root(1 - alpha_bar[i]) * eps
        errors.append((net(noisy[None], torch.tensor([(i + 1) / T])) - eps).square().mean())
    return torch.stack(errors).mean()


def by_einsum(net, x0, alpha_bar):
    """Right, with noise in float32."""
    i = torch.randint(len(alpha_bar), (len(x0),))
    eps = torch.randn(x0.shape)
    x = torch.einsum("b,b...->b...", root(1 - alpha_bar[i]), eps)
    x = x + torch.einsum("b,b...->b...", root(alpha_bar[i]), x0)
    return (net(x, (i + 1) / len(alpha_bar)) - eps).square().mean()


def spoils_table(net, x0, alpha_bar):
    loss = trainer()(net, x0, alpha_bar)
    alpha_bar.sqrt_()
    return loss


def without_last_two_noises(net, x, zs, betas):
    return eps_form()(net, x, torch.cat([0 * zs[:2], zs[2:]]), betas)


def spoils_zs(net, x, zs, betas):
    zs[0] = 0
    return eps_form()(net, x, zs, betas)


def by_ddim(net, x, zs, betas):
    a = torch.cat([torch.ones(1).double(), torch.cumprod(1 - betas, 0)])
    for t in range(len(betas), 0, -1):
        eps_hat = net(x, torch.full((len(x),), t / len(betas)))
        x0_hat = (x - root(1 - a[t]) * eps_hat) / root(a[t])
        x = root(a[t - 1]) * x0_hat + root(1 - a[t - 1]) * eps_hat
    return x


def asks_once(net, x, zs, betas):
    eps_hat = net(x, torch.ones(len(x)))
    return eps_form()(lambda x, t: eps_hat, x, zs, betas)


def noises_before(net, x, zs, betas):
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        before = a[i - 1] if i else torch.ones(()).double()
        x = x + root(betas[i] * (1 - before) / (1 - a[i])) * zs[i]
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        x = (x - betas[i] / root(1 - a[i]) * eps_hat) / root(1 - betas[i])
    return x


def with_the_sheets_curve(net, x, zs, betas):
    a = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    for i in reversed(range(len(betas))):
        before = a[i - 1] if i else torch.ones(())
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        x = (x - betas[i] / root(1 - a[i]) * eps_hat) / root(1 - betas[i])
        x = x + root(betas[i] * (1 - before) / (1 - a[i])) * zs[i]
    return x


def in_the_table(a):
    """The entry of the sheet's table whose alpha_bar is nearest to a."""
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)
    return (table - a).abs().argmin(), table


def jump_by_table(s, t):
    (i, table), (k, _) = in_the_table(s), in_the_table(t)
    return root(table[k] / table[i]), 1 - table[k] / table[i]


def step_back_by_table(x0, x, a_t, a_s):
    beta = torch.linspace(1e-4, 0.02, 1000).double()[in_the_table(a_t)[0]]
    mean = root(1 - beta) * (1 - a_s) * x + root(a_s) * beta * x0
    return mean / (1 - a_t), beta * (1 - a_s) / (1 - a_t)


def keeps_x(x0, x, a_t, a_s):
    mean, variance = STEP_BACK_RIGHT(x0, x, a_t, a_s)
    return (x if a_s == 1 else mean), variance


def near_the_data(x0, x, a_t, a_s):
    return (x0, 0.0) if a_s > 0.999 else STEP_BACK_RIGHT(x0, x, a_t, a_s)


def slope_of_log(T):
    s = torch.sigmoid(3 - 6 * (torch.arange(T).double() + 0.5) / T)
    return (6 * s * (1 - s) / (s - 1 / (1 + math.exp(3))) / T).clamp(max=0.999)


def thousandths(T):
    """The curve at whole thousandths alone: right where T divides 1000."""
    times = (torch.arange(T + 1) * 1000 / T).round().long()
    return betas_from(sigmoid_g(1000)[times])


def in_float32(T):
    """Right to three digits."""
    g = torch.sigmoid(3 - 6 * torch.linspace(0, 1, T + 1)) - torch.sigmoid(torch.tensor(-3.0))
    return betas_from(g)


def best_in_place(beta, before, v):
    """Right, and harmless: numbers were promised."""
    v *= before
    v += 1 - before
    return beta * v / ((1 - beta) * v + beta)


def with_mean(change):
    """The right step back, but for its mean."""
    def answer(x0, x, a_t, a_s):
        return change(x0, x, a_t, a_s), STEP_BACK_RIGHT(x0, x, a_t, a_s)[1]
    return answer


WRONG = [
    ("1.1", "which is v - 1, not v", lambda v, betas: 1 + v * torch.prod(1 - betas)),
    ("1.1", "not the 1 - beta^2", left(lambda betas: torch.prod(1 - betas**2))),
    ("1.1", "the last step alone", lambda v, betas: v * torch.prod(1 - betas) + betas[-1]),
    ("1.1", "do not just add up", lambda v, betas: v * torch.prod(1 - betas) + betas.sum()),
    ("1.2", "put no floor under it", lambda s, t: (root(t / s), (1 - t / s).clamp(min=0.001))),
    ("1.2", "nearly right", lambda s, t: (root(t / (s + 0.001)), 1 - t / s)),
    ("1.2", "alpha_bar_s as well", lambda s, t: (root(t) / s, 1 - t / s)),
    ("1.2", "a ratio; you took", lambda s, t: (root(1 - s + t), s - t)),
    ("1.2", "variance of the step back", lambda s, t: (
        root(t / s), (1 - t / s) * (1 - s) / (1 - t))),
    ("1.2", "may be any levels", jump_by_table),
    ("1.2", "must be 0.4, and factor^2 * 0.1", lambda s, t: (root(t / s), (1 - t / s) ** 2)),
    ("1.3", "your function changes alpha_bar itself", corrupts_alpha_bar),
    ("1.3", "x0 of shape (1, 2), comes back as (2,)",
     lambda *inputs: q_sample()(*inputs).squeeze()),
    ("1.3", "at i = 0 your alpha_bar is 1", lambda x0, i, eps, alpha_bar: (
        q_sample()(x0, i, eps, torch.cat([torch.ones(1), alpha_bar])))),
    ("1.3", "the mean of their levels", lambda x0, i, eps, alpha_bar: (
        root(alpha_bar[i].mean()) * x0 + root(1 - alpha_bar[i].mean()) * eps)),
    ("1.3", "but not at [0, 1]", q_sample(noise=lambda a: root((1 - a).clamp(min=0.01)))),
    ("1.4", "your last beta is 0.9900", lambda T: sigmoid(T)[1].clamp(max=0.99)),
    ("1.4", "the ratio without a root", lambda T: betas_from(root(sigmoid_g(T).clamp(min=0)))),
    ("1.4", "the slope of log alpha_bar", slope_of_log),
    ("1.4", "minus the log of the ratio", lambda T: (
        -sigmoid_g(T).clamp(min=1e-300).log().diff()).clamp(max=0.999)),
    ("1.4", "from 6 to -6", lambda T: betas_from(
        torch.sigmoid(6 - 12 * torch.linspace(0, 1, T + 1).double()) - 1 / (1 + math.exp(6)))),
    ("1.4", "is nearly right", lambda T: (
        (1 - sigmoid_g(T)[1:] / (sigmoid_g(T)[:-1] + 1e-4)).clamp(max=0.999))),
    ("1.4", "rescaled", lambda T: (
        sigmoid(1000)[1][1000 // T - 1::1000 // T] * 1000 / T).clamp(max=0.999)),
    ("1.4", "no beta of yours is below 0.0001", lambda T: sigmoid(T)[1].clamp(min=1e-4)),
    ("1.4", "these are not the betas of (1.12)", thousandths),
    ("1.5", "- d alpha_bar_T of (1.14) is missing", 692),
    ("1.5", "digits in [0, 1]", 410),
    ("1.5", "multiplied by 1000 / T", 20),
    ("1.5", "not its logarithm alone", 622),
    ("1.6", "near the data", near_the_data),
    ("1.6", "at s = 0 you return x_t", keeps_x),
    ("1.6", "you clip x_0", with_mean(lambda x0, x, a_t, a_s: (
        STEP_BACK_RIGHT(x0.clamp(-1, 1), x, a_t, a_s)[0]))),
    ("1.6", "beta from the lesson's table", step_back_by_table),
    ("1.6", "has beta; it is 1 - alpha_bar_s", back(
        lambda al, t, s: root(al) * (1 - al), on_x0, tilde)),
    ("1.6", "that of x_0 is wrong", back(on_x, lambda al, t, s: 2 * on_x0(al, t, s), tilde)),
    ("1.6", "no weighted sum", with_mean(lambda *inputs: STEP_BACK_RIGHT(*inputs)[0].tanh())),
    ("1.7", "exactly as often as step T - 1 - i", trainer(step=balanced_steps)),
    ("1.7", "tell those of others", trainer(step=antithetic_steps)),
    ("1.7", "tell those of others", trainer(step=neighbouring_steps)),
    ("1.7", "tell those of others", trainer(step=repeated_steps)),
    ("1.7", "or minus it", trainer(noise=antithetic_noise)),
    ("1.7", "the same chance", trainer(step=rounded_steps)),
    ("1.7", "for one alone", squeezes_the_step),
    ("1.7", "not Gaussian", trainer(noise=lambda x0: 12**0.5 * (torch.rand_like(x0) - 0.5))),
    ("1.7", "not Gaussian", trainer(noise=lambda x0: torch.randn_like(x0).clamp(-2, 2))),
    ("1.7", "another factor than sqrt(alpha_bar)", with_coefficients(
        lambda a: a, lambda a: root(1 - a))),
    ("1.7", "at some steps the noise", with_coefficients(root, lambda a: root(1.01 - a))),
    ("1.7", "changes alpha_bar itself", spoils_table),
    ("1.7", "made with alpha_bar[i + 1]", loss_of(lambda alpha_bar: (
        torch.cat([alpha_bar[1:], alpha_bar[-1:]])))),
    ("1.8", "at alpha_bar = 0.995", lambda x0, x, a: (root(a) * x0 - x) / (1 - a).clamp(min=0.05)),
    ("1.8", "0.909 times the score", lambda x0, x, a: (root(a) * x0 - x) / (1.01 - a)),
    ("1.8", "no factor sqrt(alpha_bar)", lambda x0, x, a: root(a) * (root(a) * x0 - x) / (1 - a)),
    ("1.9", "yours is so at i = 1, too", without_last_two_noises),
    ("1.9", "the zs or the betas it was given", spoils_zs),
    ("1.9", "DDIM's", by_ddim),
    ("1.9", "asked once", asks_once),
    ("1.9", "before the network is asked", noises_before),
    ("1.9", "your alpha_bar is the lesson's", with_the_sheets_curve),
    ("1.9", "uses zs[i - 1]", sampling(z=lambda zs, i: zs[i - 1])),
    ("1.10", "without a root", lambda beta, before, v: (
        best(beta, 1.0, root(before) * v + 1 - before))),
    ("1.10", "not by its square", lambda beta, before, v: (
        (1 + (v - 1) * before)
        - (1 - beta) * ((1 + (v - 1) * before) / (1 + (v - 1) * before * (1 - beta))) ** 2)),
    ("1.10", "has alpha, not alpha^2", lambda beta, before, v: (
        (1 + (v - 1) * before)
        - ((1 - beta) * (1 + (v - 1) * before)) ** 2 / (1 + (v - 1) * before * (1 - beta)))),
    ("1.10", "the inverse is no straight line", lambda beta, before, v: (
        1 / ((1 - v) / best(beta, before, 0) + v / beta))),
    ("1.10", "still to be divided by alpha", lambda beta, before, v: (
        best(beta, before, v) * (1 - beta))),
    ("1.10", "a sign", lambda beta, before, v: (
        beta / (1 - beta) * (1 + beta / (1 + (v - 1) * before * (1 - beta))))),
    ("1.10", "both ends, v = 0 and v = 1, are right, but at v", lambda beta, before, v: (
        best(beta, before, v**3))),
    ("1.10", "v = 0 gives beta tilde, as it must", lambda beta, before, v: (
        best(beta, before, 3 * v))),
    ("1.1", "you multiply the betas", left(lambda betas: torch.prod(betas))),   # F22
    ("1.1", "you multiply the betas", lambda v, betas: v * betas.prod()),
    ("1.1", "that is a standard deviation", lambda v, betas: root(left()(v, betas))),     # F23
    ("1.1", "stays above 1", left(lambda betas: -torch.prod(1 - betas))),
    ("1.1", "the last beta is left out", left(lambda betas: torch.prod(1 - betas[:-1]))),
    ("1.1", "the first beta is left out", left(lambda betas: torch.prod(1 - betas[1:]))),
    ("1.1", "not the last one's", left(lambda betas: (1 - betas[-1]) ** len(betas))),
    ("1.1", "not their mean", left(lambda betas: (1 - betas.mean()) ** len(betas))),
    ("1.1", "right for tiny ones only", left(lambda betas: 1 - betas.sum())),
    ("1.1", "is the limit of tiny steps", left(lambda betas: torch.exp(-betas.sum()))),
    ("1.1", "no root here", lambda v, betas: (
        v * root(torch.prod(1 - betas)) + 1 - torch.prod(1 - betas))),
    ("1.1", "not beta^2", walks(lambda v, beta: (1 - beta) * v + beta**2)),
    ("1.1", "you square once more", walks(lambda v, beta: (1 - beta) ** 2 * v + beta)),
    ("1.1", "the lesson's thousand betas", left(
        lambda betas: torch.prod(1 - torch.linspace(1e-4, 0.02, 1000)))),
    ("1.1", "two calls gave two answers", lambda v, betas: (
        left()(v, betas) + 0.01 * torch.randn(()))),
    ("1.2", "standard deviations do not subtract",
     lambda s, t: (root(t / s), (root(1 - t) - root(1 - s)) ** 2)),
    ("1.2", "1 minus its square", lambda s, t: (root(t / s), 1 - root(t / s))),
    ("1.2", "so its square multiplies", lambda s, t: (root(t / s), 1 - t - root(t / s) * (1 - s))),
    ("1.2", "do not add it", lambda s, t: (root(t / s), 1 - t + t / s * (1 - s))),
    ("1.2", "changes the tensors it was given", jump_in_place),
    ("1.3", "right at i = 0, but", lambda x0, i, eps, alpha_bar: (
        q_sample()(x0, (i - 1).clamp(min=0), eps, alpha_bar))),
    ("1.3", "as the first one is", lambda x0, i, eps, alpha_bar: (
        q_sample()(x0, i[:1].expand(len(i)), eps, alpha_bar))),
    ("1.3", "you clip x_t", lambda *inputs: q_sample()(*inputs).clamp(-1, 1)),
    ("1.3", "near [-1, 1] already", lambda x0, *inputs: q_sample()(2 * x0 - 1, *inputs)),
    ("1.3", "alpha_bar up once more", lambda x0, i, eps, alpha_bar: (
        q_sample()(x0, i, eps, alpha_bar.cumprod(0)))),
    ("1.3", "not for another one", of_the_notebook),
    ("1.3", "x0 is not scaled at all", q_sample(signal=torch.ones_like)),
    ("1.3", "1 - sqrt(alpha_bar) is no standard deviation", q_sample(noise=lambda a: 1 - root(a))),
    ("1.3", "the root is taken before", q_sample(noise=lambda a: root(1 - root(a)))),
    ("1.3", "one and the same coefficient", q_sample(noise=root)),
    ("1.3", "not yet: x0 of shape (6, 3, 4, 4) comes back as (6, 6, 3, 4, 4)",
     lambda x0, i, eps, alpha_bar: torch.stack([q_sample()(x0, i, eps, alpha_bar)] * 6)),
    ("1.3", "your function changes eps itself", in_place),
    ("1.4", "do not call it in your answer", lambda T: Schedule.sigmoid(T).betas),        # F16
    ("1.4", "do not call it in your answer", lambda T: LIBRARY_SIGMOID(T).betas),
    ("1.4", "but no floor", lambda T: sigmoid(T)[1].clamp(min=0.001)),
    ("1.4", "betas that follow a sigmoid", lambda T: (
        1e-4 + 0.0199 * torch.linspace(-6, 6, T).double().sigmoid())),
    ("1.4", "lacks its division by g(0)", lambda T: betas_from(
        torch.cat([torch.ones(1).double(), sigmoid_g(T)[1:]]))),
    ("1.4", "your first beta is 0", lambda T: torch.cat(
        [torch.zeros(1).double(), sigmoid(T - 1)[1]])),
    ("1.4", "your u is t / 1000", lambda T: sigmoid(1000)[1][:T]),
    ("1.4", "these are standard deviations", lambda T: root(sigmoid(T)[1])),
    ("1.4", "do not square it", lambda T: betas_from(sigmoid_g(T) ** 2)),
    ("1.4", "are too coarse", lambda T: betas_from(sigmoid_g(T).bfloat16())),
    ("1.5", "divided by log 10", 501),
    ("1.5", "do not multiply", 547),
    ("1.5", "the first T of a thousand betas", 787),
    ("1.5", "for *every* digit", 625),
    ("1.5", "with sqrt(alpha_bar_T)", 1238),
    ("1.5", "still above 1: more steps", 1),
    ("1.5", "still above 1: more steps", 618),
    ("1.5", "below 1: fewer steps would do", 620),
    ("1.5", "got inf", math.inf),
    ("1.5", "got [619]", [619]),
    ("1.6", "changes the tensors it was given", step_back_in_place),
    ("1.6", "the mean and the variance have changed places",
     lambda *inputs: STEP_BACK_RIGHT(*inputs)[::-1]),
    ("1.6", "draw no noise of your own", step_back_drawn),
    ("1.6", "both weights lack", back(
        lambda al, t, s: al * (1 - s), lambda al, t, s: s * (1 - al), tilde)),
    ("1.6", "took the difference of the two as beta", back(
        lambda al, t, s: root(1 - s + t) * (1 - s), lambda al, t, s: root(s) * (s - t), tilde)),
    ("1.6", "has the root of alpha_bar_t", back(
        lambda al, t, s: root(t) * (1 - s), on_x0, tilde)),
    ("1.6", "but not at s = 0", lambda x0, x, a_t, a_s: (
        back(on_x, on_x0, tilde)(x0, x, a_t, a_s.clamp(max=0.999)))),
    ("1.7", "share their noise", trainer(noise=lambda x0: (
        shaped(torch.randn(len(x0), dtype=x0.dtype), x0).expand_as(x0)))),
    ("1.7", "share their noise", trainer(noise=one_noise_for_all_channels)),
    ("1.7", "4 values meet 400 examples", trainer(step=lambda T, B: torch.randperm(T)[:B])),
    ("1.7", "made with alpha_bar[i - 1]", loss_of(lambda alpha_bar: alpha_bar.roll(1))),
    ("1.7", "made with alpha_bar[i + 1]", loss_of(lambda alpha_bar: alpha_bar.roll(-1))),
    ("1.7", "made with the lesson's alpha_bar", loss_of(lambda alpha_bar: (
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)[:len(alpha_bar)]))),
    ("1.7", "smooth (Huber) loss", trainer(reduce=lambda e: (
        torch.nn.functional.smooth_l1_loss(e, torch.zeros_like(e))))),
    ("1.7", "the output is compared with v", compares_with_v),
    ("1.7", "the same weight", trainer(reduce=lambda e: (
        e.square() * shaped(torch.linspace(0, 2, len(e)), e)).mean())),
    ("1.7", "x0 of shape (400, 2, 4, 4) fails", for_points),
    ("1.7", "x0 has the shape (400, 6), and the network was given (400, 1, 400, 6)", for_images),
    ("1.7", "every call draws the same random numbers", seeded),
    ("1.7", "every call draws the same noise", trainer(noise=same_noise)),
    ("1.7", "every call draws the same steps", trainer(step=same_steps)),
    ("1.7", "changes x0 itself", noises_in_place),
    ("1.7", "you take the mean first and square it", trainer(reduce=lambda e: e.mean() ** 2)),
    ("1.7", "in which both signs cancel", trainer(reduce=lambda e: e.mean())),
    ("1.7", "that is half of it", trainer(reduce=lambda e: e.square().mean() / 2)),
    ("1.8", "is a variance already", lambda x0, x, a: (root(a) * x0 - x) / (1 - a) ** 2),
    ("1.8", "1 - sqrt(alpha_bar) is not the variance",
     lambda x0, x, a: (root(a) * x0 - x) / (1 - root(a))),
    ("1.8", "you multiply by the variance", lambda x0, x, a: (root(a) * x0 - x) * (1 - a)),
    ("1.8", "the sign is wrong, and x lies around", lambda x0, x, a: (x - x0) / (1 - a)),
    ("1.8", "and the variance of the noise is missing", lambda x0, x, a: x0 - x),
    ("1.8", "without a root", lambda x0, x, a: (x0 - x) / root(1 - a)),
    ("1.8", "where is the prediction", lambda x0, x, a: -x),
    ("1.8", "not in x", lambda x0, x, a: (x0 - x) * a / (1 - a)),
    ("1.8", "you take it for its root", lambda x0, x, a: (a * x0 - x) / (1 - a**2)),
    ("1.8", "you clip x0_hat", lambda x0, x, a: (root(a) * x0.clamp(-1, 1) - x) / (1 - a)),
    ("1.8", "with respect to x_0", lambda x0, x, a: root(a) * (x - root(a) * x0) / (1 - a)),
    ("1.8", "a pair of brackets", lambda x0, x, a: root(a) * x0 - x / (1 - a)),
    ("1.8", "x stays as it is", lambda x0, x, a: (x0 - x / root(a)) / (1 - a)),
    ("1.8", "not a mean", lambda x0, x, a: (root(a) * x0 - x) / (1 - a) / x.numel()),
    ("1.8", "twice the score", lambda x0, x, a: 2 * (root(a) * x0 - x) / (1 - a)),
    ("1.8", "half the score", lambda x0, x, a: (root(a) * x0 - x) / (1 - a) / 2),
    ("1.8", "x and x0_hat have changed places", lambda x0, x, a: (root(a) * x - x0) / (1 - a)),
    ("1.8", "changes the tensors it was given", score_in_place),
    ("1.9", "right for points (6, 2), but x of shape (6, 1, 2, 2) fails", for_points_only),
    ("1.9", "your answer calls step_back, which is not written yet", calls_step_back),
    ("1.9", "your variance has alpha_bar[i - 1]", eps_form(before=lambda a, i: a[i - 1])),  # F21
    ("1.9", "the mean lacks its division by sqrt(alpha_t)", eps_form(over=lambda alpha: 1.0)),
    ("1.9", "a root is missing below the line", eps_form(lambda beta, a: beta / (1 - a))),
    ("1.9", "eps_hat is multiplied by sqrt(beta)", eps_form(lambda beta, a: root(beta))),
    ("1.9", "as if one step removed all noise", eps_form(lambda beta, a: root(1 - a))),
    ("1.9", "the index i", sampling(time=lambda i, T: i)),
    ("1.9", "is given i + 1", sampling(time=lambda i, T: i + 1)),
    ("1.9", "that of the first step", first_level_twice),
    ("1.9", "as large as that of i = 1", noise_at_the_end),
    ("1.9", "multiplies x alone", eps_form(lambda beta, a: beta * root((1 - beta) / (1 - a)))),
    ("1.9", "x0_hat afresh", noises_afresh),
    ("1.9", "these are the lesson's betas", lambda net, x, zs, betas: (
        eps_form()(net, x, zs, torch.linspace(1e-4, 0.02, 1000).double()[:5]))),
    ("1.9", "the same zs twice", sampling(z=lambda zs, i: torch.randn_like(zs[i]))),
    ("1.10", "no straight line of logarithms", lambda beta, before, v: (
        best(beta, before, 0) ** (1 - v) * best(beta, before, 1) ** v)),
    ("1.10", "x_{t-1} holds noise, too", lambda beta, before, v: best(beta, 1.0, before * v)),
    ("1.10", "you square alpha_bar", lambda beta, before, v: best(beta, before**2, v)),
    ("1.10", "do not square it", lambda beta, before, v: best(beta, before, v**2)),
    ("1.10", "do not divide it", lambda beta, before, v: best(beta, before / (1 - beta), v)),
    ("1.10", "you took alpha_bar_t", lambda beta, before, v: (
        1 / (1 / (1 + (v - 1) * before) + 1 / (1 / (before * (1 - beta)) - 1)))),
    ("1.10", "still to be divided by the variance of x_t", lambda beta, before, v: (
        (1 + (v - 1) * before) - (1 - beta) * (1 + (v - 1) * before) ** 2)),
    ("1.10", "not all of v", total_variance(lambda a, v: v, lambda weight: weight**2)),
    ("1.10", "multiplies a variance: square it", total_variance(
        lambda a, v: v * (1 - a) / (a * v + 1 - a), lambda weight: weight)),
    ("1.10", "is the noise missing in the variances",                           # F22
     lambda beta, before, v: beta * (before * v) / (before * (1 - beta) * v)),
    ("1.10", "that is the variance of x_t", lambda beta, before, v: (
        1 + (v - 1) * before * (1 - beta))),
    ("1.10", "invert it", lambda beta, before, v: 1 / best(beta, before, v)),
    ("1.10", "their inverses do", lambda beta, before, v: (
        beta / (1 - beta) + 1 + (v - 1) * before)),
    ("1.10", "has the variance beta / alpha, not beta", lambda beta, before, v: (
        1 / (1 / beta + 1 / (1 + (v - 1) * before)))),
]
RIGHT = [
    ("1.2", lambda s, t: torch.stack([root(t / s), 1 - t / s])),
    ("1.2", lambda s, t: np.array([root(t / s), 1 - t / s])),
    ("1.7", one_after_the_other),
    ("1.7", by_einsum),
    ("1.7", noise_before_steps),
    ("1.10", best_in_place),
    ("1.10", lambda beta, before, v: best(beta, before, v) if before < 1 or v else 0.0),
    ("1.1", walks(lambda v, beta: 1 + (1 - beta) * (v - 1))),
    ("1.1", lambda v, betas: np.float32(left()(v, betas))),                     # F12
    ("1.1", lambda v, betas: left()(v, betas).numpy()),
    ("1.2", lambda s, t: [root(t / s), 1 - t / s]),
    ("1.2", lambda s, t: (math.sqrt(t / s), (1 - t / s).item())),
    ("1.3", one_by_one),
    ("1.4", betas_by_numpy),
    ("1.4", betas_one_by_one),
    ("1.4", in_float32),
    ("1.5", lambda: np.int64(619)),
    ("1.5", np.array(619.0)),
    ("1.5", torch.tensor([619])),
    ("1.6", lambda *inputs: list(STEP_BACK_RIGHT(*inputs))),
    ("1.6", lambda *inputs: [q.numpy() for q in STEP_BACK_RIGHT(*inputs)]),
    ("1.7", by_mse_loss),
    ("1.7", trainer(reduce=lambda e: e.square().flatten(1).mean(1).mean())),
    ("1.8", lambda x0, x, a: ((root(a) * x0 - x) / (1 - a)).numpy()),
    ("1.7", trainer(noise=lambda x0: torch.from_numpy(np.random.standard_normal(x0.shape)))),
    ("1.9", eps_form()),
    ("1.9", lambda *inputs: eps_form()(*inputs).tolist()),
    ("1.10", by_precision),
    ("1.10", total_variance(lambda a, v: v * (1 - a) / (a * v + 1 - a), lambda weight: weight**2)),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)


def test_an_answer_that_changes_its_table_leaves_the_checks_as_they_were():
    """The levels that an answer was given were once the checks' own."""
    assert_refused("1.3", "changes alpha_bar itself", corrupts_alpha_bar)
    assert_refused("1.5", "the first T of a thousand betas", 787)
    assert_refused("1.5", "still above 1: more steps", 618)


def test_right_where_gradients_are_switched_off():
    """A notebook may have called torch.set_grad_enabled(False)."""
    with torch.no_grad():
        assert_accepted("1.7", trainer())
