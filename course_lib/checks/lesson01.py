"""The questions of lesson 1. Each judge computes the right answer and the well-known wrong ones, and tells them apart."""
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..lab.data import mnist
from . import Question, Wrong, compare, function, number

F64 = torch.float64
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
ALPHA_BAR = torch.cumprod(1 - BETAS, dim=0)


def draws(*shape: int, seed: int = 11) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def both(got: object, wanted: tuple, mistakes: dict[str, tuple], names: tuple[str, str], where: str = "") -> None:
    """Compare a pair of answers; a mistake is a pair, too, and names itself when either half of it is what came."""
    if not isinstance(got, tuple) or len(got) != 2:
        raise Wrong(f"return two things, {names[0]} and {names[1]}; got {'a tuple of ' + str(len(got)) if isinstance(got, tuple) else type(got).__name__}")
    for k in (0, 1):
        if got[k] is None or isinstance(got[k], Tensor) and not got[k].isfinite().all():
            raise Wrong(f"{names[k]} is {'None' if got[k] is None else 'nan or inf'}" + (f": {where}" if where else ""))
        known = {diagnosis: pair[k] for diagnosis, pair in mistakes.items() if not torch.allclose(pair[k], wanted[k])}
        compare(torch.as_tensor(got[k], dtype=F64), wanted[k], known, otherwise=f"{names[k]} is not what it should be")


def judge_variance(f: Callable) -> None:
    """1.1: variance_after(v, betas), the variance at the end of a walk that starts with variance v."""
    for v, betas in ((4.0, torch.linspace(0.01, 0.2, 12, dtype=F64)), (0.25, torch.full((5,), 0.1, dtype=F64))):
        left, V = torch.prod(1 - betas), torch.tensor(v, dtype=F64)
        compare(number(function(f)(v, betas)), 1 + (V - 1) * left, {
            "that only adds the betas up: each step also multiplies the variance that is there by 1 - beta": V + betas.sum(),
            "that is the data's share alone; the noise of all the steps is missing": V * left,
            "the second part is a standard deviation: variances add, not their roots": V * left + (1 - left).sqrt(),
            "the image is multiplied by sqrt(1 - beta), so its variance by 1 - beta: no root here": V * left.sqrt() + 1 - left,
            "that is a single step, with the last beta; the walk has as many steps as betas": (1 - betas[-1]) * V + betas[-1],
            "1 is where an endless walk ends; after these few steps the start still shows": torch.ones((), dtype=F64),
            "that is how far the variance is from 1; add the 1 back": (V - 1) * left,
            "the distance to 1 shrinks by 1 - beta in each step, not by its root": 1 + (V - 1) * left.sqrt(),
            "the starting variance enters as it is, not squared: v is a variance already": 1 + (V**2 - 1) * left,
        })


def judge_jump(f: Callable) -> None:
    """1.2: jump(a_s, a_t) -> factor on x_s, variance of the noise, from level s to the noisier level t."""
    for a_s, a_t in ((0.9, 0.5), (0.6, 0.1)):
        s, t = torch.tensor(a_s, dtype=F64), torch.tensor(a_t, dtype=F64)
        right = (t / s).sqrt(), 1 - t / s
        both(function(f)(s, t), right, {
            "the factor and the variance have changed places": (right[1], right[0]),
            "that is the jump from x_0; yours starts from x_s, which holds noise already": (t.sqrt(), 1 - t),
            "the factor shrinks x_s by alpha_bar_t / alpha_bar_s; q asks for its square root": (t / s, 1 - t / s),
            "the factor is upside down: it must be below 1": ((s / t).sqrt(), 1 - s / t),
            "you subtract the two variances; but the noise in x_s is multiplied by the factor, too, so less of it arrives": (right[0], s - t),
            "that is a standard deviation; return the variance": (right[0], right[1].sqrt()),
            "the factor is the difference of the two; factors of steps multiply, so divide them": (t.sqrt() - s.sqrt(), s - t),
            "alpha_bar_t / alpha_bar_s is what remains of the variance of x_s; the noise fills it up to 1": (right[0], t / s),
        }, ("the factor", "the variance"))


