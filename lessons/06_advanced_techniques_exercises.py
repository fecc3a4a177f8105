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
# Seven questions, 23 points, about two and a half hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("6.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $x_t = \alpha_t x_0 + \sigma_t\epsilon$ with standard deviations $\alpha$ and $\sigma$, and a denoiser `D(x, t, **condition)` returns its x0-prediction $\hat x_0$. Section numbers are the lesson's. Questions 6.5 and 6.7 need part I, the others part II; the core sections suffice for all. `check.summary` also counts questions 6.8 to 6.12, which come with the lesson's second part.

# %% tags=["setup"]
{{setup}}

# %%
import math

import torch
from scipy.optimize import linear_sum_assignment

from course_lib import Schedule, clip, ddim, last, sde, timesteps
from course_lib.checks import check, hint
from course_lib.lab import attributes, data, noun_parts, plots, tables, train
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

# %%
check.summary(6)
