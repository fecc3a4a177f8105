"""Stable Diffusion 1.5 at its full size, with random weights: does our code load and run it?

    python tools/full_size.py
        writes a folder as it is published (2.1 GB, in half precision), loads it in float32,
        compares every tensor with its file, then draws one step and its picture with latents of
        16 x 16 and of 64 x 64
    python tools/full_size.py --latents 16 --against-diffusers
        the small latents only, and the same step by diffusers' own pipeline from the same folder
    python tools/full_size.py --attention new --no-position-ids --shards 3 --no-middle
        other forms that published folders have

Prints the seconds of each stage and the peak of the process's memory. Names and shapes are those
that diffusers and transformers give models of the published configurations. The weights are drawn
from normal distributions, each tensor by itself, none is zero or repeated; the byte-pair code has
CLIP's size, not its merges. No network is needed. It takes about 8 GB of memory, and 2.2 GB of disk
for the time of the run (--folder: where, and the files stay).
"""
import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib import ddim, last, timesteps
from course_lib.lab import profiling
from course_lib.lab.training.published import load_published
from course_lib.networks.stable_diffusion import layout
from course_lib.networks.stable_diffusion.tokenizer import SIGNS, BytePairTokenizer

# what stands in the configuration files of Stable Diffusion 1.5
CONFIGS = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "cross_attention_dim": 768,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 512,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "scheduler": {
        "_class_name": "PNDMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    },
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# how older files, those of Stable Diffusion 1.5 among them, name the autoencoder's attention
OLD_NAMES = {
    ".to_q.": ".query.",
    ".to_k.": ".key.",
    ".to_v.": ".value.",
    ".to_out.0.": ".proj_attn.",
}
TEXT = "a photo of an astronaut riding a horse"
Shapes = dict[str, tuple[int, ...]]


# ---- a folder as it is published

def published_shapes(part: str, config: dict) -> Shapes:
    """Name -> shape of each tensor that the model of this configuration has, by the library that
    writes such files.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    with torch.device("meta"), warnings.catch_warnings():   # sizes without numbers
        warnings.simplefilter("ignore")
        if part == "text_encoder":
            model = CLIPTextModel(CLIPTextConfig(**config))
        else:
            kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
            model = kind.from_config(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if part != "text_encoder":
        return shapes
    # transformers 5.6 and later leave the prefix out, published files have it
    return {f"text_model.{name.removeprefix('text_model.')}": s for name, s in shapes.items()}


def random_state(shapes: Shapes, generator: torch.Generator) -> dict[str, Tensor]:
    """Normal numbers in half precision; matrices keep the variance, norms are near 1 and 0."""
    state, memory = {}, torch.empty(max(map(math.prod, shapes.values())))
    for name, shape in shapes.items():
        value = memory[: math.prod(shape)].normal_(generator=generator)
        if len(shape) > 1:
            value *= 1 / math.sqrt(math.prod(shape[1:]))
        else:
            value *= 0.1
            value += 1.0 if "norm" in name and name.endswith("weight") else 0.0
        state[name] = value.half().view(shape)
    return state


def byte_pairs(size: int) -> BytePairTokenizer:
    """A code of `size` tokens, made up: bytes, and pairs of bytes at the end of a word."""
    signs = list(SIGNS.values())
    pairs = [f"{a} {b}</w>" for a, b in product(signs, signs)]
    if not 514 <= size <= 514 + len(pairs):
        raise ValueError(f"such a code has 514 to {514 + len(pairs)} tokens; asked for {size}")
    return BytePairTokenizer.from_merges(pairs[: size - 514])


def write_tokenizer(folder: Path, size: int) -> None:
    """vocab.json, merges.txt and the special tokens, as Stable Diffusion 1.x has them."""
    folder.mkdir(parents=True)
    code = byte_pairs(size)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in code.merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    end = "<|endoftext|>"
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
    }
    write_json(folder / "vocab.json", code.vocabulary)
    write_json(folder / "special_tokens_map.json", special)
    more = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", special | more)


def write_weights(folder: Path, stem: str, state: dict[str, Tensor], shards: int = 1) -> None:
    """One file in half precision, or several of about equal size with an index beside them."""
    metadata = {"format": "pt"}
    if shards == 1:
        save_file(state, folder / f"{stem}.fp16.safetensors", metadata)
        return
    total = sum(value.nbytes for value in state.values())
    parts, done = [{} for _ in range(shards)], 0
    for name, value in state.items():
        parts[min(done * shards // total, shards - 1)][name] = value
        done += value.nbytes
    place = {}
    for k, part in enumerate(parts, 1):
        file = f"{stem}.fp16-{k:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, metadata)
        place |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": place}
    write_json(folder / f"{stem}.safetensors.index.fp16.json", index)


def write_folder(
    folder: Path,
    configs: dict[str, dict],
    attention: str = "old",
    position_ids: bool = True,
    shards: int = 1,
    seed: int = 0,
) -> None:
    """A whole folder in the layout of diffusers, with random weights in half precision.

    attention:    "old" or "new" names in the autoencoder
    position_ids: a tensor of the text encoder that older files have, 0 ... 76, which nobody needs
    shards:       files of the U-Net
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "model_index.json", INDEX)
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler/scheduler_config.json", configs["scheduler"])
    write_tokenizer(folder / "tokenizer", configs["text_encoder"]["vocab_size"])
    generator = torch.Generator().manual_seed(seed)
    for part, stem in STEMS.items():
        (folder / part).mkdir()
        write_json(folder / part / "config.json", configs[part])
        state = random_state(published_shapes(part, configs[part]), generator)
        if part == "vae" and attention == "old":
            state = {old_name(name): value for name, value in state.items()}
        if part == "text_encoder" and position_ids:
            length = configs[part]["max_position_embeddings"]
            state["text_model.embeddings.position_ids"] = torch.arange(length)[None]
        write_weights(folder / part, stem, state, shards if part == "unet" else 1)


