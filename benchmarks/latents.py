"""Which latents does a diffusion model like? Three experiments on captioned figures (nouns).

    python benchmarks/latents.py channels
        autoencoders with 2, 4, 8 and 16 channels, two seeds; on each, standardised, one and the
        same diffusion model: about 10 minutes a row on two idle cores
    python benchmarks/latents.py scale
        the autoencoder with 8 channels; the diffusion model with its latents rescaled to deviation
        1, as they are, and at 5.5, the deviation of Stable Diffusion's, there also with two repairs
    python benchmarks/latents.py readers
        a U-Net with cross-attention and a transformer with joint attention (MM-DiT) on the latents
        of `nouns_vae`, 30 minutes each
    python benchmarks/latents.py pixels
        the shipped models `nouns` and `nouns_latent` side by side: 2,000 captions of new
        combinations and of new pairs, the same for both, and the time from captions to pixels, in
        turns; half an hour. To course_lib/assets/latents_pixels.csv

Autoencoders take 3,000 steps of 16 images and Stable Diffusion's KL weight, 1e-6; diffusion models
1,500 steps of 32 (`readers`: 1,800 seconds of 64). Measured by the attribute accuracy of 1,000
reconstructions and of 500 samples (w = 2, 10 steps of DPM-Solver++), both of combinations that
training never has. Rows go to course_lib/assets/latents.csv as they are finished, and eight samples
of each to latents.safetensors beside it; a row that is there is not repeated. The same command in
two processes, each on a core of its own (OMP_NUM_THREADS=1 taskset -c 0), shares the rows: each is
computed once.
"""
import argparse
import copy
import csv
import itertools
import json
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from course_lib import Denoiser, Schedule
from course_lib.lab import attributes, data, noun_parts, profiling, sampling, storage, train
from course_lib.lab.training.runs import runs_folder
from course_lib.networks.dit import MMDiT
from course_lib.networks.text import ConditionalUNet, word_dropout
from course_lib.networks.vae import AutoencoderKL
from course_lib.schedules import append_dims

CSV = storage.ASSETS / "latents.csv"
SAMPLES = storage.ASSETS / "latents.safetensors"
PIXELS = storage.ASSETS / "latents_pixels.csv"
DECODED = [f"decoded_{part}" for part in noun_parts.PARTS]
SAMPLED = [f"sampled_{part}" for part in noun_parts.PARTS]
COLUMNS = ["experiment", "variant", "seed", "steps", "seconds", "parameters", "latent_std"]
COLUMNS += ["squared_error", *DECODED, *SAMPLED]
VARIANTS = {
    "channels": ("2", "4", "8", "16"),
    "scale": (
        "rescaled", "forgotten", "deviation 5.5", "5.5, schedule shifted", "5.5, input normalised"
    ),
    "readers": ("U-Net, cross-attention", "MM-DiT"),
}
SEEDS = {"channels": (0, 1), "scale": (0, 1), "readers": (0,)}
AUTOENCODER = {"steps": 3_000, "batch_size": 16}
LARGE = 5.5                                                 # 1 / 0.18215, Stable Diffusion's factor
DIFFUSION = {"steps": 1_500, "batch_size": 32, "p_drop": 0.1}
EXAMPLES = 50_000
cosine = Schedule.cosine()


def finished(model: nn.Module) -> nn.Module:
    """The model of a run that came to its end. Ctrl-C returns one of less training: no row of that.
    """
    if not model.done:
        raise SystemExit("stopped: the same command goes on from here")
    return model


# ---- autoencoders

def autoencoder(channels: int, seed: int) -> AutoencoderKL:
    """Trained, on its standardised latents; kept in runs/, so that it is trained once."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(3, channels, widths=(48, 64), depth=1, patch_size=2, kl_weight=1e-6)
    x, name = data.nouns(EXAMPLES).x, f"latents_{channels}_{seed}"
    with FileLock(runs_folder() / f"{name}.lock"):          # a second process waits for it
        vae = finished(train.train(vae, x, seed=seed, run_name=name, **AUTOENCODER))
    vae.fit_scale(x[:5000].to(vae.shift.device))
    return vae.requires_grad_(False)


@torch.no_grad()
def reconstruction(vae: AutoencoderKL, n: int = 1000) -> dict:
    """Squared error and attribute accuracy of n reconstructions; the latents' deviation."""
    test = data.nouns(n, seed=1, split="test")
    device = vae.shift.device
    means = torch.cat([vae.encode(part.to(device))[0] for part in test.x.split(250)])
    again = torch.cat([vae.decode(part).cpu() for part in means.split(250)])
    right = attributes.attributes_correct(again.clamp(-1, 1), test.parts).double().mean(0)
    return {
        "latent_std": means.std().item(),
        "squared_error": (again - test.x).square().mean().item(),
        **dict(zip(DECODED, right.tolist())),
    }


