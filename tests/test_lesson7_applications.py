"""Lesson 7's applications: what their script computes, on cases with known answers, and its tables.
"""
import csv
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import lesson7_applications as benchmark  # noqa: E402

from course_lib import Schedule  # noqa: E402
from course_lib.lab import data, storage, styles, train  # noqa: E402

close = torch.testing.assert_close
seeded = lambda seed: torch.Generator().manual_seed(seed)
randn = lambda *shape, seed=0: torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# ---- rows and intervals

def test_a_table_goes_on_where_it_was_stopped(tmp_path):
    file = tmp_path / "table.csv"
    table = benchmark.Table(file, "way", "seed")
    table.add(way="a", seed=0, score=1 / 3)
    table.add(way="a", seed=1, score=torch.tensor(0.25), more=None)
    again = benchmark.Table(file, "way", "seed")
    assert ("a", 0) in again and ("a", 1) in again and ("b", 0) not in again
    again.add(way="b", seed=0, score=2)
    rows = list(csv.DictReader(file.open()))
    assert [row["score"] for row in rows] == ["0.33333", "0.25", "2"]
    assert list(rows[0]) == ["way", "seed", "score", "more"]


def test_a_small_run_may_not_replace_the_shipped_tables(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lesson7_applications.py", "anomaly", "--n", "10"])
    with pytest.raises(SystemExit):
        benchmark.main()


def test_paired_interval():
    a, noise = randn(4000), randn(4000, seed=1)
    b = a - 0.5 + 0.1 * noise
    mean, half = benchmark.paired_interval(a, b)
    assert mean == pytest.approx(0.5, abs=0.01)
    assert half == pytest.approx(1.96 * 0.1 / 4000**0.5, rel=0.05)          # not that of a or b
    assert benchmark.paired_interval(b, a)[0] == pytest.approx(-mean)


def test_pictures_are_added_to_a_file(tmp_path):
    file, x = tmp_path / "pictures.npz", torch.rand(2, 1, 28, 28) * 2 - 1
    benchmark.keep_pictures(file, first=x)
    benchmark.keep_pictures(file, second=-x)
    with np.load(file) as stored:
        assert set(stored) == {"first", "second"} and stored["first"].shape == (2, 28, 28)
        close(torch.from_numpy(stored["first"]) / 127.5 - 1, x[:, 0], atol=0.5 / 127.5, rtol=0)


# ---- super-resolution

def test_measurement_and_shortest_answer():
    A, x = benchmark.measurement_matrix().double(), 0.1 * randn(3, 1, 28, 28)
    close(x.flatten(1) @ A.T, benchmark.measure(x).flatten(1))
    y = benchmark.measure(x).float()
    found = benchmark.shortest(y).double().flatten(1)
    # the gradient of |x|^2 + |y - A x|^2 / s^2 is zero
    slope = found - (y.double().flatten(1) - found @ A.T) @ A / benchmark.NOISE**2
    assert slope.abs().max() < 1e-3 < found.abs().max()


def test_a_new_channel_changes_nothing_at_first():
    small = train.load("mnist_small", "cpu")
    wider = benchmark.with_extra_channel(small.net)
    x, t = torch.randn(2, 1, 28, 28, generator=seeded(0)), torch.tensor([0.2, 0.8])
    extra = torch.randn(2, 1, 28, 28, generator=seeded(1))
    close(wider(x, t, extra=extra), small.net(x, t))
    with torch.no_grad():
        wider.stem.weight[:, 4:] += 0.1                     # the new ones, and no others
    assert (wider(x, t, extra=extra) - small.net(x, t)).abs().max() > 1e-3
    close(wider(x, t, extra=torch.zeros_like(extra)), small.net(x, t))


def test_measurements_have_the_stated_noise():
    x = torch.zeros(200, 1, 28, 28)
    y = benchmark.measured(x, seeded(0))
    assert y.shape == (200, 1, 7, 7)
    assert y.std().item() == pytest.approx(benchmark.NOISE, rel=0.05)


def test_error_of_a_mean_of_exact_draws():
    """(1 + 1 / k) times the error of the posterior's mean; half the gap of two draws is that
    error."""
    N, V = 40, 0.3                                          # x0 and its draws: N(m, V), given y
    m = randn(N, 1, 28, 28)
    truth = m + V**0.5 * randn(N, 1, 28, 28, seed=1)
    draws = m + V**0.5 * randn(8, N, 1, 28, 28, seed=2)
    best = (truth - m).square().mean()
    for k in (1, 2, 4, 8):
        error = (benchmark.averages(draws, k) - truth).square().mean()
        assert error / best == pytest.approx(1 + 1 / k, rel=0.03)
    assert benchmark.half_gap(draws).mean() / best == pytest.approx(1, rel=0.03)


def test_half_gap_is_half_the_mean_squared_difference_of_two_draws():
    x = randn(4, 3, 1, 5, 5)
    pairs = [(x[i] - x[j]).square().flatten(1).mean(1) for i, j in
             itertools.combinations(range(4), 2)]
    close(benchmark.half_gap(x), torch.stack(pairs).mean(0) / 2)


# ---- the generative classifier

class Losses:
    """A denoiser whose loss is the mean of its noise, plus what `extra` says of (t, y)."""

    def __init__(self, extra=lambda t, y: 0.0):
        self.net = type("Net", (), {"num_classes": 10})()
        self.extra = extra

    def loss(self, x, t, eps, y):
        return eps.flatten(1).mean(1) + self.extra(t, y)


def test_classes_share_their_noises():
    x = torch.zeros(5, 1, 28, 28)
    shared = benchmark.class_losses(Losses(), x, 4)                         # (5, 10, 4)
    assert shared.shape == (5, 10, 4)
    close(shared, shared[:, :1].expand_as(shared))
    assert shared[:, 0].flatten().unique().numel() == 20                    # a noise each
    own = benchmark.class_losses(Losses(), x, 4, shared=False)
    assert own.flatten().unique().numel() == 200


def test_losses_stand_at_their_class_and_time():
    x = torch.zeros(2, 1, 28, 28)
    losses = benchmark.class_losses(Losses(lambda t, y: 1000 * y + 100 * t), x, 4).round()
    times = (torch.arange(4) + 0.5) / 4
    wanted = 1000 * torch.arange(10.0)[:, None] + 100 * times
    assert (losses - wanted).abs().max() < 1.1


def test_the_smallest_loss_decides():
    x = torch.zeros(3, 1, 28, 28)
    D = Losses(lambda t, y: (y - 7.0).abs())
    assert benchmark.generative_class(D, x, 2).tolist() == [7, 7, 7]


def test_variance_of_a_difference_with_shared_noises():
    """Var a + Var b - 2 Cov: with one noise for both, and the same slope, nothing is left."""
    noise, own = randn(100_000), randn(100_000, seed=1)
    a, b = noise, 1 + 0.9 * noise + 0.1 * own
    wanted = a.var() + b.var() - 2 * torch.cov(torch.stack([a, b]))[0, 1]
    close((a - b).var(), wanted)
    assert (a - b).var() < 0.05 * (a.var() + b.var())


@pytest.mark.parametrize("name", benchmark.shifts())
def test_shifts_keep_shape_and_range(name):
    x = data.mnist("test")[0][:4]
    before = x.clone()
    changed = benchmark.shifts()[name](x)
    assert changed.shape == x.shape and changed.abs().max() <= 1 + 1e-6
    assert torch.equal(x, before) and torch.equal(changed, x) == (name == "none")


def test_shifts_move_what_they_say():
    x = torch.full((1, 1, 28, 28), -1.0)
    x[..., 13:15, 20:22] = 1                                # right of the centre
    place = lambda z: [i.double().mean().item() for i in torch.where(z[0, 0] > 0)]
    assert place(benchmark.shifts()["moved"](x)) == [13.5, 24.5]
    row, column = place(benchmark.turned(x, 90.0))
    assert row < 10 and abs(column - 13.5) < 1              # counter-clockwise: up
    assert benchmark.with_hole(torch.ones(1, 1, 28, 28)).sum() == 784 - 2 * 64


# ---- synthetic digits

def test_few_labels_are_fifty_of_each():
    y = data.mnist("train")[1]
    chosen, others = benchmark.few_labels(3)
    assert y[chosen].bincount().tolist() == [50] * 10
    assert len(set(chosen.tolist()) | set(others.tolist())) == len(y) == len(chosen) + len(others)
    assert not torch.equal(chosen, benchmark.few_labels(4)[0])


def test_real_digits_are_repeated_beside_synthetic_ones():
    real = torch.zeros(5, 1, 2, 2), torch.arange(5)
    made = torch.ones(20, 1, 2, 2), torch.zeros(20, dtype=torch.int64)
    x, y = benchmark.beside(real, made)
    assert x.shape == (40, 1, 2, 2) and x.sum() == 80
    assert torch.equal(y[:20], torch.arange(5).repeat(4))


def test_unlabelled_digits_hide_their_labels(monkeypatch):
    """The generator is trained under the null label alone."""
    seen = []

    def record(model, examples, draw, **options):
        assert set(examples) == {"x0"}
        seen.append(draw({"x0": examples["x0"][:3]}, seeded(0)))
    monkeypatch.setattr(benchmark, "trained", record)
    benchmark.without_labels(benchmark.Sizes(1))
    assert seen[0]["y"].tolist() == [10, 10, 10]


# ---- generations

def test_pools():
    pool = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]), torch.tensor([5.0, 6.0])]
    assert benchmark.next_data("replace", pool).tolist() == [5, 6]
    assert benchmark.next_data("accumulate", pool).tolist() == [1, 2, 3, 4, 5, 6]
    assert benchmark.next_data("real", pool, lambda: torch.tensor([9.0])).tolist() == [9]
    with pytest.raises(ValueError, match="way must be"):
        benchmark.next_data("forget", pool)


