"""The questions of lesson 4.

Each question has a case, the right answer, and a table: diagnosis -> what this mistake computes.
"""
import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from .. import samplers
from ..lab.data import GaussianMixture
from ..samplers import last, timesteps
from ..schedules import Schedule, append_dims
from .common import (
    COSINE,
    F64,
    SCHEDULES,
    Case,
    Question,
    Wrong,
    as_function,
    as_scalar,
    between,
    bumps,
    call_pure,
    compare,
    compare_case,
    draw_case,
    draws,
    fresh_generator,
    noise,
    not_finite,
    one_thread,
    reject_first,
    reject_if,
    reject_none,
    wrong_answers,
)

# the lesson's mixture of three Gaussians
BUMPS = GaussianMixture([[-1.0, -0.5], [1.0, -0.6], [0.2, 1.0]], [0.2, 0.3, 0.15], [3.0, 2.0, 1.0])
# 4.7: the mean distance that good timesteps stay below
GOOD_ENOUGH = 0.02


def coefficients(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """alpha_t, sigma_t, alpha_s, sigma_s."""
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


def has_nan(got: object) -> bool:
    return torch.is_tensor(got) and bool(got.isnan().any())


SEEDS_ALL = ("right, but your function sets the seed of all random numbers, or draws some: no "
             "noise is wanted here, so leave them alone")


def reject_seeding(f: Callable, *inputs: object) -> None:
    """Raise Wrong if f sets or moves torch's own random numbers."""
    torch.default_generator.seed()
    before = torch.get_rng_state()
    # float32 made inside f; `call_pure` has judged it
    with contextlib.suppress(RuntimeError):
        f(*(x.clone() if torch.is_tensor(x) else x for x in inputs))
    reject_if((not torch.equal(before, torch.get_rng_state()), SEEDS_ALL))


def differs(got: object, other: object) -> bool:
    """Whether two tensors of one shape have other values."""
    tensors = torch.is_tensor(got) and torch.is_tensor(other) and got.shape == other.shape
    return tensors and not torch.equal(got, other)


def batch_of(value: float, size: int = 2) -> Tensor:
    return torch.full((size,), value, dtype=F64)


# ---- 4.1: what a sampler costs

def steps_case(sampler: str, guided: bool) -> Case:
    """Budgets with every remainder of a division by 4, and larger ones."""
    small = 4 * between(3, 9).round() + torch.arange(4)
    budgets = torch.cat([small, between(20, 90, 3).round()])
    calls = (budgets / (1 + guided)).floor()
    what = f"{sampler}{', guided' if guided else ''}"
    return Case(sampler=sampler, guided=guided, budgets=budgets, calls=calls, what=what)


def steps_for(c: Case, calls: Tensor | None = None) -> Tensor:
    """How many steps so many calls of the network pay for; by default the case's calls."""
    calls = c.calls if calls is None else calls
    return ((calls + 1) / 2).floor() if c.sampler == "heun" else calls.floor()


STEPS_MISTAKES_OF = {
    "ddim": {},
    "dpmpp": {
        "dpmpp: its second prediction is an old one, kept from the step before: "
        "one evaluation a step":
            lambda c: (c.calls / 2).floor(),
        "dpmpp: the first step has no old prediction and is ddim's, for one evaluation, too: "
        "n steps cost n":
            lambda c: c.calls - 1,
    },
    "heun": {
        "heun: that is one evaluation a step; it evaluates a second time where each step arrives":
            lambda c: c.calls,
        "heun: the step to s = 0 has no second evaluation, so n steps cost 2 n - 1, "
        "and an odd evaluation is of use":
            lambda c: (c.calls / 2).floor(),
        "heun: that is what so many steps cost, 2 n - 1; "
        "how many steps does the budget pay for?":
            lambda c: 2 * c.calls - 1,
        "heun: that is what your steps cost, 2 n - 1; return n":
            lambda c: 2 * steps_for(c) - 1,
        "heun, guided: first find how many predictions the budget pays for, "
        "then how many steps; you have the two the other way round":
            lambda c: (((c.budgets + 1) / 2).floor() / 2).floor(),
        "heun, guided: the last step has one prediction, and that costs two evaluations, too":
            lambda c: ((c.budgets + 3) / 4).floor() if c.guided else None,
    },
    "unipc": {
        "unipc: the corrector's evaluation is the next step's prediction, "
        "so a step costs one evaluation":
            lambda c: (c.calls / 2).floor(),
        "unipc: that is what heun's steps cost; the corrector's evaluation is the next step's "
        "prediction":
            lambda c: ((c.calls + 1) / 2).floor(),
        "unipc: the first prediction is paid by the last step, which is not corrected: "
        "n steps cost n":
            lambda c: c.calls - 1,
    },
}

GUIDED_STEPS_MISTAKES = {
    "guided: a guided prediction costs two evaluations, "
    "one with the condition and one without":
        lambda c: steps_for(c, c.budgets),
    "guided: you multiply the budget by two; a prediction costs twice as much, so divide":
        lambda c: steps_for(c, 2 * c.budgets),
    "guided: three for a prediction is too much: one with the condition, one without":
        lambda c: steps_for(c, (c.budgets / 3).floor()),
    "guided: every prediction costs two evaluations; it is not one evaluation more in all":
        lambda c: steps_for(c, c.budgets - 1),
    "guided: you round half an evaluation; what is left over is lost: divide with //":
        lambda c: steps_for(c, (c.budgets / 2).round()),
}

UNGUIDED_STEPS_MISTAKES = {
    "you halve the budget; without guidance a prediction costs one evaluation, "
    "and ddim's step takes one prediction":
        lambda c: steps_for(c, (c.budgets / 2).floor()),
}


def rounded_up(c: Case) -> Tensor:
    if c.sampler == "heun":
        return ((c.calls + 2) / 2).floor()
    return (c.budgets / (1 + c.guided)).ceil()


COMMON_STEPS_MISTAKES = {
    "{c.what}: you round up; the last step is not paid for": rounded_up,
    "{c.what}: that is the number of timesteps; the steps are one fewer":
        lambda c: steps_for(c) + 1,
}


def steps_mistakes(c: Case) -> dict[str, Callable]:
    by_guidance = GUIDED_STEPS_MISTAKES if c.guided else UNGUIDED_STEPS_MISTAKES
    return STEPS_MISTAKES_OF[c.sampler] | by_guidance | COMMON_STEPS_MISTAKES


def judge_steps(f: Callable) -> None:
    """4.1: steps_for(sampler, budget, guided), the steps that so many evaluations pay for."""
    for guided in (False, True):
        for sampler in STEPS_MISTAKES_OF:
            judge_steps_of(f, steps_case(sampler, guided))
            judge_small_budgets(f, sampler, guided)


NOT_PAID = ("right, but {what}, takes a step with a budget of {b}, which does not pay for a "
            "prediction: that is 0 steps")
SMALL_BUDGET = ("right for large budgets, but {what}, takes {got:.0f} steps with a budget of {b}: "
                "count the calls of the denoiser in the lesson's function, for n = 1")


def judge_small_budgets(f: Callable, sampler: str, guided: bool) -> None:
    """4.1 with a few evaluations, or none."""
    what = f"{sampler}, {'guided' if guided else 'without guidance'}"
    for b in range(6):
        calls = torch.tensor(float(b // (1 + guided)))
        got = as_scalar(f(sampler, b, guided))
        wrong = got != steps_for(Case(sampler=sampler, calls=calls))
        words = SMALL_BUDGET if calls else NOT_PAID
        reject_if((wrong, words.format(what=what, b=b, got=got)))


def judge_steps_of(f: Callable, c: Case) -> None:
    got = torch.stack([as_scalar(as_function(f)(c.sampler, int(b), c.guided)) for b in c.budgets])
    for b, n in zip(c.budgets, got):
        reject_if((n != n.round(), f"{c.what}: a whole number of steps is wanted; "
                   f"for a budget of {b:.0f} yours is {n:.2f}: divide with //"))
    # the first budget with a wrong number of steps
    k = int((got != steps_for(c)).int().argmax())
    compare_case(got, c, steps_for, steps_mistakes(c), rtol=0, atol=0.01,
                 otherwise=f"{c.what}: with a budget of {c.budgets[k]:.0f} you take "
                 f"{got[k]:.0f} steps: count the calls of the denoiser in the lesson's function, "
                 "for timesteps that end at 0")


# ---- 4.2: one step of ddim

def ddim_case(schedule: Schedule, x: Tensor, x0_hat: Tensor, t: Tensor, s: Tensor, eta: float,
              z: Tensor) -> Case:
    """The inputs of (4.8), its coefficients, and its standard deviations."""
    c = Case(inputs=(schedule, x, x0_hat, t, s, eta, z), x=x, x0_hat=x0_hat, eta=eta, z=z)
    c.a_t, c.b_t, c.a_s, c.b_s = (append_dims(q, x) for q in coefficients(schedule, t, s))
    # sigma_{t|s}, sigma-tilde, and the v of (4.8)
    c.std_ts = (c.b_t**2 - (c.a_t / c.a_s * c.b_s) ** 2).sqrt()
    c.tilde = c.b_s * c.std_ts / c.b_t
    c.v = eta * c.tilde
    c.eps_hat = (x - c.a_t * x0_hat) / c.b_t
    return c


def draw_ddim(schedule: Schedule, shape: tuple[int, ...]) -> Case:
    x, x0_hat, z = noise(*shape), noise(*shape), noise(*shape)
    s, eta = between(0.4, 0.6, 4), between(0.4, 0.8).item()
    c = ddim_case(schedule, x, x0_hat, s + between(0.08, 0.15, 4), s, eta, z)
    # so that sigma_s^2 - v has a root, too: that mistake is named, not its nan
    return c if (c.b_s**2 > c.v).all() else draw_ddim(schedule, shape)


def ddim_step(c: Case, **parts: Tensor) -> Tensor:
    """(4.8). parts replace: v, rest (the factor of eps_hat), drawn (of z), a_s, eps_hat."""
    v = parts.get("v", c.v)
    rest = parts.get("rest", (c.b_s**2 - v**2).clamp(min=0).sqrt())
    x_s = parts.get("a_s", c.a_s) * c.x0_hat + rest * parts.get("eps_hat", c.eps_hat)
    return x_s + parts.get("drawn", v) * c.z


def case_of_first(c: Case) -> Case:
    """The case in which all examples have the levels of the first one."""
    schedule, x, x0_hat, t, s, eta, z = c.inputs
    return ddim_case(schedule, x, x0_hat, t[:1].expand_as(t), s[:1].expand_as(s), eta, z)


def with_schedule(c: Case, alpha: Callable, sigma: Callable) -> Case:
    """The case with other functions alpha and sigma of the time."""
    return ddim_case(Schedule(alpha, sigma), *c.inputs[1:])


def without_sigma(c: Case) -> Case:
    """The case in which sigma is computed from alpha, as if alpha^2 + sigma^2 were 1."""
    alpha = c.inputs[0].alpha
    return with_schedule(c, alpha, lambda t: (1 - alpha(t) ** 2).sqrt())


def alpha_for_bar(c: Case) -> Case:
    """The case in which alpha is taken for alpha_bar."""
    alpha = c.inputs[0].alpha
    return with_schedule(c, lambda t: alpha(t).sqrt(), lambda t: (1 - alpha(t)).sqrt())


def clipped(c: Case) -> Case:
    schedule, x, x0_hat, *rest = c.inputs
    return ddim_case(schedule, x, x0_hat.clamp(-1, 1), *rest)


DDIM_MISTAKES = {
    "z is multiplied by a variance; (4.8) has the standard deviation, its root":
        lambda c: ddim_step(c, drawn=c.v**2),
    "eps_hat is multiplied by a variance; its factor is the root of sigma_s^2 - v^2":
        lambda c: ddim_step(c, rest=c.b_s**2 - c.v**2),
    "eta counts twice: v = eta sigma-tilde has one eta, and so its square eta^2":
        lambda c: ddim_step(c, v=c.eta**2 * c.tilde),
    "eta counts twice in front of z: v already contains it":
        lambda c: ddim_step(c, drawn=c.eta * c.v),
    "under the root eta is still to be squared: sigma_s^2 - eta^2 sigma-tilde^2":
        lambda c: ddim_step(c, rest=(c.b_s**2 - c.eta * c.tilde**2).sqrt()),
    "under the root eta is missing: "
    "you take away all of sigma-tilde^2 and give back eta of it":
        lambda c: ddim_step(c, rest=(c.b_s**2 - c.tilde**2).sqrt()),
    "eta is missing in front of z":
        lambda c: ddim_step(c, drawn=c.tilde),
    "noise is added, but none is taken away: "
    "eps_hat keeps all of sigma_s, and the variance is too large, (4.5)":
        lambda c: ddim_step(c, rest=c.b_s),
    "noise is taken away, but none is added: z is missing":
        lambda c: ddim_step(c, drawn=0 * c.v),
    "alpha_t stands before x0_hat where alpha_s belongs: you arrive at level s":
        lambda c: ddim_step(c, a_s=c.a_t),
    "alpha_s is missing before x0_hat":
        lambda c: ddim_step(c, a_s=1),
    "eps_hat is computed with the coefficients of level s; x is still at level t":
        lambda c: ddim_step(c, eps_hat=(c.x - c.a_s * c.x0_hat) / c.b_s),
    "alpha_t is missing in eps_hat: (x - alpha_t x0_hat) / sigma_t":
        lambda c: ddim_step(c, eps_hat=(c.x - c.x0_hat) / c.b_t),
    "z is multiplied by eta sigma-tilde^2; sigma-tilde is a standard deviation already":
        lambda c: ddim_step(c, drawn=c.eta * c.tilde**2),
    "x0_hat is clamped to [-1, 1]; (4.8) takes it as it is":
        lambda c: ddim_step(clipped(c)),
    "sigma is computed from alpha; it is schedule.sigma, and alpha^2 + sigma^2 need not be 1":
        lambda c: ddim_step(without_sigma(c)),
    "alpha is taken for alpha-bar: schedule.alpha is a standard deviation, its square is "
    "alpha-bar":
        lambda c: ddim_step(alpha_for_bar(c)),
    "that is the step of the cosine schedule; compute with the schedule that is given":
        lambda c: ddim_step(ddim_case(COSINE, *c.inputs[1:])),
    "eps_hat is not divided by sigma_t":
        lambda c: ddim_step(c, eps_hat=c.x - c.a_t * c.x0_hat),
    "eps_hat has the wrong sign: x minus alpha_t x0_hat":
        lambda c: ddim_step(c, eps_hat=-c.eps_hat),
    "x stands where eps_hat belongs":
        lambda c: ddim_step(c, eps_hat=c.x),
    "your v comes from sigma_{t|s}, the other variance of (4.1); "
    "sigma-tilde is sigma_s / sigma_t of it, (4.2)":
        lambda c: ddim_step(c, v=c.eta * c.std_ts),
    "sigma_{t|s}^2 is sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2: "
    "the ratio of the alphas is missing":
        lambda c: ddim_step(c, v=c.eta * c.b_s / c.b_t * (c.b_t**2 - c.b_s**2).sqrt()),
    "right only where alpha^2 + sigma^2 = 1: "
    "1 - (alpha_t / alpha_s)^2 is not sigma_{t|s}^2 in every schedule, (4.1)":
        lambda c: ddim_step(c, v=c.eta * c.b_s / c.b_t * (1 - (c.a_t / c.a_s) ** 2).sqrt()),
    "sigma_s / sigma_t is upside down in sigma-tilde":
        lambda c: ddim_step(c, v=c.eta * c.b_t / c.b_s * c.std_ts),
    "nothing is random: eta is not used":
        lambda c: ddim_step(c, v=0 * c.v),
    "that is the step for eta = 1, whatever eta is":
        lambda c: ddim_step(c, v=c.tilde),
    "the factor of eps_hat is the root of sigma_s^2 - v^2, not sigma_s - v: variances subtract":
        lambda c: ddim_step(c, rest=c.b_s - c.v),
    "below the root stands sigma_s^2 - v; v is still to be squared":
        lambda c: ddim_step(c, rest=(c.b_s**2 - c.v).sqrt()),
    "v is eta sigma_s; it is eta sigma-tilde, (4.2)":
        lambda c: ddim_step(c, v=c.eta * c.b_s),
    "in sigma_{t|s}^2 the ratio alpha_t / alpha_s is still to be squared":
        lambda c: ddim_step(c, v=c.eta * c.b_s / c.b_t * (
            c.b_t**2 - c.a_t / c.a_s * c.b_s**2).sqrt()),
    "the noise that is left has the size sigma_t, not that of level s":
        lambda c: ddim_step(c, rest=(c.b_t**2 - c.v**2).sqrt()),
    "under the root 1 - alpha_s^2 stands where sigma_s^2 belongs; they differ in other schedules":
        lambda c: ddim_step(c, rest=(1 - c.a_s**2 - c.v**2).clamp(min=0).sqrt()),
    "noise of width eta sigma_{t|s} is added, but sigma-tilde^2 is taken away":
        lambda c: ddim_step(c, drawn=c.eta * c.std_ts),
    "you mix the steps of eta = 0 and of eta = 1; (4.8) is no straight line in eta":
        lambda c: (1 - c.eta) * ddim_step(c, v=0 * c.v) + c.eta * ddim_step(c, v=c.tilde),
    "the factor of eps_hat is the root of sigma_s^2 - v^2; sqrt(1 - eta^2) sigma_s would be right "
    "for sigma-tilde = sigma_s":
        lambda c: ddim_step(c, rest=(1 - c.eta**2) ** 0.5 * c.b_s),
    "sigma_{t|s}^2, a variance, stands in sigma-tilde where its root belongs":
        lambda c: ddim_step(c, v=c.eta * c.b_s / c.b_t * c.std_ts**2),
    "every example gets the levels of the first: t and s have one entry for each":
        lambda c: ddim_step(case_of_first(c)),
    "that is x0_hat alone, where the trajectory ends":
        lambda c: c.x0_hat,
    "x has not moved":
        lambda c: c.x,
}

FOR_IMAGES = ("right for images, but x of shape {wanted} became {got}: "
              "reshape coefficients to the number of dimensions of x")
DDIM_NAN = ("{name}: some values are nan: below a root stands something negative; "
            "with s < t, sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2 is positive")
DDIM_OTHERWISE = ("{name}: not (4.8): print alpha_s x0_hat, the factor of eps_hat and the factor "
                  "of z one by one; the squares of the last two add up to sigma_s^2")


def judge_ddim(f: Callable) -> None:
    """4.2: ddim_step(schedule, x, x0_hat, t, s, eta, z), levels (B,) and x of any shape."""
    for name, shape in (("cosine", (4, 1, 5, 5)), ("flow", (4, 3)), ("flow", (4,))):
        c = draw_case(partial(draw_ddim, SCHEDULES[name], shape), ddim_step, DDIM_MISTAKES)
        got = call_pure(f, *c.inputs)
        if torch.is_tensor(got) and got.shape != shape and len(shape) < 4:
            raise Wrong(FOR_IMAGES.format(wanted=shape, got=tuple(got.shape)))
        not_finite(got, DDIM_NAN.format(name=name))
        compare_case(got, c, ddim_step, DDIM_MISTAKES, rtol=1e-3, atol=1e-4,
                     otherwise=DDIM_OTHERWISE.format(name=name))
    x, x0_hat, z = noise(2, 3), noise(2, 3), noise(2, 3)
    judge_ddim_from_noise(f, x, x0_hat, z)
    judge_ddim_to_data(f, x, x0_hat, z)
    judge_ddim_mixed(f)
    reject_seeding(f, *c.inputs)


def judge_ddim_from_noise(f: Callable, x: Tensor, x0_hat: Tensor, z: Tensor) -> None:
    """4.2 from alpha = 0."""
    c = ddim_case(SCHEDULES["flow"], x, x0_hat, batch_of(1.0), batch_of(0.5), 0.7, z)
    got = call_pure(f, *c.inputs)
    not_finite(got, "right in between, but nan or inf from t = 1 of a schedule with alpha = 0 "
               "there: divide by alpha_s, never by alpha_t")
    compare(got, ddim_step(c), otherwise="right in between, but wrong from t = 1, where alpha = 0: "
            "sigma_{t|s} is sigma_t there")


DDIM_TO_DATA_MISTAKES = {
    "right in between, but the step to s = 0 adds noise":
        lambda c: ddim_step(c, drawn=c.eta * c.b_t),
}


def judge_ddim_to_data(f: Callable, x: Tensor, x0_hat: Tensor, z: Tensor) -> None:
    """4.2 to s = 0."""
    c = ddim_case(COSINE, x, x0_hat, batch_of(0.3), batch_of(0.0), 0.7, z)
    got = call_pure(f, *c.inputs)
    not_finite(got, "right in between, but nan or inf in the step to s = 0, where sigma_s = 0: "
               "do not divide by it")
    compare_case(got, c, lambda c: c.x0_hat, DDIM_TO_DATA_MISTAKES,
                 otherwise="right in between, but the step to s = 0 must end at x0_hat itself: "
                 "sigma_s and v are 0 there")


def judge_ddim_mixed(f: Callable) -> None:
    """4.2 with one example from alpha = 0, one to s = 0, and one in between."""
    t, s = torch.tensor([[0.6, 0.3, 1.0], [0.4, 0.0, 0.5]], dtype=F64)
    c = ddim_case(SCHEDULES["flow"], noise(3, 2), noise(3, 2), t, s, 0.7, noise(3, 2))
    got = call_pure(f, *c.inputs)
    compare(got, ddim_step(c), otherwise="right where the whole batch goes to s = 0, or comes from "
            "t = 1, but not where one example does: each has its own levels")


# ---- 4.3: a copied sampler

def table_case(T: int, steps: int) -> Case:
    """A table alpha_bar of T levels, and an eps_net for data at plus and minus 1.5."""
    betas = torch.linspace(0.01, 0.1, T, dtype=F64) * between(0.8, 1.2)
    alpha_bar, x = torch.cumprod(1 - betas, 0), noise(50, 2)
    seed = fresh_generator().initial_seed() % 2**31
    c = Case(T=T, steps=steps, alpha_bar=alpha_bar, x=x, seed=seed)
    sharpness = between(1.5, 3)

    def eps_net(x: Tensor, i: int) -> Tensor:
        a = alpha_bar[i]
        return (x - a.sqrt() * 1.5 * (sharpness * x).tanh()) / (1 - a).sqrt()

    c.eps_net = eps_net
    c.eta = between(0.5, 0.8).item()
    c.indices = [k * T // steps - 1 for k in range(steps, 0, -1)]
    # the standard deviation of the noise at index 0
    c.noise_std = (1 - alpha_bar[0]).sqrt()
    return c


def level_after(c: Case, k: int, final: float | Tensor = 1.0) -> Tensor:
    """alpha_bar where step k ends; final: where the last step ends."""
    if k + 1 < c.steps:
        return c.alpha_bar[c.indices[k + 1]]
    return torch.as_tensor(final, dtype=F64)


def one_index_down(c: Case, k: int) -> Tensor:
    """alpha_bar one index below that of step k, and that of the data after the last step."""
    if k + 1 < c.steps:
        return c.alpha_bar[c.indices[k] - 1]
    return torch.ones((), dtype=F64)


def draw_like(c: Case, g: torch.Generator) -> Tensor:
    return torch.randn(c.x.shape, generator=g, dtype=c.x.dtype)


def draw_second(c: Case, g: torch.Generator) -> Tensor:
    """The second of two draws."""
    draw_like(c, g)
    return draw_like(c, g)


def draw_numbers(c: Case, g: torch.Generator) -> Tensor:
    """One number for each example."""
    return torch.randn(len(c.x), 1, generator=g, dtype=c.x.dtype)


def draw_again(c: Case, g: torch.Generator) -> Tensor:
    """The first draw, in every step."""
    return draw_like(c, torch.Generator().manual_seed(c.seed))


def sigma_tilde(a: Tensor, b: Tensor) -> Tensor:
    return ((1 - b) / (1 - a) * (1 - a / b)).clamp(min=0).sqrt()


def ddim_by_table(c: Case, eta: float = 0.0, *, indices: list[int] | None = None,
                  after: Callable = level_after, rest: Callable | None = None,
                  drawn: Callable | None = None, clip: bool = False,
                  draw: Callable = draw_like, tilde: Callable = sigma_tilde) -> Tensor:
    """4.3 repaired, with parts that can be replaced.

    after(c, k): alpha_bar where step k ends; rest(a, b, v): the factor of eps;
    drawn(a, b, v, toward): the factor of z; clip: x0_hat is clamped to [-1, 1];
    draw(c, g): z; tilde(a, b): sigma-tilde.
    """
    x, g = c.x, torch.Generator().manual_seed(c.seed)
    for k, i in enumerate(c.indices if indices is None else indices):
        a, b = c.alpha_bar[i], after(c, k)
        eps, z = c.eps_net(x, i), draw(c, g)
        x0_hat = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x0_hat = x0_hat.clamp(-1, 1) if clip else x0_hat
        v = eta * tilde(a, b)
        toward = (rest(a, b, v) if rest else (1 - b - v**2).clamp(min=0).sqrt()) * eps
        std = drawn(a, b, v, toward) if drawn else v
        x = b.sqrt() * x0_hat + toward + std * z
    return x


def stochastic(c: Case, **parts: Callable) -> Tensor:
    return ddim_by_table(c, c.eta, **parts)


def image_root(b: Tensor, toward: Tensor) -> Tensor:
    """The copied code's noise term: an image stands below its root."""
    return (1 - b - toward**2).clamp(min=0).sqrt()


DETERMINISTIC_MISTAKES = {
    "the last step ends at alpha_bar[0], the level of index 0, and leaves noise of width "
    "{c.noise_std:.2f} in the data; the data's own alpha_bar is 1":
        lambda c: ddim_by_table(c, after=partial(level_after, final=c.alpha_bar[0])),
    "the last step is missing: you stop at the last level where the network is evaluated":
        lambda c: ddim_by_table(c, indices=c.indices[:-1]),
    "each step goes to alpha_bar[i - 1], one index down; "
    "the next level is the next index on the list":
        lambda c: ddim_by_table(c, after=lambda c, k: c.alpha_bar[c.indices[k] - 1]),
    "you clamp x0_hat to [-1, 1]; that is no repair of the copied code, and these data reach "
    "beyond 1":
        lambda c: ddim_by_table(c, clip=True),
    "each step goes to alpha_bar[i - 1], one index down, and the last to 1; "
    "the next level is the next index on the list":
        lambda c: ddim_by_table(c, after=one_index_down),
    "the last step goes to alpha_bar[-1], which is the end of the table, pure noise; "
    "the data's own alpha_bar is 1":
        lambda c: ddim_by_table(c, after=partial(level_after, final=c.alpha_bar[-1])),
    "alpha_bar stands where alpha belongs: it is alpha^2, so take its root":
        lambda c: ddim_by_table(Case(**vars(c) | {"alpha_bar": c.alpha_bar**2})),
    "nothing moves: b is the level where x is already":
        lambda c: ddim_by_table(c, after=lambda c, k: c.alpha_bar[c.indices[k]]),
}

STOCHASTIC_MISTAKES = {
    "eta counts twice: the variance that was taken away contains eta^2 already, "
    "so its root needs no further eta":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: c.eta * v),
    "no nan any more, but the noise's variance is still an image, cut off at 0: "
    "toward**2 contains eps**2; a number belongs there":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: c.eta * image_root(b, toward)),
    "that is an image, cut off at 0, in place of the noise's variance, "
    "even without eta in front":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: image_root(b, toward)),
    "noise is added, but none is taken away: toward still has all of 1 - b":
        lambda c: stochastic(c, rest=lambda a, b, v: (1 - b).sqrt()),
    "noise is taken away, but none is added":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: 0 * v),
    "eta is not used: nothing is random":
        lambda c: ddim_by_table(c, 0.0),
    "eta is always 1":
        lambda c: ddim_by_table(c, 1.0),
    "z is multiplied by a variance; take the root":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: v**2),
    "the noise is that of sigma_{t|s}, (4.1); sigma-tilde, (4.2), was taken away":
        lambda c: stochastic(c, drawn=lambda a, b, v, toward: c.eta * (1 - a / b).sqrt()),
    "eta is missing below the root of toward: all of sigma-tilde^2 is taken away":
        lambda c: stochastic(
            c, rest=lambda a, b, v: (1 - b - (v / c.eta) ** 2).clamp(min=0).sqrt()),
    "eta is still to be squared below the root of toward":
        lambda c: stochastic(
            c, rest=lambda a, b, v: (1 - b - v**2 / c.eta).clamp(min=0).sqrt()),
    "one draw serves all steps; each step needs a new z":
        lambda c: stochastic(c, draw=draw_again),
    "two draws in each step: draw z once, as the copied code does":
        lambda c: stochastic(c, draw=draw_second),
    "z is drawn in float32 here; the copied code draws it in x's dtype":
        lambda c: stochastic(
            c, draw=lambda c, g: torch.randn(c.x.shape, generator=g, dtype=torch.float32)),
    "sigma-tilde has 1 - a / b, the variance that this step added, not 1 - a":
        lambda c: stochastic(c, tilde=lambda a, b: (1 - b).sqrt()),
    "the variance is that of sigma_{t|s}, (4.1), taken away and added; (4.8) has sigma-tilde, "
    "(4.2)":
        lambda c: stochastic(c, tilde=lambda a, b: (1 - a / b).sqrt() * (b < 1)),
    "z is one number for each example; draw it in x's shape":
        lambda c: stochastic(c, draw=draw_numbers),
}


