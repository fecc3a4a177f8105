"""A ControlNet: it begins as nothing, it learns, its control reaches the U-Net where it should; its
recipe, and the shipped one.
"""
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from course_lib import Denoiser, Schedule
from course_lib.lab import noun_parts, sampling, storage, train
from course_lib.lab.data.outlines import outline, outline_f1
from course_lib.lab.training.parts import load_control
from course_lib.networks.stable_diffusion import layout
from course_lib.networks.stable_diffusion.control import ControlNet
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools/recipes"))
import train_mini_sd_control as recipe  # noqa: E402


def unet():
    torch.manual_seed(0)
    net = StableDiffusionUNet(widths=(32, 64), depth=2, context_dim=24, num_heads=4, num_groups=16)
    for p in net.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape)
    return net.eval()


def inputs():
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=g)
    return draw(2, 4, 8, 8), torch.tensor([3.0, 801.0]), draw(2, 7, 24)


@torch.no_grad()
def test_a_new_one_changes_nothing():
    net, x = unet(), inputs()
    control = ControlNet(net, 1, 4, 16)(torch.randn(2, 1, 32, 32))
    assert len(control) == len(net.skips) + 1
    torch.testing.assert_close(net(*x, control), net(*x), rtol=0, atol=0)


def test_zero_convolutions_learn():
    """Their input is not 0, so their weights have a gradient; what is before them has none yet."""
    net = unet().requires_grad_(False)
    control = ControlNet(net, 1, 4, 16)
    hint = torch.randn(2, 1, 32, 32)
    net(*inputs(), control(hint)).square().mean().backward()
    assert all(zero.weight.grad.abs().max() > 0 for zero in control.zeros)
    assert control.stem.weight.grad.abs().max() == 0
    for zero in control.zeros:
        zero.weight.data -= 0.1 * zero.weight.grad
    control.zero_grad()
    net(*inputs(), control(hint)).square().mean().backward()
    assert control.stem.weight.grad.abs().max() > 0


@torch.no_grad()
def test_control_is_added_where_diffusers_adds_it():
    """Residuals of every skip connection and of the middle, beside diffusers' own arguments."""
    net, x = unet(), inputs()
    theirs = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=24,
        attention_head_dim=4, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()
    theirs.load_state_dict(layout.to_published(net))
    control = ControlNet(net, 3, 2, 16)
    for zero in control.zeros:
        torch.nn.init.normal_(zero.weight, std=0.3)
    more = control(torch.randn(2, 3, 16, 16))
    *skips, middle = more
    wanted = theirs(
        *x, down_block_additional_residuals=tuple(skips), mid_block_additional_residual=middle
    ).sample
    torch.testing.assert_close(net(*x, more), wanted, rtol=1e-4, atol=1e-4)
    assert (wanted - net(*x)).abs().max() > 0.1


def denoiser():
    code = BytePairTokenizer.learn(["a hat"], 515, length=8)
    text = dict(vocabulary=515, length=8, dim=24, depth=1, num_heads=4, hidden=32)
    sizes = dict(in_channels=4, widths=(32, 64), depth=1, context_dim=24, num_heads=4)
    torch.manual_seed(0)
    net = StableDiffusionNet(sizes, text, code)
    for p in net.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape)
    return Denoiser(net, Schedule.scaled_linear(), "eps").eval()


def test_a_denoiser_takes_a_hint():
    D = denoiser()
    net, code = D.net, D.net.tokenizer
    x, hint = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 32, 32)
    tokens = code(["a hat", ""])
    with pytest.raises(ValueError, match="follows no hint: set net.control"):
        D(x, 0.5, tokens=tokens, hint=hint)
    net.control = ControlNet(net.unet, 1, 4, 16)
    assert D(x, 0.5, tokens=tokens, hint=hint).shape == x.shape
    with pytest.raises(ValueError, match="a hint"):
        D(x, 0.5, tokens=tokens, hint=torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match="multiples of 4; got 30 x 32"):
        D(x, 0.5, tokens=tokens, hint=torch.randn(2, 1, 30, 32))
    with pytest.raises(ValueError, match="control must be 5 tensors"):
        D(x, 0.5, tokens=tokens, hint=torch.randn(2, 1, 16, 32))
    with pytest.raises(TypeError, match="unet must be a StableDiffusionUNet"):
        ControlNet(net, 1, 4, 16)


def test_its_size():
    """Small enough to ship: below 200 kB in half precision for mini-SD's U-Net."""
    net = StableDiffusionUNet(8, widths=(64, 128), depth=1, context_dim=128, num_heads=4)
    control = ControlNet(net, 1, 4, 24)
    assert 2 * sum(p.numel() for p in control.parameters()) < 200_000


# ---- the recipe

