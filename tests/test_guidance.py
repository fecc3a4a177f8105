"""Guidance on a mixture whose classes are known: there every guided denoiser has an exact answer.
"""
import math
import re

import pytest
import torch

from course_lib import Denoiser, Schedule, UNet, cfg, ddim, last, timesteps
from course_lib.guidance import (
    autoguidance,
    classifier_guidance,
    compose_conditions,
    guidance_interval,
    threshold,
)
from course_lib.lab.data import GaussianMixture

F64 = torch.float64
MEANS = torch.tensor([[-1.0, 0.4], [0.8, 0.9], [0.3, -1.0]], dtype=F64)
STDS = torch.tensor([0.2, 0.4, 0.3], dtype=F64)
SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
MIX = GaussianMixture(MEANS, STDS, SHARES)
SCHEDULES = [Schedule.cosine(), Schedule.flow(), Schedule.edm(5.0, 3.0)]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
X = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
T = torch.linspace(0.05, 0.95, 50, dtype=F64)


def of_class(schedule):
    """The exact denoiser that takes a class y: 0, 1, 2, or 3 for none. y: a number, or one for each
    example.
    """
    alone = (
        [GaussianMixture(MEANS[k : k + 1], STDS[k : k + 1]).denoiser(schedule) for k in range(3)]
        + [MIX.denoiser(schedule)]
    )

    def D(x, t, y):
        return torch.stack([D_k(x, t) for D_k in alone])[
            torch.as_tensor(y).expand(len(x)), torch.arange(len(x))
        ]
    return D


def log_class(schedule):
    """log p(y | x_t), by Bayes' rule."""
    def log_prob(x, t, y):
        _, _, log_joint = MIX._components(x, schedule.alpha(t), schedule.sigma(t))
        return log_joint.log_softmax(1)[torch.arange(len(x)), torch.as_tensor(y).expand(len(x))]
    return log_prob


# ---- classifier-free guidance

@each_schedule
def test_cfg_is_the_score_of_a_sharpened_class(schedule):
    """x0_hat = (x + sigma^2 score) / alpha, and the guided score is that of q(x) p(y | x)^w: by
    autograd, for three w.
    """
    y = torch.arange(50) % 3
    for w in (0.0, 0.5, 3.0):
        x = X.clone().requires_grad_()
        log_density = (
            MIX.log_prob(x, schedule.alpha(T), schedule.sigma(T))
            + w * log_class(schedule)(x, T, y)
        )
        score = torch.autograd.grad(log_density.sum(), x)[0]
        wanted = (X + schedule.sigma(T)[:, None] ** 2 * score) / schedule.alpha(T)[:, None]
        torch.testing.assert_close(cfg(of_class(schedule), w, {"y": 3})(X, T, y=y), wanted)


