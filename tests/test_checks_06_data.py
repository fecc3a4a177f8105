"""Lesson 6's checks of the questions on other data: each solution is right, each stub is not
attempted, and each plausible mistake gets its own diagnosis.
"""
import math
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from catalogues import (
    ODD,
    assert_own_diagnoses,
    assert_random_numbers_are_left_alone,
    assert_refused_in_one_sentence,
    cases,
    judged,
    stub,
    verdicts,
)
from torch import nn

from course_lib import last, samplers
from course_lib.checks import Checker, lesson06, lesson06_data
from course_lib.checks.common import fresh_generator, one_thread
from course_lib.checks.lesson06_data import QUESTIONS
from course_lib.discrete import mask_tokens, masked_nll, unmask, without_mask
from course_lib.lab import word_vectors
from course_lib.schedules import Schedule, append_dims

LESSONS = Path(__file__).parents[1] / "lessons"
SHEET = LESSONS / "06_advanced_techniques_exercises.py"
D64 = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """No strictness, and the questions are found, registered or not."""
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    known = [q for q in lesson06.QUESTIONS if q not in QUESTIONS]
    monkeypatch.setattr(lesson06, "QUESTIONS", [*known, *QUESTIONS])
    with one_thread():
        yield


# ---- 6.8

def uniform(shape, generator, **options):
    return torch.rand(shape, generator=generator, **D64 | options)


def gumbel(shape, generator, **options):
    return gumbel_of(uniform(shape, generator, **options))


def gumbel_of(u):
    return -(-u.log()).log()


def by_gumbel(logits, generator):
    return (logits + gumbel(logits.shape, generator)).argmax(-1)


def level(x, t):
    return torch.full((len(x),), t)


def revealing(rate=lambda t, s: (t - s) / t, draw=by_gumbel, time=lambda t, s: t,
              chance=lambda x, g: uniform(x.shape, g), masked=lambda x, mask_id: x == mask_id,
              logits=lambda logits, mask_id: without_mask(logits.double(), mask_id),
              put=torch.where):
    """unmask_step with parts changed."""
    def answer(D, x, t, s, mask_id, generator):
        drawn = draw(logits(D(x, level(x, time(t, s))), mask_id), generator)
        reveal = masked(x, mask_id) & (chance(x, generator) < rate(t, s))
        return put(reveal, drawn, x)
    return answer


unmask_step = revealing()


def by_multinomial(logits, generator):
    p = logits.softmax(-1)
    return torch.multinomial(p.flatten(0, -2), 1, generator=generator).view(p.shape[:-1])


def by_sums(logits, generator):
    """Where a uniform number falls among the cumulative sums of the probabilities."""
    sums = logits.softmax(-1).cumsum(-1)
    u = uniform(logits.shape[:-1], generator) * sums[..., -1]
    return (sums < u[..., None]).sum(-1)


def joint_draw(D, x, t, s, mask_id, generator):
    """Right: one draw from tokens and mask together, the mask with probability s / t."""
    p = without_mask(D(x, t).double(), mask_id).softmax(-1) * (t - s) / t
    p[..., mask_id] = s / t
    return torch.where(x == mask_id, by_sums(p.log(), generator), x)


def by_a_loop(D, x, t, s, mask_id, generator):
    """Right, with the library, a step at a time, from t to s."""
    wrapped = lambda x, level: D(x, level)
    return last(unmask(wrapped, x, [t, s], mask_id, generator=generator)) if s < t else x


def several(change):
    """unmask_step, then change(x_s, x, mask_id, generator)."""
    def answer(D, x, t, s, mask_id, generator):
        out = unmask_step(D, x, t, s, mask_id, generator)
        return change(out, x, mask_id, generator)
    return answer


def writes_into_x(D, x, t, s, mask_id, generator):
    x[:] = unmask_step(D, x, t, s, mask_id, generator)
    return x


def calls_twice(D, x, t, s, mask_id, generator):
    D(x, level(x, t))
    return unmask_step(D, x, t, s, mask_id, generator)


def with_mask(logits, mask_id):
    return logits.double()


def fixed_number(D, x, t, s, mask_id, generator):
    """The same number of masked tokens in each text, at random places."""
    rank = uniform(x.shape, generator).masked_fill(x != mask_id, 2).argsort(1).argsort(1)
    count = ((x == mask_id).sum(1) * (t - s) / t).round()
    drawn = by_gumbel(without_mask(D(x, level(x, t)).double(), mask_id), generator)
    return torch.where(rank < count[:, None], drawn, x)


def surest_first(D, x, t, s, mask_id, generator):
    """The right number of tokens on average, where the drawn token is the likeliest."""
    return last(unmask(D, x, [t, s], mask_id, order="confidence", generator=generator))


def last_is_mask(D, x, t, s, mask_id, generator):
    """Right where the mask is the last token."""
    drawn = by_gumbel(D(x, level(x, t))[..., :-1].double(), generator)
    reveal = (x == mask_id) & (uniform(x.shape, generator) < (t - s) / t)
    return torch.where(reveal, drawn, x)


def low(dtype):
    return lambda logits, g: (logits + gumbel(logits.shape, g, dtype=dtype)).argmax(-1)


