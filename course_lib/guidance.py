"""Wrappers: denoiser -> denoiser. Each changes the guess x0_hat and leaves the sampler alone."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .schedules import Schedule, as_float64, over

Denoise = Callable[..., Tensor]
Weight = float | Tensor | Callable[[Tensor], float | Tensor]


def cfg(D: Denoise, w: Weight, null: dict, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance: from the unconditional guess, w times the way to the conditional one. (Ho & Salimans 2022)

    w = 1 is no guidance (the plain conditional model), w = 0 ignores the condition, w > 1 exaggerates it; w may be a
    function of t, such as `interval`. null: the conditions that mean "none", such as {"y": 10}; a negative prompt is another
    null. rescale: phi in [0, 1], how far each guess gets the spread of the conditional one back (Lin et al. 2023, eq. 15 and 16).
    Raises ValueError for a w that is negative or not finite, another rescale, an empty null, and a null that names a condition which is not passed.
    """
    if not null:
        raise ValueError('cfg needs to know what "no condition" is: pass null, such as {"y": 10} for the label of a network with num_classes = 10')
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie in [0, 1], where 0 changes nothing; got {rescale}")

    def without(x: Tensor, t: Tensor, **condition) -> Tensor:
        return D(x, t, **condition | null)
    guided = _away_from(without, D, w, rescale)

    def checked(x: Tensor, t: Tensor, **condition) -> Tensor:
        if null.keys() - condition.keys():
            missing = ", ".join(sorted(null.keys() - condition.keys()))
            raise ValueError(f"null names {missing}, but no {missing} was passed that guidance could lead to: call the sampler with {missing}=..., or use D itself")
        return guided(x, t, **condition)
    return checked


def autoguidance(D: Denoise, weak: Denoise, w: Weight) -> Denoise:
    """Away from a bad model: from the guess of `weak`, w times the way to that of D, both under the same condition. (Karras et al. 2024)

    weak: a smaller or less trained model of the same data. w as in `cfg`, whose weak model is D itself without the condition.
    Raises ValueError for a w that is negative or not finite.
    """
    return _away_from(weak, D, w)


