"""Stable Diffusion 1.5 at full size, with random weights: what loading it and one step cost.

    python tools/full_size_sd.py
        writes it in half precision and in the published layout to a temporary folder (2.2 GB,
        removed at the end), and computes in fp32: loaded, a step at 16 x 16 latents and its
        picture, a step at 64 x 64; then with the old names of the autoencoder's attention; then
        with a U-Net without mid block. Seconds and peak memory are printed
    python tools/full_size_sd.py --compare
        diffusers computes the first step and picture from the same files, too

Names and shapes of the U-Net and the autoencoder are those of diffusers, which is needed. A step is
one evaluation of the network; guidance takes two.
"""
import argparse
import gc
import itertools
import json
import math
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch import Tensor

from course_lib import Denoiser
from course_lib.lab.training.published import WEIGHTS, load_published
from course_lib.networks.stable_diffusion.tokenizer import END, SMALLEST, BytePairTokenizer

UNET = {"sample_size": 64, "cross_attention_dim": 768}      # all else is diffusers' default
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT = {
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
ROOM = 3e9                                                  # bytes on disk
Shapes = dict[str, tuple[int, ...]]


# ---- the folder

def write_folder(folder: Path, unet: dict = UNET, vae: dict = VAE, text: dict = TEXT) -> None:
    """Stable Diffusion in the published layout, with random weights in half precision."""
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    write_unet(folder, unet)
    write_vae(folder, vae)
    write_text_encoder(folder, text)
    write_tokenizer(folder / "tokenizer", text["vocab_size"])
    PNDMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")


def write_unet(folder: Path, sizes: dict) -> None:
    """Replaces the one that is there."""
    with torch.device("meta"):                              # names and shapes, no numbers
        model = UNet2DConditionModel(**sizes)
    model.save_config(folder / "unet")
    write_weights(weights_file(folder, "unet"), shapes_of(model))


def write_vae(folder: Path, sizes: dict, old_names: bool = False) -> None:
    """Replaces the one that is there."""
    with torch.device("meta"):
        model = AutoencoderKL(**sizes)
    model.save_config(folder / "vae")
    shapes = shapes_of(model)
    for new, old in OLD.items() if old_names else ():
        shapes = {name.replace(f".{new}.", f".{old}."): shape for name, shape in shapes.items()}
    write_weights(weights_file(folder, "vae"), shapes)


def write_text_encoder(folder: Path, sizes: dict) -> None:
    (folder / "text_encoder").mkdir()
    config = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model"} | sizes
    (folder / "text_encoder/config.json").write_text(json.dumps(config))
    write_weights(weights_file(folder, "text_encoder"), text_shapes(sizes))


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A code of made-up merges, as many as the published one has."""
    signs = [*BytePairTokenizer.from_merges([]).vocabulary][: SMALLEST - 2]
    pairs = itertools.islice(itertools.product(signs[:256], signs), vocabulary - SMALLEST)
    code = BytePairTokenizer.from_merges([" ".join(pair) for pair in pairs])
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(code.vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in code.merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": END}))


def weights_file(folder: Path, part: str) -> Path:
    return folder / part / f"{WEIGHTS[part]}.safetensors"


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def text_shapes(sizes: dict) -> Shapes:
    """CLIP's text encoder as published files have it, `position_ids` included."""
    dim, hidden = sizes["hidden_size"], sizes["intermediate_size"]
    length = sizes["max_position_embeddings"]
    shapes = {
        "embeddings.position_ids": (1, length),
        "embeddings.token_embedding.weight": (sizes["vocab_size"], dim),
        "embeddings.position_embedding.weight": (length, dim),
    }
    layers = {f"self_attn.{part}_proj": (dim, dim) for part in ("q", "k", "v", "out")}
    layers |= {"layer_norm1": (dim,), "layer_norm2": (dim,)}
    layers |= {"mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    named = {f"encoder.layers.{k}.{name}": shape for name, shape in layers.items()
             for k in range(sizes["num_hidden_layers"])}
    for name, shape in (named | {"final_layer_norm": (dim,)}).items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {f"text_model.{name}": shape for name, shape in shapes.items()}


def write_weights(file: Path, shapes: Shapes) -> None:
    """A safetensors file, tensor by tensor: only one of them is in memory at a time.

    Its length (8 bytes), its table of contents (JSON), the numbers one after the other.
    """
    contents, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        whole = name.endswith("position_ids")
        start, end = end, end + math.prod(shape) * (8 if whole else 2)
        contents[name] = {
            "dtype": "I64" if whole else "F16", "shape": shape, "data_offsets": (start, end)
        }
    table = json.dumps(contents).encode()
    table += b" " * (-len(table) % 8)
    g = torch.Generator().manual_seed(0)
    with file.open("wb") as stream:
        stream.write(len(table).to_bytes(8, "little") + table)
        for name, shape in shapes.items():
            stream.write(memoryview(drawn(name, shape, g).numpy()).cast("B"))


def drawn(name: str, shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """Random numbers of which none is 1 or 0 by default: norms and biases, too."""
    if name.endswith("position_ids"):
        return torch.arange(shape[1])[None]
    x = torch.randn(shape, generator=g)
    if len(shape) > 1:
        return x.div_(math.sqrt(math.prod(shape[1:]))).half()
    return x.mul_(0.3).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0).half()


# ---- what is measured

def peak() -> float:
    """The largest memory of this process so far, in GB."""
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 1e9


def timed(what: str, run):
    """run(), with a line of its seconds and the peak so far."""
    start = time.perf_counter()
    result = run()
    print(f"{what:52s} {time.perf_counter() - start:7.1f} s   peak {peak():5.2f} GB", flush=True)
    return result


def inputs(side: int, channels: int = 4) -> tuple[Tensor, Tensor]:
    """A latent (1, channels, side, side), and its time."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(1, channels, side, side, generator=g), torch.tensor([0.6])


@torch.no_grad()
def step(D: Denoiser, side: int) -> Tensor:
    """What the U-Net predicts, for a text."""
    context = D.net.encode(D.net.tokenizer(["a red hat"]), 1)
    out = D.net(*inputs(side), **context)
    if not out.isfinite().all():
        raise SystemExit(f"the step at {side} x {side} gave nan or inf")
    return out


@torch.no_grad()
def tried(folder: Path, sides: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Load the folder; the caption's vectors, and the step and the picture of the first side."""
    gc.collect()                                            # the model of the last call is gone
    D, vae = timed("  loaded, every name in its place", lambda: load_published(folder, "cpu"))
    numbers = sum(p.numel() for model in (D, vae) for p in model.parameters())
    print(f"  {numbers:,} parameters, {next(D.parameters()).dtype}")
    steps = [timed(f"  a step at {side} x {side}", lambda: step(D, side)) for side in sides]
    size = 8 * sides[0]
    x = timed(f"  its picture, {size} x {size}", lambda: vae.decode(steps[0]))
    return D.net.encode(D.net.tokenizer(["a red hat"]), 1)["context"], steps[0], x


@torch.no_grad()
def compare(folder: Path, context: Tensor, found: Tensor, picture: Tensor) -> None:
    """The same step and picture by diffusers, in standard deviations of what it computes."""
    x, t = inputs(found.shape[-1])
    load = lambda kind, part: kind.from_pretrained(folder / part, torch_dtype=torch.float32)
    wanted = load(UNet2DConditionModel, "unet")(x, 1000 * t - 1, context).sample
    decoded = load(AutoencoderKL, "vae").decode(found).sample
    for what, a, b in (("step", found, wanted), ("picture", picture, decoded)):
        print(f"  {what} off from diffusers' by {((a - b).abs().max() / b.std()).item():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    if shutil.disk_usage(tempfile.gettempdir()).free < ROOM:
        raise SystemExit(f"{tempfile.gettempdir()} has less than {ROOM / 1e9:.0f} GB free: set "
                         "TMPDIR to a folder that has more")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed("written in half precision", lambda: write_folder(folder))
        print(f"{sum(f.stat().st_size for f in folder.rglob('*.*')) / 1e9:.2f} GB on disk")
        print("Stable Diffusion 1.5")
        found = tried(folder, (16, 64))
        if arguments.compare:
            compare(folder, *found)
        write_vae(folder, VAE, old_names=True)
        print("the autoencoder's attention by its old names")
        again = tried(folder, (16,))
        print(f"  the same step and picture: {all(map(torch.equal, found, again))}")
        weights_file(folder, "unet").unlink()
        write_unet(folder, UNET | {"mid_block_type": None})
        print("a U-Net without mid block")
        tried(folder, (16,))


if __name__ == "__main__":
    main()