def half_together(x, g):
    """Two neighbours share a uniform number."""
    return uniform((len(x), x.shape[1] // 2), g).repeat_interleave(2, 1)


def favours(x, g):
    """Early places have a better chance, the right one on average."""
    return uniform(x.shape, g) + 0.1 * (torch.arange(6) - 3).sign()


def no_known_rate(t, s):
    """The middle of the largest gap between the right rate, those of known mistakes above, and 1.
    """
    right = (t - s) / t
    known = [right, t - s, (t - s) / (1 - s), s / t, 1 - s, 1 - t, t, s, 1.0]
    known = sorted(rate for rate in known if rate >= right)
    return max((b - a, (a + b) / 2) for a, b in zip(known, known[1:]))[1]


def stays_at_the_end(D, x, t, s, mask_id, generator):
    out = unmask_step(D, x, t, s, mask_id, generator)
    return torch.where((torch.arange(6) == 2) & (x == mask_id), mask_id, out) if s == 0 else out


UNMASKING = {
    "with the probability t - s:": revealing(lambda t, s: t - s),
    "that is the way up": revealing(lambda t, s: (t - s) / (1 - s)),
    "probability s / t": revealing(lambda t, s: s / t),
    "probability 1 - s": revealing(lambda t, s: 1 - s),
    "probability 1 - t": revealing(lambda t, s: 1 - t),
    "revealed with the probability t": revealing(lambda t, s: t),
    "revealed with the probability s": revealing(lambda t, s: s),
    "all masked tokens are revealed": revealing(lambda t, s: 1),
    "no masked token is revealed": revealing(lambda t, s: 0),
    "of the masked tokens; (t - s) / t is": revealing(lambda t, s: no_known_rate(t, s)),
    "where the mask itself was drawn": revealing(logits=with_mask),
    "the likeliest token is taken": revealing(draw=lambda logits, g: logits.argmax(-1)),
    "D's logits are not used": revealing(draw=lambda logits, g: by_gumbel(
        torch.where(logits.isinf(), logits, 0), g)),
    "the softmax is taken twice": revealing(draw=lambda logits, g: by_gumbel(
        torch.where(logits.isinf(), logits, logits.softmax(-1)), g)),
    "the logits have the wrong sign": revealing(draw=lambda logits, g: by_gumbel(
        torch.where(logits.isinf(), logits, -logits), g)),
    "is drawn with the frequency": revealing(draw=lambda logits, g: by_gumbel(2 * logits, g)),
    "the same token at a place": revealing(draw=lambda logits, g: (
        logits + gumbel(logits.shape[1:], g)).argmax(-1)),
    "one noise for all places": revealing(draw=lambda logits, g: (
        logits + gumbel((len(logits), 1, logits.shape[2]), g)).argmax(-1)),
    "the same places are revealed in all texts": revealing(
        chance=lambda x, g: uniform(x.shape[1:], g)),
    "all of its masked tokens or none": revealing(
        chance=lambda x, g: uniform((len(x), 1), g)),
    "reveal equally many": fixed_number,
    "not at all places alike": surest_first,
    "not each by itself": revealing(chance=half_together),
    "have changed: only masked ones may": revealing(
        masked=lambda x, mask_id: torch.ones_like(x, dtype=torch.bool)),
    "known are masked again": several(lambda out, x, mask_id, g: torch.where(
        (x != mask_id) & (uniform(x.shape, g) < 0.2), mask_id, out)),
    "changes a tensor that it was given": writes_into_x,
    "from torch's global generator": revealing(chance=lambda x, g: torch.rand_like(x.double())),
    "the same generator gave two different": revealing(
        chance=lambda x, g: uniform(x.shape, fresh_generator())),
    "make no generator of your own": revealing(
        chance=lambda x, g: uniform(x.shape, torch.Generator().manual_seed(0)),
        draw=lambda logits, g: by_gumbel(logits, torch.Generator().manual_seed(1))),
    "D gets the time s": revealing(time=lambda t, s: s),
    "D gets another time": revealing(time=lambda t, s: t - s),
    "one number for each text": lambda D, x, t, s, m, g: D(x, torch.full(x.shape, t)),
    "D gets another x": lambda D, x, t, s, m, g: unmask_step(
        lambda x, t: D(x.clone().fill_(m), t), x, t, s, m, g),
    "D is evaluated 2 times": calls_twice,
    "D is never called": lambda D, x, t, s, m, g: x.clone(),
    "drawn in bfloat16": revealing(draw=low(torch.bfloat16)),
    "drawn in float16": revealing(draw=low(torch.float16)),
    "drawn in float32": revealing(draw=low(torch.float32)),
    "the last id, but not for id 2": last_is_mask,
    "those are probabilities or logits": lambda D, x, t, s, m, g: D(x, t).softmax(-1),
    "token ids are whole numbers": several(lambda out, *a: out.double()),
    "there is a token -1": several(lambda out, x, m, g: out - (out == 0) * (x == m).long()),
    "there is a token 6": several(lambda out, x, m, g: out + 6 * (out == 0)),
    "expected shape (12000, 6); got (12000,)": several(lambda out, *a: out[:, 0]),
    "in the step from t = ": stays_at_the_end,
    "a tensor of token ids": several(lambda out, *a: tuple(out)),
    "does it end with `return`": several(lambda *a: None),
}

# ---- 6.9


def bounding(t=lambda n, g: 1 - torch.rand(n, generator=g),
             masked=lambda x0, t, g: torch.rand(x0.shape, generator=g) < t[:, None],
             given=lambda x, x0, t: (x, t), logits=without_mask,
             total=lambda nll, masked, t: nll.where(masked, 0).sum(1) / t / nll.shape[1],
             end=lambda bound: bound):
    """masked_bound with parts changed; the other function is right."""
    def answer(D, x0, mask_id, generator):
        times = t(len(x0), generator)
        hidden = masked(x0, times, generator)
        x = torch.where(hidden, mask_id, x0)
        out = logits(D(*given(x, x0, times)), mask_id)
        nll = F.cross_entropy(out.transpose(1, 2), x0, reduction="none")
        return end(total(nll, hidden, times))
    return answer, draw_tokens


def draw_tokens(log_p, generator):
    return (log_p + gumbel(log_p.shape, generator)).argmax(-1)


masked_bound = bounding()[0]


def bound_by_the_library(D, x0, mask_id, generator):
    """Right, with evenly spread times and the library's functions."""
    parts = torch.randperm(len(x0), generator=generator)
    t = (parts + 1 - uniform(len(x0), generator)) / len(x0)
    x = mask_tokens(x0, t, mask_id, generator)
    return masked_nll(D(x, t), x0, x, t, mask_id) / x0.shape[1]


def totals(change, **parts):
    return bounding(total=change, **parts)


def keep_mask(logits, mask_id):
    return logits


def draws(noise=gumbel, take=lambda log_p, g: (log_p + g).argmax(-1)):
    """draw_tokens with its noise or what is made of it changed; the bound is right."""
    return masked_bound, lambda log_p, generator: take(log_p, noise(log_p.shape, generator))


def one_noise_a_row(shape, generator):
    return gumbel((shape[0], *[1] * (len(shape) - 2), shape[-1]), generator)


def log_inside(change):
    """A draw whose noise is change(u)."""
    return draws(lambda shape, g: change(uniform(shape, g)))


def mean_of_places(nll, masked, t):
    return nll.mean(1)


def sum_of_masked(nll, masked, t):
    return nll.where(masked, 0).sum(1) / nll.shape[1]


def with_clamp(nll, masked, t):
    return nll.where(masked, 0).sum(1) / masked.sum(1).clamp(min=1)


def fixed_count(x0, t, g):
    """Exactly round(t L) places, at random."""
    rank = uniform(x0.shape, g).argsort(1).argsort(1)
    return rank < (t * x0.shape[1]).round()[:, None]


def in_place_bound(D, x0, mask_id, generator):
    x0[:] = x0.flip(0)
    return masked_bound(D, x0, mask_id, generator)


def twice_called(D, x0, mask_id, generator):
    first = masked_bound(D, x0, mask_id, generator)
    return (first + masked_bound(D, x0, mask_id, generator)) / 2


NOTHING = "nothing is repaired."
BOUND_AND_DRAW = {
    NOTHING: totals(mean_of_places, logits=keep_mask),
    "two bugs are left. the weight 1 / t is missing: without it the sum is no bound; places":
        totals(mean_of_places),
    "two bugs are left. the weight 1 / t is missing: without it the sum is no bound; the mask's":
        totals(sum_of_masked, logits=keep_mask),
    "two bugs are left. places": totals(
        lambda nll, masked, t: nll.mean(1) / t, logits=keep_mask),
    "bound: the weight 1 / t is missing": totals(sum_of_masked),
    "bound: places that are not masked": totals(lambda nll, masked, t: nll.mean(1) / t),
    "bound: the mask's own logit": bounding(logits=keep_mask),
    "is L / (L + 1) of the bound": totals(with_clamp),
    "weighted by 1 / t, too": totals(
        lambda nll, masked, t: with_clamp(nll, masked, t) / t),
    "gives 0 / 0": totals(
        lambda nll, masked, t: nll.where(masked, 0).sum(1) / masked.sum(1)),
    "0 times infinity": totals(lambda nll, masked, t: (
        nll.masked_fill(~masked, torch.inf) * masked).sum(1) / t / nll.shape[1]),
    "nats for the whole text": totals(lambda nll, masked, t: nll.where(masked, 0).sum(1) / t),
    "the weight is t;": totals(
        lambda nll, masked, t: t * nll.where(masked, 0).sum(1) / nll.shape[1]),
    "the weight is 1 / (1 - t)": totals(
        lambda nll, masked, t: sum_of_masked(nll, masked, t) / (1 - t)),
    "the weight is 1 / t^2": totals(
        lambda nll, masked, t: sum_of_masked(nll, masked, t) / t**2),
    "1 / t of another text": totals(
        lambda nll, masked, t: sum_of_masked(nll, masked, t) / t.flip(0)),
    "the mean of 1 / t over the batch": totals(
        lambda nll, masked, t: sum_of_masked(nll, masked, t) * (1 / t).mean()),
    "bound: the sign": bounding(end=torch.neg),
    "bound: those are bits": bounding(end=lambda bound: bound / math.log(2)),
    "the probability, not its": totals(lambda nll, masked, t: sum_of_masked(
        (-nll).exp(), masked, t) / t),
    "the noise is right, the number is not": bounding(end=lambda bound: 3 * bound),
    "bound: D is never called": (lambda D, x0, m, g: torch.zeros(len(x0)), draw_tokens),
    "D is called 2 times": (twice_called, draw_tokens),
    "bound: D gets (5000, 6)": bounding(given=lambda x, x0, t: (x[:, :6], t), total=lambda *a: 0),
    "D gets x0 itself": bounding(given=lambda x, x0, t: (x0, t)),
    "all tokens are masked, whatever": bounding(
        masked=lambda x0, t, g: torch.ones_like(x0, dtype=torch.bool)),
    "neither the text's nor the mask": bounding(
        given=lambda x, x0, t: (torch.where(x == x0, x0.flip(0), x), t)),
    "each text has a time of its own": bounding(
        given=lambda x, x0, t: (x, t[0]), total=lambda *a: 0),
    "all texts have the same time": bounding(
        lambda n, g: torch.rand(1, generator=g).clamp(0.3).expand(n)),
    "t is not uniform": bounding(lambda n, g: torch.rand(n, generator=g).sqrt()),
    "t lies outside": bounding(lambda n, g: 1.1 * torch.rand(n, generator=g)),
    "with the probability 1 - t; at": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape, generator=g) > t[:, None]),
    "of the tokens are masked whatever t is": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape, generator=g) < 0.15),
    "those of other times than D gets": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape, generator=g) < t[
            torch.randperm(len(t), generator=g), None]),
    "masked as a whole or not at all": bounding(
        masked=lambda x0, t, g: (torch.rand(len(x0), 1, generator=g) < t[:, None]).expand_as(x0)),
    "lie one within the other": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape[1], generator=g) < t[:, None]),
    "on average; each token is masked": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape, generator=g) < t[:, None] ** 2),
    "the number of masks is fixed": bounding(masked=fixed_count),
    "the masks of a text are not independent": bounding(
        masked=lambda x0, t, g: torch.rand(len(x0), 4, generator=g).repeat_interleave(2, 1)[
            :, :7] < t[:, None]),
    "bound: your function changes a tensor": (in_place_bound, draw_tokens),
    "bound: the draws come from": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape) < t[:, None]),
    "expected shape (5000,); got ()": bounding(end=lambda bound: bound.mean()),
    "the same generator gave two": bounding(
        masked=lambda x0, t, g: torch.rand(x0.shape, generator=fresh_generator()) < t[:, None]),
    "two generators with two seeds": (
        lambda D, x0, m, g: masked_bound(D, x0, m, torch.Generator().manual_seed(0)), draw_tokens),
    "draw: the noise is drawn in bfloat16": draws(partial(gumbel, dtype=torch.bfloat16)),
    "draw: the noise is drawn in float16": draws(partial(gumbel, dtype=torch.float16)),
    "draw: the noise is drawn in float32": draws(partial(gumbel, dtype=torch.float32)),
    "draw: right for a few words, but of 256": log_inside(
        lambda u: gumbel_of(u.to(torch.bfloat16).clamp(max=0.996).double())),
    "draw: right for a few words, but words of probability 0.0025": draws(
        lambda shape, g: gumbel(shape, g).clamp(max=5.5) + 1e-6 * uniform(shape, g)),
    "draw: the likeliest word": draws(take=lambda log_p, g: log_p.argmax(-1)),
    "yours has the other sign": draws(take=lambda log_p, g: (log_p - g).argmax(-1)),
    "is exponential noise": log_inside(lambda u: -u.log()),
    "the noise is normal": draws(
        lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64)),
    "the noise is uniform": log_inside(lambda u: u),
    "is added to the probabilities": draws(take=lambda log_p, g: (log_p.exp() + g).where(
        log_p > -torch.inf, -torch.inf).argmax(-1)),
    "a word of probability 0 is drawn": draws(take=lambda log_p, g: (log_p.exp() + g).argmax(-1)),
    "have the frequencies": draws(take=lambda log_p, g: (log_p + 2 * g).argmax(-1)),
    "all rows get the same word": draws(lambda shape, g: gumbel(shape[1:], g)),
    "the places of a text have the same noise": draws(one_noise_a_row),
    "draw: the draws come from torch's": draws(lambda shape, g: gumbel(shape, None)),
    "draw: expected shape (30000, 2); got (30000, 2, 1)": draws(
        take=lambda log_p, g: (log_p + g).argmax(-1, keepdim=True)),
    "draw: words are whole numbers": draws(take=lambda log_p, g: (log_p + g).amax(-1)),
    "draw: a tensor of words": draws(take=lambda log_p, g: "word"),
    "masked_bound is not attempted": (stub, draw_tokens),
    "draw_tokens is not attempted": (masked_bound, stub),
    "both functions are wanted": masked_bound,
    "does it end with `return`": (lambda *a: None, draw_tokens),
}

