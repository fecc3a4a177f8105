# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 6 · Exercises
#
# {{badge}}
#
# Twelve questions, 43 points, about five hours; take them in any order. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("6.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $x_t = \alpha_t x_0 + \sigma_t\epsilon$ with standard deviations $\alpha$ and $\sigma$, and a denoiser `D(x, t, **condition)` returns its x0-prediction $\hat x_0$. Section numbers are the lesson's. Questions 6.5 and 6.7 need part I, 6.8 to 6.12 part III, the others part II; the core sections suffice for all.

# %% tags=["setup"]
{{setup}}

# %%
import math

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from course_lib import Schedule, clip, ddim, last, sde, timesteps
from course_lib.checks import check, hint
from course_lib.discrete import MaskedDiffusion, mask_tokens, masked_nll, unmask
from course_lib.lab import attributes, data, noun_parts, plots, tables, train, word_vectors
from course_lib.lab.data.sudoku import every_sudoku, is_sudoku
from course_lib.networks.tokens import TokenTransformer
from course_lib.samplers import step
from course_lib.schedules import append_dims

# %%
torch.manual_seed(0)
# most tensors here are small and gain nothing from a second thread
torch.set_num_threads(1)
flow, cosine = Schedule.flow(), Schedule.cosine()
seeded = lambda k: torch.Generator().manual_seed(k)
randn = lambda *shape, seed: torch.randn(shape, generator=seeded(seed), dtype=torch.float64)

# %% [markdown]
# ## 6.1 Derivation: a Gaussian, backwards (3 points, 20 minutes)
#
# Section 6.9 asked where a point $x_t$ came from, for one small step. For Gaussian data the answer is exact for any step. Let the data be $\mathcal N(0, v)$, one-dimensional. Then $x_s$ and $x_t$, $s < t$, are jointly Gaussian, and so is $q(x_s\mid x_t)$: its mean is a factor times $x_t$, its variance does not depend on $x_t$. Derive both, for any schedule. (Lesson 1's posterior was for a known $x_0$. Here nobody knows it.) The formulas must hold from $\alpha_t = 0$ and to $s = 0$, too.

# %% tags=["answer:6.1"]
def reverse_gaussian(schedule, v, t, s):
    """v: the data's variance; s < t: tensors -> factor, variance of q(x_s | x_t), like t"""
    ### BEGIN SOLUTION
    var_t = schedule.alpha(t) ** 2 * v + schedule.sigma(t) ** 2
    var_s = schedule.alpha(s) ** 2 * v + schedule.sigma(s) ** 2
    ratio = schedule.alpha(t) / schedule.alpha(s)
    return ratio * var_s / var_t, var_s * (1 - ratio**2 * var_s / var_t)
    ### END SOLUTION

