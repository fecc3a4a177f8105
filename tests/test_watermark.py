"""The mark in the signs: normal noise, an exact null distribution, a vote that can be computed."""
import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib import Schedule, ddim, ddim_invert, last, timesteps
from course_lib.watermark import (
    detect,
    detection_threshold,
    majority_error,
    marked_noise,
    read_message,
)

KEY = 20_240_617
seeded = lambda seed: torch.Generator().manual_seed(seed)


# ---- the noise

@pytest.mark.parametrize("key", [0, 7, 2**256 - 1])
def test_over_nonces_the_noise_is_standard_normal(key):
    """Each place by itself, and all of them; means, squares and neighbours' products too."""
    z = marked_noise((6000, 2, 4), key, torch.arange(6000), generator=seeded(0)).flatten(1)
    for k in range(8):
        assert stats.kstest(z[:, k], "norm").pvalue > 1e-3
    assert stats.kstest(z.flatten(), "norm").pvalue > 1e-3
    covariance = torch.cov(z.T) - torch.eye(8)
    assert z.mean(0).abs().max() < 5 / 6000**0.5 and covariance.abs().max() < 7 / 6000**0.5


def test_it_is_the_inverse_distribution_function_of_bit_plus_uniform():
    """z = Phi^-1((b + u) / 2), where u is uniform whatever the bit."""
    z = marked_noise((2000, 6), KEY, torch.arange(2000), generator=seeded(1)).double()
    b = (z > 0).double()
    u = 2 * torch.special.ndtr(z) - b
    assert ((u > 0) & (u < 1)).all()
    torch.testing.assert_close(torch.special.ndtri((b + u) / 2), z, rtol=1e-6, atol=1e-6)
    for bit in (0, 1):
        assert stats.kstest(u[b == bit], "uniform").pvalue > 1e-3


def test_only_signs_differ_from_ordinary_noise():
    z = marked_noise((3, 1, 28, 28), KEY, torch.arange(3), generator=seeded(5))
    plain = torch.randn(3, 1, 28, 28, generator=seeded(5))
    assert torch.equal(z.abs(), plain.abs()) and z.dtype == torch.float32
    assert abs((z.sign() == plain.sign()).double().mean() - 0.5) < 0.06
    torch.manual_seed(3)
    free = marked_noise((3, 5), KEY, 0)                                 # torch's own generator
    torch.manual_seed(3)
    assert torch.equal(free.abs(), torch.randn(3, 5).abs())


@pytest.mark.parametrize("pair", [
    (dict(key=KEY, nonce=1), dict(key=KEY, nonce=2)),
    (dict(key=KEY, nonce=1), dict(key=KEY + 1, nonce=1)),
    (dict(key=1, nonce=256), dict(key=256, nonce=1)),
    (dict(key=KEY, nonce=1), dict(key=KEY, nonce=1 + 2**32)),
    (dict(key=KEY, nonce=1), dict(key=KEY + 2**200, nonce=1)),
])
def test_signs_of_other_nonces_and_keys_are_independent(pair):
    a, b = (marked_noise((1, 40_000), generator=seeded(0), **which).sign() for which in pair)
    assert abs((a * b).mean()) < 5 / 40_000**0.5
    assert abs((a[:, 1:] * a[:, :-1]).mean()) < 5 / 40_000**0.5         # nor are neighbours alike


def test_a_fixed_nonce_repeats_the_signs():
    """Two such noises have correlation E|n| ^ 2 = 2 / pi, others none."""
    shape = (2, 100_000)
    for nonce, wanted in ((4, 2 / math.pi), (torch.tensor([4, 5]), 0.0)):
        a, b = marked_noise(shape, KEY, nonce, generator=seeded(2))
        assert torch.equal(a.sign(), b.sign()) == (wanted > 0) and not torch.equal(a, b)
        assert abs((a * b).mean() - wanted) < 5 / 100_000**0.5


def test_the_stream_is_shake_256_of_key_and_nonce():
    """Bit by bit, the highest of a byte first; and today's bytes, so that old marks stay readable.
    """
    text = KEY.to_bytes(32, "big") + (9).to_bytes(8, "big")
    octets = hashlib.shake_256(text).digest(3)
    bits = [octet >> (7 - k) & 1 for octet in octets for k in range(8)][:20]
    z = marked_noise((1, 20), KEY, 9)
    assert (z[0] > 0).long().tolist() == bits
    assert octets.hex() == "47c069"


