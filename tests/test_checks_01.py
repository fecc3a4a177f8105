"""Lesson 1's checks: right answers, stubs, and a diagnosis for each plausible mistake."""
import pytest
import torch

from course_lib import DDPM, Schedule
from course_lib.checks import Checker
from course_lib.checks.lesson01 import QUESTIONS


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)


def root(x):
    return x**0.5


def shaped(a, x0):
    return a.view(-1, *[1] * (x0.ndim - 1))


# ---- 1.1

def by_walking(v, betas):
    for beta in betas:
        v = (1 - beta) * v + beta
    return v


VARIANCE = {
    "only adds the betas up": lambda v, betas: v + sum(betas),
    "noise of all the steps is missing": lambda v, betas: v * torch.prod(1 - betas),
    "variances add, not their roots": (
        lambda v, betas: v * torch.prod(1 - betas) + root(1 - torch.prod(1 - betas))
    ),
    "no root here": lambda v, betas: v * root(torch.prod(1 - betas)) + 1 - torch.prod(1 - betas),
    "that is a single step": lambda v, betas: (1 - betas[-1]) * v + betas[-1],
    "where an endless process ends": lambda v, betas: 1.0,
    "add the 1 back": lambda v, betas: (v - 1) * torch.prod(1 - betas),
    "not by its root": lambda v, betas: 1 + (v - 1) * root(torch.prod(1 - betas)),
    "does it end with `return`": lambda v, betas: None,
    "one number is wanted": lambda v, betas: betas,
    "not squared": lambda v, betas: 1 + (v * v - 1) * torch.prod(1 - betas),
}

# ---- 1.2

JUMP = {
    "yours starts from x_s": lambda s, t: (root(t), 1 - t),
    "asks for its square root": lambda s, t: (t / s, 1 - t / s),
    "upside down": lambda s, t: (root(s / t), 1 - t / s),
    "so less of it arrives": lambda s, t: (root(t / s), (1 - t) - (1 - s)),
    "return the variance": lambda s, t: (root(t / s), root(1 - t / s)),
    "so divide them": lambda s, t: (root(t) - root(s), 1 - t / s),
    "fills it up to 1": lambda s, t: (root(t / s), t / s),
    "return two things": lambda s, t: root(t / s),
    "have changed places": lambda s, t: (1 - t / s, root(t / s)),
    "the variance is None": lambda s, t: (root(t / s), None),
}

# ---- 1.3


def sampler(signal, noise):
    """q_sample with the two coefficients as functions of alpha_bar_t."""
    def q_sample(x0, t, eps, alpha_bar):
        a = shaped(alpha_bar[t], x0)
        return signal(a) * x0 + noise(a) * eps
    return q_sample


right_q_sample = sampler(root, lambda a: root(1 - a))


def one_step_only(x0, t, eps, alpha_bar):
    before = torch.where(t > 0, alpha_bar[t - 1], torch.ones(()).double())
    beta = shaped(1 - alpha_bar[t] / before, x0)
    return root(1 - beta) * x0 + root(beta) * eps


def images_only(x0, t, eps, alpha_bar):
    a = alpha_bar[t].view(-1, 1, 1, 1)
    return root(a) * x0 + root(1 - a) * eps


def in_place(x0, t, eps, alpha_bar):
    x0 *= root(shaped(alpha_bar[t], x0))
    return x0 + root(shaped(1 - alpha_bar[t], x0)) * eps


def raises(x0, t, eps, alpha_bar):
    return x0 * missing_name  # noqa: F821


Q_SAMPLE = {
    "You multiply by the *variance*": sampler(root, lambda a: 1 - a),
    "one step too few": lambda x0, t, eps, alpha_bar: right_q_sample(x0, t - 1, eps, alpha_bar),
    "the mean shrinks by alpha_bar": sampler(lambda a: a, lambda a: root(1 - a)),
    "both coefficients lack": sampler(lambda a: a, lambda a: 1 - a),
    "changed places": sampler(lambda a: root(1 - a), root),
    "that is one step": one_step_only,
    "the noise is subtracted": sampler(root, lambda a: -root(1 - a)),
    "not scaled at all": sampler(root, torch.ones_like),
    "right for images, but": images_only,
    "x0 of shape (6, 3, 4, 4) fails": (
        lambda x0, t, eps, alpha_bar: root(alpha_bar[t]) * x0 + root(1 - alpha_bar[t]) * eps
    ),
    "draw none of your own": (
        lambda x0, t, eps, alpha_bar: right_q_sample(x0, t, torch.randn_like(x0), alpha_bar)
    ),
    "changes x0 itself": in_place,
    "does it end with `return`": lambda x0, t, eps, alpha_bar: None,
    "expected shape": lambda x0, t, eps, alpha_bar: right_q_sample(x0, t, eps, alpha_bar).flatten(),
    "raised NameError": raises,
    "values are nan or inf": lambda x0, t, eps, alpha_bar: x0 / 0,
    "the values differ": lambda x0, t, eps, alpha_bar: x0,
    "pass the function itself": torch.zeros(3),
}

