"""Explorers: sliders above a figure, from what ipywidgets 7.7.1 (Colab) has.

A built notebook (COURSE_STATIC=1) shows still figures instead. All raise TypeError or ValueError
for what they cannot draw.
"""
import os
import warnings
from collections.abc import Callable, Iterable, Sequence

import ipywidgets
import torch
from IPython.display import display
from torch import Tensor

from ... import guidance, samplers, validate
from ...schedules import Schedule
from ..data.mixtures import GaussianMixture
from ..evaluation import sampling
from . import plots


def explore(
    draw: Callable,
    label: str,
    stills: Sequence[float],
    start: float,
    low: float = 0.0,
    high: float = 1.0,
    step: float = 0.01,
    size: tuple[float, float] = (6.0, 3.0),
    title: str = "",
) -> None:
    """A slider from low to high; draw(figure, value) fills a fresh matplotlib figure for each
    value.

    stills: the values that are drawn side by side in a built notebook; size: of one figure, in
    inches.
    """
    validate.function(draw, "draw", "(figure, value)")
    if not isinstance(label, str):
        raise TypeError(f"label must be a string; got {label!r}")
    validate.number(high, "high", low, above=True)
    validate.number(step, "step", 0, above=True)
    for name, values, n in (("stills", stills, None), ("size", size, 2)):
        if not isinstance(values, Iterable) or len(values) != (n or len(values) or 1):
            raise ValueError(f"{name} must be {n or 'one or more'} numbers; got {values!r}")
    for value in (start, *stills):
        validate.number(value, "start and each of stills", low, high)
    if os.environ.get("COURSE_STATIC") == "1":
        figure = plots.new_figure(10.0, 10.0 / len(stills) * size[1] / size[0] * 1.15)
        for part, value in zip(figure.subfigures(1, len(stills)), stills):
            plots.styled(draw)(part, value)
        return plots.display(figure, "jpeg", title)
    slider = ipywidgets.FloatSlider(
        value=start,
        min=low,
        max=high,
        step=step,
        description=label,
        layout=ipywidgets.Layout(width="500px"),
    )

    def update(value: float) -> None:
        _draw_one(draw, value, size, title)
    display(slider, ipywidgets.interactive_output(update, {"value": slider}))


def _draw_one(draw: Callable, value: float, size: tuple[float, float], title: str) -> None:
    figure = plots.new_figure(*size)
    plots.styled(draw)(figure, value)
    plots.display(figure, "png", title)


