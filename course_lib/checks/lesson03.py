"""The questions of lesson 3.

Each question has a table of its well-known mistakes: diagnosis -> what the mistake computes. The
judge draws a case in which the right answer and all mistakes differ, and compares.
"""
import copy
import io
import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lab.data import GaussianMixture
from ..lab.evaluation.metrics import frechet_distance, precision_recall
from ..schedules import Schedule
from .common import (
    COSINE,
    F64,
    Case,
    Question,
    Wrong,
    as_class,
    as_function,
    as_scalar,
    as_tensor,
    between,
    call_twice,
    compare,
    compare_case,
    draw_case,
    fresh_generator,
    noise,
    one_thread,
    reject_first,
    reject_if,
    reject_none,
)
from .trainings import DEFECTS, TRAININGS, SmallRun, patient, train_with

# ---- 3.1 and 3.2: loss weights

# target -> the weight of the x0 error in the loss of this target, from the SNR
WEIGHTS = {
    "v": lambda snr: snr + 1,
    "flow": lambda snr: (1 + snr.sqrt()) ** 2,
    "eps": lambda snr: snr,
    "x0": torch.ones_like,
}


def draw_loss(target: str) -> Case:
    """A batch of losses of one target, each at its own log SNR, the last two far out."""
    loss = between(0.1, 1, 6)
    log_snr = torch.cat([between(-3, 3, 4), between(-9, -6, 1), between(6, 9, 1)])
    snr = log_snr.exp()
    weight = WEIGHTS[target](snr)
    return Case(target=target, loss=loss, log_snr=log_snr, snr=snr, weight=weight)


def right_error(c: Case) -> Tensor:
    return c.loss / c.weight


def error_by(weight: Callable[[Tensor], Tensor]) -> Callable[[Case], Tensor]:
    """The loss, divided by another weight, a function of the SNR."""
    return lambda c: c.loss / weight(c.snr)


def error_with(snr: Callable[[Case], Tensor]) -> Callable[[Case], Tensor]:
    """The loss, divided by the right weight of a wrong SNR."""
    return lambda c: c.loss / WEIGHTS[c.target](snr(c))


ERROR_MISTAKES = {
    "v": {
        "that is eps' weight; v's is SNR + 1":
            error_by(WEIGHTS["eps"]),
        "that is flow's weight, right where alpha + sigma = 1; v's is SNR + 1":
            error_by(WEIGHTS["flow"]),
        "1 + 1/SNR is v's weight on the error of *eps*, or your SNR is upside down; "
        "on the error of x0 it is SNR + 1":
            error_by(lambda snr: 1 + 1 / snr),
    },
    "flow": {
        "that is v's weight, right where alpha^2 + sigma^2 = 1; "
        "with alpha = 1 - t and sigma = t there is a mixed term":
            error_by(WEIGHTS["v"]),
        "flow's weight has the root of SNR in it: (1 + sqrt(SNR))^2":
            error_by(lambda snr: (1 + snr) ** 2),
        "1 + sqrt(SNR) is still to be squared":
            error_by(lambda snr: 1 + snr.sqrt()),
        "(1 - sqrt(SNR))^2 has the wrong sign: at SNR = 1 it is 0, and no error would count; "
        "flow's weight is (1 + sqrt(SNR))^2":
            error_by(lambda snr: (1 - snr.sqrt()) ** 2),
        "flow: that t is the cosine schedule's; flow has alpha = 1 - t and sigma = t":
            lambda c: c.loss * COSINE.t_from_log_snr(c.log_snr) ** 2,
    },
    "eps": {
        "eps: that is v's weight; here it is SNR alone":
            error_by(WEIGHTS["v"]),
        "alpha/sigma is still to be squared: an error counts by its square":
            error_by(torch.sqrt),
    },
    "x0": {
        "the loss of target x0 is the error of x0: leave it as it is":
            error_by(WEIGHTS["eps"]),
        "x0: its own weight is 1, not SNR + 1":
            error_by(WEIGHTS["v"]),
    },
}
ERROR_MISTAKES_OF_ANY_TARGET = {
    "{c.target}: you multiply by the weight; loss = weight * error, so divide":
        lambda c: c.loss * c.weight,
    "{c.target}: you use log SNR as if it were SNR: take its exp first":
        error_with(lambda c: c.log_snr),
    "{c.target}: exp(log_snr / 2) is alpha / sigma; SNR is its square, exp(log_snr)":
        error_with(lambda c: c.snr.sqrt()),
    "{c.target}: exp(2 log_snr) is the square of SNR; SNR itself is exp(log_snr)":
        error_with(lambda c: c.snr**2),
    "{c.target}: your SNR is upside down: data over noise is exp(log_snr)":
        error_with(lambda c: 1 / c.snr),
    "{c.target}: the logarithm is the natural one: exp(log_snr), not 10**log_snr":
        error_with(lambda c: 10**c.log_snr),
    "{c.target}: log_snr is not in decibels: SNR is exp(log_snr), not 10**(log_snr / 10)":
        error_with(lambda c: 10 ** (c.log_snr / 10)),
    "{c.target}: you divide by the root of the weight; the loss is a square, as the error is: "
    "divide by the weight itself":
        lambda c: c.loss / c.weight.sqrt(),
    "{c.target}: the first SNR of the batch is used for all; each loss has its own":
        lambda c: c.loss / c.weight[0],
    "{c.target}: the mean weight of the batch is used for all; each loss has its own":
        lambda c: c.loss / c.weight.mean(),
    "{c.target}: that is the weight; the loss divided by it is wanted":
        lambda c: c.weight,
    "{c.target}: that is a root; the squared error is wanted":
        lambda c: (c.loss / c.weight).sqrt(),
    "{c.target}: that is the loss as it came; divide by the weight of this target":
        lambda c: c.loss,
}
ERROR_HELP = (
    "target {c.target!r}: put eps = (x_t - alpha x0) / sigma into the target, "
    "for x0 and for x0_hat, and subtract"
)

ERROR_FAR_OUT = (
    "{c.target}: right for log SNR from -3 to 3, but not at {c.log_snr[4]:.1f} and "
    "{c.log_snr[5]:.1f}: is something clamped, or a small number added?"
)

ADDED = (
    "{target}: a small number, {extra:.1g}, is added below the line: with it the weight is another "
    "one"
)
ALONE = (
    "right for a batch of six, but not for a batch of one: an example's result depends on itself "
    "alone"
)


def error_help(got: object, c: Case) -> str:
    """The diagnosis of no known mistake."""
    wanted = right_error(c)
    same_shape = torch.is_tensor(got) and got.shape == wanted.shape and not got.is_complex()
    near = same_shape and torch.allclose(got.double()[:4], wanted[:4], rtol=1e-3, atol=1e-6)
    if near:
        return ERROR_FAR_OUT
    extra = number_added(c.loss / got.double() - c.weight) if same_shape else None
    return ERROR_HELP if extra is None else ADDED.format(target=c.target, extra=extra)


def number_added(extra: Tensor) -> float | None:
    """The number that was added to each weight of a batch, or None: extra has what is too much."""
    small = bool(((extra > 0) & (extra < 0.5)).all())
    return extra.mean().item() if small and extra.std() < 0.05 * extra.mean() else None


def judge_alone(f: Callable, got: Tensor, *inputs: object) -> None:
    """A batch of one: each of the answers must also come from its inputs alone."""
    for k in (0, len(got) - 1):
        one = [x[k : k + 1] if torch.is_tensor(x) else x for x in inputs]
        compare(call_twice(f, *one), got[k : k + 1], rtol=1e-3, atol=1e-6, otherwise=ALONE)


def judge_error(f: Callable) -> None:
    """3.1: x0_error(loss, target, log_snr), the x0 error that gives this loss of the target."""
    for target in WEIGHTS:
        mistakes = ERROR_MISTAKES[target] | ERROR_MISTAKES_OF_ANY_TARGET
        c = draw_case(lambda: draw_loss(target), right_error, mistakes)
        got = call_twice(f, c.loss, target, c.log_snr)
        compare_case(got, c, right_error, mistakes, rtol=1e-3, atol=1e-6,
                     otherwise=error_help(as_tensor(got), c))
        judge_alone(f, right_error(c), c.loss, target, c.log_snr)


def draw_min_snr(target: str) -> Case:
    """Noise levels below and above gamma; `clamped` is min(SNR, gamma)."""
    gamma = between(2, 4).item()
    log_snr = torch.cat([between(-3, 0, 3), between(4.2, 5, 3)])
    snr = log_snr.exp()
    return Case(
        target=target,
        gamma=gamma,
        log_snr=log_snr,
        snr=snr,
        clamped=snr.clamp(max=gamma),
        weight_of=WEIGHTS[target],
        weight=WEIGHTS[target](snr),
    )


def right_min_snr(c: Case) -> Tensor:
    return c.clamped / c.weight


def eps_factor(c: Case) -> Tensor:
    return c.clamped / c.snr


def x0_factor(c: Case) -> Tensor:
    return c.clamped


def v_factor(c: Case) -> Tensor:
    return c.clamped / (c.snr + 1)


