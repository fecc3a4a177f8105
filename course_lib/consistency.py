"""Consistency: a denoiser whose guess is the end of the path, from anywhere on it. Lesson 4 derives it."""
import torch
from torch import Tensor, nn

from .denoiser import Denoiser
from .samplers import Denoise, step
from .schedules import Schedule, over, randn_like


class Consistency(Denoiser):
    """A student that learns to jump to where the probability-flow ODE leads. (Song et al. 2023, algorithm 2; without a guide algorithm 3)

    net:     starts best as a copy of the guide's network
    guide:   whose ODE: any denoiser (x, t, **condition) -> x0_hat, a guided or clipped one, too; it is not trained, saved or averaged.
             None: pairs that share x0 and eps stand for a step of the data's own ODE, which they are only on average
    target:  of the network: one for which D(x, 0) = x whatever the network says ("v", "eps", "flow" or "edm")
    levels:  the path is cut at t = 1 / levels, 2 / levels, ..., 1. Train with times=D.times, sample on grids made of these levels
    c:       where the loss turns from squares to absolute values (pseudo-Huber)
    """

    def __init__(self, net: nn.Module, schedule: Schedule, guide: Denoise | None, target: str = "v", levels: int = 4, c: float = 0.01):
        if target == "x0" or levels < 1:
            raise ValueError(f"a consistency model needs D(x, 0) = x, so any named target but x0, and at least one level; got {target!r}, levels = {levels}")
        super().__init__(net, schedule, target)
        self.guide = guide and (lambda *inputs, **condition: guide(*inputs, **condition))       # a function, for nn.Module adopts modules
        self.levels, self.c = levels, c

    def times(self, u: Tensor) -> Tensor:
        """From evenly spread numbers in (0, 1] to levels, all equally often.   (B,) -> (B,)"""
        return (u * self.levels).ceil().clamp(min=1) / self.levels

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor | None = None, **condition) -> Tensor:
        """How far the guess at x_t is from the guess one level cleaner on the path: (B,).   x0: (B, ...), t: (B,) on the levels

        Squared errors of x0_hat in units of v (divided by sigma_t^2), averaged over each example, then pseudo-Huber.
        """
        r = (t - 1 / self.levels).clamp(min=0)
        eps = randn_like(x0) if eps is None else eps
        x = self.schedule.perturb(x0, t, eps)
        guess = self(x, t, **condition)                                 # before the pass without gradients: autocast keeps the weights it has cast
        with torch.no_grad():
            cleaner = self.schedule.perturb(x0, r, eps) if self.guide is None else step(self.schedule, x, self.guide(x, t, **condition), t, r)
            wanted = self(cleaner, r, **condition)
        error = ((guess - wanted) / over(self.schedule.sigma(t), x)).square().flatten(1).mean(1)
        return (error + self.c**2).sqrt() - self.c
