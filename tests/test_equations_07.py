"""The formulas of lesson 7, part I: Stable Diffusion and its adapters."""
import math

import torch
import torch.nn.functional as F

from course_lib import Denoiser, Schedule, timesteps
from course_lib.lab.evaluation import faults
from course_lib.networks.layers import attention
from course_lib.networks.stable_diffusion import lora
from course_lib.networks.stable_diffusion.control import ControlNet
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder, quick_gelu
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import (
    GEGLU,
    SpatialTransformer,
    StableDiffusionUNet,
    StepBlock,
    StepEmbedding,
)
from course_lib.networks.vae import AutoencoderKL
from course_lib.preference import dpo_loss

close = torch.testing.assert_close
SD = Schedule.scaled_linear()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(net, seed=0):
    """No parameter is 0 or 1."""
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        noise = torch.randn(p.shape, generator=g)
        p.data = noise / (math.sqrt(p[0].numel()) if p.ndim > 1 else 2)
    return net.double()


def test_eq_7_1():
    """The first merge has the largest count over words, times how often each occurs."""
    texts = ["cab"] * 5 + ["xyxyx"] * 2                     # more often, though once a word
    words = {"cab": 5, "xyxyx": 2}
    counts = {}
    for word, n in words.items():
        parts = [*word[:-1], word[-1] + "</w>"]
        for k in range(len(parts) - 1):
            pair = (parts[k], parts[k + 1])
            counts[pair] = counts.get(pair, 0) + n
    best = BytePairTokenizer.learn(texts, 515).merges[0]
    assert counts[best] == max(counts.values()) and best == ("a", "b</w>")


def test_eq_7_2():
    """Softmax with M, beside the fused kernel; a later token changes no earlier vector."""
    q, k, v = (randn(2, 3, 6, 8, seed=seed) for seed in range(3))
    M = torch.full((6, 6), -math.inf, dtype=torch.float64).triu(1)
    weights = (q @ k.transpose(2, 3) / 8**0.5 + M).softmax(3)
    close(attention(q, k, v, torch.ones(6, 6, dtype=torch.bool).tril()), weights @ v)
    net = randomised(ClipTextEncoder(50, 6, 16, 2, 4, 32))
    tokens = torch.randint(0, 50, (1, 6), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[0, 3] = (tokens[0, 3] + 1) % 50
    same = (net(tokens) == net(other))[0].all(1)
    assert same.tolist() == [True] * 3 + [False] * 3


def test_eq_7_3():
    x = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))
    normal = torch.distributions.Normal(0.0, 1.0)
    assert 0.019 < (quick_gelu(x) - x * normal.cdf(x)).abs().max() < 0.021


def test_eq_7_4():
    i, h = torch.tensor([0.0, 7.0, 999.0]), 16
    omega = 10_000.0 ** (-torch.arange(h) / h)
    wanted = torch.cat([(i[:, None] * omega).cos(), (i[:, None] * omega).sin()], 1)
    close(StepEmbedding(2 * h)(i), wanted, rtol=0, atol=2e-4)            # float32 of 999 radians
    close(StepEmbedding(2 * h)(torch.zeros(1))[0, :h], torch.ones(h))


def test_eq_7_5():
    """The time is added to conv1's output, through silu and a matrix."""
    block = randomised(StepBlock(16, 32, 24, 8))
    x, e = randn(2, 16, 4, 4), randn(2, 24, seed=1)
    h = block.conv1(F.silu(block.norm1(x)))
    h = h + (F.silu(e) @ block.emb.weight.T + block.emb.bias)[:, :, None, None]
    close(block(x, e), block.shortcut(x) + block.conv2(F.silu(block.norm2(h))))


def test_eq_7_6():
    """Three residual steps, each after its norm."""
    net = randomised(SpatialTransformer(16, 12, 4, 8, linear=True, upcast=False))
    x, c = randn(2, 16, 3, 3), randn(2, 5, 12, seed=1)
    h = net.proj_in(net.norm(x).flatten(2).transpose(1, 2))
    h = h + net.self_attention(net.norm1(h), net.norm1(h))
    h = h + net.cross_attention(net.norm2(h), c)
    h = h + net.mlp(net.norm3(h))
    close(net(x, c), x + net.proj_out(h).transpose(1, 2).view(x.shape))


def test_eq_7_7():
    mlp, x = randomised(GEGLU(6)), randn(3, 6)
    (W1, W2), (b1, b2) = mlp.proj.weight.chunk(2), mlp.proj.bias.chunk(2)
    close(mlp(x), mlp.out((x @ W1.T + b1) * F.gelu(x @ W2.T + b2)))


def test_eq_7_8():
    """From v to eps and x0, and the denoiser's own inversion."""
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = SD.alpha(t)[:, None], SD.sigma(t)[:, None]
    x0, eps = randn(3, 4), randn(3, 4, seed=1)
    x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    close(alpha * v + sigma * x, eps)
    close(alpha * x - sigma * v, x0)

    class Net(torch.nn.Module):
        def forward(self, x, t):
            return v
    close(Denoiser(Net(), SD, "v")(x, t), x0)


