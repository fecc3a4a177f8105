"""Judge a finished model of clips, sounds or shapes and, with --ship, make it a checkpoint of the
course, its numbers in its header.

    python -m course_lib.lab.training configs/moving_digits.toml
    python tools/recipes/ship_modalities.py moving_digits --ship
        80 test clips, of which two frames are known, continued to 16 frames: is the digit still
        the same, and does it move as fast, as in real clips; beside it other ways to continue, and
        each frame drawn after the real frames before it
    ... drums --ship
        200 sounds: the class that was asked for, the distance to the training recordings and their
        variants, level and clipping; the same for held-out recordings, for fresh variants, and for
        variants with as much hiss as the samples have: would a copy that hisses be found?
    ... clouds --ship
        78 clouds: 1-NNA against training and held-out models, and their Chamfer distance to the
        training models; the same for held-out models and for variants of training models
"""
import argparse
import csv
import json
from pathlib import Path

import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from course_lib import dpmpp, timesteps
from course_lib.denoiser import Denoiser
from course_lib.lab import clips, data, small_sets, sounds, storage, train
from course_lib.lab.data import furniture, percussion
from course_lib.lab.evaluation.sampling import SAMPLERS, sample_batches
from course_lib.video import rollout

STEPS = 20                                                  # of dpmpp, for a sound

rounded = lambda values: [round(float(value), 5) for value in values]


def trained(run: Path) -> dict:
    """How long the training of a run took, by its log."""
    with open(run / "log.csv") as file:
        rows = list(csv.DictReader(file))
    return {"training": {"examples": int(rows[-1]["examples"]),
                         "seconds": round(float(rows[-1]["seconds"]))}}


# ---- clips

def moving_digits(D: Denoiser, n: int = 80) -> dict:
    """Each way to continue, by frame: the share whose digit is lost, and the speeds."""
    real = data.moving_digits(n, frames=16, seed=1, split="test")
    others = data.moving_digits(n, frames=16, seed=2, split="test")
    rows = [{"way": "real"} | of_clips(others.x, real.x, others.x)]
    ways = {
        "one by one": lambda x: continued(D, x[:, :2], 14),
        "one by one, t = 0.05": lambda x: continued(D, x[:, :2], 14, 0.05),
        "one by one, t = 0.1": lambda x: continued(D, x[:, :2], 14, 0.1),
        "two at once, t = 0.05": lambda x: continued(D, x[:, :2], 14, 0.05, new=2),
        "short clips, t = 0.05": lambda x: continued(D, x[:, :2], 14, 0.05, filled=False),
    }
    for way, draw in ways.items():
        x = torch.cat([draw(part) for part in real.x.split(40)])
        rows.append({"way": way} | of_clips(x, real.x, x))
        print(rows[-1], flush=True)
    x = torch.cat([after_real_frames(D, part) for part in real.x.split(40)])
    rows.append({"way": "after real frames, t = 0.05"} | of_clips(x, real.x, real.x))
    return {"n": n, "known": 2, "clips": rows}


def continued(
    D: Denoiser, known: Tensor, frames: int, t_known: float = 0.0, new: int = 1, filled: bool = True
) -> Tensor:
    """The known frames and so many more, in windows of 8; filled: with pure noise, while the clip
    is shorter.
    """
    g = torch.Generator().manual_seed(known.shape[1])
    how = {"new": new, "t_known": t_known, "noisy": t_known > 0, "sampler": dpmpp, "generator": g}
    x, ts = known.to(next(D.parameters()).device), timesteps(D.schedule, 10)
    while not filled and x.shape[1] < 8:
        x, frames = rollout(D, D.schedule, x, ts, 1, x.shape[1] + 1, **how), frames - 1
    return rollout(D, D.schedule, x, ts, frames, 8, **how).cpu().clamp(-1, 1)


def after_real_frames(D: Denoiser, x: Tensor) -> Tensor:
    """Each frame from the third on drawn after the real frames before it, never after drawn ones.
    """
    drawn = [continued(D, x[:, :k], 1, 0.05)[:, -1:] for k in range(2, x.shape[1])]
    return torch.cat([x[:, :2], *drawn], dim=1)


def of_clips(x: Tensor, real: Tensor, before: Tensor) -> dict:
    """The share of clips that do not show their first frame's digit, by frame; the mean and the
    deviation of the speeds of drawn frames, and the Wasserstein distance to those of real clips.

    before: the clips whose frames each frame of x was drawn after; speeds are from theirs to x's
    """
    row = {"lost": rounded(clips.identity_loss(clips.read_digits(x)))}
    own = (clips.positions(x)[:, 1:] - clips.positions(before)[:, :-1]).norm(dim=-1)
    others = clips.speeds(real)
    for name, part in {"to_8": slice(1, 7), "from_9": slice(7, 15)}.items():
        speed, other = (v[:, part][v[:, part].isfinite()] for v in (own, others))
        distance = wasserstein_distance(speed.numpy(), other.numpy())
        row[name] = rounded([speed.mean(), speed.std(), distance])
    return row


# ---- sounds

