"""Policies: what to do next, given an observation. A diffusion policy and two rivals.

A policy is a callable (observation (B, O), generator) -> chunk (B, K, A), the next K actions.
`train.train(model, {"x0": chunks, "observation": observations}, ...)` trains each model.
"""
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import validate
from ...denoiser import Denoiser
from ...samplers import ddim, last, timesteps, validate_model
from ...schedules import Schedule, randn_like

MIN_STD = 0.01                                              # of a mixture's components


class Regression(nn.Module):
    """The mean action: a network trained by squared error. Its `sample` is a policy.

    net: observation (B, O) -> chunk (B, K, A), such as a RegressionNet
    Where the data have two ways, the mean of both may be none. Raises TypeError for a net that
    cannot be called; its methods TypeError or ValueError for an x0 that is not like the prediction,
    and observations that are no batch.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = validate.function(net, "net", "observation (B, O) -> chunk (B, K, A)")

    def forward(self, observation: Tensor) -> Tensor:
        """The mean action: (B, K, A)"""
        return self.net(observation)

    def loss(self, x0: Tensor, observation: Tensor) -> Tensor:
        """Squared error, averaged over each chunk: (B,)"""
        mean = self(observation)
        return (mean - validate.real(x0, "x0", like=mean)).square().flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The prediction: (B, K, A). Nothing is drawn."""
        observation = validate.real(observation, "observation", ndim=2)
        return self(_like_weights(self.net, observation)).to(observation)


class MixtureDensity(nn.Module):
    """A mixture of diagonal Gaussians over chunks, trained by maximum likelihood. Its `sample` is
    a policy.

    net: observation (B, O) -> logits (B, M), means and scales (B, M, K, A), such as a MixtureNet;
    the standard deviations are softplus(scales) + 0.01
    Raises TypeError for a net that cannot be called; its methods TypeError or ValueError for a net
    that returns anything else, and an x0 that is not (B, K, A). (Bishop 1994, Mixture density
    networks)
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = validate.function(net, "net", "observation -> (logits, means, scales)")

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, M), means and standard deviations (B, M, K, A)."""
        found = self.net(observation)
        if not isinstance(found, tuple) or len(found) != 3:
            raise TypeError("net must return (logits, means, scales), as a MixtureNet does")
        logits, means, scales = (part.float() for part in found)
        return logits, means, F.softplus(scales) + MIN_STD

    def log_prob(self, x0: Tensor, observation: Tensor) -> Tensor:
        """log p(x0 | observation) of chunks (B, K, A), in nats: (B,)"""
        logits, means, stds = self(observation)
        x0 = validate.real(x0, "x0", like=means[:, 0])
        z = (x0[:, None] - means) / stds                                # (B, M, K, A)
        log_p = -z.square() / 2 - stds.log() - math.log(2 * math.pi) / 2
        return (logits.log_softmax(1) + log_p.flatten(2).sum(2)).logsumexp(1)

    def loss(self, x0: Tensor, observation: Tensor) -> Tensor:
        """-log p(x0 | observation), in nats per number of the chunk: (B,)"""
        return -self.log_prob(x0, observation) / x0[0].numel()

    @torch.no_grad()
    def sample(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A chunk for each observation: (B, K, A), of one component, drawn by its weight."""
        observation = validate.real(observation, "observation", ndim=2)
        validate.generator(generator)
        mixture = self(_like_weights(self.net, observation))
        logits, means, stds = (part.to(observation) for part in mixture)
        chosen = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]     # (B,)
        rows = torch.arange(len(chosen))
        mean = means[rows, chosen]                                      # (B, K, A)
        return mean + stds[rows, chosen] * randn_like(mean, generator)


def diffusion_policy(
    D: Denoiser, schedule: Schedule, steps: int = 10, sampler: Callable = ddim
) -> Callable[..., Tensor]:
    """A policy that draws chunks from a denoiser. (Chi et al. 2023, Diffusion policy, section 2)

    D:       (x (B, K, A), t, observation=(B, O)) -> x0_hat, trained, so that it has the shape of
             its data
    steps:   of the sampler, evenly spaced in time from t = 1
    sampler: such as ddim or ancestral
    Raises TypeError or ValueError for a D without data_shape, steps below 1, a sampler that is no
    function, and a schedule that is not D's.
    """
    validate_model(D, schedule)
    if getattr(D, "data_shape", None) is None:
        raise ValueError(
            "this denoiser does not know the shape of its chunks: train it, load it, or set "
            "D.data_shape = (K, A)"
        )
    validate.function(sampler, "sampler", "such as ddim or ancestral")
    ts = timesteps(schedule, steps)

    def policy(observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        observation = validate.real(observation, "observation", ndim=2)
        condition = _like_weights(D, observation)
        shape = (len(observation), *D.data_shape)
        x = schedule.sample_prior(shape, 1.0, generator, condition.device)
        path = sampler(D, schedule, x, ts, generator=generator, observation=condition)
        return last(path).to(observation)
    return policy


def _like_weights(model: nn.Module, observation: Tensor) -> Tensor:
    """The observation in the precision of the model's weights, and where they are."""
    return observation.to(next(model.parameters(), observation))
