"""What is trained: a model with its loss. The loop has no images, times or schedules.

Any module trains that says its loss of a batch, either by a method `loss(**batch) -> (B,)`, whose
arguments are the names in the data, or by a function that `train` is given. What is random in the
loss (times, noise, masks) comes from `draw(batch, generator) -> batch`, a method or a function, so
that a resumed run draws the same.
"""
import functools
import hashlib
from collections.abc import Callable
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...schedules import append_dims
from .batches import Batch, Draw, drop_conditions

Loss = Callable[[Any, Batch], Tensor]


class Task:
    """A model, the loss of a batch, and the batch's random inputs.

    model: any module; loss: (model, batch) -> (B,) or one number, None: model.loss(**batch);
    draw: (batch, generator) -> batch, None: model.draw, if it has one.
    Raises TypeError for a model without a loss.
    """

    def __init__(self, model: nn.Module, loss: Loss | None = None, draw: Draw | None = None):
        if loss is None and not callable(getattr(model, "loss", None)):
            raise TypeError(
                f"{type(model).__name__} does not say its loss: give it a method "
                "loss(self, x0, ...) -> (B,), or pass train loss=lambda model, batch: ..."
            )
        self.model = model
        self._loss = loss
        self._draw = getattr(model, "draw", None) if draw is None else draw

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with its random inputs."""
        return batch if self._draw is None else self._draw(batch, generator)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of each example, (B,), or their mean, ()."""
        return self.model.loss(**batch) if self._loss is None else self._loss(self.model, batch)

    def fingerprint(self) -> dict:
        """The settings that must match for a saved run to be resumed, as JSON can hold them."""
        own = getattr(self.model, "fingerprint", None)
        settings = {} if own is None else own()
        loss = self.model.loss if self._loss is None else self._loss
        return settings | {"loss": _describe(loss), "draw": _describe(self._draw)}

    def part_to_compile(self) -> nn.Module:
        """The part that torch.compile should see."""
        return self.model


class Denoising(Task):
    """A denoiser and its options: times, dropped conditions, mirrored images, loss weights.

    loss_weight:     of each example's loss, a function of its log-SNR (B,) -> (B,); None: all 1
    time_sampler:    from uniform numbers (B,) in (0, 1] to times; None: the model's own
                     `time_sampler` if it has one, else the numbers themselves
    p_drop:          the probability that an example is trained without its conditions
    null:            what "without" means, by name of the condition; None: the network's own `null`
    horizontal_flip: mirror half of the images, left for right
    """

    def __init__(
        self,
        D: Denoiser,
        loss: Loss | None = None,
        draw: Draw | None = None,
        *,
        loss_weight: Callable[[Tensor], Tensor] | None = None,
        time_sampler: Callable[[Tensor], Tensor] | None = None,
        p_drop: float = 0.1,
        null: dict | None = None,
        horizontal_flip: bool = False,
    ):
        super().__init__(D, loss, draw)
        validate.number(p_drop, "p_drop", 0, 1)
        self.loss_weight = loss_weight
        if time_sampler is not None:
            validate.function(time_sampler, "time_sampler", "uniform numbers (B,) -> times (B,)")
        self.time_sampler = time_sampler or getattr(D, "time_sampler", None)
        self.p_drop = p_drop
        self.null = null_condition(D.net) if null is None else null
        self.horizontal_flip = horizontal_flip

    def draw(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Adds t (B,) in (0, 1] and eps like x0; drops conditions and mirrors images."""
        x0 = batch["x0"]
        t, eps = self.model.draw_noise(x0, generator, self.time_sampler)
        condition = {name: value for name, value in batch.items() if name != "x0"}
        condition = drop_conditions(condition, self.null, self.p_drop, generator)
        if self.horizontal_flip:
            mirrored = torch.rand(len(x0), generator=generator) < 0.5
            x0 = torch.where(append_dims(mirrored, x0).bool(), x0.flip(-1), x0)
        batch = {"x0": x0, "t": t, "eps": eps} | condition
        return batch if self._draw is None else self._draw(batch, generator)

    def loss(self, batch: Batch) -> Tensor:
        """The weighted loss of each example: (B,). Raises ValueError for a weight on a mean."""
        loss = super().loss(batch)
        if self.loss_weight is None:
            return loss
        if loss.ndim != 1:
            raise ValueError(
                f"loss_weight needs the loss of each example, (B,); got {tuple(loss.shape)}"
            )
        weight = self.loss_weight(self.model.schedule.log_snr(batch["t"]))
        if not isinstance(weight, Tensor) or weight.shape != loss.shape:
            raise ValueError(
                f"loss_weight must return one weight for each example, {tuple(loss.shape)}"
            )
        return weight.to(loss) * loss

    def fingerprint(self) -> dict:
        t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
        log_snr = self.model.schedule.log_snr(t)
        weight = 1.0 if self.loss_weight is None else self.loss_weight(log_snr)
        times = t if self.time_sampler is None else self.time_sampler(t)
        return super().fingerprint() | {
            "weight": _rounded(weight, t),
            "times": _rounded(times, t),
            "p_drop": self.p_drop,
            "null": str(self.null),
            "horizontal_flip": self.horizontal_flip,
        }

    def part_to_compile(self) -> nn.Module:
        # the schedule's few numbers per batch stay outside
        return self.model.net


class WeightedLoss(nn.Module):
    """What is minimised, as one module that several processes can share: the mean loss of a batch.

    Raises TypeError for a loss that is no tensor, ValueError for one that no parameter changes.
    """

    def __init__(self, task: Task):
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        loss = self.task.loss(batch)
        if not isinstance(loss, Tensor):
            raise TypeError(f"the loss must be a tensor, (B,) or (); got {type(loss).__name__}")
        if loss.ndim > 1:
            raise ValueError(f"the loss must be (B,) or (); got {tuple(loss.shape)}: take its mean")
        if not loss.requires_grad:
            raise ValueError(
                "the loss does not depend on any trained parameter: was it detached, or computed "
                "under no_grad?"
            )
        return loss.mean()


def null_condition(net: nn.Module) -> dict:
    """The conditions that mean "none" to a network: its `null`, else the label after the last."""
    labels = getattr(net, "num_classes", None)
    return getattr(net, "null", {} if labels is None else {"y": labels})


def _rounded(values: Tensor | float, like: Tensor) -> list[float]:
    return [round(v, 9) for v in (torch.as_tensor(values) + 0 * like).tolist()]


def _describe(function: Callable | None) -> list | None:
    """What makes a function this one, as JSON can hold it: its code, without layout and comments,
    and the plain values (numbers, texts) that it was given or closes over.
    """
    if function is None:
        return None
    if isinstance(function, functools.partial):
        given = [*function.args, *sorted(function.keywords.items())]
        return [_describe(function.func), repr(_plain(given))]
    function = getattr(function, "__func__", function)      # of a method; its owner is the model
    if not hasattr(function, "__code__"):
        values = _plain(sorted(getattr(function, "__dict__", {}).items()))
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return [name, repr(values)]
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    defaults = [function.__defaults__, function.__kwdefaults__]
    return [_digest(function.__code__), repr(_plain([*cells, *defaults]))]


def _plain(value: Any) -> Any:
    """Numbers, texts and lists of them; anything else by the name of its type."""
    if isinstance(value, (int, float, str, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return [[str(k), _plain(v)] for k, v in value.items()]
    return type(value).__name__


def _digest(code: CodeType) -> str:
    """A digest of what a function computes, constants and inner functions included."""
    inner = [_digest(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    text = f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {inner}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
