"""CIFAR-10, read from a file or fetched by torchvision."""
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def cifar10(split: str = "train", folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """CIFAR-10's photographs: x (N, 3, 32, 32) float32 in [-1, 1] and y (N,) int64; N = 50,000 for
    "train", 10,000 for "test".

    Not shipped: a cifar10.npz (x_train, y_train, x_test, y_test; bytes) is read if there is one in
    `folder`, else $COURSE_DATA, else ~/.cache/course_lib; otherwise torchvision fetches them into
    that folder, once (170 MB).
    Raises ValueError for another split, OSError when they cannot be had. Source: Krizhevsky 2009.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    folder = Path(folder or os.environ.get("COURSE_DATA") or Path.home() / ".cache/course_lib")
    if (folder / "cifar10.npz").exists():
        try:
            with np.load(folder / "cifar10.npz") as arrays:
                x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
            y = y.reshape(-1)                               # (N, 1) in some copies
            if x.dtype != np.uint8 or x.shape != (len(y), 32, 32, 3):
                raise ValueError(
                    f"x_{split} must be bytes ({len(y)}, 32, 32, 3); got {x.dtype} {x.shape}"
                )
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise OSError(
                f"{folder / 'cifar10.npz'} is damaged or another file ({error}): delete it and "
                f"call again"
            ) from None
    else:
        from torchvision.datasets import CIFAR10
        try:
            photographs = CIFAR10(folder, train=split == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"CIFAR-10 could not be fetched into {folder} ({error}): put a cifar10.npz there, "
                f"or set COURSE_DATA to a folder that has one"
            ) from None
        x, y = photographs.data, photographs.targets
    # (N, 32, 32, 3) bytes before
    return (
        torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1),
        torch.as_tensor(y).long(),
    )
