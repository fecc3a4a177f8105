"""The questions of lesson 6 on other data, 6.8 to 6.12: text, video, shapes.

They continue lesson06.py. What is random is judged by counts: a deviation is a mistake where a
right answer shows it with a probability of about 1e-7 (six standard errors); of 1e-5 in 6.12.
"""
import copy
import math
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from scipy.stats import chi2
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..discrete import mask_tokens, masked_nll, unmask, without_mask
from ..samplers import last, step
from ..schedules import Schedule
from .common import (
    F64,
    SCHEDULES,
    Case,
    Question,
    Wrong,
    as_drawn,
    as_function,
    as_scalar,
    between,
    call_pure,
    compare_case,
    draw_case,
    fresh_generator,
    noise,
    not_finite,
    one_thread,
    reject_cut,
    reject_first,
    reject_if,
    reject_none,
    wrong_answers,
)
from .lesson06 import fresh_seed, judge_two

RARE = 1e-7                                                 # what counts as impossible


# ---- calls that draw, and what they drew

DRAWS = {
    "rand", "rand_like", "randn", "randn_like", "normal", "bernoulli", "multinomial",
    "uniform_", "normal_", "exponential_", "bernoulli_", "log_normal_", "cauchy_", "geometric_",
}                                                                                    # fmt: skip


class DrawSpy(TorchFunctionMode):
    """Notes the floating-point dtypes in which torch draws while it is entered."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_function__(self, f, types, args=(), kwargs=None):
        result = f(*args, **(kwargs or {}))
        name = getattr(f, "__name__", "")
        if name in DRAWS:
            # multinomial returns whole numbers: its precision is that of the probabilities
            self.dtypes.add((args or (kwargs["input"],))[0].dtype if name == "multinomial"
                            else result.dtype)
        return result


DRAW_SUSPECTS = {
    "your function changes a tensor that it was given: compute a new one":
        lambda c: c.changed,
    "the draws come from torch's global generator, so nobody can repeat them: use "
    "generator=generator":
        lambda c: c.global_draws,
}

PRECISION_SUSPECTS = {
    "the noise is drawn in bfloat16, which takes 256 values in [0, 1): -log(-log u) never exceeds "
    "5.5, so rare tokens are lost, and ties are common. Draw in float64":
        lambda c: torch.bfloat16 in c.dtypes,
    "the noise is drawn in float16, which takes 2,048 values in [0, 1): -log(-log u) never exceeds "
    "7.6, so rare tokens are lost. Draw in float64":
        lambda c: torch.float16 in c.dtypes,
    "the noise is drawn in float32, which takes 2^24 values in [0, 1): what is rarer than 6e-8 is "
    "never drawn. Draw in float64 (torch.multinomial does if its probabilities are float64)":
        lambda c: torch.float32 in c.dtypes,
}


def call_random(f: Callable, seed: int, *inputs: object) -> Case:
    """f(*inputs, generator) on copies: got, and what can be seen of the draws."""
    given = [x.clone() if torch.is_tensor(x) else x for x in inputs]
    c = Case()
    with torch.random.fork_rng(devices=[]), DrawSpy() as spy:
        before = torch.random.get_rng_state()
        c.got = as_function(f)(*given, torch.Generator().manual_seed(seed))
        c.global_draws = not torch.equal(before, torch.random.get_rng_state())
    reject_none(c.got)
    c.got = as_drawn(c.got)
    c.changed = any(torch.is_tensor(x) and not torch.equal(x, y) for x, y in zip(inputs, given))
    c.dtypes = spy.dtypes
    return c


def judge_generator(f: Callable, seed: int, got: Tensor, *inputs: object) -> None:
    """The generator decides: equal seeds give equal answers, other seeds others."""
    again, other = (call_random(f, s, *inputs).got for s in (seed, seed + 1))
    reject_if((not torch.equal(got, again), "the same generator gave two different answers: draw "
               "with generator=generator"),
              (torch.equal(got, other), "two generators with two seeds gave the same answer: draw "
               "with generator=generator, and make no generator of your own"))


def improbable(counts: Tensor, p: Tensor) -> bool:
    """Whether counts (..., V) are too far from probabilities p (..., V), by a chi-squared test."""
    n = counts.sum(-1, keepdim=True)
    expected = n * p
    used = expected > 0
    if (counts[~used] > 0).any():
        return True
    statistic = ((counts[used] - expected[used]) ** 2 / expected[used]).sum().item()
    freedom = int(used.sum() - (n > 0).sum())
    return statistic > chi2.isf(RARE, max(freedom, 1))


def count_tokens(x: Tensor, chosen: Tensor, V: int) -> Tensor:
    """How often each token stands at the chosen places of x (B, L): (L, V)."""
    return (F.one_hot(x, V) * chosen[..., None]).sum(0).double()


# ---- 6.8: one step of the reverse process

PLACES, TOKENS = 6, 6                                       # of the toy language, the mask included


class Language:
    """A denoiser of a toy language: logits (B, 6, 6) in float32, with a logit for the mask.

    The first token, which is known, tells one of two dialects; a token's distribution depends on
    the dialect, the place and the time. asked: what it was called with.
    """

    def __init__(self, mask_id: int):
        self.mask_id = mask_id
        self.tokens = [k for k in range(TOKENS) if k != mask_id]
        self.base = between(-1.2, 1.2, 2, PLACES, TOKENS)
        self.base[..., mask_id] = 1.0
        self.slope = between(-1, 1, PLACES, TOKENS)
        self.asked = []

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        t = torch.as_tensor(t, dtype=F64)
        reject_if((t.shape not in ((), (1,), x.shape[:1]),
                   f"D(x, t): t is one number for each text, ({len(x)},); got {tuple(t.shape)}"))
        self.asked.append((x.clone(), t))
        return self.logits(x, t.reshape(-1, 1, 1)).float()

    def dialect(self, x: Tensor) -> Tensor:
        return (x[:, 0] == self.tokens[0]).long()

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        return self.base[self.dialect(x)] + t * self.slope

    def table(self, t: Tensor) -> Tensor:
        """Log-probabilities without the mask, for each dialect: (2, 6, 6)."""
        return without_mask(self.base + t * self.slope, self.mask_id).log_softmax(-1)


def reveal_case(mask_id: int) -> Case:
    """12,000 texts at the time t, of which 70 % of five tokens are masked."""
    c = Case(mask_id=mask_id, D=Language(mask_id), n=12_000, t=between(0.5, 0.9))
    c.s = between(0.1, 0.35)
    g = fresh_generator()
    tokens = torch.tensor(c.D.tokens)
    x = tokens[torch.randint(0, TOKENS - 1, (c.n, PLACES), generator=g)]
    x[:, 0] = tokens[torch.randint(0, 2, (c.n,), generator=g)]
    hidden = torch.rand(c.n, PLACES, generator=g) < 0.7
    hidden[:, 0] = False
    c.x = torch.where(hidden, mask_id, x)
    c.hidden = hidden
    c.dialect = c.D.dialect(c.x)
    mask = (c.D.base + c.t * c.D.slope).softmax(-1)[..., mask_id]       # (2, 6)
    c.mask_drawn = mask[c.dialect][hidden].mean()
    return c


def right_rate(c: Case) -> Tensor:
    return (c.t - c.s) / c.t


RATE_MISTAKES = {
    "masked tokens are revealed with the probability t - s: that is their share of all tokens. Of "
    "those that are masked at t, a share of (t - s) / t was not masked at s":
        lambda c: c.t - c.s,
    "masked tokens are revealed with the probability (t - s) / (1 - s): that is the way up, the "
    "chance that a token which is there at s is masked by t":
        lambda c: (c.t - c.s) / (1 - c.s),
    "masked tokens are revealed with the probability s / t: that is the chance that they stay "
    "masked":
        lambda c: c.s / c.t,
    "masked tokens are revealed with the probability 1 - s: that is the share which is there at s "
    "of all tokens":
        lambda c: 1 - c.s,
    "masked tokens are revealed with the probability 1 - t":
        lambda c: 1 - c.t,
    "masked tokens are revealed with the probability t":
        lambda c: c.t,
    "masked tokens are revealed with the probability s":
        lambda c: c.s,
    "all masked tokens are revealed: in a step from t to s each one only with the probability "
    "(t - s) / t":
        lambda c: torch.ones_like(c.t),
    "no masked token is revealed":
        lambda c: torch.zeros_like(c.t),
    "too few tokens are revealed, and the missing ones are where the mask itself was drawn: it has "
    "a logit, which means nothing. Set it to -inf before the softmax":
        lambda c: right_rate(c) * (1 - c.mask_drawn),
}

ASKED_SUSPECTS = {
    "D is never called":
        lambda c: not c.asked,
    "D is evaluated {c.calls} times; once is enough":
        lambda c: c.calls > 1,
    "D gets another x than the text at time t":
        lambda c: not torch.equal(c.asked[0][0], c.x),
    "D gets the time s: the text is at time t, and the denoiser must know":
        lambda c: near(c.asked[0][1], c.s),
    "D gets another time than t":
        lambda c: not near(c.asked[0][1], c.t),
}

TEXT_SUSPECTS = {
    "a tensor of token ids (B, L) is wanted; got {c.came}":
        lambda c: not torch.is_tensor(c.got),
    "those are probabilities or logits, {c.got_shape}; token ids (B, L) are wanted":
        lambda c: c.got.ndim == 3,
    "expected shape {c.expected}; got {c.got_shape}":
        lambda c: c.got_shape != c.expected,
    "token ids are whole numbers, torch.int64; got {c.got.dtype}":
        lambda c: c.got.dtype not in (torch.int64, torch.int32),
    "there is a token {c.lowest}; ids run from 0 to 5":
        lambda c: c.lowest < 0,
    "there is a token {c.highest}; ids run from 0 to 5":
        lambda c: c.highest >= TOKENS,
    "tokens that were known are masked again: what is there stays":
        lambda c: c.known[c.known != c.x[~c.hidden]].eq(c.mask_id).sum() > len(c.known) // 100,
    "{c.lost:.0%} of the tokens that were known have changed: only masked ones may":
        lambda c: c.lost > 0,
}

PATTERN_SUSPECTS = {
    "the same places are revealed in all texts: each token needs a uniform number of its own, a "
    "draw like x":
        lambda c: c.partly and bool(((c.by_place == 0) | (c.by_place == 1)).all()),
    "a text reveals all of its masked tokens or none: each token needs a uniform number of its "
    "own, a draw like x":
        lambda c: c.partly and bool(((c.count == 0) | (c.count == c.masks)).all()),
    "texts with equally many masks reveal equally many tokens: each token is revealed by itself, "
    "so the number varies (binomial)":
        lambda c: c.partly and c.fixed,
}


def near(a: Tensor, b: Tensor) -> bool:
    return bool(((a - b).abs() < 1e-5).all())


def judge_unmask_step(f: Callable) -> None:
    """6.8: unmask_step(D, x, t, s, mask_id, generator) -> x_s (B, L)."""
    for mask_id in (TOKENS - 1, 2):
        draw = partial(reveal_case, mask_id)
        c = draw_case(draw, right_rate, RATE_MISTAKES, rtol=0, atol=0.008)
        try:
            judge_one_step(f, c)
        except Wrong as diagnosis:
            first = mask_id == TOKENS - 1
            where = "" if first else "right where the mask has the last id, but not for id 2: "
            raise Wrong(f"{where}{diagnosis}") from None
    judge_last_step(f, c)


def judge_one_step(f: Callable, c: Case) -> None:
    inputs = c.D, c.x, c.t.item(), c.s.item(), c.mask_id
    for _ in range(8):                  # one draw for all texts may reveal all places, or none
        c.D.asked.clear()
        seed = fresh_seed()
        vars(c).update(vars(call_random(f, seed, *inputs)))
        c.asked = c.D.asked
        c.calls = len(c.D.asked)
        reject_first(DRAW_SUSPECTS, c)
        reject_first(ASKED_SUSPECTS, c)
        describe_text(c)
        reject_first(TEXT_SUSPECTS, c)
        if c.partly:
            break
    judge_rate(c)
    judge_tokens(c)
    judge_generator(f, seed, c.got, *inputs)
    reject_first(PRECISION_SUSPECTS, c)


def describe_text(c: Case) -> None:
    """Facts of the reader's text, as far as it is one."""
    c.came = type(c.got).__name__
    c.got_shape = tuple(getattr(c.got, "shape", ()))
    c.expected = tuple(c.x.shape)
    if c.got_shape == c.expected:
        c.lowest = c.got.min().item()
        c.highest = c.got.max().item()
        c.known = c.got[~c.hidden]
        c.lost = (c.known != c.x[~c.hidden]).double().mean()
        c.revealed = c.hidden & (c.got != c.mask_id)
        c.rate = c.revealed.sum() / c.hidden.sum()
        c.partly = bool((c.rate > 0.01) & (c.rate < 0.99))


