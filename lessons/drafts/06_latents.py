# %%
import math

import torch

from course_lib import Schedule, last, timesteps
from course_lib.lab import (
    attributes,
    data,
    metrics,
    plots,
    profiling,
    sampling,
    tables,
    train,
)
from course_lib.lab.data import noun_parts

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part I · Latent diffusion
#
# ## 6.1 An autoencoder of one's own
#
# A picture of 32 x 32 pixels has 3,072 numbers, and most of them repeat their neighbours. **Must the diffusion model work on all of them?** Rombach et al. (2022) train two networks one after the other. An **autoencoder** learns to write a picture down in fewer numbers, its **latent**, and to read it back. Then a diffusion model learns the latents, which are small and quick. Stable Diffusion is this: the autoencoder keeps the details, the diffusion model decides what is in the picture.
#
# The **encoder** maps a picture $x$ to the mean $\mu(x)$ and the log-variance of a Gaussian $q(z\mid x)$; the **decoder** maps a latent back to $\hat x(z)$. (The pair is a **variational autoencoder**, VAE; Kingma & Welling 2014.) Say that the decoder's picture is right up to Gaussian noise of deviation $s$ per pixel value, and that latents have the prior $\mathcal N(0, I)$. The likelihood's lower bound of lesson 1, (1.14), now has two terms:
#
# $$-\log p(x) \le \mathbb E_{z\sim q}\frac{\|x-\hat x(z)\|^2}{2s^2} + \mathrm{KL}\big(q(z\mid x)\,\|\,\mathcal N(0,I)\big) + \text{const} \tag{6.1}$$
#
# and the divergence of two Gaussians is a formula, summed over the latent's numbers $j$:
#
# $$\mathrm{KL} = \tfrac12\sum_j\big(\mu_j^2 + \sigma_j^2 - 1 - \log\sigma_j^2\big) \tag{6.2}$$
#
# **Sum or mean?** Multiply (6.1) by $2s^2$ and divide by the number of pixel values $D$. What is left is the mean squared error and a weighted divergence:
#
# $$\mathcal L = \frac1D\Big[\|x-\hat x(z)\|^2 + w\,\mathrm{KL}\Big], \qquad w = 2s^2 \tag{6.3}$$
#
# So the weight of the KL says how exact the picture has to be. In (6.3) both terms are sums over their numbers. Code that takes the *mean* over the latent's $d$ numbers has divided the weight by $d$, and code that takes the mean over pixels and the sum over latents has multiplied it by $D$: the same "1e-6" means different models. Stable Diffusion's autoencoder sums both; with its $10^{-6}$ the KL term nearly vanishes, and so does what it was for: the latents' deviation is not 1 (section 6.3).
#
# Here is the encoder's and the decoder's plan. It is Stable Diffusion's, with fewer channels: convolutions with residual shortcuts, a convolution of stride 2 between levels (padded on the right and at the bottom only), one attention at the lowest level, and a 1x1 convolution before and after the latent. One thing is ours: the first layer folds 2 x 2 pixels into channels, which makes the CPU four times faster.

# %%
from course_lib.networks.vae import AutoencoderKL

net = AutoencoderKL(channels=3, latent_channels=8, widths=(48, 64), depth=1, patch_size=2)
x = data.nouns(4, seed=1).x                                             # (4, 3, 32, 32)
mean, log_variance = net.encode(x)
print(tuple(x.shape), "->", tuple(mean.shape), "->", tuple(net.decode(mean).shape))
print(f"{profiling.count_parameters(net):,} parameters; {x[0].numel()} numbers -> "
      f"{mean[0].numel()}")

# %%
vae = train.load("nouns_vae", device)
print(vae.about["command"], f"({vae.about['steps']:,} steps)")
test = data.nouns(1000, seed=1, split="test")
with torch.no_grad():
    again = torch.cat([vae(part.to(device)).cpu() for part in test.x.split(250)])
plots.show({"pictures": test.x[:12], "through the latent": again[:12]}, columns=12)
right = attributes.attributes_correct(again.clamp(-1, 1), test.parts).double().mean(0)
rows = {"right after decoding": dict(zip(noun_parts.PARTS, right.tolist()))}
tables.table(rows, ".1%", index="part", caption="1,000 new combinations")

