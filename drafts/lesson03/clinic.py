# %%
import copy
import math
from types import SimpleNamespace
import torch
from torch import nn
from course_lib import Denoiser, Schedule, ddim, grid, last
from course_lib.lab import data, metrics, plots

# %% [markdown]
# ## A debugging clinic
#
# **The loss fell, and the samples are noise. Where do you look?** Diffusion code that is wrong seldom crashes. So we break one honest training in ten ways, look at the symptoms, and then build cheap tests that tell the ten apart.
#
# The patient is small, so that we can train it eleven times: points on two moons inside $[-1, 1]^2$, each with its label. Each moon is a row of 20 round Gaussians, so the perfect network is known in closed form. Its loss is the floor under every honest loss.

# %%
schedule = Schedule.cosine()
angle = torch.linspace(0, math.pi, 20)
upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1) / 1.5       # (20, 2) on an arc of radius 2/3
centres = torch.stack([upper, -upper])                                          # (2, 20, 2) one moon per label
mixtures = [data.GaussianMixture(c, 0.05) for c in (upper, -upper, centres.flatten(0, 1))]

def moons(n):
    """x0 (n, 2), y (n,): new points each time, so there is nothing to learn by heart."""
    y = torch.randint(2, (n,))
    return centres[y, torch.randint(20, (n,))] + 0.05 * torch.randn(n, 2), y

def coefficients(schedule, t):
    return schedule.alpha(t).float()[:, None], schedule.sigma(t).float()[:, None]          # (n, 1) each

def exact(x, t, y):
    """The perfect network: v = (alpha x - x0_hat) / sigma with the exact x0_hat. Label 2 means none."""
    alpha, sigma = coefficients(schedule, t)
    x0_hat = torch.stack([m.posterior_mean(x, alpha, sigma) for m in mixtures])            # (3, n, 2)
    return (alpha * x - x0_hat[y, torch.arange(len(x))]) / sigma

# %% [markdown]
# The training is the ordinary loop, but every ingredient of a step is made in one place, `batch`, and has a name. **That is the first advice of the clinic**: only what can be taken out can be looked at.

# %%
class Net(nn.Module):
    """x (n, 2), t (n,), y (n,) in {0, 1, 2 = none} -> (n, 2). Waves of x and t go in; the last layer starts at zero."""

    def __init__(self, width=64):
        super().__init__()
        self.label = nn.Embedding(3, 16)
        self.body = nn.Sequential(nn.Linear(3 * 9 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))
        nn.init.zeros_(self.body[-1].weight), nn.init.zeros_(self.body[-1].bias)

    def forward(self, x, t, y):
        h = torch.cat([x, t[:, None]], dim=1)                                              # (n, 3)
        waves = (h[:, :, None] * torch.arange(1, 5) * math.pi / 2).flatten(1)              # (n, 12)
        return self.body(torch.cat([h, waves.sin(), waves.cos(), self.label(y)], dim=1))

# %%
def batch(p, n):
    """Everything that one step is made of, by name; p holds the parts."""
    (x0, y), t, eps = p.data(n), p.times(n), p.noise(n)
    alpha, sigma = coefficients(schedule, t)
    y = torch.where(torch.rand(n) < p.p_drop, 2, y)                                        # some labels are dropped
    return SimpleNamespace(x0=x0, y=y, t=t, eps=eps, x_t=p.noisy(x0, eps, alpha, sigma), target=p.target(x0, eps, alpha, sigma))

def step(net, optimizer, b):
    loss = (net(b.x_t, b.t, b.y) - b.target).square().mean()
    optimizer.zero_grad(), loss.backward(), optimizer.step()
    return loss.item()

# %%
def training(p, steps=400):
    """The weights at the start and at the end, their average, and every loss."""
    torch.manual_seed(0)
    net = p.net()
    start, average = (copy.deepcopy(net).requires_grad_(False) for _ in range(2))
    optimizer, losses = torch.optim.AdamW(net.parameters(), p.lr, fused=True), []
    for k in range(steps):
        losses.append(step(net, optimizer, batch(p, 256)))
        torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - p.decay(k))
    return SimpleNamespace(p=p, start=start, net=net, average=average, losses=losses)