def judge_repaired(f: Callable) -> None:
    """4.3: ddim_repaired(eps_net, alpha_bar, x, steps, eta, generator), all four repaired."""
    for T, steps in ((60, 7), (64, 16)):
        c = table_case(T, steps)
        judge_deterministic(f, c)
        judge_stochastic(f, c)
    judge_without_generator(f, c)


NO_GENERATOR = ("right with a generator; without one every run draws the same noise: torch.randn "
                "takes generator=None, so set no seed, and make no generator of your own")


def judge_without_generator(f: Callable, c: Case) -> None:
    """4.3 with torch's own random numbers."""
    ends = []
    for seed in (c.seed, c.seed + 1):
        torch.default_generator.manual_seed(seed)
        ends.append(as_function(f)(c.eps_net, c.alpha_bar.clone(), c.x.clone(), c.steps, c.eta))
    reject_if((torch.is_tensor(ends[0]) and torch.equal(*ends), NO_GENERATOR))


def judge_deterministic(f: Callable, c: Case) -> None:
    """4.3 at eta = 0."""
    run = run_sampler(f, c, 0.0)
    got, c.evaluated = run.x, run.evaluated
    c.count = len(c.evaluated)
    c.begin = c.evaluated[:4]
    c.begin_right = c.indices[:4]
    reject_if((has_nan(got), "nan at eta = 0: a root of something negative is taken, and 0 * nan "
               "is nan. Does toward**2, an image, stand below the root of the noise term? "
               "A variance belongs there"))
    reject_first(INDEX_SUSPECTS, c)
    reject_if((differs(got, run_sampler(f, c, 0.0, 1).x), "at eta = 0 the samples depend on z: "
               "the noise term needs the factor eta, and a variance below its root"))
    compare_case(got, c, ddim_by_table, DETERMINISTIC_MISTAKES, rtol=1e-3, atol=1e-4,
                 otherwise="not DDIM's end at eta = 0: compare one step with (4.8), "
                 "alpha = alpha_bar.sqrt()")