def judge_rate(c: Case) -> None:
    """How many masked tokens are revealed, and whether each is by itself."""
    c.masks = c.hidden.sum(1)                                           # (B,)
    c.count = c.revealed.sum(1)
    c.by_place = c.revealed.sum(0)[1:] / c.hidden.sum(0)[1:]
    groups = [c.count[c.masks == k] for k in range(1, PLACES)]
    c.fixed = all((group == group[0]).all() for group in groups)
    reject_first(PATTERN_SUSPECTS, c)
    error = 6 * (0.25 / c.hidden.sum()) ** 0.5
    if (c.rate - right_rate(c)).abs() > error:
        wrong = wrong_answers(RATE_MISTAKES, c)
        words = min(wrong, key=lambda words: (c.rate - wrong[words]).abs())
        reject_if(((c.rate - wrong[words]).abs() < error, words))
        raise Wrong(f"from t = {c.t:.2f} to s = {c.s:.2f} you reveal {c.rate:.3f} of the masked "
                    f"tokens; (t - s) / t is {right_rate(c):.3f}")
    judge_independence(c)


def judge_independence(c: Case) -> None:
    """Every masked token has the same chance, whatever becomes of the others."""
    p = right_rate(c).item()
    kinds = torch.stack([c.revealed & (c.dialect == k)[:, None] for k in (0, 1)]).sum(1)
    of = torch.stack([c.hidden & (c.dialect == k)[:, None] for k in (0, 1)]).sum(1)
    yes_no = torch.stack([kinds, of - kinds], -1).double()              # (2, 6, 2)
    reject_if((improbable(yes_no, torch.tensor([p, 1 - p], dtype=F64)),
               "the right share of tokens is revealed, but not at all places alike: each masked "
               "token has the same chance, whichever it is"))
    variance = (c.count - p * c.masks).square().mean() / (p * (1 - p) * c.masks).mean()
    reject_if(((variance - 1).abs() > 6 * (3 / c.n) ** 0.5,
               "the right share of tokens is revealed, but not each by itself: the number in a "
               f"text has {variance:.2f} times the variance of independent draws"))


def tokens_at_once(c: Case) -> Tensor:
    """Softmax of the softmax."""
    return without_mask(c.D.table(c.t).exp(), c.mask_id).softmax(-1)


TOKEN_MISTAKES = {
    "the likeliest token is taken each time; draw from the distribution":
        lambda c: F.one_hot(c.D.table(c.t).argmax(-1), TOKENS),
    "all tokens are equally likely in yours: D's logits are not used":
        lambda c: without_mask(torch.zeros(2, PLACES, TOKENS), c.mask_id).softmax(-1),
    "the softmax is taken twice":
        tokens_at_once,
    "the logits have the wrong sign":
        lambda c: without_mask(-c.D.table(c.t), c.mask_id).softmax(-1),
}


def judge_tokens(c: Case) -> None:
    """The revealed tokens have D's distribution, and are drawn one by one."""
    by_dialect = [c.revealed & (c.dialect == k)[:, None] for k in (0, 1)]
    counts = torch.stack([count_tokens(c.got, chosen, TOKENS) for chosen in by_dialect])
    counts = counts[:, 1:]                                              # (2, 5, 6)
    table = c.D.table(c.t)[:, 1:].exp()
    if improbable(counts, table):
        for words, p in wrong_answers(TOKEN_MISTAKES, c).items():
            reject_if((not improbable(counts, p[:, 1:].double()), words))
        single = (counts == counts.sum(-1, keepdim=True)).any(-1).all()
        reject_if((single, "all texts of a dialect get the same token at a place: the noise of the "
                   "draw must be new for each text, (B, L, V)"))
        frequency = counts / counts.sum(-1, keepdim=True)
        worst = (frequency - table).abs().argmax()
        raise Wrong(f"a token that has probability {table.flatten()[worst]:.3f} is drawn with the "
                    f"frequency {frequency.flatten()[worst]:.3f}: draw from softmax(logits) "
                    "without the mask")
    for chosen, p in zip(by_dialect, table):
        judge_pairs(c, chosen, p)