def test_a_mark_does_not_depend_on_the_batch():
    many = marked_noise((6, 3, 5), KEY, torch.arange(6), torch.tensor([1, 0, 1]))
    one = marked_noise((1, 3, 5), KEY, 4, torch.tensor([[1, 0, 1]]))
    assert torch.equal(many[4:5].sign(), one.sign())
    flat = marked_noise((6, 15), KEY, torch.arange(6), torch.tensor([[1, 0, 1]] * 6))
    assert torch.equal(many.sign(), flat.view(6, 3, 5).sign())


# ---- the detector

def test_the_right_key_finds_every_sign():
    nonces, message = torch.tensor([5, 6, 7]), torch.tensor([1, 0, 1, 1])
    z = marked_noise((3, 8, 8, 8), KEY, nonces, message)
    found = detect(z, KEY, nonces, message)
    assert found.agreeing.tolist() == found.signs.tolist() == [512] * 3
    assert found.p_value.tolist() == pytest.approx([2.0**-512] * 3)
    for wrong in ((KEY + 1, nonces, message), (KEY, nonces + 3, message)):
        assert (detect(z, *wrong).agreeing - 256).abs().max() < 5 * 512**0.5 / 2
    opposite = detect(z, KEY, nonces, 1 - message)
    assert opposite.agreeing.tolist() == [0] * 3 and opposite.p_value.tolist() == [1.0] * 3


def test_the_null_distribution_is_binomial_exactly():
    """Of all 2^10 patterns of signs, C(10, k) agree in k places with any one mark."""
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=10)))
    found = detect(patterns, KEY, 3)
    assert found.agreeing.bincount().tolist() == [math.comb(10, k) for k in range(11)]
    for k, p in zip(found.agreeing.tolist(), found.p_value.tolist()):
        assert p == pytest.approx((found.agreeing >= k).double().mean().item(), rel=1e-12)


def test_for_any_picture_the_null_holds_over_nonces():
    """One structured noise, 8,000 nonces: counts as often as the binomial distribution says."""
    noise = torch.linspace(-1, 2, 30).expand(8000, 30)                  # most are positive
    for min_abs, signs in ((0.0, 30), (1.0, 11)):
        found = detect(noise, KEY, torch.arange(8000), min_abs=min_abs)
        assert (found.signs == signs).all()
        low, high = signs // 2 - 3, signs // 2 + 4                      # the tails together
        observed = found.agreeing.clamp(low, high).sub(low).bincount()
        p = stats.binom.pmf(np.arange(low, high + 1), signs, 0.5)
        p[0] = stats.binom.cdf(low, signs, 0.5)
        p[-1] = stats.binom.sf(high - 1, signs, 0.5)
        assert stats.chisquare(observed, 8000 * p).pvalue > 1e-3


def test_places_with_little_noise_are_not_counted():
    z = marked_noise((4, 50), KEY, torch.arange(4), generator=seeded(0))
    damaged = torch.where(z.abs() < 0.5, -z, z)                         # all small ones are wrong
    found = detect(damaged, KEY, torch.arange(4), min_abs=0.5)
    assert torch.equal(found.signs, (z.abs() >= 0.5).sum(1))
    assert torch.equal(found.agreeing, found.signs)
    assert torch.equal(detect(damaged, KEY, torch.arange(4)).agreeing, found.signs)
    nothing = detect(z, KEY, torch.arange(4), min_abs=100.0)
    assert nothing.signs.tolist() == [0] * 4 and nothing.p_value.tolist() == [1.0] * 4
    edge = detect(torch.tensor([[0.5, -0.5, 0.4, 0.0]]), KEY, 0, min_abs=0.5)
    assert edge.signs.tolist() == [2] and detect(torch.zeros(1, 7), KEY, 0).signs.tolist() == [7]


def test_thresholds_by_counting():
    assert detection_threshold(256, 1e-6) == 167
    for n, rate in itertools.product((1, 7, 19, 20, 64, 784), (1e-6, 0.01, 0.5, 0.9)):
        tail = lambda k: sum(math.comb(n, j) for j in range(k, n + 1)) / 2**n
        k = detection_threshold(n, rate)
        assert tail(k) <= rate < tail(k - 1)
    assert detection_threshold(19, 1e-6) == 20 and detection_threshold(20, 1e-6) == 20
    assert detection_threshold(8, 2.0**-8) == 8 and detection_threshold(5, 1.0) == 0


