"""Point clouds: shipped models, splits, variants, the recipe; Chamfer distance, 1-NNA, ratio."""
import importlib.util
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

from course_lib.lab.data import furniture as data
from course_lib.lab.data.furniture import CLASSES, augment, clouds, normalise, rotate
from course_lib.lab.evaluation.small_sets import _wilson, chamfer, nearest_ratio, one_nna
from course_lib.lab.storage import ASSETS

RECIPES = Path(__file__).parents[1] / "tools/recipes"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- the shipped clouds

def test_counts_and_classes():
    train, test, every = clouds("train"), clouds("test"), clouds("all")
    assert train.x.shape == (85, 512, 3) and test.x.shape == (39, 512, 3)
    assert train.x.dtype == torch.float32 and train.y.dtype == torch.int64
    assert train.y.bincount().tolist() == [40, 29, 16] and test.y.bincount().tolist() == [18, 13, 8]
    assert sorted(train.names + test.names) == sorted(every.names) and len(set(every.names)) == 124
    for name, y in (("BlendSwap-CC-0/oakChair", 0), ("Scopia/round-table", 1),
                    ("KatorLegaz/park-light", 2)):
        assert every.y[every.names.index(name)] == y
    assert CLASSES == ("chair", "table", "lamp")


def test_models_that_look_alike_are_in_one_split():
    train, test, every = clouds("train"), clouds("test"), clouds("all")
    assert not set(train.group.tolist()) & set(test.group.tolist())
    group = dict(zip(every.names, every.group.tolist()))
    sets = [[name for name in group if group[name] == k] for k in set(group.values())]
    assert ["Scopia/wooden_office_pear_table", "Scopia/wooden_office_teak_table"] in sets
    assert max(map(len, sets)) == 3 and len(sets) == 117
    assert all(len({every.y[every.names.index(name)].item() for name in own}) == 1 for own in sets)


def test_no_held_out_model_is_as_near_as_two_samples_of_one_model():
    """In the orientation they are shipped in; the recipe looks at turned and mirrored ones too."""
    halves = clouds("all", points=512).x
    first, second = halves[:, :256], halves[:, 256:]
    floor = torch.stack([chamfer(a[None], b[None], False) for a, b in zip(first, second)]).flatten()
    groups = clouds("all").group
    held_out = torch.isin(groups, clouds("test").group)
    between = chamfer(first[held_out], second[~held_out], False)
    unit = (floor[held_out][:, None] * floor[~held_out]).sqrt()
    assert (between / unit).min() > 1.1


def test_the_same_seed_the_same_points_and_fewer_are_the_first_of_many():
    x, every = clouds(seed=3).x, clouds(points=2048, seed=3).x
    assert torch.equal(x, clouds(seed=3).x) and torch.equal(x, every[:, :512])
    assert not torch.equal(x, clouds(seed=4).x)
    both = clouds("all", seed=3)
    rows = [both.names.index(name) for name in clouds("train").names]
    assert torch.equal(both.x[rows], x)                                 # whatever the split
    apart = chamfer(every[:1, :512], every[:1, 512:1024])
    assert 0 < apart < chamfer(every[:1, :512], every[1:2, :512])


def test_a_few_points_are_drawn_from_all_over_the_surface():
    """The file has them in order: the first ones would be one side of the model."""
    every = clouds(points=2048, seed=1).x
    few, spread = every[:, :256], every.std(1)
    error = (few.mean(1) - every.mean(1)) / (spread / 16)               # in standard errors
    assert error.abs().max() < 5 and error.square().mean() < 1.2


