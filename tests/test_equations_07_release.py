"""The formulas of lesson 7, part II: from a model to a release; and every tag has its test."""
import io
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import lesson7_applications as applications  # noqa: E402

from course_lib import cfg, dpmpp, last, timesteps  # noqa: E402
from course_lib.lab import data, train  # noqa: E402
from course_lib.lab.evaluation import inference, release  # noqa: E402
from course_lib.networks import int8  # noqa: E402
from course_lib.networks.stable_diffusion.caching import CachedUNet  # noqa: E402
from course_lib.watermark import detect, detection_threshold, marked_noise  # noqa: E402

close = torch.testing.assert_close
seeded = lambda seed: torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def mini():
    return train.load("mini_sd", "cpu")


def text_of(mini, caption, n=1):
    return mini.net.encode(mini.net.tokenizer([caption] * n), n)


# ---- applications

def test_eq_7_30():
    """x0 and its draws are N(m, V) given y; m varies, and V with y."""
    N, d = 4000, 20
    m = 3 * randn(N, d)
    V = 0.1 + randn(N, 1, seed=1).abs()
    truth = m + V.sqrt() * randn(N, d, seed=2)
    draws = m + V.sqrt() * randn(8, N, d, seed=3)
    least = (truth - m).square().mean()
    for k in (1, 2, 4, 8):
        error = (draws[:k].mean(0) - truth).square().mean()
        assert error / least == pytest.approx(1 + 1 / k, rel=0.02)
    assert ((draws[0] - draws[1]).square().mean() / 2 / least) == pytest.approx(1, rel=0.02)
    close(applications.half_gap(draws[:2]), (draws[0] - draws[1]).square().mean(1) / 2)


class TwoBells:
    """The exact denoiser of N(+c, 1) and N(-c, 1), and its loss in v, as a label asks."""

    def __init__(self, c):
        self.net = type("Net", (), {"num_classes": 2})()
        self.c = c

    def loss(self, x0, t, eps, y):
        t = t.double()[:, None]
        alpha, sigma = (math.pi / 2 * t).cos(), (math.pi / 2 * t).sin()
        mean = torch.where(y[:, None] == 1, -self.c, self.c)
        x_t = alpha * x0 + sigma * eps
        clean = mean + alpha * (x_t - alpha * mean)         # alpha^2 + sigma^2 = 1
        noise = (x_t - alpha * clean) / sigma
        v, found = alpha * eps - sigma * x0, alpha * noise - sigma * clean
        return (v - found).square().sum(1)


def test_eq_7_31():
    """With the exact denoiser the smallest loss is the nearer bell's."""
    D, N, d = TwoBells(1.0), 500, 4
    y = torch.arange(N) % 2
    x = torch.where(y == 1, -1.0, 1.0)[:, None] + randn(N, d)
    eps, t = randn(40, d, seed=1), torch.linspace(0.2, 0.8, 40)
    losses = torch.zeros(N, 2, dtype=torch.float64)
    for j, label in itertools.product(range(40), range(2)):
        same = torch.full((N,), label)
        losses[:, label] += D.loss(x, t[j].expand(N), eps[j].expand(N, d), same)
    bayes = (x.sum(1) < 0).long()                           # the nearer of +1 and -1
    clear = x.sum(1).abs() > 1                              # finitely many noises
    assert (losses.argmin(1) == bayes)[clear].double().mean() > 0.98
    assert (losses.argmax(1) == bayes)[clear].double().mean() < 0.02


def test_eq_7_32():
    """For losses of the two labels, with shared noise and with noises of their own."""
    D, n = TwoBells(0.3), 50_000
    x, t = randn(1, 4).expand(n, 4), torch.full((n,), 0.5)
    label = lambda y: torch.full((n,), y)
    for seed in (1, 2):
        a = D.loss(x, t, randn(n, 4, seed=1), label(0))
        b = D.loss(x, t, randn(n, 4, seed=seed), label(1))
        close((a - b).var(), a.var() + b.var() - 2 * torch.cov(torch.stack([a, b]))[0, 1])
    shared = a - D.loss(x, t, randn(n, 4, seed=1), label(1))
    assert shared.var() < 0.6 * (a - b).var()


def test_eq_7_33():
    n, chains = 10, 40_000
    x = randn(n, chains)
    for g in range(1, 7):
        variance = x.var(0, correction=0)
        assert variance.mean() == pytest.approx((1 - 1 / n) ** g, rel=0.03)
        x = x.mean(0) + variance.sqrt() * randn(n, chains, seed=g)


# ---- the inference laboratory