@pytest.mark.parametrize("flip_rate", [0.0, 0.1, 0.3, 0.45])
@pytest.mark.parametrize("D", [5, 20, 100])
def test_a_detector_needs_information(D, flip_rate):
    """I >= kl(power || rate of false alarms) >= power log2(1 / rate) - 1, in bits.

    For D signs, each flipped with the same probability, I = D (1 - h(flip_rate)); for every
    threshold. Without flips and with all signs asked for, the first is an equality.
    """
    entropy = lambda p: -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0
    information = D * (1 - entropy(flip_rate))
    for k in range(1, D + 1):
        rate = stats.binom.sf(k - 1, D, 0.5)
        power = stats.binom.sf(k - 1, D, 1 - flip_rate)
        divergence = power * math.log2(1 / rate) - entropy(power)
        divergence -= (1 - power) * math.log2(stats.binom.cdf(k - 1, D, 0.5))
        assert power * math.log2(1 / rate) - 1 <= divergence <= information + 1e-9
    assert flip_rate or divergence == pytest.approx(information)


def test_a_mark_survives_a_sampler_and_its_inversion():
    """Data N(0, 1): the flow is the identity, so every sign comes back."""
    schedule = Schedule.cosine()
    D = lambda x, t: schedule.alpha(t).float() * x
    z = marked_noise((4, 3, 8, 8), KEY, torch.arange(4), generator=seeded(0))
    ts = timesteps(schedule, 20)
    x = last(ddim(D, schedule, z, ts))
    found = detect(last(ddim_invert(D, schedule, x, ts.flip(0))), KEY, torch.arange(4))
    assert found.agreeing.tolist() == [192] * 4


# ---- the message

