"""Lesson 7's checks, second half: a release. Solutions are right, stubs are not attempted, and each
plausible mistake gets its own diagnosis.
"""
import math
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import jupytext
import pytest
import torch
from catalogues import (
    ODD,
    assert_accepted,
    assert_own_diagnoses,
    assert_random_numbers_are_left_alone,
    assert_refused_in_one_sentence,
    cases,
    judged,
    stub,
    verdicts,
)
from scipy import stats

from course_lib import cfg, ddim, dpmpp, last, timesteps
from course_lib.checks import Checker, lesson07_release, lesson07_service
from course_lib.checks.common import one_thread
from course_lib.checks.lesson07_service import LEAKY_SERVICES, Refused
from course_lib.guidance import guidance_interval
from course_lib.lab.evaluation.inference import batched_cfg

LESSONS = Path(__file__).parents[1] / "lessons"
NAME = "07_applications_deployment_exercises.py"
SHEET = next(LESSONS / f for f in (NAME, f"drafts/{NAME}") if (LESSONS / f).exists())
QUESTIONS = [*lesson07_release.QUESTIONS, *lesson07_service.QUESTIONS]


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 7.8

def drawing(steps=4, scale=1.0, solver=dpmpp, before=lambda x, B: x, after=lambda x: x, guide=cfg,
            words=lambda tokens: tokens):
    """A fast_draw, and a place for each mistake."""
    def fast_draw(D, noise, tokens):
        B = len(noise)
        nothing = D.net.encode(D.net.null["tokens"], B)
        guided = D if scale == 1 else guide(D, scale, nothing)
        ts = timesteps(D.schedule, steps)
        text = D.net.encode(words(tokens), B)
        return after(last(solver(guided, D.schedule, before(noise, B), ts, **text)))
    return fast_draw


def first_guided(D, noise, tokens):
    return drawing(4, guidance_interval(2.0, 0.9, 1.0))(D, noise, tokens)


def without_last(D, noise, tokens):
    text = D.net.encode(tokens, len(noise))
    return dpmpp(D, D.schedule, noise, timesteps(D.schedule, 4), **text)


def more_for_many(D, noise, tokens):
    return drawing(4 if len(noise) < 10 else 6)(D, noise, tokens)


LATENCY = {
    "a generator of states": without_last,
    "those are pictures": drawing(2, after=lambda x: x[:, :3].repeat(1, 1, 4, 4)),
    "for three captions; got Tensor (1, 8, 8, 8)": drawing(2, after=lambda x: x[:1]),
    "nan or inf in the latents": drawing(2, after=lambda x: x / 0),
    "was not evaluated at all": lambda D, noise, tokens: noise,
    "draw no noise of your own": drawing(2, before=lambda x, B: torch.randn(x.shape)),
    "start from the noise that is passed": drawing(
        2, before=lambda x, B: torch.ones(x.shape)),
    "pass the captions' context": drawing(2, words=lambda tokens: tokens * 0 + tokens[:1, :1]),
    "changes with the pictures that are drawn beside": drawing(
        2, after=lambda x: x - x.mean(0)),
    "in one pass of 2B as well": drawing(5, 2.0, guide=batched_cfg),
    "where guidance is at work, a step has two": drawing(4, 2.0),
    "20.0 evaluations of each picture, at most 5": drawing(10, 2.0),
    "what does it depend on": more_for_many,
    "2 evaluations, but": drawing(1, 2.0),
    "4 evaluations, but": drawing(2, 2.0),
    "3 evaluations, but": drawing(3, after=lambda x: 0.5 * x),
    "does it end with `return`": lambda *a: None,
}


# ---- 7.9

def p_value(agreeing, signs):
    return sum(math.comb(signs, k) for k in range(agreeing, signs + 1)) / 2**signs


def p_by_fractions(agreeing, signs):
    return float(1 - Fraction(sum(math.comb(signs, k) for k in range(agreeing)), 2**signs))


def p_by_logarithms(agreeing, signs):
    log = lambda k: (math.lgamma(signs + 1) - math.lgamma(k + 1) - math.lgamma(signs - k + 1)
                     - signs * math.log(2))
    return torch.tensor([log(k) for k in range(agreeing, signs + 1)]).double().logsumexp(0).exp()


