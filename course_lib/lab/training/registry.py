"""The networks of the course by name, each loaded when it is first asked for."""
from importlib import import_module

from torch import nn

MODULES = {
    "UNet": "unet",
    "DiT": "dit",
    "MMDiT": "dit",
    "ConditionalUNet": "text",
    "AutoencoderKL": "vae",
    "TokenTransformer": "tokens",
    "VideoUNet": "video",
    "SignalUNet": "signal",
    "PointTransformer": "points",
    "ActionNet": "actions",
    "StableDiffusionNet": "stable_diffusion.model",
    "DigitClassifier": "classifiers",
    "NoisyClassifier": "classifiers",
    "LPIPS": "lpips",
}
# trained by recipes or published; no configuration trains them
RECIPES = ("DigitClassifier", "NoisyClassifier", "LPIPS", "StableDiffusionNet")
TOKEN_MODELS = ("MaskedDiffusion", "Autoregressive")        # what a TokenTransformer is part of


def network_class(name: str) -> type[nn.Module]:
    """The class of that name. Raises KeyError for an unknown one."""
    return getattr(import_module(f"course_lib.networks.{MODULES[name]}"), name)


def token_model(name: str, net: nn.Module, special_id: int) -> nn.Module:
    """A MaskedDiffusion with its mask, or an Autoregressive with the token before the first one."""
    return getattr(import_module("course_lib.discrete"), name)(net, special_id)


def special_id(model: nn.Module) -> int:
    """The mask of a MaskedDiffusion, the starting token of an Autoregressive."""
    return model.mask_id if hasattr(model, "mask_id") else model.start_id