# ---- 1.4


def sigmoid(T, argument=lambda u: 3 - 6 * u, low=3.0, cap=0.999):
    u = torch.arange(T + 1, dtype=torch.float64) / T
    end = 1 / (1 + torch.tensor(low, dtype=torch.float64).exp()) if low else 0
    g = 1 / (1 + (-argument(u)).exp()) - end
    g = g / g[0]                                            # g, alpha_bar: (T + 1,)
    return g, (1 - g[1:] / g[:-1]).clamp(max=cap)


SIGMOID = {
    "your last beta is 1.0000": lambda T: sigmoid(T, cap=1.0)[1],
    "your last beta is 0.9999": lambda T: sigmoid(T, cap=0.9999)[1],
    "sig(-3) is not subtracted": lambda T: sigmoid(T, low=None)[1],
    "that is alpha_bar": lambda T: sigmoid(T)[0][1:],
    "that ratio is alpha_t": lambda T: sigmoid(T)[0][1:] / sigmoid(T)[0][:-1],
    "from noise to data": lambda T: sigmoid(T)[1].flip(0),
    "upside down": lambda T: (sigmoid(T)[0][:-1] / sigmoid(T)[0][1:] - 1).clamp(max=0.999),
    "that is the cosine schedule": lambda T: Schedule.cosine(T).betas,
    "alpha_bar lives at T + 1 times": lambda T: sigmoid(T)[0],
    "and see where it leaves the curve": lambda T: sigmoid(T, argument=lambda u: 2 - 5 * u)[1],
}

# ---- 1.5

STEPS = {
    "one *nat*": 583,
    "one bit per *pixel*": 27,
    "half in front of (1.14) is missing": 688,
    "is the half taken twice": 551,
    "still above 1": 400,
    "fewer steps would do": 1000,
    "a whole number of steps": 618.6,
    "got 'many'": "many",
    "got -4": -4,
    "got True": True,
}

# ---- 1.6


def back(weight_x, weight_x0, variance, below=lambda t: 1 - t):
    """step_back with its parts as functions of (alpha, a_t, a_s)."""
    def step_back(x0, x, a_t, a_s):
        alpha = a_t / a_s
        mean = weight_x(alpha, a_t, a_s) * x + weight_x0(alpha, a_t, a_s) * x0
        return mean / below(a_t), variance(alpha, a_t, a_s)
    return step_back


on_x, on_x0 = lambda al, t, s: root(al) * (1 - s), lambda al, t, s: root(s) * (1 - al)
tilde = lambda al, t, s: (1 - al) * (1 - s) / (1 - t)


def deterministic(x0, x, a_t, a_s):
    eps = (x - root(a_t) * x0) / root(1 - a_t)
    return root(a_s) * x0 + root(1 - a_s) * eps, tilde(a_t / a_s, a_t, a_s)


def inverse_variances(x0, x, a_t, a_s):
    al = a_t / a_s
    v = 1 / (al / (1 - al) + 1 / (1 - a_s))
    return v * (root(al) / (1 - al) * x + root(a_s) / (1 - a_s) * x0), v


