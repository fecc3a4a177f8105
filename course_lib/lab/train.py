"""One training loop for every denoiser of the course: it averages its weights, can be stopped, and goes on where it was."""
import copy
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..denoiser import Denoiser
from ..networks.unet import UNet
from ..schedules import Schedule, over, randn_like
from . import machine
from .checkpoint import load_tensors, save_tensors
from .data import ASSETS

NETWORKS = {"UNet": UNet}
SCHEDULES = ("linear", "cosine", "sigmoid", "zero_terminal_snr", "edm", "flow")


def train(D: Denoiser, data: Tensor | tuple[Tensor, Tensor] | dict, *, steps: int | None = None, seconds: float | None = None,
          batch: int = 64, lr: float = 4e-3, drop: float = 0.1, seed: int = 0, out: str | Path | None = None,
          watch: Callable[[Denoiser, float], None] | None = None, save_every: float = 60.0, on: torch.device | str | None = None) -> Denoiser:
    """Train D for a number of steps or of seconds; returns the average of its weights, in eval mode, with its `history`.

    data:   x0 (N, ...), images in [-1, 1]; or (x0, y) with labels; or a dict with "x0" and the conditions that D takes
    lr:     AdamW's peak learning rate, reached after 2 % of the run and then lowered in a straight line to 0
    drop:   the share of examples that are trained without their label, so that guidance has something to guide from
    out:    a folder under runs/ (or $COURSE_RUNS). Stop at any time: calling again goes on from there, and a finished
            run is loaded, not repeated. None: nothing is written.
    watch:  called with the average so far and the share done, at 1/16, 1/8, 1/4, 1/2 and all of the run

    Raises ValueError for data that is not finite, not in range or not of one length, and FloatingPointError if the loss
    stops being finite (what was saved stays). Average of weights: Karras et al. 2024, power function, about the last tenth.
    """
    if (steps is None) == (seconds is None):
        raise ValueError("say how long to train: either steps=... or seconds=...")
    data = checked_data(data)
    on = machine.device() if on is None else torch.device(on)
    run = Run(D.to(on), Batches(data, batch, drop, _null(D), seed, on), lr, steps, seconds)
    folder = None if out is None else runs_folder() / out
    if folder is not None and run.restore(folder):
        print(f"{folder}: finished before ({run.step} steps), loaded. Delete the folder to train again.")
        return run.result()
    start = f"from step {run.step} of an earlier start" if run.step else "from scratch"
    print(f"Training {sum(p.numel() for p in D.parameters()) / 1e6:.2f} M parameters {start} on {on.type} in {str(machine.precision(on))[6:]}, "
          + (f"{steps} steps of {batch}" if steps else f"about {seconds:.0f} s") + "; interrupt at any time.")
    try:
        _loop(run, folder, save_every, watch)
    except KeyboardInterrupt:
        print(f"Stopped at step {run.step} ({run.progress():.0%})" + (": the same call goes on from here." if folder else "."))
    if folder is not None:
        run.save(folder)
    return run.result()


def _loop(run: "Run", folder: Path | None, save_every: float, watch: Callable[[Denoiser, float], None] | None) -> None:
    moments = [m for m in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1) if m > run.progress()] if watch else []
    last_save, first, before = time.monotonic(), run.step, run.elapsed
    with tqdm(total=1.0, initial=run.progress(), file=sys.stdout, mininterval=0.5, bar_format="{percentage:3.0f}% |{bar:30}| {postfix}") as bar:
        while run.progress() < 1:
            run.advance()
            done = min(run.progress(), 1.0)
            if run.step % 50 == 0 or done == 1:
                speed = (run.step - first) * run.batches.size / (run.elapsed - before)
                whole = run.elapsed / done
                bar.set_postfix_str(f"{run.elapsed:.0f} of about {whole:.0f} s, {speed:,.0f} examples/s, loss {run.log():.4f}", refresh=False)
                bar.update(done - bar.n)
            if folder is not None and time.monotonic() - last_save > save_every:
                run.save(folder)
                last_save = time.monotonic()
            if moments and done >= moments[0]:
                bar.clear()
                watch(run.ema, moments.pop(0))