def attack(x):
    return x.roll(1, 3)


def blur(x):
    x = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    return torch.nn.functional.avg_pool2d(x, 3, 1)


def mended(x, find, shifts=(-1, 0, 1), factor=9):
    tries = [find(x.roll((dy, dx), (2, 3))) for dy in shifts for dx in shifts]
    return (factor * torch.stack(tries).amin(0)).clamp(max=1)


def mended_at_once(x, find):
    """Right: one call of find, shifts without wrapping round, and Sidak's exact correction."""
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    tries = [padded[..., a:a + 28, b:b + 28] for a in range(3) for b in range(3)]
    least = find(torch.cat(tries)).reshape(9, -1).amin(0)
    return 1 - (1 - least) ** 9


def tries_of(x, find, places):
    return torch.stack([find(x.roll(place, (2, 3))) for place in places])


NINE = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
FIVE = [place for place in NINE if 0 in place]


def searching(places, change):
    return lambda x, find: change(tries_of(x, find, places))


def forge(x, y, invert, draw):
    signs = torch.where(invert(x).sum(0) >= 0, 1.0, -1.0)
    return draw(torch.randn(len(y), 1, 28, 28).abs() * signs, y)


def forge_by_the_mean(x, y, invert, draw):
    """Right: the mean of what inversion finds, at deviation 1, and a little noise."""
    z = invert(x).mean(0)
    return draw(z / z.std() + 0.1 * torch.randn(len(y), 1, 28, 28), y)


def four(**changed):
    """The four functions, some of them changed."""
    functions = {"p_value": p_value, "attack": attack, "mended": mended, "forge": forge}
    return tuple((functions | changed).values())


def of_p(f):
    return four(p_value=f)


def without_middle(x):
    """Six rows black."""
    return torch.cat([x[:, :, :11], torch.full_like(x[:, :, 11:17], -1), x[:, :, 17:]], 2)


WATERMARK = {
    "k belongs to it": of_p(lambda k, m: p_value(k + 1, m)),
    "the other tail": of_p(lambda k, m: 1 - p_value(k + 1, m)),
    "the other side": of_p(lambda k, m: 1 - p_value(k, m)),
    "P(exactly k agree)": of_p(lambda k, m: math.comb(m, k) / 2**m),
    "twice the tail": of_p(lambda k, m: min(1, 2 * p_value(k, m))),
    "that is a normal curve, and": of_p(
        lambda k, m: stats.norm.sf((k - m / 2) / math.sqrt(m / 4))),
    "with its half step": of_p(lambda k, m: stats.norm.sf((k - 0.5 - m / 2) / math.sqrt(m / 4))),
    "Hoeffding's bound": of_p(lambda k, m: math.exp(-2 * m * (k / m - 0.5) ** 2)),
    "not divided by 2^m": of_p(lambda k, m: sum(math.comb(m, j) for j in range(k, m + 1))),
    "that is its logarithm": of_p(lambda k, m: math.log(p_value(k, m))),
    "has no digits left": of_p(
        lambda k, m: p_value(k, m) if m < 80 or m > 90 and m < 200 else 1 - (1 - p_value(k, m))),
    "too many for floats": of_p(lambda k, m: sum(
        float(math.comb(m, j)) * 0.5**m for j in range(k, m + 1))),
    "p_value(7, 12): 0.5 should be": of_p(lambda k, m: 0.5),
    "pass all functions": (p_value, attack, mended),
    "attack is not written yet": four(attack=stub),
    "attack: the pictures have not changed": four(attack=lambda x: x),
    "attack: those are other pictures": four(attack=lambda x: x.flip(0)),
    "are still read as the digit": four(attack=without_middle),
    "attack: the mark is found in": four(attack=lambda x: (x + 0.001).clamp(-1, 1)),
    "attack: pictures (24, 1, 28, 28) are wanted": four(attack=lambda x: x[:, 0]),
    "attack: nan or inf": four(attack=lambda x: x / 0),
    "attack: the pictures leave": four(attack=lambda x: 2 * x.roll(1, 3)),
    "mended is not written yet": four(mended=stub),
    "is small nine times as often": four(mended=searching(NINE, lambda p: p.amin(0))),
    "no probability: at most 1": four(mended=searching(NINE, lambda p: 9 * p.amin(0))),
    "that is the largest": four(mended=searching(NINE, lambda p: p.amax(0))),
    "that is the mean": four(mended=searching(NINE, lambda p: p.mean(0))),
    "where the picture lies": four(mended=lambda x, find: find(x)),
    "you multiply by 8": four(mended=lambda x, find: mended(x, find, factor=8)),
    "multiplied with each other": four(mended=searching(NINE, lambda p: p.prod(0))),
    "many tries make a finding weaker": four(mended=searching(NINE, lambda p: p.amin(0) / 9)),
    "only shifts along the rows": four(mended=searching(
        [(0, -1), (0, 0), (0, 1)], lambda p: (3 * p.amin(0)).clamp(max=1))),
    "only shifts along the columns": four(mended=searching(
        [(-1, 0), (0, 0), (1, 0)], lambda p: (3 * p.amin(0)).clamp(max=1))),
    "to one side only": four(mended=lambda x, find: mended(x, find, (0, 1), 4)),
    "without the diagonal ones": four(mended=searching(
        FIVE, lambda p: (5 * p.amin(0)).clamp(max=1))),
    "not for each try": four(mended=searching(NINE, lambda p: 9 * p)),
    "not for all of them": four(mended=searching(NINE, lambda p: 9 * p.min())),
    "not 9 times the least": four(mended=lambda x, find: mended(x, find, (-2, 0, 2))),
    "changes the tensors": four(mended=lambda x, find: find(x.add_(0.1))),
    "forge is not written yet": four(forge=stub),
    "pictures that were marked": four(forge=lambda x, y, invert, draw: x[:16]),
    "forge: the mark is found in": four(
        forge=lambda x, y, invert, draw: draw(torch.randn(16, 1, 28, 28), y)),
    "are read as y, at least 10": four(
        forge=lambda x, y, invert, draw: forge(x, (y + 1) % 10, invert, draw)),
    "some of the pictures are the same": four(forge=lambda x, y, invert, draw: forge(
        x, y, invert, draw)[torch.arange(16) % 10]),
    "forge: the pictures leave": four(forge=lambda x, y, invert, draw: invert(x)[:16]),
}


