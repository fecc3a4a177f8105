"""Stable Diffusion 1.5 at its full size, by tools/full_size.py; its helpers at tiny sizes."""
import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import full_size  # noqa: E402

from course_lib.lab import profiling  # noqa: E402
from course_lib.lab.training.published import load_published  # noqa: E402
from course_lib.lab.training.published_files import SOURCES  # noqa: E402
from course_lib.networks.stable_diffusion import layout  # noqa: E402

pytest.importorskip("transformers")

# what is known of the published files: names in each, without the positions' ids, and parameters
PUBLISHED = {
    "unet": {"names": 686, "parameters": 859_520_964},
    "vae": {"names": 248, "parameters": 83_653_863},
    "text_encoder": {"names": 196, "parameters": 123_060_480},
}
TINY = {
    "unet": {
        "block_out_channels": [32, 64],
        "cross_attention_dim": 24,
        "attention_head_dim": 4,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "sample_size": 8,
    },
    "vae": {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "sample_size": 16,
    },
    "text_encoder": {
        "hidden_size": 24,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 600,
    },
}
NO_MIDDLE = {"mid_block_type": None}


def tiny(**unet):
    """The published configurations with small sizes."""
    configs = {part: config | TINY.get(part, {}) for part, config in full_size.CONFIGS.items()}
    return configs | {"unet": configs["unet"] | unet}


