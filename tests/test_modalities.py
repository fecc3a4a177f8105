"""Clips, sounds, shapes and actions: each is trained by a configuration, saved, loaded, drawn."""
import pytest
import torch
from PIL import Image

from course_lib.lab import storage, train
from course_lib.lab.training.__main__ import main

CONFIG = """
data = "{data}"
examples = 12
[network]
{network}
[train]
steps = 2
batch_size = 4
"""
NETWORKS = {
    "moving_digits": """type = "VideoUNet"\nchannels = 1\nwidths = [8]\npatch_size = 4
num_classes = 10""",
    "drums": 'type = "SignalUNet"\nwidths = [8, 8]\nnum_classes = 4',
    "clouds": 'type = "PointTransformer"\ndim = 8\ndepth = 1\nnum_heads = 2\nnum_classes = 3',
    "obstacle": 'type = "ActionNet"\nobservation_size = 4\nchunk = 8',
}
SHAPES = {
    "moving_digits": (8, 1, 32, 32),
    "drums": (1, 8192),
    "clouds": (512, 3),
    "obstacle": (8, 2),
}


@pytest.mark.parametrize("data", NETWORKS)
def test_from_a_configuration_to_samples(tmp_path, monkeypatch, data):
    monkeypatch.setenv("COURSE_RUNS", str(tmp_path))
    (tmp_path / "small.toml").write_text(CONFIG.format(data=data, network=NETWORKS[data]))
    main([str(tmp_path / "small.toml")])
    D = train.load(tmp_path / "small/small.safetensors", device="cpu")
    assert D.data_shape == SHAPES[data] and D.about["data"] == data and D.about["steps"] == 2
    condition = {"observation": torch.zeros(2, 4)} if data == "obstacle" else {"y": 1}
    assert D(torch.randn(2, *SHAPES[data]), 0.5, **condition).shape == (2, *SHAPES[data])
    if data == "moving_digits":                             # a row for each clip of 8 frames
        picture = Image.open(tmp_path / "small/small.png")
        assert picture.size == (8 * 34 + 2, 16 * 34 + 2)
        return
    tensors, _ = storage.load_tensors(tmp_path / "small/small_samples.safetensors")
    assert tensors.pop("x").shape == (16, *SHAPES[data])
    assert {len(value) for value in tensors.values()} == {16}


def test_frames_get_times_of_their_own():
    """A network whose time has two axes: each frame's time is uniform, in any order."""
    net = torch.nn.Identity()
    net.time_axes = 2
    from course_lib import Denoiser, Schedule
    D = Denoiser(net, Schedule.cosine())
    g = torch.Generator().manual_seed(0)
    t, eps = D.draw_noise(torch.zeros(50, 8, 1, 2, 2), g)
    assert t.shape == (50, 8) and eps.shape == (50, 8, 1, 2, 2)
    slices = (t.flatten() * 400).ceil().sort().values
    assert torch.equal(slices, torch.arange(1.0, 401.0))                # one in each of 400 slices
    assert t.std(1).mean() > 0.2 and abs(torch.corrcoef(t[:, :2].T)[0, 1]) < 0.4
    with pytest.raises(ValueError, match=r"time_sampler must return \(50, 8\) times"):
        D.draw_noise(torch.zeros(50, 8, 1), g, lambda u: u[:, 0])
