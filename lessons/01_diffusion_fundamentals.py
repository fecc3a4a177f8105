# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 1 · Diffusion fundamentals
#
# {{badge}}
#
# A picture of a digit is destroyed by noise in a thousand small steps. A network learns to undo the noise. Run it on pure noise, a thousand times over, and it draws new digits. In this lesson you derive how that works, check every formula with numbers, and watch a network learn on your own machine.
#
# **After this lesson you can** jump to any noise level in one step and prove that this is allowed; choose a noise schedule and say where it destroys the picture; derive the reverse process and the training loss from the likelihood (the probability that the model gives to the data), with no step left out; write a **denoising diffusion probabilistic model**, or DDPM, in fifty lines that learn a spiral; train the library's on the digits of MNIST for two minutes; and tell from bad samples what went wrong.
#
# **You need** Python, some PyTorch, calculus, and the Gaussian distribution. **It takes** 4 to 7 minutes to run on two CPU cores, and about two hours to read; on a GPU the same cells train a larger network. The exercises are in `exercises/01_diffusion_fundamentals.ipynb`.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 1.1 From noise to data | core | 6 | what a diffusion model does, and beside whom |
# | 1.2 Three facts about Gaussians | core | 6 | all the probability that is needed |
# | 1.3 One step of the forward process | core | 6 | why the image shrinks |
# | 1.4 Jumping to step t | core | 10 | one draw in place of many; fewer steps |
# | 1.5 Noise schedules | core | 8 | four curves, and what they do to samples |
# | 1.5 Where the information goes, and the end | deeper | 10 | an ideal observer; the cost of a schedule's end |
# | 1.6 Why there is a way back | core | 8 | small steps are Gaussian both ways |
# | 1.7 The posterior | core | 6 | the reverse step, if the data were known |
# | 1.8 What to learn: the bound | core | 15 | from likelihood to denoising |
# | 1.8 Does the bound hold? | deeper | 8 | every term computed where the truth is known |
# | 1.9 Three names for one thing | core | 10 | noise, image, score |
# | 1.10 A DDPM, written out | core | 12 | fifty lines that learn a spiral |
# | 1.11 All of MNIST, live | core | 10 | a network learns digits while you watch |
# | 1.11 One prediction, or the reverse process? | deeper | 3 | one evaluation beside many |
# | 1.12 What goes wrong | core | 8 | errors that do not crash, and a number that sees them |
# | 1.13 A perfect denoiser that is useless | deeper | 6 | why a network had better be imperfect |
# | 1.14 A Rosetta stone | deeper | 6 | the same thing in other papers' letters |
#
# The core sections read well alone.
#
# **Our conventions.** Data lies near [-1, 1]. The paper's formulas count **timesteps** $t = 1, \dots, T$; code counts $i = t - 1$ from 0; the library and the later lessons use the number $t/T$ in [0, 1], where 0 is data and 1 is noise. Betas are variances. The paper's $\alpha_t = 1 - \beta_t$ and $\bar\alpha_t$ are its own letters; the library's `alpha(t)` is $\sqrt{\bar\alpha_t}$, the factor on the data, and `sigma(t)` is $\sqrt{1-\bar\alpha_t}$, the standard deviation of the noise. $\log$ is the natural logarithm.

# %% tags=["setup"]
{{setup}}

# %%
import csv
import math

import torch
from torch import nn

from course_lib import DDPM, Denoiser, Schedule, UNet, ancestral, last, timesteps
from course_lib.lab import data, features, metrics, plots, storage, tables, train, widgets
from course_lib.lab.notebook import diagrams

device = train.default_device()
torch.manual_seed(0)
digits, labels = data.mnist("train")
print(f"{len(digits):,} digits of shape {tuple(digits.shape[1:])}, "
      f"pixels from {digits.min():.0f} to {digits.max():.0f}")

# %% [markdown]
# ## 1.1 From noise to data, in one moving picture
#
# **What does a diffusion model do?** Here is one at work on points. The data lie on a spiral; a thousand points start as pure noise and take a hundred small steps. Every step evaluates a **denoiser** once: a function of a noisy point and its time that returns where the clean point was, on average. For this spiral it is a formula, which section 1.9 derives. For pictures a network learns it.

# %%
# closer and closer in angle, so that the arm is covered evenly
angle = torch.linspace(1.0, (3.5 * math.pi) ** 2, 60).sqrt()
centres = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / 5   # (60, 2)
# sixty small round Gaussians
spiral = data.GaussianMixture(centres - centres.mean(0), stds=0.1)

schedule = Schedule.linear(T=1000)
times = timesteps(schedule, 100)            # 101 times, from 1 (noise) to 0 (data)
path = list(ancestral(spiral.denoiser(schedule), schedule, torch.randn(1000, 2), times))
plots.animate_points(path[::5], [f"t = {t:.2f}" for t in times[::5]],
                     alt="A cloud of noise becomes a spiral")

# %% [markdown]
# The last lines say: a **schedule** of 1000 **noise levels**; a hundred and one of its times; random steps from time to time with the denoiser; draw.
#
# **What the film shows.** For more than four fifths of the time hardly anything seems to happen. Then, in the last few frames, arms appear and tighten, until nearly every point lies on the spiral. No point was given a goal: where it ends depends on its start and on small random pushes. That is *generating*, or **sampling**: drawing new samples from the distribution of the data.
#
# Why go this way? Adding noise is easy, and learning to remove it is ordinary regression: known input, known answer, squared error. Other generative models pay elsewhere. In short:
#
# | | how it generates | what training is like | what it costs |
# | --- | --- | --- | --- |
# | GAN | one pass, noise to image | a game between two networks; may collapse onto few kinds of image | no likelihood, unstable |
# | VAE | one pass, code to image | a bound on the likelihood, with a *learned* encoder | blurred images |
# | autoregressive | one pixel or token after the other | exact likelihood, very stable | as many passes as pixels, and an order must be chosen |
# | diffusion | many passes, all pixels at once | a bound on the likelihood, with a *fixed* encoder: adding noise | many passes (lesson 4 brings a thousand down to ten and fewer) |
#
# It is a close relative of the VAE: its code is the noisy image, as large as the image itself, and made without learning.
#
# ## 1.2 Box: three facts about Gaussians
#
# $\mathcal N(x; m, v)$ is the Gaussian density with mean $m$ and *variance* $v$: $\exp\!\big(-(x-m)^2/2v\big)/\sqrt{2\pi v}$. All of this lesson rests on three facts. We state them for one number; noise is independent in every pixel, so for images each holds pixel by pixel, and log-densities and divergences add up over the pixels.
#
# **Scaling and adding.** If $x \sim \mathcal N(m, v)$ and $z \sim \mathcal N(0, 1)$ are independent, then
#
# $$a x + b z \sim \mathcal N(a m,\ a^2 v + b^2) \tag{1.1}$$
#
# Means and *variances* add; standard deviations do not.
#
# **Multiplying.** As a function of $x$, the product of two densities is again a Gaussian, up to a constant factor:
#
# $$\mathcal N(x; m_1, v_1)\,\mathcal N(x; m_2, v_2) \propto \mathcal N(x; m, v), \qquad \frac1v = \frac1{v_1} + \frac1{v_2}, \qquad m = v\Big(\frac{m_1}{v_1} + \frac{m_2}{v_2}\Big) \tag{1.2}$$
#
# Add the exponents: $-\tfrac12\big(\tfrac1{v_1} + \tfrac1{v_2}\big)x^2 + \big(\tfrac{m_1}{v_1} + \tfrac{m_2}{v_2}\big)x + \text{const}$, and compare with $-\tfrac1{2v}x^2 + \tfrac{m}{v}x$. This comparing is called *completing the square*; we shall need it once more.
#
# **Comparing.** The Kullback-Leibler divergence $\mathrm{KL}(q\,\|\,p) = \mathbb E_q[\log q(x) - \log p(x)]$ is zero when $q = p$ and positive otherwise. For two Gaussians
#
# $$\mathrm{KL}\big(\mathcal N(m_1, v_1)\,\|\,\mathcal N(m_2, v_2)\big) = \frac12\Big(\log\frac{v_2}{v_1} + \frac{v_1 + (m_1 - m_2)^2}{v_2} - 1\Big) \tag{1.3}$$
#
# because $\log q - \log p = \tfrac12\log\tfrac{v_2}{v_1} - \tfrac{(x-m_1)^2}{2v_1} + \tfrac{(x-m_2)^2}{2v_2}$, and under $q$ the two squares have the averages $v_1$ and $v_1 + (m_1-m_2)^2$.

# %%
def kl(m1, v1, m2, v2):
    """KL(N(m1, v1) || N(m2, v2)), with *variances* v1 and v2."""
    return 0.5 * ((v2 / v1).log() + (v1 + (m1 - m2) ** 2) / v2 - 1)

m1, v1, m2, v2 = torch.tensor([0.5, 0.3, -1.0, 2.0])
x = m1 + v1.sqrt() * torch.randn(1_000_000)                 # a million draws from the first
log_density = lambda x, m, v: -0.5 * ((x - m) ** 2 / v + (2 * math.pi * v).log())
by_draws = (log_density(x, m1, v1) - log_density(x, m2, v2)).mean()
print(f"KL by the formula {kl(m1, v1, m2, v2):.4f}, by averaging over draws {by_draws:.4f}")

# %% [markdown]
# ## 1.3 One step of the forward process
#
# **What happens to an image when noise is added step by step?** Take a digit, multiply its pixels by a number slightly below 1, add a little noise, and repeat a thousand times. How much at step $t$ is set by one small number, $\beta_t$ (in code, `betas[i]` with $i = t - 1$). All steps together are the **forward process**, or diffusion process.

