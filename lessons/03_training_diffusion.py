# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 3 · Training diffusion models, and knowing that they are good
#
# {{badge}}
#
# "My samples are pure noise." "I cannot reach the FID of the paper." This lesson is about both complaints: what to minimise, what makes training work, how one finds out why it fails, and how to tell a good model from one that only looks good.
#
# **After this lesson you can** say what each loss estimates; change targets, weightings and times, and know what changes; derive flow matching; choose a schedule for a resolution; choose an optimizer and average weights; find the mistake in a training that fails; judge samples by metrics with error bars; and train on your own pictures and judge the result honestly.
#
# **You need** lessons 1 and 2. **It takes** 2 to 4 minutes to run on two CPU cores. The exercises are in `exercises/03_training_diffusion.ipynb`.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 3.1 What a loss asks for | core | 6 | mean or median |
# | 3.2 One loss, four weightings | core | 10 | targets, and the density of a schedule |
# | 3.3 Flow matching | core | 8 | straight lines, derived |
# | 3.4 EDM | deeper | 6 | preconditioning, derived |
# | 3.5 Weights and times | core | 4 | min-SNR, importance sampling |
# | 3.5 The noise of the gradient | deeper | 8 | which times to draw, measured |
# | 3.6 Designing a schedule | core | 7 | four schedules; a shift for large images |
# | 3.6 The end must be noise | deeper | 6 | why pictures come out of medium brightness |
# | 3.6 Two trainings, two schedules | core | 4 | what samples show of a schedule |
# | 3.7 Learning the variance | deeper | 12 | bits per dimension |
# | 3.8 The craft of training | core | 15 | averages of weights, learning rate, AdamW and Muon |
# | 3.8 Post-hoc EMA | deeper | 5 | the length of an average, chosen afterwards |
# | 3.8 Augmentation; half precision | deeper | 8 | mirrored copies that do not leak; fp16 and bf16 |
# | 3.9 A debugging clinic | core | 20 | ten defects, thirteen tests |
# | 3.10 A distance between distributions | core | 8 | the Fréchet distance; FID |
# | 3.10 The matrix case | deeper | 6 | its derivation |
# | 3.11 The bias | core | 5 | why $n$ and a baseline belong to every distance |
# | 3.11 The bias, derived | deeper | 8 | the 1 / n term |
# | 3.12 Kernel distances | deeper | 10 | MMD, KID, CMMD |
# | 3.13 Scores that ask one question | core | 6 | Inception Score, precision, recall |
# | 3.13 LPIPS, and every score against n | deeper | 6 | pairs of pictures; which scores are biased |
# | 3.14 Metrics that disagree | deeper | 8 | which damage each metric sees |
# | 3.15 Our models judged | core | 8 | two models, and a search for copies |
# | 3.16 Why not simply the loss? | deeper | 8 | a lower loss with worse samples |
# | 3.17 Your own pictures | core | 10 | a model from a folder and a configuration, judged |
#
# The core sections read well alone.
#
# **Our conventions.** The time $t$ is in [0, 1], 0 is data, 1 is noise; $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ with standard deviations $\alpha, \sigma$; $\mathrm{SNR} = \alpha^2/\sigma^2$. $w = 1$ is no guidance. Some letters serve twice: $s$, also the size of the data; $w$, in 3.2 and 3.5 a weight; $\lambda$, also a weight decay; $u$ and $v$, in 3.10 random vectors. `ddim` is a sampler without noise, which lesson 4 derives: it moves to the next time along the predicted image and noise.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import csv
import math
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import gaussian_blur
from torchvision.utils import save_image

from course_lib import DDPM, Denoiser, Schedule, ancestral, clip, ddim, last, timesteps
from course_lib.lab import (
    data,
    features,
    metrics,
    plots,
    sampling,
    small_sets,
    storage,
    tables,
    train,
)
from course_lib.lab.training.muon import orthogonalize

torch.manual_seed(0)
digits, labels = data.mnist("train")
cosine, flow = Schedule.cosine(), Schedule.flow()
threads = torch.get_num_threads()
torch.set_num_threads(1)            # small networks gain nothing from a second thread

# %% [markdown]
# # Part I · Training
#
# ## 3.1 What a loss asks for
#
# A denoiser is given $x_t$ and must predict *one* image, though many clean images could be behind it. Which one depends on the loss. Let $Y$ be one pixel of the clean image behind a given $x_t$, and $g$ the prediction. Where is the expected loss smallest? Set its derivative to zero.
#
# *Squared error.* $\frac{d}{dg}\,\mathbb E (Y-g)^2 = -2\,\mathbb E[Y - g]$, so
#
# $$g_{\ell_2} = \mathbb E[Y] \qquad\text{(the mean)} \tag{3.1}$$
#
# *Absolute error.* The slope of $|Y-g|$ in $g$ is $+1$ where $g > Y$ and $-1$ where $g < Y$; on average $P(Y<g) - P(Y>g)$, so
#
# $$P(Y < g_{\ell_1}) = P(Y > g_{\ell_1}) \qquad\text{(the median)} \tag{3.2}$$
#
# *Huber's loss* (the smooth $\ell_1$ loss) is $\tfrac12 r^2$ for errors $r = Y - g$ up to $\delta$, and $\delta(|r| - \tfrac\delta2)$ beyond; its slope is the error, cut off at $\pm\delta$:
#
# $$\mathbb E\big[\operatorname{clip}(Y - g_{\text{Huber}},\,-\delta,\,\delta)\big] = 0 \qquad\text{(the median for } \delta\to0\text{, the mean for } \delta\to\infty) \tag{3.3}$$
#
# Take data with two values, $-1$ (30 %) and $+1$ (70 %), a little spread. On a line we can compute all three *perfect* denoisers from the posterior on a grid of values, and sample with each.

# %%
two_values = data.GaussianMixture([[-1.0], [1.0]], 0.1, [0.3, 0.7])
x0_values = torch.linspace(-1.8, 1.8, 361, dtype=torch.float64)     # where x0 may be
log_prior = two_values.log_prob(x0_values[:, None])                 # (361,)

def posterior(x, t):
    """p(x0 | x_t = x) on the grid of values.   x: (N, 1) -> (N, 361)"""
    alpha, sigma = cosine.alpha(t), cosine.sigma(t)
    log_likelihood = -(x.double() - alpha * x0_values).square() / (2 * sigma**2)
    return (log_prior + log_likelihood).softmax(dim=1)

def perfect_denoiser(loss):
    """The denoiser whose prediction makes the expected loss smallest, for each x_t."""
    table = loss(x0_values[None] - x0_values[:, None])              # (prediction, x0)

    def predict(x, t):
        expected = posterior(x, t) @ table.T                        # (N, 361)
        return x0_values[expected.argmin(dim=1)][:, None].to(x)

    return predict

losses = {
    "l2": lambda r: r.square(),
    "Huber, 0.1": lambda r: F.huber_loss(r, 0 * r, reduction="none", delta=0.1),
    "l1": lambda r: r.abs(),
}

# %%
start = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
samples = {name: last(ddim(perfect_denoiser(loss), cosine, start, timesteps(cosine, 30)))
           for name, loss in losses.items()}
plots.histogram([samples["l2"][:, 0], samples["l1"][:, 0]], xlabel="x0",
                labels=["l2: the mean", "l1: the median"],
                title="Samples with two perfect denoisers")
rows = {}
for name, x in samples.items():
    upper = x[x > 0]
    rows[name] = {"fraction": len(upper) / len(x), "standard deviation": upper.std()}
rows["the data"] = {"fraction": 0.7, "standard deviation": 0.1}
tables.table(rows, ".3f", index="loss", caption="The upper bump (above 0) of 3,000 samples")

# %% [markdown]
# **What the figure shows.** Of the three, only the mean keeps the fractions. The median, in the middle of the sampling process, is the likelier value altogether, and the rarer one shrinks from 30 % to 11 %; Huber's loss with $\delta = 0.1$ does nearly the same. Even with the mean the bumps are thinner than the data's; few steps are the probable reason, since the denoiser is exact. All the equations of lesson 1 want a conditional *mean*, so a diffusion model is trained with $\ell_2$. On images, Saharia et al. (2022, *Palette*) find fewer different samples with $\ell_1$.
#
# ## 3.2 One loss, four weightings
#
# **What should the network predict?** A **target**, also called **parameterisation** or *prediction type*, is $a\,x_0 + b\,\epsilon$. Since $x_t$ is given, the network's output, out, is a prediction $\hat x_0$ of $x_0$ in other words: put $\epsilon = (x_t - \alpha x_0)/\sigma$ into it, once for the truth and once for the prediction, and subtract. What is known drops out:
#
# $$\big\|\text{out} - (a x_0 + b\,\epsilon)\big\|^2 = \Big(\frac{\alpha b - \sigma a}{\sigma}\Big)^2\,\|\hat x_0 - x_0\|^2 \tag{3.4}$$
#
# With $(a, b) = (0, 1)$ for $\epsilon$, $(1, 0)$ for $x_0$, $(-\sigma, \alpha)$ for $v$ and $(-1, 1)$ for *flow*, the target of section 3.3, the four minimise *the same error* with four weights (for a schedule with $\alpha^2+\sigma^2=1$; for flow, $\alpha = 1-t,\ \sigma = t$):
#
# $$\epsilon:\ \mathrm{SNR}, \qquad x_0:\ 1, \qquad v:\ \mathrm{SNR}+1, \qquad \text{flow}:\ \big(1+\sqrt{\mathrm{SNR}}\big)^2 \tag{3.5}$$
#
# The next cells measure them with an untrained network and stop if one misses (3.5) by more than 2 %; the figure draws the formulas:

# %%
class MLP(nn.Module):
    """x: (B, d), t: (B,) -> (B, out)"""

    def __init__(self, d=2, hidden=64, out=None):
        super().__init__()
        self.first = nn.Linear(d + 17, hidden)
        self.last = nn.Linear(hidden, out or d)
        self.inner = nn.Sequential(
            nn.SiLU(), nn.Linear(hidden, hidden),
            nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
        )

    def forward(self, x, t):
        phases = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 7)         # (B, 8)
        h = torch.cat([x, t[:, None], phases.sin(), phases.cos()], dim=1)   # (B, d + 17)
        return self.last(self.inner(self.first(h)))

# %%
x0, eps, t = torch.randn(4000, 2), torch.randn(4000, 2), torch.linspace(0.03, 0.97, 4000)
net = MLP()
ratios = {}
for target, schedule in {"eps": cosine, "x0": cosine, "v": cosine, "flow": flow}.items():
    D = Denoiser(net, schedule, target)
    with torch.no_grad():
        x0_hat = D(schedule.perturb(x0, t, eps), t)
        ratio = D.loss(x0, t, eps) / (x0_hat - x0).square().mean(1)         # (4000,)
    ratios[target] = ratio, schedule.log_snr(t)

# %%
formulas = {
    "eps": lambda snr: snr,
    "x0": lambda snr: 1 + 0 * snr,
    "v": lambda snr: snr + 1,
    "flow": lambda snr: (1 + snr.sqrt()) ** 2,
}
for target, (ratio, log_snr) in ratios.items():
    weight = formulas[target](log_snr.exp())
    torch.testing.assert_close(ratio.double(), weight, rtol=2e-2, atol=1e-4)
log_snr = torch.linspace(-8, 8, 200)
plots.curves(log_snr, {name: f(log_snr.exp()) for name, f in formulas.items()},
             yscale="log", ylim=(1e-3, 1e4), ylabel="weight",
             xlabel="log SNR   (noise → data)",
             title="The weight that each target puts on the error of x0")

# %% [markdown]
# **What the figure shows.** $\epsilon$, $v$ and flow weigh clean images most, $x_0$ weighs all alike. At the noisy end the loss of $\epsilon$ hardly depends on the image, those of $v$ and flow always depend on it a little.
#
# **The schedule weighs, too.** If $t$ is drawn uniformly, a schedule visits each log SNR, $\lambda$, with the density $|dt/d\lambda|$. So in units of the error of $\epsilon$, where the weights of (3.5) are divided by the SNR, the whole weight is
#
# $$w(\lambda) = \frac{\text{weight}}{\mathrm{SNR}}\,\Big|\frac{dt}{d\lambda}\Big|, \qquad v \text{ on cosine}: \frac{e^{-\lambda/2}}{\pi}, \qquad \text{flow on flow}: \frac{e^{-\lambda/2}}{2} \tag{3.44}$$
#
# On the cosine schedule $t = \frac2\pi\arctan e^{-\lambda/2}$, so $|dt/d\lambda| = 1/\big(2\pi\cosh\frac\lambda2\big)$, and $1 + e^{-\lambda} = 2e^{-\lambda/2}\cosh\frac\lambda2$. On the flow schedule $t = 1/(1+e^{\lambda/2})$, so $|dt/d\lambda| = \frac12 t(1-t)$, and $(1+e^{-\lambda/2})^2$ is $1/(1-t)^2$; the product is $\frac12\,t/(1-t)$.

