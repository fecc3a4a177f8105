"""The two-step digits: `mnist_small` made consistent in a quarter of its own training time, judged,
and with --ship a checkpoint.

    python tools/recipes/distil.py
        five minutes on two cores: the training with and without the teacher as a guide, and
        the numbers of all
    python tools/recipes/distil.py --ship
        ... and course_lib/assets/checkpoints/mnist_consistency.safetensors
"""
import argparse
import copy
import json
import time

import torch

from course_lib import Consistency, Denoiser, clip, consistency_sampling, ddim
from course_lib.lab import data, metrics, sampler_study, storage, train

STEPS, RATES = 735, {"lr": 4e-3, "muon_lr": 0.02}
WAYS = {
    "ddim": sampler_study.SamplerConfig(ddim),
    "consistency": sampler_study.SamplerConfig(consistency_sampling),
}


def seconds_of_teacher(x: torch.Tensor, y: torch.Tensor, steps: int = 200) -> float:
    """What the teacher's 5,000 steps take on this machine now, from so many of them."""
    D = train.load("mnist_small")
    start = time.perf_counter()
    train.train(D.requires_grad_(True), (x, y), steps=steps)
    return (time.perf_counter() - start) * 5000 / steps


def made_consistent(
    teacher: Denoiser, x: torch.Tensor, y: torch.Tensor, guided: bool
) -> tuple[Denoiser, float]:
    """A copy of the teacher, trained to jump; and the seconds that took."""
    D = Consistency(
        copy.deepcopy(teacher.net).requires_grad_(True),
        teacher.schedule,
        clip(teacher) if guided else None,
    )
    start = time.perf_counter()
    return (
        train.train(D, (x, y), steps=STEPS, time_sampler=D.time_sampler, p_drop=0.0, **RATES),
        time.perf_counter() - start,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--n", type=int, default=4000)
    arguments = parser.parse_args()
    x, y = data.mnist("train")
    of_teacher, teacher = seconds_of_teacher(x, y), train.load("mnist_small")
    (student, seconds), (alone, _) = (
        made_consistent(teacher, x, y, guided) for guided in (True, False)
    )
    card = {
        "seconds": round(seconds),
        "teacher": "mnist_small",
        "teacher_seconds_in_the_same_run": round(of_teacher),
        "machine": train.about_machine(),
        "frechet_floor": metrics.frechet_real_baseline(arguments.n, balanced=True),
        "samples": [],
    }
    for name, denoiser, way, counts in (
        ("teacher", teacher, "ddim", (1, 2, 4, 18)),
        ("teacher", teacher, "consistency", (1, 2, 4)),
        ("student", student, "consistency", (1, 2, 4)),
        ("without a guide", alone, "consistency", (1, 2, 4)),
    ):
        for row in sampler_study.analyze_sampling_quality(
            denoiser, counts, {way: WAYS[way]}, arguments.n
        ):
            card["samples"].append(
                {"model": name}
                | {
                    key: row[key]
                    for key in (
                        "sampler",
                        "evaluations",
                        "n",
                        "frechet_distance",
                        "kid",
                        "kid_error",
                        "agreement",
                    )
                }
            )
    print(json.dumps(card, indent=1))
    if arguments.ship:
        file = storage.ASSETS / "checkpoints/mnist_consistency.safetensors"
        train.save(
            student,
            file,
            data="mnist",
            command="python tools/recipes/distil.py --ship",
            steps=STEPS,
            batch=128,
            rates=RATES,
            levels=student.levels,
            metrics=card,
        )
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