NO_FACTOR = ("right at eta = 0; but at eta > 0 z has the factor 0: is what stands below its root "
             "positive? The variance of (4.8) is (1 - b) / (1 - a) * (1 - a / b), and a < b")
SAME_SAMPLES = ("right at eta = 0; but two generators with two seeds give the same samples: draw z "
                "with generator=generator, and set no seed")
NOT_STOCHASTIC = ("right at eta = 0, but not at eta > 0: what is taken away below the first root, "
                  "and what is given back by z, must be the same variance")


def judge_stochastic(f: Callable, c: Case) -> None:
    """4.3 at eta > 0."""
    runs = [run_sampler(f, c, c.eta, seed) for seed in (0, 0, 1)]
    got, again, other = (run.x for run in runs)
    reject_if((has_nan(got), "right at eta = 0, but nan at eta > 0: does toward**2, an image, "
               "stand below the root of the noise term? A variance belongs there"))
    same_shape = torch.is_tensor(got) and got.shape == c.x.shape
    reject_if((same_shape and not torch.equal(got, again),
               "two runs with the same generator differ: draw z with generator=generator"))
    same_samples = same_shape and torch.equal(got, other)
    drawn_by_its_own = runs[0].moved and not torch.equal(runs[0].state, runs[2].state)
    wrong = NO_FACTOR if drawn_by_its_own else SAME_SAMPLES
    compare_case(got, c, stochastic, STOCHASTIC_MISTAKES, rtol=1e-3, atol=1e-4,
                 otherwise=wrong if same_samples else NOT_STOCHASTIC)


OUTSIDE = ("an index lies outside the table, which has {T} levels here ({error}): T is "
           "len(alpha_bar), and the table is the one that is given")


def run_sampler(f: Callable, c: Case, eta: float, other: int = 0) -> Case:
    """What the reader's sampler returns (x), the indices at which it evaluated the network, the
    state in which it leaves the generator, and whether it moved it.

    other: 0 for the case's own seed, 1 for the next one.
    """
    evaluated = []

    def recorded(x: Tensor, i: int) -> Tensor:
        evaluated.append(int(torch.as_tensor(i).flatten()[0]))
        return c.eps_net(x, i)

    generator = torch.Generator().manual_seed(c.seed + other)
    before, given, table = generator.get_state(), c.x.clone(), c.alpha_bar.clone()
    try:
        got = as_function(f)(recorded, table, given, c.steps, eta, generator)
    except IndexError as error:
        raise Wrong(OUTSIDE.format(T=c.T, error=error)) from None
    reject_if((not torch.equal(given, c.x),
               "your function changes the x it was given (an operation such as `x += ...`): "
               "compute a new tensor"),
              (not torch.equal(table, c.alpha_bar),
               "your function changes the table alpha_bar it was given: the 1 of the data belongs "
               "into a variable of your own"))
    state = generator.get_state()
    return Case(x=got, evaluated=evaluated, state=state, moved=not torch.equal(state, before))


INDEX_SUSPECTS = {
    "the network was never evaluated":
        lambda c: not c.evaluated,
    "with steps = {c.steps} and T = {c.T} the network was evaluated {c.count} times; "
    "{c.steps} evaluations are what was paid for":
        lambda c: c.count != c.steps,
    "the first evaluation is at index {c.evaluated[0]}; pure noise is at T - 1 = {c.indices[0]}":
        lambda c: c.evaluated[0] != c.T - 1,
    "the indices must fall from evaluation to evaluation":
        lambda c: any(i <= j for i, j in zip(c.evaluated, c.evaluated[1:])),
    "{c.steps} evaluations, as it should be, but at {c.begin}...; "
    "k * T // steps - 1 for k = steps, ..., 1 is {c.begin_right}...":
        lambda c: c.evaluated != c.indices,
}


# ---- 4.4: the noise that a step needs

def draw_variance(schedule: Schedule) -> Case:
    s, w = between(0.2, 0.5, 5), between(0.3, 0.8, 5)
    return variance_case(schedule, s + between(0.15, 0.4, 5), s, w)


def variance_case(schedule: Schedule, t: Tensor, s: Tensor, w: Tensor) -> Case:
    """The parts of (4.3) for data N(0, w^2)."""
    c = Case(inputs=(schedule, t, s, w), w=w)
    c.a_t, c.b_t, c.a_s, c.b_s = coefficients(schedule, t, s)
    c.var_ts = c.b_t**2 - (c.a_t / c.a_s * c.b_s) ** 2
    # Var(x_t) and Var(x_s)
    c.V_t = (c.a_t * w) ** 2 + c.b_t**2
    c.V_s = (c.a_s * w) ** 2 + c.b_s**2
    # the posterior's variance, the factor of x0 in its mean, and Var(x0 | x_t)
    c.tilde = c.b_s**2 * c.var_ts / c.b_t**2
    c.factor = c.a_s * c.var_ts / c.b_t**2
    c.var_x0 = (w * c.b_t) ** 2 / c.V_t
    return c


def exact_variance(c: Case) -> Tensor:
    return c.V_s * c.var_ts / c.V_t


def alpha_not_squared(c: Case) -> Tensor:
    """(4.3) with alpha_t / alpha_s in place of its square in sigma_{t|s}^2."""
    var_ts = c.b_t**2 - c.a_t / c.a_s * c.b_s**2
    return c.b_s**2 * var_ts / c.b_t**2 + (c.a_s * var_ts / c.b_t**2) ** 2 * c.var_x0


