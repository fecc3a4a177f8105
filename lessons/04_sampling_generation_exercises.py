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
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $\alpha$ and $\sigma$ are standard deviations, a step goes from level $t$ to a cleaner level $s < t$, and a denoiser `D(x, t)` returns its guess $\hat x_0$. Equation numbers are the lesson's. But for 4.9, where you train, all denoisers here are exact, so whatever goes wrong is the sampler's fault.

# %% tags=["setup"]
{{setup}}

# %%
import math
import torch
from torch import nn
from course_lib import Denoiser, Schedule, last, samplers
from course_lib.checks import check, hint
from course_lib.lab import data, metrics, plots

torch.manual_seed(0)
torch.set_num_threads(1)                                    # tensors this small gain nothing from a second thread
cosine, flow = Schedule.cosine(), Schedule.flow()
mix = data.GaussianMixture([[-1.0, -0.5], [1.0, -0.6], [0.2, 1.0]], [0.2, 0.3, 0.15], [3.0, 2.0, 1.0])     # the lesson's three bumps
ring = data.GaussianMixture([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)], 0.05)
rms = lambda x, truth: (x - truth).square().sum(1).mean().sqrt()

# %% [markdown]
# ## 4.1 Warm-up: what can you afford? (2 points, 10 minutes)
#
# You have paid for `budget` evaluations of the network for each image. How many steps may each sampler take, on a grid that ends at $t = 0$? The samplers are the lesson's: `"ddim"`, `"heun"`, `"dpmpp"`, `"unipc"` (sections 4.3, 4.6 and 4.7). With guidance (lesson 5) every guess costs *two* evaluations, one with the condition and one without. What is left over is lost.

# %% tags=["answer:4.1"]
def steps_for(sampler, budget, guided):
    """sampler: "ddim", "heun", "dpmpp" or "unipc"; budget: a whole number; guided: True or False -> the number of steps"""
    ### BEGIN SOLUTION
    guesses = budget // 2 if guided else budget
    return (guesses + 1) // 2 if sampler == "heun" else guesses
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
    """How often the sampler asks in so many steps."""
    calls, exact = [], mix.denoiser(cosine)
    last(getattr(samplers, sampler)(lambda x, t: (calls.append(t), exact(x, t))[1], cosine, torch.randn(2, 2), samplers.timesteps(cosine, steps)))
    return len(calls)

for sampler in ("ddim", "heun", "dpmpp", "unipc"):
    for budget, guided in ((21, False), (20, False), (20, True)):
        n, price = steps_for(sampler, budget, guided), 1 + guided
        print(f"{sampler:6} budget {budget}{', guided' if guided else '        '}: {n:2} steps cost {price * cost(sampler, n):2}, {n + 1:2} would cost {price * cost(sampler, n + 1)}")

# %% [markdown]
# ## 4.2 One step of the whole family, from blank (3 points, 20 minutes)
#
# Write the step (4.8), with all that belongs to it: $\tilde\sigma$ is in (4.2), $\sigma_{t|s}$ in (4.1). Each example of the batch has levels of its own, `t` and `s` of shape (B,), and `x` may have any number of dimensions after the first: (B,), (B, 2), (B, C, H, W). The noise $z$ is given. The step must work for every schedule, also from $\alpha_t = 0$, and to $s = 0$, where it ends at $\hat x_0$.

# %% tags=["answer:4.2"]
def ddim_step(schedule, x, x0_hat, t, s, eta, z):
    """x, x0_hat, z: (B, ...), t, s: (B,) with s < t, eta: a number in [0, 1] -> x_s, (B, ...)"""
    ### BEGIN SOLUTION
    shaped = lambda c: c.view(-1, *[1] * (x.ndim - 1))                              # (B, 1, ..., 1)
    alpha_t, sigma_t, alpha_s, sigma_s = (shaped(c) for c in (schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)))
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
N, etas = 50_000, torch.linspace(0, 1, 11)
t, s, zero, eps, z = torch.full((N,), 0.6), torch.full((N,), 0.45), torch.zeros(N), torch.randn(N), torch.randn(N)
ends = torch.stack([ddim_step(cosine, cosine.sigma(0.6) * eps, zero, t, s, eta, z) for eta in etas.tolist()])       # (11, N)
widths = {"all noise": ends.std(1), "old noise": (ends * eps).mean(1), "new noise": (ends * z).mean(1), "sigma_s": cosine.sigma(0.45).expand(11)}
plots.curves(etas, widths, title="A step from t = 0.6 to 0.45", xlabel="eta", ylabel="standard deviation")