# %%
T = 1000
betas = torch.linspace(1e-4, 0.02, T)       # (T,) variances, the choice of Ho et al. 2020
x, film = digits[5:6], []                   # x: (1, 1, 28, 28)
for i, beta in enumerate(betas):
    if i % 100 == 0:
        film.append(x)
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
plots.show(torch.cat(film + [x]), title="One digit after 0, 100, 200, ..., 1000 steps")

# %% [markdown]
# **What the figure shows.** The digit fades into snow. After 300 steps one can still read it; after 500 an eye finds nothing of it.
#
# Here is the whole plan. The upper arrows are this section, the lower ones sections 1.6 to 1.10:

# %%
diagrams.chain(torch.cat([film[k] for k in (0, 2, 4, 6)] + [x]))

# %% [markdown]
# In terms of probability, each step draws $x_t$ from a Gaussian around $x_{t-1}$ times a number slightly below 1. We write $q$ for the distributions of the forward process, and $I$ says that every pixel gets its own noise:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\big(\sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big) \tag{1.4}$$
#
# The second argument is a variance, so the noise is multiplied by $\sqrt{\beta_t}$. **Why is the image multiplied by $\sqrt{1-\beta_t}$?** Suppose that a pixel of $x_{t-1}$, over all images, has variance $v$. The variances of independent numbers add, Gaussian or not, so
#
# $$\operatorname{Var}(x_t) = (1-\beta_t)\,v + \beta_t \tag{1.5}$$
#
# If $v = 1$, then $\operatorname{Var}(x_t) = 1$ again; and any other variance moves towards 1, because its distance to 1 is multiplied by $1-\beta_t$: subtract 1 on both sides to see it. Without the factor the variances would only add up. The next cell pools all pixels of 500 digits; the same rule holds for their pooled variance.

# %%
kept = grown = digits[:500]
for beta in betas:
    kept = (1 - beta).sqrt() * kept + beta.sqrt() * torch.randn_like(kept)
    grown = grown + beta.sqrt() * torch.randn_like(grown)
print(f"variance of the pixels: data {digits[:500].var():.2f}; after 1000 steps "
      f"{kept.var():.2f} with the factor, {grown.var():.2f} without")

# %% [markdown]
# With the factor, the variance ends at 1: the process is called *variance preserving*. Without it, the variance grows by the sum of the betas, here about 10.
#
# ## 1.4 Jumping straight to step t
#
# To train, we need $x_t$ at random $t$. **Can one draw of noise replace $t$ of them?** Run the process on 10,000 copies of one number, and look.

# %%
stepped = torch.full((10_000,), 2.0)                        # ten thousand copies of x0 = 2
for beta in betas[:300]:
    stepped = (1 - beta).sqrt() * stepped + beta.sqrt() * torch.randn_like(stepped)
print(f"after 300 steps: mean {stepped.mean():.3f}, "
      f"standard deviation {stepped.std():.3f}")

# %% [markdown]
# Both numbers can be computed without the steps. Write $\alpha_t = 1 - \beta_t$, let $\epsilon_1, \epsilon_2, \dots$ be independent draws from $\mathcal N(0, I)$, and take two steps at once:
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\,\epsilon_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t}_{\text{a sum of two independent Gaussians}} \tag{1.6}$$
#
# By (1.1) the sum is Gaussian with variance $\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}$. So two steps look exactly like one step with $\alpha_t\alpha_{t-1}$ in place of $\alpha_t$. This is the induction: if $t-1$ steps from $x_0$ look like one step with the product $\bar\alpha_{t-1} = \alpha_1\cdots\alpha_{t-1}$, the same line, with $x_0$ for $x_{t-2}$ and $\bar\alpha_{t-1}$ for $\alpha_{t-1}$, shows that $t$ steps look like one with $\bar\alpha_t = \bar\alpha_{t-1}\alpha_t$ because the new $\epsilon_t$ is independent of all earlier noise. So, down to $x_0$:
#
# $$q(x_t \mid x_0) = \mathcal N\!\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big), \qquad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \tag{1.7}$$
#
# Here $\epsilon$ is one new draw from $\mathcal N(0, I)$: the $x_t$ that it gives has the same *distribution* as the end of $t$ steps, not the same value. At $t = T$ the factor $\sqrt{\bar\alpha_T}$ is 0.0064. Whatever $x_0$ was, $x_T$ is practically a draw from $\mathcal N(0, I)$. Sampling will start there.

# %%
def q_sample(x0, i, eps, alpha_bar):
    """One draw from q(x_t | x_0).

    x0, eps: (B, ...), i: (B,) steps 0 ... T-1, alpha_bar: (T,)
    """
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))         # (B, 1, ..., 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

# %%
alpha_bar = torch.cumprod(1 - betas, dim=0)                 # (T,)
x0 = torch.full((10_000,), 2.0)
i = torch.full((10_000,), 299)
eps = torch.randn(10_000)
jumped = q_sample(x0, i, eps, alpha_bar)
a = alpha_bar[299]
print(f"formula: mean {2 * a.sqrt():.3f}, standard deviation {(1 - a).sqrt():.3f}")
print(f"factor on the image after all 1000 steps: {alpha_bar[-1].sqrt():.4f}")
plots.histogram([stepped, jumped], labels=["300 steps", "one jump"],
                title="The same distribution, 300 times cheaper",
                xlabel="x_300, started from x_0 = 2")

# %% [markdown]
# **What the figure shows.** The two histograms coincide up to chance, with the formula's mean and width.
#
# The library writes the same thing as a function of time in [0, 1], $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ with $\alpha(t) = \sqrt{\bar\alpha}$ and $\sigma(t) = \sqrt{1-\bar\alpha}$. Step index $i$ sits at $t = (i+1)/T$, so $t = 0$ is exactly the data. The next cell asserts that it agrees.

# %%
schedule = Schedule.from_betas(betas)
x0 = digits[:3]
i = torch.tensor([0, 299, 999])
eps = torch.randn(3, 1, 28, 28)
torch.testing.assert_close(schedule.perturb(x0, (i + 1) / T, eps),
                           q_sample(x0, i, eps, alpha_bar), atol=1e-4, rtol=0)
print("course_lib.Schedule agrees")

# %% [markdown]
# How much of the data is left is best told by one number, the **signal-to-noise ratio** (SNR) of variances (for data of variance 1):
#
# $$\mathrm{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t} \tag{1.8}$$
#
# It falls from infinity to nearly 0, so one plots its logarithm: positive while the signal is stronger, 0 where both are equal.
#
# **Fewer steps.** Nothing in (1.6) needs neighbouring steps. Keep the noise levels $s < t$ alone and forget those between them: by (1.7) the jump from $x_s$ to $x_t$ multiplies by $\sqrt{\bar\alpha_t/\bar\alpha_s}$ and adds noise, so it is one step of a process with
#
# $$\beta' = 1 - \frac{\bar\alpha_t}{\bar\alpha_s} \tag{1.37}$$
#
# Any subsequence of the levels is a diffusion process of its own, with the same $q(x_t\mid x_0)$ at the levels it keeps. So one network can be run with 100 steps or with 4, as below.
#
# **What does noise do to a whole distribution?** It blurs it. For the spiral we can say exactly how. Its distribution, $q(x_0)$, is a mixture of Gaussians with weights $w_k$, means $m_k$ and variance $s^2$; by (1.1) each of them stays a Gaussian:
#
# $$q(x_t) = \int q(x_t \mid x_0)\,q(x_0)\,dx_0 = \sum_k w_k\,\mathcal N\!\big(x_t;\ \sqrt{\bar\alpha_t}\,m_k,\ (\bar\alpha_t s^2 + 1 - \bar\alpha_t) I\big) \tag{1.9}$$

# %%
at = lambda t: {"alpha": schedule.alpha(t), "sigma": schedule.sigma(t)}
panels = {}
for t in (0.02, 0.1, 0.2, 0.5):
    name = f"t = {t}, log SNR {schedule.log_snr(t):.1f}"
    panels[name] = lambda x, t=t: spiral.log_prob(x, **at(t))
plots.densities(panels, title="The exact density of x_t")

# %% [markdown]
# **What the figure shows.** The arms widen and merge, from the inside outwards, while their centre line shrinks towards the middle; at t = 0.5 hardly anything tells it from $\mathcal N(0, I)$.
#
# **And a digit: at which noise level does it become unreadable?** Move the slider.

# %%
one_noise = torch.randn(1, 1, 28, 28)
widgets.noise_explorer(digits[5:6], one_noise, schedule)

# %% [markdown]
# **What the figure shows.** At t = 0.5 the digit is multiplied by 0.28 and hardly readable; the other half of the steps work on what looks like snow.
#
# ## 1.5 Noise schedules
#
# A **noise schedule** is the choice of the betas, or, which is the same, of the curve $\bar\alpha_t$. Four are in wide use. **Linear** (Ho et al. 2020) draws the betas in a straight line, for $T = 1000$:
#
# $$\beta_t = 10^{-4} + \frac{t-1}{T-1}\,(0.02 - 10^{-4}) \tag{1.10}$$
#
# **Cosine** (Nichol & Dhariwal 2021) chooses the curve and computes the betas from it. The 0.008 was chosen so that $\sqrt{\beta_1}$ lies just below one level of the 8-bit pixels, 1/127.5: with less noise near $t = 0$ the noise is hard to predict. No beta may exceed 0.999:
#
# $$\bar\alpha_t = \frac{f(t/T)}{f(0)}, \quad f(u) = \cos^2\!\Big(\frac{u + 0.008}{1.008}\cdot\frac\pi2\Big), \qquad \beta_t = \min\Big(1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}},\ 0.999\Big) \tag{1.11}$$
#
# **Sigmoid** (Jabri et al. 2022) does the same with a part of the curve $\operatorname{sig}(z) = 1/(1 + e^{-z})$:
#
# $$\bar\alpha_t = \frac{g(t/T)}{g(0)}, \quad g(u) = \operatorname{sig}(3 - 6u) - \operatorname{sig}(-3) \tag{1.12}$$
#
# Both curves end at 0. The cap changes the last step alone, so that a little is left. **Scaled linear** is Stable Diffusion's: $\sqrt{\beta_t}$ runs in a straight line from $\sqrt{0.00085}$ to $\sqrt{0.012}$. It ends early, with $\sqrt{\bar\alpha_T} = 0.068$.

