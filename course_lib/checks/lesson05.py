"""The questions of lesson 5. Each judge computes the right answer and the well-known wrong ones, and tells them apart."""
import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from .. import samplers
from ..guidance import cfg
from ..lab import metrics, nouns, sentences, study, train
from ..lab.data import GaussianMixture
from ..samplers import grid, last
from ..schedules import over
from . import Question, Wrong, compare, function
from .lesson01 import F64
from .lesson02 import one_thread
from .lesson03 import apart, between, refuse, source
from .lesson04 import COSINE, SCHEDULES, asked, bumps, noise, not_finite


def random_labels(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=source())


# ---- 5.1: dropping labels

def judge_drop(f: Callable) -> None:
    """5.1: drop(y, null, p, generator), one coin for each example, for labels (B,) and for captions (B, L)."""
    for y, null in ((random_labels(0, 10, 20_000), 10), (random_labels(2, 400, 20_000, 5), 0)):
        p, seed = between(0.2, 0.4).item(), int(between(0, 2**30))
        got, share, kept = dropped(f, y, null, p, seed)
        again, *_ = dropped(f, y, null, p, seed)
        refuse((not torch.equal(got, again), "the same generator gave two different answers: throw the coins with generator=generator"))
        few = [dropped(f, y[:50], null, p, seed + k) for k in range(1, 40)]
        shares = torch.tensor([s for _, s, _ in few])
        refuse((shares.max() == 0, "no label was dropped in 40 batches"), (shares.min() == 1, "every label was dropped"))
        refuse((bool(((shares == 0) | (shares == 1)).all()), "one coin is thrown for the whole batch: all of its labels go, or none. Each example has its own coin"),
               (all(torch.equal(few[0][0], other) for other, *_ in few), "forty generators with forty seeds gave the same coins: throw them with generator=generator, and make no generator of your own"),
               (shares.min() == shares.max(), f"every batch of 50 loses exactly {50 * shares[0]:.0f} labels; coins do not count (and a batch of 3 would never lose any)"))
        refuse((not kept, "single words of a caption are dropped: a coin for each example, not for each token; a lost caption is lost as a whole"))
        off = lambda q: abs(share - q) < 0.02
        refuse((off(1 - p) and not off(p), f"with p = {p:.2f} a share of {share:.2f} is dropped: that is 1 - p. A uniform number is below p with probability p"),
               (off(0.1) and not off(p), f"with p = {p:.2f} a tenth is dropped: use p"),
               (not off(p), f"with p = {p:.2f} a share of {share:.2f} is dropped"))
        for certain, words in ((0.0, "at p = 0 some labels are dropped"), (1.0, "at p = 1 some labels are kept")):
            refuse((dropped(f, y[:500], null, certain, seed)[1] != certain, words))


def dropped(f: Callable, y: Tensor, null: int, p: float, seed: int) -> tuple[Tensor, float, bool]:
    """The reader's answer, the share of examples that lost something, and whether those lost all they had."""
    given = y.clone()
    try:
        with torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            got = function(f)(given, null, p, torch.Generator().manual_seed(seed))
            own = not torch.equal(before, torch.random.get_rng_state())
    except RuntimeError as error:
        refuse(("must match the size" in str(error), f"for captions y is (B, L) and the coins (B,): give the coins a second dimension, coins.view(-1, *[1] * (y.ndim - 1)) ({error})"))
        raise
    refuse((got is None, "your function returned None: does it end with `return`?"), (not isinstance(got, Tensor), f"labels are wanted, a tensor; got {type(got).__name__}"))
    refuse((got.dtype == torch.bool, "those are the coins; the labels are wanted, with null where they are lost"),
           (got.shape != y.shape, f"expected shape {tuple(y.shape)}; got {tuple(got.shape)}"),
           (not torch.equal(given, y), "your function changes y itself, and with it the data set: the label is lost for ever. Make a new tensor, torch.where"),
           (got.dtype != y.dtype, f"the labels were whole numbers, {y.dtype}; yours are {got.dtype}: an embedding cannot look them up"))
    refuse((own, "the coins are thrown by torch's own generator, so nobody can throw them again: generator=generator"))
    changed = (got != y).view(len(y), -1)
    new = (got != y) & (got != null)
    refuse((new.any() and bool((got[new] == null - 1).all()), f"lost labels become {null - 1}, which is a class of its own: null = {null} is the number after the last class, with an embedding of its own"),
           (new.any(), f"a lost label became {got[new][0] if new.any() else 0}, another class; it must become null = {null}"))
    return got, changed.any(1).double().mean().item(), bool((changed.all(1) == changed.any(1)).all())


# ---- 5.2: classifier-free guidance

class Listener:
    """A denoiser of two conditions, y and size, which counts how often it is asked."""

    def __init__(self, B: int):
        self.calls, self.slope, self.shift = 0, between(0.3, 1.5, 5), between(-1, 1, 5)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | int | None = None, size: Tensor | None = None) -> Tensor:
        self.calls += 1
        y = torch.as_tensor(4 if y is None else y).expand(len(x))
        size = torch.zeros(len(x), dtype=F64) if size is None else size
        return (over(self.slope[y], x) * x).tanh() + over(self.shift[y] * (1 + size), x) + t


def judge_cfg(f: Callable) -> None:
    """5.2: cfg(D, w, null) -> guided(x, t, **condition); w a number or a function of t."""
    for moving in (False, True):
        def case():
            D, x, t, y, size, w = Listener(6), noise(6, 1, 3, 3), between(0.2, 0.8), random_labels(0, 3, 6), between(0.3, 1, 6), between(2, 4).item()
            weight = (lambda s: w * s) if moving else w
            v = w * t if moving else w
            u, c, bare, alone = D(x, t, y=3, size=size), D(x, t, y=y, size=size), D(x, t, y=3), D(x, t, y=y)
            return (D, x, t, y, size, weight), u + v * (c - u), {
                "that is c + w (c - u), the paper's scale, on which 0 is no guidance; here 1 is none: start from u": c + v * (c - u),
                "you guide by w - 1: that is one too little": u + (v - 1) * (c - u),
                "the difference has the wrong sign: you walk away from the condition": u - v * (c - u),
                "u and c have changed places: w must lead from the guess without the condition to the one with it": c + v * (u - c),
                "u + w c: the difference is missing, so the guess becomes larger with w, too": u + v * c,
                "w (c - u): the guess from which the way starts is missing": v * (c - u),
                "that is the plain conditional guess, c. Does the null win when both dicts name y? condition | null has null's value": c,
                "that is the guess without the condition, u: did the null get into both evaluations?": u,
                "the null evaluation loses the other conditions (here size): only what null names is replaced, condition | null": bare + v * (c - bare),
                "the conditional evaluation loses the other conditions (here size)": u + v * (alone - u),
                "both evaluations lose the other conditions (here size)": bare + v * (alone - bare),
                "w is squared": u + v**2 * (c - u),
                "x has not changed": x,
            }
        (D, x, t, y, size, weight), right, mistakes = apart(case)
        null = {"y": 3}
        got, calls = guided_run(f, D, weight, null, x, t, y, size, moving)
        refuse((null != {"y": 3}, "your function changes the dict null: make a new one, condition | null"))
        what = "w = a function of t: " if moving else ""
        compare(got, right, mistakes, otherwise=f"{what}not (5.9): print the guess with and without the condition, and the weights that each of them gets; they add up to 1")
        refuse((calls != 2, f"{what}right, but the denoiser was asked {calls} times; twice is enough"))
        for w, wanted, asks, words in ((1.0, D(x, t, y=y, size=size), (1,), "at w = 1 that is not the plain conditional guess"), (0.0, D(x, t, y=3, size=size), (1, 2), "at w = 0 that is not the guess without the condition")):
            got, calls = guided_run(f, D, (lambda s: torch.as_tensor(w)) if moving else w, {"y": 3}, x, t, y, size, moving)
            compare(got, wanted, otherwise=f"right for w above 1, but {words}")
            refuse((calls not in asks, f"right, but at w = {w:g} the denoiser is asked {calls} times, and what it says without the condition is multiplied by 0: ask once there"))


