"""A run on disk: runs/NAME/state.safetensors holds what resumes it bit for bit, log.csv its losses.

Frozen parameters are not written: they come with the model. The settings that must match are in the
file's header; the state of another experiment is moved aside, never overwritten.
"""
import csv
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ...version import VERSION
from ..storage import load_tensors, save_tensors
from .state import TrainState


def runs_folder() -> Path:
    """Where runs are written: $COURSE_RUNS, else runs/ in the repository or the working folder."""
    if "COURSE_RUNS" in os.environ:
        return Path(os.environ["COURSE_RUNS"])
    repository = Path(__file__).parents[3]
    root = repository if (repository / "pyproject.toml").exists() else Path.cwd()
    return root / "runs"


def save(state: TrainState, folder: Path) -> None:
    """Everything that a resumed run needs, in one file, whole or not at all; log.csv beside it.

    Raises FloatingPointError where the loss or a weight is not finite: the old file stays.
    """
    if not state.finite():
        state.log()
    if not state.accelerator.is_main_process:
        return
    header = {
        "experiment": fingerprint(state),
        "step": state.step,
        "elapsed": state.elapsed,
        "history": state.history,
        "clock": state.clock,
        "dtype": str(state.dtype).removeprefix("torch."),
        "scaler": state.scaler.state_dict(),
    }
    save_tensors(folder / "state.safetensors", _tensors(state), header)
    state.saved = state.step
    _write_log(state, folder / "log.csv")


def restore(state: TrainState, folder: Path) -> bool:
    """Resume from a saved state of the same experiment; True if that run was finished.

    The state of another experiment is moved aside. Raises OSError for a damaged file.
    """
    if not (folder / "state.safetensors").exists():
        return False
    tensors, header = load_tensors(folder / "state.safetensors")
    if header["experiment"] != fingerprint(state):
        _move_aside(state, folder)
        return False
    _load_model(state.model, _with_prefix(tensors, "model."))
    _load_model(state.ema, _with_prefix(tensors, "ema."))
    for k, optimizer in enumerate(state.optimizers):
        _load_optimizer(optimizer, _with_prefix(tensors, f"optimizer.{k}."))
    _restore_precision(state, header)
    state.losses = list(tensors["losses"].to(state.device)) if "losses" in tensors else []
    state.step = header["step"]
    state.saved = header["step"]
    state.elapsed = header["elapsed"]
    state.history = [tuple(pair) for pair in header["history"]]
    state.clock = header["clock"]
    return state.progress() >= 1


def fingerprint(state: TrainState) -> dict:
    """The settings that must match for a saved run to be resumed."""
    if state.experiment is not None:
        return state.experiment
    batches = state.batches
    experiment = {
        "version": VERSION,
        "model": type(state.model).__name__,
        "trained": [[name, list(p.shape)] for name, p in state.trained.items()],
        "frozen": _sum(state.frozen),
        "task": state.task.describe(),
        "data": {name: _summary(value) for name, value in batches.data.items()},
        "config": state.config.identity() | {"batch_size": batches.size},
    }
    state.experiment = json.loads(json.dumps(experiment))   # as it reads when it comes back
    return state.experiment


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {f"model.{n}": v for n, v in _own_tensors(state.model, state.frozen).items()}
    tensors |= {f"ema.{n}": v for n, v in _own_tensors(state.ema, state.frozen).items()}
    for k, optimizer in enumerate(state.optimizers):
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{i}.{key}": value for key, value in moments.items()}
    return tensors | ({"losses": torch.stack(state.losses)} if state.losses else {})


def _own_tensors(model: nn.Module, frozen: dict[str, Tensor]) -> dict[str, Tensor]:
    """What training changes: trained parameters and buffers; those with two names (tied) once."""
    own: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if name not in frozen and id(value) not in seen:
            own[name] = value
            seen.add(id(value))
    return own


def _write_log(state: TrainState, file: Path) -> None:
    rows = [("step", "examples", "loss", "seconds")]
    for (step, loss), seconds in zip(state.history, state.clock):
        rows.append((step, step * state.batches.size, f"{loss:.6g}", f"{seconds:.2f}"))
    with file.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def _move_aside(state: TrainState, folder: Path) -> None:
    state.accelerator.wait_for_everyone()
    if not state.accelerator.is_main_process:
        return
    siblings = (folder.with_name(f"{folder.name}.{i}") for i in range(1, 10_000))
    aside = next(path for path in siblings if not path.exists())
    os.replace(folder, aside)
    print(f"{folder} held a run with other settings: moved to {aside}.")


def _restore_precision(state: TrainState, header: dict) -> None:
    if "COURSE_PRECISION" not in os.environ:                # the user's wish comes first
        state.dtype = getattr(torch, header["dtype"])
        half = state.dtype == torch.float16
        state.scaler = torch.amp.GradScaler(state.device.type, enabled=half)
    if header["scaler"] and state.dtype == torch.float16:
        state.scaler.load_state_dict(header["scaler"])


def _load_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Frozen tensors, and the second names of tied ones, are not in the file."""
    unexpected = model.load_state_dict(tensors, strict=False).unexpected_keys
    if unexpected:
        names = ", ".join(unexpected)
        raise OSError(f"the saved state has tensors that the model has not: {names}")


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict] = {}
    for name, value in tensors.items():
        index, key = name.split(".")
        p = parameters[int(index)]
        if value.shape == p.shape:
            # the memory order of the parameter: fused kernels rely on it
            value = torch.empty_like(p).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _summary(value: Tensor) -> list:
    """Size and a sum over some thousand rows."""
    some = value[:: max(1, len(value) // 1000)].cpu().double()
    return [list(value.shape), round(some.sum().item(), 3)]


def _sum(tensors: dict[str, Tensor]) -> float:
    return round(sum(value.detach().double().sum().item() for value in tensors.values()), 6)
