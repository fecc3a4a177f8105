"""Gaussian Shading on models of the course: detected, attacked, forged; and what it costs.

    python benchmarks/watermarks.py mnist_small | cifar10 | nouns_latent | mini_sd [--n 1000]

To course_lib/assets/watermarks.csv, in place of that model's rows. Every picture has a nonce of its
own and is stored in bytes. Digits have labels, drawn at w = 2; photographs have labels, drawn at
w = 1; figures have no caption, but where a row says how many of their five parts one names. All are
drawn in 20 steps of DPM-Solver++(2M) and inverted by DDIM in 8, without guidance and without the
condition (unless it is "known"): one step from the picture to sigma / alpha = 1/2, t = 0.29 of the
cosine schedule, then even steps to t = 1. Counted are the signs of places whose inverted noise is
at least 0.4. A forger inverts a picture and draws another label, or the head of a figure, from the
noise that was found, from fresh noise with its signs, or with those where it is at least 0.5. Rows
of figures with a caption, and forged ones, have a fifth of n.

    detected_1e6, detected_1e2   share of the pictures with a p-value of at most 1e-6 and 1e-2
    level_1e2    that share as it must be on average without a mark, a little below 1e-2: counts are
                 whole numbers
    signs        counted signs of a picture, a mean; agreeing, agreeing_std: the share of them that
                 agree with the mark, mean and standard deviation over the pictures
    correlation  of inverted and true noise over all places, a mean over the pictures
    variety      mean root-mean-square distance of two pictures of the same condition
"""
import argparse
import csv
import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import stats
from torch import Tensor

from course_lib import Denoiser, cfg, clip, ddim_invert, dpmpp, last, timesteps
from course_lib.lab import data, noun_parts, sampling, storage, train
from course_lib.networks.vae import AutoencoderKL
from course_lib.watermark import detect, detection_threshold, marked_noise
from course_lib.web.mark import MIN_ABS, RATIO
from course_lib.web.mark import STEPS as INVERSION

CSV = storage.ASSETS / "watermarks.csv"
KEY, OTHER_KEY = 2024, 2025
STEPS = 20
KEPT = 0.5                              # least inverted noise whose sign a forger keeps
FEWER = 5                               # n by this for figures with a caption
BATCH = 100
COLUMNS = ["model", "row", "n", "detected_1e6", "detected_1e2", "level_1e2", "signs", "agreeing",
           "agreeing_std", "correlation", "variety"]


class Names(NamedTuple):
    """What belongs to a model: its autoencoder, another model of pictures of that size, the
    guidance scale.
    """
    vae: str | None
    other: str
    scale: float = 2.0


MODELS = {
    "mnist_small":  Names(None, "mnist"),
    "cifar10":      Names(None, "nouns", 1.0),
    "nouns_latent": Names("nouns_vae", "nouns"),
    "mini_sd":      Names("nouns_vae", "nouns"),
}


# ---- a model that draws from given noise, and finds noise in pictures

