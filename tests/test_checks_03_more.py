"""Lesson 3's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import copy
import io
import math
import tempfile

import numpy as np
import pytest
import torch
from catalogues import assert_accepted, assert_refused, listed
from test_checks_03 import (
    EMA,
    ema_with,
    factor,
    fit,
    fool,
    frechet,
    in_x0,
    power,
    restore,
    state,
    weight_of,
    weighted,
)

from course_lib import Schedule
from course_lib.checks.common import one_thread
from course_lib.checks.trainings import SmallRun


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    with one_thread():
        yield


# ---- 3.3

def by_cholesky_of_a(A, B):                                                     # F8
    S = torch.linalg.cholesky(A)
    return torch.linalg.eigvalsh(S.T @ B @ S).clamp(min=0).sqrt().sum()


def by_inverse_of_a(A, B):
    BA = torch.linalg.inv(A) @ (A @ B @ A)
    return torch.linalg.eigvals(BA).real.clamp(min=0).sqrt().sum()


def unclamped_root(A, B):
    w, V = torch.linalg.eigh(A)
    R = (V * w.sqrt()) @ V.T
    return torch.linalg.eigvalsh(R @ B @ R).clamp(min=0).sqrt().sum()


def unclamped_product(A, B):
    R = power(A, 0.5)
    return torch.linalg.eigvalsh(R @ B @ R).sqrt().sum()


def numpy_frechet(a, A, b, B, real=True):
    a, A, b, B = (q.numpy() for q in (a, A, b, B))
    roots = np.sqrt(np.linalg.eigvals(A @ B).astype(complex))
    cross = roots.sum().real if real else roots.sum()
    return ((a - b) ** 2).sum() + np.trace(A) + np.trace(B) - 2 * cross


def by_symmetric_numpy(a, A, b, B):
    """Right, and an array without dimensions."""
    w, V = np.linalg.eigh(B.numpy())
    R = (V * np.sqrt(w.clip(0))) @ V.T
    cross = np.sqrt(np.linalg.eigvalsh(R @ A.numpy() @ R).clip(0)).sum()
    return np.array(((a - b) ** 2).sum() + A.trace() + B.trace() - 2 * cross)


def by_singular_values(A, B):
    """Right: the singular values of A^(1/2) B^(1/2)."""
    return torch.linalg.svdvals(power(A, 0.5) @ power(B, 0.5)).sum()


# ---- 3.2

def by_where(target, l, gamma):
    snr = l.exp()
    return {
        "eps": torch.where(snr > gamma, gamma / snr, torch.ones_like(snr)),
        "x0": torch.where(snr > gamma, torch.full_like(snr, gamma), snr),
        "v": torch.where(snr > gamma, gamma / (snr + 1), snr / (snr + 1)),
    }[target].nan_to_num(posinf=0)


# ---- 3.4

def by_moments(ns, values):
    """Right: slope = covariance / variance."""
    u = 1 / ns
    slope = ((u - u.mean()) * (values - values.mean())).mean() / (u - u.mean()).square().mean()
    return values.mean() - slope * u.mean()


def through_n_times_value(ns, values):                                          # F7
    return fit(ns, ns * values)[1]


def without_outliers(ns, values):
    a, b = fit(1 / ns, values)
    rest = (values - a - b / ns).abs()
    keep = rest <= 2 * rest.square().mean().sqrt() + 1e-9
    return fit(1 / ns[keep], values[keep])[0]


def by_medians(ns, values):
    u = 1 / ns
    i, j = torch.triu_indices(len(u), len(u), offset=1)
    slope = ((values[j] - values[i]) / (u[j] - u[i])).median()
    return (values - slope * u).median()


# ---- 3.5

class InDouble(EMA):                                                            # F25
    """Right: the average is kept in float64."""

    def __init__(self, net, decay=0.999):
        super().__init__(net, decay)
        self.net.double()


class Evaluating(EMA):
    """Right: the copy is in evaluation mode, the network is not."""

    def __init__(self, net, decay=0.999):
        super().__init__(net, decay)
        self.net.eval()


def shares_buffers(self, net, d):                                               # F10
    for mine, other in zip(self.net.modules(), net.modules()):
        for name in mine._buffers:
            mine._buffers[name] = other._buffers[name]


def takes_gradients(self, net, d):
    EMA.buffers(self, net, d)
    for p in net.parameters():
        p.grad = None


def zeroes_gradients(self, net, d):
    EMA.buffers(self, net, d)
    net.zero_grad(set_to_none=False)


def evaluates(self, net, d):
    EMA.buffers(self, net, d)
    net.eval()


# ---- 3.9

def drawn(real, n):
    z = torch.randn(n, real.shape[1], dtype=real.dtype)
    return z @ power(real.T.cov(), 0.5) + real.mean(0)


def stretched(factor):
    """Draws from a Gaussian that is wider along one axis than the right one."""
    def answer(real, n):
        z = torch.randn(n, real.shape[1], dtype=real.dtype)
        z[:, 0] *= factor**2
        return z @ power(real.T.cov(), 0.5) + real.mean(0)
    return answer


def real_in_place(real, n):
    real -= real.mean(0)
    return fool(real, n)


# ---- 3.7

def as_bytes(run):
    """Right: the state is a file in a tensor of bytes."""
    file = io.BytesIO()
    torch.save(state(run), file)
    return {"file": torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)}


def from_bytes(run, s):
    restore(run, torch.load(io.BytesIO(bytes(s["file"].tolist()))))


def forgets_the_rate(run, s):
    """Right: the rate is set by each step, so it need not come back."""
    kept = run.optimizer.state_dict()["param_groups"]
    restore(run, s | {"optimizer": s["optimizer"] | {"param_groups": kept}})


# ---- 3.8

def by_angle(base, side, base_side):
    angle = lambda t: torch.atan2(side / base_side * base.sigma(t), base.alpha(t))
    return Schedule(lambda t: angle(t).cos(), lambda t: angle(t).sin())


# ---- answers of a blind trial: formerly accepted, or refused without a name

def clamping(limit):
    return lambda loss, target, l: in_x0(loss, target, l.clamp(-limit, limit))


def ends_at(limit):
    """Right in between; log SNR is cut off."""
    return lambda target, l, gamma: factor(target, l.clamp(-limit, limit), gamma)


def min_snr_of(change):
    """change(SNR, weight, gamma), at log SNR that is no more than large."""
    def answer(target, l, gamma):
        snr = l.clamp(-80, 80).exp()
        return change(snr, weight_of(target, snr), gamma)
    return answer


def clamps_in_place(target, l, gamma):
    return factor(target, l.clamp_(-80, 80), gamma)


def entry_by_entry(A, B):
    root = lambda M: M.clamp(min=0).sqrt()
    return root(root(A) @ B @ root(A)).trace()


def in_two_dimensions(A, B):
    return ((A @ B).trace() + 2 * torch.linalg.det(A @ B).clamp(min=0).sqrt()).sqrt()


def with_one_root(A, B):
    return torch.linalg.eigvals(power(A, 0.5) @ B).real.clamp(min=0).sqrt().sum()


def by_divisors(above, below):
    """The slope from a covariance and a variance with two divisors."""
    def answer(ns, values):
        u = 1 / ns
        covariance = ((u - u.mean()) * (values - values.mean())).sum() / (len(u) - above)
        return values.mean() - covariance / u.var(correction=below) * u.mean()
    return answer


def sorts_ns_alone(ns, values):
    return fit(1 / ns.sort().values, values)[0]


def of_each_n(choose):
    """One value for each n."""
    def answer(ns, values):
        n = ns.unique()
        return fit(1 / n, torch.stack([choose(values[ns == one]) for one in n]))[0]
    return answer


def the_other_way(ns, values):
    a, b = fit(values, 1 / ns)
    return -a / b


def frozen(change):
    """Parameters that do not require gradients are treated in another way."""
    @torch.no_grad()
    def update(self, net):
        for a, p in zip(self.net.parameters(), net.parameters()):
            if p.requires_grad:
                a.lerp_(p, 1 - self.d())
            else:
                change(a, p)
        self.buffers(net, self.d())
        self.n += 1
    return ema_with(update=update)


def trains(self, net, d):
    EMA.buffers(self, net, d)
    net.train()


def thaws(self, net, d):
    EMA.buffers(self, net, d)
    net.requires_grad_(True)


class CountsInTheClass:
    """Makes an EMA that goes on with the count of the one before, anew for each two."""

    def __init__(self):
        self.made = 0

    def __call__(self, net, decay):
        ema = EMA(net, decay)
        ema.n = 8 * (self.made % 2)
        self.made += 1
        return ema


STORE = {}


def kept_in_a_variable(run):
    STORE[len(STORE)] = state(run)
    return {"key": len(STORE) - 1}


def kept_in_one_place(run):
    STORE["last"] = state(run)
    return {}


def saved_under_a_path(run):
    path = tempfile.mktemp(suffix=".pt")
    torch.save(state(run), path)
    return path


def pops(run, s):
    restore(run, {name: s.pop(name) for name in list(s)})


def shares(name):
    """The restored weights are the state's own tensors."""
    def answer(run, s):
        restore(run, s)
        for p, value in zip(getattr(run, name).parameters(), s[name].values()):
            p.data = value
    return state, answer


