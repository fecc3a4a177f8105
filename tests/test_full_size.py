"""The tool that loads a full-size Stable Diffusion: its folder in small, and all of it (slow)."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_lib.lab.training.published import load_published
from course_lib.networks.stable_diffusion import layout
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet
from course_lib.networks.vae import AutoencoderKL

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import full_size_sd as tool  # noqa: E402

UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
VAE = tool.VAE | {
    "block_out_channels": (16, 16, 32, 32), "layers_per_block": 1, "norm_num_groups": 8
}
TEXT = tool.TEXT | {
    "vocab_size": 600,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture
def folder(tmp_path):
    tool.write_folder(tmp_path, UNET, VAE, TEXT)
    return tmp_path


def compared(folder, capsys):
    """The two differences from diffusers that the tool prints."""
    found = tool.tried(folder, (16,))
    capsys.readouterr()
    tool.compare(folder, *found)
    return [float(off) for off in re.findall(r"by (\S+)", capsys.readouterr().out)]


def test_the_folder_is_loaded_as_diffusers_loads_it(folder, capsys):
    off = compared(folder, capsys)
    assert len(off) == 2 and max(off) < 1e-3


def test_a_unet_without_mid_block(folder, capsys):
    tool.write_unet(folder, UNET | {"mid_block_type": None})
    D, _ = load_published(folder, "cpu")
    assert D.net.unet.middle is None
    off = compared(folder, capsys)
    assert len(off) == 2 and max(off) < 1e-3


def test_old_and_new_names_are_the_same_numbers(folder):
    new = tool.tried(folder, (16,))
    tool.write_vae(folder, VAE, old_names=True)
    names = (folder / "vae/diffusion_pytorch_model.safetensors").read_bytes()
    assert b".query.weight" in names and b".to_q." not in names and b".proj_attn." in names
    assert all(map(torch.equal, new, tool.tried(folder, (16,))))


def test_what_is_written_is_in_half_precision_and_nothing_is_one_or_zero(folder):
    from safetensors.torch import load_file
    for part in ("unet", "vae", "text_encoder"):
        for name, value in load_file(tool.weights_file(folder, part)).items():
            if name.endswith("position_ids"):
                assert torch.equal(value, torch.arange(77)[None])
                continue
            assert value.dtype == torch.float16 and value.float().std() > 0.01, name
            assert ("norm" in name and name.endswith("weight")) == (value.float().mean() > 0.6)
    D, _ = load_published(folder, "cpu")
    assert D.net.tokenizer.pad == "<|endoftext|>" and len(D.net.tokenizer.vocabulary) == 600
    assert next(D.parameters()).dtype == torch.float32


def test_the_text_encoder_has_the_names_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))
    short = lambda name: name.removeprefix("text_model.")
    wanted = {short(name): tuple(value.shape) for name, value in theirs.state_dict().items()}
    found = {short(name): shape for name, shape in tool.text_shapes(TEXT).items()}
    assert found.pop("embeddings.position_ids") == (1, 77)
    wanted.pop("embeddings.position_ids", None)
    assert found == wanted


def test_the_names_of_full_size_are_all_mapped():
    """Without a number: the tool's names and shapes beside our modules'."""
    with torch.device("meta"):
        pairs = [
            (StableDiffusionUNet(), tool.shapes_of(tool.UNet2DConditionModel(**tool.UNET))),
            (AutoencoderKL(num_groups=32), tool.shapes_of(tool.AutoencoderKL(**tool.VAE))),
            (ClipTextEncoder(), tool.text_shapes(tool.TEXT)),
        ]
    for ours, theirs in pairs:
        names = {part for parts in layout.names_of(ours).values() for part in parts}
        assert {*theirs} - names <= {"text_model.embeddings.position_ids"}
        assert names <= {*theirs}
    assert [len(theirs) for _, theirs in pairs] == [686, 248, 197]


@pytest.mark.slow
def test_stable_diffusion_at_full_size(tmp_path, monkeypatch):
    """All of it in a process of its own: within 12 GB, equal to diffusers', nothing left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, ROOT / "tools/full_size_sd.py", "--compare"]
    ran = subprocess.run(command, capture_output=True, text=True)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stderr
    peaks = [float(number) for number in re.findall(r"peak +(\S+) GB", ran.stdout)]
    assert len(peaks) == 11 and 4 < max(peaks) < 12
    parameters = re.findall(r"([\d,]+) parameters, torch.float32", ran.stdout)
    assert parameters[0] == parameters[1] == "1,066,235,307" and len(parameters) == 3
    off = [float(number) for number in re.findall(r"by (\S+e-\d+)$", ran.stdout, re.M)]
    assert len(off) == 2 and max(off) < 1e-3
    assert "the same step and picture: True" in ran.stdout
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_is_said(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["full_size_sd.py"])
    monkeypatch.setattr(tool, "ROOM", 1e18)
    with pytest.raises(SystemExit, match="has less than .* GB free: set TMPDIR"):
        tool.main()