def judge_pairs(c: Case, chosen: Tensor, p: Tensor) -> None:
    """Tokens of neighbouring places are independent, given the dialect."""
    for i in (1, 3):
        both = chosen[:, i] & chosen[:, i + 1]
        pairs = c.got[both, i] * TOKENS + c.got[both, i + 1]
        counts = torch.bincount(pairs, minlength=TOKENS**2).double()
        reject_if((improbable(counts, torch.outer(p[i - 1], p[i]).flatten()),
                   "the tokens of a text are drawn with one noise for all places: it must be new "
                   "for each place, (B, L, V)"))


def judge_last_step(f: Callable, c: Case) -> None:
    """From t to 0 nothing stays masked; from t = 1, all may be masked."""
    for t, x in ((c.t.item(), c.x), (1.0, torch.full_like(c.x, c.mask_id))):
        got = call_random(f, fresh_seed(), c.D, x, t, 0.0, c.mask_id).got
        left = (got == c.mask_id).sum()
        reject_if((left > 0, f"right in between, but in the step from t = {t:.2f} to s = 0 "
                   f"{left} tokens stay masked: (t - s) / t is 1 there"))


# ---- 6.9: a bound, and the noise of a draw

WORDS, LENGTH, TEXTS = 6, 7, 5000                           # of the bound's toy, the mask included


class Guesser:
    """A denoiser of 6.9: logits (B, 7, 6) in float32, also of the mask, also at known places.

    They depend on the place, the time, and how much is known. asked: what it was called with.
    """

    def __init__(self, mask_id: int):
        self.mask_id = mask_id
        self.base = between(-1, 1, LENGTH, WORDS)
        self.base[:, mask_id] = 0.7
        self.slope = between(-1.5, 1.5, LENGTH, WORDS)
        self.known = between(-0.3, 0.3, LENGTH, WORDS)
        self.asked = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        reject_if((t.shape != x.shape[:1], f"bound: each text has a time of its own, t of shape "
                   f"({len(x)},); D gets {tuple(t.shape)}"))
        self.asked.append((x.clone(), t.double()))
        return self.logits(x, t.double()).float()

    def logits(self, x: Tensor, t: Tensor) -> Tensor:
        known = (x != self.mask_id).sum(1)[:, None, None]
        return self.base + t[:, None, None] * self.slope + known * self.known


def draw_texts() -> Case:
    g = fresh_generator()
    mask_id = (0, 3, WORDS - 1)[int(torch.randint(0, 3, (1,), generator=g))]
    tokens = torch.tensor([k for k in range(WORDS) if k != mask_id])
    x0 = tokens[torch.randint(0, WORDS - 1, (TEXTS, LENGTH), generator=g)]
    return Case(D=Guesser(mask_id), x0=x0, mask_id=mask_id)


def losses(c: Case, mask_too: bool = False) -> Tensor:
    """-log p of each clean token at the noise that the reader drew: (B, L) float64."""
    logits = c.D.logits(c.x, c.t)
    logits = logits if mask_too else without_mask(logits, c.mask_id)
    return F.cross_entropy(logits.transpose(1, 2), c.x0, reduction="none")


def estimate(c: Case, weight: Callable, mask_too: bool = False, everywhere: bool = False) -> Tensor:
    """The sum of weighted losses over the masked places, or over all, divided by L: (B,)."""
    nll = losses(c, mask_too)
    nll = nll if everywhere else nll * c.masked
    return weight(c.t) * nll.sum(1) / LENGTH


def inverse(t: Tensor) -> Tensor:
    return 1 / t


def right_bound(c: Case) -> Tensor:
    return estimate(c, inverse)


def per_mask(c: Case) -> Tensor:
    """The factor from a sum over the sequence, divided by L, to a mean over the masks."""
    return LENGTH / c.masked.sum(1).clamp(min=1)


PLANTED = {
    "the weight 1 / t is missing: without it the sum is no bound": dict(weight=torch.ones_like),
    "places that are not masked are counted: what D says of them means nothing":
        dict(everywhere=True),
    "the mask's own logit is in the softmax: the mask is no word, so set it to -inf":
        dict(mask_too=True),
}


def planted_bugs() -> dict[str, Callable]:
    """The copied function's bugs, those that are left: all three, pairs, one."""
    table, names = {}, list(PLANTED)
    for bugs in (names, names[:2], names[::2], names[1:], *([name] for name in names)):
        changes = {k: v for name in bugs for k, v in PLANTED[name].items()}
        how = {1: "", 2: "two bugs are left. ", 3: "nothing is repaired. "}[len(bugs)]
        table[f"bound: {how}{'; '.join(bugs)}"] = partial(
            lambda changes, c: estimate(c, **{"weight": inverse} | changes), changes)
    return table


BOUND_MISTAKES = planted_bugs() | {
    "bound: the mean over the masked tokens, without a weight, is L / (L + 1) of the bound on "
    "average: near, but a text without masks counts 0. Divide by L, and weight by 1 / t":
        lambda c: estimate(c, torch.ones_like) * per_mask(c),
    "bound: the mean over the masked tokens is weighted by 1 / t, too: rare masks count twice. "
    "The sum over the sequence is divided by L":
        lambda c: estimate(c, inverse) * per_mask(c),
    "bound: those are nats for the whole text; per token they are divided by L":
        lambda c: estimate(c, inverse) * LENGTH,
    "bound: the weight is t; a rare mask must count more, so 1 / t":
        lambda c: estimate(c, lambda t: t),
    "bound: the weight is 1 / (1 - t), that of a clock which runs backwards":
        lambda c: estimate(c, lambda t: 1 / (1 - t)),
    "bound: the weight is 1 / t^2":
        lambda c: estimate(c, lambda t: 1 / t**2),
    "bound: the weight is 1 / t of another text":
        lambda c: estimate(c, lambda t: 1 / t.flip(0)),
    "bound: the weight is the mean of 1 / t over the batch; each text has its own":
        lambda c: estimate(c, lambda t: (1 / t).mean().expand_as(t)),
    "bound: the sign: a bound on -log p is positive":
        lambda c: -right_bound(c),
    "bound: those are bits; nats have the natural logarithm":
        lambda c: right_bound(c) / math.log(2),
    "bound: that is the probability, not its negative logarithm":
        lambda c: ((-losses(c)).exp() * c.masked).sum(1) / LENGTH / c.t,
}

NOISE_SUSPECTS = {
    "bound: D is never called":
        lambda c: not c.asked,
    "bound: D is called {c.calls} times; once for the batch is enough":
        lambda c: c.calls > 1,
    "bound: D gets {c.asked_shape}; texts {c.expected} are wanted":
        lambda c: c.asked_shape != c.expected,
    "bound: D gets x0 itself: mask it first":
        lambda c: torch.equal(c.x, c.x0),
    "bound: all tokens are masked, whatever t is":
        lambda c: c.masked.all(),
    "bound: D gets tokens that are neither the text's nor the mask":
        lambda c: (c.x[~c.masked] != c.x0[~c.masked]).any(),
    "bound: t lies outside (0, 1]":
        lambda c: c.t.min() < 0 or c.t.max() > 1,
    "bound: all texts have the same time: draw one for each":
        lambda c: c.t.min() == c.t.max(),
    "bound: t is not uniform in (0, 1]: the bound is the mean over all t":
        lambda c: (c.t.sort().values - c.even).abs().max() > 2.9 / TEXTS**0.5,
    "bound: tokens are masked with the probability 1 - t; at t = 1 all are masked":
        lambda c: not improbable(c.by_time, torch.stack([1 - c.mean_t, c.mean_t], 1)),
    "bound: {c.share:.2f} of the tokens are masked whatever t is; each token is masked with "
    "probability t":
        lambda c: c.slope.abs() < 0.1 and c.own_spread < 1.2,
    "bound: the masks are those of other times than D gets, and than the weight has":
        lambda c: c.slope.abs() < 0.1,
    "bound: a text is masked as a whole or not at all: draw a number for each token, like x0":
        lambda c: (c.masked.all(1) | ~c.masked.any(1)).all(),
    "bound: all texts have the same uniform numbers, so their masks lie one within the other: draw "
    "like x0":
        lambda c: c.nested,
    "bound: the number of masks is fixed by t; each token is masked by itself, so it varies":
        lambda c: c.spread < 0.8,
    "bound: {c.some_share:.3f} of the tokens are masked where t is {c.mean_t[4]:.2f} on average; "
    "each token is masked with probability t":
        lambda c: improbable(c.by_time, torch.stack([c.mean_t, 1 - c.mean_t], 1)),
    "bound: the masks of a text are not independent: draw a number for each token":
        lambda c: c.spread > 1.2,
}


