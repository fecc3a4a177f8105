"""Preference tuning of mini-SD on a flawed judge: how far does the judge's score carry?

    python tools/recipes/mini_sd_preference.py
        to course_lib/assets/preference.csv and preference.npz
    python tools/recipes/mini_sd_preference.py --trial --model FILE
        tiny numbers, with a model of yours; to runs/mini_sd_preference alone

Stopped, the same command goes on: drawn latents and finished rows are kept in
runs/mini_sd_preference, in a folder for each model and each set of numbers; a training that was
stopped between two rows begins again.

The judge prefers red: the mean of the red channel less the mean of the others. The prompts name
background and glasses, so that a picture can be redder and still right. A pair is two pictures of
one prompt, and the redder one wins. Ways to please the judge, and controls:

    base                 mini-SD as it is
    best of n            of n pictures of the base, the one that the judge likes best
    DPO                  dpo_loss at beta = 50, two seeds
    DPO, larger beta     ten times as large
    coin tosses          as DPO, but a coin decides which of a pair wins
    winners alone        ordinary training on the winners

    amount               n, or steps of training
    judge                redness of the pictures, from -2 to 2
    background, glasses  share of the pictures in which the named part is right
    variety              root mean square difference of two pictures of one prompt
    distance             root mean square difference of the predictions of D and of the base, on
                         noised pictures of the base; in deviations of the latent

Each with its standard error (_se) over the prompts. There are four pictures of each prompt, from
the same noise in all rows; the combinations of parts are those that no training saw. All pictures
are drawn without guidance: so the pairs come from the distribution that DPO is to change.
"""
import argparse
import copy
import csv
import io
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import npz
import torch
from torch import Tensor

from course_lib import Denoiser
from course_lib.lab import noun_parts, sampling, storage, train
from course_lib.lab.training.runs import runs_folder
from course_lib.preference import dpo_loss

CSV, NPZ = storage.ASSETS / "preference.csv", storage.ASSETS / "preference.npz"
NAMED = ("background", "glasses")
EACH = 4                                                    # pictures of a prompt
SCALE, SAMPLING_STEPS = 1.0, 10
BETA, LR = 50.0, 5e-5                                       # beta of losses per number
SHOWN = 6                                                   # prompts in the file of pictures
MEASURES = ("judge", *NAMED, "variety", "distance")
COLUMNS = ["way", "amount", "seed", "n", *(c + s for c in MEASURES for s in ("", "_se")), "model"]


@dataclass(frozen=True)
class Numbers:
    """How much is drawn and trained; steps: at which DPO has a row, few: other trainings."""
    pairs: int = 1_000
    prompts: int = 125
    batch: int = 8
    steps: tuple[int, ...] = (10, 25, 50, 100, 200, 400)
    few: tuple[int, ...] = (25, 100, 400)
    best_of: tuple[int, ...] = (1, 2, 4, 8, 16)


TRIAL = Numbers(pairs=24, prompts=6, batch=4, steps=(1, 2), few=(1, 2), best_of=(1, 2))


@dataclass(frozen=True)
class Way:
    """A way to train. beta 0: on the winners alone."""
    name: str
    seed: int
    beta: float
    steps: tuple[int, ...]
    by_coin: bool = False


def ways(numbers: Numbers) -> list[Way]:
    return [
        Way("DPO", 0, BETA, numbers.steps),
        Way("DPO", 1, BETA, numbers.steps),
        Way("DPO, larger beta", 0, 10 * BETA, numbers.few),
        Way("coin tosses", 0, BETA, numbers.few, by_coin=True),
        Way("winners alone", 0, 0.0, numbers.few),
    ]


# ---- what is measured, of pictures (N, 3, H, W), EACH of a prompt one after the other

def redness(x: Tensor) -> Tensor:
    """The judge: (N, 3, H, W) -> (N,)"""
    return (x[:, 0] - x[:, 1:].mean(1)).flatten(1).mean(1)