STEP_BACK = {
    "the step from the data": (
        back(lambda al, t, s: root(t) * (1 - s), lambda al, t, s: root(s) * (1 - t), tilde)
    ),
    "x_t and x_0 have changed places": back(on_x0, on_x, tilde),
    "weight of x_t lacks a square root": back(lambda al, t, s: al * (1 - s), on_x0, tilde),
    "weight of x_0 lacks a square root": back(on_x, lambda al, t, s: s * (1 - al), tilde),
    "the *earlier* level's": back(on_x, lambda al, t, s: root(t) * (1 - al), tilde),
    "still to be divided": back(on_x, on_x0, tilde, below=lambda t: 1.0),
    "as a deterministic step does": deterministic,
    "that variance is beta": back(on_x, on_x0, lambda al, t, s: 1 - al),
    "that is a standard deviation": back(on_x, on_x0, lambda al, t, s: root(tilde(al, t, s))),
    "changed places in the variance": (
        back(on_x, on_x0, lambda al, t, s: (1 - al) * (1 - t) / (1 - s))
    ),
    "return two things": lambda x0, x, a_t, a_s: x0,
    "the difference of the two": (
        back(on_x, lambda al, t, s: root(s) * (s - t), lambda al, t, s: (s - t) * (1 - s) / (1 - t))
    ),
    "a_t is the noisier level": lambda x0, x, a_t, a_s: back(on_x, on_x0, tilde)(x0, x, a_s, a_t),
    "at s = 0, where": inverse_variances,
}

# ---- 1.7


def trainer(
    step=None,
    time=lambda i, T: (i + 1) / T,
    noise=torch.randn_like,
    coefficients=lambda a: (root(a), root(1 - a)),
    target=lambda x0, x, eps: eps,
    reduce=lambda e: e.square().mean(),
):
    def training_loss(net, x0, alpha_bar):
        T = len(alpha_bar)
        i = torch.randint(T, (len(x0),)) if step is None else step(T, len(x0))
        eps = noise(x0)
        signal, width = coefficients(shaped(alpha_bar[i], x0))
        x = signal * x0 + width * eps
        return reduce(net(x, time(i, T)) - target(x0, x, eps))
    return training_loss


def unchanged(net, x0, alpha_bar):
    i = torch.randint(len(alpha_bar), (len(x0),))
    return (net(x0, (i + 1) / len(alpha_bar)) - torch.randn_like(x0)).square().mean()


LOSS = {
    "it expects (i + 1) / T": trainer(time=lambda i, T: i.double()),
    "was given t = 0": trainer(time=lambda i, T: i / T),
    "divide a whole i + 1": trainer(time=lambda i, T: (i + 1) / 1000),
    "given t = 1.333": trainer(time=lambda i, T: (i + 1) / (T - 1)),
    "every example got the same noise": (
        trainer(noise=lambda x0: torch.randn_like(x0[:1]).expand_as(x0))
    ),
    "one time per example": (
        trainer(step=lambda T, B: torch.randint(T, (1,)), time=lambda i, T: (i + 1) / T)
    ),
    "all examples got the same step": trainer(step=lambda T, B: torch.randint(T, (1,)).expand(B)),
    "never came in 400 draws": trainer(step=lambda T, B: torch.randint(1, T, (B,))),
    "the steps [3] never came": trainer(step=lambda T, B: torch.randint(T - 1, (B,))),
    "was given the clean x0": unchanged,
    "torch.rand_like": trainer(noise=torch.rand_like),
    "look at the two square roots": trainer(coefficients=lambda a: (root(a), 1 - a)),
    "compared with x0": trainer(target=lambda x0, x, eps: x0),
    "compared with x_t": trainer(target=lambda x0, x, eps: x),
    "that is the sum of the squares": trainer(reduce=lambda e: e.square().sum()),
    "sum over an example's numbers": trainer(reduce=lambda e: e.square().flatten(1).sum(1).mean()),
    "mean absolute error": trainer(reduce=lambda e: e.abs().mean()),
    "root of the mean square": trainer(reduce=lambda e: root(e.square().mean())),
    "the wrong sign": trainer(target=lambda x0, x, eps: -eps),
    "keep that eps": trainer(target=lambda x0, x, eps: torch.randn_like(eps)),
    "got one per example": trainer(reduce=lambda e: e.square().flatten(1).mean(1)),
    "carries no gradient": torch.no_grad()(trainer()),
    "without .item()": trainer(reduce=lambda e: e.square().mean().item()),
    "does it end with `return`": (
        lambda net, x0, alpha_bar: [trainer()(net, x0, alpha_bar), None][1]
    ),
    "never called": lambda net, x0, alpha_bar: x0.mean(),
}

# ---- 1.8

