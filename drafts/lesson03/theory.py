# %% [markdown]
# # Lesson 3 · Training diffusion models, and knowing that they are good
#
# {{badge}}
#
# "My samples are pure noise." "I cannot reach the FID of the paper." These are the two sentences that one reads most often in the issue trackers of diffusion code. This lesson is about both: what to minimise and why, what makes training work, what breaks it and how one finds out, and how to tell a good model from one that only looks good.
#
# **After this lesson you can** say what each loss estimates; change between targets, weightings and ways to draw times, and know what changes and what does not; derive flow matching and EDM's preconditioning; choose a schedule for a resolution; train with averaged weights and in half precision; find the mistake in a training that fails; and judge samples by several metrics with their biases and error bars.
#
# **You need** lessons 1 and 2. **It takes** about 2 minutes to run on two CPU cores. The exercises are in `exercises/03_training_diffusion.ipynb`.
#
# **Our conventions.** The time $t$ is in [0, 1], 0 is data, 1 is noise; $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ with standard deviations $\alpha, \sigma$; $\mathrm{SNR} = \alpha^2/\sigma^2$. $w = 1$ is no guidance.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import DDPM, Denoiser, Schedule, UNet, ddim, grid, last
from course_lib.lab import data, metrics, plots, train

torch.manual_seed(0)
digits, labels = data.mnist("train")
cosine = Schedule.cosine()

# %% [markdown]
# ## 3.1 What a loss asks for
#
# A denoiser sees $x_t$ and must answer with *one* image, though many clean images could be behind it. Which one it learns to answer depends on the loss. Let $Y$ be the clean value behind a given $x_t$, a random number with density $p$ (take one pixel), and $g$ the answer. Where is the expected loss smallest? Set its derivative to zero.
#
# *Squared error.* $\frac{d}{dg}\,\mathbb E (Y-g)^2 = -2\,\mathbb E[Y - g]$, so
#
# $$g_{\ell_2} = \mathbb E[Y] \qquad\text{(the mean)} \tag{3.?l2}$$
#
# *Absolute error.* The slope of $|Y-g|$ in $g$ is $+1$ where $g > Y$ and $-1$ where $g < Y$; on average $P(Y<g) - P(Y>g)$, so
#
# $$P(Y < g_{\ell_1}) = P(Y > g_{\ell_1}) \qquad\text{(the median)} \tag{3.?l1}$$
#
# *Huber's loss* is $\tfrac12 r^2$ for errors $r = Y - g$ up to $\delta$, and $\delta(|r| - \tfrac\delta2)$ beyond; its slope is the error, cut off at $\pm\delta$:
#
# $$\mathbb E\big[\operatorname{clip}(Y - g_{\text{Huber}},\,-\delta,\,\delta)\big] = 0 \qquad\text{(between the two)} \tag{3.?huber}$$
#
# Does it matter? Take data with two values, $-1$ (30 %) and $+1$ (70 %), a little spread. On a line we can compute all three *perfect* denoisers from the posterior on a grid of values, and sample with each.

# %%
line = data.GaussianMixture([[-1.0], [1.0]], 0.1, [0.3, 0.7])
values = torch.linspace(-1.8, 1.8, 361, dtype=torch.float64)                       # where x0 may be
prior = line.log_prob(values[:, None])                                             # (361,)

def posterior(x, t):
    """p(x0 | x_t = x) on the grid of values.   x: (N, 1) -> (N, 361)"""
    alpha, sigma = cosine.alpha(t), cosine.sigma(t)
    return (prior - (x.double() - alpha * values).square() / (2 * sigma**2)).softmax(dim=1)

def answer(loss):
    """The perfect denoiser for a loss: the value that makes the expected loss smallest."""
    table = loss(values[None] - values[:, None])                                   # (answer, x0)
    return lambda x, t: values[(posterior(x, t) @ table.T).argmin(dim=1)][:, None].to(x)

losses = {"l2": lambda r: r.square(), "Huber, 0.1": lambda r: F.huber_loss(r, 0 * r, reduction="none", delta=0.1), "l1": lambda r: r.abs()}

# %%
start = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
ends = {name: last(ddim(answer(loss), cosine, start, grid(cosine, 30))) for name, loss in losses.items()}
plots.histogram([ends["l2"][:, 0], ends["l1"][:, 0]], labels=["l2: the mean", "l1: the median"], title="Samples with two perfect denoisers", xlabel="x0")
for name, x in ends.items():
    print(f"{name:10} share of samples above 0: {(x > 0).double().mean():.3f} (the data: 0.700), standard deviation within the upper bump {x[x > 0].std():.3f} (0.100)")

