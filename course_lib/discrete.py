"""Masked (absorbing) discrete diffusion: text, puzzles, any sequence of tokens.

    forward   at time t each token is masked with probability t, independently of the others
    reverse   from t to s < t a masked token is revealed with probability (t - s) / t, and is then
              drawn from the prediction for its place; what is revealed stays

A denoiser here is any callable (x (B, L), t (B,), **condition) -> logits (B, L, V) of the clean
tokens. What it says of the mask itself is ignored, and so is what it says of places that are not
masked. (Austin et al. 2021; Sahoo et al. 2024; Shi et al. 2024)
"""
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import validate, validate_tokens
from .schedules import as_float64

ORDERS = ("random", "confidence")


def mask_tokens(
    x0: Tensor, t: Tensor | float, mask_id: int, generator: torch.Generator | None = None
) -> Tensor:
    """x_t: each token of x0 (B, L) masked with probability t, one number or (B,).   like x0

    Raises TypeError or ValueError for tokens that are no whole numbers (B, L), t outside [0, 1],
    and a mask_id that is no whole number.
    """
    x0 = validate_tokens.token_ids(x0, "x0")
    t = validate_tokens.level(t, len(x0)).cpu()
    mask_id = validate.whole(mask_id, "mask_id", 0)
    validate.generator(generator)
    return torch.where(_chance(t[:, None], x0, generator), mask_id, x0)


def masked_nll(logits: Tensor, x0: Tensor, x: Tensor, t: Tensor | float, mask_id: int) -> Tensor:
    """The bound on -log p(x0), in nats, by one t and one mask for each sequence: (B,).

    1 / t times the cross-entropy of the masked tokens, summed over the sequence. Its mean over t in
    (0, 1] and the masks is the bound. logits: (B, L, V), x: x_t (B, L), t: one number or (B,).
    Raises TypeError or ValueError for other shapes, t outside (0, 1], and an x0 that has the mask
    or ids without logits.
    (Sahoo et al. 2024, eq. 10; Shi et al. 2024, eq. 5)
    """
    x0, x = validate_tokens.token_ids(x0, "x0"), validate_tokens.token_ids(x, "x")
    t = validate_tokens.level(t, len(x0))
    if (t == 0).any():
        raise ValueError("t must be above 0: the weight is 1 / t, and at 0 nothing is masked")
    nll = _nll_of_masked(logits, x0, x, mask_id)
    return nll / t.to(nll.device, nll.dtype)


def _nll_of_masked(logits: Tensor, x0: Tensor, x: Tensor, mask_id: int) -> Tensor:
    """The cross-entropy of the masked tokens, their sum: (B,)"""
    if x.shape != x0.shape:
        raise ValueError(f"x must be like x0, {tuple(x0.shape)}; got {tuple(x.shape)}")
    logits = without_mask(validate_tokens.logits_of(logits, x), mask_id).float()
    x0 = validate_tokens.clean(x0, logits.shape[2], mask_id)
    nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")                 # (B, L)
    # a sum over chosen places: 0 times an infinite loss elsewhere would be nan
    return nll.where(x == mask_id, 0).sum(1)


def without_mask(logits: Tensor, mask_id: int) -> Tensor:
    """Logits (..., V) in which the mask itself has probability 0."""
    mask_id = validate.whole(mask_id, "mask_id", 0)
    is_mask = torch.arange(logits.shape[-1], device=logits.device) == mask_id
    return logits.masked_fill(is_mask, -torch.inf)


