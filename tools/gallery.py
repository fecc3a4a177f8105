"""Draw the README's opening picture: captions whose combinations training never saw, and what the
shipped model `nouns` makes of them.

    python tools/gallery.py [FILE]
        assets/nouns.png, unless another file is named; half a minute on two cores
"""
import sys
import tomllib
from pathlib import Path

import torch
from PIL import Image

from course_lib.lab import noun_parts, plots, sampling, train

ROOT = Path(__file__).parents[1]
PROMPTS = {  # caption: the parts that it names
    (
        "a shark-headed noun with blue square glasses, wearing a black checkered shirt, "
        "cool background"
    ): {
        "head": "shark",
        "glasses": "blue",
        "accessory": "black checkered shirt",
        "background": "cool",
    },
    (
        "a figure whose head is a snowman, in red spectacles, wearing a carrot, ice body, "
        "warm backdrop"
    ): {
        "head": "snowman",
        "glasses": "red",
        "accessory": "carrot",
        "body": "ice",
        "background": "warm",
    },
    "a pizza head, yellow specs, a teal torso and a sunset on the chest, rosy background": {
        "head": "pizza",
        "glasses": "yellow",
        "body": "teal",
        "accessory": "sunset",
        "background": "warm",
    },
    (
        "a noun with a crystal ball head, green and blue glasses, wearing a snowflake, purple "
        "body, cold background"
    ): {
        "head": "crystal ball",
        "glasses": "green and blue",
        "accessory": "snowflake",
        "body": "purple",
        "background": "cool",
    },
    "a burger-headed character, black glasses, blue stripes, red body, warm background": {
        "head": "burger",
        "glasses": "black",
        "accessory": "blue stripes",
        "body": "red",
        "background": "warm",
    },
    "a volcano head with orange glasses, a dragon on its shirt, charcoal torso, cool backdrop": {
        "head": "volcano",
        "glasses": "orange",
        "accessory": "dragon",
        "body": "charcoal",
        "background": "cool",
    },
    "a wizard hat head, magenta glasses, wearing a yin yang, gold body, warm background": {
        "head": "wizard hat",
        "glasses": "magenta",
        "accessory": "yin yang",
        "body": "gold",
        "background": "warm",
    },
    (
        "a panda-headed noun with teal spectacles, showing a broken heart, dark pink body, "
        "cool background"
    ): {
        "head": "panda",
        "glasses": "teal",
        "accessory": "broken heart",
        "body": "dark pink",
        "background": "cool",
    },
    (
        "a robot-headed figure in full black specs, rgb circles on its shirt, white body, "
        "bluish backdrop"
    ): {
        "head": "robot",
        "glasses": "full black",
        "accessory": "rgb circles",
        "body": "white",
        "background": "cool",
    },
    "a rainbow head with rose hip glasses, wearing a gold chain, sky blue body, warm background": {
        "head": "rainbow",
        "glasses": "rose hip",
        "accessory": "gold chain",
        "body": "sky blue",
        "background": "warm",
    },
}


def seen(trained: torch.Tensor, named: dict[str, str]) -> int:
    """How many of the training's nouns (N, 5) have all these parts."""
    same = [
        trained[:, noun_parts.PARTS.index(part)] == noun_parts.index_of(part, name)
        for part, name in named.items()
    ]
    return int(torch.stack(same).all(0).sum())


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets/nouns.png"
    trained = noun_parts.draw_parts(
        tomllib.loads((ROOT / "configs/nouns.toml").read_text(encoding="utf-8"))["examples"]
    )
    if old := [caption for caption, named in PROMPTS.items() if seen(trained, named)]:
        raise SystemExit(f"training saw what these captions ask for: {'; '.join(old)}")
    captions = list(PROMPTS)
    x = sampling.text_to_image(train.load("nouns"), captions, scale=2.0, steps=20, seed=0)
    plots.gallery(x, captions, columns=5, width=10.0).savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        file, optimize=True
    )
    print(
        f"{file}: {file.stat().st_size / 1e3:.0f} kB; none of the {len(captions)} combinations is "
        f"among the {len(trained):,} of the training"
    )


if __name__ == "__main__":
    main()
