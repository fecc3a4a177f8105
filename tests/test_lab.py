"""Data, metrics, figures and widgets."""
import io
import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from course_lib import Schedule
from course_lib.lab import data, features, metrics, plots, storage, train, widgets

# ---- data

def test_mnist():
    x, y = data.mnist("test")
    assert (
        x.shape == (10_000, 1, 28, 28)
        and x.dtype == torch.float32
        and x.min() == -1
        and x.max() == 1
    )
    assert torch.bincount(y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(data.mnist("train")[0]) == 60_000
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'valid'"):
        data.mnist("valid")


def test_a_damaged_or_missing_file_is_named(tmp_path):
    file = tmp_path / "mnist.npz"
    with pytest.raises(FileNotFoundError, match="is missing: reinstall"):
        data.mnist("test", file)
    file.write_bytes((storage.ASSETS / "mnist.npz").read_bytes()[:1_000_000])
    with pytest.raises(OSError, match="truncated download.*git checkout"):
        data.mnist("test", file)


def test_cifar10_from_a_file_and_without_a_network(tmp_path, monkeypatch):
    pictures = np.arange(2 * 32 * 32 * 3).astype(np.uint8).reshape(2, 32, 32, 3)
    np.savez(
        tmp_path / "cifar10.npz",
        x_train=pictures,
        y_train=np.array([3, 9], np.uint8),
        x_test=pictures[:1],
        y_test=np.array([1], np.uint8),
    )
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    x, y = data.cifar10()
    assert (
        x.shape == (2, 3, 32, 32)
        and y.tolist() == [3, 9]
        and y.dtype == torch.int64
        and len(data.cifar10("test")[0]) == 1
    )
    assert x[1, 2, 5, 7].item() == pytest.approx(pictures[1, 5, 7, 2] / 127.5 - 1)
    with pytest.raises(ValueError, match="split must be"):
        data.cifar10("validation")

    whole = (tmp_path / "cifar10.npz").read_bytes()
    for broken in (whole[:2000], b"", b"not an archive"):
        (tmp_path / "cifar10.npz").write_bytes(broken)
        with pytest.raises(OSError, match="cifar10.npz is damaged or another file.*delete it"):
            data.cifar10()

    def no_network(*arguments, **keywords):
        raise OSError("no network")
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(OSError, match="could not be fetched into .*empty.*set COURSE_DATA"):
        data.cifar10(folder=tmp_path / "empty")


@pytest.mark.parametrize("toy", [data.two_moons, data.swiss_roll, data.spiral, data.checkerboard])
def test_toys(toy):
    x = toy(5000, seed=1)
    assert (
        x.shape == (5000, 2)
        and x.dtype == torch.float32
        and torch.equal(x, toy(5000, seed=1))
        and not torch.equal(x, toy(5000, seed=2))
    )
    assert x.abs().max() < 2 and 0.4 < x.std() < 1.1 and x.mean(0).abs().max() < 0.35


def test_checkerboard_has_empty_squares():
    x = data.checkerboard(5000)
    column, row = ((x + 1.5) / 0.75).floor().long().unbind(1)
    assert ((column + row) % 2 == 0).all() and len(set(zip(column.tolist(), row.tolist()))) == 8


MIXTURE = data.GaussianMixture(
    [[-1.0, 0.3], [0.8, 0.5], [0.0, -1.0]], [0.2, 0.4, 0.1], [0.5, 0.3, 0.2]
)


def test_mixture_density_integrates_to_one_and_matches_its_samples():
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for alpha, sigma in ((1.0, 0.0), (0.6, 0.8)):
        density = MIXTURE.log_prob(points, alpha, sigma).exp()
        assert density.sum() * 0.02**2 == pytest.approx(1, abs=1e-3)
    x = MIXTURE.sample(50_000)
    wanted = (MIXTURE.weights[:, None] * MIXTURE.means).sum(0)
    torch.testing.assert_close(x.double().mean(0), wanted, atol=0.02, rtol=0)


def test_mixture_score_is_the_gradient():
    x = torch.randn(50, 2, dtype=torch.float64).requires_grad_()
    for alpha, sigma in ((1.0, 0.0), (0.7, 0.5), (0.1, 3.0)):
        gradient = torch.autograd.grad(MIXTURE.log_prob(x, alpha, sigma).sum(), x)[0]
        torch.testing.assert_close(MIXTURE.score(x, alpha, sigma), gradient)


def test_mixture_posterior_mean_is_bayes_rule():
    """E[x0 | x_t] by weighing 400,000 draws of x0 with q(x_t | x0), and by Tweedie's formula."""
    x0 = MIXTURE.sample(400_000).double()
    x = torch.tensor([[0.1, 0.2], [-0.5, -0.4]], dtype=torch.float64)
    alpha = 0.8
    sigma = 0.6
    exact = MIXTURE.posterior_mean(x, alpha, sigma)
    weight = (-(torch.cdist(x, alpha * x0) ** 2) / (2 * sigma**2)).softmax(dim=1)
    torch.testing.assert_close(exact, weight @ x0, atol=0.01, rtol=0)
    torch.testing.assert_close(exact, (x + sigma**2 * MIXTURE.score(x, alpha, sigma)) / alpha)


def test_mixture_denoiser_takes_one_time_or_many():
    D, x = MIXTURE.denoiser(Schedule.cosine()), torch.randn(3, 2)
    torch.testing.assert_close(D(x, torch.full((3,), 0.5)), D(x, torch.tensor(0.5)))
    assert D(x, torch.tensor(0.5)).dtype == torch.float32
    torch.testing.assert_close(D(x, torch.tensor(0.0)), x)
    with pytest.raises(ValueError, match="positive standard deviations"):
        data.GaussianMixture([[0.0]], 0.0)


# ---- metrics

def test_classifier_reads_the_test_digits():
    """99.7 % of all; here every fourth."""
    x, y = (part[::4] for part in data.mnist("test"))
    assert metrics.class_agreement(x, y) >= 0.993
    assert (
        features.digit_features(x[:7]).shape == (7, 128)
        and features.digit_features(x[:7]).dtype == torch.float64
    )


def cloud(n, d, seed, scale=1.0, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return (
        shift
        + scale
        * torch.randn(n, d, generator=g, dtype=torch.float64)
        @ torch.randn(d, d, generator=g, dtype=torch.float64)
        / d**0.5
    )


@pytest.mark.parametrize("n, d", [(500, 16), (10, 16), (400, 1)])
def test_frechet_distance_is_the_formula(n, d):
    """Against scipy's matrix square root, at full rank, at low rank (n < d) and in one dimension.
    """
    a, b = cloud(n, d, 0), cloud(n + 5, d, 1, 1.3, 0.2)
    A = np.cov(a.numpy(), rowvar=False).reshape(d, d)
    B = np.cov(b.numpy(), rowvar=False).reshape(d, d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = np.real(scipy.linalg.sqrtm(A @ B))
    direct = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(A + B - 2 * root)
    assert metrics.frechet_distance(a, b) == pytest.approx(direct, rel=1e-4 if n < d else 1e-7)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a), rel=1e-7)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6 if n < d else 1e-9)
    assert metrics.frechet_distance(a, a + 2) == pytest.approx(4 * d), (
        "a shift costs its squared length"
    )