# %% [markdown]
# **What the figure shows.** Only the mean samples the data as it is. The median, asked in the middle of the way, answers with the likelier value altogether, and the rarer one dies out. All the equations of lesson 1 want a conditional *mean*; so a diffusion model is trained with $\ell_2$. (People train with $\ell_1$ or Huber, too, and like the crisper pictures. Now you know what they pay.)
#
# ## 3.2 One loss, four weightings
#
# **What should the network predict?** A target is $a\,x_0 + b\,\epsilon$. Since $x_t$ is given, a guess of the target is a guess of $x_0$ in other words: put $\epsilon = (x_t - \alpha x_0)/\sigma$ into it, once for the truth and once for the guess, and subtract. What is known drops out:
#
# $$\big\|\text{out} - (a x_0 + b\,\epsilon)\big\|^2 = \Big(\frac{\alpha b - \sigma a}{\sigma}\Big)^2\,\|\hat x_0 - x_0\|^2 \tag{3.?targets}$$
#
# So the four targets minimise *the same error* with four weights (for a schedule with $\alpha^2+\sigma^2=1$; for flow, $\alpha = 1-t,\ \sigma = t$):
#
# $$\epsilon:\ \mathrm{SNR}, \qquad x_0:\ 1, \qquad v:\ \mathrm{SNR}+1, \qquad \text{flow}:\ \big(1+\sqrt{\mathrm{SNR}}\big)^2 \tag{3.?four}$$
#
# Measured, with an untrained network, whose guesses are as wrong as any:

# %%
class MLP(nn.Module):
    """x: (B, d), t: (B,), y: (B,) or None -> (B, out)"""

    def __init__(self, d=2, hidden=64, out=None, num_classes=None):
        super().__init__()
        self.num_classes = num_classes
        self.label = None if num_classes is None else nn.Embedding(num_classes + 1, hidden)
        self.first, self.last = nn.Linear(d + 17, hidden), nn.Linear(hidden, out or d)
        self.inner = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())

    def forward(self, x, t, y=None):
        waves = t[:, None] * torch.pi * 2.0 ** torch.arange(-1, 7)                  # (B, 8)
        h = self.first(torch.cat([x, t[:, None], waves.sin(), waves.cos()], dim=1))
        h = h if self.label is None else h + self.label(torch.full((len(x),), self.num_classes) if y is None else y)
        return self.last(self.inner(h))

x0, eps, t = torch.randn(4000, 2), torch.randn(4000, 2), torch.linspace(0.03, 0.97, 4000)
net, ratios = MLP(), {}
for target, schedule in {"eps": cosine, "x0": cosine, "v": cosine, "flow": Schedule.flow()}.items():
    D = Denoiser(net, schedule, target)
    with torch.no_grad():
        ratios[target] = D.loss(x0, t, eps) / (D(schedule.perturb(x0, t, eps), t) - x0).square().mean(1), schedule.log_snr(t)

# %%
formulas = {"eps": lambda snr: snr, "x0": lambda snr: 1 + 0 * snr, "v": lambda snr: snr + 1, "flow": lambda snr: (1 + snr.sqrt()) ** 2}
for target, (ratio, log_snr) in ratios.items():
    torch.testing.assert_close(ratio.double(), formulas[target](log_snr.exp()), rtol=2e-2, atol=1e-4)
log_snr = torch.linspace(-8, 8, 200)
plots.curves(log_snr, {name: f(log_snr.exp()) for name, f in formulas.items()}, yscale="log", ylim=(1e-3, 1e4),
             title="The weight that each target puts on the error of x0", xlabel="log SNR   (noise - data)", ylabel="weight")

# %% [markdown]
# **What the figure shows.** All agree that clean images matter most (for $x_0$, all count alike). They differ at the noisy end: $\epsilon$ hardly asks what the image is when there is much noise, $v$ and flow always ask a little.
#
# A weight can be put on any loss by hand, so is the target only a matter of taste? No: the *function* that the network must produce differs. Near the data, $x_0$ asks it to repeat its input; near pure noise, $\epsilon$ does, and there a small error of $\epsilon$ is divided by $\alpha \approx 0$ (lesson 1). $v$ asks for a mixture that is never trivial.
#
# ## 3.3 Flow matching
#
# **Can one go from noise to data along straight lines?** Forget diffusion for a moment. Take a point of noise $\epsilon$ and a data point $x_0$, and move from one to the other at constant speed:
#
# $$x_t = (1-t)\,x_0 + t\,\epsilon, \qquad \frac{dx_t}{dt} = \epsilon - x_0 \tag{3.?path}$$
#
# Many such lines cross at one place $x$, and a rule "where to go from here" can have only one answer. Take the mean of all that pass:
#
# $$u(x, t) = \mathbb E\big[\epsilon - x_0 \,\big|\, x_t = x\big] \tag{3.?marginal}$$
#
# **Does following the mean bring noise to data?** Let a cloud of particles start as noise at $t = 1$ and follow $dx/dt = u(x, t)$. Watch any smooth quantity $f$. For the lines, by the chain rule, and since an average can be taken first over what passes through $x$ and then over $x$,
#
# $$\frac{d}{dt}\,\mathbb E\,f(x_t) = \mathbb E\big[\nabla f(x_t)\cdot(\epsilon - x_0)\big] = \mathbb E\big[\nabla f(x_t)\cdot u(x_t, t)\big] \tag{3.?transport}$$
#
# For the particles the chain rule gives the right-hand side at once. So both clouds obey the same rule at every time, they are the same at $t = 1$, and so they are the same for all $t$ (if $u$ is smooth enough for the rule to have one solution): at $t = 0$ the particles are data. And $u$ is a conditional mean. By (3.?l2) a network learns it from
#
# $$\mathbb E\,\big\|\,\text{net}(x_t, t) - (\epsilon - x_0)\,\big\|^2 \tag{3.?cfm}$$
#
# That is target "flow", $a = -1, b = 1$, on the schedule $\alpha = 1-t$, $\sigma = t$: *one more schedule and one more target*. By section 1.14, any trained diffusion network can be used in its place. And one step of our general sampler is one Euler step of the particles' equation: $x_s = (1-s)\,\hat x_0 + s\,\hat\epsilon$, and with $\hat x_0 = x_t - t\,u$ and $\hat\epsilon = x_t + (1-t)\,u$,
#
# $$x_s = x_t + (s - t)\,u(x_t, t) \tag{3.?euler}$$