# ---- 7.10

def skew(y, a, K):
    groups = [a.double(), *(a[y == k].double() for k in range(K))]
    share = torch.stack([group.mean() for group in groups])
    n = torch.tensor([len(group) for group in groups])
    return share, (share * (1 - share) / n).sqrt()


def weights(y, a, K):
    table = torch.zeros(K, 2).double().index_put((y, a.long()), torch.tensor(1.0).double(), True)
    n = table.sum(1)
    one_kind = (table == 0).any(1)[y]
    return torch.where(one_kind, 1 / len(y), n[y] / len(y) / 2 / table[y, a.long()])


def effective(w):
    return w.sum() ** 2 / w.square().sum()


def skew_in_lists(y, a, K):
    """Right: numpy's way, with n - 1."""
    shares, errors = [], []
    for group in [a.tolist(), *([v for v, k in zip(a.tolist(), y.tolist()) if k == j]
                                for j in range(K))]:
        p = sum(group) / len(group)
        shares.append(p)
        errors.append((p * (1 - p) / (len(group) - 1)) ** 0.5)
    return torch.tensor(shares), torch.tensor(errors)


def weights_in_a_loop(y, a, K):
    w = torch.ones(len(y)) / len(y)
    for k in range(K):
        yes, no = (y == k) & a, (y == k) & ~a
        if yes.any() and no.any():
            half = (yes.sum() + no.sum()) / len(y) / 2
            w[yes], w[no] = half / yes.sum(), half / no.sum()
    return w


def three(**changed):
    functions = {"skew": skew, "weights": weights, "effective": effective}
    return tuple((functions | changed).values())


def of_shares(change):
    """skew with its shares changed: change(shares, y, a, K)"""
    def answer(y, a, K):
        share, error = skew(y, a, K)
        return change(share, y, a, K), error
    return three(skew=answer)


def of_errors(change):
    """skew with its errors changed: change(p, n, e)"""
    def answer(y, a, K):
        share, error = skew(y, a, K)
        n = torch.tensor([len(y), *((y == k).sum() for k in range(K))])
        return share, change(share, n, error)
    return three(skew=answer)


