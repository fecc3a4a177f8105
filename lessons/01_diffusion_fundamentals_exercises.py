# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 1 · Exercises
#
# {{badge}}
#
# Ten questions, 27 points, under three hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("1.1")` gives a hint, and a stronger one each time you call it. Nothing is lost by trying. Formula numbers are those of the lesson. Its core sections suffice for all questions but 1.5, which needs the deeper part of section 1.5.
#
# In the questions `beta`, `alpha_bar` and every `a` are variances, as in the paper: $a$ stands for some $\bar\alpha$.

# %% tags=["setup"]
{{setup}}

# %%
import math

import torch

from course_lib import DDPM, Schedule
from course_lib.checks import check, hint
from course_lib.lab import data, plots

betas = torch.linspace(1e-4, 0.02, 1000)
alpha_bar = torch.cumprod(1 - betas, dim=0)                 # (1000,)
digits, _ = data.mnist("test")

# %% [markdown]
# ## 1.1 Warm-up: where does the variance go? (2 points, 5 minutes)
#
# Data of variance $v$ goes through the forward process, the steps (1.4) with the given betas, one after the other. What is its variance at the end? Start from (1.5): what happens to the *distance* of the variance from 1?

# %% tags=["answer:1.1"]
def variance_after(v, betas):
    """The variance of x_T.   v: a number, the variance of x_0; betas: (T,) -> a number"""
    ### BEGIN SOLUTION
    return 1 + (v - 1) * torch.prod(1 - betas)
    ### END SOLUTION

# %% tags=["check:1.1"]
check("1.1", variance_after)
### BEGIN HIDDEN TESTS
assert check.passed("1.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Subtract 1 on both sides of (1.5): $\operatorname{Var}(x_t) - 1 = (1-\beta_t)(\operatorname{Var}(x_{t-1}) - 1)$. Each step multiplies the distance by $1-\beta_t$, so all of them by $\prod(1-\beta_t) = \bar\alpha_T$.

# %% [markdown]
# ## 1.2 Derivation: from any level to any noisier one (2 points, 15 minutes)
#
# (1.7) jumps from the data to level $t$. Find the jump from $x_s$ to $x_t$ for any $s < t$: $q(x_t \mid x_s) = \mathcal N(\text{factor}\cdot x_s,\ \text{variance}\cdot I)$. Derive it on paper first, from (1.1) and (1.7); the check only looks at the two numbers.

# %% tags=["answer:1.2"]
def jump(a_s, a_t):
    """From level s to level t: factor and variance of q(x_t | x_s).

    a_s > a_t: alpha_bar_s and alpha_bar_t, tensors without dimensions
    """
    ### BEGIN SOLUTION
    ratio = a_t / a_s
    return ratio.sqrt(), 1 - ratio
    ### END SOLUTION

# %% tags=["check:1.2"]
check("1.2", jump)
### BEGIN HIDDEN TESTS
assert check.passed("1.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** With $x_s = \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1-\bar\alpha_s}\,\epsilon$, the jump gives $f\sqrt{\bar\alpha_s}\,x_0$ and noise of variance $f^2(1-\bar\alpha_s) + \text{variance}$. Both must be those of (1.7) at $t$: $f = \sqrt{\bar\alpha_t/\bar\alpha_s}$, and $\text{variance} = 1 - \bar\alpha_t - \frac{\bar\alpha_t}{\bar\alpha_s}(1-\bar\alpha_s) = 1 - \frac{\bar\alpha_t}{\bar\alpha_s}$. The steps in between are the induction of section 1.4, started at $s$: the product runs from $s + 1$ to $t$.

# %% [markdown]
# ## 1.3 Bug hunt: too clean (3 points, 10 minutes)
#
# Many tutorials have drawn noisy images with a line like the last one here:

# %%
def tutorial_q_sample(x0, i, eps, alpha_bar):
    a = alpha_bar[i].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a) * eps

# %% [markdown]
# The pictures look plausible. Find out *by experiment* how they differ from the real process: run it one step at a time, as in section 1.3, and compare. At which step is the difference between the two standard deviations of the noise largest? (The check tells you, once your function is right; compare.) Then write the right one. It must work for images (B, C, H, W) and for points (B, 2); the tutorial's does something strange with points.

# %% tags=["answer:1.3"]
def my_q_sample(x0, i, eps, alpha_bar):
    """One draw from q(x_t | x_0).

    x0, eps: (B, ...), i: (B,) steps 0 ... 999, alpha_bar: (1000,)
    """
    ### BEGIN SOLUTION
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))         # (B, 1, ..., 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    ### END SOLUTION

