"""The training loop: it learns, resumes exactly, survives interruptions and damaged files, and says
clearly what it refuses."""
import copy
import math
import os
import signal
import time

import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import data, storage, train
from course_lib.lab.training import resume
from course_lib.lab.training.batches import BatchSampler, drop_conditions
from course_lib.lab.training.config import TrainConfig
from course_lib.lab.training.muon import Muon, orthogonalize
from course_lib.lab.training.state import TrainState
from course_lib.lab.training.tasks import Denoising
from course_lib.lab.training.validation import validate_data


class Points(nn.Module):
    """A small network for points in the plane, with labels."""
    num_classes = 2

    def __init__(self, hidden=64, depth=1):
        super().__init__()
        inner = [layer for _ in range(depth) for layer in (nn.Linear(hidden, hidden), nn.SiLU())]
        self.layers = nn.Sequential(
            nn.Linear(6, hidden), nn.SiLU(), *inner, nn.Linear(hidden, 2)
        )

    def forward(self, x, t, y=None):
        y = torch.full((len(x),), 2) if y is None else y
        return self.layers(torch.cat([x, t[:, None], nn.functional.one_hot(y, 3)], dim=1))


def denoiser():
    torch.manual_seed(0)
    return Denoiser(Points(), Schedule.cosine(), "v")


pytestmark = pytest.mark.usefixtures("runs")


CPU = torch.device("cpu")
X = data.two_moons(2000)
Y = (X[:, 1] > 0).long()
SHORT = dict(steps=60, batch_size=32, seed=3)


def weights(D):
    return torch.cat([p.flatten() for p in D.parameters()])


def state_of(D, rows, **options):
    """A run's state as `train` makes it, on the CPU."""
    config = TrainConfig(**options)
    own = {name: getattr(config, name) for name in ("p_drop", "time_sampler", "horizontal_flip")}
    task = Denoising(D, loss_weight=config.loss_weight, **own)
    batches = BatchSampler(validate_data(rows, D), config.batch_size, config.seed, CPU, task.draw)
    return TrainState(task, batches, config)


def test_it_learns(capsys):
    """On a mixture whose best possible loss is known: a tenth of the avoidable loss is left at most
    (training loss falls, too)."""
    centres = [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]]
    mixture, schedule = data.GaussianMixture(centres, 0.3), Schedule.cosine()
    x0 = mixture.sample(8000)
    torch.manual_seed(0)
    untrained = Denoiser(Points(128, 2), schedule, "v")
    D = train.train(copy.deepcopy(untrained), x0[:4000], steps=800, batch_size=256, lr=1e-2)
    test, t, eps = x0[4000:], torch.rand(4000).clamp(min=0.01), torch.randn(4000, 2)
    x = schedule.perturb(test, t, eps)
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    best_v = (alpha * x - mixture.denoiser(schedule)(x, t)) / sigma
    best = (best_v - (alpha * eps - sigma * test)).square().mean().item()
    before, after = (d.loss(test, t, eps).mean().item() for d in (untrained, D))
    assert best < after < best + 0.1 * (before - best) and not D.training
    said = capsys.readouterr().out
    assert "800 steps of 256" in said and "examples/s, loss" in said
    assert D.history[-1][0] == 800 and D.history[-1][1] < D.history[0][1]
    assert D.data_shape == (2,) and D.done


@pytest.mark.parametrize("options, exponent", [({}, 10), ({"ema_gamma": 5.0}, 6)])
def test_the_average_follows_the_power_rule(options, exponent):
    """The average of weights after k steps: (1 - 1/k)^(gamma + 1) of the old, the rest new (Karras
    et al. 2024); gamma is 9 unless given."""
    D = denoiser()
    state = state_of(D, (X, Y), batch_size=32, lr=1e-2, muon_lr=0.0, steps=100, **options)
    average = weights(state.ema).clone()
    for k in range(1, 6):
        state.advance()
        old = (1 - 1 / k) ** exponent
        average = old * average + (1 - old) * weights(D)
    torch.testing.assert_close(weights(state.ema), average)


