"""Every tagged formula of lesson 5 checked numerically; `test_lesson_tags.py` keeps the
list complete.
"""
import math

import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad, solve_ivp

from course_lib import Denoiser, Schedule, guidance
from course_lib.lab import noun_parts, word_vectors
from course_lib.lab.data import GaussianMixture
from course_lib.networks.text import ConditionalUNet
from course_lib.networks.unet import CrossAttentionBlock
from course_lib.schedules import append_dims

F64 = torch.float64
G = lambda seed=0: torch.Generator().manual_seed(seed)
COSINE, T = Schedule.cosine(), torch.tensor(0.6, dtype=F64)
ALPHA, SIGMA = COSINE.alpha(T), COSINE.sigma(T)
CENTRES = torch.tensor([[-1.0, 0.3], [0.8, -0.4], [0.1, 0.9], [-0.2, -0.7]])
WIDTHS, WEIGHTS = torch.tensor([0.3, 0.5, 0.2, 0.4]), torch.tensor([1.0, 2.0, 1.5, 0.5])
ALL = GaussianMixture(CENTRES, WIDTHS, WEIGHTS)  # class 0: the first two, class 1: the others
CLASS = [
    GaussianMixture(CENTRES[part], WIDTHS[part], WEIGHTS[part])
    for part in (slice(0, 2), slice(2, 4))
]
PRIOR = torch.tensor([3.0, 2.0], dtype=F64) / 5
X = torch.randn(40, 2, generator=G(), dtype=F64)


def close(a, b, **kw):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), **kw)


def plain(x, t=T, **ignored):
    return ALL.denoiser(COSINE)(x, t)


def both(x, t, y=None):
    """The exact denoiser with a label 0 or 1, or 2 for none."""
    return plain(x, t) if y is None or y == 2 else CLASS[y].denoiser(COSINE)(x, t)


def verdict(x, y, alpha=ALPHA, sigma=SIGMA):
    """log p_t(y | x), by Bayes."""
    return PRIOR[y].log() + CLASS[y].log_prob(x, alpha, sigma) - ALL.log_prob(x, alpha, sigma)


SIDE = torch.linspace(-4, 4, 401, dtype=F64)
PLANE = torch.cartesian_prod(SIDE, SIDE)  # (401^2, 2), a fine grid of x0


def behind(x):
    """p(x0 | x_t = x) on the grid, without labels: (401^2,), adds up to 1."""
    return (ALL.log_prob(PLANE) - (x - ALPHA * PLANE).square().sum(1) / (2 * SIGMA**2)).softmax(0)


