"""Every tagged formula of lesson 6 checked numerically; `test_lesson_tags.py` keeps the
list complete.
"""
import itertools
import math
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad, solve_ivp
from scipy.optimize import linear_sum_assignment

from course_lib import Denoiser, Schedule, ddim, last, samplers, sde
from course_lib.lab import sampling
from course_lib.lab.data import GaussianMixture
from course_lib.networks.dit import JointBlock
from course_lib.networks.text import ConditionalUNet
from course_lib.networks.vae import AutoencoderKL, kl_to_standard_normal

ROOT = Path(__file__).parents[1]
F64 = torch.float64
G = lambda seed=0: torch.Generator().manual_seed(seed)
T, S = torch.tensor(0.7, dtype=F64), torch.tensor(0.45, dtype=F64)
FLOW = Schedule.flow()
VE = Schedule.edm(5.0, 3.0)
VP = Schedule(lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t))
LINE = GaussianMixture([[-1.0], [0.8]], [0.3, 0.5], [1.0, 2.0])
PLANE = GaussianMixture([[-1.0, 0.3], [0.8, -0.4]], [0.3, 0.5], [1.0, 2.0])
X = torch.randn(20, 2, generator=G(), dtype=F64)
each_schedule = pytest.mark.parametrize("schedule", [FLOW, VE, VP], ids=["flow", "ve", "vp"])


def close(a, b, **kw):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), **kw)


def log_normal(x, mean, variance):
    return -(x - mean) ** 2 / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)


def normals(limit=8.0, step=0.2):
    """Evenly spaced points and their weights under N(0, 1), which add up to 1."""
    z = torch.arange(-limit, limit + step / 2, step, dtype=F64)
    return z, (-z**2 / 2).softmax(0)


def nabla(value, x):
    """The gradient of value (n,), one number for each point of x (n, D): like x"""
    return torch.autograd.grad(value.sum(), x, create_graph=True)[0]


def div(field, x):
    """The divergence of a vector at each point: (n, D) -> (n,)"""
    return sum(nabla(field[:, k], x)[:, k] for k in range(x.shape[1]))


def leaf(x=X):
    return x.clone().requires_grad_()


def levels(schedule, t):
    return schedule.alpha(t), schedule.sigma(t)


# ---- the autoencoder

Z = torch.linspace(-9, 9, 9001, dtype=F64)                  # one latent, a fine grid
DZ = 18 / 9000
PICTURE = torch.tensor([0.7, -0.2, 0.4], dtype=F64)         # three pixels
NOISE = 0.3                                                 # s


def test_eq_6_1():
    """For three q, the bound is too long by the divergence from p(z | x): with p(z | x) itself it
    is exact. The decoder is curved; by quadrature.
    """
    x_hat = torch.stack([Z.sin(), Z / 2, Z**2 / 10], 1)
    squared = (PICTURE - x_hat).square().sum(1)
    constant = 3 / 2 * math.log(2 * math.pi * NOISE**2)
    prior = log_normal(Z, 0.0, 1.0)
    joint = prior + log_normal(PICTURE, x_hat, NOISE**2).sum(1)
    log_p = (joint.exp() * DZ).sum().log()
    divergence = lambda log_q, log_p: (log_q.exp() * (log_q - log_p)).sum() * DZ
    for log_q in (log_normal(Z, 0.8, 0.04), log_normal(Z, 0.3, 0.5), joint - log_p):
        error = (log_q.exp() * squared).sum() * DZ / (2 * NOISE**2)
        bound = error + divergence(log_q, prior) + constant
        gap = divergence(log_q, joint - log_p)
        close(bound + log_p, gap, rtol=1e-6, atol=1e-8)
        assert gap > -1e-9


def kl_of_latent(mean, variance):
    return 0.5 * (mean**2 + variance - 1 - variance.log()).flatten(1).sum(1)


def test_eq_6_2():
    """Beside torch's divergence, an average of log densities, and the library's."""
    mean, log_variance = torch.randn(2, 3, 5, generator=G(), dtype=F64)
    variance = log_variance.exp()
    kl = kl_of_latent(mean, variance)
    standard = torch.distributions.Normal(torch.zeros(1, dtype=F64), 1.0)
    q = torch.distributions.Normal(mean, variance.sqrt())
    close(kl, torch.distributions.kl_divergence(q, standard).sum(1))
    close(kl, kl_to_standard_normal(mean, log_variance))
    log_q = log_normal(Z, 0.6, 0.3)
    by_quadrature = (log_q.exp() * (log_q - log_normal(Z, 0.0, 1.0))).sum() * DZ
    one = kl_of_latent(*torch.tensor([[[0.6]], [[0.3]]], dtype=F64))
    close(one, by_quadrature[None], rtol=1e-6, atol=1e-9)


def autoencoder_loss(squared, kl, weight, P):
    return (squared + weight * kl) / P