# %%
def weight_by_log_snr(schedule, a, b):
    """w(lambda) at the values log_snr, for the target a x0 + b eps."""
    t = torch.linspace(0.001, 0.999, 20_001, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    a, b = a(alpha, sigma), b(alpha, sigma)
    lam = schedule.log_snr(t)                                       # falls with t
    density = 1 / torch.gradient(lam, spacing=(t,))[0].abs()        # |dt / d lambda|
    w = ((alpha * b - sigma * a) / alpha) ** 2 * density            # (3.4) over the SNR
    return torch.from_numpy(np.interp(log_snr, lam.flip(0), w.flip(0)))

# %%
plain_cosine = Schedule(lambda t: (math.pi / 2 * t).cos(),
                        lambda t: (math.pi / 2 * t).sin())
minus_sigma, alpha_itself = (lambda alpha, sigma: -sigma), (lambda alpha, sigma: alpha)
one, zero, minus_one = (lambda alpha, sigma, c=c: c + 0 * alpha for c in (1, 0, -1))
densities = {
    "v on cosine": weight_by_log_snr(plain_cosine, minus_sigma, alpha_itself),
    "flow on flow": weight_by_log_snr(flow, minus_one, one),
    "eps on cosine": weight_by_log_snr(plain_cosine, zero, one),
    "eps on linear": weight_by_log_snr(Schedule.linear(), zero, one),
    "x0 on cosine": weight_by_log_snr(plain_cosine, one, zero),
}
plots.curves(log_snr, densities, yscale="log", ylim=(1e-5, 1e2), ylabel="weight",
             xlabel="log SNR   (noise → data)",
             title="Weight on the error of eps, with the density of the schedule")
ratio = densities["flow on flow"] / densities["v on cosine"]
print(f"flow on flow over v on cosine: {ratio.min():.4f} to {ratio.max():.4f}, "
      f"pi / 2 = {math.pi / 2:.4f}")

# %% [markdown]
# **What the figure shows.** $v$ on the plain cosine schedule, $\alpha = \cos\frac{\pi t}2$, and flow matching are *the same loss* up to a constant factor (Kingma & Gao 2023). The two networks still differ in the size of their inputs and in the function they must produce. The same target on another schedule is another loss.
#
# A weight can be put on any loss by hand, but the *function* that the network must produce differs. Near the data, an **x0-prediction** repeats the input; near pure noise, an **epsilon-prediction** does, and there a small error of $\epsilon$ is divided by $\alpha \approx 0$ (lesson 1). A **v-prediction** is never a mere copy of the input.
#
# ## 3.3 Flow matching
#
# **Can one go from noise to data along straight lines?** Take a point of noise $\epsilon$ and a data point $x_0$, and move from one to the other at constant speed:
#
# $$x_t = (1-t)\,x_0 + t\,\epsilon, \qquad \frac{dx_t}{dt} = \epsilon - x_0 \tag{3.6}$$
#
# Many such lines cross at one place $x$, and a rule "where to go from here" can have only one answer. Take the mean of all that pass:
#
# $$u(x, t) = \mathbb E\big[\epsilon - x_0 \,\big|\, x_t = x\big] \tag{3.7}$$
#
# **Does following the mean bring noise to data?** Let a cloud of particles start as noise at $t = 1$ and follow $dx/dt = u(x, t)$. Watch any smooth quantity $f$. For the lines, by the chain rule, and since an average can be taken first over what passes through $x$ and then over $x$,
#
# $$\frac{d}{dt}\,\mathbb E\,f(x_t) = \mathbb E\big[\nabla f(x_t)\cdot(\epsilon - x_0)\big] = \mathbb E\big[\nabla f(x_t)\cdot u(x_t, t)\big] \tag{3.8}$$
#
# For the particles the chain rule gives the right-hand side at once. So both clouds obey the same rule at every time, and since it holds for every $f$, it fixes how their densities change; they are the same at $t = 1$, and so they are the same for all $t$ (if $u$ is smooth enough for the rule to have one solution): at $t = 0$ the particles are data. And $u$ is a conditional mean. By (3.1) a network learns it from
#
# $$\mathbb E\,\big\|\,\text{net}(x_t, t) - (\epsilon - x_0)\,\big\|^2 \tag{3.9}$$
#
# This is **flow matching**, here along the straight lines of **rectified flow**. It is target "flow", $a = -1, b = 1$, on the schedule $\alpha = 1-t$, $\sigma = t$: *one more schedule and one more target*. By section 1.14, any trained diffusion network can be used in its place. And one step of our general sampler is one Euler step of the particles' equation: $x_s = (1-s)\,\hat x_0 + s\,\hat\epsilon$, and with $\hat x_0 = x_t - t\,u$ and $\hat\epsilon = x_t + (1-t)\,u$,
#
# $$x_s = x_t + (s - t)\,u(x_t, t) \tag{3.10}$$

# %%
exact = two_values.denoiser(flow)
noise = torch.randn(5, 1, generator=torch.Generator().manual_seed(3))
clean = two_values.sample(5, seed=5)
times = torch.linspace(0, 1, 60)
straight = (1 - times) * clean + times * noise                      # (5, 60)
states = list(ddim(exact, flow, noise, timesteps(flow, 59)))        # from t = 1 to t = 0
followed = torch.cat(states[::-1], dim=1)                           # (5, 60)
paths = {"straight lines": straight, "following the mean": followed}
plots.panels(
    times,
    {name: {f"$\\epsilon_{k}$": x[k] for k in range(5)} for name, x in paths.items()},
    xlabel="t   (data → noise)",
    ylabel="x",
)
t, s = torch.tensor([0.7, 0.6], dtype=torch.float64)
u = (noise - exact(noise, t)) / t                                   # eps_hat - x0_hat
euler = noise + (s - t) * u
torch.testing.assert_close(last(ddim(exact, flow, noise, [t, s])), euler.to(noise))

# %% [markdown]
# **What the figure shows.** The lines cross. The particles cannot, and sort themselves: each ends in one of the bumps, on a path that is bent where lines to both bumps pass.
#
# ## 3.4 EDM: keep every number near one · deeper
#
# On the schedule $\alpha = 1$, $\sigma$ up to 80 (lesson 1), a network's inputs would have standard deviations from 0.5 to 80. Networks train best with inputs and targets of standard deviation one. Karras et al. (2022) put the network $F$ between four factors (**preconditioning**), for data of mean 0 and standard deviation $s$:
#
# $$D(x) = c_{\text{skip}}\,x + c_{\text{out}}\,F(c_{\text{in}}\,x;\ c_{\text{noise}}) \tag{3.11}$$
#
# **Which factors?** (i) The input shall have variance 1. The variance of $x = x_0 + \sigma\epsilon$ is $s^2 + \sigma^2$, so
#
# $$c_{\text{in}} = \frac1{\sqrt{s^2+\sigma^2}} \tag{3.12}$$
#
# (ii) $F$'s target, solved from (3.11), is $(x_0 - c_{\text{skip}}\,x)/c_{\text{out}} = \big((1-c_{\text{skip}})\,x_0 - c_{\text{skip}}\,\sigma\,\epsilon\big)/c_{\text{out}}$. It shall have variance 1, too:
#
# $$c_{\text{out}}^2 = (1-c_{\text{skip}})^2\,s^2 + c_{\text{skip}}^2\,\sigma^2 \tag{3.13}$$
#
# (iii) Errors of $F$ reach the image multiplied by $c_{\text{out}}$; so choose $c_{\text{skip}}$ such that $c_{\text{out}}$ is as small as possible. The derivative of (3.13) is $-2(1-c_{\text{skip}})\,s^2 + 2c_{\text{skip}}\,\sigma^2$; it vanishes at
#
# $$c_{\text{skip}} = \frac{s^2}{s^2+\sigma^2}, \qquad\text{and then}\qquad c_{\text{out}} = \frac{\sigma\,s}{\sqrt{s^2+\sigma^2}} \tag{3.14}$$
#
# The noise level is given as $c_{\text{noise}} = \tfrac14\ln\sigma$, which runs from about $-1.5$ to $1.1$. With the error weighted by $1/c_{\text{out}}^2$, the loss is the plain squared error of $F$.

# %%
s = 0.5
sigma = torch.logspace(-2, 2, 9, dtype=torch.float64)
x0 = s * torch.randn(100_000, 1).double()
eps = torch.randn(100_000, 1).double()
x = x0 + sigma * eps                        # (N, 9), one column for each noise level
r = (s**2 + sigma**2).sqrt()
c_in, c_skip, c_out = 1 / r, s**2 / r**2, sigma * s / r
sizes = {
    "x itself": x.std(0),
    "input c_in x": (c_in * x).std(0),
    "target of F": ((x0 - c_skip * x) / c_out).std(0),
}
plots.curves(sigma, sizes, xscale="log", yscale="log", xlabel="sigma",
             ylabel="standard deviation", title="Sizes without and with preconditioning")

c_out_for = lambda c: ((1 - c) ** 2 * s**2 + c**2 * sigma**2).sqrt()    # (3.13), any c_skip
torch.testing.assert_close(c_out_for(c_skip), c_out)
for other in (0.9 * c_skip, 1.1 * c_skip):
    assert (c_out_for(other) > c_out).all(), "no other c_skip makes c_out smaller"

# %%
F_net = MLP().double()
D = Denoiser(F_net, Schedule.edm(), target="edm", sigma_data=s)
x = torch.randn(5, 2, dtype=torch.float64)
t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
sigma = Schedule.edm().sigma(t)[:, None]            # (5, 1)
r = (s**2 + sigma**2).sqrt()
by_hand = s**2 / r**2 * x + sigma * s / r * F_net(x / r, sigma[:, 0].log() / 4)
torch.testing.assert_close(D(x, t), by_hand)
print("course_lib's target 'edm' agrees")

# %% [markdown]
# **What the figure shows.** Input and target of $F$ have size 1 at every noise level. And it is an old friend: for $s = 1$ the target is $(\sigma x_0 - \epsilon)/\sqrt{1+\sigma^2}$, which is $-v$ with the noise level written as in lesson 1, $\sigma_{\text{EDM}} = \sigma/\alpha$.
#
# ## 3.5 What to weigh, and which times to draw
#
# The weights of (3.5) can be changed. **Min-SNR-$\gamma$** (Hang et al. 2023) uses, in units of the $x_0$ error, $\min(\mathrm{SNR}, \gamma)$ with $\gamma = 5$: nearly clean images no longer outweigh all others. **P2** (Choi et al. 2022) divides the $\epsilon$ weight by $(1+\mathrm{SNR})$. As factors on the $v$ loss, which has $\mathrm{SNR}+1$ already:
#
# $$w_{\text{min-SNR}} = \frac{\min(\mathrm{SNR}, \gamma)}{\mathrm{SNR}+1}, \qquad w_{\text{P2}} = \frac{\mathrm{SNR}}{(\mathrm{SNR}+1)^2} \tag{3.15}$$
#
# **Drawing more often is weighing more.** If times are drawn from a density $p$ in place of the uniform one, and weighted back (**importance sampling**), then
#
# $$\mathbb E_{t\sim p}\Big[\frac{w(t)}{p(t)}\,L(t)\Big] = \int_0^1 \frac{w(t)}{p(t)}\,L(t)\,p(t)\,dt = \mathbb E_{t\sim U}\big[w(t)\,L(t)\big] \tag{3.16}$$
#
# So the *mean* gradient is the same whether a time is drawn twice as often or weighted twice as much. **Stratified** times, one in each of $B$ equal slices of $[0, 1]$, have the same mean as uniform ones and remove the chance of drawing many early and few late times.
#
# **Logit-normal** times, $t = \operatorname{sigmoid}(z)$ with normal $z$ on the flow schedule, are SD3's. EDM draws $\ln\sigma \sim \mathcal N(-1.2, 1.2^2)$. On the flow schedule $\sigma/\alpha = t/(1-t)$, so EDM's draw is logit-normal there, with its median at $t = \operatorname{sigmoid}(-1.2) = 0.23$. Both are usually *not* weighed back: they are a weighting as well as a way to draw.
#
# ### The noise of the gradient · deeper
#
# The variance of the gradient depends on the times drawn. If $g(t)$ is the size (root mean square) of one example's gradient at time $t$, the second moment of the estimate is $\int g(t)^2/p(t)\,dt$ (the mean does not depend on $p$, so where this is smallest the variance is, too), and by the Cauchy-Schwarz inequality $\big(\int g\big)^2 = \big(\int \frac{g}{\sqrt p}\sqrt p\big)^2 \le \int \frac{g^2}{p}\cdot\int p$, with equality for
#
# $$p^\star(t) \propto g(t), \qquad \int_0^1\frac{g(t)^2}{p^\star(t)}\,dt = \Big(\int_0^1 g(t)\,dt\Big)^2 \tag{3.17}$$
#
# Let us measure the variance of the gradient for a network after a short training. First that training, written out:

# %%
moons = data.two_moons(4000)
D = Denoiser(MLP(), cosine, "v")
optimizer = torch.optim.Adam(D.parameters(), lr=3e-3)
for _ in range(200):
    loss = D.loss(moons[torch.randint(4000, (256,))], torch.rand(256)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss after 200 steps: {D.loss(moons, torch.rand(4000)).mean():.3f}")

# %%
def vlb_weight(t):
    """The weight of the v loss in the variational bound of lesson 1, for continuous time.

    It is -(1/2) d log SNR / dt for errors of eps, times SNR / (SNR + 1) = alpha^2.
    """
    slope = 2 * (cosine.d_alpha(t) / cosine.alpha(t) - cosine.d_sigma(t) / cosine.sigma(t))
    return (-slope / 2 * cosine.alpha(t) ** 2).float()

loss_weights = {"v loss": lambda t: 1.0, "the bound": vlb_weight}

def gradient(t, weight=1.0):
    """The gradient of one batch's mean weighted loss: one long vector."""
    rows = torch.randint(len(moons), (len(t),))
    loss = (weight * D.loss(moons[rows], t)).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(D.parameters()))])

def gradient_size(t, weight):
    """g(t): the root mean square of one example's gradient, from 15 draws."""
    draws = torch.stack([gradient(t[None], weight(t)) for _ in range(15)])
    return draws.square().sum(1).mean().sqrt()

# %%
middles = 0.01 + 0.98 * (torch.arange(20) + 0.5) / 20       # of 20 slices of [0.01, 0.99]
sizes = {name: torch.stack([gradient_size(t, weight) for t in middles])     # g(t), (20,)
         for name, weight in loss_weights.items()}
plots.curves(middles, sizes, yscale="log", xlabel="t   (data → noise)",
             ylabel="root mean square", title="The size g(t) of one example's gradient")

# %%
def uniform():
    return 0.01 + 0.98 * torch.rand(64), 1.0

def stratified():
    return 0.01 + 0.98 * (torch.arange(64) + torch.rand(64)) / 64, 1.0

def importance(p):
    """64 times from a density p (20,), constant on the 20 slices, with mean 1; 1 / p."""
    k = torch.multinomial(p, 64, replacement=True)
    return 0.01 + 0.98 * (k + torch.rand(64)) / 20, 1 / p[k]

rows = {}
for name, weight in loss_weights.items():
    best = sizes[name] / sizes[name].mean()
    time_samplers = {"uniform": uniform, "stratified": stratified,
                     "importance": lambda: importance(best)}
    rows[name] = {}
    for sampler, draw in time_samplers.items():
        batches = (draw() for _ in range(200))
        gradients = torch.stack([gradient(t, factor * weight(t)) for t, factor in batches])
        rows[name][sampler] = gradients.var(0).sum().sqrt()
tables.table(rows, ".3f", index="loss",
             caption="Size of the gradient's noise (the root of the summed variances) "
                     "by the way times are drawn; 200 batches of 64")

# %% [markdown]
# **What this shows.** For the $v$ loss on these data the ways of drawing are about equal: its gradients differ in size by less than a factor of three over all times, so importance sampling has little to win. The gradients of the bound differ by several hundred. For the bound, drawing the times near $t = 0$ more often and weighing them less halves the noise. Nichol & Dhariwal (2021) needed it to train the bound itself. The table has no error bar, so differences of a few per cent in it mean nothing.

# %% [markdown]
# ## 3.6 Designing a schedule
#
# **What distinguishes the well-known schedules?** For the mathematics only the log SNR matters: two schedules that pass through the same values are one schedule with two parameterisations of time, two clocks (lesson 1, section 1.14).

# %%
ts = torch.linspace(0.002, 0.998, 200, dtype=torch.float64)
named = {"linear": Schedule.linear(), "cosine": cosine, "sigmoid": Schedule.sigmoid(),
         "flow": flow}
log_snrs = {name: schedule.log_snr(ts) for name, schedule in named.items()}
plots.curves(ts, log_snrs, ylim=(-12, 12), title="Four schedules",
             xlabel="t   (data → noise)", ylabel="log SNR")
rows = {}
for name, schedule in named.items():
    rows[name] = {"above 4": (log_snrs[name] > 4).double().mean(),
                  "below -4": (log_snrs[name] < -4).double().mean(),
                  "at t = 1": schedule.log_snr(1.0)}
formats = {"above 4": ".0%", "below -4": ".0%", "at t = 1": ".1f"}
tables.table(rows, formats, index="schedule",
             caption="Fraction of the time with a log SNR above 4, below -4; its end")

# %% [markdown]
# **What the figure shows.** All fall from data to noise; they differ in how much of their time goes to the middle, where a digit becomes visible, and in where they end. The linear schedule spends more than a third of its time below -4, on images in which hardly anything can be seen, which is why the cosine was made (Nichol & Dhariwal 2021).
#
# **A schedule that is right for small images is wrong for large ones.** Enlarge a digit fourfold: each pixel becomes 4 x 4 equal ones. Add noise, and shrink again by averaging: the 16 independent noises shrink to a quarter of their size, the digit stays as it was. In general, with blocks of $k\times k$ pixels, noise of variance $\sigma^2$ has variance $\sigma^2/k^2$ after averaging:
#
# $$\log\mathrm{SNR}_{\text{after averaging } k\times k} = \log\mathrm{SNR} + 2\log k \tag{3.18}$$
#
# To destroy as much, shift the whole schedule down by $2\log k$ (Hoogeboom et al. 2023): multiply $\sigma/\alpha$ by $k$. On the flow schedule, where $\sigma/\alpha = t/(1-t)$, this is a new time, a **timestep shift**; solve $\frac{t'}{1-t'} = k\,\frac{t}{1-t}$:
#
# $$t' = \frac{k\,t}{1 + (k-1)\,t} \tag{3.19}$$
#
# Stable Diffusion 3 samples with $k = 3$.

# %%
digit, t = digits[7:8], 0.62
large = F.interpolate(digit, scale_factor=4.0)                      # (1, 1, 112, 112)
shifted_t = torch.tensor(4 * t / (1 + 3 * t), dtype=torch.float64)
g = torch.Generator().manual_seed(0)
cases = {"28 x 28": (digit, t), "112 x 112, averaged": (large, t),
         "shifted t, averaged": (large, shifted_t)}
averaged = {}
for name, (x, at) in cases.items():
    x_t = flow.perturb(x, at, torch.randn(x.shape, generator=g))
    averaged[name] = x_t if name == "28 x 28" else F.avg_pool2d(x_t, 4)     # (1, 1, 28, 28)