def test_frechet_distance_refuses():
    with pytest.raises(ValueError, match="two clouds of features"):
        metrics.frechet_distance(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ValueError, match="not finite"):
        metrics.frechet_distance(torch.full((5, 3), math.nan), torch.zeros(5, 3))


def test_floor_falls_with_n():
    assert 0 < metrics.frechet_real_baseline(1000) < metrics.frechet_real_baseline(200)


@pytest.mark.parametrize(
    "x, error, sentence",
    [
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), TypeError, "scale bytes with x / 127.5 - 1"),
        (torch.zeros(2, 3, 28, 28), ValueError, r"digits must be \(N, 1, 28, 28\)"),
        (torch.full((2, 1, 28, 28), 255.0), ValueError, r"must lie in \[-1, 1\]"),
        (torch.full((2, 1, 28, 28), math.nan), ValueError, "not finite"),
    ],
)
def test_metrics_refuse_bad_images(x, error, sentence):
    with pytest.raises(error, match=sentence):
        features.digit_features(x)


# ---- figures and widgets: what they display is caught and opened

@pytest.fixture
def displayed(monkeypatch):
    seen = []
    monkeypatch.setattr(plots.ipython, "display", lambda *things: seen.extend(things))
    monkeypatch.setattr(widgets, "display", lambda *things: seen.extend(things))
    return seen


