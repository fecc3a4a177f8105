"""Ink styles, their judge, and transfers whose right answer is known."""
import pytest
import torch

from course_lib import clip, editing, last
from course_lib.lab import data, storage, styles, train
from course_lib.lab.evaluation.features import predict_digits

X = data.mnist("test")[0][:200]


def test_styles_are_functions_that_stay_in_range():
    for draw in styles.STYLES.values():
        z = draw(X)
        assert (
            z.shape == X.shape
            and z.dtype == X.dtype
            and z.abs().max() <= 1
            and torch.equal(z, draw(X))
            and torch.equal(z[3:5], draw(X[3:5]))
        )
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
    assert (
        ink["paper"][12].min() == pytest.approx(0.15)
        and ink["paper"][12, 9] == 1
        and ink["paper"][13].max() == 0
    )
    assert ink["inverse"][12, 9] == 0 and ink["inverse"].sum() == 28 * 28 - 1


def test_the_judge_knows_real_styles_and_hardly_sees_the_digit():
    x, y, style = styles.styled(800, 1, "test")
    assert (styles.style_of(x) == style).double().mean() >= 0.97
    assert len(style.unique()) == len(styles.STYLES) and style.bincount().min() == 100


@torch.no_grad()
def test_styles_lie_far_apart_and_digits_of_one_style_about_one_unit_from_its_mean():
    x, y, style = styles.styled(800, 1, "test")
    f, centroids = styles.style_features(x), styles.style_classifier().centroids
    assert f.shape == (800, 7)
    gap = (f - centroids[style]).square()
    assert (
        0.7 < gap.mean().sqrt() < 1.3
        and (gap.mean(0).sqrt() > 0.6).all()
        and (gap.mean(0).sqrt() < 1.3).all()
    )
    # how far means lie from their own mean, in each number
    apart = lambda means: (means - means.mean(0)).square().mean().sqrt()
    x, y = (part[:400] for part in data.mnist("test"))
    for k, draw in enumerate(styles.STYLES.values()):
        f = styles.style_features(draw(x))
        assert apart(torch.stack([f[y == digit].mean(0) for digit in range(10)])) < 0.1 * apart(
            centroids
        ), "the digit matters little"
        assert (f.mean(0) - centroids[k]).abs().max() < 0.5, (
            "test digits lie where the training digits lay"
        )


def test_the_classifier_reads_the_readable_styles():
    x, y = (part[:400] for part in data.mnist("test"))
    read = {
        name: (predict_digits(draw(x)) == y).double().mean() for name, draw in styles.STYLES.items()
    }
    assert (
        min(read[name] for name in styles.READABLE) > 0.9
        and max(read[name] for name in read if name not in styles.READABLE) < 0.7
    ), read


def test_styled_takes_each_style_equally_often_and_no_digit_twice():
    x, y, style = styles.styled(60, 2, "test")
    assert sorted(style.bincount().tolist()) == [7] * 4 + [8] * 4 and (style.diff() != 1).any()
    test, numbers = data.mnist("test")
    draws = torch.stack([draw(test) for draw in styles.STYLES.values()])  # (8, 10000, 1, 28, 28)
    rows = [
        (draws[k] == picture).flatten(1).all(1).nonzero()[:, 0].tolist()
        for picture, k in zip(x, style)
    ]
    assert (
        all(len(row) == 1 for row in rows)
        and len({row[0] for row in rows}) == 60
        and torch.equal(numbers[[row[0] for row in rows]], y)
    )


