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
# A picture of a digit is destroyed by noise in a thousand small steps. A network learns to undo the noise. Run it on pure noise, a thousand times over, and it draws digits that nobody wrote. In this lesson you build all of that and watch it learn on your own machine.
#
# **After it you can** say what the forward process does and why its numbers are square roots; jump to any noise level in one step and prove that you may; write the training loss in three lines; train on all 60,000 digits of MNIST in two minutes; sample, and judge the samples with a number.
#
# **You need** Python, some PyTorch, calculus, and the Gaussian distribution. **It takes** about 4 minutes to run on two CPU cores, less on a GPU. The exercises are in `exercises/01_diffusion_fundamentals.ipynb`.
#
# **Our conventions**, in this and every lesson: images have pixels in [-1, 1]; time t runs from 0 (data) to 1 (noise); betas are variances, alpha and sigma multiply and are standard deviations.

# %% tags=["setup"]
{{setup}}

# %%
import torch
from course_lib import DDPM, Denoiser, Schedule, UNet, ancestral, grid, last
from course_lib.lab import data, machine, metrics, plots, train, widgets

device = machine.device()
torch.manual_seed(0)
digits, labels = data.mnist("train")
print(f"{len(digits):,} digits of shape {tuple(digits.shape[1:])}, pixels from {digits.min():.0f} to {digits.max():.0f}")

# %% [markdown]
# ## 1.1 One step of noise
#
# **What does it look like when an image drowns?** Before any formula, do it. Take a digit, shrink it a little, add a little noise, and repeat a thousand times. How much to shrink and how much to add at step $t$ is set by one small number, $\beta_t$.

# %%
T = 1000
betas = torch.linspace(1e-4, 0.02, T)                       # (T,) variances, the choice of Ho et al. 2020
x, film = digits[5:6], []                                   # x: (1, 1, 28, 28)
for i, beta in enumerate(betas):
    if i % 111 == 0:
        film.append(x)
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
plots.show(torch.cat(film + [x]), title="One digit after 0, 111, 222, ..., 999 and 1000 steps")

# %% [markdown]
# **What the figure shows.** The digit fades into snow. Its fine lines go first, its shape later, and at the end nothing of it is left that an eye could find.
#
# What the loop does, in the language of probability, is to draw $x_t$ from a Gaussian around a slightly smaller $x_{t-1}$:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\big(\sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big) \tag{1.1}$$
#
# The second argument of $\mathcal N$ is a *variance*, so the noise is multiplied by $\sqrt{\beta_t}$. **Why is the image shrunk by $\sqrt{1-\beta_t}$, of all numbers?** Suppose a pixel has variance $v$ over the data set. It and the noise are independent, and independent variances add:
#
# $$\operatorname{Var}(x_t) = (1-\beta_t)\,v + \beta_t \tag{1.2}$$
#
# If $v = 1$, then $\operatorname{Var}(x_t) = 1$ again; and from any other $v$ the variance moves towards 1, since its distance to 1 shrinks by $1-\beta_t$ each time. Without the shrinking, variances would only add up.

# %%
kept = grown = digits[:500]
for beta in betas:
    kept = (1 - beta).sqrt() * kept + beta.sqrt() * torch.randn_like(kept)
    grown = grown + beta.sqrt() * torch.randn_like(grown)
print(f"variance of the pixels: data {digits[:500].var():.2f}; after 1000 steps {kept.var():.2f} with shrinking, {grown.var():.2f} without")

# %% [markdown]
# With shrinking, the process forgets where it started and ends at variance 1, where we can start sampling later. Without it, the end depends on the number of steps.

# %% [markdown]
# ## 1.2 Jumping straight to step t
#
# To train, we need $x_t$ at random $t$, many thousand times a second. Walking there one step at a time would cost $t$ draws of noise per image. **Can one draw replace them all?** Try it: walk 10,000 copies of one number, and look.

# %%
walked = torch.full((10_000,), 2.0)                         # ten thousand copies of x0 = 2
for beta in betas[:300]:
    walked = (1 - beta).sqrt() * walked + beta.sqrt() * torch.randn_like(walked)
print(f"after 300 steps: mean {walked.mean():.3f}, standard deviation {walked.std():.3f}")

