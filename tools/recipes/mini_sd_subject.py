"""One word, one subject: textual inversion and DreamBooth on mini-SD, and what they cost.

    python tools/recipes/mini_sd_subject.py
        to course_lib/assets/mini_sd_subject.csv, row by row, and a few pictures to the .npz beside
        it; about 25 minutes of one core; stopped, the same command goes on
    python tools/recipes/mini_sd_subject.py --tune
        other learning rates, more steps, on two other heads; rows of kind "tuning" in the same file
    python tools/recipes/mini_sd_subject.py --quick --model FILE
        every path with tiny numbers, to runs/mini_sd_subject alone

A subject is the head of a figure: three that mini-SD knows, and three of the ten that were withheld
from its training. Each is taught from a dozen pictures, whose captions name all other parts, and
say "a sks-headed noun" where the head's name would stand. Ways:

    own name              the base, asked by the head's name: what it can draw, or cannot
    untrained word        the base, asked by the new word as it begins
    inversion             one vector of the new word is learned, everything else is frozen
    inversion, 4 vectors  four new words in a row: is one vector too few?
    DreamBooth            all weights of the U-Net; the word is written in tokens that there are
    DreamBooth, prior     the same, with as many pictures of "a noun" that the base drew in each
                          batch, by (7.22) with lambda = 1

Columns, beside settings: of `n` prompts with the word (combinations of parts that are not in the
dozen), the accuracy of each part; `copy`, the distance to the nearest of the dozen in units of what
held-out figures have (1 is as far, 0 a copy). Of `n` prompts without a head ("a noun with ..."):
`class_subject`, how often the subject's head was drawn; `class_heads`, how many different heads;
`class_distance`, the root mean square difference from the figure with the subject's head;
`class_parts`, the accuracy of the other parts. Of `others_n` prompts with heads that mini-SD knows:
`others_head`, `others_parts`, and `others_subject`, how often the subject's head was drawn instead.
Textual inversion cannot change what is drawn for other words, so these are empty there.
`trained`: how many numbers. `seconds`: of one core, of the training alone.
"""
import argparse
import copy
import csv
import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import npz
import numpy as np
import torch
from torch import Tensor, nn
from train_mini_sd import WITHHELD

from course_lib import Denoiser
from course_lib.lab import attributes, noun_parts, sampling, storage, train
from course_lib.lab.evaluation.small_sets import nearest_ratio
from course_lib.lab.training.runs import runs_folder
from course_lib.networks.stable_diffusion.inversion import add_word

FILE = storage.ASSETS / "mini_sd_subject.csv"
PARTS = noun_parts.PARTS
HEAD = PARTS.index("head")
REST = [k for k in range(len(PARTS)) if k != HEAD]
WORD, FOUR = "sks", "ska skb skc skd"
LIKE = "head"                                               # what a new word begins as
SUBJECTS = {"known": ("zebra", "watermelon", "toaster"),
            "withheld": ("panda", "pineapple", "helicopter")}
TUNED_ON = {"known": "frog", "withheld": "snowman"}
WAYS = ("own name", "untrained word", "inversion", "inversion, 4 vectors", "DreamBooth",
        "DreamBooth, prior")
OF_ALL = ("own name", "DreamBooth", "DreamBooth, prior")     # measured on all prompts
RATES = {"inversion": 5e-2, "inversion, 4 vectors": 5e-2, "DreamBooth": 2e-4,
         "DreamBooth, prior": 2e-4}
TRIED = {"inversion": (2e-2, 5e-2, 1e-1), "DreamBooth": (1e-4, 2e-4, 5e-4)}
BATCH, PRIOR_WEIGHT = 8, 1.0
SHOWN = 6                                                   # pictures of each kind in the .npz
KEYS = ("kind", "subject", "seed", "way", "rate", "steps")
OF_CLASS = ("class_subject", "class_heads", "class_distance", "class_parts")
OTHERS = ("others_n", "others_head", "others_parts", "others_subject")
COLUMNS = (*KEYS, "batch", "trained", "seconds", "n", *PARTS, "copy", "copy_low", "copy_high",
           *OF_CLASS, *OTHERS, "model")


class Numbers(NamedTuple):
    """How much is drawn and trained: steps of the two methods, prompts, prompts with other heads,
    and pictures of the class that the base draws.
    """
    inversion: int = 200
    dreambooth: int = 150
    prompts: int = 100
    others: int = 50
    prior: int = 200


