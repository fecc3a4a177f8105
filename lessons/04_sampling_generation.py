# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 4 · Sampling, from a thousand steps to two
#
# {{badge}}
#
# Training made one network. To sample with it, lesson 1 evaluated it a thousand times. This lesson asks how few evaluations will do, and what each of the well-known samplers does differently: first on data that we know exactly, then on the shipped model of digits at equal cost, and last with networks that are trained once more so that one or two evaluations suffice.
#
# **After this lesson you can** derive ancestral sampling, DDIM, the probability-flow ODE, Heun's method and DPM-Solver++, and say what each costs; measure a sampler's order; choose the timesteps; compare samplers honestly; find the sampler behind a name in diffusers or a web interface; and train a network to jump.
#
# **You need** lessons 1 and 3 (from lesson 2 only that a network has weights). **It takes** about 4 minutes to run on two CPU cores. The exercises are in `exercises/04_sampling_generation.ipynb`.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 4.1 What a step costs | core | 3 | the number of function evaluations |
# | 4.2 Ancestral sampling, and its two variances | core | 10 | the posterior for a step of any size |
# | 4.3 DDIM | core | 12 | a family with the same marginals, with and without noise |
# | 4.4 Sampling as an ODE | core | 8 | DDIM is Euler's method; the probability-flow ODE |
# | 4.5 What noise is good for | core | 7 | the reverse-time SDE; what noise repairs |
# | 4.5 A learned model's errors | deeper | 4 | does noise repair them? |
# | 4.5 Langevin dynamics | deeper | 8 | the proof that noise forgets errors |
# | 4.6 Order | core | 6 | how errors fall with the steps; Heun |
# | 4.7 DPM-Solver++ | core | 9 | an exponential integrator, and orders measured |
# | 4.7 Third order | deeper | 8 | `dpmpp_3m` and UniPC, built |
# | 4.8 Where to put the steps | core | 7 | four spacings of the timesteps |
# | 4.9 Churn | deeper | 6 | Karras et al.'s stochastic sampler |
# | 4.10 Predictions out of range | core | 3 | clipping |
# | 4.10 Dynamic thresholding | deeper | 3 | for strong guidance |
# | 4.11 Interpolation | deeper | 4 | slerp |
# | 4.11 Inversion | deeper | 6 | from a picture back to its noise |
# | 4.12 What is fair | core | 10 | eleven samplers on one model, with floors; five with spreads |
# | 4.13 The table of the DDIM paper | deeper | 6 | does it repeat on digits? |
# | 4.14 Guidance and the ranking | core | 4 | compare with the guidance that you will use |
# | 4.15 Digits and their noise | deeper | 6 | interpolation and inversion with a network |
# | 4.16 Any data, any schedule | deeper | 2 | photographs, on EDM's schedule |
# | 4.17 Consistency | core | 12 | one or two evaluations, with a teacher |
# | 4.17 Without a teacher | deeper | 6 | consistency training |
# | 4.18 Progressive distillation | deeper | 5 | two steps in one |
# | 4.19 Flow maps | deeper | 10 | MeanFlow, shortcut models |
# | 4.20 Names you will meet | core | 5 | a map: "Euler a", "DPM++ 2M Karras", diffusers' classes |
# | 4.20 Reflow, DMD, LCM | deeper | 3 | three more ways to few steps |
#
# The core sections read well alone.
#
# **Our conventions.** The time $t$ is in [0, 1], 0 is data, 1 is noise; samplers step down from $t$ to $s < t$; $x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon$, where $\sigma_t = \sigma(t)$ is a standard deviation and $\alpha_t = \alpha(t)$ a factor, not their squares. $w = 1$ is no guidance. In 4.2 $w$ is a width; in 4.7 $u$ is a difference of $\lambda$ and $w_j$ a weight; in 4.10 $s$ is a quantile; in 4.19 $u$ is a mean velocity, as in the paper. Sigma-hat is a choice of variance, but in 4.9 a noise level; $K$ is a rate in 4.6, a count in 4.7. (4.42) stands in 4.5.

# %% tags=["setup"]
{{setup}}

# %%
import math
import warnings

import torch
from torch import nn

from course_lib import Consistency, Denoiser, Schedule, clip, guidance, last, samplers
from course_lib.lab import data, metrics, plots, tables, train, widgets
from course_lib.lab.notebook import diagrams
from course_lib.samplers import timesteps
from course_lib.schedules import randn_like