# %% [markdown] tags=["solution"]
# **What the figure shows.** Old noise is exchanged for new noise, and the width of the sum stays at $\sigma_s$ (up to chance). At $\eta = 1$, where the step draws from the posterior, a width of 0.41 is still old and 0.51 is new: $0.41^2 + 0.51^2 = 0.66^2$.

# %% [markdown]
# ## 4.3 Bug hunt: a copied sampler (3 points, 25 minutes)
#
# This DDIM has been copied from tutorial to tutorial. It uses the table $\bar\alpha = \alpha^2$ of a schedule with $T$ steps, where index $i$ is the level after $i + 1$ steps of noise, and a network `eps_net(x, i)` that guesses the noise.

# %%
def ddim_copied(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """eps_net: (x, i) -> guess of the noise; alpha_bar: (T,); x: (B, ...), pure noise -> samples (B, ...)"""
    T = len(alpha_bar)
    places = [*range(0, T, T // steps), T - 1]
    for k in reversed(range(len(places))):
        i, j = places[k], places[k - 1] if k > 0 else 0
        a, b = alpha_bar[i], alpha_bar[j]                   # here, and where the step goes
        eps = eps_net(x, i)
        x0_hat = (x - (1 - a).sqrt() * eps) / a.sqrt()
        toward = (1 - b - eta**2 * (1 - b) / (1 - a) * (1 - a / b)).sqrt() * eps
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = b.sqrt() * x0_hat + toward + eta * ((1 - b) - toward**2).sqrt() * z
    return x

# %% [markdown]
# Run it on three bumps of width 0.03, with the exact guess of the noise. We count how often the network is asked, how many samples are `nan`, and how wide the bumps of the others are:

# %%
thin, T = data.GaussianMixture([[-0.8], [0.1], [0.8]], 0.03, [0.3, 0.5, 0.2]), 100
schedule = Schedule.linear(T)
alpha_bar, exact, questions = torch.cumprod(1 - schedule.betas, 0), thin.denoiser(schedule), []
x_T = torch.randn(2000, 1, dtype=torch.float64)

def eps_net(x, i):
    questions.append(i)
    return (x - alpha_bar[i].sqrt() * exact(x, (i + 1) / T)) / (1 - alpha_bar[i]).sqrt()

def report(name, x):
    fine = x[x.isfinite()].double()[:, None]
    width = torch.cdist(fine, thin.means).min(1).values.median() / 0.6745 if len(fine) else math.nan            # from the median, which forgives a few strays
    print(f"{name:34} asked {len(questions):3} times; nan {1 - len(fine) / len(x):4.0%}; width {width:.3f}")
    questions.clear()

report("data", thin.sample(2000))
for steps, eta in ((25, 0.0), (25, 0.5), (25, 1.0), (60, 0.0)):
    report(f"copied, {steps} steps, eta {eta}", ddim_copied(eps_net, alpha_bar, x_T, steps, eta))

# %% [markdown]
# (Do not expect the width of the data from a correct sampler either. With so few steps on this schedule the bumps come out too thin, 0.01 to 0.02, as section 4.2 explains. Width alone is no proof.)
#
# There are *four* defects. One is loud, one shows to those who count, and two are quiet, since the first drowns them: compare the code with (4.8), and ask what $\bar\alpha$ of the data is. Find them, and write the sampler as it should be. It asks exactly `steps` times ($1\le$ `steps` $\le T$), at the indices $\lfloor kT/\text{steps}\rfloor - 1$ for $k = \text{steps}, \dots, 1$, and then goes to the data. Draw noise, if any, as above, once in each step.

# %% tags=["answer:4.3"]
def ddim_repaired(eps_net, alpha_bar, x, steps, eta=0.0, generator=None):
    """eps_net: (x, i) -> guess of the noise; alpha_bar: (T,); x: (B, ...), pure noise -> samples (B, ...)"""
    ### BEGIN SOLUTION
    T = len(alpha_bar)
    places = [k * T // steps - 1 for k in range(steps, 0, -1)]
    arrivals = [*(alpha_bar[i] for i in places[1:]), torch.ones_like(alpha_bar[0])]              # the last step goes to the data
    for i, b in zip(places, arrivals):
        a, eps = alpha_bar[i], eps_net(x, i)
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
for steps, eta in ((25, 0.0), (25, 0.5), (25, 1.0), (60, 0.0), (100, 1.0)):
    report(f"repaired, {steps} steps, eta {eta}", ddim_repaired(eps_net, alpha_bar, x_T, steps, eta))
print(f"the noise of index 0: {(1 - alpha_bar[0]).sqrt():.3f}; with a bump's own width {((1 - alpha_bar[0]) + 0.03**2 * alpha_bar[0]).sqrt():.3f}")

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
    """t, s, w: (K,) float64, s < t -> the variance of x_s given x_t for data N(0, w^2), (K,)"""
    ### BEGIN SOLUTION
    alpha_t, sigma_t, alpha_s, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)
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
w, t, s = torch.tensor([0.3]).double(), torch.tensor([0.8]).double(), torch.tensor([0.35]).double()
x_s = flow.perturb(w * torch.randn(400_000).double(), s.item(), torch.randn(400_000).double())
x_t = flow.renoise(x_s, s.item(), t.item())
rest = x_s - (x_s * x_t).mean() / x_t.square().mean() * x_t
print(f"measured on 400,000 pairs {rest.var():.4f}, derived {exact_variance(flow, t, s, w).item():.4f}")

def width_after(n, w, noise, N=20_000):
    """Width of the samples over w, after n steps with the exact guess and the noise that is asked for."""
    ts, x = samplers.timesteps(cosine, n), torch.randn(N).double()
    for t, s in zip(ts[:-1], ts[1:]):
        x0_hat = cosine.alpha(t) * w**2 / ((cosine.alpha(t) * w) ** 2 + cosine.sigma(t) ** 2) * x
        v = {"posterior": 1.0, "exact": 1.0, "no noise": 0.0}[noise]
        mean = ddim_step(cosine, x, x0_hat, t.expand(N), s.expand(N), v, torch.zeros(N).double())
        std = {"posterior": cosine.sigma(s) / cosine.sigma(t) * (cosine.sigma(t) ** 2 - (cosine.alpha(t) / cosine.alpha(s) * cosine.sigma(s)) ** 2).sqrt(),
               "exact": exact_variance(cosine, t[None], s[None], torch.tensor([w]).double()).sqrt(), "no noise": 0.0}[noise]
        x = mean + std * torch.randn(N)
    return x.std() / w

counts = torch.tensor([1, 2, 3, 5, 10, 20, 50])
plots.curves(counts, {noise: torch.stack([width_after(n, 0.3, noise) for n in counts.tolist()]) for noise in ("posterior", "no noise", "exact")}, xscale="log",
             title="Data of width 0.3", xlabel="steps", ylabel="width of the samples / 0.3", ylim=(0, 1.15))

# %% [markdown] tags=["solution"]
# **What the figure shows.** With the exact variance even a single step has the right width: it *is* a draw from $q(x_s\mid x_t)$. The posterior's samples are too thin until there are many steps; without noise it is somewhat better. For real data the width depends on $x$ and is not known, so some models learn the variance, too (Nichol and Dhariwal 2021).

# %% [markdown]
# ## 4.5 Heun in the time t (3 points, 25 minutes)
#
# The lesson's Heun walks in $\bar\sigma = \sigma/\alpha$, and cannot start where $\alpha = 0$. Write Heun's method (4.19) for the equation (4.11) instead, in the time $t$ itself,
#
# $$\frac{dx}{dt} = \alpha'(t)\,\hat x_0 + \sigma'(t)\,\hat\epsilon,$$
#
# whose step needs no division by $\alpha$. (The derivative $\alpha'$ may hide one: a table of betas that ends with a cap, as the cosine schedule's does, has a slope of $-25$ at $t=1$, and Heun in $t$ should start a little below there. On the flow schedule it starts anywhere.) The derivatives are `schedule.d_alpha(t)` and `schedule.d_sigma(t)`. In the step to $s = 0$, where $\hat\epsilon$ cannot be seen any more, return the guess $\hat x_0$. Ask the denoiser twice in a step, and once in the last.

# %% tags=["answer:4.5"]
def heun_step(D, schedule, x, t, s):
    """D: (x, t) -> guess; x: (B, ...), t, s: numbers (float64 tensors without dimensions), s < t -> x_s, (B, ...)"""
    ### BEGIN SOLUTION
    def slope(x, t):
        x0_hat = D(x, t)
        return schedule.d_alpha(t) * x0_hat + schedule.d_sigma(t) * (x - schedule.alpha(t) * x0_hat) / schedule.sigma(t)
    if s == 0:
        return D(x, t)
    here = slope(x, t)
    there = slope(x + (s - t) * here, s)
    return x + (s - t) * (here + there) / 2
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
exact, x, counts = mix.denoiser(arc), torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([4, 6, 9, 14, 20, 30, 45, 70])

def heun_in_t(D, schedule, x, ts):
    for t, s in zip(ts[:-1], ts[1:]):
        x = heun_step(D, schedule, x, t, s)
    return x

even = lambda n: torch.linspace(0.98, 0.02, n + 1).double()
ways = {"ddim": lambda ts: last(samplers.ddim(exact, arc, x, ts)), "Heun in sigma / alpha": lambda ts: last(samplers.heun(exact, arc, x, ts)), "Heun in t": lambda ts: heun_in_t(exact, arc, x, ts)}
truth = last(samplers.unipc(exact, arc, x, even(1000)))
errors = {name: torch.stack([rms(way(even(2 * n if name == "ddim" else n)), truth) for n in counts.tolist()]) for name, way in ways.items()}
plots.curves(2 * counts, errors, xscale="log", yscale="log", title="Two Heuns, steps even in t", xlabel="evaluations", ylabel="root mean square error")
print("orders measured on the last two points:", {name: round(((e[-2] / e[-1]).log() / (counts[-1] / counts[-2]).log()).item(), 2) for name, e in errors.items()})
flowing = heun_in_t(mix.denoiser(flow), flow, x, samplers.timesteps(flow, 30))
print(f"flow schedule, from t = 1 to 0 in 30 steps: {rms(flowing, heun_in_t(mix.denoiser(flow), flow, x, samplers.timesteps(flow, 300))):.4f} from a run of 300")

# %% [markdown] tags=["solution"]
# **What the figure shows.** Both Heuns are of order 2, and DDIM of order 1. On these steps Heun in $t$ is better from the first: at 8 evaluations by a factor of four, at 140 by a little. Steps even in $t$ are very uneven in $\sigma/\alpha$, and a straight step in $\sigma/\alpha$ pays for that. So "Heun" alone does not name a method: the variable in which its steps are straight belongs to it. On the flow schedule it starts at $t = 1$, where the lesson's Heun would divide by 0.

# %% [markdown]
# ## 4.6 Measure an order (3 points, 20 minutes)
#
# Somebody gives you the errors of a sampler after $n$ steps, at several $n$. By (4.18) they fall like $n^{-p}$, but only between two limits: with few steps the law does not hold yet, and with many the error comes near the `floor`, which is what rounding alone would give. What is within a factor of ten of the floor says little. Return the order $p$. The numbers of steps grow, but need not double. (Tolerance: 0.15.)

# %% tags=["answer:4.6"]
def order(ns, errors, floor):
    """ns: (K,) numbers of steps, growing, errors: (K,), both float64; floor: a number -> the order, one number"""
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
exact, even, counts = mix.denoiser(cosine), lambda n: cosine.t_from_log_snr(torch.linspace(-7, 5, n + 1).double()), torch.tensor([8, 12, 18, 27, 40, 60, 90, 135, 200]).double()
ends, truth = [last(samplers.unipc(exact, cosine, x, even(int(n)))) for n in counts], last(samplers.unipc(exact, cosine, x, even(600)))
lines = {}
for name, unit in {"as they are": 1e-12, "16 bits": 4 / 2**16, "8 bits": 4 / 2**8}.items():
    floor = unit / 6**0.5                                                           # unit^2 / 12 in each of two dimensions
    lines[name] = torch.stack([rms((end / unit).round() * unit, truth) for end in ends])
    above = (lines[name] > 10 * floor).sum()
    print(f"{name:12} floor {floor:.1e}, {above} of {len(counts)} errors are well above; " + (f"order {order(counts, lines[name], floor):.2f}" if above > 1 else "no order can be measured"))
plots.curves(counts, lines, xscale="log", yscale="log", title="One sampler, three formats", xlabel="steps", ylabel="root mean square error")

# %% [markdown] tags=["solution"]
# **What the figure shows.** With few steps the three agree. Kept in 8 bits the error is the floor from about 30 steps on, and a better solver could not show itself. In 16 bits the last usable pair is at 40 and 60 steps, too early for the law: 2.78. Only the unrounded ends show order 3. Judge solvers on floating-point numbers, before an image is written.

# %% [markdown]
# ## 4.7 The best eight evaluations (3 points, 25 minutes)
#
# An experiment. `dpmpp` shall draw the three bumps with 8 evaluations. You choose the nine times: falling, the last one 0. They need not start at $t = 1$ (the first $x$ is then noise of width $\sigma$ at your first time, and the error that this makes counts). This is the mean distance to the exact end of the ODE, for 1,000 starts:

# %%
starts = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).double()
exact = mix.denoiser(cosine)
target = last(samplers.unipc(exact, cosine, starts, samplers.timesteps(cosine, 100, "log_snr")))

def miss(ts):
    """ts: nine falling times -> how far dpmpp's ends are from the exact ones, on average."""
    return (last(samplers.dpmpp(exact, cosine, cosine.sigma(ts[0]) * starts, ts)) - target).norm(dim=1).mean().item()

print(", ".join(f"{spacing} {miss(samplers.timesteps(cosine, 8, spacing)):.4f}" for spacing in samplers.SPACINGS))

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
plots.curves(powers, {f"from t = {start}": torch.tensor([miss(start * (torch.arange(8, -1, -1).double() / 8) ** p) for p in powers.tolist()]) for start in (1.0, 0.98, 0.95, 0.9)},
             title="start * (i / 8) ** power: dpmpp, 8 evaluations", xlabel="power", ylabel="mean distance to the exact end", ylim=(0, 0.1))

# %% tags=["solution"]
g, best = torch.Generator().manual_seed(1), eight()
record = miss(best)
for _ in range(150):                                        # the lengths of the steps, changed a little at random
    lengths = (best[:-1] - best[1:]) * (0.15 * torch.randn(8, generator=g)).exp()
    trial = torch.cat([lengths, torch.zeros(1)]).flip(0).cumsum(0).flip(0).double()
    if trial[0] <= 1 and miss(trial) < record:
        best, record = trial, miss(trial)
print(f"two numbers: {miss(eight()):.4f}; nine numbers: {record:.4f}, at", [round(t, 3) for t in best.tolist()])
other = ring.denoiser(cosine)
truth = last(samplers.unipc(other, cosine, starts, samplers.timesteps(cosine, 100, "log_snr")))
for name, ts in {"even in t": samplers.timesteps(cosine, 8), "quadratic": samplers.timesteps(cosine, 8, "quadratic"), "two numbers": eight(), "nine numbers": best}.items():
    print(f"on the ring of eight bumps, {name:12}: {(last(samplers.dpmpp(other, cosine, cosine.sigma(ts[0]) * starts, ts)) - truth).norm(dim=1).mean():.4f}")

# %% [markdown] tags=["solution"]
# **What this shows.** Powers near 2 are best, and starting a little below $t = 1$ helps: the cosine schedule's first moments are nearly pure noise, and a step is better spent elsewhere. Start too low, and the noise that you start from is no longer right. Nine free numbers get a little lower than two. But on other data they do worse than the plain quadratic grid: nine numbers have learned these three bumps, two numbers could not. A grid that was tuned on one model is a guess for the next.

# %% [markdown]
# ## 4.8 Invert and edit (3 points, 25 minutes)
#
# Here are two kinds of data in the plane, an upper and a lower arc, and an exact denoiser that is told which: `D(x, t, y=labels)`.

# %%
angles = torch.linspace(0.15, 0.85, 12) * math.pi
upper = torch.stack([1.2 * angles.cos(), 0.2 + 0.9 * angles.sin()], dim=1)
arcs = [data.GaussianMixture(upper, 0.08), data.GaussianMixture(upper * torch.tensor([1.0, -1.0]), 0.08)]

def D(x, t, y):
    """x: (B, 2), y: (B,) with 0 for the upper arc and 1 for the lower one"""
    return torch.stack([arc.denoiser(cosine)(x, t) for arc in arcs])[y, torch.arange(len(x))]

# %% [markdown]
# Edit points of the upper arc so that they become points of the lower one, *and stay what they were* in all other respects. First invert with the condition `before`, by (4.31), up to the level $t$ = `strength`; from there ddim goes down with the condition `after`. Both ways take $n$ steps on `samplers.timesteps(schedule, n, start=strength)` (upwards it is flipped). You may call the library's `samplers.ddim_invert` and `samplers.ddim`, or write the steps yourself.

# %% tags=["answer:4.8"]
def edit(D, schedule, x, before, after, n, strength):
    """D: (x, t, y=...) -> guess; x: (B, ...) data, before, after: (B,) conditions, strength: in (0, 1] -> the edited data, (B, ...)"""
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
place, up, down = torch.bucketize(x[:, 0].contiguous(), torch.tensor([-0.8, -0.3, 0.3, 0.8]).double()), torch.zeros(300, dtype=torch.long), torch.ones(300, dtype=torch.long)
clouds = {"before": x} | {f"strength {strength}": edit(D, cosine, x, up, down, 50, strength) for strength in (0.4, 0.7, 1.0)}
plots.scatter(clouds, by=place, limit=1.6, title="From the upper arc to the lower one; colours stay with their points")

# %% tags=["solution"]
for strength in (0.4, 0.6, 0.7, 0.8, 1.0):
    fresh = last(samplers.ddim(D, cosine, cosine.perturb(x, strength, torch.randn_like(x)), samplers.timesteps(cosine, 50, start=strength), y=down))
    row = {"inverted": edit(D, cosine, x, up, down, 50, strength), "fresh noise": fresh}
    arrived = {name: (arcs[1].log_prob(z) > arcs[1].log_prob(arcs[1].sample(2000)).quantile(0.01)).double().mean() for name, z in row.items()}
    kept = {name: torch.stack([x[:, 0], z[:, 0]]).corrcoef()[0, 1] for name, z in row.items()}
    back = rms(edit(D, cosine, x, up, up, 50, strength), x)
    print(f"strength {strength}: " + "; ".join(f"{name}: {arrived[name]:4.0%} arrive, left-right is kept with correlation {kept[name]:5.2f}" for name in row) + f"; there and back misses by {back:.3f}")

# %% [markdown] tags=["solution"]
# **What this shows.** Every point keeps its place from left to right, at every strength: the correlation is 0.93, also at strength 1, where the noise alone carries it. With fresh noise the place is forgotten, the more the higher one goes, and at strength 1 nothing is left. The strength must be high enough to leave the old arc: at 0.4 a quarter of the points do not arrive. So with inversion one can go all the way up and keep what the two kinds have in common; with fresh noise one has to choose between arriving and remembering.

# %% [markdown]
# ## 4.9 Stretch: halve the steps by training (3 points, 35 minutes)
#
# *Progressive distillation* (Salimans and Ho 2022) trains a student to do in one step what its teacher does in two. The teacher takes two deterministic steps (4.8), $\eta = 0$, from $x_t$ to $x_m$ to $x_s$, each with its own guess. The student shall make one such step from $x_t$ and land at the same $x_s$. **Which guess must it make?** Section 4.18 has the formula for one example; derive it without looking, and write it for a batch: each example has its own `t`, `m` and `s`. It must be right from $\alpha_t = 0$ and at $s = 0$, and no gradient may flow through it.

# %% tags=["answer:4.9"]
def student_target(D, schedule, x, t, m, s):
    """D: the teacher, (x, t) -> guess; x: (B, d) at level t; t, m, s: (B,), s < m < t -> the target of the student's guess at (x, t), (B, d)"""
    ### BEGIN SOLUTION
    with torch.no_grad():
        (a_t, b_t), (a_m, b_m), (a_s, b_s) = ((schedule.alpha(r)[:, None].to(x), schedule.sigma(r)[:, None].to(x)) for r in (t, m, s))       # (B, 1) each
        step = lambda x, x0_hat, a, b, a_to, b_to: a_to * x0_hat + b_to * (x - a * x0_hat) / b
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
# Now use it; ten seconds of training suffice for a student that ends within 0.1 of the teacher's eight steps. The teacher is the exact denoiser of a ring of eight bumps, with 8 steps. Train a student for 4 steps (noisy points at $t = k/4$, with $m$ half a step below), take it as the teacher of the next, for 2 steps, and go on to 1. This network will do; let it predict $v$, and start each student from the weights of its teacher, where it has any. Weigh the error of the guess by $1/\sigma_t^2$, which makes it the loss of $v$ (lesson 3).

# %%
class Tiny(nn.Module):
    """x: (B, 2), t: (B,) -> (B, 2)"""

    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(15, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))

    def forward(self, x, t):
        waves = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 5)                  # (B, 6)
        return self.net(torch.cat([x, t[:, None], waves.sin(), waves.cos()], dim=1))

