"""Editing: inpainting, inverse problems, changes of an image.

Wrappers and samplers of any denoiser.
"""
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from . import validate
from .guidance import Denoise, as_wrapper, per_example_grad, score_to_x0
from .masks import _validate_known, _validate_mask
from .samplers import (
    ddim,
    ddim_invert,
    last,
    predictions,
    step,
    timesteps,
    validate_grid,
    validate_model,
)
from .schedules import Schedule, append_dims, randn_like

# ---- a part of the image is known


def inpaint(D: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """x0_hat with the known pixels put in place: mask * D + (1 - mask) * known.

    known: (1 or B, C, H, W); mask: 1 or 0, 1 = drawn anew, such as `create_mask` makes. A sampler
    that ends at t = 0 returns the known pixels, bit for bit.
    Raises ValueError for a mask of another shape or with other values, and where known does not
    fit.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    known = _validate_clean(known)
    mask = _validate_mask(mask, known)

    def inpainted(x: Tensor, t: Tensor, **condition) -> Tensor:
        _validate_known(known, x)
        return torch.where(mask, validate.prediction(D(x, t, **condition), x), known.to(x))
    return as_wrapper(inpainted, D)


def repaint(
    D: Denoise,
    schedule: Schedule,
    x: Tensor,
    known: Tensor,
    mask: Tensor,
    ts: Iterable[float],
    *,
    resample: int = 1,
    eta: float = 1.0,
    generator: torch.Generator | None = None,
    **condition,
) -> Iterator[Tensor]:
    """RePaint: after each step to s the known part becomes a draw from q(x_s | known).

    resample: how often each step is made; between, the image is noised again from s to t, so that
    the new part can adapt to the known one (1: plain replacement; the step to s = 0 is made once)
    x: at level ts[0]; known, mask as in `inpaint`. Yields len(ts) states.
    Raises TypeError or ValueError as `inpaint` and the samplers do, and for a resample below 1.
    (Lugmayr et al. 2022, algorithm 1)
    """
    known = _validate_clean(known)
    mask = _validate_mask(mask, known)
    x = validate.real(x, "the starting x")
    _validate_known(known, x)
    resample = validate.whole(resample, "resample", what="how often each step is made")
    validate.number(eta, "eta", 0, 1)
    validate.generator(generator)
    validate_model(D, schedule)
    guess = partial(predictions(D), **condition)
    ts = validate_grid(ts)
    return _repaint(guess, schedule, x, known, mask, ts, resample, eta, generator)


@torch.no_grad()
def _repaint(guess, schedule, x, known, mask, ts, resample, eta, generator) -> Iterator[Tensor]:
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        for again in reversed(range(resample if s > 0 else 1)):
            x = step(schedule, x, guess(x, t), t, s, eta, generator)
            noised = schedule.perturb(known.expand_as(x), s, randn_like(x, generator))
            x = torch.where(mask, x, noised)
            if again:
                x = schedule.renoise(x, s, t, generator)
        yield x


def _validate_clean(known: Tensor) -> Tensor:
    """The known images, warned of or refused where they are not in [-1, 1]."""
    known = validate.real(known, "the known picture", ndim=2)
    if known.ndim == 4 and known.shape[1] in (1, 3):
        known = validate.images(known, "known pictures", limit=10)
    return known


# ---- a measurement of the image is known: y = A(x0) + noise


def dps(
    D: Denoise,
    schedule: Schedule,
    measure: Callable[[Tensor], Tensor],
    y: Tensor,
    scale: float,
) -> Denoise:
    """Diffusion posterior sampling: p(y | x_t) is approximated by p(y | x0_hat(x_t)).

    measure: (B, ...) -> like y (1 or B, ...), any differentiable function; y: the measurement.
    scale:   zeta of lesson 5: x0_hat moves by sigma^2 / alpha times the gradient of -scale |r|,
             with the residual r = y - measure(x0_hat). The paper moves x_s after each step, by
             zeta' / |r| times the gradient of |r|^2: scale = 2 zeta' there.
    A heuristic, not the exact posterior; it works better with eta = 1.
    Raises ValueError where alpha = 0 and for a bad scale or shape. (Chung et al. 2023, algorithm 1)
    """
    scale = validate_strength(scale)
    validate.function(measure, "measure", "(B, ...) -> like y")
    y = validate.real(y, "y", ndim=0)

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        seen = validate.real(measure(x0_hat), "what measure returns")
        if y.ndim == 0 or seen.shape[1:] != y.shape[1:] or len(y) not in (1, len(seen)):
            raise ValueError(
                f"y must have the shape of what measure returns, {tuple(seen.shape)}, "
                f"or 1 in front; got {tuple(y.shape)}"
            )
        return -scale * (y - seen).reshape(len(seen), -1).norm(dim=1)
    return guide_through_x0(D, schedule, log_prob)


def pigdm(
    D: Denoise,
    schedule: Schedule,
    A: Tensor,
    y: Tensor,
    noise_std: float = 0.0,
    data_std: float = 1.0,
) -> Denoise:
    """Pseudo-inverse guidance for y = A x0 + noise_std z. (Song et al. 2023, PiGDM)

    Approximates p(x0 | x_t) by N(x0_hat, r_t^2 I), so that p(y | x_t) = N(A x0_hat, r_t^2 A A^T +
    noise_std^2 I), with r_t^2 = sigma^2 d^2 / (alpha^2 d^2 + sigma^2) and d = data_std.
    A: (m, n) on images flattened to n numbers; y: (m,) or (1 or B, m). Exact when the data is
    N(mean, d^2 I), else a heuristic. Directions of y whose variance is 0 up to rounding are left
    out.
    Raises ValueError where alpha = 0 and for sizes or deviations that cannot be right.
    """
    A, y = validate.real(A, "A"), validate.real(y, "y")
    y = y.to(A)
    _validate_measurement(A, y, noise_std, data_std)
    power, Q = torch.linalg.eigh(A @ A.T)                   # A A^T = Q diag(power) Q^T

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        flat = x0_hat.flatten(1)                            # (B, n)
        _validate_flat(flat, A, y)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        r2 = (sigma * data_std) ** 2 / ((alpha * data_std) ** 2 + sigma**2)
        variance = append_dims(r2, flat) * power.clamp(min=0) + noise_std**2   # (m,) or (B, m)
        rounding = len(power) * torch.finfo(power.dtype).eps * variance.amax(-1, keepdim=True)
        inverse = torch.where(variance > rounding, 1 / variance, 0.0)
        return -0.5 * (((y - flat @ A.T) @ Q).square() * inverse).sum(1)
    return guide_through_x0(D, schedule, log_prob)


def _validate_measurement(A: Tensor, y: Tensor, noise_std: float, data_std: float) -> None:
    if A.ndim != 2 or y.shape[-1:] != A.shape[:1] or y.ndim > 2:
        raise ValueError(
            "A is a matrix (m, n) and y one measurement (m,) or a row for each picture (B, m); "
            f"got {tuple(A.shape)} and {tuple(y.shape)}"
        )
    validate.number(noise_std, "noise_std", 0)
    validate.number(data_std, "data_std", 0, above=True)


def _validate_flat(flat: Tensor, A: Tensor, y: Tensor) -> None:
    if flat.shape[1] != A.shape[1]:
        raise ValueError(f"A takes pictures of {A.shape[1]} numbers; these have {flat.shape[1]}")
    if y.ndim == 2 and len(y) not in (1, len(flat)):
        raise ValueError(
            f"y is one measurement for all, or one for each of {len(flat)} pictures; got {len(y)}"
        )


def match_features(
    D: Denoise,
    schedule: Schedule,
    features: Callable[[Tensor], Tensor],
    target: Tensor,
    scale: float,
) -> Denoise:
    """Training-free guidance with log p = -scale |features(x0_hat) - target|^2.

    features: (B, ...) -> (B, d), differentiable, of *clean* images; target: (d,) or (1 or B, d).
    Raises ValueError where alpha = 0 and for a bad scale or shape.
    (Bansal et al. 2023, universal guidance; Yu et al. 2023, FreeDoM)
    """
    scale = validate_strength(scale)
    validate.function(features, "features", "(B, ...) -> (B, d)")
    target = validate.real(target, "target")

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        found = validate.real(features(x0_hat), "what features returns")
        _validate_target(found, target)
        return -scale * (found - target).square().sum(1)
    return guide_through_x0(D, schedule, log_prob)


def _validate_target(found: Tensor, target: Tensor) -> None:
    fits = target.ndim in (1, 2) and found.ndim == 2 and target.shape[-1] == found.shape[1]
    if not fits or target.ndim == 2 and len(target) not in (1, len(found)):
        raise ValueError(
            "features are (B, d) and the target (d,) or (B, d), of the same d; "
            f"got {tuple(found.shape)} and {tuple(target.shape)}"
        )


def guide_through_x0(
    D: Denoise, schedule: Schedule, log_prob: Callable[[Tensor, Tensor], Tensor]
) -> Denoise:
    """x0_hat + sigma^2 / alpha times the gradient by x of log_prob(x0_hat(x), t).

    log_prob: (x0_hat, t) -> (B,). The gradient goes through D, at the cost of about three
    evaluations.
    Raises ValueError where alpha = 0 (start below t = 1 there).
    """
    validate_model(D, schedule)
    validate.function(log_prob, "log_prob", "(x0_hat, t) -> (B,)")

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        factor = score_to_x0(schedule, t)
        with torch.inference_mode(False), torch.enable_grad():
            x_in = x.clone().detach().requires_grad_()
            x0_hat = validate.prediction(D(x_in, t, **condition), x)
            grad = per_example_grad(log_prob(x0_hat, t), x_in)
        return x0_hat.detach() + append_dims(factor, x) * grad
    return as_wrapper(guided, D)


def validate_strength(scale: float) -> float:
    """The strength of a guidance, finite and 0 or more."""
    return validate.number(scale, "scale", 0, what="the strength of the guidance")


# ---- an image is known, and changed


def sdedit(
    D: Denoise,
    schedule: Schedule,
    x0: Tensor,
    strength: float,
    n: int,
    *,
    sampler: Callable[..., Iterator[Tensor]] = ddim,
    generator: torch.Generator | None = None,
    **condition,
) -> Iterator[Tensor]:
    """SDEdit: noise x0 up to t = strength, then sample back in n steps.

    (Meng et al. 2022, algorithm 1)

    x0:        (B, ...) in the data's range, even a rough sketch
    strength:  in (0, 1]; 1 keeps (nearly) nothing
    generator: of the noise at the start; a sampler that draws its own gets it by functools.partial
    Yields n + 1 states, from t = strength down. Raises ValueError for another strength.
    """
    what = "the level t up to which the image is noised"
    validate.number(strength, "strength", 0, 1, above=True, what=what)
    validate.function(sampler, "sampler", "such as ddim")
    validate_model(D, schedule)
    x0 = _validate_clean(x0)
    validate.generator(generator)
    ts = timesteps(schedule, n, start=strength)
    x = schedule.perturb(x0, ts[0], randn_like(x0, generator))
    return sampler(D, schedule, x, ts, **condition)


def ddim_edit(
    D: Denoise,
    schedule: Schedule,
    x0: Tensor,
    n: int,
    source: dict,
    target: dict,
    *,
    start: float = 1.0,
    D_down: Denoise | None = None,
) -> Iterator[Tensor]:
    """Edit by inversion: x0's noise under the condition `source` is decoded under `target`.

    source, target: such as {"y": labels}; the way up (ddim_invert) and the way down (ddim) take n
    steps each, up to t = start. D_down: the denoiser of the way down, such as cfg(D, 3.0, null);
    None: D. (Guidance on the way up makes inversion inexact.) Yields the n + 1 states of the way
    down.
    Raises ValueError where source and target name different conditions.
    (Song et al. 2021, DDIM, section 4.3; Su et al. 2023)
    """
    if not isinstance(source, dict) or not isinstance(target, dict):
        raise TypeError("source and target are dicts of conditions, such as {'y': labels}")
    x0 = _validate_clean(x0)
    if source.keys() != target.keys():
        raise ValueError(
            "source and target name the same conditions; "
            f"got {sorted(source)} and {sorted(target)}"
        )
    ts = timesteps(schedule, n, start=start)
    noise = last(ddim_invert(D, schedule, x0, ts.flip(0), **source))
    return ddim(D if D_down is None else D_down, schedule, noise, ts, **target)
