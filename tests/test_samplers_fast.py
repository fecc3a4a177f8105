"""Heun, EDM's churn, DPM-Solver++(2M), UniPC, inversion: orders measured, each paper's algorithm
written out, diffusers beside them.
"""
import inspect
import math

import pytest
import torch
from test_samplers import MEAN, SCHEDULES, STD, flow_map, gaussian_denoiser

from course_lib import (
    Denoiser,
    Schedule,
    ancestral,
    consistency_sampling,
    ddim,
    ddim_invert,
    dpmpp,
    heun,
    last,
    slerp,
    threshold,
    timesteps,
    unipc,
)
from course_lib.lab.data import GaussianMixture
from course_lib.lab.training import from_diffusers

F64 = torch.float64
MIXTURE = GaussianMixture([[-1.0, 0.2], [0.8, 0.5], [0.1, -0.9]], 0.35, [0.5, 0.3, 0.2])


def even(schedule, n, high=0.9, low=0.15):
    """n + 1 times, even in log-SNR, that end above t = 0, where no step is of lower order."""
    ends = schedule.log_snr(torch.tensor([high, low], dtype=F64))
    return schedule.t_from_log_snr(torch.linspace(ends[0], ends[1], n + 1, dtype=F64))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_order_of_convergence(schedule):
    """On a mixture with its exact denoiser: twice the steps divide the error by 2^order, to 0.2 in
    the exponent. Reference: 500 steps of UniPC-3, of order 4.
    """
    D = MIXTURE.denoiser(schedule)
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = x * schedule.sigma(even(schedule, 1)[0])
    exact = last(unipc(D, schedule, x, even(schedule, 500), order=3))
    for sampler, order in ((ddim, 1), (heun, 2), (dpmpp, 2), (unipc, 3)):
        errors = [
            (last(sampler(D, schedule, x, even(schedule, n))) - exact).abs().max().item()
            for n in (40, 80, 160)
        ]
        orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
        assert all(abs(measured - order) < 0.2 for measured in orders), (sampler, errors, orders)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("sampler", [heun, dpmpp, unipc])
def test_the_exact_answer_on_gaussian_data(schedule, sampler):
    x, ts = torch.tensor([[-1.2], [0.1], [2.0]], dtype=F64), even(schedule, 160)
    torch.testing.assert_close(
        last(sampler(gaussian_denoiser(schedule), schedule, x, ts)),
        flow_map(schedule, x, ts[0], ts[-1]),
        rtol=0,
        atol=1e-3,
    )


# ---- each paper's algorithm, written out in float64

