"""The training loop: it learns, resumes exactly, survives interruptions and damaged files, and says clearly what it refuses."""
import copy
import math
import os
import signal
import time

import pytest
import torch
from torch import nn

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import checkpoint, data, train
from course_lib.lab.muon import Muon, orthogonalize
from course_lib.lab.batches import Batches, drop
from course_lib.lab.run import Run


class Points(nn.Module):
    """A small network for points in the plane, with labels."""
    num_classes = 2

    def __init__(self, hidden=64, depth=1):
        super().__init__()
        inner = [layer for _ in range(depth) for layer in (nn.Linear(hidden, hidden), nn.SiLU())]
        self.layers = nn.Sequential(nn.Linear(6, hidden), nn.SiLU(), *inner, nn.Linear(hidden, 2))

    def forward(self, x, t, y=None):
        y = torch.full((len(x),), 2) if y is None else y
        return self.layers(torch.cat([x, t[:, None], nn.functional.one_hot(y, 3)], dim=1))


def denoiser():
    torch.manual_seed(0)
    return Denoiser(Points(), Schedule.cosine(), "v")


pytestmark = pytest.mark.usefixtures("runs")


X = data.two_moons(2000)
Y = (X[:, 1] > 0).long()
SHORT = dict(steps=60, batch=32, seed=3)
weights = lambda D: torch.cat([p.flatten() for p in D.net.parameters()])


def test_it_learns(capsys):
    """On a mixture whose best possible loss is known: a tenth of the avoidable loss is left at most (training loss falls, too)."""
    mixture, schedule = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], 0.3), Schedule.cosine()
    x0 = mixture.sample(8000)
    torch.manual_seed(0)
    untrained = Denoiser(Points(128, 2), schedule, "v")
    D = train.train(copy.deepcopy(untrained), x0[:4000], steps=800, batch=256, lr=1e-2)
    test, t, eps = x0[4000:], torch.rand(4000).clamp(min=0.01), torch.randn(4000, 2)
    x, (alpha, sigma) = schedule.perturb(test, t, eps), (schedule.alpha(t)[:, None], schedule.sigma(t)[:, None])
    best_v = (alpha * x - mixture.denoiser(schedule)(x, t)) / sigma
    best = (best_v - (alpha * eps - sigma * test)).square().mean().item()
    before, after = (d.loss(test, t, eps).mean().item() for d in (untrained, D))
    assert best < after < best + 0.1 * (before - best) and not D.training
    said = capsys.readouterr().out
    assert "800 steps of 256" in said and "examples/s, loss" in said
    assert D.history[-1][0] == 800 and D.history[-1][1] < D.history[0][1]


def test_the_average_follows_the_power_rule():
    """The average of weights after k steps: (1 - 1/k)^10 of the old, the rest new (Karras et al. 2024, gamma + 1 = 10)."""
    D = denoiser()
    run = Run(D, Batches(train.checked_data((X, Y)), 32, 0.1, {"y": 2}, 0, torch.device("cpu")), 1e-2, 0.0, 100, None)
    average = weights(run.ema).clone()
    for k in range(1, 6):
        run.advance()
        average = (1 - 1 / k) ** 10 * average + (1 - (1 - 1 / k) ** 10) * weights(D)
    torch.testing.assert_close(weights(run.ema), average)


def test_interrupted_and_resumed_is_the_same_as_never_stopped(monkeypatch, capsys):
    whole = train.train(denoiser(), (X, Y), **SHORT, out="whole")
    honest, stopped = Run.advance, []

    def interrupt(self):
        if self.step == 25 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        honest(self)
    monkeypatch.setattr(Run, "advance", interrupt)
    part = train.train(denoiser(), (X, Y), **SHORT, out="parts")
    assert "Stopped at step 25 (42%): the same call goes on from here." in capsys.readouterr().out
    assert not torch.equal(weights(part), weights(whole))
    rest = train.train(denoiser(), (X, Y), **SHORT, out="parts")
    assert "from step 25" in capsys.readouterr().out
    assert torch.equal(weights(rest), weights(whole)) and rest.history[-1][0] == 60


IMAGES = torch.rand(200, 1, 8, 8) * 2 - 1


