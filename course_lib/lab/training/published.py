"""Stable Diffusion 1.x and 2.x from a folder in the layout in which they are published.

    model_index.json   unet/  vae/  text_encoder/  tokenizer/  scheduler/

Sizes, scale and prediction type are read from the configuration files, never assumed. What is no
such folder is named, and what would be needed instead.
"""
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...networks.stable_diffusion.layout import to_ours
from ...networks.stable_diffusion.model import StableDiffusionNet
from ...networks.stable_diffusion.tokenizer import BytePairTokenizer
from ...networks.vae import AutoencoderKL
from ...schedules import Schedule
from .device import default_device
from .diffusers_models import TARGETS

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# what a configuration may say where this code has one way only; a key that is missing is fine
SUPPORTED = {
    "unet": {
        "act_fn": ("silu",),
        "addition_embed_type": (None,),
        "attention_type": ("default",),
        "center_input_sample": (False,),
        "class_embed_type": (None,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "cross_attention_norm": (None,),
        "downsample_padding": (1,),
        "dual_cross_attention": (False,),
        "encoder_hid_dim_type": (None,),
        "flip_sin_to_cos": (True,),
        "freq_shift": (0,),
        "mid_block_only_cross_attention": (None, False),
        "mid_block_scale_factor": (1,),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
        "norm_eps": (1e-5,),
        "num_attention_heads": (None,),
        "num_class_embeds": (None,),
        "only_cross_attention": (False,),
        "resnet_time_scale_shift": ("default",),
        "time_cond_proj_dim": (None,),
        "time_embedding_type": ("positional",),
        "transformer_layers_per_block": (1,),
    },
    "vae": {
        "act_fn": ("silu",),
        "shift_factor": (None,),
        "latents_mean": (None,),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "mid_block_add_attention": (True,),
    },
    "text_encoder": {"hidden_act": ("quick_gelu", "gelu")},
    "scheduler": {"beta_schedule": ("scaled_linear",), "trained_betas": (None,)},
}


def load_published(
    folder: str | Path, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Denoiser, AutoencoderKL]:
    """A denoiser of latents that reads texts, and its autoencoder: what
    `sampling.text_to_image(D, texts, vae=vae)` needs.

    dtype: float16 halves the memory, for a GPU; on a CPU it is many times slower
    Raises FileNotFoundError, OSError or ValueError with one sentence for what is no such folder,
    for weights that are missing, damaged or do not fit, and for models of another kind.
    """
    folder = Path(folder)
    _validate_folder(folder)
    parts = ("unet", "vae", "text_encoder", "scheduler")
    configs = {part: _config(folder, part) for part in parts}
    tokenizer = _tokenizer(folder, configs["text_encoder"])
    sizes = _unet_arguments(configs["unet"]), _text_arguments(configs["text_encoder"])
    with torch.device("meta"):                              # sizes without numbers
        vae = AutoencoderKL(**_vae_arguments(configs["vae"]))
        net = StableDiffusionNet(*sizes, tokenizer, _steps(configs["scheduler"]))
    device = default_device() if device is None else validate.device(device)
    for part, module in (("unet", net.unet), ("text_encoder", net.text), ("vae", vae)):
        _fill(module, folder, part, dtype, device)
    vae.scale = torch.full((vae.latent_channels,), configs["vae"].get("scaling_factor", 0.18215))
    vae.shift = torch.zeros(vae.latent_channels)
    D = Denoiser(net, *_schedule(configs["scheduler"]))
    side = configs["unet"].get("sample_size") or 64
    height, width = (side, side) if isinstance(side, int) else side
    D.data_shape = (vae.latent_channels, height, width)
    D.about = {"folder": str(folder)}
    return D.to(device).eval().requires_grad_(False), vae.to(device).eval().requires_grad_(False)


# ---- configurations

def _config(folder: Path, part: str) -> dict:
    """A part's configuration. Raises FileNotFoundError or ValueError for one that is missing, no
    JSON, or of another kind of model.
    """
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = folder / part / name
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the whole folder is needed, with all parts")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error}): fetch it again") from error
    for key, allowed in SUPPORTED[part].items():
        if config.get(key, allowed[0]) not in allowed:
            raise ValueError(
                f"{file} has {key} = {config[key]!r}, as Stable Diffusion 1.x and 2.x have not: "
                "only these are loaded"
            )
    return config


