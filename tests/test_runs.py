"""Runs on disk: nothing is lost, and none is taken for another, whatever happens and whenever."""
import io
import os
import resource
import signal
import time
from contextlib import redirect_stdout, suppress

import pytest
import torch
from test_train import small_unet, weights
from test_training_runs import IMAGES, start  # noqa: F401

from course_lib.lab import storage, train
from course_lib.lab.training import loop, resume
from course_lib.lab.training.muon import Muon
from course_lib.lab.training.state import TrainState

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C does what it does in a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ROWS = (IMAGES, torch.arange(200) % 3)
SHORT = {"steps": 8, "batch_size": 16}


def trained(run_name=None, model=None, **options):
    return train.train(model or small_unet(), ROWS, run_name=run_name, **(SHORT | options))


# ---- Ctrl-C, at the worst moments

PLACES = {
    "between the optimizers": (Muon, "step"),
    "before the step is counted": (TrainState, "_set_rates"),
    "before the average": (TrainState, "_average"),
    "within a save": (storage, "save_file"),
    "within the log": (resume, "_write_log"),
    "while the state is read": (resume, "restore"),
    "while the folder is found": (loop, "find_folder"),
    "while the run is described": (loop, "fingerprint"),
}


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_loses_nothing(monkeypatch, place, times):
    """Once, twice or three times there; then the same cell again, as it stands: the weights of a
    run that was never stopped, bit for bit."""
    whole = trained()
    owner, name = PLACES[place]
    honest, calls = getattr(owner, name), []

    def struck(*arguments, **options):
        calls.append(name)
        if len(calls) == (1 if owner is loop or name == "restore" else 3):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return honest(*arguments, **options)
    monkeypatch.setattr(owner, name, struck)
    D = small_unet()
    with suppress(KeyboardInterrupt):                       # the third one's
        D = trained("run", D, save_every=0.0)
    assert len(calls) >= 1 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    D = trained("run", D, save_every=0.0)
    D = trained("run", D, save_every=0.0)                   # finished: loaded
    assert D.done and torch.equal(weights(D), weights(whole)) and D.history == whole.history
    assert D.run_folder.name == "run", "no other run was begun"


def test_the_third_ctrl_c_does_not_wait_for_the_step(monkeypatch):
    honest = Muon.step

    def slow(self):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it waited")
    monkeypatch.setattr(Muon, "step", slow)
    with pytest.raises(KeyboardInterrupt):
        trained("run")
    monkeypatch.setattr(Muon, "step", honest)
    assert torch.equal(weights(trained("run")), weights(trained()))


def test_random_moments(runs, start):  # noqa: F811
    """Ctrl-C, once, twice, three times at once, each in a process of its own, then to the end."""
    torch.manual_seed(0)
    for k in range(3):
        process = start(in_process, runs / "end.pt", 24)
        time.sleep(0.4 + 0.2 * k)
        for _ in range(1 + k % 3):
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        process.join(100)
        assert process.exitcode is not None
    process = start(in_process, runs / "end.pt", 24)
    process.join(100)
    assert process.exitcode == 0
    whole = trained(steps=24)
    assert torch.equal(torch.load(runs / "end.pt"), weights(whole))


def in_process(file, steps):
    torch.set_num_threads(1)
    D = trained("killed", steps=steps, save_every=0.0)
    torch.save(weights(D), file)


# ---- the same cell, run again as it stands

def test_a_cell_can_be_run_again_as_it_stands():
    """D = train(D, ...): stopped, resumed, finished, loaded; also where D is trained in place."""
    whole = trained()
    for keep in (True, False):
        first = D = small_unet()
        name = f"run {keep}"
        for _ in range(30):
            D = trained(name, D if keep else first, max_seconds=1e-9)
            if D.done:
                break
        again = trained(name, D if keep else first)
        assert D.done and torch.equal(weights(again), weights(whole))
        assert again.history == whole.history and again.run_folder.name == name


def test_a_model_trained_further_is_another_start():
    """What a run left is its start only as long as nothing else has changed it."""
    D = trained("run")
    torch.nn.init.zeros_(D.net.out.weight)
    other = trained("run", D)
    assert other.run_folder.name == "run.1" and not torch.equal(weights(other), weights(D))


def test_leftovers_make_no_difference(tmp_path):
    whole = trained()
    D = small_unet()
    D.loss(ROWS[0][:4], torch.rand(4), y=ROWS[1][:4]).sum().backward()
    assert torch.equal(weights(trained(model=D)), weights(whole)), "an earlier gradient"
    with torch.set_grad_enabled(False):
        assert torch.equal(weights(trained()), weights(whole))
    with torch.inference_mode():
        D = small_unet()
        with pytest.raises(ValueError, match="made under torch.inference_mode"):
            trained(model=D)
    train.save(small_unet(), tmp_path / "net.safetensors")
    assert trained(model=train.load(tmp_path / "net.safetensors", "cpu")).done
    for wrong in (small_unet().half(), small_unet().double()):
        with pytest.raises(ValueError, match="trained weights must be float32; got torch.float"):
            trained(model=wrong)


# ---- one run is not another

