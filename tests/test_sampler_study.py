"""The study of samplers: it counts what it says it counts, repeats itself, and sees a bad sampler.
"""
import pytest
import torch

from course_lib import ddim
from course_lib.lab import attributes, noun_parts, sampler_study, sampling, train


def test_rows():
    D = train.load("mnist_small", device="cpu")
    ways = {name: sampler_study.SAMPLERS[name] for name in ("ddim", "heun", "unipc", "ancestral")}
    rows = sampler_study.analyze_sampling_quality(D, [6, 3], ways, n=40)
    assert (
        [(r["sampler"], r["evaluations"]) for r in rows]
        == [(name, 5 if name == "heun" and k == 6 else k) for k in (6, 3) for name in ways]
    )
    assert all(
        r["seconds"] > 0 and r["n"] == 40 and 0 <= r["agreement"] <= 1 and r["frechet_distance"] > 0
        for r in rows
    )
    again = sampler_study.analyze_sampling_quality(D, [6], {"ancestral": ways["ancestral"]}, n=40)[
        0
    ]
    assert (
        again["frechet_distance"]
        == next(r for r in rows if r["sampler"] == "ancestral" and r["evaluations"] == 6)[
            "frechet_distance"
        ]
    )
    sampler_study.plot_sampling_analysis(rows, floor=1.0)
    sampler_study.plot_sampling_analysis(rows, column="agreement")


def test_guidance_doubles_the_evaluations_and_one_step_is_seen():
    D = train.load("mnist_small", device="cpu")
    x, calls, _ = sampling.sample_labels(
        D, sampler_study.SamplerConfig(ddim), 4, torch.arange(20) % 10, scale=2.0
    )
    assert calls == 8 and x.shape == (20, 1, 28, 28) and x.abs().max() <= 1
    one, eight = (
        r["frechet_distance"]
        for r in sampler_study.analyze_sampling_quality(
            D, [1, 8], {"ddim": sampler_study.SamplerConfig(ddim)}, n=60
        )
    )
    assert one > 2 * eight


def test_the_text_model_draws_what_is_asked_and_more_than_chance():
    """The shipped `nouns`, on new combinations: every part right far more often than guessing, and
    as often as its card says, but for noise.
    """
    D, parts = train.load("nouns", device="cpu"), noun_parts.draw_parts(12, seed=77, split="test")
    x = sampling.text_to_image(D, noun_parts.plain_captions(parts), scale=2.0)
    assert x.shape == (12, 3, 32, 32) and x.abs().max() <= 1
    right = attributes.attributes_correct(x, parts).float().mean(0)
    card = next(
        row["right"]
        for row in D.about["metrics"]["samples"]
        if row["w"] == 2.0 and row["split"] == "test"
    )
    assert (right >= 0.83).all() and min(card.values()) > 0.95, (right, card)
    again = sampling.text_to_image(D, noun_parts.plain_captions(parts[:3]), scale=2.0)
    assert (again - x[:3]).abs().max() < 0.2, (
        "the noise of a picture depends on the seed and its place alone"
    )


def test_what_three_minutes_gave_is_shipped_and_better_than_guessing():
    live = attributes.nouns_training_results()
    assert (
        live["x"].shape == (8, 3, 32, 32)
        and live["parts"].shape == (200, 5)
        and "180 s" in live["about"]
    )
    assert (
        live["right"]
        > attributes.chance_accuracy(live["parts"])
        + 5 * (0.25 / 200) ** 0.5 * torch.tensor([1, 1, 0.2, 1, 1])
    ).all()
    assert live["losses"][-1, 1] < 0.3 * live["losses"][0, 1]


def test_feature_fn_and_real_go_together():
    for other in ({"feature_fn": lambda x: x}, {"real": torch.zeros(5, 2)}):
        with pytest.raises(ValueError, match="feature_fn and real go together"):
            sampler_study.analyze_sampling_quality(None, [1], n=1, **other)
