"""Questions 7.8 to 7.10: a model before people. Fewer evaluations, a watermark, a bias.

7.11 and 7.12 are in lesson07_service.py.
"""
import math
import secrets
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from scipy import stats
from torch import Tensor

from ..guidance import cfg, clip
from ..lab import train
from ..lab.data import noun_parts
from ..lab.evaluation.attributes import attributes_correct
from ..lab.evaluation.features import predict_digits
from ..samplers import ddim_invert, dpmpp, last, timesteps
from ..watermark import detect, marked_noise
from .common import (
    F64,
    Case,
    Question,
    Wrong,
    as_function,
    as_scalar,
    between,
    call_pure,
    compare,
    compare_case,
    distinguishable_case,
    fresh_generator,
    noise,
    one_thread,
    reject_first,
    reject_if,
    reject_none,
    wrong_answers,
)

# ---- 7.8: half of the evaluations

PICTURES = 32                                               # captions that are judged
MOST = 5                                                    # evaluations for each picture
POINTS = 2.0                                                # that may be lost


@lru_cache(maxsize=1)
def latency_case() -> Case:
    """Mini-SD, its decoder, captions of figures that it has not seen, and noise."""
    D, vae = train.load("mini_sd", "cpu"), train.load("nouns_vae", "cpu")
    parts = noun_parts.draw_parts(PICTURES, seed=41, split="test")
    tokens = D.net.tokenizer(noun_parts.plain_captions(parts))
    g = torch.Generator().manual_seed(41)
    x = D.schedule.sample_prior((PICTURES, *D.data_shape), generator=g)
    return Case(D=D, vae=vae, parts=parts, tokens=tokens, noise=x)


def default_draw(D, noise: Tensor, tokens: Tensor) -> Tensor:
    """Mini-SD as it is drawn from today: 5 steps, w = 2, 10 evaluations of each picture."""
    B = len(noise)
    guided = cfg(D, 2.0, D.net.encode(D.net.null["tokens"], B))
    ts = timesteps(D.schedule, 5)
    return last(dpmpp(guided, D.schedule, noise, ts, **D.net.encode(tokens, B)))


@lru_cache(maxsize=1)
def right_parts() -> Tensor:
    """Which parts the default draws right: (PICTURES, 5)"""
    c = latency_case()
    return parts_of(c, default_draw(c.D, c.noise, c.tokens))


def parts_of(c: Case, latents: Tensor) -> Tensor:
    return attributes_correct(c.vae.to_images(latents).clamp(-1, 1), c.parts)


def counted(f: Callable, c: Case, rows: Tensor, tokens: Tensor | None = None) -> tuple:
    """The reader's latents for some rows, and the evaluations of the U-Net for each of them.

    An evaluation is counted where it begins, at the U-Net's first layer, row by row.
    """
    seen = []
    stem = c.D.net.unet.stem
    hook = stem.register_forward_pre_hook(lambda layer, inputs: seen.append(len(inputs[0])))
    tokens = c.tokens[rows] if tokens is None else tokens
    try:
        got = as_function(f)(c.D, c.noise[rows].clone(), tokens.clone())
    finally:
        hook.remove()
    return got, sum(seen) / len(rows)


def describe_latents(c: Case, f: Callable) -> None:
    """Four calls of two or three pictures: the same, other noise, other captions, a neighbour."""
    rows = torch.arange(3)
    got, c.evaluations = counted(f, c, rows)
    reject_none(got)
    c.kind = type(got).__name__
    c.states = hasattr(got, "__next__")
    c.shape = tuple(getattr(got, "shape", ()))
    c.wanted = (3, *c.D.data_shape)
    c.pictures = c.shape == (3, 3, 32, 32)
    c.fits = torch.is_tensor(got) and c.shape == c.wanted
    if not c.fits:
        return
    c.finite = bool(got.isfinite().all())
    call = lambda *arguments: counted(f, c, *arguments)[0]
    far = lambda a, b: (a - b).abs().max().item()
    c.again = far(call(rows), got)
    c.other_noise = far(call(rows + 3, c.tokens[rows]), got)
    c.other_words = far(call(rows, c.tokens[rows + 3]), got)
    c.alone = far(call(rows[:2]), got[:2])