def mended(D):
    """The same network with another forward: no setting and no weight shows it."""
    honest = D.net.forward
    D.net.forward = lambda x, t, y=None: honest(x, t, y) + 0.1 * x
    return D


@pytest.mark.parametrize("what", ["data y", "data x0", "what the model or its loss computes",
                                  "starting weights", "lr .0.004, now 0.001."])
def test_what_differs_is_said_and_nothing_is_moved(runs, capsys, what):
    """A, B, A: each is found again, and neither is trained twice."""
    def other(run_name):
        options = {"lr": 1e-3} if what.startswith("lr") else {}
        D, (x, y) = small_unet(), ROWS
        if what == "data y":
            y = y.roll(1)
        if what == "data x0":
            x = torch.cat([x[:100], x[100:101].flip(-1), x[101:]])
        if what.startswith("what"):
            D = mended(D)
        if what == "starting weights":
            torch.nn.init.normal_(D.net.out.bias)
        return train.train(D, (x, y), run_name=run_name, **(SHORT | options))
    A = trained("run")
    before = (runs / "run/state.safetensors").read_bytes()
    capsys.readouterr()
    B = other("run")
    said = capsys.readouterr().out
    sentence = "run holds a run with other settings: other "
    assert sentence in said and what.split(" .")[0] in said.split(sentence)[1].split(". This")[0]
    again, again_B = trained("run"), other("run")
    assert capsys.readouterr().out.count("finished before") == 2
    assert torch.equal(weights(A), weights(again)) and torch.equal(weights(B), weights(again_B))
    assert (runs / "run/state.safetensors").read_bytes() == before
    assert B.run_folder == again_B.run_folder == runs / "run.1"


def test_names_that_are_no_folder_of_their_own(runs):
    (runs / "exp/a").mkdir(parents=True)
    for name in ("", " ", ".", "..", "../else"):
        with pytest.raises(ValueError, match="must name a folder of its own"):
            trained(name)
    with pytest.raises(TypeError, match="must be a name"):
        trained(3)
    trained("exp")
    assert (runs / "exp/a").is_dir() and (runs / "exp/state.safetensors").exists()


# ---- two processes, a full disk, a folder that cannot be written

def hold(file):
    """Trains until it is killed."""
    torch.set_num_threads(1)
    trained("shared", steps=10**6, callback=None, save_every=0.0)


def test_two_processes_do_not_share_a_folder(runs, start):  # noqa: F811
    process = start(hold, None)
    state = runs / "shared/state.safetensors"
    deadline = time.monotonic() + 60
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OSError, match=f"is in use: process {process.pid} trains there"):
        trained("shared", steps=10**6)
    process.kill()
    process.join()
    left = state.with_name("state.safetensors.1.partial")
    left.write_bytes(b"half a file")
    D = trained("shared", steps=10**6, max_seconds=1e-9)
    assert not D.done and not left.exists(), "the lock ends with the process"


def on_a_full_disk(file):
    """From step 4 on, no file may be larger than 50 kB: a real failure of the operating system."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    honest, (soft, hard) = TrainState.advance, resource.getrlimit(resource.RLIMIT_FSIZE)

    def advance(self):
        honest(self)
        if self.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    TrainState.advance = advance
    said = io.StringIO()
    with redirect_stdout(said):
        D = trained("full", save_every=0.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    torch.save([D.done, weights(D), said.getvalue()], file)


def test_a_full_disk_costs_no_result(runs, start):  # noqa: F811
    """The trained model is returned, and what was kept is said; with room again it goes on."""
    process = start(on_a_full_disk, runs / "end.pt")
    process.join(100)
    done, found, said = torch.load(runs / "end.pt")
    assert process.exitcode == 0 and done and torch.equal(found, weights(trained()))
    assert "state.safetensors could not be written: " in said
    assert "The last good state, of step 3, is in" in said
    assert [f.name for f in (runs / "full").glob("*.partial")] == []
    header = storage.load_tensors(runs / "full/state.safetensors")[1]
    assert header["step"] == 3 and torch.equal(weights(trained("full")), found)


def test_the_folder_is_tried_before_the_first_step(runs, monkeypatch):
    monkeypatch.setattr(TrainState, "advance", lambda self: pytest.fail("it trained"))
    (runs / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken cannot be written .*: set COURSE_RUNS"):
        trained("taken")
    monkeypatch.setattr(
        "course_lib.lab.training.runs.shutil.disk_usage", lambda path: type("", (), {"free": 10**5})
    )
    with pytest.raises(OSError, match=r"the run needs \d+ MB on the disk, and 0 MB are free"):
        trained("small")


def test_what_a_run_needs_on_disk_is_twice_its_last_state(runs, monkeypatch):
    """Weights, average and at most two moments each; a new state is written beside the old one."""
    needed = []
    honest = loop.size_on_disk
    monkeypatch.setattr(
        loop, "size_on_disk", lambda state: needed.append(honest(state)) or needed[-1]
    )
    trained("sized")
    file = runs / "sized/state.safetensors"
    numbers = sum(v.numel() for v in storage.load_tensors(file)[0].values())
    assert 0.7 * needed[0] < 2 * 4 * numbers <= needed[0]
