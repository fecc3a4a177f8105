"""Make course_lib/assets/minilm.npz: what a sentence encoder trained on a billion pairs of
sentences makes of the Nouns' names and of common words.

    python tools/recipes/make_minilm.py FOLDER [--search]
        prints the digest that course_lib/lab/data/word_vectors.py expects; --search: the wordings
        and sizes compared

FOLDER holds minilm.safetensors and vocab.txt of sentence-transformers/all-MiniLM-L6-v2. Its forward
pass (BERT: Devlin et al. 2019; MiniLM: Wang et al. 2020;
mean pooling and length 1: Reimers & Gurevych 2019) is written out below, so the tool needs torch
alone, and the course needs neither the weights nor the tool.
"""
import argparse
import csv
import math
import sys
from pathlib import Path

import npz
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from course_lib.lab import noun_parts
from course_lib.lab.storage import ASSETS

FILE = ASSETS / "minilm.npz"
LAYERS = 6
HEADS = 12
COMMON, DIM = 4000, 128
WORDING = "{}"  # how a name is put to the encoder; --search compares others
EXTRA = """
kitty kitten feline puppy hound canine pup poodle pony stallion mare foal cattle calf bull hen
rooster chick duckling goose swan turkey pigeon dove sparrow crow raven eagle hawk owl parrot
penguin ostrich stork heron gull seagull peacock chimpanzee gorilla monkey baboon gibbon lemur
toad tadpole newt lizard gecko iguana crocodile alligator turtle tortoise snake serpent viper
python cobra hornet wasp bee bumblebee beetle ladybug butterfly moth fly gnat ant spider
tarantula worm snail slug lobster crayfish prawn clam mussel octopus cuttlefish dolphin porpoise
walrus seal manatee narwhal trout salmon tuna cod carp herring eel ray stingray bunny hare
hamster gerbil rat squirrel chipmunk beaver badger hedgehog porcupine skunk raccoon weasel
ferret mole deer elk reindeer caribou antelope gazelle bison buffalo camel llama alpaca donkey
mule sheep lamb ewe ram pig hog piglet boar giraffe elephant rhino rhinoceros hippo hippopotamus
lion lioness panther leopard cheetah jaguar lynx cougar puma wolf coyote jackal hyena koala
wombat platypus sloth anteater armadillo mammoth dino dinosaur rodent automobile vehicle cab
truck lorry van bus motorcycle bicycle scooter tram subway train locomotive airplane aircraft
jet glider helicopter chopper rocket spaceship yacht canoe kayak ferry ship submarine sled
sleigh snowboard ski sofa armchair chair stool bench bed mattress cushion blanket rug carpet
curtain wardrobe cupboard shelf drawer desk lamp lantern candle bulb donut pastry croissant
muffin cupcake pancake waffle biscuit cracker pretzel hamburger cheeseburger sausage bacon ham
pork beef meat fillet lamb noodle pasta ravioli lasagna rice sushi bread toast bun bagel
baguette cereal oatmeal porridge soup stew salad omelette pudding custard jelly jam honey syrup
candy lollipop caramel gelato sorbet popsicle milkshake yogurt butter cream soda lemonade juice
coffee espresso tea cocoa beverage whisky whiskey vodka rum brandy champagne ale lager cider
tomato cucumber lettuce cabbage spinach broccoli cauliflower celery asparagus carrot radish
turnip beetroot pepper chili paprika eggplant zucchini squash corn pea bean lentil avocado apple
pear peach plum apricot grape raisin strawberry raspberry blackberry cranberry orange lemon lime
grapefruit mango papaya melon kiwi fig date coconut almond walnut hazelnut pistachio cashew
refrigerator fridge freezer oven stove dishwasher kettle teapot pan pot bowl plate cup glass
bottle jug fork spoon knife blender vacuum broom bucket garbage rubbish trash dustbin telephone
phone smartphone mobile computer keyboard monitor screen television radio speaker headphones
microphone turntable cassette tape disc projector camera lens photograph skull bone skeleton
spirit phantom zombie ghoul vampire mummy witch wizard sorcerer goblin elf dwarf fairy angel
demon monster alien robot android cyborg hurricane cyclone storm blizzard thunder lightning
planet asteroid comet meteor galaxy universe globe world sun moonlight sunrise dawn dusk
twilight cottage cabin hut mansion palace castle tower skyscraper barn shed tent church temple
factory cash coin money purse wallet handbag suitcase rucksack briefcase rose tulip daisy lily
orchid sunflower blossom petal shrub bush tree pine oak maple willow palm fern moss helmet hat
cap bonnet beret turban hood crown tiara clock wristwatch stopwatch hourglass necklace bracelet
earring brooch gem jewel ruby sapphire emerald pearl diamond necktie bowtie scarf shawl glove
mitten sock shoe sneaker sandal slipper boot trousers jeans skirt dress gown jacket coat
raincoat pullover cardigan hoodie vest apron belt button zipper hammer wrench screwdriver pliers
nail screw chisel axe hatchet shovel spade rake ladder rope string wire cable scissors needle
thread ruler eraser crayon marker pen notebook envelope stamp newspaper magazine novel
encyclopedia dictionary map guitar violin cello harp flute clarinet saxophone trumpet trombone
drum cymbal harmonica accordion xylophone football soccer tennis golf hockey racket bat dice
puzzle chess balloon kite toy doll puppet teddy scarlet crimson vermilion maroon burgundy golden
amber bronze copper violet lavender lilac indigo mauve azure turquoise cyan aqua aquamarine navy
cobalt olive khaki tan cream ivory snow ebony jet charcoal silver grey gray pink coral salmon
magenta fuchsia mint lime jade explosive grenade dynamite rifle pistol cannon sword dagger
shield armor spear arrow bow anchor sail rudder compass telescope microscope magnet battery
engine wheel tire brake gear spring lever pulley volcano glacier iceberg waterfall river lake
ocean beach desert canyon cliff cave forest jungle meadow swamp hill mountain peak tooth teeth
tongue nose ear mouth lip eyebrow beard mustache wig hair brain lung liver kidney stomach muscle
syringe bandage pill tablet medicine thermometer toilet bathtub sink faucet towel soap shampoo
toothpaste comb mirror razor perfume
"""


