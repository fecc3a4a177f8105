"""Gaussian mixtures: data whose density, score and exact denoiser are known in closed form."""
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ... import validate
from ...schedules import Schedule


class GaussianMixture:
    """A mixture of K round Gaussians in D dimensions: every quantity that a diffusion model has to
    learn, in closed form.

    means: (K, D); stds: (K,) or one number; weights: (K,), equal when None. Kept in float64.
    If x0 comes from the mixture and x_t = alpha x0 + sigma eps, then x_t comes from the mixture
    with means alpha m_k and variances alpha^2 s_k^2 + sigma^2; everything below follows from that.
    Raises TypeError or ValueError for other shapes and values; the methods do for points that are
    not (B, D), an alpha or sigma that is neither one number nor (B,), and a negative sigma.
    """

    def __init__(self, means, stds=0.1, weights=None):
        self.means, stds = _float64(means, "means"), _float64(stds, "stds")  # (K, D), (K,)
        K = len(self.means) if self.means.ndim == 2 and self.means.numel() else 0
        weights = torch.ones(K) if weights is None else validate.tensor(weights, "weights")
        if K == 0 or stds.shape not in ((), (1,), (K,)) or weights.shape != (K,):
            raise ValueError(
                "a mixture has means (K, D), stds (K,) or one number, weights (K,); got "
                f"{tuple(self.means.shape)}, {tuple(stds.shape)}, {tuple(weights.shape)}"
            )
        if (stds <= 0).any() or (weights < 0).any() or not 0 < weights.sum() < math.inf:
            raise ValueError(
                "a mixture needs positive standard deviations, and weights that are not negative "
                "and not all zero"
            )
        self.stds = stds.expand(K)  # (K,)
        self.weights = weights.double() / weights.sum()  # (K,)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, D) float32 draws."""
        n, g = validate.whole(n, "n"), torch.Generator().manual_seed(validate.seed(seed))
        k = torch.multinomial(self.weights, n, replacement=True, generator=g)
        z = torch.randn(n, self.means.shape[1], generator=g, dtype=torch.float64)
        return (self.means[k] + self.stds[k, None] * z).float()

    def _validated(self, x: Tensor, alpha, sigma) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, D), floating point; alpha and sigma () or (B,) in float64. nan stays nan."""
        x, D = validate.tensor(x), self.means.shape[1]
        x = x if x.is_floating_point() else x.float()
        if x.ndim != 2 or x.shape[1] != D:
            raise ValueError(f"x must be points (B, {D}); got shape {tuple(x.shape)}")
        alpha, sigma = _float64(alpha, "alpha"), _float64(sigma, "sigma")
        if {alpha.numel(), sigma.numel()} - {1, len(x)} or (sigma < 0).any():
            raise ValueError(
                f"alpha and sigma must be one number or ({len(x)},), sigma not negative; got "
                f"{tuple(alpha.shape)} and {tuple(sigma.shape)}, sigma from {sigma.min():.4g}"
            )
        return x, alpha, sigma

    def _components(self, x: Tensor, alpha, sigma) -> tuple[Tensor, Tensor, Tensor]:
        """x - alpha m_k (B, K, D), the variances (B, K) of x_t's components, and log(w_k N_k(x))
        (B, K).
        """
        alpha, sigma = alpha.reshape(-1, 1), sigma.reshape(-1, 1)               # (B or 1, 1)
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
        return self._components(*self._validated(x, alpha, sigma))[2].logsumexp(dim=1)

    def score(self, x: Tensor, alpha=1.0, sigma=0.0) -> Tensor:
        """The gradient of log q(x_t) with respect to x: (B, D)."""
        x, alpha, sigma = self._validated(x, alpha, sigma)
        difference, variance, log_joint = self._components(x, alpha, sigma)
        share = log_joint.softmax(dim=1)  # (B, K) p(k | x)
        return -(share / variance)[..., None].mul(difference).sum(1).to(x)

    def posterior_mean(self, x: Tensor, alpha, sigma) -> Tensor:
        """E[x0 | x_t = x]: (B, D), the best possible guess of the clean point."""
        x, alpha, sigma = self._validated(x, alpha, sigma)
        difference, variance, log_joint = self._components(x, alpha, sigma)
        alpha = alpha.reshape(-1, 1)                                      # (B or 1, 1)
        share = log_joint.softmax(dim=1)                                  # (B, K)
        pull = (alpha * self.stds**2 / variance)[..., None] * difference  # (B, K, D)
        return (share[..., None] * (self.means + pull)).sum(1).to(x)

    def denoiser(self, schedule: Schedule) -> Callable[..., Tensor]:
        """The exact denoiser D(x, t) = E[x0 | x_t = x] under a schedule: what a network
        approximates.

        It takes no condition: D(x, t, y=1) raises TypeError. Its `schedule` is this one.
        """
        validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")

        def exact(x: Tensor, t: Tensor, **condition) -> Tensor:
            if condition:
                raise TypeError(
                    "the exact denoiser of a mixture takes no condition; "
                    f"got {', '.join(condition)}: leave it out"
                )
            return self.posterior_mean(x, schedule.alpha(t), schedule.sigma(t))
        exact.schedule = schedule                           # samplers compare it with theirs
        return exact


def _float64(values, name: str) -> Tensor:
    """Finite numbers in float64 on the CPU. Raises TypeError or ValueError for others."""
    if not isinstance(values, Tensor):
        if isinstance(values, str):
            raise TypeError(f"{name} must be numbers; got {values!r}")
        try:
            values = torch.from_numpy(np.array(values, np.float64))
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be numbers; got {values!r}") from None
    values = values.cpu().double()
    validate.finite(values, name)
    return values