# ---- 6.10


def over_frames(attend, x):
    h = x.permute(0, 3, 4, 1, 2)                                        # (B, H, W, F, C)
    return attend(h.flatten(0, 2)).view(h.shape).permute(0, 3, 4, 1, 2)


def over_frames_in_turn(attend, x):
    """Right, one place after the other."""
    out = torch.empty_like(x)
    for i in range(x.shape[3]):
        for j in range(x.shape[4]):
            out[:, :, :, i, j] = attend(x[:, :, :, i, j])
    return out


def over_frames_by_moves(attend, x):
    """Right, with the sequences in another order."""
    B, frames, C, H, W = x.shape
    h = x.movedim((4, 3), (0, 1)).reshape(-1, frames, C)                # (W H B, F, C)
    return attend(h).view(W, H, B, frames, C).movedim((0, 1), (4, 3))


def framing(there=lambda x: x.permute(0, 3, 4, 1, 2),
            back=lambda h, x: h.view(x.permute(0, 3, 4, 1, 2).shape).permute(0, 3, 4, 1, 2),
            to=lambda h: h.flatten(0, 2)):
    """over_frames with parts changed, and next_frames."""
    return lambda attend, x: back(attend(to(there(x))), x), next_frames


def straight_back(h, x):
    return h.reshape(x.shape)


