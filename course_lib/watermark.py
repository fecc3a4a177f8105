"""A watermark in the signs of the initial noise: Gaussian Shading (Yang et al. 2024).

A secret key and a nonce, a number that is used once, give a stream of bits, and the bits give the
signs of the noise that a deterministic sampler starts from. Whoever has the key inverts a picture
(`samplers.ddim_invert`) and counts the signs that agree. Here is the noise alone: no picture, no
network.
"""
import hashlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from . import validate


def marked_noise(
    shape: tuple[int, ...],
    key: int,
    nonce: int | Tensor,
    message: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Standard normal noise whose signs carry the mark: shape (B, ...), float32.

    z = (2 b - 1) |n| with n standard normal and b the bit of a place, which is the same in law as
    z = Phi^-1((b + u) / 2) with u uniform in (0, 1). (Yang et al. 2024, with l = 1 bit a place)
    b is the message's bit xor one of a stream that key and nonce give, and that looks uniform to
    whoever lacks the key. Only signs differ from what torch.randn gives with the same generator.

    key:     a whole number below 2^256; secrets.randbits(256) draws one that nobody guesses
    nonce:   (B,) whole numbers, one for each picture; one number for all gives all of them the same
             signs, so that their noises have correlation 2 / pi
    message: bits (k,) or (B, k), 0 or 1; place i, in the order of noise.flatten(1), carries bit
             i mod k. None: all 0, for a mark that is only detected
    Raises TypeError or ValueError for a shape without places, and for a key, nonce or message that
    does not fit.
    """
    shape = validate.shape(shape)
    if len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"shape must be (B, ...), such as (16, 1, 28, 28), without a side of 0; got {shape}"
        )
    magnitude = torch.randn(shape, generator=validate.generator(generator)).abs()
    places = magnitude[0].numel()
    bits = _stream(key, nonce, len(magnitude), places) ^ _spread(message, len(magnitude), places)
    return torch.where(bits.view(shape), magnitude, -magnitude)


class Detection(NamedTuple):
    """What `detect` finds in each picture."""
    agreeing: Tensor                # (B,) int64: signs that agree with the mark
    signs: Tensor                   # (B,) int64: signs that were counted
    p_value: Tensor                 # (B,) float64: P(Bin(signs, 1/2) >= agreeing)


def detect(
    noise: Tensor,
    key: int,
    nonce: int | Tensor,
    message: Tensor | None = None,
    min_abs: float = 0.0,
) -> Detection:
    """How many signs agree with the mark, and how probable so many are without one.

    The p-value is exact for every picture that was made without the key, whatever it shows, over
    random keys or nonces: then each sign agrees with probability 1/2, independently of the others.
    For one key and one nonce the counts of several pictures are not independent. (Yang et al. 2024;
    they count the bits of the message after the vote)

    noise:   (B, ...), such as the end of `samplers.ddim_invert`, divided by sigma
    key, nonce, message: as in `marked_noise`
    min_abs: places with |noise| < min_abs are not counted. Inversion finds little noise where the
             picture has kept little of it, as in a plain background. The choice does not depend on
             the key, so the p-value stays exact.
    Raises TypeError or ValueError for noise that is no such tensor or not finite, a min_abs below
    0, and as `marked_noise` does.
    """
    signs, counted = _signs(noise, min_abs)                             # (B, D) each
    B, D = signs.shape
    mark = _stream(key, nonce, B, D) ^ _spread(message, B, D)
    agreeing, total = ((signs == mark) & counted).sum(1), counted.sum(1)
    p_value = stats.binom.sf(agreeing.numpy() - 1, total.numpy(), 0.5)
    return Detection(agreeing, total, torch.from_numpy(p_value))


def read_message(
    noise: Tensor, key: int, nonce: int | Tensor, bits: int, min_abs: float = 0.0
) -> Tensor:
    """The message by majority vote of its copies: (B, bits), 0 or 1, int64.

    In a tie the first copy decides; where that is not counted, the bit is 0. There is an answer for
    any noise: `detect` says whether there is a mark. (Yang et al. 2024)

    bits: the length of the message, at most one bit a place; the others as in `detect`
    Raises TypeError or ValueError as `detect` does, and for more bits than places.
    """
    signs, counted = _signs(noise, min_abs)                             # (B, D) each
    bits = _validate_length(bits, signs.shape[1])
    read = signs ^ _stream(key, nonce, *signs.shape)
    votes = F.pad((2 * read.long() - 1) * counted, (0, -signs.shape[1] % bits))
    votes = votes.unflatten(1, (-1, bits))                              # (B, copies, bits)
    return (2 * votes.sum(1) + votes[:, 0] > 0).long()


def detection_threshold(signs: int, false_positive_rate: float) -> int:
    """The fewest agreeing signs of so many that pictures without the mark reach at most this often.

    The least k with P(Bin(signs, 1/2) >= k) <= false_positive_rate; signs + 1, which no picture
    reaches, where even all of them are not enough. 256 signs and 1e-6: 167.
    Raises TypeError or ValueError for signs below 1, and a rate outside (0, 1].
    """
    signs = validate.whole(signs, "signs")
    rate = validate.number(false_positive_rate, "false_positive_rate", 0, 1, above=True)
    tail = stats.binom.sf(np.arange(-1, signs + 1), signs, 0.5)         # of 0 ... signs + 1
    return int((tail <= rate).argmax())


def majority_error(flip_rate: float, copies: int) -> float:
    """The probability that a vote of `copies` copies gives the wrong bit, each flipped on its own.

    P(Bin(copies, flip_rate) > copies / 2); a tie of an even number of copies is wrong half of the
    time, which makes it as good as one copy less.
    Raises TypeError or ValueError for a rate outside [0, 1] and copies below 1.
    """
    flip_rate = validate.number(flip_rate, "flip_rate", 0, 1)
    copies = validate.whole(copies, "copies")
    odd = copies if copies % 2 else copies - 1
    return float(stats.binom.sf(odd // 2, odd, flip_rate))


def _stream(key: int, nonce: int | Tensor, B: int, places: int) -> Tensor:
    """The keyed bits (B, places): SHAKE-256 of key and nonce, a hash function of any length."""
    key = validate.whole(key, "key", 0, 2**256 - 1, "a secret below 2^256").to_bytes(32, "big")
    nonces = _validate_nonce(nonce, B).tolist()
    streams = (
        hashlib.shake_256(key + n.to_bytes(8, "big")).digest(-(-places // 8)) for n in nonces
    )
    octets = np.stack([np.frombuffer(stream, np.uint8) for stream in streams])
    return torch.from_numpy(np.unpackbits(octets, axis=1, count=places)).bool()


def _spread(message: Tensor | None, B: int, places: int) -> Tensor:
    """The message's bit of each place: (B or 1, places), bool."""
    if message is None:
        return torch.zeros(1, places, dtype=torch.bool)
    message = validate.tensor(message, "message").cpu()
    if message.ndim not in (1, 2) or message.ndim == 2 and len(message) not in (1, B):
        raise ValueError(f"message must be bits (k,) or ({B}, k); got {tuple(message.shape)}")
    if not ((message == 0) | (message == 1)).all():
        raise ValueError("message must be bits, each 0 or 1")
    k = _validate_length(message.shape[-1], places)
    message = message.bool().view(-1, k)
    return message.repeat(1, -(-places // k))[:, :places]


def _signs(noise: Tensor, min_abs: float) -> tuple[Tensor, Tensor]:
    """Which numbers of noise (B, ...) are above 0, and which count: (B, D) each, bool, on the CPU.
    """
    min_abs = validate.number(min_abs, "min_abs", 0)
    flat = validate.real(noise, "noise", ndim=2).detach().cpu().flatten(1)
    return flat > 0, flat.abs() >= min_abs


def _validate_length(bits: int, places: int) -> int:
    return validate.whole(bits, "the length of the message", 1, places, "one bit a place at most")


def _validate_nonce(nonce: int | Tensor, B: int) -> Tensor:
    """The nonces (B,), int64."""
    if isinstance(nonce, int):
        nonce = validate.whole(nonce, "nonce", 0, 2**63 - 1, "below 2^63, never used before")
    nonce = validate.tensor(nonce, "nonce").cpu()
    kind = nonce.dtype in (torch.int64, torch.int32)
    if not kind or nonce.shape not in ((), (1,), (B,)) or (nonce < 0).any():
        got = validate.show(nonce) if kind else nonce.dtype
        raise ValueError(
            f"nonce must be a whole number, 0 or more, or ({B},) of them, one for each picture; "
            f"got {got}"
        )
    return nonce.expand(B)
