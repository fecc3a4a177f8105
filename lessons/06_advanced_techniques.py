# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 6 · Advanced techniques: latents, continuous time, other data
#
# {{badge}}
#
# This lesson goes beyond pixels, beyond steps and beyond pictures. Part I trains an autoencoder and a diffusion model in its **latents**: that is Stable Diffusion's plan, on your machine. Part II puts everything into continuous time: score matching, stochastic differential equations and flows turn out to be **one equation** with different clocks and rulers, and the equation gives each picture a likelihood. Part III takes the same denoiser, loop and samplers to **text, video, sound, shapes and actions**.
#
# **After this lesson you can** train and judge an autoencoder for diffusion, scale its latents and say what happens if you forget it; train a score by denoising and say why it needs noise levels; derive the reverse SDE and the whole family of processes with the same marginals; convert a network from one schedule to another without training; say what a flow adds and what it does not; compute a likelihood in bits per dimension without the two usual mistakes; and train a diffusion model on data that are no pictures, and say whether it has copied them.
#
# **You need** lessons 1 to 5. **It takes** about 3 minutes to run on two CPU cores. The exercises are in `exercises/06_advanced_techniques.ipynb`.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 6.1 An autoencoder of one's own | core | 12 | what a latent is, and what it loses |
# | 6.2 Diffusion in the latents | core | 8 | text to image in a quarter of the time |
# | 6.3 The forgotten scale | core | 8 | the best-known omission in public code |
# | 6.4 Better autoencoder, better model? | core | 6 | how to choose the latent's size |
# | 6.5 A transformer that reads: MM-DiT | deeper | 10 | Stable Diffusion 3's network |
# | 6.6 Learning a score | core | 10 | why diffusion needs noise levels |
# | 6.7 Scores without a noise target | deeper | 8 | implicit and sliced score matching |
# | 6.8 One equation | core | 15 | SDE, Fokker-Planck, the reverse family |
# | 6.9 Same marginals, other journeys | core | 8 | what is special about the reverse SDE |
# | 6.10 Solvers of the SDE | deeper | 10 | noise or no noise, at equal cost |
# | 6.11 Clocks and rulers | core | 12 | what a flow adds, and what it does not |
# | 6.12 Couplings | deeper | 12 | optimal transport and reflow in the plane |
# | 6.13 Likelihood | core | 12 | probabilities of pictures, in bits |
# | 6.14 The bound, and bits of MNIST | deeper | 12 | two codes, and a trained network |
# | 6.15 What stays, what changes | core | 3 | the plan of part III |
# | 6.16 Text: masked diffusion | core | 15 | noise for words, and its bound |
# | 6.17 Two tokens at once | core | 8 | errors of a step that no training removes |
# | 6.18 Revising, and a map | deeper | 6 | remasking; language models of this kind |
# | 6.19 Video | core | 8 | a noise level for each frame, and rollouts |
# | 6.20 Sound | core | 8 | waveforms, and how copies are found |
# | 6.21 Spectrograms and phase | deeper | 5 | what a spectrogram leaves out |
# | 6.22 3-D: a sculpture with two shadows | core | 8 | score distillation |
# | 6.23 Shapes as points | core | 7 | a network for sets; how to compare sets of shapes |
# | 6.24 Actions | core | 10 | where regression fails, and where it does not |
# | 6.25 What had to change | core | 3 | all of it in one table |
#
# The core sections read well alone; no core section uses a deeper one. In part III each kind of data reads alone, too.
#
# **Our conventions.** The time $t$ is in [0, 1], 0 is data, 1 is noise; $x_t = \alpha_t\,x_0 + \sigma_t\,\epsilon$; $\alpha$ and $\sigma$ are standard deviations, so $\mathrm{SNR} = \alpha^2/\sigma^2$. $D(x, t)$ is the prediction of the clean data, $\hat x_0$. $w = 1$ is no guidance.

# %% tags=["setup"]
{{setup}}

# %%
import csv
import math

import torch

from course_lib import Schedule, ancestral, cfg, ddim, heun, last, sde
from course_lib.lab import (
    attributes,
    data,
    metrics,
    noun_parts,
    plots,
    profiling,
    sampling,
    storage,
    tables,
    train,
)
from course_lib.networks.vae import AutoencoderKL
from course_lib.schedules import append_dims

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part I · Latent diffusion
#
# ## 6.1 An autoencoder of one's own
#
# A picture of 32 x 32 pixels has 3,072 numbers, and most of them repeat their neighbours. **Must the diffusion model work on all of them?** Rombach et al. (2022) train two networks one after the other. An **autoencoder** learns to write a picture down in fewer numbers, its **latent**, and to read it back. Then a diffusion model learns the latents, which are small. Stable Diffusion is built this way: the autoencoder keeps the details, the diffusion model decides what is in the picture.
#
# The **encoder** maps a picture $x$ to the mean $\mu(x)$ and the log-variance of a Gaussian $q(z\mid x)$; the **decoder** maps a latent back to $\hat x(z)$. The pair is a **variational autoencoder**, VAE (Kingma & Welling 2014). Say that the decoder's picture is right up to Gaussian noise of deviation $s$ per pixel value, and that latents have the prior $\mathcal N(0, I)$. The bound of lesson 1, (1.20) with $z$ in place of $x_{1:T}$, then has two terms:
#
# $$-\log p(x) \le \mathbb E_{z\sim q}\frac{\|x-\hat x(z)\|^2}{2s^2} + \mathrm{KL}\big(q(z\mid x)\,\|\,\mathcal N(0,I)\big) + \tfrac P2\log 2\pi s^2 \tag{6.1}$$
#
# with $P$ the number of pixel values. The divergence of the two Gaussians is a formula, a sum over the latent's numbers $j$:
#
# $$\mathrm{KL} = \tfrac12\sum_j\big(\mu_j^2 + \sigma_j^2 - 1 - \log\sigma_j^2\big) \tag{6.2}$$
#
# **Sum or mean?** Leave the constant out, multiply (6.1) by $2s^2$ and divide by $P$. What is left is the mean squared error and a weighted divergence:
#
# $$\mathcal L = \frac1P\Big[\mathbb E_{z\sim q}\|x-\hat x(z)\|^2 + w_{\mathrm{KL}}\,\mathrm{KL}\Big], \qquad w_{\mathrm{KL}} = 2s^2 \tag{6.3}$$
#
# So the KL weight says how exact the picture has to be. Inside the bracket both terms are sums. Code that sums over pixels and takes the *mean* over the latent's $d$ numbers has divided the weight by $d$; code that takes the mean over pixels and the sum over latents has multiplied it by $P$. The same "1e-6" means different models. With Stable Diffusion's $10^{-6}$ the KL term nearly vanishes, and so does what it was for: latents with a deviation near 1.
#
# The encoder's and the decoder's plan is Stable Diffusion's, with fewer channels. Convolution blocks with shortcuts; between levels a convolution of stride 2, padded on the right and at the bottom only; self-attention at the lowest level; a 1x1 convolution before and after the latent. One thing is ours: the first layer folds 2 x 2 pixels into channels.

# %%
net = AutoencoderKL(3, latent_channels=8, widths=(48, 64), depth=1, patch_size=2)
x = data.nouns(4, seed=1).x                                             # (4, 3, 32, 32)
mean, log_variance = net.encode(x)                                      # (4, 8, 8, 8) each
z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=seeded(0))
print(tuple(x.shape), "->", tuple(z.shape), "->", tuple(net.decode(z).shape))
print(f"{profiling.count_parameters(net):,} parameters; "
      f"{x[0].numel():,} numbers -> {z[0].numel()}")

# %% [markdown]
# Its loss is (6.3), and the loop of lesson 3 trains it as it trains a denoiser: `train.train(net, data, ...)` calls `net.loss`. Here it is once more, from its parts:

# %%
def autoencoder_loss(net, x, eps):
    mean, log_variance = net.encode(x)
    z = mean + (log_variance / 2).exp() * eps
    squared = (x - net.decode(z)).square().flatten(1).sum(1)            # (B,)
    kl = (mean**2 + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2
    return (squared + net.kl_weight * kl) / x[0].numel()

eps = torch.randn(z.shape, generator=seeded(1))
with torch.no_grad():
    torch.testing.assert_close(autoencoder_loss(net, x, eps), net.loss(x, eps))
    print("loss of each picture:", [f"{v:.3f}" for v in net.loss(x, eps)])

# %% [markdown]
# Training takes half an hour on two cores, so we load the result. We look at 250 figures whose combination of parts was not in training, and compute the attribute accuracy of lesson 5 *after the way through the latent*: is each part still the nearest of all parts of its kind?

# %%
vae = train.load("nouns_vae", device)
print(vae.about["command"], f"({vae.about['steps']:,} steps)")
test = data.nouns(250, seed=1, split="test")
with torch.no_grad():
    mean, log_variance = (part.cpu() for part in vae.encode(test.x.to(device)))
    again = vae.decode(mean.to(device)).cpu()
plots.show({"pictures": test.x[:12], "through the latent": again[:12]}, columns=12,
           title="Twelve figures, and what the decoder makes of their latents")
right = attributes.attributes_correct(again.clamp(-1, 1), test.parts).double().mean(0)
tables.table({"right": dict(zip(noun_parts.PARTS, right.tolist()))}, ".1%", index="part",
             caption="Attribute accuracy through the latent, 250 new combinations")

# %% [markdown]
# **What they show.** At this size the two rows look alike. Of 250 figures every background, body, head and pair of glasses is still the right one, and all but three of the accessories.
#
# **What is in the latent?** Of each channel: the deviation of its mean over all figures and positions, and the deviation $\sigma_j$ of the Gaussian itself. The first is signal, the second is noise that the decoder has learnt to bear. Their KL, by (6.2), is what the channel costs.

# %%
kl = (mean**2 + log_variance.exp() - 1 - log_variance) / 2               # (250, 8, 8, 8)
rows = {
    "deviation of the mean": mean.transpose(0, 1).flatten(1).std(1),
    "deviation of q, root mean square": log_variance.exp().mean((0, 2, 3)).sqrt(),
    "KL, nats per number": kl.mean((0, 2, 3)),
}
channels = [f"channel {k}" for k in range(8)]
tables.table({name: dict(zip(channels, values.tolist())) for name, values in rows.items()},
             ".3f", index="", caption="The eight channels of the latent")

# %% [markdown]
# **What the table shows.** Two channels have **collapsed** (**posterior collapse**): their mean is nearly constant and their $q$ nearly the prior, for every picture. They cost nothing and carry nothing. The other six have means with deviations near 1 and small noise.
#
# **What does an autoencoder throw away?** The squared error's answer to missing information is the mean of what is still possible, so what is thrown away comes back blurred. On photographs this would be hair, grass and skin. Therefore Stable Diffusion's autoencoder has two more terms. A **perceptual** term compares features of a trained network (LPIPS, lesson 3) in place of pixels. An **adversarial** term is a second network that learns to tell pictures from reconstructions, and whose gradient the decoder climbs: it rewards *a* sharp texture over the mean of all. What the latent lacks, the decoder then makes up. Our figures have flat colours and few parts, and nearly all of them come back right, so we use neither.
#
# ## 6.2 Diffusion in the latents
#
# **What changes in the diffusion model?** The data; loss, captions and samplers stay. Per channel, with $m$ the mean and $1/k$ the deviation of draws of $q$ over the data (of the means alone a collapsed channel would be blown up), standardise the latent $y$:
#
# $$z = (y - m)\,k, \qquad \hat x = \mathrm{decode}\big(z/k + m\big) \tag{6.4}$$
#
# Encode every training picture once, by its mean, and train lesson 5's kind of network on $z$ (other widths, and a noisier distribution of times). At the end of sampling, by any sampler, decode once. Two things lose their meaning. Clipping to $[-1, 1]$ does, because a latent has no such range. Known pixels do, too: a mask has to be brought to the latent's grid, and at its edge the decoder mixes both sides.

# %%
z = vae.to_latents(test.x.to(device))                                    # (250, 8, 8, 8)
torch.testing.assert_close(z.cpu(), (mean - vae.shift.cpu()[:, None, None])
                           * vae.scale.cpu()[:, None, None], rtol=1e-4, atol=1e-4)
L = train.load("nouns_latent", device)
T = train.load("nouns", device)  # lesson 5's, on pixels
print(L.about["command"], f"({L.about['steps']:,} steps)")
captions = data.nouns(10, seed=2, split="test").captions
shown = {"pixels": sampling.text_to_image(T, captions),
         "latents": sampling.text_to_image(L, captions, vae=vae)}
plots.show(shown, columns=10, title="The same ten captions")
print("\n".join(captions))

# %% [markdown]
# **What the figure shows.** Both draw what was asked for. Where a caption leaves a part out (the third names no body, the tenth no glasses), each model chooses for itself.
#
# **What does it save?** Our U-Net on pixels works at 16 x 16 positions after its first layer, the one on latents at 8 x 8. So an evaluation has a quarter of the positions. The caption is encoded once a picture in both. With $n$ evaluations of a network of cost $c_x$ or $c_z$,
#
# $$\frac{\text{time with pixels}}{\text{time with latents}} = \frac{c_{\text{text}} + n\,c_x}{c_{\text{text}} + n\,c_z + c_{\text{decoder}}} \tag{6.5}$$
#
# Measure the four costs, in turns, at a batch of 1 and of 32. Ten guided steps are $n = 10$ guided evaluations.

# %%
def costs(B):
    """Seconds: a guided evaluation on pixels, on latents, the decoder, the text."""
    tokens = T.net.tokenizer(data.nouns(B, seed=3).captions).to(device)
    t = torch.full((B,), 0.5, device=device)
    x, z = torch.randn(B, 3, 32, 32), torch.randn(B, 8, 8, 8)
    x, z = x.to(device), z.to(device)
    of_x, of_z = (D.net.encode(tokens, B) for D in (T, L))
    on_x, on_z = (cfg(D, 2.0, D.net.encode(0, B)) for D in (T, L))
    with torch.no_grad():
        return profiling.median_seconds(
            lambda: on_x(x, t, **of_x), lambda: on_z(z, t, **of_z),
            lambda: vae.to_images(z),
            lambda: (T.net.encode(tokens, B), T.net.encode(0, B)))

rows = []
for B in (1, 32):
    c_x, c_z, c_decoder, c_text = costs(B)
    ratio = (c_text + 10 * c_x) / (c_text + 10 * c_z + c_decoder)
    rows.append({"batch": B, "pixels": 1000 * c_x / B, "latents": 1000 * c_z / B,
                 "decoder": 1000 * c_decoder / B, "text": 1000 * c_text / B,
                 "(6.5), 10 steps": ratio})
tables.table(rows, ".1f", caption="Milliseconds a picture")

# %% [markdown]
# **What the table shows.** In a batch of 32 a guided evaluation on latents costs little more than a quarter of one on pixels, and by (6.5) a picture takes between three and four times less. For a single picture it is less than twice, probably because so small a batch keeps no processor busy. The text and the decoder cost less than one evaluation in both cases.
#
# **And is it as good?** Live we can afford 50 figures: a standard error of up to 7 points. The second table has 2,000 captions of each of lesson 5's splits ("test": new combinations, "pairs": pairs of parts that training never has), the same for both models, and the whole time from captions to pixels (`python benchmarks/latents.py pixels`).

# %%
def accuracies(x, parts):
    right = attributes.attributes_correct(x, parts).double().mean(0)
    return dict(zip(noun_parts.PARTS, right.tolist()))

parts = noun_parts.draw_parts(50, seed=5, split="test")
captions = noun_parts.plain_captions(parts)                          # all parts are named
rows = {"pixels, n = 50": accuracies(sampling.text_to_image(T, captions), parts),
        "latents, n = 50": accuracies(sampling.text_to_image(L, captions, vae=vae), parts)}
tables.table(rows, ".1%", index="",
             caption="Attribute accuracy, captions of new combinations")

# %%
with open(storage.ASSETS / "latents_pixels.csv") as file:
    shipped = {row.pop("measure"): row for row in csv.DictReader(file)}
rows = {}
for split in ("test", "pairs"):
    for part in noun_parts.PARTS:
        row = shipped[f"{part}, {split}"]
        change, error = (100 * float(row[k]) for k in ("difference", "error"))
        rows[f"{part}, {split}"] = {"pixels": float(row["pixels"]),
                                    "latents": float(row["latents"]),
                                    "points": f"{change:+.1f} ± {error:.1f}"}
tables.table(rows, ".1%", index="part, split",
             caption="2,000 captions of each split, paired")
times = {name: {"pixels": float(row["pixels"]), "latents": float(row["latents"]),
                "ratio": float(row["difference"])}
         for name, row in shipped.items() if "seconds" in name}
tables.table(times, ".2f", index="",
             caption="From captions to pictures, 10 guided steps, in turns")

# %% [markdown]
# **What the tables show.** Of the 50 figures live, one accessory is wrong. With 2,000 captions both models are about equal on backgrounds, heads and, in new combinations, accessories. The latents lose about a point of body and glasses there; in pairs that training never had, 2 points of body and 3 of the accessory. From caption to picture they take 4.5 times less time in batches of 100, 1.8 times for one.
#
# ## 6.3 The forgotten scale
#
# A diffusion model's noise has deviation 1, and its schedule was chosen for data of about that size. Stable Diffusion multiplies all channels by one number, $k = 0.18215$; Stable Diffusion 3 subtracts a mean, too. **What happens if the factor in (6.4) is forgotten?** Nothing crashes. Let the data be $c\,z$ in place of $z$. Then $x_t = \alpha_t c\,z + \sigma_t\epsilon$: the signal's power is multiplied by $c^2$, so at every $t$
#
# $$\log\mathrm{SNR}_{c}(t) = \log\mathrm{SNR}(t) + 2\log c \tag{6.6}$$
#
# A factor on the data is a shift of the log SNR (and $x_t$ becomes larger, too). With $c>1$ the model spends its training and its steps at cleaner levels, and where the schedule ends with a little signal left, as most do, $c$ multiplies it: sampling, which starts from $\mathcal N(0, I)$, does not have it. With $c<1$ the last steps start from a level that is too noisy for the data, and details merge. The shift can be used on purpose, too. High-resolution pictures survive more noise, because neighbouring pixels repeat each other; so Stable Diffusion 3 shifts the flow's time by a factor $s$:
#
# $$t' = \frac{s\,t}{1+(s-1)\,t} \qquad\Longrightarrow\qquad \log\mathrm{SNR}(t') = \log\mathrm{SNR}(t) - 2\log s \tag{6.7}$$
#
# For the flow, $\mathrm{SNR} = (1-t)^2/t^2$, and putting $t'$ in gives $\frac{1-t'}{t'} = \frac{1-t}{s\,t}$. So dividing the data by $s$ and shifting the time by $s$ do the same.

# %%
flow, cosine = Schedule.flow(), Schedule.cosine()
t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
shifted = 3 * t / (1 + 2 * t)
rows = []
for k in range(3):
    rows.append({"t": t[k].item(), "flow": flow.log_snr(t[k]).item(),
                 "flow, at t' of s = 3": flow.log_snr(shifted[k]).item(),
                 "cosine": cosine.log_snr(t[k]).item(),
                 "cosine, data times 3": (9 * cosine.alpha(t[k])**2
                                          / cosine.sigma(t[k])**2).log().item()})
tables.table(rows, ".2f", caption=f"log SNR; 2 log 3 = {2 * math.log(3):.2f}")

# %% [markdown]
# The columns of each pair differ by 2.20, and the factor and the shift go opposite ways.
#
# **Does it matter?** Our autoencoder's deviations are near 1 already: its KL weight, $10^{-3}$ in (6.3), is large. So we take one with Stable Diffusion's weight, $10^{-6}$, and train the same network on its latents for 1,500 steps, two seeds of both: with the latents divided by their deviation; as they are (deviations of 2.4 and 2.0); and at 5.5, the deviation of Stable Diffusion's own latents, $1/0.18215$. There we also try two repairs. The first shifts the schedule back by (6.6). The second divides $x_t$ by its own deviation before it enters the network, and leaves the schedule alone. (`python benchmarks/latents.py scale`)

# %%
def shipped_rows(experiment):
    """The rows of an experiment, of all seeds: {variant: [row, ...]}"""
    rows = {}
    with open(storage.ASSETS / "latents.csv") as file:
        for row in csv.DictReader(file):
            if row["experiment"] == experiment:
                rows.setdefault(row["variant"], []).append(row)
    return rows

def over_rows(rows, columns, digits=3):
    """Each column's values, one for each seed, beside each other."""
    return {new: " / ".join(f"{float(row[old]):.{digits}f}" for row in rows)
            for new, old in columns.items()}

sampled = {part: f"sampled_{part}" for part in noun_parts.PARTS}
tables.table({name: over_rows(rows, sampled, 2)
              for name, rows in shipped_rows("scale").items()},
             index="latents", caption="Attribute accuracy of 500 samples, two seeds")

# %%
samples, _ = storage.load_tensors(storage.ASSETS / "latents.safetensors")
plots.show({name: samples[f"scale, {name}, 0"] / 127.5 - 1
            for name in shipped_rows("scale")}, columns=8,
           title="The same eight captions")

# %% [markdown]
# **What table and figure show.** As they are, at deviations of 2.4 and 2.0, the latents cost 4 and 5 points of the accessory, where a difference has a standard error of 3. At 5.5 they cost 23 and 24 points of the accessory and 5 and 6 of the body. The shifted schedule repairs that (accessory 50 and 56 %), the divided input does not (32 and 34 %). So what hurts is the noise levels, not the size of the network's input. In the figure heads and backgrounds look alike in all rows; only the shirts differ. That is our 1,500 steps with the cosine schedule. Stable Diffusion's schedule also ends at $\alpha_1 = 0.068$, so there the start is wrong, too; exercise 6.5 shows it.
#
# ## 6.4 Better autoencoder, better model?
#
# **If the latent loses details, why not a larger latent?** An autoencoder like ours, with Stable Diffusion's KL weight and 2, 4, 8 or 16 channels, trained for 3,000 steps of 16 pictures; then on the latents of each, standardised, the same diffusion model for 1,500 steps of 32; two seeds of both. (`python benchmarks/latents.py channels`)

# %%
rows = {}
for name, of_seeds in shipped_rows("channels").items():
    rows[name] = over_rows(of_seeds, {"squared error": "squared_error"}, 4)
    for part in ("body", "accessory"):
        rows[name] |= over_rows(of_seeds, {f"{part}, decoded": f"decoded_{part}",
                                           f"{part}, sampled": f"sampled_{part}"}, 2)
tables.table(rows, index="channels",
             caption="1,000 reconstructions, 500 samples, two seeds")

# %% [markdown]
# **What the table shows.** Reconstruction gets better with each doubling of the channels: the accessory is read in 78 and 80 % of the decoded pictures with 2 channels, in 96 and 95 % with 16. The body's samples gain 5 to 7 points from 2 to 4 channels. All other single steps lie within the seeds' difference, up to 8 points; from 2 to 16 the accessory gains 7. So for the accessory the gap between what the autoencoder could show and what the model draws grows, from 32 and 31 points to 43 and 39; for the body it does not.
#
# More channels give the diffusion model more to learn; probably what they add is hard to predict. This exchange is **learnability against fidelity**. On photographs it can turn into a loss: Yao et al. (2025) report that more channels reconstruct better, and that the diffusion model then has to be larger or trained longer to be as good.  Four directions of the field, each with its own bet:
#
# - **Representation autoencoders**: diffuse the features of a network that was trained to recognise, and train a decoder that inverts it.
# - **High compression**: 32 or 64 pixels a side for one position of the latent, with shortcuts around the down-sampling so that it can be trained (DC-AE).
# - **Regularised latents**: noise on the latent while the decoder trains, or a KL term, or a prior that is trained along. They smooth the latent at the decoder's cost.
# - **Back to pixels**: large patches and transformers, no autoencoder at all.
#
# What they share: an autoencoder for diffusion is not chosen by its reconstruction alone.
#
# ## 6.5 A transformer that reads: MM-DiT · deeper
#
# Lesson 5's network reads by cross-attention: pictures ask, words answer, and the words stay as they are. Stable Diffusion 3 (Esser et al. 2024) lets both change. Its **MM-DiT** has two streams of tokens, picture and text, each with its own weights; they meet in **joint attention**, where both ask and both answer:
#
# $$\mathrm{softmax}\Big(\tfrac1{\sqrt d}\,[Q_c; Q_x]\,[K_c; K_x]^\top\Big)\,[V_c; V_x] \tag{6.8}$$
#
# $Q$, $K$ and $V$ are queries, keys and values (lesson 2), $c$ the caption's and $x$ the picture's. The brackets stack the tokens of the caption above those of the picture. Time and a pooled summary of the caption enter through the adaptive norms of a DiT (lesson 2). A mask hides the padding of short captions from both streams.

# %%
import torch.nn.functional as F


def joint_attention(c, x, mask):
    """(6.8), one head. c, x: q, k and v of text and picture, (B, L, d) and (B, N, d) each;
    mask (B, L): False where there is no word.
    """
    q, k, v = (torch.cat(pair, 1) for pair in zip(c, x))                 # (B, L + N, d)
    scores = q @ k.transpose(1, 2) / q.shape[-1]**0.5                    # (B, L + N, L + N)
    hidden = ~F.pad(mask, (0, x[0].shape[1]), value=True)                # (B, L + N)
    weights = scores.masked_fill(hidden[:, None], -math.inf).softmax(2)
    return (weights @ v).split([c[0].shape[1], x[0].shape[1]], 1)

c, x = torch.randn(3, 2, 5, 16), torch.randn(3, 2, 64, 16)
mask = torch.arange(5) < torch.tensor([[3], [5]])                       # 3 words, 5 words
of_text, of_picture = joint_attention(c, x, mask)
torch.testing.assert_close(of_picture[:1], joint_attention(c[:, :1, :3], x[:, :1],
                                                           mask[:1, :3])[1])
print("text", tuple(of_text.shape), "picture", tuple(of_picture.shape),
      "; padding changes nothing")

# %% [markdown]
# In the library this is `networks.dit.MMDiT`, with several heads, queries and keys of a fixed root mean square (so that attention in half precision cannot grow), and a test of its own. Section 6.2's kind of network (a U-Net with cross-attention) and an MM-DiT, on the latents of `nouns_vae`, 30 minutes each on one and the same core (`python benchmarks/latents.py readers`):

# %%
columns = {"parameters": "parameters", "steps": "steps"}
tables.table({name: over_rows(rows, columns, 0) | over_rows(rows, sampled)
              for name, rows in shipped_rows("readers").items()},
             index="network", caption="Attribute accuracy of 500 samples, 30 minutes each")

# %% [markdown]
# **What the table shows.** In the same time the MM-DiT made three steps where the U-Net made four. Body and accessory come out about equal: one value has a standard error of 1.4 points. The MM-DiT has the glasses right more often, by 6 points. That is one seed of each; for a verdict it would take more.

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
# Two things follow. The two losses have the same gradient, so the minimiser of (6.10) is the score *of the noised density*, not of the data. And the price is variance: the target $-\epsilon/\sigma$ has the variance $1/\sigma^2$ per dimension, which grows as $\sigma$ falls, though the score itself may stay tame.
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
# **What the table shows.** At every level the two gradients differ by less than one standard error, where the wrong sign is 11 to 99 errors away at the three larger levels. A wrong sign changes the gradient by $2\,\mathbb E[\partial_\theta s\cdot\nabla\log q]$. At the smallest level $\partial_\theta s$ is nearly constant, and the mean of a score is 0, so this test cannot see it there. The denoising gradient is the noisier one at every level; at the smallest its deviation is 256, the explicit one's 0.3. Weighted by $\sigma^2$, (6.10) has the noise itself as target, of variance 1 at every level: that is the loss of lesson 1.
#
# **Then why not learn the score at one very small level, and follow it?** Lesson 4 had the tool: **Langevin dynamics** (4.14), small steps along the score with fresh noise, which leave the level's density as it is (4.15). Start points from $\mathcal N(0, 4)$, take 600 steps with the exact score, and compare three plans: the small level alone, a large level alone, and twenty levels from large to small (**annealed Langevin**, Song & Ermon 2019).

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
start = 2 * torch.randn(5_000, 1, generator=seeded(0), dtype=torch.float64)
rows = {f"{name}, 600 steps": seen(langevin(start, levels, 600, seeded(1)))
        for name, levels in plans.items()}
rows["twenty levels, 2,400 steps"] = seen(
    langevin(start, plans["twenty levels, falling"], 2400, seeded(1)))
rows["the data"] = seen(bumps.sample(5_000, seed=3))
tables.table(rows, index="", caption="Five clouds of 1,000 points each")

# %% [markdown]
# **What the table shows.** Alone, the small level brings every point to a bump, and half of the points are left of 0, as at the start, where the data has 31 %. Its score says nothing about the other bump: points would have to cross a gap in which the density is $e^{-22}$ times that of the bumps. The large level mixes the two bumps and blurs them. Falling levels do the one after the other: the masses are set while the bumps still overlap, the details after that. With falling levels and 30 steps a level they come to 0.32, with 120 to 0.30, as in the data up to the spread: noise levels make mixing fast, not free. A diffusion model is the same idea with the levels in its time.
#
# ## 6.7 Scores without a noise target: implicit and sliced · deeper
#
# **Can a score be learnt without the noise as target?** Expand the square in (6.9). The middle term still has the unknown score, but $q\,\nabla\log q = \nabla q$, and integration by parts moves the derivative to $s$ ($q\,s$ vanishes far away): $-\int q\,s\cdot\nabla\log q\,dx = -\int s\cdot\nabla q\,dx = \int q\,\nabla\cdot s\,dx$. What is left is **implicit score matching** (Hyvärinen 2005):
#
# $$J_{\text{ISM}}(s) = \mathbb E_q\Big[\tfrac12\|s(x)\|^2 + \nabla\cdot s(x)\Big] = J_{\text{ESM}}(s) - \tfrac12\,\mathbb E_q\|\nabla\log q\|^2 \tag{6.12}$$
#
# It needs no target, and holds without any noise. The price is the divergence: one backward pass for each dimension. **Sliced score matching** (Song et al. 2019, in its variance-reduced form) looks along one random direction $z$ with mean 0 and covariance $I$ instead:
#
# $$J_{\text{SSM}}(s) = \mathbb E_q\,\mathbb E_z\Big[\tfrac12\|s(x)\|^2 + z^\top\frac{\partial s}{\partial x}z\Big] = J_{\text{ISM}}(s) \tag{6.13}$$
#
# because $\mathbb E\,z_iz_j$ is 1 for $i=j$ and 0 otherwise. One backward pass, and some variance of its own. All four losses in the plane: six bumps, noised to $\sigma$; the score of the same bumps, shifted by $\theta$ to the right; the derivative by $\theta$ at $\theta = 0.1$.

# %%
angle = torch.arange(6) * math.pi / 3
ring = data.GaussianMixture(torch.stack([angle.cos(), angle.sin()], 1), 0.15)

def four_losses(x, eps, sigma, theta, probe):
    """The four losses of each point, of the ring's score shifted by theta: {name: (n,)}"""
    x = x.detach().requires_grad_()
    s = ring.score(x - torch.tensor([theta, 0.0]), 1.0, sigma)           # (n, 2)
    half = s.square().sum(1) / 2
    return {"explicit": (s - ring.score(x, 1.0, sigma)).square().sum(1) / 2,
            "denoising": (s + eps / sigma).square().sum(1) / 2,
            "implicit": half + sde.divergence(s, x),
            "sliced": half + sde.divergence(s, x, probe)}

def by_theta(sigma, n=50_000, h=1e-3):
    eps = torch.randn(n, 2, generator=seeded(4), dtype=torch.float64)
    probe = torch.randn(n, 2, generator=seeded(5), dtype=torch.float64).sign()
    x = ring.sample(n, seed=3).double() + sigma * eps
    high, low = (four_losses(x, eps, sigma, theta, probe) for theta in (0.1 + h, 0.1 - h))
    return {name: ((high[name] - low[name]) / (2 * h)).detach() for name in high}

rows = {}
for sigma in (0.4, 0.1, 0.02):
    g = by_theta(sigma)
    for name, values in g.items():
        row = rows.setdefault(name, {})
        row[f"mean at {sigma}"] = f"{values.mean():.4g}"
        if name != "explicit":
            off = values - g["explicit"]
            row[f"off / error at {sigma}"] = f"{off.mean() / off.std() * len(off)**0.5:.1f}"
        row[f"deviation at {sigma}"] = f"{values.std():.3g}"
tables.table(rows, index="loss",
             caption="Derivative by theta of four losses, 50,000 points")

# %% [markdown]
# **What the table shows.** All three losses have the explicit one's gradient, within 2.5 standard errors. Their noise differs. At the largest level denoising has half the implicit losses' deviation, at the smallest six times as much: there its target grows like $1/\sigma$, and theirs do not contain it. The sliced loss pays about a tenth for its random direction. With two dimensions the exact divergence costs two backward passes; with 3,072 it would be 3,072, and denoising needs no extra one.
#
# ## 6.8 One equation
#
# **What do all diffusion models have in common?** So far a model was a chain of steps, then an ODE. Write the forward process in a small step $h$, by `renoise` of lesson 1: from $x_t$ to $x_{t+h}$ the factor is $\alpha_{t+h}/\alpha_t = 1 + \frac{\alpha'}{\alpha}h + O(h^2)$, and the added variance is $\sigma_{t+h}^2 - (\alpha_{t+h}/\alpha_t)^2\sigma_t^2 = (2\sigma\sigma' - 2\frac{\alpha'}\alpha\sigma^2)h + O(h^2)$. So
#
# $$x_{t+h} \approx x_t + f\,x_t\,h + g\sqrt h\,z, \qquad f = \frac{\alpha'}\alpha,\quad g^2 = 2\sigma\sigma' - 2f\sigma^2 \tag{6.14}$$
#
# with fresh noise $z$ in each step. In the limit of small steps one writes $dx = f\,x\,dt + g\,dw$: a **stochastic differential equation** (SDE) with **drift** $f\,x$ and **diffusion** $g$ (Song et al. 2021). Three families have names. **Variance preserving** (VP): $\alpha^2+\sigma^2 = 1$, so $g^2 = -2f$, which is $\beta$ of lesson 1 counted in continuous time. **Variance exploding** (VE): $\alpha = 1$, so $f = 0$ and $g^2 = \frac{d\sigma^2}{dt}$. **Flow**: $\alpha = 1-t$, $\sigma = t$, so
#
# $$f = -\frac1{1-t}, \qquad g^2 = \frac{2t}{1-t} \tag{6.15}$$
#
# **How does the density move?** Take any smooth function $\varphi$ and watch its mean. Expand $\varphi(x_t + f x_t h + g\sqrt h z)$ to first order in $h$; the noise has mean 0 and variance 1 in each direction, so its first-order term vanishes and its second-order term leaves half the sum of second derivatives, $\frac{h}{2}g^2\nabla^2\varphi$:
#
# $$\frac{d}{dt}\,\mathbb E\,\varphi(x_t) = \mathbb E\Big[f\,x_t\cdot\nabla\varphi(x_t) + \tfrac12 g^2\,\nabla^2\varphi(x_t)\Big] \tag{6.16}$$
#
# The operator in the brackets is the **generator** of the process, and (6.16) is the whole theory in one line: it holds for every $\varphi$, so with the density at one time it fixes $q_t$ at all times, under mild conditions. Write the means as integrals and integrate by parts, once for the first term and twice for the second; the density vanishes far away, so nothing is left at the ends:
#
# $$\frac{\partial q_t}{\partial t} = -\nabla\cdot(f\,x\,q_t) + \tfrac12 g^2\,\nabla^2 q_t \tag{6.17}$$
#
# This is the **Fokker-Planck equation**; without noise, $g = 0$, it is the **continuity equation** of a fluid with the velocity $f\,x$. Both hold with any velocity $v(x, t)$ in place of $f\,x$: the derivation did not use its form.
#
# **The trick.** Since $\nabla^2 q = \nabla\cdot\nabla q = \nabla\cdot(q\,\nabla\log q)$, noise and a velocity are exchangeable: the term $\frac12 g^2\nabla^2 q$ is what a fluid of velocity $-\frac12 g^2\nabla\log q$ does. So one can take away some of the noise, or all of it, or add more, and pay with a velocity along the score. Run the time backwards and use this with a factor $\lambda\ge0$ on the noise:
#
# $$dx = \Big[f\,x - \tfrac{1+\lambda^2}2\,g^2\,\nabla\log q_t(x)\Big]dt + \lambda\,g\,dw, \qquad t \text{ falling} \tag{6.18}$$
#
# *Check.* Let $\tau$ run backwards, $\tau = 1 - t$. The score $\nabla\log q_t$ in (6.18) is a given function. Let the density $q$ of (6.18) be $q_t$ at one time; then $q\,\nabla\log q_t = \nabla q$, and by (6.17) it changes by
#
# $$\frac{\partial q}{\partial\tau} = \nabla\cdot(f\,x\,q) - \tfrac{1+\lambda^2}2g^2\,\nabla\cdot(q\nabla\log q) + \tfrac{\lambda^2}2g^2\nabla^2 q = \nabla\cdot(f\,x\,q) - \tfrac12g^2\nabla^2 q \tag{6.19}$$
#
# which is (6.17) backwards: $\lambda$ has cancelled, and $q$ stays $q_t$. $\lambda = 0$ is the probability-flow ODE (4.13). $\lambda = 1$ is **Anderson's reverse process** (1982), the limit of ancestral sampling. A step of Euler's method from $t$ to $t-h$ subtracts $h$ times the bracket and adds $\lambda g\sqrt h\,z$. Started from the same density, *all have the same marginals $q_t$*, if the score is exact and the steps are small.
#
# ## 6.9 Same marginals, other journeys
#
# **Then what is special about $\lambda = 1$?** The marginals say where the points are at each time, not which point came from where. Ask Bayes' rule for one small step back, as in lesson 1: $q(x_{t-h}\mid x_t) \propto q_{t-h}(x_{t-h})\;q(x_t\mid x_{t-h})$. Let $\delta = x_{t-h}-x_t$. The second factor is by (6.14) a Gaussian around $\delta = -f\,x\,h$ with variance $g^2h$, so $\delta$ is of the order $\sqrt h$, and its exponent of the order 1. Beside it $\log q_{t-h}(x_t+\delta) \approx \log q_t(x_t) + \delta\cdot\nabla\log q_t$, as the terms of the order $h$ may be dropped. Complete the square:
#
# $$q(x_{t-h}\mid x_t) \approx \mathcal N\Big(x_t - \big[f\,x_t - g^2\,\nabla\log q_t(x_t)\big]h,\; g^2h\,I\Big) \tag{6.20}$$
#
# That is (6.18) with $\lambda = 1$ and no other. So only Anderson's process has the forward process's **joint** law: its paths are the forward paths, run backwards. For other $\lambda$ only the single frames agree, not the film.
#
# **See it.** Bumps under the flow schedule, the exact score, Euler's method for (6.18) (**Euler-Maruyama**). First the marginals: the distance of the final points to fresh draws of $q_t$ (the mean distance of the sorted points, **Wasserstein-1**). Then pairs: the correlation of a point at $t = 0.6$ with itself at $t = 0.05$. For the forward process it is known, $\operatorname{Cov}(x_t, x_s) = \frac{\alpha_t}{\alpha_s}\operatorname{Var}(x_s)$ for $s<t$, because the noise that is added from $s$ to $t$ knows nothing of $x_s$:
#
# $$\operatorname{corr}(x_t, x_s) = \frac{\alpha_t}{\alpha_s}\sqrt{\frac{\operatorname{Var}x_s}{\operatorname{Var}x_t}} \tag{6.21}$$

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

def backwards(level, steps, n=20_000):
    """Points at t = 0.6 and, later, at t = 0.05."""
    options = {"noise_level": level, "generator": seeded(0)}
    ts = level_grid(flow, top, middle, steps // 3)
    x = last(sde.euler_maruyama(exact, flow, noised(top, n, 0), ts, **options))
    ts = level_grid(flow, middle, bottom, steps - steps // 3)
    return x, last(sde.euler_maruyama(exact, flow, x, ts, **options))

def forwards(n=20_000):
    low = noised(bottom, n, 1)
    return flow.renoise(low, bottom, middle, seeded(2)), low

# %%
sorted_distance = lambda a, b: (a.sort(0).values - b.sort(0).values).abs().mean()
correlation = lambda a, b: torch.corrcoef(torch.cat([a, b], 1).T)[0, 1]

def row(pair):
    """Five clouds of 4,000 points each: distance to fresh draws, and correlation."""
    clouds = list(zip(*(part.chunk(5) for part in pair)))
    far = [sorted_distance(low, noised(bottom, 4000, 50 + k))
           for k, (_, low) in enumerate(clouds)]
    return {"distance to q": spread(torch.stack(far)),
            "correlation": spread(torch.stack([correlation(*cloud) for cloud in clouds]))}

rows = {"forward": row(forwards())}
for level in (0.0, 1.0, 2.0):
    for steps in (100, 200):
        rows[f"lambda = {level:.0f}, {steps} steps"] = row(backwards(level, steps))
variance = lambda t: ((1 - t) ** 2 * (0.15**2 + 1 - 0.4**2) + t**2)
known = (1 - middle) / (1 - bottom) * (variance(bottom) / variance(middle)) ** 0.5
print(f"(6.21): {known:.4f}")
tables.table(rows, index="process", caption="Five clouds of 4,000 points each")

# %% [markdown]
# **What the table shows.** The distances to fresh draws are about equal for all, and equal to those of the forward process itself: the floor. The correlations are not. $\lambda = 1$ has the forward value; without noise points cannot pass each other, each keeps its rank, and the correlation is 0.86 (below 1 because the two densities have different shapes); with $\lambda = 2$ it nearly forgets where it was. Twice the steps change little, so these are no errors of the solver. Same marginals, other journeys.
#
# ## 6.10 Solvers of the SDE · deeper
#
# **Should one sample with noise or without?** Euler's method for (6.18) treats $x$ and $\hat x_0$ alike, but only $\hat x_0$ is unknown: for a constant $\hat x_0$ the equation is linear and can be solved. In $\bar x = x/\alpha$ and $r = \sigma/\alpha$, with $\lambda = 1$, a step from $r_t$ to $r_s$ is
#
# $$\bar x_s = \hat x_0 + \frac{r_s^2}{r_t^2}\,(\bar x_t - \hat x_0) + r_s\sqrt{1 - \frac{r_s^2}{r_t^2}}\;z \tag{6.22}$$
#
# (With $\alpha = 1$ and $r$ as the time, (6.18) says that $\bar x - \hat x_0$ falls like $r^2$ and gets noise of variance $2r\,dr$. Divide by $r^2$: what is left is noise of variance $\int_{r_s}^{r_t} 2r^{-3}dr = r_s^{-2} - r_t^{-2}$, and times $r_s^4$ that is the last term.) This is lesson 1's posterior $q(x_s\mid x_t, x_0)$ with $\hat x_0$ in place of $x_0$. So **ancestral sampling** is the exponential integrator of Anderson's SDE, as DDIM is that of the ODE (lesson 4). First the order, without chance. For data from $\mathcal N(0, \frac14)$ the exact denoiser is a factor on $x$, so every step is $x_s = a\,x_t + b\,z$, and the variance of the result follows step by step.

# %%
solvers = {"Euler-Maruyama": (sde.euler_maruyama, {}), "ancestral": (ancestral, {}),
           "Euler": (sde.euler_maruyama, {"noise_level": 0.0}), "DDIM": (ddim, {}),
           "Heun": (heun, {})}
bell = data.GaussianMixture([[0.0]], 0.5)

def final_variance(sampler, steps, options):
    """Of N(0, 1/4), noised to t = 0.95 and sampled down to 0.05."""
    D, ts = bell.denoiser(flow), level_grid(flow, 0.95, 0.05, steps)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    z = torch.randn(2, 1, generator=seeded(0), dtype=torch.float64)
    variance = flow.alpha(ts[0])**2 / 4 + flow.sigma(ts[0])**2
    for k in range(steps):
        pair = ts[k:k + 2]
        zero, one = (last(sampler(D, flow, start, pair, generator=seeded(0), **options))
                     for start in (0 * x, x))
        a, b = (one - zero)[1, 0], (zero / z)[0, 0]
        variance = a**2 * variance + b**2
    return variance

def with_posterior_variance(D, schedule, x, ts, generator):
    """Ancestral sampling of N(0, 1/4), with the variance of x0 given x_t added."""
    t, s = ts
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    rho = (schedule.sigma(s) * alpha / (schedule.alpha(s) * sigma)) ** 2
    of_x0 = sigma**2 / 4 / (alpha**2 / 4 + sigma**2)
    step = schedule.alpha(s) * (1 - rho)
    variance = schedule.sigma(s)**2 * (1 - rho) + step**2 * of_x0
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    yield step * D(x, t) + schedule.alpha(s) * rho * x / alpha + variance.sqrt() * noise

# %%
true = flow.alpha(0.05)**2 / 4 + flow.sigma(0.05)**2
rows, control = {}, {"ancestral, variance added": (with_posterior_variance, {})}
for name, (sampler, options) in (solvers | control).items():
    e = [(final_variance(sampler, n, options) / true - 1).item() for n in (20, 40, 80, 160)]
    steps = ("20 steps", "40 steps", "80 steps", "160 steps")
    rows[name] = {n: f"{value:.1%}" for n, value in zip(steps, e)}
    if abs(e[3]) > 1e-9:
        rows[name]["slope, 80 to 160"] = math.log2(abs(e[3] / e[2]))
tables.table(rows, ".2f", index="solver",
             caption="Relative error of the variance; slope of its logarithm")

# %% [markdown]
# **What the table shows.** In the variance four solvers are of first order: the slope of log error against log steps is near $-1$. Heun's is of second order. Ancestral sampling has the largest error here, and the variance comes out too small: the posterior with a *fixed* $x_0$ leaves out that $x_0$ itself is uncertain, and with that variance added (last row) the error is 0. Euler and DDIM agree to the last digit, because under the flow they are the same step (lesson 4).
#
# Now bumps in place of a bell, an equal number of *evaluations* of $D$, and one more question: what if the start is wrong? The same starting points for all. In the last column the points start with half the deviation that they should have.

# %%
clean = noised(bottom, 12_000, 20)
starting = noised(top, 12_000, 10)                                      # the same for all

def distances(x):
    """Of three clouds of 4,000 points to fresh draws."""
    pairs = zip(x.chunk(3), clean.chunk(3))
    return spread(torch.stack([sorted_distance(*pair) for pair in pairs]))

def drawn_bumps(name, evaluations, factor=1.0):
    sampler, options = solvers[name]
    ts = level_grid(flow, top, bottom, evaluations // (2 if name == "Heun" else 1))
    return last(sampler(exact, flow, factor * starting, ts, generator=seeded(3), **options))

rows = {}
for name in solvers:
    row = {f"{n} evaluations": distances(drawn_bumps(name, n)) for n in (10, 20, 40, 80)}
    rows[name] = row | {"80, wrong start": distances(drawn_bumps(name, 80, 0.5))}
rows["fresh draws (floor)"] = {"80 evaluations": distances(noised(bottom, 12_000, 30))}
tables.table(rows, index="solver", caption="Distance to q, three clouds of 4,000 points")

# %% [markdown]
# **What the table shows.** At 10 evaluations Heun's method is the worst, then ancestral sampling; from 40 on all are about equal. The last column tells them apart. Noise *forgets*: the solvers of the SDE end about where they end from a right start, and those of the ODE, which follow each point, carry the mistake to the end. A network's errors are mistakes, too, made at every level; whether noise repairs more than it costs has to be measured for each network, as lesson 4 did with churn.
#
# **An old question.** Lesson 3 (section 3.7) left one open: on a ring of six bumps the bound with a learned variance came to 6.32 bits per dimension, and the data's own length is 6.27. Is the rest the price of 100 steps, or of a short training? Now it can be answered, because for the exact denoiser the best variance is known. The posterior's spread that (6.22) leaves out is the variance of $x_0$ given $x_t$. It is $\frac{\sigma^2}{\alpha}\frac{\partial\hat x_0}{\partial x}$: in $\hat x_0 = \int x_0\,p(x_0\mid x)\,dx_0$ only $p$ depends on $x$, and $\nabla_x\log p(x_0\mid x) = \frac{\alpha}{\sigma^2}(x_0 - \hat x_0)$, so the derivative is $\frac{\alpha}{\sigma^2}\operatorname{Cov}(x_0\mid x)$. Give lesson 3's bound this variance, without any training, and vary the number of steps.

# %%
from course_lib.ddpm import DDPM

small_ring = data.GaussianMixture(ring.means * 0.7, 0.06)

def best_outputs(T):
    """A DDPM with the exact eps, and the r of (3.20) that gives the best variance."""
    schedule = Schedule.cosine(T)
    D, betas = small_ring.denoiser(schedule), schedule.betas.double()
    before = torch.cat([torch.ones(1), (1 - betas).cumprod(0)[:-1]])
    after = (1 - betas).cumprod(0)
    tilde, factor = betas * (1 - before) / (1 - after), before.sqrt() * betas / (1 - after)
    smallest = torch.cat([tilde[1:2], tilde[1:]]).log()

    @torch.enable_grad()
    def net(x, t):
        i = (t * T).round().long() - 1
        x = x.double().detach().requires_grad_()
        x0_hat = D(x, t)
        slopes = [torch.autograd.grad(x0_hat[:, k].sum(), x, retain_graph=True)[0][:, k]
                  for k in range(2)]
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        of_x0 = sigma**2 / alpha * torch.stack(slopes, 1)               # variance given x_t
        variance = tilde[i, None] + factor[i, None]**2 * of_x0
        low, high = smallest[i, None], betas[i, None].log()
        r = (variance.log() - low) / (high - low)
        return torch.cat([(x - alpha * x0_hat) / sigma, r], 1).detach()
    return DDPM(net, schedule.betas, learn_variance=True)

# %%
test_points = small_ring.sample(500, seed=9).double()
own_length = -small_ring.log_prob(test_points).mean() / 2 / math.log(2) - math.log2(2 / 255)
four_times = test_points.repeat(4, 1)                                   # four noises each
rows = []
for T in (25, 100, 400):
    torch.manual_seed(1)
    model = best_outputs(T)
    terms = [model.vlb_terms(four_times, torch.full((2000,), i)) for i in range(T)]
    bits = torch.stack(terms).sum(0) + model.prior_bits(four_times)
    draws = bits.view(4, 500).mean(1)
    rows.append({"steps": T, "bits": bits.mean(), "error": draws.std() / 2,
                 "above the data's own": bits.mean() - own_length})
tables.table(rows, ".3f",
             caption=f"The bound with the best variance; the data's own {own_length:.3f}")

# %% [markdown]
# **What the table shows.** With 25 steps even the best variance costs 0.32 ± 0.03 bits, with 100 steps 0.04 ± 0.03. Lesson 3's network came to 6.32 with its 100 steps, as the best variance does here. So no price of its short training is seen, to within 0.07 bits, the error of its one draw.
#
# ## 6.11 Clocks and rulers: what a flow adds
#
# One often reads that flows need fewer steps. **What does a schedule change?** Divide $x_t = \alpha_t x_0 + \sigma_t\epsilon$ by $\alpha_t$ and write $r = \sigma/\alpha$:
#
# $$\bar x = \frac{x_t}{\alpha_t} = x_0 + r\,\epsilon \tag{6.23}$$
#
# Every schedule gives the same noisy images at the same $r$, that is, at the same log SNR $= -2\log r$. It chooses two things: when each level comes, the **clock** $t\mapsto r$, and the size in which the image is written down, the **ruler** $\alpha$. The ODE (4.10) in $\bar x$ and $r$ has neither in it. So a network that was trained under one schedule is a network under all others:
#
# $$D_{\text{new}}(x, t) = D\Big(\frac{\alpha(t^*)}{\alpha_{\text{new}}(t)}\,x,\; t^*\Big), \qquad \text{with } t^* \text{ where } D\text{'s own log SNR is the same} \tag{6.24}$$
#
# for all levels that $D$'s own schedule reaches (where both $\alpha$ are 0, as at the flow's $t = 1$, the ratio is $\sigma(t^*)/\sigma_{\text{new}}$). This is `sde.change_schedule`. Take the digits' network, which was trained with the cosine schedule, and draw with it under four schedules, all at the same 16 log-SNR points from the same noise. Once by DDIM, once by Euler's method for the ODE in $t$.

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
fine = drawn(own, torch.linspace(-7, 8, 101, dtype=torch.float64))
views = {"cosine, its own": own, "linear": Schedule.linear(), "flow": Schedule.flow(),
         "VE": Schedule.edm()}
rows = {}
for name, schedule in views.items():
    euler = drawn(schedule, points, sde.euler_maruyama, noise_level=0.0)
    own_way = drawn(schedule, points)
    rows[name] = {"DDIM, to the first row": rms(own_way, first),
                  "DDIM, to 100 steps": rms(own_way, fine), "Euler in t": rms(euler, fine)}
tables.table(rows, ".2g", index="schedule", caption="Root mean square, 40 digits")

# %% [markdown]
# **What the table shows.** DDIM draws the same 40 digits under all four, up to rounding: at the same points, "which schedule" has no meaning. Euler's method in $t$ is not invariant, because a straight line in $t$ is another curve under another clock and ruler; of these four, Euler and DDIM are the same step only for the flow (lesson 4), and for VE in EDM's clock, $\sigma\propto t^7$, it fails.
#
# **Then what can a flow add?** Three things that have to be looked at one by one. **The grid**: equal steps in the flow's $t$ are other points. **The weighting**: a loss that is even in the flow's $t$ trains other levels harder. **The coupling**: a flow may pair noise and data otherwise than at random (section 6.12). The grid first, with the same network, the same noise and DDIM:

# %%
def even_in(schedule, n):
    """n steps even in this schedule's time, as log-SNR points from -7 to 8."""
    ends = schedule.t_from_log_snr(torch.tensor([-7.0, 8.0], dtype=torch.float64))
    return schedule.log_snr(torch.linspace(*ends, n + 1, dtype=torch.float64))

even = torch.linspace(-7, 8, 101, dtype=torch.float64)
fine_of = [drawn(own, even, seed=seed) for seed in range(3)]
rows = {}
for n in (8, 16):
    rows[f"{n} steps"] = {}
    for name, make in {"cosine's t": lambda n: even_in(own, n),
                       "linear's t": lambda n: even_in(Schedule.linear(), n),
                       "flow's t": lambda n: even_in(flow, n),
                       "log SNR": lambda n: torch.linspace(-7, 8, n + 1).double()}.items():
        far = [rms(drawn(own, make(n), seed=seed), fine_of[seed]) for seed in range(3)]
        rows[f"{n} steps"][name] = spread(torch.tensor(far))
tables.table(rows, index="points even in",
             caption="Root mean square to 100 steps, 40 digits, three seeds")

# %% [markdown]
# **What the table shows.** The grid matters: the linear schedule's points leave about two thirds of the error of the worst, at both numbers of steps, and that is more than the spread over seeds. So the best grid here is not the one of the network's own schedule. The other three, the flow's among them, differ by less than twice their spread. That is one network and one measure; the order may be another for yours.
#
# The weighting: write every loss as one of $\epsilon$. For the flow $v - \hat v = (\epsilon-\hat\epsilon) - (x_0-\hat x_0)$, and always $\alpha(x_0-\hat x_0) = -\sigma(\epsilon-\hat\epsilon)$. So $v-\hat v = \big(1+\frac\sigma\alpha\big)(\epsilon-\hat\epsilon)$, and with $\alpha+\sigma = 1$
#
# $$\|v-\hat v\|^2 = \frac{\|\epsilon-\hat\epsilon\|^2}{\alpha^2} = \frac{\|\epsilon-\hat\epsilon\|^2}{(1-t)^2} \tag{6.25}$$
#
# and with $t$ drawn evenly a level with log SNR $\ell$ gets the share $\left|\frac{dt}{d\ell}\right|$ of the draws:
#
# $$\mathcal L = \int w(\ell)\;\mathbb E\|\epsilon-\hat\epsilon\|^2\,d\ell, \qquad w_{\text{flow}}(\ell) = \frac{1}{\alpha^2}\left|\frac{dt}{d\ell}\right| = \frac{t}{2(1-t)} = \tfrac12 e^{-\ell/2} \tag{6.26}$$
#
# For the flow $\ell = 2\log\frac{1-t}t$, so $\frac{d\ell}{dt} = -\frac2{t(1-t)}$. Other losses are of the same form, with other weights. With the cosine schedule and $t$ drawn evenly the $\epsilon$ loss has $\left|\frac{dt}{d\ell}\right|$. The $v$ loss has $\frac1{\alpha^2}\left|\frac{dt}{d\ell}\right|$, because $v-\hat v = \alpha(\epsilon-\hat\epsilon) - \sigma(x_0-\hat x_0) = \big(\alpha + \frac{\sigma^2}\alpha\big)(\epsilon-\hat\epsilon)$ and $\alpha^2+\sigma^2 = 1$.

# %%
def weight(schedule, log_snr, of_v):
    """w(l) of the eps loss, or of the v loss, with t drawn evenly."""
    h = 1e-4
    ends = schedule.t_from_log_snr(torch.stack([log_snr - h, log_snr + h]))
    share = (ends[0] - ends[1]) / (2 * h)
    alpha = schedule.alpha(schedule.t_from_log_snr(log_snr))
    return share / alpha**2 if of_v else share

level = torch.linspace(-8, 8, 161, dtype=torch.float64)
torch.testing.assert_close(weight(flow, level, True), (-level / 2).exp() / 2,
                           rtol=1e-4, atol=0)
weights = {"flow": weight(flow, level, True), "cosine, v": weight(cosine, level, True),
           "cosine, eps": weight(cosine, level, False)}
plots.curves(level, {name: w.log10() for name, w in weights.items()},
             title="Three losses as weights of the eps loss",
             xlabel="log SNR   (noise → data)", ylabel="log10 of the weight")

# %% [markdown]
# **What the figure shows.** The flow's loss and the cosine schedule's $v$ loss have the same weight, $e^{-\ell/2}$, up to a constant factor and up to the small offset by which the cosine schedule avoids $t = 0$ (without it $|dt/d\ell| = \alpha\sigma/\pi$, and $w = e^{-\ell/2}/\pi$). The $\epsilon$ loss is another one: most of its weight lies around $\ell = 0$. So a flow model, trained evenly in $t$, has the same loss on $\hat x_0$ as a $v$-prediction model with the cosine schedule; its network has another input scale and another output. Lesson 3 trained with several weights and found small differences on its data (section 3.5).
#
# **So what does a flow add?** No power of expression, and no speed by itself: converted, it is the same model. It adds a simple clock and ruler, in which Euler's step is DDIM's; a weight that is a good default; and an open door: its derivation (lesson 3) never used that noise and data are drawn independently, nor that the noise is normal. Section 6.12 tries other *couplings*.
#
# ## 6.12 Couplings · deeper
#
# A flow model is trained on pairs: a picture $x_0$ and a noise $\epsilon$, and the line between them. Nothing in the derivation of (3.8) asked for *independent* pairs: any **coupling** will do whose first parts are data and whose second parts are normal. **Which pairs make the paths straight?** With independent pairs the lines cross, and where they cross the learned velocity is their mean, so paths bend. Within a batch, the pairs with the smallest total squared distance do not cross: $\langle x_0 - x_0',\,\epsilon - \epsilon'\rangle\ge0$ for any two of them, or swapping their noises would be shorter; so no two are at one place at one time. For a batch of $n$, **optimal-transport coupling** (Pooladian et al. 2023; Tong et al. 2024) permutes the noises:
#
# $$\pi^* = \arg\min_\pi \sum_{i=1}^n \|x_0^{(i)} - \epsilon^{(\pi(i))}\|^2 \tag{6.27}$$
#
# The other way is **reflow** (Liu et al. 2023): sample a trained flow, keep each start $\epsilon$ with the end $\hat x_0(\epsilon)$ of its own path, and train again on these pairs. What we want small is the **straightness** of the paths that the model itself draws, with $v$ the velocity and $x_1 = \epsilon$, $x_0$ the two ends of one path:
#
# $$\mathcal S = \mathbb E\int_0^1\big\|(x_1 - x_0) - v(x_t, t)\big\|^2\,dt \tag{6.28}$$
#
# It is 0 where all paths are straight and run evenly, and then one Euler step is exact. There is a price: with a coupling, $x_t$ given $x_0$ is no longer the normal distribution of lesson 1. So the denoiser that belongs to such a flow gives no score by (1.29): the ODE and (6.24) still hold, the SDE (6.18) does not. Four trainings in the plane: independent pairs; pairs by (6.27) in batches of 128; reflow pairs of the first; and, as a control, the same reflow ends and starts, **shuffled**. Each is three networks with three seeds, trained at once.

# %%
from scipy.optimize import linear_sum_assignment


class Velocity(torch.nn.Module):
    """Three small networks, one for each seed. x: (3, B, 2), t: (3, B, 1) -> (3, B, 2)"""

    def __init__(self, width=64):
        super().__init__()
        sizes = [3, width, width, width, 2]
        self.weights = torch.nn.ParameterList(
            torch.randn(3, a, b) / a**0.5 for a, b in zip(sizes[:-1], sizes[1:]))
        self.biases = torch.nn.ParameterList(torch.zeros(3, 1, b) for b in sizes[1:])

    def forward(self, x, t):
        h = torch.cat([x, t], 2)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            h = torch.baddbmm(bias, h, weight)
            h = h if k == 3 else torch.nn.functional.silu(h)
        return h

def learned(pairs, steps=1000):
    """A Velocity, trained on pairs(step) -> x0 and eps, (3, 128, 2) each."""
    torch.manual_seed(0)
    v = Velocity()
    optimizer = torch.optim.Adam(v.parameters(), 4e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
    for step in range(steps):
        x0, eps = pairs(step)
        t = torch.rand(3, 128, 1)
        loss = (v((1 - t) * x0 + t * eps, t) - (eps - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return v.requires_grad_(False)

# %%
@torch.no_grad()
def paths(v, eps, steps):
    """Euler from t = 1 to 0: the ends, and the straightness (6.28) of each seed, (3,)."""
    x, slopes = eps, []
    for k in range(steps, 0, -1):
        slopes.append(v(x, torch.full((*x.shape[:2], 1), k / steps)))
        x = x - slopes[-1] / steps
    slopes = torch.stack(slopes)                                        # (steps, 3, B, 2)
    return x, (eps - x - slopes).square().sum(-1).mean((0, 2))

def independent(step):
    x0 = torch.stack([ring.sample(128, seed=3 * step + k) for k in range(3)])
    return x0, torch.randn(3, 128, 2)

def optimal(step):
    x0, eps = independent(step)
    order = [linear_sum_assignment(torch.cdist(a, b).square())[1] for a, b in zip(x0, eps)]
    return x0, torch.stack([e[o] for e, o in zip(eps, order)])

first = learned(independent)
starts = torch.randn(3, 20_000, 2, generator=seeded(7))
ends = paths(first, starts, 100)[0]

def drawn_pairs(starts, ends):
    def pairs(step):
        k = torch.randint(20_000, (128,))
        return ends[:, k], starts[:, k]
    return pairs

shuffled = starts[:, torch.randperm(20_000, generator=seeded(8))]
models = {"independent": first, "optimal transport": learned(optimal),
          "reflow": learned(drawn_pairs(starts, ends)),
          "reflow, shuffled": learned(drawn_pairs(shuffled, ends))}

# %%
fresh = torch.randn(3, 1000, 2, generator=seeded(9))
near = lambda a, b: metrics.gaussian_kernel_distance(a, b, 0.3)
target = ring.sample(1000, seed=10**6)
rows = {}
for name, v in models.items():
    row = {"straightness": spread(paths(v, fresh, 50)[1])}
    for n in (1, 2, 4, 50):
        far = [near(x, target) for x in paths(v, fresh, n)[0]]
        row[f"{n} steps"] = spread(torch.tensor(far))
    rows[name] = row
rows["fresh data (floor)"] = {"50 steps": spread(torch.tensor(
    [near(ring.sample(1000, seed=10**6 + k), target) for k in (1, 2, 3)]))}
tables.table(rows, index="pairs",
             caption="Straightness, and distance to q after so many steps of Euler")
for size in (2, 3072):                                                  # normal points
    a, b = torch.randn(2, 128, size, generator=seeded(0))
    cost = torch.cdist(a, b).square()
    best = cost[linear_sum_assignment(cost)].mean() / cost.mean()
    print(f"{size} dimensions: best pairs have {best:.0%} of random ones' squared length")

# %% [markdown]
# **What table and lines show.** With independent pairs the paths bend: one step is useless, and four steps are still behind fifty. Optimal transport within batches makes them straight to a few thousandths, and so does reflow: two steps are as good as fifty. The shuffled pairs have the same starts and ends as reflow's, and bend as the independent ones do. So it is the *coupling* that straightens, not the second training and not the points. Two limits. In the plane the best pairs of 128 normal points have 6 % of the squared length of random ones, in 3,072 dimensions 96 %: there is little to choose from. And reflow inherits the first model's mistakes: its ends are that model's ends, and at none of these counts does it come nearer to the data than the first model with fifty steps. Optimal transport does: it has no such teacher.
#
# ## 6.13 Likelihood
#
# **Which probability does the model give to a picture?** The ODE answers, because it is a map that can be run both ways. Let points move with velocity $v(x,t)$. By the continuity equation, $\partial_t p = -\nabla\cdot(p\,v)$; seen from a moving point,
#
# $$\frac{d}{dt}\log p_t(x_t) = \frac{\partial_t p + v\cdot\nabla p}{p} = -\nabla\cdot v(x_t, t) \tag{6.29}$$
#
# the **instantaneous change of variables** (Chen et al. 2018): where the flow spreads, the density falls. Integrate from the data to the prior:
#
# $$\log p_0(x_0) = \log p_1(x_1) + \int_0^1 \nabla\cdot v(x_t, t)\,dt \tag{6.30}$$
#
# So: solve the ODE from the picture upwards, add up the divergence on the way, and look up the end in the prior. Take the bumps in the plane, the exact denoiser, and a general solver, `scipy.integrate.solve_ivp`, which chooses its own steps. The state is the point and the integral so far. We start at $t = 0.05$, where $\log q$ is known, and stop at $t = 0.999$.

# %%
import numpy
from scipy.integrate import solve_ivp

plane = data.GaussianMixture([[-1.0, 0.3], [1.0, -0.3], [0.0, 1.2]], 0.25, [0.5, 0.3, 0.2])
D_plane = plane.denoiser(flow)
low, high = 0.05, 0.999

def velocity(x, t):
    """Of the probability-flow ODE under the flow: eps_hat - x0_hat."""
    x0_hat = D_plane(x, torch.as_tensor(t))
    return (x - (1 - t) * x0_hat) / t - x0_hat

def by_scipy(x, tolerance):
    """x (n, 2) at t = low: where it ends, the integral in (6.30), and the evaluations."""
    n = len(x)

    def slope(t, state):
        y = torch.from_numpy(state[:2 * n].reshape(n, 2)).requires_grad_()
        v = velocity(y, t)
        return numpy.concatenate([v.detach().flatten(), sde.divergence(v, y).numpy()])

    state = numpy.concatenate([x.numpy().ravel(), numpy.zeros(n)])
    end = solve_ivp(slope, (low, high), state, rtol=tolerance, atol=tolerance)
    x1, integral = torch.from_numpy(end.y[:, -1]).split([2 * n, n])
    return x1.view(n, 2), integral, end.nfev

# %%
eps = torch.randn(200, 2, generator=seeded(11), dtype=torch.float64)
points_2d = flow.perturb(plane.sample(200, seed=10).double(), low, eps)
log_q = plane.log_prob(points_2d, 1 - low, low)
rows = []
for tolerance in (1e-3, 1e-5, 1e-7):
    x1, integral, evaluations = by_scipy(points_2d, tolerance)
    off = sde.normal_log_prob(x1, high) + integral - log_q
    own_end = plane.log_prob(x1, 1 - high, high) + integral - log_q
    rows.append({"solver": f"solve_ivp, tolerance {tolerance:.0e}",
                 "evaluations": evaluations, "largest error, nats": off.abs().max(),
                 "with q in place of the prior": own_end.abs().max()})
for steps in (25, 50, 100, 200):
    ts = level_grid(flow, low, high, steps)
    log_p = sde.log_likelihood(D_plane, flow, points_2d, ts)
    rows.append({"solver": f"log_likelihood, {steps} steps", "evaluations": 2 * steps,
                 "largest error, nats": (log_p - log_q).abs().max()})
tables.table(rows, ".2g", caption="log p against log q at t = 0.05, 200 points")

# %% [markdown]
# **What the table shows.** Both come to the known density within 0.01 nats, `solve_ivp` with 80 evaluations, our fixed grid with 200. What is left at the tightest tolerance is **truncation**: at $t = 0.999$ the density is not quite the prior's. In the last column, which ends with the known $q$ there, it is gone. (On a network `sde.log_likelihood` needs no tolerance, only a grid that is made finer until the number stands.)
#
# **The divergence of a picture.** The divergence is the trace of the Jacobian. Exactly, it takes one backward pass for each dimension: 2 for a point in the plane, 784 for a digit. (Below, the middle 16 x 16 pixels of a digit.) (For the flow, $v = (x - \hat x_0)/t$, so the divergence of $v$ is $(P - \nabla\cdot D)/t$ for $P$ pixels.) **Hutchinson's estimate** takes one: the row $z^\top J$ is the gradient of $z\cdot f(x)$. For random $z$ with mean 0 and covariance $I$,
#
# $$\mathbb E\,z^\top J z = \operatorname{tr}J \tag{6.31}$$
#
# because $\mathbb E\,z_iz_j$ is 1 for $i=j$ and 0 otherwise. Only the symmetric part $S = \frac12(J+J^\top)$ matters, as $z^\top Jz = z^\top Sz$. The variance depends on the noise. With signs $z_i=\pm1$ (**Rademacher** noise) $z_i^2 = 1$ is not random, and each pair $i<j$ contributes $2S_{ij}z_iz_j$ of variance $4S_{ij}^2$; normal noise adds $S_{ii}z_i^2$ of variance $2S_{ii}^2$. These terms are uncorrelated, so their variances add; $\|S\|^2$ is the sum of all squared entries:
#
# $$\operatorname{Var}_{\text{signs}} = 2\Big(\|S\|^2 - \sum_i S_{ii}^2\Big), \qquad \operatorname{Var}_{\text{normal}} = 2\,\|S\|^2 \tag{6.32}$$

# %%
digit = data.mnist("test")[0][:1, :, 6:22, 6:22].to(device)             # 16 x 16 of a digit
D_digits = train.load("mnist_small", device)
x = cosine.perturb(digit, 0.3, torch.randn(digit.shape, generator=seeded(0)).to(device))
net = lambda x: D_digits(x, 0.3, y=torch.full((len(x),), 7, device=device))
J = torch.autograd.functional.jacobian(lambda a: net(a).flatten(), x)
J = J[:, 0].flatten(1).double()                                         # (256, 256)
S = (J + J.T) / 2
derived = {"signs": 2 * (S.square().sum() - S.diagonal().square().sum()),
           "normal": 2 * S.square().sum()}

rows = {}
for name, variance in derived.items():
    z = torch.randn(20_000, 256, generator=seeded(1), dtype=torch.float64).to(device)
    z = z.sign() if name == "signs" else z
    estimates = ((z @ J) * z).sum(1)
    rows[name] = {"mean": estimates.mean(), "trace": J.diagonal().sum(),
                  "deviation of one": estimates.std(), "by (6.32)": variance.sqrt()}
tables.table(rows, ".3f", index="probe", caption="The divergence of D, 20,000 probes")

# %% [markdown]
# **What the table shows.** Both means are the trace within their errors (0.03 and 0.04), and the deviations of one estimate are as derived. Signs are better here by a factor of 1.6, because much of $\|S\|^2$ lies on the diagonal, as it does where each pixel's prediction depends on that pixel most.
#
# **Pixels are whole numbers.** Where the data lie on 256 points, a density can be as high as one likes: a model may put a narrow bump on each level and reach any likelihood. **Dequantisation** adds uniform noise $u\in[-\frac12,\frac12]\Delta$ that fills each level's bin, of width $\Delta$. By Jensen's inequality it bounds the probability of the level:
#
# $$\log \Pr(x) = \log\int_{\text{bin}} p(x+u)\,du \ge \mathbb E_u\log p(x+u) + P\log\Delta \tag{6.33}$$
#
# where $P$ is the number of pixel values (the bin has $P$ sides). In bits and per value, a code length:
#
# $$\text{bits per dimension} = -\frac{\mathbb E_u\log_2 p(x+u)}{P} - \log_2\Delta \tag{6.34}$$
#
# For pixels in $[-1, 1]$, $\Delta = \frac2{255}$ and $-\log_2\Delta = 6.99$. The well-known "8 bits" is the same for pixels in $[0, 256)$ divided by 256; used for a density on $[-1, 1]$ it gives a number that looks fine and is 1.006 bits too long. **What if the noise is forgotten?** One pixel of the digits, with values 0 to 255, and models that put a bump on each level, $s$ levels wide (its deviation is $s\Delta$), as often as the level occurs:

# %%
values = (data.mnist("train")[0][:20_000, 0, 14, 14] + 1) / 2 * 255   # one pixel, 0 ... 255
levels, counts = values.round().unique(return_counts=True)
frequency = counts.double() / counts.sum()
entropy = -(frequency * frequency.log2()).sum()                         # no code is shorter
delta = 2 / 255
at_levels = (levels[:, None].double() * delta - 1)                      # (K, 1), in [-1, 1]

def bits(s, u):
    """(6.34) of the bumps with deviation s * delta, the mean over the levels, noise u."""
    model = data.GaussianMixture(at_levels, s * delta, frequency)
    per_level = [model.log_prob(at_levels + noise * delta) for noise in u]
    mean = (torch.stack(per_level) * frequency).sum(1).mean()
    return -mean / math.log(2) - math.log2(delta)

u = (torch.arange(100, dtype=torch.float64) + 0.5) / 100 - 0.5
rows = [{"s": s, "without noise": bits(s, [0.0]), "dequantised": bits(s, u)}
        for s in (1.0, 0.3, 0.1, 0.01, 0.001)]
tables.table(rows, {"s": "g", "without noise": ".2f", "dequantised": ".2f"},
             caption=f"Bits of one pixel; entropy of its levels: {entropy:.2f}")

# %% [markdown]
# **What the table shows.** Without noise the length falls below the entropy, then below zero, by 3.3 bits for each factor of ten: a number that has no meaning. With noise it stays above the entropy, as (6.33) says, and of these widths $0.3$ is the best.
#
# **And the bound of lesson 1?** It bounds the likelihood of the process with noise ($\lambda = 1$), where (6.30) is that of the ODE. With an inexact denoiser these are two different models. So a paper's "NLL by the ODE" and another's "NLL by the bound" are not one column of a table.
#
# ## 6.14 The bound, and bits of MNIST · deeper
#
# In (1.24) each step costs half the fall of the SNR times $\|x_0-\hat x_0\|^2$. With small steps the sum is an integral; $d\,\mathrm{SNR} = \mathrm{SNR}\,d\ell$ with $\ell = \log\mathrm{SNR}$, and $\mathrm{SNR}\,\|x_0-\hat x_0\|^2 = \|\epsilon-\hat\epsilon\|^2$ (Kingma et al. 2021). From a first level $t_0$, where $p(x_0\mid x_{t_0})$ is taken to be normal around $x_{t_0}/\alpha$ with deviation $\sigma/\alpha$, to a last one $t_1$:
#
# $$-\log p(x_0) \le \underbrace{\tfrac12\int_{\ell(t_1)}^{\ell(t_0)} \mathbb E\,\|\epsilon-\hat\epsilon\|^2\,d\ell}_{\text{denoising}} + \underbrace{\mathrm{KL}\big(q(x_{t_1}|x_0)\,\|\,\mathcal N(0, \sigma_{t_1}^2I)\big)}_{\text{prior}} + \underbrace{\mathbb E\big[-\log p(x_0|x_{t_0})\big]}_{\text{first level}} \tag{6.35}$$
#
# All levels count alike in log SNR, in (6.26)'s notation $w = \frac12$: this is what "the loss as a likelihood" means. The bound belongs to the process with noise ($\lambda = 1$), and (6.30) to the one without. With a perfect denoiser, and up to what is left at the two ends, both give the data's density. With a real network they are *two different models*, so neither number has to be below the other. See it for the bumps on the line: the exact denoiser, and two that are wrong on purpose.

# %%
def bound(D, x0, ts, generator):
    """(6.35) of each x0 (n, 1), on a rising grid under the flow: (n,), nats"""
    errors, noises = [], []
    for t in ts:
        noises.append(torch.randn(x0.shape, generator=generator, dtype=x0.dtype))
        x = flow.perturb(x0, t, noises[-1])
        eps_hat = (x - flow.alpha(t) * D(x, t)) / flow.sigma(t)
        errors.append((noises[-1] - eps_hat).square().sum(1))
    integral = -torch.trapezoid(torch.stack(errors), flow.log_snr(ts), dim=0)
    prior = (flow.alpha(ts[-1]) * x0 / flow.sigma(ts[-1])).square().sum(1)
    r = flow.sigma(ts[0]) / flow.alpha(ts[0])               # first level: N(x / alpha, r^2)
    first = noises[0].square().sum(1) + math.log(2 * math.pi) + 2 * r.log()
    return (integral + prior + first) / 2

is_late = lambda t, limit: (torch.as_tensor(t).double().reshape(-1, 1) > limit).double()
denoisers = {
    "exact": exact,
    "shifted by 1 where t > 0.5": lambda x, t: exact(x, t) + is_late(t, 0.5),
    "ripples where t > 0.3": lambda x, t: exact(x, t) + 0.2 * is_late(t, 0.3) * (
        6 * x / torch.as_tensor(t).double().reshape(-1, 1)).sin(),
}
x0 = bumps.sample(4000, seed=3).double()
eps = torch.randn(4000, 1, generator=seeded(5), dtype=torch.float64)
ts = flow.t_from_log_snr(torch.linspace(9, -9, 400, dtype=torch.float64))
torch.testing.assert_close(
    bound(exact, x0, ts, seeded(6)),
    sde.variational_bound(exact, flow, x0, ts, generator=seeded(6)))
x = flow.perturb(x0, ts[0], eps)
own = -bumps.log_prob(x, flow.alpha(ts[0]), flow.sigma(ts[0])) - flow.alpha(ts[0]).log()
rows = {}
for name, D in denoisers.items():
    of_ode = -sde.log_likelihood(D, flow, x, ts)
    of_ode = of_ode - flow.alpha(ts[0]).log()               # of x / alpha, as in the bound
    of_bound = bound(D, x0, ts, seeded(6))
    rows[name] = {"ODE": of_ode.mean(), "bound": of_bound.mean()}
    for what, gap in {"ODE - bound": of_ode - of_bound, "ODE - data": of_ode - own}.items():
        rows[name][what] = f"{gap.mean():.3f} ± {gap.std() / len(gap)**0.5:.3f}"
tables.table(rows, ".3f", index="denoiser", caption="Mean of -log p, nats, 4,000 points")

# %% [markdown]
# **What the table shows.** For the exact denoiser the ODE has the data's own length, and the bound agrees with it. The shifted denoiser has the *shorter* ODE code, by 0.10 nats; the ripples have the *longer* one, by 0.16: the ODE pays for slopes of the error and for a wrong end point, the bound for squares of the error.
#
# **The same for a network.** `mnist_likelihood` is a small U-Net, trained on dequantised digits with the loss of (6.35): the $\epsilon$ error at noise levels that are even in log SNR, from 15 to $-8$ (`python tools/recipes/mnist_likelihood.py`). At a log SNR of 15 the noise's deviation is a fourteenth of a grey level's width: that is our first level, and the ODE starts there from the dequantised digit itself. One Rademacher probe for each digit, the same at all times. Live on 64 test digits; the header of the checkpoint has 256, and what changes when a choice is changed.

# %%
Q = train.load("mnist_likelihood", device)
digits = data.mnist("test")[0][:64]
u = torch.rand(digits.shape, generator=seeded(1)) - 0.5
digits = (digits + 2 / 255 * u).to(device)                              # dequantised
log_snr = torch.linspace(15, -8, 41, dtype=torch.float64)
ts = Q.schedule.t_from_log_snr(log_snr)
of_ode = -sde.log_likelihood(Q, Q.schedule, digits, ts, probes=1, generator=seeded(0))
of_bound = sde.variational_bound(Q, Q.schedule, digits, ts, generator=seeded(0))
to_bits = lambda nats: nats / 784 / math.log(2) - math.log2(2 / 255)     # (6.34)
card = Q.about["metrics"]
with_error = lambda mean, error: f"{mean:.3f} ± {error:.3f}"
rows = {}
for name, nats in {"ode": of_ode, "bound": of_bound}.items():
    bits_of = to_bits(nats)
    rows[name] = {"64 digits, 40 steps": with_error(bits_of.mean(), bits_of.std() / 8),
                  f"{card['n']} digits": with_error(*card[name])}
tables.table(rows, index="", caption="Bits per dimension, MNIST's test digits")

# %%
rows = {name: {"difference": with_error(*numbers)}
        for name, numbers in card["differences"].items()}
tables.table(rows, index="what is changed", caption="Bits per dimension, the same digits")

# %% [markdown]
# **What the tables show.** On the same digits the two codes are about equally long, $1.465\pm0.018$ bits by the ODE and $1.467\pm0.018$ by the bound; paired, the difference is $-0.002\pm0.004$. That is this network's case and no law: the bumps had denoisers that lie on either side. The choices cost less than a hundredth of a bit, but for one. The bound with a first level of 13 in place of 15 is longer by 0.17 bits. Its first term writes the digit down as a normal distribution around $x_{t_0}$, which knows nothing of the bins' edges; that is probably why, as at 13 the noise's deviation is a fifth of a bin's width.
#
# So three things belong to a number in bits per dimension: the process, the dequantisation, the first level. A table that leaves one out cannot be compared with another.

# %% [markdown]
# # Part III · Other data
#
# ## 6.15 What stays, what changes
#
# **What of all this was about pictures?** The network, and little else. A schedule mixes numbers with noise, a denoiser predicts clean numbers, a sampler walks from one level to the next; none of them asked what the numbers mean. So for other data we change the tensor's shape and the layer that mixes its places, and keep the rest. One case needs more: words are not numbers, and half a word is no word.
#
# | data | tensor | what mixes the places | noise | section |
# | --- | --- | --- | --- | --- |
# | text | (B, L) token ids | self-attention | masks | 6.16 to 6.18 |
# | video | (B, frames, C, H, W) | convolution in space, attention in time | Gaussian, a level for each frame | 6.19 |
# | sound | (B, 1, samples) | convolution in time | Gaussian | 6.20 |
# | shapes | voxels; (B, points, 3) | a picture's denoiser; attention without positions | Gaussian | 6.22, 6.23 |
# | actions | (B, steps, 2), given what is seen | a small MLP | Gaussian | 6.24 |
#
# Two of the data sets, sounds and shapes, are smaller than MNIST by a factor of hundreds. **A small data set is copied easily, and copies look best.** So there each score stands beside the same score of real examples that the training never had, and beside a measure of how near the samples lie to the training set.

# %%
import torch.nn.functional as F

from course_lib import Denoiser, dpmpp, timesteps
from course_lib.discrete import unmask
from course_lib.distillation import score_distillation, shadow
from course_lib.editing import inpaint
from course_lib.lab import policies, sounds, texts
from course_lib.lab.data import caption_grammar, furniture, obstacle, percussion
from course_lib.lab.data.sudoku import every_sudoku, is_sudoku, sudoku_puzzles
from course_lib.lab.notebook import media
from course_lib.networks.actions import ActionNet, MixtureNet, RegressionNet
from course_lib.video import rollout

with_error = lambda mean, error: f"{mean:.2f} ± {error:.2f}"

# %% [markdown]
# ## 6.16 Text: masked diffusion
#
# A **token** is one unit of a sequence: in text a word or a piece of one, given as its number in a **vocabulary**. There is no mean of two words, so Gaussian noise has no meaning here. **What is noise for words?** Forgetting: at time $t$ each of the $L$ tokens of a text is replaced by a special token, the **mask** m, with probability $t$, independently of the others:
#
# $$q(x_t\mid x_0) = \prod_{i=1}^L\Big[(1-t)\,\mathbf 1[x_t^i = x_0^i] + t\,\mathbf 1[x_t^i = \mathrm m]\Big] \tag{6.36}$$
#
# At $t=0$ there is the text, at $t=1$ only masks. A masked token stays masked as $t$ rises: the mask is an **absorbing state** (Austin et al. 2021). In a small step $h$ a token that is still there is masked with probability $h/(1-t)$, because $(1-t)\big(1-\frac h{1-t}\big) = 1-t-h$. So for any function $\varphi$ of a text, and with $x^{i\to\mathrm m}$ for the text whose place $i$ is masked,
#
# $$\frac d{dt}\,\mathbb E\,\varphi(x_t) = \mathbb E\sum_{i:\,x_t^i\ne\mathrm m}\frac1{1-t}\Big[\varphi(x_t^{i\to\mathrm m}) - \varphi(x_t)\Big] \tag{6.37}$$
#
# In part II's words: it is the weak form (6.16) with another generator. A drift moves a point, noise spreads it, and this one **jumps**. A generator is what every Markov process has, whatever its states are.
#
# **Backwards.** Let $s<t$, and let a place be masked at $t$. It was masked at $s$ with probability $s/t$, because (6.36) masks it by $s$ with probability $s$ and by $t$ with probability $t$. Otherwise it was still the clean token:
#
# $$q(x_s^i\mid x_t^i=\mathrm m,\,x_0) = \frac st\,\mathbf 1[x_s^i=\mathrm m] + \frac{t-s}t\,\mathbf 1[x_s^i=x_0^i] \tag{6.38}$$
#
# A place that is not masked at $t$ was not masked before. So the reverse process reveals masked tokens, one by one if the steps are small, and never touches what is there. All it needs to know is $x_0^i$ at masked places, and a denoiser predicts it: here a distribution over the vocabulary for each place, $p_\theta(x_0^i\mid x_t)$. "Predict the clean data" stays, and so does the sampler's plan: *predict, then step from $t$ to $s$*.
#
# **The loss.** As in lesson 1, the bound on $-\log p(x_0)$ is a sum of divergences between (6.38) and the model's step, which has $p_\theta$ in place of the true token. For one masked place both agree on the mask's probability $s/t$, and what is left is
#
# $$\mathrm{KL} = \frac{t-s}t\,\log\frac{(t-s)/t}{\frac{t-s}t\,p_\theta(x_0^i\mid x_t)} = -\frac{t-s}t\,\log p_\theta(x_0^i\mid x_t) \tag{6.39}$$
#
# There is no entropy to subtract and no other term: at $t=1$ all is masked in both, at $t=0$ all is known. With small steps the sum becomes an integral (Sahoo et al. 2024; Shi et al. 2024):
#
# $$-\log p_\theta(x_0) \;\le\; \int_0^1\frac{dt}t\;\mathbb E_{x_t}\sum_{i:\,x_t^i=\mathrm m}-\log p_\theta(x_0^i\mid x_t) \tag{6.40}$$
#
# It is the cross-entropy of filling in masks, as BERT was trained, with the **weight $1/t$**. Without the weight it is no bound. Does the choice of the clock matter? If tokens are masked with probability $m(t)$ instead, the derivation gives the weight $m'/m$; substitute $u=m(t)$, and (6.40) is back. So in training a masking schedule changes the noise of the estimate and nothing else; in sampling it says where the steps are.
#
# **What is the bound?** Count the masked tokens. Given $t$, the $k$ positions of a given set are masked, and no others, with probability $t^k(1-t)^{L-k}$, and (a Beta integral)
#
# $$\int_0^1\frac1t\,t^k(1-t)^{L-k}dt\;\binom Lk = \binom Lk\frac{(k-1)!\,(L-k)!}{L!} = \frac1k \tag{6.41}$$
#
# So each number $k$ of masks has the same total weight, and within it, the loss is the *mean* over masked tokens, for a random set of $k$ masked places. Now think of a model that writes the text token by token in a random order $\sigma$. When $k$ tokens are missing, they are a random set, and the next one is a random one of them. That is the same average. The true $q(x_0^i\mid x_t)$ does not depend on $t$: which tokens are masked says all. So our network is not given $t$ (Ou et al. 2024), and
#
# $$(6.40) = \mathbb E_\sigma\sum_{j=1}^L-\log p_\theta\big(x_0^{\sigma(j)}\,\big|\,x_0^{\sigma(1)},\dots,x_0^{\sigma(j-1)}\big) \tag{6.42}$$
#
# Masked diffusion is an **any-order autoregressive model**: its bound is the mean loss over all $L!$ orders of writing. An ordinary **autoregressive** model, such as GPT, has one order, left to right, and there its loss is no bound but the probability itself.
#
# **Two models of equal size.** The captions of our figures are a good test, because their grammar is known: every part is equally likely, wordings are drawn at random, and the probability of each caption can be computed (`caption_grammar.caption_log_prob`). The mean of its negative logarithm is their entropy, and no model can need fewer nats per caption on average. The difference is the **excess**. For masked diffusion the bound (6.40) stands in place of $-\log p_\theta$, so its excess is at least the divergence:
#
# $$\mathbb E\big[-\log p_\theta(x_0)\big] - H = \mathrm{KL}(p\,\|\,p_\theta) \ge 0 \tag{6.43}$$

# %%
M = train.load("captions_masked", device)
A = train.load("captions_autoregressive", device)
x0 = caption_grammar.caption_tokens(200, seed=5)                        # (200, 32)
own = -caption_grammar.caption_log_prob(caption_grammar.draw_captions(200, seed=5))
rows = {}
for name, model in {"masked diffusion": M, "autoregressive": A}.items():
    over = texts.nats(model, x0, draws=16) - own
    card = model.about["metrics"]
    rows[name] = {"parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                  "captions seen": f"{card['training']['examples']:,}",
                  "200 captions": with_error(over.mean(), over.std() / 200**0.5),
                  f"{card['n']:,} captions": with_error(*card["excess"])}
print(f"entropy of the captions: {with_error(*card['own'])} nats")
tables.table(rows, index="model", caption="Excess nats per caption, (6.43)")

# %%
tokenizer = caption_grammar.caption_tokenizer()
for name, model in {"masked diffusion": M, "autoregressive": A}.items():
    print(name, *tokenizer.decode(texts.sample_tokens(model, 3, seed=1)), sep="\n    ")

def scores(of):
    """Validity; each part's total variation distance from the known distribution."""
    return {"valid": f"{of['valid']:.1%}"} | {k: of[k] for k in noun_parts.PARTS}

rows = {}
for name, model in {"masked": M, "autoregressive": A}.items():
    for row in model.about["metrics"]["samples"]:
        order = f", {row['order']} order" if name == "masked" else ""
        rows[f"{name}, {row['steps']} steps{order}"] = scores(row)
rows["captions of the grammar (floor)"] = scores(M.about["metrics"]["real"])
tables.table(rows, ".3f", index="",
             caption=f"{card['n']:,} captions: valid; each part's total variation distance")

# %% [markdown]
# **What the tables show.** The autoregressive model lies $0.07\pm0.01$ nats a caption above the entropy. Masked diffusion lies $1.3\pm0.2$ above it, although it has seen twice as many captions. For a perfect denoiser the bound is tight, so the excess is the network's: partly what it loses, partly that its orders disagree, and then the bound is not tight. The model has to predict from *any* set of known words and not from beginnings alone, which is probably harder to learn for a network of equal size.
#
# **How much is a nat?** Every caption of the grammar is valid. So by Jensen's inequality $\mathrm{KL} = \mathbb E_p\big[-\log\frac{p_\theta}{p}\big] \ge -\log p_\theta(\text{valid})$: drawn word by word, a model is valid with a probability of at least $e^{-\mathrm{KL}}$. That is 93 % for an excess of 0.07, and 28 % for 1.27. Measured are 97 % and, in 128 steps, 55 %. Fewer steps cost more: 37 % in 32 steps, 1 % in 4. Section 6.17 shows one reason.
#
# **Does a better order help?** Not here. In **order of confidence** (the surest words first) fewer captions are valid in 8 and 16 steps, 3 against 9 % and 14 against 23 %, and as many in 32. But even there look at the parts. For body, accessory, head and glasses their distributions are off by 0.45 to 0.55, in random order by 0.08 to 0.33. The **total variation distance** is half the sum of absolute differences; chance alone makes it about $\sqrt{K/2\pi n}$ for $K$ names: with the 372 valid captions 0.11 for bodies and 0.33 for heads. Probably what is sure comes first and is drawn too often. In the row of 32 steps validity alone would not have seen it.
#
# **What can a masked model do that an autoregressive one cannot?** Fill in (**infilling**): keep any words, mask any others. A model that writes from left to right knows only what stands before. Mask the word for the head in a caption, and draw it 500 times. What may stand there is known: every head whose name is one word and fits the article, all equally likely.

# %%
caption = ("a figure with a shark head, with a rust body, in yellow spectacles, "
           "a dinosaur on the chest, on a bluish background")
x0 = tokenizer([caption])
place = tokenizer([caption.replace("shark", "crab")]) != x0              # the one word
x = torch.where(place, M.mask_id, x0).expand(500, -1).to(device)
filled = last(unmask(M, x, [1, 0], M.mask_id, generator=seeded(0))).cpu()
assert (filled == x0)[:, ~place[0]].all()                               # the rest stays
heads = [caption_grammar.parse_caption(text) for text in tokenizer.decode(filled)]
drawn_heads = [parts["head"] for parts in heads if parts is not None]
possible = [name for name in noun_parts.load_art().names["head"]
            if " " not in name and noun_parts.article(name) == "a "]
print(f"{len(drawn_heads)} of 500 are valid; {len(set(drawn_heads))} different heads, of "
      f"{len(possible)} that may stand there; 500 fair draws show "
      f"{len(possible) * (1 - (1 - 1 / len(possible))**500):.0f}:")
print(*sorted(set(drawn_heads))[:12], "...")

# %% [markdown]
# **What is printed.** 482 of 500 are valid, and they name 169 heads, as many as fair draws would. It needed no further training: (6.40) trains for every set of known words.
#
# ## 6.17 Two tokens at once
#
# **What does it cost to reveal several tokens in one step (parallel decoding)?** Take a language of two sentences, "New York" and "San Francisco", each with probability 1/2, and the *perfect* denoiser: at each place, the true distribution given what is revealed. It is computed by listing all sentences.

# %%
def exact_denoiser(sentences, V):
    """The true distribution of each position, all sentences (S, L) equally likely."""
    one_hot = F.one_hot(sentences, V + 1).double()                          # (S, L, V + 1)

    def D(x, t):
        fits = ((x[:, None] == sentences) | (x[:, None] == V)).all(2)   # (B, S)
        p = torch.einsum("bs,slv->blv", fits.double(), one_hot)
        return p.clamp(min=1e-9).log()                                  # (B, L, V + 1)
    return D

words = ["New", "San", "York", "Francisco"]
cities = torch.tensor([[0, 2], [1, 3]])
D, blank = exact_denoiser(cities, 4), torch.full((10_000, 2), 4)
rows = {}
many = torch.linspace(1, 0, 33)
for name, ts in {"one": [1, 0], "two": [1, 0.5, 0], "32": many}.items():
    x = last(unmask(D, blank, ts, 4, generator=seeded(0)))
    told = [f"{words[a]} {words[b]}" for a, b in x.tolist()]
    rows[name] = {text: told.count(text) / len(told) for text in sorted(set(told))}
tables.table(rows, ".3f", index="steps", caption="Share of sentences, n = 10,000")

# %% [markdown]
# **What the table shows.** In one step half of the sentences name no city, with a denoiser that is perfect. The denoiser returns a distribution for each position, half York and half Francisco; nothing links the draws. Tokens that are revealed together, at positions $A$, are drawn **independently, given what was there before**; the price is the divergence between the joint distribution and the product of its marginals, the **total correlation**
#
# $$\mathrm{KL}\Big(p(x^A\mid x_t)\,\Big\|\,\prod_{i\in A}p(x^i\mid x_t)\Big) = \sum_{i\in A}H(x^i\mid x_t) - H(x^A\mid x_t) \tag{6.44}$$
#
# here $2\log2-\log2 = \log2$ nats. No training removes it: it belongs to the step, as the error of a large step belongs to Euler's method. Captions have it within their phrases: which phrase stands where, and in which of its wordings, depends on the words beside it. That is a part of 6.16's loss at few steps; the network's own errors are in it, too. The *names* of two parts are independent and cost nothing when revealed together.

# %% [markdown]
# **A puzzle makes it visible.** In a solved Sudoku every number depends on the others. Of 4 x 4 there are 288 grids, so the exact denoiser is a list again. All places are masked; the grid is filled in few steps or many, in random order or, in each step, where the drawn number is the most probable (**order of confidence**). How many numbers a step reveals is random: even with 48 steps for 16 positions, 2.5 pairs share a step on average.

# %%
grids = every_sudoku()                                                  # (288, 16)
D, blank, rows = exact_denoiser(grids, 4), torch.full((500, 16), 4), []
for steps in (1, 2, 4, 8, 16, 48):
    row = {"steps": steps}
    for order in ("random", "confidence"):
        ts = torch.linspace(1, 0, steps + 1)
        x = last(unmask(D, blank, ts, 4, order=order, generator=seeded(0)))
        row[f"{order} order"] = is_sudoku(x, 2, 2).double().mean()
    rows.append(row)
tables.table(rows, ".2f", caption="Share of valid grids, exact denoiser, n = 500")

# %% [markdown]
# **What the table shows.** One *number* at a time would always be right. In one or two steps nearly nothing is, in eight 42 %, although the denoiser is perfect. The order of confidence does *not* help: from 8 steps on it is worse by 6 to 10 points (an error is 2). Probably the surest numbers are those that determine each other, and they use up steps which could have separated the uncertain ones. Confidence is a remedy for something else, a denoiser that *errs*.
#
# **A network that errs.** `sudoku` is the same transformer, trained on 50,000 grids of 6 x 6, which has 28 million. Puzzles with 12 known numbers and one solution are solved by masking the other 24 places, and each answer can be checked. First one puzzle, in order of confidence:

# %%
S = train.load("sudoku", device)
grids, hidden = sudoku_puzzles(100, 24, seed=5)
x = torch.where(hidden, S.mask_id, grids).to(device)
path = list(unmask(S, x[:1], [1, 0.75, 0.5, 0.25, 0], S.mask_id, order="confidence",
                   generator=seeded(0)))
signs = lambda row: " ".join("." if v == S.mask_id else str(v + 1) for v in row)
for k in range(6):
    print("     ".join(signs(state[0, 6 * k:6 * k + 6].tolist()) for state in path))
solved = {order: (texts.solve(S, grids, hidden, 18, order) == grids).all(1).double().mean()
          for order in ("random", "confidence")}
print("100 puzzles, 18 steps:", {order: f"{share:.0%}" for order, share in solved.items()})
print("the first is right:", bool((path[-1][0].cpu() == grids[0]).all()))

# %%
card, rows = S.about["metrics"], {}
for row in card["samples"]:
    of = rows.setdefault(row["steps"], {"steps": row["steps"]})
    of[f"solved, {row['order']}"] = row["solved"]
for row in card["samples"]:
    rows[row["steps"]][f"from nothing, {row['order']}"] = row["valid"]
tables.table(list(rows.values()), ".1%",
             caption=f"{card['n']:,} puzzles, and as many grids from nothing")

# %% [markdown]
# **What the table shows.** Puzzles are solved in the order of confidence: 98 % in 18 steps, 84 % in 4 steps of six numbers on average. In random order the same network solves 36 %, even in 36 steps. A puzzle has one solution, so for a perfect denoiser every number is certain, and one step in any order would do. The network is sure of some numbers only; in random order it also draws where it is unsure, and a wrong number is never taken back. From nothing it is the other way round, as with the exact denoiser: 20 % of the grids are valid in random order, 11 % in order of confidence, with 36 steps. There no number is wrong by itself; numbers are only wrong together.
#
# ## 6.18 Revising, and a map · deeper
#
# A revealed token stays, right or wrong: the chain of (6.38) cannot revise. **Remasking** can (Wang et al. 2025). In each step a revealed token is masked again with some probability $r$, and more masked ones are revealed, so that the share of masks at $s$ is still $s$. The share that is revealed must be $1-s = (1-r)(1-t) + t\,\pi$, so a masked token is revealed with probability $\pi = \frac{(1-s)-(1-r)(1-t)}{t}$; $\pi\le1$ allows $r\le\frac s{1-t}$. With $r=0$ it is the step of 6.16. In `unmask` it is `remasking=`.

# %%
blank = torch.full((20, 36), S.mask_id, device=device)
states = torch.stack(list(unmask(S, blank, torch.linspace(1, 0, 37), S.mask_id,
                                 remasking=0.05, generator=seeded(0))))  # (37, 20, 36)
masked = states == S.mask_id
again = (masked[1:] & ~masked[:-1]).sum() / 20
print(f"in 36 steps {again:.1f} numbers of a grid are masked again")
rows = {}
for row in S.about["metrics"]["remasking"]:
    rows.setdefault(f"r = {row['r']:g}", {})[f"{row['steps']} steps"] = with_error(
        *row["valid"])
tables.table(rows, index="remasking",
             caption=f"Share of valid grids from nothing, n = {row['n']}")

# %% [markdown]
# **What the table shows.** In 72 steps a little remasking helps: with $r=0.05$ valid grids rise from 30 to 39 %. Twice as much helps no longer, and in 18 steps nothing does. As printed, most numbers are drawn twice; probably each further draw needs a step to be drawn alone in.
#
# **How exactly must one draw?** Tokens are drawn by random numbers, and their precision matters. In bfloat16 a uniform number has 256 values; in float32 a sampler that lets the mask compete in each of a thousand steps loses rare words (Zheng et al. 2024). `unmask` decides first *whether* a token is revealed, and draws in float64. Exercise 6.9 measures the first and computes the second.
#
# **A map.** LLaDA (Nie et al. 2025) is this model with 8 billion parameters, trained on text from the web. **Block diffusion** (Arriola et al. 2025) goes from block to block as an autoregressive model and fills each block by diffusion: what is known can then be cached, and texts have any length. In all of them the number of tokens a step is the price of speed, by (6.44). Pictures can be tokens, too: a vector-quantised autoencoder gives each patch a number of a codebook, and MaskGIT (Chang et al. 2022) fills 256 such positions in 8 steps, in order of confidence. Other discrete noise is possible: **uniform** noise replaces a token by any other one, and its chain can revise by itself; with equal training it had the looser bound in the experiments of Austin et al. (2021).
#
# ## 6.19 Video
#
# A clip is a tensor (B, F, C, H, W): $F$ frames. **What does a video model need beside a picture model?** That frames agree. Our `VideoUNet` is the U-Net of lesson 2, applied to each frame; after each of its stages every place attends to the same place in all frames (**temporal attention**; Ho et al. 2022). The last layer of each attention starts at zero, so the network begins as an image network.
#
# A clip also asks a new question. The past is known, the future is not: **why should all frames have the same noise?** In **diffusion forcing** (Chen et al. 2024) each frame has its own level, a time $t_f$ for frame $f$:
#
# $$q(x_t\mid x_0) = \prod_{f=1}^F\mathcal N\big(x_t^f;\;\alpha(t_f)\,x_0^f,\;\sigma(t_f)^2 I\big) \tag{6.45}$$
#
# In training the levels are independent, one for each frame, and the network is told all of them; t has the shape (B, F), and nothing else changes in loss or denoiser. The trained network knows every mixture of clean, noisy and unknown frames. Choose the levels, and choose the task: all equal is a video model; $0$ for the past and $t$ for the next frames is a **world model** that continues what it sees; $0$ for the first and the last frame fills in between.
#
# **It is a wrapper again.** Let $K$ frames be known. The denoiser of the frames that follow puts the known ones in front, calls $D$ with their time 0 beside the time $t$ of the new ones, and returns the prediction for the new ones:
#
# $$D_{\text{after}}(x, t) = D\big((x^{\text{known}}, x),\,(0,\dots,0,t,\dots,t)\big)^{\text{new}} \tag{6.46}$$
#
# If $D$ is exact, this is $\mathbb E[x_0^{\text{new}}\mid x_t^{\text{new}}, x^{\text{known}}]$, the denoiser of the conditional distribution, and every sampler of lesson 4 draws from it. Slide the window along, and the clip grows beyond the length of the training: a **rollout**.
#
# **Two details count.** All clips of the training had 8 frames. While a clip is shorter, `rollout` puts frames of pure noise behind the new ones, at $t=1$. They tell an exact denoiser nothing; but ours was trained on clips of 8 frames alone. And the known frames get a little noise and the time 0.05, so that the network relies less on every pixel that it drew itself. The tables have rows without the one and the other.

# %%
V = train.load("moving_digits", device)
real = data.moving_digits(4, frames=16, seed=1, split="test").x          # (4, 16, 1, H, W)
ts = timesteps(V.schedule, 10)
clip = rollout(V, V.schedule, real[:, :2].to(device), ts, 14, 8, t_known=0.05, noisy=True,
               sampler=dpmpp, generator=seeded(0)).cpu().clamp(-1, 1)   # (4, 16, ...)
frames = {}
for k in range(4):
    frames |= {f"real {k + 1}": real[k], f"continued {k + 1}": clip[k]}
plots.show(frames, columns=16, title="16 frames; of the continued clips two are given")

# %%
card = V.about["metrics"]
rows = {}
for row in card["clips"]:
    rows[row["way"]] = {f"frame {f + 1}": row["lost"][f] for f in (2, 4, 7, 11, 15)}
tables.table(rows, ".1%", index="continued by",
             caption=f"{card['n']} test clips: another digit than in frame 1, or none")
rows = {}
for row in card["clips"]:
    of = rows[row["way"]] = {}
    for name, key in {"to frame 8": "to_8", "from 9": "from_9"}.items():
        of |= dict(zip((f"mean {name}", f"deviation {name}", f"distance {name}"), row[key]))
tables.table(rows, ".2f", index="continued by",
             caption="Speed of the centre of mass, pixels a frame; Wasserstein distance")

# %% [markdown]
# **What figure and tables show.** In the figure the digits keep their shape and bounce at the walls; some slow down. Real clips move by 1.91 pixels a frame. Drawn one by one with a little noise on the known frames, ours move by 1.67 up to frame 8, and by 1.56 at twice the length of the training. In frame 8 another digit, or none, is read in 6 % of the clips, in frame 16 in 7.5 % (80 clips: an error of about 3 points). For the speed both details count. In short clips, without frames of noise behind the new ones, it is 1.15: a length that the network had not seen costs most. Without noise on the known frames it falls to 1.24 late in the clip; 0.1 in place of 0.05 changes nothing. The losses of these rows differ by no more than their errors. Two sets of real clips have distances of 0.08 and 0.06.
#
# What is left is **exposure bias**: the network was trained after real frames and here goes on from its own. The control is the last row, with **teacher forcing**: each frame is drawn by the same network after the *real* frames before it. They move by 1.81 and 1.78, their speeds are about as near to real ones as those of another set of real clips (0.09), and a digit is lost in 0 to 2.5 %. So more than half of the slowing, and the losses, come from going on from drawn frames.
#
# ## 6.20 Sound
#
# A sound is a **waveform**: air pressure, 16,000 numbers a second. Ours are percussion **one-shots** of 0.512 s, tensors (B, 1, 8192). The network is the U-Net with convolutions along time (`SignalUNet`): kernels of (1, 5) in place of (3, 3), every level a quarter as long, the first layer folds 16 neighbouring samples into channels. It is lesson 2's class with two numbers changed. Its convolutions are **circular**, the end is followed by the beginning, and one more input says where each sample is: beside a border of zeros the error of the last 16 samples is 8 to 11 times larger (`python benchmarks/signal_borders.py`, two seeds), and one hears a click. Schedule, loss, loop and sampler are untouched.
#
# **The data are the problem.** There are 54 recordings (21 kicks, 13 snares, 10 cymbals, 10 toms) of 40 sources. And they are fewer than they seem. Six toms, "high", "mid" and "low", hard and soft, are *one* drum: at another pitch, their waveforms have a correlation of 0.98 and more. A split by file would have put the same drum on both sides, and the test would have been passed by copies. So recordings are grouped by source, sources are split, and only then are the training recordings **augmented**: resampled by up to three semitones, shifted by up to 4 ms, made brighter or duller, louder or softer, with either sign.

# %%
real, test = data.drums("train"), data.drums("test")
print(f"{len(real.y)} recordings of {len(set(real.sources))} sources to train on, "
      f"{len(test.y)} of {len(set(test.sources))} to test")
assert not set(real.sources) & set(test.sources)

# %%
K = train.load("drums", device)
classes = list(percussion.CLASSES)
y = torch.arange(4, device=device).repeat(2)                            # two of each class
x = sampling.sample_batches(K, sampling.SAMPLERS["dpmpp"], 20, {"y": y})
held_out = torch.cat([test.x[test.y == c][:1] for c in range(4)])
sounds_of = {"held out": held_out, "samples": x[:4], "more samples": x[4:]}
media.players(sounds_of, columns=classes)
to_image = lambda db: (db.flip(1) / 60 + 1)[:, None].clamp(-1, 1)
plots.show({name: to_image(2 * sounds.log_mel(of) - 2 * sounds.log_mel(of).amax())
            for name, of in sounds_of.items()}, columns=4,
           title="Log-mel spectrograms of " + ", ".join(classes) + ": time to the right,\n"
                 "pitch upwards; from white to black 60 dB, of a row's loudest")

# %% [markdown]
# Kicks and toms are low streaks, snares and cymbals broad bursts, in samples as in recordings. The sampled cymbals stop early where the held-out one rings to the end, and pauses that should be black are grey. That is a soft **hiss**.
#
# **How near is too near?** For each sample take the distance to its nearest training recording or variant of one, in decibels between spectrograms, and divide by the median of the same distance for *held-out* recordings:
#
# $$r(x) = \frac{\min_{j\in\text{train}} d(x, x_j)}{\operatorname{median}_{k\in\text{held out}}\min_{j\in\text{train}} d(x_k, x_j)} \tag{6.47}$$
#
# Around 1 a sample is as new as a recording that was never seen, far below 1 it is a **near copy**. The ratio must be looked at beside the class: who copies perfectly is classified perfectly. And a measure of copies needs a copy that it should find. So the table has variants of training recordings with as much hiss as the samples have, and two ratios: one of the upper 30 dB of the spectrograms, where everything quieter counts as that much below the loudest, and one of 60 dB.

# %%
rows = {}
for row in K.about["metrics"]["sounds"]:
    low, middle, high = row["ratio"]
    rows[row["set"]] = {
        "n": row["n"], "class right": f"{row['class'][0]:.1%} ± {row['class'][1]:.1%}",
        "ratio, median (10 to 90 %)": f"{middle:.2f} ({low:.2f} to {high:.2f})",
        "near copies": f"{row['near_copies']:.1%}",
        "ratio of 60 dB": f"{row['ratio_of_60_dB']:.2f}",
        "loudness, dB": "{:.1f} ± {:.1f}".format(*row["loudness"]),
        "quietest 16 ms, dB": f"{row['quietest'][1]:.0f}"}
tables.table(rows, index="", caption="Near copies: ratio below 0.5")

# %% [markdown]
# **What the table shows.** First the controls. Variants of training recordings are found, 94 % of them, and with the samples' hiss they still are, by the upper 30 dB. By 60 dB the same copies have 1.7 and would count as newer than any recording: pauses make up most of a spectrogram, and the hiss fills them. Of the held-out recordings 3 of 14 are near copies by this measure; drums are alike. (Their own median is 1.02, not 1, between the two middle ones of 14.)
#
# Now the samples. The class is right in 88 ± 2 %, for held-out recordings in 12 of 14. Their median ratio is 0.70, a quarter are near copies: fewer than of variants by far, about as many as of held-out recordings, whose share is known to ± 11 points only. Guidance draws the class more surely, and the ratio hardly changes. They are quieter than the recordings, as are the variants, whose peaks were lowered by up to 6 dB. The hiss, at -43 dB, is what 24 minutes on one core leave.
#
# **The rest of a hit.** The first quarter of each held-out sound is known, the rest is drawn: lesson 5's `inpaint`, unchanged. **Does it listen to what it continues?** The control pastes the known quarter over a sample of the class that was drawn without it.

# %%
mask = torch.ones(1, 1, 8192)
mask[..., :2048] = 0                                                    # 0: known
known, y = test.x.repeat(4, 1, 1), test.y.repeat(4).to(device)          # four draws of each
noise = torch.randn(known.shape, generator=seeded(2)).to(device)
fill = inpaint(K, known.to(device), mask.to(device))
ts = timesteps(K.schedule, 20)
completed, free = (last(dpmpp(D, K.schedule, noise, ts, y=y)).cpu().clamp(-1, 1)
                   for D in (fill, K))
pasted = torch.where(mask == 0, known, free)
assert (completed[..., :2048] == known[..., :2048]).all()

# %%
def distance_to_own(x):
    """Of each held-out sound, the mean over its draws: (14,)"""
    far = [sounds.nearest_distance(a[None], b[None], 30)[0] for a, b in zip(x, known)]
    return torch.cat(far).view(4, -1).mean(0)

far = {"completed": distance_to_own(completed), "pasted": distance_to_own(pasted)}
gain = far["pasted"] - far["completed"]
error = lambda of: of.std() / len(of) ** 0.5
tables.table({name: {"dB to the recording": with_error(of.mean(), error(of))}
              for name, of in far.items()},
             caption=f"{len(gain)} held-out sounds, upper 30 dB")
print(f"completed nearer for {(gain > 0).sum()} of {len(gain)}, "
      f"by {gain.mean():.2f} ± {error(gain):.2f} dB")
first = [(test.y == c).nonzero()[0].item() for c in range(4)]
media.players({"held out": test.x[first], "completed": completed[first],
               "pasted": pasted[first]}, columns=classes)

# %% [markdown]
# The known quarter is kept exactly; the assertion checks it. Completions are nearer to their recording than pasted samples for 10 of 14 sounds, by 0.5 ± 0.3 dB. That is a hint that the model uses what it hears; fourteen sounds do not prove it.
#
# ## 6.21 Spectrograms and phase · deeper
#
# Most models of sound do not draw waveforms. They draw a **mel spectrogram**, a picture: a short-time Fourier transform (STFT) takes the frequencies of each window of 64 ms, their sizes are summed into bands that are even to the ear, and the logarithm is taken. A second network, a **vocoder**, makes the waveform (Kong et al. 2020, *HiFi-GAN*), or an autoencoder of sounds takes the place of both (Evans et al. 2024, *Stable Audio*). **What does the spectrogram leave out?** The phase of each frequency. Windows overlap, so it is not quite free: of all phases most do not belong to any waveform. **Griffin and Lim** (1984) search for one that does: put random phases to the known sizes, transform back, transform again, keep the phases, put the known sizes back in, and repeat.

# %%
window = torch.hann_window(1024)
stft = lambda x: torch.stft(x[:, 0], 1024, 256, window=window, return_complex=True)
istft = lambda X: torch.istft(X, 1024, 256, window=window, length=8192)[:, None]

def griffin_lim(size, rounds):
    """A waveform whose STFT has the sizes (B, 513, 33), from random phases."""
    X = torch.randn(size.shape, generator=seeded(0), dtype=torch.complex64)
    for _ in range(rounds):
        X = stft(istft(size * X / X.abs().clamp(min=1e-9)))
    return istft(size * X / X.abs().clamp(min=1e-9))

size, filters = stft(held_out).abs(), sounds.mel_filters()              # (40, 513)
from_mel = (torch.linalg.pinv(filters) @ (filters @ size)).clamp(min=0)
rebuilt = {"all sizes, true phases": istft(stft(held_out)),
           "all sizes, random phases": griffin_lim(size, 0),
           "all sizes, 100 rounds": griffin_lim(size, 100),
           "40 bands, 100 rounds": griffin_lim(from_mel, 100)}
pairs = lambda x: zip(x, held_out)
rows = {}
for name, x in rebuilt.items():
    far = [sounds.nearest_distance(a[None], b[None])[0] for a, b in pairs(x)]
    alike = [torch.corrcoef(torch.cat([a, b]))[0, 1] for a, b in pairs(x)]
    rows[name] = {"spectrogram, dB": torch.cat(far).mean(),
                  "correlation of waveforms": torch.stack(alike).mean()}
tables.table(rows, ".2f", index="rebuilt from", caption="Four held-out sounds")
media.players({name: rebuilt[name] for name in list(rebuilt)[1:]},
              columns=classes)

# %% [markdown]
# **What the table shows.** With the true phases the sound comes back exactly. With random ones its own spectrogram is 2.7 dB away from the sizes that it was given; after 100 rounds 1.1 dB. Of the sizes in 40 bands less can be known, and 2.6 dB remain. The correlation of the waveforms is 0 in all three: the search finds *a* sound with that spectrogram, not *the* sound. Play them: a hit hardly suffers, a tone gets rough. It also says what a spectrogram metric such as (6.47) cannot see.
#
# ## 6.22 3-D: a sculpture with two shadows
#
# There is no large set of shapes as there is of pictures. **Can a picture model make a shape?** DreamFusion (Poole et al. 2023) takes a denoiser of pictures as a teacher: what is optimised is a shape, a picture of it is drawn by a differentiable renderer, and the denoiser says how the picture should change. We do it in small: $28^3$ voxels whose shadow from the front is a 3 and from the side a 7. Voxel $v$ stops the share $\rho_v$ of the light; along a ray
#
# $$\text{shadow} = 1 - \prod_{v\in\text{ray}}(1-\rho_v) \tag{6.48}$$
#
# **Score distillation sampling** (SDS). Let $x(\theta)$ be the picture. Noise it, $x_t = \alpha x + \sigma\epsilon$, and let the denoiser predict the noise. Averaged over noise *and data*, $\hat\epsilon$ is $\epsilon$. For one picture the average difference points to where the density of $x_t$ *falls*, because $\hat\epsilon = -\sigma\nabla\log q_t$ (lesson 1). So go against it, and let the chain rule carry it to the parameters:
#
# $$\nabla_\theta\mathcal L = \mathbb E_{t,\epsilon}\Big[w(t)\,\big(\hat\epsilon(x_t, t) - \epsilon\big)\,\frac{\partial x}{\partial\theta}\Big] \tag{6.49}$$
#
# The network is not differentiated. What does it mean in our terms? $\hat\epsilon = (x_t - \alpha\hat x_0)/\sigma$ and $\epsilon = (x_t-\alpha x)/\sigma$, so
#
# $$\hat\epsilon - \epsilon = \frac\alpha\sigma\,(x - \hat x_0) \tag{6.50}$$
#
# The picture is pulled towards **the denoiser's prediction from its noised version**. `score_distillation` is the squared distance with this gradient, $\hat x_0$ held fixed and $w=\sigma^2$. A shadow becomes a picture in $[-1, 1]$ as twice itself minus 1.

# %%
teacher = train.load("mnist_small", device)
guided = cfg(teacher, 4.0, {"y": 10})
y = torch.tensor([3] * 4 + [7] * 4, device=device)
logits = torch.randn(4, 28, 28, 28, generator=seeded(0)) / 2 - 4        # nearly empty
logits = logits.to(device).requires_grad_()
optimizer = torch.optim.Adam([logits], lr=0.2, betas=(0.9, 0.99))
g = seeded(1)
for k in range(200):
    density = logits.sigmoid()
    x = torch.cat([shadow(density, "front"), shadow(density, "side")])  # (8, 1, 28, 28)
    t = 0.02 + 0.96 * (1 - k / 400) * torch.rand(8, generator=g)
    eps = torch.randn(x.shape, generator=g).to(device)
    loss = score_distillation(guided, teacher.schedule, x, t.to(device), eps, y=y).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
plots.show(x.detach().cpu(), columns=4, title="Four sculptures: the front, the side")

# %% [markdown]
# All four cast a 3 and a 7, and nearly the same 3 and 7. Two of them from all sides, their voxels above one half: in between they are neither.

# %%
media.turntable([media.voxel_points(density[k].detach().cpu()) for k in range(2)],
                columns=2, size=128, alt="two sculptures that turn")

# %% [markdown]
# Twenty sculptures, 300 steps each, by `python benchmarks/sculptures.py`, judged by the digit classifier. Beside them the same without guidance; voxels that were fitted to the shadows of *real* digits, which shows what voxels can do; and how much two shadows of twenty differ, with real digits as the measure.

# %%
with open(storage.ASSETS / "sculptures.csv") as file:
    rows = {row.pop("way"): row for row in csv.DictReader(file)}
columns = {"front": "a 3 in front", "side": "a 7 from the side", "both": "both",
           "both_rounded": "both, rounded", "voxels": "voxels",
           "variety_front": "variety, front", "variety_side": "variety, side"}
tables.table({name: {new: row[old] for old, new in columns.items()}
              for name, row in rows.items()}, index="",
             caption="Of 20, as the classifier reads them; variety: two pictures' distance")

# %% [markdown]
# **What the table shows.** All 20 sculptures cast both shadows, and so do 20 of 20 whose voxels are rounded to 0 or 1; the fit to real shadows has 19, before and after rounding. Without guidance it is 11 of 20 (9 rounded), with a ninth of the voxels on average. And the price: two distilled threes differ by 0.37, two real ones by 0.64. Score distillation **seeks modes**. It climbs to a picture that is likely under every noise at once, it does not draw one from the distribution. DreamFusion uses a guidance of 100. Whether guidance narrows it further our row without it cannot tell: half of its shadows are no digit.
#
# ## 6.23 Shapes as points
#
# A **point cloud** is a set of points on a surface, a tensor (B, P, 3). **In which order?** In none: the 256 points of a chair can be listed in any way, and a network that cared would have to learn the same chair in $256!$ versions. A function of sets should be **permutation-equivariant**: permute the input by any $\pi$, and the output is permuted alike,
#
# $$f(\pi x) = \pi f(x) \tag{6.51}$$
#
# Self-attention is so by itself: it takes sums over all tokens, and a sum has no order. It was the *position embedding* of lesson 2 that told tokens apart. So `PointTransformer` is lesson 2's DiT without positions; a point's coordinates are its token. (In ours, points attend to 32 learned vectors in place of each other, Lee et al. 2019. That is equivariant, too, and cheaper.) It was trained on 256 points; below it gets 512, since a function of sets takes any number.

# %%
P = train.load("clouds", device)
furniture_test = data.clouds("test")                                    # x (39, 512, 3)
x = furniture_test.x[:2].to(device)
pi = torch.randperm(512, generator=seeded(0))
positions = torch.randn(512, 3, generator=seeded(1)).to(device)         # of a place
nets = {"PointTransformer": lambda x: P(x, 0.5, y=0),
        "with positions added": lambda x: P(x + 0.1 * positions, 0.5, y=0)}
with torch.no_grad():
    for name, f in nets.items():
        off = (f(x[:, pi]) - f(x)[:, pi]).norm() / f(x).norm()
        print(f"{name}: |f(pi x) - pi f(x)| / |f(x)| = {off:.1e}")

# %%
y = torch.arange(3, device=device).repeat_interleave(4)                 # 4 of each class
x = sampling.sample_batches(P, sampling.SAMPLERS["dpmpp"], 30, {"y": y}, clip_range=None)
print("a row of each:", *furniture.CLASSES)
media.turntable(x, columns=4, alt="twelve sampled clouds that turn")

# %% [markdown]
# The rows are recognisable: chairs, tables and lamps of different proportions, with some points astray. The distance of two clouds is the **Chamfer distance**: from each point of one to the nearest point of the other, squared, averaged, both ways added,
#
# $$d(X, Y) = \frac1{|X|}\sum_{x\in X}\min_{y\in Y}\|x-y\|^2 + \frac1{|Y|}\sum_{y\in Y}\min_{x\in X}\|x-y\|^2 \tag{6.52}$$
#
# To compare *sets* of shapes, put both sets together and look at each shape's nearest neighbour. **1-NNA** is the share whose neighbour is of the same set. If both come from one distribution, it is 50 % up to chance; 100 % says that the sets are apart. And what is far *below* 50 %? There each sample's nearest neighbour is in the other set: copies. So 1-NNA against the training set is an alarm, and against held-out shapes a score. With 39 held-out shapes its interval is wide, and it stands beside the number.
#

# %%
rows = {}
for row in P.about["metrics"]["clouds"]:
    interval = lambda values: "{:.2f} ({:.2f} to {:.2f})".format(*values)
    rows[row["set"]] = {"n": row["n"], "ratio to the training set": interval(row["ratio"]),
                        "near copies": f"{row['near_copies']:.0%}",
                        "1-NNA, training": interval(row["one_nna_train"]),
                        "1-NNA, held out": "itself" if row["set"] == "held out"
                        else interval(row["one_nna_held_out"])}
tables.table(rows, index="", caption="Ratio (6.47) with Chamfer distances, 95 % intervals")

# %% [markdown]
# **What the table shows.** First the rows of real shapes. Held-out shapes against training shapes have 0.54, one half but for chance, as two parts of one set should. Training shapes with other points on their surfaces are copies, and the alarm rings: 0.00. Fresh variants, such as the network was trained on, have 0.25. The samples most likely lie between copies and new shapes. Their median ratio is 0.74, where held-out shapes have 1.00 and variants 0.42. By the rule "a ratio below 0.5" 21 % of them are near copies, where held-out shapes have 8 and variants 69 %. With guidance it is a third, a difference of two standard errors; 1-NNA does not see it (0.51).
#
# **Copies score best.** Against held-out models the training shapes themselves have 0.53, the variants 0.62, the samples 0.65. And without the first three rows 0.45 against the training set would have looked like a perfect score. As many of each class are compared; else the table would measure how many chairs there are.
#
# ## 6.24 Actions
#
# A robot sees something and does something. **Is that not regression, from what is seen to what is done?** Regression on an expert's demonstrations is called **behaviour cloning**. A point has to walk round a disc. The expert passes it on the left or on the right, by the toss of a coin. Regression by squared error learns the conditional mean,
#
# $$\arg\min_f\;\mathbb E\,\big|f(o) - a\big|^2 = \mathbb E[a\mid o] \tag{6.53}$$
#
# and the mean of left and right is straight ahead. A **diffusion policy** (Chi et al. 2023) draws the action instead: the data are **chunks**, the next $K$ actions, a denoiser predicts the clean chunk from a noisy one and the observation, and a sampler draws. A **mixture density network** (Bishop 1994) is the fair rival: a network that returns the weights, means and deviations of $M$ Gaussians, trained by $-\log p$:
#
# $$-\log\sum_{m=1}^M\pi_m(o)\,\mathcal N\big(a;\mu_m(o),\operatorname{diag}s_m(o)^2\big) \tag{6.54}$$
#
# An observation is four numbers, the position and the goal; the demonstrations contain some **gusts**, which blow the point up or down. All three are trained live, by the same loop on the same demonstrations, and then act in 400 worlds that they have not seen, at first without gusts.

# %%
demos = obstacle.demonstrations(1000, seed=100, chunk=8, perturbation=0.3)
print({name: tuple(value.shape) for name, value in demos.items()})
models = {
    "regression": policies.Regression(RegressionNet(4, 8, width=224)),
    "mixture density": policies.MixtureDensity(MixtureNet(4, 8, width=176)),
    "diffusion": Denoiser(ActionNet(4, 8), Schedule.cosine(), "edm"),
}
for name, model in models.items():
    models[name] = train.train(model, demos, steps=1500, batch_size=128, device="cpu")

# %%
def policy_of(model):
    """Observation -> a chunk of 8 actions."""
    if isinstance(model, Denoiser):
        return policies.diffusion_policy(model, model.schedule, steps=10)
    return model.sample

episodes = {"expert": obstacle.expert(400, seed=0)}
for name, model in models.items():
    episodes[name] = obstacle.run(policy_of(model), 400, seed=0, execute=8)
rows = {name: {"success": e.success.double().mean(),
               "left, of these": (e.side[e.success] > 0).double().mean()}
        for name, e in episodes.items()}
tables.table(rows, ".1%", index="policy", caption="400 episodes, chunks of 8 carried out")
media.paths({name: e.paths[:60] for name, e in episodes.items()}, obstacle.RADIUS,
            {name: e.touched[:60].long() for name, e in episodes.items()},
            title="60 episodes; orange: the disc was touched")
e = episodes["regression"]
nearest_first = e.paths[:, 0, 1].abs().argsort()                        # to the axis
print("regression, by quarters of the start's distance from the axis:",
      *(f"{part.double().mean():.0%}" for part in e.success[nearest_first].chunk(4)))

# %% [markdown]
# **What figure and table show.** Regression reaches the goal in about 60 % of the episodes. An observation off the axis looks like an expert already on its way; from the axis itself both sides are open, and regression walks straight at the disc. The printed line says so: of the quarter of starts nearest to the axis hardly one succeeds, of the two quarters farthest from it nearly all. The mixture and the diffusion policy go round nearly always, and pass on the left about as often as the expert does.
#
# **How long should a chunk be?** Carried out **open loop**, blindly, eight actions cannot answer to what happens meanwhile. **Closed loop** means a new look after every action. Here a gust comes once in an episode. *Regression, calm* was trained on demonstrations without gusts; *turns* counts changes between up and down before the disc. Five seeds of training, 400 episodes each (`python benchmarks/policies.py`):

# %%
with open(storage.ASSETS / "policies.csv") as file:
    runs = list(csv.DictReader(file))

def of_seeds(policy, chunk, execute, gust, column):
    values = [float(row[column]) for row in runs
              if (row["policy"], row["chunk"], row["execute"], row["gust"])
              == (policy, chunk, execute, gust)]
    return torch.tensor(values)

rows = []
three = (("8", "8"), ("8", "1"), ("1", "1"))
for policy in ("expert", "regression", "regression, calm", "mixture density", "diffusion"):
    for chunk, execute in three if policy != "expert" else three[2:]:
        row = {"policy": policy, "chunk": chunk, "carried out": execute}
        for name, gust in (("calm", "0.0"), ("gust", "0.3")):
            success = of_seeds(policy, chunk, execute, gust, "success")
            row[name] = f"{success.mean():.1%} ({success.min():.1%} to {success.max():.1%})"
        row["turns, calm"] = of_seeds(policy, chunk, execute, "0.0", "turns").mean()
        rows.append(row)
tables.table(rows, {"turns, calm": ".2f"}, caption="Success: mean and range of five seeds")

# %% [markdown]
# **What the table shows.** With whole chunks carried out, regression reaches the goal in 64 % of the calm episodes, the mixture in 96, diffusion in 99. With a look after every action regression and diffusion are at 100 %, the mixture at 96 with chunks of 8 and at 100 with single actions. *Regression too*: one step off the axis makes one side likelier. So the mean points a little to that side, and after the next step the point is further off the axis. With these demonstrations it is not averaging that fails, it is averaging *open loop*. Demonstrations without gusts do not show what to do off the path (*regression, calm*; the field's word is **covariate shift**): then regression fails with looks at every step, too, in the calm at 65 % with single actions and 87 % with chunks of 8.
#
# Whole chunks answer late. Under a gust the mixture falls from 96 to 76 %, diffusion from 99 to 81; regression is even the best of the three (84 %, in the calm 64), probably because the gust takes it off the axis. A look at every step repairs most of it: 98 % for diffusion, 90 for the mixture with chunks of 8, where the expert itself has 97. And now the two policies that *draw* **dither** (they switch modes): before the disc they change between up and down 1.2 to 1.7 times an episode, where whole chunks and regression hardly ever do. For diffusion this costs no success. Common practice lies between: predict a long chunk, carry out part of it, look again (**receding horizon**).
#
# ## 6.25 What had to change
#
# One row for each kind of data, and the small digit model of lesson 2 beside them. **Statements** of code are counted, without docstrings, those of the module alone: what it inherits from the U-Net or the DiT is not in the number, and `actions` also holds the two rivals. These cells need all of 6.16 to 6.24.

# %%
import ast
import inspect
from time import perf_counter

from course_lib import denoiser, discrete, guidance, samplers, schedules
from course_lib.networks import actions, points, signal, tokens, unet, video

shared = (denoiser, schedules, samplers, guidance)

# %%
def statements(*modules):
    # without docstrings
    nodes = [node for module in modules
             for node in ast.walk(ast.parse(inspect.getsource(module)))]
    is_text = lambda n: isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
    return sum(isinstance(node, ast.stmt) and not is_text(node) for node in nodes)

def seconds_of_one(draw):
    draw()                                                  # the first is slower
    start = perf_counter()
    draw()
    return perf_counter() - start

def draw_one(D, steps, **condition):
    x = D.schedule.sample_prior((1, *D.data_shape)).to(device)
    ts = timesteps(D.schedule, steps)
    return lambda: last(dpmpp(D, D.schedule, x, ts, **condition))

# %%
zero = torch.zeros(1, dtype=torch.long, device=device)
policy = models["diffusion"]
draws = {                                         # the model, its module, one sample
    "digits (lesson 2)": (teacher, [unet], draw_one(teacher, 20, y=zero)),
    "text, masked": (M, [tokens, discrete], lambda: texts.sample_tokens(M, 1)),
    "video": (V, [video], draw_one(V, 10)),
    "sound": (K, [signal], draw_one(K, 20, y=zero)),
    "shapes": (P, [points], draw_one(P, 30, y=zero)),
    "actions": (policy, [actions], lambda: policy_of(policy)(demos["observation"][:1])),
}
rows = {}
for name, (model, modules, draw) in draws.items():
    rows[name] = {"one example": str(tuple(getattr(model, "data_shape", (32,)))),
                  "target": getattr(model, "target", "tokens"),
                  "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
                  "statements": statements(*modules),
                  "one sample, s": f"{seconds_of_one(draw):.2f}"}
tables.table(rows, index="data", caption="What had to change")
print(f"denoiser, schedules, samplers and guidance, shared by all but text: "
      f"{statements(*shared)} statements")

# %%
def rows_of(model, key):
    """The rows of a shipped model's card, by what they are of."""
    rows = model.about["metrics"][key]
    return {row.get("way", row.get("set", row.get("steps"))): row for row in rows
            if row.get("order") != "confidence"}

valid = rows_of(M, "samples")[128]["valid"]
ways, sets, clouds = rows_of(V, "clips"), rows_of(K, "sounds"), rows_of(P, "clouds")
success = {name: e.success.double().mean() for name, e in episodes.items()}
measured = {                                      # the model, real or held-out data
    "text": ("valid, 128 steps", valid, M.about["metrics"]["real"]["valid"]),
    "video": ("pixels a frame, from frame 9",
              ways["one by one, t = 0.05"]["from_9"][0], ways["real"]["from_9"][0]),
    "sound": ("ratio to the training set",
              sets["samples, w = 1"]["ratio"][1], sets["held out"]["ratio"][1]),
    "shapes": ("ratio to the training set",
               clouds["samples, w = 1"]["ratio"][0], clouds["held out"]["ratio"][0]),
    "actions": ("success, chunks of 8", success["diffusion"], success["expert"]),
}

# %%
rows = []
for name, model in zip(measured, (M, V, K, P, None)):
    measure, of_model, of_real = measured[name]
    trained = "live"
    if model is not None:
        trained = f"{model.about['metrics']['training']['seconds'] / 60:.0f} min"
    rows.append({"data": name, "measure": measure, "model": of_model, "real": of_real,
                 "training, one core": trained})
tables.table(rows, ".2f", caption="What it gives, beside real or held-out data")

# %% [markdown]
# **What the tables show.** A new kind of data costs between 30 and 60 statements for its network, more where noise, loss and sampler change, too, as for text. The denoiser, the schedules, the samplers and guidance are ten times as much, and never ask what the numbers mean. None of the models is as good as its data: half of the texts are valid, clips slow down, and sounds and shapes lie nearer to the training set than held-out ones do.
#
# **Science.** The same denoisers work where the data are molecules and fields. RFdiffusion (Watson et al. 2023) draws protein backbones that were then made in the laboratory; AlphaFold 3 (Abramson et al. 2024) places all atoms of a complex by a diffusion model; GenCast (Price et al. 2025) draws weather forecasts for fifteen days on the sphere, and its ensemble was more skilful than that of the leading physical model on 97 % of the targets that were compared. What they add is geometry: RFdiffusion's network is equivariant to rotations, GenCast's lives on a sphere, and AlphaFold 3 does without, by training on structures that are turned at random.

# %% [markdown]
# ## 6.26 What we built
#
# An autoencoder whose latents are six numbers for each 4 x 4 pixels, a diffusion model in them that reads captions, and the same model's theory in continuous time: one equation, whose members are the samplers and schedules of the field, with the likelihood as a by-product. Then the same loop for five other kinds of data, with the same denoiser and samplers for all but text.
#
# **Five things to remember.** (1) A latent is data like other data: its scale is part of the schedule, and its fidelity is paid for by the model that has to learn it. (2) Schedules are clocks and rulers. What a sampler really chooses is the points in log SNR, the order of its steps and its noise; what a training really chooses is the weight of each level and the coupling of noise and data. (3) A likelihood belongs to a process *and* a convention: say which process, which dequantisation, which first level. (4) For other data the network changes, for text the noise, too, and little else. Tokens that are revealed in one step are drawn independently; so fewer steps have their price even with a perfect denoiser, as large steps of a solver have theirs. (5) With few data, a score that rewards quality rewards copies. Split by source before anything else, and put the distance to the training set beside every score.
#
# **Terms.**
#
# | term | in one line |
# | --- | --- |
# | autoencoder, encoder, decoder, latent | networks that write data down in fewer numbers and read them back; the numbers |
# | VAE, KL weight | an autoencoder whose latent is a Gaussian near the prior; how near |
# | posterior collapse | a latent channel that equals the prior for every input |
# | perceptual, adversarial term | feature distance; a critic's gradient, for sharp texture |
# | score matching: explicit, denoising; implicit, sliced (6.7) | four losses with the score as minimiser |
# | annealed Langevin dynamics | Langevin steps at falling noise levels |
# | SDE, drift, diffusion | $dx = f x\,dt + g\,dw$; its two coefficients |
# | VP, VE, flow | $\alpha^2+\sigma^2=1$; $\alpha=1$; $\alpha = 1-t$ and $\sigma = t$ |
# | generator; Fokker-Planck, continuity equation | how means of functions move; how the density moves, with and without noise |
# | Anderson's reverse process | the forward process, run backwards: $\lambda = 1$ |
# | Euler-Maruyama | Euler's method with noise $g\sqrt h\,z$ |
# | coupling; optimal transport, reflow, straightness (6.12) | which noise goes with which picture; the shortest pairs; the model's own pairs; (6.28) |
# | instantaneous change of variables | (6.29) |
# | Hutchinson's estimate, Rademacher probe | a trace from random vectors; signs |
# | dequantisation, bits per dimension | noise that fills a level's bin; the code length (6.34) |
# | token, mask, absorbing state | a word's number; the token that means "not known yet"; a state that is never left |
# | masked diffusion, any-order autoregressive model | tokens are masked with probability $t$ and filled in again; the same model, seen as one that writes in random order |
# | excess | nats a model needs beyond the entropy, (6.43) |
# | total correlation | the price of drawing dependent tokens together, (6.44) |
# | parallel decoding, order of confidence, infilling | several tokens a step; the surest first; words between given ones |
# | remasking, block diffusion, uniform noise (6.18) | revealed tokens are masked again; blocks one after the other; any token in place of a mask |
# | temporal attention, diffusion forcing | attention over the frames of one place; a noise level for each frame |
# | rollout, exposure bias, teacher forcing, world model | a clip continued frame by frame; a model's errors on what it drew itself; going on from real frames; a model that continues what it sees |
# | waveform, one-shot, augmentation | samples of air pressure; one hit; changed copies of training data |
# | near copy | a sample much nearer to the training set than held-out data are |
# | mel spectrogram, phase, vocoder (6.21) | sizes of frequencies by time; what they leave out; a network that puts it back |
# | score distillation sampling (SDS) | the gradient (6.49): a picture model moves the parameters of something else |
# | mode seeking | the likeliest result in place of a draw |
# | point cloud, permutation-equivariant | a set of points; a function that is permuted as its input is |
# | Chamfer distance, 1-NNA | (6.52); the share of shapes whose nearest neighbour is of their own set |
# | behaviour cloning, covariate shift | regression on demonstrations; states that they do not show |
# | open loop, closed loop, receding horizon | no look; a look after each action; a long chunk of which a part is carried out |
# | chunk, diffusion policy, mixture density network | the next $K$ actions; a denoiser of them; a network that returns a mixture |
#
# | formula | source |
# | --- | --- |
# | (6.1) to (6.3) | Kingma & Welling 2014, *Auto-Encoding Variational Bayes*, eq. 10 and appendix B; Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*, appendix G |
# | (6.4), (6.6), (6.7) | Rombach et al. 2022, appendix G; Esser et al. 2024, *Scaling Rectified Flow Transformers*, eq. 23; Hoogeboom et al. 2023, *simple diffusion* |
# | (6.8) | Esser et al. 2024, figure 2 |
# | (6.9) to (6.11) | Vincent 2011, *A Connection Between Score Matching and Denoising Autoencoders*; Song & Ermon 2019 |
# | (6.12), (6.13) | Hyvärinen 2005; Song et al. 2019, *Sliced Score Matching* |
# | (6.14) to (6.20) | Song et al. 2021, *Score-Based Generative Modeling through SDEs*; Anderson 1982; Kingma et al. 2021, *Variational Diffusion Models*, appendix |
# | (6.22) | Ho et al. 2020; Lu et al. 2022, *DPM-Solver++*, section on SDEs |
# | (6.23), (6.24) | Karras et al. 2022, *Elucidating the Design Space*; Kingma & Gao 2023, *Understanding Diffusion Objectives as the ELBO* |
# | (6.25), (6.26) | Kingma & Gao 2023, appendix |
# | (6.27), (6.28) | Pooladian et al. 2023; Tong et al. 2024; Liu et al. 2023, *Flow Straight and Fast* |
# | (6.29) to (6.32) | Chen et al. 2018, *Neural ODEs*, eq. 8; Grathwohl et al. 2019, *FFJORD*; Hutchinson 1989 |
# | (6.33), (6.34) | Theis et al. 2016, *A Note on the Evaluation of Generative Models*, section 3.1 |
# | (6.35) | Kingma et al. 2021, eq. 11 to 15 |
# | (6.36) to (6.40) | Austin et al. 2021, *Structured Denoising Diffusion Models in Discrete State-Spaces*; Sahoo et al. 2024, *Simple and Effective Masked Diffusion Language Models*, eq. 10; Shi et al. 2024, *Simplified and Generalized Masked Diffusion* |
# | (6.41), (6.42) | Uria et al. 2014, *A Deep and Tractable Density Estimator*; Hoogeboom et al. 2022, *Autoregressive Diffusion Models*; Ou et al. 2024 |
# | (6.45), (6.46) | Chen et al. 2024, *Diffusion Forcing*; Ho et al. 2022, *Video Diffusion Models* |
# | (6.43), (6.44) | Cover & Thomas 2006, chapter 2; Watanabe 1960 (total correlation) |
# | (6.48), (6.49) | Max 1995 (volume rendering); Poole et al. 2023, *DreamFusion*, eq. 3 |
# | (6.51), (6.52) | Zaheer et al. 2017, *Deep Sets*; Fan et al. 2017; 1-NNA: Lopez-Paz & Oquab 2017; Yang et al. 2019, *PointFlow* |
# | (6.53), (6.54) | Bishop 1994, *Mixture Density Networks*; Chi et al. 2023, *Diffusion Policy* |
#
# **Next:** lesson 7 builds Stable Diffusion on part I, loads its published weights, and takes a model to a release.
