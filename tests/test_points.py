"""The network on point sets: the order of the points does not matter, their number is free."""
import math

import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.lab import train
from course_lib.networks.dit import DiTBlock
from course_lib.networks.points import InducedBlock, PointTransformer

BOTH = pytest.mark.parametrize("inducing", [None, 5])
X = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.2, 0.8])
Y = torch.tensor([0, 2])


def small(inducing=None, cls=PointTransformer, **options):
    """All weights random: gates of zero would hide everything behind them."""
    torch.manual_seed(0)
    options = {"dim": 32, "depth": 2, "num_heads": 4, "num_classes": 3} | options
    net = cls(3, inducing=inducing, **options)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


def equivariance_error(net, x):
    """|net(permuted x) - permuted net(x)|, relative to net's spread."""
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    t = T.to(x.dtype)
    with torch.no_grad():
        out = net(x, t, Y)
        return ((net(x[:, order], t, Y) - out[:, order]).abs().max() / out.std()).item()


@BOTH
def test_it_is_permutation_equivariant(inducing):
    net = small(inducing)
    assert equivariance_error(net, X) < 1e-5
    assert equivariance_error(net.double(), X.double()) < 1e-12


class WithPositions(PointTransformer):
    """The planted fault: tokens that know which number they are."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.stem = nn.Sequential(self.stem, Plus(torch.randn(40, self.config["dim"])))


class Plus(nn.Module):
    def __init__(self, constant):
        super().__init__()
        self.constant = constant

    def forward(self, h):
        return h + self.constant


@BOTH
def test_positions_break_it(inducing):
    assert equivariance_error(small(inducing, WithPositions), X) > 1e-2


@BOTH
def test_points_attend_to_one_another(inducing):
    """One point moves, and the output at all others changes."""
    net = small(inducing)
    moved = X.clone()
    moved[:, 0] += 1
    change = (net(moved, T, Y) - net(X, T, Y)).abs().amax(2)                # (2, 40)
    assert (change > 1e-5).all()


def test_points_of_other_clouds_do_not_matter():
    net = small(5)
    torch.testing.assert_close(net(X[:1], T[:1], Y[:1]), net(X, T, Y)[:1])


@BOTH
def test_any_number_of_points(inducing):
    """A set in which each point stands three times says the same of each: softmax averages."""
    net = small(inducing)
    assert net(X[:, :1], T, Y).shape == (2, 1, 3)
    torch.testing.assert_close(net(X.repeat(1, 3, 1), T, Y), net(X, T, Y).repeat(1, 3, 1))


def test_an_induced_block_by_hand():
    """Learned queries gather values; the points then attend to them by the same vectors."""
    torch.manual_seed(0)
    block = InducedBlock(8, 2, 3)
    for p in block.parameters():
        p.data += 0.3 * torch.randn_like(p)
    x, emb = torch.randn(1, 6, 8), torch.randn(1, 8)
    shift, scale, gate1, shift2, scale2, gate2 = block.emb(emb)[:, None].chunk(6, dim=-1)
    q, k, v = block.qkv(shift + block.norm1(x) * (1 + scale)).view(6, 3, 2, 4).unbind(1)
    heads = []
    for head in range(2):
        anchors = block.inducing[0, head]                                   # (3, 4)
        summary = (anchors @ k[:, head].T / 2).softmax(1) @ v[:, head]      # sqrt(4)
        heads.append((q[:, head] @ anchors.T / 2).softmax(1) @ summary)
    h = x + gate1 * block.proj(torch.cat(heads, dim=1))
    wanted = h + gate2 * block.mlp(shift2 + block.norm2(h) * (1 + scale2))
    torch.testing.assert_close(block(x, emb), wanted)


def test_coordinates_enter_as_waves_too():
    """The stem sees x, then sin and cos of pi x / 2, pi x, 2 pi x of each coordinate."""
    net = small(frequencies=3)
    seen = []
    net.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(X, T, Y)
    angles = torch.cat([X[..., c : c + 1] * math.pi / 2 * torch.tensor([1.0, 2.0, 4.0])
                        for c in range(3)], dim=2)
    torch.testing.assert_close(seen[0], torch.cat([X, angles.sin(), angles.cos()], dim=2))
    assert small(frequencies=0).stem.in_features == 3
    assert small(frequencies=0)(X, T, Y).shape == X.shape


def test_it_begins_at_zero_and_labels_and_times_matter():
    torch.manual_seed(0)
    assert (PointTransformer(num_classes=3)(X, T, Y) == 0).all()
    net = small(5)
    out = net(X, T, Y)
    assert not torch.allclose(out, net(X, T, Y.flip(0)))
    assert not torch.allclose(out, net(X, T.flip(0), Y))
    torch.testing.assert_close(net(X, T), net(X, T, 3))                     # 3: no label
    assert net.null == {"y": 3} and small(num_classes=None).null == {}
    assert small(num_classes=None)(X, T).shape == X.shape


@BOTH
def test_its_config_rebuilds_it(inducing):
    net = small(inducing)
    again = PointTransformer(**net.config)
    again.load_state_dict(net.state_dict())
    assert again.config == net.config and list(again.config) == [
        "channels", "dim", "depth", "num_heads", "num_classes", "inducing", "frequencies"
    ]                                                                                # fmt: skip
    assert torch.equal(again(X, T, Y), net(X, T, Y))
    kind = DiTBlock if inducing is None else InducedBlock
    assert [type(block) for block in again.blocks] == [kind] * 2


@BOTH
def test_every_parameter_gets_a_gradient(inducing):
    net = small(inducing).train()
    net(X, T, Y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_muon_moves_the_hidden_layers_alone():
    net = small(5)
    moved = {id(p) for p in net.muon_parameters()}
    names = {name for name, p in net.named_parameters() if id(p) in moved}
    assert {"stem.weight", "out.weight"}.isdisjoint(names)
    assert {"blocks.0.qkv.weight", "blocks.1.mlp.2.weight", "final.weight"} <= names


@BOTH
def test_it_learns_through_the_loop(inducing, runs):
    """A ring or a stick: the loss falls, and the wrong label costs."""
    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(64, 32, generator=g)
    ring = torch.stack([angle.cos(), 0 * angle, angle.sin()], dim=2)
    stick = torch.stack([0 * angle, 2 * torch.rand(64, 32, generator=g) - 1, 0 * angle], dim=2)
    data = {"x0": torch.cat([ring, stick]), "y": torch.arange(128) // 64}
    torch.manual_seed(0)
    net = PointTransformer(dim=32, depth=1, num_heads=2, num_classes=2, inducing=inducing)
    D = Denoiser(net, Schedule.cosine(), "v")
    t, eps = D.draw_noise(data["x0"], g)
    loss = lambda D, y: D.loss(data["x0"], t, eps, y=y).mean().item()
    with torch.no_grad():
        before = loss(D, data["y"])
        D = train.train(D, data, steps=60, batch_size=16)
        after, mislabelled = loss(D, data["y"]), loss(D, 1 - data["y"])
    assert after < 0.8 * before and mislabelled > 1.1 * after


@pytest.mark.parametrize("call, words", [
    (lambda n: n(X[..., :2], T, Y), r"takes points \(B, N, 3\)"),
    (lambda n: n(X[0], T, Y), "takes points"),
    (lambda n: n(X[:, :0], T, Y), "not empty"),
    (lambda n: n(X.long(), T, Y), "takes points"),
    (lambda n: n(X, T[:1], Y), "t must be one real number"),
    (lambda n: n(X, T, Y + 2), "labels are integers from 0 to 2"),
    (lambda n: n(X.double(), T, Y), r"pass x.to\(torch.float32\)"),
    (lambda n: small(num_classes=None)(X, T, Y), "built without labels"),
    (lambda n: PointTransformer(dim=30, num_heads=2), "dim must be a multiple of 4; got 30"),
    (lambda n: PointTransformer(dim=32, num_heads=3), "cannot be split among 3"),
    (lambda n: PointTransformer(inducing=0), "inducing must be a whole number, at least 1"),
    (lambda n: PointTransformer(frequencies=-1), "frequencies must be"),
    (lambda n: PointTransformer(depth=1.5), "depth must be"),
    (lambda n: PointTransformer(channels=0), "channels must be"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(small(5))
