"""Text for pictures: a tokenizer, a text encoder, and a U-Net with cross-attention to its output.
"""
import re
import warnings

import torch
from torch import Tensor, nn

from .. import validate
from .layers import _validate_heads, _validate_sizes, attention
from .unet import UNet

PAD, UNKNOWN = 0, 1
IDS = (torch.int64, torch.int32)


class Tokenizer:
    """Captions to token ids, one id per word of a fixed vocabulary.

    words:  the vocabulary; its ids begin at 2. 0 is padding, 1 a word that is not in the vocabulary
    length: L, the tokens of every caption
    Raises TypeError or ValueError for words that are no list of different strings, and a length
    that is no whole number.
    """

    def __init__(self, words: list[str], length: int = 32):
        words = [] if isinstance(words, list) and not words else validate.strings(words, "words")
        self.words = ["<none>", "<unknown>", *words]
        self.length = validate.whole(length, "length")
        self.token_to_id = {word: k for k, word in enumerate(self.words)}
        if len(self.token_to_id) < len(self.words):
            twice = next(w for k, w in enumerate(self.words) if self.token_to_id[w] != k)
            raise ValueError(f"words must differ from each other; got {twice!r} twice")

    def split(self, caption: str) -> list[str]:
        """The caption's words in lower case, without hyphens and commas."""
        if not isinstance(caption, str):
            raise TypeError(f"a caption is a string; got {validate.show(caption)}")
        return re.findall(r"[^\W_]+", caption.lower())

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that are not in the vocabulary."""
        return [word for word in self.split(caption) if word not in self.token_to_id]

    def __call__(self, captions: str | list[str]) -> Tensor:
        """Token ids (B, L) int64 of one caption or of B, padded with 0.

        Warns of words that are not in the vocabulary. Raises TypeError for captions that are no
        strings, ValueError for one that is too long.
        """
        captions = [captions] if isinstance(captions, str) else captions
        captions = validate.strings(captions, "captions")
        tokens = torch.full((len(captions), self.length), PAD)
        unknown = {}
        for row, caption in zip(tokens, captions):
            ids = self._encode(caption)
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
            unknown |= dict.fromkeys(self.unknown(caption))
        if unknown:
            warnings.warn(
                f"not in the vocabulary, read as an unknown word: {', '.join(unknown)}",
                stacklevel=2,
            )
        return tokens

    def _encode(self, caption: str) -> list[int]:
        words = self.split(caption)
        if len(words) > self.length:
            raise ValueError(
                f"a caption has at most {self.length} words; this one has {len(words)}: "
                f"shorten it before {' '.join(words[self.length:])!r}"
            )
        return [self.token_to_id.get(word, UNKNOWN) for word in words]

    def decode(self, tokens: Tensor) -> list[str]:
        """Token ids (B, L) -> B captions. Raises ValueError for ids outside the vocabulary."""
        _validate_ids(tokens, len(self.words), self.length)
        return [" ".join(self.words[k] for k in row if k != PAD) for row in tokens.tolist()]


def word_dropout(tokens: Tensor, p: float = 0.01, seed: int = 0) -> Tensor:
    """Tokens (N, L) in which each word is replaced by "unknown" with probability p.

    A network that is trained on them learns an embedding for words that it does not know.
    Raises TypeError or ValueError for tokens that are no whole numbers, p outside [0, 1], and a
    seed that is no whole number.
    """
    validate.number(p, "p", 0, 1, what="a probability")
    if not isinstance(tokens, Tensor) or tokens.dtype not in IDS:
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens are whole numbers, as a Tokenizer makes them; got {got}")
    g = torch.Generator().manual_seed(validate.seed(seed))
    dropped = torch.rand(tokens.shape, generator=g) < p
    return torch.where(dropped & (tokens != PAD), UNKNOWN, tokens)


class TextBlock(nn.Module):
    """Self-attention, then an MLP, pre-normalised as in GPT-2.   Vaswani et al. 2017

    h: (B, L, dim), mask: (B, L) bool, False where there is no token -> (B, L, dim)
    """

    def __init__(self, dim: int, num_heads: int = 4):
        super().__init__()
        _validate_heads(dim, num_heads)
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        B, L, dim = h.shape
        qkv = self.qkv(self.norm1(h)).view(B, L, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                            # (B, heads, L, d) each
        attended = attention(q, k, v, mask[:, None, None]).transpose(1, 2).reshape(B, L, dim)
        h = h + self.proj(attended)
        return h + self.mlp(self.norm2(h))


class TextEncoder(nn.Module):
    """A transformer encoder: tokens (B, L) -> context (B, L, dim) and its mask (B, L), False at
    padding.

    vocabulary: the number of token ids
    Raises TypeError or ValueError for sizes that are no whole numbers, and tokens that are not of
    this vocabulary.
    """

    def __init__(
        self, vocabulary: int, length: int = 32, dim: int = 128, depth: int = 2, num_heads: int = 4
    ):
        super().__init__()
        _validate_sizes(vocabulary=vocabulary, length=length, dim=dim, depth=depth)
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(length, dim))
        self.blocks = nn.ModuleList([TextBlock(dim, num_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        _validate_ids(tokens, self.token_embedding.num_embeddings, len(self.position_embedding))
        mask = tokens != PAD
        # a caption without words attends to its padding: softmax needs at least one key
        keys = mask | ~mask.any(1, keepdim=True)
        h = self.token_embedding(tokens)                                # (B, L, dim)
        h = h + self.position_embedding[: tokens.shape[1]]
        for block in self.blocks:
            h = block(h, keys)
        return self.norm(h), mask

    def of_batch(
        self, tokens: Tensor | int, B: int, trim: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Context and mask for a batch of B: of tokens (B, L), one caption (1, L), or one id.

        trim: leave out the last columns, in which no caption has a word; they are masked anyway.
        """
        length = len(self.position_embedding)
        if isinstance(tokens, int):                         # such as 0, no caption for all
            tokens = torch.full((1, length), tokens, device=self.position_embedding.device)
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or len(tokens) not in (1, B):
            raise _not_tokens(tokens, B, length)
        context, mask = self(_without_padding(tokens) if trim else tokens)
        return context.expand(B, -1, -1), mask.expand(B, -1)


