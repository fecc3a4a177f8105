"""Muon: Nesterov momentum whose matrices are orthogonalised before each step. (Jordan et al. 2024)

kellerjordan.github.io/posts/muon. A network says which of its parameters Muon should move
(`muon_parameters()`); they are passed to the optimizer as any parameters or groups are.

Differences from the published Muon, and from torch.optim.Muon (torch 2.9), which follows it:
- Precision: the Newton-Schulz steps are taken in fp32 on the small Gram matrices X X^T, those of
  one size together, and X is multiplied once at the end; published: in bf16 on X itself. In exact
  arithmetic both are the same polynomial of X.
- Scale: every step has singular values near lr; published: a matrix with more rows than columns
  takes steps (rows / columns)^0.5 times as long.
- Shape: kernels of convolutions (out, in, h, w) are moved as matrices (out, in h w), as in the
  authors' code; torch.optim.Muon takes matrices only.
- Weight decay: decoupled, 0.01; the authors' code has none by default, torch.optim.Muon 0.1.
Nesterov's momentum and the coefficients are the same.

Compare with AdamW after a minute: `python benchmarks/mnist_minutes.py --seconds 60 --quality-only`,
then the same with `--optimizer adamw --batch 64` (AdamW is better with smaller batches).
"""
import torch
from torch import Tensor

from ... import validate


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum and orthogonalised steps, for weights (out, in, ...).

    parameters: parameters or groups; not biases, norms, embeddings and the first and last layer
    lr:         the singular values of a step, nearly all alike
    Raises TypeError or ValueError for a parameter that is no matrix, and rates outside [0, 1].
    """

    def __init__(
        self,
        parameters,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ):
        if isinstance(parameters, torch.nn.Module):
            raise TypeError("Muon takes parameters, not a model: net.muon_parameters()")
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            validate.number(value, name, 0, 1)
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim < 2:
                    shape = tuple(p.shape)
                    raise ValueError(f"Muon moves matrices; got a parameter of shape {shape}")

    @torch.no_grad()
    def step(self) -> None:
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            moved = [p for p in group["params"] if p.grad is not None]
            momenta = [self._momentum(p, group["momentum"]).flatten(1) for p in moved]
            for p, step in zip(moved, orthogonalize(momenta)):
                p.mul_(1 - lr * decay).sub_(step.view(p.shape), alpha=lr)

    def _momentum(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum: the average of the gradients, continued by one step."""
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(average, momentum)


def orthogonalize(matrices: list[Tensor]) -> list[Tensor]:
    """For each matrix the one with the same singular vectors and singular values near 1: (m, n).

    Five Newton-Schulz steps: the odd polynomial a s + b s^3 + c s^5 brings singular values to
    between 0.68 and 1.21 if they were above 0.2 % of the matrix's norm; smaller ones grow at most
    485-fold.
    """
    if not isinstance(matrices, (list, tuple)) or any(m.ndim != 2 for m in matrices):
        raise ValueError("matrices must be a list of tensors (m, n)")
    a = 3.4445
    b = -4.7750
    c = 2.0315
    # the small side first
    wide = [m.float() if m.shape[0] <= m.shape[1] else m.float().T for m in matrices]
    wide = [x / (x.norm() + 1e-7) for x in wide]
    done: list[Tensor] = [None] * len(wide)
    for size in {len(x) for x in wide}:
        members = [i for i, x in enumerate(wide) if len(x) == size]
        gram = torch.stack([wide[i] @ wide[i].T for i in members])      # (k, m, m)
        product = eye = torch.eye(size, device=gram.device).expand_as(gram)
        for _ in range(5):
            factor = a * eye + b * gram + c * gram @ gram               # X becomes factor X
            product, gram = factor @ product, factor @ gram @ factor
        for i, p in zip(members, product):
            done[i] = p @ wide[i]
    done = [x if m.shape[0] <= m.shape[1] else x.T for m, x in zip(matrices, done)]
    return [x.to(m.dtype).reshape(m.shape) for m, x in zip(matrices, done)]
