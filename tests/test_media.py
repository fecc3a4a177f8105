"""Players, turning shapes and paths: what is displayed, byte by byte where it can be read back."""
import base64
import io
import re
import wave

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from course_lib.lab.notebook import media


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    found = []
    monkeypatch.setattr(media.ipython, "display", lambda data, **how: found.append(data))
    return found


def test_a_player_holds_the_samples(shown):
    x = torch.linspace(-1.5, 1, 400).view(2, 1, 200)
    media.players({"a < b": x, "other": x[:1]}, rate=8000)
    page = shown[0]["text/html"]
    files = re.findall(r"base64,([^\"]+)", page)
    assert len(files) == 3 and "a &lt; b" in page and page.count("<tr>") == 2
    with wave.open(io.BytesIO(base64.b64decode(files[0]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 200)
        samples = np.frombuffer(file.readframes(200), "<i2") / 32767
    np.testing.assert_allclose(samples, x[0, 0].clamp(-1, 1), atol=2e-5)
    assert shown[0]["text/plain"].splitlines()[0] == "a < b: 2 sounds of 0.025 s"
    media.players({"a < b": x, "other": x[:1]}, columns=["kick", "<tom>"])
    page = shown[1]["text/html"]
    assert "<tr><th></th><th>kick</th><th>&lt;tom&gt;</th></tr>" in page and page.count("<tr>") == 3


def test_a_turn_is_whole_and_never_stops(shown):
    media.turntable(torch.rand(3, 50, 3) * 2 - 1, columns=3, size=32)
    film = Pillow.open(io.BytesIO(shown[0].data))
    assert film.n_frames == media.TURN and film.size[0] > 3 * 32
    durations = set()
    for k in range(film.n_frames):
        film.seek(k)
        durations.add(film.info["duration"])
    assert len(durations) == 1 and film.info.get("loop", 0) == 0


def test_where_a_point_is_seen():
    point = lambda *p: media.rendered(torch.tensor([p], dtype=torch.float32), size=64)[0]
    rows, columns = (point(0.9, 0.9, 0.0) > -1).nonzero().T
    assert rows.max() < 20 and columns.min() > 44           # to the right, up
    assert (point(0, 0, 0) > -1).sum() == 4
    assert point(0, 0, 1).max() > point(0, 0, -1).max()     # near is bright
    both = media.rendered(torch.tensor([[0.0, 0, -1], [0, 0, 1]]), size=64)
    assert torch.equal(both[0], point(0, 0, 1))             # and hides what is behind
    turned = media.rendered(torch.tensor([[0.0, 0, 1]]), angle=torch.pi / 2, size=64)[0]
    assert (turned > -1).nonzero()[:, 1].min() > 44         # the front goes to the right
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    for angle in (0.0, 0.4, torch.pi / 4):
        inside = media.rendered(corners, angle, 64)[0] > -1
        assert inside.sum() >= 16 or angle == 0.0


def test_voxels_are_seen_as_their_shadow_is():
    density = torch.zeros(9, 9, 9)
    density[1, 2, 7] = 1                                    # near, high, to the right
    x, y, z = media.voxel_points(density)[0].tolist()
    assert x > 0.5 and y > 0.2 and z > 0.5


def test_paths_are_drawn(shown, monkeypatch):
    figures = []
    monkeypatch.setattr(media, "display", lambda figure, **how: figures.append(figure))
    x = torch.rand(4, 10, 2)
    media.paths({"one": x, "two": x}, 0.4, {"one": torch.arange(4), "two": torch.zeros(4).long()})
    axes = figures[0].axes
    assert [len(a.lines) for a in axes] == [4, 4] and axes[0].get_title() == "one"
    assert len({line.get_color() for line in axes[0].lines}) == 4
    assert len({line.get_color() for line in axes[1].lines}) == 1


@pytest.mark.parametrize("call, says", [
    (lambda: media.players({}), "at least one row"),
    (lambda: media.players({"a": torch.zeros(2, 1, 200)}, columns=["a"]), "2 headings; got 1"),
    (lambda: media.players({"a": torch.zeros(2, 1, 200)}, columns="kick"), "a list of strings"),
    (lambda: media.players({"a": torch.zeros(2, 200)}), r"a must be sounds \(n, 1, T\)"),
    (lambda: media.players(torch.zeros(2, 1, 200)), "sounds must be"),
    (lambda: media.turntable([]), "at least one cloud"),
    (lambda: media.turntable(torch.zeros(2, 5, 2)), r"a cloud is \(P, 3\)"),
    (lambda: media.rendered(torch.zeros(5, 3), size=0), "size must be"),
    (lambda: media.voxel_points(torch.zeros(2, 2, 2)), "a voxel above"),
    (lambda: media.turntable(torch.zeros(5, 3)), r"be clouds \(n, P, 3\); got \(5, 3\)"),
    (lambda: media.rendered(torch.zeros(5, 3), float("nan")), "angle must be"),
    (lambda: media.paths({}, 0.4), "at least one"),
    (lambda: media.paths({"a": torch.zeros(2, 5, 3)}, 0.4), r"a must be paths \(n, T, 2\)"),
    (lambda: media.paths({"a": torch.zeros(2, 5, 2)}, -0.4), "radius must be"),
    (lambda: media.paths({"a": torch.zeros(2, 5, 2)}, 0.4, {"b": 0}), "names of the panels, a"),
    (lambda: media.paths({"a": torch.zeros(2, 5, 2)}, 0.4, {"a": ["red"]}), "colours must be"),
    (lambda: media.paths({"a": torch.zeros(2, 5, 2)}, 0.4, torch.zeros(2)), "must be a dict"),
])
def test_bad_input_gets_one_sentence(call, says):
    with pytest.raises((TypeError, ValueError), match=says) as error:
        call()
    assert "\n" not in str(error.value)
