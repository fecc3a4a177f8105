"""Make course_lib/assets/nouns.npz from the Nouns' own image-data.json: its parts as layers of
palette indices, and a plain name for each.

    npm pack @nouns/assets@0.10.0 && tar xf nouns-assets-0.10.0.tgz
        (or any copy of the file)
    python tools/recipes/make_nouns.py package/dist/image-data.json
        prints the digest that course_lib/lab/data/noun_parts.py expects

A layer is a 32 x 32 picture of palette indices, 0 where it is see-through. The names are the
artists' file names, put into words.
"""
import argparse
import json
from pathlib import Path

import npz
import numpy as np

FILE = Path(__file__).parents[2] / "course_lib/assets/nouns.npz"
SIZE = 32

BACKGROUNDS = ["cool", "warm"]
BODIES = [
    "beige",
    "crt beige",
    "sky blue",
    "blue grey",
    "ice",
    "computer blue",
    "dark brown",
    "dark pink",
    "fog grey",
    "gold",
    "white",
    "dark grey",
    "charcoal",
    "black",
    "green",
    "gunk",
    "hot brown",
    "magenta",
    "orange yellow",
    "orange",
    "dark peach",
    "light peach",
    "purple",
    "red",
    "pinkish red",
    "rust",
    "slime green",
    "light teal",
    "teal",
    "yellow",
]
GLASSES = [
    "rose hip",
    "red eyed black",
    "rgb black",
    "black",
    "bright blue",
    "blue",
    "frog green",
    "full black",
    "green and blue",
    "light grey",
    "guava",
    "honey",
    "magenta",
    "orange",
    "pink and purple",
    "red",
    "smoke",
    "teal",
    "watermelon",
    "yellow and orange",
    "yellow",
    "deep teal",
    "grass",
]
HEADS = {  # where the file's name, its hyphens as spaces, would puzzle a reader
    "baseball gameball": "baseball",
    "bigfoot yeti": "yeti",
    "blackhole": "black hole",
    "boxingglove": "boxing glove",
    "bubble speech": "speech bubble",
    "burger dollarmenu": "burger",
    "cannedham": "canned ham",
    "cassettetape": "cassette tape",
    "chart bars": "bar chart",
    "chefhat": "chef hat",
    "coffeebean": "coffee bean",
    "console handheld": "handheld console",
    "cordlessphone": "cordless phone",
    "cottonball": "cotton ball",
    "croc hat": "crocodile hat",
    "crt bsod": "crt monitor",
    "crystalball": "crystal ball",
    "diamond blue": "blue diamond",
    "diamond red": "red diamond",
    "ducky": "rubber duck",
    "faberge": "faberge egg",
    "factory dark": "factory",
    "film 35mm": "film roll",
    "fir": "fir tree",
    "firehydrant": "fire hydrant",
    "ghost B": "ghost",
    "glasses big": "big lens",
    "goldcoin": "gold coin",
    "hardhat": "hard hat",
    "highheel": "high heel",
    "hockeypuck": "hockey puck",
    "horse deepfried": "horse",
    "hotdog": "hot dog",
    "icepop b": "ice pop",
    "lipstick2": "lipstick",
    "mountain snowcap": "snowy mountain",
    "pencil tip": "pencil",
    "piggybank": "piggy bank",
    "pirateship": "pirate ship",
    "pop": "soda can",
    "porkbao": "pork bao",
    "queencrown": "queen crown",
    "ruler triangular": "triangular ruler",
    "saguaro": "cactus",
    "skeleton hat": "skeleton",
    "skilift": "ski lift",
    "snowglobe": "snow globe",
    "star sparkles": "star",
    "taco classic": "taco",
    "thumbsup": "thumbs up",
    "toiletpaper full": "toilet paper",
    "toothbrush fresh": "toothbrush",
    "trashcan": "trash can",
    "turing": "turing machine",
    "wallsafe": "wall safe",
    "washingmachine": "washing machine",
    "whale alive": "living whale",
    "wizardhat": "wizard hat",
    "treasurechest": "treasure chest",
    "shrimp tempura": "shrimp",
}
ACCESSORIES = {
    "1n": "one over n",
    "belly chameleon": "chameleon belly",
    "bird flying": "flying bird",
    "bird side": "red bird",
    "bling anchor": "anchor pendant",
    "bling anvil": "anvil pendant",
    "bling arrow": "arrow pendant",
    "bling cheese": "cheese pendant",
    "bling gold ingot": "gold ingot pendant",
    "bling love": "love pendant",
    "bling mask": "mask pendant",
    "bling rings": "rings pendant",
    "bling scissors": "scissors pendant",
    "bling sparkles": "sparkles pendant",
    "body gradient checkerdisco": "disco checkered shirt",
    "body gradient dawn": "dawn gradient",
    "body gradient dusk": "dusk gradient",
    "body gradient glacier": "glacier gradient",
    "body gradient ice": "ice gradient",
    "body gradient pride": "pride gradient",
    "body gradient redpink": "red and pink gradient",
    "body gradient sunset": "sunset gradient",
    "chain logo": "gold chain",
    "checker RGB": "rgb checkered shirt",
    "checker bigwalk blue prime": "blue block shirt",
    "checker bigwalk greylight": "grey block shirt",
    "checker bigwalk rainbow": "rainbow block shirt",
    "checker spaced black": "spaced black checkered shirt",
    "checker spaced white": "spaced white checkered shirt",
    "checker vibrant": "vibrant checkered shirt",
    "checkers big green": "big green checkered shirt",
    "checkers big red cold": "big red checkered shirt",
    "checkers black": "black checkered shirt",
    "checkers blue": "blue checkered shirt",
    "checkers magenta 80": "pink checkered shirt",
    "collar sunset": "sunset collar",
    "decay gray dark": "grey decayed shirt",
    "decay pride": "pride decayed shirt",
    "dollar bling": "dollar pendant",
    "ducky": "rubber duck",
    "eth": "ether diamond",
    "flash": "flash",
    "glasses logo sun": "sun goggle logo",
    "glasses logo": "goggle logo",
    "glasses": "two goggles",
    "grid simple bege": "beige grid",
    "hoodiestrings uneven": "hoodie strings",
    "id": "name badge",
    "lines 45 greens": "green slanted lines",
    "lines 45 rose": "rose slanted lines",
    "lp": "vinyl record",
    "marsface": "mars face",
    "matrix white": "white dot matrix",
    "moon block": "moon",
    "none": "plain shirt",
    "oldshirt": "old shirt",
    "pizza bling": "pizza pendant",
    "rgb": "rgb circles",
    "robot": "robot belly",
    "scarf clown": "clown scarf",
    "shirt black": "black jacket",
    "slimesplat": "slime splat",
    "small bling": "small necklace",
    "stains blood": "blood stains",
    "stains zombie": "zombie stains",
    "stripes and checks": "stripes and checks",
    "stripes big red": "big red stripes",
    "stripes blit": "blit stripes",
    "stripes blue med": "blue stripes",
    "stripes brown": "brown stripes",
    "stripes olive": "olive stripes",
    "stripes red cold": "red stripes",
    "sunset": "sunset",
    "taxi checkers": "taxi checkers",
    "tee yo": "yo tee",
    "text yolo": "yolo text",
    "think": "thought bubble",
    "tie black on white": "black tie",
    "tie dye": "tie dye shirt",
    "tie purple on white": "purple tie",
    "tie red": "red tie",
    "txt a2+b2": "pythagoras text",
    "txt cc2": "red cc text",
    "txt dao black": "dao text",
    "txt dope text": "dope text",
    "txt foo black": "foo text",
    "txt nil grey dark": "nil text",
    "txt noun f0f": "bright pink noun text",
    "txt noun green": "green noun text",
    "txt noun multicolor": "multicolour noun text",
    "txt noun": "light pink noun text",
    "wall": "brick wall",
    "wet money": "wet money",
    "woolweave bicolor": "two colour wool weave",
    "woolweave dirt": "dirt wool weave",
    "yingyang": "yin yang",
    "body bege": "beige skin",
    "body gray scale 1": "white skin",
    "body gray scale 9": "black skin",
    "body ice cold": "ice skin",
    "secret x": "secret x",
}