# %% [markdown]
# Both numbers can be had without walking. Write $\alpha_t = 1 - \beta_t$ and take two steps at once:
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\,\epsilon_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t}_{\text{a sum of two independent Gaussians}} \tag{1.3}$$
#
# A sum of independent Gaussians is Gaussian, and its variance is the sum of the *variances* (not of the widths): $\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}$. So two steps look exactly like one step with $\alpha_t\alpha_{t-1}$ in place of $\alpha_t$. Add a third step and the same line turns the product of two into a product of three; and so on down to $x_0$. With $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$:
#
# $$q(x_t \mid x_0) = \mathcal N\!\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big), \qquad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \tag{1.4}$$

# %%
def q_sample(x0, i, eps, alpha_bar):
    """One draw from q(x_t | x_0).   x0, eps: (B, ...), i: (B,) steps 0 ... T-1, alpha_bar: (T,)"""
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))         # (B, 1, ..., 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

# %%
alpha_bar = torch.cumprod(1 - betas, dim=0)                 # (T,)
jumped = q_sample(torch.full((10_000,), 2.0), torch.full((10_000,), 299), torch.randn(10_000), alpha_bar)
plots.histogram([walked, jumped], labels=["300 steps", "one jump"], title="The same distribution, 300 times cheaper", xlabel="x_300, started from x_0 = 2")

# %% [markdown]
# **What the figure shows.** The two histograms lie on each other, up to the chance of 10,000 draws.
#
# The course's library has the same thing as a function of continuous time, $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$. Step index $i$ (from 0) sits at $t = (i+1)/T$, so $t = 0$ is exactly the data. The next cell asserts that it agrees.

# %%
schedule = Schedule.from_betas(betas)
i, eps = torch.tensor([0, 299, 999]), torch.randn(3, 1, 28, 28)
torch.testing.assert_close(schedule.perturb(digits[:3], (i + 1) / T, eps), q_sample(digits[:3], i, eps, alpha_bar), atol=1e-4, rtol=0)

# %% [markdown]
# **Where in this journey is the digit lost?** Move the slider. (Without a running kernel you see five of its positions.) Watch the histogram: the two peaks, ink and paper, melt into one bell.

# %%
widgets.noise_explorer(digits[5:6], torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1)), schedule)

# %% [markdown]
# **What the figure shows.** With this schedule half of the journey is spent on images that nobody could recognise: at t = 0.5 the digit is multiplied by 0.28. Other schedules spend their time differently; lesson 3 compares them.

# %% [markdown]
# ## 1.3 What the network learns
#
# We want to walk back. If, for a noisy $x_t$, we knew the noise $\epsilon$ in it, (1.4) would give us the clean image:
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}} \tag{1.5}$$
#
# So we ask a network $\epsilon_\theta(x_t, t)$ to guess the noise, and score it by its squared error:
#
# $$L = \mathbb E_{x_0,\,t,\,\epsilon}\,\big\|\epsilon - \epsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\ t\big)\big\|^2 \tag{1.6}$$
#
# **What is the best possible guess?** Many pairs of image and noise lead to the same $x_t$, so no guess is always right. Fix $x_t$ and a guess $g$, and write $m = \mathbb E[\epsilon \mid x_t]$ for the average of the noise over all those pairs. Then
#
# $$\mathbb E\big[\|\epsilon - g\|^2 \,\big|\, x_t\big] = \mathbb E\big[\|\epsilon - m\|^2 \,\big|\, x_t\big] + \|m - g\|^2 \tag{1.7}$$
#
# because the mixed term $2\,(m-g)\cdot\mathbb E[\epsilon - m \mid x_t]$ is zero: $\epsilon - m$ averages to nothing. The first part does not depend on $g$, the second is smallest at $g = m$. So a perfect network gives the *average* noise, and (1.5), which is linear in $\epsilon$, turns it into the average clean image $\hat x_0 = \mathbb E[x_0 \mid x_t]$: a blur of all digits that could hide behind this noise.

# %%
def p_losses(net, x0, i, eps, alpha_bar):
    """The loss of each image: the mean squared error of the predicted noise.   -> (B,)"""
    t = (i + 1) / len(alpha_bar)                            # the network sees a number in (0, 1]
    return (net(q_sample(x0, i, eps, alpha_bar), t) - eps).square().flatten(1).mean(1)