@pytest.mark.parametrize("way", ["replace", "accumulate"])
def test_variance_of_bells_fitted_to_their_own_samples(way):
    """(1 - 1/n)^g with replacement, the product of 1 - 1/(n k^2) with accumulation."""
    n, chains, G = 5, 40_000, 10
    pool = [randn(n, chains)]
    factors = {"replace": lambda k: 1 - 1 / n, "accumulate": lambda k: 1 - 1 / (n * k**2)}
    wanted = 1.0
    for k in range(1, G + 1):
        x = benchmark.next_data(way, pool)
        mean, variance = x.mean(0), x.var(0, correction=0)
        wanted *= factors[way](k)
        error = 4 * (variance.std() / chains**0.5).item()
        assert variance.mean().item() == pytest.approx(wanted, abs=error)
        pool.append(mean + variance.sqrt() * randn(n, chains, seed=k))


def test_what_accumulation_leaves_at_last():
    """The product of 1 - 1/(n k^2) over all k is sin(z) / z with z = pi / sqrt(n)."""
    for n in (2, 10, 1000):
        k = torch.arange(1, 200_001, dtype=torch.float64)
        z = math.pi / n**0.5
        assert (1 - 1 / (n * k**2)).log().sum().exp().item() == pytest.approx(
            math.sin(z) / z, rel=1e-5)


