"""Every metric against a closed form, against torch-fidelity on the same features, and against bad
input.
"""
import hashlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from course_lib.lab import data, features, metrics

G = torch.Generator().manual_seed(0)
A = torch.randn(700, 48, generator=G).double() @ torch.randn(48, 48, generator=G).double() / 7
B = 0.8 * torch.randn(600, 48, generator=G).double() + 0.3


# ---- beside torch-fidelity

def test_frechet_distance_beside_torch_fidelity():
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(A), fid_features_to_statistics(B), verbose=False
    )["frechet_inception_distance"]
    assert metrics.frechet_distance(A, B) == pytest.approx(theirs, rel=1e-6)


def test_kid_beside_torch_fidelity():
    """One subset of everything leaves no chance."""
    theirs = kid_features_to_metric(
        A[:600], B, kid_subsets=1, kid_subset_size=600, rng_seed=0, kid_degree=3, verbose=False
    )["kernel_inception_distance_mean"]
    assert metrics.kid(A[:600], B, size=600, subsets=1)[0] == pytest.approx(theirs, rel=1e-6)


def test_inception_score_beside_torch_fidelity():
    logits = 3 * torch.randn(503, 10, generator=G)
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, std = metrics.inception_score(logits.double().softmax(1), splits=1)
    assert (
        mean
        == pytest.approx(
            isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"],
            rel=1e-6,
        )
        and std == 0
    )
    mean, std = metrics.inception_score(logits[:500].double().softmax(1), splits=10)
    theirs = isc_features_to_metric(logits[:500], splits=10, shuffle=False)
    assert (mean, std) == (
        pytest.approx(theirs["inception_score_mean"], rel=1e-6),
        pytest.approx(theirs["inception_score_std"], rel=1e-6),
    )


