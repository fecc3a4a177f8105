"""Clips: the U-Net with attention over the frames, and rollouts against exact Gaussian laws."""
import json

import pytest
import torch
from torch import nn

from course_lib import (
    Denoiser,
    Schedule,
    UNet,
    ancestral,
    cfg,
    ddim,
    dpmpp,
    heun,
    last,
    timesteps,
    unipc,
)
from course_lib.lab import train
from course_lib.networks.video import FrameAttention, VideoUNet
from course_lib.video import after, rollout

SIZES = {"widths": (16, 32), "emb_dim": 32, "num_classes": 3}
COSINE = Schedule.cosine()


def stir(net, scale=0.1):
    """All weights random: layers of zeros would hide everything behind them."""
    torch.manual_seed(1)
    for p in net.parameters():
        p.data += scale * torch.randn_like(p)
    return net.eval()


def small(causal=False):
    return stir(VideoUNet(1, causal=causal, **SIZES))


X = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([[0.1, 0.9, 0.4, 0.6], [0.5, 0.2, 1.0, 0.0]])
Y = torch.tensor([2, 0])


# ---- the network


def test_it_begins_as_an_image_network_frame_by_frame():
    image, video = stir(UNet(1, **SIZES)), VideoUNet(1, **SIZES).eval()
    missing, unknown = video.load_state_dict(image.state_dict(), strict=False)
    assert not unknown and all(".frames." in name for name in missing)
    found = video(X, T, Y)
    assert found.shape == X.shape and found.std() > 0.1
    for f in range(4):
        torch.testing.assert_close(found[:, f], image(X[:, f], T[:, f], Y))


def test_attention_over_the_frames_is_torchs_own():
    """nn.MultiheadAttention at each place, with the same weights."""
    for causal in (False, True):
        block = stir(FrameAttention(8, 2, causal), 0.4)
        x = torch.randn(2 * 5, 8, 3, 4)
        reference = nn.MultiheadAttention(8, 2, batch_first=True)
        reference.in_proj_weight.data = block.qkv.weight.data
        reference.in_proj_bias.data = block.qkv.bias.data
        reference.out_proj = block.proj
        f = torch.arange(5)[:, None]
        angle = f * 10_000 ** (-torch.arange(4) / 3)
        tokens = block.norm(x).view(2, 5, 8, 3, 4) + torch.cat(
            [angle.sin(), angle.cos()], dim=1
        ).view(5, 8, 1, 1)
        later = torch.ones(5, 5).triu(1).bool() if causal else None
        found = block(x, 5).view(2, 5, 8, 3, 4)
        for row in range(3):
            for column in range(4):
                place = tokens[..., row, column]            # (2, 5, 8)
                wanted = reference(place, place, place, attn_mask=later)[0]
                wanted = wanted + x.view(2, 5, 8, 3, 4)[..., row, column]
                torch.testing.assert_close(found[..., row, column], wanted)


def test_one_time_for_a_clip_is_that_time_for_each_frame():
    net, t = small(), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(net(X, t, Y), net(X, t[:, None].expand(2, 4), Y))
    assert not torch.allclose(net(X, t, Y), net(X, t.flip(0), Y))


def changed(net, x=X, t=T, y=Y):
    """Which frames of which clip these inputs change: (2, 4) bool."""
    return (net(x, t, y) - net(X, T, Y)).abs().amax((2, 3, 4)) > 1e-6


def test_a_frames_time_reaches_the_others_through_attention_alone():
    net, t = small(), T.clone()
    t[0, 1] = 0.3
    assert changed(net, t=t).tolist() == [[True] * 4, [False] * 4]
    for name, p in net.named_parameters():
        if ".frames.proj" in name:
            p.data.zero_()
    assert changed(net, t=t).tolist() == [[False, True, False, False], [False] * 4]