def layer(code: str) -> np.ndarray:
    """One part's run-length code: a version, top, right, bottom, left, then pairs
    (length, palette index) within these bounds.
    """
    _, top, right, bottom, left, *runs = bytes.fromhex(code[2:])
    picture = np.zeros((SIZE, SIZE), np.uint8)
    if runs:
        picture[top : bottom + 1, left:right] = np.repeat(
            np.array(runs[1::2], np.uint8), runs[::2]
        ).reshape(bottom + 1 - top, right - left)
    return picture


def named(entries: list[dict], kind: str, words: dict[str, str]) -> list[str]:
    """A plain name for each part: from the table, else the file's."""
    plain = [entry["filename"].removeprefix(kind + "-").replace("-", " ") for entry in entries]
    if unknown := words.keys() - set(plain):
        raise SystemExit(f"no file is called {', '.join(sorted(unknown))}")
    names = [
        words.get(name, f"{name.removeprefix('txt ')} text" if name.startswith("txt ") else name)
        for name in plain
    ]
    assert len(set(names)) == len(names), [name for name in names if names.count(name) > 1]
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("json", type=Path)
    source = json.loads(parser.parse_args().json.read_text())
    colours = [*source["palette"], *source["bgcolors"]]  # palette[0] is no colour: see-through
    palette = np.array(
        [[int(c[i : i + 2], 16) for i in (0, 2, 4)] if c else (0, 0, 0) for c in colours], np.uint8
    )
    images = source["images"]
    arrays = {
        "palette": palette,
        "background": np.stack(
            [np.full((SIZE, SIZE), len(source["palette"]) + k, np.uint8) for k in range(2)]
        ),
    }
    for part, kind in (
        ("body", "bodies"),
        ("accessory", "accessories"),
        ("head", "heads"),
        ("glasses", "glasses"),
    ):
        arrays[part] = np.stack([layer(entry["data"]) for entry in images[kind]])
    names = {
        "background": BACKGROUNDS,
        "body": BODIES,
        "accessory": named(images["accessories"], "accessory", ACCESSORIES),
        "head": named(images["heads"], "head", HEADS),
        "glasses": GLASSES,
    }
    for part, words in names.items():
        assert len(words) == len(arrays[part]) == len(set(words)), part
        arrays[f"{part}_names"] = np.array(words)
    print(npz.write(FILE, arrays))


if __name__ == "__main__":
    main()