def gradient(f, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(f(x).sum(), x)[0]


def test_eq_5_1():
    """The error of the best prediction has nothing to do with what was given: not with x_t, not
    with y (5 standard errors).
    """
    n = 100_000
    x0 = torch.cat([CLASS[0].sample(n, 1), CLASS[1].sample(n, 2)]).double()
    y = torch.arange(2 * n) // n
    x = ALPHA * x0 + SIGMA * torch.randn(x0.shape, generator=G(3), dtype=F64)
    x0_hat = torch.cat([both(x[:n], T, 0), both(x[n:], T, 1)])
    blind = GaussianMixture(
        CENTRES,
        WIDTHS,
        torch.cat([WEIGHTS[:2] / WEIGHTS[:2].sum(), WEIGHTS[2:] / WEIGHTS[2:].sum()]),
    ).denoiser(COSINE)(x, T)

    def worst(x0_hat):
        products = [
            (x0 - x0_hat) * f[:, None]
            for f in (
                torch.ones(2 * n, dtype=F64),
                (y == 1).double(),
                x[:, 0],
                (x[:, 1] * (y == 0)),
                x[:, 0].sin(),
            )
        ]
        return max((p.mean(0).abs() / (p.std(0) / len(p) ** 0.5)).max() for p in products)
    assert worst(x0_hat) < 5 < worst(blind)


def test_eq_5_2():
    share = torch.stack([verdict(X, y).exp() for y in (0, 1)])                           # (2, 40)
    close(share.sum(0), torch.ones(40))
    close(sum(share[y, :, None] * both(X, T, y) for y in (0, 1)), plain(X))


def test_eq_5_3():
    close((X + SIGMA**2 * gradient(lambda x: ALL.log_prob(x, ALPHA, SIGMA), X)) / ALPHA, plain(X))
    close(
        (X + SIGMA**2 * gradient(lambda x: CLASS[1].log_prob(x, ALPHA, SIGMA), X)) / ALPHA,
        both(X, T, 1),
    )


def test_eq_5_4():
    """log p(y | x_t) not by Bayes' rule at level t, but as the mean of the clean verdicts on what
    may lie behind x_t, over a fine grid.
    """
    clean = [verdict(PLANE, y, 1.0, 0.0).exp() for y in (0, 1)]
    for y in (0, 1):
        log_p = lambda x: (behind(x) * clean[y]).sum().log()
        said = torch.stack([gradient(log_p, x) for x in X[:4]])
        close(
            gradient(lambda x: CLASS[y].log_prob(x, ALPHA, SIGMA), X[:4]),
            ALL.score(X[:4], ALPHA, SIGMA) + said,
            rtol=1e-6,
            atol=1e-8,
        )
        assert said.norm(dim=1).min() > 0.01


@pytest.mark.parametrize("y", (0, 1))
def test_eq_5_5(y):
    close(both(X, T, y), plain(X) + SIGMA**2 / ALPHA * gradient(lambda x: verdict(x, y), X))


def test_eq_5_6():
    """The library's function, and what w does to it."""
    def guided(w):
        return guidance.classifier_guidance(plain, COSINE, lambda x, t: verdict(x, 1), w)(X, T)
    close(guided(0.0), plain(X))
    close(guided(1.0), both(X, T, 1))
    close(guided(2.5), plain(X) + 2.5 * SIGMA**2 / ALPHA * gradient(lambda x: verdict(x, 1), X))


def test_eq_5_7():
    """The verdict on noise is the mean verdict on what may lie behind it: by integration over a
    fine grid of x0.
    """
    for x in X[:4]:
        close(
            (behind(x) * verdict(PLANE, 1, 1.0, 0.0).exp()).sum(),
            verdict(x[None], 1).exp()[0],
            rtol=1e-6,
            atol=1e-9,
        )
        # not the clean verdict on the noisy point
        assert abs(verdict(x[None], 1, 1.0, 0.0).exp()[0] - verdict(x[None], 1).exp()[0]) > 1e-3


def test_eq_5_8():
    close(SIGMA**2 / ALPHA * gradient(lambda x: verdict(x, 0), X), both(X, T, 0) - plain(X))


def test_eq_5_9():
    """The library's cfg, and classifier guidance with the exact classifier: the same."""
    for w in (0.0, 1.0, 3.0):
        guided = guidance.cfg(both, w, {"y": 2})(X, T, y=0)
        close(guided, plain(X) + w * (both(X, T, 0) - plain(X)))
        close(
            guided, guidance.classifier_guidance(plain, COSINE, lambda x, t: verdict(x, 0), w)(X, T)
        )


def test_eq_5_10():
    s = 1.7
    close((1 + s) * both(X, T, 0) - s * plain(X), guidance.cfg(both, 1 + s, {"y": 2})(X, T, y=0))


@pytest.mark.parametrize("target", ("eps", "x0", "v", "flow", "edm"))
def test_eq_5_11(target):
    """Guiding the network's output, in any parameterisation, is guiding the x0-prediction."""
    outs = {
        0: torch.randn(40, 2, generator=G(5), dtype=F64),
        1: torch.randn(40, 2, generator=G(6), dtype=F64),
    }
    def said(y):
        return Denoiser(
            lambda x, t: outs[y] if y in outs else torch.lerp(outs[0], outs[1], 2.5), COSINE, target
        )(X, T)
    close(said("guided"), torch.lerp(said(0), said(1), 2.5), rtol=1e-6, atol=1e-8)
    a, b = Denoiser(lambda x, t: x, COSINE, target).coefficients(ALPHA, SIGMA)
    if target != "x0":
        close(outs[0], b / SIGMA * X + (a - b * ALPHA / SIGMA) * said(0), rtol=1e-6, atol=1e-8)


def test_eq_5_12():
    """Two ways to write the tempered density differ by a constant, w log p(y).

    Here p(y | x0) is counted: the share of class y among the draws near x0.
    """
    w, half = 2.5, 0.04
    # as often as the prior says
    draws = [CLASS[0].sample(2_400_000, 1), CLASS[1].sample(1_600_000, 2)]
    places = {
        0: [[-0.9, 0.3], [0.5, -0.3], [0.2, -0.5], [0.4, -0.5]],
        1: [[0.1, 0.9], [-0.2, -0.7], [-0.3, -0.3], [0.3, 0.5]],
    }
    for y, at in places.items():
        for x0 in torch.tensor(at, dtype=F64):
            near = torch.stack([((draw - x0).abs() < half).all(1).sum() for draw in draws])
            p = near[y] / near.sum()
            q, given = ALL.log_prob(x0[None])[0], CLASS[y].log_prob(x0[None])[0]
            constant = (q + w * p.log()) - ((1 - w) * q + w * given)
            # five standard errors, and the square is not a point
            allowed = 5 * w * ((1 - p) / (p * near.sum())) ** 0.5 + 0.02
            assert abs(constant - w * PRIOR[y].log()) < allowed < 0.25


@pytest.mark.parametrize("w, m, s", [(3.0, 1.0, 0.5), (1.5, -0.7, 0.8)])
def test_eq_5_13(w, m, s):
    x = torch.linspace(-12, 12, 200_001, dtype=F64)
    p = ((w - 1) / 2 * x**2 - w / (2 * s**2) * (x - m) ** 2).softmax(0)
    v_w = 1 / (w / s**2 + 1 - w)
    mean = (p * x).sum()
    close(mean, v_w * w * m / s**2, rtol=1e-6, atol=0)
    close((p * (x - mean) ** 2).sum(), v_w, rtol=1e-6, atol=0)


W = 2.2
M = 0.8
WIDTH = 0.6


def slope(r, x):
    return W * r * (x - M) / (WIDTH**2 + r**2) + (1 - W) * r * x / (1 + r**2)


def test_eq_5_14():
    """(x - x0_hat) / r with the exact predictions, where alpha = 1."""
    r, x = 0.7, torch.linspace(-2, 2, 9, dtype=F64)[:, None]
    x0_hat = lambda mean, std: GaussianMixture([[mean]], std).posterior_mean(x, 1.0, r)
    close((x - torch.lerp(x0_hat(0.0, 1.0), x0_hat(M, WIDTH), W)) / r, slope(r, x))


def test_eq_5_15():
    """The equation integrated by scipy from a large r, for z = 0 and z = 1; and the closed form at
    w = 3.
    """
    R = 3e3
    h = lambda r, w=W, s=WIDTH: (s**2 + r**2) ** (w / 2) * (1 + r**2) ** ((1 - w) / 2)
    end = solve_ivp(slope, (R, 0), [0.0, R], rtol=1e-10, atol=1e-12, method="LSODA").y[:, -1]
    mean = M * WIDTH**W * quad(lambda r: W * r / ((WIDTH**2 + r**2) * h(r)), 0, math.inf)[0]
    close(end[0], mean, rtol=2e-3, atol=0)
    close(end[1] - end[0], WIDTH**W, rtol=2e-3, atol=0)
    s = 0.5
    integral = quad(lambda r: 3 * r / ((s**2 + r**2) * h(r, 3.0, s)), 0, math.inf)[0]
    close(integral, 3 * (1 / s + (1 - s**2) / (3 * s**3)), rtol=1e-6, atol=0)
    close(s**3 * integral, 1 + 2 * s**2, rtol=1e-6, atol=0)


def test_eq_5_16():
    x = torch.randn(5, 1, 8, 8, generator=G(1), dtype=F64)
    D = lambda x, t, y: (0.3 + 0.5 * y) * x + 0.1 * y
    guided = guidance.cfg(D, 3.0, {"y": 0})(x, T, y=1)
    spread = lambda z: z.flatten(1).std(1, correction=0)
    full = append_dims(spread(D(x, T, 1)) / spread(guided), x) * guided
    close(guidance.cfg(D, 3.0, {"y": 0}, rescale=0.7)(x, T, y=1), 0.7 * full + 0.3 * guided)
    close(spread(guidance.cfg(D, 3.0, {"y": 0}, rescale=1.0)(x, T, y=1)), spread(D(x, T, 1)))


def test_eq_5_17():
    weak = lambda x, t, y: 0.5 * both(x, t, y)
    close(
        guidance.autoguidance(both, weak, 2.0)(X, T, y=1),
        weak(X, T, 1) + 2.0 * (both(X, T, 1) - weak(X, T, 1)),
    )


def test_eq_5_18():
    """The embedding of the blocks: time, and the mean of the vectors of the words that are there.
    """
    torch.manual_seed(0)
    net = ConditionalUNet(
        3, ["a", "red", "head"], length=5, text_dim=16, widths=(16,), num_heads=2
    ).eval()
    tokens = net.tokenizer(["a red head", "red"])
    x = torch.zeros(2, 3, 8, 8)
    t = torch.tensor([0.2, 0.7])
    context, mask = net.text(tokens)
    emb = net._embed(x, t, None, context, mask)
    means = torch.stack([context[0, :3].mean(0), context[1, :1].mean(0)])
    torch.testing.assert_close(
        emb, net.time(t) + means @ net.pool_proj.weight.T + net.pool_proj.bias
    )
    torch.testing.assert_close(net._embed(x, t, None, None, None), net.time(t) + net.pool_proj.bias)


def test_eq_5_19():
    """The weights add up to one, none goes to padding, and with the values they give what the block
    adds.
    """
    torch.manual_seed(0)
    block = CrossAttentionBlock(16, 8, num_heads=2)
    torch.nn.init.normal_(block.proj.weight)
    x = torch.randn(1, 16, 3, 3)
    context = torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, True, False]])
    split = lambda z: z.view(1, z.shape[1], 2, 8).transpose(1, 2)
    q = split(block.q(block.norm(x).flatten(2).transpose(1, 2)))
    k, v = (split(z) for z in block.kv(context).chunk(2, -1))
    A = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask, -math.inf).softmax(-1)
    torch.testing.assert_close(A.sum(-1), torch.ones(1, 2, 9))
    torch.testing.assert_close(A[..., 3], torch.zeros(1, 2, 9))
    added = block.proj((A @ v).transpose(1, 2).reshape(1, 9, 16)).transpose(1, 2).view(1, 16, 3, 3)
    torch.testing.assert_close(block(x, context, mask), x + added)


