"""Ink styles: the same digits in eight styles, so that a style transfer has one known right answer.

STYLES names functions from MNIST's digits to digits in another style. A style classifier compares
statistics of a network's early feature maps, as Gatys et al. 2016 and Huang & Belongie 2017 do.
"""
import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ..evaluation.features import _validate_digits, digit_classifier, predict_digits
from ..storage import CHECKPOINTS, load_tensors
from .digits import mnist

# Each takes x (N, 1, 28, 28) in [-1, 1] and gives the same digits, (N, 1, 28, 28) in [-1, 1],
# without any chance. Raises TypeError or ValueError for other images.

def plain(x: Tensor) -> Tensor:
    """MNIST's own style."""
    return _validate_digits(x)


def _widest(x: Tensor, size: int) -> Tensor:
    """Max pooling with stride 1: the brightest pixel in each size x size square."""
    return F.max_pool2d(x, size, stride=1, padding=size // 2)


def thick(x: Tensor) -> Tensor:
    """Broad strokes: 3 x 3 max pooling."""
    return _widest(_validate_digits(x), 3)


def faint(x: Tensor) -> Tensor:
    """Half as bright."""
    return (_validate_digits(x) + 1) * 0.5 - 1


def outline(x: Tensor) -> Tensor:
    """The rim around the ink, without the ink."""
    x = _validate_digits(x)
    return (_widest(x, 3) - x - 1).clamp(-1, 1)


def inverse(x: Tensor) -> Tensor:
    """Black on white."""
    return -_validate_digits(x)


def shadow(x: Tensor) -> Tensor:
    """With a dark grey shadow, two pixels down and to the right."""
    x = _validate_digits(x)
    fallen = F.pad(x, (2, -2, 2, -2), value=-1.0)
    return torch.maximum(x, (fallen + 1) * 0.3 - 1)


def _every_fourth(x: Tensor, there: float, elsewhere: float) -> Tensor:
    """A factor for each row: (28, 1)."""
    rows = torch.full((x.shape[2], 1), elsewhere, dtype=x.dtype, device=x.device)
    rows[::4] = there
    return rows


def stripes(x: Tensor) -> Tensor:
    """Striped ink: every fourth row is faint."""
    x = _validate_digits(x)
    return (x + 1) * _every_fourth(x, 0.3, 1.0) - 1


def lined_paper(x: Tensor) -> Tensor:
    """On lined paper: a dim line behind the ink in every fourth row."""
    x = _validate_digits(x)
    return torch.maximum(x, _every_fourth(x, 0.3, 0.0) - 1)


STYLES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": plain,
    "faint": faint,
    "thick": thick,
    "outline": outline,
    "inverse": inverse,
    "shadow": shadow,
    "stripes": stripes,
    "paper": lined_paper,
}


def in_style(x: Tensor, style: Tensor) -> Tensor:
    """Each digit in its own style: x (N, 1, 28, 28), style (N,) indices into STYLES
    -> (N, 1, 28, 28).

    Raises TypeError or ValueError for other images, another number of styles than of digits, and
    for an index that no style has.
    """
    x, style = _validate_digits(x), validate.tensor(style, "style")
    if style.shape != (len(x),):
        raise ValueError(
            f"each digit needs one style; got {len(x)} digits and {style.numel()} styles"
        )
    strange = ~torch.isin(style, torch.arange(len(STYLES), device=style.device))
    if strange.any():
        raise ValueError(
            f"styles are numbered from 0 to {len(STYLES) - 1}; got {style[strange][0].item()}"
        )
    out = torch.empty_like(x)
    for k, draw in enumerate(STYLES.values()):
        if (chosen := style == k).any():
            out[chosen] = draw(x[chosen])
    return out


def styled(n: int, seed: int = 0, split: str = "train") -> tuple[Tensor, Tensor, Tensor]:
    """n digits of MNIST, each in one style: x (n, 1, 28, 28) in [-1, 1], y (n,), style (n,).

    Each style comes as nearly equally often as n allows, in random order; "train" and "test" are
    MNIST's own splits; no digit comes twice. Raises TypeError or ValueError for another split, or
    for more than there are.
    """
    x, y = mnist(split)
    n = validate.whole(n, "n", 1, len(x), f"of the digits in {split}")
    g = torch.Generator().manual_seed(validate.seed(seed))
    rows = torch.randperm(len(x), generator=g)[:n]
    style = torch.randperm(n, generator=g) % len(STYLES)
    return in_style(x[rows], style), y[rows], style


