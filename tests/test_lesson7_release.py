"""What is examined before a release: copies, membership, skew, erasure; and the tables."""
import csv
import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import lesson7_release as benchmark  # noqa: E402

from course_lib import Denoiser, Schedule, UNet  # noqa: E402
from course_lib.lab import noun_parts, storage, train  # noqa: E402
from course_lib.lab.evaluation import release  # noqa: E402

seeded = lambda seed: torch.Generator().manual_seed(seed)
draw = lambda *shape, seed=0: torch.randn(shape, generator=seeded(seed))


def table(name):
    file = storage.ASSETS / f"lesson7_{name}.csv"
    if not file.exists():
        pytest.skip(f"missing: python benchmarks/lesson7_release.py {name}")
    return list(csv.DictReader(file.open()))


# ---- copies

def test_pair_correlation():
    a, b = draw(300, 1, 20, 20), draw(300, 1, 20, 20, seed=1)
    assert release.pair_correlation(a, 3 * a - 2) == pytest.approx(torch.ones(300).double())
    assert release.pair_correlation(a, -a).mean() == pytest.approx(-1)
    mixed = release.pair_correlation(a, 0.6 * a + 0.8 * b)
    assert mixed.shape == (300,) and mixed.mean() == pytest.approx(0.6, abs=0.01)
    assert release.pair_correlation(a, b).mean().abs() < 4 / (300 * 400) ** 0.5
    with pytest.raises(ValueError, match="one colour"):
        release.pair_correlation(torch.ones(1, 1, 2, 2), a[:1, :, :2, :2])


def test_the_nearest_training_example():
    training = draw(40, 1, 6, 6)
    x = training[[7, 30]] + 0.01
    far, index = release.nearest(x, training)
    assert index.tolist() == [7, 30]
    assert far.tolist() == pytest.approx([0.01 * 6] * 2, rel=1e-2)
    with pytest.raises(ValueError, match="numbers"):
        release.nearest(x, training[..., :3])


def test_a_real_example_is_a_near_copy_as_often_as_said():
    far = draw(20_000).abs()
    limit = release.copy_threshold(far[:10_000], 0.05)
    assert (far[10_000:] < limit).double().mean() == pytest.approx(0.05, abs=0.01)
    with pytest.raises(ValueError, match="needs 100"):
        release.copy_threshold(far[:99])


# ---- membership

def test_auc_is_the_share_of_pairs_in_the_right_order():
    """Against the definition, with ties; reversed it is 1 minus that."""
    a = torch.tensor([1.0, 2.0, 2.0, 5.0])
    b = torch.tensor([0.0, 2.0, 3.0])
    pairs = [1.0 if x > y else 0.5 if x == y else 0.0 for x in a.tolist() for y in b.tolist()]
    assert release.auc(a, b) == pytest.approx(sum(pairs) / 12)
    assert release.auc(b, a) == pytest.approx(1 - sum(pairs) / 12)
    assert release.auc(a + 9, b) == 1 and release.auc(a, a) == 0.5


def test_auc_of_two_bells_and_its_error():
    """N(d, 1) against N(0, 1) has the AUC Phi(d / sqrt 2); its spread is what the formula says."""
    d, n = 0.8, 200
    exact = 0.5 * (1 + math.erf(d / 2))
    found = torch.tensor([
        release.auc(draw(n, seed=2 * k) + d, draw(n, seed=2 * k + 1)) for k in range(300)
    ])
    error = release.auc_error(exact, n, n)
    assert found.mean() == pytest.approx(exact, abs=4 * error / 300**0.5)
    assert found.std().item() == pytest.approx(error, rel=0.15)


def test_the_threshold_is_calibrated_on_the_pool():
    """Fixed on other non-members, it accuses 1 % of those that are tested."""
    members, others, calibration = draw(5000) + 2, draw(20_000, seed=1), draw(20_000, seed=2)
    found = release.membership_test(members, others, calibration)
    assert found.false_positives == pytest.approx(0.01, abs=4 * (0.01 / 20_000) ** 0.5 * 1.5)
    assert found.threshold == pytest.approx(2.326, abs=0.1)
    assert found.true_positives == pytest.approx(0.372, abs=0.04)       # Phi(2 - 2.326)
    shifted = release.membership_test(members, others - 1, calibration)  # another pool: too few
    assert shifted.false_positives < 0.003


def test_a_reference_takes_out_how_hard_an_example_is():
    """Loss = difficulty + noise - a little for members: the difference finds what the loss hides.
    """
    hard = 10 * draw(2000)
    own = hard + 0.5 * draw(2000, seed=1) - torch.cat([torch.ones(1000), torch.zeros(1000)])
    reference = hard + 0.5 * draw(2000, seed=2)
    value = lambda scores: release.auc(scores[:1000], scores[1000:])
    plain = value(release.membership_scores(own))
    calibrated = value(release.membership_scores(own, reference))
    assert 0.5 < plain < 0.6
    assert calibrated == pytest.approx(0.841, abs=0.04)                 # Phi(1)
    assert value(release.membership_scores(reference, own)) < 0.5


