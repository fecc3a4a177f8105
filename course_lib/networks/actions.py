"""Networks of policies: from an observation to a chunk, the next K actions.

`ActionNet` denoises a chunk. Its rivals, `RegressionNet` and `MixtureNet`, are given no noise.
"""
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import TimeEmbedding, _require, _validate_sizes, zero_init


class ActionBlock(nn.Module):
    """An MLP with FiLM conditioning and a residual shortcut: h, emb (B, width) -> (B, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.emb = nn.Linear(width, 2 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), zero_init(nn.Linear(width, width))
        )

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.emb(emb).chunk(2, dim=1)
        return h + self.mlp((1 + scale) * self.norm(h) + shift)


class ActionNet(nn.Module):
    """A residual MLP on a noisy chunk of actions, with FiLM from the time and the observation.

    observation_size:   O, the numbers of an observation
    chunk, action_size: K and A, of the chunks (B, K, A)
    width, depth:       of the hidden layers, and the number of blocks
    Raises TypeError or ValueError for sizes that are no whole numbers from 1 on.
    (Chi et al. 2023, Diffusion policy, section 3, whose network is a 1-D U-Net or a transformer)
    """

    def __init__(
        self,
        observation_size: int,
        chunk: int,
        action_size: int = 2,
        width: int = 96,
        depth: int = 2,
    ):
        super().__init__()
        self.config = dict(
            observation_size=observation_size,
            chunk=chunk,
            action_size=action_size,
            width=width,
            depth=depth,
        )
        _validate_sizes(**self.config)
        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, width))
        self.observation = _mlp(observation_size, width, width, width)
        self.stem = nn.Linear(chunk * action_size, width)
        self.blocks = nn.ModuleList(ActionBlock(width) for _ in range(depth))
        self.out = zero_init(nn.Linear(width, chunk * action_size))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """x: (B, K, A) noisy actions, t: (B,) real, observation: (B, O) -> like x

        Raises TypeError or ValueError for inputs of another shape or dtype.
        """
        chunk, size = self.config["chunk"], self.config["action_size"]
        _require("this network takes chunks", x, "B", chunk, size)
        _require("t must be one real number per chunk,", t, len(x))
        _require_observation(observation, len(x), self.config["observation_size"])
        emb = F.silu(self.time(t) + self.observation(observation))              # (B, width)
        h = self.stem(x.flatten(1))                                             # (B, width)
        for block in self.blocks:
            h = block(h, emb)
        return self.out(h).view_as(x)


class RegressionNet(nn.Module):
    """An MLP from an observation (B, O) to one chunk (B, K, A). Sizes as in ActionNet; depth: the
    number of hidden layers.
    """

    def __init__(
        self,
        observation_size: int,
        chunk: int,
        action_size: int = 2,
        width: int = 192,
        depth: int = 3,
    ):
        super().__init__()
        self.config = dict(
            observation_size=observation_size,
            chunk=chunk,
            action_size=action_size,
            width=width,
            depth=depth,
        )
        _validate_sizes(**self.config)
        self.mlp = _mlp(observation_size, *[width] * depth, chunk * action_size)

    def forward(self, observation: Tensor) -> Tensor:
        """observation: (B, O) -> (B, K, A). Raises TypeError or ValueError for another shape."""
        _require_observation(observation, "B", self.config["observation_size"])
        return self.mlp(observation).unflatten(1, (self.config["chunk"], -1))


class MixtureNet(nn.Module):
    """An MLP from an observation to M diagonal Gaussians over chunks. Sizes as in RegressionNet;
    components: M. (Bishop 1994, Mixture density networks)
    """

    def __init__(
        self,
        observation_size: int,
        chunk: int,
        action_size: int = 2,
        components: int = 8,
        width: int = 192,
        depth: int = 3,
    ):
        super().__init__()
        self.config = dict(
            observation_size=observation_size,
            chunk=chunk,
            action_size=action_size,
            components=components,
            width=width,
            depth=depth,
        )
        _validate_sizes(**self.config)
        numbers = components * (1 + 2 * chunk * action_size)
        self.mlp = _mlp(observation_size, *[width] * depth, numbers)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """observation: (B, O) -> logits (B, M), means (B, M, K, A), and scales like the means, real
        numbers that softplus makes positive. Raises TypeError or ValueError for another shape.
        """
        _require_observation(observation, "B", self.config["observation_size"])
        out = self.mlp(observation).unflatten(1, (self.config["components"], -1))
        logits, numbers = out[..., 0], out[..., 1:]
        means, scales = numbers.unflatten(2, (2, self.config["chunk"], -1)).unbind(2)
        return logits, means, scales


def _mlp(*sizes: int) -> nn.Sequential:
    """Linear layers between these sizes, with SiLU between them."""
    layers = [nn.Linear(sizes[0], sizes[1])]
    for a, b in zip(sizes[1:-1], sizes[2:]):
        layers += [nn.SiLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def _require_observation(observation: Tensor, B: int | str, size: int) -> None:
    _require("this network takes an observation", observation, B, size)
