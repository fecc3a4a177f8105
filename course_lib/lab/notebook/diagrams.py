"""Diagrams of networks and ideas, drawn by code; sizes come from the modules themselves.

Each function draws one figure and displays it. All raise TypeError or ValueError for what they
cannot draw.
"""
import numpy as np
from torch import Tensor

from ... import validate
from . import plots

GREY = "#555555"


def chain(x: Tensor, labels: list[str] | None = None) -> None:
    """The diffusion process as a chain of states: images x (N, C, H, W), the data first.

    Arrows to the right add noise, arrows to the left remove it. labels: under the states; None:
    x_0, ..., x_T.
    """
    x = validate.real(x, "x", ndim=4)
    labels = _state_names(len(x)) if labels is None else validate.strings(labels, "labels")
    if len(labels) != len(x):
        raise ValueError(f"there are {len(x)} states and {len(labels)} labels")
    figure = plots.new_figure(1.8 * len(x), 1.9)
    axes = figure.subplots(1, len(x))
    for k, (panel, image, label) in enumerate(zip(np.atleast_1d(axes), x, labels)):
        _image(panel, image)
        panel.set_xlabel(label)
        if k:
            _arrow(panel, (-0.31, 0.68), (-0.02, 0.68), "$q$", plots.BLUE)
            _arrow(panel, (-0.02, 0.32), (-0.31, 0.32), r"$p_\theta$", plots.RED)
    plots.display(figure, alt=f"{len(x)} states; arrows q to the right, p to the left")


def _state_names(n: int) -> list[str]:
    inner = ["$x_{t-1}$", "$x_t$"] if n == 4 else ["..."] * max(n - 2, 0)
    return ["$x_0$", *inner, "$x_T$"][:n]


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
