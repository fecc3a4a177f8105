"""What is examined before a model is released: copies, membership, skew, and what was erased."""
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ... import validate
from ...denoiser import Denoiser
from ...guidance import Denoise, as_wrapper
from ...schedules import Schedule, append_dims, as_float64

# ---- copies

def pair_correlation(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of each pair of pictures over their pixels: (N, ...) twice -> (N,) float64.

    1 for equal pictures, also after a change of contrast; about 0 for unrelated ones of mean 0.
    Raises TypeError or ValueError for other shapes, and constant pictures.
    """
    a = validate.real(a, "a", ndim=2)
    b = validate.real(b, "b", like=a, ndim=2)
    parts = [as_float64(x).flatten(1) for x in (a, b)]
    parts = [x - x.mean(1, keepdim=True) for x in parts]
    sizes = [x.norm(dim=1) for x in parts]
    if min(size.min() for size in sizes) == 0:
        raise ValueError("a picture of one colour correlates with nothing")
    return (parts[0] * parts[1]).sum(1) / (sizes[0] * sizes[1])


def nearest(x: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest training example, and its index: (N, ...), (M, ...) -> (N,), (N,).

    Euclidean, over all pixels. Raises TypeError or ValueError where shapes do not match.
    """
    x = validate.real(x, "x", ndim=2).flatten(1)
    training = validate.real(training, "training", ndim=2).flatten(1)
    if x.shape[1] != training.shape[1]:
        raise ValueError(f"examples have {x.shape[1]} numbers, the training {training.shape[1]}")
    found = [torch.cdist(part, training).min(1) for part in x.split(250)]
    return torch.cat([d for d, _ in found]), torch.cat([k for _, k in found])


def copy_threshold(held_out: Tensor, level: float = 0.01) -> float:
    """The distance below which a sample counts as a near-copy: the quantile of what real, held-out
    examples have to the training set, (N,). By chance a real example lies below with probability
    `level`: count on other held-out examples.

    Raises TypeError or ValueError for a level outside (0, 1), and fewer than 1 / level examples.
    """
    held_out = validate.real(held_out, "held_out")
    level = validate.number(level, "level", 0, 1, above=True)
    if len(held_out) * level < 1:
        raise ValueError(f"a quantile of {level} needs {math.ceil(1 / level)} held-out distances")
    return as_float64(held_out).quantile(level).item()


# ---- membership

def auc(positive: Tensor, negative: Tensor) -> float:
    """The area under the ROC curve: the probability that a positive scores above a negative, ties
    counted half. (Mann & Whitney 1947)   positive: (N,), negative: (M,)

    Raises TypeError or ValueError for empty sets.
    """
    positive = as_float64(validate.real(positive, "positive")).flatten()
    negative = as_float64(validate.real(negative, "negative")).flatten().sort().values
    below = torch.searchsorted(negative, positive.contiguous())
    up_to = torch.searchsorted(negative, positive.contiguous(), right=True)
    return ((below + up_to).double().mean() / (2 * len(negative))).item()


def auc_error(value: float, positives: int, negatives: int) -> float:
    """The standard error of an AUC. (Hanley & McNeil 1982)"""
    A = validate.number(value, "value", 0, 1)
    n = validate.whole(positives, "positives")
    m = validate.whole(negatives, "negatives")
    q1, q2 = A / (2 - A), 2 * A**2 / (1 + A)
    variance = A * (1 - A) + (n - 1) * (q1 - A**2) + (m - 1) * (q2 - A**2)
    return math.sqrt(max(variance, 0.0) / (n * m))


class Attack(NamedTuple):
    """A membership test at one threshold: its two rates, and the threshold."""
    true_positives: float
    false_positives: float
    threshold: float


def membership_test(
    members: Tensor, others: Tensor, calibration: Tensor, level: float = 0.01
) -> Attack:
    """Says "member" where a score is above a threshold, which is fixed on other non-members: the
    quantile 1 - level of `calibration`.

    members (N,), others (M,), calibration (K,): scores, higher means member; others and calibration
    are disjoint non-members. Raises TypeError or ValueError for a level outside (0, 1), and fewer
    than 1 / level scores for calibration.
    """
    scores = [validate.real(x, name).double().flatten() for x, name in
              ((members, "members"), (others, "others"), (calibration, "calibration"))]
    threshold = -copy_threshold(-scores[2], level)
    rates = [(x > threshold).double().mean().item() for x in scores[:2]]
    return Attack(*rates, threshold)


def membership_scores(loss: Tensor, reference: Tensor | None = None) -> Tensor:
    """A score for each example, higher for members: minus the model's loss, plus that of a
    reference model which never saw the example, where there is one. (Watson et al. 2022)

    The reference says how hard an example is for anyone. loss, reference: (N,).
    """
    loss = validate.real(loss, "loss")
    if reference is None:
        return -loss
    return validate.real(reference, "reference", like=loss) - loss


@torch.no_grad()
def mean_loss(
    D: Denoiser,
    x0: Tensor,
    times: list[float],
    draws: int = 4,
    seed: int = 0,
    batch_size: int = 500,
) -> Tensor:
    """A denoiser's loss of each example, a mean over noise levels and draws: (N, ...) -> (N,).

    Every example gets the same noises, and so does every model with the same seed: differences of
    losses are then paired. Raises TypeError or ValueError as `Denoiser.loss` does.
    """
    x0, parts = validate.real(x0, "x0", ndim=2), []
    validate.whole(draws, "draws")
    g = torch.Generator().manual_seed(validate.seed(seed))
    noises = torch.randn((len(times), draws, *x0.shape[1:]), generator=g)
    for part in x0.split(batch_size):
        total = torch.zeros(len(part))
        for t, row in zip(times, noises):
            for eps in row:
                t_all = torch.full((len(part),), float(t))
                total += D.loss(part, t_all, eps.expand_as(part))
        parts.append(total / (len(times) * draws))
    return torch.cat(parts)


# ---- skew

def tempered_share(p: float, p_given: float, scale: float) -> float:
    """The share of an attribute under p(a)^(1 - w) p(a | prompt)^w, normalised over "yes" and "no".

    p: its share in all data, p_given: under the prompt, in (0, 1); scale: w. Guidance follows this
    formula where an attribute is decided at one noise level; in general it does not (lesson 5).
    """
    p = _open(p, "p")
    p_given = _open(p_given, "p_given")
    w = validate.number(scale, "scale", 0)
    logit = lambda q: math.log(q / (1 - q))
    return 1 / (1 + math.exp(-((1 - w) * logit(p) + w * logit(p_given))))


def _open(value: float, name: str) -> float:
    value = validate.number(value, name, 0, 1)
    if value in (0, 1):
        raise ValueError(f"{name} must lie between 0 and 1, and be neither; got {value}")
    return value


# ---- erasure

def erasure_target(D: Denoise, null: dict, strength: float = 1.0) -> Denoise:
    """What an erased concept should predict: D(null) - strength * (D(concept) - D(null)).

    (Gandikota et al. 2023, ESD) The frozen model, guided away from the concept; strength 0
    is the prediction without a condition. Raises TypeError or ValueError for a strength below 0.
    """
    validate.function(D, "D", "(x, t, **condition) -> x0_hat")
    validate.instance(null, dict, "null", '{"y": 10}')
    strength = validate.number(strength, "strength", 0)

    def target(x: Tensor, t: Tensor, **condition) -> Tensor:
        without = D(x, t, **condition | null)
        return without - strength * (D(x, t, **condition) - without)
    return as_wrapper(target, D)


def matching_loss(
    wanted: Callable, schedule: Schedule
) -> Callable[[torch.nn.Module, dict], Tensor]:
    """A loss for `train.train`: how far a denoiser's predictions are from others, at noised data.

    wanted: (x, t, y) -> x0_hat, which needs no gradient. The loss is the squared difference over
    sigma^2, at least 0.05^2: that of v-predictions. Its batch has x0, t, eps and y.
    """
    validate.function(wanted, "wanted", "(x, t, y) -> x0_hat")

    def loss(model: torch.nn.Module, batch: dict) -> Tensor:
        x_t = schedule.perturb(batch["x0"], batch["t"], batch["eps"])
        with torch.no_grad():
            target = wanted(x_t, batch["t"], batch["y"])
        sigma = append_dims(schedule.sigma(batch["t"]).clamp(min=0.05), x_t)
        error = (model(x_t, batch["t"], y=batch["y"]) - target) / sigma
        return error.square().flatten(1).mean(1)
    return loss
