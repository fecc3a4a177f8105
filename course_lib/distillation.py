"""Score distillation: a denoiser as the teacher of anything that draws pictures.

What is optimised need not be an image: voxels, a camera, a sentence of shapes. It is drawn, noised,
and pulled towards what the denoiser sees in it. (Poole et al. 2023, DreamFusion)
"""
from collections.abc import Callable

import torch
from torch import Tensor

from . import validate
from .samplers import Denoise, predictions, validate_model
from .schedules import Schedule, randn_like


def score_distillation(
    D: Denoise,
    schedule: Schedule,
    x: Tensor,
    t: Tensor | float,
    eps: Tensor | None = None,
    *,
    weight: Callable[[Tensor], Tensor] | None = None,
    **condition,
) -> Tensor:
    """A loss for each image x (B, ...), whose gradient is w(t) (eps_hat - eps): (B,)

    eps_hat is D's prediction of the noise in x_t = alpha x + sigma eps, and nothing is
    differentiated through D: eps_hat - eps = alpha / sigma (x - x0_hat), so x is pulled to the
    prediction from its noised version. The loss itself is w alpha / (2 sigma) |x - x0_hat|^2.

    t:      one number or (B,), in (0, 1)
    eps:    like x, drawn when None
    weight: w, a function of t; None: sigma^2, that of the paper
    Raises TypeError or ValueError for an x that is not floating point, t outside (0, 1), eps or
    weights of another shape, and as D does.
    """
    validate_model(D, schedule)
    x = validate.real(x, "x")
    t = validate.time(t, x)
    if t.device.type == "cpu" and ((t <= 0) | (t >= 1)).any():
        raise ValueError(f"t must lie in (0, 1); got {t.min():.4g} to {t.max():.4g}")
    if weight is not None:
        validate.function(weight, "weight", "t -> like t")
    eps = randn_like(x) if eps is None else validate.real(eps, "eps", like=x)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    w = sigma**2 if weight is None else validate.broadcast(weight(t), t, "weight(t)")
    with torch.no_grad():
        x0_hat = predictions(D)(schedule.perturb(x, t, eps), t, **condition)
    squared = (x - x0_hat).square().flatten(1).sum(1)                   # (B,)
    return (w * alpha / (2 * sigma)).to(squared) * squared


def shadow(density: Tensor, direction: str = "front") -> Tensor:
    """The shadow that voxels cast in parallel light: (B, Z, Y, X) -> (B, 1, Y, X or Z), in [-1, 1].

    density:   in [0, 1], how much of the light a voxel stops; light passes 1 - density of each
    direction: of the light, "front" along Z or "side" along X
    Light that arrives is -1, light that is stopped is 1, like ink on black paper.
    Raises TypeError or ValueError for another shape or direction, and densities outside [0, 1].
    """
    density = validate.real(density, "density", ndim=4)
    if density.ndim != 4:
        raise ValueError(f"density must be (B, Z, Y, X); got {tuple(density.shape)}")
    validate.choice(direction, "direction", ("front", "side"))
    if density.device.type == "cpu":
        low, high = (end.item() for end in density.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"density must lie in [0, 1]; got {low:.4g} to {high:.4g}")
    passed = (1 - density).prod(1 if direction == "front" else 3)       # (B, Y, X) or (B, Z, Y)
    passed = passed if direction == "front" else passed.transpose(1, 2)
    return 1 - 2 * passed[:, None]
