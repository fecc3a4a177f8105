# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 3 · Exercises
#
# {{badge}}
#
# Nine questions, 25 points, about three and a half hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("3.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $\alpha$ and $\sigma$ are standard deviations, and $\mathrm{SNR} = \alpha^2/\sigma^2$; `log_snr` is its natural logarithm. The core sections of the lesson suffice for all questions; only the last paragraph of 3.9 asks for the kernel distances of section 3.12.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import inspect
import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import Schedule
from course_lib.checks import check, hint
from course_lib.checks.trainings import DEFECTS, SmallRun, moons, patient
from course_lib.lab import data, features, metrics, plots, tables

torch.manual_seed(0)
torch.set_num_threads(1)            # small networks gain nothing from a second thread
digits, labels = data.mnist("test")         # (N, 1, 28, 28), in [-1, 1]
cosine = Schedule.cosine()

# %% [markdown]
# ## 3.1 Warm-up: losses that can be compared (2 points, 10 minutes)
#
# Four papers report losses of four targets, all of them "mean squared errors", and none can be compared with another. But each is a weight times one and the same error, $\|\hat x_0 - x_0\|^2$ (section 3.2 of the lesson). Turn a loss of any target into that error. For $\epsilon$, $x_0$ and $v$ the schedule has $\alpha^2 + \sigma^2 = 1$; for flow, $\alpha = 1 - t$ and $\sigma = t$.

# %% tags=["answer:3.1"]
def x0_error(loss, target, log_snr):
    """The squared error of the x0-prediction, (B,).

    loss: (B,), target: "eps", "x0", "v" or "flow", log_snr: (B,)
    """
    ### BEGIN SOLUTION
    snr = log_snr.exp()
    weights = {
        "eps": snr,
        "x0": torch.ones_like(snr),
        "v": snr + 1,
        "flow": (1 + snr.sqrt()) ** 2,
    }
    return loss / weights[target]
    ### END SOLUTION

