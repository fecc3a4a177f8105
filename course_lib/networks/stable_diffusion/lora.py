"""Low-rank adapters (LoRA) of a U-Net's attention: added, turned up and down, merged, and kept in
the published layout.

Hu et al. 2022. A weight W (out, in) becomes W + dial * alpha / rank * up @ down, with up (out,
rank), which starts at 0, and down (rank, in). W itself does not change.
"""
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ... import validate
from .layout import unet_name
from .unet import Attention, StableDiffusionUNet

LAYERS = ("q", "k", "v", "out")
RANK = {"lora_A": "down", "lora_B": "up"}                   # published names of the two factors


class LowRank(nn.Module):
    """W -> W + dial * alpha / rank * up @ down, for a weight W (out, in).

    Raises ValueError for a rank above the smaller side.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, name: str):
        super().__init__()
        validate.whole(rank, "rank", 1, min(weight.shape))
        self.name = name
        self.dial = 1.0
        self.factor = validate.number(alpha, "alpha", 0, above=True) / rank
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]).to(weight))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))             # as nn.Linear's own

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.dial * self.factor * (self.up @ self.down)


def add_lora(
    net: StableDiffusionUNet,
    rank: int = 4,
    alpha: float | None = None,
    layers: tuple[str, ...] = LAYERS,
    name: str = "lora",
) -> list[nn.Parameter]:
    """Give every attention an adapter of this name; returns its factors, the only weights to train.

    alpha: None: the rank, so that the dial is the only factor
    Raises TypeError or ValueError for another network, a name that is there, a rank that is too
    large, and layers that are none of q, k, v, out.
    """
    _validate_new(net, name)
    if not layers or {*layers} - {*LAYERS}:
        raise ValueError(f"layers are some of {', '.join(LAYERS)}; got {layers}")
    alpha = rank if alpha is None else alpha
    made = {}                                               # all of them, before any is added
    for path in _attention_layers(net, layers):
        made[path] = LowRank(net.get_submodule(path).weight.detach(), rank, alpha, name)
    _add(net, made)
    return [p for part in _parts(net, name).values() for p in (part.down, part.up)]


def adapters(net: nn.Module) -> list[str]:
    """The names of a network's adapters, in the order in which they were added."""
    return list(dict.fromkeys(m.name for m in net.modules() if isinstance(m, LowRank)))


def set_dial(net: nn.Module, value: float, name: str = "lora") -> None:
    """How far an adapter is turned up: 0 is the network without it, 1 as it was trained."""
    value = validate.number(value, "value")
    for part in _parts(net, name).values():
        part.dial = value


def merge(net: nn.Module) -> None:
    """All adapters, as far as they are turned up, become part of the weights: as fast as before."""
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def base_state(net: nn.Module) -> dict[str, Tensor]:
    """The weights that the adapters change, as they are without them, and all others: the state of
    this network before the first adapter, under its names.
    """
    state = {}
    for name, value in net.state_dict().items():
        layer, parametrized, rest = name.partition(".parametrizations.")
        if not parametrized:
            state[name] = value
        elif rest == "weight.original":
            state[f"{layer}.weight"] = value
    return state


# ---- files

def save_lora(net: StableDiffusionUNet, file: str | Path, name: str = "lora") -> None:
    """An adapter in the layout that diffusers loads (`load_lora_weights`), in half precision.

    Its factor alpha / rank goes into `up`; the dial is not kept.
    Raises ValueError for a name that is not there, OSError where the file cannot be written.
    """
    state = {}
    for path, part in _parts(net, name).items():
        stem = _published(path)
        state[f"{stem}.lora_A.weight"] = part.down.detach().half().cpu().contiguous()
        state[f"{stem}.lora_B.weight"] = (part.factor * part.up.detach()).half().cpu().contiguous()
    try:
        save_file(state, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{file} cannot be written ({error})") from error


def load_lora(net: StableDiffusionUNet, file: str | Path, name: str = "lora") -> None:
    """Add the adapter of a file in that layout.

    Raises OSError for a file that is not whole, TypeError or ValueError for another network, a name
    that is there, and a file that is no adapter of this network's attention.
    """
    _validate_new(net, name)
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{file} is not a whole adapter ({error})") from error
    paths = _attention_layers(net, LAYERS)
    stems = {_published(path): path for path in paths}
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        stem, _, factor = key.removesuffix(".weight").rpartition(".")
        if stem not in stems or factor not in RANK:
            raise ValueError(f"{file} has {key}, which belongs to no attention of this network")
        found.setdefault(stems[stem], {})[RANK[factor]] = value
    made = {}
    for path, factors in found.items():
        layer = net.get_submodule(path)
        shapes = {k: tuple(v.shape) for k, v in factors.items()}
        rank = factors["down"].shape[0] if "down" in factors else 0
        wanted = {"down": (rank, layer.weight.shape[1]), "up": (layer.weight.shape[0], rank)}
        if shapes != wanted:
            raise ValueError(f"{file}: the factors of {path} are {shapes}, and need {wanted}")
        made[path] = LowRank(layer.weight.detach(), rank, rank, name)
        made[path].load_state_dict(factors)
    _add(net, made)


def _validate_new(net: StableDiffusionUNet, name: str) -> None:
    """Raises TypeError or ValueError for another network, and a name that is no new one."""
    validate.instance(net, StableDiffusionUNet, "net", "D.net.unet")
    validate.instance(name, str, "name", "'lora'")
    if name in adapters(net):
        raise ValueError(f"this network has an adapter {name!r} already: take another name")


def _add(net: nn.Module, parts: dict[str, LowRank]) -> None:
    for path, part in parts.items():
        parametrize.register_parametrization(net.get_submodule(path), "weight", part)


def _attention_layers(net: nn.Module, layers: tuple[str, ...]) -> list[str]:
    """Paths such as "down.0.transformers.0.self_attention.q"."""
    blocks = [path for path, module in net.named_modules() if isinstance(module, Attention)]
    return [f"{block}.{layer}" for block in blocks for layer in layers]


def _published(path: str) -> str:
    """A layer's name in an adapter's file."""
    return "unet." + unet_name(f"{path}.").rstrip(".")


def _parts(net: nn.Module, name: str) -> dict[str, LowRank]:
    """The adapter's part for each layer, by the layer's path."""
    parts = {
        path.split(".parametrizations.")[0]: module
        for path, module in net.named_modules()
        if isinstance(module, LowRank) and module.name == name
    }
    if not parts:
        raise ValueError(f"this network has no adapter {name!r}; it has {adapters(net) or 'none'}")
    return parts