def _one_image(x0: Tensor, eps: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """x0 and its noise, both (1, C, H, W)."""
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    x0 = validate.images(x0, "x0")
    if len(x0) != 1:
        raise ValueError(f"x0 must be one image, (1, C, H, W); got {tuple(x0.shape)}")
    return x0, validate.real(eps, "eps", like=x0)


def noise_explorer(x0: Tensor, eps: Tensor, schedule: Schedule) -> None:
    """Drag t: one image x_t between data and noise, and the histogram of its pixels.

    x0, eps: (1, C, H, W), x0 in [-1, 1]; x_t is clipped to be shown.
    """
    x0, eps = _one_image(x0, eps, schedule)

    def draw(figure, t: float) -> None:
        x = schedule.perturb(x0, t, eps)
        above, below = figure.subplots(2, 1, height_ratios=(1.4, 1))
        above.imshow(plots.pixels(x), interpolation="nearest")
        above.set(
            title=f"t = {t:.2f}\nalpha {schedule.alpha(t):.2f}, sigma {schedule.sigma(t):.2f}",
            xticks=[],
            yticks=[],
        )
        above.grid(False)
        below.hist(
            plots.to_numpy(x).flatten(),
            bins=40,
            range=(-3.5, 3.5),
            density=True,
            color=plots.BLUE,
        )
        below.set(xlabel="pixel value", ylabel="density", xlim=(-3.5, 3.5), yticks=[])

    explore(
        draw,
        "t",
        stills=(0.0, 0.25, 0.5, 0.75, 1.0),
        start=0.3,
        size=(3.0, 4.4),
        title="One digit between data (t = 0) and noise (t = 1)",
    )


def schedule_explorer(x0: Tensor, eps: Tensor, T: int = 1000) -> None:
    """Drag beta_T of a linear schedule: its log-SNR beside the cosine schedule's, and one noised
    image.

    x0, eps: (1, C, H, W), x0 in [-1, 1]. The slider is beta_T for T = 1000; the first beta stays
    1e-4.
    """
    ts, cosine = torch.linspace(0.01, 1, 100), Schedule.cosine(T)
    x0, eps = _one_image(x0, eps, cosine)

    def draw(figure, beta_end: float) -> None:
        schedule = Schedule.linear(T, beta_end=beta_end)
        above, below = figure.subplots(2, 1, height_ratios=(2, 1))
        above.plot(ts, cosine.log_snr(ts), "--", color=plots.ORANGE, label="cosine")
        above.plot(ts, schedule.log_snr(ts), color=plots.BLUE, label="linear")
        above.axhline(0, color="black", lw=0.5)
        above.set(
            title=f"beta_T = {beta_end:.3f}\nalpha_bar_T = {schedule.alpha(1.0) ** 2:.0e}",
            xlabel="t",
            ylabel="log SNR",
            ylim=(-15, 10),
        )
        above.legend()
        film = torch.cat([schedule.perturb(x0, t, eps) for t in (0.1, 0.3, 0.5, 0.7, 0.9)])
        below.imshow(plots.pixels(film), interpolation="nearest")
        below.set(xlabel="t = 0.1, 0.3, 0.5, 0.7, 0.9", xticks=[], yticks=[])
        below.grid(False)

    explore(
        draw,
        "beta_T",
        stills=(0.005, 0.02, 0.05),
        start=0.02,
        low=0.002,
        high=0.06,
        step=0.002,
        size=(4.6, 4.6),
        title="Linear schedules beside the cosine schedule",
    )


STILLS = (
    ("ddim", 5, 0.0, "time"),
    ("ddim", 20, 0.0, "time"),
    ("ddim", 20, 1.0, "time"),
    ("dpmpp", 5, 0.0, "quadratic"),
    ("unipc", 8, 0.0, "quadratic"),
)


def _sampler_controls() -> dict[str, ipywidgets.Widget]:
    names = ["ddim", "heun", "dpmpp", "unipc"]
    spacings = list(samplers.SPACINGS)
    return {
        "sampler": ipywidgets.Dropdown(options=names, description="sampler"),
        "steps": ipywidgets.IntSlider(value=8, min=2, max=40, description="steps"),
        "eta": ipywidgets.FloatSlider(value=0.0, min=0.0, max=1.0, step=0.1, description="eta"),
        "spacing": ipywidgets.Dropdown(options=spacings, description="spacing"),
    }


def _check_plane(schedule: Schedule, n: int, *mixtures: GaussianMixture) -> None:
    """A schedule, at least one point, mixtures in the plane."""
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    validate.whole(n, "n")
    for mixture in mixtures:
        validate.instance(mixture, GaussianMixture, "mixture", "GaussianMixture([[0.0, 0.0]], 0.5)")
        if mixture.means.shape[1] != 2:
            raise ValueError(f"mixture must be in the plane; got {mixture.means.shape[1]} numbers")


def _bare(axes, limit: float, title: str) -> None:
    """Square axes from -limit to limit, without ticks."""
    limits = (-limit, limit)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xticks=[], yticks=[], title=title)


def sampler_explorer(mixture: GaussianMixture, schedule: Schedule, n: int = 30) -> None:
    """Choose a sampler, steps, eta and spacing: trajectories of n noises under the exact denoiser.

    mixture: in the plane. eta is ddim's alone; heun takes two evaluations a step.
    """
    _check_plane(schedule, n, mixture)
    D = mixture.denoiser(schedule)
    noise = schedule.sample_prior((n, 2), generator=torch.Generator().manual_seed(0)).double()
    real = mixture.sample(1000)

    def draw(figure, sampler: str, steps: int, eta: float, spacing: str) -> None:
        options = {"eta": eta} if sampler == "ddim" else {}
        g = torch.Generator().manual_seed(1)
        ts = samplers.timesteps(schedule, steps, spacing)
        states = getattr(samplers, sampler)(D, schedule, noise, ts, generator=g, **options)
        path = torch.stack(list(states))                                # (steps + 1, n, 2)
        axes = figure.subplots()
        axes.plot(*real.T, ".", ms=1.5, color="0.75")
        axes.plot(path[..., 0], path[..., 1], lw=0.6, color=plots.BLUE, alpha=0.6)
        axes.plot(*path[-1].T, "o", ms=3.5, color=plots.ORANGE)
        noisy = f", eta {eta:g}" if sampler == "ddim" else ""
        _bare(axes, 2.2, f"{sampler}, {steps} steps\n{spacing}{noisy}")

    if os.environ.get("COURSE_STATIC") == "1":
        figure = plots.new_figure(10.0, 2.6)
        for part, still in zip(figure.subfigures(1, len(STILLS)), STILLS):
            plots.styled(draw)(part, *still)
        return plots.display(figure, "jpeg", "Paths from noise to data")
    controls = _sampler_controls()

    def update(**values) -> None:
        figure = plots.new_figure(4.5, 4.5)
        plots.styled(draw)(figure, **values)
        plots.display(figure, "png", "Paths from noise to data")
    display(*controls.values(), ipywidgets.interactive_output(update, controls))


