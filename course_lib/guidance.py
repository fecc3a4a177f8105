"""Wrappers: denoiser -> denoiser.

Each changes the prediction x0_hat and leaves the sampler alone.
"""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import validate
from .schedules import Schedule, append_dims, as_float64, validate_schedule

Denoise = Callable[..., Tensor]
Scale = float | Tensor | Callable[[Tensor], float | Tensor]


def cfg(D: Denoise, scale: Scale, null: dict, rescale: float = 0.0) -> Denoise:
    """Classifier-free guidance: D(null) + scale * (D(condition) - D(null)). (Ho & Salimans 2022)

    scale:   1 is no guidance (the plain conditional model), 0 ignores the condition, above 1
             exaggerates it; a number, (B,), or a function of t such as `guidance_interval`
    null:    the conditions that mean "none", such as {"y": 10}; a negative prompt is another null
    rescale: phi in [0, 1], how far each prediction gets the standard deviation of the conditional
             one back (Lin et al. 2023, eq. 15 and 16)

    Raises ValueError for a scale that is negative or not finite, another rescale, an empty null,
    and a null that names a condition which is not passed.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    if not null or not isinstance(null, dict):
        raise (ValueError if isinstance(null, dict) else TypeError)(
            'cfg needs to know what "no condition" is: pass null, such as {"y": 10} '
            "for the label of a network with num_classes = 10"
        )
    validate.number(rescale, "rescale", 0, 1)

    def unconditional(x: Tensor, t: Tensor, **condition) -> Tensor:
        return D(x, t, **condition | null)
    extrapolated = _extrapolate(unconditional, D, scale, rescale)

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        if null.keys() - condition.keys():
            missing = ", ".join(sorted(null.keys() - condition.keys()))
            raise ValueError(
                f"null names {missing}, but no {missing} was passed that guidance could lead to: "
                f"call the sampler with {missing}=..., or use D itself"
            )
        return extrapolated(x, t, **condition)
    return as_wrapper(guided, D)


def autoguidance(D: Denoise, D_weak: Denoise, scale: Scale) -> Denoise:
    """D_weak + scale * (D - D_weak), both under the same condition.

    (Karras et al. 2024, autoguidance)

    D_weak: a smaller or less trained model of the same data; scale as in `cfg`, whose weak model is
    D itself without the condition. Raises ValueError for a scale that is negative or not finite.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate.function(D_weak, "D_weak", "(x, t, **condition) -> x0_hat")
    if isinstance(getattr(D_weak, "schedule", None), Schedule):
        validate_schedule(D, D_weak.schedule)
    return as_wrapper(_extrapolate(D_weak, D, scale), D)


def as_wrapper(wrapped: Denoise, D: Denoise) -> Denoise:
    """A wrapper of D, which has D's schedule, if D has one: samplers compare it with theirs."""
    validate.function(wrapped, "a wrapper", "(x, t, **condition) -> x0_hat")
    if isinstance(getattr(D, "schedule", None), Schedule):
        wrapped.schedule = D.schedule
    return wrapped


def _extrapolate(D_weak: Denoise, D: Denoise, scale: Scale, rescale: float = 0.0) -> Denoise:
    """(1 - scale) D_weak + scale D; at scale 1 D alone, which costs one evaluation."""
    if not callable(scale):
        _validate_scale(scale)

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        weight = _validate_scale(scale(t) if callable(scale) else scale)
        if weight.ndim > 1 or weight.ndim and len(weight) not in (1, len(x)):
            raise ValueError(
                f"the guidance weight is one number, or ({len(x)},); got {tuple(weight.shape)}"
            )
        if (weight == 1).all():
            return D(x, t, **condition)
        low = validate.prediction(D_weak(x, t, **condition), x)
        high = validate.prediction(D(x, t, **condition), x)
        mixed = torch.lerp(low, high, append_dims(weight, x))
        if rescale == 0:
            return mixed
        rescaled = mixed * append_dims(_std_ratio(high, mixed), x)
        return torch.lerp(mixed, rescaled, rescale)
    return guided


