"""The shipped checkpoints: whole, described, small, and as good as their cards say."""
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from course_lib import clip, ddim, last, timesteps
from course_lib.lab import (
    attributes,
    data,
    metrics,
    noun_parts,
    sampler_study,
    sampling,
    storage,
    texts,
    train,
)
from course_lib.lab.data.sudoku import sudoku_puzzles
from course_lib.lab.training.config import read_config

ROOT = Path(__file__).parents[1]
CONFIGS = {file.stem: read_config(file) for file in (ROOT / "configs").glob("*.toml")}
SHIPPED = sorted(file.stem for file in (storage.ASSETS / "checkpoints").glob("*.safetensors"))
DATA = {name: CONFIGS[name]["data"] for name in SHIPPED if "network" in CONFIGS.get(name, {})}
OTHER_DATA = ("captions", "sudoku", "moving_digits", "drums", "clouds")    # lesson 6, part III
NAMES = [name for name in DATA if DATA[name] not in OTHER_DATA]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_how_it_was_made(name):
    """The configuration in the header is the one in configs/, with the command and the measured
    numbers beside it."""
    about = train.load(name, device="cpu").about
    assert about["config"] == CONFIGS[name] and f"configs/{name}.toml" in about["command"]
    vae = name == "nouns_vae"
    samples = about["metrics"]["reconstructions" if vae else "samples"]
    least, measured = (2000, "frechet_distance")
    if name.startswith("nouns"):
        least, measured = (500, "squared_error")
    assert samples[0]["n"] >= least and 0 < samples[0][measured]
    assert "tools/recipes/ship.py" in about["metrics"]["judged_by"]
    assert (storage.ASSETS / f"checkpoints/{name}.safetensors").stat().st_size < 8e6


@pytest.mark.parametrize("name", [name for name in DATA if DATA[name] in OTHER_DATA])
def test_the_card_of_other_data_says_how_it_was_made(name):
    about = train.load(name, device="cpu").about
    assert about["config"] == CONFIGS[name] and f"configs/{name}.toml" in about["command"]
    card = about["metrics"]
    tokens = DATA[name] in ("captions", "sudoku")
    kept = "samples" if tokens else {"moving_digits": "clips", "drums": "sounds"}.get(name, name)
    assert card["n"] >= (1000 if tokens else 50) and card[kept]
    recipe = "ship_tokens" if tokens else "ship_modalities"
    assert f"tools/recipes/{recipe}.py {name}" in card["judged_by"]
    config = CONFIGS[name]["train"]
    assert card["training"]["examples"] == config["steps"] * config["batch_size"]


def test_checkpoints_of_other_data_are_small():
    """At most 2 MB each, 7.5 MB together."""
    files = [storage.ASSETS / f"checkpoints/{k}.safetensors" for k in DATA if DATA[k] in OTHER_DATA]
    sizes = [file.stat().st_size for file in files]
    assert max(sizes) < 2e6 and sum(sizes) < 7.5e6


def test_captions_are_as_valid_as_the_cards_say():
    for name, steps in (("captions_autoregressive", 32), ("captions_masked", 64)):
        model = train.load(name, device="cpu")
        rows = model.about["metrics"]["samples"]
        promised = next(row["valid"] for row in rows if row["steps"] == steps)
        valid = texts.caption_scores(texts.sample_tokens(model, 60, steps, seed=3))["valid"]
        assert abs(valid - promised) < 4 * (promised * (1 - promised) / 60) ** 0.5


def test_puzzles_are_solved_as_the_card_says():
    model = train.load("sudoku", device="cpu")
    rows = model.about["metrics"]["samples"]
    promised = {row["order"]: row["solved"] for row in rows if row["steps"] == 8}
    assert promised["confidence"] > 0.9 > promised["random"] + 0.4
    grids, hidden = sudoku_puzzles(40, 24, seed=3)
    for order, share in promised.items():
        right = (texts.solve(model, grids, hidden, 8, order) == grids).all(1).double().mean()
        assert abs(right - share) < 4 * (share * (1 - share) / 40) ** 0.5


@pytest.mark.parametrize("name", [name for name in NAMES if "mnist" in name])
def test_it_draws_what_it_is_asked_for(name):
    """A hundred digits in ten steps: the classifier sees the digit that was asked for, nearly as
    often as the card says."""
    D, y = train.load(name, device="cpu"), torch.arange(100) % 10
    g = torch.Generator().manual_seed(0)
    x = D.schedule.sample_prior((100, *D.data_shape), generator=g)
    with torch.no_grad():
        x = last(ddim(clip(D), D.schedule, x, timesteps(D.schedule, 10), y=y))
    promised = D.about["metrics"]["samples"][0]["class_agreement"]
    assert metrics.class_agreement(x.clamp(-1, 1), y) >= promised - 0.04


