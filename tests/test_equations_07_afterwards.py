"""Lesson 7, "Afterwards": its formulas (7.23) to (7.29)."""
import math

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
)
from diffusers.models.embeddings import apply_rotary_emb

from course_lib import Schedule, cfg, ddim, last, timesteps
from course_lib.lab.data import GaussianMixture
from course_lib.networks.layers import attention
from course_lib.networks.stable_diffusion.unet import StepEmbedding
from course_lib.samplers import step

close = torch.testing.assert_close
COSINE, FLOW, SD = Schedule.cosine(), Schedule.flow(), Schedule.scaled_linear()
CONFIG = dict(
    sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
    attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
    caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=12,
)                                                                                    # fmt: skip


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model):
    """No parameter is 0 or 1."""
    for seed, p in enumerate(model.parameters()):
        p.data = randn(*p.shape, seed=seed) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5)
    return model.double().eval().requires_grad_(False)


def off(found, wanted):
    return ((found - wanted).abs().max() / wanted.std()).item()


# ---- guidance in one pass

@pytest.mark.parametrize("w", [0.0, 1.0, 4.0])
def test_eq_7_23(w):
    """One Gaussian in another: the student is a straight line, found by least squares without a
    residual, and one step of it is one guided step.
    """
    m, s, t = 0.7, 0.4, torch.tensor(0.6, dtype=torch.float64)
    everything = GaussianMixture([[0.0]], 1.0).denoiser(COSINE)
    of_class = GaussianMixture([[m]], s).denoiser(COSINE)
    calls = []

    def D(x, t, y):
        calls.append(y)
        return (of_class if y else everything)(x, t)
    teacher = cfg(D, w, {"y": 0})
    alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
    x = alpha * (m + s * randn(500, 1)) + sigma * randn(500, 1, seed=1)
    wanted = teacher(x, t, y=1)
    assert calls == ([1] if w == 1 else [0, 1])             # two evaluations
    fit = torch.linalg.lstsq(torch.cat([x, torch.ones_like(x)], 1), wanted)
    slope, intercept = fit.solution[:, 0]
    variance = alpha**2 * s**2 + sigma**2
    close(slope, (1 - w) * alpha + w * alpha * s**2 / variance)
    close(intercept, w * m * sigma**2 / variance)
    student = slope * x + intercept
    close(student, wanted)
    unconditional, conditional = everything(x, t), of_class(x, t)
    close(student, unconditional + w * (conditional - unconditional))
    at = torch.stack([t, t - 0.1])
    close(step(COSINE, x, student, *at), last(ddim(teacher, COSINE, x, at, y=1)))


# ---- the shift

@pytest.mark.parametrize("s", [2, 3])
def test_eq_7_24(s):
    """The mean of s^2 copies at t' has the log SNR of one pixel at t, by simulation."""
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    later = s * t / (1 + (s - 1) * t)
    close(s * (1 - later) / later, (1 - t) / t)
    close(FLOW.log_snr(later), FLOW.log_snr(t) - 2 * math.log(s))
    for one, moved in zip(t, later):
        copies = FLOW.perturb(torch.ones(s**2, 50_000), moved, randn(s**2, 50_000).float())
        mean = copies.double().mean(0)
        snr = mean.mean() ** 2 / mean.var()
        assert abs(snr.log() - FLOW.log_snr(one)) < 0.05    # 8 standard errors
    theirs = FlowMatchEulerDiscreteScheduler(shift=float(s))
    even = timesteps(FLOW, 28)
    theirs.set_timesteps(sigmas=even[:-1].tolist())
    close(theirs.sigmas.double(), s * even / (1 + (s - 1) * even), rtol=0, atol=1e-6)


# ---- the schedule's end

def test_eq_7_25():
    """The first stays, the last is 0, differences keep their ratios; diffusers has the same."""
    root = (1 - SD.betas).cumprod(0).sqrt()
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    close(rescaled[0], root[0])
    assert rescaled[-1] == 0
    close(rescaled.diff() / root.diff(), (root[0] / (root[0] - root[-1])).expand(999))
    zero = Schedule.zero_terminal_snr(SD.betas)
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    close(zero.alpha(times), rescaled)
    before = torch.cat([torch.ones(1), rescaled[:-1] ** 2])
    close(zero.betas, 1 - rescaled**2 / before)
    assert zero.betas[-1] == 1 and zero.log_snr(1.0) == -math.inf
    close(SD.log_snr(1.0).item(), -5.364, rtol=0, atol=1e-3)
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )                                                                                # fmt: skip
    close(theirs.alphas_cumprod.double(), rescaled**2, rtol=0, atol=1e-5)


def brightness(schedule, d, m, s, n=500):
    """Exact samples from pure noise of the mean of d equal numbers that are N(m, s^2)."""
    exact = GaussianMixture([[m * d**0.5]], s * d**0.5).denoiser(schedule)
    noise = randn(n, 1)
    noise = schedule.sigma(1.0) * (noise - noise.mean()) / noise.std()  # the map is a line
    ts = 1 - torch.linspace(0, 1, 201, dtype=torch.float64) ** 3
    return last(ddim(exact, schedule, noise, ts)) / d**0.5