def test_features_have_a_gradient():
    x = X[:4].clone().requires_grad_(True)
    gradient, = torch.autograd.grad(styles.style_features(x).square().sum(), x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_fitted_makes_the_spread_within_styles_one():
    g = torch.Generator().manual_seed(0)
    style = torch.arange(4000) % 8
    turn = torch.linalg.qr(torch.randn(20, 20, generator=g))[0]
    s = (
        torch.randn(8, 20, generator=g)[style]
        + torch.randn(4000, 20, generator=g) @ (torch.linspace(0.5, 2, 20)[:, None] * turn)
    )
    mean, matrix, centroids = styles.fit_discriminants(s, style)
    f = (s - mean) @ matrix
    torch.testing.assert_close(torch.cov((f - centroids[style]).T), torch.eye(7), atol=0.02, rtol=0)
    torch.testing.assert_close(
        torch.stack([f[style == k].mean(0) for k in range(8)]), centroids, atol=1e-3, rtol=1e-3
    )


def test_the_score_of_known_results():
    tasks = styles.transfers(40)
    assert (
        (tasks.before != tasks.after).all()
        and torch.equal(tasks.answer, styles.in_style(tasks.digit, tasks.after))
    )
    best, nothing, another = (
        styles.score(x, tasks) for x in (tasks.answer, tasks.content, tasks.example)
    )
    assert (
        best["error"] == 0 and best["found"] == 1 and best["style"] > 0.95 and best["read"] > 0.85
    )
    assert (
        nothing["style"] < 0.05
        and nothing["error"] > 0.5
        and another["style"] > 0.95
        and another["found"] < 0.2
    )


def test_the_nearest_picture_is_found_among_all_in_the_style_asked_for():
    """Against a loop over tasks and digits; and what cannot be read leaves nothing to read."""
    tasks = styles.transfers(24, 3)
    x = 0.5 * tasks.content + 0.5 * tasks.answer
    draws = list(styles.STYLES.values())
    right = sum(
        min(range(24), key=lambda k: (draws[after](tasks.digit[k : k + 1]) - x[i]).square().mean())
        == i
        for i, after in enumerate(tasks.after)
    )
    assert 0 < right < 24 and styles.score(x, tasks)["found"] == pytest.approx(right / 24)
    hidden = styles.subset(
        tasks,
        ~torch.isin(
            tasks.after, torch.tensor([list(styles.STYLES).index(name) for name in styles.READABLE])
        ),
    )
    scores = styles.score(hidden.answer, hidden)
    assert scores["read"] != scores["read"] and scores["found"] == 1


def test_the_score_of_a_thousand_results_needs_little_memory(monkeypatch):
    """Never more than one style of all digits at once."""
    tasks, asked = styles.transfers(50), []
    in_style = styles.in_style
    monkeypatch.setattr(
        styles, "in_style", lambda x, style: asked.append(len(x)) or in_style(x, style)
    )
    styles.score(tasks.answer, tasks)
    assert sum(asked) <= 8 * 50


def test_the_shipped_denoiser_transfers():
    """Twenty digits through their noise into the style of another: nearly as good as the card says.
    """
    D, tasks = train.load("mnist_styles", device="cpu"), styles.transfers(20)
    own, asked = styles.style_tokens(tasks.content), styles.style_tokens(tasks.example)
    got = styles.score(
        last(
            editing.ddim_edit(
                D,
                D.schedule,
                tasks.content,
                12,
                {"context": own},
                {"context": asked},
                D_down=clip(D),
            )
        ),
        tasks,
    )
    card = D.about["metrics"]["transfers"]
    assert (
        got["style"] >= card["inversion"]["style"] - 0.15
        and got["error"] < 0.5 * card["another digit in the style"]["error"]
    )
    assert (
        card["noise and back, style ignored"]["style"] < 0.2 < 0.6 < card["training-free"]["style"]
        and D.about["metrics"]["judge"]["all"] > 0.97
    )
    assert (storage.ASSETS / "checkpoints/mnist_styles.safetensors").stat().st_size < 8e5


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="from 1 to 10000 .*of the digits in test"):
        styles.styled(20_000, split="test")
    with pytest.raises(ValueError, match="split must be"):
        styles.styled(10, split="pairs")
    with pytest.raises(ValueError, match="n must be .* from 1 to 5000"):
        styles.transfers(0)
    for numbers, says in (
        ([0, 8], "from 0 to 7; got 8"),
        ([-1, 0], "got -1"),
        ([0], "2 digits and 1 styles"),
        ([0.5, 1.0], "got 0.5"),
    ):
        with pytest.raises(ValueError, match=says):
            styles.in_style(X[:2], torch.tensor(numbers))
    with pytest.raises(ValueError, match="each of the 3 tasks; got 2"):
        styles.score(X[:2], styles.transfers(3))
    with pytest.raises(ValueError, match="digits must be"):
        styles.style_of(X[:, 0])
    bad = tmp_path / "judge.safetensors"
    whole = bytearray((storage.ASSETS / "checkpoints/mnist_style_judge.safetensors").read_bytes())
    whole[-5] ^= 1
    bad.write_bytes(whole)
    with pytest.raises(OSError, match="damaged"):
        storage.load_tensors(bad)