def judge_q_sample(f: Callable) -> None:
    """1.3: q_sample(x0, i, eps, alpha_bar), a draw from q(x_t | x_0)."""
    for shape in ((6, 3, 4, 4), (6, 2)):
        x0, eps = draws(*shape), draws(*shape, seed=12)
        t = torch.tensor([0, 1, 164, 500, 800, 999])
        a, before = (c.view(-1, *[1] * (len(shape) - 1)) for c in (ALPHA_BAR[t], ALPHA_BAR[t - 1]))
        beta = BETAS[t].view_as(a)
        draw = lambda signal, noise: signal * x0 + noise * eps
        mistakes = {
            f"at step 500 your noise has standard deviation {1 - ALPHA_BAR[500]:.2f}, q asks for {(1 - ALPHA_BAR[500]) ** 0.5:.2f}. You multiply "
            "by the *variance*: look at the square root": draw(a.sqrt(), 1 - a),
            "you count one step too few: steps count from 0, and alpha_bar[i] already includes step i": draw(before.sqrt(), (1 - before).sqrt()),
            "the mean shrinks by alpha_bar; q asks for its square root": draw(a, (1 - a).sqrt()),
            "both coefficients lack their square root: alpha_bar and 1 - alpha_bar are variances": draw(a, 1 - a),
            "signal and noise have changed places: at step 0 nearly all must be signal": draw((1 - a).sqrt(), a.sqrt()),
            "that is one step, q(x_t | x_{t-1}) with beta_t; the jump from x_0 needs alpha_bar": draw((1 - beta).sqrt(), beta.sqrt()),
            "the noise is subtracted; it has the right size, but the check (and the loss later) needs + eps": draw(a.sqrt(), -(1 - a).sqrt()),
            "the noise is not scaled at all: its standard deviation is sqrt(1 - alpha_bar)": draw(a.sqrt(), torch.ones_like(a)),
        }
        try:
            kept = x0.clone()
            got = function(f)(x0, t, eps, ALPHA_BAR)
            if not torch.equal(x0, kept):
                raise Wrong("your function changes x0 itself (an operation such as `x0 *= ...`): compute a new tensor")
        except RuntimeError as error:
            if "size" in str(error) or "shape" in str(error):
                raise Wrong(f"{'right for images, but ' if len(shape) == 2 else ''}x0 of shape {shape} fails: alpha_bar[i] has shape (6,); give it as many dimensions as x0 has") from None
            raise
        if torch.is_tensor(got) and got.shape == x0.shape and not torch.allclose(got, f(x0, t, eps, ALPHA_BAR), equal_nan=True):
            raise Wrong("the same eps twice gave two answers: use the eps you are given, draw none of your own")
        if torch.is_tensor(got) and got.ndim > len(shape):
            raise Wrong(f"right for images, but x0 of shape {shape} comes back as {tuple(got.shape)}: give alpha_bar as many dimensions as x0 has")
        compare(got, x0 * a.sqrt() + eps * (1 - a).sqrt(), mistakes)


