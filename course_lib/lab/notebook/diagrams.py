"""Diagrams of networks and ideas, drawn by code; sizes come from the modules themselves.

Each function draws one figure and displays it. All raise TypeError or ValueError for what they
cannot draw.
"""
import torch
from torch import Tensor, nn

from ... import validate
from ...networks.unet import UNet, UNetStage
from . import plots

GREY = "#555555"


def chain(x: Tensor, labels: list[str] | None = None) -> None:
    """The diffusion process as a chain of states: images x (N, 1 or 3, H, W), the data first.

    Arrows to the right add noise, arrows to the left remove it. labels: under the states; None:
    x_0, ..., x_T. Pixels outside [-1, 1] are shown as the nearest end.
    """
    x = validate.real(x, "x", ndim=4)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or len(x) < 2:
        raise ValueError(f"x must be two images or more, (N, 1 or 3, H, W); got {tuple(x.shape)}")
    labels = _state_names(len(x)) if labels is None else validate.strings(labels, "labels")
    if len(labels) != len(x):
        raise ValueError(f"there are {len(x)} states and {len(labels)} labels")
    figure = plots.new_figure(1.8 * len(x), 1.9)
    axes = figure.subplots(1, len(x))
    for k, (panel, image, label) in enumerate(zip(axes, x, labels)):
        _image(panel, image)
        panel.set_xlabel(label)
        if k:
            _arrow(panel, (-0.31, 0.68), (-0.02, 0.68), "$q$", plots.BLUE)
            _arrow(panel, (-0.02, 0.32), (-0.31, 0.32), r"$p_\theta$", plots.RED)
    plots.display(figure, alt=f"{len(x)} states; arrows q to the right, p to the left")


def _state_names(n: int) -> list[str]:
    inner = ["$x_{t-1}$", "$x_t$"] if n == 4 else ["..."] * (n - 2)
    return ["$x_0$", *inner, "$x_T$"]


