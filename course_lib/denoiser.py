"""A denoiser is any callable (x, t, **condition) -> x0_hat. This one wraps a network."""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from .schedules import Schedule, as_float64, over, randn_like


def edm(alpha: Tensor, sigma: Tensor, sigma_data: float = 0.5) -> tuple[Tensor, Tensor]:
    """(a, b) of (x0 - c_skip x) / c_out, which has variance 1; its squared error is |D - x0|^2 / c_out^2. Karras et al. 2022, table 1

    The paper's sigma is sigma / alpha here, and its x is x / alpha; multiplied out, alpha may even be 0. At sigma_data = 1
    and alpha^2 + sigma^2 = 1 the pair is that of -v.
    """
    r = (sigma**2 + (sigma_data * alpha) ** 2).sqrt()                # the standard deviation of x
    return sigma / (sigma_data * r), -sigma_data * alpha / r


# What a network can be asked for: a * x0 + b * eps. Each entry gives the pair (a, b) from (alpha, sigma).
TARGETS: dict[str, Callable] = {
    "eps":  lambda alpha, sigma: (0 * alpha, 1 + 0 * sigma),      # Ho et al. 2020
    "x0":   lambda alpha, sigma: (1 + 0 * alpha, 0 * sigma),
    "v":    lambda alpha, sigma: (-sigma, alpha),                 # Salimans & Ho 2022
    "flow": lambda alpha, sigma: (-1 + 0 * alpha, 1 + 0 * sigma), # Lipman et al. 2023: eps - x0, the velocity of a straight path
    "edm":  edm,
}


def identity(t: Tensor) -> Tensor:
    """The default time: networks are told t itself."""
    return t


class Denoiser(nn.Module):
    """A network, a schedule and the meaning of the network's output, put together into (x, t, **condition) -> x0_hat.

    net:      any module (x (B, ...), time (B,), **condition) -> like x
    target:   a name from TARGETS, or a function (alpha, sigma) -> (a, b): the network predicts a * x0 + b * eps
    time:     what the network is told instead of t, as a function of t (with target edm: instead of c_noise, as a function of it)
    sigma_data: the data's standard deviation, for target edm alone, where the network also sees c_in * x in place of x
    """

    def __init__(self, net: nn.Module, schedule: Schedule, target: str | Callable = "v", time: Callable = identity, sigma_data: float = 0.5):
        super().__init__()
        if isinstance(target, str) and target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, or a function (alpha, sigma) -> (a, b); got {target!r}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data is the data's standard deviation, above 0; got {sigma_data}")
        self.net, self.schedule, self.target, self.time, self.sigma_data = net, schedule, target, time, sigma_data
        pair = TARGETS[target] if isinstance(target, str) else target
        self.pair = partial(pair, sigma_data=sigma_data) if target == "edm" else pair

    def forward(self, x: Tensor, t: Tensor | float, **condition) -> Tensor:
        """The best guess of the clean data: E[x0 | x_t = x] when the network is perfect.

        x: (B, ...), t: (B,), a 0-dim tensor or a number in [0, 1], or (B, F) where frames have their own noise.
        """
        t = checked_time(t, x)
        out = self._network(x, t, condition)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        a, b = self.pair(alpha, sigma)
        if self.target == "x0":                                     # the line below is 0 / 0 there at t = 0
            return out
        determinant = alpha * b - sigma * a
        if (determinant == 0).any():
            where = torch.as_tensor(t.expand(determinant.shape)[determinant == 0]).max()
            raise ValueError(f"target {self.target!r} says nothing about x0 at t = {where:.4g} of {self.schedule} (alpha = {self.schedule.alpha(where):.3g}): use v, or start below")
        return over(b / determinant, x) * x - over(sigma / determinant, x) * out

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor | None = None, **condition) -> Tensor:
        """The squared error of the network's output, averaged over each example: (B,).   x0: (B, ...), t: (B,) in [0, 1]"""
        if not x0.is_floating_point():
            raise TypeError(f"x0 must be floating point, images in [-1, 1]; got {x0.dtype}: scale with x / 127.5 - 1")
        t = checked_time(t, x0)
        eps = randn_like(x0) if eps is None else eps
        out = self._network(self.schedule.perturb(x0, t, eps), t, condition)
        a, b = self.pair(self.schedule.alpha(t), self.schedule.sigma(t))
        return (out - over(a, x0) * x0 - over(b, x0) * eps).square().flatten(1).mean(1)

    def _network(self, x: Tensor, t: Tensor, condition: dict) -> Tensor:
        """The network at one time per example, in x's own precision."""
        if self.target == "edm":
            x, t = self._preconditioned(x, t)
        t = self.time(t).to(x.dtype).to(x.device, non_blocking=True)
        return self.net(x, t.expand(len(x)) if t.ndim == 0 else t, **condition).to(x.dtype)

    def _preconditioned(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in * x, of variance 1, and c_noise = log(sigma / alpha) / 4: Karras et al. 2022, table 1."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        c_in = (sigma**2 + (self.sigma_data * alpha) ** 2).rsqrt()
        return over(c_in, x) * x, (sigma.clamp(min=1e-4) / alpha.clamp(min=1e-4)).log() / 4


def checked_time(t: Tensor | float, x: Tensor) -> Tensor:
    """t in float64, or one clear sentence."""
    t = as_float64(t)
    if not ((t >= 0) & (t <= 1)).all():
        wrong = t.flatten()[~((t >= 0) & (t <= 1)).flatten()][0].item()
        raise ValueError(f"t must lie in [0, 1]; got {wrong}: did you pass a step index? use (i + 1) / T")
    if t.ndim and t.shape != x.shape[:t.ndim]:
        raise ValueError(f"t must be one number, or of shape ({len(x)},) like the batch; got {tuple(t.shape)}")
    return t
