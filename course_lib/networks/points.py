"""A transformer on sets of points: (x, t, y) -> a tensor like x, whatever the order of the points.

Tokens are points and have no positions beside their coordinates, so that permuted points give the
same output, permuted.
"""
import math

import torch
from torch import Tensor, nn

from .dit import DiT, DiTBlock
from .layers import _require, _validate_conditions, _validate_sizes, attention


class InducedBlock(DiTBlock):
    """A DiTBlock in which points attend to `inducing` summaries of the set, not to all points.

    Learned vectors attend to the points and gather their values; each point then attends to these
    vectors. The cost of attention is N * inducing in place of N^2. Lee et al. 2019 (Set
    Transformer, section 3.2) have another layer between the two steps.
    """

    def __init__(self, dim: int, num_heads: int, inducing: int):
        super().__init__(dim, num_heads)
        self.inducing = nn.Parameter(torch.randn(1, num_heads, inducing, dim // num_heads))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        q, k, v, modulation = self.project(x, emb)                      # (B, heads, N, d) each
        inducing = self.inducing.to(q.dtype).expand(len(x), -1, -1, -1)
        summary = attention(inducing, k, v)                             # (B, heads, inducing, d)
        return self.finish(x, attention(q, inducing, summary), modulation)


class PointTransformer(DiT):
    """A DiT whose tokens are points, any number of them: permutation-equivariant.

    channels:              numbers a point, 3 for its coordinates
    dim, depth, num_heads: of the transformer
    num_classes:           as in UNet
    inducing:              learned vectors through which points attend; None: each to all others
    frequencies:           each coordinate c also enters as sin and cos of 2^k pi c / 2, k from 0 to
                           frequencies - 1 (Tancik et al. 2020)

    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on (frequencies: from
    0), and a dim that is no multiple of 4 or that the heads do not divide.
    """

    def __init__(
        self,
        channels: int = 3,
        dim: int = 96,
        depth: int = 4,
        num_heads: int = 4,
        num_classes: int | None = None,
        inducing: int | None = None,
        frequencies: int = 4,
    ):
        _validate_sizes(dim=dim, inducing=1 if inducing is None else inducing)
        _validate_sizes(0, frequencies=frequencies)
        if dim % 4:
            raise ValueError(f"dim must be a multiple of 4; got {dim}")
        super().__init__(channels, 1, 1, dim, depth, num_heads, num_classes)
        del self.config["size"], self.config["patch_size"]
        self.config |= {"inducing": inducing, "frequencies": frequencies}
        self.stem = nn.Linear(channels * (1 + 2 * frequencies), dim)
        waves = math.pi / 2 * 2.0 ** torch.arange(frequencies)
        self.register_buffer("waves", waves, persistent=False)
        if inducing is not None:
            blocks = [InducedBlock(dim, num_heads, inducing) for _ in range(depth)]
            self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | int | None = None) -> Tensor:
        """x: (B, N, channels), t: (B,) real, y: (B,) integers, one integer, or None -> like x

        Raises TypeError or ValueError for inputs of another shape, dtype or range.
        """
        _require("this network takes points", x, "B", "N", self.channels)
        emb = self._embed(t, _validate_conditions(self, x, t, y))       # (B, dim)
        angles = (x[..., None] * self.waves).flatten(2)                 # (B, N, channels * waves)
        h = self.stem(torch.cat([x, angles.sin(), angles.cos()], dim=2))
        for block in self.blocks:
            h = block(h, emb)                                           # (B, N, dim)
        shift, scale = self.final(emb)[:, None].chunk(2, dim=-1)
        return self.out(torch.addcmul(shift, self.norm(h), 1 + scale))  # (B, N, channels)