def test_resampled_digits_become_fewer():
    x, y = torch.arange(300.0).view(300, 1, 1, 1), torch.arange(300) % 10
    path = list(benchmark.resampled(x, y, torch.arange(300), seeded(0)))
    kinds = [len(digits.unique()) for digits, _ in path]
    assert len(path) == benchmark.GENERATIONS + 1
    assert all(a > b for a, b in zip(kinds, kinds[1:])) and kinds[0] == pytest.approx(
        300 * (1 - math.exp(-1)), abs=30)
    digits, labels = path[-1]
    assert torch.equal(digits.flatten().long() % 10, labels)


def test_variety_is_the_distance_of_two():
    x, y = 0.4 * randn(3000, 1, 28, 28), torch.arange(3000) % 10
    assert benchmark.variety(x, y) == pytest.approx(0.4 * 2**0.5, rel=0.01)
    assert benchmark.variety(torch.zeros(20, 1, 28, 28), torch.arange(20) % 10) == 0


# ---- anomalies

def test_auroc():
    normal, odd = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert benchmark.auroc(normal, odd)[0] == pytest.approx((1 + 0.5 + 0 + 3) / 6)
    a, b = randn(3000), 1 + randn(3000, seed=1)
    wanted = 0.5 * (1 + math.erf(1 / 2))                    # Phi(1 / sqrt 2)
    value, error = benchmark.auroc(a, b)
    assert value == pytest.approx(wanted, abs=4 * error)
    assert benchmark.auroc(b, a)[0] == pytest.approx(1 - value)