def test_causal_means_that_earlier_frames_do_not_change():
    x = X.clone()
    x[1, 2] += 1
    assert changed(small(), x=x).tolist() == [[False] * 4, [True] * 4]
    assert changed(small(causal=True), x=x).tolist() == [[False] * 4, [False, False, True, True]]
    net = small(causal=True)
    torch.testing.assert_close(net(X[:, :3], T[:, :3], Y), net(X, T, Y)[:, :3])


def test_frames_know_their_number_and_labels_belong_to_clips():
    net = small()
    turned = net(X.flip(1), T.flip(1), Y).flip(1)
    assert not torch.allclose(turned, net(X, T, Y), atol=1e-3)
    assert changed(net, y=torch.tensor([2, 1])).tolist() == [[False] * 4, [True] * 4]
    torch.testing.assert_close(net(X, T), net(X, T, 3))     # no label
    torch.testing.assert_close(net(X[1:], T[1:], Y[1:]), net(X, T, Y)[1:])


def test_its_config_makes_it_again():
    net = small(causal=True)
    again = VideoUNet(**json.loads(json.dumps(net.config))).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(X, T, Y), net(X, T, Y)) and again.config == net.config


def test_every_parameter_gets_a_gradient():
    net = small().train()
    net(X, T, Y).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    names = {id(p): name for name, p in net.named_parameters()}
    assert "middle.0.frames.qkv.weight" in {names[id(p)] for p in net.muon_parameters()}


def test_a_denoiser_of_clips_by_hand():
    """x0_hat = alpha x - sigma v with each frame's own alpha and sigma; each frame's time drawn."""
    net = small()
    D = Denoiser(net, COSINE, "v")
    alpha, sigma = (c(T)[..., None, None, None].float() for c in (COSINE.alpha, COSINE.sigma))
    torch.testing.assert_close(D(X, T, y=Y), alpha * X - sigma * net(X, T, Y))
    eps = torch.randn_like(X)
    v = alpha * eps - sigma * X
    error = (net(alpha * X + sigma * eps, T, Y) - v).square().flatten(1).mean(1)
    torch.testing.assert_close(D.loss(X, T, eps, y=Y), error)
    t, _ = D.draw_noise(X.expand(2, 4, 1, 8, 8), torch.Generator().manual_seed(0))
    assert t.shape == (2, 4) and len(t.unique()) == 8


def test_it_trains(runs):
    x = torch.zeros(32, 4, 1, 8, 8) - 1
    for f in range(4):
        x[:16, f, :, :, 2 * f] = 1                          # a line that moves to the right,
        x[16:, f, :, :, 6 - 2 * f] = 1                      # or to the left
    torch.manual_seed(0)
    D = Denoiser(VideoUNet(1, **SIZES), COSINE, "v")
    y = torch.arange(32) // 16
    D = train.train(D, (x, y), steps=30, batch_size=16, p_drop=0.2)
    g = torch.Generator().manual_seed(0)
    t, eps = torch.rand(32, 4, generator=g), torch.randn(x.shape, generator=g)
    before = Denoiser(VideoUNet(1, **SIZES), COSINE, "v").loss(x, t, eps, y=y).mean()
    assert D.done and D.loss(x, t, eps, y=y).mean() < 0.7 * before