QUICK = Numbers(2, 2, 6, 4, 8)


class Case(NamedTuple):
    """One row: a subject, taught in one way from a dozen that the seed says."""
    kind: str                                               # "known", "withheld", "tuning"
    subject: str                                            # a head
    seed: int
    way: str
    rate: float = 0.0
    steps: int = 0

    def key(self) -> tuple[str, ...]:
        return tuple(map(str, self))


def case(kind: str, subject: str, seed: int, way: str, numbers: Numbers, rate: float = 0.0) -> Case:
    if way not in RATES:
        return Case(kind, subject, seed, way)
    steps = numbers.inversion if way.startswith("inversion") else numbers.dreambooth
    return Case(kind, subject, seed, way, rate or RATES[way], steps)


def table(numbers: Numbers) -> list[Case]:
    """All rows: known heads are taught by inversion, withheld ones in every way."""
    return [
        case(kind, head, seed, way, numbers)
        for kind, heads in SUBJECTS.items()
        for seed, head in enumerate(heads)
        for way in (WAYS[:3] if kind == "known" else WAYS)
    ]


def tuning(numbers: Numbers) -> list[Case]:
    """Other rates, and inversion of a withheld head at three times the steps."""
    cases = [case("tuning", TUNED_ON[kind], 100, "inversion", numbers, rate)
             for kind in TUNED_ON for rate in TRIED["inversion"]]
    cases += [case("tuning", TUNED_ON["withheld"], 100, "DreamBooth", numbers, rate)
              for rate in TRIED["DreamBooth"]]
    longer = case("tuning", TUNED_ON["withheld"], 100, "inversion", numbers)
    return [*cases, longer._replace(steps=3 * longer.steps)]


# ---- pictures and prompts

def with_head(parts: Tensor, head: str) -> Tensor:
    """The same parts (n, 5), all with this head."""
    parts = parts.clone()
    parts[:, HEAD] = noun_parts.index_of("head", head)
    return parts


def dozen(of: Case) -> Tensor:
    """The parts (12, 5) of the pictures that are trained on."""
    return with_head(noun_parts.draw_parts(12, seed=3 + 10 * of.seed), of.subject)


def prompted(of: Case, n: int) -> Tensor:
    """The parts (n, 5) of the prompts: other combinations, the same for all subjects."""
    return with_head(noun_parts.draw_parts(n, 5, "test"), of.subject)


def of_others(n: int) -> Tensor:
    """Parts (n, 5) with heads that mini-SD knows and nothing is taught."""
    drawn = noun_parts.draw_parts(2 * n + 20, 6, "test")
    names = (*WITHHELD, *SUBJECTS["known"], TUNED_ON["known"])
    ids = torch.tensor([noun_parts.index_of("head", name) for name in names])
    return drawn[~torch.isin(drawn[:, HEAD], ids)][:n]


def captions(parts: Tensor, words: str | None = None) -> list[str]:
    """Plain captions of parts (n, 5) with other words for the head, and without it for None:
    "a sks-headed noun with blue glasses, ...", "a noun with blue glasses, ...".
    """
    subject = "a noun" if words is None else f"a {words}-headed noun"
    after = [text.split("-headed noun", 1)[1] for text in noun_parts.plain_captions(parts)]
    return [subject + rest for rest in after]


def asked(of: Case, parts: Tensor) -> list[str]:
    """The captions of parts (n, 5) in the words of the case's way."""
    if of.way == "own name":
        return noun_parts.plain_captions(parts)
    return captions(parts, FOUR if of.way == "inversion, 4 vectors" else WORD)


def shown_names(of: Case) -> list[str]:
    """The names of the pictures of a case: the dozen, of its prompts, of the class."""
    return ["dozen", of.way, *([f"{of.way}, class"] if of.way in OF_ALL else [])]


# ---- training