def _unet_arguments(config: dict) -> dict:
    kinds = config["down_block_types"]
    attends = [kind == "CrossAttnDownBlock2D" for kind in kinds]
    mirrored = ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)]
    others = {*kinds} - {"CrossAttnDownBlock2D", "DownBlock2D"}
    if others or config["up_block_types"] != mirrored:
        raise ValueError(
            f"a U-Net with blocks {kinds} and {config['up_block_types']} is none of Stable "
            "Diffusion 1.x or 2.x: only these are loaded"
        )
    heads = config.get("attention_head_dim", 8)             # in these files it counts the heads
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "widths": config["block_out_channels"],
        "depth": config["layers_per_block"],
        "context_dim": config["cross_attention_dim"],
        "num_heads": heads if isinstance(heads, int) else tuple(heads),
        "attention_levels": tuple(attends),
        "linear_projection": config.get("use_linear_projection", False),
        "upcast_attention": bool(config.get("upcast_attention", False)),
        "num_groups": config.get("norm_num_groups", 32),
        "middle": config.get("mid_block_type", "UNetMidBlock2DCrossAttn") is not None,
    }


def _vae_arguments(config: dict) -> dict:
    return {
        "channels": config["in_channels"],
        "latent_channels": config["latent_channels"],
        "widths": config["block_out_channels"],
        "depth": config["layers_per_block"],
        "num_groups": config.get("norm_num_groups", 32),
    }


def _text_arguments(config: dict) -> dict:
    return {
        "vocabulary": config["vocab_size"],
        "length": config["max_position_embeddings"],
        "dim": config["hidden_size"],
        "depth": config["num_hidden_layers"],               # 2.x: 23, already without the last one
        "num_heads": config["num_attention_heads"],
        "hidden": config["intermediate_size"],
        "activation": config.get("hidden_act", "quick_gelu"),
        "eps": config.get("layer_norm_eps", 1e-5),
    }


def _tokenizer(folder: Path, text: dict) -> BytePairTokenizer:
    """With the padding that the folder asks for: END in 1.x, "!" in 2.x."""
    pad = "<|endoftext|>"
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / "tokenizer" / name
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8")).get("pad_token")
            pad = found["content"] if isinstance(found, dict) else found or pad
    try:
        return BytePairTokenizer.from_folder(
            folder / "tokenizer", length=text["max_position_embeddings"], pad=pad
        )
    except FileNotFoundError as error:
        missing = f"{error.filename} is missing: the whole folder is needed"
        raise FileNotFoundError(missing) from error


def _schedule(config: dict) -> tuple[Schedule, str]:
    """The schedule and the target of its prediction_type."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in TARGETS:
        raise ValueError(f"prediction_type is one of {', '.join(TARGETS)}; got {kind!r}")
    low, high = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    T = _steps(config)
    root = torch.linspace(low**0.5, high**0.5, T, dtype=torch.float64)
    zero_terminal = config.get("rescale_betas_zero_snr", False)
    schedule = (Schedule.zero_terminal_snr if zero_terminal else Schedule.from_betas)(root**2)
    return schedule, TARGETS[kind]


def _steps(config: dict) -> int:
    return config.get("num_train_timesteps", 1000)


# ---- weights

def _fill(module: nn.Module, folder: Path, part: str, dtype: torch.dtype, device) -> None:
    """The part's tensors, mapped from its files; converted ones are in memory once."""
    published = {
        name: value.to(device, dtype) if value.is_floating_point() else value
        for name, value in _tensors(folder / part, WEIGHTS[part]).items()
    }
    try:
        state = to_ours(module, published)
    except ValueError as error:
        raise ValueError(f"{folder / part}: {error}") from None
    module.load_state_dict(state, assign=True, strict=False)
    left = [name for name, value in module.named_parameters() if value.is_meta]
    if left:
        raise ValueError(f"{folder / part} has no {left[0]}")
    if part != "text_encoder":
        module.to(memory_format=torch.channels_last)