LATENT_SUSPECTS = {
    "you return a generator of states; `last(...)` gives the final one":
        lambda c: c.states,
    "those are pictures; latents are wanted, before the decoder":
        lambda c: c.pictures,
    "latents {c.wanted} are wanted for three captions; got {c.kind} {c.shape}":
        lambda c: not c.fits,
    "there are nan or inf in the latents":
        lambda c: not c.finite,
    "the U-Net of D was not evaluated at all":
        lambda c: c.evaluations == 0,
    "the same noise and captions gave two results: draw no noise of your own":
        lambda c: c.again > 0.01,
    "another noise gives the same result: start from the noise that is passed":
        lambda c: c.other_noise < 0.01,
    "other captions give the same result: pass the captions' context to the sampler":
        lambda c: c.other_words < 0.01,
    "a picture changes with the pictures that are drawn beside it":
        lambda c: c.alone > 0.01,
    "{c.evaluations:.0f} evaluations of each picture, as many as today; at most 5. Guidance "
    "counts twice, in one pass of 2B as well":
        lambda c: c.evaluations == 10,
    "{c.evaluations:.1f} evaluations of each picture, at most 5 are wanted: where guidance is at "
    "work, a step has two":
        lambda c: c.evaluations > MOST,
}


def judge_latency(f: Callable) -> None:
    """7.8: fast_draw(D, noise, tokens) -> latents, within two points of what is drawn today."""
    with torch.no_grad(), one_thread():
        c = Case(**vars(latency_case()))
        describe_latents(c, f)
        reject_first(LATENT_SUSPECTS, c)
        got, evaluations = counted(f, c, torch.arange(PICTURES))
        reject_if((evaluations > MOST, f"{evaluations:.1f} evaluations of each picture for a batch "
                   f"of {PICTURES}, and fewer for three: what does it depend on?"))
        lost = 100 * (right_parts().double() - parts_of(c, got).double())       # (PICTURES, 5)
        points = lost.mean().item()
        error = (lost.mean(1).std() / PICTURES**0.5).item()
        part = noun_parts.PARTS[int(lost.mean(0).argmax())]
        reject_if((points > POINTS, f"{evaluations:.0f} evaluations, but {points:.1f} ± {error:.1f}"
                   f" points are lost on {PICTURES} captions, most of them by the {part}; at most "
                   f"{POINTS:.0f} may be"))


# ---- 7.9: the watermark, tested, broken, mended, forged

LEVEL = 1e-6
MARKED = 24                                                 # all with one nonce
FEW = 18                                                    # of 24
FORGED = 16


def tail(agreeing: int, signs: int, weight: Callable[[int], bool] = lambda k: True) -> float:
    """P(Bin(signs, 1/2) >= agreeing), in whole numbers."""
    return sum(math.comb(signs, k) for k in range(agreeing, signs + 1)) / 2**signs