def judge_bound(f: Callable) -> None:
    """6.9: masked_bound(D, x0, mask_id, generator) -> (B,) nats per token."""
    c = draw_texts()
    seed = fresh_seed()
    vars(c).update(vars(call_random(f, seed, c.D, c.x0, c.mask_id)))
    reject_first({f"bound: {words}": guilty for words, guilty in DRAW_SUSPECTS.items()}, c)
    describe_noise(c)
    reject_first(NOISE_SUSPECTS, c)
    empty = ~c.masked.any(1)
    if torch.is_tensor(c.got) and c.got.shape == empty.shape:
        bad = ~c.got.isfinite()
        reject_if((bad.any() and not bad[~empty].any(), "bound: a text without masks gives 0 / 0: "
                   "you divide by the number of its masks. The sum is divided by L"))
        not_finite(c.got, "bound: inf or nan: what D says of the mask is infinite, and 0 times "
                   "infinity is nan. Choose places with torch.where")
    compare_case(c.got, c, right_bound, BOUND_MISTAKES, rtol=1e-3, otherwise=(
        "bound: the noise is right, the number is not: the sum over the masked places of -log p, "
        "without the mask in the softmax, divided by t and by L"))
    judge_generator(f, seed, c.got, c.D, c.x0, c.mask_id)


def describe_noise(c: Case) -> None:
    """Facts of the times and masks that the reader drew."""
    c.asked = c.D.asked
    c.calls = len(c.D.asked)
    c.expected = tuple(c.x0.shape)
    c.asked_shape = tuple(c.asked[0][0].shape) if c.asked else ()
    if c.asked_shape != c.expected:
        return
    c.x, c.t = c.asked[0]
    c.masked = c.x == c.mask_id
    c.even = (torch.arange(TEXTS) + 0.5) / TEXTS
    rows = c.t.argsort().view(10, -1)                       # ten groups by time
    hits = c.masked.sum(1)[rows].sum(1).double()
    c.by_time = torch.stack([hits, rows.shape[1] * LENGTH - hits], 1)
    c.mean_t = c.t[rows].mean(1)
    c.share = c.masked.double().mean()
    c.some_share = c.by_time[4, 0] / c.by_time[4].sum()
    off = c.t - c.t.mean()
    c.slope = (off * c.masked.double().mean(1)).sum() / off.square().sum()
    inside = torch.where(c.masked, c.t[:, None], 2).amin(0)
    outside = torch.where(c.masked, -1, c.t[:, None]).amax(0)
    c.nested = bool((inside >= outside).all())
    count = c.masked.sum(1).double()                        # beside a binomial variable's variance
    c.spread = (count - LENGTH * c.t).square().mean() / (LENGTH * c.t * (1 - c.t)).mean()
    c.own_spread = count.var() / (LENGTH * c.share * (1 - c.share))


# the draw: a distribution of five words at each of two places, and a sixth that is impossible

DRAW_N = 30_000


def draw_words() -> Case:
    p = between(0.5, 1, 2, 6) ** 3
    p[:, 2] = 0
    p = p / p.sum(-1, keepdim=True)
    return Case(p=p, log_p=p.log().float().expand(DRAW_N, 2, 6))


def simulated(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Case], Tensor]:
    """Frequencies (2, 6) of the word with the largest change(log p, uniform numbers)."""
    def frequencies(c: Case) -> Tensor:
        u = torch.rand(100_000, 1, 6, generator=fresh_generator(), dtype=F64)
        value = change(c.p.log(), u).where(c.p > 0, -torch.inf)
        return F.one_hot(value.argmax(-1), 6).double().mean(0)
    return frequencies


def gumbel(u: Tensor) -> Tensor:
    return -(-u.log()).log()


DRAW_MISTAKES = {
    "draw: the likeliest word is taken each time: the noise is missing":
        lambda c: F.one_hot(c.p.argmax(-1), 6),
    "draw: Gumbel noise is -log(-log u); yours has the other sign":
        simulated(lambda log_p, u: log_p - gumbel(u)),
    "draw: -log u is exponential noise; Gumbel noise is -log(-log u)":
        simulated(lambda log_p, u: log_p - u.log()),
    "draw: the noise is normal; Gumbel's trick needs -log(-log u)":
        simulated(lambda log_p, u: log_p + torch.special.ndtri(u)),
    "draw: the noise is uniform; Gumbel's trick needs -log(-log u)":
        simulated(lambda log_p, u: log_p + u),
    "draw: the noise is added to the probabilities; it belongs to their logarithms":
        simulated(lambda log_p, u: log_p.exp() + gumbel(u)),
    "draw: all words are equally likely in yours":
        lambda c: torch.full((2, 6), 1 / 6),
}

DRAW_TEXT_SUSPECTS = {
    "draw: a tensor of words is wanted, the shape of log_p without its last dimension; got "
    "{c.came}":
        lambda c: not torch.is_tensor(c.got),
    "draw: expected shape {c.expected}; got {c.got_shape}":
        lambda c: c.got_shape != c.expected,
    "draw: words are whole numbers, torch.int64; got {c.got.dtype}":
        lambda c: c.got.is_floating_point(),
}


def judge_draw(f: Callable) -> None:
    """6.9: draw_tokens(log_p, generator) -> a token for each place, drawn in float64."""
    c = draw_words()
    seed = fresh_seed()
    vars(c).update(vars(call_random(f, seed, c.log_p)))
    c.came = type(c.got).__name__
    c.got_shape = tuple(getattr(c.got, "shape", ()))
    c.expected = (DRAW_N, 2)
    reject_first({f"draw: {words}": guilty for words, guilty in DRAW_SUSPECTS.items()}, c)
    reject_first(DRAW_TEXT_SUSPECTS, c)
    reject_first({f"draw: {words}": guilty for words, guilty in PRECISION_SUSPECTS.items()}, c)
    judge_rows(f, seed, c)
    judge_words(c)
    judge_generator(f, seed, c.got, c.log_p)
    judge_many_words(f)


def judge_rows(f: Callable, seed: int, c: Case) -> None:
    """Rows that all have the same word, another one with another seed, share their noise."""
    if (c.got == c.got[:1]).all():
        others = [call_random(f, seed + k, c.log_p).got[:1] for k in range(1, 7)]
        reject_if((any((got != c.got[:1]).any() for got in others), "draw: all rows get the same "
                   "word: the noise must be new for each, of log_p's shape"))


def judge_words(c: Case) -> None:
    """The frequencies of each place, and that places and rows are drawn one by one."""
    counts = count_tokens(c.got, torch.ones_like(c.got, dtype=torch.bool), 6)
    reject_if((counts[:, 2].sum() > 0, "draw: a word of probability 0 is drawn, log p = -inf: "
               "is something added to its probability?"))
    if improbable(counts, c.p):
        for words, p in wrong_answers(DRAW_MISTAKES, c).items():
            reject_if((not improbable(counts, p.double()), words))
        raise Wrong(f"draw: words of probabilities {listed(c.p[0])} have the frequencies "
                    f"{listed(counts[0] / DRAW_N)}")
    pairs = torch.bincount(c.got[:, 0] * 6 + c.got[:, 1], minlength=36).double()
    reject_if((improbable(pairs, torch.outer(c.p[0], c.p[1]).flatten()), "draw: the places of a "
               "text have the same noise: it must be new for each, of log_p's shape"))


def listed(p: Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in p.tolist())


def judge_many_words(f: Callable) -> None:
    """256 equal words, where ties would be common, and rare words, which would be lost."""
    equal = torch.full((256,), 1 / 256, dtype=F64)
    rare = torch.full((41,), 0.1 / 40, dtype=F64)
    rare[0] = 0.9
    for p, words in ((equal, "of 256 words of equal probability the first are drawn more often "
                      "than the last: ties are broken towards the first. Is the noise rounded?"),
                     (rare, "words of probability 0.0025 are not drawn as often as they should. Is "
                      "the noise rounded, or bounded?")):
        n = 20_000
        got = call_random(f, fresh_seed(), p.log().float().expand(n, -1)).got
        reject_if((tuple(got.shape) != (n,), f"draw: log_p of shape ({n}, V) should give ({n},); "
                   f"got {tuple(got.shape)}"))
        counts = torch.bincount(got.long(), minlength=len(p)).double()
        if p is equal:                                      # eight groups of 32 words
            counts, p = counts.view(8, 32).sum(1), torch.full((8,), 1 / 8, dtype=F64)
        reject_if((improbable(counts, p), f"draw: right for a few words, but {words}"))


def judge_bound_and_draw(answer: object) -> None:
    """6.9: (masked_bound, draw_tokens)."""
    parts = {"masked_bound": judge_bound, "draw_tokens": judge_draw}
    judge_two(answer, parts, "6.9", (None, None, None, None))


