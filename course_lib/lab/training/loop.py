"""One training loop for every model: it averages weights, can be stopped, and resumes."""
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ... import threads, validate
from ...denoiser import Denoiser
from . import resume
from .batches import Batch, BatchSampler, Draw
from .config import DENOISER_ONLY, TrainConfig, override
from .device import default_device
from .fingerprint import earlier_start, fingerprint, remember
from .resume import size_on_disk
from .runs import STATE, find_folder, locked, named_folder
from .state import TrainState
from .tasks import Denoising, Loss, Task
from .validation import Data, validate_call, validate_data, validate_null

Callback = Callable[[nn.Module, float], None]
CALLBACK_MOMENTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def train(
    model: nn.Module,
    data: Data,
    *,
    run_name: str | Path | None = None,
    callback: Callback | None = None,
    device: torch.device | str | None = None,
    loss: Loss | None = None,
    draw: Draw | None = None,
    null: dict | None = None,
    config: TrainConfig | None = None,
    **options,
) -> nn.Module:
    """Train a model; returns the average of its weights, in eval mode, with `history`, `done` and
    `run_folder`.

    model:    a denoiser, or any module with a method loss(**batch) -> (B,); it is moved to the
              device and trained in place, as far as its parameters require a gradient
    data:     x0 (N, ...), or (x0, y) with labels, or a dict of tensors by the names that the loss
              takes; or `data.pictures(...)`, arrays, torchvision data sets, loaders (see
              `data.as_training_data`). Images lie in [-1, 1]; data_range=None accepts others
    run_name: a folder under runs/ (or $COURSE_RUNS). Stop at any time: the same call resumes, and a
              finished run is loaded, not repeated. None: nothing is written
    callback: called with the average so far and the fraction done, at 1/16, 1/8, 1/4, 1/2 and 1
    device:   None: `default_device()`
    loss:     (model, batch) -> (B,), in place of the model's own
    draw:     (batch, generator) -> batch: adds random inputs of the loss, in place of model.draw; a
              denoiser's t and eps are in the batch before
    null:     denoisers: what "no condition" means, such as {"y": 10}; None: the network's `null`
    config, options: see TrainConfig: steps=... or seconds=..., batch_size, lr, muon_lr, seed, ...

    With steps=... the same seed, data, precision and machine give the same weights. Ctrl-C
    (Jupyter's stop button) ends the training after its step and returns the average so far; a third
    one stops within the step. The cell can be run again as it stands. A call with other data,
    model, starting weights or options than the run in that folder gets a folder of its own, NAME.1
    and so on, and finds it again. Under `accelerate launch` the processes share each batch.
    Raises TypeError or ValueError for data or options that cannot be right, FloatingPointError if
    the loss stops being finite (what was saved stays), OSError for a damaged saved state, and for a
    folder that cannot be written, is full, or in which another process trains.
    """
    if config is not None and not isinstance(config, (dict, TrainConfig)):
        raise TypeError("config must be a TrainConfig (train.from_config makes one from a file)")
    given = {} if config is None else config if isinstance(config, dict) else vars(config)
    options = TrainConfig.of(override(given, options))
    validate.instance(model, nn.Module, "model", "Denoiser(UNet(channels=1), schedule)")
    validate_call(loss, "loss", "(model, batch) -> (B,)")
    validate_call(draw, "draw", "(batch, generator) -> batch")
    validate_call(callback, "callback", "(model, done)")
    data = validate_data(data, model, options.data_range)
    folder = None if run_name is None else named_folder(run_name)
    task = _task(model, loss, draw, null, options)
    validate_null(null, data, model)
    if options.horizontal_flip and data["x0"].ndim < 3:
        raise ValueError(f"horizontal_flip is for images; got x0 {tuple(data['x0'].shape)}")
    with torch.inference_mode(False), torch.enable_grad(), defer_interrupt() as interrupts:
        batches = _batches(task, data, device, options)
        kept = None if folder is None else fingerprint(task, batches, options)
        state = TrainState(task, batches, options)
        run = Run(state, kept, interrupts, print if state.accelerator.is_main_process else _silent)
        if not state.accelerator.is_main_process:
            callback = None
        return run.train(folder, callback)


