"""What callers pass. Each function returns the value in the form that the code behind it needs, or
raises TypeError or ValueError with one sentence: what is wrong, what would be right.

Used at public doors alone. Values are compared on the CPU only: on a GPU that would wait for it.
"""
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

SCALE = "scale bytes with x / 127.5 - 1"


def tensor(x: Any, what: str = "x", dtype: torch.dtype | None = None) -> Tensor:
    """x as a tensor: arrays and lists of numbers are converted, floating ones to float32, or to
    dtype, to which nothing is rounded on the way.
    """
    if isinstance(x, Tensor):
        return x if dtype is None else x.to(dtype)
    try:
        if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor):
            x = torch.stack(tuple(x))
        if isinstance(x, np.ndarray) and min(x.strides, default=0) < 0:
            x = x.copy()                                    # such as ts[::-1]
        found = torch.as_tensor(x if isinstance(x, Tensor) else np.asarray(x))
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        raise TypeError(f"{what} must be a tensor; got {_kind(x)}")
    if dtype is None and found.dtype == torch.float64 and not isinstance(x, Tensor):
        return found.float()
    return found if dtype is None else found.to(dtype)


def real(x: Any, what: str = "x", like: Tensor | None = None, ndim: int = 1) -> Tensor:
    """x as a floating-point tensor of at least ndim axes, not empty, finite; like: of its shape."""
    x = tensor(x, what)
    if not x.is_floating_point():
        raise TypeError(
            f"{what} must be floating point, images in [-1, 1]; got {x.dtype}: {SCALE}"
        )
    if x.ndim < ndim or x.numel() == 0:
        raise ValueError(
            f"{what} must be a batch (B, ...), not empty; got shape {tuple(x.shape)}"
        )
    if like is not None and x.shape != like.shape:
        raise ValueError(f"{what} must have the shape {tuple(like.shape)}; got {tuple(x.shape)}")
    finite(x, what)
    return x


def broadcast(x: Any, like: Tensor, what: str) -> Tensor:
    """x as numbers that broadcast to the shape of `like`, and no further."""
    x = tensor(x, what).to(like.device)
    try:
        fits = torch.broadcast_shapes(x.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"{what} must fit {tuple(like.shape)}; got {tuple(x.shape)}")
    finite(x, what)
    return x


def shape(sides: Any) -> tuple[int, ...]:
    """The sides of a batch, such as (16, 1, 28, 28)."""
    if not isinstance(sides, (tuple, list)):
        raise TypeError(
            f"shape must be the sides of a batch, such as (16, 1, 28, 28); got {_kind(sides)}"
        )
    return tuple(whole(n, "each side of shape", 0) for n in sides)


def finite(x: Tensor, what: str = "x") -> None:
    """Nothing in x is nan or inf."""
    if x.is_cpu and not math.isfinite(x.sum().item()) and not x.isfinite().all():
        raise ValueError(
            f"{what} has {(~x.isfinite()).sum()} values that are not finite (nan or inf)"
        )


def images(
    x: Any, what: str = "images", channels: Iterable[int] = (1, 3), limit: float = 1.001
) -> Tensor:
    """x as images (N, C, H, W) in [-1, 1], up to limit; warns where all lie in [0, 1]."""
    x = tensor(x, what)
    if x.ndim != 4 or x.shape[1] not in channels or x.numel() == 0:
        names = " or ".join(map(str, channels))
        raise ValueError(f"{what} must be (N, {names}, H, W), at least one; got {tuple(x.shape)}")
    x = real(x, what)
    if x.device.type != "cpu":
        return x
    low, high = (value.item() for value in x.detach().aminmax())
    if max(-low, high) > limit:
        raise ValueError(
            f"{what} must lie in [-1, 1]; got [{low:.4g}, {high:.4g}]: {SCALE}, or clamp samples"
        )
    if low >= 0 and high > 0.5:
        warnings.warn(
            f"the {what} lie in [0, 1], and the course's lie in [-1, 1]: pass 2 * x - 1",
            stacklevel=4,
        )
    return x


def time(t: Any, x: Tensor | None = None) -> Tensor:
    """t in float64 on its own device (from Apple's mps on the CPU), in [0, 1]: one number, (B,) or
    (B, F); x: its batch.
    """
    if isinstance(t, Tensor) and t.ndim == 0 and t.dtype == torch.float64:      # most calls: fast
        if not t.is_cpu or 0 <= t.item() <= 1:
            return t
    if not isinstance(t, Tensor):
        if isinstance(t, bool) or not isinstance(t, (int, float, np.number, np.ndarray, list)):
            raise TypeError(f"t must be a number in [0, 1], or a tensor of them; got {_kind(t)}")
        t = torch.as_tensor(t, dtype=torch.float64)
    t = t.cpu().double() if t.device.type == "mps" else t.double()
    if t.is_cpu and t.numel():
        low, high = (t.item(), t.item()) if t.ndim == 0 else map(Tensor.item, t.aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"t must lie in [0, 1]; got {low if not low >= 0 else high:g}: did you pass a step "
                "index? use (i + 1) / T"
            )
    if x is not None and t.ndim and t.shape != x.shape[: t.ndim]:
        raise ValueError(
            f"t must be one number, or of shape ({len(x)},) like the batch; got {tuple(t.shape)}"
        )
    return t


