"""The questions of lesson 4. Each judge computes the right answer and the well-known wrong ones, and tells them apart."""
import math
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from .. import samplers
from ..lab.data import GaussianMixture
from ..samplers import grid, last
from ..schedules import Schedule, over
from . import Question, Wrong, compare, function, number
from .lesson01 import F64
from .lesson02 import one_thread
from .lesson03 import apart, between, refuse, source

COSINE = Schedule.cosine()
SCHEDULES = {"cosine": COSINE, "flow": Schedule.flow()}
BUMPS = GaussianMixture([[-1.0, -0.5], [1.0, -0.6], [0.2, 1.0]], [0.2, 0.3, 0.15], [3.0, 2.0, 1.0])     # the lesson's three bumps
GOOD_ENOUGH = 0.02                                              # 4.7: the mean distance that a good grid stays below


def levels(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=source(), dtype=F64)


def bumps(d: int = 2, k: int = 3) -> GaussianMixture:
    """Some bumps at random places."""
    return GaussianMixture(between(-1.5, 1.5, k, d), between(0.1, 0.4, k), between(0.5, 1.5, k))


def asked(f: Callable, *inputs: object) -> Tensor:
    """The reader's answer to copies of the inputs: a tensor, the same one twice, and the inputs left as they were."""
    given = [x.clone() if torch.is_tensor(x) else x for x in inputs]
    try:
        with torch.random.fork_rng(devices=[]):
            got, again = function(f)(*given), f(*given)
    except RuntimeError as error:
        refuse(("ambiguous" in str(error), "an `if` cannot decide for a whole batch of levels: each example has its own t and s, so use formulas that are right for all, or torch.where"),
               ("must match the size" in str(error), f"coefficients of shape (B,) meet x of another shape ({error}): reshape them, t.view(-1, *[1] * (x.ndim - 1))"))
        raise
    changed = any(torch.is_tensor(x) and not torch.equal(x, y) for x, y in zip(inputs, given))
    refuse((changed, "your function changes the tensors it was given: compute new ones"))
    if torch.is_tensor(got) and torch.is_tensor(again) and got.shape == again.shape and not torch.equal(got.nan_to_num(), again.nan_to_num()):
        raise Wrong("the same inputs gave two different answers: draw no noise of your own")
    return got


def not_finite(got: object, words: str) -> None:
    if torch.is_tensor(got) and not got.isfinite().all():
        raise Wrong(words)


# ---- 4.1: what a sampler costs

def judge_steps(f: Callable) -> None:
    """4.1: steps_for(sampler, budget, guided), how many steps to s = 0 a budget of evaluations pays for."""
    for guided in (False, True):
        for sampler in ("ddim", "dpmpp", "heun", "unipc"):
            budgets = torch.cat([4 * between(3, 9).round() + torch.arange(4), between(20, 90, 3).round()])                # every rest of a division by 4
            calls = (budgets / (1 + guided)).floor()
            way = lambda c: ((c + 1) / 2).floor() if sampler == "heun" else c.floor()
            own = {
                "heun": {"heun: that is one evaluation a step; it looks a second time where each step arrives": calls,
                         "heun: the step to s = 0 has no second look, so n steps cost 2 n - 1, and an odd evaluation is of use": (calls / 2).floor(),
                         "heun: that is what so many steps cost, 2 n - 1; how many steps does the budget pay for?": 2 * calls - 1,
                         "heun, guided: first find how many guesses the budget pays for, then how many steps; you have the two the other way round": (((budgets + 1) / 2).floor() / 2).floor()},
                "unipc": {"unipc: the corrector's look is the next step's guess, so a step costs one evaluation": (calls / 2).floor(),
                          "unipc: the first guess is paid by the last step, which is not corrected: n steps cost n": calls - 1},
                "dpmpp": {"dpmpp: its second guess is an old one, kept from the step before: one evaluation a step": (calls / 2).floor()},
            }.get(sampler, {})
            both = {"guided: a guided guess costs two evaluations, one with the condition and one without": way(budgets),
                    "guided: you multiply the budget by two; a guess costs twice as much, so divide": way(2 * budgets),
                    "guided: three for a guess is too much: one with the condition, one without": way((budgets / 3).floor())} if guided else \
                   {"you halve the budget; without guidance a guess costs one evaluation, and ddim's step takes one guess": way((budgets / 2).floor())}
            got = [number(function(f)(sampler, int(b), guided)) for b in budgets]
            right, what = way(calls), f"{sampler}{', guided' if guided else ''}"
            for g, b, r in zip(got, budgets, right):
                refuse((g != g.round(), f"{what}: a whole number of steps is wanted; for a budget of {b:.0f} yours is {g:.2f}: divide with //"))
            more = {f"{what}: you round up; the last step is not paid for": way((budgets / (1 + guided)).ceil()) if sampler != "heun" else ((calls + 2) / 2).floor(),
                    f"{what}: that is the number of times on the grid; the steps are one fewer": right + 1}
            compare(torch.stack(got), right, own | both | more, rtol=0, atol=0.01,
                    otherwise=f"{what}: with a budget of {budgets[0]:.0f} you take {got[0]:.0f} steps: count the calls of the denoiser in the lesson's function, for a grid that ends at 0")


# ---- 4.2: one step of ddim

def moved(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, eta: float, z: Tensor, v: Callable | None = None, kept: Callable | None = None,
          drawn: Callable | None = None, eps: Callable | None = None, front: Callable | None = None) -> Tensor:
    """(4.8) with levels (B,), and the switches that turn it into its well-known wrong versions."""
    at = alpha_t, sigma_t, alpha_s, sigma_s = tuple(over(c, x) for c in levels(schedule, t, s))
    tilde = sigma_s * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).sqrt() / sigma_t
    std = v(*at) if v else eta * tilde
    eps_hat = eps(*at) if eps else (x - alpha_t * x0_hat) / sigma_t
    return (front(*at) if front else alpha_s) * x0_hat + (kept(sigma_s, std, tilde) if kept else (sigma_s**2 - std**2).clamp(min=0).sqrt()) * eps_hat + (drawn(std, tilde) if drawn else std) * z


