"""Log-mel spectrograms against a sine's closed form; distances, discriminants and levels against
brute force; what all of them say of the shipped sounds.
"""
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from course_lib.lab.data.percussion import augment, drums
from course_lib.lab.evaluation import sounds
from course_lib.lab.evaluation.sounds import (
    cross_validate,
    log_mel,
    mel_filters,
    nearest_distance,
    nearest_training_ratio,
    sound_checks,
    sound_classifier,
)

RATE = 16_000
seconds = torch.arange(8192) / RATE
seeded = lambda seed: torch.Generator().manual_seed(seed)
decay = torch.exp(-seconds / 0.05)


def burst(*shape, seed=0, start=2048):
    """Fading noise amid silence, (*shape, 1, 8192), of other colours."""
    x = torch.randn(*shape, 1, 8192, generator=seeded(seed)) * 0.1 * decay.roll(start)
    colour = torch.rand(*shape, 1, 1, generator=seeded(seed + 1)) * 1.8 - 0.9
    x = x + colour * x.roll(1, -1)
    return torch.where(torch.arange(8192) < start, 0, x)


# ---- spectrograms

def test_filters_are_triangles_evenly_spaced_in_mel():
    """Between the first and the last centre they add up to 1; each is highest near its centre."""
    bands, n_fft = 40, 1024
    filters = mel_filters(bands, n_fft).double()
    assert filters.shape == (40, 513) and (filters >= 0).all()
    to_mel = lambda f: 2595 * math.log10(1 + f / 700)
    step = to_mel(8000) / 41
    f = torch.linspace(0, 8000, 513, dtype=torch.float64)
    centres = [700 * (10 ** (step * (k + 1) / 2595) - 1) for k in range(bands)]
    inside = (f >= centres[0]) & (f <= centres[-1])
    torch.testing.assert_close(filters[:, inside].sum(0), torch.ones_like(f[inside]))
    peaks = f[filters.argmax(1)]
    assert (peaks - torch.tensor(centres)).abs().max() <= 8000 / 512
    assert (filters > 0).sum(0).max() == 2                  # no more than neighbours overlap


@pytest.mark.parametrize("place, amplitude", [(10, 1.0), (100, 0.5), (301, 0.05)])
def test_a_sine_falls_into_its_band(place, amplitude):
    """On an FFT frequency a Hann window has 1, its neighbours 1/2: 1/4 of the power each."""
    x = amplitude * (2 * math.pi * place * RATE / 1024 * seconds + 0.3).sin()
    L = log_mel(x[None, None])
    assert L.shape == (1, 40, 33)
    filters = mel_filters()
    power = filters[:, place] + (filters[:, place - 1] + filters[:, place + 1]) / 4
    expected = 10 * (amplitude**2 * power).clamp(min=1e-12).log10()
    within = power > 0
    inside = L[0, :, 3:-3]                                  # windows that lie in the sound
    assert (inside[within] - expected[within, None]).abs().max() < 0.01
    assert (inside.argmax(0) == filters[:, place].argmax()).all()
    assert inside[~within].max() < 20 * math.log10(amplitude) - 60


