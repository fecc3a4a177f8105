"""UniPC beside diffusers' UniPCMultistepScheduler, in float64, and the orders of its variants
measured.
"""
import math
from functools import cache

import pytest
import torch

from course_lib import Schedule, dpmpp, last, timesteps, unipc
from course_lib.lab.data import GaussianMixture

F64 = torch.float64
MIXTURE = GaussianMixture([[-1.0, 0.2], [0.8, 0.5], [0.1, -0.9]], 0.35, [0.5, 0.3, 0.2])
SCHEDULES = [Schedule.linear(), Schedule.cosine(), Schedule.scaled_linear(), Schedule.flow()]
X = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def even(schedule, n, high=0.9, low=0.15):
    """n + 1 times, even in log-SNR, that end above t = 0."""
    ends = schedule.log_snr(torch.tensor([high, low], dtype=F64))
    return schedule.t_from_log_snr(torch.linspace(ends[0], ends[1], n + 1, dtype=F64))


def theirs(schedule, ts, **config):
    """diffusers' states on our grid: after each step the corrected one (`last_sample`) and the
    predicted one.
    """
    diffusers = pytest.importorskip("diffusers")
    flow = repr(schedule) == "Schedule.flow()"
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="sample", use_flow_sigmas=flow, **config
    )
    scheduler.set_timesteps(len(ts) - 1)
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    scheduler.sigmas = sigma if flow else sigma / alpha                     # float64, on our grid
    scheduler.set_begin_index(0)
    D, x = MIXTURE.denoiser(schedule), schedule.sigma(ts[0]) * X
    corrected = []
    for i, t in zip(scheduler.timesteps, ts):
        x = scheduler.step(D(x, t), i, x).prev_sample
        corrected.append(scheduler.last_sample)
    return corrected, x


def ours(schedule, ts, **options):
    return list(
        unipc(MIXTURE.denoiser(schedule), schedule, schedule.sigma(ts[0]) * X, ts, **options)
    )


def gap(a, b):
    return (torch.stack(a) - torch.stack(b)).abs().max().item()


