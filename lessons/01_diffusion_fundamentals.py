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
# A picture of a digit is destroyed by noise in a thousand small steps. A network learns to undo the noise. Run it on pure noise, a thousand times over, and it draws new digits. In this lesson you write its three central functions, check each against the library, and watch a network learn on your own machine.
#
# **After this lesson you can** say what the forward process does and why its numbers are square roots; jump to any noise level in one step and prove that this is allowed; write the training loss in two lines; train on all 60,000 digits of MNIST in two minutes; sample, and judge the samples with a number.
#
# **You need** Python, some PyTorch, calculus, and the Gaussian distribution. **It takes** about 3 minutes to run on two CPU cores; on a GPU the same cells train a larger network. The exercises are in `exercises/01_diffusion_fundamentals.ipynb`.
#
# **Our conventions.** Images have pixels in [-1, 1]. The paper's formulas count steps $t = 1, \dots, T$; code counts $i = t - 1$ from 0; the library and the later lessons use the number $t/T$ in [0, 1], where 0 is data and 1 is noise. Betas are variances. The paper's $\alpha_t = 1 - \beta_t$ and $\bar\alpha_t$ are its own letters; the library's `alpha(t)` is $\sqrt{\bar\alpha_t}$, the factor on the image, and `sigma(t)` is $\sqrt{1-\bar\alpha_t}$, the standard deviation of the noise.

# %% tags=["setup"]
{{setup}}

# %%
import torch
from course_lib import DDPM, Denoiser, Schedule, UNet, ancestral, grid, last
from course_lib.lab import data, machine, metrics, plots, train, widgets

device = machine.device()
torch.manual_seed(0)
digits, labels = data.mnist("train")
print(f"{len(digits):,} digits of shape {tuple(digits.shape[1:])}, "
      f"pixels from {digits.min():.0f} to {digits.max():.0f}")

# %% [markdown]
# ## 1.1 One step of noise
#
# **What happens to an image when noise is added step by step?** Before any formula, do it. Take a digit, multiply its pixels by a number slightly below 1, add a little noise, and repeat a thousand times. How much at step $t$ is set by one small number, $\beta_t$ (in code, `betas[i]` with $i = t - 1$).

# %%
T = 1000
betas = torch.linspace(1e-4, 0.02, T)                       # (T,) variances, the choice of Ho et al. 2020
x, film = digits[5:6], []                                   # x: (1, 1, 28, 28)
for i, beta in enumerate(betas):
    if i % 100 == 0:
        film.append(x)
    x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn_like(x)
plots.show(torch.cat(film + [x]), title="One digit after 0, 100, 200, ..., 1000 steps")

# %% [markdown]
# **What the figure shows.** The digit fades into snow. Its fine lines go first, its shape later, and at the end nothing of it is left that an eye could find.
#
# In terms of probability, each step draws $x_t$ from a Gaussian $\mathcal N(\text{mean}, \text{variance})$ around $x_{t-1}$ times a number slightly below 1. We write $q$ for the distributions of this forward process, and $I$ says that every pixel gets its own noise:
#
# $$q(x_t \mid x_{t-1}) = \mathcal N\!\big(\sqrt{1-\beta_t}\,x_{t-1},\ \beta_t I\big) \tag{1.1}$$
#
# The second argument of $\mathcal N$ is a *variance*, so the noise is multiplied by $\sqrt{\beta_t}$. **Why is the image multiplied by $\sqrt{1-\beta_t}$?** Suppose that a pixel of $x_{t-1}$, over all images, has variance $v$. Pixel and noise are independent, and the variances of independent numbers add:
#
# $$\operatorname{Var}(x_t) = (1-\beta_t)\,v + \beta_t \tag{1.2}$$
#
# If $v = 1$, then $\operatorname{Var}(x_t) = 1$ again; and any other variance moves towards 1, because its distance to 1 is multiplied by $1-\beta_t$: subtract 1 on both sides to see it. Without the factor the variances would only add up. (The next cell pools all pixels of 500 digits; the same rule holds for that pooled variance.)

# %%
kept = grown = digits[:500]
for beta in betas:
    kept = (1 - beta).sqrt() * kept + beta.sqrt() * torch.randn_like(kept)
    grown = grown + beta.sqrt() * torch.randn_like(grown)
print(f"variance of the pixels: data {digits[:500].var():.2f}; after 1000 steps "
      f"{kept.var():.2f} with the factor, {grown.var():.2f} without")

# %% [markdown]
# With the factor, the variance ends at 1. Without it, it grows by the sum of the betas, here about 10.

