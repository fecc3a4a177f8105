"""Lesson 7's applications, measured on digits, on one core.

    python benchmarks/lesson7_applications.py all
    python benchmarks/lesson7_applications.py super-resolution | classifier | labels | generations
                                              | anomaly
    python benchmarks/lesson7_applications.py labels --n 20 --out /tmp/trial

Tables and pictures go to course_lib/assets/lesson7_*.csv and .npz. A row is written when it is
measured, and one that is there is not measured again: the same command goes on where it was
stopped (a chain of generations is measured as a whole; longer trainings are kept in runs/). --n is
the size of a test set, 500; with a smaller one everything is smaller in proportion, trainings too,
and --out must name another folder. All together takes about 25 minutes of an idle core.

super-resolution   28 x 28 from 7 x 7 with noise: bicubic, the shortest answer, a network that
                   regresses, one conditioned by concatenation, lesson 5's PiGDM and DPS
classifier         the class-conditional model as a classifier, beside ordinary ones, under shift;
                   and with noises that the classes share or do not
labels             classifiers from 50 labels a class and synthetic digits; five seeds
generations        a model trained on its own samples, again and again; three seeds
anomaly            what likelihood and four other scores say of pictures that are no digits
"""
import argparse
import contextlib
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common.growing_table import Table
from PIL import Image
from torch import Tensor, nn

from course_lib import Denoiser, Schedule, UNet, ancestral, clip, dpmpp, last, sde, timesteps
from course_lib.editing import dps, pigdm
from course_lib.lab import data, features, metrics, sampling, storage, styles, train
from course_lib.lab.evaluation.small_sets import nearest_ratio
from course_lib.schedules import randn_like

sys.path.insert(0, str(Path(__file__).parents[1] / "tools/recipes"))
from train_classifier import augment  # noqa: E402

FULL = 500                                                  # --n of the shipped tables
WIDTHS = (16, 32)                                           # of mnist_small and all that is trained
COSINE = Schedule.cosine()
Pair = tuple[Tensor, Tensor]                                # pictures (N, 1, 28, 28), labels (N,)


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run, in proportion to those of the shipped tables, and its folder."""
    n: int = FULL
    out: Path = storage.ASSETS

    def of(self, count: int, least: int = 10) -> int:
        """`count` of a full run, in this one."""
        return max(least, round(count * self.n / FULL))

    def file(self, name: str) -> Path:
        return self.out / f"lesson7_{name}"


def keep_pictures(file: Path, **pictures: Tensor) -> None:
    """Add pictures (N, 1, 28, 28) in [-1, 1], by name, to an .npz file of bytes (N, 28, 28)."""
    kept = {}
    if file.exists():
        with np.load(file) as stored:
            kept = dict(stored)
    kept |= {name: to_bytes(x)[:, 0].numpy() for name, x in pictures.items()}
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, **kept)
    os.replace(partial, file)


def to_bytes(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(model: nn.Module, examples, **options) -> nn.Module:
    """Train without a word; with run_name a finished training is loaded, not repeated."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = train.train(model, examples, device="cpu", **options)
    if not model.done:
        raise SystemExit("stopped: the same command goes on")
    return model