VARIANCE_MISTAKES = {
    "that is the posterior's variance, right where x0 is known, or for data of one point: "
    "the prediction is uncertain, too, (4.3)":
        lambda c: c.tilde,
    "that is sigma_{t|s}^2, right for w = 1 and alpha^2 + sigma^2 = 1 only":
        lambda c: c.var_ts,
    "that is a standard deviation; the variance is wanted":
        lambda c: exact_variance(c).sqrt(),
    "Var(x0 | x_t) is not w^2: seeing x_t narrows it":
        lambda c: c.tilde + c.factor**2 * c.w**2,
    "Var(x0 | x_t) is sigma_t^2 only for w = 1 and alpha^2 + sigma^2 = 1":
        lambda c: c.tilde + c.factor**2 * c.b_t**2,
    "the factor before Var(x0 | x_t) is still to be squared, (4.3)":
        lambda c: c.tilde + c.factor * c.var_x0,
    "that is the second part of (4.3); the posterior's own variance is missing":
        lambda c: c.factor**2 * c.var_x0,
    "Var(x0 | x_t) alone, without its factor: that is right only in the step to s = 0":
        lambda c: c.tilde + c.var_x0,
    "that is Var(x0 | x_t); (4.3) tells how it enters":
        lambda c: c.var_x0,
    "the factor of x0 has alpha_s, not alpha_t":
        lambda c: c.tilde + (c.a_t * c.var_ts / c.b_t**2) ** 2 * c.var_x0,
    "w is still to be squared: w is a width, the data's variance is w^2":
        lambda c: (c.a_s**2 * c.w + c.b_s**2) * c.var_ts / (c.a_t**2 * c.w + c.b_t**2),
    "Var(x_t) has alpha_t^2 w^2 in it, not w^2":
        lambda c: c.tilde + c.factor**2 * (c.w * c.b_t) ** 2 / (c.w**2 + c.b_t**2),
    "that is Var(x_s), over all samples; given x_t less is left":
        lambda c: c.V_s,
    "that is Var(x_t)":
        lambda c: c.V_t,
    "Var(x_t) and Var(x_s) have changed places":
        lambda c: c.V_t * c.var_ts / c.V_s,
    "right only where alpha^2 + sigma^2 = 1: "
    "1 - (alpha_t / alpha_s)^2 is not sigma_{t|s}^2 in every schedule, (4.1)":
        lambda c: c.V_s * (1 - (c.a_t / c.a_s) ** 2) / c.V_t,
    "1 - alpha^2 stands where sigma^2 belongs; they differ in other schedules":
        lambda c: ((c.a_s * c.w) ** 2 + 1 - c.a_s**2) * (1 - (c.a_t / c.a_s) ** 2)
        / ((c.a_t * c.w) ** 2 + 1 - c.a_t**2),
    "Var(x_t) is alpha_t^2 w^2 + sigma_t^2; yours has 1 - alpha_t^2 in place of sigma_t^2":
        lambda c: c.tilde + c.factor**2 * (c.w * c.b_t) ** 2 / ((c.a_t * c.w) ** 2 + 1 - c.a_t**2),
    "that goes straight from one of Ho et al.'s variances at w = 0 to the other at w = 1; "
    "between them the way is not w^2":
        lambda c: c.w**2 * c.var_ts + (1 - c.w**2) * c.tilde,
    "w is not used: that is the variance for data of width 1":
        lambda c: exact_variance(variance_case(*c.inputs[:3], torch.ones_like(c.w))),
    "the first w is used for all: each entry has its own":
        lambda c: exact_variance(variance_case(*c.inputs[:3], c.w[:1].expand_as(c.w))),
    "the factor before x0_hat is alpha_s sigma_{t|s}^2 / sigma_t^2, in squares, (4.2)":
        lambda c: c.tilde + (c.a_s * c.var_ts.sqrt() / c.b_t) ** 2 * c.var_x0,
    "in sigma_{t|s}^2 the ratio alpha_t / alpha_s is still to be squared":
        lambda c: c.V_s * (c.b_t**2 - c.a_t / c.a_s * c.b_s**2) / c.V_t,
    "sigma_{t|s}^2 is sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2; your ratio is not squared":
        alpha_not_squared,
    "that is the variance for the cosine schedule; compute with the schedule that is given":
        lambda c: exact_variance(variance_case(COSINE, *c.inputs[1:])),
    "Var(x0 | x_t) is w^2 sigma_t^2 / Var(x_t); sigma_t^2 is missing above its line":
        lambda c: c.tilde + c.factor**2 * c.w**2 / c.V_t,
    "sigma_s^2 is missing in sigma_{t|s}^2 = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2":
        lambda c: c.V_s * (c.b_t**2 - (c.a_t / c.a_s) ** 2) / c.V_t,
    "that is the variance of x_s / alpha_s; x_s itself has alpha_s^2 times as much":
        lambda c: exact_variance(c) / c.a_s**2,
    "that is the mean of Ho et al.'s two variances, whatever w is":
        lambda c: (c.tilde + c.var_ts) / 2,
    "that goes from one of Ho et al.'s variances at w = 0 to the other at w = 1 like a power; "
    "derive it from (4.3)":
        lambda c: c.var_ts ** c.w**2 * c.tilde ** (1 - c.w**2),
    "the larger of the two parts of (4.3) is not their sum":
        lambda c: torch.maximum(c.tilde, c.factor**2 * c.var_x0),
    "the two parts of (4.3) are added, not subtracted":
        lambda c: c.tilde - c.factor**2 * c.var_x0,
}


def judge_variance(f: Callable) -> None:
    """4.4: exact_variance(schedule, t, s, w), Var(x_s | x_t) when the data is N(0, w^2)."""
    for name in ("flow", "cosine"):
        draw = partial(draw_variance, SCHEDULES[name])
        c = draw_case(draw, exact_variance, VARIANCE_MISTAKES, rtol=1e-3, atol=1e-5)
        got = call_pure(f, *c.inputs)
        not_finite(got, f"{name}: nan or inf: what stands below a root, or below a line, "
                   "is not positive")
        compare_case(got, c, exact_variance, VARIANCE_MISTAKES, rtol=1e-3, atol=1e-6,
                     otherwise=f"{name}: not Var(x_s | x_t). Try w = 0, where only the "
                     "posterior's variance is left, and alpha_t = 0, where x_t says nothing and "
                     "it is the whole variance of x_s")
    judge_variance_at_the_ends(f)
    judge_variance_of_widths(f)


def judge_variance_of_widths(f: Callable) -> None:
    """4.4 for a narrow and for two wide distributions."""
    w = torch.tensor([0.01, 1.5, 4.0], dtype=F64)
    t, s = torch.tensor([[0.6, 0.6, 0.7], [0.0, 0.2, 0.3]], dtype=F64)
    c = variance_case(SCHEDULES["flow"], t, s, w)
    compare(call_pure(f, *c.inputs), exact_variance(c), rtol=1e-3, atol=1e-9,
            otherwise="right for w between 0.3 and 0.8, but not for 0.01, 1.5 and 4: the formula "
            "holds for any w, so bound it nowhere")


def judge_variance_at_the_ends(f: Callable) -> None:
    """4.4 from alpha = 0, and to s = 0."""
    w = between(0.3, 0.8, 2)
    t, s = torch.tensor([1.0, 0.6], dtype=F64), torch.tensor([0.4, 0.0], dtype=F64)
    got = call_pure(f, SCHEDULES["flow"], t, s, w)
    not_finite(got, "right in between, but nan or inf at t = 1 (alpha = 0) or at s = 0 "
               "(sigma = 0): divide by neither")
    from_noise, to_data = (0.6 * w[0]) ** 2 + 0.16, (w[1] * 0.6) ** 2 / ((0.4 * w[1]) ** 2 + 0.36)
    compare(got, torch.stack([from_noise, to_data]), rtol=1e-5, atol=1e-9,
            otherwise="right in between, but not at the ends: from alpha_t = 0 nothing is known, "
            "so Var(x_s) is left; at s = 0 it is Var(x0 | x_t), not 0")


# ---- 4.5: Heun in t

def slope(D: Callable, schedule: Schedule, x: Tensor, t: Tensor, at: Tensor | None = None,
          rates: Tensor | None = None) -> Tensor:
    """(4.11): alpha' x0_hat + sigma' eps_hat.

    at: the time whose alpha and sigma give eps_hat; rates: the time of alpha' and sigma'.
    """
    at, rates = t if at is None else at, t if rates is None else rates
    x0_hat = D(x, t)
    eps_hat = (x - schedule.alpha(at) * x0_hat) / schedule.sigma(at)
    return schedule.d_alpha(rates) * x0_hat + schedule.d_sigma(rates) * eps_hat