def sample(p, net, y):
    """Twenty steps of DDIM from fixed noise, under the schedule that p's sampler uses."""
    x = torch.randn(len(y), 2, generator=torch.Generator().manual_seed(1))
    return last(ddim(Denoiser(net, p.sampling, "v"), p.sampling, x, grid(p.sampling, 20), y=y))

# %% [markdown]
# **Ten defects, each one changed part.** None of them raises an error. Read the list and guess: which will ruin the samples, and which will show in the loss?

# %%
healthy = dict(net=Net, data=moons, times=torch.rand, noise=lambda n: torch.randn(n, 2), p_drop=0.1, lr=5e-3, sampling=schedule,
               noisy=lambda x0, eps, alpha, sigma: alpha * x0 + sigma * eps,
               target=lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0,
               decay=lambda k: min(0.99, (k + 1) / (k + 10)))                              # the average warms up

class NoTime(Net):
    def forward(self, x, t, y):
        return super().forward(x, 0 * t, y)

one_noise = torch.randn(2, generator=torch.Generator().manual_seed(3))                     # drawn once, before the loop
defects = {
    "time not passed":  dict(net=NoTime),
    "data in [0, 1]":   dict(data=lambda n: (lambda x0, y: ((x0 + 1) / 2, y))(*moons(n))),
    "noise drawn once": dict(noise=lambda n: one_noise.expand(n, 2)),                      # broadcasting hides it
    "wrong sign":       dict(target=lambda x0, eps, alpha, sigma: sigma * x0 - alpha * eps),
    "labels at 1 - p":  dict(p_drop=0.9),
    "average too slow": dict(decay=lambda k: 0.9999),                                      # and no warm-up
    "other schedule":   dict(sampling=Schedule.linear()),
    "sigma squared":    dict(noisy=lambda x0, eps, alpha, sigma: alpha * x0 + sigma**2 * eps),
    "rate x 30":        dict(lr=30 * 5e-3),
    "t below 0.5":      dict(times=lambda n: 0.5 * torch.rand(n))}

# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)                                                # so small a network gains nothing from more
runs = {name: training(SimpleNamespace(**healthy | change)) for name, change in ({"healthy": {}} | defects).items()}
torch.set_num_threads(threads)
asked = torch.arange(2000) % 2                                          # labels 0, 1, 0, 1, ...
torch.manual_seed(4)
real, more = (centres[asked, torch.randint(20, (2000,))] + 0.05 * torch.randn(2000, 2) for _ in range(2))
clouds = {name: sample(r.p, r.average, asked) for name, r in runs.items()}
plots.scatter({name: x[asked == 0] for name, x in ({"data": real} | clouds).items()}, columns=4, limit=1.4,
              title="1,000 samples of label 0, the upper moon: the data, the healthy training, ten broken ones")

# %%
@torch.no_grad()
def validation(p, net):
    """The loss at three noise levels, by the library: code that the training does not share."""
    torch.manual_seed(5)
    (x0, y), eps = p.data(4000), torch.randn(4000, 2)
    levels = [Denoiser(net, schedule).loss(x0, torch.full((4000,), t), eps, y=y).mean() for t in (0.2, 0.5, 0.8)]
    return " ".join(f"{v:6.3f}" for v in levels)

