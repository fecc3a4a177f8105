"""Each tagged formula of lesson 5's part III, from (5.25), has a test here that would fail if it
were wrong.
"""
import math

import pytest
import torch

from course_lib import Schedule, ancestral, ddim, editing, last, timesteps
from course_lib.editing import ddim_edit, dps, inpaint, pigdm, repaint, sdedit
from course_lib.guidance import classifier_guidance
from course_lib.lab import data, styles
from course_lib.lab.data import GaussianMixture
from course_lib.masks import create_mask
from course_lib.samplers import step

F64 = torch.float64
G = lambda seed=0: torch.Generator().manual_seed(seed)
T, S = torch.tensor(0.6, dtype=F64), torch.tensor(0.35, dtype=F64)
SCHEDULES = [Schedule.cosine(), Schedule.flow(), Schedule.edm(5.0, 3.0)]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
MIX = GaussianMixture([[-1.0, 0.6], [0.9, 0.8], [0.3, -0.9]], [0.2, 0.3, 0.25], [1.0, 1.0, 2.0])
X = torch.randn(30, 2, generator=G(), dtype=F64)
A = torch.tensor([[1.0, 0.5]], dtype=F64)
Y = torch.tensor([0.4], dtype=F64)
NOISE = 0.2
SIDE = torch.linspace(-2.6, 2.6, 261, dtype=F64)
PLANE = torch.cartesian_prod(SIDE, SIDE)  # (261^2, 2), a grid to integrate over


def close(a, b, **kw):
    torch.testing.assert_close(torch.as_tensor(a, dtype=F64), torch.as_tensor(b, dtype=F64), **kw)


