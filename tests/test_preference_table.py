"""The table of preference tuning: complete, what the lesson says of it, and what its recipe does.
"""
import csv
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools/recipes"))
import mini_sd_preference as recipe  # noqa: E402

from course_lib import Denoiser, Schedule  # noqa: E402
from course_lib.lab import attributes, noun_parts, storage, train  # noqa: E402
from course_lib.networks.stable_diffusion.model import StableDiffusionNet  # noqa: E402
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer  # noqa: E402

FULL = recipe.Numbers()
LAST = FULL.steps[-1]


# ---- the table

@pytest.fixture(scope="module")
def rows():
    """{(way, amount, seed): row}; skips where it is missing while the lesson is a draft."""
    if not recipe.CSV.exists() and not (ROOT / "lessons/07_applications_deployment.py").exists():
        pytest.skip("the lesson is a draft; missing: python tools/recipes/mini_sd_preference.py")
    with recipe.CSV.open() as file:
        found = list(csv.DictReader(file))
    keys = [(row["way"], int(row["amount"]), int(row["seed"])) for row in found]
    assert len(keys) == len(set(keys)) and list(found[0]) == recipe.COLUMNS
    numbers = ("n", *(m + s for m in recipe.MEASURES for s in ("", "_se")))
    return {key: row | {k: float(row[k]) for k in numbers} for key, row in zip(keys, found)}


def wanted(numbers):
    keys = {("base", 0, 0)} | {("best of n", n, 0) for n in numbers.best_of}
    return keys | {(w.name, step, w.seed) for w in recipe.ways(numbers) for step in w.steps}


def beyond(row, other, measure):
    """row less other, in standard errors as if both were independent."""
    error = (row[f"{measure}_se"] ** 2 + other[f"{measure}_se"] ** 2) ** 0.5
    return (row[measure] - other[measure]) / error


def test_every_row_is_there_once(rows):
    assert set(rows) == wanted(FULL) and len(rows) == 27
    for (way, _, _), row in rows.items():
        assert row["n"] == 500 and -2 <= row["judge"] <= 2 and row["variety"] > 0
        assert 0 <= row["background"] <= 1 and 0 <= row["glasses"] <= 1
        assert 0 < row["judge_se"] < 0.05 and 0 < row["variety_se"] < 0.05
        assert (row["distance"] == 0) == (way in ("base", "best of n"))


def test_it_was_measured_on_the_shipped_model(rows):
    found = storage.digest(train.load("mini_sd", "cpu").net.state_dict())[:16]
    assert {row["model"] for row in rows.values()} == {found}


def test_the_best_of_one_is_the_base(rows):
    base, one = rows["base", 0, 0], rows["best of n", 1, 0]
    assert all(base[name] == one[name] for name in recipe.MEASURES)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_judges_score_rises_with_the_steps_and_the_distance(rows, seed):
    path = [rows["base", 0, 0], *(rows["DPO", step, seed] for step in FULL.steps)]
    judge, distance = ([row[name] for row in path] for name in ("judge", "distance"))
    for values in (judge, distance):
        assert values[0] < values[1] < values[3] < values[-1]
    assert beyond(path[-1], path[0], "judge") > 10


@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_judge_does_not_look_at_falls(rows, seed):
    base, last = rows["base", 0, 0], rows["DPO", LAST, seed]
    assert beyond(last, base, "background") < -4 and beyond(last, base, "variety") < -4


def test_the_best_of_n_rises_with_n(rows):
    judge = [rows["best of n", n, 0]["judge"] for n in FULL.best_of]
    assert judge == sorted(set(judge))
    assert beyond(rows["best of n", 16, 0], rows["base", 0, 0], "judge") > 5


def test_a_larger_beta_stays_nearer_to_the_base(rows):
    free, held = rows["DPO", LAST, 0], rows["DPO, larger beta", LAST, 0]
    assert held["distance"] < 0.6 * free["distance"] and held["judge"] < free["judge"]


@pytest.mark.parametrize("control", ["coin tosses", "winners alone"])
def test_controls_do_not_reach_what_dpo_does(rows, control):
    base = rows["base", 0, 0]["judge"]
    gain = rows[control, LAST, 0]["judge"] - base
    assert abs(gain) < 0.5 * (rows["DPO", LAST, 0]["judge"] - base)


