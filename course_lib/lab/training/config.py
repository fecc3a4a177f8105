"""The options of a training run, and configuration files (configs/*.toml) that hold them."""
import dataclasses
import difflib
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path

import torch
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...networks.dit import DiT, MMDiT
from ...networks.text import ConditionalUNet, word_dropout
from ...networks.unet import UNet
from ...networks.vae import AutoencoderKL
from ...schedules import Schedule
from .batches import ImageBytes, floats, normal_log_snr


@dataclass(frozen=True)
class TrainConfig:
    """The options of `train`, of [train] in a configuration file, and of the command line.

    Exactly one of steps and seconds says how long the run is. Raises ValueError for a value of the
    wrong type, or out of range.
    """

    steps: int | None = None                    # optimizer steps
    seconds: float | None = None                # of training; the rates follow the clock
    batch_size: int = 128                       # examples a step, over all processes
    lr: float = 4e-3                            # AdamW's peak rate
    muon_lr: float = 0.02                       # Muon's, for a network's muon_parameters(); 0: none
    weight_decay: float = 0.01                  # AdamW's
    warmup: float = 0.02                        # the fraction of the run in which the rates rise
    clip_grad_norm: float | None = None         # the largest norm of the gradient
    accumulation_steps: int = 1                 # parts of a batch, one after the other
    ema_gamma: float = 9.0                      # of the power-function EMA (Karras et al. 2024)
    p_drop: float = 0.1                         # denoisers: probability of a dropped condition
    horizontal_flip: bool = False               # denoisers: mirror half of the images
    loss_weight: Callable[[Tensor], Tensor] | None = None    # denoisers: of the log-SNR
    time_sampler: Callable[[Tensor], Tensor] | None = None   # denoisers: uniform numbers -> times
    data_range: tuple[float, float] | None = (-1.0, 1.0)     # of images; None: not checked
    seed: int = 0                               # of batches, noise, dropout
    compile: bool = False                       # by torch.compile; pays on a GPU
    save_every: float = 60.0                    # seconds between saves
    max_seconds: float | None = None            # then save and return; the same call resumes

    def __post_init__(self):
        if isinstance(self.data_range, list):
            object.__setattr__(self, "data_range", tuple(self.data_range))
        for name in FIELDS:
            _validate_type(name, getattr(self, name))
        length = self.steps if self.seconds is None else self.seconds
        if (self.steps is None) == (self.seconds is None) or not length > 0 or self.batch_size < 1:
            raise ValueError(
                "say how long to train, either steps=... or seconds=..., above 0; "
                f"got steps={self.steps}, seconds={self.seconds}, batch_size={self.batch_size}"
            )
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"at least {low}" if high >= FINITE else f"from {low} to {high}"
                raise ValueError(f"{name} must be {limits}; got {value}")

    @classmethod
    def of(cls, options: dict) -> "TrainConfig":
        """From options by name. Raises ValueError for an unknown one, and names the nearest."""
        validate.instance(options, dict, "options", '{"steps": 2000}')
        _refuse_unknown(options, FIELDS, "train")
        return cls(**options)

    def fingerprint(self) -> dict:
        """The options that must match for a saved run to be resumed."""
        functions = {"loss_weight", "time_sampler"}         # compared by their values (tasks.py)
        skipped = {"save_every", "max_seconds", "compile", "data_range"} | functions
        return {k: _plain(v) for k, v in vars(self).items() if k not in skipped}


FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig))
WHOLE = ("steps", "batch_size", "accumulation_steps", "seed")
SWITCHES = ("horizontal_flip", "compile")
FUNCTIONS = ("loss_weight", "time_sampler")
OPTIONAL = ("steps", "seconds", "clip_grad_norm", "max_seconds", "data_range", *FUNCTIONS)
INFINITE = float("inf")
FINITE = sys.float_info.max
LIMITS = {
    "lr": (0, FINITE),
    "muon_lr": (0, FINITE),
    "weight_decay": (0, FINITE),
    "warmup": (0, 1),
    "clip_grad_norm": (0, INFINITE),
    "accumulation_steps": (1, INFINITE),
    "ema_gamma": (0, INFINITE),
    "p_drop": (0, 1),
    "save_every": (0, INFINITE),
    "max_seconds": (0, INFINITE),
    "seed": (0, 2**40),
}
DENOISER_ONLY = ("p_drop", "horizontal_flip", "loss_weight", "time_sampler")
NETWORKS = {
    "UNet": UNet,
    "DiT": DiT,
    "MMDiT": MMDiT,
    "ConditionalUNet": ConditionalUNet,
    "AutoencoderKL": AutoencoderKL,
}
SCHEDULES = ("linear", "scaled_linear", "cosine", "sigmoid", "zero_terminal_snr", "edm", "flow")
DATA = ("mnist", "cifar10", "nouns", "pictures")
# top-level keys of a configuration file; those of `pictures` go to data.pictures
PICTURES = ("folder", "size", "fit", "background", "channels")
READERS = ("ConditionalUNet", "MMDiT")                      # of captions
DENOISER_KEYS = ("target", "sigma_data", "schedule", "latents")
KEYS = ("data", "examples", "network", "train", *DENOISER_KEYS, *PICTURES)
TABLES = ("network", "schedule", "train")


