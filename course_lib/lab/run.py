"""One training run: its batches, its optimizers, its average of weights, and how all of that is kept on disk."""
import copy
import json
import os
import time
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..schedules import over, randn_like
from ..version import VERSION
from . import machine
from .checkpoint import load_tensors, save_tensors
from .muon import Muon


class Batches:
    """Batch k depends on (seed, k) alone, so a resumed run sees exactly what an uninterrupted one would have seen."""

    def __init__(self, data: dict[str, Tensor], size: int, p_drop: float, null: dict, seed: int, on: torch.device):
        self.x0 = data["x0"].to(on)                                                     # (N, ...)
        self.condition = {name: value.to(on) for name, value in data.items() if name != "x0"}
        self.size, self.p_drop, self.null, self.seed = min(size, len(self.x0)), p_drop, null, seed

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor, dict]:
        """x0 (B, ...), t (B,) in (0, 1], eps like x0, and the conditions, some of them dropped."""
        epoch, place = divmod(k, len(self.x0) // self.size)
        rows = _order(len(self.x0), self.seed, epoch)[place * self.size:(place + 1) * self.size].to(self.x0.device)
        g = torch.Generator().manual_seed(self.seed_of(k))
        slots = torch.arange(self.size) + torch.rand(self.size, generator=g)
        t = (1 - slots / self.size).clamp(min=1e-6)                                     # one in each slice of (0, 1]
        x0 = self.x0[rows]
        eps = randn_like(x0, torch.Generator(x0.device).manual_seed(self.seed_of(k)) if x0.is_cuda else g)
        return x0, t, eps, drop({name: value[rows] for name, value in self.condition.items()}, self.null, self.p_drop, g)

    def seed_of(self, k: int) -> int:
        return (self.seed + 1) * 1_000_003 + k


def drop(condition: dict[str, Tensor], null: dict, p: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each example loses, with probability p, all the conditions that `null` names. (Ho & Salimans 2022, algorithm 1)"""
    if not condition or not null or p == 0:
        return condition
    lost = torch.rand(len(next(iter(condition.values()))), generator=generator) < p                                    # (B,)
    swap = lambda name, value: torch.where(over(lost, value).bool(), torch.as_tensor(null[name], device=value.device, dtype=value.dtype), value)
    return {name: swap(name, value) if name in null else value for name, value in condition.items()}


class Run:
    """One run's state: network, average, optimizers, and how far it is."""

    def __init__(self, D: Denoiser, batches: Batches, lr: float, muon_lr: float, steps: int | None, seconds: float | None):
        self.D, self.batches, self.steps, self.seconds = D.train(), batches, steps, seconds
        self.ema = copy.deepcopy(D).eval().requires_grad_(False)
        self.on = next(D.parameters()).device
        self.dtype = machine.precision(self.on)
        matrices = inner_matrices(D.net) if muon_lr else []
        others = [p for p in D.parameters() if not any(p is m for m in matrices)]
        self.optimizers = [torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
        self.optimizers += [Muon(matrices, lr=muon_lr)] if matrices else []
        self.rates = (lr, muon_lr)
        self.scaler = torch.amp.GradScaler(self.on.type, enabled=self.dtype == torch.float16)
        self.step, self.elapsed, self.history, self._losses = 0, 0.0, [], []

    def progress(self) -> float:
        """The share of the run that is done; at or above 1 when it is finished."""
        return self.step / self.steps if self.steps else self.elapsed / self.seconds

    def advance(self) -> None:
        """One step of the optimizers, and of the average."""
        start, done = time.perf_counter(), self.progress()
        x0, t, eps, condition = self.batches[self.step]
        with torch.random.fork_rng(devices=[self.on] if self.on.type == "cuda" else []), machine.autocast(self.on, self.dtype):
            torch.manual_seed(self.batches.seed_of(self.step) + 500_000_003)    # for dropout: each step its own seed
            loss = self.D.loss(x0, t, eps, **condition).mean()
        self.scaler.scale(loss).backward()
        for optimizer, rate in zip(self.optimizers, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, done / 0.02 + 0.01) * (1 - done)
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        self.step += 1
        self._average()
        self._losses.append(loss.detach())
        if self.step % 50 == 0 or self.step == self.steps:
            self._log()                                                 # waits for the GPU, inside the clock
        self.elapsed += time.perf_counter() - start
        if self.seconds and self.progress() >= 1 and self._losses:
            self._log()

    @torch.no_grad()
    def _average(self) -> None:
        """Power-function average: the last tenth of the run counts most, however long it is. (Karras et al. 2024, eq. 2)"""
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.D.parameters()), 1 - (1 - 1 / self.step) ** 10)
        for average, buffer in zip(self.ema.buffers(), self.D.buffers()):
            average.copy_(buffer)

    def finite(self) -> bool:
        """Whether the weights, and every loss since the last entry of the history, are numbers."""
        losses = not self._losses or bool(torch.stack(self._losses).isfinite().all())
        return losses and all(bool(p.isfinite().all()) for p in self.D.parameters())

    def _log(self) -> None:
        """Enter the mean loss since the last entry into `history`, as (step, loss)."""
        if not self.finite():
            raise FloatingPointError(f"the loss is not finite at step {self.step}: lower lr and muon_lr (now {self.rates}), or train in fp32 with COURSE_PRECISION=float32")
        self.history.append((self.step, torch.stack(self._losses).mean().item()))
        self._losses.clear()

    def result(self) -> Denoiser:
        """The averaged denoiser, with the history of its losses."""
        self.ema.history = self.history
        return self.ema

    # ---- on disk

    def save(self, folder: Path) -> None:
        """Everything that going on needs, in one file, written whole or not at all."""
        if self._losses or not self.finite():
            self._log()
        tensors = {f"net.{n}": v for n, v in self.D.state_dict().items()} | {f"ema.{n}": v for n, v in self.ema.state_dict().items()}
        for k, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer.{k}.{i}.{key}": value for i, state in optimizer.state_dict()["state"].items() for key, value in state.items()}
        header = {"experiment": self.fingerprint(), "step": self.step, "elapsed": self.elapsed, "history": self.history,
                  "dtype": str(self.dtype)[6:], "scaler": self.scaler.state_dict()}
        save_tensors(folder / "state.safetensors", tensors, header)

    def restore(self, folder: Path) -> bool:
        """Go on from a saved state of the same experiment; True if it was finished. Another experiment is moved aside."""
        if not (folder / "state.safetensors").exists():
            return False
        tensors, header = load_tensors(folder / "state.safetensors")
        if header["experiment"] != self.fingerprint():
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
        self.step, self.elapsed, self.history = header["step"], header["elapsed"], [tuple(pair) for pair in header["history"]]
        return self.progress() >= 1

    def fingerprint(self) -> dict:
        """What makes this experiment this one: the saved state of any other is not continued."""
        b, D, t = self.batches, self.D, torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        alpha, sigma = D.schedule.alpha(t), D.schedule.sigma(t)
        total = lambda x: round(x[:: max(1, len(x) // 1000)].cpu().double().sum().item(), 3)
        rounded = lambda x: [round(v, 9) for v in (torch.as_tensor(x) + 0 * t).tolist()]
        experiment = {"version": VERSION, "net": [type(D.net).__name__, getattr(D.net, "config", None), [list(p.shape) for p in D.parameters()]],
                "schedule": rounded(alpha) + rounded(sigma), "target": [rounded(c) for c in D.pair(alpha, sigma)], "time": rounded(D.time(t)),
                "data": {"N": len(b.x0), "x0": total(b.x0)} | {name: total(value) for name, value in b.condition.items()},
                "steps": self.steps, "seconds": self.seconds, "batch": b.size, "p_drop": b.p_drop, "null": str(b.null), "seed": b.seed, "rates": self.rates}
        return json.loads(json.dumps(experiment))                       # as it will read when it comes back from the file


def inner_matrices(net: nn.Module) -> list[nn.Parameter]:
    """What Muon moves: the weights of nn.Linear and nn.Conv2d, but for the layers that the network calls `stem` and `out`.

    Nothing in a network that names neither: there AdamW moves everything.
    """
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    outer = (getattr(net, "stem", None), getattr(net, "out", None))
    return [m.weight for m in layers if not any(m is o for o in outer)] if outer != (None, None) else []


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its n examples."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