# %%
schedules = {"linear": schedule, "cosine": Schedule.cosine(),
             "sigmoid": Schedule.sigmoid(), "scaled linear": Schedule.scaled_linear()}
f = lambda u: torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
u = torch.arange(T + 1, dtype=torch.float64) / T
torch.testing.assert_close((1 - f(u[1:]) / f(u[:-1])).clamp(max=0.999),
                           schedules["cosine"].betas)

ts = torch.linspace(0.005, 1, 200)
plots.curves(ts, {name: s.log_snr(ts) for name, s in schedules.items()}, ylim=(-17, 10),
             title="Four schedules", xlabel="t (0 = data, 1 = noise)", ylabel="log SNR")
drowned = {}
for name, s in schedules.items():
    noisy = [s.perturb(digits[5:6], t, one_noise) for t in torch.linspace(0.1, 1, 10)]
    drowned[name] = torch.cat(noisy)
plots.show(drowned, title="One digit at t = 0.1, 0.2, ..., 1")

# %% [markdown]
# **What the figures show.** The linear schedule hurries: at t = 0.26 the log SNR has fallen to 0, where cosine and sigmoid wait until 0.5. Its second half looks like nothing but snow. Scaled linear lies between them for most of the way, and stops at a log SNR of -5.
#
# **Does it matter for samples?** The same network, trained under each schedule for as many steps, with two seeds (`python benchmarks/schedules.py`). The distance of the samples to real digits is explained in 1.12; smaller is better, and the last row has as many real digits. *Clipped*: in each step the predicted image is cut to [-1, 1], as most programs do.

# %%
with open(storage.ASSETS / "schedules.csv") as file:
    trained = [row for row in csv.DictReader(file) if row["target"] in ("eps", "none")]
rows = {}
for column, kind in {"distance": "clipped", "distance_unclipped": "as it is"}.items():
    for row in trained:
        value = float(row[column]) if row[column] else None
        rows.setdefault(row["schedule"], {})[f"{kind}, seed {row['seed']}"] = value
tables.table(rows, ".1f", index="schedule", caption="Distance to real digits, "
             f"{trained[0]['steps']} updates, n = {trained[0]['n']}")

# %% [markdown]
# **What the table shows.** Clipped, all four are far from real digits after so short a training. Scaled linear scores lowest with both seeds; the two seeds of a schedule differ by 0.1 to 0.6. As they are, cosine and sigmoid *fail*: nearly all samples are read as one digit (the file's `most_frequent_unclipped`). Their last levels hold next to no signal, and an error in the predicted noise is divided by $\sqrt{\bar\alpha_t}$ there, as 1.9 derives. Clipping repairs it.
#
# ### Where is the information destroyed, and what does the end cost? · deeper
#
# Ask an **ideal observer**: someone who has 10,000 digits and is shown one of them with noise. By Bayes' rule, all being equally likely beforehand and noise being Gaussian, the **posterior** probability that it was number $n$ is
#
# $$p(n \mid x_t) = \frac{\exp(-d_n)}{\sum_m \exp(-d_m)}, \qquad d_n = \frac{\|x_t - \sqrt{\bar\alpha_t}\,x^{(n)}\|^2}{2(1-\bar\alpha_t)} \tag{1.13}$$
#
# The uncertainty that is left is the **entropy** $-\sum_n p \log_2 p$. It is 0 bits when the observer is sure, and $\log_2 10{,}000 = 13.3$ bits when nothing is known any more.

# %%
memory = digits[:10_000].flatten(1)                         # (10000, 784)

def posterior_over(memory, x, a):
    """p(n | x_t) for each stored image.   x: (B, 784), a: alpha_bar_t -> (B, N)"""
    distance = torch.cdist(x, a.sqrt() * memory) ** 2       # (B, N)
    return torch.softmax(-distance / (2 * (1 - a)), dim=1)

def entropy(p):
    """The entropy of each row in bits, averaged over the rows.   p: (B, N)"""
    return -(p * p.clamp(min=1e-30).log2()).sum(1).mean()

# %%
levels = torch.linspace(6, -12, 37)
bits, bits_class = [], []
for level in levels:
    a = torch.sigmoid(level)                # the alpha_bar with this log SNR
    noisy = a.sqrt() * memory[:64] + (1 - a).sqrt() * torch.randn(64, 784)
    p = posterior_over(memory, noisy, a)                    # (64, 10000)
    by_class = [p[:, labels[:10_000] == k].sum(1) for k in range(10)]
    bits.append(entropy(p))
    bits_class.append(entropy(torch.stack(by_class, dim=1)))
plots.curves(levels, {"which of 10,000 images": torch.stack(bits),
                      "which of 10 digits": torch.stack(bits_class)},
             title="What the ideal observer does not know",
             xlabel="log SNR (noise grows to the left)",
             ylabel="entropy in bits (64 images)")

# %%
rows = {}
for name, s in schedules.items():
    start, end = s.t_from_log_snr(0.0), s.t_from_log_snr(-6.0)
    rows[name] = {"from t": start, "to t": end, "fraction of the steps": end - start}
tables.table(rows, {"from t": ".2f", "to t": ".2f", "fraction of the steps": ".0%"},
             index="schedule", caption="Steps spent between log SNR 0 and -6")

# %% [markdown]
# **What the figure shows.** Down to log SNR 0, where image and noise are multiplied by the same number, the ideal observer still knows which image it was: 784 pixels help each other. Nearly all of it is lost between 0 and -6, where linear, cosine and sigmoid spend about half of their steps; linear spends another quarter below -6, cosine and sigmoid almost nothing. And which *digit* it was goes between -1.5 and -5, most of it near -3. Above log SNR 0 this observer has nothing left to find out. Larger images have more pixels to help each other, and need more noise still.
#
# **What does the end of the schedule cost?** Sampling starts from the **prior** $\mathcal N(0, I)$, but the forward process ends at $q(x_T \mid x_0)$. By (1.3), with $d$ pixels, the mismatch is
#
# $$\mathrm{KL}\big(q(x_T\mid x_0)\,\|\,\mathcal N(0, I)\big) = \tfrac12\Big(\bar\alpha_T\|x_0\|^2 - d\,\bar\alpha_T - d\log(1-\bar\alpha_T)\Big) \tag{1.14}$$

# On average over the data, (1.14) is the divergence of $q(x_T)$ itself from the prior, plus what $x_T$ still tells of $x_0$ (their mutual information). So it is an *upper bound* of the mismatch that sampling suffers.

# %%
def prior_mismatch(x0, a):
    """KL(q(x_T | x_0) || N(0, I)) in bits, averaged over images.

    x0: (N, d), a: alpha_bar_T
    """
    d = x0.shape[1]
    nats = 0.5 * (a * x0.square().sum(1).mean() - d * a - d * torch.log1p(-a))
    return nats / math.log(2)

too_short = Schedule.from_betas(torch.linspace(1e-4, 0.02, 100))
rows = {}
for name, s in (schedules | {"linear betas, but T = 100": too_short}).items():
    a = s.alpha(1.0) ** 2
    rows[name] = {"alpha_bar_T": a, "mismatch in bits": prior_mismatch(memory, a)}
tables.table(rows, ".1e", index="schedule",
             caption="Mismatch (1.14) of x_T and N(0, I), mean of 10,000 digits")

# %% [markdown]
# Linear, cosine and sigmoid leave next to nothing, scaled linear a little. The last row is a classic mistake: the same betas with a tenth of the steps. A third of the signal's variance is still there, and the network was never trained on the noise that sampling starts from. For this reason `Schedule.linear(T)` multiplies the betas by $1000/T$. Try other ends for the linear schedule:

# %%
widgets.schedule_explorer(digits[5:6], one_noise)

# %% [markdown]
# **What the figure shows.** A last beta of 0.005 stops too early, with the image at 0.28 of its strength: the eye hardly sees it, but the ideal observer still knows more than half: only 5 of the 13.3 bits are gone. And 0.05 arrives long before the end and spends most of its steps on snow.
#
# ## 1.6 Why there is a way back: the reverse process
#
# Sampling is the **reverse process**, from $x_T$ to $x_0$. **If each forward step is a Gaussian, is each reverse step one, too?** Bayes' rule gives the exact reverse step:
#
# $$q(x_{t-1} \mid x_t) = \frac{q(x_t \mid x_{t-1})\; q(x_{t-1})}{q(x_t)} \tag{1.15}$$
#
# For bimodal data, with two modes (bumps) on a line, we can compute it. One large step, one smaller and one small, all arriving at the same position, between the modes:

# %%
bimodal = data.GaussianMixture([[-1.0], [1.0]], stds=0.3)
y = torch.linspace(-2, 2, 801)                              # values of x_{t-1}
panels, x_t = {}, torch.tensor(0.15)
for beta in torch.tensor([0.7, 0.2, 0.01]):
    log_forward = log_density(x_t, (1 - beta).sqrt() * y, beta)
    log_q = log_forward + bimodal.log_prob(y[:, None]).float()                  # (1.15)
    p = torch.softmax(log_q, 0)                             # each value's probability
    mean = (p * y).sum()
    variance = (p * (y - mean) ** 2).sum()
    gaussian = log_density(y, mean, variance).exp()
    panels[f"beta = {beta:.2f}"] = {"exact": p / (y[1] - y[0]),
                                    "Gaussian, same mean and variance": gaussian}
