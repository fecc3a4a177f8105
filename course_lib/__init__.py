"""Diffusion models, from q(x_t | x_0) to Stable Diffusion: what the seven notebooks build, to import afterwards.

The one idea: x_t = alpha(t) x0 + sigma(t) eps, with t = 0 data and t = 1 noise. A denoiser is any callable
(x, t, **condition) -> x0_hat; what changes x0_hat is a wrapper, what changes x_t is a sampler.
Experiments live in `course_lib.lab` (data, train, metrics, plots, widgets), exercise checks in `course_lib.checks`.
"""
from .consistency import Consistency
from .ddpm import DDPM
from .denoiser import Denoiser
from .editing import create_mask, edit, inpaint, repaint, sdedit
from .guidance import cfg, classifier_guidance, clip, compose, threshold
from .networks.dit import DiT
from .networks.text import ConditionalUNet
from .networks.unet import UNet
from .samplers import ancestral, consistency, ddim, dpmpp, grid, heun, invert, last, slerp, unipc
from .schedules import Schedule
from .version import VERSION

__version__ = VERSION
__all__ = ["Schedule", "Denoiser", "Consistency", "DDPM", "grid", "ddim", "ancestral", "heun", "dpmpp", "unipc", "consistency", "invert", "slerp", "last", "cfg", "clip", "threshold",
           "classifier_guidance", "compose", "create_mask", "inpaint", "repaint", "sdedit", "edit", "UNet", "DiT", "ConditionalUNet"]
