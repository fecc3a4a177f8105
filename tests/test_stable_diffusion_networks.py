"""Stable Diffusion's parts without the library that published them: steps, files, and sentences."""
import json

import pytest
import torch

from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet

UNET = dict(widths=(8, 8), depth=1, context_dim=8, num_heads=2, num_groups=4)
TEXT = dict(vocabulary=514, length=8, dim=8, depth=1, num_heads=2, hidden=16)
X, CONTEXT, STEP = torch.ones(2, 4, 8, 8), torch.ones(2, 5, 8), torch.tensor([3.0, 700.0])


def whole(**change) -> StableDiffusionNet:
    given = dict(unet=UNET, text=TEXT, tokenizer=BytePairTokenizer.from_merges([], 8)) | change
    return StableDiffusionNet(**given)


@torch.no_grad()
def test_steps_may_be_whole_numbers():
    net = StableDiffusionUNet(**UNET)
    for p in net.parameters():
        p.data += 0.1 * torch.randn(p.shape)                # layers of zero would hide the step
    wanted = net(X, STEP, CONTEXT)
    assert torch.equal(net(X, STEP.long(), CONTEXT), wanted)
    assert not torch.allclose(net(X, STEP.flip(0), CONTEXT), wanted, rtol=1e-3)


@pytest.mark.parametrize("call, says", [
    (lambda net: net(X, 3, CONTEXT), "step must be one number per latent, .2,.; got 3"),
    (lambda net: net(X, STEP[:, None], CONTEXT), "step must be one number per latent"),
    (lambda net: net(X.half(), STEP, CONTEXT), "x is torch.float16, and the network"),
    (lambda net: net(X, STEP, CONTEXT, [X]), "control must be 5 tensors"),
    (lambda net: StableDiffusionUNet(**UNET | {"widths": 8}), "one per level; got 8"),
    (lambda net: StableDiffusionUNet(**UNET | {"num_groups": 0}), "num_groups must be"),
    (lambda net: ClipTextEncoder(**TEXT, eps="1e-5"), "eps must be a number"),
    (lambda net: whole(unet=net), "unet must be a dict"),
    (lambda net: whole(text=None), "text must be a dict"),
    (lambda net: whole(tokenizer=None), "merges must be a list of strings"),
    (lambda net: whole()(X, STEP / 1000, whole().null["tokens"], CONTEXT), "pass one of them"),
    (lambda net: whole()(X, STEP / 1000, extra=torch.ones(2, 1, 64, 64)), "extra must be"),
])
def test_one_sentence_of_the_networks(call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call(StableDiffusionUNet(**UNET))


def test_a_tokenizer_s_folder(tmp_path):
    code = BytePairTokenizer.learn(["a cat sat"], 516)
    with pytest.raises(FileNotFoundError, match="merges.txt, or tokenizer.json; there is no file"):
        BytePairTokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text("<html>")
    with pytest.raises(OSError, match="vocab.json is damaged, or no JSON"):
        BytePairTokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(code.vocabulary))
    lines = [" ".join(pair) for pair in code.merges]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), "utf-8")
    again = BytePairTokenizer.from_folder(tmp_path)
    assert again.merges == code.merges and again.decode(again("a cat").tolist()) == ["a cat"]


@pytest.mark.parametrize("merges", [["a t</w>"], [("at</w>",)]])
def test_a_merge_is_a_pair(merges):
    with pytest.raises(ValueError, match="a merge is a pair of tokens"):
        BytePairTokenizer(BytePairTokenizer.learn(["a cat sat"], 516).vocabulary, merges)