def test_the_pictures_are_those_of_the_rows(rows):
    with np.load(recipe.NPZ) as file:
        found = dict(file)
    assert set(found) == {"{}, {}, {}".format(*key) for key, row in rows.items()
                          if recipe.is_shown({"way": key[0], "amount": key[1], "seed": key[2]})}
    red = {}
    for name, x in found.items():
        assert x.shape == (recipe.SHOWN, 3, 32, 32) and x.dtype == np.uint8
        red[name] = recipe.redness(torch.from_numpy(x) / 127.5 - 1).mean().item()
    last = f"DPO, {LAST}, 0"
    assert red[last] > red["base, 0, 0"] + 0.5 * (
        rows["DPO", LAST, 0]["judge"] - rows["base", 0, 0]["judge"])


# ---- what the recipe measures

def test_redness():
    colours = torch.tensor([[1, -1, -1], [-1, 1, 1], [-1, -1, 1], [1, 1, 1.0]])
    x = colours[:, :, None, None].expand(4, 3, 5, 5)
    assert recipe.redness(x).tolist() == [2, -2, -1, 0]


def test_certain_pixels():
    """Those of the background lie at the border; those of the glasses are the frames and eyes."""
    background, glasses = (recipe.certain_pixels(part) for part in recipe.NAMED)
    assert background.sum() == 259 and glasses.sum() == 78 and not (background & glasses).any()
    assert background[:, 0].all() and not background[8:24, 8:24].any()
    assert glasses[11:17].sum() == 78