def certain_pixels(part: str) -> Tensor:
    """Pixels that every variant of the part covers and no part above it ever does: (32, 32) bool.
    """
    layers = noun_parts.load_art().layers
    mask = (layers[part] != 0).all(0)
    for above in noun_parts.PARTS[noun_parts.PARTS.index(part) + 1 :]:
        mask &= (layers[above] == 0).all(0)
    return mask


def named_correct(x: Tensor, parts: Tensor) -> Tensor:
    """Whether background and glasses are those asked for: (N, 2) bool.

    `attributes_correct` needs all five parts, and a prompt leaves three of them open. So a part is
    read at its certain pixels: of all its variants, which is the nearest to the picture there?
    """
    art = noun_parts.load_art()
    right = []
    for part in NAMED:
        mask = certain_pixels(part)
        drawn = art.palette[:, art.layers[part][:, mask].long()].transpose(0, 1)  # (K, 3, pixels)
        far = torch.cdist(x[:, :, mask].flatten(1), drawn.flatten(1))             # (N, K)
        right.append(far.argmin(1) == parts[:, noun_parts.PARTS.index(part)])
    return torch.stack(right, dim=1)


def variety(x: Tensor) -> Tensor:
    """Root mean square difference of two pictures of one prompt, a mean over its pairs:
    (prompts,)
    """
    groups = x.view(-1, EACH, *x.shape[1:])
    far = [
        (groups[:, a] - groups[:, b]).square().flatten(1).mean(1).sqrt()
        for a, b in itertools.combinations(range(EACH), 2)
    ]
    return torch.stack(far).mean(0)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Of one value for each prompt."""
    return values.double().mean().item(), values.double().std().item() / len(values) ** 0.5


def of_prompts(values: Tensor) -> Tensor:
    """Means over the pictures of each prompt: (N,) -> (prompts,)"""
    return values.double().view(-1, EACH).mean(1)


def measured(x: Tensor, parts: Tensor) -> dict[str, float]:
    """All measures but the distance, each with its standard error over the prompts."""
    right = named_correct(x, parts)
    values = {"judge": of_prompts(redness(x))}
    values |= {name: of_prompts(right[:, j]) for j, name in enumerate(NAMED)}
    values["variety"] = variety(x)
    row = {"n": len(x)}
    for name, value in values.items():
        row[name], row[f"{name}_se"] = mean_and_error(value)
    return row


# ---- the base, its pictures, and the folder that keeps them

def in_batches(f: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    """f of 100 rows at a time, on that device; the result on the CPU."""
    return torch.cat([f(part.to(device)).cpu() for part in x.split(100)])


class Study:
    """The base, prompts and pairs. What takes long is kept in `folder`."""

    def __init__(self, model: str, numbers: Numbers):
        self.numbers = numbers
        self.base = train.load(model)
        self.vae = train.load("nouns_vae")
        self.device = next(self.base.parameters()).device
        self.model = storage.digest(self.base.net.state_dict())[:16]
        settings = repr([numbers, self.model, SCALE, SAMPLING_STEPS, BETA, LR])
        key = storage.digest({}, settings)[:8]
        self.folder = runs_folder() / "mini_sd_preference" / f"{self.model[:8]}-{key}"
        held_out = noun_parts.draw_parts(numbers.prompts, seed=12, split="test")
        self.parts = held_out.repeat_interleave(EACH, 0)
        self.context = self.encode(self.parts)              # (N, L, D)
        self._reference = None

    @torch.no_grad()
    def encode(self, parts: Tensor) -> Tensor:
        tokens = self.base.net.tokenizer(prompts_of(parts))
        encoded = lambda rows: self.base.net.encode(rows, len(rows))["context"]
        return in_batches(encoded, tokens, self.device)

    def kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor of the folder; made and written the first time."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            storage.save_tensors(file, {name: make()}, {})
        return storage.load_tensors(file)[0][name]

    def draw(self, D: Denoiser, context: Tensor, seed: int) -> Tensor:
        """Latents of D, one for each row of context, on the CPU."""
        return sampling.sample_batches(
            D, sampling.SAMPLERS["dpmpp"], SAMPLING_STEPS, {"context": context}, scale=SCALE,
            seed=seed, batch_size=100, clip_range=None,
        )

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        return in_batches(self.vae.to_images, z, self.device).clamp(-1, 1)

    def candidate(self, k: int) -> Tensor:
        """Latents of the base for the held-out prompts, the k-th of those that one may choose from.
        """
        return self.kept(f"candidate_{k}", lambda: self.draw(self.base, self.context, 50 + k))

    def pairs(self, by_coin: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of winners and losers, and the context of their prompts; of training's split."""
        context = self.encode(noun_parts.draw_parts(self.numbers.pairs, seed=11))
        a = self.kept("pairs_a", lambda: self.draw(self.base, context, 1))
        b = self.kept("pairs_b", lambda: self.draw(self.base, context, 2))
        if by_coin:
            a_wins = torch.rand(len(a), generator=torch.Generator().manual_seed(5)) < 0.5
        else:
            a_wins = redness(self.decode(a)) > redness(self.decode(b))
        a_wins = a_wins[:, None, None, None]
        return torch.where(a_wins, a, b), torch.where(a_wins, b, a), context

    @torch.no_grad()
    def predictions(self, D: Denoiser) -> Tensor:
        """Of D, on the base's pictures, each with one noise at one time."""
        z = self.candidate(0)
        t, eps = self.base.draw_noise(z, torch.Generator().manual_seed(0))
        x = self.base.schedule.perturb(z, t, eps)
        rows = torch.arange(len(z)).split(100)
        at = lambda tensor, k: tensor[k].to(self.device)
        return torch.cat([
            D(at(x, k), at(t, k), context=at(self.context, k)).cpu() for k in rows
        ])

    def distance(self, D: Denoiser) -> dict[str, float]:
        """Root mean square difference of the predictions of D and the base."""
        if self._reference is None:
            self._reference = self.predictions(self.base)
        far = (self.predictions(D) - self._reference).square().flatten(1).mean(1)
        mean, error = mean_and_error(of_prompts(far))
        return root_and_error(mean, error)

    def judged(self, D: Denoiser) -> tuple[Tensor, dict[str, float]]:
        """Pictures of D, from the base's noise, and its distance from the base."""
        return self.decode(self.draw(D, self.context, 50)), self.distance(D)

    def file_of(self, name: dict) -> Path:
        """Of a row."""
        return self.folder / f"{name['way']}-{name['amount']}-{name['seed']}.safetensors"