@pytest.mark.parametrize("call, words", [
    (lambda n: n(X[:, 0], T[:, 0]), "takes clips"),
    (lambda n: n(X.expand(2, 4, 3, 8, 8), T), "takes clips"),
    (lambda n: n(X[..., :6], T), "multiples of 4"),
    (lambda n: n(X, T[:, :3]), r"per clip, \(2,\), or per frame, \(2, 4\); got \(2, 3\)"),
    (lambda n: n(X, 0.5), "per frame"),
    (lambda n: n(X, T.long()), "t must be one real number"),
    (lambda n: n(X, T, torch.tensor([0, 4])), "labels are integers from 0 to 2"),
    (lambda n: n(X, T, torch.zeros(8).long()), "labels are one whole number each"),
    (lambda n: VideoUNet(1, context_dim=8), "has no context_dim"),
    (lambda n: VideoUNet(1, extra_channels=1), "has no extra_channels"),
    (lambda n: VideoUNet(1, causal=1), "causal must be True or False"),
    (lambda n: VideoUNet(1, widths=(9,), num_heads=3), "even dim"),
])                                                                                   # fmt: skip
def test_one_sentence_of_the_network(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(small())


# ---- rollouts: a stationary AR(1) process, x_f = rho x_(f-1) + sqrt(1 - rho^2) z, is a clip whose
# denoiser is known, whatever the noise of each frame

RHO = 0.8


def covariance(*shape):
    rows, columns = (torch.arange(n).double() for n in shape)
    return RHO ** (rows[:, None] - columns).abs()


def exact(x, t):
    """E[x0 | x_t] of all frames together. x: (B, F, 1), t: (B, F)"""
    C = covariance(x.shape[1], x.shape[1])
    alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
    seen = alpha[:, :, None] * C * alpha[:, None] + torch.diag_embed(sigma**2)
    return C @ (alpha[..., None] * torch.linalg.solve(seen, x))


@pytest.mark.parametrize("level, noisy", [(0.0, False), (0.3, False), (0.3, True)])
def test_after_is_the_closed_form_conditional(level, noisy):
    """First the law of the new frames given the known ones, then their noise: two steps by hand."""
    g = torch.Generator().manual_seed(0)
    known, eps = torch.randn(2, 6, 3, 1, generator=g).double()
    x, t = torch.randn(6, 2, 1, generator=g).double(), torch.rand(6, generator=g).double()
    D = after(exact, COSINE, known, level, eps if noisy else None)
    C, alpha, sigma = covariance(5, 5), COSINE.alpha(level), COSINE.sigma(level)
    past = alpha * known + noisy * sigma * eps
    gain = alpha * C[3:, :3] @ (alpha**2 * C[:3, :3] + sigma**2 * torch.eye(3)).inverse()
    mean, rest = gain @ past, C[3:, 3:] - alpha * gain @ C[:3, 3:]
    for row, time in enumerate(t):
        a, s = COSINE.alpha(time), COSINE.sigma(time)
        update = a * rest @ (a**2 * rest + s**2 * torch.eye(2)).inverse()
        wanted = mean[row] + update @ (x[row] - a * mean[row])
        torch.testing.assert_close(D(x, t)[row], wanted)
        torch.testing.assert_close(D(x, time)[row], D(x, t)[row])       # one time for all clips
        torch.testing.assert_close(D(x, t[:, None].expand(6, 2)), D(x, t))


def test_a_known_frame_that_is_pure_noise_says_nothing():
    """At t = 0 of a Markov chain the last known frame says all; at t = 1 none says anything."""
    g = torch.Generator().manual_seed(1)
    known, x = (torch.randn(5, n, 1, generator=g).double() for n in (3, 1))
    seen = after(exact, COSINE, known, 0.0)(x, 1.0)
    torch.testing.assert_close(seen, RHO * known[:, -1:], atol=0.01, rtol=0)
    seen = after(exact, COSINE, known, 1.0, torch.randn(known.shape, generator=g).double())(x, 0.0)
    torch.testing.assert_close(seen, x)
    seen = after(exact, COSINE, known, 1.0, torch.randn(known.shape, generator=g).double())(x, 1.0)
    torch.testing.assert_close(seen, torch.zeros_like(x), atol=0.05, rtol=0)


@pytest.mark.parametrize("new", [1, 3])
def test_a_rollout_has_the_law_of_the_process(new):
    """n = 4000: variances within 4 standard errors, sqrt(2 / n); covariances have smaller ones.

    (32 steps of dpmpp change a variance by less than 0.003: a seventh of one.)
    """
    n, g = 4000, torch.Generator().manual_seed(0)
    known = torch.randn(n, 1, 1, generator=g).double()
    ts = timesteps(COSINE, 32)
    x = rollout(exact, COSINE, known, ts, 12, 4, new=new, sampler=dpmpp, generator=g)
    assert x.shape == (n, 13, 1) and torch.equal(x[:, :1], known)
    x = x[..., 0] - x[..., 0].mean(0)
    found = x.T @ x / n
    assert (found - covariance(13, 13)).abs().max() < 4 * (2 / n) ** 0.5


def test_a_past_that_is_not_trusted_correlates_less():
    """Of a frame seen as alpha x + sigma eps, E[x | seen] is alpha seen: a factor of alpha^2."""
    n, g, level = 4000, torch.Generator().manual_seed(0), 0.3
    known, ts = torch.randn(n, 1, 1, generator=g).double(), timesteps(COSINE, 32)
    how = {"t_known": level, "noisy": True, "sampler": dpmpp, "generator": g}
    x = rollout(exact, COSINE, known, ts, 1, 2, **how)
    wanted = RHO * COSINE.alpha(level) ** 2
    assert abs(torch.corrcoef(x[..., 0].T)[0, 1] - wanted) < 4 / n**0.5
    assert abs(x[:, 1].var() - 1) < 4 * (2 / n) ** 0.5


def test_the_window_slides():
    """Which frames D sees in each round, at which times."""
    seen = []

    def D(x, t):
        seen.append((x[0, :, 0].tolist(), t[0].tolist()))
        return torch.full_like(x, float(len(seen)))
    known = torch.tensor([[[-3.0], [-2.0], [-1.0]]])
    x = rollout(D, COSINE, known, [0.5, 0.0], 5, window=4, new=2)
    assert x.flatten().tolist() == [-3, -2, -1, 1, 1, 2, 2, 3]
    assert [frames[:-len(new)] for (frames, _), new in zip(seen, ([0, 0], [0, 0], [0]))] == [
        [-2, -1], [1, 1], [1, 2, 2]]
    assert [t for _, t in seen] == [[0, 0, 0.5, 0.5]] * 2 + [[0, 0, 0, 0.5]]


def test_a_short_clip_is_filled_with_pure_noise():
    """Up to the window, as in training; an exact denoiser learns nothing from it."""
    seen = []

    def D(x, t):
        seen.append((x[:, :, 0], t[0].tolist()))
        return exact(x, t)
    known, g = torch.randn(500, 1, 1).double(), torch.Generator().manual_seed(0)
    rollout(D, COSINE, known, [0.5, 0.0], 2, window=5, generator=g)
    assert [t for _, t in seen] == [[0, 0.5, 1, 1, 1], [0, 0, 0.5, 1, 1]]
    beyond = torch.cat([seen[0][0][:, 2:], seen[1][0][:, 3:]], 1)       # (500, 5)
    assert (beyond.T @ beyond / 500 - torch.eye(5).double()).abs().max() < 4 * (2 / 500) ** 0.5
    known, x, noise = (torch.randn(5, n, 1, generator=g).double() for n in (3, 2, 3))
    plain, filled = after(exact, COSINE, known), after(exact, COSINE, known, future=noise)
    near = {"atol": 1e-4, "rtol": 0}                                      # alpha(1) is not quite 0
    torch.testing.assert_close(filled(x, 0.5), plain(x, 0.5), **near)
    one = after(exact, COSINE, known[:1], future=noise[:1])
    torch.testing.assert_close(one(x, 0.5), after(exact, COSINE, known[:1])(x, 0.5), **near)


def test_the_known_frames_have_their_level():
    seen = []

    def D(x, t):
        seen.append((x[0, 0].item(), t[0].tolist()))
        return x
    known, ts = torch.ones(1, 1, 1), [0.5, 0.0]
    rollout(D, COSINE, known, ts, 1, 2, t_known=0.2)
    assert seen[0][1] == [0.2, 0.5] and seen[0][0] == pytest.approx(COSINE.alpha(0.2).item())
    g = torch.Generator().manual_seed(0)
    rollout(D, COSINE, known, ts, 1, 2, t_known=0.2, noisy=True, generator=g)
    eps = torch.randn(1, generator=g.manual_seed(0)).item()
    wanted = COSINE.alpha(0.2).item() + COSINE.sigma(0.2).item() * eps
    assert seen[1][0] == pytest.approx(wanted)


@pytest.mark.parametrize("sampler", [ddim, ancestral, heun, dpmpp, unipc])
def test_any_sampler_draws_what_follows(sampler):
    D = Denoiser(small(), COSINE, "v")
    ts = timesteps(COSINE, 3, start=0.9)
    follow = cfg(after(D, COSINE, X), 2.0, {"y": 3})
    noise = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = last(sampler(follow, COSINE, noise, ts, y=Y))
    assert x.shape == noise.shape and x.isfinite().all()
    other = last(sampler(cfg(after(D, COSINE, X.flip(1)), 2.0, {"y": 3}), COSINE, noise, ts, y=Y))
    assert not torch.allclose(x, other)
    g = torch.Generator()
    long = [rollout(D, COSINE, X[:, :1], ts, 3, 3, sampler=sampler, generator=g.manual_seed(0), y=Y)
            for _ in range(2)]
    assert long[0].shape == (2, 4, 1, 8, 8) and torch.equal(*long)


@pytest.mark.parametrize("call, words", [
    (lambda D: after(D, COSINE, X, 1.5), "t_known must be a number from 0 to 1"),
    (lambda D: after(D, COSINE, X[0, 0, 0]), "known frames must be a batch"),
    (lambda D: after(D, COSINE, X, 0.1, X[:1]), "eps must have the shape"),
    (lambda D: after(D, COSINE, X, future=X[:, :, :, :4]), "future frames must be"),
    (lambda D: after(D, COSINE, X, future="noise"), "future must be a tensor"),
    (lambda D: after(D, COSINE, X[:1], future=X)(torch.cat([X, X]), 0.5), "new frames must be"),
    (lambda D: after(D, Schedule.flow(), X), "pass D.schedule"),
    (lambda D: after(D, COSINE, X)(X[:, :1, :, :4], 0.5), "new frames must be"),
    (lambda D: after(D, COSINE, X)(X[:1, :1], 0.5), "new frames must be"),
    (lambda D: after(lambda x, t: x[:, 1:], COSINE, X)(X, 0.5), "prediction of x's shape"),
    (lambda D: rollout(D, COSINE, X, [0.5, 0], 0, 4), "frames must be"),
    (lambda D: rollout(D, COSINE, X, [0.5, 0], 1, 1), "window must be"),
    (lambda D: rollout(D, COSINE, X, [0.5, 0], 1, 4, new=4), "fewer than the window"),
    (lambda D: rollout(D, COSINE, X, [0, 0.5], 1, 4), "from noise to data"),
    (lambda D: rollout(D, COSINE, X, [0.5, 0], 1, 4, sampler="ddim"), "sampler must be a function"),
    (lambda D: FrameAttention(8)(torch.zeros(4, 8, 2, 2), 3), "whole clips of 3 frames"),
    (lambda D: rollout(D, COSINE, X, [0.5, 0], 1, 4, generator=0), "generator must be"),
    (lambda D: rollout(D, COSINE, X.byte(), [0.5, 0], 1, 4), "known frames must be floating"),
])                                                                                   # fmt: skip
def test_one_sentence_of_rollouts(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call(Denoiser(small(), COSINE, "v"))


def test_one_past_for_many_futures():
    """known (1, K, ...) stands for all."""
    D, x = Denoiser(small(), COSINE, "v"), X[:, :2]
    found = after(D, COSINE, X[:1])(x, 0.5, y=Y)
    torch.testing.assert_close(found, after(D, COSINE, X[:1].expand(2, 4, 1, 8, 8))(x, 0.5, y=Y))