def guided_run(f: Callable, D: Callable, w: object, null: dict, x: Tensor, t: Tensor, y: Tensor, size: Tensor, moving: bool) -> tuple[object, int]:
    """What the reader's guided denoiser says, and how often it asked."""
    D.calls = 0
    try:
        guided = function(f)(D, w, null)
        refuse((not callable(guided), f"cfg returns a denoiser, a function of (x, t, **condition); got {'None: does it end with `return guided`?' if guided is None else type(guided).__name__}"))
        got = guided(x.clone(), t, y=y.clone(), size=size.clone())
    except TypeError as error:
        refuse((moving and ("function" in str(error) or "callable" in str(error)), f"w may be a function of t, too: ask callable(w), and then take w(t) ({error})"))
        raise
    return got, D.calls


# ---- 5.3: a copied class

class Labelled(nn.Module):
    """A network of labels that remembers which it was given."""

    def __init__(self, K: int = 4):
        super().__init__()
        self.table, self.given = nn.Parameter(between(-1, 1, K + 1)), []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            self.given.append(None)
            return 0 * x + self.table.mean()
        y = torch.as_tensor(y).expand(len(x))
        self.given.append(y.clone())
        return self.answer(x, y)

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * x.tanh() + self.table[y][:, None]


def judge_wrapper(make: Callable) -> None:
    """5.3: Guided(net, w, p, null), an nn.Module that drops labels in training and guides in evaluation."""
    K = 4
    net, p, w = Labelled(K), between(0.2, 0.4).item(), between(2, 4).item()
    x, t, y = noise(12_000, 2), torch.tensor(0.5, dtype=F64), random_labels(0, K, 12_000)
    guided = wrapped(make, net, w, p, K)
    guided.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        judge_training(guided, net, x, t, y, p, K)
        judge_evaluation(wrapped(make, net, w, 1.0, K), net, x[:40], y[:40], w, K)


def wrapped(make: Callable, net: nn.Module, w: float, p: float, null: int) -> nn.Module:
    """The reader's object, or what is wrong with it."""
    try:
        guided = function(make)(net, w, p, null)
    except AttributeError as error:
        refuse(("before Module.__init__" in str(error), "call super().__init__() first in __init__, else nn.Module cannot keep the network"))
        raise
    refuse((guided is None, "that returned None; pass the class itself, its name without brackets"))
    refuse((not isinstance(guided, nn.Module), "your object is no nn.Module: it has no .training, no .train() and no .eval(), it cannot be called, and an optimizer finds no weights in it"))
    refuse((type(guided).forward is nn.Module.forward, "your class has no forward(self, x, t, y)"))
    refuse((not any(q is net.table for q in guided.parameters()), "the network is not registered, so an optimizer finds no weights and .to(device) leaves it behind: self.net = net, not in a list or dict"))
    return guided


def ask(guided: nn.Module, net: Labelled, x: Tensor, t: Tensor, **condition) -> tuple[object, Tensor]:
    """What the object says, and the labels that the network was given, of all evaluations together."""
    net.given.clear()
    got = guided(x.clone(), t, **condition)
    refuse((not net.given, "the network was never asked"), (any(g is None for g in net.given), "the network is asked with y = None, for which it has no embedding: no label is a label of its own, null, learnt like the others"))
    return got, torch.cat(net.given)


def judge_training(guided: nn.Module, net: Labelled, x: Tensor, t: Tensor, y: Tensor, p: float, K: int) -> None:
    own = y.clone()
    got, seen = ask(guided, net, x, t, y=own)
    refuse((not torch.equal(own, y), "in training your forward changes y itself: make a new tensor, torch.where"),
           (len(seen) == 2 * len(y), "in training two evaluations are made, and guided: the loss is that of one evaluation, with some labels dropped"),
           (len(seen) != len(y), f"in training the network answers {len(seen) / len(y):g} times for each example; once is right"))
    lost, shares = seen != y, []
    for _ in range(40):
        shares.append((ask(guided, net, x[:30], t, y=y[:30])[1] != y[:30]).double().mean())
    shares = torch.stack(shares)
    refuse((shares.max() == 0 and not lost.any(), "in training mode no label is dropped"),
           (bool(((shares == 0) | (shares == 1)).all()), "in training one coin is thrown for the whole batch: each example needs its own"),
           (lost.any() and bool((seen[lost] == K - 1).all()), f"lost labels become {K - 1}, which is a class; null = {K} is the number after the last class"),
           (lost.any() and bool((seen[lost] != K).any()), "lost labels become other classes; they must become null"))
    share = lost.double().mean().item()
    refuse((abs(share - (1 - p)) < 0.03, f"with p = {p:.2f} a share of {share:.2f} is dropped in training: that is 1 - p"),
           (abs(share - p) > 0.03, f"with p = {p:.2f} a share of {share:.2f} is dropped in training"))
    got, seen = ask(guided, net, x[:50], t, y=y[:50])
    compare(got, net.answer(x[:50], seen), otherwise="in training the network's answer must come back as it is")


