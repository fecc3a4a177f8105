"""The published files' names and shapes for our modules.

Each function gives, for every tensor of a module's state, the published tensors that it is made of:
one, or three where ours has queries, keys and values in one matrix. `to_ours` and `to_published`
convert whole states.
"""
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..vae import AutoencoderKL, ConvBlock, Downsample
from .text_encoder import ClipTextEncoder
from .unet import StableDiffusionUNet

Names = dict[str, list[str]]                                # ours -> published

UNET = [
    (r"^stem", "conv_in"),
    (r"^out", "conv_out"),
    (r"^norm\b", "conv_norm_out"),
    (r"^time\.1", "time_embedding.linear_1"),
    (r"^time\.3", "time_embedding.linear_2"),
    (r"^down\.", "down_blocks."),
    (r"^up\.", "up_blocks."),
    (r"^middle", "mid_block"),
    (r"(down_blocks\.\d+)\.resample", r"\1.downsamplers.0.conv"),
    (r"(up_blocks\.\d+)\.resample", r"\1.upsamplers.0"),
    (r"\.blocks\.", ".resnets."),
    (r"\.emb\b", ".time_emb_proj"),
    (r"\.shortcut", ".conv_shortcut"),
    (r"\.transformers\.(\d+)\.(norm\b|proj_)", r".attentions.\1.\2"),
    (r"\.transformers\.(\d+)\.", r".attentions.\1.transformer_blocks.0."),
    (r"self_attention", "attn1"),
    (r"cross_attention", "attn2"),
    (r"\.(q|k|v)\.", r".to_\1."),
    (r"(attn\d)\.out", r"\1.to_out.0"),
    (r"mlp\.proj", "ff.net.0.proj"),
    (r"mlp\.out", "ff.net.2"),
]
TEXT = [
    (r"^token_embedding", "embeddings.token_embedding"),
    (r"^position_embedding", "embeddings.position_embedding.weight"),
    (r"^norm", "final_layer_norm"),
    (r"^layers", "encoder.layers"),
    (r"\.norm(\d)", r".layer_norm\1"),
    (r"\.(q|k|v|out)\.", r".self_attn.\1_proj."),
    (r"\.hidden", ".mlp.fc1"),
    (r"\.proj", ".mlp.fc2"),
    (r"^", "text_model."),
]
# what older files call the autoencoder's attention
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def names_of(module: nn.Module) -> Names:
    """The published names of each tensor of a StableDiffusionUNet, ClipTextEncoder or
    AutoencoderKL. Raises TypeError for another module.
    """
    if isinstance(module, StableDiffusionUNet):
        return {name: [unet_name(name)] for name in module.state_dict()}
    if isinstance(module, ClipTextEncoder):
        return {name: [_renamed(name, TEXT)] for name in module.state_dict()}
    if isinstance(module, AutoencoderKL):
        return _autoencoder_names(module)
    raise TypeError(f"no published layout is known for a {type(module).__name__}")


def unet_name(name: str) -> str:
    """The published name of a StableDiffusionUNet's tensor, or of one of its layers, which ends in
    a dot: "stem.weight" -> "conv_in.weight".
    """
    return _renamed(name, UNET)


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for ours, published in rules:
        name = re.sub(ours, published, name)
    return name


def _autoencoder_names(vae: AutoencoderKL) -> Names:
    prefixes = {
        "quant": "quant_conv",
        "post_quant": "post_quant_conv",
        "encoder.stem": "encoder.conv_in",
        "decoder.stem": "decoder.conv_in",
    }
    for part in ("encoder", "decoder"):
        prefixes[f"{part}.norm"] = f"{part}.conv_norm_out"
        prefixes[f"{part}.out"] = f"{part}.conv_out"
        prefixes[f"{part}.middle.0"] = f"{part}.mid_block.resnets.0"
        prefixes[f"{part}.middle.1"] = f"{part}.mid_block.attentions.0"
        prefixes[f"{part}.middle.2"] = f"{part}.mid_block.resnets.1"
    for part, layers in (("encoder.down", vae.encoder.down), ("decoder.up", vae.decoder.up)):
        level = block = 0
        for k, layer in enumerate(layers):
            if isinstance(layer, ConvBlock):
                prefixes[f"{part}.{k}"] = f"{part}_blocks.{level}.resnets.{block}"
                block += 1
                continue
            kind = "downsamplers" if isinstance(layer, Downsample) else "upsamplers"
            prefixes[f"{part}.{k}"] = f"{part}_blocks.{level}.{kind}.0"
            level, block = level + 1, 0
    names = {}
    for name in vae.state_dict():
        if name in ("shift", "scale"):                      # numbers of the configuration
            continue
        prefix = max((p for p in prefixes if name.startswith(p + ".")), key=len)
        rest = name.removeprefix(prefix).replace(".shortcut", ".conv_shortcut")
        names[name] = [prefixes[prefix] + part for part in _attention_names(rest, prefix)]
    return names


def _attention_names(rest: str, prefix: str) -> list[str]:
    """Of the middle's attention, whose queries, keys and values are one matrix in ours."""
    if not prefix.endswith("middle.1"):
        return [rest]
    if ".qkv" in rest:
        return [rest.replace(".qkv", f".to_{part}") for part in "qkv"]
    return [rest.replace(".norm", ".group_norm").replace(".proj", ".to_out.0")]


# ---- whole states

def to_ours(module: nn.Module, published: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state as the state of our module, which has the same sizes.

    Raises ValueError for missing, extra and misshapen tensors, at most ten of them by name.
    """
    published = {_modern(name): value for name, value in published.items()}
    if isinstance(module, ClipTextEncoder) and not any("text_model" in k for k in published):
        published = {f"text_model.{name}": value for name, value in published.items()}
    names, wanted = names_of(module), module.state_dict()
    used = {part for parts in names.values() for part in parts}
    problems = [f"missing {part}" for part in sorted(used - published.keys())]
    problems += [f"not known {part}" for part in sorted(published.keys() - used)
                 if not part.endswith("position_ids")]
    state = {}
    for name, parts in names.items():
        if not all(part in published for part in parts):
            continue
        first, *others = (published[part] for part in parts)            # one is not copied
        value = torch.cat([first, *others]) if others else first
        if value.squeeze().shape == wanted[name].squeeze().shape:       # linear as 1x1 convolution
            value = value.reshape(wanted[name].shape)
        if value.shape != wanted[name].shape:
            got, asked = tuple(value.shape), tuple(wanted[name].shape)
            problems.append(f"{parts[0]} is {got}, and the configuration asks for {asked}")
        state[name] = value
    if problems:
        more = f", and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"the file does not fit its configuration: {'; '.join(problems[:10])}{more}"
        )
    return state


def to_published(module: nn.Module, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Our state (None: the module's own) in the published layout."""
    state = module.state_dict() if state is None else state
    published = {}
    for name, parts in names_of(module).items():
        for part, value in zip(parts, state[name].chunk(len(parts))):
            published[part] = value.contiguous()
    return published


def _modern(name: str) -> str:
    """A published name as newer files have it."""
    old = re.search(r"attentions\.\d+\.(query|key|value|proj_attn)\.", name)
    return name.replace(old[1], OLD_ATTENTION[old[1]]) if old else name
