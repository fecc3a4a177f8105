"""The textbook: Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models", in the paper's own symbols."""
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .schedules import Schedule, over, randn_like


class DDPM:
    """Steps i = 0 ... T-1, betas (T,) as given, and a network that predicts eps.

    The network is called as net(x, t) at t = (i + 1) / T. Everything is two coefficients from a table and a line of
    algebra; `samplers.ancestral` with target "eps" computes the same thing for any schedule (a test holds them together).
    """

    def __init__(self, net: nn.Module, betas: Tensor):
        self.net = net
        self.betas = Schedule.from_betas(betas).betas                                              # (T,) float64, checked
        self.T = len(self.betas)
        self.alphas = 1 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)                                    # alpha_bar_t
        self.alphas_cumprod_prev = torch.cat([torch.ones(1), self.alphas_cumprod[:-1]])            # alpha_bar_{t-1}

    def q_sample(self, x0: Tensor, i: Tensor, eps: Tensor | None = None) -> Tensor:
        """One draw from q(x_t | x_0): eq. 4.   x0: (B, ...), i: (B,) steps 0 ... T-1"""
        eps = randn_like(x0) if eps is None else eps
        alpha_bar = self._at(self.alphas_cumprod, i)
        return over(alpha_bar.sqrt(), x0) * x0 + over((1 - alpha_bar).sqrt(), x0) * eps

    def q_posterior(self, x0: Tensor, x: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and variance (B,) of q(x_{t-1} | x_t, x_0): eq. 6 and 7. At i = 0 the variance is 0."""
        beta, alpha_bar, previous = (self._at(c, i) for c in (self.betas, self.alphas_cumprod, self.alphas_cumprod_prev))
        coefficient_x0 = beta * previous.sqrt() / (1 - alpha_bar)
        coefficient_x = (1 - previous) * (1 - beta).sqrt() / (1 - alpha_bar)
        return over(coefficient_x0, x) * x0 + over(coefficient_x, x) * x, beta * (1 - previous) / (1 - alpha_bar)

    def p_losses(self, x0: Tensor, i: Tensor, eps: Tensor | None = None) -> Tensor:
        """The simple loss, eq. 14: mean squared error of the predicted noise, per example.   -> (B,)"""
        if not x0.is_floating_point():
            raise TypeError(f"x0 must be floating point, images in [-1, 1]; got {x0.dtype}: scale with x / 127.5 - 1")
        eps = randn_like(x0) if eps is None else eps
        return (self._eps(self.q_sample(x0, i, eps), i) - eps).square().flatten(1).mean(1)

    def p_mean_variance(self, x: Tensor, i: Tensor, clip_denoised: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, ...) and variance (B,) of p(x_{t-1} | x_t), and the guess of x0 behind them (eq. 15, then eq. 7).

        clip_denoised forces the guess into [-1, 1], where images live.
        """
        alpha_bar = self._at(self.alphas_cumprod, i)
        if (alpha_bar == 0).any():
            raise ValueError("an eps network says nothing about x0 where alpha_bar = 0 (a last beta of 1): use Denoiser with target v")
        x0_hat = (x - over((1 - alpha_bar).sqrt(), x) * self._eps(x, i)) / over(alpha_bar.sqrt(), x)
        if clip_denoised:
            x0_hat = x0_hat.clamp(-1, 1)
        return *self.q_posterior(x0_hat, x, i), x0_hat

    def p_sample(self, x: Tensor, i: Tensor, generator: torch.Generator | None = None, clip_denoised: bool = False) -> Tensor:
        """One step of algorithm 2: a draw from p(x_{t-1} | x_t). No noise is added at i = 0, where the variance is 0."""
        mean, variance, _ = self.p_mean_variance(x, i, clip_denoised)
        return mean + over(variance.sqrt(), x) * randn_like(x, generator)

    @torch.no_grad()
    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None, device="cpu",
               clip_denoised: bool = False) -> Iterator[Tensor]:
        """Algorithm 2: yields x_T, ..., x_0, T + 1 states (`samplers.last` keeps only x_0).   shape: (B, ...)"""
        x = randn_like(torch.empty(shape, device=device), generator)
        yield x
        for i in reversed(range(self.T)):
            x = self.p_sample(x, torch.full(shape[:1], i), generator, clip_denoised)
            yield x

    def _at(self, table: Tensor, i: Tensor) -> Tensor:
        """table[i]: (B,), refusing steps that do not exist."""
        i = torch.as_tensor(i)
        if i.is_floating_point() or not ((i >= 0) & (i < self.T)).all():
            raise ValueError(f"steps are integers from 0 to {self.T - 1}; got {i.flatten()[:4].tolist()}")
        return table[i.cpu()] if i.device.type == "mps" else table.to(i.device)[i]

    def _eps(self, x: Tensor, i: Tensor) -> Tensor:
        t = (torch.as_tensor(i) + 1).to(x.dtype) / self.T
        return self.net(x, t.to(x.device, non_blocking=True).expand(len(x))).to(x.dtype)