plots.panels(y, panels, title="One reverse step", xlabel="x_{t-1}, given x_t = 0.15",
             ylabel="density")

# %% [markdown]
# **What the figures show.** After a step of 0.7, and even of 0.2, $x_{t-1}$ may have been in either mode, and no single Gaussian has two. After a small step the exact density is nearly a Gaussian. Here is why. As a function of $y = x_{t-1}$, the factor $q(x_t\mid y)$ is a Gaussian around $c = x_t/\sqrt{\alpha_t}$ with variance $\beta_t/\alpha_t$. If it is narrow, $\log q_{t-1}(y)$, the log-density of $x_{t-1}$, is practically a straight line across it: $\log q_{t-1}(y) \approx \log q_{t-1}(c) + (y-c)\cdot h$ with the slope $h = \nabla\log q_{t-1}(c)$. A Gaussian times the exponential of a straight line is the same Gaussian, moved: completing the square in $-\tfrac{\alpha_t}{2\beta_t}\|y-c\|^2 + (y-c)\cdot h$ gives
#
# $$q(x_{t-1} \mid x_t) \approx \mathcal N\Big(\frac{x_t}{\sqrt{\alpha_t}} + \frac{\beta_t}{\alpha_t}\,\nabla\log q_{t-1}\Big(\frac{x_t}{\sqrt{\alpha_t}}\Big),\ \frac{\beta_t}{\alpha_t} I\Big) \qquad\text{for small } \beta_t \tag{1.16}$$

# %%
centre = x_t / (1 - beta).sqrt()                            # beta = 0.01 still
slope = bimodal.score(centre.view(1, 1))[0, 0]
rows = {"exact": {"mean": mean, "variance": variance},
        "(1.16)": {"mean": centre + beta / (1 - beta) * slope,
                   "variance": beta / (1 - beta)}}
tables.table(rows, {"mean": ".4f", "variance": ".5f"},
             caption="The reverse step from x_t = 0.15, with beta = 0.01")

# %% [markdown]
# They differ a little because $\log q$ is not quite straight across the Gaussian. $\beta_t$ is small *enough* if $\log q_{t-1}$ hardly bends over a width of $\sqrt{\beta_t}$.
#
# So a thousand small steps make each reverse step *simple*: only its mean has to be learned. The slope $\nabla\log q$ is called the **score**; it points to where data is denser, and we meet it again in 1.9.
#
# ## 1.7 The posterior: the reverse step, if we knew the data
#
# The score of all digits is unknown. But if we knew $x_0$, the reverse step would be a formula. Bayes' rule once more: $q(x_{t-1} \mid x_t, x_0) \propto q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)$, where factors without $x_{t-1}$ are left out. Here $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$, because a forward step depends only on the image before it: the process is a **Markov chain**. As a function of $x_{t-1}$, the first factor is a Gaussian around $x_t/\sqrt{\alpha_t}$ with variance $\beta_t/\alpha_t$, and the second, by (1.7), one around $\sqrt{\bar\alpha_{t-1}}\,x_0$ with variance $1-\bar\alpha_{t-1}$. Multiply them by (1.2). The inverse variances add:
#
# $$\frac1{\tilde\beta_t} = \frac{\alpha_t}{\beta_t} + \frac1{1-\bar\alpha_{t-1}} = \frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}, \qquad \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t \tag{1.17}$$
#
# (the numerator is $\alpha_t - \bar\alpha_t + 1 - \alpha_t$, with $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and $\beta_t = 1 - \alpha_t$), and the mean is
#
# $$\tilde\mu_t = \tilde\beta_t\Big(\frac{\alpha_t}{\beta_t}\cdot\frac{x_t}{\sqrt{\alpha_t}} + \frac{\sqrt{\bar\alpha_{t-1}}\,x_0}{1-\bar\alpha_{t-1}}\Big) = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 \tag{1.18}$$
#
# So this **posterior of the forward process** is $q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu_t, \tilde\beta_t I)$, Gaussian for *every* size of step. (For $t = 1$ take $\bar\alpha_0 = 1$, the empty product: then $\tilde\beta_1 = 0$ and $\tilde\mu_1 = x_0$, as it must be.)

# %%
before = torch.cat([torch.ones(1), alpha_bar[:-1]])     # alpha_bar_{t-1}; alpha_bar_0 = 1
beta_tilde = betas * (1 - before) / (1 - alpha_bar)                             # (1.17)

def mu_tilde(x, x0, i):
    """(1.18)"""
    on_x = (1 - betas[i]).sqrt() * (1 - before[i]) / (1 - alpha_bar[i])
    on_x0 = before[i].sqrt() * betas[i] / (1 - alpha_bar[i])
    return on_x * x + on_x0 * x0

x0, x = digits[:2], digits[2:4]
mean, variance = DDPM(None, betas).q_posterior(x0, x, torch.tensor([299, 299]))
torch.testing.assert_close(mu_tilde(x, x0, 299), mean, atol=1e-4, rtol=0)
plots.curves(torch.arange(1, T + 1),
             {"beta, forward": betas, "beta tilde, reverse": beta_tilde},
             xscale="log", yscale="log", xlabel="step t", ylabel="variance",
             title="Variance of a forward step, and of a reverse step if the data is known")

# %% [markdown]
# **What the figure shows.** After some fifty steps the two are the same to the eye: knowing $x_0$ narrows the reverse step only when $x_t$ is almost $x_0$ itself.
#
# ## 1.8 What to learn: the variational bound, from beginning to end
#
# We want a model $p_\theta$ with weights $\theta$ that gives our data a high probability. The model is a Markov chain that starts in pure noise and takes Gaussian reverse steps, each with a mean from a network and a fixed variance. The paper calls that variance $\sigma_t^2$ (in this section only; the library's `sigma(t)` is something else):
#
# $$p_\theta(x_{0:T}) = p(x_T)\prod_{t=1}^T p_\theta(x_{t-1}\mid x_t), \qquad p(x_T) = \mathcal N(0, I), \qquad p_\theta(x_{t-1}\mid x_t) = \mathcal N\big(\mu_\theta(x_t, t),\ \sigma_t^2 I\big) \tag{1.19}$$
#
# Here $x_{0:T}$ stands for all of $x_0, \dots, x_T$. The model's probability of $x_0$ is an integral over all **trajectories** that end there: hopeless to compute, easy to bound. Divide and multiply by $q(x_{1:T}\mid x_0)$, the probability of the forward trajectory; the integral becomes an average over forward trajectories, and since $-\log$ is convex, $-\log$ of an average is at most the average of $-\log$ (Jensen's inequality):
#
# $$-\log p_\theta(x_0) = -\log \mathbb E_{q(x_{1:T}\mid x_0)}\bigg[\frac{p_\theta(x_{0:T})}{q(x_{1:T}\mid x_0)}\bigg] \le \mathbb E_{q(x_{1:T}\mid x_0)}\bigg[\log\frac{q(x_{1:T}\mid x_0)}{p_\theta(x_{0:T})}\bigg] =: L \tag{1.20}$$
#
# This $L$ is the **variational bound**; $-L$ is called the evidence lower bound, **ELBO**. To compute $L$, write the forward process *backwards*. For $t \ge 2$, Bayes' rule says $q(x_t\mid x_{t-1}) = q(x_{t-1}\mid x_t, x_0)\,q(x_t\mid x_0)/q(x_{t-1}\mid x_0)$. In the product over $t$ the fractions cancel like a telescope, $\frac{q(x_2\mid x_0)}{q(x_1\mid x_0)}\cdot\frac{q(x_3\mid x_0)}{q(x_2\mid x_0)}\cdots$, and with the first factor $q(x_1\mid x_0)$ there remains
#
# $$q(x_{1:T}\mid x_0) = \prod_{t=1}^T q(x_t\mid x_{t-1}) = q(x_T\mid x_0)\prod_{t=2}^T q(x_{t-1}\mid x_t, x_0) \tag{1.21}$$
#
# Put (1.19) and (1.21) into (1.20) and sort the logarithms by step:
#
# $$L = \mathbb E_q\bigg[\log\frac{q(x_T\mid x_0)}{p(x_T)} + \sum_{t=2}^T\log\frac{q(x_{t-1}\mid x_t,x_0)}{p_\theta(x_{t-1}\mid x_t)} - \log p_\theta(x_0\mid x_1)\bigg]$$
#
# In each term of the sum, average over $x_{t-1}$ first, given $x_t$ and $x_0$: that is a divergence. So
#
# $$L = \underbrace{\mathrm{KL}\big(q(x_T\mid x_0)\,\|\,p(x_T)\big)}_{L_T} + \sum_{t=2}^T \underbrace{\mathbb E_{q(x_t\mid x_0)}\,\mathrm{KL}\big(q(x_{t-1}\mid x_t,x_0)\,\|\,p_\theta(x_{t-1}\mid x_t)\big)}_{L_{t-1}} \underbrace{-\,\mathbb E_{q(x_1\mid x_0)}\log p_\theta(x_0\mid x_1)}_{L_0} \tag{1.22}$$
#
# $L_T$ compares $x_T$ with pure noise, as (1.14) does, and nothing in it can be learned. Each $L_{t-1}$ compares two Gaussians, the posterior, which is given $x_0$, and the model's reverse step. By (1.3), with $d$ pixels,
#
# $$L_{t-1} = \mathbb E\bigg[\frac{\|\tilde\mu_t - \mu_\theta\|^2}{2\sigma_t^2}\bigg] + \frac d2\Big(\log\frac{\sigma_t^2}{\tilde\beta_t} + \frac{\tilde\beta_t}{\sigma_t^2} - 1\Big) \tag{1.23}$$
#
# Only the first part can be learned. The mean to be hit, (1.18), contains the known $x_t$ and the unknown $x_0$; so the network may as well predict $x_0$ alone: let $\mu_\theta$ be (1.18) with the prediction $\hat x_0$ in place of $x_0$. Then $\tilde\mu_t - \mu_\theta = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}(x_0 - \hat x_0)$, and for $t \ge 2$ with $\sigma_t^2 = \tilde\beta_t$ the first part is
#
# $$\frac{\bar\alpha_{t-1}\beta_t^2}{(1-\bar\alpha_t)^2}\cdot\frac{1-\bar\alpha_t}{2\,(1-\bar\alpha_{t-1})\,\beta_t}\,\|x_0-\hat x_0\|^2 = \tfrac12\big(\mathrm{SNR}(t-1) - \mathrm{SNR}(t)\big)\,\|x_0 - \hat x_0\|^2 \tag{1.24}$$
#
# (bring $\frac{\bar\alpha_{t-1}}{1-\bar\alpha_{t-1}} - \frac{\bar\alpha_t}{1-\bar\alpha_t}$ over one denominator: its numerator is $\bar\alpha_{t-1} - \bar\alpha_t = \bar\alpha_{t-1}\beta_t$). $L_0$ is a denoising error, too: at $t = 1$, $\mu_\theta = \hat x_0$, and minus the logarithm of the Gaussian is $\|x_0-\hat x_0\|^2/2\sigma_1^2 + \frac d2\log 2\pi\sigma_1^2$. So the bound is a sum of *denoising errors*, each weighted by the signal that this step destroys. A network may as well predict the noise; call its prediction $\epsilon_\theta(x_t, t)$. By (1.7) $x_0 - \hat x_0 = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}\;(\epsilon_\theta - \epsilon)$, and for any $\sigma_t^2$
#
# $$\frac{\|\tilde\mu_t - \mu_\theta\|^2}{2\sigma_t^2} = \frac{\beta_t^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}\,\|\epsilon - \epsilon_\theta(x_t, t)\|^2 \tag{1.25}$$
#
# Ho et al. found that samples get *better* if this weight is dropped, and every step counts the same:
#
# $$L_{\text{simple}} = \mathbb E_{x_0,\,t,\,\epsilon}\,\big\|\epsilon - \epsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\ t\big)\big\|^2 \tag{1.26}$$
#
# This is no longer the bound but a *reweighted* one: the weight in (1.25) is by far the largest at the first steps, where the noise is too fine to see. Ho et al. conjecture that dropping it lets the network work on the harder levels; lesson 3 compares weightings. Code divides by the number of pixels, so that a prediction of 0 costs 1.
#
# ### Does the bound hold? · deeper
#
# For pictures of 256 grey levels Ho et al. replace $L_0$ by a *discretised decoder*: the probability of a pixel value is the Gaussian's mass over its bin. That makes $L$ a code length in bits, which lesson 3 counts. Here the data are real numbers.
#
# On the bimodal data the best possible network is known, and so is $-\log q(x_0)$. So compute every term, with the two variances that are in use, $\sigma_t^2 = \tilde\beta_t$ and $\sigma_t^2 = \beta_t$, and add them up. For $t = 1$, where $\tilde\beta_1 = 0$, both use $\beta_1$. The averages are taken over a fine grid of values of $x_0$ and $\epsilon$, so that no random error hides anything. On average over the data, no model's $-\log p_\theta(x_0)$ is below $-\log q(x_0)$, since the difference is a divergence; so the average of $L$ lies above both, and the gap is what the bound and the model lose together. Densities of continuous data may exceed 1, so single terms may be negative.

