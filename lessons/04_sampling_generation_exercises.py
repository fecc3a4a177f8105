# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 4 · Exercises
#
# {{badge}}
#
# Nine questions, 26 points, about three and a half hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("4.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $\alpha$ and $\sigma$ are standard deviations, a step goes from level $t$ to a cleaner level $s < t$, and a denoiser `D(x, t)` returns its prediction $\hat x_0$ (`x0_hat`). Equation numbers are the lesson's. But for 4.9, where you train, all denoisers here are exact, so whatever goes wrong is the sampler's fault. The core sections suffice for all but 4.8, which needs "Inversion" in section 4.11, and 4.9, whose formula section 4.18 derives: 20 of the 26 points.

# %% tags=["setup"]
{{setup}}

# %%
import math

import torch
from torch import nn

from course_lib import Denoiser, Schedule, last, samplers
from course_lib.checks import check, hint
from course_lib.lab import data, metrics, plots, tables

torch.manual_seed(0)
torch.set_num_threads(1)            # tensors this small gain nothing from a second thread
cosine, flow = Schedule.cosine(), Schedule.flow()
# the lesson's three bumps
means = [[-1.0, -0.5], [1.0, -0.6], [0.2, 1.0]]
mix = data.GaussianMixture(means, [0.2, 0.3, 0.15], [3.0, 2.0, 1.0])
turns = torch.arange(8, dtype=torch.float64) * math.pi / 4
ring = data.GaussianMixture(torch.stack([turns.cos(), turns.sin()], dim=1), 0.05)


def rms(x, truth):
    return (x - truth).square().sum(1).mean().sqrt()


def seeded(seed):
    return torch.Generator().manual_seed(seed)

# %% [markdown]
# ## 4.1 Warm-up: what can you afford? (2 points, 10 minutes)
#
# You have paid for `budget` evaluations of the network for each image. How many steps may each sampler take, on a grid that ends at $t = 0$? The samplers are the lesson's: `"ddim"`, `"heun"`, `"dpmpp"`, `"unipc"` (sections 4.3, 4.6 and 4.7). With guidance (lesson 5) every prediction costs *two* evaluations, one with the condition and one without. What is left over is lost; a budget that does not pay for a step gives 0.

# %% tags=["answer:4.1"]
def steps_for(sampler, budget, guided):
    """How many steps the budget pays for.

    sampler: "ddim", "heun", "dpmpp" or "unipc"; budget: evaluations, a whole number;
    guided: True or False
    """
    ### BEGIN SOLUTION
    calls = budget // 2 if guided else budget
    return (calls + 1) // 2 if sampler == "heun" else calls
    ### END SOLUTION

# %% tags=["check:4.1"]
check("4.1", steps_for)
### BEGIN HIDDEN TESTS
assert check.passed("4.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, counted.** A denoiser that counts its calls shows that no step is lost, and that one more would be too much.

# %% tags=["solution"]
def cost(sampler, steps):
    """How often the sampler evaluates the denoiser in so many steps."""
    exact = mix.denoiser(cosine)
    calls = []

    def counted(x, t):
        calls.append(t)
        return exact(x, t)

    ts = samplers.timesteps(cosine, steps, start=0.98)      # heun divides by alpha
    last(getattr(samplers, sampler)(counted, cosine, torch.randn(2, 2), ts))
    return len(calls)


rows = []
for sampler in ("ddim", "heun", "dpmpp", "unipc"):
    for budget, guided in ((21, False), (20, False), (20, True)):
        n = steps_for(sampler, budget, guided)
        price = 1 + guided
        row = {"sampler": sampler, "budget": budget, "guided": "yes" if guided else "no"}
        rows.append(row | {"steps": n, "cost": price * cost(sampler, n),
                           "cost of one step more": price * cost(sampler, n + 1)})
tables.table(rows, caption="Evaluations of the network")

# %% [markdown]
# ## 4.2 One step of the whole family, from blank (3 points, 20 minutes)
#
# Write the step (4.8), with all that belongs to it: $\tilde\sigma$ is in (4.2), $\sigma_{t|s}$ in (4.1). Each example of the batch has levels of its own, `t` and `s` of shape (B,), and `x` may have any number of dimensions after the first: (B,), (B, 2), (B, C, H, W). The noise $z$ is given. The step must work for every schedule, also from $\alpha_t = 0$, and to $s = 0$, where it ends at $\hat x_0$.

# %% tags=["answer:4.2"]
def ddim_step(schedule, x, x0_hat, t, s, eta, z):
    """(4.8): x_s, (B, ...).

    x, x0_hat, z: (B, ...); t, s: (B,) with s < t; eta: a number in [0, 1]
    """
    ### BEGIN SOLUTION
    levels = (schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s))
    shape = (-1, *[1] * (x.ndim - 1))
    alpha_t, sigma_t, alpha_s, sigma_s = (c.view(shape) for c in levels)    # (B, 1, ..., 1)
    v = eta * sigma_s / sigma_t * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).sqrt()
    eps_hat = (x - alpha_t * x0_hat) / sigma_t
    return alpha_s * x0_hat + (sigma_s**2 - v**2).sqrt() * eps_hat + v * z
    ### END SOLUTION