plots.captioned(torch.cat([x / (2 * x.std()) for x in averaged.values()]), list(averaged),
                columns=3, title="The same digit, noisy")

rows = {}
for name, (_, at) in cases.items():
    noise_left = averaged[name] - flow.alpha(at) * digit
    measured = 2 * math.log(flow.alpha(at)) - math.log(noise_left.var())
    gain = 0 if name == "28 x 28" else 2 * math.log(4)
    rows[name] = {"measured": measured, "by (3.18)": flow.log_snr(at) + gain}
tables.table(rows, ".2f", index="image", caption="log SNR at 28 x 28")

# %% [markdown]
# **What the figure shows.** The large image at the same $t$ shows its digit clearly once it is averaged; with the shifted time it is as hidden as the small one.
#
# ### The end must be noise · deeper
#
# DDPM's linear schedule ends at $\alpha(1) = 0.0064$: nearly nothing of the image is left. Nearly. The *brightness* of a picture is the mean of all its $d$ numbers, and averaging $d$ of them shrinks the noise by $\sqrt d$. With $d = 3\cdot 512^2$ the noise in the mean has size $1/887$; the brightness is multiplied by 0.0064, which is nearly six times as much. In training at $t = 1$ a network can infer the brightness of the picture from "pure noise". In sampling it gets noise without a brightness, and predicts a picture of medium brightness from it. Stable Diffusion's case has other numbers: its latent has $4\cdot64\cdot64 = 16{,}384$ values and its schedule ends at $\alpha(1) = 0.0683$, which is 8.7 of such noise widths. Lin et al. (2023) found that it could not draw a very dark or a very bright picture.
#
# To see it without training anything, let pictures be of one brightness each, uniform between $-1$ and 1. All that matters is the mean $m = \alpha b + \sigma\epsilon/\sqrt d$. This is a problem on a line, and the exact denoiser of brightness is a ratio of two sums:

# %%
def brightness_samples(schedule, d, n=1500, steps=100):
    """Brightness of exact samples of pictures with d numbers, from pure noise: (n,)"""
    b = torch.linspace(-1, 1, 201, dtype=torch.float64)

    def denoiser(m, t):                                             # (n, 1) -> (n, 1)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t) / d**0.5
        return ((-(m - alpha * b).square() / (2 * sigma**2)).softmax(1) @ b)[:, None]

    # most steps near t = 1, where the brightness is decided
    ts = 1 - 0.9 * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 3
    g = torch.Generator().manual_seed(0)
    eps = torch.randn(n, 1, dtype=torch.float64, generator=g)
    m = eps * schedule.sigma(1.0) / d**0.5
    for t, s in zip(ts[:-1], ts[1:]):           # DDIM; the noise has size sigma / sqrt(d)
        b_hat = denoiser(m, t)
        m_noise = (m - schedule.alpha(t) * b_hat) / schedule.sigma(t)
        m = schedule.alpha(s) * b_hat + schedule.sigma(s) * m_noise
    return denoiser(m, ts[-1])[:, 0]

# %%
ends = {"DDPM's linear schedule": Schedule.linear(),
        "zero terminal SNR": Schedule.zero_terminal_snr()}
bright = {name: brightness_samples(schedule, 3 * 512**2) for name, schedule in ends.items()}
plots.histogram(list(bright.values()), labels=list(bright), xlabel="brightness",
                title="Brightness of samples; the data are uniform between -1 and 1")
rows = {}
for name, b in bright.items():
    dark = (b < -0.8).double().mean()
    rows[name] = {"standard deviation": b.std(), "darker than -0.8": dark}
rows["the data: uniform"] = {"standard deviation": 3**-0.5, "darker than -0.8": 0.1}
tables.table(rows, ".3f", index="schedule",
             caption="Brightness of 1,500 samples: standard deviation, fraction below -0.8")

# %% [markdown]
# **What the figure shows.** With the usual schedule, perfect sampling of a perfect model yields medium pictures only. `Schedule.zero_terminal_snr` (**zero terminal SNR**) shifts and stretches $\sqrt{\bar\alpha}$ to end at 0 exactly, and the brightness is very nearly right again. There $\epsilon$ determines nothing about $x_0$ any more, so it needs another target: $v$.
#
# ### Two trainings under two schedules
#
# **Does a schedule change the samples?** One network and one number of updates; five pairs of target and schedule, two seeds each. By (3.44) the first two have nearly the same loss: the library's cosine is not quite the plain one. `python benchmarks/schedules.py` trained them and drew 1,000 digits from each in 100 steps; the last row are as many real digits. *Clipped*: each predicted image is cut to [-1, 1].

# %%
def read_rows(name):
    """The rows of a benchmark's table in course_lib/assets."""
    with (storage.ASSETS / name).open() as file:
        return list(csv.DictReader(file))


wanted = {("v", "cosine"): "v on cosine", ("flow", "flow"): "flow on flow",
          ("v", "flow"): "v on flow", ("eps", "cosine"): "eps on cosine",
          ("eps", "linear"): "eps on linear", ("none", "real digits"): "real digits"}
trainings = read_rows("schedules.csv")
kinds = {"distance": "clipped", "distance_unclipped": "as it is"}
rows = {name: {f"{kind}, seed {row['seed']}": float(row[column]) if row[column] else None
               for column, kind in kinds.items() for row in trainings
               if (row["target"], row["schedule"]) == pair}
        for pair, name in wanted.items()}
tables.table(rows, ".1f", index="training",
             caption=f"{trainings[0]['steps']} updates of 128: Fréchet distance of "
                     f"{trainings[0]['n']} digits to the test digits")

# %% [markdown]
# **What the table shows.** The first two, with nearly the same loss, score about the same: 6.5 to 6.6. $v$ on flow, another loss, scores 8.3 and 7.4; $\epsilon$, clipped, 9.1 to 9.8. As it is, $\epsilon$ on cosine fails altogether, because its predicted image is divided by $\alpha\approx0$ (lesson 1); $v$ and flow need no clipping. (One small network, 1,000 updates.)
#
# ## 3.7 Learning the variance, and counting bits · deeper
#
# (In this section $t = 1, \dots, T$ counts steps, as in lesson 1, and $x_0$ is a pixel's value.) Lesson 1 left the variance of the reverse step to choice: any $\sigma_t^2$ between $\tilde\beta_t$ and $\beta_t$. For good samples it hardly matters with many steps; for the *bound* it does. Nichol & Dhariwal (2021) let the network predict it (**learned variance**), on a logarithmic scale between the two, by a second output $r$, which should end up in $[0, 1]$ (nothing forces it to):
#
# $$\log\sigma_\theta^2(x_t, t) = r\,\log\beta_t + (1-r)\,\log\tilde\beta_t \tag{3.20}$$
#
# (At the first step $\tilde\beta_1 = 0$; the second step's is taken there.)
#
# $L_{\text{simple}}$ does not contain the variance, so nothing would teach it. The **variational bound** (**VLB**) does. The **hybrid loss** is $L_{\text{simple}}$ plus a little of the bound, which is counted in bits per dimension. (The bound is a sum over $T$ steps; one term is drawn, and multiplied by $T$.) The network's prediction of $\epsilon$ is detached in the second part, so that the bound's gradient reaches the variance only:
#
# $$L_{\text{hybrid}} = L_{\text{simple}} + 0.001\;L_{\text{vlb}} \tag{3.21}$$
#
# The last term of the bound, $-\log p(x_0\mid x_1)$, is a *probability* for images, since their values are 256 levels: with mean $\mu$ and deviation $s$, each level gets what the Gaussian puts between its neighbours' midpoints, and the two ends get the tails. For levels $2/255$ apart,
#
# $$p(x_0 \mid x_1) = \Phi\Big(\frac{x_0 + \frac1{255} - \mu}{s}\Big) - \Phi\Big(\frac{x_0 - \frac1{255} - \mu}{s}\Big), \qquad \Phi(-\infty) = 0 \text{ at } x_0 = -1,\ \ \Phi(\infty) = 1 \text{ at } x_0 = 1 \tag{3.22}$$
#
# Sum all terms of the bound, divide by $\log 2$ and by the number of pixels: **bits per dimension**, the length of the file into which this model would pack an image, losslessly.
#
# How much is a learned variance worth? To see it alone, take data whose perfect $\epsilon$ is known, a ring of six bumps, and let a small network learn nothing but $r$. The true length of the file is known, too: the probability of a value is the density of the data times $2/255$, the distance of two levels.

# %%
angle = torch.arange(6) * math.pi / 3
small_ring = data.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1) * 0.7, 0.06)
ddpm_schedule = Schedule.cosine(100)
test = small_ring.sample(500, seed=9)
exact_D = small_ring.denoiser(ddpm_schedule)

def exact_eps(x, t):
    alpha = ddpm_schedule.alpha(t)[:, None]
    sigma = ddpm_schedule.sigma(t)[:, None]
    return ((x - alpha * exact_D(x, t)) / sigma).float()

class ExactEps(nn.Module):
    """The perfect eps, and a small network for r.   x: (B, 2), t: (B,) -> (B, 4)"""

    def __init__(self):
        super().__init__()
        self.variance = MLP()

    def forward(self, x, t):
        return torch.cat([exact_eps(x, t), self.variance(x, t)], dim=1)

# %%
def largest_variance(x, t):
    """The perfect eps, and r = 1 everywhere: the variance is beta."""
    return torch.cat([exact_eps(x, t), torch.ones_like(x)], dim=1)

torch.manual_seed(0)
betas = ddpm_schedule.betas
models = {
    "fixed, beta tilde": DDPM(exact_eps, betas),
    "fixed, beta": DDPM(largest_variance, betas, learn_variance=True),
    "learned": DDPM(ExactEps(), betas, learn_variance=True),
}
learned = models["learned"]
optimizer = torch.optim.Adam(learned.net.parameters(), lr=1e-2)
for step in range(200):
    x0 = small_ring.sample(256, seed=step)
    i = torch.randint(100, (256,))
    optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
    optimizer.zero_grad()
    learned.hybrid_loss(x0, i).mean().backward()
    optimizer.step()

# %%
@torch.no_grad()
def bits_by_step(model, seed):
    """The terms of the bound at steps 1 to 100, in bits per dimension: (100,)

    The noise of a step depends on the seed alone, so that models are compared in pairs.
    """
    terms = []
    for i in range(100):
        g = torch.Generator().manual_seed(1000 * seed + i)
        eps = torch.randn(test.shape, generator=g).to(test)
        terms.append(model.vlb_terms(test, torch.full((500,), i), eps).mean())
    return torch.stack(terms)

terms = {name: torch.stack([bits_by_step(model, seed) for seed in range(6)])
         for name, model in models.items()}                         # (6, 100) each

# %%
fixed = ("fixed, beta tilde", "fixed, beta")
gains = {name: (terms[name] - terms["learned"]).cumsum(1) for name in fixed}    # (6, 100)
plots.curves(torch.arange(1, 101), {f"than {name}": g.mean(0) for name, g in gains.items()},
             title="A learned variance is cheaper, summed over steps 1 to here",
             xlabel="step   (data → noise)", ylabel="bits per dimension")
prior_bits = learned.prior_bits(test).mean()
rows = {name: {"bits per dimension": term.sum(1).mean() + prior_bits}
        for name, term in terms.items()}
for name, gain in gains.items():
    total = gain[:, -1]
    rows[name] |= {"learned saves": total.mean(), "sd of six": total.std(),
                   "by step 6": (gain[:, 5] / total).mean(),
                   "by step 20": (gain[:, 19] / total).mean()}
entropy = -small_ring.log_prob(test).mean() / 2 / math.log(2) - math.log2(2 / 255)
rows["the data's own length"] = {"bits per dimension": entropy}
tables.table(rows, ".3f", index="variance",
             caption="The bound on 500 test points; six repeats with common noise")
log_ratio = learned.log_beta_tilde - betas.log()
print("beta tilde / beta at steps 2, 6, 20:",
      ", ".join(f"{log_ratio[step - 1].exp():.2f}" for step in (2, 6, 20)))

# %% [markdown]
# **What the figure and the table show.** A learned variance shortens the file against both fixed ones, at the price of one more output per pixel. Most of it is won near the data, where $\tilde\beta$ and $\beta$ differ: the table has the fractions won by step 6 and by step 20, with the same noise for all models. The bits that still separate us from the data's own length may be the price of 100 steps, in which each posterior is only nearly a Gaussian, or of a short training; we have not told the two apart.
#
# ## 3.8 The craft of training
#
# **Averaging weights.** A network that still moves around its goal is, on average, nearer to it than at most moments. The **exponential moving average** (**EMA**) of the weights keeps a second set of weights, $\bar\theta \leftarrow \beta\,\bar\theta + (1-\beta)\,\theta$. Unrolled, weights of $k$ steps ago count
#
# $$(1-\beta)\,\beta^{k}, \qquad\text{and the random start still counts } \beta^{n} \text{ after } n \text{ steps} \tag{3.23}$$
#
# With the popular $\beta = 0.9999$ that is 90 % after 1000 steps: the EMA of a short run is still mostly the untrained network. Remedies: a **warm-up** of the decay, $\min\big(\beta, \frac{1+n}{10+n}\big)$, or a **power-function EMA** (Karras et al. 2024), which `train.train` uses. Take $\beta_n = (1-\frac1n)^{\gamma+1}$ at step $n$. By the telescoping product, step $k$ counts after $n$ steps
#
# $$(1-\beta_k)\prod_{j=k+1}^{n}\Big(1-\frac1j\Big)^{\gamma+1} = (1-\beta_k)\Big(\frac kn\Big)^{\gamma+1} \approx \frac{\gamma+1}{n}\Big(\frac kn\Big)^{\gamma} \tag{3.24}$$
#
# (since $1-\beta_k\approx(\gamma+1)/k$ for large $k$): always the last part of the run, however long it is, and of the random start nothing, since $\beta_1 = 0$. One training, and many averages beside it. The perfect denoiser of the data is known, so we can measure the *avoidable* error of $v$:

# %%
class Averages:
    """Many averages of a network's weights at once; decays: name -> decay(step n)."""

    def __init__(self, net, decays):
        self.decays = decays
        self.weights = {name: [p.detach().clone() for p in net.parameters()]
                        for name in decays}

    def update(self, net, step):
        parameters = [p.detach() for p in net.parameters()]
        for name, decay in self.decays.items():
            torch._foreach_lerp_(self.weights[name], parameters, 1 - decay(step + 1))

    def averaged(self, net, name):
        """A copy of the network with the averaged weights."""
        net = copy.deepcopy(net)
        for p, average in zip(net.parameters(), self.weights[name]):
            p.data = average.clone()
        return net

# %%
def power_decay(gamma):
    return lambda n: (1 - 1 / n) ** (gamma + 1)

constant = [0.0, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9999]
decays = {f"{b}": lambda n, b=b: b for b in constant}
decays |= {f"{b}, warm-up": lambda n, b=b: min(b, (1 + n) / (10 + n)) for b in constant}
decays |= {f"power {gamma}": power_decay(gamma) for gamma in (3, 9, 16)}

# %%
def task(mixture, n=4000):
    """8000 points to train on, and a function net -> its avoidable error.

    That is the mean squared error of v against the perfect network's, on n held-out points.
    """
    held_out = mixture.sample(n, seed=5)
    t = torch.linspace(0.02, 1, n)
    eps = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(1))
    x = cosine.perturb(held_out, t, eps)
    alpha, sigma = cosine.alpha(t)[:, None], cosine.sigma(t)[:, None]
    v = ((alpha * x - mixture.denoiser(cosine)(x, t)) / sigma).float()

    @torch.no_grad()
    def error(net):
        return (net(x, t) - v).square().mean().item()

    return mixture.sample(8000), error

angle = torch.arange(6) * math.pi / 3
circle = torch.stack([angle.cos(), angle.sin()], 1)                 # (6, 2)
points, avoidable = task(data.GaussianMixture(circle * 1.2, 0.15))