# %% tags=["solution"]
def distil(teacher, n, updates):
    """A student that makes in n steps what the teacher makes in 2 n."""
    student, points = Denoiser(Tiny(), cosine, "v"), ring.sample(20_000)
    if isinstance(teacher, Denoiser):
        student.load_state_dict(teacher.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=8e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / updates)
    for _ in range(updates):
        x0, k = points[torch.randint(20_000, (256,))], torch.randint(1, n + 1, (256,)).double()
        t = k / n
        x = cosine.perturb(x0, t, torch.randn_like(x0))
        error = student(x, t) - student_target(teacher, cosine, x, t, (k - 0.5) / n, (k - 1) / n)
        loss = (error.square().mean(1) / cosine.sigma(t).float() ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return student

# %% tags=["solution"]
torch.manual_seed(0)
exact, noise, fresh = ring.denoiser(cosine), torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)), ring.sample(1000, seed=9)
run = lambda D, n: last(samplers.ddim(D, cosine, noise, samplers.timesteps(cosine, n)))
off = lambda x: 1000 * metrics.gaussian_kernel_distance(x, fresh, width=0.3)
clouds, teacher, goal = {"exact denoiser,\n8 steps": run(exact, 8), "exact denoiser,\n1 step": run(exact, 1)}, exact, run(exact, 8)
for n in (4, 2, 1):
    teacher = distil(teacher, n, 800 if n == 4 else 400)
    clouds[f"student,\n{n} step{'s' * (n > 1)}"] = x = run(teacher, n)
    print(f"{n} step(s): 1000 kernel distance to data: student {off(x):7.2f}, exact denoiser {off(run(exact, n)):7.2f}; the student is {(x - goal).norm(dim=1).mean():.3f} from the exact denoiser's 8 steps")
print(f"8 steps of the exact denoiser: {off(goal):.2f}; data: {off(ring.sample(1000, seed=3)):.2f}")
plots.scatter(clouds, limit=1.5, title="Progressive distillation: the same noises")

# %% [markdown] tags=["solution"]
# **Solution.** Write one step from $t$ to $s$ with an unknown guess $g$: $x_s = \alpha_sg + \frac{\sigma_s}{\sigma_t}(x_t-\alpha_tg)$. Solve for $g$:
#
# $$g = \frac{x_s - \frac{\sigma_s}{\sigma_t}\,x_t}{\alpha_s - \frac{\sigma_s}{\sigma_t}\,\alpha_t}.$$
#
# Below the line nothing is 0: $\alpha/\sigma$ grows towards the data. At $s = 0$ the target is $x_s$ itself.
#
# **What the figure shows.** One step of the exact denoiser returns the mean of all data, one point. One step of the last student draws the ring, and sends each noise to nearly the same place as the teacher's eight steps did (0.04 away, on a ring of radius 1). Most of the remaining error comes from the first student; the later halvings add little. The network does not know more than its teacher: it has learned by heart where the teacher goes.

# %%
check.summary(4)
