"""Draw the README's opening picture: captions that training never saw, and what the shipped model `nouns` makes of them.

    python tools/gallery.py [FILE]          assets/nouns.png, unless another file is named; half a minute on two cores
"""
import sys
from pathlib import Path

from PIL import Image

from course_lib.lab import plots, study, train

PROMPTS = [
    "a shark-headed noun with blue square glasses, wearing a black checkered shirt, cool background",
    "a figure whose head is a snowman, in red spectacles, wearing a carrot, ice body, warm backdrop",
    "a pizza head, yellow specs, a teal torso and a sunset on the chest, rosy background",
    "a noun with a crystal ball head, green and blue glasses, wearing a snowflake, purple body, cold background",
    "a burger-headed character, black glasses, blue stripes, red body, warm background",
    "a volcano head with orange glasses, a dragon on its shirt, charcoal torso, cool backdrop",
    "a wizard hat head, magenta glasses, wearing a yin yang, gold body, warm background",
    "a panda-headed noun with teal spectacles, showing a broken heart, dark pink body, cool background",
    "a robot-headed figure in full black specs, rgb circles on its shirt, white body, bluish backdrop",
    "a rainbow head with rose hip glasses, wearing a gold chain, sky blue body, warm background",
]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "assets/nouns.png"
    x = study.painted(train.load("nouns"), PROMPTS, w=2.0, steps=20, seed=0)
    plots.gallery(x, PROMPTS, columns=5, width=10.0).savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
