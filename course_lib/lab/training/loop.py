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

from ...denoiser import Denoiser
from . import resume
from .batches import Batch, BatchSampler, Draw
from .config import DENOISER_ONLY, TrainConfig, override
from .device import default_device
from .state import TrainState
from .tasks import Denoising, Loss, Task
from .validation import Data, validate_data

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
    """Train a model; returns the average of its weights, in eval mode, with `history` and `done`.

    model:    a denoiser, or any module with a method loss(**batch) -> (B,); it is moved to the
              device and trained in place, as far as its parameters require a gradient
    data:     x0 (N, ...), or (x0, y) with labels, or a dict of tensors by the names that the loss
              takes; or `data.pictures(...)`, arrays, torchvision data sets, loaders (see
              `data.as_training_data`). Images lie in [-1, 1]; data_range=None accepts others
    run_name: a folder under runs/ (or $COURSE_RUNS). Stop at any time: calling again resumes, and a
              finished run is loaded, not repeated. None: nothing is written
    callback: called with the average so far and the fraction done, at 1/16, 1/8, 1/4, 1/2 and 1
    device:   None: `default_device()`
    loss:     (model, batch) -> (B,), in place of the model's own
    draw:     (batch, generator) -> batch: adds random inputs of the loss, in place of model.draw; a
              denoiser's t and eps are in the batch before
    null:     denoisers: what "no condition" means, such as {"y": 10}; None: the network's `null`
    config, options: see TrainConfig: steps=... or seconds=..., batch_size, lr, muon_lr, seed, ...

    With steps=... the same seed, data, precision and machine give the same weights. Ctrl-C
    (Jupyter's stop button) ends the training after its step and returns the average so far; a
    second one stops at once. Under `accelerate launch` the processes share each batch.
    Raises TypeError or ValueError for data or options that cannot be right, FloatingPointError if
    the loss stops being finite (what was saved stays), OSError for a damaged saved state.
    """
    options = TrainConfig.of(override({} if config is None else vars(config), options))
    data = validate_data(data, model, options.data_range)
    task = _task(model, loss, draw, null, options)
    state = _state(task, data, device, options)
    folder = None if run_name is None else resume.runs_folder() / run_name
    if not state.accelerator.is_main_process:
        return _run(state, folder, None, _silent)
    return _run(state, folder, callback, print)


def _state(
    task: Task, data: Batch, device: torch.device | str | None, options: TrainConfig
) -> TrainState:
    """The state of a run before its first step, on the device of this process."""
    device, rank, world = _place(device)
    model = task.model
    if not any(p.requires_grad for p in model.parameters()):
        model.requires_grad_(True)                          # such as the result of an earlier run
    model.to(device)
    if isinstance(model, Denoiser):
        model.data_shape = tuple(data["x0"].shape[1:])      # samplers need it, checkpoints hold it
    batches = BatchSampler(
        data, options.batch_size, options.seed, device, task.draw, rank, world
    )
    return TrainState(task, batches, options)


def _run(state: TrainState, folder: Path | None, callback: Callback | None, say) -> nn.Module:
    """The loop, from where the run is, and what is kept of it however it ends."""
    if folder is not None and resume.restore(state, folder):
        say(
            f"{folder}: finished before ({state.step} steps), loaded. "
            "Delete the folder to train again."
        )
        if callback:
            callback(state.ema, 1.0)
        return state.result()
    say(_announcement(state))
    try:
        _loop(state, folder, callback)
    except KeyboardInterrupt:
        resumable = ": the same call goes on from here." if folder else "."
        say(f"Stopped at step {state.step} ({state.progress():.0%})" + resumable)
    except FloatingPointError as error:
        kept = "Nothing was saved"
        if folder is not None and (folder / "state.safetensors").exists():
            kept = f"The last good state, of step {state.saved}, is in {folder}"
        raise FloatingPointError(f"{error}. {kept}") from None
    finally:
        if folder is not None and state.finite():
            resume.save(state, folder)
    return state.result()


def _loop(state: TrainState, folder: Path | None, callback: Callback | None) -> None:
    options = state.config
    moments = [m for m in CALLBACK_MOMENTS if m > state.progress()] if callback else []
    last_save, before = time.monotonic(), state.elapsed
    with between_steps() as interrupted, ProgressBar(state) as bar:
        while state.progress() < 1:
            state.advance()
            done = min(state.progress(), 1.0)
            bar.update(done)
            if folder is not None and time.monotonic() - last_save > options.save_every:
                resume.save(state, folder)
                last_save = time.monotonic()
            if moments and done >= moments[0]:
                moments = [m for m in moments if m > done]
                bar.clear()
                callback(state.ema, done)
            spent = state.elapsed - before
            if interrupted or options.max_seconds and spent > options.max_seconds and done < 1:
                raise KeyboardInterrupt


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


@contextlib.contextmanager
def between_steps() -> Iterator[list]:
    """Holds the first Ctrl-C back until the loop looks at the yielded list, between two steps."""
    came: list[int] = []

    def hold(number: int, frame) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
    if threading.current_thread() is not threading.main_thread():   # only that one receives signals
        yield came
        return
    earlier = signal.signal(signal.SIGINT, hold) or signal.default_int_handler
    try:
        yield came
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
        return default_device() if device is None else torch.device(device), 0, 1
    from accelerate import PartialState
    state = PartialState(cpu=default_device().type == "cpu")
    return state.device, state.process_index, state.num_processes