def test_eq_6_3():
    """The best q under this loss is the posterior of a decoder with noise of deviation s, for a
    linear decoder; and the library's loss.
    """
    weight = 2 * NOISE**2
    a = torch.tensor([0.8, -0.5, 1.1], dtype=F64)
    variance = 1 / (1 + a @ a / NOISE**2)
    best = [variance * (a @ PICTURE) / NOISE**2, variance.log()]
    mean, log_variance = (leaf(value) for value in best)
    squared = (PICTURE - a * mean).square().sum() + a @ a * log_variance.exp()
    kl = kl_of_latent(mean[None, None], log_variance.exp()[None, None])[0]
    slopes = torch.autograd.grad(autoencoder_loss(squared, kl, weight, 3), [mean, log_variance])
    close(torch.stack(slopes), torch.zeros(2), rtol=0, atol=1e-12)
    torch.manual_seed(0)
    net = AutoencoderKL(3, 2, (16,), depth=1, kl_weight=weight).double()
    x, eps = torch.randn(2, 3, 8, 8, dtype=F64), torch.randn(2, 2, 8, 8, dtype=F64)
    with torch.no_grad():
        mean, log_variance = net.encode(x)
        x_hat = net.decode(mean + (log_variance / 2).exp() * eps)
        squared = (x - x_hat).square().flatten(1).sum(1)
        kl = kl_of_latent(mean, log_variance.exp())
        close(net.loss(x, eps), autoencoder_loss(squared, kl, weight, 3 * 8 * 8))


def test_eq_6_4():
    """Draws of q become numbers of mean 0 and deviation 1, by channel, and come back; the library's
    shift and scale are that mean and that deviation (four standard errors).
    """
    torch.manual_seed(0)
    net = AutoencoderKL(3, 2, (16,), depth=1).double()
    shape, per_channel = (500, 2, 4, 4), lambda v: torch.tensor(v, dtype=F64)[:, None, None]
    mean = per_channel([0.5, -2.0]) + per_channel([3.0, 0.2]) * torch.randn(shape, dtype=F64)
    log_variance = 0.4 * torch.randn(shape, dtype=F64) - 1
    net.encode = lambda x: (mean, log_variance)
    latent = mean + (log_variance / 2).exp() * torch.randn(shape, generator=G(3)).double()
    n = 500 * 4 * 4
    m = latent.mean((0, 2, 3), keepdim=True)
    k = 1 / (latent - m).square().mean((0, 2, 3), keepdim=True).sqrt()
    z = (latent - m) * k
    close(z.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-12)
    close(z.var((0, 2, 3), correction=0), torch.ones(2))
    net.fit_scale(torch.zeros(500), batch_size=500)
    assert ((net.shift - m.flatten()).abs() * k.flatten()).max() < 4 / n**0.5
    assert (net.scale / k.flatten() - 1).abs().max() < 4 / (2 * n) ** 0.5
    net.shift.copy_(m.flatten())
    net.scale.copy_(k.flatten())
    close(net.to_latents(torch.zeros(500), G(3)), z)
    with torch.no_grad():
        x_hat = net.decode(z[:4] / k + m)
        close(x_hat, net.decode(latent[:4]))
    close(x_hat, net.to_images(z[:4]))


def counted_time(channels, size, unit, vae=None):
    """What a guided picture of ten steps costs, where one row of a batch costs unit[part]."""
    net = ConditionalUNet(channels, ["red"], length=3, text_dim=16, widths=(16,), num_heads=2)
    D = Denoiser(net, FLOW, "flow")
    D.data_shape = (channels, size, size)
    spent = []
    parts = {"net": net, "text": net.text} | ({"decoder": vae.decoder} if vae else {})
    for name, part in parts.items():
        cost = unit[name]
        part.register_forward_hook(lambda m, inputs, out, c=cost: spent.append(c * len(inputs[0])))
    sampling.text_to_image(D, ["red"], scale=2.0, steps=10, vae=vae)
    return sum(spent)