def test_interrupted_and_resumed_is_the_same_as_never_stopped(monkeypatch, capsys):
    whole = train.train(denoiser(), (X, Y), **SHORT, run_name="whole")
    honest, stopped = TrainState.advance, []

    def interrupt(self):
        if self.step == 25 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        honest(self)
    monkeypatch.setattr(TrainState, "advance", interrupt)
    part = train.train(denoiser(), (X, Y), **SHORT, run_name="parts")
    said = capsys.readouterr().out
    assert "Stopped at step 25 (42%): the same call goes on from here." in said
    assert not part.done and not torch.equal(weights(part), weights(whole))
    rest = train.train(denoiser(), (X, Y), **SHORT, run_name="parts")
    assert "from step 25" in capsys.readouterr().out
    assert torch.equal(weights(rest), weights(whole)) and rest.history[-1][0] == 60
    assert rest.done and rest.data_shape == (2,)


IMAGES = torch.rand(200, 1, 8, 8) * 2 - 1


def small_unet():
    """Convolutions (in channels-last order), Muon, labels and dropout: all that a resumed run has
    to bring back."""
    torch.manual_seed(0)
    return Denoiser(UNet(1, (16, 32), num_classes=3, dropout=0.1), Schedule.cosine(), "v")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_ctrl_c_in_the_middle_of_a_step_is_held_back_and_nothing_is_lost(monkeypatch, precision):
    monkeypatch.setenv("COURSE_PRECISION", precision)
    labels, settings = torch.arange(200) % 3, dict(steps=12, batch_size=16)
    whole = train.train(small_unet(), (IMAGES, labels), **settings, run_name="whole")
    honest, calls = Muon.step, []
    handler = signal.getsignal(signal.SIGINT)               # a shell's "&" has it ignored

    def signalled(self):
        honest(self)
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(Muon, "step", signalled)
    train.train(small_unet(), (IMAGES, labels), **settings, run_name="parts")
    assert len(calls) == 5, "it stopped after the step during which Ctrl-C came"
    assert signal.getsignal(signal.SIGINT) is handler
    # the seed of the run does not depend on yours, nor touch it
    torch.manual_seed(99)
    rest = train.train(small_unet(), (IMAGES, labels), **settings, run_name="parts")
    assert len(calls) == 12 and torch.equal(weights(rest), weights(whole))


def test_training_leaves_your_random_numbers_alone():
    D = small_unet()
    torch.manual_seed(5)
    train.train(D, IMAGES, steps=2, batch_size=16)
    after = torch.randn(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.randn(3))


# ---- Muon

def test_orthogonalize():
    """Singular values near 1, singular vectors kept, each matrix as if it were alone; the
    polynomial against its definition."""
    g = torch.Generator().manual_seed(0)
    shapes = ((32, 100), (100, 32), (64, 64), (32, 50))
    matrices = [torch.randn(shape, generator=g) for shape in shapes]
    for m, o in zip(matrices, orthogonalize(matrices)):
        assert o.shape == m.shape
        u, s, v = torch.linalg.svd(m.double(), full_matrices=False)
        s = s / m.double().norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        assert 0.6 < s.min() and s.max() < 1.3
        torch.testing.assert_close(o.double(), u * s @ v, atol=2e-3, rtol=0)
        torch.testing.assert_close(o, orthogonalize([m])[0], atol=1e-5, rtol=0)


