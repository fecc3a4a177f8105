"""One training loop for every denoiser of the course: it averages its weights, can be stopped, and goes on where it was.

    python -m course_lib.lab.train configs/mnist.toml                        on the CPU or on one GPU
    accelerate launch -m course_lib.lab.train configs/mnist.toml             on as many processes, GPUs or hosts as accelerate is told
"""
import argparse
import contextlib
import inspect
import os
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..denoiser import Denoiser, identity
from ..networks.dit import DiT
from ..networks.text import ConditionalUNet, forgetful
from ..networks.unet import UNet
from ..schedules import Schedule
from . import data as datasets
from . import machine
from .batches import Batches, drop, normal_log_snr  # noqa: F401  (drop is part of this module's interface)
from .checkpoint import load_tensors, save_tensors
from .nouns import vocabulary
from .run import Run

NETWORKS = {"UNet": UNet, "DiT": DiT, "ConditionalUNet": ConditionalUNet}
DATA = {"mnist": datasets.mnist, "cifar10": datasets.cifar10, "nouns": datasets.nouns}
SCHEDULES = ("linear", "cosine", "sigmoid", "zero_terminal_snr", "edm", "flow")


def train(D: Denoiser, data: Tensor | tuple[Tensor, Tensor] | dict[str, Tensor], *, steps: int | None = None, seconds: float | None = None,
          batch: int = 128, lr: float = 4e-3, muon_lr: float = 0.02, p_drop: float = 0.1, null: dict | None = None, seed: int = 0,
          out: str | Path | None = None, watch: Callable[[Denoiser, float], None] | None = None, save_every: float = 60.0,
          on: torch.device | str | None = None, weight: Callable[[Tensor], Tensor] | None = None, times: Callable[[Tensor], Tensor] | None = None,
          flip: bool = False, clip: float | None = None, accumulate: int = 1, warm_up: float = 0.02, compiled: bool = False,
          budget: float | None = None) -> Denoiser:
    """Train D for a number of steps or of seconds; returns the average of its weights, in eval mode, with its `history`.

    data:     x0 (N, ...), images in [-1, 1]; or (x0, y) with labels; or a dict with "x0" and the conditions that D takes
    lr:       AdamW's peak rate, for biases, norms, embeddings, first and last layer; rises over the `warm_up`, then falls to 0
    muon_lr:  the same for Muon, which moves the other linear and convolution weights of a network that has a `stem` and an
              `out` layer (run.inner_matrices); 0 leaves everything to AdamW
    p_drop:   the share of examples trained without their conditions, so that guidance has something to guide from
    null:     what "without" means, such as {"y": 10}; None: the network's own `null`, or its label num_classes
    out:      a folder under runs/ (or $COURSE_RUNS). Stop at any time: calling again goes on from there, and a finished run
              is loaded, not repeated. None: nothing is written.
    weight:   of each example's loss, as a function of its log-SNR (B,) -> (B,); None: all alike
    times:    from evenly spread numbers in (0, 1] to the times t that are trained on, (B,) -> (B,); None: themselves
    flip:     mirror half of the images, left for right
    clip:     the largest norm that the gradient may have; longer ones are shortened to it
    accumulate: take each batch in so many parts, one after the other: the same gradient, in less memory
    warm_up:  the share of the run in which the rates rise
    compiled: by torch.compile (a minute before the first step; pays on a GPU)
    budget:   seconds after which this call saves and returns, finished or not; the same call goes on from there
    watch:    called with the average so far and the share done, at 1/16, 1/8, 1/4, 1/2 and all of the run

    D itself is moved to the device and trained in place. With steps=... the same seed, data, precision and machine give the
    same weights; with seconds=... the rates follow the clock. Ctrl-C (Jupyter's stop button) ends the training after its step
    and returns what there is; a second one stops at once. Under `accelerate launch` the processes share each batch. Raises TypeError or
    ValueError for data that cannot be trained on, FloatingPointError if the loss stops being finite (what was saved stays), OSError
    for a damaged saved state.
    The average of weights is that of Karras et al. 2024, power function.
    """
    if (steps is None) == (seconds is None) or (seconds if steps is None else steps) <= 0 or batch < 1:
        raise ValueError(f"say how long to train, either steps=... or seconds=..., above 0; got steps={steps}, seconds={seconds}, batch={batch}")
    data = checked_data(data, getattr(D.net, "num_classes", None))
    null = _null(D.net) if null is None else null
    on, rank, world = _place(on)
    run = Run(D.to(on), Batches(data, batch, p_drop, null, seed, on, times, flip, rank, world), lr, muon_lr, steps, seconds,
              weight=weight, clip=clip, accumulate=accumulate, warm_up=warm_up, compiled=compiled)
    folder = None if out is None else runs_folder() / out
    say = print if rank == 0 else lambda *words: None
    if folder is not None and run.restore(folder):
        say(f"{folder}: finished before ({run.step} steps), loaded. Delete the folder to train again.")
        if watch:
            watch(run.ema, 1.0)
        return run.result()
    say(f"Training {sum(p.numel() for p in D.parameters()) / 1e6:.2f} M parameters {f'from step {run.step} ' if run.step else ''}on {on.type} "
        f"in {str(run.dtype)[6:]}, {f'{steps} steps of {batch}' if steps else f'about {seconds:.0f} s'}; interrupt at any time.")
    try:
        _loop(run, folder, save_every, watch if rank == 0 else None, budget)
    except KeyboardInterrupt:
        say(f"Stopped at step {run.step} ({run.progress():.0%})" + (": the same call goes on from here." if folder else "."))
    except FloatingPointError as error:
        saved = folder is not None and (folder / "state.safetensors").exists()
        raise FloatingPointError(f"{error}. {f'The last good state, of step {run.saved}, is in {folder}' if saved else 'Nothing was saved'}") from None
    finally:
        if folder is not None and run.finite():
            run.save(folder)
    return run.result()


