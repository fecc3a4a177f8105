"""What clients ask for: the fields of a JSON object, made a request that keeps the limits."""
import json
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import validate
from ..lab.evaluation.sampling import SAMPLERS
from .limits import Limits
from .pictures import read_mask, read_picture
from .refusal import Refused

LARGEST_SEED = 2**32 - 1
DEFAULTS = {
    "prompt": "",
    "negative_prompt": "",
    "seed": None,                                           # drawn
    "steps": 10,
    "guidance": 2.0,
    "sampler": "dpmpp",
    "pictures": 1,
    "strength": None,                                       # 0.6 of a picture, 1 under a mask
    "picture": None,
    "mask": None,
}


@dataclass(frozen=True, eq=False)
class Request:
    """One request that keeps the limits.

    picture:  (H, W, 3) uint8 in the model's size, what is to be changed, or None
    mask:     (H, W) bool, True where the picture is to be drawn anew, or None: everywhere
    strength: the level t in (0, 1] up to which the picture is noised, or None
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    sampler: str
    pictures: int
    strength: float | None
    picture: np.ndarray | None
    mask: np.ndarray | None

    def settings(self) -> dict[str, Any]:
        """Everything but the pixels, as it is written into the file of a picture."""
        names = ["prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "pictures"]
        names += [] if self.picture is None else ["strength"]
        kind = "text to image" if self.picture is None else "image to image"
        kind = kind if self.mask is None else "inpainting"
        return {"kind": kind} | {name: getattr(self, name) for name in names}


def defaults(limits: Limits) -> dict[str, Any]:
    """What stands for fields that are left out: DEFAULTS, as far as the limits allow them."""
    most = {"steps": limits.steps, "guidance": limits.guidance}
    return DEFAULTS | {name: min(DEFAULTS[name], most[name]) for name in most}


def read_json(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object in UTF-8. Raises Refused for anything else."""
    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the body must be JSON in UTF-8, and this is not") from None
    if not isinstance(fields, dict):
        raise Refused(400, 'the body must be one JSON object, such as {"prompt": "a panda"}')
    return fields


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(name)


def read_request(fields: dict[str, Any], limits: Limits, size: tuple[int, int]) -> Request:
    """The request that these fields ask for; see `defaults` for what is left out.

    size: (height, width) of the model's pictures; a picture that is sent is cut to its shape.
    Raises Refused with one sentence for what the limits do not allow.
    """
    unknown = [name for name in fields if name not in DEFAULTS]
    if unknown:
        name, known = validate.show(unknown[0]), ", ".join(DEFAULTS)
        raise Refused(422, f"there is no field {name}; there are {known}")
    try:
        return _read(defaults(limits) | fields, limits, size)
    except (TypeError, ValueError) as error:
        raise Refused(422, str(error)) from None


def _read(asked: dict[str, Any], limits: Limits, size: tuple[int, int]) -> Request:
    numbers = {
        "seed": _seed(asked["seed"]),
        "steps": validate.whole(asked["steps"], "steps", 1, limits.steps),
        "guidance": float(validate.number(asked["guidance"], "guidance", 0, limits.guidance)),
        "pictures": validate.whole(asked["pictures"], "pictures", 1, limits.pictures),
        "strength": _strength(asked),
    }
    texts = {name: _text(asked[name], name, limits) for name in ("prompt", "negative_prompt")}
    sampler = _sampler(asked["sampler"])
    picture, mask = _pixels(asked, limits, size)            # last: all else costs nothing
    return Request(sampler=sampler, picture=picture, mask=mask, **numbers, **texts)


def _seed(seed: Any) -> int:
    if seed is None:
        return secrets.randbelow(LARGEST_SEED + 1)
    try:
        return validate.whole(seed, "seed", 0, LARGEST_SEED)
    except (TypeError, ValueError):
        got = validate.show(seed)
        limit = f"a whole number from 0 to {LARGEST_SEED}"
        sentence = f"seed must be {limit}, or empty (null) for a random one; got {got}"
        raise ValueError(sentence) from None


def _sampler(name: Any) -> str:
    if name not in list(SAMPLERS):
        names, got = ", ".join(map(repr, SAMPLERS)), validate.show(name)
        raise ValueError(f"sampler must be one of {names}; got {got}")
    return name


def _strength(asked: dict[str, Any]) -> float | None:
    strength = asked["strength"]
    if asked["picture"] is None:
        if strength is not None:
            raise ValueError("strength says how much of a picture is changed: send a picture, too")
        return None
    usual = 0.6 if asked["mask"] is None else 1.0
    return float(validate.number(usual if strength is None else strength, "strength", 0.05, 1))


def _text(text: Any, name: str, limits: Limits) -> str:
    """A prompt, its white space made single spaces."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string; got {validate.show(text)}")
    if len(text) > limits.prompt:
        raise ValueError(f"{name} may have {limits.prompt} characters; this has {len(text)}")
    text = " ".join(text.split())
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
        raise ValueError(f"{name} must be text, without control characters")
    return text


def _pixels(
    asked: dict[str, Any], limits: Limits, size: tuple[int, int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The picture and the mask, each of them or None."""
    if asked["picture"] is None:
        if asked["mask"] is not None:
            raise ValueError("a mask says what of a picture is drawn anew: send a picture, too")
        return None, None
    picture, extent = read_picture(asked["picture"], size, limits)
    if asked["mask"] is None:
        return picture, None
    return picture, read_mask(asked["mask"], size, limits, extent)