def with_numbers(share, y, a, K, of=lambda yes: yes):
    yes = torch.stack([(a & (y == k)).sum() for k in range(K)]).double()
    return torch.cat([share[:1], of(yes)])


def of_weights(change):
    return three(weights=lambda y, a, K: change(weights(y, a, K), y, a))


def kind_counts(y, a):
    return torch.stack([((y == k) & (a == v)).sum() for k, v in zip(y, a)]).double()


BIAS = {
    "pass all functions": (skew, weights),
    "those are percentages": of_shares(lambda p, y, a, K: 100 * p),
    "without the attribute": of_shares(lambda p, y, a, K: 1 - p),
    "the mean over the prompts": of_shares(
        lambda p, y, a, K: torch.cat([p[1:].mean()[None], p[1:]])),
    "how often a picture with the attribute": of_shares(
        lambda p, y, a, K: with_numbers(p, y, a, K, lambda yes: yes / yes.sum())),
    "not of the prompt's": of_shares(
        lambda p, y, a, K: with_numbers(p, y, a, K, lambda yes: yes / len(y))),
    "differences to the share everywhere": of_shares(
        lambda p, y, a, K: torch.cat([p[:1], p[1:] - p[0]])),
    "those are numbers of pictures": of_shares(
        lambda p, y, a, K: torch.cat([a.sum()[None], with_numbers(p, y, a, K)[1:]])),
    "and then that of each prompt's": of_shares(lambda p, y, a, K: p.round()),
    "standard deviation of one picture": of_errors(lambda p, n, e: (p * (1 - p)).sqrt()),
    "that is a variance": of_errors(lambda p, n, e: e**2),
    "divided by the number, not by its root": of_errors(lambda p, n, e: (p * (1 - p)).sqrt() / n),
    "half width of a 95": of_errors(lambda p, n, e: 1.96 * e),
    "has the number of all pictures": of_errors(lambda p, n, e: (p * (1 - p) / n[0]).sqrt()),
    "has the share of all pictures": of_errors(lambda p, n, e: (p[0] * (1 - p[0]) / n).sqrt()),
    "at a share of 1/2": of_errors(lambda p, n, e: 0.5 / n.double().sqrt()),
    "with each share's own n": of_errors(lambda p, n, e: e + 0.1),
    "two tensors are wanted, shares": three(skew=lambda y, a, K: skew(y, a, K)[0]),
    "weights is not written yet": three(weights=stub),
    "all are the same, so": of_weights(lambda w, y, a: torch.ones(len(y)) / len(y)),
    "add up to the number of pictures": of_weights(lambda w, y, a: w * len(y)),
    "within each prompt it is still skewed": of_weights(
        lambda w, y, a: torch.where(a, 0.5 / a.sum(), 0.5 / (~a).sum())),
    "every prompt counts the same": of_weights(
        lambda w, y, a: w / y.bincount()[y] * len(y) / y.bincount().count_nonzero()),
    "upside down: what is frequent": of_weights(
        lambda w, y, a: kind_counts(y, a) / kind_counts(y, a).sum()),
    "have changed places": three(weights=lambda y, a, K: weights(y, ~a, K)[
        torch.stack([((y == k) & (a != v)).int().argmax() for k, v in zip(y, a)])] * 0
        + other_kind(y, a, K)),
    "so it is everywhere now": of_weights(lambda w, y, a: a.double() / a.sum()),
    "they do not add up to 1": of_weights(lambda w, y, a: 1 / kind_counts(y, a)),
    "should have half of the prompt's weight": of_weights(lambda w, y, a: w.sqrt()),
    "of one kind nothing can be balanced: such pictures have the weight 1 / N, and": three(
        weights=lambda y, a, K: unguarded(y, a, K)),
    "such pictures have the weight 1 / N": of_weights(
        lambda w, y, a: torch.where(w == 1 / len(y), 0.0, w)),
    "effective is not written yet": three(effective=stub),
    "the number of weights, whatever": three(effective=lambda w: len(w)),
    "sum of squares, upside down": three(effective=lambda w: w.square().sum()),
    "for weights that add up to 1 only": three(effective=lambda w: 1 / w.square().sum()),
    "the square of the sum is missing": three(effective=lambda w: w.sum() / w.square().sum()),
    "the sum over the largest": three(effective=lambda w: w.sum() / w.max()),
    "the root is not wanted": three(effective=lambda w: w.sum() / w.norm()),
    "effective: not": three(effective=lambda w: w.sum()),
    "skew is not": (stub, lambda *a: None, effective),
}


