"""One batched sampling loop, and the two things that are drawn by it: labels and captions."""
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ... import validate
from ...denoiser import Denoiser
from ...guidance import cfg, clip
from ...networks.vae import AutoencoderKL
from ...samplers import ancestral, ddim, dpmpp, heun, last, timesteps, unipc
from ..training.device import autocast


@dataclass(frozen=True)
class SamplerConfig:
    """A sampler with its options and the spacing of its timesteps.

    Raises TypeError for a sampler that is no function, and options that are no dict.
    """

    sampler: Callable
    spacing: str | Callable = "time"
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        validate.function(self.sampler, "sampler", "such as ddim or heun")
        validate.instance(self.options, dict, "options", '{"eta": 0.5}')

    def steps(self, evaluations: int) -> int:
        """The steps that cost about `evaluations`: heun takes two a step, and one in the last."""
        validate.whole(evaluations, "evaluations")
        return (evaluations + 1) // 2 if self.sampler is heun else evaluations


def _below_095(schedule, start: float, n: int) -> Tensor:
    return timesteps(schedule, n, "time", 0.95)[:-1]


SAMPLERS = {
    "ancestral":            SamplerConfig(ancestral),
    "ancestral, sigma-hat": SamplerConfig(ancestral, options={"variance": "beta"}),
    "ddim":                 SamplerConfig(ddim),
    "ddim, quadratic":      SamplerConfig(ddim, "quadratic"),
    "ddim, eta 0.5":        SamplerConfig(ddim, options={"eta": 0.5}),
    "heun":                 SamplerConfig(heun, "karras"),
    "heun, even from 0.95": SamplerConfig(heun, _below_095),
    "dpmpp":                SamplerConfig(dpmpp),
    "dpmpp, log-SNR":       SamplerConfig(dpmpp, "log_snr"),
    "unipc":                SamplerConfig(unipc),
    "unipc, log-SNR":       SamplerConfig(unipc, "log_snr"),
}


@torch.no_grad()
def sample_batches(
    D: Denoiser,
    config: SamplerConfig,
    steps: int,
    condition: dict[str, Tensor] | None = None,
    *,
    n: int | None = None,
    scale: float = 1.0,
    null: dict | None = None,
    seed: int = 0,
    batch_size: int = 500,
    clip_range: tuple[float, float] | None = (-1.0, 1.0),
    vae: AutoencoderKL | None = None,
) -> Tensor:
    """n examples, or one for each row of the conditions: (n, *D.data_shape), float32 on the CPU.

    condition:   tensors (n, ...) by name; None: n unconditional examples
    scale, null: of classifier-free guidance, where scale 1 is none; null None: the network's own
    seed:        of a CPU generator, from which the noise is drawn batch by batch
    clip_range:  of each prediction; None: no clipping
    vae:         of a D that was trained on its latents: the samples are decoded, and nothing but
                 the images is clipped

    Captions (tokens) are encoded once, not once a step.
    Raises TypeError or ValueError where D does not know the shape of its data, for n or conditions
    that are missing or do not match, and as `cfg` and the sampler do.
    """
    _validate_denoiser(D)
    validate.instance(config, SamplerConfig, "config", 'SAMPLERS["ddim"]')
    condition, n = _validate_condition(condition, n)
    if null is not None:
        validate.instance(null, dict, "null", '{"tokens": D.net.tokenizer("...")}')
    validate.whole(batch_size, "batch_size")
    _validate_range(clip_range)
    g = torch.Generator().manual_seed(validate.seed(seed))
    device = next(D.parameters()).device
    null = _on(getattr(D.net, "null", {}) if null is None else null, device)
    ts = timesteps(D.schedule, steps, config.spacing)
    parts = []
    for rows in torch.arange(n).split(batch_size):
        part = {name: value[rows].to(device) for name, value in condition.items()}
        x = D.schedule.sample_prior((len(rows), *D.data_shape), ts[0], g, device)
        with autocast(device):
            part = _encoded(D, part, len(rows))
            guided = D if scale == 1 else cfg(D, scale, _encoded(D, null, len(rows)))
            guided = guided if clip_range is None or vae is not None else clip(guided, *clip_range)
            path = config.sampler(guided, D.schedule, x, ts, generator=g, **config.options, **part)
            x = last(path)
            parts.append((x if vae is None else vae.to_images(x)).float().cpu())
    x = torch.cat(parts)
    return x if clip_range is None else x.clamp(*clip_range)


def _validate_denoiser(D: Denoiser) -> None:
    if not hasattr(D, "data_shape"):
        raise TypeError(
            f"D must be a Denoiser, such as train.load('mnist'); got a {type(D).__name__}"
        )
    if D.data_shape is None:
        raise ValueError(
            "this denoiser does not know the shape of its data: train it, load it, "
            "or set D.data_shape = (channels, height, width)"
        )


def _validate_condition(condition: dict | None, n: int | None) -> tuple[dict, int]:
    """The conditions as tensors of one length, and that length."""
    if condition is not None:
        validate.instance(condition, dict, "condition", '{"y": labels}')
    condition = {name: validate.tensor(value, name) for name, value in (condition or {}).items()}
    if n is None and not condition:
        raise ValueError("say how many: n=..., or a condition with one row for each example")
    lengths = {name: len(value) if value.ndim else 0 for name, value in condition.items()}
    n = validate.whole(max(lengths.values()) if n is None else n, "n")
    if set(lengths.values()) - {n}:
        raise ValueError(f"each condition needs one row for each of n = {n}; got {lengths}")
    return condition, n


