"""Training data from what images usually come in: arrays, torchvision data sets, loaders, lists."""
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ... import validate
from .pictures_folder import Pictures, to_opaque

MOST = 2**31                                                # more classes than anyone has
GREY_MODES = ("1", "L", "LA", "I", "I;16")


def as_training_data(data) -> dict[str, Tensor]:
    """A dict of tensors: "x0" (N, ...), and the conditions that there are, such as "y" (N,) int64.

    data: Pictures; x0 or (x0, y) or {"x0": x0, ...} of tensors or arrays; or a data set, a
    DataLoader of one, or a list, whose items are images (PIL, tensors, arrays) or (image, label).

    Floating-point tensors are taken to be in [-1, 1] and stay as they are. Bytes stay bytes, in the
    layout (N, C, H, W); the trainer scales them. Arrays and data sets of images in [0, 1] are
    mapped to [-1, 1]. The transforms of a data set are applied once, not once an epoch.
    Raises TypeError or ValueError, with the line of code that helps, where the meaning is unclear.
    """
    if isinstance(data, Pictures):
        return data.tensors()
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, Tensor | np.ndarray):
        data = {"x0": data}
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        data = {"x0": data[0], "y": validate.labels(data[1], len(data[0]), MOST, "y")}
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], list):
        data = list(zip(*data, strict=True))
    if isinstance(data, dict) and "x0" in data:
        if len(data["x0"]) == 0:
            raise ValueError("there are no images in the data")
        others = {name: _condition(name, data[name]) for name in data if name != "x0"}
        return _of_one_length({"x0": _images(data["x0"])} | others)
    return _from_items(_validate_items(data))


def _validate_items(data) -> Sequence:
    """The data, if it has a length and items that are not dicts."""
    if isinstance(data, str | Path):
        raise TypeError(f"read the pictures first: data = pictures({str(data)!r}, size=64)")
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        raise TypeError(f"a {type(data).__name__} cannot be trained on; if it yields images, "
                        "collect them: data = list(data)")
    if len(data) == 0:
        raise ValueError("there are no images in the data")
    if isinstance(data, dict) or isinstance(data[0], dict):
        raise TypeError("it is not known which entries are the images and the labels: "
                        'data = [(row["image"], row["label"]) for row in data], or of tensors '
                        '{"x0": images, "y": labels}')
    return data


def _of_one_length(data: dict[str, Tensor]) -> dict[str, Tensor]:
    lengths = {name: len(value) if value.ndim else 0 for name, value in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"each image needs one of each condition, such as y; got {lengths}")
    return data


def _from_items(data: Sequence) -> dict[str, Tensor]:
    """The images, and the labels if there are any, of a data set with a length."""
    images, labels = None, []
    for row in range(len(data)):            # by index: not every data set can be iterated over
        item = data[row]
        image, *label = item if isinstance(item, tuple | list) else (item,)
        image = _array(image)               # (C, H, W) or (H, W, C) or (H, W)
        if images is None:
            images = np.empty((len(data), *image.shape), image.dtype)
        if image.shape != images.shape[1:]:
            raise ValueError(f"image 0 has the shape {images.shape[1:]}, image {row} has "
                             f"{image.shape}; make them alike: {_line_that_fits(bool(label))}")
        images[row] = image
        labels += map(_label, label)
    given = {"x0": _images(images)} | ({"y": torch.tensor(labels)} if labels else {})
    return _of_one_length(given)


def _line_that_fits(labelled: bool) -> str:
    item = "(image, y)" if labelled else "image"
    fitted = item.replace("image", "ImageOps.fit(image.convert('RGB'), (64, 64))")
    return f"data = [{fitted} for {item} in data]"


def _array(image) -> np.ndarray:
    """One image as an array: PIL's as (H, W) or (H, W, 3) uint8, tensors as they are."""
    if isinstance(image, Image.Image):
        grey = image.mode in GREY_MODES
        return np.asarray(to_opaque(image, *(("L", 255) if grey else ("RGB", (255, 255, 255)))))
    if isinstance(image, Tensor | np.ndarray):
        return np.asarray(image)
    raise TypeError(f"images must be PIL's, tensors or arrays; got a {type(image).__name__}: "
                    "data = [(Image.open(file), label) for file, label in data] if it is a file")


def _label(label) -> int:
    try:
        return operator.index(label)
    except TypeError:
        raise TypeError(f"labels must be integers; got {label!r}: names = sorted({{y for _, y in "
                        "data}); data = [(x, names.index(y)) for x, y in data]") from None


def _condition(name: str, value) -> Tensor:
    """A condition as a tensor; integers as int64, which embeddings need."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers; if it is text, tokenize it: "
                        f'data["{name}"] = tokenizer(captions)') from None
    integer = not value.is_floating_point() and value.dtype != torch.bool
    return value.long() if integer else value


def _images(x: Tensor | np.ndarray) -> Tensor:
    """Images as (N, C, H, W), uint8 or float32 in [-1, 1]; other floating-point data unchanged."""
    if isinstance(x, Tensor) and x.is_floating_point():
        validate.finite(x, "x0")
        if _is_image(x) and x.numel() and x.min() >= 0 and x.max() > 2:
            raise ValueError(f"images must lie in [-1, 1]; got up to {x.max():.4g}: "
                             f"{validate.SCALE}")
        return x
    given, x = x.shape, _channels_first(_bytes_or_floats(x))
    validate.finite(x, "x0")
    if x.dtype == torch.uint8 or not _is_image(x) or x.min() < 0:
        return x
    if x.max() <= 1:
        return x * 2 - 1
    turn = "" if x.shape == given else ".permute(0, 3, 1, 2)"
    raise ValueError(f"images must lie in [-1, 1] or [0, 1]; got [{x.min():.4g}, {x.max():.4g}]: "
                     f"x = torch.from_numpy(x){turn}.float() / 127.5 - 1 if they are 0..255")


def _is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3)


def _bytes_or_floats(x: Tensor | np.ndarray) -> Tensor:
    x = torch.as_tensor(x)
    if x.is_floating_point():
        return x.float()
    if x.dtype != torch.uint8:
        raise TypeError(f"images must be bytes, or floating point in [-1, 1]; got {x.dtype}: "
                        "x = x.astype(np.uint8) if they are 0..255")
    return x


def _channels_first(x: Tensor) -> Tensor:
    """Images (N, H, W, C), or (N, H, W) in bytes, as (N, C, H, W); other data unchanged."""
    if x.ndim == 3 and x.dtype == torch.uint8:
        x = x[:, None]                                      # (N, H, W) -> (N, 1, H, W)
    if x.ndim == 4 and not _is_image(x) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2).contiguous()              # (N, H, W, C) -> (N, C, H, W)
    if x.dtype == torch.uint8 and not _is_image(x):
        raise ValueError(f"images must have 1 or 3 channels; got the shape {tuple(x.shape)}: "
                         "x = x[..., :3] leaves out the alpha of (N, H, W, 4)")
    return x