def _batches(
    task: Task, data: Batch, device: torch.device | str | None, options: TrainConfig
) -> BatchSampler:
    """The batches of this process; the model is moved to where they are."""
    device, rank, world = _place(device)
    model = task.model
    if not any(p.requires_grad for p in model.parameters()):
        model.requires_grad_(True)                          # such as the result of an earlier run
    model.to(device)
    if isinstance(model, Denoiser):
        model.data_shape = tuple(data["x0"].shape[1:])      # samplers need it, checkpoints hold it
    return BatchSampler(data, options.batch_size, options.seed, device, task.draw, rank, world)


class Run:
    """One call of `train`: where it goes on from, its steps, and what is kept however it ends."""

    def __init__(
        self, state: TrainState, experiment: dict | None, interrupts: "Interrupts", say: Callable
    ):
        self.state = state
        self.experiment = experiment
        self.interrupts = interrupts
        self.say = say

    def train(self, folder: Path | None, callback: Callback | None) -> nn.Module:
        """The trained average."""
        if folder is None:
            return self._steps(None, callback)
        folder = self._find(folder)
        alone = contextlib.nullcontext()
        if self.state.accelerator.is_main_process:
            alone = locked(folder, size_on_disk(self.state))
        with alone:
            self._begin(folder)
            try:
                trained = self._steps(folder, callback)
                trained.run_folder = folder
                return trained
            finally:
                for model in (self.state.model, self.state.ema):
                    remember(model, self.state.experiment["starting weights"])

    def _find(self, folder: Path) -> Path:
        """The folder of this experiment; `experiment` is the one that is saved there."""
        state, this = self.state, self.experiment
        start = earlier_start(state.model)                  # the same cell, run again
        likely = [this] if start is None else [this | {"starting weights": start}, this]
        found, saved, differs = find_folder(folder, *likely)
        state.experiment = this if saved is None else saved
        if differs:
            seed = ""
            if differs == ["starting weights"]:
                seed = " (To go on with that one, call torch.manual_seed before the model is made.)"
            self.say(
                f"{folder} holds a run with other settings: other {', '.join(differs)}. This one "
                f"is kept in {found}.{seed}"
            )
        elif found != folder:
            self.say(f"The run with these settings is in {found}.")
        return found

    def _begin(self, folder: Path) -> None:
        """Go on from the saved state, or save the first: what cannot be kept is said now."""
        state = self.state
        if state.accelerator.is_main_process and not (folder / STATE).exists():
            resume.save(state, folder)
        state.accelerator.wait_for_everyone()
        resume.restore(state, folder)

    def _steps(self, folder: Path | None, callback: Callback | None) -> nn.Module:
        state = self.state
        if state.progress() >= 1:
            self.say(
                f"{folder}: finished before ({state.step} steps), loaded. "
                "Delete the folder to train again."
            )
            if callback:
                callback(state.ema, 1.0)
            return state.result()
        self.say(_announcement(state))
        on_cpu = state.device.type == "cpu"
        try:
            with threads.on_own_core() if on_cpu else contextlib.nullcontext():
                self._loop(folder, callback)
        except KeyboardInterrupt:
            self._say_stopped(folder)
            if not state.whole:
                raise
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}. {self._kept(folder)}") from None
        finally:
            if folder is not None and state.whole and state.finite():
                self._save(folder)
        return state.result()

    def _loop(self, folder: Path | None, callback: Callback | None) -> None:
        state, options = self.state, self.state.config
        moments = [m for m in CALLBACK_MOMENTS if m > state.progress()] if callback else []
        last_save, before = time.monotonic(), state.elapsed
        with ProgressBar(state) as bar:
            while state.progress() < 1:
                state.advance()
                done = min(state.progress(), 1.0)
                bar.update(done)
                if folder is not None and time.monotonic() - last_save > options.save_every:
                    self._save(folder)
                    last_save = time.monotonic()
                if moments and done >= moments[0]:
                    moments = [m for m in moments if m > done]
                    bar.clear()
                    callback(state.ema, done)
                spent = state.elapsed - before
                late = options.max_seconds and spent > options.max_seconds
                if done < 1 and (self.interrupts.came or late):
                    raise KeyboardInterrupt

    def _save(self, folder: Path) -> None:
        """Save; a full disk costs what was not saved, and neither the training nor its result."""
        try:
            with self.interrupts.held():
                resume.save(self.state, folder)
        except OSError as error:
            self.say(f"The run could not be saved: {error}. {self._kept(folder)}.")

    def _kept(self, folder: Path | None) -> str:
        if folder is None or not self.state.saved:
            return "Nothing was saved"
        return f"The last good state, of step {self.state.saved}, is in {folder}"

    def _say_stopped(self, folder: Path | None) -> None:
        state = self.state
        if state.whole:
            after = ": the same call goes on from here." if folder else "."
            self.say(f"Stopped at step {state.step} ({state.progress():.0%}){after}")
        else:
            self.say(f"Stopped within step {state.step + 1}. {self._kept(folder)}.")


