"""Long runs: killed and resumed, on several processes, from a configuration, in parts; and what
they leave on disk."""
import csv
import json
import multiprocessing
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
from test_train import CPU, SHORT, X, Y, denoiser, small_unet, state_of, weights

from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import data, storage, train
from course_lib.lab.data.pictures_folder import Pictures
from course_lib.lab.training import config, configured
from course_lib.lab.training.__main__ import main
from course_lib.lab.training.batches import BatchSampler
from course_lib.lab.training.registry import network_class
from course_lib.lab.training.state import TrainState
from course_lib.lab.training.tasks import Denoising, WeightedLoss

ROOT = Path(__file__).parents[1]
IMAGES = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


pytestmark = pytest.mark.usefixtures("runs")


def child(run_name, file):
    """A training that saves after every step, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16, 32), num_classes=3, dropout=0.1), Schedule.cosine(), "v")
    options = dict(steps=64, batch_size=16, save_every=0.0)
    D = train.train(D, (IMAGES, torch.arange(200) % 3), run_name=run_name, **options)
    torch.save([D.history, [p.clone() for p in D.parameters()]], file)


@pytest.fixture
def start(runs):
    """start(function, *arguments): a process that begins with everything imported."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "torch._dynamo"])      # what an optimizer imports

    def begin(function, *arguments):
        process = server.Process(target=in_folder, args=(runs, function, *arguments))
        process.start()
        return process
    return begin


def in_folder(runs, function, *arguments):
    """The server keeps the environment it was started with: name the folder of this test."""
    os.environ["COURSE_RUNS"] = str(runs)
    function(*arguments)


def saved_step(state):
    """The step that the saved state is of; 0 where nothing was saved."""
    return storage.load_tensors(state)[1]["step"] if state.exists() else 0


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(runs, start):
    """SIGKILL, three times, wherever it strikes; then the losses and the weights are those of a run
    that was never stopped, bit for bit."""
    whole = start(child, "whole", runs / "whole.pt")
    whole.join(300)
    assert whole.exitcode == 0
    state = runs / "killed/state.safetensors"
    for step in (8, 20, 32):
        process, deadline = start(child, "killed", runs / "killed.pt"), time.monotonic() + 200
        while saved_step(state) < step and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.is_alive(), "it was really stopped on its way"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert step <= saved_step(state) < 64
    end = start(child, "killed", runs / "killed.pt")
    end.join(300)
    assert end.exitcode == 0
    history, parameters = torch.load(runs / "whole.pt")
    history_2, parameters_2 = torch.load(runs / "killed.pt")
    assert history == history_2
    assert all(torch.equal(a, b) for a, b in zip(parameters, parameters_2))


LABELLED = (IMAGES, torch.arange(200) % 3)


