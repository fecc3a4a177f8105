"""Run lesson 5's three minutes of training and keep what came out:
course_lib/assets/nouns_live.safetensors, which the lesson shows.

    python tools/recipes/nouns_live.py              four minutes on two idle cores
"""
import argparse
import re
from pathlib import Path

import torch

from course_lib import Denoiser, Schedule
from course_lib.lab import attributes, data, noun_parts, sampling, train
from course_lib.lab.storage import ASSETS, save_tensors
from course_lib.networks import text

LESSON = Path(__file__).parents[2] / "lessons/05_conditional_generation.py"
N, W = 200, 2.0


def trained(seconds: float) -> Denoiser:
    """The lesson's own lines, cut out of it and run: not a copy of them."""
    source = LESSON.read_text(encoding="utf-8")
    cell = re.search(r"^def three_minutes\(.*?(?=^# %%)", source, re.DOTALL | re.MULTILINE).group()
    names = {
        "data": data,
        "noun_parts": noun_parts,
        "train": train,
        "text": text,
        "torch": torch,
        "Denoiser": Denoiser,
        "cosine": Schedule.cosine(),
    }
    exec(cell, names)
    return names["three_minutes"](seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    seconds = parser.parse_args().seconds
    D = trained(seconds)
    parts = noun_parts.draw_parts(N, seed=5, split="test")
    x = sampling.text_to_image(D, noun_parts.plain_captions(parts), W)
    right = attributes.attributes_correct(x, parts).float().mean(0)
    print(dict(zip(noun_parts.PARTS, right.tolist())))
    about = (
        f"for {seconds:.0f} s on {train.about_machine()}, {D.history[-1][0]} steps of 64, then "
        f"w = {W:g}, 10 steps, {N} new combinations"
    )
    losses = torch.tensor(D.history)
    tensors = {"x": x[:8].half(), "parts": parts.short(), "losses": losses, "right": right}
    file = ASSETS / "nouns_live.safetensors"
    save_tensors(file, tensors, {"about": about, "command": "python tools/recipes/nouns_live.py"})
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB, {about}")


if __name__ == "__main__":
    main()
