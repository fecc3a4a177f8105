"""The table of watermarks: complete, its nulls as they must be, and what its script measures."""
import csv
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import watermarks as benchmark  # noqa: E402

from course_lib import Schedule  # noqa: E402
from course_lib.lab import noun_parts  # noqa: E402
from course_lib.watermark import detect, marked_noise  # noqa: E402

ROWS = list(csv.DictReader(benchmark.CSV.open())) if benchmark.CSV.exists() else []
ATTACKS = ["clean", "noise 0.02", "noise 0.1", "JPEG 90", "JPEG 50", "crop and resize",
           "regenerated"]
FORGED = [f"forged, {what} kept" for what in ("noise", "signs", "large signs")]
VARIETY = ["one subject, unmarked", "one subject, fresh nonces", "one subject, one nonce"]
NAMED = [f"{parts} parts named, w = {w}{end}"
         for parts in (1, 3, 5) for w in (1, 2) for end in ("", ", known")]
NULLS = ["another key", "real", "drawn by"]
FIGURES = [*NAMED, "one caption of 5 parts, w = 1", "one caption of 5 parts, w = 2"]
MORE = {
    "mnist_small":  ["label known", "forged by mnist", "drawn by mnist"],
    "cifar10":      ["label known", "drawn by nouns"],
    "nouns_latent": ["drawn by nouns", *FIGURES],
    "mini_sd":      ["drawn by nouns", *FIGURES],
}
seeded = lambda seed: torch.Generator().manual_seed(seed)


# ---- the table

def rows_of(model):
    """The rows of a model by name; skips where it is missing while the lesson is a draft."""
    rows = {row["row"]: row for row in ROWS if row["model"] == model}
    if not rows and not (ROOT / "lessons/07_applications_deployment.py").exists():
        pytest.skip("the lesson is a draft; missing: python benchmarks/watermarks.py " + model)
    return rows


def tabled():
    """Digits, photographs, and every other model of the table."""
    return sorted({"mnist_small", "cifar10"} | {row["model"] for row in ROWS})


@pytest.mark.parametrize("model", tabled())
def test_every_row_is_there_once(model):
    rows = rows_of(model)
    wanted = {*ATTACKS, *FORGED, *VARIETY, "another key", "real", "real, one nonce", *MORE[model]}
    assert set(rows) == wanted and len([r for r in ROWS if r["model"] == model]) == len(wanted)
    for row in rows.values():
        for name in ("detected_1e6", "detected_1e2", "agreeing"):
            assert row[name] == "" or 0 <= float(row[name]) <= 1


@pytest.mark.parametrize("model", tabled())
def test_without_a_mark_the_rates_are_those_of_the_null(model):
    """Within four standard errors of the exact level, which is a little below 1 %."""
    nulls = [row for name, row in rows_of(model).items() if name.startswith(tuple(NULLS))]
    nulls = [row for row in nulls if row["row"] != "real, one nonce"]
    assert len(nulls) == 3
    for row in nulls:
        n, level = int(row["n"]), float(row["level_1e2"])
        assert 0.002 < level <= 0.01 and float(row["detected_1e6"]) == 0
        assert abs(float(row["detected_1e2"]) - level) < 4 * (level / n) ** 0.5
        spread = 4 * float(row["agreeing_std"]) / n**0.5
        assert abs(float(row["agreeing"]) - 0.5) < spread


@pytest.mark.parametrize("model", ["mnist_small", "cifar10"])
def test_marks_are_found(model):
    rows = rows_of(model)
    assert float(rows["clean"]["detected_1e6"]) >= 0.95
    for attack in ("JPEG 90", "noise 0.02"):
        assert float(rows[attack]["detected_1e6"]) >= 0.8
    if model == "cifar10":
        assert float(rows["forged, large signs kept"]["detected_1e6"]) > 0.5
    assert float(rows["label known"]["agreeing"]) > float(rows["clean"]["agreeing"])


@pytest.mark.parametrize("model", tabled())
def test_a_fixed_nonce_costs_variety(model):
    free, fresh, one = (float(rows_of(model)[name]["variety"]) for name in VARIETY)
    assert one < 0.9 * fresh and abs(fresh - free) < 0.1 * free


# ---- what the script does

def test_attacks():
    x = torch.rand(3, 3, 32, 32, generator=seeded(0)) * 2 - 1
    grey = x[:, :1]
    for attacked in (benchmark.noised(x, 0.1), benchmark.jpeg(x, 90), benchmark.cropped(x)):
        assert attacked.shape == x.shape and attacked.dtype == torch.float32
        assert torch.equal(benchmark.stored(attacked), attacked)        # bytes
    assert benchmark.jpeg(grey, 90).shape == grey.shape
    error = lambda quality: (benchmark.jpeg(grey, quality) - grey).square().mean()
    assert 0 < error(95) < error(50)
    flat = torch.zeros(2, 3, 32, 32)
    assert abs(benchmark.noised(flat, 0.1).std() - 0.1) < 0.003
    assert torch.equal(benchmark.noised(x, 0.1), benchmark.noised(x, 0.1))
    assert benchmark.stored(torch.tensor([-3.0, 3.0])).tolist() == [-1, 1]


