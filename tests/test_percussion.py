"""The percussion one-shots: what they are like, that no source is on both sides of a split, and
what their variants are.
"""
import math

import numpy as np
import pytest
import torch
from scipy.signal import resample

from course_lib.lab.data import percussion as module
from course_lib.lab.data.percussion import CLASSES, RATE, augment, drums, folds
from course_lib.lab.storage import ASSETS

seconds = torch.arange(8192) / RATE


def sine(frequency, amplitude=0.9):
    """One tone that fades in and out, (1, 1, 8192)."""
    wave = amplitude * (2 * math.pi * frequency * seconds).sin() * torch.hann_window(8192)
    return wave[None, None]


def frequency_of(x):
    """That of the highest peak of the spectrum, to a quarter of a Hertz."""
    spectrum = np.abs(np.fft.rfft(x.double().numpy().ravel(), 4 * RATE))
    return spectrum.argmax() / 4


def test_what_is_shipped():
    x, y, names, sources = drums("all")
    assert x.shape == (54, 1, 8192) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert y.bincount().tolist() == [21, 13, 10, 10] and len(CLASSES) == 4
    assert len(names) == len(set(names)) == 54 and len(set(sources)) == 40
    assert (ASSETS / "drums.npz").stat().st_size < 700_000


def test_each_sound_starts_at_once_is_not_clipped_and_ends_in_silence():
    x = drums("all").x[:, 0]
    peak = x.abs().amax(1)
    assert (peak - 0.9).abs().max() < 1e-4
    loud = x.abs() > 0.02 * peak[:, None]
    assert (loud.int().argmax(1) == 16).all()               # samples, 1 ms
    assert ((x.abs() > 0.999 * peak[:, None]).sum(1) < 20).all()
    assert (x[:, -1] == 0).all() and x[:, -8:].abs().max() < 0.002


def test_no_source_is_on_both_sides():
    train, test = drums(), drums("test")
    assert len(train.y) == 40 and len(set(train.sources)) == 28
    assert len(test.y) == 14 and len(set(test.sources)) == 12
    assert not set(train.sources) & set(test.sources)
    assert test.y.unique().tolist() == train.y.unique().tolist() == [0, 1, 2, 3]
    every = drums("all")
    assert sorted(train.names + test.names) == sorted(every.names)
    for part in (train, test):
        rows = [every.names.index(name) for name in part.names]
        assert torch.equal(part.x, every.x[rows]) and torch.equal(part.y, every.y[rows])


@pytest.mark.parametrize("k, seed", [(2, 0), (3, 5), (4, 1)])
def test_folds_hold_each_source_out_once(k, seed):
    every, parts = drums("all"), folds(k, seed)
    assert len(parts) == k
    assert torch.cat([held for _, held in parts]).sort().values.tolist() == list(range(54))
    for rows, held in parts:
        assert sorted(rows.tolist() + held.tolist()) == list(range(54))
        assert not {every.sources[i] for i in rows} & {every.sources[i] for i in held}
        assert len(every.y[held].unique()) == len(every.y[rows].unique()) == 4
    again, other = folds(k, seed), folds(k, seed + 1)
    assert len(folds()) == 4
    assert all(torch.equal(a[1], b[1]) for a, b in zip(parts, again))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(parts, other))


def correlation(a, b):
    """The highest over all shifts, of two waveforms."""
    n = 2 * len(a)
    products = np.fft.irfft(np.fft.rfft(a, n) * np.fft.rfft(b, n).conj())
    return np.abs(products).max() / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_six_toms_are_one_recording():
    """Why they are one source, though their names are of three drums: 9, 5 and 4 semitones."""
    x, _, names, sources = drums("all")
    toms = {name: x[k, 0].numpy() for k, name in enumerate(names) if name.startswith("drum_tom")}
    assert {s for s, name in zip(sources, names) if name in toms} == {"drum_tom_hi_hard"}
    assert len(toms) == 6
    for low, high, semitones in (
        ("lo_hard", "hi_hard", 9), ("lo_hard", "mid_hard", 5), ("mid_hard", "hi_hard", 4)
    ):
        low, high = toms[f"drum_tom_{low}"], toms[f"drum_tom_{high}"]
        raised = resample(low, round(8192 * 2 ** (-semitones / 12)))
        n = len(raised) // 2                                # beyond, one of them may have faded
        assert correlation(raised[:n], high[:n]) > 0.97 > 0.7 > correlation(low[:n], high[:n])


def test_variants_are_those_of_the_given_sounds_alone():
    x = torch.cat([sine(f) for f in (200, 800, 3000)])
    out, rows = augment(x, 12, seed=3)
    assert out.shape == (12, 1, 8192) and out.dtype == torch.float32
    assert rows.tolist() == [0, 1, 2] * 4
    for variant, row in zip(out, rows):
        ratio = frequency_of(variant) / (200, 800, 3000)[row]
        assert 2 ** (-3.05 / 12) < ratio < 2 ** (3.05 / 12)