def small_unet():
    """Convolutions (in channels-last order), Muon, labels and dropout: all that a resumed run has to bring back."""
    torch.manual_seed(0)
    return Denoiser(UNet(1, (16, 32), num_classes=3, dropout=0.1), Schedule.cosine(), "v")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_ctrl_c_in_the_middle_of_a_step_is_held_back_and_nothing_is_lost(monkeypatch, precision):
    monkeypatch.setenv("COURSE_PRECISION", precision)
    labels, settings = torch.arange(200) % 3, dict(steps=12, batch=16)
    whole = train.train(small_unet(), (IMAGES, labels), **settings, out="whole")
    honest, calls = Muon.step, []

    def signalled(self):
        honest(self)
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(Muon, "step", signalled)
    train.train(small_unet(), (IMAGES, labels), **settings, out="parts")
    assert len(calls) == 5, "it stopped after the step during which Ctrl-C came"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    torch.manual_seed(99)                                   # the seed of the run does not depend on yours, nor touch it
    rest = train.train(small_unet(), (IMAGES, labels), **settings, out="parts")
    assert len(calls) == 12 and torch.equal(weights(rest), weights(whole))


def test_training_leaves_your_random_numbers_alone():
    D = small_unet()
    torch.manual_seed(5)
    train.train(D, IMAGES, steps=2, batch=16)
    after = torch.randn(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.randn(3))


def test_orthogonalize():
    """Singular values near 1, singular vectors kept, each matrix as if it were alone; the polynomial against its definition."""
    g = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=g) for shape in ((32, 100), (100, 32), (64, 64), (32, 50))]
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
    """Two steps with different gradients: m = 0.9 m + 0.1 g, the direction 0.9 m + 0.1 g made orthogonal (Nesterov), decay 0.5."""
    g = torch.Generator().manual_seed(0)
    w, gradients = torch.randn(8, 4, 3, 3, generator=g), torch.randn(2, 8, 4, 3, 3, generator=g)
    parameter, m = nn.Parameter(w.clone()), torch.zeros_like(w)
    optimizer = Muon([parameter], lr=0.1, momentum=0.9, weight_decay=0.5)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        m = 0.9 * m + 0.1 * gradient
        w = w * (1 - 0.1 * 0.5) - 0.1 * orthogonalize([(0.9 * m + 0.1 * gradient).flatten(1)])[0].view_as(w)
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


def test_muon_moves_the_inner_matrices_only():
    from course_lib.lab.run import inner_matrices
    net = UNet(1, (16,), num_classes=3)
    inner = {id(p) for p in inner_matrices(net)}
    names = {name for name, p in net.named_parameters() if id(p) in inner}
    assert "stem.weight" not in names and "out.weight" not in names and "label.weight" not in names and "down.0.block.conv1.weight" in names and "middle.0.attend.qkv.weight" in names
    assert all(name.endswith("weight") and "norm" not in name for name in names)


def test_a_finished_run_is_loaded_not_repeated(capsys, monkeypatch):
    first = train.train(denoiser(), X, **SHORT, out="once")
    monkeypatch.setattr(Run, "advance", lambda self: pytest.fail("trained again"))
    again = train.train(denoiser(), X, **SHORT, out="once")
    assert "finished before (60 steps), loaded" in capsys.readouterr().out and torch.equal(weights(first), weights(again))


def test_what_makes_an_experiment_another(capsys):
    """Labels, betas, targets and the network's options: none of them may be mistaken for the run before."""
    def start(D=None, rows=(X, Y)):
        train.train(D or denoiser(), rows, steps=2, batch=32, out="run")
        return "moved to" in capsys.readouterr().out
    assert not start() and not start()
    betas = torch.linspace(1e-4, 0.02, 100)
    assert start(rows=X) and start(rows=(X, 1 - Y)) and start(rows=(X * 0.5, Y))
    assert start(Denoiser(Points(), Schedule.from_betas(betas), "v")) and start(Denoiser(Points(), Schedule.from_betas(betas / 2), "v"))
    assert start(Denoiser(Points(), Schedule.from_betas(betas / 2), "eps")) and start(Denoiser(Points(), Schedule.from_betas(betas / 2), "eps", time=lambda t: 2 * t))
    mine = lambda: Denoiser(Points(), Schedule.cosine(), lambda alpha, sigma: (-sigma, alpha))
    assert start(mine()) and not start(mine()), "a function as target is known by what it computes"


def test_another_experiment_does_not_overwrite(runs, capsys):
    train.train(denoiser(), X, **SHORT, out="run")
    saved = (runs / "run/state.safetensors").read_bytes()
    train.train(denoiser(), X, steps=60, batch=32, seed=4, out="run")
    assert "other settings: moved to" in capsys.readouterr().out and (runs / "run.1/state.safetensors").read_bytes() == saved


