"""Tokenizer, text encoder and U-Net as one network: (x, t, tokens) -> a tensor like the latent."""
import torch
from torch import Tensor, nn

from ... import validate
from ..layers import hidden_matrices
from .text_encoder import ClipTextEncoder
from .tokenizer import BytePairTokenizer
from .unet import StableDiffusionUNet


class StableDiffusionNet(nn.Module):
    """Stable Diffusion without its autoencoder: what a `Denoiser` of latents holds.

    unet, text: the arguments of StableDiffusionUNet and ClipTextEncoder, as dicts
    tokenizer:  a BytePairTokenizer, or one's merges, "a b" each, of a code that was learned
    steps:      T of its training: the U-Net counts steps, and t = (i + 1) / T is step i

    net(x, t, tokens): latents x (B, 4, H, W), t (B,) in [0, 1], token ids (B, L) or (1, L). `null`
    is the empty text: guidance leads away from it.
    Raises TypeError or ValueError as its parts do, and where they do not fit together.
    """

    def __init__(
        self, unet: dict, text: dict, tokenizer: BytePairTokenizer | list[str], steps: int = 1000
    ):
        super().__init__()
        self.steps = validate.whole(steps, "steps")
        validate.instance(unet, dict, "unet", '{"widths": (320, 640)}')
        validate.instance(text, dict, "text", '{"dim": 768}')
        self.unet = StableDiffusionUNet(**unet)
        self.text = ClipTextEncoder(**text)
        sizes = self.text.config
        if not isinstance(tokenizer, BytePairTokenizer):
            tokenizer = BytePairTokenizer.from_merges(tokenizer, sizes["length"])
        if len(tokenizer.vocabulary) != sizes["vocabulary"]:
            raise ValueError(
                f"the tokenizer has {len(tokenizer.vocabulary)} tokens, and the text encoder "
                f"{sizes['vocabulary']}"
            )
        if sizes["dim"] != self.unet.config["context_dim"]:
            raise ValueError(
                f"the text encoder's vectors have {sizes['dim']} numbers, and the U-Net reads "
                f"{self.unet.config['context_dim']}"
            )
        self.tokenizer = tokenizer
        merges = [" ".join(pair) for pair in tokenizer.merges]
        self.config = {
            "unet": self.unet.config,
            "text": sizes,
            "tokenizer": merges,
            "steps": steps,
        }
        self.null = {"tokens": tokenizer("")}
        self.control: nn.Module | None = None               # a ControlNet, for `hint`

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | None = None,
        context: Tensor | None = None,
        extra: Tensor | None = None,
        hint: Tensor | None = None,
    ) -> Tensor:
        """x: (B, C, H, W), t: (B,), tokens: (B, L), (1, L), or None for the empty text

        context: the text encoder's output in place of tokens; extra: channels beside x, such as
        mask and masked latent; hint: the picture that `control` follows.
        Raises TypeError or ValueError for inputs of another shape.
        """
        if tokens is not None and context is not None:
            raise ValueError("context stands in place of tokens: pass one of them")
        if context is None:
            context = self.encode(self.null["tokens"] if tokens is None else tokens, len(x))[
                "context"
            ]
        x = x if extra is None else torch.cat([x, _validate_extra(extra, x).to(x)], dim=1)
        step = (self.steps * t - 1).clamp(min=0)
        if hint is not None and self.control is None:
            raise ValueError("this network follows no hint: set net.control to a ControlNet")
        control = None if hint is None else self.control(validate.real(hint, "hint").to(x))
        return self.unet(x, step, context.to(x.dtype), control)

    def encode(self, tokens: Tensor, B: int) -> dict[str, Tensor]:
        """The text encoder's output for a batch of B, as the argument context: once a picture."""
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or len(tokens) not in (1, B):
            raise ValueError(f"tokens must be ({B}, L) or (1, L), as net.tokenizer makes them")
        context = self.text(tokens.to(self.text.position_embedding.device))
        return {"context": context.expand(B, -1, -1)}

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: those of all layers but the first and the last."""
        return hidden_matrices(self, (self.unet.stem, self.unet.out))


def _validate_extra(extra: Tensor, x: Tensor) -> Tensor:
    extra = validate.real(extra, "extra")
    if extra.ndim != 4 or len(extra) != len(x) or extra.shape[2:] != x.shape[2:]:
        raise ValueError(
            f"extra must be channels beside x, {tuple(x.shape)}; got {tuple(extra.shape)}"
        )
    return extra