# %% tags=["check:3.1"]
check("3.1", x0_error)
### BEGIN HIDDEN TESTS
assert check.passed("3.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** What does a loss of 0.1 say about the image, target by target?

# %% tags=["solution"]
log_snr = torch.linspace(-8, 8, 200)
loss = torch.full((200,), 0.1)
errors = {target: x0_error(loss, target, log_snr).sqrt()
          for target in ("eps", "x0", "v", "flow")}
plots.curves(log_snr, errors, yscale="log", ylim=(1e-3, 30),
             title="A loss of 0.1 means an error of x0 of ...",
             xlabel="log SNR   (noise → data)", ylabel="root mean square error of x0")

# %% [markdown] tags=["solution"]
# **What the figure shows.** Where noise is strong (left), 0.1 is a poor score for $\epsilon$, an error of more than the whole range of the data, and a good one for $v$. Where the image is nearly clean, the same 0.1 is a small error for all but $x_0$. A loss means nothing without its target and its noise level.

# %% [markdown]
# ## 3.2 Derivation: min-SNR for every target (3 points, 20 minutes)
#
# min-SNR-$\gamma$ wants the error of $x_0$ to weigh $\min(\mathrm{SNR}, \gamma)$. Your training loop multiplies the loss of its *target*, which has a weight already. Derive the factor for $\epsilon$, $x_0$ and $v$ (with $\alpha^2+\sigma^2=1$) on paper, then write it down. It shall also be right at the two ends: `log_snr` is `inf` at $t = 0$, and `-inf` at $t = 1$ of a schedule with zero terminal SNR.
#
# (A widely used training script had, for a while, the factor of $\epsilon$ on the loss of $v$. Nothing crashes. Where is it most wrong, and by how much?)

# %% tags=["answer:3.2"]
def min_snr_factor(target, log_snr, gamma=5.0):
    """The factor on each loss, (B,).   target: "eps", "x0" or "v"; log_snr: (B,)"""
    ### BEGIN SOLUTION
    snr = log_snr.exp()
    if target == "eps":
        return (gamma / snr).clamp(max=1)           # min(SNR, gamma) / SNR, without 0 / 0
    if target == "x0":
        return snr.clamp(max=gamma)
    return snr.clamp(max=gamma) / (snr + 1)
    ### END SOLUTION

# %% tags=["check:3.2"]
check("3.2", min_snr_factor)
### BEGIN HIDDEN TESTS
assert check.passed("3.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** The loss of a target is its weight $w$ times the error, with $w = \mathrm{SNR},\ 1,\ \mathrm{SNR}+1$; so the factor is $\min(\mathrm{SNR},\gamma)/w$. The wrong one, $\min(\mathrm{SNR},\gamma)/\mathrm{SNR}$ on the $v$ loss, makes the $x_0$ error weigh $\min(\mathrm{SNR},\gamma)\,\frac{\mathrm{SNR}+1}{\mathrm{SNR}}$: the ratio to what was meant is $1 + 1/\mathrm{SNR}$.

# %% tags=["solution"]
v_weight = log_snr.exp() + 1
meant = {
    "eps": min_snr_factor("eps", log_snr) * log_snr.exp(),
    "x0": min_snr_factor("x0", log_snr),
    "v": min_snr_factor("v", log_snr) * v_weight,
}
torch.testing.assert_close(meant["eps"], meant["v"])
torch.testing.assert_close(meant["x0"], meant["v"])
wrong = min_snr_factor("eps", log_snr) * v_weight
plots.curves(log_snr, {"min(SNR, 5), three times": meant["v"],
                       "the factor of eps on the v loss": wrong},
             yscale="log", title="The weight of the x0 error",
             xlabel="log SNR   (noise → data)", ylabel="weight")

# %% [markdown] tags=["solution"]
# **What the figure shows.** For clean images the two agree. For noisy ones the wrong factor is 1, so the $x_0$ error keeps $v$'s own weight and never falls below 1: at log SNR = -8 that is 3,000 times what was meant. The training is not ruined, which is why nobody notices; it is simply not min-SNR.

# %% [markdown]
# ## 3.3 The Fréchet distance by hand (3 points, 20 minutes)
#
# Write the squared Fréchet distance of two Gaussians from their means and covariances,
#
# $$d^2 = |\mu_a-\mu_b|^2 + \operatorname{tr}\big(A + B - 2\,(A^{1/2}BA^{1/2})^{1/2}\big),$$
#
# where the root of a matrix is the symmetric $R$ with $R\,R = M$, and not the root of each entry. The covariances need not commute, $AB \ne BA$, and may be singular.

# %% tags=["answer:3.3"]
def frechet(mu_a, A, mu_b, B):
    """mu_a, mu_b: (d,), A, B: (d, d) symmetric, float64 -> one number"""
    ### BEGIN SOLUTION
    w, V = torch.linalg.eigh(A)
    root = (V * w.clamp(min=0).sqrt()) @ V.T        # (d, d), A^(1/2)
    cross = torch.linalg.eigvalsh(root @ B @ root).clamp(min=0).sqrt().sum()
    return (mu_a - mu_b).square().sum() + A.trace() + B.trace() - 2 * cross
    ### END SOLUTION

# %% tags=["check:3.3"]
check("3.3", frechet)
### BEGIN HIDDEN TESTS
assert check.passed("3.3")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** The trace of a root is the sum of the roots of the eigenvalues, so only one matrix root is needed. Now turn a long thin Gaussian against another one. $\operatorname{tr}(A^{1/2}B^{1/2})$, the trace of the product of the two roots, is the most plausible wrong formula:

# %% tags=["solution"]
def power(C, p):
    """A power of a symmetric matrix."""
    w, V = torch.linalg.eigh(C)
    return (V * w.clamp(min=0) ** p) @ V.T

def rotation(degrees):
    a = torch.deg2rad(degrees)
    return torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])

zero = torch.zeros(2).double()
A = torch.tensor([[4.0, 0.0], [0.0, 0.1]]).double()
root = power(A, 0.5)
angles = torch.linspace(0, 90, 46).double()
right, wrong = [], []
for R in map(rotation, angles):
    right.append(frechet(zero, A, zero, R @ A @ R.T))
    wrong.append(2 * A.trace() - 2 * (root @ R @ root @ R.T).trace())

# %% tags=["solution"]
plots.curves(angles, {"root of the product": torch.stack(right),
                      "product of the roots": torch.stack(wrong)},
             title="N(0, A) against the same, turned; A = diag(4, 0.1)",
             xlabel="angle in degrees", ylabel="squared distance")
