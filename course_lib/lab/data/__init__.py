"""Data sets.

Shipped: MNIST (`mnist`) and captioned pixel figures (`nouns`). Fetched: `cifar10`. Your own:
`pictures`. Drawn: two-dimensional toys.
"""
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
    "pictures",
    "Pictures",
    "as_training_data",
    "GaussianMixture",
    "two_moons",
    "swiss_roll",
    "spiral",
    "checkerboard",
]