def learn(D: Denoiser, parameters: list, examples: list[tuple], of: Case) -> None:
    """Adam at a rate that falls to 0, on the sum of the losses of some sets of examples.

    examples: (latents (N, C, H, W), tokens (N, L), weight); a batch of each in every step
    """
    g, optimizer = torch.Generator().manual_seed(of.seed), torch.optim.Adam(parameters, of.rate)
    for step in range(of.steps):
        optimizer.param_groups[0]["lr"] = of.rate * (1 - step / of.steps)
        loss = 0.0
        for z, tokens, weight in examples:
            k = torch.randint(len(z), (BATCH,), generator=g)
            t, eps = D.draw_noise(z[k], g)
            loss = loss + weight * D.loss(z[k], t.to(z.device), eps, tokens=tokens[k]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def new_words(D: Denoiser, of: Case) -> list[nn.Parameter]:
    """The vectors of the words that inversion learns, one or four."""
    words = FOUR.split() if of.way == "inversion, 4 vectors" else [WORD]
    return [add_word(D.net, word, LIKE) for word in words]


@dataclass
class Study:
    """The base with its autoencoder, and the files that rows and pictures go to."""
    base: Denoiser
    vae: nn.Module
    numbers: Numbers
    file: Path
    drawn: dict = field(default_factory=dict)               # pictures of the base by their texts

    @cached_property
    def model(self) -> str:
        """Which base the rows are of: the beginning of its digest."""
        return storage.digest(self.base.state_dict())[:8]

    @property
    def pictures_file(self) -> Path:
        return self.file.with_suffix(".npz")

    def latents(self, parts: Tensor) -> Tensor:
        with torch.no_grad():
            return self.vae.to_latents(noun_parts.render(parts).to(self.vae.shift.device))

    @cached_property
    def prior(self) -> tuple[Tensor, Tensor, float]:
        """What the base draws for the class, as examples to learn from."""
        texts = captions(noun_parts.draw_parts(self.numbers.prior, seed=8))
        tokens = self.base.net.tokenizer(texts)
        z = sampling.sample_batches(
            self.base, sampling.SAMPLERS["dpmpp"], 10, {"tokens": tokens}, scale=2.0, seed=8,
            batch_size=100, clip_range=None,
        )
        return z.to(self.vae.shift.device), tokens, PRIOR_WEIGHT

    def taught(self, of: Case) -> tuple[Denoiser, dict]:
        """A model for the case, and what its training was: batch, trained, seconds."""
        D, parameters = copy.deepcopy(self.base).requires_grad_(False), []
        if of.way == "untrained word" or of.way.startswith("inversion"):
            parameters = new_words(D, of)
        if of.way.startswith("DreamBooth"):
            parameters = list(D.net.unet.requires_grad_(True).parameters())
        if not of.steps:
            return D, {}
        parts = dozen(of)
        examples = [(self.latents(parts), D.net.tokenizer(asked(of, parts)), 1.0)]
        if of.way == "DreamBooth, prior":
            examples.append(self.prior)
        start = time.process_time()
        learn(D, parameters, examples, of)
        seconds, trained = time.process_time() - start, sum(p.numel() for p in parameters)
        return D, {"batch": BATCH * len(examples), "trained": trained, "seconds": seconds}

    def draw(self, D: Denoiser, texts: list[str], of: Case) -> Tensor:
        """Pictures (n, 3, 32, 32), from the same noise for every model. Models without training
        are one model, whose pictures are drawn once.
        """
        key = None if of.steps else tuple(texts)
        if key not in self.drawn:
            self.drawn[key] = sampling.text_to_image(D, texts, vae=self.vae, seed=7)
        return self.drawn[key] if key else self.drawn.pop(None)

    def row(self, of: Case) -> tuple[dict, dict]:
        """The row of a case, and pictures by name."""
        D, row = self.taught(of)
        parts = prompted(of, self.numbers.prompts)
        x = self.draw(D, asked(of, parts), of)
        row |= {"n": len(x)} | marks(x, parts) | copying(x, of)
        shown = [noun_parts.render(dozen(of)), x]
        if of.way in OF_ALL:
            shown.append(self.draw(D, captions(parts), of))
            row |= class_marks(shown[-1], parts) | self.other_marks(D, of)
        named = dict(zip(shown_names(of), shown))
        return of._asdict() | row | {"model": self.model}, named

    def other_marks(self, D: Denoiser, of: Case) -> dict:
        """How heads are drawn that are asked for by their names."""
        parts = of_others(self.numbers.others)
        x = self.draw(D, noun_parts.plain_captions(parts), of)
        right = attributes.attributes_correct(x, parts).double()
        taught = nearest_heads(x, parts) == noun_parts.index_of("head", of.subject)
        found = (right[:, HEAD].mean(), right[:, REST].mean(), taught.double().mean())
        return dict(zip(OTHERS, (len(x), *(value.item() for value in found))))

    def measure(self, cases: list[Case]) -> None:
        """Teach and judge what is not in the file, and write it there as soon as it is known."""
        for k, of in enumerate(cases):
            rows = known_rows(self.file)
            if {row["model"] for row in rows} - {self.model}:
                raise SystemExit(f"{self.file} has rows of another model: move it away first")
            if of.key() in {tuple(row[key] for key in KEYS) for row in rows}:
                continue
            start = time.perf_counter()
            row, shown = self.row(of)
            self.keep_pictures(of, shown)
            append(self.file, row)
            print(f"{k + 1} of {len(cases)}: {of}, {time.perf_counter() - start:.0f} s", flush=True)

    def keep_pictures(self, of: Case, shown: dict[str, Tensor]) -> None:
        """The first pictures of the first subject of each kind: bytes (SHOWN, 32, 32, 3) by
        "subject, way"; the untrained word's are left out.
        """
        if of.seed != 0 or of.way == "untrained word":
            return
        file, arrays = self.pictures_file, {}
        if file.exists():
            with np.load(file) as stored:
                arrays = dict(stored)
        arrays |= {f"{of.subject}, {name}": as_bytes(x[:SHOWN]) for name, x in shown.items()}
        partial = file.with_suffix(".partial")
        npz.write(partial, arrays)
        os.replace(partial, file)


# ---- measures

def marks(x: Tensor, parts: Tensor) -> dict:
    """The accuracy of each part of pictures x (n, 3, 32, 32)."""
    right = attributes.attributes_correct(x, parts)
    return dict(zip(PARTS, right.double().mean(0).tolist()))


def nearest_heads(x: Tensor, parts: Tensor) -> Tensor:
    """The head (n,) that pictures x (n, 3, 32, 32) are nearest to, all other parts as asked for."""
    count = len(noun_parts.load_art().names["head"])
    heads = []
    for picture, row in zip(x, parts):
        rows = row.repeat(count, 1)
        rows[:, HEAD] = torch.arange(count)
        heads.append((noun_parts.render(rows) - picture).square().flatten(1).sum(1).argmin())
    return torch.stack(heads)


def class_marks(x: Tensor, parts: Tensor) -> dict:
    """Of pictures x (n, 3, 32, 32) whose prompts named no head; parts (n, 5) have the subject's."""
    heads = nearest_heads(x, parts)
    right = attributes.attributes_correct(x, parts).double()
    far = (x - noun_parts.render(parts)).square().flatten(1).mean(1).sqrt()
    return {
        "class_subject": (heads == parts[:, HEAD]).double().mean().item(),
        "class_heads": len(heads.unique()),
        "class_distance": far.mean().item(),
        "class_parts": right[:, REST].mean().item(),
    }


def copying(x: Tensor, of: Case) -> dict:
    """How near x (n, 3, 32, 32) are to the nearest of the dozen, beside the figures asked for."""
    taught = noun_parts.render(dozen(of)).flatten(1)
    real = noun_parts.render(prompted(of, len(x))).flatten(1)
    found = nearest_ratio(torch.cdist(x.flatten(1), taught), torch.cdist(real, taught))
    return {"copy": found.median, "copy_low": found.low, "copy_high": found.high}


def as_bytes(x: Tensor) -> np.ndarray:
    """(n, 3, H, W) in [-1, 1] -> (n, H, W, 3) of 0 to 255"""
    return ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


# ---- the file

def known_rows(file: Path = FILE) -> list[dict]:
    if not file.exists():
        return []
    with file.open() as stream:
        return list(csv.DictReader(stream))


def append(file: Path, row: dict) -> None:
    """Write a row to the end of the file, measured numbers with four digits after the point."""
    new = not file.exists()
    measured = {name: f"{value:.4f}" for name, value in row.items()
                if name not in KEYS and isinstance(value, float)}
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row | measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option in ("--tune", "--quick"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--model", default="mini_sd", help="a checkpoint's name or file")
    arguments = parser.parse_args()
    base, vae = train.load(arguments.model), train.load("nouns_vae")
    file, numbers = FILE, Numbers()
    if arguments.quick:
        file, numbers = runs_folder() / "mini_sd_subject/quick.csv", QUICK
        file.parent.mkdir(parents=True, exist_ok=True)
    study = Study(base, vae, numbers, file)
    study.measure((tuning if arguments.tune else table)(numbers))


if __name__ == "__main__":
    main()