# %%
flow = Schedule.flow()
exact = line.denoiser(flow)
noise, clean = torch.randn(7, 1, generator=torch.Generator().manual_seed(3)), line.sample(7, seed=5)
times = torch.linspace(0, 1, 60)
straight = (1 - times) * clean + times * noise                                       # (7, 60)
states = list(ddim(exact, flow, noise, grid(flow, 59)))                              # from t = 1 to t = 0
followed = torch.cat(states[::-1], dim=1)                                            # (7, 60)
plots.panels(times, {"straight lines": {f"{k}": straight[k] for k in range(7)}, "following the mean": {f"{k}": followed[k] for k in range(7)}},
             xlabel="t   (data - noise)", ylabel="x")
x, t_now, s = noise, torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
u = (x - exact(x, t_now)) / t_now                                                    # eps_hat - x0_hat
torch.testing.assert_close(last(ddim(exact, flow, x, [t_now, s])), (x + (s - t_now) * u).to(x))

# %% [markdown]
# **What the figure shows.** The lines cross. The particles cannot, and sort themselves: each ends in one of the bumps, on a path that is bent where lines to both bumps pass.
#
# ## 3.4 EDM: keep every number near one
#
# On the schedule $\alpha = 1$, $\sigma$ up to 80 (lesson 1), a network would see inputs of standard deviation from 0.5 to 80. Networks like inputs and targets of standard deviation one. Karras et al. (2022) put the network $F$ between four factors, for data of standard deviation $s$:
#
# $$D(x) = c_{\text{skip}}\,x + c_{\text{out}}\,F(c_{\text{in}}\,x;\ c_{\text{noise}}) \tag{3.?edm}$$
#
# **Which factors?** (i) The input shall have variance 1. The variance of $x = x_0 + \sigma\epsilon$ is $s^2 + \sigma^2$, so
#
# $$c_{\text{in}} = \frac1{\sqrt{s^2+\sigma^2}} \tag{3.?cin}$$
#
# (ii) $F$'s target, solved from (3.?edm), is $(x_0 - c_{\text{skip}}\,x)/c_{\text{out}} = \big((1-c_{\text{skip}})\,x_0 - c_{\text{skip}}\,\sigma\,\epsilon\big)/c_{\text{out}}$. It shall have variance 1, too:
#
# $$c_{\text{out}}^2 = (1-c_{\text{skip}})^2\,s^2 + c_{\text{skip}}^2\,\sigma^2 \tag{3.?cout}$$
#
# (iii) Errors of $F$ reach the image multiplied by $c_{\text{out}}$; so choose $c_{\text{skip}}$ such that $c_{\text{out}}$ is as small as possible. The derivative of (3.?cout) is $-2(1-c_{\text{skip}})\,s^2 + 2c_{\text{skip}}\,\sigma^2$; it vanishes at
#
# $$c_{\text{skip}} = \frac{s^2}{s^2+\sigma^2}, \qquad\text{and then}\qquad c_{\text{out}} = \frac{\sigma\,s}{\sqrt{s^2+\sigma^2}} \tag{3.?cskip}$$
#
# The noise level is told as $c_{\text{noise}} = \tfrac14\ln\sigma$, which runs from about $-1.5$ to $1.1$. With the error weighted by $1/c_{\text{out}}^2$, the loss is the plain squared error of $F$.

# %%
s, sigma = 0.5, torch.logspace(-2, 2, 9, dtype=torch.float64)
x0_s, eps_s = s * torch.randn(2, 100_000, 1, dtype=torch.float64) / torch.tensor([[[1.0]], [[s]]])         # std s, std 1
x = x0_s + sigma * eps_s                                                            # (N, 9), one column for each noise level
r = (s**2 + sigma**2).sqrt()
c_in, c_skip, c_out = 1 / r, s**2 / r**2, sigma * s / r
sizes = {"x itself": x.std(0), "input c_in x": (c_in * x).std(0), "target of F": ((x0_s - c_skip * x) / c_out).std(0)}
plots.curves(sigma, sizes, xscale="log", yscale="log", title="Sizes without and with preconditioning", xlabel="sigma", ylabel="standard deviation")
for c in (0.8 * c_skip, 1.1 * c_skip):
    assert (((1 - c) ** 2 * s**2 + c**2 * sigma**2) >= c_out**2 - 1e-12).all(), "no other c_skip makes the factor of F's errors smaller"

# %%
F_net = MLP().double()
D = Denoiser(F_net, Schedule.edm(), target="edm", sigma_data=s)
x, t = torch.randn(5, 2, dtype=torch.float64), torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
level = Schedule.edm().sigma(t)[:, None]                                            # (5, 1)
r = (s**2 + level**2).sqrt()
by_hand = s**2 / r**2 * x + level * s / r * F_net(x / r, level[:, 0].log() / 4)
torch.testing.assert_close(D(x, t), by_hand)
print("course_lib's target 'edm' agrees")