def drums(D: Denoiser, n: int = 200) -> dict:
    """Samples, fresh variants of the training recordings and held-out ones, by the same measures.
    """
    real, test = data.drums("train"), data.drums("test")
    variants, rows = percussion.augment(real.x, 800)
    fresh, fresh_rows = percussion.augment(real.x, n, seed=7)
    classify = sounds.sound_classifier(variants, real.y[rows])
    y = torch.arange(n) % len(percussion.CLASSES)
    sets = {"held out": (test.x, test.y), "variants": (fresh, real.y[fresh_rows])}
    for w in (1.0, 2.0):
        x = sample_batches(D, SAMPLERS["dpmpp"], STEPS, {"y": y}, scale=w, batch_size=100)
        sets[f"samples, w = {w:g}"] = (x, y)
        hissing = fresh + 10 ** (quietest(x).median() / 20) * torch.randn(
            fresh.shape, generator=torch.Generator().manual_seed(7))
        sets[f"variants with the hiss of w = {w:g}"] = (hissing, real.y[fresh_rows])
    pool = torch.cat([real.x, variants])
    return {"n": n, "sounds": [
        {"set": name} | of_sounds(x, y, classify, pool, test.x) for name, (x, y) in sets.items()
    ]}


def quietest(x: Tensor) -> Tensor:
    """The level of the quietest 16 ms of each sound, in dB of full scale: (N,)"""
    power = x.unflatten(2, (-1, 256)).square().mean((1, 3))             # (N, T / 256)
    return 10 * power.amin(1).clamp(min=1e-12).log10()


def of_sounds(x: Tensor, y: Tensor, classify, pool: Tensor, held_out: Tensor) -> dict:
    right = (classify(x) == y).double()
    ratio, of_all = (sounds.nearest_training_ratio(x, pool, held_out, db) for db in (30, 60))
    checks = sounds.sound_checks(x)
    return {
        "n": len(x),
        "class": rounded([right.mean(), (right.var() / len(x)).sqrt()]),
        "by_class": rounded(right[y == c].mean() for c in range(len(percussion.CLASSES))),
        "ratio": rounded(ratio.quantile(torch.tensor([0.1, 0.5, 0.9]))),
        "near_copies": round((ratio < 0.5).double().mean().item(), 5),
        "ratio_of_60_dB": round(of_all.median().item(), 5),
        "loudness": rounded([checks["loudness"].mean(), checks["loudness"].std()]),
        "silent": checks["silent"].sum().item(),
        "quietest": rounded(quietest(x).quantile(torch.tensor([0.1, 0.5, 0.9]))),
        "clipped": round(checks["clipped"].mean().item(), 6),
    }


# ---- shapes

def clouds(D: Denoiser, n: int = 78) -> dict:
    """As many samples of each class as the held-out models have, twice over; all distances are
    those of as many points as the network was trained on.
    """
    points = D.data_shape[0]
    cut = lambda clouds: clouds.x[:, :points]               # the points are a random draw
    real, test = data.clouds("train"), data.clouds("test")
    variants, which = furniture.augment(data.clouds("train", furniture.POINTS).x, n, seed=7)
    sets = {
        "held out": (cut(test), test.y),
        "training models, other points": (cut(data.clouds("train", seed=1)), real.y),
        "variants": (variants[:, :points], real.y[which]),
    }
    y = test.y.repeat(-(-n // len(test.y)))[:n]
    for w in (1.0, 2.0):
        x = sample_batches(D, SAMPLERS["dpmpp"], 30, {"y": y}, scale=w, clip_range=None)
        sets[f"samples, w = {w:g}"] = (x, y)
    known = {"train": (cut(real), real.y), "held_out": (cut(test), test.y)}
    usual = small_sets.chamfer(cut(test), cut(real))
    return {"n": n, "points": points, "clouds": [
        {"set": name} | of_clouds(x, y, known, usual) for name, (x, y) in sets.items()
    ]}


def of_clouds(x: Tensor, y: Tensor, known: dict, usual: Tensor) -> dict:
    ratio = small_sets.nearest_ratio(small_sets.chamfer(x, known["train"][0]), usual)
    row = {"n": len(x), "ratio": rounded([ratio.median, ratio.low, ratio.high])}
    row["near_copies"] = round((ratio.each < 0.5).double().mean().item(), 5)
    for name, (other, labels) in known.items():
        row[f"one_nna_{name}"] = matched_one_nna(x, y, other, labels)
    return row


def matched_one_nna(x: Tensor, y: Tensor, other: Tensor, labels: Tensor, draws: int = 20) -> list:
    """1-NNA and its interval, of as many of each class from both sets: the mean over random draws.
    """
    both = torch.cat([x, other])
    d, g = small_sets.chamfer(both, both), torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        rows = [[], []]
        for c in range(len(furniture.CLASSES)):
            of_class = [(y == c).nonzero()[:, 0], len(x) + (labels == c).nonzero()[:, 0]]
            k = min(map(len, of_class))
            for part, ids in zip(rows, of_class):
                part.append(ids[torch.randperm(len(ids), generator=g)[:k]])
        a, b = (torch.cat(part) for part in rows)
        found.append(torch.tensor(small_sets.one_nna(a, b, lambda i, j: d[i][:, j])))
    return rounded(torch.stack(found).mean(0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    judges = {"moving_digits": moving_digits, "drums": drums, "clouds": clouds}
    parser.add_argument("name", choices=judges)
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    file: Path = train.runs_folder() / arguments.name / f"{arguments.name}.safetensors"
    D = train.load(file)
    numbers = judges[arguments.name](D) | trained(file.parent)
    command = f"python tools/recipes/ship_modalities.py {arguments.name}"
    numbers |= {"judged_by": command, "machine": train.about_machine()}
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        shipped = storage.CHECKPOINTS / file.name
        train.save(D, shipped, **D.about, metrics=numbers)
        print(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