def test_eq_6_5():
    """The library's sampler, with a clock that each call of a network moves on; the limit of many
    steps.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(3, 2, (16, 16), depth=1)
    with_pixels = counted_time(3, 8, {"net": 7.0, "text": 3.0})
    with_latents = counted_time(2, 4, {"net": 2.0, "text": 3.0, "decoder": 5.0}, vae)
    c_text, c_x, c_z, c_decoder = 2 * 3.0, 2 * 7.0, 2 * 2.0, 5.0    # guidance: two rows a picture
    ratio = lambda n: (c_text + n * c_x) / (c_text + n * c_z + c_decoder)
    close(ratio(10), with_pixels / with_latents)
    close(ratio(10**9), c_x / c_z, rtol=1e-6, atol=0)


def times(mixture, c):
    """The mixture of c x0."""
    return GaussianMixture(c * mixture.means, c * mixture.stds, mixture.weights)


@each_schedule
def test_eq_6_6(schedule):
    """The exact denoiser of the data times c at t is c times the data's own, where the log SNR is
    higher by so much.
    """
    for c in (1.7, 0.4):
        there = schedule.t_from_log_snr(schedule.log_snr(S) + 2 * math.log(c))
        x = schedule.alpha(there) / (schedule.alpha(S) * c) * X
        close(times(PLANE, c).denoiser(schedule)(X, S), c * PLANE.denoiser(schedule)(x, there))


def test_eq_6_7():
    """The shift itself; and the exact denoiser of the data divided by s is that of the data at the
    shifted time.
    """
    for s in (3.0, 0.5):
        for t in torch.tensor([0.1, 0.5, 0.9], dtype=F64):
            shifted = s * t / (1 + (s - 1) * t)
            close(FLOW.log_snr(shifted), FLOW.log_snr(t) - 2 * math.log(s))
            x = FLOW.alpha(shifted) / (FLOW.alpha(t) / s) * X
            close(s * times(PLANE, 1 / s).denoiser(FLOW)(X, t), PLANE.denoiser(FLOW)(x, shifted))


def test_eq_6_8():
    """The library's block with its own queries, keys and values, the caption's tokens first; and a
    mask hides the padding.
    """
    torch.manual_seed(0)
    block = JointBlock(16, num_heads=2).double()
    for stream in (block.image, block.text):
        torch.nn.init.normal_(stream.emb.weight, std=0.3)
    x, c = torch.randn(2, 5, 16, dtype=F64), torch.randn(2, 3, 16, dtype=F64)
    emb = torch.randn(2, 16, dtype=F64)
    q_x, k_x, v_x, rest_x = block.image.project(x, emb)
    q_c, k_c, v_c, rest_c = block.text.project(c, emb)
    q = torch.cat([block.q_norms[1](q_c), block.q_norms[0](q_x)], 2)
    k = torch.cat([block.k_norms[1](k_c), block.k_norms[0](k_x)], 2)
    v = torch.cat([v_c, v_x], 2)                            # (2, heads, 3 + 5, 8)
    joint = (1 / 8**0.5 * q @ k.transpose(-1, -2)).softmax(-1) @ v
    close(joint, F.scaled_dot_product_attention(q, k, v))
    out_x, out_c = block(x, c, emb, torch.ones(2, 3, dtype=torch.bool))
    close(block.image.finish(x, joint[:, :, 3:], rest_x), out_x)
    close(block.text.finish(c, joint[:, :, :3], rest_c), out_c)
    masked = block(x, c, emb, torch.tensor([[True, True, False]]).expand(2, -1))[0]
    close(masked, block(x, c[:, :2], emb, torch.ones(2, 2, dtype=torch.bool))[0])
    assert (masked - out_x).abs().max() > 0.01


# ---- scores at one level, by quadrature

A, B = 0.8, 0.5                                             # alpha, sigma
AXIS = torch.linspace(-14, 14, 1401, dtype=F64)[:, None]    # (1401, 1)
EPS, EPS_WEIGHT = normals()
X0, X0_WEIGHT = AXIS[::5, 0], LINE.log_prob(AXIS[::5]).softmax(0)
FIELDS = [lambda x: -x, lambda x: torch.sin(2 * x) - 0.5 * x, lambda x: 0 * x]


def law(mixture, alpha, sigma):
    """Weights of the noised mixture on the axis, which add up to 1."""
    return mixture.log_prob(AXIS, alpha, sigma).softmax(0)


def explicit(s, q, score):
    """(6.9) of the values s on the axis."""
    return 0.5 * (q * (s - score) ** 2).sum()


def denoising(s):
    """(6.10) of a function s, over x0 and eps."""
    x = A * X0[:, None] + B * EPS                           # (281, 81)
    return 0.5 * (X0_WEIGHT[:, None] * EPS_WEIGHT * (s(x) + EPS / B) ** 2).sum()


def line_score(x):
    return LINE.score(x.reshape(-1, 1), A, B).reshape(x.shape)


def test_eq_6_9():
    """What a little more noise takes away from the divergence of two mixtures is the loss of one's
    score on the other (de Bruijn).
    """
    other = GaussianMixture([[0.2], [1.0]], [0.4, 0.6])

    def divergence(variance):
        log_q, log_p = (m.log_prob(AXIS, A, variance**0.5) for m in (LINE, other))
        return (log_q.softmax(0) * (log_q - log_p)).sum()
    rate = (divergence(B**2 + 1e-4) - divergence(B**2 - 1e-4)) / 2e-4
    s = other.score(AXIS, A, B)[:, 0]
    close(-rate, explicit(s, law(LINE, A, B), line_score(AXIS[:, 0])), rtol=1e-5, atol=0)


def test_eq_6_10():
    """The score of the noise, by autograd; the loss is smallest at the score of the noised density,
    whatever the direction; its value without a score.
    """
    x = leaf()
    log_q = log_normal(x, A * 0.3, B**2).sum(1)             # x0 = 0.3
    close(nabla(log_q, x), -(x - A * 0.3) / B / B)
    for bend in (torch.cos, torch.ones_like, lambda x: x):
        ahead, behind = (denoising(lambda x: line_score(x) + h * bend(x)) for h in (0.1, -0.1))
        close(ahead, behind)
        assert ahead > denoising(line_score) + 1e-4
    close(denoising(lambda x: 0 * x), 1 / (2 * B**2))


def test_eq_6_11():
    q, score = law(LINE, A, B), line_score(AXIS[:, 0])
    of_noise = 0.5 * (EPS_WEIGHT * (EPS / B) ** 2).sum()
    for s in FIELDS:
        difference = denoising(s) - explicit(s(AXIS[:, 0]), q, score)
        close(difference, of_noise - 0.5 * (q * score**2).sum())


SIDE = torch.linspace(-14, 14, 281, dtype=F64)
PLANE_X = torch.cartesian_prod(SIDE, SIDE)                  # (281^2, 2)


def plane_law(alpha, sigma):
    return PLANE.log_prob(PLANE_X, alpha, sigma).softmax(0)


def curved_field(x):
    """A function s in the plane, and its divergence."""
    a, b = x.unbind(1)
    return torch.stack([b.sin() - a, a * b - b**3 / 6], 1), -1 + a - b**2 / 2


def implicit(s, trace, q):
    return (q * (0.5 * s.square().sum(1) + trace)).sum()


def test_eq_6_12():
    q, score = plane_law(A, B), PLANE.score(PLANE_X, A, B)
    s, trace = curved_field(PLANE_X)
    explicit_loss = 0.5 * (q * (s - score).square().sum(1)).sum()
    constant = 0.5 * (q * score.square().sum(1)).sum()
    close(implicit(s, trace, q), explicit_loss - constant)
    x = leaf()
    found = curved_field(x)
    close(sde.divergence(found[0], x), found[1])


def test_eq_6_13():
    """Two finite sets of directions with mean 0 and covariance I; each by one backward pass."""
    x, q = leaf(PLANE_X), plane_law(A, B)
    s, trace = curved_field(x)
    signs = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    thirds = [[2**0.5 * f(2 * math.pi * k / 3) for f in (math.cos, math.sin)] for k in range(3)]
    for directions in (signs, thirds):
        sliced = []
        for z in torch.tensor(directions, dtype=F64):
            row = torch.autograd.grad((s * z).sum(), x, retain_graph=True)[0]   # z^T ds/dx
            quadratic = (row * z).sum(1)
            close(quadratic, sde.divergence(s, x, z.expand(len(x), 2)))
            sliced.append((q * (s.square().sum(1) / 2 + quadratic)).sum())
        close(torch.stack(sliced).mean(), implicit(s, trace, q))
        assert torch.stack(sliced).std() > 0.01


# ---- continuous time

def sde_of(schedule, t):
    """f and g^2 of (6.14)."""
    sigma = schedule.sigma(t)
    f = schedule.d_alpha(t) / schedule.alpha(t)
    return f, 2 * sigma * schedule.d_sigma(t) - 2 * f * sigma**2


def falls_with_the_square(error):
    """error(h), any shape: a quarter is left for half of h. A wrong rate would leave a half."""
    whole, half = (torch.as_tensor(error(h)).abs() for h in (1e-3, 5e-4))
    assert (half < 0.3 * whole + 1e-13).all()


@each_schedule
def test_eq_6_14(schedule):
    """Beside the exact jump of lesson 1; and the library's drift and diffusion."""
    f, g2 = sde_of(schedule, T)

    def error(h):
        ratio = schedule.alpha(T + h) / schedule.alpha(T)
        added = schedule.sigma(T + h) ** 2 - (ratio * schedule.sigma(T)) ** 2
        return torch.stack([ratio - (1 + f * h), added - g2 * h])
    falls_with_the_square(error)
    close(sde.drift(schedule, T), f)
    close(sde.diffusion(schedule, T), g2.sqrt())
    if schedule is VP:
        close(g2, -2 * f)
    if schedule is VE:
        close(f, 0.0)
        close(g2, (schedule.sigma(T + 1e-5) ** 2 - schedule.sigma(T - 1e-5) ** 2) / 2e-5)