# %% [markdown]
# **What the figure shows.** Input and target of $F$ have size 1 at every noise level. And it is an old friend: for $s = 1$ the target is $(\sigma x_0 - \epsilon)/\sqrt{1+\sigma^2}$, which is $-v$ with the noise level written as in lesson 1, $\sigma_{\text{EDM}} = \sigma/\alpha$.
#
# ## 3.5 What to weigh, and which times to draw
#
# The weights of (3.?four) are not sacred. *min-SNR-$\gamma$* (Hang et al. 2023) uses, in units of the $x_0$ error, $\min(\mathrm{SNR}, \gamma)$ with $\gamma = 5$: nearly clean images no longer outweigh all others. *P2* (Choi et al. 2022) divides the $\epsilon$ weight by $(1+\mathrm{SNR})$. As factors on the $v$ loss, which has $\mathrm{SNR}+1$ already:
#
# $$w_{\text{min-SNR}} = \frac{\min(\mathrm{SNR}, \gamma)}{\mathrm{SNR}+1}, \qquad w_{\text{P2}} = \frac{\mathrm{SNR}}{(\mathrm{SNR}+1)^2} \tag{3.?weights}$$
#
# **Drawing more often is weighing more.** If times are drawn from a density $p$ in place of the uniform one, then
#
# $$\mathbb E_{t\sim p}\Big[\frac{w(t)}{p(t)}\,L(t)\Big] = \int_0^1 \frac{w(t)}{p(t)}\,L(t)\,p(t)\,dt = \mathbb E_{t\sim U}\big[w(t)\,L(t)\big] \tag{3.?importance}$$
#
# So the *mean* gradient is the same whether a time is drawn twice as often or weighted twice as much. Its *variance* is not. If $g(t)$ is the size (root mean square) of one example's gradient at time $t$, the second moment of the estimate is $\int g(t)^2/p(t)\,dt$, and by the Cauchy-Schwarz inequality $\big(\int g\big)^2 = \big(\int \frac{g}{\sqrt p}\sqrt p\big)^2 \le \int \frac{g^2}{p}\cdot\int p$, with equality for
#
# $$p^\star(t) \propto g(t), \qquad \int_0^1\frac{g(t)^2}{p^\star(t)}\,dt = \Big(\int_0^1 g(t)\,dt\Big)^2 \tag{3.?best}$$
#
# And *stratified* times, one in each of $B$ equal slices of $[0, 1]$, have the same mean and remove the chance of drawing many early and few late times. Let us measure the variance of the gradient for a network in the middle of its training. First a short training, written out; the rest of the lesson uses it, too:

# %%
def fit(D, x0, steps=400, batch=256, lr=3e-3, draw=lambda B: torch.rand(B), weight=None, watch=None, **condition):
    """The plainest training there is: Adam, falling rate. -> losses (steps,)"""
    optimizer, losses = torch.optim.Adam(D.parameters(), lr=lr), []
    for step in range(steps):
        rows, t = torch.randint(len(x0), (batch,)), draw(batch)
        loss = D.loss(x0[rows], t, **{name: value[rows] for name, value in condition.items()})            # (B,)
        loss = loss if weight is None else weight(D.schedule.log_snr(t)) * loss
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
        if watch:
            watch(D, step)
    return torch.tensor(losses)

torch.set_num_threads(1)                                                            # such small layers gain nothing from a second thread
moons = data.two_moons(4000)
D = Denoiser(MLP(), cosine, "v")
fit(D, moons, steps=200)
print(f"loss after 200 steps: {D.loss(moons, torch.rand(4000)).mean():.3f}")

# %%
def bound(t):
    """The weight of the v loss in the bound of lesson 1, for continuous time: -(1/2) d log SNR / dt for eps errors, times SNR / (SNR + 1)."""
    slope = 2 * (cosine.d_alpha(t) / cosine.alpha(t) - cosine.d_sigma(t) / cosine.sigma(t))
    return (-slope / 2 * cosine.alpha(t) ** 2).float()                              # SNR / (SNR + 1) is alpha^2

def gradient(t, factor=1.0):
    """The gradient of one batch's mean loss: one long vector."""
    rows = torch.randint(len(moons), (len(t),))
    return torch.cat([g.flatten() for g in torch.autograd.grad((factor * D.loss(moons[rows], t)).mean(), list(D.parameters()))])

middles = 0.01 + 0.98 * (torch.arange(20) + 0.5) / 20                               # the middles of 20 slices of [0.01, 0.99]
sizes = {name: torch.stack([torch.stack([gradient(t[None], weight(t)) for _ in range(15)]).square().sum(1).mean().sqrt() for t in middles])
         for name, weight in {"v loss": lambda t: 1.0, "the bound": bound}.items()}                                # g(t), (20,)
plots.curves(middles, sizes, yscale="log", title="The size g(t) of one example's gradient", xlabel="t   (data - noise)", ylabel="root mean square")

# %%
def slices(p):
    """64 times from a density that is constant on the 20 slices, p (20,) with mean 1; and 1 / p."""
    k = torch.multinomial(p, 64, replacement=True)
    return 0.01 + 0.98 * (k + torch.rand(64)) / 20, 1 / p[k]

