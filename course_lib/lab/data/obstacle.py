"""A point walks round an obstacle: a small world in the plane, an expert, and policies at work.

The point starts near (-1, 0), its goal lies near (1, 0), and between them a disc round (0, 0). An
action (2,) is a displacement in units of the speed limit, SPEED a step; one longer than 1 is
shortened to 1. An observation (4,) is the position and the goal.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import validate
from ...denoiser import Denoiser

RADIUS = 0.4                                                # of the obstacle
SPEED = 0.1                                                 # the longest displacement in one step
NEAR = 0.1                                                  # at this distance a goal is reached
LIMIT = 60                                                  # steps of an episode, at most
SPREAD = 0.1                                                # of starts and goals, per coordinate
GUST_STEPS = 10                                             # a gust comes in one of the first steps

World = tuple[Tensor, Tensor, Tensor]                       # starts, goals, gusts (n, LIMIT, 2)
Policy = Callable[[Tensor, torch.Generator], Tensor]


class Episodes(NamedTuple):
    """n episodes, each until the goal, the obstacle or LIMIT steps; then the point stays.

    paths:   (n, LIMIT + 1, 2), the positions before each step and after the last
    actions: (n, LIMIT, 2), as they were carried out, 0 after the end
    goals:   (n, 2)
    success: (n,) bool, the goal was reached and the obstacle not touched
    touched: (n,) bool, the obstacle was touched
    side:    (n,) int64, where the obstacle was passed: 1 left of it (above), -1 right, 0 not at all
    time:    (n,) int64, the steps until the end
    """
    paths: Tensor
    actions: Tensor
    goals: Tensor
    success: Tensor
    touched: Tensor
    side: Tensor
    time: Tensor


def expert(n: int, seed: int = 0, perturbation: float = 0.0) -> Episodes:
    """n episodes of an expert, the same for the same seed; expert(10) are the first of expert(100).

    Each episode has a side, left or right with probability 1/2, independent of its start and kept
    to its end; a distance to the obstacle, uniform in [0.1, 0.25]; and a pace, uniform in [0.6,
    0.9]. A step goes along the tangent to the disc of that distance, on that side, or straight to
    the goal where this disc is not in the way; plus normal noise of deviation 0.05 per coordinate.
    perturbation: the length of a gust, see `run`.
    Raises TypeError or ValueError for n below 1, and a negative seed or perturbation.
    """
    n, seed = validate.whole(n, "n"), validate.seed(seed)
    return _expert(_world(n, seed, perturbation), seed)


def demonstrations(
    n: int, seed: int = 0, chunk: int = 8, perturbation: float = 0.0
) -> dict[str, Tensor]:
    """What the expert saw and did next: {"x0": (N, chunk, 2), "observation": (N, 4)}.

    One pair for each step before the end of n episodes: the observation before the step, and the
    actions from this step on, 0 after the end. Episodes that touch the obstacle are left out.
    perturbation: the length of a gust in every second episode, which shows how to recover; pairs
    during whose actions it comes are left out, since no observation announces it.
    Raises TypeError or ValueError as `expert` does, and for a chunk that is no whole number.
    """
    n, seed = validate.whole(n, "n"), validate.seed(seed)
    chunk = validate.whole(chunk, "chunk", what="the actions of a chunk")
    starts, goals, gusts = _world(n, seed, perturbation)
    gusts[::2] = 0
    episodes = _expert((starts, goals, gusts), seed)
    actions = _windows(episodes.actions, chunk)                         # (n, LIMIT, chunk, 2)
    calm = (_windows(gusts, chunk) == 0).all(3).all(2)                  # (n, LIMIT)
    before_end = torch.arange(LIMIT) < episodes.time[:, None]
    used = calm & before_end & episodes.success[:, None]
    seen = torch.cat([episodes.paths[:, :-1], goals[:, None].expand(-1, LIMIT, -1)], dim=2)
    return {"x0": actions[used], "observation": seen[used]}


@torch.no_grad()
def run(
    policy: Policy, n: int, seed: int = 0, *, execute: int = 1, perturbation: float = 0.0
) -> Episodes:
    """n episodes of a policy, all at once, the same for the same seed.

    policy:       (observation (n, 4), generator) -> chunk (n, K, 2), the next K actions
    execute:      how many of them are carried out before the policy is asked again, at most K
    perturbation: the length of a gust: a displacement to the left or to the right, with probability
                  1/2 each, in one of the first 10 steps
    The worlds of a seed (starts, goals, gusts) are the same for every policy, and those of n = 10
    the first of n = 100. They are those of `expert`: evaluate with another seed.
    Raises TypeError or ValueError as `expert` does, and for a policy that returns no such chunk.
    """
    n, seed = validate.whole(n, "n"), validate.seed(seed)
    validate.function(policy, "policy", "(observation, generator) -> chunk (B, K, 2)")
    if isinstance(policy, Denoiser) or hasattr(policy, "sample"):
        raise TypeError(
            "policy must be a function (observation, generator) -> chunk; got the model, a "
            f"{type(policy).__name__}: pass its sample, or diffusion_policy(D, schedule)"
        )
    execute = validate.whole(execute, "execute", what="actions before the next look")
    generator = torch.Generator().manual_seed(seed)

    def act(observation: Tensor, step: int) -> Tensor:
        return _validate_chunk(policy(observation, generator), n, execute)
    return _simulate(act, _world(n, seed, perturbation), execute)


def _world(n: int, seed: int, perturbation: float) -> World:
    """The starts and goals (n, 2), and the gusts (n, LIMIT, 2): what is the same for all policies.
    """
    length = validate.number(perturbation, "perturbation", 0, what="the length of a gust")
    u = torch.from_numpy(np.random.default_rng((seed, 0)).random((n, 6))).float()
    starts = torch.tensor([-1.0, 0.0]) + SPREAD * (2 * u[:, 0:2] - 1)
    goals = torch.tensor([1.0, 0.0]) + SPREAD * (2 * u[:, 2:4] - 1)
    gusts = torch.zeros(n, LIMIT, 2)
    moment = (GUST_STEPS * u[:, 4]).long()
    gusts[torch.arange(n), moment, 1] = length * (2 * (u[:, 5] < 0.5) - 1.0)
    return starts, goals, gusts


def _expert(world: World, seed: int) -> Episodes:
    n = len(world[0])
    g = np.random.default_rng((seed, 1))
    noise = torch.from_numpy(g.standard_normal((n, LIMIT, 2))).float()
    u = torch.from_numpy(np.random.default_rng((seed, 2)).random((n, 3))).float()
    side = torch.where(u[:, 0] < 0.5, 1.0, -1.0)
    radius = RADIUS + 0.1 + 0.15 * u[:, 1]
    pace = 0.6 + 0.3 * u[:, 2]

    def act(observation: Tensor, step: int) -> Tensor:
        position, goal = observation.split(2, dim=1)
        length = torch.minimum(pace, (goal - position).norm(dim=1) / SPEED)
        action = length[:, None] * _direction(position, goal, side, radius)
        return (action + 0.05 * noise[:, step])[:, None]
    return _simulate(act, world, 1)


def _direction(position: Tensor, goal: Tensor, side: Tensor, radius: Tensor) -> Tensor:
    """The expert's direction (n, 2), of length 1: past the disc of this radius, then to the goal.
    """
    way = goal - position
    ahead = (position * way).sum(1) < 0                                 # the disc's centre
    blocked = ahead & (_distance(position, goal) < radius)
    ratio = radius / position.norm(dim=1).clamp(min=1e-6)
    # between the ways to the centre and along the tangent; within the disc, turned outwards
    angle = side * (ratio.clamp(max=1).asin() + 2 * (ratio - 1).clamp(0, 0.5))
    x, y = -F.normalize(position).T
    tangent = [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y]
    return torch.where(blocked[:, None], torch.stack(tangent, dim=1), F.normalize(way))


def _simulate(act: Callable[[Tensor, int], Tensor], world: World, execute: int) -> Episodes:
    position, goals, gusts = world
    n = len(position)
    paths = position[:, None].repeat(1, LIMIT + 1, 1)
    actions = torch.zeros(n, LIMIT, 2)
    touched, reached = torch.zeros(2, n, dtype=torch.bool)
    side, time = torch.zeros(2, n, dtype=torch.int64)
    for step in range(LIMIT):
        going = ~(touched | reached)
        if not going.any():
            break
        if step % execute == 0:
            chunk = act(torch.cat([position, goals], dim=1), step)      # (n, K, 2)
        action = chunk[:, step % execute]
        action = action / action.norm(dim=1, keepdim=True).clamp(min=1)
        actions[:, step] = going[:, None] * action
        moved = position + going[:, None] * (SPEED * action + gusts[:, step])
        touched = touched | (_distance(position, moved) < RADIUS)
        passes = (position[:, 0] < 0) & (moved[:, 0] >= 0) & (side == 0) & ~touched
        side = torch.where(passes, moved[:, 1].sign().long(), side)
        reached = ~touched & ((moved - goals).norm(dim=1) < NEAR)
        time = time + going
        position = moved
        paths[:, step + 1 :] = position[:, None]
    return Episodes(paths, actions, goals, reached, touched, side, time)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """The distance of (0, 0) to the segment from a to b, (n, 2) each: (n,)"""
    way = b - a
    fraction = -(a * way).sum(1) / way.square().sum(1).clamp(min=1e-12)
    return (a + fraction.clamp(0, 1)[:, None] * way).norm(dim=1)


def _windows(x: Tensor, chunk: int) -> Tensor:
    """For each step, its row and the chunk - 1 after it, 0 beyond the end: (n, L, D) ->
    (n, L, chunk, D)
    """
    return F.pad(x, (0, 0, 0, chunk - 1)).unfold(1, chunk, 1).transpose(2, 3)


def _validate_chunk(chunk: Tensor, n: int, execute: int) -> Tensor:
    """The policy's chunk, float32 on the CPU."""
    shape = tuple(chunk.shape) if isinstance(chunk, Tensor) else type(chunk).__name__
    if not isinstance(chunk, Tensor) or chunk.ndim != 3 or shape[::2] != (n, 2):
        raise ValueError(f"the policy must return a chunk of actions ({n}, K, 2); got {shape}")
    if shape[1] < execute:
        raise ValueError(
            f"execute is {execute}, and the policy's chunks have {shape[1]} actions: execute at "
            "most so many"
        )
    chunk = chunk.float().cpu()
    validate.finite(chunk, "the policy's chunk")
    return chunk
