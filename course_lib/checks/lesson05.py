"""The questions of lesson 5. Tables list the well-known mistakes: diagnosis -> what it computes."""
import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import samplers
from ..guidance import cfg, clip
from ..lab import attributes, noun_parts, sampling, train, word_vectors
from ..lab.data import GaussianMixture
from ..samplers import last, timesteps
from ..schedules import Schedule, append_dims
from .common import (
    COSINE,
    F64,
    SCHEDULES,
    SEEDED,
    Case,
    Question,
    Wrong,
    as_class,
    as_function,
    between,
    bumps,
    call_pure,
    compare,
    compare_case,
    draw_case,
    fill,
    fresh_generator,
    noise,
    not_finite,
    one_thread,
    reject_cut,
    reject_first,
    reject_if,
    reject_none,
)


def random_labels(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=fresh_generator())


def all_or_none(fractions: Tensor) -> bool:
    return bool(((fractions == 0) | (fractions == 1)).all())


# ---- 5.1: dropping labels

LABEL_SUSPECTS = {
    "labels are wanted, a tensor; got {c.got.__class__.__name__}":
        lambda c: not isinstance(c.got, Tensor),
    "that is the mask of dropped labels; the labels are wanted, with null where they are dropped":
        lambda c: c.got.dtype == torch.bool,
    "expected shape {c.shape}; got {c.got_shape}":
        lambda c: c.shape != c.got_shape,
    "your function changes y itself, and with it the data set: the label is gone for good. "
    "Make a new tensor, torch.where":
        lambda c: not torch.equal(c.given, c.y),
    "the labels were integers, {c.y.dtype}; yours are {c.got.dtype}: "
    "an embedding cannot look them up":
        lambda c: c.got.dtype != c.y.dtype,
    "the draws come from torch's global generator, so nobody can repeat them: use "
    "generator=generator":
        lambda c: c.global_draws,
}

DROPPED_VALUE_SUSPECTS = {
    "dropped labels become {c.last_class}, which is a class of its own: null = {c.null} is the "
    "number after the last class, with an embedding of its own":
        lambda c: len(c.others) and (c.others == c.last_class).all(),
    "a dropped label became {c.others[0]}; it must become null, which is {c.null} here":
        lambda c: len(c.others),
}

SMALL_BATCH_SUSPECTS = {
    "no label was dropped in 40 batches":
        lambda c: c.fractions.max() == 0,
    "every label was dropped":
        lambda c: c.fractions.min() == 1,
    "one random draw decides for the whole batch: all of its labels are dropped, or none. "
    "Each example needs a draw of its own, like a coin":
        lambda c: all_or_none(c.fractions),
    "forty generators with forty seeds drop the same labels: draw with generator=generator, and "
    "make no generator of your own":
        lambda c: all(torch.equal(c.batches[0], other) for other in c.batches),
    "every batch of 50 loses exactly {c.count:.0f} labels; in independent draws the number varies "
    "(and a batch of 3 would never lose any)":
        lambda c: c.fractions.min() == c.fractions.max(),
}

FRACTION_SUSPECTS = {
    "equal labels share one random draw: all of a class are dropped, or none; each example needs a "
    "draw of its own":
        lambda c: share_by_class(c),
    "the examples {c.lag} apart in the batch share one random draw; each example needs its own":
        lambda c: c.lag,
    "single tokens of a caption are dropped: draw once for each example, not for each token; "
    "a caption is dropped as a whole":
        lambda c: not c.whole,
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped: that is 1 - p. "
    "A uniform number is below p with probability p":
        lambda c: near(c, 1 - c.p) and not near(c, c.p),
    "with p = {c.p:.2f} a tenth is dropped: use p":
        lambda c: near(c, 0.1, 0.01),
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped: p is rounded to tenths; compare "
    "a uniform number with p itself":
        lambda c: not near(c, c.p) and (near(c, round(c.p, 1)) or near(c, int(10 * c.p) / 10)),
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped: that is p^2; one draw below p "
    "is enough":
        lambda c: near(c, c.p**2) and not near(c, c.p),
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped":
        lambda c: not near(c, c.p),
    "your draws leave the generator as it was, so the next batch loses the same labels: draw from "
    "the generator itself, not from a copy":
        lambda c: c.unmoved,
}


def share_by_class(c: Case) -> bool:
    """Whether each class is dropped as a whole or kept as a whole, and some are dropped."""
    classes = c.y.flatten(1)[:, 0] if c.y.ndim > 1 else c.y
    fractions = torch.stack([c.dropped[classes == k].double().mean() for k in classes.unique()])
    return all_or_none(fractions) and 0 < c.fraction < 1


def shared_lag(dropped: Tensor) -> int:
    """How far apart the examples are that are dropped together too often; 0 for none.

    The correlation of 20,000 independent draws with themselves, shifted, is 0.007 in size.
    """
    d = dropped.double() - dropped.double().mean()
    correlation = torch.fft.irfft(torch.fft.rfft(d).abs() ** 2, n=len(d))
    found = correlation[1:].abs() > 0.1 * correlation[0] + 1e-9
    return int(found.int().argmax()) + 1 if found.any() else 0


def near(c: Case, q: float, tolerance: float = 0.02) -> bool:
    return abs(c.fraction - q) < tolerance


def judge_drop(f: Callable) -> None:
    """5.1: drop(y, null, p, generator), independent for each example.

    y: labels (B,) or captions (B, L). null is drawn, too: it is neither 10 nor 0. At p = 0 and
    p = 1 it is 0 as well, which is false in an `if`.
    """
    K, none = (int(random_labels(low, low + 20)) for low in (12, 400))
    labels = random_labels(0, K, 20_000)
    captions = random_labels(2, 400, 20_000, 5)
    for y, null in ((labels, K), (captions, none)):
        p = 0.1 * int(between(2, 4)) + between(0.045, 0.065).item()     # far from whole tenths
        seed = int(between(0, 2**30))
        c = drop_once(f, y, null, p, seed)
        again = drop_once(f, y, null, p, seed).got
        reject_if((not torch.equal(c.got, again), "the same generator gave two different answers: "
                   "draw with generator=generator"))
        batches = [drop_once(f, y[:50], null, p, seed + k) for k in range(1, 40)]
        reject_first(SMALL_BATCH_SUSPECTS, small_batches(batches))
        c.lag = shared_lag(c.dropped)
        reject_first(FRACTION_SUSPECTS, c)
        judge_certain(f, y[:500], null, seed)
        judge_certain(f, y[:500] + 1, 0, seed)


def small_batches(batches: list[Case]) -> Case:
    fractions = torch.tensor([c.fraction for c in batches])
    return Case(batches=[c.got for c in batches], fractions=fractions, count=50 * fractions[0])


def judge_certain(f: Callable, y: Tensor, null: int, seed: int) -> None:
    """At p = 0 and p = 1 the answer is certain."""
    for p, words in ((0.0, "at p = 0 some labels are dropped"),
                     (1.0, "at p = 1 some labels are kept")):
        reject_if((drop_once(f, y, null, p, seed).fraction != p, words))


def drop_once(f: Callable, y: Tensor, null: int, p: float, seed: int) -> Case:
    """The reader's labels, the fraction of examples dropped, and whether they are dropped whole."""
    c = call_drop(f, y, null, p, seed)
    reject_none(c.got)
    reject_first(LABEL_SUSPECTS, c)
    c.others = c.got[(c.got != y) & (c.got != null)]
    reject_first(DROPPED_VALUE_SUSPECTS, c)
    changed = (c.got != y).view(len(y), -1)
    c.dropped = changed.any(1)
    c.fraction = c.dropped.double().mean().item()
    c.whole = torch.equal(changed.all(1), changed.any(1))
    return c


def call_drop(f: Callable, y: Tensor, null: int, p: float, seed: int) -> Case:
    """One call of the reader's function."""
    given = y.clone()
    try:
        with torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            generator = torch.Generator().manual_seed(seed)
            state = generator.get_state()
            got = as_function(f)(given, null, p, generator)
            global_draws = not torch.equal(before, torch.random.get_rng_state())
    except RuntimeError as error:
        reject_if(("must match the size" in str(error),
                   "for captions y is (B, L) and the mask of dropped examples (B,): give the mask "
                   f"a second dimension, dropped.view(-1, *[1] * (y.ndim - 1)) ({error})"))
        raise
    return Case(y=y, given=given, got=got, null=null, last_class=null - 1, p=p,
                global_draws=global_draws, unmoved=torch.equal(state, generator.get_state()),
                shape=tuple(y.shape),
                got_shape=tuple(getattr(got, "shape", ())))


# ---- 5.2: classifier-free guidance

class CountingDenoiser:
    """A denoiser with the conditions y and size, both optional.

    evaluations counts those of each example of a batch of 6.
    """

    def __init__(self):
        self.evaluations = 0
        self.slope = between(0.3, 1.5, 5)
        self.shift = between(-1, 1, 5)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | int | None = None,
                 size: Tensor | None = None) -> Tensor:
        self.evaluations += len(x) / 6
        y = torch.as_tensor(4 if y is None else y).expand(len(x))
        size = torch.zeros(len(x), dtype=F64) if size is None else size
        shift = append_dims(self.shift[y] * (1 + size), x)
        return (append_dims(self.slope[y], x) * x).tanh() + shift + t


def draw_cfg(w_depends_on_t: bool) -> Case:
    c = Case(D=CountingDenoiser(), x=noise(6, 1, 3, 3), t=between(0.2, 0.8),
             y=random_labels(0, 3, 6), size=between(0.3, 1, 6), w_depends_on_t=w_depends_on_t)
    w = between(2, 4).item()
    c.scale = (lambda t: w * (1 + t)) if w_depends_on_t else w
    c.w = w * (1 + c.t) if w_depends_on_t else w
    c.cond = c.D(c.x, c.t, y=c.y, size=c.size)
    c.uncond = c.D(c.x, c.t, y=3, size=c.size)
    c.diff = c.cond - c.uncond
    c.cond_bare = c.D(c.x, c.t, y=c.y)
    c.uncond_bare = c.D(c.x, c.t, y=3)
    c.uncond_filled = c.D(c.x, c.t, y=3, size=3 + 0 * c.size)
    c.size_replaced = c.D(c.x, c.t, y=c.y, size=0 * c.size)
    c.prefix = "w = a function of t: " if w_depends_on_t else ""
    return c


def guide(uncond: Tensor, cond: Tensor, w: float | Tensor) -> Tensor:
    """(5.9)"""
    return uncond + w * (cond - uncond)


def right_cfg(c: Case) -> Tensor:
    return guide(c.uncond, c.cond, c.w)


CFG_MISTAKES = {
    "that is c + w (c - u), the paper's scale, on which 0 is no guidance; here 1 is none: "
    "start from u":
        lambda c: c.cond + c.w * c.diff,
    "you guide by w - 1: that is one too little":
        lambda c: guide(c.uncond, c.cond, c.w - 1),
    "the difference has the wrong sign: guidance leads away from the condition":
        lambda c: c.uncond - c.w * c.diff,
    "u and c have changed places: w must lead from the unconditional prediction to the "
    "conditional one":
        lambda c: guide(c.cond, c.uncond, c.w),
    "u + w c: the difference is missing, so the prediction grows with w, too":
        lambda c: c.uncond + c.w * c.cond,
    "that is w (c - u): it is added to u, the unconditional prediction, which is missing":
        lambda c: c.w * c.diff,
    "that is the conditional prediction, c. Does the null win when both dicts name y? "
    "condition | null has null's value":
        lambda c: c.cond,
    "that is the unconditional prediction, u: did the null get into both evaluations?":
        lambda c: c.uncond,
    "the null evaluation loses the other conditions (here size): only what null names is "
    "replaced, condition | null":
        lambda c: guide(c.uncond_bare, c.cond, c.w),
    "the conditional evaluation loses the other conditions (here size)":
        lambda c: guide(c.uncond, c.cond_bare, c.w),
    "both evaluations lose the other conditions (here size)":
        lambda c: guide(c.uncond_bare, c.cond_bare, c.w),
    "w is squared":
        lambda c: guide(c.uncond, c.cond, c.w**2),
    "that is (5.9), clipped to [-1, 1]: guidance does not clip; that is another wrapper":
        lambda c: right_cfg(c).clamp(-1, 1),
    "x has not changed":
        lambda c: c.x,
    "w(t) is taken at t = 1, whatever t is: call w in the denoiser, with its t":
        lambda c: guide(c.uncond, c.cond, c.scale(1.0)) if c.w_depends_on_t else None,
    "w is called with 1 - t; it is a function of t":
        lambda c: guide(c.uncond, c.cond, c.scale(1 - c.t)) if c.w_depends_on_t else None,
    "w is rounded down to a whole number":
        lambda c: guide(c.uncond, c.cond, int(c.w)),
    "the null evaluation gets null's number for the other conditions, too (here size): only what "
    "null names is replaced, condition | null":
        lambda c: guide(c.uncond_filled, c.cond, c.w),
    "that is (5.9), rescaled to the standard deviation of c: that is another method":
        lambda c: right_cfg(c) * c.cond.std() / right_cfg(c).std(),
    "that is (5.9), each example rescaled to the standard deviation of its c: that is another "
    "method":
        lambda c: right_cfg(c) * std_of_each(c.cond) / std_of_each(right_cfg(c)),
}