def test_the_recipe_trains_the_control_net_and_nothing_else(runs):
    D = denoiser()
    before = storage.digest(D.net.state_dict())
    contexts, rows = recipe.caption_table(D, ["a hat", "a cat", "a hat"])
    assert contexts.shape == (3, 8, 24) and rows.tolist() == [1, 0, 1]
    with torch.no_grad():
        torch.testing.assert_close(contexts[1:2], D.net.text(D.net.tokenizer(["a hat"])))
        torch.testing.assert_close(contexts[2:], D.net.text(D.net.tokenizer([""])))
    g = torch.Generator().manual_seed(0)
    batch = {
        "x0": torch.randn(3, 4, 8, 8, generator=g),
        "caption": rows,
        "hint": torch.rand(3, 1, 32, 32, generator=g) > 0.5,
    }
    made = recipe.Controlled(D, contexts)
    start = storage.digest(made.state_dict())
    model = train.train(made, batch, steps=3, batch_size=2, run_name="control")
    assert storage.digest(model.state_dict()) != start and D.net.control is None
    assert storage.digest(D.net.state_dict()) == before
    assert all(name.startswith("control.") for name in model.state_dict())


def test_the_recipe_drops_captions():
    D = denoiser()
    contexts, rows = recipe.caption_table(D, ["a hat"] * 4000)
    batch = {"x0": torch.zeros(4000, 4, 8, 8), "caption": rows}
    drawn = recipe.Controlled(D, contexts).draw(batch, torch.Generator().manual_seed(0))
    dropped = (drawn["caption"] == 1).double().mean()
    assert abs(dropped - recipe.P_DROP) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert drawn["caption"].max() == 1, "the last context is that of the empty text"


def test_captions_omit_what_the_outline_shows():
    """They name background and glasses; another head, body or accessory changes nothing."""
    parts = noun_parts.draw_parts(50, seed=0)
    captions = recipe.short_captions(parts)
    names = noun_parts.part_names(parts)
    for caption, named in zip(captions, names):
        assert f"{named['glasses']} glasses" in caption and named["background"] in caption
    parts[:, 1:4] = 0
    assert recipe.short_captions(parts) == captions and len(set(captions)) <= 46


def test_the_fraction_of_the_way():
    low = torch.tensor([0.0, 0.2, 0.4, 0.2])
    top = low + torch.tensor([0.8, 0.6, 0.6, 0.8])
    fraction, error = recipe.fraction_of_the_way(low, low + 0.75 * (top - low), top)
    assert fraction == pytest.approx(0.75) and error < 1e-6
    assert recipe.fraction_of_the_way(low, top, top)[0] == pytest.approx(1)
    g = torch.Generator().manual_seed(0)                    # the error, beside the spread of draws
    draw = lambda mean: mean + 0.1 * torch.randn(400, 100, generator=g)
    found = torch.tensor([
        recipe.fraction_of_the_way(*rows) for rows in zip(draw(0.2), draw(0.6), draw(0.9))
    ])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std().item(), rel=0.15)


# ---- the shipped one

@pytest.fixture(scope="module")
def models():
    """mini-SD with its ControlNet, and the autoencoder; skips while the lesson is a draft."""
    file = storage.CHECKPOINTS / "mini_sd_control.safetensors"
    if not file.exists() and not (ROOT / "lessons/07_applications_deployment.py").exists():
        pytest.skip(f"the lesson is a draft: {recipe.COMMAND} --ship")
    D = train.load("mini_sd", device="cpu")
    D.net.control = load_control("mini_sd_control", D)
    return D, train.load("nouns_vae", device="cpu")


def test_its_card(models):
    """At least 80 % of the way from the samples without the hint to the reconstructions."""
    card = models[0].net.control.about["metrics"]
    way, error = card["way"]
    assert card["n"] >= 500 and way - 2 * error >= 0.8
    low, high, top = (card["f1"][name][0] for name in ("no hint", "hint", "reconstruction"))
    assert low < high < top and way == pytest.approx((high - low) / (top - low))
    assert card["withheld"]["n"] >= 200 and 0 <= card["withheld"]["right"]["hint"]["head"] <= 1
    assert (storage.CHECKPOINTS / "mini_sd_control.safetensors").stat().st_size < 200_000


def test_it_follows_the_outline(models):
    """60 figures, as good as the card says, but for chance; and not another figure's outline."""
    D, vae = models
    parts = noun_parts.draw_parts(60, seed=9, split="test")
    hint, tokens = outline(noun_parts.render(parts)), recipe.short_captions(parts)
    condition = {"tokens": D.net.tokenizer(tokens), "hint": hint}
    drawn = outline(sampling.sample_batches(
        D, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae
    ))
    f1, error = D.net.control.about["metrics"]["f1"]["hint"]
    spread = error * D.net.control.about["metrics"]["n"] ** 0.5
    assert abs(outline_f1(drawn, hint).mean() - f1) < 4 * spread / 60**0.5
    assert outline_f1(drawn, hint.roll(1, 0)).mean() < outline_f1(drawn, hint).mean() - 0.05