def test_heun_is_algorithm_1_and_2():
    """Karras et al. 2022: x and sigma as in the paper, with and without churn, the same noise; the
    step to 0 is Euler's.
    """
    schedule, g = Schedule.edm(), torch.Generator().manual_seed(0)
    D, ts = MIXTURE.denoiser(schedule), timesteps(Schedule.edm(), 12, "karras")
    sigmas = schedule.sigma(ts)
    x = start = 80 * torch.randn(8, 2, generator=g, dtype=F64)
    for churn, low, high, s_noise in (
        (0.0, 0.0, math.inf, 1.0),
        (2.0, 0.05, 50.0, 1.003),       # gamma = 2 / 12
        (5.0, 0.05, 50.0, 1.003),       # gamma = sqrt(2) - 1, the largest
    ):
        x, noise = start, torch.Generator().manual_seed(1)
        for sigma, following in zip(sigmas[:-1], sigmas[1:]):
            gamma = min(churn / 12, 2**0.5 - 1) if low <= sigma <= high else 0.0
            lifted = sigma * (1 + gamma)
            if gamma:
                x = x + (lifted**2 - sigma**2).sqrt() * s_noise * torch.randn(
                    x.shape, generator=noise, dtype=F64
                )
            d = (x - MIXTURE.posterior_mean(x, 1.0, lifted)) / lifted
            ahead = x + (following - lifted) * d
            if following > 0:
                d_ahead = (ahead - MIXTURE.posterior_mean(ahead, 1.0, following)) / following
                ahead = x + (following - lifted) * (d + d_ahead) / 2
            x = ahead
        ours = last(
            heun(
                D,
                schedule,
                start,
                ts,
                s_churn=churn,
                s_range=(low, high),
                s_noise=s_noise,
                generator=torch.Generator().manual_seed(1),
            )
        )
        torch.testing.assert_close(ours, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "schedule", [Schedule.linear(), Schedule.cosine(), Schedule.edm()], ids=repr
)
def test_dpmpp_is_algorithm_2(schedule):
    """Lu et al. 2022, DPM-Solver++(2M), line by line."""
    D, ts = MIXTURE.denoiser(schedule), timesteps(schedule, 10, "log_snr")
    start = schedule.sample_prior((8, 2), generator=torch.Generator().manual_seed(0)).double()
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    lam = alpha.log() - sigma.log()
    x = start
    Q = []
    for i in range(1, 11):
        h = lam[i] - lam[i - 1]
        Q.append(D(x, ts[i - 1]))
        if i == 1 or i == 10:
            guess = Q[-1]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            guess = (1 + 1 / (2 * r)) * Q[-1] - 1 / (2 * r) * Q[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * torch.expm1(-h) * guess
    torch.testing.assert_close(last(dpmpp(D, schedule, start, ts)), x, rtol=1e-8, atol=1e-8)


def test_unipc_corrects_by_the_parabola_through_both_sides():
    """One corrected step in the middle, its integral by quadrature of the parabola through three
    guesses.
    """
    schedule = Schedule.cosine()
    D, ts = MIXTURE.denoiser(schedule), even(schedule, 6)
    states = list(
        unipc(
            D,
            schedule,
            torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64),
            ts,
        )
    )
    lam = schedule.log_snr(ts) / 2
    ahead = []
    seen = lambda x, t: ahead.append((x, D(x, t))) or ahead[-1][1]
    list(unipc(seen, schedule, states[0], ts))
    guesses = [guess for _, guess in ahead]  # at ts[0], then at each predicted state
    nodes, k = [lam[1], lam[2], lam[3]], 2
    u = torch.linspace(lam[k], lam[k + 1], 20_001, dtype=F64)
    parabola = sum(
        guesses[i + 1][..., None]
        * math.prod(
            ((u - nodes[j]) / (nodes[i] - nodes[j]) for j in range(3) if j != i),
            start=torch.ones_like(u),
        )
        for i in range(3)
    )
    integral = torch.trapezoid((u - lam[k + 1]).exp() * parabola, u)
    alpha, sigma = schedule.alpha(ts), schedule.sigma(ts)
    torch.testing.assert_close(
        states[k + 1],
        sigma[k + 1] / sigma[k] * states[k] + alpha[k + 1] * integral,
        rtol=1e-7,
        atol=1e-8,
    )


# ---- diffusers, as it comes (its tables are float32)

T, LINEAR = 640, Schedule.linear(640)


def test_dpmpp_beside_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        T, trained_betas=LINEAR.betas.numpy(), timestep_spacing="trailing"
    )
    theirs.set_timesteps(16)
    D, ts = MIXTURE.denoiser(LINEAR), timesteps(LINEAR, 16)
    x = y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for i, t in zip(theirs.timesteps, ts):
        assert i + 1 == round(t.item() * T)
        y = theirs.step((y - LINEAR.alpha(t) * D(y, t)) / LINEAR.sigma(t), i, y).prev_sample
    torch.testing.assert_close(last(dpmpp(D, LINEAR, x, ts)), y, rtol=0, atol=1e-4)


def test_heun_and_euler_beside_diffusers():
    """Their x is ours divided by alpha."""
    diffusers = pytest.importorskip("diffusers")
    D, ts = MIXTURE.denoiser(LINEAR), timesteps(LINEAR, 16)
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for scheduler, sampler in (
        (diffusers.HeunDiscreteScheduler, heun),
        (diffusers.EulerDiscreteScheduler, ddim),
    ):
        theirs = scheduler(T, trained_betas=LINEAR.betas.numpy(), timestep_spacing="trailing")
        theirs.set_timesteps(16)
        y = x / LINEAR.alpha(ts[0])
        for i in theirs.timesteps:
            t = (i.double() + 1) / T
            here = theirs.scale_model_input(y, i)
            y = theirs.step(
                (here - LINEAR.alpha(t) * D(here, t)) / LINEAR.sigma(t), i, y
            ).prev_sample
        torch.testing.assert_close(last(sampler(D, LINEAR, x, ts)), y.double(), rtol=0, atol=1e-4)