def test_what_the_autoencoder_keeps():
    """200 new combinations through the latent: as right as the card says, and what is asked for."""
    vae = train.load("nouns_vae", device="cpu")
    x, _, parts = data.nouns(200, seed=2, split="test")
    with torch.no_grad():
        again = torch.cat([vae(part) for part in x.split(100)])
        drawn = vae.to_latents(x, torch.Generator().manual_seed(0))
    right = attributes.attributes_correct(again.clamp(-1, 1), parts).double().mean(0)
    card = vae.about["metrics"]["reconstructions"][0]
    assert card["n"] >= 1000 and min(card["right"].values()) >= 0.98
    assert right.min() >= min(card["right"].values()) - 0.03
    assert (again - x).square().mean() < 1.2 * card["squared_error"]
    assert drawn.shape == (200, 8, 8, 8) and drawn.mean((0, 2, 3)).abs().max() < 0.1
    assert (drawn.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_what_the_latent_model_draws():
    """40 captions of new combinations: each part as right as the card says, but for chance."""
    D, vae = (train.load(name, device="cpu") for name in ("nouns_latent", "nouns_vae"))
    assert D.data_shape == (8, 8, 8) and D.about["config"]["latents"] == "nouns_vae"
    parts = noun_parts.draw_parts(40, seed=9, split="test")
    x = sampling.text_to_image(D, noun_parts.plain_captions(parts), vae=vae)
    right = attributes.attributes_correct(x, parts).double().mean(0)
    rows = D.about["metrics"]["samples"]
    card = next(row for row in rows if row["split"] == "test" and row["w"] == 2)["right"]
    assert min(card.values()) >= 0.95 and right.min() >= min(card.values()) - 0.1
    # without its captions it draws other figures
    other = sampling.text_to_image(D, noun_parts.plain_captions(parts.flip(0)), vae=vae)
    assert attributes.attributes_correct(other, parts).double().mean() < 0.5


def test_photographs():
    """Two of each class in eight steps: colours as spread as CIFAR-10's (standard deviation 0.5),
    and the class matters."""
    D, y = train.load("cifar10", device="cpu"), torch.arange(20) % 10
    x, calls, _ = sampling.sample_labels(D, sampler_study.SAMPLERS["dpmpp"], 8, y)
    assert calls == 8 and x.shape == (20, 3, 32, 32)
    assert 0.35 < x.std() < 0.65 and x.mean().abs() < 0.25
    other, _, _ = sampling.sample_labels(D, sampler_study.SAMPLERS["dpmpp"], 8, y.flip(0))
    assert (x - other).square().mean().sqrt() > 0.2, "the same noise with other labels"


def test_mnist_is_shipped():
    assert {"mnist", "mnist_small", "cifar10"} <= set(NAMES)


def is_part(name):
    """Of a base model, loaded by a function of its own: an adapter in the published layout, or what
    course_lib.lab.training.parts loads."""
    file = storage.CHECKPOINTS / f"{name}.safetensors"
    with safe_open(file, framework="pt") as stored:
        adapter = all(".lora_" in key for key in stored.keys())         # noqa: SIM118
    return adapter or "part" in storage.load_header(file)


def test_what_is_left_out_of_the_models_is_a_part(tmp_path, monkeypatch):
    """A whole model, and a file of something else, are not left out."""
    monkeypatch.setattr(storage, "CHECKPOINTS", tmp_path)
    weight = {"unet.q.lora_A.weight": torch.zeros(2, 2)}
    save_file(weight, tmp_path / "adapter.safetensors", metadata={"format": "pt"})
    storage.save_tensors(tmp_path / "part.safetensors", {"a": torch.zeros(1)}, {"part": "x"})
    storage.save_tensors(tmp_path / "whole.safetensors", {"a": torch.zeros(1)}, {"net": "x"})
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert is_part("adapter") and is_part("part") and not is_part("whole")
    with pytest.raises(OSError, match="not a whole checkpoint"):
        is_part("other")


def test_every_shipped_model_loads_by_name():
    """All but the style judge, which holds a few matrices, and parts of other models; each with its
    data's shape, if it has one, and in eval mode."""
    for name in SHIPPED:
        if name == "mnist_style_judge" or is_part(name):
            continue
        model = train.load(name, device="cpu")
        assert model.about and not model.training, name
        if hasattr(model, "schedule"):
            axes = {"clouds": 2, "drums": 2, "moving_digits": 4}.get(name, 3)
            assert len(model.data_shape) == axes, name
