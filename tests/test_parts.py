"""Parts that belong to a base model: what is in their files, and what is refused."""
import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib import Denoiser, Schedule
from course_lib.lab import storage, train
from course_lib.lab.training import parts
from course_lib.networks.stable_diffusion import lora
from course_lib.networks.stable_diffusion.control import ControlNet
from course_lib.networks.stable_diffusion.inpainting import inpainting_net
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer

CODE = BytePairTokenizer.learn(["a hat"], 515, length=8)
TEXT = dict(vocabulary=515, length=8, dim=24, depth=1, num_heads=4, hidden=32)
UNET = dict(in_channels=4, widths=(32, 64), depth=1, context_dim=24, num_heads=4)


def randomised(module, seed=0):
    """No weight is 0, and each is a number of half precision."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = (torch.randn(p.shape, generator=g) / max(p[0].numel(), 2) ** 0.5).half().float()
    return module


def base(seed=0):
    D = Denoiser(randomised(StableDiffusionNet(UNET, TEXT, CODE), seed), Schedule.scaled_linear())
    D.data_shape = (4, 8, 8)
    return D.eval().requires_grad_(False)


def control(D, seed=1):
    return randomised(ControlNet(D.net.unet, 1, 4, 16), seed)


def inpainting(D, seed=2):
    model = Denoiser(inpainting_net(D.net), D.schedule, D.target)
    randomised(model.net.unet, seed)
    return model


def inputs():
    g = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(shape, generator=g)
    return {"x": draw(2, 4, 8, 8), "hint": draw(2, 1, 32, 32), "extra": draw(2, 5, 8, 8),
            "tokens": CODE(["a hat", ""])}


def predicted(D, name):
    """D's prediction with one of the inputs beside the tokens."""
    given = inputs()
    with torch.no_grad():
        return D(given["x"], 0.6, tokens=given["tokens"], **{name: given[name]})


# ---- files

def test_a_control_net_comes_back(tmp_path):
    D, file = base(), tmp_path / "control.safetensors"
    D.net.control = control(D)
    wanted = predicted(D, "hint")
    parts.save_control(D.net.control, D, file, base="mine", metrics={"n": 3})
    D.net.control = None
    D.net.control = parts.load_control(file, D)
    torch.testing.assert_close(predicted(D, "hint"), wanted, rtol=0, atol=0)
    loaded = D.net.control
    assert loaded.about == {"base": "mine", "metrics": {"n": 3}} and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert load_file(file).keys() == loaded.state_dict().keys(), "nothing of the U-Net"
    assert all(value.dtype == torch.float16 for value in load_file(file).values())


def test_an_inpainting_model_comes_back_without_a_second_text_encoder(tmp_path):
    D, file = base(), tmp_path / "inpaint.safetensors"
    model = inpainting(D)
    before = storage.digest(D.net.state_dict())
    parts.save_inpainting(model, D, file, metrics={"n": 3})
    loaded = parts.load_inpainting(file, D)
    torch.testing.assert_close(
        predicted(loaded, "extra"), predicted(model, "extra"), rtol=0, atol=0
    )
    assert loaded.net.text is D.net.text and loaded.data_shape == D.data_shape
    assert loaded.about == {"metrics": {"n": 3}} and not loaded.training
    assert loaded.schedule is D.schedule and loaded.target == D.target
    assert not any(p.requires_grad for p in loaded.parameters())
    assert load_file(file).keys() == loaded.net.unet.state_dict().keys()
    assert storage.digest(D.net.state_dict()) == before


def test_the_header_says_what_it_is(tmp_path):
    D, file = base(), tmp_path / "control.safetensors"
    parts.save_control(control(D), D, file)
    header = storage.load_header(file)
    assert header["part"] == "ControlNet" and header["base"] == parts.base_digest(D)
    assert header["config"] == {"channels": 1, "factor": 4, "width": 16}


# ---- the base

