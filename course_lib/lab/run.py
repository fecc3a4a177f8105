"""One training run: its batches, its optimizers, its average of weights, and how all of that is kept on disk."""
import contextlib
import copy
import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..version import VERSION
from . import machine
from .batches import Batches
from .checkpoint import load_tensors, save_tensors
from .muon import Muon


class Objective(nn.Module):
    """What is minimised, as one module: the mean loss of a batch, each example weighted by a function of its log-SNR."""

    def __init__(self, D: Denoiser, weight: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.D, self.weight = D, weight

    def forward(self, x0: Tensor, t: Tensor, eps: Tensor, condition: dict) -> Tensor:
        loss = self.D.loss(x0, t, eps, **condition)                                     # (B,)
        return (loss if self.weight is None else self.weight(self.D.schedule.log_snr(t)).to(loss) * loss).mean()


class Run:
    """One run's state: network, average, optimizers, and how far it is."""

    def __init__(self, D: Denoiser, batches: Batches, lr: float, muon_lr: float, steps: int | None, seconds: float | None, *,
                 weight: Callable[[Tensor], Tensor] | None = None, clip: float | None = None, accumulate: int = 1,
                 warm_up: float = 0.02, compiled: bool = False):
        self.D, self.batches, self.steps, self.seconds = D.train(), batches, steps, seconds
        self.clip, self.accumulate, self.warm_up = clip, accumulate, warm_up
        self.ema = copy.deepcopy(D).eval().requires_grad_(False)
        self.on = next(D.parameters()).device
        self.dtype = machine.precision(self.on)
        self.accelerator = Accelerator(device_placement=False, mixed_precision="no")    # one process or many; precision is ours
        if compiled:
            D.net.compile()                                             # in place; the schedule's few numbers per batch stay outside
        self.objective = self.accelerator.prepare(Objective(D, weight))
        matrices = inner_matrices(D.net) if muon_lr else []
        others = [p for p in D.parameters() if not any(p is m for m in matrices)]
        self.optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
        self.optimizers += [Muon(matrices, lr=muon_lr)] if matrices else []
        self.rates = (lr, muon_lr)
        self.scaler = torch.amp.GradScaler(self.on.type, enabled=self.dtype == torch.float16)
        self.step, self.elapsed, self.saved, self.history, self.clock, self._losses = 0, 0.0, 0, [], [], []

    def progress(self) -> float:
        """The share of the run that is done; at or above 1 when it is finished."""
        return self.step / self.steps if self.steps else self.elapsed / self.seconds

    def advance(self) -> None:
        """One step of the optimizers, and of the average."""
        start, done = time.perf_counter(), self.progress()
        self._losses.append(self._gradients())
        for optimizer, rate in zip(self.optimizers, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, done / self.warm_up + 0.01) * (1 - done)
            if self.clip:
                self.scaler.unscale_(optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(self.D.parameters(), self.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        self.step += 1
        self._average()
        if self.step % 50 == 0 or self.step == self.steps:
            self._log()                                                 # waits for the GPU, inside the clock
        self.elapsed = self._agreed(self.elapsed + time.perf_counter() - start)
        if self.seconds and self.progress() >= 1 and self._losses:
            self._log()

    def _gradients(self) -> Tensor:
        """The gradients of one batch, in `accumulate` parts of equal size; -> its loss."""
        x0, t, eps, condition = self.batches[self.step]
        total, parts = torch.zeros((), device=self.on), self.accumulate
        if len(x0) % parts:
            raise ValueError(f"{len(x0)} examples cannot be taken in {parts} equal parts")
        with torch.random.fork_rng(devices=[self.on] if self.on.type == "cuda" else []):
            torch.manual_seed(self.batches.seed_of(self.step) + 500_000_003 + self.accelerator.process_index)   # for dropout
            for k in range(parts):
                part = slice(k * len(x0) // parts, (k + 1) * len(x0) // parts)
                waiting = self.accelerator.no_sync(self.objective) if k < parts - 1 else contextlib.nullcontext()
                with waiting:
                    with machine.autocast(self.on, self.dtype):
                        loss = self.objective(x0[part], t[part], eps[part], {name: value[part] for name, value in condition.items()}) / parts
                    self.scaler.scale(loss).backward()
                total += loss.detach()
        return total

    @torch.no_grad()
    def _average(self) -> None:
        """Power-function average: the last tenth of the run counts most, however long it is. (Karras et al. 2024, eq. 2)"""
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.D.parameters()), 1 - (1 - 1 / self.step) ** 10)
        for average, buffer in zip(self.ema.buffers(), self.D.buffers()):
            average.copy_(buffer)

    def _agreed(self, seconds: float) -> float:
        """What the first process says, so that all stop at the same step."""
        if self.accelerator.num_processes == 1:
            return seconds
        return broadcast(torch.tensor(seconds, dtype=torch.float64, device=self.on)).item()

    def finite(self) -> bool:
        """Whether the weights, and every loss since the last entry of the history, are numbers."""
        losses = not self._losses or bool(torch.stack(self._losses).isfinite().all())
        return losses and all(bool(p.isfinite().all()) for p in self.D.parameters())

    def _log(self) -> None:
        """Enter the mean loss since the last entry into `history`, as (step, loss)."""
        if not self.finite():
            raise FloatingPointError(f"the loss is not finite at step {self.step}: lower lr and muon_lr (now {self.rates}), or train in fp32 with COURSE_PRECISION=float32")
        mean = torch.stack(self._losses).mean()
        mean = mean if self.accelerator.num_processes == 1 else reduce(mean, "mean")
        self.history.append((self.step, mean.item()))
        self.clock.append(self.elapsed)
        self._losses.clear()

    def result(self) -> Denoiser:
        """The averaged denoiser, with the history of its losses, and whether its training is `done`."""
        self.ema.history, self.ema.done = self.history, self.progress() >= 1
        return self.ema

    # ---- on disk

    def save(self, folder: Path) -> None:
        """Everything that going on needs, in one file, written whole or not at all; and log.csv beside it."""
        if not self.finite():
            self._log()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"net.{n}": v for n, v in self.D.state_dict().items()} | {f"ema.{n}": v for n, v in self.ema.state_dict().items()}
        for k, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer.{k}.{i}.{key}": value for i, state in optimizer.state_dict()["state"].items() for key, value in state.items()}
        tensors |= {"losses": torch.stack(self._losses)} if self._losses else {}
        header = {"experiment": self.fingerprint(), "step": self.step, "elapsed": self.elapsed, "history": self.history, "clock": self.clock,
                  "dtype": str(self.dtype)[6:], "scaler": self.scaler.state_dict()}
        save_tensors(folder / "state.safetensors", tensors, header)
        self.saved = self.step
        with (folder / "log.csv").open("w", newline="") as file:
            rows = [(step, step * self.batches.size, f"{loss:.6g}", f"{seconds:.2f}") for (step, loss), seconds in zip(self.history, self.clock)]
            csv.writer(file, lineterminator="\n").writerows([("step", "examples", "loss", "seconds"), *rows])

    def restore(self, folder: Path) -> bool:
        """Go on from a saved state of the same experiment; True if it was finished. Another experiment is moved aside."""
        if not (folder / "state.safetensors").exists():
            return False
        tensors, header = load_tensors(folder / "state.safetensors")
        if header["experiment"] != self.fingerprint():
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                aside = next(p for i in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.{i}")).exists())
                os.replace(folder, aside)
                print(f"{folder} held a run with other settings: moved to {aside}.")
            return False
        part = lambda prefix: {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self.D.load_state_dict(part("net."))
        self.ema.load_state_dict(part("ema."))
        for k, optimizer in enumerate(self.optimizers):
            parameters, state = [p for group in optimizer.param_groups for p in group["params"]], {}
            for name, value in part(f"optimizer.{k}.").items():
                index, key = name.split(".")
                p = parameters[int(index)]                              # the same memory order as the parameter: fused kernels rely on it
                state.setdefault(int(index), {})[key] = torch.empty_like(p).copy_(value) if value.shape == p.shape else value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        if "COURSE_PRECISION" not in os.environ:                        # what you ask for comes before what the run began with
            self.dtype = getattr(torch, header["dtype"])
            self.scaler = torch.amp.GradScaler(self.on.type, enabled=self.dtype == torch.float16)
        if header["scaler"] and self.dtype == torch.float16:
            self.scaler.load_state_dict(header["scaler"])
        self._losses = list(tensors["losses"].to(self.on)) if "losses" in tensors else []
        self.step = self.saved = header["step"]
        self.elapsed, self.history, self.clock = header["elapsed"], [tuple(pair) for pair in header["history"]], header["clock"]
        return self.progress() >= 1

    def fingerprint(self) -> dict:
        """What makes this experiment this one: the saved state of any other is not continued."""
        b, D, t = self.batches, self.D, torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        alpha, sigma = D.schedule.alpha(t), D.schedule.sigma(t)
        total = lambda x: round(x[:: max(1, len(x) // 1000)].cpu().double().sum().item(), 3)
        rounded = lambda x: [round(v, 9) for v in (torch.as_tensor(x) + 0 * t).tolist()]
        weight = self.accelerator.unwrap_model(self.objective).weight
        experiment = {"version": VERSION, "net": [type(D.net).__name__, getattr(D.net, "config", None), [list(p.shape) for p in D.parameters()]],
                "schedule": rounded(alpha) + rounded(sigma), "target": [rounded(c) for c in D.pair(alpha, sigma)], "time": rounded(D.time(t)),
                "data": {"N": len(b.x0), "x0": total(b.x0)} | {name: total(value) for name, value in b.condition.items()},
                "weight": rounded(1.0 if weight is None else weight(D.schedule.log_snr(t))), "times": rounded(t if b.times is None else b.times(t)),
                "steps": self.steps, "seconds": self.seconds, "batch": b.size, "p_drop": b.p_drop, "null": str(b.null), "seed": b.seed, "rates": self.rates,
                "flip": b.flip, "clip": self.clip, "accumulate": self.accumulate, "warm_up": self.warm_up}
        return json.loads(json.dumps(experiment))                       # as it will read when it comes back from the file


def inner_matrices(net: nn.Module) -> list[nn.Parameter]:
    """What Muon moves: the weights of nn.Linear and nn.Conv2d, but for the layers that the network calls `stem` and `out`.

    Nothing in a network that names neither: there AdamW moves everything.
    """
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    outer = (getattr(net, "stem", None), getattr(net, "out", None))
    return [m.weight for m in layers if not any(m is o for o in outer)] if outer != (None, None) else []