def judge_evaluation(guided: nn.Module, net: Labelled, x: Tensor, y: Tensor, w: float, K: int) -> None:
    """p is 1 here, so that a drop in evaluation cannot stay unseen."""
    guided.eval()
    u, c = net.answer(x, torch.full_like(y, K)), net.answer(x, y)
    got, seen = ask(guided, net, x, torch.tensor(0.5, dtype=F64), y=y.clone())
    compare(got, u + w * (c - u), {
        "after .eval() labels are dropped still (p was 1, and the answer is that without labels): drop only while self.training": u,
        "after .eval() nothing is guided: that is the plain conditional answer": c,
        "in evaluation, c + w (c - u) is the paper's scale; here w = 1 is no guidance": c + w * (c - u),
        "in evaluation the difference has the wrong sign": u - w * (c - u),
        "in evaluation u and c have changed places": c + w * (u - c),
        "in evaluation: that is w (c - u) alone": w * (c - u),
        "in evaluation another class plays the null label: null is the last number, K": net.answer(x, torch.full_like(y, K - 1)) * (1 - w) + w * c,
    }, otherwise="in evaluation that is not (5.9), with the null label for u")
    refuse((len(seen) > 2 * len(y), f"in evaluation the network answers {len(seen) / len(y):g} times for each example; two are enough"))
    try:
        got, _ = ask(guided, net, x, torch.tensor(0.5, dtype=F64))
    except TypeError as error:
        raise Wrong(f"without y your forward fails ({error}): y=None means no label for anyone") from None
    compare(got, u, otherwise="without y the answer must be that of the null label, whatever w is")
    toy = lambda x, t, y: u_and_c(net, x, y, w, K)
    wanted = last(samplers.ddim(toy, COSINE, x, grid(COSINE, 4), y=y))
    compare(last(samplers.ddim(guided, COSINE, x, grid(COSINE, 4), y=y)), wanted, otherwise="right by itself, but not inside ddim, which calls guided(x, t, y=y) with t a number")


def u_and_c(net: Labelled, x: Tensor, y: Tensor, w: float, K: int) -> Tensor:
    u, c = net.answer(x, torch.full_like(y, K)), net.answer(x, y)
    return u + w * (c - u)


# ---- 5.4: two bells

def tempered(w: float, m: float, s: float, S: float) -> tuple[float, float]:
    """Mean and standard deviation of N(0, S^2)^(1 - w) N(m, s^2)^w."""
    v = 1 / (w / s**2 + (1 - w) / S**2)
    return v * w * m / s**2, v**0.5


def guided_bell(w: float, m: float, s: float, S: float) -> tuple[float, float]:
    """Mean and standard deviation of guidance's end: (5.15) with S in place of 1, and z^2 = (S^2 - s^2) / (s^2 + r^2)."""
    d = (S**2 - s**2) ** 0.5
    z = torch.linspace(0, d / s, 4001, dtype=F64)
    integral = torch.trapezoid((1 + z**2) ** ((w - 1) / 2), z).item()
    width = s**w * S ** (1 - w)
    return m * width * w / d * integral, width


def four(got: object) -> Tensor:
    """Four numbers, as a tensor."""
    refuse((got is None, "your function returned None: does it end with `return`?"))
    try:
        numbers = torch.stack([torch.as_tensor(value, dtype=F64).detach().reshape(()) for value in got])
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"four numbers are wanted, in this order: tempered mean and std, guided mean and std; got {type(got).__name__}") from None
    refuse((len(numbers) != 4, f"four numbers are wanted: tempered mean and std, guided mean and std; got {len(numbers)}"),
           (not numbers.isfinite().all(), f"some of the four numbers are nan or inf: {[round(value, 3) for value in numbers.tolist()]}"))
    return numbers


def judge_bells(f: Callable) -> None:
    """5.4: bells(w, m, s, S) -> mean and std of the tempered density, mean and std of what guidance samples."""
    for whole in (True, False):
        def half():
            numbers = 3.0 if whole else between(1.5, 4).item(), between(0.7, 1.6).item(), between(0.4, 0.6).item(), between(1.2, 1.6).item()
            return numbers, torch.tensor(tempered(*numbers)), pairs(tempered_mistakes(*numbers))

        def both():
            numbers = apart(half, rtol=0.004, atol=1e-4)[0]
            return numbers, torch.tensor(guided_bell(*numbers)), pairs(guided_mistakes(*numbers))

        (w, m, s, S), right, mistakes = apart(both, rtol=0.02, atol=1e-4)       # a run of 1,000 steps is off by up to 1.7 %
        got, where = four(function(f)(w, m, s, S)), f"w = {w:.3g}, m = {m:.3g}, s = {s:.3g}, S = {S:.3g}: "
        mean, std = tempered(w, m, s, S)
        compare(got[:2], torch.tensor((mean, std)), pairs(tempered_mistakes(w, m, s, S)), rtol=0.005, atol=1e-4, otherwise=f"{where}tempered: mean {mean:.4f} and std {std:.4f} are right; yours are {got[0]:.4f} and {got[1]:.4f}. Add up the exponents of (5.12), then complete the square")
        compare(got[2:], right, mistakes, rtol=0.02, atol=1e-4, otherwise=f"{where}the tempered half is right. Guidance ends at mean {right[0]:.4f} and std {right[1]:.4f}; yours are {got[2]:.4f} and {got[3]:.4f}. "
                "Run ddim (some 1,000 steps) on the two exact guesses from x = 0 and from x = 1: the first end is the mean, their difference the std")


