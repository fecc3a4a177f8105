"""Stable Diffusion 3's transformer: lesson 6's joint blocks under its own conventions.

What differs from `MMDiT`: the time is 1000 t and its embedding has cosines first; a pooled vector
of the text comes from outside; the position table is in the file; epsilons are 1e-6; nothing is
masked. (Esser et al. 2024)
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ..dit import DiT, JointBlock
from ..layers import _require
from .unet import StepEmbedding

# of a joint block: our layer -> the published ones
BLOCK = {
    "image.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "image.proj": ("attn.to_out.0",),
    "image.emb": ("norm1.linear",),
    "image.mlp.0": ("ff.net.0.proj",),
    "image.mlp.2": ("ff.net.2",),
    "text.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "text.proj": ("attn.to_add_out",),
    "text.emb": ("norm1_context.linear",),
    "text.mlp.0": ("ff_context.net.0.proj",),
    "text.mlp.2": ("ff_context.net.2",),
}
NORMS = {
    "q_norms.0": "attn.norm_q",
    "q_norms.1": "attn.norm_added_q",
    "k_norms.0": "attn.norm_k",
    "k_norms.1": "attn.norm_added_k",
}
UNREAD = ("text.proj", "text.mlp.0", "text.mlp.2")          # of the last block: nobody reads them
ENDS = {
    "stem": "pos_embed.proj",
    "context_proj": "context_embedder",
    "time.1": "time_text_embed.timestep_embedder.linear_1",
    "time.3": "time_text_embed.timestep_embedder.linear_2",
    "pool_proj.0": "time_text_embed.text_embedder.linear_1",
    "pool_proj.2": "time_text_embed.text_embedder.linear_2",
    "final": "norm_out.linear",
    "out": "proj_out",
}
TABLE = "pos_embed.pos_embed"


class SD3Transformer(DiT):
    """The transformer of a configuration as Stable Diffusion 3 publishes it, weights not loaded.

    config: num_attention_heads, attention_head_dim, num_layers, sample_size, patch_size,
            in_channels, joint_attention_dim, pooled_projection_dim, pos_embed_max_size; qk_norm
            None or "rms_norm"

    net(x, t, context, pooled): latents x (B, C, H, W), t (B,) in [0, 1], context (B, L, text
    vectors), pooled (B, one text vector) -> the velocity eps - x0, like x
    Raises TypeError or ValueError for other configurations and inputs; Stable Diffusion 3.5's
    second attention is not built.
    """

    Block = JointBlock

    def __init__(self, config: dict):
        heads, dim = _validate_config(config)
        super().__init__(
            config["in_channels"],
            config["sample_size"],
            patch_size=config["patch_size"],
            dim=dim,
            depth=config["num_layers"],
            num_heads=heads,
        )
        self.published = dict(config)
        text, summary = config["joint_attention_dim"], config["pooled_projection_dim"]
        self.time = nn.Sequential(
            StepEmbedding(256), nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.pool_proj = nn.Sequential(nn.Linear(summary, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.context_proj = nn.Linear(text, dim)
        for block in self.blocks if config.get("qk_norm") is None else ():
            block.q_norms = nn.ModuleList([nn.Identity(), nn.Identity()])
            block.k_norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        for module in self.modules():
            if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                module.eps = 1e-6

    def forward(self, x: Tensor, t: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
        x = validate.real(x)
        _require("this network takes latents", x, "B", self.channels, self.size, self.size)
        _validate_vectors(context, "context", 3, self.context_proj.in_features, x)
        _validate_vectors(pooled, "pooled", 2, self.pool_proj[0].in_features, x)
        t = validate.time(t, x).expand(len(x))
        emb = F.silu(self.time(1000 * t.to(x.dtype)) + self.pool_proj(pooled))       # (B, dim)
        h, c = self._tokens(x), self.context_proj(context)  # (B, N, dim), (B, L, dim)
        mask = torch.ones(c.shape[:2], dtype=torch.bool, device=x.device)
        for block in self.blocks:
            h, c = block(h, c, emb, mask)
        return self._image(h, emb)


def names_of(net: SD3Transformer) -> dict[str, tuple[str, ...]]:
    """For each tensor of ours that a file has: the published names, three for qkv."""
    validate.instance(net, SD3Transformer, "net", "SD3Transformer(config)")
    layers = {ours: (theirs,) for ours, theirs in ENDS.items()}
    last = len(net.blocks) - 1
    for k in range(last + 1):
        at = f"transformer_blocks.{k}."
        for ours, theirs in BLOCK.items():
            if k < last or ours not in UNREAD:
                layers[f"blocks.{k}.{ours}"] = tuple(at + name for name in theirs)
    names = {
        f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs)
        for ours, theirs in layers.items() for kind in ("weight", "bias")
    }
    for k in range(last + 1) if net.published.get("qk_norm") else ():
        for ours, theirs in NORMS.items():
            names[f"blocks.{k}.{ours}.weight"] = (f"transformer_blocks.{k}.{theirs}.weight",)
    return names


def from_published(config: dict, tensors: dict[str, Tensor]) -> SD3Transformer:
    """Our network with the tensors of a published file; the two that have another order are turned.

    Raises ValueError for missing, unknown and misshapen tensors, at most ten of them by name.
    """
    net = SD3Transformer(config)
    validate.instance(tensors, dict, "tensors", '{"proj_out.weight": ...}')
    names = names_of(net)
    used = {part for parts in names.values() for part in parts} | {TABLE}
    problems = [f"missing {name}" for name in sorted(used - tensors.keys())]
    problems += [f"not known {name}" for name in sorted(tensors.keys() - used)]
    _raise_for(problems)
    state = net.state_dict()
    unread = [f"blocks.{len(net.blocks) - 1}.{layer}." for layer in UNREAD]
    for name, value in state.items():
        if name.startswith(tuple(unread)):
            state[name] = torch.zeros_like(value, dtype=tensors["proj_out.weight"].dtype)
            continue
        found = _turned(net, name, torch.cat([tensors[part] for part in names[name]]))
        if found.shape != value.shape:
            problems.append(f"{names[name][0]} does not have {tuple(value.shape)} numbers")
        state[name] = found
    _raise_for(problems)
    net.load_state_dict(state, assign=True)
    net.positions = _middle(tensors[TABLE], net.size // net.patch_size)
    return net


def _turned(net: SD3Transformer, name: str, value: Tensor) -> Tensor:
    """A published tensor in the order of ours."""
    layer, kind = name.rsplit(".", 1)
    if name == "stem.weight":                               # a convolution of patches
        return value.flatten(1)
    if layer == "final":                                    # scale, shift
        return value.roll(len(value) // 2, 0)
    if layer == f"blocks.{len(net.blocks) - 1}.text.emb":   # scale, shift, and no more
        shift_scale = value.roll(len(value) // 2, 0)
        zeros = torch.zeros_like(shift_scale)
        return torch.cat([shift_scale, zeros, zeros])
    if layer == "out":                                      # pixels first; ours: channels first
        rows = value.unflatten(0, (net.patch_size**2, -1))
        return rows.transpose(0, 1).flatten(0, 1)
    return value


def _middle(table: Tensor, side: int) -> Tensor:
    """The middle side x side of the stored position table (1, S * S, dim): (side * side, dim)."""
    whole = round(table.shape[1] ** 0.5)
    first = (whole - side) // 2
    square = table.view(whole, whole, -1)[first : first + side, first : first + side]
    return square.flatten(0, 1)


def _raise_for(problems: list[str]) -> None:
    if problems:
        more = f", and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(
            f"the file does not fit its configuration: {'; '.join(problems[:10])}{more}"
        )


def _validate_config(config: dict) -> tuple[int, int]:
    """(heads, dim). Raises TypeError or ValueError for what is no Stable Diffusion 3."""
    validate.instance(config, dict, "config", '{"num_layers": 24, ...}')
    needed = (
        "num_attention_heads", "attention_head_dim", "num_layers", "sample_size", "patch_size",
        "in_channels", "joint_attention_dim", "pooled_projection_dim", "pos_embed_max_size",
    )                                                                                # fmt: skip
    missing = [name for name in needed if name not in config]
    if missing:
        raise ValueError(f"the configuration has no {missing[0]}")
    for name in needed:
        validate.whole(config[name], name)
    if config.get("dual_attention_layers"):
        raise ValueError("blocks with a second attention (Stable Diffusion 3.5) are not built")
    if config.get("qk_norm") not in (None, "rms_norm"):
        raise ValueError(f"qk_norm is None or 'rms_norm'; got {config['qk_norm']!r}")
    heads = config["num_attention_heads"]
    dim = heads * config["attention_head_dim"]
    for name, wanted in (("out_channels", config["in_channels"]), ("caption_projection_dim", dim)):
        if config.get(name, wanted) != wanted:
            raise ValueError(f"{name} must be {wanted}; got {config[name]}")
    if config["sample_size"] > config["patch_size"] * config["pos_embed_max_size"]:
        raise ValueError("the position table is smaller than a picture of sample_size")
    return heads, dim


def _validate_vectors(x: Tensor, name: str, ndim: int, last: int, like: Tensor) -> None:
    """Vectors of the text: ndim axes, `last` numbers each, for the batch of `like`."""
    x = validate.real(x, name)
    if x.ndim != ndim or len(x) != len(like) or x.shape[-1] != last:
        wanted = ", ".join([f"{len(like)}", *["L"] * (ndim - 2), f"{last}"])
        raise ValueError(f"{name} must be ({wanted}); got {tuple(x.shape)}")