def times_of(known, x, t, past=0.0):
    return torch.cat([torch.full(known.shape[:2], past, **D64), torch.full(x.shape[:2], t, **D64)],
                     1)


def next_frames(D, schedule, known, x, t, s):
    x0_hat = D(torch.cat([known, x], 1), times_of(known, x, t))[:, known.shape[1]:]
    return samplers.step(schedule, x, x0_hat, t, s)


def next_frames_by_hand(D, schedule, known, x, t, s):
    """Right, with the formulas of the step, and the times as one row for all."""
    K = known.shape[1]
    t, s = torch.tensor([t, s]).double()
    times = (torch.arange(K + x.shape[1]) >= K) * t
    x0_hat = D(torch.cat((known, x), dim=1), times.expand(len(x), -1))[:, K:]
    eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    return schedule.alpha(s) * x0_hat + schedule.sigma(s) * eps_hat


def following(clip=lambda known, x: torch.cat([known, x], 1), times=times_of,
              take=lambda out, K: out[:, K:],
              end=lambda S, x, x0_hat, t, s: samplers.step(S, x, x0_hat, t, s)):
    """next_frames with parts changed, and over_frames."""
    def answer(D, schedule, known, x, t, s):
        out = D(clip(known, x), times(known, x, t))
        return end(schedule, x, take(out, known.shape[1]), t, s)
    return over_frames, answer


def with_times(change):
    """next_frames with its times made by change(known, x, t, s)."""
    def answer(D, schedule, known, x, t, s):
        out = D(torch.cat([known, x], 1), change(known, x, t, s))[:, known.shape[1]:]
        return samplers.step(schedule, x, out, t, s)
    return over_frames, answer


def noised_past(D, schedule, known, x, t, s):
    past = schedule.perturb(known, 0.1, torch.ones_like(known))
    return next_frames(D, schedule, past, x, t, s)


def rescaled_first(D, schedule, known, x, t, s):
    return next_frames(D, schedule, known, x / 2, t, s)


def asks_twice(D, schedule, known, x, t, s):
    D(torch.cat([known, x], 1), times_of(known, x, t))
    return next_frames(D, schedule, known, x, t, s)


def velocity_step(S, x, x0_hat, t, s):
    """Right from t to s only where alpha = 1 - t and sigma = t."""
    return x + (s - t) * (x - x0_hat) / t


def alpha_division(S, x, x0_hat, t, s):
    """DDIM with a rescaling by alpha_t, which may be 0."""
    ratio = S.alpha(s) / S.alpha(t)
    rest = S.sigma(s) - ratio * S.sigma(t)
    return ratio * x + rest * (x - S.alpha(t) * x0_hat) / S.sigma(t)


def not_at_the_end(S, x, x0_hat, t, s):
    return samplers.step(S, x, x0_hat, t, s) + 0.1 * (s == 0)


CLIPS = {
    "a reshape alone does not move": framing(
        lambda x: x, straight_back, lambda x: x.reshape(-1, x.shape[1], x.shape[2])),
    "the way there is right": framing(back=straight_back),
    "none on the way there": framing(
        lambda x: x, to=lambda x: x.reshape(-1, x.shape[1], x.shape[2])),
    "height and width": framing(back=lambda h, x: h.view(
        x.permute(0, 4, 3, 1, 2).shape).permute(0, 3, 4, 2, 1)),
    "batch and places": framing(back=lambda h, x: h.view(
        x.permute(3, 4, 0, 1, 2).shape).permute(2, 3, 4, 0, 1)),
    "then it is wrong as before": framing(
        lambda x: x.transpose(1, 2), straight_back, lambda x: x.reshape(-1, 5, 3)),
    "nobody asked for a residual": framing(
        back=lambda h, x: x + h.view(x.permute(0, 3, 4, 1, 2).shape).permute(0, 3, 4, 1, 2)),
    "x has not changed": (lambda attend, x: x.clone(), next_frames),
    "frames and channels have changed places:": framing(lambda x: x.permute(0, 3, 4, 2, 1)),
    "attention within each frame": framing(
        lambda x: x.permute(0, 1, 3, 4, 2), straight_back, lambda h: h.flatten(2, 3).flatten(0, 1)),
    "the frames of all clips": framing(
        lambda x: x.permute(3, 4, 0, 1, 2), to=lambda h: h.flatten(0, 1).flatten(1, 2)),
    "each place has a sequence of its own": framing(
        lambda x: x.permute(0, 1, 3, 4, 2), to=lambda h: h.flatten(1, 3)),
    "attend takes (N, 5, 3); got": framing(to=lambda h: h),
    "the second dimension is the frames": framing(
        lambda x: x.flatten(2), straight_back, lambda h: h),
    "not what attend returns at each": (lambda a, x: 2 * over_frames(a, x), next_frames),
    "expected shape (2, 5, 3, 4, 6); got (48, 5, 3)": (
        lambda attend, x: attend(x.permute(0, 3, 4, 1, 2).flatten(0, 2)), next_frames),
    "next: that is x0_hat": following(end=lambda S, x, x0_hat, t, s: x0_hat),
    "next: the x0_hat of the known": following(take=lambda out, K: out[:, :2]),
    "without the noise of level s": following(
        end=lambda S, x, x0_hat, t, s: S.alpha(s) * x0_hat),
    "not x - x0_hat": following(
        end=lambda S, x, x0_hat, t, s: S.alpha(s) * x0_hat + S.sigma(s) * (x - x0_hat)),
    "the new frames have not changed": following(end=lambda S, x, *a: x.clone()),
    "next: D is never called": (over_frames, lambda D, S, known, x, t, s: x.clone()),
    "next: D is called 2 times": (over_frames, asks_twice),
    "D gets the new frames alone": (
        over_frames, lambda D, S, known, x, t, s: samplers.step(
            S, x, D(x, torch.full(x.shape[:2], t)), t, s)),
    "the clip is (4, 5, 1, 2, 2)": following(
        lambda known, x: torch.cat([known[:, 1:], x], 1), lambda known, x, t: t,
        lambda out, K: out[:, 2:]),
    "stand before the known ones": following(
        lambda known, x: torch.cat([x, known], 1), take=lambda out, K: out[:, :2]),
    "the known frames are changed": (over_frames, noised_past),
    "the new frames are changed": (over_frames, rescaled_first),
    "one time for all frames": with_times(lambda known, x, t, s: t),
    "the time 0 for all": with_times(lambda known, x, t, s: 0.0),
    "the times have changed places": with_times(
        lambda known, x, t, s: t - times_of(known, x, t)),
    "D gets the time s for the new": with_times(lambda known, x, t, s: times_of(known, x, s)),
    "0.10, 0.10, 0.10": with_times(lambda known, x, t, s: times_of(known, x, t, 0.1)),
    "D takes t of shape (B, F)": with_times(lambda known, x, t, s: times_of(known, x, t)[0]),
    "the whole clip comes back": following(end=lambda S, x, x0_hat, t, s: torch.zeros(
        4, 5, 1, 2, 2)),
    "next: cosine: D gets the right": following(end=velocity_step),
    "Divide by neither alpha": following(end=alpha_division),
    "but not from t = ": following(end=not_at_the_end),
    "draw no noise of your own": following(
        end=lambda S, x, x0_hat, t, s: samplers.step(S, x, x0_hat, t, s, 1.0)),
    "over_frames is not attempted": (stub, next_frames),
    "next_frames is not attempted": (over_frames, stub),
    "both functions are wanted": over_frames,
    "does it end with `return`": (lambda *a: None, next_frames),
}