MIN_SNR_MISTAKES = {
    "v": {
        "v: that is the form for eps, min(SNR, gamma) / SNR; "
        "v has the weight SNR + 1 already: at log SNR = -3 your factor is 21 times too large":
            eps_factor,
        "v: that is the form for x0; the loss of v has a weight of its own already: divide by it":
            x0_factor,
        "you clamp v's own weight, SNR + 1, at gamma; SNR is what is to be clamped":
            lambda c: (c.snr + 1).clamp(max=c.gamma) / (c.snr + 1),
        "the + 1 belongs below the line only: the x0 error shall weigh min(SNR, gamma)":
            lambda c: (c.clamped + 1) / (c.snr + 1),
        "that is P2's weight, SNR / (SNR + 1)^2":
            lambda c: c.snr / (c.snr + 1) ** 2,
        "min(SNR, gamma) / SNR + 1 adds 1 to the quotient: put brackets around SNR + 1":
            lambda c: c.clamped / c.snr + 1,
        "v: you divide by the root of v's weight; divide by SNR + 1 itself":
            lambda c: c.clamped / (c.snr + 1).sqrt(),
        "v: SNR is clamped below the line, too; v's own weight is SNR + 1 with the whole SNR":
            lambda c: c.clamped / (c.clamped + 1),
        "v: (1 + sqrt(SNR))^2 is flow's weight; v's is SNR + 1":
            lambda c: c.clamped / WEIGHTS["flow"](c.snr),
    },
    "eps": {
        "eps: that is the form for x0; the loss of eps has a weight of its own already: "
        "divide by it":
            x0_factor,
        "eps: that is the form for v; the weight of eps is not SNR + 1":
            v_factor,
        "gamma / SNR alone gives noisy images a weight above 1: "
        "where SNR is below gamma the factor is 1":
            lambda c: c.gamma / c.snr,
        "eps: upside down: the factor is 1 for *noisy* images and falls for clean ones":
            lambda c: (c.snr / c.gamma).clamp(max=1),
    },
    "x0": {
        "x0: that is the form for eps, min(SNR, gamma) / SNR; x0 has the weight 1":
            eps_factor,
        "x0: that is the form for v; the weight of x0 is not SNR + 1":
            v_factor,
    },
}
MIN_SNR_MISTAKES_OF_ANY_TARGET = {
    "{c.target}: you take the larger of SNR and gamma; the smaller one is wanted":
        lambda c: c.snr.clamp(min=c.gamma) / c.weight,
    # times 1 is no mistake: for x0 take the weight of v
    "{c.target}: you multiply by the target's own weight; divide":
        lambda c: c.clamped * (c.weight if c.target != "x0" else c.snr + 1),
    "{c.target}: you use log SNR as if it were SNR: take its exp first":
        lambda c: c.log_snr.clamp(max=c.gamma) / c.weight_of(c.log_snr),
    "{c.target}: exp(log_snr / 2) is alpha / sigma; SNR is its square, exp(log_snr)":
        lambda c: c.snr.sqrt().clamp(max=c.gamma) / c.weight_of(c.snr.sqrt()),
    "{c.target}: you divide by the mean of the batch; no factor depends on the other examples":
        lambda c: right_min_snr(c) / right_min_snr(c).mean(),
    "{c.target}: you clamp log SNR at gamma; clamp SNR itself":
        lambda c: c.log_snr.clamp(max=c.gamma).exp() / c.weight,
    "{c.target}: your SNR is upside down: data over noise is exp(log_snr)":
        lambda c: (1 / c.snr).clamp(max=c.gamma) / c.weight_of(1 / c.snr),
    "{c.target}: your gamma is always 5; use the one that is given":
        lambda c: c.snr.clamp(max=5.0) / c.weight,
    "{c.target}: the whole factor is upside down":
        lambda c: c.weight / c.clamped,
    "{c.target}: nothing is clamped; gamma is the most that the x0 error may weigh":
        lambda c: c.snr / c.weight,
    "{c.target}: SNR gamma / (SNR + gamma) is a soft minimum, at SNR = gamma half of it; "
    "min(SNR, gamma) has a corner there":
        lambda c: c.snr * c.gamma / (c.snr + c.gamma) / c.weight,
}
MIN_SNR_HELP = (
    "target {c.target!r}: your factor times the weight of question 3.1 must be min(SNR, gamma)"
)


def min_snr_help(got: object, c: Case) -> str:
    """The diagnosis of no known mistake."""
    same_shape = torch.is_tensor(got) and got.shape == c.weight.shape and not got.is_complex()
    extra = number_added(c.clamped / got.double() - c.weight) if same_shape else None
    return MIN_SNR_HELP if extra is None else ADDED.format(target=c.target, extra=extra)


# target -> the factor at log SNR = -inf and inf, for gamma = 3
MIN_SNR_ENDS = {"v": [0.0, 0.0], "eps": [1.0, 0.0], "x0": [0.0, 3.0]}


def judge_min_snr(f: Callable) -> None:
    """3.2: min_snr_factor(target, log_snr, gamma).

    The factor on the loss of a target that gives the x0 error the weight min(SNR, gamma).
    """
    for target in MIN_SNR_MISTAKES:
        mistakes = MIN_SNR_MISTAKES[target] | MIN_SNR_MISTAKES_OF_ANY_TARGET
        c = draw_case(lambda: draw_min_snr(target), right_min_snr, mistakes, atol=1e-5)
        got = call_twice(f, target, c.log_snr, c.gamma)
        compare_case(got, c, right_min_snr, mistakes, rtol=1e-3, atol=1e-6,
                     otherwise=min_snr_help(as_tensor(got), c))
        judge_alone(f, right_min_snr(c), target, c.log_snr, c.gamma)
    for target, ends in MIN_SNR_ENDS.items():
        judge_ends(f, target, ends)


def judge_ends(f: Callable, target: str, ends: list[float]) -> None:
    """The factor at zero terminal SNR and at t = 0."""
    log_snr = torch.tensor([-math.inf, math.inf], dtype=F64)
    got = torch.as_tensor(call_twice(f, target, log_snr, 3.0), dtype=F64)
    wanted = torch.tensor(ends, dtype=F64)
    if not torch.allclose(got, wanted, atol=2e-5):
        yours = ", ".join(f"{value:.3g}" for value in got.tolist())
        near = torch.allclose(got, wanted, atol=0.1)
        reason = (
            "log SNR is clamped, or a small number is added; the limit itself is wanted" if near
            else "0 / 0 and inf / inf are no numbers; write it so that neither is formed"
        )
        raise Wrong(
            f"right in between, but for {target} at log SNR = -inf (zero terminal SNR) and inf "
            f"(t = 0) yours is [{yours}], and {ends} is wanted: {reason}"
        )


# ---- 3.3: the Fréchet distance

def matrix_sqrt(C: Tensor) -> Tensor:
    """The symmetric square root of a symmetric positive semidefinite matrix (d, d)."""
    eigenvalues, V = torch.linalg.eigh(C)
    return (V * eigenvalues.clamp(min=0).sqrt()) @ V.T


def entry_roots(M: Tensor) -> Tensor:
    """The square root of each entry, of negative ones 0."""
    return M.clamp(min=0).sqrt()


def by_factor(C: Tensor) -> Tensor:
    """L with C = L L^T, the scaled eigenvectors."""
    eigenvalues, V = torch.linalg.eigh(C)
    return V * eigenvalues.clamp(min=0).sqrt()


def triangle(C: Tensor) -> Tensor:
    """Cholesky's L with C = L L^T, of a matrix that is not singular."""
    return torch.linalg.cholesky_ex(C).L


def root_trace(M: Tensor) -> Tensor:
    """The sum of the roots of a matrix's eigenvalues, which need not be symmetric."""
    return torch.linalg.eigvals(M).real.clamp(min=0).sqrt().sum()


def random_covariance(d: int, rank: int) -> Tensor:
    """A covariance (d, d) of this rank, with oblique principal axes.

    A singular one has an eigenvalue that rounding makes negative, and no Cholesky factor.
    """
    V, _ = torch.linalg.qr(noise(d, d))
    small = rank // 2
    variances = torch.cat([between(0.05, 0.5, small), between(1, 4, rank - small)])
    C = (V[:, :rank] * variances) @ V[:, :rank].T
    without_factor = torch.linalg.cholesky_ex(C).info > 0
    rounded = torch.linalg.eigvalsh(C).min() < 0 and without_factor
    return C if rank == d or rounded else random_covariance(d, rank)


def product_eigenvalues(A: Tensor, B: Tensor) -> Tensor:
    """The eigenvalues of A^(1/2) B A^(1/2), as they are computed."""
    R = matrix_sqrt(A)
    return torch.linalg.eigvalsh(R @ B @ R)


def draw_gaussians(d: int, rank_a: int, rank_b: int) -> Case:
    """The means a, b and covariances A, B of two Gaussians in d dimensions."""
    a = between(-2, 2, d)
    b = between(-2, 2, d)
    A = random_covariance(d, rank_a)
    B = random_covariance(d, rank_b)
    singular = min(rank_a, rank_b) < d
    # so that even the elementwise square root of A B has a trace, that of A is not only a diagonal,
    # and every root needs its clamp
    while (((A @ B).diagonal() <= 0.01).any() or (A > 0).sum() == d
           or singular and product_eigenvalues(A, B).min() >= 0):
        A = random_covariance(d, rank_a)
        B = random_covariance(d, rank_b)
    means = (a - b).square().sum()
    traces = A.trace() + B.trace()
    cross = matrix_sqrt(matrix_sqrt(A) @ B @ matrix_sqrt(A))        # (d, d)
    return Case(
        a=a,
        A=A,
        b=b,
        B=B,
        singular=singular,
        means=means,
        traces=traces,
        total=means + traces,
        cross=cross,
        cross_trace=cross.trace(),
    )


def right_frechet(c: Case) -> Tensor:
    return c.total - 2 * c.cross_trace


FRECHET_MISTAKES = {
    "the distance of the means is still to be squared":
        lambda c: (c.a - c.b).norm() + c.traces - 2 * c.cross_trace,
    "the means are missing":
        lambda c: c.traces - 2 * c.cross_trace,
    "the squared differences of the means are added up, not averaged":
        lambda c: (c.a - c.b).square().mean() + c.traces - 2 * c.cross_trace,
    "the means are added; the distance of the means is that of their difference":
        lambda c: (c.a + c.b).square().sum() + c.traces - 2 * c.cross_trace,
    "square each difference of the means first, then add up":
        lambda c: (c.a - c.b).sum() ** 2 + c.traces - 2 * c.cross_trace,
    "that square root is taken entry by entry; the square root of a matrix is the R with "
    "R R = A B, which .sqrt() does not compute":
        lambda c: c.total - 2 * (c.A @ c.B).sqrt().trace(),
    "the roots are taken entry by entry, and negative entries are cut off; the square root of a "
    "matrix is the symmetric R with R R = M":
        lambda c: c.total - 2 * entry_roots(entry_roots(c.A) @ c.B @ entry_roots(c.A)).trace(),
    "A^(1/2) stands on both sides of B":
        lambda c: c.total - 2 * root_trace(matrix_sqrt(c.A) @ c.B),
    "that closed form, tr M + 2 sqrt(det M), is for two dimensions only":
        lambda c: c.total - 2 * ((c.A @ c.B).trace() + 2 * (c.A @ c.B).det().sqrt()).sqrt(),
    "A * B multiplies entry by entry, so only the two diagonals are left; "
    "the matrix product is A @ B":
        lambda c: c.total - 2 * (c.A * c.B).diagonal().sqrt().sum(),
    "tr(A^(1/2) B^(1/2)) is the root's trace only where A and B commute: "
    "take the root of the whole product A^(1/2) B A^(1/2)":
        lambda c: c.total - 2 * (matrix_sqrt(c.A) @ matrix_sqrt(c.B)).trace(),
    "the factor 2 is missing":
        lambda c: c.total - c.cross_trace,
    "the last trace is subtracted: two equal Gaussians have distance 0":
        lambda c: c.total + 2 * c.cross_trace,
    "that is the distance's square root; the squared distance is wanted, as is usual":
        lambda c: (c.total - 2 * c.cross_trace).sqrt(),
    "the square root is missing in the last trace":
        lambda c: c.total - 2 * (c.A @ c.B).trace(),
    "that is the square root of a trace; take the trace of the square root":
        lambda c: c.total - 2 * (c.A @ c.B).trace().sqrt(),
    "a trace is the sum of the diagonal; you add up all entries":
        lambda c: c.means + (c.A + c.B - 2 * c.cross).sum(),
    "eigh takes a symmetric matrix and uses only half of it; A B is not symmetric, "
    "A^(1/2) B A^(1/2) is":
        lambda c: c.total - 2 * torch.linalg.eigvalsh(c.A @ c.B).clamp(min=0).sqrt().sum(),
    "the singular values of A B are not its eigenvalues, since A B is not symmetric":
        lambda c: c.total - 2 * torch.linalg.svdvals(c.A @ c.B).sqrt().sum(),
    "with A = L L^T the product that has the right eigenvalues is L^T B L, and not L B L^T":
        lambda c: c.total - 2 * root_trace(by_factor(c.A) @ c.B @ by_factor(c.A).T),
    "with A = L L^T, L by Cholesky, the product that has the right eigenvalues is L^T B L, "
    "and not L B L^T":
        lambda c: c.total - 2 * root_trace(triangle(c.A) @ c.B @ triangle(c.A).T),
    "that is the distance of the means alone":
        lambda c: c.means,
    "the traces of A and B are missing":
        lambda c: c.means - 2 * c.cross_trace,
}
FRECHET_HELP = (
    "not the Fréchet distance: try it on A = B (the traces must cancel) and on one dimension, "
    "where it is (mu_a - mu_b)^2 + (s_a - s_b)^2"
)


