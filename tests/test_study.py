"""The study of samplers: it counts what it says it counts, repeats itself, and sees a bad sampler."""
import torch

from course_lib import ddim
from course_lib.lab import study, train


def test_rows():
    D = train.load("mnist_small", on="cpu")
    ways = {name: study.WAYS[name] for name in ("ddim", "heun", "unipc", "ancestral")}
    rows = study.analyze_sampling_quality(D, [6, 3], ways, n=40)
    assert [(r["sampler"], r["evaluations"]) for r in rows] == [(name, 5 if name == "heun" and k == 6 else k) for k in (6, 3) for name in ways]
    assert all(r["seconds"] > 0 and r["n"] == 40 and 0 <= r["agreement"] <= 1 and r["frechet_distance"] > 0 for r in rows)
    again = study.analyze_sampling_quality(D, [6], {"ancestral": ways["ancestral"]}, n=40)[0]
    assert again["frechet_distance"] == next(r for r in rows if r["sampler"] == "ancestral" and r["evaluations"] == 6)["frechet_distance"]
    study.plot_sampling_analysis(rows, floor=1.0)
    study.plot_sampling_analysis(rows, column="agreement")


def test_guidance_doubles_the_evaluations_and_one_step_is_seen():
    D = train.load("mnist_small", on="cpu")
    x, calls, _ = study.drawn(D, study.Way(ddim), 4, torch.arange(20) % 10, w=2.0)
    assert calls == 8 and x.shape == (20, 1, 28, 28) and x.abs().max() <= 1
    one, eight = (r["frechet_distance"] for r in study.analyze_sampling_quality(D, [1, 8], {"ddim": study.Way(ddim)}, n=60))
    assert one > 2 * eight