# %%
def fit(D, averages, steps, callback=lambda n: None):
    """Adam at a constant learning rate, so that there is something to average."""
    optimizer = torch.optim.Adam(D.parameters(), lr=1e-2)
    for step in range(steps):
        loss = D.loss(points[torch.randint(8000, (128,))], torch.rand(128)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(D.net, step)
        callback(step + 1)

torch.manual_seed(0)
D = Denoiser(MLP(), cosine, "v")
averages = Averages(D.net, decays)
fit(D, averages, 800)

# %%
errors = {name: avoidable(averages.averaged(D.net, name)) for name in decays}
kinds = {"constant decay": "", "with warm-up": ", warm-up"}
lines = {kind: torch.tensor([errors[f"{b}{end}"] for b in constant])
         for kind, end in kinds.items()}
plots.curves(torch.arange(len(constant)), lines, yscale="log", xlabel="decay",
             ylabel="mean squared error of v",
             xticks=range(len(constant)), xticklabels=constant,
             title="Avoidable error against the decay (0: no average)")
rows = {"no average": {"avoidable error": errors["0.0"]}}
for gamma in (3, 9, 16):
    rows[f"gamma = {gamma}"] = {"avoidable error": errors[f"power {gamma}"]}
tables.table(rows, ".4f", index="power function",
             caption="Avoidable mean squared error of v")

# %% [markdown]
# **What the figure shows** (one run). Averaging beats the last weights; too long an average without a warm-up is more than twice as bad as none. A power average scales with the run, by (3.24), however long it is; its $\gamma$ still matters, and the best one here does as well as the best constant decay.
#
# ### Post-hoc EMA · deeper
#
# Which length is best is known only afterwards. Karras et al. (2024) store snapshots of two power-function averages during the run, and afterwards combine them linearly into an average of any other length: the coefficients are those whose combined profile over the steps, by (3.24), comes nearest to the wanted profile in least squares.

# %%
def profile(gamma, n, steps):
    """The weight of each step in a power-function average after n steps: (steps,)"""
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    counts = (1 - (1 - 1 / k) ** (gamma + 1)) * (k / n) ** (gamma + 1)
    return torch.where(k <= n, counts, 0.0)

snapshots = []
def snapshot(n):
    """Every 50 steps, store the averages with gamma = 4 and 16."""
    if n % 50 == 0:
        for gamma in (4, 16):
            snapshots.append((gamma, n, [w.clone() for w in tracked.weights[gamma]]))

torch.manual_seed(0)
D = Denoiser(MLP(), cosine, "v")
tracked = Averages(D.net, {gamma: power_decay(gamma) for gamma in (4, 9, 16)})
fit(D, tracked, 400, callback=snapshot)

# %%
profiles = [profile(gamma, n, 400) for gamma, n, _ in snapshots]    # 16 of (400,)
wanted = profile(9, 400, 400)
mix = torch.linalg.lstsq(torch.stack(profiles, dim=1), wanted).solution.tolist()    # 16
by_parameter = zip(*[weights for _, _, weights in snapshots])
post_hoc = [sum(c * w for c, w in zip(mix, parts)) for parts in by_parameter]

def distance(a, b):
    return sum((x - y).square().sum() for x, y in zip(a, b)).sqrt().item()

true = tracked.weights[9]
print("distance to the true average with gamma = 9")
print(f"made afterwards from gammas 4 and 16: {distance(post_hoc, true):.4f}")
for gamma in (4, 16):
    print(f"gamma = {gamma} itself: {distance(tracked.weights[gamma], true):.3f}")

# %% [markdown]
# ### Learning rate, batch size, optimizer
#
# Nearly all diffusion models are trained with **AdamW** (Loshchilov & Hutter 2019). Adam divides a running mean $\hat m$ of the gradient by the root of a running mean $\hat v$ of its square, number by number; the **weight decay** $\lambda$ is **decoupled**, which means that it is not part of the gradient:
#
# $$\theta \leftarrow (1 - \text{lr}\,\lambda)\,\theta - \text{lr}\,\frac{\hat m}{\sqrt{\hat v} + \varepsilon} \tag{3.45}$$
#
# **Muon** (Jordan et al. 2024) treats a weight matrix as a matrix. Its momentum $M = U\Sigma V^\top$ often has a few large singular values, and a step along it hardly moves the other directions. Muon makes all singular values equal:
#
# $$\theta \leftarrow (1 - \text{lr}\,\lambda)\,\theta - \text{lr}\;UV^\top, \qquad M = U\Sigma V^\top \tag{3.46}$$
#
# $UV^\top$ is found without a singular value decomposition, by five **Newton-Schulz steps** $X \leftarrow aX + b\,XX^\top X + c\,(XX^\top)^2X$, which act on each singular value as the polynomial $as + bs^3 + cs^5$ and bring it near 1. It moves the inner matrices; biases, norms, embeddings, the first and the last layer stay with AdamW. `mnist` and `mnist_small` were trained so (`muon_lr` in their configurations).

# %%
M = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) @ torch.diag(
    torch.logspace(-2, 0, 32))                                      # values far apart
U, S, Vh = torch.linalg.svd(M, full_matrices=False)
step = orthogonalize([M])[0]
print(f"singular values of M: {S.min():.3f} to {S.max():.2f}")
print(f"of Muon's step: {torch.linalg.svdvals(step).min():.2f} "
      f"to {torch.linalg.svdvals(step).max():.2f}")
cosine_of = F.cosine_similarity(step.flatten(), (U @ Vh).flatten(), dim=0)
print(f"its cosine with U V^T: {cosine_of:.3f}")

# %% [markdown]
# Each row changes what it names in the same training: 600 steps of 128 numbers from a mixture of two bumps, the last weights, no average; three **seeds**, avoidable error. A *spike* is a gradient multiplied by 1,000, once in a hundred steps.

# %%
numbers, number_error = task(data.GaussianMixture([[-1.0], [1.0]], 0.3, [0.3, 0.7]))
lr_schedules = {
    "constant": lambda u: 1.0,
    "linear": lambda u: 1 - u,
    "cosine": lambda u: 0.5 + 0.5 * math.cos(math.pi * u),
}

# %%
def optimizers(net, lr, weight_decay, muon_lr):
    """AdamW; or Muon for inner matrices and AdamW for the rest: (optimizer, rate) pairs."""
    inner = [p for p in net.inner.parameters() if p.ndim == 2] if muon_lr else []
    rest = [p for p in net.parameters() if all(p is not q for q in inner)]
    adamw = torch.optim.AdamW(rest, lr, weight_decay=weight_decay, fused=True)
    if not inner:
        return [(adamw, lr)]
    return [(adamw, lr), (train.Muon(inner, muon_lr, weight_decay=weight_decay), muon_lr)]

# %%
def variant(seed, lr=1e-2, decay="linear", clip_grad_norm=None, batch_size=128, steps=600,
            parts=1, weight_decay=0.0, muon_lr=0.0, spike=1.0):
    """One training; -> the avoidable error of the last weights."""
    torch.manual_seed(seed)
    net = MLP(d=1)
    D = Denoiser(net, cosine, "v")
    pairs = optimizers(net, lr, weight_decay, muon_lr)
    for step in range(steps):
        x0 = numbers[torch.randint(8000, (batch_size,))]
        t = (torch.arange(batch_size) + torch.rand(batch_size)) / batch_size    # stratified
        eps = torch.randn(batch_size, 1)
        net.zero_grad()
        factor = spike if step % 100 == 50 else 1.0
        for part in zip(x0.chunk(parts), t.chunk(parts), eps.chunk(parts)):
            (factor * D.loss(*part).sum() / batch_size).backward()              # adds up
        if clip_grad_norm:
            nn.utils.clip_grad_norm_(net.parameters(), clip_grad_norm)
        rate = lr_schedules[decay](step / steps) * min(1, (step + 1) / 20)      # warm-up
        for optimizer, peak in pairs:
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.step()
    return number_error(net)

# %%
changes = {
    "base: lr 1e-2, linear decay": {},
    "cosine decay": {"decay": "cosine"},
    "constant lr": {"decay": "constant"},
    "lr 1e-1": {"lr": 1e-1},
    "lr 3e-2": {"lr": 3e-2},
    "lr 3e-3": {"lr": 3e-3},
    "lr 1e-3": {"lr": 1e-3},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 1": {"weight_decay": 1.0},
    "Muon 0.02, AdamW 1e-2": {"muon_lr": 0.02},
    "Muon 0.06, AdamW 1e-2": {"muon_lr": 0.06},
    "clipped at 1": {"clip_grad_norm": 1.0},
    "six spikes": {"spike": 1000.0},
    "six spikes, clipped at 1": {"spike": 1000.0, "clip_grad_norm": 1.0},
    "150 steps of 512": {"batch_size": 512, "steps": 150},
    "600 steps of 512": {"batch_size": 512},
    "600 of 512 in 4 parts": {"batch_size": 512, "parts": 4},
}

# %%
untrained = number_error(MLP(d=1))
constants = torch.linspace(-1, 1, 201)
best = min(number_error(lambda x, t, c=c: 0 * x + c) for c in constants)
output_0 = number_error(lambda x, t: 0 * x)
rows = {}
for name, change in changes.items():
    errors = torch.tensor([variant(seed, **change) for seed in range(3)])
    rows[name] = {f"seed {seed}": error for seed, error in enumerate(errors)}
    rows[name] |= {"mean": errors.mean(), "sd": errors.std()}
tables.table(rows, ".4f", index="training", caption="Avoidable error of v "
             f"(never trained: {untrained:.4f}; an output of 0: {output_0:.4f}; "
             f"the best constant: {best:.4f})")

# %% [markdown]
# **What the table shows** (one toy, three seeds). The **learning rate** matters most: 1e-3 does not arrive in 600 steps, 1e-1 destroys the network (0.1433 is one output for every input), 1e-2 and 3e-2 are about equal. Letting it fall to zero is worth a factor of four; linear and cosine decay are about equal. A weight decay of 0.1 is 0.0005 worse, 1 harms. Muon at 0.02 is better than the base with each seed, by 0.001; of both, few rates were tried. **Gradient clipping** at 1 changes nothing in the honest training, and saves the one with six spikes. A larger batch is better for the same number of steps, and worse for the same number of examples at the same rate. **Gradient accumulation**, a batch in parts whose gradients add up, is the same training up to rounding, in less memory.
#
# ### Augmentation that does not leak · deeper
#
# **Augmentation** enlarges a small data set by mirrored, turned or coloured copies. A generative model learns those copies, too, and draws them: **augmentation leakage**. The remedy (Karras et al. 2022) is to tell the network by a condition which change was made, and to sample with "none". Here the data are one bump at $+1$, and half of every batch is mirrored to $-1$:

# %%
def mirrored_share(told, seed):
    """The share of samples below 0, after a training whose network is told, or not."""
    torch.manual_seed(seed)
    net = MLP(d=2, out=1)                                           # x and a flag -> v
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(200):
        x0 = 1 + 0.1 * torch.randn(128, 1)
        flag = (torch.rand(128, 1) < 0.5).float()
        x0 = torch.where(flag == 1, -x0, x0)
        D = Denoiser(lambda x, t: net(torch.cat([x, told * flag], 1), t), cosine, "v")
        optimizer.zero_grad()
        D.loss(x0, torch.rand(128)).mean().backward()
        optimizer.step()
    D = Denoiser(lambda x, t: net(torch.cat([x, 0 * x], 1), t), cosine, "v")
    with torch.no_grad():
        x = last(ddim(D, cosine, torch.randn(1000, 1), timesteps(cosine, 20)))
    return (x < 0).double().mean().item()

rows = {name: {f"seed {seed}": mirrored_share(told, seed) for seed in range(2)}
        for name, told in {"not told": 0.0, "told": 1.0}.items()}
tables.table(rows, ".1%", index="the network is", caption="Mirrored samples, of 1,000")

# %% [markdown]
# **What the table shows.** About half of the samples are mirrored where the network is not told, and nearly none where it is. `horizontal_flip` of `train.train` tells nothing: use it where a mirrored picture is as good as the picture.
#
# ### Half precision · deeper
#
# In **mixed-precision** training fp16 has 5 bits of exponent and 10 of fraction, bf16 8 and 7: bf16 reaches as far as fp32 and is coarse, fp16 is finer and short.

# %%
tiny = torch.tensor(1e-8)
scaled = (65536 * tiny).half().float() / 65536
print(f"a gradient of 1e-8: in fp16 {tiny.half():.1e}, in bf16 {tiny.bfloat16():.1e}, "
      f"in fp16 multiplied by 65536 first {scaled:.1e}")
little = torch.tensor(1.001)
print(f"1 + 0.001: in fp16 {little.half():.4f}, in bf16 {little.bfloat16():.4f}")

q, k = torch.full((1, 64), 40.0), torch.full((1, 64), 40.0)
scores = q.half() @ k.half().T                                      # 64 * 40 * 40 > 65,504
weights = torch.cat([scores, scores], 1).softmax(1)
pixels = (127.5 * (weights.float() + 1)).to(torch.uint8)
print(f"attention scores in fp16: {scores.item()}, their softmax: {weights.tolist()}, "
      f"as pixels: {pixels.tolist()}")

# %% [markdown]
# That is the whole story of the **gradient scaler**: fp16 turns small gradients into zeros, so the loss is multiplied by a large number before the backward pass and the gradients divided by it after; when something overflows, the step is skipped and the number halved. And the story of the *black image*: one product too large for fp16 becomes infinite, the softmax of infinities is not a number, it spreads over the image, and is saved as 0: black. bf16 has neither trouble, and `train.train` takes it where the hardware has it. But it loses a change of a thousandth, as the second line shows; so weights, sums and samplers stay in fp32.

# %% [markdown]
# ## 3.9 A debugging clinic
#
# **The loss fell, and the samples are noise. Where do you look?** Diffusion code that is wrong seldom crashes. So we break one honest training in ten ways, look at the symptoms, and build cheap tests that tell the ten apart. The data are two moons about as large as $[-1, 1]^2$, each with its label and made of 20 round Gaussians, so the perfect network is known in closed form. Its loss is the least that any honest loss can be.

# %%
angle = torch.linspace(0, math.pi, 20)
# (20, 2), on an arc of radius 2/3
upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1) / 1.5
centres = torch.stack([upper, -upper])                      # (2, 20, 2) one moon per label
mixtures = [data.GaussianMixture(c, 0.05) for c in (upper, -upper, centres.flatten(0, 1))]

def points_for(y):
    """New points x0 (n, 2) with the labels y (n,)."""
    return centres[y, torch.randint(20, (len(y),))] + 0.05 * torch.randn(len(y), 2)

def fresh_moons(n):
    """x0 (n, 2), y (n,): new points each time, so there is nothing to memorise."""
    y = torch.randint(2, (n,))
    return points_for(y), y

# %%
def coefficients(schedule, t):
    """alpha and sigma at times t (n,), both (n, 1)."""
    return schedule.alpha(t).float()[:, None], schedule.sigma(t).float()[:, None]

def exact_v(x, t, y):
    """The perfect network: v = (alpha x - x0_hat) / sigma with the exact x0_hat.

    Label 2 means none.
    """
    alpha, sigma = coefficients(cosine, t)
    x0_hat = torch.stack([m.posterior_mean(x, alpha, sigma) for m in mixtures])
    # x0_hat: (3, n, 2), one for each label and one for none
    return (alpha * x - x0_hat[y, torch.arange(len(x))]) / sigma

# %% [markdown]
# The training is the ordinary loop, but every ingredient of a step is made in one place, `batch`, and has a name, so that it can be taken out and looked at.

