"""Batches and the random inputs of a training step: functions of the seed and the step alone."""
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ... import validate
from ...schedules import Schedule, append_dims, interpolate

Batch = dict[str, Tensor]
Draw = Callable[[Batch, torch.Generator], Batch]


class ImageBytes(dict):
    """Tensors by name whose "x0" are images in bytes, 0 ... 255: a batch has floats in [-1, 1]."""


class BatchSampler:
    """Shuffled batches: batch k depends on (seed, k) alone, so a resumed run sees the same ones.

    data:  tensors of one length N; a batch has `batch_size` rows of each, at most N
    draw:  (batch, generator) -> batch: adds the random inputs of the loss, such as times and noise.
           The generator is the CPU's, seeded with (seed, k)
    rank, world: this process and the number of processes; each takes its rows of the same batch
    Raises ValueError where the batch cannot be shared equally, TypeError or ValueError where `draw`
    does not return a batch.
    """

    def __init__(
        self,
        data: Batch,
        batch_size: int,
        seed: int,
        device: torch.device,
        draw: Draw | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self.data = {name: value.to(device) for name, value in data.items()}
        self.image_bytes = isinstance(data, ImageBytes) and data["x0"].dtype == torch.uint8
        self.n = len(next(iter(self.data.values())))
        lengths = {name: len(value) for name, value in data.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the tensors of the data must have one length; got {lengths}")
        self.size = min(validate.whole(batch_size, "batch_size"), self.n)
        self.seed = seed
        self.device = torch.device(device)
        self.draw = draw
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to {world - 1}; got {rank}")
        if self.size % world:
            raise ValueError(
                f"a batch of {self.size} cannot be shared among {world} processes: "
                f"take a multiple of {world}"
            )
        self.rank_slice = slice(rank * self.size // world, (rank + 1) * self.size // world)

    def __getitem__(self, k: int) -> Batch:
        """Batch k of this process: rows of the data, and what `draw` adds to them."""
        epoch, position = divmod(k, self.n // self.size)
        order = _order(self.n, self.seed, epoch)
        rows = order[position * self.size : (position + 1) * self.size]
        rows = rows.to(self.device, non_blocking=True)
        batch = {name: value[rows] for name, value in self.data.items()}
        batch = self._drawn(batch, torch.Generator().manual_seed(self.seed_of(k)))
        return {name: value[self.rank_slice] for name, value in batch.items()}

    def examples(self, n: int) -> Batch:
        """The first n examples, drawn as in a batch, the same in every process."""
        batch = {name: value[:n] for name, value in self.data.items()}
        return self._drawn(batch, torch.Generator().manual_seed(self.seed_of(0)))

    def _drawn(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with images as floats and with what `draw` adds."""
        size = len(next(iter(batch.values())))
        if self.image_bytes:
            batch["x0"] = floats(batch["x0"])
        if self.draw is not None:
            batch = self.draw(batch, generator)
            _validate_drawn(batch, size)
        return batch

    def seed_of(self, k: int) -> int:
        """The seed of step k, for this run's seed."""
        return (self.seed + 1) * 1_000_003 + k


def floats(x: Tensor) -> Tensor:
    """Bytes as floats in [-1, 1]; other images as they are."""
    return x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x


def _validate_drawn(batch: Batch, size: int) -> None:
    if not isinstance(batch, dict) or not all(isinstance(v, Tensor) for v in batch.values()):
        raise TypeError(
            "draw must return a batch, a dict of tensors by the names that the loss takes: "
            "return batch | {...}"
        )
    wrong = {name: tuple(v.shape) for name, v in batch.items() if v.shape[:1] != (size,)}
    if wrong:
        raise ValueError(
            f"draw must return one row per example, {size} here; got {wrong}: expand what all share"
        )


def drop_conditions(condition: Batch, null: dict, p: float, generator: torch.Generator) -> Batch:
    """Each example loses all conditions in `null` with probability p. (Ho & Salimans 2022, alg. 1)

    condition: tensors (B, ...); null: the value that stands for "no condition", by name.
    """
    validate.number(p, "p_drop", 0, 1)
    validate.generator(generator)
    validate.instance(condition, dict, "condition", '{"y": labels}')
    validate.instance(null, dict, "null", '{"y": 10}')
    if not condition or not null or p == 0:
        return condition
    B = len(next(iter(condition.values())))
    dropped = torch.rand(B, generator=generator) < p                    # (B,)

    def swap(name: str, value: Tensor) -> Tensor:
        none = null[name]
        # made on the value's device, so that a GPU need not wait
        none = none.to(value) if isinstance(none, Tensor) else value.new_full((), none)
        return torch.where(append_dims(dropped, value).bool(), none, value)
    return {name: swap(name, v) if name in null else v for name, v in condition.items()}


def normal_log_snr(schedule: Schedule, mean: float, std: float) -> Callable[[Tensor], Tensor]:
    """A time sampler whose log-SNR is normal: from uniform numbers (B,) in (0, 1] to times (B,).

    Larger numbers give noisier times. EDM's ln sigma ~ N(-1.2, 1.2^2) at alpha = 1 is mean = 2.4,
    std = 2.4. (Karras et al. 2022, table 1)
    """
    validate.instance(schedule, Schedule, "schedule", "Schedule.cosine()")
    validate.number(mean, "mean")
    validate.number(std, "std", 0, above=True)
    quantile = torch.linspace(1e-5, 1 - 1e-5, 10_001, dtype=torch.float64)
    log_snr = mean - std * torch.special.ndtri(quantile)
    table = schedule.t_from_log_snr(log_snr)                            # (10001,), rising
    return lambda u: interpolate(table, u.double()).to(u.dtype)


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its n examples."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