def opened(image):
    return plots.Pillow.open(io.BytesIO(image.data))


def test_every_figure_is_drawn(displayed):
    x = torch.rand(6, 1, 28, 28) * 2 - 1
    plots.show(x, title="six")
    plots.show({"first": x[:3], "second": x[3:]})
    plots.histogram(
        [x, x / 2],
        labels=["a", "b"],
        density=lambda v: torch.exp(-(v**2) / 2) / (2 * math.pi) ** 0.5,
    )
    plots.curves(
        torch.arange(5),
        {"y": torch.arange(5.0), "with errors": torch.arange(5.0)},
        xlabel="x",
        errors={"with errors": torch.ones(5)},
    )
    plots.scatter(
        {"moons": data.two_moons(100), "roll": data.swiss_roll(100)}, by=torch.arange(100) % 2
    )
    plots.animate([x, x / 2, x / 4], columns=3)
    sizes = [opened(image).size for image in displayed]
    assert (
        len(sizes) == 6
        and all(min(size) > 50 for size in sizes)
        and opened(displayed[5]).n_frames == 3
    )


def test_pictures_of_few_colours_are_small_and_exact(displayed):
    """A noun has few colours: they survive, where JPEG would smear them."""
    x = data.nouns(1, split="test").x
    plots.show(x)
    picture, middle = opened(displayed[0]).convert("RGB"), plots.pixels(x)[5, 5]
    assert opened(displayed[0]).format == "PNG" and len(displayed[0].data) < 20_000
    assert any(
        max(abs(int(a) - int(b)) for a, b in zip(colour, middle)) <= 2
        for _, colour in picture.getcolors(100_000)
    )


def test_smooth_shades_travel_as_jpeg_where_a_palette_would_be_larger(displayed):
    mixture = data.GaussianMixture([[-1.0, 0.3], [0.8, -0.6], [0.2, 1.0]], [0.6, 0.9, 0.7])
    plots.densities({name: mixture.log_prob for name in ("one", "two", "three")})
    plots.show(data.mnist("test")[0][:20], columns=10)
    assert [opened(image).format for image in displayed] == ["JPEG", "PNG"]


def test_captions_stand_below_their_pictures(displayed):
    made = data.nouns(5, split="test")
    plots.captioned(made.x, made.captions, columns=3, title="five")
    plots.captioned(made.x[:1], ["one"])
    assert opened(displayed[0]).size[0] == 800 and opened(displayed[0]).size[1] > 400


