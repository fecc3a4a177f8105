"""Data sets.

Shipped: MNIST (`mnist`), captioned pixel figures (`nouns`), percussion (`drums`), furniture
(`clouds`). Fetched: `cifar10`. Your own: `pictures`. Drawn: two-dimensional toys, clips of moving
digits (`moving_digits`).
"""
import importlib

from .convert import as_training_data
from .digits import mnist
from .mixtures import GaussianMixture
from .noun_parts import nouns
from .photographs import cifar10
from .pictures_folder import Pictures, pictures
from .toys import checkerboard, spiral, swiss_roll, two_moons

__all__ = [
    "mnist",
    "cifar10",
    "nouns",
    "drums",
    "clouds",
    "moving_digits",
    "pictures",
    "Pictures",
    "as_training_data",
    "GaussianMixture",
    "two_moons",
    "swiss_roll",
    "spiral",
    "checkerboard",
]

# loaded when they are first used: only lesson 6 needs them
LATER = {"drums": "percussion", "clouds": "furniture", "moving_digits": "digit_clips"}


def __getattr__(name: str):
    if name not in LATER:
        raise AttributeError(f"course_lib.lab.data has {', '.join(__all__)}; there is no {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
