"""A device "mps" in software: tensors of the CPU that call themselves mps and refuse float64.

Apple's GPUs have no float64. torch raises a TypeError there; so does this device, in the same
words, on any machine. What it cannot show: missing kernels, other rounding, speed.
"""
import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

MPS = torch.device("mps", 0)
STANDIN = torch.device("lazy", 0)       # in torch's own eyes: a type that needs no library
WORDS = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)


class OnMPS(torch.Tensor):
    """A tensor on the device; `inner` holds its values on the CPU."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(WORDS)
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=STANDIN,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:
        return MPS

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return dispatch(function, arguments, options or {})


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        return dispatch(function, arguments, options or {})


class Names(TorchFunctionMode):
    """mps in an argument becomes its stand-in."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        arguments, options = tree_map(standin, (tuple(arguments), options or {}))
        if function is torch.Tensor.quantile and on_device(arguments[0]):
            inner = tree_map(unwrapped, arguments)          # it allocates past the dispatcher
            return OnMPS(function(*inner, **options))
        return function(*arguments, **options)


@contextlib.contextmanager
def fake_mps() -> Iterator[torch.device]:
    """Inside this context torch has the device."""
    with Names(), Dispatch():
        yield MPS


def standin(x: object) -> object:
    named = isinstance(x, (torch.device, str)) and str(x).partition(":")[0] == "mps"
    return STANDIN if named else x


def unwrapped(x: object) -> object:
    return x.inner if isinstance(x, OnMPS) else x


def on_device(x: object) -> bool:
    return isinstance(x, OnMPS)


def dispatch(function, arguments: tuple, options: dict) -> object:
    """Run on the CPU; results are on the device if an input was, or if it was asked for."""
    found = []
    tree_map(lambda x: found.append(on_device(x)) if torch.is_tensor(x) else None,
             (arguments, {k: v for k, v in options.items() if k != "out"}))
    wanted = options.get("device")
    there = any(found) if wanted is None else torch.device(wanted).type == STANDIN.type
    if there and wanted is None:
        refuse_mixed(function, arguments)
    options = options | ({"device": "cpu"} if wanted is not None else {})
    result = function(*tree_map(unwrapped, arguments), **tree_map(unwrapped, options))
    if function._schema.name.endswith("_") and on_device(arguments[0]):
        return arguments[0]
    if not there or function in VALUES:
        return result
    return tree_map(lambda x: OnMPS(x) if torch.is_tensor(x) and not on_device(x) else x, result)


VALUES = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}


def refuse_mixed(function, arguments: tuple) -> None:
    """Tensors of two devices meet nowhere but in copies, and as numbers without dimensions."""
    if function in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
        return
    def look(x: object) -> None:
        if torch.is_tensor(x) and not on_device(x) and x.ndim > 0:
            raise RuntimeError(f"{function}: tensors on mps and on {x.device}")
    tree_map(look, arguments)
