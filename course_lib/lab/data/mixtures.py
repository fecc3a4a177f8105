"""Gaussian mixtures: data whose density, score and exact denoiser are known in closed form."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...schedules import Schedule, as_float64


class GaussianMixture:
    """A mixture of K round Gaussians in D dimensions: every quantity that a diffusion model has to
    learn, in closed form.

    means: (K, D); stds: (K,) or one number; weights: (K,), equal when None. Kept in float64.
    If x0 comes from the mixture and x_t = alpha x0 + sigma eps, then x_t comes from the mixture
    with means alpha m_k and variances alpha^2 s_k^2 + sigma^2; everything below follows from that.
    """

    def __init__(self, means, stds=0.1, weights=None):
        self.means = torch.as_tensor(means, dtype=torch.float64)  # (K, D)
        K = len(self.means)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(K)  # (K,)
        weights = torch.ones(K) if weights is None else torch.as_tensor(weights)
        self.weights = weights.double() / weights.sum()  # (K,)
        if (self.stds <= 0).any() or (self.weights < 0).any():
            raise ValueError(
                "a mixture needs positive standard deviations and weights that are not negative"
            )

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, D) float32 draws."""
        g = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=g)
        z = torch.randn(n, self.means.shape[1], generator=g, dtype=torch.float64)
        return (self.means[k] + self.stds[k, None] * z).float()

    def _components(self, x: Tensor, alpha, sigma) -> tuple[Tensor, Tensor, Tensor]:
        """x - alpha m_k (B, K, D), the variances (B, K) of x_t's components, and log(w_k N_k(x))
        (B, K).
        """
        alpha, sigma = (as_float64(c).cpu().reshape(-1, 1) for c in (alpha, sigma))   # (B or 1, 1)
        difference = x.cpu().double()[:, None] - alpha[..., None] * self.means  # (B, K, D)
        variance = (alpha * self.stds) ** 2 + sigma**2  # (B or 1, K)
        D = x.shape[1]
        log_joint = (
            self.weights.log()
            - difference.square().sum(-1) / (2 * variance)
            - D / 2 * (2 * math.pi * variance).log()
        )
        return difference, variance.expand(len(x), -1), log_joint

    def log_prob(self, x: Tensor, alpha=1.0, sigma=0.0) -> Tensor:
        """log q(x_t): (B,) float64, for x_t = alpha x0 + sigma eps (the data's own density at the
        defaults).
        """
        return self._components(x, alpha, sigma)[2].logsumexp(dim=1)

    def score(self, x: Tensor, alpha=1.0, sigma=0.0) -> Tensor:
        """The gradient of log q(x_t) with respect to x: (B, D)."""
        difference, variance, log_joint = self._components(x, alpha, sigma)
        share = log_joint.softmax(dim=1)  # (B, K) p(k | x)
        return -(share / variance)[..., None].mul(difference).sum(1).to(x)

    def posterior_mean(self, x: Tensor, alpha, sigma) -> Tensor:
        """E[x0 | x_t = x]: (B, D), the best possible guess of the clean point."""
        alpha = as_float64(alpha).cpu().reshape(-1, 1)                          # (B or 1, 1)
        difference, variance, log_joint = self._components(x, alpha, sigma)
        share = log_joint.softmax(dim=1)                                  # (B, K)
        pull = (alpha * self.stds**2 / variance)[..., None] * difference  # (B, K, D)
        return (share[..., None] * (self.means + pull)).sum(1).to(x)

    def denoiser(self, schedule: Schedule) -> Callable[..., Tensor]:
        """The exact denoiser D(x, t) = E[x0 | x_t = x] under a schedule: what a network
        approximates.

        It takes no condition: D(x, t, y=1) raises TypeError.
        """
        def exact(x: Tensor, t: Tensor, **condition) -> Tensor:
            if condition:
                raise TypeError(
                    "the exact denoiser of a mixture takes no condition; "
                    f"got {', '.join(condition)}: leave it out"
                )
            return self.posterior_mean(x, schedule.alpha(t), schedule.sigma(t))
        return exact