# ---- 6.10: attention over the frames, and noise for each frame

CLIP = (2, 5, 3, 4, 6)                                      # (B, F, C, H, W), all different


class Mixer:
    """A stand-in for attention: (N, F, C) -> (N, F, C), the frames mixed, each in its own way."""

    def __init__(self):
        B, frames, C, H, W = CLIP
        self.over_frames = between(-1, 1, frames, frames)
        self.over_channels = between(-1, 1, C, C)
        self.shapes = []

    def __call__(self, h: Tensor) -> Tensor:
        B, frames, C, H, W = CLIP
        got = tuple(h.shape)
        reject_if((h.ndim != 3, f"frames: attend takes (N, {frames}, {C}); got {got}"),
                  *[(got[1:] == wrong, words) for wrong, words in ATTEND_SHAPES.items()],
                  (got[1:] != (frames, C), f"frames: attend takes (N, {frames}, {C}): the second "
                   f"dimension is the frames, the third the channels; got {got}"))
        return self.mix(h)

    def mix(self, h: Tensor) -> Tensor:
        return torch.tanh(self.over_frames @ h @ self.over_channels + h)


ATTEND_SHAPES = {
    (CLIP[2], CLIP[1]): "frames: frames and channels have changed places: attend takes (N, F, C)",
    (CLIP[3] * CLIP[4], CLIP[2]): "frames: that is attention within each frame, over its places; "
                                  "the frames belong into the second dimension",
    (CLIP[0] * CLIP[1], CLIP[2]): "frames: the frames of all clips stand in one sequence: clips "
                                  "must not see each other",
    (CLIP[1] * CLIP[3] * CLIP[4], CLIP[2]): "frames: all places of all frames stand in one "
                                            "sequence; each place has a sequence of its own",
}


def draw_clip() -> Case:
    return Case(x=noise(*CLIP), attend=Mixer())


def at_each_place(c: Case, x: Tensor | None = None) -> Tensor:
    """What attend returns for each place: (B, H, W, F, C)."""
    return c.attend.mix((c.x if x is None else x).permute(0, 3, 4, 1, 2))


def right_frames(c: Case) -> Tensor:
    return at_each_place(c).permute(0, 3, 4, 1, 2)


def straight(c: Case, transposed: Tensor | None = None) -> Tensor:
    """(N, F, C) by a reshape alone, of x or of x with its dimensions moved, and straight back."""
    B, frames, C, H, W = CLIP
    h = (c.x if transposed is None else transposed).reshape(-1, frames, C)
    return c.attend.mix(h).reshape(CLIP)


FRAMES_MISTAKES = {
    "frames: a reshape alone does not move dimensions: your sequences are made of neighbouring "
    "numbers, and not of the frames of one place. Permute to (B, H, W, F, C) first":
        straight,
    "frames: the way there is right, the way back is not: what attend returns is (B, H, W, F, C) "
    "and needs a permute as well":
        lambda c: at_each_place(c).reshape(CLIP),
    "frames: there is a permute on the way back, and none on the way there":
        lambda c: c.attend.mix(c.x.reshape(-1, CLIP[1], CLIP[2])).reshape(
            CLIP[0], CLIP[3], CLIP[4], CLIP[1], CLIP[2]).permute(0, 3, 4, 1, 2),
    "frames: height and width have changed places on the way back":
        lambda c: at_each_place(c).reshape(
            CLIP[0], CLIP[4], CLIP[3], CLIP[1], CLIP[2]).permute(0, 3, 4, 2, 1),
    "frames: batch and places have changed places on the way back: keep the order of the "
    "sequences":
        lambda c: at_each_place(c).reshape(
            CLIP[3], CLIP[4], CLIP[0], CLIP[1], CLIP[2]).permute(2, 3, 4, 0, 1),
    "frames: frames and channels have changed places before the reshape; then it is wrong as "
    "before":
        lambda c: straight(c, c.x.transpose(1, 2)),
    "frames: x is added to what attend returns: nobody asked for a residual connection":
        lambda c: c.x + right_frames(c),
    "frames: x has not changed":
        lambda c: c.x,
}


def judge_frames(f: Callable) -> None:
    """6.10: over_frames(attend, x) -> like x."""
    c = draw_case(draw_clip, right_frames, FRAMES_MISTAKES)
    got = call_pure(f, c.attend, c.x)
    compare_case(got, c, right_frames, FRAMES_MISTAKES, otherwise=(
        "frames: not what attend returns at each place: (B, F, C, H, W) -> (B, H, W, F, C) -> "
        "(B H W, F, C), and the same way back"))
    x = c.x.clone().requires_grad_()
    reject_cut(f(c.attend, x), [x], "frames: right, but no gradient gets through: no "
               "torch.no_grad() and no .detach() in a layer")


class ClipDenoiser:
    """The exact denoiser of Gaussian clips: correlation 0.8 between neighbouring frames.

    x (B, F, ...), t (B, F) -> like x. asked: what it was called with.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedule
        self.asked = []

    def __call__(self, x: Tensor, t: Tensor | float) -> Tensor:
        self.asked.append((x.clone(), torch.as_tensor(t, dtype=F64)))
        return self.posterior_mean(x, self.times(x, t))

    def times(self, x: Tensor, t: Tensor | float) -> Tensor:
        """t as (B, F). Raises Wrong for another shape."""
        t = torch.as_tensor(t, dtype=F64)
        reject_if((t.shape not in ((), x.shape[:1], x.shape[:2]),
                   f"next: D takes t of shape (B, F), here {tuple(x.shape[:2])}; got "
                   f"{tuple(t.shape)}"))
        return (t[:, None] if t.ndim == 1 else t).expand(x.shape[:2])

    def posterior_mean(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)           # (B, F)
        number = torch.arange(x.shape[1], dtype=F64)
        covariance = 0.8 ** (number[:, None] - number).abs()
        noisy = alpha[:, :, None] * covariance * alpha[:, None] + (sigma**2).diag_embed()
        solved = torch.linalg.solve(noisy, x.flatten(2))                # (B, F, pixels)
        return (covariance @ (alpha[:, :, None] * solved)).view(x.shape)


def draw_rollout(name: str) -> Case:
    """Three known frames, two new ones at level t."""
    c = Case(schedule=SCHEDULES[name], known=noise(4, 3, 1, 2, 2), x=noise(4, 2, 1, 2, 2),
             t=between(0.55, 0.85).item(), s=between(0.2, 0.45).item())
    c.D = ClipDenoiser(c.schedule)
    return c


def predicted(c: Case) -> Tensor:
    """x0_hat of the whole clip, its known frames clean."""
    t = torch.tensor([0.0] * 3 + [c.t] * 2, dtype=F64).expand(4, 5)
    return c.D.posterior_mean(torch.cat([c.known, c.x], 1), t)


def stepped(c: Case, x0_hat: Tensor) -> Tensor:
    return step(c.schedule, c.x, x0_hat, c.t, c.s)


def right_next(c: Case) -> Tensor:
    return stepped(c, predicted(c)[:, 3:])


def rescaled(c: Case) -> Tensor:
    """alpha_s x0_hat + sigma_s eps_hat, with eps_hat = x - x0_hat."""
    x0_hat = predicted(c)[:, 3:]
    return c.schedule.alpha(c.s) * x0_hat + c.schedule.sigma(c.s) * (c.x - x0_hat)


NEXT_MISTAKES = {
    "next: that is x0_hat; a step to level s is wanted":
        lambda c: predicted(c)[:, 3:],
    "next: the x0_hat of the known frames is used; those of the new ones are the last":
        lambda c: stepped(c, predicted(c)[:, :2]),
    "next: that is alpha_s x0_hat, without the noise of level s":
        lambda c: c.schedule.alpha(c.s) * predicted(c)[:, 3:],
    "next: eps_hat is (x - alpha_t x0_hat) / sigma_t, not x - x0_hat":
        rescaled,
    "next: the new frames have not changed":
        lambda c: c.x,
}

NEXT_SUSPECTS = {
    "next: D is never called":
        lambda c: not c.asked,
    "next: D is called {c.calls} times; once is enough":
        lambda c: c.calls > 1,
    "next: D gets the new frames alone: it must see the known ones, too. torch.cat along the "
    "frames":
        lambda c: c.clip_shape == tuple(c.x.shape),
    "next: D gets {c.clip_shape}; the clip is {c.expected}, known frames first":
        lambda c: c.clip_shape != c.expected,
    "next: the new frames stand before the known ones":
        lambda c: torch.equal(c.clip, torch.cat([c.x, c.known], 1)),
    "next: the known frames are changed before D gets them: they are clean, and their time is 0":
        lambda c: not torch.equal(c.clip[:, :3], c.known),
    "next: the new frames are changed before D gets them":
        lambda c: not torch.equal(c.clip[:, 3:], c.x),
    "next: one time for all frames: D takes the known frames for as noisy as the new ones. Their "
    "time is 0":
        lambda c: near(c.times, torch.tensor(c.t)),
    "next: D gets the time 0 for all frames: the new ones have the level t":
        lambda c: near(c.times, torch.tensor(0.0)),
    "next: the times have changed places: 0 for the known frames, t for the new ones":
        lambda c: near(c.times, torch.tensor([c.t] * 3 + [0.0] * 2)),
    "next: D gets the time s for the new frames: they are at level t":
        lambda c: near(c.times[:, 3:], torch.tensor(c.s)),
    "next: the times that D gets are {c.row}; 0 for known frames and t = {c.t:.2f} for new ones "
    "are wanted":
        lambda c: not near(c.times, torch.tensor([0.0] * 3 + [c.t] * 2)),
    "next: the whole clip comes back; the new frames are wanted":
        lambda c: tuple(getattr(c.got, "shape", ())) == c.expected,
}


def judge_next(f: Callable) -> None:
    """6.10: next_frames(D, schedule, known, x, t, s) -> the new frames at level s."""
    for name in ("cosine", "flow"):
        c = draw_case(partial(draw_rollout, name), right_next, NEXT_MISTAKES)
        call_next(f, c)
        reject_first(NEXT_SUSPECTS, c)
        compare_case(c.got, c, right_next, NEXT_MISTAKES, otherwise=(
            f"next: {name}: D gets the right clip and times, but the step is not DDIM's from t to "
            "s on the new frames: samplers.step(schedule, x, x0_hat, t, s)"))
    for t, s in ((1.0, c.s), (c.t, 0.0)):
        c.t = t
        c.s = s
        c.D.asked.clear()
        call_next(f, c)
        reject_first(NEXT_SUSPECTS, c)
        words = f"next: right in between, but not from t = {t:.2f} to s = {s:.2f}"
        not_finite(c.got, f"{words}: nan or inf. Divide by neither alpha nor sigma_s")
        compare_case(c.got, c, right_next, NEXT_MISTAKES, otherwise=words)


def call_next(f: Callable, c: Case) -> None:
    """The reader's new frames, and what D was asked."""
    once = call_pure(f, c.D, c.schedule, c.known, c.x, c.t, c.s)
    c.got = once
    # call_pure calls twice, so each question comes twice
    c.asked = c.D.asked
    c.calls = len(c.D.asked) // 2
    c.expected = (4, 5, 1, 2, 2)
    c.clip, t = c.asked[0] if c.asked else (torch.zeros(0), torch.zeros(()))
    c.clip_shape = tuple(c.clip.shape)
    if c.clip_shape == c.expected:
        c.times = c.D.times(c.clip, t)
        c.row = ", ".join(f"{value:.2f}" for value in c.times[0].tolist())