# %% [markdown]
# ## 1.2 Jumping straight to step t
#
# To train, we need $x_t$ at random $t$, thousands of times a second. Walking there one step at a time would cost $t$ draws of noise per image. **Can one draw replace them all?** Try it: walk 10,000 copies of one number, and look.

# %%
walked = torch.full((10_000,), 2.0)                         # ten thousand copies of x0 = 2
for beta in betas[:300]:
    walked = (1 - beta).sqrt() * walked + beta.sqrt() * torch.randn_like(walked)
print(f"after 300 steps: mean {walked.mean():.3f}, standard deviation {walked.std():.3f}")

# %% [markdown]
# Both numbers can be computed without walking. Write $\alpha_t = 1 - \beta_t$, let $\epsilon_1, \epsilon_2, \dots$ be independent draws from $\mathcal N(0, I)$, and take two steps at once:
#
# $$x_t = \sqrt{\alpha_t}\,x_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t = \sqrt{\alpha_t\alpha_{t-1}}\,x_{t-2} + \underbrace{\sqrt{\alpha_t(1-\alpha_{t-1})}\,\epsilon_{t-1} + \sqrt{1-\alpha_t}\,\epsilon_t}_{\text{a sum of two independent Gaussians}} \tag{1.3}$$
#
# A sum of independent Gaussians is Gaussian, and its variance is the sum of the *variances* (not of the standard deviations): $\alpha_t(1-\alpha_{t-1}) + (1-\alpha_t) = 1-\alpha_t\alpha_{t-1}$. So two steps look exactly like one step with $\alpha_t\alpha_{t-1}$ in place of $\alpha_t$. Add a third step and the same line turns the product of two into a product of three; and so on down to $x_0$. With $\bar\alpha_t = \alpha_1\alpha_2\cdots\alpha_t$:
#
# $$q(x_t \mid x_0) = \mathcal N\!\big(\sqrt{\bar\alpha_t}\,x_0,\ (1-\bar\alpha_t) I\big), \qquad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon \tag{1.4}$$
#
# Here $\epsilon$ is one new draw from $\mathcal N(0, I)$: the $x_t$ that it gives has the same *distribution* as the end of a walk, not the same value. At $t = T$ the factor $\sqrt{\bar\alpha_T}$ is 0.006. Whatever $x_0$ was, $x_T$ is practically a draw from $\mathcal N(0, I)$, which we can make without any image. Sampling will start there.

# %%
def q_sample(x0, i, eps, alpha_bar):
    """One draw from q(x_t | x_0).   x0, eps: (B, ...), i: (B,) steps 0 ... T-1, alpha_bar: (T,)"""
    a = alpha_bar[i].view(-1, *[1] * (x0.ndim - 1))         # (B, 1, ..., 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps

# %%
alpha_bar = torch.cumprod(1 - betas, dim=0)                 # (T,)
x0, i, eps = torch.full((10_000,), 2.0), torch.full((10_000,), 299), torch.randn(10_000)
jumped = q_sample(x0, i, eps, alpha_bar)
a = alpha_bar[299]
print(f"formula: mean {2 * a.sqrt():.3f}, standard deviation {(1 - a).sqrt():.3f}")
print(f"factor on the image after all 1000 steps: {alpha_bar[-1].sqrt():.4f}")
plots.histogram([walked, jumped], labels=["300 steps", "one jump"],
                title="The same distribution, 300 times cheaper", xlabel="x_300, started from x_0 = 2")

# %% [markdown]
# **What the figure shows.** The two histograms coincide, except for random differences, and their mean and width are those of the formula.
#
# The library writes the same thing as a function of time in [0, 1], $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ with $\alpha(t) = \sqrt{\bar\alpha}$ and $\sigma(t) = \sqrt{1-\bar\alpha}$. Step index $i$ sits at $t = (i+1)/T$, so $t = 0$ is exactly the data. The next cell asserts that it agrees.

# %%
schedule = Schedule.from_betas(betas)
x0, i, eps = digits[:3], torch.tensor([0, 299, 999]), torch.randn(3, 1, 28, 28)
torch.testing.assert_close(schedule.perturb(x0, (i + 1) / T, eps), q_sample(x0, i, eps, alpha_bar),
                           atol=1e-4, rtol=0)
print("course_lib.Schedule agrees")

# %% [markdown]
# **At which noise level does the digit become unreadable?** Move the slider. (Without a running kernel you see five of its positions.) Watch the histogram, too: paper, at -1, and ink, at +1, merge into one bell.

# %%
one_noise = torch.randn(1, 1, 28, 28)
widgets.noise_explorer(digits[5:6], one_noise, schedule)