def _null(net: torch.nn.Module) -> dict:
    """The conditions that say nothing to this network: what it says of itself, else the label after the last, if it has labels."""
    labels = getattr(net, "num_classes", None)
    return getattr(net, "null", {} if labels is None else {"y": labels})


def _place(on: torch.device | str | None) -> tuple[torch.device, int, int]:
    """Where this process computes, which one it is, and of how many."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return machine.device() if on is None else torch.device(on), 0, 1
    from accelerate import PartialState
    state = PartialState(cpu=machine.device().type == "cpu")
    return state.device, state.process_index, state.num_processes


def _loop(run: Run, folder: Path | None, save_every: float, watch: Callable[[Denoiser, float], None] | None, budget: float | None) -> None:
    moments = [m for m in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1) if m > run.progress()] if watch else []
    last_save, first, before = time.monotonic(), run.step, run.elapsed
    with between_steps() as interrupted, tqdm(total=1.0, initial=run.progress(), file=sys.stdout, mininterval=0.5, disable=not run.accelerator.is_main_process,
                                              bar_format="{percentage:3.0f}% |{bar:30}| {desc}") as bar:
        while run.progress() < 1:
            run.advance()
            done = min(run.progress(), 1.0)
            if run.step % 50 == 0 or done == 1:
                speed = (run.step - first) * run.batches.size / (run.elapsed - before)
                bar.set_description_str(f"{run.elapsed:.0f} s, about {run.elapsed / done - run.elapsed:.0f} s left, {speed:,.0f} examples/s, loss {run.history[-1][1]:.4f}", refresh=False)
                bar.update(done - bar.n)
            if folder is not None and time.monotonic() - last_save > save_every:
                run.save(folder)
                last_save = time.monotonic()
            if moments and done >= moments[0]:
                moments = [m for m in moments if m > done]
                bar.clear()
                watch(run.ema, done)
            if interrupted or budget and run.elapsed - before > budget and done < 1:
                raise KeyboardInterrupt


@contextlib.contextmanager
def between_steps() -> Iterator[list]:
    """Holds the first Ctrl-C back until the loop looks at the yielded list, so that no step is left half done."""
    came: list[int] = []

    def hold(number: int, frame) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)
    if threading.current_thread() is not threading.main_thread():       # only the main thread receives signals
        yield came
        return
    earlier = signal.signal(signal.SIGINT, hold) or signal.default_int_handler
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, earlier)


def checked_data(data: Tensor | tuple[Tensor, Tensor] | dict[str, Tensor], num_classes: int | None = None) -> dict[str, Tensor]:
    """The data as a dict with "x0" in float32, or one clear sentence."""
    if isinstance(data, Tensor):
        data = {"x0": data}
    elif isinstance(data, tuple) and len(data) == 2:
        data = {"x0": data[0], "y": data[1]}
    if not isinstance(data, dict) or "x0" not in data or not all(isinstance(value, Tensor) for value in data.values()):
        raise TypeError(f"data must be a tensor x0, a pair (x0, y), or a dict of tensors with \"x0\"; got {type(data).__name__}")
    x0 = data["x0"]
    if not x0.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1]; got {x0.dtype}: scale with x / 127.5 - 1")
    lengths = {name: len(value) for name, value in data.items()}
    if len(set(lengths.values())) > 1 or len(x0) == 0:
        raise ValueError(f"the data and its conditions must have one length, not zero; got {lengths}")
    if not x0.isfinite().all():
        raise ValueError(f"the data has {(~x0.isfinite()).sum()} values that are not finite (nan or inf)")
    if x0.ndim == 4 and x0.shape[1] in (1, 3) and (x0.min() < -1.001 or x0.max() > 1.001):
        raise ValueError(f"images must lie in [-1, 1]; got [{x0.min():.4g}, {x0.max():.4g}]: scale with x / 127.5 - 1")
    y = data.get("y")
    if y is not None and num_classes is not None and (y.is_floating_point() or y.min() < 0 or y.max() >= num_classes):
        raise ValueError(f"labels are integers from 0 to {num_classes - 1}; got {y.dtype} from {y.min()} to {y.max()}")
    return data | {"x0": x0.float()}


def runs_folder() -> Path:
    """Where runs are written: $COURSE_RUNS, else runs/ in the repository or the working folder."""
    if "COURSE_RUNS" in os.environ:
        return Path(os.environ["COURSE_RUNS"])
    repository = Path(__file__).parents[2]
    return (repository if (repository / "pyproject.toml").exists() else Path.cwd()) / "runs"


def save(D: Denoiser, file: str | Path, **about) -> None:
    """A denoiser's weights as fp16 safetensors; the header holds what `load` needs and what you say `about` it."""
    if D.schedule.made_by is None or not isinstance(D.target, str) or D.time is not identity or type(D.net).__name__ not in NETWORKS:
        raise ValueError("only a course network with a named schedule, a named target and t itself as its time can be saved: the header must be able to rebuild it")
    header = {"net": [type(D.net).__name__, D.net.config], "schedule": D.schedule.made_by, "target": D.target, "sigma_data": D.sigma_data, "about": about}
    save_tensors(Path(file), {name: value.half() for name, value in D.net.state_dict().items()}, header)