def test_karras_grid_and_euler_beside_diffusers_edm():
    diffusers = pytest.importorskip("diffusers")
    schedule, theirs = Schedule.edm(), diffusers.EDMEulerScheduler()
    theirs.set_timesteps(14)
    ts = timesteps(schedule, 14, "karras")
    torch.testing.assert_close(schedule.sigma(ts), theirs.sigmas.double(), rtol=1e-5, atol=1e-7)
    x = y = 80 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    for i, t in zip(theirs.timesteps, ts):
        theirs.scale_model_input(y, i)                                  # it insists
        y = theirs.step(
            y, i, y, pred_original_sample=MIXTURE.posterior_mean(y, 1.0, schedule.sigma(t))
        ).prev_sample
    torch.testing.assert_close(
        last(ddim(MIXTURE.denoiser(schedule), schedule, x, ts)), y.double(), rtol=0, atol=1e-4
    )


# ---- distributions, shapes, grids

@pytest.mark.parametrize("schedule", [Schedule.cosine(), Schedule.edm(5.0, 3.0)], ids=repr)
def test_churn_ends_in_the_data_and_wrong_noise_does_not(schedule):
    """20,000 draws of one Gaussian: the spread is right to 3 %; noise that is 10 % too large is
    seen.
    """
    g, ts = torch.Generator().manual_seed(0), timesteps(schedule, 150, "karras")
    width = (schedule.alpha(ts[0]) ** 2 * STD**2 + schedule.sigma(ts[0]) ** 2).sqrt()
    start = schedule.alpha(ts[0]) * MEAN + width * torch.randn(20_000, generator=g, dtype=F64)
    ends = {
        s: last(
            heun(
                gaussian_denoiser(schedule),
                schedule,
                start,
                ts,
                s_churn=40.0,
                s_noise=s,
                generator=g,
            )
        )
        for s in (1.0, 1.1)
    }
    assert (
        ends[1.0].mean() == pytest.approx(MEAN, abs=0.01)
        and ends[1.0].std() == pytest.approx(STD, rel=0.03)
    )
    assert ends[1.1].std() > 1.05 * STD


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 3), (2, 1, 16), (1, 3, 4, 4)])
def test_any_shape_and_deterministic(shape):
    schedule = Schedule.cosine()
    x, D = torch.randn(shape), gaussian_denoiser(schedule)
    for sampler in (ddim, ancestral, heun, dpmpp, unipc):
        more = {"generator": torch.Generator().manual_seed(0)} if sampler is ancestral else {}
        again = {"generator": torch.Generator().manual_seed(0)} if sampler is ancestral else {}
        states = list(sampler(D, schedule, x, timesteps(schedule, 4, start=0.9), **more))
        assert (
            len(states) == 5
            and all(s.shape == shape and s.dtype == torch.float32 for s in states)
            and torch.equal(states[0], x)
        )
        assert torch.equal(
            states[-1], last(sampler(D, schedule, x, timesteps(schedule, 4, start=0.9), **again))
        )


@pytest.mark.parametrize(
    "schedule",
    [Schedule.flow(), Schedule.zero_terminal_snr(), Schedule.cosine(), Schedule.edm()],
    ids=repr,
)
def test_multistep_samplers_start_from_pure_noise(schedule):
    """Also where alpha = 0 at the start: nothing is infinite, and the end is near the data."""
    D = MIXTURE.denoiser(schedule)
    x = schedule.sample_prior((500, 2), generator=torch.Generator().manual_seed(0)).double()
    for sampler in (dpmpp, unipc):
        end = last(sampler(D, schedule, x, timesteps(schedule, 20)))
        assert (
            end.isfinite().all()
            and MIXTURE.log_prob(end).mean() > MIXTURE.log_prob(MIXTURE.sample(5000)).mean() - 0.3
        )


