"""What an adapter learns from a dozen pictures: LoRA of mini-SD on the heads that it never saw.

    python tools/recipes/mini_sd_lora.py
        to course_lib/assets/mini_sd_lora.csv, row by row; stopped, the same command goes on
    python tools/recipes/mini_sd_lora.py --time
        how many steps 45 seconds are on this machine, for the adapter and for all weights
    python tools/recipes/mini_sd_lora.py --tune
        other learning rates, on another dozen and other prompts; rows of seed 100 in the same file
    python tools/recipes/mini_sd_lora.py --quick
        one head, few steps and few prompts: prints, and writes nothing

Each of five withheld heads is taught to a fresh copy of mini-SD; the other five are left to the
reader. A row is a model, a dial and 200 prompts: the accuracy of each part, its paired change from
the base (same prompts, same noise) with the standard error of that change, and the distance to the
nearest training picture in units of what held-out figures have (copy; 1 is as far).
Prompts are combinations that no training has:
    new           with the new head, in the wording of the training's captions
    other words   the same, in lesson 5's wordings
    others        with heads that mini-SD knows
    dozen         the captions of the training itself: what a copy would look like (two heads)
Training counts steps, not seconds, so that the rows do not depend on the machine's load.

One head is also taught at a third of LoRA's rate. LoRA changes keys and values.
"""
import argparse
import copy
import csv
import functools
import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from train_mini_sd import WITHHELD

from course_lib import Denoiser
from course_lib.lab import attributes, noun_parts, sampling, storage, train
from course_lib.lab.evaluation.small_sets import nearest_ratio
from course_lib.networks.stable_diffusion import lora

CSV = storage.ASSETS / "mini_sd_lora.csv"
PARTS = noun_parts.PARTS
HEAD = PARTS.index("head")
RANK, BATCH, PROMPTS = 8, 24, 200
LAYERS = {"LoRA": ("k", "v")}
# of 45 seconds on two cores: --time
STEPS = {"LoRA": 250, "all weights": 200, "base": 0}
RATES = {"LoRA": 3e-3, "all weights": 2e-4, "base": 0.0}
SLOWER = 1e-3                                               # one head, LoRA
TRIED = {"LoRA": (1e-3, 3e-3), "all weights": (1e-4, 2e-4)}
TUNED_ON, TUNING_SEED = "snowman", 100
DIALS = (0.5, 1.0, 1.5)
TAUGHT, MEASURED_MORE = WITHHELD[:5], WITHHELD[:2]           # the second: other dials, copies
KEYS = ("subject", "seed", "pictures", "method", "lr", "steps", "dial", "prompts")
COLUMNS = (*KEYS, "n", *PARTS, *(f"{part} {what}" for part in PARTS for what in ("change", "se")),
           "copy", "copy low", "copy high")


class Case(NamedTuple):
    """One training of a fresh copy of the base: one of LAYERS, "all weights", or "base": none."""
    subject: str                                            # the head that is taught
    seed: int
    pictures: int
    method: str
    lr: float = 0.0
    steps: int = 0

    def rows(self) -> list[tuple[float, str]]:
        """The dials and the kinds of prompts that are measured."""
        if self.seed == TUNING_SEED:
            return [(1.0, "new"), (1.0, "others")]
        if self.method == "base":
            return [(0.0, "new"), (0.0, "others")]
        rows = [(1.0, "new"), (1.0, "others")]
        if self.method == "LoRA" and self.pictures == 12 and self.seed == 0:
            rows.append((1.0, "other words"))
        if self.pictures == 12 and self.seed == 0 and self.subject in MEASURED_MORE:
            rows.append((1.0, "dozen"))
            if self.method == "LoRA":
                rows += [(dial, "new") for dial in DIALS if dial != 1]
        return rows

    def keys(self) -> list[tuple[str, ...]]:
        """The names of its rows, as the file has them."""
        return [tuple(map(str, (*self, *row))) for row in self.rows()]


def case(head: str, method: str, seed: int = 0, pictures: int = 12, lr: float = 0.0) -> Case:
    return Case(head, seed, pictures, method, lr or RATES[method], STEPS[method])


