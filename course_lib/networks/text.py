"""Text for pictures: words to numbers, numbers to context vectors, and a U-Net that looks at them."""
import re
import warnings

import torch
from torch import Tensor, nn

from .unet import UNet, attention, checked_heads

PAD, UNKNOWN = 0, 1


class Tokenizer:
    """Captions to whole numbers: a fixed list of words, each with its number; 0 is "no word here", 1 a word (or number) that is not in the list.

    words: the vocabulary; length: L, the tokens of every caption, padded with 0.
    """

    def __init__(self, words: list[str], length: int = 32):
        self.words, self.length = ["<none>", "<unknown>", *words], length
        self.number = {word: k for k, word in enumerate(self.words)}

    def split(self, caption: str) -> list[str]:
        """The caption's words: small letters only, so that hyphens, commas and capitals do not matter."""
        return re.findall(r"[^\W_]+", caption.lower())

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that are not in the vocabulary."""
        return [word for word in self.split(caption) if word not in self.number]

    def __call__(self, captions: str | list[str]) -> Tensor:
        """(B, L) int64, for one caption or a list of B. Warns of words it does not know; raises ValueError for a caption that is too long."""
        captions = [captions] if isinstance(captions, str) else captions
        tokens = torch.full((len(captions), self.length), PAD)
        strange = {}
        for row, caption in zip(tokens, captions):
            found = self.split(caption)
            if len(found) > self.length:
                raise ValueError(f"a caption has at most {self.length} words; this one has {len(found)}: shorten it before {' '.join(found[self.length:])!r}")
            strange |= dict.fromkeys(self.unknown(caption))
            row[:len(found)] = torch.tensor([self.number.get(word, UNKNOWN) for word in found], dtype=torch.long)
        if strange:
            warnings.warn(f"not in the vocabulary, read as an unknown word: {', '.join(strange)}", stacklevel=2)
        return tokens

    def text(self, tokens: Tensor) -> list[str]:
        """Back to words: (B, L) -> B captions."""
        return [" ".join(self.words[k] for k in row if k != PAD) for row in tokens.tolist()]


def forgetful(tokens: Tensor, share: float = 0.01, seed: int = 0) -> Tensor:
    """Tokens (N, L) in which a `share` of the words is unknown: so a network learns what a word that it cannot read is worth."""
    lost = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(lost & (tokens != PAD), UNKNOWN, tokens)


class TextBlock(nn.Module):
    """A transformer layer: each word looks at all words, then thinks for itself.   (B, L, dim), mask (B, L) bool; Vaswani et al. 2017

    Normalised before each half, as in GPT-2.
    """

    def __init__(self, dim: int, heads: int = 4):
        super().__init__()
        checked_heads(dim, heads)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        B, L, dim = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(B, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)          # (B, heads, L, d) each
        h = h + self.proj(attention(q, k, v, mask[:, None, None]).transpose(1, 2).reshape(B, L, dim))
        return h + self.mlp(self.norm2(h))


class TextEncoder(nn.Module):
    """What each word means in its sentence: tokens (B, L) -> context (B, L, dim) and its mask (B, L), False where there is no word."""

    def __init__(self, vocabulary: int, length: int = 32, dim: int = 128, depth: int = 2, heads: int = 4):
        super().__init__()
        self.word, self.place = nn.Embedding(vocabulary, dim), nn.Parameter(0.02 * torch.randn(length, dim))
        self.blocks = nn.ModuleList([TextBlock(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mask = tokens != PAD
        seen = mask | ~mask.any(1, keepdim=True)                        # where there is no word at all, softmax still needs something to look at
        h = self.word(tokens) + self.place[:tokens.shape[1]]            # (B, L, dim)
        for block in self.blocks:
            h = block(h, seen)
        return self.norm(h), mask


class ConditionalUNet(UNet):
    """A U-Net that reads: its pixels look at the words of a caption, and the mean of the words joins the time embedding.

    words:   the vocabulary, a list; kept in `config`, so that a checkpoint knows its words
    length:  of captions, in tokens; text_dim: size of a word's vector, a multiple of 4 (the encoder's heads); text_depth: its layers
    others:  as in UNet

    net(x, t, tokens): tokens (B, L) from net.tokenizer, 0 everywhere for "no caption"; None means it too.
    """

    def __init__(self, channels: int, words: list[str], length: int = 32, text_dim: int = 128, text_depth: int = 2, **options):
        super().__init__(channels, context_dim=text_dim, **options)
        emb_dim = self.config["emb_dim"]
        self.config = {"channels": channels, "words": list(words), "length": length, "text_dim": text_dim, "text_depth": text_depth} | options
        self.tokenizer = Tokenizer(words, length)
        self.text = TextEncoder(len(self.tokenizer.words), length, text_dim, text_depth)
        self.pooled = nn.Linear(text_dim, emb_dim)
        self.null = self.null | {"tokens": PAD}

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor | int | None = None, **others) -> Tensor:
        """x: (B, channels, H, W), t: (B,) real numbers, tokens: (B, L), (1, L), or one number for all -> like x"""
        if tokens is None:
            return super().forward(x, t, **others)
        context, mask = self.text(checked_tokens(tokens, self.text, len(x)))
        return super().forward(x, t, context=context, context_mask=mask, **others)

    def _embed(self, x: Tensor, t: Tensor, y: Tensor | int | None, context: Tensor | None, mask: Tensor | None) -> Tensor:
        emb = super()._embed(x, t, y, context, mask)
        if context is None:
            return emb + self.pooled.bias
        share = mask / mask.sum(1, keepdim=True).clamp(min=1)           # (B, L)
        return emb + self.pooled((share[..., None].to(context.dtype) * context).sum(1))


def checked_tokens(tokens: Tensor | int, text: TextEncoder, B: int) -> Tensor:
    """Tokens (B, L), or one clear sentence."""
    length, size = text.place.shape[0], text.word.num_embeddings
    if isinstance(tokens, int):                                         # such as 0, no caption for anyone
        tokens = torch.full((1, length), tokens, device=text.place.device)
    if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32) or tokens.ndim != 2 or len(tokens) not in (1, B) or not 1 <= tokens.shape[1] <= length:
        what = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise ValueError(f"tokens are whole numbers ({B}, {length}), as net.tokenizer(captions) makes them; got {what}")
    if not tokens.is_cuda and not torch.compiler.is_compiling() and (tokens.min() < 0 or tokens.max() >= size):
        raise ValueError(f"tokens lie between 0 and {size - 1}, this network's vocabulary; got {tokens.min()} to {tokens.max()}: take this network's own tokenizer")
    return tokens.expand(B, -1)