# ---- 6.11


class Net(nn.Module):
    """embed, change, out; change(self, h, x) -> h (B, P, dim). layers: what it needs, by name."""

    def __init__(self, change, dim=16, **layers):
        super().__init__()
        self.embed = nn.Linear(3, dim)
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3))
        self.change = change
        for name, layer in layers.items():
            setattr(self, name, layer() if isinstance(layer, type) else layer)

    def forward(self, x):
        return self.out(self.change(self, self.embed(x), x))


def net(change, **layers):
    """A function that makes such a network."""
    return lambda: Net(change, **{name: make() for name, make in layers.items()})


def linear():
    return nn.Linear(16, 16)


def conv():
    return nn.Conv1d(16, 16, 5, padding=2)


def positions():
    return nn.Parameter(torch.randn(64, 16))


def along(layer, h):
    """A layer over (B, dim, P)."""
    return layer(h.transpose(1, 2)).transpose(1, 2)


def mean_net():
    return Net(lambda self, h, x: h + self.mix(h.mean(1, keepdim=True)), mix=linear())


class Attending(nn.Module):
    """Right: self-attention without positions."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=batch_first)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.out(h + self.attention(h, h, h)[0])


def pairs_net():
    """Right: a sum over all other points of a function of the difference."""
    def change(self, h, x):
        difference = x[:, :, None] - x[:, None]                         # (B, P, P, 3)
        return h + self.pair(difference).tanh().mean(2)
    return Net(change, pair=nn.Linear(3, 16))


def sorted_points(h, x):
    return h.gather(1, x[..., :1].argsort(1).expand_as(h))


def sorted_and_back(self, h, x):
    order = x[..., :1].argsort(1)
    mixed = along(self.conv, h.gather(1, order.expand_as(h)))
    return mixed.gather(1, order.argsort(1).expand_as(h))


class Flat(nn.Module):
    """An MLP of all coordinates."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(36, 32), nn.SiLU(), nn.Linear(32, 36))

    def forward(self, x):
        return self.layers(x.flatten(1)).view(x.shape)


