"""Quality against cost: one model, every sampler, equal numbers of network evaluations."""
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..guidance import cfg, clip
from ..samplers import ancestral, ddim, dpmpp, grid, heun, last, unipc
from . import machine, metrics, plots
from .assets import ASSETS
from .checkpoint import load_tensors


@dataclass(frozen=True)
class Way:
    """A sampler with its options and its grid."""
    sampler: Callable
    spacing: str | Callable = "time"
    options: dict = field(default_factory=dict)

    def steps(self, evaluations: int) -> int:
        """How many steps cost about so many evaluations: heun takes two a step, and one in the last."""
        return (evaluations + 1) // 2 if self.sampler is heun else evaluations


WAYS = {
    "ancestral":            Way(ancestral),
    "ancestral, sigma-hat": Way(ancestral, options={"sigma_hat": True}),
    "ddim":                 Way(ddim),
    "ddim, quadratic":      Way(ddim, "quadratic"),
    "ddim, eta 0.5":        Way(ddim, options={"eta": 0.5}),
    "heun":                 Way(heun, "karras"),
    "heun, even from 0.95": Way(heun, lambda schedule, start, n: grid(schedule, n, "time", 0.95)[:-1]),
    "dpmpp":                Way(dpmpp),
    "dpmpp, log-SNR":       Way(dpmpp, "log_snr"),
    "unipc":                Way(unipc),
    "unipc, log-SNR":       Way(unipc, "log_snr"),
}


def picture_shape(D: Denoiser) -> tuple[int, int, int]:
    """The size of the pictures that one of the course's models draws: digits (1, 28, 28), photographs (3, 32, 32)."""
    return (1, 28, 28) if D.net.channels == 1 else (3, 32, 32)


@torch.no_grad()
def drawn(D: Denoiser, way: Way, evaluations: int, y: Tensor, w: float = 1.0, seed: int = 0, batch: int = 500) -> tuple[Tensor, int, float]:
    """A picture for each label y (N,): (N, C, H, W) on the CPU, how often the network was asked for each, and the seconds it took."""
    calls, on, g, parts, start = 0, next(D.parameters()).device, torch.Generator().manual_seed(seed), [], time.perf_counter()

    def counted(x: Tensor, t: Tensor, **condition) -> Tensor:
        nonlocal calls
        calls += 1
        return D(x, t, **condition)
    guided = clip(counted if w == 1 else cfg(counted, w, {"y": D.net.num_classes}))
    ts = grid(D.schedule, way.steps(evaluations), way.spacing)
    noise = {"generator": g} if "generator" in inspect.signature(way.sampler).parameters else {}
    for part in y.split(batch):
        x = D.schedule.prior((len(part), *picture_shape(D)), ts[0], g, on)
        with machine.autocast(on):
            parts.append(last(way.sampler(guided, D.schedule, x, ts, **noise, **way.options, y=part.to(on))).float().cpu())
    return torch.cat(parts).clamp(-1, 1), calls // len(parts), time.perf_counter() - start


def analyze_sampling_quality(D: Denoiser, evaluations: Iterable[int], ways: dict[str, Way] = WAYS, n: int = 1000, w: float = 1.0, seed: int = 0, *,
                             look: Callable[[Tensor], Tensor] | None = None, real: Tensor | None = None, batch: int = 500) -> list[dict]:
    """Each way at each number of evaluations, on n pictures with the same labels and the same noise: a list of rows.

    A row says what was asked and what it cost (sampler, w, n, evaluations, seconds), and how good it was: Fréchet distance and KID with
    its error against MNIST's 10,000 test digits, and class agreement. Other pictures need other eyes: look, from pictures to features
    (n, d), and `real` (m, d), what it sees in real pictures; then there is no agreement. Compare at one n, beside what real
    pictures score, as many of each label (`metrics.frechet_floor(n, balanced=True)`). Raises ValueError for look without real, or real without look.
    """
    if (look is None) != (real is None):
        raise ValueError("look and real go together: real is what look sees in real pictures; leave out both to judge digits")
    y, rows = torch.arange(n) % D.net.num_classes, []
    digits, look = look is None, look or metrics.features
    real = metrics.test_features() if digits else real
    for count in evaluations:
        for name, way in ways.items():
            x, asked, seconds = drawn(D, way, count, y, w, seed, batch)
            z = look(x)
            kid, error = metrics.kid(z, real)
            rows.append({"sampler": name, "w": w, "n": n, "evaluations": asked, "seconds": round(seconds, 3), "frechet_distance": metrics.frechet_distance(z, real),
                         "kid": kid, "kid_error": error} | ({"agreement": metrics.class_agreement(x, y)} if digits else {}))
    return rows


@plots.styled
def plot_sampling_analysis(rows: list[dict], floor: float | None = None, column: str = "frechet_distance") -> None:
    """Quality (a column of the rows) against evaluations, a curve for each sampler; floor: what real pictures score."""
    figure = plots.new_figure(8.5, 3.8)
    axes = figure.subplots()
    for k, name in enumerate(dict.fromkeys(r["sampler"] for r in rows)):
        points = sorted((r["evaluations"], r[column]) for r in rows if r["sampler"] == name)
        axes.plot(*zip(*points), "osv^<>DxP*"[k % 10], ls=("-", "--", ":")[k // len(plots.COLOURS) % 3], ms=4, label=name)
    if floor is not None:
        axes.axhline(floor, color="black", lw=1, label="real pictures")
    counts = sorted({r["evaluations"] for r in rows if r["evaluations"] == r.get("asked", r["evaluations"])})
    axes.set(xscale="log", yscale="linear" if column in ("agreement", "kid") else "log", title="Quality against cost", xlabel="network evaluations for each image",
             ylabel=column.replace("_", " "), xticks=counts, xticklabels=counts)
    axes.minorticks_off()
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    plots.emit(figure)


@torch.no_grad()
def painted(D: Denoiser, captions: list[str], w: float = 2.0, steps: int = 10, seed: int = 0, null: dict | None = None, batch: int = 100) -> Tensor:
    """A picture for each caption, by a network that reads: (N, 3, 32, 32) in [-1, 1], on the CPU.   DPM-Solver++

    null: what guidance leads away from; None: the empty caption. A negative prompt is {"tokens": D.net.tokenizer("...")}.
    Raises ValueError as `cfg` and the tokenizer do.
    """
    on, g = next(D.parameters()).device, torch.Generator().manual_seed(seed)
    null = {name: value.to(on) if isinstance(value, Tensor) else value for name, value in (D.net.null if null is None else null).items()}
    guided = clip(cfg(D, w, null))
    tokens, parts = D.net.tokenizer(captions), []
    noise = D.schedule.prior((len(tokens), *picture_shape(D)), generator=g)
    for start, words in zip(noise.split(batch), tokens.split(batch)):
        with machine.autocast(on):
            parts.append(last(dpmpp(guided, D.schedule, start.to(on), grid(D.schedule, steps), tokens=words.to(on))).float().cpu())
    return torch.cat(parts)


def nouns_live() -> dict:
    """What three minutes of training gave, by `python tools/nouns_live.py`: pictures x, their parts, losses (n, 2), right (5,), and about."""
    tensors, header = load_tensors(ASSETS / "nouns_live.safetensors")
    return {name: value.float() for name, value in tensors.items() if name != "parts"} | {"parts": tensors["parts"].long(), "about": header["about"]}