class ProgressBar:
    """One line of progress: time, time left, speed and loss, every 50 steps."""

    def __init__(self, state: TrainState):
        self.state = state
        self.first = state.step
        self.before = state.elapsed
        self.bar = tqdm(
            total=1.0,
            initial=state.progress(),
            file=sys.stdout,
            mininterval=0.5,
            disable=not state.accelerator.is_main_process,
            bar_format="{percentage:3.0f}% |{bar:30}| {desc}",
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def clear(self) -> None:
        self.bar.clear()

    def update(self, done: float) -> None:
        state = self.state
        if state.step % 50 and done < 1:
            return
        seen = (state.step - self.first) * state.batches.size
        speed = seen / max(state.elapsed - self.before, 1e-9)
        left = state.elapsed / done - state.elapsed
        self.bar.set_description_str(
            f"{state.elapsed:.0f} s, about {left:.0f} s left, {speed:,.0f} examples/s, "
            f"loss {state.history[-1][1]:.4f}",
            refresh=False,
        )
        self.bar.update(done - self.bar.n)


class Interrupts:
    """How often Ctrl-C came. The first two wait for the end of the step, the third for nothing but
    a save.
    """

    def __init__(self):
        self.came = 0
        self.holding = False

    def receive(self, number: int, frame) -> None:
        self.came += 1
        if self.came > 2 and not self.holding:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is interrupted here."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False


@contextlib.contextmanager
def defer_interrupt() -> Iterator[Interrupts]:
    """Ctrl-C is counted, and does not raise KeyboardInterrupt before its third time."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():   # only that one receives signals
        yield interrupts
        return
    earlier = signal.signal(signal.SIGINT, interrupts.receive) or signal.default_int_handler
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, earlier)


def _silent(*words) -> None:
    """Says nothing: the other processes of a run."""


def _announcement(state: TrainState) -> str:
    options = state.config
    millions = sum(p.numel() for p in state.trained.values()) / 1e6
    start = f"from step {state.step} " if state.step else ""
    if options.steps:
        length = f"{options.steps} steps of {options.batch_size}"
    else:
        length = f"about {options.seconds:.0f} s"
    dtype = str(state.dtype).removeprefix("torch.")
    return (
        f"Training {millions:.2f} M parameters {start}on {state.device.type} in {dtype}, {length}; "
        "interrupt at any time."
    )


def _task(
    model: nn.Module,
    loss: Loss | None,
    draw: Draw | None,
    null: dict | None,
    options: TrainConfig,
) -> Task:
    """The model with its loss. Raises ValueError for a denoiser's option with another model."""
    own = {name: getattr(options, name) for name in DENOISER_ONLY}
    if isinstance(model, Denoiser):
        return Denoising(model, loss, draw, null=null, **own)
    defaults = {name: TrainConfig.__dataclass_fields__[name].default for name in DENOISER_ONLY}
    given = [name for name in DENOISER_ONLY if own[name] != defaults[name]]
    given += [] if null is None else ["null"]
    if given:
        raise ValueError(
            f"{', '.join(given)}: for denoisers alone, and this is a {type(model).__name__}; "
            "pass draw=(batch, generator) -> batch for random inputs of your own"
        )
    return Task(model, loss, draw)


def _place(device: torch.device | str | None) -> tuple[torch.device, int, int]:
    """Where this process computes, its rank, and the number of processes."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return default_device() if device is None else validate.device(device), 0, 1
    from accelerate import PartialState
    state = PartialState(cpu=default_device().type == "cpu")
    return state.device, state.process_index, state.num_processes
