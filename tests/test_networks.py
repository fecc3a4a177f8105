"""The U-Net: shapes, conditioning, and what it says to bad input."""
import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.networks.unet import AttentionBlock, ResnetBlock, TimeEmbedding, UNet, attention


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """Random weights where training starts from zero, so that every path shows."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


@pytest.mark.parametrize("channels, widths, depth, patch, size", [(1, (32, 64), 1, 2, 28), (3, (16, 32, 48), 2, 1, 16), (4, (16,), 1, 1, 5), (3, (16, 16), 1, 4, 24)])
def test_shapes(channels, widths, depth, patch, size):
    net = UNet(channels, widths, depth, num_classes=10, patch=patch)
    x = torch.randn(3, channels, size, size)
    assert net(x, torch.rand(3), torch.tensor([0, 5, 10])).shape == x.shape
    assert (net(x, torch.rand(3)) == 0).all(), "the last layer starts at zero"


def test_non_square_images():
    assert UNet(1, (16, 32))(torch.zeros(1, 1, 8, 12), torch.rand(1)).shape == (1, 1, 8, 12)


def test_everything_reaches_the_output():
    """Changing the image, the time or the label changes the answer, and only for that example."""
    net = awake(UNet(1, (16, 32), num_classes=10))
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([3, 4])
    base = net(x, t, y)
    for other in (net(x * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1), t, y), net(x, torch.tensor([0.2, 0.71]), y), net(x, t, torch.tensor([3, 5]))):
        torch.testing.assert_close(other[0], base[0])
        assert (other[1] - base[1]).abs().max() > 1e-4


def test_null_label():
    net = awake(UNet(1, (16,), num_classes=10))
    x, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    assert torch.equal(net(x, t), net(x, t, torch.tensor([10, 10]))) and torch.equal(net(x, t), net(x, t, 10))
    assert not torch.equal(net(x, t), net(x, t, 3))


def test_time_embedding():
    embedding = TimeEmbedding(64)
    t = torch.tensor([0.001, 0.9])
    e = embedding(t)
    by_hand = [f(1000 * 0.9 * math.exp(-math.log(10_000) * k / 31)) for f in (math.sin, math.cos) for k in range(32)]
    torch.testing.assert_close(e[1], torch.tensor(by_hand), atol=2e-4, rtol=0)
    assert F.cosine_similarity(e[0], e[1], dim=0) < 0.75, "t = 0.001 and t = 0.9 must look different"
    for dim in (63, 2):
        with pytest.raises(ValueError, match="even dim of at least 4"):
            TimeEmbedding(dim)


def test_attention_is_scaled_dot_product_attention():
    q, k, v = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_attention_block_does_not_mix_up_pixels():
    """Permuting the pixels permutes the answer; turning one image does not touch the other."""
    block = awake(AttentionBlock(32))
    x = torch.randn(2, 32, 4, 4)
    order = torch.randperm(16)
    shuffle = lambda z: z.flatten(2)[:, :, order].view_as(z)
    torch.testing.assert_close(block(shuffle(x)), shuffle(block(x)))
    torch.testing.assert_close(block(x.flip(0)), block(x).flip(0))


def test_blocks_begin_as_the_identity():
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(AttentionBlock(32)(x), x) and torch.equal(ResnetBlock(32, 32, 8)(x, torch.randn(2, 8)), x)


def test_bf16_agrees_with_fp32():
    net = awake(UNet(1, (16, 32), num_classes=10))
    x, t = torch.randn(4, 1, 8, 8), torch.rand(4)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, 3)
    full = net(x, t, 3)
    assert (half.float() - full).norm() / full.norm() < 0.03


def test_every_parameter_learns():
    net = awake(UNet(1, (16, 32), num_classes=10)).train()
    net(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("arguments, sentence", [
    ((torch.zeros(2, 3, 8, 8), torch.rand(2)), r"takes images \(B, 1, H, W\); got \(2, 3, 8, 8\)"),
    ((torch.zeros(1, 8, 8), torch.rand(1)), r"takes images \(B, 1, H, W\)"),
    ((torch.zeros(2, 1, 10, 8), torch.rand(2)), "multiples of 4 to be halved this often; got 10 x 8"),
    ((torch.zeros(2, 1, 8, 8), torch.rand(1)), r"one real number per image, shape \(2,\)"),
    ((torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 11])), "labels are integers from 0 to 9, and 10 for none; got 0 to 11"),
    ((torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([-1, 0])), "labels are integers"),
    ((torch.zeros(2, 1, 8, 8), torch.rand(2), torch.tensor([0.5, 1])), "labels are integers")])
def test_bad_input(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        UNet(1, (16, 32), num_classes=10)(*arguments)


def test_bad_construction():
    with pytest.raises(ValueError, match="multiples of 16"):
        UNet(1, (24,))
    with pytest.raises(ValueError, match="48 channels cannot be split among 5"):
        UNet(1, (48,), heads=5)
    with pytest.raises(ValueError, match="built without labels"):
        UNet(1, (16,))(torch.zeros(1, 1, 4, 4), torch.rand(1), y=3)
