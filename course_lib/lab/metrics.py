"""How good are the samples? A digit classifier, its features, and distances between clouds of features."""
from functools import lru_cache

import torch
from torch import Tensor, nn

from .checkpoint import load_tensors
from .data import ASSETS, mnist


class DigitClassifier(nn.Module):
    """A small convolutional network for 28 x 28 digits: x (B, 1, 28, 28) in [-1, 1] -> logits (B, 10).

    Its 128 pooled features before the last layer play the part that Inception's 2048 pooled features play for photographs.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        conv = lambda a, b: [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
        self.body = nn.Sequential(
            *conv(1, width), *conv(width, width), nn.MaxPool2d(2),                      # (B, 32, 14, 14)
            *conv(width, 2 * width), *conv(2 * width, 2 * width), nn.MaxPool2d(2),      # (B, 64, 7, 7)
            *conv(2 * width, 4 * width), *conv(4 * width, 4 * width),                   # (B, 128, 7, 7)
            nn.AdaptiveAvgPool2d(1), nn.Flatten())                                      # (B, 128)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@lru_cache
def classifier(on: str | torch.device = "cpu") -> DigitClassifier:
    """The shipped classifier, in eval mode; configs/mnist_classifier.toml and its header say how it was trained."""
    tensors, header = load_tensors(ASSETS / "checkpoints" / "mnist_classifier.safetensors")
    net = DigitClassifier(**header["net"])
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in tensors.items()})
    return net.to(on).eval().requires_grad_(False)


def features(x: Tensor) -> Tensor:
    """The classifier's 128 pooled features of digits: x (N, 1, 28, 28) in [-1, 1] -> (N, 128) float64 on the CPU."""
    x, net = checked_digits(x), classifier(x.device)
    return torch.cat([net.body(part).cpu().double() for part in x.split(500)])


def predict(x: Tensor) -> Tensor:
    """The digit that the classifier sees: x (N, 1, 28, 28) in [-1, 1] -> (N,) int64."""
    x, net = checked_digits(x), classifier(x.device)
    return torch.cat([net(part).argmax(1) for part in x.split(500)])


def class_agreement(x: Tensor, y: Tensor) -> float:
    """The share of images x (N, 1, 28, 28) in which the classifier sees the digit y (N,) that was asked for."""
    return (predict(x) == y.to(x.device)).double().mean().item()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet (Wasserstein-2) distance, squared, between Gaussians fitted to two clouds of features.

    a: (N, d), b: (M, d); computed in float64. |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)), the last trace from the
    eigenvalues of the symmetric S^T B S with A = S S^T. It falls as N grows: compare at one N, and with `frechet_floor`.
    Raises ValueError for features that are not finite or do not match. Source: Dowson & Landau 1982; Heusel et al. 2017.
    """
    a, b = (torch.as_tensor(z).cpu().double() for z in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"two clouds of features (N, d) and (M, d) are needed, at least two points each; got {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features that are not finite (nan or inf) have no Fréchet distance: look at the samples first")
    A, B = (z.T.cov().reshape(z.shape[1], z.shape[1]) for z in (a, b))
    w, V = torch.linalg.eigh(A)
    S = V * w.clamp(min=0).sqrt()                                                   # (d, d), A = S S^T
    cross = torch.linalg.eigvalsh(S.T @ B @ S).clamp(min=0).sqrt().sum()            # tr (A B)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + A.trace() + B.trace() - 2 * cross).item()


@lru_cache
def test_features() -> Tensor:
    """The features of MNIST's 10,000 test digits (10000, 128): the reference of every Fréchet distance in the course."""
    return features(mnist("test")[0])


def frechet_floor(n: int, seed: int = 0) -> float:
    """What n *real* training digits score against the test digits: no honest model should be expected to score less."""
    x = mnist("train")[0]
    return frechet_distance(features(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]]), test_features())


def checked_digits(x: Tensor) -> Tensor:
    """x as it is, or one clear sentence."""
    if not x.is_floating_point():
        raise TypeError(f"images must be floating point in [-1, 1]; got {x.dtype}: scale with x / 127.5 - 1")
    if x.ndim != 4 or x.shape[1:] != (1, 28, 28):
        raise ValueError(f"digits must be (N, 1, 28, 28); got {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("the images have values that are not finite (nan or inf)")
    if x.abs().max() > 2:
        raise ValueError(f"images must lie in [-1, 1]; got [{x.min():.4g}, {x.max():.4g}]: scale with x / 127.5 - 1")
    return x