def test_evaluations():
    """What a step costs: one evaluation, but two for heun, and one in its step to 0."""
    schedule, calls = Schedule.cosine(), []
    D = lambda x, t: calls.append(t) or gaussian_denoiser(schedule)(x, t)
    for sampler, cost in ((ddim, 6), (dpmpp, 6), (heun, 11)):
        calls.clear()
        last(sampler(D, schedule, torch.zeros(1), timesteps(schedule, 6, start=0.9)))
        assert len(calls) == cost
    calls.clear()
    last(unipc(D, schedule, torch.zeros(1), timesteps(schedule, 6, start=0.9)))
    assert len(calls) == 6, "the corrector's evaluation is the next step's"


def test_grids():
    assert timesteps(Schedule.flow(), 4, "quadratic").tolist() == [1, 0.5625, 0.25, 0.0625, 0]
    for schedule in (Schedule.cosine(), Schedule.flow(), Schedule.edm(), Schedule.linear()):
        ts = timesteps(schedule, 9, "karras")
        r = schedule.sigma(ts[:-1]) / schedule.alpha(ts[:-1])
        assert (
            (ts.diff() < 0).all()
            and ts[-1] == 0
            and (r[0].item(), r[-1].item()) == (pytest.approx(80), pytest.approx(0.002))
        )
        gaps = (r ** (1 / 7)).diff()
        torch.testing.assert_close(gaps, gaps[:1].expand(8), rtol=1e-8, atol=0)


def test_inversion_finds_the_noise_again():
    """ddim_invert, then ddim: back to the data, with an error that halves with the steps; a rising
    grid is for ddim_invert alone.
    """
    schedule, errors = Schedule.cosine(), []
    D, x0 = MIXTURE.denoiser(schedule), MIXTURE.sample(50).double()
    for n in (50, 100, 200):
        noise = last(ddim_invert(D, schedule, x0, timesteps(schedule, n, start=0.95).flip(0)))
        errors.append(
            (last(ddim(D, schedule, noise, timesteps(schedule, n, start=0.95))) - x0).abs().mean()
        )
    assert errors[-1] < 0.03 and all(1.6 < a / b < 2.4 for a, b in zip(errors, errors[1:])), errors
    for sampler in (heun, dpmpp, unipc):
        with pytest.raises(ValueError, match="strictly falling"):
            next(sampler(D, schedule, x0, timesteps(schedule, 5).flip(0)))
    with pytest.raises(ValueError, match="rising"):
        next(ddim_invert(D, schedule, x0, timesteps(schedule, 5)))


def test_heun_says_where_it_cannot_start():
    with pytest.raises(ValueError, match="alpha, which is 0 at t = 1 of Schedule.flow.*karras"):
        next(
            heun(
                gaussian_denoiser(Schedule.flow()),
                Schedule.flow(),
                torch.zeros(2),
                timesteps(Schedule.flow(), 3),
            )
        )


def test_slerp():
    a, b = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0), dtype=F64)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    middle = slerp(unit(a), unit(b), 0.3)
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(3, dtype=F64))
    angle = lambda x, y: (x * y).sum(1).acos()
    torch.testing.assert_close(angle(middle, unit(a)), 0.3 * angle(unit(a), unit(b)))
    assert slerp(a, a, 0.5).isfinite().all()


def test_dynamic_threshold():
    guess = torch.cat([torch.linspace(-4, 4, 1001)[None], 0.5 * torch.linspace(-1, 1, 1001)[None]])
    out = threshold(lambda x, t: guess, 0.9)(torch.zeros(2, 1001), 0.5)
    assert out.abs().max() == 1 and torch.equal(out[1], guess[1]), (
        "guesses inside the range are left alone"
    )
    torch.testing.assert_close(out[0], (guess[0] / 3.6).clamp(-1, 1), rtol=1e-3, atol=1e-3)


# ---- what every sampler takes

SAMPLERS = [ancestral, consistency_sampling, ddim, ddim_invert, dpmpp, heun, unipc]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def grid_for(sampler, schedule, n=4):
    ts = timesteps(schedule, n, start=0.9)
    return ts.flip(0) if sampler is ddim_invert else ts


