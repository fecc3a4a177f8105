"""Quality against cost: one model, every sampler, equal numbers of network evaluations."""
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ... import validate
from ...denoiser import Denoiser
from ..notebook import plots
from . import features, metrics
from .sampling import SAMPLERS, SamplerConfig, classes_of, sample_labels

MARKERS = "osv^<>DXP*hp"
LINES = ("-", "--", ":")


def analyze_sampling_quality(
    D: Denoiser,
    evaluations: Iterable[int],
    samplers: dict[str, SamplerConfig] = SAMPLERS,
    n: int = 1000,
    scale: float = 1.0,
    seed: int = 0,
    *,
    feature_fn: Callable[[Tensor], Tensor] | None = None,
    real: Tensor | None = None,
    batch_size: int = 500,
) -> list[dict]:
    """Each sampler at each number of evaluations, on n images of the same labels and noise: rows.

    A row holds what was asked for and what it cost (sampler, scale, n, evaluations, seconds), and
    how good it was: Frechet distance and KID (with its standard error) to MNIST's 10,000 test
    digits, and class agreement. For other images pass feature_fn, images -> features (m, d), and
    `real`, those of real images; then there is no agreement. Compare at one n, beside what real
    images score, as many of each label (`metrics.frechet_real_baseline(n, balanced=True)`). Raises
    TypeError or ValueError for feature_fn without real, or real without feature_fn, for a D without
    labels, and as `sample_labels` does.
    """
    if (feature_fn is None) != (real is None):
        raise ValueError(
            "feature_fn and real go together: real is feature_fn of real images; "
            "leave out both to judge digits"
        )
    validate.instance(samplers, dict, "samplers", "SAMPLERS")
    if not isinstance(evaluations, Iterable) or isinstance(evaluations, str):
        raise TypeError(f"evaluations must be a list, such as [5, 10]; got {evaluations!r}")
    if not samplers:
        raise ValueError("there are no samplers: see SAMPLERS")
    evaluations = [validate.whole(count, "each of evaluations") for count in evaluations]
    if not evaluations:
        raise ValueError("evaluations must be at least one number, such as [5, 10]")
    digits = feature_fn is None
    feature_fn = features.digit_features if digits else feature_fn
    real = features.features_of_test_split() if digits else real
    validate.function(feature_fn, "feature_fn", "images -> features (m, d)")
    y = torch.arange(validate.whole(n, "n", 2)) % classes_of(D)
    rows = []
    for asked in evaluations:
        for name, config in samplers.items():
            x, made, seconds = sample_labels(D, config, asked, y, scale, seed, batch_size)
            cost = {"n": n, "evaluations": made, "seconds": round(seconds, 3)}
            row = {"sampler": name, "scale": scale} | cost | _quality(feature_fn(x), real)
            rows.append(row | ({"agreement": metrics.class_agreement(x, y)} if digits else {}))
    return rows


def _quality(z: Tensor, real: Tensor) -> dict[str, float]:
    kid, error = metrics.kid(z, real)
    distance = metrics.frechet_distance(z, real)
    return {"frechet_distance": distance, "kid": kid, "kid_error": error}


@plots.styled
def plot_sampling_analysis(
    rows: list[dict],
    floor: float | None = None,
    column: str = "frechet_distance",
    floor_std: float = 0.0,
) -> None:
    """Quality (a column of the rows) against evaluations, a curve for each sampler.

    floor: what real images score, as a horizontal line; floor_std: a band of this half-width.
    Raises ValueError for no rows, and for a column that they do not have.
    """
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise ValueError("rows must be a list of at least one dict: see analyze_sampling_quality")
    if floor is not None:
        validate.number(floor, "floor")
        validate.number(floor_std, "floor_std", 0)
    validate.choice(column, "column", rows[0])
    figure = plots.new_figure(8.5, 3.8)
    axes = figure.subplots()
    for k, name in enumerate(dict.fromkeys(r["sampler"] for r in rows)):
        points = sorted((r["evaluations"], r[column]) for r in rows if r["sampler"] == name)
        turn = k // len(plots.COLOURS)
        look = {"ls": LINES[turn % len(LINES)], "ms": 5, "mfc": "white" if turn else None}
        axes.plot(*zip(*points), MARKERS[k % len(MARKERS)], **look, label=name)
    if floor is not None:
        axes.axhline(floor, color="black", lw=1, label="real images")
        axes.axhspan(floor - floor_std, floor + floor_std, color="black", alpha=0.15, lw=0)
    counts = sorted(
        {r["evaluations"] for r in rows if r["evaluations"] == r.get("asked", r["evaluations"])}
    )
    axes.set(
        xscale="log",
        yscale="linear" if column in ("agreement", "kid") else "log",
        title="Quality against cost",
        xlabel="network evaluations for each image",
        ylabel=column.replace("frechet_", "Fréchet ").replace("_", " "),
        xticks=counts,
        xticklabels=counts,
    )
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    plots.display(figure)
