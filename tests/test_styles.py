"""Ink styles, their judge, and transfers whose right answer is known."""
import pytest
import torch

from course_lib import clip, editing, last
from course_lib.lab import checkpoint, data, styles, train

X = data.mnist("test")[0][:200]


def test_styles_are_functions_that_stay_in_range():
    for draw in styles.STYLES.values():
        z = draw(X)
        assert z.shape == X.shape and z.dtype == X.dtype and z.abs().max() <= 1 and torch.equal(z, draw(X)) and torch.equal(z[3:5], draw(X[3:5]))
    assert torch.equal(styles.plain(X), X) and torch.equal(styles.inverse(styles.inverse(X)), X)


def test_styles_of_one_bright_pixel():
    """By hand: where the ink goes."""
    x = torch.full((1, 1, 28, 28), -1.0)
    x[..., 12, 9] = 1
    ink = {name: (draw(x)[0, 0] + 1) / 2 for name, draw in styles.STYLES.items()}
    assert ink["thick"].sum() == 9 and ink["thick"][11:14, 8:11].min() == 1
    assert ink["outline"].sum() == 8 and ink["outline"][12, 9] == 0
    assert ink["faint"][12, 9] == 0.5 and ink["faint"].sum() == 0.5
    assert ink["shadow"][14, 11] == pytest.approx(0.3) and ink["shadow"].sum() == pytest.approx(1.3)
    assert ink["stripes"][12, 9] == pytest.approx(0.3), "row 12 is a faint one"
    assert ink["paper"][12].min() == pytest.approx(0.15) and ink["paper"][12, 9] == 1 and ink["paper"][13].max() == 0
    assert ink["inverse"][12, 9] == 0 and ink["inverse"].sum() == 28 * 28 - 1


def test_the_judge_knows_real_styles_and_hardly_sees_the_digit():
    x, y, style = styles.styled(800, 1, "test")
    assert (styles.style_of(x) == style).double().mean() >= 0.97
    assert len(style.unique()) == len(styles.STYLES) and style.bincount().min() == 100
    f = styles.style_features(X)
    assert f.shape == (200, 7)
    centre = styles.judge().centroids[0]
    assert (f - centre).square().mean().sqrt() < 2, "digits of one style lie about one unit from their centroid"


def test_features_have_a_gradient():
    x = X[:4].clone().requires_grad_(True)
    gradient, = torch.autograd.grad(styles.style_features(x).square().sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_fitted_makes_the_spread_within_styles_one():
    g = torch.Generator().manual_seed(0)
    style = torch.arange(4000) % 8
    turn = torch.linalg.qr(torch.randn(20, 20, generator=g))[0]
    s = torch.randn(8, 20, generator=g)[style] + torch.randn(4000, 20, generator=g) @ (torch.linspace(0.5, 2, 20)[:, None] * turn)
    mean, matrix, centroids = styles.fitted(s, style)
    f = (s - mean) @ matrix
    torch.testing.assert_close(torch.cov((f - centroids[style]).T), torch.eye(7), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.stack([f[style == k].mean(0) for k in range(8)]), centroids, atol=1e-3, rtol=1e-3)


def test_the_score_of_known_results():
    tasks = styles.transfers(40)
    assert (tasks.before != tasks.after).all() and torch.equal(tasks.answer, styles.in_style(tasks.digit, tasks.after))
    best, nothing, another = (styles.score(x, tasks) for x in (tasks.answer, tasks.content, tasks.example))
    assert best["error"] == 0 and best["found"] == 1 and best["style"] > 0.95 and best["read"] > 0.85
    assert nothing["style"] < 0.05 and nothing["error"] > 0.5 and another["style"] > 0.95 and another["found"] < 0.2


def test_the_shipped_denoiser_transfers():
    """Twenty digits through their noise into the style of another: nearly as good as the card says."""
    D, tasks = train.load("mnist_styles", on="cpu"), styles.transfers(20)
    own, asked = styles.style_tokens(tasks.content), styles.style_tokens(tasks.example)
    got = styles.score(last(editing.edit(D, D.schedule, tasks.content, 12, {"context": own}, {"context": asked}, back=clip(D))), tasks)
    card = D.about["metrics"]["transfers"]
    assert got["style"] >= card["inversion"]["style"] - 0.15 and got["error"] < 0.5 * card["another digit in the style"]["error"]
    assert card["noise and back, style ignored"]["style"] < 0.2 < 0.6 < card["training-free"]["style"] and D.about["metrics"]["judge"]["all"] > 0.97
    assert (data.ASSETS / "checkpoints/mnist_styles.safetensors").stat().st_size < 8e5


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="10,000 digits"):
        styles.styled(20_000, split="test")
    with pytest.raises(ValueError, match="split must be"):
        styles.styled(10, split="pairs")
    with pytest.raises(ValueError, match="n = 0"):
        styles.transfers(0)
    with pytest.raises(ValueError, match="digits must be"):
        styles.style_of(X[:, 0])
    bad = tmp_path / "judge.safetensors"
    whole = bytearray((data.ASSETS / "checkpoints/mnist_style_judge.safetensors").read_bytes())
    whole[-5] ^= 1
    bad.write_bytes(whole)
    with pytest.raises(OSError, match="damaged"):
        checkpoint.load_tensors(bad)