def pairs(mistakes: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
    return {words: torch.tensor(pair) for words, pair in mistakes.items()}


def tempered_mistakes(w: float, m: float, s: float, S: float) -> dict[str, tuple[float, float]]:
    """The well-known wrong tempered halves of 5.4."""
    mean, std = tempered(w, m, s, S)
    return {
        "tempered: that is a variance; the standard deviation is its root": (mean, std**2),
        "tempered: w m / s^2 is still to be multiplied by the variance": (w * m / s**2, std),
        "tempered: that is q(x|y)^w alone; q(x)^(1 - w) belongs to it": (m, s / w**0.5),
        "tempered: that is the class as it is; w has no effect": (m, s),
        "tempered: that is right for S = 1 only": tempered(w, m, s, 1.0),
        "tempered: that is w + 1: on the scale of (5.12) w = 1 is the class itself": tempered(w + 1, m, s, S),
        "tempered: q(x) has the power 1 - w, not w - 1": tempered_by(w / s**2 + (w - 1) / S**2, w * m / s**2),
        "tempered: that is q(x) q(x|y)^w; p(y|x) is q(x|y) divided by q(x), so q(x) has the power 1 - w": tempered_by(w / s**2 + 1 / S**2, w * m / s**2),
        "the two halves have changed places: tempered first, then guided": guided_bell(w, m, s, S),
    }


def guided_mistakes(w: float, m: float, s: float, S: float) -> dict[str, tuple[float, float]]:
    """The well-known wrong guided halves of 5.4."""
    (mean, std), (g_mean, width) = tempered(w, m, s, S), guided_bell(w, m, s, S)
    r = torch.linspace(0, 100, 50_001, dtype=F64)
    whole = (s**2 + r**2) ** w * (S**2 + r**2) ** (1 - w)
    off = (torch.trapezoid(w * r / ((s**2 + r**2) * whole), r) * m * s ** (2 * w) * S ** (2 - 2 * w)).item()
    return {
        "guided: that is the tempered density once more; guidance tempers the noised densities, and ends elsewhere": (mean, std),
        "guided: that is the class as it is; w has no effect": (m, s),
        "guided: w does not simply multiply the mean": (w * m, s),
        "guided: the mean is right, but the width is h(0), and h has a second factor: S^(1 - w)": (g_mean, s**w),
        "guided: the mean is right, but that is a variance": (g_mean, width**2),
        "guided: the width is right; in the mean the w in front of the integral is missing": (g_mean / w, width),
        "guided: the width is right; in the mean the factor h(0) is missing": (g_mean / width, width),
        "guided: the width is right; in the mean m is missing": (g_mean / m, width),
        "guided: that is right for S = 1 only": guided_bell(w, m, s, 1.0),
        "guided: that is w + 1: in (5.9) w = 1 is no guidance": guided_bell(w + 1, m, s, S),
        "guided: h has the powers w / 2 and (1 - w) / 2; yours has w and 1 - w": (off, width**2),
        "guided: the mean is that of the tempered density, the width that of guidance: the mean moves, too": (mean, width),
    }


def tempered_by(curvature: float, slope: float) -> tuple[float, float]:
    return slope / curvature, curvature**-0.5


# ---- 5.5: RePaint

def painted_step(D: Callable, schedule, x: Tensor, known: Tensor, mask: Tensor, t: Tensor, s: Tensor, repeats: int, draws: list[Tensor], paste: Callable | None = None,
                 up: Callable | None = None, first: bool = False, keep: bool = False, last_up: bool = False, guess: bool = False, end: bool = False) -> Tensor:
    """RePaint's step, with the switches that turn it into wrong versions. draws: the noise, in the order in which it is asked for."""
    z = iter(draws)
    paste = paste or (lambda x, z: mask * x + (1 - mask) * (schedule.alpha(s) * known + schedule.sigma(s) * z))
    ratio = schedule.alpha(t) / schedule.alpha(s)
    up = up or (lambda x, z: ratio * x + (schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2).sqrt() * z)
    repeats, one = (repeats if s > 0 or end else 1), next(z) if keep else None
    for k in range(repeats):
        x = paste(x, next(z)) if first else x
        x0_hat = D(x, t)
        x = samplers.step(schedule, x, mask * x0_hat + (1 - mask) * known if guess else x0_hat, t, s)
        x = x if first or guess else paste(x, one if keep else next(z))
        x = up(x, next(z)) if k < repeats - 1 or last_up else x
    return x


def judge_repaint(f: Callable) -> None:
    """5.5: repaint_step(D, schedule, x, known, mask, t, s, repeats, noise), with eta = 0 and the noise from noise()."""
    for name, repeats in (("flow", 1), ("cosine", 3), ("flow", 2)):
        schedule = SCHEDULES[name]

        def case():
            D, x, known, s = bumps(4).denoiser(schedule), noise(5, 4), noise(1, 4), between(0.25, 0.4)
            mask, t, draws = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64), s + between(0.2, 0.35), [noise(5, 4) for _ in range(12)]
            way = lambda mask=mask, repeats=repeats, **switches: painted_step(D, schedule, x, known, mask, t, s, repeats, draws, **switches)
            a, b, a_t, b_t = schedule.alpha(s), schedule.sigma(s), schedule.alpha(t), schedule.sigma(t)
            put = lambda level: lambda x, z: mask * x + (1 - mask) * level(z)
            again = repeats > 1
            return (D, schedule, x, known, mask, t, s, repeats, draws), way(), {
                "after the step to s the known part is pasted with the noise of level t, where the step began: x is at s now": way(paste=put(lambda z: a_t * known + b_t * z)),
                "the clean known part is pasted; a network that expects level s sees it without noise": way(paste=put(lambda z: known)),
                "the known part is pasted without its noise: alpha_s known, and sigma_s z": way(paste=put(lambda z: a * known)),
                "the pasted noise is multiplied by a variance, sigma_s^2": way(paste=put(lambda z: a * known + b**2 * z)),
                "the known part is not multiplied by alpha_s": way(paste=put(lambda z: known + b * z)),
                "the mask is inverted: 1 means drawn anew, and you paste the known part there": way(1 - mask),
                "the known part is pasted before the step, and not after it: what comes out has forgotten it": way(first=True),
                "nothing is pasted: that is a step of ddim": way(paste=lambda x, z: x),
                "the known part is put into the guess, which is section 5.15's other way; RePaint replaces the state": way(guess=True),
                "that is the pasted part alone: mask keeps x where it is 1": way(paste=lambda x, z: a * known + b * z),
                "x has not changed": x,
                "after the last repeat x must stay at s; yours went up to t once more": way(last_up=True),
            } | ({
                "between the repeats x must go back up to t: it is at s, and the next step takes it for x_t": way(up=lambda x, z: x),
                "the way up is alpha_t / alpha_s x without fresh noise": way(up=lambda x, z: a_t / a * x),
                "the way up adds all of sigma_t, although x_s has noise already: its variance is sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2": way(up=lambda x, z: a_t / a * x + b_t * z),
                "the way up takes x_s for clean: alpha_t x + sigma_t z is right for x_0 only": way(up=lambda x, z: a_t * x + b_t * z),
                "the way up forgets alpha_t / alpha_s in front of x": way(up=lambda x, z: x + (b_t**2 - (a_t / a * b) ** 2).sqrt() * z),
                "the way up multiplies its noise by a variance; take the root": way(up=lambda x, z: a_t / a * x + (b_t**2 - (a_t / a * b) ** 2) * z),
                "the step is made once; repeats says how often": way(repeats=1),
                "one repeat too few": way(repeats=repeats - 1) if repeats > 2 else way(),
                "the same noise is pasted each time: it must be fresh, noise() for every paste": way(keep=True),
            } if again else {}) | ({
                "the way up has noise sqrt(1 - (alpha_t / alpha_s)^2): that is right only where alpha^2 + sigma^2 = 1; for any schedule its variance is sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2":
                    way(up=lambda x, z: a_t / a * x + (1 - (a_t / a) ** 2).sqrt() * z),
            } if again and name == "flow" else {}) | {"one repeat too many: repeats = 1 is a single step and no way up": way(repeats=repeats + 1)}
        inputs, right, mistakes = apart(case, rtol=1e-4, atol=1e-4)
        mistakes = {words: value for words, value in mistakes.items() if not torch.equal(value, right)}
        got, _ = repainted(f, *inputs)
        not_finite(got, f"{name}: nan or inf")
        compare(got, right, mistakes, rtol=1e-4, atol=1e-4, otherwise=f"{name}, repeats = {repeats}: not RePaint's step. Go through it: step from t to s; paste at level s with noise(); and, but for the last time, up to t with noise()")
    D, s = bumps(4).denoiser(COSINE), torch.tensor(0.0, dtype=F64)
    x, known, mask, t, draws = noise(5, 4), noise(1, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64), between(0.1, 0.2), [noise(5, 4) for _ in range(20)]
    got, calls = repainted(f, D, COSINE, x, known, mask, t, s, 3, draws)
    not_finite(got, "right in between, but nan or inf in the step to s = 0")
    once = painted_step(D, COSINE, x, known, mask, t, s, 1, draws)
    compare(got, once, {
        "right in between, but in the step to s = 0 nothing is pasted: the picture ends with known pixels that the network has changed": samplers.step(COSINE, x, D(x, t), t, s),
        "right in between, but the step to s = 0 is repeated, too: there the picture is finished, make it once": painted_step(D, COSINE, x, known, mask, t, s, 3, draws, end=True),
    }, rtol=1e-5, atol=1e-5, otherwise="right in between, but in the step to s = 0: make it once, and paste the known part as it is")
    refuse((not torch.equal(got[:, mask[0] == 0].double(), known[:, mask[0] == 0].expand(5, -1)), "right, but at s = 0 the known part is not the original to the bit"),
           (calls != 1, f"right, but in the step to s = 0 the denoiser was asked {calls} times; once is enough"))