torch.manual_seed(0)
cosine = Schedule.cosine()
# lesson 1's spiral, with a thinner arm
angle = torch.linspace(1.0, (3.5 * math.pi) ** 2, 60).sqrt()
arm = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / 7       # (60, 2)
spiral = data.GaussianMixture(arm - arm.mean(0), stds=0.05)
# part I works on small tensors, which gain nothing from a second thread
threads = torch.get_num_threads()
torch.set_num_threads(1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part I · The theory, on data we know exactly
#
# ## 4.1 What a step costs
#
# A sampler spends its time in the network; all the rest is a few multiplications. So its price is the **number of function evaluations** (NFE) of the denoiser, here *evaluations*. Steps are no fair measure, since some samplers take two evaluations a step; seconds measure the machine, too. **What happens to lesson 1's sampler when it gets fewer?** In this part every denoiser is exact, unless we say otherwise: whatever goes wrong is the sampler's fault.

# %%
noise = torch.randn(2000, 2, generator=seeded(0))
exact = spiral.denoiser(cosine)
clouds = {}
for n in (100, 20, 10, 5):
    ts = timesteps(cosine, n)
    x = last(samplers.ancestral(exact, cosine, noise, ts, generator=seeded(1)))
    clouds[f"{n} evaluations"] = x
plots.scatter(clouds, title="Ancestral sampling, a perfect denoiser", limit=1.8)

# %% [markdown]
# **What the figure shows.** With 100 evaluations the samples look like the spiral. With 20 the arm is too thin, with 10 points are left over between the turns, and 5 give a disc. The denoiser is perfect in all four; what errs is the step.
#
# ## 4.2 Ancestral sampling, and its two variances
#
# Lesson 1's sampler, **ancestral sampling**, stepped from $t$ to $t-1$. Now we want to jump, from any level $t$ to any cleaner level $s < t$. Write $\alpha_t, \sigma_t$ for $\alpha(t), \sigma(t)$. **What lies between two levels?** Noise is added: $x_t = \alpha_{t|s}\,x_s + \sigma_{t|s}\,z$ with a new draw $z$. The factor on the data must become $\alpha_t$ and the variances must add up to $\sigma_t^2$, so
#
# $$\alpha_{t|s} = \frac{\alpha_t}{\alpha_s}, \qquad \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2\,\sigma_s^2 \tag{4.1}$$
#
# This is $\sqrt{\alpha_t}$ and $\beta_t$ of lesson 1 for a step of any size. So its reverse step (1.17), (1.18) holds with the new letters: multiply the Gaussian $q(x_t\mid x_s)$, as a function of $x_s$ of mean $x_t/\alpha_{t|s}$ and variance $\sigma_{t|s}^2/\alpha_{t|s}^2$, by $q(x_s\mid x_0)$. The inverse variances add to $\frac{\alpha_{t|s}^2}{\sigma_{t|s}^2} + \frac1{\sigma_s^2} = \frac{\sigma_t^2}{\sigma_{t|s}^2\sigma_s^2}$, and
#
# $$q(x_s\mid x_t, x_0) = \mathcal N\Big(\frac{\alpha_{t|s}\sigma_s^2}{\sigma_t^2}\,x_t + \frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2}\,x_0,\ \tilde\sigma^2 I\Big), \qquad \tilde\sigma = \frac{\sigma_s\,\sigma_{t|s}}{\sigma_t} \tag{4.2}$$
#
# This is the **posterior**. The sampler puts the **prediction** $\hat x_0$ (`x0_hat` in the code) in place of $x_0$. **And which variance?** $\tilde\sigma^2$ is right where $x_0$ is known. Here it is not: given $x_t$ alone, $x_0$ itself is uncertain, and since $x_0$ enters with the second factor of (4.2), independently of the posterior's own noise,
#
# $$\operatorname{Var}(x_s\mid x_t) = \tilde\sigma^2 + \Big(\frac{\alpha_s\sigma_{t|s}^2}{\sigma_t^2}\Big)^2\operatorname{Var}(x_0\mid x_t) \tag{4.3}$$
#
# If the data is a single point, this is $\tilde\sigma^2$. If the data is $\mathcal N(0, 1)$ and $\alpha^2+\sigma^2 = 1$, then $\operatorname{Var}(x_0\mid x_t) = \sigma_t^2$, the sum is $\frac{\sigma_{t|s}^2}{\sigma_t^2}\big(\sigma_s^2 + \alpha_s^2\sigma_{t|s}^2\big)$, and with $\alpha_s^2\sigma_{t|s}^2 = \alpha_s^2\sigma_t^2 - \alpha_t^2\sigma_s^2 = \sigma_t^2 - \sigma_s^2$ it is $\sigma_{t|s}^2$. So Ho et al.'s two choices, the **posterior variance** $\tilde\sigma^2$ (lesson 1's $\tilde\beta$; `variance="posterior"`) and $\sigma_{t|s}^2$ (its $\beta$; `variance="beta"`; the DDIM paper writes $\hat\sigma$, sigma-hat), are right for two kinds of data, and real data lies between.

# %%
def coefficients(schedule, t, s):
    return schedule.alpha(t), schedule.sigma(t), schedule.alpha(s), schedule.sigma(s)


@torch.no_grad()
def ancestral(D, schedule, x, ts, *, variance="posterior", generator=None, **condition):
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        alpha_t, sigma_t, alpha_s, sigma_s = coefficients(schedule, t, s)
        ratio = alpha_t / alpha_s                                       # alpha_{t|s}
        std_ts = (sigma_t**2 - (ratio * sigma_s) ** 2).sqrt()           # sigma_{t|s}
        x0_hat = D(x, t, **condition)
        x = ratio * (sigma_s / sigma_t) ** 2 * x
        x = x + alpha_s * (std_ts / sigma_t) ** 2 * x0_hat
        std = std_ts * (s > 0) if variance == "beta" else sigma_s * std_ts / sigma_t
        if std > 0:
            x = x + std * randn_like(x, generator)
        yield x

# %%
two_values = data.GaussianMixture([[-1.0], [1.0]], 0.1, [0.3, 0.7])
exact = two_values.denoiser(cosine)
line = torch.randn(1000, 1, generator=seeded(2), dtype=torch.float64)
ten = timesteps(cosine, 10)
for variance in ("posterior", "beta"):
    ends = [last(f(exact, cosine, line, ten, variance=variance, generator=seeded(3)))
            for f in (ancestral, samplers.ancestral)]
    torch.testing.assert_close(*ends)
print("course_lib's ancestral agrees")

# %% [markdown]
# **How much does the choice matter?** For data $\mathcal N(0, w^2)$ the exact denoiser is linear (lesson 3, (3.28)), so every state is Gaussian and its variance can be followed in closed form. How wide are the samples, in units of $w$?

# %%
def final_width(w, n, variance):
    """Standard deviation of the samples / w, after n steps, for data N(0, w^2)."""
    ts = timesteps(cosine, n)
    V = (cosine.alpha(ts[0]) * w) ** 2 + cosine.sigma(ts[0]) ** 2
    for t, s in zip(ts[:-1], ts[1:]):
        alpha_t, sigma_t, alpha_s, sigma_s = coefficients(cosine, t, s)
        ratio = alpha_t / alpha_s
        var_ts = sigma_t**2 - (ratio * sigma_s) ** 2
        # the exact denoiser: x0_hat = gain * x
        gain = alpha_t * w**2 / (alpha_t**2 * w**2 + sigma_t**2)
        slope = ratio * (sigma_s / sigma_t) ** 2 + alpha_s * var_ts / sigma_t**2 * gain
        var = var_ts * (s > 0) if variance == "beta" else var_ts * (sigma_s / sigma_t) ** 2
        V = slope**2 * V + var
    return V.sqrt() / w

# %%
counts = torch.tensor([5, 10, 20, 50, 100, 200, 500, 1000])
names = {"posterior": "posterior", "beta (sigma-hat)": "beta"}


def widths(w, variance):
    return torch.stack([final_width(w, n, variance) for n in counts.tolist()])


panels = {}
for w in (0.02, 0.1, 1.0):
    panels[f"data of width {w}"] = {name: widths(w, v) for name, v in names.items()}
plots.panels(counts, panels, title="Two variances", xlabel="steps",
             ylabel="width / w", xscale="log", ylim=(0, 1.15))
rows = {f"{panel}, {name}": dict(zip(counts.tolist(), ratio))
        for panel, group in panels.items() for name, ratio in group.items()}
tables.table(rows, ".3f", "Width of the samples / w, by steps")

# %% [markdown]
# **What they show.** The posterior's samples are too thin in all three panels, most where the data is narrow: with 50 steps 0.41, 0.79 and 0.96 of the right width. Sigma-hat is nearer to 1 throughout; in the middle panel it overshoots by 5 %. Both approach the data as the steps become many; at width 0.02 the posterior is still about a tenth too thin with 1,000. That is for a perfect denoiser. With a trained one on CIFAR-10, Song, Meng and Ermon (2021, table 1) report with 10 steps FID 41 for the posterior and 367 for sigma-hat; with 1,000 steps 4.7 and 3.2. So the choice cannot be made from this theory alone.
#
# ## 4.3 DDIM: the same marginals, any amount of noise
#
# **Must a step add noise at all?** Training never used the forward process as a *sequence*: the loss contains $q(x_t\mid x_0)$ at single levels, and nothing about how $x_t$ and $x_s$ belong together. So any rule for the step will do that keeps the marginals. Suppose we knew $x_0$. Then $\epsilon = (x_t - \alpha_t x_0)/\sigma_t$ is known, too. Keep some of it and replace the rest by a fresh draw $z$ with a standard deviation $v$ of our choice, $0\le v\le\sigma_s$:
#
# $$x_s = \alpha_s\,x_0 + \sqrt{\sigma_s^2 - v^2}\;\frac{x_t-\alpha_t x_0}{\sigma_t} + v\,z \tag{4.4}$$
#
# If $x_t = \alpha_t x_0 + \sigma_t\epsilon$ with Gaussian $\epsilon$, the two parts of noise are independent, and by (1.1) their sum has the variance
#
# $$(\sigma_s^2 - v^2) + v^2 = \sigma_s^2, \qquad\text{so}\qquad x_s\mid x_0 \sim \mathcal N(\alpha_s x_0,\ \sigma_s^2 I) \tag{4.5}$$
#
# whatever $v$ is; and so on, step by step, down to the data. This is the family of Song, Meng and Ermon (2021). Most of its members are not *Markov*: in the forward process that belongs to them every step depends on $x_0$. One is: if $v = \tilde\sigma$,
#
# $$\sqrt{\sigma_s^2-\tilde\sigma^2} = \frac{\sigma_s}{\sigma_t}\sqrt{\sigma_t^2 - \sigma_{t|s}^2} = \frac{\alpha_{t|s}\,\sigma_s^2}{\sigma_t} \tag{4.6}$$
#
# which divided by $\sigma_t$ is the factor of $x_t$ in (4.2); and the factor on $x_0$ is $\alpha_s - \alpha_t\alpha_{t|s}\sigma_s^2/\sigma_t^2 = \alpha_s\,(\sigma_t^2-\alpha_{t|s}^2\sigma_s^2)/\sigma_t^2$, as there. So write $v = \eta\,\tilde\sigma$: $\eta = 1$ is ancestral sampling, $\eta = 0$ is **DDIM** (denoising diffusion implicit models), without noise.
#
# **Does each $\eta$ need a network of its own?** The bound (1.22) compares, in each step, two Gaussians of variance $v^2$, one with $x_0$ and one with $\hat x_0$ in (4.4). By (1.3) that is
#
# $$\mathrm{KL} = \frac1{2v^2}\Big(\alpha_s - \frac{\alpha_t}{\sigma_t}\sqrt{\sigma_s^2-v^2}\Big)^2\|x_0-\hat x_0\|^2 \tag{4.7}$$
#
# once more a weighted denoising error. The weights differ from level to level and with $v$, but at each level the minimum is the same conditional mean. So one network serves the whole family, *if it can fit every level*: a network that cannot must divide its errors among the levels, and then the weights decide. For $v=0$ the bound does not exist, but the step is the limit, and it uses the same mean. With its prediction, and $\hat\epsilon = (x_t-\alpha_t\hat x_0)/\sigma_t$, the step is
#
# $$x_s = \alpha_s\,\hat x_0 + \sqrt{\sigma_s^2-\eta^2\tilde\sigma^2}\;\hat\epsilon + \eta\,\tilde\sigma\,z \tag{4.8}$$

# %%
@torch.no_grad()
def ddim(D, schedule, x, ts, *, eta=0.0, generator=None, **condition):
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        alpha_t, sigma_t, alpha_s, sigma_s = coefficients(schedule, t, s)
        std_ts = (sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2).sqrt()
        v = eta * sigma_s / sigma_t * std_ts
        x0_hat = D(x, t, **condition)
        eps_hat = (x - alpha_t * x0_hat) / sigma_t
        x = alpha_s * x0_hat + (sigma_s**2 - v**2).sqrt() * eps_hat
        if v > 0:
            x = x + v * randn_like(x, generator)
        yield x

# %%
for eta in (0.0, 0.5, 1.0):
    ends = [last(f(exact, cosine, line, ten, eta=eta, generator=seeded(3)))
            for f in (ddim, samplers.ddim)]
    torch.testing.assert_close(*ends)
posterior = last(ancestral(exact, cosine, line, ten, generator=seeded(3)))
torch.testing.assert_close(ends[0], posterior)
print("course_lib's ddim agrees, and eta = 1 is ancestral, draw by draw")

# %% [markdown]
# **Which $\eta$ is best when steps are few?** On a line the distance between samples and data is easy to compute: sort both; the mean distance from each sample to the data's quantile of the same rank is the **Wasserstein distance**. The first draw is taken at 20,000 even quantiles (the floor is for random draws); the noise added later is drawn three times (mean and standard deviation).

# %%
n = 20_000
ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
values = torch.linspace(-2, 2, 40_001, dtype=torch.float64)
three = data.GaussianMixture([[-0.9], [0.0], [0.8]], [0.06, 0.15, 0.06], [0.25, 0.25, 0.5])
mass = three.log_prob(values[:, None]).softmax(0).cumsum(0)
quantiles = values[torch.searchsorted(mass, ranks)]                     # (n,) of the data


def wasserstein(x):
    return (x[:, 0].double().sort().values - quantiles).abs().mean().item()

# %%
exact = three.denoiser(cosine)
even = (2**0.5 * torch.erfinv(2 * ranks - 1))[:, None]           # (n, 1), the first draw


def over_draws(f, ts, **options):
    """Mean +- standard deviation over three draws of the added noise."""
    draws = 1 if options.get("eta") == 0 else 3              # eta = 0 draws nothing
    runs = [last(f(exact, cosine, even, ts, generator=seeded(k), **options))
            for k in range(draws)]
    d = torch.tensor([wasserstein(x) for x in runs])
    if draws == 1:
        return f"{d.mean():.4f}"
    return f"{d.mean():.4f} +- {d.std():.4f}"


rows = []
for steps in (5, 10, 20, 50):
    ts = timesteps(cosine, steps)
    row = {"steps": steps}
    for eta in (0, 0.2, 0.5, 1):
        row[f"eta {eta}"] = over_draws(ddim, ts, eta=eta)
    row["sigma-hat"] = over_draws(ancestral, ts, variance="beta")
    rows.append(row)
baseline = torch.tensor([wasserstein(three.sample(n, seed=k)) for k in range(10)])
tables.table(rows, caption="Wasserstein distance of 20,000 samples to the data (random "
             f"draws of the data: {baseline.mean():.4f} +- {baseline.std():.4f})")

# %% [markdown]
# **What the table shows.** Within the family $\eta=1$ has the largest error at every count, by more than its spread: 0.158 against 0.123 at $\eta=0$ with 5 steps, 0.038 against 0.029 with 20. Between $\eta=0.2$ and $0.5$ the difference is about the spread. The number of steps matters far more. Sigma-hat, outside the family, has the smallest error with 5 steps (0.089); with 10, 20 and 50 it is about equal to $\eta=0$.
#
# ## 4.4 Without noise, sampling is an ODE
#
# At $\eta=0$ nothing is random. **What is this rule, when steps get smaller and smaller?** Divide (4.8) by $\alpha_s$, and write $\bar x = x/\alpha$ and $\bar\sigma = \sigma/\alpha$ (EDM's image and noise level, (1.34)). Since $\bar x_t = \hat x_0 + \bar\sigma_t\hat\epsilon$,
#
# $$\bar x_s = \hat x_0 + \bar\sigma_s\,\hat\epsilon = \bar x_t + (\bar\sigma_s-\bar\sigma_t)\,\hat\epsilon \tag{4.9}$$
#
# A straight step along a slope: **Euler's method** for the ordinary differential equation
#
# $$\frac{d\bar x}{d\bar\sigma} = \hat\epsilon(x_t, t) \tag{4.10}$$
#
# In the time $t$ (a prime is a derivative by $t$): $x = \alpha\bar x$ gives $x' = \alpha'\bar x + \alpha\,\bar\sigma'\hat\epsilon$, with $\alpha\bar\sigma' = \sigma' - \sigma\alpha'/\alpha$ and $\alpha'\bar x = \alpha'\hat x_0 + \alpha'\sigma\hat\epsilon/\alpha$. Two terms cancel:
#
# $$\frac{dx_t}{dt} = \alpha'\,\hat x_0(x_t,t) + \sigma'\,\hat\epsilon(x_t,t) \tag{4.11}$$
#
# For $\alpha = 1-t$, $\sigma = t$ that is $\hat\epsilon-\hat x_0$: the flow of section 3.3. **Does the ODE have the right marginals for every schedule?** The argument of (3.8) needs no straight lines. Take $x_t = \alpha x_0+\sigma\epsilon$ with the exact conditional means. For a smooth $f$,
#
# $$\frac{d}{dt}\,\mathbb E f(x_t) = \mathbb E\big[\nabla f(x_t)\cdot(\alpha' x_0 + \sigma'\epsilon)\big] = \mathbb E\big[\nabla f(x_t)\cdot(\alpha'\hat x_0 + \sigma'\hat\epsilon)\big] \tag{4.12}$$
#
# First the average is taken over what passes through $x_t$, then over $x_t$. Particles that follow (4.11) obey the same rule by the chain rule. So they have the distribution of $x_t$ at every $t$ if they have it at one. With the score, $\hat\epsilon = -\sigma\nabla\log q_t$ by (1.29) and $\hat x_0 = (x-\sigma\hat\epsilon)/\alpha$, it reads
#
# $$\frac{dx}{dt} = \frac{\alpha'}{\alpha}\,x - \frac{g^2}2\,\nabla\log q_t(x), \qquad g^2 = 2\sigma\sigma' - 2\sigma^2\,\frac{\alpha'}\alpha \tag{4.13}$$
#
# This is the **probability-flow ODE** of Song et al. (2021). It turns each noise into one image, always the same. Look at the **trajectories** (paths) from five noises, with and without noise on the way:

# %%
few = torch.tensor([[-1.5], [-0.6], [0.1], [0.7], [1.6]], dtype=torch.float64)
ts = timesteps(cosine, 200)
paths = {}
for eta in (0, 1):
    states = ddim(exact, cosine, few, ts, eta=eta, generator=seeded(5))
    paths[f"eta = {eta}"] = torch.cat(list(states), dim=1)              # (5, 201)
names = [f"{z:.1f}" for z in few[:, 0].tolist()]
plots.panels(ts, {eta: dict(zip(names, x)) for eta, x in paths.items()},
             title="Five trajectories, named by x at t = 1", xlabel="t   (data → noise)",
             ylabel="x")


def fraction_below(x, t):
    """The fraction of q_t that lies below x.   x: (N,), t: a number -> (N,)"""
    std = ((cosine.alpha(t) * three.stds) ** 2 + cosine.sigma(t) ** 2).sqrt()       # (3,)
    z = (x[:, None] - cosine.alpha(t) * three.means[:, 0]) / std                    # (N, 3)
    return (three.weights * torch.special.ndtr(z)).sum(1)


rows = []
for k in (0, 100, 160, 200):
    fractions = fraction_below(paths["eta = 0"][:, k], ts[k])
    rows.append({"t": f"{ts[k]:.1f}"} | dict(zip(names, fractions)))
tables.table(rows, ".3f", "eta = 0: the fraction of the distribution below each path")

# %%
many = torch.randn(4000, 1, generator=seeded(6), dtype=torch.float64)
for eta in (0, 1):
    ends = last(ddim(exact, cosine, many, ts, eta=eta, generator=seeded(7)))
    ranks_of_both = [x[:, 0].argsort().argsort().double() for x in (many, ends)]
    r = torch.corrcoef(torch.stack(ranks_of_both))[0, 1]
    print(f"eta = {eta}: rank correlation of start and end, 4,000 starts: {r:.2f}")
begin = fraction_below(few[:, 0], ts[0])
for n in (100, 200, 400):
    ends = last(ddim(exact, cosine, few, timesteps(cosine, n)))[:, 0]
    change = (fraction_below(ends, ts[-1]) - begin).abs().max()
    print(f"eta = 0, {n} steps: a fraction changes by at most {change:.4f}")

# %% [markdown]
# **What the figure shows.** Without noise the paths are smooth and do not cross; with noise they wander, and where a trajectory began says next to nothing about where it ends (rank correlation 0.01). The fractions in the table check (4.12): on a line, particles that cannot cross keep their rank. A path that starts above 54 % of the noise stays above 54 % of $q_t$; the error at the end, at most 0.009, halves when the steps double.
#
# ## 4.5 What noise is good for
#
# If noise costs accuracy, why add any? In small steps a step with noise is a step of the ODE, and then fresh noise of variance $v^2$ with a push towards denser data that just balances it. For $v=\eta\,\tilde\sigma$ and small steps $v^2 = \eta^2g^2\,|dt|$, with the $g$ of (4.13); so the whole family follows, in a time that runs backwards,
#
# $$dx = \Big[\frac{\alpha'}{\alpha}\,x - \frac{1+\eta^2}2\,g^2\,\nabla\log q_t(x)\Big]dt + \eta\,g\,d\bar w \tag{4.42}$$
#
# $d\bar w$ is noise of variance $|dt|$. At $\eta=0$ this is the ODE; at $\eta=1$, ancestral sampling, it is the **reverse-time SDE** of Anderson (1982) and Song et al. (2021). All have the same marginals $q_t$. They differ in what they do with a cloud that does *not* have them: **noise makes the cloud forget errors that were made before**. The ODE keeps them. The deeper part derives both.
#
# **See it.** Start at level $t$ with a cloud whose fractions of the two bumps are wrong, 0.7 on the left instead of 0.3, and let the exact denoiser finish.

# %%
wrong = data.GaussianMixture([[-1.0], [1.0]], 0.1, [0.7, 0.3])
exact2 = two_values.denoiser(cosine)
times = torch.arange(0.1, 1.0, 0.1)


def fraction_on_the_right(t, eta):
    """Of samples that started at level t with the wrong cloud."""
    eps = torch.randn(4000, 1, generator=seeded(2))
    x = cosine.perturb(wrong.sample(4000, seed=1), t, eps)
    ts = timesteps(cosine, 60, start=t)
    x = last(ddim(exact2, cosine, x, ts, eta=eta, generator=seeded(3)))
    return (x > 0).float().mean()


fractions = {}
for eta in (0.0, 0.5, 1.0):
    ends = [fraction_on_the_right(t, eta) for t in times.tolist()]
    fractions[f"eta = {eta}"] = torch.stack(ends)
plots.curves(times, fractions | {"the data": torch.full((9,), 0.7)},
             title="A wrong start, 0.3 on the right", ylim=(0.25, 0.75),
             xlabel="t where the wrong cloud starts",
             ylabel="fraction that ends on the right")

# %% [markdown]
# **What the figure shows.** Where the wrong cloud starts at low noise, nothing helps: the bumps are too far apart. Where it starts at high noise, both kinds of cloud were nearly the same to begin with. Between, the gap between the curves is what noise repairs: started at $t = 0.8$, $\eta = 1$ ends at 0.68 and the ODE at 0.61, from $t = 0.5$ at 0.51 instead of 0.45. A fraction of 4,000 samples has a standard deviation of at most 0.008; all curves start from one cloud.
#
# ### A learned model's errors · deeper
#
# **And a learned model's errors?** A learned model errs anew at each level: noise can repair only the errors of earlier (noisier) levels, and the prediction that follows brings errors of its own. Which wins has to be measured. Train a tiny network on the spiral, twice briefly and three times for longer, and count the *strays*: samples where the data's density is lower than at 99 % of the data. The noise on the way is drawn with three seeds each.

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

# %%
def trained(target, updates, seed=0):
    torch.manual_seed(seed)
    D = Denoiser(Tiny(), cosine, target)
    points = spiral.sample(20_000)
    optimizer = torch.optim.AdamW(D.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / updates)
    for _ in range(updates):
        loss = D.loss(points[torch.randint(20_000, (512,))], torch.rand(512)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return D

# %%
fresh = spiral.sample(2000, seed=9)
limit = spiral.log_prob(spiral.sample(20_000, seed=5)).quantile(0.01)


def strays(x):
    return (spiral.log_prob(x) < limit).double().mean().item()


def kernel_distance(x):
    return 1000 * metrics.gaussian_kernel_distance(x, fresh, width=0.3)


# %%
def floor(mixture, n=2000, measure=kernel_distance, digits=2):
    """Mean +- standard deviation over eight new draws of the data."""
    draws = [measure(mixture.sample(n, seed=k)) for k in range(20, 28)]
    draws = torch.tensor(draws)
    return f"{draws.mean():.{digits}f} +- {draws.std():.{digits}f}"


def with_noise(D, model, seed, eta):
    """A row: strays and kernel distance, +- over three draws of the noise on the way."""
    ts = timesteps(cosine, 100)
    ends = [last(ddim(D, cosine, noise, ts, eta=eta, generator=seeded(k)))
            for k in range(3 if eta else 1)]
    d = torch.tensor([kernel_distance(x) for x in ends])
    return {"denoiser": model, "training seed": seed, "eta": f"{eta:g}",
            "strays": sum(strays(x) for x in ends) / len(ends),
            "1000 kernel distance": f"{d.mean():.2f} +- {d.std():.2f}" if eta else d.mean()}

# %%
etas = (0.0, 0.5, 1.0)
rows = [with_noise(spiral.denoiser(cosine), "exact", None, eta) for eta in etas]
for updates, seed in ((300, 0), (300, 1), (1500, 0), (1500, 1), (1500, 2)):
    D = trained("v", updates, seed)
    rows += [with_noise(D, f"{updates:,} updates", seed, eta) for eta in etas]
percent = floor(spiral, measure=lambda x: 100 * strays(x), digits=1)
spiral_floor = floor(spiral)
tables.table(rows, {"strays": ".2%", "1000 kernel distance": ".2f"},
             f"2,000 samples each; eight draws of the data: strays ({percent}) %, "
             f"1000 kernel distance {spiral_floor}")

# %% [markdown]
# **What the table shows.** Noise lowers the strays of the exact denoiser, too, which has no error to repair: from 0.8 % to 0.1 %. Its posterior noise makes the arm too thin (4.2), and the kernel distance does not fall. So fewer strays alone prove no repair. After 1,500 updates noise lowers them in each of three trainings: 31 to 33 % at $\eta=0$, 27 to 29 % at 0.5, 25 to 27 % at 1; a part of that may be the thinner arm. After 300 updates it does not: 72 to 73 % everywhere. The kernel distance after 300 updates is lowest at $\eta=0.5$; after 1,500 the three are about equal. So noise may correct a learned model. Whether it does must be measured for each model, and with the measure that counts.
#
# ### Langevin dynamics: why noise forgets · deeper
#
# By $\sqrt{\sigma_s^2-v^2} = \sigma_s - \frac{v^2}{2\sigma_s} + O(v^4)$, and since $\hat\epsilon = -\sigma\nabla\log q$,
#
# $$\sqrt{\sigma_s^2-v^2}\;\hat\epsilon + v\,z = \sigma_s\,\hat\epsilon + \tfrac{v^2}2\,\nabla\log q + v\,z + O(v^4) \tag{4.14}$$
#
# Here $\hat\epsilon$ is computed at level $s$; the step computes it at $t$, which in a small step changes nothing to this order. So a step with noise is a step of the ODE, and then a random process that stays at its level: $dx = \frac12\nabla\log q\,d\tau + dw$ for a "time" $\tau = v^2$, where $dw$ is noise of variance $d\tau$. This is **Langevin dynamics**. With (4.13) it gives (4.42). What does it do to a cloud with density $p$? For a smooth $f$, expand $f(x + \frac\tau2\nabla\log q + \sqrt\tau z)$ to first order in $\tau$ and average over $z$: the push gives $\frac\tau2\nabla f\cdot\nabla\log q$, the noise $\frac\tau2\Delta f$, where $\Delta f$ is the sum of second derivatives. Integrate by parts, $\int p\,\Delta f = -\int\nabla p\cdot\nabla f$, and write $\nabla p = p\,\nabla\log p$:
#
# $$\frac{d}{d\tau}\,\mathbb E_p f = \tfrac12\,\mathbb E_p\big[\nabla f\cdot\nabla\log q + \Delta f\big] = \tfrac12\,\mathbb E_p\big[\nabla f\cdot(\nabla\log q - \nabla\log p)\big] \tag{4.15}$$
#
# If $p = q$ nothing changes: the marginals are kept, as they must be. And if $p\ne q$, because an earlier step went wrong? By (4.15) the divergence $\mathrm{KL}(p\|q) = \int p\log\frac pq$ changes at the rate $\frac{d}{d\tau}\mathbb E_p f$ with $f = \log\frac pq$ held fixed. That the $p$ in the logarithm changes, too, adds $\int p\,\frac{\partial\log p}{\partial\tau} = \int\frac{\partial p}{\partial\tau} = \frac{d}{d\tau}\,1 = 0$. So
#
# $$\frac{d}{d\tau}\,\mathrm{KL}(p\,\|\,q) = -\tfrac12\,\mathbb E_p\,\big\|\nabla\log p-\nabla\log q\big\|^2 \tag{4.16}$$
#
# never positive: noise at a level brings the cloud nearer to that level's marginal (Jordan, Kinderlehrer & Otto 1998). The ODE forgets nothing. It moves the points of $p$ and of $q$ by one and the same map, which multiplies both densities by the same factor at corresponding points, so that $\log\frac pq$ travels along and $\mathrm{KL}$ stays as it is.
#
# ## 4.6 Order: how fast does the error fall?
#
# From here on, no noise: how well do we solve the ODE? Write it as $x' = g(x,\tau)$ with some time $\tau$, cut a fixed length $L$ into $n$ steps of size $h = L/n$. One Euler step from an exact $x$ leaves out the rest of Taylor's series:
#
# $$x(\tau+h) - \big(x(\tau) + h\,x'(\tau)\big) = \tfrac{h^2}2\,x''(\tau) + O(h^3) \tag{4.17}$$
#
# **And $n$ steps?** Let a method err by at most $Ch^{p+1}$ in each step, and let an error that is there already grow by at most $1+Kh$. Then $e_{k+1}\le(1+Kh)\,e_k + Ch^{p+1}$, and adding up the geometric series, with $(1+Kh)^n\le e^{KL}$,
#
# $$e_n \le Ch^{p+1}\,\frac{(1+Kh)^n-1}{Kh} \le \frac{C\,(e^{KL}-1)}{K}\;h^p \tag{4.18}$$
#
# One power of $h$ is lost. The method is of **order** $p$: twice the steps, an error $2^p$ times smaller. Euler, and therefore DDIM, has order 1.
#
# **Heun's method** is a **predictor-corrector**: it takes an Euler step (the predictor), evaluates the slope where that arrives, and repeats the step with the mean of both slopes (the corrector). The Euler point is off by $O(h^2)$, so the slope there is $x'(\tau+h)+O(h^2) = x' + h\,x'' + O(h^2)$, and
#
# $$x + h\,\frac{x' + (x'+h\,x''+O(h^2))}2 = x + h\,x' + \tfrac{h^2}2\,x'' + O(h^3) \tag{4.19}$$
#
# agrees with Taylor up to $h^2$: order 2, for two evaluations a step. Karras et al. (2022, algorithm 1) apply it to (4.10), with a plain Euler step to $\bar\sigma = 0$. In our letters, by (4.9) times $\alpha_s$ (it divides by $\alpha_t$, so it cannot start where $\alpha = 0$):

# %%
def heun_step(D, schedule, x, t, s, **condition):
    alpha_t, sigma_t, alpha_s, sigma_s = coefficients(schedule, t, s)
    ratio = alpha_s / alpha_t

    def euler_step(eps_hat):                                # alpha_s times (4.9)
        return ratio * x + (sigma_s - ratio * sigma_t) * eps_hat

    eps_hat = (x - alpha_t * D(x, t, **condition)) / sigma_t
    x_pred = euler_step(eps_hat)
    if sigma_s > 0:
        eps_pred = (x_pred - alpha_s * D(x_pred, s, **condition)) / sigma_s
        x_pred = euler_step((eps_hat + eps_pred) / 2)
    return x_pred


@torch.no_grad()
def heun(D, schedule, x, ts, **condition):
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x = heun_step(D, schedule, x, t, s, **condition)
        yield x

# %% [markdown]
# ## 4.7 DPM-Solver++: solve exactly what can be solved
#
# **Which time should the steps be counted in, and which part of the equation is really unknown?** Take $\lambda = \log(\alpha/\sigma) = -\log\bar\sigma$, half the log-SNR. Then $d\bar\sigma = -\bar\sigma\,d\lambda$, and (4.10) says $d\bar x/d\lambda = -\bar\sigma\hat\epsilon = \hat x_0-\bar x$. The $-\bar x$ is linear, so a factor $e^\lambda$ removes it:
#
# $$\frac{d}{d\lambda}\big(e^\lambda\,\bar x\big) = e^\lambda\,\bar x + e^\lambda(\hat x_0 - \bar x) = e^\lambda\,\hat x_0 \tag{4.20}$$
#
# Integrate from $\lambda_t$ to $\lambda_s$ and note $e^\lambda\bar x = x/\sigma$:
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \sigma_s\int_{\lambda_t}^{\lambda_s}e^\lambda\,\hat x_0(\lambda)\,d\lambda \tag{4.21}$$
#
# *Nothing has been approximated.* This is an **exponential integrator**: only the prediction must be extrapolated along the path, and it changes slowly. Let $h = \lambda_s-\lambda_t$, $u = \lambda-\lambda_t$, and use $\sigma_se^{\lambda_t+u} = \alpha_s e^{u-h}$. If $\hat x_0$ is a polynomial in $u$, we need the integrals
#
# $$I_k = \int_0^h e^{u-h}u^k\,du, \qquad I_0 = 1-e^{-h}, \qquad I_k = h^k - k\,I_{k-1} \tag{4.22}$$
#
# (by parts). *A constant*: $x_s = \frac{\sigma_s}{\sigma_t}x_t + \alpha_s(1-e^{-h})\,\hat x_0$ and, as $\alpha_se^{-h} = \sigma_s\alpha_t/\sigma_t$, this is DDIM again. *A straight line* through this prediction and the previous one, made at $\lambda_t - h'$, has the slope $(\hat x_0-\hat x_0^{\text{before}})/h'$, which gets the factor $I_1 = h-1+e^{-h} = \frac{h^2}2-\frac{h^3}6+\dots$. Lu et al. (2022) replace it by $\frac h2I_0 = \frac{h^2}2-\frac{h^3}4+\dots$; the difference is $O(h^3)$ a step, which order 2 forgives. So
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \alpha_s\,(1-e^{-h})\Big(\hat x_0 + \frac{h}{2h'}\big(\hat x_0-\hat x_0^{\text{before}}\big)\Big) \tag{4.23}$$
#
# This is **DPM-Solver++(2M)**. The slope is off by $O(h)$, the step by $O(h^3)$: order 2, for *one* evaluation a step, since the second prediction is an old one.

# %%
def half_log_snr(schedule, t):
    """lambda = log(alpha / sigma)"""
    return schedule.log_snr(t) / 2


@torch.no_grad()
def dpmpp(D, schedule, x, ts, **condition):
    previous = None
    h_previous = math.inf
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        h = half_log_snr(schedule, s) - half_log_snr(schedule, t)
        x0_hat = D(x, t, **condition)
        x0_line = x0_hat
        if previous is not None and s > 0:              # h is infinite in the step to s = 0
            x0_line = x0_hat + h / (2 * h_previous) * (x0_hat - previous)
        x_base = schedule.sigma(s) / schedule.sigma(t) * x
        x = x_base - schedule.alpha(s) * torch.expm1(-h) * x0_line
        previous = x0_hat
        h_previous = h
        yield x

# %% [markdown]
# ### Third order: `dpmpp_3m` and UniPC · deeper
#
# **Can we go on?** With $K$ predictions at points $u_1,\dots,u_K$, the integral of the polynomial through them is a weighted sum of the predictions. It must be right for $1, u, \dots, u^{K-1}$, and these conditions fix the weights:
#
# $$x_s = \frac{\sigma_s}{\sigma_t}\,x_t + \alpha_s\sum_{j=1}^K w_j\,\hat x_0(u_j), \qquad \sum_j w_j\,u_j^k = I_k \quad (k = 0,\dots,K-1) \tag{4.24}$$
#
# A polynomial through $K$ points is off by $O(h^K)$, so a step errs by $O(h^{K+1})$ and the method has order $K$. Three past predictions: an Adams-Bashforth method in $\lambda$, of order 3. It is closely related to the released **DPM-Solver++(3M)**, but not the same: the function `multistep_dpm_solver_third_update` in Lu et al.'s released code gives the second difference half of the weight that (4.24) gives it. With that weight the order measured below ("3M, released") is 1.8 at the first doubling, then between 2.1 and 2.4. Our name `dpmpp_3m` means (4.24).
#
# **UniPC** (Zhao et al. 2023) has one more idea. After a step, the network is evaluated at the predicted state anyway, for the next step. Use that prediction first to *correct* the step just made: take the polynomial through the new prediction and the two old ones, which now lie on both sides. The predictor (4.23) is off by $O(h^3)$, hence the prediction made there by $O(h^3)$. A parabola through three predictions is off by $O(h^3)$ as well. The integral over the step multiplies both by $h$, so the corrected step errs by $O(h^4)$. Order 3, still one evaluation a step.

# %%
def exponential_integrals(h, K):
    """I_k of (4.22) for k = 0 ... K - 1: (K,)"""
    integrals = [-torch.expm1(-h)]
    for k in range(1, K):
        integrals.append(h**k - k * integrals[-1])
    return torch.stack(integrals)


def exponential_step(schedule, x, t, s, points, solver_type=None):
    """x_s by (4.24). points: K pairs (time, x0_hat), the first at t."""
    u = torch.stack([half_log_snr(schedule, r) for r, _ in points])
    h, u = half_log_snr(schedule, s) - u[0], u - u[0]
    integrals = exponential_integrals(h, len(points))
    if solver_type and len(points) == 2:                # Lu et al.'s I_1, as in (4.23)
        integrals[1] = h * integrals[0] / 2
    if solver_type == "released" and len(points) == 3:  # half the second difference
        integrals[2] = integrals[2] / 2
    powers = u ** torch.arange(len(points))[:, None]            # (K, K), row k: u_j^k
    w = schedule.alpha(s) * torch.linalg.solve(powers, integrals)
    x_base = schedule.sigma(s) / schedule.sigma(t) * x
    return x_base + sum(w_j * x0_hat for w_j, (_, x0_hat) in zip(w, points))

# %%
@torch.no_grad()
def dpmpp_3m(D, schedule, x, ts, *, solver_type=None, **condition):
    history = []                                        # (time, x0_hat), newest first
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        history = [(t, D(x, t, **condition)), *history[:2]]
        points = history if s > 0 else history[:1]
        x = exponential_step(schedule, x, t, s, points, solver_type)
        yield x

# %%
@torch.no_grad()
def unipc(D, schedule, x, ts, **condition):
    history = []                                        # (time, x0_hat), newest first
    x0_hat = D(x, ts[0], **condition)
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        history = [(t, x0_hat), *history[:1]]
        points = history if s > 0 else history[:1]
        # the predictor, (4.23)
        x_pred = exponential_step(schedule, x, t, s, points, "bh2")
        if s > 0:
            # the corrector, (4.24) with the new prediction
            x0_hat = D(x_pred, s, **condition)
            x_pred = exponential_step(schedule, x, t, s, [*points, (s, x0_hat)])
        x = x_pred
        yield x

# %%
means = [[-1.0, -0.5], [1.0, -0.6], [0.2, 1.0]]
mix = data.GaussianMixture(means, [0.2, 0.3, 0.15], [3.0, 2.0, 1.0])
exact = mix.denoiser(cosine)
start = torch.randn(100, 2, generator=seeded(0), dtype=torch.float64)
ts = timesteps(cosine, 12, "karras")
pairs = ((heun, samplers.heun), (dpmpp, samplers.dpmpp), (unipc, samplers.unipc))
for pair in pairs:
    ends = [last(f(exact, cosine, start, ts)) for f in pair]
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-7)
print("course_lib's heun, dpmpp and unipc agree")

# %% [markdown]
# ### The orders, measured
#
# **Are the orders what we derived?** `dpmpp_3m` uses three past predictions; **UniPC** (Zhao et al. 2023) corrects each step with the prediction that the next step needs anyway. Both have order 3 at one evaluation a step. Three bumps of different widths in the plane, the exact denoiser, steps even in $\lambda$ from $\bar\sigma = 148$ to $\bar\sigma = 0.018$, a hundred starts. The truth is a third-order run with 1,000 steps. On log-log axes an error $\propto h^p$ is a line of slope $-p$.

# %%
from functools import partial


def even_in_log_snr(n):
    return cosine.t_from_log_snr(torch.linspace(-10, 8, n + 1, dtype=torch.float64))


def rms(x, truth):
    return (x - truth).square().sum(1).mean().sqrt()


methods = {"ddim": ddim, "heun": heun, "dpmpp": dpmpp, "dpmpp_3m": dpmpp_3m, "unipc": unipc,
           "3M, released": partial(dpmpp_3m, solver_type="released")}
truth = last(dpmpp_3m(exact, cosine, start, even_in_log_snr(1000)))
evaluations = torch.tensor([10, 20, 40, 80, 160, 320])
errors = {}
for name, f in methods.items():
    grids = [even_in_log_snr(n // 2 if name == "heun" else n) for n in evaluations.tolist()]
    ends = [last(f(exact, cosine, start, ts)) for ts in grids]
    errors[name] = torch.stack([rms(x, truth) for x in ends])
plots.curves(evaluations, errors, xscale="log", yscale="log",
             title="Distance to a numerical reference of 1,000 steps",
             xlabel="evaluations of the denoiser", ylabel="root mean square error")

# %%
doublings = [f"{n} to {2 * n}" for n in evaluations[:-1].tolist()]
rows = {}
for name, e in errors.items():
    orders = (e[:-1] / e[1:]).log2()
    rows[name] = {f"error at {n}": f"{e[k]:.2g}" for k, n in ((1, 20), (2, 40), (5, 320))}
    rows[name] |= dict(zip(doublings, orders))
tables.table(rows, ".2f", "Errors, and the order measured at each doubling", "sampler")

# %% [markdown]
# **What the figure shows.** The orders come out as derived: 1 for DDIM; 2 for Heun and DPM-Solver++(2M); 3 for `dpmpp_3m` and UniPC. They appear only when steps are small: with 10 evaluations Heun is the worst of all, and it overtakes DDIM at about 20. From 80 on the two of order 3 have the smallest errors, on this example.
#
# ## 4.8 Where to put the steps
#
# The order says how the error falls, not where it starts. **Which times should few steps take?** That is a choice of its own, the spacing of the **timesteps** (the grid), for any sampler. Four are common: *even in $t$*; *quadratic*, $t_i\propto(i/n)^2$, more of them near the data; *even in log-SNR*; and Karras et al.'s,
#
# $$\bar\sigma_i = \Big(\bar\sigma_{\max}^{1/\rho} + \tfrac i{n-1}\big(\bar\sigma_{\min}^{1/\rho} - \bar\sigma_{\max}^{1/\rho}\big)\Big)^\rho, \qquad i = 0,\dots,n-1, \qquad \rho = 7 \tag{4.25}$$
#
# and then 0. For $\rho = 1$ it is even in $\bar\sigma$. For large $\rho$, with $c = \frac{i}{n-1}$ and $a^{1/\rho} = 1+\frac{\log a}\rho+O(\rho^{-2})$,
#
# $$\bar\sigma_i = \Big(1 + \frac{(1-c)\log\bar\sigma_{\max} + c\log\bar\sigma_{\min}}\rho+O(\rho^{-2})\Big)^\rho \longrightarrow\ \bar\sigma_{\max}^{1-c}\;\bar\sigma_{\min}^{c} \tag{4.26}$$
#
# since $(1+\frac b\rho+O(\rho^{-2}))^\rho\to e^b$: even in log-SNR. So $\rho$ leads from one to the other. As functions for `timesteps`:

# %%
def quadratic(schedule, start, n):
    return start * (torch.arange(n, 0, -1, dtype=torch.float64) / n) ** 2


def karras(schedule, start, n, rho=7.0, sigma_min=0.002, sigma_max=80.0):
    high = (schedule.sigma(start) / schedule.alpha(start)).clamp(max=sigma_max) ** (1 / rho)
    low = sigma_min ** (1 / rho)
    sigma = (high + torch.linspace(0, 1, n, dtype=torch.float64) * (low - high)) ** rho
    return schedule.t_from_log_snr(-2 * sigma.log())


# where sigma / alpha = 80
top = cosine.t_from_log_snr(-2 * math.log(80)).item()
for spacing, name in ((quadratic, "quadratic"), (karras, "karras")):
    both = [timesteps(cosine, 10, which, top) for which in (spacing, name)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
spacings = {"time": "time", "quadratic": quadratic, "log-SNR": "log_snr", "Karras": karras}
grids = {name: timesteps(cosine, 10, how, top)[:-1] for name, how in spacings.items()}
ratios = {name: cosine.sigma(ts) / cosine.alpha(ts) for name, ts in grids.items()}
plots.curves(torch.arange(10), ratios, yscale="log", title="Ten steps, four grids (then 0)",
             xlabel="step", ylabel="sigma / alpha")

# %%
start_top = cosine.sigma(top) * start
truth = last(dpmpp_3m(exact, cosine, start_top, timesteps(cosine, 1000, "log_snr", top)))
budgets = torch.tensor([7, 9, 11, 15, 21, 31, 41])


def error_of(name, evaluations, spacing):
    # heun's last step takes one evaluation: k steps cost 2 k - 1
    n = (evaluations + 1) // 2 if name == "heun" else evaluations
    ts = timesteps(cosine, n, spacing, top)
    return rms(last(methods[name](exact, cosine, start_top, ts)), truth)


errors = {name: {} for name in ("ddim", "heun", "dpmpp", "unipc")}
for name, by_grid in errors.items():
    for grid, spacing in spacings.items():
        by_grid[grid] = torch.stack([error_of(name, n, spacing) for n in budgets.tolist()])
plots.panels(budgets, errors, title="Four samplers, four grids", xlabel="evaluations",
             ylabel="root mean square error", yscale="log", ylim=(2e-3, 3))
rows = {name: {grid: e[2] for grid, e in by_grid.items()}
        for name, by_grid in errors.items()}
tables.table(rows, ".3f", "Root mean square error at 11 evaluations", "sampler")

# %% [markdown]
# **What the figures show.** Even in $t$ and quadratic fall from 80 to 6 and 3 in one step; Karras' grid goes lowest. The grid matters as much as the sampler. With 11 evaluations DPM-Solver++(2M) errs by 0.01 on the quadratic grid and by 0.19 on Karras'. No grid has the smallest error for all: for DDIM it is even in $t$ or quadratic, for Heun even in $t$, for the two exponential ones quadratic, which is Heun's worst from 11 evaluations on. This is a result for these bumps, whose narrowest is 0.15 wide; Karras' grid goes down to $\bar\sigma = 0.002$, log-SNR's to 0.006 here. So try grids on your own model, and compare samplers on the best grid of each.
#
# ## 4.9 Churn, done right · deeper
#
# **Can one have the noise of 4.5 and Heun's order?** Karras et al. (algorithm 2) do one after the other. Before each step, *add* noise (**churn**) and so go up to a higher level $\hat\sigma = (1+\gamma)\bar\sigma_t$; from there take a Heun step down to $\bar\sigma_s$. In EDM's variables, variances add:
#
# $$\hat x = \bar x_t + \sqrt{\hat\sigma^2-\bar\sigma_t^2}\;z, \qquad \gamma = \min\Big(\frac{S_{\text{churn}}}n,\ \sqrt2-1\Big) \tag{4.27}$$
#
# The cap keeps the new noise below the noise that is there:
#
# $$\hat\sigma^2-\bar\sigma_t^2 = \big((1+\gamma)^2-1\big)\,\bar\sigma_t^2 \le \bar\sigma_t^2 \quad\text{exactly if}\quad \gamma\le\sqrt2-1 \tag{4.28}$$
#
# Now $\hat x$ is a sample of level $\hat\sigma$, so **the denoiser must be given $\hat\sigma$**, and the step starts there. To add the noise and then evaluate at $\bar\sigma_t$ is a mistake that is easy to make. Churn is applied only to levels in a range, `s_range`; and EDM multiplies $z$ by $S_{\text{noise}}$, slightly above 1 for learned networks. Ours is exact and takes 1.

# %%
def churn(schedule, x, t, gamma, s_noise, generator):
    """(4.27): x with fresh noise, at the level sigma-hat, and its time (at most 1)."""
    t_hat = schedule.t_from_log_snr(schedule.log_snr(t) - 2 * math.log1p(gamma))
    ratio = schedule.alpha(t_hat) / schedule.alpha(t)
    variance = schedule.sigma(t_hat) ** 2 - (ratio * schedule.sigma(t)) ** 2
    z = randn_like(x, generator)
    return ratio * x + s_noise * variance.clamp(min=0).sqrt() * z, t_hat


@torch.no_grad()
def edm_stochastic(D, schedule, x, ts, *, s_churn=20.0, s_range=(0.0, math.inf),
                   s_noise=1.0, generator=None, evaluate_at_sigma=False, **condition):
    gamma = min(s_churn / (len(ts) - 1), 2**0.5 - 1)
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        t_hat = t
        if gamma > 0 and s_range[0] <= schedule.sigma(t) / schedule.alpha(t) <= s_range[1]:
            x, t_hat = churn(schedule, x, t, gamma, s_noise, generator)
        if evaluate_at_sigma:                           # the defect, to see what it does
            x = x * schedule.alpha(t) / schedule.alpha(t_hat)
            t_hat = t
        x = heun_step(D, schedule, x, t_hat, s, **condition)
        yield x

# %%
angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
ring = data.GaussianMixture(torch.stack([angles.cos(), angles.sin()], dim=1), 0.05)
exact8 = ring.denoiser(cosine)
ts = timesteps(cosine, 30, "karras", top)
g = seeded(1)
begin = cosine.sigma(top) * torch.randn(2000, 2, generator=g, dtype=torch.float64)
options = {"s_churn": 20, "s_range": (0.05, 50), "s_noise": 1.003}
ends = [last(f(exact8, cosine, begin, ts, generator=seeded(2), **options))
        for f in (edm_stochastic, samplers.heun)]
torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)

# %%
def bump_width(x):
    nearest = ring.means[torch.cdist(x.double(), ring.means).argmin(1)]
    return (x - nearest).square().mean().sqrt().item()


right = last(edm_stochastic(exact8, cosine, begin, ts, generator=g))
defect = edm_stochastic(exact8, cosine, begin, ts, generator=g, evaluate_at_sigma=True)
clouds = {"data": ring.sample(2000), "no churn": last(heun(exact8, cosine, begin, ts)),
          "D at sigma-hat": right, "D at sigma": last(defect)}
plots.scatter({f"{name}\nwidth {bump_width(x):.3f}": x for name, x in clouds.items()},
              title="Heun with churn 20, 30 steps: width of a bump", limit=1.5)

# %% [markdown]
# **What the figure shows.** Evaluated at the right level, churn leaves the bumps almost as they are: 0.054, the data 0.050. Evaluated at the wrong one, noise is left over in every step: the bumps spread and move outwards, and points lie five times too far from the right centres.
#
# ## 4.10 Predictions out of range
#
# Pixels lie in $[-1, 1]$, predictions need not. **Where do predictions leave the range?** (i) A network that predicts $\epsilon$ is divided by $\alpha$: an error $\delta$ of the noise is an error $\frac{\sigma}{\alpha}\delta$ of the image, and on the cosine schedule $\sigma/\alpha$ begins at 20,000. *Clipping* the prediction keeps it in range, if $\hat\epsilon$ is recomputed from the clipped prediction, as all samplers above do.

# %%
noise_net = trained("eps", 300)
ts = timesteps(cosine, 20)
rows = {}
with torch.no_grad():
    for name, D in {"as it is": noise_net, "clipped": clip(noise_net, -1.7, 1.7)}.items():
        x = last(ddim(D, cosine, noise, ts))
        rows[name] = {"largest prediction at t = 1": D(noise, 1.0).abs().max(),
                      "largest sample": x.abs().max(),
                      "1000 kernel distance": kernel_distance(x)}
formats = {"largest prediction at t = 1": ".1f", "largest sample": ".2f",
           "1000 kernel distance": ".2f"}
tables.table(rows, formats, "2,000 samples, 20 steps of DDIM (1000 kernel distance of the "
             f"data, 8 draws: {spiral_floor})", "prediction")

# %% [markdown]
# At the noisy end the output of an $\epsilon$ network determines next to nothing about the image, as (3.5) said; clipping bounds the error. The range is 1.7 for the spiral, and 1 for pictures.
#
# ### Dynamic thresholding · deeper
#
# (ii) Guidance, lesson 5, exaggerates predictions on purpose. Clipping then makes all large pixels *equal*. **Dynamic thresholding** (Saharia et al. 2022) rescales instead. With $s$ the quantile, say 99.5 %, of $|\hat x_0|$ over the pixels of an image, but at least 1,
#
# $$\hat x_0 \ \to\ \frac{\operatorname{clip}(\hat x_0,\,-s,\,s)}{s} \tag{4.29}$$

# %%
def threshold(D, quantile=0.995, data_range=1.0):
    def thresholded(x, t, **condition):
        x0_hat = D(x, t, **condition)
        s = x0_hat.flatten(1).abs().quantile(quantile, dim=1).clamp(min=data_range)
        s = s.view(-1, *[1] * (x.ndim - 1))                         # (B, 1, ..., 1)
        return x0_hat.clamp(-s, s) / s * data_range
    return thresholded

# %%
row = torch.linspace(-1, 1, 16)
ramp = row.expand(16, 16)
hill = 2 * torch.exp(-3 * (row[:, None] ** 2 + row**2)) - 1
shapes = torch.stack([ramp, ramp.T, hill, -hill])                   # (4, 16, 16)
exact4 = data.GaussianMixture(shapes.flatten(1), 0.05).denoiser(cosine)


def strong(x, t):
    """The exact prediction, exaggerated by 1.8."""
    return (1.8 * exact4(x.flatten(1), t)).view_as(x)


begin = torch.randn(8, 1, 16, 16, generator=seeded(4))
ends = [f(strong)(begin, 0.5) for f in (threshold, guidance.threshold)]
torch.testing.assert_close(*ends)
denoisers = {"exaggerated": strong, "clipped": clip(strong), "threshold": threshold(strong)}
made = {name: last(ddim(D, cosine, begin, timesteps(cosine, 20)))
        for name, D in denoisers.items()}

# %%
first = {name: x[:4] for name, x in made.items()}
plots.show({"the data": shapes[:, None]} | first, width=4,
           title="Predictions multiplied by 1.8")
rows = {name: {"minimum": x.min(), "maximum": x.max(),
               "pixels at 0.99 or beyond": (x.abs() > 0.99).float().mean()}
        for name, x in ({"the data": shapes} | made).items()}
tables.table(rows, {"minimum": ".2f", "maximum": ".2f", "pixels at 0.99 or beyond": ".0%"},
             "8 samples of 16 x 16 pixels, 20 steps of DDIM")

# %% [markdown]
# **What the figure shows.** Exaggerated predictions leave the range. Clipped, two thirds of the pixels are at its ends, and ramps have become edges. The threshold keeps the ramps: 2 % of the pixels are at the ends, in the data 7 %. Here the exaggeration was a plain factor, which a division can undo. Guidance is not so simple.
#
# ## 4.11 Interpolation and inversion: the noise as an address · deeper
#
# The ODE gives each image *its* noise. **Can one travel between two noises?** A straight line $(1-c)\,z_1 + c\,z_2$ has variance $(1-c)^2+c^2$, only $\frac12$ in the middle: no longer noise of level 1. On an arc (**spherical interpolation**, slerp) it is right, since by (1.1)
#
# $$\operatorname{Var}\big(\cos\theta\,z_1 + \sin\theta\,z_2\big) = \cos^2\theta+\sin^2\theta = 1 \tag{4.30}$$
#
# `slerp` turns by the actual angle between two noises. With 784 pixels that is nearly a right angle, and both are nearly the same.

# %%
exact = spiral.denoiser(cosine)
z1, z2 = torch.randn(2, 1000, 2, generator=seeded(6), dtype=torch.float64)
ts = timesteps(cosine, 40, "log_snr")
middles = {
    "data": spiral.sample(1000, seed=3),
    "halfway, straight": last(dpmpp(exact, cosine, (z1 + z2) / 2, ts)),
    "halfway, arc": last(dpmpp(exact, cosine, (z1 + z2) / 2**0.5, ts)),
}
plots.scatter(middles, title="A thousand pairs of noises: what lies halfway", limit=1.8)
rows = {name: {"1000 kernel distance": kernel_distance(x)} for name, x in middles.items()}
tables.table(rows, ".2f", "1,000 samples each, compared with 2,000 draws of the data "
             f"(8 draws of 1,000: {floor(spiral, 1000)})")

# %%
a, b = torch.randn(2, 500, 784, generator=seeded(7))
angles = torch.cosine_similarity(a, b).acos().rad2deg()
print("angle of two noises of 784 pixels: "
      f"{angles.mean():.1f} +- {angles.std():.1f} degrees")
right, up = torch.eye(2)[:, None]                       # (1, 2) each
arc = torch.tensor([[math.cos(0.15 * math.pi), math.sin(0.15 * math.pi)]])
torch.testing.assert_close(samplers.slerp(right, up, 0.3), arc)

# %% [markdown]
# **What the figure shows.** Halfway on the straight line, more points gather on the inner turns, and the kernel distance is far above that of new data. On the arc it is not. Each single point is on the spiral, so no picture of *one* sample would show the defect.
#
# ### Inversion · deeper
#
# **DDIM inversion.** To find the noise of a *given* image, solve the ODE from $t = 0$ to 1: (4.9) with a noisier $s$. With $\hat\epsilon$ computed at $t$,
#
# $$x_s = \frac{\alpha_s}{\alpha_t}\,(x_t-\sigma_t\hat\epsilon) + \sigma_s\hat\epsilon \tag{4.31}$$
#
# At $t=0$ there is no noise to predict: there, scale $x$ to level $s$, $\alpha_sx/\alpha_t$, and evaluate at $s$. **Does the way back find the image again?** Up, each step uses the slope at its clean end; down, at its noisy end. They differ by $O(h)$, so a step up and the same step down miss by $O(h^2)$, and by (4.18) the whole way there and back misses by $O(h)$.

# %%
@torch.no_grad()
def ddim_invert(D, schedule, x, ts, **condition):
    """From data to noise; ts: rising."""
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        alpha_t, sigma_t, alpha_s, sigma_s = coefficients(schedule, t, s)
        r = t if sigma_t > 0 else s                     # the level of the evaluation
        x_r = schedule.alpha(r) / alpha_t * x
        x0_hat = D(x_r, r, **condition)
        eps_hat = (x_r - schedule.alpha(r) * x0_hat) / schedule.sigma(r)
        x = alpha_s / alpha_t * (x - sigma_t * eps_hat) + sigma_s * eps_hat
        yield x

# %%
exact = mix.denoiser(cosine)
images = mix.sample(200, seed=8).double()
counts = torch.tensor([10, 20, 40, 80, 160, 320])
errors = {}
for name, spacing in {"even in t": "time", "even in log-SNR": "log_snr"}.items():
    by_n = []
    for n in counts.tolist():
        ts = timesteps(cosine, n, spacing)
        z = last(ddim_invert(exact, cosine, images, ts.flip(0)))
        by_n.append(rms(last(ddim(exact, cosine, z, ts)), images))
    errors[name] = torch.stack(by_n)
    library = last(samplers.ddim_invert(exact, cosine, images, ts.flip(0)))
    torch.testing.assert_close(z, library)
plots.curves(counts, errors, xscale="log", yscale="log", title="Image to noise to image",
             xlabel="steps each way", ylabel="root mean square error")

# %%
rows = [{"steps each way": n} for n in counts.tolist()]
for name, e in errors.items():
    orders = [None, *(e[:-1] / e[1:]).log2()]
    for row, error, order in zip(rows, e, orders):
        row |= {name: f"{error:.4f}", f"order, {name}": order}
tables.table(rows, ".2f", "Root mean square error of 200 points, and its order")

# %% [markdown]
# **What the figure shows.** The error falls about in inverse proportion to the number of steps: the orders lie between 0.9 and 1.8, and near 1 at the end. With few steps it is large: 0.25 with 10 even in $t$ (in log-SNR 0.69), for data about 1 wide. An edited image that does not come back can be just this (lesson 5).

# %% [markdown]
# ### The explorer · deeper
#
# **Now try them all.** The explorer takes thirty noises to the spiral with the exact denoiser. Change the sampler, the number of steps, $\eta$ (for `ddim`) and the grid. Here five stills, in a running notebook four controls.

# %%
widgets.sampler_explorer(spiral, cosine)

# %%
exact = spiral.denoiser(cosine)
rows = []
for name, n in (("ddim", 5), ("ddim", 20), ("dpmpp", 5), ("unipc", 8)):
    row = {"sampler": name, "steps": n}
    for spacing in ("time", "quadratic"):
        ts = timesteps(cosine, n, spacing)
        x = last(getattr(samplers, name)(exact, cosine, noise, ts))
        row[f"strays, {spacing}"] = f"{strays(x):.1%}"
        row[f"1000 kernel distance, {spacing}"] = kernel_distance(x)
    rows.append(row)
tables.table(rows, ".2f", "2,000 samples each, two grids (1000 kernel distance of the "
             f"data, 8 draws: {spiral_floor})")

# %% [markdown]
# **What the figure shows.** With 5 steps DDIM cuts the corners; with 20 it arrives on the arm, along smooth paths. With $\eta = 1$ the paths wander. The stills of DPM-Solver++ and UniPC are on the quadratic grid, those of DDIM even in $t$, so the table has both grids. On the quadratic grid UniPC with 8 steps comes as close to the data as DDIM with 20 even in $t$, DPM-Solver++ with 5 not quite (2.2 % strays against 1.0 %); even in $t$ they leave 11 % and 36 %.
#
# # Part II · One model, every sampler
#
# ## 4.12 What is fair
#
# Now a learned model: `mnist`, which lesson 3 evaluated. **Which sampler scores well, at which cost?** A fair answer needs equal evaluations, equal labels and noise from the same seed, the same number of samples everywhere, and a metric beside two numbers: its **real-data baseline** (the floor: what real data score, over several draws), and its spread over seeds. `sampling.SAMPLERS` names eleven: a sampler, its options and its timesteps. A part of the study, live:

# %%
from course_lib.lab import sampler_study, sampling

torch.set_num_threads(threads)
D = train.load("mnist", device="cpu")
names = ("ancestral", "ddim", "heun", "dpmpp", "unipc")
configs = {name: sampling.SAMPLERS[name] for name in names}
study = sampler_study.analyze_sampling_quality(D, [5, 10, 20], configs, n=100)
rows = [{"sampler": r["sampler"], "evaluations": r["evaluations"],
         "agreement": r["agreement"]} for r in study]
tables.table(rows, {"agreement": ".0%"}, "100 digits in each row; agreement: the fraction "
             "that the digit classifier reads as the label asked for")

# %% [markdown]
# **What the table shows.** All but `heun` with 5 draw nearly always the labels asked for. Each evaluation is one call of the same network, so evaluations are the axis. (Asked for an even number, Heun takes one fewer.) For quality we read two tables that benchmarks have filled, predictions clipped. `python benchmarks/samplers.py`: 4,000 samples of one seed, up to 50 evaluations (blank: not measured). `python benchmarks/lesson4_spread.py`: five samplers with 8 and 30, three seeds of 2,000 samples, and the floors.

# %%
import pandas

from course_lib.lab import storage

measured = pandas.read_csv(storage.ASSETS / "samplers.csv").to_dict("records")
spread = pandas.read_csv(storage.ASSETS / "lesson4_spread.csv")


def mean_and_std(rows, column, digits=3):
    return f"{rows[column].mean():.{digits}f} +- {rows[column].std():.{digits}f}"


def real_row(n):
    """Real digits, as many of each label: twelve draws."""
    return spread[(spread.model == "real") & (spread.n == n)]


def over_seeds(scale, column):
    """A row for each sampler, a column for each number of evaluations: mean +- std."""
    rows = spread[(spread.model == "mnist") & (spread.scale == scale)]
    return {name: {asked: mean_and_std(part, column)
                   for asked, part in group.groupby("asked")}
            for name, group in rows.groupby("sampler")}


def by_evaluations(rows, column):
    """A row for each sampler, a column for each number of evaluations."""
    counts = sorted({r["asked"] for r in rows})
    values = {(r["sampler"], r["asked"]): r[column] for r in rows}
    names = [name for name in sampling.SAMPLERS if any((name, c) in values for c in counts)]
    return {name: {c: values.get((name, c)) for c in counts} for name in names}

# %%
short = [r for r in measured if r["scale"] == 1 and r["asked"] <= 50]
baseline = real_row(4000).distance
near = [r for r in short if r["frechet_distance"] < 15]
sampler_study.plot_sampling_analysis(near, baseline.mean(), floor_std=baseline.std())
for r in short:
    if r not in near:
        print(f"not in the figure: {r['sampler']}, asked for {r['asked']}: distance "
              f"{r['frechet_distance']:.1f}, agreement {r['agreement']:.2f}")
tables.table(by_evaluations(short, "frechet_distance"), ".3f",
             "Fréchet distance of 4,000 samples, one seed, by evaluations asked for",
             "evaluations")

# %%
recall = "recall (the fraction of test digits that lie near a sample)"
for column, name in (("distance", "Fréchet distance"), ("recall", recall)):
    tables.table(over_seeds(1, column), caption=f"{name}, 2,000 samples, mean and standard "
                 f"deviation of 3 seeds (real digits, 12 draws: "
                 f"{mean_and_std(real_row(2000), column)})", index="evaluations")
rows = {}
for r in spread[(spread.model == "mnist") & (spread.scale == 1)].to_dict("records"):
    rows.setdefault(r["sampler"], {})[f"{r['asked']}, seed {r['seed']}"] = r["distance"]
columns = [f"{asked}, seed {seed}" for asked in (8, 30) for seed in range(3)]
rows = {name: {column: row[column] for column in columns} for name, row in rows.items()}
tables.table(rows, ".3f", "Fréchet distance by seed", "evaluations")

# %% [markdown]
# **What the figure and the tables show.** The baseline's digits, like our samples, have equally many of each label. Twelve draws give 0.111 +- 0.009 with 4,000 digits and 0.125 +- 0.019 with 2,000. Two entries of one seed that differ by no more than that are about equal.
#
# - *Few evaluations.* With 4 evaluations UniPC scores 0.19, DDIM 0.40. With 8 `ddim`, `dpmpp` and `unipc` lie between 0.175 and 0.200; with each of three seeds `unipc` is lowest, then `ddim`, then `dpmpp`. `ancestral` is above `ddim` in all three, above `dpmpp` in two.
# - *Many.* `dpmpp` and `unipc` end at 0.20; `ddim` goes from 0.171 at 15 to 0.183 at 50. More steps do not help: what is left there is probably the network's error. Samplers with noise score lower: $\eta = 0.5$ from 10 evaluations on, `ancestral` from 15; with 30 and 50 `ancestral` is within the baseline's spread, also with three seeds (0.127 with 30).
# - *The timesteps.* Even in log-SNR is bad with 4 steps; from 8 on it is within 0.01 of even in $t$ for `dpmpp`, and higher by 0.01 to 0.035 for `unipc`. Quadratic steps, tried with DDIM only, score worse. Heun on Karras' grid starts at the level 80; with 5 evaluations or fewer it fails, and asked for 8 half of its digits carry their label. Even in $t$, begun at $t = 0.95$, it reaches 0.34 with 7 and 0.44 with 49.
#
# On this model, with these features: `dpmpp` scores with eight evaluations what it scores with fifty. `unipc` scores lower with 8 than with 30, `ddim` slightly higher, each with all three seeds. With noise, thirty reach the score of real digits.
#
# ## 4.13 The table of the DDIM paper, on digits · deeper
#
# Song, Meng and Ermon's table 1 has become famous: on CIFAR-10, less noise is better at every number of steps up to 100; sigma-hat is by far the worst with few steps, and the best with a thousand. **Does that hold for our digits?** Below, 50 evaluations and fewer with 4,000 samples, more with 1,000; so compare columns only within each part. KID is given for the second.

# %%
names = ("ddim", "ddim, eta 0.5", "ancestral", "ancestral, sigma-hat", "ddim, quadratic")
some = [r for r in short if r["sampler"] in names]
tables.table(by_evaluations(some, "frechet_distance"), ".3f",
             "Fréchet distance of 4,000 samples, by evaluations", "evaluations")

# %%
many = [r for r in measured if r["scale"] == 1 and r["asked"] > 50]
tables.table(by_evaluations(many, "frechet_distance"), ".3f",
             "Fréchet distance of 1,000 samples, one seed, by evaluations (real digits, "
             f"12 draws: {mean_and_std(real_row(1000), 'distance')})", "evaluations")
rows = [{"evaluations": r["asked"], "sampler": r["sampler"], "1000 KID": 1000 * r["kid"],
         "+-": 1000 * r["kid_error"], "agreement": r["agreement"]}
        for r in sorted(many, key=lambda r: (r["asked"], r["sampler"]))]
tables.table(rows, {"1000 KID": ".2f", "+-": ".2f", "agreement": ".1%"},
             "KID in thousandths (+- of the subsets), and agreement, 1,000 samples")

# %%
from course_lib.lab import features

x, y = data.mnist("train")
some = torch.cat([torch.where(y == label)[0][:100] for label in range(10)])
z = features.digit_features(x[some])                                    # (1000, 128)
K = (z @ z.T / z.shape[1] + 1) ** 3                                     # KID's kernel
same = y[some][:, None] == y[some]
different = K[~same].mean()
same.fill_diagonal_(False)
excess = (K[same].mean() - different).item()
rows = []
for n in (1000, 2000, 4000):
    kids = 1000 * real_row(n).kid
    # two of n balanced digits have the same label less often, by 0.9 / (n - 1)
    bias = -1000 * excess * 0.9 / (n - 1)
    rows.append({"n": n, "1000 KID, 12 draws": f"{kids.mean():.2f} +- {kids.std():.2f}",
                 "due to balance": bias, "without it": kids.mean() - bias})
tables.table(rows, ".2f", "Real training digits, as many of each label, to the test digits")

# %% [markdown]
# **What the tables show.** The "+-" of a KID is only the choice of subsets; a new draw of samples varies more, as the last table shows. Sigma-hat is by far the worst with few steps on digits, too. With 100 it is about equal to the posterior, and so it is with 1,000; there both are far below $\eta=0$. In the paper $\eta=0$, the posterior and sigma-hat have 4.2, 5.8 and 10.0 with 100, and 4.0, 4.7 and 3.2 with 1,000. The rest does *not* repeat. On CIFAR-10 $\eta = 0$ was the lowest at every number of steps up to 100. Here it is lowest of the three $\eta$ with 4 and 6; with 8, 0.190 and 0.200 are about equal; from 10 on $\eta=0.5$ is lower, from 15 on also $\eta = 1$. Quadratic steps, which the paper chose for CIFAR-10, are worse than even ones. The data, the network and the metric's features are all different; a table of samplers is a statement about a model. The KID of the noisy samplers is negative, like that of as many real digits. The estimate is free of bias for independent draws alone. Here each label occurs equally often, so pairs of one label are rarer than among independent draws, and such pairs are more alike. The last table computes what that takes away: without it real digits have 1.4 to 1.6 at each $n$. There is nothing better than real about the samples.
#
# ## 4.14 Guidance and the ranking
#
# Guidance (lesson 5) makes the denoiser follow its label more than the data does: a prediction with the label, minus a prediction without, exaggerated. It doubles the cost: here each evaluation of the guided denoiser is two of the network. **Is the sampler with the lowest score without guidance the lowest with it?**

# %%
guided = [r for r in measured if r["scale"] == 2]
tables.table(by_evaluations(guided, "frechet_distance"), ".3f",
             "w = 2: Fréchet distance of 4,000 samples, one seed", "guided evaluations")
for column, name in (("distance", "Fréchet distance"), ("recall", "recall")):
    tables.table(over_seeds(2, column),
                 caption=f"w = 2: {name}, 2,000 samples, mean and standard deviation "
                 "of 3 seeds", index="guided evaluations")
some = [r for r in guided if r["sampler"] in ("ancestral", "ddim", "unipc")]
tables.table(by_evaluations(some, "agreement"), ".1%",
             "w = 2: agreement with the label, 4,000 samples", "guided evaluations")

# %% [markdown]
# **What the tables show.** At $w = 2$ nearly every digit is what was asked for, and the distances of the samplers that worked without guidance are mostly four to seven times larger. Recall says how much variety is left: with 8 evaluations it falls from 0.83 to 0.64 for `ancestral`, and from 0.88 to 0.75 for `ddim`. Up to 20 evaluations `ancestral` is above `ddim` at every count. With 4 to 8 evaluations the lowest is the same, `unipc`. From 10 to 20 it is not: without guidance it is $\eta = 0.5$, here `unipc`, and with 15 `heun`, which without guidance is nearly the last. So compare samplers with the guidance that you will use.
#
# ## 4.15 Digits and their noise · deeper
#
# Section 4.11 turned points into noise and back. **Does it work for digits, with a network that errs?** First, eight positions on the arc between the noises of two digits, the label held:

# %%
net = clip(D)
with torch.no_grad():
    a, b = cosine.sample_prior((2, 4, 1, 28, 28), generator=seeded(9))
    y = torch.tensor([3, 5, 7, 8])
    # eight positions, four labels
    arcs = torch.cat([samplers.slerp(a, b, k / 7) for k in range(8)])      # (32, 1, 28, 28)
    made = last(samplers.dpmpp(net, cosine, arcs, timesteps(cosine, 12), y=y.repeat(8)))
print(f"agreement of the 32 digits: {metrics.class_agreement(made, y.repeat(8)):.0%}")
plots.show(made.view(8, 4, 1, 28, 28).transpose(0, 1).flatten(0, 1), columns=8, width=6,
           title="From one noise to another, one label a row")

# %%
digits, labels = (part[:50] for part in data.mnist("test"))
counts = (5, 10, 20, 40)
dark = (digits == -1).all(0)                                    # (1, 28, 28)
errors = {}
stds = {}


@torch.no_grad()
def first_eps(t):
    """Root mean square of the predicted noise where the inversion starts."""
    x = cosine.alpha(t) * digits
    eps_hat = (x - cosine.alpha(t) * D(x, t, y=labels)) / cosine.sigma(t)
    return eps_hat.square().mean().sqrt()


for name, spacing in {"even in t": "time", "even in log-SNR": "log_snr"}.items():
    by_n = []
    for n in counts:
        ts = timesteps(cosine, n, spacing)
        z = last(samplers.ddim_invert(D, cosine, digits, ts.flip(0), y=labels))
        back = last(samplers.ddim(D, cosine, z, ts, y=labels))
        by_n.append((back - digits).square().mean().sqrt())
    errors[name] = torch.stack(by_n)
    stds[name] = {"std of the noise": z.std(), "where all digits are -1": z[:, dark].std(),
                  "elsewhere": z[:, ~dark].std(), "first eps_hat": first_eps(ts[-2])}

# %%
rows = {name: dict(zip([f"{n} steps" for n in counts], e)) for name, e in errors.items()}
tables.table(rows, ".3f", "50 test digits, so many steps each way: root mean square error")
tables.table(stds, ".2f", "The noise found in 40 steps, standard deviations; and the root "
             "mean square of the first prediction of noise")
plots.curves(torch.tensor(counts), errors, yscale="log", ylim=(0.01, 1),
             title="50 test digits to noise and back", xlabel="steps each way",
             ylabel="root mean square error")
plots.show({"test digits": digits[:10], "their noise": z[:10], "and back": back[:10]},
           columns=10, width=6)

# %% [markdown]
# **What the figures show.** Between two noises of one label lie digits of that label, and the classifier reads 31 of the 32 as that. The inverted digits come back: with 40 steps the root mean square error of a pixel is 0.03 even in $t$, and 0.08 even in log-SNR (the one in the picture), of a range of 2. But look at the noise in the middle: it is no noise. Its standard deviation is half of what it should be, and the digit shows through. For a pixel that is $-1$ in every image, the ODE brings *every* noise to $-1$; so the pixel does not tell which noise it came from. There the noise found is nearly nothing: its standard deviation is 0.05 even in $t$ and 0.14 in log-SNR, elsewhere 0.58 and 0.66. The first step of the inversion is evaluated at a clean image, and the network predicts little noise in it (a root mean square of 0.14 and 0.18, for noise 1). The noise found works as an address, since it leads back. As a draw of noise it is worthless. Exercise 4.8 edits data that has a width everywhere, where inversion does what one hopes.
#
# ## 4.16 Any data, any schedule · deeper
#
# A sampler contains nothing about digits or the cosine schedule. `cifar10` is a network of 3.5 million parameters that was trained on a GPU in three minutes (`python -m course_lib.lab.training configs/cifar10.toml`), on EDM's schedule, $\alpha = 1$ and $\sigma$ from 80 to 0, with EDM's preconditioning (3.14). **What can the same call draw in twelve evaluations?**

# %%
photographs = train.load("cifar10", device="cpu")
classes = torch.arange(20) % 10
config = sampling.SamplerConfig(samplers.dpmpp)
x, evaluations, seconds = sampling.sample_labels(photographs, config, 12, classes, seed=3)
plots.show(x, columns=10, width=7,
           title=f"{photographs.schedule}, DPM-Solver++, {evaluations} evaluations")
print("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck")

# %% [markdown]
# **What the figure shows.** Small photographs; to our eyes about half are easy to recognise as what was asked for. Nothing in `samplers.py` was changed for them: a schedule is two functions of $t$, and part I's formulas were written for any such pair.
#
# # Part III · A few steps
#
# ## 4.17 Consistency: learn where the path ends
#
# With one evaluation every solver returns the denoiser's prediction at pure noise, an average over many images; with two, steps are still long. **What would a network have to predict instead?** The *end* of the path on which $x_t$ lies. Call it $f(x_t, t)$. Two conditions define it, the second for any two points of one path:
#
# $$f(x_0, 0) = x_0, \qquad f(x_t, t) = f(x_r, r) \tag{4.32}$$
#
# (Song et al. 2023: **consistency models**). The first costs nothing. At $t = 0$, $\alpha = 1$ and $\sigma = 0$, and from $x=\alpha x_0+\sigma\epsilon$ and $\text{out}=a x_0+b\,\epsilon$ (section 3.2) follows $b\,x-\sigma\,\text{out}=(\alpha b-\sigma a)\,x_0$; so at $t=0$
#
# $$D(x, 0) = \frac{b\,x - 0\cdot\mathrm{out}}{1\cdot b - 0\cdot a} = x \tag{4.33}$$
#
# for every target with $b\neq0$, whatever the network's output is. So a trained denoiser is a good beginning: right at $t=0$, and only its predictions at noisy levels must move, from averages to ends. For the second, cut the path at a few levels. From $x_t$, a **teacher** (the trained denoiser) takes one DDIM step $\Phi$ to the next level $r$, and the **student**'s two predictions should agree:
#
# $$L = \mathbb E\,\frac{1}{\sigma_t^2}\,\big\|D_\theta(x_t, t) - \operatorname{stop}\big[D_\theta(\Phi(x_t), r)\big]\big\|^2 \tag{4.34}$$
#
# *stop* means that no gradient flows through the cleaner prediction: it is the target. The level next to the data learns from $D(x, 0) = x$, the one above from it, and so on up. So the best that a student on $n$ levels can learn is to do in one evaluation what its teacher's DDIM does in $n$ steps; only for many levels is that the end of the ODE. The weight is that of $v$, if $\alpha^2+\sigma^2=1$. The code takes a *pseudo-Huber* loss, $\sqrt{e+c^2}-c$ of each example's error $e$, so that a few large errors do not rule. With a teacher the target is a function of $x_t$, and any such loss has the same minimum.
#
# The library's `Consistency` is a denoiser with this loss:

# %%
def consistency_loss(D, teacher, x0, t, r, eps, c=0.01):
    """(4.34), pseudo-Huber.   x0, eps: (B, ...), t, r: (B,) -> (B,)"""
    x = D.schedule.perturb(x0, t, eps)
    x0_hat = D(x, t)
    with torch.no_grad():
        cleaner = samplers.step(D.schedule, x, teacher(x, t), t, r)
        wanted = D(cleaner, r)
    error = (x0_hat - wanted).square().flatten(1).mean(1) / D.schedule.sigma(t).to(x) ** 2
    return (error + c**2).sqrt() - c

# %%
torch.set_num_threads(1)
half_circle = torch.linspace(0, math.pi, 20)
moon = torch.stack([half_circle.cos() - 0.5, half_circle.sin() - 0.25], dim=1)
moons = data.GaussianMixture(torch.cat([moon, -moon]), 0.08)
exact = moons.denoiser(cosine)
points = moons.sample(20_000)
torch.manual_seed(0)
student = Consistency(Tiny(), cosine, teacher=exact, levels=16, c=0.03)
x0 = points[:50]
t = student.time_sampler(torch.rand(50))
eps = torch.randn(50, 2)
ours = consistency_loss(student, exact, x0, t, t - 1 / 16, eps, 0.03)
torch.testing.assert_close(student.loss(x0, t, eps), ours)

# %%
def fit(net, loss_of, updates, rate=4e-3):
    """Minimise loss_of(x0) for random data x0 (512, 2)."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate)
    for k in range(updates):
        optimizer.param_groups[0]["lr"] = rate * (1 - k / updates)
        loss = loss_of(points[torch.randint(len(points), (512,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def student_loss(x0):
    return student.loss(x0, student.time_sampler(torch.rand(512))).mean()


fit(student, student_loss, 2000, rate=1e-2)

# %%
# a control: the same network, levels, loss, updates and rates; but the target is the end of
# the teacher's remaining steps
ts = timesteps(cosine, 16)
starts = torch.stack([cosine.perturb(moons.sample(2000, seed=k), ts[k].item(),
                                     torch.randn(2000, 2, generator=seeded(k)))
                      for k in range(16)])                              # (16, 2000, 2)
goals = torch.stack([last(samplers.ddim(exact, cosine, x, ts[k:])).float()
                     for k, x in enumerate(starts)])
torch.manual_seed(0)
direct = Denoiser(Tiny(), cosine, "v")


def direct_loss(_):
    level = torch.randint(16, (512,))
    row = torch.randint(2000, (512,))
    t = ts[level].float()
    error = (direct(starts[level, row], t) - goals[level, row]).square().mean(1)
    return ((error / cosine.sigma(t) ** 2 + 0.03**2).sqrt() - 0.03).mean()


fit(direct, direct_loss, 2000, rate=1e-2)

# %% [markdown]
# **One prediction, or a few.** The student's prediction from pure noise is already a sample. To improve it, go back to a lower level with *fresh* noise and predict again:
#
# $$x_s = \alpha_s\,D(x_t, t) + \sigma_s\,z \tag{4.37}$$
#
# This is (4.4) with $v = \sigma_s$: all of the noise is new.

# %%
@torch.no_grad()
def consistency_sampling(D, schedule, x, ts, *, generator=None, **condition):
    yield x
    for t, s in zip(ts[:-1], ts[1:]):
        x = schedule.perturb(D(x, t, **condition), s, randn_like(x, generator))
        yield x


def jumps(D, n, sampler=consistency_sampling):
    return last(sampler(D, cosine, noise, timesteps(cosine, n), generator=seeded(1)))


ends = [jumps(student, 2, f) for f in (consistency_sampling, samplers.consistency_sampling)]
torch.testing.assert_close(*ends)

# %%
fresh = moons.sample(2000, seed=9)                  # kernel_distance compares with it
with torch.no_grad():
    clouds = {
        "denoiser, 1": exact(noise, torch.tensor(1.0)),
        "ddim, 4": last(samplers.ddim(exact, cosine, noise, timesteps(cosine, 4))),
        "ddim, 16": last(samplers.ddim(exact, cosine, noise, timesteps(cosine, 16))),
        "data": moons.sample(2000, seed=3),
        "student, 1": jumps(student, 1),
        "student, 2": jumps(student, 2),
        "control, 1": jumps(direct, 1),
        "control, 2": jumps(direct, 2),
    }
plots.scatter({f"{name}\n{kernel_distance(x):.1f}": x for name, x in clouds.items()},
              title="Evaluations, and 1000 kernel distance", limit=1.8, columns=4)
moons_floor = floor(moons)
print(f"1000 kernel distance of eight draws of the data: {moons_floor}")

# %% [markdown]
# **What the figure shows.** One prediction of the exact denoiser is the middle of the data. One prediction of the student scores lower than four DDIM steps with the exact denoiser, two lower still. But many points lie between the moons, where the sixteen DDIM steps that it was taught leave few. The network is not too small for that: the control, with the same levels and loss but the ends of the teacher's own steps as targets, scores 2.4, as its teacher does. What is rough is learning from the student's own predictions.
#
# **And on digits?** `python tools/recipes/distil.py --ship` made the small shipped model consistent on four levels, once with the model itself as the teacher (the *student*, which is shipped) and once without a teacher: 735 steps of 128 each. Its card lists the results.

# %%
torch.set_num_threads(threads)
teacher = train.load("mnist_small", device="cpu")
student = train.load("mnist_consistency", device="cpu")
card = student.about["metrics"]
columns = {"model": "model", "sampler": "sampler", "evaluations": "evaluations",
           "frechet_distance": "Fréchet distance", "agreement": "agreement"}
rows = [{head: r[name] for name, head in columns.items()} for r in card["samples"]]
for row in rows:                                        # in the card a teacher is a guide
    row["model"] = row["model"].replace("guide", "teacher")
tables.table(rows, {"Fréchet distance": ".2f", "agreement": ".1%"},
             f"Fréchet distance of {card['samples'][0]['n']:,} digits, one seed "
             f"(real digits, 12 draws: {mean_and_std(real_row(4000), 'distance')})")
print(f"trained in {card['seconds']} s, the teacher in "
      f"{card['teacher_seconds_in_the_same_run']} s, on 2 CPU threads")

# %%
small = spread[spread.model.isin(["mnist_small", "mnist_consistency"])]
small = small.assign(model=small.model.replace(
    {"mnist_small": "teacher", "mnist_consistency": "student"}))
rows = [{"model": model, "sampler": name, "evaluations": asked,
         "Fréchet distance": mean_and_std(part, "distance", 2),
         "agreement": mean_and_std(part, "agreement")}
        for (model, name, asked), part in small.groupby(["model", "sampler", "asked"])]
tables.table(rows, caption="Teacher and student: mean and standard deviation of 3 seeds")

# %%
start = cosine.sample_prior((20, 1, 28, 28), generator=seeded(5))
y = torch.arange(20) % 10


def draw(D, sampler, n):
    return last(sampler(clip(D), cosine, start, timesteps(cosine, n), y=y))[:10]


made = {f"teacher, ddim, {n}": draw(teacher, samplers.ddim, n) for n in (1, 2, 18)}
made |= {f"student, {n}": draw(student, samplers.consistency_sampling, n)
         for n in (1, 2, 4)}
plots.show(made, columns=10, width=6)

# %% [markdown]
# **What the tables and the figure show.** One evaluation of the teacher is a blurred average; one of the student is nearly a digit. It was taught to do in one evaluation what its teacher's DDIM does in four (1.00). It does so with two (1.01), not with one (2.37). One evaluation of the student scores lower than two of the teacher (DDIM 4.2, (4.37) 4.6; others were not tried). With four, over three seeds, the teacher's UniPC has 0.66, `ancestral` 0.71 and (4.37) 0.77, the student 0.65 +- 0.07. So the student's gain is in one and two evaluations. Its training cost a quarter of the teacher's in passes (735 steps of five against 5,000 of three, a pass backward counted as two), and 0.19 by the clock.
#
# ### Without a teacher · deeper
#
# **Can one do without the teacher?** Take the same $x_0$ and $\epsilon$ at both levels. Given $x_t$, the noise is $\epsilon = (x_t-\alpha_tx_0)/\sigma_t$, so $x_r = \alpha_rx_0 + \frac{\sigma_r}{\sigma_t}(x_t - \alpha_tx_0)$ is linear in the unknown $x_0$. Its mean and variance, given $x_t$, are
#
# $$\mathbb E[x_r\mid x_t] = \Phi(x_t), \qquad \operatorname{Var}(x_r\mid x_t) = \Big(\alpha_r - \frac{\sigma_r}{\sigma_t}\alpha_t\Big)^2\operatorname{Var}(x_0\mid x_t) \tag{4.35}$$
#
# the mean *is* a DDIM step of the exact denoiser. With the square loss the network learns the mean of $f(x_r)$, not $f$ of the mean, and they differ, in one dimension and for small variances, by
#
# $$\mathbb E[f(x_r)\mid x_t] - f(\Phi) \approx \tfrac12 f''(\Phi)\operatorname{Var}(x_r\mid x_t) \tag{4.36}$$
#
# which falls with the square of the gap $t - r$, and over $n$ levels adds up to something like $1/n$. The teacher's DDIM step also errs by the square of the gap. The two errors have different constants; the one in (4.36) is proportional to $\operatorname{Var}(x_0\mid x_t)$, which at high noise is the spread of all the data. So **consistency training**, without a teacher, probably needs levels closer together than **consistency distillation** with one. Geng et al. (2024, ECT) begin with wide gaps and narrow them as training goes on. One caveat: a loss that weighs large errors less, such as pseudo-Huber, is not minimised by the mean when the target is random, as here (section 3.1). Then the argument holds only approximately.
#
# The table has rows of a student trained without a teacher. Its single evaluation scores 44: probably, by (4.36), the target is still an average at gaps of a quarter. With four evaluations and fresh noise it scores 0.54, the student with a teacher 0.66. Those are two trainings, one of each kind, so the order may be chance.
#
# ## 4.18 Progressive distillation: halve, and halve again · deeper
#
# **A gentler way, progressive distillation**: teach a student to do in *one* DDIM step what its teacher does in two (Salimans & Ho 2022); then the student becomes the teacher. Two teacher steps lead from $x_t$ over $m$ to $x_s$. One step of the student (4.8), $\eta = 0$, with the prediction $\tilde x$ leads to $\alpha_s\tilde x + \frac{\sigma_s}{\sigma_t}(x_t - \alpha_t\tilde x)$. That is $x_s$ exactly if
#
# $$\tilde x = \frac{x_s - \frac{\sigma_s}{\sigma_t}\,x_t}{\alpha_s - \frac{\sigma_s}{\sigma_t}\,\alpha_t} \tag{4.38}$$
#
# so this is the student's target in place of $x_0$. Each halving costs a training, and its errors are handed on. Here is one, on the spiral: from the exact denoiser's eight steps to four.

# %%
torch.set_num_threads(1)
exact = spiral.denoiser(cosine)
points = spiral.sample(20_000)


def two_steps_in_one(x, t, gap=1 / 8):
    """(4.38) from t to t - 2 gap, for the exact denoiser.   x: (B, 2), t: (B,) -> (B, 2)"""
    m, s = t - gap, (t - 2 * gap).clamp(min=0)
    x_m = samplers.step(cosine, x, exact(x, t), t, m)
    x_s = samplers.step(cosine, x_m, exact(x_m, m), m, s)
    ratio = cosine.sigma(s) / cosine.sigma(t)
    divisor = cosine.alpha(s) - ratio * cosine.alpha(t)
    return ((x_s - ratio[:, None] * x) / divisor[:, None]).float()

# %%
torch.manual_seed(0)
half = Denoiser(Tiny(), cosine, "v")


def halving_loss(x0):
    # the student's four levels
    t = (4 * torch.rand(512)).ceil().clamp(min=1).double() / 4
    x = cosine.perturb(x0, t, torch.randn_like(x0))
    error = (half(x, t) - two_steps_in_one(x, t)) / cosine.sigma(t)[:, None]
    return error.square().mean()


fit(half, halving_loss, 2000, rate=1e-2)

# %%
fresh = spiral.sample(2000, seed=9)                 # kernel_distance compares with it
runs = {"teacher, 8 steps": (exact, 8), "teacher, 4 steps": (exact, 4),
        "student, 4 steps": (half, 4)}
ends = {name: last(samplers.ddim(D, cosine, noise, timesteps(cosine, n)))
        for name, (D, n) in runs.items()}
plots.scatter({name: x.detach() for name, x in ends.items()} | {"data": fresh},
              title="One halving", limit=1.8)
goal = ends["teacher, 8 steps"]
rows = {name: {"distance to the teacher's 8 steps": f"{rms(x, goal):.3f}",
               "1000 kernel distance to the data": kernel_distance(x)}
        for name, x in ends.items()}
tables.table(rows, ".2f", "2,000 samples each, from the same noises (1000 kernel distance "
             f"of the data, 8 draws: {spiral_floor})")

# %% [markdown]
# **What the figure shows.** The student's four steps end where the teacher's eight end, and the teacher's own four do not. What eight steps get wrong, four now get wrong, too. With $k$ halvings $2^k$ steps become one. The difference to consistency: here each level learns from a fixed teacher, not from the student itself, and the target is known exactly.
#
# ## 4.19 Flow maps: learn the average velocity · deeper
#
# **And without any teacher, from scratch?** Take the flow of section 3.3: $\alpha = 1-t$, $\sigma = t$, a path moves with the velocity $v(x_t, t) = \mathbb E[\epsilon - x_0\mid x_t]$. Let a network learn not $v$ but its average along the path, from $r$ to $t$:
#
# $$u(x_t; r, t) = \frac{1}{t-r}\int_r^t v(x_\tau, \tau)\,d\tau, \qquad\text{so that}\qquad x_r = x_t - (t-r)\,u(x_t; r, t) \tag{4.39}$$
#
# With $r = 0$ and $t = 1$ one evaluation is a sample. But a loss cannot contain the integral: we have no paths. So multiply by $t-r$ and differentiate by $t$, along the path and with $r$ fixed: the left side gives $u + (t-r)\frac{du}{dt}$, the right side $v(x_t, t)$. Along a path $x$ changes at the rate $v$, hence
#
# $$u = v - (t-r)\,\frac{du}{dt}, \qquad \frac{du}{dt} = (v\cdot\nabla_x)\,u + \frac{\partial u}{\partial t} \tag{4.40}$$
#
# This is **MeanFlow** (Geng et al. 2025). The right side needs $v$ at one point only, and there $\epsilon - x_0$ does, since it is right on average and enters linearly. The derivative along $(v, 0, 1)$ in $(x, r, t)$ is one pass in forward mode, `torch.func.jvp`: it carries the derivative in one direction along with the values, at about twice the cost. At $r = t$ what remains is plain flow matching, so a part of each batch has $r = t$.

# %%
class MeanVelocity(nn.Module):
    """u(x; r, t): x (B, 2), r, t (B,) -> (B, 2). Slow sinusoids of time only."""

    def __init__(self, hidden=64):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(16, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, x, r, t):
        times = torch.stack([t, t - r], dim=1)                                  # (B, 2)
        frequencies = torch.tensor([0.5, 1.0, 2.0])
        angles = (times[:, :, None] * torch.pi * frequencies).flatten(1)        # (B, 6)
        return self.net(torch.cat([x, times, angles.sin(), angles.cos()], dim=1))

# %%
def mean_flow_loss(u, x0):
    t, r = torch.rand(2, len(x0)).sort(0, descending=True).values
    r = torch.where(torch.rand(len(x0)) < 0.5, t, r)
    v = torch.randn_like(x0) - x0                                               # eps - x0
    direction = (v, torch.zeros_like(r), torch.ones_like(t))
    average, du = torch.func.jvp(u, (x0 + t[:, None] * v, r, t), direction)
    wanted = (v - (t - r)[:, None] * du).detach()
    error = (average - wanted).square().sum(1)
    # large errors weigh less, as in the paper
    return (error / (error.detach() + 0.01).sqrt()).mean()

# %%
points = moons.sample(20_000)
fresh = moons.sample(2000, seed=9)                  # kernel_distance compares with it
with warnings.catch_warnings(action="ignore"):      # torch warns about a part of its own
    torch.manual_seed(0)
    u = MeanVelocity()
    fit(u, lambda x0: mean_flow_loss(u, x0), 1200, rate=1e-2)


# a control: the same network and updates on plain flow matching, r = t
def flow_loss(x0):
    t, eps = torch.rand(len(x0)), torch.randn_like(x0)
    x = x0 + t[:, None] * (eps - x0)
    return (flow(x, t, t) - (eps - x0)).square().sum(1).mean()


torch.manual_seed(0)
flow = MeanVelocity()
fit(flow, flow_loss, 1200, rate=1e-2)


@torch.no_grad()
def by_euler(net, x, n=50):
    """n Euler steps along the velocity net(x, t, t)."""
    for k in range(n, 0, -1):
        t = torch.full((len(x),), k / n)
        x = x - net(x, t, t) / n
    return x

# %%
z = torch.randn(2000, 2, generator=seeded(5))
one = torch.ones(2000)
zero = torch.zeros(2000)
with torch.no_grad():
    middle = z - 0.5 * u(z, one / 2, one)
    clouds = {
        "one Euler step": z - u(z, one, one),
        "u, one step": z - u(z, zero, one),
        "u, two steps": middle - 0.5 * u(middle, zero, one / 2),
        "u at r = t, 50 steps": by_euler(u, z),
        "plain flow, 50 steps": by_euler(flow, z),
        "data": moons.sample(2000, seed=3),
    }


def energy_distance(x):
    return metrics.mmd(x.double(), fresh.double(), lambda a, b: -torch.cdist(a, b))


plots.scatter(clouds, title="From scratch, without a teacher", limit=1.8, columns=3)
rows = {name: {"energy distance": f"{energy_distance(x):.4f}",
               "1000 kernel distance": kernel_distance(x)} for name, x in clouds.items()}
energy = floor(moons, measure=energy_distance, digits=4)
tables.table(rows, ".2f", "Distances to the data, 2,000 samples each (8 draws of the data: "
             f"{energy}; {moons_floor})")

# %% [markdown]
# **What the figure shows.** A step along the velocity at $t=1$ gathers everything in the middle. A step along the average velocity, also one evaluation, spreads it over the place of the moons, without any teacher; the energy distance falls a hundredfold. But it is one blob rather than two moons, and a second step does not separate them. The instantaneous velocity is rough as well: 50 Euler steps along $u$ at $r=t$ score 0.0078, along the same network trained on plain flow matching with as many updates 0.0027. A longer training was not tried. So this shows the principle, not what MeanFlow reaches. The energy distance is (3.39) with the kernel $-\|x-y\|$. As in 4.17, a loss that weighs large errors less is not minimised by the mean.
#
# Its relatives differ in how they get the average. A **shortcut model** (Frans et al. 2025) uses that two steps of length $d$ are one of length $2d$,
#
# $$u(x_t;\,t-2d,\,t) = \tfrac12\big[u(x_t;\,t-d,\,t) + u(x_{t-d};\,t-2d,\,t-d)\big] \tag{4.41}$$
#
# which needs no derivative: the network is its own teacher for the doubled step. And the continuous-time consistency model (sCM; Lu & Song 2025) is the case $r = 0$: let the gap in (4.34) go to zero, and the same forward-mode derivative appears.
#
# ## 4.20 Names you will meet
#
# Papers, diffusers, k-diffusion and web interfaces name one sampler in several ways. **Which of this lesson's is it?** Ask three questions: does it add noise, of which order is it, and how are its timesteps spaced? The map answers the first two; the spacing is a word put behind the name.

# %%
diagrams.sampler_map({
    ("noise", 1): ["ancestral = DDPM", "Euler a", "DDIM, eta > 0"],
    ("noise", 2): ["Heun with churn", "DPM++ 2M SDE"],
    ("noise", 3): ["DPM++ 3M SDE (by name; see 4.7)"],
    ("no noise", 1): ["DDIM = Euler"],
    ("no noise", 2): ["Heun", "DPM++ 2M"],
    ("no noise", 3): ["UniPC", "dpmpp_3m, (4.24)"],
})

# %% [markdown]
# **What the map shows.** For samplers with noise, the order is that of the method without it. (4.37), LCM's sampler, stands outside: without noise it solves nothing.
#
# | here | as students meet it | diffusers |
# | --- | --- | --- |
# | `ancestral` | DDPM | `DDPMScheduler` (`variance_type="fixed_small"`; sigma-hat: `"fixed_large"`) |
# | `ddim`, $\eta=0$ | DDIM; "Euler", in EDM's variables the same step | `DDIMScheduler`, `EulerDiscreteScheduler` |
# | `ddim`, $\eta=1$ | "Euler a": its noise is that of ancestral sampling | `EulerAncestralDiscreteScheduler` |
# | `heun` | "Heun"; with `s_churn`: EDM's stochastic sampler | `HeunDiscreteScheduler` (no churn); `EDMEulerScheduler` (churn, order 1) |
# | `dpmpp` | "DPM++ 2M" | `DPMSolverMultistepScheduler` |
# | `dpmpp`, spacing `"karras"` | "DPM++ 2M Karras" | the same with `use_karras_sigmas=True` |
# | (4.24) is related | "DPM++ 3M" | the same with `solver_order=3` |
# | not built here | "DPM++ 2M SDE" | the same with `algorithm_type="sde-dpmsolver++"` |
# | `unipc` | "UniPC" | `UniPCMultistepScheduler` |
# | `ddim_invert` | DDIM inversion | `DDIMInverseScheduler` |
# | `consistency_sampling` | multistep consistency; "LCM" | `CMStochasticIterativeScheduler`, `LCMScheduler` |
# | `ddim` on `Schedule.flow()` | "Euler", for SD3 and Flux | `FlowMatchEulerDiscreteScheduler` |
#
# ### Reflow, DMD, LCM · deeper
#
# **Reflow** (Liu et al. 2023, *rectified flow*) samples pairs of a noise and the end of its ODE path, and trains a new flow on these pairs instead of random ones. The paths become straighter, so one Euler step errs less; a last distillation on such pairs gives one evaluation. InstaFlow (Liu et al. 2024) did it for Stable Diffusion. Section 6.12 reflows in the plane.
#
# **DMD**, distribution matching distillation (Yin et al. 2024), asks for no path at all. A generator of one step is trained so that the *distribution* of its samples comes near the data's: the gradient is the difference of two scores at a noise level, that of the generator's samples (a second network, trained along) and that of the teacher. It descends the divergence whose rate is in (4.16). It may lose variety; the paper adds a regression to pairs of the teacher, DMD2 a discriminator.
#
# **LCM**, latent consistency models (Luo et al. 2023), are (4.34) in the latents of Stable Diffusion, with guidance built into the teacher's step, the weight $w$ as a condition, and levels that are skipped. Sampling is (4.37) in two to eight evaluations. LCM-LoRA stores the change as a low-rank addition to the weights (lesson 7).
#
# ## What we built
#
# The library's samplers, derived and measured: ancestral sampling, DDIM, Heun, DPM-Solver++(2M), and in the deeper parts churn, UniPC and inversion; a study at equal cost; and networks that need one or two evaluations.
#
# **Three things to remember.** (1) The network's evaluations are the cost. (2) Without noise sampling is an ODE, and its solvers have orders; with noise, errors of a learned model may be partly forgotten. Which scores better is decided by measuring, with a floor and a spread. (3) With one evaluation every solver returns an average; a network can learn to jump.
#
# | term | in one line |
# | --- | --- |
# | number of function evaluations (NFE) | how often the denoiser is called; the cost |
# | ancestral sampling, posterior variance | draw from (4.2) with $\hat x_0$ in place of $x_0$; its variance |
# | DDIM, $\eta$ | (4.8); the fraction of the posterior's deviation that is drawn anew |
# | probability-flow ODE, trajectory | (4.13), the same marginals without noise; a path of it |
# | reverse-time SDE | (4.42) at $\eta=1$ |
# | Langevin dynamics | noise and score at one level; keeps its marginal |
# | order | the power $p$ in an error proportional to $h^p$ |
# | predictor-corrector, Heun | a step, evaluated where it arrives, and repeated |
# | exponential integrator, DPM-Solver++, UniPC | the linear part solved exactly, the prediction extrapolated |
# | timesteps, spacing | the levels of the steps; even in $t$, quadratic, log-SNR, Karras |
# | churn | noise added before a step, which starts at the higher level |
# | clipping, dynamic thresholding | keep $\hat x_0$ in range; by a quantile |
# | slerp, DDIM inversion | interpolation on an arc; the ODE run from data to noise |
# | real-data baseline (floor) | what real data score with the same n |
# | consistency model: distillation, training | maps any point of a path to its end; with and without a teacher |
# | progressive distillation | one step learns two of its teacher's |
# | flow map, MeanFlow, shortcut model | the average velocity between two times |
#
# | formula | source |
# | --- | --- |
# | (4.1) to (4.3) | Ho et al. 2020, section 3.2; Bao et al. 2022, *Analytic-DPM* |
# | (4.4) to (4.8) | Song, Meng & Ermon 2021, *DDIM*, eq. 7, 12 and 16 |
# | (4.9) to (4.13) | Song et al. 2021, *Score-Based Generative Modeling through SDEs*, eq. 13; Karras et al. 2022, eq. 1 and 4 |
# | (4.14) to (4.16), (4.42) | decay of the divergence: Jordan, Kinderlehrer & Otto 1998; Langevin steps at a fixed level: Song et al. 2021 (correctors); that noise corrects errors: Karras et al. 2022, section 4; reverse-time SDE: Anderson 1982 |
# | (4.17) to (4.19) | Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I*; Karras et al. 2022, algorithm 1 |
# | (4.20) to (4.24) | Lu et al. 2022, *DPM-Solver* and *DPM-Solver++*, algorithm 2; Zhao et al. 2023, *UniPC* |
# | (4.25) to (4.28) | Karras et al. 2022, eq. 5 and algorithm 2 |
# | (4.29) | Saharia et al. 2022, *Imagen*, section 2.3 |
# | (4.30), (4.31) | Shoemake 1985, *slerp*; Song, Meng & Ermon 2021, section 4.3 |
# | (4.32) to (4.37) | Song et al. 2023, *Consistency Models*; Song & Dhariwal 2024, *Improved Techniques for Training Consistency Models*; Geng et al. 2024, *Consistency Models Made Easy* (ECT) |
# | (4.38) | Salimans & Ho 2022, *Progressive Distillation*, algorithm 2 |
# | (4.39), (4.40) | Geng et al. 2025, *Mean Flows for One-step Generative Modeling* |
# | (4.41) | Frans et al. 2025, *One Step Diffusion via Shortcut Models*; sCM: Lu & Song 2025 |
# | 4.20 | Liu et al. 2023, *Flow Straight and Fast*; Liu et al. 2024, *InstaFlow*; Yin et al. 2024, *One-step Diffusion with Distribution Matching Distillation*; Luo et al. 2023, *Latent Consistency Models* |
#
# **Next:** lesson 5 tells the model what to draw.