def test_the_same_seed_the_same_variants():
    x = drums("test").x
    out, rows = augment(x, 40, seed=1)
    assert torch.equal(out, augment(x, 40, seed=1)[0])
    for n in (1, 2, 17):
        assert torch.equal(augment(x, n, seed=1)[0], out[:n])
    assert not torch.equal(augment(x, 40, seed=2)[0], out)
    assert (out[:14] != out[14:28]).any(2).all()


def test_what_varies_and_how_much():
    n = 400
    out, _ = augment(sine(1000), n, seed=0)
    low, high = out[:, 0].aminmax(dim=1)
    peak = torch.maximum(high, -low)
    assert 0.9 * 10 ** (-6 / 20) - 1e-3 < peak.min() < 0.456 and 0.89 < peak.max() < 0.901
    ratios = torch.tensor([frequency_of(v) / 1000 for v in out])
    semitones = 12 * ratios.log2()
    assert -3.05 < semitones.min() < -2.8 and 2.8 < semitones.max() < 3.05
    assert abs(semitones.mean()) < 4 * 3 / math.sqrt(3 * n)
    click = torch.zeros(1, 1, 8192)
    click[..., 16] = 0.9
    out, _ = augment(click, n, seed=0)
    place = out[:, 0].abs().argmax(1)
    assert 12 <= place.min() <= 16 and 75 <= place.max() <= 16 * 2 ** 0.25 + 64 + 1
    positive = out[:, 0].gather(1, place[:, None])[:, 0] > 0
    assert abs(positive.double().mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


def test_resampling_is_scipy_s():
    x = drums("all").x[5]
    padded = np.pad(x.double().numpy()[0], (0, 2048))
    for ratio in (0.85, 0.99, 1.18):
        wanted = resample(padded, round(10240 / ratio))[:8192]
        found = module._resampled(x, ratio)
        assert np.abs(found.numpy()[0] - wanted).max() < 1e-3
    out = module._resampled(sine(1000)[0], 1.1)             # and a tone is moved as it should
    inside = slice(1000, 6000)
    place = seconds[:6000] * 10240 / round(10240 / 1.1)     # in the sound that is read
    window = 0.5 - 0.5 * (2 * math.pi * place * RATE / 8192).cos()
    wanted = 0.9 * (2 * math.pi * 1000 * place).sin() * window
    torch.testing.assert_close(out[0, inside], wanted[inside], rtol=0, atol=2e-3)


def test_a_variant_s_filter_is_light_and_it_ends_in_silence():
    """Of white noise the two halves of the spectrum move apart by at most 2.2 dB."""
    g = torch.Generator().manual_seed(0)
    x = (0.2 * torch.randn(1, 1, 8192, generator=g)).clamp(-1, 1)
    out, _ = augment(x, 100, seed=4)
    assert out[:, :, -1].abs().max() == 0 and out[:, :, -8:].abs().max() < 0.002
    power = torch.fft.rfft(out[:, 0, 200:4000]).abs().square()
    low = power[:, 100:800].mean(1)                         # all below what resampling takes away
    tilt = 10 * (power[:, 900:1500].mean(1) / low).log10()
    expected = lambda a: 20 * math.log10((1 - a * 0.55) / (1 + a * 0.6))
    assert tilt.std() > 0.5 and tilt.max() < expected(-0.2) + 1 and tilt.min() > expected(0.2) - 1


def test_silence_stays_silent_and_samples_may_be_a_little_too_loud():
    assert (augment(torch.zeros(1, 1, 512), 3)[0] == 0).all()
    assert augment(sine(500, 1.99), 1)[0].abs().max() > 0.9


def test_a_damaged_file_is_refused(tmp_path):
    whole = (ASSETS / "drums.npz").read_bytes()
    bad = tmp_path / "drums.npz"
    for content in (whole[:5000], whole[:5000] + b"?" + whole[5001:]):
        bad.write_bytes(content)
        with pytest.raises(OSError, match="damaged"):
            drums(file=bad)
    with pytest.raises(FileNotFoundError, match="reinstall"):
        drums(file=tmp_path / "none.npz")


X = torch.zeros(2, 1, 512)


@pytest.mark.parametrize("call, words", [
    (lambda: drums("valid"), "split must be one of train, test, all; got 'valid'"),
    (lambda: folds(5), "k must be a whole number from 2 to 4; got 5"),
    (lambda: folds(1), "k must be a whole number from 2 to 4; got 1"),
    (lambda: folds(2, -1), "seed must be"),
    (lambda: augment(X, 0), "n must be"),
    (lambda: augment(X, 3, 0.5), "seed must be"),
    (lambda: augment("kick", 3), "x must be a tensor"),
    (lambda: augment(X[:, 0], 3), r"x must be sounds \(N, 1, T\).*got \(2, 512\)"),
    (lambda: augment(X[:0], 3), "at least one"),
    (lambda: augment(X[..., :100], 3), "T >= 256"),
    (lambda: augment(X.expand(2, 2, 512), 3), r"x must be sounds \(N, 1, T\)"),
    (lambda: augment(X.to(torch.int16), 3), "x / 32768"),
    (lambda: augment(X + 2.01, 3), "got a peak of 2.01"),
    (lambda: augment(X + 3000, 3), r"x must lie in \[-1, 1\]; got a peak of 3000"),
    (lambda: augment(X / 0, 3), "not finite"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()