def test_mean_loss_is_the_denoisers_paired():
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16,)), Schedule.cosine(), "v")
    x = draw(5, 1, 8, 8).clamp(-1, 1)
    found = release.mean_loss(D, x, [0.2, 0.6], draws=3, batch_size=2)
    assert torch.equal(found, release.mean_loss(D, x, [0.2, 0.6], draws=3, batch_size=2))
    torch.testing.assert_close(found[3:], release.mean_loss(D, x[3:], [0.2, 0.6], draws=3))
    noises = torch.randn((2, 3, 1, 8, 8), generator=seeded(0))
    by_hand = [D.loss(x[:1], t, noises[k, j][None]).item()
               for k, t in enumerate((0.2, 0.6)) for j in range(3)]
    assert found[0].item() == pytest.approx(sum(by_hand) / 6, rel=1e-5)


# ---- skew

def test_tempered_share():
    """Normalised by hand; no dependence on the prompt, no change; w = 0 and 1 are the ends."""
    p, q, w = 0.3, 0.6, 2.5
    yes, no = p ** (1 - w) * q**w, (1 - p) ** (1 - w) * (1 - q) ** w
    assert release.tempered_share(p, q, w) == pytest.approx(yes / (yes + no))
    assert release.tempered_share(0.8, 0.8, 7.5) == pytest.approx(0.8)
    assert release.tempered_share(p, q, 0) == pytest.approx(p)
    assert release.tempered_share(p, q, 1) == pytest.approx(q)
    assert release.tempered_share(0.5, 0.8, 2) == pytest.approx(16 / 17)
    with pytest.raises(ValueError, match="be neither"):
        release.tempered_share(0.5, 1.0, 2.0)


# ---- erasure

def test_erasure_leads_away():
    D = lambda x, t, y: x + y[:, None]
    x, y = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    none = {"y": torch.full((2,), 5.0)}
    away = lambda strength: release.erasure_target(D, none, strength)(x, 0.5, y=y)[:, 0].tolist()
    assert away(0.0) == [5, 5] and away(1.0) == [9, 8] and away(2.0) == [13, 11]
    with pytest.raises(ValueError):
        release.erasure_target(D, none, -1.0)


def test_matching_a_denoiser_costs_its_v_loss():
    """Where the wanted prediction is the clean data, the loss is the denoiser's own."""
    torch.manual_seed(0)
    net = UNet(1, (16,), num_classes=10)
    torch.nn.init.normal_(net.out.weight, std=0.1)
    D = Denoiser(net, Schedule.cosine(), "v")
    x0, eps, t = draw(3, 1, 8, 8), draw(3, 1, 8, 8, seed=1), torch.tensor([0.2, 0.5, 0.9])
    y = torch.tensor([1, 2, 3])
    loss = release.matching_loss(lambda x, t, y: x0, D.schedule)
    found = loss(D, {"x0": x0, "t": t, "eps": eps, "y": y})
    torch.testing.assert_close(found, D.loss(x0, t, eps, y=y), rtol=1e-3, atol=1e-4)
    own = release.matching_loss(lambda x, t, y: D(x, t, y=y), D.schedule)
    assert own(D, {"x0": x0, "t": t, "eps": eps, "y": y}).abs().max() < 1e-10


# ---- the benchmark's own parts

def test_halves_and_held_out_digits_are_disjoint():
    key = lambda x: {row.tobytes() for row in x.flatten(1).numpy()}
    a, b = key(benchmark.half("a", 5000)), key(benchmark.half("b", 5000))
    rest = key(benchmark.held_out(2000)) | key(benchmark.held_out(20_000, 5000))
    x, copies = benchmark.duplicated()
    copied = key(torch.cat(list(copies.values())))
    assert len(a & b) == len(a & rest) == len(copied & (a | b | rest)) == 0
    assert len(x) == 5000 + sum(n * k for n, k in benchmark.COPIES.items()) == 6500
    assert len(copied) == sum(benchmark.COPIES.values())
    assert (x == copies[1000]).flatten(1).all(1).sum() == 1000


def test_pairs_of_one_label():
    y_a, y_b = torch.tensor([1, 1, 2, 3]), torch.tensor([1, 2, 1, 9])
    pairs = benchmark.same_label(y_a, y_b)
    assert pairs[:, 0].tolist() == [0, 1, 2]                # none of b is a 3
    assert all(y_a[i] == y_b[j] and i != j for i, j in pairs.tolist())


def test_copies_are_counted():
    originals = benchmark.half("a", 5002)[5000:]
    x = torch.cat([originals + 0.01, benchmark.held_out(50)])
    hits, limits = benchmark.hits_of(x, originals)
    assert hits[:2].all() and len(limits) == 2
    assert not benchmark.hits_of(benchmark.held_out(10_000, 0), originals, limits)[0].any()