def test_eq_5_20():
    """Two conditions that are independent given the picture (a column and a row of four heaps):
    adding gives the joint condition, exactly.
    """
    corners = torch.tensor([[-1.0, -0.5], [-1.0, 0.9], [0.7, -0.5], [0.7, 0.9]])
    pick = lambda rows: GaussianMixture(corners[rows], 0.4).denoiser(COSINE)
    D = lambda x, t, rows: pick(list(rows))(x, t)
    composed = guidance.compose_conditions(
        D, [{"rows": (0, 1)}, {"rows": (1, 3)}], {"rows": (0, 1, 2, 3)}, [1.0, 1.0]
    )
    close(composed(X, T), pick([1])(X, T))
    other = guidance.compose_conditions(
        D, [{"rows": (0, 1)}, {"rows": (1, 3)}], {"rows": (0, 1, 2, 3)}, [2.0, 0.5]
    )
    base = D(X, T, (0, 1, 2, 3))
    wanted = base + 2 * (D(X, T, (0, 1)) - base) + 0.5 * (D(X, T, (1, 3)) - base)
    close(other(X, T), wanted)
    assert wanted.shape == X.shape


# ---- sentence vectors

TAU, B = 0.07, 6
U, V = (F.normalize(torch.randn(B, 5, generator=G(7 + k), dtype=F64), dim=1) for k in range(2))