class Batches:
    """Batch k depends on (seed, k) alone, so a resumed run sees exactly what an uninterrupted one would have seen."""

    def __init__(self, data: dict[str, Tensor], size: int, drop: float, null: dict, seed: int, on: torch.device):
        self.x0 = data["x0"].to(on)                                                     # (N, ...)
        self.condition = {name: value.to(on) for name, value in data.items() if name != "x0"}
        self.size, self.drop, self.null, self.seed = min(size, len(self.x0)), drop, null, seed

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor, dict]:
        """x0 (B, ...), t (B,) in (0, 1], eps like x0, and the conditions, some of them dropped."""
        epoch, place = divmod(k, len(self.x0) // self.size)
        rows = _order(len(self.x0), self.seed, epoch)[place * self.size:(place + 1) * self.size].to(self.x0.device)
        g = torch.Generator().manual_seed((self.seed + 1) * 1_000_003 + k)
        t = 1 - (torch.arange(self.size) + torch.rand(self.size, generator=g)) / self.size   # one in each slice of (0, 1]
        x0 = self.x0[rows]
        eps = randn_like(x0, torch.Generator(x0.device).manual_seed(g.initial_seed()) if x0.is_cuda else g)
        return x0, t, eps, drop_condition({n: v[rows] for n, v in self.condition.items()}, self.null, self.drop, g)


def drop_condition(condition: dict[str, Tensor], null: dict, p: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each example loses, with probability p, all the conditions that `null` names. (Ho & Salimans 2022, algorithm 1)"""
    if not condition or not null or p == 0:
        return condition
    size = len(next(iter(condition.values())))
    lost = torch.rand(size, generator=generator) < p                                    # (B,)
    swap = lambda name, value: torch.where(over(lost, value).bool(), torch.as_tensor(null[name], device=value.device, dtype=value.dtype), value)
    return {name: swap(name, value) if name in null else value for name, value in condition.items()}


class Run:
    """One run's state: network, average, optimizer, and how far it is."""

    def __init__(self, D: Denoiser, batches: Batches, lr: float, steps: int | None, seconds: float | None):
        self.D, self.batches, self.lr, self.steps, self.seconds = D.train(), batches, lr, steps, seconds
        self.ema = copy.deepcopy(D).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(D.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.on = next(D.parameters()).device
        self.scaler = torch.amp.GradScaler(self.on.type, enabled=machine.precision(self.on) == torch.float16)
        self.step, self.elapsed, self.history, self._losses = 0, 0.0, [], []

    def progress(self) -> float:
        """The share of the run that is done; at or above 1 when it is finished."""
        return self.step / self.steps if self.steps else self.elapsed / self.seconds

    def advance(self) -> None:
        """One step of AdamW, and of the average."""
        start = time.perf_counter()
        done = self.progress()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, done / 0.02 + 0.01) * (1 - done)
        x0, t, eps, condition = self.batches[self.step]
        with machine.autocast(self.on):
            loss = self.D.loss(x0, t, eps, **condition).mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        torch._foreach_lerp_(list(self.ema.parameters()), [p.detach() for p in self.D.parameters()], 1 - (1 - 1 / self.step) ** 10)
        self._losses.append(loss.detach())
        self.elapsed += time.perf_counter() - start

    def log(self) -> float:
        """The mean loss since the last call, kept in `history` as (step, loss)."""
        loss = torch.stack(self._losses).mean().item() if self._losses else float("nan")
        if self._losses and not loss < float("inf"):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}: lower lr (now {self.lr}), or train in fp32 with COURSE_PRECISION=float32")
        self._losses.clear()
        self.history.append((self.step, loss))
        return loss

    def result(self) -> Denoiser:
        """The averaged denoiser, with the history of its losses."""
        self.ema.history = self.history
        return self.ema

    def _tensors(self) -> dict[str, Tensor]:
        optimizer = {f"optimizer.{i}.{key}": value for i, state in self.optimizer.state_dict()["state"].items() for key, value in state.items()}
        return optimizer | {f"net.{n}": v for n, v in self.D.state_dict().items()} | {f"ema.{n}": v for n, v in self.ema.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Everything that going on needs, in one file, written whole or not at all."""
        header = {"experiment": self.fingerprint(), "step": self.step, "elapsed": self.elapsed, "history": self.history, "scaler": self.scaler.state_dict()}
        save_tensors(folder / "state.safetensors", self._tensors(), header)

    def restore(self, folder: Path) -> bool:
        """Go on from a saved state of the same experiment; True if it was finished. Another experiment is moved aside."""
        file = folder / "state.safetensors"
        if not file.exists():
            return False
        tensors, header = load_tensors(file)
        if header["experiment"] != self.fingerprint():
            aside = next(p for i in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{i}")).exists())
            os.replace(folder, aside)
            print(f"{folder} held a run with other settings: moved to {aside}.")
            return False
        part = lambda prefix: {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
        self.D.load_state_dict(part("net."))
        self.ema.load_state_dict(part("ema."))
        state: dict[int, dict] = {}
        for name, value in part("optimizer.").items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.scaler.load_state_dict(header["scaler"])
        self.step, self.elapsed, self.history = header["step"], header["elapsed"], [tuple(pair) for pair in header["history"]]
        return self.progress() >= 1

    def fingerprint(self) -> dict:
        """What makes this experiment this one: the saved state of any other is not continued."""
        b, D = self.batches, self.D
        return {"net": f"{type(D.net).__name__} {[list(p.shape) for p in D.parameters()]}", "schedule": repr(D.schedule), "target": str(D.target),
                "data": [len(b.x0), round(b.x0[:: max(1, len(b.x0) // 1000)].double().sum().item(), 3) if b.x0.device.type != "mps" else 0],
                "steps": self.steps, "seconds": self.seconds, "batch": b.size, "drop": b.drop, "seed": b.seed, "lr": self.lr}


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its n examples."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def _null(D: Denoiser) -> dict:
    classes = getattr(D.net, "num_classes", None)
    return {} if classes is None else {"y": classes}


def checked_data(data: Tensor | tuple[Tensor, Tensor] | dict) -> dict[str, Tensor]:
    """The data as a dict with "x0", or one clear sentence."""
    if isinstance(data, Tensor):
        data = {"x0": data}
    elif isinstance(data, tuple):
        data = dict(zip(("x0", "y"), data, strict=True))
    x0 = data["x0"]
    if not x0.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1]; got {x0.dtype}: scale with x / 127.5 - 1")
    if not x0.isfinite().all():
        raise ValueError(f"the data has {(~x0.isfinite()).sum()} values that are not finite (nan or inf)")
    if x0.ndim == 4 and x0.shape[1] in (1, 3) and (x0.min() < -1.001 or x0.max() > 1.001):
        raise ValueError(f"images must lie in [-1, 1]; got [{x0.min():.4g}, {x0.max():.4g}]: scale with x / 127.5 - 1")
    lengths = {name: len(value) for name, value in data.items()}
    if len(set(lengths.values())) > 1 or len(x0) == 0:
        raise ValueError(f"the data and its conditions must have one length, not zero; got {lengths}")
    return data


def runs_folder() -> Path:
    """Where runs are written: $COURSE_RUNS, else runs/ in the repository or the working folder."""
    if "COURSE_RUNS" in os.environ:
        return Path(os.environ["COURSE_RUNS"])
    repository = Path(__file__).parents[2]
    return (repository if (repository / "pyproject.toml").exists() else Path.cwd()) / "runs"


def save(D: Denoiser, file: str | Path, **about) -> None:
    """A denoiser's weights as fp16 safetensors; the header holds what `load` needs and what you say `about` it."""
    if D.schedule.made_by is None or not isinstance(D.target, str) or type(D.net).__name__ not in NETWORKS:
        raise ValueError("only a course network with a named schedule and target can be saved: the header must be able to rebuild it")
    header = {"net": [type(D.net).__name__, D.net.config], "schedule": D.schedule.made_by, "target": D.target, "about": about}
    save_tensors(Path(file), {name: value.half() for name, value in D.net.state_dict().items()}, header)


def load(name: str | Path, on: torch.device | str | None = None) -> Denoiser:
    """A denoiser that `save` wrote: a path, or the name of a checkpoint that the course ships. In eval mode, fp32.

    Its `about` tells the data, the steps, the metrics and the command that trained it.
    """
    path = Path(name)
    tensors, header = load_tensors(path if path.suffix else ASSETS / "checkpoints" / f"{name}.safetensors")
    (net, config), (schedule, arguments) = header["net"], header["schedule"]
    if net not in NETWORKS or schedule not in SCHEDULES:
        raise OSError(f"{name} asks for network {net!r} and schedule {schedule!r}, which this version of course_lib does not have")
    D = Denoiser(NETWORKS[net](**config), getattr(Schedule, schedule)(**arguments), header["target"])
    D.net.load_state_dict({key: value.float() for key, value in tensors.items()})
    D.about = header["about"]
    return D.to(machine.device() if on is None else on).eval().requires_grad_(False)