def test_skews_are_where_they_should_be():
    """80 % blue under every head; or under the first five, and 20 % under the others."""
    blue = benchmark.kinds()[0]
    for arm, wanted in (("everywhere", (0.8, 0.8)), ("given the prompt", (0.8, 0.2))):
        parts = benchmark.skewed_parts(arm, 0, 4000)
        first = parts[:, 3] // 20 < 5
        for mask, p in zip((first, ~first), wanted):
            share = (parts[mask, 4] == blue).double().mean()
            assert share == pytest.approx(p, abs=4 * (0.16 / 2000) ** 0.5)
        assert set((parts[:, 3] // 20).tolist()) == set(range(10))
    balanced = benchmark.skewed_parts("everywhere", 1, 4000, 0.5)
    assert (balanced[:, 4] == blue).double().mean() == pytest.approx(0.5, abs=0.04)
    labels = benchmark.labels_of(parts, 0)
    said = labels % 3
    assert (labels // 3 == parts[:, 3] // 20).all()
    assert (said == 2).double().mean() == pytest.approx(0.5, abs=0.04)
    assert ((said == 0) == (parts[:, 4] == blue))[said < 2].all()


def test_the_judge_of_glasses_and_head():
    """Right for all real figures, and for their reconstructions."""
    parts = benchmark.skewed_parts("given the prompt", 3, 200)
    x = noun_parts.render(parts)
    z = benchmark.autoencoder().to_latents(x)
    for seen in (x, benchmark.autoencoder().to_images(z).clamp(-1, 1)):
        blue, head, between = benchmark.judged(seen)
        assert torch.equal(blue, parts[:, 4] == benchmark.kinds()[0])
        assert torch.equal(head, parts[:, 3] // 20) and not between.any()
    other = parts.clone()
    other[:, 4] = torch.where(parts[:, 4] == benchmark.kinds()[0], *benchmark.kinds()[::-1])
    assert benchmark.judged((x + noun_parts.render(other)) / 2)[2].all()


def test_fine_tuning_begins_at_the_model_itself():
    teacher = train.load("mnist_small", "cpu")
    x, y = benchmark.to_show(benchmark.ERASED, 0)
    assert len(x) == benchmark.SHOWN and set(y.tolist()) == {7}
    assert 7 not in benchmark.to_show(None, 0)[1]
    states = benchmark.fine_tuned(teacher, x, y, 0)
    steps, D = next(states)
    weights = lambda D: torch.cat([p.detach().flatten() for p in D.parameters()])
    before = weights(teacher)
    assert steps == 0 and torch.equal(weights(D), before)
    assert next(states)[0] == benchmark.RELEARN[1]
    assert not torch.equal(weights(D), before) and torch.equal(weights(teacher), before)


# ---- the tables

def test_first_strangers_then_twins():
    rows = {(row["kind"], int(row["n"])): row for row in table("halves")}
    assert [n for kind, n in rows if kind == "two halves"] == list(benchmark.SIZES)
    value = lambda n, name: float(rows["two halves", n][name])
    few, many = benchmark.SIZES[0], benchmark.SIZES[-1]
    assert value(many, "same_noise") > value(few, "same_noise") + 0.3
    assert value(many, "same_noise") > value(many, "same_label") > value(many, "other_noise")
    assert value(few, "near_own") > 5 * max(value(few, "floor"), 0.01)
    for row in rows.values():
        assert abs(float(row["floor"]) - 0.01) < 4 * (0.01 / 1000) ** 0.5 * 1.5


def test_copies_grow_with_their_number():
    rows = {(row["model"], int(row["copies"])): row for row in table("duplicates")}
    found = [float(rows["with copies", count]["in_samples"]) for count in benchmark.COPIES]
    assert found[-1] > 10 * max(float(rows["without", 1000]["in_samples"]), 0.001)
    assert len(rows) == 2 * len(benchmark.COPIES)


def test_membership_table():
    rows = {(row["n"], row["score"], row["others"]): row for row in table("membership")}
    assert len(rows) == 4 * len(benchmark.MEMBERSHIP_SIZES)
    for row in rows.values():
        assert 0 < float(row["se"]) < 0.05 and 0.3 < float(row["auc"]) <= 1
        if row["others"] == "same pool":
            assert float(row["fpr"]) < 0.03


def test_bias_table():
    rows = table("bias")
    assert len(rows) == 2 * 2 * (len(benchmark.SCALES) + 3)
    for row in rows:
        assert 0 <= float(row["blue_first"]) <= 1


def test_erasure_table():
    rows = table("erasure")
    state = {row["model"]: row for row in rows if row["shown"] == ""}
    assert float(state["before"]["asked"]) > 0.9 > 0.2 > float(state["erased"]["asked"])
    assert float(state["erased"]["others_right"]) > 0.9
    curves = [row for row in rows if row["shown"] != ""]
    assert len(curves) == 3 * 3 * len(benchmark.RELEARN)