def test_muon_steps_by_hand():
    """Two steps with different gradients: m = 0.9 m + 0.1 g, the direction 0.9 m + 0.1 g made
    orthogonal (Nesterov), decay 0.5."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(8, 4, 3, 3, generator=g)
    gradients = torch.randn(2, 8, 4, 3, 3, generator=g)
    parameter, m = nn.Parameter(w.clone()), torch.zeros_like(w)
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        step = orthogonalize([(0.9 * m + 0.1 * gradient).flatten(1)])[0].view_as(w)
        w = w * (1 - 0.1 * 0.5) - 0.1 * step
        torch.testing.assert_close(parameter.detach(), w)


def test_muon_descends():
    """Sixty steps towards the least square, for convolution kernels."""
    w = nn.Parameter(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    before, optimizer = w.detach().norm(), Muon([w], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        w.square().sum().backward()
        optimizer.step()
    assert w.norm() < 0.5 * before


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="from torch 2.9 on")
@pytest.mark.parametrize("shape", [(24, 60), (40, 40), (60, 24)])
def test_muon_beside_torch_s(shape):
    """What muon.py says of torch.optim.Muon: the same steps up to bf16, but for
    (rows / columns)^0.5 on matrices with more rows than columns."""
    g = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=g), torch.randn(3, *shape, generator=g)
    moved = []
    for optimizer in (Muon, torch.optim.Muon):
        w = nn.Parameter(start.clone())
        optimizer = optimizer([w], lr=0.1, momentum=0.9, weight_decay=0.0)
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
        moved.append(w.detach() - start)
    ours, theirs = moved[0] * max(1, shape[0] / shape[1]) ** 0.5, moved[1]
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_muon_takes_groups_and_refuses_vectors():
    w, v = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    optimizer = Muon([{"params": [w], "lr": 0.5}, {"params": [v]}], lr=0.1, weight_decay=0.0)
    w.grad = torch.eye(3)
    v.grad = torch.eye(3)
    optimizer.step()
    torch.testing.assert_close(w - torch.eye(3), 5 * (v - torch.eye(3)))
    with pytest.raises(ValueError, match=r"Muon moves matrices; got a parameter of shape \(3,\)"):
        Muon([nn.Parameter(torch.ones(3))])


def test_muon_moves_the_inner_matrices_only():
    net = UNet(1, (16,), num_classes=3)
    inner = {id(p) for p in net.muon_parameters()}
    names = {name for name, p in net.named_parameters() if id(p) in inner}
    assert not names & {"stem.weight", "out.weight", "label.weight"}
    assert {"down.0.block.conv1.weight", "middle.0.attention.qkv.weight"} <= names
    assert all(name.endswith("weight") and "norm" not in name for name in names)


def test_muon_moves_what_the_network_says():
    """Not what a layer is called: `muon_parameters()` alone decides, and muon_lr = 0 gives all to
    AdamW."""
    class Chosen(Points):
        def muon_parameters(self):
            return [self.layers[2].weight]

    def shapes(net, muon_lr):
        D = Denoiser(net, Schedule.cosine(), "v")
        state = state_of(D, X, steps=10, muon_lr=muon_lr)
        kinds = [type(o).__name__ for o in state.optimizers]
        groups = [o.param_groups for o in state.optimizers]
        counts = [sum(p.numel() for g in group for p in g["params"]) for group in groups]
        assert sum(counts) == sum(p.numel() for p in net.parameters())
        return kinds, counts[-1], state.rates
    assert shapes(Chosen(), 0.03) == (["AdamW", "Muon"], 64 * 64, (4e-3, 0.03))
    assert shapes(Chosen(), 0.0)[0] == ["AdamW"] and shapes(Points(), 0.03)[0] == ["AdamW"]


# ---- what a run keeps, and what it does not confuse

def test_a_finished_run_is_loaded_not_repeated(capsys, monkeypatch):
    first = train.train(denoiser(), X, **SHORT, run_name="once")
    monkeypatch.setattr(TrainState, "advance", lambda self: pytest.fail("trained again"))
    seen = []
    again = train.train(
        denoiser(), X, **SHORT, run_name="once", callback=lambda D, done: seen.append(done)
    )
    assert "finished before (60 steps), loaded" in capsys.readouterr().out
    assert torch.equal(weights(first), weights(again)) and again.done and seen == [1.0]


def test_what_makes_an_experiment_another(capsys):
    """Labels, betas, targets and the network's options: none of them may be mistaken for the run
    before."""
    def start(D=None, rows=(X, Y), **options):
        D = D or denoiser()
        train.train(D, rows, **({"steps": 2, "batch_size": 32} | options), run_name="run")
        return "other settings" in capsys.readouterr().out

    def points(schedule, target="v", **options):
        torch.manual_seed(0)
        return Denoiser(Points(), schedule, target, **options)
    assert not start() and not start()
    halved = Schedule.from_betas(torch.linspace(1e-4, 0.02, 100) / 2)
    assert start(rows=X) and start(rows=(X, 1 - Y)) and start(rows=(X * 0.5, Y))
    assert start(points(Schedule.from_betas(torch.linspace(1e-4, 0.02, 100))))
    assert start(points(halved)) and start(points(halved, "eps"))
    assert start(points(halved, "eps", time_transform=lambda t: 2 * t))

    def mine():
        return points(Schedule.cosine(), lambda alpha, sigma: (-sigma, 2 * alpha))
    assert start(mine()) and not start(mine()), "a function as target is known by what it computes"
    assert not start(mine(), max_seconds=100.0, save_every=1.0), "these change no weights"
    for option in (
        {"steps": 3},
        {"batch_size": 31},
        {"seed": 1},
        {"lr": 1e-3},
        {"muon_lr": 0.01},
        {"weight_decay": 0.0},
        {"warmup": 0.5},
        {"clip_grad_norm": 1.0},
        {"accumulation_steps": 2},
        {"ema_gamma": 5.0},
        {"p_drop": 0.3},
        {"null": {"y": 0}},
        {"loss_weight": lambda log_snr: log_snr.exp().clamp(max=5.0)},
        {"time_sampler": lambda u: u**2},
    ):
        start(mine())
        assert start(mine(), **option), option


def test_another_experiment_does_not_overwrite(runs, capsys):
    train.train(denoiser(), X, **SHORT, run_name="run")
    saved = (runs / "run/state.safetensors").read_bytes()
    train.train(denoiser(), X, **(SHORT | {"seed": 4}), run_name="run")
    said = capsys.readouterr().out
    assert "holds a run with other settings: other seed (3, now 4). This one is kept in" in said
    assert (runs / "run/state.safetensors").read_bytes() == saved
    again = train.train(denoiser(), X, **(SHORT | {"seed": 4}), run_name="run")
    assert again.run_folder == runs / "run.1" and "finished before" in capsys.readouterr().out


def test_progress_is_the_fraction_of_the_steps_or_of_the_seconds():
    by_clock, by_steps = (state_of(denoiser(), X, **{name: 8}) for name in ("seconds", "steps"))
    by_clock.elapsed = 2.0
    by_steps.step = 6
    assert by_clock.progress() == 0.25 and by_steps.progress() == 0.75


def test_time_limited_runs_stop_and_count_only_training(runs):
    seen = []

    def slow(D, done):
        seen.append(done)
        time.sleep(0.3)
    D = train.train(denoiser(), X, seconds=0.5, batch_size=32, callback=slow, run_name="timed")
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) <= 5 and D.history
    seen.clear()
    train.train(denoiser(), X, steps=3, batch_size=32, callback=lambda D, done: seen.append(done))
    assert seen == [1 / 3, 2 / 3, 1], "the end is always shown"
    with pytest.raises(ZeroDivisionError):
        train.train(
            denoiser(),
            X,
            steps=8,
            batch_size=32,
            run_name="careless",
            callback=lambda D, done: 1 / 0,
        )
    kept = "what was trained before the careless callback is kept"
    assert (runs / "careless/state.safetensors").exists(), kept
    assert storage.load_tensors(runs / "timed/state.safetensors")[1]["elapsed"] >= 0.5
    steps = D.history[-1][0]
    assert steps > 1, "the seconds are spent in training, not in the callback"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_state_is_named_and_kept(runs, damage):
    train.train(denoiser(), X, **SHORT, run_name="run")
    file = runs / "run/state.safetensors"
    raw = bytearray(file.read_bytes())
    if damage == "flipped":
        raw[-100] ^= 1
    length = {"truncated": len(raw) // 2, "flipped": len(raw), "empty": 0}[damage]
    file.write_bytes(bytes(raw[:length]))
    with pytest.raises(OSError, match="state.safetensors is (not a whole checkpoint|damaged)"):
        train.train(denoiser(), X, **SHORT, run_name="run")
    assert file.exists()


def test_precision_asked_for_comes_before_the_saved_one(monkeypatch, capsys):
    """The advice of the error message must work: a run begun in bf16 goes on in fp32 on demand."""
    monkeypatch.setenv("COURSE_PRECISION", "bfloat16")
    settings = dict(steps=6, batch_size=16, run_name="run")
    honest = TrainState.advance

    def interrupt(self):
        if self.step == 3 and self.dtype != torch.float32:
            raise KeyboardInterrupt
        honest(self)
    monkeypatch.setattr(TrainState, "advance", interrupt)
    train.train(small_unet(), IMAGES, **settings)
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    train.train(small_unet(), IMAGES, **settings)
    said = capsys.readouterr().out
    assert "in bfloat16" in said and "from step 3 on cpu in float32" in said


def test_the_saved_precision_comes_before_the_machine_s(monkeypatch, capsys):
    """A run begun in bf16 goes on in bf16 where the other machine would choose fp32."""
    from course_lib.lab.training import device
    monkeypatch.delenv("COURSE_PRECISION")
    honest = TrainState.advance

    def interrupt(self):
        if self.step == 3 and len(stopped) < 1:
            stopped.append(1)
            raise KeyboardInterrupt
        honest(self)
    stopped = []
    monkeypatch.setattr(TrainState, "advance", interrupt)
    for capable in (True, False):
        monkeypatch.setattr(device, "_cpu_has_bf16", lambda capable=capable: capable)
        D = train.train(small_unet(), IMAGES, steps=6, batch_size=16, run_name="run")
    said = capsys.readouterr().out
    assert D.done and "from step 3 on cpu in bfloat16" in said


def test_weights_that_are_not_numbers_are_never_saved(runs):
    train.train(denoiser(), X, steps=2, batch_size=32, run_name="run")
    saved = (runs / "run/state.safetensors").read_bytes()
    state = state_of(denoiser(), X, steps=2, batch_size=32)
    nn.init.constant_(state.model.net.layers[0].weight, math.inf)
    with pytest.raises(FloatingPointError):
        resume.save(state, runs / "run")
    assert (runs / "run/state.safetensors").read_bytes() == saved


def test_a_loss_that_explodes_stops_with_a_sentence():
    with pytest.raises(FloatingPointError, match="the loss is not finite.*lower lr"):
        D = denoiser()
        nn.init.constant_(D.net.layers[0].weight, math.nan)
        train.train(D, X, **SHORT)


# ---- what is refused

@pytest.mark.parametrize("bad, error, sentence", [
    (torch.zeros(5, 1, 4, 4, dtype=torch.uint8), TypeError, "scale with x / 127.5 - 1"),
    (torch.full((5, 1, 4, 4), 200.0), ValueError, r"images must lie in \[-1, 1\]; got \[200, 2"),
    (torch.full((5, 3, 4, 4), -2.0), ValueError, "for standardised images or latents pass data_r"),
    (torch.tensor([[0.0, math.inf]]), ValueError, "1 values that are not finite"),
    ({"x0": torch.zeros(1, 2), "c": torch.full((1, 3), math.nan)}, ValueError, "c has 3 values"),
    ((torch.zeros(5, 2), torch.zeros(4)), ValueError, "must have one length"),
    ({"x0": torch.zeros(5, 2), "c": torch.tensor(1.0)}, ValueError, "must have one length"),
    (torch.zeros(0, 2), ValueError, "not zero"),
    ([1, 2], TypeError, "images must be PIL's, tensors or arrays; got a int"),
    ((torch.zeros(2, 2), "01"), TypeError, "the labels must be a tensor; got '01'"),
    ({"x": torch.zeros(2)}, TypeError, "with \"x0\""),
    ({}, TypeError, "with \"x0\""),
    ((torch.zeros(5, 2), torch.tensor([0, 1, 2, 0, 0])), ValueError, "integers from 0 to 1"),
    ((torch.zeros(5, 2), torch.zeros(5)), ValueError, "labels are integers from 0 to 1"),
    (
        (torch.zeros(5, 2), torch.eye(2)[[0, 1, 0, 1, 0]]),
        ValueError,
        r"labels are one whole number per example, \(N,\); got \(5, 2\): pass y.argmax\(1\)",
    ),
])
def test_bad_data(bad, error, sentence):
    with pytest.raises(error, match=sentence):
        train.train(denoiser(), bad, steps=1)


def test_labels_may_be_whole_numbers_of_any_size():
    for kind in (torch.uint8, torch.int32):
        D = train.train(denoiser(), (X, Y.to(kind)), steps=2, batch_size=16)
        whole = train.train(denoiser(), (X, Y), steps=2, batch_size=16)
        assert torch.equal(weights(D), weights(whole))


def test_images_in_0_1_warn_at_the_caller_s_line(recwarn):
    x = torch.rand(20, 1, 8, 8)
    D = Denoiser(UNet(1, (16,)), Schedule.cosine(), "v")
    sentence = r"lie in \[0, 1\].*2 \* x - 1.*data_range=\(0, 1\)"
    with pytest.warns(UserWarning, match=sentence) as said:
        train.train(D, x, steps=1, batch_size=4)
    assert said[0].filename == __file__
    train.train(D, x, steps=1, batch_size=4, data_range=(0, 1))
    train.train(D, x, steps=1, batch_size=4, data_range=None)
    train.train(D, 2 * x - 1, steps=1, batch_size=4)
    train.train(denoiser(), X.clamp(0, 1), steps=1)
    assert not [w for w in recwarn if "lie in" in str(w.message)]


def test_how_long_must_be_said_once():
    for arguments in (
        {},
        {"steps": 1, "seconds": 1},
        {"steps": 0},
        {"steps": -1},
        {"seconds": 0},
        {"seconds": math.nan},
        {"steps": 1, "batch_size": 0},
    ):
        with pytest.raises(ValueError, match="either steps=... or seconds=..., above 0"):
            train.train(denoiser(), X, **arguments)


@pytest.mark.parametrize("wrong, sentence", [
    ({"step": 3}, r"train has no 'step' \(did you mean steps\?\): it has steps, seconds, batch"),
    ({"batch": 3}, r"train has no 'batch' \(did you mean batch_size\?\)"),
    ({"qqq": 3}, "train has no 'qqq': it has steps"),
    ({"batch_size": "many"}, "batch_size must be a whole number; got 'many'"),
    ({"batch_size": 16.0}, "batch_size must be a whole number; got 16.0"),
    ({"batch_size": True}, "batch_size must be a whole number; got True"),
    ({"seed": None}, "seed must be a whole number; got None"),
    ({"lr": "fast"}, "lr must be a number; got 'fast'"),
    ({"lr": math.nan}, "lr must be at least 0; got nan"),
    ({"lr": -1.0}, "lr must be at least 0; got -1.0"),
    ({"p_drop": 10}, "p_drop must be from 0 to 1; got 10"),
    ({"accumulation_steps": 0}, "accumulation_steps must be at least 1; got 0"),
    ({"horizontal_flip": "no"}, "horizontal_flip must be true or false; got 'no'"),
    ({"compile": 1}, "compile must be true or false; got 1"),
    ({"loss_weight": "min_snr"}, "loss_weight must be a function of a tensor .B,.; got 'min_snr'"),
    ({"time_sampler": 0.5}, "time_sampler must be a function of a tensor .B,.; got 0.5"),
    ({"data_range": (1, -1)}, "data_range must be two numbers, low and high, or none; got .1, -1."),
])
def test_options_that_cannot_be_right(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        train.train(denoiser(), X, **({"steps": 1} | wrong))


def test_options_from_a_config_and_by_name():
    """An option of the call comes before the config's; its length replaces the config's."""
    config = TrainConfig(seconds=100.0, batch_size=16, lr=1e-3)
    D = train.train(denoiser(), X, config=config, steps=3)
    again = train.train(denoiser(), X, steps=3, batch_size=16, lr=1e-3)
    assert D.history[-1][0] == 3 and torch.equal(weights(D), weights(again))
    other = train.train(denoiser(), X, config=config, steps=3, lr=1e-2)
    assert not torch.equal(weights(D), weights(other))
    with pytest.raises(ValueError, match="either steps"):
        train.train(denoiser(), X, config=config, steps=3, seconds=3.0)


def test_without_warmup_the_first_step_is_whole():
    state = state_of(denoiser(), X, steps=10, warmup=0.0, muon_lr=0.0, lr=1e-2)
    state.advance()
    assert state.optimizers[0].param_groups[0]["lr"] == 1e-2
    state = state_of(denoiser(), X, steps=10, warmup=0.5, muon_lr=0.0, lr=1e-2)
    rates = []
    for _ in range(10):
        state.advance()
        rates.append(state.optimizers[0].param_groups[0]["lr"])
    risen = [min(1.0, k / 5 + 0.01) * (1 - k / 10) * 1e-2 for k in range(10)]
    assert rates == pytest.approx(risen)


# ---- batches

def test_batches():
    """Times are spread evenly, an epoch has every example once, and batch k is always the same."""
    x = torch.arange(64.0)[:, None]
    batches = state_of(denoiser(), x.expand(64, 2), steps=1, batch_size=16, p_drop=0.0).batches
    t = batches[0]["t"]
    assert ((t > 0) & (t <= 1)).all()
    assert (t.sort().values * 16).ceil().tolist() == list(range(1, 17))
    seen = torch.cat([batches[k]["x0"][:, 0] for k in range(4)])
    assert sorted(seen.tolist()) == list(range(64))
    assert torch.equal(batches[7]["eps"], batches[7]["eps"])
    assert not torch.equal(batches[7]["x0"], batches[3]["x0"])
    eps = torch.cat([batches[k]["eps"] for k in range(200)])
    assert abs(eps.std() - 1) < 0.05


def test_drop():
    y, kept = torch.arange(10).repeat(2000), torch.ones(20_000, 2)
    g = torch.Generator().manual_seed(0)
    got = drop_conditions({"y": y, "other": kept}, {"y": 10}, 0.1, g)
    assert (got["y"] == 10).double().mean() == pytest.approx(0.1, abs=0.01) and got["other"] is kept
    assert torch.equal(got["y"][got["y"] != 10], y[got["y"] != 10])
    context = drop_conditions({"c": torch.ones(4, 3, 5)}, {"c": 0.0}, 1.0, torch.Generator())
    assert (context["c"] == 0).all() and context["c"].shape == (4, 3, 5)
    pair = {"y": y, "z": y.clone()}
    both = drop_conditions(pair, {"y": 10, "z": 10}, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(both["y"] == 10, both["z"] == 10), "all conditions of an example, or none"


def test_fp16_with_its_gradient_scaler(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "float16")
    D = train.train(denoiser(), (X, Y), steps=30, batch_size=32)
    assert weights(D).isfinite().all()


@pytest.mark.parametrize("null", ("its num_classes", "its null"))
def test_labels_are_dropped_without_being_asked(null):
    """A network that has labels is trained without them too, whether it names its null or only
    counts its classes."""
    seen = []

    class Listening(Points):
        def forward(self, x, t, y=None):
            seen.append(y)
            return super().forward(x, t, y)
    torch.manual_seed(0)
    net = Listening()
    if null == "its null":
        net.null = {"y": 1}                                 # taken at its word
    data = (torch.randn(400, 2), torch.zeros(400, dtype=torch.long))
    D = Denoiser(net, Schedule.cosine(), "v")
    train.train(D, data, steps=4, batch_size=100, p_drop=0.5)
    dropped = (torch.cat(seen) == (1 if null == "its null" else 2)).float().mean()
    assert abs(dropped - 0.5) < 5 * (0.25 / 400) ** 0.5


# ---- files

def test_save_and_load(tmp_path):
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16,), num_classes=3), Schedule.linear(200), "eps")
    D.data_shape = (1, 8, 8)
    nn.init.normal_(D.net.out.weight)
    train.save(D, tmp_path / "small.safetensors", data="none", steps=0)
    again = train.load(tmp_path / "small.safetensors")
    x, t, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 3])
    torch.testing.assert_close(again(x, t, y=y), D.eval()(x, t, y=y), atol=2e-2, rtol=2e-2)
    assert repr(again.schedule) == repr(D.schedule) and again.target == "eps"
    assert again.about == {"data": "none", "steps": 0} and again.data_shape == (1, 8, 8)
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    edm = Denoiser(D.net, Schedule.edm(), "edm", sigma_data=0.3)
    train.save(edm, tmp_path / "edm.safetensors")
    again = train.load(tmp_path / "edm.safetensors")
    torch.testing.assert_close(again(x, t, y=y), edm(x, t, y=y), atol=2e-2, rtol=2e-2)
    with pytest.raises(ValueError, match="only a course network"):
        timed = Denoiser(D.net, D.schedule, "eps", time_transform=lambda t: 2 * t)
        train.save(timed, tmp_path / "timed.safetensors")
    with pytest.raises(ValueError, match="only a course network"):
        train.save(denoiser(), tmp_path / "points.safetensors")


def test_load_says_what_a_file_is_not(runs, tmp_path):
    D = Denoiser(UNet(1, (16,)), Schedule.linear(200), "eps")
    train.save(D, tmp_path / "small.safetensors")
    raw = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(OSError, match="short.safetensors is not a whole checkpoint"):
        train.load(tmp_path / "short.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*nosuch.safetensors"):
        train.load(tmp_path / "nosuch.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'mnits': there are .*mnist_small, "):
        train.load("mnits")
    file = tmp_path / "other.safetensors"
    for header, sentence in (
        ({}, "does not hold a model"),
        ({"format": 2, "net": ["Net", {}]}, "does not hold a model"),
        ({"net": ["UNet", {}], "schedule": ["cosine", {}]}, "saved by an earlier version"),
    ):
        storage.save_tensors(file, {"x": torch.ones(1)}, header)
        with pytest.raises(OSError, match=sentence):
            train.load(file)
    with pytest.raises(OSError, match="does not hold a model"):
        train.load("mnist_style_judge")
    train.train(denoiser(), X, steps=1, run_name="run")
    with pytest.raises(OSError, match="is the state of a run, not a model"):
        train.load(runs / "run/state.safetensors")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    storage.save_tensors(file, {"x": torch.ones(3)}, {"n": 1})

    def dies(tensors, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")
    monkeypatch.setattr(storage, "save_file", dies)
    with pytest.raises(OSError, match="disk full"):
        storage.save_tensors(file, {"x": torch.zeros(3)}, {"n": 2})
    tensors, header = storage.load_tensors(file)
    assert tensors["x"].tolist() == [1, 1, 1] and header["n"] == 1


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """A reader of a running training may meet the header of one file and the tensors of another."""
    file = tmp_path / "a.safetensors"
    storage.save_tensors(file, {"x": torch.ones(3)}, {"n": 1})
    honest, met = storage.safe_open, []

    def replaced(path, **kwargs):
        if not met:
            met.append(1)
            storage.save_tensors(file, {"x": torch.zeros(3)}, {"n": 2})
            raise storage.SafetensorError("half of each")
        return honest(path, **kwargs)
    monkeypatch.setattr(storage, "safe_open", replaced)
    tensors, header = storage.load_tensors(file)
    assert header["n"] == 2 and tensors["x"].tolist() == [0, 0, 0]