# %% [markdown]
# TODO what the figure shows; mean and deviation per channel; what is thrown away part by part (error by part); perceptual and adversarial terms: what they are for.
#
# ## 6.2 Diffusion in the latents
#
# TODO
#
# ## 6.3 The forgotten scale
#
# A diffusion model's noise has deviation 1, and its schedule was chosen for data near $[-1, 1]$. **What if the latents have another deviation?** So one writes, per channel,
#
# $$z = (\ell - m)\cdot s, \qquad \ell = z/s + m \tag{6.4}$$
#
# with $m$ the mean and $1/s$ the deviation of the encoder's output over the data. Stable Diffusion has one number for all channels, $s = 0.18215$; Stable Diffusion 3 also has $m$. Forget it, and nothing crashes. **What exactly goes wrong?** Let the data be $c\,z$ in place of $z$. Then $x_t = \alpha c\,z + \sigma\epsilon$: the signal's power is multiplied by $c^2$, so at every $t$
#
# $$\log\mathrm{SNR}_{c}(t) = \log\mathrm{SNR}(t) + 2\log c \tag{6.5}$$
#
# A factor on the data is nothing but a shift of the schedule: the model spends its training and its steps at cleaner levels ($c>1$), and never sees enough noise at the top. The other way round, one who wants more noise may divide. For resolution, Stable Diffusion 3 shifts the flow's time by $s$:
#
# $$t' = \frac{s\,t}{1+(s-1)\,t} \qquad\Longrightarrow\qquad \log\mathrm{SNR}(t') = \log\mathrm{SNR}(t) - 2\log s \tag{6.6}$$
#
# (For the flow, $\mathrm{SNR} = (1-t)^2/t^2$; put $t'$ in: $\frac{1-t'}{t'} = \frac{1-t}{s\,t}$.)

# %% [markdown]
# NOTES for 6.1 and 6.3 (measured on nouns_vae, `python tools/recipes/ship.py nouns_vae --n 1000`):
# right after decoding, new combinations: background 100, body 99.8, accessory 99.2, head 100, glasses 100 %; new
# pairs: accessory 97.1 %; squared error 0.00093 and 0.00130.
# deviation of the means per channel: 0.94 0.91 0.008 0.004 0.91 0.94 0.93 1.01; of the posterior: 0.03 0.07 0.99 0.99
# 0.14 0.06 0.05 0.02. Channels 3 and 4 collapsed: the KL of w = 1e-3 switched them off (rate-distortion: a channel is
# worth its nats or it is not). This is why the scale is fitted on draws of q and not on means: 1/0.008 would blow
# nothing up to deviation 1.
# With w = 1e-4 (150 s trainings): deviations 1.2 to 3.2, no collapse: there the forgotten scale shows.
#
# Training at equal time (150 s, two cores, bf16), squared error / accessory right: patch 2, widths 64, 96, batches of
# 64: 0.020 / 56 %; 32: 0.0115 / 75 %; 16: 0.0081 / 84 %. Patch 1 (32, 64, 96), 64: 0.034 / 33 %. Widths 48, 64,
# batches of 16, w = 1e-3: 0.0083 / 85 %.
# Latent diffusion pilots, 100 s each (n = 200, w = 2, 10 steps; background, body, accessory, head, glasses):
# time_sampler mean -2.5: 99.5 51 24.5 99 62; 0: 97.5 53 16.5 84 65.5; -4: 99.5 56.5 26 98.5 58; -2.5 with batches of
# 32: 99.5 52 18 97 64. 324 images/s against nouns' 93.

# %% [markdown]
# ## 6.2 Diffusion in the latents (text)
#
# **What changes in the diffusion model?** Nothing but the data. Encode every training picture once, `z = vae.to_latents(x)`, and train the network of lesson 5 on $z$ with the same loss. At the end of sampling, decode once:
#
# $$\hat x = \mathrm{decode}\big(z_0/s + m\big), \qquad z_0 = \text{any sampler of lesson 4} \tag{6.7}$$
#
# Clipping to $[-1,1]$ has no meaning for a latent, and neither has a known pixel: a mask has to be shrunk to the latent's grid, and what lies on its edge is mixed by the decoder (lesson 7 pastes the original back).
#
# **What does it save?** Count the network's positions: 16 x 16 after folding in lesson 5's network, 8 x 8 here, a quarter at each level. So a step costs about a quarter; the decoder costs once what it costs. The caption is encoded once a picture in both models. With $n$ evaluations,
#
# $$\frac{\text{pixels}}{\text{latents}} \approx \frac{n\,c_x}{n\,c_z + c_{\text{decoder}}} \tag{6.8}$$
#
# TODO live: time at batch 1, 64, 100, in turns (profiling.median_seconds); attribute accuracy n = 50 live, 2,000 from the card, both splits, paired.
#
# ## 6.4 Better autoencoder, worse model; the field
#
# **If the latent loses details, why not a larger latent?** TODO shipped table: 2, 4, 8, 16 channels x right after decoding x right after sampling, two seeds, ten-minute runs (assets/latents.csv, with its command).
#
# Reconstruction gets better with every channel; the diffusion model gets more to learn, and what it gets is the part that is hard to predict: **learnability against fidelity**. The KL term, and noise on the latent while the decoder trains, smooth the latent space at the decoder's cost. Four directions of the field, each with its bet: a diffusion model on the features of a *recogniser* with a decoder trained to invert it (representation autoencoders); *high compression*, 32 or 64 pixels a side per latent, with residual down-sampling so that it can be trained at all (DC-AE); latents regularised for the diffusion model, not for the decoder; and *back to pixels*, with large patches and transformers, no autoencoder at all. Each says of the others what the table shows for channels: a good autoencoder is not one that reconstructs best.