def judge_clips(answer: object) -> None:
    """6.10: (over_frames, next_frames)."""
    parts = {"over_frames": judge_frames, "next_frames": judge_next}
    judge_two(answer, parts, "6.10", (None, None, None, None, None, None))


# ---- 6.11: a network on sets

def judge_set(answer: object) -> None:
    """6.11: SetNet() -> a network (B, P, 3) -> (B, P, 3), equivariant and not blind."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), one_thread():
        torch.manual_seed(fresh_seed())
        c = Case(net=build(answer), x=noise(4, 12, 3))
        describe_set(c)
        reject_first(SET_SUSPECTS, c)
        judge_sizes(c)
        describe_order(c)
        if c.broken:
            reject_first(ORDER_SUSPECTS, c)
        reject_if((c.blind, "equivariant, but blind: each point's output depends on that point "
                   "alone, as in a shared MLP. Pool over the points, dim=1, or attend to them"))
        judge_jumps(c)
        judge_gradients(c)


def judge_gradients(c: Case) -> None:
    """A gradient reaches the points."""
    with torch.enable_grad():
        x = c.x.clone().requires_grad_()
        reject_cut(c.net(x), [x], "equivariant, but no gradient gets through, so nothing can be "
                   "trained: no torch.no_grad() and no .detach() in a network")


def build(answer: object) -> Callable:
    """The reader's network in float64, its weights drawn anew so that none is 0."""
    net = copy.deepcopy(answer) if isinstance(answer, nn.Module) else as_function(answer)()
    reject_none(net)
    came = type(net).__name__
    reject_if((not callable(net), f"a network is wanted, SetNet() -> (B, P, 3) -> like x; "
               f"got {came}"))
    if isinstance(net, nn.Module):
        net = net.double()
        for p in net.parameters():
            p.copy_(0.5 * torch.randn_like(p) + p)
    return net


def describe_set(c: Case) -> None:
    """One answer, the same call again, and calls in which other sets of the batch change."""
    c.got = c.net(c.x)
    c.came = type(c.got).__name__
    c.got_shape = tuple(getattr(c.got, "shape", ()))
    c.expected = tuple(c.x.shape)
    if c.got_shape != c.expected:
        return
    c.scale = c.got.std() + 1e-9
    c.bad = int((~c.got.isfinite()).sum())
    c.noisy = differs(c, c.net(c.x), c.got)
    c.still = not differs(c, c.net(noise(*c.expected)), c.got)
    c.batch = differs(c, c.net(torch.cat([c.x[:1], noise(3, 12, 3)])), c.got, slice(0, 1))
    c.alike = bool(((c.got - c.got[:, :1]).abs() < 1e-6 * c.scale).all())


def differs(c: Case, a: Tensor, b: Tensor, rows: slice = slice(None)) -> bool:
    """Whether two answers differ by more than 1e-6 of their spread."""
    return bool(((a - b)[rows].abs() > 1e-6 * c.scale).any())


SET_SUSPECTS = {
    "a tensor (B, P, 3) is wanted; got {c.came}":
        lambda c: not torch.is_tensor(c.got),
    "one vector for the whole set: each point needs its own, (B, P, 3)":
        lambda c: c.got_shape == (4, 3),
    "expected shape {c.expected}; got {c.got_shape}":
        lambda c: c.got_shape != c.expected,
    "{c.bad} of the values are nan or inf":
        lambda c: c.bad,
    "two calls with the same points give two answers: nothing may be drawn. A random order makes "
    "the network equivariant on average only":
        lambda c: c.noisy,
    "the output does not depend on the points":
        lambda c: c.still,
    "the sets of a batch see each other: a mean, norm or attention runs over dimension 0. The "
    "points are dimension 1 (nn.MultiheadAttention needs batch_first=True)":
        lambda c: c.batch,
    "all points of a set get the same vector: what is pooled must meet each point's own features "
    "again":
        lambda c: c.alike,
}


def judge_sizes(c: Case) -> None:
    """Any number of points."""
    for P in (1, 5, 30):
        x = noise(2, P, 3)
        try:
            got = c.net(x)
        except (RuntimeError, IndexError, ValueError) as error:
            raise Wrong(f"12 points are taken, {P} are not: some weight has the number of points "
                        f"in its shape, so it knows places ({error})") from None
        reject_if((tuple(got.shape) != (2, P, 3),
                   f"{P} points should give (2, {P}, 3); got {tuple(got.shape)}"),
                  (not got.isfinite().all(), f"nan or inf for sets of {P} points"))


def describe_order(c: Case) -> None:
    """What a permutation does, and which points a change of one point reaches."""
    cycle = torch.randperm(12)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)                            # no point keeps its place
    permuted = c.net(c.x[:, order])
    c.broken = differs(c, permuted, c.got[:, order])
    c.unmoved = not differs(c, permuted, c.got)
    same = noise(1, 1, 3).expand(1, 12, 3)
    inner = c.net(same)[:, 4:8]                             # away from a convolution's padding
    c.places = differs(c, inner, inner[:, :1])
    reach = torch.stack([reached(c, k) for k in range(12)])             # (moved, reached)
    reach = reach & ~torch.eye(12, dtype=torch.bool)
    c.mixes = bool(reach.any())
    c.causal = not reach.triu().any() or not reach.tril().any()
    c.local = not reach.triu(9).any() and not reach.tril(-9).any()
    c.first = bool(reach[0, 1:].all() and not reach[1:].any())
    others = c.x.clone()
    others[:, 1:] = noise(4, 11, 3)
    c.blind = not differs(c, c.net(others)[:, :1], c.got[:, :1])