def load(name: str | Path, on: torch.device | str | None = None) -> Denoiser:
    """A denoiser that `save` wrote: a path, or the name of a checkpoint that the course ships. In eval mode, fp32.

    Its `about` tells the data, the steps, the metrics and the command that trained it. Raises FileNotFoundError or OSError.
    """
    path = Path(name)
    tensors, header = load_tensors(path if path.suffix else datasets.ASSETS / "checkpoints" / f"{name}.safetensors")
    if not {"net", "schedule", "target"} <= header.keys() or header["net"][0] not in NETWORKS or header["schedule"][0] not in SCHEDULES:
        raise OSError(f"{name} does not hold a denoiser that this version of course_lib can rebuild")
    (net, config), (schedule, arguments) = header["net"], header["schedule"]
    D = Denoiser(NETWORKS[net](**config), getattr(Schedule, schedule)(**arguments), header["target"], sigma_data=header.get("sigma_data", 0.5))
    D.net.load_state_dict({key: value.float() for key, value in tensors.items()})
    D.about = header["about"]
    return D.to(machine.device() if on is None else on).eval().requires_grad_(False)


def from_config(config: dict) -> tuple[Denoiser, dict, dict]:
    """The untrained denoiser, the data and train's options that a configuration describes (configs/*.toml).

    In [train], times = {mean = ..., std = ...} asks for `normal_log_snr`. With data = "nouns", `examples` says how many are drawn, and a
    ConditionalUNet gets their vocabulary. Raises ValueError for what it does not know.
    """
    for needed in ("data", "network", "train"):
        if needed not in config:
            raise ValueError(f"it must say `data`, [network] and [train]; there is no {needed}")
    network, schedule = dict(config["network"]), dict(config.get("schedule", {"name": "cosine"}))
    kind, name = network.pop("type", "UNet"), schedule.pop("name", None)
    for word, known, what in ((config["data"], DATA, "data"), (kind, NETWORKS, "a network"), (name, SCHEDULES, "a schedule")):
        if word not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}; got {word!r}")
    options = inspect.signature(train).parameters.keys() - {"D", "data", "out", "watch"}
    if unknown := config["train"].keys() - options:
        raise ValueError(f"[train] takes {', '.join(sorted(options))}; got {', '.join(sorted(unknown))}")
    torch.manual_seed(config["train"].get("seed", 0))
    if kind == "ConditionalUNet":
        network = {"words": vocabulary()} | network
    try:
        D = Denoiser(NETWORKS[kind](**network), getattr(Schedule, name)(**schedule), config.get("target", "v"), sigma_data=config.get("sigma_data", 0.5))
    except TypeError as error:
        raise ValueError(f"[network] or [schedule] has a wrong entry: {error}") from None
    how = dict(config["train"])
    if "times" in how:
        if not isinstance(how["times"], dict) or how["times"].keys() != {"mean", "std"}:
            raise ValueError(f"times in [train] are {{mean = ..., std = ...}}, those of a normally distributed log-SNR; got {how['times']}")
        how["times"] = normal_log_snr(D.schedule, **how["times"])
    return D, _data(config, D), how