def loss(u, v, tau=TAU):
    total = 0.0
    for i in range(B):
        rivals = sum((u[i] @ v[j] / tau).exp() for j in range(B))
        total = total - ((u[i] @ v[i] / tau).exp() / rivals).log() / B
    return total


def test_eq_5_21():
    """A cross-entropy with B classes; log B when all vectors are alike, near 0 when partners alone
    agree.
    """
    torch.testing.assert_close(loss(U, V), F.cross_entropy(U @ V.T / TAU, torch.arange(B)))
    same = torch.ones(B, 5, dtype=F64) / 5**0.5
    torch.testing.assert_close(loss(same, same), torch.tensor(B, dtype=F64).log())
    assert loss(torch.eye(B, dtype=F64), torch.eye(B, dtype=F64)) < 1e-5


def test_eq_5_22():
    """Against autograd."""
    u = U.clone().requires_grad_(True)
    gradient, = torch.autograd.grad(loss(u, V), u)
    p = (U @ V.T / TAU).softmax(1)
    torch.testing.assert_close(gradient, -(V - p @ V) / (B * TAU))


def test_eq_5_23():
    """Ranked by cosine, vectors of length 1 are ranked by distance: the library's whole list, for
    several words and parts.
    """
    assert word_vectors.nearest("kitten", "head", 1)[0][0] == "cat"
    asked = {
        "head": ("kitten", "ocean"),
        "body": ("scarlet", "gold"),
        "accessory": ("kitten", "music"),
        "background": ("sun",),
        "glasses": ("purple",),
    }
    for word, part in ((word, part) for part, words in asked.items() for word in words):
        names = noun_parts.load_art().names[part]
        u = word_vectors.load_vectors().names[part].double()
        q = word_vectors.vector(word).double()
        distance = dict(zip(names, ((u - q) ** 2).sum(1).tolist()))
        ranking = word_vectors.nearest(word, part, len(names))
        assert sorted(name for name, _ in ranking) == sorted(names)
        # names of nearly the same cosine may change places
        close([distance[name] for name, _ in ranking], sorted(distance.values()), rtol=0, atol=1e-6)
        close(
            [cosine for _, cosine in ranking],
            [1 - distance[name] / 2 for name, _ in ranking],
            rtol=0,
            atol=1e-6,
        )


def test_eq_5_24():
    """The mean of the rows under Bayes' rule with whole squared distances, as in (1.13); one row
    where tau is small, the mean of all where it is large.
    """
    u = F.normalize(U, dim=1)
    q = V[:3]
    e = torch.randn(B, 4, generator=G(9), dtype=F64)
    tau = SIGMA**2 / ALPHA**2
    likely = torch.exp(-(ALPHA * q[:, None] - ALPHA * u).square().sum(2) / (2 * SIGMA**2))  # (3, B)
    mean = likely / likely.sum(1, keepdim=True) @ e
    row = lambda tau: (q @ u.T / tau).softmax(1) @ e
    torch.testing.assert_close(row(tau), mean)
    torch.testing.assert_close(row(1e-4), e[(q @ u.T).argmax(1)])
    torch.testing.assert_close(row(1e6), e.mean(0).expand(3, -1), rtol=1e-4, atol=1e-4)