def judge_ddim(f: Callable) -> None:
    """4.2: ddim_step(schedule, x, x0_hat, t, s, eta, z), one step of the family for levels (B,) and x of any shape."""
    for name, shape in (("cosine", (4, 1, 5, 5)), ("flow", (4, 3)), ("flow", (4,))):
        schedule = SCHEDULES[name]

        def case():
            x, x0_hat, z, s, eta = noise(*shape), noise(*shape), noise(*shape), between(0.4, 0.6, 4), between(0.4, 0.8).item()
            inputs = schedule, x, x0_hat, s + between(0.08, 0.15, 4), s, eta, z
            way = lambda **switches: moved(*inputs, **switches)
            up = lambda a, b, c, d: (b**2 - (a / c * d) ** 2).sqrt()
            return inputs, way(), {
                "z is multiplied by a variance; (4.8) has the standard deviation, its root": way(drawn=lambda v, tilde: v**2),
                "eps_hat is multiplied by a variance; its factor is the root of sigma_s^2 - v^2": way(kept=lambda s, v, tilde: s**2 - v**2),
                "eta counts twice: v = eta sigma-tilde has one eta, and so its square eta^2": way(v=lambda a, b, c, d: eta**2 * d * up(a, b, c, d) / b),
                "eta counts twice in front of z: v already contains it": way(drawn=lambda v, tilde: eta * v),
                "under the root eta is still to be squared: sigma_s^2 - eta^2 sigma-tilde^2": way(kept=lambda s, v, tilde: (s**2 - eta * tilde**2).sqrt()),
                "under the root eta is missing: you take away all of sigma-tilde^2 and give back eta of it": way(kept=lambda s, v, tilde: (s**2 - tilde**2).sqrt()),
                "eta is missing in front of z": way(drawn=lambda v, tilde: tilde),
                "noise is added, but none is taken away: eps_hat keeps all of sigma_s, and the variance is too large, (4.5)": way(kept=lambda s, v, tilde: s),
                "noise is taken away, but none is added: z is missing": way(drawn=lambda v, tilde: 0 * v),
                "alpha_t stands before x0_hat where alpha_s belongs: you arrive at level s": way(front=lambda a, b, c, d: a),
                "alpha_s is missing before x0_hat": way(front=lambda a, b, c, d: torch.ones_like(c)),
                "eps_hat is computed with the coefficients of level s; x is still at level t": way(eps=lambda a, b, c, d: (x - c * x0_hat) / d),
                "eps_hat is not divided by sigma_t": way(eps=lambda a, b, c, d: x - a * x0_hat),
                "eps_hat has the wrong sign: x minus alpha_t x0_hat": way(eps=lambda a, b, c, d: (a * x0_hat - x) / b),
                "x stands where eps_hat belongs": way(eps=lambda a, b, c, d: x),
                "your v comes from sigma_{t|s}, the other variance of (4.1); sigma-tilde is sigma_s / sigma_t of it, (4.2)": way(v=lambda a, b, c, d: eta * up(a, b, c, d)),
                "sigma_{t|s}^2 is sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2: the ratio of the alphas is missing": way(v=lambda a, b, c, d: eta * d / b * (b**2 - d**2).sqrt()),
                "right only where alpha^2 + sigma^2 = 1: 1 - (alpha_t / alpha_s)^2 is not sigma_{t|s}^2 in every schedule, (4.1)": way(v=lambda a, b, c, d: eta * d / b * (1 - (a / c) ** 2).sqrt()),
                "sigma_s / sigma_t is upside down in sigma-tilde": way(v=lambda a, b, c, d: eta * b / d * up(a, b, c, d)),
                "nothing is random: eta is not used": way(v=lambda a, b, c, d: 0 * a),
                "that is the step for eta = 1, whatever eta is": way(v=lambda a, b, c, d: d * up(a, b, c, d) / b),
                "that is x0_hat alone, the end of the whole way": x0_hat, "x has not moved": x,
            }
        inputs, right, mistakes = apart(case)
        got = asked(f, *inputs)
        if torch.is_tensor(got) and got.shape != shape and len(shape) < 4:
            raise Wrong(f"right for images, but x of shape {shape} became {tuple(got.shape)}: reshape coefficients to the number of dimensions of x")
        not_finite(got, f"{name}: some values are nan: below a root stands something negative; with s < t, sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 is positive")
        compare(got, right, mistakes, rtol=1e-3, atol=1e-4, otherwise=f"{name}: not (4.8): print alpha_s x0_hat, the factor of eps_hat and the factor of z one by one; the squares of the last two add up to sigma_s^2")
    ends(f)


def ends(f: Callable) -> None:
    """4.2 at the ends of the schedule: from alpha = 0, and to s = 0."""
    x, x0_hat, z, one = noise(2, 3), noise(2, 3), noise(2, 3), torch.ones(2, dtype=F64)
    got = asked(f, SCHEDULES["flow"], x, x0_hat, one, 0.5 * one, 0.7, z)
    not_finite(got, "right in between, but nan or inf from t = 1 of a schedule with alpha = 0 there: divide by alpha_s, never by alpha_t")
    compare(got, moved(SCHEDULES["flow"], x, x0_hat, one, 0.5 * one, 0.7, z), otherwise="right in between, but wrong from t = 1, where alpha = 0: sigma_{t|s} is sigma_t there")
    got = asked(f, COSINE, x, x0_hat, 0.3 * one, 0 * one, 0.7, z)
    not_finite(got, "right in between, but nan or inf in the step to s = 0, where sigma_s = 0: do not divide by it")
    compare(got, x0_hat, {"right in between, but the step to s = 0 adds noise": moved(COSINE, x, x0_hat, 0.3 * one, 0 * one, 0.7, z, drawn=lambda v, tilde: 0.7 * over(COSINE.sigma(0.3 * one), x))},
            otherwise="right in between, but the step to s = 0 must end at x0_hat itself: sigma_s and v are 0 there")


# ---- 4.3: a copied class

