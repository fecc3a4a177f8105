"""From a request to pictures: lesson 4's samplers, lesson 5's guidance and editing, on latents."""
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import validate
from ..denoiser import Denoiser
from ..editing import inpaint
from ..guidance import Denoise, as_wrapper, cfg, clip
from ..lab import noun_parts, train
from ..lab.evaluation.sampling import SAMPLERS
from ..lab.training.device import autocast
from ..lab.training.parts import load_inpainting
from ..lab.training.published import load_published
from ..networks.stable_diffusion.inpainting import extra_channels
from ..networks.stable_diffusion.tokenizer import BytePairTokenizer
from ..networks.vae import AutoencoderKL
from ..samplers import last, timesteps
from .pictures import write_png
from .refusal import Refused
from .request import Request

See = Callable[[int, Callable[[], bytes]], None]


class Painter:
    """A text-to-image model that draws what a Request asks for, one request at a time.

    D:         a denoiser whose network reads captions (`net.tokenizer`, `net.encode`)
    vae:       of a D that was trained on its latents; None: D draws pixels
    name:      what the files say of the model
    watermark: the hook for a mark in the noise that pictures start from, in place of torch.randn: a
               function (shape, nonces, generator) -> noise, such as
               lambda *args: marked_noise(args[0], key, args[1], generator=args[2])
               nonces: (n,) int64, one for each picture, from the seed; None: no mark
    inpainter: a denoiser that was trained to inpaint beside D (`load_inpainting`); None: D inpaints
               by lesson 5's replacement of what is known

    size: (height, width) of its pictures, in pixels; example: a prompt that it knows, or "".
    Raises TypeError or ValueError for a D without a tokenizer or a data_shape, for pictures that
    are not in colour, and another watermark.
    """

    def __init__(
        self,
        D: Denoiser,
        vae: AutoencoderKL | None = None,
        name: str = "model",
        watermark: Callable[..., Tensor] | None = None,
        inpainter: Denoiser | None = None,
    ):
        validate.instance(D, Denoiser, "D", "train.load('nouns_latent')")
        if not hasattr(D.net, "tokenizer") or D.data_shape is None:
            raise ValueError("D must read captions and know its data_shape, as 'nouns_latent' does")
        if watermark is not None:
            validate.function(watermark, "watermark", "(shape, nonces, generator) -> noise")
        if inpainter is not None:
            validate.instance(inpainter, Denoiser, "inpainter", "load_inpainting(...)")
        channels = D.data_shape[0] if vae is None else vae.channels
        if channels != 3:
            raise ValueError(f"the pictures must have 3 channels, red, green, blue; got {channels}")
        self.D = D
        self.vae = vae
        self.name = str(name)
        self.watermark = watermark
        self.inpainter = inpainter
        self.example = _example(D)
        self.factor = 1 if vae is None else vae.factor
        self.size = tuple(self.factor * side for side in D.data_shape[1:])
        self.device = next(D.parameters()).device

    @classmethod
    def load(cls, model: str, device: torch.device | str | None = None, **options) -> "Painter":
        """A checkpoint of the course by its name, with the autoencoder that its configuration
        names; or a published Stable Diffusion by its folder.

        Raises what `train.load` and `load_published` raise.
        """
        if Path(model).is_dir():
            D, vae = load_published(model, device)
        else:
            D = train.load(model, device)
            latents = _latents(D)
            vae = None if latents is None else train.load(latents, device)
            if model == "mini_sd":
                options = {"inpainter": load_inpainting("mini_sd_inpaint", D)} | options
        return cls(D, vae, Path(model).name, **options)

    def prepare(self, request: Request) -> None:
        """Raises Refused for what this model cannot do: a prompt of too many tokens, a sampler that
        cannot start in the middle.
        """
        for text in (request.prompt, request.negative_prompt):
            self._validate_length(text)
        ts = self._timesteps(request)
        if request.strength is not None and ts[0] > request.strength + 1e-6:
            raise Refused(
                422,
                f"the sampler {request.sampler!r} starts at t = {ts[0]:g} and cannot change a "
                "picture by less: take another one",
            )

    def _validate_length(self, text: str) -> None:
        tokenizer = self.D.net.tokenizer
        ends = 2 if isinstance(tokenizer, BytePairTokenizer) else 0     # its start and end
        tokens, most = len(tokenizer.split(text)), tokenizer.length - ends
        if tokens > most:
            raise Refused(422, f"this model reads {most} tokens; this prompt has {tokens}")

    def unknown_words(self, request: Request) -> list[str]:
        """The words of the prompt that the model's vocabulary does not have."""
        tokenizer = self.D.net.tokenizer
        return tokenizer.unknown(request.prompt) if hasattr(tokenizer, "unknown") else []

    @torch.no_grad()
    def paint(self, request: Request, see: See = lambda step, preview: None) -> list[bytes]:
        """PNG files of the pictures, with the settings in their text chunks.

        see: called as see(step, preview) after each prediction; step counts from 1, and preview()
             makes a PNG of the prediction of x0 (of the first picture). What it raises ends the
             work.
        The same request gives the same pictures, whatever else is drawn.
        """
        generator = torch.Generator().manual_seed(request.seed)
        config, ts = SAMPLERS[request.sampler], self._timesteps(request)
        noise = self._noise(request, generator)
        known = self._known(request)

        def show(x0_hat: Tensor, t: Tensor) -> None:
            step = min(1 + int((ts > t).sum()), request.steps)
            see(step, partial(self._preview, request, x0_hat))
        with autocast(self.device):
            condition, guided = self._guided(request, known)
            x = self._start(noise.to(self.device), known, ts)
            options = {"generator": generator, **config.options, **condition}
            x = last(config.sampler(watch(guided, show), self.D.schedule, x, ts, **options))
            pixels = self._pixels(x, request)
        return [write_png(of, self._settings(request, k)) for k, of in enumerate(pixels, 1)]

    def _noise(self, request: Request, generator: torch.Generator) -> Tensor:
        shape = (request.pictures, *self.D.data_shape)
        if self.watermark is None:
            return torch.randn(shape, generator=generator)
        return self.watermark(shape, _nonces(request), generator)

    def _timesteps(self, request: Request) -> Tensor:
        spacing = SAMPLERS[request.sampler].spacing
        start = 1.0 if request.strength is None else request.strength
        return timesteps(self.D.schedule, request.steps, spacing, start)

    def condition(self, text: str, n: int) -> dict[str, Tensor]:
        """The text as the network's condition, for n pictures. A tokenizer warns of words that it
        does not know, and warnings are printed: a prompt must not be.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens = self.D.net.tokenizer(text)
        return self.D.net.encode(tokens.to(self.device), n)

    def _known(self, request: Request) -> Tensor | None:
        """The picture that is to be changed, as the denoiser sees it: (1, C, h, w)."""
        if request.picture is None:
            return None
        return self.seen(request.picture)

    def seen(self, pixels: np.ndarray) -> Tensor:
        """Pixels (H, W, 3) uint8 as the denoiser sees them: (1, C, h, w)."""
        x = self._scaled(pixels)
        return x if self.vae is None else self.vae.to_latents(x)

    def _scaled(self, pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        return (x.float() / 127.5 - 1).to(self.device)

    def _guided(self, request: Request, known: Tensor | None) -> tuple[dict[str, Tensor], Denoise]:
        """The prompt's condition, and D with guidance and, where there is a mask, inpainting."""
        condition = self.condition(request.prompt, request.pictures)
        by_channels = request.mask is not None and self.inpainter is not None
        guided: Denoise = self.inpainter if by_channels else self.D
        if request.guidance != 1:
            null = self.condition(request.negative_prompt, request.pictures)
            guided = cfg(guided, request.guidance, null)
        guided = clip(guided) if self.vae is None else guided
        if request.mask is None:
            return condition, guided
        mask = torch.from_numpy(request.mask).float()[None, None].to(self.device)
        if by_channels:                                     # (7.19): mask and masked picture
            extra = extra_channels(self.vae, self._scaled(request.picture), mask)
            return condition | {"extra": extra.expand(request.pictures, -1, -1, -1)}, guided
        return condition, inpaint(guided, known, F.max_pool2d(mask, self.factor))

    def _start(self, noise: Tensor, known: Tensor | None, ts: Tensor) -> Tensor:
        """x at ts[0]: noise, or the picture with noise (SDEdit, lesson 5)."""
        if known is None:
            return self.D.schedule.sigma(ts[0]).float().to(noise) * noise
        return self.D.schedule.perturb(known, ts[0], noise)

    def _pixels(self, x: Tensor, request: Request) -> np.ndarray:
        """Samples (n, C, h, w) as pixels (n, H, W, 3) uint8. What is known is pasted back: a
        decoder changes every pixel a little.
        """
        x = x if self.vae is None else self.vae.to_images(x)
        x = (x.float().clamp(-1, 1) + 1) * 127.5
        pixels = x.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        if request.mask is None:
            return pixels
        return np.where(request.mask[:, :, None], pixels, request.picture)

    def _preview(self, request: Request, x0_hat: Tensor) -> bytes:
        return write_png(self._pixels(x0_hat[:1], request)[0], {})

    def _settings(self, request: Request, k: int) -> dict[str, Any]:
        mark = {} if self.watermark is None else {"nonce": _nonces(request)[k - 1].item()}
        return {"model": self.name, **request.settings(), "picture": k, **mark}


def _latents(D: Denoiser) -> str | None:
    """The name of the autoencoder whose latents D draws. mini_sd comes from a recipe and has no
    configuration; only one of the course's autoencoders has 8 channels.
    """
    usual = "nouns_vae" if D.data_shape is not None and D.data_shape[0] == 8 else None
    return D.about.get("config", {}).get("latents", usual)


def _example(D: Denoiser) -> str:
    """A caption of the course's pixel figures, where D was trained on them."""
    if getattr(D, "about", {}).get("data") != "nouns":
        return ""
    return noun_parts.plain_captions(noun_parts.draw_parts(12, seed=11, split="test"))[8]


def _nonces(request: Request) -> Tensor:
    """A number for each picture, as new as the seed: (n,) int64."""
    return request.seed * 2**16 + torch.arange(request.pictures)


def watch(D: Denoise, see: Callable[[Tensor, Tensor], None]) -> Denoise:
    """D, each of whose predictions is shown: see(x0_hat, t)."""
    validate.function(see, "see", "(x0_hat, t) -> None")

    def watched(x: Tensor, t: Tensor, **condition) -> Tensor:
        x0_hat = D(x, t, **condition)
        see(x0_hat, t)
        return x0_hat
    return as_wrapper(watched, D)
