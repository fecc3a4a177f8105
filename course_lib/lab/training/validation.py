"""Data for a training: tensors by name, in float32. What cannot be right is refused."""
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ..data.convert import as_training_data
from .batches import Batch, ImageBytes

Data = Tensor | tuple[Tensor, Tensor] | dict[str, Tensor] | Any


def validate_data(
    data: Data, model: nn.Module, data_range: tuple[float, float] | None = (-1.0, 1.0)
) -> Batch:
    """The data as tensors by name: floating point in float32, labels "y" in int64.

    data: x0 (N, ...), a pair (x0, y), or tensors by name; or what `data.as_training_data` takes:
    pictures, arrays, torchvision data sets, loaders. data_range: of images, which are x0 of
    shape (N, 1 or 3, H, W); None: not checked.
    Raises TypeError or ValueError for what cannot be trained on; warns of images in [0, 1].
    """
    data = _by_name(data, model)
    lengths = {name: len(value) if value.ndim else 0 for name, value in data.items()}
    if len(set(lengths.values())) > 1 or min(lengths.values()) == 0:
        raise ValueError(
            f"the data and its conditions must have one length, not zero; got {lengths}"
        )
    _validate_finite(data)
    if "x0" in data and not isinstance(data, ImageBytes):
        _validate_x0(data["x0"], model, data_range)
    classes = getattr(getattr(model, "net", model), "num_classes", None)
    if "y" in data and classes is not None:
        data["y"] = _validate_labels(data["y"], classes)
    for name, value in data.items():
        data[name] = value.detach().float() if value.is_floating_point() else value
    return data


def validate_call(f: Callable | None, name: str, form: str) -> None:
    """f, if it is not None, is a function of two arguments. form: which, as (model, done).

    Raises TypeError.
    """
    if f is None:
        return
    validate.function(f, name, form)
    try:
        inspect.signature(f).bind(None, None)
    except TypeError:
        raise TypeError(f"{name} must be a function {form}; this one takes other arguments"
                        ) from None
    except ValueError:                                      # a built-in that does not say
        return


def validate_null(null: dict | None, data: Batch, model: nn.Module) -> None:
    """null names conditions of the data; a null label is one the network has."""
    if null is None:
        return
    names = sorted(data.keys() - {"x0"})
    if not isinstance(null, dict) or not null.keys() <= set(names):
        raise ValueError(f"null must be a dict of the data's conditions, {names}; got {null!r}")
    classes = getattr(getattr(model, "net", model), "num_classes", None)
    if "y" in null and classes is not None:
        validate.whole(null["y"], "the null label", 0, classes)


def _by_name(data: Data, model: nn.Module) -> Batch:
    """A new dict of tensors. The images of `data.pictures(...)` may be bytes."""
    named = data
    if isinstance(data, Tensor):
        named = {"x0": data}
    elif isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], Tensor):
        named = {"x0": data[0], "y": validate.tensor(data[1], "the labels")}
    elif not isinstance(data, dict):
        named = ImageBytes(as_training_data(data))
    usable = isinstance(named, dict) and all(isinstance(v, Tensor) for v in named.values())
    if not usable or not named or isinstance(model, Denoiser) and "x0" not in named:
        raise TypeError(
            "data must be a tensor x0, a pair (x0, y), or a dict of tensors with \"x0\"; "
            f"got {type(data).__name__}"
        )
    of_bytes = isinstance(named, ImageBytes) and named["x0"].dtype == torch.uint8
    return ImageBytes(named) if of_bytes else dict(named)


def _validate_finite(data: Batch) -> None:
    for name, value in data.items():
        if value.is_floating_point() and not value.isfinite().all():
            what = "the data" if name == "x0" else name
            raise ValueError(
                f"{what} has {(~value.isfinite()).sum()} values that are not finite (nan or inf)"
            )


def _validate_x0(
    x0: Tensor, model: nn.Module, data_range: tuple[float, float] | None
) -> None:
    image = x0.ndim == 4 and x0.shape[1] in (1, 3)
    if not x0.is_floating_point():
        if isinstance(model, Denoiser) or image and x0.dtype == torch.uint8:
            raise TypeError(
                f"images must be floating point in [-1, 1]; got {x0.dtype}: "
                "scale with x / 127.5 - 1"
            )
        return                                              # such as tokens
    if image and data_range is not None:
        _validate_range(x0.min().item(), x0.max().item(), data_range)


def _validate_range(low: float, high: float, data_range: tuple[float, float]) -> None:
    if low < data_range[0] - 1e-3 or high > data_range[1] + 1e-3:
        raise ValueError(
            f"images must lie in [{data_range[0]:g}, {data_range[1]:g}]; "
            f"got [{low:.4g}, {high:.4g}]: scale bytes with x / 127.5 - 1; "
            "for standardised images or latents pass data_range=None"
        )
    if low >= 0 and high <= 1 and data_range[0] < 0:
        warnings.warn(
            "these images lie in [0, 1], and models of the course expect [-1, 1]: "
            "train on 2 * x - 1 (or pass data_range=(0, 1) if you mean it)",
            stacklevel=5,                                   # the line that called train
        )


def _validate_labels(y: Tensor, num_classes: int) -> Tensor:
    if y.ndim != 1:
        hint = ": pass y.argmax(1)" if y.ndim == 2 and y.shape[1] == num_classes else ""
        shape = tuple(y.shape)
        raise ValueError(f"labels are one whole number per example, (N,); got {shape}{hint}")
    if y.is_floating_point() or y.min() < 0 or y.max() >= num_classes:
        raise ValueError(
            f"labels are integers from 0 to {num_classes - 1}; "
            f"got {y.dtype} from {y.min()} to {y.max()}"
        )
    return y.long()