def quality(x):
    energy = metrics.mmd(x.double(), real.double(), lambda a, b: -torch.cdist(a, b))       # this kernel gives the energy distance
    right = (torch.cdist(x, centres.flatten(0, 1)).argmin(1) // 20 == asked).float().mean()         # label of the nearest Gaussian
    arc = torch.tensor([[-2, -1], [2, 1]])[asked] / 6                                      # the middle of the arc asked for
    off = ((x - arc).norm(dim=1) - 2 / 3).abs().median()
    return f"{energy:9.4f} {right:7.1%} {x.std():7.2f} {off:7.3f}"

# %%
p = runs["healthy"].p
b = batch(p, 4000)
print(f"{'':18}training loss          validation at t =      energy   right           off\n"
      f"{'':18} first highest   last    0.2    0.5    0.8  distance   label  spread  arc")
print(f"{'real points':61}{quality(more)}")
print(f"{'exact network':33}{(exact(b.x_t, b.t, b.y) - b.target).square().mean():6.3f} {validation(p, exact)} {quality(sample(p, exact, asked))}")
for name, r in runs.items():
    loss = f"{r.losses[0]:6.3f} {max(r.losses):7.3f} {sum(r.losses[-100:]) / 100:6.3f}"
    print(f"{name:17} {loss} {validation(r.p, r.average)} {quality(clouds[name])}")
print("\nthe healthy training's loss, step by step:", ", ".join(name for name in defects if runs[name].losses == runs["healthy"].losses))
print(f"energy distance of the samples of data in [0, 1], mapped back by 2 x - 1: {quality(2 * clouds['data in [0, 1]'] - 1).split()[0]}")
slow = runs["average too slow"]
print(f"energy distance of average too slow, sampled with the live weights: {quality(sample(slow.p, slow.net, asked)).split()[0]}")
began = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))                   # the noise that sample starts from
for name in ("healthy", "average too slow", "wrong sign"):
    print(f"correlation of samples with the noise they began as, {name}: {torch.corrcoef(torch.stack([began.flatten(), clouds[name].flatten()]))[0, 1]:.2f}")

# %% [markdown]
# **What the figure and the table show.** *The training loss.* Wrong sign, average too slow and other schedule have the healthy loss, step by step: a network learns $-v$ as easily as $v$, and the other two defects come after the loss. Data in [0, 1] and noise drawn once end *lower*; the second far below the exact network, which no honest loss can be. Time, labels, sigma squared and t below 0.5 end higher, but they fell, too, and without a healthy twin nobody would know. Only rate x 30 shows itself, by its jump. (Where such a run ends depends on the seed.)
#
# *Validation by noise level* says more: t below 0.5 is as good as the healthy training at 0.2 and 0.5, and lost at 0.8.
#
# *The samples.* Average too slow returns the very noise it began with, as the correlation says; wrong sign throws the same noise out of the frame. Time not passed leaves a haze of strays, labels at 1 - p mixes the moons. Data in [0, 1] sits in the wrong place at half the size; mapped back, it is worse than the healthy one, but no ruin. And three look *better* than the healthy training: other schedule, sigma squared and t below 0.5 draw fine lines where the data is broad. Their labels are right more often, and the energy distance of sigma squared is at the floor. (Nor does a thin line prove a defect: in twenty steps even the exact network draws moons thinner than the data's.)
#
# **From symptoms to tests.** A test returns one number, and we know beforehand what it must be. Five formulas tell us. A network whose last layer starts at zero has as its first loss the mean square of $v = \alpha\epsilon - \sigma x_0$; the noise is independent of the data, so the mixed term vanishes, and per coordinate
#
# $$\mathbb E\,v^2 = \alpha^2 + \sigma^2\,\mathbb E\,x_0^2. \tag{3.?ZERO}$$
#
# For the same reason the noisy data has, per coordinate,
#
# $$\operatorname{Var}(x_t) = \alpha^2\operatorname{Var}(x_0) + \sigma^2. \tag{3.?VAR}$$
#
# Give the *target itself* to the sampler's denoiser as if it were the network's output. With $\alpha^2 + \sigma^2 = 1$, the data must come back:
#
# $$\alpha x_t - \sigma v = \alpha(\alpha x_0 + \sigma\epsilon) - \sigma(\alpha\epsilon - \sigma x_0) = (\alpha^2 + \sigma^2)\,x_0 = x_0. \tag{3.?BACK}$$
#
# To test a sampler without any training, take data $x_0\sim\mathcal N(0, s^2 I)$. Then $x_0$, $\epsilon$ and $x_t$ are jointly Gaussian with mean 0, and a conditional mean is covariance over variance, times $x_t$. So $\mathbb E[x_0\mid x_t] = \alpha s^2 x_t / (\alpha^2s^2 + \sigma^2)$ and $\mathbb E[\epsilon\mid x_t] = \sigma x_t / (\alpha^2s^2 + \sigma^2)$, and the perfect network is
#
# $$v(x_t, t) = \alpha\,\mathbb E[\epsilon\mid x_t] - \sigma\,\mathbb E[x_0\mid x_t] = \frac{\alpha\sigma\,(1 - s^2)}{\alpha^2 s^2 + \sigma^2}\,x_t. \tag{3.?GAUSS}$$
#
# With it in the network's place the samples must have standard deviation $s$. If they have not, no training can help. Last, an average with decay $d$ after $n$ steps is
#
# $$\bar w_n = d\,\bar w_{n-1} + (1-d)\,w_n = d^n\,w_0 + (1-d)\sum_{k=1}^{n} d^{\,n-k}\,w_k: \tag{3.?LAG}$$
#
# the start keeps the share $d^n$. At $d = 0.9999$ and $n = 400$ that is 0.96.