def table() -> list[Case]:
    """All trainings of the table: five heads; another rate for one."""
    cases = []
    for head in TAUGHT:
        cases += [case(head, "base", pictures=0), case(head, "LoRA"), case(head, "all weights")]
    return cases + [case(WITHHELD[0], "LoRA", lr=SLOWER)]


def tuning() -> list[Case]:
    return [case(TUNED_ON, method, TUNING_SEED, lr=lr)
            for method, rates in TRIED.items() for lr in rates]


# ---- figures and prompts

def dozen(head: str, seed: int, n: int = 12) -> Tensor:
    """The first n of the parts (12, 5) that are trained on: of the training's split."""
    parts = noun_parts.draw_parts(12, seed=3 + 10 * seed)
    parts[:, HEAD] = noun_parts.index_of("head", head)
    return parts[:n]


def prompts(of: Case, kind: str, n: int = PROMPTS) -> tuple[Tensor, list[str]]:
    """Parts (n, 5) and their captions, of one of the four kinds; others for each head and seed."""
    if kind == "dozen":
        parts = dozen(of.subject, of.seed).repeat(-(-n // 12), 1)[:n]
        return parts, noun_parts.plain_captions(parts)
    seed = 5 + WITHHELD.index(of.subject) + 20 * of.seed
    drawn = noun_parts.draw_parts(2 * n, seed, "test")
    if kind == "others":
        ids = torch.tensor([noun_parts.index_of("head", name) for name in WITHHELD])
        parts = drawn[~torch.isin(drawn[:, HEAD], ids)][:n]
    else:
        parts = drawn[:n].clone()
        parts[:, HEAD] = noun_parts.index_of("head", of.subject)
    words = noun_parts.captions(parts, seed) if kind == "other words" else None
    return parts, words or noun_parts.plain_captions(parts)


# ---- training

def fine_tune(
    D: Denoiser,
    vae: nn.Module,
    parameters: list[nn.Parameter],
    x: Tensor,
    captions: list[str],
    lr: float,
    steps: int,
    seed: int = 0,
) -> None:
    """AdamW on pictures x (n, 3, 32, 32) and their captions, at a rate that falls to 0."""
    device = next(D.parameters()).device
    g, optimizer = torch.Generator().manual_seed(seed), torch.optim.AdamW(parameters, lr)
    with torch.no_grad():                                   # neither encoder changes
        z = vae.to_latents(x.to(device))
        context = D.net.encode(D.net.tokenizer(captions), len(x))["context"]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        k = torch.randint(len(z), (BATCH,), generator=g)
        t, eps = D.draw_noise(z[k], g)
        loss = D.loss(z[k], t.to(device), eps.to(device), context=context[k]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(base: Denoiser, vae: nn.Module, of: Case) -> Denoiser:
    """A copy of the base, trained as the case says; the base itself does not change."""
    D = copy.deepcopy(base)
    if of.method == "base":
        return D
    torch.manual_seed(of.seed)                              # of the adapter's first values
    if of.method in LAYERS:
        parameters = lora.add_lora(D.net.unet, RANK, layers=LAYERS[of.method])
    else:
        parameters = list(D.net.unet.requires_grad_(True).parameters())
    parts = dozen(of.subject, of.seed, of.pictures)
    x, captions = noun_parts.render(parts), noun_parts.plain_captions(parts)
    fine_tune(D, vae, parameters, x, captions, of.lr, of.steps, of.seed)
    return D


# ---- measures

class Judge:
    """Draws and marks; the base's marks on the same prompts and noise are kept for comparison."""

    def __init__(self, base: Denoiser, vae: nn.Module, n: int = PROMPTS):
        self.vae = vae
        self.n = n
        self.of_base = functools.lru_cache(maxsize=4)(
            lambda of, kind: self.drawn(base, of, kind)[1]
        )

    def drawn(self, D: Denoiser, of: Case, kind: str) -> tuple[Tensor, Tensor]:
        """Pictures (n, 3, 32, 32), and which of their parts are right (n, 5)."""
        parts, captions = prompts(of, kind, self.n)
        x = sampling.text_to_image(D, captions, vae=self.vae, seed=of.seed)
        return x, attributes.attributes_correct(x, parts)

    def row(self, D: Denoiser, of: Case, dial: float, kind: str) -> dict:
        """One row of the file."""
        row = of._asdict() | {"dial": dial, "prompts": kind, "n": self.n}
        before = self.of_base(case(of.subject, "base", of.seed, 0), kind)
        if of.method == "base":
            return row | accuracies(before)
        if of.method in LAYERS:
            lora.set_dial(D.net.unet, dial)
        x, right = self.drawn(D, of, kind)
        row |= accuracies(right, before)
        return row if kind == "others" else row | copying(x, of)


def accuracies(right: Tensor, before: Tensor | None = None) -> dict:
    """Of right (n, 5) bool: the fraction of each part; with `before`, the same prompts' (n, 5):
    the mean of the paired difference, too, and its standard error.
    """
    row = dict(zip(PARTS, right.double().mean(0).tolist()))
    if before is not None:
        change = right.double() - before.double()           # (n, 5)
        error = change.std(0) / len(change) ** 0.5
        for part, mean, se in zip(PARTS, change.mean(0).tolist(), error.tolist()):
            row |= {f"{part} change": mean, f"{part} se": se}
    return row


def copying(x: Tensor, of: Case) -> dict:
    """How near x (n, 3, 32, 32) are to the nearest training picture, beside real figures that have
    the same head and were not trained on.
    """
    taught = noun_parts.render(dozen(of.subject, of.seed, of.pictures)).flatten(1)
    real = noun_parts.render(prompts(of, "new", len(x))[0]).flatten(1)
    found = nearest_ratio(torch.cdist(x.flatten(1), taught), torch.cdist(real, taught))
    return {"copy": found.median, "copy low": found.low, "copy high": found.high}


# ---- the file

def known_rows() -> list[dict]:
    return list(csv.DictReader(CSV.open())) if CSV.exists() else []


def append(rows: list[dict]) -> None:
    """Write rows to the end of the file, with four digits after the point."""
    new = not CSV.exists()
    with CSV.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            measured = {k: f"{v:.4f}" for k, v in row.items()
                        if k not in KEYS and isinstance(v, float)}
            writer.writerow(row | measured)


def measure(cases: list[Case], base: Denoiser, vae: nn.Module) -> None:
    """Train and judge each case whose rows are not all in the file."""
    judge = Judge(base, vae)
    for k, of in enumerate(cases):
        there = {tuple(row[key] for key in KEYS) for row in known_rows()}
        missing = [row for row, key in zip(of.rows(), of.keys()) if key not in there]
        if not missing:
            continue
        start = time.perf_counter()
        D = trained(base, vae, of)
        append([judge.row(D, of, dial, kind) for dial, kind in missing])
        print(f"{k + 1} of {len(cases)}: {of}, {time.perf_counter() - start:.0f} s", flush=True)


def quick(base: Denoiser, vae: nn.Module) -> None:
    """A trial of every path, in about a minute."""
    judge = Judge(base, vae, 12)
    for method, steps in {"base": 0, "LoRA": 10, "all weights": 10}.items():
        of = Case(WITHHELD[0], 0, 12, method, RATES[method], steps)
        D = trained(base, vae, of)
        print(method, judge.row(D, of, 0.0 if method == "base" else 1.0, "new"), flush=True)


def steps_in(base: Denoiser, vae: nn.Module, seconds: float = 45) -> None:
    """Print how many steps this machine makes in so many seconds."""
    for method in TRIED:
        taken = []
        for steps in (2, 22):                               # both with what is done once
            start = time.perf_counter()
            trained(base, vae, case(WITHHELD[0], method)._replace(steps=steps))
            taken.append(time.perf_counter() - start)
        each = (taken[1] - taken[0]) / 20
        print(f"{method}: {seconds / each:.0f} steps of {BATCH} in {seconds:g} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in ("--time", "--tune", "--quick"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--model", default="mini_sd", help="a checkpoint's name or file")
    arguments = parser.parse_args()
    base, vae = train.load(arguments.model), train.load("nouns_vae")
    if arguments.time:
        steps_in(base, vae)
    elif arguments.quick:
        quick(base, vae)
    else:
        measure(tuning() if arguments.tune else table(), base, vae)


if __name__ == "__main__":
    main()