def test_precision_recall_beside_torch_fidelity():
    real = torch.randn(500, 3, generator=G).double()
    near = 1.4 * torch.randn(600, 3, generator=G).double()
    theirs = prc_features_to_metric(
        near, real, prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    precision, recall = metrics.precision_recall(real, near, k=3)
    assert 0 < precision < 1 and 0 < recall < 1
    assert (
        (precision, recall)
        == (pytest.approx(theirs["precision"], abs=1e-6), pytest.approx(theirs["recall"], abs=1e-6))
    )


# ---- beside closed forms

def test_few_points_have_the_same_distance_by_singular_values():
    """Fewer points than dimensions: one cloud against the other, beside the covariances'
    eigenvalues.
    """
    a = torch.randn(30, 64, generator=G).double()
    b = 2 * torch.randn(25, 64, generator=G).double() + 1
    by_covariance = metrics.frechet_distance(metrics.RunningMoments(a), metrics.RunningMoments(b))
    assert metrics.frechet_distance(a, b) == pytest.approx(by_covariance, rel=1e-6)


def test_statistics_of_a_stream():
    """In parts or at once; and far from zero, where sums of squares would lose every digit."""
    far = A + 1e7
    stream = metrics.RunningMoments(far.split([1, 300, 399]))
    torch.testing.assert_close(stream.mean, far.mean(0))
    torch.testing.assert_close(stream.covariance, A.T.cov(), rtol=1e-6, atol=1e-8)
    assert (
        metrics.frechet_distance(stream, metrics.RunningMoments(far))
        == pytest.approx(0, abs=1e-6)
    )


def test_kernel_distances_are_unbiased():
    """Two clouds from one distribution: zero on average, within three standard errors, also where
    clouds are small.
    """
    for distance in (
        lambda a, b: metrics.kid(a, b, size=40, subsets=1)[0],
        lambda a, b: metrics.gaussian_kernel_distance(a, b, width=2.0),
    ):
        values = torch.tensor(
            [distance(*torch.randn(2, 40, 5, generator=G).double()) for _ in range(300)]
        )
        assert abs(values.mean()) < 3 * values.std() / 300**0.5


def test_gaussian_kernel_distance_of_two_points_far_apart():
    a, b = torch.zeros(10, 3), torch.full((10, 3), 100.0)
    assert metrics.gaussian_kernel_distance(a, b, width=1.0) == pytest.approx(2.0), "1 + 1 - 2 * 0"


def test_gaussian_kernel_distance_by_hand():
    k = lambda distance, width: math.exp(-distance**2 / (2 * width**2))
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    for width in (0.7, 2.0):
        by_hand = k(1, width) + k(3, width) - 2 * (1 + k(3, width) + k(1, width) + k(2, width)) / 4
        assert metrics.gaussian_kernel_distance(a, b, width=width) == pytest.approx(by_hand)


def test_gaussian_kernel_distance_sees_what_frechet_does_not():
    """Mean and covariance equal, shape different: two bumps against one."""
    one = torch.randn(2000, 1, generator=G).double()
    two = (
        (torch.rand(2000, 1, generator=G) < 0.5).double() * 1.8
        - 0.9
        + 0.19**0.5 * torch.randn(2000, 1, generator=G)
    )
    real = torch.randn(2000, 1, generator=G).double()
    assert metrics.frechet_distance(two, real) < 0.01
    assert (
        metrics.gaussian_kernel_distance(two, real, width=0.5)
        > 20 * abs(metrics.gaussian_kernel_distance(one, real, width=0.5))
    )


def test_inception_score_at_its_ends():
    assert metrics.inception_score(torch.eye(10).repeat(50, 1), splits=1)[0] == pytest.approx(10), (
        "sure of each, all classes alike"
    )
    assert metrics.inception_score(torch.full((500, 10), 0.1), splits=1)[0] == pytest.approx(1), (
        "never sure"
    )
    assert metrics.inception_score(torch.eye(10)[:1].repeat(500, 1), splits=1)[0] == pytest.approx(
        1
    ), "always the same class"


def test_precision_and_recall_tell_a_missing_half_from_rubbish():
    real = torch.cat([torch.randn(500, 2, generator=G), torch.randn(500, 2, generator=G) + 20])
    half = torch.randn(800, 2, generator=G)
    precision, recall = metrics.precision_recall(real, half)
    assert precision > 0.9 and 0.4 < recall < 0.52
    precision, recall = metrics.precision_recall(
        real, torch.cat([real + 0.01, torch.randn(1000, 2, generator=G) - 40])
    )
    assert 0.4 < precision < 0.52 and recall > 0.9


def test_floor():
    z = torch.randn(4000, 8, generator=G).double()
    small = metrics.real_baseline(metrics.frechet_distance, z, 100)
    big = metrics.real_baseline(metrics.frechet_distance, z, 1000)
    assert 0 < big[0] < small[0] and small[1] > 0
    with pytest.raises(ValueError, match="must leave at least two"):
        metrics.real_baseline(metrics.frechet_distance, z, 4000)


def test_probabilities():
    x, y = (part[:200] for part in data.mnist("test"))
    p = features.digit_probabilities(x)
    assert (
        p.shape == (200, 10)
        and torch.equal(p.argmax(1), features.predict_digits(x))
        and (p.argmax(1) == y).double().mean() > 0.97
    )
    torch.testing.assert_close(p.sum(1), torch.ones(200).double())


# ---- LPIPS

def test_lpips_as_published():
    """Numbers of the authors' own package, lpips 0.1.4 (net="alex"), with this backbone, for these
    two pairs of pictures.
    """
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, 3, 64, 64, generator=g) * 2 - 1 for _ in range(2))
    # weights in fp16
    torch.testing.assert_close(
        metrics.lpips(x, y), torch.tensor([0.1028237, 0.1256468]), rtol=2e-4, atol=0
    )


def test_lpips_needs_32_pixels_both_ways():
    for H, W in ((31, 64), (64, 31)):
        with pytest.raises(ValueError, match=f"32 pixels or more; these have {H} x {W}"):
            metrics.lpips(torch.zeros(1, 1, H, W), torch.zeros(1, 1, H, W))


