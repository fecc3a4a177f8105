"""Muon: momentum whose matrices are made orthogonal before each step. (Jordan et al. 2024, kellerjordan.github.io/posts/muon)

Compare it with AdamW after a minute: `python benchmarks/mnist_minutes.py --seconds 60 --quality-only`, then the same with
`--optimizer adamw --batch 64` (AdamW is better with smaller batches). torch.optim.Muon (torch 2.9) takes matrices only; the
kernels of convolutions are folded into matrices here.
"""
import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum for weights (out, in, ...); every step has the same size in all directions of a matrix.

    Use another optimizer for biases, norms, embeddings and the first and last layer. lr: size of the step's singular values.
    """

    def __init__(self, parameters, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            steps = orthogonalize([self._momentum(p, group["momentum"]).flatten(1) for p in moved])
            for p, step in zip(moved, steps):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step.view(p.shape), alpha=group["lr"])

    def _momentum(self, p: Tensor, keep: float) -> Tensor:
        """Nesterov: the gradient, looked at from where the momentum would lead."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - keep)
        return p.grad.lerp(average, keep)


def orthogonalize(matrices: list[Tensor]) -> list[Tensor]:
    """For each matrix the one with the same singular vectors and singular values near 1: (m, n) -> (m, n).

    Five Newton-Schulz steps: the odd polynomial a s + b s^3 + c s^5 pulls singular values to between 0.68 and 1.21 if they
    were above 0.2 % of the matrix's norm; smaller ones grow at most 485-fold. All five act on the small Gram matrices X X^T
    alone, those of one size together, and X is multiplied once at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = [m.float() if m.shape[0] <= m.shape[1] else m.float().T for m in matrices]    # the small side first
    wide = [x / (x.norm() + 1e-7) for x in wide]
    done: list[Tensor] = [None] * len(wide)
    for size in {len(x) for x in wide}:
        members = [i for i, x in enumerate(wide) if len(x) == size]
        gram = torch.stack([wide[i] @ wide[i].T for i in members])                       # (k, m, m)
        product = eye = torch.eye(size, device=gram.device).expand_as(gram)
        for _ in range(5):
            factor = a * eye + b * gram + c * gram @ gram                                # X becomes factor X
            product, gram = factor @ product, factor @ gram @ factor
        for i, p in zip(members, product):
            done[i] = p @ wide[i]
    return [(x if m.shape[0] <= m.shape[1] else x.T).to(m.dtype).reshape(m.shape) for m, x in zip(matrices, done)]