def other_kind(y, a, K):
    """The weights with those of both kinds exchanged."""
    n = y.bincount(minlength=K)[y]
    return n / len(y) / 2 / (n - kind_counts(y, a))


def unguarded(y, a, K):
    """0 pictures of a kind are divided by."""
    n = y.bincount(minlength=K).double()
    w = n[y] / len(y) / 2 / kind_counts(y, a)
    empty = torch.stack([((y == k) & ~a).sum() == 0 for k in y])
    return torch.where(empty, torch.nan, w)


del BIAS["skew is not"]


# ---- 7.11

SECRET = "xylophone"


def refusal(ask, *arguments):
    try:
        ask(*arguments)
    except Refused as words:
        return str(words)


def tells(text, *words):
    return any(word in str(text) for word in words)


def by_ids(make):
    service = make()
    ids = [service.ask(SECRET) for _ in range(3)]
    rest, number = ([re.sub(digits, "", id) for id in ids] for digits in (r"\d", r"\D"))
    return rest[0] == rest[1] and int(number[1] or 0) - int(number[0] or 0) == 1


def by_cache(make):
    service = make()
    first, second = (service.look(service.ask(SECRET, seed))["picture"] for seed in (1, 2))
    return torch.equal(first, second)


def by_log(make):
    service = make()
    service.ask(SECRET)
    refusal(service.ask, SECRET * 20)
    return tells(service.log, SECRET)


def by_generator(make):
    services = make(), make()
    for service in services:
        service.ask("a", 5)
    seeds = [service.look(service.ask("b"))["seed"] for service in services]
    return seeds[0] == seeds[1]


def by_errors(make):
    service = make()
    id = service.ask(SECRET)
    told = refusal(service.look, "none"), refusal(service.ask, "wrong" * 20)
    return tells(told, SECRET, id)


def by_health(make):
    service = make()
    id = service.ask(SECRET)
    return tells(service.health(), SECRET, id)


def by_settings(make):
    alone, after = make(), make()
    after.ask("a", scale=7.0)
    pictures = [s.look(s.ask(SECRET, seed=3))["picture"] for s in (alone, after)]
    return not torch.equal(*pictures)


TESTS = {"ids": by_ids, "cache": by_cache, "log": by_log, "generator": by_generator,
         "errors": by_errors, "health": by_health, "settings": by_settings}


def probing(kind=set, **changed):
    """A probe with some of its seven tests changed."""
    tests = TESTS | changed
    return lambda make: kind(name for name, test in tests.items() if test(make))


def logs_only_drawn(make):
    service = make()
    service.ask(SECRET)
    return tells(service.log, SECRET)


def one_service(make):
    """One service for everything: what one test leaves behind, the next one finds."""
    service = make()
    return {name for name, test in TESTS.items() if test(lambda: service)}


def same_cached(make):
    service = make()
    first, second = (service.look(service.ask(SECRET, 1))["picture"] for _ in range(2))
    return torch.equal(first, second)


def only_decimal_ids(make):
    ids = [make().ask(SECRET) for _ in range(2)]
    return ids[0] == ids[1]


def generator_by_next(make):
    service = make()
    service.ask("a", 5)
    return service.look(service.ask("b"))["seed"] == 6


def cache_of_settings(make):
    return by_cache(make) or by_settings(make)


