"""Figures in one style: white ground, colours for colour-blind readers, no global state.

Each function draws one figure and displays it as a PNG with a palette, or as JPEG where that is
smaller. All raise TypeError or ValueError for what they cannot draw.
"""
import functools
import io
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import torch
from IPython import display as ipython
from matplotlib.figure import Figure
from PIL import Image as Pillow
from torch import Tensor

from ... import validate

# Okabe & Ito
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "legend.frameon": False,
    "figure.dpi": 100,
}


LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def new_figure(width: float = 7.0, height: float = 3.0) -> Figure:
    """An empty figure in the course's style; sizes in inches."""
    size = [validate.number(v, n, 0, above=True) for v, n in ((width, "width"), (height, "height"))]
    with matplotlib.rc_context(STYLE):
        return Figure(figsize=size, layout="constrained")


def display(figure: Figure, kind: str = "png", alt: str | None = None) -> None:
    """Display a finished figure. kind: "png" for lines and points; "jpeg" for images, where the
    smaller of JPEG and a PNG of 128 colours is taken. alt: what the figure shows, for those who
    cannot see it.
    """
    validate.instance(figure, Figure, "figure", "plots.new_figure()")
    validate.choice(kind, "kind", ("png", "jpeg"))
    drawn = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(drawn, format="png", dpi=100)
    picture = Pillow.open(drawn).convert("RGB")
    few = picture.quantize(64 if kind == "png" else 128, dither=Pillow.Dither.NONE)
    data = _encoded(few, format="PNG", optimize=True)       # half a PNG's bytes
    if kind == "jpeg":
        photograph = _encoded(picture, format="JPEG", quality=80)
        if len(photograph) < len(data):
            return ipython.display(ipython.Image(data=photograph, format="jpeg", alt=alt))
    ipython.display(ipython.Image(data=data, format="png", alt=alt))


def _encoded(picture: Pillow.Image, **how) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **how)
    return buffer.getvalue()


def styled(draw: Callable) -> Callable:
    """A decorator: draws in the course's style (axes take their style when they are made)."""
    @functools.wraps(validate.function(draw, "draw", "that draws, such as draw(figure, value)"))
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)
    return wrapper


def to_numpy(values: Tensor | Sequence[float], what: str = "values") -> np.ndarray:
    """Numbers that matplotlib can draw: a float32 array."""
    return validate.tensor(values, what).detach().float().cpu().numpy()


def _named(values: dict, what: str, form: str, some_of: dict | None = None) -> dict:
    """values is a dict, not empty, or with some of another one's names."""
    if not isinstance(values, Mapping) or not (set(values) <= set(some_of) if some_of else values):
        names = f"some of {list(some_of)}" if some_of else "at least one"
        got = list(values) if isinstance(values, Mapping) else type(values).__name__
        raise TypeError(f"{what} must be a dict, name: {form}, {names}; got {got}")
    return values


def _one_each(values: Sequence[str], what: str, n: int) -> list[str]:
    """n strings."""
    values = validate.strings(values, what)
    if len(values) != n:
        raise ValueError(f"{what} must be {n} strings, one each; got {len(values)}")
    return values


def _shaped(values: Tensor, what: str, *shape: int) -> np.ndarray:
    """Numbers of this shape; 0 stands for any length."""
    found = to_numpy(values, what)
    if found.ndim != len(shape) or any(k and k != n for k, n in zip(shape, found.shape)):
        wanted = str(tuple(k or "N" for k in shape)).replace("'", "")
        raise ValueError(f"{what} must have the shape {wanted}; got {found.shape}")
    return found


def _points(values: Tensor, what: str) -> np.ndarray:
    """Points (N, 2), finite, as two rows."""
    points = _shaped(values, what, 0, 2)
    validate.finite(torch.from_numpy(points), what)
    return points.T


def pixels(x: Tensor, columns: int | None = None, scale: int = 1) -> np.ndarray:
    """A grid of images as bytes: x (N, C, H, W) in [-1, 1] -> (height, width, 3) uint8, clipped.
    """
    from torchvision.utils import make_grid
    x, scale = validate.tensor(x, "images"), validate.whole(scale, "scale")
    if not x.is_floating_point() or x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0:
        raise ValueError(
            f"images must be floating point (N, 1 or 3, H, W) in [-1, 1]; got {x.dtype} "
            f"{tuple(x.shape)}"
        )
    x = x.detach().float().cpu()
    validate.finite(x, "images")
    if x.min() >= 0 and x.max() > 10:
        raise ValueError(f"images must lie in [-1, 1]; got up to {x.max():.4g}: {validate.SCALE}")
    grid = make_grid(
        x,
        nrow=validate.whole(len(x) if columns is None else columns, "columns"),
        padding=1,
        normalize=True,
        value_range=(-1, 1),
        pad_value=0.35,
    )
    tiled = (grid * 255).round().byte().permute(1, 2, 0).numpy()  # (height, width, 3)
    return tiled.repeat(scale, axis=0).repeat(scale, axis=1)


