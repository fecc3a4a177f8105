"""Every tagged formula of lesson 6 checked numerically; `test_every_tag_has_its_test` keeps the
list complete.
"""
import itertools
import math
import re
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


def test_every_tag_has_its_test():
    name = "06_advanced_techniques.py"
    lesson = ROOT / "lessons" / name
    lesson = lesson if lesson.exists() else ROOT / "lessons/drafts" / name
    tags = re.findall(r"\\tag\{6\.(\d+)\}", lesson.read_text())
    assert tags == [str(k) for k in range(1, len(tags) + 1)], (
        "numbered from 1, in order, none twice"
    )
    tests = re.findall(r"^def test_eq_6_(\d+)\(", Path(__file__).read_text(), re.MULTILINE)
    assert tags == sorted(tests, key=int)


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