def judge_sigmoid(f: Callable) -> None:
    """1.4: sigmoid_betas(T), eq. (1.12) with the betas and the cap of (1.11)."""
    for T in (10, 1000):
        u = torch.linspace(0, 1, T + 1, dtype=F64)
        betas_of = lambda curve: 1 - curve[1:] / curve[:-1]
        g = lambda u: torch.sigmoid(3 - 6 * u) - torch.sigmoid(torch.tensor(-3.0, dtype=F64))
        right = betas_of(g(u)).clamp(max=0.999)
        got = function(f)(T)
        if torch.is_tensor(got) and got.shape in ((T + 1,), (T - 1,)):
            raise Wrong(f"T = {T} steps need {T} betas; got {len(got)}: alpha_bar lives at T + 1 times 0, 1/T, ..., 1, and a beta lies between neighbours")
        if torch.is_tensor(got) and got.shape == (T,) and abs(got[-1] - 1) < 9e-4 and torch.allclose(got[:-1].double(), right[:-1], rtol=5e-4):
            raise Wrong(f"your last beta is {got[-1]:.4f}: the cap of (1.11) is 0.999, so that something of the image is left to divide by")
        compare(got, right, {
            "sig(-3) is not subtracted, so alpha_bar does not end at 0": betas_of(torch.sigmoid(3 - 6 * u)).clamp(max=0.999),
            "that is alpha_bar; the question asks for the betas: 1 minus the ratio of neighbours": g(u[1:]) / g(u[:1]),
            "that ratio is alpha_t; a beta is 1 minus it": g(u[1:]) / g(u[:-1]),
            "your curve runs from noise to data: the sigmoid's argument falls from 3 to -3 as u rises": right.flip(0),
            "the ratio is upside down: alpha_bar_t over alpha_bar_{t-1}, not the reverse": (g(u[:-1]) / g(u[1:]) - 1).clamp(max=0.999),
            "that is the cosine schedule": betas_of(torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2).clamp(max=0.999),
        }, rtol=5e-4, atol=1e-6, otherwise="these are not the betas of (1.12): plot your alpha_bar at the T + 1 times 0, 1/T, ..., 1 beside Schedule.sigmoid(T).alpha(t)**2 (comparing is allowed) and see where it leaves the curve")


def mismatch(steps: int, power: float, pixels: int = 784) -> float:
    """(1.14) in bits, for DDPM's betas in `steps` steps and images of squared norm `power`."""
    a = torch.prod(1 - torch.linspace(1e-4, 0.02, steps, dtype=F64))
    return (0.5 * (a * power - pixels * a - pixels * torch.log1p(-a)) / math.log(2)).item()


def judge_steps(answer: object) -> None:
    """1.5: the smallest number of steps with a mismatch below one bit, on the first 1,000 test digits."""
    answer = answer() if callable(answer) else answer
    if isinstance(answer, bool) or not isinstance(answer, (int, float, Tensor)) or float(answer) != int(answer) or int(answer) < 2:
        raise Wrong(f"the answer is a whole number of steps, such as 100; got {answer!r}")
    answer, power = int(answer), mnist("test")[0][:1000].double().square().sum((1, 2, 3)).mean().item()
    first = lambda factor: next(T for T in range(20, 3000) if factor * mismatch(T, power) < 1)
    right = first(1.0)
    if abs(answer - right) <= 1:
        return
    for diagnosis, factor in {
            "that is where the mismatch falls below one *nat*: divide by log 2 to have bits": math.log(2),
            "that is one bit per *pixel*: add the pixels up, an image has 784 of them": 1 / 784,
            "the half in front of (1.14) is missing": 2.0,
            "half of (1.14) is below 1 there: is the half taken twice?": 0.5}.items():
        if abs(answer - first(factor)) <= 1:
            raise Wrong(diagnosis)
    there = mismatch(answer, power)
    raise Wrong(f"with T = {answer} steps the mismatch is {there:.3g} bits, " + ("still above 1: walk on" if there >= 1 else "well below 1: fewer steps would do"))