FRECHET_SINGULAR_HELP = (
    "right so far, but not where a covariance is singular: it has no inverse and no Cholesky "
    "factor, and rounding makes an eigenvalue of 0 slightly negative. Clamp at 0 itself, and add "
    "nothing to the diagonal"
)
RIDGE = (
    "{ridge:g} is added to the diagonals: that makes singular matrices regular, and it makes "
    "another distance; eigh and clamp(min=0) need no such help"
)
# dimensions, and the ranks of A and B
RANKS = ((3, 3, 3), (5, 5, 5), *4 * ((4, 4, 3), (4, 3, 4), (4, 3, 3)))


def judge_frechet(f: Callable) -> None:
    """3.3: frechet(mu_a, A, mu_b, B), the squared Fréchet distance of two Gaussians."""
    for d, rank_a, rank_b in RANKS:
        # in float32 an eigenvalue of 0 is computed as 1e-6, and its square root as 1e-3
        atol = 1e-2 if min(rank_a, rank_b) < d else 5e-4
        # where one is singular, the mistakes of the table have been seen already
        mistakes = FRECHET_MISTAKES if min(rank_a, rank_b) == d else {}
        c = draw_case(lambda: draw_gaussians(d, rank_a, rank_b), right_frechet, mistakes)
        got = frechet_answer(f, c)
        reject_ridge(got, c, atol)
        if c.singular:
            compare(got, right_frechet(c), rtol=3e-4, atol=atol, otherwise=FRECHET_SINGULAR_HELP)
        else:
            compare_case(got, c, right_frechet, FRECHET_MISTAKES, rtol=3e-4, atol=atol,
                         otherwise=FRECHET_HELP)


def reject_ridge(got: Tensor, c: Case, atol: float) -> None:
    """Raise Wrong if a wrong answer is that of covariances with a number on the diagonal."""
    wanted = right_frechet(c)
    if (got - wanted).abs() <= atol:
        return
    for ridge in (0.1, 0.01, 1e-3, 1e-4):
        R = matrix_sqrt(c.A + ridge * torch.eye(len(c.A), dtype=F64))
        B = c.B + ridge * torch.eye(len(c.B), dtype=F64)
        of_others = c.total - 2 * matrix_sqrt(R @ B @ R).trace()
        with_traces = of_others + 2 * ridge * len(c.A)
        near = min((got - of_others).abs(), (got - with_traces).abs()) < 1e-5
        reject_if((near, RIDGE.format(ridge=ridge)))


def frechet_answer(f: Callable, c: Case) -> Tensor:
    """The reader's distance, one number. Raises Wrong if it is complex, nan or not computed."""
    try:
        got = as_tensor(call_twice(f, c.a, c.A, c.b, c.B))
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:
        raise Wrong(decomposition_failed(error, c)) from None
    reject_if((torch.is_tensor(got) and got.is_complex(),
               "your answer is complex: eigenvalues of a product that is not symmetric come as "
               "complex numbers; take .real, or the symmetric product"))
    got = as_scalar(got)
    reject_if((got.isnan() and not c.singular,
               "your answer is nan: is the square root taken entry by entry, where some entries "
               "are negative?"),
              (got.isnan(),
               "right so far, but nan where a covariance is singular: rounding makes an eigenvalue "
               "of 0 slightly negative; clamp(min=0) before the square root"))
    return got


def decomposition_failed(error: Exception, c: Case) -> str:
    """The diagnosis of an answer that raises LinAlgError."""
    reason = str(error).split(". ")[0]
    if c.singular:
        return (f"right so far, but here a covariance is singular ({reason}): eigh decomposes any "
                "symmetric matrix, and an eigenvalue of 0 needs clamp(min=0) before the root")
    return f"a matrix decomposition failed ({reason}): eigh decomposes any symmetric matrix"


# ---- 3.4: extrapolation to infinitely many samples

def intercept(u: Tensor, values: Tensor, degree: int = 1, weights: Tensor | None = None) -> Tensor:
    """Least squares: the value at u = 0 of a line (or parabola) through values (K,) over u (K,)."""
    weights = torch.ones_like(u) if weights is None else weights
    powers = torch.stack([weights * u**k for k in range(degree + 1)], dim=1)    # (K, degree + 1)
    return torch.linalg.lstsq(powers, (weights * values)[:, None]).solution[0, 0]


def draw_measurements() -> Case:
    """Values that follow slope / n + limit exactly."""
    n = torch.tensor([100, 150, 250, 400, 600, 800, 900, 1000], dtype=F64)
    n = n + between(-20, 20, 8).round()
    slope = between(100, 300)
    limit = between(1, 5)
    return Case(n=n, slope=slope, limit=limit, values=slope / n + limit)


def right_limit(c: Case) -> Tensor:
    return c.limit


LIMIT_MISTAKES = {
    "that is the slope of the line; the limit is where 1/n = 0, its intercept":
        lambda c: c.slope,
    "that is the value at the largest n; go on to n = infinity":
        lambda c: c.values[-1],
    "that is the value at the smallest n":
        lambda c: c.values[0],
    "that is the mean of the values":
        lambda c: c.values.mean(),
    "the line is fitted against n itself; the bias falls like 1/n, so fit against 1/n":
        lambda c: intercept(c.n, c.values),
    "the line is fitted against log n; the bias falls like 1/n":
        lambda c: intercept(c.n.log(), c.values),
    "the line is fitted against 1/sqrt(n); the *spread* falls like that, the bias like 1/n":
        lambda c: intercept(c.n.rsqrt(), c.values),
    "the line is fitted against 1/n^2; the bias falls like 1/n":
        lambda c: intercept(c.n**-2, c.values),
    "a straight line in log-log goes to 0: the limit must be a number of its own in the fit":
        lambda c: intercept(c.n.log(), c.values.log()).exp(),
    "your limit is 0: does the line have an intercept?":
        lambda c: 0.0,
    "that is the line's value at n = 1, slope and limit together":
        lambda c: c.slope + c.limit,
    "the sign of the limit is wrong":
        lambda c: -c.limit,
    "slope = covariance / variance, both with one divisor: yours have K - 1 above and K below":
        lambda c: c.limit - c.slope * (1 / c.n).mean() / 7,
    "slope = covariance / variance, both with one divisor: yours have K above and K - 1 below":
        lambda c: c.limit + c.slope * (1 / c.n).mean() / 8,
}
LIMIT_HELP = (
    "for values that follow a / n + {c.limit:.3f} exactly the limit is {c.limit:.3f}; "
    "yours is {c.got:.3f}"
)


def draw_noisy() -> Case:
    """Values with errors of 0.05, about as large as those of random draws; one is far off."""
    c = draw_measurements()
    errors = 0.05 * torch.tensor([-1, 1, 1, -1, 1, -1, 1, -1], dtype=F64)
    c.outlier = int(between(1, 7))
    errors[c.outlier] = between(0.3, 0.5) * errors[c.outlier].sign()
    c.noisy = c.values + errors
    c.limit_of_all = right_fit(c)
    return c


def fit_to(chosen: slice | list[int]) -> Callable[[Case], Tensor]:
    """The limit from a line through some of the measurements only."""
    return lambda c: intercept(1 / c.n[chosen], c.noisy[chosen])


def fit_weighing(power: float) -> Callable[[Case], Tensor]:
    """The limit from a line whose errors are multiplied by a power of n."""
    return lambda c: intercept(1 / c.n, c.noisy, weights=c.n**power)


def fit_the_other_way(c: Case) -> Tensor:
    """The value at 1/n = 0 of a line for 1/n over the values."""
    u = 1 / c.n
    du = u - u.mean()
    dv = c.noisy - c.noisy.mean()
    return c.noisy.mean() - u.mean() * dv.square().sum() / (du * dv).sum()


def mean_of_pairs(c: Case) -> Tensor:
    """The mistake of a line through each two measurements, and the mean of their limits."""
    u = 1 / c.n
    i, j = torch.triu_indices(len(u), len(u), offset=1)
    slopes = (c.noisy[j] - c.noisy[i]) / (u[j] - u[i])
    return (c.noisy[i] - slopes * u[i]).mean()


def fit_sorted_apart(c: Case) -> Tensor:
    """The mistake of sorting the numbers of samples, and the values for themselves."""
    return intercept(1 / c.n.sort().values, c.noisy.sort(descending=True).values)


SORTED_APART = ("right without errors, but you sort ns and values apart: "
                "each value belongs to the n at its place")
right_fit = fit_to(slice(None))
WEIGHED = ("right without errors, but your fit weighs the values; all count alike here: "
           "unweighted least squares of the values over 1/n")
FIT_MISTAKES = {
    "right without errors, but you use the two largest n alone, and their errors are multiplied "
    "by more than ten: use all values":
        fit_to(slice(-2, None)),
    "right without errors, but you use the last three values alone: use all":
        fit_to(slice(-3, None)),
    "right without errors, but you use the four largest n alone: use all values":
        fit_to(slice(-4, None)),
    "right without errors, but you leave out the smallest n: use all values":
        fit_to(slice(1, None)),
    "right without errors, but you fit 1/n over the values; the errors are in the values, "
    "so fit these over 1/n":
        fit_the_other_way,
    "right without errors, but you use the first and the last value alone: use all":
        fit_to([0, -1]),
    "right without errors, but you leave out the value that is farthest from the line: use all":
        lambda c: fit_to([k for k in range(8) if k != c.outlier])(c),
    "right without errors, but a parabola in 1/n follows the errors of the values; "
    "a straight line is what the derivation gives":
        lambda c: intercept(1 / c.n, c.noisy, degree=2),
    WEIGHED:
        fit_weighing(0.5),
    WEIGHED + " (a fit of n * values over n weighs them by n)":
        fit_weighing(1.0),
    "right without errors, but the mean over the lines through two points each is not the "
    "least-squares line: two near points have a line of any slope":
        mean_of_pairs,
    SORTED_APART:
        fit_sorted_apart,
}
FIT_HELP = (
    "right without errors; but with errors in the values the unweighted straight line through "
    "all of them ends at {c.limit_of_all:.3f}, and yours is {c.got:.3f}"
)