class Gated(nn.Module):
    """A gated recurrent unit along the list."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


def shuffled(self, h, x):
    return h + along(self.conv, h[:, torch.randperm(h.shape[1])])


SETS = {
    "nothing is repaired": net(
        lambda self, h, x: h + self.place[: h.shape[1]] + along(self.conv, h),
        place=positions, conv=conv),
    "as in a convolution": net(lambda self, h, x: h + along(self.conv, h), conv=conv),
    "a position is still added": net(
        lambda self, h, x: h + self.place[: h.shape[1]] + self.mix(h.mean(1, keepdim=True)),
        place=positions, mix=linear),
    "in its shape, so it knows places": Flat,
    "they are sorted": net(lambda self, h, x: h + along(self.conv, sorted_points(h, x)) * 0
                           + sorted_points(along(self.conv, sorted_points(h, x)), x[:, :1]
                                           .expand_as(x)) - h, conv=conv),
    "it jumps": net(lambda self, h, x: h + sorted_and_back(self, h, x), conv=conv),
    "but blind": net(lambda self, h, x: h + self.mix(h), mix=linear),
    "runs over dimension 0": net(
        lambda self, h, x: h + self.mix(h.mean(0, keepdim=True)), mix=linear),
    "two calls with the same points": net(shuffled, conv=conv),
    "all points of a set get the same": net(
        lambda self, h, x: h.mean(1, keepdim=True).expand_as(h)),
    "one vector for the whole set": net(lambda self, h, x: h.amax(1)),
    "on one side of it": net(lambda self, h, x: h.cumsum(1)),
    "the first point of the list is special": net(lambda self, h, x: h - 0.7 * h[:, :1]),
    "does not depend on the points": net(lambda self, h, x: torch.ones_like(h)),
    "somewhere the order of the list matters": net(
        lambda self, h, x: h + self.mix(h[:, ::2].mean(1, keepdim=True)), mix=linear),
    "of the values are nan": net(lambda self, h, x: h / 0 - h / 0),
    "nan or inf for sets of 1": net(
        lambda self, h, x: h + self.mix(h.std(1, keepdim=True)), mix=linear),
    "expected shape (4, 12, 3)": net(lambda self, h, x: h[:, 1:]),
    "a network is wanted": lambda: 3,
    "a tensor (B, P, 3)": lambda: lambda x: x.tolist(),
    "does it end with `return`": lambda: None,
}

class StartsAsIdentity(nn.Module):
    """The copied network with positions and a convolution that begin at 0, as layers often do."""

    def __init__(self):
        super().__init__()
        self.place = positions()
        self.conv = conv()
        self.mix = linear()
        self.embed = nn.Linear(3, 16)
        self.out = nn.Linear(16, 3)
        for p in (self.place, *self.conv.parameters()):
            nn.init.zeros_(p)

    def forward(self, x):
        h = self.embed(x) + self.place[: x.shape[1]]
        return self.out(h + along(self.conv, h) + self.mix(h.mean(1, keepdim=True)))


# other answers with a mistake of the catalogue
SAME_DIAGNOSIS = [
    ("6.8", "drawn in float32", revealing(draw=lambda logits, g: by_multinomial(
        logits.float(), g))),
    ("6.8", "drawn in float32", revealing(chance=lambda x, g: torch.rand(x.shape, generator=g))),
    ("6.9", "drawn in float32", draws(
        lambda shape, g: torch.empty(shape).exponential_(generator=g),
        lambda log_p, g: (log_p - g.log()).argmax(-1))),
    ("6.11", "but blind", net(lambda self, h, x: h + self.mix(h).amax(-1, keepdim=True),
                              mix=linear)),
    ("6.11", "but blind", nn.Identity),
    ("6.11", "runs over dimension 0", lambda: Attending(batch_first=False)),
    ("6.11", "runs over dimension 0", lambda: nn.Sequential(
        nn.Linear(3, 16), nn.Flatten(0, 1), nn.BatchNorm1d(16), nn.Unflatten(0, (-1, 12)),
        nn.Linear(16, 3))),
    ("6.11", "two calls", net(lambda self, h, x: F.dropout(h, 0.5))),
    ("6.11", "on one side of it", Gated),
    ("6.11", "it jumps", net(lambda self, h, x: h + h.gather(1, torch.cdist(x, x).topk(
        3, largest=False).indices[..., 1:2].expand_as(h)) if h.shape[1] > 2 else h)),
    ("6.11", "a position is still added", StartsAsIdentity),
]

# ---- 6.12

WORDS = sorted(w for w in word_vectors.load_vectors().index
               if w.isascii() and w.isalpha() and w == w.lower() and 3 <= len(w) <= 8)[::2]
LETTERS = 8
MASK = 27


def encode(texts, length=LETTERS):
    return torch.tensor([[ord(c) - 96 for c in text] + [0] * (length - len(text))
                         for text in texts])


class Neighbours(nn.Module):
    """A model without training: each letter from its place and its two neighbours, by counts.

    context: 0 looks at the place alone
    """
    mask_id = MASK

    def __init__(self, train, context=1.0):
        super().__init__()
        hot = F.one_hot(train, MASK + 1).float()                        # (N, L, V)
        place = hot.sum(0) + 1
        self.place = (place / place.sum(1, keepdim=True)).log()         # (L, V)
        pairs = torch.einsum("nlv,nlw->lvw", hot[:, :-1], hot[:, 1:]) + 0.1
        pairs = pairs / pairs.sum((1, 2), keepdim=True)
        # log p(pair) - log p(left) - log p(right), and 0 where a neighbour is masked
        ratio = (pairs / pairs.sum(2, keepdim=True) / pairs.sum(1, keepdim=True)).log()
        ratio[:, MASK] = ratio[:, :, MASK] = 0
        self.right = context * ratio
        self.left = context * ratio.transpose(1, 2)

    def forward(self, x, t):
        place = torch.arange(x.shape[1] - 1)
        logits = self.place.repeat(len(x), 1, 1)
        logits[:, 1:] += self.right[place, x[:, :-1]]
        logits[:, :-1] += self.left[place, x[:, 1:]]
        return logits


def split(texts, encode=encode):
    x = encode(sorted(texts))
    held = torch.arange(len(x)) % 5 == 0
    return x[~held], x[held]


def measured(model, train, held):
    """The four numbers, by other code than the check's."""
    g = torch.Generator().manual_seed(5)
    L = held.shape[1]
    bound, draws = torch.zeros(()), 12_000 // len(held)
    for _ in range(draws):
        t = 1 - torch.rand(len(held), generator=g).double()
        x = mask_tokens(held, t, MASK, g)
        bound = bound + (masked_nll(model(x, t.float()), held, x, t, MASK) / L).mean() / draws
    counts = torch.stack([torch.bincount(column, minlength=27) for column in train.T]) + 1.0
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    baseline = -torch.stack([log_p[torch.arange(L), row].mean() for row in held]).mean()
    blank = torch.full((500, L), MASK)
    drawn = last(unmask(model, blank, torch.linspace(1, 0, 31), MASK, generator=g))
    near = lambda a: ((a[:, None] != train).sum(2).amin(1) <= 1).double().mean().item()
    return {"bound": bound.item(), "by place": baseline.item(), "near": near(drawn),
            "near held out": near(held)}


@cache
def good_report():
    train, held = split(WORDS)
    model = Neighbours(train)
    return {"texts": WORDS, "encode": encode, "model": model} | measured(model, train, held)


def own_text():
    return dict(good_report())


@cache
def names_report():
    """Right: other texts, longer, the tokens padded to 12, a number as a tensor, and a dict."""
    long = sorted(w for w in word_vectors.load_vectors().index
                  if w.isascii() and w.isalpha() and w == w.lower() and 7 <= len(w) <= 12)
    to_ids = partial(encode, length=12)
    train, held = split(long, to_ids)
    model = Neighbours(train, context=0.9)
    report = {"texts": tuple(long), "encode": to_ids, "model": model}
    report |= measured(model, train, held)
    return report | {"bound": torch.tensor(report["bound"]), "seconds": 3}


def reports(**changes):
    """The good report with entries replaced, by values or by functions of the report."""
    def answer():
        report = own_text()
        for key, value in changes.items():
            key = key.replace("_", " ")
            report[key] = value(report) if callable(value) and key != "encode" else value
        return report
    return answer


def of_model(make):
    """A report that is right, of another model, made from the training texts."""
    def answer():
        train, held = split(WORDS)
        model = make(train)
        return own_text() | {"model": model} | measured(model, train, held)
    return answer


class OneWord(Neighbours):
    """The likeliest letters of a place, and little else."""

    def forward(self, x, t):
        logits = super().forward(x, t)
        return logits + 12 * (logits == logits.amax(-1, keepdim=True))


