"""Long runs: killed and resumed, on several processes, from a configuration, in parts; and what they leave on disk."""
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_train import SHORT, X, Y, denoiser, small_unet, weights

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import batches, checkpoint, train
from course_lib.lab.run import Objective, Run

ROOT = Path(__file__).parents[1]
IMAGES = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


pytestmark = pytest.mark.usefixtures("runs")


CHILD = """
import sys, torch
torch.set_num_threads(1)
from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import train
x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
torch.manual_seed(0)
D = Denoiser(UNet(1, (16, 32), num_classes=3, dropout=0.1), Schedule.cosine(), "v")
D = train.train(D, (x, torch.arange(200) % 3), steps=90, batch=16, out=sys.argv[1], save_every=0.0)
torch.save([D.history, [p.clone() for p in D.parameters()]], sys.argv[2])
"""


def child(*arguments, **environment):
    return subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True)


def saved_step(state):
    """The step that the saved state is of; 0 where nothing was saved."""
    return checkpoint.load_tensors(state)[1]["step"] if state.exists() else 0


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(runs):
    """SIGKILL, three times, wherever it strikes; then the losses and the weights are those of a run that was never stopped, bit for bit."""
    whole = child("whole", runs / "whole.pt")
    assert whole.wait(300) == 0
    for step in (15, 40, 65):
        process, deadline = child("killed", runs / "killed.pt"), time.monotonic() + 200
        while saved_step(runs / "killed/state.safetensors") < step and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert process.poll() is None, "it was really stopped on its way"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert step <= saved_step(runs / "killed/state.safetensors") < 90
    assert child("killed", runs / "killed.pt").wait(300) == 0
    (history, parameters), (history_2, parameters_2) = (torch.load(runs / f"{name}.pt") for name in ("whole", "killed"))
    assert history == history_2 and all(torch.equal(a, b) for a, b in zip(parameters, parameters_2))