def _std_ratio(a: Tensor, b: Tensor) -> Tensor:
    """std(a) / std(b), per example: (B, ...) -> (B,); 1 where b is constant."""
    wanted, found = (x.flatten(1).std(dim=1, correction=0) for x in (a, b))
    return torch.where(found > 1e-4 * wanted, wanted / found, 1.0)


def _validate_scale(scale: float | Tensor, none: int = 1) -> Tensor:
    """A guidance scale as a tensor, () or (B,). none: the scale that is no guidance.

    Raises ValueError for a scale that is negative or not finite.
    """
    weight = validate.tensor(scale, "a guidance weight", torch.float64)
    fine = (weight >= 0) & weight.isfinite()
    if not fine.all():
        wrong = weight[~fine].flatten()[0].item()
        raise ValueError(
            f"a guidance weight is a finite number, 0 or more, where {none} is no guidance; got "
            f"{wrong}"
        )
    return weight


def guidance_interval(
    scale: float, low: float, high: float, outside: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """A scale for cfg: `scale` where low <= t <= high, elsewhere 1. (Kynkäänniemi et al. 2024)

    1 is no guidance and costs half. For classifier_guidance, where 0 is no guidance, take
    outside=0.
    Returns a function of t, () or (B,), of t's shape. Raises ValueError for a scale that is
    negative or not finite, and unless 0 <= low < high <= 1.
    """
    validate.number(scale, "scale", 0, what="the guidance weight inside")
    validate.number(outside, "outside", 0)
    for name, value in (("low", low), ("high", high)):
        validate.number(value, name)
    if not 0 <= low < high <= 1:
        raise ValueError(
            "an interval of guidance has 0 <= low < high <= 1, in t (0 is data); "
            f"got low = {low}, high = {high}"
        )

    def scale_of(t: Tensor) -> Tensor:
        t = as_float64(t)
        return torch.where((t >= low) & (t <= high), as_float64(scale), as_float64(outside))
    return scale_of


def compose_conditions(
    D: Denoise, conditions: list[dict], null: dict, weights: list[float]
) -> Denoise:
    """Several conditions at once: D(null) + sum_i w_i (D(condition_i) - D(null)). (Liu et al. 2022)

    conditions: dicts such as {"y": 3}; weights: a finite number for each, negative for "not this".
    Costs one evaluation for each condition and one for null. With the exact denoiser and
    independent conditions, all weights 1 mean "this and that".
    Raises ValueError unless conditions, null and weights fit together, and where a sampler passes
    one of the conditions as well.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    if isinstance(conditions, dict) or not all(isinstance(c, dict) for c in (null, *conditions)):
        raise TypeError(
            "conditions must be a list of dicts such as [{'y': 3}, {'y': 5}], and null a dict"
        )
    weights = validate.tensor(weights, "weights", torch.float64).tolist()
    if not conditions or not isinstance(weights, list) or len(conditions) != len(weights):
        raise ValueError(
            "compose_conditions needs as many weights as conditions, at least one; "
            f"got {len(conditions)} conditions and weights {weights}"
        )
    if not all(math.isfinite(w) for w in weights):
        raise ValueError(f"the weights must be finite; got {weights}")
    if not null or any(condition.keys() != null.keys() for condition in conditions):
        raise ValueError(
            "null and every condition name the same things; got null with "
            f"{sorted(null)} and conditions with {[sorted(c) for c in conditions]}"
        )

    def composed(x: Tensor, t: Tensor, **others) -> Tensor:
        if null.keys() & others.keys():
            raise ValueError(
                f"compose_conditions has its own {', '.join(sorted(null))}; "
                "the sampler was called with another: leave it out there"
            )
        base = validate.prediction(D(x, t, **others | null), x)
        terms = (w * (D(x, t, **others | c) - base) for c, w in zip(conditions, weights))
        return base + sum(terms)
    return as_wrapper(composed, D)


def classifier_guidance(
    D: Denoise, schedule: Schedule, log_prob: Callable[..., Tensor], scale: Scale = 1.0
) -> Denoise:
    """x0_hat + scale * sigma^2 / alpha * grad_x log p(y | x_t).

    (Dhariwal & Nichol 2021, algorithm 1)

    log_prob: (x, t, **condition) -> (B,), differentiable in x, of noisy x. Conditions go to both D
    and log_prob; use functools.partial for one that only one of them takes.
    scale: 1 is Bayes' rule, which gives the conditional denoiser where everything is exact; 0 is
    none.

    Raises ValueError where alpha = 0 (start below t = 1 there), for a scale that is negative or not
    finite, and for a log_prob of another shape or without a gradient.
    """
    validate_classifier(D, schedule, log_prob)
    if not callable(scale):
        _validate_scale(scale, none=0)

    def guided(x: Tensor, t: Tensor, **condition) -> Tensor:
        weight = _validate_scale(scale(t) if callable(scale) else scale, none=0)
        if (weight == 0).all():
            return D(x, t, **condition)
        factor = score_to_x0(schedule, t)
        with torch.inference_mode(False), torch.enable_grad():
            x_in = x.clone().detach().requires_grad_()
            grad = per_example_grad(log_prob(x_in, t, **condition), x_in)
        x0_hat = D(x, t, **condition)
        return x0_hat + append_dims(weight.to(factor.device) * factor, x) * grad
    return as_wrapper(guided, D)


def validate_classifier(D: Denoise, schedule: Schedule, log_prob: Callable) -> None:
    """D and log_prob are functions, and schedule is one."""
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate_schedule(D, schedule)
    validate.function(log_prob, "log_prob", "(x, t, **condition) -> (B,)")


def score_to_x0(schedule: Schedule, t: Tensor | float) -> Tensor:
    """sigma^2 / alpha: the change of x0_hat for a change of the score, by Tweedie's formula.

    Raises ValueError where alpha = 0.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if (alpha == 0).any():
        raise ValueError(
            "a gradient moves x0_hat by sigma^2 / alpha, and alpha is 0 at "
            f"t = {as_float64(t).max():.4g} of {schedule}: start below, "
            "as timesteps(schedule, n, start=0.98) does"
        )
    return sigma**2 / alpha


def per_example_grad(value: Tensor, x: Tensor) -> Tensor:
    """The gradient of each entry of value (B,) by its own example x (B, ...): like x.

    Raises ValueError where value has another shape or does not depend on x.
    """
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        raise ValueError(
            f"one number for each example is needed, of shape ({len(x)},); "
            f"got {tuple(getattr(value, 'shape', ())) or value!r}: sum over all axes but the first"
        )
    grad = None
    if value.requires_grad:
        grad = torch.autograd.grad(value.sum(), x, allow_unused=True)[0]
    if grad is None:
        raise ValueError(
            "this function has no gradient with respect to x: it must depend on x, "
            "and neither run under torch.no_grad() nor detach x"
        )
    validate.finite(grad, "the gradient of this function with respect to x")
    return grad


def threshold(D: Denoise, quantile: float = 0.995, data_range: float = 1.0) -> Denoise:
    """Dynamic thresholding: clip x0_hat to [-s, s], then divide by s. (Saharia et al. 2022)

    s is the quantile of |x0_hat| within each example, at least data_range; the result lies in
    [-data_range, data_range]. Strong guidance drives predictions out of the data's range, where
    clipping makes them constant; this keeps their contrast.
    quantile in (0, 1], data_range above 0. Raises ValueError for others.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    quantile = validate.number(quantile, "quantile", 0, 1, above=True)
    data_range = validate.number(data_range, "data_range", 0, above=True)

    def thresholded(x: Tensor, t: Tensor, **condition) -> Tensor:
        x0_hat = validate.prediction(D(x, t, **condition), x)
        sizes = x0_hat.flatten(1).abs().float()
        s = append_dims(sizes.quantile(quantile, dim=1).clamp(min=data_range), x)   # (B, 1, ...)
        return x0_hat.clamp(-s, s) / s * data_range
    return as_wrapper(thresholded, D)


def clip(D: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clip x0_hat to [low, high], the range of the data; outside guidance: clip(cfg(D, 2.0, null)).

    Raises ValueError unless low < high.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    if not validate.number(low, "low") < validate.number(high, "high"):
        raise ValueError(f"low must be below high; got {low} and {high}")

    def clipped(x: Tensor, t: Tensor, **condition) -> Tensor:
        return validate.prediction(D(x, t, **condition), x).clamp(low, high)
    return as_wrapper(clipped, D)