PROBE = {
    "nothing is accused of 'cache'": probing(cache=same_cached),
    "nothing is accused of 'log'": probing(log=lambda make: [
        s := make(), s.ask("a"), tells(s.log, "a")][2]),
    "nothing is accused of 'generator'": probing(generator=lambda make: [
        s := make(), s.look(s.ask("b", 5))["seed"] == 5][1]),
    "nothing is accused of 'settings'": probing(settings=lambda make: not torch.equal(*[
        s.look(s.ask(SECRET))["picture"] for s in (make(), make())])),
    "nothing is accused of 'health'": probing(health=lambda make: bool(make().health())),
    "nothing is accused of 'errors'": probing(
        errors=lambda make: refusal(make().look, "x") is not None),
    "nothing is accused of 'ids'": probing(ids=lambda make: True),
    "its first id is '10001'": probing(ids=lambda make: False),
    "its ids are 'job-000017'": probing(ids=only_decimal_ids),
    "gives one picture, that of the first": probing(cache=lambda make: False),
    "'A cat' and 'a cat'": probing(cache=lambda make: [
        s := make(), torch.equal(*[s.look(s.ask(word, seed))["picture"] for word, seed in (
            (SECRET, 1), (SECRET, 2))]) and not hasattr(s, "cache")][1]),
    "the prompt stands in its log": probing(log=lambda make: False),
    "a prompt that was refused stands in its log": probing(log=logs_only_drawn),
    "decides which seed the next client": probing(generator=generator_by_next),
    "the last client's seed plus one": probing(
        generator=lambda make: by_generator(make) and not generator_by_next(make)),
    "names all others": probing(errors=lambda make: False),
    "ask it for too long a prompt": probing(errors=lambda make: [
        s := make(), id := s.ask(SECRET), tells(refusal(s.look, "none"), id)][2]),
    "has the last client's prompt": probing(health=lambda make: False),
    "its health has ids in it": probing(health=lambda make: [
        s := make(), s.ask(SECRET), tells(s.health(), SECRET)][2]),
    "gets the last client's": probing(settings=lambda make: False),
    "a mean of those of all": probing(settings=lambda make: [
        s := make(), s.ask("a", scale=7.0), s.look(s.ask(SECRET, 3))["picture"].equal(
            [t := make(), t.look(t.ask(SECRET, 3, 7.0))["picture"]][1])][2]),
    "by 'settings' alone is accused of 'cache'": probing(cache=cache_of_settings),
    "make a new service for each test": lambda make: [*probing()(make)][:2],
    "your probe stops at a refusal": lambda make: make().look("none"),
    "a set of names is wanted; got str": lambda make: "ids",
    "is none of the leaks": lambda make: {"cookies"},
    "does it end with `return`": lambda make: None,
}


# ---- 7.12

def sheet_cell(tag):
    return next(cell.source for cell in jupytext.read(SHEET).cells
                if tag in cell.metadata.get("tags", []))


def card(*changes):
    """The sheet's model_card, some of its text replaced."""
    code = sheet_cell("answer:7.12")
    for old, new in changes:
        assert old in code, old
        code = code.replace(old, new)
    names = {"SECTIONS": lesson07_service.SECTIONS}
    exec(code, names)
    return names["model_card"]


model_card = card()
GAP = 'return "not recorded" if table.get(key) is None else table[key]'


def card_in_lines(about, said):
    """Right, and written in another way: per cent, no list, thousands with a comma."""
    unknown = "not recorded"
    metrics = dict(about.get("metrics") or {})
    n, judge = metrics.pop("n", None), metrics.pop("judged_by", None)
    lines = []
    for section in lesson07_service.SECTIONS:
        lines += ["", f"## {section}", ""]
        if section == "Model details":
            for key in ("steps", "seconds", "command"):
                value = about.get(key)
                lines.append(f"* {key} | {unknown if value is None else value}")
            lines.append(f"* judge | {judge or unknown}")
        elif section == "Training data":
            lines.append(about.get("data", unknown))
        elif section == "Quantitative analyses":
            for name, value in metrics.items():
                mean, *error = value if isinstance(value, list) else [value]
                spread = "".join(f" +- {100 * e:.4f} %" for e in error)
                count = unknown if n is None else f"{n:,}"
                lines.append(f"| {name} | {100 * mean:.3f} %{spread} | n = {count} |")
        else:
            lines.append(said.get(section.lower(), unknown))
    return "\n".join(lines)


def in_reverse(about, said):
    parts = re.findall(r"^## .*?(?=^## |\Z)", model_card(about, said) + "\n", re.S | re.M)
    return "\n".join(reversed(parts))