for name, weight in {"v loss": lambda t: 1.0, "the bound": bound}.items():
    best = sizes[name] / sizes[name].mean()
    ways = {"uniform": lambda: (0.01 + 0.98 * torch.rand(64), 1.0), "stratified": lambda: (0.01 + 0.98 * (torch.arange(64) + torch.rand(64)) / 64, 1.0),
            "importance": lambda: slices(best)}
    for way, draw in ways.items():
        draws = torch.stack([gradient(t, f * weight(t)) for t, f in (draw() for _ in range(200))])                 # (200, parameters)
        print(f"{name:9} {way:10} size of the gradient's noise, root of the summed variances: {draws.var(0).sum().sqrt():7.3f}")

# %% [markdown]
# **What this shows.** For the $v$ loss on these data no way of drawing is much better than another: its gradients have nearly one size at all times, and most of their noise comes from the noise $\epsilon$, not from the times. (A good reason to like this loss.) For the bound, whose gradients are huge near $t = 0$, drawing those times more often and weighing them less takes most of the noise away. That is why one needs it to train the bound itself (Nichol & Dhariwal 2021), and not to train $v$. *Logit-normal* times, $t = \operatorname{sigmoid}(z)$ with normal $z$, as in EDM and SD3, are usually *not* weighed back: there they are a weighting in disguise, with an accent on the middle.

# %% [markdown]
# ## 3.6 Designing a schedule
#
# **A schedule that is right for small images is wrong for large ones.** Enlarge a digit fourfold: each pixel becomes 4 x 4 equal ones. Add noise, and shrink again by averaging: the 16 independent noises shrink to a quarter of their size, the digit stays as it was. In general, with blocks of $k\times k$ pixels, noise of variance $\sigma^2$ has variance $\sigma^2/k^2$ after averaging:
#
# $$\log\mathrm{SNR}_{\text{after averaging } k\times k} = \log\mathrm{SNR} + 2\log k \tag{3.?shift}$$
#
# So the same $t$ leaves more to see in a large image. To destroy as much, shift the whole schedule down by $2\log k$ (Hoogeboom et al. 2023): multiply $\sigma/\alpha$ by $k$. On the flow schedule, where $\sigma/\alpha = t/(1-t)$, this is a new clock; solve $\frac{t'}{1-t'} = k\,\frac{t}{1-t}$:
#
# $$t' = \frac{k\,t}{1 + (k-1)\,t} \tag{3.?clock}$$
#
# (Stable Diffusion 3 samples with $k = 3$.)

# %%
digit, t = digits[7:8], 0.62
large = F.interpolate(digit, scale_factor=4.0)                                      # (1, 1, 112, 112)
shifted = torch.tensor(4 * t / (1 + 3 * t), dtype=torch.float64)
g = torch.Generator().manual_seed(0)
noisy = [flow.perturb(x, at, torch.randn(x.shape, generator=g)) for x, at in ((digit, t), (large, t), (large, shifted))]
shrunk = [noisy[0]] + [F.avg_pool2d(x, 4) for x in noisy[1:]]
rescaled = [x / (2 * x.std()) for x in shrunk]
plots.show(torch.cat(rescaled), width=5, title="28 x 28;  112 x 112, same t;  112 x 112, shifted t")
snr = lambda x, at: (flow.alpha(at) ** 2 / flow.sigma(at) ** 2).log()
print(f"log SNR: {snr(digit, t):.2f}; averaged 4 x 4: {snr(large, t) + 2 * math.log(4):.2f}; shifted and averaged: {snr(large, shifted) + 2 * math.log(4):.2f}")

# %% [markdown]
# **What the figure shows.** The large image at the same $t$ still shows its digit clearly once the eye averages; with the shifted clock it is as hidden as the small one.
#
# **The end must be noise.** DDPM's linear schedule ends at $\alpha(1) = 0.0064$: nearly nothing of the image is left. Nearly. The *brightness* of a picture is the mean of all its $d$ numbers, and averaging $d$ of them shrinks the noise by $\sqrt d$. With $d = 3\cdot 512^2$ the noise in the mean has size $1/887$; the brightness is multiplied by 0.0064, which is nearly six times as much. A network in training at $t = 1$ can read the brightness of the picture from "pure noise". At sampling it gets noise without a brightness, takes it for a picture of medium brightness, and believes it. (Lin et al. 2023 found that Stable Diffusion could not draw a very dark or a very bright picture.)
#
# To see it without training anything, let pictures be of one brightness each, uniform between $-1$ and 1. All that matters is the mean $m = \alpha b + \sigma\epsilon/\sqrt d$. This is a problem on a line, and the exact denoiser of brightness is a ratio of two sums:

# %%
def brightness_samples(schedule, d, n=1500, steps=100):
    """Brightness of exact samples of pictures with d numbers, started from pure noise: (n,)"""
    b = torch.linspace(-1, 1, 201, dtype=torch.float64)

    def denoiser(m, t):                                                             # (n, 1) -> (n, 1)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t) / d**0.5
        return ((-(m - alpha * b).square() / (2 * sigma**2)).softmax(1) @ b)[:, None]

    ts = 1 - 0.9 * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 3             # most steps near t = 1, where it is decided
    m = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * schedule.sigma(1.0) / d**0.5
    for t, s in zip(ts[:-1], ts[1:]):                                               # DDIM on the line; the noise has size sigma / sqrt(d)
        b_hat = denoiser(m, t)
        m = schedule.alpha(s) * b_hat + schedule.sigma(s) / schedule.sigma(t) * (m - schedule.alpha(t) * b_hat)
    return denoiser(m, ts[-1])[:, 0]

