"""A transformer over tokens: it fills in masks, or, with causal attention, predicts the next token.
"""
import torch
from torch import Tensor, nn

from .. import validate
from .layers import _validate_heads, _validate_sizes


class TokenTransformer(nn.Module):
    """Embeddings, torch's pre-normalised encoder layers, and a linear layer to the vocabulary.

    vocabulary: V, the number of token ids, with those of special tokens such as the mask
    length:     L, at most so many tokens
    causal:     each place sees itself and those before it (Radford et al. 2019); else it sees all
    Raises TypeError or ValueError for sizes that are no whole numbers, a dim that the heads do not
    divide, and a causal that is not a bool.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        dim: int = 128,
        depth: int = 4,
        num_heads: int = 4,
        causal: bool = False,
    ):
        super().__init__()
        _validate_sizes(vocabulary=vocabulary, length=length, dim=dim, depth=depth)
        _validate_heads(dim, num_heads)
        validate.instance(causal, bool, "causal", "True")
        self.config = {"vocabulary": vocabulary, "length": length, "dim": dim, "depth": depth}
        self.config |= {"num_heads": num_heads, "causal": causal}
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(length, dim))
        nn.init.normal_(self.embedding.weight, std=0.02)
        how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        # not nn.TransformerEncoder: its layers would be copies, with the same starting weights
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, **how) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, vocabulary)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """x: (B, L) token ids -> logits (B, L, V).

        The time t is not used: the number of masks in x says as much. (Sahoo et al. 2024; Ou et al.
        2024) Raises ValueError for an x of another shape or kind, and ids outside the vocabulary.
        """
        _validate_ids(x, self.config["vocabulary"], self.config["length"])
        L, hidden = x.shape[1], None
        if self.config["causal"]:
            hidden = nn.Transformer.generate_square_subsequent_mask(L, device=x.device)
        h = self.embedding(x) + self.positions[:L]                      # (B, L, dim)
        for layer in self.layers:
            h = layer(h, hidden, is_causal=hidden is not None)
        return self.out(self.norm(h))

    def muon_parameters(self) -> list[nn.Parameter]:
        """The weights that Muon should move: the matrices of all layers; AdamW has the embedding,
        the positions and the output.
        """
        return [p for p in self.layers.parameters() if p.ndim == 2]


def _validate_ids(x: Tensor, vocabulary: int, length: int) -> None:
    """Raises ValueError unless they are (B, L) ids of the vocabulary, L at most length."""
    right = isinstance(x, Tensor) and x.dtype in (torch.int64, torch.int32) and x.ndim == 2
    if not right or x.shape[1] > length:
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"x must be token ids (B, L), L at most {length}, whole numbers; got {got}"
        )
    if not x.is_cpu or not x.numel() or torch.compiler.is_compiling():
        return
    low, high = (end.item() for end in x.aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"x must be token ids from 0 to {vocabulary - 1}, this network's vocabulary, with the "
            f"mask or start; got {low} to {high}"
        )