# %%
net = UNet(channels=1, widths=(32, 64))
loss = p_losses(net, digits[:3], i, eps, alpha_bar)
print("an untrained network answers 0 and pays the variance of the noise:", [round(v, 2) for v in loss.tolist()])
torch.testing.assert_close(DDPM(net, betas).p_losses(digits[:3], i, eps), loss)
torch.testing.assert_close(Denoiser(net, schedule, target="eps").loss(digits[:3], (i + 1) / T, eps), loss)

# %% [markdown]
# The last two lines assert that the library's textbook class `DDPM`, and its general `Denoiser` (a network, a schedule, and what the network is asked for), compute the same loss.
#
# The network itself is a U-Net, an image-to-image network that lesson 2 takes apart. Here it is a box: noisy image and time in, noise out.
#
# ## 1.4 Training, live
#
# Now all of MNIST. Each step takes 64 digits, gives each its own random time and its own noise, and moves the weights against the gradient of (1.6). Every doubling of the time, the network so far turns the same twelve pieces of noise into digits (how, comes next). **Watch when they become digits.**

# %%
def watch(D, done):
    """Twelve samples, always from the same noise, in 50 steps."""
    g = torch.Generator().manual_seed(7)
    x = last(ancestral(D, schedule, schedule.prior((12, 1, 28, 28), generator=g, device=device), grid(schedule, 50), g))
    plots.show(x, title=f"after {done:.0%} of the training")

# %%
big = device.type == "cuda"
net = UNet(channels=1, widths=(128, 256, 256) if big else (32, 64), depth=2 if big else 1, patch=1 if big else 2)
D = train.train(Denoiser(net, schedule, target="eps"), digits, seconds=120, batch=256 if big else 64, lr=1e-3 if big else 4e-3, seed=1, out="01_mnist_eps", watch=watch)

# %%
steps, losses = zip(*D.history)
plots.curves(torch.tensor(steps), {"mean squared error of the noise": torch.tensor(losses)}, title="The loss falls fast, then slowly", xlabel="training step", ylabel="loss", ylim=(0, 0.2))

# %% [markdown]
# **What the figures show.** The first rows are texture, then strokes, then digits. The loss falls steeply in the first steps and hardly at all later, while the samples go on improving: the loss is an average over all noise levels, and most of it comes from levels where nothing can be done. So we do not judge a diffusion model by its loss alone.
#
# ## 1.5 Walking back
#
# **How do we go from $x_t$ to $x_{t-1}$?** If we knew $x_0$, Bayes' rule would tell: $q(x_{t-1} \mid x_t, x_0) \propto q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)$. Both factors are Gaussian, (1.1) and (1.4); seen as functions of $x_{t-1}$ their exponents are
#
# $$-\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{2\beta_t} - \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{2(1-\bar\alpha_{t-1})}.$$
#
# Collect the terms with $x_{t-1}^2$ and those with $x_{t-1}$. A Gaussian with mean $\tilde\mu$ and variance $\tilde\beta$ has $-x_{t-1}^2/(2\tilde\beta) + x_{t-1}\,\tilde\mu/\tilde\beta$ there, so we can read them off. The squares give
#
# $$\frac1{\tilde\beta_t} = \frac{\alpha_t}{\beta_t} + \frac1{1-\bar\alpha_{t-1}} = \frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}, \qquad \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t \tag{1.8}$$
#
# (the numerator is $\alpha_t - \bar\alpha_t + 1 - \alpha_t$), and the linear terms, multiplied by $\tilde\beta_t$, give
#
# $$\tilde\mu_t = \tilde\beta_t\Big(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\Big) = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 \tag{1.9}$$
#
# We do not know $x_0$; we put the network's guess $\hat x_0$ in its place, draw $x_{t-1}$, and ask again. In the first steps the guess is a blur, but each step moves only a little, and the next guess starts from a slightly cleaner image. At the last step $\bar\alpha_0 = 1$, so $\tilde\beta = 0$: no noise is added.

