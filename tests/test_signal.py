"""The U-Net of signals: shapes, labels, what a delay does, training, and its configuration."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.lab import train
from course_lib.networks.signal import SignalUNet
from course_lib.networks.unet import UNetStage

T = torch.tensor([0.2, 0.8])


def small(seed=0, **options):
    """All weights random: layers of zeros would hide everything behind them."""
    torch.manual_seed(seed)
    given = dict(channels=2, widths=(8, 16), patch_size=4, num_classes=3, emb_dim=16) | options
    net = SignalUNet(**given)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return net.eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_begins_with_zero_and_keeps_the_shape():
    x = noise(2, 2, 64)
    assert (SignalUNet(2, widths=(8, 16), patch_size=4)(x, T) == 0).all()
    for length in (32, 64, 160):
        x = noise(2, 2, length)
        y = small()(x, T)
        assert y.shape == x.shape and y.is_contiguous() and y.std() > 0.01


@pytest.mark.parametrize("channels, patch", [(1, 4), (2, 4), (3, 1)])
def test_neighbouring_samples_are_folded_into_channels(channels, patch):
    """Channel c, place p of a patch becomes channel c * patch + p; without levels, nothing but the
    order of the samples is left.
    """
    net = small(channels=channels, patch_size=patch)
    seen = []
    net._levels = lambda h, *rest: seen.append(h) or h[:, :channels * patch]
    x = noise(2, channels, 64)
    assert torch.equal(net(x, T), x)
    h = seen[0]
    assert h.shape == (2, channels * patch + 1, 1, 64 // patch)
    for c in range(channels):
        for place in range(patch):
            assert torch.equal(h[:, c * patch + place, 0], x[:, c, place::patch])


def test_one_more_input_says_where_each_sample_is():
    """Falling from 1 to -1; what the stem does with it reaches the output."""
    net, seen, x = small(), [], noise(2, 2, 64)
    net.stem.register_forward_hook(lambda module, given, h: seen.append(given[0][:, -1, 0]))
    y = net(x, T)
    torch.testing.assert_close(seen[0], torch.linspace(1, -1, 16).expand(2, 16))
    net.stem.weight.data[:, -1] = 0
    assert not torch.allclose(net(x, T), y, atol=1e-3)


def test_the_end_is_followed_by_the_beginning():
    """Turned by whole hops, sounds come out turned: there is no border, but for where they are."""
    net, x = small(num_classes=None), noise(2, 2, 256)
    net.stem.weight.data[:, -1] = 0
    for hops in (1, 5):
        turned = net(x.roll(hops * net.multiple, 2), T)
        torch.testing.assert_close(turned, net(x, T).roll(hops * net.multiple, 2))


def test_the_convolutions_run_along_time_and_shorten_it_by_four():
    net = small(widths=(8, 16, 16))
    lengths = []
    stages = [layer for layer in (*net.down, *net.middle, *net.up) if isinstance(layer, UNetStage)]
    for stage in stages:
        stage.register_forward_hook(lambda module, given, h: lengths.append(h.shape[2:]))
    net(noise(2, 2, 256), T)
    assert lengths == [(1, n) for n in (64, 16, 4, 4, 4, 4, 16, 64)]
    sizes = {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv2d)}
    assert sizes == {(1, 5), (1, 1)} and net.multiple == 4 * 4 * 4


def test_labels_and_their_absence():
    net, x = small(), noise(2, 2, 64)
    y = net(x, T, torch.tensor([0, 2]))
    assert not torch.allclose(y, net(x, T, torch.tensor([2, 0])), atol=1e-3)
    torch.testing.assert_close(net(x, T), net(x, T, 3))
    torch.testing.assert_close(net(x, T, 3), net(x, T, torch.tensor([3, 3])))
    assert net.null == {"y": 3}
    assert not torch.allclose(y, net(x, T.flip(0), torch.tensor([0, 2])), atol=1e-3)


def test_a_delay_by_one_hop_delays_the_output():
    """Of a sound amid silence, by patch_size * 4 samples, without attention; others do not."""
    net = small(num_classes=None)
    net.stem.weight.data[:, -1] = 0                         # of where in the sound it is
    for stage in net.middle:
        stage.attention = None
    sound, t = F.pad(noise(1, 2, 32), (1008, 1008)), T[:1]  # ends out of its reach
    inside = slice(512, -512)
    y = net(sound, t)[..., inside]
    for hops, same in ((1, True), (3, True), (0.5, False)):
        delay = int(hops * net.multiple)
        late = net(sound.roll(delay, 2), t).roll(-delay, 2)[..., inside]
        assert torch.allclose(late, y, rtol=1e-4, atol=1e-5) == same
    silent = net(0 * sound, t)[..., inside]
    assert (y - silent).std() > 0.1                         # there is something to delay


def test_every_parameter_gets_a_gradient():
    net = small(attention_levels=(False, True)).train()
    net(noise(2, 2, 64), T, torch.tensor([0, 2])).square().sum().backward()
    net(noise(2, 2, 64), T).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_its_configuration_rebuilds_it():
    net = small(attention_levels=(False, True), depth=2, num_heads=4, dropout=0.1)
    again = SignalUNet(**net.config)
    again.load_state_dict(net.state_dict())
    x = noise(2, 2, 64)
    torch.testing.assert_close(again.eval()(x, T, 1), net(x, T, 1))
    assert again.config == net.config and again.multiple == net.multiple == 16


def test_the_default_fits_the_shipped_sounds_and_two_megabytes():
    net = SignalUNet(num_classes=4)
    assert 8192 % net.multiple == 0
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 1e6
    outer = {id(net.stem.weight), id(net.out.weight)}
    muon = {id(p) for p in net.muon_parameters()}
    assert muon and not muon & outer


def test_it_trains_saves_and_loads(runs, tmp_path):
    x, y = noise(40, 1, 128).clamp(-1, 1), torch.arange(40) % 3
    torch.manual_seed(0)
    net = SignalUNet(1, widths=(8, 16), patch_size=4, num_classes=3, emb_dim=16)
    D = Denoiser(net, Schedule.cosine(), "v")
    D = train.train(D, (x, y), steps=20, batch_size=8)
    assert D.data_shape == (1, 128) and D.history[-1][1] < 1.5
    assert net.out.weight.abs().sum() > 0
    train.save(D, tmp_path / "signal.safetensors")
    loaded = train.load(tmp_path / "signal.safetensors", device="cpu")
    assert isinstance(loaded.net, SignalUNet) and loaded.net.config == net.config
    z = noise(2, 1, 128, seed=1)
    torch.testing.assert_close(loaded(z, T, y=y[:2]), D(z, T, y=y[:2]), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("call, words", [
    (lambda n: n(noise(2, 2, 60), T), "length must be a multiple of 16, and twice .* got 60"),
    (lambda n: n(noise(2, 2, 16), T), "length must be a multiple of 16, and twice .* got 16"),
    (lambda n: n(noise(2, 1, 64), T), r"takes signals \(B, 2, T\)"),
    (lambda n: n(noise(2, 2, 1, 64), T), r"takes signals \(B, 2, T\)"),
    (lambda n: n(torch.zeros(2, 2, 64, dtype=torch.int16), T), r"takes signals \(B, 2, T\)"),
    (lambda n: n(noise(2, 2, 64), 0.5), "t must be one real number"),
    (lambda n: n(noise(2, 2, 64), T, 4), "labels are integers from 0 to 2"),
    (lambda n: SignalUNet(0), "channels must be"),
    (lambda n: SignalUNet(1, patch_size=2.5), "patch_size must be"),
    (lambda n: SignalUNet(1, widths=()), "widths must be"),
    (lambda n: SignalUNet(1, context_dim=8), "context_dim"),
])                                                                                   # fmt: skip
def test_one_sentence(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(small())