def test_cfg_rescaled():
    """Lin et al. 2023: at phi = 1 each example has the spread of the conditional guess, between it
    is a straight line.
    """
    D = lambda x, t, y: (1 + y).view(-1, 1, 1, 1) * x + 1
    x = torch.randn(3, 1, 4, 4)
    y = torch.tensor([2, 4, 0])
    plain, half, full = (
        cfg(D, 3.0, {"y": torch.tensor([1, 1, 1])}, phi)(x, torch.tensor(0.5), y=y)
        for phi in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(plain[0], 1 + (2 + 3 * (3 - 2)) * x[0])
    torch.testing.assert_close(full.flatten(1).std(1), D(x, 0.5, y=y).flatten(1).std(1))
    torch.testing.assert_close(full[0], 3 / 5 * plain[0])
    torch.testing.assert_close(half, (plain + full) / 2)
    flat = cfg(lambda x, t, y: 0 * x + y, 2.0, {"y": 0.0}, 1.0)(x, torch.tensor(0.5), y=1.0)
    assert (flat == 2).all(), "a guess that is one colour has no spread"
    vanishing = cfg(lambda x, t, y: x if y else 2 * x + 1, 2.0, {"y": 0}, 1.0)(
        x, torch.tensor(0.5), y=1
    )
    torch.testing.assert_close(
        vanishing,
        -torch.ones_like(x),
        msg="where guidance leaves a flat guess, nothing gives it a contrast",
    )


def test_interval():
    w = guidance_interval(3.0, 0.2, 0.6)
    assert (
        w(torch.tensor([0.1, 0.2, 0.4, 0.6, 0.7], dtype=F64)).tolist() == [1, 3, 3, 3, 1]
        and w(0.5) == 3
    )
    assert (
        guidance_interval(2.1, 0.2, 0.6)(0.5).item() == 2.1
        and guidance_interval(2.1, 0.2, 0.6, outside=0.0)(0.9) == 0
    )
    calls = []

    def D(x, t, y):
        calls.append(float(t))
        return x + y
    guided = cfg(D, w, {"y": 0})
    assert (
        guided(torch.zeros(2), torch.tensor(0.4), y=1).tolist() == [3, 3]
        and guided(torch.zeros(2), torch.tensor(0.9), y=1).tolist() == [1, 1]
    )
    assert len(calls) == 3, "outside the interval one evaluation is enough"
    for low, high in ((0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="0 <= low < high <= 1"):
            guidance_interval(2.0, low, high)
    with pytest.raises(ValueError, match="got -1.0"):
        guidance_interval(-1.0, 0.1, 0.2)


def test_autoguidance():
    strong = lambda x, t, y: x + y
    weak = lambda x, t, y: x - 2 * y
    t = torch.tensor(0.5)
    for w, expected in ((0.0, -2.0), (1.0, 1.0), (2.0, 4.0)):
        assert autoguidance(strong, weak, w)(torch.zeros(2), t, y=1).tolist() == [expected] * 2
    torch.testing.assert_close(
        autoguidance(strong, lambda x, t, y: strong(x, t, 5), 2.5)(X, t, y=1),
        cfg(strong, 2.5, {"y": 5})(X, t, y=1),
    )
    assert autoguidance(strong, weak, lambda t: 1 + t)(torch.zeros(2), t, y=1).tolist() == [2.5] * 2


@pytest.mark.parametrize(
    "wrap, none",
    [
        (lambda D, w: cfg(D, w, {"y": 0}), 1),
        (lambda D, w: autoguidance(D, D, w), 1),
        (lambda D, w: classifier_guidance(D, Schedule.flow(), lambda x, t, y: x.sum(1), w), 0),
    ],
)
def test_bad_weights(wrap, none):
    D = lambda x, t, y: x + y
    for w in (-1.0, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=rf"finite number, 0 or more, where {none} is no guidance; got {w}"
        ):
            wrap(D, w)
        with pytest.raises(
            ValueError, match=rf"finite number, 0 or more, where {none} is no guidance; got {w}"
        ):
            wrap(D, lambda t: torch.tensor([1.0, w]))(torch.zeros(2, 3), torch.tensor(0.5), y=1)


def test_a_weight_is_a_number_or_one_for_each_image():
    D, x, t = lambda x, t, y: x + y, torch.zeros(2, 3), torch.tensor(0.5)
    guided = lambda w: cfg(D, torch.as_tensor(w), {"y": 0})(x, t, y=1)
    assert torch.equal(guided([2.0]), guided(2.0)) and torch.equal(guided([2.0, 2.0]), guided(2.0))
    assert torch.equal(guided([2.0, 3.0])[1], guided(3.0)[1])
    for w in ([2.0] * 3, [[2.0], [2.0]], [[2.0]]):
        with pytest.raises(ValueError, match=r"the guidance weight is one number, or \(2,\)"):
            guided(w)


def test_bad_nulls():
    D = lambda x, t, y=0, z=0: x + y
    with pytest.raises(ValueError, match="pass null, such as"):
        cfg(D, 2.0, {})
    for w in (1.0, 2.0):
        with pytest.raises(ValueError, match="null names y, but no y was passed"):
            cfg(D, w, {"y": 10})(X, T)
    with pytest.raises(ValueError, match="null names y, but"):
        cfg(D, 2.0, {"y": 10, "z": 1})(X, T, z=2)
    for phi in (-0.1, 1.1):
        with pytest.raises(ValueError, match="rescale must be a number from 0 to 1"):
            cfg(D, 2.0, {"y": 10}, phi)


def test_a_network_without_that_null_label():
    """The number after the last is none; one more does not exist, and a network without labels has
    none either.
    """
    x = torch.randn(2, 1, 8, 8)
    t = torch.tensor(0.5)
    y = torch.tensor([0, 1])
    D = Denoiser(UNet(1, widths=(8,), num_classes=10), Schedule.cosine())
    assert cfg(D, 2.0, {"y": 10})(x, t, y=y).shape == x.shape
    with pytest.raises(
        ValueError, match="labels are integers from 0 to 9, and 10 for none; got 11 to 11"
    ):
        cfg(D, 2.0, {"y": 11})(x, t, y=y)
    with pytest.raises(ValueError, match="built without labels"):
        cfg(Denoiser(UNet(1, widths=(8,)), Schedule.cosine()), 2.0, {"y": 10})(x, t, y=y)


# ---- guidance by a classifier

@each_schedule
def test_classifier_guidance_is_bayes_rule(schedule):
    """w = 1: exactly the denoiser of the class.

    Other w: the same as classifier-free guidance, of which it is the other half.
    """
    y, plain = torch.arange(50) % 3, lambda x, t, y: MIX.denoiser(schedule)(x, t)
    torch.testing.assert_close(
        classifier_guidance(plain, schedule, log_class(schedule))(X, T, y=y),
        of_class(schedule)(X, T, y),
    )
    for w in (0.0, 2.5, lambda t: 1 + t):
        guided = classifier_guidance(plain, schedule, log_class(schedule), w)(X, T, y=y)
        torch.testing.assert_close(guided, cfg(of_class(schedule), w, {"y": 3})(X, T, y=y))


def test_classifier_guidance_inside_a_sampler():
    """Samplers run without gradients; this one ends where the sampler of the class ends, and keeps
    no graph.
    """
    schedule = Schedule.cosine()
    plain, ts = lambda x, t, y: MIX.denoiser(schedule)(x, t), timesteps(schedule, 12)
    x = last(ddim(classifier_guidance(plain, schedule, log_class(schedule)), schedule, X, ts, y=1))
    assert not x.requires_grad
    torch.testing.assert_close(
        x, last(ddim(of_class(schedule), schedule, X, ts, y=1)), rtol=1e-6, atol=1e-6
    )


def test_a_classifier_in_an_interval():
    """Outside it the guess is D's own, and the classifier is not even asked; so t = 1, where
    alpha = 0, is no trouble there.
    """
    schedule = Schedule.flow()
    D = lambda x, t: 0 * x
    asked = []

    def log_prob(x, t):
        asked.append(float(t))
        return x.sum(1)
    guided = classifier_guidance(
        D, schedule, log_prob, guidance_interval(3.0, 0.2, 0.4, outside=0.0)
    )
    assert (
        (guided(X, torch.tensor(0.5)) == 0).all()
        and (guided(X, torch.tensor(1.0)) == 0).all()
        and not asked
    )
    torch.testing.assert_close(guided(X, torch.tensor(0.3)), torch.full_like(X, 3 * 0.3**2 / 0.7))


def test_bad_classifiers():
    schedule, D = Schedule.flow(), lambda x, t: x
    guided = lambda log_prob: classifier_guidance(D, schedule, log_prob)
    with pytest.raises(
        ValueError, match=re.escape("alpha is 0 at t = 1 of Schedule.flow(): start below")
    ):
        guided(lambda x, t: x.sum(1))(X, torch.tensor(1.0))
    with pytest.raises(
        ValueError,
        match=re.escape("one number for each example is needed, of shape (50,); got (50, 2)"),
    ):
        guided(lambda x, t: x)(X, T)
    with pytest.raises(ValueError, match="no gradient with respect to x"):
        guided(lambda x, t: x.detach().sum(1))(X, T)
    with pytest.raises(ValueError, match="no gradient with respect to x"):
        # a network always has gradients, of its weights
        guided(lambda x, t: torch.nn.Linear(2, 1).double()(x.detach())[:, 0])(X, T)


# ---- several conditions at once

@each_schedule
def test_compose(schedule):
    D = of_class(schedule)
    torch.testing.assert_close(
        compose_conditions(D, [{"y": 1}], {"y": 3}, [2.5])(X, T), cfg(D, 2.5, {"y": 3})(X, T, y=1)
    )
    both = compose_conditions(D, [{"y": 0}, {"y": 2}], {"y": 3}, [1.5, -0.5])(X, T)
    torch.testing.assert_close(
        both, D(X, T, 3) + 1.5 * (D(X, T, 0) - D(X, T, 3)) - 0.5 * (D(X, T, 2) - D(X, T, 3))
    )


def test_compose_is_and_for_independent_conditions():
    """Data on four corners, y names the column, z the row.

    Column and row together, never seen by D, are the exact corner.
    """
    schedule, corners = Schedule.cosine(), torch.tensor([[-1.0, -1.0], [-1, 1], [1, -1], [1, 1]])
    seen = {
        (None, None): corners,
        (0, None): corners[:2],
        (1, None): corners[2:],
        (None, 0): corners[::2],
        (None, 1): corners[1::2],
    }
    D = lambda x, t, y, z: GaussianMixture(seen[y, z], 0.3).denoiser(schedule)(x, t)
    made = compose_conditions(
        D, [{"y": 1, "z": None}, {"y": None, "z": 0}], {"y": None, "z": None}, [1.0, 1.0]
    )(X, T)
    torch.testing.assert_close(made, GaussianMixture(corners[2:3], 0.3).denoiser(schedule)(X, T))


def test_bad_compositions():
    D = lambda x, t, y: x + y
    for conditions, weights in (([], []), ([{"y": 1}], [1.0, 2.0])):
        with pytest.raises(ValueError, match="as many weights as conditions"):
            compose_conditions(D, conditions, {"y": 0}, weights)
    with pytest.raises(ValueError, match="weights must be finite"):
        compose_conditions(D, [{"y": 1}], {"y": 0}, [math.nan])
    for conditions, null in (([{"y": 1}], {}), ([{"y": 1}, {"z": 1}], {"y": 0})):
        with pytest.raises(ValueError, match="name the same things"):
            compose_conditions(D, conditions, null, [1.0] * len(conditions))
    with pytest.raises(ValueError, match="compose_conditions has its own y"):
        compose_conditions(D, [{"y": 1}], {"y": 0}, [1.0])(X, T, y=5)


# ---- the data's range

def test_threshold():
    """By hand: 100 guesses from 0.03 to 3, their 0.9 quantile 2.703, for two ranges; guesses inside
    the range stay as they are.
    """
    x0_hat, t = torch.linspace(0.03, 3, 100).view(1, 1, 10, 10), torch.tensor(0.5)
    s = x0_hat.quantile(0.9)
    for least in (1.0, 0.5):
        torch.testing.assert_close(
            threshold(lambda x, t: x, 0.9, least)(x0_hat, t), least * x0_hat.clamp(max=s) / s
        )
    torch.testing.assert_close(threshold(lambda x, t: x, 0.9, 4.0)(x0_hat, t), x0_hat)
    for share, least in ((99.5, 1.0), (0.0, 1.0), (0.9, 0.0), (0.9, math.inf)):
        with pytest.raises(ValueError, match="must be a number above 0"):
            threshold(lambda x, t: x, share, least)


def test_weights_and_times_are_not_rounded():
    """A scale, weights and a grid given as Python's numbers count in float64."""
    schedule = Schedule.cosine()
    x = torch.randn(5, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    zero, one = lambda x, t, **c: 0 * x, lambda x, t, **c: torch.ones_like(x)
    assert (autoguidance(one, zero, 3.3)(x, 0.5) == 3.3).all()
    D = lambda x, t, y: torch.ones_like(x) * y
    mixed = compose_conditions(D, [{"y": 1.0}], {"y": 0.0}, [0.1])
    assert (mixed(x, 0.5) == 0.1).all()
    ts = [0.9, 0.6, 0.3]
    exact = last(ddim(zero, schedule, x, torch.tensor(ts, dtype=F64)))
    assert torch.equal(last(ddim(zero, schedule, x, ts)), exact)


def test_schedules_are_compared_by_what_they_compute():
    """The same one made another way is D's own; another one of no name is not."""
    cosine = Schedule.cosine()

    def exact(x, t):
        return 0 * x
    exact.schedule = cosine
    x, ts = torch.randn(3, 2), timesteps(cosine, 3, start=0.9)
    same, other = Schedule.from_betas(cosine.betas), Schedule.from_betas(cosine.betas / 2)
    log_prob = lambda x, t: -x.square().sum(1)
    last(ddim(exact, same, x, ts))
    classifier_guidance(exact, same, log_prob)
    weak = lambda x, t: 0 * x
    weak.schedule = same
    autoguidance(exact, weak, 2.0)
    weak.schedule = other
    for refused in (
        lambda: ddim(exact, other, x, ts),
        lambda: classifier_guidance(exact, other, log_prob),
        lambda: autoguidance(exact, weak, 2.0),
    ):
        with pytest.raises(ValueError, match="D has the schedule .*: pass D.schedule"):
            refused()
