"""A ControlNet: it begins as nothing, it learns, and its control reaches the U-Net where it should.
"""
import pytest
import torch
from diffusers import UNet2DConditionModel

from course_lib import Denoiser, Schedule
from course_lib.networks.stable_diffusion import layout
from course_lib.networks.stable_diffusion.control import ControlNet
from course_lib.networks.stable_diffusion.model import StableDiffusionNet
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet


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


def test_a_denoiser_takes_a_hint():
    code = BytePairTokenizer.learn(["a hat"], 515, length=8)
    text = dict(vocabulary=515, length=8, dim=24, depth=1, num_heads=4, hidden=32)
    sizes = dict(in_channels=4, widths=(32, 64), depth=1, context_dim=24, num_heads=4)
    net = StableDiffusionNet(sizes, text, code)
    D = Denoiser(net, Schedule.scaled_linear(), "eps")
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
