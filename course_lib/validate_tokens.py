"""What callers of `discrete` pass: token ids, logits, times. Each function returns the value in the
form that the code behind it needs, or raises TypeError or ValueError with one sentence.

Values are compared on the CPU only, as in `validate`.
"""
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import validate


def token_ids(x: Any, name: str) -> Tensor:
    """x as whole numbers (B, L), int64."""
    x = validate.tensor(x, name)
    if x.dtype not in (torch.int64, torch.int32) or x.ndim != 2:
        got = f"{x.dtype} {tuple(x.shape)}"
        raise ValueError(f"{name} must be token ids (B, L), whole numbers; got {got}")
    return x.long()


def clean(x0: Tensor, vocabulary: int, special_id: int) -> Tensor:
    """x0 as ids of the vocabulary, but never the mask or the start, which no model predicts."""
    wrong = x0[(x0 < 0) | (x0 >= vocabulary) | (x0 == special_id)] if x0.is_cpu else x0[:0]
    if wrong.numel():
        raise ValueError(
            f"x0 must have token ids from 0 to {vocabulary - 1}, and never {special_id}, which is "
            f"the mask or the start; got {wrong[0]}"
        )
    return x0


def logits_of(logits: Any, x: Tensor) -> Tensor:
    """logits as real numbers (B, L, V) of x (B, L)."""
    right = isinstance(logits, Tensor) and logits.is_floating_point()
    if not right or logits.ndim != 3 or logits.shape[:2] != x.shape:
        got = type(logits).__name__
        if isinstance(logits, Tensor):
            got = f"{logits.dtype} {tuple(logits.shape)}"
        raise ValueError(
            f"logits must be (B, L, V), real numbers, (B, L) = {tuple(x.shape)}; got {got}"
        )
    if logits.device.type == "cpu" and logits.isnan().any():
        raise ValueError("logits must be numbers; some are nan")
    return logits


def level(t: Any, B: int) -> Tensor:
    """t as (B,) float64 in [0, 1]."""
    t = validate.time(t)
    if t.shape not in ((), (1,), (B,)):
        raise ValueError(f"t must be one number, or ({B},); got {tuple(t.shape)}")
    return t.expand(B)


def falling(ts: Any) -> list[float]:
    """ts as falling times in [0, 1], at least two."""
    ts = [float(t) for t in ts] if isinstance(ts, Iterable) else []
    falls = all(s < t for t, s in zip(ts[:-1], ts[1:]))
    if len(ts) < 2 or not falls or not 0 <= ts[-1] < ts[0] <= 1:
        raise ValueError("ts must fall, from at most 1 to at least 0, such as [1, 0.5, 0]")
    return ts
