"""Judge a finished training and, with --ship, make it a checkpoint of the course, its numbers in
its header.

    python -m course_lib.lab.training configs/mnist.toml
    python tools/recipes/ship.py mnist
        the numbers: 20 ancestral steps, 10,000 samples with w = 1, 2,000 with w = 2
    python tools/recipes/ship.py mnist --ship
        ... and course_lib/assets/checkpoints/mnist.safetensors
    python tools/recipes/ship.py cifar10 --n 2000
        photographs, seen by AlexNet (shipped, for LPIPS): 15 minutes on a CPU
    python tools/recipes/ship.py nouns --n 500
        text to image: every part of every picture right or wrong, on new combinations and
        new pairs
    python tools/recipes/ship.py cifar10 --n 50000 --eyes inception
        ... by Inception, the FID that papers print (pip install torch-fidelity): for a GPU
"""
import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from course_lib import ancestral, cfg, clip, last, timesteps
from course_lib.denoiser import Denoiser
from course_lib.lab import (
    attributes,
    data,
    features,
    metrics,
    noun_parts,
    sampler_study,
    sampling,
    storage,
    train,
)
from course_lib.networks.vae import AutoencoderKL


@torch.no_grad()
def samples(D: Denoiser, y: Tensor, w: float, steps: int, seed: int = 0) -> Tensor:
    """A digit for each label: (N, 1, 28, 28), on the CPU."""
    on = next(D.parameters()).device
    g = torch.Generator().manual_seed(seed)
    parts = []
    guided = clip(D if w == 1 else cfg(D, w, {"y": D.net.num_classes}))
    for part in y.split(500):
        x = D.schedule.sample_prior((len(part), 1, 28, 28), generator=g, device=on)
        parts.append(
            last(ancestral(guided, D.schedule, x, timesteps(D.schedule, steps), g, y=part.to(on)))
            .cpu()
            .clamp(-1, 1)
        )
    return torch.cat(parts)


@torch.no_grad()
def loss_by_level(D: Denoiser, n: int = 2000, levels: int = 10) -> list[float]:
    """The loss on test digits at t = 0.05, 0.15, ..., the same noise each time."""
    x, y = (part[:n] for part in data.mnist("test"))
    on = next(D.parameters()).device
    g = torch.Generator().manual_seed(0)
    losses = []
    for t in (torch.arange(levels) + 0.5) / levels:
        eps = torch.randn(x.shape, generator=g)
        losses.append(
            torch.cat(
                [
                    D.loss(a.to(on), torch.full((len(a),), float(t)), e.to(on), y=b.to(on)).cpu()
                    for a, e, b in zip(x.split(500), eps.split(500), y.split(500))
                ]
            )
            .mean()
            .item()
        )
    return [round(loss, 5) for loss in losses]


def judged(D: Denoiser, n: int, steps: int, w: float) -> dict:
    """The numbers of n samples with labels as frequent as in the training set."""
    labels = data.mnist("train")[1]
    y = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:n]]
    x = samples(D, y, w, steps)
    z, real = features.digit_features(x), features.features_of_test_split()
    precision, recall = metrics.precision_recall(real[:5000], z[:5000])
    kid, error = metrics.kid(z, real)
    return {
        "w": w,
        "steps": steps,
        "n": n,
        "class_agreement": metrics.class_agreement(x, y),
        "frechet_distance": metrics.frechet_distance(z, real),
        "frechet_distance_of_2000": metrics.frechet_distance(z[:2000], real),
        "kid": kid,
        "kid_error": error,
        "precision": precision,
        "recall": recall,
    }


def photographs(D: Denoiser, n: int, steps: int, w: float, eyes: str) -> dict:
    """Fréchet distance of n samples (DPM-Solver++, as many of each class) to all training
    photographs, and what test photographs score.
    """
    look = (
        features.inception(device=train.default_device())
        if eyes == "inception"
        else features.alexnet_features
    )
    stream = lambda parts: metrics.RunningMoments(look(part) for part in parts)
    real, test = stream(data.cifar10("train")[0].split(500)), data.cifar10("test")[0]
    labels = (torch.arange(n) % 10).split(500)
    made = stream(
        sampling.sample_labels(D, sampler_study.SAMPLERS["dpmpp"], steps, part, w, seed)[0]
        for seed, part in enumerate(labels)
    )
    return {
        "eyes": eyes,
        "real": {
            "frechet_distance_of_test": metrics.frechet_distance(stream(test.split(500)), real),
            f"frechet_distance_of_{n}_of_test": (
                metrics.frechet_distance(stream(test[:n].split(500)), real)
            ),
        },
        "samples": [
            {
                "w": w,
                "steps": steps,
                "n": n,
                "sampler": "dpmpp",
                "frechet_distance": metrics.frechet_distance(made, real),
            }
        ],
    }