def reached(c: Case, k: int) -> Tensor:
    """Which outputs change in some set of the batch when point k moves: (12,) bool."""
    x = c.x.clone()
    x[:, k] = noise(4, 3)
    return ((c.net(x) - c.got).abs() > 1e-6 * c.scale).any(2).any(0)


ORDER_SUSPECTS = {
    "the output is the same for every order of the points: they are sorted, and the result is not "
    "put back. An equivariant network's output moves with its points":
        lambda c: c.unmoved,
    "the first point of the list is special: it reaches all others, and they do not reach each "
    "other":
        lambda c: c.first,
    "a point's output depends on the points on one side of it in the list alone: a cumulative sum, "
    "a causal mask or a recurrence":
        lambda c: c.mixes and c.causal,
    "nothing is repaired: equal points get different outputs, and points see others only near them "
    "in the list. Remove the positions, and replace the convolution":
        lambda c: c.mixes and c.local and c.places,
    "points see others only if they stand near each other in the list, as in a convolution: the "
    "list has no order that means anything":
        lambda c: c.mixes and c.local,
    "equal points get different outputs: a position is still added, or a place has a weight of its "
    "own":
        lambda c: c.places,
    "permuted points do not give the permuted output: somewhere the order of the list matters":
        lambda c: True,
}


def judge_jumps(c: Case) -> None:
    """Along a straight line from one set to another the output must not jump.

    The longest of 500 steps is cut into 1,000: a jump stays as long as it was.
    """
    ends = noise(1, 12, 3), noise(1, 12, 3)
    lengths, line = moves(c, *ends, 500)
    k = lengths.argmax()
    finer, _ = moves(c, line[k : k + 1], line[k + 1 : k + 2], 1000)
    reject_if((finer.max() > 0.5 * lengths[k], "equivariant, but it jumps: an arbitrarily small "
               "move of a point changes the output a lot, as where points are sorted or nearest "
               "neighbours are picked. It has to be continuous"))