TWO = """
import sys, torch
torch.set_num_threads(1)
from accelerate import PartialState
from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import train
x = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
torch.manual_seed(0)
D = Denoiser(UNet(1, (16, 32), num_classes=3), Schedule.cosine(), "v")
D = train.train(D, (x, torch.arange(200) % 3), steps=50, batch=16, out="two", clip=1.0, accumulate=2)
if PartialState().is_main_process:
    torch.save([D.history, [p.clone() for p in D.parameters()], PartialState().num_processes], sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_give_the_loss_of_one(runs):
    """Two processes on the CPU (gloo), as torchrun or accelerate start them: the same global batches, so the same losses, up to the order of sums."""
    (runs / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(runs / "two.py"), str(runs / "two.pt")]
    done = subprocess.run(launch, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    history, parameters, processes = torch.load(runs / "two.pt")
    assert processes == 2 and done.stdout.count("M parameters") == 1, "only the first process speaks"
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16, 32), num_classes=3), Schedule.cosine(), "v")
    alone = train.train(D, (IMAGES, torch.arange(200) % 3), steps=50, batch=16, clip=1.0)
    assert [step for step, _ in history] == [step for step, _ in alone.history]
    torch.testing.assert_close(torch.tensor([loss for _, loss in history]), torch.tensor([loss for _, loss in alone.history]), rtol=1e-4, atol=1e-6)
    for a, b in zip(parameters, alone.parameters()):
        torch.testing.assert_close(a, b.detach(), rtol=1e-2, atol=2e-3)


def run_of(**options):
    make = {name: options.pop(name) for name in ("times", "flip") if name in options}
    data = batches.Batches({"x0": IMAGES, "y": torch.arange(200) % 3}, 16, 0.1, {"y": 3}, 0, torch.device("cpu"), **make)
    return Run(small_unet(), data, 1e-3, 0.0, 20, None, **options)


def test_a_batch_in_parts_has_the_same_gradient():
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16,)), Schedule.cosine(), "v")
    for layer in (D.net.out, D.net.middle[0].block.conv2):
        torch.nn.init.normal_(layer.weight, std=0.1)
    gradients = []
    for parts in (1, 4):
        run = Run(D, batches.Batches({"x0": IMAGES}, 16, 0.0, {}, 0, torch.device("cpu")), 1e-3, 0.0, 20, None, accumulate=parts)
        loss = run._gradients()
        gradients.append((loss, [p.grad.clone() for p in D.parameters()]))
        D.zero_grad()
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    for a, b in zip(gradients[0][1], gradients[1][1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be taken in 5 equal parts"):
        Run(D, batches.Batches({"x0": IMAGES}, 16, 0.0, {}, 0, torch.device("cpu")), 1e-3, 0.0, 20, None, accumulate=5).advance()


def test_clipping_shortens_long_gradients_and_leaves_short_ones(monkeypatch):
    norms = []
    honest = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: (norms.append(honest(p := list(p), most)), norms.append(honest(p, 1e9)))[0])
    run = run_of(clip=0.01)
    torch.nn.init.normal_(run.D.net.out.weight)
    run.advance()
    assert norms[0] > 0.01 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_weight_is_a_function_of_the_log_snr():
    D, t, eps = denoiser(), torch.rand(32).clamp(0.1, 0.9), torch.randn(32, 2)
    weight = lambda log_snr: log_snr.exp().clamp(max=5.0)               # min-SNR, for x0 errors
    by_hand = (D.loss(X[:32], t, eps) * (D.schedule.alpha(t) ** 2 / D.schedule.sigma(t) ** 2).clamp(max=5.0)).mean()
    torch.testing.assert_close(Objective(D, weight)(X[:32], t, eps, {}).double(), by_hand.double(), rtol=1e-5, atol=0)


def test_times_and_flip():
    late = run_of(times=lambda u: 0.9 + 0.1 * u).batches[0][1]
    assert late.min() >= 0.9 and late.max() <= 1
    plain, flipped = run_of().batches[3][0], run_of(flip=True).batches[3][0]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped)]
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(plain, flipped)]
    assert any(same) and any(mirrored) and all(a or b for a, b in zip(same, mirrored))


def test_processes_share_one_batch():
    make = lambda rank, world: batches.Batches({"x0": IMAGES, "y": torch.arange(200)}, 16, 0.1, {"y": 200}, 0, torch.device("cpu"), rank=rank, world=world)
    whole, parts = make(0, 1)[5], [make(rank, 4)[5] for rank in range(4)]
    for k in range(3):
        assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))
    assert torch.equal(whole[3]["y"], torch.cat([part[3]["y"] for part in parts]))
    with pytest.raises(ValueError, match="cannot be shared among 3"):
        make(0, 3)


def test_a_budget_stops_in_time_and_the_same_call_goes_on(runs, capsys):
    whole = train.train(denoiser(), (X, Y), **SHORT)
    part = train.train(denoiser(), (X, Y), **SHORT, out="parts", budget=0.02)
    assert "Stopped at step" in capsys.readouterr().out and not part.done
    for _ in range(100):
        part = train.train(denoiser(), (X, Y), **SHORT, out="parts", budget=0.05)
        if part.done:
            break
    assert part.done and torch.equal(weights(part), weights(whole)) and part.history == whole.history


def test_log(runs):
    D = train.train(denoiser(), (X, Y), steps=120, batch=32, out="run")
    rows = list(csv.DictReader((runs / "run/log.csv").open()))
    assert [int(row["step"]) for row in rows] == [50, 100, 120] and [int(row["examples"]) for row in rows] == [1600, 3200, 3840]
    assert [float(row["loss"]) for row in rows] == pytest.approx([loss for _, loss in D.history], rel=1e-4)
    assert float(rows[-1]["seconds"]) > 0


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_state(runs, monkeypatch):
    """The message says where training can go on, and what was saved before is still there."""
    honest = Run.advance

    def breaks(self):
        honest(self)
        if self.step == 70:
            torch.nn.init.constant_(self.D.net.layers[0].weight, float("nan"))
    monkeypatch.setattr(Run, "advance", breaks)
    settings = dict(steps=200, batch=32, out="run", save_every=0.0)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+.*The last good state, of step 69, is in .*run"):
        train.train(denoiser(), X, **settings)
    assert checkpoint.load_tensors(runs / "run/state.safetensors")[1]["step"] == 69


CONFIG = """
data = "small_digits"
target = "v"
[network]
channels = 1
widths = [16]
num_classes = 10
[train]
steps = 4
batch = 8
"""


@pytest.fixture
def small_digits(monkeypatch):
    monkeypatch.setitem(train.DATA, "small_digits", lambda split: (IMAGES[:40], torch.arange(40) % 10))


def test_training_from_a_configuration(runs, small_digits, tmp_path, capsys):
    file = tmp_path / "small.toml"
    file.write_text(CONFIG)
    train.main([str(file), "--budget", "1e-9"])
    assert not (runs / "small/small.safetensors").exists() and "Stopped at step" in capsys.readouterr().out
    train.main([str(file)])
    D = train.load(runs / "small/small.safetensors", on="cpu")
    assert D.about["config"]["train"] == {"steps": 4, "batch": 8} and "configs/small.toml" in D.about["command"]
    assert D(torch.randn(2, 1, 8, 8), 0.5, y=3).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("change, words", [
    (('data = "small_digits"', 'data = "minst"'), "data must be one of mnist, cifar10, nouns, small_digits; got 'minst'"),
    (("[network]", "[net]"), "there is no network"),
    (("channels = 1", "chanels = 1"), "has a wrong entry: .*chanels"),
    (("channels = 1", 'channels = 1\ntype = "Unet"'), "a network must be one of UNet, DiT, ConditionalUNet; got 'Unet'"),
    (("[train]", '[schedule]\nname = "cosin"\n[train]'), "a schedule must be one of linear, cosine.*; got 'cosin'"),
    (("steps = 4", "step = 4"), r"\[train\] takes accumulate, batch, .*; got step\n"),
    (('target = "v"', 'target = "w"'), "target must be one of eps"),
    (("steps = 4", "steps = "), "Invalid value"),
    (None, "No such file"),
])
def test_a_configuration_that_cannot_be_trained_gets_one_sentence(small_digits, tmp_path, capsys, change, words):
    file = tmp_path / "small.toml"
    if change:
        assert change[0] in CONFIG
        file.write_text(CONFIG.replace(*change))
    with pytest.raises(SystemExit):
        train.main([str(file)])
    said = capsys.readouterr().err
    assert re.search(words, said) and "Traceback" not in said and "cannot be trained" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("cc") is None, reason="torch.compile needs a C compiler")
def test_compiled_training_computes_the_same(monkeypatch):
    plain, compiled = run_of(), run_of(compiled=True)
    for run in (plain, compiled):
        run.advance(), run.advance()
    torch.testing.assert_close(torch.stack(compiled._losses), torch.stack(plain._losses), rtol=1e-4, atol=1e-5)
    assert list(compiled.ema.state_dict()) == list(plain.ema.state_dict()), "compiling leaves the names of the weights alone"


def test_clipping_sees_the_true_gradients_in_half_precision(monkeypatch):
    """fp16 multiplies the loss by a large number; the norm that is clipped is the one of fp32."""
    norms, honest = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, most: norms.append(honest(p, most).item()))
    for precision in ("float32", "float16"):
        monkeypatch.setenv("COURSE_PRECISION", precision)
        torch.manual_seed(0)
        run = run_of(clip=0.01)
        torch.nn.init.normal_(run.D.net.out.weight, std=0.1)
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=precision == "float16")
        run.advance()
    assert norms[1] == pytest.approx(norms[0], rel=0.02) and norms[0] > 0.01


def test_half_precision_with_clipping_and_parts(monkeypatch):
    """fp16 scales the loss by a large number; a batch in parts is scaled once, and the gradients come back as they were."""
    runs = []
    for precision in ("float32", "float16"):
        monkeypatch.setenv("COURSE_PRECISION", precision)
        torch.manual_seed(0)
        runs.append(run_of(clip=0.01, accumulate=2))
        torch.nn.init.normal_(runs[-1].D.net.out.weight, std=0.1)
    runs[1].scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    gradients = []
    for run in runs:
        run._gradients()
        for optimizer in run.optimizers:
            run.scaler.unscale_(optimizer)
        gradients.append(torch.cat([p.grad.flatten() for p in run.D.parameters()]))
        run.D.zero_grad()
    assert runs[1].dtype == torch.float16 and run_of().scaler.get_scale() == 65536
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()
    half = run_of(clip=0.01, accumulate=2)
    torch.nn.init.normal_(half.D.net.out.weight, std=30.0)
    for _ in range(12):
        half.advance()
    assert half.finite() and half.scaler.get_scale() < 65536, "steps that overflow are left out, and the number is halved"


def test_shipped_configurations_can_be_built():
    import tomllib
    for file in sorted((ROOT / "configs").glob("*.toml")):
        config = tomllib.loads(file.read_text())
        if "network" in config:
            kind = config["network"].pop("type")
            D = train.NETWORKS[kind](**config["network"] | ({"words": ["a", "head"]} if kind == "ConditionalUNet" else {}))
            assert sum(p.numel() for p in D.parameters()) > 1e4 and json.dumps(config["train"])


def test_times_with_a_normal_log_snr():
    """Their log-SNR has the mean and spread that were asked for, on any schedule; larger numbers are noisier."""
    u = (torch.arange(20_000) + 0.5) / 20_000
    for schedule in (Schedule.edm(), Schedule.cosine(), Schedule.flow()):
        t = train.normal_log_snr(schedule, 1.0, 2.0)(u)
        log_snr = schedule.log_snr(t)
        assert (t[1:] >= t[:-1]).all() and abs(log_snr.mean() - 1.0) < 0.02 and abs(log_snr.std() - 2.0) < 0.05


def test_times_in_a_configuration():
    config = {"data": "mnist", "network": {"type": "UNet", "channels": 1}, "train": {"steps": 1, "times": {"mean": 2.4, "std": 2.4}}}
    _, _, how = train.from_config(config)
    assert callable(how["times"]) and config["train"]["times"] == {"mean": 2.4, "std": 2.4}
    for wrong in ("edm", {"mean": 1}, {"mean": 1, "spread": 2}):
        with pytest.raises(ValueError, match="times in .train. are"):
            train.from_config(config | {"train": {"steps": 1, "times": wrong}})
