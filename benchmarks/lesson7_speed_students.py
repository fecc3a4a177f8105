"""Three students of mini-SD's guided predictions, for the rows of lesson7_speed.py.

    python benchmarks/lesson7_speed_students.py guided      mini-SD's own U-Net, trained on
    python benchmarks/lesson7_speed_students.py half        a U-Net of half the width, from nothing
    python benchmarks/lesson7_speed_students.py consistency mini-SD's own U-Net, made consistent

To runs/lesson7_student_NAME; stopped, the same command goes on. The teacher is mini-SD with
guidance of w = 2. The loss of the first two is the squared difference of the clean latents over
sigma^2: a student is asked once a step where its teacher is asked twice (Meng et al. 2023). The
third learns where the teacher's guided path ends, from t = 1/4, 1/2, 3/4 and 1 (course_lib's
Consistency, as lesson 4). Text encoder and decoder stay mini-SD's. On one core of an idle machine
7, 12 and 15 minutes.
"""
import argparse
import copy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools/recipes"))
from train_mini_sd import UNET, three_wordings, without_withheld  # noqa: E402

from course_lib import Consistency, Denoiser, cfg  # noqa: E402
from course_lib.lab import data, train  # noqa: E402
from course_lib.lab.evaluation import inference  # noqa: E402
from course_lib.lab.training.configured import to_latents  # noqa: E402
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet  # noqa: E402
from course_lib.schedules import append_dims  # noqa: E402

EXAMPLES, SCALE = 20_000, 2.0
BATCH = 32
LEVELS = 4                                                  # of the consistent student
STUDENTS = {
    "guided": {"steps": 500, "lr": 5e-4, "muon_lr": 2e-3},
    "half": {"steps": 800, "lr": 4e-3, "muon_lr": 0.02},
    "consistency": {"steps": 800, "lr": 5e-4, "muon_lr": 2e-3},
}


def start_of(name: str, teacher: StableDiffusionUNet) -> StableDiffusionUNet:
    """A student's U-Net before its training."""
    if name != "half":
        return copy.deepcopy(teacher)
    torch.manual_seed(0)
    widths = tuple(width // 2 for width in UNET["widths"])
    return StableDiffusionUNet(**UNET | {"widths": widths, "num_groups": 16})


class Student(nn.Module):
    """A U-Net, and the loss against a teacher that is not trained."""

    def __init__(self, teacher: Denoiser, unet: nn.Module):
        super().__init__()
        self.unet = unet
        self.taught = [teacher]                             # in a list: no part of this module
        self.schedule = teacher.schedule

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor) -> Tensor:
        """x0, eps: (B, 8, 8, 8), t: (B,), tokens: (B, L) -> (B,)"""
        x_t = self.schedule.perturb(x0, t, eps)
        with torch.no_grad():
            text, guided = self.guided(tokens, len(x0))
            wanted = guided(x_t, t, **text)
        found = inference.with_unet(self.taught[0], self.unet)(x_t, t, **text)
        sigma = append_dims(self.schedule.sigma(t).clamp(min=0.05), x_t)
        return ((found - wanted) / sigma).square().flatten(1).mean(1)

    @torch.no_grad()
    def guided(self, tokens: Tensor, B: int) -> tuple[dict[str, Tensor], Callable]:
        """The text's condition, and the teacher with guidance."""
        teacher = self.taught[0]
        none = teacher.net.encode(teacher.net.null["tokens"], 1)
        null = {name: value.expand(B, -1, -1) for name, value in none.items()}
        return teacher.net.encode(tokens, B), cfg(teacher, SCALE, null)


class ConsistentStudent(Student):
    """The same, with the loss of a consistency model whose teacher is guided."""

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor) -> Tensor:
        """t: (B,) on the levels; the others as above."""
        text, guided = self.guided(tokens, len(x0))
        D = inference.with_unet(self.taught[0], self.unet)
        model = Consistency(D.net, self.schedule, guided, target=D.target, levels=LEVELS)
        return model.loss(x0, t, eps, **text)


@cache
def times() -> Callable[[Tensor], Tensor]:
    """Uniform numbers in (0, 1] -> the times of mini-SD's training."""
    return train.normal_log_snr(train.load("mini_sd", "cpu").schedule, -2.0, 2.5)


def draw(batch: dict, generator: torch.Generator) -> dict:
    """Times as for mini-SD, and noise."""
    x0 = batch["x0"]
    t = times()(1 - torch.rand(len(x0), generator=generator))
    return batch | {"t": t, "eps": torch.randn(x0.shape, generator=generator)}


def draw_levels(batch: dict, generator: torch.Generator) -> dict:
    """Each of the levels equally often, and noise."""
    x0 = batch["x0"]
    t = torch.randint(1, LEVELS + 1, (len(x0),), generator=generator) / LEVELS
    return batch | {"t": t, "eps": torch.randn(x0.shape, generator=generator)}


def trained(name: str) -> StableDiffusionUNet:
    """The U-Net of a finished run, or of one that is trained now."""
    D = train.load("mini_sd", "cpu")
    figures = without_withheld(data.nouns(EXAMPLES))
    batch = {
        "x0": to_latents(figures.x, "nouns_vae"),
        "tokens": D.net.tokenizer(three_wordings(figures)),
    }
    kind, drawn = (ConsistentStudent, draw_levels) if name == "consistency" else (Student, draw)
    student = train.train(
        kind(D, start_of(name, D.net.unet)), batch, draw=drawn, batch_size=BATCH, seed=0,
        data_range=None, device="cpu", run_name=f"lesson7_student_{name}", **STUDENTS[name],
    )
    if not student.done:
        raise SystemExit("stopped: the same command goes on from here")
    return student.unet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", choices=STUDENTS)
    name = parser.parse_args().student
    unet = trained(name)
    torch.save(unet.state_dict(), train.runs_folder() / f"lesson7_student_{name}/unet.pt")
    print(f"{name}: {sum(p.numel() for p in unet.parameters()):,} parameters")


if __name__ == "__main__":
    main()