def old_name(name: str) -> str:
    """A tensor of the autoencoder as older files name it."""
    for new, old in OLD_NAMES.items():
        name = name.replace(new, old)
    return name


def write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


# ---- what was loaded

def stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of a part's files, mapped into memory, without the positions' ids."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            names = [k for k in opened.keys() if not k.endswith("position_ids")]  # noqa: SIM118
            tensors |= {name: opened.get_tensor(name) for name in names}
    return tensors


def differences(module: nn.Module, folder: Path) -> list[str]:
    """What of a part's files is not in the module, bit for bit, and where the name map says."""
    tensors = {}
    for name, value in stored(folder).items():
        for new, old in OLD_NAMES.items():
            name = name.replace(old, new)
        tensors[name] = value
    found, state = [], module.state_dict()
    for ours, names in layout.names_of(module).items():
        for name, value in zip(names, state[ours].chunk(len(names))):
            wanted = tensors.pop(name, None)
            if wanted is None:
                found.append(f"{ours} is made of {name}, which the files have not")
            elif not torch.equal(value.view(wanted.shape), wanted.to(value.dtype)):
                found.append(f"{ours} has not the values of {name}")
    return found + [f"{name} is in the files, and nothing is made of it" for name in tensors]


def parts_of(D: nn.Module, vae: nn.Module) -> dict[str, nn.Module]:
    """The three networks by the names of their folders."""
    return {"unet": D.net.unet, "vae": vae, "text_encoder": D.net.text}


def multiply_adds(D: nn.Module, vae: nn.Module, side: int) -> dict[str, int]:
    """Of one evaluation of the U-Net, and of the decoder, with latents of side x side; counted on
    networks without numbers.
    """
    with torch.device("meta"):
        unet, decoder = type(D.net.unet)(**D.net.unet.config), type(vae)(**vae.config)
        sizes = D.net.text.config
        x = torch.empty(1, vae.latent_channels, side, side)
        context = torch.empty(1, sizes["length"], sizes["dim"])
        count = profiling.multiply_adds
        return {
            "unet": count(unet, x, torch.empty(1), context),
            "decoder": count(decoder.decode, x),
        }


# ---- one step

def noise(D: nn.Module, side: int) -> Tensor:
    """The latent that a step starts from: (1, 4, side, side)."""
    shape = (1, D.data_shape[0], side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(side))


@torch.no_grad()
def one_step(D: nn.Module, x: Tensor) -> Tensor:
    """A latent like x: one step of DDIM from t = 1 to t = 0, with a caption, without guidance."""
    context = D.net.encode(D.net.tokenizer(TEXT), len(x))
    return last(ddim(D, D.schedule, x, timesteps(D.schedule, 1), **context))


@torch.no_grad()
def step_of_diffusers(folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same step by diffusers' own pipeline, text to latent, and its picture of the latent."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, variant="fp16", dtype=torch.float32, safety_checker=None
    )
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    pipe.set_progress_bar_config(disable=True)
    pixels = {"height": x.shape[2] * pipe.vae_scale_factor,
              "width": x.shape[3] * pipe.vae_scale_factor}
    z = pipe(TEXT, num_inference_steps=1, guidance_scale=1.0, latents=x, output_type="latent",
             **pixels).images
    return z, pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample


def off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in standard deviations of what is wanted."""
    return ((found - wanted).abs().max() / wanted.std()).item()


# ---- measuring

def peak_gigabytes() -> float:
    """The largest memory that this process has had so far, files that are mapped included.

    Linux says it of this program alone; what getrusage says can be its parent's, from before.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        words = status.read_text(encoding="utf-8").split()
        return int(words[words.index("VmHWM:") + 1]) * 1024 / 1e9
    import resource  # Windows has none
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


class Report:
    """What was measured, printed line by line."""

    def __init__(self):
        self.numbers = {"stages": {}}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Seconds of what is done within, those in which a core computed, and the peak after it."""
        start, start_cpu = time.perf_counter(), time.process_time()
        yield
        row = {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - start_cpu,
            "peak": peak_gigabytes(),
        }
        self.numbers["stages"][name] = row
        print("{:30s} {seconds:6.1f} s, {cpu:6.1f} s computing, peak so far {peak:5.2f} GB".format(
            name, **row), flush=True)

    def say(self, sentence: str, **numbers) -> None:
        self.numbers |= numbers
        print(sentence, flush=True)


def check_files(report: Report, D: nn.Module, vae: nn.Module, folder: Path) -> None:
    """Every tensor against its file. Raises SystemExit where something is not as in the files."""
    found, counts = [], {}
    for part, module in parts_of(D, vae).items():
        found += [f"{part}: {sentence}" for sentence in differences(module, folder / part)]
        tensors = stored(folder / part).values()
        counts[part] = {"names": len(tensors), "parameters": sum(v.numel() for v in tensors)}
    if found:
        raise SystemExit("\n".join(found[:10]))
    rows = [f"{c['names']} tensors of {part} ({c['parameters']:,} parameters)"
            for part, c in counts.items()]
    report.say(f"every name mapped, every value that of its file: {', '.join(rows)}", files=counts)


def run_latents(
    report: Report, D: nn.Module, vae: nn.Module, sides: list[int]
) -> tuple[Tensor, Tensor]:
    """A step and a picture of each size of latents; the first size's are returned."""
    results = []
    for side in sides:
        with report.stage(f"one step, latent {side} x {side}"):
            z = one_step(D, noise(D, side))
        with report.stage(f"picture, {side * vae.factor} x {side * vae.factor} pixels"):
            picture = vae.to_images(z)
        results.append((z, picture))
        count = multiply_adds(D, vae, side)
        report.say(
            f"    {count['unet'] / 1e9:,.1f} billion multiply-adds in the U-Net, "
            f"{count['decoder'] / 1e9:,.1f} in the decoder; the picture's standard deviation is "
            f"{picture.std():.3f}",
            **{f"multiply_adds_{side}": count},
        )
        if not (z.isfinite().all() and picture.isfinite().all()):
            raise SystemExit(f"with latents of {side} x {side} the numbers are not finite")
    return results[0]


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    """Everything, in a folder that is still empty: what was measured."""
    report = Report()
    report.say(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    unet = CONFIGS["unet"] | ({} if arguments.middle else {"mid_block_type": None})
    options = {name: getattr(arguments, name) for name in ("attention", "position_ids", "shards")}
    with report.stage("write the folder"):
        write_folder(folder, CONFIGS | {"unet": unet}, **options)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9
    report.say(f"    {size:.2f} GB", gigabytes=size, options=options)
    with report.stage("load in float32"):
        D, vae = load_published(folder, "cpu")
    with report.stage("compare with the files"):
        check_files(report, D, vae, folder)
    x = noise(D, arguments.latents[0])
    z, picture = run_latents(report, D, vae, arguments.latents)
    if arguments.against_diffusers:
        del D, vae
        with report.stage("the same by diffusers"):
            wanted = step_of_diffusers(folder, x)
        far = off(z, wanted[0]), off(picture, wanted[1])
        report.say(
            f"    largest difference, in standard deviations: latent {far[0]:.1e}, picture "
            f"{far[1]:.1e}",
            latent_off=far[0],
            picture_off=far[1],
        )
    return report.numbers | {"peak": peak_gigabytes()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--attention", choices=("old", "new"), default="old")
    parser.add_argument("--position-ids", action=flag, default=True)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--middle", action=flag, default=True)
    parser.add_argument("--latents", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--against-diffusers", action="store_true")
    parser.add_argument("--folder", type=Path, help="a new folder, which stays")
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        numbers = measure(folder, arguments)
    if arguments.json:
        write_json(arguments.json, numbers)


if __name__ == "__main__":
    main()