def judge_step_back(f: Callable) -> None:
    """1.6: step_back(x0, x, a_t, a_s) -> mean and variance of q(x_s | x_t, x_0)."""
    x0, x = draws(4, 3), draws(4, 3, seed=12)
    for t, s in ((0.3, 0.7), (0.05, 0.06), (0.4, 1.0)):
        t, s = torch.tensor(t, dtype=F64), torch.tensor(s, dtype=F64)
        alpha = t / s
        beta = 1 - alpha
        mean = lambda on_x, on_x0, below=1 - t: (on_x * x + on_x0 * x0) / below
        right = mean(alpha.sqrt() * (1 - s), s.sqrt() * beta), beta * (1 - s) / (1 - t)
        eps = (x - t.sqrt() * x0) / (1 - t).sqrt()
        both(function(f)(x0, x, t, s), right, {
            "the step from s to t has beta = 1 - alpha_bar_t / alpha_bar_s; you took 1 - alpha_bar_t, the step from the data": (mean(t.sqrt() * (1 - s), s.sqrt() * (1 - t)), (1 - s)),
            "beta is 1 - alpha_bar_t / alpha_bar_s, a ratio; you took the difference of the two": (mean(alpha.sqrt() * (1 - s), s.sqrt() * (s - t)), (s - t) * (1 - s) / (1 - t)),
            "a_t and a_s have changed places: a_t is the noisier level, the smaller number":
                ((((s / t).sqrt() * (1 - t) * x + t.sqrt() * (1 - s / t) * x0) / (1 - s)) if s < 1 else 0 * x, (1 - s / t) * (1 - t) / (1 - s) if s < 1 else 0 * t),
            "x_t and x_0 have changed places": (mean(s.sqrt() * beta, alpha.sqrt() * (1 - s)), right[1]),
            "the weight of x_t lacks a square root: sqrt(alpha), with alpha = alpha_bar_t / alpha_bar_s": (mean(alpha * (1 - s), s.sqrt() * beta), right[1]),
            "the weight of x_0 lacks a square root: sqrt(alpha_bar_s)": (mean(alpha.sqrt() * (1 - s), s * beta), right[1]),
            "the weight of x_0 has alpha_bar_t; it is the *earlier* level's, alpha_bar_s": (mean(alpha.sqrt() * (1 - s), t.sqrt() * beta), right[1]),
            "both weights are still to be divided by 1 - alpha_bar_t": (mean(alpha.sqrt() * (1 - s), s.sqrt() * beta, 1.0), right[1]),
            "that mean puts all the old noise back, as a deterministic step does; the posterior keeps only a part of it": (s.sqrt() * x0 + (1 - s).sqrt() * eps, right[1]),
            "that variance is beta, the step forward's; knowing x_0 makes the step back narrower: (1.17)": (right[0], beta),
            "that is a standard deviation; return the variance": (right[0], right[1].sqrt()),
            "the two levels have changed places in the variance": (right[0], beta * (1 - t) / (1 - s) if s < 1 else beta),
        }, ("the mean", "the variance"), "at s = 0, where alpha_bar_s = 1, something divides by 1 - alpha_bar_s; multiply it out, as the right-hand sides of (1.17) and (1.18) do")


