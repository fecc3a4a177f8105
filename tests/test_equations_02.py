"""Every tagged formula of lesson 2, checked numerically; `test_every_tag_has_its_test` keeps the list complete."""
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lab import cost
from course_lib.networks.dit import DiTBlock
from course_lib.networks.unet import AttentionBlock, ResnetBlock, TimeEmbedding, attention


def test_every_tag_has_its_test():
    lesson = (Path(__file__).parents[1] / "lessons/02_denoising_networks.py").read_text()
    tags = re.findall(r"\\tag\{2\.(\d+)\}", lesson)
    assert tags == [str(k) for k in range(1, len(tags) + 1)], "numbered from 1, in order, none twice"
    assert set(tags) == {name.removeprefix("test_eq_2_") for name in globals() if name.startswith("test_eq_2_")}


@pytest.mark.parametrize("layers", [[(3, 1), (3, 1)], [(3, 2), (5, 1), (3, 2), (3, 1)], [(2, 2), (3, 1), (4, 2), (3, 1)]])
def test_eq_2_1(layers):
    """The view of one output, counted by gradient, in a long line with positive kernels (so that nothing cancels)."""
    r, jump = 1, 1
    for kernel, stride in layers:
        r, jump = r + (kernel - 1) * jump, jump * stride
    net = nn.Sequential(*[nn.Conv1d(1, 1, k, stride=s, bias=False) for k, s in layers])
    for layer in net:
        nn.init.ones_(layer.weight)
    x = torch.ones(1, 1, 200, requires_grad=True)
    out = net(x)
    out[0, 0, out.shape[-1] // 2].backward()
    assert (x.grad != 0).sum() == r


def test_eq_2_2():
    """A convolution's multiply-adds, against torch's own counter; stride 2 makes a quarter of the output."""
    for kernel, stride, H, W in ((3, 1, 12, 16), (3, 2, 6, 8), (5, 1, 12, 16), (1, 2, 6, 8)):
        layer = nn.Conv2d(5, 7, kernel, padding=kernel // 2, stride=stride)
        assert cost.multiply_adds(layer, torch.zeros(1, 5, 12, 16)) == H * W * 5 * 7 * kernel**2


def test_eq_2_3():
    t, K = 0.37, 16
    by_hand = [f(1000 * t * 10_000 ** (-k / (K - 1))) for f in (math.sin, math.cos) for k in range(K)]
    torch.testing.assert_close(TimeEmbedding(2 * K)(torch.tensor([t]))[0], torch.tensor(by_hand), atol=1e-4, rtol=0)


def test_eq_2_4():
    """The dot product depends on the distance alone."""
    t, s = torch.tensor([0.2, 0.5]), torch.tensor([0.23, 0.53])
    embed = TimeEmbedding(32)
    dots = (embed(t) * embed(s)).sum(1)
    frequency = 10_000.0 ** (-torch.arange(16) / 15)
    torch.testing.assert_close(dots, torch.cos(1000 * 0.03 * frequency).sum().expand(2), atol=2e-3, rtol=0)


def test_eq_2_5():
    h = (3e-3 * torch.randn(2, 32, 4, 4) + 5).double()                  # a variance near the 1e-5, so that its place matters
    norm = nn.GroupNorm(2, 32).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    groups = h.view(2, 2, 16, 4, 4)
    mean, variance = groups.mean((2, 3, 4), True), groups.var((2, 3, 4), correction=0, keepdim=True)
    by_hand = ((groups - mean) / (variance + 1e-5).sqrt()).view_as(h) * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
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
    """Independent inputs of variance 1 come out with variance 1, for every weight; tau is b's share."""
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
        weight = torch.tensor([math.exp((query * key).sum().item() / math.sqrt(8)) for key in k], dtype=torch.float64)
        rows.append((weight[:, None] / weight.sum() * v).sum(0))
    torch.testing.assert_close(attention(q, k, v), torch.stack(rows))
    torch.testing.assert_close(F.scaled_dot_product_attention(q[None], k[None], v[None])[0], torch.stack(rows))


def test_eq_2_10():
    g = torch.Generator().manual_seed(0)
    for d in (4, 64):
        dots = (torch.randn(100_000, d, generator=g) * torch.randn(100_000, d, generator=g)).sum(1)
        assert dots.var() == pytest.approx(d, rel=0.03)


def test_eq_2_11():
    for side, C, heads in ((3, 32, 2), (6, 32, 4), (6, 64, 2)):
        block = AttentionBlock(C, heads)
        assert cost.multiply_adds(block, torch.zeros(1, C, side, side)) == 4 * side**2 * C**2 + 2 * (side**2) ** 2 * C


def test_eq_2_12():
    """RMS normalisation as torch has it; and no dot product of two such vectors, divided by sqrt(d), exceeds sqrt(d)."""
    for size, d in ((10, 16), (1e-3, 64)):                              # small numbers, too: there the epsilon shows
        z = size * torch.randn(500, d, dtype=torch.float64)
        rms = z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(rms, F.rms_norm(z, (d,), eps=1e-6))
        assert (rms @ rms.T / math.sqrt(d)).abs().max() <= math.sqrt(d)
        long = rms * (math.sqrt(d) / rms.norm(dim=-1, keepdim=True))    # without the epsilon the bound is reached by a vector with itself
        torch.testing.assert_close((long * long).sum(-1) / math.sqrt(d), torch.full((500,), math.sqrt(d)).double())


def test_eq_2_13():
    """A transformer block by hand: two halves, each scaled, shifted and gated."""
    block = DiTBlock(16, 2)
    for p in block.parameters():
        nn.init.normal_(p, std=0.2)
    x, emb = torch.randn(2, 5, 16), torch.randn(2, 16)
    b1, a1, g1, b2, a2, g2 = (emb @ block.emb.weight.T + block.emb.bias).view(2, 6, 1, 16).unbind(1)
    norm = lambda z: (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    q, k, v = (part.view(2, 5, 2, 8).transpose(1, 2) for part in block.qkv((1 + a1) * norm(x) + b1).chunk(3, -1))
    h = x + g1 * block.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(x, emb), h + g2 * block.mlp((1 + a2) * norm(h) + b2), rtol=1e-4, atol=1e-4)


def test_eq_2_14():
    """A dot product of turned pairs depends on the distance of their places alone, and on which comes first."""
    R = lambda angle: torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    q, k, theta = *torch.randn(2, 2, dtype=torch.float64), 0.3
    for m, n in ((0, 3), (5, 8), (9, 2)):
        torch.testing.assert_close((R(theta * m) @ q) @ (R(theta * n) @ k), q @ (R(theta * (n - m)) @ k))
    assert abs(q @ R(0.9) @ k - q @ R(-0.9) @ k) > 1e-6, "the other direction is another number"


def test_eq_2_15():
    for N, d in ((9, 32), (16, 64)):
        counted = cost.multiply_adds(DiTBlock(d, 4), torch.zeros(1, N, d), torch.zeros(1, d)) - 6 * d * d
        assert counted == 12 * N * d**2 + 2 * N**2 * d