def bound_of(texts, weight=lambda t: 1.0, divide=lambda masks: LETTERS):
    def number(report):
        g = torch.Generator().manual_seed(9)
        x0 = split(WORDS)[texts]
        found = []
        for _ in range(12_000 // len(x0)):
            t = 1 - torch.rand(len(x0), generator=g).double()
            x = mask_tokens(x0, t, MASK, g)
            nll = masked_nll(report["model"](x, t), x0, x, t, MASK) * weight(t)
            found.append((nll / divide((x == MASK).sum(1).clamp(min=1))).mean())
        return torch.stack(found).mean().item()
    return number


def by_place(counted, scored, pad=1.0, same=False):
    def number(report):
        parts = split(WORDS)
        counts = F.one_hot(parts[counted], 27).sum(0).double() + pad
        counts = counts.sum(0, keepdim=True).expand_as(counts) if same else counts
        log_p = (counts / counts.sum(1, keepdim=True)).log()
        return -log_p.gather(1, parts[scored].T).mean().item()
    return number


def share(of, distance=1):
    """The share of held-out texts (1) or of samples near the training texts or others."""
    def number(report):
        train, held = split(WORDS)
        others = {"all": torch.cat([train, held]), "train": train}[of]
        return ((held[:, None] != others).sum(2).amin(1) <= distance).double().mean().item()
    return number


def copies(report):
    """The samples' share of exact copies."""
    train, _ = split(WORDS)
    g = torch.Generator().manual_seed(3)
    x = last(unmask(report["model"], torch.full((1000, LETTERS), MASK), torch.linspace(1, 0, 31),
                    MASK, generator=g))
    return ((x[:, None] != train).sum(2).amin(1) == 0).double().mean().item()


def near_held_out(report):
    """The samples' share of texts near held-out ones."""
    _, held = split(WORDS)
    g = torch.Generator().manual_seed(3)
    x = last(unmask(report["model"], torch.full((1000, LETTERS), MASK), torch.linspace(1, 0, 31),
                    MASK, generator=g))
    return ((x[:, None] != held).sum(2).amin(1) <= 1).double().mean().item()


def of_the_training_texts(key):
    """A report of few texts that is right but for one number: that of the training texts."""
    def answer():
        texts = WORDS[::4]
        train, held = split(texts)
        model = Neighbours(train)
        report = {"texts": texts, "encode": encode, "model": model} | measured(model, train, held)
        return report | {key: measured(model, train, train)[key]}
    return answer


def longest(texts):
    return encode(texts, max(map(len, texts)))


def cut(texts):
    return encode([text[:4] for text in texts])


OWN_TEXT = {
    "40 texts are too few": reports(texts=WORDS[:40]),
    "comes twice, and would stand": reports(texts=[*WORDS, WORDS[7]]),
    "texts must be a list of strings": reports(texts=encode(WORDS)),
    "the report has no 'near held out'": lambda: {
        k: v for k, v in good_report().items() if k != "near held out"},
    "a dict is wanted": lambda: list(good_report().values()),
    "encode must be a function": reports(encode=encode(WORDS)),
    "model must be a MaskedDiffusion": reports(model=lambda report: "net"),
    "'bound' must be one number": reports(bound="1.9"),
    "int64, a row for each text": reports(encode=lambda texts: encode(texts).float()),
    "pad to a fixed length": reports(encode=longest),
    "two different texts have the same tokens": reports(encode=cut),
    "the mask occurs in your texts": reports(encode=lambda texts: torch.where(
        encode(texts) == 0, MASK, encode(texts))),
    "some tokens of your texts have no logit": reports(
        encode=lambda texts: encode(texts) * 2),
    "must return logits (B, L, V)": reports(model=lambda report: WrongShape(report["model"])),
    "'bound': that is the bound of the training texts": of_the_training_texts("bound"),
    "'bound': those are nats for a whole": reports(
        bound=lambda report: LETTERS * report["bound"]),
    "'bound': those are bits": reports(bound=lambda report: report["bound"] / math.log(2)),
    "'bound': the weight 1 / t is missing": reports(bound=bound_of(1, lambda t: t)),
    "'bound': that is the mean over the masked": reports(
        bound=bound_of(1, lambda t: t, lambda masks: masks)),
    "'bound': the sign": reports(bound=lambda report: -report["bound"]),
    "'bound': the report says": reports(bound=0.5),
    "'by place': that is one distribution": reports(by_place=by_place(0, 1, same=True)),
    "'by place': the counts are those of the held-out": reports(by_place=by_place(1, 1)),
    "'by place': that is the score of the training": of_the_training_texts("by place"),
    "'by place': those are nats for a whole": reports(
        by_place=lambda report: LETTERS * report["by place"]),
    "'by place': those are bits": reports(
        by_place=lambda report: report["by place"] / math.log(2)),
    "'by place' is inf": reports(by_place=math.inf),
    "'by place': the report says": reports(by_place=1.0),
    "'near held out': that is a percentage": reports(
        near_held_out=lambda report: 100 * report["near held out"]),
    "each finds itself": reports(near_held_out=share("all")),
    "'near held out': only exact copies": reports(near_held_out=share("train", 0)),
    "'near held out': the report says": reports(near_held_out=0.5),
    "'near': that is a percentage": reports(near=lambda report: 100 * report["near"]),
    "'near': only exact copies": reports(near=copies),
    "'near': the samples are compared with the held-out": reports(near=near_held_out),
    "'near': the report says": reports(near=0.9),
    "which a model reaches that looks at nothing": of_model(partial(Neighbours, context=0.0)),
    "of the samples differ from each other": reports(
        model=lambda report: Remembering(report["model"]), near=1.0),
    "does it end with `return`": lambda: None,
}


class WrongShape(nn.Module):
    mask_id = MASK

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, t):
        return self.model(x, t)[:, :, 0]


class Remembering(nn.Module):
    """Right for texts that are partly known, and one and the same text from nothing but masks."""
    mask_id = MASK

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.one = split(WORDS)[0][0]

    def forward(self, x, t):
        logits = self.model(x, t)
        blank = ((x == MASK) | (x == self.one)).all(1)[:, None, None] & (len(x) == 1000)
        return torch.where(blank, 100 * F.one_hot(self.one, 28), logits)


RIGHT = {
    "6.8": unmask_step,
    "6.9": (masked_bound, draw_tokens),
    "6.10": (over_frames, next_frames),
    "6.11": mean_net,
    "6.12": own_text,
}
OTHER_STYLE = {
    "6.8": revealing(draw=by_multinomial),
    "6.9": [bound_by_the_library, lambda log_p, g: by_multinomial(log_p.double(), g)],
    "6.10": [over_frames_in_turn, next_frames_by_hand],
    "6.11": Attending,
    "6.12": names_report,
}
THIRD_STYLE = {
    "6.8": joint_draw,
    "6.9": (masked_bound, lambda log_p, g: by_sums(log_p.double(), g)),
    "6.10": (over_frames_by_moves, next_frames),
    "6.11": net(lambda self, h, x: h + self.mix(h.amax(1, keepdim=True)), mix=linear),
}
FOURTH_STYLE = {
    "6.8": by_a_loop,
    "6.11": pairs_net,
}
FIFTH_STYLE = {
    "6.8": revealing(draw=by_sums),
    "6.11": Attending(),
}
STYLES = {"right": RIGHT, "other": OTHER_STYLE, "third": THIRD_STYLE, "fourth": FOURTH_STYLE,
          "fifth": FIFTH_STYLE}