# %%
class Net(nn.Module):
    """x (n, 2), t (n,), y (n,) in {0, 1, 2 = none} -> (n, 2).

    Sines and cosines of x and t go in; the last layer starts at zero.
    """

    def __init__(self, width=64):
        super().__init__()
        self.label_embedding = nn.Embedding(3, 16)
        self.body = nn.Sequential(
            nn.Linear(3 * 9 + 16, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x, t, y):
        h = torch.cat([x, t[:, None]], dim=1)                               # (n, 3)
        phases = (h[:, :, None] * torch.arange(1, 5) * math.pi / 2).flatten(1)  # (n, 12)
        h = torch.cat([h, phases.sin(), phases.cos(), self.label_embedding(y)], dim=1)
        return self.body(h)

# %%
def batch(settings, n):
    """Everything that one step is made of, by name."""
    x0, y = settings.data(n)
    t = settings.time_sampler(n)
    eps = settings.noise(n)
    alpha, sigma = coefficients(cosine, t)
    y = torch.where(torch.rand(n) < settings.p_drop, 2, y)      # some labels are dropped
    x_t = settings.perturb(x0, eps, alpha, sigma)
    target = settings.target(x0, eps, alpha, sigma)
    return SimpleNamespace(x0=x0, y=y, t=t, eps=eps, x_t=x_t, target=target)

def train_step(net, optimizer, b):
    """One step of the optimizer on the batch b; returns the loss."""
    loss = (net(b.x_t, b.t, b.y) - b.target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

@torch.no_grad()
def update_ema(ema, net, decay):
    torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - decay)

# %%
def train_with(settings, steps=400):
    """The weights at the start and at the end, their EMA, and every loss."""
    torch.manual_seed(0)
    net = settings.net()
    start = copy.deepcopy(net).requires_grad_(False)
    ema = copy.deepcopy(start)
    optimizer = torch.optim.AdamW(net.parameters(), settings.lr, fused=True)
    losses = []
    for step in range(steps):
        losses.append(train_step(net, optimizer, batch(settings, 256)))
        update_ema(ema, net, settings.ema_decay(step))
    return SimpleNamespace(settings=settings, start=start, net=net, ema=ema, losses=losses)

def sample(settings, net, y):
    """Twenty steps of DDIM from fixed noise, under the sampler's schedule."""
    schedule = settings.sampling_schedule
    D = Denoiser(net, schedule, "v")
    x = torch.randn(len(y), 2, generator=torch.Generator().manual_seed(1))
    return last(ddim(D, schedule, x, timesteps(schedule, 20), y=y))

# %% [markdown]
# **Ten defects, each one changed part.** None of them raises an error.

# %%
healthy = dict(
    net=Net,
    data=fresh_moons,
    time_sampler=torch.rand,
    noise=lambda n: torch.randn(n, 2),
    p_drop=0.1,
    perturb=lambda x0, eps, alpha, sigma: alpha * x0 + sigma * eps,
    target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
    lr=5e-3,
    ema_decay=lambda step: min(0.99, (step + 1) / (step + 10)),     # with warm-up
    sampling_schedule=cosine,
)

class NetWithoutTime(Net):
    def forward(self, x, t, y):
        return super().forward(x, 0 * t, y)

def moons_in_unit_range(n):
    x0, y = fresh_moons(n)
    return (x0 + 1) / 2, y

# drawn once, before the loop
one_noise = torch.randn(2, generator=torch.Generator().manual_seed(3))

# %%
defects = {
    "time not passed": {"net": NetWithoutTime},
    "data in [0, 1]": {"data": moons_in_unit_range},
    # broadcasting hides it
    "noise drawn once": {"noise": lambda n: one_noise.expand(n, 2)},
    "wrong sign": {"target": lambda x0, eps, alpha, sigma: sigma * x0 - alpha * eps},
    "labels at 1 - p": {"p_drop": 0.9},                     # dropped with probability 0.9
    "average too slow": {"ema_decay": lambda step: 0.9999},     # and no warm-up
    "other schedule": {"sampling_schedule": Schedule.linear()},
    "sigma squared": {"perturb": lambda x0, eps, alpha, sigma: alpha * x0 + sigma**2 * eps},
    "rate x 30": {"lr": 30 * 5e-3},
    "t below 0.5": {"time_sampler": lambda n: 0.5 * torch.rand(n)},
}

# %%
runs = {name: train_with(SimpleNamespace(**healthy | change))
        for name, change in ({"healthy": {}} | defects).items()}
asked = torch.arange(2000) % 2                                      # labels 0, 1, 0, 1, ...
torch.manual_seed(4)
real, more = points_for(asked), points_for(asked)
clouds = {name: sample(run.settings, run.ema, asked) for name, run in runs.items()}
plots.scatter({"data": real} | clouds, columns=4, limit=1.4, by=asked,
              title="2,000 samples of two labels, cut off at 1.4: "
                    "the data, the healthy training, ten broken ones")

# %%
@torch.no_grad()
def validation(settings, net):
    """The loss at three noise levels, by library code that the training does not share."""
    torch.manual_seed(5)
    x0, y = settings.data(4000)
    eps = torch.randn(4000, 2)
    D = Denoiser(net, cosine)
    return {f"t = {t}": D.loss(x0, torch.full((4000,), t), eps, y=y).mean()
            for t in (0.2, 0.5, 0.8)}

def energy_distance(x):
    """The distance to the real points with the kernel -|x - y|."""
    return metrics.mmd(x.double(), real.double(), lambda a, b: -torch.cdist(a, b))

def quality(x):
    moon = torch.cdist(x, centres.flatten(0, 1)).argmin(1) // 20    # of the nearest one
    arc_centre = torch.tensor([[-2, -1], [2, 1]])[asked] / 6
    off_arc = ((x - arc_centre).norm(dim=1) - 2 / 3).abs().median()
    return {"energy distance": energy_distance(x),
            "right label": (moon == asked).float().mean(),
            "spread": x.std(),
            "off the arc": off_arc}

def loss_statistics(losses):
    return {"first": losses[0], "highest": max(losses), "last": sum(losses[-100:]) / 100}

# %%
settings = runs["healthy"].settings
b = batch(settings, 4000)
exact_loss = (exact_v(b.x_t, b.t, b.y) - b.target).square().mean()
no_loss = dict.fromkeys(("first", "highest", "last", "t = 0.2", "t = 0.5", "t = 0.8"), "")
rows = {"real points": no_loss | quality(more)}
rows["exact network"] = (no_loss | {"last": exact_loss} | validation(settings, exact_v)
                         | quality(sample(settings, exact_v, asked)))
for name, run in runs.items():
    rows[name] = (loss_statistics(run.losses) | validation(run.settings, run.ema)
                  | quality(clouds[name]))
formats = dict.fromkeys([*no_loss, "off the arc"], ".3f")
formats |= {"energy distance": ".4f", "right label": ".1%", "spread": ".2f"}
tables.table(rows, formats, index="training",
             caption="Training loss (the last: a mean of 100 steps), "
                     "validation loss at three times t, and 2,000 samples")

# %%
same = [name for name in defects if runs[name].losses == runs["healthy"].losses]
print("the healthy training's loss, step by step:", ", ".join(same))
mapped_back = 2 * clouds["data in [0, 1]"] - 1
print("energy distance of the samples of data in [0, 1], mapped back by 2 x - 1: "
      f"{energy_distance(mapped_back):.4f}")
slow = runs["average too slow"]
live = sample(slow.settings, slow.net, asked)
print("energy distance of average too slow, sampled with the live weights: "
      f"{energy_distance(live):.4f}")

# the noise that sample starts from
noise = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
for name in ("healthy", "average too slow", "wrong sign"):
    pair = torch.stack([noise.flatten(), clouds[name].flatten()])
    print("correlation of samples with the noise they began as, "
          f"{name}: {torch.corrcoef(pair)[0, 1]:.2f}")

# %% [markdown]
# **What the figure and the table show** (one seed). *The training loss.* Wrong sign, average too slow and other schedule have the healthy loss, step by step. Data in [0, 1] and noise drawn once end *lower*. The second is far below the exact network, which no honest loss on these data can be. The others end higher. The table's energy distance is $2\,\mathbb E|x-y| - \mathbb E|x-x'| - \mathbb E|y-y'|$ for samples $x$ and data $y$, 0 where they agree.
#
# *The samples.* Average too slow returns the very noise it began with; wrong sign throws it out of the frame. Time not passed leaves a haze of strays, labels at 1 - p mixes the moons. Three *look* better than the healthy training: other schedule, sigma squared and t below 0.5 draw fine lines where the data is broad.
#
# **From symptoms to tests.** A test returns one number, and a formula says beforehand what it must be. A network whose last layer starts at zero has as its first loss the mean square of $v = \alpha\epsilon - \sigma x_0$; the noise is independent of the data, so the mixed term vanishes, and per coordinate
#
# $$\mathbb E\,v^2 = \alpha^2 + \sigma^2\,\mathbb E\,x_0^2. \tag{3.25}$$
#
# For the same reason the noisy data has, per coordinate,
#
# $$\operatorname{Var}(x_t) = \alpha^2\operatorname{Var}(x_0) + \sigma^2. \tag{3.26}$$
#
# Give the *target itself* to the denoiser as the network's output (an **oracle**). With $\alpha^2 + \sigma^2 = 1$, the data must come back:
#
# $$\alpha x_t - \sigma v = \alpha(\alpha x_0 + \sigma\epsilon) - \sigma(\alpha\epsilon - \sigma x_0) = (\alpha^2 + \sigma^2)\,x_0 = x_0. \tag{3.27}$$
#
# To test a sampler without any training, take data $x_0\sim\mathcal N(0, s^2 I)$. Then $x_0$, $\epsilon$ and $x_t$ are jointly Gaussian with mean 0, and a conditional mean is covariance over variance, times $x_t$. So $\mathbb E[x_0\mid x_t] = \alpha s^2 x_t / (\alpha^2s^2 + \sigma^2)$ and $\mathbb E[\epsilon\mid x_t] = \sigma x_t / (\alpha^2s^2 + \sigma^2)$, and the perfect network is
#
# $$v(x_t, t) = \alpha\,\mathbb E[\epsilon\mid x_t] - \sigma\,\mathbb E[x_0\mid x_t] = \frac{\alpha\sigma\,(1 - s^2)}{\alpha^2 s^2 + \sigma^2}\,x_t. \tag{3.28}$$
#
# With it in the network's place the samples must have standard deviation $s$, up to the error of twenty steps (0.93 $s$ here). If they have not, no training can help. And the average: by (3.23), at a decay of 0.9999 the start still keeps a fraction of $0.9999^{400} = 0.96$ after our 400 steps.

# %%
def large_batch(run, n=20_000):
    """One large batch, the same at every call."""
    torch.manual_seed(7)
    return batch(run.settings, n)

def repeated_noise(run):
    """The fraction of the noise that comes again in the next batch."""
    torch.manual_seed(7)
    return (batch(run.settings, 256).eps == batch(run.settings, 256).eps).float().mean()

def longest_gap(run):
    """The longest stretch of [0, 1] without any t."""
    t = torch.cat([large_batch(run).t, torch.tensor([0.0, 1.0])])
    return t.sort().values.diff().max()

def lowest_value(run):
    return large_batch(run).x0.min()

def dropped_labels(run):
    return (large_batch(run).y == 2).float().mean()

# %%
def loss_of_zero(run):
    """The loss of an output 0, over formula (3.25)."""
    b = large_batch(run)
    alpha, sigma = coefficients(run.settings.sampling_schedule, torch.rand(20_000))
    formula = alpha**2 + sigma**2 * b.x0.square().mean()
    return b.target.square().mean() / formula.mean()

def variance(run):
    """The variance of x_t, over formula (3.26) with the sampler's schedule."""
    b = large_batch(run)
    alpha, sigma = coefficients(run.settings.sampling_schedule, b.t)
    formula = alpha**2 * b.x0.var(0) + sigma**2
    return ((b.x_t - alpha * b.x0.mean(0)) ** 2 / formula).mean()

def oracle_error(run):
    """The error of x0, by (3.27), with the target itself as the network's output."""
    b = large_batch(run)
    D = Denoiser(lambda x, t, y: b.target, run.settings.sampling_schedule, "v")
    return (D(b.x_t, b.t, y=b.y) - b.x0).square().mean().sqrt()

# %%
def gaussian_std(run, s=0.5):
    """The standard deviation, over s, of the sampler's output with the exact network."""
    def net(x, t, y):
        alpha, sigma = coefficients(cosine, t)
        return alpha * sigma * (1 - s**2) / (alpha**2 * s**2 + sigma**2) * x
    return sample(run.settings, net, torch.zeros(4000)).std() / s

@torch.no_grad()
def time_dependence(run):
    """How much the output changes with t alone."""
    b = large_batch(run, 2000)
    out = lambda t: run.net(b.x_t, torch.full((2000,), t), b.y)
    return (out(0.3) - out(0.7)).norm() / out(0.5).norm()

def overfit(run):
    """The loss after a hundred steps on one batch of eight examples, over the first."""
    net = run.settings.net()
    b = large_batch(run, 8)
    optimizer = torch.optim.AdamW(net.parameters(), run.settings.lr, fused=True)
    losses = [train_step(net, optimizer, b) for _ in range(100)]
    return sum(losses[-10:]) / 10 / losses[0]

# %%
def loss_jump(run):
    """The highest loss of the run, over the first."""
    return max(run.losses) / run.losses[0]

def ema_lag(run):
    """The distance from the average to the weights, over the distance that these went."""
    flat = lambda net: torch.cat([w.detach().flatten() for w in net.parameters()])
    start, net, ema = flat(run.start), flat(run.net), flat(run.ema)
    return (ema - net).norm() / (net - start).norm()

@torch.no_grad()
def library_loss(run):
    """The loss by code that we did not write here, over our own."""
    torch.manual_seed(8)
    x0, y = run.settings.data(4000)
    D = Denoiser(run.net, run.settings.sampling_schedule)
    return D.loss(x0, torch.rand(4000), y=y).mean() / (sum(run.losses[-100:]) / 100)

# %%
# column -> (test, at least, at most)
tests = {
    "range": (lowest_value, -1.5, -0.8),                    # the data begins near -1
    "noise": (repeated_noise, 0, 0.01),
    "times": (longest_gap, 0, 0.01),
    "labels": (dropped_labels, 0.08, 0.12),
    "zero": (loss_of_zero, 0.95, 1.05),
    "var": (variance, 0.95, 1.05),
    "oracle": (oracle_error, 0, 0.001),
    "gauss": (gaussian_std, 0.9, 1.1),
    "clock": (time_dependence, 0.1, 10),
    "overfit": (overfit, 0, 0.1),
    "jump": (loss_jump, 0, 2),
    "lag": (ema_lag, 0, 0.5),
    "lib": (library_loss, 0.8, 1.25),
}

# %%
rows = {
    "at least": {column: f"{low:.2f}" for column, (_, low, _) in tests.items()},
    "at most": {column: f"{high:.3g}" for column, (_, _, high) in tests.items()},
}
for name, run in runs.items():
    passed = {}
    rows[name] = {}
    for column, (test, low, high) in tests.items():
        value = float(test(run))
        passed[column] = low <= value <= high
        shown = name == "healthy" or not passed[column]
        rows[name][column] = f"{value:.2f}" if shown else "."
    assert all(passed.values()) == (name == "healthy")
tables.table(rows, index="training",
             caption="Thirteen tests: the healthy training's numbers; "
                     "below, a point is a pass and a number a failure")

# %% [markdown]
# **What the matrix shows.** The healthy training passes every test, and each defect fails at least one. The tests from *range* to *gauss* need no training and find seven of the ten before the first step. Four defects fail one test only. This is one seed and one toy; the limits of *gauss* and of the last five tests are judgement.
#
# | in this order | symptom | suspects | test |
# | --- | --- | --- | --- |
# | 1 | none yet: before training | data, noise, times, labels, coefficients, sampler | range, noise, times, labels, zero, var, oracle, gauss |
# | 2 | eight examples cannot be learned; the loss jumps | learning rate | overfit, jump |
# | 3 | the loss is too good | noise reused; data smaller than you think | noise, range |
# | 4 | samples are noise, the loss is fine | average | lag; sample with the live weights |
# | 5 | samples fly away, the loss is fine | sign, coefficients | oracle, lib |
# | 6 | samples too thin, too smooth | another schedule or noise level in training than in sampling; times not covered | oracle, var, gauss, times |
# | 7 | good samples in a haze of strays | time not passed to the network | clock |
# | 8 | samples shifted or too small | range | range |
# | 9 | wrong class | labels dropped, or mixed up | labels |
#
# **"My samples are pure noise."** (1) Sample with the live weights: an average that is still the start returns its noise. (2) *oracle*: training and sampling disagree about a sign or a coefficient while the loss is healthy. (3) The loss itself: nearly zero, and the noise is reused; a jump, and the learning rate is too high.

# %% [markdown]
# # Part II · Is it good?
#
# ## 3.10 A distance between distributions
#
# **How far is the distribution of the samples from that of the data?** Begin with two Gaussians on a line, and call *distance* the least work that turns one into the other: pair every $x$ of the first with a $y$ of the second (a *coupling*) so that the mean of $(x-y)^2$ is smallest. For any coupling, with means $m_1, m_2$ and standard deviations $s_1, s_2$,
#
# $$\mathbb E(x-y)^2 = (m_1-m_2)^2 + s_1^2 + s_2^2 - 2\operatorname{Cov}(x,y) \tag{3.29}$$
#
# Only the covariance is ours to choose. By Cauchy-Schwarz it is at most $s_1s_2$, and $y = m_2 + \frac{s_2}{s_1}(x-m_1)$ reaches that: it has mean $m_2$, standard deviation $s_2$, and covariance $\frac{s_2}{s_1}s_1^2$ with $x$. So
#
# $$d^2 = (m_1-m_2)^2 + s_1^2 + s_2^2 - 2s_1s_2 = (m_1-m_2)^2 + (s_1-s_2)^2 \tag{3.30}$$

# %%
x, z = torch.randn(2, 5000)
partners = {"independent": 0.5 + 0.4 * z, "opposite": 0.5 - 0.4 * x, "best": 0.5 + 0.4 * x}
clouds = {f"{name}\nmean (x-y)^2 = {(x - y).square().mean():.2f}": torch.stack([x, y], 1)
          for name, y in partners.items()}                  # y is always N(0.5, 0.4^2)
plots.scatter(clouds, limit=3.5,
              title="Three ways to pair x from N(0, 1) with y from N(0.5, 0.4^2)")
print(f"(0 - 0.5)^2 + (1 - 0.4)^2 = {0.5**2 + 0.6**2:.2f}")

# %% [markdown]
# **What the figure shows.** The same two distributions, three costs; the rising line costs what (3.30) says.
#
# In $d$ dimensions, with means $\mu$ and covariances $A$ and $B$, the same question has the answer
#
# $$d^2 = |\mu_1-\mu_2|^2 + \operatorname{tr}\big(A + B - 2\,(A^{1/2}BA^{1/2})^{1/2}\big) \tag{3.34}$$
#
# This is the **Fréchet distance**, squared as is usual.
#
# ### The matrix case · deeper
#
# In $d$ dimensions, with covariances $A$ and $B$, the mean square is as in (3.29), and only the last term is new:
#
# $$\mathbb E|x-y|^2 = |\mu_1-\mu_2|^2 + \operatorname{tr}A + \operatorname{tr}B - 2\operatorname{tr}\operatorname{Cov}(x,y) \tag{3.31}$$
#
# **How large can that trace be?** Write $x = \mu_1 + A^{1/2}u$, $y = \mu_2 + B^{1/2}v$, where $u$ and $v$ have mean 0 and covariance $I$, and $K = \mathbb E\,uv^\top$. Then $\operatorname{tr}\operatorname{Cov}(x,y) = \operatorname{tr}A^{1/2}KB^{1/2} = \operatorname{tr}KM$ with $M = B^{1/2}A^{1/2}$. For unit vectors $p, q$, Cauchy-Schwarz says $q^\top Kp = \mathbb E\,(q\cdot u)(p\cdot v) \le 1$. Take $M$ apart into its singular values, $M = \sum_i s_i\,p_iq_i^\top$:
#
# $$\operatorname{tr}KM = \sum_i s_i\,q_i^\top Kp_i \le \sum_i s_i = \operatorname{tr}R, \qquad R = \big(A^{1/2}BA^{1/2}\big)^{1/2}, \tag{3.32}$$
#
# because the $s_i^2$ are the eigenvalues of $M^\top M = A^{1/2}BA^{1/2}$. If $A$ is invertible, a symmetric map reaches the bound:
#
# $$y = \mu_2 + T(x-\mu_1), \qquad T = A^{-1/2}RA^{-1/2} \tag{3.33}$$
#
# Indeed $\operatorname{Cov}(y) = TAT = A^{-1/2}R^2A^{-1/2} = B$, and $\operatorname{tr}\operatorname{Cov}(x,y) = \operatorname{tr}AT = \operatorname{tr}R$. This gives (3.34). The bound (3.32) used means and covariances alone, so no pair of distributions with these means and covariances is nearer than the Gaussians.

# %%
def power(C, p):
    """A power of a symmetric matrix."""
    w, V = torch.linalg.eigh(C)
    return (V * w.clamp(min=0) ** p) @ V.T

def my_frechet(a, b):
    """a: (N, d), b: (M, d)"""
    A, B = a.T.cov(), b.T.cov()
    R = power(power(A, 0.5) @ B @ power(A, 0.5), 0.5)
    return (a.mean(0) - b.mean(0)).square().sum() + (A + B - 2 * R).trace()

cloud = lambda: (torch.randn(2000, 3) @ torch.randn(3, 3) + torch.randn(3)).double()
a, b = cloud(), cloud()
torch.testing.assert_close(my_frechet(a, b).item(), metrics.frechet_distance(a, b))

A, B = a.T.cov(), b.T.cov()
R = power(power(A, 0.5) @ B @ power(A, 0.5), 0.5)
T = power(A, -0.5) @ R @ power(A, -0.5)
y = b.mean(0) + (a - a.mean(0)) @ T
torch.testing.assert_close(y.T.cov(), B)
work = (a - y).square().sum(1).mean()
print(f"distance {my_frechet(a, b):.3f}, work of the map {work:.3f}")

# %% [markdown]
# ### Features
#
# Pictures first go through a network that extracts what matters, the **feature extractor**: here the digit classifier, with 128 features. The published **FID** (**Fréchet Inception distance**) takes 2,048 features of Inception, trained on photographs. Its scale is another, so never compare across networks. Its extractor (91 MB, downloaded once, checked by digest; needs torch-fidelity):
#
# ```python
# feature_fn = features.inception()             # or features.dinov2()
# # photos, samples: (N, 3, H, W) in [-1, 1]
# metrics.frechet_distance(feature_fn(photos), feature_fn(samples))
# ```
#
# ## 3.11 The bias: why a distance from 500 samples says nothing by itself
#
# **What do *real* digits score?** Not zero: from $n$ points, mean and covariance are only estimated, and the distance is never negative. For two clouds of $n$ and $m$ points from one distribution it is, on average, about $(\frac1n + \frac1m)$ times a constant of the data. Measure it, with all the disjoint draws that 10,000 digits give; they are shuffled, because the easier test digits come first in the file.
#
# ### The bias, derived · deeper
#
# Let the distribution have covariance $C$, in coordinates where $C$ is diagonal with entries $\lambda_i$. The means contribute $\mathbb E|\bar x-\bar y|^2 = (\frac1n+\frac1m)\operatorname{tr}C$. The covariances are $A = C + E_a$ and $B = C + E_b$ with small errors. To second order the trace depends on $E = E_b - E_a$ alone: it vanishes with its first derivatives where $A = B$, so put $A = C$, $B = C + E$, and expand $R = C + X + Y$ in first and second order of $E$. In $R^2 = C^2 + C^{1/2}EC^{1/2}$ the terms of first order are $CX + XC = C^{1/2}EC^{1/2}$, those of second order $CY + YC + X^2 = 0$; so $(\lambda_i+\lambda_j)X_{ij} = \sqrt{\lambda_i\lambda_j}E_{ij}$ and $2\lambda_iY_{ii} = -\sum_jX_{ij}^2$. In the trace the first order cancels. What is left is $-2\operatorname{tr}Y$; take the mean of this sum and of the same with $i$ and $j$ exchanged:
#
# $$\operatorname{tr}(A + B - 2R) \approx \sum_{ij}\frac{X_{ij}^2}{\lambda_i} = \frac12\sum_{ij}\Big(\frac1{\lambda_i}+\frac1{\lambda_j}\Big)X_{ij}^2 = \frac12\sum_{ij}\frac{E_{ij}^2}{\lambda_i+\lambda_j} \tag{3.35}$$
#
# For Gaussians the error of $n$ points has mean square $\lambda_i\lambda_j/n$, twice that where $i = j$. The two errors are independent, so their mean squares add in $E$. Together
#
# $$\mathbb E\,d^2 \approx \Big(\frac1n+\frac1m\Big)\Big[\operatorname{tr}C + \frac12\sum_{ij}\frac{\lambda_i\lambda_j}{\lambda_i+\lambda_j} + \frac14\operatorname{tr}C\Big] \tag{3.36}$$
#
# For $d$ equal eigenvalues the bracket is $\lambda(d^2+5d)/4$.
#
# ### The baseline, measured

# %%
g = torch.Generator().manual_seed(0)
shuffle = torch.randperm(60_000, generator=g)
order = torch.randperm(10_000, generator=g)
train_x = digits[shuffle[:10_000]]
test_x, test_y = (part[order] for part in data.mnist("test"))
test_z = features.features_of_test_split()[order]                   # (10000, 128)
feature_fn = features.digit_features                        # (N, 1, 28, 28) -> (N, 128)
noise_images = lambda count: torch.randn(count, 1, 28, 28, generator=g)
train_z = feature_fn(train_x)                                       # (10000, 128)
noise_z = feature_fn(noise_images(50).clamp(-1, 1))                 # (50, 128)

# %%
sizes = [100, 200, 500, 1000, 2000, 5000, 10_000]
reference = metrics.RunningMoments(test_z)
draws = {n: torch.tensor([metrics.frechet_distance(part, reference)
                          for part in train_z.split(n)]).double() for n in sizes}
spoiled = metrics.frechet_distance(torch.cat([train_z[25:5000], noise_z[:25]]), reference)

rows = {f"{n:,} real digits": {"mean": d.mean(), "sd": d.std() if len(d) > 1 else None,
                               "draws": len(d)} for n, d in draws.items()}
rows["5,000 of which 25 are pure noise"] = {"mean": spoiled, "sd": None, "draws": 1}
tables.table(rows, ".3f", index="digits",
             caption="Fréchet distance to the 10,000 test digits, over disjoint draws")

# %%
n = torch.tensor(sizes).double()
mean = torch.stack([d.mean() for d in draws.values()])              # (7,)
columns = torch.stack([1 / n, torch.ones(7)], 1)                    # (7, 2)
w = n.sqrt()[:, None]               # a mean of many small draws errs like 1 / sqrt(n)
slope, limit = torch.linalg.lstsq(w * columns, w * mean[:, None]).solution[:, 0]
lam = torch.linalg.eigvalsh(test_z.T.cov()).clamp(min=1e-12)
bracket = 1.25 * lam.sum() + 0.5 * (lam[:, None] * lam / (lam[:, None] + lam)).sum()
print(f"fitted: {slope:.0f} / n + {limit:.3f},   "
      f"predicted: {bracket:.0f} / n + {bracket / 10_000:.3f}")
lines = {
    "real digits": mean,
    "a / n + b, fitted": slope / n + limit,
    "prediction for Gaussians": bracket / n + bracket / 10_000,
    "5,000, 25 of them noise": torch.full((7,), spoiled),
}
plots.curves(n, lines, xscale="log", yscale="log", xlabel="number of digits n",
             ylabel="Fréchet distance", title="Real digits against the 10,000 test digits")

# %% [markdown]
# **What the figure shows.** Real digits against real digits fall nearly as predicted. **500 perfect digits score worse than 5,000 of which 25 are pure noise**: at $n = 500$ the distance measures $n$. For Inception's 2,048 features 50,000 pictures are the custom. So keep to one $n$, and print beside it the **real-data baseline**, what as many real pictures score, with its spread. A perfect model would score as much on average; copies score less (3.14).
#
# ## 3.12 Kernel distances · deeper
#
# **Can the bias be avoided?** Compare only means, but of many features $\phi$, given through a kernel $k(x,y) = \phi(x)\cdot\phi(y)$. With independent $x, x'$ from one distribution and $y, y'$ from the other, the squared **maximum mean discrepancy** (**MMD**) is
#
# $$D^2 = |\mathbb E\phi(x)-\mathbb E\phi(y)|^2 = \mathbb E\,k(x,x') + \mathbb E\,k(y,y') - 2\mathbb E\,k(x,y) \tag{3.37}$$
#
# Among all $n^2$ pairs are $n$ of a point with itself, which is not independent of itself:
#
# $$\mathbb E\,\frac1{n^2}\sum_{i,j}k(x_i,x_j) = |\mathbb E\phi(x)|^2 + \frac1n\big(\mathbb E\,k(x,x) - |\mathbb E\phi(x)|^2\big) \tag{3.38}$$
#
# There is the bias again. Leave the diagonal out, and every pair has the right mean, whatever $n$:
#
# $$\hat D^2 = \frac{\sum_{i\ne j}k(x_i,x_j)}{n(n-1)} + \frac{\sum_{i\ne j}k(y_i,y_j)}{m(m-1)} - \frac{2}{nm}\sum_{i,j}k(x_i,y_j) \tag{3.39}$$
#
# An unbiased estimate of 0 is often negative. **KID** (**kernel Inception distance**) takes $k = (x\cdot y/d+1)^3$, which compares moments up to the third; **CMMD** takes $e^{-|x-y|^2/2w^2}$ with $w = 10$ and features of CLIP. In principle this one compares everything; in practice, with a width far above the size of the data it measures little more than the mean. **What does each miss?** The third cell tries clouds of 1,000 numbers with mean 0 and variance 1, twenty of each kind.

# %%
def my_mmd(a, b, kernel):
    """a: (N, d), b: (M, d); every pair, but no point with itself"""
    def within(z):
        K = kernel(z, z)
        return (K.sum() - K.trace()) / (len(z) * (len(z) - 1))
    return within(a) + within(b) - 2 * kernel(a, b).mean()

def full_kid(a, b):
    """KID of all points at once, in place of a mean over subsets."""
    return metrics.kid(a, b, size=min(len(a), len(b)), subsets=1)[0]

cubic = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
gaussian = lambda x, y: (-torch.cdist(x, y) ** 2 / (2 * 10.0**2)).exp()
a, b = train_z[:500], test_z[:500]
torch.testing.assert_close(my_mmd(a, b, cubic).item(), full_kid(a, b))
torch.testing.assert_close(my_mmd(a, b, gaussian).item(),
                           metrics.gaussian_kernel_distance(a, b))

# %%
rows = {}
for n in (100, 200, 500, 1000):
    pairs = zip(train_z.split(n), test_z.split(n))
    values = [(1000 * full_kid(*pair), metrics.frechet_distance(*pair)) for pair in pairs]
    k, f = torch.tensor(values).T                                   # (draws,) each
    rows[f"{n} against {n}"] = {"draws": len(k), "1000 KID": k.mean(),
                                "standard error": k.std() / len(k)**0.5,
                                "sd of a draw": k.std(), "Fréchet": f.mean(),
                                "its sd": f.std()}
tables.table(rows, ".2f", index="digits",
             caption="Real digits against real digits: 1000 KID (mean, its standard error, "
                     "standard deviation of one draw) and Fréchet distance")

# %%
normal = lambda: torch.randn(1000, 1, generator=g).double()

def either(p, a, b):
    """a with probability p, otherwise b: (1000, 1)"""
    return torch.where(torch.rand(1000, 1, generator=g) < p, a, b)

shapes = {
    "N(0, 1) again": normal,
    "two bumps": lambda: either(0.5, -0.9, 0.9) + 0.19**0.5 * normal(),
    "a long tail": lambda: either(0.2, 1.6, -0.4) + 0.6 * normal(),
}
distances = {"Fréchet": metrics.frechet_distance, "KID": full_kid}
for width in (0.5, 10.0):
    kernel_distance = partial(metrics.gaussian_kernel_distance, width=width)
    distances[f"Gauss, w = {width:g}"] = kernel_distance
rows = {}
for name, shape in shapes.items():
    values = torch.tensor([[d(normal(), shape()) for d in distances.values()]
                           for _ in range(20)])                     # (20, 4)
    cells = [f"{m:.4f} ± {sd:.4f}" for m, sd in zip(values.mean(0), values.std(0))]
    rows[name] = dict(zip(distances, cells))
tables.table(rows, index="shape", caption="Distance to N(0, 1) of clouds of 1,000 numbers: "
             "mean and standard deviation of twenty")

# %%
grid = torch.linspace(-4, 4, 200)[:, None]
densities = {
    "N(0, 1)": data.GaussianMixture([[0.0]], 1.0),
    "two bumps": data.GaussianMixture([[-0.9], [0.9]], 0.19**0.5),
    "a long tail": data.GaussianMixture([[1.6], [-0.4]], 0.6, [0.2, 0.8]),
}
plots.curves(grid[:, 0], {name: m.log_prob(grid).exp() for name, m in densities.items()},
             title="Mean 0 and variance 1, all three", xlabel="x", ylabel="density")

# %% [markdown]
# At every $n$ the mean of KID is 0 to within three of its standard errors, while that of the Fréchet distance is not; but a single draw of KID spreads widely. The four rows share their digits, so they are not four independent trials.
#
# **What the table of shapes shows.** The Fréchet distance is the same for all three within its spread. The cubic kernel sees the long tail, a third moment, but not the bumps. The Gaussian kernel sees both with $w = 0.5$, and with $w = 10$ neither. **What the figure shows.** The three densities differ plainly; only mean and variance agree.
#
# ## 3.13 Scores that ask one question
#
# The **Inception Score** (**IS**) asks of a classifier's outputs whether each picture is surely something, and all together many things. With $p(y) = \mathbb E\,p(y|x)$ and the entropy $H$,
#
# $$\mathrm{IS} = \exp \mathbb E\,\mathrm{KL}\big(p(y|x)\,\|\,p(y)\big) = \exp\big(H[p(y)] - \mathbb E\,H[p(y|x)]\big), \tag{3.40}$$
#
# since $\mathbb E\sum_yp(y|x)\log p(y) = \sum_yp(y)\log p(y)$. A KL is never negative, so IS is at least 1; $H[p(y)]$ is at most $\log 10$, so IS is at most 10. Real data appear nowhere:

# %%
def my_inception_score(p):
    """p: (N, 10), rows adding up to 1"""
    entropy = lambda q: -torch.xlogy(q, q).sum(-1)
    return (entropy(p.mean(0)) - entropy(p).mean()).exp().item()

head = features.digit_classifier().head
probabilities = lambda z: head(z.float()).double().softmax(1)       # (N, 128) -> (N, 10)
torch.testing.assert_close(probabilities(test_z[:200]),
                           features.digit_probabilities(test_x[:200]), rtol=1e-3, atol=1e-6)
torch.testing.assert_close(my_inception_score(probabilities(test_z)),
                           metrics.inception_score(probabilities(test_z), splits=1)[0])

ten = probabilities(train_z).argmax(0)              # the surest picture of each class
sets = {
    "10,000 test digits": test_z,
    "ten pictures, 200 times": train_z[ten].repeat(200, 1),
    "one picture, 2,000 times": train_z[ten[:1]].repeat(2000, 1),
}
rows = {name: {"Inception Score": my_inception_score(probabilities(z))}
        for name, z in sets.items()}
tables.table(rows, ".3f", index="pictures", caption="Inception Score, at most 10")

# %% [markdown]
# **Precision and recall** do look at the data $r_i$. Around each $r_i$ lay a ball that reaches to its $k$-th neighbour in the data, of radius $\rho_k(r_i)$. For $M$ samples $g_j$, and $N$ real ones,
#
# $$\mathrm{precision} = \frac1M\sum_{j=1}^M\mathbf 1\big[\,|g_j-r_i|\le\rho_k(r_i)\ \text{for some } i\,\big], \qquad \mathrm{recall}: g \text{ and } r \text{ exchanged} \tag{3.41}$$
#
# Precision asks whether the samples look like data, recall whether all of the data are found among the samples. Construct the failures:

# %%
def inside(points, cloud, k=3):
    """Which points lie in a ball of the cloud?   (N, d), (M, d) -> (N,) bool"""
    to_itself = torch.cdist(cloud, cloud)
    radius = to_itself.kthvalue(k + 1, dim=1).values        # (M,); the nearest is itself
    return (torch.cdist(points, cloud) <= radius).any(1)

def my_precision_recall(real, generated):
    return (inside(generated, real).double().mean().item(),
            inside(real, generated).double().mean().item())

angle = torch.arange(8) * math.pi / 4
ring = 1.4 * torch.stack([angle.cos(), angle.sin()], 1)             # (8, 2)
bumps = data.GaussianMixture(ring, 0.1)
real, model = (bumps.sample(1000, seed).double() for seed in (1, 2))
rubbish, strays = (5 * torch.rand(n, 2, generator=g).double() - 2.5 for n in (500, 20))
clouds = {
    "right": model,
    "half missing": model[model[:, 1] > 0],
    "half rubbish": torch.cat([model[:500], rubbish]),
    "eight points": ring.double().repeat(100, 1),
}

# %%
captioned = {}
for name, z in clouds.items():
    precision, recall = metrics.precision_recall(real, z)
    torch.testing.assert_close((precision, recall), my_precision_recall(real, z))
    captioned[f"{name}\nprecision {precision:.2f}\nrecall {recall:.2f}"] = z
plots.scatter(captioned,
              title="Samples of a ring of eight bumps, 1,000 real points not shown")
with_strays = torch.cat([real, strays])
precision, _ = metrics.precision_recall(with_strays, clouds["half rubbish"])
print(f"precision of half rubbish when 20 of the real points are strays: {precision:.2f}")

# %% [markdown]
# **What the figure shows.** Each failure is told from the others. Even the right model stays below 1, since the balls have gaps. Repeated points have recall 0 for a second reason: their nearest neighbours are copies of themselves, so their balls have radius zero. The last line is the weak spot: a stray point has far neighbours, hence a huge ball, and rubbish in it counts as good.
#
# ### LPIPS, and every score against n · deeper
#
# **LPIPS** (learned perceptual image patch similarity) is not about sets: it says how different *two* pictures look. On five layers $l$ of AlexNet, the features at each position are brought to length 1 (hats), compared, and weighted with $w_{lc}\ge0$ fitted to people's judgement:
#
# $$d(x,y) = \sum_l\frac1{H_lW_l}\sum_{i,j,c}w_{lc}\,\big(\hat a_{lcij}(x)-\hat a_{lcij}(y)\big)^2 \tag{3.42}$$
#
# It serves for reconstructions (small is good) and diversity (its mean over pairs of samples: large is varied). Below, 28 x 28 digits are enlarged to 64 x 64 first, since AlexNet needs 32 pixels or more; the number depends on that size. Beside the pixels' square error:

# %%
def my_lpips(x, y):
    """x, y: (B, 3, H, W) in [-1, 1] -> (B,)"""
    net = features.lpips_network()
    l2_normalize = lambda h: h / h.norm(dim=1, keepdim=True).clamp(min=1e-10)
    total = 0.0
    a, b = ((z - net.shift) / net.scale for z in (x, y))            # AlexNet's own scale
    for k, layer in enumerate(net.body):
        a, b = layer(a), layer(b)                                   # (B, C, H', W')
        if k in net.LAYERS:
            weight = net.heads[net.LAYERS.index(k)]                 # (1, C, 1, 1)
            difference = (l2_normalize(a) - l2_normalize(b)) ** 2
            total = total + (weight * difference).sum(1).mean((1, 2))
    return total

big = torch.rand(4, 3, 64, 64) * 2 - 1
torch.testing.assert_close(my_lpips(big[:2], big[2:]), metrics.lpips(big[:2], big[2:]))

# %%
x = test_x[:16]
versions = {"original": x, "one pixel right": x.roll(1, 3),
            "blurred": gaussian_blur(x, 7, 1.0), "another digit": x.roll(1, 0)}
plots.show(versions, title="Which is nearest to the original?")
rows = {}
for name in list(versions)[1:]:
    d = metrics.lpips(x, versions[name], enlarge_to=64)             # (16,)
    rows[name] = {"mean square error": (x - versions[name]).square().mean(),
                  "LPIPS": d.mean(), "its standard error": d.std() / 4}
tables.table(rows, ".3f", index="version",
             caption="Distance to the original, 16 pairs (LPIPS at 64 x 64 pixels)")

# %% [markdown]
# **What the figure shows.** To the pixels, blur is nearer than a shift by one pixel; to LPIPS, as to us, the shift is hardly anything.
#
# **How do these scores depend on n?** For the Fréchet distance we know. Real digits against as many other real digits, ten disjoint draws for each $n$:

# %%
def five_scores(a, b):
    """Features a, of digits judged against b's."""
    return (metrics.frechet_distance(a, b), 1000 * full_kid(a, b),
            my_inception_score(probabilities(a)), *metrics.precision_recall(b, a))

def real_against_real(n):
    """n digits against n: mean and standard deviation of five scores over ten draws."""
    pairs = list(zip(train_z.split(n), test_z.split(n)))[:10]
    values = torch.tensor([five_scores(a, b) for a, b in pairs])
    return values.mean(0), values.std(0)

ns = [50, 100, 200, 500, 1000]
scores_by_n = [real_against_real(n) for n in ns]
means, spreads = (torch.stack(part) for part in zip(*scores_by_n))          # (5, 5) each
names = ("Fréchet", "1000 KID", "Inception Score", "precision", "recall")
for part in ((0, 1, 2), (3, 4)):
    label = "real against real, mean and standard deviation"
    plots.panels(torch.tensor(ns), {names[k]: {label: means[:, k]} for k in part},
                 errors={names[k]: {label: spreads[:, k]} for k in part},
                 xlabel="n", xscale="log")

# %% [markdown]
# **What the figures show.** The Fréchet distance is biased upwards, the Inception Score downwards (a few pictures show less variety than there is); KID is not (a mean of ten draws is itself uncertain by a third of its bar); precision and recall start about 0.04 higher at $n = 50$ and hardly change from 200 on. So every score is compared at one $n$, with its real-data baseline and its spread.
#
# ## 3.14 Metrics that disagree · deeper
#
# **Which metric sees which damage?** Spoil 1,000 real test digits in ways we know, and compare with 1,000 other test digits. The nine thousand that are not the reference give nine draws of the real-data baseline. The copies and the ten repeated images are training digits.

# %%
n = 1000
real_z, *others = test_z.split(n)                                   # ten times (1000, 128)
x, z, y = test_x[n:2 * n], others[0], test_y[n:]
blurred = gaussian_blur(x, 5, 0.5)
noisy = (x + 0.1 * noise_images(n)).clamp(-1, 1)
mirrored = x[:200].flip(3)
mirrored_z = feature_fn(mirrored)
damages = {
    "half the classes": torch.cat(others)[y < 5][:n],
    "slight blur": feature_fn(blurred),
    "noise of sd 0.1": feature_fn(noisy),
    "ten images, repeated": train_z[ten].repeat(100, 1),
    "copies of training set": train_z[:n],
    "5 % pure noise": torch.cat([z[50:], noise_z]),
    "5 % mirrored": torch.cat([z[50:], mirrored_z[:50]]),
    "20 % mirrored": torch.cat([z[200:], mirrored_z]),
}
plots.show({"real": x[:14], "blurred": blurred[:14], "noise of sd 0.1": noisy[:14],
            "mirrored": mirrored[:14]}, title="Damages")

# %%
names = ("Fréchet", "1000 KID", "1000 Gau", "IS", "precision", "recall")

def six_scores(z):
    """Six scores of features z (n, 128), in the order of names."""
    frechet, kid, *rest = five_scores(z, real_z)
    gaussian = 1000 * metrics.gaussian_kernel_distance(z, real_z)
    return torch.tensor([frechet, kid, gaussian, *rest])

baselines = torch.stack([six_scores(z) for z in others])            # (9, 6)
mean, sd = baselines.mean(0), baselines.std(0)
rows = {"real data, 9 draws": [f"{v:.3f}" for v in mean],
        "their standard deviation": [f"{v:.3f}" for v in sd]}
for name, z in damages.items():
    values = six_scores(z)
    marks = ["*" if far else "" for far in (values - mean).abs() > 4 * sd]
    rows[name] = [f"{v:.3f}{mark}" for v, mark in zip(values, marks)]
rows = {name: dict(zip(names, cells)) for name, cells in rows.items()}
tables.table(rows, index="damage", caption="1,000 damaged digits against 1,000 others")
own_copies = abs(metrics.frechet_distance(train_z, train_z))
new_digits = metrics.frechet_distance(test_z, train_z)
print(f"10,000 training digits as the reference: Fréchet distance of their copies "
      f"{own_copies:.3f}, of 10,000 test digits {new_digits:.3f}")

# %% [markdown]
# A star marks what lies more than 4 standard deviations from the real-data baseline; *1000 Gau* is a thousand times the Gaussian kernel distance. **What the table shows.**
#
# - *Half the classes missing*: seen by all but precision, rightly, for what is there is good. *Ten images, repeated*: recall 0, and the highest Inception Score of all.
# - *Slight blur* costs recall only. *Noise* of sd 0.1, hardly visible, costs more Fréchet distance than 5 % of pictures that are nothing but noise: it counts what the features notice.
# - *Mirrored digits* are what a network samples that was trained on flips without a condition that says so (**augmentation leakage**). At 5 % only the Inception Score falls; at 20 % precision, too. The Fréchet distance stays within its baseline.
# - *Copies* have no star: to all these metrics a memorised training set is perfect. With the training set as the reference, as is usual for CIFAR-10, it even beats new digits (last line).
#
# So believe no single number: take a Fréchet or kernel distance for the whole, precision and recall for what is wrong, each beside its baseline, and look at pictures.
#
# ## 3.15 Our models judged, and have they memorised the data?
#
# Two of the shipped models of digits: `mnist`, 10,000 updates, and the smaller `mnist_small`, 5,000 updates. Which is better, and how good is it? Five hundred samples of each, twenty steps, no guidance, beside twenty draws of five hundred *real* training digits; and behind it what their model cards say of larger samples (`train.load(name).about`, measured by `python tools/recipes/ship.py NAME`).

# %%
asked = labels[shuffle[-500:]]                      # 500 labels, as frequent as in the data
torch.set_num_threads(threads)

def sample_digits(name):
    """500 digits in 20 steps, from a shipped model."""
    D = train.load(name)
    schedule = D.schedule
    device = next(D.parameters()).device
    g = torch.Generator().manual_seed(0)
    start = schedule.sample_prior((500, 1, 28, 28), generator=g).to(device)
    with train.autocast(device):
        ts = timesteps(schedule, 20)
        x = last(ancestral(clip(D), schedule, start, ts, y=asked.to(device)))
    return x.float().cpu().clamp(-1, 1)

samples = {name: sample_digits(name) for name in ("mnist", "mnist_small")}
plots.show({name: x[:14] for name, x in samples.items()} | {"real": train_x[:14]},
           title="Samples that nobody chose, and real digits")

# %%
names = ("Fréchet", "1000 KID", "precision", "recall")

def scores(z, n=500):
    """Features z (n, 128) -> Fréchet distance, 1000 KID, precision, recall"""
    real = test_z[:n]
    return torch.tensor([metrics.frechet_distance(z, reference), 1000 * full_kid(z, real),
                         *metrics.precision_recall(real, z)])

baselines = torch.stack([scores(z) for z in train_z.split(500)])    # (20, 4)
accuracy = (probabilities(test_z).argmax(1) == test_y).double().mean()      # of test digits
rows = {"real, 20 draws": dict(zip(names, baselines.mean(0))),
        "their sd": dict(zip(names, baselines.std(0)))}
rows["real, 20 draws"]["class agreement"] = accuracy
rows["their sd"]["class agreement"] = ""
for name, x in samples.items():
    rows[name] = dict(zip(names, scores(feature_fn(x))))
    rows[name]["class agreement"] = metrics.class_agreement(x, asked)
formats = dict.fromkeys(names, ".2f") | {"class agreement": ".1%"}
tables.table(rows, formats, index="500 digits",
             caption="500 digits (class agreement of real ones: 10,000 test digits)")

# %%
rows = {}
for name in samples:
    card = train.load(name).about["metrics"]
    large_sample = card["samples"][0]
    real_digits = torch.tensor(card["real"]["frechet_floor_of_2000"])
    rows[name] = {"Fréchet of 2,000": large_sample["frechet_distance_of_2000"],
                  "real digits": f"{real_digits.mean():.3f} ± {real_digits.std():.3f}",
                  "class agreement": f"{large_sample['class_agreement']:.2%}",
                  "of": f"{large_sample['n']:,} digits"}
tables.table(rows, ".3f", index="card of", caption="What the models' cards say")

# %% [markdown]
# **What the tables show.** At $n = 500$ the small model's Fréchet distance is little more than one standard deviation above the baseline, and KID, an unbiased distance, tells neither model from real digits. The cards, with 2,000 digits, see more: the small model lies far above real digits, the large one three deviations above its card's baseline and less than two above that of section 3.11, so it is probably worse. *Class agreement* asks whether the digit is the one that was ordered. A fraction $p$ of 500 is known to $\sqrt{p(1-p)/500}$, here to less than a point, and both are below real digits by more than that.
#
# **Have the models learned the data by heart?** None of these numbers measures **memorisation**, so we must look for it ourselves: how far is each sample from its *nearest training image*? Divide by the median for test digits, which no model can have memorised. The next cell tries this on copies, too, disguised by a little noise or by a shift of one pixel. It searches 10,000 of the 60,000 training images; a real check searches all.

# %%
copies, stored = train_x[:200], train_x.flatten(1)                  # (10000, 784)
nearest = {
    "in pixels": lambda x: torch.cdist(x.flatten(1), stored).min(1).values,
    "in features": lambda x: torch.cdist(feature_fn(x), train_z).min(1).values,
}
sets = {
    "test": test_x[200:400],
    "noisy": (copies + 0.1 * noise_images(200)).clamp(-1, 1),
    "shifted": copies.roll(1, 3),
    "samples": samples["mnist"][:200],
}
at = torch.linspace(0, 2.5, 101)
rows, fractions = {}, {}
for where, distance_to_nearest in nearest.items():
    usual = distance_to_nearest(test_x[:200]).median()
    ratios = {name: distance_to_nearest(x) / usual for name, x in sets.items()}
    rows[where] = {name: r.median() for name, r in ratios.items()}
    fractions[where] = {name: (r[:, None] <= at).double().mean(0)
                        for name, r in ratios.items()}
tables.table(rows, ".2f", index="nearest",
             caption="Median distance to the nearest training image, "
                     "over that of test digits; 200 images each")
plots.panels(at, fractions, title="How near is the nearest training image?",
             xlabel="ratio to test median", ylabel="fraction nearer than this")

# %% [markdown]
# **What the figure shows.** Pixels find every noisy copy and are blind to a shift. Features find that the shifted copies, as a set, are too near, and are blind to the noise. The model's samples lie nearly as test digits do: no copies were found.
#
# ## 3.16 Why not simply the loss? · deeper
#
# **If the loss falls, do the samples get better?** With $D^*(x_t) = \mathbb E[x_0|x_t]$, the exact denoiser, the loss at one noise level is
#
# $$\mathbb E|D(x_t)-x_0|^2 = \mathbb E|D^*(x_t)-x_0|^2 + \mathbb E|D(x_t)-D^*(x_t)|^2, \tag{3.43}$$
#
# because for each $x_t$ the error $D^*-x_0$ has mean 0, so the mixed term is gone. The first part no network can lower. The second is ours, and the total loss adds it up over all levels, with some weight. Take eight bumps, and two denoisers with one fault each:

# %%
bumps = data.GaussianMixture(ring, 0.03)
exact = bumps.denoiser(cosine)
two = data.GaussianMixture(ring[:2], 0.03).denoiser(cosine)

def wrong_late(x, t):
    """Leaves the last noise where it is."""
    return exact(x, t) if t > 0.03 else x / cosine.alpha(t).to(x)

def wrong_early(x, t):
    """At first predicts two bumps only."""
    return two(x, t) if t > 0.75 else exact(x, t)

denoisers = {"exact": exact, "A: wrong at t < 0.03": wrong_late,
             "B: wrong at t > 0.75": wrong_early}
x0 = bumps.sample(2000, seed=1)
ts = (torch.arange(100) + 0.5) / 100
levels = [(cosine.perturb(x0, t, torch.randn(2000, 2, generator=g)), t) for t in ts]
least = torch.stack([(exact(x, t) - x0).square().mean() for x, t in levels])        # (100,)
excess = {name: torch.stack([(D(x, t) - exact(x, t)).square().mean() for x, t in levels])
          for name, D in denoisers.items()}
# of the error of x0
weights = {"eps": cosine.log_snr(ts).exp(), "v": 1 / cosine.sigma(ts) ** 2}
plots.curves(ts, {name: weights["eps"] * excess[name] for name in list(denoisers)[1:]},
             yscale="log", ylim=(1e-4, 2), xlabel="t", ylabel="excess loss of eps",
             title="Above the least possible loss, by noise level")

# %%
def sample_quality(x):
    """Distances to new data, mean log density, and the standard deviation within a bump."""
    bump = torch.cdist(x, ring).argmin(1)
    return {"Fréchet": metrics.frechet_distance(x, held_out),
            "Gaussian kernel": metrics.gaussian_kernel_distance(x, held_out, width=0.5),
            "mean log density": bumps.log_prob(x).mean(),
            "width of a bump": (x - ring[bump]).std()}

z = torch.randn(2000, 2, generator=g)
held_out = bumps.sample(2000, seed=3)
rows, clouds = {}, {}
for name, D in denoisers.items():
    x = last(ddim(D, cosine, z, timesteps(cosine, 50)))
    losses = {f"loss of {target}": (weight * (least + excess[name])).mean()
              for target, weight in weights.items()}
    rows[name] = losses | sample_quality(x)
    fraction = torch.cdist(x, ring).argmin(1).bincount(minlength=8) / len(x)
    clouds[f"{name}\nfractions {fraction.min():.0%} to {fraction.max():.0%}"] = x[:400]

# %%
rows["new data"] = dict.fromkeys(rows["exact"], "") | {
    "mean log density": bumps.log_prob(held_out).mean(), "width of a bump": "0.030"}
formats = dict.fromkeys(rows["exact"], ".4f")
formats |= {"mean log density": ".2f", "width of a bump": ".3f"}
tables.table(rows, formats, index="denoiser",
             caption="Loss over 100 noise levels, and 2,000 samples in 50 steps")
plots.scatter(clouds, title="Samples from the same noise, and the fraction in a bump")

# %% [markdown]
# **What the figures show.** B has the lower eps loss, but gives some bumps several times as many samples as others, and both distances see it. A's bumps are three times as wide as the exact sampler's, and neither distance notices: beside the ring they are small. The loss of v, the same errors in another weighting, puts A first. (The mean log density asks of each sample alone whether its place is likely. It condemns A, prefers B, and likes both B and the exact sampler better than the data itself, since in fifty steps bumps come out too thin. Metrics disagree here, too.)
#
# So watch the loss *by noise level*, on held-out data: it shows where something is broken. Compare totals only between runs with the same target, weighting and schedule. Choose between models by their samples.
#
# ## 3.17 Your own pictures
#
# **A folder and a configuration.** Any folder of pictures will do; sub-folders become labels. The command is one line:
#
# ```
# python -m course_lib.lab.training configs/pictures.toml --folder photos
# ```
#
# The file `configs/pictures.toml` says how large the pictures become, which target, schedule and network are used, and for how long they are trained. Switch its flips off for pictures with writing. A few hundred pictures are a *small* set: copies are to be feared, and by section 3.11 a Fréchet distance from 100 pictures says little.
#
# **Keep some pictures back** before you train. Below, 300 small figures play the part of your folder and 100 more are held out.

# %%
folder, held_out_folder = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
for k, picture in enumerate(data.nouns(400).x):
    where = folder if k < 300 else held_out_folder
    save_image((picture + 1) / 2, where / f"{k:03d}.png")

training = data.pictures(folder, size=32)
held_out = data.pictures(held_out_folder, size=32)
config = {
    "data": "pictures", "folder": str(folder), "size": 32, "target": "v",
    "schedule": {"name": "cosine"},
    "network": {"type": "UNet", "channels": 3, "widths": [16, 32], "patch_size": 2},
    "train": {"steps": 150, "batch_size": 32, "lr": 2e-3, "horizontal_flip": False},
}
D, tensors, options = train.from_config(config)
D = train.train(D, tensors, config=options)
own_samples = sampling.samples(D, n=100)
plots.show({"your pictures": training.floats(slice(0, 12)),
            "samples": own_samples[:12].cpu()}, title="150 updates: only a trial")

# %% [markdown]
# **Judge it honestly.** Three questions, and for each a row whose answer is known beforehand. *Do samples look like held-out pictures?* Mix both sets and ask of each picture whether its nearest neighbour comes from its own set. This **1-nearest-neighbour accuracy** (1-NNA) is 100 % for sets apart and near 50 % for one distribution (Lopez-Paz & Oquab 2017). *Are they new?* Take the distance to the nearest training picture, over that of held-out pictures: 1 is as new as real data, 0 a copy. *How sure is that?* Both come with a 95 % interval. The distance is that of AlexNet's features.

# %%
to_features = lambda x: features.alexnet_features(x.float().cpu().clamp(-1, 1))
train_f, real_f = to_features(training.floats()), to_features(held_out.floats())
fresh = data.nouns(100, seed=1).x
candidates = {
    "other real pictures": fresh,
    "copies of the training set": training.floats(slice(0, 100)),
    "one picture, with noise": (training.floats(slice(0, 1))
                                + 0.02 * torch.randn(100, 3, 32, 32, generator=g)),
    "samples after 150 updates": own_samples,
}
rows = {}
for name, x in candidates.items():
    f = to_features(x)
    nna = small_sets.one_nna(f, real_f, torch.cdist)
    near = small_sets.nearest_ratio(torch.cdist(f, train_f), torch.cdist(real_f, train_f))
    rows[name] = {"1-NNA": f"{nna.accuracy:.0%}", "95 % from": f"{nna.low:.0%}",
                  "to": f"{nna.high:.0%}", "nearest, over held-out": f"{near.median:.2f}",
                  "95 % from ": f"{near.low:.2f}", "to ": f"{near.high:.2f}"}
for row in read_rows("lesson3_pictures.csv"):
    columns = ("nna", "nna_low", "nna_high", "near", "near_low", "near_high")
    values = (float(row[c]) for c in columns)
    formats = (".0%", ".0%", ".0%", ".2f", ".2f", ".2f")
    rows[f"samples after {int(row['steps']):,} updates"] = dict(
        zip(rows["other real pictures"], (f"{v:{f}}" for v, f in zip(values, formats))))
tables.table(rows, index="100 pictures", caption="Against 100 held-out pictures")

# %% [markdown]
# **What the table shows.** Other real pictures pass both questions, 50 % and 1.01. Copies pass the first, 55 %, and fail the second, 0. One picture with noise fails both. So does the trial: 100 %, and farther from the training set than real pictures. Neither column suffices alone: 1-NNA does not ask whether a picture is new, nor the ratio whether it is good. Longer trainings (`python benchmarks/lesson3_pictures.py`) come nearer: 94 % and 1.41 after 1,000 updates, 72 % and 1.00 after 4,000, 66 % and 0.99 after 16,000. The last two are as new as held-out pictures, and still told apart.
#
# ## What we built
#
# A reason for every part of the training: what the loss estimates, what a target, a weighting and a schedule's density change, why weights are averaged. Ten broken trainings and thirteen tests that tell them apart. A set of metrics, nearly all beside the number that real data score. And a model from a folder of pictures, judged by rows whose answer was known.
#
# **Three things to remember.** (1) All targets minimise one error with different weights; the mean is what the equations need. (2) A training that fails seldom says so: test the parts, not the loss. (3) A metric without its sample size, its real-data baseline and its spread is not a measurement.
#
# | term | in one line |
# | --- | --- |
# | target, parameterisation, prediction type | what the network predicts: $\epsilon$, $x_0$, $v$ or flow |
# | epsilon-, x0-, v-prediction | networks with these targets |
# | flow matching, rectified flow | regression on the velocity of lines from noise to data, (3.9) |
# | preconditioning | factors that keep input and target of the network at size one, (3.11) |
# | min-SNR, P2 | two loss weightings, (3.15) |
# | importance sampling | times drawn from another density and weighted back, (3.16) |
# | logit-normal times | $t$ = sigmoid of a normal number |
# | stratified times | one time in each of $B$ equal slices |
# | timestep shift | the schedule moved for larger images, (3.19) |
# | zero terminal SNR | a schedule that ends at $\alpha = 0$ exactly |
# | learned variance, hybrid loss, VLB | the reverse variance from the network; its loss; the bound, (3.20), (3.21) |
# | bits per dimension | the bound as the length of a lossless file |
# | EMA, power-function and post-hoc | averages of the weights, (3.23), (3.24) |
# | AdamW, decoupled weight decay | Adam whose weights shrink by their own rule, (3.45) |
# | Muon, Newton-Schulz steps | momentum made orthogonal, (3.46); how |
# | gradient clipping, accumulation | a bound on the norm; a batch in parts |
# | augmentation leakage | a model draws what augmentation made |
# | mixed precision, fp16, bf16, gradient scaler | half precision in the products; its two formats; a remedy for tiny gradients |
# | oracle | the target itself in the place of the network |
# | Fréchet distance, FID | work between Gaussians fitted to features, (3.34); with Inception's |
# | feature extractor | the network whose features are compared |
# | real-data baseline, floor | what as many real pictures score |
# | MMD, KID, CMMD | kernel distances, (3.37) |
# | Inception Score | sure and varied, by a classifier, (3.40) |
# | precision, recall | samples near data; data near samples, (3.41) |
# | LPIPS | perceptual distance of two pictures, (3.42) |
# | memorisation | samples that are training pictures |
# | 1-NNA | how often the nearest neighbour is of the same set |
#
# | formula | source |
# | --- | --- |
# | (3.1) to (3.3) | Huber 1964, *Robust Estimation of a Location Parameter* |
# | (3.4), (3.5) | Salimans & Ho 2022, *Progressive Distillation*; Kingma & Gao 2023, *Understanding Diffusion Objectives* |
# | (3.6) to (3.10) | Lipman et al. 2023, *Flow Matching*; Liu et al. 2023, *Rectified Flow*; Albergo & Vanden-Eijnden 2023 |
# | (3.11) to (3.14) | Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, table 1, appendix B.6 |
# | (3.15) | Hang et al. 2023, *Min-SNR*; Choi et al. 2022, *Perception Prioritized Training* |
# | (3.16), (3.17) | importance sampling: Nichol & Dhariwal 2021, section 3.3; logit-normal times: Esser et al. 2024 |
# | (3.18), (3.19) | Hoogeboom et al. 2023, *simple diffusion*; Esser et al. 2024; zero terminal SNR: Lin et al. 2023 |
# | (3.20) to (3.22) | Nichol & Dhariwal 2021, eq. 15 and 16; Ho et al. 2020, eq. 13 |
# | (3.23), (3.24) | Polyak & Juditsky 1992; Karras et al. 2024, *Analyzing and Improving the Training Dynamics of Diffusion Models*, section 3 |
# | (3.29) to (3.34) | Dowson & Landau 1982; as FID: Heusel et al. 2017 |
# | (3.36) | that FID is biased: Binkowski et al. 2018; to extrapolate: Chong & Forsyth 2020 |
# | (3.37) to (3.39) | Gretton et al. 2012, *A Kernel Two-Sample Test*; KID: Binkowski et al. 2018; CMMD: Jayasumana et al. 2024 |
# | (3.44) | Kingma & Gao 2023 |
# | (3.45) | Loshchilov & Hutter 2019, *Decoupled Weight Decay Regularization*, algorithm 2 |
# | (3.46) | Jordan et al. 2024, *Muon* |
# | augmentation that does not leak | Karras et al. 2020, *Training GANs with Limited Data*; Karras et al. 2022, appendix F.2 |
# | (3.40), (3.41), (3.42) | Salimans et al. 2016; Kynkäänniemi et al. 2019; Zhang et al. 2018 |
#
# **Next:** lesson 4 takes one trained model and asks how few steps it needs.