CARD = {
    "`or` and `if value`": card(('return f"{value:.4g}"\n',
                                 'return f"{value:.4g}" if value else "not recorded"\n')),
    "`None` stands": card((GAP, "return table.get(key)"),
                          (" or known(said, section.lower())", " or said.get(section.lower())")),
    "changes the header": card(("details = [", 'metrics.pop("n", None)\n    details = [')),
    "is a text; got dict": lambda about, said: {},
    "the section 'Factors' is missing": lambda about, said: model_card(about, said).replace(
        "## Factors\n", ""),
    "another order": in_reverse,
    "has no line under": card(('if name not in ("n", "judged_by")',
                               'if name in ("sharpness", "near_copies")')),
    "fewer than three digits": card(('return f"{value:.4g}"\n', 'return f"{value:.1g}"\n')),
    "the standard error of wetness": card((" ± {value[1]:.3g}", "")),
    "nothing is left of the standard error": card((" ± {value[1]:.3g}", " ± {value[1]:.1f}")),
    "steps is 0 in the header": card((GAP, 'return table.get(key) or "not recorded"')),
    "without its n": card((", n = {known(metrics, 'n')}", "")),
    "the header has no n": card(("n = {known(metrics, 'n')}", "n = {metrics.get('n', '?')}")),
    "the text that was said is missing": card(("known(said, section.lower())",
                                               "known(said, section)")),
    "nobody said anything": card(("known(said, section.lower())",
                                  "said.get(section.lower(), '')")),
    "is in the header and not under Model details": card(('"steps", "seconds")', '"steps")')),
    "the header does not say": card((GAP, 'return ("-" if key in ("seconds", "steps") else "not '
                                     'recorded") if table.get(key) is None else table[key]')),
    "are not under Training data": card(('"Training data": known(about, "data")',
                                         '"Training data": "MNIST"')),
    "names no data": card(('"Training data": known(about, "data")',
                           '"Training data": about.get("data", "photographs")')),
    "though all of it is known": lambda about, said: (
        model_card(about, said) + "\nlicence: not recorded\n"),
    "neither in the header nor": lambda about, said: (
        model_card(about, said) + "\nabout 99 % are right\n"),
    "your function raises KeyError": card((GAP, "return table[key]")),
    "does it end with `return`": lambda *a: None,
}


RIGHT = {
    "7.8": first_guided,
    "7.9": four(),
    "7.10": three(),
    "7.11": probing(),
    "7.12": model_card,
}
OTHER_STYLE = {
    "7.8": drawing(5),
    "7.9": four(p_value=p_by_fractions, attack=blur, mended=mended_at_once,
                forge=forge_by_the_mean),
    "7.10": [skew_in_lists, weights_in_a_loop, lambda w: 1 / (w / w.sum()).square().sum().item()],
    "7.11": probing(list),
    "7.12": card_in_lines,
}
THIRD_STYLE = {
    "7.8": drawing(5, solver=ddim),
    "7.9": four(p_value=p_by_logarithms, attack=lambda x: x.roll((-1, 1), (2, 3))),
    "7.12": card((" ± {value[1]:.3g}", " ± {value[1]:.3f}")),
}
WRONG = {
    "7.8": LATENCY,
    "7.9": WATERMARK,
    "7.10": BIAS,
    "7.11": PROBE,
    "7.12": CARD,
}
MANY = {"7.9": (stub,) * 4, "7.10": (stub,) * 3}
CASES = cases(WRONG)
verdict = verdicts(WRONG)


@pytest.mark.parametrize("name, diagnosis", CASES)
def test_wrong(name, diagnosis):
    passed, said = verdict(name, diagnosis)
    assert not passed and said.startswith(f"{name} not yet") and diagnosis in said, said


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("style", [RIGHT, OTHER_STYLE, THIRD_STYLE],
                         ids=["right", "other style", "third style"])
def test_right(name, style):
    times = {"7.8": 1, "7.9": 3}.get(name, 20)              # 7.8 is the same each time
    for _ in range(times if name in style else 0):
        passed, said = judged(name, style[name])
        assert passed, said


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG) == list(OTHER_STYLE)
    assert min(len(wrong) for wrong in WRONG.values()) >= 15
    check = Checker()
    for q in QUESTIONS:
        for answer in (stub, MANY.get(q.name, stub)):
            if answer is stub and q.name in MANY:
                continue
            check(q.name, answer)
            assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) == 3
    assert sum(q.points for q in QUESTIONS) == 16


