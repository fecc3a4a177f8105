"""What a training step is fed: images, times, noise and conditions, all of them functions of the seed and the step."""
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ..schedules import Schedule, interpolate, over, randn_like


class Batches:
    """Batch k depends on (seed, k) alone, so a resumed run sees exactly what an uninterrupted one would have seen.

    With several processes each takes its share of the same batch: process `rank` of `world`, size / world examples.
    times: from evenly spread numbers in (0, 1] to the times that are trained on; None keeps them (uniform, stratified)
    flip:  half of the images are mirrored, left for right
    """

    def __init__(self, data: dict[str, Tensor], size: int, p_drop: float, null: dict, seed: int, on: torch.device,
                 times: Callable[[Tensor], Tensor] | None = None, flip: bool = False, rank: int = 0, world: int = 1):
        self.x0 = data["x0"].to(on)                                                     # (N, ...)
        self.condition = {name: value.to(on) for name, value in data.items() if name != "x0"}
        self.size, self.p_drop, self.null, self.seed = min(size, len(self.x0)), p_drop, null, seed
        self.times, self.flip = times, flip
        if self.size % world:
            raise ValueError(f"a batch of {self.size} cannot be shared among {world} processes: take a multiple of {world}")
        self.share = slice(rank * self.size // world, (rank + 1) * self.size // world)

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor, Tensor, dict]:
        """x0 (B, ...), t (B,) in (0, 1], eps like x0, and the conditions, some of them dropped."""
        epoch, place = divmod(k, len(self.x0) // self.size)
        rows = _order(len(self.x0), self.seed, epoch)[place * self.size:(place + 1) * self.size].to(self.x0.device, non_blocking=True)
        g = torch.Generator().manual_seed(self.seed_of(k))
        slots = torch.arange(self.size) + torch.rand(self.size, generator=g)
        t = (1 - slots / self.size).clamp(min=1e-6)                                     # one in each slice of (0, 1]
        x0 = self.x0[rows]
        eps = randn_like(x0, torch.Generator(x0.device).manual_seed(self.seed_of(k)) if x0.is_cuda else g)
        condition = drop({name: value[rows] for name, value in self.condition.items()}, self.null, self.p_drop, g)
        if self.flip:
            x0 = torch.where(over(torch.rand(self.size, generator=g) < 0.5, x0).bool(), x0.flip(-1), x0)
        t = t if self.times is None else self.times(t)
        return x0[self.share], t[self.share], eps[self.share], {name: value[self.share] for name, value in condition.items()}

    def seed_of(self, k: int) -> int:
        return (self.seed + 1) * 1_000_003 + k


def drop(condition: dict[str, Tensor], null: dict, p: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Each example loses, with probability p, all the conditions that `null` names. (Ho & Salimans 2022, algorithm 1)"""
    if not condition or not null or p == 0:
        return condition
    lost = torch.rand(len(next(iter(condition.values()))), generator=generator) < p                                    # (B,)
    none = lambda name, value: null[name].to(value) if isinstance(null[name], Tensor) else value.new_full((), null[name])   # a GPU need not wait for it
    swap = lambda name, value: torch.where(over(lost, value).bool(), none(name, value), value)
    return {name: swap(name, value) if name in null else value for name, value in condition.items()}


def normal_log_snr(schedule: Schedule, mean: float, std: float) -> Callable[[Tensor], Tensor]:
    """Times whose log-SNR is normally distributed: from evenly spread numbers (B,) in (0, 1] to times (B,), noisier for larger ones.

    EDM's choice, log sigma ~ N(-1.2, 1.2^2) at alpha = 1, is mean = 2.4, std = 2.4. (Karras et al. 2022, table 1)
    """
    share = torch.linspace(1e-5, 1 - 1e-5, 10_001, dtype=torch.float64)
    table = schedule.t_from_log_snr(mean - std * torch.special.ndtri(share))            # (10001,), rising
    return lambda u: interpolate(table, u.double()).to(u.dtype)


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its n examples."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