# %% [markdown]
# **What the figure shows.** At t = 0.5 the digit is multiplied by 0.28 and hardly readable any more; the rest of the steps, almost half of them, work on images that look like snow, and the histogram there is a bell of width 1. Other choices of the betas spend their steps differently.

# %% [markdown]
# ## 1.3 What the network learns
#
# We want to walk back. If, for a noisy $x_t$, we knew the noise $\epsilon$ in it, (1.4) would give us the clean image:
#
# $$x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}} \tag{1.5}$$
#
# So we ask a network $\epsilon_\theta(x_t, t)$ with weights $\theta$ to guess the noise, and score it by its squared error, with $x_0$ from the data, $t$ uniform over the steps, and $\epsilon$ from $\mathcal N(0, I)$:
#
# $$L = \mathbb E_{x_0,\,t,\,\epsilon}\,\big\|\epsilon - \epsilon_\theta\big(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\ t\big)\big\|^2 \tag{1.6}$$
#
# **What is the best possible guess?** Many pairs of image and noise lead to the same $x_t$, so no guess is always right. Fix $x_t$ and a guess $g$, and write $m = \mathbb E[\epsilon \mid x_t]$ for the average of the noise over all those pairs. Then
#
# $$\mathbb E\big[\|\epsilon - g\|^2 \,\big|\, x_t\big] = \mathbb E\big[\|\epsilon - m\|^2 \,\big|\, x_t\big] + \|m - g\|^2 \tag{1.7}$$
#
# To see it, write $\epsilon - g = (\epsilon - m) + (m - g)$ and multiply out: the mixed term is $2\,(m-g)\cdot\mathbb E[\epsilon - m \mid x_t]$, and $\epsilon - m$ has average zero. The first part does not depend on $g$; the second is smallest at $g = m$. So a perfect network gives the *average* noise. Equation (1.5) is linear in $\epsilon$, so putting $m$ in its place gives the average clean image $\hat x_0 = \mathbb E[x_0 \mid x_t]$: a weighted average of all digits that could be behind this noise, and therefore a blur.

# %%
def p_losses(net, x0, i, eps, alpha_bar):
    """The loss of each image: the mean squared error of the predicted noise.   -> (B,)"""
    t = (i + 1) / len(alpha_bar)                            # the network sees a number in (0, 1]
    return (net(q_sample(x0, i, eps, alpha_bar), t) - eps).square().flatten(1).mean(1)

# %%
net = UNet(channels=1, widths=(32, 64))
x0, i, eps = digits[:3], torch.tensor([0, 299, 999]), torch.randn(3, 1, 28, 28)
print("The last layer starts at zero: an untrained network answers 0 and pays the mean of eps^2,",
      [round(v, 2) for v in p_losses(net, x0, i, eps, alpha_bar).tolist()])
torch.nn.init.normal_(net.out.weight, std=0.1)              # other answers, to compare three ways to the loss
loss = p_losses(net, x0, i, eps, alpha_bar)
torch.testing.assert_close(DDPM(net, betas).p_losses(x0, i, eps), loss)
torch.testing.assert_close(Denoiser(net, schedule, target="eps").loss(x0, (i + 1) / T, eps), loss)

# %% [markdown]
# (The code divides by the number of pixels, so that a guess of 0 costs 1.) The last two lines assert that the library's textbook class `DDPM`, and its general `Denoiser` (a network, a schedule, and what the network is asked for), compute the same loss.
#
# The network itself is a U-Net, an image-to-image network that lesson 2 takes apart. Here it is a box: noisy image and time in, noise out.
#
# ## 1.4 Training, live
#
# Now all of MNIST. `train.train` repeats one step until the time is up:
#
# ```
# take 128 digits x0; for each, draw a time t and noise eps
# loss = mean of p_losses(net, x0, t, eps)
# move the weights against the gradient of the loss (the optimizers Muon and AdamW; lesson 3)
# move the *average* of the weights a little towards the weights: that average is what we keep
# ```
#
# Each time the training time has doubled, the current network turns the same twelve noise images into digits. To save time it takes 50 large steps in place of 1000: section 1.5 derives a step from $t$ to $t-1$, and the same formulas hold from $t$ to any earlier $s$ if $\bar\alpha_s$ takes the place of $\bar\alpha_{t-1}$ and $\bar\alpha_t/\bar\alpha_s$ that of $\alpha_t$. In the library, `prior` draws the starting noise, `grid` chooses the times, `ancestral` takes the steps and `last` keeps the final image. **Watch when they become digits.**