# ---- the scale of the latents

def unscaled(vae: AutoencoderKL, factor: float = 1.0) -> AutoencoderKL:
    """The autoencoder with its latents as they are, times one factor for all channels."""
    vae = copy.deepcopy(vae)
    vae.shift.zero_()
    vae.scale.fill_(factor)
    return vae


def shifted(schedule: Schedule, c: float) -> Schedule:
    """The variance-preserving schedule whose log SNR is lower by 2 log c at every t."""
    size = lambda t: (schedule.alpha(t) ** 2 + c**2 * schedule.sigma(t) ** 2).sqrt()
    return Schedule(
        lambda t: schedule.alpha(t) / size(t), lambda t: c * schedule.sigma(t) / size(t)
    )


class NormalisedInput(ConditionalUNet):
    """Gets latents with deviation c, and divides x_t by its own deviation first."""

    c = 1.0

    def forward(self, x: Tensor, t: Tensor, *args, **kwargs) -> Tensor:
        size = (self.c**2 * cosine.alpha(t) ** 2 + cosine.sigma(t) ** 2).sqrt()
        return super().forward(x / append_dims(size, x).to(x.dtype), t, *args, **kwargs)


# ---- diffusion models

def unet(channels: int, kind: type = ConditionalUNet) -> ConditionalUNet:
    return kind(
        channels=channels,
        words=noun_parts.vocabulary(),
        patch_size=1,
        widths=(96, 80),
        attention_levels=(True, True),
        num_heads=4,
    )


def mmdit(channels: int) -> MMDiT:
    words = noun_parts.vocabulary()
    return MMDiT(channels, 8, words, patch_size=1, dim=128, depth=3, num_heads=4)


def trained(D: Denoiser, vae: AutoencoderKL, name: str, seed: int, options: dict) -> Denoiser:
    """D after training on the latents of EXAMPLES captioned figures."""
    made = data.nouns(EXAMPLES)
    device = vae.shift.device
    z = torch.cat([vae.to_latents(part.to(device)).cpu() for part in made.x.split(500)])
    tokens = word_dropout(D.net.tokenizer(made.captions))
    D = train.train(
        D,
        {"x0": z, "tokens": tokens},
        seed=seed,
        data_range=None,
        time_sampler=train.normal_log_snr(cosine, -3.0, 2.5),           # the same t for all
        run_name=name,
        **options,
    )
    return finished(D)


def sample(D: Denoiser, vae: AutoencoderKL, n: int = 500) -> tuple[dict, Tensor]:
    """Attribute accuracy of n samples, and the first eight, in bytes."""
    parts = noun_parts.draw_parts(n, seed=5, split="test")
    x = sampling.text_to_image(D, noun_parts.plain_captions(parts), vae=vae)
    right = attributes.attributes_correct(x, parts).double().mean(0).tolist()
    return dict(zip(SAMPLED, right)), ((x[:8] + 1) * 127.5).round().to(torch.uint8)


def prepared(experiment: str, variant: str, seed: int) -> tuple[Denoiser, AutoencoderKL, dict]:
    """The untrained denoiser, the autoencoder whose latents it gets, and how long it trains."""
    if experiment == "readers":
        vae = train.load("nouns_vae")
        torch.manual_seed(seed)
        net = mmdit(8) if variant == "MM-DiT" else unet(8)
        return Denoiser(net, cosine, "v"), vae, {"seconds": 1800, "batch_size": 64}
    vae = autoencoder(int(variant) if experiment == "channels" else 8, seed)
    c = reconstruction(vae, 200)["latent_std"]
    if experiment == "scale":
        wanted = {"rescaled": 1.0, "forgotten": c}.get(variant, LARGE)
        vae, c = unscaled(vae, wanted / c), wanted
    torch.manual_seed(seed)
    if variant.endswith("input normalised"):
        net = unet(8, NormalisedInput)
        net.c = c
        return Denoiser(net, cosine, "v"), vae, DIFFUSION
    schedule = shifted(cosine, c) if variant.endswith("schedule shifted") else cosine
    return Denoiser(unet(vae.latent_channels), schedule, "v"), vae, DIFFUSION