ends = {"DDPM's linear schedule": Schedule.linear(), "zero terminal SNR": Schedule.zero_terminal_snr()}
bright = {name: brightness_samples(schedule, 3 * 512**2) for name, schedule in ends.items()}
plots.histogram(list(bright.values()), labels=list(bright), title="Brightness of samples; the data are uniform between -1 and 1", xlabel="brightness")
for name, b in bright.items():
    print(f"{name:24} standard deviation {b.std():.3f} (uniform: {3**-0.5:.3f}), darker than -0.8: {(b < -0.8).double().mean():.3f} (uniform: 0.100)")

# %% [markdown]
# **What the figure shows.** With the usual schedule, perfect sampling of a perfect model yields medium pictures only. `Schedule.zero_terminal_snr` shifts and stretches $\sqrt{\bar\alpha}$ to end at 0 exactly, and the brightness is right again. There $\epsilon$ says nothing about $x_0$ any more, so it needs another target: $v$.
#
# ## 3.7 Learning the variance, and counting bits
#
# Lesson 1 left the variance of the step back to choice: any $\sigma_t^2$ between $\tilde\beta_t$ and $\beta_t$. For good samples it hardly matters with many steps; for the *bound* it does. Nichol & Dhariwal (2021) let the network choose, on a logarithmic scale between the two, by a second output $r \in [0, 1]$:
#
# $$\log\sigma_\theta^2(x_t, t) = r\,\log\beta_t + (1-r)\,\log\tilde\beta_t \tag{3.?logvar}$$
#
# $L_{\text{simple}}$ does not contain the variance, so nothing would teach it. The bound does. The *hybrid* loss takes both, a little of the bound (in bits per dimension; its sum over $T$ steps is estimated by $T$ times one of them), and lets the bound's gradient reach the variance only:
#
# $$L_{\text{hybrid}} = L_{\text{simple}} + 0.001\;L_{\text{vlb}} \tag{3.?hybrid}$$
#
# The last term of the bound, $-\log p(x_0\mid x_1)$, is a *probability* for images, since their values are 256 levels: with mean $\mu$ and deviation $s$, each level gets what the Gaussian puts between its neighbours' midpoints, and the two ends get the tails. For levels $2/255$ apart,
#
# $$p(x_0 \mid x_1) = \Phi\Big(\frac{x_0 + \frac1{255} - \mu}{s}\Big) - \Phi\Big(\frac{x_0 - \frac1{255} - \mu}{s}\Big), \qquad \Phi(-\infty) = 0 \text{ at } x_0 = -1,\ \ \Phi(\infty) = 1 \text{ at } x_0 = 1 \tag{3.?discrete}$$
#
# Sum all terms of the bound, divide by $\log 2$ and by the number of pixels: *bits per dimension*, the length of the file into which this model would pack an image, losslessly.
#
# How much is a learned variance worth? To see it alone, take data whose perfect $\epsilon$ is known, a ring of six bumps, and let a small network learn nothing but $r$. The true length of the file is known, too: by the density of the data, times the width of a level.

# %%
angle = torch.arange(6) * math.pi / 3
small_ring = data.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1) * 0.7, 0.06)
ddpm_schedule, test = Schedule.cosine(100), small_ring.sample(500, seed=9)
exact_D = small_ring.denoiser(ddpm_schedule)

class ExactEps(nn.Module):
    """The perfect eps, and a small network for the variance.   x: (B, 2), t: (B,) -> (B, 4)"""

    def __init__(self):
        super().__init__()
        self.variance = MLP()

    def forward(self, x, t):
        alpha, sigma = ddpm_schedule.alpha(t)[:, None], ddpm_schedule.sigma(t)[:, None]
        return torch.cat([((x - alpha * exact_D(x, t)) / sigma).float(), self.variance(x, t)], dim=1)

# %%
torch.manual_seed(0)
learned = DDPM(ExactEps(), ddpm_schedule.betas, learn_variance=True)
fixed = DDPM(lambda x, t: learned.net(x, t)[:, :2], ddpm_schedule.betas)
optimizer = torch.optim.Adam(learned.net.parameters(), lr=1e-2)
for step in range(200):
    x0, i = small_ring.sample(256, seed=step), torch.randint(100, (256,))
    optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
    optimizer.zero_grad(), learned.hybrid_loss(x0, i).mean().backward(), optimizer.step()

# %%
with torch.no_grad():
    terms = {name: torch.stack([ddpm.vlb_terms(test, torch.full((500,), i)).mean() for i in range(100)])           # (100,) bits per dimension
             for name, ddpm in {"fixed variance": fixed, "learned variance": learned}.items()}
plots.curves(torch.arange(1, 101), terms, yscale="log", title="The terms of the bound", xlabel="step   (data - noise)", ylabel="bits per dimension")
for name, term in terms.items():
    print(f"{name:17} bound: {term.sum() + fixed.prior_bits(test).mean():.3f} bits per dimension")