@pytest.mark.parametrize("copies", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("bit", [0, 1])
def test_the_vote_fails_as_often_as_the_formula_says(copies, bit):
    """Every pattern of flipped copies, weighted by its probability."""
    z = marked_noise((1, copies), KEY, 0, torch.tensor([bit]))
    flips = torch.tensor(list(itertools.product([1.0, -1.0], repeat=copies)))
    wrong = read_message(z * flips, KEY, 0, 1)[:, 0] != bit
    for p in (0.0, 0.1, 0.35, 0.5, 0.9, 1.0):
        flipped = (flips < 0).sum(1).double()
        weight = p**flipped * (1 - p) ** (copies - flipped)
        assert weight[wrong].sum().item() == pytest.approx(majority_error(p, copies), abs=1e-12)


def test_a_long_message_at_a_given_rate_of_flips():
    """48 bits in 512 places, 10 or 11 copies each, 30 % of the signs flipped: 200 pictures."""
    g, nonces = seeded(3), torch.arange(200)
    message = torch.randint(0, 2, (200, 48), generator=g)
    z = marked_noise((200, 8, 8, 8), KEY, nonces, message, g)
    assert torch.equal(read_message(z, KEY, nonces, 48), message)
    z = torch.where(torch.rand(z.shape, generator=g) < 0.3, -z, z)
    wrong = (read_message(z, KEY, nonces, 48) != message).double()
    copies = torch.tensor([11] * 32 + [10] * 16)                        # 512 = 10 * 48 + 32
    for count in (11, 10):
        p, n = majority_error(0.3, count), 200 * (copies == count).sum().item()
        assert abs(wrong[:, copies == count].mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    assert majority_error(0.3, 10) == majority_error(0.3, 9) > majority_error(0.3, 11)


def test_copies_of_a_bit_are_spread_over_the_picture():
    """A crop that loses half of the places loses about half of the copies of every bit."""
    message = torch.tensor([1, 0, 0, 1, 1, 0, 1])
    z = marked_noise((1, 1, 28, 28), KEY, 0, message)
    half = z.clone()
    half[..., 14:, :] = -half[..., 14:, :].abs()                        # the lower half is lost
    assert torch.equal(read_message(half, KEY, 0, 7)[0], message)
    quiet = torch.where(torch.arange(28).view(28, 1) < 7, z, -z * 1e-3) # most copies are wrong
    assert not torch.equal(read_message(quiet, KEY, 0, 7)[0], message)
    assert torch.equal(read_message(quiet, KEY, 0, 7, min_abs=0.01)[0], message)


def test_the_wrong_key_reads_random_bits():
    z = marked_noise((100, 300), KEY, torch.arange(100), torch.ones(30))
    read = read_message(z, KEY + 1, torch.arange(100), 30).double()
    assert abs(read.mean() - 0.5) < 5 * 0.5 / 3000**0.5
    assert read_message(torch.ones(1, 4), KEY, 0, 4, min_abs=2.0).tolist() == [[0, 0, 0, 0]]


# ---- bad inputs

NOISE = torch.randn(5, 4)
BAD_MARKS = [
    (dict(shape=(5,)), r"shape must be \(B, ...\), such as"),
    (dict(shape=(5, 0)), "without a side of 0"),
    (dict(shape=784), "shape must be the sides of a batch"),
    (dict(key=-1), "key must be a whole number"),
    (dict(key=2**256), "key must be a whole number"),
    (dict(key="secret"), "key must be a whole number"),
    (dict(nonce=-1), "nonce must be a whole number"),
    (dict(nonce=2**63), "nonce must be a whole number"),
    (dict(nonce=True), "nonce must be a whole number"),
    (dict(nonce=0.5), r"nonce must be a whole number.*got torch.float32"),
    (dict(nonce=torch.tensor([1, 2])), r"or \(5,\) of them, one for each picture"),
    (dict(nonce=torch.tensor([1, 2, 3, 4, -5])), "nonce must be a whole number, 0 or more"),
    (dict(message=[0, 2]), "message must be bits, each 0 or 1"),
    (dict(message=torch.zeros(2, 2, 2)), r"message must be bits \(k,\) or \(5, k\)"),
    (dict(message=torch.zeros(4, 2)), r"message must be bits \(k,\) or \(5, k\)"),
    (dict(message=torch.zeros(0)), "the length of the message must be a whole number from 1 to 4"),
    (dict(message=torch.zeros(5)), "the length of the message must be a whole number from 1 to 4"),
    (dict(generator=0), "generator must be None or a torch.Generator"),
]
BAD_READS = [
    (dict(noise=torch.randn(4)), "noise must be a batch"),
    (dict(noise=torch.tensor([[1.0, math.nan]])), "noise has 1 values that are not finite"),
    (dict(noise=torch.ones(2, 2).long()), "noise must be floating point"),
    (dict(noise="z"), "noise must be a tensor"),
    (dict(min_abs=-0.1), "min_abs must be a number, at least 0"),
    (dict(nonce=torch.tensor([1, 2])), r"or \(5,\) of them"),
    (dict(key=0.5), "key must be a whole number"),
]


@pytest.mark.parametrize("change, sentence", BAD_MARKS)
def test_what_marked_noise_refuses(change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        marked_noise(**dict(shape=(5, 4), key=KEY, nonce=0) | change)


@pytest.mark.parametrize("change, sentence", BAD_READS)
@pytest.mark.parametrize("read", [detect, lambda **named: read_message(bits=2, **named)])
def test_what_the_readers_refuse(read, change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        read(**dict(noise=NOISE, key=KEY, nonce=0) | change)


@pytest.mark.parametrize("call, sentence", [
    (lambda: read_message(NOISE, KEY, 0, 5), "the length of the message .* from 1 to 4"),
    (lambda: read_message(NOISE, KEY, 0, 0), "the length of the message .* from 1 to 4"),
    (lambda: detect(NOISE, KEY, 0, torch.zeros(5)), "the length of the message .* from 1 to 4"),
    (lambda: detection_threshold(0, 0.01), "signs must be a whole number"),
    (lambda: detection_threshold(10, 0.0), "false_positive_rate must be a number above 0"),
    (lambda: detection_threshold(10, 1.1), "false_positive_rate must be a number above 0"),
    (lambda: majority_error(1.1, 3), "flip_rate must be a number from 0 to 1"),
    (lambda: majority_error(0.1, 0), "copies must be a whole number"),
    (lambda: majority_error(0.1, 2.5), "copies must be a whole number"),
])
def test_other_bad_numbers(call, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        call()