def _data(config: dict, D: Denoiser) -> dict[str, Tensor]:
    """The pictures that a configuration asks for, and the conditions that its network takes."""
    draw = DATA[config["data"]]
    if draw is datasets.nouns:                                          # captions, not labels
        x0, captions, _ = draw(config.get("examples", 60_000))
        return {"x0": x0} | ({"tokens": forgetful(D.net.tokenizer(captions))} if isinstance(D.net, ConditionalUNet) else {})
    x0, y = draw("train")
    return {"x0": x0} | ({"y": y} if D.net.num_classes else {})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a TOML file that says what is trained, on what, and how long")
    parser.add_argument("--budget", type=float, help="seconds after which to save and stop; the same command goes on")
    arguments = parser.parse_args(arguments)
    try:
        config = tomllib.loads(arguments.config.read_text(encoding="utf-8"))
        D, data, how = from_config(config)
    except (OSError, ValueError) as error:                              # TOML's own errors are ValueErrors
        parser.error(f"{arguments.config} cannot be trained: {error}")
    name = arguments.config.stem
    trained = train(D, data, **how, out=name, budget=arguments.budget)
    if int(os.environ.get("RANK", 0)) == 0 and trained.done:
        file = runs_folder() / name / f"{name}.safetensors"
        save(trained, file, data=config["data"], config=config, steps=trained.history[-1][0], command=f"python -m course_lib.lab.train configs/{name}.toml")
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