def test_standard_error_of_auroc():
    found = [benchmark.auroc(randn(60, seed=k), 1 + randn(40, seed=1000 + k)) for k in range(300)]
    values, errors = torch.tensor(found).T
    assert errors.mean() / values.std() == pytest.approx(1, rel=0.15)


class Bell:
    """The exact denoiser of N(m, v) in every pixel, on EDM's schedule."""

    schedule = Schedule.edm()

    def __init__(self, m, v):
        self.m = m
        self.v = v

    def __call__(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        slope = alpha * self.v / (alpha**2 * self.v + sigma**2)
        return (self.m + slope * (x - alpha * self.m)).to(x)


def test_bits_of_a_bell():
    """With the exact denoiser the bound is -log2 of the density, for likely and unlikely x."""
    m, v = -0.2, 0.09
    for shift in (0.0, 0.3):
        x = (m + shift + v**0.5 * torch.randn(20, 1, 28, 28, generator=seeded(0)))
        nats = 0.5 * math.log(2 * math.pi * v) + (x.double() - m).square().mean() / (2 * v)
        wanted = nats / math.log(2) - math.log2(benchmark.DELTA)
        found = benchmark.bound_bits(Bell(m, v), x).mean()
        assert found.item() == pytest.approx(wanted.item(), abs=0.03)


def test_png_bits_and_kinds():
    kinds = benchmark.not_digits(6)
    bits = {name: benchmark.png_bits(x).mean().item() for name, x in kinds.items()}
    assert bits["blank"] < bits["dot"] < bits["inverse"] < bits["shuffled"] < bits["noise"]
    assert 8 < bits["noise"] < 9.5                          # nothing can be saved of it
    for name, x in kinds.items():
        assert x.shape == (6, 1, 28, 28) and x.abs().max() <= 1, name
        assert torch.equal(benchmark.to_bytes(x) / 127.5 - 1, x), name
    digits = data.mnist("test")[0][:6]
    close(kinds["shuffled"].flatten(1).sort(1).values, digits.flatten(1).sort(1).values)
    close(kinds["inverse"], styles.inverse(digits))


# ---- the tables

def table(name):
    """The rows of a shipped table; skips while the lesson is a draft and it is missing."""
    file = storage.ASSETS / f"lesson7_{name}.csv"
    if not file.exists():
        pytest.skip(f"missing: {file.name}, by python benchmarks/lesson7_applications.py all")
    return list(csv.DictReader(file.open()))


def once(rows, *keys):
    found = [tuple(row[key] for key in keys) for row in rows]
    assert len(found) == len(set(found))
    return set(found)


def test_super_resolution_table():
    rows = {row["method"]: row for row in table("super_resolution")}
    means = [f"mean of {k}" for k in (2, 4, 8)]
    assert set(rows) == {"another digit", "bicubic", "shortest", "regression", "PiGDM", "DPS",
                         "concatenation", *means}
    errors = [float(rows[name]["mse"]) for name in ("concatenation", *means)]
    assert errors == sorted(errors, reverse=True)


def test_classifier_tables():
    found = once(table("classifier"), "shift", "method")
    methods = {"classifier", "noise-aware, one look", "noise-aware", "generative"}
    assert found == set(itertools.product(benchmark.shifts(), methods))
    found = once(table("classifier_noises"), "looks", "noises")
    assert found == set(itertools.product(("1", "2", "4", "8"), ("shared", "own")))


def test_labels_table():
    rows = table("labels")
    found = once(rows, "method", "seed")
    assert len(found) == 9 * benchmark.SEEDS and len({method for method, _ in found}) == 9
    assert any(method.startswith("LEAK") for method, _ in found)


def test_generations_table():
    found = once(table("generations"), "way", "seed", "generation")
    wanted = itertools.product(benchmark.WAYS, range(benchmark.CHAINS),
                               range(benchmark.GENERATIONS + 1))
    assert found == {(way, str(seed), str(g)) for way, seed, g in wanted}


def test_anomaly_table():
    rows = {row["kind"]: row for row in table("anomaly")}
    assert set(rows) == {"digits", *benchmark.not_digits(2)}
    for name in ("bits", "bits - PNG", "denoising", "nearest"):
        assert 0.4 < float(rows["digits"][name]) < 0.6       # digits against digits: no difference