def test_a_crop_enlarges_the_middle():
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    cropped = benchmark.cropped(ramp)[0, 0, 5]
    inside = cropped[4:-4].diff().mean() / ramp[0, 0, 0].diff().mean()
    assert inside == pytest.approx(28 / 32, rel=0.02)
    assert cropped[0] == pytest.approx(ramp[0, 0, 0, 2].item(), abs=0.02)
    assert torch.allclose(benchmark.cropped(torch.ones(1, 1, 28, 28)), torch.ones(1))


def test_inversion_begins_where_noise_is_half_of_the_signal():
    for schedule in (Schedule.cosine(), Schedule.edm(), Schedule.flow()):
        ts = benchmark.inversion_times(schedule)
        assert len(ts) == benchmark.INVERSION + 1 and ts[0] == 0 and ts[-1] == 1
        assert (schedule.sigma(ts[1]) / schedule.alpha(ts[1])).item() == pytest.approx(0.5)
        assert ts[1:].diff().std() < 1e-12 and (ts.diff() > 0).all()
    assert benchmark.start_of(Schedule.cosine()) == pytest.approx(0.29, abs=0.001)


def test_short_captions_are_the_beginnings_of_the_full_ones():
    parts = noun_parts.draw_parts(50, seed=1)
    full = noun_parts.plain_captions(parts)
    assert benchmark.short_captions(parts, 5) == full
    for named in range(1, 5):
        short = benchmark.short_captions(parts, named)
        assert all(f.startswith(s) and len(s) < len(f) for s, f in zip(short, full))
    assert benchmark.short_captions(parts, 1)[0].endswith("-headed noun")


def test_what_is_measured():
    """30 of 40 signs agree, in every picture, among places that count."""
    nonces = torch.arange(200)
    z = marked_noise((200, 50), benchmark.KEY, nonces, generator=seeded(0)).sign()
    noise = torch.cat([-z[:, :10], z[:, 10:40], 0.1 * z[:, 40:]], dim=1)
    row = benchmark.measured(noise, nonces, z)
    assert row["n"] == 200 and row["signs"] == 40 and row["agreeing"] == pytest.approx(0.75)
    p = detect(noise[:1], benchmark.KEY, 0, min_abs=0.4).p_value.item()
    assert 1e-6 < p < 1e-2 and row["detected_1e6"] == 0 and row["detected_1e2"] == 1
    tail = lambda k: sum(math.comb(40, j) for j in range(k, 41)) / 2**40
    level = max(tail(k) for k in range(41) if tail(k) <= 0.01)
    assert row["level_1e2"] == pytest.approx(level) and row["agreeing_std"] < 1e-6
    other = benchmark.measured(noise, nonces, key=benchmark.OTHER_KEY)
    assert abs(other["agreeing"] - 0.5) < 0.03 and "correlation" not in other


def test_correlation_and_variety():
    a = torch.randn(500, 2, 300, generator=seeded(0))
    b = torch.randn(500, 2, 300, generator=seeded(1))
    assert benchmark.correlation(a, 3 * a + 2) == pytest.approx(1)
    mixed = benchmark.correlation(a, 0.6 * a + 0.8 * b)
    assert mixed == pytest.approx(0.6, abs=0.01)
    x = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert benchmark.variety(x) == pytest.approx((1 + 3 + 2) / 3)


def test_digits_are_marked_found_and_regenerated(monkeypatch):
    """The script's model on ten digits, in batches that end unevenly."""
    monkeypatch.setattr(benchmark, "BATCH", 6)
    model, nonces = benchmark.load("mnist_small"), torch.arange(10)
    z = marked_noise((10, 1, 28, 28), benchmark.KEY, nonces, generator=seeded(0))
    x = model.draw(z, model.subjects(10))
    assert torch.equal(benchmark.stored(x), x) and x.shape == (10, 1, 28, 28)
    row = benchmark.measured(model.invert(x), nonces, z)
    assert row["detected_1e6"] >= 0.8 and row["correlation"] > 0.25
    assert benchmark.measured(model.invert(x), nonces + 10)["detected_1e6"] == 0
    again = model.regenerate(x)
    assert 0.05 < (again - x).square().mean().sqrt() < 0.5
    labels = model.subjects(10)["y"]
    assert labels.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert (labels != model.subjects(10, seed=6)["y"]).all()


def test_figures_have_conditions_of_their_own():
    model = benchmark.load("nouns_latent")
    nothing, one = model.subjects(3), model.subjects(3, parts=1)
    assert nothing.keys() == one.keys() and len(one["context"]) == len(nothing["context"]) == 3
    assert torch.equal(nothing["context"][0], nothing["context"][2])
    assert not torch.equal(one["context"][0], one["context"][2])
    three = benchmark.repeated(model.subjects(1, parts=5), 3)
    assert torch.equal(three["context"][0], three["context"][2]) and len(three["context"]) == 3
    x = benchmark.real("nouns_latent", 2)
    assert model.to_images(model.to_latents(x)).shape == x.shape == (2, 3, 32, 32)


def test_a_run_replaces_the_rows_of_its_model_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "CSV", tmp_path / "watermarks.csv")
    benchmark.write([{"model": "cifar10", "row": "clean", "n": 3}])
    benchmark.write([{"model": "mnist_small", "row": "clean", "n": 4}])
    benchmark.write([{"model": "cifar10", "row": "real", "n": 5}])
    rows = list(csv.DictReader(benchmark.CSV.open()))
    assert [(row["model"], row["row"], row["n"]) for row in rows] == [
        ("mnist_small", "clean", "4"), ("cifar10", "real", "5")]
