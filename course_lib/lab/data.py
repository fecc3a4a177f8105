"""Data sets: MNIST and Nouns (shipped with the course), CIFAR-10, and two-dimensional toys whose exact densities are known or drawn."""
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..schedules import as_float64
from .assets import ASSETS, check_digest
from .nouns import nouns  # noqa: F401  (part of this module's interface)

MNIST_SHA256 = "06af5dfe73b70e3bc1c36439982b18a8d76803db9b544f6fdf838a37fbb01b64"


def mnist(split: str = "train", file: Path = ASSETS / "mnist.npz") -> tuple[Tensor, Tensor]:
    """MNIST's digits: x (N, 1, 28, 28) float32 in [-1, 1] and y (N,) int64; N = 60,000 for "train", 10,000 for "test".

    Raises ValueError for another split, FileNotFoundError or OSError when the shipped file is missing or damaged.
    Source: LeCun et al. 1998; see assets/LICENSES.md.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    check_digest(file, MNIST_SHA256)
    with np.load(file) as arrays:
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
    return torch.from_numpy(x)[:, None].float().div_(127.5).sub_(1), torch.from_numpy(y).long()


def cifar10(split: str = "train", folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """CIFAR-10's photographs: x (N, 3, 32, 32) float32 in [-1, 1] and y (N,) int64; N = 50,000 for "train", 10,000 for "test".

    Not shipped: a cifar10.npz (x_train, y_train, x_test, y_test; bytes) is read if there is one in `folder`, else $COURSE_DATA, else
    ~/.cache/course_lib; otherwise torchvision fetches them into that folder, once (170 MB).
    Raises ValueError for another split, OSError when they cannot be had. Source: Krizhevsky 2009.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    folder = Path(folder or os.environ.get("COURSE_DATA") or Path.home() / ".cache/course_lib")
    if (folder / "cifar10.npz").exists():
        try:
            with np.load(folder / "cifar10.npz") as arrays:
                x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise OSError(f"{folder / 'cifar10.npz'} is damaged or another file ({error}): delete it and call again") from None
    else:
        from torchvision.datasets import CIFAR10
        try:
            photographs = CIFAR10(folder, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(f"CIFAR-10 could not be fetched into {folder} ({error}): put a cifar10.npz there, or set COURSE_DATA to a folder that has one") from None
        x, y = photographs.data, photographs.targets
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1), torch.as_tensor(y).long()      # (N, 32, 32, 3) bytes before


# Two-dimensional toys: (N, 2) float32, centred, about one unit wide, so that N(0, I) is a sensible prior for them.

def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_moons(n: int, seed: int = 0, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles: (n, 2)."""
    g = _generator(seed)
    angle = math.pi * torch.rand(n, generator=g)
    upper = torch.rand(n, generator=g) < 0.5
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    return torch.stack([x, y], dim=1) + noise * torch.randn(n, 2, generator=g)


def swiss_roll(n: int, seed: int = 0, noise: float = 0.04) -> Tensor:
    """One arm that winds outwards by one and a half turns: (n, 2)."""
    g = _generator(seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g).sqrt())
    arm = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / 9
    return arm + noise * torch.randn(n, 2, generator=g)


def spiral(n: int, seed: int = 0, noise: float = 0.03) -> Tensor:
    """Two arms, half a turn apart: (n, 2)."""
    g = _generator(seed)
    radius = torch.rand(n, generator=g).sqrt()
    sign = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0)
    angle = 3 * math.pi * radius
    arms = 1.4 * sign[:, None] * radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return arms + noise * torch.randn(n, 2, generator=g)


def checkerboard(n: int, seed: int = 0) -> Tensor:
    """The black squares of a 4 x 4 board on [-1.5, 1.5]^2: (n, 2)."""
    g = _generator(seed)
    column = torch.randint(4, (n,), generator=g)
    row = 2 * torch.randint(2, (n,), generator=g) + column % 2
    corner = torch.stack([column, row], dim=1)
    return (corner + torch.rand(n, 2, generator=g)) * 0.75 - 1.5


class GaussianMixture:
    """A mixture of K round Gaussians in D dimensions: every quantity that a diffusion model has to learn, in closed form.

    means: (K, D); stds: (K,) or one number; weights: (K,), equal when None. Kept in float64.
    If x0 comes from the mixture and x_t = alpha x0 + sigma eps, then x_t comes from the mixture with means alpha m_k and
    variances alpha^2 s_k^2 + sigma^2; everything below follows from that.
    """

    def __init__(self, means, stds=0.1, weights=None):
        self.means = torch.as_tensor(means, dtype=torch.float64)                                    # (K, D)
        K = len(self.means)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(K)                            # (K,)
        weights = torch.ones(K) if weights is None else torch.as_tensor(weights)
        self.weights = weights.double() / weights.sum()                                             # (K,)
        if (self.stds <= 0).any() or (self.weights < 0).any():
            raise ValueError("a mixture needs positive standard deviations and weights that are not negative")

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, D) float32 draws."""
        g = _generator(seed)
        k = torch.multinomial(self.weights, n, replacement=True, generator=g)
        z = torch.randn(n, self.means.shape[1], generator=g, dtype=torch.float64)
        return (self.means[k] + self.stds[k, None] * z).float()

    def _components(self, x: Tensor, alpha, sigma) -> tuple[Tensor, Tensor, Tensor]:
        """x - alpha m_k (B, K, D), the variances (B, K) of x_t's components, and log(w_k N_k(x)) (B, K)."""
        alpha, sigma = (as_float64(c).cpu().reshape(-1, 1) for c in (alpha, sigma))   # (B or 1, 1)
        difference = x.cpu().double()[:, None] - alpha[..., None] * self.means                          # (B, K, D)
        variance = (alpha * self.stds) ** 2 + sigma**2                                              # (B or 1, K)
        D = x.shape[1]
        log_joint = self.weights.log() - difference.square().sum(-1) / (2 * variance) - D / 2 * (2 * math.pi * variance).log()
        return difference, variance.expand(len(x), -1), log_joint

    def log_prob(self, x: Tensor, alpha=1.0, sigma=0.0) -> Tensor:
        """log q(x_t): (B,) float64, for x_t = alpha x0 + sigma eps (the data's own density at the defaults)."""
        return self._components(x, alpha, sigma)[2].logsumexp(dim=1)

    def score(self, x: Tensor, alpha=1.0, sigma=0.0) -> Tensor:
        """The gradient of log q(x_t) with respect to x: (B, D)."""
        difference, variance, log_joint = self._components(x, alpha, sigma)
        share = log_joint.softmax(dim=1)                                                            # (B, K) p(k | x)
        return -(share / variance)[..., None].mul(difference).sum(1).to(x)

    def posterior_mean(self, x: Tensor, alpha, sigma) -> Tensor:
        """E[x0 | x_t = x]: (B, D), the best possible guess of the clean point."""
        alpha = as_float64(alpha).cpu().reshape(-1, 1)                          # (B or 1, 1)
        difference, variance, log_joint = self._components(x, alpha, sigma)
        share = log_joint.softmax(dim=1)                                                            # (B, K)
        pull = (alpha * self.stds**2 / variance)[..., None] * difference                            # (B, K, D)
        return (share[..., None] * (self.means + pull)).sum(1).to(x)

    def denoiser(self, schedule):
        """The exact denoiser D(x, t) = E[x0 | x_t = x] under a schedule: what a trained network approximates."""
        return lambda x, t, **condition: self.posterior_mean(x, schedule.alpha(t), schedule.sigma(t))