# %% tags=["check:1.3"]
check("1.3", my_q_sample)
### BEGIN HIDDEN TESTS
assert check.passed("1.3")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** The second argument of $\mathcal N(\cdot, 1-\bar\alpha_t)$ is a variance, so the noise must be multiplied by its square root. The experiment: the spread of many noisy copies of one pixel, against the spread that the steps give.

# %% tags=["solution"]
x, spread_of_steps = torch.zeros(5000), []
for beta in betas:
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(5000)
    spread_of_steps.append(x.std())
i = torch.arange(1000)
copies, noise = torch.zeros(1000, 1, 1, 2000), torch.randn(1000, 1, 1, 2000)
tutorials, mine = (f(copies, i, noise, alpha_bar) for f in (tutorial_q_sample, my_q_sample))
spread = {"the tutorial's": tutorials.std(dim=(1, 2, 3)),
          "mine": mine.std(dim=(1, 2, 3)),
          "the process, step by step": torch.stack(spread_of_steps)}
plots.curves(i, spread, title="The tutorial's images are too clean, most of all early on",
             xlabel="step i", ylabel="standard deviation of the noise")
gap = (1 - alpha_bar).sqrt() - (1 - alpha_bar)
worst = gap.argmax()
wrong, right = 1 - alpha_bar[worst], (1 - alpha_bar[worst]).sqrt()
print(f"largest difference at i = {worst}: {wrong:.2f} in place of {right:.2f}")

# %% [markdown]
# ## 1.4 A schedule from its curve (3 points, 15 minutes)
#
# Write the betas of the sigmoid schedule (1.12), computed from its curve and capped as in (1.11). They must be in float64 or accurate to three digits. (You may use `torch.sigmoid`, and compare with `Schedule.sigmoid`; the check refuses an answer that calls it.)

# %% tags=["answer:1.4"]
def sigmoid_betas(T):
    """-> (T,) the variances of the T steps"""
    ### BEGIN SOLUTION
    u = torch.linspace(0, 1, T + 1, dtype=torch.float64)    # T + 1 times
    g = torch.sigmoid(3 - 6 * u) - torch.sigmoid(torch.tensor(-3.0, dtype=torch.float64))
    return (1 - g[1:] / g[:-1]).clamp(max=0.999)
    ### END SOLUTION

