"""The state of a run on disk: state.safetensors holds what resumes it bit for bit, log.csv its
losses. Frozen parameters are not written: they come with the model.
"""
import csv
import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..storage import load_tensors, save_tensors, write_text
from .runs import STATE
from .state import TrainState


def save(state: TrainState, folder: Path) -> None:
    """Everything that a resumed run needs, in one file, whole or not at all; log.csv beside it.

    Raises FloatingPointError where the loss or a weight is not finite (the old file stays), OSError
    where the file cannot be written.
    """
    if not state.finite():
        state.log()
    if not state.accelerator.is_main_process:
        return
    header = {
        "experiment": state.experiment,
        "step": state.step,
        "elapsed": state.elapsed,
        "history": state.history,
        "clock": state.clock,
        "dtype": str(state.dtype).removeprefix("torch."),
        "scaler": state.scaler.state_dict(),
    }
    save_tensors(folder / STATE, _tensors(state), header)
    state.saved = state.step
    _write_log(state, folder / "log.csv")


def restore(state: TrainState, folder: Path) -> None:
    """Make the state what `save` wrote in this folder. Raises OSError for a damaged file."""
    tensors, header = load_tensors(folder / STATE)
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


def size_on_disk(state: TrainState) -> int:
    """About the bytes that `save` needs: weights, average and moments, twice while one replaces the
    other.
    """
    weights = sum(p.numel() * p.element_size() for p in state.trained.values())
    return 2 * 4 * weights


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
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(file, text.getvalue())


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