def test_eq_7_34(mini):
    """A guided picture: one caption, twice as many evaluations as steps, one decoding."""
    vae, counted = train.load("nouns_vae", "cpu"), {"text": 0, "unet": 0, "decoder": 0}

    def count(name):
        def add(*_):
            counted[name] += 1
        return add
    parts = {"text": mini.net.text, "unet": mini.net.unet, "decoder": vae.decoder}
    hooks = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    noise = mini.schedule.sample_prior((1, 8, 8, 8), generator=seeded(0))
    none = mini.net.encode(mini.net.null["tokens"], 1)
    counted["text"] = 0                                     # the empty text once and for all
    ts = timesteps(mini.schedule, 3)
    x = last(dpmpp(cfg(mini, 2.0, none), mini.schedule, noise, ts, **text_of(mini, "a noun")))
    vae.to_images(x)
    for hook in hooks:
        hook.remove()
    assert counted == {"text": 1, "unet": 2 * 3, "decoder": 1}


def test_eq_7_35():
    """Ten seconds, of which a fraction f becomes s times faster."""
    for f, s in ((0.1, math.inf), (0.5, 2.0), (0.9, 10.0), (0.0, 5.0)):
        after = 10 * (1 - f) + 10 * f / s
        assert inference.amdahl(f, s) == pytest.approx(10 / after)
    assert inference.amdahl(0.1, math.inf) == pytest.approx(1.11, abs=0.002)


def test_eq_7_36(mini):
    """Between full steps the deep layers are those of the last one, whatever has become of them."""
    cached = CachedUNet(mini.net.unet, interval=2, fresh=2)
    x, text = randn(1, 8, 8, 8).float(), text_of(mini, "a noun")["context"]
    step = lambda k: torch.full((1,), float(k))
    middle = next(mini.net.unet.middle.parameters())
    kept = middle.data.clone()
    with torch.no_grad():
        cached(x, step(900), text)
        between = cached(x, step(800), text)
        cached.reset()
        cached(x, step(900), text)
        middle.data = kept + 1
        close(cached(x, step(800), text), between)          # not asked
        cached.reset()
        changed = cached(x, step(900), text)
        middle.data = kept
        cached.reset()
        assert (cached(x, step(900), text) - changed).abs().max() > 1e-3


# ---- may it be released?

def test_eq_7_37():
    a, b = randn(6, 1, 5, 5), randn(6, 1, 5, 5, seed=1)
    wanted = [np.corrcoef(p.flatten(), q.flatten())[0, 1] for p, q in zip(a, a + b)]
    close(release.pair_correlation(a, a + b), torch.tensor(wanted))


def test_eq_7_38():
    """Of held-out examples one in a hundred is nearer than the threshold."""
    training, held_out = randn(300, 8), randn(20_000, 8, seed=1)
    far, _ = release.nearest(held_out, training)
    close(far[:5], torch.cdist(held_out[:5], training).min(1).values)
    limit = release.copy_threshold(far[:10_000])
    assert (far[10_000:] < limit).double().mean() == pytest.approx(0.01, abs=0.004)


def test_eq_7_39():
    """Bayes by hand: p(a)^(1 - w) p(a | c)^w over both values."""
    for p, q, w in ((0.5, 0.8, 2.0), (0.8, 0.8, 5.0), (0.3, 0.6, 0.0), (0.9, 0.2, 1.0)):
        yes, no = p ** (1 - w) * q**w, (1 - p) ** (1 - w) * (1 - q) ** w
        assert release.tempered_share(p, q, w) == pytest.approx(yes / (yes + no))
    assert release.tempered_share(0.5, 0.8, 2.0) == pytest.approx(0.94, abs=0.002)
    assert release.tempered_share(0.8, 0.8, 7.0) == pytest.approx(0.8)


def test_eq_7_40():
    """Signs are those of the bits, magnitudes those of the noise; the whole is N(0, 1)."""
    z = marked_noise((500, 1, 20, 20), 7, torch.arange(500), generator=seeded(0))
    n = torch.randn(z.shape, generator=seeded(0))
    close(z.abs(), n.abs())
    bits = (z > 0).double()
    close(z.double(), (2 * bits - 1) * n.abs().double())
    assert stats.kstest(z.flatten().numpy()[::10], "norm").pvalue > 1e-3
    pairs = bits.flatten(1)[:-1] - 0.5, bits.flatten(1)[1:] - 0.5
    assert (pairs[0] * pairs[1]).mean().abs() < 4 * 0.25 / 200_000**0.5     # another nonce


def test_eq_7_41():
    z = marked_noise((1, 4, 8, 8), 7, torch.arange(1), generator=seeded(0))
    for wrong in (0, 89, 90, 128, 256):
        changed = z.clone().flatten()
        changed[:wrong] *= -1
        found = detect(changed.view(z.shape), 7, torch.arange(1))
        k = 256 - wrong
        wanted = sum(math.comb(256, j) for j in range(k, 257)) / 2**256
        assert found.p_value.item() == pytest.approx(wanted, rel=1e-9)
        assert (found.p_value.item() <= 1e-6) == (k >= 167)
    assert detection_threshold(256, 1e-6) == 167


