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
# Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("1.1")` gives a hint, and a stronger one each time you call it. Nothing is lost by trying.

# %% tags=["setup"]
{{setup}}

# %%
import torch
from course_lib.checks import check, hint
from course_lib.lab import data, plots

betas = torch.linspace(1e-4, 0.02, 1000)
alpha_bar = torch.cumprod(1 - betas, dim=0)                 # (1000,)
digits, _ = data.mnist("test")

# %% [markdown]
# ## 1.1 Bug hunt (3 points, about 10 minutes)
#
# Many tutorials have drawn noisy images with a line like the last one here:

# %%
def tutorial_q_sample(x0, i, eps, alpha_bar):
    a = alpha_bar[i].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a) * eps

# %% [markdown]
# The pictures look plausible. Find out *by experiment* how they differ from the real process: walk one step at a time, as in section 1.1, and compare. At which step is the difference between the two standard deviations of the noise largest? Then write the right one. It must work for images (B, C, H, W) and for points (B, 2); the tutorial's does something strange with points.

# %% tags=["answer:1.1"]
def my_q_sample(x0, i, eps, alpha_bar):
    """One draw from q(x_t | x_0).   x0, eps: (B, ...), i: (B,) steps 0 ... 999, alpha_bar: (1000,)"""
    ### BEGIN SOLUTION
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))         # (B, 1, ..., 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    ### END SOLUTION

# %% tags=["check:1.1"]
check("1.1", my_q_sample)
### BEGIN HIDDEN TESTS
assert check.passed("1.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** The second argument of $\mathcal N(\cdot, 1-\bar\alpha_t)$ is a variance, so the noise must be multiplied by its square root. The experiment: the spread of many noisy copies of one digit, against the spread that the walk gives.

# %% tags=["solution"]
i = torch.arange(1000)
copies, noise = torch.zeros(1000, 1, 1, 2000), torch.randn(1000, 1, 1, 2000)
draws = {"the tutorial's": tutorial_q_sample, "q": my_q_sample}
spread = {name: f(copies, i, noise, alpha_bar).std(dim=(1, 2, 3)) for name, f in draws.items()}
plots.curves(i, spread, title="The tutorial's images are too clean, most of all early on",
             xlabel="step i", ylabel="standard deviation of the noise")
gap = (1 - alpha_bar).sqrt() - (1 - alpha_bar)
worst = gap.argmax()
print(f"largest difference at i = {worst}: {1 - alpha_bar[worst]:.2f} in place of {(1 - alpha_bar[worst]).sqrt():.2f}")

# %%
check.summary(1)