WRONG = {
    "6.8": UNMASKING,
    "6.9": BOUND_AND_DRAW,
    "6.10": CLIPS,
    "6.11": SETS,
    "6.12": OWN_TEXT,
}
CASES = cases(WRONG)
verdict = verdicts(WRONG)


@pytest.mark.parametrize("name, diagnosis", CASES)
def test_wrong(name, diagnosis):
    passed, said = verdict(name, diagnosis)
    assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


@pytest.mark.parametrize("name, diagnosis, answer", SAME_DIAGNOSIS)
def test_other_answers_with_the_same_mistakes(name, diagnosis, answer):
    passed, said = judged(name, answer)
    assert not passed and diagnosis in said, said


@pytest.mark.parametrize(
    "name, style", [(name, style) for style in STYLES for name in STYLES[style]])
def test_right(capsys, name, style):
    check = Checker()
    for _ in range(1 if name == "6.12" else 3):             # the checks draw new numbers each time
        check(name, STYLES[style][name])
        assert check.passed(name), capsys.readouterr().out


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert min(len(wrong) for wrong in WRONG.values()) >= 10
    check = Checker()
    for q in QUESTIONS:
        for answer in (stub, (stub, stub) if q.name in ("6.9", "6.10") else stub):
            check(q.name, answer)
            assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) >= 2
    assert sum(q.points for q in QUESTIONS) == 20


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    assert_refused_in_one_sentence(name, [*ODD, *((odd, odd) for odd in ODD)])


def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT, OTHER_STYLE)


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures; 6.12 would have to train."""
    import jupytext
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {"check": Checker(), "torch": torch, "nn": nn, "F": F, "step": samplers.step}
    wanted = {f"{kind}:{q.name}" for q in QUESTIONS[:4] for kind in ("answer", "check")}
    for cell in jupytext.read(SHEET).cells:
        if wanted & set(cell.metadata.get("tags", [])):
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS[:4])


# ---- the checks' own toys


def test_a_chi_squared_test_refuses_one_in_ten_million():
    """Its share of refusals at a milder level, on counts of the right distribution."""
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.4, 0.4]]).double()
    g = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(400):
        x = torch.stack([torch.multinomial(row, 1000, True, generator=g) for row in p])
        counts = F.one_hot(x, 4).sum(1).double()
        statistic = ((counts - 1000 * p) ** 2 / (1000 * p)).nan_to_num().sum()
        refused += statistic > 11.07                        # the 95 % point for 5 degrees
        assert not lesson06_data.improbable(counts, p)
    assert 6 <= refused <= 36
    off = torch.tensor([[500, 300, 199, 1], [100, 100, 400, 400]]).double()
    assert lesson06_data.improbable(off, p)                 # an impossible word, once


def test_the_step_of_6_8_is_the_librarys():
    """Frequencies of a text's states, beside `unmask` from t to s."""
    D = lesson06_data.Language(5)
    x = torch.tensor([[0, 5, 5, 1, 1, 1]]).expand(40_000, 6)
    states = []
    for step in (unmask_step, by_a_loop):
        out = step(D, x, 0.8, 0.3, 5, torch.Generator().manual_seed(len(states)))
        states.append(torch.bincount(out[:, 1] * 6 + out[:, 2], minlength=36).double() / 40_000)
    assert (states[0] - states[1]).abs().max() < 5 * (2 * 0.15 / 40_000) ** 0.5


def test_the_bound_of_6_9_is_the_librarys():
    c = lesson06_data.draw_texts()
    seed = lambda: torch.Generator().manual_seed(4)
    mine = masked_bound(c.D, c.x0, c.mask_id, seed())
    g = seed()
    t = 1 - torch.rand(len(c.x0), generator=g)
    x = torch.where(torch.rand(c.x0.shape, generator=g) < t[:, None], c.mask_id, c.x0)
    library = masked_nll(c.D(x, t), c.x0, x, t, c.mask_id) / c.x0.shape[1]
    torch.testing.assert_close(mine, library, rtol=1e-4, atol=1e-5)


def test_the_mean_over_masks_without_a_weight_is_nearly_the_bound():
    """What a diagnosis of 6.9 says: L / (L + 1) of the bound, on average over t and masks."""
    c = lesson06_data.draw_texts()
    nll = torch.linspace(0.5, 2, c.x0.shape[1]).double()    # of each place, whatever is known
    g = torch.Generator().manual_seed(0)
    t = 1 - torch.rand(400_000, generator=g).double()
    masked = torch.rand(400_000, 7, generator=g).double() < t[:, None]
    mean = (nll * masked).sum(1) / masked.sum(1).clamp(min=1)
    assert mean.mean().item() == pytest.approx(7 / 8 * nll.mean().item(), rel=5e-3)


def test_the_clips_denoiser_of_6_10_is_exact():
    """Its x0_hat has the least squared error: changing it a little, linearly, helps nowhere."""
    schedule = Schedule.flow()
    D = lesson06_data.ClipDenoiser(schedule)
    n, frames = 20_000, 5
    number = torch.arange(frames).double()
    covariance = 0.8 ** (number[:, None] - number).abs()
    g = torch.Generator().manual_seed(0)
    normal = lambda: torch.randn(n, frames, 1, generator=g, dtype=torch.float64)
    x0 = torch.linalg.cholesky(covariance) @ normal()
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0]).double().expand(n, frames)
    x = append_dims(schedule.alpha(t), x0) * x0 + append_dims(schedule.sigma(t), x0) * normal()
    error = (x0 - D(x, t))[..., 0]
    products = error.T @ x[..., 0] / n                      # 0 for the conditional mean
    assert products.abs().max() < 6 / n**0.5
    assert error[:, 0].abs().max() < 1e-9 and error[:, 4].var() > 0.3


def test_equivariance_breaks_by_one_position():
    """6.11: the check sees a position of a thousandth."""
    small = net(lambda self, h, x: h + 1e-3 * torch.arange(h.shape[1])[:, None]
                + self.mix(h.mean(1, keepdim=True)), mix=linear)
    passed, said = judged("6.11", small)
    assert not passed and "a position is still added" in said


def test_the_report_of_6_12_is_recomputed_well():
    """The check's numbers beside the report's, which other code computed with other draws."""
    c = lesson06_data.Case(report=own_text())
    lesson06_data.describe_report(c)
    lesson06_data.describe_tokens(c)
    lesson06_data.measure_texts(c)
    lesson06_data.draw_samples(c)
    report = good_report()
    assert c.bound.item() == pytest.approx(report["bound"], rel=0.02)
    assert c.by_place.item() == pytest.approx(report["by place"], rel=1e-4)
    assert c.near_held.item() == report["near held out"]
    assert c.near.item() == pytest.approx(report["near"], abs=0.1)