def test_eq_6_15():
    """Beside the general formula; and the jump to a later time, in which the factor is exact."""
    t = torch.tensor([0.1, 0.45, 0.9], dtype=F64)
    f, g2 = -1 / (1 - t), 2 * t / (1 - t)
    close(sde_of(FLOW, t)[0], f)
    close(sde_of(FLOW, t)[1], g2)
    close((1 - t - 0.05) / (1 - t), 1 + f * 0.05)
    falls_with_the_square(lambda h: (t + h) ** 2 - ((1 - t - h) / (1 - t) * t) ** 2 - g2 * h)
    close(sde.diffusion(FLOW, t) ** 2, g2)


@each_schedule
def test_eq_6_16(schedule):
    """phi = sin(a) cos(2 b): the change of its mean, from the densities, in the plane."""
    a, b = PLANE_X.unbind(1)
    phi = a.sin() * (2 * b).cos()
    slope = torch.stack([a.cos() * (2 * b).cos(), -2 * a.sin() * (2 * b).sin()], 1)
    laplacian = -5 * phi
    f, g2 = sde_of(schedule, T)
    mean = lambda t, values: (plane_law(*levels(schedule, t)) * values).sum()
    change = (mean(T + 1e-4, phi) - mean(T - 1e-4, phi)) / 2e-4
    generator = f * (PLANE_X * slope).sum(1) + 0.5 * g2 * laplacian
    close(change, mean(T, generator), rtol=1e-5, atol=1e-8)


def density(schedule, x, t):
    return PLANE.log_prob(x, *levels(schedule, t)).exp()


def change_of_density(schedule, d=1e-4):
    return (density(schedule, X, T + d) - density(schedule, X, T - d)) / (2 * d)