class TwoConvolutions(torch.nn.Module):
    """The smallest network that knows the time: quick to compile."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.time = torch.nn.Linear(1, 8)
        self.out = torch.nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x, t):
        h = self.inside(x) + self.time(t[:, None])[..., None, None]
        return self.out(torch.nn.functional.silu(h))


def run_of(**options):
    settings = {"batch_size": 16, "lr": 1e-3, "muon_lr": 0.0, "steps": 20}
    return state_of(small_unet(), LABELLED, **(settings | options))


def test_a_batch_in_parts_has_the_same_gradient():
    torch.manual_seed(0)
    D = Denoiser(UNet(1, (16,)), Schedule.cosine(), "v")
    for layer in (D.net.out, D.net.middle[0].block.conv2):
        torch.nn.init.normal_(layer.weight, std=0.1)
    gradients = []
    for parts in (1, 4):
        run = state_of(D, IMAGES, batch_size=16, muon_lr=0.0, steps=20, accumulation_steps=parts)
        loss = run._gradients()
        gradients.append((loss, [p.grad.clone() for p in D.parameters()]))
        D.zero_grad()
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    for a, b in zip(gradients[0][1], gradients[1][1]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="cannot be taken in 5 equal parts"):
        state_of(D, IMAGES, batch_size=16, steps=20, accumulation_steps=5).advance()


def test_clipping_shortens_long_gradients_and_leaves_short_ones(monkeypatch):
    norms = []
    honest = torch.nn.utils.clip_grad_norm_

    def measured(parameters, most):
        parameters = list(parameters)
        norms.append(honest(parameters, most))
        norms.append(honest(parameters, 1e9))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", measured)
    run = run_of(clip_grad_norm=0.01)
    torch.nn.init.normal_(run.model.net.out.weight)
    run.advance()
    assert norms[0] > 0.01 and norms[1] == pytest.approx(0.01, rel=1e-3)


def test_loss_weight_is_a_function_of_the_log_snr():
    D, t, eps = denoiser(), torch.rand(32).clamp(0.1, 0.9), torch.randn(32, 2)
    snr = D.schedule.alpha(t) ** 2 / D.schedule.sigma(t) ** 2
    by_hand = (D.loss(X[:32], t, eps) * snr.clamp(max=5.0)).mean()      # min-SNR, for x0 errors
    task = Denoising(D, loss_weight=lambda log_snr: log_snr.exp().clamp(max=5.0))
    loss = WeightedLoss(task)({"x0": X[:32], "t": t, "eps": eps})
    torch.testing.assert_close(loss.double(), by_hand.double(), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match=r"loss_weight needs the loss of each example, \(B,\)"):
        train.train(
            D,
            X,
            steps=1,
            loss_weight=lambda log_snr: log_snr.exp(),
            loss=lambda D, batch: D.loss(**batch).mean(),
        )


def test_time_sampler_and_horizontal_flip():
    late = run_of(time_sampler=lambda u: 0.9 + 0.1 * u).batches[0]["t"]
    assert late.min() >= 0.9 and late.max() <= 1
    plain = run_of().batches[3]["x0"]
    flipped = run_of(horizontal_flip=True).batches[3]["x0"]
    same = [torch.equal(a, b) for a, b in zip(plain, flipped)]
    mirrored = [torch.equal(a.flip(-1), b) for a, b in zip(plain, flipped)]
    assert any(same) and any(mirrored) and all(a or b for a, b in zip(same, mirrored))


def test_the_seed_of_a_step():
    """What the commands in the headers of shipped checkpoints rely on."""
    batches = BatchSampler({"x0": IMAGES}, 16, 2, CPU)
    assert [batches.seed_of(k) for k in (0, 1, 50)] == [3_000_009, 3_000_010, 3_000_059]


def test_processes_share_one_batch():
    task = Denoising(small_unet(), null={"y": 200})
    rows = {"x0": IMAGES, "y": torch.arange(200)}

    def make(rank, world):
        return BatchSampler(rows, 16, 0, CPU, task.draw, rank, world)
    whole, parts = make(0, 1)[5], [make(rank, 4)[5] for rank in range(4)]
    assert set(whole) == {"x0", "t", "eps", "y"} and (whole["y"] == 200).any()
    for name in whole:
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))
    with pytest.raises(ValueError, match="cannot be shared among 3"):
        make(0, 3)


def test_max_seconds_stops_in_time_and_the_same_call_goes_on(runs, capsys):
    whole = train.train(denoiser(), (X, Y), **SHORT)
    part = train.train(denoiser(), (X, Y), **SHORT, run_name="parts", max_seconds=0.02)
    assert "Stopped at step" in capsys.readouterr().out and not part.done
    for _ in range(100):
        part = train.train(denoiser(), (X, Y), **SHORT, run_name="parts", max_seconds=0.05)
        if part.done:
            break
    assert part.done and torch.equal(weights(part), weights(whole))
    assert part.history == whole.history


def test_log(runs):
    D = train.train(denoiser(), (X, Y), steps=120, batch_size=32, run_name="run")
    rows = list(csv.DictReader((runs / "run/log.csv").open()))
    assert [int(row["step"]) for row in rows] == [50, 100, 120]
    assert [int(row["examples"]) for row in rows] == [1600, 3200, 3840]
    losses = [loss for _, loss in D.history]
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses, rel=1e-4)
    assert float(rows[-1]["seconds"]) > 0


def test_a_loss_that_is_no_number_names_the_step_and_the_last_good_state(runs, monkeypatch):
    """The message says where training can go on, and what was saved before is still there."""
    honest = TrainState.advance

    def breaks(self):
        honest(self)
        if self.step == 70:
            torch.nn.init.constant_(self.model.net.layers[0].weight, float("nan"))
    monkeypatch.setattr(TrainState, "advance", breaks)
    settings = dict(steps=200, batch_size=32, run_name="run", save_every=0.0)
    sentence = r"not finite at step \d+.*The last good state, of step 69, is in .*run"
    with pytest.raises(FloatingPointError, match=sentence):
        train.train(denoiser(), X, **settings)
    assert storage.load_tensors(runs / "run/state.safetensors")[1]["step"] == 69


# ---- configurations and the command line

CONFIG = """
data = "mnist"
target = "v"
[network]
channels = 1
widths = [16]
num_classes = 10
[train]
steps = 4
batch_size = 8
"""


@pytest.fixture
def small_digits(monkeypatch):
    monkeypatch.setattr(data, "mnist", lambda split: (IMAGES[:40], torch.arange(40) % 10))


def test_training_from_a_configuration(runs, small_digits, tmp_path, capsys, monkeypatch):
    """Stopped by --max_seconds, resumed by the same command; the checkpoint and the sheet of
    samples lie in the run's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/small.toml").write_text(CONFIG)
    main(["configs/small.toml", "--max_seconds", "1e-9"])
    assert not (runs / "small/small.safetensors").exists()
    assert "Stopped at step" in capsys.readouterr().out
    main(["configs/small.toml", "--save_every", "5"])
    said = capsys.readouterr().out
    assert "from step 1" in said and "samples: " in said
    assert (runs / "small/small.png").stat().st_size > 1000
    D = train.load(runs / "small/small.safetensors", device="cpu")
    assert D.about["config"]["train"] == {"steps": 4, "batch_size": 8} and D.about["steps"] == 4
    assert D.about["command"] == "python -m course_lib.lab.training configs/small.toml"
    assert D.about["data"] == "mnist" and D.data_shape == (1, 8, 8)
    assert D(torch.randn(2, 1, 8, 8), 0.5, y=3).shape == (2, 1, 8, 8)


