"""Models on disk: fp16 safetensors whose header can rebuild them. Nothing is ever unpickled."""
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser, identity
from ...schedules import Schedule
from ..storage import CHECKPOINTS, load_tensors, save_tensors
from .configured import SCHEDULES
from .device import default_device
from .registry import MODULES, TOKEN_MODELS, network_class, special_id, token_model

FORMAT = 2


def save(model: nn.Module, file: str | Path, **about) -> None:
    """A denoiser, a model of tokens or a network of the course as fp16 safetensors.

    The header holds what `load` needs, the shape of the data, and what you say `about` it.
    Raises ValueError for a model that the header could not rebuild, and for weights that are not
    finite in fp16; OSError where the file cannot be written.
    """
    net = model.net if isinstance(model, Denoiser) or _of_tokens(model) else model
    if not all(_to_half(value).isfinite().all() for value in net.state_dict().values()):
        raise ValueError(
            "the weights are nan, infinite, or above 65504, the largest number of fp16: this model "
            "cannot be saved"
        )
    if type(net).__name__ not in MODULES or isinstance(model, Denoiser) and not _named(model):
        raise ValueError(
            "only a course network with a named schedule, a named target and t itself as its time "
            "can be saved: the header must be able to rebuild it"
        )
    header = {"format": FORMAT, "net": [type(net).__name__, net.config], "about": about}
    if isinstance(model, Denoiser):
        header["denoiser"] = {
            "schedule": model.schedule.spec,
            "target": model.target,
            "sigma_data": model.sigma_data,
            "data_shape": model.data_shape,
        }
    if _of_tokens(model):
        header["tokens"] = [type(model).__name__, special_id(model)]
    save_tensors(_named_file(file), {n: _to_half(v) for n, v in net.state_dict().items()}, header)


def load(name: str | Path, device: torch.device | str | None = None) -> nn.Module:
    """A model that `save` wrote, in eval mode and fp32: a path, or a shipped checkpoint's name.

    Its `about` tells the data, the steps, the metrics and the command that trained it.
    Raises FileNotFoundError for a name that is not there, OSError for a damaged or an old file.
    """
    file = _find(name)
    tensors, header = load_tensors(file)
    _validate_header(header, file)
    kind, config = header["net"]
    net = network_class(kind)(**config)
    net.load_state_dict({n: _to_float(v) for n, v in tensors.items()})
    model = net
    if "denoiser" in header:
        model = _denoiser(net, header["denoiser"])
    if "tokens" in header:
        model = token_model(header["tokens"][0], net, header["tokens"][1])
    model.about = header["about"]
    device = default_device() if device is None else validate.device(device)
    return model.to(device).eval().requires_grad_(False)


def _denoiser(net: nn.Module, spec: dict) -> Denoiser:
    name, arguments = spec["schedule"]
    schedule = getattr(Schedule, name)(**arguments)
    D = Denoiser(net, schedule, spec["target"], sigma_data=spec["sigma_data"])
    D.data_shape = None if spec["data_shape"] is None else tuple(spec["data_shape"])
    return D


def _of_tokens(model: nn.Module) -> bool:
    return type(model).__name__ in TOKEN_MODELS


def _named(D: Denoiser) -> bool:
    known = D.schedule.spec is not None and isinstance(D.target, str)
    return known and D.time_transform is identity


def _named_file(file: str | Path) -> Path:
    """The path to save to, with its ending: `load` takes a name without one for a shipped model's.
    """
    if not isinstance(file, (str, Path)) or not Path(file).name:
        raise ValueError(f"file must be a path, such as 'mine.safetensors'; got {file!r}")
    path = Path(file).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"name the file with its ending: {path.name}.safetensors")
    return path


def _find(name: str | Path) -> Path:
    """The file of that name. Raises FileNotFoundError with the names that there are."""
    if not isinstance(name, (str, Path)):
        got = validate.show(name)
        raise TypeError(f"name must be a checkpoint's name or a path; got {got}")
    path = Path(name).expanduser()
    if path.suffix:
        return path
    file = CHECKPOINTS / f"{name}.safetensors"
    if not file.exists():
        shipped = sorted(f.stem for f in CHECKPOINTS.glob("*.safetensors"))
        raise FileNotFoundError(
            f"the course ships no checkpoint {str(name)!r}: there are {', '.join(shipped)}; "
            "for a file of yours pass its path, with .safetensors"
        )
    return file


def _validate_header(header: dict, file: Path) -> None:
    if "experiment" in header:
        raise OSError(
            f"{file} is the state of a run, not a model: call train again with the same run_name, "
            "or load what `save` wrote"
        )
    if "net" in header and header.get("format") != FORMAT:
        raise OSError(
            f"{file} was saved by an earlier version of course_lib, whose names differ: "
            "train it again, or load it with that version"
        )
    schedule = header.get("denoiser", {}).get("schedule", ["cosine"])
    if header.get("net", [None])[0] not in MODULES or schedule[0] not in SCHEDULES:
        raise OSError(f"{file} does not hold a model that this version of course_lib can rebuild")


def _to_half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def _to_float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