class Spy(torch.nn.Module):
    """A network that remembers what it was shown and answers half of it."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.x, self.t = x.detach(), t.detach() if torch.is_tensor(t) else t
        return self.scale * x + 0.1

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5, dtype=F64))


def judge_loss(f: Callable) -> None:
    """1.7: training_loss(net, x0, alpha_bar), one number, from blank."""
    alpha_bar, x0, net = torch.tensor([0.9, 0.6, 0.3, 0.05], dtype=F64), 0.8 * draws(400, 6), Spy()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        loss = function(f)(net, x0.clone(), alpha_bar)
    if not hasattr(net, "x"):
        raise Wrong("the network was never asked: call net(x_t, t)")
    t = net.t
    if not torch.is_tensor(t) or t.shape != (400,):
        raise Wrong(f"the network needs one time per example, shape (400,); it was shown {tuple(t.shape) if torch.is_tensor(t) else t!r}: draw a step for each example")
    if t.max() >= 2:
        raise Wrong(f"the network was shown t = {t.max():.0f}: it expects (i + 1) / T, a number in (0, 1]")
    if t.min() == 0:
        raise Wrong("the network was shown t = 0: step i = 0 is the time 1 / T, so divide i + 1 by T")
    odd = t[((t.double() * 4).round() / 4 - t).abs() > 1e-4] if t.max() <= 1 else t[t > 1]
    if len(odd):
        raise Wrong(f"the network was shown t = {odd[0]:.4g}; with T = 4 steps the times are 0.25, 0.5, 0.75 and 1: divide a whole i + 1 by T = len(alpha_bar)")
    i = (t.double() * 4).round().long() - 1
    if len(i.unique()) == 1:
        raise Wrong("all examples got the same step: draw one for each, torch.randint(T, (B,))")
    if len(i.unique()) < 4:
        raise Wrong(f"with T = 4 the steps {sorted((set(range(4)) - set(i.tolist())))} never came in 400 draws: torch.randint(T, (B,)) gives 0 ... T-1")
    if torch.allclose(net.x.double(), x0):
        raise Wrong("the network was shown the clean x0: make x_t first")
    a = alpha_bar[i].view(-1, 1)
    eps = (net.x.double() - a.sqrt() * x0) / (1 - a).sqrt()                     # the noise that must have been used
    width = eps.std(dim=0).mean()
    if width < 1e-6:
        raise Wrong("every example got the same noise: draw as much noise as there is data, torch.randn_like(x0)")
    if eps.mean().abs() > 0.15:
        raise Wrong(f"your noise has mean {eps.mean():.2f}: torch.randn_like, not torch.rand_like")
    if abs(width - 1) > 0.07:
        raise Wrong(f"the noise in x_t has standard deviation {width:.2f} times what (1.7) asks for: look at the two square roots")
    out = 0.5 * net.x.double() + 0.1
    if not torch.is_tensor(loss):
        raise Wrong("your function returned None: does it end with `return`?" if loss is None else f"return the loss as a tensor; got {type(loss).__name__}: without .item(), so that it can be differentiated")
    square = lambda target: (out - target).square()
    if loss.shape == (400,):
        raise Wrong("one number is wanted, the mean over the batch; got one per example")
    compare(loss.detach(), square(eps).mean(), {
        "the network's answer is compared with x0; (1.26) compares it with the noise": square(x0).mean(),
        "the network's answer is compared with x_t; (1.26) compares it with the noise": square(net.x.double()).mean(),
        "that is the sum of the squares; take the mean, so that a guess of 0 costs 1": square(eps).sum(),
        "that is the sum over an example's numbers; take the mean over these, too": square(eps).sum(1).mean(),
        "that is the mean absolute error; (1.26) squares": (out - eps).abs().mean(),
        "that is the root of the mean square; leave the root out": square(eps).mean().sqrt(),
        "the answer is compared with fresh noise: keep the eps that made x_t": square(torch.zeros(())).mean() + 1,
        "the noise has the wrong sign: the network must answer + eps": square(-eps).mean(),
    }, rtol=1e-3, otherwise="the answer is not compared with the noise that made x_t: keep that eps, and compare with it")
    if not loss.requires_grad:
        raise Wrong("the value is right, but it carries no gradient: no torch.no_grad() and no .detach() in a loss")


def judge_score(f: Callable) -> None:
    """1.8: to_score(x0_hat, x, a), the score from the guess of the clean image."""
    x0_hat, x = draws(5, 3), draws(5, 3, seed=12)
    for a in (0.9, 0.2):
        a = torch.tensor(a, dtype=F64)
        signal = a.sqrt() * x0_hat
        compare(function(f)(x0_hat, x, a), (signal - x) / (1 - a), {
            "the sign is wrong: the score points from the noisy x towards the data": (x - signal) / (1 - a),
            "that is the guess of the noise; the score is minus it, over sqrt(1 - alpha_bar)": (x - signal) / (1 - a).sqrt(),
            "that is minus the guess of the noise; divide by sqrt(1 - alpha_bar) once more": (signal - x) / (1 - a).sqrt(),
            "x lies around sqrt(alpha_bar) x_0, not around x_0": (x0_hat - x) / (1 - a),
            "x lies around sqrt(alpha_bar) x_0: a square root is missing": (a * x0_hat - x) / (1 - a),
            "the direction is right; its length is not: divide by the variance of the noise": signal - x,
            "you divide by alpha_bar; the variance of the noise is 1 - alpha_bar": (signal - x) / a,
        })


def walk(net: Callable, x: Tensor, zs: Tensor, betas: Tensor, *, steps: range | None = None, width: Callable = torch.sqrt, late: bool = True,
         shift: int = 1, last_noise: bool = False, forward_variance: bool = False, same_z: bool = False, guess: Callable | None = None,
         wrap: bool = False, count: int | None = None) -> Tensor:
    """Algorithm 2 of Ho et al. with the switches that turn it into its well-known wrong versions."""
    a, T = torch.cumprod(1 - betas, 0), len(betas)
    before = torch.cat([a[-1:] if wrap else torch.ones(1, dtype=F64), a[:-1]])
    guess = guess or (lambda x, eps_hat, a: (x - (1 - a).sqrt() * eps_hat) / a.sqrt())                                      # (1.27)
    for i in reversed(range(T)) if steps is None else steps:
        x0_hat = guess(x, net(x, torch.full((len(x),), (i + shift) / (count or T), dtype=F64)), a[i])
        previous = before[i] if late else a[i]
        mean = ((1 - betas[i]).sqrt() * (1 - previous) * x + previous.sqrt() * betas[i] * x0_hat) / (1 - a[i])
        variance = betas[i] if forward_variance else betas[i] * (1 - before[i]) / (1 - a[i])
        if i == 0 and not wrap:
            variance = betas[0] if last_noise else 0 * variance
        x = mean + width(variance) * zs[0 if same_z else i]
    return x


def judge_sample(f: Callable) -> None:
    """1.9: sample(net, x, zs, betas), the whole way back from blank."""
    betas = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5], dtype=F64)
    x, zs = draws(6, 2), draws(5, 6, 2, seed=12)
    def net(x: Tensor, t: Tensor) -> Tensor:
        if not torch.is_tensor(t) or t.shape != (6,):
            raise Wrong(f"the network needs one time per example, shape (6,); it was shown {tuple(t.shape) if torch.is_tensor(t) else t!r}: torch.full((len(x),), ...)")
        return x * torch.tanh(2 * t.to(x.dtype))[:, None] + 0.3 * t.to(x.dtype)[:, None]

    kept = x.clone()
    got = function(f)(net, x, zs, betas)
    if not torch.equal(x, kept):
        raise Wrong("your function changes the x it was given (an operation such as `x += ...`): compute a new tensor")
    right = walk(net, x, zs, betas)
    a = torch.cumprod(1 - betas, 0)
    compare(got, right, {
        "you walk from i = 0 up to T-1: the way back begins at the noisy end": walk(net, x, zs, betas, steps=range(5)),
        "you add noise in the last step, i = 0, too: there the variance (1.17) is 0": walk(net, x, zs, betas, last_noise=True),
        "no noise is added on the way: a step is the mean *plus* sqrt(variance) z": walk(net, x, zs, betas, width=torch.zeros_like),
        "you multiply z by the *variance*; look at the square root": walk(net, x, zs, betas, width=lambda v: v),
        "your variance is beta_t, Ho et al.'s other choice; this question asks for (1.17)": walk(net, x, zs, betas, forward_variance=True),
        "your variance is beta_t, and z is added in the last step, too": walk(net, x, zs, betas, forward_variance=True, last_noise=True),
        "the network is told i / T; step i sits at t = (i + 1) / T": walk(net, x, zs, betas, shift=0),
        "the mean uses alpha_bar_t where alpha_bar_{t-1} belongs": walk(net, x, zs, betas, late=False),
        "you stop one step early: i runs down to 0": walk(net, x, zs, betas, steps=range(4, 0, -1)),
        "you start one step late: i begins at T - 1": walk(net, x, zs, betas, steps=range(3, -1, -1)),
        "the same z in every step: step i uses zs[i]": walk(net, x, zs, betas, same_z=True),
        "your steps use the noise in the wrong order: step i uses zs[i]": walk(net, x, zs.flip(0), betas),
        "the guess of x_0 is not divided by sqrt(alpha_bar): (1.27)": walk(net, x, zs, betas, guess=lambda x, e, a: x - (1 - a).sqrt() * e),
        "the network's answer is its guess of the noise, not of x_0: use (1.27) first": walk(net, x, zs, betas, guess=lambda x, e, a: e),
        "in (1.27) the noise is multiplied by sqrt(1 - alpha_bar): a root is missing": walk(net, x, zs, betas, guess=lambda x, e, a: (x - (1 - a) * e) / a.sqrt()),
        "you clip the guess of x_0; that can help with images, but this question asks for the plain algorithm": walk(net, x, zs, betas, guess=lambda x, e, a: ((x - (1 - a).sqrt() * e) / a.sqrt()).clamp(-1, 1)),
        "at i = 0 your alpha_bar[i - 1] is alpha_bar[-1], the *last* entry; before the first step alpha_bar is 1": walk(net, x, zs, betas, wrap=True),
        "the network is told (i + 1) / 1000; divide by T = len(betas)": walk(net, x, zs, betas, count=1000),
        "that is one guess of x_0 from the starting noise: walk, step by step": (x - (1 - a[-1]).sqrt() * net(x, torch.ones(6, dtype=F64))) / a[-1].sqrt(),
    }, otherwise="the end of your walk is not where it should be: print one step's mean and variance, and compare them with DDPM(net, betas).p_mean_variance")


def judge_best_variance(f: Callable) -> None:
    """1.10: best_variance(beta, before, v), the variance of x_{t-1} given x_t for Gaussian data of variance v."""
    for beta, before, v in ((0.1, 0.6, 0.25), (0.02, 0.3, 4.0), (0.3, 0.95, 0.01)):
        beta, before, v = (torch.tensor(c, dtype=F64) for c in (beta, before, v))
        a = before * (1 - beta)
        V_before, V = 1 + (v - 1) * before, 1 + (v - 1) * a
        compare(number(function(f)(beta, before, v)), beta * V_before / V, {
            "that is beta tilde, right only if the data is a single point (v = 0)": beta * (1 - before) / (1 - a),
            "that is beta, right only for v = 1": beta,
            "that is beta / alpha, the limit of (1.16) for a very wide density": beta / (1 - beta),
            "the ratio is upside down: for v = 0 it must give beta tilde, which is below beta": beta * V / V_before,
            "that is a standard deviation; return the variance": (beta * V_before / V).sqrt(),
            "both ends, v = 0 and v = 1, are right, but between them it is not a straight line": (1 - v) * beta * (1 - before) / (1 - a) + v * beta,
            "v is the variance of x_0; what enters is the variance of x_{t-1}, by (1.7)": v * beta / ((1 - beta) * v + beta),
            "the noise is missing in the variances of x_{t-1} and x_t: each is alpha_bar v + 1 - alpha_bar": beta / (1 - beta) + 0 * v,
            "that is the variance of x_{t-1} before x_t is known": V_before,
        }, otherwise="try the limits: v = 0 must give beta tilde, v = 1 must give beta")


QUESTIONS = [
    Question("1.1", 2, judge_variance, "the smaller the product of all 1 - beta, the nearer to 1 it ends, for any v: variance preserving",
             ("What does one step do to the distance v - 1?", "Every step multiplies the distance to 1 by 1 - beta.", "1 + (v - 1) * torch.prod(1 - betas)")),
    Question("1.2", 2, judge_jump, "these are alpha and beta of one large step: with them, every formula of sections 1.6 and 1.7 holds between any two levels",
             ("Write x_t by (1.7) from x_0, and x_t from x_s as factor * x_s + noise, with x_s by (1.7). Compare the factors of x_0.",
              "The factors give sqrt(a_t / a_s). Now the variances: factor^2 (1 - a_s) + variance must be 1 - a_t.", "variance = 1 - a_t / a_s")),
    Question("1.3", 3, judge_q_sample,
             "the difference was largest at i = 164, where 1 - alpha_bar = 1/4 (noise of width 0.25 in place of 0.5); "
             "at the end the wrong one looks fine, which is why it survived",
             ("Draw 10,000 copies of one pixel and compare the standard deviation of what comes out with the walk, step by step.",
              "The second argument of N(mean, variance) is a variance. What must multiply eps to give that variance?",
              "x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, with alpha_bar[i] given one dimension per dimension of x0.")),
    Question("1.4", 3, judge_sigmoid, "and only the last beta reached the cap",
             ("alpha_bar is needed at T + 1 times: 0, 1/T, ..., 1.", "The factor 1 / g(0) cancels in the ratio of neighbours.", "(1 - g(u[1:]) / g(u[:-1])).clamp(max=0.999)")),
    Question("1.5", 2, judge_steps, "T = 619 (one more or less is rounding): DDPM's betas need most of their thousand steps",
             ("alpha_bar_T is the product of T factors 1 - beta.", "Compute (1.14) for the digits in bits, for T = 100, 200, ...; then look closer.",
              "A loop over T: a = torch.prod(1 - torch.linspace(1e-4, 0.02, T)), then (1.14) as in the lesson's prior_mismatch, until it is below 1.")),
    Question("1.6", 3, judge_step_back, "with this a thousand-step model can be sampled in fifty",
             ("Exercise 1.2 gave alpha and beta of the large step. What in (1.17) and (1.18) belongs to the step, and what to the two levels?",
              "alpha_t becomes a_t / a_s, beta_t becomes 1 - a_t / a_s, alpha_bar_{t-1} becomes a_s.",
              "variance = beta (1 - a_s) / (1 - a_t);  mean = (sqrt(alpha) (1 - a_s) x + sqrt(a_s) beta x0) / (1 - a_t)")),
    Question("1.7", 3, judge_loss, "this line is all the training there is",
             ("Three draws: a step for every example, noise like x0, and x_t from both.", "The network is told (i + 1) / T and answers with its guess of eps.",
              "i = torch.randint(T, (B,)); eps = torch.randn_like(x0); a = alpha_bar[i].view(-1, 1, ...); ((net(x_t, (i + 1) / T) - eps) ** 2).mean()")),
    Question("1.8", 2, judge_score, "to remove noise is to climb: the score points from x towards sqrt(alpha_bar) x0_hat",
             ("Solve Tweedie's formula (1.30) for the score.", "(1 - a) * score = sqrt(a) * x0_hat - x")),
    Question("1.9", 4, judge_sample, "you have written a DDPM",
             ("One step is: ask the network, get the guess of x_0 by (1.27), the mean by (1.18), the variance by (1.17), then mean + sqrt(variance) z.",
              "alpha_bar_{t-1} is alpha_bar[i - 1], and 1 for i = 0: then the variance is 0 by itself.",
              "for i in reversed(range(T)): t = torch.full((len(x),), (i + 1) / T); x0_hat = (x - sqrt(1 - a) net(x, t)) / sqrt(a); ...")),
    Question("1.10", 3, judge_best_variance, "beta tilde for v = 0, beta for v = 1: Ho et al.'s two choices are the two ends",
             ("x_{t-1} and x_t are Gaussian together. What are their variances, by 1.1?",
              "Use (1.2): as a function of x_{t-1}, the step forward has variance beta / alpha, and x_{t-1} itself 1 + (v - 1) alpha_bar_{t-1}. Inverse variances add.",
              "beta * (1 + (v - 1) * before) / (1 + (v - 1) * before * (1 - beta))")),
]
