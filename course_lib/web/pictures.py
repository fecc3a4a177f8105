"""Pictures on their way in and out: base64 text to pixels, pixels to PNG files with settings."""
import base64
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from .. import __version__, validate
from ..lab.data.pictures_folder import to_opaque
from .limits import Limits
from .refusal import Refused

FORMATS = ("PNG", "JPEG", "WEBP")


def read_picture(
    text: Any, size: tuple[int, int], limits: Limits
) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture (H, W, 3) uint8 of the size (H, W), cut at its centre, and the (width, height) that
    it had.

    text: a PNG, JPEG or WebP file in base64, with or without "data:image/png;base64," in front
    Raises Refused or TypeError for what is no such picture, or too large.
    """
    image = _decode(text, "picture", limits)
    opaque = to_opaque(image, "RGB", (255, 255, 255))
    fitted = ImageOps.fit(opaque, size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(fitted), image.size


def read_mask(
    text: Any, size: tuple[int, int], limits: Limits, extent: tuple[int, int]
) -> np.ndarray:
    """A mask (H, W) bool of the size: True where any of its pixels is brighter than half.

    extent: (width, height) of its picture, which must be its own, too
    Raises Refused, TypeError or ValueError for another extent, and where nothing is bright.
    """
    image = _decode(text, "mask", limits)
    if image.size != extent:
        sizes = "mask is {} x {}, and its picture {} x {}".format(*image.size, *extent)
        raise ValueError(f"the {sizes}: they must have one size")
    bright = to_opaque(image, "L", 0).point([255 * (level > 127) for level in range(256)])
    mask = np.asarray(ImageOps.fit(bright, size[::-1], Image.Resampling.BOX)) > 0
    if not mask.any():
        raise ValueError("the mask is dark everywhere: make bright what is to be drawn anew")
    return mask


def _decode(text: Any, name: str, limits: Limits) -> Image.Image:
    """The first frame of the file, upright.

    Its size stands in the file's head and is compared before a pixel is decoded: a small file can
    hold a picture of gigabytes.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a file in base64, a string; got {validate.show(text)}")
    text = text.partition(",")[2] if text.startswith("data:") else text
    if len(text) > 4 * (limits.picture_bytes // 3 + 1):
        raise Refused(413, f"the {name} may have {limits.picture_bytes:,} bytes, as a file")
    too_many = Refused(413, f"the {name} may have {limits.picture_pixels:,} pixels")
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=FORMATS)
        if image.width * image.height > limits.picture_pixels:
            raise too_many
        return ImageOps.exif_transpose(image)
    except (Refused, Image.DecompressionBombError):
        raise too_many from None
    except Exception:                                       # damaged files raise many kinds
        raise Refused(422, f"the {name} must be a PNG, JPEG or WebP file in base64") from None


def write_png(pixels: np.ndarray, settings: dict[str, Any]) -> bytes:
    """A PNG file of pixels (H, W, 3) uint8, with each setting in a text chunk (iTXt, UTF-8).

    PIL's Image.open(file).text reads them again.
    """
    chunks = PngImagePlugin.PngInfo()
    for name, value in {"Software": f"course_lib {__version__}", **settings}.items():
        chunks.add_itxt(name, str(value))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()