def in_two_hundred_steps(base, side, base_side):
    alpha = by_angle(base, side, base_side).alpha(torch.linspace(0, 1, 201, dtype=torch.float64))
    ratio = alpha[1:] ** 2 / alpha[:-1].clamp(min=1e-12) ** 2
    return Schedule.from_betas((1 - ratio).clamp(1e-8, 1))


def times_ratio(k):
    return lambda base, side, base_side: by_angle(base, k(side, base_side), 1)


def by_sums(base, side, base_side):
    both = lambda t: base_side * base.alpha(t) + side * base.sigma(t)
    return Schedule(lambda t: base_side * base.alpha(t) / both(t),
                    lambda t: side * base.sigma(t) / both(t))


def at_another_time(base, side, base_side):
    log_snr = by_angle(base, side, base_side).log_snr
    t_of = lambda t: base.t_from_log_snr(log_snr(t))
    return Schedule(lambda t: base.alpha(t_of(t)), lambda t: base.sigma(t_of(t)))


def ends_in_noise(base, side, base_side):
    """Right but at t = 1 of a base that keeps a little of the data."""
    right = by_angle(base, side, base_side)
    return Schedule(lambda t: right.alpha(t).where(t < 1, 0.0),
                    lambda t: right.sigma(t).where(t < 1, 1.0))