# %%
def watch(D, done):
    """Twelve samples, always from the same noise, in 50 steps."""
    g = torch.Generator().manual_seed(7)
    noise = schedule.prior((12, 1, 28, 28), generator=g, device=device)
    x = last(ancestral(D, schedule, noise, grid(schedule, 50), g))
    plots.show(x, title=f"after {done:.0%} of the training")

# %%
big = device.type == "cuda"                                 # on a GPU: a larger network, larger batches
net = UNet(1, widths=(128, 256, 256), depth=2, patch=1) if big else UNet(1, widths=(32, 64))
D = train.train(Denoiser(net, schedule, target="eps"), digits, seconds=120, out="01_mnist_eps",
                batch=256 if big else 128, lr=1e-3 if big else 4e-3, watch=watch)

# %%
steps, losses = zip(*D.history)
plots.curves(steps, {"mean squared error of the noise": losses}, title="The loss falls fast, then slowly",
             xlabel="training step", ylabel="loss", yscale="log")

# %% [markdown]
# **What the figures show.** The first row shows strokes, the later ones digits. The loss falls steeply at first and very little later, while the samples go on improving. Part of the loss, the first term of (1.7), no network can remove, so an improvement that matters to the eye may hardly change the total. We do not judge a diffusion model by its loss alone.
#
# ## 1.5 Walking back
#
# **How do we go from $x_t$ to $x_{t-1}$?** If we knew $x_0$, Bayes' rule would tell us: $q(x_{t-1} \mid x_t, x_0) \propto q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)$, where factors without $x_{t-1}$ are left out, and $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$ because a step of the walk looks only at the image before it. Both factors are Gaussian, (1.1) and (1.4). The pixels are independent of each other, so take one pixel; as functions of $x_{t-1}$ the exponents are
#
# $$-\frac{(x_t - \sqrt{\alpha_t}\,x_{t-1})^2}{2\beta_t} - \frac{(x_{t-1} - \sqrt{\bar\alpha_{t-1}}\,x_0)^2}{2(1-\bar\alpha_{t-1})}.$$
#
# Collect the terms with $x_{t-1}^2$ and those with $x_{t-1}$. A Gaussian with mean $\tilde\mu_t$ and variance $\tilde\beta_t$ has $-x_{t-1}^2/(2\tilde\beta_t) + x_{t-1}\,\tilde\mu_t/\tilde\beta_t$ plus a constant there, so we can read both off. The squares give
#
# $$\frac1{\tilde\beta_t} = \frac{\alpha_t}{\beta_t} + \frac1{1-\bar\alpha_{t-1}} = \frac{\alpha_t(1-\bar\alpha_{t-1}) + \beta_t}{\beta_t(1-\bar\alpha_{t-1})} = \frac{1-\bar\alpha_t}{\beta_t(1-\bar\alpha_{t-1})}, \qquad \tilde\beta_t = \frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t}\,\beta_t \tag{1.8}$$
#
# (the numerator is $\alpha_t - \bar\alpha_t + 1 - \alpha_t$, with $\alpha_t\bar\alpha_{t-1} = \bar\alpha_t$ and $\beta_t = 1 - \alpha_t$), and the linear terms, multiplied by $\tilde\beta_t$, give
#
# $$\tilde\mu_t = \tilde\beta_t\Big(\frac{\sqrt{\alpha_t}}{\beta_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}}{1-\bar\alpha_{t-1}}\,x_0\Big) = \frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t + \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1-\bar\alpha_t}\,x_0 \tag{1.9}$$
#
# So $q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu_t, \tilde\beta_t I)$. (For $t = 1$ take $\bar\alpha_0 = 1$, the empty product: then $\tilde\beta_1 = 0$ and $\tilde\mu_1 = x_0$, as it must be.)
#
# **We do not know $x_0$.** We put the network's guess $\hat x_0$ in its place. Since (1.9) is linear in $x_0$, the average image gives exactly the average of $x_{t-1}$ given $x_t$; and for small $\beta_t$ the true distribution of $x_{t-1}$ is close to a Gaussian around it. Then we *draw* from that Gaussian. The draw favours some of the possible digits a little; given the new $x_{t-1}$ fewer digits are possible, so the next average is a little sharper. After a thousand draws one digit is left. That is sampling: start with $x_T$ from $\mathcal N(0, I)$; for $t = T, \dots, 1$ ask the network and draw $x_{t-1}$. The last step adds no noise and returns the network's last guess.