# %%
def seen(p, n=20_000):
    """One large batch, the same at every call."""
    torch.manual_seed(7)
    return batch(p, n)

def repeated(r):                                                        # noise that comes again in the next batch
    torch.manual_seed(7)
    return (batch(r.p, 256).eps == batch(r.p, 256).eps).float().mean()

def gap(r):                                                             # the longest stretch of [0, 1] without any t
    return torch.cat([seen(r.p).t, torch.tensor([0.0, 1.0])]).sort().values.diff().max()

def at_zero(r):                                                         # the loss of an output 0, against its formula
    b, (alpha, sigma) = seen(r.p), coefficients(r.p.sampling, torch.rand(20_000))
    return b.target.square().mean() / (alpha**2 + sigma**2 * b.x0.square().mean()).mean()

def variance(r):                                                        # of x_t, against its formula, with the sampler's schedule
    b, (alpha, sigma) = seen(r.p), coefficients(r.p.sampling, seen(r.p).t)
    return ((b.x_t - alpha * b.x0.mean(0)) ** 2 / (alpha**2 * b.x0.var(0) + sigma**2)).mean()

# %%
def answer(r):                                                          # the perfect answer through the sampler's denoiser
    b = seen(r.p)
    return (Denoiser(lambda x, t, y: b.target, r.p.sampling, "v")(b.x_t, b.t, y=b.y) - b.x0).square().mean().sqrt()

def gauss(r, s=0.5):                                                    # the sampler alone: exact network in, standard deviation out
    def net(x, t, y):
        alpha, sigma = coefficients(schedule, t)
        return alpha * sigma * (1 - s**2) / (alpha**2 * s**2 + sigma**2) * x
    return sample(r.p, net, torch.zeros(4000)).std() / s

# %%
@torch.no_grad()
def clock(r):                                                           # how much the output changes with t alone
    b, out = seen(r.p, 2000), lambda t: r.net(b.x_t, torch.full((2000,), t), b.y)
    return (out(0.3) - out(0.7)).norm() / out(0.5).norm()

def heart(r):                                                           # eight examples, learned by heart in a hundred steps
    net, b = r.p.net(), seen(r.p, 8)
    optimizer = torch.optim.AdamW(net.parameters(), r.p.lr, fused=True)
    losses = [step(net, optimizer, b) for _ in range(100)]
    return sum(losses[-10:]) / 10 / losses[0]

def lag(r):                                                             # from the average to the weights, in units of the way they went
    start, net, average = (torch.cat([w.detach().flatten() for w in m.parameters()]) for m in (r.start, r.net, r.average))
    return (average - net).norm() / (net - start).norm()