def repainted(f: Callable, D: Callable, schedule, x: Tensor, known: Tensor, mask: Tensor, t: Tensor, s: Tensor, repeats: int, draws: list[Tensor]) -> tuple[object, int]:
    """What the reader's step returns, and how often it asked."""
    given, z, calls = [q.clone() for q in (x, known, mask)], iter(draws), []

    def fresh() -> Tensor:
        refuse((len(calls) > 30, "your loop does not end"))
        try:
            return next(z).clone()
        except StopIteration:
            raise Wrong("noise() is called too often: once for each paste, and once for each way up") from None

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return D(x, t)
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        got = function(f)(counted, schedule, *given, t, s, repeats, fresh)
        own = not torch.equal(before, torch.random.get_rng_state())
    refuse((own, "you draw noise of your own; take it from noise()"),
           (any(not torch.equal(a, b) for a, b in zip(given, (x, known, mask))), "your function changes the tensors it was given: compute new ones"))
    return got, len(calls)


# ---- 5.6: an edit

def three_kinds(schedule, d: int) -> Callable:
    """An exact denoiser of two classes, y = 0 and 1, and of both together, y = 2."""
    a, b = bumps(d), bumps(d)
    both = GaussianMixture(torch.cat([a.means, b.means]), torch.cat([a.stds, b.stds]), torch.cat([a.weights, b.weights]))
    kinds = [m.denoiser(schedule) for m in (a, b, both)]
    return lambda x, t, y: torch.stack([kind(x, t) for kind in kinds])[torch.as_tensor(y).expand(len(x)), torch.arange(len(x))]