# %% tags=["check:1.4"]
check("1.4", sigmoid_betas)
### BEGIN HIDDEN TESTS
assert check.passed("1.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** A beta lies between two neighbouring values of $\bar\alpha$, so $T$ betas need $T + 1$ values. The division by $g(0)$ drops out of the ratio. Without the cap the last beta would be exactly 1, and (1.27) would divide by zero there.

# %% [markdown]
# ## 1.5 Experiment: how many steps does the process need? (2 points, 15 minutes)
#
# Somebody wants to save steps and keeps DDPM's betas, `torch.linspace(1e-4, 0.02, T)`, unchanged. What is the smallest number of steps $T$ with which the mismatch (1.14) between the end of the forward process and the prior $\mathcal N(0, I)$ is below **one bit**, on average over the first 1,000 test digits (`digits[:1000]`)? The check wants exactly this whole number; make a plot before you search.

# %% tags=["solution"]
images = digits[:1000].double().flatten(1)                  # (1000, 784)
power = images.square().sum(1).mean()

def mismatch(T):
    """(1.14) in bits, averaged over the images."""
    a, d = torch.prod(1 - torch.linspace(1e-4, 0.02, T).double()), 784
    return (0.5 * (a * power - d * a - d * torch.log1p(-a)) / math.log(2)).item()

# %% tags=["answer:1.5"]
def steps_needed():
    """The smallest T, a whole number (you may simply return the number that you found)."""
    ### BEGIN SOLUTION
    return next(T for T in range(100, 2000) if mismatch(T) < 1)
    ### END SOLUTION

# %% tags=["check:1.5"]
check("1.5", steps_needed)
### BEGIN HIDDEN TESTS
assert check.passed("1.5")
### END HIDDEN TESTS

# %% tags=["solution"]
lengths = torch.arange(100, 1050, 50)
mismatches = torch.tensor([mismatch(T.item()) for T in lengths])
plots.curves(lengths, {"mismatch": mismatches}, yscale="log",
             title=f"Below one bit from T = {steps_needed()} on",
             xlabel="steps T", ylabel="mismatch in bits")

# %% [markdown]
# ## 1.6 The reverse step between any two levels (3 points, 20 minutes)
#
# (1.17) and (1.18) step from $t$ to $t-1$. With exercise 1.2 you can step from any $t$ to any earlier $s$. Write the mean and the variance of $q(x_s \mid x_t, x_0)$. It must also work for $s = 0$, where $\bar\alpha_s = 1$.

# %% tags=["answer:1.6"]
def step_back(x0, x, a_t, a_s):
    """Mean (B, ...) and variance, one number, of q(x_s | x_t, x_0).

    x0, x: (B, ...); a_t < a_s: alpha_bar_t and alpha_bar_s
    """
    ### BEGIN SOLUTION
    alpha = a_t / a_s                       # of the one large step from s to t
    beta = 1 - alpha
    mean = (alpha.sqrt() * (1 - a_s) * x + a_s.sqrt() * beta * x0) / (1 - a_t)
    return mean, beta * (1 - a_s) / (1 - a_t)
    ### END SOLUTION

# %% tags=["check:1.6"]
check("1.6", step_back)
### BEGIN HIDDEN TESTS
assert check.passed("1.6")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Nothing in section 1.7 used that the step is small. Put the large step's $\alpha = \bar\alpha_t/\bar\alpha_s$ and $\beta = 1 - \alpha$ in place of $\alpha_t$ and $\beta_t$, and $\bar\alpha_s$ in place of $\bar\alpha_{t-1}$. At $s = 0$ the variance is 0 and the mean is $x_0$.

# %% [markdown]
# ## 1.7 The training loss, from blank (3 points, 15 minutes)
#
# Write (1.26): draw a step and noise for every example, independently, make $x_t$, evaluate the network, compare. Return one number that can be differentiated. The network takes `net(x, t)` with $t = (i+1)/T$, one for each example. It must work for any shape (B, ...), points (B, 2) and images (B, C, H, W), and any length of `alpha_bar`, and draw anew in each call. (Careful: where does an off-by-one hide?)

# %% tags=["answer:1.7"]
def training_loss(net, x0, alpha_bar):
    """The simple loss of one batch, averaged over everything, a number.

    x0: (B, ...), alpha_bar: (T,)
    """
    ### BEGIN SOLUTION
    T = len(alpha_bar)
    i = torch.randint(T, (len(x0),))                        # (B,) steps 0 ... T-1
    eps = torch.randn_like(x0)
    x = my_q_sample(x0, i, eps, alpha_bar)
    return (net(x, (i + 1) / T) - eps).square().mean()
    ### END SOLUTION

# %% tags=["check:1.7"]
check("1.7", training_loss)
### BEGIN HIDDEN TESTS
assert check.passed("1.7")
### END HIDDEN TESTS

# %% [markdown]
# ## 1.8 From a prediction to the score (2 points, 10 minutes)
#
# A denoiser returns its prediction $\hat x_0$ of the clean data. Write the score of $q(x_t)$ that this prediction implies.

# %% tags=["answer:1.8"]
def to_score(x0_hat, x, a):
    """The score at x_t = x: (B, ...).

    x0_hat, x: (B, ...), a: alpha_bar_t, a tensor without dimensions
    """
    ### BEGIN SOLUTION
    return (a.sqrt() * x0_hat - x) / (1 - a)
    ### END SOLUTION

# %% tags=["check:1.8"]
check("1.8", to_score)
### BEGIN HIDDEN TESTS
assert check.passed("1.8")
### END HIDDEN TESTS

# %% tags=["solution"]
mixture = data.GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], stds=0.3)
a, x = torch.tensor(0.4), torch.randn(4, 2)
x0_hat = mixture.posterior_mean(x, a.sqrt(), (1 - a).sqrt())
exact = mixture.score(x, a.sqrt(), (1 - a).sqrt())
torch.testing.assert_close(to_score(x0_hat, x, a), exact, rtol=1e-4, atol=1e-5)
print("agrees with the exact score of a mixture")