def test_the_digest_follows_every_weight_and_nothing_else():
    D = base()
    wanted = parts.base_digest(D)
    assert parts.base_digest(base()) == wanted and parts.base_digest(base(1)) != wanted
    D.net.control = control(D)
    assert parts.base_digest(D) == wanted, "a ControlNet is no part of the base"
    for module in (D.net.unet.out, D.net.text.norm):
        changed = copy.deepcopy(D)
        name = dict((m, n) for n, m in D.net.named_modules())[module]
        changed.net.get_submodule(name).bias.data[0] += 0.25
        assert parts.base_digest(changed) != wanted, name


def test_it_is_of_the_stored_weights(tmp_path):
    """A model that was trained in fp32 and the same one out of its fp16 file are one base."""
    D = base()
    D.net.unet.out.bias.data += 1e-6
    train.save(D, tmp_path / "base.safetensors")
    again = train.load(tmp_path / "base.safetensors", device="cpu")
    assert parts.base_digest(again) == parts.base_digest(D)


def test_another_base_is_refused(tmp_path):
    D, files = base(), [tmp_path / f"{k}.safetensors" for k in range(2)]
    parts.save_control(control(D), D, files[0])
    parts.save_inpainting(inpainting(D), D, files[1])
    adapted = base()
    lora.add_lora(adapted.net.unet, 2)
    for other in (base(1), adapted):
        for file, load in zip(files, (parts.load_control, parts.load_inpainting)):
            with pytest.raises(ValueError, match="belongs to another base model: its weights'"):
                load(file, other)
    with pytest.raises(ValueError, match="the text encoder of D must be the base's"):
        parts.save_inpainting(inpainting(D), base(1), tmp_path / "new.safetensors")


# ---- what is refused

def test_damaged_files_are_refused(tmp_path):
    D, file = base(), tmp_path / "control.safetensors"
    parts.save_control(control(D), D, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OSError, match="is damaged"):
        parts.load_control(file, D)
    file.write_bytes(whole[:-10])
    with pytest.raises(OSError, match="is not a whole checkpoint"):
        parts.load_control(file, D)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(OSError, match="is not a whole checkpoint"):
        parts.load_control(file, D)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        parts.load_control(tmp_path / "none.safetensors", D)
    with pytest.raises(FileNotFoundError, match="ships no checkpoint 'none'"):
        parts.load_inpainting("none", D)


def test_files_of_another_kind_are_refused(tmp_path):
    D, file = base(), tmp_path / "a.safetensors"
    parts.save_control(control(D), D, file)
    with pytest.raises(OSError, match="'inpainting U-Net'; it holds 'ControlNet': load_control"):
        parts.load_inpainting(file, D)
    with pytest.raises(OSError, match="does not hold a model"):
        train.load(file)
    parts.save_inpainting(inpainting(D), D, file)
    with pytest.raises(OSError, match="'ControlNet'; it holds 'inpainting U-Net': load_inpaint"):
        parts.load_control(file, D)
    train.save(D, file)
    with pytest.raises(OSError, match="it holds a whole model: train.load loads it"):
        parts.load_control(file, D)
    storage.save_tensors(file, {"a": torch.zeros(1)}, {"part": "a table"})
    with pytest.raises(OSError, match="it holds something else"):
        parts.load_control(file, D)


def test_what_cannot_be_saved(tmp_path):
    D, file = base(), tmp_path / "a.safetensors"
    with pytest.raises(TypeError, match="control must be a ControlNet"):
        parts.save_control(D.net.unet, D, file)
    with pytest.raises(TypeError, match="base must be a Denoiser"):
        parts.save_control(control(D), D.net, file)
    with pytest.raises(TypeError, match="base.net must be a StableDiffusionNet"):
        parts.base_digest(train.load("mnist_small", device="cpu"))
    with pytest.raises(ValueError, match="with its ending: a.safetensors"):
        parts.save_control(control(D), D, tmp_path / "a")
    broken = control(D)
    broken.stem.bias.data[0] = 1e6
    with pytest.raises(ValueError, match="65504"):
        parts.save_control(broken, D, file)
    assert not file.exists()