# %% tags=["check:4.2"]
check("4.2", ddim_step)
### BEGIN HIDDEN TESTS
assert check.passed("4.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** Equation (4.5) says that the marginal at $s$ does not depend on $\eta$. Take a known $x_0 = 0$ and a noise of width $\sigma_t$, and measure three things for each $\eta$: what of the old noise is left, how much is new, and the width of both together.

# %% tags=["solution"]
N = 50_000
etas = torch.linspace(0, 1, 11)
t, s, zero = torch.full((N,), 0.6), torch.full((N,), 0.45), torch.zeros(N)
eps, z = torch.randn(N), torch.randn(N)
x = cosine.sigma(0.6) * eps
ends = torch.stack([ddim_step(cosine, x, zero, t, s, eta, z) for eta in etas.tolist()])
# ends: (11, N)
stds = {"all noise": ends.std(1), "old noise": (ends * eps).mean(1),
        "new noise": (ends * z).mean(1), "sigma_s": cosine.sigma(0.45).expand(11)}
plots.curves(etas, stds, title="A step from t = 0.6 to 0.45", xlabel="eta",
             ylabel="standard deviation")

# %% [markdown] tags=["solution"]
# **What the figure shows.** Old noise is exchanged for new noise, and the standard deviation of the sum stays at $\sigma_s$ (up to chance). At $\eta = 1$, where the step draws from the posterior, a width of 0.41 is still old and 0.51 is new: $0.41^2 + 0.51^2 = 0.66^2$.

# %% [markdown]
# ## 4.3 Bug hunt: a copied sampler (4 points, 25 minutes)
#
# This DDIM has been copied from tutorial to tutorial. It uses the table $\bar\alpha = \alpha^2$ of a schedule with $T$ steps, where index $i$ is the level after $i + 1$ steps of noise, and a network `eps_net(x, i)` that predicts the noise.

# %%
def ddim_copied(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """Samples (B, ...).

    eps_net: (x, i) -> prediction of the noise; alpha_bar: (T,); x: (B, ...), pure noise
    """
    T = len(alpha_bar)
    indices = [*range(0, T, T // steps), T - 1]
    for k in reversed(range(len(indices))):
        i, j = indices[k], indices[k - 1] if k > 0 else 0
        a, b = alpha_bar[i], alpha_bar[j]                   # here, and where the step goes
        eps = eps_net(x, i)
        x0_hat = (x - (1 - a).sqrt() * eps) / a.sqrt()
        toward = (1 - b - eta**2 * (1 - b) / (1 - a) * (1 - a / b)).sqrt() * eps
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = b.sqrt() * x0_hat + toward + eta * ((1 - b) - toward**2).sqrt() * z
    return x

# %% [markdown]
# Run it on three bumps of width 0.03, with the exact prediction of the noise. We count how often the network is evaluated, how many samples are `nan`, and how wide the bumps of the others are:

# %%
thin = data.GaussianMixture([[-0.8], [0.1], [0.8]], 0.03, [0.3, 0.5, 0.2])
T = 100
schedule = Schedule.linear(T)
alpha_bar = torch.cumprod(1 - schedule.betas, 0)
exact = thin.denoiser(schedule)
x_T = torch.randn(2000, 1, dtype=torch.float64)

# %%
evaluated = []                              # the indices at which the network was evaluated


def eps_net(x, i):
    evaluated.append(i)
    x0_hat = exact(x, (i + 1) / T)
    return (x - alpha_bar[i].sqrt() * x0_hat) / (1 - alpha_bar[i]).sqrt()


def report(name, x):
    """One row of the table: evaluations since the last report, nan, width of the bumps."""
    fine = x[x.isfinite()].double()[:, None]
    width = math.nan
    if len(fine):
        # from the median, which forgives a few strays
        width = torch.cdist(fine, thin.means).min(1).values.median() / 0.6745
    row = {"samples": name, "evaluations": len(evaluated),
           "nan": f"{1 - len(fine) / len(x):.0%}", "width": f"{width:.3f}"}
    evaluated.clear()
    return row

# %%
runs = ((25, 0.0), (25, 0.5), (25, 1.0), (60, 0.0))
rows = [report("data", thin.sample(2000))]
for steps, eta in runs:
    x = ddim_copied(eps_net, alpha_bar, x_T, steps, eta)
    rows.append(report(f"copied, {steps} steps, eta {eta}", x))
tables.table(rows)

# %% [markdown]
# (Do not expect the width of the data from a correct sampler either. With so few steps on this schedule the bumps come out too thin, 0.01 to 0.02, as section 4.2 explains. Width alone is no proof.)
#
# There are *four* defects. One is loud, one shows to those who count, and two are quiet, since the first drowns them: compare the code with (4.8), and ask what $\bar\alpha$ of the data is. Find them, and write the sampler as it should be. It evaluates the network exactly `steps` times ($1\le$ `steps` $\le T$), at the indices $\lfloor kT/\text{steps}\rfloor - 1$ for $k = \text{steps}, \dots, 1$, and then goes to the data. Draw noise, if any, as above, once in each step. Nothing else changes: what `eps_net` says is taken as it is (no clamping).

# %% tags=["answer:4.3"]
def ddim_repaired(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """Samples (B, ...).

    eps_net: (x, i) -> prediction of the noise; alpha_bar: (T,); x: (B, ...), pure noise
    """
    ### BEGIN SOLUTION
    T = len(alpha_bar)
    indices = [k * T // steps - 1 for k in range(steps, 0, -1)]
    # the last step goes to the data
    arrivals = [*(alpha_bar[i] for i in indices[1:]), torch.ones_like(alpha_bar[0])]
    for i, b in zip(indices, arrivals):
        a = alpha_bar[i]
        eps = eps_net(x, i)
        x0_hat = (x - (1 - a).sqrt() * eps) / a.sqrt()
        v = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = b.sqrt() * x0_hat + (1 - b - v**2).sqrt() * eps + v * z
    return x
    ### END SOLUTION

# %% tags=["check:4.3"]
check("4.3", ddim_repaired)
### BEGIN HIDDEN TESTS
assert check.passed("4.3")
### END HIDDEN TESTS

# %% tags=["solution"]
rows = []
for steps, eta in (*runs, (100, 1.0)):
    x = ddim_repaired(eps_net, alpha_bar, x_T, steps, eta)
    rows.append(report(f"repaired, {steps} steps, eta {eta}", x))
tables.table(rows)
variance = 1 - alpha_bar[0]
print(f"the noise of index 0: {variance.sqrt():.3f}; with a bump's own width "
      f"{(variance + 0.03**2 * alpha_bar[0]).sqrt():.3f}")

# %% [markdown] tags=["solution"]
# **Solution.** (1) Loud: below the root of the noise term stands `toward**2`, which contains $\hat\epsilon^2$, an image. Where it is larger than $1 - b$ the root is `nan`, and `0 * nan` is `nan`, also at the default $\eta = 0$. A variance belongs there. (2) The quiet one: replace it by the variance $v^2$ that was taken away in `toward`, and the $\eta$ in front counts a second time, since $v$ contains $\eta$. (3) The last "step" goes from index 0 to index 0, so the samples keep the noise of index 0; the data's own $\bar\alpha$ is 1. (4) `range` with `T - 1` behind it has 26 entries for 25 steps, and 101 for 60, since `T // steps` is 1.
#
# Repaired, the bumps are too thin with few steps (0.009 with 25), nearer to 0.03 with more. That is no defect of the code: it is the error of few steps, which section 4.2 measured.

# %% [markdown]
# ## 4.4 Derivation: the right noise for a known width (3 points, 25 minutes)
#
# Ho et al. have two variances for a step, $\tilde\sigma^2$ and $\sigma_{t|s}^2$, right for two kinds of data (section 4.2). Let the data be $\mathcal N(0, w^2)$, with any $w$ and any schedule. Derive $\operatorname{Var}(x_s\mid x_t)$ from (4.3) on paper, then write it down as a function. With this noise a step is *exact*, however long it is. It must also be right from $\alpha_t = 0$, and at $s = 0$.

# %% tags=["answer:4.4"]
def exact_variance(schedule, t, s, w):
    """The variance of x_s given x_t, for data N(0, w^2): (K,).

    t, s, w: (K,) float64, s < t
    """
    ### BEGIN SOLUTION
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    V_t, V_s = (alpha_t * w) ** 2 + sigma_t**2, (alpha_s * w) ** 2 + sigma_s**2
    return V_s * (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2) / V_t
    ### END SOLUTION

# %% tags=["check:4.4"]
check("4.4", exact_variance)
### BEGIN HIDDEN TESTS
assert check.passed("4.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Given $x_t$, the inverse variances of $x_0$ add: $\frac1{w^2}+\frac{\alpha_t^2}{\sigma_t^2}$, so $\operatorname{Var}(x_0\mid x_t) = w^2\sigma_t^2/V_t$ with $V_t = \alpha_t^2w^2+\sigma_t^2$. Put into (4.3),
#
# $$\frac{\sigma_{t|s}^2}{\sigma_t^2}\Big(\sigma_s^2 + \frac{\alpha_s^2\sigma_{t|s}^2w^2}{V_t}\Big) = \frac{\sigma_{t|s}^2}{\sigma_t^2V_t}\Big(\sigma_s^2\alpha_t^2w^2 + \sigma_s^2\sigma_t^2 + \alpha_s^2\sigma_t^2w^2 - \alpha_t^2\sigma_s^2w^2\Big) = \frac{\sigma_{t|s}^2\,V_s}{V_t},$$
#
# where $\alpha_s^2\sigma_{t|s}^2 = \alpha_s^2\sigma_t^2-\alpha_t^2\sigma_s^2$ was used. Test it twice: on pairs $(x_s, x_t)$, where $x_s$ minus its best straight line in $x_t$ must have this variance; and in use, with three steps only.

# %% tags=["solution"]
w, t, s = torch.tensor([[0.3], [0.8], [0.35]]).double()
x_0 = w * torch.randn(400_000).double()
x_s = flow.perturb(x_0, s.item(), torch.randn(400_000).double())
x_t = flow.renoise(x_s, s.item(), t.item())
rest = x_s - (x_s * x_t).mean() / x_t.square().mean() * x_t
print(f"measured on 400,000 pairs {rest.var():.4f}, "
      f"derived {exact_variance(flow, t, s, w).item():.4f}")

# %% tags=["solution"]
def posterior_variance(schedule, t, s):
    """sigma-tilde^2, (4.2)"""
    ratio = schedule.alpha(t) / schedule.alpha(s)
    var_ts = schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2
    return (schedule.sigma(s) / schedule.sigma(t)) ** 2 * var_ts


def width_after(n, w, noise, N=20_000):
    """Width of the samples / w, after n steps with the exact prediction and this noise."""
    ts = samplers.timesteps(cosine, n)
    x = torch.randn(N).double()
    zero = torch.zeros(N).double()
    for t, s in zip(ts[:-1], ts[1:]):
        V_t = (cosine.alpha(t) * w) ** 2 + cosine.sigma(t) ** 2
        x0_hat = cosine.alpha(t) * w**2 / V_t * x
        eta = 0.0 if noise == "no noise" else 1.0
        mean = ddim_step(cosine, x, x0_hat, t.expand(N), s.expand(N), eta, zero)
        variance = {
            "posterior": posterior_variance(cosine, t, s),
            "exact": exact_variance(cosine, t[None], s[None], torch.tensor([w]).double()),
            "no noise": torch.zeros(1).double(),
        }[noise]
        x = mean + variance.sqrt() * torch.randn(N)
    return x.std() / w

# %% tags=["solution"]
counts = torch.tensor([1, 2, 3, 5, 10, 20, 50])
widths = {noise: torch.stack([width_after(n, 0.3, noise) for n in counts.tolist()])
          for noise in ("posterior", "no noise", "exact")}
plots.curves(counts, widths, xscale="log", title="Data of width 0.3", xlabel="steps",
             ylabel="width of the samples / 0.3", ylim=(0, 1.15))

# %% [markdown] tags=["solution"]
# **What the figure shows.** With the exact variance even a single step has the right width: it *is* a draw from $q(x_s\mid x_t)$. The posterior's samples are too thin until there are many steps; without noise it is somewhat better. For real data the width depends on $x$ and is not known, so some models learn the variance, too (Nichol and Dhariwal 2021).

# %% [markdown]
# ## 4.5 Heun in the time t (3 points, 25 minutes)
#
# The lesson's Heun takes its steps in $\bar\sigma = \sigma/\alpha$, and cannot start where $\alpha = 0$. Write Heun's method (4.19) for the equation (4.11) instead, in the time $t$ itself,
#
# $$\frac{dx}{dt} = \alpha'(t)\,\hat x_0 + \sigma'(t)\,\hat\epsilon,$$
#
# whose step needs no division by $\alpha$. (The derivative $\alpha'$ may hide one: a table of betas that ends with a cap, as the cosine schedule's does, has a slope of $-25$ at $t=1$, and Heun in $t$ should start a little below there. On the flow schedule it starts anywhere.) The derivatives are `schedule.d_alpha(t)` and `schedule.d_sigma(t)`. In the step to $s = 0$, where $\hat\epsilon$ cannot be computed any more, return the prediction $\hat x_0$. Evaluate the denoiser twice in a step, and once in the last.

# %% tags=["answer:4.5"]
def heun_step(D, schedule, x, t, s):
    """x_s, (B, ...).

    D: (x, t) -> x0_hat; x: (B, ...); t, s: float64 tensors without dimensions, s < t
    """
    ### BEGIN SOLUTION
    def slope(x, t):
        x0_hat = D(x, t)
        eps_hat = (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
        return schedule.d_alpha(t) * x0_hat + schedule.d_sigma(t) * eps_hat

    if s == 0:
        return D(x, t)
    first = slope(x, t)
    second = slope(x + (s - t) * first, s)
    return x + (s - t) * (first + second) / 2
    ### END SOLUTION

# %% tags=["check:4.5"]
check("4.5", heun_step)
### BEGIN HIDDEN TESTS
assert check.passed("4.5")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** Is it of order 2, and which of the two Heuns is better? On $\alpha = \cos\frac{\pi t}2$, $\sigma = \sin\frac{\pi t}2$ both can run, if they start below $t = 1$. Steps even in $t$ from 0.98 to 0.02, compared with a `unipc` run of 1,000 steps. (The library's cosine schedule is a table of 1,000 values joined by straight lines. Its derivatives jump, which would hide small errors.)

# %% tags=["solution"]
arc = Schedule(lambda t: (t * math.pi / 2).cos(), lambda t: (t * math.pi / 2).sin())
exact = mix.denoiser(arc)
x = torch.randn(100, 2, generator=seeded(0)).double()
counts = torch.tensor([4, 6, 9, 14, 20, 30, 45, 70])


def heun_in_t(D, schedule, x, ts):
    for t, s in zip(ts[:-1], ts[1:]):
        x = heun_step(D, schedule, x, t, s)
    return x


def even(n):
    return torch.linspace(0.98, 0.02, n + 1).double()


solvers = {
    "ddim": lambda ts: last(samplers.ddim(exact, arc, x, ts)),
    "Heun in sigma / alpha": lambda ts: last(samplers.heun(exact, arc, x, ts)),
    "Heun in t": lambda ts: heun_in_t(exact, arc, x, ts),
}
truth = last(samplers.unipc(exact, arc, x, even(1000)))

# %% tags=["solution"]
errors = {}
for name, solve in solvers.items():
    ends = [solve(even(2 * n if name == "ddim" else n)) for n in counts.tolist()]
    errors[name] = torch.stack([rms(end, truth) for end in ends])
plots.curves(2 * counts, errors, title="Two Heuns, steps even in t", xlabel="evaluations",
             ylabel="root mean square error", xscale="log", yscale="log")
growth = (counts[-1] / counts[-2]).log()
orders = {name: {"order": (e[-2] / e[-1]).log() / growth} for name, e in errors.items()}
tables.table(orders, ".2f", "Measured on the last two points")
D = mix.denoiser(flow)
coarse, fine = (heun_in_t(D, flow, x, samplers.timesteps(flow, n)) for n in (30, 300))
print("flow schedule, from t = 1 to 0 in 30 steps: "
      f"{rms(coarse, fine):.4f} from a run of 300")

# %% [markdown] tags=["solution"]
# **What the figure shows.** Both Heuns are of order 2, and DDIM of order 1. On these steps Heun in $t$ is better from the first: at 8 evaluations by a factor of four, at 140 by a little. Steps even in $t$ are very uneven in $\sigma/\alpha$, and a straight step in $\sigma/\alpha$ pays for that. So "Heun" alone does not name a method: the variable in which its steps are straight belongs to it. On the flow schedule it starts at $t = 1$, where the lesson's Heun would divide by 0.

# %% [markdown]
# ## 4.6 Measure an order (3 points, 20 minutes)
#
# Somebody gives you the errors of a sampler after $n$ steps, at several $n$. By (4.18) they fall like $n^{-p}$, but only between two limits: with few steps the law does not hold yet, and with many the error comes near the `floor`, which is what rounding alone would give. What is within a factor of ten of the floor says little: leave it out. Of the errors that are left the last follow the law best; take the slope of the last two, or a line through the later half. Return the order $p$, not rounded. The numbers of steps grow, but need not double. (Tolerance: 0.15.)

# %% tags=["answer:4.6"]
def order(ns, errors, floor):
    """The order, one number.

    ns: (K,) numbers of steps, growing; errors: (K,), both float64; floor: a number
    """
    ### BEGIN SOLUTION
    keep = errors > 10 * floor
    n, e = ns[keep][-2:], errors[keep][-2:]
    return (e[0] / e[1]).log() / (n[1] / n[0]).log()
    ### END SOLUTION

# %% tags=["check:4.6"]
check("4.6", order)
### BEGIN HIDDEN TESTS
assert check.passed("4.6")
### END HIDDEN TESTS

# %% [markdown]
# Use it: does it matter *in which format* samples are kept when a solver is judged? Run `unipc` on the three bumps, round its ends as a file with 8 or 16 bits for numbers from -2 to 2 would, and measure the order from each. ("No order can be measured" is an answer, too.) (In a cell of your own; the solution has one.)

# %% tags=["solution"]
def even_in_log_snr(n):
    return cosine.t_from_log_snr(torch.linspace(-7, 5, n + 1).double())


exact = mix.denoiser(cosine)
counts = torch.tensor([8, 12, 18, 27, 40, 60, 90, 135, 200]).double()
ends = [last(samplers.unipc(exact, cosine, x, even_in_log_snr(int(n)))) for n in counts]
truth = last(samplers.unipc(exact, cosine, x, even_in_log_snr(600)))
lines = {}
rows = {}
for name, unit in {"as they are": 1e-12, "16 bits": 4 / 2**16, "8 bits": 4 / 2**8}.items():
    floor = unit / 6**0.5                   # unit^2 / 12 in each of two dimensions
    lines[name] = torch.stack([rms((end / unit).round() * unit, truth) for end in ends])
    above = (lines[name] > 10 * floor).sum().item()
    measured = f"{order(counts, lines[name], floor):.2f}" if above > 1 else "none"
    rows[name] = {"floor": f"{floor:.1e}", "errors well above it": above, "order": measured}
tables.table(rows, caption=f"{len(counts)} errors in each format", index="format")
plots.curves(counts, lines, xscale="log", yscale="log", title="One sampler, three formats",
             xlabel="steps", ylabel="root mean square error")

# %% [markdown] tags=["solution"]
# **What the figure shows.** With few steps the three agree. Kept in 8 bits the error is the floor from about 30 steps on, and a better solver could not show itself. In 16 bits the last usable pair is at 40 and 60 steps, too early for the law: 2.78. Only the unrounded ends show order 3. Judge solvers on floating-point numbers, before an image is written.

# %% [markdown]
# ## 4.7 The best eight evaluations (2 points, 25 minutes)
#
# An experiment. `dpmpp` shall draw the three bumps with 8 evaluations. You choose the nine timesteps: falling, the last one 0. They need not start at $t = 1$ (the first $x$ is then noise of width $\sigma$ at your first time, and the error that this makes counts). This is the mean distance to the exact end of the ODE, for 1,000 starts:

# %%
starts = torch.randn(1000, 2, generator=seeded(0)).double()
exact = mix.denoiser(cosine)
fine = samplers.timesteps(cosine, 100, "log_snr")
target = last(samplers.unipc(exact, cosine, starts, fine))


def distance(D, ts, truth):
    """How far dpmpp's ends are from the exact ones, on average."""
    x = last(samplers.dpmpp(D, cosine, cosine.sigma(ts[0]) * starts, ts))
    return (x - truth).norm(dim=1).mean().item()


def error_of(ts):
    """The same on the three bumps.   ts: nine falling times"""
    return distance(exact, ts, target)


errors = {spacing: error_of(samplers.timesteps(cosine, 8, spacing))
          for spacing in samplers.SPACINGS}
tables.table([errors], ".4f", "Mean distance to the exact ends, by spacing")

# %% [markdown]
# Get below **0.02**. The check uses other starts of the same kind. Search where you like: powers as in the quadratic grid (section 4.8), other starts, $\rho$ and the ends of (4.25), or small random changes that are kept when they help.

# %% tags=["answer:4.7"]
def eight():
    """-> nine falling times in [0, 1], the last one 0"""
    ### BEGIN SOLUTION
    return 0.95 * (torch.arange(8, -1, -1).double() / 8) ** 2
    ### END SOLUTION

# %% tags=["check:4.7"]
check("4.7", eight)
### BEGIN HIDDEN TESTS
assert check.passed("4.7")
### END HIDDEN TESTS

# %% tags=["solution"]
powers = torch.linspace(1, 3, 17)


def error_of_power(power, start):
    return error_of(start * (torch.arange(8, -1, -1).double() / 8) ** power)


errors = {}
for start in (1.0, 0.98, 0.95, 0.9):
    by_power = [error_of_power(power, start) for power in powers.tolist()]
    errors[f"from t = {start}"] = torch.tensor(by_power)
plots.curves(powers, errors, title="start * (i / 8) ** power: dpmpp, 8 evaluations",
             xlabel="power", ylabel="mean distance to the exact end", ylim=(0, 0.1))

# %% tags=["solution"]
g = seeded(1)
best = eight()
record = error_of(best)
for _ in range(150):
    # the lengths of the steps, changed a little at random
    lengths = (best[:-1] - best[1:]) * (0.15 * torch.randn(8, generator=g)).exp()
    trial = torch.cat([lengths, torch.zeros(1)]).flip(0).cumsum(0).flip(0).double()
    error = error_of(trial) if trial[0] <= 1 else math.inf
    if error < record:
        best, record = trial, error
print("the nine numbers:", [round(t, 3) for t in best.tolist()])

# %% tags=["solution"]
other = ring.denoiser(cosine)
truth = last(samplers.unipc(other, cosine, starts, fine))
grids = {"even in t": samplers.timesteps(cosine, 8),
         "quadratic": samplers.timesteps(cosine, 8, "quadratic"),
         "two numbers": eight(), "nine numbers": best}
rows = {}
for name, ts in grids.items():
    on_ring = distance(other, ts, truth)
    rows[name] = {"three bumps": error_of(ts), "ring of eight bumps": on_ring}
tables.table(rows, ".4f", "Mean distance to the exact ends, 8 evaluations", "timesteps")

# %% [markdown] tags=["solution"]
# **What this shows.** Powers near 2 are best, and starting a little below $t = 1$ helps: the cosine schedule's first moments are nearly pure noise, and a step is better spent elsewhere. Start too low, and the noise that you start from is no longer right. Nine free numbers get a little lower than two. But on other data they do worse than the plain quadratic grid: nine numbers have been fitted to these three bumps, two numbers could not. Timesteps that were tuned on one model are only a first try for the next.

# %% [markdown]
# ## 4.8 Invert and edit (3 points, 25 minutes)
#
# Here are two kinds of data in the plane, an upper and a lower arc, and an exact denoiser that is conditioned on the kind: `D(x, t, y=labels)`.

# %%
angles = torch.linspace(0.15, 0.85, 12) * math.pi
upper = torch.stack([1.2 * angles.cos(), 0.2 + 0.9 * angles.sin()], dim=1)
lower = upper * torch.tensor([1.0, -1.0])
arcs = [data.GaussianMixture(means, 0.08) for means in (upper, lower)]
denoisers = [arc.denoiser(cosine) for arc in arcs]


def D(x, t, y):
    """x: (B, 2), y: (B,) with 0 for the upper arc and 1 for the lower one"""
    return torch.stack([exact(x, t) for exact in denoisers])[y, torch.arange(len(x))]

# %% [markdown]
# Edit points of the upper arc so that they become points of the lower one, *and stay what they were* in all other respects. First the **inversion**, with the condition `before`, by (4.31), up to the level $t$ = `strength`; from there sampling with ddim and the condition `after`. Inversion and sampling both take $n$ steps on `samplers.timesteps(schedule, n, start=strength)` (the inversion takes them flipped). You may call the library's `samplers.ddim_invert` and `samplers.ddim`, or write the steps yourself.

# %% tags=["answer:4.8"]
def edit(D, schedule, x, before, after, n, strength):
    """The edited data, (B, ...).

    D: (x, t, y=...) -> x0_hat; x: (B, ...) data; before, after: (B,) conditions,
    of any number of kinds; n: steps each way; strength: in (0, 1]
    """
    ### BEGIN SOLUTION
    ts = samplers.timesteps(schedule, n, start=strength)
    noisy = last(samplers.ddim_invert(D, schedule, x, ts.flip(0), y=before))
    return last(samplers.ddim(D, schedule, noisy, ts, y=after))
    ### END SOLUTION

# %% tags=["check:4.8"]
check("4.8", edit)
### BEGIN HIDDEN TESTS
assert check.passed("4.8")
### END HIDDEN TESTS

# %% [markdown]
# What is kept, and how does it depend on `strength`? Edit 300 points of the upper arc with several strengths, and look where each point goes. Then compare with fresh noise: `cosine.perturb(x, strength, torch.randn_like(x))` in place of the inversion.

# %% tags=["solution"]
x = arcs[0].sample(300, seed=1).double()
borders = torch.tensor([-0.8, -0.3, 0.3, 0.8]).double()
position = torch.bucketize(x[:, 0].contiguous(), borders)
up = torch.zeros(300, dtype=torch.long)
down = torch.ones(300, dtype=torch.long)
clouds = {"before": x}
for strength in (0.4, 0.7, 1.0):
    clouds[f"strength {strength}"] = edit(D, cosine, x, up, down, 50, strength)
plots.scatter(clouds, by=position, limit=1.6,
              title="From the upper arc to the lower one; colours stay with their points")

# %% tags=["solution"]
def with_fresh_noise(x, y, strength):
    noisy = cosine.perturb(x, strength, torch.randn_like(x))
    ts = samplers.timesteps(cosine, 50, start=strength)
    return last(samplers.ddim(D, cosine, noisy, ts, y=y))


limit = arcs[1].log_prob(arcs[1].sample(2000)).quantile(0.01)
rows = []
for strength in (0.4, 0.6, 0.7, 0.8, 1.0):
    fresh = with_fresh_noise(x, down, strength)
    row = {"strength": strength}
    for name, z in (("inverted", edit(D, cosine, x, up, down, 50, strength)),
                    ("fresh noise", fresh)):
        arrived = (arcs[1].log_prob(z) > limit).double().mean()
        kept = torch.stack([x[:, 0], z[:, 0]]).corrcoef()[0, 1]
        row |= {f"{name}: arrive": f"{arrived:.0%}", f"{name}: correlation": f"{kept:.2f}"}
    back = rms(edit(D, cosine, x, up, up, 50, strength), x)
    rows.append(row | {"there and back": f"{back:.3f}"})
tables.table(rows, ".1f", "300 points: the fraction that arrives, the correlation of their "
             "first coordinates before and after, the error there and back")

# %% [markdown] tags=["solution"]
# **What this shows.** Every point keeps its position from left to right, at every strength: the correlation is 0.93, also at strength 1, where the noise alone carries it. With fresh noise the position is forgotten, the more the higher one goes, and at strength 1 nothing is left. The strength must be high enough to leave the old arc: at 0.4 a quarter of the points do not arrive. So with inversion one can go all the way up and keep what the two kinds have in common; with fresh noise one has to choose between arriving and remembering.

# %% [markdown]
# ## 4.9 Stretch: halve the steps by training (3 points, 35 minutes)
#
# *Progressive distillation* (Salimans and Ho 2022) trains a student to do in one step what its teacher does in two. The teacher takes two deterministic steps (4.8), $\eta = 0$, from $x_t$ to $x_m$ to $x_s$, each with its own prediction. The student shall make one such step from $x_t$ and land at the same $x_s$. **What must it predict?** Section 4.18 has the formula for one example; derive it without looking, and write it for a batch: each example has its own `t`, `m` and `s`. It must be right from $\alpha_t = 0$ and at $s = 0$, and no gradient may flow through it.

# %% tags=["answer:4.9"]
def student_target(D, schedule, x, t, m, s):
    """The target of the student's prediction at (x, t), (B, d).

    D: the teacher, (x, t) -> x0_hat; x: (B, d) at level t; t, m, s: (B,), s < m < t
    """
    ### BEGIN SOLUTION
    def step(x, x0_hat, a, b, a_to, b_to):
        return a_to * x0_hat + b_to * (x - a * x0_hat) / b

    with torch.no_grad():
        # (B, 1) each
        a_t, a_m, a_s = (schedule.alpha(r)[:, None].to(x) for r in (t, m, s))
        b_t, b_m, b_s = (schedule.sigma(r)[:, None].to(x) for r in (t, m, s))
        x_m = step(x, D(x, t), a_t, b_t, a_m, b_m)
        x_s = step(x_m, D(x_m, m), a_m, b_m, a_s, b_s)
        return (x_s - b_s / b_t * x) / (a_s - b_s / b_t * a_t)
    ### END SOLUTION

# %% tags=["check:4.9"]
check("4.9", student_target)
### BEGIN HIDDEN TESTS
assert check.passed("4.9")
### END HIDDEN TESTS

# %% [markdown]
# Now use it; ten seconds of training suffice for a student that ends within 0.1 of the teacher's eight steps. The teacher is the exact denoiser of a ring of eight bumps, with 8 steps. Train a student for 4 steps (noisy points at $t = k/4$, with $m$ half a step below), take it as the teacher of the next, for 2 steps, and go on to 1. This network will do; let it predict $v$, and start each student from the weights of its teacher, where it has any. Weigh the error of the prediction by $1/\sigma_t^2$, which makes it the loss of $v$ (lesson 3).

# %%
class Tiny(nn.Module):
    """x: (B, 2), t: (B,) -> (B, 2)"""

    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(15, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x, t):
        angles = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 5)         # (B, 6)
        return self.net(torch.cat([x, t[:, None], angles.sin(), angles.cos()], dim=1))

# %% tags=["solution"]
def distil(teacher, n, updates):
    """A student that makes in n steps what the teacher makes in 2 n."""
    student = Denoiser(Tiny(), cosine, "v")
    points = ring.sample(20_000)
    if isinstance(teacher, Denoiser):
        student.load_state_dict(teacher.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=8e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / updates)
    for _ in range(updates):
        x0 = points[torch.randint(20_000, (256,))]
        k = torch.randint(1, n + 1, (256,)).double()
        t, m, s = k / n, (k - 0.5) / n, (k - 1) / n
        x = cosine.perturb(x0, t, torch.randn_like(x0))
        error = student(x, t) - student_target(teacher, cosine, x, t, m, s)
        loss = (error.square().mean(1) / cosine.sigma(t).float() ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return student

# %% tags=["solution"]
torch.manual_seed(0)
exact = ring.denoiser(cosine)
noise = torch.randn(1000, 2, generator=seeded(0))
fresh = ring.sample(1000, seed=9)


def run(D, n):
    return last(samplers.ddim(D, cosine, noise, samplers.timesteps(cosine, n)))


def kernel_distance(x):
    return 1000 * metrics.gaussian_kernel_distance(x, fresh, width=0.3)


clouds = {f"exact denoiser,\n{n} step{'s' * (n > 1)}": run(exact, n) for n in (8, 1)}
goal = run(exact, 8)
teacher = exact
rows = []
for n in (4, 2, 1):
    teacher = distil(teacher, n, 800 if n == 4 else 400)
    clouds[f"student,\n{n} step{'s' * (n > 1)}"] = x = run(teacher, n)
    rows.append({"steps": n, "student": kernel_distance(x),
                 "exact denoiser": kernel_distance(run(exact, n)),
                 "student to goal": f"{(x - goal).norm(dim=1).mean():.3f}"})

# %% tags=["solution"]
of_goal, of_data = kernel_distance(goal), kernel_distance(ring.sample(1000, seed=3))
tables.table(rows, ".2f", "1000 kernel distance to the data (8 steps of the exact denoiser "
             f"{of_goal:.2f}, data {of_data:.2f}); the student's distance to these 8 steps")
plots.scatter(clouds, limit=1.5, title="Progressive distillation: the same noises")

# %% [markdown] tags=["solution"]
# **Solution.** Write one step from $t$ to $s$ with an unknown prediction $g$: $x_s = \alpha_sg + \frac{\sigma_s}{\sigma_t}(x_t-\alpha_tg)$. Solve for $g$:
#
# $$g = \frac{x_s - \frac{\sigma_s}{\sigma_t}\,x_t}{\alpha_s - \frac{\sigma_s}{\sigma_t}\,\alpha_t}.$$
#
# Below the line nothing is 0: $\alpha/\sigma$ grows towards the data. At $s = 0$ the target is $x_s$ itself.
#
# **What the figure shows.** One step of the exact denoiser returns the mean of all data, one point. One step of the last student draws the ring, and sends each noise to nearly the same place as the teacher's eight steps did (0.04 away, on a ring of radius 1). Most of the remaining error comes from the first student; the later halvings add little. The network contains no more than its teacher: it has learned where the teacher's steps end.

# %%
check.summary(4)