def share_of_clean(schedule, x, t):
    """p(x0 | x_t = x) on the plane, by Bayes' rule and summing: (B, 261^2), rows add up to 1."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return (
        MIX.log_prob(PLANE) - (x[:, None] - alpha * PLANE).square().sum(-1) / (2 * sigma**2)
    ).softmax(1)


def log_normal(y, mean, variance):
    return -0.5 * (y - mean) ** 2 / variance - 0.5 * torch.log(2 * math.pi * variance)


def test_eq_5_25():
    """The mixed prediction; and a last step that returns it keeps the known pixels bit for bit."""
    m = create_mask(8, "half", 0.4)
    known = torch.rand(1, 1, 8, 8, generator=G())
    D = lambda x, t: x.sin()
    x = torch.randn(3, 1, 8, 8, generator=G())
    close(inpaint(D, known, m)(x, T).double(), (m * x.sin() + (1 - m) * known).double())
    schedule = Schedule.cosine()
    ts = timesteps(schedule, 3)
    made = last(ancestral(inpaint(D, known, m), schedule, x, ts, generator=G(1)))
    assert torch.equal(made[..., :5], known.expand(3, 1, 8, 8)[..., :5])


@each_schedule
def test_eq_5_26(schedule):
    """The known part of a state at level s: mean alpha_s k, deviation sigma_s; the unknown part is
    the plain step.
    """
    known = torch.tensor([[1.7, 0.0]], dtype=F64)
    m = torch.tensor([[0.0, 1.0]])
    x = torch.randn(20_000, 2, generator=G(), dtype=F64)
    D = lambda x, t: 0.3 * x
    _, at_s = repaint(D, schedule, x, known, m, [T, S], generator=G(1), eta=0.0)
    assert abs(at_s[:, 0].mean() - 1.7 * schedule.alpha(S)) < 5 * schedule.sigma(S) / 20_000**0.5
    assert abs(at_s[:, 0].std() / schedule.sigma(S) - 1) < 0.03
    close(at_s[:, 1], step(schedule, x, D(x, T), T, S)[:, 1])


@each_schedule
def test_eq_5_27(schedule):
    """The log of the odds of two bumps at (a, b) and (-a, -b), against the mixture's own shares;
    and the mean of the known part.
    """
    a = 0.3
    b = 0.5
    s = 0.12
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    log_joint = GaussianMixture([[-a, -b], [a, b]], s)._components(X, alpha, sigma)[2]
    close(
        2 * alpha * (a * X[:, 0] + b * X[:, 1]) / (alpha**2 * s**2 + sigma**2),
        log_joint[:, 1] - log_joint[:, 0],
    )
    known = alpha * a + sigma * torch.randn(100_000, generator=G(), dtype=F64)
    says = 2 * alpha * a * known / (alpha**2 * s**2 + sigma**2)
    assert (
        abs(says.mean() - 2 * alpha**2 * a**2 / (alpha**2 * s**2 + sigma**2))
        < 5 * says.std() / 100_000**0.5
    )


@each_schedule
def test_eq_5_28(schedule):
    """Up from level s, a noised picture is as if noised to t at once."""
    x = schedule.perturb(
        torch.full((100_000, 1), 1.3, dtype=F64),
        S,
        torch.randn(100_000, 1, generator=G(), dtype=F64),
    )
    up = schedule.renoise(x, S, T, G(1))
    allowed = 5 * schedule.sigma(T).item() / 100_000**0.5
    close(up.mean(), 1.3 * schedule.alpha(T), rtol=0, atol=allowed)
    close(up.std(), schedule.sigma(T), rtol=0.012, atol=0)
    ratio = schedule.alpha(T) / schedule.alpha(S)
    noise = torch.randn(100_000, 1, generator=G(1), dtype=F64)
    close(
        up, ratio * x + (schedule.sigma(T) ** 2 - ratio**2 * schedule.sigma(S) ** 2).sqrt() * noise
    )


@each_schedule
def test_eq_5_29(schedule):
    """Up and exactly down keeps the level's density: on a line, by summing; one level too high or
    low does not.
    """
    line = torch.linspace(-9, 9, 901, dtype=F64)
    two = GaussianMixture([[-1.0], [0.7]], [0.2, 0.3], [0.3, 0.7])
    density = lambda t: two.log_prob(line[:, None], schedule.alpha(t), schedule.sigma(t)).softmax(0)
    def there_and_back(s, t):
        ratio = schedule.alpha(t) / schedule.alpha(s)
        variance = schedule.sigma(t) ** 2 - ratio**2 * schedule.sigma(s) ** 2
        # (x_s, x_t)
        joint = (
            density(s)[:, None]
            * (-((line - ratio * line[:, None]) ** 2) / (2 * variance)).exp()
            / (2 * math.pi * variance).sqrt()
            * (line[1] - line[0])
        )
        down = joint / joint.sum(0, keepdim=True).clamp(min=1e-300)  # q(x_s | x_t)
        return joint.sum(0), down @ joint.sum(0)
    above, back = there_and_back(S, T)
    close(above, density(T), rtol=1e-4, atol=1e-7)  # in the middle it is q_t
    close(back, density(S), rtol=1e-4, atol=1e-7)
    assert (back - density(T)).abs().max() > 1e-3


def test_eq_5_30():
    """A measurement in the conventions of the lesson: blur, fewer pixels and the left half are
    matrices acting on flattened pictures.
    """
    x = torch.randn(4, 1, 12, 12, generator=G(), dtype=F64)
    kernel = torch.rand(1, 1, 9, 9, generator=G(1), dtype=F64)
    flat = x.flatten(1)
    place = lambda i, j: 12 * i + j     # of a pixel in the flattened picture
    pool = torch.zeros(9, 144, dtype=F64)
    left = torch.zeros(72, 144, dtype=F64)
    blur = torch.zeros(144, 144, dtype=F64)
    for i in range(12):
        for j in range(12):
            pool[3 * (i // 4) + j // 4, place(i, j)] = 1 / 16  # the mean of each square of 4 x 4
            if j < 6:
                left[6 * i + j, place(i, j)] = 1  # rows of the identity
            for a in range(max(i - 4, 0), min(i + 5, 12)):
                for b in range(max(j - 4, 0), min(j + 5, 12)):
                    # black outside
                    blur[place(i, j), place(a, b)] = kernel[0, 0, a - i + 4, b - j + 4]
    close(torch.nn.functional.avg_pool2d(x, 4).flatten(1), flat @ pool.T)
    close(x[..., :6].flatten(1), flat @ left.T)
    blurred = torch.nn.functional.conv2d(x, kernel, padding=4).flatten(1)
    close(blurred, flat @ blur.T)
    by_hand = sum(
        kernel[0, 0, 4 + a, 4 + b] * x[:, 0, 6 + a, 5 + b]
        for a in range(-4, 5)
        for b in range(-4, 5)
        if 5 + b >= 0
    )
    close(blurred[:, place(6, 5)], by_hand)  # one pixel, as the sum that it is
    # how the lesson gets A: column k is the measurement of one pixel
    pixels = torch.eye(144, dtype=F64).view(144, 1, 12, 12)
    close(torch.nn.functional.conv2d(pixels, kernel, padding=4).flatten(1).T, blur)


def test_variance_of_a_measurement():
    """(5.30) The variance of y is s_k^2 A A^T + s^2, which (5.33) builds on (5 standard errors)."""
    one, n = GaussianMixture(MIX.means[:1], MIX.stds[0]), 100_000
    y = (one.sample(n).double() @ A.T)[:, 0] + NOISE * torch.randn(n, generator=G(), dtype=F64)
    variance = (one.stds[0] ** 2 * A @ A.T)[0, 0] + NOISE**2
    assert abs(y.var() - variance) < 5 * variance * (2 / n) ** 0.5
    assert abs(y.mean() - (one.means[0] @ A.T)[0]) < 5 * (variance / n) ** 0.5


@each_schedule
def test_bayes_for_a_measurement(schedule):
    """(5.5) Bayes' rule for the prediction: E[x0 | x_t, y] by summing over the plane, against
    x0_hat + sigma^2 / alpha grad log p(y | x_t).
    """
    # log p(y | x0) on the plane
    likelihood = log_normal(Y, PLANE @ A.T, torch.tensor(NOISE**2, dtype=F64))[:, 0]
    log_prob = lambda x, t: (share_of_clean(schedule, x, t) * likelihood.exp()).sum(1).log()
    made = classifier_guidance(MIX.denoiser(schedule), schedule, log_prob)(X, T)
    wanted = (share_of_clean(schedule, X, T).log() + likelihood).softmax(1) @ PLANE
    close(made, wanted, rtol=1e-4, atol=1e-4)


def log_likelihood(schedule, x, t):
    """(5.32)"""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    v = MIX.stds**2 * sigma**2 / (alpha**2 * MIX.stds**2 + sigma**2)
    m = MIX.means + v[:, None] * alpha / sigma**2 * (x[:, None] - alpha * MIX.means)
    share = MIX._components(x, alpha, sigma)[2].softmax(1)
    return (
        share.log() + log_normal(Y, (m @ A.T)[..., 0], v * (A @ A.T)[0, 0] + NOISE**2)
    ).logsumexp(1)


@each_schedule
def test_eq_5_31(schedule):
    """The average of bells over the clean pictures is a density in y: it integrates to 1; and it is
    the closed form.
    """
    share, ys = share_of_clean(schedule, X, T), torch.linspace(-6, 6, 61, dtype=F64)
    # (61, B)
    density = torch.stack(
        [
            share @ log_normal(y, PLANE @ A.T, torch.tensor(NOISE**2, dtype=F64)).exp()[:, 0]
            for y in ys
        ]
    )
    bell = share @ log_normal(Y, PLANE @ A.T, torch.tensor(NOISE**2, dtype=F64)).exp()[:, 0]
    close(bell.log(), log_likelihood(schedule, X, T), rtol=1e-3, atol=2e-3)
    close(density.sum(0) * 0.2, torch.ones(30, dtype=F64), rtol=0.01, atol=0)


@each_schedule
def test_eq_5_32(schedule):
    """By drawing: x0 given x_t from the plane, then y with noise; the share of y below a bound,
    five standard errors.
    """
    for row in (0, 7):
        k = torch.multinomial(
            share_of_clean(schedule, X[row : row + 1], T)[0],
            40_000,
            replacement=True,
            generator=G(1),
        )
        y = (PLANE[k] @ A.T)[:, 0] + NOISE * torch.randn(40_000, generator=G(2), dtype=F64)
        alpha, sigma = schedule.alpha(T), schedule.sigma(T)
        v = MIX.stds**2 * sigma**2 / (alpha**2 * MIX.stds**2 + sigma**2)
        m = MIX.means + v[:, None] * alpha / sigma**2 * (X[row] - alpha * MIX.means)
        share = MIX._components(X[row:row + 1], alpha, sigma)[2].softmax(1)[0]
        mean, seen = (share * (m @ A.T)[:, 0]).sum(), share_of_clean(schedule, X[row:row + 1], T)[0]
        variance = (share * (v * (A @ A.T)[0, 0] + NOISE**2 + (m @ A.T)[:, 0] ** 2)).sum() - mean**2
        close(mean, seen @ (PLANE @ A.T)[:, 0], rtol=1e-3, atol=1e-4)
        close(
            variance,
            seen @ (PLANE @ A.T)[:, 0] ** 2 - (seen @ (PLANE @ A.T)[:, 0]) ** 2 + NOISE**2,
            rtol=1e-3,
            atol=1e-5,
        )
        for bound in y.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=F64)):
            below = (
                share
                * torch.special.ndtr(
                    (bound - (m @ A.T)[:, 0]) / (v * (A @ A.T)[0, 0] + NOISE**2).sqrt()
                )
            ).sum()
            assert abs(below - (y < bound).double().mean()) < 5 * 0.5 / 40_000**0.5


def test_eq_5_33():
    """Shares, means and covariances of the posterior of the mixture, against sums over the plane.
    """
    posterior = (
        MIX.log_prob(PLANE) + log_normal(Y, PLANE @ A.T, torch.tensor(NOISE**2, dtype=F64))[:, 0]
    ).softmax(0)
    v = MIX.stds[:, None, None] ** 2
    S_k = v * (A @ A.T) + NOISE**2
    gain = v * A.T @ torch.linalg.inv(S_k)
    share = (MIX.weights.log() + log_normal(Y, MIX.means @ A.T, S_k[:, :, 0])[:, 0]).softmax(0)
    mean = MIX.means + (gain @ (Y - MIX.means @ A.T)[..., None])[..., 0]
    covariance = v * (torch.eye(2, dtype=F64) - gain @ A)
    whole = (share[:, None] * mean).sum(0)
    close(whole, posterior @ PLANE, rtol=1e-3, atol=1e-3)
    spread = (
        (share[:, None, None] * (covariance + mean[:, :, None] * mean[:, None, :])).sum(0)
        - whole[:, None] * whole
    )
    centred = PLANE - posterior @ PLANE
    close(spread, centred.T @ (posterior[:, None] * centred), rtol=5e-3, atol=1e-3)


def jacobian(schedule, x):
    # (2, 2)
    return torch.autograd.functional.jacobian(lambda x: MIX.denoiser(schedule)(x[None], T)[0], x)


@each_schedule
def test_eq_5_34(schedule):
    """The library's push, sigma^2 / alpha times the gradient of log p(y | x0_hat), against J^T
    A^T (y - A x0_hat) / s^2 with a Jacobian by differences.
    """
    D = MIX.denoiser(schedule)
    variance = torch.tensor(NOISE**2, dtype=F64)
    h = 1e-5
    x0_hat = D(X, T)
    made = editing.guide_through_x0(
        D, schedule, lambda x0_hat, t: log_normal(Y, x0_hat @ A.T, variance)[:, 0]
    )(X, T)
    # (30, 2, 2): x0_hat, x_t
    J = torch.stack(
        [(D(X + h * e, T) - D(X - h * e, T)) / (2 * h) for e in torch.eye(2, dtype=F64)], dim=2
    )
    gradient = (J.mT @ A.T @ (Y - x0_hat @ A.T)[:, :, None])[..., 0] / NOISE**2
    close(
        made - x0_hat, schedule.sigma(T) ** 2 / schedule.alpha(T) * gradient, rtol=1e-5, atol=1e-6
    )


@each_schedule
def test_eq_5_35(schedule):
    """sigma^2 / alpha times the Jacobian of the prediction is the covariance of x0 given x_t,
    summed over the plane.
    """
    factor = schedule.sigma(T) ** 2 / schedule.alpha(T)
    for row in (1, 5, 9):
        share = share_of_clean(schedule, X[row:row + 1], T)[0]
        centred = PLANE - share @ PLANE
        close(
            factor * jacobian(schedule, X[row]),
            centred.T @ (share[:, None] * centred),
            rtol=2e-3,
            atol=1e-3,
        )


@each_schedule
def test_eq_5_36(schedule):
    """DPS moves by Cov A^T zeta r / |r|."""
    x0_hat = MIX.denoiser(schedule)(X, T)
    made = dps(MIX.denoiser(schedule), schedule, lambda x: x @ A.T, Y[None], 3.0)(X, T)
    r = Y - x0_hat @ A.T
    for row in (0, 4, 8):
        covariance = schedule.sigma(T) ** 2 / schedule.alpha(T) * jacobian(schedule, X[row])
        close(made[row], x0_hat[row] + 3 * covariance @ A.T @ (r[row] / r[row].abs()))


@each_schedule
def test_eq_5_37(schedule):
    """rho^2 is the variance of x0 given x_t for one bump; y's variance rho^2 A A^T + s^2; and for
    one bump the prediction is exact.
    """
    d = 0.6
    alpha = schedule.alpha(T)
    sigma = schedule.sigma(T)
    rho2 = d**2 * sigma**2 / (alpha**2 * d**2 + sigma**2)
    close(1 / rho2, 1 / d**2 + alpha**2 / sigma**2)
    one = GaussianMixture([[0.4, -0.3]], d)
    x0_hat = one.denoiser(schedule)(X, T)
    made = pigdm(one.denoiser(schedule), schedule, A, Y, NOISE, d)(X, T)
    close(made, x0_hat + rho2 * (Y - x0_hat @ A.T) @ A / (rho2 * (A @ A.T) + NOISE**2))
    posterior = (
        one.log_prob(PLANE)
        - (X[2] - alpha * PLANE).square().sum(1) / (2 * sigma**2)
        + log_normal(Y, PLANE @ A.T, torch.tensor(NOISE**2, dtype=F64))[:, 0]
    ).softmax(0)
    close(made[2], posterior @ PLANE, rtol=2e-3, atol=2e-3)


@each_schedule
def test_eq_5_38(schedule):
    """The divergence of two noised pictures, by torch's own formula, and sdedit's start has that
    law.
    """
    a, b = torch.tensor([0.3, -0.7, 0.2], dtype=F64), torch.tensor([-0.5, 0.1, 0.9], dtype=F64)
    alpha, sigma = schedule.alpha(T), schedule.sigma(T)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(alpha * a, sigma), torch.distributions.Normal(alpha * b, sigma)
    ).sum()
    close(0.5 * schedule.log_snr(T).exp() * (a - b).square().sum(), kl)
    first = next(sdedit(lambda x, t: x, schedule, a.expand(20_000, 3), T.item(), 2, generator=G()))
    close(first.mean(0), alpha * a, rtol=0, atol=5 * sigma.item() / 20_000**0.5)
    close(first.std(0), sigma.expand(3), rtol=0.03, atol=0)


def test_eq_5_39():
    """Up under one bell and down under another exchanges mean and width: many steps, from where
    alpha is next to 0.
    """
    schedule = Schedule.cosine()
    means = torch.tensor([[-1.0, 0.5], [0.8, -0.4]], dtype=F64)
    widths = [0.2, 0.5]
    D = lambda x, t, y: GaussianMixture(means[y][None], widths[y]).denoiser(schedule)(x, t)
    x0 = means[0] + widths[0] * X
    made = last(ddim_edit(D, schedule, x0, 400, {"y": 0}, {"y": 1}, start=0.999))
    close(made, means[1] + widths[1] / widths[0] * (x0 - means[0]), rtol=0, atol=0.05)
    def u(x, t, y):
        return (
            (x - schedule.alpha(t) * means[y])
            / ((schedule.alpha(t) * widths[y]) ** 2 + schedule.sigma(t) ** 2).sqrt()
        )
    ts = timesteps(schedule, 400, start=0.9)[:350]
    *_, end = ddim(D, schedule, X, ts, y=1)
    close(u(end, ts[-1], 1), u(X, ts[0], 1), rtol=0, atol=0.03)


# ---- style transfer

COSINE = Schedule.cosine()


def test_eq_5_40():
    """Written out for both layers; and places do not matter: a picture moved within its black
    border has the same statistics.
    """
    from course_lib.lab.evaluation.features import digit_classifier
    x = data.mnist("test")[0][:20]
    found, P = styles.feature_statistics(x).double(), 28 * 28
    assert found.shape == (20, 128)
    for layers, start in ((3, 0), (6, 64)):  # up to the first ReLU, up to the second
        h = digit_classifier().body[:layers](x).double()                      # (20, 32, 28, 28)
        m = h.sum((2, 3)) / P
        s = (((h - m[:, :, None, None]) ** 2).sum((2, 3)) / P).sqrt()
        assert (
            isinstance(digit_classifier().body[layers - 1], torch.nn.ReLU)
            and h.shape == (20, 32, 28, 28)
        )
        torch.testing.assert_close(found[:, start:start + 32], m, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            found[:, start + 32 : start + 64], (s**2 + 1e-5).sqrt(), atol=1e-5, rtol=1e-4
        )
    small = torch.nn.functional.pad(x[..., 6:22, 6:22], (6, 6, 6, 6), value=-1.0)
    torch.testing.assert_close(
        styles.feature_statistics(small),
        styles.feature_statistics(small.roll((2, -1), (2, 3))),
        atol=1e-4,
        rtol=1e-3,
    )


def test_eq_5_41():
    """A^T Sigma A = I; and the nearest mean in seven numbers is the nearest in all, by the distance
    that Sigma gives.
    """
    g, style = G(), torch.arange(4000) % 8
    s = torch.randn(8, 12, generator=g)[style] + torch.randn(4000, 12, generator=g) @ (
        torch.eye(12) + 0.2 * torch.randn(12, 12, generator=g)
    )
    j = styles.fit_discriminants(s, style)
    f = ((s - j.mean) @ j.matrix).double()
    means = torch.stack([s[style == k].mean(0) for k in range(8)]).double()
    sigma = torch.cov((s.double() - means[style]).T)
    torch.testing.assert_close(
        j.matrix.double().T @ sigma @ j.matrix.double(), torch.eye(7, dtype=F64), atol=0.02, rtol=0
    )
    gap = s.double()[:, None] - means                                   # (4000, 8, 12)
    mahalanobis = (gap @ torch.linalg.inv(sigma) * gap).sum(-1)
    same = torch.cdist(f, j.centroids.double()).argmin(1) == mahalanobis.argmin(1)
    assert same.double().mean() > 0.998  # a ridge of 1e-3 moves a few


def test_eq_5_42():
    """A Gaussian world and a linear f: the gradient in closed form; and at 1 / 2w = the variance of
    f(x0) given x_t it is the posterior mean.
    """
    mu = 0.3
    v = 0.8
    alpha = COSINE.alpha(torch.tensor(0.5))
    sigma = COSINE.sigma(torch.tensor(0.5))
    V = (alpha * v) ** 2 + sigma**2
    k = alpha * v**2 / V
    D = lambda x, t: mu + k * (x - alpha * mu)
    x = torch.randn(5, 3, generator=G(), dtype=F64)
    direction = torch.tensor([0.6, 0.8, 0.0], dtype=F64)
    target = torch.tensor([1.5], dtype=F64)
    f = lambda x0: (x0 @ direction)[:, None]
    variance = (v * sigma) ** 2 / V  # of x0 given x_t, along any unit vector
    w = (1 / (2 * variance)).item()
    pushed = editing.match_features(D, COSINE, f, target, w)(x, torch.tensor(0.5))
    x0_hat = D(x, 0.5)
    miss = f(x0_hat) - target
    torch.testing.assert_close(pushed, x0_hat - w * sigma**2 / alpha * 2 * miss * k * direction)
    torch.testing.assert_close(
        f(pushed), target.expand(5, 1), msg="f is then known exactly, and the posterior mean has it"
    )


def gaussian(mu, v):
    def D(x, t, **condition):
        alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
        return mu + alpha * v**2 / ((alpha * v) ** 2 + sigma**2) * (x - alpha * mu)
    return D


def pens(x, t, mu=None, v=None):
    return gaussian(mu, v)(x, t)


def test_eq_5_43():
    """There and back under the same condition is nothing; under another the old mean and deviation
    are exchanged for the new ones.
    """
    x = 0.5 + 0.3 * torch.randn(50, 2, generator=G(), dtype=F64)
    same = {"mu": torch.tensor(0.5), "v": torch.tensor(0.3)}
    torch.testing.assert_close(
        last(editing.ddim_edit(pens, COSINE, x, 2000, same, same)), x, atol=5e-3, rtol=0
    )
    other = {"mu": torch.tensor(-0.7), "v": torch.tensor(0.9)}
    torch.testing.assert_close(
        last(editing.ddim_edit(pens, COSINE, x, 2000, same, other)),
        -0.7 + 0.9 * (x - 0.5) / 0.3,
        atol=1e-2,
        rtol=0,
    )