class MaskedDiffusion(nn.Module):
    """A network that fills in masks, as the training loop takes it: `draw` masks, `loss` scores.

    net:     (x (B, L), t (B,), **condition) -> logits (B, L, V)
    mask_id: the token that means "masked"; it may have logits, which are ignored
    Raises TypeError or ValueError for a net that cannot be called, and a mask_id that is no whole
    number.
    """

    def __init__(self, net: nn.Module, mask_id: int):
        super().__init__()
        self.net = validate.function(net, "net", "(x, t, **condition) -> logits (B, L, V)")
        self.mask_id = validate.whole(mask_id, "mask_id", 0)

    def forward(self, x: Tensor, t: Tensor | float, **condition) -> Tensor:
        """Logits of the clean tokens: x (B, L), t one number or (B,) -> (B, L, V)"""
        x = validate_tokens.token_ids(x, "x")
        t = validate_tokens.level(t, len(x)).to(x.device, torch.float32)
        return self.net(x, t, **condition)

    def draw(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """batch and, beside its x0 (B, L): t (B,) in (0, 1], one in each of B equal parts, and x.

        Evenly spread times: the mean over a batch has less noise than with independent ones.
        """
        if not isinstance(batch, dict) or "x0" not in batch:
            raise TypeError("a batch must be a dict with x0, token ids (B, L)")
        x0 = batch["x0"]
        validate.generator(generator)
        parts = torch.randperm(len(x0), generator=generator)
        t = (parts + 1 - torch.rand(len(x0), generator=generator, dtype=torch.float64)) / len(x0)
        return batch | {"t": t, "x": mask_tokens(x0, t, self.mask_id, generator)}

    def loss(self, x0: Tensor, x: Tensor, t: Tensor, **condition) -> Tensor:
        """The bound in nats per token, estimated with less noise than by 1 / t: (B,)

        Each number of masks, 0 to L, is equally likely and each from 1 on has the same weight in
        the bound. So it is (L + 1) / L times the mean over the masked tokens.
        (Hoogeboom et al. 2022, Autoregressive diffusion models, eq. 3 to 5)
        """
        x0, x = validate_tokens.token_ids(x0, "x0"), validate_tokens.token_ids(x, "x")
        L, masks = x0.shape[1], (x == self.mask_id).sum(1)
        nll = _nll_of_masked(self(x, t, **condition), x0, x, self.mask_id)
        return nll / masks.clamp(min=1) * (L + 1) / L

    def fingerprint(self) -> dict:
        """What makes this model this one, as JSON can hold it."""
        return _fingerprint(self.net, self.mask_id)


class Autoregressive(nn.Module):
    """The rival: a causal network that predicts each token from those before it.

    net:      (x (B, L)) -> logits (B, L, V), of which place l sees the places up to l alone
    start_id: the token that stands before the first one; it is never predicted
    Raises TypeError or ValueError for a net that cannot be called, or whose `config` says that it
    is not causal, and a start_id that is no whole number.
    """

    def __init__(self, net: nn.Module, start_id: int):
        super().__init__()
        self.net = validate.function(net, "net", "(x) -> logits (B, L, V)")
        self.start_id = validate.whole(start_id, "start_id", 0)
        config = getattr(net, "config", None)
        if isinstance(config, dict) and config.get("causal") is False:
            raise ValueError("net must be causal: this one sees the token that it predicts")

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each token of x (B, L), given those before it: (B, L, V)"""
        x = validate_tokens.token_ids(x, "x")
        before = F.pad(x[:, :-1], (1, 0), value=self.start_id)
        return without_mask(self.net(before), self.start_id)

    def nll(self, x0: Tensor) -> Tensor:
        """-log p of each sequence (B, L), in nats: (B,)"""
        x0 = validate_tokens.token_ids(x0, "x0")
        logits = self(x0).float()
        x0 = validate_tokens.clean(x0, logits.shape[2], self.start_id)
        return F.cross_entropy(logits.transpose(1, 2), x0, reduction="none").sum(1)

    def loss(self, x0: Tensor) -> Tensor:
        """`nll` in nats per token: (B,)"""
        return self.nll(x0) / x0.shape[1]

    def fingerprint(self) -> dict:
        """What makes this model this one, as JSON can hold it."""
        return _fingerprint(self.net, self.start_id)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        length: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n sequences (n, length), one token after the other: `length` evaluations."""
        n, length = validate.whole(n, "n"), validate.whole(length, "length")
        validate.number(temperature, "temperature", 0)
        validate.generator(generator)
        device = next(self.parameters(), torch.empty(0)).device
        x = torch.full((n, length), self.start_id, device=device)
        for k in range(length):
            logits = as_float64(self(x[:, : k + 1])[:, -1:])
            x[:, k : k + 1] = _draw(logits, temperature, generator)[0]
        return x


def unmask(
    D: Callable,
    x: Tensor,
    ts: Iterable[float],
    mask_id: int,
    *,
    order: str = "random",
    temperature: float = 1.0,
    remasking: float = 0.0,
    generator: torch.Generator | None = None,
    **condition,
) -> Iterator[Tensor]:
    """The reverse process from x (B, L): yields x, then one state for each step.

    x:           masks where tokens are wanted; other tokens are known and stay (infilling)
    ts:          falling, such as from 1, where all that is wanted is masked, to 0, where nothing is
    order:       "random": each masked token is revealed with probability (t - s) / t; "confidence":
                 as many of them, but those whose drawn token has the highest probability
    temperature: divides the logits of the token that is drawn; 0 takes the likeliest one
    remasking:   the probability, in each step, that a revealed token is masked again, no more than
                 keeps the marginals (Wang et al. 2025, ReMDM)
    condition:   passed on to D
    Raises TypeError or ValueError for inputs of another shape, kind or range.
    """
    x, ts = validate_tokens.token_ids(x, "x"), validate_tokens.falling(ts)
    validate.function(D, "D", "(x, t) -> logits (B, L, V)")
    mask_id = validate.whole(mask_id, "mask_id", 0)
    if getattr(D, "mask_id", mask_id) != mask_id:
        raise ValueError(f"mask_id is {mask_id}, and D was trained with {D.mask_id}")
    validate.generator(generator)
    validate.number(temperature, "temperature", 0)
    validate.number(remasking, "remasking", 0, 1, what="a probability")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}; got {order!r}")
    return _unmasked(D, x, ts, mask_id, order, temperature, remasking, generator, condition)