# ---- a judge of style

LAYERS = (2, 5)  # after the classifier's first two ReLUs, both at full size


def feature_statistics(x: Tensor) -> Tensor:
    """Mean and standard deviation of the digit classifier's first 64 feature maps: (N, 128).

    x: (N, 1, 28, 28); the statistics are over positions, so they do not depend on where the ink is.
    Differentiable. Raises TypeError or ValueError for images of another shape or dtype.
    (Gatys et al. 2016; Huang & Belongie 2017, AdaIN)
    """
    x = h = _validate_digits(x, math.inf)
    found = []
    for layer, module in enumerate(digit_classifier(x.device).body[:LAYERS[-1] + 1]):
        h = module(h)
        if layer in LAYERS:
            found += [h.mean((2, 3)), (h.var((2, 3), correction=0) + 1e-5).sqrt()]  # (N, 32) each
    return torch.cat(found, dim=1)


class StyleClassifier(NamedTuple):
    """style_features(x) = (feature_statistics(x) - mean) @ matrix, and the styles' centroids.

    mean (128,), matrix (128, 7), centroids (8, 7): the mean style features of each style
    """
    mean: Tensor
    matrix: Tensor
    centroids: Tensor


def fit_discriminants(s: Tensor, style: Tensor) -> StyleClassifier:
    """Fisher's linear discriminants of the styles: statistics s (N, 128), style (N,)
    -> StyleClassifier.

    All styles share one covariance around their own means; whitened by it, eight means span at most
    seven directions. Raises TypeError or ValueError where a row has no style, or a style no row.
    (Fisher 1936; Rao 1948)
    """
    s = validate.real(s, "s", ndim=2)
    if s.ndim != 2:
        raise ValueError(f"s must be statistics (N, 128); got {tuple(s.shape)}")
    style = validate.labels(style, len(s), len(STYLES), "style")
    if style.shape != (len(s),) or len(style.unique()) < len(STYLES):
        raise ValueError(f"style must be ({len(s)},), each of the {len(STYLES)} styles among them")
    mean, std = s.mean(0), s.std(0).clamp(min=1e-3)
    z = ((s - mean) / std).double()                                                     # (N, 128)
    means = torch.stack([z[style == k].mean(0) for k in range(len(STYLES))])            # (8, 128)
    within = torch.cov((z - means[style]).T) + 1e-3 * torch.eye(z.shape[1])
    white = torch.linalg.cholesky(torch.linalg.inv(within))  # white.T @ within @ white = I
    *_, directions = torch.linalg.svd((means - means.mean(0)) @ white, full_matrices=False)
    matrix = (white @ directions[:len(STYLES) - 1].T).float()                           # (128, 7)
    return StyleClassifier(mean, matrix / std[:, None], means.float() @ matrix)


@lru_cache
def style_classifier(device: str | torch.device = "cpu") -> StyleClassifier:
    """The shipped style classifier, fitted to training digits by tools/recipes/train_styles.py.

    Raises FileNotFoundError or OSError when its file is missing or damaged.
    """
    tensors, _ = load_tensors(CHECKPOINTS / "mnist_style_judge.safetensors")
    return StyleClassifier(*(tensors[name].to(device) for name in StyleClassifier._fields))


def style_features(x: Tensor) -> Tensor:
    """The discriminants of each image: (N, 1, 28, 28) -> (N, 7), standard deviation 1 within a
    style.

    Differentiable.
    """
    mean, matrix, _ = style_classifier(x.device)
    return (feature_statistics(x) - mean) @ matrix


@torch.no_grad()
def style_tokens(x: Tensor) -> Tensor:
    """Each image's style as one context token: (N, 1, 28, 28) -> (N, 1, 8).

    style_features / 10, then a 1 that tells it from "no style", which is all zeros.
    """
    f = torch.cat([style_features(part) for part in _validate_digits(x).split(200)]) / 10
    return torch.cat([f, torch.ones_like(f[:, :1])], dim=1)[:, None]


@torch.no_grad()
def style_of(x: Tensor) -> Tensor:
    """The style of each image, by the nearest centroid: (N, 1, 28, 28) -> (N,) indices into STYLES.
    """
    x = _validate_digits(x)
    return torch.cat(
        [
            torch.cdist(style_features(part), style_classifier(x.device).centroids).argmin(1)
            for part in x.split(200)
        ]
    )