def read_config(file: Path) -> dict:
    """A TOML file as a dict. Raises OSError or ValueError."""
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise type(error)(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not TOML: {error}") from None


def override(options: dict, others: dict) -> dict:
    """Options by name, where those of `others` come first; its length replaces either length."""
    if "steps" in others or "seconds" in others:
        options = {k: v for k, v in options.items() if k not in ("steps", "seconds")}
    return options | others


def from_config(config: dict) -> tuple[nn.Module, dict, TrainConfig]:
    """The untrained denoiser (or autoencoder), the data and the options that a configuration
    describes.

    In [train], time_sampler = {mean = ..., std = ...} asks for `normal_log_snr`, and data_range =
    "none" for None. With data = "nouns", `examples` says how many are drawn; with "pictures",
    `folder` and `size` say which and how large, and the network gets as many classes as there are
    sub-folders, unless num_classes says otherwise. A network that reads captions gets their words.
    `latents` names a shipped autoencoder, or the file of one: the denoiser is trained on its
    latents.
    Raises ValueError for an unknown key, name or value, and what `data` raises.
    """
    _validate_keys(config)
    schedule = _schedule(config)
    options = _options(config["train"], schedule)
    x, conditions, captions = _data(config)
    torch.manual_seed(options.seed)
    if config["network"].get("type") == "AutoencoderKL":
        return _network(config, {}, None), ImageBytes({"x0": x}), options
    if "latents" in config:
        x, options = to_latents(x, config["latents"]), replace(options, data_range=None)
    torch.manual_seed(options.seed)
    D = Denoiser(
        _network(config, conditions, captions),
        schedule,
        config.get("target", "v"),
        sigma_data=config.get("sigma_data", 0.5),
    )
    if captions is not None and isinstance(D.net, (ConditionalUNet, MMDiT)):
        conditions = {"tokens": word_dropout(D.net.tokenizer(captions))}
    if not getattr(D.net, "num_classes", None):
        conditions.pop("y", None)
    return D, ImageBytes({"x0": x} | conditions), options


def _validate_keys(config: dict) -> None:
    for needed in ("data", "network", "train"):
        if needed not in config:
            raise ValueError(f"it must say `data`, [network] and [train]; there is no {needed}")
    _refuse_unknown(config, KEYS, "a configuration")
    if not isinstance(config["network"], dict):
        raise ValueError(f"[network] must be a table; got network = {config['network']!r}")
    unused = [key for key in DENOISER_KEYS if key in config]
    if config["network"].get("type") == "AutoencoderKL" and unused:
        raise ValueError(f"{unused[0]} is for denoisers; an AutoencoderKL has none")
    others = [] if config["data"] == "pictures" else [key for key in PICTURES if key in config]
    if others:
        raise ValueError(f'{others[0]} is for data = "pictures"; got data = {config["data"]!r}')
    for name in TABLES:
        if not isinstance(config.get(name, {}), dict):
            raise ValueError(f"[{name}] must be a table; got {name} = {config[name]!r}")
    if not _is_number(config.get("sigma_data", 0.5)):
        raise ValueError(f"sigma_data must be a number; got {config['sigma_data']!r}")
    if not _is_whole(config.get("examples", 1)):
        raise ValueError(f"examples must be a whole number; got {config['examples']!r}")


@torch.no_grad()
def to_latents(x: Tensor, name: str, batch_size: int = 500) -> Tensor:
    """Images (N, C, H, W), bytes or in [-1, 1], as latents of the autoencoder of that name, whose
    mean is 0 and deviation 1 per channel.
    """
    from .checkpoint import load
    vae = load(name)
    validate.instance(vae, AutoencoderKL, "latents", "'nouns_vae'")
    device = vae.shift.device
    parts = [vae.to_latents(floats(part).to(device)).cpu() for part in x.split(batch_size)]
    return torch.cat(parts)


def _schedule(config: dict) -> Schedule:
    arguments = dict(config.get("schedule", {"name": "cosine"}))
    name = arguments.pop("name", None)
    _refuse_other(name, SCHEDULES, "a schedule")
    try:
        return getattr(Schedule, name)(**arguments)
    except TypeError as error:
        raise ValueError(f"[schedule] has a wrong entry: {error}") from None


def _network(config: dict, conditions: dict, captions: list[str] | None) -> torch.nn.Module:
    arguments = dict(config["network"])
    kind = arguments.pop("type", "UNet")
    _refuse_other(kind, NETWORKS, "a network")
    if config["data"] == "pictures" and "y" in conditions:      # as many classes as sub-folders
        arguments.setdefault("num_classes", int(conditions["y"].max()) + 1)
    if kind in READERS and "words" not in arguments:
        arguments["words"] = _vocabulary(config, captions)
    try:
        return NETWORKS[kind](**arguments)
    except TypeError as error:
        raise ValueError(f"[network] has a wrong entry: {error}") from None


def _options(entries: dict, schedule: Schedule) -> TrainConfig:
    entries = dict(entries)
    if "time_sampler" in entries:
        values = entries["time_sampler"]
        named = isinstance(values, dict) and values.keys() == {"mean", "std"}
        if not named or not all(map(_is_number, values.values())):
            raise ValueError(
                "time_sampler in [train] is {mean = ..., std = ...}, those of a normally "
                f"distributed log-SNR; got {values}"
            )
        entries["time_sampler"] = normal_log_snr(schedule, **values)
    if entries.get("data_range") == "none":
        entries["data_range"] = None
    if isinstance(entries.get("data_range"), list):
        entries["data_range"] = tuple(entries["data_range"])
    return TrainConfig.of(entries)


def _data(config: dict) -> tuple[Tensor, dict[str, Tensor], list[str] | None]:
    """x0, the conditions that are tensors, and the captions (None where there are none)."""
    from .. import data
    _refuse_other(config["data"], DATA, "data")
    if config["data"] == "nouns":
        x, captions, _ = data.nouns(config.get("examples", 60_000))
        return x, {}, captions
    if config["data"] == "pictures":
        if "folder" not in config or "size" not in config:
            raise ValueError('data = "pictures" needs `folder` and `size`')
        arguments = {key: _tuple(config[key]) for key in PICTURES if key in config}
        found = data.pictures(**arguments)
        return found.images, {} if found.labels is None else {"y": found.labels}, found.captions
    x, y = getattr(data, config["data"])("train")
    return x, {"y": y}, None


def _tuple(value):
    """TOML's arrays as tuples."""
    return tuple(value) if isinstance(value, list) else value


def _vocabulary(config: dict, captions: list[str] | None) -> list[str]:
    if config["data"] == "nouns":
        from ..data.noun_parts import vocabulary
        return vocabulary()
    if captions is None:
        raise ValueError("this network needs captions, and these data have none")
    from ...networks.text import Tokenizer
    split = Tokenizer([]).split
    return sorted({word for caption in captions for word in split(caption)})


def _refuse_other(name: str | None, known, what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")


def _refuse_unknown(given, known, what: str) -> None:
    """Raises ValueError for the first unknown name, with the nearest known one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"{what} has no {name!r}{hint}: it has {', '.join(known)}")


def _validate_type(name: str, value) -> None:
    if value is None and name in OPTIONAL:
        return
    if name in WHOLE:
        right, what = _is_whole(value), "a whole number"
    elif name in SWITCHES:
        right, what = isinstance(value, bool), "true or false"
    elif name in FUNCTIONS:
        right, what = callable(value), "a function of a tensor (B,)"
    elif name == "data_range":
        right, what = _is_range(value), "two numbers, low and high, or none"
    else:
        right, what = _is_number(value), "a number"
    if not right:
        raise ValueError(f"{name} must be {what}; got {validate.show(value)}")


def _plain(value):
    """Python's own number for one of numpy's, which JSON cannot hold."""
    if _is_whole(value):
        return int(value)
    return float(value) if _is_number(value) else value


def _is_whole(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_range(value) -> bool:
    if not isinstance(value, tuple) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return value[0] < value[1]