@styled
def show(
    x: Tensor | dict[str, Tensor],
    columns: int | None = None,
    title: str | None = None,
    width: float = 7.0,
) -> None:
    """A grid of images, x (N, C, H, W) in [-1, 1], or a dict of such rows, each named on the left.
    """
    rows = _named(x, "x", "images (N, C, H, W)") if isinstance(x, dict) else {"": x}
    tiles = [pixels(row, columns) for row in rows.values()]
    height = sum(width * t.shape[0] / t.shape[1] + 0.05 for t in tiles)
    height += 0.3 if title else 0.0
    figure = new_figure(width, height)
    for axes, name, tile in zip(np.atleast_1d(figure.subplots(len(tiles), 1)), rows, tiles):
        axes.imshow(tile, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize=11)
    display(figure, "jpeg", title)


def captioned(
    x: Tensor,
    captions: Sequence[str],
    columns: int = 4,
    title: str | None = None,
    width: float = 8.0,
) -> None:
    """Images x (N, C, H, W) in [-1, 1], each with its caption below."""
    display(gallery(x, captions, columns, title, width), "jpeg", title)


@styled
def gallery(
    x: Tensor,
    captions: Sequence[str],
    columns: int = 4,
    title: str | None = None,
    width: float = 8.0,
) -> Figure:
    """The figure that `captioned` shows."""
    x = validate.tensor(x, "images")
    captions = _one_each(captions, "captions", len(x))
    columns = min(validate.whole(columns, "columns"), len(x))
    validate.number(width, "width", 0, above=True)
    rows, letters = -(-len(x) // columns), int(105 / columns)
    lines = ["\n".join(textwrap.wrap(caption, letters)) for caption in captions]
    tallest = max(text.count("\n") + 1 for text in lines)
    height = rows * (0.8 * width / columns + 0.155 * tallest) + (0.3 if title else 0.0)
    figure = new_figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, picture, text in itertools.zip_longest(grid, x, lines):
        axes.set_axis_off()
        if picture is not None:
            axes.imshow(pixels(picture[None], scale=4), interpolation="nearest")
            axes.set_title(text, fontsize=8, y=-0.09, va="top")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


@styled
def histogram(
    values: Tensor | Sequence[Tensor],
    labels: Sequence[str] | None = None,
    title: str = "",
    xlabel: str = "value",
    density: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Histograms of one or several sets of numbers, as densities; density: an exact one to compare
    with.
    """
    several = isinstance(values, (list, tuple)) and values and to_numpy(values[0]).ndim
    values = [to_numpy(v) for v in (values if several else [values])]
    if any(not v.size or not np.isfinite(v).all() for v in values):
        raise ValueError("values must be sets of finite numbers, none empty, without nan or inf")
    labels = _one_each(labels, "labels", len(values)) if labels is not None else None
    figure = new_figure(6, 3)
    axes = figure.subplots()
    low, high = min(v.min().item() for v in values), max(v.max().item() for v in values)
    for i, v in enumerate(values):
        axes.hist(
            v.flatten(),
            bins=np.linspace(low, high, 61),
            density=True,
            alpha=0.5,
            color=COLOURS[i % 6],
            label=labels[i] if labels else None,
        )
    if density is not None:
        x = torch.linspace(low, high, 300)
        y = validate.function(density, "density", "x -> density, both (N,)")(x)
        y = _shaped(y, "density(x)", 300)
        if not (y >= 0).all():
            raise ValueError(f"density must be at least 0, not its logarithm; got {np.min(y):g}")
        axes.plot(x, y, color="black", lw=1.2, label="exact")
    axes.set(title=title, xlabel=xlabel, ylabel="density")
    if labels or density is not None:
        axes.legend()
    display(figure, alt=title)


@styled
def curves(
    x: Tensor,
    ys: dict[str, Tensor],
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    errors: dict[str, Tensor] | None = None,
    **axis,
) -> None:
    """Several curves over one x, with error bars where there are `errors`.

    Further keywords go to the axes, such as yscale="log".
    """
    figure = new_figure(6, 3)
    axes = figure.subplots()
    _draw_curves(axes, x, ys, errors, title=title, xlabel=xlabel, ylabel=ylabel, **axis)
    axes.legend()
    display(figure, alt=title)


@styled
def panels(
    x: Tensor,
    ys: dict[str, dict[str, Tensor]],
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    errors: dict[str, dict[str, Tensor]] | None = None,
    **axis,
) -> None:
    """Like `curves`, in panels side by side: name of the panel -> its curves (and its errors)."""
    _named(ys, "ys", "a dict of curves")
    errors = _named({} if errors is None else errors, "errors", "a dict of errors", ys)
    figure = new_figure(2.6 * len(ys), 2.8)
    row = np.atleast_1d(figure.subplots(1, len(ys)))
    for axes, (name, group) in zip(row, ys.items()):
        _draw_curves(axes, x, group, errors.get(name), title=name, xlabel=xlabel, **axis)
    row[0].set_ylabel(ylabel)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(group))
    if title:
        figure.suptitle(title, fontsize=11)
    display(figure, alt=title)


def _draw_curves(axes, x: Tensor, ys: dict, errors: dict | None, **axis) -> None:
    x, ys = to_numpy(x, "x"), _named(ys, "the curves", "numbers (N,)")
    errors = _named({} if errors is None else errors, "errors", "numbers (N,)", ys)
    for (name, y), style in zip(ys.items(), itertools.cycle(LINES)):
        y = _shaped(y, f"the curve {name!r}", *x.shape)
        line = axes.plot(x, y, label=name, linestyle=style)[0]
        if name in errors:
            look = {"fmt": "none", "ecolor": line.get_color(), "elinewidth": 1, "capsize": 2}
            bars = _shaped(errors[name], f"errors of {name!r}", *x.shape)
            if (bars < 0).any():
                raise ValueError(f"errors of {name!r} must be at least 0; got {bars.min():g}")
            axes.errorbar(x, y, bars, **look)
    axes.set(**axis)


@styled
def scatter(
    clouds: dict[str, Tensor],
    title: str = "",
    limit: float = 2.5,
    columns: int | None = None,
    by: Tensor | None = None,
) -> None:
    """Point clouds (N, 2), one panel each, all on the same axes from -limit to limit.

    by: integers (N,) that choose each point's colour.
    """
    _named(clouds, "clouds", "points (N, 2)")
    columns = validate.whole(len(clouds) if columns is None else columns, "columns")
    rows = -(-len(clouds) // columns)
    figure = new_figure(2.2 * columns, 2.2 * rows + 0.4)
    panels = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for axes, (name, cloud) in zip(panels, clouds.items()):
        points, colours = _points(cloud, f"the cloud {name!r}"), BLUE
        if by is not None:
            kinds = validate.labels(by, points.shape[1], len(COLOURS), "by")
            colours = [COLOURS[k] for k in kinds.flatten().tolist()]
        axes.scatter(*points, s=1.5, alpha=0.4, color=colours, linewidths=0, zorder=3)
        _square(axes, limit, name)
    _name_coordinates(figure, title)
    display(figure, alt=title)


@styled
def densities(
    panels: dict[str, Callable[[Tensor], Tensor]],
    points: Tensor | None = None,
    title: str = "",
    limit: float = 2.5,
) -> None:
    """Densities over the plane, one panel each: name -> function of points (N, 2), their log
    density (N,).

    Each panel has its own scale, from 0 (white) to its maximum. points: (N, 2), drawn on the first
    panel.
    """
    _named(panels, "panels", "function of points")
    side = torch.linspace(-validate.number(limit, "limit", 0, above=True), limit, 121)
    grid = torch.meshgrid(side, side, indexing="xy")
    places = torch.stack(grid, dim=-1).reshape(-1, 2)                   # (121 * 121, 2)
    figure = new_figure(2.2 * len(panels), 2.6)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    extent = (-limit, limit) * 2
    for axes, (name, log_prob) in zip(row, panels.items()):
        what = f"the log density {name!r}"
        log_prob = validate.function(log_prob, what, "points (N, 2) -> (N,)")
        density = validate.tensor(log_prob(places), what).exp()
        validate.finite(density, what)
        picture = _shaped(density, what, len(places)).reshape(121, 121)
        axes.imshow(picture, extent=extent, origin="lower", cmap="Blues")
        axes.set(title=name)
        axes.grid(False)
    if points is not None:
        row[0].scatter(*_points(points, "points"), s=1, color=RED, linewidths=0)
    _name_coordinates(figure, title)
    display(figure, "jpeg", title)


@styled
def heatmaps(
    panels: dict[str, Tensor],
    title: str = "",
    low: float | None = None,
    high: float | None = None,
    label: str = "",
    extent: tuple[float, float, float, float] | None = None,
    xlabel: str = "",
    ylabel: str = "",
) -> None:
    """Tables of numbers (H, W) as brightness, side by side on one scale from low to high, named
    `label`.
    """
    _named(panels, "panels", "numbers (H, W)")
    values = [_shaped(v, f"panel {name!r}", 0, 0) for name, v in panels.items()]
    low = min(v.min().item() for v in values) if low is None else low
    high = max(v.max().item() for v in values) if high is None else high
    validate.number(high, "high", low)
    if not all(v.size for v in values):
        raise ValueError("panels must not be empty")
    if extent is not None and len(extent) != 4:
        raise ValueError(f"extent must be four numbers, left, right, bottom, top; got {extent}")
    figure = new_figure(2.3 * len(panels) + 0.8, 2.6)
    row = np.atleast_1d(figure.subplots(1, len(panels)))
    for k, (axes, name, v) in enumerate(zip(row, panels, values)):
        picture = axes.imshow(
            v, vmin=low, vmax=high, cmap="cividis", extent=extent, interpolation="nearest"
        )
        axes.set(
            title=name,
            xlabel=xlabel,
            ylabel=ylabel if k == 0 else "",
            **({} if extent else {"xticks": [], "yticks": []}),
        )
        axes.grid(False)
    figure.colorbar(picture, ax=row, label=label, shrink=0.8)
    if title:
        figure.suptitle(title, fontsize=11)
    display(figure, "jpeg", title)


@styled
def arrows(
    panels: dict[str, tuple[Tensor, Tensor]],
    background: Tensor | None = None,
    title: str = "",
    limit: float = 2.5,
) -> None:
    """Arrows from points to points, one panel each.

    panels: title -> (start, end), both points (N, 2), not directions; background: (M, 2) points in
    grey; limit: half the width of a panel.
    """
    _named(panels, "panels", "(start, end)")
    figure = new_figure(3.0 * len(panels), 3.3)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "color": BLUE}
    for axes, (name, pair) in zip(row, panels.items()):
        if background is not None:
            axes.scatter(*_points(background, "background"), s=1.5, color="#BBBBBB", linewidths=0)
        ends = [_points(p, f"start and end of {name!r}") for p in pair]
        if len(ends) != 2 or ends[0].shape != ends[1].shape:
            raise ValueError(f"{name!r} must be (start, end), as many points in both")
        axes.quiver(*ends[0], *(ends[1] - ends[0]), **look)
        _square(axes, limit, name)
    _name_coordinates(figure, title)
    display(figure, alt=title)


def _square(axes, limit: float, title: str) -> None:
    """Square axes from -limit to limit."""
    limits = (-validate.number(limit, "limit", 0, above=True), limit)
    axes.set(title=title, xlim=limits, ylim=limits, aspect="equal")


def _name_coordinates(figure: Figure, title: str) -> None:
    figure.supxlabel("first coordinate", fontsize=9)
    figure.supylabel("second coordinate", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)


def animate_points(
    states: Sequence[Tensor],
    names: Sequence[str],
    seconds: float = 4.0,
    limit: float = 2.5,
    alt: str = "animation",
) -> None:
    """An animation of point clouds, each state (N, 2), with its name above."""
    names = _one_each(names, "names", len(states))
    figure = new_figure(3.4, 3.6)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        _square(axes, limit, "")
        axes.set(xlabel="first coordinate", ylabel="second coordinate")
        axes.grid(False)
        cloud = axes.scatter([], [], s=3, color=BLUE, linewidths=0)
        films = []
        for points, name in zip(states, names):
            cloud.set_offsets(_points(points, f"the state {name!r}").T)
            axes.set_title(name)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=64)
            films.append(Pillow.open(buffer).convert("RGB").quantize(8))
    _film(films, seconds, alt)


def animate(
    frames: Sequence[Tensor],
    columns: int = 10,
    seconds: float = 3.0,
    scale: int = 2,
    alt: str = "animation",
) -> None:
    """An animation of image grids, each frame (N, C, H, W) in [-1, 1]."""
    if len({tuple(getattr(frame, "shape", ())) for frame in frames}) != 1:
        raise ValueError("frames must be at least one, all of one size (N, C, H, W)")
    films = [
        Pillow.fromarray(pixels(frame, columns, scale)).quantize(6 if frame.shape[1] == 1 else 64)
        for frame in frames
    ]
    _film(films, seconds, alt)


def _film(films: Sequence[Pillow.Image], seconds: float, alt: str) -> None:
    """Display images one after the other, the last for 2.5 seconds, in a loop."""
    if len({film.size for film in films}) != 1:
        raise ValueError("frames must be at least one, all of one size")
    validate.number(seconds, "seconds", 0, above=True)
    pause = [int(1000 * seconds / len(films))] * (len(films) - 1) + [2500]
    buffer = io.BytesIO()
    films[0].save(
        buffer, format="PNG", save_all=True, append_images=films[1:], duration=pause, loop=0
    )
    ipython.display(ipython.Image(data=buffer.getvalue(), format="png", alt=alt))