def draw_repeated() -> Case:
    """Values with errors in no order, some n measured twice."""
    c = draw_measurements()
    n = torch.cat([c.n, c.n[[0, 4, 7]]])[torch.randperm(11, generator=fresh_generator())]
    noisy = c.slope / n + c.limit + 0.1 * noise(11)
    return Case(n=n, noisy=noisy, limit_of_all=intercept(1 / n, noisy))


def fit_sorted(c: Case) -> Tensor:
    """The mistake of sorting the numbers of samples without their values."""
    return intercept(1 / c.n.sort().values, c.noisy)


def fit_one_each(choose: Callable[[Tensor], Tensor]) -> Callable[[Case], Tensor]:
    """The limit from one value for each n, chosen from all that belong to it."""
    def fit(c: Case) -> Tensor:
        n = c.n.unique()
        return intercept(1 / n, torch.stack([choose(c.noisy[c.n == one]) for one in n]))
    return fit


REPEATED = "right where each n comes once, but here an n has two values, and "
REPEATED_MISTAKES = {
    "right in order, but you sort ns alone: each value belongs to the n at its place":
        fit_sorted,
    SORTED_APART:
        fit_sorted_apart,
    REPEATED + "you keep the last of them only: use all":
        fit_one_each(lambda values: values[-1]),
    REPEATED + "you keep the first of them only: use all":
        fit_one_each(lambda values: values[0]),
    REPEATED + "you take their mean, so that each counts half: every value counts alike":
        fit_one_each(torch.mean),
}
REPEATED_HELP = (
    "right for ns in order, each once; but where they are in no order and some come twice, the "
    "line through all values ends at {c.limit_of_all:.3f}, and yours at {c.got:.3f}"
)


def draw_line(low: float, high: float, limit: float) -> Case:
    """Positive values that follow slope / n + limit exactly, with a slope between low and high."""
    n = torch.tensor([100, 150, 250, 400, 600], dtype=F64) + between(-20, 20, 5).round()
    slope = between(low, high)
    return Case(n=n, slope=slope, limit=torch.tensor(limit, dtype=F64), values=slope / n + limit)


BELOW_ZERO_MISTAKES = {
    "right where the limit is above 0; but a line through these (positive) values ends at -0.05, "
    "and you cut it off at 0":
        lambda c: 0.0,
    "right where the limit is above 0; but here it is -0.05, and you drop its sign":
        lambda c: c.limit.abs(),
}
RISING_MISTAKES = {
    "right where the values fall with n; but these rise, as errors can make them, and you allow "
    "no such line: the slope may have either sign":
        lambda c: c.values.mean(),
    "right where the values fall with n; but these rise, and you drop the sign of the slope":
        lambda c: c.values.mean() + c.slope * (1 / c.n).mean(),
}
LINE_HELP = (
    "right for falling values with a limit above 0, but for values that follow "
    "{c.slope:.0f} / n + {c.limit:.3f} exactly the limit is {c.limit:.3f}; yours is {c.got:.3f}"
)


def judge_any_line(f: Callable) -> None:
    """Lines with a limit below 0, and with a slope below 0."""
    for line, mistakes in (((100, 300, -0.05), BELOW_ZERO_MISTAKES),
                           ((-150, -100, 5.0), RISING_MISTAKES)):
        c = draw_line(*line)
        c.got = limit_answer(f, c.n, c.values)
        compare_case(c.got, c, right_limit, mistakes, rtol=1e-3, atol=1e-3, otherwise=LINE_HELP)


def judge_extrapolate(f: Callable) -> None:
    """3.4: extrapolate(ns, values), the limit of a / n + b from measurements at several n."""
    c = draw_case(draw_measurements, right_limit, LIMIT_MISTAKES)
    c.got = limit_answer(f, c.n, c.values)
    compare_case(c.got, c, right_limit, LIMIT_MISTAKES, rtol=1e-3, atol=1e-3, otherwise=LIMIT_HELP)
    c = draw_case(draw_noisy, right_fit, FIT_MISTAKES, rtol=3e-4, atol=3e-4)
    c.got = limit_answer(f, c.n, c.noisy)
    compare_case(c.got, c, right_fit, FIT_MISTAKES, rtol=3e-4, atol=3e-4, otherwise=FIT_HELP)
    c = draw_case(draw_repeated, right_fit, REPEATED_MISTAKES, rtol=3e-4, atol=3e-4)
    c.got = limit_answer(f, c.n, c.noisy)
    compare_case(c.got, c, right_fit, REPEATED_MISTAKES, rtol=3e-4, atol=3e-4,
                 otherwise=REPEATED_HELP)
    judge_any_line(f)


def limit_answer(f: Callable, n: Tensor, values: Tensor) -> Tensor:
    """The reader's limit, one number. Raises Wrong if f changes its inputs or mixes dtypes."""
    given = n.clone(), values.clone()
    try:
        got = as_function(f)(*given)
    except RuntimeError as error:
        reject_if(("dtype" in str(error) or "Double" in str(error),
                   f"float32 and float64 are mixed ({error}): make everything .double()"))
        raise
    as_one = as_tensor(got)
    pair = isinstance(got, (tuple, list)) or torch.is_tensor(as_one) and as_one.numel() == 2
    reject_if((not (torch.equal(given[0], n) and torch.equal(given[1], values)),
               "your function changes the tensors it was given: compute new ones"),
              (pair,
               "one number is wanted, the limit; you return slope and limit together"))
    return as_scalar(got)


# ---- 3.5: the EMA of the weights

def parameters_of(net: nn.Module) -> list[Tensor]:
    return [p.detach().double().clone() for p in net.parameters()]