def guidance_explorer(
    everything: GaussianMixture, one: GaussianMixture, schedule: Schedule, n: int = 400
) -> None:
    """Drag w: what classifier-free guidance samples, over the tempered density that it does not
    sample.

    everything: all the data; one: the class asked for; both in the plane. The denoisers are exact,
    so any difference is due to guidance.
    """
    _check_plane(schedule, n, everything, one)
    noise = schedule.sample_prior((n, 2), generator=torch.Generator().manual_seed(0)).double()
    ts, side = samplers.timesteps(schedule, 40, start=0.999), torch.linspace(-1.8, 1.8, 91)
    places = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)
    choose = lambda x, t, asked: (one if asked else everything).denoiser(schedule)(x, t)

    def draw(figure, w: float) -> None:
        log_prob = (1 - w) * everything.log_prob(places) + w * one.log_prob(places)
        guided = guidance.cfg(choose, w, {"asked": False})
        x = samplers.last(samplers.ddim(guided, schedule, noise, ts, asked=True))
        axes = figure.subplots()
        tempered = (log_prob - log_prob.max()).exp().reshape(91, 91)
        axes.imshow(tempered, extent=(-1.8, 1.8) * 2, origin="lower", cmap="Blues")
        axes.plot(*x.T, ".", ms=2, color=plots.ORANGE)
        _bare(axes, 1.8, f"w = {w:.1f}")
        axes.grid(False)

    explore(
        draw,
        "w",
        stills=(0.0, 1.0, 2.0, 4.0, 8.0),
        start=2.0,
        low=0.0,
        high=8.0,
        step=0.5,
        size=(4.0, 4.2),
        title="Guided samples (orange) on the tempered density (blue)",
    )


def prompt_box(D, prompts: Sequence[str], n: int = 4) -> None:
    """A text box: n images of a caption; words outside the vocabulary are named.

    D: a denoiser whose network takes captions, such as train.load("nouns"); prompts: those of a
    built notebook.
    """
    if not hasattr(getattr(D, "net", None), "tokenizer"):
        raise TypeError("D must be a denoiser of captions, such as train.load('nouns')")
    prompts, n = validate.strings(prompts, "prompts"), validate.whole(n, "n")
    if os.environ.get("COURSE_STATIC") == "1":
        pictures = torch.cat([sampling.text_to_image(D, [prompt] * n) for prompt in prompts])
        return plots.captioned(
            pictures,
            [text for prompt in prompts for text in (prompt, *[""] * (n - 1))],
            columns=2 * n,
            title=f"Each prompt from {n} noises",
        )
    prompt = ipywidgets.Text(
        value=prompts[0],
        description="prompt",
        continuous_update=False,
        layout=ipywidgets.Layout(width="700px"),
    )
    weight = ipywidgets.FloatSlider(
        value=2.0, min=0.0, max=8.0, step=0.5, description="w", continuous_update=False
    )
    seed = ipywidgets.IntSlider(max=99, description="noise", continuous_update=False)

    def draw(prompt: str, w: float, seed: int) -> None:
        try:
            if strange := D.net.tokenizer.unknown(prompt):
                print(f"not in the vocabulary, read as an unknown word: {', '.join(strange)}")
            with warnings.catch_warnings(action="ignore"):
                plots.captioned(
                    sampling.text_to_image(D, [prompt] * n, w, seed=seed),
                    [f"noise {seed}, picture {k + 1}" for k in range(n)],
                    columns=n,
                )
        except ValueError as error:
            print(error)
    controls = {"prompt": prompt, "w": weight, "seed": seed}
    display(*controls.values(), ipywidgets.interactive_output(draw, controls))