def written(folder, unet=None, **options):
    """A tiny folder in this form, and what is loaded from it."""
    full_size.write_folder(folder, tiny(**unet or {}), **options)
    return folder, *load_published(folder, "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("tiny"))


def names_in(folder):
    return {name for file in folder.glob("*.safetensors") for name in load_file(file)}


# ---- at full size

@pytest.mark.slow
def test_stable_diffusion_at_full_size(tmp_path):
    """In the published form: all names, the values of the files, below 12 GB, and a step that is
    that of diffusers' pipeline from the same folder.
    """
    file = tmp_path / "numbers.json"
    done = subprocess.run(
        [sys.executable, ROOT / "tools/full_size.py", "--latents", "16", "--against-diffusers",
         "--json", file],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert found["files"] == PUBLISHED
    assert abs(found["gigabytes"] - SOURCES["stable-diffusion-1.5"].gigabytes) < 0.01
    # at least the parameters in float32, or it was not loaded; much more would not fit
    assert 4 * sum(part["parameters"] for part in PUBLISHED.values()) / 1e9 < found["peak"] < 12
    assert found["latent_off"] < 1e-4 and found["picture_off"] < 1e-3   # finite, too


def test_the_configurations_are_those_of_the_published_files():
    for part, known in PUBLISHED.items():
        shapes = full_size.published_shapes(part, full_size.CONFIGS[part])
        numbers = {"names": len(shapes), "parameters": sum(map(math.prod, shapes.values()))}
        assert numbers == known, part


# ---- the tool, at tiny sizes

@pytest.mark.parametrize("options, part, has, has_not", [
    ({"attention": "old"}, "vae", ".attentions.0.proj_attn.bias", ".to_"),
    ({"attention": "new"}, "vae", ".attentions.0.to_out.0.bias", ".proj_attn."),
    ({"position_ids": True}, "text_encoder", ".embeddings.position_ids", None),
    ({"position_ids": False}, "text_encoder", ".final_layer_norm.bias", "position_ids"),
    ({"shards": 3}, "unet", "mid_block.resnets.0.norm1.weight", None),
    ({"unet": NO_MIDDLE}, "unet", "conv_in.weight", "mid_block"),
])
def test_every_form_loads_and_has_the_same_values(options, part, has, has_not, model, tmp_path):
    folder, D, vae = written(tmp_path, **options)
    names = names_in(folder / part)
    assert any(name.endswith(has) for name in names)
    assert has_not is None or not any(has_not in name for name in names)
    assert len(list((folder / "unet").glob("*.safetensors"))) == options.get("shards", 1)
    for part, module in full_size.parts_of(D, vae).items():
        assert full_size.differences(module, folder / part) == []
    x = full_size.noise(D, 8)
    z = full_size.one_step(D, x)
    assert z.shape == x.shape and z.isfinite().all() and vae.to_images(z).isfinite().all()
    same = torch.equal(z, full_size.one_step(model[1], x))
    assert same == ("unet" not in options)


def test_the_step_is_that_of_diffusers(model):
    """And a fault shows: two matrices of one attention exchanged, or other padding."""
    folder, D, vae = model
    x = full_size.noise(D, 8)
    wanted = full_size.step_of_diffusers(folder, x)
    z = full_size.one_step(D, x)
    assert full_size.off(z, wanted[0]) < 1e-4
    assert full_size.off(vae.to_images(z), wanted[1]) < 1e-3
    exchanged, padded = copy.deepcopy(D), copy.deepcopy(D)
    attention = exchanged.net.unet.down[0].transformers[0].self_attention
    q, k = attention.q.weight, attention.k.weight
    attention.q.weight = k
    attention.k.weight = q
    padded.net.tokenizer.pad = "!"
    for faulty in (exchanged, padded):
        assert full_size.off(full_size.one_step(faulty, x), wanted[0]) > 1e-3


def test_a_value_that_is_not_the_files_is_found(model):
    folder, D, _ = model
    weight = D.net.unet.stem.weight
    kept = weight[1, 2, 0, 0].clone()
    weight[1, 2, 0, 0] = kept.half().nextafter(torch.tensor(9.0).half())
    found = full_size.differences(D.net.unet, folder / "unet")
    weight[1, 2, 0, 0] = kept
    assert found == ["stem.weight has not the values of conv_in.weight"]


def test_keys_for_values_in_the_name_map_are_found(model, monkeypatch):
    """As the loader would have filled them with a map that is right."""
    folder, _, vae = model
    right = layout.names_of(vae)
    q, k, v = right["encoder.middle.1.qkv.bias"]
    monkeypatch.setattr(
        layout, "names_of", lambda _: right | {"encoder.middle.1.qkv.bias": [q, v, k]}
    )
    assert full_size.differences(vae, folder / "vae") == [
        f"encoder.middle.1.qkv.bias has not the values of {name}" for name in (v, k)
    ]


def test_names_that_are_too_many_or_missing_are_found(model, tmp_path):
    folder, D, _ = model
    tensors = load_file(folder / "text_encoder/model.fp16.safetensors")
    del tensors["text_model.final_layer_norm.bias"]
    save_file(tensors | {"colour": torch.ones(1)}, tmp_path / "model.fp16.safetensors")
    assert full_size.differences(D.net.text, tmp_path) == [
        "norm.bias is made of text_model.final_layer_norm.bias, which the files have not",
        "colour is in the files, and nothing is made of it",
    ]


def test_the_random_weights_are_random():
    shapes = {"conv.weight": (64, 32, 3, 3), "norm.weight": (4096,), "linear.bias": (4096,),
              "other.weight": (64, 288)}
    state = full_size.random_state(shapes, torch.Generator().manual_seed(0))
    assert all(value.dtype == torch.float16 for value in state.values())
    conv, norm, bias, other = (state[name].double() for name in shapes)
    for value in (conv, other):                             # a deviation's relative error
        assert abs(value.std() * math.sqrt(288) - 1) < 4 / math.sqrt(2 * value.numel())
    assert not torch.equal(conv.flatten(), other.flatten())
    for value, mean in ((norm, 1), (bias, 0)):
        assert abs(value.mean() - mean) < 4 * 0.1 / math.sqrt(4096)
        assert abs(value.std() / 0.1 - 1) < 4 / math.sqrt(2 * 4096)


def test_the_made_up_code_has_the_size_of_clips():
    code = full_size.byte_pairs(49_408)
    assert len(code.vocabulary) == 49_408 and len(code.merges) == 48_894
    assert code.decode(code(full_size.TEXT)) == [full_size.TEXT]
    with pytest.raises(ValueError, match="514 to"):
        full_size.byte_pairs(513)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's own count")
def test_the_peak_rises_with_what_is_held():
    words = Path("/proc/self/status").read_text().split()
    now = int(words[words.index("VmRSS:") + 1]) * 1024
    before = full_size.peak_gigabytes()
    held = b"\1" * (round(before * 1e9) - now + 300_000_000)
    after = full_size.peak_gigabytes()
    del held
    assert 0.25 < after - before < 0.35
    assert abs(full_size.peak_gigabytes() - after) < 0.01   # counted by the core, to some pages


def test_multiply_adds_are_those_of_the_network_with_numbers(model):
    _, D, vae = model
    context = torch.zeros(1, 77, 24)
    for side in (8, 16):
        x = full_size.noise(D, side)
        assert full_size.multiply_adds(D, vae, side) == {
            "unet": profiling.multiply_adds(D.net.unet, x, torch.ones(1), context),
            "decoder": profiling.multiply_adds(vae.decode, x),
        }