def _without_padding(tokens: Tensor) -> Tensor:
    """Tokens (B, L) up to the last word of the longest caption, but one column at least."""
    columns = (tokens != PAD).any(0).nonzero()                          # those with a word
    return tokens[:, : columns[-1].item() + 1 if len(columns) else 1]


def pooled(context: Tensor, mask: Tensor) -> Tensor:
    """The mean of the tokens that there are, 0 where there are none: (B, L, dim) -> (B, dim)"""
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)             # (B, L)
    return (weights[..., None].to(context.dtype) * context).sum(1)


class ConditionalUNet(UNet):
    """A U-Net conditioned on captions: cross-attention to the tokens, their mean in the embedding.

    words:      the vocabulary, a list; kept in `config`, so that a checkpoint has it
    length:     of captions, in tokens
    text_dim:   size of a token's vector, a multiple of 4 (the encoder's heads)
    text_depth: layers of the text encoder
    options:    as in UNet

    net(x, t, tokens): tokens (B, L) from net.tokenizer, 0 everywhere for "no caption"; None means
    it too.
    """

    def __init__(
        self,
        channels: int,
        words: list[str],
        length: int = 32,
        text_dim: int = 128,
        text_depth: int = 2,
        **options,
    ):
        super().__init__(channels, context_dim=text_dim, **options)
        emb_dim = self.config["emb_dim"]
        text = {"length": length, "text_dim": text_dim, "text_depth": text_depth}
        self.tokenizer = Tokenizer(words, length)
        self.config = {"channels": channels, "words": self.tokenizer.words[2:]} | text | options
        self.text = TextEncoder(len(self.tokenizer.words), length, text_dim, text_depth)
        self.pool_proj = nn.Linear(text_dim, emb_dim)
        self.null = self.null | {"tokens": PAD}

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        tokens: Tensor | int | None = None,
        y: Tensor | int | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """x: (B, channels, H, W), t: (B,) real, tokens: (B, L), (1, L), or one id for all -> like x

        y, extra: as in UNet; context, context_mask: the text encoder's output, in place of tokens.
        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        if tokens is not None:
            if context is not None:
                raise ValueError("pass tokens, or the context of net.text(tokens), not both")
            context, context_mask = self.text.of_batch(tokens, len(x))
        return super().forward(x, t, y, context, context_mask, extra)

    def encode(self, tokens: Tensor | int, B: int) -> dict[str, Tensor]:
        """The text encoder's output for a batch of B, as the arguments context and context_mask.

        It does not depend on t: a sampler needs it once, not once a step. L is here the length of
        the longest caption: padding is masked, but attention would compute it in each step.
        """
        context, mask = self.text.of_batch(tokens, B, trim=True)
        return {"context": context, "context_mask": mask}

    def _embed(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        context: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        emb = super()._embed(x, t, y, context, mask)
        if context is None:
            return emb + self.pool_proj.bias
        return emb + self.pool_proj(pooled(context, mask))


def _validate_ids(tokens: Tensor, vocabulary: int, length: int) -> None:
    """Raises ValueError unless they are (B, L) ids of the vocabulary, L at most length."""
    right = isinstance(tokens, Tensor) and tokens.dtype in IDS and tokens.ndim == 2
    if not right or not 1 <= tokens.shape[1] <= length:
        raise _not_tokens(tokens, "B", length)
    if tokens.is_cuda or torch.compiler.is_compiling():                 # a GPU would have to wait
        return
    if tokens.numel() and (tokens.min() < 0 or tokens.max() >= vocabulary):
        raise ValueError(
            f"tokens lie between 0 and {vocabulary - 1}, this network's vocabulary; "
            f"got {tokens.min()} to {tokens.max()}: take this network's own tokenizer"
        )


def _not_tokens(tokens: Tensor, B: int | str, length: int) -> ValueError:
    got = type(tokens).__name__
    if isinstance(tokens, Tensor):
        got = f"{tokens.dtype} {tuple(tokens.shape)}"
    return ValueError(
        f"tokens are whole numbers ({B}, {length}), as net.tokenizer(captions) makes them; got "
        f"{got}"
    )