def test_options_on_the_command_line_come_first_and_are_written_down(
    runs, small_digits, tmp_path, monkeypatch
):
    seen = []

    def noted(D, data, *, config, run_name):
        seen.append(config)
        return train.train(D, data, config=config, run_name=run_name)
    monkeypatch.setattr("course_lib.lab.training.__main__.train", noted)
    file = tmp_path / "small.toml"
    file.write_text(CONFIG)
    options = "--steps 2 --batch_size 4 --lr 1e-3 --horizontal_flip --no-compile --data_range -2 2"
    main([str(file), *options.split(), "--time_sampler", "2.4", "1.2", "--max_seconds", "50"])
    used = seen[0]
    assert (used.steps, used.batch_size, used.lr, used.horizontal_flip) == (2, 4, 1e-3, True)
    assert used.data_range == (-2.0, 2.0) and used.max_seconds == 50 and callable(used.time_sampler)
    about = train.load(runs / "small/small.safetensors", device="cpu").about
    assert about["config"]["train"] == {
        "steps": 2,
        "batch_size": 4,
        "lr": 1e-3,
        "horizontal_flip": True,
        "compile": False,
        "data_range": [-2.0, 2.0],
        "time_sampler": {"mean": 2.4, "std": 1.2},
    }
    assert "--steps 2" in about["command"] and "--no-compile" in about["command"]
    assert "--time_sampler 2.4 1.2" in about["command"] and "max_seconds" not in about["command"]
    again = shutil.copy(file, tmp_path / "again.toml")
    main([str(again), *about["command"].split()[4:], "--data_range", "none"])
    assert seen[1].data_range is None and seen[1].fingerprint() == used.fingerprint()