# %%
@torch.no_grad()
def p_sample(net, x, i, z, betas, alpha_bar):
    """One step back, from x_t to x_{t-1}, with t = i + 1.   x, z: (B, ...), i: 0 ... T-1"""
    beta, a = betas[i], alpha_bar[i]
    a_before = alpha_bar[i - 1] if i > 0 else torch.tensor(1.0)
    eps_hat = net(x, torch.full((len(x),), (i + 1) / len(betas)))
    x0_hat = (x - (1 - a).sqrt() * eps_hat) / a.sqrt()                                          # (1.5)
    mean = ((1 - beta).sqrt() * (1 - a_before) * x + a_before.sqrt() * beta * x0_hat) / (1 - a) # (1.9)
    return mean + (beta * (1 - a_before) / (1 - a)).sqrt() * z                                  # (1.8)

# %%
g = torch.Generator().manual_seed(3)
x, z = torch.randn(2, 2, 1, 28, 28, generator=g)            # (2, 1, 28, 28) each
net = D.net.cpu()
for i in (0, 500, 999):
    mean, variance, _ = DDPM(net, betas).p_mean_variance(x, torch.tensor([i, i]))
    torch.testing.assert_close(p_sample(net, x, i, z, betas, alpha_bar), mean + variance[0].sqrt() * z,
                               atol=1e-3, rtol=1e-3)
print("p_sample agrees with course_lib.DDPM")

# %% [markdown]
# From here on we use the library: a thousand steps for thirty images, with a new draw of noise in each. **What does the way back look like?**

# %%
ddpm, frames = DDPM(D.net.to(device), betas), []
g = torch.Generator().manual_seed(4)
with machine.autocast():
    for done, x in enumerate(ddpm.sample((30, 1, 28, 28), g, device)):       # x_1000, ..., x_0: 1001 states
        if done % 50 == 0:
            frames.append(x.cpu())
plots.animate(frames, columns=15, alt="Thirty digits appear from noise in a thousand steps")

# %% [markdown]
# **What the film shows.** For about half of the time nothing seems to happen: those are the levels at which the slider above showed snow. Then strokes appear and settle, and the last steps remove the remaining grain.
#
# ## 1.6 How good are they?
#
# > **A Fréchet distance in one paragraph.** Looking at samples is subjective, so we also compute a number. Take a network that reads digits (ours is right for more than 99 % of the test digits), and for each image compute its 128 features, the numbers just before its decision. Fit a Gaussian to the features of real images and another to those of the samples; with means $\mu_1, \mu_2$ and covariances $C_1, C_2$ the distance is $\|\mu_1-\mu_2\|^2 + \operatorname{tr}\big(C_1 + C_2 - 2(C_1C_2)^{1/2}\big)$. It is 0 when means and covariances agree. Estimated from few images both are off by chance, which adds to the distance; so beside it we always print the *floor*: the distance that the same number of real images gets.

# %%
g = torch.Generator().manual_seed(5)
noise = schedule.prior((1000, 1, 28, 28), generator=g, device=device)
with machine.autocast():
    samples = last(ancestral(D, schedule, noise, grid(schedule, 100), g)).cpu().clamp(-1, 1)
distance = lambda x: metrics.frechet_distance(metrics.features(x), metrics.test_features())
print("Fréchet distance to the 10,000 test digits, 1,000 images each:")
print(f"ours {distance(samples):.1f}, real training digits {metrics.frechet_floor(1000):.1f}, "
      f"pure noise {distance(noise.cpu().clamp(-1, 1)):.0f}")
plots.show(samples[:40], columns=20, title="Forty samples, 100 steps")

# %% [markdown]
# Number and picture agree: after two minutes the samples are much closer to real digits than to noise, and still not as good as real ones. The coming lessons close the gap, with a better network (2), better training (3), better samplers (4), and labels (5).
#
# ## What we built
#
# A forward process and its closed form; a loss; a network trained on all of MNIST; the way back, one step at a time; and a number for the result.
#
# **Three things to remember.** (1) Noise is added by *variance*: wherever a $\beta$ or $1-\bar\alpha$ multiplies noise, there is a square root. (2) A perfect network predicts an *average*, so one step gives a blur; many small random steps decide for one digit. (3) Judge a model by its samples; the loss alone does not tell.
#
# | formula | source |
# | --- | --- |
# | (1.1), (1.4) | Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*, eq. 2 and 4 |
# | (1.6) | the same, eq. 14 |
# | (1.8), (1.9) | the same, eq. 6 and 7 |
# | (1.7) | any textbook on regression: the conditional mean minimises the squared error |
#
# **Next:** lesson 2 opens the box and builds the U-Net.
