"""The service's watermark: a secret key in a file, and the search for its mark in a picture.

    python -m course_lib.web --watermark key.txt
        marks what it draws; the file is made where there is none
    python -m course_lib.web.mark key.txt picture.png
        says whether the picture has this key's mark; --nonce where its text is lost, --model

The mark is in the signs of the initial noise (`course_lib.watermark`). It is found in pictures that
were drawn from noise alone by a deterministic sampler, such as dpmpp: fresh noise on the way covers
it, and so does a picture to begin with. A prompt covers it, too: what mini_sd draws from a full
caption hardly depends on the noise, and inversion without the caption does not find it.
"""
import argparse
import math
import os
import secrets
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import validate
from ..samplers import ddim_invert, last
from ..watermark import Detection, detect, marked_noise
from .painter import Painter

STEPS = 8                               # of the inversion
RATIO = 0.5                             # sigma / alpha at which it begins
MIN_ABS = 0.4                           # of inverted noise whose sign is counted
RATE = 1e-6                             # of false alarms


def read_key(file: str | Path) -> int:
    """The key that a file holds in hexadecimal; a new one, for its owner alone, where there is no
    file.

    Raises OSError for a file that cannot be read or made, ValueError for one with something else.
    """
    file = Path(file)
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(f"{secrets.randbits(256):064x}\n")
    try:
        return validate.whole(int(file.read_text(encoding="ascii"), 16), "key", 0, 2**256 - 1)
    except ValueError:
        raise ValueError(f"{file} must hold a key, up to 64 hexadecimal digits") from None


def marker(key: int):
    """The hook of a Painter that marks with this key: (shape, nonces, generator) -> noise.

    Raises TypeError or ValueError for what is no key.
    """
    validate.whole(key, "key", 0, 2**256 - 1)
    return partial(_marked, key)


def _marked(key: int, shape: tuple[int, ...], nonces: Tensor, generator) -> Tensor:
    return marked_noise(shape, key, nonces, generator=generator)


@torch.no_grad()
def find(painter: Painter, pixels: np.ndarray, key: int, nonce: int) -> Detection:
    """What is found of the mark in one picture (H, W, 3) uint8 of the painter's size.

    Raises TypeError or ValueError for other pixels, and as `watermark.detect` does.
    """
    validate.instance(painter, Painter, "painter", "Painter.load('mini_sd')")
    validate.instance(pixels, np.ndarray, "pixels", "np.asarray(image)")
    height, width = painter.size
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"the picture must have {width} x {height} pixels in colour, as bytes")
    D, schedule = painter.D, painter.D.schedule
    start = schedule.t_from_log_snr(-2 * math.log(RATIO)).item()
    rising = torch.linspace(start, 1, STEPS, dtype=torch.float64)
    ts = torch.cat([torch.zeros(1, dtype=torch.float64), rising])
    noise = last(ddim_invert(D, schedule, painter.seen(pixels), ts, **painter.condition("", 1)))
    return detect(noise / schedule.sigma(1.0).float(), key, nonce, min_abs=MIN_ABS)


def main(arguments: list[str] | None = None) -> int:
    """0 where the mark is found, 1 where it is not, 2 where it cannot be looked for."""
    parser = argparse.ArgumentParser(
        prog="python -m course_lib.web.mark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("key", help="the file with the key")
    parser.add_argument("picture")
    parser.add_argument("--nonce", type=int, help="by default the one in the picture's text")
    parser.add_argument("--model", default="mini_sd", help="that drew it, as for the service")
    parser.add_argument("--device")
    chosen = parser.parse_args(arguments)
    try:
        if not Path(chosen.key).exists():
            raise ValueError(f"there is no key in {chosen.key}: the service makes one")
        found = _find_in_file(chosen)
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    agreeing, signs, p = (value.item() for value in found)
    print(f"{agreeing} of {signs} signs agree with the mark: p = {p:.1e}")
    print("the mark is there" if p <= RATE else f"no mark: that would need p <= {RATE:g}")
    return 0 if p <= RATE else 1


def _find_in_file(chosen: argparse.Namespace) -> Detection:
    image = Image.open(chosen.picture)
    nonce = getattr(image, "text", {}).get("nonce") if chosen.nonce is None else chosen.nonce
    if nonce is None:
        raise ValueError("the picture's text has no nonce: give it as --nonce NUMBER")
    painter = Painter.load(chosen.model, chosen.device)
    return find(painter, np.array(image.convert("RGB")), read_key(chosen.key), int(nonce))


if __name__ == "__main__":
    sys.exit(main())