@each_schedule
def test_eq_6_17(schedule):
    """Point by point; the derivatives by autograd, but for the time's."""
    x = leaf()
    f, g2 = sde_of(schedule, T)
    q = density(schedule, x, T)
    drift = div(f * x * q[:, None], x)
    close(change_of_density(schedule), -drift + g2 / 2 * div(nabla(q, x), x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lam", [0.0, 1.0, 2.0])
@each_schedule
def test_eq_6_18(schedule, lam):
    """One small step down from q_t: the mean of a function is its mean under q_(t-h), by
    quadrature; and the library's step with the same noise.
    """
    f, g2 = sde_of(schedule, T)

    def moved(x, z, h):
        score = LINE.score(x, *levels(schedule, T))
        slope = f * x - (1 + lam**2) / 2 * g2 * score
        return x - slope * h + lam * (g2 * h).sqrt() * z

    phi = lambda x: torch.sin(1.3 * x + 0.4)
    q = law(LINE, *levels(schedule, T))[:, None] * EPS_WEIGHT           # (1401, 81)

    def error(h):
        before = law(LINE, *levels(schedule, T - h)) * phi(AXIS[:, 0])
        return (q * phi(moved(AXIS, EPS, h))).sum() - before.sum()
    falls_with_the_square(error)
    path = sde.euler_maruyama(LINE.denoiser(schedule), schedule, X[:, :1], [0.7, 0.69],
                              noise_level=lam, generator=G(3))
    z = torch.randn(len(X), 1, generator=G(3), dtype=F64)
    close(last(path), moved(X[:, :1], z, 0.7 - 0.69))


@each_schedule
def test_eq_6_19(schedule):
    x = leaf()
    f, g2 = sde_of(schedule, T)
    q = density(schedule, x, T)
    along_score = div(q[:, None] * nabla(q.log(), x), x)
    laplacian = div(nabla(q, x), x)
    forward = div(f * x * q[:, None], x)
    backward = forward - 0.5 * g2 * laplacian
    close(backward, -change_of_density(schedule), rtol=1e-5, atol=1e-7)
    for lam in (0.0, 1.0, 2.5):
        with_noise = forward - (1 + lam**2) / 2 * g2 * along_score + lam**2 / 2 * g2 * laplacian
        close(with_noise, backward)


@each_schedule
def test_eq_6_20(schedule):
    """Beside the exact step back, by Bayes' rule on a fine line."""
    f, g2 = sde_of(schedule, T)
    x = torch.tensor([[-1.2], [-0.3], [0.4], [1.5]], dtype=F64)
    score = LINE.score(x, *levels(schedule, T))

    def error(h):
        ratio = schedule.alpha(T) / schedule.alpha(T - h)
        added = schedule.sigma(T) ** 2 - (ratio * schedule.sigma(T - h)) ** 2
        y = x + (g2 * h).sqrt() * torch.linspace(-10, 10, 2001, dtype=F64)          # (4, 2001)
        before = LINE.log_prob(y.reshape(-1, 1), *levels(schedule, T - h)).view(y.shape)
        p = (before - (x - ratio * y) ** 2 / (2 * added)).softmax(1)
        mean = (p * y).sum(1, keepdim=True)
        variance = (p * (y - mean) ** 2).sum(1)
        by_formula = x - (f * x - g2 * score) * h
        return torch.stack([(mean - by_formula)[:, 0], variance - g2 * h])
    falls_with_the_square(error)


@each_schedule
def test_eq_6_21(schedule):
    """200,000 forward paths, in four jumps; four standard errors."""
    n, g = 200_000, G(1)
    x_s = schedule.perturb(LINE.sample(n).double(), S, torch.randn(n, 1, generator=g, dtype=F64))
    x_t, grid = x_s, torch.linspace(S, T, 5, dtype=F64)
    for low, high in zip(grid[:-1], grid[1:]):
        x_t = schedule.renoise(x_t, low, high, g)
    mean = (LINE.weights * LINE.means[:, 0]).sum()
    data_variance = (LINE.weights * (LINE.stds**2 + LINE.means[:, 0] ** 2)).sum() - mean**2
    variance = lambda t: schedule.alpha(t) ** 2 * data_variance + schedule.sigma(t) ** 2
    known = schedule.alpha(T) / schedule.alpha(S) * (variance(S) / variance(T)).sqrt()
    u, v = ((x - x.mean()) / x.std() for x in (x_t, x_s))
    found = (u * v).mean()
    error = (u * v - found * (u**2 + v**2) / 2).std() / n**0.5
    assert (found - known).abs() < 4 * error < 0.01


@each_schedule
def test_eq_6_22(schedule):
    """Beside the library's ancestral step with the same noise; and mean and variance of (6.18) for
    a constant guess, by scipy.
    """
    (a_t, s_t), (a_s, s_s) = levels(schedule, T), levels(schedule, S)
    r_t, r_s, x0_hat = s_t / a_t, s_s / a_s, 0.4
    mean = lambda bar: x0_hat + r_s**2 / r_t**2 * (bar - x0_hat)
    std = r_s * (1 - r_s**2 / r_t**2).sqrt()
    z = torch.randn(X.shape, generator=G(3), dtype=F64)
    guess = torch.full_like(X, x0_hat)
    close(a_s * (mean(X / a_t) + std * z), samplers.step(schedule, X, guess, T, S, 1.0, G(3)))

    def moments(t, state):
        f, g2 = (value.item() for value in sde_of(schedule, t))
        alpha, sigma2 = schedule.alpha(t).item(), schedule.sigma(t).item() ** 2
        score = (alpha * x0_hat - state[0]) / sigma2
        return [f * state[0] - g2 * score, 2 * (f + g2 / sigma2) * state[1] - g2]
    ends = solve_ivp(moments, (0.7, 0.45), [1.3, 0.0], rtol=1e-9, atol=1e-11).y[:, -1]
    close(ends[0] / a_s, mean(1.3 / a_t), rtol=1e-6, atol=0)
    close(ends[1] / a_s**2, std**2, rtol=1e-6, atol=0)


# ---- clocks and rulers

@each_schedule
def test_eq_6_23(schedule):
    """The same noisy images under every schedule, where the log SNR is -2 log r."""
    x0, eps = torch.randn(2, 20, 2, generator=G(1), dtype=F64)
    for r in torch.tensor([0.2, 1.0, 1.6], dtype=F64):
        t = schedule.t_from_log_snr(-2 * r.log())
        close(schedule.perturb(x0, t, eps) / schedule.alpha(t), x0 + r * eps)


@each_schedule
def test_eq_6_24(schedule):
    """The exact denoiser of another schedule becomes this one's; the library's conversion."""
    for own in (FLOW, VP):
        D = PLANE.denoiser(own)
        t_own = own.t_from_log_snr(schedule.log_snr(S))
        converted = D(own.alpha(t_own) / schedule.alpha(S) * X, t_own)
        close(converted, PLANE.denoiser(schedule)(X, S))
        close(converted, sde.change_schedule(D, schedule)(X, S))


def test_eq_6_25():
    """Any prediction; and the library's Denoiser turns v_hat into the same x0_hat."""
    x0, eps, x0_hat = torch.randn(3, 20, 2, generator=G(1), dtype=F64)
    t = torch.linspace(0.05, 0.95, 20, dtype=F64)
    alpha, sigma = ((1 - t)[:, None], t[:, None])
    x = alpha * x0 + sigma * eps
    eps_hat = (x - alpha * x0_hat) / sigma
    v, v_hat = eps - x0, eps_hat - x0_hat
    squared = lambda error: error.square().sum(1)
    close(squared(v - v_hat), squared(eps - eps_hat) / alpha[:, 0] ** 2)
    close(squared(v - v_hat), squared(eps - eps_hat) / (1 - t) ** 2)
    close(Denoiser(lambda x, t: v_hat, FLOW, "flow")(x, t), x0_hat)


W = 0.6                                                     # data N(0, W^2), under the flow


def width(t):
    """The standard deviation of x_t."""
    return ((1 - t) ** 2 * W**2 + t**2) ** 0.5


def velocity(x, t):
    """E[eps - x0 | x_t = x]"""
    return x * (t - (1 - t) * W**2) / width(t) ** 2


def test_eq_6_26():
    """The three weights; the loss of the exact velocity, by the integral over log SNR, in closed
    form, and by the library with even times (four standard errors).
    """
    t = torch.linspace(0.02, 0.98, 9, dtype=F64)
    level = 2 * ((1 - t) / t).log()
    x = leaf(t)
    slope, = torch.autograd.grad(FLOW.log_snr(x).sum(), x)
    weight = lambda level: math.exp(-level / 2) / 2
    close(1 / (1 - t) ** 2 * (1 / slope).abs(), t / (2 * (1 - t)))
    close([weight(value) for value in level.tolist()], t / (2 * (1 - t)))
    of_eps = lambda t: (1 - t) ** 2 * W**2 / width(t) ** 2              # E|eps - eps_hat|^2
    time = lambda level: 1 / (1 + math.exp(level / 2))
    over_levels = quad(lambda level: weight(level) * of_eps(time(level)), -60, 60)[0]
    close(over_levels, math.pi * W / 2, rtol=1e-8, atol=0)
    n = 100_000
    even = (torch.arange(n, dtype=F64) + 0.5) / n
    x0, eps = torch.randn(2, n, 1, generator=G(1), dtype=F64)
    D = Denoiser(lambda x, t: velocity(x, t[:, None].double()), FLOW, "flow")
    losses = D.loss(W * x0, even, eps)
    assert (losses.mean() - over_levels).abs() < 4 * losses.std() / n**0.5 < 0.02


# ---- couplings

def shortest(x0, eps):
    """The permutation of (6.27), by trying all."""
    n = len(x0)
    cost = (x0[:, None] - eps).square().sum(2).tolist()
    total = lambda order: sum(cost[i][order[i]] for i in range(n))
    return list(min(itertools.permutations(range(n)), key=total))


def test_eq_6_27():
    """Beside scipy's; the pairs that it makes do not meet on the way; on a line, rank by rank."""
    for seed in range(12):
        x0, eps = torch.randn(2, 5, 2, generator=G(seed), dtype=F64)
        order = shortest(x0, eps)
        assert order == linear_sum_assignment(torch.cdist(x0, eps).square())[1].tolist()
        eps_of = eps[order]
        for i, j in itertools.combinations(range(5), 2):
            assert (x0[i] - x0[j]) @ (eps_of[i] - eps_of[j]) >= 0       # never at one place
        line = shortest(x0[:, :1], eps[:, :1])
        assert x0[:, 0].argsort().tolist() == sorted(range(5), key=lambda i: eps[line[i], 0])


def straightness(v, path, ts):
    """(6.28) of paths (n, times) whose last column is t = 1."""
    x0, x1 = path[:, :1], path[:, -1:]
    return torch.trapezoid(((x1 - x0) - v(path, ts)) ** 2, ts, dim=1).mean()


def test_eq_6_28():
    """The paths of N(0, W^2), in closed form: S = W (2 - pi / 2). S grows with the square of the
    start, so that starts of mean square 1 stand for all. Straight and even paths: 0, and one Euler
    step is exact.
    """
    ts = torch.linspace(0, 1, 501, dtype=F64)
    starts = torch.tensor([[2**0.5 * 0.6], [2**0.5 * -0.8]], dtype=F64)
    path = starts * width(ts)
    own = torch.stack(list(ddim(lambda x, t: x - t * velocity(x, t), FLOW, starts, ts.flip(0))))
    close(own[:, :, 0].T.flip(1), path, rtol=0.01, atol=0)
    close(straightness(velocity, path, ts), W * (2 - math.pi / 2), rtol=1e-4, atol=0)
    even = lambda x, t: x * (1 - W) / (W + (1 - W) * t)
    path = starts * (W + (1 - W) * ts)
    close(straightness(even, path, ts), 0.0)
    close(starts - even(starts, 1.0), W * starts)


# ---- likelihood

def ode_velocity(schedule, x, t):
    """Of the probability-flow ODE, differentiable by x."""
    f, g2 = sde_of(schedule, t)
    return f * x - g2 / 2 * nabla(PLANE.log_prob(x, *levels(schedule, t)), x)


@each_schedule
def test_eq_6_29(schedule):
    """Seen from a point that moves, by differences; and the fraction in the middle."""
    x, d = leaf(), 1e-4
    log_p = lambda x, t: PLANE.log_prob(x, *levels(schedule, t))
    v = ode_velocity(schedule, x, T)
    moving = (log_p(x + d * v, T + d) - log_p(x - d * v, T - d)) / (2 * d)
    p = density(schedule, x, T)
    fraction = (change_of_density(schedule) + (v * nabla(p, x)).sum(1)) / p
    close(fraction, moving, rtol=1e-5, atol=1e-5)
    close(moving, -div(v, x), rtol=1e-5, atol=1e-5)


def test_eq_6_30():
    """N(0, W^2) in the plane over the whole of [0, 1]; three points of the mixture from 0.05 to
    0.95, by scipy; and the library's likelihood.
    """
    x0 = X[:3]
    log_density = lambda x, std: log_normal(x, 0.0, std**2).sum(1)
    divergence = quad(lambda t: 2 * velocity(1.0, t), 0, 1)[0]          # v is a factor on x
    close(log_density(x0, W), log_density(x0 / W, 1.0) + divergence)

    def slope(t, state):
        x = leaf(torch.from_numpy(state[:6]).view(3, 2))
        v = ode_velocity(FLOW, x, torch.tensor(t, dtype=F64))
        return torch.cat([v.flatten(), div(v, x)]).detach().numpy()
    start = numpy.concatenate([x0.flatten().numpy(), numpy.zeros(3)])
    end = torch.from_numpy(solve_ivp(slope, (0.05, 0.95), start, rtol=1e-7, atol=1e-9).y[:, -1])
    at_end = PLANE.log_prob(end[:6].view(3, 2), 0.05, 0.95)
    log_p = at_end + end[6:]
    close(log_p, PLANE.log_prob(x0, 0.95, 0.05), rtol=1e-5, atol=1e-5)
    ts = FLOW.t_from_log_snr(torch.linspace(FLOW.log_snr(0.05), -14, 80, dtype=F64))
    close(sde.log_likelihood(PLANE.denoiser(FLOW), FLOW, x0, ts), log_p, rtol=0.01, atol=0.02)


J = torch.randn(3, 3, generator=G(4), dtype=F64)            # a Jacobian


def probes(kind):
    """All signs of three numbers, or the points of a quadrature that is exact for polynomials of
    degree 5 of three normal numbers; and their weights.
    """
    if kind == "signs":
        nodes, weights = torch.tensor([-1.0, 1.0], dtype=F64), torch.tensor([0.5, 0.5], dtype=F64)
    else:
        found = numpy.polynomial.hermite_e.hermegauss(3)
        nodes, weights = (torch.from_numpy(part) for part in found)
        weights = weights / weights.sum()
    weights = torch.cartesian_prod(weights, weights, weights).prod(1)
    return torch.cartesian_prod(nodes, nodes, nodes), weights


@pytest.mark.parametrize("kind", ["signs", "normal"])
def test_eq_6_31(kind):
    z, weights = probes(kind)
    estimates = torch.einsum("ni,ij,nj->n", z, J, z)
    close((weights * estimates).sum(), J.trace())
    x = leaf(torch.randn(len(z), 3, generator=G(1), dtype=F64))
    close(sde.divergence(x @ J.T, x, z), estimates)
    close(sde.divergence(x @ J.T, x), J.trace().expand(len(z)))


def test_eq_6_32():
    symmetric = (J + J.T) / 2
    whole, on_diagonal = symmetric.square().sum(), symmetric.diagonal().square().sum()
    derived = {"signs": 2 * (whole - on_diagonal), "normal": 2 * whole}
    for kind, variance in derived.items():
        z, weights = probes(kind)
        estimates = torch.einsum("ni,ij,nj->n", z, J, z)
        close((weights * (estimates - J.trace()) ** 2).sum(), variance)


LEVEL = torch.tensor([[0.3, -0.1]], dtype=F64)              # a picture of P = 2 pixel values


def probability(delta):
    """Of the level: the mixture's mass in its bin, by the normal distribution function."""
    mass = lambda bound: torch.special.ndtr((LEVEL + bound - PLANE.means) / PLANE.stds[:, None])
    return (PLANE.weights * (mass(delta / 2) - mass(-delta / 2)).prod(1)).sum()


def dequantised(delta):
    """log p(x + u) for u in the bin, and weights that add up to 1 (Gauss and Legendre)."""
    nodes, weights = (torch.from_numpy(part) for part in numpy.polynomial.legendre.leggauss(8))
    u = torch.cartesian_prod(nodes, nodes) * delta / 2
    return PLANE.log_prob(LEVEL + u), torch.cartesian_prod(weights, weights).prod(1) / 4


def test_eq_6_33():
    """The mass of the bin, as an integral and by the distribution function; the bound lies below
    and comes near with the square of the width.
    """
    gaps = []
    for delta in (0.2, 0.1):
        log_p, weights = dequantised(delta)
        integral = (weights * log_p.exp()).sum() * delta**2
        close(integral.log(), probability(delta).log())
        bound = (weights * log_p).sum() + 2 * math.log(delta)
        gaps.append(integral.log() - bound)
    assert 0 < gaps[1] < gaps[0] < 0.1 and 3.5 < gaps[0] / gaps[1] < 4.5


def bits_per_dimension(log_p, P, delta):
    """log_p: the mean of log p(x + u), in nats"""
    return -log_p / math.log(2) / P - math.log2(delta)


def test_eq_6_34():
    """Even chances for 256 levels cost 8 bits, in any unit; and a code is not shorter than the
    level's own length, which it reaches for narrow bins.
    """
    P = 5
    for delta in (2 / 255, 1 / 256, 1.0):
        close(bits_per_dimension(-P * math.log(256 * delta), P, delta), 8.0)
    assert round(bits_per_dimension(0.0, 1, 2 / 255), 2) == 6.99
    for delta in (0.2, 2 / 255):
        log_p, weights = dequantised(delta)
        bits = bits_per_dimension((weights * log_p).sum(), 2, delta)
        own = -probability(delta).log2() / 2
        assert own < bits < own + delta**2


def bound(D, x0, lowest=-12.0):
    """(6.35) of each x0 (n,), from log SNR lowest to 12, the averages over eps by quadrature,
    p(x0 | x_t0) = N(x / alpha, r^2): (n,), in nats
    """
    log_snr = torch.linspace(lowest, 12, 481, dtype=F64)
    mean = lambda values: (EPS_WEIGHT * values).sum(1)
    errors = []
    for t in FLOW.t_from_log_snr(log_snr):
        alpha, sigma = levels(FLOW, t)
        x = alpha * x0[:, None] + sigma * EPS                           # (n, 81)
        x0_hat = D(x.reshape(-1, 1), t).view(x.shape)
        errors.append(mean((EPS - (x - alpha * x0_hat) / sigma) ** 2))
    denoising = 0.5 * torch.trapezoid(torch.stack(errors), log_snr, dim=0)
    alpha, sigma = levels(FLOW, FLOW.t_from_log_snr(log_snr[0]))
    x = alpha * x0[:, None] + sigma * EPS
    log_q = log_normal(sigma * EPS, 0.0, sigma**2)
    prior = mean(log_q - log_normal(x, 0.0, sigma**2))
    r = math.exp(-12 / 2)
    first = mean(-log_normal(x0[:, None], x0[:, None] + r * EPS, r**2))
    return denoising + prior + first


def normal_denoiser(wrong=0.0):
    """Of N(0, W^2), times a factor that is 1 at clean levels: a function of r^2, and D(x, t)."""
    def factor(r2):
        wiggle = 1 + wrong * math.sin(3 * math.log(r2)) * r2 / (0.1 + r2)
        return W**2 / (W**2 + r2) * wiggle
    return factor, lambda x, t: factor((t / (1 - t)) ** 2) * x / (1 - t)


def test_eq_6_35():
    """The exact denoiser of bumps: the data's own length, of each point. N(0, W^2) from a level at
    which the prior is wrong: given both ends of a path, the model is right, so what the bound adds
    is the divergence of the noisy end given x0.
    """
    x0 = torch.tensor([-1.2, 0.1, 0.9, 2.5], dtype=F64)
    close(bound(LINE.denoiser(FLOW), x0), -LINE.log_prob(x0[:, None]), rtol=0, atol=1e-3)
    a, spread = W**2 / (W**2 + 1), W**2 / (W**2 + 1)        # x0 given x1 / alpha, where r = 1
    length = -log_normal(x0, 0.0, a**2 + spread)
    posterior = 1 / (1 + a**2 / spread)                     # of x1 / alpha given x0, in the model
    miss = x0 - posterior * a / spread * x0
    gap = (miss**2 / posterior + 1 / posterior - 1 + math.log(posterior)) / 2
    close(bound(normal_denoiser()[1], x0, 0.0), length + gap, rtol=0, atol=1e-3)


def test_eq_6_35_in_the_library():
    """Its estimate, with the noise drawn (four standard errors)."""
    D, x0 = LINE.denoiser(FLOW), torch.tensor([-1.2, 0.1, 0.9, 2.5], dtype=F64)
    ts = FLOW.t_from_log_snr(torch.linspace(12, 0, 121, dtype=F64))
    found = sde.variational_bound(D, FLOW, x0.repeat(500)[:, None], ts, generator=G(1)).view(500, 4)
    error = found.std(0) / 500**0.5
    assert ((found.mean(0) - bound(D, x0, 0.0)).abs() < 4 * error).all() and error.max() < 0.1


def test_eq_6_35_is_a_bound():
    """A denoiser that is no data's: its process with noise, (6.18) with lambda = 1, ends in a
    normal distribution whose variance scipy finds.
    """
    factor, D = normal_denoiser(wrong=0.5)

    def slope(log_r2, variance):
        """Of x / alpha, whose f is 0 and whose g^2 dt is d(r^2)."""
        r2 = math.exp(log_r2)
        return 2 * (1 - factor(r2)) * variance - r2
    end = solve_ivp(slope, (12, -12), [math.exp(12.0)], rtol=1e-9, atol=1e-12).y[0, -1]
    x0 = torch.tensor([0.0, 0.5, 1.2], dtype=F64)
    gap = bound(D, x0) + log_normal(x0, 0.0, end + math.exp(-12.0))
    assert (gap > 0.01).all()