def test_pixels():
    x = torch.tensor([-1.0, 1.0, 5.0, 0.0]).view(4, 1, 1, 1)
    assert plots.pixels(x)[1, 1::2, 0].tolist() == [0, 255, 255, 128]
    assert plots.pixels(torch.zeros(6, 3, 4, 4), columns=3).shape == (11, 16, 3)
    with pytest.raises(ValueError, match="floating point"):
        plots.pixels(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize("draw, sentence", [
    (lambda x: plots.show({}), r"x must be a dict, name: images .*, at least one; got \[\]"),
    (lambda x: plots.show(x, columns=x), "columns must be a whole number"),
    (lambda x: plots.show(x * math.nan), "images has .* not finite"),
    (lambda x: plots.captioned(x, ["one"]), "captions must be 2 strings, one each; got 1"),
    (lambda x: plots.histogram({"a": x}), "values must be a tensor; got dict"),
    (lambda x: plots.curves([0, 1], {"y": x[:1, 0, 0, 0]}), r"the curve 'y' .* \(2,\); got \(1,\)"),
    (lambda x: plots.curves([0], {"y": [1]}, errors={"z": [1]}), r"some of \['y'\]; got \['z'\]"),
    (lambda x: plots.scatter({"a": x}), r"the cloud 'a' must have the shape \(N, 2\)"),
    (lambda x: plots.scatter({"a": x[0, 0, :, :2]}, by=[0, 1]), r"by are .*\(28,\); got \(2,\)"),
    (lambda x: plots.densities({"a": x}), "the log density 'a' must be a function"),
    (lambda x: plots.arrows({"a": [[[0.0, 1.0]]]}), r"'a' must be \(start, end\)"),
    (lambda x: plots.animate([x, x[:1]]), "frames must be at least one, all of one size"),
    (lambda x: widgets.explore(plots.show, "t", [2.0], 0.5), "each of stills must be a number"),
    (lambda x: widgets.noise_explorer(x, x, Schedule.cosine()), r"x0 must be one image"),
    (lambda x: widgets.noise_explorer(x, x, "cosine"), "schedule must be a Schedule"),
    (lambda x: widgets.guidance_explorer(MIXTURE, 1, Schedule.cosine()), "mixture must be a Gau"),
    (lambda x: widgets.prompt_box(x, ["a panda"]), "D must be a denoiser of captions"),
])
def test_what_cannot_be_drawn_is_refused_in_a_sentence(displayed, draw, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        draw(torch.rand(2, 1, 28, 28) - 0.5)


def test_a_list_of_numbers_is_one_histogram(displayed):
    plots.histogram([0.1, 0.2, 0.3], labels=["a"])
    assert len(displayed) == 1


def test_explorer_live_and_still(displayed, monkeypatch):
    x0, eps = torch.zeros(1, 1, 28, 28), torch.randn(1, 1, 28, 28)
    monkeypatch.setenv("COURSE_STATIC", "1")
    widgets.noise_explorer(x0, eps, Schedule.cosine())
    assert len(displayed) == 1 and opened(displayed[0]).size[0] == 1000
    monkeypatch.delenv("COURSE_STATIC")
    widgets.noise_explorer(x0, eps, Schedule.cosine())
    slider = displayed[-2]
    assert slider.value == 0.3 and slider.max == 1.0


def test_sampler_explorer_live_and_still(displayed, monkeypatch):
    mixture = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.1)
    monkeypatch.setenv("COURSE_STATIC", "1")
    widgets.sampler_explorer(mixture, Schedule.cosine(), n=3)
    assert len(displayed) == 1 and opened(displayed[0]).size[0] == 1000
    monkeypatch.delenv("COURSE_STATIC")
    widgets.sampler_explorer(mixture, Schedule.cosine(), n=3)
    by_name = {
        control.description: control
        for control in displayed[-5:-1]
        if hasattr(control, "description")
    }
    assert set(by_name) == {"sampler", "steps", "eta", "spacing"} and by_name["steps"].max == 40
    assert set(by_name["sampler"].options) == {"ddim", "heun", "dpmpp", "unipc"}


def test_guidance_explorer_live_and_still(displayed, monkeypatch):
    everything = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], 0.2)
    one = data.GaussianMixture([[-1.0, 0.0]], 0.2)
    monkeypatch.setenv("COURSE_STATIC", "1")
    widgets.guidance_explorer(everything, one, Schedule.cosine(), n=10)
    assert len(displayed) == 1 and opened(displayed[0]).size[0] == 1000
    monkeypatch.delenv("COURSE_STATIC")
    widgets.guidance_explorer(everything, one, Schedule.cosine(), n=10)
    assert displayed[-2].max == 8.0 and displayed[-2].value == 2.0


def test_a_prompt_box_draws_names_strangers_and_refuses_what_is_too_long(
    displayed, monkeypatch, capsys
):
    D = train.load("nouns", device="cpu")
    monkeypatch.setenv("COURSE_STATIC", "1")
    widgets.prompt_box(D, ["a shark head", "red glasses"], n=2)
    assert len(displayed) == 1
    monkeypatch.delenv("COURSE_STATIC")
    widgets.prompt_box(D, ["a shark head"], n=1)
    box = next(item for item in displayed if getattr(item, "description", "") == "prompt")
    out = displayed[-1]
    said = lambda: "".join(part.get("text", "") for part in out.outputs) + capsys.readouterr().out
    said()
    box.value = "a zebra zeppelin head"
    assert "not in the vocabulary, read as an unknown word: zeppelin" in said()
    box.value = "a " * 40
    assert "a caption has at most 32 words" in said()


# ---- the machine

def test_device_and_precision(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert train.default_device().type == "cpu"
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    assert train.precision() == torch.float32 and "float32" in train.about_machine()
    monkeypatch.setenv("COURSE_PRECISION", "bfloat16")
    with train.autocast("cpu"):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    monkeypatch.delenv("COURSE_PRECISION")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (7, 5))
    assert train.precision(torch.device("cuda")) == torch.float16, "a T4 gets fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda on: (9, 0))
    assert train.precision(torch.device("cuda")) == torch.bfloat16
    assert train.precision(torch.device("mps")) == torch.float32
