"""CLIP's text encoder, whose last hidden states Stable Diffusion reads.

Radford et al. 2021. A transformer like lesson 5's, with three oddities of the published models: it
is causal, padding is attended to like any token, and version 1.x has an activation of its own.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ..layers import _validate_heads, _validate_sizes, attention
from ..text import _validate_ids


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x): a cheap GELU, off by up to 0.02. (Hendrycks & Gimpel 2016, section 2)"""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}    # 1.x, 2.x


class ClipLayer(nn.Module):
    """Causal self-attention, then an MLP, each after its norm and residual: (B, L, dim) -> same."""

    def __init__(self, dim: int, num_heads: int, hidden: int, activation: str, eps: float):
        super().__init__()
        _validate_heads(dim, num_heads)
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, eps)
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.hidden = nn.Linear(dim, hidden)
        self.proj = nn.Linear(hidden, dim)
        self.activation = ACTIVATIONS[activation]

    def forward(self, h: Tensor, causal: Tensor) -> Tensor:
        x = self.norm1(h)
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        h = h + self.out(attention(q, k, v, causal).transpose(1, 2).flatten(2))
        return h + self.proj(self.activation(self.hidden(self.norm2(h))))


class ClipTextEncoder(nn.Module):
    """Token ids (B, L) -> a vector for each token, (B, L, dim).

    vocabulary, length: number of token ids; the largest L
    dim, depth, num_heads, hidden: of the transformer and its MLPs
    activation:         "quick_gelu" (1.x) or "gelu" (2.x)
    eps:                of the layer norms

    Version 2.x was trained on the last but one layer of its CLIP; its published encoder has that
    one as its last, so no layer is left out here.
    Raises TypeError or ValueError for sizes that are no whole numbers, and another activation.
    """

    def __init__(
        self,
        vocabulary: int = 49_408,
        length: int = 77,
        dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        hidden: int = 3072,
        activation: str = "quick_gelu",
        eps: float = 1e-5,
    ):
        super().__init__()
        _validate_sizes(vocabulary=vocabulary, length=length, dim=dim, depth=depth, hidden=hidden)
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}; got {activation!r}")
        validate.number(eps, "eps", 0, above=True)
        self.config = dict(
            vocabulary=vocabulary,
            length=length,
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            hidden=hidden,
            activation=activation,
            eps=eps,
        )
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(length, dim))
        self.layers = nn.ModuleList(
            [ClipLayer(dim, num_heads, hidden, activation, eps) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, tokens: Tensor) -> Tensor:
        """Raises ValueError for ids outside the vocabulary, and more than `length` of them."""
        vocabulary, length = self.config["vocabulary"], self.config["length"]
        _validate_ids(tokens, vocabulary, length)
        L = tokens.shape[1]
        h = self.token_embedding(tokens) + self.position_embedding[:L]  # (B, L, dim)
        causal = torch.ones(L, L, dtype=torch.bool, device=h.device).tril()
        for layer in self.layers:
            h = layer(h, causal)
        return self.norm(h)