def judge_edit(f: Callable) -> None:
    """5.6: edit(D, schedule, x0, before, after, n, w, null), up without guidance and down with it."""
    for name, d in (("cosine", 1), ("flow", 2)):
        schedule, null = SCHEDULES[name], {"y": 2}

        def case():
            D, x, n, w = three_kinds(schedule, d), 0.8 * noise(8, d), 2 * int(between(2, 3.99)), between(1.6, 2.4).item()
            y = random_labels(0, 2, 8)
            before, after, ts, half = {"y": y}, {"y": 1 - y}, grid(schedule, n), grid(schedule, n // 2)
            guide = lambda w: cfg(D, w, null)
            up = lambda condition, D=D, ts=ts: last(samplers.invert(D, schedule, x, ts.flip(0), **condition))
            down = lambda z, condition, D=guide(w), ts=ts: last(samplers.ddim(D, schedule, z, ts, **condition))
            return (D, schedule, x, before, after, n, w, null), down(up(before), after), {
                "the way down is not guided: w and null are not used": down(up(before), after, D),
                "both ways are guided; the way up goes without, where guidance makes the inversion inexact": down(up(before, guide(w)), after),
                "guided is the way up, and the way down is not": down(up(before, guide(w)), after, D),
                "on the way up the denoiser is told `after`; the picture is what `before` says": down(up(after), after),
                "on the way down the denoiser is told `before`: nothing is edited": down(up(before), before),
                "`before` and `after` have changed places": down(up(after), before),
                "on the way up the denoiser is told the null condition; tell it `before`": down(up(null), after),
                "w + 1: in the library's cfg w = 1 is no guidance": down(up(before), after, guide(w + 1)),
                "guidance leads away from `before`; it should lead away from null": down(up(before), after, lambda x, t, **c: torch.lerp(D(x, t, **before), D(x, t, **c), w)),
                "that is the noise, the end of the way up; the way down is missing": up(before),
                "there is no way up: the picture itself is taken for noise": down(x, after),
                "x has not changed": x,
                "each way has n steps; yours have n / 2": down(up(before, ts=half), after, ts=half),
                "the way down has no condition but null": down(up(before), null, D),
            }
        inputs, right, mistakes = apart(case, rtol=3e-4, atol=3e-4)
        try:
            got = asked(edited(f), *inputs)
        except ValueError as error:
            refuse(("must be rising" in str(error), "invert walks up, from data to noise: its grid must rise, ts.flip(0)"),
                   ("strictly falling" in str(error), "ddim walks down: its grid falls, as grid(schedule, n) makes it"))
            raise
        not_finite(got, f"{name}: nan or inf")
        compare(got, right, mistakes, rtol=1e-3, atol=1e-3, otherwise=f"{name}: neither the edit nor a mistake that is known here: up with samplers.invert, plain, under `before`; down with samplers.ddim, guided, under `after`; n steps on grid(schedule, n) each")


def edited(f: Callable) -> Callable:
    """The reader's function, with a sentence where it returns states in place of the last of them."""
    def end(D: Callable, schedule, x: Tensor, before: dict, after: dict, n: int, w: float, null: dict) -> object:
        got = function(f)(D, schedule, x, dict(before), dict(after), n, w, dict(null))
        refuse((isinstance(got, Iterator), "you return all states of the sampler; take the end, last(...)"))
        return got
    return end


# ---- 5.7: a classifier's push

def judge_push(f: Callable) -> None:
    """5.7: steer(D, schedule, classify, y, w) -> guided(x, t): D + w sigma^2 / alpha times the gradient of log p(y | x_t)."""
    for name, each in (("cosine", False), ("flow", True)):
        schedule = SCHEDULES[name]

        def case():
            kinds, B, w = [bumps(), bumps(), bumps()], 6, between(1.5, 3).item()
            every = GaussianMixture(torch.cat([k.means for k in kinds]), torch.cat([k.stds for k in kinds]), torch.cat([k.weights for k in kinds]))
            D, x, t, y = every.denoiser(schedule), noise(B, 2), between(0.35, 0.65, B) if each else between(0.35, 0.65), random_labels(0, 3, B)
            classify = lambda x, t: torch.stack([k.log_prob(x, schedule.alpha(t), schedule.sigma(t)) for k in kinds], 1) + (2 * x.sum(1, keepdim=True)).sin()
            a, b = over(schedule.alpha(t), x), over(schedule.sigma(t), x)
            of = lambda value, z=x: slope_of(value, z)
            pick = lambda logits: logits.gather(1, y[:, None]).sum()
            push = of(lambda x: pick(classify(x, t).log_softmax(1)))
            clean = D(x, t)
            with_factor = lambda push, factor=b**2 / a, w=w: clean + w * factor * push
            return (D, schedule, classify, y, w, x, t), with_factor(push), {
                "the sign: the gradient of log p is added; you walk away from y": with_factor(-push),
                "sigma^2 / alpha is missing in front of the gradient": with_factor(push, 1.0),
                "sigma stands where sigma^2 belongs": with_factor(push, b / a),
                "sigma^2 is there, but the division by alpha is missing": with_factor(push, b**2),
                "sigma^2 / alpha^2: one alpha too many": with_factor(push, (b / a) ** 2),
                "the factor is upside down": with_factor(push, a / b**2),
                "that is the gradient of a raw logit; log p needs log_softmax, which takes away the other classes": with_factor(of(lambda x: pick(classify(x, t)))),
                "that is the gradient of p; Bayes' rule has the gradient of log p": with_factor(of(lambda x: pick(classify(x, t).softmax(1)))),
                "you take the mean over the batch before the gradient, so each example gets only 1/B of its push: take the sum": with_factor(push / B),
                "log_softmax runs over the examples (dim=0); it belongs to the classes, dim=1": with_factor(of(lambda x: pick(classify(x, t).log_softmax(0)))),
                "the log-probabilities of all classes are added up; take that of y alone": with_factor(of(lambda x: classify(x, t).log_softmax(1).sum())),
                "that is the class which the classifier sees, not the y that was asked for": with_factor(of(lambda x: classify(x, t).log_softmax(1).amax(1).sum())),
                "the classifier is shown x / alpha; one that was trained on noisy pictures wants x itself": with_factor(of(lambda x: pick(classify(x / a, t).log_softmax(1)))),
                "the classifier is shown the guess D(x, t); one that was trained on noisy pictures wants x itself": with_factor(of(lambda x: pick(classify(D(x, t), t).log_softmax(1)))),
                "the classifier is told t = 0, clean: tell it t": with_factor(of(lambda x: pick(classify(x, torch.zeros_like(t)).log_softmax(1)))),
                "w is not used": with_factor(push, w=1.0),
                "you guide by w + 1; with w = 0 nothing must be pushed": with_factor(push, w=w + 1),
                "that is the guess without a push": clean,
                "that is the push alone; it is added to the guess": with_factor(push) - clean,
                "the push is added to x; it is the guess that moves": x + with_factor(push) - clean,
            }
        (D, schedule, classify, y, w, x, t), right, mistakes = apart(case, rtol=1e-4, atol=1e-4)
        got = steered(f, D, schedule, classify, y, w, x, t)
        refuse((isinstance(got, Tensor) and got.requires_grad, "right or not, a graph hangs on it: a sampler would keep every step in memory. Use torch.autograd.grad, and detach"))
        not_finite(got, f"{name}: nan or inf")
        if torch.is_tensor(got) and each and got.shape != x.shape:
            raise Wrong(f"right for one t, but with t of shape (B,) the guess became {tuple(got.shape)}: give sigma^2 / alpha the dimensions of x, over(..., x)")
        compare(got, right, mistakes, rtol=1e-4, atol=1e-4, otherwise=f"{name}: neither (5.6) nor a mistake that is known here: compute log_softmax, gather, sum, gradient and factor one by one")


def slope_of(value: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a number with respect to x."""
    with torch.enable_grad():
        z = x.clone().requires_grad_()
        return torch.autograd.grad(value(z), z)[0]


@torch.no_grad()
def steered(f: Callable, D: Callable, schedule, classify: Callable, y: Tensor, w: float, x: Tensor, t: Tensor) -> object:
    """What the reader's steered denoiser says, called as a sampler calls it: without gradients."""
    given = x.clone()
    try:
        guided = function(f)(D, schedule, classify, y.clone(), w)
        refuse((not callable(guided), f"steer returns a denoiser, a function of (x, t); got {'None: does it end with `return guided`?' if guided is None else type(guided).__name__}"))
        got = guided(given, t)
    except RuntimeError as error:
        refuse(("does not require grad" in str(error), "samplers run under no_grad, so there is nothing to differentiate: compute the gradient under torch.enable_grad()"),
               ("scalar outputs" in str(error), "a gradient is taken of one number: sum over the batch first"),
               ("must match the size" in str(error), f"t may be of shape (B,): give sigma^2 / alpha the dimensions of x, over(..., x) ({error})"))
        raise
    refuse((given.requires_grad, "x.requires_grad_() has changed the caller's x: detach it first, x.detach().requires_grad_()"), (not torch.equal(given, x), "your function changes x: compute new tensors"))
    return got


# ---- 5.8: what cannot be drawn

REASONS = {
    "unknown words": "the caption has words that the tokenizer does not know",
    "two at once": "the caption asks for two different ones of the same part",
    "too long": "the caption has more words than the network reads",
    "known words": "every word is known, and the part is asked for once; yet it is not drawn",
}


@lru_cache
def reader() -> nn.Module:
    return train.load("nouns", on="cpu")


@lru_cache
def tries(caption: str) -> Tensor:
    """Eight pictures of one caption."""
    with warnings.catch_warnings(action="ignore"):
        return study.painted(reader(), [caption] * 8, steps=8)


BEHIND = {"head": r" head(ed)?\b", "glasses": r"( square)? (glasses|spectacles|specs)\b", "body": r" (body|torso)\b", "accessory": r" on (its shirt|the chest)\b"}      # what stands behind a name
BEFORE = {"head": r"\bhead (is|of)( an?)? $", "accessory": r"\b(wearing|showing|with)( an?)? $"}                                                          # or before it


@lru_cache
def owners() -> dict[str, list[str]]:
    """Each name as the tokenizer sees it, the longest first -> the parts that have one of this name."""
    spelled = {}
    for part, names in nouns.art().names.items():
        for name in names:
            spelled.setdefault(" ".join(re.findall("[a-z]+", name.lower())), []).append(part)
    return dict(sorted(spelled.items(), key=lambda item: -len(item[0])))


def named(caption: list[str], part: str) -> set[str]:
    """The names of this part that the caption has. A name that several parts share, and any colour, counts where its neighbours say which part is meant."""
    text, found = " ".join(caption), set()
    for name, parts in owners().items():
        for match in list(re.finditer(rf"\b{name}\b", text)):
            before, behind = text[:match.start()], text[match.end():]
            told = [p for p in parts if re.match(BEHIND.get(p, "$^"), behind) or re.search(BEFORE.get(p, "$^"), before)]
            told = [p for p in told if p != "accessory" or len(told) == 1]             # "with a heart head" is no accessory
            meant = told or ([] if len(parts) > 1 or parts[0] in ("body", "glasses") else parts)
            found |= {name} if part in meant else set()
            text = before + "." * len(name) + behind
    return found


SAYS = {"background": {"background", "backdrop"}, "body": {"body", "torso"}, "accessory": {"wearing", "showing", "shirt", "chest"},
        "head": {"head", "headed"}, "glasses": {"glasses", "spectacles", "specs"}}      # the words that say which part is meant


def speaks_of(said: list[str], unknown: list[str], part: str) -> bool:
    """Can a person tell that the caption asks for this part? By its name, by a word for the part, or by an English word that the tokenizer does not know."""
    return bool(named(said, part)) or not SAYS[part].isdisjoint(said) or any(sentences.known(word) for word in unknown)


def judge_impossible(answer: object) -> None:
    """5.8: impossible() -> (caption, parts, part, reason), a caption that a person could draw and the model cannot."""
    answer = answer() if callable(answer) else answer
    refuse((answer is None, "your function returned None: does it end with `return`?"))
    refuse((not isinstance(answer, (tuple, list)) or len(answer) != 4, "four things are wanted: the caption, the five parts that a person would draw, which part fails, and the reason"))
    caption, parts, part, reason = answer
    refuse((not isinstance(caption, str) or not re.search("[a-zA-Z]", caption), "the caption must be a sentence; yours asks for nothing"),
           (not isinstance(parts, dict) or set(parts) != set(nouns.PARTS), f"parts is a dict with a name for each of {', '.join(nouns.PARTS)}"),
           (part not in nouns.PARTS, f"part must be one of {', '.join(nouns.PARTS)}; got {part!r}"),
           (reason not in REASONS, f"the reason must be one of: {'; '.join(f'{key!r} ({words})' for key, words in REASONS.items())}"))
    try:
        row = torch.tensor([[nouns.number(name, parts[name]) for name in nouns.PARTS]])
    except (ValueError, TypeError) as error:
        raise Wrong(f"a person could not draw that from the five parts: {error}") from None
    tokenizer = reader().net.tokenizer
    said, unknown = tokenizer.split(caption), tokenizer.unknown(caption)
    found, wanted = named(said, part), " ".join(re.findall("[a-z]+", parts[part].lower()))
    refuse((reason == "too long" and len(said) <= tokenizer.length, f"your caption has {len(said)} words, and the network reads up to {tokenizer.length}: that is not why"))
    if reason == "too long":
        missing = [name for name in nouns.PARTS if named(said, name) != {" ".join(re.findall("[a-z]+", parts[name].lower()))}]
        refuse((missing, f"your caption is too long, but a person could not draw it either: it does not name the {', '.join(missing)} that you expect, and no other"))
        return
    refuse((len(said) > tokenizer.length, f"your caption has {len(said)} words, and the network reads {tokenizer.length}: it is refused before anything is drawn, so the reason is another one"),
           (reason == "unknown words" and not unknown, "the tokenizer knows every word of your caption: the reason is another one"),
           (reason == "known words" and bool(unknown), f"the tokenizer does not know {', '.join(unknown)}: the reason is simpler than you say"),
           (reason == "two at once" and len(found) < 2, f"your caption names {len(found)} {part}{'' if part == 'glasses' or len(found) == 1 else 's'}; two different ones are needed for this reason"),
           (reason == "two at once" and wanted not in found, f"of the two that the caption names, {wanted!r} is none: parts[{part!r}] must be one of {', '.join(sorted(found))}"),
           (reason != "two at once" and len(found) > 1, f"your caption names {' and '.join(sorted(found))}, more than one {part}: the reason is 'two at once'"),
           (reason != "two at once" and bool(found) and wanted not in found, f"the caption asks for {part} {', '.join(found)}, and you expect {wanted!r}: a person would not draw that"),
           (reason == "unknown words" and not speaks_of(said, unknown, part),
            f"a person would not know what to draw: nothing in your caption speaks of the {part}. Describe the {wanted!r} that you expect in other words"),
           (reason == "known words" and not found, f"the caption does not name the {part}, so the model makes one up; that is no failure"))
    if reason == "two at once":                                         # there is room for one: nothing has to be drawn to know
        return
    with one_thread():
        right = metrics.part_matches(tries(caption), row.expand(8, -1))[:, nouns.PARTS.index(part)].sum().item()
    refuse((right > 4, f"the model draws the {part} {wanted!r} in {right} of 8 pictures: it can do this"))


# ---- 5.9: new combinations, new pairs

PLAIN = re.compile(r"(?:an? )?(.+)-headed noun with (.+) glasses, wearing (.+), (.+) body, (.+) background")


def understood(caption: str) -> list[int] | None:
    """The parts of a plain caption, or None for any other."""
    match = PLAIN.fullmatch(caption) if isinstance(caption, str) else None
    if not match:
        return None
    head, glasses, accessory, body, background = match.groups()
    names = nouns.art().names
    accessory = accessory if accessory in names["accessory"] else re.sub("^an? ", "", accessory)
    try:
        return [names[part].index(name) for part, name in zip(nouns.PARTS, (background, body, accessory, head, glasses))]
    except ValueError:
        return None


class Painter:
    """Draws what a plain caption asks for, but for some parts of some pictures; remembers what was asked, and what it drew."""

    def __init__(self, wrong: dict[str, dict[str, list[int]]]):
        self.wrong, self.asked, self.drawn, self.strange, self.counts = wrong, [], [], 0, dict.fromkeys(("train", "test", "pairs", "none"), 0)

    def __call__(self, captions: list[str]) -> Tensor:
        refuse((isinstance(captions, str), "draw takes a list of captions; you pass one"), (not isinstance(captions, (list, tuple)), f"draw takes a list of captions; got {type(captions).__name__}"))
        rows = [understood(caption) for caption in captions]
        self.strange += sum(row is None for row in rows)
        refuse((self.strange > 0, f"draw is asked for {captions[[row is None for row in rows].index(True)]!r}: take the plain wording, nouns.plain_captions(parts), so that only the parts are new" if self.strange else ""))
        rows = torch.tensor(rows)
        drawn = rows.clone()
        for row, split in zip(drawn, nouns._split_of(rows).tolist()):
            kind = [*nouns.SPLITS, "none"][split]
            place = self.counts[kind]
            self.counts[kind] += 1
            for part, at in self.wrong.get(kind, {}).items():
                if place in at:
                    column = nouns.PARTS.index(part)
                    row[column] = (row[column] + 1) % len(nouns.art().names[part])
        self.asked.append(rows)
        self.drawn.append(drawn)
        return nouns.render(drawn)


@lru_cache(maxsize=4096)
def found_in(asked: tuple[int, ...], drawn: tuple[int, ...]) -> Tensor:
    return metrics.part_matches(nouns.render(torch.tensor([drawn])), torch.tensor([asked]))[0]


def judge_generalisation(f: Callable) -> None:
    """5.9: generalisation(draw, n) -> {"test": (5,), "pairs": (5,)}, the share of each part that is right."""
    n = 6                                                               # not the number of parts: a mean over the wrong axis shows in its shape
    wrong = {"test": {"glasses": [0], "head": [1, 3]}, "pairs": {"head": [0, 2, 4], "background": [0, 1, 2, 3], "glasses": [4, 1]}, "train": {"head": [0, 1, 2, 3, 4, 5]}}
    draw = Painter(wrong)
    with one_thread(), torch.random.fork_rng(devices=[]):
        got = function(f)(draw, n)
    refuse((got is None, "your function returned None: does it end with `return`?"), (not draw.asked, "nothing was drawn"))
    counts = draw.counts
    refuse((counts["train"] > 0 and not counts["test"], f"{counts['train']} of your pictures are of the training's combinations: a model that has learnt by heart would do well. Take the splits test and pairs"),
           (counts["train"] > 0, f"{counts['train']} of your pictures are of the training's combinations, beside the right ones"),
           (not counts["pairs"], "no picture has a pair that was never met: take the split pairs, too"),
           (not counts["test"], "no picture is of the split test"),
           (counts["test"] + counts["pairs"] == n, f"n = {n} pictures in all; n are wanted of each split"),
           (counts["test"] != n or counts["pairs"] != n, f"n = {n} pictures of each split are wanted; yours has {counts['test']} of test and {counts['pairs']} of pairs"),
           (not isinstance(got, dict) or set(got) != {"test", "pairs"}, f"a dict with \"test\" and \"pairs\" is wanted; got {sorted(map(str, got)) if isinstance(got, dict) else type(got).__name__}"))
    asked, drawn = torch.cat(draw.asked), torch.cat(draw.drawn)
    matches, split = torch.stack([found_in(tuple(a), tuple(b)) for a, b in zip(asked.tolist(), drawn.tolist())]).double(), nouns._split_of(asked)
    of = {name: matches[split == nouns.SPLITS.index(name)] for name in ("test", "pairs")}
    for name, other in (("test", "pairs"), ("pairs", "test")):
        value = got[name]
        if not isinstance(value, Tensor):
            try:
                value = torch.tensor(value, dtype=F64)
            except (TypeError, ValueError, RuntimeError):
                raise Wrong(f"for each split the shares of the five parts are wanted, (5,); got {type(value).__name__}") from None
        refuse((value.numel() == 1 and abs(value.double().mean() - of[name].all(1).double().mean()) < 1e-6, "that is the share of pictures in which all five parts are right; which part fails remains unseen"),
               (value.numel() == 1, "one number for all parts together; a share for each part is wanted: .mean(0)"),
               (value.shape == (n, 5), "those are the matches of each picture: take their mean over pictures, .float().mean(0)"),
               (value.shape == (n,), "the mean is taken over the parts of each picture, .mean(1); over pictures, .mean(0), is wanted"))
        compare(value, of[name].mean(0), {
            "the two splits have changed places": of[other].mean(0),
            "those are shares of *wrong* parts": 1 - of[name].mean(0),
            "those are counts: divide by n": of[name].sum(0),
            "those are percent; shares between 0 and 1 are wanted": 100 * of[name].mean(0),
            "that is the mean of both splits together; keep them apart": matches.mean(0),
            "the parts come in another order than nouns.PARTS: yours are reversed": of[name].mean(0).flip(0),
            "everything is right, you say: do you compare the model's pictures, or the real ones?": torch.ones(5, dtype=F64),
        }, rtol=1e-3, atol=1e-3, otherwise=f"{name}: not the shares of metrics.part_matches(pictures, parts): are parts the very ones whose captions were drawn, in the same order?")


QUESTIONS = [
    Question("5.1", 2, judge_drop, "a coin for each example, and a whole caption at a time",
             ("torch.rand(len(y), generator=generator) makes a number for each example. Compare with p.", "For captions the coins need as many dimensions as y: coins.view(-1, *[1] * (y.ndim - 1)).",
              "lost = torch.rand(len(y), generator=generator) < p; return torch.where(lost.view(-1, *[1] * (y.ndim - 1)), null, y)")),
    Question("5.2", 3, judge_cfg, "w = 1 is no guidance and costs one evaluation; other conditions pass by untouched",
             ("cfg returns a function. What does that function know of w, D and null? All of it: define it inside cfg.", "condition | null keeps what null does not name. The guess without it is u; then u + w (c - u).",
              "weight = w(t) if callable(w) else w; if weight == 1: return D(x, t, **condition); u, c = D(x, t, **condition | null), D(x, t, **condition); return u + weight * (c - u)")),
    Question("5.3", 3, judge_wrapper, "a module of its own, a coin for each example, a null label that is learnt, and a sampler that passes y",
             ("What does nn.Module give to a class that inherits from it? Which label does the embedding learn for \"none\"?", "In training: one evaluation, torch.where(torch.rand(len(y)) < p, null, y). In evaluation: two, and (5.9).",
              "class Guided(nn.Module): __init__ begins with super().__init__() and keeps self.net = net; forward(self, x, t, y=None) asks self.training. Without y: torch.full((len(x),), self.null)")),
    Question("5.4", 3, judge_bells, "guidance goes further out than tempering, and is narrower",
             ("Tempered: the exponents of (5.12) add up. What is the coefficient of x^2, what that of x?", "Guided: in (5.14) the second bell has r^2 + S^2 below the line. Find h again, its value at 0, and what h / r tends to for large r.",
              "h(r) = (s^2 + r^2)^(w/2) (S^2 + r^2)^((1-w)/2); std = h(0); mean = m h(0) times the integral of w r / ((s^2 + r^2) h(r)) from 0 to infinity. Or run ddim from x = 0 and x = 1, the mean and mean + std")),
    Question("5.5", 3, judge_repaint, "the level of arrival, fresh noise, and back up only while there is a next time",
             ("Where is x after the step? At which level must the known part be pasted?", "The way up is section 5.15's, with the noise of what is between the two levels: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 is a variance.",
              "for k in range(repeats if s > 0 else 1): step; x = mask * x + (1 - mask) * schedule.perturb(known, s, noise()); and, if k is not the last, x = alpha_t / alpha_s * x + (...).sqrt() * noise()")),
    Question("5.6", 3, judge_edit, "the picture's own noise, a new word, and guidance on the way down only",
             ("Two walks on the same grid, one of them flipped. Which condition is true of the picture on the way up?", "z = last(samplers.invert(D, schedule, x0, ts.flip(0), **before)), without guidance. Then down.",
              "return last(samplers.ddim(cfg(D, w, null), schedule, z, ts, **after))")),
    Question("5.7", 3, judge_push, "with an exact classifier and w = 1 that is the conditional denoiser",
             ("From logits to log p(y | x): which function, over which dimension, and then which entry?", "Everything that is to be differentiated runs under torch.enable_grad(), on x.detach().requires_grad_().",
              "log_p = classify(x, t).log_softmax(1).gather(1, y[:, None]).sum(); push, = torch.autograd.grad(log_p, x); D(x.detach(), t) + over(w * sigma**2 / alpha, x) * push")),
    Question("5.8", 3, judge_impossible, "you know now what the model cannot read",
             ("What does the tokenizer do with a word that is not on its list? How many heads has a noun, how many words a caption?", "Describe a head without the word that the grammar has for it. T.net.tokenizer.unknown(caption) lists what is not known.",
              "\"a noun with the head of a sea predator with a fin\" asks for a shark, in words of which the tokenizer does not know several")),
    Question("5.9", 3, judge_generalisation, "the same wording and the same painter for both; only what is new differs",
             ("nouns.draw_parts(n, split=...) makes parts, nouns.plain_captions(parts) the captions, metrics.part_matches the verdicts.", "part_matches is (n, 5), true and false. Over which dimension is the mean?",
              "for each split: parts = nouns.draw_parts(n, split=split); metrics.part_matches(draw(nouns.plain_captions(parts)), parts).float().mean(0)")),
]