def _image(panel, image: Tensor) -> None:
    pixels = ((image.float().cpu().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
    panel.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(False)


def _arrow(panel, start: tuple, end: tuple, text: str, colour: str) -> None:
    """In fractions of a panel, from start to end, with its text above."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
    panel.annotate("", end, start, "axes fraction", "axes fraction", arrowprops=style)
    middle = ((start[0] + end[0]) / 2, start[1] + 0.04)
    panel.annotate(text, middle, xycoords="axes fraction", ha="center", color=colour,
                   annotation_clip=False)


def unet(net: nn.Module, height: int, width: int | None = None) -> None:
    """A UNet with the shape of every stage's output, for images of height x width: the encoder goes
    down on the left, the decoder up on the right, skip connections across.
    """
    validate.instance(net, UNet, "net", "UNet(1)")
    height = validate.whole(height, "height")
    shapes = _shapes(net, height, height if width is None else validate.whole(width, "width"))
    rows = sorted({shape[1] for shape in shapes.values()}, reverse=True)
    level = {side: k for k, side in enumerate(rows)}
    places = _places(net, shapes, level)
    figure = plots.new_figure(10.5, 1.5 + 1.1 * len(rows))
    axes = figure.subplots()
    for name, (x, y) in places.items():
        _box(axes, x, y, f"{name}\n" + " x ".join(map(str, shapes[name])), _colour(name))
    names = list(places)
    for a, b in zip(names, names[1:]):
        _link(axes, places[a], places[b], plots.BLUE)
    for a, b in _skips(net, names):
        _link(axes, places[a], places[b], plots.ORANGE, "--", bend=-0.18)
    axes.set_title("Solid: the features' way; dashed: skip connections (concatenated)")
    _bare(axes, places.values())
    plots.display(figure, alt="A U-Net: " + ", ".join(f"{n} {shapes[n]}" for n in names))


def block(steps: list[str], bypass: tuple[int, int], condition: int | None = None,
          title: str = "") -> None:
    """A block as a row of steps with a residual connection past some of them.

    bypass: the first and the last step that it passes, counted from 0; condition: the step where
    the embedding enters; None: nowhere
    """
    steps = validate.strings(steps, "steps")
    first, final = (validate.whole(k, "bypass", 0, len(steps) - 1) for k in bypass)
    if first > final:
        raise ValueError(f"bypass must be (first, last) with first <= last; got {bypass}")
    if condition is not None:
        validate.whole(condition, "condition", 0, len(steps) - 1)
    figure = plots.new_figure(9.0, 1.9)
    axes = figure.subplots()
    places = [(1.6 * k, 0.0) for k in range(-1, len(steps) + 1)]
    for (x, y), text in zip(places, ["x", *steps, "output"]):
        ends = text in ("x", "output")
        _box(axes, x, y, text, "#FFFFFF" if ends else "#DCEBF5")
    for a, b in zip(places, places[1:]):
        _link(axes, a, b, plots.BLUE)
    start, end = places[first + 1][0] - 0.8, places[final + 1][0] + 0.8
    axes.plot([start, start, end, end], [0, 0.62, 0.62, 0.0], color=plots.ORANGE)
    axes.text((start + end) / 2, 0.66, "residual connection: added", ha="center",
              color=plots.ORANGE)
    if condition is not None:
        x = places[condition + 1][0]
        _link(axes, (x, -0.85), (x, 0.0), plots.GREEN)
        axes.text(x, -0.95, "embedding e", ha="center", va="top", color=plots.GREEN)
    axes.set_title(title)
    _bare(axes, [*places, (0, -1.0), (0, 0.7)])
    plots.display(figure, alt=f"{title}: " + " -> ".join(steps))


def _shapes(net: nn.Module, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The output's shape (C, H, W) of each part, in the order in which they are computed."""
    found: dict[str, tuple[int, ...]] = {}
    parts = {"stem": net.stem}
    for name in ("down", "middle", "up"):
        parts |= {f"{name} {k}": part for k, part in enumerate(getattr(net, name))}
    parts["out"] = net.out
    hooks = [
        part.register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: tuple(output.shape[1:])})
        )
        for name, part in parts.items()
    ]
    try:
        with torch.no_grad():
            net(*_inputs(net, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _inputs(net: nn.Module, height: int, width: int) -> tuple[Tensor, Tensor]:
    p = next(net.parameters())
    if net.extra_channels:
        raise ValueError("a U-Net with extra channels is not drawn: leave extra_channels out")
    return torch.zeros(1, net.channels, height, width).to(p), torch.zeros(1).to(p)


def _places(net: nn.Module, shapes: dict, level: dict[int, int]) -> dict[str, tuple]:
    """(x, y) of each part: x grows from part to part, y falls with the level."""
    return {
        name: (1.5 * k, -1.2 * level[shape[1]]) for k, (name, shape) in enumerate(shapes.items())
    }


def _skips(net: nn.Module, names: list[str]) -> list[tuple[str, str]]:
    """Pairs of stages: from the encoder, to the decoder; the last one out goes in first."""
    stages = lambda part: [
        f"{part} {k}" for k, m in enumerate(getattr(net, part)) if isinstance(m, UNetStage)
    ]
    return list(zip(stages("down")[::-1], stages("up")))


def _colour(name: str) -> str:
    return {"down": "#DCEBF5", "up": "#FBE3D6", "middle": "#E3F1E8"}.get(name.split()[0], "#F2F2F2")


def _box(axes, x: float, y: float, text: str, colour: str) -> None:
    style = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": GREY}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=style, zorder=3)


def _link(axes, start: tuple, end: tuple, colour: str, line: str = "-", bend: float = 0) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "shrinkA": 14, "shrinkB": 14}
    style["connectionstyle"] = f"arc3,rad={bend}"
    axes.annotate("", end, start, arrowprops=style, zorder=2)


def _bare(axes, places) -> None:
    """No axes; room for all boxes."""
    x, y = zip(*places)
    axes.set_xlim(min(x) - 0.9, max(x) + 0.9)
    axes.set_ylim(min(y) - 0.6, max(y) + 0.9)
    axes.axis("off")


def sampler_map(names: dict[tuple[str, int], list[str]]) -> None:
    """Samplers by what they add and by order: (row, order) -> names in that cell.

    Rows stand in the order in which they first occur, columns by rising order.
    """
    if not isinstance(names, dict) or not names:
        raise ValueError("names must be a dict of at least one cell: (row, order): [names]")
    rows = list(dict.fromkeys(row for row, _ in names))
    orders = sorted({validate.whole(order, "the order") for _, order in names})
    figure = plots.new_figure(9.0, 1.0 + 1.3 * len(rows))
    axes = figure.subplots()
    places = [(3.0 * k, 0.9) for k in range(len(orders))] + [(-1.6, -1.4 * len(rows))]
    for k, order in enumerate(orders):
        axes.text(3.0 * k, 0.9, f"order {order}", ha="center", weight="bold")
    for j, row in enumerate(rows):
        axes.text(-1.7, -1.4 * j, row, ha="right", va="center", weight="bold")
        for k, order in enumerate(orders):
            inside = names.get((row, order), [])
            if inside:
                colour = ("#FBE3D6", "#DCEBF5", "#E3F1E8")[j % 3]
                _box(axes, 3.0 * k, -1.4 * j, "\n".join(validate.strings(inside, "names")), colour)
    _bare(axes, [*places, (-2.2, 0.0)])
    plots.display(figure, alt="; ".join(f"{r}, order {o}: {', '.join(n)}"
                                        for (r, o), n in names.items()))


def guidance_vectors(x: Tensor, null: Tensor, conditional: Tensor, scales: list[float]) -> None:
    """Guidance in a plane: the noisy point x, the two predictions, and what the scales make of
    them.

    x, null, conditional: (2,); scales: guidance weights, each a point null + w (conditional - null)
    on one line.
    """
    x, null, conditional = (
        validate.real(point, name, ndim=1)
        for point, name in ((x, "x"), (null, "null"), (conditional, "conditional"))
    )
    if not len(x) == len(null) == len(conditional) == 2:
        raise ValueError("x, null and conditional must have two numbers each")
    scales = [validate.number(w, "a scale") for w in scales]
    line = [null + w * (conditional - null) for w in (0.0, 1.0, *scales)]
    figure = plots.new_figure(6.0, 3.6)
    axes = figure.subplots()
    for end, colour in ((null, GREY), (conditional, plots.BLUE)):
        _pointer(axes, x, end, colour)
    _pointer(axes, null, line[-1], plots.ORANGE)
    names = ["w = 0: without the label", "w = 1: with it", *(f"w = {w:g}" for w in scales)]
    for place, name in zip([x, *line], ["noisy x", *names]):
        offset = (-45, -40) if name == names[0] else (5, 5)
        axes.plot(*place.tolist(), "o", color="black", markersize=4)
        axes.annotate(name, place.tolist(), offset, textcoords="offset points", fontsize=9)
    axes.set(title="Predictions from one noisy point", xlabel="first coordinate",
             ylabel="second coordinate", aspect="equal")
    axes.margins(0.25)
    plots.display(figure, alt="Guidance as vectors: " + ", ".join(names))


def _pointer(axes, start: Tensor, end: Tensor, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 3, "shrinkB": 3}
    axes.annotate("", end.tolist(), start.tolist(), arrowprops=style)


def overlaid(clouds: dict[str, Tensor], title: str, xlabel: str, ylabel: str) -> None:
    """Point clouds (N, 2) over each other in one panel, with a legend."""
    if not isinstance(clouds, dict) or not clouds:
        raise ValueError("clouds must be a dict of at least one cloud: name: points (N, 2)")
    figure = plots.new_figure(5.0, 4.0)
    axes = figure.subplots()
    for name, cloud in clouds.items():
        cloud = validate.real(cloud, f"the cloud {name!r}", ndim=2).float().cpu()
        axes.scatter(*cloud.T.numpy(), s=6, alpha=0.6, linewidths=0, label=name)
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.legend(markerscale=2)
    plots.display(figure, alt=title)