P_MISTAKES = {
    "that is P(more than k agree); at least k are as good as k, so k belongs to it":
        lambda c: tail(c.k + 1, c.m),
    "that is P(at most k agree), the other tail":
        lambda c: 1 - tail(c.k + 1, c.m),
    "that is P(fewer than k agree), the other side":
        lambda c: 1 - tail(c.k, c.m),
    "that is P(exactly k agree): what is more surprising belongs to it, too":
        lambda c: math.comb(c.m, c.k) / 2**c.m,
    "that is twice the tail: too few agreeing signs are no sign of the mark":
        lambda c: min(1.0, 2 * tail(c.k, c.m)),
    "that is a normal curve, and far out in the tail it is wrong by factors: sum the binomial":
        lambda c: stats.norm.sf((c.k - c.m / 2) / math.sqrt(c.m / 4)),
    "that is a normal curve with its half step, and far out in the tail it is wrong: sum the "
    "binomial":
        lambda c: stats.norm.sf((c.k - 0.5 - c.m / 2) / math.sqrt(c.m / 4)),
    "that is Hoeffding's bound, exp(-2 m (k / m - 1/2)^2); the probability itself is wanted":
        lambda c: math.exp(-2 * c.m * (c.k / c.m - 0.5) ** 2),
    "the sum is not divided by 2^m":
        lambda c: float(sum(math.comb(c.m, k) for k in range(c.k, c.m + 1))),
    "that is its logarithm":
        lambda c: math.log(tail(c.k, c.m)),
}
# m, k; in the first case all mistakes differ
SIGNS = ((12, 7), (96, 66), (88, 81), (50, 25), (12, 0), (30, 30), (256, 167), (3072, 1800))


def judge_p_value(f: Callable) -> None:
    """p_value(agreeing, signs): the exact tail, for small numbers and for large ones."""
    for m, k in SIGNS:
        c = Case(m=m, k=k)
        try:
            got = as_scalar(as_function(f)(k, m)).item()
        except OverflowError:
            raise Wrong(f"{m} signs are too many for floats: sum whole numbers, and divide by 2**m "
                        "at the end, or add logarithms") from None
        right = tail(k, m)
        if math.isclose(got, right, rel_tol=1e-3):
            continue
        where = f"p_value({k}, {m}): "
        if m <= 256:
            for words, wrong in P_MISTAKES.items():
                reject_if((math.isclose(got, wrong(c), rel_tol=1e-3), where + words))
        reject_if((right < 1e-12 and abs(got) < 1e-12, f"{where}{got:.3g} should be {right:.3g}: "
                   "1 minus a number near 1 has no digits left; sum the tail itself"))
        raise Wrong(f"{where}{got:.4g} should be {right:.4g}")


@lru_cache(maxsize=1)
def small_digits():
    return train.load("mnist_small", "cpu")


@torch.no_grad()
def draw_digits(noise: Tensor, y: Tensor) -> Tensor:
    """Digits y (n,) from standard normal noise (n, 1, 28, 28), in 10 steps at w = 2, in bytes."""
    D = small_digits()
    x = D.schedule.sigma(1.0).float() * noise
    guided = clip(cfg(D, 2.0, {"y": D.net.num_classes}))
    x = last(dpmpp(guided, D.schedule, x, timesteps(D.schedule, 10), y=y))
    return (x.clamp(-1, 1) * 127.5).round() / 127.5


@torch.no_grad()
def invert_digits(x: Tensor) -> Tensor:
    """The noise that digits were drawn from, as far as DDIM inversion finds it."""
    D = small_digits()
    start = D.schedule.t_from_log_snr(2 * math.log(2)).item()
    ts = torch.cat([torch.zeros(1), torch.linspace(start, 1, 8)]).double()
    y = torch.full((len(x),), D.net.num_classes)
    return last(ddim_invert(D, D.schedule, x, ts, y=y)) / D.schedule.sigma(1.0).float()


def find_mark(x: Tensor, key: int, nonces: int | Tensor) -> Tensor:
    """The p-value of each digit (n,), by inversion; signs of noise of at least 0.4 are counted."""
    return detect(invert_digits(x), key, nonces, min_abs=0.4).p_value


def marked_digits() -> Case:
    """Digits with a mark, all with one nonce, as a careless service makes them; and the key."""
    c = Case(key=secrets.randbits(64), nonce=secrets.randbits(32), y=torch.arange(MARKED) % 10)
    z = marked_noise((MARKED, 1, 28, 28), c.key, c.nonce, generator=fresh_generator())
    c.x = draw_digits(z, c.y)
    return c