def pieces(text: str, number: dict[str, int]) -> list[int]:
    """WordPiece: each word as the longest pieces that the vocabulary has, from the left.

    (Wu et al. 2016)
    """
    found = [number["[CLS]"]]
    for word in text.lower().split():
        start = 0
        while start < len(word):
            end = next(
                e
                for e in range(len(word), start, -1)
                if ("##" if start else "") + word[start:e] in number
            )
            found.append(number[("##" if start else "") + word[start:end]])
            start = end
    return [*found, number["[SEP]"]]


def encode(texts: list[str], weights: dict[str, Tensor], number: dict[str, int]) -> Tensor:
    """(N, 384), each of length 1.

    Texts of equal length go together, so that nothing needs a mask.
    """
    tokens, out = [pieces(text, number) for text in texts], torch.empty(len(texts), 384)
    for length in sorted({len(row) for row in tokens}):
        rows = [k for k, row in enumerate(tokens) if len(row) == length]
        for part in torch.tensor(rows).split(256):
            h = bert(torch.tensor([tokens[k] for k in part]), weights)  # (B, L, 384)
            out[part] = F.normalize(h.mean(1), dim=1)
    return out


def bert(tokens: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """BERT's last layer: tokens (B, L) -> (B, L, 384)."""
    linear = lambda h, name: F.linear(h, weights[f"{name}.weight"], weights[f"{name}.bias"])
    def norm(h, name):
        return F.layer_norm(
            h, h.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12
        )
    table = lambda name: weights[f"embeddings.{name}_embeddings.weight"]
    h = norm(
        table("word")[tokens] + table("position")[: tokens.shape[1]] + table("token_type")[0],
        "embeddings.LayerNorm",
    )
    for k in range(LAYERS):
        at = f"encoder.layer.{k}"
        q, key, v = (
            linear(h, f"{at}.attention.self.{name}").unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        # (B, heads, L, 32)
        seen = (q @ key.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        h = norm(
            h + linear(seen.transpose(1, 2).flatten(2), f"{at}.attention.output.dense"),
            f"{at}.attention.output.LayerNorm",
        )
        h = norm(
            h + linear(F.gelu(linear(h, f"{at}.intermediate.dense")), f"{at}.output.dense"),
            f"{at}.output.LayerNorm",
        )
    return h


def common_words(vocabulary: list[str], names: dict[str, list[str]]) -> list[str]:
    """The first 4,000 whole words of three letters or more, most frequent first, then what the list
    above adds, then names of one word.
    """
    whole = [
        word
        for word in vocabulary
        if word.isascii() and word.isalpha() and word.islower() and len(word) >= 3
    ]
    return list(
        dict.fromkeys(
            [
                *whole[:COMMON],
                *EXTRA.split(),
                *(name for same in names.values() for name in same if " " not in name),
            ]
        )
    )


def reduced(vectors: Tensor, dim: int) -> Tensor:
    """The same directions in fewer numbers: projected on the singular vectors that keep most,
    brought to length 1 again.   (N, 384) -> (N, dim)
    """
    basis = torch.linalg.eigh(vectors.double().T @ vectors.double())[1].flip(1)[:, :dim]
    # the same signs on every machine
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    return F.normalize(vectors.double() @ basis, dim=1).float()


def right_answers(
    word_vectors: dict[str, Tensor], name_vectors: dict[str, Tensor], names: dict[str, list[str]]
) -> float:
    """The share of assets/synonyms.csv whose nearest name is an accepted one."""
    tests = list(csv.DictReader((ASSETS / "synonyms.csv").open()))
    return sum(
        names[t["part"]][int((name_vectors[t["part"]] @ word_vectors[t["word"]]).argmax())]
        in t["accepted"].split("|")
        for t in tests
    ) / len(tests)


def search(words: list[str], names: dict[str, list[str]], run) -> None:
    """Wordings and sizes, compared on the synonyms."""
    of_words = run(words)
    for wording in ("{}", "a {}", "a {part} that is a {}", "a {} {part}"):
        of_names = {
            part: run([wording.replace("{part}", part).format(name) for name in same])
            for part, same in names.items()
        }
        for dim in (384, 128, 96, 64, 32):
            parts = reduced(torch.cat([of_words, *of_names.values()]), dim).split(
                [len(words), *map(len, names.values())]
            )
            vectors = dict(zip(words, parts[0]))
            share = right_answers(vectors, dict(zip(names, parts[1:])), names)
            print(f"{wording:24} {dim:4} {share:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--search", action="store_true")
    arguments = parser.parse_args()
    vocabulary = (arguments.folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    weights = load_file(arguments.folder / "minilm.safetensors")
    number = {word: k for k, word in enumerate(vocabulary)}
    names = noun_parts.load_art().names
    words = common_words(vocabulary, names)
    run = lambda texts: encode(texts, weights, number)
    if arguments.search:
        return search(words, names, run)
    vectors = torch.cat(
        [run(words), *(run([WORDING.format(name) for name in same]) for same in names.values())]
    )
    whole = (reduced(vectors, DIM) * 127).round().to(torch.int8).numpy()  # (N, DIM), 127 for 1
    arrays = {"words": np.array(words), "vectors": whole[:len(words)]}
    start = len(words)
    for part, same in names.items():
        arrays[part], start = whole[start:start + len(same)], start + len(same)
    print(f"{len(words)} words; {npz.write(FILE, arrays)}")


if __name__ == "__main__":
    sys.exit(main())