def paired_interval(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean of a - b, (n,) each, of the same n examples, and half its 95 % interval."""
    difference = a.double() - b.double()
    return difference.mean().item(), (1.96 * difference.std() / len(difference) ** 0.5).item()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of (n,) numbers and its standard error."""
    values = values.double()
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


@lru_cache
def reference() -> Tensor:
    """Features of the last 4,000 test digits, (4000, 128); no table tests on them."""
    return features.digit_features(data.mnist("test")[0][6000:])


def seen(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the digit classifier sees in x (N, 1, 28, 28): features (N, 128), digits (N,)."""
    z = features.digit_features(x.clamp(-1, 1))
    return z, features.digit_classifier("cpu").head(z.float()).argmax(1)


# ---- super-resolution: y (N, 1, 7, 7) = mean of 4 x 4 pixels + NOISE z

NOISE = 0.05
DRAWS = 8                                                   # of the conditional model


def measure(x: Tensor) -> Tensor:
    """Means of 4 x 4 pixels: (N, 1, 28, 28) -> (N, 1, 7, 7)"""
    return F.avg_pool2d(x, 4)


def measured(x: Tensor, generator: torch.Generator) -> Tensor:
    """A noisy measurement of x: (N, 1, 28, 28) -> (N, 1, 7, 7)"""
    clean = measure(x)
    return clean + NOISE * randn_like(clean, generator)


def enlarged(y: Tensor) -> Tensor:
    """Bicubic: (N, 1, 7, 7) -> (N, 1, 28, 28)"""
    return F.interpolate(y, scale_factor=4, mode="bicubic").clamp(-1, 1)


def shortest(y: Tensor) -> Tensor:
    """A^T (A A^T + s^2 I)^-1 y (lesson 5, 5.17): (N, 1, 7, 7) -> (N, 1, 28, 28)"""
    A = measurement_matrix()
    ridge = torch.linalg.solve(A @ A.T + NOISE**2 * torch.eye(len(A)), A)       # (49, 784)
    return (y.flatten(1) @ ridge).view(-1, 1, 28, 28).clamp(-1, 1)


def measurement_matrix() -> Tensor:
    """A with measure(x) = A x: (49, 784)"""
    return measure(torch.eye(784).view(784, 1, 28, 28)).flatten(1).T


def with_extra_channel(net: UNet) -> UNet:
    """mnist_small's network with one more channel of input, whose weights begin at zero: at first
    it computes what it did before.
    """
    wider = UNet(**net.config | {"extra_channels": 1})
    weights = net.state_dict()
    old, new = weights["stem.weight"], wider.stem.weight                # (C, 4, ...), (C, 8, ...)
    weights["stem.weight"] = torch.cat([old, torch.zeros_like(new[:, old.shape[1] :])], 1)
    wider.load_state_dict(weights)
    return wider


class Regression(nn.Module):
    """The same network trained to give the clean digit at once, from the measurement alone: its
    ideal is the posterior's mean.
    """

    def __init__(self, net: UNet):
        super().__init__()
        self.net = net

    def forward(self, extra: Tensor) -> Tensor:
        """The enlarged measurement (N, 1, 28, 28) -> like it"""
        return self.net(torch.zeros_like(extra), torch.zeros(len(extra)), extra=extra)

    def loss(self, x0: Tensor, extra: Tensor) -> Tensor:
        """Mean squared error of each example: (B,)"""
        return (self(extra) - x0).square().flatten(1).mean(1)


def trained_on_pairs(model: nn.Module, name: str, sizes: Sizes) -> nn.Module:
    """Trained on digits and fresh measurements of them, 64,000 pairs."""
    def draw(batch: dict, generator: torch.Generator) -> dict:
        return batch | {"extra": enlarged(measured(batch["x0"], generator))}
    options = {"steps": sizes.of(500), "batch_size": 128, "lr": 2e-3, "run_name": f"lesson7_{name}"}
    return trained(model, {"x0": data.mnist("train")[0]}, draw=draw, **options)


def conditional_draws(D: Denoiser, y: Tensor, draws: int) -> Tensor:
    """Answers in 20 steps of DPM-Solver++: (draws, N, 1, 28, 28)"""
    extra, start = enlarged(y), torch.randn((draws, len(y), 1, 28, 28), generator=seeded(1))
    ts = timesteps(COSINE, 20)
    solve = lambda x, e: last(dpmpp(clip(D), COSINE, x, ts, extra=e))
    parts = [[solve(*part) for part in zip(x.split(500), extra.split(500))] for x in start]
    return torch.stack([torch.cat(part) for part in parts]).clamp(-1, 1)


def guided_draws(guide: Callable[[Tensor], Callable], y: Tensor, draws: int) -> Tensor:
    """Answers of lesson 5's samplers, 20 ancestral steps: (draws, N, 1, 28, 28)

    guide: measurements (B, 49) -> a denoiser that is guided by them
    """
    ts, answers = timesteps(COSINE, 20, start=0.99), []
    for seed in range(draws):
        g, parts = seeded(seed), []
        for part in y.flatten(1).split(250):
            x = torch.randn((len(part), 1, 28, 28), generator=g)
            parts.append(last(ancestral(clip(guide(part)), COSINE, x, ts, generator=g)))
        answers.append(torch.cat(parts).clamp(-1, 1))
    return torch.stack(answers)


def averages(x: Tensor, k: int) -> Tensor:
    """Means of k draws: (K, ...) -> (K / k, ...)"""
    return x.view(len(x) // k, k, *x.shape[1:]).mean(1)


def half_gap(x: Tensor) -> Tensor:
    """Half the mean squared difference of two draws, for each digit: (K, N, ...) -> (N,)

    The draws' variance, a mean over pixels: with K draws the divisor is K - 1.
    """
    return x.var(0).flatten(1).mean(1)


def judged(x: Tensor, truth: Tensor, y: Tensor, labels: Tensor) -> dict:
    """Scores of answers x (K, N, 1, 28, 28): distortion, measurement, realism, the digit."""
    error = (x - truth).square().flatten(2).mean(2).mean(0)             # (N,)
    mse, mse_se = mean_and_error(error)
    looks = [seen(part) for part in x[:2]]                              # features take time
    distances = torch.tensor([metrics.frechet_distance(z, reference()) for z, _ in looks])
    right = torch.stack([found == labels for _, found in looks])
    gap = mean_and_error(half_gap(x)) if len(x) > 1 else (None, None)
    return {
        "n": len(truth),
        "draws": len(x),
        "mse": mse,
        "mse_se": mse_se,
        "half_gap": gap[0],
        "half_gap_se": gap[1],
        "residual": ((measure(x.flatten(0, 1)) - y.repeat(len(x), 1, 1, 1)) / NOISE)
        .square().mean().sqrt(),
        "right": right.double().mean(),
        "right_se": right.double().mean(0).std() / len(truth) ** 0.5,
        "frechet": distances.mean(),
        "frechet_gap": (distances.max() - distances.min()) if len(x) > 1 else None,
    }


def super_resolution(sizes: Sizes) -> None:
    table = Table(sizes.file("super_resolution.csv"), "method")
    n = sizes.of(500)
    digits, labels = data.mnist("test")
    truth, labels = digits[:n], labels[:n]
    y = measured(truth, seeded(7))                                      # (n, 1, 7, 7)
    small, A = train.load("mnist_small", "cpu"), measurement_matrix()
    flat = lambda x: measure(x).flatten(1)

    def regressed() -> Tensor:
        model = trained_on_pairs(Regression(with_extra_channel(small.net)), "regression", sizes)
        with torch.no_grad():
            return model(enlarged(y))[None].clamp(-1, 1)

    def concatenated() -> Tensor:
        D = Denoiser(with_extra_channel(small.net), COSINE, "v")
        return conditional_draws(trained_on_pairs(D, "concatenation", sizes), y, DRAWS)
    methods = {
        "another digit": lambda: digits[n : 4 * n].view(3, n, 1, 28, 28),
        "bicubic": lambda: enlarged(y)[None],
        "shortest": lambda: shortest(y)[None],
        "regression": regressed,
        "PiGDM": lambda: guided_draws(lambda m: pigdm(small, COSINE, A, m, NOISE, 0.5), y, 2),
        "DPS": lambda: guided_draws(lambda m: dps(small, COSINE, flat, m, 50.0), y, 2),
        "concatenation": concatenated,
    }
    for name, answer in methods.items():
        if (name,) in table:
            continue
        torch.manual_seed(0)
        x = answer()
        keep_pictures(sizes.file("super_resolution.npz"), truth=truth[:60], **{name: x[0, :60]})
        if name == "concatenation":
            keep_pictures(sizes.file("super_resolution.npz"), draws=x[:, :60].flatten(0, 1))
            for k in (2, 4, 8):
                if (f"mean of {k}",) not in table:
                    scores = judged(averages(x, k), truth, y, labels)
                    table.add(method=f"mean of {k}", **scores)
        table.add(method=name, **judged(x, truth, y, labels))


# ---- the class-conditional model as a classifier

LOOKS = 8                                                   # noises, each at a time of its own


def class_losses(D: Denoiser, x: Tensor, looks: int, seed: int = 0, shared: bool = True) -> Tensor:
    """The denoiser's loss of each digit under each label and noise: (N, classes, looks)

    x: (N, 1, 28, 28); the times are even in (0, 1), the same for all. shared: the classes of a
    digit have the same noises; else each has its own.
    """
    g, classes, losses = seeded(seed), D.net.num_classes, []
    for j in range(looks):
        t = torch.full((len(x),), (j + 0.5) / looks)
        eps = torch.randn((1 if shared else classes, *x.shape), generator=g)
        for y, noise in enumerate(eps.expand(classes, *x.shape)):
            with torch.no_grad():
                losses.append(D.loss(x, t, noise, y=torch.full((len(x),), y)))
    return torch.stack(losses, 1).view(len(x), looks, classes).transpose(1, 2)


def generative_class(D: Denoiser, x: Tensor, looks: int, shared: bool = True) -> Tensor:
    """The label with the smallest loss: (N,)"""
    parts = [class_losses(D, part, looks, seed, shared) for seed, part in enumerate(x.split(100))]
    return torch.cat(parts).sum(2).argmin(1)


@torch.no_grad()
def noise_aware_class(x: Tensor, looks: int | None) -> Tensor:
    """The label by the classifier of noisy digits: (N,)

    looks: noises at the times of `class_losses`, whose log-probabilities are added; None: the
    digit as it is, with a little noise at t = 0.02
    """
    net, g = features.noisy_digit_classifier("cpu"), seeded(0)
    times = [0.02] if looks is None else [(j + 0.5) / looks for j in range(looks)]
    total = 0.0
    for t in times:
        x_t = COSINE.perturb(x, t, torch.randn(x.shape, generator=g))
        total = total + net(x_t, torch.full((len(x),), t)).log_softmax(1)
    return total.argmax(1)


def shifts() -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to test digits (N, 1, 28, 28) in [-1, 1]; each keeps shape and range."""
    return {
        "none": lambda x: x,
        "faint": styles.faint,
        "thick": styles.thick,
        "outline": styles.outline,
        "inverse": styles.inverse,
        "noise 0.5": lambda x: (x + 0.5 * randn_like(x, seeded(3))).clamp(-1, 1),
        "moved": lambda x: F.pad(x, (4, -4, 0, 0), value=-1.0),
        "turned": lambda x: turned(x, 30.0),
        "hole": with_hole,
    }


def turned(x: Tensor, degrees: float) -> Tensor:
    """Turned counter-clockwise; black comes in from outside."""
    a = math.radians(degrees)
    matrix = torch.tensor([[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]])
    grid = F.affine_grid(matrix.expand(len(x), 2, 3), x.shape, align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1


def with_hole(x: Tensor) -> Tensor:
    """The middle 8 x 8 pixels black."""
    x = x.clone()
    x[..., 10:18, 10:18] = -1
    return x


def classifier(sizes: Sizes) -> None:
    table = Table(sizes.file("classifier.csv"), "shift", "method")
    n, D = sizes.of(300), train.load("mnist_small", "cpu")
    digits, labels = (part[:n] for part in data.mnist("test"))
    methods = {
        "classifier": features.predict_digits,
        "noise-aware, one look": lambda x: noise_aware_class(x, None),
        "noise-aware": lambda x: noise_aware_class(x, LOOKS),
        "generative": lambda x: generative_class(D, x, LOOKS),
    }
    for shift, change in shifts().items():
        x = change(digits)
        usual = (features.predict_digits(x) == labels).double()
        for method, predict in methods.items():
            if (shift, method) in table:
                continue
            right = (predict(x) == labels).double()
            gain, half = paired_interval(right, usual)
            accuracy, error = mean_and_error(right)
            scores = {"accuracy": accuracy, "accuracy_se": error, "gain": gain, "gain_half": half}
            table.add(shift=shift, method=method, n=n, looks=LOOKS, **scores)
    shared_or_not(sizes, D)


def shared_or_not(sizes: Sizes, D: Denoiser) -> None:
    """Accuracy by the number of noises, which the classes share or do not; 200 test digits."""
    table = Table(sizes.file("classifier_noises.csv"), "looks", "noises")
    n = sizes.of(200)
    x, y = (part[1000 : 1000 + n] for part in data.mnist("test"))
    for looks in (1, 2, 4, 8):
        for noises in ("shared", "own"):
            if (looks, noises) not in table:
                right = generative_class(D, x, looks, noises == "shared") == y
                accuracy, error = mean_and_error(right)
                table.add(looks=looks, noises=noises, n=n, accuracy=accuracy, accuracy_se=error)


# ---- synthetic digits for a classifier

SEEDS = 5
A_CLASS = 50                                                # labelled digits of each class
SYNTHETIC = 1000
SCALE = 1.5                                                 # guidance of every generator
AUGMENT = {"degrees": 12.0, "shift": 0.1, "zoom": 0.1}      # configs/mnist_classifier.toml


def few_labels(seed: int, a_class: int = A_CLASS) -> tuple[Tensor, Tensor]:
    """Rows of the training digits: a_class of each label, (10 a_class,), and all others."""
    y = data.mnist("train")[1]
    order = torch.randperm(len(y), generator=seeded(seed))
    chosen = torch.cat([order[y[order] == label][:a_class] for label in range(10)])
    others = torch.ones(len(y), dtype=torch.bool)
    others[chosen] = False
    return chosen, order[others[order]]


def beside(real: Pair, more: Pair) -> Pair:
    """Both, the real ones repeated until they are about as many as the others."""
    times = max(1, round(len(more[1]) / len(real[1])))
    x = torch.cat([real[0].repeat(times, 1, 1, 1), more[0]])
    return x, torch.cat([real[1].repeat(times), more[1]])


class SmallReader(nn.Module):
    """Two strided convolutions and a linear layer: x (N, 1, 28, 28) -> logits (N, 10)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),                   # (N, 16, 14, 14)
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),                  # (N, 32, 7, 7)
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * 7 * 7, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each example: (B,)"""
        return F.cross_entropy(self(x0), y, reduction="none")


def fresh_generator(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser(UNet(1, widths=WIDTHS, num_classes=10), COSINE, "v")


def without_labels(sizes: Sizes) -> Denoiser:
    """A generator that saw all 60,000 training digits, each under the null label."""
    hidden = lambda batch, g: batch | {"y": torch.full((len(batch["x0"]),), 10)}
    options = {"steps": sizes.of(1000), "batch_size": 128, "run_name": "lesson7_unlabelled"}
    return trained(fresh_generator(0), {"x0": data.mnist("train")[0]}, draw=hidden, **options)


class FewLabels:
    """What is trained from the 500 labelled digits of one seed. What is not asked for is not
    trained.
    """

    def __init__(self, seed: int, sizes: Sizes):
        self.seed = seed
        self.sizes = sizes
        x, y = data.mnist("train")
        chosen, others = few_labels(seed)
        self.labelled = x[chosen], y[chosen]
        rest = others[: sizes.of(SYNTHETIC)]
        self.more = x[rest], y[rest]                        # what synthetic digits stand for

    def classifier(self, examples: Pair, augmented: bool = False) -> SmallReader:
        """An ordinary classifier, always of the same number of steps."""
        turn = lambda batch, g: batch | {"x0": augment(batch["x0"], AUGMENT, g)}
        torch.manual_seed(self.seed)
        options = {"steps": self.sizes.of(600), "batch_size": 64, "seed": self.seed}
        return trained(SmallReader(), examples, draw=turn if augmented else None, **options)

    @cached_property
    def plain(self) -> SmallReader:
        return self.classifier(self.labelled)

    def generator(self, D: Denoiser, steps: int) -> Denoiser:
        """D, trained on the labelled digits."""
        options = {"steps": self.sizes.of(steps), "batch_size": 64, "seed": self.seed}
        return trained(D, self.labelled, lr=2e-3, muon_lr=0.01, **options)

    def drawn(self, D: Denoiser) -> Pair:
        """Synthetic digits, as many of each label, DPM-Solver++ in 10 steps."""
        y = torch.arange(self.sizes.of(SYNTHETIC)) % 10
        dpmpp_config = sampling.SAMPLERS["dpmpp"]
        return sampling.sample_labels(D, dpmpp_config, 10, y, SCALE, seed=self.seed)[0], y

    @cached_property
    def of_the_few(self) -> Pair:
        """Drawn by a generator that saw the labelled digits alone."""
        return self.drawn(self.generator(fresh_generator(self.seed), 400))

    @cached_property
    def of_all(self) -> Pair:
        """Drawn by a generator that saw all digits without labels, then these with theirs."""
        return self.drawn(self.generator(without_labels(self.sizes), 150))

    @cached_property
    def leaked(self) -> Pair:
        """Drawn by a generator that saw all 60,000 labels."""
        return self.drawn(train.load("mnist_small", "cpu"))

    @cached_property
    def pseudo(self) -> Pair:
        """Unlabelled digits with the labels that the plain classifier gives them."""
        return self.more[0], predicted(self.plain, self.more[0])

    def rows(self) -> dict[str, tuple[Callable[[], SmallReader], str]]:
        """What a row trains, and the attribute with what it adds, if that has made-up labels."""
        with_real = lambda more: self.classifier(beside(self.labelled, more))
        turned_too = lambda more: self.classifier(beside(self.labelled, more), augmented=True)
        return {
            "500 labels": (lambda: self.plain, ""),
            "augmented": (lambda: self.classifier(self.labelled, augmented=True), ""),
            "pseudo-labels": (lambda: with_real(self.pseudo), "pseudo"),
            "synthetic, from the 500": (lambda: with_real(self.of_the_few), "of_the_few"),
            "synthetic alone, from the 500": (lambda: self.classifier(self.of_the_few), ""),
            "synthetic, and unlabelled": (lambda: with_real(self.of_all), "of_all"),
            "the same, augmented": (lambda: turned_too(self.of_all), ""),
            "LEAK: generator of 60,000 labels": (lambda: with_real(self.leaked), "leaked"),
            "1,000 more real labels": (lambda: with_real(self.more), ""),
        }


@torch.no_grad()
def predicted(net: nn.Module, x: Tensor) -> Tensor:
    """(N, 1, 28, 28) -> (N,)"""
    return torch.cat([net(part).argmax(1) for part in x.split(500)])


def copies(x: Tensor, real: Tensor) -> float:
    """Median distance to the nearest labelled digit, over that of held-out digits."""
    held_out = data.mnist("test")[0][2000:2500].flatten(1)
    real = real.flatten(1)
    to_real = lambda z: torch.cdist(z, real)
    return nearest_ratio(to_real(x[:500].flatten(1)), to_real(held_out)).median


def from_few_labels(sizes: Sizes) -> None:
    table = Table(sizes.file("labels.csv"), "method", "seed")
    n = sizes.of(2000)
    x, y = (part[:n] for part in data.mnist("test"))
    for seed in range(SEEDS):
        few = FewLabels(seed, sizes)
        for method, (train_one, drawn) in few.rows().items():
            if (method, seed) in table:
                continue
            right = predicted(train_one(), x) == y
            row = {"n": n, "accuracy": right.double().mean()}
            made = getattr(few, drawn) if drawn else None
            if made is not None:
                row["labels_right"] = (seen(made[0][:500])[1] == made[1][:500]).double().mean()
                row["nearest"] = copies(made[0], few.labelled[0])
            table.add(method=method, seed=seed, **row)


# ---- generations on their own output

WAYS = ("replace", "accumulate", "real", "resampled")
GENERATIONS = 5
CHAINS = 3


def next_data(way: str, pool: list[Tensor], real: Callable[[], Tensor] | None = None) -> Tensor:
    """The data of the next generation.

    pool: what there is, oldest first: real examples (n, ...), then the samples of each generation
    way: "replace": the last samples alone; "accumulate": everything; "real": fresh real examples,
    from `real`. Raises ValueError for another way.
    """
    if way == "replace":
        return pool[-1]
    if way == "accumulate":
        return torch.cat(pool)
    if way == "real":
        return real()
    raise ValueError(f"way must be replace, accumulate or real; got {way!r}")


def chain(way: str, seed: int, sizes: Sizes) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples of each generation with their labels, generation 0 first.

    Generation 0 is mnist_small; each later one goes on from the weights of the one before.
    """
    n, g = sizes.of(500, 50), seeded(seed)
    x, y = data.mnist("train")
    fresh = lambda: torch.randint(len(x), (n,), generator=g)            # rows
    if way == "resampled":
        yield from resampled(x, y, fresh(), g)
        return
    rows, D = fresh(), train.load("mnist_small", "cpu")
    pool = [x[rows]], [y[rows]]
    for generation in range(GENERATIONS + 1):
        asked = torch.arange(n) % 10
        number = 100 * seed + generation
        dpmpp_config = sampling.SAMPLERS["dpmpp"]
        made, *_ = sampling.sample_labels(D, dpmpp_config, 10, asked, seed=number)
        yield made, asked
        pool[0].append(made)
        pool[1].append(asked)
        if generation == GENERATIONS:
            return
        rows = fresh()
        digits = next_data(way, pool[0], lambda: x[rows])
        names = next_data(way, pool[1], lambda: y[rows])
        options = {"lr": 2e-3, "muon_lr": 0.01, "batch_size": 64, "seed": number}
        D = trained(D, (digits, names), steps=sizes.of(100), **options)


def resampled(x: Tensor, y: Tensor, rows: Tensor, g: torch.Generator) -> Iterator[Pair]:
    """No model: each generation draws from the digits of the one before, with replacement."""
    for _ in range(GENERATIONS + 1):
        rows = rows[torch.randint(len(rows), (len(rows),), generator=g)]
        yield x[rows], y[rows]


def variety(x: Tensor, y: Tensor) -> float:
    """The root mean square difference of two digits of one label, a mean over labels."""
    spread = [x[y == k].var(0).mean() for k in range(10)]
    return (2 * torch.stack(spread)).sqrt().mean().item()


def generations(sizes: Sizes) -> None:
    table = Table(sizes.file("generations.csv"), "way", "seed", "generation")
    for seed in range(CHAINS):
        for way in WAYS:
            if (way, seed, GENERATIONS) in table:
                continue
            rows = []
            for generation, (x, y) in enumerate(chain(way, seed, sizes)):
                z, found = seen(x)
                precision, recall = metrics.precision_recall(reference()[:1000], z)
                rows.append({
                    "way": way,
                    "seed": seed,
                    "generation": generation,
                    "n": len(x),
                    "frechet": metrics.frechet_distance(z, reference()),
                    "precision": precision,
                    "recall": recall,
                    "agreement": (found == y).double().mean(),
                    "variety": variety(x, y),
                })
            if seed == 0:
                keep_pictures(sizes.file("generations.npz"), **{way: x[:20]})
            for row in rows:
                if (way, seed, row["generation"]) not in table:
                    table.add(**row)


# ---- anomalies

LEVELS = (15.0, -8.0, 21)                                   # log-SNR: first, last, how many
DELTA = 2 / 255                                             # from one grey level to the next


def not_digits(n: int) -> dict[str, Tensor]:
    """Pictures (n, 1, 28, 28) of 256 levels that are no ordinary digits, by kind."""
    x, g = data.mnist("test")[0], seeded(5)
    digits, others = x[:n], x[n : 2 * n]
    order = torch.rand(n, 784, generator=g).argsort(1)
    grey = data.nouns(n, seed=1, split="test").x.mean(1, keepdim=True)
    kinds = {
        "blank": torch.full_like(digits, -1),
        "dot": dots(n, g),
        "faint": styles.faint(digits),
        "inverse": styles.inverse(digits),
        "outline": styles.outline(digits),
        "upper half": torch.cat([digits[..., :14, :], torch.full_like(digits, -1)[..., 14:, :]], 2),
        "two digits": torch.maximum(digits, others),
        "shuffled": digits.flatten(1).gather(1, order).view_as(digits),
        "figures": F.interpolate(grey, size=28, mode="bilinear", antialias=True),
        "noise": 2 * torch.rand(digits.shape, generator=g) - 1,
    }
    return {name: to_bytes(pictures) / 127.5 - 1 for name, pictures in kinds.items()}


def dots(n: int, g: torch.Generator) -> Tensor:
    """A white square of 3 x 3 pixels on black, somewhere in the middle."""
    x = torch.full((n, 1, 28, 28), -1.0)
    for picture, (i, j) in zip(x, torch.randint(6, 20, (n, 2), generator=g).tolist()):
        picture[:, i : i + 3, j : j + 3] = 1
    return x


def bound_bits(Q: Denoiser, x: Tensor) -> Tensor:
    """Bits per dimension of pictures of 256 levels, by the variational bound (lesson 6): (N,)"""
    g, first = seeded(0), seeded(1)
    ts = Q.schedule.t_from_log_snr(torch.linspace(*LEVELS, dtype=torch.float64))
    noisy = x + DELTA * (torch.rand(x.shape, generator=first) - 0.5)
    bound = lambda part: sde.variational_bound(Q, Q.schedule, part, ts, generator=g)
    nats = torch.cat([bound(part) for part in noisy.split(50)])
    return nats / x[0].numel() / math.log(2) - math.log2(DELTA)


def png_bits(x: Tensor) -> Tensor:
    """Bits per dimension of each picture as an optimised PNG file: (N,)"""
    sizes = []
    for picture in to_bytes(x)[:, 0].numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG", optimize=True)
        sizes.append(8 * file.getbuffer().nbytes / picture.size)
    return torch.tensor(sizes, dtype=torch.float64)


def denoising_error(D: Denoiser, x: Tensor) -> Tensor:
    """Mean squared error of the clean picture from four noises, without a label: (N,)"""
    g, errors = seeded(2), []
    for t in (0.3, 0.4, 0.5, 0.6):
        x_t = COSINE.perturb(x, t, torch.randn(x.shape, generator=g))
        with torch.no_grad():
            errors.append((D(x_t, t) - x).square().flatten(1).mean(1))
    return torch.stack(errors).mean(0)


def nearest_distance(x: Tensor) -> Tensor:
    """Distance in pixels to the nearest of 5,000 training digits: (N,)"""
    known = data.mnist("train")[0][:5000].flatten(1)
    return torch.cdist(x.flatten(1), known).amin(1)


def auroc(normal: Tensor, odd: Tensor) -> tuple[float, float]:
    """The probability that an odd example scores higher than a normal one, ties counted half,
    and its standard error. (DeLong et al. 1988)

    normal (m,), odd (n,): scores, larger for what is taken to be odd
    """
    wins = (odd[:, None] > normal).double() + 0.5 * (odd[:, None] == normal).double()   # (n, m)
    variance = wins.mean(1).var() / len(odd) + wins.mean(0).var() / len(normal)
    return wins.mean().item(), variance.sqrt().item()


def anomaly(sizes: Sizes) -> None:
    table = Table(sizes.file("anomaly.csv"), "kind")
    n, Q = sizes.of(150), train.load("mnist_likelihood", "cpu")
    small = train.load("mnist_small", "cpu")
    usual_bits = bound_bits(Q, data.mnist("train")[0][-n:]).median()

    def scores(x: Tensor) -> dict[str, Tensor]:
        bits, png = bound_bits(Q, x), png_bits(x)
        return {
            "bits": bits,
            "two-sided": (bits - usual_bits).abs(),
            "bits - PNG": bits - png,
            "PNG": png,
            "denoising": denoising_error(small, x),
            "nearest": nearest_distance(x),
        }
    normal = scores(data.mnist("test")[0][2 * n : 3 * n])
    for kind, x in ({"digits": data.mnist("test")[0][3 * n : 4 * n]} | not_digits(n)).items():
        if (kind,) in table:
            continue
        found = scores(x)
        row = {"n": n}
        row["bits_mean"], row["bits_mean_se"] = mean_and_error(found["bits"])
        row["png_mean"] = found["PNG"].mean()
        for name, values in found.items():
            row[name], row[f"{name}_se"] = auroc(normal[name], values)
        table.add(kind=kind, **row)


EXPERIMENTS = {
    "super-resolution": super_resolution,
    "classifier": classifier,
    "labels": from_few_labels,
    "generations": generations,
    "anomaly": anomaly,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=(*EXPERIMENTS, "all"))
    parser.add_argument("--n", type=int, default=FULL)
    parser.add_argument("--out", type=Path, default=storage.ASSETS)
    given = parser.parse_args()
    if given.n != FULL and given.out == storage.ASSETS:
        parser.error(f"a run of another size than {FULL} goes to another folder: --out FOLDER")
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = Sizes(given.n, given.out)
    for name in EXPERIMENTS if given.experiment == "all" else [given.experiment]:
        EXPERIMENTS[name](sizes)


if __name__ == "__main__":
    main()