def row(experiment: str, variant: str, seed: int) -> tuple[dict, Tensor]:
    """One row of the table, and eight samples."""
    D, vae, options = prepared(experiment, variant, seed)
    name = f"latents_{experiment}_{variant}_{seed}".replace(" ", "_").replace(",", "")
    D = trained(D, vae, name, seed, options)
    numbers, x = sample(D, vae)
    values = {"experiment": experiment, "variant": variant, "seed": seed}
    values |= {"steps": D.history[-1][0], "seconds": training_seconds(D.run_folder)}
    values |= {"parameters": sum(p.numel() for p in D.net.parameters())}
    rounded = {k: round(v, 5) for k, v in (reconstruction(vae) | numbers).items()}
    return values | rounded, x


def training_seconds(folder: Path) -> int:
    """Of a run, with those before an interruption."""
    with (folder / "log.csv").open() as file:
        return round(float(list(csv.DictReader(file))[-1]["seconds"]))


# ---- the table

def done_rows() -> set[tuple[str, str, str]]:
    """Experiment, variant and seed of the rows that the table has."""
    if not CSV.exists():
        return set()
    with CSV.open() as file:
        return {(r["experiment"], r["variant"], r["seed"]) for r in csv.DictReader(file)}


def append_rows(experiment: str) -> None:
    """Measure every row of an experiment that is not there yet, and that no process works on."""
    for seed, variant in itertools.product(SEEDS[experiment], VARIANTS[experiment]):
        claim = FileLock(runs_folder() / f"latents_{experiment}_{variant}_{seed}.lock", timeout=0)
        try:
            with claim:
                if (experiment, variant, str(seed)) not in done_rows():
                    append(*row(experiment, variant, seed))
        except Timeout:
            print(f"{experiment}, {variant}, {seed}: another process works on it", flush=True)


def append(values: dict, x: Tensor) -> None:
    """Write a finished row to the table and its samples to the file beside it."""
    with FileLock(runs_folder() / "latents.lock"):
        keep("{experiment}, {variant}, {seed}".format(**values), x)
        with CSV.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if CSV.stat().st_size == 0:
                writer.writeheader()
            writer.writerow(values)
    print(json.dumps(values), flush=True)


def keep(name: str, x: Tensor, file: Path = SAMPLES) -> None:
    """Add eight samples, in bytes, to the file beside the table."""
    tensors = storage.load_tensors(file)[0] if file.exists() else {}
    command = "python benchmarks/latents.py channels | scale | readers"
    storage.save_tensors(file, tensors | {name: x.contiguous()}, {"command": command})


# ---- beside the model on pixels

def paired(split: str, n: int) -> list[dict]:
    """Attribute accuracy of both models for the same captions, and of the difference the error."""
    parts = noun_parts.draw_parts(n, seed=5, split=split)
    captions = noun_parts.plain_captions(parts)
    vae = train.load("nouns_vae")
    x = sampling.text_to_image(train.load("nouns"), captions)
    of_pixels = attributes.attributes_correct(x, parts).double()
    x = sampling.text_to_image(train.load("nouns_latent"), captions, vae=vae)
    of_latents = attributes.attributes_correct(x, parts).double()
    rows = []
    for k, part in enumerate(noun_parts.PARTS):
        a, b = of_pixels[:, k], of_latents[:, k]
        row = {"measure": f"{part}, {split}", "n": n, "pixels": a.mean(), "latents": b.mean()}
        rows.append(row | {"difference": (b - a).mean(), "error": (b - a).std() / n**0.5})
    return rows


def timed(B: int, rounds: int) -> dict:
    """Seconds from B captions to B pictures: 10 guided steps, text and decoder included."""
    captions = data.nouns(B, seed=3).captions
    T, L, vae = (train.load(name) for name in ("nouns", "nouns_latent", "nouns_vae"))
    pixels, latents = profiling.median_seconds(
        lambda: sampling.text_to_image(T, captions),
        lambda: sampling.text_to_image(L, captions, vae=vae),
        rounds=rounds,
    )
    return {"measure": f"seconds, batch {B}", "n": rounds, "pixels": pixels, "latents": latents,
            "difference": pixels / latents}


def against_pixels(n: int = 2000) -> None:
    """The table of both models; the "difference" of times is their ratio."""
    rows = [timed(1, 9), timed(100, 3), *paired("test", n), *paired("pairs", n)]
    with PIXELS.open("w", newline="") as file:
        columns = ["measure", "n", "pixels", "latents", "difference", "error"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = {k: v if isinstance(v, (str, int)) else f"{float(v):.4f}"
                      for k, v in row.items()}
            writer.writerow(values)
            print(values)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=(*VARIANTS, "pixels"))
    experiment = parser.parse_args().experiment
    print(train.about_machine())
    if experiment == "pixels":
        against_pixels()
    else:
        append_rows(experiment)


if __name__ == "__main__":
    main()