def test_eq_7_9():
    """Both grids, and diffusers' own."""
    from diffusers import DDIMScheduler
    for n in (10, 50, 7):
        trailing = [round((n - k) * 1000 / n) - 1 for k in range(n)]
        leading = [(n - 1 - k) * (1000 // n) + 1 for k in range(n)]
        for spacing, wanted in (("trailing", trailing), ("leading", leading)):
            theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
            theirs.set_timesteps(n)
            assert theirs.timesteps.tolist() == wanted
        own = timesteps(SD, n, faults.leading)[:-1] * 1000 - 1
        assert own.round().int().tolist() == leading
    close(timesteps(SD, 10)[:-1] * 1000 - 1, torch.arange(999.0, 0, -100).double())


def test_eq_7_10():
    """A fault far below what one sees has a number; the same model has none."""
    wanted = randn(1000)
    assert faults._off(wanted, wanted) == 0
    std = wanted.std().item()
    close(faults._off(wanted + 1e-9, wanted), 1e-9 / std, rtol=1e-5, atol=0)
    close(faults._off(7 * wanted + 7e-3, 7 * wanted), 1e-3 / std, rtol=1e-5, atol=0)


def test_eq_7_11():
    weight = randn(6, 5)
    part = lora.LowRank(weight, rank=2, alpha=6.0, name="a").double()
    A, B = randn(2, 5, seed=1), randn(6, 2, seed=2)
    part.load_state_dict({"down": A, "up": B})
    for dial in (0.0, 0.7, 1.5):
        part.dial = dial
        close(part(weight), weight + dial * 6.0 / 2 * B @ A)


def test_eq_7_12():
    """The gradients of both factors; with both at 0 there are none."""
    weight, G = randn(6, 5), randn(6, 5, seed=3)
    part = lora.LowRank(weight, rank=2, alpha=6.0, name="a").double()
    zero = torch.zeros(2, 5), torch.zeros(6, 2)
    for A, B in ((randn(2, 5, seed=1), randn(6, 2, seed=2)), zero):
        part.load_state_dict({"down": A, "up": B})
        part.zero_grad()
        (part(weight) * G).sum().backward()
        close(part.up.grad, 6.0 / 2 * G @ A.double().T)
        close(part.down.grad, 6.0 / 2 * B.double().T @ G)
    assert part.up.grad.abs().max() == part.down.grad.abs().max() == 0


def test_eq_7_13():
    """What a ControlNet gives is zero at first, and is added to the skip connections."""
    net = randomised(StableDiffusionUNet(widths=(32, 32), depth=1, context_dim=8, num_heads=4))
    control = ControlNet(net, 1, 2, 8).double()
    x, step, c = randn(1, 4, 4, 4), torch.tensor([9.0]).double(), randn(1, 3, 8, seed=1)
    hint = randn(1, 1, 8, 8, seed=2)
    assert all((part == 0).all() for part in control(hint))
    close(net(x, step, c, control(hint)), net(x, step, c))
    for seed, zero in enumerate(control.zeros):
        zero.weight.data = randn(*zero.weight.shape, seed=seed)
    more = control(hint)
    concatenated = []
    for level in net.up:                                    # what the decoder's blocks get
        for block in level.blocks:
            block.register_forward_pre_hook(lambda _, inputs: concatenated.append(inputs[0]))
    net(x, step, c)
    net(x, step, c, more)
    plain, moved = concatenated[: len(net.skips)], concatenated[len(net.skips) :]
    for k, u in enumerate(reversed(more[:-1])):
        width = u.shape[1]
        close(moved[k][:, -width:] - plain[k][:, -width:], u)


def test_eq_7_14():
    """A zero convolution's weight has the gradient g u^T, its input none."""
    u, g = randn(1, 5, 3, 3).requires_grad_(), randn(1, 4, 3, 3, seed=1)
    zero = torch.nn.Conv2d(5, 4, 1).double()
    torch.nn.init.zeros_(zero.weight)
    (zero(u) * g).sum().backward()
    close(zero.weight.grad[:, :, 0, 0], torch.einsum("bmhw,bnhw->mn", g, u.detach()))
    assert zero.weight.grad.abs().max() > 0 and u.grad.abs().max() == 0


def test_eq_7_15():
    """Bradley-Terry by simulation: noise of a logistic distribution on the difference of rewards.
    """
    difference = 0.8
    u = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = (u / (1 - u)).log()                             # logistic
    share = (difference + noise > 0).double().mean()
    assert abs(share - torch.tensor(difference).sigmoid()) < 4 * 0.5 / 400_000**0.5


def objective(p, reference, r, beta):
    return (p * r).sum() - beta * (p * (p / reference).log()).sum()


def test_eq_7_16():
    """No other distribution has a higher mean reward less beta times the divergence."""
    reference, r, beta = randn(6).softmax(0), randn(6, seed=1), 0.7
    best = reference * (r / beta).exp()
    best = best / best.sum()
    top = objective(best, reference, r, beta)
    for seed in range(50):
        for size in (0.1, 1.0):
            other = (best.log() + size * randn(6, seed=10 + seed)).softmax(0)
            assert objective(other, reference, r, beta) < top
    constant = r - beta * (best / reference).log()
    close(constant, constant[0].expand(6))


def test_eq_7_17():
    """The loss of known preferences is smallest at (7.16)'s distribution."""
    reference, r, beta = randn(5).softmax(0), randn(5, seed=1), 0.7
    logits = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    wins = (r[:, None] - r[None]).sigmoid()                 # P(i beats j)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimizer.zero_grad()
        ratio = logits.log_softmax(0) - reference.log()
        value = -(wins * F.logsigmoid(beta * (ratio[:, None] - ratio[None]))).sum()
        value.backward()
        return value
    optimizer.step(loss)
    best = reference * (r / beta).exp()
    close(logits.softmax(0).detach(), best / best.sum(), rtol=1e-4, atol=1e-6)


class Constant(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t):
        return torch.full_like(x, self.value)


def test_eq_7_18():
    """With losses in place of -log p, the same t and eps for all four; and Jensen's inequality."""
    D, reference = (Denoiser(Constant(value), SD, "x0") for value in (0.3, -0.1))
    w, l, eps = randn(8, 3), randn(8, 3, seed=1), randn(8, 3, seed=2)
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    change = D.loss(w, t, eps) - D.loss(l, t, eps)
    change = change - (reference.loss(w, t, eps) - reference.loss(l, t, eps))
    assert change.abs().min() > 1e-3                        # the pair matters
    losses = dpo_loss(D, reference, w, l, t, eps, 2.0)
    close(losses, -(-2.0 * change).sigmoid().log())
    inner = randn(1000, seed=5)
    assert -F.logsigmoid(inner).mean() >= -F.logsigmoid(inner.mean())


def test_eq_7_19():
    """Nine channels: latent, mask, latent of the masked picture; only the U-Net's stem differs."""
    net = StableDiffusionUNet(9, 4, widths=(32, 32), depth=1, context_dim=8, num_heads=4)
    plain = StableDiffusionUNet(4, widths=(32, 32), depth=1, context_dim=8, num_heads=4)
    shapes = {k: v.shape for k, v in net.state_dict().items()}
    others = {k: v.shape for k, v in plain.state_dict().items()}
    assert {k for k in shapes if shapes[k] != others[k]} == {"stem.weight"}
    vae = AutoencoderKL(3, 4, (16, 32), 1, num_groups=8)
    x, m = torch.randn(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    m[..., 8:] = 1
    z, masked = torch.randn(1, 4, 8, 8), vae.to_latents(x * (1 - m))
    small = F.interpolate(m, (8, 8))
    out = net(torch.cat([z, small, masked], 1), torch.tensor([5.0]), torch.randn(1, 3, 8))
    assert out.shape == z.shape and torch.equal(small, (small > 0).float())


def test_eq_7_20():
    x, decoded = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1)
    m = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    m[..., :4] = 1
    pasted = m * decoded + (1 - m) * x
    assert torch.equal(pasted[..., 4:], x[..., 4:])
    assert torch.equal(pasted[..., :4], decoded[..., :4])


def test_eq_7_21():
    """The loss has a gradient by one row of the embedding alone, and falls along it."""
    text = randomised(ClipTextEncoder(20, 6, 16, 1, 4, 32)).requires_grad_(False)
    table = text.token_embedding.weight
    table.requires_grad_()
    tokens, wanted = torch.tensor([[1, 4, 19, 2]]), randn(1, 4, 16)
    row = torch.zeros_like(table)
    row[19] = 1
    losses = []
    for _ in range(30):
        loss = (text(tokens) - wanted).square().mean()
        (gradient,) = torch.autograd.grad(loss, table)
        table.data -= 0.5 * row * gradient
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    others = [k for k in range(20) if k not in (1, 4, 19, 2)]
    assert gradient[others].abs().max() == 0


def test_eq_7_22():
    """Two terms: the minimiser of a sum lies between, and lambda says where."""
    subject, of_class = 1.0, -1.0
    for weight in (0.0, 0.5, 1.0, 4.0):
        p = torch.zeros(1, requires_grad=True)
        for _ in range(400):
            loss = (p - subject).square() + weight * (p - of_class).square()
            (g,) = torch.autograd.grad(loss.sum(), p)
            p.data -= 0.1 * g / (1 + weight)
        close(p.item(), (subject + weight * of_class) / (1 + weight), rtol=1e-3, atol=1e-3)
