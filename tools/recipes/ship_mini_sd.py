"""Judge mini-SD beside `nouns` and, with --ship, make it a checkpoint of the course.

    python tools/recipes/train_mini_sd.py
    python tools/recipes/ship_mini_sd.py --ship
        2,000 captions of each split, the same for both, without the ten withheld heads: attribute
        accuracy, paired; 200 captions of withheld heads
    python tools/recipes/ship_mini_sd.py --times
        the time from captions to pictures, beside `nouns`, in turns; on an idle machine; goes into
        the header of the shipped file
"""
import argparse
import json

import torch
from torch import Tensor
from train_mini_sd import WITHHELD

from course_lib.lab import attributes, noun_parts, profiling, sampling, storage, train

HEAD = noun_parts.PARTS.index("head")
SHIPPED = storage.CHECKPOINTS / "mini_sd.safetensors"


def withheld_ids() -> Tensor:
    names = noun_parts.load_art().names["head"]
    return torch.tensor([names.index(name) for name in WITHHELD])


def known_parts(n: int, split: str) -> Tensor:
    """n figures of a split without the withheld heads: (n, 5)"""
    parts = noun_parts.draw_parts(2 * n, seed=5, split=split)
    return parts[~torch.isin(parts[:, HEAD], withheld_ids())][:n]


def paired(D, vae, T, n: int) -> list[dict]:
    """Attribute accuracy of both, and the difference with its standard error, in points."""
    rows = []
    for split in ("test", "pairs"):
        parts = known_parts(n, split)
        captions = noun_parts.plain_captions(parts)
        of_pixels = correct(sampling.text_to_image(T, captions), parts)
        of_mini = correct(sampling.text_to_image(D, captions, vae=vae), parts)
        for k, part in enumerate(noun_parts.PARTS):
            change = 100 * (of_mini[:, k] - of_pixels[:, k])
            rows.append({
                "part": part,
                "split": split,
                "nouns": of_pixels[:, k].mean().item(),
                "mini_sd": of_mini[:, k].mean().item(),
                "points": [change.mean().item(), (change.std() / n**0.5).item()],
            })
            print(rows[-1], flush=True)
    return rows


def correct(x: Tensor, parts: Tensor) -> Tensor:
    return attributes.attributes_correct(x, parts).double()


def seconds(D, vae, T, B: int, rounds: int) -> dict:
    captions = noun_parts.plain_captions(known_parts(B, "test"))
    pixels, mini = profiling.median_seconds(
        lambda: sampling.text_to_image(T, captions),
        lambda: sampling.text_to_image(D, captions, vae=vae),
        rounds=rounds,
    )
    return {"batch": B, "nouns": pixels, "mini_sd": mini, "ratio": pixels / mini}


def judged(D, vae, T, n: int) -> dict:
    """The numbers of the header, without times."""
    held = noun_parts.draw_parts(200, seed=6, split="test")
    held[:, HEAD] = withheld_ids()[torch.arange(200) % len(WITHHELD)]
    x = sampling.text_to_image(D, noun_parts.plain_captions(held), vae=vae)
    return {
        "n": n,
        "withheld": list(WITHHELD),
        "accuracy_on_withheld": dict(zip(noun_parts.PARTS, correct(x, held).mean(0).tolist())),
        "paired": paired(D, vae, T, n),
        "judged_by": f"python tools/recipes/ship_mini_sd.py --n {n}",
        "machine": train.about_machine(),
    }


def times(vae, T) -> None:
    """Into the header of the shipped file."""
    D = train.load(SHIPPED)
    rows = [seconds(D, vae, T, 1, 9), seconds(D, vae, T, 100, 3)]
    print(json.dumps(rows, indent=1))
    about = dict(D.about)
    metrics = about.pop("metrics") | {"seconds": rows, "timed_on": train.about_machine()}
    train.save(D, SHIPPED, **about, metrics=metrics)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    vae, T = train.load("nouns_vae"), train.load("nouns")
    if arguments.times:
        return times(vae, T)
    D = train.load(train.runs_folder() / "mini_sd/mini_sd.safetensors")
    numbers = judged(D, vae, T, arguments.n)
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        train.save(D, SHIPPED, **D.about, metrics=numbers)
        print(f"{SHIPPED}: {SHIPPED.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