def test_a_length_on_the_command_line_replaces_the_file_s(small_digits, tmp_path, monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def noted(D, data, *, config, run_name):
        seen.append(config)
        raise Stop
    monkeypatch.setattr("course_lib.lab.training.__main__.train", noted)
    file = tmp_path / "small.toml"
    file.write_text(CONFIG)
    with pytest.raises(Stop):
        main([str(file), "--seconds", "3"])
    assert seen[0].steps is None and seen[0].seconds == 3


@pytest.mark.parametrize("change, words", [
    (('data = "mnist"', 'data = "minst"'), "data must be one of mnist, cifar10, .*; got 'minst'"),
    (("[network]", "[net]"), "there is no network"),
    (("channels = 1", "chanels = 1"), "has a wrong entry: .*chanels"),
    (
        ("channels = 1", 'channels = 1\ntype = "Unet"'),
        "a network must be one of UNet, DiT, MMDiT, ConditionalUNet, AutoencoderKL, .*; got 'Unet'",
    ),
    (
        ("[train]", '[schedule]\nname = "cosin"\n[train]'),
        "a schedule must be one of linear, .*cosine.*; got 'cosin'",
    ),
    (
        ("[train]", '[schedule]\nname = "cosine"\nbeta = 3\n[train]'),
        r"\[schedule\] has a wrong entry: .*beta",
    ),
    (("steps = 4", "step = 4"), r"train has no 'step' \(did you mean steps\?\): it has steps, "),
    (("steps = 4", 'steps = "many"'), "steps must be a whole number; got 'many'"),
    (("steps = 4", "steps = 4\nseconds = 3"), "either steps=... or seconds=..., above 0"),
    (("steps = 4", 'steps = 4\nhorizontal_flip = "no"'), "horizontal_flip must be true or false"),
    (("steps = 4", 'steps = 4\nloss_weight = "snr"'), "loss_weight must be a function"),
    (("steps = 4", "steps = 4\ndata_range = [1]"), "data_range must be two numbers"),
    (("steps = 4", "steps = 4\nrun_name = 3"), "train has no 'run_name'"),
    (('target = "v"', 'target = "w"'), "target must be one of eps"),
    (('target = "v"', 'taget = "v"'), r"a configuration has no 'taget' \(did you mean target\?\)"),
    (('target = "v"', 'sigma_data = "half"'), "sigma_data must be a number; got 'half'"),
    (('target = "v"', "schedule = 3"), r"\[schedule\] must be a table; got schedule = 3"),
    (('data = "mnist"', 'data = "nouns"\nexamples = "all"'), "examples must be a whole number"),
    (('data = "mnist"', 'data = "pictures"'), "needs `folder` and `size`"),
    (('data = "mnist"', 'data = "mnist"\npoints = 3'), 'points is for data = "clouds"'),
    (("steps = 4", "steps = "), "it is not TOML: Invalid value"),
    (None, "No such file"),
])
def test_a_configuration_that_cannot_be_trained_gets_one_sentence(
    small_digits, tmp_path, capsys, change, words
):
    file = tmp_path / "small.toml"
    if change:
        assert change[0] in CONFIG
        file.write_text(CONFIG.replace(*change))
    with pytest.raises(SystemExit) as end:
        main([str(file)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert re.search(words, said) and said.startswith(f"{file} cannot be trained: ")


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--max_seconds" in said and "--clip_grad_norm" in said


def test_an_option_that_is_none_ends_the_command(tmp_path, capsys):
    for arguments in (["--stepz", "3"], ["--steps", "many"], ["--loss_weight", "snr"]):
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path / "small.toml"), *arguments])
        assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.slow