def _tensors(folder: Path, stem: str) -> dict[str, Tensor]:
    """All tensors of a part, mapped: one file or several, in full or half precision."""
    for variant in ("", ".fp16"):
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return {k: v for name in sorted(names) for k, v in _mapped(folder / name).items()}
        if (folder / f"{stem}{variant}.safetensors").is_file():
            return _mapped(folder / f"{stem}{variant}.safetensors")
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.ckpt"), *folder.glob("*.pt")])
    if pickles:
        raise ValueError(_refused(pickles[0]))
    raise FileNotFoundError(
        f"{folder} has no weights ({stem}.safetensors): the folder was fetched without its large "
        "files"
    )


def _mapped(file: Path) -> dict[str, Tensor]:
    """Raises OSError for a file that is missing, truncated, or a placeholder."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, and the index names it: fetch it again")
    with file.open("rb") as stream:
        if stream.read(24).startswith(b"version https://git-lfs"):
            raise OSError(f"{file} is a placeholder of git-lfs: run `git lfs pull` in its folder")
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{file} is not whole ({error}): fetch it again") from error


# ---- what people have instead

def _validate_folder(folder: Path) -> None:
    """Raises FileNotFoundError or ValueError that says what it is and what is needed."""
    needed = (
        "a folder in the diffusers layout is needed (model_index.json, unet, vae, text_encoder, "
        "tokenizer, scheduler)"
    )
    if not folder.exists():
        raise FileNotFoundError(f"there is no {folder}: {needed}")
    if folder.is_file():
        kind = _kind_of_file(folder)
        raise ValueError(f"{folder} is {kind}: {needed}")
    if (folder / "model_index.json").is_file():
        return
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("_class_name") or " ".join(config.get("architectures", ["a model"]))
        raise ValueError(f"{folder} is one part, {name}: {needed}")
    if [*folder.glob("adapter_config.json"), *folder.glob("*lora*.safetensors")]:
        raise ValueError(f"{folder} is an adapter (LoRA), which changes a model: {needed}")
    files = [*folder.glob("*.safetensors"), *folder.glob("*.ckpt"), *folder.glob("*.bin")]
    if files:
        kind = _kind_of_file(files[0])
        raise ValueError(f"{folder} has {files[0].name}, which is {kind}: {needed}")
    raise ValueError(f"{folder} has no model_index.json: {needed}")


def _kind_of_file(file: Path) -> str:
    if file.suffix in (".ckpt", ".bin", ".pt", ".pth"):
        return _refused(file).removeprefix(f"{file} is ")
    try:
        with safe_open(file, framework="pt") as stored:
            names = list(stored.keys())
    except SafetensorError:
        return "no safetensors file, or not a whole one"
    has = lambda *starts: any(name.startswith(starts) for name in names)
    if has("model.diffusion_model."):
        return (
            "one file in the layout of the original code; convert it with diffusers: "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if any("lora" in name for name in names):
        return "an adapter (LoRA), which changes a model"
    for start, part in (("down_blocks.", "the U-Net"), ("encoder.", "the autoencoder"),
                        ("text_model.", "the text encoder")):
        if has(start):
            return f"one part, {part}"
    return "a safetensors file of another model"


def _refused(file: Path) -> str:
    return (
        f"{file} is a pickle, which can run any code when it is opened, so it is refused; convert "
        "it where you trust it: StableDiffusionPipeline.from_pretrained(...).save_pretrained("
        "FOLDER, safe_serialization=True)"
    )
