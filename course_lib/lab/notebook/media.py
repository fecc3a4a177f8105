"""Sounds to listen to, shapes that turn, paths in the plane: what lesson 6 shows beside images."""
import base64
import html
import io
import math
import wave
from collections.abc import Sequence

import numpy as np
import torch
from IPython import display as ipython
from PIL import Image as Pillow
from torch import Tensor

from ... import validate
from .plots import BLUE, COLOURS, display, new_figure, pixels, to_numpy

TURN = 24                                                   # frames of a turn


def players(
    sounds: dict[str, Tensor], rate: int = 16_000, columns: Sequence[str] | None = None
) -> None:
    """A row of audio players for each name: sounds (n, 1, T) in [-1, 1], samples beyond are cut.

    columns: headings, such as the classes, one for each sound of a row
    Raises TypeError or ValueError for no sounds, another shape, a rate that is no whole number, and
    headings that are not as many as the sounds of the longest row.
    """
    validate.instance(sounds, dict, "sounds", '{"real": x}')
    validate.whole(rate, "rate")
    if not sounds:
        raise ValueError("sounds must name at least one row")
    rows = {name: _waveforms(x, name) for name, x in sounds.items()}
    headings = [] if columns is None else ["", *validate.strings(columns, "columns")]
    longest = max(map(len, rows.values()))
    if headings and len(headings) != longest + 1:
        raise ValueError(f"columns must be {longest} headings; got {len(headings) - 1}")
    top = "".join(f"<th>{html.escape(name)}</th>" for name in headings)
    cells = (f"<tr>{top}</tr>" if top else "") + "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        + "".join(f"<td>{_player(x, rate)}</td>" for x in row)
        + "</tr>"
        for name, row in rows.items()
    )
    said = "\n".join(
        f"{name}: {len(row)} sounds of {len(row[0]) / rate:.3f} s" for name, row in rows.items()
    )
    ipython.display({"text/html": f"<table>{cells}</table>", "text/plain": said}, raw=True)


def _waveforms(x: Tensor, name: str) -> np.ndarray:
    x = validate.real(x, name)
    if x.ndim != 3 or x.shape[1] != 1:
        raise ValueError(f"{name} must be sounds (n, 1, T); got {tuple(x.shape)}")
    return (x[:, 0].detach().cpu().clamp(-1, 1) * 32767).round().numpy().astype("<i2")