def pictures_of(got: object, name: str, n: int) -> Tensor:
    """What attack or forge returned, as pictures. Raises Wrong for what are none."""
    reject_none(got)
    shape = tuple(getattr(got, "shape", ()))
    reject_if((not torch.is_tensor(got) or shape != (n, 1, 28, 28),
               f"{name}: pictures ({n}, 1, 28, 28) are wanted; got {type(got).__name__} "
               f"{shape}"))
    reject_if((not got.isfinite().all(), f"{name}: nan or inf in the pictures"),
              (got.abs().max() > 1.01, f"{name}: the pictures leave [-1, 1]: is that noise, or do "
               "they need a clamp?"))
    return got.float()


def likeness(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of two pictures, at the best shift of at most two pixels: (n,)"""
    centred = lambda x: torch.nn.functional.normalize(
        x.flatten(1) - x.flatten(1).mean(1, keepdim=True))
    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    found = [(centred(a.roll(shift, (2, 3))) * centred(b)).sum(1) for shift in shifts]
    return torch.stack(found).amax(0)


def judge_attack(f: Callable, c: Case) -> None:
    """attack(x): the same digits, and the mark is not found."""
    got = pictures_of(as_function(f)(c.x.clone()), "attack", MARKED)
    found = int((find_mark(got, c.key, c.nonce) <= LEVEL).sum())
    read = int((predict_digits(got) == c.y).sum())
    reject_if((torch.equal(got, c.x), "attack: the pictures have not changed"),
              (likeness(got, c.x).median() < 0.7, "attack: those are other pictures than the "
               "marked ones: change them, and little"),
              (read < FEW, f"attack: {read} of {MARKED} are still read as the digit they show; at "
               f"least {FEW} should be"),
              (found > MARKED - FEW, f"attack: the mark is found in {found} of {MARKED}, in at "
               f"most {MARKED - FEW} it should be. Inversion expects each pixel in its place"))


def shifted_case() -> Case:
    """Pictures, and a detector that knows three of them at one place; elsewhere its p-values are
    uniform, as those of pictures without a mark. Nine times the least is above 1 for some.
    """
    for _ in range(200):
        c = Case(base=torch.full((6, 1, 28, 28), -1.0), strong=10 ** between(-9, -6, 6))
        c.base[:, :, 6:22, 6:22] = noise(6, 1, 16, 16).float().clamp(-1, 1)
        c.place = torch.randint(-1, 2, (2,), generator=fresh_generator()).tolist()
        c.weights = noise(28, 28)
        c.x = c.base.roll(c.place, (2, 3))
        c.table = torch.stack([p_at(c, c.x.roll((dy, dx), (2, 3)))
                               for dy in (-1, 0, 1) for dx in (-1, 0, 1)])              # (9, 6)
        if (9 * c.table.amin(0) > 1.1).any():
            break
    return c


def p_at(c: Case, x: Tensor) -> Tensor:
    """The p-values of pictures, which are those of the case, shifted: (n,)"""
    uniform = ((x[:, 0].double() * c.weights).sum((1, 2)) * 1e4).remainder(1) * 0.9 + 0.05
    for k in range(3):
        same = (x == c.base[k]).flatten(1).all(1)
        uniform = torch.where(same, c.strong[k], uniform)
    return uniform


SEARCH_MISTAKES = {
    "mended: that is the least of nine p-values, and of nine chances one is small nine times as "
    "often: multiply by 9":
        lambda c: c.table.amin(0),
    "mended: that is more than 1, and no probability: at most 1":
        lambda c: 9 * c.table.amin(0),
    "mended: that is the largest; one place of nine is enough":
        lambda c: c.table.amax(0),
    "mended: that is the mean; one place of nine is enough":
        lambda c: c.table.mean(0),
    "mended: that is the p-value where the picture lies; look at the nine places around it":
        lambda c: c.table[4],
    "mended: there are nine tries, the picture in its place among them; you multiply by 8":
        lambda c: (8 * c.table.amin(0)).clamp(max=1),
    "mended: the nine p-values are multiplied with each other; they are of one picture":
        lambda c: c.table.prod(0),
    "mended: divided by 9; many tries make a finding weaker, not stronger":
        lambda c: c.table.amin(0) / 9,
    "mended: only shifts along the rows were tried":
        lambda c: (3 * c.table[[3, 4, 5]].amin(0)).clamp(max=1),
    "mended: only shifts along the columns were tried":
        lambda c: (3 * c.table[[1, 4, 7]].amin(0)).clamp(max=1),
    "mended: shifts to one side only; a picture may have moved both ways":
        lambda c: (4 * c.table[[4, 5, 7, 8]].amin(0)).clamp(max=1),
    "mended: five places, without the diagonal ones: a picture may move along both axes":
        lambda c: (5 * c.table[[1, 3, 4, 5, 7]].amin(0)).clamp(max=1),
}


def right_search(c: Case) -> Tensor:
    return (9 * c.table.amin(0)).clamp(max=1)


def judge_mended(f: Callable) -> None:
    """mended(x, find): one p-value for each picture, of nine shifts."""
    def draw() -> tuple:
        c = shifted_case()
        return c, right_search(c), wrong_answers(SEARCH_MISTAKES, c)

    c = distinguishable_case(draw, rtol=1e-2, atol=0)[0]
    got = call_pure(f, c.x, partial(p_at, c))
    reject_none(got)
    shape = tuple(getattr(got, "shape", ()))
    reject_if((shape == (9, 6), "mended: one p-value for each picture, not for each try"),
              (shape == (), "mended: one p-value for each picture, not for all of them"))
    exact = 1 - (1 - c.table.amin(0)) ** 9                  # of nine independent tries
    near = lambda a: torch.is_tensor(got) and got.shape == a.shape and torch.allclose(
        got.double(), a, rtol=1e-3, atol=0)
    if near(exact):
        return
    compare_case(got, c, right_search, SEARCH_MISTAKES, rtol=1e-3, atol=0, otherwise=(
        "mended: not 9 times the least p-value of the nine shifts by -1, 0 and 1 pixels"))


def judge_forge(f: Callable, c: Case) -> None:
    """forge(x, y, invert, draw): digits y with the mark of the pictures x, without the key."""
    y = torch.arange(FORGED) * 3 % 10
    got = as_function(f)(c.x.clone(), y.clone(), invert_digits, draw_digits)
    got = pictures_of(got, "forge", FORGED)
    found = int((find_mark(got, c.key, c.nonce) <= LEVEL).sum())
    read = int((predict_digits(got) == y).sum())
    reject_if((likeness(got, c.x[:FORGED]).min() > 0.99, "forge: those are pictures that were "
               "marked; new ones are wanted, of y"),
              (found < 10, f"forge: the mark is found in {found} of {FORGED}, at least 10 are "
               "wanted. It is in the signs of the noise, and all pictures have the same signs. "
               "Each tells those where its strokes are, so add up what inversion finds"),
              (read < 10, f"forge: {read} of {FORGED} are read as y, at least 10 are wanted: "
               "noise has the deviation 1"),
              (len(got.unique(dim=0)) < FORGED, "forge: some of the pictures are the same"))


def parts_of_answer(answer: object, names: tuple[str, ...]) -> list:
    """The functions of an answer of several. Raises Wrong for another number of them."""
    several = isinstance(answer, (tuple, list)) and len(answer) == len(names)
    reject_if((not several, f"pass all functions, in this order: ({', '.join(names)})"))
    return list(answer)


def judge_part(name: str, judge: Callable, *arguments) -> None:
    """Judge one function of several; one that is not written yet is named."""
    try:
        judge(*arguments)
    except NotImplementedError:
        raise Wrong(f"right so far; {name} is not written yet") from None


def judge_watermark(answer: object) -> None:
    """7.9: (p_value, attack, mended, forge)."""
    p_value, attack, mended, forge = parts_of_answer(answer, ("p_value", "attack", "mended",
                                                              "forge"))
    with one_thread():
        judge_p_value(p_value)
        judge_part("mended", judge_mended, mended)
        c = marked_digits()
        judge_part("attack", judge_attack, attack, c)
        judge_part("forge", judge_forge, forge, c)


# ---- 7.10: a skew, measured and mitigated

PROMPTS = 4


def skewed_case() -> Case:
    """Judged pictures of four prompts, of which each has another share and another number."""
    n = torch.tensor([37, 80, 55, 150])[torch.randperm(4, generator=fresh_generator())]
    y = torch.repeat_interleave(torch.arange(PROMPTS), n)
    share = between(0.15, 0.85, PROMPTS)
    a = torch.rand(len(y), generator=fresh_generator(), dtype=F64) < share[y]
    a[torch.cat([torch.tensor([0]), n.cumsum(0)[:-1]])] = True          # both values everywhere
    a[n.cumsum(0) - 1] = False
    order = torch.randperm(len(y), generator=fresh_generator())
    c = Case(y=y[order], a=a[order])
    describe_shares(c)
    return c


def describe_shares(c: Case) -> None:
    """Numbers and shares of a case: n (K,), the share given each prompt (K,), everywhere ()."""
    one = torch.nn.functional.one_hot(c.y, PROMPTS).double()            # (N, K)
    c.n = one.sum(0)
    c.with_a = one[c.a].sum(0)
    c.given = c.with_a / c.n
    c.everywhere = c.a.double().mean()


def error_of(p: Tensor, n: Tensor) -> Tensor:
    return (p * (1 - p) / n).sqrt()


def as_row(everywhere: Tensor, given: Tensor) -> Tensor:
    return torch.cat([everywhere.reshape(1), given])


def right_shares(c: Case) -> Tensor:
    return as_row(c.everywhere, c.given)


def right_errors(c: Case) -> Tensor:
    return error_of(right_shares(c), as_row(c.n.sum(), c.n))


SHARE_MISTAKES = {
    "shares: those are percentages":
        lambda c: 100 * right_shares(c),
    "shares: those are of the pictures without the attribute":
        lambda c: 1 - right_shares(c),
    "shares: everywhere, that is the mean over the prompts; it is the mean over the pictures":
        lambda c: as_row(c.given.mean(), c.given),
    "shares: those say how often a picture with the attribute has this prompt: given the prompt, "
    "divide by the prompt's number":
        lambda c: as_row(c.everywhere, c.with_a / c.with_a.sum()),
    "shares: divided by the number of all pictures, not of the prompt's":
        lambda c: as_row(c.everywhere, c.with_a / c.n.sum()),
    "shares: those are differences to the share everywhere":
        lambda c: as_row(c.everywhere, c.given - c.everywhere),
    "shares: those are numbers of pictures":
        lambda c: as_row(c.with_a.sum(), c.with_a),
}
ERROR_MISTAKES = {
    "errors: that is the standard deviation of one picture; divide by the root of their number":
        lambda c: error_of(right_shares(c), torch.ones(PROMPTS + 1)),
    "errors: that is a variance; take the root":
        lambda c: right_errors(c) ** 2,
    "errors: divided by the number, not by its root":
        lambda c: error_of(right_shares(c), as_row(c.n.sum(), c.n) ** 2),
    "errors: that is the half width of a 95 % interval; one standard error is wanted":
        lambda c: 1.96 * right_errors(c),
    "errors: a prompt's error has the number of all pictures in it; it has fewer":
        lambda c: error_of(right_shares(c), c.n.sum()),
    "errors: each prompt's error has the share of all pictures in it; take its own":
        lambda c: error_of(c.everywhere, as_row(c.n.sum(), c.n)),
    "errors: that is the error at a share of 1/2":
        lambda c: error_of(torch.tensor(0.5), as_row(c.n.sum(), c.n)),
}


def balanced(c: Case) -> Tensor:
    """Each prompt keeps its share of the pictures, and both values of a are equal in it: (N,)"""
    count = torch.where(c.a, c.with_a[c.y], c.n[c.y] - c.with_a[c.y])
    return c.n[c.y] / c.n.sum() / 2 / count


WEIGHT_MISTAKES = {
    "weights: all are the same, so nothing is mitigated":
        lambda c: torch.full((len(c.y),), 1 / len(c.y), dtype=F64),
    "weights: they add up to the number of pictures; to 1 they should":
        lambda c: balanced(c) * len(c.y),
    "weights: balanced over all pictures; within each prompt it is still skewed":
        lambda c: torch.where(c.a, 0.5 / c.with_a.sum(), 0.5 / (c.n - c.with_a).sum()),
    "weights: balanced in each prompt, but now every prompt counts the same, and rare ones too "
    "much: each keeps its share of the pictures":
        lambda c: balanced(c) / c.n[c.y] * c.n.sum() / PROMPTS,
    "weights: upside down: what is frequent gets more weight":
        lambda c: torch.where(c.a, c.with_a[c.y], c.n[c.y] - c.with_a[c.y]) / torch.where(
            c.a, c.with_a[c.y], c.n[c.y] - c.with_a[c.y]).sum(),
    "weights: those of the two values have changed places":
        lambda c: balanced(Case(**vars(c) | {"a": ~c.a})),
    "weights: pictures without the attribute have weight 0, so it is everywhere now":
        lambda c: c.a.double() / c.a.sum(),
    "weights: the inverse of the number of each kind; they do not add up to 1":
        lambda c: 1 / torch.where(c.a, c.with_a[c.y], c.n[c.y] - c.with_a[c.y]),
}
SIZE_MISTAKES = {
    "effective: that is the number of weights, whatever they are":
        lambda c: torch.tensor(len(c.w), dtype=F64),
    "effective: that is the sum of squares, upside down":
        lambda c: c.w.square().sum(),
    "effective: 1 / sum w^2 is right for weights that add up to 1 only: (sum w)^2 / sum w^2":
        lambda c: 1 / c.w.square().sum(),
    "effective: the square of the sum is missing: (sum w)^2 / sum w^2":
        lambda c: c.w.sum() / c.w.square().sum(),
    "effective: that is the sum over the largest, another measure; (sum w)^2 / sum w^2 is wanted":
        lambda c: c.w.sum() / c.w.max(),
    "effective: the root is not wanted":
        lambda c: c.w.sum() / c.w.square().sum().sqrt(),
}


def judge_skew(f: Callable) -> None:
    """skew(y, a, K) -> shares (1 + K,), errors (1 + K,)."""
    def draw() -> tuple:
        c = skewed_case()
        answers = wrong_answers(SHARE_MISTAKES, c) | wrong_answers(ERROR_MISTAKES, c)
        return c, right_shares(c), answers

    c = distinguishable_case(draw, atol=1e-5)[0]
    got = as_function(f)(c.y.clone(), c.a.clone(), PROMPTS)
    reject_none(got)
    reject_if((not isinstance(got, (tuple, list)) or len(got) != 2,
               "skew: two tensors are wanted, shares and errors"))
    shares, errors = got
    compare_case(shares, c, right_shares, SHARE_MISTAKES, otherwise=(
        "shares: not that of all pictures, and then that of each prompt's"))
    n = as_row(c.n.sum(), c.n)
    unbiased = error_of(right_shares(c), n - 1)
    if torch.is_tensor(errors) and errors.shape == unbiased.shape and torch.allclose(
            errors.double(), unbiased, rtol=1e-4):
        return
    compare_case(errors, c, right_errors, ERROR_MISTAKES, otherwise=(
        "errors: not sqrt(p (1 - p) / n), with each share's own n"))


def judge_weights(f: Callable) -> None:
    """weights(y, a, K) -> (N,), also where a prompt has pictures of one kind only."""
    c = skewed_case()
    got = call_pure(f, c.y, c.a, PROMPTS)
    compare_case(got, c, balanced, WEIGHT_MISTAKES, rtol=1e-3, atol=1e-9, otherwise=(
        "weights: within each prompt both values of a should have half of the prompt's weight, "
        "which is its share of the pictures"))
    c.a = c.a | (c.y == 0)
    describe_shares(c)
    got = call_pure(f, c.y, c.a, PROMPTS)
    words = ("weights: right, but where all pictures of a prompt are of one kind nothing can be "
             "balanced: such pictures have the weight 1 / N")
    reject_if((torch.is_tensor(got) and not got.isfinite().all(), f"{words}, and not nan or inf"))
    wanted = torch.where(c.y == 0, 1 / len(c.y), balanced(c))
    compare(got, wanted, rtol=1e-3, atol=1e-9, otherwise=words)


def judge_effective(f: Callable) -> None:
    """effective(w): (sum w)^2 / sum w^2."""
    c = Case(w=between(0.2, 2.0, 30))
    right = lambda c: c.w.sum() ** 2 / c.w.square().sum()
    compare_case(as_scalar(as_function(f)(c.w.clone())), c, right, SIZE_MISTAKES, otherwise=(
        "effective: not (sum w)^2 / sum w^2"))


def judge_bias(answer: object) -> None:
    """7.10: (skew, weights, effective)."""
    skew, weights, effective = parts_of_answer(answer, ("skew", "weights", "effective"))
    judge_skew(skew)
    judge_part("weights", judge_weights, weights)
    judge_part("effective", judge_effective, effective)


QUESTIONS = [
    Question(
        "7.8", 3, judge_latency,
        "half of the evaluations; only a larger test can say what else it changed",
        ("A step without guidance has one evaluation, a step with guidance two. Five evaluations "
         "can be five steps without, or four with guidance in one of them, or three with guidance "
         "in two.",
         "cfg takes a function of t for its scale, and evaluates once where that is 1: "
         "guidance_interval(2.0, low, high). timesteps(D.schedule, n) says which t are evaluated: "
         "all but the last.",
         "guided = cfg(D, guidance_interval(2.0, 0.9, 1.0), D.net.encode(D.net.null[\"tokens\"], "
         "B)), and then four steps of dpmpp as in draw_today")),
    Question(
        "7.9", 4, judge_watermark,
        "a mark says which noise a picture came from, and not who drew it",
        ("p_value: sum math.comb. attack: what does inversion take for granted of each pixel? "
         "mended: undo each of nine shifts. forge: all pictures have the same signs, and each "
         "tells some of them.",
         "attack: x.roll(1, 3) shows the same digit. mended: p-values of x.roll((dy, dx), (2, 3)), "
         "the least of each picture, times the number of tries, at most 1. forge: the sign of the "
         "sum of invert(x), fresh magnitudes, draw(noise, y).",
         "sum(math.comb(signs, k) for k in range(agreeing, signs + 1)) / 2**signs; (9 * "
         "torch.stack(tries).amin(0)).clamp(max=1); signs = invert(x).sum(0).sign(); "
         "draw(torch.randn(len(y), 1, 28, 28).abs() * signs, y)")),
    Question(
        "7.10", 3, judge_bias,
        "a share has an error, and a mitigation has a price in pictures",
        ("skew: which number of pictures belongs to which share? weights: two conditions, one on "
         "the sum over a prompt, one on the two kinds within it.",
         "A share's error is sqrt(p (1 - p) / n), with the n of that share. Within prompt k of n_k "
         "pictures each kind has the weight n_k / N / 2 in all, spread over its pictures.",
         "count[k, v] = ((y == k) & (a == v)).sum(); w = n[y] / N / 2 / count[y, a.long()], and 1 "
         "/ N where a prompt has one kind only; effective: w.sum()**2 / w.square().sum()")),
]
