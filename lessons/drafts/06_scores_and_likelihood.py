# %%
import math

import torch

from course_lib import (
    Denoiser,
    Schedule,
    ancestral,
    ddim,
    heun,
    last,
    sde,
    timesteps,
)
from course_lib.lab import data, metrics, plots, tables, train
from course_lib.schedules import append_dims

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part II · One equation
#
# ## 6.6 Learning a score, and why it needs noise levels
#
# Lesson 1 found the **score** $\nabla\log q_t$ hidden in every denoiser (1.29). One may also start from it: learn a function $s(x)$ that points where the density grows, and sample by following it. **How do you learn the gradient of a density that you do not know?** Write $q$ for the density of $x = \alpha x_0 + \sigma\epsilon$ at one fixed level. What we want small is the **explicit score matching** loss
#
# $$J_{\text{ESM}}(s) = \tfrac12\,\mathbb E_q\,\big\|s(x) - \nabla\log q(x)\big\|^2 \tag{6.9}$$
#
# and it cannot be computed: $\nabla\log q$ is the unknown. Vincent (2011) replaced it by the score of one example's noise, which is known: $q(x\mid x_0)$ is a Gaussian with mean $\alpha x_0$, so $\nabla_x\log q(x\mid x_0) = -(x-\alpha x_0)/\sigma^2 = -\epsilon/\sigma$. This is **denoising score matching**:
#
# $$J_{\text{DSM}}(s) = \tfrac12\,\mathbb E_{x_0,\epsilon}\,\Big\|s(x) + \frac{\epsilon}{\sigma}\Big\|^2 \tag{6.10}$$
#
# Expand both squares. The terms $\frac12\mathbb E\|s\|^2$ are the same. In the middle terms, average over all $x_0$ that may lie behind an $x$ first: $\mathbb E[-\epsilon/\sigma\mid x] = \nabla\log q(x)$, which is (1.29). So they are the same, too, and only what does not contain $s$ is left:
#
# $$J_{\text{DSM}}(s) - J_{\text{ESM}}(s) = \tfrac12\,\mathbb E\Big\|\frac\epsilon\sigma\Big\|^2 - \tfrac12\,\mathbb E_q\big\|\nabla\log q(x)\big\|^2 \tag{6.11}$$
#
# Two things follow. The two losses have the same gradient, so the minimiser of (6.10) is the score *of the noised density*, not of the data. And the price is variance: the target $-\epsilon/\sigma$ has the variance $1/\sigma^2$ per dimension around its mean as $\sigma$ falls, though the score itself may stay tame.
#
# **See both.** Two bumps on a line; a score with one parameter $\theta$, the score of the same bumps shifted by $\theta$. We compare the gradients by $\theta$, at $\theta = 0.2$, of both losses and of (6.10) with the wrong sign.

# %%
bumps = data.GaussianMixture([[-1.0], [1.0]], 0.15, [0.3, 0.7])
score_of = lambda x, sigma: bumps.score(x, 1.0, sigma)

def gradients(sigma, n=200_000, theta=0.2):
    """The derivative by theta of both losses, one value per example: (n,) each."""
    x0 = bumps.sample(n, seed=1).double()                               # (n, 1)
    eps = torch.randn(n, 1, generator=seeded(2), dtype=torch.float64)
    x, h = x0 + sigma * eps, 1e-4
    s = score_of(x - theta, sigma)                          # the shifted bumps' score
    ds = (score_of(x - theta - h, sigma) - score_of(x - theta + h, sigma)) / (2 * h)
    targets = {"explicit": score_of(x, sigma), "denoising": -eps / sigma,
               "wrong sign": eps / sigma}
    return {name: (ds * (s - target))[:, 0] for name, target in targets.items()}

rows = []
for sigma in (0.8, 0.4, 0.2, 0.1):
    g = gradients(sigma)
    row = {"sigma": sigma, "explicit": g["explicit"].mean().item(),
           "denoising": g["denoising"].mean().item()}
    for name in ("denoising", "wrong sign"):
        difference = g[name] - g["explicit"]
        error = difference.std() / len(difference) ** 0.5
        row[f"{name}: difference / error"] = (difference.mean() / error).item()
    rows.append(row | {"deviation of one gradient": g["denoising"].std().item(),
                       "explicit's": g["explicit"].std().item()})