@pytest.mark.parametrize("d, m, s", [(64, -0.8, 0.3), (4096, 0.5, 0.1)])
def test_eq_7_26(d, m, s):
    """Mean and deviation of samples, and rho as the correlation in training."""
    a, noise = SD.alpha(1.0) * s, SD.sigma(1.0) / d**0.5
    rho = a / (a**2 + noise**2).sqrt()
    b = brightness(SD, d, m, s)
    close(b.mean(), m * (1 - rho), rtol=0, atol=5e-3)
    close(b.std(), s * (1 - rho**2).sqrt(), rtol=0.02, atol=0)
    seen = m + s * randn(100_000)
    mean = SD.alpha(1.0) * seen + noise * randn(100_000, seed=1)
    close(torch.corrcoef(torch.stack([seen, mean]))[0, 1], rho, rtol=0, atol=0.01)
    b = brightness(Schedule.zero_terminal_snr(SD.betas), d, m, s)       # rho = 0
    close(b.mean().item(), m, rtol=0, atol=5e-3)
    close(b.std().item(), s, rtol=0.02, atol=0)


# ---- layouts

def mlp(x, layers):
    return layers.linear_2(F.silu(layers.linear_1(x)))


def test_eq_7_27():
    """SD3's embedding of time and pooled text; Flux has the guidance scale, too."""
    emb, pooled = StepEmbedding(256), randn(2, 20)
    t, w = torch.tensor([0.2, 1.0]).double(), torch.tensor([3.5, 1.0]).double()
    theirs = randomised(SD3Transformer2DModel(**CONFIG)).time_text_embed
    found = mlp(emb(1000 * t), theirs.timestep_embedder) + mlp(pooled, theirs.text_embedder)
    close(found, theirs(1000 * t, pooled))
    flux = randomised(FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20,
        guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    ))                                                                               # fmt: skip
    seen = []
    flux.transformer_blocks[0].norm1.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["emb"]), with_kwargs=True
    )
    ids = torch.zeros(5, 3), torch.zeros(4, 3)
    flux(randn(2, 4, 16), randn(2, 5, 24), pooled, t, ids[1], ids[0], w)
    theirs = flux.time_text_embed
    found = mlp(emb(1000 * t), theirs.timestep_embedder) + mlp(pooled, theirs.text_embedder)
    close(seen[0], found + mlp(emb(1000 * w), theirs.guidance_embedder))


def test_eq_7_28():
    """Attention and MLP read the same; one matrix adds both up."""
    with torch.device("meta"):
        kind = type(FluxTransformer2DModel(num_layers=1).single_transformer_blocks[0])
    block = randomised(kind(32, 2, 16))
    block.attn.norm_q = block.attn.norm_k = torch.nn.Identity()
    c, x, e = randn(2, 5, 32), randn(2, 9, 32, seed=1), randn(2, 32, seed=2)
    h = torch.cat([c, x], 1)
    b, a, g = (F.silu(e) @ block.norm.linear.weight.T + block.norm.linear.bias).chunk(3, 1)
    normed = F.layer_norm(h, (32,), eps=1e-6)
    x_in = (1 + a[:, None]) * normed + b[:, None]
    q, k, v = (
        layer(x_in).unflatten(-1, (2, -1)).transpose(1, 2)
        for layer in (block.attn.to_q, block.attn.to_k, block.attn.to_v)
    )
    attended = attention(q, k, v).transpose(1, 2).flatten(2)
    hidden = F.gelu(block.proj_mlp(x_in), approximate="tanh")
    W, bias = block.proj_out.weight, block.proj_out.bias
    wanted = h + g[:, None] * (torch.cat([attended, hidden], -1) @ W.T + bias)
    close(torch.cat(block(x, c, e), 1), wanted)


def turned(x, i):
    angle = i * 10_000 ** (-torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    a, b = x[..., ::2], x[..., 1::2]
    pair = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    return torch.stack(pair, -1).flatten(-2)


def test_eq_7_29():
    """The product knows the distance; the turn is diffusers' own, one axis of Flux's three."""
    q, k = randn(2, 16)
    for i, j in ((2, 5), (12, 15), (7, 3)):
        close(turned(q, i) @ turned(k, j), q @ turned(k, j - i))
    assert abs(turned(q, 2) @ turned(k, 5) - turned(q, 2) @ turned(k, 6)) > 0.1
    close(turned(q, 0), q)
    rope = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, in_channels=4, num_attention_heads=1,
        attention_head_dim=16, axes_dims_rope=(4, 8, 4), joint_attention_dim=8,
        pooled_projection_dim=8,
    ).pos_embed                                                                      # fmt: skip
    cos, sin = rope(torch.tensor([[0.0, 5.0, 0.0]]))
    theirs = apply_rotary_emb(q.view(1, 1, 1, 16), (cos, sin), sequence_dim=1)[0, 0, 0]
    wanted = torch.cat([q[:4], turned(q[4:12], 5), q[12:]])
    close(theirs.double(), wanted, rtol=0, atol=1e-5)
