"""Parts that belong to a base model, on disk: a ControlNet alone, an inpainting U-Net alone.

A part is useless with other weights than those beside which it was trained, and no shape would say
so. So its file has a digest of the base's weights, and loading compares it.
"""
from pathlib import Path

from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...networks.stable_diffusion.control import ControlNet
from ...networks.stable_diffusion.inpainting import with_text_of
from ...networks.stable_diffusion.model import StableDiffusionNet
from ..storage import digest, load_tensors, save_tensors
from .checkpoint import _find, _named_file, _to_float, _to_half

# what a file may hold, and what loads it
LOADERS = {"ControlNet": "load_control", "inpainting U-Net": "load_inpainting"}


def save_control(control: ControlNet, base: Denoiser, file: str | Path, /, **about) -> None:
    """A ControlNet of this base as fp16 safetensors; the header has what you say `about` it.

    Raises TypeError for another module or base, ValueError for weights that are not finite in fp16
    and a file without its ending, OSError where the file cannot be written.
    """
    validate.instance(control, ControlNet, "control", "D.net.control")
    _save("ControlNet", control, control.config, base, file, about)


def load_control(name: str | Path, base: Denoiser) -> ControlNet:
    """The ControlNet of a file, or of a shipped one's name, for `base.net.control = ...`.

    In eval mode and fp32, on the base's device; its `about` tells the training and the metrics.
    Raises FileNotFoundError for a name that is not there, OSError for a damaged file and one that
    holds something else, ValueError for another base.
    """
    state, header = _load("ControlNet", name, base)
    control = ControlNet(base.net.unet, **header["config"])
    return _ready(control, control, state, header, base)


def save_inpainting(D: Denoiser, base: Denoiser, file: str | Path, /, **about) -> None:
    """The U-Net of an inpainting model alone as fp16 safetensors; its text encoder is the base's.

    Raises TypeError or ValueError for another model or base, a text encoder that is not the base's,
    weights that are not finite in fp16 and a file without its ending, OSError where the file cannot
    be written.
    """
    _validate_base(D, "D")
    _validate_base(base)
    if digest(_halves(D.net.text)) != digest(_halves(base.net.text)):
        raise ValueError("the text encoder of D must be the base's: only the U-Net is saved")
    _save("inpainting U-Net", D.net.unet, D.net.config["unet"], base, file, about)


def load_inpainting(name: str | Path, base: Denoiser) -> Denoiser:
    """A denoiser that takes `extra`, such as `extra_channels` makes, and has the base's own text
    encoder.

    In eval mode and fp32, on the base's device; its `about` tells the training and the metrics.
    Raises FileNotFoundError for a name that is not there, OSError for a damaged file and one that
    holds something else, ValueError for another base.
    """
    state, header = _load("inpainting U-Net", name, base)
    D = Denoiser(with_text_of(base.net, header["config"]), base.schedule, base.target)
    D.data_shape = base.data_shape
    return _ready(D, D.net.unet, state, header, base)


# ---- files

def base_digest(base: Denoiser) -> str:
    """The SHA-256 of a base model's weights, in half precision, as they are stored: U-Net and text
    encoder, without a ControlNet that it has. Raises TypeError for another model.
    """
    _validate_base(base)
    return digest(_halves(base.net.unet, "unet.") | _halves(base.net.text, "text."))


def _save(
    kind: str, part: nn.Module, config: dict, base: Denoiser, file: str | Path, about: dict
) -> None:
    tensors = _halves(part)
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ValueError(
            "the weights are nan, infinite, or above 65504, the largest number of fp16: this part "
            "cannot be saved"
        )
    header = {"part": kind, "config": config, "base": base_digest(base), "about": about}
    save_tensors(_named_file(file), tensors, header)


def _load(kind: str, name: str | Path, base: Denoiser) -> tuple[dict[str, Tensor], dict]:
    """State and header of a part of this kind, of this base."""
    file, own = _find(name), base_digest(base)
    tensors, header = load_tensors(file)
    found = header.get("part")
    if found != kind:
        other = f"'{found}': {LOADERS[found]} loads it" if found in LOADERS else "something else"
        other = "a whole model: train.load loads it" if "net" in header else other
        raise OSError(f"{file} must hold the part '{kind}'; it holds {other}")
    if header["base"] != own:
        raise ValueError(
            f"{file} belongs to another base model: its weights' digest is {header['base'][:12]}, "
            f"and this one's {own[:12]}; load it beside the model that it was trained with, before "
            "that is trained on or gets adapters"
        )
    return {name: _to_float(value) for name, value in tensors.items()}, header


def _ready(model: nn.Module, part: nn.Module, state: dict, header: dict, base: Denoiser):
    """The model with the part's weights, on the base's device, not to be trained."""
    part.load_state_dict(state)
    model.about = header["about"]
    model.to(base.net.unet.stem.weight.device)
    return model.eval().requires_grad_(False)


def _halves(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A module's state in half precision."""
    return {f"{prefix}{name}": _to_half(value) for name, value in module.state_dict().items()}


def _validate_base(base: Denoiser, what: str = "base") -> None:
    validate.instance(base, Denoiser, what, "train.load('mini_sd')")
    validate.instance(base.net, StableDiffusionNet, f"{what}.net", "that of train.load('mini_sd')")