a = torch.randn(500, 3).double()
b = 2 * torch.randn(400, 3).double() @ torch.randn(3, 3).double() + 1
by_hand = frechet(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
torch.testing.assert_close(by_hand.item(), metrics.frechet_distance(a, b))

# %% [markdown] tags=["solution"]
# **What the figure shows.** At 0 and at 90 degrees the two matrices commute and the formulas agree. In between, the wrong one is larger; a test with diagonal covariances would never find out.

# %% [markdown]
# ## 3.4 What would the distance be with infinitely many samples? (3 points, 20 minutes)
#
# The Fréchet distance from $n$ samples is, on average, about $a/n + b$. You have measured it at several $n$, in any order, perhaps twice at the same $n$. Estimate $b$ by a straight line in $1/n$, fitted to *all* values by unweighted least squares: no value is left out, and none counts more than another.

# %% tags=["answer:3.4"]
def extrapolate(ns, values):
    """The distance at n = infinity, one number.

    ns: (K,) numbers of samples, values: (K,) distances, both float64
    """
    ### BEGIN SOLUTION
    columns = torch.stack([1 / ns, torch.ones_like(ns)], dim=1)             # (K, 2)
    slope, limit = torch.linalg.lstsq(columns, values[:, None]).solution[:, 0]
    return limit
    ### END SOLUTION

# %% tags=["check:3.4"]
check("3.4", extrapolate)
### BEGIN HIDDEN TESTS
assert check.passed("3.4")
### END HIDDEN TESTS

# %% [markdown]
# Use it. Two "models" draw real test digits, and now and then pure noise: of the samples of model A 1.5 % are noise, of model B 0.5 %. So B is the better one. `measure(fraction, n)` draws $n$ samples and returns their distance to 2,000 other digits. Can you find out that B is better from one measurement of each, with the same $n = 200$? With A at $n = 1500$ and B at $n = 300$? Repeat each fifty times before you answer, and then extrapolate. (Write it in a cell of your own; the solution has one.)

# %%
order = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:4000]
reference = metrics.RunningMoments(features.digit_features(digits[order[:2000]]))
pool = features.digit_features(digits[order[2000:]])                        # (2000, 128)
noise_images = torch.randn(100, 1, 28, 28).clamp(-1, 1)
noise_pool = features.digit_features(noise_images)                          # (100, 128)

def measure(fraction, n):
    """The Fréchet distance of n samples, the fraction of them noise, to the reference."""
    z = pool[torch.randperm(2000)[:n]]                                      # (n, 128)
    noise = noise_pool[torch.randint(100, (n,))]
    is_noise = torch.arange(n)[:, None] < round(fraction * n)
    return metrics.frechet_distance(torch.where(is_noise, noise, z), reference)

# %% tags=["solution"]
sizes = [200, 300, 500, 1000, 1500]

def fifty(fraction):
    """Fifty distances for each size: (5, 50)"""
    return torch.tensor([[measure(fraction, n) for _ in range(50)] for n in sizes]).double()

def a_wins(a, b):
    """The fraction of all pairs of one draw each in which A looks better."""
    return (a[:, None] < b).double().mean()

a, b = fifty(0.015), fifty(0.005)
rows = {}
for n, of_a, of_b in zip(sizes, a, b):
    rows[n] = {"A": f"{of_a.mean():.2f} ± {of_a.std():.2f}",
               "B": f"{of_b.mean():.2f} ± {of_b.std():.2f}",
               "A looks better": f"{a_wins(of_a, of_b):.0%}"}

# %% tags=["solution"]
ns = torch.tensor(sizes).double()
means = {"A, 1.5 % noise": a.mean(1), "B, 0.5 % noise": b.mean(1)}
limit_a, limit_b = (extrapolate(ns, mean) for mean in means.values())
rows["infinity"] = {"A": f"{limit_a:.2f}", "B": f"{limit_b:.2f}", "A looks better": ""}
tables.table(rows, index="n", caption="Fréchet distance: mean and standard deviation of "
             "50 draws; in how many pairs of one draw each A looks better")
print("A at n = 1500 against B at n = 300: "
      f"A looks better in {a_wins(a[4], b[1]):.0%} of all pairs of one draw each")
plots.curves(1 / ns, means, xlim=(0, 0.0052), ylabel="Fréchet distance",
             title="Means of 50 draws, on an axis on which the bias is a straight line",
             xlabel="1 / n   (infinitely many samples at 0)")