def moves(c: Case, start: Tensor, end: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """How far the output moves in each of n equal steps (n,), and the sets (n + 1, P, 3)."""
    line = torch.lerp(start, end, torch.linspace(0, 1, n + 1, dtype=F64)[:, None, None])
    return c.net(line).diff(dim=0).flatten(1).norm(dim=1), line


# ---- 6.12: a text of one's own

KEYS = ("texts", "encode", "model", "bound", "by place", "near", "near held out")
DRAWS_IN_ALL = 16_000
SAMPLES = 1000
STEPS = 30


def judge_own_text(answer: object) -> None:
    """6.12: report() -> a dict of texts, a model, and what was measured."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), one_thread():
        if isinstance(answer, dict):
            c = Case(report=answer)
        else:
            with torch.enable_grad():
                c = Case(report=as_function(answer)())
        reject_none(c.report)
        describe_report(c)
        reject_first(REPORT_SUSPECTS, c)
        describe_tokens(c)
        reject_first(TOKENS_SUSPECTS, c)
        measure_texts(c)
        judge_text_claims(c)
        draw_samples(c)
        judge_sample_claim(c)
        reject_first(MEASURE_SUSPECTS, c)


def describe_report(c: Case) -> None:
    c.came = type(c.report).__name__
    if not isinstance(c.report, dict):
        return
    c.missing = [key for key in KEYS if key not in c.report]
    c.texts = c.report.get("texts")
    listed = isinstance(c.texts, (list, tuple))
    c.strings = listed and all(isinstance(text, str) for text in c.texts)
    c.count = len(c.texts) if listed else 0
    twice = [text for text, n in Counter(c.texts).items() if n > 1] if c.strings else []
    c.twice = twice[0] if twice else None
    c.model = c.report.get("model")
    c.mask_id = getattr(c.model, "mask_id", None)
    numbers = [key for key in KEYS[3:] if key in c.report]
    c.no_number = [key for key in numbers if not is_number(c.report[key])]


def is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        return as_scalar(value).ndim == 0
    except Wrong:
        return False


REPORT_SUSPECTS = {
    "a dict is wanted, with texts, encode, model and four numbers; got {c.came}":
        lambda c: not isinstance(c.report, dict),
    "the report has no {c.missing[0]!r}":
        lambda c: c.missing,
    "texts must be a list of strings":
        lambda c: not c.strings,
    "{c.count} texts are too few: 50 at least":
        lambda c: c.count < 50,
    "texts must differ from each other: {c.twice!r} comes twice, and would stand in the training "
    "and in the held-out texts":
        lambda c: c.twice is not None,
    "encode must be a function: list of texts -> token ids (N, L)":
        lambda c: not callable(c.report["encode"]),
    "model must be a MaskedDiffusion: called (x, t), with a mask_id":
        lambda c: not callable(c.model) or not isinstance(c.mask_id, int),
    "{c.no_number[0]!r} must be one number":
        lambda c: c.no_number,
}


def describe_tokens(c: Case) -> None:
    """The token ids of the training texts and of the held-out ones."""
    encode = c.report["encode"]
    texts = sorted(c.texts)
    c.ids = encode(texts)
    c.right_kind = torch.is_tensor(c.ids) and c.ids.dtype == torch.int64 and c.ids.ndim == 2
    if not c.right_kind or len(c.ids) != len(texts):
        c.right_kind = False
        return
    c.L = c.ids.shape[1]
    short = min(texts, key=len)
    alone = encode([short])
    c.alone = torch.is_tensor(alone) and torch.equal(alone[0], c.ids[texts.index(short)])
    c.distinct = len(c.ids.unique(dim=0)) == len(c.ids)
    c.has_mask = bool((c.ids == c.mask_id).any())
    held = torch.arange(len(texts)) % 5 == 0                # sorted(texts)[::5]
    c.held = c.ids[held]
    c.train = c.ids[~held]
    logits = c.model(torch.full((2, c.L), c.mask_id), torch.ones(2))
    c.logits_shape = tuple(getattr(logits, "shape", ()))
    c.V = c.logits_shape[-1] if c.logits_shape else 0


TOKENS_SUSPECTS = {
    "encode must return token ids (N, L), int64, a row for each text":
        lambda c: not c.right_kind,
    "encode gives a text other tokens when it comes alone: pad to a fixed length":
        lambda c: not c.alone,
    "two different texts have the same tokens: is something cut off, or unknown?":
        lambda c: not c.distinct,
    "the mask occurs in your texts: it needs an id of its own":
        lambda c: c.has_mask,
    "model(x, t) must return logits (B, L, V), L = {c.L}; got {c.logits_shape}":
        lambda c: len(c.logits_shape) != 3 or c.logits_shape[:2] != (2, c.L),
    "some tokens of your texts have no logit: ids run to {c.highest}, V is {c.V}":
        lambda c: highest(c) >= c.V,
}


def highest(c: Case) -> int:
    c.highest = c.ids.max().item()
    return c.highest


def bounds(c: Case, x0: Tensor, weight: Callable, mean: bool = False) -> Tensor:
    """The bound by several t for each text (N, L), spread evenly: (draws, N) nats per token."""
    g = torch.Generator().manual_seed(1)
    K = max(8, DRAWS_IN_ALL // len(x0))
    rows = []
    for k in range(K):
        t = (k + 1 - torch.rand(len(x0), generator=g, dtype=F64)) / K
        x = mask_tokens(x0, t, c.mask_id, g)
        nll = masked_nll(c.model(x, t.float()), x0, x, t, c.mask_id).double()
        masks = (x == c.mask_id).sum(1).clamp(min=1) if mean else c.L
        rows.append(nll * weight(t) / masks)
    return torch.stack(rows)


def by_place(c: Case, counted: Tensor, mask_too: bool = False) -> Tensor:
    """log p of each token at each place, by counts + 1 of these texts: (L, V), the mask at -inf."""
    counts = F.one_hot(counted, c.V).sum(0).double() + 1
    counts[:, c.mask_id] = float(mask_too)
    return (counts / counts.sum(1, keepdim=True)).log()


def score(c: Case, log_p: Tensor, x: Tensor) -> Tensor:
    """-log p of texts (N, L) in nats per token: (N,)."""
    return -log_p.gather(1, x.T).mean(0)


def nearest(x: Tensor, train: Tensor) -> Tensor:
    """In how many tokens each text differs from the nearest training text: (N,)."""
    return torch.stack([(row != train).sum(1).min() for row in x])


def measure_texts(c: Case) -> None:
    """What the report says of the texts, once more."""
    each = bounds(c, c.held, torch.ones_like)
    c.each = each.mean(0)                                               # (N,)
    c.bound = c.each.mean()
    c.error = each.std(0).mean() / each.numel() ** 0.5
    c.baseline = score(c, by_place(c, c.train), c.held)
    c.by_place = c.baseline.mean()
    gain = c.baseline - c.each
    c.gain = gain.mean()
    c.gain_error = gain.std() / len(gain) ** 0.5
    c.near_held = (nearest(c.held, c.train) <= 1).double().mean()


def draw_samples(c: Case) -> None:
    """Samples of the reader's model, and how near they are to the training texts."""
    blank = torch.full((SAMPLES, c.L), c.mask_id)
    g = torch.Generator().manual_seed(2)
    c.samples = last(unmask(c.model, blank, torch.linspace(1, 0, STEPS + 1), c.mask_id,
                            generator=g))
    c.near = (nearest(c.samples, c.train) <= 1).double().mean()
    c.different = len(c.samples.unique(dim=0)) / SAMPLES


BOUND_CLAIMS = {
    "'bound': that is the bound of the training texts; the held-out ones are sorted(texts)[::5]":
        lambda c: bounds(c, c.train, torch.ones_like).mean(),
    "'bound': those are nats for a whole text; per token they are divided by L":
        lambda c: c.bound * c.L,
    "'bound': those are bits; nats have the natural logarithm":
        lambda c: c.bound / math.log(2),
    "'bound': the weight 1 / t is missing":
        lambda c: bounds(c, c.held, lambda t: t).mean(),
    "'bound': that is the mean over the masked tokens, without the weight 1 / t; it is L / (L + 1) "
    "of the bound":
        lambda c: bounds(c, c.held, lambda t: t, mean=True).mean(),
    "'bound': the sign: a bound on -log p is positive":
        lambda c: -c.bound,
}

BY_PLACE_CLAIMS = {
    "'by place': that is one distribution for all places; each place needs its own counts":
        lambda c: score(c, by_place(c, c.train.reshape(-1, 1)).expand(c.L, -1), c.held).mean(),
    "'by place': the counts are those of the held-out texts: a model may only know the training":
        lambda c: score(c, by_place(c, c.held), c.held).mean(),
    "'by place': that is the score of the training texts; the held-out ones are compared":
        lambda c: score(c, by_place(c, c.train), c.train).mean(),
    "'by place': those are nats for a whole text; per token they are divided by L":
        lambda c: c.by_place * c.L,
    "'by place': those are bits; nats have the natural logarithm":
        lambda c: c.by_place / math.log(2),
}

NEAR_HELD_CLAIMS = {
    "'near held out': that is a percentage; a share lies between 0 and 1":
        lambda c: c.claim if c.claim > 1 else None,
    "'near held out': the held-out texts are compared with all texts, and each finds itself":
        lambda c: torch.ones_like(c.near_held),
    "'near held out': only exact copies are counted; near is a difference in one token at most":
        lambda c: (nearest(c.held, c.train) == 0).double().mean(),
}

NEAR_CLAIMS = {
    "'near': that is a percentage; a share lies between 0 and 1":
        lambda c: c.claim if c.claim > 1 else None,
    "'near': only exact copies are counted; near is a difference in one token at most":
        lambda c: (nearest(c.samples, c.train) == 0).double().mean(),
    "'near': the samples are compared with the held-out texts; copies are copies of training texts":
        lambda c: (nearest(c.samples, c.held) <= 1).double().mean(),
}


def judge_text_claims(c: Case) -> None:
    """Three numbers of the report against the check's own."""
    with_mask = score(c, by_place(c, c.train, mask_too=True), c.held).mean()
    if abs(as_scalar(c.report["by place"]) - with_mask) > 1e-3:         # that is accepted, too
        judge_claim(c, "by place", c.by_place, 1e-3, BY_PLACE_CLAIMS)
    tolerance = 0.03 * c.bound.abs() + 5 * c.error
    judge_claim(c, "bound", c.bound, tolerance, BOUND_CLAIMS)
    judge_claim(c, "near held out", c.near_held, 1e-3, NEAR_HELD_CLAIMS)


def judge_sample_claim(c: Case) -> None:
    """The share of near copies, which varies from sample to sample."""
    p = c.near.clamp(0.02, 0.98)
    error = (p * (1 - p) * (1 / SAMPLES + 1 / 500)).sqrt()  # the reader drew 500 or more
    judge_claim(c, "near", c.near, 4.5 * error, NEAR_CLAIMS)


def judge_claim(c: Case, key: str, found: Tensor, tolerance: float | Tensor,
                mistakes: dict[str, Callable]) -> None:
    """Raise Wrong unless the claim is within the tolerance; the nearest known mistake is named."""
    c.claim = as_scalar(c.report[key])
    reject_if((not c.claim.isfinite(), f"{key!r} is {c.claim.item()}: a token that no training "
               "text has at its place has probability 0 there. Add 1 to each count"))
    if (c.claim - found).abs() <= tolerance:
        return
    wrong = wrong_answers(mistakes, c)
    words = min(wrong, key=lambda words: (c.claim - wrong[words]).abs())
    value = wrong[words]
    reject_if(((c.claim - value).abs() <= max(tolerance, 0.05 * value.abs()), words))
    raise Wrong(f"{key!r}: the report says {c.claim:.3f}, and the check finds {found:.3f}")


MEASURE_SUSPECTS = {
    "the numbers are right, but the bound {c.bound:.3f} is not below {c.by_place:.3f}, which a "
    "model reaches that looks at nothing but the place: yours has learnt too little, or the "
    "training texts by heart. More texts, more or fewer steps, a smaller network":
        lambda c: c.gain < 2 * c.gain_error,
    "the numbers are right, but only {c.different:.0%} of the samples differ from each other":
        lambda c: c.different < 0.5,
}


QUESTIONS = [
    Question(
        "6.8", 4, judge_unmask_step,
        "predict the clean tokens, then keep most of the masks",
        ("Of 100 tokens t * 100 are masked at t, and s * 100 at s. Which share of the masked "
         "ones must be revealed?",
         "Three draws in words: logits without the mask, a token for each place, and a uniform "
         "number for each place that decides whether it is revealed. torch.where puts them "
         "together.",
         "reveal = (x == mask_id) & (torch.rand(x.shape, generator=generator, "
         "dtype=torch.float64) < (t - s) / t); drawn from softmax(logits.double()), whose mask "
         "has -inf; return torch.where(reveal, drawn, x)")),
    Question(
        "6.9", 5, judge_bound_and_draw,
        "a bound that is one, and noise that reaches as far as rare words",
        ("For a perfect denoiser the bound is the entropy. Which of the terms may D fill with "
         "anything? And how many values can u take in bfloat16?",
         "In the bound: which places count, what they are weighted with, and what the softmax "
         "runs over. In the draw: the dtype of u decides how large -log(-log u) can be.",
         "logits[..., mask_id] = -inf; nll = torch.where(masked, nll, 0).sum(1) / t / L. In "
         "the draw: torch.rand(log_p.shape, generator=generator, dtype=torch.float64)")),
    Question(
        "6.10", 4, judge_clips,
        "every place has its sequence of frames, and every frame its time",
        ("After x.reshape(B * H * W, F, C), which numbers of x stand in the first sequence? "
         "And which level have known frames?",
         "x.permute(0, 3, 4, 1, 2) is (B, H, W, F, C), and the same permute leads back. D gets "
         "the clip torch.cat([known, x], 1) and a time for each of its frames.",
         "times = torch.cat([torch.zeros(B, K), torch.full((B, n), t)], 1); x0_hat = "
         "D(torch.cat([known, x], 1), times)[:, K:]; return step(schedule, x, x0_hat, t, s)")),
    Question(
        "6.11", 3, judge_set,
        "the order is gone, and the points still see each other",
        ("Which two layers of the copied network know where in the list a point stands?",
         "Without positions, and with something in place of the convolution that treats all "
         "points alike: a mean over the points, a maximum, attention.",
         "h = self.embed(x); h = h + self.mix(h.mean(1, keepdim=True)) with self.mix = "
         "nn.Linear(dim, dim); return self.out(h)")),
    Question(
        "6.12", 4, judge_own_text,
        "now read your samples beside the nearest training texts",
        ("Start with single letters as tokens, padded to one length. A list of a few hundred "
         "short words is enough.",
         "bound: the mean of masked_nll(model(x, t), x0, x, t, mask_id) / L over many t and "
         "masks of the held-out texts. by place: log of counts + 1, of each place by itself.",
         "(x[:, None] != train).sum(2).min(1).values <= 1 are the near copies. If the bound is "
         "too high, train on more texts, or stop earlier")),
]