def test_the_command_itself(tmp_path):
    """As it is typed: a training that fails ends with one sentence."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small/state.safetensors").write_bytes(b"damaged")
    (tmp_path / "small.toml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.lab.training", str(tmp_path / "small.toml")],
        cwd=ROOT,
        env=os.environ | {"COURSE_RUNS": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "state.safetensors is not a whole checkpoint" in done.stderr


FROM_DATA = {
    "ConditionalUNet": {"words": ["a", "head"]},
    "TokenTransformer": {"vocabulary": 9, "length": 4},
}


def test_shipped_configurations_can_be_built():
    for file in sorted((ROOT / "configs").glob("*.toml")):
        described = config.read_config(file)
        if "network" in described:
            kind = described["network"].pop("type")
            net = network_class(kind)(**described["network"] | FROM_DATA.get(kind, {}))
            assert sum(p.numel() for p in net.parameters()) > 1e4
            configured._validate_keys(described | {"network": {"type": kind}})
            schedule = configured._schedule(described)
            assert configured._options(described["train"], schedule).batch_size > 1
            assert json.dumps(described["train"])


def test_times_with_a_normal_log_snr():
    """Their log-SNR has the mean and spread that were asked for, on any schedule; larger numbers
    are noisier."""
    u = (torch.arange(20_000) + 0.5) / 20_000
    for schedule in (Schedule.edm(), Schedule.cosine(), Schedule.flow()):
        t = train.normal_log_snr(schedule, 1.0, 2.0)(u)
        log_snr = schedule.log_snr(t)
        assert (t[1:] >= t[:-1]).all()
        assert abs(log_snr.mean() - 1.0) < 0.02 and abs(log_snr.std() - 2.0) < 0.05


def test_time_sampler_in_a_configuration(small_digits):
    described = {
        "data": "mnist",
        "network": {"type": "UNet", "channels": 1},
        "train": {"steps": 1, "time_sampler": {"mean": 2.4, "std": 2.4}},
    }
    _, rows, options = configured.from_config(described)
    assert set(rows) == {"x0"}, "a network without labels gets none"
    assert callable(options.time_sampler)
    assert described["train"]["time_sampler"] == {"mean": 2.4, "std": 2.4}
    for wrong in ("edm", {"mean": 1}, {"mean": 1, "spread": 2}, {"mean": "low", "std": 1}):
        with pytest.raises(ValueError, match="time_sampler in .train. is"):
            configured.from_config(described | {"train": {"steps": 1, "time_sampler": wrong}})


def test_pictures_in_bytes_are_trained_on_as_floats(monkeypatch):
    """`data.pictures` keeps bytes; a batch has floats in [-1, 1], and the run is that of floats."""
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator())

    found = Pictures(images, None, None, None, [])
    monkeypatch.setattr(data, "pictures", lambda folder, size: found)
    described = {
        "data": "pictures",
        "folder": "here",
        "size": 8,
        "network": {"type": "UNet", "channels": 3, "widths": [16]},
        "train": {"steps": 3, "batch_size": 8},
    }
    D, rows, options = configured.from_config(described)
    trained = [train.train(D, rows, config=options)]
    for again in (found, images / 127.5 - 1):
        D, _, _ = configured.from_config(described)
        trained.append(train.train(D, again, config=options))
    assert torch.equal(weights(trained[0]), weights(trained[1]))
    torch.testing.assert_close(weights(trained[0]), weights(trained[2]))


# ---- the machine

@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("gcc") is None and shutil.which("cc") is None,
    reason="torch.compile needs a C compiler",
)
def test_compiled_training_computes_the_same():
    plain, compiled = (
        state_of(
            Denoiser(TwoConvolutions(), Schedule.cosine(), "v"),
            IMAGES,
            batch_size=16,
            lr=1e-3,
            muon_lr=0.0,
            steps=20,
            compile=compiling,
        )
        for compiling in (False, True)
    )
    for run in (plain, compiled):
        run.advance()
        run.advance()
    losses = [torch.stack(run.losses) for run in (compiled, plain)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    same_names = list(compiled.ema.state_dict()) == list(plain.ema.state_dict())
    assert same_names, "compiling leaves the names of the weights alone"


def test_clipping_sees_the_true_gradients_in_half_precision(monkeypatch):
    """fp16 multiplies the loss by a large number; the norm that is clipped is the one of fp32."""
    norms, honest = [], torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, most: norms.append(honest(p, most).item())
    )
    for precision in ("float32", "float16"):
        monkeypatch.setenv("COURSE_PRECISION", precision)
        torch.manual_seed(0)
        run = run_of(clip_grad_norm=0.01)
        torch.nn.init.normal_(run.model.net.out.weight, std=0.1)
        half = precision == "float16"
        run.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=half)
        run.advance()
    assert norms[1] == pytest.approx(norms[0], rel=0.02) and norms[0] > 0.01


def test_half_precision_with_clipping_and_parts(monkeypatch):
    """fp16 scales the loss by a large number; a batch in parts is scaled once, and the gradients
    come back as they were."""
    runs = []
    for precision in ("float32", "float16"):
        monkeypatch.setenv("COURSE_PRECISION", precision)
        torch.manual_seed(0)
        runs.append(run_of(clip_grad_norm=0.01, accumulation_steps=2))
        torch.nn.init.normal_(runs[-1].model.net.out.weight, std=0.1)
    runs[1].scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    gradients = []
    for run in runs:
        run._gradients()
        for optimizer in run.optimizers:
            run.scaler.unscale_(optimizer)
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
        run.model.zero_grad()
    assert runs[1].dtype == torch.float16 and run_of().scaler.get_scale() == 65536
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()
    half = run_of(clip_grad_norm=0.01, accumulation_steps=2)
    torch.nn.init.normal_(half.model.net.out.weight, std=30.0)
    for _ in range(12):
        half.advance()
    said = "steps that overflow are left out, and the number is halved"
    assert half.finite() and half.scaler.get_scale() < 65536, said


def test_precision_is_chosen_by_capability(monkeypatch):
    """By what the CPU has, not by a measurement; COURSE_PRECISION comes first."""
    from course_lib.lab.training import device
    monkeypatch.delenv("COURSE_PRECISION")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        for other in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, other, lambda has=other == name: has, raising=False)
        assert device.precision("cpu") == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert device.precision("cpu") == torch.float32
    monkeypatch.setenv("COURSE_PRECISION", "float16")
    assert device.precision("cpu") == torch.float16
    monkeypatch.setenv("COURSE_PRECISION", "half")
    with pytest.raises(ValueError, match="must be float32, bfloat16 or float16; got 'half'"):
        device.precision("cpu")