def classes_of(D: Denoiser) -> int:
    """The number of labels of a denoiser. Raises TypeError or ValueError where it has none."""
    _validate_denoiser(D)
    classes = getattr(D.net, "num_classes", None)
    if classes is None:
        raise ValueError(
            f"D must have labels, such as train.load('mnist'); its network, a "
            f"{type(D.net).__name__}, has none: sample_batches(D, config, steps, n=...)"
        )
    return classes


def _encoded(D: Denoiser, condition: dict, B: int) -> dict:
    """The conditions, with the context of the captions in place of their tokens."""
    if not hasattr(D.net, "encode") or "tokens" not in condition:
        return condition
    others = {name: value for name, value in condition.items() if name != "tokens"}
    return others | D.net.encode(condition["tokens"], B)


def _on(null: dict, device: torch.device) -> dict:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in null.items()}


def sample_labels(
    D: Denoiser,
    config: SamplerConfig,
    evaluations: int,
    y: Tensor,
    scale: float = 1.0,
    seed: int = 0,
    batch_size: int = 500,
) -> tuple[Tensor, int, float]:
    """An image for each label y (N,): (N, C, H, W) on the CPU, the evaluations for each, the
    seconds.

    evaluations: asked for; heun takes as many steps as cost about so many.
    Raises TypeError or ValueError for a D without labels and labels that it does not have, and as
    `sample_batches` does.
    """
    y, counter = validate.labels(y, None, classes_of(D)).reshape(-1), _Counter(D)
    validate.instance(config, SamplerConfig, "config", 'SAMPLERS["ddim"]')
    start = time.perf_counter()
    x = sample_batches(
        counter,
        config,
        config.steps(evaluations),
        {"y": y},
        scale=scale,
        null={"y": D.net.num_classes},
        seed=seed,
        batch_size=batch_size,
    )
    batches = -(-len(y) // batch_size)
    return x, counter.calls // batches, time.perf_counter() - start


class _Counter:
    """A denoiser that counts its evaluations."""

    def __init__(self, D: Denoiser):
        self.D = D
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor, **condition) -> Tensor:
        self.calls += 1
        return self.D(x, t, **condition)

    def __getattr__(self, name: str):
        return getattr(self.D, name)


def text_to_image(
    D: Denoiser,
    captions: list[str],
    scale: float = 2.0,
    steps: int = 10,
    seed: int = 0,
    null: dict | None = None,
    batch_size: int = 100,
    vae: AutoencoderKL | None = None,
) -> Tensor:
    """An image for each caption: (N, C, H, W) in [-1, 1], on the CPU.   DPM-Solver++(2M)

    D: its network reads captions (ConditionalUNet). null: what guidance leads away from; None: the
    empty caption; a negative prompt is {"tokens": D.net.tokenizer("...")}. vae: of a D that was
    trained on its latents.
    Raises TypeError or ValueError for a D that reads no captions, and as `cfg` and its tokenizer
    do.
    """
    _validate_denoiser(D)
    if not hasattr(D.net, "tokenizer"):
        raise ValueError("D must read captions, such as train.load('nouns'); its network does not")
    captions = validate.strings(captions, "captions")
    return sample_batches(
        D,
        SAMPLERS["dpmpp"],
        steps,
        {"tokens": D.net.tokenizer(captions)},
        scale=scale,
        null=null,
        seed=seed,
        batch_size=batch_size,
        vae=vae,
    )


def samples(
    D: Denoiser, n: int = 64, steps: int = 20, seed: int = 0, vae: AutoencoderKL | None = None
) -> Tensor:
    """n examples by DPM-Solver++(2M), labels in turn where D has labels: (n, *D.data_shape).

    Without guidance, and without captions where D takes captions.
    Raises TypeError or ValueError as `sample_batches` does.
    """
    _validate_denoiser(D)
    n, classes = validate.whole(n, "n"), getattr(D.net, "num_classes", None)
    condition = {"y": torch.arange(n) % classes} if classes else None
    return sample_batches(D, SAMPLERS["dpmpp"], steps, condition, n=n, seed=seed, vae=vae)


def sheet(
    D: Denoiser,
    file: Path,
    rows: int = 8,
    seed: int = 0,
    steps: int = 20,
    vae: AutoencoderKL | None = None,
) -> None:
    """Write rows x 8 samples (see `samples`) as one picture.

    Raises ValueError for a file whose ending names no kind of picture.
    """
    from PIL.Image import registered_extensions
    from torchvision.utils import save_image
    _validate_denoiser(D)
    if Path(file).suffix.lower() not in registered_extensions():
        raise ValueError(f"file must end like a picture, such as sheet.png; got {file}")
    x = samples(D, 8 * validate.whole(rows, "rows"), steps, seed, vae)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_image(x, file, nrow=8, normalize=True, value_range=(-1, 1))


def _validate_range(clip_range: tuple[float, float] | None) -> None:
    if clip_range is None:
        return
    if not isinstance(clip_range, (tuple, list)) or len(clip_range) != 2:
        raise ValueError(f"clip_range must be (low, high), or None; got {clip_range!r}")
    validate.number(clip_range[1], "the end of clip_range", clip_range[0], above=True)