def share_memory(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    """Whether a tensor of a and its counterpart in b have one memory."""
    return any(x.data_ptr() == y.data_ptr() for x, y in zip(a, b))


def differ(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    """Whether a tensor of a and its counterpart in b have different values, of whatever dtype."""
    return any(not torch.equal(x.double(), y.double()) for x, y in zip(a, b))


def flags_of(net: nn.Module) -> list[bool]:
    """Whether each parameter requires gradients."""
    return [p.requires_grad for p in net.parameters()]


def is_evaluating(net: nn.Module) -> bool:
    """Whether a part of the network was put into evaluation mode."""
    return not all(module.training for module in net.modules())


NEW_EMA_SUSPECTS = {
    "keep the averaged network, a module, in self.net from the start":
        lambda c: not isinstance(getattr(c.ema, "net", None), nn.Module),
    "ema.net is the network itself, not a copy: copy.deepcopy(net)":
        lambda c: c.ema.net is c.net,
    "the EMA shares its tensors with the network: deepcopy, a shallow copy is not enough":
        lambda c: share_memory(c.ema.net.state_dict().values(), c.net.state_dict().values()),
    "the network that is being trained no longer requires gradients: "
    "copy first, then requires_grad_(False) on the copy":
        lambda c: flags_of(c.net) != c.flags,
    "the network that is being trained is in evaluation mode now, and its BatchNorm stands still: "
    "copy first, then .eval() on the copy":
        lambda c: is_evaluating(c.net),
    "before the first update the EMA must equal the network it was given":
        lambda c: differ(c.ema.net.parameters(), c.net.parameters()),
}
UPDATE_SUSPECTS = {
    "update changes the network itself; only the EMA may move":
        lambda c: differ(c.net.state_dict().values(), c.before.values()),
    "update puts the network that is being trained into evaluation mode; leave it as it is":
        lambda c: c.training and is_evaluating(c.net),
    "update puts the network into training mode, though it was in evaluation mode; "
    "leave it as it is":
        lambda c: not c.training and any(module.training for module in c.net.modules()),
    "update changes which parameters of the network require gradients; leave them as they are":
        lambda c: flags_of(c.net) != c.flags,
    "update changes the gradients of the network (p.grad); leave it as it is":
        lambda c: any(p.grad is None or (p.grad != 1).any() for p in c.net.parameters()),
    "after an update the EMA's buffers are the network's own tensors: copy their values, copy_":
        lambda c: share_memory(c.ema.net.buffers(), c.net.buffers()),
    "after an update the EMA shares its memory with the network (such as a.data = p.data): "
    "the next step of the optimizer moves both":
        lambda c: share_memory(c.ema.net.parameters(), c.net.parameters()),
}
UPDATE_ERRORS = {
    "a buffer of whole numbers (BatchNorm counts its batches) cannot be averaged ({c.error}): "
    "copy buffers":
        lambda c: any(word in c.error for word in ("Long", "integer", "can't be cast")),
    "the EMA is changed in place while autograd records: put @torch.no_grad() on update":
        lambda c: "leaf Variable that requires grad" in c.error,
}
GRADIENT_SUSPECTS = {
    "the EMA has a graph that reaches back through all updates: put @torch.no_grad() on update":
        lambda c: any(p.grad_fn is not None for p in c.ema.net.parameters()),
    "the EMA still requires gradients: requires_grad_(False), no optimizer trains it":
        lambda c: any(p.requires_grad for p in c.ema.net.parameters()),
}
# the network is Sequential(Linear, BatchNorm1d, Linear)
BUFFER_SUSPECTS = {
    "the weights are right; the running statistics of the BatchNorm are averages already: "
    "copy buffers, do not average them again":
        lambda c: not same_mean(c) and torch.allclose(
            c.ema.net[1].running_mean.double(), c.averaged_mean, atol=1e-5),
    "the weights are right, but the buffers (running_mean of the BatchNorm) are not the "
    "network's: copy net.buffers(), too":
        lambda c: not same_mean(c),
    "the weights are right, but the BatchNorm's count of batches became a floating-point number: "
    "copy_ into the buffer":
        lambda c: c.ema.net[1].num_batches_tracked.is_floating_point(),
    "the weights are right, but the buffer num_batches_tracked is "
    "{c.ema.net[1].num_batches_tracked}, and the network's is {c.net[1].num_batches_tracked}: "
    "copy buffers of whole numbers, too":
        lambda c: c.ema.net[1].num_batches_tracked != c.net[1].num_batches_tracked,
    "the weights and the BatchNorm are right, but the buffer {c.other_buffer} is not the "
    "network's: copy every buffer that state_dict() lists, of whatever module":
        lambda c: c.other_buffer,
}


def other_buffer(c: Case) -> str:
    """The name of a buffer outside the BatchNorm that is not the network's, or ""."""
    names = [name for name, _ in c.net.named_buffers() if not name.startswith("1.")]
    got, wanted = c.ema.net.state_dict(), c.net.state_dict()
    return next((name for name in names if differ([got[name]], [wanted[name]])), "")


def same_mean(c: Case) -> bool:
    return torch.allclose(c.ema.net[1].running_mean.double(), c.net[1].running_mean.double())


def warm_up(n: int) -> float:
    return (1 + n) / (10 + n)


def ema_by(decay: Callable[[Case, int], float]) -> Callable[[Case], Tensor]:
    """The EMA after each update, by decay(c, n), where n = 0, 1, ... counts the updates."""
    return lambda c: ema_of_history(c.history, lambda n, k: decay(c, n))


def ema_of_history(
    history: list[list[Tensor]], decay: Callable[[int, int], float]
) -> Tensor:
    """The EMA of the parameters after each update, (updates, all parameters).

    history: the parameters at the start and at each update; decay(n, k): of update n and
    parameter k.
    """
    average = history[0]
    averages = []
    for n, parameters in enumerate(history[1:]):
        average = [
            decay(n, k) * a + (1 - decay(n, k)) * p
            for k, (a, p) in enumerate(zip(average, parameters))
        ]
        averages.append(torch.cat([a.flatten() for a in average]))
    return torch.stack(averages)


def counted_per_parameter(c: Case) -> Tensor:
    """The mistake of counting n up with every parameter."""
    count = len(c.history[0])
    return ema_of_history(c.history, lambda n, k: min(c.decay, warm_up(n * count + k)))


def ema_with_frozen(decay: float) -> Callable[[Case], Tensor]:
    """The EMA with another decay for the parameters that do not require gradients."""
    return lambda c: ema_of_history(
        c.history,
        lambda n, k: min(c.decay, warm_up(n)) if c.flags[k] else decay,
    )


def tied_twice(c: Case) -> Tensor:
    """The mistake of averaging a weight as often as layers have it."""
    uses = [len(names) for names in names_of_parameters(c.net)]
    return ema_of_history(c.history, lambda n, k: min(c.decay, warm_up(n)) ** uses[k])


def tied_copied(c: Case) -> Tensor:
    """The EMA where a weight that two layers have is copied, as by its second name."""
    uses = [len(names) for names in names_of_parameters(c.net)]
    return ema_of_history(
        c.history, lambda n, k: min(c.decay, warm_up(n)) if uses[k] == 1 else 0.0)


def names_of_parameters(net: nn.Module) -> list[list[str]]:
    """The names of each parameter; one that two layers share has two."""
    every = list(net.named_parameters(remove_duplicate=False))
    return [[name for name, q in every if q is p] for p in net.parameters()]


def early_end(c: Case) -> Tensor:
    """The mistake of a warm-up that stops at the first update that is wrong."""
    return ema_of_history(
        c.history, lambda n, k: min(c.decay, warm_up(n)) if n < c.right_until else c.decay)


right_ema = ema_by(lambda c, n: min(c.decay, warm_up(n)))

# how often an EMA is updated, and until a warm-up to 0.9 has ended
UPDATES = 8
LONG = 90

EMA_MISTAKES = {
    "decay and 1 - decay have changed places: the *old* average is multiplied by decay":
        ema_by(lambda c, n: 1 - min(c.decay, warm_up(n))),
    "there is no warm-up: in the first updates the decay is (1 + n) / (10 + n), "
    "far below the final one":
        ema_by(lambda c, n: c.decay),
    "max where min belongs: the warm-up is a limit from above":
        ema_by(lambda c, n: max(c.decay, warm_up(n))),
    "your n runs ahead: in the first update n = 0 and the decay is 1/10":
        ema_by(lambda c, n: min(c.decay, warm_up(n + 1))),
    "your first update only copies, and the network given to __init__ is forgotten: "
    "with n = 0 the decay is 1/10":
        ema_by(lambda c, n: min(c.decay, n / (9 + n))),
    "your first update is a plain copy (as torch's AveragedModel makes it): "
    "with n = 0 the decay is 1/10":
        ema_by(lambda c, n: min(c.decay, warm_up(n)) if n else 0.0),
    "n goes on where another EMA stopped: each counts its own updates, in self and not in the "
    "class":
        ema_by(lambda c, n: min(c.decay, warm_up(n + UPDATES))),
    "a parameter that does not require gradients is left out: average every one":
        ema_with_frozen(1.0),
    "a parameter that does not require gradients is copied: average every one":
        ema_with_frozen(0.0),
    "n is never counted up: the decay stays at 1/10":
        ema_by(lambda c, n: min(c.decay, warm_up(0))),
    "n is counted up for every parameter; count updates":
        counted_per_parameter,
    "the warm-up never ends: the decay must stop growing at the one that is given":
        ema_by(lambda c, n: warm_up(n)),
    "the EMA never moves: does update write into self.net?":
        ema_by(lambda c, n: 1.0),
    "that is a copy of the last weights; average":
        ema_by(lambda c, n: 0.0),
    "that is the plain mean of all weights, which never forgets the start":
        ema_by(lambda c, n: (n + 1) / (n + 2)),
    "the warm-up is multiplied by the decay; take the smaller of the two":
        ema_by(lambda c, n: c.decay * warm_up(n)),
    "a weight that two layers share is averaged twice: state_dict() lists it under two names, "
    "parameters() once":
        tied_twice,
    "your warm-up stops after {c.right_until} updates; it goes on until (1 + n) / (10 + n) has "
    "reached the decay":
        early_end,
}
EMA_HELP = (
    "with decay {c.decay} the EMA is not where it should be after {c.first_wrong} update(s): "
    "the decay of update n = 0, 1, 2, ... is min(decay, (1 + n) / (10 + n))"
)


def judge_ema(EMA: Callable) -> None:
    """3.5: the class EMA(net, decay), with update(net) and the averaged network in .net."""
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(fresh_generator().initial_seed() % 2**31)
        for decay, updates in ((0.3, UPDATES), (0.99, UPDATES), (0.9, LONG)):
            net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
            if updates == LONG:
                net = tied_network()
            # as of a layer that is not trained
            net[2].bias.requires_grad_(False)
            c = ema_of_training(EMA, net, decay, updates)
            reject_first(GRADIENT_SUSPECTS, c)
            far = (c.got - right_ema(c)).abs().amax(1) > 1e-4       # (updates,)
            c.right_until = int(far.int().argmax())
            c.first_wrong = 1 + c.right_until
            # the sheet does not speak of shared weights: averaged once or copied, but not twice
            right = tied_copied if is_like(c.got, tied_copied(c)) else right_ema
            compare_case(c.got, c, right, EMA_MISTAKES, rtol=1e-4, atol=1e-4, otherwise=EMA_HELP)
            c.other_buffer = other_buffer(c)
            reject_first(BUFFER_SUSPECTS, c)


def is_like(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)


def tied_network() -> nn.Sequential:
    """Two layers that share their weight, and a buffer outside the BatchNorm."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    net.register_buffer("seen", torch.zeros(2))
    return net


def ema_of_training(EMA: Callable, net: nn.Module, decay: float, updates: int) -> Case:
    """The reader's EMA over some changes of a network.

    The case has the final `ema` and `net`, `history` and `got` (the parameters of the network and
    of the EMA after each update), and `averaged_mean`, the running mean as an EMA would have it.
    """
    c = Case(net=net, decay=decay, history=[parameters_of(net)], got=[], flags=flags_of(net))
    try:
        c.ema = as_class(EMA)(net, decay)
        reject_first(NEW_EMA_SUSPECTS, c)
        c.averaged_mean = c.ema.net[1].running_mean.clone().double()
        for n in range(updates):
            update_once(c, n)
    except RuntimeError as error:
        reject_first(UPDATE_ERRORS, Case(error=str(error)))
        raise
    c.got = torch.stack(c.got)
    return c


def update_once(c: Case, n: int) -> None:
    """Change the network at random, then call the reader's update."""
    with torch.no_grad():
        for p in c.net.parameters():
            p.add_(torch.randn_like(p))
            p.grad = torch.ones_like(p)
    # moves the buffers of the BatchNorm
    c.net.train()(3 + torch.randn(20, 3))
    for buffer in c.net.buffers(recurse=False):
        buffer += 1
    c.training = n % 3 < 2
    c.net.train(c.training)
    c.before = copy.deepcopy(c.net.state_dict())
    c.ema.update(c.net)
    reject_first(UPDATE_SUSPECTS, c)
    c.history.append(parameters_of(c.net))
    c.got.append(torch.cat([p.flatten() for p in parameters_of(c.ema.net)]))
    mean = c.net[1].running_mean.double()
    c.averaged_mean = torch.lerp(mean, c.averaged_mean, min(c.decay, warm_up(n)))


# ---- 3.6: seven trainings, six of them with a defect

def judge_diagnoses(answer: object) -> None:
    """3.6: a dict letter -> name of the defect.

    A wrong name is contradicted by a measurement; the right name is not told.
    """
    answer = answer() if callable(answer) else answer
    if not isinstance(answer, dict):
        got = type(answer).__name__ if answer is not None else "None: does it end with `return`?"
        raise Wrong(f"a dict is wanted, such as {{'A': 'rate x 30', ...}}; got {got}")
    names = {letter: str(name).strip().lower() for letter, name in answer.items()}
    reject_malformed(answer, names)
    wrong = [letter for letter, k in TRAININGS.items() if DEFECTS[k] != names[letter]]
    if wrong:
        verb = "is" if len(wrong) == 1 else "are"
        reasons = "; ".join(contradiction(letter, names[letter]) for letter in wrong)
        raise Wrong(f"{', '.join(wrong)} {verb} not right yet; {reasons}")


def reject_malformed(answer: dict, names: dict[str, str]) -> None:
    """Raise Wrong for letters or names that do not exist, are missing or are given twice."""
    unknown = [letter for letter in answer if letter not in TRAININGS]
    missing = [letter for letter in TRAININGS if letter not in answer]
    strange = [answer[letter] for letter, name in names.items() if name not in DEFECTS]
    reject_if((unknown,
               f"there is no training {unknown[:1]}: they are called {', '.join(TRAININGS)}"),
              (missing, f"an answer for {', '.join(missing)} is missing"),
              (strange, f"{strange[:1]} is not on the list; it has {', '.join(DEFECTS)}"))
    for name in DEFECTS:
        letters = [letter for letter, given in names.items() if given == name]
        reject_if((len(letters) > 1,
                   f"{' and '.join(letters)} cannot both be {name!r}: "
                   "no two trainings have the same defect"))


def contradiction(letter: str, name: str) -> str:
    """The measurement by which a training differs most from one with the defect `name`."""
    here = patient(letter).numbers
    there = train_with(name).numbers
    what = max(here, key=lambda what: gap(what, here[what], there[what]))
    return f"with {name!r} the {what} is {there[what]:.3f}, and {letter} has {here[what]:.3f}"


def gap(what: str, a: float, b: float) -> float:
    """How far apart two measurements are: by ratio, or by difference if they lie in [-1, 1]."""
    if what.startswith(("share", "correlation")):
        return abs(a - b) * 5
    return abs(math.log(max(a, 0.01) / max(b, 0.01)))


# ---- 3.7: resuming a training

def advance(run: SmallRun, steps: int) -> list[float]:
    """The losses of the next steps."""
    return [run.advance() for _ in range(steps)]


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def foreign_parameters(run: SmallRun) -> bool:
    """Whether the optimizer has parameters that are not the network's."""
    own = {id(p) for p in run.net.parameters()}
    return any(id(p) not in own for group in run.optimizer.param_groups for p in group["params"])


def adam_state(run: SmallRun) -> dict[int, dict[str, object]]:
    return run.optimizer.state_dict()["state"]


def adam_differs(c: Case, *names: str) -> bool:
    """Whether an entry of Adam's state, such as "exp_avg", differs from that at the stop."""
    got = adam_state(c.run)
    wanted = adam_state(c.twin)
    return any(
        not torch.equal(torch.as_tensor(got[k][name]), torch.as_tensor(wanted[k][name]))
        for k in wanted
        for name in names
    )


def freshly_seeded(c: Case) -> bool:
    """Whether the generator is at the start of a run with the right seed."""
    seed = c.twin.generator.initial_seed()
    state = c.run.generator.get_state()
    starts = (torch.Generator().manual_seed(seed), SmallRun(seed, STEPS).generator)
    return any(torch.equal(state, g.get_state()) for g in starts)


# how long the runs are, and what the run that is restored has done before
STEPS = 44
STEPS_ELSEWHERE = 3

# c.run: after restore; c.twin: at the stop; c.losses and c.end: eight steps after it, never stopped
RESUME_SUSPECTS = {
    "that is the run whose state was taken last: the state must be in what `state` returns, "
    "not in a variable or a file outside":
        lambda c: torch.equal(flat(c.run.net), flat(c.other.net)),
    "the optimizer moves tensors that are no longer the network's: load into the network that is "
    "there, run.net.load_state_dict, do not replace it":
        lambda c: foreign_parameters(c.run),
    "run.steps is {c.run.steps} after restore, and both runs had {c.twin.steps}: the rate falls to "
    "0 at the end of a run, so another length is another rate":
        lambda c: c.run.steps != c.twin.steps,
    "the network's weights are not restored":
        lambda c: not torch.allclose(flat(c.run.net), flat(c.twin.net), atol=1e-2),
    "the weights come back rounded: bit for bit means float32, as they were":
        lambda c: not torch.equal(flat(c.run.net), flat(c.twin.net)),
    "the optimizer is forgotten: Adam's two averages of the gradient are empty, "
    "and its next steps have another size":
        lambda c: not adam_state(c.run),
    "Adam's averages of the gradient are not those of the stopped run: "
    "keep optimizer.state_dict()":
        lambda c: adam_differs(c, "exp_avg", "exp_avg_sq"),
    "Adam's own count of steps is not restored, and its bias correction starts again":
        lambda c: adam_differs(c, "step"),
    "the step is forgotten: the learning rate depends on run.step, "
    "so its schedule goes on from somewhere else":
        lambda c: c.run.step == STEPS_ELSEWHERE,
    "the run was stopped after {c.twin.step} steps, and its run.step is {c.run.step}":
        lambda c: c.run.step != c.twin.step,
    "the generator starts again from its seed: the run would draw the same data and noise a "
    "second time":
        freshly_seeded,
    "the generator's state is forgotten: the resumed run draws other data and other noise; "
    "get_state() and set_state()":
        lambda c: not torch.equal(c.run.generator.get_state(), c.twin.generator.get_state()),
    "the EMA of the weights starts anew from the network's weights; it has a state of its own":
        lambda c: torch.equal(flat(c.run.average), flat(c.run.net)),
    "the EMA of the weights is not restored; the losses do not show it, the samples would":
        lambda c: not torch.equal(flat(c.run.average), flat(c.twin.average)),
    # from here on the run has gone on
    "the parts are all there, but the next losses are not those of the run that was never "
    "stopped: print both, and see where they part":
        lambda c: advance(c.run, 8) != c.losses,
    "the losses agree, but eight steps later the EMA does not: "
    "does run.average still follow run.net?":
        lambda c: not torch.equal(flat(c.run.average), flat(c.end.average)),
}
CHANGED_BY_ITS_RUN = (
    "from a file it works; but the state itself changed while the run went on: it holds the run's "
    "own tensors. state_dict() copies nothing, copy.deepcopy does"
)
CHANGED_BY_ANOTHER = (
    "right the first time; but the resumed run writes into the state, and the second run that is "
    "restored from it goes astray: optimizer.load_state_dict keeps the tensors it is given, "
    "so give it copies"
)
KEPT_ELSEWHERE = (
    "the state is next to nothing ({size} numbers), and another one for a second run that is at "
    "the same place: what is kept elsewhere, in a variable or under a path, is lost with the "
    "process; the state must hold the tensors themselves"
)


def judge_resume(answer: object) -> None:
    """3.7: (state, restore), which make a SmallRun go on as if it had never been stopped."""
    if not is_pair_of_functions(answer):
        raise Wrong("pass your two functions, check(\"3.7\", (state, restore))")
    state, restore = answer
    with one_thread(), torch.random.fork_rng(devices=[]), torch.enable_grad():
        seed = fresh_generator().initial_seed() % 2**31
        run, twin, end = (SmallRun(seed, STEPS) for _ in range(3))
        for each in (run, twin, end):
            advance(each, 12)
        s = ask_state(state, run)
        s_from_file = saved_and_loaded(s)
        losses = advance(end, 8)
        reject_if((advance(run, 8) != losses,
                   "taking the state changes the run: its next losses are others than without; "
                   "state must leave the run as it is"))
        c = Case(seed=seed, twin=twin, end=end, losses=losses, other=reject_kept(state, s, seed))
        judge_resumed(restore, s_from_file, c)
        judge_resumed(restore, s, c, CHANGED_BY_ITS_RUN)
        judge_resumed(restore, s, c, CHANGED_BY_ANOTHER)
        judge_not_begun(state, restore, seed)


def reject_kept(state: Callable, s: object, seed: int) -> SmallRun:
    """Raise Wrong if s, the state of this seed's run after 12 steps, is only a name for it.

    Returns another run, whose state was taken last.
    """
    again, other = SmallRun(seed, STEPS), SmallRun(seed + 2, STEPS)
    advance(again, 12)
    advance(other, 5)
    size = size_of(s)
    reject_if((size < 100 and s != ask_state(state, again), KEPT_ELSEWHERE.format(size=size)))
    ask_state(state, other)
    return other


def size_of(s: object) -> int:
    """How many numbers a state holds."""
    if torch.is_tensor(s):
        return s.numel()
    if isinstance(s, (dict, list, tuple)):
        return sum(map(size_of, s.values() if isinstance(s, dict) else s))
    return 0 if isinstance(s, str) else 1


def tensors_in(s: object) -> list[Tensor]:
    """All tensors of a state."""
    if torch.is_tensor(s):
        return [s]
    parts = s.values() if isinstance(s, dict) else s if isinstance(s, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def shared_part(run: SmallRun, s: object) -> str:
    """The network of the run whose weights are the state's own tensors, or ""."""
    places = {tensor.data_ptr() for tensor in tensors_in(s)}
    for name in ("net", "average"):
        if any(p.data_ptr() in places for p in getattr(run, name).parameters()):
            return name
    return ""


def ask_state(state: Callable, run: SmallRun) -> object:
    """The reader's state of a run. Raises Wrong if there is none."""
    try:
        s = state(run)
    except TypeError as error:
        reject_if(("missing 1 required positional argument" in str(error),
                   "state takes the run alone: have the two functions changed places? "
                   f"check(\"3.7\", (state, restore)) ({error})"))
        raise
    reject_if((s is None, "state returned None: does it end with `return`?"))
    return s


def is_pair_of_functions(answer: object) -> bool:
    pair = isinstance(answer, (tuple, list)) and len(answer) == 2
    return pair and all(callable(f) for f in answer)


def saved_and_loaded(s: object) -> object:
    """The state as it comes back from a file."""
    file = io.BytesIO()
    try:
        torch.save(s, file)
        file.seek(0)
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise Wrong(
            "this state cannot be read back from a file (torch.load with weights_only, "
            f"{type(error).__name__}): keep tensors, numbers and their dicts, such as "
            "state_dict() and get_state(), not whole objects"
        ) from None


def judge_resumed(restore: Callable, s: object, c: Case, words: str = "") -> None:
    """Restore s into another run; raise the first part that differs, or `words` in its place."""
    run = SmallRun(c.seed + 1, STEPS)
    advance(run, STEPS_ELSEWHERE)
    size = size_of(s)
    restore(run, s)
    reject_if((size_of(s) < size, "restore takes parts out of the state (such as by pop or clear), "
               "and it may be needed again: leave it as it is"))
    shared = shared_part(run, s)
    if words and shared:
        words = (f"run.{shared} is made of the state's own tensors, and its next step changes the "
                 "state: copy the values, load_state_dict or copy_")
    try:
        reject_first(RESUME_SUSPECTS, Case(run=run, **vars(c)))
    except Wrong as diagnosis:
        raise Wrong(words or str(diagnosis)) from None


NOT_BEGUN_SUSPECTS = {
    "right after 12 steps; but the state of a run that has not begun has no averages of the "
    "gradient, and the restored run keeps those that it had: empty Adam's state, too "
    "(load_state_dict does)":
        lambda c: adam_state(c.run),
    "right after 12 steps; but a state that was taken before the first step is not continued bit "
    "for bit":
        lambda c: advance(c.run, 8) != c.losses
        or not torch.equal(flat(c.run.average), flat(c.end.average)),
}


def judge_not_begun(state: Callable, restore: Callable, seed: int) -> None:
    """The state of a run before its first step: an error says so, but nothing else may go on."""
    run, end = SmallRun(seed + 1, STEPS), SmallRun(seed, STEPS)
    advance(run, STEPS_ELSEWHERE)
    try:
        restore(run, state(SmallRun(seed, STEPS)))
    except Exception:
        return
    reject_first(NOT_BEGUN_SUSPECTS, Case(run=run, end=end, losses=advance(end, 8)))


# ---- 3.8: a schedule for larger images

BASES = {
    "cosine": Schedule.cosine(),
    "sigmoid": Schedule.sigmoid(),
    "zero_terminal_snr": Schedule.zero_terminal_snr(),
}


def draw_shift(name: str) -> Case:
    """Times t (6,) and image sides; alpha and sigma (6,) are the base schedule's."""
    base = copy.copy(BASES[name])
    t = between(0.1, 0.9, 6)
    side = int(between(80, 250))
    base_side = int(between(24, 40))
    return Case(
        name=name,
        base=base,
        t=t,
        side=side,
        base_side=base_side,
        k=side / base_side,
        alpha=base.alpha(t),
        sigma=base.sigma(t),
    )


def shift_by(factor: Callable[[Case], float]) -> Callable[[Case], Tensor]:
    """(2, 6): alpha and sigma with sigma / alpha multiplied by a factor."""
    def shifted(c: Case) -> Tensor:
        k = factor(c)
        norm = (c.alpha**2 + (k * c.sigma) ** 2).sqrt()
        return torch.stack([c.alpha, k * c.sigma]) / norm
    return shifted


right_shift = shift_by(lambda c: c.k)
PLAIN_COSINE = Schedule(lambda t: (math.pi / 2 * t).cos(), lambda t: (math.pi / 2 * t).sin())


def shift_of(base: Schedule) -> Callable[[Case], Tensor]:
    """The right answer to another base."""
    return lambda c: right_shift(Case(alpha=base.alpha(c.t), sigma=base.sigma(c.t), k=c.k))


def capped_sigma(c: Case) -> Tensor:
    return (c.k * c.sigma).clamp(max=1)


def shifted_time(c: Case) -> Tensor:
    """The time at which the flow schedule has the shifted SNR."""
    return c.k * c.t / (1 + (c.k - 1) * c.t)


SHIFT_MISTAKES = {
    "the shift has the wrong sign: a larger image shows *more* at the same t, "
    "so it needs more noise, not less":
        shift_by(lambda c: 1 / c.k),
    "a factor 2 is missing: log SNR must fall by 2 log(side / base_side), "
    "so sigma / alpha grows by side / base_side itself, not by its root":
        shift_by(lambda c: c.k**0.5),
    "that is the factor of the area: averaging k x k pixels divides the noise's *variance* by "
    "k^2, its standard deviation by k":
        shift_by(lambda c: c.k**2),
    "sigma alone is multiplied, and alpha^2 + sigma^2 is no longer 1: "
    "divide both by the root of their squares' sum":
        lambda c: torch.stack([c.alpha, c.k * c.sigma]),
    "sigma is clamped at 1: most times would show pure noise; "
    "multiply the *ratio* sigma / alpha":
        lambda c: torch.stack([(1 - capped_sigma(c) ** 2).sqrt(), capped_sigma(c)]),
    "sigma is clamped at 1, and alpha is left as it was":
        lambda c: torch.stack([c.alpha, capped_sigma(c)]),
    "alpha alone is divided; then alpha^2 + sigma^2 is not 1":
        lambda c: torch.stack([c.alpha / c.k, c.sigma]),
    "alpha is divided and sigma made to fit, which is right only near t = 1: "
    "multiply the *ratio* sigma / alpha":
        lambda c: torch.stack([c.alpha / c.k, (1 - (c.alpha / c.k) ** 2).sqrt()]),
    "nothing is shifted":
        lambda c: torch.stack([c.alpha, c.sigma]),
    "that time shift, t' = k t / (1 + (k - 1) t), is the flow schedule's; "
    "here sigma / alpha is another function of t":
        lambda c: torch.stack([c.base.alpha(shifted_time(c)), c.base.sigma(shifted_time(c))]),
    "these are alpha^2 and sigma^2; a Schedule is made of standard deviations":
        lambda c: right_shift(c) ** 2,
    "the shift is measured from 64, as in a paper whose base is 64 pixels wide; "
    "here the base is base_side":
        shift_by(lambda c: c.side / 64),
    "alpha and sigma have changed places":
        lambda c: right_shift(c).flip(0),
    "k is cut to a whole number; side / base_side need not be one: / and not //":
        shift_by(lambda c: c.side // c.base_side),
    "k is rounded to a whole number; side / base_side need not be one":
        shift_by(lambda c: round(c.k)),
    "the base is taken to be 28 pixels wide; it is base_side":
        shift_by(lambda c: c.side / 28),
    "that is the cosine schedule, shifted; start from the base that is given":
        shift_of(COSINE),
    "that is cos(pi t / 2), shifted; start from the base that is given":
        shift_of(PLAIN_COSINE),
    "you divide by alpha + k sigma: that makes their sum 1, and not alpha^2 + sigma^2":
        lambda c: torch.stack([c.alpha, c.k * c.sigma]) / (c.alpha + c.k * c.sigma),
    "the sides are subtracted; what counts is their ratio":
        shift_by(lambda c: float(c.side - c.base_side)),
}
SHIFT_HELP = (
    "from {c.name} at {c.base_side} to {c.side} pixels: at t = {c.t[0]:.2f} the log SNR falls by "
    "{c.fall:.2f}; after averaging k x k pixels the base's own must be left, so by "
    "{c.wanted_fall:.2f}"
)


def judge_shifted(f: Callable) -> None:
    """3.8: shifted(base, side, base_side) -> a Schedule with alpha^2 + sigma^2 = 1.

    Its log SNR is that of the base, minus 2 log(side / base_side).
    """
    for name in BASES:
        c = draw_case(lambda: draw_shift(name), right_shift, SHIFT_MISTAKES)
        schedule = shifted_answer(f, c)
        got = torch.stack([schedule.alpha(c.t), schedule.sigma(c.t)]).double()
        c.fall = (c.base.log_snr(c.t) - schedule.log_snr(c.t))[0]
        c.wanted_fall = 2 * math.log(c.k)
        compare_case(got, c, right_shift, SHIFT_MISTAKES, rtol=1e-3, atol=1e-4,
                     otherwise=SHIFT_HELP)
        judge_squares(schedule, c)
        judge_schedule_ends(schedule, c)
        judge_near_the_ends(schedule, c)


def shifted_answer(f: Callable, c: Case) -> Schedule:
    """The reader's schedule. Raises Wrong if something else was returned."""
    got = as_function(f)(c.base, c.side, c.base_side)
    now = torch.stack([c.base.alpha(c.t), c.base.sigma(c.t)])
    reject_if((not torch.equal(now, torch.stack([c.alpha, c.sigma])),
               "your function changes the base schedule itself; make a new Schedule of two new "
               "functions"))
    if not isinstance(got, Schedule):
        kind = "None: does it end with `return`?" if got is None else type(got).__name__
        raise Wrong("return a Schedule: Schedule(alpha, sigma) takes two functions of t; "
                    f"got {kind}")
    return got


def judge_squares(schedule: Schedule, c: Case) -> None:
    """alpha^2 + sigma^2 = 1, also to float32."""
    sums = schedule.alpha(c.t).double() ** 2 + schedule.sigma(c.t).double() ** 2
    worst = int((sums - 1).abs().argmax())
    reject_if(((sums[worst] - 1).abs() > 3e-6,
               f"nearly, but at t = {c.t[worst]:.2f} of {c.name} alpha^2 + sigma^2 differs from 1 "
               f"by {sums[worst] - 1:.1g}: add no small number below the line, nothing is 0 there"))


def judge_schedule_ends(schedule: Schedule, c: Case) -> None:
    """alpha and sigma at t = 0 and t = 1, where the log SNR may be infinite."""
    ends = torch.stack([coefficients_at(schedule, t) for t in (0.0, 1.0)])      # (2, 2)
    wanted = torch.stack([coefficients_at(c.base, t) for t in (0.0, 1.0)])
    wanted = F.normalize(wanted * torch.tensor([1, c.k], dtype=F64), dim=1)
    near = [torch.allclose(ends.double(), wanted, rtol=rtol, atol=atol)
            for rtol, atol in ((1e-5, 1e-4), (1e-2, 1e-5))]     # the second for small numbers
    if not all(near):
        reason = (
            "there log SNR is inf or -inf; without logarithms, nothing special happens"
            if not ends.isfinite().all()
            else "the formula holds there, too: clamp nothing, and take nothing from another time"
        )
        raise Wrong(
            f"right in between, but at t = 0 and t = 1 of {c.name} alpha and sigma are "
            f"{shown(ends)}, and {shown(wanted)} is wanted: {reason}"
        )


def shown(rows: Tensor) -> str:
    """The numbers (2, 2), three digits each."""
    return ", ".join("[" + ", ".join(f"{v:.3g}" for v in row) + "]" for row in rows.tolist())


def judge_near_the_ends(schedule: Schedule, c: Case) -> None:
    """The log SNR near t = 0 and t = 1, where it is steep."""
    drawn = between(0.001, 0.02, 3), between(0.98, 0.999, 3)
    t = torch.cat([*drawn, torch.tensor([0.0015, 0.9985], dtype=F64)])
    wanted = c.base.log_snr(t) - 2 * math.log(c.k)
    error = (schedule.log_snr(t).double() - wanted).abs()
    worst = int(error.argmax())
    reject_if((bool(error[worst] > 0.01),
               f"right in between, but near the ends, at t = {t[worst]:.4f} of {c.name}, the log "
               f"SNR is off by {error[worst]:.2g}: clamp nothing, and interpolate in no table"))


def coefficients_at(schedule: Schedule, t: float) -> Tensor:
    """alpha and sigma at one number t, (2,). Raises Wrong if they come in another shape."""
    got = torch.stack([schedule.alpha(t), schedule.sigma(t)])
    reject_if((got.shape != (2,),
               "alpha and sigma have the shape of t; for one number, t of shape (), yours have "
               f"the shape {tuple(got.shape[1:])}"))
    return got


# ---- 3.9: fooling the Fréchet distance

def skewed_mixture(n: int, d: int) -> Tensor:
    """n points (n, d) of seven Gaussians around an empty middle.

    They differ in weight, and are stretched along an oblique axis and moved off the origin.
    """
    directions = F.normalize(torch.randn(7, d, generator=fresh_generator(), dtype=F64), dim=1)
    axis = F.normalize(between(0.3, 1, d), dim=0)
    stretch = torch.eye(d, dtype=F64) + torch.outer(axis, axis)
    means = between(2, 3, 7, 1) * directions @ stretch + between(1, 3, d)       # (7, d)
    mixture = GaussianMixture(means, 0.1, between(0.3, 1.3, 7))
    x = mixture.sample(n, int(between(0, 1e6))).double()
    empty_middle = torch.cdist(x.mean(0)[None], x).min() > 0.7
    return x if empty_middle else skewed_mixture(n, d)


def cloud_case(x: Tensor, real: Tensor) -> Case:
    """The reader's points x (n, d) and the real ones, with their moments.

    `C` and `got` are the covariances (d, d) of the real and of the reader's points.
    """
    n, d = x.shape
    C = real.T.cov()
    got = x.T.cov()
    c = Case(
        n=n,
        d=d,
        C=C,
        got=got,
        L=torch.linalg.cholesky(C),
        copied=(torch.cdist(x, real).min(1).values < 1e-6).double().mean(),
        precision=precision_recall(real, x)[0],
        distance=frechet_distance(x, real),
        mean_error=(x.mean(0) - real.mean(0)).norm(),
    )
    c.scale = got.trace() / C.trace()
    c.centred = c.mean_error < 6 * (C.trace() / n) ** 0.5
    # whether they have another shape than the real points, not only another size
    c.other_shape = not is_covariance(c, c.scale * C, 0.2)
    return c


def is_covariance(c: Case, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether the points' covariance is this one."""
    return bool((c.got - wanted).norm() < tolerance * wanted.norm())


def is_roughly(c: Case, wanted: Tensor) -> bool:
    """Whether the points' covariance is this one, exactly or by random draws."""
    return is_covariance(c, wanted) or is_covariance(c, wanted, 0.2) and c.other_shape


def is_drawn(c: Case) -> bool:
    """Whether mean and covariance are as in n draws from the right Gaussian."""
    whitened = torch.linalg.solve_triangular(c.L, c.got - c.C, upper=False)
    whitened = torch.linalg.solve_triangular(c.L, whitened.T, upper=False)
    # of draws, the square of its norm is d (d + 1) / n on average
    return bool(c.centred and whitened.norm() < 2.5 * (c.d * (c.d + 1) / c.n) ** 0.5)


HONEST_SUSPECTS = {
    "{c.copied:.0%} of your points are real points: that is no fooling, "
    "the distance is right about them":
        lambda c: c.copied > 0.5,
    "{c.copied:.0%} of your points are copies of real ones; none may be":
        lambda c: c.copied > 0.01,
    "{c.precision:.0%} of your points lie among the real ones (precision): "
    "they are good samples, and a small distance is deserved":
        lambda c: c.precision > 0.5,
}
DISTANCE_SUSPECTS = {
    "all your points are in one place: the mean is one half of the distance, "
    "the covariance is the other":
        lambda c: c.got.trace() < 1e-9 * c.C.trace(),
    "the covariance is that of the real points; the mean is off by {c.mean_error:.3g}":
        lambda c: is_covariance(c, c.C),
    "your points are white, covariance I: now give them the real points' covariance, "
    "with a root of it":
        lambda c: is_covariance(c, c.got.trace() / c.d * torch.eye(c.d, dtype=F64)),
    "you multiply by the covariance itself, which gives its square: multiply by its *root*":
        lambda c: is_roughly(c, c.C @ c.C),
    "rows and columns have changed places: with points as rows, "
    "z @ L.T has the covariance L L^T":
        lambda c: is_covariance(c, c.L.T @ c.L),
    "each coordinate has its own width, but they are not correlated: "
    "the whole covariance is wanted, not only its diagonal":
        lambda c: is_roughly(c, c.C.diagonal().diag()),
    "the covariance is {c.scale:.3g} times that of the real points":
        lambda c: is_covariance(c, c.scale * c.C),
    "nearly: mean and covariance are off by chance only, as those of random draws are, "
    "and the distance is {c.distance:.2g}. Whiten the draws first, "
    "by *their* mean and covariance":
        is_drawn,
    "your points stay where they are when the real points are moved: they must follow the "
    "argument `real`, whatever cloud it is":
        lambda c: not c.centred and c.stays(),
    "your points' mean is off by {c.mean_error:.2f}: give them the mean of the real points":
        lambda c: not c.centred,
    "the Fréchet distance is {c.distance:.2g}; it is 0 when mean and covariance agree: "
    "compare x.mean(0) and x.T.cov() with those of the real points":
        lambda c: True,
}


def judge_fool(f: Callable) -> None:
    """3.9: fool(real, n) -> n points with Fréchet distance 0 to the real ones.

    Few of them may lie where the real points are.
    """
    for n_real, n, d in ((800, 501, 2), (600, 699, 3)):
        real = skewed_mixture(n_real, d)
        try:
            x = fool_answer(f, real, n)
        except (RuntimeError, ValueError) as error:
            reject_if((d == 3, "right in two dimensions, but in three your answer raised "
                       f"{type(error).__name__}: {error}"))
            raise
        c = cloud_case(x, real)
        c.stays = partial(stays, f, real, x)
        reject_first(HONEST_SUSPECTS, c)
        if c.distance >= 1e-5 * c.C.trace():
            reject_first(DISTANCE_SUSPECTS, c)


def stays(f: Callable, real: Tensor, x: Tensor) -> bool:
    """Whether the reader's points keep their mean when the real points are moved far away."""
    moved = fool_answer(f, real + 100, len(x))
    return bool((moved.mean(0) - x.mean(0)).abs().max() < 10)


def fool_answer(f: Callable, real: Tensor, n: int) -> Tensor:
    """The reader's points (n, d), in float64. Raises Wrong if they are no such tensor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fresh_generator().initial_seed() % 2**31)
        given = real.clone()
        x = as_function(f)(given, n)
    reject_if((not torch.equal(given, real),
               "your function changes the real points: compute new tensors"))
    reject_none(x)
    x = as_tensor(x)
    d = real.shape[1]
    if not torch.is_tensor(x) or x.shape != (n, d) or x.is_complex():
        got = f"{x.dtype} {tuple(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise Wrong(f"{n} points in {d} dimensions are wanted, a tensor of shape ({n}, {d}); "
                    f"got {got}")
    reject_if((not x.isfinite().all(), "some of your points are nan or inf"))
    return x.detach().double()


QUESTIONS = [
    Question(
        "3.1", 2, judge_error,
        "the four losses measure one error with four weights; "
        "so losses of different targets can be compared after all",
        ("Every target's loss is weight * error of x0. Which weight has which target? "
         "The lesson's section 3.2 has all four.",
         "SNR = exp(log_snr); the weights are SNR, 1, SNR + 1 and (1 + sqrt(SNR))^2.",
         "snr = log_snr.exp(); return loss / {\"eps\": snr, \"x0\": torch.ones_like(snr), "
         "\"v\": snr + 1, \"flow\": (1 + snr.sqrt())**2}[target]")),
    Question(
        "3.2", 3, judge_min_snr,
        "one weight, three factors: "
        "a weight means nothing until one says on which error it is put",
        ("factor * (the target's own weight of 3.1) = min(SNR, gamma). Solve for the factor.",
         "At log SNR = -inf SNR is 0, and min(SNR, gamma) / SNR is 0 / 0. "
         "How else can min(SNR, gamma) / SNR be written?",
         "eps: (gamma / snr).clamp(max=1); x0: snr.clamp(max=gamma); "
         "v: snr.clamp(max=gamma) / (snr + 1)")),
    Question(
        "3.3", 3, judge_frechet,
        "also where the covariances do not commute, and where one is singular",
        ("The square root of a symmetric matrix: decompose it by torch.linalg.eigh, take the "
         "square roots of the eigenvalues, and multiply the factors again.",
         "A^(1/2) B A^(1/2) is symmetric; "
         "the trace of its root is the sum of the roots of its eigenvalues.",
         "w, V = torch.linalg.eigh(A); R = (V * w.clamp(min=0).sqrt()) @ V.T; "
         "torch.linalg.eigvalsh(R @ B @ R).clamp(min=0).sqrt().sum()")),
    Question(
        "3.4", 3, judge_extrapolate,
        "a line in 1/n, and its value at 1/n = 0",
        ("Plot the values against 1/n. Where on that axis is n = infinity?",
         "Least squares: torch.linalg.lstsq(matrix, values[:, None]).solution, "
         "where the matrix has the columns 1/n and 1.",
         "torch.linalg.lstsq(torch.stack([1 / ns, torch.ones_like(ns)], 1), "
         "values[:, None]).solution[1, 0]")),
    Question(
        "3.5", 3, judge_ema,
        "with the warm-up the EMA follows fast at first, and its tensors are its own",
        ("In __init__: a deep copy, without gradients, and n = 0. "
         "In update: the decay first, then the parameters, then the buffers, then n.",
         "a.lerp_(p, 1 - decay) moves a towards p by the fraction 1 - decay.",
         "for a, p in zip(self.net.parameters(), net.parameters()): a.lerp_(p, 1 - d); "
         "for a, b in zip(self.net.buffers(), net.buffers()): a.copy_(b); self.n += 1")),
    Question(
        "3.6", 2, judge_diagnoses,
        "three of the seven have the very losses of a healthy training: "
        "only samples, and code that the training does not share, can find them",
        ("Sort by the losses first: which trainings have the same ones, step by step? "
         "What differs between those must lie after the loss, or in a sign.",
         "The validation loss is computed by the library. Whose is bad everywhere, "
         "whose at one end only? Who is better than the perfect network can be?",
         "Correlation 1 with the starting noise: nothing was done to it. Labels right no more "
         "often than by chance, and a large spread: the steps go the wrong way. "
         "Thin arcs with a healthy validation loss: look at the sampler.")),
    Question(
        "3.7", 3, judge_resume,
        "bit for bit: nothing that the next step depends on is missing",
        ("Go through advance() and loss() line by line: what do they use that an earlier step has "
         "written?",
         "Five things: net, average, optimizer, generator, step. The first three have "
         "state_dict() and load_state_dict(), the generator get_state() and set_state().",
         "state: copy.deepcopy({\"net\": run.net.state_dict(), ..., "
         "\"generator\": run.generator.get_state(), \"step\": run.step}). "
         "Restore the optimizer from a deep copy, too: it keeps the tensors it is given.")),
    Question(
        "3.8", 3, judge_shifted,
        "a shift of the log SNR is a factor on sigma / alpha; then both are divided by one number",
        ("Averaging k x k pixels divides the noise's standard deviation by k. "
         "So by what must sigma / alpha be multiplied?",
         "The pair (alpha, k sigma) has the right ratio, but its squares do not add up to 1. "
         "Divide both by the same number.",
         "r = lambda t: (base.alpha(t)**2 + (k * base.sigma(t))**2).sqrt(); "
         "Schedule(lambda t: base.alpha(t) / r(t), lambda t: k * base.sigma(t) / r(t))")),
    Question(
        "3.9", 3, judge_fool,
        "distance 0, and fewer than half of the points where the data are: a small Fréchet "
        "distance says that mean and covariance agree, and no more",
        ("The Fréchet distance depends on the mean and the covariance only. "
         "Which points have the same two, and another distribution?",
         "Take any draws, make their own mean 0 and their own covariance I, "
         "then give them the real ones.",
         "z = z - z.mean(0); z = z @ power(z.T.cov(), -0.5); "
         "x = z @ power(real.T.cov(), 0.5) + real.mean(0)")),
]