# %% [markdown] tags=["solution"]
# **What the figure shows.** The two lines have nearly one slope: the bias is much the same for both models, and at $n = 200$ much larger than what tells them apart. At equal $n$ it cancels; but each single draw has its own error, and at small $n$ the worse model is often ahead. At different $n$ the comparison is worth nothing. (What is left of B at infinity is largely the error of the 2,000 reference digits themselves.)

# %% [markdown]
# ## 3.5 The EMA of weights, from blank (3 points, 25 minutes)
#
# Write the class `EMA`, the **exponential moving average** of a network's weights. `EMA(net, decay)` keeps, in `self.net`, a second network with weights of its own, which begins equal to `net`. `update(net)` is called after each step of the optimizer:
#
# - every parameter becomes $d\cdot\text{average} + (1-d)\cdot\text{parameter}$ with the warm-up $d = \min\big(\text{decay},\ \frac{1+n}{10+n}\big)$, where $n = 0, 1, 2, \dots$ counts the updates before this one;
# - every buffer that `state_dict()` lists (such as the running statistics of a batch norm) becomes a copy of the network's;
# - the average never requires gradients, and the network that is being trained is left as it is: its weights, its buffers, its gradients, its mode (training or evaluation). No tensor belongs to both.

# %% tags=["answer:3.5"]
class EMA:
    """ema = EMA(net, decay); after each step ema.update(net); ema.net has the averages."""

    def __init__(self, net, decay=0.999):
        ### BEGIN SOLUTION
        self.net = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay
        self.n = 0
        ### END SOLUTION

    def update(self, net):
        ### BEGIN SOLUTION
        d = min(self.decay, (1 + self.n) / (10 + self.n))
        with torch.no_grad():
            for average, parameter in zip(self.net.parameters(), net.parameters()):
                average.lerp_(parameter, 1 - d)
            for average, buffer in zip(self.net.buffers(), net.buffers()):
                average.copy_(buffer)
        self.n += 1
        ### END SOLUTION

# %% tags=["check:3.5"]
check("3.5", EMA)
### BEGIN HIDDEN TESTS
assert check.passed("3.5")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** A "network" of one weight finds its goal, 1, within 100 steps and trembles around it. Beside your average with warm-up, one with a constant decay of the same size:

# %% tags=["solution"]
one = nn.Linear(1, 1, bias=False)
one.weight.data.zero_()
weights = 1 - (-torch.arange(400) / 25).exp() + 0.15 * torch.randn(400)
ema = EMA(one, 0.999)
constant = 0.0
with_warmup, without_warmup = [], []
for weight in weights:
    one.weight.data.fill_(weight)
    ema.update(one)
    constant = 0.999 * constant + 0.001 * weight.item()
    with_warmup.append(ema.net.weight.item())
    without_warmup.append(constant)
plots.curves(torch.arange(400),
             {"the weight": weights, "0.999 with warm-up": torch.tensor(with_warmup),
              "0.999 from the first step": torch.tensor(without_warmup)},
             title="One weight and two averages of it", xlabel="step", ylabel="value",
             ylim=(-0.2, 2.1))

# %% [markdown] tags=["solution"]
# **What the figure shows.** With the warm-up the average follows at first, and grows calmer the longer the run lasts. With a constant 0.999 two thirds of it are still the start after 400 steps, since $0.999^{400} = 0.67$.

# %% [markdown]
# ## 3.6 Bug hunt: seven patients (2 points, 25 minutes)
#
# Seven trainings, A to G, on two moons like those of the lesson's clinic, but upright and thicker, with a smaller network and fewer steps. One is healthy; each of the others has one defect of this list, no two the same. (So four names belong to nobody.)

# %%
print(", ".join(DEFECTS))
patients = {letter: patient(letter) for letter in "ABCDEFG"}
columns = {
    "first": "first loss",
    "highest": "highest loss",
    "last": "last loss",
    "v(0.2)": "validation at t = 0.2",
    "v(0.5)": "validation at t = 0.5",
    "v(0.8)": "validation at t = 0.8",
    "energy": "energy distance",
    "live": "energy distance with the live weights",
    "labels": "share of right labels",
    "spread": "spread",
    "arc": "distance from the arc",
    "corr": "correlation with the starting noise",
}
rows = {letter: {short: run.numbers[name] for short, name in columns.items()}
        for letter, run in patients.items()}
tables.table(rows, ".3f", index="patient", caption="Seven trainings")