@torch.no_grad()
def library(r):                                                         # the loss by somebody else's code, against our own
    torch.manual_seed(8)
    x0, y = r.p.data(4000)
    return Denoiser(r.net, r.p.sampling).loss(x0, torch.rand(4000), y=y).mean() / (sum(r.losses[-100:]) / 100)

# %%
tests = {"range":  (lambda r: seen(r.p).x0.min(), -1.5, -0.8),                          # the data begins near -1
         "noise":  (repeated, 0, 0.01),
         "times":  (gap, 0, 0.01),
         "labels": (lambda r: (seen(r.p).y == 2).float().mean(), 0.08, 0.12),           # the share that became "none"
         "zero":   (at_zero, 0.95, 1.05),
         "var":    (variance, 0.95, 1.05),
         "answer": (answer, 0, 0.001),
         "gauss":  (gauss, 0.9, 1.1),
         "clock":  (clock, 0.1, 10),
         "heart":  (heart, 0, 0.1),
         "jump":   (lambda r: max(r.losses) / r.losses[0], 0, 2),                       # the highest loss of the run
         "lag":    (lag, 0, 0.5),
         "lib":    (library, 0.8, 1.25)}
line = lambda name, words: print(f"{name:17}" + "".join(f"{w:>7}" for w in words))
line("", tests)
line("at least", [f"{low:.2f}" for _, low, _ in tests.values()])
line("at most", [f"{high:.3g}" for _, _, high in tests.values()])
for name, r in runs.items():
    values = [(float(f(r)), low, high) for f, low, high in tests.values()]
    line(name, [f"{v:.2f}" if name == "healthy" or not low <= v <= high else "." for v, low, high in values])
    assert all(low <= v <= high for v, low, high in values) == (name == "healthy")

# %% [markdown]
# **What the matrix shows.** A point is a pass, a number a failure. The healthy training passes every test, and each defect fails at least one. The tests from *range* to *gauss* need no training and find seven of the ten before the first step. Four defects fail one test only: nothing general stands in for looking at the range, the time, the labels and the average. Even *lib*, the loss by somebody else's code, misses most of them. Combinations tell defects apart: wrong sign, other schedule and sigma squared all fail *answer*; if *var* passes it is the sign, if *gauss* fails it is the sampler.
#
# This is one seed, one toy, one defect at a time. The limits of the first eight tests come from formulas and sample sizes, with room (in *gauss* for the error of twenty steps); those of the last five are judgement. On images a missing time does less damage (section 2.9), so *clock* is needed there all the more.
#
# | in this order | symptom | suspects | test |
# | --- | --- | --- | --- |
# | 1 | none yet: before training | data, noise, times, labels, coefficients, sampler | range, noise, times, labels, zero, var, answer, gauss |
# | 2 | eight examples cannot be learned; the loss jumps | learning rate | heart, jump |
# | 3 | the loss is too good | noise reused; data smaller than you think | noise, range |
# | 4 | samples are noise, the loss is fine | average | lag; sample with the live weights |
# | 5 | samples fly away, the loss is fine | sign, coefficients | answer, lib |
# | 6 | samples too thin, too smooth | another schedule or noise level in training than in sampling; times not covered | answer, var, gauss, times |
# | 7 | good samples in a haze of strays | time not heard | clock |
# | 8 | samples shifted or too small | range | range |
# | 9 | wrong class | labels dropped, or mixed up | labels |
#
# **"My samples are pure noise."** In our matrix this has few causes; look in this order. (1) Sample with the live weights: an average that is still the start returns its noise, and the training loss does not show it. (2) *answer*: training and sampling disagree about a sign or a coefficient, again with a healthy loss. (3) The loss itself: nearly zero, and the noise is reused; a jump, and the rate is too high. The other six defects never gave noise here. (How often each happens elsewhere, ten defects of our own choice cannot say. The order is what is quick to try and what the loss hides.)