def test_eq_7_42():
    """A machine hired for an hour draws u 3600 / s pictures."""
    for s, c, u in ((0.05, 0.1, 0.5), (2.0, 3.0, 1.0)):
        pictures = u * 3600 / s
        assert 1000 * s * c / (3600 * u) == pytest.approx(1000 * c / pictures)


# ---- deeper

def test_eq_7_43():
    normal, odd = randn(300).round(), (randn(200, seed=1) + 0.5).round()    # with ties
    rank = stats.mannwhitneyu(odd, normal).statistic / (300 * 200)
    assert release.auc(odd, normal) == pytest.approx(rank)
    assert applications.auroc(normal, odd)[0] == pytest.approx(rank)


def test_eq_7_44():
    """Both lengths in bits of a pixel: of a whole file, and what the bound says of a picture."""
    digit, plain = data.mnist("test")[0][:1], torch.full((1, 1, 28, 28), -1.0)
    png = applications.png_bits(torch.cat([digit, plain]))
    file = io.BytesIO()
    picture = applications.to_bytes(digit)[0, 0].numpy()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    assert png[0].item() == pytest.approx(8 * len(file.getvalue()) / 784)
    bits = applications.bound_bits(train.load("mnist_likelihood", "cpu"), plain).item()
    digit_bits = applications.bound_bits(train.load("mnist_likelihood", "cpu"), digit).item()
    assert bits < digit_bits and bits - png[1] > digit_bits - png[0]    # the order turns


def test_eq_7_45():
    """The variance of a pool, before and after a batch from its fit, on average."""
    n, k, repeats = 5, 3, 200_000
    pool = randn((k - 1) * n, 1)
    m, s2 = pool.mean(), pool.var(correction=0)
    new = m + s2.sqrt() * randn(n, repeats, seed=1)
    joined = torch.cat([pool.expand(-1, repeats), new])
    found = joined.var(0, correction=0).mean() / s2
    assert found == pytest.approx(1 - 1 / (n * k**2), rel=2e-3)
    N = (k - 1) * n
    assert 1 - 1 / (n * k**2) == pytest.approx((N + n - 1 + N / (N + n)) / (N + n))


def test_eq_7_46():
    for n in (2, 5, 20):
        product = math.prod(1 - 1 / (n * k**2) for k in range(1, 200_000))
        z = math.pi / n**0.5
        assert product == pytest.approx(math.sin(z) / z, rel=1e-5)
    assert 1 - math.sin(math.pi / 100) / (math.pi / 100) == pytest.approx(
        math.pi**2 / 6 / 1e4, rel=1e-3)


def test_eq_7_47():
    W = randn(30, 50)
    W[3] = 0
    q, s = int8.quantize_int8(W)
    assert q.abs().amax(1)[[0, 1, 29]].tolist() == [127] * 3 and (q == q.round()).all()
    close(s[:3, 0].double(), W[:3].abs().amax(1) / 127)
    assert ((q * s - W).abs() <= s / 2 + 1e-12).all() and (q[3] == 0).all()


def test_eq_7_48():
    """Subtracted from the reference's loss: hard examples no longer look like strangers."""
    hard, seen = 3 * randn(2000).abs(), torch.arange(2000) % 2 == 0
    reference = hard + 0.1 * randn(2000, seed=1)
    loss = hard - 0.2 * seen + 0.1 * randn(2000, seed=2)
    score = release.membership_scores(loss, reference)
    close(score, reference - loss)
    plain = release.membership_scores(loss)
    close(plain, -loss)
    of = lambda s: release.auc(s[seen], s[~seen])
    assert of(score) > 0.8 and of(plain) < 0.6


def test_eq_7_49():
    """D*(no label) - eta [D*(c) - D*(no label)], for a D* that returns its label."""
    D = lambda x, t, y: x + y[:, None]
    x, y = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    none = {"y": torch.full((2,), 5.0)}
    for eta in (0.0, 1.0, 2.5):
        found = release.erasure_target(D, none, eta)(x, 0.5, y=y)
        close(found[:, 0], 5 - eta * (y - 5))


def test_eq_7_50():
    """Of a million requests, counted: those refused rightly, of all that are refused."""
    for pi, m, f in ((0.1, 0.02, 0.01), (0.001, 0.0, 0.01), (0.5, 0.3, 0.2)):
        rightly, falsely = 1e6 * pi * (1 - m), 1e6 * (1 - pi) * f
        found = pi * (1 - m) / (pi * (1 - m) + (1 - pi) * f)
        assert found == pytest.approx(rightly / (rightly + falsely))