def labels(y: Any, n: int | None, classes: int | None, what: str = "labels") -> Tensor:
    """y as whole numbers (n,) int64 from 0 to classes - 1; one number stands for all n."""
    y = tensor(y, what)
    if y.ndim == 2 and y.shape[1] in (1, classes):
        hint = "y.flatten()" if y.shape[1] == 1 else "y.argmax(1)"
        raise ValueError(f"{what} are one whole number each, (B,); got {tuple(y.shape)}: {hint}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"{what} are whole numbers; got {y.dtype}: y.long()")
    if y.ndim > 1 or y.ndim and n is not None and len(y) not in (1, n):
        count = "B" if n is None else n
        raise ValueError(f"{what} are one whole number each, ({count},); got {tuple(y.shape)}")
    if y.device.type == "cpu" and y.numel() and classes is not None:
        low, high = (y.min().item(), y.max().item())
        if low < 0 or high >= classes:
            raise ValueError(
                f"{what} are whole numbers from 0 to {classes - 1}; got {low if low < 0 else high}"
            )
    return y.long()


def number(
    value: Any, name: str, low: float = -math.inf, high: float = math.inf, *, above: bool = False,
    what: str = "",
) -> float:
    """value as a number in [low, high], finite; above: low itself is too low. what: its meaning."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and getattr(value, "ndim", 0) == 0:
        value = value.item()
    right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if right and low <= value <= high and math.isfinite(value) and not (above and value == low):
        return value
    raise (ValueError if right else TypeError)(
        f"{name} must be {_limits('a number', low, high, above)}{_meaning(what)}; got {show(value)}"
    )


def whole(value: Any, name: str, low: int = 1, high: float = math.inf, what: str = "") -> int:
    """value as a whole number from low to high."""
    try:
        if not isinstance(value, (bool, np.bool_)) and low <= operator.index(value) <= high:
            return operator.index(value)
        kind = ValueError
    except TypeError:
        kind = TypeError
    limits = _limits("a whole number", low, high, False)
    raise kind(f"{name} must be {limits}{_meaning(what)}; got {show(value)}")


def seed(value: Any) -> int:
    """A seed of torch.Generator."""
    return whole(value, "seed", 0, 2**63 - 1)


def choice(value: Any, name: str, choices: Iterable) -> None:
    """value is one of the choices."""
    choices = tuple(choices)
    if not any(value is c or type(value) is type(c) and value == c for c in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {show(value)}")


def function(f: Any, name: str, form: str) -> Callable:
    """f can be called, and is no class. form: how it is called, such as (x, t) -> x0_hat."""
    if not callable(f) or inspect.isclass(f):
        raise TypeError(f"{name} must be a function {form}; got {_kind(f)}")
    return f


def instance(value: Any, kind: type, name: str, example: str) -> None:
    """value is an object of this class. example: what makes one."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, such as {example}; got {_kind(value)}")


def generator(g: Any) -> torch.Generator | None:
    """None, or a source of random numbers."""
    if g is not None and not isinstance(g, torch.Generator):
        raise TypeError(
            "generator must be None or a torch.Generator, such as torch.Generator().manual_seed(0);"
            f" got {_kind(g)}"
        )
    return g


def device(name: Any) -> torch.device:
    """A device that this machine has."""
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be cpu, cuda or mps; got {name!r}") from None
    has = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if not has.get(found.type, lambda: True)():
        raise ValueError(f"this machine has no {found.type}: take device='cpu'")
    return found


def strings(values: Any, name: str) -> list[str]:
    """values as a list of strings; a single string is none."""
    if isinstance(values, (str, dict, set)) or not isinstance(values, Iterable):
        got = show(values)
        raise TypeError(f"{name} must be a list of strings, such as ['a panda']; got {got}")
    values = list(values)
    wrong = [value for value in values if not isinstance(value, str)]
    if wrong or not values:
        got = show(wrong[0]) if wrong else "none"
        raise TypeError(f"{name} must be a list of strings, at least one; got {got}")
    return values


def prediction(x0_hat: Any, x: Tensor) -> Tensor:
    """What a denoiser returned: like x, and finite."""
    fits = isinstance(x0_hat, Tensor) and x0_hat.is_floating_point()
    if not fits or x0_hat.shape != x.shape:
        got = tuple(x0_hat.shape) if fits else getattr(x0_hat, "dtype", _kind(x0_hat))
        raise ValueError(
            f"the denoiser must return a prediction of x's shape, {tuple(x.shape)}; got {got}"
        )
    finite(x0_hat, "the denoiser's prediction")
    return x0_hat


def _meaning(what: str) -> str:
    return f" ({what})" if what else ""


def show(value: Any) -> str:
    """A value in a sentence: itself where it is short, else what it is."""
    text = repr(value)
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        return f"an array of shape {tuple(value.shape)}"
    return text if len(text) < 60 and "\n" not in text else f"a {type(value).__name__}"


def _limits(kind: str, low: float, high: float, above: bool) -> str:
    if math.isinf(low) and math.isinf(high):
        return kind
    if math.isinf(high):
        return f"{kind} above {low:g}" if above else f"{kind}, at least {low:g}"
    ends = f"above {low:g}, at most {high:g}" if above else f"from {low:g} to {high:g}"
    return f"{kind} {ends}"


def _kind(value: Any) -> str:
    """A few words for a value of the wrong kind."""
    if inspect.isclass(value):
        return f"the class {value.__name__}, not an object of it"
    if value is None or isinstance(value, (str, int, float, bool)):
        return repr(value)
    return type(value).__name__