print(f"the data's own:   {(-small_ring.log_prob(test).mean() / 2 / math.log(2) - math.log2(2 / 255)):.3f}")

# %% [markdown]
# **What the figure shows.** A learned variance shortens the file, at the price of one more output per pixel. What is left to the truth is the price of 100 steps: each posterior is only nearly a Gaussian.
#
# ## 3.8 The craft of training
#
# **Averaging weights.** A network that still moves around its goal is, on average, nearer to it than at any moment. The *exponential moving average* keeps a second set of weights, $\bar\theta \leftarrow \beta\,\bar\theta + (1-\beta)\,\theta$. Unrolled, weights of $k$ steps ago count
#
# $$(1-\beta)\,\beta^{k}, \qquad\text{and the random start still counts } \beta^{n} \text{ after } n \text{ steps} \tag{3.?ema}$$
#
# With the popular $\beta = 0.9999$ that is 90 % after 1000 steps: the samples of a short run come from noise. Two remedies: a *warm-up*, $\min\big(\beta, \frac{1+n}{10+n}\big)$, or a *power function* (Karras et al. 2024), which `train.train` uses. Take $\beta_n = (1-\frac1n)^{\gamma+1}$ at step $n$. By the telescoping product, step $k$ counts after $n$ steps
#
# $$(1-\beta_k)\prod_{j=k+1}^{n}\Big(1-\frac1j\Big)^{\gamma+1} = (1-\beta_k)\Big(\frac kn\Big)^{\gamma+1} \approx \frac{\gamma+1}{n}\Big(\frac kn\Big)^{\gamma} \tag{3.?power}$$
#
# always the last part of the run, however long it is, and of the random start nothing, since $\beta_1 = 0$. One training, at a constant rate, and many averages beside it. The data are a mixture whose perfect denoiser is known, so that we can measure the *avoidable* error of $v$, without the noise that no network can predict:

# %%
class Averages:
    """Many averages of one network's weights at once: name -> (decay at step n) -> weights."""

    def __init__(self, net, decays):
        self.decays, self.weights = decays, {name: [p.detach().clone() for p in net.parameters()] for name in decays}

    def update(self, net, step):
        for name, decay in self.decays.items():
            torch._foreach_lerp_(self.weights[name], [p.detach() for p in net.parameters()], 1 - decay(step + 1))

    def net(self, like, name):
        net = copy.deepcopy(like)
        for p, average in zip(net.parameters(), self.weights[name]):
            p.data = average.clone()
        return net

constant = [0.0, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9999]
decays = {f"{b}": lambda n, b=b: b for b in constant} | {f"{b}, warm-up": lambda n, b=b: min(b, (1 + n) / (10 + n)) for b in constant}
decays |= {f"power {g}": lambda n, g=g: (1 - 1 / n) ** (g + 1) for g in (3, 9, 16)}

# %%
ring = data.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1) * 1.2, 0.15)
points, held, t_held = ring.sample(8000), ring.sample(4000, seed=5), torch.linspace(0.02, 1, 4000)
x_held = cosine.perturb(held, t_held, torch.randn(4000, 2, generator=torch.Generator().manual_seed(1)))
alpha, sigma = cosine.alpha(t_held)[:, None], cosine.sigma(t_held)[:, None]
v_held = ((alpha * x_held - ring.denoiser(cosine)(x_held, t_held)) / sigma).float()                          # the perfect v
avoidable = torch.no_grad()(lambda net: (net(x_held, t_held) - v_held).square().mean().item())

# %%
torch.manual_seed(0)
D = Denoiser(MLP(), cosine, "v")
averages = Averages(D.net, decays)
optimizer = torch.optim.Adam(D.parameters(), lr=1e-2)                               # constant, so that there is something to average
for step in range(800):
    loss = D.loss(points[torch.randint(8000, (128,))], torch.rand(128)).mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    averages.update(D.net, step)
result = {name: avoidable(averages.net(D.net, name)) for name in decays}
lines = {kind: torch.tensor([result[f"{b}{end}"] for b in constant]) for kind, end in {"constant decay": "", "with warm-up": ", warm-up"}.items()}
plots.curves(torch.arange(len(constant)), lines, yscale="log", title="Avoidable error against the decay (0: no average)",
             xlabel="decay", ylabel="mean squared error of v", xticks=range(len(constant)), xticklabels=constant)
print({name: round(result[name], 4) for name in ("0.0", "power 3", "power 9", "power 16")})

# %% [markdown]
# **What the figure shows.** Averaging beats the last weights; too long an average without a warm-up is far worse than none. The power functions need no tuning to the length of the run.
#
# *Post-hoc averages.* Which length is best is known only afterwards. Karras et al. (2024) store snapshots of two power-function averages during the run, and afterwards combine them linearly into an average of any other length: the coefficients are those whose combined profile over the steps, by (3.?power), comes nearest to the wanted profile in least squares.

# %%
def profile(gamma, n, steps):
    """How much each step counts in a power-function average after n steps: (steps,)"""
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    counts = (1 - (1 - 1 / k) ** (gamma + 1)) * (k / n) ** (gamma + 1)
    return torch.where(k <= n, counts, 0.0)