# ---- transfers with a known answer

class Transfers(NamedTuple):
    """n tasks: draw `content` in the style of `example`, another digit.

    The right result is `answer`.

    content, example, answer: (n, 1, 28, 28); digit: the content as MNIST has it, (n, 1, 28, 28);
    y: (n,) its label; before, after: (n,) the styles of content and example, never equal
    """
    content: Tensor
    example: Tensor
    answer: Tensor
    digit: Tensor
    y: Tensor
    before: Tensor
    after: Tensor


def transfers(n: int = 100, seed: int = 0) -> Transfers:
    """n tasks from MNIST's test digits, the same for the same seed.

    Raises TypeError or ValueError for n outside 1 to 5,000.
    """
    n = validate.whole(n, "n", 1, 5000, "each task takes two of the 10,000 test digits")
    (x, y), g = mnist("test"), torch.Generator().manual_seed(validate.seed(seed))
    digit, other = torch.randperm(len(x), generator=g)[:2 * n].chunk(2)
    before = torch.randint(len(STYLES), (n,), generator=g)
    after = (before + torch.randint(1, len(STYLES), (n,), generator=g)) % len(STYLES)
    return Transfers(
        in_style(x[digit], before),
        in_style(x[other], after),
        in_style(x[digit], after),
        x[digit],
        y[digit],
        before,
        after,
    )


# bright ink where MNIST has it: the digit classifier reads more than 90 % of each
READABLE = ("plain", "faint", "thick", "shadow", "stripes", "paper")


def between(tasks: Transfers, names: tuple[str, ...] = READABLE) -> Tensor:
    """Which tasks lead from one of these styles to another of them: (n,) bool.

    Raises TypeError or ValueError for other names.
    """
    validate.instance(tasks, Transfers, "tasks", "transfers(8)")
    for name in validate.strings(names, "names"):
        validate.choice(name, "each of names", STYLES)
    numbers = torch.tensor([list(STYLES).index(name) for name in names])
    return torch.isin(tasks.before, numbers) & torch.isin(tasks.after, numbers)


def subset(tasks: Transfers, kept: Tensor | slice) -> Transfers:
    """Some of the tasks: kept (n,) bool, or a slice. Raises ValueError for another kept."""
    validate.instance(tasks, Transfers, "tasks", "transfers(8)")
    kept = kept if isinstance(kept, slice) else validate.tensor(kept, "kept")
    if not isinstance(kept, slice) and (kept.dtype, kept.shape) != (torch.bool, tasks.y.shape):
        raise ValueError(f"kept must be ({len(tasks.y)},) bool, or a slice")
    return Transfers(*(value[kept] for value in tasks))


@torch.no_grad()
def score(x: Tensor, tasks: Transfers) -> dict[str, float]:
    """Scores of results x (n, 1, 28, 28) of `tasks`, by name:

    style: the fraction that the style classifier assigns to the style of the example
    error: the mean squared distance of a pixel to the right answer
    found: the fraction whose nearest image, among all n digits in the style asked for, is the right
           answer (chance 1 / n)
    read:  the fraction that the digit classifier assigns to the content's label, over the tasks
           that lead to a READABLE style; nan if none does

    Raises TypeError or ValueError for other images, and another number of results than of tasks.
    """
    validate.instance(tasks, Transfers, "tasks", "transfers(100)")
    x, n = _validate_digits(x, math.inf).clamp(-1, 1), len(tasks.digit)
    if len(x) != n:
        raise ValueError(f"one result is wanted for each of the {n} tasks; got {len(x)}")
    nearest = torch.empty(n, dtype=torch.long)  # the row of the nearest digit
    for k in tasks.after.unique():
        # (n, 784): every digit in this style
        rivals = in_style(tasks.digit, k.expand(n)).flatten(1)
        asked = tasks.after == k
        nearest[asked] = torch.cdist(
            x[asked].flatten(1), rivals, compute_mode="donot_use_mm_for_euclid_dist"
        ).argmin(1)
    readable = torch.isin(
        tasks.after, torch.tensor([list(STYLES).index(name) for name in READABLE])
    )
    share = lambda right: right.double().mean().item()
    return {
        "style": share(style_of(x) == tasks.after),
        "error": (x - tasks.answer).square().mean().item(),
        "found": share(nearest == torch.arange(n)),
        "read": share((predict_digits(x) == tasks.y)[readable]),
    }