def test_clouds_fill_the_box_and_stand_upright():
    full = clouds("all", points=2048)
    low, high = full.x.aminmax(dim=1)
    assert (full.x.abs().amax((1, 2)) == 1).all()
    assert (low + high).abs().max() < 2.01 / 127                        # centred, but for rounding
    chairs, tables = full.x[full.y == 0], full.x[full.y == 1]
    top = chairs[:, :, 1] > (0.6 * high + 0.4 * low)[full.y == 0][:, 1:2]
    behind = torch.stack([cloud[rows, 2].mean() < 0 for cloud, rows in zip(chairs, top)])
    assert behind.double().mean() > 0.95                                # the back is at the back
    middle = tables[:, :, 1].median(1).values                           # half of the points are in
    assert (middle > 0.5 * high[full.y == 1][:, 1]).double().mean() > 0.8               # the top


def test_a_damaged_or_missing_file_is_refused(tmp_path):
    file = tmp_path / "clouds.npz"
    with pytest.raises(FileNotFoundError, match="is missing"):
        clouds(file=file)
    file.write_bytes((ASSETS / "clouds.npz").read_bytes()[:-1])
    with pytest.raises(OSError, match="is damaged"):
        clouds(file=file)
    assert (ASSETS / "clouds.npz").stat().st_size < 600_000


# ---- variants

def in_unit_box(x):
    low, high = x.aminmax(dim=1, keepdim=True)
    return (x - low) / (high - low)


def test_a_variant_is_its_own_cloud_stretched_and_mirrored():
    """All points of a cloud: in the unit box they are the source's, or its mirror image's."""
    x = clouds(points=128).x[:6]
    changed, which = augment(x, 100, points=128, seed=2)
    assert changed.shape == (100, 128, 3) and which.bincount(minlength=6).min() > 5
    mirrored = x * torch.tensor([-1.0, 1, 1])
    apart = torch.stack([chamfer(in_unit_box(changed), in_unit_box(z)) for z in (x, mirrored)])
    own = apart[:, torch.arange(100), which]                            # (2, 100)
    assert (own.amin(0) < 1e-10).all() and 30 < (own[0] < 1e-10).sum() < 70
    extent = lambda z: z.amax(1) - z.amin(1)
    ratios = extent(changed) / extent(x)[which]
    ratios = ratios[:, [0, 2]] / ratios[:, 1:2]                         # in units of the height's
    assert 0.9 / 1.1 - 1e-3 < ratios.min() < 0.88 and 1.13 < ratios.max() < 1.1 / 0.9 + 1e-3
    torch.testing.assert_close(changed.abs().amax((1, 2)), torch.ones(100))


def test_variants_are_of_the_given_clouds_alone_and_of_the_one_they_name():
    """A ball, a plate and a stick: whatever the turn and the stretch, each is told from others."""
    g = generator()
    ball = torch.nn.functional.normalize(torch.randn(300, 3, generator=g), dim=1)
    plate, stick = (torch.rand(300, 3, generator=g) * torch.tensor(sides)
                    for sides in ((2, 0.05, 2), (0.05, 2, 0.05)))
    x = normalise(torch.stack([ball, plate, stick]))
    changed, which = augment(x, 60, points=100, seed=1, turns=360)
    assert chamfer(changed, x, False).argmin(1).equal(which) and len(which.unique()) == 3
    a, rows = augment(x, 60, points=100, seed=1, turns=360)
    assert torch.equal(a, changed) and torch.equal(rows, which)
    assert not torch.equal(augment(x, 60, points=100, seed=2, turns=360)[0], changed)
    first, second = changed[which == 0][:2]
    assert not torch.isin(first, second).all()                          # not the same 100 points


def test_mirrors_and_turns():
    """An arrow to the right front, so that each mirror and turn shows."""
    s = torch.linspace(0, 1, 50)
    arrow = torch.stack([0.5 * s, s, s], dim=1)[None]
    heading = lambda turns: (lambda v: v[:, -1] - v[:, 0])(
        _in_order(augment(arrow, 400, points=50, seed=3, turns=turns)[0]))
    step = heading(1)
    assert (step[:, 2] > 0).all()                                       # the front stays in front
    assert 0.4 < (step[:, 0] < 0).double().mean() < 0.6                 # half of them are mirrored
    step = heading(4)
    quarter = (torch.atan2(step[:, 0], step[:, 2]) / (math.pi / 2)).round() % 4
    assert quarter.long().bincount().min() > 70
    assert (step[:, 1] > 0).all()                                       # up stays up
    angles = torch.atan2(*heading(360)[:, [0, 2]].T)
    assert len((angles * 180 / math.pi).round().unique()) > 200


