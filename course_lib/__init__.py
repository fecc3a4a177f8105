"""Diffusion models, from q(x_t | x_0) to Stable Diffusion: what the seven notebooks build.

The one idea: x_t = alpha(t) x0 + sigma(t) eps, with t = 0 data and t = 1 noise. A denoiser is any
callable (x, t, **condition) -> x0_hat; what changes x0_hat is a wrapper, what changes x_t a
sampler. Experiments live in `course_lib.lab` (data, train, metrics, plots, widgets), exercise
checks in `course_lib.checks`.
"""
from . import threads  # noqa: F401   first: it must come before torch
from .consistency import Consistency
from .ddpm import DDPM
from .denoiser import Denoiser
from .editing import ddim_edit, inpaint, repaint, sdedit
from .guidance import cfg, classifier_guidance, clip, compose_conditions, threshold
from .masks import create_mask
from .networks.dit import DiT
from .networks.text import ConditionalUNet
from .networks.unet import UNet
from .samplers import (
    ancestral,
    consistency_sampling,
    ddim,
    ddim_invert,
    dpmpp,
    heun,
    last,
    slerp,
    timesteps,
    unipc,
)
from .schedules import Schedule
from .version import VERSION

__version__ = VERSION
__all__ = [
    "Schedule",
    "Denoiser",
    "Consistency",
    "DDPM",
    "timesteps",
    "ddim",
    "ancestral",
    "heun",
    "dpmpp",
    "unipc",
    "consistency_sampling",
    "ddim_invert",
    "slerp",
    "last",
    "cfg",
    "clip",
    "threshold",
    "classifier_guidance",
    "compose_conditions",
    "create_mask",
    "inpaint",
    "repaint",
    "sdedit",
    "ddim_edit",
    "UNet",
    "DiT",
    "ConditionalUNet",
]