# %%
x0, eps = torch.meshgrid(torch.linspace(-2.5, 2.5, 101).double(),
                         torch.linspace(-5, 5, 51).double(), indexing="ij")
x0, eps = x0.reshape(-1, 1), eps.reshape(-1, 1)             # (5151, 1) each: every pair
# (5151,) the probability of each pair
weight = torch.softmax(bimodal.log_prob(x0) - 0.5 * eps[:, 0] ** 2, 0)
average = lambda values: (weight * values[:, 0]).sum()

# %%
def bound(betas, variance):
    """All terms of (1.22) for the exact denoiser, in nats.

    betas, variance: (T,) -> L_0, ..., L_T: (T + 1,)
    """
    a, terms = torch.cumprod(1 - betas, dim=0), []
    before = torch.cat([torch.ones(1), a[:-1]])
    ratio = betas * (1 - before) / (1 - a) / variance       # beta_tilde / sigma^2
    constant = ratio - 1 - ratio.log()
    constant[0] = (2 * math.pi * variance[0]).log()         # of L_0
    for i in range(len(betas)):
        x = a[i].sqrt() * x0 + (1 - a[i]).sqrt() * eps
        x0_hat = bimodal.posterior_mean(x, a[i].sqrt(), (1 - a[i]).sqrt())
        error = before[i].sqrt() * betas[i] / (1 - a[i]) * (x0 - x0_hat)
        term = average(error**2) / (2 * variance[i]) + 0.5 * constant[i]        # (1.23)
        terms.append(term)
    prior = average(kl(a[-1].sqrt() * x0, 1 - a[-1], 0, torch.tensor(1)))
    return torch.stack(terms + [prior])

# %%
exact = average(-bimodal.log_prob(x0)[:, None])
rows = []
for steps in (10, 100, 1000):
    # every (1000/steps)-th alpha_bar, and the betas between them
    a = alpha_bar[T // steps - 1::T // steps].double()
    before = torch.cat([torch.ones(1), a[:-1]])
    coarse = 1 - a / before
    tilde = coarse * (1 - before) / (1 - a)
    variances = {"beta tilde": torch.cat([coarse[:1], tilde[1:]]), "beta": coarse}
    for name, variance in variances.items():
        L = bound(coarse, variance)
        rows.append({"T": steps, "variance": name, "L_0": L[0],
                     "L_1 + ... + L_T-1": L[1:-1].sum(), "L_T": L[-1],
                     "their sum L": L.sum(), "-log q(x_0)": exact})
tables.table(rows, {"L_0": ".3f", "L_1 + ... + L_T-1": ".3f", "L_T": ".5f",
                    "their sum L": ".3f", "-log q(x_0)": ".3f"},
             caption="The variational bound, in nats, averaged over the data")

# %% [markdown]
# The bound holds in every row, and with more steps and $\sigma_t^2 = \beta_t$ it comes within 0.004 nats of the truth (a nat is the unit of natural logarithms, 1.44 bits), as (1.16) promised: the smaller the step, the nearer the true reverse step is to a Gaussian of variance $\beta_t/\alpha_t$. With $\tilde\beta_t$ it stays further away: that is the variance *given* $x_0$, which the model is not given. Exercise 1.10 finds the best variance for Gaussian data.

# %% [markdown]
# ## 1.9 Three names for one thing
#
# A network that predicts the noise (**epsilon-prediction**), one that predicts the image (**x0-prediction**), and one that predicts the score are three **parameterisations** of the same thing. Noise and image are tied by (1.7):
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}} \tag{1.27}$$
#
# **What is the best possible prediction?** Many pairs of image and noise lead to the same $x_t$, so no prediction is always right. Fix $x_t$ and a prediction $g$, and write $m = \mathbb E[\epsilon \mid x_t]$ for the average of the noise over all those pairs. Then
#
# $$\mathbb E\big[\|\epsilon - g\|^2 \,\big|\, x_t\big] = \mathbb E\big[\|\epsilon - m\|^2 \,\big|\, x_t\big] + \|m - g\|^2 \tag{1.28}$$
#
# To see it, write $\epsilon - g = (\epsilon - m) + (m - g)$ and multiply out: the mixed term is $2\,(m-g)\cdot\mathbb E[\epsilon - m \mid x_t]$, and $\epsilon - m$ has average zero. The first part does not depend on $g$; the second is smallest at $g = m$. So a perfect network returns the *average* noise, and, (1.27) being linear, with it the average clean image $\mathbb E[x_0\mid x_t]$: a weighted average of all digits that could be behind this noise, and therefore a blur.
#
# **And the score?** Differentiate the density (1.9) of $x_t$ under its integral. The gradient of $q(x_t\mid x_0)$ is $q(x_t\mid x_0)$ times $-(x_t - \sqrt{\bar\alpha_t}\,x_0)/(1-\bar\alpha_t)$, and that fraction is $-\epsilon/\sqrt{1-\bar\alpha_t}$. Divide by $q(x_t)$; then $q(x_t\mid x_0)\,q(x_0)/q(x_t) = q(x_0\mid x_t)$, and the integral is an average given $x_t$:
#
# $$\nabla\log q(x_t) = \frac{\nabla q(x_t)}{q(x_t)} = -\frac{\mathbb E[\epsilon\mid x_t]}{\sqrt{1-\bar\alpha_t}} \tag{1.29}$$
#
# Put it into (1.27), averaged given $x_t$, and you have **Tweedie's formula**:
#
# $$\mathbb E[x_0\mid x_t] = \frac{x_t + (1-\bar\alpha_t)\,\nabla\log q(x_t)}{\sqrt{\bar\alpha_t}} \tag{1.30}$$
#
# To remove noise, climb towards denser data. For a mixture this average can be written down, since given that $x_0$ belongs to component $k$ everything is Gaussian. As a function of $x_0$ it is a Gaussian around $m_k$ with variance $v_1 = s^2$, times one around $x_t/\sqrt{\bar\alpha_t}$ with variance $v_2 = (1-\bar\alpha_t)/\bar\alpha_t$; and the mean in (1.2) can be written $m_1 + \frac{v_1}{v_1+v_2}(m_2-m_1)$. Insert, and average over the components:
#
# $$\mathbb E[x_0\mid x_t] = \sum_k p(k\mid x_t)\Big(m_k + \frac{\sqrt{\bar\alpha_t}\,s^2}{\bar\alpha_t s^2 + 1 - \bar\alpha_t}\,\big(x_t - \sqrt{\bar\alpha_t}\,m_k\big)\Big) \tag{1.31}$$
#
# where $p(k\mid x_t)$ is component $k$'s fraction of the sum (1.9). This is the denoiser that drew the spiral in 1.1. Tweedie's formula must give the same; autograd differentiates the density:

# %%
t = 0.3
x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
score, = torch.autograd.grad(spiral.log_prob(x, **at(t)).sum(), x)
tweedie = (x + schedule.sigma(t) ** 2 * score) / schedule.alpha(t)              # (1.30)
torch.testing.assert_close(tweedie, spiral.denoiser(schedule)(x.detach(), t))   # (1.31)
print("Tweedie's formula and the mixture's exact denoiser agree")

# %% [markdown]
# ## 1.10 A DDPM, written out
#
# We have a loss, (1.26), and a reverse step, (1.17) and (1.18) with the network's prediction of $x_0$. All $T$ reverse steps, one after the other, are **ancestral sampling**. Three functions, and `q_sample` from above, are a complete DDPM:

# %%
def p_losses(net, x0, i, eps, alpha_bar):
    """The simple loss, (1.26): the mean squared error of the predicted noise.   -> (B,)"""
    t = (i + 1) / len(alpha_bar)                # the network is given t in (0, 1]
    return (net(q_sample(x0, i, eps, alpha_bar), t) - eps).square().flatten(1).mean(1)

# %%
@torch.no_grad()
def p_sample(net, x, i, z, betas):
    """One reverse step, from x_t to x_{t-1}, with t = i + 1.

    x, z: (B, ...), i: 0 ... T-1
    """
    alpha_bar = torch.cumprod(1 - betas, dim=0)
    beta, a = betas[i], alpha_bar[i]
    before = alpha_bar[i - 1] if i > 0 else torch.tensor(1.0)
    t = torch.full((len(x),), (i + 1) / len(betas), device=x.device)
    x0_hat = (x - (1 - a).sqrt() * net(x, t)) / a.sqrt()                        # (1.27)
    mean = (1 - beta).sqrt() * (1 - before) * x + before.sqrt() * beta * x0_hat
    mean = mean / (1 - a)                                                       # (1.18)
    return mean + (beta * (1 - before) / (1 - a)).sqrt() * z                    # (1.17)

def p_sample_loop(net, x, betas, generator):
    """From noise x_T to x_0."""
    for i in reversed(range(len(betas))):
        z = torch.randn(x.shape, generator=generator).to(x.device)
        x = p_sample(net, x, i, z, betas)
    return x

# %% [markdown]
# The variance is $\tilde\beta_t$. Ho et al. found samples with $\beta_t$ alike, and $\tilde\beta_t$ needs no special last step: at $i = 0$ it is 0, no noise is added, and the network's prediction of the clean data is returned. Much code clips $\hat x_0$ to [-1, 1] in every step, the range of the data; lesson 4 looks at when that helps.
#
# **First on the spiral**, where we know what is right. The network is a small one: it takes a point and some sinusoids of the point and of $\sqrt t$ (a **positional encoding**), and predicts the noise. The training is the whole recipe: draw a **batch** of data, times and noise; compute the loss; step downhill.

# %%
class PointNet(nn.Module):
    """x: (B, 2), t: (B,) in [0, 1] -> (B, 2)"""

    def __init__(self, hidden=192):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 + 8 + 12, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 2))

    def forward(self, x, t):
        of_x = torch.cat([2 * x, 5 * x], dim=1)             # (B, 4)
        frequencies = torch.tensor([0.5, 1, 2, 4, 8, 16])
        of_t = t[:, None].sqrt() * torch.pi * frequencies   # (B, 6)
        angles = torch.cat([of_x, of_t], dim=1)             # (B, 10)
        return self.layers(torch.cat([x, angles.sin(), angles.cos()], dim=1))

# %%
points, point_net, losses = spiral.sample(20_000), PointNet(), []
updates = 3000
optimizer = torch.optim.AdamW(point_net.parameters(), lr=4e-3, fused=True)
# the learning rate falls to 0 in a straight line
decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / updates)
for _ in range(updates):
    x0 = points[torch.randint(len(points), (512,))]         # (512, 2) one batch
    i = torch.randint(T, (512,))
    loss = p_losses(point_net, x0, i, torch.randn_like(x0), alpha_bar).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
    losses.append(loss.item())
print(f"loss of the last 500 updates: {sum(losses[-500:]) / 500:.3f}")

# %% [markdown]
# **Is that good?** A loss means nothing until one knows the smallest possible one. By (1.28) the exact denoiser pays it, so compute both at every noise level. Then draw arrows from noisy points to the predictions.

# %%
learned = Denoiser(point_net, schedule, target="eps")
x0, eps = spiral.sample(20_000, seed=1), torch.randn(20_000, 2)
i = torch.arange(T).repeat(20)                              # every step, twenty times
t = (i + 1) / T
x = q_sample(x0, i, eps, alpha_bar)
with torch.no_grad():
    ours = (point_net(x, t) - eps).square().mean(1)
    best_eps = -schedule.sigma(t)[:, None] * spiral.score(x, **at(t))           # (1.29)
best = (best_eps - eps).square().mean(1)
by_level = lambda loss: loss.view(20, 50, 20).mean((0, 2))  # fifty groups of twenty steps
means = f"means: {ours.mean():.3f} and {best.mean():.3f}; n = 20,000"
plots.curves(t[:T:20], {"trained network": by_level(ours),
                        "exact denoiser": by_level(best)},
             title=f"Loss by noise level ({means})",
             xlabel="t", ylabel="squared error of the noise")

# %%
side = torch.linspace(-1.8, 1.8, 13)
tails = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).reshape(-1, 2)
with torch.no_grad():
    heads = {"learned": learned(tails, 0.3),
             "exact": spiral.denoiser(schedule)(tails, 0.3)}
plots.arrows({name: (tails, h) for name, h in heads.items()}, background=points[:3000],
             title="From a noisy point at t = 0.3 to the prediction of the clean one")

# %% [markdown]
# **What the figures show.** Most of the loss is *unavoidable*: near t = 0 the noise is too fine to be told from the data's own spread, so even the exact denoiser errs by nearly 1 there. Single spikes are chance: a point averages 400 draws. The network pays a little more than it must: compare the two means in the title, whose draws are the same. Its arrows are nearly the exact ones; many end *between* the arms: averages of several possible clean points.

# %%
g = torch.Generator().manual_seed(2)
samples = p_sample_loop(point_net, torch.randn(2000, 2, generator=g), betas, g)
with torch.no_grad():
    predicted = learned(schedule.sample_prior((2000, 2), t=0.5, generator=g), 0.5)
plots.scatter({"data": points[:2000], "our DDPM, 1000 steps": samples,
               "one prediction, at t = 0.5": predicted}, title="Two thousand points each")

# %% [markdown]
# **What the figure shows.** A thousand steps draw the spiral, with a few points lost between the arms. One prediction, from pure noise given as if it were a point at t = 0.5, is an average of *many* clean points: a shapeless patch in the middle.
#
# The library's `DDPM` is the same algebra with bad input refused; its `Denoiser`, of a network, a schedule and the network's target, has the same loss:

# %%
x, z, x0 = torch.randn(3, 4, 2, generator=g)
ddpm = DDPM(point_net, betas)
for i in (0, 500, 999):
    at_i = torch.full((4,), i)
    mean, variance, _ = ddpm.p_mean_variance(x, at_i)
    torch.testing.assert_close(p_sample(point_net, x, i, z, betas),
                               (mean + variance[0].sqrt() * z).detach(),
                               atol=1e-3, rtol=1e-3)
    loss = p_losses(point_net, x0, at_i, z, alpha_bar)
    by_denoiser = learned.loss(x0, (at_i + 1) / T, z)
    torch.testing.assert_close(ddpm.p_losses(x0, at_i, z), loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(by_denoiser, loss, rtol=1e-3, atol=1e-5)
print("course_lib.DDPM and course_lib.Denoiser agree")

# %% [markdown]
# ## 1.11 All of MNIST, live
#
# The network is now a U-Net, an image-to-image network that lesson 2 takes apart; here it is a box: noisy image and time in, noise out. `train.train` repeats the step you have just seen. It differs in five main points, all of lesson 3: continuous times, spread evenly over each batch; a learning rate that rises first; the optimizer Muon for the matrices inside the network; numbers of 16 bits where the processor is fast at them; and samples from a running average of the weights (**EMA**, exponential moving average).
#
# Each time the training time has doubled, the current network turns the same twelve noise images into digits. To save time it takes 50 large steps in place of 1000, by (1.37). In the library, `sample_prior` draws the starting noise, `timesteps` chooses the times, `ancestral` takes the steps and `last` keeps the final image. **Watch when they become digits.**

# %%
def show_samples(D, done):
    """Twelve samples, always from the same noise, in 50 steps."""
    g = torch.Generator().manual_seed(7)
    noise = schedule.sample_prior((12, 1, 28, 28), generator=g, device=device)
    x = last(ancestral(D, schedule, noise, timesteps(schedule, 50), generator=g))
    plots.show(x, title=f"after {done:.0%} of the training")

# %%
torch.manual_seed(0)            # the same start: a stopped run is found again
if device.type == "cuda":                                   # larger network, larger batches
    net = UNet(1, widths=(128, 256, 256), depth=2, patch_size=1)
    options = {"batch_size": 256, "lr": 1e-3}
else:
    net = UNet(1, widths=(32, 64))
    options = {"batch_size": 128, "lr": 4e-3}
D = train.train(Denoiser(net, schedule, target="eps"), digits, seconds=120,
                run_name="01_mnist_eps", callback=show_samples, **options)

# %%
steps, losses = zip(*D.history)
plots.curves(steps, {"mean squared error of the noise": losses},
             title="The loss falls fast, then slowly",
             xlabel="training step", ylabel="loss", yscale="log")

# %% [markdown]
# **What the figures show.** The first two rows show blobs and snow, the third strokes and lumps, the last two digits, of which one can read about half. After the first hundred the loss falls slowly, while the samples still improve. A part of the loss is unavoidable, as on the spiral, and for real digits nobody knows how large a part. So we do not judge a diffusion model by its loss alone.
#
# **At which noise level is the digit decided?** Add noise to test digits up to a level, let the reverse process run from there, and ask a classifier whether the digit is still the same one (standard errors up to 5 points). The network is the shipped `mnist_small`, smaller and trained longer.

# %%
small = train.load("mnist_small", device)
x0, wanted = (values[:100] for values in data.mnist("test"))
g, rows = torch.Generator().manual_seed(0), []
eps = torch.randn(x0.shape, generator=g)
for level in (0.0, -1.0, -1.5, -2.5, -4.0):                 # log SNR
    t = small.schedule.t_from_log_snr(level)
    x = small.schedule.perturb(x0, t, eps).to(device)
    times = timesteps(small.schedule, 30, start=t.item())
    with torch.no_grad(), train.autocast():
        x = last(ancestral(small, small.schedule, x, times, generator=g))
    found = features.digit_probabilities(x.float().cpu().clamp(-1, 1)).argmax(1)
    rows.append({"log SNR": level, "t, linear": schedule.t_from_log_snr(level),
                 "same digit": (found == wanted).float().mean()})
tables.table(rows, {"log SNR": ".1f", "t, linear": ".2f", "same digit": ".0%"},
             caption="100 test digits, noised and sampled again (± 5 points at most)")

# %% [markdown]
# **What the table shows.** The digit is decided between a log SNR of about -4, where little more than a chance hit is left, and 0, where nearly all digits come back: on the linear schedule from $t = 0.63$ down to 0.26. Now all of it, a thousand steps for twenty images, with a new draw of noise in each:

# %%
ddpm, frames = DDPM(D.net, betas), []
with train.autocast():
    # 1001 states: x_1000, ..., x_0
    for done, x in enumerate(ddpm.sample((20, 1, 28, 28), g, device)):
        if done % 80 == 40:                                 # thirteen, the last included
            frames.append(x.cpu())
plots.animate(frames, columns=10, alt="Twenty digits appear from noise in a thousand steps")

# %% [markdown]
# **What the film shows.** By the table most of the deciding falls between $t = 0.63$ and 0.3, where the eye sees snow, then outlines. (Table and film are of two networks.) Then strokes appear and settle, and the last steps remove most of the grain. (The film has only six grey levels.)
#
# ### One prediction, or the reverse process? · deeper
#
# The first row is the original with noise at seven levels. The second is the network's prediction of the clean image, from one evaluation; the third is the end of the reverse process from the same noisy images, in steps of 0.01.

# %%
levels, g = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), torch.Generator().manual_seed(4)
# (1, 1, 28, 28) each
starts = [schedule.perturb(digits[5:6], t, one_noise).to(device) for t in levels]
predictions, sampled = [], []
with torch.no_grad(), train.autocast():
    for x, t in zip(starts, levels):
        predictions.append(D(x, t))
        times = timesteps(schedule, int(100 * t), start=t)
        sampled.append(last(ancestral(D, schedule, x, times, generator=g)))
plots.show({"noisy": torch.cat(starts), "one prediction": torch.cat(predictions),
            "reverse process": torch.cat(sampled)},
           title="From t = 0.1 (left) to t = 0.7 (right)")

# %% [markdown]
# **What the figure shows.** Little noise leaves one possible digit, and both agree. With more noise the prediction blurs into an average of several digits, as (1.28) says it must; the grain at $t = 0.7$ is the network's own error, made larger by the division in (1.27), which lesson 3 avoids. The reverse process ends at one shape: the original at $t = 0.1$ and 0.2, then others, not all of them good digits after two minutes of training. Where the noise is small enough to leave one possible digit, another shape is the network's error.
#
# ## 1.12 What goes wrong, and how to see it
#
# > **A Fréchet distance in one paragraph.** Take a **classifier** of digits (ours is right for more than 99 % of the test digits), and for each image compute its 128 features, the numbers just before its decision. Fit a Gaussian to the features of real images and another to those of the samples; with means $\mu_1, \mu_2$ and covariances $C_1, C_2$ the distance (squared, as is usual) is $\|\mu_1-\mu_2\|^2 + \operatorname{tr}\big(C_1 + C_2 - 2(C_1C_2)^{1/2}\big)$. With the features of an Inception network it is the **FID** of papers, the Fréchet Inception distance (Heusel et al. 2017). It is 0 when means and covariances agree. It sees only what the features see, and only two moments of them; estimated from few images both are off by chance, which adds to the distance. So compare at one number of images, print the **real-data baseline** beside it, what as many real images get, and look at the pictures, too.
#
# Sampling code has a few classic errors, and none of them crashes. Here they are, on the same trained network, each with its Fréchet distance. All take a hundred steps, the betas of which come from every tenth $\bar\alpha_t$, except for the last one, which takes four.