def _in_order(x):
    return x.take_along_dim(x[:, :, 1].argsort(1)[..., None], dim=1)


def test_a_quarter_turn_brings_the_front_to_the_right():
    x = torch.tensor([[[0.0, 0.3, 1.0], [1.0, -0.2, 0.0]]])
    turned = torch.tensor([[[1.0, 0.3, 0.0], [0.0, -0.2, -1.0]]])
    torch.testing.assert_close(rotate(x, math.pi / 2), turned, atol=1e-6, rtol=0)
    y = torch.randn(5, 9, 3, generator=generator())
    angles = torch.linspace(0, 6, 5)
    torch.testing.assert_close(torch.cdist(rotate(y, angles), rotate(y, angles)), torch.cdist(y, y),
                               atol=2e-3, rtol=0)
    torch.testing.assert_close(rotate(y, angles)[2], rotate(y[2:3], angles[2].item())[0])


def test_normalised_clouds():
    x = torch.randn(4, 30, 3, generator=generator()) * torch.tensor([1.0, 5, 2]) + 7
    y = normalise(x)
    low, high = y.aminmax(dim=1)
    torch.testing.assert_close(low, -high, atol=1e-5, rtol=0)
    torch.testing.assert_close(high.amax(1), torch.ones(4))
    torch.testing.assert_close(normalise(3 * x - 2), y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("call, words", [
    (lambda: clouds("val"), "split must be one of train, test, all"),
    (lambda: clouds(points=4096), "points must be a whole number from 1 to 2048"),
    (lambda: clouds(points=0), "points must be"),
    (lambda: clouds(seed=-1), "seed must be"),
    (lambda: augment(torch.zeros(2, 9), 3), r"clouds are \(N, points, 3\)"),
    (lambda: augment(torch.rand(2, 9, 2), 3), r"clouds are \(N, points, 3\)"),
    (lambda: augment(torch.rand(2, 9, 3), 3), "points must be a whole number from 1 to 9"),
    (lambda: augment(torch.rand(2, 9, 3), 0, 5), "n must be"),
    (lambda: augment(torch.rand(2, 9, 3), 3, 5, turns=0.5), "turns must be"),
    (lambda: augment(torch.rand(2, 9, 3).long(), 3, 5), "floating point"),
    (lambda: rotate(torch.rand(2, 9, 3), torch.zeros(3)), "angle must fit"),
    (lambda: normalise(torch.zeros(2, 9, 3)), "has no size to normalise"),
    (lambda: normalise(torch.full((2, 9, 3), math.nan)), "not finite"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


# ---- the recipe

@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(RECIPES))
    spec = importlib.util.spec_from_file_location("make_clouds", RECIPES / "make_clouds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(RECIPES))
    return module


CUBE = """
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
v 1 1 1
v 0 1 1
v 9 9 9
f 1/1/1 2/2/1 3/3/1 4/4/1
f 5 6 7 8
f -9 -8 -4 -5
f 4 3 7 8
f 1 4 8 5
f 2 3 7 6
"""


def test_the_recipe_reads_polygons_and_stretches(recipe):
    vertices, triangles = recipe.read_obj(CUBE)
    assert vertices.shape == (9, 3) and triangles.shape == (12, 3) and triangles.max() == 7
    entry = {"width": "2", "height": "4", "depth": "1"}
    box = recipe.in_proportion(vertices, triangles, entry)[:8]          # the ninth is in no face
    assert (box.min(0) == 0).all() and (box.max(0) == (2, 4, 1)).all()
    entry["modelRotation"] = "1 0 0 0 0 1 0 -1 0"                       # y = old z: lies down
    turned = recipe.in_proportion(vertices, triangles, entry)
    assert (turned[4] - turned[0] == (0, 4, 0)).all()


def test_the_recipe_samples_by_area(recipe):
    vertices, triangles = recipe.read_obj(CUBE)
    box = vertices * (1, 2, 5)
    points = recipe.sample_surface(box, triangles, 20_000, np.random.default_rng(0))
    areas = {0: 2 * 5, 1: 1 * 5, 2: 1 * 2}                              # of the face across an axis
    total = 2 * sum(areas.values())
    for axis, area in areas.items():
        for side in (0, (1, 2, 5)[axis]):
            on = np.abs(points[:, axis] - side) < 1e-9
            expected = 20_000 * area / total
            assert abs(on.sum() - expected) < 4 * expected**0.5
            for other in {0, 1, 2} - {axis}:                            # even within the face
                u = points[on, other] / (1, 2, 5)[other]
                assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4


def test_the_recipe_packs_what_the_loader_unpacks(recipe, tmp_path, monkeypatch):
    g = np.random.default_rng(0)
    x = np.stack([recipe.normalised(g.normal(size=(2048, 3)) * scale) for scale in (1, (9, 1, 4))])
    x[1, :, 2] = np.where(x[1, :, 2] > 0, 1, -1)                        # a gap of 254 steps
    arrays = {"deltas": recipe.packed(x), "y": np.array([0, 2], np.uint8),
              "group": np.array([0, 1], np.uint8), "test": np.array([False, True]),
              "names": np.array(["a", "b"])}
    file = tmp_path / "clouds.npz"
    digest = recipe.npz.write(file, arrays).split()[-1]
    monkeypatch.setattr(data, "SHA256", digest)
    for split, cloud, y in (("train", x[0], 0), ("test", x[1], 2)):
        found = clouds(split, 2048, file=file)
        assert found.y.tolist() == [y] and arrays["deltas"].dtype == np.int8
        as_set = lambda points: sorted(map(tuple, np.rint(127 * points).astype(int).tolist()))
        assert as_set(found.x[0].numpy()) == as_set(cloud)


def test_the_recipe_finds_copies_and_keeps_them_together(recipe):
    vertices, triangles = recipe.read_obj(CUBE)

    def model(kind, shape, seed, turn=False, mirror=False):
        points = recipe.sample_surface(vertices * shape, triangles, 2048,
                                       np.random.default_rng(seed))
        points = points[:, [2, 1, 0]] if turn else points
        points = points * (-1, 1, 1) if mirror else points
        return recipe.Model(kind, str(seed), "", "", "", recipe.normalised(points))

    models = [model("chair", (1, 2, 5), 0), model("chair", (1, 1, 1), 1),
              model("chair", (1, 2, 5), 2, turn=True), model("lamp", (1, 2, 5), 3),
              model("chair", (2, 4, 10), 4, mirror=True), model("chair", (1, 5, 2), 5)]
    assert recipe.groups(models).tolist() == [0, 1, 0, 2, 0, 3]
    kinds = np.repeat([0, 1, 2], [20, 10, 10])
    group = np.r_[np.repeat([0, 1, 2], [5, 5, 5]), 3:8, 8:18, np.repeat([18, 19], 5)]
    test = recipe.held_out(kinds, group)
    assert not set(group[test]) & set(group[~test])
    for kind in range(3):
        assert 0.3 <= test[kinds == kind].mean() < 0.3 + 0.5


def test_the_recipe_believes_a_model_rather_than_its_archive(recipe, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/mine/LICENSE.html", "released under <b>Creative Commons\nAttribution "
                         "3.0</b> http://www.blendswap.com/blends/view/12 and so on")
        archive.writestr("x/free/license.txt", "Creative Commons Zero (Public Domain)")
        archive.writestr("x/art/License.txt", "Free Art License 1.3")
        archive.writestr("x/none/none.obj", CUBE)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        page = "http://www.blendswap.com/blends/view/12"
        assert recipe.licence(archive, "mine", recipe.CC0) == (recipe.CC_BY, page)
        assert recipe.licence(archive, "free", recipe.CC_BY) == (recipe.CC0, "")
        assert recipe.licence(archive, "none", recipe.CC_BY) == (recipe.CC_BY, "")
        with pytest.raises(SystemExit, match="leave art out"):
            recipe.licence(archive, "art", recipe.CC0)


# ---- Chamfer

def brute_force(a, b, power):
    """All pairs of points, in numpy."""
    table = np.empty((len(a), len(b)))
    for i, j in np.ndindex(table.shape):
        d = np.linalg.norm(a[i][:, None] - b[j][None], axis=2)
        table[i, j] = (d.min(1) ** power).mean() + (d.min(0) ** power).mean()
    return table


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("sizes", [(4, 3, 20, 30, 3), (1, 2, 7, 7, 2)])
def test_chamfer_by_brute_force(sizes, squared):
    N, M, P, Q, D = sizes
    a, b = (torch.randn(*s, generator=generator()) for s in ((N, P, D), (M, Q, D)))
    found = chamfer(a, b, squared)
    assert found.shape == (N, M) and found.dtype == torch.float64
    torch.testing.assert_close(found, torch.from_numpy(brute_force(a.numpy().astype(float),
                               b.numpy().astype(float), 2 if squared else 1)))
    torch.testing.assert_close(found, chamfer(b, a, squared).T)
    torch.testing.assert_close(chamfer(3 * a, 3 * b, squared), found * (9 if squared else 3))


def test_chamfer_by_hand():
    a, b = torch.tensor([[[0.0, 0, 0]]]), torch.tensor([[[2.0, 0, 0], [0, 0, 4.0]]])
    assert chamfer(a, b).item() == 4 + (4 + 16) / 2
    assert chamfer(a, b, squared=False).item() == 2 + (2 + 4) / 2


def test_copies_are_at_distance_zero():
    x = clouds(points=128).x[:5]
    order = torch.randperm(128, generator=generator())
    d = chamfer(x, x[:, order])
    assert (d.diagonal() == 0).all() and (d.fill_diagonal_(1) > 0).all()


# ---- 1-NNA

def points(n, shift=0.0, seed=0, d=2):
    return torch.randn(n, 1, d, generator=generator(seed)) + shift


def test_one_nna_of_copies_is_zero_and_of_sets_apart_one():
    a = clouds(points=64).x[:8]
    order = torch.randperm(8, generator=generator())
    copies = one_nna(a, a[order][:, torch.randperm(64, generator=generator())])
    assert copies.accuracy == 0 and copies.low == 0 and 0.2 < copies.high < 0.4     # 8 pairs
    apart = one_nna(a, a + 50)
    assert apart.accuracy == 1 and apart.high == 1 and 0.6 < apart.low < 1


def test_one_nna_by_brute_force():
    a, b = points(9, 0.3, 1), points(9, 0.0, 2)
    both = torch.cat([a, b])[:, 0].tolist()
    right = 0
    for i, p in enumerate(both):
        others = [(math.dist(p, q), j) for j, q in enumerate(both) if j != i]
        right += (min(others)[1] < 9) == (i < 9)
    assert one_nna(a, b).accuracy == pytest.approx(right / 18)
    D = chamfer(torch.cat([a, b]), torch.cat([a, b]))                   # rows of a table
    by_rows = one_nna(torch.arange(9), torch.arange(9, 18), lambda i, j: D[i][:, j])
    assert by_rows == one_nna(a, b)


def test_equal_distances_count_in_parts():
    """0 and 0 against 0 and 9: at 0, one of two neighbours is of the same set."""
    a, b = torch.tensor([[[0.0]], [[0.0]]]), torch.tensor([[[0.0]], [[9.0]]])
    found = one_nna(a, b)
    assert found.accuracy == pytest.approx((1 / 2 + 1 / 2 + 0 + 1 / 3) / 4)


def test_the_interval_covers_one_half_for_sets_of_one_distribution():
    """95 % of intervals, where Wilson's with 2 N trials covers 89 %: neighbours come in pairs."""
    found = [one_nna(points(40, seed=2 * k), points(40, seed=2 * k + 1), lambda x, y: torch.cdist(
        x[:, 0], y[:, 0], compute_mode="donot_use_mm_for_euclid_dist")) for k in range(600)]
    mean = sum(f.accuracy for f in found) / 600
    covered = sum(f.low <= 0.5 <= f.high for f in found) / 600
    naive = sum(low <= 0.5 <= high for low, high in (_wilson(f.accuracy, 80) for f in found)) / 600
    assert abs(mean - 39 / 79) < 0.012 and 0.925 < covered < 0.98 and naive < 0.92


@pytest.mark.parametrize("k, n", [(0, 10), (3, 10), (25, 50), (50, 50)])
def test_wilson_as_scipy_has_it(k, n):
    wanted = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert _wilson(k / n, n) == pytest.approx((wanted.low, wanted.high), abs=1e-4)


# ---- nearest training examples

def test_nearest_ratio_by_hand():
    held_out = torch.tensor([[4.0, 2.0], [11.0, 9.0], [8.0, 4.0]])      # nearest 2, 9, 4: median 4
    found = nearest_ratio(torch.tensor([[2.0, 3.0], [8.0, 9.0], [0.0, 5.0]]), held_out)
    assert found.each.tolist() == [0.5, 2, 0] and found.median == 0.5
    assert found.low == 0 and found.low <= found.median <= found.high
    again = nearest_ratio(torch.tensor([[2.0, 3.0], [8.0, 9.0], [0.0, 5.0]]) * 7, held_out * 7)
    assert torch.equal(again.each, found.each) and again[1:] == found[1:]


def test_the_interval_of_the_ratio_covers_one():
    """Samples as new as held-out examples: both distances from one law."""
    g = generator()
    covered = 0
    for seed in range(100):
        a, b = (torch.rand(30, 5, generator=g) for _ in range(2))
        found = nearest_ratio(a, b, seed)
        covered += found.low <= 1 <= found.high
    assert 88 <= covered <= 99


@pytest.mark.parametrize("call, words", [
    (lambda x: chamfer(x[0], x), r"a must be clouds \(N, points, coordinates\)"),
    (lambda x: chamfer(x, x[..., :2]), "as many coordinates; got 3, 2"),
    (lambda x: chamfer(x, x * math.nan), "b has .* not finite"),
    (lambda x: chamfer(x, x, squared=2), "squared must be a bool"),
    (lambda x: one_nna(x, x[:3]), "two sets of equal size"),
    (lambda x: one_nna(x[:1], x[:1]), "two examples or more"),
    (lambda x: one_nna(x, x, lambda a, b: torch.zeros(2, 2)), "distance must be a table"),
    (lambda x: one_nna(x, x, "chamfer"), "distance must be a function"),
    (lambda x: nearest_ratio(x, x), r"table of distances \(N, M\)"),
    (lambda x: nearest_ratio(x[0], x[0, :, :2]), "as many columns"),
    (lambda x: nearest_ratio(-x[0], x[0]), "0 or more"),
    (lambda x: nearest_ratio(x[0], 0 * x[0]), "6 of the held-out examples are in"),
    (lambda x: nearest_ratio(x[0], x[0], seed=-1), "seed must be"),
])                                                                                   # fmt: skip
def test_one_sentence_from_the_metrics(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(torch.rand(4, 6, 3, generator=generator()) + 0.1)