def std_of_each(x: Tensor) -> Tensor:
    """The standard deviation of each example, (B, 1, 1, 1)."""
    return x.std(dim=(1, 2, 3), keepdim=True)


def judge_cfg(f: Callable) -> None:
    """5.2: cfg(D, w, null) -> guided(x, t, **condition); w is a number or a function of t."""
    for w_depends_on_t in (False, True):
        c = draw_case(lambda: draw_cfg(w_depends_on_t), right_cfg, CFG_MISTAKES)
        null = {"y": 3}
        got = run_cfg(f, c, c.scale, null)
        reject_if((null != {"y": 3},
                   "your function changes the dict null: make a new one, condition | null"))
        compare_case(got, c, right_cfg, CFG_MISTAKES, otherwise=(
            "{c.prefix}not (5.9): print the conditional and the unconditional prediction, and the "
            "weight that each of them gets; the weights add up to 1"))
        reject_if((c.D.evaluations != 2, f"{c.prefix}right, but the denoiser was evaluated "
                   f"{c.D.evaluations:g} times for each example; twice is enough"))
        judge_fixed_scale(f, c, 1.0, c.cond, (1,),
                          "at w = 1 that is not the conditional prediction")
        judge_fixed_scale(f, c, 0.0, c.uncond, (1, 2),
                          "at w = 0 that is not the unconditional prediction")
        for near_1 in (0.8, 1.1):
            judge_fixed_scale(f, c, near_1, guide(c.uncond, c.cond, near_1), (2,),
                              f"at w = {near_1} that is not (5.9): only w = 1 is no guidance")
        judge_two_nulls(f, c)
        judge_next_call(f, c)


def judge_two_nulls(f: Callable, c: Case) -> None:
    """null may name several conditions."""
    got = run_cfg(f, c, c.scale, {"y": 3, "size": 0.0})
    compare(got, guide(c.uncond_bare, c.cond, c.w), {
        "null may name several conditions (here y and size): you replace y alone":
            guide(c.uncond, c.cond, c.w),
        "null may name several conditions (here y and size): you replace size alone":
            guide(c.size_replaced, c.cond, c.w),
    }, otherwise="right with null = {'y': 3}, but not where null names y and size")


def judge_next_call(f: Callable, c: Case) -> None:
    """A sampler calls the same denoiser at every step, each time with another x and t."""
    guided = as_function(f)(c.D, c.scale, {"y": 3})
    guided(c.x.clone(), c.t, y=c.y, size=c.size)
    x = c.x.flip(0)
    t = c.t / 2
    y = c.y.flip(0)
    size = c.size.flip(0)
    wanted = guide(c.D(x, t, y=3, size=size), c.D(x, t, y=y, size=size),
                   c.scale(t) if c.w_depends_on_t else c.w)
    compare(guided(x, t, y=y, size=size), wanted, otherwise=(
        "right in the first call, but not in the next one, with another x and t: keep nothing "
        "from one call to the next"))


def judge_fixed_scale(f: Callable, c: Case, w: float, wanted: Tensor,
                      evaluations: tuple[int, ...], words: str) -> None:
    """One w. At w = 1 and w = 0 one of the two predictions is multiplied by 0."""
    scale = (lambda t: torch.as_tensor(w)) if c.w_depends_on_t else w
    got = run_cfg(f, c, scale, {"y": 3})
    compare(got, wanted, otherwise=f"right for a larger w, but {words}")
    reject_if((c.D.evaluations not in evaluations,
               f"right, but at w = {w:g} the denoiser is evaluated {c.D.evaluations:g} times, and "
               "the unconditional prediction is multiplied by 0: evaluate once there"))


def run_cfg(f: Callable, c: Case, scale: object, null: dict) -> object:
    """What the reader's guided denoiser computes. Counts in c.D.evaluations."""
    c.D.evaluations = 0
    try:
        guided = as_function(f)(c.D, scale, null)
        reject_no_denoiser(guided, "cfg returns a denoiser, a function of (x, t, **condition)")
        given = [c.x.clone(), c.y.clone(), c.size.clone()]
        got = guided(given[0], c.t, y=given[1], size=given[2])
        reject_if((differ(given, (c.x, c.y, c.size)),
                   "guided changes x or a condition that it was given: compute new tensors"))
        return got
    except TypeError as error:
        uncalled = "function" in str(error) or "callable" in str(error)
        reject_if(("unexpected keyword argument 'size'" in str(error),
                   "your denoiser takes no condition but y: it must accept any, **condition, and "
                   f"pass all of them on ({error})"),
                  (c.w_depends_on_t and uncalled,
                   "w may be a function of t, too: test callable(w), and then take w(t) "
                   f"({error})"))
        raise


def differ(given: list[Tensor], before: tuple[Tensor, ...]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(given, before))


def reject_no_denoiser(guided: object, words: str) -> None:
    kind = type(guided).__name__
    came = "None: does it end with `return guided`?" if guided is None else kind
    reject_if((not callable(guided), f"{words}; got {came}"))


# ---- 5.3: a copied class