# %% [markdown]
# `first`, `highest` and `last` are training losses (the last is a mean of 100 steps). `v(t)` is the loss of the averaged weights at one noise level, computed by the library on fresh data. Samples are drawn with the averaged weights, 1,000 for each label: `energy` is their distance to real points, `live` the same with the weights of the last step; `labels` is the fraction on the moon that was asked for; `arc` the median distance from its middle line; `corr` the correlation of a sample with the noise that it started from. For comparison: the perfect network, known in closed form as in the clinic, would have a loss of 0.34, and `v` 0.49, 0.25 and 0.16; real points have `labels` 0.99, `spread` 0.48, `arc` 0.07.

# %%
x, y = moons(2000)
clouds = {letter: run.samples[::2] for letter, run in patients.items()}
plots.scatter({"data": x[y == 0]} | clouds, columns=4, limit=1.6,
              title="The right moon, label 0: data, and 1,000 samples of each patient")

# %% tags=["answer:3.6"]
def diagnoses():
    """-> {"A": a name from DEFECTS, ..., "G": ...}"""
    ### BEGIN SOLUTION
    return {
        "A": "average too slow",
        "B": "t below 0.5",
        "C": "noise drawn once",
        "D": "healthy",
        "E": "other schedule",
        "F": "labels at 1 - p",
        "G": "wrong sign",
    }
    ### END SOLUTION

# %% tags=["check:3.6"]
check("3.6", diagnoses)
### BEGIN HIDDEN TESTS
assert check.passed("3.6")
### END HIDDEN TESTS

# %% tags=["solution"]
same = [letter for letter, run in patients.items() if run.losses == patients["D"].losses]
print("the same losses as D, step by step:", ", ".join(same))

# %% [markdown] tags=["solution"]
# **Solution.** A, D, E and G have the same losses to the last digit: the defect, if any, lies after the loss, or in a sign, which a network learns as easily. Of these, A returns its noise (correlation 1) and is well with the live weights: the *average* is still the start. G flies away, and its validation is as bad as can be: the *wrong sign*. E has the validation of D, so its network is as good, but draws thin lines: its sampler follows the *other schedule*. D is *healthy*. C's loss is far below what a perfect network can reach, and its validation is terrible: its *noise was drawn once*. B starts with another loss, is as good as the others at $t$ = 0.2 and 0.5, and fails at 0.8, which it has never seen: *t below 0.5*. F is fine but for the moons' confusion: it was hardly ever given its *labels*.

# %% [markdown]
# ## 3.7 Stop, and go on as if nothing had happened (3 points, 25 minutes)
#
# This is a small training with everything that a large one has. `advance()` is one step, and `loss()` the loss of its batch, with the random numbers that it draws:

# %%
print(inspect.getsource(SmallRun))

# %% [markdown]
# A tutorial saves the weights only. Stop after 12 steps and go on in a new process:

# %%
def losses_of(run, steps):
    return [run.advance() for _ in range(steps)]

stopped = SmallRun(seed=1)
losses_of(stopped, 12)
weights = copy.deepcopy(stopped.net.state_dict())
resumed = SmallRun(seed=1)
resumed.net.load_state_dict(weights)
print("never stopped:", [f"{loss:.4f}" for loss in losses_of(stopped, 4)])
print("resumed:      ", [f"{loss:.4f}" for loss in losses_of(resumed, 4)])

# %% [markdown]
# Write `state` and `restore` so that a resumed run continues *bit for bit*: the same losses, and the same average of weights. The state must survive a file (`torch.save`, then `torch.load` with `weights_only=True`), so it holds tensors, numbers, and dicts or lists of them. It must not change when the run that it was taken from goes on, nor when a run goes on that was restored from it: it may be needed again. `restore` gets another run with the same `steps`, which has been somewhere else.

# %% tags=["answer:3.7"]
def state(run):
    """-> everything that going on needs"""
    ### BEGIN SOLUTION
    return copy.deepcopy({
        "net": run.net.state_dict(),
        "average": run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "step": run.step,
    })
    ### END SOLUTION

def restore(run, s):
    """Bring `run` to where the state `s` was taken; returns nothing."""
    ### BEGIN SOLUTION
    run.net.load_state_dict(s["net"])
    run.average.load_state_dict(s["average"])
    # the optimizer would keep these very tensors
    run.optimizer.load_state_dict(copy.deepcopy(s["optimizer"]))
    run.generator.set_state(s["generator"])
    run.step = s["step"]
    ### END SOLUTION

