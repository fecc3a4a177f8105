"""Linear layers with weights in eight bits: symmetric, a scale for each row."""
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import validate


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (n, m) as whole numbers -127 ... 127 and a scale for each row: (n, m), (n, 1).

    weight is about scale * whole number, off by half a scale at most. Raises TypeError or
    ValueError for what is no matrix of finite numbers.
    """
    weight = validate.real(weight, "weight", ndim=2)
    largest = weight.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer with weights in int8, multiplied in float: a quarter of the memory.

    (..., m) -> (..., n)
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        validate.instance(linear, nn.Linear, "linear", "nn.Linear(8, 8)")
        weight, scale = quantize_int8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def with_int8_linears(module: nn.Module) -> nn.Module:
    """A copy in which each linear layer is an Int8Linear."""
    validate.instance(module, nn.Module, "module", "D.net.unet")
    other = copy.deepcopy(module)
    for parent in list(other.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear):
                setattr(parent, name, Int8Linear(part))
    return other