SCORE = {
    "the sign is wrong": lambda x0, x, a: (x - root(a) * x0) / (1 - a),
    "that is the prediction of the noise": lambda x0, x, a: (x - root(a) * x0) / root(1 - a),
    "minus the prediction of the noise": lambda x0, x, a: -(x - root(a) * x0) / root(1 - a),
    "not around x_0": lambda x0, x, a: (x0 - x) / (1 - a),
    "a square root is missing": lambda x0, x, a: (a * x0 - x) / (1 - a),
    "its length is not": lambda x0, x, a: root(a) * x0 - x,
    "you divide by alpha_bar": lambda x0, x, a: (root(a) * x0 - x) / a,
}

# ---- 1.9


def right_sample(net, x, zs, betas):
    """By the library's textbook class."""
    ddpm = DDPM(net, betas)
    for i in reversed(range(len(betas))):
        mean, variance, _ = ddpm.p_mean_variance(x, torch.full((len(x),), i))
        x = mean + shaped(root(variance), x) * zs[i]
    return x


def sampling(
    order=lambda T: reversed(range(T)),
    width=root,
    variance=None,
    time=lambda i, T: (i + 1) / T,
    z=lambda zs, i: zs[i],
    before=lambda a, i: a[i - 1] if i else torch.ones(()).double(),
    guess=lambda x, eps, a: (x - root(1 - a) * eps) / root(a),
):
    def sample(net, x, zs, betas):
        a = torch.cumprod(1 - betas, 0)
        for i in order(len(betas)):
            previous = a[i - 1] if i else torch.ones(()).double()
            used = before(a, i)
            x0_hat = guess(x, net(x, torch.full((len(x),), time(i, len(betas)))), a[i])
            mean = root(1 - betas[i]) * (1 - used) * x + root(used) * betas[i] * x0_hat
            v = betas[i] * (1 - previous) / (1 - a[i])
            if variance is not None:
                v = variance(betas[i], i)
            x = mean / (1 - a[i]) + width(v) * z(zs, i)
        return x
    return sample


def changes_x(net, x, zs, betas):
    x += 1
    return x


def wraps_around(net, x, zs, betas):
    a = torch.cumprod(1 - betas, 0)
    for i in reversed(range(len(betas))):
        eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
        x0_hat = (x - root(1 - a[i]) * eps_hat) / root(a[i])
        mean = root(1 - betas[i]) * (1 - a[i - 1]) * x + root(a[i - 1]) * betas[i] * x0_hat
        x = mean / (1 - a[i]) + root(betas[i] * (1 - a[i - 1]) / (1 - a[i])) * zs[i]
    return x


def one_prediction(net, x, zs, betas):
    a = torch.prod(1 - betas)
    return (x - root(1 - a) * net(x, torch.ones(len(x)))) / root(a)


SAMPLE = {
    "from i = 0 up": sampling(order=range),
    "noise in the last step": (
        lambda net, x, zs, betas: right_sample(net, x, zs, betas) + root(betas[0]) * zs[0]
    ),
    "no noise is added": sampling(width=lambda v: 0 * v),
    "you multiply z by the *variance*": sampling(width=lambda v: v),
    "Ho et al.'s other choice": sampling(variance=lambda beta, i: beta * (i > 0)),
    "and z is added in the last step, too": sampling(variance=lambda beta, i: beta),
    "given i / T": sampling(time=lambda i, T: i / T),
    "alpha_bar_{t-1} belongs": sampling(before=lambda a, i: a[i]),
    "stop one step early": sampling(order=lambda T: range(T - 1, 0, -1)),
    "start one step late": sampling(order=lambda T: range(T - 2, -1, -1)),
    "the same z": sampling(z=lambda zs, i: zs[0]),
    "in the wrong order": sampling(z=lambda zs, i: zs[len(zs) - 1 - i]),
    "not divided by sqrt(alpha_bar)": sampling(guess=lambda x, eps, a: x - root(1 - a) * eps),
    "that is one prediction": one_prediction,
    "changes the x it was given": changes_x,
    "alpha_bar[-1], the *last* entry": wraps_around,
    "given (i + 1) / 1000": sampling(time=lambda i, T: (i + 1) / 1000),
    "not x_0: use (1.27) first": sampling(guess=lambda x, eps, a: eps),
    "a root is missing": sampling(guess=lambda x, eps, a: (x - (1 - a) * eps) / root(a)),
    "you clip x0_hat": sampling(
        guess=lambda x, eps, a: ((x - root(1 - a) * eps) / root(a)).clamp(-1, 1)
    ),
    "one time per example": lambda net, x, zs, betas: net(x, 1.0),
    "compare them with DDPM": lambda net, x, zs, betas: x,
}

