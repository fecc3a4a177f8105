"""Image files as training data: a folder as one uint8 tensor, with labels and captions."""
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ... import validate
from .picture_captions import read_captions, some, visible

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
MANY = 2000          # files from which on a progress bar is shown


@dataclass(frozen=True, eq=False, repr=False)
class Pictures:
    """N pictures of one size, with what is known of each.

    images:      (N, C, H, W) uint8
    labels:      (N,) int64, indices into class_names; None for a folder without sub-folders
    captions:    N strings; None for a folder without captions
    class_names: the names of the sub-folders, sorted; None without labels
    files:       the N paths
    """

    images: Tensor
    labels: Tensor | None
    captions: list[str] | None
    class_names: list[str] | None
    files: list[Path]

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape[1:]))
        classes = f", classes {some(self.class_names)}" if self.class_names else ""
        return f"<Pictures: {len(self)} of {shape}{classes}{', captions' if self.captions else ''}>"

    def floats(self, rows: slice | Tensor | list[int] | None = None) -> Tensor:
        """Those rows of the images, or all: (B, C, H, W) float32 in [-1, 1].

        Raises ValueError for rows that are not there.
        """
        if isinstance(rows, int) and not isinstance(rows, bool):
            rows = [rows]
        if isinstance(rows, Tensor) and rows.dtype == torch.uint8:          # else taken for a mask
            rows = rows.long()
        try:
            images = self.images if rows is None else self.images[rows]     # (B, C, H, W)
        except (IndexError, TypeError):
            raise ValueError(
                f"rows must be a slice, or whole numbers below {len(self)}: there are no others"
            ) from None
        return images.float().div_(127.5).sub_(1)

    def tensors(self) -> dict[str, Tensor]:
        """The dict that `train` takes: "x0" (N, C, H, W) uint8 and, with labels, "y" (N,) int64."""
        return {"x0": self.images} | ({} if self.labels is None else {"y": self.labels})


def pictures(folder: str | Path, size: int | tuple[int, int], *, channels: int = 3,
             fit: str = "crop", background: str | int | tuple[int, int, int] = "white",
             threads: int | None = None) -> Pictures:
    """Every PNG, JPEG, WebP, BMP and GIF file (its first frame) of a folder, sorted by name.

    size:       the side of a square, or (height, width)
    channels:   3 (RGB) or 1 (grey)
    fit:        "crop" covers the size and cuts off evenly what is over; "pad" shows the whole
                picture and fills the rest with the background
    background: a colour name, "#rrggbb", a grey level or (r, g, b) in 0..255; it also replaces
                transparent pixels
    threads:    how many files are decoded at once; None: one a core, 16 at most; any number gives
                the same result

    Sub-folders, if there are any, are the classes; what lies deeper is not read. Captions come from
    a metadata.csv in the folder (columns file_name, and text or caption: Hugging Face's
    imagefolder) or else from a text file beside each picture (cat.png, cat.txt). EXIF orientation
    is applied, colour profiles are not. Hidden files and files of other kinds are ignored. Files
    that cannot be read are skipped, with one warning.
    Raises TypeError or ValueError for other options, for a folder without readable pictures, for
    pictures both in the folder and in its sub-folders, and for captions that do not match the
    pictures one to one; FileNotFoundError or NotADirectoryError for a folder that is none.
    """
    height, width = _validate(size, channels, fit)
    if not str(folder):
        raise ValueError("folder must be the path of a folder; got an empty one")
    mode = "L" if channels == 1 else "RGB"
    fill = _pixel(background, mode)
    threads = None if threads is None else validate.whole(threads, "threads")
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"folder must be the path of one folder; got a {type(folder).__name__}")
    folder = Path(folder).expanduser()
    files, class_names = _find_pictures(folder)
    captions = read_captions(folder, files)
    images, rows = _read_all(files, (channels, height, width), threads,
                             lambda file: _read(file, (height, width), mode, fit, fill))
    files = [files[row] for row in rows]
    if captions is not None:
        captions = [captions[row] for row in rows]
    return Pictures(images, _labels(files, class_names), captions, class_names, files)


def _labels(files: list[Path], class_names: list[str] | None) -> Tensor | None:
    """The place of each file's folder among the classes: (N,) int64."""
    if class_names is None:
        return None
    place = {name: index for index, name in enumerate(class_names)}
    return torch.tensor([place[file.parent.name] for file in files])


def _validate(size: int | tuple[int, int], channels: int, fit: str) -> tuple[int, int]:
    """The size as (height, width)."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB); got {channels!r}")
    if fit not in ("crop", "pad"):
        raise ValueError(f"fit must be 'crop' or 'pad'; got {fit!r}")
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size must be a positive integer or (height, width); got {size!r}")
    return sides


def _pixel(background: str | int | tuple[int, int, int], mode: str) -> int | tuple[int, ...]:
    """The background as a pixel of this mode."""
    color = background
    try:
        if not isinstance(color, str):
            levels = color if isinstance(color, (tuple, list)) else [color] * 3
            if len(levels) != 3:
                raise ValueError
            color = tuple(validate.whole(level, "background", 0, 255) for level in levels)
        return Image.new("RGB", (1, 1), color).convert(mode).getpixel((0, 0))
    except (TypeError, ValueError):
        raise ValueError(
            "background must be a colour's name, '#rrggbb', a grey level or (r, g, b), 0 to 255; "
            f"got {background!r}"
        ) from None


# ---- the files of a folder

def _find_pictures(folder: Path) -> tuple[list[Path], list[str] | None]:
    """The picture files, class by class and sorted by name, and the names of the classes."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: give the folder that it lies in")
    files = _pictures_in(folder)
    subfolders = [path for path in visible(folder) if path.is_dir()]
    classes = {path.name: inside for path in subfolders if (inside := _pictures_in(path))}
    if files and classes:
        raise ValueError(f"{folder} has pictures of its own ({some(p.name for p in files)}) and "
                         f"sub-folders with pictures ({some(classes)}): move one of the two away")
    if not files and not classes:
        raise ValueError(_nothing_found(folder))
    return files or sum(classes.values(), []), list(classes) or None