# %% tags=["check:3.7"]
check("3.7", (state, restore))
### BEGIN HIDDEN TESTS
assert check.passed("3.7")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** What does each forgotten part cost? The largest change of the next twenty losses, when all but one part is restored into a new run:

# %% tags=["solution"]
run = SmallRun(seed=1)
losses_of(run, 12)
s = state(run)
wanted = torch.tensor(losses_of(run, 20))
rows = {}
for part in s:
    again = SmallRun(seed=2)
    if part == "optimizer":
        fresh = torch.optim.Adam(again.net.parameters()).state_dict()
    else:
        fresh = state(again)[part]
    restore(again, s | {part: fresh})
    losses = torch.tensor(losses_of(again, 20))
    averages = again.average[0].weight - run.average[0].weight
    rows[part] = {"of a loss": (losses - wanted).abs().max(),
                  "of the average": averages.abs().max()}
tables.table(rows, ".4f", index="forgotten part",
             caption="Largest difference in twenty steps")

# %% [markdown] tags=["solution"]
# Every loss stays within what is usual for this training, so none of this would be noticed. A forgotten average does not show in the losses at all, and it is the average that samples. (There is one more trap: `load_state_dict` of a network copies the numbers, that of an optimizer keeps the very tensors it is given. Without the `deepcopy`, the resumed run writes into the state.)

# %% [markdown]
# ## 3.8 A schedule for larger images (3 points, 20 minutes)
#
# You have a schedule that works for images of `base_side` x `base_side` pixels, and want to train at `side` x `side`. Averaging $k \times k$ pixels, $k$ = `side` / `base_side`, leaves the image as it was and the noise smaller. Choose $\alpha$ and $\sigma$ such that, *after* this averaging, the log SNR at every $t$ is that of the base, and $\alpha^2 + \sigma^2 = 1$ as before. ($k$ need not be a whole number: 64 from 28, say.) Return a `Schedule`; it takes two functions of $t$, `Schedule(alpha, sigma)`. At $t = 0$ and at $t = 1$ it must be right, too.

# %% tags=["answer:3.8"]
def shifted(base, side, base_side):
    """base: a Schedule with alpha^2 + sigma^2 = 1 -> the Schedule for larger images"""
    ### BEGIN SOLUTION
    k = side / base_side
    size = lambda t: (base.alpha(t) ** 2 + (k * base.sigma(t)) ** 2).sqrt()
    return Schedule(
        lambda t: base.alpha(t) / size(t),
        lambda t: k * base.sigma(t) / size(t),
    )
    ### END SOLUTION

# %% tags=["check:3.8"]
check("3.8", shifted)
### BEGIN HIDDEN TESTS
assert check.passed("3.8")
### END HIDDEN TESTS

# %% [markdown]
# Now defend your choice by a measurement. Enlarge digits fourfold (`F.interpolate(x, scale_factor=4.0)`), add noise by the base schedule and by yours, average 4 x 4 pixels (`F.avg_pool2d`), and measure the log SNR: fit `x_t = slope * x0 + rest` to the pixels, and compare the slope's square with the variance of the rest. Add a cell for it.
#
# **Your sentence** on what it shows (nobody marks it):

# %% tags=["solution"]
def measured_log_snr(x_t, x0):
    """The log SNR of noisy images, by a straight line through their pixels.

    The line is x_t = slope * x0 + rest.
    """
    slope = (x_t * x0).mean() / x0.square().mean()
    return (slope**2 / (x_t - slope * x0).square().mean()).log()

x, times = digits[:60], torch.linspace(0.1, 0.95, 18)
large = F.interpolate(x, scale_factor=4.0)                          # (60, 1, 112, 112)
cases = {
    "28 x 28, base": (x, cosine, 1),
    "112 x 112, base": (large, cosine, 4),
    "112 x 112, shifted": (large, shifted(cosine, 112, 28), 4),
}
log_snrs = {}
for name, (x0, schedule, k) in cases.items():
    noisy = [schedule.perturb(x0, t, torch.randn_like(x0)) for t in times]
    averaged = [F.avg_pool2d(x_t, k) for x_t in noisy]                      # 28 x 28
    log_snrs[name] = torch.stack([measured_log_snr(x_t, x) for x_t in averaged])

# %% tags=["solution"]
plots.curves(times, log_snrs, title="log SNR, measured after averaging to 28 x 28",
             xlabel="t   (data → noise)", ylabel="log SNR")
