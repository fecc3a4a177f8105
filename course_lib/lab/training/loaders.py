"""What a configuration trains on: one function for each name of `data`."""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Loaded(NamedTuple):
    """x: examples (N, ...); conditions: tensors (N, ...) by name; captions: of images; vocabulary:
    the number of token ids, of sequences alone.
    """
    x: Tensor
    conditions: dict[str, Tensor]
    captions: list[str] | None = None
    vocabulary: int | None = None


def load_data(config: dict) -> Loaded:
    """The data that a configuration names. Raises what their functions in `lab.data` raise."""
    name = config["data"]
    if name in DRAWN:
        make, n = DRAWN[name]
        return make(config.get("examples", n), config)
    return LOADERS[name](config)


def _digits(config: dict) -> Loaded:
    from ..data import mnist
    x, y = mnist("train")
    return Loaded(x, {"y": y})


def _photographs(config: dict) -> Loaded:
    from ..data import cifar10
    x, y = cifar10("train")
    return Loaded(x, {"y": y})


def _pictures(config: dict) -> Loaded:
    from ..data import pictures
    if "folder" not in config or "size" not in config:
        raise ValueError('data = "pictures" needs `folder` and `size`')
    found = pictures(**{key: _tuple(config[key]) for key in PICTURES if key in config})
    labels = {} if found.labels is None else {"y": found.labels}
    return Loaded(found.images, labels, found.captions)


def _tuple(value):
    """TOML's arrays as tuples."""
    return tuple(value) if isinstance(value, list) else value


# ---- data that are drawn, n of them

def _nouns(n: int, config: dict) -> Loaded:
    from ..data import nouns
    x, captions, _ = nouns(n)
    return Loaded(x, {}, captions)


def _captions(n: int, config: dict) -> Loaded:
    from ..data.caption_grammar import caption_tokenizer, caption_tokens
    return Loaded(caption_tokens(n), {}, vocabulary=len(caption_tokenizer().words))


def _sudoku(n: int, config: dict) -> Loaded:
    from ..data.sudoku import sudokus
    x = sudokus(n)
    return Loaded(x, {}, vocabulary=x.max().item() + 1)     # each number is in each grid


def _clips(n: int, config: dict) -> Loaded:
    from ..data import moving_digits
    found = moving_digits(n)
    x = found.x.add_(1).mul_(127.5).round_().to(torch.uint8)            # a quarter of the memory
    return Loaded(x, {"y": found.y})


def _drums(n: int, config: dict) -> Loaded:
    from ..data.percussion import augment, drums
    real = drums("train")
    x, rows = augment(real.x, n)
    return Loaded(x, {"y": real.y[rows]})


def _clouds(n: int, config: dict) -> Loaded:
    from ..data.furniture import POINTS, augment, clouds
    real = clouds("train", POINTS)
    x, rows = augment(real.x, n, config.get("points", 512))
    return Loaded(x, {"y": real.y[rows]})


def _obstacle(n: int, config: dict) -> Loaded:
    from ..data.obstacle import demonstrations
    made = demonstrations(n, chunk=config["network"].get("chunk", 8), perturbation=0.3)
    return Loaded(made["x0"], {"observation": made["observation"]})


LOADERS: dict[str, Callable] = {
    "mnist": _digits,
    "cifar10": _photographs,
    "pictures": _pictures,
}
DRAWN: dict[str, tuple[Callable, int]] = {                  # and how many, without `examples`
    "nouns": (_nouns, 60_000),
    "captions": (_captions, 60_000),
    "sudoku": (_sudoku, 60_000),
    "moving_digits": (_clips, 20_000),
    "drums": (_drums, 4000),
    "clouds": (_clouds, 10_000),
    "obstacle": (_obstacle, 1000),
}
PICTURES = ("folder", "size", "fit", "background", "channels")
OPTIONS = {"pictures": PICTURES, "clouds": ("points",)}     # further keys of these data
TOKENS = ("captions", "sudoku")                             # data of a TokenTransformer