def test_time_limited_runs_stop_and_count_only_training(runs):
    seen = []
    D = train.train(denoiser(), X, seconds=0.5, batch=32, watch=lambda D, done: (seen.append(done), time.sleep(0.3)), out="timed")
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) <= 5 and D.history
    seen.clear()
    train.train(denoiser(), X, steps=3, batch=32, watch=lambda D, done: seen.append(done))
    assert seen == [1 / 3, 2 / 3, 1], "the end is always shown"
    with pytest.raises(ZeroDivisionError):
        train.train(denoiser(), X, steps=8, batch=32, out="careless", watch=lambda D, done: 1 / 0)
    assert (runs / "careless/state.safetensors").exists(), "what was trained before the careless watch is kept"
    assert checkpoint.load_tensors(runs / "timed/state.safetensors")[1]["elapsed"] >= 0.5
    steps = D.history[-1][0]
    assert steps > 1, "the seconds are spent in training, not in watch"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_state_is_named_and_kept(runs, damage):
    train.train(denoiser(), X, **SHORT, out="run")
    file = runs / "run/state.safetensors"
    raw = bytearray(file.read_bytes())
    if damage == "flipped":
        raw[-100] ^= 1
    file.write_bytes(bytes(raw[: {"truncated": len(raw) // 2, "flipped": len(raw), "empty": 0}[damage]]))
    with pytest.raises(OSError, match="state.safetensors is (not a whole checkpoint|damaged)"):
        train.train(denoiser(), X, **SHORT, out="run")
    assert file.exists()


def test_precision_asked_for_comes_before_the_saved_one(monkeypatch, capsys):
    """The advice of the error message must work: a run begun in bf16 goes on in fp32 when asked to."""
    monkeypatch.setenv("COURSE_PRECISION", "bfloat16")
    settings = dict(steps=6, batch=16, out="run")
    monkeypatch.setattr(Run, "advance", lambda self, honest=Run.advance: honest(self) if self.step < 3 or self.dtype == torch.float32 else (_ for _ in ()).throw(KeyboardInterrupt))
    train.train(small_unet(), IMAGES, **settings)
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    train.train(small_unet(), IMAGES, **settings)
    said = capsys.readouterr().out
    assert "in bfloat16" in said and "from step 3 on cpu in float32" in said


def test_weights_that_are_not_numbers_are_never_saved(runs):
    train.train(denoiser(), X, steps=2, batch=32, out="run")
    saved = (runs / "run/state.safetensors").read_bytes()
    run = Run(denoiser(), Batches(train.checked_data(X), 32, 0.1, {}, 0, torch.device("cpu")), 1e-3, 0.0, 2, None)
    nn.init.constant_(run.D.net.layers[0].weight, math.inf)
    with pytest.raises(FloatingPointError):
        run.save(runs / "run")
    assert (runs / "run/state.safetensors").read_bytes() == saved


def test_a_loss_that_explodes_stops_with_a_sentence():
    with pytest.raises(FloatingPointError, match="the loss is not finite.*lower lr"):
        D = denoiser()
        nn.init.constant_(D.net.layers[0].weight, math.nan)
        train.train(D, X, **SHORT)


@pytest.mark.parametrize("bad, error, sentence", [
    (torch.zeros(5, 1, 4, 4, dtype=torch.uint8), TypeError, "scale with x / 127.5 - 1"),
    (torch.full((5, 1, 4, 4), 200.0), ValueError, r"images must lie in \[-1, 1\]; got \[200, 200\]"),
    (torch.tensor([[0.0, math.inf]]), ValueError, "1 values that are not finite"),
    ((torch.zeros(5, 2), torch.zeros(4)), ValueError, "must have one length"),
    (torch.zeros(0, 2), ValueError, "not zero"), ([1, 2], TypeError, "a pair \\(x0, y\\)"), ({"x": torch.zeros(2)}, TypeError, "with \"x0\""),
    ((torch.zeros(5, 2), torch.tensor([0, 1, 2, 0, 0])), ValueError, "labels are integers from 0 to 1")])
def test_bad_data(bad, error, sentence):
    with pytest.raises(error, match=sentence):
        train.train(denoiser(), bad, steps=1)


def test_how_long_must_be_said_once():
    for arguments in ({}, {"steps": 1, "seconds": 1}, {"steps": 0}, {"steps": -1}, {"seconds": 0}, {"steps": 1, "batch": 0}):
        with pytest.raises(ValueError, match="either steps=... or seconds=..., above 0"):
            train.train(denoiser(), X, **arguments)


def test_batches():
    """Times are spread evenly, every example comes once per epoch, and batch k is always the same."""
    x = torch.arange(64.0)[:, None]
    batches = Batches({"x0": x}, 16, 0.0, {}, 0, torch.device("cpu"))
    t = batches[0][1]
    assert ((t > 0) & (t <= 1)).all() and (t.sort().values * 16).ceil().tolist() == list(range(1, 17))
    assert sorted(torch.cat([batches[k][0] for k in range(4)]).flatten().tolist()) == list(range(64))
    assert torch.equal(batches[7][2], batches[7][2]) and not torch.equal(batches[7][0], batches[3][0])
    assert abs(torch.cat([batches[k][2] for k in range(200)]).std() - 1) < 0.05


def test_drop():
    y, kept = torch.arange(10).repeat(2000), torch.ones(20_000, 2)
    got = drop({"y": y, "other": kept}, {"y": 10}, 0.1, torch.Generator().manual_seed(0))
    assert (got["y"] == 10).double().mean() == pytest.approx(0.1, abs=0.01) and got["other"] is kept
    assert torch.equal(got["y"][got["y"] != 10], y[got["y"] != 10])
    context = drop({"c": torch.ones(4, 3, 5)}, {"c": 0.0}, 1.0, torch.Generator())
    assert (context["c"] == 0).all() and context["c"].shape == (4, 3, 5)


def test_fp16_with_its_gradient_scaler(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "float16")
    D = train.train(denoiser(), (X, Y), steps=30, batch=32)
    assert weights(D).isfinite().all()


def test_save_and_load(tmp_path):
    D = Denoiser(UNet(1, (16,), num_classes=3), Schedule.linear(200), "eps")
    nn.init.normal_(D.net.out.weight)
    train.save(D, tmp_path / "small.safetensors", data="none", steps=0)
    again = train.load(tmp_path / "small.safetensors")
    x, t, y = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, 3])
    torch.testing.assert_close(again(x, t, y=y), D.eval()(x, t, y=y), atol=2e-2, rtol=2e-2)
    assert repr(again.schedule) == repr(D.schedule) and again.target == "eps" and again.about == {"data": "none", "steps": 0}
    edm = Denoiser(D.net, Schedule.edm(), "edm", sigma_data=0.3)
    train.save(edm, tmp_path / "edm.safetensors")
    torch.testing.assert_close(train.load(tmp_path / "edm.safetensors")(x, t, y=y), edm(x, t, y=y), atol=2e-2, rtol=2e-2)
    raw = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(OSError, match="short.safetensors is not a whole checkpoint"):
        train.load(tmp_path / "short.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        train.load("no_such_model")
    checkpoint.save_tensors(tmp_path / "other.safetensors", {"x": torch.ones(1)}, {"net": {}})
    for other in (tmp_path / "other.safetensors", "mnist_classifier"):
        with pytest.raises(OSError, match="does not hold a denoiser"):
            train.load(other)
    with pytest.raises(ValueError, match="only a course network"):
        train.save(Denoiser(D.net, D.schedule, "eps", time=lambda t: 2 * t), tmp_path / "timed.safetensors")
    with pytest.raises(ValueError, match="only a course network"):
        train.save(denoiser(), tmp_path / "points.safetensors")


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    checkpoint.save_tensors(file, {"x": torch.ones(3)}, {"n": 1})

    def dies(tensors, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")
    monkeypatch.setattr(checkpoint, "save_file", dies)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_tensors(file, {"x": torch.zeros(3)}, {"n": 2})
    tensors, header = checkpoint.load_tensors(file)
    assert tensors["x"].tolist() == [1, 1, 1] and header["n"] == 1


@pytest.mark.parametrize("null", ("its num_classes", "its null"))
def test_labels_are_dropped_without_being_asked(null):
    """A network that has labels is trained without them too, whether it names its null or only counts its classes."""
    seen = []

    class Listening(Points):
        def forward(self, x, t, y=None):
            seen.append(y)
            return super().forward(x, t, y)
    torch.manual_seed(0)
    net = Listening()
    if null == "its null":
        net.null = {"y": 1}                                             # taken at its word
    data = (torch.randn(400, 2), torch.zeros(400, dtype=torch.long))
    train.train(Denoiser(net, Schedule.cosine(), "v"), data, steps=4, batch=100, p_drop=0.5)
    dropped = (torch.cat(seen) == (1 if null == "its null" else 2)).float().mean()
    assert abs(dropped - 0.5) < 5 * (0.25 / 400) ** 0.5
