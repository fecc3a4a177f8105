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
from course_lib.lab import data, metrics, sampler_study, sampling, storage, train

STEPS, RATES = 735, {"lr": 4e-3, "muon_lr": 0.02}
SAMPLERS = {
    "ddim": sampling.SamplerConfig(ddim),
    "consistency": sampling.SamplerConfig(consistency_sampling),
}
COLUMNS = (
    "sampler",
    "evaluations",
    "n",
    "frechet_distance",
    "kid",
    "kid_error",
    "agreement",
)


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
    trained = train.train(D, (x, y), steps=STEPS, p_drop=0.0, **RATES)
    if not trained.done:
        raise SystemExit("stopped: nothing is kept of a distillation that was interrupted")
    return trained, time.perf_counter() - start


def rows(name: str, D: Denoiser, sampler: str, counts: tuple[int, ...], n: int) -> list[dict]:
    """What a model scores with each number of evaluations."""
    found = sampler_study.analyze_sampling_quality(D, counts, {sampler: SAMPLERS[sampler]}, n)
    return [{"model": name} | {key: row[key] for key in COLUMNS} for row in found]


def card(n: int) -> tuple[Denoiser, dict]:
    """The student, and its numbers beside the teacher's and those of a model without a teacher."""
    x, y = data.mnist("train")
    of_teacher, teacher = seconds_of_teacher(x, y), train.load("mnist_small")
    student, seconds = made_consistent(teacher, x, y, guided=True)
    alone, _ = made_consistent(teacher, x, y, guided=False)
    return student, {
        "seconds": round(seconds),
        "teacher": "mnist_small",
        "teacher_seconds_in_the_same_run": round(of_teacher),
        "machine": train.about_machine(),
        "frechet_floor": metrics.frechet_real_baseline(n, balanced=True),
        "samples": [
            *rows("teacher", teacher, "ddim", (1, 2, 4, 18), n),
            *rows("teacher", teacher, "consistency", (1, 2, 4), n),
            *rows("student", student, "consistency", (1, 2, 4), n),
            *rows("without a guide", alone, "consistency", (1, 2, 4), n),
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--n", type=int, default=4000)
    arguments = parser.parse_args()
    student, numbers = card(arguments.n)
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        file = storage.CHECKPOINTS / "mnist_consistency.safetensors"
        how = {"steps": STEPS, "batch_size": 128, "rates": RATES, "levels": student.levels}
        command = "python tools/recipes/distil.py --ship"
        train.save(student, file, data="mnist", command=command, **how, metrics=numbers)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
