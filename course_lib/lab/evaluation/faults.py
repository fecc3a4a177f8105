"""The faults of public Stable Diffusion implementations, planted one at a time.

A fault takes a copy of the model, a `Parts`, and breaks one thing in it. `board` says how far each
one is from the right model: in the network's prediction, in a picture's latent, and in the picture
that is drawn.
"""
import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...guidance import cfg
from ...networks.stable_diffusion.text_encoder import ClipLayer, ClipTextEncoder
from ...networks.stable_diffusion.unet import GEGLU, Attention, SpatialTransformer, StepBlock
from ...networks.vae import AutoencoderKL, Downsample
from ...samplers import ddim, last, timesteps


class Parts:
    """A model that can be broken: the denoiser, its autoencoder, and how it is sampled."""

    def __init__(self, D: Denoiser, vae: AutoencoderKL):
        self.D = copy.deepcopy(D)
        self.vae = copy.deepcopy(vae)
        self.ts = timesteps
        self.round_trip = False             # its picture is encoded and decoded once
        self.tokenizer = self.D.net.tokenizer

    def each(self, kind: type[nn.Module]) -> list[nn.Module]:
        """All modules of this kind in the network."""
        return [module for module in self.D.net.modules() if isinstance(module, kind)]


class Found(NamedTuple):
    """How far a fault is from the right model, in its standard deviations, and its pictures."""
    prediction: float
    latent: float
    picture: float
    x: Tensor


def _another_order(parts: Parts) -> None:
    """No fault: the hidden numbers of each MLP in another order, so that sums are rounded anew."""
    for module in parts.each(GEGLU):
        hidden = module.out.in_features
        order = torch.randperm(hidden, generator=torch.Generator().manual_seed(0))
        both = torch.cat([order, order + hidden])
        module.proj.weight.data = module.proj.weight.data[both]
        module.proj.bias.data = module.proj.bias.data[both]
        module.out.weight.data = module.out.weight.data[:, order]


def _epsilon(parts: Parts) -> None:
    for module in parts.each(SpatialTransformer):
        module.norm.eps = 1e-5


def _activation(parts: Parts) -> None:
    for layer in parts.each(ClipLayer):
        layer.activation = F.gelu if layer.activation is not F.gelu else F.silu


def _text_layer(parts: Parts) -> None:
    parts.D.net.text.layers = parts.D.net.text.layers[:-1]


def _no_final_norm(parts: Parts) -> None:
    parts.D.net.text.norm = nn.Identity()


def _padding(parts: Parts) -> None:
    parts.tokenizer.pad = next(iter(parts.tokenizer.vocabulary))
    parts.D.net.null = {"tokens": parts.tokenizer("")}


def _no_causal_mask(parts: Parts) -> None:
    def forward(self, tokens):
        L = tokens.shape[1]
        h = self.token_embedding(tokens) + self.position_embedding[:L]
        everything = torch.ones(L, L, dtype=torch.bool, device=h.device)
        for layer in self.layers:
            h = layer(h, everything)
        return self.norm(h)
    _replace(parts.D.net.text, forward)


def _heads(parts: Parts) -> None:
    for module in parts.each(Attention):
        module.num_heads = module.q.out_features // module.num_heads


def _gate(parts: Parts) -> None:
    def forward(self, x):
        gate, h = self.proj(x).chunk(2, dim=-1)
        return self.out(h * F.gelu(gate))
    for module in parts.each(GEGLU):
        _replace(module, forward)


def _sines_first(parts: Parts) -> None:
    right = parts.D.net.unet.time[0].forward
    parts.D.net.unet.time[0].forward = lambda step: torch.cat(right(step).chunk(2, 1)[::-1], 1)


def _frequency(parts: Parts) -> None:
    def forward(self, step):
        half = self.dim // 2
        k = torch.arange(half, dtype=torch.float32, device=step.device)
        angles = step.float()[:, None] * torch.exp(-math.log(10_000) * k / (half - 1))
        return torch.cat([angles.cos(), angles.sin()], dim=1).to(step.dtype)
    _replace(parts.D.net.unet.time[0], forward)


def _step_off(parts: Parts) -> None:
    right = parts.D.net.unet.forward
    parts.D.net.unet.forward = lambda x, step, *more: right(x, step + 1, *more)


def _affines(parts: Parts) -> None:
    for module in parts.each(StepBlock):
        if module.norm1.num_channels == module.norm2.num_channels:
            first = module.norm1
            module.norm1 = module.norm2
            module.norm2 = first


def _no_scale(parts: Parts) -> None:
    parts.vae.scale = torch.ones_like(parts.vae.scale)


def _no_post_quant(parts: Parts) -> None:
    parts.vae.post_quant = nn.Identity()


def _symmetric_padding(parts: Parts) -> None:
    """The encoder's strided convolutions with a border on all sides, as lesson 2's have it."""
    for module in parts.vae.encoder.modules():
        if isinstance(module, Downsample):
            module.conv.padding = (1, 1)
            module.forward = module.conv.forward
    parts.round_trip = True