def _unmasked(
    D, x, ts, mask_id, order, temperature, remasking, generator, condition
) -> Iterator[Tensor]:
    wanted = x == mask_id
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        masked = x == mask_id
        level = torch.full((len(x),), t, device=x.device)
        with torch.no_grad():                               # a generator has its own grad mode
            logits = validate_tokens.logits_of(D(x, level, **condition), x)
        logits = as_float64(without_mask(logits, mask_id))
        drawn, log_p = _draw(logits, temperature, generator)
        again, reveal = _probabilities(t, s, remasking)
        chosen = masked & _chance(reveal, x, generator)
        if order == "confidence":
            ties = 1e-9 * _uniform(x.shape, generator, log_p.device)    # are broken by chance
            chosen = _surest(log_p + ties, masked, chosen.sum(1))
        hidden = wanted & ~masked & _chance(again, x, generator)
        x = torch.where(chosen, drawn.to(x.device), torch.where(hidden, mask_id, x))
        yield x


def _probabilities(t: float, s: float, remasking: float) -> tuple[float, float]:
    """That a revealed token is masked again, and that a masked one is revealed, from t to s.

    q_s is kept if (1 - t) (1 - again) + t reveal = 1 - s.
    """
    again = min(remasking, s / (1 - t)) if t < 1 else 0.0
    return again, ((1 - s) - (1 - again) * (1 - t)) / t


def _draw(
    logits: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A token for each place by Gumbel's trick, and the log-probability of that token: (B, L) each.
    """
    log_p = logits.log_softmax(-1)
    if temperature == 0:
        drawn = log_p.argmax(-1)
    else:
        u = _uniform(logits.shape, generator, logits.device).clamp(min=1e-300)
        drawn = (log_p / temperature - (-u.log()).log()).argmax(-1)
    return drawn, log_p.gather(-1, drawn[..., None])[..., 0]


def _surest(log_p: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The `count` (B,) masked places of each row whose drawn token is the likeliest: (B, L) bool"""
    hidden = ~masked.to(log_p.device)
    rank = log_p.masked_fill(hidden, -torch.inf).argsort(1, descending=True).argsort(1)
    return masked & (rank.to(masked.device) < count[:, None])


def _chance(p: Tensor | float, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """True with probability p (p: on the CPU), in x's shape and on its device."""
    return (_uniform(x.shape, generator, "cpu") < p).to(x.device)


def _uniform(shape: Iterable[int], generator: torch.Generator | None, device) -> Tensor:
    """Numbers in [0, 1) in float64: in bfloat16 one of 256 would be 0, in float32 one of 2^24."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(device)


def _fingerprint(net: nn.Module, special_id: int) -> dict:
    return {"net": [type(net).__name__, getattr(net, "config", None)], "special_id": special_id}