def test_named_parts_are_read_whatever_the_others_are():
    """A prompt leaves the other parts open; noise does not hide the named ones."""
    asked, x = noun_parts.draw_parts(300, seed=1), noun_parts.draw_parts(300, seed=2)
    columns = [noun_parts.PARTS.index(part) for part in recipe.NAMED]
    x[:, columns] = asked[:, columns]
    noise = 0.1 * torch.randn(300, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = noun_parts.render(x) + noise
    assert recipe.named_correct(x, asked).all()
    exact = noun_parts.render(asked[:20])
    assert attributes.attributes_correct(exact, asked[:20])[:, columns].all()
    assert recipe.named_correct(exact, asked[:20]).all()
    other = asked.clone()
    other[:100, columns[0]] = 1 - asked[:100, columns[0]]
    other[100:200, columns[1]] = (asked[100:200, columns[1]] + 1) % 23
    found = recipe.named_correct(x, other)
    assert not found[:100, 0].any() and found[100:, 0].all()
    assert not found[100:200, 1].any() and found[:100, 1].all() and found[200:, 1].all()


def test_variety_and_its_error():
    x = torch.tensor([0.0, 1, 3, 3, 5, 5, 5, 5]).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    assert recipe.variety(x).tolist() == pytest.approx([(1 + 3 + 3 + 2 + 2 + 0) / 6, 0])
    mean, error = recipe.mean_and_error(torch.tensor([1.0, 2, 3, 6]))
    assert mean == 3 and error == pytest.approx((14 / 3 / 4) ** 0.5)
    assert recipe.of_prompts(torch.tensor([1.0, 2, 3, 6, 0, 0, 0, 1])).tolist() == [3, 0.25]


def test_the_error_of_a_root():
    found = recipe.root_and_error(0.25, 1e-4)
    assert found["distance"] == 0.5
    assert found["distance_se"] == pytest.approx((0.25 + 1e-4) ** 0.5 - 0.5, rel=1e-3)
    assert recipe.root_and_error(0.0, 0.0) == {"distance": 0, "distance_se": 0}


def test_prompts_name_two_parts():
    parts = torch.tensor([[noun_parts.index_of("background", "cool"), 0, 0,
                           noun_parts.index_of("head", "shark"),
                           noun_parts.index_of("glasses", "black")]])
    assert recipe.prompts_of(parts) == ["a figure with black glasses, cool background"]


# ---- a small network, from pairs to files

@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file of a random network with mini-SD's classes; runs are kept beside it."""
    folder = tmp_path_factory.mktemp("preference")
    texts = recipe.prompts_of(noun_parts.draw_parts(200, seed=1))
    tokenizer = BytePairTokenizer.learn(texts, 540, 24)
    unet = {"in_channels": 8, "widths": (32, 32), "depth": 1, "context_dim": 16, "num_heads": 2,
            "attention_levels": (True, False)}
    text = {"length": 24, "dim": 16, "depth": 1, "num_heads": 2, "hidden": 32,
            "vocabulary": len(tokenizer.vocabulary)}
    torch.manual_seed(0)
    D = Denoiser(StableDiffusionNet(unet, text, tokenizer), Schedule.scaled_linear(), "v")
    D.data_shape = (8, 8, 8)
    for p in D.net.unet.out.parameters():                               # they begin at zero
        torch.nn.init.normal_(p, std=0.1)
    train.save(D, folder / "small.safetensors")
    return str(folder / "small.safetensors")


@pytest.fixture
def study(small, monkeypatch):
    monkeypatch.setenv("COURSE_RUNS", str(Path(small).parent))
    monkeypatch.setattr(recipe, "SAMPLING_STEPS", 2)
    return recipe.Study(small, recipe.TRIAL)


def test_pairs(study):
    winner, loser, context = study.pairs(by_coin=False)
    red = [recipe.redness(study.decode(z)) for z in (winner, loser)]
    assert (red[0] > red[1]).all() and len(context) == recipe.TRIAL.pairs
    first, second, _ = study.pairs(by_coin=True)
    kept = (first == winner).flatten(1).all(1)
    swapped = (first == loser).flatten(1).all(1)
    assert (kept ^ swapped).all() and 4 <= kept.sum() <= 20
    assert torch.equal(first + second, winner + loser)


def test_a_whole_run_and_the_files(study, tmp_path):
    found = list(recipe.rows(study))
    keys = {(row["way"], row["amount"], row["seed"]) for row, _ in found}
    assert keys == wanted(recipe.TRIAL) and len(found) == len(keys)
    by_key = {(row["way"], row["amount"], row["seed"]): row for row, _ in found}
    assert by_key["best of n", 1, 0]["judge"] == by_key["base", 0, 0]["judge"]
    assert by_key["best of n", 2, 0]["judge"] > by_key["best of n", 1, 0]["judge"]
    for (way, _, _), row in by_key.items():
        assert (row["distance"] > 0) == (way not in ("base", "best of n"))
        assert row["n"] == recipe.EACH * recipe.TRIAL.prompts and row["model"] == study.model
    assert by_key["DPO", 2, 0]["distance"] > by_key["DPO", 1, 0]["distance"]
    recipe.write(found, tmp_path / "p.csv", tmp_path / "p.npz")
    again = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert list(again[0]) == recipe.COLUMNS
    assert float(again[-1]["judge"]) == pytest.approx(found[-1][0]["judge"], abs=1e-5)
    assert dict(np.load(tmp_path / "p.npz"))["base, 0, 0"].shape == (6, 3, 32, 32)


def test_a_stopped_run_goes_on(study, monkeypatch):
    """Finished rows are not computed again, and one that is missing comes out the same."""
    before = [row for row, _ in recipe.rows(study)]
    lost = {"way": "DPO", "amount": 2, "seed": 1}
    study.file_of(lost).unlink()
    trained, draw = [], recipe.train_in
    monkeypatch.setattr(recipe, "train_in", lambda s, way: trained.append(way) or draw(s, way))
    assert [row for row, _ in recipe.rows(study)] == before
    assert [(way.name, way.seed) for way in trained] == [("DPO", 1)]
    monkeypatch.setattr(study, "draw", None)                            # nothing is drawn
    assert [row for row, _ in recipe.rows(study)] == before


def test_ways_differ_and_leave_the_base(study):
    state = {k: v.clone() for k, v in study.base.state_dict().items()}
    ends = {}
    for way in recipe.ways(recipe.TRIAL):
        (_, D), = [pair for pair in recipe.train_in(study, way) if pair[0] == way.steps[-1]]
        ends[way.name, way.seed] = torch.cat([p.flatten() for p in D.net.unet.parameters()])
        for name, value in D.net.text.state_dict().items():
            assert torch.equal(value, state[f"net.text.{name}"])
    assert all(torch.equal(v, state[k]) for k, v in study.base.state_dict().items())
    flat = list(ends.values())
    assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i])
    assert study.distance(study.base) == {"distance": 0, "distance_se": 0}


def test_other_numbers_and_other_models_have_their_own_folder(small, study, tmp_path):
    numbers = recipe.Numbers(pairs=24, prompts=6, batch=3, steps=(1, 2), few=(1, 2), best_of=(1, 2))
    assert recipe.Study(small, numbers).folder != study.folder
    D = train.load(small)
    next(D.net.unet.parameters()).data += 1
    train.save(D, tmp_path / "other.safetensors")
    other = recipe.Study(str(tmp_path / "other.safetensors"), recipe.TRIAL)
    assert other.folder != study.folder and other.model != study.model
    assert recipe.Study(small, recipe.TRIAL).folder == study.folder