difference = (log_snrs["112 x 112, base"] - log_snrs["112 x 112, shifted"]).mean()
print(f"base against shifted: {difference:.3f} on average, 2 log 4 = {2 * math.log(4):.3f}")

# %% [markdown] tags=["solution"]
# **What the figure shows.** With the base schedule the large digits keep 2.77 more log SNR at every $t$: they are destroyed later than the small ones, and much of the time is spent where there is nothing to decide. With the shifted schedule the large image goes through the same losses as the small one.

# %% [markdown]
# ## 3.9 Stretch: fool the Fréchet distance (3 points, 35 minutes)
#
# Make `n` points whose Fréchet distance to the `real` ones is 0 (up to rounding: smaller than any honest set of samples could get), although most of them lie where no real point is. The check counts: fewer than half of your points may be inside the balls of precision around the real ones, and no point may be a copy of a real one. It tries several clouds, also in three dimensions.
#
# Then find out by measurement, in a cell of your own: which other metrics of the lesson are fooled, too, and which are not? (For the Gaussian kernel take `width=0.5`: at 10, far above the size of these data, it sees nothing but the mean.)

# %%
centres = torch.tensor([[-1.4, 0.2], [0.3, 1.3], [1.2, 0.6], [0.9, -1.0], [-0.7, -0.9]])
bumps = data.GaussianMixture(centres, 0.1, [0.3, 0.25, 0.2, 0.15, 0.1])
real, honest = (bumps.sample(1000, seed).double() for seed in (1, 2))
print(f"honest samples: Fréchet distance {metrics.frechet_distance(real, honest):.4f}, "
      f"precision {metrics.precision_recall(real, honest)[0]:.2f}")

# %% tags=["answer:3.9"]
def fool(real, n):
    """real: (N, d) float64 -> (n, d)"""
    ### BEGIN SOLUTION
    def power(C, p):
        w, V = torch.linalg.eigh(C)
        return (V * w.clamp(min=0) ** p) @ V.T
    z = torch.randn(n, real.shape[1], dtype=real.dtype)
    z = z - z.mean(0)
    z = z @ power(z.T.cov(), -0.5)          # mean 0 and covariance I exactly, not by chance
    return z @ power(real.T.cov(), 0.5) + real.mean(0)
    ### END SOLUTION

# %% tags=["check:3.9"]
check("3.9", fool)
### BEGIN HIDDEN TESTS
assert check.passed("3.9")
### END HIDDEN TESTS

# %% tags=["solution"]
cubic = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
metrics_of_clouds = {
    "Fréchet": metrics.frechet_distance,
    "KID, cubic kernel": lambda a, b: metrics.mmd(a, b, cubic),
    "Gaussian kernel, width 0.5":
        lambda a, b: metrics.gaussian_kernel_distance(a, b, width=0.5),
    "precision": lambda a, b: metrics.precision_recall(b, a)[0],
    "recall": lambda a, b: metrics.precision_recall(b, a)[1],
}
fakes = [fool(real, 1000) for _ in range(5)]
others = [bumps.sample(1000, seed).double() for seed in range(2, 12)]
rows = {}
for name, metric in metrics_of_clouds.items():
    baseline = torch.tensor([metric(z, real) for z in others])
    values = torch.tensor([metric(z, real) for z in fakes])
    rows[name] = {"fooling points": values.mean(), "honest samples": baseline.mean(),
                  "their sd": baseline.std(),
                  "sds away": (values.mean() - baseline.mean()) / baseline.std()}

# %% tags=["solution"]
formats = dict.fromkeys(("fooling points", "honest samples", "their sd"), ".4f")
tables.table(rows, formats | {"sds away": ".1f"}, index="metric",
             caption="Means over 5 fooling clouds and 10 honest ones, 1,000 points each")
plots.scatter({"real": real, "honest samples": honest, "fooling points": fakes[0]},
              title="The Fréchet distance prefers the last to the middle")

# %% [markdown] tags=["solution"]
# **What this shows.** One Gaussian with the right mean and covariance beats honest samples: they have a distance above 0, by their bias. Recall is fooled, too: a wide cloud has balls everywhere, and so covers every real point. The cubic kernel compares third moments and notices something; the Gaussian kernel and precision, which look at places, cannot be fooled this way. Nobody fools on purpose. But a model that is *tuned* on one number for long enough will find out what the number does not see.

# %%
check.summary(3)