def test_lpips_is_a_distance_of_looks():
    x = data.mnist("test")[0][:20]
    lpips = partial(metrics.lpips, enlarge_to=64)
    assert lpips(x, x).abs().max() == 0
    torch.testing.assert_close(lpips(x, x.flip(0)), lpips(x.flip(0), x))
    def noisy(s):
        return (x + s * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(
            -1, 1
        )
    assert lpips(x, noisy(0.1)).mean() < lpips(x, noisy(0.5)).mean()
    with pytest.raises(ValueError, match="pair by pair"):
        lpips(x, x[:3])
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        lpips(x, 3 * x)
    with pytest.raises(ValueError, match="enlarge_to=64"):
        metrics.lpips(x, x)



# ---- doors

@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*arguments, **keywords):
        raise OSError("Network is unreachable")
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.delenv("COURSE_INCEPTION", raising=False)
    return tmp_path


def test_inception_without_a_network(no_network):
    with pytest.raises(OSError, match="could not be fetched.*pass the file as weights"):
        features.inception()
    with pytest.raises(OSError, match="there is no file"):
        features.inception(weights=no_network / "nothing.pth")


def test_a_damaged_download_is_refused(no_network):
    (no_network / "checkpoints").mkdir()
    (no_network / "checkpoints" / features.INCEPTION[0].rsplit("/", 1)[1]).write_bytes(
        b"half of it"
    )
    with pytest.raises(OSError, match="is damaged or another file.*delete it and call again"):
        features.inception()


def test_fetched_takes_a_whole_file(tmp_path):
    (tmp_path / "w").write_bytes(b"whole")
    assert (
        features.download(
            "https://example.org/w", hashlib.sha256(b"whole").hexdigest(), tmp_path / "w"
        )
        == tmp_path / "w"
    )


@pytest.mark.slow
def test_inception_with_weights_of_the_right_layout(monkeypatch, tmp_path):
    """Random weights in place of the published ones: pictures go in as bytes, 2048 features come
    out, and bad pictures are refused.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    torch.manual_seed(0)
    blank = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    monkeypatch.setattr(
        "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *a, **k: {}
    )
    monkeypatch.setattr(
        FeatureExtractorInceptionV3, "load_state_dict", lambda self, state, *a, **k: None
    )
    blank.__init__("inception", ["2048"])
    monkeypatch.undo()
    file = tmp_path / "inception.pth"
    torch.save(blank.state_dict(), file)
    monkeypatch.setattr(
        features,
        "INCEPTION",
        (features.INCEPTION[0], hashlib.sha256(file.read_bytes()).hexdigest()),
    )
    extract = features.inception(weights=file)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    z = extract(x)
    assert z.shape == (3, 2048) and z.dtype == torch.float64 and z.isfinite().all()
    theirs = blank(((x + 1) * 127.5).round().to(torch.uint8))[0].double()
    torch.testing.assert_close(z, theirs)
    with pytest.raises(ValueError, match="colour pictures"):
        extract(x[:, :1])


def test_dinov2_says_what_is_missing(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        features.dinov2()


# ---- bad input

@pytest.mark.parametrize("call, sentence", [
    (lambda: metrics.kid(torch.zeros(5), torch.zeros(5, 2)), r"a cloud of features is \(N, d\)"),
    (
        lambda: metrics.precision_recall(torch.zeros(3, 2), torch.zeros(9, 2)),
        "more than k = 3 points",
    ),
    (lambda: metrics.inception_score(torch.ones(20, 10)), "rows adding up to 1"),
    (
        lambda: metrics.gaussian_kernel_distance(torch.full((3, 2), math.inf), torch.zeros(3, 2)),
        "not finite",
    ),
    (
        lambda: metrics.frechet_distance(torch.zeros(1, 3), torch.zeros(5, 3)),
        "at least two points each",
    ),
])
def test_bad_features(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_numpy_features_are_taken_too():
    assert (
        metrics.frechet_distance(torch.from_numpy(np.eye(4)), torch.eye(4))
        == pytest.approx(0, abs=1e-9)
    )