def flow_slope(D: Callable, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """eps_hat - x0_hat: (4.11) for the flow schedule alone."""
    x0_hat = D(x, t)
    return (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t) - x0_hat


def swapped_slope(D: Callable, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """(4.11) with alpha' and sigma' exchanged."""
    x0_hat = D(x, t)
    eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    return schedule.d_sigma(t) * x0_hat + schedule.d_alpha(t) * eps_hat


def slope_without_alpha(D: Callable, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """(4.11) with (x - x0_hat) / sigma for eps_hat."""
    x0_hat = D(x, t)
    eps_hat = (x - x0_hat) / schedule.sigma(t)
    return schedule.d_alpha(t) * x0_hat + schedule.d_sigma(t) * eps_hat


def heun_case(D: Callable, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor) -> Case:
    c = Case(inputs=(D, schedule, x, t, s), D=D, schedule=schedule, x=x, t=t, s=s, h=s - t)
    c.slope = slope(D, schedule, x, t)
    c.x_pred = x + c.h * c.slope
    return c


def draw_heun(schedule: Schedule) -> Case:
    D, x, s = bumps().denoiser(schedule), noise(6, 2), between(0.35, 0.45)
    c = heun_case(D, schedule, x, s + between(0.25, 0.35), s)
    # so that a prediction clamped to [-1, 1] is another one
    return c if c.D(x, c.t).abs().max() > 1.05 else draw_heun(schedule)


def clamped_slope(D: Callable, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """(4.11) with the prediction clamped to [-1, 1]."""
    return slope(lambda x, t: D(x, t).clamp(-1, 1), schedule, x, t)


def slope_with_minus(D: Callable, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """(4.11) with a minus before sigma'."""
    x0_hat = D(x, t)
    return 2 * schedule.d_alpha(t) * x0_hat - slope(D, schedule, x, t)


def slope_by_quotients(c: Case, x: Tensor, t: Tensor) -> Tensor:
    """(4.11) with the mean slopes of alpha and sigma over the step."""
    a_t, b_t, a_s, b_s = coefficients(c.schedule, c.t, c.s)
    x0_hat = c.D(x, t)
    eps_hat = (x - c.schedule.alpha(t) * x0_hat) / c.schedule.sigma(t)
    return ((a_s - a_t) * x0_hat + (b_s - b_t) * eps_hat) / c.h


def heun_by_quotients(c: Case) -> Tensor:
    first = slope_by_quotients(c, c.x, c.t)
    return c.x + c.h * (first + slope_by_quotients(c, c.x + c.h * first, c.s)) / 2


def old_eps_slope(c: Case) -> Tensor:
    """The second slope, with the first eps_hat."""
    eps_hat = (c.x - c.schedule.alpha(c.t) * c.D(c.x, c.t)) / c.schedule.sigma(c.t)
    return c.schedule.d_alpha(c.s) * c.D(c.x_pred, c.s) + c.schedule.d_sigma(c.s) * eps_hat


def slope_at(c: Case, x: Tensor, t: Tensor, **times: Tensor) -> Tensor:
    return slope(c.D, c.schedule, x, t, **times)


def corrected(c: Case, second: Tensor) -> Tensor:
    """x moved along the mean of the first slope and this second one."""
    return c.x + c.h * (c.slope + second) / 2


def heun_step(c: Case, slope: Callable = slope) -> Tensor:
    """Heun's step with this slope."""
    first = slope(c.D, c.schedule, c.x, c.t)
    second = slope(c.D, c.schedule, c.x + c.h * first, c.s)
    return c.x + c.h * (first + second) / 2


def backward_heun(c: Case) -> Tensor:
    """Heun's step by t - s instead of s - t."""
    return c.x - c.h * (c.slope + slope_at(c, c.x - c.h * c.slope, c.s)) / 2


def mean_predictions(c: Case) -> Tensor:
    """ddim's step with the means of both x0_hat and of both eps_hat."""
    a_t, b_t, a_s, b_s = coefficients(c.schedule, c.t, c.s)
    x0_t, x0_s = c.D(c.x, c.t), c.D(c.x_pred, c.s)
    eps_t, eps_s = (c.x - a_t * x0_t) / b_t, (c.x_pred - a_s * x0_s) / b_s
    return a_s * (x0_t + x0_s) / 2 + b_s * (eps_t + eps_s) / 2


def midpoint(c: Case) -> Tensor:
    """The step along the slope in the middle."""
    middle = (c.t + c.s) / 2
    return c.x + c.h * slope_at(c, c.x + c.h / 2 * c.slope, middle)


def one_step_of(sampler: Callable, c: Case) -> Tensor:
    return last(sampler(c.D, c.schedule, c.x, torch.stack([c.t, c.s])))


HEUN_MISTAKES = {
    "that is Euler's step: the second evaluation is missing, (4.19)":
        lambda c: c.x_pred,
    "the two slopes are added up; take their mean":
        lambda c: c.x + c.h * (c.slope + slope_at(c, c.x_pred, c.s)),
    "you go a second step from the place of arrival; the corrected step starts from x again":
        lambda c: c.x_pred + c.h * (c.slope + slope_at(c, c.x_pred, c.s)) / 2,
    "that is a step along the second slope alone; take the mean of both":
        lambda c: c.x + c.h * slope_at(c, c.x_pred, c.s),
    "the second slope is taken at level t; x has arrived at level s":
        lambda c: corrected(c, slope_at(c, c.x_pred, c.t)),
    "the second slope evaluates the denoiser at s, but with the alpha' and sigma' of t; "
    "they change, too":
        lambda c: corrected(c, slope_at(c, c.x_pred, c.s, rates=c.t)),
    "the second slope's eps_hat is computed with alpha and sigma of t":
        lambda c: corrected(c, slope_at(c, c.x_pred, c.s, at=c.t)),
    "the second slope has the coefficients of s, but the denoiser is evaluated at t":
        lambda c: corrected(c, slope_at(c, c.x_pred, c.t, at=c.s, rates=c.s)),
    "the second slope keeps the first prediction: evaluate the denoiser again, at x_pred and s":
        lambda c: corrected(c, slope(lambda x, t: c.D(c.x, c.t), c.schedule, c.x_pred, c.s)),
    "alpha is missing in eps_hat: (x - alpha x0_hat) / sigma":
        lambda c: heun_step(c, slope_without_alpha),
    "the second slope is taken at s, but for the old x; evaluate where the Euler step leads":
        lambda c: corrected(c, slope_at(c, c.x, c.s)),
    "time runs the wrong way: s - t is negative, and so is your step's direction":
        backward_heun,
    "the Euler step to the predicted state runs the wrong way, t - s":
        lambda c: corrected(c, slope_at(c, c.x - c.h * c.slope, c.s)),
    "eps_hat - x0_hat is the slope of the flow schedule; "
    "in general (4.11) has alpha' and sigma'":
        lambda c: heun_step(c, flow_slope),
    "the means of the two x0_hat and of the two eps_hat are put into ddim's step: "
    "that is first order; average the slopes":
        mean_predictions,
    "that is the lesson's Heun, in the time sigma / alpha: right in its own way, "
    "but (4.11) in t is wanted":
        partial(one_step_of, samplers.heun),
    "that is the midpoint method, of order 2, too: Heun takes the mean of the slopes at both ends, "
    "(4.19)":
        midpoint,
    "the Euler step to the predicted state has half the length; go all the way to s":
        lambda c: corrected(c, slope_at(c, c.x + c.h / 2 * c.slope, c.s)),
    "the mean of the two slopes is weighed: 1/2 and 1/2 are right, not 1/4 and 3/4 (Ralston)":
        lambda c: c.x + c.h * (c.slope + 3 * slope_at(c, c.x_pred, c.s)) / 4,
    "alpha' and sigma' have changed places":
        lambda c: heun_step(c, swapped_slope),
    "the second prediction is made at the old x; evaluate where the Euler step leads":
        lambda c: corrected(c, slope(lambda x, t: c.D(c.x, t), c.schedule, c.x_pred, c.s)),
    "the second slope keeps the first eps_hat: compute it again, at x_pred and s":
        lambda c: corrected(c, old_eps_slope(c)),
    "x0_hat is clamped to [-1, 1]; (4.11) takes it as it is":
        lambda c: heun_step(c, clamped_slope),
    "sigma' eps_hat is taken away; (4.11) adds it":
        lambda c: heun_step(c, slope_with_minus),
    "that is the step of the cosine schedule; compute with the schedule that is given":
        lambda c: heun_step(heun_case(c.D, COSINE, c.x, c.t, c.s)),
    "alpha' and sigma' are difference quotients over the whole step: "
    "take schedule.d_alpha and schedule.d_sigma, at t and at s":
        heun_by_quotients,
    "that is ddim's step":
        partial(one_step_of, samplers.ddim),
    "x has not moved":
        lambda c: c.x,
}


def judge_heun(f: Callable) -> None:
    """4.5: heun_step(D, schedule, x, t, s), Heun's method for (4.11), in t itself."""
    for name, schedule in SCHEDULES.items():
        draw = partial(draw_heun, schedule)
        c = draw_case(draw, heun_step, HEUN_MISTAKES, rtol=1e-4, atol=1e-4)
        got, calls = run_heun(f, *c.inputs)
        not_finite(got, f"{name}: nan or inf, although 0 < s < t < 1")
        compare_case(got, c, heun_step, HEUN_MISTAKES, rtol=2e-4, atol=2e-4,
                     otherwise=f"{name}: not Heun's step for (4.11): the slope at x, an Euler "
                     "step x + (s - t) slope, the slope there, and x + (s - t) times the mean "
                     "of both")
        reject_if((calls != 2, f"right, but the denoiser was evaluated {calls} times in one step; "
                   "two are enough: keep the prediction"))
    x, mixture, t = noise(6, 2), bumps(), between(0.2, 0.3)
    judge_heun_from_noise(f, mixture.denoiser(SCHEDULES["flow"]), x)
    judge_heun_near_data(f, mixture.denoiser(SCHEDULES["flow"]), x, t)
    judge_heun_to_data(f, mixture.denoiser(COSINE), x, t)
    judge_second_heun(f, mixture.denoiser(COSINE), x)


def judge_second_heun(f: Callable, D: Callable, x: Tensor) -> None:
    """4.5, a step that begins at the time where another one has ended."""
    t, m, s = torch.tensor([0.7, 0.5, 0.3], dtype=F64)
    first = heun_case(D, COSINE, x, t, m)
    run_heun_once(f, *first.inputs)
    c = heun_case(D, COSINE, noise(6, 2), m, s)
    got, calls = run_heun_once(f, *c.inputs)
    # None: f computes in float32, and `call_pure` has judged it
    if got is None:
        return
    words = ("right, but not in a step from another x that begins at the time where the one before "
             f"has ended ({calls} evaluations): keep nothing from step to step")
    reject_if((calls != 2, words))
    compare(got, heun_step(c), rtol=1e-3, atol=1e-3, otherwise=words)


def counting(D: Callable) -> tuple[Callable, list[Tensor]]:
    """D, and the times at which it was evaluated."""
    calls = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return D(x, t)

    return counted, calls


def run_heun(f: Callable, D: Callable, *inputs: object) -> tuple[object, int]:
    """The reader's step, and how often it evaluated the denoiser."""
    counted, calls = counting(D)
    got = call_pure(f, counted, *inputs)
    # `call_pure` calls f twice
    return got, len(calls) // 2


def run_heun_once(f: Callable, D: Callable, *inputs: object) -> tuple[object, int]:
    """The same with one call; None where f computes in float32."""
    counted, calls = counting(D)
    with contextlib.suppress(RuntimeError):
        return f(counted, *inputs), len(calls)
    return None, len(calls)


def judge_heun_from_noise(f: Callable, D: Callable, x: Tensor) -> None:
    """4.5 from alpha = 0."""
    t, s = torch.tensor(1.0, dtype=F64), torch.tensor(0.6, dtype=F64)
    c = heun_case(D, SCHEDULES["flow"], x, t, s)
    got, _ = run_heun(f, *c.inputs)
    not_finite(got, "right in between, but nan or inf from t = 1 of the flow schedule, "
               "where alpha = 0: divide by sigma only")
    compare(got, heun_step(c), rtol=1e-3, atol=1e-4, otherwise="right in between, but wrong "
            "from t = 1 of the flow schedule, where alpha = 0")


HEUN_NEAR_DATA_MISTAKES = {
    "right, but a small s is taken for 0: the step to s = 0.0005 has a second evaluation, too":
        lambda c: c.D(c.x, c.t),
}


def judge_heun_near_data(f: Callable, D: Callable, x: Tensor, t: Tensor) -> None:
    """4.5 to a small s."""
    c = heun_case(D, SCHEDULES["flow"], x, t, torch.tensor(0.0005, dtype=F64))
    got, _ = run_heun(f, *c.inputs)
    compare_case(got, c, heun_step, HEUN_NEAR_DATA_MISTAKES, rtol=1e-2, atol=1e-2,
                 otherwise="right in between, but wrong to s = 0.0005 of the flow schedule")


HEUN_TO_DATA_MISTAKES = {
    "right in between, but the step to s = 0 is Euler's in t, and noise is left over: "
    "return the prediction, D(x, t)":
        lambda c: c.x_pred,
}


def judge_heun_to_data(f: Callable, D: Callable, x: Tensor, t: Tensor) -> None:
    """4.5 to s = 0."""
    c = heun_case(D, COSINE, x, t, torch.tensor(0.0, dtype=F64))
    got, calls = run_heun(f, *c.inputs)
    not_finite(got, "right in between, but nan or inf in the step to s = 0: "
               "eps_hat divides by sigma_s = 0 there; return the prediction instead")
    compare_case(got, c, lambda c: c.D(c.x, c.t), HEUN_TO_DATA_MISTAKES, rtol=1e-3, atol=1e-4,
                 otherwise="right in between, but the step to s = 0 must return the prediction "
                 "D(x, t): there is no second evaluation where sigma = 0")
    reject_if((calls != 1, "right, but in the step to s = 0 the denoiser was evaluated "
               f"{calls} times; once is enough"))


# ---- 4.6: measuring an order

def order_case(name: str, p: float, n: Tensor, errors: Tensor, floor: float) -> Case:
    """Errors after n steps; p: their order."""
    return Case(name=name, p=p, n=n, errors=errors, floor=floor)


def with_logarithms(c: Case) -> Case:
    """The case with what the mistakes compute from: slopes and the last good pair."""
    c.x = c.n.log()
    c.y = c.errors.log()
    c.good = c.errors > 10 * c.floor
    # the orders of neighbouring pairs
    c.pairs = -(c.y[1:] - c.y[:-1]) / (c.x[1:] - c.x[:-1])
    i, j = c.good.nonzero().flatten()[-2:].tolist()
    c.fall = c.y[i] - c.y[j]
    c.log_gap = c.x[j] - c.x[i]
    c.gap = c.n[j] - c.n[i]
    c.order = c.fall / c.log_gap
    return c


# unipc's ends are rounded to multiples of this
UNIT = 2**-17
# sampler -> order, steps and root mean square errors on the lesson's mixture, steps even in log
# SNR, and the floor; computed anew in tests/test_checks_04.py, which takes seconds
MEASURED = {
    "ddim": (1, (8, 12, 18, 27, 40, 60, 90, 135),
             (0.13504, 0.086362, 0.0562554, 0.036903, 0.0246545, 0.0163196, 0.0108281, 0.00719587),
             1e-13),
    "dpmpp": (2, (8, 12, 18, 27, 40, 60, 90, 135),
              (0.0486144, 0.0197978, 0.00916123, 0.00456193, 0.00226255, 0.00106361, 0.000488974,
               0.000221647), 1e-13),
    "unipc": (3, (18, 27, 40, 60, 90, 135, 200, 300),
              (0.00622308, 0.0025197, 0.000890421, 0.000276836, 8.33953e-05, 2.39508e-05,
               7.1931e-06, 3.17583e-06), UNIT / 6**0.5),
}


def measured(name: str) -> Case:
    """A measured case, not always with the same numbers."""
    p, n, errors, floor = MEASURED[name]
    scale = between(0.3, 3).item()
    return order_case(name, p, torch.tensor(n, dtype=F64),
                      scale * torch.tensor(errors, dtype=F64), scale * floor)


def made_up(p: float, late: bool) -> Case:
    """Errors as a sampler of order p has them.

    Three are too large (late) or too small at the start, three follow the law, four lie near the
    rounding, which adds to them; the last are farther apart.
    """
    growth = torch.cat([between(1.45, 1.55) * torch.ones(7), between(2.4, 2.8, 2)])
    n = between(8, 12).round() * torch.cat([torch.ones(1, dtype=F64), growth.cumprod(0)])
    n = n.round()
    bend = between(1.6, 2.0) if late else between(0.4, 0.5)
    error = n**-p * bend ** torch.tensor([3, 2.2, 1, 0, 0, 0, 0, 0, 0, 0], dtype=F64)
    floor = error[5].item() / 12
    clear = error > 4.5 * floor
    rounded = torch.where(clear, (error**2 + floor**2).sqrt(), error + 1.05 * floor)
    return order_case(f"a sampler of order {p}", p, n, rounded, floor)


def fitted_order(c: Case, keep: Tensor) -> Tensor:
    """The order from a straight line through these points, by least squares."""
    x, y = c.x[keep] - c.x[keep].mean(), c.y[keep] - c.y[keep].mean()
    return -(x * y).sum() / x.square().sum()


def slope_of(c: Case, pair: list[int], y: Tensor | None = None) -> Tensor:
    """The order from two points; y: other logarithms of the errors."""
    (i, j), y = pair, c.y if y is None else y
    return (y[i] - y[j]) / (c.x[j] - c.x[i])


def last_above(c: Case, factor: float) -> list[int]:
    """The last two points above so many times the floor."""
    return (c.errors > factor * c.floor).nonzero().flatten()[-2:].tolist()


def first_half(c: Case) -> Tensor:
    """The good points, the earlier half of them alone."""
    return c.good & (c.good.cumsum(0) <= max(2, int(c.good.sum()) // 2))


LN2, LN10 = math.log(2), math.log(10)
ORDER_MISTAKES = {
    "the sign: an error that falls like n^-p has the order p, a positive number":
        lambda c: -c.order,
    "two different logarithms are mixed, log2 above and the natural one below: "
    "any base will do, but the same for both":
        lambda c: c.order / LN2,
    "two different logarithms are mixed, the natural one above and log2 below: "
    "any base will do, but the same for both":
        lambda c: c.order * LN2,
    "two different logarithms are mixed, the decimal and the natural one":
        lambda c: c.order / LN10,
    "two different logarithms are mixed, the natural and the decimal one":
        lambda c: c.order * LN10,
    "log2 of the ratio of errors is the order only where the steps double; "
    "divide by log2 of the ratio of steps":
        lambda c: c.fall / LN2,
    "that is the logarithm of the ratio of errors; divide by that of the ratio of steps":
        lambda c: c.fall,
    "that is the ratio of two errors; (4.18) has the order in the exponent: take logarithms":
        lambda c: c.fall.exp(),
    "you divide by a difference of steps; n^-p is a straight line over log n":
        lambda c: c.fall / c.gap,
    "the order is upside down: how fast log error falls with log n, not log n with log error":
        lambda c: 1 / c.order,
    "one too many: what one step errs by, (4.17), has the power p + 1; after n steps one is lost, "
    "(4.18), and these are errors after n steps":
        lambda c: c.order + 1,
    "one too few: these are errors after n steps, (4.18), nothing is lost any more":
        lambda c: c.order - 1,
    "that is the order of the first pair, where steps are too large for the law":
        lambda c: c.pairs[0],
    "that is the order of the last pair, where only rounding is left: look at the floor":
        lambda c: c.pairs[-1],
    "first and last value alone: "
    "the first steps are too large, the last errors are rounding":
        lambda c: (c.y[0] - c.y[-1]) / (c.x[-1] - c.x[0]),
    "that is a line through all points; "
    "the first do not follow the law yet, the last are rounding":
        lambda c: fitted_order(c, torch.ones_like(c.good)),
    "that is a line through all points above the floor; "
    "the first do not follow the law yet: use the last ones":
        lambda c: fitted_order(c, c.good),
    "you leave out the errors near the floor, but not the numbers of steps that belong to them":
        lambda c: c.fall / (c.x[-1] - c.x[-2]),
    "errors within a factor of ten of the floor are still among yours":
        lambda c: slope_of(c, last_above(c, 2)),
    "the floor is subtracted from the errors; leave out those near it instead":
        lambda c: slope_of(c, [-2, -1], (c.errors - c.floor).clamp(min=1e-300).log()),
    "that is a line through the earlier half of the good errors; the later ones follow the law":
        lambda c: fitted_order(c, first_half(c)),
    "that is the mean of all good pairs; the first do not follow the law yet":
        lambda c: c.pairs[c.good[1:] & c.good[:-1]].mean(),
    "that is log error / log n of one point; its factor C is in it, so take two points":
        lambda c: -(c.y / c.x)[c.good][-1],
    "do not round: the orders that are measured need not be whole":
        lambda c: c.order.round(),
    "that is the mean of all pairs":
        lambda c: c.pairs.mean(),
    "that is the largest of all pairs; "
    "at the start an error may fall faster than the order says":
        lambda c: c.pairs.max(),
    "that is the largest of the good pairs; "
    "at the start an error may fall faster than the order says":
        lambda c: c.pairs[c.good[1:] & c.good[:-1]].max(),
    "that is the smallest of all pairs":
        lambda c: c.pairs.min(),
    "that is the median of all pairs; here most pairs lie at the start or in the rounding":
        lambda c: c.pairs.median(),
}


def order_cases() -> Iterator[Case]:
    for p, late in ((2, False), (3, True), (2, True), (1, True), (2.5, False), (4, True)):
        yield made_up(p, late)
    for name in MEASURED:
        yield measured(name)


def judge_order(f: Callable) -> None:
    """4.6: order(ns, errors, floor), from errors after n steps."""
    cases = list(order_cases())
    found = [run_order(f, c) for c in cases]
    wrong = [k for k, c in enumerate(cases) if not abs(found[k] - c.p) < 0.15]
    if wrong:
        reject_if((max(found) - min(found) < 1e-9,
                   f"{found[0]:.2f} comes out for every sampler: measure it from the errors"))
        diagnose_order(found, [with_logarithms(c) for c in cases], wrong[0])
    digits = all(abs(10 * p - round(10 * p)) < 1e-6 for p in found)
    reject_if((digits, "right, but every order has one digit after the point, as in "
               f"{found[0]:.1f}: do not round"))


def run_order(f: Callable, c: Case) -> float:
    """The reader's order."""
    given = c.n.clone(), c.errors.clone()
    got = as_scalar(as_function(f)(*given, c.floor)).item()
    unchanged = torch.equal(given[0], c.n) and torch.equal(given[1], c.errors)
    reject_if((not unchanged, "your function changes the tensors it was given: compute new ones"),
              (not math.isfinite(got), f"{c.name}: your order is {got}"))
    return got


def diagnose_order(found: list[float], cases: list[Case], k: int) -> None:
    """Raise Wrong: with the mistake that is nearest in the wrong case k, if it is near in all."""
    distances = [distances_of(got, c) for got, c in zip(found, cases)]
    near = {words: distances[k][words] for words in ORDER_MISTAKES
            if all(d[words] < 0.02 * max(1, c.p) for d, c in zip(distances, cases))}
    reject_if((near, min(near, key=near.get, default="")))
    raise Wrong(f"{cases[k].name}: yours says {found[k]:.2f}. Plot log error over log n: a "
                "straight piece lies before the errors come near the floor; its slope, without "
                "the sign, is the order")


def distances_of(got: float, c: Case) -> dict[str, float]:
    """How far an order is from what each mistake gives; 0 where that is no number."""
    results = {words: p.item() for words, p in wrong_answers(ORDER_MISTAKES, c).items()}
    return {words: abs(got - p) if math.isfinite(p) else 0.0 for words, p in results.items()}


# ---- 4.7: eight evaluations

def timesteps_error(ts: Tensor, x: Tensor, truth: Tensor) -> float:
    """The mean distance of dpmpp's ends, with these timesteps, from the exact ends of the ODE."""
    ends = last(samplers.dpmpp(BUMPS.denoiser(COSINE), COSINE, COSINE.sigma(ts[0]) * x, ts))
    return (ends - truth).norm(dim=1).mean().item()


def exact_ends(x: Tensor) -> Tensor:
    """The ends of the ODE from the noise x."""
    ts = timesteps(COSINE, 100, "log_snr")
    return last(samplers.unipc(BUMPS.denoiser(COSINE), COSINE, x, ts))


SHAPE_SUSPECTS = {
    "eight steps have nine times, start and end included; got {c.size}":
        lambda c: c.ts.shape != (9,),
    "some of the times are nan or inf":
        lambda c: not c.ts.isfinite().all(),
}

TIMES_SUSPECTS = {
    "times lie in [0, 1]; yours reach from {c.low:.3g} to {c.high:.3g}":
        lambda c: c.high > 1 or c.low < 0,
    "your times rise; a sampler goes from noise to data, so flip them":
        lambda c: (c.ts[1:] > c.ts[:-1]).all(),
    "a time comes twice, so one evaluation is wasted: strictly falling times are wanted":
        lambda c: (c.ts[1:] == c.ts[:-1]).any(),
    "your times do not fall all the way":
        lambda c: not (c.ts[1:] < c.ts[:-1]).all(),
    "the last time is {c.end:.3g}: noise is left over; the data is at t = 0":
        lambda c: c.end != 0,
    "your timesteps start at t = {c.start:.2f}, where much of the data shows already; "
    "the noise that you start from has none of it":
        lambda c: c.start < 0.7,
}

ERROR_SUSPECTS = {
    "your timesteps err by {c.error:.3f}, more than times even in t ({c.even:.3f})":
        lambda c: c.error > 1.005 * c.even,
    "your timesteps err by {c.error:.3f}, as times even in t do ({c.even:.3f})":
        lambda c: c.error > 0.995 * c.even,
    "your timesteps err by {c.error:.3f}: better than even in t ({c.even:.3f}), "
    "not yet as good as quadratic ({c.quadratic:.3f})":
        lambda c: c.error > 1.005 * c.quadratic,
    "your timesteps err by {c.error:.3f}, as the quadratic ones do: the goal is {c.goal}. "
    "Try other powers, and other starts than t = 1":
        lambda c: c.error > max(0.995 * c.quadratic, c.goal),
    "your timesteps err by {c.error:.4f}: better than quadratic ({c.quadratic:.4f}), "
    "and close; the goal is {c.goal}":
        lambda c: c.error >= c.goal,
}


def judge_timesteps(answer: object) -> None:
    """4.7: eight() -> nine falling times, on which dpmpp errs by less than GOOD_ENOUGH."""
    answer = answer() if callable(answer) else answer
    reject_none(answer)
    try:
        ts = torch.as_tensor(answer, dtype=F64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong("nine times are wanted, a tensor or a list of numbers; "
                    f"got {type(answer).__name__}") from None
    size = f"{len(ts)} times" if ts.ndim == 1 else f"shape {tuple(ts.shape)}"
    reject_first(SHAPE_SUSPECTS, Case(ts=ts, size=size))
    reject_first(TIMES_SUSPECTS, Case(ts=ts, low=ts.min(), high=ts.max(), start=ts[0], end=ts[-1]))
    reject_first(ERROR_SUSPECTS, errors_case(ts))


def errors_case(ts: Tensor) -> Case:
    """The error of these timesteps, and of two spacings of the library."""
    with one_thread():
        # the same in every session: a grid near the goal is judged alike each time
        x = draws(2000, 2)
        truth = exact_ends(x)
        c = Case(error=timesteps_error(ts, x, truth), goal=GOOD_ENOUGH)
        c.even = timesteps_error(timesteps(COSINE, 8), x, truth)
        c.quadratic = timesteps_error(timesteps(COSINE, 8, "quadratic"), x, truth)
    return c


# ---- 4.8: invert and edit

def conditional(schedule: Schedule) -> Callable:
    """An exact denoiser of three kinds of data.

    D(x, t, y=labels (B,)) is the denoiser of each example's kind; without y, that of all together.
    """
    kinds = [bumps(), bumps(), bumps()]
    parts = zip(*((m.means, m.stds, m.weights) for m in kinds))
    mixed = GaussianMixture(*(torch.cat(part) for part in parts)).denoiser(schedule)
    of_kind = [m.denoiser(schedule) for m in kinds]

    def D(x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return mixed(x, t)
        return torch.stack([D_y(x, t) for D_y in of_kind])[y.expand(len(x)), torch.arange(len(x))]

    return D


def draw_edit(schedule: Schedule, strength: float) -> Case:
    D, x = conditional(schedule), 0.8 * noise(8, 2)
    # the last two keep their kind
    labels = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1], [1, 1], [2, 2]])
    before, after = labels[torch.randperm(8, generator=fresh_generator())].T
    n = 2 * int(between(2, 4.99))
    c = Case(inputs=(D, schedule, x, before, after, n, strength), D=D, schedule=schedule,
             x=x, before=before, after=after, n=n, strength=strength)
    c.ts = timesteps(schedule, n, start=strength)
    c.ts_to_1 = timesteps(schedule, n)
    # so that a clamped edit is another one
    return c if edited(c).abs().max() > 1.55 else draw_edit(schedule, strength)


def given(y: Tensor | None) -> dict[str, Tensor]:
    return {} if y is None else {"y": y}


def inverted(c: Case, y: Tensor | None, ts: Tensor | None = None, *, at_end: bool = False,
             scaled: bool = True) -> Tensor:
    """The end of ddim_invert with the condition y.

    ts: falling. at_end: evaluate where each step ends; scaled = False: without rescaling x there.
    """
    rising, x, schedule = (c.ts if ts is None else ts).flip(0), c.x, c.schedule
    for t, s in zip(rising[:-1], rising[1:]):
        r = s if at_end or schedule.sigma(t) == 0 else t
        x_r = x * schedule.alpha(r) / schedule.alpha(t) if scaled else x
        x0_hat = c.D(x_r, r, **given(y))
        eps_hat = (x_r - schedule.alpha(r) * x0_hat) / schedule.sigma(r)
        x_base = schedule.alpha(s) / schedule.alpha(t) * (x - schedule.sigma(t) * eps_hat)
        x = x_base + schedule.sigma(s) * eps_hat
    return x


def sampled(c: Case, z: Tensor, y: Tensor | None, ts: Tensor | None = None) -> Tensor:
    """The end of ddim from z with the condition y."""
    return last(samplers.ddim(c.D, c.schedule, z, c.ts if ts is None else ts, **given(y)))


def by_dpmpp(c: Case) -> Tensor:
    return last(samplers.dpmpp(c.D, c.schedule, inverted(c, c.before), c.ts, y=c.after))


def by_cosine(c: Case) -> Tensor:
    """The edit with the cosine schedule in place of the given one."""
    other = Case(**vars(c) | {"schedule": COSINE})
    return edited(other, timesteps(COSINE, c.n, start=c.strength))


def by_unipc(c: Case) -> Tensor:
    return last(samplers.unipc(c.D, c.schedule, inverted(c, c.before), c.ts, y=c.after))


def before_last(c: Case) -> Tensor:
    """The state one step before the data."""
    return sampled(c, inverted(c, c.before), c.after, c.ts[:-1])


def same_kind_kept(c: Case) -> Tensor:
    """The edit that leaves examples alone whose condition does not change."""
    return torch.where((c.before == c.after)[:, None], c.x, edited(c))


def quiet_start(c: Case) -> Tensor:
    """The edit whose inversion takes the noise at t = 0 for 0."""
    first = c.ts[-2]
    x = c.x * c.schedule.alpha(first) / c.schedule.alpha(c.ts[-1])
    other = Case(**vars(c) | {"x": x})
    return sampled(c, inverted(other, c.before, c.ts[:-1]), c.after)


def first_conditions(c: Case) -> Tensor:
    """The edit in which all examples have the conditions of the first one."""
    return sampled(c, inverted(c, c.before[:1].expand(8)), c.after[:1].expand(8))


def edited(c: Case, ts: Tensor | None = None, **switches: bool) -> Tensor:
    """The right edit; ts: other timesteps, for inversion and sampling."""
    return sampled(c, inverted(c, c.before, ts, **switches), c.after, ts)


EDIT_MISTAKES = {
    "inversion and sampling both with `before`: that is the round trip, and nothing is edited":
        lambda c: sampled(c, inverted(c, c.before), c.before),
    "inversion and sampling both with `after`: "
    "the inversion needs the condition that describes x, `before`":
        lambda c: sampled(c, inverted(c, c.after), c.after),
    "`before` and `after` have changed places: invert with `before`, sample with `after`":
        lambda c: sampled(c, inverted(c, c.after), c.before),
    "the conditions are not passed on: D(x, t, y=...)":
        lambda c: sampled(c, inverted(c, None), None),
    "inverted with `before`, as it should be, but sampled without a condition":
        lambda c: sampled(c, inverted(c, c.before), None),
    "inverted without a condition, sampled with `after`: pass y to the inversion, too":
        lambda c: sampled(c, inverted(c, None), c.after),
    "that is the noise, the end of the inversion; the sampling is missing":
        lambda c: inverted(c, c.before),
    "there is no inversion: the image itself is taken for a noisy one":
        lambda c: sampled(c, c.x, c.after),
    "x has not changed":
        lambda c: c.x,
    "you split the n steps between inversion and sampling; each has n":
        lambda c: edited(c, timesteps(c.schedule, c.n // 2, start=c.strength)),
    "inversion: eps_hat is evaluated at the upper level s; "
    "(4.31) evaluates where x is, at t (only at t = 0 one level up)":
        lambda c: edited(c, at_end=True),
    "at t = 0 the evaluation is one level up; x must be multiplied by alpha(s) there, too, "
    "to look like an image of that level":
        lambda c: edited(c, scaled=False),
    "inversion: D is evaluated at the upper level s for an x that is still at level t; "
    "(4.31) evaluates at t":
        lambda c: edited(c, at_end=True, scaled=False),
    "the noise at t = 0 is taken for 0; (4.31) evaluates it one level up, where there is some":
        quiet_start,
    "you take 2 n steps each way; n are paid for":
        lambda c: edited(c, timesteps(c.schedule, 2 * c.n, start=c.strength)),
    "that is dpmpp on the way down; ddim is wanted":
        by_dpmpp,
    "the way down is one prediction; sample with ddim in n steps":
        lambda c: c.D(inverted(c, c.before), c.ts[0], c.after),
    "the conditions of the first example are used for all":
        first_conditions,
    "the inversion has the condition 0, whatever `before` says":
        lambda c: sampled(c, inverted(c, torch.zeros_like(c.before)), c.after),
    "the sampling has the condition 1 - before; use `after`, there may be more than two kinds":
        lambda c: sampled(c, inverted(c, c.before), 1 - c.before),
    "your timesteps are even in log-SNR; timesteps(schedule, n, start=strength) are even in t":
        lambda c: edited(c, timesteps(c.schedule, c.n, "log_snr", c.strength)),
    "that is the edit with the cosine schedule; compute with the schedule that is given":
        by_cosine,
    "the result is clamped to [-1, 1]; these data reach beyond":
        lambda c: edited(c).clamp(-1, 1),
    "that is unipc on the way down; ddim is wanted":
        by_unipc,
    "that is the state before the last; the data is one step further":
        before_last,
    "your timesteps are quadratic; timesteps(schedule, n, start=strength) are even in t":
        lambda c: edited(c, timesteps(c.schedule, c.n, "quadratic", c.strength)),
    "you take n - 1 steps each way; n are wanted":
        lambda c: edited(c, timesteps(c.schedule, c.n - 1, start=c.strength)),
    "the sampling takes 2 n steps; it has n, as the inversion":
        lambda c: sampled(c, inverted(c, c.before), c.after,
                          timesteps(c.schedule, 2 * c.n, start=c.strength)),
    "an example with before == after comes back as it was; invert and sample it as all others":
        same_kind_kept,
}

# from t = 1 the first of these is hardly another than an evaluation where each step ends
STRENGTH_MISTAKES = {
    "the inversion takes one step from the data to strength; it has n":
        lambda c: sampled(c, inverted(c, c.before, c.ts[[0, -1]]), c.after),
    "those are n * strength steps of the grid from t = 1; n steps from strength are wanted":
        lambda c: edited(c, c.ts_to_1[-max(1, int(c.n * c.strength)) - 1:]),
    "strength is not used: you invert all the way to t = 1":
        lambda c: edited(c, c.ts_to_1),
    "you invert up to 1 - strength":
        lambda c: edited(c, timesteps(c.schedule, c.n, start=1 - c.strength)),
    "the inversion ends at strength, but the sampling starts from t = 1":
        lambda c: sampled(c, inverted(c, c.before), c.after, c.ts_to_1),
    "the inversion goes to t = 1, the sampling starts at strength":
        lambda c: sampled(c, inverted(c, c.before, c.ts_to_1), c.after),
}


def judge_edit(f: Callable) -> None:
    """4.8: edit(D, schedule, x, before, after, n, strength), inverted and sampled again."""
    for name, strength in (("flow", between(0.55, 0.7).item()), ("cosine", 1.0)):
        mistakes = EDIT_MISTAKES | (STRENGTH_MISTAKES if strength < 1 else {})
        draw = partial(draw_edit, SCHEDULES[name], strength)
        c = draw_case(draw, edited, mistakes, rtol=3e-4, atol=3e-4)
        got = run_edit(f, c)
        not_finite(got, f"{name}: nan or inf: at t = 0 there is no noise, sigma = 0; "
                   "evaluate one level up")
        compare_case(got, c, edited, mistakes, rtol=1e-3, atol=1e-3,
                     otherwise=f"{name}, strength {strength:.2f}: neither the edit nor a mistake "
                     "that is known here: compare your two parts with samplers.ddim_invert and "
                     "samplers.ddim, on timesteps(schedule, n, start=strength)")


def run_edit(f: Callable, c: Case) -> object:
    try:
        return call_pure(f, *c.inputs)
    except ValueError as error:
        reject_if(("not finite" in str(error), "the end of the inversion is nan: "
                   "at t = 0 there is no noise, sigma = 0; evaluate one level up"))
        raise


# ---- 4.9: distillation

class Teacher(nn.Module):
    """An exact denoiser that could be trained: it has one parameter."""

    def __init__(self, mixture: GaussianMixture, schedule: Schedule):
        super().__init__()
        self.exact = mixture.denoiser(schedule)
        self.one = nn.Parameter(torch.ones((), dtype=F64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.one * self.exact(x.detach(), t)


def target_case(schedule: Schedule, D: Callable, x: Tensor, t: Tensor, m: Tensor,
                s: Tensor) -> Case:
    """Two steps of the teacher, from x_t to x_m to x_s, and its predictions x0_t and x0_m."""
    c = Case(inputs=(D, schedule, x, t, m, s), D=D, schedule=schedule, x_t=x, t=t, m=m, s=s)
    c.a_t, c.b_t, c.a_s, c.b_s = (append_dims(q, x) for q in coefficients(schedule, t, s))
    c.ratio = append_dims(schedule.sigma(s) / schedule.sigma(t), x)
    c.x0_t = D(x, t)
    c.x_m = samplers.step(schedule, x, c.x0_t, t, m)
    c.x0_m = D(c.x_m, m)
    c.x_s = second_step(c, c.x_m, c.x0_m)
    return c


def draw_target(schedule: Schedule, d: int) -> Case:
    D, x, s = Teacher(bumps(d), schedule), noise(5, d), between(0.2, 0.4, 5)
    m = s + between(0.1, 0.25, 5)
    c = target_case(schedule, D, x, m + between(0.1, 0.25, 5), m, s)
    # so that a target clamped to [-1, 1] is another one
    return c if target(c).abs().max() > 1.05 else draw_target(schedule, d)


def second_step(c: Case, x: Tensor, x0_hat: Tensor) -> Tensor:
    """The teacher's step from m to s."""
    return samplers.step(c.schedule, x, x0_hat, c.m, c.s)


def target(c: Case, **parts: Tensor) -> Tensor:
    """The prediction with which one step from x_t lands at x_s. parts replace x_s, x_t, ratio."""
    x_s, x_t = parts.get("x_s", c.x_s), parts.get("x_t", c.x_t)
    ratio = parts.get("ratio", c.ratio)
    return (x_s - ratio * x_t) / (c.a_s - ratio * c.a_t)


def old_noise(c: Case) -> Tensor:
    """x_s from the second prediction and the first step's eps_hat."""
    return c.a_s * c.x0_m + c.b_s * (c.x_t - c.a_t * c.x0_t) / c.b_t


def target_of_first(c: Case) -> Tensor:
    """The target where all examples have the levels of the first one."""
    D, schedule, x, *levels = c.inputs
    return target(target_case(schedule, D, x, *(r[:1].expand_as(r) for r in levels)))


def target_of_middle(c: Case) -> Tensor:
    """The target where the teacher stops halfway, whatever m is."""
    middle = (c.t + c.s) / 2
    return target(target_case(c.schedule, c.D, c.x_t, c.t, middle, c.s))


def flow_target(c: Case) -> Tensor:
    """The target from the mean velocity, as if the schedule were the flow's."""
    t, gap = append_dims(c.t, c.x_t), append_dims(c.t - c.s, c.x_t)
    return c.x_t - t * (c.x_t - c.x_s) / gap


def target_by_angles(c: Case) -> Tensor:
    """The target from the angles of the levels, as if alpha^2 + sigma^2 were 1."""
    angle_t, angle_s = torch.atan2(c.b_t, c.a_t), torch.atan2(c.b_s, c.a_s)
    return (angle_t.sin() * c.x_s - angle_s.sin() * c.x_t) / (angle_t - angle_s).sin()


def weighted_by_time(c: Case) -> Tensor:
    """The mean of the teacher's predictions, weighted by the lengths of their steps."""
    share = append_dims((c.t - c.m) / (c.t - c.s), c.x_t)
    return share * c.x0_t + (1 - share) * c.x0_m


TARGET_MISTAKES = {
    "that is x_s, where the teacher lands; the target is the *prediction* that leads there":
        lambda c: c.x_s,
    "that is x_m, the teacher's first step":
        lambda c: c.x_m,
    "that is the teacher's first prediction: "
    "a student that learns it makes one step of the teacher's, not two":
        lambda c: c.x0_t,
    "that is the teacher's second prediction, which solves the step from m to s; "
    "the student steps from t, with x_t":
        lambda c: c.x0_m,
    "that is the mean of the teacher's two predictions; "
    "the right weights follow from where the steps land":
        lambda c: (c.x0_t + c.x0_m) / 2,
    "the second step evaluates the teacher at x_t instead of x_m":
        lambda c: target(c, x_s=second_step(c, c.x_m, c.D(c.x_t, c.m))),
    "the second step evaluates the teacher at t; x_m is at level m":
        lambda c: target(c, x_s=second_step(c, c.x_m, c.D(c.x_m, c.t))),
    "the second step starts from x_t; it starts from x_m":
        lambda c: target(c, x_s=second_step(c, c.x_t, c.x0_m)),
    "the second step keeps the first step's eps_hat: compute it again, at x_m":
        lambda c: target(c, x_s=old_noise(c)),
    "the student's step starts from x_m in your formula, not from x_t":
        lambda c: target(c, x_t=c.x_m),
    "x_s + ratio x_t has the wrong sign: what comes from x_t is taken away":
        lambda c: (c.x_s + c.ratio * c.x_t) / (c.a_s - c.ratio * c.a_t),
    "alpha_s + ratio alpha_t has the wrong sign: "
    "(4.8) has eps_hat = (x - alpha_t x0_hat) / sigma_t":
        lambda c: (c.x_s - c.ratio * c.x_t) / (c.a_s + c.ratio * c.a_t),
    "below the line the second part is missing: eps_hat contains x0_hat, too":
        lambda c: (c.x_s - c.ratio * c.x_t) / c.a_s,
    "it is not divided by alpha_s - ratio alpha_t":
        lambda c: c.x_s - c.ratio * c.x_t,
    "sigma_s / sigma_t is upside down":
        lambda c: target(c, ratio=1 / c.ratio.clamp(min=1e-9)),
    "the ratio is squared; sigmas are standard deviations, no squares here":
        lambda c: target(c, ratio=c.ratio**2),
    "every example gets the levels of the first: t, m and s have one entry for each":
        target_of_first,
    "the target is clamped to [-1, 1]; these data reach beyond":
        lambda c: target(c).clamp(-1, 1),
    "m is taken as the middle of t and s; it is given":
        target_of_middle,
    "below the line stands alpha_m, where alpha_s belongs":
        lambda c: (c.x_s - c.ratio * c.x_t) / (
            append_dims(c.schedule.alpha(c.m), c.x_t) - c.ratio * c.a_t),
    "that is the noise eps_hat of the target; the prediction is an x0_hat":
        lambda c: (c.x_t - c.a_t * target(c)) / c.b_t,
    "that is the target as a v; the student's prediction here is an x0_hat":
        lambda c: (c.a_t * c.x_t - target(c)) / c.b_t,
    "alpha_t and alpha_s have changed places below the line":
        lambda c: (c.x_s - c.ratio * c.x_t) / (c.a_t - c.ratio * c.a_s),
    "x - t (x - x_s) / (t - s) is the target of the flow schedule; "
    "the given one has other alpha and sigma":
        flow_target,
    "sines of angles are right only where alpha^2 + sigma^2 = 1":
        target_by_angles,
    "the two predictions are weighted by t - m and m - s; "
    "the right weights follow from where the steps land":
        weighted_by_time,
}


@torch.no_grad()
def judge_target(f: Callable) -> None:
    """4.9: student_target(D, schedule, x, t, m, s), for one ddim step that replaces two."""
    for d, (name, schedule) in enumerate(SCHEDULES.items(), 2):
        draw = partial(draw_target, schedule, d)
        c = draw_case(draw, target, TARGET_MISTAKES, rtol=1e-4, atol=1e-4)
        got = run_with_gradients(f, c)
        not_finite(got, f"{name}: nan or inf, although 0 < s < m < t < 1")
        compare_case(got, c, target, TARGET_MISTAKES, rtol=2e-4, atol=2e-4,
                     otherwise=f"{name}: put your target into one ddim step from t to s: it must "
                     "land at the teacher's x_s. Write that step down, and solve for x0_hat")
        flows = torch.is_tensor(got) and got.requires_grad
        reject_if((flows, "right, but gradients flow through it into the teacher: "
                   "make it under torch.no_grad(), only the student learns"))
    judge_target_at_the_ends(f)
    judge_target_of_short_steps(f)
    judge_gradients(f, c)
    reject_seeding(f, *c.inputs)


def judge_target_at_the_ends(f: Callable) -> None:
    """4.9 from alpha = 0, and to s = 0."""
    flow = SCHEDULES["flow"]
    D, x = Teacher(bumps(), flow), noise(12, 2)
    levels = torch.tensor([[1.0, 0.5], [0.75, 0.25], [0.5, 0.0]], dtype=F64)
    c = target_case(flow, D, x, *levels.repeat(1, 6))
    got = run_with_gradients(f, c)
    not_finite(got, "right in between, but nan or inf from t = 1 (alpha = 0) or to s = 0 "
               "(sigma = 0): divide by neither of these")
    compare(got, target(c), rtol=1e-5, atol=1e-5,
            otherwise="right in between, but not from alpha_t = 0, or not in the step to s = 0, "
            "where the target is the teacher's x_s itself")


def judge_target_of_short_steps(f: Callable) -> None:
    """4.9 for two steps of 0.02."""
    s = between(0.3, 0.7, 12)
    c = target_case(COSINE, Teacher(bumps(), COSINE), noise(12, 2), s + 0.04, s + 0.02, s)
    compare_case(run_with_gradients(f, c), c, target, {}, rtol=2e-4, atol=2e-4,
                 otherwise="right for long steps, but not where t - s = 0.04: "
                 "alpha_s - ratio alpha_t is small there, and still no 0; bound nothing")


def judge_gradients(f: Callable, c: Case) -> None:
    """4.9: neither through x nor by what is left switched off."""
    D, schedule, x, *levels = c.inputs
    got = None
    with torch.enable_grad():
        # numpy refuses tensors with gradients, and float32 made inside meets float64
        with contextlib.suppress(RuntimeError):
            got = f(D, schedule, x.clone().requires_grad_() * 1, *levels)
        off = not torch.is_grad_enabled()
    frozen = not all(p.requires_grad for p in D.parameters())
    reject_if((off, "right, but gradients stay switched off after your function, and no student "
               "can learn: use torch.no_grad() as a decorator or with `with`"),
              (frozen, "right, but the teacher's parameters do not learn any more, nor do a copy's "
               "that the student starts from: use torch.no_grad(), and leave them as they are"),
              (torch.is_tensor(got) and got.requires_grad, "right, but a gradient flows through it "
               "into x: make all of it under torch.no_grad()"))


def run_with_gradients(f: Callable, c: Case) -> object:
    with torch.enable_grad():
        return call_pure(f, *c.inputs)


QUESTIONS = [
    Question(
        "4.1", 2, judge_steps, "count calls of the network, and nothing else",
        ("In the lesson's functions, count the calls of D for n steps that end at 0. "
         "Mind the last step.",
         "ddim, dpmpp and unipc: n calls. heun: 2 n - 1. "
         "A guided prediction is two evaluations: first divide the budget.",
         "calls = budget // 2 if guided else budget; "
         "return (calls + 1) // 2 if sampler == \"heun\" else calls")),
    Question(
        "4.2", 3, judge_ddim,
        "for every eta, every schedule and every shape; eta = 1 is the posterior",
        ("Compute the four coefficients first, and reshape them to x's number of dimensions. "
         "Then v, then eps_hat, then (4.8).",
         "v = eta * sigma_s / sigma_t * sqrt(sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2); "
         "eps_hat belongs to level t.",
         "alpha_s * x0_hat + (sigma_s**2 - v**2).sqrt() * (x - alpha_t * x0_hat) / sigma_t "
         "+ v * z, each coefficient c as c.view(-1, *[1] * (x.ndim - 1))")),
    Question(
        "4.3", 4, judge_repaired, "four defects, of which only one was loud",
        ("Which quantity below the second root is an image, and not a number? "
         "What is the alpha_bar of the data? How often is the network evaluated?",
         "With v = eta * sqrt((1 - b) / (1 - a) * (1 - a / b)) the first root is that of "
         "1 - b - v**2. So which noise was taken away, and must come back?",
         "indices = [k * T // steps - 1 for k in range(steps, 0, -1)]; after the last one b = 1; "
         "toward = (1 - b - v**2).sqrt() * eps; the noise term is v * z")),
    Question(
        "4.4", 3, judge_variance,
        "between the two variances of Ho et al. lies the right one, "
        "if the width of the data is known",
        ("Of (4.3) only Var(x0 | x_t) is missing. x_t = alpha_t x0 + sigma_t eps, both Gaussian: "
         "inverse variances add.",
         "Var(x0 | x_t) = w^2 sigma_t^2 / (alpha_t^2 w^2 + sigma_t^2). "
         "Put it in; it can be simplified so that no line has a zero below it.",
         "with V = alpha^2 w^2 + sigma^2 at each level: "
         "V_s * (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2) / V_t")),
    Question(
        "4.5", 3, judge_heun,
        "two slopes and their mean, and no division by alpha: "
        "it starts wherever the schedule's slopes are finite",
        ("The slope of (4.11) as a function of x and t: "
         "schedule.d_alpha and schedule.d_sigma are the derivatives.",
         "u = slope(x, t); x_pred = x + (s - t) * u; and the mean of u and slope(x_pred, s) "
         "for the step from x. s - t is negative.",
         "if s == 0: return D(x, t). "
         "Otherwise x + (s - t) * (u + slope(x + (s - t) * u, s)) / 2")),
    Question(
        "4.6", 3, judge_order, "a straight piece between the law's beginning and the rounding",
        ("If e = C n^-p, what is log e as a function of log n?",
         "Throw away the errors that are not above ten times the floor. "
         "Of the others the last follow the law best.",
         "keep = errors > 10 * floor; n, e = ns[keep][-2:], errors[keep][-2:]; "
         "return -(e[1] / e[0]).log() / (n[1] / n[0]).log()")),
    Question(
        "4.7", 2, judge_timesteps,
        "the same sampler, the same eight evaluations, a fraction of the error; "
        "for these data, though",
        ("Begin with a family that has two numbers: start * (i / n)^power. "
         "Try a few dozen pairs.",
         "Starts between 0.93 and 0.98, powers near 2. "
         "For more: change all nine times a little at random, and keep what is better.",
         "0.95 * (torch.arange(8, -1, -1) / 8) ** 2 is enough")),
    Question(
        "4.8", 3, judge_edit,
        "inverted with the old condition, sampled with the new one; "
        "what the two have in common stays",
        ("Inversion and sampling both use timesteps(schedule, n, start=strength); "
         "the inversion takes them flipped.",
         "samplers.ddim_invert(D, schedule, x, rising, y=before) yields states, "
         "and last(...) takes the end. Then samplers.ddim with y=after.",
         "ts = timesteps(schedule, n, start=strength); "
         "z = last(ddim_invert(D, schedule, x, ts.flip(0), y=before)); "
         "return last(ddim(D, schedule, z, ts, y=after))")),
    Question(
        "4.9", 3, judge_target, "one step of the student lands where two of the teacher's do",
        ("First the teacher: two deterministic steps of (4.8), each with its own prediction. "
         "Where does it land?",
         "Then write one step from t to s with an unknown prediction g, "
         "x_s = alpha_s g + sigma_s (x - alpha_t g) / sigma_t, and solve for g.",
         "r = sigma_s / sigma_t; g = (x_s - r * x) / (alpha_s - r * alpha_t), "
         "under torch.no_grad(), each coefficient reshaped to (B, 1)")),
]
