"""Wrappers: denoiser -> denoiser. Each changes the guess x0_hat and leaves the sampler alone."""
from collections.abc import Callable

import torch
from torch import Tensor

from .schedules import over

Denoise = Callable[..., Tensor]


def cfg(D: Denoise, w: float | Callable[[Tensor], float], null: dict) -> Denoise:
    """Classifier-free guidance: from the unconditional guess, w times the way to the conditional one. (Ho & Salimans 2022)

    w = 1 is no guidance (the plain conditional model), w = 0 ignores the condition, w > 1 exaggerates it; w may be a
    function of t. null: the conditions that mean "none", such as {"y": 10}; a negative prompt is another null.
    """
    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        weight = torch.as_tensor(w(t) if callable(w) else w)
        if (weight == 1).all():
            return D(x, t, **condition)
        return torch.lerp(D(x, t, **condition | null), D(x, t, **condition), over(weight, x))
    return guided


def threshold(D: Denoise, share: float = 0.995, least: float = 1.0) -> Denoise:
    """Dynamic thresholding: each guess is forced into [-s, s] and divided by s, its `share` quantile of |x0_hat|, at least `least`.

    Strong guidance drives guesses out of the data's range; clipping makes them flat there, this keeps their shapes. (Saharia et al. 2022)
    """
    def scaled(x: Tensor, t: Tensor, **condition) -> Tensor:
        x0_hat = D(x, t, **condition)
        s = x0_hat.flatten(1).abs().float().quantile(share, dim=1).clamp(min=least)                 # (B,)
        return x0_hat.clamp(-over(s, x), over(s, x)) / over(s, x) * least
    return scaled


def clip(D: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Forces every guess into the range of the data; goes outside guidance: clip(cfg(D, 2.0, null))."""
    return lambda x, t, **condition: D(x, t, **condition).clamp(low, high)