def _pictures_in(folder: Path) -> list[Path]:
    candidates = (path for path in visible(folder) if path.suffix.lower() in SUFFIXES)
    return [path for path in candidates if path.is_file()]


def _nothing_found(folder: Path) -> str:
    for deeper in sorted(folder.glob("*/*")):
        if deeper.is_dir() and _pictures_in(deeper):
            return (f"the pictures lie too deep in {folder}: give {deeper.parent}, and its "
                    "sub-folders are the classes")
    return f"there are no pictures in {folder} (looked for {', '.join(SUFFIXES)})"


# ---- decoding

def _read_all(files: list[Path], shape: tuple[int, int, int], threads: int | None,
              read: Callable[[Path], np.ndarray]) -> tuple[Tensor, list[int]]:
    """The readable pictures, (N, C, H, W) uint8, and the N rows of `files` that they are."""
    images = np.empty((len(files), *shape), np.uint8)       # (files, C, H, W)
    errors: dict[int, Exception] = {}

    def fill_row(row: int) -> None:
        try:
            images[row] = read(files[row])
        except MemoryError:
            raise
        except Exception as error:          # damaged files raise errors of many kinds
            errors[row] = error

    with ThreadPool(threads or min(16, os.cpu_count() or 1)) as pool:
        done = pool.imap_unordered(fill_row, range(len(files)), chunksize=16)
        for _ in tqdm(done, "reading", len(files), file=sys.stdout, disable=len(files) < MANY):
            pass
    if errors:
        _report([f"{files[row]} ({errors[row]})" for row in sorted(errors)], len(files))
    rows = [row for row in range(len(files)) if row not in errors]
    for new, row in enumerate(rows if errors else []):      # moved in place: no second copy
        images[new] = images[row]
    return torch.from_numpy(images[:len(rows)]), rows


def _report(unreadable: list[str], total: int) -> None:
    if len(unreadable) == total:
        raise ValueError(f"none of {total} pictures can be read: {some(unreadable)}")
    warnings.warn(f"skipped {len(unreadable)} of {total} pictures that cannot be read: "
                  f"{some(unreadable)}", stacklevel=4)


def _read(file: Path, size: tuple[int, int], mode: str, fit: str,
          fill: int | tuple[int, ...]) -> np.ndarray:
    """One file as (3, H, W) or (1, H, W) uint8."""
    side = 2 * max(size)
    with Image.open(file) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        draft = image.draft(mode, (side, side))     # a large JPEG is decoded at 1/2, 1/4 or 1/8;
        extent = draft[1][2:] if draft else image.size          # its last row may count in part
        image = to_opaque(image, mode, fill)
    turned = orientation in (5, 6, 7, 8)            # these exchange height and width
    image = _resize(image, extent, size[::-1] if turned else size, fit, fill)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    image = ImageOps.exif_transpose(image)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)      # (H, W, C) -> (C, H, W)


def to_opaque(image: Image.Image, mode: str, fill: int | tuple[int, ...]) -> Image.Image:
    """An image in mode "L" or "RGB"; where it is transparent, `fill` shows through.

    Raises TypeError or ValueError for no image and for another mode.
    """
    validate.instance(image, Image.Image, "image", "Image.open(file)")
    validate.choice(mode, "mode", ("L", "RGB"))
    if image.mode.startswith("I"):                  # 16 bits: convert() would clip them to white
        levels = np.asarray(image, dtype=np.float32) / 257
        image = Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("RGBA")
    canvas = Image.new(mode, image.size, fill)
    canvas.paste(image.convert(mode), mask=image.getchannel("A"))
    return canvas


def _resize(image: Image.Image, extent: tuple[float, float], size: tuple[int, int], fit: str,
            fill: int | tuple[int, ...]) -> Image.Image:
    """An image at (height, width): cropped at the centre, or padded so that all of it is there.

    extent: the width and height of the picture in the image, which may be up to a pixel larger
    """
    (height, width), (wide, high) = size, extent
    if fit == "crop":
        scale = min(wide / width, high / height)
        left, top = max(0, wide - scale * width) / 2, max(0, high - scale * height) / 2
        box = (left, top, wide - left, high - top)
        return image.resize((width, height), Image.Resampling.LANCZOS, box)
    scale = min(width / wide, height / high)
    inner = max(1, round(wide * scale)), max(1, round(high * scale))
    canvas = Image.new(image.mode, (width, height), fill)
    corner = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas.paste(image.resize(inner, Image.Resampling.LANCZOS, (0, 0, wide, high)), corner)
    return canvas