@each_sampler
def test_options_are_keyword_only(sampler):
    parameters = inspect.signature(sampler).parameters
    assert list(parameters)[:4] == ["D", "schedule", "x", "ts"] and "generator" in parameters
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in list(parameters.values())[4:])
    schedule = Schedule.cosine()
    with pytest.raises(TypeError, match="positional argument"):
        next(
            sampler(
                gaussian_denoiser(schedule),
                schedule,
                torch.zeros(2),
                grid_for(sampler, schedule),
                0.5,
            )
        )


@each_sampler
def test_every_sampler_takes_a_generator(sampler):
    """It never reaches D. The seed decides; deterministic samplers ignore it and draw nothing from
    it.
    """
    schedule, x = Schedule.cosine(), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    D, ts = gaussian_denoiser(schedule), grid_for(sampler, schedule)  # D(x, t) takes no keyword
    g = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    before = g[0].get_state()
    one, again, other = (last(sampler(D, schedule, x, ts, generator=each)) for each in g)
    draws = sampler in (ancestral, consistency_sampling)
    assert torch.equal(one, again) and torch.equal(one, other) != draws
    assert torch.equal(g[0].get_state(), before) != draws


@each_sampler
def test_an_unknown_condition_or_option_is_refused(sampler):
    """What a sampler does not know goes to D, and a D that does not know it says so."""
    schedule, x = Schedule.cosine(), torch.zeros(3, 2)
    for unknown in ("y", "stpes", "churn"):
        with pytest.raises(
            TypeError,
            match=f"exact denoiser of a mixture takes no condition; got {unknown}: leave it out",
        ):
            last(
                sampler(
                    MIXTURE.denoiser(schedule),
                    schedule,
                    x,
                    grid_for(sampler, schedule),
                    **{unknown: 1},
                )
            )


@each_sampler
@pytest.mark.parametrize(
    "whole", [torch.arange(999, -1, -1), list(range(9, -1, -1)), torch.tensor([1.2, 0.5])]
)
def test_whole_steps_are_not_times(sampler, whole):
    schedule = Schedule.cosine()
    if sampler is ddim_invert:
        whole = torch.as_tensor(whole).flip(0)
    top = {999: "999", 9: "9"}.get(float(torch.as_tensor(whole).max()), "1.2")
    with pytest.raises(
        ValueError,
        match=(
            rf"ts must lie in \[0, 1\]; got {top}: a grid of whole steps i "
            rf"must say \(i \+ 1\) / T"
        ),
    ):
        next(sampler(gaussian_denoiser(schedule), schedule, torch.zeros(2), whole))


def test_bad_variance():
    schedule = Schedule.cosine()
    with pytest.raises(ValueError, match="variance must be one of posterior, beta; got True"):
        next(
            ancestral(
                gaussian_denoiser(schedule),
                schedule,
                torch.zeros(2),
                timesteps(schedule, 3),
                variance=True,
            )
        )


# ---- networks of diffusers

@pytest.mark.parametrize(
    "prediction, target", [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")]
)
def test_a_network_of_diffusers_is_a_denoiser(prediction, target):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    )
    scheduler = diffusers.DDIMScheduler(
        T,
        trained_betas=LINEAR.betas.numpy(),
        prediction_type=prediction,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(8)
    D = from_diffusers(model, scheduler)
    x = torch.randn(2, 1, 8, 8)
    y = torch.tensor([0, 2])
    z = x
    with torch.no_grad():
        for i in scheduler.timesteps:
            z = scheduler.step(model(z, i, class_labels=y).sample, i, z).prev_sample
    assert isinstance(D, Denoiser) and D.target == target and not D.training
    torch.testing.assert_close(
        last(ddim(D, D.schedule, x, timesteps(D.schedule, 8), y=y)), z, rtol=1e-3, atol=1e-4
    )
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(
        ValueError, match="prediction_type must be one of epsilon, sample, v_prediction; got 'flow'"
    ):
        from_diffusers(model, scheduler)