def _away_from(weak: Denoise, D: Denoise, w: Weight, rescale: float = 0.0) -> Denoise:
    """(1 - w) weak + w D, and where w = 1 D alone, which costs one evaluation."""
    if not callable(w):
        checked_weight(w)

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        weight = checked_weight(w(t) if callable(w) else w)
        if (weight == 1).all():
            return D(x, t, **condition)
        low, high = weak(x, t, **condition), D(x, t, **condition)
        mixed = torch.lerp(low, high, over(weight, x))
        return mixed if rescale == 0 else torch.lerp(mixed, mixed * over(_ratio(high, mixed), x), rescale)
    return guided


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Of the standard deviations within each example, a's over b's: (B, ...) -> (B,). 1 where b is flat, since no factor gives it a contrast."""
    wanted, found = (x.flatten(1).std(dim=1, correction=0) for x in (a, b))
    return torch.where(found > 1e-4 * wanted, wanted / found, 1.0)


def checked_weight(w: float | Tensor, none: int = 1) -> Tensor:
    """A weight as a tensor, () or (B,), or one clear sentence. none: the weight that is no guidance."""
    weight = as_float64(w)
    fine = (weight >= 0) & weight.isfinite()
    if not fine.all():
        wrong = weight[~fine].flatten()[0].item()
        raise ValueError(f"a guidance weight is a finite number, 0 or more, where {none} is no guidance; got {wrong}")
    return weight


def interval(w: float, low: float, high: float, outside: float = 1.0) -> Callable[[Tensor], Tensor]:
    """A weight for cfg: w where low <= t <= high, elsewhere 1, which is no guidance and costs half. (Kynkäänniemi et al. 2024)

    For classifier_guidance, where 0 is no guidance, take outside=0. The weight of t () or (B,) has t's shape.
    Raises ValueError for a weight that is negative or not finite, and unless 0 <= low < high <= 1.
    """
    checked_weight(w), checked_weight(outside)
    if not 0 <= low < high <= 1:
        raise ValueError(f"an interval of guidance has 0 <= low < high <= 1, in t (0 is data); got low = {low}, high = {high}")

    def weight(t: Tensor) -> Tensor:
        t = as_float64(t)
        return torch.where((t >= low) & (t <= high), as_float64(w), as_float64(outside))
    return weight


def compose(D: Denoise, conditions: list[dict], null: dict, weights: list[float]) -> Denoise:
    """Several conditions at once: D(null) + sum_i w_i (D(condition_i) - D(null)). (Liu et al. 2022, composable diffusion)

    conditions: dicts such as {"y": 3}; weights: a finite number for each, negative for "not this". Costs one evaluation for each
    condition and one for null. With the exact denoiser and independent conditions, all weights 1 mean "this and that".
    Raises ValueError unless conditions, null and weights fit together, and where a sampler passes one of the conditions as well.
    """
    if not conditions or len(conditions) != len(weights):
        raise ValueError(f"compose needs as many weights as conditions, at least one; got {len(conditions)} conditions and {len(weights)} weights")
    if not all(math.isfinite(w) for w in weights):
        raise ValueError(f"the weights must be finite; got {weights}")
    if not null or any(condition.keys() != null.keys() for condition in conditions):
        raise ValueError(f"null and every condition name the same things; got null with {sorted(null)} and conditions with {[sorted(c) for c in conditions]}")

    def composed(x: Tensor, t: Tensor, **others) -> Tensor:
        if null.keys() & others.keys():
            raise ValueError(f"compose has its own {', '.join(sorted(null))}; the sampler was called with another: leave it out there")
        plain = D(x, t, **others | null)
        return plain + sum(w * (D(x, t, **others | condition) - plain) for condition, w in zip(conditions, weights))
    return composed


def classifier_guidance(D: Denoise, schedule: Schedule, log_prob: Callable[..., Tensor], w: Weight = 1.0) -> Denoise:
    """x0_hat + w sigma^2 / alpha times the gradient of log p(y | x_t): what Bayes' rule adds to the guess. (Dhariwal & Nichol 2021, algorithm 1)

    log_prob: (x, t, **condition) -> (B,), differentiable in x, which sees noisy x. Conditions reach both D and log_prob: what one of
    them must not see is bound into the other. At w = 1, with everything exact, this is the conditional denoiser; w = 0 is no guidance.
    Raises ValueError where alpha = 0 (start below t = 1 there), for a w that is negative or not finite, and for a log_prob of another shape
    or without a gradient.
    """
    if not callable(w):
        checked_weight(w, none=0)

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        weight = checked_weight(w(t) if callable(w) else w, none=0)
        if (weight == 0).all():
            return D(x, t, **condition)
        factor = of_score(schedule, t)
        with torch.enable_grad():
            seen = x.detach().requires_grad_()
            push = gradient(log_prob(seen, t, **condition), seen)
        return D(x, t, **condition) + over(weight.to(factor.device) * factor, x) * push
    return guided


def of_score(schedule: Schedule, t: Tensor | float) -> Tensor:
    """sigma^2 / alpha: how much a gradient added to the score changes x0_hat, by Tweedie's formula; or one clear sentence."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if (alpha == 0).any():
        raise ValueError(f"a gradient moves x0_hat by sigma^2 / alpha, and alpha is 0 at t = {as_float64(t).max():.4g} of {schedule}: start below, "
                         "as grid(schedule, n, start=0.98) does")
    return sigma**2 / alpha


def gradient(value: Tensor, x: Tensor) -> Tensor:
    """Of value (B,), each entry by its own x (B, ...): like x. Raises ValueError where value is no such function of x."""
    if value.shape != x.shape[:1]:
        raise ValueError(f"one number for each example is needed, of shape ({len(x)},); got {tuple(value.shape)}: sum over all axes but the first")
    push = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    if push is None:
        raise ValueError("this function has no gradient with respect to x: it must depend on x, and neither run under torch.no_grad() nor detach x")
    return push


def threshold(D: Denoise, share: float = 0.995, least: float = 1.0) -> Denoise:
    """Dynamic thresholding: each guess is forced into [-s, s] and scaled to [-least, least]; s is its `share` quantile of |x0_hat|, at least `least`.

    least: the range of the data, above 0; share in (0, 1]. Strong guidance drives guesses out of the data's range; clipping makes them flat
    there, this keeps their shapes. Raises ValueError for another share or least. (Saharia et al. 2022)
    """
    if not (0 < share <= 1 and 0 < least < math.inf):
        raise ValueError(f"share is a quantile, above 0 and at most 1, and least the range of the data, above 0; got {share} and {least}")

    def scaled(x: Tensor, t: Tensor, **condition) -> Tensor:
        x0_hat = D(x, t, **condition)
        s = x0_hat.flatten(1).abs().float().quantile(share, dim=1).clamp(min=least)                 # (B,)
        return x0_hat.clamp(-over(s, x), over(s, x)) / over(s, x) * least
    return scaled


def clip(D: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Forces every number of a guess into [low, high], the range of the data; goes outside guidance: clip(cfg(D, 2.0, null))."""
    return lambda x, t, **condition: D(x, t, **condition).clamp(low, high)
