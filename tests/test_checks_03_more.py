"""Lesson 3's checks, answers of readers who had seen the sheet alone.

F1 and so on are the numbers of a review of the checks: kinds of answers that were once judged
wrongly.
"""
import copy
import io

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


WRONG = [
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
RIGHT = [
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
