"""Training: one loop for any model that can say its loss of a batch; saving, loading and resuming.

The short name is `train`: `from course_lib.lab import train`, then `train.train(model, data, ...)`.
On the command line: `python -m course_lib.lab.training configs/mnist.toml`.
"""
from .batches import BatchSampler, drop_conditions, normal_log_snr
from .checkpoint import load, save
from .config import TrainConfig
from .configured import from_config
from .device import about_machine, autocast, default_device, precision
from .diffusers_models import from_diffusers
from .loop import train
from .muon import Muon
from .runs import runs_folder
from .state import TrainState
from .tasks import Denoising, Task

__all__ = [
    "train",
    "load",
    "save",
    "TrainConfig",
    "from_config",
    "from_diffusers",
    "runs_folder",
    "default_device",
    "precision",
    "autocast",
    "about_machine",
    "drop_conditions",
    "normal_log_snr",
    "BatchSampler",
    "Denoising",
    "Task",
    "TrainState",
    "Muon",
]