# %%
@torch.no_grad()
def p_sample(net, x, i, z, betas, alpha_bar):
    """One step back, from x_t to x_{t-1}.   x, z: (B, ...), i: a step 0 ... T-1"""
    beta, a = betas[i], alpha_bar[i]
    a_before = alpha_bar[i - 1] if i > 0 else torch.tensor(1.0)
    eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
    x0_hat = (x - (1 - a).sqrt() * eps_hat) / a.sqrt()                                                  # (1.5)
    mean = ((1 - beta).sqrt() * (1 - a_before) * x + a_before.sqrt() * beta * x0_hat) / (1 - a)         # (1.9)
    return mean + (beta * (1 - a_before) / (1 - a)).sqrt() * z                                          # (1.8)

# %%
g = torch.Generator().manual_seed(3)
x, z, cpu_net = torch.randn(2, 1, 28, 28, generator=g), torch.randn(2, 1, 28, 28, generator=g), D.net.cpu()
mean, variance, _ = DDPM(cpu_net, betas).p_mean_variance(x, torch.tensor([500, 500]))
torch.testing.assert_close(p_sample(cpu_net, x, 500, z, betas, alpha_bar), mean + variance[0].sqrt() * z, atol=1e-4, rtol=1e-4)
print("p_sample agrees with course_lib.DDPM")

# %% [markdown]
# Agreed; so from here the library may do it, a thousand steps for a hundred images. **What does the way back look like?**

# %%
net = D.net.to(device)
ddpm, frames = DDPM(net, betas), []
with machine.autocast():
    for i, x in enumerate(ddpm.sample((100, 1, 28, 28), torch.Generator().manual_seed(4), device)):
        if i % 50 == 0:
            frames.append(x.cpu())
plots.animate(frames, columns=20, scale=1, alt="A hundred digits appear from noise in a thousand steps")

# %% [markdown]
# **What the film shows.** For half of the time nothing seems to happen: those are the levels at which the slider above showed snow. Then strokes appear, and the last steps only clean the background.
#
# ## 1.6 How good are they?
#
# > **A Fréchet distance in one paragraph.** Looking is not measuring. Take a network that knows digits (ours reads 99.7 % of the test digits correctly), and for each image note its 128 features, the numbers just before its decision. Fit a Gaussian to the features of real images and another to those of the samples, and take the distance between the two Gaussians. It is 0 when means and covariances agree. It depends on how many samples you take, so beside it we always print the *floor*: what equally many *real* images get.

# %%
with machine.autocast():
    g = torch.Generator().manual_seed(5)
    samples = last(ancestral(D, schedule, schedule.prior((1000, 1, 28, 28), generator=g, device=device), grid(schedule, 100), g)).cpu()
distance = metrics.frechet_distance(metrics.features(samples.clamp(-1, 1)), metrics.test_features())
print(f"Fréchet distance to the 10,000 test digits, 1,000 samples each: ours {distance:.1f}, real training digits {metrics.frechet_floor(1000):.1f}, "
      f"pure noise {metrics.frechet_distance(metrics.features(torch.randn(1000, 1, 28, 28).clamp(-1, 1)), metrics.test_features()):.0f}")
plots.show(samples[:40], columns=20, title="Forty samples, 100 steps")

# %% [markdown]
# The number says what the picture says: far from noise, not yet real. Two minutes were enough for that; the coming lessons close the gap, with a better network (2), better training (3), better samplers (4), and labels (5).
#
# ## What we built
#
# A forward process and its closed form; a loss; a network trained on all of MNIST; the way back, one step at a time; and a number for the result.
#
# **Three things to remember.** (1) Noise is added by *variance*: wherever a $\beta$ or $1-\bar\alpha$ multiplies noise, there is a square root. (2) A perfect network predicts an *average*; that is why one step gives a blur and many steps give a digit. (3) A low loss is not the goal; samples are.
#
# | formula | source |
# | --- | --- |
# | (1.1), (1.4) | Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*, eq. 2 and 4 |
# | (1.6) | the same, eq. 14 |
# | (1.8), (1.9) | the same, eq. 7 |
# | (1.7) | any textbook on regression: the conditional mean minimises the squared error |
#
# **Next:** lesson 2 opens the box and builds the U-Net.