tables.table(rows, ".3g", caption="Gradients by theta, 200,000 examples")

# %% [markdown]
# **What the table shows.** At every level the two gradients differ by less than one standard error, where the wrong sign is 11 to 99 errors away at the three larger levels. (At the smallest one the noise of the target hides even a wrong sign: the test has no power there.) The deviation of one gradient grows as the level falls, and the explicit one's does not. That is the price of (6.10), and the reason to weight a loss by $\sigma^2$: then the target is the noise itself, of variance 1 at every level, and the loss is the one of lesson 1.
#
# **Then why not learn the score at one very small level, and follow it?** Lesson 4 had the tool: **Langevin dynamics** (4.14), a small step along the score and fresh noise. At a small level it has the right distribution at rest. Start 2,000 points from $\mathcal N(0, 4)$, take 600 steps with the exact score, and compare three plans: the small level alone, a large level alone, and twenty levels from large to small (**annealed Langevin**, Song & Ermon 2019).

# %%
def langevin(x, levels, steps, generator):
    """The same number of steps at each level in turn, each a tenth of its variance."""
    for sigma in levels:
        variance = (sigma**2 + bumps.stds[0] ** 2) / 10
        for _ in range(steps // len(levels)):
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = x + variance / 2 * score_of(x, sigma) + variance.sqrt() * noise
    return x

def spread(values):
    return f"{values.mean():.3f} ± {values.std():.3f}"

def seen(x):
    """The fraction on the left, and the fraction near one of the bumps, of five clouds."""
    x = x.view(5, -1)
    near = (x.abs() - 1).abs() < 3 * bumps.stds[0]
    return {"on the left": spread((x < 0).double().mean(1)),
            "near a bump": spread(near.double().mean(1))}

falling = torch.logspace(math.log10(2.0), math.log10(0.02), 20)
plans = {"one small level": [0.02], "one large level": [1.0],
         "twenty levels, falling": falling.tolist()}
start = 2 * torch.randn(10_000, 1, generator=seeded(0), dtype=torch.float64)
rows = {name: seen(langevin(start, levels, 600, seeded(1)))
        for name, levels in plans.items()}
rows["the data"] = seen(bumps.sample(10_000, seed=3))
tables.table(rows, index="600 steps", caption="Five clouds of 2,000 points each")

# %% [markdown]
# **What the table shows.** Alone, the small level brings every point to a bump and leaves it at the nearest one: half of the points are left of 0, as at the start, where the data has 30 %. Its score says nothing about the other bump: points would have to cross a gap in which the density is $e^{-22}$ times that of the bumps. The large level mixes the two bumps and blurs them. Falling levels do the one after the other: the masses are set while the bumps still overlap, the details after that. They come to 0.33 in place of 0.30: 30 steps a level are not quite enough, and noise levels make mixing fast, not free. A diffusion model is the same idea with the levels in its time.
#
# ## 6.7 Scores without noise: implicit and sliced · deeper
#
# TODO
#
# ## 6.8 One equation
#
# **What do all diffusion models have in common?** So far a model was a chain of steps, then an ODE. Write the forward process in a small step $h$, by `renoise` of lesson 1: from $x_t$ to $x_{t+h}$ the factor is $\alpha_{t+h}/\alpha_t = 1 + \frac{\alpha'}{\alpha}h + O(h^2)$, and the added variance is $\sigma_{t+h}^2 - (\alpha_{t+h}/\alpha_t)^2\sigma_t^2 = (2\sigma\sigma' - 2\frac{\alpha'}\alpha\sigma^2)h + O(h^2)$. So
#
# $$x_{t+h} \approx x_t + f\,x_t\,h + g\sqrt h\,z, \qquad f = \frac{\alpha'}\alpha,\quad g^2 = 2\sigma\sigma' - 2f\sigma^2 \tag{6.12}$$
#
# with fresh noise $z$ in each step. In the limit of small steps one writes $dx = f\,x\,dt + g\,dw$: a **stochastic differential equation** (SDE) with **drift** $f\,x$ and **diffusion** $g$ (Song et al. 2021). Three families have names. **Variance preserving** (VP): $\alpha^2+\sigma^2 = 1$, so $g^2 = -2f$, which is $\beta$ of lesson 1 counted in continuous time. **Variance exploding** (VE): $\alpha = 1$, so $f = 0$ and $g^2 = \frac{d\sigma^2}{dt}$. **Flow**: $\alpha = 1-t$, $\sigma = t$, so
#
# $$f = -\frac1{1-t}, \qquad g^2 = \frac{2t}{1-t} \tag{6.13}$$
#
# **How does the density move?** Take any smooth function $\varphi$ and watch its mean. Expand $\varphi(x_t + f x_t h + g\sqrt h z)$ to first order in $h$; the noise has mean 0 and variance 1 in each direction, so its first-order term vanishes and its second-order term leaves half the sum of second derivatives, $\frac{h}{2}g^2\Delta\varphi$:
#
# $$\frac{d}{dt}\,\mathbb E\,\varphi(x_t) = \mathbb E\Big[f\,x_t\cdot\nabla\varphi(x_t) + \tfrac12 g^2\,\Delta\varphi(x_t)\Big] \tag{6.14}$$
#
# The operator in the brackets is the **generator** of the process, and (6.14) is the whole theory in one line: it holds for every $\varphi$, so it fixes the density $q_t$. (Jumps between words, in part two, have a generator, too.) Write the means as integrals and integrate by parts, once for the first term and twice for the second; the density vanishes far away, so nothing is left at the ends:
#
# $$\frac{\partial q_t}{\partial t} = -\nabla\cdot(f\,x\,q_t) + \tfrac12 g^2\,\Delta q_t \tag{6.15}$$
#
# This is the **Fokker-Planck equation**; without noise, $g = 0$, it is the **continuity equation** of a fluid with the velocity $f\,x$.
#
# **The trick.** Since $\Delta q = \nabla\cdot\nabla q = \nabla\cdot(q\,\nabla\log q)$, noise and a velocity are exchangeable: the term $\frac12 g^2\Delta q$ is what a fluid of velocity $-\frac12 g^2\nabla\log q$ does. So one can take away some of the noise, or all of it, or add more, and pay with a velocity along the score. Run the time backwards and use this with a factor $\lambda\ge0$ on the noise:
#
# $$dx = \Big[f\,x - \tfrac{1+\lambda^2}2\,g^2\,\nabla\log q_t(x)\Big]dt + \lambda\,g\,dw, \qquad t \text{ falling} \tag{6.16}$$
#
# *Check.* Let $\tau$ run backwards, $\tau = 1 - t$. By (6.15), the density of (6.16) changes by
#
# $$\frac{\partial q}{\partial\tau} = \nabla\cdot(f\,x\,q) - \tfrac{1+\lambda^2}2g^2\,\nabla\cdot(q\nabla\log q) + \tfrac{\lambda^2}2g^2\Delta q = \nabla\cdot(f\,x\,q) - \tfrac12g^2\Delta q \tag{6.17}$$
#
# which is (6.15) backwards: $\lambda$ has cancelled. $\lambda = 0$ is the probability-flow ODE (4.13). $\lambda = 1$ is **Anderson's reverse process** (1982), the limit of ancestral sampling. *All have the same marginals $q_t$*, if the score is exact and the steps are small.
#
# ## 6.9 Same marginals, other journeys
#
# **Then what is special about $\lambda = 1$?** The marginals say where the points are at each time, not which point came from where. Ask Bayes' rule for one small step back, as in lesson 1: $q(x_{t-h}\mid x_t) \propto q_{t-h}(x_{t-h})\;q(x_t\mid x_{t-h})$. Let $\delta = x_{t-h}-x_t$. The second factor is by (6.12) a Gaussian around $\delta = -f\,x\,h$ with variance $g^2h$, and in so small a step $\log q_{t-h}(x_t+\delta) \approx \log q_t(x_t) + \delta\cdot\nabla\log q_t$. Complete the square:
#
# $$q(x_{t-h}\mid x_t) \approx \mathcal N\Big(x_t - \big[f\,x_t - g^2\,\nabla\log q_t(x_t)\big]h,\; g^2h\,I\Big) \tag{6.18}$$
#
# That is (6.16) with $\lambda = 1$ and no other. So only Anderson's process has the forward process's **joint** law: its paths are the forward paths, run backwards. For other $\lambda$ only the single frames agree, not the film.
#
# **See it.** Bumps under the flow schedule, the exact score, Euler's method for (6.16) (**Euler-Maruyama**). First the marginals: the distance of the final points to fresh draws of $q_t$ (the mean distance of the sorted points, **Wasserstein-1**). Then pairs: the correlation of a point at $t = 0.6$ with itself at $t = 0.05$. For the forward process it is known, $\operatorname{Cov}(x_t, x_s) = \frac{\alpha_t}{\alpha_s}\operatorname{Var}(x_s)$ for $s<t$, because the noise that is added from $s$ to $t$ knows nothing of $x_s$:
#
# $$\operatorname{corr}(x_t, x_s) = \frac{\alpha_t}{\alpha_s}\sqrt{\frac{\operatorname{Var}x_s}{\operatorname{Var}x_t}} \tag{6.19}$$

# %%
flow = Schedule.flow()
exact = bumps.denoiser(flow)
top, middle, bottom = 0.98, 0.6, 0.05

def level_grid(schedule, high, low, n):
    """n steps from t = high down to t = low, even in log SNR."""
    ends = (schedule.log_snr(high), schedule.log_snr(low))
    return schedule.t_from_log_snr(torch.linspace(*ends, n + 1, dtype=torch.float64))

def noised(t, n, seed):
    noise = torch.randn(n, 1, generator=seeded(1000 + seed), dtype=torch.float64)
    return flow.perturb(bumps.sample(n, seed=seed).double(), t, noise)

def backwards(level, steps, n=4000, seed=0):
    """Points at t = 0.6 and, later, at t = 0.05."""
    options = {"noise_level": level, "generator": seeded(seed)}
    ts = level_grid(flow, top, middle, steps // 3)
    x = last(sde.euler_maruyama(exact, flow, noised(top, n, seed), ts, **options))
    ts = level_grid(flow, middle, bottom, steps - steps // 3)
    return x, last(sde.euler_maruyama(exact, flow, x, ts, **options))

def forwards(n=4000, seed=0):
    low = noised(bottom, n, seed)
    return flow.renoise(low, bottom, middle, seeded(2000 + seed)), low

# %%
sorted_distance = lambda a, b: (a.sort(0).values - b.sort(0).values).abs().mean()
correlation = lambda a, b: torch.corrcoef(torch.cat([a, b], 1).T)[0, 1]

def row(make):
    pairs = [make(seed) for seed in range(5)]
    far = [sorted_distance(p[1], noised(bottom, 4000, 50 + k)) for k, p in enumerate(pairs)]
    return {"distance to q": spread(torch.stack(far)),
            "correlation": spread(torch.stack([correlation(*pair) for pair in pairs]))}

rows = {"forward": row(lambda seed: forwards(seed=seed))}
for level in (0.0, 1.0, 2.0):
    for steps in (100, 200):
        rows[f"lambda = {level:.0f}, {steps} steps"] = row(
            lambda seed: backwards(level, steps, seed=seed))
variance = lambda t: ((1 - t) ** 2 * (0.15**2 + 1 - 0.4**2) + t**2)
known = (1 - middle) / (1 - bottom) * (variance(bottom) / variance(middle)) ** 0.5
print(f"(6.19): {known:.4f}")
tables.table(rows, index="process", caption="Five draws of 4,000 points each")

# %% [markdown]
# **What the table shows.** The distances to fresh draws are about equal for all three, and equal to those of the forward process itself: the floor. The correlations are not. $\lambda = 1$ has the forward value as soon as the steps are small enough (0.517 with 100 steps, 0.529 with 200); without noise a point stays near its rank, at 0.87; with $\lambda = 2$ it nearly forgets where it was. Same marginals, other journeys. What follows: when you edit an image by partly noising it (lesson 5), $\lambda$ decides how much of it comes back; when you only want samples, it does not matter until the steps are large or the network errs.
#
# ## 6.10 Solvers of the SDE · deeper
#
# TODO: Euler-Maruyama, ancestral (the exact linear part), DDIM, Heun at 10, 20, 40, 80 evaluations, paired noise, three seeds; lesson 3.7's question with the exact denoiser at T = 100, 1000.
#
# ## 6.11 Clocks and rulers: what a flow adds
#
# VP, VE, flow: three schools, three sets of papers, and often the sentence that flows need fewer steps. **What does a schedule change?** Divide $x_t = \alpha_t x_0 + \sigma_t\epsilon$ by $\alpha_t$ and write $r = \sigma/\alpha$:
#
# $$\bar x = \frac{x_t}{\alpha_t} = x_0 + r\,\epsilon \tag{6.20}$$
#
# Every schedule gives the same noisy images at the same $r$, that is, at the same log SNR $= -2\log r$. It chooses two things: when each level comes, the **clock** $t\mapsto r$, and the size in which the image is written down, the **ruler** $\alpha$. The ODE (4.10) in $\bar x$ and $r$ has neither in it. So a network that was trained under one schedule is a network under all others:
#
# $$D_{\text{new}}(x, t) = D\Big(\frac{\alpha(t^*)}{\alpha_{\text{new}}(t)}\,x,\; t^*\Big), \qquad \text{with } t^* \text{ where } D\text{'s own log SNR is the same} \tag{6.21}$$
#
# This is `sde.change_schedule`. Take the digits' network, which was trained with the cosine schedule, and draw with it under four schedules, all at the same 16 log-SNR points from the same noise. Once by DDIM, once by Euler's method for the ODE in $t$.

# %%
D = train.load("mnist_small", device)
own = D.schedule
labels = torch.arange(40, device=device) % 10

def drawn(schedule, points, sampler=ddim, seed=0, **options):
    """The images x / alpha at the end, from sigma times the same noise."""
    ts = schedule.t_from_log_snr(points)
    noise = torch.randn(40, 1, 28, 28, generator=seeded(seed)).to(device)
    x = schedule.sigma(ts[0]).float() * noise
    view = sde.change_schedule(D, schedule)
    x = last(sampler(view, schedule, x, ts, y=labels, **options))
    return x / schedule.alpha(ts[-1]).float()

rms = lambda a, b: (a - b).square().mean().sqrt().item()
points = torch.linspace(-7, 8, 16, dtype=torch.float64)
first = drawn(own, points)
fine = drawn(own, torch.linspace(-7, 8, 201, dtype=torch.float64))
views = {"cosine, its own": own, "linear": Schedule.linear(), "flow": Schedule.flow(),
         "VE": Schedule.edm()}
rows = {}
for name, schedule in views.items():
    euler = drawn(schedule, points, sde.euler_maruyama, noise_level=0.0)
    rows[name] = {"DDIM, to the first row": rms(drawn(schedule, points), first),
                  "DDIM, to 200 steps": rms(first, fine), "Euler in t": rms(euler, fine)}
tables.table(rows, ".2g", index="schedule", caption="Root mean square, 40 digits")

# %% [markdown]
# **What the table shows.** DDIM draws the same 40 digits under all four, up to rounding: at the same points, "which schedule" has no meaning. Euler's method in $t$ is not invariant, because a straight line in $t$ is another curve under another clock and ruler; only for the flow are the two the same step (lesson 4), and for VE in this clock it fails.
#
# **Then what can a flow add?** Three things that have to be looked at one by one. **The grid**: equal steps in the flow's $t$ are other points. **The weighting**: a loss that is even in the flow's $t$ trains other levels harder. **The coupling**: a flow may pair noise and data otherwise than at random (section 6.12). The grid first, with the same network, the same noise and DDIM:

# %%
def even_in(schedule, n):
    """n steps even in this schedule's time, as log-SNR points from -7 to 8."""
    ends = schedule.t_from_log_snr(torch.tensor([-7.0, 8.0], dtype=torch.float64))
    return schedule.log_snr(torch.linspace(*ends, n + 1, dtype=torch.float64))

# TODO measured (this machine, beside a training): rms to 200 steps, 40 digits, three seeds
#   steps   cosine's t        linear's t        flow's t          log SNR
#       8   0.1256 ± 0.0095   0.0876 ± 0.0073   0.1110 ± 0.0098   0.1220 ± 0.0086
#      16   0.0698 ± 0.0103   0.0454 ± 0.0049   0.0608 ± 0.0097   0.0683 ± 0.0080
#      32   0.0390 ± 0.0077   0.0222 ± 0.0020   0.0323 ± 0.0064   0.0352 ± 0.0045
# So the grid matters by a third, and the flow's is neither the best nor the worst here.

# %% [markdown]
# The weighting: write every loss as one of $\epsilon$. Since $v - \hat v = (\epsilon-\hat\epsilon) - (x_0-\hat x_0)$ for the flow, and $\alpha(x_0-\hat x_0) = -\sigma(\epsilon-\hat\epsilon)$,
#
# $$\|v-\hat v\|^2 = \frac{\|\epsilon-\hat\epsilon\|^2}{\alpha^2} = \frac{\|\epsilon-\hat\epsilon\|^2}{(1-t)^2} \tag{6.22}$$
#
# and with $t$ drawn evenly a level with log SNR $\ell$ gets the share $\left|\frac{dt}{d\ell}\right|$ of the draws:
#
# $$\mathcal L = \int w(\ell)\;\mathbb E\|\epsilon-\hat\epsilon\|^2\,d\ell, \qquad w_{\text{flow}}(\ell) = \frac{1}{\alpha^2}\left|\frac{dt}{d\ell}\right| = \frac{t}{2(1-t)} = \tfrac12 e^{-\ell/2} \tag{6.23}$$
#
# TODO check: log SNR = 2 log((1-t)/t), d l / dt = -2/(t(1-t)); w = t(1-t)/2 / (1-t)^2 = t/(2(1-t)).
#
# ## 6.13 Likelihood
#
# **Which probability does the model give to a picture?** The ODE answers, because it is a map that can be run both ways. Let the points move with velocity $v(x,t)$. By the continuity equation, $\partial_t p = -\nabla\cdot(p\,v)$; seen from a moving point,
#
# $$\frac{d}{dt}\log p_t(x_t) = \frac{\partial_t p + v\cdot\nabla p}{p} = -\nabla\cdot v(x_t, t) \tag{6.24}$$
#
# the **instantaneous change of variables** (Chen et al. 2018): where the flow spreads, the density falls. Integrate from the data to the prior:
#
# $$\log p_0(x_0) = \log p_1(x_1) + \int_0^1 \nabla\cdot v(x_t, t)\,dt \tag{6.25}$$
#
# The divergence is the trace of the Jacobian. Exactly, it costs one backward pass per dimension: nothing for a point in the plane, 784 for a digit. **Hutchinson's estimate** takes one: for random $z$ with mean 0 and covariance $I$,
#
# $$\mathbb E\,z^\top J z = \operatorname{tr}J \tag{6.26}$$
#
# because $\mathbb E z_iz_j$ is 1 for $i=j$ and 0 otherwise. Only the symmetric part $S = \frac12(J+J^\top)$ matters, as $z^\top Jz = z^\top Sz$. The variance depends on the noise. With signs $z_i=\pm1$ (**Rademacher**), $z_i^2 = 1$ is not random, and each pair $i<j$ contributes $2S_{ij}z_iz_j$ of variance $4S_{ij}^2$; normal noise adds $S_{ii}z_i^2$ of variance $2S_{ii}^2$:
#
# $$\operatorname{Var}_{\text{signs}} = 2\Big(\|S\|^2 - \sum_i S_{ii}^2\Big), \qquad \operatorname{Var}_{\text{normal}} = 2\,\|S\|^2 \tag{6.27}$$
#
# TODO cells: table of /tmp/l.py (solve_ivp 1e-3: 50 evaluations, 0.042 nats; 1e-5: 80, 0.0005; our grid 50 / 100 / 200 / 400 evaluations: 0.19, 0.046, 0.012, 0.0037; truncation by the prior at t = 0.999: 0.0013); variances of the probes.
#
# **Pixels are whole numbers.** A density on 256 points is not bounded: a model can put a spike on each and reach any likelihood. **Dequantisation** spreads each level over its bin, of width $\Delta = 2/255$ or so, by uniform noise $u\in[-\frac12,\frac12]\Delta$, and then Jensen's inequality bounds the mass of the bin:
#
# $$\log P(x) = \log\int_{\text{bin}} p(x+u)\,du \ge \mathbb E_u\log p(x+u) + D\log\Delta \tag{6.28}$$
#
# $$\text{bits per dimension} = -\frac{\mathbb E_u\log_2 p(x+u)}{D} - \log_2\Delta \tag{6.29}$$
#
# **And the bound of lesson 1?** In continuous time (Kingma et al. 2021) it is one integral over log SNR:
#
# $$-\log p(x_0) \le \tfrac12\int \mathbb E\,\|\epsilon-\hat\epsilon\|^2\,d\ell + \text{(prior and last step)} \tag{6.30}$$
#
# It belongs to the process with noise, (6.25) to the one without: two models with the same network, so neither number has to be below the other.
