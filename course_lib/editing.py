"""Editing: a part drawn anew, a picture made of a measurement, a picture changed. Wrappers and samplers around any denoiser."""
import math
import operator
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .guidance import Denoise, gradient, of_score
from .samplers import checked_steps, ddim, grid, invert, last, step
from .schedules import Schedule, over, randn_like


# ---- masks: 1 where the picture is to be drawn anew, 0 where it is known

def create_mask(size: int | tuple[int, int], kind: str = "center", share: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """(1, 1, H, W) float: 1 on about `share` of the pixels, those to be drawn anew, 0 on the known ones.

    size: H = W, or (H, W). kind: "center" a rectangle in the middle, of the picture's proportions; "border" all but such a rectangle;
    "half" the columns on the right; "random" single pixels, exactly round(share H W) of them.
    Raises ValueError for another kind, for a bad size, and for a share outside (0, 1) or so near its ends that no pixel, or every one, is left.
    """
    H, W = checked_size(size)
    if kind not in ("center", "border", "half", "random"):
        raise ValueError(f"kind must be one of center, border, half, random; got {kind!r} (brush makes free-hand masks)")
    if not 0 < share < 1:
        raise ValueError(f"share is the part of the picture to be drawn anew, between 0 and 1; got {share}")
    mask = torch.zeros(1, 1, H, W)
    if kind == "half":
        mask[..., W - round(share * W):] = 1
    elif kind == "random":
        mask.view(-1)[torch.randperm(H * W, generator=generator)[:round(share * H * W)]] = 1
    else:
        h, w = _rectangle(H, W, share if kind == "center" else 1 - share)
        mask[..., (H - h) // 2:(H - h) // 2 + h, (W - w) // 2:(W - w) // 2 + w] = 1
        mask = mask if kind == "center" else 1 - mask
    if mask.min() == mask.max():
        raise ValueError(f"share = {share} of {H} x {W} pixels rounds to {'all' if mask.min() else 'none'} of them: take another share, or a larger picture")
    return mask


def _rectangle(H: int, W: int, share: float) -> tuple[int, int]:
    """Height and width of the rectangle of a picture's proportions whose area comes nearest to that share of it."""
    sides = [(math.floor(share**0.5 * side), math.ceil(share**0.5 * side)) for side in (H, W)]
    return min(((h, w) for h in sides[0] for w in sides[1] if h * w), key=lambda pair: abs(pair[0] * pair[1] - share * H * W))


def brush(size: int | tuple[int, int], strokes: list[list[tuple[float, float]]], radius: float = 2.0) -> Tensor:
    """A free-hand mask (1, 1, H, W): 1 wherever a pixel's centre is at most `radius` pixels away from a stroke.

    strokes: each a list of points (row, column), joined by straight lines; one point makes a dot. Pixel (0, 0) is at the top left.
    Raises ValueError for strokes that are no such lists, and for a radius that is not above 0.
    """
    H, W = checked_size(size)
    try:
        ends = torch.tensor([pair for stroke in strokes for pair in zip(stroke, stroke[1:] or stroke)], dtype=torch.float64)    # (S, 2, 2)
    except (TypeError, ValueError):
        ends = torch.empty(0)
    if ends.shape[1:] != (2, 2) or not all(len(stroke) for stroke in strokes) or not radius > 0:
        raise ValueError(f"brush needs strokes, each a list of points (row, column), and a radius above 0; got {strokes} and {radius}")
    a, b = ends.unbind(1)                                                                              # (S, 2) each
    at = torch.cartesian_prod(torch.arange(H).double(), torch.arange(W).double())[:, None]              # (H W, 1, 2)
    # how far along its stroke the nearest point lies: the projection, from 0 (at a) to 1 (at b)
    along = (((at - a) * (b - a)).sum(-1) / (b - a).square().sum(-1).clamp(min=1e-12)).clamp(0, 1)       # (H W, S)
    distance = (at - a - along[..., None] * (b - a)).norm(dim=-1).min(1).values                        # (H W,)
    return (distance <= radius).float().view(1, 1, H, W)


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(H, W), or one clear sentence."""
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    try:
        H, W = (operator.index(side) for side in pair if not isinstance(side, bool))
    except (TypeError, ValueError):
        H = W = 0
    if H < 1 or W < 1:
        raise ValueError(f"size is a number of pixels, or (height, width); got {size}")
    return H, W


def checked_mask(mask: Tensor, known: Tensor) -> Tensor:
    """The mask as True (draw anew) and False (known), where the known picture lives, or one clear sentence."""
    fits = mask.ndim == known.ndim and all(m in (1, k) or (axis == 0 and k == 1) for axis, (m, k) in enumerate(zip(mask.shape, known.shape)))
    if not fits:
        raise ValueError(f"the mask must have the shape of the known picture, {tuple(known.shape)}, or 1 along an axis; got {tuple(mask.shape)}")
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"a mask is 0 (known) and 1 (drawn anew), nothing between; got values from {mask.min():.4g} to {mask.max():.4g}")
    return mask.bool().to(known.device)


def checked_known(known: Tensor, x: Tensor) -> None:
    """One clear sentence unless the known picture is one for all of x, or one for each."""
    if known.shape[1:] != x.shape[1:] or len(known) not in (1, len(x)):
        raise ValueError(f"the known picture must have the shape of what is drawn, {tuple(x.shape)}, or 1 in front; got {tuple(known.shape)}")


# ---- a part of the picture is known

def inpaint(D: Denoise, known: Tensor, mask: Tensor) -> Denoise:
    """The guess, with the known pixels put in place of the guessed ones: x0_hat = mask * D + (1 - mask) * known.

    known: (1 or B, C, H, W); mask: 1 or 0, 1 = drawn anew, such as create_mask makes. A sampler that ends at t = 0 ends with the known
    pixels, bit for bit. Raises ValueError for a mask of another shape or with other values, and where known does not fit what is drawn.
    """
    mask = checked_mask(mask, known)

    def filled(x: Tensor, t: Tensor, **condition) -> Tensor:
        checked_known(known, x)
        return torch.where(mask, D(x, t, **condition), known)
    return filled


@torch.no_grad()
def repaint(D: Denoise, schedule: Schedule, x: Tensor, known: Tensor, mask: Tensor, ts: Iterable[float], resample: int = 1,
            generator: torch.Generator | None = None, eta: float = 1.0, **condition) -> Iterator[Tensor]:
    """RePaint: after each step down to s the known part is replaced by a draw from q(x_s | known). (Lugmayr et al. 2022, algorithm 1)

    resample: how often each step is made; between, the whole picture goes back up with fresh noise, so that the new part can hear of the
    known one (1 is plain replacement; the step to s = 0 is made once). x: at level ts[0]; known, mask as in `inpaint`. Yields len(ts) states.
    Raises ValueError, when the first state is asked for, as `inpaint` does, for a resample below 1 and for ts that do not fall.
    """
    mask = checked_mask(mask, known)
    checked_known(known, x)
    if resample < 1:
        raise ValueError(f"resample counts how often each step is made, 1 or more; got {resample}")
    steps = checked_steps(ts, x, eta)
    yield x
    for t, s in steps:
        for again in reversed(range(resample if s > 0 else 1)):
            x = step(schedule, x, D(x, t, **condition), t, s, eta, generator)
            x = torch.where(mask, x, schedule.perturb(known, s, randn_like(x, generator)))
            if again:
                x = schedule.renoise(x, s, t, generator)
        yield x


# ---- a measurement of the picture is known: y = A(x0) + noise

def dps(D: Denoise, schedule: Schedule, measure: Callable[[Tensor], Tensor], y: Tensor, scale: float) -> Denoise:
    """Diffusion posterior sampling: p(y | x_t) is taken to be p(y | x0_hat(x_t)). (Chung et al. 2023, algorithm 1)

    measure: (B, ...) -> like y (1 or B, ...), any differentiable function; y: what was measured. Noise of variance s^2 in y would give the
    push the factor 1 / s^2 on the residual r = y - measure(x0_hat); here it is scale / |r|, with the lesson's zeta for scale. (The paper takes
    zeta' / |r| times the gradient of |r|^2, so scale = 2 zeta', and pushes x_s after each step. Here it is x0_hat that moves, by
    sigma^2 / alpha times the gradient, so that scale does not depend on the number of steps.)
    A heuristic, not the exact posterior; it works better with eta = 1. Raises ValueError where alpha = 0 and for a bad scale or shape.
    """
    checked_scale(scale)

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        seen = measure(x0_hat)
        if y.ndim == 0 or seen.shape[1:] != y.shape[1:] or len(y) not in (1, len(seen)):
            raise ValueError(f"y must have the shape of what measure returns, {tuple(seen.shape)}, or 1 in front; got {tuple(y.shape)}")
        return -scale * (y - seen).reshape(len(seen), -1).norm(dim=1)
    return guided_by_guess(D, schedule, log_prob)


def pseudo_inverse(D: Denoise, schedule: Schedule, A: Tensor, y: Tensor, noise_std: float = 0.0, data_std: float = 1.0) -> Denoise:
    """Pseudo-inverse guidance for y = A x0 + noise_std z: p(x0 | x_t) is taken to be N(x0_hat, r_t^2 I). (Song et al. 2023, PiGDM)

    So p(y | x_t) = N(A x0_hat, r_t^2 A A^T + noise_std^2 I), with r_t^2 = sigma^2 d^2 / (alpha^2 d^2 + sigma^2), d = data_std.
    A: (m, n) on pictures flattened to n numbers; y: (m,) or (1 or B, m). Exact when the data is N(mean, d^2 I), else a heuristic. Directions
    of y whose variance is 0 up to rounding, as of a row of A that repeats others, say nothing.
    Raises ValueError where alpha = 0 and for sizes or deviations that make no sense.
    """
    if A.ndim != 2 or y.shape[-1:] != A.shape[:1] or y.ndim > 2:
        raise ValueError(f"A is a matrix (m, n) and y one measurement (m,) or a row for each picture (B, m); got {tuple(A.shape)} and {tuple(y.shape)}")
    if not (0 <= noise_std < math.inf and 0 < data_std < math.inf):
        raise ValueError(f"noise_std is 0 or more and data_std above 0, both finite; got {noise_std} and {data_std}")
    power, Q = torch.linalg.eigh(A @ A.T)                               # A A^T = Q diag(power) Q^T

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        flat = x0_hat.flatten(1)
        if flat.shape[1] != A.shape[1]:
            raise ValueError(f"A takes pictures of {A.shape[1]} numbers; these have {flat.shape[1]}")
        if y.ndim == 2 and len(y) not in (1, len(flat)):
            raise ValueError(f"y is one measurement for all, or one for each of {len(flat)} pictures; got {len(y)}")
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        r2 = over((sigma * data_std) ** 2 / ((alpha * data_std) ** 2 + sigma**2), flat)                # () or (B, 1)
        variance = r2 * power.clamp(min=0) + noise_std**2                                           # (m,) or (B, m)
        rounding = len(power) * torch.finfo(power.dtype).eps * variance.amax(-1, keepdim=True)
        inverse = torch.where(variance > rounding, 1 / variance, 0.0)                                # (m,) or (B, m)
        return -0.5 * (((y - flat @ A.T) @ Q).square() * inverse).sum(1)
    return guided_by_guess(D, schedule, log_prob)


def match_features(D: Denoise, schedule: Schedule, features: Callable[[Tensor], Tensor], target: Tensor, w: float) -> Denoise:
    """Training-free guidance: guesses with features like the target's, by log p = -w |features(x0_hat) - target|^2. (Bansal et al. 2023; Yu et al. 2023)

    features: (B, ...) -> (B, d), differentiable, made for *clean* pictures, since it sees the guess; target: (d,) or (1 or B, d).
    Raises ValueError where alpha = 0 and for a bad w or shape.
    """
    checked_scale(w)

    def log_prob(x0_hat: Tensor, t: Tensor) -> Tensor:
        found = features(x0_hat)
        fits = target.ndim in (1, 2) and found.ndim == 2 and target.shape[-1] == found.shape[1] and (target.ndim == 1 or len(target) in (1, len(found)))
        if not fits:
            raise ValueError(f"features are (B, d) and the target (d,) or (B, d), of the same d; got {tuple(found.shape)} and {tuple(target.shape)}")
        return -w * (found - target).square().sum(1)
    return guided_by_guess(D, schedule, log_prob)


def guided_by_guess(D: Denoise, schedule: Schedule, log_prob: Callable[[Tensor, Tensor], Tensor]) -> Denoise:
    """x0_hat + sigma^2 / alpha times the gradient of log_prob(x0_hat(x), t) with respect to x: through D, at the price of about three evaluations.

    log_prob: (x0_hat, t) -> (B,). Raises ValueError where alpha = 0 (start below t = 1 there).
    """
    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        factor = of_score(schedule, t)
        with torch.enable_grad():
            seen = x.detach().requires_grad_()
            x0_hat = D(seen, t, **condition)
            push = gradient(log_prob(x0_hat, t), seen)
        return x0_hat.detach() + over(factor, x) * push
    return guided


def checked_scale(scale: float) -> None:
    """One clear sentence unless scale is finite and not negative."""
    if not 0 <= scale < math.inf:
        raise ValueError(f"the strength of the push is a finite number, 0 or more, where 0 is none; got {scale}")


# ---- a picture is known, and changed

def sdedit(D: Denoise, schedule: Schedule, x0: Tensor, strength: float, n: int, sampler: Callable[..., Iterator[Tensor]] = ddim,
           generator: torch.Generator | None = None, **condition) -> Iterator[Tensor]:
    """Noise up to t = strength, then n steps back to data: what the noise has covered is drawn anew. (Meng et al. 2022, algorithm 1)

    x0: (B, ...) in the data's range, even a rough sketch; strength in (0, 1], where 1 keeps (nearly) nothing. generator: for the noise at the
    start; a sampler that draws its own takes it from functools.partial. The states from t = strength down, n + 1 of them.
    Raises ValueError for another strength.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is the level t up to which the picture is noised, above 0 and at most 1; got {strength}")
    ts = grid(schedule, n, start=strength)
    return sampler(D, schedule, schedule.perturb(x0, ts[0], randn_like(x0, generator)), ts, **condition)


def edit(D: Denoise, schedule: Schedule, x0: Tensor, n: int, before: dict, after: dict, start: float = 1.0, back: Denoise | None = None) -> Iterator[Tensor]:
    """A picture's own noise, found under the condition `before`, becomes a picture under `after`. (Song et al. 2021, DDIM, section 4.3; Su et al. 2023)

    before, after: such as {"y": labels}; the way up (invert) and the way down (ddim) take n steps each, up to t = start. back: the denoiser for the
    way down, such as cfg(D, 3.0, null); None: D. (Guidance on the way up makes inversion inexact.) The states of the way down, n + 1 of them.
    Raises ValueError where before and after name different conditions.
    """
    if before.keys() != after.keys():
        raise ValueError(f"before and after name the same conditions; got {sorted(before)} and {sorted(after)}")
    ts = grid(schedule, n, start=start)
    noise = last(invert(D, schedule, x0, ts.flip(0), **before))
    return ddim(D if back is None else back, schedule, noise, ts, **after)