def _player(samples: np.ndarray, rate: int) -> str:
    """An <audio> element that holds its own file, 16 bits a sample."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<audio controls preload="auto" style="width:8em" src="data:audio/wav;base64,{data}">'
        "</audio>"
    )


def turntable(
    shapes: Tensor | list[Tensor], columns: int = 4, size: int = 96, seconds: float = 4.0,
    alt: str = "shapes that turn",
) -> None:
    """Point clouds that turn about the vertical, in a loop: (n, P, 3), or a list of (P, 3).

    x to the right, y up, z to the viewer, all in [-1, 1]; what is near is bright.
    Raises TypeError or ValueError for another shape, and sizes that are no whole numbers.
    """
    if not isinstance(shapes, (list, tuple)):
        shapes = validate.real(shapes, "shapes")
        if shapes.ndim != 3:
            raise ValueError(f"shapes must be clouds (n, P, 3); got {tuple(shapes.shape)}")
    clouds = [_cloud(x) for x in shapes]
    if not clouds:
        raise ValueError("shapes must hold at least one cloud")
    films = []
    for k in range(TURN):
        frame = torch.stack([rendered(x, 2 * math.pi * k / TURN, size) for x in clouds])
        films.append(Pillow.fromarray(pixels(frame, columns)).quantize(32))
    buffer = io.BytesIO()
    pause = int(1000 * validate.number(seconds, "seconds", 0, above=True) / TURN)
    films[0].save(
        buffer, format="PNG", save_all=True, append_images=films[1:], duration=pause, loop=0
    )
    ipython.display(ipython.Image(data=buffer.getvalue(), format="png", alt=alt))


def rendered(x: Tensor, angle: float = 0.0, size: int = 96) -> Tensor:
    """A cloud (P, 3), seen from the front after a turn by `angle`: (1, size, size) in [-1, 1].

    A point is 2 x 2 pixels, hides those behind it, and is the brighter the nearer it is.
    Raises TypeError or ValueError for another shape, an angle that is no number, and a size that is
    no whole number.
    """
    x, size = _cloud(x), validate.whole(size, "size", 4)
    angle = validate.number(angle, "angle")
    cos, sin = math.cos(angle), math.sin(angle)
    side, up, front = x.T
    across, depth = cos * side + sin * front, cos * front - sin * side
    half = size / 2 / math.sqrt(2)                          # a corner of the box stays inside
    column = (size / 2 + half * across).floor().long().clamp(0, size - 2)
    row = (size / 2 - half * up).floor().long().clamp(0, size - 2)
    light = 0.35 + 0.65 * ((depth / math.sqrt(2) + 1) / 2).clamp(0, 1)
    image = torch.zeros(size * size)
    for down in (0, 1):
        for right in (0, 1):
            place = (row + down) * size + column + right
            image.scatter_reduce_(0, place, light, "amax")
    return 2 * image.view(1, size, size) - 1


def voxel_points(density: Tensor) -> Tensor:
    """The occupied voxels of a density (Z, Y, X), above 1/2, as points (P, 3) for `turntable`.

    The light of `distillation.shadow` comes from the front: z = 0 is nearest, y points down there.
    Raises TypeError or ValueError for another shape, and where no voxel is occupied.
    """
    density = validate.real(density, "density", ndim=3)
    places = (density > 0.5).nonzero().float()                          # (P, 3): z, y, x
    if density.ndim != 3 or len(places) == 0:
        raise ValueError("density must be (Z, Y, X) with a voxel above 1/2")
    middle = (torch.tensor(density.shape, dtype=torch.float32) - 1) / 2
    z, y, x = ((places - middle) / middle.max()).T
    return torch.stack([x, -y, -z], dim=1)


def _cloud(x: Tensor) -> Tensor:
    x = validate.real(x, "a cloud")
    if x.ndim != 2 or x.shape[1] != 3:
        raise ValueError(f"a cloud is (P, 3); got {tuple(x.shape)}")
    return x.detach().cpu().float()


def paths(
    panels: dict[str, Tensor], radius: float, colours: dict[str, Tensor] | None = None,
    title: str = "",
) -> None:
    """Paths (n, T, 2) in the plane, a panel each, round a disc at (0, 0).

    colours: for each panel whole numbers (n,), the colour of each path; None: all blue
    Raises TypeError or ValueError for other shapes, no panels, and a radius below 0.
    """
    validate.instance(panels, dict, "panels", '{"expert": paths}')
    validate.number(radius, "radius", 0)
    if not panels:
        raise ValueError("panels must name at least one")
    panels = {name: _walks(x, name) for name, x in panels.items()}
    colours = {} if colours is None else _colours(colours, panels)
    figure = new_figure(2.6 * len(panels), 2.4)
    row = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (name, x) in zip(row, panels.items()):
        lines = colours.get(name, [BLUE] * len(x))
        for path, line in zip(x, lines):
            axes.plot(path[:, 0], path[:, 1], color=line, linewidth=0.7, alpha=0.6)
        axes.add_patch(_disc(radius))
        axes.set(title=name, aspect="equal", xlabel="x", ylabel="y" if axes is row[0] else "")
    if title:
        figure.suptitle(title, fontsize=11)
    display(figure, alt=title or "paths in the plane")


def _walks(x: Tensor, name: str) -> np.ndarray:
    x = validate.real(x, name)
    if x.ndim != 3 or x.shape[2] != 2:
        raise ValueError(f"{name} must be paths (n, T, 2); got {tuple(x.shape)}")
    return to_numpy(x)


def _colours(numbers: dict[str, Tensor], panels: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """The colour of each path, panel by panel."""
    validate.instance(numbers, dict, "colours", '{"expert": episodes.side}')
    if numbers.keys() != panels.keys():
        raise ValueError(f"colours need the names of the panels, {', '.join(panels)}")
    found = {}
    for name, paths in panels.items():
        each = validate.labels(numbers[name], len(paths), None, "colours").expand(len(paths))
        found[name] = [COLOURS[k % len(COLOURS)] for k in each.tolist()]
    return found


def _disc(radius: float):
    from matplotlib.patches import Circle
    return Circle((0, 0), radius, color="#999999", zorder=3)