def _other_target(parts: Parts) -> None:
    D = parts.D
    other = "eps" if D.target == "v" else "v"
    parts.D = Denoiser(D.net, D.schedule, other)
    parts.D.data_shape = D.data_shape


def _leading(parts: Parts) -> None:
    parts.ts = lambda schedule, n: timesteps(schedule, n, leading)


def _middle_twice(parts: Parts) -> None:
    blocks = parts.D.net.unet.middle.blocks
    blocks[1] = blocks[0]


FAULTS: dict[str, Callable[[Parts], None]] = {
    "norm epsilon 1e-5 before transformers": _epsilon,
    "another GELU in the text encoder": _activation,
    "one text layer too many left out": _text_layer,
    "no final norm of the text": _no_final_norm,
    "another padding token": _padding,
    "text not causal": _no_causal_mask,
    "head count taken for head size": _heads,
    "GEGLU halves swapped": _gate,
    "sines before cosines": _sines_first,
    "frequency shift 1": _frequency,
    "step one too high": _step_off,
    "two norms' affines swapped": _affines,
    "middle: the first block twice": _middle_twice,
    "v taken for eps, or eps for v": _other_target,
    "latents not scaled back": _no_scale,
    "encoder padded on both sides": _symmetric_padding,
    "no convolution before the decoder": _no_post_quant,
    "leading grid": _leading,
}


def leading(schedule, start: float, n: int) -> Tensor:
    """The published pipeline's times: the first step of each of n parts, plus one: (n,) falling.

    A spacing for `timesteps`. Raises ValueError for a schedule without steps.
    """
    if schedule.T is None:
        raise ValueError("a leading grid is for schedules of T steps, such as scaled_linear")
    steps = torch.arange(n - 1, -1, -1, dtype=torch.float64) * (schedule.T // n) + 1
    return start * (steps + 1) / schedule.T


NO_FAULT = "no fault, sums in another order"


def board(
    D: Denoiser, vae: AutoencoderKL, texts: list[str], scale: float = 2.0, steps: int = 10,
    seed: int = 0,
) -> dict[str, Found]:
    """Each fault of a StableDiffusionNet: {name: Found}; first the right model, with the hidden
    numbers of its MLPs in another order.

    In the precision of the weights: in float64 a right reimplementation is below 1e-12. prediction:
    of the network for pure noise, called noise of t = 0.6; latent: what the encoder makes of the
    right model's pictures; picture: after `steps` steps of DDIM, or, of a fault in the encoder, a
    right picture that was encoded and decoded
    Raises TypeError for a network of another kind.
    """
    if not isinstance(getattr(D.net, "text", None), ClipTextEncoder):
        raise TypeError("D.net must be a StableDiffusionNet")
    texts = validate.strings(texts, "texts")
    right = Parts(D, vae)
    prediction = _predict(right, texts, seed)
    x = _draw(right, texts, scale, steps, seed)
    z = right.vae.to_latents(x)
    again = right.vae.to_images(z)
    found = {}
    for name, plant in ({NO_FAULT: _another_order} | FAULTS).items():
        parts = Parts(D, vae)
        plant(parts)
        latent = parts.vae.to_latents(x)
        if parts.round_trip:
            drawn, wanted = parts.vae.to_images(latent), again
        else:
            drawn, wanted = _draw(parts, texts, scale, steps, seed), x
        off = _off(_predict(parts, texts, seed), prediction)
        found[name] = Found(off, _off(latent, z), _off(drawn, wanted), drawn)
    return found


@torch.no_grad()
def _predict(parts: Parts, texts: list[str], seed: int) -> Tensor:
    """The network's prediction for pure noise, called noise of t = 0.6: (B, c, h, w)"""
    context = parts.D.net.encode(parts.tokenizer(texts), len(texts))
    return parts.D(_noise(parts, len(texts), seed), 0.6, **context)


@torch.no_grad()
def _draw(parts: Parts, texts: list[str], scale: float, steps: int, seed: int) -> Tensor:
    """A picture for each text by DDIM: (B, C, H, W)"""
    net, B = parts.D.net, len(texts)
    context = net.encode(parts.tokenizer(texts), B)
    guided = cfg(parts.D, scale, net.encode(net.null["tokens"], B))
    z = _noise(parts, B, seed)
    ts = parts.ts(parts.D.schedule, steps)
    return parts.vae.to_images(last(ddim(guided, parts.D.schedule, z, ts, **context)))


def _noise(parts: Parts, B: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn((B, *parts.D.data_shape), generator=g, dtype=torch.float64)
    return z.to(next(parts.D.net.parameters()))


def _off(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.std()).item()


def _replace(module: nn.Module, forward: Callable) -> None:
    module.forward = forward.__get__(module)