def captioned(D: Denoiser, n: int, steps: int) -> dict:
    """The share of right parts in n pictures of new combinations, for each w and wording, and of
    new pairs; squared error to the asked picture.
    """
    latents = D.about["config"].get("latents")
    vae = None if latents is None else train.load(latents)

    def row(split: str, w: float, wording: str = "plain") -> dict:
        parts = noun_parts.draw_parts(n, seed=5, split=split)
        x = sampling.text_to_image(
            D,
            noun_parts.plain_captions(parts)
            if wording == "plain"
            else noun_parts.captions(parts, seed=2),
            w,
            steps,
            vae=vae,
        )
        right = attributes.attributes_correct(x, parts).double().mean(0).tolist()
        return {
            "split": split,
            "wording": wording,
            "w": w,
            "steps": steps,
            "n": n,
            "right": dict(zip(noun_parts.PARTS, right)),
            "squared_error": (x - noun_parts.render(parts)).square().mean().item(),
        }
    parts = noun_parts.draw_parts(n, seed=5, split="test")
    real = attributes.attributes_correct(noun_parts.render(parts), parts).double().mean(0).tolist()
    return {
        "real": {
            "right": dict(zip(noun_parts.PARTS, real)),
            "guessing": dict(zip(noun_parts.PARTS, attributes.chance_accuracy(parts).tolist())),
        },
        "samples": [
            *(row("test", w) for w in (1.0, 1.5, 2.0, 3.0, 5.0)),
            row("test", 2.0, "varied"),
            row("pairs", 2.0),
        ],
    }


@torch.no_grad()
def reconstructed(vae: AutoencoderKL, n: int) -> dict:
    """Images through the latent and back: squared error and the share of right parts, on new
    combinations and new pairs, and each channel's deviation.
    """
    def row(split: str) -> dict:
        x, _, parts = data.nouns(n, seed=1, split=split)
        again = torch.cat([vae(part.to(vae.shift.device)).cpu() for part in x.split(250)])
        right = attributes.attributes_correct(again.clamp(-1, 1), parts).double().mean(0)
        return {
            "split": split,
            "n": n,
            "right": dict(zip(noun_parts.PARTS, right.tolist())),
            "squared_error": (again - x).square().mean().item(),
        }
    mean, log_variance = vae.encode(data.nouns(1000).x.to(vae.shift.device))
    return {
        "reconstructions": [row("test"), row("pairs")],
        "deviation_of_means": mean.std((0, 2, 3)).tolist(),
        "deviation_of_posterior": (log_variance / 2).exp().mean((0, 2, 3)).tolist(),
    }


def digits(D: Denoiser, n: int, steps: int) -> dict:
    """The numbers of n digits with w = 1 and of 2,000 with w = 2, and what real digits score."""
    x, y = data.mnist("test")
    floors = [
        [metrics.frechet_real_baseline(count, seed) for seed in range(5)] for count in (n, 2000)
    ]
    return {
        "real": {
            "class_agreement": metrics.class_agreement(x, y),
            "frechet_floor": floors[0],
            "frechet_floor_of_2000": floors[1],
        },
        "loss_at_0.05_to_0.95": loss_by_level(D),
        "samples": [judged(D, count, steps, w) for count, w in ((n, 1.0), (2000, 2.0))],
    }


def arguments_of_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--w", type=float, default=1.0, help="guidance for photographs")
    parser.add_argument(
        "--eyes",
        choices=("alexnet", "inception"),
        default="alexnet",
        help="whose features photographs are judged by",
    )
    parser.add_argument("--ship", action="store_true")
    return parser.parse_args()


def card(D: Denoiser, a: argparse.Namespace) -> dict:
    """The numbers of a model, by the data that it draws."""
    more = ""
    if isinstance(D, AutoencoderKL):
        numbers = reconstructed(D, a.n)
    elif D.about["data"] == "cifar10":
        numbers = photographs(D, a.n, a.steps, a.w, a.eyes)
        more = f" --w {a.w} --eyes {a.eyes}"
    elif D.about["data"] == "nouns":
        numbers = captioned(D, a.n, a.steps)
    else:
        numbers = digits(D, a.n, a.steps)
    command = f"python tools/recipes/ship.py {a.name} --n {a.n} --steps {a.steps}{more}"
    return numbers | {"judged_by": command, "machine": train.about_machine()}


def print_floors(numbers: dict, n: int) -> None:
    """How far digits are from what real digits score."""
    for count, of in ((n, ""), (2000, "_of_2000")):
        floor = numbers["real"]["frechet_floor" + of]
        mean = sum(floor) / len(floor)
        ratio = numbers["samples"][0]["frechet_distance" + of] / mean
        print(
            f"w = 1, {count} samples: {ratio:.2f} times the floor ({mean:.3f}, from "
            f"{min(floor):.3f} to {max(floor):.3f} over {len(floor)} draws)"
        )


def main() -> None:
    arguments = arguments_of_command_line()
    file: Path = train.runs_folder() / arguments.name / f"{arguments.name}.safetensors"
    D = train.load(file)
    numbers = card(D, arguments)
    print(json.dumps(numbers, indent=1))
    if D.about["data"] == "mnist":
        print_floors(numbers, arguments.n)
    if arguments.ship:
        shipped = storage.CHECKPOINTS / file.name
        train.save(D, shipped, **D.about, metrics=numbers)
        print(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