def short_of_the_data(base, side, base_side):
    """Right but at t = 0, where half a percent of the data is missing."""
    right = by_angle(base, side, base_side)
    return Schedule(lambda t: right.alpha(t).where(t > 0, 0.995 * right.alpha(t)), right.sigma)


def partly_copied(real, n):
    return torch.cat([real[: n // 5], fool(real, n - n // 5)])


def in_pairs(real, n):
    z = torch.randn(n // 2, real.shape[1], dtype=real.dtype)
    return fool(real, 2 * len(z))


def flat_ring(real, n):
    if real.shape[1] == 2:
        return fool(real, n)
    return torch.zeros(n, 2, dtype=real.dtype) @ real.T.cov()


# ---- answers of a second blind trial

def with_ridge(ridge):
    def answer(a, A, b, B):
        more = ridge * torch.eye(len(A), dtype=A.dtype)
        return frechet()(a, A + more, b, B + more)
    return answer


def by_wrong_product(factor):
    """L B L^T in place of L^T B L."""
    def cross(A, B):
        L = factor(A)
        return torch.linalg.eigvals(L @ B @ L.T).real.clamp(min=0).sqrt().sum()
    return frechet(cross=cross)


def scaled_vectors(A):
    w, V = torch.linalg.eigh(A)
    return V * w.clamp(min=0).sqrt()


def floored(A, B):
    def root(M):
        w, V = torch.linalg.eigh(M)
        return (V * w.clamp(min=0.01).sqrt()) @ V.T
    return root(root(A) @ B @ root(A)).trace()


def of_all_pairs(ns, values):
    u = 1 / ns
    i, j = torch.triu_indices(len(u), len(u), offset=1)
    return (values[i] - (values[j] - values[i]) / (u[j] - u[i]) * u[i]).mean()


def falling_only(ns, values):
    u = 1 / ns
    du = u - u.mean()
    slope = (du * (values - values.mean())).sum() / du.square().sum()
    return values.mean() - slope.clamp(min=0) * u.mean()


@torch.no_grad()
def averages_by_state_dict(self, net):
    """A weight that two layers share is in state_dict() twice."""
    parameters = dict(net.named_parameters(remove_duplicate=False))
    mine = self.net.state_dict()
    for name, value in net.state_dict().items():
        if name in parameters:
            mine[name].lerp_(value, 1 - self.d())
        else:
            mine[name].copy_(value)
    self.n += 1


def copies_batch_norms(self, net, d):
    for mine, other in zip(self.net.modules(), net.modules()):
        if isinstance(other, torch.nn.BatchNorm1d):
            mine.load_state_dict(mine.state_dict() | dict(other.named_buffers()))


def keeps_moments(run, s):
    """Before the first step Adam has no moments; those of the other run stay."""
    kept = copy.deepcopy(run.optimizer.state_dict())
    restore(run, s)
    if not s["optimizer"]["state"]:
        run.optimizer.load_state_dict(kept)


def shares_at_first(run, s):
    restore(run, s)
    if run.step == 0:
        for mine, other in zip(run.average.parameters(), run.net.parameters()):
            mine.data = other.data


def by_replay(run):
    """Right: what a run does follows from its seed and its steps."""
    return {"seed": run.generator.initial_seed(), "step": run.step}


def replay_of_sixty(run, s):
    twin = SmallRun(s["seed"])
    for _ in range(s["step"]):
        twin.advance()
    run.__dict__.update(twin.__dict__)


def moves_the_base(base, side, base_side):
    new = by_angle(copy.copy(base), side, base_side)
    base._alpha = new._alpha
    base._sigma = new._sigma
    return base


def with_a_small_number(base, side, base_side):
    k = side / base_side
    size = lambda t: (base.alpha(t) ** 2 + (k * base.sigma(t)) ** 2 + 1e-4).sqrt()
    return Schedule(lambda t: base.alpha(t) / size(t), lambda t: k * base.sigma(t) / size(t))


def flattens(base, side, base_side):
    new = by_angle(base, side, base_side)
    return Schedule(lambda t: new.alpha(t).flatten(), lambda t: new.sigma(t).flatten())


def of_another_cloud(real, n):
    g = torch.Generator().manual_seed(0)
    return fool(torch.randn(300, 2, generator=g, dtype=real.dtype) + 40, n)


PLAIN_COSINE = Schedule(lambda t: (math.pi / 2 * t).cos(), lambda t: (math.pi / 2 * t).sin())
WRONG = [
    ("3.1", "is the square of SNR", lambda loss, target, l: in_x0(loss, target, 2 * l)),
    ("3.1", "the mean weight of the batch",
     lambda loss, target, l: loss / weight_of(target, l.exp()).mean()),
    ("3.1", "has the wrong sign", lambda loss, target, l: (
        loss / (1 - (l / 2).exp()) ** 2 if target == "flow" else in_x0(loss, target, l))),
    ("3.1", "v: a small number, 0.01, is added below the line",
     lambda loss, target, l: loss / (weight_of(target, l.exp()) + 0.01)),
    ("3.1", "right for a batch of six",
     lambda loss, target, l: in_x0(loss, target, l) if len(l) > 1 else loss),
    ("3.2", "v: SNR is clamped below the line, too", lambda target, l, gamma: (
        factor("x0", l, gamma) / weight_of(target, factor("x0", l, gamma)))),
    ("3.2", "is flow's weight", lambda target, l, gamma: (
        factor("x0", l, gamma) / weight_of("flow", l.exp()) if target == "v"
        else factor(target, l, gamma))),
    ("3.2", "is a soft minimum",
     min_snr_of(lambda snr, weight, gamma: snr * gamma / (snr + gamma) / weight)),
    ("3.2", "eps: a small number, 0.001, is added below the line", lambda target, l, gamma: (
        factor("x0", l, gamma) / (l.exp() + 1e-3) if target == "eps"
        else factor(target, l, gamma))),
    ("3.2", "right for a batch of six", lambda target, l, gamma: (
        factor(target, l, gamma) if len(l) > 1 else torch.ones_like(l))),
    ("3.3", "0.001 is added to the diagonals", with_ridge(1e-3)),
    ("3.3", "0.01 is added to the diagonals", lambda a, A, b, B: (
        with_ridge(0.01)(a, A, b, B) - 0.02 * len(A))),
    ("3.3", "is L^T B L, and not L B L^T", by_wrong_product(scaled_vectors)),
    ("3.3", "L by Cholesky", by_wrong_product(torch.linalg.cholesky)),
    ("3.3", "Clamp at 0 itself", frechet(cross=floored)),
    ("3.4", "you sort ns and values apart",
     lambda n, v: fit(1 / n.sort().values, v.sort(descending=True).values)[0]),
    ("3.4", "two points each is not the least-squares line", of_all_pairs),
    ("3.4", "you cut it off at 0", lambda n, v: fit(1 / n, v)[0].clamp(min=0)),
    ("3.4", "you drop its sign", lambda n, v: fit(1 / n, v)[0].abs()),
    ("3.4", "the slope may have either sign", falling_only),
    ("3.4", "you drop the sign of the slope",
     lambda n, v: v.mean() - fit(1 / n, v)[1].abs() * (1 / n).mean()),
    ("3.5", "that two layers share is averaged twice",
     ema_with(update=averages_by_state_dict)),
    ("3.5", "but the buffer seen is not the network's", ema_with(buffers=copies_batch_norms)),
    ("3.5", "your warm-up stops after 10 updates",
     ema_with(d=lambda self: EMA.d(self) if self.n < 10 else self.decay)),
    ("3.7", "of a run that has not begun has no averages", (state, keeps_moments)),
    ("3.7", "before the first step is not continued", (state, shares_at_first)),
    ("3.7", "run.steps is 60 after restore", (by_replay, replay_of_sixty)),
    ("3.8", "changes the base schedule itself", moves_the_base),
    ("3.8", "alpha^2 + sigma^2 differs from 1", with_a_small_number),
    ("3.8", "t of shape (), yours have the shape (1,)", flattens),
    ("3.9", "when the real points are moved", of_another_cloud),
    ("3.1", "right for log SNR from -3 to 3, but not at", clamping(5)),
    ("3.1", "right for log SNR from -3 to 3, but not at",
     lambda loss, target, l: loss / (weight_of(target, l.exp()) + 1e-5)),
    ("3.1", "not in decibels", lambda loss, target, l: loss / weight_of(target, 10 ** (l / 10))),
    ("3.1", "the root of the weight",
     lambda loss, target, l: loss / weight_of(target, l.exp()).sqrt()),
    ("3.1", "the first SNR of the batch",
     lambda loss, target, l: loss / weight_of(target, l[0].exp())),
    ("3.1", "that t is the cosine schedule's", lambda loss, target, l: (
        loss * Schedule.cosine().t_from_log_snr(l) ** 2 if target == "flow"
        else in_x0(loss, target, l))),
    ("3.2", "changes the tensors it was given", clamps_in_place),
    ("3.2", "the limit itself is wanted", ends_at(10)),
    ("3.2", "put brackets around SNR + 1",
     min_snr_of(lambda snr, weight, gamma: snr.clamp(max=gamma) / snr + 1)),
    ("3.2", "by the root of v's weight",
     min_snr_of(lambda snr, weight, gamma: snr.clamp(max=gamma) / weight.sqrt())),
    ("3.2", "v: exp(log_snr / 2) is alpha / sigma",
     lambda target, l, gamma: factor(target, l / 2, gamma)),
    ("3.2", "by the mean of the batch",
     lambda target, l, gamma: factor(target, l, gamma) / factor(target, l, gamma).mean()),
    ("3.3", "the roots are taken entry by entry", frechet(cross=entry_by_entry)),
    ("3.3", "stands on both sides", frechet(cross=with_one_root)),
    ("3.3", "for two dimensions only", frechet(cross=in_two_dimensions)),
    ("3.3", "the means are added", frechet(means=lambda a, b: (a + b).square().sum())),
    ("3.4", "K - 1 above and K below", by_divisors(1, 0)),
    ("3.4", "K above and K - 1 below", by_divisors(0, 1)),
    ("3.4", "you leave out the smallest n", lambda n, v: fit(1 / n[1:], v[1:])[0]),
    ("3.4", "you fit 1/n over the values", the_other_way),
    ("3.4", "you sort ns alone", sorts_ns_alone),
    ("3.4", "you keep the last of them", of_each_n(lambda values: values[-1])),
    ("3.4", "you keep the first of them", of_each_n(lambda values: values[0])),
    ("3.4", "you take their mean", of_each_n(torch.mean)),
    ("3.5", "is left out: average every one", frozen(lambda a, p: None)),
    ("3.5", "is copied: average every one", frozen(lambda a, p: a.copy_(p))),
    ("3.5", "into training mode", ema_with(buffers=trains)),
    ("3.5", "which parameters of the network require gradients", ema_with(buffers=thaws)),
    ("3.5", "a plain copy", ema_with(d=lambda self: self.n and EMA.d(self))),
    ("3.5", "n goes on where another EMA stopped", CountsInTheClass()),
    ("3.7", "the state is next to nothing (1 numbers)",
     (kept_in_a_variable, lambda run, s: restore(run, STORE[s["key"]]))),
    ("3.7", "the state is next to nothing (0 numbers)",
     (saved_under_a_path, lambda run, s: restore(run, torch.load(s)))),
    ("3.7", "whose state was taken last",
     (kept_in_one_place, lambda run, s: restore(run, STORE["last"]))),
    ("3.7", "restore takes parts out of the state", (state, pops)),
    ("3.7", "run.net is made of the state's own tensors", shares("net")),
    ("3.7", "run.average is made of the state's own tensors", shares("average")),
    ("3.8", "near the ends", in_two_hundred_steps),
    ("3.8", "k is cut to a whole number", times_ratio(lambda side, base_side: side // base_side)),
    ("3.8", "to a whole number", times_ratio(lambda side, base_side: round(side / base_side))),
    ("3.8", "taken to be 28 pixels wide", times_ratio(lambda side, base_side: side / 28)),
    ("3.8", "that is the cosine schedule, shifted",
     lambda base, side, base_side: by_angle(Schedule.cosine(), side, base_side)),
    ("3.8", "that is cos(pi t / 2), shifted",
     lambda base, side, base_side: by_angle(PLAIN_COSINE, side, base_side)),
    ("3.8", "that makes their sum 1", by_sums),
    ("3.8", "nothing from another time", at_another_time),
    ("3.8", "nothing from another time", ends_in_noise),
    ("3.8", "nothing from another time", short_of_the_data),
    ("3.9", "are copies of real ones; none may be", partly_copied),
    ("3.9", "501 points in 2 dimensions are wanted", in_pairs),
    ("3.9", "right in two dimensions, but in three", flat_ring),
    ("3.9", "are off by chance only", lambda real, n: (2 * real.mean(0) - real)[:n]),
    ("3.1", "changes the tensors it was given",
     lambda loss, target, l: loss.div_(weight_of(target, l.exp()))),
    ("3.2", "changes the tensors it was given",
     lambda target, l, gamma: (factor(target, l.clone(), gamma), l.zero_())[0]),
    ("3.3", "changes the tensors it was given",
     lambda a, A, b, B: frechet()(a, A, b, B.mul_(1.0).add_(0 * B).sub_(1e-12)) + 3e-12),
    ("3.9", "changes the real points", real_in_place),
    ("3.3", "right so far, but here a covariance is singular", frechet(cross=by_cholesky_of_a)),
    ("3.3", "a covariance is singular", frechet(cross=by_inverse_of_a)),
    ("3.3", "needs clamp(min=0) before the root", frechet(cross=unclamped_root)),
    ("3.3", "nan where a covariance is singular", frechet(cross=unclamped_product)),
    ("3.3", "your answer is complex", lambda *inputs: numpy_frechet(*inputs, real=False)),
    ("3.4", "your fit weighs the values", weighted),
    ("3.4", "a fit of n * values over n weighs them by n", through_n_times_value),
    ("3.4", "you use the four largest n alone", lambda n, v: fit(1 / n[-4:], v[-4:])[0]),
    ("3.4", "the value that is farthest from the line", without_outliers),
    ("3.4", "right without errors", by_medians),
    ("3.5", "is in evaluation mode now",
     ema_with(lambda self, net: setattr(self, "net", copy.deepcopy(net.eval())))),
    ("3.5", "update puts the network that is being trained into", ema_with(buffers=evaluates)),
    ("3.5", "update changes the gradients", ema_with(buffers=takes_gradients)),
    ("3.5", "update changes the gradients", ema_with(buffers=zeroes_gradients)),
    ("3.5", "buffers are the network's own tensors", ema_with(buffers=shares_buffers)),
    ("3.5", "pass the class itself", EMA(torch.nn.Linear(1, 1))),               # F24
    ("3.9", "the covariance is 1.21 times",                                     # F22
     lambda real, n: 1.1 * (fool(real, n) - real.mean(0)) + real.mean(0)),
    ("3.9", "compare x.mean(0) and x.T.cov()", stretched(1.2)),
    ("3.9", "Whiten the draws first", drawn),
    ("3.7", "have the two functions changed places", (restore, state)),
]


class SharedAtOnce(EMA):
    """Right: new tensors first, then one load_state_dict; a shared weight is averaged once."""

    def update(self, net):
        parameters = dict(net.named_parameters(remove_duplicate=False))
        old, new, d = self.net.state_dict(), net.state_dict(), self.d()
        self.net.load_state_dict({
            name: d * old[name] + (1 - d) * value if name in parameters else value
            for name, value in new.items()
        })
        self.n += 1


def keeps_the_length(run, s):
    restore(run, s)
    run.steps = int(run.steps)


def by_angle_in_float32(base, side, base_side):
    new = by_angle(base, side, base_side)
    return Schedule(lambda t: new.alpha(t).float(), lambda t: new.sigma(t).float())


def replay(run, s):
    twin = SmallRun(s["seed"], run.steps)
    for _ in range(s["step"]):
        twin.advance()
    restore(run, state(twin))


RIGHT = [
    ("3.4", lambda n, v: np.polyfit(1 / n.numpy(), v.numpy(), 1)[1]),
    ("3.5", SharedAtOnce),
    ("3.7", (state, keeps_the_length)),
    ("3.8", lambda base, side, base_side: by_angle_in_float32(base, side, base_side)),
    ("3.7", (by_replay, replay)),
    ("3.1", lambda loss, target, l: in_x0(loss, target, l).tolist()),           # F12
    ("3.1", lambda loss, target, l: in_x0(loss, target, l).numpy()),
    ("3.2", by_where),
    ("3.3", numpy_frechet),
    ("3.3", frechet(cross=by_singular_values)),
    ("3.3", by_symmetric_numpy),
    ("3.4", by_moments),
    ("3.4", lambda n, v: np.float32(by_moments(n, v))),
    ("3.5", InDouble),
    ("3.5", Evaluating),
    ("3.7", (as_bytes, from_bytes)),
    ("3.7", (state, forgets_the_rate)),
    ("3.8", by_angle),
    ("3.9", lambda real, n: fool(real, n).numpy()),
]


@pytest.mark.parametrize("name, diagnosis, answer", listed(WRONG))
def test_wrong(name, diagnosis, answer):
    assert_refused(name, diagnosis, answer)


@pytest.mark.parametrize("name, answer", listed(RIGHT))
def test_right(name, answer):
    assert_accepted(name, answer)