# ---- 1.10


def best(beta, before, v):
    return 1 / ((1 - beta) / beta + 1 / (before * v + 1 - before))


BEST = {
    "that is beta tilde": lambda beta, before, v: beta * (1 - before) / (1 - before * (1 - beta)),
    "that is beta, right only": lambda beta, before, v: beta,
    "beta / alpha": lambda beta, before, v: beta / (1 - beta),
    "upside down": lambda beta, before, v: beta**2 / best(beta, before, v),
    "standard deviation": lambda beta, before, v: root(best(beta, before, v)),
    "what enters is the variance of x_{t-1}": lambda beta, before, v: best(beta, 1.0, v),
    "before x_t is known": lambda beta, before, v: 1 + (v - 1) * before,
    "not a straight line": (
        lambda beta, before, v: (1 - v) * best(beta, before, 0) + v * best(beta, before, 1)
    ),
    "does it end with `return`": lambda beta, before, v: None,
    "try the limits": lambda beta, before, v: beta + 0.1 * v,
}

RIGHT = {
    "1.1": by_walking,
    "1.2": lambda s, t: (root(t / s), 1 - t / s),
    "1.3": right_q_sample,
    "1.4": lambda T: sigmoid(T)[1],
    "1.5": 619,
    "1.6": back(on_x, on_x0, tilde),
    "1.7": trainer(),
    "1.8": lambda x0, x, a: -((x - root(a) * x0) / root(1 - a)) / root(1 - a),
    "1.9": right_sample,
    "1.10": best,
}
WRONG = {
    "1.1": VARIANCE,
    "1.2": JUMP,
    "1.3": Q_SAMPLE,
    "1.4": SIGMOID,
    "1.5": STEPS,
    "1.6": STEP_BACK,
    "1.7": LOSS,
    "1.8": SCORE,
    "1.9": SAMPLE,
    "1.10": BEST,
}
CASES = [
    pytest.param(name, diagnosis, answer, id=f"{name} {diagnosis}")
    for name, wrong in WRONG.items()
    for diagnosis, answer in wrong.items()
]


@pytest.mark.parametrize("name, diagnosis, answer", CASES)
def test_wrong(refused, name, diagnosis, answer):
    refused(name, diagnosis, answer)


@pytest.mark.parametrize("name", RIGHT)
def test_right(name):
    check = Checker()
    for seed in range(5):  # whatever random numbers the answer draws
        torch.manual_seed(seed)
        check(name, RIGHT[name])
        assert check.passed(name)


def stub(*arguments):
    raise NotImplementedError


def test_stubs_and_completeness():
    assert [q.name for q in QUESTIONS] == list(RIGHT) == list(WRONG)
    assert len(CASES) >= 40 and min(len(wrong) for wrong in WRONG.values()) >= 5
    check = Checker()
    for q in QUESTIONS:
        check(q.name, stub)
        assert check.verdicts[q.name] == "not attempted"
        assert q.points > 0 and q.praise and len(q.hints) >= 2


def sigmoid32(T):
    g = torch.sigmoid(3 - 6 * torch.linspace(0, 1, T + 1)) - torch.sigmoid(torch.tensor(-3.0))
    return (1 - g[1:] / g[:-1]).clamp(max=0.999)


def test_float32_answers_pass():
    """A reader who works in float32 is not wrong."""
    check = Checker()
    check("1.3", lambda x0, t, eps, alpha_bar: right_q_sample(x0, t, eps, alpha_bar).float())
    check("1.4", lambda T: sigmoid32(T))
    check("1.8", lambda x0, x, a: RIGHT["1.8"](x0.float(), x.float(), a.float()))
    check("1.9", lambda net, x, zs, betas: right_sample(net, x.float(), zs.float(), betas.float()))
    assert all(verdict == "right" for verdict in check.verdicts.values()), check.verdicts


def test_praise_of_1_3_is_true():
    """The praise says where the tutorial's noise is most wrong; measured here."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    gap = root(1 - alpha_bar) - (1 - alpha_bar)
    assert gap.argmax() == 164 and 1 - alpha_bar[164] == pytest.approx(0.25, abs=0.005)
