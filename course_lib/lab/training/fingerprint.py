"""What makes a run this run and no other: its data, model, starting weights, loss and options.

Two calls whose fingerprints match are one experiment: the second resumes the first, or loads it.
"""
import contextlib
import json
import math
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...version import VERSION
from ..storage import digest
from .batches import BatchSampler
from .config import TrainConfig
from .state import train_mode
from .tasks import Task, WeightedLoss

EXAMPLES = 8                                                # on which the loss is tried
# module -> digests: its weights as the last run left them, and as that run found them
_LEFT: weakref.WeakKeyDictionary[nn.Module, tuple[str, str]] = weakref.WeakKeyDictionary()


def fingerprint(task: Task, batches: BatchSampler, config: TrainConfig) -> dict:
    """The settings that must match for a saved run to be resumed, as JSON can hold them."""
    model = task.model
    trained = [[n, list(p.shape)] for n, p in model.named_parameters() if p.requires_grad]
    found = {
        "version": VERSION,
        "model": f"{type(model).__module__}.{type(model).__qualname__}",
        "trained parameters": trained,
        "starting weights": weights_digest(model),
        "task": task.fingerprint(),
        "loss on fixed inputs": _trial(task, batches),
        "data": {name: _summary(value) for name, value in batches.data.items()},
        "options": config.fingerprint() | {"batch_size": batches.size},
    }
    return json.loads(json.dumps(found))                    # as it reads when it comes back


def differences(saved: dict, this: dict) -> list[str]:
    """What differs between two fingerprints, in words; empty where they are one experiment."""
    if saved.keys() != this.keys():
        return ["the version of course_lib that wrote it"]
    found = [name for name in this if name not in SEPARATE and saved[name] != this[name]]
    found += _parts(saved, this, "task") + _parts(saved, this, "options")
    found += [f"data {name}" for name in _unequal(saved["data"], this["data"])]
    trial = "loss on fixed inputs"
    if not math.isclose(saved[trial], this[trial], rel_tol=1e-3, abs_tol=1e-9) and not found:
        found.append("what the model or its loss computes")
    return found


SEPARATE = ("task", "options", "data", "loss on fixed inputs")


def _unequal(saved: dict, this: dict) -> list[str]:
    return [name for name in saved | this if saved.get(name) != this.get(name)]


def _parts(saved: dict, this: dict, name: str) -> list[str]:
    """The options that differ, each with its values where they are short."""
    found = []
    for key in _unequal(saved[name], this[name]):
        values = f" ({saved[name].get(key)}, now {this[name].get(key)})"
        found.append(key + (values if len(values) < 60 else ""))
    return found


def weights_digest(model: nn.Module) -> str:
    """A digest of every parameter and buffer."""
    return digest(model.state_dict())


def remember(model: nn.Module, start: str) -> None:
    """The model's weights come from a run that started with the weights of this digest."""
    _LEFT[model] = weights_digest(model), start


def earlier_start(model: nn.Module) -> str | None:
    """The starting weights of the run that left this model as it is, so that its cell can be run
    again as it stands; None for any other model.
    """
    now, start = _LEFT.get(model, (None, None))
    return start if now is not None and now == weights_digest(model) else None


def _summary(value: Tensor) -> list:
    return [str(value.dtype).removeprefix("torch."), list(value.shape), digest({"": value})]


def _trial(task: Task, batches: BatchSampler) -> float:
    """The mean loss of a few examples, with random weights in place of the trained ones: neither
    what was learnt before nor a last layer that starts at 0 hides what the model computes.
    """
    model = task.model
    modes = {module: module.training for module in model.modules()}
    devices = [batches.device] if batches.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _random_weights(model):
        torch.manual_seed(0)
        train_mode(model)
        try:
            return WeightedLoss(task)(batches.examples(EXAMPLES)).item()
        except Exception:                                   # the first step will say what is wrong
            return 0.0
        finally:
            for module, mode in modes.items():
                module.training = mode


@contextlib.contextmanager
def _random_weights(model: nn.Module) -> Iterator[None]:
    """The trained parameters are noise; afterwards they, and the buffers, are as they were."""
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(0.1 * torch.randn(p.shape, generator=g))
    try:
        yield
    finally:
        model.load_state_dict(kept)