def root_and_error(mean: float, error: float) -> dict[str, float]:
    """The root of a mean, and its standard error by the derivative of the root."""
    root = mean**0.5
    return {"distance": root, "distance_se": error / (2 * root) if root else 0.0}


def prompts_of(parts: Tensor) -> list[str]:
    """Background and glasses alone."""
    return [
        f"a figure with {names['glasses']} glasses, {names['background']} background"
        for names in noun_parts.part_names(parts)
    ]


# ---- rows: {way, amount, seed} and a function that gives pictures and their distance

def rows(study: Study) -> Iterator[tuple[dict, Tensor]]:
    """Every row with its pictures; what a former run has finished is not computed again."""
    nothing = root_and_error(0.0, 0.0)
    base = study.decode(study.candidate(0))
    yield finished(study, {"way": "base", "amount": 0, "seed": 0}, lambda: (base, nothing))
    for n in study.numbers.best_of:
        name = {"way": "best of n", "amount": n, "seed": 0}
        yield finished(study, name, lambda n=n: (best_of(study, n), nothing))
    for way in ways(study.numbers):
        yield from rows_of(study, way)


def rows_of(study: Study, way: Way) -> Iterator[tuple[dict, Tensor]]:
    """The rows of a way to train; nothing is trained where all of them are there."""
    names = {step: {"way": way.name, "amount": step, "seed": way.seed} for step in way.steps}
    if all(study.file_of(name).exists() for name in names.values()):
        trained = ((step, study.base) for step in way.steps)            # not used
    else:
        trained = train_in(study, way)
    for step, D in trained:
        yield finished(study, names[step], lambda D=D: study.judged(D))


