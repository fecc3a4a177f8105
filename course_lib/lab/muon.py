"""Muon: momentum whose matrices are made orthogonal before each step. (Jordan et al. 2024, kellerjordan.github.io/posts/muon)

At a minute's training it gives this course's U-Net less than half of AdamW's Fréchet distance (`benchmarks/mnist_minutes.py
--optimizer adamw`). torch.optim.Muon (torch 2.9) takes matrices only; the kernels of convolutions are folded into matrices here.
"""
import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum for weights (out, in, ...); every step has the same size in all directions of a matrix.

    Use another optimizer for biases, norms, embeddings and the first and last layer. lr: size of the step's singular values.
    """

    def __init__(self, parameters, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01,
                 dtype: torch.dtype = torch.float32):
        self.dtype = dtype                                                                   # of the orthogonalisation
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                average = state["momentum_buffer"]
                average.lerp_(p.grad, 1 - group["momentum"])
                direction = orthogonalize(p.grad.lerp(average, group["momentum"]).flatten(1), self.dtype).view(p.shape)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """The nearest matrix whose singular values are all about 1 (between 0.7 and 1.2): (m, n) -> (m, n).

    Five Newton-Schulz steps; the odd polynomial a s + b s^3 + c s^5 pulls every singular value s towards 1.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T                    # the small side first
    x = (wide / (wide.norm() + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.T                                                                   # (m, m)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).to(matrix.dtype)