def test_a_spectrogram_is_its_definition():
    x = burst(2, seed=3)
    L = log_mel(x, bands=12, n_fft=256, hop=100)
    assert L.shape == (2, 12, 82)
    padded = np.pad(x.double().numpy()[1, 0], 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    for frame in (20, 21, 40, 81):
        z = np.fft.rfft(window * padded[100 * frame : 100 * frame + 256]) / (window.sum() / 2)
        power = mel_filters(12, 256).double().numpy() @ np.abs(z) ** 2
        wanted = 10 * np.log10(power.clip(1e-12))
        assert np.abs(L[1, :, frame].numpy() - wanted).max() < 0.02
    assert (log_mel(torch.zeros(1, 1, 512)) == -120).all()


# ---- near copies

def test_the_nearest_distance_is_its_definition():
    x, train = burst(3, seed=0), burst(5, seed=10)
    relative = []
    for z in (x, train):
        db = log_mel(z).double().numpy()
        relative.append(np.clip(db - db.max((1, 2), keepdims=True), -60, 0))
    wanted = np.full((3, 5), np.inf)
    for i, a in enumerate(relative[0]):
        for j, b in enumerate(relative[1]):
            for p, q in ((a, b), (a[:, 1:], b[:, :-1]), (a[:, :-1], b[:, 1:])):
                wanted[i, j] = min(wanted[i, j], np.sqrt(np.mean((p - q) ** 2)))
    distance, row = nearest_distance(x, train)
    assert row.tolist() == wanted.argmin(1).tolist()
    assert np.abs(distance.numpy() - wanted.min(1)).max() < 0.01


def test_a_copy_is_found_whatever_its_level_sign_and_frame():
    train = burst(4, seed=20)
    for copy in (train, 0.3 * train, -train, train.roll(256, -1), train.roll(-256, -1)):
        distance, row = nearest_distance(copy, train)
        assert distance.max() < 0.05 and row.tolist() == [0, 1, 2, 3]
    assert nearest_distance(train.roll(1024, -1), train)[0].min() > 1


def test_the_ratio_is_one_for_what_was_held_out():
    train, held_out, x = burst(6, seed=30), burst(5, seed=50), burst(3, seed=70)
    own = nearest_training_ratio(held_out, train, held_out)
    assert own.median() == pytest.approx(1, abs=1e-6)
    assert nearest_training_ratio(train, train, held_out).max() < 0.01
    ratio = nearest_training_ratio(x, train, held_out)
    usual = nearest_distance(held_out, train)[0].median()
    torch.testing.assert_close(ratio * usual, nearest_distance(x, train)[0])


def test_variants_of_training_sounds_are_told_from_held_out_sounds():
    """Beside variants as training sounds: copies at another pitch, nearer than nearly all others.
    """
    train, held_out = drums().x, drums("test").x
    bank = torch.cat([train, augment(train, 400, seed=1)[0]])
    copies, rows = augment(train, 80, seed=2)
    ratio = nearest_training_ratio(copies, bank, held_out)
    held = nearest_training_ratio(held_out, bank, held_out)
    assert (ratio[:, None] < held).double().mean() > 0.98
    assert ratio.median() < 0.25 and (ratio < 0.5).double().mean() > 0.9
    _, nearest = nearest_distance(copies, train)
    assert (nearest == rows).double().mean() > 0.85
    assert nearest_distance(train, train)[0].max() < 0.05


# ---- classes

def test_copies_that_hiss_are_found_in_the_upper_30_decibels():
    """Hiss 40 dB below full scale fills the pauses: with 60 dB of range copies seem new."""
    train, held_out = drums().x, drums("test").x
    copies = (train + 0.01 * torch.randn(train.shape, generator=seeded(0))).clamp(-1, 1)
    ratio = nearest_training_ratio(copies, train, held_out)
    assert ratio.median() > 0.5
    ratio = nearest_training_ratio(copies, train, held_out, decibels=30)
    assert (ratio < 0.2).double().mean() > 0.8


def test_discriminants_are_gaussians_of_one_covariance():
    """Equal priors, the shrunk covariance within the classes, against scipy's densities."""
    d = 4
    y = torch.tensor([3] * 30 + [5] * 10 + [8] * 20)
    mix = torch.randn(d, d, generator=seeded(1), dtype=torch.float64)
    centre = 1.5 * torch.randn(9, d, generator=seeded(2), dtype=torch.float64)
    z = torch.randn(60, d, generator=seeded(0), dtype=torch.float64) @ mix + centre[y]
    means = [z[y == c].mean(0) for c in (3, 5, 8)]
    within = sum(torch.cov(z[y == c].T, correction=0) for c in (3, 5, 8)) / 3
    within = within + 0.1 * within.trace() / d * torch.eye(d, dtype=torch.float64)
    new = 2 * torch.randn(500, d, generator=seeded(3), dtype=torch.float64)
    log_p = np.stack([multivariate_normal(m.numpy(), within.numpy()).logpdf(new) for m in means])
    wanted = np.array([3, 5, 8])[log_p.argmax(0)]
    assert sounds._discriminants(z, y)(new).tolist() == wanted.tolist()
    assert len(set(wanted)) == 3


def test_a_classifier_of_two_plain_classes():
    g = seeded(0)
    pitch = 60 + 60 * torch.rand(40, 1, 1, generator=g)
    low = (2 * math.pi * pitch * seconds).sin() * decay
    high = torch.randn(40, 1, 8192, generator=g).diff(prepend=torch.zeros(40, 1, 1)) * decay / 8
    x, y = torch.cat([low, high]), torch.tensor([2] * 40 + [7] * 40)
    classify = sound_classifier(x[::2], y[::2])
    assert torch.equal(classify(x[1::2]), y[1::2])
    assert torch.equal(classify(-0.2 * x), y)               # of any level


def test_cross_validation_is_fitted_without_the_source():
    """Tones whose classes alternate: the neighbours mislead, the source itself does not."""
    tones = torch.stack([(2 * math.pi * 200 * 1.4**k * seconds).sin() for k in range(10)])
    x = 0.9 * (torch.cat([tones, 0.5 * tones]) * decay)[:, None]        # two recordings of each
    y = (torch.arange(10) % 2).repeat(2)
    assert (sound_classifier(x, y)(x) == y).all()
    found = cross_validate(x, y, [f"tone {k}" for k in range(10)] * 2) == y
    assert found.double().mean() < 0.4
    untold = cross_validate(x, y, [f"sound {k}" for k in range(20)]) == y
    assert untold.double().mean() > 0.8                     # the other recording gives it away


def test_the_classes_of_held_out_sources():
    """Of 54 sounds. Toms, of which there are four sources, are not learnt."""
    x, y, _, sources = drums("all")
    right = (cross_validate(x, y, sources) == y).double()
    assert 0.75 < right.mean() < 0.9
    by_class = [right[y == label].mean() for label in range(4)]
    assert by_class[0] > 0.85 and by_class[1] > 0.85 and by_class[2] > 0.65 > by_class[3]
    train, test = drums(), drums("test")
    more, rows = augment(train.x, 160)
    classify = sound_classifier(more, train.y[rows])
    assert (classify(train.x) == train.y).double().mean() > 0.95
    assert 0.6 < (classify(test.x) == test.y).double().mean() < 1


# ---- level

def test_levels_have_a_closed_form():
    wave = (2 * math.pi * 1000 * seconds[:8000]).sin()
    square = wave.sign() + (wave == 0)
    x = torch.stack([wave, 0.01 * wave, 0 * wave, square, 1.5 * wave, 1e-4 * wave])[:, None]
    found = sound_checks(x)
    half = 10 * math.log10(0.5)
    expected = [half, half - 40, -120, 0, half + 20 * math.log10(1.5), half - 80]
    torch.testing.assert_close(found["loudness"], torch.tensor(expected), rtol=0, atol=0.01)
    assert found["silent"].tolist() == [False, False, True, False, False, True]
    # of the 16 samples of a period, 2 are crests and 10 are above 2 / 3
    assert found["clipped"].tolist() == [2 / 16, 0, 0, 1, 10 / 16, 0]
    assert sound_checks(100 * x)["loudness"][0] == pytest.approx(half + 40, abs=0.01)


def test_the_shipped_sounds_are_neither_clipped_nor_silent():
    found = sound_checks(drums("all").x)
    assert (found["clipped"] == 0).all() and not found["silent"].any()
    assert -40 < found["loudness"].min() and found["loudness"].max() < -4


X, Y = burst(4, seed=0), torch.tensor([0, 0, 1, 1])
NAMES = ["a", "b", "c", "d"]


@pytest.mark.parametrize("call, words", [
    (lambda: mel_filters(0), "bands must be"),
    (lambda: mel_filters(40, 8), "n_fft must be"),
    (lambda: mel_filters(80, 256), "80 bands are too many for 256 samples"),
    (lambda: log_mel(X, hop=0), "hop must be"),
    (lambda: log_mel(X[:, 0]), r"x must be sounds \(N, 1, T\)"),
    (lambda: nearest_distance(X, X[..., :4096]), "one length; got 8192 and 4096 samples"),
    (lambda: nearest_distance(X, "train"), "must be a tensor"),
    (lambda: nearest_distance(X, X, 0), "decibels must be a number above 0"),
    (lambda: nearest_training_ratio(X, X, X, decibels=-30), "decibels must be a number above 0"),
    (lambda: nearest_training_ratio(X, X, X[:0]), "at least one"),
    (lambda: nearest_training_ratio(X, X, X), "held_out must not be in train"),
    (lambda: sound_classifier(X[..., :1000], Y), "at least 1024 samples; got 1000"),
    (lambda: sound_classifier(X[:2], Y[1:3]), "needs two sounds that differ"),
    (lambda: sound_classifier(X, Y[:3]), "labels are one whole number each"),
    (lambda: sound_classifier(X, Y / 2), "labels are whole numbers"),
    (lambda: cross_validate(5, Y, NAMES), r"x must be sounds \(N, 1, T\)|floating point"),
    (lambda: cross_validate(X, Y, NAMES[:3]), "sources are 4 names, two or more; got 3 names"),
    (lambda: cross_validate(X, Y, ["a"] * 4), "two or more"),
    (lambda: cross_validate(X, Y, [0, 1, 2, 3]), "sources must be a list of strings"),
    (lambda: cross_validate(X, Y, NAMES, variants=0), "variants must be"),
    (lambda: cross_validate(X, Y, ["a", "a", "b", "c"]), "class 0 has one source"),
    (lambda: sound_classifier(X, 0 * Y), "two classes or more"),
    (lambda: nearest_distance(X, X[:0]), "train must be sounds"),
    (lambda: nearest_training_ratio(X, X, Y), "held_out must be floating point"),
    (lambda: sound_checks(X / 0), "not finite"),
    (lambda: sound_checks(X.int()), "must be floating point"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