@dataclass
class Model:
    """A denoiser and, where it works on latents, its autoencoder."""
    D: Denoiser
    vae: AutoencoderKL | None = None
    scale: float = 2.0

    @property
    def reads(self) -> bool:
        """Whether its condition is a caption; else a label."""
        return hasattr(self.D.net, "tokenizer")

    def null(self, n: int) -> dict[str, Tensor]:
        """No condition, n times."""
        if self.reads:
            return self.D.net.encode(self.D.net.null["tokens"], n)
        return {"y": torch.full((n,), self.D.net.num_classes)}

    def subjects(self, n: int, seed: int = 5, parts: int = 0) -> dict[str, Tensor]:
        """n conditions: labels in turn from `seed` on, or captions that name so many parts."""
        if not self.reads:
            return {"y": (torch.arange(n) + seed) % self.D.net.num_classes}
        if parts == 0:
            return self.null(n)
        texts = short_captions(noun_parts.draw_parts(n, seed, "test"), parts)
        return self.D.net.encode(self.D.net.tokenizer(texts), n)

    def draw(self, noise: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """Pictures in bytes, as they are stored, from standard normal noise (n, *data_shape)."""
        return in_batches(self._draw, noise, condition)

    def _draw(self, noise: Tensor, condition: dict[str, Tensor]) -> Tensor:
        schedule = self.D.schedule
        null = self.null(len(noise))
        same = all(torch.equal(value, null[name]) for name, value in condition.items())
        guided = self.D if same else cfg(self.D, self.scale, null)      # to itself: for nothing
        guided = clip(guided) if self.vae is None else guided
        x = schedule.sigma(1.0).float() * noise
        x = last(dpmpp(guided, schedule, x, timesteps(schedule, STEPS), **condition))
        return stored(self.to_images(x))

    def invert(self, x: Tensor, condition: dict[str, Tensor] | None = None) -> Tensor:
        """The noise that pictures x were drawn from, so far as it can be found."""
        return in_batches(self._invert, x, condition or self.null(len(x)))

    def _invert(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        ts = inversion_times(self.D.schedule)
        noise = last(ddim_invert(self.D, self.D.schedule, self.to_latents(x), ts, **condition))
        return noise / self.D.schedule.sigma(1.0).float()

    def regenerate(self, x: Tensor, seed: int = 0) -> Tensor:
        """x noised up to sigma / alpha = RATIO and denoised again without a condition."""
        noise = torch.randn((len(x), *self.D.data_shape), generator=seeded(seed))
        return in_batches(self._regenerate, x, self.null(len(x)) | {"noise": noise})

    def _regenerate(self, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
        schedule, start = self.D.schedule, start_of(self.D.schedule)
        rest = {name: value for name, value in condition.items() if name != "noise"}
        x_t = schedule.perturb(self.to_latents(x), start, condition["noise"])
        ts = timesteps(schedule, 10, start=start)
        return stored(self.to_images(last(dpmpp(self.D, schedule, x_t, ts, **rest))))

    def to_latents(self, x: Tensor) -> Tensor:
        return x if self.vae is None else self.vae.to_latents(x)

    def to_images(self, x: Tensor) -> Tensor:
        return x if self.vae is None else self.vae.to_images(x)


def load(name: str) -> Model:
    """A model of the table, or another one of pixels."""
    vae, _, scale = MODELS.get(name, Names(None, ""))
    return Model(train.load(name, "cpu"), None if vae is None else train.load(vae, "cpu"), scale)


def in_batches(f, x: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """f(x, condition), BATCH rows at a time."""
    rows = torch.arange(len(x)).split(BATCH)
    return torch.cat([f(x[k], {name: v[k] for name, v in condition.items()}) for k in rows])


def start_of(schedule) -> float:
    """The time at which sigma / alpha = RATIO."""
    return schedule.t_from_log_snr(-2 * math.log(RATIO)).item()


def inversion_times(schedule) -> Tensor:
    """0, the time of RATIO, and even steps from there to 1."""
    rising = torch.linspace(start_of(schedule), 1, INVERSION, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), rising])


def short_captions(parts: Tensor, named: int) -> list[str]:
    """The first parts of noun_parts.plain_captions: head, glasses, accessory, body, background."""
    return ["".join([
        f"{noun_parts.article(w['head'])}{w['head']}-headed noun",
        f" with {w['glasses']} glasses",
        f", wearing {noun_parts.article(w['accessory'])}{w['accessory']}",
        f", {w['body']} body",
        f", {w['background']} background",
    ][:named]) for w in noun_parts.part_names(parts)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- what may happen to a picture: images in [-1, 1] -> the same

def to_bytes(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def stored(x: Tensor) -> Tensor:
    """Rounded to bytes, as in a PNG file."""
    return to_bytes(x) / 127.5 - 1


def noised(x: Tensor, std: float, seed: int = 0) -> Tensor:
    """With Gaussian noise of this deviation, where white is 1 and black -1."""
    return stored(x + std * torch.randn(x.shape, generator=seeded(seed)))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Stored as JPEG by Pillow, and read again."""
    return torch.stack([_jpeg(image, quality) for image in to_bytes(x)]) / 127.5 - 1


def _jpeg(image: Tensor, quality: int) -> Tensor:
    colours, file = len(image), io.BytesIO()
    pixels = image[0] if colours == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality)
    found = torch.from_numpy(np.array(Image.open(file)))
    return found[None] if colours == 1 else found.permute(2, 0, 1)


def cropped(x: Tensor) -> Tensor:
    """Without a border of a sixteenth of the side, resized to the old size."""
    b = round(x.shape[-1] / 16)
    inside = x[..., b:-b, b:-b]
    return stored(F.interpolate(inside, size=x.shape[-2:], mode="bilinear", antialias=True))


# ---- the table

def measured(
    noise: Tensor, nonces: int | Tensor, truth: Tensor | None = None, key: int = KEY
) -> dict:
    """What the detector says of inverted noise; truth: the noise that it should be."""
    found = detect(noise, key, nonces, min_abs=MIN_ABS)
    share = found.agreeing / found.signs.clamp(min=1)
    levels = [
        stats.binom.sf(detection_threshold(m, 0.01) - 1, m, 0.5) if m else 0.0
        for m in found.signs.tolist()
    ]
    row = {
        "n": len(noise),
        "detected_1e6": (found.p_value <= 1e-6).double().mean().item(),
        "detected_1e2": (found.p_value <= 1e-2).double().mean().item(),
        "level_1e2": float(np.mean(levels)),
        "signs": found.signs.double().mean().item(),
        "agreeing": share.mean().item(),
        "agreeing_std": share.std().item(),
    }
    return row if truth is None else row | {"correlation": correlation(noise, truth)}


def correlation(a: Tensor, b: Tensor) -> float:
    """Between two sets of noises, a mean over the examples."""
    a, b = (F.normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True)) for x in (a, b))
    return (a * b).sum(1).mean().item()


def variety(x: Tensor) -> float:
    """The mean root-mean-square distance of two pictures."""
    return torch.pdist(x.flatten(1)).mean().item() / math.sqrt(x[0].numel())


def attacks(model: Model) -> dict:
    return {
        "clean": lambda x: x,
        "noise 0.02": lambda x: noised(x, 0.02),
        "noise 0.1": lambda x: noised(x, 0.1),
        "JPEG 90": lambda x: jpeg(x, 90),
        "JPEG 50": lambda x: jpeg(x, 50),
        "crop and resize": cropped,
        "regenerated": model.regenerate,
    }


def attacked_rows(model: Model, n: int) -> Iterator[tuple[str, dict]]:
    """Marked pictures, what was done to them, and pictures drawn from what was found in them."""
    nonces, subject = torch.arange(n), model.subjects(n)
    z = marked_noise((n, *model.D.data_shape), KEY, nonces, generator=seeded(0))
    x = model.draw(z, subject)
    for name, attack in attacks(model).items():
        yield name, measured(model.invert(attack(x)), nonces, z)
    if not model.reads:
        yield "label known", measured(model.invert(x, subject), nonces, z)
    found = model.invert(x)
    yield "another key", measured(found, nonces, key=OTHER_KEY)
    few = math.ceil(n / FEWER) if model.reads else n
    yield from forged_rows(model, found[:few], z[:few])


def forged_rows(model: Model, found: Tensor, z: Tensor) -> Iterator[tuple[str, dict]]:
    """Other pictures from what was found of the noises z."""
    n = len(found)
    others = model.subjects(n, seed=6, parts=1)
    fresh = torch.randn(z.shape, generator=seeded(1))
    signs = fresh.abs() * found.sign()
    large = torch.where(found.abs() >= KEPT, signs, fresh)
    for name, noise in {"noise": found, "signs": signs, "large signs": large}.items():
        x = model.draw(noise, others)
        yield f"forged, {name} kept", measured(model.invert(x), torch.arange(n), z)


def forged_elsewhere(name: str, n: int) -> Iterator[tuple[str, dict]]:
    """Forged with the other model, where that takes noise of the same shape and labels."""
    model, other = load(name), load(MODELS[name].other)
    if other.D.data_shape != model.D.data_shape or other.reads != model.reads:
        return
    nonces = torch.arange(n)
    z = marked_noise((n, *model.D.data_shape), KEY, nonces, generator=seeded(0))
    found = other.invert(model.draw(z, model.subjects(n)))
    x = other.draw(found, other.subjects(n, seed=6))
    yield f"forged by {MODELS[name].other}", measured(model.invert(x), nonces, z)


def unmarked_rows(name: str, n: int) -> Iterator[tuple[str, dict]]:
    """Real pictures and those of another model; with one nonce, counts are not independent."""
    model, nonces = load(name), torch.arange(n)
    noise = model.invert(real(name, n))
    yield "real", measured(noise, nonces)
    yield "real, one nonce", measured(noise, 0)
    yield f"drawn by {MODELS[name].other}", measured(model.invert(drawn_by_other(name, n)), nonces)


def real(name: str, n: int) -> Tensor:
    """Real pictures: digits of the test set, or figures, also for the model of photographs."""
    if name == "mnist_small":
        return data.mnist("test")[0][:n]
    return data.nouns(n, seed=1, split="test").x


def drawn_by_other(name: str, n: int) -> Tensor:
    D = train.load(MODELS[name].other, "cpu")
    if hasattr(D.net, "tokenizer"):
        texts = noun_parts.plain_captions(noun_parts.draw_parts(n, 5, "test"))
        return stored(sampling.text_to_image(D, texts))
    dpmpp_config = sampling.SAMPLERS["dpmpp"]
    return stored(sampling.sample_labels(D, dpmpp_config, 10, torch.arange(n) % 10, 2.0)[0])


def caption_rows(model: Model, n: int) -> Iterator[tuple[str, dict]]:
    """Figures with a caption that the detector knows, or does not."""
    n = math.ceil(n / FEWER)
    nonces = torch.arange(n)
    z = marked_noise((n, *model.D.data_shape), KEY, nonces, generator=seeded(0))
    for parts, scale in itertools.product((1, 3, 5), (1.0, 2.0)) if model.reads else ():
        captions = model.subjects(n, parts=parts)
        x = replace(model, scale=scale).draw(z, captions)
        for end, condition in {"": None, ", known": captions}.items():
            row = measured(model.invert(x, condition), nonces, z)
            yield f"{parts} parts named, w = {scale:g}{end}", row


def variety_rows(model: Model, n: int) -> Iterator[tuple[str, dict]]:
    """n pictures of one condition: what a fixed nonce costs, and what a caption leaves open."""
    shape = (n, *model.D.data_shape)
    one = repeated(model.subjects(1, seed=3), n)
    nonces = torch.arange(n)
    noises = {
        "unmarked": torch.randn(shape, generator=seeded(2)),
        "fresh nonces": marked_noise(shape, KEY, nonces, generator=seeded(2)),
        "one nonce": marked_noise(shape, KEY, 0, generator=seeded(2)),
    }
    for name, z in noises.items():
        x = model.draw(z, one)
        row = measured(model.invert(x), 0 if name == "one nonce" else nonces, z)
        yield f"one subject, {name}", row | {"variety": variety(x)}
    caption = repeated(model.subjects(1, parts=5), n)
    for scale in (1.0, 2.0) if model.reads else ():
        x = replace(model, scale=scale).draw(noises["unmarked"], caption)
        yield f"one caption of 5 parts, w = {scale:g}", {"n": n, "variety": variety(x)}


def repeated(condition: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """One condition, n times."""
    return {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in condition.items()}


def rows_of(name: str, n: int) -> Iterator[dict]:
    model = load(name)
    parts = (
        attacked_rows(model, n),
        forged_elsewhere(name, n),
        unmarked_rows(name, n),
        caption_rows(model, n),
        variety_rows(model, min(n, 100)),
    )
    for part in parts:
        for row, values in part:
            rounded = {k: v if k == "n" else round(v, 4) for k, v in values.items()}
            yield {"model": name, "row": row} | rounded


def write(rows: list[dict]) -> None:
    """To the table, in place of the rows of the same model."""
    kept = []
    if CSV.exists():
        with CSV.open() as file:
            kept = [row for row in csv.DictReader(file) if row["model"] != rows[0]["model"]]
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--n", type=int, default=1000)
    a = parser.parse_args()
    rows = []
    for row in rows_of(a.model, a.n):
        print(row, flush=True)
        rows.append(row)
    write(rows)


if __name__ == "__main__":
    main()