def test_each_mistake_has_its_own_diagnosis():
    assert_own_diagnoses(WRONG, verdict)


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_get_one_sentence(name):
    groups = {"7.9": 4, "7.10": 3}.get(name, 1)
    assert_refused_in_one_sentence(name, [*ODD, *((odd,) * groups for odd in ODD)])


def test_judging_leaves_the_random_numbers_alone():
    assert_random_numbers_are_left_alone(RIGHT)


def test_evaluations_are_counted_row_by_row():
    """Guidance counts twice, in one pass or in two, and a hook is left nowhere."""
    c = lesson07_release.latency_case()
    rows = torch.arange(2)
    for answer, wanted in ((drawing(3), 3), (drawing(3, 2.0), 6),
                           (drawing(3, 2.0, guide=batched_cfg), 6), (first_guided, 5)):
        with torch.no_grad():
            assert lesson07_release.counted(answer, c, rows)[1] == wanted
    assert not c.D.net.unet.stem._forward_pre_hooks


def test_the_tail_is_that_of_scipy():
    for m, k in lesson07_release.SIGNS:
        wanted = stats.binom.sf(k - 1, m, 0.5)
        assert math.isclose(lesson07_release.tail(k, m), wanted, rel_tol=1e-9)


def test_the_nine_p_values_of_7_9_hold_the_mark_once():
    for _ in range(20):
        c = lesson07_release.shifted_case()
        assert c.table.shape == (9, 6)
        assert ((c.table < 1e-5).sum(0) == torch.tensor([1, 1, 1, 0, 0, 0])).all()


def test_each_reader_of_7_11_has_three_leaks_of_seven():
    drawn = [lesson07_service.three_leaks(f"reader {k}") for k in range(700)]
    counts = Counter(leak for three in drawn for leak in three)
    assert all(len({*three}) == 3 for three in drawn) and {*counts} == {*LEAKY_SERVICES}
    assert all(abs(n - 300) < 5 * 300**0.5 for n in counts.values())
    assert probing()(lesson07_service.leaky("Ada")) == {*lesson07_service.three_leaks(" ADA ")}
    assert type(lesson07_service.leaky("Ada")()).__name__ == "Service"
    with pytest.raises(ValueError, match="must be a name"):
        lesson07_service.leaky("")


def test_the_sheet_answers_its_own_questions(monkeypatch):
    """The answer cells of the solved sheet, without its figures; and its table of leaks."""
    monkeypatch.setenv("COURSE_STRICT", "1")
    names = {"check": Checker(), "torch": torch, "math": math, "re": re, "cfg": cfg, "last": last,
             "dpmpp": dpmpp, "timesteps": timesteps, "guidance_interval": guidance_interval,
             "Refused": Refused, "SECTIONS": lesson07_service.SECTIONS}
    wanted = {f"{kind}:{q.name}" for q in QUESTIONS for kind in ("answer", "check")}
    cells = jupytext.read(SHEET).cells
    for cell in cells:
        if wanted & {*cell.metadata.get("tags", [])}:
            exec(compile(cell.source, "sheet", "exec"), names)
    assert all(names["check"].passed(q.name) for q in QUESTIONS)
    text = "\n".join(cell.source for cell in cells)
    part = text[text.index("## 7.11"):text.index("## 7.12")]
    assert re.findall(r'^\| `"(\w+)"` \|', part, re.M) == list(LEAKY_SERVICES)


def test_the_sheet_s_points():
    text = SHEET.read_text(encoding="utf-8")
    points = [int(n) for n in re.findall(r"^# ## 7\.\d+ .*\((\d) points", text, re.M)]
    assert len(points) == 12 and sum(points) == 38 and "Twelve questions, 38 points" in text
    part = text[text.index("## The capstone"):]
    assert sum(int(n) for n in re.findall(r"^# \| \*\*.*?\*\* \((\d)\)", part, re.M)) == 25


@pytest.mark.parametrize("form", [" ± {value[1]:.1g}", " +- {100 * value[1]:.2f} %",
                                  " ± {value[1]:.1e}"])
def test_a_standard_error_may_be_rounded(form):
    answer = card((" ± {value[1]:.3g}", form))
    assert_accepted("7.12", answer, times=20)