class LabelNet(nn.Module):
    """A network with a label embedding. given lists the labels of its evaluations."""

    def __init__(self, K: int = 4):
        super().__init__()
        self.table = nn.Parameter(between(-1, 1, K + 1))
        self.given = []

    def forward(self, x: Tensor, t: Tensor, *others: object, y: Tensor | None = None) -> Tensor:
        if others:
            raise Wrong("call the network as denoisers are called, net(x, t, y=labels): the third "
                        "argument by position may be another condition")
        if y is None:
            self.given.append(None)
            return 0 * x + self.table.mean()
        y = torch.as_tensor(y).expand(len(x))
        K = len(self.table) - 1
        strange = y[(y < 0) | (y > K)]
        if len(strange):
            raise Wrong(f"the network was given the label {strange[0]}; here null = {K}, which is "
                        "what your object was made with")
        self.given.append(y.clone())
        return self.predict(x, y)

    def predict(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * x.tanh() + self.table[y][:, None]


MODULE_SUSPECTS = {
    "that returned None; pass the class itself, its name without brackets":
        lambda c: c.guided is None,
    "your object is no nn.Module: it has no .training, no .train() and no .eval(), it cannot be "
    "called, and an optimizer finds no weights in it":
        lambda c: not isinstance(c.guided, nn.Module),
    "your class has no forward(self, x, t, y)":
        lambda c: type(c.guided).forward is nn.Module.forward,
    "the network inside is a copy: the weights of the one that was passed are never trained. Keep "
    "that one, self.net = net":
        lambda c: keeps_a_copy(c),
    "the network is not registered, so an optimizer finds no weights and .to(device) leaves it "
    "behind: self.net = net, not in a list or dict":
        lambda c: not any(q is c.net.table for q in c.guided.parameters()),
}


def keeps_a_copy(c: Case) -> bool:
    """Whether a copy of the network is registered, and the network itself is not."""
    inside = list(c.guided.parameters())
    same = any(q is c.net.table for q in inside)
    return not same and any(torch.equal(q, c.net.table) for q in inside)


TRAINING_SUSPECTS = {
    "in training your forward changes y itself: make a new tensor, torch.where":
        lambda c: not torch.equal(c.given, c.y),
    "in training two evaluations are made, and guided: the loss is that of one evaluation, with "
    "some labels dropped":
        lambda c: c.evaluations == 2,
    "in training the network is evaluated {c.evaluations:g} times for each example; once is right":
        lambda c: c.evaluations != 1,
}

TRAINING_DROP_SUSPECTS = {
    "in training mode no label is dropped":
        lambda c: c.fractions.max() == 0 and not len(c.values),
    "in training one random draw decides for the whole batch: each example needs its own":
        lambda c: all_or_none(c.fractions),
    SEEDED:
        lambda c: all(torch.equal(c.few[0], other) for other in c.few),
    "in training every batch of 30 loses exactly {c.count:.0f} labels; in independent draws the "
    "number varies":
        lambda c: c.fractions.min() == c.fractions.max(),
    "dropped labels become {c.last_class}, which is a class; null = {c.null} is the number after "
    "the last class":
        lambda c: len(c.values) and (c.values == c.last_class).all(),
    "dropped labels become other classes; they must become null":
        lambda c: (c.values != c.null).any(),
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped in training: that is 1 - p":
        lambda c: near(c, 1 - c.p, 0.03),
    "with p = {c.p:.2f} a fraction of {c.fraction:.2f} is dropped in training":
        lambda c: not near(c, c.p, 0.03),
}


def judge_wrapper(make: Callable) -> None:
    """5.3: Guided(net, w, p, null), an nn.Module.

    It drops labels in training and guides in evaluation.
    """
    c = Case(net=LabelNet(), null=4, last_class=3, p=between(0.2, 0.4).item(),
             w=between(2, 4).item(), x=noise(12_000, 2), t=torch.tensor(0.5, dtype=F64),
             y=random_labels(0, 4, 12_000))
    c.guided = make_module(make, c, c.p)
    c.guided.train()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        judge_training(c)
        with torch.no_grad():
            judge_evaluation(make, c)


def make_module(make: Callable, c: Case, p: float) -> nn.Module:
    """The reader's object, if it is a module that has the network."""
    try:
        guided = as_class(make)(c.net, c.w, p, c.null)
    except AttributeError as error:
        reject_if(("before Module.__init__" in str(error), "call super().__init__() first in "
                   "__init__, else nn.Module cannot keep the network"))
        raise
    reject_first(MODULE_SUSPECTS, Case(guided=guided, net=c.net))
    return guided


def evaluate(c: Case, x: Tensor, **condition) -> tuple[object, Tensor]:
    """The module's output, and the labels that the network was given, in all evaluations."""
    c.net.given.clear()
    got = c.guided(x.clone(), c.t, **condition)
    given = c.net.given
    reject_if((not given, "the network was never evaluated"),
              (any(y is None for y in given),
               "the network is evaluated with y = None, for which it has no embedding: "
               '"no label" is a label of its own, null, learnt like the others'))
    return got, torch.cat(given)


def judge_training(c: Case) -> None:
    c.given = c.y.clone()
    _, seen = evaluate(c, c.x, y=c.given)
    c.evaluations = len(seen) / len(c.y)
    reject_first(TRAINING_SUSPECTS, c)
    dropped = seen != c.y
    c.values = seen[dropped]
    c.fraction = dropped.double().mean().item()
    c.few = [evaluate(c, c.x[:30], y=c.y[:30])[1] != c.y[:30] for _ in range(40)]
    c.fractions = torch.stack(c.few).double().mean(1)
    c.count = 30 * c.fractions[0]
    reject_first(TRAINING_DROP_SUSPECTS, c)
    got, seen = evaluate(c, c.x[:50], y=c.y[:50])
    compare(got, c.net.predict(c.x[:50], seen),
            otherwise="in training the network's output must be returned as it is")
    reject_cut(got, [c.net.table], "in training no gradient reaches the network: no "
               "torch.no_grad() and no .detach() there")
    judge_gradients(c)


def judge_gradients(c: Case) -> None:
    """Those of the network's weights, row by row, and of x, which an encoder may have made."""
    x = c.x[:50].clone().requires_grad_()
    got, seen = evaluate(c, x, y=c.y[:50])
    inputs = [c.net.table, x]
    of_table, of_x = torch.autograd.grad(got.sum(), inputs, allow_unused=True)
    reject_if((of_x is None or not of_x.any(), "in training the gradient of x is cut: if an "
               "encoder makes x, it cannot learn. No .detach() there"))
    table, x_wanted = torch.autograd.grad(c.net.predict(x, seen).sum(), inputs)
    compare(of_table, table, otherwise="in training the gradient of some examples is cut: those "
            "with the null label train the network, too")
    compare(of_x, x_wanted, otherwise="in training the gradient of some examples is cut")


EVALUATION_MISTAKES = {
    "after .eval() labels are dropped still (p was 1, and that is the prediction without labels): "
    "drop only while self.training":
        lambda c: c.uncond,
    "after .eval() nothing is guided: that is the conditional prediction":
        lambda c: c.cond,
    "in evaluation, c + w (c - u) is the paper's scale; here w = 1 is no guidance":
        lambda c: c.cond + c.w * (c.cond - c.uncond),
    "in evaluation the difference has the wrong sign":
        lambda c: guide(c.uncond, c.cond, -c.w),
    "in evaluation u and c have changed places":
        lambda c: guide(c.cond, c.uncond, c.w),
    "in evaluation: that is w (c - u) alone":
        lambda c: c.w * (c.cond - c.uncond),
    "in evaluation another class stands for the null label: null is the last number, K":
        lambda c: guide(c.net.predict(c.x, torch.full_like(c.y, c.last_class)), c.cond, c.w),
}


def judge_evaluation(make: Callable, c: Case) -> None:
    """p is 1 here, so that a drop in evaluation cannot stay unseen."""
    c = Case(**vars(c) | {"guided": make_module(make, c, 1.0), "x": c.x[:40], "y": c.y[:40]})
    c.guided.eval()
    c.cond = c.net.predict(c.x, c.y)
    c.uncond = c.net.predict(c.x, torch.full_like(c.y, c.null))
    got, seen = evaluate(c, c.x, y=c.y.clone())
    compare_case(got, c, right_cfg, EVALUATION_MISTAKES,
                 otherwise="in evaluation that is not (5.9), with the null label for u")
    evaluations = len(seen) / len(c.y)
    reject_if((evaluations > 2, f"in evaluation the network is evaluated {evaluations:g} times "
               "for each example; two are enough"))
    judge_without_labels(c)
    judge_in_sampler(c)
    judge_modes(c)


def judge_modes(c: Case) -> None:
    """The way back to training, and train(False), which is all that a module in another gets."""
    c.guided.train()
    _, seen = evaluate(c, c.x, y=c.y.clone())
    own_flag = "self.training tells, so keep no record of your own"
    reject_if((len(seen) != len(c.y) or (seen != c.null).any(), "right, but after .eval() and "
               f"then .train() it does not train again: {own_flag}"))
    _, seen = evaluate(c, c.x)
    reject_if((len(seen) != len(c.x) or (seen != c.null).any(), "right after .eval(), but in "
               "training, without y, the network is given other labels than null, or is evaluated "
               "twice: y=None means no label for anyone"))
    c.guided.train(False)
    got, _ = evaluate(c, c.x, y=c.y.clone())
    compare(got, right_cfg(c), otherwise="right after .eval(), but not after .train(False), which "
            f"is what a module inside another one gets: {own_flag}")


def judge_without_labels(c: Case) -> None:
    try:
        got, seen = evaluate(c, c.x)
    except TypeError as error:
        raise Wrong(
            f"without y your forward fails ({error}): y=None means no label for anyone") from None
    compare(got, c.uncond,
            otherwise="without y the output must be that of the null label, whatever w is")
    reject_if((len(seen) > len(c.x), "right, but without y the network is evaluated "
               f"{len(seen) / len(c.x):g} times; once is enough"))


def judge_in_sampler(c: Case) -> None:
    """ddim calls the module with t a number."""
    def reference(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        uncond = c.net.predict(x, torch.full_like(y, c.null))
        return guide(uncond, c.net.predict(x, y), c.w)

    got, wanted = (last(samplers.ddim(D, COSINE, c.x, timesteps(COSINE, 4), y=c.y))
                   for D in (c.guided, reference))
    compare(got, wanted, otherwise="right by itself, but not inside ddim, which calls "
            "guided(x, t, y=y) with t a number")


# ---- 5.4: guidance and tempering of two Gaussians

def tempered_moments(w: float, m: float, s: float, S: float) -> tuple[float, float]:
    """Mean and standard deviation of N(0, S^2)^(1 - w) N(m, s^2)^w."""
    return moments(w / s**2 + (1 - w) / S**2, w * m / s**2)


def moments(precision: float, slope: float) -> tuple[float, float]:
    """Mean and standard deviation of exp(slope x - precision x^2 / 2)."""
    return slope / precision, precision**-0.5


def guided_moments(w: float, m: float, s: float, S: float) -> tuple[float, float]:
    """Mean and standard deviation at the end of guided sampling.

    (5.15) with S in place of 1, and z^2 = (S^2 - s^2) / (s^2 + r^2).
    """
    d = (S**2 - s**2) ** 0.5
    z = torch.linspace(0, d / s, 4001, dtype=F64)
    integral = torch.trapezoid((1 + z**2) ** ((w - 1) / 2), z).item()
    std = s**w * S ** (1 - w)
    return m * std * w / d * integral, std


def guided_moments_without_halves(w: float, m: float, s: float, S: float) -> tuple[float, float]:
    """guided_moments with the powers w and 1 - w in h."""
    r = torch.linspace(0, 100, 50_001, dtype=F64)
    h = (s**2 + r**2) ** w * (S**2 + r**2) ** (1 - w)
    integral = torch.trapezoid(w * r / ((s**2 + r**2) * h), r).item()
    std = s ** (2 * w) * S ** (2 - 2 * w)
    return m * std * integral, std


def draw_gaussians(integer_w: bool) -> Case:
    c = Case(w=3.0 if integer_w else between(1.5, 4).item(),
             m=(1 if integer_w else -1) * between(0.7, 1.6).item(),
             s=between(0.4, 0.6).item(), S=between(1.2, 1.6).item())
    c.numbers = c.w, c.m, c.s, c.S
    c.tempered = tempered_moments(*c.numbers)
    c.guided = guided_moments(*c.numbers)
    c.mean, c.std = c.tempered
    c.guided_mean, c.guided_std = c.guided
    c.where = f"w = {c.w:.3g}, m = {c.m:.3g}, s = {c.s:.3g}, S = {c.S:.3g}: "
    return c


TEMPERED_MISTAKES = {
    "tempered: that is a variance; the standard deviation is its root":
        lambda c: (c.mean, c.std**2),
    "tempered: w m / s^2 is still to be multiplied by the variance":
        lambda c: (c.w * c.m / c.s**2, c.std),
    "tempered: that is q(x|y)^w alone; q(x)^(1 - w) belongs to it":
        lambda c: (c.m, c.s / c.w**0.5),
    "tempered: that is right for whole numbers w only: w is rounded down":
        lambda c: None if c.w == int(c.w) else tempered_moments(int(c.w), c.m, c.s, c.S),
    "tempered: that is the class as it is; w has no effect":
        lambda c: (c.m, c.s),
    "tempered: the std is right; the mean is not m, for q(x)^(1 - w) moves it, too":
        lambda c: (c.m, c.std),
    "tempered: that is right for S = 1 only":
        lambda c: tempered_moments(c.w, c.m, c.s, 1.0),
    "tempered: that is w + 1: on the scale of (5.12) w = 1 is the class itself":
        lambda c: tempered_moments(c.w + 1, c.m, c.s, c.S),
    "tempered: q(x) has the power 1 - w, not w - 1":
        lambda c: moments(c.w / c.s**2 + (c.w - 1) / c.S**2, c.w * c.m / c.s**2),
    "tempered: that is q(x) q(x|y)^w; p(y|x) is q(x|y) divided by q(x), so q(x) has the power "
    "1 - w":
        lambda c: moments(c.w / c.s**2 + 1 / c.S**2, c.w * c.m / c.s**2),
    "tempered: the sign of m is lost":
        lambda c: None if c.m > 0 else (-c.mean, c.std),
    "tempered: that is right for whole numbers w only: w is rounded":
        lambda c: None if c.w == int(c.w) else tempered_moments(round(c.w), c.m, c.s, c.S),
    "tempered: the mean and the std have changed places":
        lambda c: (c.std, c.mean),
    "tempered: the mean is not w m: the peak of (5.12) is at v w m / s^2, v the variance":
        lambda c: (c.w * c.m, c.std),
    "the two pairs have changed places: tempered first, then guided":
        lambda c: c.guided,
}

GUIDED_MISTAKES = {
    "guided: that is the tempered density once more; guidance tempers the noised densities, and "
    "ends elsewhere":
        lambda c: c.tempered,
    "guided: that is the class as it is; w has no effect":
        lambda c: (c.m, c.s),
    "guided: w does not simply multiply the mean":
        lambda c: (c.w * c.m, c.s),
    "guided: the mean is right, but the std is h(0), and h has a second factor: S^(1 - w)":
        lambda c: (c.guided_mean, c.s**c.w),
    "guided: the std is right; in the mean h(0) lacks its second factor, S^(1 - w)":
        lambda c: (c.guided_mean * c.S ** (c.w - 1), c.guided_std),
    "guided: the std is right; w does not simply multiply the mean":
        lambda c: (c.w * c.m, c.guided_std),
    "guided: the std is right; that mean is right for w = 3 only":
        lambda c: None if c.w == 3 else (c.m * (1 + 2 * (c.s / c.S) ** 2), c.guided_std),
    "guided: h(0) has a second factor, S^(1 - w): both the mean and the std lack it":
        lambda c: (c.guided_mean * c.S ** (c.w - 1), c.s**c.w),
    "guided: the mean and the std have changed places":
        lambda c: (c.guided_std, c.guided_mean),
    "guided: the sign of m is lost":
        lambda c: None if c.m > 0 else (-c.guided_mean, c.guided_std),
    "guided: the mean is right, but the std is multiplied by S: the noise at the start has the "
    "standard deviation 1, whatever the data":
        lambda c: (c.guided_mean, c.guided_std * c.S),
    "guided: the mean is right, but that is a variance":
        lambda c: (c.guided_mean, c.guided_std**2),
    "guided: the std is right; in the mean the w in front of the integral is missing":
        lambda c: (c.guided_mean / c.w, c.guided_std),
    "guided: the std is right; in the mean the factor h(0) is missing":
        lambda c: (c.guided_mean / c.guided_std, c.guided_std),
    "guided: the std is right; in the mean m is missing":
        lambda c: (c.guided_mean / c.m, c.guided_std),
    "guided: that is right for S = 1 only":
        lambda c: guided_moments(c.w, c.m, c.s, 1.0),
    "guided: that is w + 1: in (5.9) w = 1 is no guidance":
        lambda c: guided_moments(c.w + 1, c.m, c.s, c.S),
    "guided: h has the powers w / 2 and (1 - w) / 2; yours has w and 1 - w":
        lambda c: guided_moments_without_halves(*c.numbers),
    "guided: the mean is that of the tempered density, the std that of guidance: the mean "
    "moves, too":
        lambda c: (c.mean, c.guided_std),
}

NOT_TEMPERED = (
    "{c.where}tempered: mean {c.mean:.4f} and std {c.std:.4f} are right; yours are {c.got[0]:.4f} "
    "and {c.got[1]:.4f}. Add up the exponents of (5.12), then complete the square")
NOT_GUIDED = (
    "{c.where}the tempered pair is right. Guided sampling ends at mean {c.guided_mean:.4f} and std "
    "{c.guided_std:.4f}; yours are {c.got[2]:.4f} and {c.got[3]:.4f}. Run ddim (some 1,000 steps) "
    "on the two exact denoisers from x = 0 and from x = 1: the first end is the mean, their "
    "difference the std")
LARGE_W = "guided: m / (1 - s^2 / S^2) is what the mean tends to for large w; w is a number here"
CUT_OFF = (
    "{c.where}the tempered pair and the guided std are right, but the guided mean is "
    "{c.guided_mean:.4f}, and yours {c.got[2]:.4f}, a little less. Does the integral (or the run) "
    "stop too early? What is missing from r on is small only where r is much larger than s")


def judge_bells(f: Callable) -> None:
    """5.4: bells(w, m, s, S) -> mean and std of the tempered density, then of guided sampling.

    A run of 1,000 steps, which is allowed, is off by up to 1.7 %.
    """
    for integer_w in (True, False):
        c = draw_case(lambda: draw_tempered(integer_w), right_guided, GUIDED_MISTAKES,
                      rtol=0.02, atol=1e-4)
        c.got = four_numbers(as_function(f)(*c.numbers))
        compare_case(c.got[:2], c, right_tempered, TEMPERED_MISTAKES,
                     rtol=0.005, atol=1e-4, otherwise=NOT_TEMPERED)
        compare_case(c.got[2:], c, right_guided, GUIDED_MISTAKES,
                     rtol=0.02, atol=1e-4, otherwise=about_guided(c))
    judge_no_guidance(f)


def about_guided(c: Case) -> str:
    """The sentence about a guided pair that no table names."""
    limit = torch.tensor([c.m / (1 - (c.s / c.S) ** 2), c.guided_std], dtype=F64)
    if torch.allclose(c.got[2:], limit, rtol=1e-3):
        return LARGE_W
    return CUT_OFF if cut_off(c) else NOT_GUIDED


def cut_off(c: Case) -> bool:
    """Whether only the guided mean is wrong, and a little too small."""
    std = c.got[3] / c.guided_std
    return bool(abs(std - 1) < 0.02 and 0.8 < c.got[2] / c.guided_mean < 1)


def judge_no_guidance(f: Callable) -> None:
    """w = 1, where both pairs are m and s, and the integral converges slowest."""
    c = Case(m=between(0.7, 1.6).item(), s=between(0.4, 0.6).item(), S=between(1.2, 1.6).item())
    c.got = four_numbers(as_function(f)(1.0, c.m, c.s, c.S))
    c.guided_mean = c.m
    c.guided_std = c.s
    c.where = f"right for larger w; at w = 1, m = {c.m:.3g}, s = {c.s:.3g}: "
    otherwise = f"{c.where}there is no guidance, so both pairs must be m and s"
    compare(c.got[:2], torch.tensor([c.m, c.s]), rtol=0.02, atol=1e-4, otherwise=otherwise)
    compare(c.got[2:], torch.tensor([c.m, c.s]), rtol=0.02, atol=1e-4,
            otherwise=fill(CUT_OFF, c) if cut_off(c) else otherwise)


def draw_tempered(integer_w: bool) -> Case:
    return draw_case(lambda: draw_gaussians(integer_w), right_tempered, TEMPERED_MISTAKES,
                     rtol=0.004, atol=1e-4)


def right_tempered(c: Case) -> Tensor:
    return torch.tensor(c.tempered, dtype=F64)


def right_guided(c: Case) -> Tensor:
    return torch.tensor(c.guided, dtype=F64)


def four_numbers(got: object) -> Tensor:
    """The reader's four numbers, as a tensor (4,)."""
    reject_none(got)
    try:
        numbers = torch.stack([torch.as_tensor(q, dtype=F64).detach().reshape(()) for q in got])
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("four numbers are wanted, in this order: tempered mean and std, guided mean "
                    f"and std; got {type(got).__name__}") from None
    rounded = [round(number, 3) for number in numbers.tolist()]
    reject_if((len(numbers) != 4, "four numbers are wanted: tempered mean and std, guided mean "
               f"and std; got {len(numbers)}"),
              (not numbers.isfinite().all(), f"some of the four numbers are nan or inf: {rounded}"))
    return numbers


# ---- 5.5: RePaint

def repaint_case(schedule: Schedule, repeats: int, t: Tensor, s: Tensor, B: int = 5) -> Case:
    """Inputs of one RePaint step. noises: what noise() returns, in this order."""
    c = Case(D=bumps(4).denoiser(schedule), x=noise(B, 4), known=noise(1, 4),
             mask=torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=F64), t=t, s=s, repeats=repeats,
             noises=[noise(B, 4) for _ in range(12)])
    return in_schedule(c, schedule)


def in_schedule(c: Case, schedule: Schedule) -> Case:
    """The case with another schedule, and the same D."""
    c = Case(**vars(c) | {"schedule": schedule})
    c.alpha_t = schedule.alpha(c.t)
    c.sigma_t = schedule.sigma(c.t)
    c.alpha_s = schedule.alpha(c.s)
    c.sigma_s = schedule.sigma(c.s)
    c.ratio = c.alpha_t / c.alpha_s
    c.variance = c.sigma_t**2 - (c.ratio * c.sigma_s) ** 2
    return c


def draw_repaint(schedule: Schedule, repeats: int) -> Case:
    s = between(0.25, 0.4)
    return repaint_case(schedule, repeats, s + between(0.2, 0.35), s)


def known_at_s(c: Case, z: Tensor) -> Tensor:
    """The known part at level s, with the noise z."""
    return c.alpha_s * c.known + c.sigma_s * z


def pasting(known: Callable[[Case, Tensor], Tensor]) -> Callable:
    """paste with another known part, known(c, z)."""
    return lambda c, x, z: c.mask * x + (1 - c.mask) * known(c, z)


def paste(c: Case, x: Tensor, z: Tensor) -> Tensor:
    """The known part at level s, where the mask is 0."""
    return c.mask * x + (1 - c.mask) * known_at_s(c, z)


def renoise(c: Case, x: Tensor, z: Tensor) -> Tensor:
    """From level s back up to level t."""
    return c.ratio * x + c.variance.sqrt() * z


def predict(c: Case, x: Tensor) -> Tensor:
    """x0_hat at level t."""
    return c.D(x, c.t)


def predict_pasted(c: Case, x: Tensor) -> Tensor:
    """x0_hat with the known part put into it."""
    return c.mask * c.D(x, c.t) + (1 - c.mask) * c.known


def repaint(c: Case, paste: Callable | None = paste, *, renoise: Callable = renoise,
            predict: Callable = predict, repeats: int | None = None, paste_first: bool = False,
            same_noise: bool = False, renoise_last: bool = False, restart: bool = False,
            reuse: bool = False, swapped: bool = False, last_only: bool = False) -> Tensor:
    """RePaint's step, with the switches that turn it into wrong versions."""
    z = iter(in_pairs_swapped(c) if swapped else c.noises)
    shared = next(z) if same_noise else None
    repeats = repeats or (c.repeats if c.s > 0 else 1)
    x = c.x
    for k in range(repeats):
        x = c.x if restart else x
        if paste_first:
            x = paste(c, x, next(z))
        x = samplers.step(c.schedule, x, predict(c, x), c.t, c.s)
        if paste is not None and not paste_first:
            pasted = shared if same_noise else next(z)
            x = x if last_only and k < repeats - 1 else paste(c, x, pasted)
        if k < repeats - 1 or renoise_last:
            x = renoise(c, x, pasted if reuse else next(z))
    return x


def in_pairs_swapped(c: Case) -> list[Tensor]:
    """The noises, where each renoising is given its noise before the paste."""
    order = [k ^ 1 for k in range(2 * c.repeats - 2)]
    return [c.noises[k] for k in (*order, 2 * c.repeats - 2)]


REPAINT_MISTAKES = {
    "after the step to s the known part is pasted with the noise of level t, where the step "
    "began: x is at s now":
        lambda c: repaint(c, pasting(lambda c, z: c.alpha_t * c.known + c.sigma_t * z)),
    "the clean known part is pasted; at level s the network was trained on noisy data":
        lambda c: repaint(c, pasting(lambda c, z: c.known)),
    "the known part is pasted without its noise: alpha_s known, and sigma_s z":
        lambda c: repaint(c, pasting(lambda c, z: c.alpha_s * c.known)),
    "the pasted noise is multiplied by a variance, sigma_s^2":
        lambda c: repaint(c, pasting(lambda c, z: c.alpha_s * c.known + c.sigma_s**2 * z)),
    "the known part is not multiplied by alpha_s":
        lambda c: repaint(c, pasting(lambda c, z: c.known + c.sigma_s * z)),
    "the mask is inverted: 1 means drawn anew, and you paste the known part there":
        lambda c: repaint(c, lambda c, x, z: (1 - c.mask) * x + c.mask * known_at_s(c, z)),
    "the known part is pasted before the step, and not after it: the step changes it":
        lambda c: repaint(c, paste_first=True),
    "nothing is pasted: that is a step of ddim":
        lambda c: repaint(c, lambda c, x, z: x),
    "the known part is put into x0_hat, which is section 5.15's other method; RePaint replaces "
    "the state":
        lambda c: repaint(c, paste=None, predict=predict_pasted),
    "that is the pasted part alone: mask keeps x where it is 1":
        lambda c: repaint(c, lambda c, x, z: known_at_s(c, z)),
    "x has not changed":
        lambda c: c.x,
    "after the last repeat x must stay at s; yours was noised back to t once more":
        lambda c: repaint(c, renoise_last=True),
    "between the repeats x must be noised back to t: it is at s, and the next step takes it "
    "for x_t":
        lambda c: repaint(c, renoise=lambda c, x, z: x),
    "the renoising is alpha_t / alpha_s x without fresh noise":
        lambda c: repaint(c, renoise=lambda c, x, z: c.ratio * x),
    "the renoising adds all of sigma_t, although x_s has noise already: its variance is "
    "sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2":
        lambda c: repaint(c, renoise=lambda c, x, z: c.ratio * x + c.sigma_t * z),
    "the renoising takes x_s for clean: alpha_t x + sigma_t z is right for x_0 only":
        lambda c: repaint(c, renoise=lambda c, x, z: c.alpha_t * x + c.sigma_t * z),
    "the renoising forgets alpha_t / alpha_s in front of x":
        lambda c: repaint(c, renoise=lambda c, x, z: x + c.variance.sqrt() * z),
    "the renoising multiplies its noise by a variance; take the root":
        lambda c: repaint(c, renoise=lambda c, x, z: c.ratio * x + c.variance * z),
    "the step is made once; repeats says how often":
        lambda c: repaint(c, repeats=1),
    "one repeat too few":
        lambda c: repaint(c, repeats=max(c.repeats - 1, 1)),
    "the same noise is pasted each time: it must be fresh, noise() for every paste":
        lambda c: repaint(c, same_noise=True),
    "the renoising has noise sqrt(1 - (alpha_t / alpha_s)^2): that is right only where "
    "alpha^2 + sigma^2 = 1; for any schedule its variance is "
    "sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2":
        lambda c: repaint(c, renoise=lambda c, x, z: c.ratio * x + (1 - c.ratio**2).sqrt() * z),
    "every repeat begins again at the x that was given: go on from where the last one ended":
        lambda c: repaint(c, restart=True),
    "the renoising takes the noise that was pasted: it must be fresh, noise() for each":
        lambda c: repaint(c, reuse=True),
    "the denoiser is evaluated at s; before the step x is at level t":
        lambda c: repaint(c, predict=lambda c, x: c.D(x, c.s)),
    "where the known part is pasted, x is still there, too: mask * x + (1 - mask) * known part":
        lambda c: repaint(c, lambda c, x, z: x + (1 - c.mask) * known_at_s(c, z)),
    "sigma_t^2 - sigma_s^2 lacks the (alpha_t / alpha_s)^2 before sigma_s^2":
        lambda c: repaint(c, renoise=lambda c, x, z: (
            c.ratio * x + (c.sigma_t**2 - c.sigma_s**2).sqrt() * z)),
    "one repeat too many: repeats = 1 is a single step and no renoising":
        lambda c: repaint(c, repeats=c.repeats + 1),
    "the renoising has the std sigma_t - alpha_t / alpha_s sigma_s: variances are subtracted, and "
    "then comes the root":
        lambda c: repaint(c, renoise=lambda c, x, z: (
            c.ratio * x + (c.sigma_t - c.ratio * c.sigma_s) * z)),
    "every repeat takes the prediction at the first x: evaluate the denoiser anew each time":
        lambda c: repaint(c, predict=lambda c, x: c.D(c.x, c.t)),
    "only the part that is drawn anew is noised back to t: the whole picture goes up":
        lambda c: repaint(c, renoise=lambda c, x, z: (
            c.mask * renoise(c, x, z) + (1 - c.mask) * x)),
    "the known part is pasted only once, after the last repeat: paste after each step":
        lambda c: paste(c, repaint(c, paste=None), c.noises[c.repeats - 1]),
    "the noise of the renoising is drawn before that of the paste: call noise() in the order of "
    "the steps":
        lambda c: repaint(c, swapped=True),
    "the known part is pasted only after the last repeat: paste it after each step":
        lambda c: repaint(c, last_only=True),
    "the known part is pasted before the step, at level t; paste it after the step, at level s":
        lambda c: repaint(c, pasting(lambda c, z: c.alpha_t * c.known + c.sigma_t * z),
                          paste_first=True),
    "all examples get the noise of the first one: noise() is like x":
        lambda c: repaint(c, pasting(lambda c, z: known_at_s(c, z[:1]))),
    "you compute with the cosine schedule; take the one that is given":
        lambda c: None if c.schedule is COSINE else repaint(in_schedule(c, COSINE)),
}

LAST_STEP_MISTAKES = {
    "right in between, but in the step to s = 0 nothing is pasted: the picture ends with known "
    "pixels that the network has changed":
        lambda c: repaint(c, paste=None),
    "right in between, but the step to s = 0 is repeated, too: there the picture is finished, "
    "make it once":
        lambda c: repaint(c, repeats=c.repeats),
}


def judge_repaint(f: Callable) -> None:
    """5.5: repaint_step(D, schedule, x, known, mask, t, s, repeats, noise), with eta = 0."""
    for name, repeats in (("flow", 1), ("cosine", 3), ("flow", 2)):
        c = draw_case(lambda: draw_repaint(SCHEDULES[name], repeats), repaint, REPAINT_MISTAKES,
                      rtol=1e-4, atol=1e-4)
        got, _ = call_repaint(f, c)
        not_finite(got, f"{name}: nan or inf")
        compare_case(got, c, repaint, REPAINT_MISTAKES, rtol=1e-4, atol=1e-4, otherwise=(
            f"{name}, repeats = {repeats}: not RePaint's step. Go through it: step from t to s; "
            "paste at level s with noise(); and, but for the last time, up to t with noise()"))
    judge_last_repaint(f)


def judge_last_repaint(f: Callable) -> None:
    """The step to s = 0. Of a few numbers all may be right to the bit by chance: here are 600."""
    c = repaint_case(COSINE, 3, between(0.1, 0.2), torch.tensor(0.0, dtype=F64), B=300)
    got, evaluations = call_repaint(f, c)
    not_finite(got, "right in between, but nan or inf in the step to s = 0")
    compare_case(got, c, repaint, LAST_STEP_MISTAKES, rtol=1e-5, atol=1e-5, otherwise=(
        "right in between, but in the step to s = 0: make it once, and paste the known part as "
        "it is"))
    kept = c.mask[0] == 0
    reject_if((not torch.equal(got[:, kept].double(), c.known[:, kept].expand(len(got), -1)),
               "right, but at s = 0 the known part is not the original to the bit"),
              (evaluations != 1, "right, but in the step to s = 0 the denoiser was evaluated "
               f"{evaluations} times; once is enough"))


def call_repaint(f: Callable, c: Case) -> tuple[object, int]:
    """What the reader's step returns, and the number of its evaluations of D."""
    given = [q.clone() for q in (c.x, c.known, c.mask)]
    counted, calls = counting(c.D)
    with torch.random.fork_rng(devices=[]):
        before = torch.random.get_rng_state()
        got = as_function(f)(counted, c.schedule, *given, c.t, c.s, c.repeats,
                             fresh_noise(c.noises, calls))
        own_draws = not torch.equal(before, torch.random.get_rng_state())
    changed = differ(given, (c.x, c.known, c.mask))
    reject_if((own_draws, "you draw noise of your own; take it from noise()"),
              (changed, "your function changes the tensors it was given: compute new ones"))
    return got, len(calls)


def counting(D: Callable) -> tuple[Callable, list]:
    """D, and the list of times at which it is evaluated."""
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return D(x, t)

    return counted, calls


def fresh_noise(noises: list[Tensor], calls: list) -> Callable:
    """noise(), which returns one of the noises at each call."""
    z = iter(noises)

    def fresh() -> Tensor:
        reject_if((len(calls) > 30, "your loop does not end"))
        try:
            return next(z).clone()
        except StopIteration:
            raise Wrong("noise() is called too often: once for each paste, and once for each "
                        "renoising back up to t") from None

    return fresh


# ---- 5.6: an edit

def mixture_of(parts: list[GaussianMixture]) -> GaussianMixture:
    means, stds, weights = zip(*((part.means, part.stds, part.weights) for part in parts))
    return GaussianMixture(torch.cat(means), torch.cat(stds), torch.cat(weights))


def two_class_denoiser(schedule: Schedule, d: int) -> Callable:
    """An exact denoiser of two classes, y = 0 and 1, and of both together, y = 2.

    A second condition, size (B,), makes its predictions larger.
    """
    classes = [bumps(d), bumps(d)]
    denoisers = [q.denoiser(schedule) for q in (*classes, mixture_of(classes))]

    def D(x: Tensor, t: Tensor, y: Tensor | int, size: float | Tensor = 0.0) -> Tensor:
        each = torch.stack([denoise(x, t) for denoise in denoisers])
        x0_hat = each[torch.as_tensor(y).expand(len(x)), torch.arange(len(x))]
        return (1 + torch.as_tensor(size).expand(len(x))[:, None]) * x0_hat

    return D


def draw_edit(name: str, d: int) -> Case:
    y = random_labels(0, 2, 8)
    c = Case(name=name, schedule=SCHEDULES[name], x=0.8 * noise(8, d),
             before={"y": y, "size": between(-0.2, 0.2, 8)},
             after={"y": 1 - y, "size": between(-0.2, 0.2, 8)}, null={"y": 2},
             n=2 * int(between(2, 3.99)), w=between(1.6, 2.4).item())
    c.y_before = {"y": y}
    c.y_after = {"y": 1 - y}
    c.D = two_class_denoiser(c.schedule, d)
    c.guided = cfg(c.D, c.w, c.null)
    c.ts = timesteps(c.schedule, c.n)
    c.half = timesteps(c.schedule, c.n // 2)
    return c


def invert(c: Case, condition: dict, D: Callable | None = None, ts: Tensor | None = None) -> Tensor:
    """From data up to noise."""
    ts = c.ts if ts is None else ts
    return last(samplers.ddim_invert(D or c.D, c.schedule, c.x, ts.flip(0), **condition))


def sample(c: Case, z: Tensor, condition: dict, D: Callable | None = None,
           ts: Tensor | None = None) -> Tensor:
    """From noise down to data, guided unless another D is given."""
    ts = c.ts if ts is None else ts
    return last(samplers.ddim(D or c.guided, c.schedule, z, ts, **condition))


def edit(c: Case) -> Tensor:
    return sample(c, invert(c, c.before), c.after)


def guided_from_before(c: Case) -> Callable:
    """Guidance with `before` in the place of null."""
    return lambda x, t, **condition: guide(c.D(x, t, **c.before), c.D(x, t, **condition), c.w)


def guided_from_bare_null(c: Case) -> Callable:
    """Guidance whose null evaluation has no other condition."""
    return lambda x, t, **condition: guide(c.D(x, t, **c.null), c.D(x, t, **condition), c.w)


def edit_on(c: Case, ts: Tensor) -> Tensor:
    """The edit on other times."""
    return sample(c, invert(c, c.before, ts=ts), c.after, ts=ts)


def standardised(z: Tensor) -> Tensor:
    return (z - z.mean()) / z.std()


EDIT_MISTAKES = {
    "both ways have the condition y alone; pass on all of them (here size, too), **before and "
    "**after":
        lambda c: sample(c, invert(c, c.y_before), c.y_after),
    "inversion has the condition y alone; pass on all of `before` (here size, too)":
        lambda c: sample(c, invert(c, c.y_before), c.after),
    "sampling has the condition y alone; pass on all of `after` (here size, too)":
        lambda c: sample(c, invert(c, c.before), c.y_after),
    "the null evaluation loses the other conditions (here size): only what null names is replaced":
        lambda c: sample(c, invert(c, c.before), c.after, D=guided_from_bare_null(c)),
    "sampling (the way down) is not guided: w and null are not used":
        lambda c: sample(c, invert(c, c.before), c.after, D=c.D),
    "inversion and sampling are both guided; inversion goes without, since guidance makes it "
    "inexact":
        lambda c: sample(c, invert(c, c.before, D=c.guided), c.after),
    "inversion is guided, and sampling is not; it must be the other way round":
        lambda c: sample(c, invert(c, c.before, D=c.guided), c.after, D=c.D),
    "inversion (the way up) has the condition `after`; the data are described by `before`":
        lambda c: sample(c, invert(c, c.after), c.after),
    "sampling (the way down) has the condition `before`: nothing is edited":
        lambda c: sample(c, invert(c, c.before), c.before),
    "`before` and `after` have changed places":
        lambda c: sample(c, invert(c, c.after), c.before),
    "inversion has the null condition; give it `before`":
        lambda c: sample(c, invert(c, c.null), c.after),
    "w + 1: in the library's cfg w = 1 is no guidance":
        lambda c: sample(c, invert(c, c.before), c.after, D=cfg(c.D, c.w + 1, c.null)),
    "guidance leads away from `before`; it should lead away from null":
        lambda c: sample(c, invert(c, c.before), c.after, D=guided_from_before(c)),
    "inversion has null's value of the condition that null names; give it all of `before`":
        lambda c: sample(c, invert(c, c.before | c.null), c.after),
    "w is not used: you guide by 3":
        lambda c: sample(c, invert(c, c.before), c.after, D=cfg(c.D, 3.0, c.null)),
    "the guided prediction is clipped to [-1, 1]: that is for pictures; these are other data":
        lambda c: sample(c, invert(c, c.before), c.after, D=clip(c.guided)),
    "that is the noise, the end of the inversion; sampling is missing":
        lambda c: invert(c, c.before),
    "there is no inversion: the data themselves are taken for noise":
        lambda c: sample(c, c.x, c.after),
    "x has not changed":
        lambda c: c.x,
    "inversion and sampling have n steps each; yours have n / 2":
        lambda c: sample(c, invert(c, c.before, ts=c.half), c.after, ts=c.half),
    "sampling has no condition but null":
        lambda c: sample(c, invert(c, c.before), c.null, D=c.D),
    "guidance leads away from the y of `before`; it should lead away from null":
        lambda c: sample(c, invert(c, c.before), c.after, D=cfg(c.D, c.w, c.y_before)),
    "sampling leads from null to null: null belongs into one of the two evaluations":
        lambda c: sample(c, invert(c, c.before), c.after | c.null),
    "inversion and sampling have n steps each; yours have n + 1":
        lambda c: edit_on(c, timesteps(c.schedule, c.n + 1)),
    "both ways go between t = 0 and t = 1; yours end at t = 0.98":
        lambda c: edit_on(c, timesteps(c.schedule, c.n, start=0.98)),
    "both ways go over timesteps(schedule, n), even in t; yours are even in log-SNR":
        lambda c: edit_on(c, timesteps(c.schedule, c.n, "log_snr")),
    "sampling goes by DPM-Solver++; inversion is ddim's, and so is the way back":
        lambda c: last(samplers.dpmpp(c.guided, c.schedule, invert(c, c.before), c.ts, **c.after)),
    "the noise is rescaled to mean 0 and standard deviation 1: leave it as the inversion found it":
        lambda c: sample(c, standardised(invert(c, c.before)), c.after),
    "you compute with the cosine schedule; take the one that is given":
        lambda c: None if c.schedule is COSINE else edit(Case(**vars(c) | {"schedule": COSINE})),
}


def judge_edit(f: Callable) -> None:
    """5.6: edit(D, schedule, x0, before, after, n, w, null): inversion, then guided sampling."""
    for name, d in (("cosine", 1), ("flow", 2)):
        c = draw_case(lambda: draw_edit(name, d), edit, EDIT_MISTAKES, rtol=3e-4, atol=3e-4)
        got = call_edit(f, c)
        not_finite(got, f"{name}: nan or inf")
        compare_case(got, c, edit, EDIT_MISTAKES, rtol=1e-3, atol=1e-3, otherwise=(
            f"{name}: neither the edit nor a mistake that is known here: up with "
            "samplers.ddim_invert, plain, under `before`; down with samplers.ddim, guided, under "
            "`after`; n steps on timesteps(schedule, n) each"))


def call_edit(f: Callable, c: Case) -> object:
    try:
        return call_pure(last_state(f), c.D, c.schedule, c.x, c.before, c.after, c.n, c.w, c.null)
    except ValueError as error:
        reject_if(("must be rising" in str(error), "ddim_invert goes from data to noise: its ts "
                   "must rise, ts.flip(0)"),
                  ("strictly falling" in str(error), "ddim goes from noise to data: its ts must "
                   "fall, as timesteps(schedule, n) makes them"))
        raise


def last_state(f: Callable) -> Callable:
    """The reader's function, with a diagnosis where it returns all states of a sampler."""
    def end(D: Callable, schedule: Schedule, x: Tensor, before: dict, after: dict, n: int,
            w: float, null: dict) -> object:
        given = dict(before), dict(after), dict(null)
        got = as_function(f)(D, schedule, x, *given[:2], n, w, given[2])
        reject_if((any(map(changed, given, (before, after, null))),
                   "your function changes a dict that it was given: make a new one, after | null"),
                  (isinstance(got, (Iterator, list)),
                   "you return all states of the sampler; take the end, last(...)"))
        return got

    return end


def changed(given: dict, before: dict) -> bool:
    """Whether a dict has other keys, or other values, than before."""
    return given.keys() != before.keys() or any(given[k] is not before[k] for k in before)


# ---- 5.7: classifier guidance

def draw_steer(name: str, t_per_example: bool, shape: tuple[int, ...]) -> Case:
    """An exact denoiser of three classes, with an exact classifier of noisy data."""
    classes = [bumps(), bumps(), bumps()]
    c = Case(name=name, schedule=SCHEDULES[name], t_per_example=t_per_example, x=noise(*shape),
             y=random_labels(0, 3, 6), w=between(1.5, 3).item(),
             t=between(0.35, 0.65, 6) if t_per_example else between(0.35, 0.65))
    of_points = mixture_of(classes).denoiser(c.schedule)
    classify = noisy_classifier(classes, c.schedule)
    c.D = lambda x, t: of_points(x.flatten(1), t).view(x.shape)
    c.classify = lambda x, t: classify(x.flatten(1), t)
    c.alpha = append_dims(c.schedule.alpha(c.t), c.x)
    c.sigma = append_dims(c.schedule.sigma(c.t), c.x)
    c.x0_hat = c.D(c.x, c.t)
    c.grad = gradient(c, lambda x: of_class(c, c.classify(x, c.t).log_softmax(1)))
    return c


def noisy_classifier(classes: list[GaussianMixture], schedule: Schedule) -> Callable:
    """(x, t) -> logits (B, K), which are log densities and a term that softmax removes."""
    def classify(x: Tensor, t: Tensor) -> Tensor:
        alpha = schedule.alpha(t)
        sigma = schedule.sigma(t)
        log_densities = torch.stack([q.log_prob(x, alpha, sigma) for q in classes], 1)
        return log_densities + (2 * x.sum(1, keepdim=True)).sin()

    return classify


def gradient(c: Case, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of a number with respect to x."""
    with torch.enable_grad():
        x = c.x.clone().requires_grad_()
        return torch.autograd.grad(value(x), x)[0]


def of_class(c: Case, table: Tensor) -> Tensor:
    """The entry of class y in each row of a table (B, K), summed over the batch."""
    return table.gather(1, c.y[:, None]).sum()


def steer(c: Case, value: Callable[[Tensor], Tensor]) -> Tensor:
    """(5.6) with the gradient of another value of x."""
    return steer_by(c, gradient(c, value))


def steer_by(c: Case, grad: Tensor, *, factor: float | Tensor | None = None,
             w: float | None = None) -> Tensor:
    """(5.6) with another gradient, factor or w."""
    factor = c.sigma**2 / c.alpha if factor is None else factor
    return c.x0_hat + (c.w if w is None else w) * factor * grad


def right_steer(c: Case) -> Tensor:
    return steer_by(c, c.grad)


STEER_MISTAKES = {
    "the sign: the gradient of log p is added; yours leads away from y":
        lambda c: steer_by(c, -c.grad),
    "sigma^2 / alpha is missing in front of the gradient":
        lambda c: steer_by(c, c.grad, factor=1.0),
    "sigma stands where sigma^2 belongs":
        lambda c: steer_by(c, c.grad, factor=c.sigma / c.alpha),
    "sigma^2 is there, but the division by alpha is missing":
        lambda c: steer_by(c, c.grad, factor=c.sigma**2),
    "sigma^2 / alpha^2: one alpha too many":
        lambda c: steer_by(c, c.grad, factor=(c.sigma / c.alpha) ** 2),
    "the factor is upside down":
        lambda c: steer_by(c, c.grad, factor=c.alpha / c.sigma**2),
    "that is the gradient of a raw logit; log p needs log_softmax, which takes away the other "
    "classes":
        lambda c: steer(c, lambda x: of_class(c, c.classify(x, c.t))),
    "that is the gradient of p; Bayes' rule has the gradient of log p":
        lambda c: steer(c, lambda x: of_class(c, c.classify(x, c.t).softmax(1))),
    "you take the mean over the batch before the gradient, so each example gets only 1/B of its "
    "gradient: take the sum":
        lambda c: steer_by(c, c.grad / len(c.x)),
    "log_softmax runs over the examples (dim=0); it belongs to the classes, dim=1":
        lambda c: steer(c, lambda x: of_class(c, c.classify(x, c.t).log_softmax(0))),
    "the log-probabilities of all classes are added up; take that of y alone":
        lambda c: steer(c, lambda x: c.classify(x, c.t).log_softmax(1).sum()),
    "every example is led to the class of the first one, y[0]":
        lambda c: steer(c, lambda x: c.classify(x, c.t).log_softmax(1)[:, c.y[0]].sum()),
    "log_p[:, y] is (B, B), so that each example is led to the classes of all examples: "
    "gather(1, y[:, None])":
        lambda c: steer(c, lambda x: c.classify(x, c.t).log_softmax(1)[:, c.y].sum()),
    "that is the rule for predictions of the noise, - sigma times the gradient; the data's "
    "prediction moves by sigma^2 / alpha":
        lambda c: steer_by(c, c.grad, factor=-c.sigma),
    "that is the most probable class, not the y that was asked for":
        lambda c: steer(c, lambda x: c.classify(x, c.t).log_softmax(1).amax(1).sum()),
    "the classifier is evaluated at x / alpha; one that was trained on noisy pictures takes x "
    "itself":
        lambda c: steer(c, lambda x: of_class(c, c.classify(x / c.alpha, c.t).log_softmax(1))),
    "the classifier is evaluated at x0_hat = D(x, t); one that was trained on noisy pictures takes "
    "x itself":
        lambda c: steer(c, lambda x: of_class(c, c.classify(c.D(x, c.t), c.t).log_softmax(1))),
    "the classifier is evaluated at t = 0, clean: pass it t":
        lambda c: steer(c, lambda x: of_class(c, c.classify(x, 0 * c.t).log_softmax(1))),
    "sigma^2 is multiplied by alpha; divide":
        lambda c: steer_by(c, c.grad, factor=c.sigma**2 * c.alpha),
    "sigma^2 is missing in front of the gradient; 1 / alpha alone is there":
        lambda c: steer_by(c, c.grad, factor=1 / c.alpha),
    "1 / sigma stands where sigma^2 / alpha belongs":
        lambda c: steer_by(c, c.grad, factor=1 / c.sigma),
    "every example gets sigma^2 / alpha of the first one; t may have one entry for each":
        lambda c: steer_by(c, c.grad, factor=(c.sigma**2 / c.alpha).flatten()[0]),
    "w is squared":
        lambda c: steer_by(c, c.grad, w=c.w**2),
    "you divide by w":
        lambda c: steer_by(c, c.grad, w=1 / c.w),
    "the gradient of each example is divided by its length; its length counts":
        lambda c: steer_by(c, F.normalize(c.grad.flatten(1)).view(c.grad.shape)),
    "w is not used":
        lambda c: steer_by(c, c.grad, w=1.0),
    "you guide by w + 1; at w = 0 there must be no guidance":
        lambda c: steer_by(c, c.grad, w=c.w + 1),
    "that is the unguided prediction, D(x, t)":
        lambda c: c.x0_hat,
    "that is the guidance term alone; it is added to the prediction":
        lambda c: right_steer(c) - c.x0_hat,
    "1 - alpha^2 stands for sigma^2: that is right only where alpha^2 + sigma^2 = 1":
        lambda c: steer_by(c, c.grad, factor=(1 - c.alpha**2) / c.alpha),
    "softmax is taken twice: classify returns logits, and cross_entropy and log_softmax want them":
        lambda c: steer(c, lambda x: of_class(
            c, c.classify(x, c.t).softmax(1).log_softmax(1))),
    "the guidance term is added to x; it belongs to the prediction":
        lambda c: c.x + right_steer(c) - c.x0_hat,
}


def judge_steer(f: Callable) -> None:
    """5.7: steer(D, schedule, classify, y, w) -> guided(x, t).

    It returns D + w sigma^2 / alpha times the gradient of log p(y | x_t).
    """
    for name, t_per_example, shape in (("cosine", False, (6, 2)), ("flow", True, (6, 2)),
                                       ("flow", True, (6, 1, 1, 2))):
        draw = partial(draw_steer, name, t_per_example, shape)
        c = draw_case(draw, right_steer, STEER_MISTAKES, rtol=1e-4, atol=1e-4)
        got = call_steer(f, c)
        reject_if((isinstance(got, Tensor) and got.requires_grad,
                   "right or not, a graph hangs on it: a sampler would keep every step in memory. "
                   "Use torch.autograd.grad, and detach"))
        not_finite(got, f"{name}: nan or inf")
        if torch.is_tensor(got) and t_per_example and got.shape != c.x.shape:
            raise Wrong("right for one t, but with t of shape (B,) the prediction became "
                        f"{tuple(got.shape)}: give sigma^2 / alpha the dimensions of x, "
                        "append_dims(..., x)")
        compare_case(got, c, right_steer, STEER_MISTAKES, rtol=1e-4, atol=1e-4, otherwise=(
            f"{name}: neither (5.6) nor a mistake that is known here: compute log_softmax, "
            "gather, sum, gradient and factor one by one"))


@torch.no_grad()
def call_steer(f: Callable, c: Case) -> object:
    """What the reader's denoiser computes, called as a sampler calls it: without gradients."""
    given = c.x.clone()
    try:
        guided = as_function(f)(c.D, c.schedule, c.classify, c.y.clone(), c.w)
        reject_no_denoiser(guided, "steer returns a denoiser, a function of (x, t)")
        got = guided(given, c.t)
    except (RuntimeError, ValueError) as error:
        reject_gradient_error(error)
        raise
    reject_if((given.requires_grad, "x.requires_grad_() has changed the caller's x: detach it "
               "first, x.detach().requires_grad_()"),
              (not torch.equal(given, c.x), "your function changes x: compute new tensors"))
    return got


def reject_gradient_error(error: RuntimeError | ValueError) -> None:
    """Raise Wrong where torch's message tells the mistake."""
    words = str(error)
    reject_if(("converted to" in words,
               "t may be of shape (B,), so alpha and sigma are no single numbers: no float() and "
               f"no .item() there, but append_dims(..., x) ({error})"),
              ("does not require grad" in words,
               "samplers run under no_grad, so there is nothing to differentiate: compute the "
               "gradient under torch.enable_grad()"),
              ("scalar outputs" in words,
               "a gradient is taken of one number: sum over the batch first"),
              ("must match the size" in words,
               "t may be of shape (B,): give sigma^2 / alpha the dimensions of x, "
               f"append_dims(..., x) ({error})"))


# ---- 5.8: captions that the model cannot follow

REASONS = {
    "unknown words": "the caption has words that are not in the tokenizer's vocabulary",
    "two at once": "the caption asks for two different ones of the same part",
    "too long": "the caption has more words than the network takes",
    "known words": "every word is known, and the part is asked for once; yet it is not drawn",
}


@lru_cache
def nouns_model() -> nn.Module:
    return train.load("nouns", device="cpu")


@lru_cache
def sample_caption(caption: str) -> Tensor:
    """Eight pictures of one caption."""
    with warnings.catch_warnings(action="ignore"):
        return sampling.text_to_image(nouns_model(), [caption] * 8, steps=8)


# what stands behind the name of a part, or before it
BEHIND = {
    "head": r" head(ed)?\b",
    "glasses": r"( square)? (glasses|spectacles|specs)\b",
    "body": r" (body|torso)\b",
    "accessory": r" on (its shirt|the chest)\b",
}
BEFORE = {
    "head": r"\bhead (is|of)( an?)? $",
    "accessory": r"\b(wearing|showing|with)( an?)? $",
}
# the words for a part
PART_WORDS = {
    "background": {"background", "backdrop"},
    "body": {"body", "torso"},
    "accessory": {"wearing", "showing", "shirt", "chest"},
    "head": {"head", "headed"},
    "glasses": {"glasses", "spectacles", "specs"},
}


def spell(name: str) -> str:
    """A name in the tokenizer's spelling."""
    return " ".join(re.findall("[a-z]+", name.lower()))


@lru_cache
def parts_of_name() -> dict[str, list[str]]:
    """Each name, the longest first -> the parts that have one of this name."""
    parts = {}
    for part, names in noun_parts.load_art().names.items():
        for name in names:
            parts.setdefault(spell(name), []).append(part)
    return dict(sorted(parts.items(), key=lambda item: -len(item[0])))


def names_in(words: list[str], part: str) -> set[str]:
    """The names of this part that a caption has.

    A name that several parts share, and any colour, counts where the words beside it show which
    part is meant.
    """
    text = " ".join(words)
    found = set()
    for name, parts in parts_of_name().items():
        for match in list(re.finditer(rf"\b{name}\b", text)):
            before = text[:match.start()]
            behind = text[match.end():]
            if part in meant_parts(parts, before, behind):
                found.add(name)
            text = before + "." * len(name) + behind
    return found


def meant_parts(parts: list[str], before: str, behind: str) -> list[str]:
    """Of the parts that share a name, those that the text around it means."""
    named = [part for part in parts if re.match(BEHIND.get(part, "$^"), behind)
             or re.search(BEFORE.get(part, "$^"), before)]
    # "with a heart head" is no accessory
    named = [part for part in named if part != "accessory" or len(named) == 1]
    clear = len(parts) == 1 and parts[0] not in ("body", "glasses")
    return named or (parts if clear else [])


# words outside the vocabulary that describe no part
FILLERS = set("""
    could create draw drawing figure figures give good great i image images it make me my nice
    paint person picture pictures please portrait pretty really show some something there thing us
    very want would you beautiful
""".split())
# the cosine from which on a word means a name: "kitten" and "cat" 0.84, "thing" and "shark" 0.43
NEAR = 0.45


def mentions(c: Case) -> bool:
    """Whether a person can tell what the caption asks for.

    It has the part's name, or describes it in other words: beside a word for the part, or by a word
    that means nearly the same.
    """
    others = [word for word in c.unknown if word not in FILLERS]
    part_word = not PART_WORDS[c.part].isdisjoint(c.words)
    return bool(c.found or others and part_word) or any(means(word, c) for word in others)


def means(word: str, c: Case) -> bool:
    """Whether a word means nearly what the part that is expected is called."""
    if not word_vectors.has_vector(word):
        return False
    names = word_vectors.load_vectors().names[c.part]
    index = noun_parts.index_of(c.part, c.parts[c.part])
    return (names[index] @ word_vectors.vector(word)).item() > NEAR


PART_LIST = ", ".join(noun_parts.PARTS)
ANSWER_SUSPECTS = {
    "the caption must be a sentence; yours asks for nothing":
        lambda c: not isinstance(c.caption, str) or not re.search("[a-zA-Z]", c.caption),
    f"parts is a dict with a name for each of {PART_LIST}":
        lambda c: not isinstance(c.parts, dict) or set(c.parts) != set(noun_parts.PARTS),
    f"part must be one of {PART_LIST}; got {{c.part!r}}":
        lambda c: c.part not in noun_parts.PARTS,
    f"the reason must be one of: {'; '.join(f'{key!r} ({w})' for key, w in REASONS.items())}":
        lambda c: c.reason not in REASONS,
}

TOO_LONG_SUSPECTS = {
    "your caption has {c.length} words, and the network takes up to {c.limit}: that is not why":
        lambda c: c.length <= c.limit,
    "your caption is too long, but a person could not draw it either: it does not name the "
    "{c.missing} that you expect, and no other":
        lambda c: c.missing,
}

REASON_SUSPECTS = {
    "your caption has {c.length} words, and the network takes {c.limit}: it is refused before "
    "anything is drawn, so the reason is another one":
        lambda c: c.length > c.limit,
    "the tokenizer's vocabulary has every word of your caption: the reason is another one":
        lambda c: c.reason == "unknown words" and not c.unknown,
    "the tokenizer's vocabulary lacks {c.unknown_words}: the reason is simpler than you say":
        lambda c: c.reason == "known words" and c.unknown,
    "your caption names {c.counted}; two different ones are needed for this reason":
        lambda c: c.reason == "two at once" and len(c.found) < 2,
    "of the two that the caption names, {c.wanted!r} is none: parts[{c.part!r}] must be one of "
    "{c.found_names}":
        lambda c: c.reason == "two at once" and c.wanted not in c.found,
    "your caption names {c.found_both}, more than one {c.part}: the reason is 'two at once'":
        lambda c: c.reason != "two at once" and len(c.found) > 1,
    "the caption asks for {c.part} {c.found_names}, and you expect {c.wanted!r}: a person would "
    "not draw that":
        lambda c: c.reason != "two at once" and c.found and c.wanted not in c.found,
    "a person would not know what to draw: nothing in your caption speaks of the {c.part}. "
    "Describe the {c.wanted!r} that you expect in other words":
        lambda c: c.reason == "unknown words" and not mentions(c),
    "the caption does not name the {c.part}, so the model makes one up; that is no failure":
        lambda c: c.reason == "known words" and not c.found,
}


def judge_impossible(answer: object) -> None:
    """5.8: impossible() -> (caption, parts, part, reason).

    A person could draw the caption, and the model cannot.
    """
    c = parse_impossible(answer() if callable(answer) else answer)
    if c.reason == "too long":
        reject_first(TOO_LONG_SUSPECTS, c)
        return
    reject_first(REASON_SUSPECTS, c)
    judge_pictures(c)


def parse_impossible(answer: object) -> Case:
    """The answer, and what the tokenizer makes of its caption."""
    reject_none(answer)
    reject_if((not isinstance(answer, (tuple, list)) or len(answer) != 4,
               "four things are wanted: the caption, the five parts that a person would draw, "
               "which part fails, and the reason"))
    c = Case(**dict(zip(("caption", "parts", "part", "reason"), answer)))
    reject_first(ANSWER_SUSPECTS, c)
    c.row = part_indices(c.parts)
    c.wanted = spell(c.parts[c.part])
    tokenizer = nouns_model().net.tokenizer
    c.limit = tokenizer.length
    c.words = tokenizer.split(c.caption)
    c.length = len(c.words)
    c.unknown = tokenizer.unknown(c.caption)
    c.unknown_words = ", ".join(c.unknown)
    c.found = names_in(c.words, c.part)
    c.found_names = ", ".join(sorted(c.found))
    c.found_both = " and ".join(sorted(c.found))
    c.counted = count_of(c.part, len(c.found))
    c.missing = ", ".join(part for part in noun_parts.PARTS
                          if names_in(c.words, part) != {spell(c.parts[part])})
    return c


def part_indices(parts: dict[str, str]) -> Tensor:
    """(1, 5)"""
    try:
        indices = [noun_parts.index_of(part, parts[part]) for part in noun_parts.PARTS]
    except (ValueError, TypeError) as error:
        raise Wrong(f"a person could not draw that from the five parts: {error}") from None
    return torch.tensor([indices])


def count_of(part: str, n: int) -> str:
    """1 head, 2 heads."""
    plurals = {"glasses": "glasses", "body": "bodies", "accessory": "accessories"}
    return f"{n} {part if n == 1 else plurals.get(part, part + 's')}"


def judge_pictures(c: Case) -> None:
    with one_thread():
        matches = attributes.attributes_correct(sample_caption(c.caption), c.row.expand(8, -1))
    right = matches[:, noun_parts.PARTS.index(c.part)].sum().item()
    drawn = f"the model draws the {c.part} {c.wanted!r} in {right} of 8 pictures: "
    reject_if((right > 4 and c.reason == "two at once", drawn + "of the two, another one fails"),
              (right > 4, drawn + "it can do this"))


# ---- 5.9: generalisation to new combinations and new pairs

PLAIN = re.compile(r"(?:an? )?(.+)-headed noun with (.+) glasses, wearing (.+), (.+) body, "
                   r"(.+) background")


def parse_plain_caption(caption: str) -> list[int] | None:
    """The parts of a plain caption, or None for any other."""
    match = PLAIN.fullmatch(caption) if isinstance(caption, str) else None
    if not match:
        return None
    head, glasses, accessory, body, background = match.groups()
    names = noun_parts.load_art().names
    if accessory not in names["accessory"]:
        accessory = re.sub("^an? ", "", accessory)
    row = (background, body, accessory, head, glasses)
    try:
        return [names[part].index(name) for part, name in zip(noun_parts.PARTS, row)]
    except ValueError:
        return None


class CaptionRenderer:
    """A stand-in for a model: renders plain captions, with some parts of some pictures wrong.

    wrong: split -> part -> the places, among the pictures of this split, where the part is wrong.
    requested, drawn: the parts (N, 5) of the captions, and of the pictures.
    """

    def __init__(self, wrong: dict[str, dict[str, list[int]]]):
        self.wrong = wrong
        self.requested = []
        self.drawn = []
        self.counts = dict.fromkeys((*noun_parts.SPLITS, "none"), 0)

    def __call__(self, captions: list[str]) -> Tensor:
        reject_if((isinstance(captions, str), "draw takes a list of captions; you pass one"),
                  (not isinstance(captions, (list, tuple)),
                   f"draw takes a list of captions; got {type(captions).__name__}"))
        rows = torch.tensor([self._parse(caption) for caption in captions])
        drawn = rows.clone()
        for row, split in zip(drawn, noun_parts._split_of(rows).tolist()):
            self._spoil(row, [*noun_parts.SPLITS, "none"][split])
        self.requested.append(rows)
        self.drawn.append(drawn)
        return noun_parts.render(drawn)

    def _parse(self, caption: str) -> list[int]:
        row = parse_plain_caption(caption)
        reject_if((row is None, f"draw gets the caption {caption!r}: take the plain wording, "
                   "noun_parts.plain_captions(parts), so that only the parts are new"))
        return row

    def _spoil(self, row: Tensor, split: str) -> None:
        """Replace some parts of a picture by the next one of their kind."""
        for part, places in self.wrong.get(split, {}).items():
            if self.counts[split] in places:
                column = noun_parts.PARTS.index(part)
                row[column] = (row[column] + 1) % len(noun_parts.load_art().names[part])
        self.counts[split] += 1


@lru_cache(maxsize=4096)
def matches_of(requested: tuple[int, ...], drawn: tuple[int, ...]) -> Tensor:
    """Which of the five parts count as right: (5,) bool."""
    picture = noun_parts.render(torch.tensor([drawn]))
    return attributes.attributes_correct(picture, torch.tensor([requested]))[0]


SPLIT_SUSPECTS = {
    "nothing was drawn":
        lambda c: not c.draw.requested,
    "{c.train} of your pictures are of the training's combinations: a model that has memorised "
    "them would score well. Take the splits test and pairs":
        lambda c: c.train and not c.test,
    "{c.train} of your pictures are of the training's combinations, beside the right ones":
        lambda c: c.train,
    "no picture has a pair that was never met: take the split pairs, too":
        lambda c: not c.pairs,
    "no picture is of the split test":
        lambda c: not c.test,
    "your {c.n} nouns of the split {c.repeated} are one and the same; n different ones are wanted":
        lambda c: c.repeated,
    "{c.n} different nouns are wanted of each split; of yours of the split {c.doubled} some are "
    "the same":
        lambda c: c.doubled,
    "n = {c.n} pictures in all; n are wanted of each split":
        lambda c: c.test + c.pairs == c.n,
    "n = {c.n} pictures of each split are wanted; yours has {c.test} of test and {c.pairs} of "
    "pairs":
        lambda c: c.test != c.n or c.pairs != c.n,
    'a dict with "test" and "pairs" is wanted; got {c.came}':
        lambda c: not isinstance(c.got, dict) or set(c.got) != {"test", "pairs"},
}

SHAPE_SUSPECTS = {
    "that is the fraction of pictures in which all five parts are right; it does not tell which "
    "part fails":
        lambda c: c.value.numel() == 1 and (c.value - c.all_right).abs().max() < 1e-6,
    "one number for all parts together; a fraction for each part is wanted: .mean(0)":
        lambda c: c.value.numel() == 1,
    "those are the matches of each picture: take their mean over pictures, .float().mean(0)":
        lambda c: c.value.shape == (c.n, 5),
    "the mean is taken over the parts of each picture, .mean(1); over pictures, .mean(0), is "
    "wanted":
        lambda c: c.value.shape == (c.n,),
}

ALPHABETICAL = sorted(range(5), key=lambda k: noun_parts.PARTS[k])
GENERALISATION_MISTAKES = {
    "the two splits have changed places":
        lambda c: c.other.mean(0),
    "those are fractions of *wrong* parts":
        lambda c: 1 - c.matches.mean(0),
    "those are counts: divide by n":
        lambda c: c.matches.sum(0),
    "those are percent; fractions between 0 and 1 are wanted":
        lambda c: 100 * c.matches.mean(0),
    "that is the mean of both splits together; keep them apart":
        lambda c: torch.cat([c.matches, c.other]).mean(0),
    "the parts come in another order than noun_parts.PARTS: yours are reversed":
        lambda c: c.matches.mean(0).flip(0),
    "the parts come in alphabetical order; noun_parts.PARTS has another":
        lambda c: c.matches.mean(0)[ALPHABETICAL],
    "that is the fraction of pictures in which all five parts are right, five times; each part "
    "has a fraction of its own":
        lambda c: c.all_right.expand(5),
    "everything is right, you say: do you compare the model's pictures, or the real ones?":
        lambda c: torch.ones(5, dtype=F64),
}

# which parts the stand-in draws wrong
WRONG_PARTS = {
    "test": {"glasses": [0], "head": [1, 3]},
    "pairs": {"head": [0, 2, 4], "background": [0, 1, 2, 3], "glasses": [4, 1]},
    "train": {"head": [0, 1, 2, 3, 4, 5]},
}


def judge_generalisation(f: Callable) -> None:
    """5.9: generalisation(draw, n) -> {"test": (5,), "pairs": (5,)}, the accuracy of each part.

    n is not the number of parts, so that a mean over the wrong axis shows in its shape.
    """
    n = 6
    draw = CaptionRenderer(WRONG_PARTS)
    with one_thread(), torch.random.fork_rng(devices=[]):
        got = as_function(f)(draw, n)
    reject_none(got)
    came = sorted(map(str, got)) if isinstance(got, dict) else type(got).__name__
    reject_first(SPLIT_SUSPECTS, Case(draw=draw, got=got, came=came, n=n, repeated=repeated(draw),
                                      doubled=doubled(draw), **draw.counts))
    matches = matches_by_split(draw)
    for name, other in (("test", "pairs"), ("pairs", "test")):
        c = Case(n=n, value=as_values(got[name]), matches=matches[name], other=matches[other])
        c.all_right = c.matches.all(1).double().mean()
        reject_first(SHAPE_SUSPECTS, c)
        compare_case(c.value, c, right_accuracy, GENERALISATION_MISTAKES, rtol=1e-3, atol=1e-3,
                     otherwise=f"{name}: not the means of attributes.attributes_correct(pictures, "
                     "parts): are parts the very ones whose captions were drawn, in the same "
                     "order?")


def repeated(draw: CaptionRenderer) -> str:
    """A split of which the same noun was drawn again and again, or an empty string."""
    return split_where(draw, lambda rows: len(rows) > 1 and len(rows.unique(dim=0)) == 1)


def doubled(draw: CaptionRenderer) -> str:
    """A split of which a noun was drawn more than once, or an empty string."""
    return split_where(draw, lambda rows: len(rows.unique(dim=0)) < len(rows))


def split_where(draw: CaptionRenderer, guilty: Callable[[Tensor], bool]) -> str:
    """The first split for whose nouns (n, 5) this holds, or an empty string."""
    requested = torch.cat([torch.zeros(0, 5).long(), *draw.requested])
    split = noun_parts._split_of(requested)
    for name in ("test", "pairs"):
        if guilty(requested[split == noun_parts.SPLITS.index(name)]):
            return name
    return ""


def right_accuracy(c: Case) -> Tensor:
    return c.matches.mean(0)


def matches_by_split(draw: CaptionRenderer) -> dict[str, Tensor]:
    """Split -> whether each part of each picture is right, (n, 5) float64."""
    requested = torch.cat(draw.requested)
    pairs = zip(requested.tolist(), torch.cat(draw.drawn).tolist())
    matches = torch.stack([matches_of(tuple(a), tuple(b)) for a, b in pairs]).double()
    split = noun_parts._split_of(requested)
    return {name: matches[split == noun_parts.SPLITS.index(name)] for name in ("test", "pairs")}


def as_values(value: object) -> Tensor:
    """The reader's numbers for one split, as a float64 tensor."""
    try:
        return torch.as_tensor(value, dtype=F64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("for each split the accuracies of the five parts are wanted, (5,); "
                    f"got {type(value).__name__}") from None


QUESTIONS = [
    Question(
        "5.1", 2, judge_drop,
        "an independent draw for each example, and captions are dropped as a whole",
        ("torch.rand(len(y), generator=generator) makes a number for each example. "
         "Compare with p.",
         "For captions the mask of dropped examples needs as many dimensions as y: "
         "dropped.view(-1, *[1] * (y.ndim - 1)).",
         "dropped = torch.rand(len(y), generator=generator) < p; "
         "return torch.where(dropped.view(-1, *[1] * (y.ndim - 1)), null, y)")),
    Question(
        "5.2", 3, judge_cfg,
        "w = 1 is no guidance and costs one evaluation; other conditions reach both evaluations",
        ("cfg returns a function. Which of w, D and null can that function use? All of them: "
         "define it inside cfg.",
         "condition | null keeps what null does not name. The unconditional prediction is u; "
         "then u + w (c - u).",
         "weight = w(t) if callable(w) else w; if weight == 1: return D(x, t, **condition); "
         "u, c = D(x, t, **condition | null), D(x, t, **condition); "
         "return u + weight * (c - u)")),
    Question(
        "5.3", 3, judge_wrapper,
        "a module of its own, an independent draw for each example, a null label that is learnt, "
        "and a sampler that passes y",
        ("What does nn.Module give to a class that inherits from it? Which label does the "
         'embedding learn for "none"?',
         "In training: one evaluation, torch.where(torch.rand(len(y)) < p, null, y). "
         "In evaluation: two, and (5.9).",
         "class Guided(nn.Module): __init__ begins with super().__init__() and keeps "
         "self.net = net; forward(self, x, t, y=None) tests self.training. "
         "Without y: torch.full((len(x),), self.null)")),
    Question(
        "5.4", 4, judge_bells,
        "guidance moves the mean further than tempering does, and makes the std smaller",
        ("Tempered: the exponents of (5.12) add up. What is the coefficient of x^2, what that "
         "of x?",
         "Guided: in (5.14) the second Gaussian has r^2 + S^2 below the line. Find h again, its "
         "value at 0, and what h / r tends to for large r.",
         "h(r) = (s^2 + r^2)^(w/2) (S^2 + r^2)^((1-w)/2); std = h(0); mean = m h(0) times the "
         "integral of w r / ((s^2 + r^2) h(r)) from 0 to infinity. Or run ddim from x = 0 and "
         "x = 1, the mean and mean + std")),
    Question(
        "5.5", 3, judge_repaint,
        "the noise level after the step, fresh noise, and renoising only before another repeat",
        ("Where is x after the step? At which level must the known part be pasted?",
         "Renoising (back up to t) is section 5.15's, with the noise of what is between the two "
         "levels: sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 is a variance.",
         "for k in range(repeats if s > 0 else 1): step; "
         "x = mask * x + (1 - mask) * schedule.perturb(known, s, noise()); and, if k is not the "
         "last, x = alpha_t / alpha_s * x + (...).sqrt() * noise()")),
    Question(
        "5.6", 2, judge_edit,
        "the picture's own noise, a new condition, and guidance in sampling only",
        ("Inversion and sampling on the same ts, flipped for one of them. Which condition is true "
         "of the picture during inversion?",
         "z = last(samplers.ddim_invert(D, schedule, x0, ts.flip(0), **before)), without "
         "guidance. Then sampling.",
         "return last(samplers.ddim(cfg(D, w, null), schedule, z, ts, **after))")),
    Question(
        "5.7", 3, judge_steer,
        "with an exact classifier and w = 1 that is the conditional denoiser",
        ("From logits to log p(y | x): which function, over which dimension, and then which "
         "entry?",
         "Everything that is to be differentiated runs under torch.enable_grad(), on "
         "x.detach().requires_grad_().",
         "log_p = classify(x, t).log_softmax(1).gather(1, y[:, None]).sum(); "
         "grad, = torch.autograd.grad(log_p, x); "
         "D(x.detach(), t) + append_dims(w * sigma**2 / alpha, x) * grad")),
    Question(
        "5.8", 3, judge_impossible,
        "now you know a caption that the model cannot follow, and why",
        ("What does the tokenizer do with a word that is not in its vocabulary? How many heads "
         "has a noun, how many words a caption?",
         "Describe a head without the word that the grammar has for it. "
         "T.net.tokenizer.unknown(caption) lists the words outside the vocabulary.",
         '"a noun with the head of a sea predator with a fin" asks for a shark, with several '
         "words outside the tokenizer's vocabulary")),
    Question(
        "5.9", 3, judge_generalisation,
        "the same wording and the same model for both splits; only what is new differs",
        ("noun_parts.draw_parts(n, split=...) makes parts, noun_parts.plain_captions(parts) the "
         "captions, attributes.attributes_correct says which parts are right.",
         "attributes_correct is (n, 5), true and false. Over which dimension is the mean?",
         "for each split: parts = noun_parts.draw_parts(n, split=split); "
         "attributes.attributes_correct(draw(noun_parts.plain_captions(parts)), "
         "parts).float().mean(0)")),
]
