"""Every tagged formula of lesson 2, checked numerically.

`test_lesson_tags.py` keeps the list complete.
"""
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lab import profiling
from course_lib.networks.dit import DiTBlock
from course_lib.networks.layers import AttentionBlock, ResnetBlock, TimeEmbedding, attention

STACKS = (                                                  # (kernel, stride), from the input on
    [(3, 1), (3, 1)],
    [(3, 2), (5, 1), (3, 2), (3, 1)],
    [(2, 2), (3, 1), (4, 2), (3, 1)],
)


@pytest.mark.parametrize("layers", STACKS)
def test_eq_2_1(layers):
    """The receptive field of one output, counted by gradient, in one dimension.

    All kernels are positive, so that nothing cancels.
    """
    r, jump = 1, 1
    for kernel, stride in layers:
        r += (kernel - 1) * jump
        jump *= stride
    net = nn.Sequential(*[nn.Conv1d(1, 1, k, stride=s, bias=False) for k, s in layers])
    for layer in net:
        nn.init.ones_(layer.weight)
    x = torch.ones(1, 1, 200, requires_grad=True)
    out = net(x)
    out[0, 0, out.shape[-1] // 2].backward()
    assert (x.grad != 0).sum() == r


def test_eq_2_2():
    """A convolution's multiply-adds, as torch counts them; stride 2 leaves a quarter of them."""
    for kernel, stride, H, W in ((3, 1, 12, 16), (3, 2, 6, 8), (5, 1, 12, 16), (1, 2, 6, 8)):
        layer = nn.Conv2d(5, 7, kernel, padding=kernel // 2, stride=stride)
        counted = profiling.multiply_adds(layer, torch.zeros(1, 5, 12, 16))
        assert counted == H * W * 5 * 7 * kernel**2


def test_eq_2_3():
    t, K = 0.37, 16
    angles = [1000 * t * 10_000 ** (-k / (K - 1)) for k in range(K)]
    by_hand = torch.tensor([f(angle) for f in (math.sin, math.cos) for angle in angles])
    embedding = TimeEmbedding(2 * K)(torch.tensor([t]))[0]
    torch.testing.assert_close(embedding, by_hand, atol=1e-4, rtol=0)


def test_eq_2_4():
    """The dot product depends on the distance alone."""
    t, s = torch.tensor([0.2, 0.5]), torch.tensor([0.23, 0.53])
    embed = TimeEmbedding(32)
    dots = (embed(t) * embed(s)).sum(1)
    frequency = 10_000.0 ** (-torch.arange(16) / 15)
    by_hand = torch.cos(1000 * 0.03 * frequency).sum().expand(2)
    torch.testing.assert_close(dots, by_hand, atol=2e-3, rtol=0)


def test_eq_2_5():
    # a variance near the 1e-5, so that its place matters
    h = (3e-3 * torch.randn(2, 32, 4, 4) + 5).double()
    norm = nn.GroupNorm(2, 32).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    groups = h.view(2, 2, 16, 4, 4)
    mean = groups.mean((2, 3, 4), True)
    variance = groups.var((2, 3, 4), correction=0, keepdim=True)
    normalised = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(h)
    by_hand = normalised * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(h), by_hand, rtol=1e-6, atol=1e-6)


def test_eq_2_6():
    z = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(F.silu(z), z / (1 + (-z).exp()))


def test_eq_2_7():
    """The second half of a block, by hand: scale and shift chosen by the embedding."""
    block = ResnetBlock(16, 16, 8)
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    x, emb = torch.randn(2, 16, 4, 4), torch.randn(2, 8)
    a, b = (emb @ block.emb.weight.T + block.emb.bias).view(2, 2, 16, 1, 1).unbind(1)
    h = (1 + a) * block.norm2(block.conv1(F.silu(block.norm1(x)))) + b
    torch.testing.assert_close(block(x, emb), x + block.conv2(F.silu(h)))


def test_eq_2_8():
    """Independent inputs of variance 1 give variance 1, for every tau, the weight of b."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400_000, generator=g)
    for tau in (0.1, 0.3, 0.5):
        mixed = ((1 - tau) * a + tau * b) / math.sqrt((1 - tau) ** 2 + tau**2)
        assert mixed.var() == pytest.approx(1, abs=5 * (2 / 400_000) ** 0.5)
        assert (mixed * a).mean() / (mixed * b).mean() == pytest.approx((1 - tau) / tau, rel=0.1)


def test_eq_2_9():
    """Attention by plain sums, query by query."""
    q, k, v = torch.randn(3, 5, 8, dtype=torch.float64)
    rows = []
    for query in q:
        scores = [(query * key).sum().item() / math.sqrt(8) for key in k]
        weight = torch.tensor([math.exp(score) for score in scores], dtype=torch.float64)
        rows.append((weight[:, None] / weight.sum() * v).sum(0))
    by_hand = torch.stack(rows)
    torch.testing.assert_close(attention(q, k, v), by_hand)
    q_leaf = q.clone().requires_grad_()                     # the plain products, for training
    torch.testing.assert_close(attention(q_leaf, k, v).detach(), by_hand)
    fused = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    torch.testing.assert_close(fused, by_hand)


def test_eq_2_10():
    g = torch.Generator().manual_seed(0)
    for d in (4, 64):
        q = torch.randn(100_000, d, generator=g)
        k = torch.randn(100_000, d, generator=g)
        dots = (q * k).sum(1)
        assert dots.var() == pytest.approx(d, rel=0.03)


def test_eq_2_11():
    for side, C, num_heads in ((3, 32, 2), (6, 32, 4), (6, 64, 2)):
        block = AttentionBlock(C, num_heads)
        N = side**2
        counted = profiling.multiply_adds(block, torch.zeros(1, C, side, side))
        assert counted == 4 * N * C**2 + 2 * N**2 * C


def test_eq_2_12():
    """RMS normalisation as torch has it; q k / sqrt(d) of two such vectors is at most sqrt(d)."""
    for size, d in ((10, 16), (1e-3, 64)):                  # small numbers, too: the epsilon shows
        z = size * torch.randn(500, d, dtype=torch.float64)
        rms = z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(rms, F.rms_norm(z, (d,), eps=1e-6))
        assert (rms @ rms.T / math.sqrt(d)).abs().max() <= math.sqrt(d)
        # without the epsilon a vector with itself reaches the bound
        long = rms * (math.sqrt(d) / rms.norm(dim=-1, keepdim=True))
        bound = torch.full((500,), math.sqrt(d)).double()
        torch.testing.assert_close((long * long).sum(-1) / math.sqrt(d), bound)


def test_eq_2_13():
    """A transformer block by hand: two halves, each scaled, shifted and gated."""
    block = DiTBlock(16, 2)
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    x, emb = torch.randn(2, 5, 16), torch.randn(2, 16)
    modulation = emb @ block.emb.weight.T + block.emb.bias              # (2, 6 * 16)
    b1, a1, g1, b2, a2, g2 = modulation.view(2, 6, 1, 16).unbind(1)

    def norm(z):
        variance = z.var(-1, correction=0, keepdim=True)
        return (z - z.mean(-1, keepdim=True)) / (variance + 1e-5).sqrt()

    qkv = block.qkv((1 + a1) * norm(x) + b1)
    q, k, v = (part.view(2, 5, 2, 8).transpose(1, 2) for part in qkv.chunk(3, -1))
    h = x + g1 * block.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    by_hand = h + g2 * block.mlp((1 + a2) * norm(h) + b2)
    torch.testing.assert_close(block(x, emb), by_hand, rtol=1e-4, atol=1e-4)


def test_eq_2_15():
    """A dot product of rotated pairs depends on the difference of their positions alone."""

    def R(angle):
        cos, sin = math.cos(angle), math.sin(angle)
        return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)

    q, k = torch.randn(2, 2, dtype=torch.float64)
    theta = 0.3
    for m, n in ((0, 3), (5, 8), (9, 2)):
        rotated = (R(theta * m) @ q) @ (R(theta * n) @ k)
        torch.testing.assert_close(rotated, q @ (R(theta * (n - m)) @ k))
    assert abs(q @ R(0.9) @ k - q @ R(-0.9) @ k) > 1e-6, "the other direction is another number"


def test_eq_2_14():
    for N, d in ((9, 32), (16, 64)):
        tokens, emb = torch.zeros(1, N, d), torch.zeros(1, d)
        counted = profiling.multiply_adds(DiTBlock(d, 4), tokens, emb) - 6 * d * d
        assert counted == 12 * N * d**2 + 2 * N**2 * d