def finished(
    study: Study, name: dict, make: Callable[[], tuple[Tensor, dict]]
) -> tuple[dict, Tensor]:
    """A row and its first pictures: from its file, or computed and written there."""
    file = study.file_of(name)
    if not file.exists():
        x, distance = make()
        row = name | measured(x, study.parts) | distance | {"model": study.model}
        shown = ((x[::EACH][:SHOWN] + 1) * 127.5).round().to(torch.uint8)
        storage.save_tensors(file, {"pictures": shown}, row)
    tensors, row = storage.load_tensors(file)
    return row, tensors["pictures"]


def best_of(study: Study, n: int) -> Tensor:
    """The picture of n that the judge likes best, for each picture of the base."""
    best = study.decode(study.candidate(0))
    for k in range(1, n):
        x = study.decode(study.candidate(k))
        better = redness(x) > redness(best)
        best = torch.where(better[:, None, None, None], x, best)
    return best


def train_in(study: Study, way: Way) -> Iterator[tuple[int, Denoiser]]:
    """The base's U-Net trained in one way: yields (steps, D) wherever there is a row."""
    D = copy.deepcopy(study.base)
    D.net.unet.requires_grad_(True)
    optimizer = torch.optim.AdamW(D.net.unet.parameters(), lr=LR)
    winner, loser, context = study.pairs(way.by_coin)
    g = torch.Generator().manual_seed(way.seed)
    for step in range(1, max(way.steps) + 1):
        k = torch.randint(len(winner), (study.numbers.batch,), generator=g)
        t, eps = D.draw_noise(winner[k], g)
        batch = [v.to(study.device) for v in (winner[k], loser[k], t, eps, context[k])]
        loss = loss_of(way, D, study.base, *batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in way.steps:
            yield step, D


def loss_of(way: Way, D, base, winner, loser, t, eps, context) -> Tensor:
    if way.beta == 0:
        return D.loss(winner, t, eps, context=context)
    return dpo_loss(D, base, winner, loser, t, eps, way.beta, context=context)


# ---- the files

def table(found: list[dict]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue()


def write(found: list[tuple[dict, Tensor]], csv_file: Path, npz_file: Path) -> None:
    """The table, and the pictures by "way, amount, seed"."""
    storage.write_text(csv_file, table([row for row, _ in found]))
    name = "{way}, {amount}, {seed}".format
    print(npz.write(npz_file, {name(**row): x.numpy() for row, x in found if is_shown(row)}))


def is_shown(row: dict) -> bool:
    """Whether its pictures are shipped: a few of each way, and of one seed."""
    amounts = {"base": (0,), "best of n": (16,), "DPO": (25, 50, 100, 200, 400)}
    return row["seed"] == 0 and row["amount"] in amounts.get(row["way"], (400,))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="mini_sd", help="a shipped model, or a file of one")
    parser.add_argument("--trial", action="store_true", help="tiny numbers; nothing is shipped")
    arguments = parser.parse_args()
    study = Study(arguments.model, TRIAL if arguments.trial else Numbers())
    print(f"model {study.model}, kept in {study.folder}; {asdict(study.numbers)}")
    found, start = [], time.perf_counter()
    for row, x in rows(study):
        values = ", ".join(f"{name} {row[name]:.3f}" for name in MEASURES)
        name = "{way}, {amount}, seed {seed}".format(**row)
        print(f"{(time.perf_counter() - start) / 60:5.1f} min  {name}: {values}", flush=True)
        found.append((row, x))
    shipped = arguments.model == "mini_sd" and not arguments.trial
    folder = storage.ASSETS if shipped else study.folder
    write(found, folder / CSV.name, folder / NPZ.name)


if __name__ == "__main__":
    main()