@each_schedule
@pytest.mark.parametrize("solver_type", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_setting_of_diffusers(schedule, order, solver_type):
    """The same states, to 1e-10, on grids to 0 and to above 0; there diffusers leaves the last
    state as predicted.

    With bh1, version 0.42 of diffusers computes infinity times 0 in its step to 0; ours is DDIM's,
    as with bh2.
    """
    options = {"solver_type": solver_type}
    for n in (1, 2, 3, 4, 12):
        ts = torch.cat([even(schedule, n)[:-1], torch.zeros(1, dtype=F64)])
        (*states, last_state), (corrected, end) = (
            ours(schedule, ts, order=order, **options),
            theirs(schedule, ts, solver_order=order, **options),
        )
        assert gap(states, corrected) < 1e-10 and last_state.isfinite().all()
        assert solver_type == "bh1" and end.isnan().all() or (last_state - end).abs().max() < 1e-10
    ts = even(schedule, 9)
    corrected, end = theirs(schedule, ts, solver_order=order, lower_order_final=False, **options)
    states = ours(schedule, ts, order=order, **options)
    assert gap(states[:-1], corrected) < 1e-10 and (states[-1] - end).abs().max() > 1e-6


@pytest.mark.parametrize("order", [2, 3])
def test_stock_diffusers(order):
    """As it comes, with its float32 tables, on Stable Diffusion's schedule."""
    diffusers = pytest.importorskip("diffusers")
    schedule = Schedule.scaled_linear()
    scheduler = diffusers.UniPCMultistepScheduler(
        1000,
        0.00085,
        0.012,
        "scaled_linear",
        solver_order=order,
        prediction_type="sample",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(20)
    D = MIXTURE.denoiser(schedule)
    ts = timesteps(schedule, 20)
    x = X
    assert ((scheduler.timesteps + 1) / 1000).tolist() == pytest.approx(ts[:-1].tolist())
    for i, t in zip(scheduler.timesteps, ts):
        x = scheduler.step(D(x, t), i, x).prev_sample
    ours_last = last(unipc(D, schedule, X, ts, order=order, solver_type="bh2"))
    torch.testing.assert_close(ours_last, x, rtol=0, atol=1e-5)


@each_schedule
def test_where_the_default_differs_from_diffusers(schedule):
    """The first correction alone: ours integrates the line through two points exactly; every later
    step is the same map.
    """
    ts = torch.cat([even(schedule, 9), torch.zeros(1, dtype=F64)])
    corrected, end = theirs(schedule, ts)  # their default is order 2, bh2
    states, bh2 = ours(schedule, ts), ours(schedule, ts, order=2, solver_type="bh2")
    assert gap(bh2, [*corrected, end]) < 1e-10
    h = (schedule.log_snr(ts[1]) - schedule.log_snr(ts[0])) / 2
    D, rest = MIXTURE.denoiser(schedule), ts[:2]
    x_pred = last(dpmpp(D, schedule, states[0], rest))                      # one point: DDIM
    change = D(x_pred, rest[1]) - D(states[0], rest[0])
    exact_minus_half = (1 + torch.expm1(-h) / h) + torch.expm1(-h) / 2      # I_1 / h - B(h) / 2
    torch.testing.assert_close(
        states[1] - bh2[1], schedule.alpha(ts[1]) * exact_minus_half * change, rtol=1e-8, atol=1e-12
    )
    assert (states[1] - bh2[1]).abs().max() > 1e-5


@each_schedule
def test_the_predictor_of_order_2_is_dpmpp(schedule):
    """The states at which D is evaluated: the third is the step of DPM-Solver++(2M) from the
    corrected second.
    """
    asked, ts = [], even(schedule, 2)
    D = lambda x, t: asked.append((x, MIXTURE.denoiser(schedule)(x, t))) or asked[-1][1]
    states = list(unipc(D, schedule, schedule.sigma(ts[0]) * X, ts))
    alpha = schedule.alpha(ts)
    sigma = schedule.sigma(ts)
    lam = schedule.log_snr(ts) / 2
    h, h_previous = lam[2] - lam[1], lam[1] - lam[0]
    x0_line = asked[1][1] + h / (2 * h_previous) * (asked[1][1] - asked[0][1])
    torch.testing.assert_close(
        asked[2][0],
        sigma[2] / sigma[1] * states[1] - alpha[2] * torch.expm1(-h) * x0_line,
        rtol=1e-10,
        atol=1e-10,
    )


@cache
def nearly_exact(schedule):
    """The end of the path from t = 0.9 to 0.15, by 500 steps of order 4."""
    x = schedule.sigma(even(schedule, 1)[0]) * X
    return last(unipc(MIXTURE.denoiser(schedule), schedule, x, even(schedule, 500), order=3))


@pytest.mark.parametrize("schedule", [SCHEDULES[1], SCHEDULES[3]], ids=repr)
@pytest.mark.parametrize("solver_type", [None, "bh1", "bh2"])
def test_orders(schedule, solver_type):
    """UniPC-p converges with order p + 1; with p = 3 at least with 3, the order of its first step,
    which has one point.
    """
    D, x = MIXTURE.denoiser(schedule), schedule.sigma(even(schedule, 1)[0]) * X
    exact = nearly_exact(schedule)
    for order, least in ((1, 2), (2, 3), (3, 3)):
        errors = [
            (
                last(unipc(D, schedule, x, even(schedule, n), order=order, solver_type=solver_type))
                - exact
            )
            .abs()
            .max()
            .item()
            for n in (40, 80, 160)
        ]
        orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
        assert all(measured > least - 0.2 for measured in orders), (order, errors, orders)
        assert order == 3 or all(measured < least + 0.5 for measured in orders), (
            order,
            errors,
            orders,
        )


def test_one_evaluation_a_step_and_any_start():
    """Also from alpha = 0, on grids as short as one step, at every order."""
    for schedule in (Schedule.flow(), Schedule.zero_terminal_snr(), Schedule.cosine()):
        for order in (1, 2, 3):
            for n in (1, 2, 5):
                calls = []
                D = lambda x, t: calls.append(t) or MIXTURE.denoiser(schedule)(x, t)
                end = last(unipc(D, schedule, X, timesteps(schedule, n), order=order))
                assert end.isfinite().all() and len(calls) == n


def test_bad_options():
    schedule = Schedule.cosine()
    for options, words in (
        ({"order": 4}, "order must be a whole number from 1 to 3; got 4"),
        ({"order": "2"}, "order must be a whole number"),
        ({"solver_type": "bh3"}, "solver_type must be one of None, bh1, bh2; got 'bh3'"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            next(unipc(MIXTURE.denoiser(schedule), schedule, X, timesteps(schedule, 3), **options))