# %%
def coarse_betas(steps):
    """The betas of a process that keeps every (T / steps)-th noise level."""
    a = alpha_bar[T // steps - 1::T // steps].to(device)
    return 1 - a / torch.cat([torch.ones(1, device=device), a[:-1]])

def broken_loop(net, x, betas, generator, mistake):
    """`p_sample_loop`, with a mistake in the noise of each step."""
    a = torch.cumprod(1 - betas, dim=0)
    for i in reversed(range(len(betas))):
        before = a[i - 1] if i else torch.ones_like(a[0])
        variance = betas[i] * (1 - before) / (1 - a[i])                         # (1.17)
        z = torch.randn(x.shape, generator=generator).to(x.device)
        x = p_sample(net, x, i, mistake(z, variance), betas)
    return x

hundred = coarse_betas(100)
variants = {"right":             (hundred, lambda z, variance: z),
            "no noise added":    (hundred, lambda z, variance: 0 * z),
            "beta, not sqrt":    (hundred, lambda z, variance: variance.sqrt() * z),
            "variance doubled":  (hundred, lambda z, variance: 2**0.5 * z),
            "four steps":        (coarse_betas(4), lambda z, variance: z)}

# %%
results = {}
for name, (some_betas, mistake) in variants.items():
    g = torch.Generator().manual_seed(5)
    noise = torch.randn(500, 1, 28, 28, generator=g).to(device)
    with train.autocast():
        x = broken_loop(D.net, noise, some_betas, g, mistake)
    results[name] = x.float().cpu().clamp(-1, 1)

# %%
test_split = features.features_of_test_split()
distances = {name: metrics.frechet_distance(features.digit_features(x), test_split)
             for name, x in results.items()}
baseline = {"real digits (the baseline)": metrics.frechet_real_baseline(500)}
rows = {name: {"Fréchet distance": d} for name, d in (distances | baseline).items()}
for name, x in (results | {"real digits (the baseline)": digits[:500]}).items():
    counts = features.digit_probabilities(x).argmax(1).bincount(minlength=10)
    rows[name] |= {"most frequent": counts.argmax(), "its share": counts.max() / 500}
tables.table(rows, {"Fréchet distance": ".2f", "its share": ".0%"},
             caption="Distance to the 10,000 test digits, 500 images each")
plots.show({f"{name}  {distances[name]:.1f}": x[:14] for name, x in results.items()},
           title="The same network, five ways to sample, and their Fréchet distances")

# %% [markdown]
# **What the figure shows.** *No noise*, or nearly none: for a small variance, the variance is much smaller than its root. Then $x_t$ holds less noise than its time says, and the network probably removes too much: plain shapes are left; the table's last columns say how far variety is gone. *Too much noise*: grain and torn strokes remain. *Four steps* are no bug, only too few for this network. The table cannot say whether the step's shape (1.6) or the network's error costs more. Even the right way is far above the baseline.
#
# ## 1.13 A perfect denoiser that is useless · deeper
#
# **What would a perfect network do?** A training set is itself a mixture: of $N$ components of width zero, one on each image, the **empirical distribution**. (We take the 10,000 images in `memory`.) So its exact denoiser is (1.31) with $s = 0$, the average of the images weighted by the posterior (1.13):
#
# $$\hat x_0(x_t) = \sum_n p(n\mid x_t)\,x^{(n)} \tag{1.32}$$
#
# No network can have a lower training loss. Let us sample from it.

# %%
def empirical_denoiser(x, t):
    """The exact denoiser of the ten thousand images in `memory`.

    x: (B, 1, 28, 28), t: a number
    """
    a = (schedule.alpha(t) ** 2).float()
    p = posterior_over(memory, x.flatten(1), a)             # (B, 10000)
    return (p @ memory).view_as(x)

g = torch.Generator().manual_seed(6)
noise = torch.randn(16, 1, 28, 28, generator=g)
times = timesteps(schedule, 100)
recalled = last(ancestral(empirical_denoiser, schedule, noise, times, generator=g))

# %%
def nearest(x):
    """Distance to the nearest of all 60,000 training digits, and its index: (B,) each."""
    return torch.cdist(x.flatten(1), digits.flatten(1)).min(1)

ours, unseen = results["right"][:300], data.mnist("test")[0][:300]
plots.show({"perfect": recalled, "nearest": digits[nearest(recalled).indices],
            "trained": ours[:16], "nearest to it": digits[nearest(ours[:16]).indices]},
           title="Samples, and the nearest of the 60,000 training digits")
print(f"distance to the nearest training digit: perfect "
      f"{nearest(recalled).values.max():.2f} at most; on average "
      f"trained {nearest(ours).values.mean():.1f}, "
      f"unseen real digits {nearest(unseen).values.mean():.1f} (300 each)")

# %% [markdown]
# **What the figure shows.** Every sample of the perfect denoiser *is* one of the stored images. It has learned nothing but the list. On average the trained network's digits lie about a third further from the training digits than unseen real ones do: in general they are not copies. Part of the distance is no merit: badly drawn digits are far from every real one. What saves the network is that it is *not* perfect. Why it errs in a useful way is an open question, and nothing here tests an answer. Possible reasons are its size, 0.55 million weights for 60,000 images; less than one pass over the data, here about 40,000 digits; and what its layers find easy: Kadkhodaie et al. 2024 find that two networks trained on disjoint halves of enough data agree, Kamb & Ganguli 2024 explain samples of convolutional networks by locality and equivariance. Large networks trained long on few images do memorise; lesson 3 tests for it.
#
# ## 1.14 A Rosetta stone · deeper
#
# **Where it comes from.** Sohl-Dickstein et al. 2015 had the chain and its bound. Song & Ermon 2019 learned scores at many noise levels and sampled by Langevin dynamics, a walk up the density with noise in every step (lessons 4 and 6). Ho et al. 2020 joined the two: the chain of the one, trained like the other. Their paper is this lesson's main source.
#
# Papers write the same thing in different letters. In all of them a noisy image is a number times the data plus a number times noise.
#
# | | time | noisy image | what they call alpha |
# | --- | --- | --- | --- |
# | DDPM (Ho et al. 2020) | $t = 1, \dots, T$ | $\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ | $\alpha_t = 1-\beta_t$ |
# | DDIM (Song, Meng & Ermon 2021) | $t = 1, \dots, T$ | $\sqrt{\alpha_t}\,x_0 + \sqrt{1-\alpha_t}\,\epsilon$ | $\alpha_t$ is DDPM's $\bar\alpha_t$ |
# | Score-SDE, variance preserving (Song et al. 2021) | $t\in[0, 1]$ | as DDPM | $\alpha_i$ is DDPM's $\bar\alpha_t$ (and $\beta(t)$ is $T\beta_t$) |
# | EDM (Karras et al. 2022) | the noise level $\sigma$ itself | $x_0 + \sigma\,\epsilon$ | none: the data is not shrunk |
# | flow matching (Lipman et al. 2023; here $t = 1$ is noise) | $t\in[0, 1]$ | $(1-t)\,x_0 + t\,\epsilon$ | none, or $1-t$ |
# | this course | $t\in[0, 1]$ | $\alpha(t)\,x_0 + \sigma(t)\,\epsilon$ | the standard-deviation factor |
#
# Most flow papers, Lipman et al. among them, run time the other way, with data at $t = 1$: always check. The Score-SDE's process has infinitely many steps. In $\log\bar\alpha_t = \sum\log(1-\beta_s)$ each term becomes $-\beta(s/T)/T$ as $T$ grows, and the sum an integral; for the linear schedule, with $\beta(t) = b_0 + t\,(b_1 - b_0)$, $b_0 = 0.1$, $b_1 = 20$,
#
# $$\bar\alpha(t) = \exp\Big(-\int_0^t \beta(s)\,ds\Big) = \exp\Big(-b_0 t - \tfrac12 (b_1 - b_0)\,t^2\Big) \tag{1.33}$$
#
# Dividing a noisy image by its $\alpha(t)$ leaves $x_0$ with noise of standard deviation $\sigma(t)/\alpha(t)$: EDM's image.
#
# $$\sigma_{\text{EDM}} = \frac{\sigma(t)}{\alpha(t)} = \sqrt{\frac{1-\bar\alpha_t}{\bar\alpha_t}}, \qquad x_{\text{EDM}} = \frac{x_t}{\alpha(t)} \tag{1.34}$$
#
# Dividing by $\alpha(t)+\sigma(t)$ makes the two factors add to 1: the flow's image.
#
# $$t_{\text{flow}} = \frac{\sigma(t)}{\alpha(t)+\sigma(t)}, \qquad x_{\text{flow}} = \frac{x_t}{\alpha(t)+\sigma(t)} \tag{1.35}$$
#
# Scaling an image does not change its log-SNR, so that is the common time of all of them:
#
# $$\log\mathrm{SNR} = \log\frac{\bar\alpha_t}{1-\bar\alpha_t} = -2\log\sigma_{\text{EDM}} = 2\log\frac{1-t_{\text{flow}}}{t_{\text{flow}}} \tag{1.36}$$

# %%
t = torch.tensor([0.1, 0.5, 0.9]).double()
x0, eps = torch.randn(2, 3, 2, dtype=torch.float64)
alpha, sigma, x = schedule.alpha(t), schedule.sigma(t), schedule.perturb(x0, t, eps)
assert_close = torch.testing.assert_close

b0, b1 = 0.1, 20.0
continuous = torch.exp(-b0 * t - (b1 - b0) / 2 * t**2)                          # (1.33)
assert_close(continuous, alpha**2, rtol=0.06, atol=0)
fine = Schedule.linear(T=100_000)                           # nearer to the integral
assert_close(continuous, fine.alpha(t)**2, rtol=5e-4, atol=0)
sigma_edm, t_flow = sigma / alpha, sigma / (alpha + sigma)
assert_close(x / alpha[:, None], x0 + sigma_edm[:, None] * eps)                 # (1.34)
flow = Schedule.flow()
assert_close(x / (alpha + sigma)[:, None], flow.perturb(x0, t_flow, eps))       # (1.35)
assert_close(schedule.log_snr(t), -2 * sigma_edm.log())                         # (1.36)
assert_close(schedule.log_snr(t), flow.log_snr(t_flow))
print("every conversion checked")

# %% [markdown]
# ## What we built
#
# A forward process and its closed form; four schedules; the exact reverse step; the variational bound; a DDPM in fifty lines that learned a spiral, and the library's on all of MNIST; its typical errors.
#
# **Three things to remember.** (1) Noise is added by *variance*: wherever a $\beta$ or $1-\bar\alpha$ multiplies noise, there is a square root. (2) A perfect network predicts an *average*, so one step gives a blur; many steps, each with a new prediction, end at one digit. Leaving out their noise and nothing else is a mistake (lesson 4 leaves it out rightly). (3) Noise, image and score are one thing, and the likelihood's bound is a weighted sum of denoising errors.
#
# | term | in one line |
# | --- | --- |
# | forward process, diffusion process | noise is added step by step, (1.4) |
# | timestep, noise level | a step's number; how much noise there is |
# | variance preserving | data of variance 1 keeps it, (1.5) |
# | noise schedule | the betas, or the curve of what is left |
# | signal-to-noise ratio (SNR) | variance of the signal by that of the noise, (1.8) |
# | prior | what sampling starts from |
# | reverse process | the way from noise to data |
# | Markov chain | each state depends on the one before it alone |
# | posterior | a distribution once something is known: of $x_{t-1}$ given $x_t$ and $x_0$ (1.18); of the image given its noisy copy (1.13) |
# | variational bound, ELBO | an upper bound of minus the log-likelihood; its negative |
# | KL divergence | the mean of log q - log p under q, (1.3) |
# | denoiser | the mean clean image, given a noisy one |
# | epsilon-, x0-prediction; parameterisation | what the network's output stands for |
# | score, Tweedie's formula | the gradient of the log-density; the denoiser from it, (1.30) |
# | DDPM, ancestral sampling | the model of this lesson; all reverse steps, one after the other |
# | EMA | a running average of the weights |
# | Fréchet distance, FID | a distance of two sets of features; with Inception's |
# | real-data baseline, floor | what real images get |
# | empirical distribution | the training set itself, as a distribution |
#
# | formula | source |
# | --- | --- |
# | (1.4), (1.7), (1.17), (1.18) | Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*, eq. 2, 4, 7, 6 and 7 |
# | (1.8), (1.24) | Kingma et al. 2021, *Variational Diffusion Models*, eq. 2 and section 4 |
# | (1.10) to (1.12) | Ho et al., section 4; Nichol & Dhariwal 2021, eq. 17; Jabri, Fleet & Chen 2022 |
# | (1.16) | Feller 1949; used by Sohl-Dickstein et al. 2015, *Deep Unsupervised Learning using Nonequilibrium Thermodynamics* |
# | (1.19) to (1.22) | Sohl-Dickstein et al. 2015; Ho et al., eq. 1, 3, 5 and appendix A |
# | (1.23), (1.25), (1.26) | Ho et al., eq. 8, 12 and 14 |
# | (1.29), (1.30) | Robbins 1956, who credits Tweedie; Vincent 2011; Efron 2011 |
# | (1.13), (1.32) | Bayes' rule; Karras et al. 2022, appendix B.3 |
# | (1.37) | Nichol & Dhariwal 2021, eq. 19 |
# | (1.33) | Song et al. 2021, *Score-Based Generative Modeling through SDEs*, appendix C |
# | (1.34) to (1.36) | Karras et al. 2022; Kingma & Gao 2023 |
#
# The others are rules of probability. **Next:** lesson 2 opens the box and builds the U-Net.