torch.manual_seed(0)
D2, snapshots = Denoiser(MLP(), cosine, "v"), []
tracked = Averages(D2.net, {f"power {g}": lambda n, g=g: (1 - 1 / n) ** (g + 1) for g in (4, 9, 16)})
optimizer = torch.optim.Adam(D2.parameters(), lr=1e-2)
for step in range(400):
    loss = D2.loss(points[torch.randint(8000, (128,))], torch.rand(128)).mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    tracked.update(D2.net, step)
    if (step + 1) % 50 == 0:
        snapshots += [(gamma, step + 1, [w.clone() for w in tracked.weights[f"power {gamma}"]]) for gamma in (4, 16)]

basis = torch.stack([profile(gamma, n, 400) for gamma, n, _ in snapshots], dim=1)   # (400, 16)
wanted = profile(9, 400, 400)
mix = torch.linalg.lstsq(basis, wanted).solution                                    # (16,)
made = [sum(c * w for c, w in zip(mix.tolist(), parts)) for parts in zip(*[weights for _, _, weights in snapshots])]
true = tracked.weights["power 9"]
distance = lambda a, b: sum((x - y).square().sum() for x, y in zip(a, b)).sqrt().item()
print(f"the average with gamma = 9, made afterwards from gammas 4 and 16: distance {distance(made, true):.4f}; "
      f"distance of the two it was made from: {distance(tracked.weights['power 4'], true):.3f} and {distance(tracked.weights['power 16'], true):.3f}")

# %% [markdown]
# **Rates, clipping, batches.** Each line is one change of the same short training (300 steps of 128 points, the last weights, no average); two seeds, avoidable error.

# %%
def variant(seed, lr=1e-2, schedule="falling", clip=None, batch=128, steps=300, parts=1):
    """One training; -> the avoidable error of the last weights."""
    torch.manual_seed(seed)
    net = MLP()
    D, optimizer = Denoiser(net, cosine, "v"), torch.optim.Adam(net.parameters(), lr=lr)
    for step in range(steps):
        rows, t = torch.randint(8000, (batch,)), (torch.arange(batch) + torch.rand(batch)) / batch
        optimizer.param_groups[0]["lr"] = lr * {"constant": 1.0, "falling": 1 - step / steps, "cosine": 0.5 + 0.5 * math.cos(math.pi * step / steps)}[schedule] * min(1, (step + 1) / 20)
        optimizer.zero_grad()
        eps = torch.randn(batch, 2)
        for x_part, t_part, eps_part in zip(points[rows].chunk(parts), t.chunk(parts), eps.chunk(parts)):           # gradients add up
            (D.loss(x_part, t_part, eps_part).sum() / batch).backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    return avoidable(net)

for name, change in {"base: falling rate 1e-2": {}, "constant rate": dict(schedule="constant"), "rate 1e-1": dict(lr=1e-1), "rate 1e-3": dict(lr=1e-3),
                     "gradients clipped at 0.1": dict(clip=0.1), "batch 64, 600 steps": dict(batch=64, steps=600), "batch 512, 75 steps": dict(batch=512, steps=75),
                     "base, batch in 4 parts": dict(parts=4)}.items():
    print(f"{name:26} {variant(0, **change):.5f} {variant(1, **change):.5f}")

# %% [markdown]
# A rate that falls to zero is worth most; a hundredfold range of peak rates shows how much the middle matters. Clipping guards against rare huge gradients and costs little where there are none. At an equal number of examples, small batches with many steps win on a CPU, where a step is cheap. And *gradient accumulation*, a batch taken in parts whose gradients add up, is the same training up to rounding, in a fraction of the memory: the last line equals the first.
#
# **Half precision.** fp16 has 5 bits of exponent and 10 of fraction, bf16 8 and 7: bf16 reaches as far as fp32 and is coarse, fp16 is finer and short.

# %%
tiny = torch.tensor(1e-8)
print(f"a gradient of 1e-8: in fp16 {tiny.half():.1e}, in bf16 {tiny.bfloat16():.1e}, in fp16 multiplied by 65536 first {(65536 * tiny).half().float() / 65536:.1e}")
print(f"1 + 0.001: in fp16 {(torch.tensor(1.001)).half():.4f}, in bf16 {(torch.tensor(1.001)).bfloat16():.4f}")
q, k = torch.full((1, 64), 40.0), torch.full((1, 64), 40.0)
scores = (q.half() @ k.half().T)                                                    # 64 * 40 * 40 = 102,400 > 65,504
weights = (torch.cat([scores, scores], 1)).softmax(1)
picture = (127.5 * (weights.float() + 1))
print(f"attention scores in fp16: {scores.item()}, their softmax: {weights.tolist()}, as a pixel: {picture.nan_to_num(0).to(torch.uint8).tolist()}")

# %% [markdown]
# That is the whole story of the *gradient scaler*: fp16 turns small gradients into zeros, so the loss is multiplied by a large number before the backward pass and the gradients divided by it after; when something overflows, the step is skipped and the number halved. And the story of the *black image*: one product too large for fp16 becomes infinite, the softmax of infinities is not a number, it spreads over the image, and is saved as 0: black. bf16 knows neither trouble, and `train.train` takes it where the hardware has it; weights, sums and samplers stay in fp32.
