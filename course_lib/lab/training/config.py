"""The options of a training run, and the reading of configuration files (configs/*.toml)."""
import dataclasses
import difflib
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

from torch import Tensor

from ... import validate


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
