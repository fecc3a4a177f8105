"""What lies beside a trained model's checkpoint: samples, in a form that suits them."""
from pathlib import Path

import torch
from torch import Tensor, nn

from ...denoiser import Denoiser
from ...networks.vae import AutoencoderKL
from ..storage import save_tensors
from .batches import floats
from .checkpoint import load
from .registry import TOKEN_MODELS


def write_samples(model: nn.Module, data: dict[str, Tensor], stem: Path, config: dict) -> Path:
    """Samples of a finished model, and the file that they are in.

    stem.png of images, clips and reconstructions, stem.txt of tokens, and for all other data
    stem_samples.safetensors, 16 samples and the conditions that they were drawn for.
    """
    seed = config["train"].get("seed", 0)
    if type(model).__name__ in TOKEN_MODELS:
        return _write_text(model, stem.with_suffix(".txt"), config["data"], seed)
    if isinstance(model, AutoencoderKL):
        return _draw_pairs(model, data["x0"], stem.with_suffix(".png"))
    if len(model.data_shape) == 3:
        return _draw_images(model, stem.with_suffix(".png"), config, seed)
    rows = torch.arange(16) % len(data["x0"])
    condition = {name: value[rows] for name, value in data.items() if name != "x0"}
    x = _samples(model, condition, seed)
    if len(model.data_shape) == 4:
        return _draw_clips(x, stem.with_suffix(".png"))
    file = stem.with_name(f"{stem.name}_samples.safetensors")
    save_tensors(file, {"x": x.contiguous()} | condition, {"config": config})
    return file


def _samples(D: Denoiser, condition: dict[str, Tensor], seed: int) -> Tensor:
    from ..evaluation.sampling import SAMPLERS, sample_batches
    return sample_batches(D, SAMPLERS["dpmpp"], 20, condition, n=16, seed=seed, clip_range=None)


def _write_text(model: nn.Module, file: Path, data: str, seed: int) -> Path:
    """16 samples, a line each: captions, or the numbers of the tokens."""
    from ..data.caption_grammar import caption_tokenizer
    from ..evaluation.texts import sample_tokens
    x = sample_tokens(model, 16, seed=seed)
    numbers = [" ".join(map(str, row)) for row in x.tolist()]
    lines = caption_tokenizer().decode(x) if data == "captions" else numbers
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _draw_images(D: Denoiser, file: Path, config: dict, seed: int) -> Path:
    from ..evaluation.sampling import sheet
    sheet(D, file, seed=seed, vae=load(config["latents"]) if "latents" in config else None)
    return file


@torch.no_grad()
def _draw_pairs(vae: AutoencoderKL, x0: Tensor, file: Path) -> Path:
    """Images and their reconstructions, in turns."""
    x0 = floats(x0[:32]).to(vae.shift.device)
    return _save_grid(torch.stack([x0, vae(x0)], dim=1).flatten(0, 1), file, 8)


def _draw_clips(x: Tensor, file: Path) -> Path:
    """A clip (frames, C, H, W) in each row."""
    return _save_grid(x.flatten(0, 1), file, x.shape[1])


def _save_grid(x: Tensor, file: Path, columns: int) -> Path:
    from torchvision.utils import save_image
    save_image(x, file, nrow=columns, normalize=True, value_range=(-1, 1))
    return file