def walked(eps_net: Callable, alpha_bar: Tensor, x: Tensor, steps: int, eta: float, seed: int, end: str = "data", neighbour: bool = False, still: bool = False,
           kept: Callable | None = None, drawn: Callable | None = None) -> Tensor:
    """4.3 repaired, with the switches that leave a defect in."""
    g, T = torch.Generator().manual_seed(seed), len(alpha_bar)
    places = [k * T // steps - 1 for k in range(steps, 0, -1)]
    for k, i in enumerate(places):
        j, a = (places[k + 1] if k + 1 < steps else None), alpha_bar[i]
        if j is None and end == "missing":
            return x
        b = alpha_bar[j] if j is not None else alpha_bar[0] if end == "first" else torch.ones_like(a)
        b = alpha_bar[i - 1] if neighbour and i > 0 else a if still else b
        eps, z = eps_net(x, i), torch.randn(x.shape, generator=g, dtype=x.dtype)
        v = eta * ((1 - b) / (1 - a) * (1 - a / b)).clamp(min=0).sqrt()
        toward = (kept(a, b, v) if kept else (1 - b - v**2).clamp(min=0).sqrt()) * eps
        x = b.sqrt() * (x - (1 - a).sqrt() * eps) / a.sqrt() + toward + (drawn(a, b, v, toward) if drawn else v) * z
    return x


def judge_repaired(f: Callable) -> None:
    """4.3: ddim_repaired(eps_net, alpha_bar, x, steps, eta, generator), without the four defects of the copied one."""
    for T, steps in ((60, 7), (64, 16)):
        alpha_bar, x, seed = torch.cumprod(1 - torch.linspace(0.01, 0.1, T, dtype=F64) * between(0.8, 1.2), 0), noise(50, 2), source().initial_seed() % 2**31
        sharp = between(1.5, 3)
        eps_net = lambda x, i: (x - alpha_bar[i].sqrt() * (sharp * x).tanh()) / (1 - alpha_bar[i]).sqrt()
        eta, way = between(0.5, 0.8).item(), lambda eta=0.0, **switches: walked(eps_net, alpha_bar, x, steps, eta, seed, **switches)
        with torch.random.fork_rng(devices=[]):
            got, questions = repaired_run(f, eps_net, alpha_bar, x, steps, 0.0, seed)
        refuse((torch.is_tensor(got) and got.isnan().any(), "nan at eta = 0: a root of something negative is taken, and 0 * nan is nan. Does toward**2, an image, stand below the root of the noise term? A variance belongs there"))
        judge_places(questions, T, steps)
        compare(got, way(), {
            f"the last step ends at alpha_bar[0], the level of index 0, and leaves noise of width {(1 - alpha_bar[0]).sqrt():.2f} in the data; the data's own alpha_bar is 1": way(end="first"),
            "the last step is missing: you stop at the last level that is asked": way(end="missing"),
            "each step goes to alpha_bar[i - 1], one index down; the next level is the next index on the list": way(neighbour=True),
            "nothing moves: b is the level where x is already": way(still=True),
        }, rtol=1e-3, atol=1e-4, otherwise="not DDIM's end at eta = 0: compare one step with (4.8), alpha = alpha_bar.sqrt()")
        with torch.random.fork_rng(devices=[]):
            (got, _), (again, _) = (repaired_run(f, eps_net, alpha_bar, x, steps, eta, seed) for _ in range(2))
        refuse((torch.is_tensor(got) and got.isnan().any(), "right at eta = 0, but nan at eta > 0: does toward**2, an image, stand below the root of the noise term? A variance belongs there"))
        refuse((torch.is_tensor(got) and got.shape == x.shape and not torch.equal(got, again), "two runs with the same generator differ: draw z with generator=generator"))
        image = lambda a, b, v, toward: eta * (1 - b - toward**2).clamp(min=0).sqrt()
        compare(got, way(eta), {
            "eta counts twice: the variance that was taken away contains eta^2 already, so its root needs no further eta": way(eta, drawn=lambda a, b, v, toward: eta * v),
            "no nan any more, but the noise's variance is still an image, cut off at 0: toward**2 contains eps**2; a number belongs there": way(eta, drawn=image),
            "that is an image, cut off at 0, in place of the noise's variance, even without eta in front": way(eta, drawn=lambda *r: image(*r) / eta),
            "noise is added, but none is taken away: toward still has all of 1 - b": way(eta, kept=lambda a, b, v: (1 - b).sqrt()),
            "noise is taken away, but none is added": way(eta, drawn=lambda *r: 0 * r[2]),
            "eta is not used: nothing is random": way(0.0),
            "eta is always 1": way(1.0),
            "z is multiplied by a variance; take the root": way(eta, drawn=lambda a, b, v, toward: v**2),
            "the noise is that of sigma_{t|s}, (4.1); sigma-tilde, (4.2), was taken away": way(eta, drawn=lambda a, b, v, toward: eta * (1 - a / b).sqrt()),
            "eta is missing below the root of toward: all of sigma-tilde^2 is taken away": way(eta, kept=lambda a, b, v: (1 - b - (v / eta) ** 2).clamp(min=0).sqrt()),
        }, rtol=1e-3, atol=1e-4, otherwise="right at eta = 0, but not at eta > 0: what is taken away below the first root, and what is given back by z, must be the same variance")


def repaired_run(f: Callable, eps_net: Callable, alpha_bar: Tensor, x: Tensor, steps: int, eta: float, seed: int) -> tuple[object, list[int]]:
    """What the reader's sampler returns, and the indices at which it asked."""
    questions = []

    def recorded(x: Tensor, i: int) -> Tensor:
        questions.append(int(torch.as_tensor(i).flatten()[0]))
        return eps_net(x, i)
    return function(f)(recorded, alpha_bar.clone(), x.clone(), steps, eta, torch.Generator().manual_seed(seed)), questions


def judge_places(questions: list[int], T: int, steps: int) -> None:
    """Where the network was asked."""
    wanted = [k * T // steps - 1 for k in range(steps, 0, -1)]
    refuse((not questions, "the network was never asked"))
    refuse((len(questions) != steps, f"with steps = {steps} and T = {T} the network was asked {len(questions)} times; {steps} evaluations are what was paid for"),
           (questions[0] != T - 1, f"the first question is at index {questions[0]}; pure noise is at T - 1 = {T - 1}"),
           (any(a <= b for a, b in zip(questions, questions[1:])), "the indices must fall from question to question"),
           (questions != wanted, f"{steps} questions, as it should be, but at {questions[:4]}...; k * T // steps - 1 for k = steps, ..., 1 is {wanted[:4]}..."))


# ---- 4.4: the noise that a step needs

def judge_noise(f: Callable) -> None:
    """4.4: exact_variance(schedule, t, s, w), the variance of x_s given x_t when the data is N(0, w^2)."""
    for name in ("flow", "cosine"):
        schedule = SCHEDULES[name]

        def case():
            s, w = between(0.2, 0.5, 5), between(0.3, 0.8, 5)
            t = s + between(0.15, 0.4, 5)
            a, b, c, d = levels(schedule, t, s)
            up, V_t, V_s = b**2 - (a / c * d) ** 2, (a * w) ** 2 + b**2, (c * w) ** 2 + d**2
            tilde, share, given = d**2 * up / b**2, c * up / b**2, (w * b) ** 2 / V_t
            return (schedule, t, s, w), V_s * up / V_t, {
                "that is the posterior's variance, right for one who knows x0, or for data of one point: the guess is uncertain, too, (4.3)": tilde,
                "that is sigma_{t|s}^2, right for w = 1 and alpha^2 + sigma^2 = 1 only": up,
                "that is a standard deviation; the variance is wanted": (V_s * up / V_t).sqrt(),
                "Var(x0 | x_t) is not w^2: seeing x_t narrows it": tilde + share**2 * w**2,
                "Var(x0 | x_t) is sigma_t^2 only for w = 1 and alpha^2 + sigma^2 = 1": tilde + share**2 * b**2,
                "the factor before Var(x0 | x_t) is still to be squared, (4.3)": tilde + share * given,
                "that is the second part of (4.3); the posterior's own variance is missing": share**2 * given,
                "Var(x0 | x_t) alone, without its factor: that is right only in the step to s = 0": tilde + given,
                "that is Var(x0 | x_t); (4.3) tells how it enters": given,
                "the factor of x0 has alpha_s, not alpha_t": tilde + (a * up / b**2) ** 2 * given,
                "w is still to be squared: w is a width, the data's variance is w^2": (c**2 * w + d**2) * up / (a**2 * w + b**2),
                "Var(x_t) has alpha_t^2 w^2 in it, not w^2": tilde + share**2 * (w * b) ** 2 / (w**2 + b**2),
                "that is Var(x_s), over all samples; given x_t less is left": V_s,
                "that is Var(x_t)": V_t,
                "Var(x_t) and Var(x_s) have changed places": V_t * up / V_s,
                "right only where alpha^2 + sigma^2 = 1: 1 - (alpha_t / alpha_s)^2 is not sigma_{t|s}^2 in every schedule, (4.1)": V_s * (1 - (a / c) ** 2) / V_t,
                "1 - alpha^2 stands where sigma^2 belongs; they differ in other schedules": ((c * w) ** 2 + 1 - c**2) * (1 - (a / c) ** 2) / ((a * w) ** 2 + 1 - a**2),
                "the two parts of (4.3) are added, not subtracted": tilde - share**2 * given,
            }
        inputs, right, mistakes = apart(case, rtol=1e-3, atol=1e-5)
        got = asked(f, *inputs)
        not_finite(got, f"{name}: nan or inf: what stands below a root, or below a line, is not positive")
        compare(got, right, mistakes, rtol=1e-3, atol=1e-6, otherwise=f"{name}: not Var(x_s | x_t). Try w = 0, where only the posterior's variance is left, and alpha_t = 0, where x_t says nothing and it is the whole variance of x_s")
    w, t, s = between(0.3, 0.8, 2), torch.tensor([1.0, 0.6], dtype=F64), torch.tensor([0.4, 0.0], dtype=F64)
    got, ends = asked(f, SCHEDULES["flow"], t, s, w), torch.stack([(0.6 * w[0]) ** 2 + 0.16, (w[1] * 0.6) ** 2 / ((0.4 * w[1]) ** 2 + 0.36)])
    not_finite(got, "right in between, but nan or inf at t = 1 (alpha = 0) or at s = 0 (sigma = 0): divide by neither")
    compare(got, ends, rtol=1e-3, atol=1e-6, otherwise="right in between, but not at the ends: from alpha_t = 0 nothing is known, so Var(x_s) is left; at s = 0 it is Var(x0 | x_t), not 0")


# ---- 4.5: Heun in t

def slope(D: Callable, schedule: Schedule, x: Tensor, t: Tensor, at: Tensor | None = None, rates: Tensor | None = None) -> Tensor:
    """(4.11): alpha' x0_hat + sigma' eps_hat. at: whose alpha and sigma eps_hat is computed with; rates: whose alpha' and sigma'."""
    x0_hat, at, rates = D(x, t), t if at is None else at, t if rates is None else rates
    return schedule.d_alpha(rates) * x0_hat + schedule.d_sigma(rates) * (x - schedule.alpha(at) * x0_hat) / schedule.sigma(at)


def judge_heun(f: Callable) -> None:
    """4.5: heun_step(D, schedule, x, t, s), Heun's method for (4.11), in t itself."""
    for name, schedule in SCHEDULES.items():
        def case():
            D, x, s = bumps().denoiser(schedule), noise(6, 2), between(0.35, 0.45)
            t = s + between(0.25, 0.35)
            h, u = s - t, slope(D, schedule, x, t)
            ahead, eps = x + h * u, (x - schedule.alpha(t) * D(x, t)) / schedule.sigma(t)
            u2, x0_s = slope(D, schedule, ahead, s), D(ahead, s)
            eps_s, mean = (ahead - schedule.alpha(s) * x0_s) / schedule.sigma(s), lambda second: x + h * (u + second) / 2
            return (D, schedule, x, t, s), mean(u2), {
                "that is Euler's step: the second look is missing, (4.19)": ahead,
                "the two slopes are added up; take their mean": x + h * (u + u2),
                "you go a second step from the place of arrival; the corrected step starts from x again": ahead + h * (u + u2) / 2,
                "that is a step along the second slope alone; take the mean of both": x + h * u2,
                "the second slope is taken at level t; x has arrived at level s": mean(slope(D, schedule, ahead, t)),
                "the second slope asks the denoiser at s, but with the alpha' and sigma' of t; they change, too": mean(slope(D, schedule, ahead, s, rates=t)),
                "the second slope's eps_hat is computed with alpha and sigma of t": mean(slope(D, schedule, ahead, s, at=t)),
                "the second slope is taken at s, but for the old x; look where the Euler step leads": mean(slope(D, schedule, x, s)),
                "time runs the wrong way: s - t is negative, and so is your step's direction": x - h * (u + slope(D, schedule, x - h * u, s)) / 2,
                "the Euler step ahead runs the wrong way, t - s": mean(slope(D, schedule, x - h * u, s)),
                "eps_hat - x0_hat is the slope of the flow schedule; in general (4.11) has alpha' and sigma'":
                    x + h * (eps - D(x, t) + (lambda y: (y - schedule.alpha(s) * D(y, s)) / schedule.sigma(s) - D(y, s))(x + h * (eps - D(x, t)))) / 2,
                "the means of the two guesses and of the two noises are put into ddim's step: that is first order; average the slopes": schedule.alpha(s) * (D(x, t) + x0_s) / 2 + schedule.sigma(s) * (eps + eps_s) / 2,
                "that is the lesson's Heun, in the time sigma / alpha: right in its own way, but (4.11) in t is wanted": last(samplers.heun(D, schedule, x, torch.stack([t, s]))),
                "alpha' and sigma' have changed places": swapped_heun(D, schedule, x, t, s),
                "that is ddim's step": last(samplers.ddim(D, schedule, x, torch.stack([t, s]))),
                "x has not moved": x,
            }
        inputs, right, mistakes = apart(case, rtol=1e-4, atol=1e-4)
        got, calls = heun_run(f, *inputs)
        not_finite(got, f"{name}: nan or inf, although 0 < s < t < 1")
        compare(got, right, mistakes, rtol=2e-4, atol=2e-4, otherwise=f"{name}: not Heun's step for (4.11): the slope at x, an Euler step x + (s - t) slope, the slope there, and x + (s - t) times the mean of both")
        refuse((calls != 2, f"right, but the denoiser was asked {calls} times in one step; two are enough: keep the guess"))
    heun_ends(f)


def swapped_heun(D: Callable, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    u = lambda x, t: schedule.d_sigma(t) * D(x, t) + schedule.d_alpha(t) * (x - schedule.alpha(t) * D(x, t)) / schedule.sigma(t)
    return x + (s - t) * (u(x, t) + u(x + (s - t) * u(x, t), s)) / 2


def heun_run(f: Callable, D: Callable, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> tuple[object, int]:
    """The reader's step, and how often it asked the denoiser."""
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return D(x, t)
    got = asked(f, counted, schedule, x, t, s)
    return got, len(calls) // 2                                                     # `asked` asks twice


def heun_ends(f: Callable) -> None:
    """4.5 from alpha = 0, and to s = 0."""
    flow, one, zero, x = SCHEDULES["flow"], torch.tensor(1.0, dtype=F64), torch.tensor(0.0, dtype=F64), noise(6, 2)
    mixture, t = bumps(), between(0.2, 0.3)
    D = mixture.denoiser(flow)
    got, _ = heun_run(f, D, flow, x, one, 0.6 * one)
    not_finite(got, "right in between, but nan or inf from t = 1 of the flow schedule, where alpha = 0: divide by sigma only")
    u = slope(D, flow, x, one)
    compare(got, x - 0.4 * (u + slope(D, flow, x - 0.4 * u, 0.6 * one)) / 2, rtol=1e-3, atol=1e-4, otherwise="right in between, but wrong from t = 1 of the flow schedule, where alpha = 0")
    D = mixture.denoiser(COSINE)
    got, calls = heun_run(f, D, COSINE, x, t, zero)
    not_finite(got, "right in between, but nan or inf in the step to s = 0: eps_hat divides by sigma_s = 0 there; return the guess instead")
    compare(got, D(x, t), {"right in between, but the step to s = 0 is Euler's in t, and noise is left over: return the guess, D(x, t)": x - t * slope(D, COSINE, x, t)}, rtol=1e-3, atol=1e-4,
            otherwise="right in between, but the step to s = 0 must return the guess D(x, t): there is no second look where sigma = 0")
    refuse((calls != 1, f"right, but in the step to s = 0 the denoiser was asked {calls} times; once is enough"))


# ---- 4.6: measuring an order

@lru_cache
def measured() -> tuple[tuple[str, float, Tensor, Tensor, float], ...]:
    """Errors of three samplers on an exact mixture, as (name, order, steps, errors, floor); unipc's ends are rounded to multiples of `unit`."""
    D, x = BUMPS.denoiser(COSINE), torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    even = lambda n: COSINE.t_from_log_snr(torch.linspace(-7, 5, n + 1, dtype=F64))
    truth, unit, ns = last(samplers.unipc(D, COSINE, x, even(450))), 2**-17, torch.tensor([8, 12, 18, 27, 40, 60, 90, 135, 200, 300], dtype=F64)
    rms = lambda x: x.square().sum(1).mean().sqrt()
    result = []
    for name, f, p in (("ddim", samplers.ddim, 1), ("dpmpp", samplers.dpmpp, 2), ("unipc", samplers.unipc, 3)):
        counts = ns if p == 3 else ns[:-2]
        ends = [last(f(D, COSINE, x, even(int(n)))) for n in counts]
        error = [rms((end / unit).round() * unit - truth if p == 3 else end - truth) for end in ends]
        result.append((name, p, counts, torch.stack(error), unit / 6**0.5 if p == 3 else 1e-13))
    return tuple(result)


def made_up(p: float, late: bool) -> tuple[str, float, Tensor, Tensor, float]:
    """Errors as a sampler of order p has them: three too small (or too large) at the start, three that follow the law, four near the rounding."""
    ratio = between(1.45, 1.55)
    n = (between(8, 12) * ratio ** torch.arange(10)).round()
    error, bent = n**-p, (between(1.6, 2.0) if late else between(0.4, 0.5)) ** torch.tensor([3, 2.2, 1, 0, 0, 0, 0, 0, 0, 0], dtype=F64)
    floor = error[5].item() / 13
    return f"a sampler of order {p}", p, n, ((error * bent) ** 2 + floor**2).sqrt(), floor


def estimates(n: Tensor, e: Tensor, floor: float) -> dict[str, float]:
    """What well-known wrong ways make of these errors."""
    x, y, good = n.log(), e.log(), e > 10 * floor
    a, b = good.nonzero().flatten()[-2:].tolist()
    line = lambda keep: (((x - x[keep].mean()) * (y - y[keep].mean()))[keep].sum() / -(x - x[keep].mean())[keep].square().sum()).item()
    local, everything = -(y[1:] - y[:-1]) / (x[1:] - x[:-1]), torch.ones_like(good)
    fall = (y[a] - y[b]).item()
    p = fall / (x[b] - x[a]).item()
    return {
        "the sign: an error that falls like n^-p has the order p, a positive number": -p,
        "two different logarithms are mixed, log2 above and the natural one below: any base will do, but the same for both": p / math.log(2),
        "two different logarithms are mixed, the natural one above and log2 below: any base will do, but the same for both": p * math.log(2),
        "two different logarithms are mixed, the decimal and the natural one": p / math.log(10),
        "two different logarithms are mixed, the natural and the decimal one": p * math.log(10),
        "log2 of the ratio of errors is the order only where the steps double; divide by log2 of the ratio of steps": fall / math.log(2),
        "that is the logarithm of the ratio of errors; divide by that of the ratio of steps": fall,
        "that is the ratio of two errors; (4.18) has the order in the exponent: take logarithms": math.exp(fall),
        "you divide by a difference of steps; n^-p is a straight line over log n": fall / (n[b] - n[a]).item(),
        "the order is upside down: how fast log error falls with log n, not log n with log error": 1 / p,
        "one too many: what one step errs by, (4.17), has the power p + 1; after n steps one is lost, (4.18), and these are errors after n steps": p + 1,
        "one too few: these are errors after n steps, (4.18), nothing is lost any more": p - 1,
        "that is the order of the first pair, where steps are too large for the law": local[0].item(),
        "that is the order of the last pair, where only rounding is left: look at the floor": local[-1].item(),
        "first and last value alone: the first steps are too large, the last errors are rounding": ((y[0] - y[-1]) / (x[-1] - x[0])).item(),
        "that is a line through all points; the first do not follow the law yet, the last are rounding": line(everything),
        "that is a line through all points above the floor; the first do not follow the law yet: use the last ones": line(good),
        "that is the mean of all pairs": local.mean().item(),
        "that is the largest of all pairs; at the start an error may fall faster than the order says": local.max().item(),
        "that is the smallest of all pairs": local.min().item(),
        "that is the median of all pairs; here most pairs lie at the start or in the rounding": local.median().item(),
    }


def judge_order(f: Callable) -> None:
    """4.6: order(ns, errors, floor), from errors after n steps."""
    with one_thread():
        real = measured()
    for name, p, n, e, floor in (made_up(2, False), made_up(3, True), made_up(2, True), made_up(1, True), made_up(2.5, False), *real):
        scale, start = between(0.3, 3).item(), int(between(0, 2.99)) if name in ("ddim", "dpmpp", "unipc") else 0       # of the measured ones not always the same numbers
        n, e, floor = n[start:], scale * e[start:], scale * floor
        given = n.clone(), e.clone()
        got = number(function(f)(*given, floor))
        refuse((not (torch.equal(given[0], n) and torch.equal(given[1], e)), "your function changes the tensors it was given: compute new ones"))
        if abs(got - p) < 0.15:
            continue
        refuse((not got.isfinite(), f"{name}: your order is {got.item()}"))
        wrong = {words: abs(got.item() - value) for words, value in estimates(n, e, floor).items() if math.isfinite(value) and abs(value - p) > 0.1}
        nearest = min(wrong, key=wrong.get)
        refuse((wrong[nearest] < 0.02 * max(1, p), nearest),
               (True, f"{name}: yours says {got:.2f}. Plot log error over log n: a straight piece lies before the errors come near the floor; its slope, without the sign, is the order"))


# ---- 4.7: eight evaluations

def grid_error(ts: Tensor, x: Tensor, truth: Tensor) -> float:
    """How far dpmpp's ends on this grid are from the exact ends of the ODE: the mean distance."""
    return (last(samplers.dpmpp(BUMPS.denoiser(COSINE), COSINE, COSINE.sigma(ts[0]) * x, ts)) - truth).norm(dim=1).mean().item()


def judge_grid(answer: object) -> None:
    """4.7: eight() -> nine falling times, on which dpmpp errs by less than GOOD_ENOUGH."""
    answer = answer() if callable(answer) else answer
    refuse((answer is None, "your function returned None: does it end with `return`?"))
    try:
        ts = torch.as_tensor(answer, dtype=F64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"nine times are wanted, a tensor or a list of numbers; got {type(answer).__name__}") from None
    refuse((ts.ndim != 1 or len(ts) != 9, f"eight steps have nine times, start and end included; got {f'{len(ts)} times' if ts.ndim == 1 else f'shape {tuple(ts.shape)}'}"),
           (not ts.isfinite().all(), "some of the times are nan or inf"))
    refuse((ts.max() > 1 or ts.min() < 0, f"times lie in [0, 1]; yours reach from {ts.min():.3g} to {ts.max():.3g}"),
           (bool((ts[1:] > ts[:-1]).all()), "your times rise; a sampler walks from noise to data, so flip them"),
           (bool((ts[1:] == ts[:-1]).any()), "a time comes twice, so one evaluation is wasted: strictly falling times are wanted"),
           (not bool((ts[1:] < ts[:-1]).all()), "your times do not fall all the way"),
           (ts[-1] != 0, f"the last time is {ts[-1]:.3g}: noise is left over; the data is at t = 0"),
           (ts[0] < 0.7, f"your grid starts at t = {ts[0]:.2f}, where much of the data shows already; the noise that you start from knows nothing of it"))
    with one_thread():
        x = noise(2000, 2)
        truth = last(samplers.unipc(BUMPS.denoiser(COSINE), COSINE, x, grid(COSINE, 100, "log_snr")))
        error, even, quadratic = (grid_error(times, x, truth) for times in (ts, grid(COSINE, 8), grid(COSINE, 8, "quadratic")))
    refuse((error > 1.005 * even, f"your grid errs by {error:.3f}, more than times even in t ({even:.3f})"),
           (error > 0.995 * even, f"your grid errs by {error:.3f}, as times even in t do ({even:.3f})"),
           (error > 1.005 * quadratic, f"your grid errs by {error:.3f}: better than even in t ({even:.3f}), not yet as good as quadratic ({quadratic:.3f})"),
           (error > max(0.995 * quadratic, GOOD_ENOUGH), f"your grid errs by {error:.3f}, as the quadratic one does: the goal is {GOOD_ENOUGH}. Try other powers, and other starts than t = 1"),
           (error >= GOOD_ENOUGH, f"your grid errs by {error:.4f}: better than quadratic ({quadratic:.4f}), and close; the goal is {GOOD_ENOUGH}"))


# ---- 4.8: invert and edit

def conditional(schedule: Schedule) -> Callable:
    """An exact denoiser of two kinds of data: D(x, t, y=labels (B,)); without y, of both together."""
    kinds = [bumps(), bumps()]
    both = GaussianMixture(torch.cat([m.means for m in kinds]), torch.cat([m.stds for m in kinds]), torch.cat([m.weights for m in kinds]))

    def D(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return both.denoiser(schedule)(x, t)
        return torch.stack([m.denoiser(schedule)(x, t) for m in kinds])[y.expand(len(x)), torch.arange(len(x))]
    return D


def upwards(D: Callable, schedule: Schedule, x: Tensor, ts: Iterable, look: str = "here", scaled: bool = True, **condition) -> Tensor:
    """`invert` with the switches that turn it into wrong versions. ts: rising."""
    for t, s in zip(ts[:-1], ts[1:]):
        at = s if look == "ahead" or schedule.sigma(t) == 0 else t
        seen = x * schedule.alpha(at) / schedule.alpha(t) if scaled else x
        eps_hat = (seen - schedule.alpha(at) * D(seen, at, **condition)) / schedule.sigma(at)
        x = schedule.alpha(s) / schedule.alpha(t) * (x - schedule.sigma(t) * eps_hat) + schedule.sigma(s) * eps_hat
    return x


def judge_edit(f: Callable) -> None:
    """4.8: edit(D, schedule, x, before, after, n, strength), up with one condition and down with another."""
    for name, strength in (("flow", between(0.55, 0.7).item()), ("cosine", 1.0)):
        schedule = SCHEDULES[name]

        def case():
            D, x, before, n = conditional(schedule), 0.8 * noise(8, 2), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])[torch.randperm(8, generator=source())], 2 * int(between(2, 4.99))
            after, ts = 1 - before, grid(schedule, n, start=strength)
            up = lambda y, ts=ts, **switches: upwards(D, schedule, x, ts.flip(0), **switches, **({} if y is None else {"y": y}))
            down = lambda z, y, ts=ts: last(samplers.ddim(D, schedule, z, ts, **({} if y is None else {"y": y})))
            whole, other, half = grid(schedule, n), grid(schedule, n, start=1 - strength if strength < 1 else 0.3), grid(schedule, n // 2, start=strength)
            full = strength == 1
            return (D, schedule, x, before, after, n, strength), down(up(before), after), {
                "both ways with `before`: that is the round trip, and nothing is edited": down(up(before), before),
                "both ways with `after`: on the way up the denoiser must be told what x is, `before`": down(up(after), after),
                "`before` and `after` have changed places: up with `before`, down with `after`": down(up(after), before),
                "the conditions are not passed on: D(x, t, y=...)": down(up(None), None),
                "up with `before` as it should be, but down without a condition": down(up(before), None),
                "up without a condition, down with `after`: pass y on the way up, too": down(up(None), after),
                "that is the noise, the end of the way up; the way down is missing": up(before),
                "there is no way up: the image itself is taken for a noisy one": down(x, after),
                "x has not changed": x,
                "you split the n steps between the two ways; each has n": down(up(before, half), after, half),
                "up, eps_hat is seen at the upper level s; (4.31) looks where x is, at t (only at t = 0 one level up)": down(up(before, look="ahead"), after),
                "at t = 0 the look is one level up; x must be multiplied by alpha(s) there, too, to look like an image of that level": down(up(before, scaled=False), after),
            } | ({} if full else {
                "strength is not used: you go up all the way to t = 1": down(up(before, whole), after, whole),
                "you go up to 1 - strength": down(up(before, other), after, other),
                "the way up ends at strength, but the way down starts from t = 1": down(up(before), after, whole),
                "the way up goes to t = 1, the way down starts at strength": down(up(before, whole), after),
            })
        inputs, right, mistakes = apart(case, rtol=3e-4, atol=3e-4)
        try:
            got = asked(f, *inputs)
        except ValueError as error:
            refuse(("not finite" in str(error), "the end of the way up is nan: at t = 0 there is no noise to see, sigma = 0; look one level up"))
            raise
        not_finite(got, f"{name}: nan or inf: at t = 0 there is no noise to see, sigma = 0; look one level up")
        compare(got, right, mistakes, rtol=1e-3, atol=1e-3, otherwise=f"{name}, strength {strength:.2f}: neither the edit nor a mistake that is known here: compare each way with samplers.invert and samplers.ddim, on grid(schedule, n, start=strength)")


# ---- 4.9: distillation

class Teacher(nn.Module):
    """An exact denoiser that could be trained: it has one parameter."""

    def __init__(self, mixture: GaussianMixture, schedule: Schedule):
        super().__init__()
        self.exact, self.one = mixture.denoiser(schedule), nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.one * self.exact(x.detach(), t)


def judge_target(f: Callable) -> None:
    """4.9: student_target(D, schedule, x, t, m, s), the guess with which one ddim step lands where two of the teacher's do."""
    for name, schedule in SCHEDULES.items():
        def case():
            D, x, s = Teacher(bumps(), schedule), noise(5, 2), between(0.2, 0.4, 5)
            m = s + between(0.1, 0.25, 5)
            t = m + between(0.1, 0.25, 5)
            return (D, schedule, x, t, m, s), *two_steps(D, schedule, x, t, m, s)
        inputs, right, mistakes = apart(case, rtol=1e-4, atol=1e-4)
        got = target_of(f, *inputs)
        not_finite(got, f"{name}: nan or inf, although 0 < s < m < t < 1")
        compare(got, right, mistakes, rtol=2e-4, atol=2e-4, otherwise=f"{name}: put your target into one ddim step from t to s: it must land at the teacher's x_s. Write that step down, and solve for x0_hat")
        refuse((got.requires_grad, "right, but gradients flow through it into the teacher: make it under torch.no_grad(), only the student learns"))
    one = torch.ones(2, dtype=F64)
    inputs = Teacher(bumps(), SCHEDULES["flow"]), SCHEDULES["flow"], noise(2, 2), torch.tensor([1.0, 0.5], dtype=F64), torch.tensor([0.75, 0.25], dtype=F64), 0.5 * one * torch.tensor([1.0, 0.0])
    got = target_of(f, *inputs)
    not_finite(got, "right in between, but nan or inf from t = 1 (alpha = 0) or to s = 0 (sigma = 0): divide by neither of these")
    compare(got, two_steps(*inputs)[0], rtol=1e-3, atol=1e-4, otherwise="right in between, but not from alpha_t = 0, or not in the step to s = 0, where the target is the teacher's x_s itself")


def target_of(f: Callable, D: Callable, schedule: Schedule, *inputs: Tensor) -> object:
    with torch.enable_grad():
        return asked(f, D, schedule, *inputs)


@torch.no_grad()
def two_steps(D: Callable, schedule: Schedule, x: Tensor, t: Tensor, m: Tensor, s: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The target of 4.9, and its mistakes."""
    step = lambda x, guess, t, s: samplers.step(schedule, x, guess, t, s)
    first, ratio = D(x, t), over(schedule.sigma(s) / schedule.sigma(t), x)
    x_m = step(x, first, t, m)
    second, a_t, a_s = D(x_m, m), *(over(schedule.alpha(r), x) for r in (t, s))
    x_s = step(x_m, second, m, s)
    eps = (x - a_t * first) / over(schedule.sigma(t), x)
    solve = lambda x_s=x_s, x=x, r=ratio, a=a_t: (x_s - r * x) / (a_s - r * a)
    return solve(), {
        "that is x_s, where the teacher lands; the target is the *guess* that leads there": x_s,
        "that is x_m, the teacher's first step": x_m,
        "that is the teacher's first guess: a student that learns it makes one step of the teacher's, not two": first,
        "that is the teacher's second guess, which solves the step from m to s; the student steps from t, with x_t": second,
        "that is the mean of the teacher's two guesses; the right weights follow from where the steps land": (first + second) / 2,
        "the second step asks the teacher at x_t instead of x_m": solve(step(x_m, D(x, m), m, s)),
        "the second step asks the teacher at t; x_m is at level m": solve(step(x_m, D(x_m, t), m, s)),
        "the second step starts from x_t; it starts from x_m": solve(step(x, second, m, s)),
        "the second step keeps the first step's eps_hat: compute it again, at x_m": solve(a_s * second + over(schedule.sigma(s), x) * eps),
        "the student's step starts from x_m in your formula, not from x_t": solve(x=x_m),
        "x_s + ratio x_t has the wrong sign: what comes from x_t is taken away": (x_s + ratio * x) / (a_s - ratio * a_t),
        "alpha_s + ratio alpha_t has the wrong sign: (4.8) has eps_hat = (x - alpha_t x0_hat) / sigma_t": (x_s - ratio * x) / (a_s + ratio * a_t),
        "below the line the second part is missing: eps_hat contains x0_hat, too": (x_s - ratio * x) / a_s,
        "it is not divided by alpha_s - ratio alpha_t": x_s - ratio * x,
        "sigma_s / sigma_t is upside down": solve(r=1 / ratio.clamp(min=1e-9)),
        "the ratio is squared; sigmas are standard deviations, no squares here": solve(r=ratio**2),
        "alpha_t and alpha_s have changed places below the line": (x_s - ratio * x) / (a_t - ratio * a_s),
    }


QUESTIONS = [
    Question("4.1", 2, judge_steps, "count calls of the network, and nothing else",
             ("In the lesson's functions, count the calls of D for a grid of n steps that ends at 0. Mind the last step.", "ddim, dpmpp and unipc: n calls. heun: 2 n - 1. A guided guess is two evaluations: first divide the budget.",
              "calls = budget // 2 if guided else budget; return (calls + 1) // 2 if sampler == \"heun\" else calls")),
    Question("4.2", 3, judge_ddim, "for every eta, every schedule and every shape; eta = 1 is the posterior",
             ("Compute the four coefficients first, and reshape them to x's number of dimensions. Then v, then eps_hat, then (4.8).", "v = eta * sigma_s / sigma_t * sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2); eps_hat belongs to level t.",
              "alpha_s * x0_hat + (sigma_s**2 - v**2).sqrt() * (x - alpha_t * x0_hat) / sigma_t + v * z, each coefficient c as c.view(-1, *[1] * (x.ndim - 1))")),
    Question("4.3", 3, judge_repaired, "four defects, of which only one was loud",
             ("Which quantity below the second root is an image, and not a number? What is the alpha_bar of the data? How often is the network asked?",
              "With v = eta * sqrt((1 - b) / (1 - a) * (1 - a / b)) the first root is that of 1 - b - v**2. So which noise was taken away, and must come back?",
              "places = [k * T // steps - 1 for k in range(steps, 0, -1)]; after the last one b = 1; toward = (1 - b - v**2).sqrt() * eps; the noise term is v * z")),
    Question("4.4", 3, judge_noise, "between the two variances of Ho et al. lies the right one, if the width of the data is known",
             ("Of (4.3) only Var(x0 | x_t) is missing. x_t = alpha_t x0 + sigma_t eps, both Gaussian: inverse variances add.", "Var(x0 | x_t) = w^2 sigma_t^2 / (alpha_t^2 w^2 + sigma_t^2). Put it in; it can be simplified so that no line has a zero below it.",
              "with V = alpha^2 w^2 + sigma^2 at each level: V_s * (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) / V_t")),
    Question("4.5", 3, judge_heun, "two slopes and their mean, and no division by alpha: it starts wherever the schedule's slopes are finite",
             ("The slope of (4.11) as a function of x and t: schedule.d_alpha and schedule.d_sigma are the derivatives.", "u = slope(x, t); ahead = x + (s - t) * u; and the mean of u and slope(ahead, s) for the step from x. s - t is negative.",
              "if s == 0: return D(x, t). Otherwise x + (s - t) * (u + slope(x + (s - t) * u, s)) / 2")),
    Question("4.6", 3, judge_order, "a straight piece between the law's beginning and the rounding",
             ("If e = C n^-p, what is log e as a function of log n?", "Throw away the errors that are not above ten times the floor. Of the others the last follow the law best.",
              "keep = errors > 10 * floor; n, e = ns[keep][-2:], errors[keep][-2:]; return -(e[1] / e[0]).log() / (n[1] / n[0]).log()")),
    Question("4.7", 3, judge_grid, "the same sampler, the same eight evaluations, a fraction of the error; for these data, though",
             ("Begin with a family that has two numbers: start * (i / n)^power. Try a few dozen pairs.", "Starts between 0.93 and 0.98, powers near 2. For more: change all nine times a little at random, and keep what is better.",
              "0.95 * (torch.arange(8, -1, -1) / 8) ** 2 is enough")),
    Question("4.8", 3, judge_edit, "up with the old word, down with the new one; what the two have in common stays",
             ("The grid of both ways is grid(schedule, n, start=strength); upwards it is flipped.", "samplers.invert(D, schedule, x, rising, y=before) yields states, and last(...) takes the end. Then samplers.ddim with y=after.",
              "ts = grid(schedule, n, start=strength); z = last(invert(D, schedule, x, ts.flip(0), y=before)); return last(ddim(D, schedule, z, ts, y=after))")),
    Question("4.9", 3, judge_target, "one step of the student lands where two of the teacher's do",
             ("First the teacher: two deterministic steps of (4.8), each with its own guess. Where does it land?", "Then write one step from t to s with an unknown guess, x_s = alpha_s g + sigma_s (x - alpha_t g) / sigma_t, and solve for g.",
              "r = sigma_s / sigma_t; g = (x_s - r * x) / (alpha_s - r * alpha_t), under torch.no_grad(), each coefficient reshaped to (B, 1)")),
]