# %% [markdown]
# ## 1.9 A sampler, from blank (4 points, 30 minutes)
#
# Write ancestral sampling, the whole reverse process from $x_T$ to $x_0$, with the variance $\tilde\beta_t$ of (1.17). So that it can be checked, you are given all the noise: step $i$ uses `zs[i]`. (Ten lines. The network takes $t = (i + 1)/T$, one for each example.)

# %% tags=["answer:1.9"]
@torch.no_grad()
def sample(net, x, zs, betas):
    """Ancestral sampling: x_0, (B, ...).

    x: (B, ...) pure noise, zs: (T, B, ...) noise for the steps, betas: (T,)
    """
    ### BEGIN SOLUTION
    T, a = len(betas), torch.cumprod(1 - betas, dim=0)
    for i in reversed(range(T)):
        before = a[i - 1] if i > 0 else torch.tensor(1.0)
        eps_hat = net(x, torch.full((len(x),), (i + 1) / T))
        x0_hat = (x - (1 - a[i]).sqrt() * eps_hat) / a[i].sqrt()
        mean, variance = step_back(x0_hat, x, a[i], before)
        x = mean + variance.sqrt() * zs[i]
    return x
    ### END SOLUTION

# %% tags=["check:1.9"]
check("1.9", sample)
### BEGIN HIDDEN TESTS
assert check.passed("1.9")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** With the exact noise of a two-moons-like mixture in place of a network, the sampler draws the mixture.

# %% tags=["solution"]
angle = torch.linspace(0, math.pi, 20)
arcs = torch.cat([torch.stack([angle.cos(), angle.sin()], 1),
                  torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)])
moons = data.GaussianMixture(arcs - arcs.mean(0), stds=0.06)
schedule = Schedule.from_betas(betas)

def exact_eps(x, t):
    alpha, sigma = schedule.alpha(t[0]), schedule.sigma(t[0])
    return -sigma.float() * moons.score(x, alpha, sigma)

drawn = sample(exact_eps, torch.randn(1000, 2), torch.randn(1000, 1000, 2), betas)
plots.scatter({"data": moons.sample(1000), "my sampler": drawn},
              title="A thousand points each", limit=2)

# %% [markdown]
# ## 1.10 Stretch: the best variance (3 points, 30 minutes)
#
# Ho et al. tried two variances for the reverse step, $\beta_t$ and $\tilde\beta_t$, and found that both work. Neither is best, as the deeper part of section 1.8 shows. Take one pixel whose data is Gaussian with mean 0 and variance $v$. Then $x_{t-1}$ and $x_t$ are Gaussian together, and the true reverse step $q(x_{t-1}\mid x_t)$ is exactly Gaussian. What is its variance? Check your formula with $v = 0$ and $v = 1$ before you run the check. What do these two cases mean? Below the check is a cell for your sentence; nobody marks it.

# %% tags=["answer:1.10"]
def best_variance(beta, before, v):
    """The variance of q(x_{t-1} | x_t).

    beta: beta_t, before: alpha_bar_{t-1}, v: variance of the data; numbers
    """
    ### BEGIN SOLUTION
    earlier = 1 + (v - 1) * before          # the variance of x_{t-1}: exercise 1.1
    later = (1 - beta) * earlier + beta     # and of x_t: (1.5)
    return beta * earlier / later
    ### END SOLUTION

# %% tags=["check:1.10"]
check("1.10", best_variance)
### BEGIN HIDDEN TESTS
assert check.passed("1.10")
### END HIDDEN TESTS

# %% [markdown]
# **Your sentence** on $v = 0$ and $v = 1$:

# %% [markdown] tags=["solution"]
# **Solution.** As a function of $x_{t-1}$, $q(x_t\mid x_{t-1})$ is a Gaussian of variance $\beta/\alpha$, and $x_{t-1}$ has the variance $V = 1 + (v-1)\bar\alpha_{t-1}$. By (1.2) inverse variances add: $\big(\tfrac{\alpha}{\beta} + \tfrac1V\big)^{-1} = \frac{\beta V}{\alpha V + \beta}$. For $v = 0$ the data is a single point, $x_0$ is known, and the answer is $\tilde\beta_t$; for $v = 1$ the data is itself $\mathcal N(0, 1)$ and the answer is $\beta_t$. Real data lies between, and the two choices are a lower and an upper bound. (Lesson 3 lets the network learn where between.)

# %%
check.summary(1)