# %% tags=["check:6.1"]
check("6.1", reverse_gaussian)
### BEGIN HIDDEN TESTS
assert check.passed("6.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** From $s$ to $t$ the process multiplies by $\rho = \alpha_t/\alpha_s$ and adds noise that is independent of $x_s$. So $\operatorname{Cov}(x_s, x_t) = \rho\operatorname{Var}x_s$. For two jointly Gaussian numbers with mean 0, the mean of one given the other is $\operatorname{Cov}/\operatorname{Var}x_t$ times the other, and what is left of the variance is $\operatorname{Var}x_s - \operatorname{Cov}^2/\operatorname{Var}x_t$:
#
# $$\text{factor} = \rho\,\frac{\operatorname{Var}x_s}{\operatorname{Var}x_t}, \qquad \text{variance} = \operatorname{Var}x_s\Big(1 - \rho^2\,\frac{\operatorname{Var}x_s}{\operatorname{Var}x_t}\Big).$$
#
# Measured on a million pairs, and beside two approximations. The reverse SDE ($\lambda = 1$) in one step has the variance $g^2(t-s)$. The probability-flow ODE has no variance, and its factor is $\sqrt{\operatorname{Var}x_s/\operatorname{Var}x_t}$.

# %% tags=["solution"]
t, v, rows = torch.tensor(0.6).double(), 0.5, []
for s in torch.tensor([0.59, 0.5, 0.3, 0.0]).double():
    x_s = flow.perturb(v**0.5 * randn(1_000_000, seed=0), s, randn(1_000_000, seed=1))
    x_t = flow.renoise(x_s, s, t, seeded(2))
    slope = (x_s * x_t).mean() / x_t.square().mean()
    factor, variance = reverse_gaussian(flow, v, t, s)
    var = lambda u: (1 - u) ** 2 * v + u**2
    rows.append({"s": s, "factor": factor, "factor, measured": slope,
                 "the ODE's": (var(s) / var(t)).sqrt(), "variance": variance,
                 "variance, measured": (x_s - slope * x_t).var(),
                 "the SDE's": sde.diffusion(flow, t) ** 2 * (t - s)})
tables.table(rows, ".4f", caption="From t = 0.6 back to s; flow, data N(0, 0.5)")

# %% [markdown] tags=["solution"]
# **What the table shows.** The measured numbers agree with the formulas. For a step of 0.01 the SDE's variance is 6 % too large. For a step of 0.1 it is 1.8 times too large, and for longer ones it says nothing. The ODE's factor is larger than ours at every $s$: without noise to add, it must not shrink $x_t$ so much.

# %% [markdown]
# ## 6.2 Hutchinson's estimate, from blank (3 points, 20 minutes)
#
# Estimate the divergence of a function $f$, which maps a batch to a batch and treats each example by itself (section 6.13). One probe $z$ of signs, $-1$ or $1$ with equal probability, for each example: $z^\top J z$, where $J$ is the Jacobian of $f$ at that example. Evaluate `f` once and go backwards once. `x` has any number of dimensions, and does not ask for gradients; leave it so. The signs come from `generator`.

# %% tags=["answer:6.2"]
def divergence_estimate(f, x, generator):
    """f: (B, ...) -> (B, ...), differentiable -> z^T J z for each example, (B,)"""
    ### BEGIN SOLUTION
    x = x.detach().requires_grad_()
    z = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
    row = torch.autograd.grad((f(x) * z).sum(), x)[0]             # z^T J of each example
    return (row * z).flatten(1).sum(1)
    ### END SOLUTION

# %% tags=["check:6.2"]
check("6.2", divergence_estimate)
### BEGIN HIDDEN TESTS
assert check.passed("6.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used** on the exact denoiser of eight bumps in 20 dimensions, at one point that is copied 100 times. The mean over the 100 copies is what counts, and how much it varies from batch to batch, over 200 batches. Beside it normal probes, and one probe for the whole batch. What the variance should be was derived in section 6.13.

# %% tags=["solution"]
bumps = data.GaussianMixture(0.4 * randn(8, 20, seed=0), 0.3)
D = bumps.denoiser(flow)
f = lambda x: D(x, torch.tensor(0.5).double())
point = flow.perturb(bumps.sample(1, seed=1).double(), 0.5, randn(1, 20, seed=2))
x = point.requires_grad_()
exact = sde.divergence(f(x), x).item()
copies = point.detach().expand(100, 20)

def with_probe(draw):
    def estimate(f, x, generator):
        x, z = x.detach().requires_grad_(), draw(x, generator)
        return sde.divergence(f(x), x, z)
    return estimate

# %% tags=["solution"]
normal = lambda x, g: torch.randn(x.shape, generator=g, dtype=x.dtype)
one = lambda x, g: normal(x[:1], g).sign().expand_as(x)
rows = {}
for name, estimate in {"signs": divergence_estimate, "normal probes": with_probe(normal),
                       "one probe of signs for all": with_probe(one)}.items():
    batches = torch.stack([estimate(f, copies, seeded(k)) for k in range(200)])
    rows[name] = {"mean": batches.mean(), "deviation of one estimate": batches.std(),
                  "deviation of a batch's mean": batches.mean(1).std()}
print(f"exact: {exact:.2f}")
tables.table(rows, ".2f", index="probe", caption="200 batches of 100 estimates")

# %% [markdown] tags=["solution"]
# **What the table shows.** All three means are within 2.5 standard errors of the exact divergence (which are 0.02, 0.03 and 0.2). One estimate by signs varies less than one by normal probes, because the diagonal of $J$ causes no error. With a probe of its own for each example, the mean of a batch of 100 varies ten times less than one estimate. With one probe for all it varies as much as one estimate. That mistake is quiet: the mean over many batches is right.

# %% [markdown]
# ## 6.3 Bug hunt: a likelihood and a step (5 points, 30 minutes)
#
# Two functions that were put together from public code. The first turns a model's log-density into bits per dimension of 8-bit pictures; `log_prob` expects pictures in $[-1, 1]$, scaled as everywhere in this course: $x = \text{pixels} / 127.5 - 1$. The second is a step of the reverse family by Euler-Maruyama (section 6.9), with $\lambda$ = `lam` and the fresh noise `z`.

# %%
def copied_bits(log_prob, pixels, generator):
    """Bits per dimension of pixels (B, ...), whole numbers from 0 to 255: (B,)"""
    x = pixels / 127.5 - 1
    nats = -log_prob(x) / x[0].numel()
    return nats / math.log(2) + 8                           # 8 bits a pixel

def copied_step(D, schedule, x, t, s, lam, z):
    """From time t to s < t, with lambda = lam, z: fresh noise like x"""
    f, g, h = sde.drift(schedule, t), sde.diffusion(schedule, t), t - s
    x = x + g * h.sqrt() * z
    score = sde.score(D, schedule, x, t)
    slope = f * x - (1 + lam**2) / 2 * g**2 * score
    return x - h * slope + lam * g * h.sqrt() * z

# %% [markdown]
# Two experiments. First a model of digits for which all pixels are independent, with a spike at each of the 256 values: a Gaussian of some width (in levels), times how often the value occurs in training. Bits per dimension of 8-bit data are a number of bits that a code would need. Second the step, 200 times from $t = 0.98$ to $0.02$ for two bumps, with the exact denoiser. Here we know which mean and which deviation must come out for *every* $\lambda$.

# %%
digits_x, test_x = data.mnist("train")[0][:5000], data.mnist("test")[0][:50]
to_levels = lambda x: ((x.double() + 1) * 127.5)
counts = torch.bincount(to_levels(digits_x).round().long().flatten(), minlength=256) + 1.0
none = torch.zeros(1)
# the frequency of -1, 0, ..., 255, 256
log_frequency = torch.cat([none, counts / counts.sum(), none]).log().double()

def spikes(width):
    def log_prob(x):
        level = to_levels(x)
        nearest = level.round()[..., None] + torch.tensor([-1, 0, 1])     # three spikes
        gaussian = torch.distributions.Normal(nearest, width).log_prob(level[..., None])
        log_p = (gaussian + log_frequency[nearest.long().clamp(-1, 256) + 1]).logsumexp(-1)
        return (log_p + math.log(127.5)).flatten(1).sum(1)                # a density of x
    return log_prob

def bits_of(function):
    pixels = to_levels(test_x).round().long()
    return {f"width {w}": function(spikes(w), pixels, seeded(0)).mean()
            for w in (0.3, 0.03, 0.003)}

tables.table({"copied": bits_of(copied_bits)}, ".2f", index="bits per dimension",
             caption="50 test digits")

# %%
pair = data.GaussianMixture([[-1.0], [0.8]], 0.15, [0.3, 0.7])
D_pair = pair.denoiser(flow)
# even in log SNR
ts = flow.t_from_log_snr(
    torch.linspace(flow.log_snr(0.98), flow.log_snr(0.02), 201, dtype=torch.float64))

def walk(step, lam, n=4000):
    x = flow.perturb(pair.sample(n, seed=1).double(), ts[0], randn(n, 1, seed=2))
    for k in range(200):
        z = randn(n, 1, seed=100 + k)
        x = step(D_pair, flow, x, ts[k], ts[k + 1], lam, z)
    return {"mean": x.mean(), "deviation": x.std()}

def walks(name, step):
    return {f"{name}, lambda = {lam}": walk(step, lam) for lam in (0.0, 1.0)}

variance = 0.15**2 + 0.3 * 0.7 * 1.8**2                     # of the data
known = {"exact, at t = 0.02": {"mean": 0.98 * (0.7 * 0.8 - 0.3),
                                "deviation": (0.98**2 * variance + 0.02**2) ** 0.5}}
tables.table(known | walks("copied", copied_step), ".3f", caption="4,000 points")

# %% [markdown]
# There are three bugs, two in the first function and one in the second. Write both as they should be. The library's `sde.drift`, `sde.diffusion` and `sde.score` are right. What is random in the first comes from `generator`.

# %% tags=["answer:6.3"]
def bits_per_dimension(log_prob, pixels, generator):
    """log_prob: pictures in [-1, 1] -> nats, (B,); pixels: (B, ...), 0 to 255 -> (B,)"""
    ### BEGIN SOLUTION
    u = torch.rand(pixels.shape, generator=generator) - 0.5
    x = (pixels + u) / 127.5 - 1
    nats = -log_prob(x) / x[0].numel()
    return nats / math.log(2) + math.log2(127.5)            # a bin is 1 / 127.5 wide
    ### END SOLUTION

def reverse_step(D, schedule, x, t, s, lam, z):
    """From time t to s < t (0-dim. tensors), with lambda = lam, z: fresh noise like x"""
    ### BEGIN SOLUTION
    f, g, h = sde.drift(schedule, t), sde.diffusion(schedule, t), t - s
    score = sde.score(D, schedule, x, t)
    slope = f * x - (1 + lam**2) / 2 * g**2 * score
    return x - h * slope + lam * g * h.sqrt() * z
    ### END SOLUTION

# %% tags=["check:6.3"]
check("6.3", (bits_per_dimension, reverse_step))
### BEGIN HIDDEN TESTS
assert check.passed("6.3")
### END HIDDEN TESTS

# %% tags=["solution"]
rows = {"copied": bits_of(copied_bits), "repaired": bits_of(bits_per_dimension)}
tables.table(rows, ".2f", index="bits per dimension", caption="50 test digits")
tables.table(known | walks("copied", copied_step) | walks("repaired", reverse_step), ".3f",
             caption="4,000 points")

# %% [markdown] tags=["solution"]
# **Solution.** (1) There is no dequantisation. `log_prob` is a density, and at 256 points it can be as large as one likes. So the copied function rewards narrow spikes, down to a negative number of bits, which no code for 8-bit data can need. With uniform noise $u\in[-\frac12,\frac12]$ on the pixels a spike that is narrower than its bin is missed nearly always, and the bits rise. (2) The offset 8 belongs to data in $[0, 1]$. Ours lie in $[-1, 1]$, a bin is $\Delta = 1/127.5$ wide, and $-\log_2\Delta = 6.99$. Public code that serves both kinds of data has 8 for the one and 7 for the other (`offset = 7. - inverse_scaler(-1.)` in Song's score SDE; 7 is exact for bins of 2/256). The two bugs partly hide each other: at the width 0.3 the copied number is wrong by 0.4 bits only.
#
# (3) The noise enters twice. $g\sqrt h\,z$ is added before the score is evaluated, though $x$ has the noise of level $t$ already, and $\lambda g\sqrt h\,z$ is added at the end. The test that finds it is $\lambda = 0$: the step must be Euler's for the ODE then, and must not depend on $z$. The repaired walks end within 0.02 of the exact mean and deviation for both $\lambda$; 4,000 points and 200 steps leave errors of this size. The copied ones are off by 0.14 or more.

# %% [markdown]
# ## 6.4 The same network as a flow (4 points, 20 minutes)
#
# A network that was trained under a variance-preserving schedule can be used as a flow, without a step of training (section 6.11). Write `as_flow` yourself, without `sde.change_schedule`: it takes a denoiser `D` with its schedule `D.schedule` ($\alpha^2+\sigma^2 = 1$), and returns a denoiser under `Schedule.flow()`. It returns a function of $x$, $t$ and conditions, which needs no `.schedule`. That is called with $t$ a number or of shape (B,), passes conditions on, and works at $t = 1$, where sampling starts, and at $t = 0$. `D.schedule.t_from_log_snr` finds a time.

# %% tags=["answer:6.4"]
def as_flow(D):
    """D: (x, t, **condition) -> x0_hat, under D.schedule -> a denoiser under the flow's"""
    ### BEGIN SOLUTION
    def view(x, t, **condition):
        t = torch.as_tensor(t, dtype=torch.float64)
        t_own = D.schedule.t_from_log_snr(Schedule.flow().log_snr(t))
        ratio = ((1 - t) ** 2 + t**2).rsqrt()               # alpha_own / alpha_flow
        return D(append_dims(ratio, x) * x, t_own, **condition)
    return view
    ### END SOLUTION

# %% tags=["check:6.4"]
check("6.4", as_flow)
### BEGIN HIDDEN TESTS
assert check.passed("6.4")
### END HIDDEN TESTS

# %% [markdown]
# Draw ten digits with it: the network `mnist_small`, which has the cosine schedule, `ddim` and 20 steps that are even in the flow's $t$. Compare with the network under its own schedule from the same noise, at its own 20 even times and at the flow's noise levels. And what does the network draw when it is used under the flow schedule just as it is? (A sampler refuses a denoiser whose own schedule is another one, and is right; `lambda x, t, **c: D(x, t, **c)` has none.)

# %% tags=["solution"]
digits = train.load("mnist_small", device="cpu")
y, noise = torch.arange(10), torch.randn(10, 1, 28, 28, generator=seeded(5))
unchanged = lambda x, t, y: digits(x, t, y=y)
run = lambda D, schedule, ts: last(ddim(clip(D), schedule, noise, ts, y=y))
flow_ts = timesteps(flow, 20)
same_levels = cosine.t_from_log_snr(flow.log_snr(flow_ts))
pictures = {"cosine, its own times": run(digits, cosine, timesteps(cosine, 20)),
            "cosine, the flow's levels": run(digits, cosine, same_levels),
            "as a flow": run(as_flow(digits), flow, flow_ts),
            "unchanged": run(unchanged, flow, flow_ts)}
plots.show(pictures, title="One noise in each column")
flow_x = pictures["as a flow"]
rows = {name: {"largest difference": (x - flow_x).abs().max(),
               "root mean square": (x - flow_x).square().mean().sqrt(),
               "background": x.flatten(1).median(1).values.mean()}
        for name, x in pictures.items()}
tables.table(rows, ".3f", index="", caption="Ten digits: differences to \"as a flow\"; "
             "the median pixel")

# %% [markdown] tags=["solution"]
# **Solution.** $x/\alpha$ is the same noisy picture under every schedule, at the same ratio $\alpha/\sigma$. So $t_{\text{own}}$ is where the network's log SNR is the flow's, and $x$ is multiplied by $\alpha_{\text{own}}/\alpha_{\text{flow}}$. At $t = 1$ this divides by 0. For a schedule with $\alpha^2+\sigma^2 = 1$ the ratio is also $1/\sqrt{(1-t)^2+t^2}$, which is never a problem.
#
# **What the figure shows.** At the same noise levels the flow draws the same digits as the cosine schedule (the largest difference is 0.003, of a range of 2). At the cosine schedule's own times the digits differ a little: other levels, another numerical error. Used unchanged, the network draws digits, too! It takes $x$ for a picture of another noise level, so the background stays grey (a median of −0.91, where it should be −0.99), and some strokes are others. Nothing crashes, and one has to compare to see it.

# %% [markdown]
# ## 6.5 Which of them forgot its scale? (2 points, 15 minutes)
#
# An autoencoder's latents have any size they like. The four channels of Stable Diffusion's have standard deviations of 3.3 to 4.6 and means of up to 5.8 (constants in the code of EDM2, Karras et al. 2024); the factor 0.18215 is there to bring them near 1. Here is a toy: latents in the plane, of deviation about 1 and not centred. `draw(c, seed)` is what a latent model draws that was trained on latents $c$ times as large. Its network is perfect, so all that $c$ changes are the noise levels. It has Stable Diffusion's schedule, starts from $\mathcal N(0, \sigma_1^2)$ as everybody does, and takes 20 steps of ddim. At the end the samples are divided by $c$, as a decoder would have it.

# %%
stable = Schedule.scaled_linear()
print(f"at t = 1: alpha {stable.alpha(1.0):.3f}; "
      f"one step before the end: sigma {stable.sigma(0.05):.2f}")
means = torch.tensor([[0.2, 1.2], [2.1, 1.9], [1.9, -0.4]])
latents = data.GaussianMixture(means, 0.3, [0.45, 0.3, 0.25])

def draw(c, seed, n=2000):
    trained_on = data.GaussianMixture(c * latents.means, c * latents.stds, latents.weights)
    x = stable.sigma(1.0) * randn(n, 2, seed=seed)
    return last(ddim(trained_on.denoiser(stable), stable, x, timesteps(stable, 20))) / c

def puzzle(seed):
    """Real latents, the samples of four models, and which of them has another c."""
    g = seeded(seed)
    forgetful = "ABCD"[torch.randint(0, 4, (1,), generator=g).item()]
    large = torch.rand(1, generator=g).item() < 0.5
    c = (5 + 2 * torch.rand(1, generator=g).item()) ** (1 if large else -1)
    drawn = {name: draw(c if name == forgetful else 1.0, 10 * seed + k)
             for k, name in enumerate("ABCD")}
    real = latents.sample(2000, seed=seed).double()
    return real, drawn, (forgetful, "too large" if large else "too small")

# %% [markdown]
# Think first. What do $c = 5$ and $c = 1/5$ do to the noise level at which sampling starts, and to the one from which the last step is made? Then look at samples, and write a function that finds, *from samples alone*, the one model of four that forgot its scale ($c$ between 5 and 7, or between 1/7 and 1/5; the other three have $c = 1$), and says whether its latents were too large or too small. `real` are encoded test pictures in the same unit. The check has other latents of this kind, three clusters in the plane around the mean (1.2, 0.9), and asks six times.

# %% tags=["answer:6.5"]
def forgotten(real, drawn):
    """real: (n, 2); drawn: name -> (n, 2) -> the name, "too large" or "too small" """
    ### BEGIN SOLUTION
    off = {name: (x.mean(0) - real.mean(0)).norm().item() for name, x in drawn.items()}
    name = max(off, key=off.get)
    if off[name] > 0.25:
        return name, "too large"
    deviation = {name: x.std(0).mean().item() for name, x in drawn.items()}
    return min(deviation, key=deviation.get), "too small"
    ### END SOLUTION

# %% tags=["check:6.5"]
check("6.5", forgotten)
### BEGIN HIDDEN TESTS
assert check.passed("6.5")
### END HIDDEN TESTS

# %% tags=["solution"]
real = latents.sample(2000, seed=0).double()
clouds = {"real": real} | {f"c = {name}": draw(c, 1) for name, c in
                           (("1", 1.0), ("5", 5.0), ("1/5", 0.2))}
plots.scatter(clouds, title="Latents, 20 steps", limit=3.2)
rows = {}
for name, x in clouds.items():
    nearest = torch.cdist(x, latents.means).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / len(x)
    rows[name] = {"distance of the means": (x.mean(0) - real.mean(0)).norm(),
                  "deviation": x.std(0).mean()}
    rows[name] |= {f"cluster {k + 1}": share for k, share in enumerate(shares.tolist())}
tables.table(rows, ".2f", index="", caption="2,000 points each, and the clusters' shares")
right = sum(forgotten(*puzzle(k)[:2]) == puzzle(k)[2] for k in range(20))
print(f"{right} of 20 puzzles solved")

# %% [markdown] tags=["solution"]
# **What the figure shows.** $c = 5$: the log SNR is $2\log 5 = 3.2$ higher at every $t$, and at $t = 1$ the latents are still there with a factor of $5\cdot0.068 = 0.34$. So noisy latents have a mean of half a deviation there, and the sampler starts without it. The details are as good as real ones, but the composition is wrong: the second cluster, which lies furthest from 0, gets half of its share. In pictures that would probably be the overall brightness and colour. $c = 1/5$: the start is right, and the shares nearly are. But one step before the end the noise is $0.22$ where a latent's deviation is $0.2$: the last step replaces each point by the mean of all that it could have been, and these means lie between the clusters. In pictures that would probably be blur. Even $c = 1$ is not perfect: a little of both errors is the schedule's and the 20 steps' own.
#
# So a perfect network does not help: the shift alone does this. A real one has spent its training on the wrong levels, too.

# %% [markdown]
# ## 6.6 Optimal transport in a batch (3 points, 20 minutes)
#
# A flow may pair noise and data otherwise than at random (section 6.12 does; nothing of it is needed here). Within a batch, the **optimal-transport coupling** reorders the noises such that the sum of squared distances $\sum_i\|x_0^{(i)}-\epsilon^{(i)}\|^2$ is as small as it can be (Tong et al. 2024; Pooladian et al. 2023). `scipy.optimize.linear_sum_assignment` finds the best assignment for a matrix of costs. Write it for any shape of data. `x0` and `eps` stay as they are.

# %% tags=["answer:6.6"]
def couple(x0, eps):
    """x0, eps: (B, ...) -> eps in another order, such that eps[i] belongs to x0[i]"""
    ### BEGIN SOLUTION
    cost = torch.cdist(x0.flatten(1), eps.flatten(1)).square()    # (B, B)
    _, columns = linear_sum_assignment(cost.numpy())
    return eps[torch.as_tensor(columns)]
    ### END SOLUTION

# %% tags=["check:6.6"]
check("6.6", couple)
### BEGIN HIDDEN TESTS
assert check.passed("6.6")
### END HIDDEN TESTS

# %% [markdown]
# How much shorter do the paths become? Measure the mean of $\|x_0-\epsilon\|^2$ with the coupling, over that of pairs at random, for batches of 8, 64 and 512, once for `data.two_moons` and once for digits. What would you expect in 784 dimensions?

# %% tags=["solution"]
def shortened(x0, B, batches=5):
    """The mean squared length of the paths, coupled over random: one ratio a batch."""
    ratios = []
    for k in range(batches):
        x = x0[torch.randperm(len(x0), generator=seeded(k))[:B]]
        eps = torch.randn(x.shape, generator=seeded(100 + k))
        ratios.append((x - couple(x, eps)).square().sum() / (x - eps).square().sum())
    return torch.stack(ratios)

moons = data.two_moons(4000)
rows = {}
for name, x0 in {"two moons": moons, "digits": digits_x}.items():
    ratios = {B: shortened(x0, B) for B in (8, 64, 512)}
    rows[name] = {f"B = {B}": f"{r.mean():.3f} ± {r.std():.3f}" for B, r in ratios.items()}
tables.table(rows, index="", caption="Squared length, coupled / at random; five batches")

# %% [markdown] tags=["solution"]
# **What the table shows.** In the plane the coupled paths have a sixth of the squared length, and most of that is reached with 64 points. For digits it is 5 % with 512: in 784 dimensions nearly all noises are equally far from a digit, so there is little to choose from. The coupling is a permutation, so the noises are still normal, whatever the batch. (With the nearest noise for each example, repeats allowed, they would not be.)

# %% [markdown]
# ## 6.7 Open: how few channels does Nouns need? (3 points, 30 minutes; the rest is an evening)
#
# The latent of `nouns_vae` has eight channels. Start with what is there: keep some channels of the latent's mean, put all others at their mean over the data (`vae.shift`), decode, and see which of the five parts are still right. **What is the smallest set of channels with which each part is right in at least 95 % of new combinations?** The lesson's table of the eight channels leaves two out at once. Look at 50 figures to screen (about a second a set; a standard error of 3 points at 95 %), and at all 200 to decide. `enough()` returns the list.

# %%
vae = train.load("nouns_vae", device="cpu")
test = data.nouns(200, seed=1, split="test")
with torch.no_grad():
    latent, log_variance = vae.encode(test.x)               # (200, 8, 8, 8) each

def accuracy(channels, n):
    """Attribute accuracy (5,) of the first n, with all other channels at their mean."""
    kept = torch.tensor([k in channels for k in range(8)])[:, None, None]
    with torch.no_grad():
        x = vae.decode(torch.where(kept, latent[:n], vae.shift[:, None, None]))
    return attributes.attributes_correct(x.clamp(-1, 1), test.parts[:n]).double().mean(0)

by_part = lambda values: dict(zip(noun_parts.PARTS, values.tolist()))
tables.table({"all eight": by_part(accuracy(range(8), 50))}, ".0%", caption="50 figures")

# %% tags=["answer:6.7"]
def enough():
    """-> a list of channels, 0 to 7"""
    ### BEGIN SOLUTION
    return [0, 1, 5, 6, 7]
    ### END SOLUTION

# %% tags=["check:6.7"]
check("6.7", enough)
### BEGIN HIDDEN TESTS
assert check.passed("6.7")
### END HIDDEN TESTS

# %% tags=["solution"]
cost = (latent**2 + log_variance.exp() - 1 - log_variance).sum((2, 3)).mean(0) / 2
used = [k for k in range(8) if cost[k] > 1]
print("nats a picture:", {k: round(cost[k].item(), 2) for k in range(8)})
rows = {"all that are used": accuracy(used, 60)}
rows |= {f"without {k}": accuracy(set(used) - {k}, 60) for k in used}
tables.table({name: by_part(values) for name, values in rows.items()}, ".0%",
             caption=f"60 figures; channels {used} are used")
tables.table({"": by_part(accuracy(enough(), 200))}, ".1%",
             caption=f"200 figures, channels {enough()}")

# %% [markdown] tags=["solution"]
# **What the tables show.** Channels 2 and 3 have collapsed: they cost nothing and hold nothing. Of the other six, five can not be left out, and each of them holds something of several parts: there is no channel "head". Channel 4 has the lowest KL of the six, and without it 97 % or more of every part are right. So six channels are used, and five suffice, for these five parts and this measure. The squared error may still need the sixth.

# %% [markdown]
# **The evening.** A decoder that was trained with eight channels was never asked to do with fewer. So train autoencoders with fewer, and on each a diffusion model, and answer: *how few would you ship, and why?* Copy `configs/nouns_vae.toml` to `nouns_vae_5.toml` with `latent_channels = 5`, and `configs/nouns_latent.toml` to `nouns_latent_5.toml` with `latents = "runs/nouns_vae_5/nouns_vae_5.safetensors"` and `channels = 5`; train the first and then the second, by `python -m course_lib.lab.training FILE --seconds 1200`. Then `sampling.text_to_image(D, captions, vae=vae)` draws. No check can see what you did. Mark it yourself, or let a colleague mark it, a yes for each line:
#
# 1. The table has at least three numbers of channels, and for each the attribute accuracy *after decoding* real latents and *after sampling*.
# 2. All autoencoders were trained for the same time, and all diffusion models, and nothing else differs between the rows.
# 3. There are two seeds, $n$ is at least 500 for each number, and differences within the spread are called about equal.
# 4. Both `split="test"` and `split="pairs"` were measured.
# 5. The choice follows from the table, says what it costs, and says which result would have changed it.
#
# Four or five yes are worth two more points, three are worth one.

# %% [markdown]
# ## 6.8 The sampler of masked diffusion, from blank (4 points, 25 minutes)
#
# Write one step of the reverse process of section 6.16, from the time $t$ to $s < t$. The denoiser `D(x, t)` takes texts (B, L) and a time for each, (B,). It returns logits (B, L, V) of the clean tokens. The mask `mask_id` is one of the V tokens, and has a logit that means nothing. Each masked token is revealed or not, independently of the others, with the probability that follows from (6.38). A revealed token is drawn from what the denoiser predicts for its place. Known tokens stay. `x` must stay as it is. Draw everything from `generator`, in float64 (the next question shows why).

# %% tags=["answer:6.8"]
def unmask_step(D, x, t, s, mask_id, generator):
    """x: (B, L) token ids at time t; t, s: numbers, s < t -> x at time s, (B, L)"""
    ### BEGIN SOLUTION
    logits = D(x, torch.full((len(x),), t)).double().clone()            # (B, L, V)
    logits[..., mask_id] = -torch.inf
    u = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    drawn = (logits - (-u.log()).log()).argmax(-1)                      # Gumbel's trick
    v = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return torch.where((x == mask_id) & (v < (t - s) / t), drawn, x)
    ### END SOLUTION

# %% tags=["check:6.8"]
check("6.8", unmask_step)
### BEGIN HIDDEN TESTS
assert check.passed("6.8")
### END HIDDEN TESTS

# %% [markdown]
# What do other probabilities do? Take all 288 solved Sudokus of 4 x 4 for a language, with its *perfect* denoiser. It lists the grids that fit what is known, and answers with the frequency of each number at each place.

# %%
grids = every_sudoku()                                      # (288, 16), numbers 0 to 3
MASK = 4
hot = F.one_hot(grids, 5).double().flatten(1)               # (288, 16 * 5)

def perfect(x, t):
    """log p of each number at each place, all 288 grids being equally likely: (B, 16, 5)"""
    known = F.one_hot(x, 5) * (x != MASK)[..., None]
    fits = known.double().flatten(1) @ hot.T == (x != MASK).sum(1, keepdim=True)
    p = fits.double() @ hot / fits.sum(1, keepdim=True).clamp(min=1)    # (B, 16 * 5)
    return p.clamp(min=1e-9).log().view(*x.shape, 5)

# %% [markdown] tags=["solution"]
# **Solution.** By (6.38) a masked token was already masked at $s$ with probability $s/t$. So it is revealed with probability $(t-s)/t$. Below, 16 steps with this probability and with three others that are easily written. A step of your function from 1 to $1-r$ reveals with probability $r$, and this denoiser does not look at the time.

# %% tags=["solution"]
rates = {"(t - s) / t": lambda t, s: (t - s) / t, "t - s": lambda t, s: t - s,
         "(t - s) / (1 - s)": lambda t, s: (t - s) / (1 - s), "s / t": lambda t, s: s / t}

def walk(rate, n):
    """The masks that are left on the way through n steps, and the share of solved grids"""
    x, g, row = torch.full((1000, 16), MASK), seeded(0), {}
    for k in range(n, 0, -1):
        t, s = k / n, (k - 1) / n
        x = unmask_step(perfect, x, 1.0, 1 - rate(t, s), MASK, g)
        if s in (0.75, 0.5, 0.25, 0.0):
            row[f"masked at {s:g}"] = (x == MASK).double().mean()
    return row | {"solved": is_sudoku(x, 2, 2).double().mean()}

rows = {name: walk(rate, 16) for name, rate in rates.items()}
rows["(t - s) / t, 64 steps"] = walk(rates["(t - s) / t"], 64)
tables.table(rows, ".1%", index="revealed with", caption="1,000 grids, 16 steps")

# %% [markdown] tags=["solution"]
# **What the table shows.** Only the right probability leaves a share $s$ of the tokens masked at $s$. With $t-s$, 36 % stay masked to the end, $(15/16)^{16}$. The other two reveal nearly everything in the first step: from $t=1$, $(t-s)/(1-s)$ is 1 and $s/t$ is $15/16$. Then no mask is left, every place has a number, and none of 1,000 grids is solved, with a perfect denoiser: tokens that are revealed together are drawn independently (section 6.17). This is the mistake to fear, since single tokens look right. For the same reason the right probability solves 64 % in 16 steps and 88 % in 64: the fewer steps, the more often two tokens share one.

# %% [markdown]
# ## 6.9 Bug hunt: a bound and its noise (5 points, 30 minutes)
#
# Two functions that were put together in a hurry, with bugs that such code has had elsewhere. The first is to estimate the bound (6.40), in nats *per token*: one time $t$ and one mask for each text. The second draws a token for each place by **Gumbel's trick**: if $u_i$ are independent and uniform in $(0, 1)$, the largest of the numbers $\log p_i - \log(-\log u_i)$ is number $i$ with probability $p_i$.

# %%
def copied_bound(D, x0, mask_id, generator):
    """D: (x, t) -> logits (B, L, V); x0: (B, L) -> the bound in nats per token, (B,)"""
    t = 1 - torch.rand(len(x0), generator=generator)                    # in (0, 1]
    masked = torch.rand(x0.shape, generator=generator) < t[:, None]     # (B, L)
    logits = D(torch.where(masked, mask_id, x0), t)
    nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")  # (B, L)
    return nll.mean(1)

def copied_draw(log_p, generator):
    """log_p: (..., V) -> a token for each place, (...)"""
    u = torch.rand(log_p.shape, generator=generator, dtype=torch.bfloat16)
    return (log_p - (-u.log()).log()).argmax(-1)

# %% [markdown]
# Two experiments. First the bound of the perfect denoiser of the Sudokus. By (6.42) it is the entropy of the language, $\log 288$ nats for 16 tokens. A network has logits for the mask, too, and at known places it says whatever it likes, since nobody trained it there. So has this one. Then the draw: from 254 words of equal probability, and from a thousand words with the probabilities of **Zipf's law**, $p_i\propto 1/i$.

# %%
def careless(x, t):
    """The perfect denoiser at masked places, as a network would have it elsewhere"""
    logits = perfect(x, t).where((x == MASK)[..., None], 0.0)
    logits[..., MASK] = -1.0
    return logits

def bound_of(function, n=20_000):
    x0 = grids[torch.randint(288, (n,), generator=seeded(1))]
    nats = function(careless, x0, MASK, seeded(0))
    return {"nats per token": nats.mean(), "standard error": nats.std() / n**0.5}

entropy = {"nats per token": math.log(288) / 16, "standard error": 0.0}
tables.table({"the entropy": entropy, "copied": bound_of(copied_bound)}, ".3f",
             caption="The bound of a perfect denoiser, 20,000 texts")

# %%
equal = torch.full((254,), 1 / 254)
zipf = 1 / torch.arange(1, 1001)
zipf = zipf / zipf.sum()

def shares_of(draw, n=10_000):
    first = draw(equal.log().expand(n, -1), seeded(0)) < 127
    rare = draw(zipf.log().expand(n, -1), seeded(1)) >= 500
    return {"first half of 254 equal words": first.double().mean(),
            "rarest half of 1,000": rare.double().mean()}

exact = {"first half of 254 equal words": 0.5, "rarest half of 1,000": zipf[500:].sum()}
tables.table({"exact": exact, "copied": shares_of(copied_draw)}, ".2%",
             caption="10,000 draws each")

# %% [markdown]
# There are four bugs, three in the first function and one in the second. Write both as they should be. `masked_bound` returns one estimate for each text; it masks each token with probability $t$, where $t$ is uniform in $(0, 1]$.

# %% tags=["answer:6.9"]
def masked_bound(D, x0, mask_id, generator):
    """D: (x, t) -> logits (B, L, V); x0: (B, L) -> the bound in nats per token, (B,)"""
    ### BEGIN SOLUTION
    t = 1 - torch.rand(len(x0), generator=generator)
    masked = torch.rand(x0.shape, generator=generator) < t[:, None]
    logits = D(torch.where(masked, mask_id, x0), t).clone()
    logits[..., mask_id] = -torch.inf
    nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
    return torch.where(masked, nll, 0).sum(1) / t / x0.shape[1]
    ### END SOLUTION

def draw_tokens(log_p, generator):
    """log_p: (..., V) -> a token for each place, (...)"""
    ### BEGIN SOLUTION
    u = torch.rand(log_p.shape, generator=generator, dtype=torch.float64)
    return (log_p - (-u.log()).log()).argmax(-1)
    ### END SOLUTION

# %% tags=["check:6.9"]
check("6.9", (masked_bound, draw_tokens))
### BEGIN HIDDEN TESTS
assert check.passed("6.9")
### END HIDDEN TESTS

# %% tags=["solution"]
def variant(weight=True, masked_only=True, words_only=True, per_mask=False):
    """The bound with some of its parts"""
    def function(D, x0, mask_id, generator):
        t = 1 - torch.rand(len(x0), generator=generator)
        masked = torch.rand(x0.shape, generator=generator) < t[:, None]
        logits = D(torch.where(masked, mask_id, x0), t)
        logits[..., mask_id] += -torch.inf if words_only else 0.0
        nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
        nll = torch.where(masked, nll, 0) if masked_only else nll
        count = masked.sum(1).clamp(min=1) if per_mask else x0.shape[1]
        return nll.sum(1) / count / (t if weight else 1)
    return function

variants = {"repaired": masked_bound, "only the weight is missing": variant(weight=False),
            "only known places are counted, too": variant(masked_only=False),
            "only the mask is in the softmax": variant(words_only=False),
            "mean over the masks, no weight": variant(weight=False, per_mask=True)}
rows = {"the entropy": entropy} | {name: bound_of(f) for name, f in variants.items()}
tables.table(rows, ".3f", caption="The bound of a perfect denoiser, 20,000 texts")
tables.table({"exact": exact, "repaired": shares_of(draw_tokens)}, ".2%",
             caption="10,000 draws each")

# %% [markdown] tags=["solution"]
# **Solution.** In the bound, (1) the mean runs over all places, but (6.40) is a sum over the masked ones, divided by $L$ for nats per token. Nobody trained what the network says elsewhere. (2) The weight $1/t$ is missing. (3) The mask is in the softmax, and takes probability that belongs to words. The table has each of them alone. Without the weight the number lies *below* the entropy, where no bound can be on average. With known places and the weight $1/t$ the mean does not even exist: $\int dt/t$ diverges at 0, and the standard error is large. The mask's logit costs 0.31 nats. Together they give 1.18, which could pass for the bound of a poor network: only a denoiser whose entropy is known betrays it.
#
# The last row is a line that is often seen, the mean over the masks of a text without any weight. It is nearly right. By (6.41) each number $k$ of masks has the same weight in the bound, and with $t$ uniform each $k$ from 0 to $L$ is equally likely. So the mean over the masks is $\frac L{L+1}$ of the bound per token on average, here 0.333: as a loss it is as good, but no bound. Divided by the masks of a whole batch, it is neither.
#
# In the draw, $u$ has 256 values in bfloat16. Of 254 equal words often two have the same $u$, and the first of them wins: 62 % for the first half. And $-\log(-\log u)$ is at most 5.5, so a word whose $\log p$ lies further below the winner's value is never drawn: of the rarest 500 words not one in 10,000 draws.
#
# **How much is lost?** A word of probability $q$ has to beat all others. The largest of *their* values is again a Gumbel variable, with $\log(1-q)$ added. So given its $u$ the word wins with probability $\exp\big(-\frac{1-q}q\cdot(-\log u)\big) = u^{(1-q)/q}$, and for exact $u$ that makes $\int_0^1u^{(1-q)/q}du = q$, as it should. If $u$ is a multiple of $\delta$ below 1, the integral becomes a sum, $\delta\sum_k(k\delta)^{(1-q)/q}$. For small $q$ its terms, from the last one on, are $\delta e^{-\delta/q}, \delta e^{-2\delta/q},\dots$, so what is left of $q$ is
#
# $$\frac{P(\text{drawn})}q \approx \frac{x}{e^x-1}, \qquad x = \frac\delta q$$
#
# with $\delta = 2^{-8}$ for bfloat16, $2^{-11}$ for float16, $2^{-24}$ for float32 and $2^{-53}$ for float64. First it is measured. Then 50,000 words of Zipf's law are drawn, once directly, and once as samplers in public code do it: the mask is one of the candidates, with probability $s/t$, and a word has $\frac{t-s}t\,p_i$. Its loss in float32 is computed by the formula. To measure it would take billions of draws.

# %% tags=["solution"]
def share_drawn(q, dtype, n=1_000_000):
    """How often a word of probability q is drawn, against four others, over q"""
    log_p = torch.tensor([q] + [(1 - q) / 4] * 4).log()
    u = torch.rand(n, 5, generator=seeded(0), dtype=dtype)
    return ((log_p - (-u.log()).log()).argmax(-1) == 0).double().mean() / q

def kept(q, step):
    """The same, by the formula, where u is a multiple of the step"""
    return (step / q) / torch.expm1(step / q)

rows = {}
for q in (0.1, 0.01, 0.003, 0.001):
    rows[f"q = {q}"] = {
        "bfloat16": share_drawn(q, torch.bfloat16), "formula": kept(torch.tensor(q), 2**-8),
        "float16": share_drawn(q, torch.float16), "formula ": kept(torch.tensor(q), 2**-11),
        "float64": share_drawn(q, torch.float64)}
tables.table(rows, ".2f", index="", caption="Frequency over q, a million draws")

# %% tags=["solution"]
words = 1 / torch.arange(1, 50_001).double()
words = words / words.sum()
ends = [0, 100, 1000, 10_000, 50_000]

def by_rank(p):
    return {f"{a + 1:,} to {b:,}": p[a:b].sum() for a, b in zip(ends, ends[1:])}

def drawn_words(dtype, n):
    """Frequencies of n draws from the 50,000 words"""
    counts, g = torch.zeros(50_000), seeded(0)
    for _ in range(n // 100):
        u = torch.rand(100, 50_000, generator=g, dtype=dtype)
        drawn = (words.log() - (-u.log()).log()).argmax(-1)
        counts += torch.bincount(drawn, minlength=50_000)
    return counts / n

def walked_words(N, step):
    """The same for N steps in which the mask competes, by the formula"""
    found, masked = torch.zeros_like(words), 1.0
    for k in range(N, 0, -1):                               # from t = k / N to (k - 1) / N
        drawn = words / k * kept(words / k, step)
        drawn = drawn / drawn.sum() if k == 1 else drawn    # no mask in the last step
        found, masked = found + masked * drawn, masked * (1 - drawn.sum())
    return found

# %% tags=["solution"]
rows = {"exact": by_rank(words)}
rows |= {"bfloat16, 500 draws": by_rank(drawn_words(torch.bfloat16, 500)),
         "float32, 2,500 draws": by_rank(drawn_words(torch.float32, 2500)),
         "float32, one draw, computed": by_rank(walked_words(1, 2**-24)),
         "float32, 100 steps, computed": by_rank(walked_words(100, 2**-24)),
         "float32, 1,000 steps, computed": by_rank(walked_words(1000, 2**-24)),
         "float64, 1,000 steps, computed": by_rank(walked_words(1000, 2**-53))}
tables.table(rows, ".1%", index="ranks", caption="Share of the text, 50,000 words")

# %% [markdown] tags=["solution"]
# **What the tables show.** The formula is within 0.03 of what was measured. In bfloat16 a direct draw loses nearly all words beyond the hundredth. In float32 it does no harm: the shares of 2,500 draws are within about two standard errors (at most one point each), and computed they differ by 0.1 points. But where the mask competes in each of 1,000 steps, most steps give a word less than a hundredth of its probability, and for rare words that is too little for 24 bits: the rarest 40,000 words fall from 14.1 % of the text to 2.7 %, and the hundred most frequent rise from 46 to 58 %. More steps make it worse. Zheng et al. (2024, *Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate categorical sampling*) found this in published samplers. They show that it lowers the effective temperature, and that scores which do not see the lost variety were flattered by it. float64 repairs it. To decide first *whether* a token is revealed, as in 6.8, avoids most of it: that is the row "one draw". The figures' captions hide it: a word of probability 1/254 loses less than 1 % in every step.

# %% [markdown]
# ## 6.10 Frames and space (4 points, 25 minutes)
#
# Two functions for clips (B, F, C, H, W). The first applies a layer to the frames of each place. `attend` takes sequences (N, F, C), such as an attention layer does, and returns (N, F, C). This version was copied, and every shape is right:

# %%
def copied_over_frames(attend, x):
    """attend: (N, F, C) -> (N, F, C), along the frames; x: (B, F, C, H, W) -> like x"""
    B, frames, C, H, W = x.shape
    return attend(x.reshape(B * H * W, frames, C)).reshape(x.shape)

mean = lambda h: h.mean(1, keepdim=True).expand_as(h)       # of all frames, for each
numbered = torch.arange(5.0)[None, :, None, None, None].expand(2, 5, 3, 4, 6)
per_frame = lambda x: dict(enumerate(x.mean((0, 2, 3, 4)).tolist()))
rows = {"before": per_frame(numbered), "wanted: the mean of all": per_frame(mean(numbered)),
        "copied": per_frame(copied_over_frames(mean, numbered)),
        "copied, a layer that changes nothing": per_frame(
            copied_over_frames(lambda h: h, numbered))}
tables.table(rows, ".2f", index="frame", caption="Frame k has the value k everywhere")

# %% [markdown]
# Repair it. The second function you write from blank: one step of DDIM, from the level $t$ to $s < t$, for new frames that follow *known* ones (section 6.19). The known frames are clean, and the denoiser has to be told so: `D(clip, times)` takes a time for each frame, (B, F). The known frames come first. `samplers.step(schedule, x, x0_hat, t, s)` is there.

# %% tags=["answer:6.10"]
def over_frames(attend, x):
    """attend: (N, F, C) -> (N, F, C), along the frames; x: (B, F, C, H, W) -> like x"""
    ### BEGIN SOLUTION
    h = x.permute(0, 3, 4, 1, 2)                            # (B, H, W, F, C)
    out = attend(h.flatten(0, 2))                           # (B H W, F, C)
    return out.reshape(h.shape).permute(0, 3, 4, 1, 2)      # the same permute leads back
    ### END SOLUTION

def next_frames(D, schedule, known, x, t, s):
    """known: (B, K, ...), clean; x: (B, n, ...) at level t; t, s: numbers

    D: (clip (B, K + n, ...), times (B, K + n)) -> x0_hat of the clip -> x at level s
    """
    ### BEGIN SOLUTION
    B, K, n = len(x), known.shape[1], x.shape[1]
    times = torch.cat([torch.zeros(B, K), torch.full((B, n), t)], 1).double()
    x0_hat = D(torch.cat([known, x], 1), times)[:, K:]
    return step(schedule, x, x0_hat, t, s)
    ### END SOLUTION

# %% tags=["check:6.10"]
check("6.10", (over_frames, next_frames))
### BEGIN HIDDEN TESTS
assert check.passed("6.10")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** A reshape reads the numbers in the order in which they lie in memory, and there the last dimension runs fastest. So the copied version cuts each clip into pieces of $F\cdot C$ neighbouring pixels of *one* frame, and mixes those. Neither a shape nor a layer that changes nothing reveals it.
#
# **And the times?** Here are clips of one pixel, whose frames are a Gaussian process with correlation 0.9 from frame to frame. Its exact denoiser is linear, for any times. Two frames are known, two follow, in 20 steps. Beside your function two mistakes: the clean frames are passed with the time $t$, as a network without times for each frame would have it; and the known frames get noise of level $t$, new in each step, so that the time $t$ is right for them.

# %% tags=["solution"]
number = torch.arange(4).double()
covariance = 0.9 ** (number[:, None] - number).abs()

def exact(clip, times):
    """x0_hat of the process; all clips have the same times"""
    alpha, sigma = flow.alpha(times[0]), flow.sigma(times[0])
    noisy = alpha[:, None] * covariance * alpha + torch.diag(sigma**2)
    return clip @ (covariance * alpha @ noisy.inverse()).T  # (B, 4)

def one_time(D, schedule, known, x, t, s, noisy=False):
    """The known frames at the time t, as they are or with noise of that level"""
    eps = torch.randn(known.shape, generator=g, dtype=known.dtype)
    past = schedule.perturb(known, t, eps) if noisy else known
    x0_hat = D(torch.cat([past, x], 1), torch.full((len(x), 4), t).double())[:, 2:]
    return step(schedule, x, x0_hat, t, s)

# %% tags=["solution"]
n, rows = 20_000, {}
noisy = lambda *arguments: one_time(*arguments, noisy=True)
for name, method, steps in (
        ("times 0 and t", next_frames, 20), ("times 0 and t, 100 steps", next_frames, 100),
        ("clean, time t for all", one_time, 20), ("noisy, time t for all", noisy, 20)):
    g = seeded(0)
    normal = lambda k: torch.randn(n, k, generator=g, dtype=torch.float64)
    known, x = (normal(4) @ torch.linalg.cholesky(covariance).T)[:, :2], normal(2)
    for k in range(steps, 0, -1):
        x = method(exact, flow, known, x, k / steps, (k - 1) / steps)
    r = torch.corrcoef(torch.cat([known, x], 1).T)
    rows[name] = {"last known, first new": r[1, 2], "first new, second new": r[2, 3],
                  "deviation of the first new": x[:, 0].std()}
rows["the process"] = dict(zip(rows["times 0 and t"], (0.9, 0.9, 1.0)))
tables.table(rows, ".3f", index="", caption="Correlations, 20,000 clips, 20 steps of DDIM")

# %% [markdown] tags=["solution"]
# **What the table shows.** With the times 0 and $t$ the new frames follow the known ones as the process does. What is missing in 20 steps is the steps' error, since 100 steps are nearer. If the clean frames are passed with the time $t$, the new frames agree with each other but follow the known ones less, 0.80 in place of 0.90. The denoiser takes a clean frame for a noisy one, so it trusts it too little, and undoes a scaling that was not there. With honest noise of level $t$ the times are right, and it is worse, 0.59, and the frames' deviation is too small: probably because the noise hides what is known while the level is high, where the new frames begin to take shape. So a time for each frame is more than a detail.

# %% [markdown]
# ## 6.11 A set has no order (3 points, 20 minutes)
#
# This network takes sets of points (B, P, 3), and returns a vector for each point. The points of a set have no order: a permuted list is the same set. So the outputs should be permuted in the same way, and stay the same otherwise. Such a network is called **permutation-equivariant**. This one is not:

# %%
class CopiedNet(nn.Module):
    """Points (B, P, 3) -> a vector for each, (B, P, 3)"""

    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Linear(3, dim)
        self.positions = nn.Parameter(0.1 * torch.randn(64, dim))
        self.mix = nn.Conv1d(dim, dim, 5, padding=2)
        self.out = nn.Sequential(
            nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 3))

    def forward(self, x):
        h = self.embed(x) + self.positions[: x.shape[1]]                # (B, P, dim)
        h = h + self.mix(h.transpose(1, 2)).transpose(1, 2)
        return self.out(h)

def order_error(net, x):
    """The largest change of the outputs by a permutation, over their deviation"""
    order = torch.randperm(x.shape[1], generator=seeded(1))
    with torch.no_grad():
        y = net(x)
        return (net(x[:, order]) - y[:, order]).abs().max() / y.std()

print(f"copied: {order_error(CopiedNet(), torch.randn(8, 32, 3, generator=seeded(0))):.2g}")

# %% [markdown]
# Make it equivariant, for any number of points. Each point's output must still depend on the other points of its set, and on no other set of the batch. It must be continuous, too: no sorting. The check draws all weights anew.

# %% tags=["answer:6.11"]
class SetNet(nn.Module):
    """Points (B, P, 3) -> a vector for each, (B, P, 3), in any order"""

    def __init__(self, dim=32):
        super().__init__()
        ### BEGIN SOLUTION
        self.embed = nn.Linear(3, dim)
        self.mix = nn.Linear(dim, dim)
        self.out = nn.Sequential(
            nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 3))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        h = self.embed(x)                                               # (B, P, dim)
        h = h + self.mix(h.mean(1, keepdim=True))
        return self.out(h)
        ### END SOLUTION

# %% tags=["check:6.11"]
check("6.11", SetNet)
### BEGIN HIDDEN TESTS
assert check.passed("6.11")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Two layers know the list: the positions, and the convolution, which mixes neighbours in the list. A mean over the points (dimension 1) mixes all points and knows no order (Zaheer et al. 2017, Deep sets). A maximum does (Qi et al. 2017, PointNet), and so does attention without positions. An MLP for each point is equivariant as well, and *blind*: a point knows nothing of its set.
#
# **What is it worth to see the others?** Sets of 32 points around a centre of their own, with noise of level 0.5. To denoise a point one should know the centre, and the set tells it. All is Gaussian, so the least possible error is known: from one point, from five, from all.

# %% tags=["solution"]
def sets(n, seed):
    """Clean points and noisy ones, (n, 32, 3) each"""
    g = seeded(seed)
    draw = lambda *shape: torch.randn(shape, generator=g)
    x0 = draw(n, 1, 3) + 0.3 * draw(n, 32, 3)
    return x0, 0.5 * x0 + 0.5 * draw(n, 32, 3)

def least_error(P):
    """The variance of a coordinate, given P noisy points of its set"""
    C = torch.ones(P, P) + 0.09 * torch.eye(P)
    noisy = 0.25 * C + 0.25 * torch.eye(P)
    return (C - 0.25 * C @ noisy.inverse() @ C)[0, 0]

class Blind(SetNet):
    def forward(self, x):
        return self.out(self.embed(x))

def trained(net, steps=300):
    x0, x = sets(64 * steps, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for clean, noisy in zip(x0.split(64), x.split(64)):
        optimizer.zero_grad()
        (net(noisy) - clean).square().mean().backward()
        optimizer.step()
    return net

# %% tags=["solution"]
x0, x = sets(4000, seed=1)
rows = {}
kinds = {"copied": (CopiedNet, 5), "blind": (Blind, 1), "SetNet": (SetNet, 32)}
for name, (kind, P) in kinds.items():
    torch.manual_seed(0)
    net = trained(kind())
    with torch.no_grad():
        error = (net(x) - x0).square().mean()
    rows[name] = {"points seen": P, "least error": least_error(P), "squared error": error,
                  "change by a permutation": order_error(net, x)}
tables.table(rows, {"least error": ".4f", "squared error": ".4f",
                    "change by a permutation": ".1e"},
             caption="4,000 new sets of 32 points; 300 steps of training")

# %% [markdown] tags=["solution"]
# **What the table shows.** SetNet comes within 3 % of the least error that is possible from all 32 points. The blind network is equivariant to the last digit, and stays near what one point tells, more than four times as much. The copied network sees five neighbours in the list (fewer at its ends), and comes near what five points tell. And its outputs change with the order, by up to 2.3 times their deviation.

# %% [markdown]
# ## 6.12 Open: a text of your own (4 points, 45 minutes)
#
# Train a small masked diffusion on texts of your own: names, places, lines of a poem, recipes, sequences of chords. It takes at least 50 short texts, all different; a few hundred are better. The list `word_vectors.load_vectors().index` has 4,731 English words, in case you have none at hand. Hold out every fifth text of the sorted list, `sorted(texts)[::5]`, and train on the others, for a minute at most. (`train.train` takes a `MaskedDiffusion(TokenTransformer(...), mask_id)` as it takes a `Denoiser`; the data are `{"x0": ids}`. Give it `steps`, not seconds.) Then measure, and return a dict:
#
# * `"texts"`: the list of strings; `"encode"`: a function from a list of texts to token ids (N, L) int64, padded to one length; `"model"`: the trained `MaskedDiffusion`.
# * `"bound"`: the bound (6.40) of the held-out texts, in nats per token, from at least 8,000 draws of $t$ and masks in all.
# * `"by place"`: what a model would have that looks at nothing but the place: the mean of $-\log p$ over the tokens of the held-out texts, in nats. Here $p$ is the token's frequency at this place in the training texts, with 1 added to each count (and no mask).
# * `"near"`: of 500 samples or more, drawn by `unmask` in 30 even steps, the share that differs from some training text in one token at most. `"near held out"`: the same share of the held-out texts. It is what copying has to be compared with.
#
# The check computes all four numbers anew, from your texts and your model. It wants them right, the bound below "by place" by more than two standard errors, and samples that differ from each other. What you trained on it cannot see.

# %% tags=["solution"]
texts = sorted(w for w in word_vectors.load_vectors().index
               if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 10)
L, mask_id = 10, 27

def encode(texts):
    """Letters are 1 to 26, and 0 fills up to ten ("`" stands before "a"): (N, 10)"""
    return torch.tensor([[ord(c) - 96 for c in text.ljust(L, "`")] for text in texts])

def decode(tokens):
    return ["".join(chr(96 + k) for k in row).replace("`", "") for row in tokens.tolist()]

ids = encode(texts)
held = torch.arange(len(ids)) % 5 == 0
train_x, held_x = ids[~held], ids[held]
torch.manual_seed(0)
net = TokenTransformer(28, L, dim=32, depth=2)
model = train.train(MaskedDiffusion(net, mask_id), {"x0": train_x}, steps=800,
                    batch_size=64, lr=4e-3, device="cpu")

# %% tags=["solution"]
@torch.no_grad()
def bound(x0, times=16):
    """The bound of each text in nats per token, (N,), a mean over evenly spread t"""
    g, nats = seeded(0), 0.0
    for k in range(times):
        t = (k + 1 - torch.rand(len(x0), generator=g).double()) / times
        x = mask_tokens(x0, t, mask_id, g)
        nats = nats + masked_nll(model(x, t), x0, x, t, mask_id) / L / times
    return nats

def distance(x):
    """In how many tokens each text differs from the nearest training text; which one"""
    return (x[:, None] != train_x).sum(2).min(1)

counts = F.one_hot(train_x, 27).sum(0).double() + 1         # (L, 27)
log_p = (counts / counts.sum(1, keepdim=True)).log()
by_place = -log_p.gather(1, held_x.T).mean(0)               # (N,)
samples = last(unmask(model, torch.full((500, L), mask_id), torch.linspace(1, 0, 31),
                      mask_id, generator=seeded(1)))
share = lambda x, most: (distance(x).values <= most).double().mean().item()

# %% tags=["answer:6.12"]
def report():
    """-> a dict with texts, encode, model, bound, by place, near, near held out"""
    ### BEGIN SOLUTION
    return {"texts": texts, "encode": encode, "model": model,
            "bound": bound(held_x).mean().item(), "by place": by_place.mean().item(),
            "near": share(samples, 1), "near held out": share(held_x, 1)}
    ### END SOLUTION

# %% tags=["check:6.12"]
check("6.12", report)
### BEGIN HIDDEN TESTS
assert check.passed("6.12")
### END HIDDEN TESTS

# %% tags=["solution"]
nats = bound(held_x).double()
gain = by_place - nats
print(f"{len(texts):,} words, {len(held_x)} held out. Nats per token: {nats.mean():.2f}, "
      f"by place {by_place.mean():.2f}, difference {gain.mean():.3f}, its standard error "
      f"{gain.std() / len(gain)**0.5:.3f}; training words {bound(train_x[::4]).mean():.2f}")
tables.table({name: {"copies": share(x, 0), "near": share(x, 1)} for name, x in
              {"500 samples": samples, "held-out words": held_x}.items()}, ".0%",
             caption="Share that differs from a training word in no letter, in one at most")
which = decode(train_x[distance(samples[:12]).indices])
pairs = zip(decode(samples[:12]), which)
tables.table([{"sample": a, "nearest training word": b} for a, b in pairs])

# %% [markdown] tags=["solution"]
# **What the tables show.** The bound is 0.23 nats per letter below "by place", 17 standard errors. For training words it is about the same, 1.79 and 1.81, so there is no sign of memorising. 1 % of the samples are training words, and 15 % differ from one in a letter at most. Of real words that were held out 49 % do, and they were not copied: a word has relatives. So this model hardly copies: its samples lie further from the training words than real words do. It is the second row that says so; 15 % alone would mean nothing.

# %%
check.summary(6)
