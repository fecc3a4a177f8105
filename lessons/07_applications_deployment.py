# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 7 · Applications and deployment
#
# {{badge}}
#
# This lesson takes Stable Diffusion apart and puts it together again. Its parts are known: the autoencoder of lesson 6, the U-Net of lesson 2, the schedule of lesson 1, the samplers of lesson 4, the guidance and the captions of lesson 5. What is new is small, and most of it is *convention*: an order of two halves, a padding number, a step that counts from 1. A convention that is got wrong often does not show in a picture, and always in a number. So the lesson is about both, how the model works and how one knows that a reimplementation is right.
#
# **After this lesson you can** read every line of a Stable Diffusion and load the published weights into it; say which of two implementations is wrong, and where; teach a model a new part from a dozen pictures by LoRA, and give it a picture as a condition by ControlNet; and say what preference tuning does to what it does not measure.
#
# **You need** lessons 1 to 6.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 7.1 Mini-SD at work | core | 8 | the model that this lesson takes apart |
# | 7.2 Text into vectors | core | 12 | byte pairs, and CLIP's text encoder |
# | 7.3 The U-Net, line by line | core | 12 | what differs from lesson 2's |
# | 7.4 Names and files | core | 8 | how published weights get in |
# | 7.5 Conventions of sampling | core | 8 | steps, grids, predictions |
# | 7.6 The fault board | core | 8 | what a picture hides and a number shows |
# | 7.7 Adapters: LoRA | core | 12 | a new part in 45 seconds |
# | 7.8 ControlNet | core | 8 | a picture as a condition |
# | 7.9 Preference | core | 10 | and what a flawed judge does |
# | 7.10 Nine channels | deeper | 6 | inpainting by a network of its own |
# | 7.11 One word, one subject | deeper | 8 | textual inversion, DreamBooth |
# | 7.12 Afterwards | core | 4 | SDXL, SD3, Flux, turbo models |
# | 7.13 Guidance in one pass | deeper | 6 | half the cost of a step |
# | 7.14 The time shift, the schedule's end | deeper | 8 | where the steps of SD3 and Flux are |
# | 7.15 SD3's and Flux's layout | deeper | 8 | what their blocks do otherwise |
# | 7.16 Files that are something else | deeper | 3 | what people have in place of a folder |
# | 7.17 At full size | deeper | 5 | the real weights, and what they cost |

# %% tags=["setup"]
{{setup}}

# %%
import copy
import csv
import hashlib
import json
import math
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib import Denoiser, Schedule, cfg, ddim, dpmpp, editing, last, timesteps
from course_lib.lab import (
    attributes,
    data,
    noun_parts,
    plots,
    sampling,
    storage,
    tables,
    train,
)
from course_lib.lab.data.outlines import outline, outline_f1
from course_lib.lab.evaluation import faults
from course_lib.lab.evaluation.inpainted import known_error, seam
from course_lib.lab.evaluation.small_sets import nearest_ratio
from course_lib.lab.training.parts import load_control, load_inpainting
from course_lib.lab.training.published import load_published
from course_lib.lab.training.published_files import fetch_published
from course_lib.networks.stable_diffusion import layout, lora, sd3
from course_lib.networks.stable_diffusion.inpainting import extra_channels
from course_lib.networks.stable_diffusion.inversion import add_word
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import (
    GEGLU,
    StableDiffusionUNet,
    StepEmbedding,
)

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part I · Stable Diffusion, line by line
#
# ## 7.1 Mini-SD at work
#
# **Mini-SD** is the class that loads Stable Diffusion 1.5, with another configuration: a U-Net of two levels in place of four, a text encoder of two layers in place of twelve, a byte-pair code of 1,000 tokens in place of 49,408. It was trained on the latents of lesson 6's autoencoder, on 96,000 captioned figures (`python tools/recipes/train_mini_sd.py`). Ten heads are in none of its pictures and captions; section 7.7 teaches it one of them. The autoencoder was trained on pictures with all heads.

# %%
mini, vae = train.load("mini_sd", device), train.load("nouns_vae", device)
parts = noun_parts.draw_parts(8, seed=11, split="test")
captions = noun_parts.plain_captions(parts)
x = sampling.text_to_image(mini, captions, vae=vae)
plots.captioned(x, captions, columns=4, title="Text to image: 10 steps, w = 2")

# %%
sizes = {"text encoder": mini.net.text, "U-Net": mini.net.unet, "autoencoder": vae}
rows = {name: {"parameters": f"{sum(p.numel() for p in part.parameters()):,}"}
        for name, part in sizes.items()}
tables.table(rows, index="mini-SD", caption=type(mini.net).__name__)

# %% [markdown]
# **Beside pixels.** The checkpoint's header says how it was judged: the same captions for mini-SD and for lesson 5's `nouns`, which draws pixels, so that the difference of each part has its own standard error.

# %%
judged = mini.about["metrics"]
rows = [{"captions": {"test": "new combinations", "pairs": "new pairs"}[row["split"]],
         "part": row["part"], "nouns": row["nouns"], "mini-SD": row["mini_sd"],
         "difference, points": f"{row['points'][0]:+.1f} ± {row['points'][1]:.1f}"}
        for row in judged["paired"]]
tables.table(rows, {"nouns": ".1%", "mini-SD": ".1%"}, index="captions",
             caption=f"Attribute accuracy, n = {judged['n']:,} captions a row, paired")
for row in judged["seconds"]:
    print(f"batch {row['batch']}: nouns {row['nouns']:.2f} s, "
          f"mini-SD {row['mini_sd']:.2f} s")

# %% [markdown]
# **What the table shows.** No part is more than 1.0 ± 0.5 points below `nouns`. 100 captions take 40 % of its time, text and decoder included; a single one takes 86 %. The captions of the training come in three wordings. With lesson 5's alone a comma stands before every part but the head, and the glasses of these test captions have none. An earlier training of that kind, which is not kept, drew 70 % of the glasses right, beside 98 % and more of all other parts. Probably it found them by their comma.
#
# **From a picture.** Everything of lesson 5 works here, in the latents: noise a latent up to a level and denoise it under another caption (`sdedit`), or lead guidance away from a caption in place of the empty one (a **negative prompt**).

# %%
z = vae.to_latents(x[:4].to(device))                                    # (4, 8, 8, 8)
other = mini.net.tokenizer(noun_parts.plain_captions(parts[4:])).to(device)
guided = cfg(mini, 2.0, mini.net.null)
rows = {"before": x[:4]}
for strength in (0.02, 0.05, 0.1, 0.3):
    states = editing.sdedit(guided, mini.schedule, z, strength, 10, sampler=dpmpp,
                    generator=seeded(0), tokens=other)
    rows[f"strength {strength}"] = vae.to_images(last(states)).cpu()
plots.show(rows, columns=4, title="Image to image, under the captions of the other four")

# %%
plain = ["a figure with a rust body, on a cool background"] * 4
away = {"tokens": mini.net.tokenizer("black square glasses").to(device)}
rows = {"plain": sampling.text_to_image(mini, plain, vae=vae, seed=2),
        "negative: black square glasses":
            sampling.text_to_image(mini, plain, vae=vae, seed=2, null=away)}
plots.show(rows, columns=4, title=plain[0])

# %% [markdown]
# **What the figures show.** *Image to image*: at strength 0.02 the old figure stands under a few new colours, at 0.1 the new one is there, although its latent still had the old one in it, with a log SNR of 2.1. In training caption and picture never disagreed, so nothing taught the network which of the two to believe. Guidance, $w=2$, favours the caption. *Negative prompt*: the caption names no glasses. In these four pictures guidance away from black ones makes them lighter, and changes little else.
#
# ## 7.2 Text into vectors
#
# Lesson 5's tokenizer knows the words of its captions and no others. Stable Diffusion has to read anything that people type. **How do you make a vocabulary that can write every text, and writes common words short?** With **byte-pair encoding**, BPE (Sennrich et al. 2016). Start with the 256 bytes: they can write every text. Then look at the pair of neighbouring tokens that occurs most often in a large collection of texts,
#
# $$(a, b)^* = \arg\max_{(a, b)}\;\sum_{\text{words } u} n_u\,\big|\{k: u_k = a,\ u_{k+1} = b\}\big| \tag{7.1}$$
#
# with $n_u$ the number of times that the word $u$ occurs, and make it a token of its own. Repeat. Each merge makes the vocabulary larger by one and the texts shorter. A byte at the end of a word is another token than the same byte inside, written `a</w>`, so that a text can be put together again, but for capitals and spaces. CLIP's code has 512 + 48,894 + 2 = 49,408 tokens; the last two are start and end. Ours has 1,000. Three merges of a toy, from ten words:

# %%
words = {"head": 5, "hat": 3, "heart": 2}
pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
for _ in range(3):
    counts = {}
    for word, n in words.items():
        for pair in zip(pieces[word], pieces[word][1:]):
            counts[pair] = counts.get(pair, 0) + n
    best = min(counts, key=lambda pair: (-counts[pair], pair))           # ties: the first
    print(f"{best[0]} + {best[1]}, {counts[best]} times", end="   ")
    for parts in pieces.values():
        k = 0
        while k < len(parts) - 1:
            if (parts[k], parts[k + 1]) == best:
                parts[k:k + 2] = ["".join(best)]
            k += 1
    print(*(" ".join(parts) for parts in pieces.values()), sep=" | ")

# %% [markdown]
# A new text is encoded by the same merges in the order in which they were learned. The code of our captions is learned here, from 5,000 of them. Frequent words are whole, others are in pieces:

# %%
captions = data.nouns(20_000).captions
tokenizer = BytePairTokenizer.learn(captions[:5_000], 1_000, length=48)
print("first merges:", *("".join(pair) for pair in tokenizer.merges[:12]))
for text in ("a figure with red glasses", "a helicopter head", "Ünïcode, naïve"):
    print(f"{text!r}: ", *tokenizer.split(text))
lengths = torch.tensor([len(tokenizer.split(caption)) for caption in captions[:2_000]])
print(f"a caption has {lengths.float().mean():.1f} tokens, at most {lengths.max()}")

# %% [markdown]
# Rows of token ids have a fixed length, 77 in CLIP: start, the text, end, then **padding**. Three traps. The padding is the end token in Stable Diffusion 1.x and another id, 0, in 2.x; there is *no mask*, so the padding is read like any token, and the wrong id changes every picture. And a longer text is cut. Ours says so:

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    row = tokenizer("a figure with " + "very " * 50 + "red glasses")
print(tuple(row.shape), "|", said[0].message)

# %% [markdown]
# **The text encoder** is one half of CLIP (Radford et al. 2021), a pair of networks that were trained to give a picture and its caption similar vectors, and different pairs different ones. (2.x reads the text half of OpenCLIP, another training of the same kind.) Stable Diffusion uses its text half, frozen, and reads *all* its token vectors, not the one that CLIP compares. It is the transformer of lesson 5 with three oddities. It is **causal**, each token attends to itself and those before it:
#
# $$\mathrm{softmax}\Big(\tfrac1{\sqrt d}\,QK^\top + M\Big)V, \qquad M_{ij} = \begin{cases} 0 & j\le i\\ -\infty & j>i\end{cases} \tag{7.2}$$
#
# so the vector of the first word does not know the last. Its activation in 1.x is **quick-GELU**, which approximates $\mathrm{GELU}(x) = x\,\Phi(x)$ with the normal distribution function $\Phi$ by a logistic one; 2.x has the exact function:
#
# $$\text{quick-GELU}(x) = \frac{x}{1+e^{-1.702\,x}} \tag{7.3}$$
#
# And 2.x reads the *last but one* layer of its encoder. The published file of 2.x has 23 of 24 layers, so the one that is wanted is its last; who skips another one skips one too many.

# %%
x = torch.linspace(-5, 5, 1001)
off = (x * torch.sigmoid(1.702 * x) - F.gelu(x)).abs().max()
text = ClipTextEncoder(1_000, length=48, dim=64, depth=2, num_heads=4, hidden=256)
rows = tokenizer(["a red hat", "a red dog"])
with torch.no_grad():
    a, b = text(rows)                                                   # (48, 64) each
same = (a - b).abs().amax(1) < 1e-6
print(f"quick-GELU differs from GELU by at most {off:.3f}")
print("tokens whose vectors are the same for both texts:", same.nonzero()[:, 0].tolist())

# %% [markdown]
# **What is printed.** Start, "a" and "red" have the same vectors in both texts; everything from the third word on differs, *the padding too*. A vector depends on its own token and those before it. Cross-attention reads all of them, the padding included.
#
# ## 7.3 The U-Net, line by line
#
# It is lesson 2's plan: encoder, middle, decoder, skip connections. What differs is in the blocks. **The time** enters as a step, $i = 0\dots T-1$ with $T = 1000$, and its embedding has cosines first:
#
# $$\mathrm{emb}(i) = \big(\cos i\,\omega_k,\; \sin i\,\omega_k\big)_{k<h}, \qquad \omega_k = 10000^{-k/h} \tag{7.4}$$
#
# with $h$ half its size. Lesson 2's has sines first and the exponent $k/(h-1)$. A network's weights fit only the embedding they were trained with; section 7.6 measures how badly the other one fits. In a block the embedding is **added** to the features of each channel, where lesson 2 had a scale and a shift (FiLM):
#
# $$h \leftarrow \mathrm{conv}_1\big(\mathrm{silu}(\mathrm{norm}(x))\big) + W\,\mathrm{silu}(e) \tag{7.5}$$
#
# **The spatial transformer** makes the pixels tokens, and has three residual steps: self-attention, cross-attention to the caption's vectors $c$, an MLP,
#
# $$h \leftarrow h + \mathrm{SA}(\mathrm{LN}\,h), \qquad h \leftarrow h + \mathrm{CA}(\mathrm{LN}\,h,\, c), \qquad h \leftarrow h + \mathrm{MLP}(\mathrm{LN}\,h) \tag{7.6}$$
#
# Its MLP has a gate (**GEGLU**, Shazeer 2020). One matrix makes twice the hidden numbers; the second half, through GELU, says how much of the first half passes:
#
# $$\mathrm{GEGLU}(x) = \big(xW_1 + b_1\big)\odot \mathrm{GELU}\big(xW_2 + b_2\big) \tag{7.7}$$

# %%
def step_embedding(i, dim):                                             # (7.4)
    half = dim // 2
    omega = 10_000 ** (-torch.arange(half) / half)
    return torch.cat([(i[:, None] * omega).cos(), (i[:, None] * omega).sin()], 1)

def geglu(x, mlp):                                                      # (7.7)
    W, b = mlp.proj.weight, mlp.proj.bias
    half = len(b) // 2
    h = x @ W[:half].T + b[:half]
    return mlp.out(h * F.gelu(x @ W[half:].T + b[half:]))

i, mlp, x = torch.tensor([0.0, 10.0, 999.0]), GEGLU(32), torch.randn(2, 5, 32)
torch.testing.assert_close(StepEmbedding(64)(i), step_embedding(i, 64),
                           rtol=1e-4, atol=1e-4)
torch.testing.assert_close(mlp(x), geglu(x, mlp))
print("the library's are the same")

# %% [markdown]
# The whole network is a class with the sizes as arguments. The published sizes are its defaults. Mini-SD has others: smaller ones, eight latent channels in place of four, rows of 48 tokens in place of 77; and it predicts $v$.

# %%
with torch.device("meta"):                                              # sizes, no numbers
    full = StableDiffusionUNet()
    clip = ClipTextEncoder()
count = lambda net: sum(p.numel() for p in net.parameters())
print(f"Stable Diffusion 1.5: {count(full):,} parameters in the U-Net, "
      f"{count(clip):,} in the text encoder")
rows = []
for k, level in enumerate(full.down):
    heads = full.config["num_heads"][k] if level.transformers else None
    rows.append({"level": k, "channels": full.config["widths"][k],
                 "latent of 64 x 64": f"{64 >> k} x {64 >> k}",
                 "heads": heads, "head size": heads and full.config["widths"][k] // heads,
                 "parameters": f"{count(level):,}"})
tables.table(rows, caption="The encoder of the U-Net")

# %% [markdown]
# **What the table shows.** The encoder has attention at three of four resolutions (the middle has it at the fourth), always with eight heads; so the heads have 40, 80 and 160 numbers. The configuration file calls the eight `attention_head_dim`. It is the *number* of heads: who takes the name at its word gets a network that loads without a complaint and draws noise. One more oddity that no shape betrays: the norm before a transformer has $\varepsilon = 10^{-6}$, all others $10^{-5}$. 2.x projects into the transformer by a linear layer, 1.x by a 1x1 convolution; both compute the same.
#
# ## 7.4 Names and files
#
# The published weights are a folder with one file for each network and a small configuration beside it. **A tensor is found by its name**, and the names are those of the code that wrote them. So we need a map, ours to theirs. Some twenty substitutions do for the U-Net:

# %%
for ours in ("stem.weight", "down.0.blocks.1.emb.bias",
             "up.2.transformers.0.cross_attention.k.weight"):
    print(f"{ours:46s} {layout.unet_name(ours)}")
names = layout.names_of(full)
published = {name for parts in names.values() for name in parts}
print(f"{len(names)} tensors of the U-Net, {len(published)} published names")

# %% [markdown]
# `load_published(folder)` reads the configurations, builds the three networks without numbers, maps the files into memory and puts each tensor in its place. What is missing, left over or misshapen is named. And it *refuses*: a pickle, because opening one can run any code; a single file of the original code, an adapter, one part handed in as the whole, a folder whose large files were not fetched; each with one sentence that says what it is and what would be needed.
#
# ## 7.5 Conventions of sampling
#
# The schedule is `Schedule.scaled_linear()`: $\sqrt\beta$ in a straight line, $T = 1000$ steps, our $t = (i+1)/T$. Not all of the picture is gone at its end, $\alpha_1 = 0.068$. The network predicts $\epsilon$ in 1.x and in 2.x at 512 pixels, and $v$ in 2.x at 768 pixels: the file `scheduler_config.json` says which. Both are the same knowledge. From $x = \alpha x_0 + \sigma\epsilon$ and $v = \alpha\epsilon - \sigma x_0$ with $\alpha^2+\sigma^2 = 1$,
#
# $$\hat\epsilon = \alpha\,\hat v + \sigma\,x, \qquad \hat x_0 = \alpha\,x - \sigma\,\hat v \tag{7.8}$$
#
# **Which steps?** For $n$ steps our grid takes the last step of each of $n$ equal parts of the training steps (`trailing`), the published pipeline the first step of each, plus one (`leading` with offset 1):
#
# $$i_k = \Big\lfloor\frac{(n-k)\,T}{n}\Big\rceil - 1 \quad\text{(trailing)}, \qquad i_k = (n-1-k)\Big\lfloor\frac Tn\Big\rfloor + 1 \quad\text{(leading)},\qquad k = 0\dots n-1 \tag{7.9}$$
#
# So with 50 steps leading starts at step 981 of 999, though it starts from pure noise, and its last step is made from 1, not from 19. The offset of one is in the original code and in the published pipelines.

# %%
T, n = 1000, 50
trailing = [round((n - k) * T / n) - 1 for k in range(n)]
leading = [(n - 1 - k) * (T // n) + 1 for k in range(n)]
sd = Schedule.scaled_linear()
ours = timesteps(sd, n)[:-1]
assert [round(t * T) - 1 for t in ours.tolist()] == trailing
at = lambda i: torch.tensor((i + 1) / T, dtype=torch.float64)
rows = {name: {"first step": grid[0], "its log SNR": sd.log_snr(at(grid[0])),
               "last step": grid[-1], "its sigma": sd.sigma(at(grid[-1]))}
        for name, grid in {"trailing": trailing, "leading": leading}.items()}
tables.table(rows, {"its log SNR": ".2f", "its sigma": ".3f"}, index="grid",
             caption="50 of 1,000 steps")

# %% [markdown]
# The same noise on both grids, with mini-SD, whose schedule is the same:

# %%
g = seeded(4)
noise = mini.schedule.sample_prior((4, *mini.data_shape), generator=g).to(device)
tokens = mini.net.tokenizer(captions[:4]).to(device)
pictures = {}
for grid, spacing in {"trailing": "time", "leading": faults.leading}.items():
    ts = timesteps(mini.schedule, 10, spacing)
    pictures[f"{grid}, 10 steps"] = vae.to_images(
        last(ddim(guided, mini.schedule, noise, ts, tokens=tokens))).cpu()
plots.show(pictures, columns=4, title="DDIM on both grids")

# %% [markdown]
# **What the pictures show.** The same figures, with other details. Every step of the leading grid is 98 lower, so it starts from noise that is too pure for its level. Who compares a reimplementation with the published pipeline must use its grid, and its end: the last step goes to the level of step 0 there, and to no noise here (`set_alpha_to_one`).
#
# ## 7.6 The fault board
#
# **How do you know that a reimplementation is right?** A picture that looks fine proves little, as the board below shows. So compare numbers with the reference, in float64, where rounding is $10^{-16}$, relative to how much the output varies:
#
# $$\mathrm{off}(f, g) = \frac{\max|f(x) - g(x)|}{\mathrm{std}\,g(x)} \tag{7.10}$$
#
# And compare at *random* weights, norms and biases included. A fresh group norm has scale 1 and shift 0, so swapped affines cannot show. And behind a layer that begins at zero, as the last one of each transformer may, nothing can.
#
# Eighteen faults, each planted in a copy of mini-SD (trained, so that one can look at pictures), in float64. *Prediction*: (7.10) of $\hat x_0$ at $t=0.6$. *Latent*: of a picture's latent. *Picture*: of the decoded picture after 10 steps; for the encoder's fault, of a picture that is encoded and decoded. A zero says that the fault lies elsewhere. The first row has no fault: the hidden numbers of its MLPs stand in another order, so only the rounding differs.

# %%
doubles = copy.deepcopy(mini).cpu().double(), copy.deepcopy(vae).cpu().double()
found = faults.board(*doubles, captions[:2], steps=10)
rows = {name: {"prediction": f.prediction, "latent": f.latent, "picture": f.picture}
        for name, f in found.items()}
tables.table(rows, ".1e", index="fault", caption="The fault board")

# %%
first = torch.cat([f.x[:1] for f in found.values()]).float()
plots.captioned(first, list(found), columns=6,
                title="One caption, one noise, one fault each")

# %% [markdown]
# **What the board shows.** The right model is at rounding, $10^{-14}$. The smallest fault, an $\varepsilon$ in a norm, is at $10^{-6}$: eight digits above, and invisible. Of the eighteen pictures about half would pass for right: an $\varepsilon$, another GELU, sines before cosines, a frequency shift, a step too high, a block taken twice, latents not scaled back, another grid. One picture does not show what they do. Others fail at sight: colours, noise, a caption that is ignored. Which block is wrong the number of the whole network does not say; the course's tests compare block by block, from the time embedding on.

# %% [markdown]
# ## 7.7 Adapters: LoRA
#
# **How do you teach a large model one more thing, on a laptop?** Freeze it, and learn a small change of its weights. **LoRA** (low-rank adaptation, Hu et al. 2022) gives each chosen weight matrix $W$ of size $m\times n$ two thin factors, $B$ of size $m\times r$ and $A$ of size $r\times n$:
#
# $$W' = W + \lambda\,\frac{\alpha}{r}\,BA \tag{7.11}$$
#
# $\lambda$ is the **dial**: 0 is the model as it was, 1 as it was trained. A change of rank $r$ has $r(m+n)$ numbers in place of $mn$. The constant $\alpha$ is chosen with the learning rate; $\alpha/r$ is meant to keep one rate useful for several ranks. Ours is $\alpha/r = 1$. **How does training start?** With $G$ the gradient of the loss by $W'$ and $\lambda = 1$, the chain rule gives
#
# $$\frac{\partial\mathcal L}{\partial B} = \frac\alpha r\,G A^\top, \qquad \frac{\partial\mathcal L}{\partial A} = \frac\alpha r\,B^\top G \tag{7.12}$$
#
# With $B = 0$ the adapted model begins as the base. $A$ is random: if both were zero, both gradients would be zero, and would stay so. At the first step only $B$ moves, from the second on both do.

# %%
W, G = torch.randn(6, 5, generator=seeded(0)), torch.randn(6, 5, generator=seeded(1))
for name, A in {"A random": torch.randn(2, 5, generator=seeded(2)),
                "A zero": torch.zeros(2, 5)}.items():
    A, B = A.requires_grad_(), torch.zeros(6, 2, requires_grad=True)
    sizes = []
    for _ in range(2):                                                  # two steps
        loss = ((W + B @ A) * G).sum()                              # gradient by W': G
        of_A, of_B = torch.autograd.grad(loss, (A, B))
        sizes.append(f"|dA| {of_A.norm():.2f}, |dB| {of_B.norm():.2f}")
        A, B = (p.detach().sub(0.1 * d).requires_grad_() for p, d in ((A, of_A), (B, of_B)))
    print(f"{name}: first step {sizes[0]}; second step {sizes[1]}")

# %% [markdown]
# **A new head.** The shark's head is one of the ten that are in no picture and no caption of mini-SD's training. Here is a dozen figures that have it. Every attention of the U-Net gets factors of rank 8 for its keys and values.

# %%
HEAD = noun_parts.PARTS.index("head")
SHARK = noun_parts.index_of("head", "shark")
dozen = noun_parts.draw_parts(12, seed=3)
dozen[:, HEAD] = SHARK
dozen_captions = noun_parts.plain_captions(dozen)
plots.show({"the dozen": noun_parts.render(dozen)}, columns=12, title=dozen_captions[0])

def digest(unet):
    """Of all weights, as they are without adapters."""
    state = lora.base_state(unet)
    numbers = b"".join(state[name].cpu().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(numbers).hexdigest()[:16]

adapted = copy.deepcopy(mini)
factors = lora.add_lora(adapted.net.unet, rank=8, layers=("k", "v"))
print(f"{sum(p.numel() for p in factors):,} numbers in the adapter, "
      f"{count(mini.net.unet):,} in the U-Net")

# %% [markdown]
# The loss is the base's, with times spread evenly and no caption dropped. Nothing but the factors is trained, for 45 seconds, or 300 steps on a fast machine; the learning rate falls to 0 until then.

# %%
def fine_tune(D, factors, z, context, lr=3e-3, seconds=45, limit=300):
    """Latents z (n, 8, 8, 8), context (n, L, dim) of their captions; returns the steps."""
    optimizer, g = torch.optim.AdamW(factors, lr), seeded(0)
    start, steps = time.perf_counter(), 0
    while (done := max((time.perf_counter() - start) / seconds, steps / limit)) < 1:
        optimizer.param_groups[0]["lr"] = lr * (1 - done)
        k = torch.randint(len(z), (24,), generator=g)
        t, eps = D.draw_noise(z[k], g)
        loss = D.loss(z[k], t.to(device), eps.to(device), context=context[k]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return steps

with torch.no_grad():                                       # neither encoder changes
    z = vae.to_latents(noun_parts.render(dozen).to(device))             # (12, 8, 8, 8)
    context = mini.net.encode(mini.net.tokenizer(dozen_captions), 12)["context"]
before = digest(adapted.net.unet)
print(f"{fine_tune(adapted, factors, z, context)} steps; the base's digest is {before} "
      f"before and {digest(adapted.net.unet)} after")

# %% [markdown]
# **The dial.** Ten new captions with a shark's head, one noise for each, the dial from 0 to 1.5:

# %%
parts = noun_parts.draw_parts(200, seed=5, split="test")                # new combinations
parts[:, HEAD] = SHARK
prompts = noun_parts.plain_captions(parts)
shown = {}
for dial in (0.0, 0.25, 0.5, 1.0, 1.5):
    lora.set_dial(adapted.net.unet, dial)
    shown[f"dial {dial}"] = sampling.text_to_image(adapted, prompts[:10], vae=vae)
shown["as asked for"] = noun_parts.render(parts[:10])
plots.show(shown, columns=10, title="Ten captions with a shark's head")

# %% [markdown]
# **What the figure shows.** At 0 the base draws one red head for all of these captions: it has never read the word. At 0.5 the shape begins to turn, at 1 it is the shark. At 1.5 the colours are too strong, and stains appear.
#
# Now 200 captions, before and after, with the same noise. *Change* is the paired difference with its standard error.

# %%
right = {}
for dial in (0.0, 1.0):
    lora.set_dial(adapted.net.unet, dial)
    x = sampling.text_to_image(adapted, prompts, vae=vae)
    right[dial] = attributes.attributes_correct(x, parts).double()      # (200, 5)
change = right[1.0] - right[0.0]
error = change.std(0) / len(change) ** 0.5
rows = {part: {"before": right[0.0][:, k].mean(), "after": right[1.0][:, k].mean(),
               "change": change[:, k].mean(), "s.e.": error[k]}
        for k, part in enumerate(noun_parts.PARTS)}
form = {"before": ".1%", "after": ".1%", "change": "+.1%", "s.e.": ".1%"}
tables.table(rows, form, index="part",
             caption="Attribute accuracy, 200 captions with a shark's head")

# %% [markdown]
# **Did it learn the head, or the dozen?** A copy has the dozen's bodies and glasses, too; the table says that the other parts are right. A second look: the distance of each picture to the nearest of the dozen, in units of what held-out figures have (section 6.20: 1 is as far, 0 is a copy). The second row asks for the dozen's own captions: what pictures of the dozen's own parts measure.

# %%
far = lambda x: torch.cdist(x.flatten(1), noun_parts.render(dozen).flatten(1))
held_out = far(noun_parts.render(parts))                                # (200, 12)
again = sampling.text_to_image(adapted, dozen_captions, vae=vae, seed=1)
rows = {}
for name, pictures in {"new captions": x, "the dozen's captions": again}.items():
    found = nearest_ratio(far(pictures), held_out)
    rows[name] = {"n": len(pictures), "ratio": found.median,
                  "95 % interval": f"{found.low:.2f} to {found.high:.2f}"}
tables.table(rows, {"ratio": ".2f"}, index="pictures of",
             caption="Distance to the nearest of the dozen, held-out figures = 1")

# %% [markdown]
# **What both tables show.** The head is right in all 200 pictures. The other parts are as they were, and the background better: before, the unknown word spoiled it in half of the pictures. New pictures are as far from the dozen as held-out figures are; the dozen's own captions give 0.39. But one head proves little. The recipe teaches five of the ten (the other five are left to you), and beside LoRA trains *all* weights of the U-Net (**full fine-tuning**) for about the same time (`python tools/recipes/mini_sd_lora.py`). The dials 0.5 and 1.5 were measured for two heads, the lower rate for one. *Other heads*: figures that the base could draw before.

# %%
with open(storage.ASSETS / "mini_sd_lora.csv") as file:
    table = list(csv.DictReader(file))

def accuracy(part, prompts, method, rate, pictures, dial):
    """Of one part, for each head (H,)."""
    wanted = {"prompts": prompts, "method": method, "lr": rate, "pictures": pictures,
              "dial": dial}
    same = [row for row in table if all(row[k] == str(v) for k, v in wanted.items())]
    return torch.tensor([float(row[part]) for row in same])

rest = [part for part in noun_parts.PARTS if part != "head"]
rows = {}
for kind in (("base", 0.0, 0, 0.0),
             *(("LoRA", 0.003, 12, dial) for dial in (0.5, 1.0, 1.5)),
             ("LoRA", 0.001, 12, 1.0), ("all weights", 0.0002, 12, 1.0)):
    heads = accuracy("head", "new", *kind)
    others = [accuracy(part, "others", *kind).mean() for part in rest]
    their_head = accuracy("head", "others", *kind).mean()
    asked = bool(their_head.isfinite())
    rows["{}, rate {:g}, {} pictures, dial {:g}".format(*kind)] = {
        "heads": len(heads), "new head": heads.mean(), "lowest": heads.min(),
        "its other parts": sum(accuracy(part, "new", *kind).mean() for part in rest) / 4,
        "other heads": their_head if asked else None,
        "their other parts": sum(others) / 4 if asked else None}
form = dict.fromkeys([*rows["base, rate 0, 0 pictures, dial 0"]][1:], ".1%")
tables.table(rows, form, index="", caption="Accuracy, 200 prompts for each head")

# %% [markdown]
# **What the table shows.** All five heads are learned: right in each of 200 prompts, and the other parts of these prompts are no worse than before. With half the dial 57 % of the heads come out, with one and a half other parts go wrong. *Other* figures pay a price: their heads are right in 96 % after LoRA, 100 % before. Training all weights costs them less, 98 %: in this comparison LoRA is not the gentler way. Probably the reason is that no other figure was trained on; section 7.11 mixes some in. What LoRA saves is size. A third of its rate was tried for the shark: fewer of the others' heads are lost, and more of their glasses; the rows are in the file.
#
# **A file.** The adapter is saved as other programs load it: half precision, the published names of the layers, `lora_A` for $A$ and `lora_B` for $B$. **Merging** adds the change to the weights; then the adapted model costs what the base costs.

# %%
file = Path(tempfile.mkdtemp()) / "pytorch_lora_weights.safetensors"
lora.set_dial(adapted.net.unet, 1.0)
lora.save_lora(adapted.net.unet, file)
loaded = copy.deepcopy(mini)
lora.load_lora(loaded.net.unet, file)
print(f"{file.stat().st_size:,} bytes, for example {[*load_file(file)][0]}")
four = sampling.text_to_image(loaded, prompts[:4], vae=vae)
lora.merge(loaded.net.unet)
merged = sampling.text_to_image(loaded, prompts[:4], vae=vae)
print(f"merged, the pictures differ by at most {(merged - four).abs().max():.0e}; "
      f"adapters left: {lora.adapters(loaded.net.unet)}")

# %% [markdown]
# diffusers builds the same U-Net, loads our weights and this file, and takes the place of ours in the sampler:

# %%
def published_unet(unet, adapter):
    """The U-Net of mini-SD in diffusers, with the adapter of a file."""
    theirs = UNet2DConditionModel(
        in_channels=8, out_channels=8, block_out_channels=(64, 96), layers_per_block=1,
        cross_attention_dim=128, attention_head_dim=4,                  # 4 heads
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    theirs.load_state_dict(layout.to_published(unet))
    theirs.load_lora_adapter(load_file(adapter), prefix="unet")
    return theirs.to(device).eval()

class AsOurs(nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, x, step, context, control=None):
        return self.unet(x, step, context).sample

# %%
try:
    import peft  # noqa: F401
    from diffusers import UNet2DConditionModel
except ImportError:
    print("This comparison needs diffusers and peft: pip install diffusers peft")
else:
    theirs = copy.deepcopy(mini)
    theirs.net.unet = AsOurs(published_unet(mini.net.unet, file))
    off = sampling.text_to_image(theirs, prompts[:4], vae=vae) - four
    print(f"the four pictures of diffusers differ by at most {off.abs().max():.0e}")

# %% [markdown]
# **Two at once.** A second adapter, shipped, was trained for a *style*: faded colours, as on an old photograph (`python tools/recipes/train_mini_sd_style.py`). The sum (7.11) may have any number of terms, so both can be turned on together, though neither was trained beside the other.

# %%
LIGHT = torch.tensor([0.15, 0.1, 0.0])[:, None, None]                   # lighter and warmer

def faded(x):                                                           # less colour, too
    return 0.8 * (0.4 * x + 0.6 * x.mean(1, keepdim=True)) + LIGHT

def unfaded(x):
    x = (x - LIGHT) / 0.8
    return ((x - 0.6 * x.mean(1, keepdim=True)) / 0.4).clamp(-1, 1)

lora.load_lora(adapted.net.unet, storage.CHECKPOINTS / "mini_sd_faded.safetensors", "faded")
figures, shown, rows = noun_parts.render(parts[:40]), {}, {}
far = lambda x, y: (x - y)[..., 21:, 9:23].square().flatten(1).sum(1)     # the body
for head, style in ((0, 0), (1, 0), (0, 1), (1, 1)):
    lora.set_dial(adapted.net.unet, head)
    lora.set_dial(adapted.net.unet, style, "faded")
    x = sampling.text_to_image(adapted, prompts[:40], vae=vae)
    shown[name := f"shark {head}, faded {style}"] = x[:10]
    back = unfaded(x) if style else x
    right = attributes.attributes_correct(back, parts[:40])[:, HEAD].double()
    is_faded = far(x, faded(figures)) < far(x, figures)
    rows[name] = {"shark's head": right.mean(), "faded": is_faded.double().mean()}
plots.show(shown, columns=10, title="Two adapters")
tables.table(rows, ".0%", index="dials", caption="Of 40 pictures")

# %% [markdown]
# **What figure and table show.** Each adapter does its own part, and together both, if the style in 85 % of the bodies. *Faded* counts the pictures whose body is nearer to the faded body than to the body itself. A head is a file of 48 kB for anyone who has the base: many public variants of Stable Diffusion are passed on so. So is what somebody made of a real person's dozen photographs.

# %% [markdown]
# ## 7.8 ControlNet
#
# A text says what is in a picture, hardly where. **How does a picture become a condition, without training the model again?** **ControlNet** (Zhang et al. 2023) freezes the U-Net and gives it a second encoder, which reads the **hint**: an outline, a pose, a depth map. Its features $u_k$ are added to the U-Net's skip connections $s_k$ through a **zero convolution**, a 1x1 convolution whose weight and bias begin at zero:
#
# $$s_k \leftarrow s_k + Z_k\,u_k, \qquad Z_k = 0 \text{ at first} \tag{7.13}$$
#
# So training begins at the model as it is, and no noise of fresh layers disturbs it. **Then why does anything learn?** Let $g = \partial\mathcal L/\partial s_k$ be the gradient that arrives. Then
#
# $$\frac{\partial\mathcal L}{\partial Z_k} = g\,u_k^\top \ne 0, \qquad \frac{\partial\mathcal L}{\partial u_k} = Z_k^\top g = 0 \tag{7.14}$$
#
# The zero layer has a gradient as soon as its *input* is not zero. Two steps of a toy, an encoder $u = Wh$ and a zero layer:

# %%
h, wanted = torch.randn(64, 3, generator=seeded(0)), torch.randn(64, 2, generator=seeded(1))
for name, W in {"W random": torch.randn(4, 3, generator=seeded(2)),
                "W zero, too": torch.zeros(4, 3)}.items():
    W, Z = W.requires_grad_(), torch.zeros(2, 4, requires_grad=True)
    print(name, end=":  ")
    for step in (1, 2):
        loss = (h @ W.T @ Z.T - wanted).square().mean()
        of_W, of_Z = torch.autograd.grad(loss, (W, Z))
        print(f"step {step}: |dZ| {of_Z.norm():.3f}, |dW| {of_W.norm():.3f}", end="   ")
        W, Z = (p.detach().sub(0.5 * d).requires_grad_() for p, d in ((W, of_W), (Z, of_Z)))
    print()

# %% [markdown]
# **What is printed.** The zero layer moves first, the encoder behind it from the second step on. If both began at zero, neither would ever move.
#
# **Mini-SD follows an outline.** Ours is smaller than the paper's copy of the encoder: it reads the hint alone, so it runs once a picture (as in T2I-Adapter, Mou et al. 2023). The captions omit what the outline shows: they name background and glasses, and not head, body and accessory.

# %%
mini.net.control = load_control("mini_sd_control", mini)
card = mini.net.control.about["metrics"]
size = lambda net: f"{sum(p.numel() for p in net.parameters()):,}"
print(size(mini.net.control), "parameters beside", size(mini.net.unet), "of the U-Net;",
      mini.net.control.about["command"])
held = torch.tensor([noun_parts.index_of("head", name)
                     for name in mini.about["metrics"]["withheld"]])
parts = noun_parts.draw_parts(60, seed=12, split="test")
parts = parts[~torch.isin(parts[:, 3], held)][:40]                  # heads that it knows
real = noun_parts.render(parts)
hint = outline(real)                                                    # (40, 1, 32, 32)
short = [f"a noun with {name['glasses']} glasses, {name['background']} background"
         for name in noun_parts.part_names(parts)]
tokens = {"tokens": mini.net.tokenizer(short)}
draw = lambda condition: sampling.sample_batches(
    mini, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae)
drawn = {"no hint": draw(tokens), "hint": draw(tokens | {"hint": hint})}
rows = {"the real figure": real, "its outline": 2 * hint - 1} | drawn
plots.show({name: x[:10] for name, x in rows.items()}, columns=10, title=short[0] + ", ...")

# %% [markdown]
# **How well?** The **F1** of two outlines is the harmonic mean of precision and recall, where a point within one pixel counts as found. Two numbers frame it. The baseline: samples without the hint, whose outlines agree as far as all figures are alike. The ceiling: the real figures through the autoencoder, which every sample has to pass.

# %%
with torch.no_grad():
    drawn["reconstruction"] = vae(real.to(device)).cpu().clamp(-1, 1)
rows, n, strange = {}, card["n"], card["withheld"]
for name, x in drawn.items():
    f1 = outline_f1(outline(x), hint)
    rows[name] = {
        "F1 of 40, here": f1.mean(), "±": f1.std() / 40**0.5,
        f"F1 of {n}, shipped": card["f1"][name][0], "± ": card["f1"][name][1],
        "head right": f"{card['right'][name]['head']:.0%}",
        "F1, withheld heads": strange["f1"][name][0], " ±": strange["f1"][name][1],
        "withheld head right": f"{strange['right'][name]['head']:.0%}",
    }
tables.table(rows, ".3f", caption=f"F1 of outlines, standard errors; {card['judged_by']}")
for name, (way, error) in {"known heads": card["way"], "withheld": strange["way"]}.items():
    print(f"{name}: {way:.0%} ± {error:.0%} of the way from no hint to the reconstruction")

# %% [markdown]
# **What figure and table show.** The outlines of the samples follow the hint. Of 500, F1 rises from 0.893 to 0.979, and reconstructions have 0.997: that is 83 ± 1 % of the way. The head, which no caption named, is right in 96 %, without the hint in 0.2 %: most heads are known by their outline. Heads that mini-SD never saw: 65 ± 1 % of the way, and 0.2 % are right. ControlNet says *where*. What the frozen model has never drawn, it does not draw now.

# %% [markdown]
# ## 7.9 Preference
#
# **How do you train for what people like?** Show two pictures of one prompt, and keep which is preferred: the **winner** $w$, the **loser** $l$. The Bradley-Terry model gives a picture a **reward** $r$, and
#
# $$P(w\succ l) = \mathrm{sigmoid}(r_w - r_l) \tag{7.15}$$
#
# The model should have a high mean reward and stay near the **reference** $p_{\text{ref}}$ that it began as: maximise $\mathbb E_p[r] - \beta\,\mathrm{KL}(p\,\|\,p_{\text{ref}})$. Write both terms as one expectation, $-\beta\,\mathbb E_p\big[\log\frac{p}{p_{\text{ref}}\,e^{r/\beta}}\big]$. Up to a constant it is minus $\beta$ times a KL divergence, which is smallest where both are equal:
#
# $$p^*(x) \propto p_{\text{ref}}(x)\,e^{r(x)/\beta} \qquad\Longleftrightarrow\qquad r(x) = \beta\log\frac{p^*(x)}{p_{\text{ref}}(x)} + \text{const} \tag{7.16}$$
#
# So *the model is its own reward*. Put it into (7.15), where the constant cancels. Maximum likelihood of the preferences then needs neither a reward model nor sampling. This is **direct preference optimisation**, DPO (Rafailov et al. 2023):
#
# $$\mathcal L_{\text{DPO}} = -\log\mathrm{sigmoid}\Big(\beta\Big[\log\frac{p(w)}{p_{\text{ref}}(w)} - \log\frac{p(l)}{p_{\text{ref}}(l)}\Big]\Big) \tag{7.17}$$
#
# Five pictures with known rewards, and five times a million pairs:

# %%
r = torch.tensor([0, 0.5, 1, 1.5, 2], dtype=torch.float64)
p_ref = torch.tensor([0.35, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64)
beta = 0.5
exact = p_ref * (r / beta).exp()                                        # (7.16)
exact = exact / exact.sum()

def preferences(seed, n=1_000_000):
    """How often picture i beat picture j, of n pairs drawn from p_ref: (5, 5)"""
    a, b = p_ref.multinomial(2 * n, True, generator=seeded(seed)).view(2, n)
    a_wins = torch.rand(n, generator=seeded(10 + seed)) < (r[a] - r[b]).sigmoid()  # (7.15)
    w, l = torch.where(a_wins, a, b), torch.where(a_wins, b, a)
    return (5 * w + l).bincount(minlength=25).view(5, 5)

# %%
def dpo(wins):
    """Train the five probabilities by (7.17)."""
    logits = p_ref.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        ratio = logits.log_softmax(0) - p_ref.log()
        losses = -F.logsigmoid(beta * (ratio[:, None] - ratio))         # (w, l)
        loss = (wins * losses).sum() / wins.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.softmax(0).detach()

wins = [preferences(seed) for seed in range(5)]
trained = torch.stack([dpo(w) for w in wins])
winners = torch.stack([w.sum(1) / w.sum() for w in wins])
spread = lambda p: [f"{m:.3f} ± {s:.3f}" for m, s in zip(p.mean(0), p.std(0))]
rows = {"reference": [f"{p:.3f}" for p in p_ref],
        "optimum (7.16)": [f"{p:.3f}" for p in exact],
        "trained by (7.17)": spread(trained), "the winners": spread(winners)}
of_pictures = [f"r = {reward:g}" for reward in r]
tables.table({name: dict(zip(of_pictures, row)) for name, row in rows.items()}, index="",
             caption="Five pictures, beta = 0.5: mean and deviation of five draws")

# %% [markdown]
# The mean of five DPO trainings is within 0.001 of the optimum, single ones within about 0.005, and none was told a reward. Ordinary training on the winners would give the last row, whatever $\beta$ is.
#
# **Without $\log p$.** By lesson 1, $\log p \ge -\mathbb E_{t,\epsilon}[\ell] + \text{const}$, with weighted denoising losses $\ell$. Put the bound in place of all four $\log p$. That is an approximation: a difference of bounds bounds nothing, and their gaps are dropped. Now a mean stands inside $-\log\mathrm{sigmoid}$, which is convex. By Jensen's inequality, taking the mean outside gives an upper bound; one time and one noise, the same for all four, estimate it:
#
# $$\mathcal L = -\log\mathrm{sigmoid}\Big(-\beta\big[(\ell_w - \ell_w^{\text{ref}}) - (\ell_l - \ell_l^{\text{ref}})\big]\Big) \tag{7.18}$$
#
# The weights are dropped, too, as in the simple loss. (Wallace et al. 2024, eq. 14; there each picture has its own noise.)
#
# **A flawed judge** prefers red: the mean of the red channel less that of the others. Prompts name background and glasses. *Distance* is the root mean square difference from the base's predictions. **Best of $n$** trains nothing: the base draws $n$ pictures, the judge picks one. Beside it: $\beta$ ten times as large. Controls: winners chosen by a coin, ordinary training on the winners. (Best of $n$ stands at distance 0, since its model is the base.) (`python tools/recipes/mini_sd_preference.py`)

# %%
with open(storage.ASSETS / "preference.csv") as file:
    rows = list(csv.DictReader(file))
paths = {}
for row in rows[1:]:
    start = [] if row["way"] == "best of n" else rows[:1]               # the base
    paths.setdefault((row["way"], row["seed"]), start[:]).append(row)

@plots.styled
def against_distance(measures):
    figure = plots.new_figure(10, 3.2)
    for axes, measure in zip(figure.subplots(1, len(measures)), measures):
        for (way, seed), path in paths.items():
            x, y, error = (np.array([float(row[name]) for row in path])
                           for name in ("distance", measure, f"{measure}_se"))
            label = f"{way}, seed {seed}" if way == "DPO" else way
            axes.errorbar(x, y, error, marker=".", label=label, capsize=2,
                          linestyle="none" if way == "best of n" else "-")
        axes.set(title=measure, xlabel="distance from the base")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    plots.display(figure, alt="judge, accuracy and variety against the distance")

against_distance(["judge", "background", "glasses", "variety"])

# %%
value = lambda row, name: f"{float(row[name]):.3f} ± {float(row[f'{name}_se']):.3f}"
shown = [row for row in rows if row["way"] in ("base", "DPO", "winners alone")
         or row["amount"] in ("2", "16", "400")]
measures = ("judge", "background", "glasses", "variety", "distance")
tables.table([{"way": row["way"], "n or steps": row["amount"], "seed": row["seed"]}
              | {name: value(row, name) for name in measures} for row in shown],
             caption="500 pictures of 125 held-out prompts, standard errors over prompts")

# %%
with np.load(storage.ASSETS / "preference.npz") as pictures:
    plots.show({name.removesuffix(", 0"): torch.from_numpy(pictures[name]) / 127.5 - 1
                for name in pictures}, columns=6, title="The same six prompts and noises")

# %% [markdown]
# **What the figures show.** With 400 steps the judge's score rises from 0.13 to 0.67 with both seeds. All backgrounds are warm then: 54 % of the prompts ask for that, and a warm one scores higher. Glasses are right in 69 and 67 % (base 98 %); coin tosses alone bring them to 92 %. Four pictures of one prompt differ by 0.29 and 0.34 (base 0.47). The judge does not check whether parts are right. This is **Goodhart's law**: a measure that becomes a target ceases to be a good measure.
#
# Best of 16 reaches 0.37, and 99.8 % of its backgrounds are right. DPO has that score after 50 steps, 0.39 and 0.36, with 96 and 97 %. So at the same score choosing costs no backgrounds, and this training does. A $\beta$ ten times as large leaves the model nearer after 400 steps. At equal scores it is farther away, 0.30 at distance 0.18 against 0.33 and 0.31 at 0.10 and 0.09, with about as many right backgrounds (one seed). Coin tosses move the model by 0.10 in 400 steps, and the score falls to 0.07: what reddens is the preference, not the training. Winners alone give 0.21 after 25 steps, as much as the best of two, and 0.16 after 400, with a variety of 0.40; why it falls again was not tested.

# %% [markdown]
# ## 7.10 Nine channels · deeper
#
# Lesson 5 inpainted with a model that had never seen a mask. Stable Diffusion's inpainting model was trained for it: its U-Net gets **nine channels**, the noisy latent (4), the mask at the latent's size (1), and the latent of the masked picture (4),
#
# $$\big[z_t;\; m;\; \mathrm{encode}(x\odot(1-m))\big] \tag{7.19}$$
#
# and everything else stays. It is channel concatenation (lesson 2), and needs a training of its own. It begins with the weights of the model without masks; the new channels' weights begin at zero, as in 7.8. Mini-SD's latent has 8 channels, so its inpainting U-Net has 8 + 1 + 8. It was trained on random rectangles; its file holds the U-Net alone, since the text encoder is mini-SD's.

# %%
mask = torch.zeros(1, 1, 32, 32)
mask[..., 21:, 9:23] = 1                                                # a body's place
parts = noun_parts.draw_parts(60, seed=13, split="test")
parts = parts[~torch.isin(parts[:, 3], held)][:40]
real, asked = noun_parts.render(parts), parts.clone()
asked[:, 1:3] = parts.flip(0)[:, 1:3]                   # another's body and accessory
wanted = noun_parts.render(asked)

def nine_channels(vae, x, m):                                       # (7.19), without z_t
    masked = vae.to_latents((x * (1 - m)).to(device))                   # (B, 8, 8, 8)
    small = F.max_pool2d(m, vae.factor).to(device)      # anew where any pixel is
    return torch.cat([small.expand(len(x), -1, -1, -1), masked], 1)

extra = nine_channels(vae, real, mask)
torch.testing.assert_close(extra, extra_channels(vae, real, mask))
inpainter = load_inpainting("mini_sd_inpaint", mini)
print(tuple(extra.shape), "beside z_t (40, 8, 8, 8): the first layer's weight is",
      tuple(inpainter.net.unet.stem.weight.shape))
print(inpainter.about["command"], f"({inpainter.about['steps']:,} steps)")

# %% [markdown]
# The decoder changes *every* pixel a little, known ones too. So the original is pasted back:
#
# $$x_{\text{out}} = m\odot\mathrm{decode}(z_0) + (1-m)\odot x \tag{7.20}$$
#
# **Is the training worth it?** Beside it stand lesson 5's two tricks, with mini-SD itself, in the latents: the prediction's known places replaced by the picture's latent, (5.25), and RePaint with four repetitions, (5.28). The caption asks for another body and accessory. All start from the same noise.

# %%
noise = mini.schedule.sample_prior((40, 8, 8, 8), generator=seeded(0)).to(device)
tokens = mini.net.tokenizer(noun_parts.plain_captions(asked)).to(device)
z, small, ts = vae.to_latents(real.to(device)), extra[:1, :1], timesteps(mini.schedule, 10)
of_base, of_nine = (cfg(D, 2.0, D.net.null) for D in (mini, inpainter))
states = {
    "nine channels": dpmpp(of_nine, mini.schedule, noise, ts, tokens=tokens, extra=extra),
    "prediction replaced": dpmpp(editing.inpaint(of_base, z, small), mini.schedule, noise,
                                 ts, tokens=tokens),
    "RePaint, 4": editing.repaint(of_base, mini.schedule, noise[:10], z[:10], small, ts,
                                  resample=4, generator=seeded(0), tokens=tokens[:10]),
}
decoded = {name: vae.to_images(last(path)).cpu().clamp(-1, 1)
           for name, path in states.items()}
pasted = {name: torch.where(mask.bool(), x, real[:len(x)]) for name, x in decoded.items()}
rows = {"known": real * (1 - mask)} | pasted | {"asked for": wanted}
plots.show({name: x[:10] for name, x in rows.items()}, columns=10, title="Another shirt")

# %% [markdown]
# **What is measured.** *Right*: the parts that were asked for. *Known pixels*: the mean absolute error of the pixels outside the mask before (7.20), in [-1, 1]. *Seam*: the mean absolute difference of two neighbours with the mask's border between them, less that of the real figure; it must not be bought by pasting. The second table has a harder task: the right half of the head is hidden, the caption is empty, and only the visible half says what head it is.

# %%
card, columns = inpainter.about["metrics"], ("known pixels", "seam", "seam before pasting")
for job, judged in {"another shirt": ("body", "accessory"),
                    "half a head": ("head", "glasses")}.items():
    rows = {}
    for name in (*states, "reconstruction"):
        row = card[job][name]
        right = {part: f"{row[part][0]:.1%} ± {row[part][1]:.1%}" for part in judged}
        other = {what: f"{row[what][0]:.3f} ± {row[what][1]:.3f}" for what in columns}
        rows[name] = {"evaluations": row["evaluations"]} | right | other
    tables.table(rows, index=job, caption=f"n = {card['n']}; {card['judged_by']}; the seam "
                 f"of real figures is {card[job]['seam of real pictures'][0]:.3f}")

live = {}
for name in ("nine channels", "prediction replaced"):
    right = attributes.attributes_correct(pasted[name], asked).double().mean(0)
    excess = seam(pasted[name], mask) - seam(wanted, mask)
    live[name] = {"body": f"{right[1]:.0%}", "accessory": f"{right[2]:.0%}",
                  "known pixels": known_error(decoded[name], real, mask).mean(),
                  "seam": excess.mean(), "±": excess.std() / 40**0.5}
tables.table(live, ".3f", index="another shirt", caption="n = 40, here")

# %% [markdown]
# **What figure and tables show.** *Another shirt*: with nine channels the body is right in 97.0 ± 0.8 %, the accessory in 98.4 ± 0.6 %. Replacing the prediction, at the same 20 evaluations, gives 93.8 ± 1.1 and 95.8 ± 0.9 %; RePaint, at 74, no more. *Half a head*: the head is right in all 500 pictures with nine channels, in 97.6 ± 0.7 % by replacing, in 99.2 ± 0.4 % by RePaint at 37 evaluations. The glasses follow with 93, 87 and 94 %.
#
# Before pasting, the known pixels are off by 0.02 to 0.04. A figure that only goes through the autoencoder is off by 0.014 and 0.017: that part no sampler can mend, so all of them need (7.20). After pasting, the seams of the shirts differ from real ones by 0.014 at most, on 0.70. Those of the heads are 0.014, 0.034 and 0.024 stronger, on 0.22; the autoencoder alone makes 0.008 of it. The trick needs no training. The network had to be trained once; then it reads the mask as it reads a caption.

# %% [markdown]
# ## 7.11 One word, one subject · deeper
#
# **How little can you change to teach a subject, and how much do you have to?** **Textual inversion** (Gal et al. 2023) adds one token to the tokenizer and one row $e$ to the text encoder's table of embeddings. Everything else is frozen, and the row is learned by the ordinary loss:
#
# $$e_* = \arg\min_e\;\mathbb E_{x_0, t, \epsilon}\big\|\epsilon - \hat\epsilon\big(x_t, t, c(e)\big)\big\|^2 \tag{7.21}$$
#
# $x_0$ is a picture of the subject, and $c(e)$ what the text encoder gives for a caption with the new word. (Mini-SD predicts $v$, so $v$ stands in place of $\epsilon$.) The gradient passes through the frozen U-Net and the frozen encoder, and moves one row:

# %%
D = copy.deepcopy(mini).requires_grad_(False)
caption = "a sks-headed noun with red glasses"
print("before:", *D.net.tokenizer.split(caption))
e = add_word(D.net, "sks", like="head")                                 # (128,)
print("after: ", *D.net.tokenizer.split(caption))
dozen = noun_parts.render(noun_parts.draw_parts(12, seed=3)).to(device)
z, tokens = vae.to_latents(dozen), D.net.tokenizer([caption]).to(device)
t, eps = D.draw_noise(z, seeded(0))
D.loss(z, t.to(device), eps, tokens=tokens).mean().backward()           # (7.21)
moved = [name for name, p in D.named_parameters() if p.grad is not None]
print(f"gradients: {moved}, {e.numel()} of {count(D):,} numbers")

# %% [markdown]
# **DreamBooth** (Ruiz et al. 2023) trains all weights of the U-Net. The subject's name is a rare word, written in tokens that are there already. Its captions also have the **class word**, here "a noun", so what the model draws for the class can drift towards the subject. **Prior preservation** mixes in pictures that the base drew for the class before the training:
#
# $$\mathcal L = \mathcal L_{\text{subject}} + \lambda\,\mathcal L_{\text{class, drawn by the base}} \tag{7.22}$$
#
# **What can one vector say?** The subjects are six heads. Three are known to mini-SD; three were withheld from it. Each has a dozen pictures, whose captions call the head "sks" and name all other parts; then 100 prompts of new combinations. Controls: the head's own name, the word before its training, and four new words in a row instead of one. *Copy* is the distance to the nearest of the dozen, in units of what real figures of the same prompts have: 0 would be a copy, 1 is as new as they are. (`python tools/recipes/mini_sd_subject.py`)

# %%
with open(storage.ASSETS / "mini_sd_subject.csv") as file:
    runs = list(csv.DictReader(file))
rest = [part for part in noun_parts.PARTS if part != "head"]
for run in runs:
    run["parts"] = np.mean([float(run[part]) for part in rest])
ways = dict.fromkeys(run["way"] for run in runs if run["kind"] != "tuning")

def of_heads(way, column, kind="withheld", digits=2):
    """Mean of a column over the three heads of a kind, and its range."""
    v = [float(run[column]) for run in runs if (run["way"], run["kind"]) == (way, kind)]
    low, high = (f"{value:.{digits}f}" for value in (min(v, default=0), max(v, default=0)))
    return f"{np.mean(v):.{digits}f} ({low} to {high})" if v else ""

trained = {run["way"]: f"{int(run['trained'] or 0):,}" for run in runs}
tables.table({way: {"trained": trained[way],
                    "head, known": of_heads(way, "head", "known"),
                    "head, withheld": of_heads(way, "head"),
                    "other parts": of_heads(way, "parts"),
                    "copy": of_heads(way, "copy")} for way in ways},
             index="way", caption="100 prompts: means and ranges of three heads")

# %%
with np.load(storage.ASSETS / "mini_sd_subject.npz") as stored:
    drawn = {name: torch.from_numpy(stored[name]).permute(0, 3, 1, 2) / 127.5 - 1
             for name in stored}
plots.show({name: x for name, x in drawn.items() if "class" not in name},
           columns=6, title="Subjects, and the same six prompts")
plots.show({name.removesuffix(", class"): x for name, x in drawn.items()
            if "panda" in name and "class" in name},
           columns=6, title='"a noun with ...", no head named')

# %% [markdown]
# **What table and figure show.** For two of three known heads one vector is as good as the head's own name: all pictures are right. For the zebra, whose own name is four tokens, it finds nothing in these 200 steps. The three withheld heads are not found by one vector at all. Four vectors lead nearest to the right head in 82, 100 and 76 % of the pictures. The figure shows how rough these heads are: a count of nearest heads is lenient. Still, a frozen U-Net was led towards heads that were in none of its pictures; one vector is too little for that, or 200 steps are. DreamBooth draws all of them, from the same dozens. Nothing was copied: its pictures are as far from the dozen as real ones are (*copy* is 1.01 to 1.05). A *copy* above that goes with heads that are wrong.
#
# **What did it cost?** Textual inversion changes no picture of another prompt, by construction: the new row is read for the new word alone. DreamBooth changes every weight. 100 prompts name no head ("a noun with ..."); 50 name heads that nobody taught:

# %%
columns = {"different heads": ("class_heads", 0), "the subject": ("class_subject", 2),
           "distance from it": ("class_distance", 3),
           "other heads right": ("others_head", 2),
           "seconds": ("seconds", 0)}
tables.table({way: {name: of_heads(way, column, digits=digits)
                    for name, (column, digits) in columns.items()
                    if way != "own name" or column != "seconds"}
              for way in ("own name", "DreamBooth", "DreamBooth, prior")},
             index="way", caption="Without a head's name; with other names; of one core")

# %% [markdown]
# **What the table shows.** For "a noun" the base draws 54 different heads, DreamBooth 18 to 40, though the subject itself in 17 % of the pictures on average, and for two of the three hardly ever. The mean difference from the subject's figure falls from 0.47 to 0.35: the class has drifted towards the subject. With the prior it is 0.44, with 40 to 42 different heads: better than without, and not as before. Its price is a second batch in every step, twice the seconds. Heads that are asked for by their names do not suffer.
#
# **Which one?** A vector is 128 numbers, and touches nothing else. DreamBooth taught all three heads, and leaves a whole model for each. LoRA (section 7.7) lies between; in practice its factors are often trained by DreamBooth's loss. `save_word` writes the file that diffusers' `load_textual_inversion` reads.

# %% [markdown]
# ## 7.12 Afterwards
#
# Stable Diffusion 1.5 is of 2022. Since then:
#
# - **More conditions.** SDXL (Podell et al. 2023): a U-Net of 2.6 billion parameters, two text encoders; the picture's original size and crop are conditions.
# - **Transformers and flows.** Stable Diffusion 3 (Esser et al. 2024) and Flux (Black Forest Labs 2024): MM-DiT (section 6.5), the flow schedule, 16 latent channels, the time shift (6.7).
# - **Language models as text encoders.** Measured in Imagen (Saharia et al. 2022): a larger T5, trained on text alone, helps more than a larger U-Net. SD3 and Flux read T5 and CLIP, Qwen-Image (2025) a vision-language model.
# - **Fewer evaluations.** Guidance distillation (Meng et al. 2023; Flux [dev]); consistency (lesson 4) on latents (Luo et al. 2023); adversarial distillation, where a critic judges samples of one to four steps (Sauer et al. 2024, SDXL Turbo).
# - **Editing in context.** The given picture's tokens stand beside the noisy ones (Flux Kontext, 2025).
# - **Hybrids.** One transformer predicts text token by token and denoises patches; measured: pictures as good for less than a third of the training that image tokens need (Zhou et al. 2024, Transfusion).
# - **An end that is noise.** With $\alpha_1 = 0.068$ Stable Diffusion draws medium brightness; zero terminal SNR repairs it (Lin et al. 2023; section 3.6).
#
# Data, size and method changed at once: comparing two such models measures no single change.
#
# ## 7.13 Guidance in one pass · deeper
#
# Guidance costs two evaluations a step. **Guidance distillation** (Meng et al. 2023, first stage) trains a student that is told the scale $w$ (theirs is ours less one):
#
# $$D_{\text{student}}(x, t, c, w) \approx D(x, t, \varnothing) + w\,\big[D(x, t, c) - D(x, t, \varnothing)\big] \tag{7.23}$$
#
# The right side is a function of what the student is given. Nothing is averaged, so the smallest loss is 0. The price: $\varnothing$ is built in, so a negative prompt has no place. (`true_cfg_scale` in diffusers' Flux pipeline brings it back, for a second evaluation.)
#
# **On which points shall they agree?** Meng et al. take noised data. But guided paths leave the data (section 5.4), so Jensen and Sadat (2025) take points of guided paths. We compare both where the teacher is exact: the plane of section 5.4, and its left class.

# %%
cosine = Schedule.cosine()
bells = torch.tensor([[-1.0, 0.9], [-0.75, 0.0], [-0.9, -0.9],
                      [0.35, 0.7], [0.5, -0.1], [0.2, -0.8]])
plane, left = data.GaussianMixture(bells, 0.25), data.GaussianMixture(bells[:3], 0.25)
exact = lambda x, t, y: (left if y else plane).denoiser(cosine)(x, t)
teacher = lambda w: cfg(exact, w, {"y": 0})                             # (7.23), right side

n, ts = 2000, timesteps(cosine, 33, start=0.999)
w = 1 + 7 * torch.rand(n, generator=seeded(1), dtype=torch.float64)
start = torch.randn(n, 2, generator=seeded(2))
paths = torch.cat(list(ddim(teacher(w), cosine, start, ts, y=1))[:-1])   # (33 n, 2)
t, w = ts[:-1].repeat_interleave(n), w.repeat(33)
eps = torch.randn(paths.shape, generator=seeded(3))
noised = cosine.perturb(left.sample(33 * n, seed=4), t, eps)
points = torch.stack([noised, paths])                                   # (2, 33 n, 2)
alpha, sigma = cosine.alpha(t)[:, None], cosine.sigma(t)[:, None]
wanted = torch.stack([(alpha * x - teacher(w)(x, t, y=1)) / sigma for x in points]).float()

# %% [markdown]
# Six students that predict $v$ are trained at once, three seeds on either kind of points, with the same times and scales.

# %%
class Students(nn.Module):
    """x (6 B, 2), t and w (6 B,) -> v, by six small networks, B points each."""

    def __init__(self):
        super().__init__()
        pairs = (7, 64), (64, 64), (64, 64), (64, 2)
        self.weights = nn.ParameterList(torch.randn(6, a, b) / a**0.5 for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(6, 1, b) for _, b in pairs)

    def forward(self, x, t, w):
        angles = t[:, None] * torch.tensor([1.0, 3.0])
        h = torch.cat([x, w[:, None].log2() / 3, angles.sin(), angles.cos()], 1).float()
        h = torch.baddbmm(self.biases[0], h.view(6, -1, 7), self.weights[0])
        for W, b in zip(self.weights[1:], self.biases[1:]):
            h = torch.baddbmm(b, F.silu(h), W)
        return h.flatten(0, 1)

# %%
torch.manual_seed(0)
net, updates = Students(), 800
optimizer, kind = torch.optim.AdamW(net.parameters()), torch.tensor([0, 1] * 3)[:, None]
for k in range(updates):
    optimizer.param_groups[0]["lr"] = 0.01 * (1 - k / updates)
    i = torch.randint(33 * n, (6, 96))
    v = net(points[kind, i].flatten(0, 1), t[i.flatten()], w[i.flatten()])
    loss = 6 * (v - wanted[kind, i].flatten(0, 1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# **One evaluation against two.** How far do samples end from those of the teacher's 100 steps, from the same 1,000 noises?

# %%
student, start = Denoiser(net, cosine, "v"), torch.randn(1000, 2, generator=seeded(9))
grid = lambda n: timesteps(cosine, n, start=0.999)
rms = lambda a, b: (a - b).square().sum(-1).mean(-1).sqrt()
rows = {}
for scale in (2.0, 4.0, 8.0):
    ends = {n: last(ddim(teacher(scale), cosine, start, grid(n), y=1))
            for n in (10, 20, 100)}
    told = torch.full((6000,), scale)
    x = last(ddim(student, cosine, start.repeat(6, 1), grid(20), w=told))
    x = x.detach().view(6, 1000, 2)
    for n in (100, 20):
        row = {f"teacher, {2 * m}": f"{rms(ends[m], ends[n]):.3f}" for m in (20, 10)}
        for k, name in enumerate(("noised data", "guided paths")):
            off = rms(x[k::2], ends[n])
            row[f"students of {name}, 20"] = ", ".join(f"{value:.3f}" for value in off)
        rows[f"w = {scale:g}, {n} steps"] = row
tables.table(rows, index="teacher's samples",
             caption="Distance to the teacher's samples of so many steps (RMS), "
                     "by evaluations; students: 3 seeds")

# %% [markdown]
# **What the table shows.** With 20 evaluations, the students of guided paths end nearer to the teacher's 100 steps than the teacher does itself, at each scale: they afford twice as many steps. At $w = 2$ both kinds of students are about equal. At $w = 8$ the three of noised data are further off than the three of guided paths, and about as far as the teacher's ten steps. The points differ between them, and the draws of weights and batches, of which there are three. This is a toy; Jensen and Sadat name the same mismatch in large models.
#
# ## 7.14 The time shift, and the schedule's end · deeper
#
# Section 6.3 shifted the time so that large pictures are destroyed as much as small ones. The formula is that of averaging. Let a large picture have each pixel of a small one $s^2$ times. Their mean is $(1-t)\,x_0 + t\,\bar\epsilon$ with $\operatorname{Var}\bar\epsilon = 1/s^2$. So the log SNR after averaging is $2\log s$ higher. Ask for the time $t'$ at which the mean is as noisy as one pixel at $t$:
#
# $$\frac{s\,(1-t')}{t'} = \frac{1-t}{t} \quad\Longleftrightarrow\quad t' = \frac{s\,t}{1+(s-1)\,t}, \qquad \log\mathrm{SNR}(t') = \log\mathrm{SNR}(t) - 2\log s \tag{7.24}$$
#
# Esser et al. (2024) derive it so; their $s = 3$ for 1,024 pixels was chosen by people who compared pictures. Flux computes $s$ from the number of tokens.

# %%
flow, s = Schedule.flow(), 3
shift = lambda t, s: s * t / (1 + (s - 1) * t)                          # (7.24)
noises = torch.randn(s**2, 40_000, generator=seeded(0), dtype=torch.float64)
rows = {}
for t in (0.2, 0.5, 0.8):
    later = shift(t, s)
    averaged = (flow.sigma(later) * noises).mean(0)                     # of s^2 copies
    rows[f"t = {t}"] = {
        "t'": later, "log SNR(t)": flow.log_snr(t), "log SNR(t')": flow.log_snr(later),
        "at t', averaged, measured": (flow.alpha(later)**2 / averaged.var()).log()}
tables.table(rows, ".3f", index="", caption="s = 3, 40,000 pixels of power 1")

# %%
n, even = 28, timesteps(flow, 28)                                       # (29,)
last_time = shift(0.001, 3)                             # the first training time, shifted
own = torch.linspace(1, last_time, n, dtype=torch.float64)
grids = {"even": even, "shifted, s = 3": shift(even, 3),
         "SD3's pipeline": torch.cat([shift(own, 3), torch.zeros(1)]),
         "Flux, 4,096 tokens": shift(even, math.exp(1.15))}
plots.curves(torch.arange(n + 1), grids, title="28 steps under the flow schedule",
             xlabel="step", ylabel="t   (data 0, noise 1)")
print({name: f"last step from {g[-2]:.4f}" for name, g in grids.items()})
try:
    from diffusers import FlowMatchEulerDiscreteScheduler
except ImportError:
    print("diffusers is missing, so nothing is compared: pip install diffusers")
else:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    for name, given in {"shifted, s = 3": {"sigmas": even[:-1].tolist()},
                        "SD3's pipeline": {"num_inference_steps": n}}.items():
        theirs.set_timesteps(**given)
        print(f"{name}: off by {(theirs.sigmas - grids[name]).abs().max():.1e}")

# %% [markdown]
# **What the figure shows.** The shift moves steps to high noise: $t = 1/4$ becomes $1/2$. SD3's pipeline spreads its times from 1 to 0.003, both ends included, and then shifts. So its last step starts at 0.0089, and 27 steps do nearly all the work. For 4,096 tokens Flux has $s = e^{1.15} = 3.16$, nearly the same curve. Both grids of diffusers are ours, to the rounding of float32.
#
# **The end.** The flow ends in pure noise, `scaled_linear` does not. Lin et al. shift and stretch $\sqrt{\bar\alpha}$, so that the last is 0 and the first stays (section 3.6):
#
# $$\sqrt{\bar\alpha_i}' = \big(\sqrt{\bar\alpha_i} - \sqrt{\bar\alpha_T}\big)\,\frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}}, \qquad \beta_i' = 1 - \frac{\bar\alpha_i'}{\bar\alpha_{i-1}'} \tag{7.25}$$
#
# **What does a model make of noise that it has never seen?** Let brightness $b$ be $\mathcal N(m, s^2)$, each picture $d$ numbers equal to $b$. Their mean at $t=1$ is $\mathcal N(\alpha m,\; \alpha^2s^2 + \sigma^2/d)$. On a line, paths of the exact ODE do not cross and their densities are right, so each keeps its quantile: $z = (\bar x_t - \alpha_t m)/\mathrm{std}(\bar x_t)$ stays, and ends as $b = m + s z$. From pure noise $\bar x_1 = \sigma\epsilon/\sqrt d$, so
#
# $$b \sim \mathcal N\big(m\,(1-\rho),\; s^2(1-\rho^2)\big), \qquad \rho = \frac{\alpha_1 s}{\sqrt{\alpha_1^2s^2 + \sigma_1^2/d}} \tag{7.26}$$
#
# $\rho$ is the correlation of $b$ and $\bar x_1$: what training could see of the brightness in "pure noise".

# %%
root = (1 - sd.betas).cumprod(0).sqrt()                                 # (1000,)
rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])           # (7.25)
ends = {"scaled_linear": sd, "rescaled": Schedule.zero_terminal_snr(sd.betas)}
times = torch.arange(1, 1001, dtype=torch.float64) / 1000
torch.testing.assert_close(ends["rescaled"].alpha(times), rescaled)

def brightness(schedule, d, m=-0.8, s=0.3):
    """The mean of d equal numbers, times sqrt(d), is N(m sqrt(d), d s^2) in noise of 1."""
    exact = data.GaussianMixture([[m * d**0.5]], s * d**0.5).denoiser(schedule)
    noise = schedule.sample_prior((10_000, 1), generator=seeded(0)).double()
    ts = 1 - torch.linspace(0, 1, 201, dtype=torch.float64) ** 3        # dense near t = 1
    b = last(ddim(exact, schedule, noise, ts)) / d**0.5
    a, noise = schedule.alpha(1.0) * s, schedule.sigma(1.0) / d**0.5
    rho = a / (a**2 + noise**2).sqrt()
    return {"log SNR at the end": schedule.log_snr(1.0), "rho": rho, "mean": b.mean(),
            "by (7.26)": m * (1 - rho), "deviation": b.std(),
            "by (7.26) ": s * (1 - rho**2).sqrt()}

rows = {f"{name}, d = {d:,}": brightness(schedule, d)
        for name, schedule in ends.items() for d in (64, 4096)}
tables.table(rows, ".3f", index="schedule",
             caption="10,000 exact samples; the data have mean -0.8, deviation 0.3")

# %% [markdown]
# **What the table shows.** With 4,096 numbers, as in a channel of Stable Diffusion's latents, dark pictures of mean -0.8 come out at -0.17, with less variety. With 64, as in a channel of mini-SD's, at -0.67. Rescaled, the fault is gone. At $\alpha = 0$ the noise $\epsilon$ says nothing about $x_0$, so such models predict $v$. How much of the brightness is in one channel of a real latent, the toy does not say.
#
# ## 7.15 SD3's and Flux's layout · deeper
#
# SD3's blocks are lesson 6's `JointBlock`. To see it, `sd3.from_published` takes the tensors of a tiny random SD3 of diffusers, in float64, with random biases.

# %%
config = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
              attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
              caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=12)

def same_output(theirs, net, g):
    """(7.10) between their output and ours, for random inputs."""
    x, t = torch.randn(2, 4, 8, 8, generator=g).double(), torch.tensor([0.2, 1.0]).double()
    context = torch.randn(2, 5, 24, generator=g).double()
    pooled = torch.randn(2, 20, generator=g).double()
    with torch.no_grad():
        wanted = theirs(x, context, pooled, 1000 * t).sample
        return (net(x, t, context, pooled) - wanted).abs().max() / wanted.std()

# %%
g = seeded(0)
try:
    from diffusers import SD3Transformer2DModel
except ImportError:
    print("diffusers is missing, so nothing is compared: pip install diffusers")
else:
    theirs = SD3Transformer2DModel(**config).double()
    for p in theirs.parameters():
        scale = 0.3 if p.ndim == 1 else p[0].numel() ** -0.5
        p.data = scale * torch.randn(p.shape, generator=g, dtype=torch.float64)
    tensors = theirs.state_dict()
    net = sd3.from_published(config, tensors)
    ours = net.state_dict()
    rows = [{"ours": name, "shape": str(tuple(ours[name].shape)),
             "published, first": parts[0],
             "shapes": f"{len(parts)} x {tuple(tensors[parts[0]].shape)}"}
            for name, parts in sd3.names_of(net).items()
            if name.endswith("weight") and not name.startswith(("blocks.0", "blocks.1"))]
    tables.table(rows, caption="The ends, and the last block")
    print(f"{len(tensors)} tensors; output off by {same_output(theirs, net, g):.1e}")

# %% [markdown]
# **What the table shows.** A patch of 2 x 2 latents is a convolution in theirs, a linear layer in ours; three matrices of attention are one. Three layers have another order. `out` lists a patch's pixels first, ours its channels. `final` gives scale before shift, and so does the text's modulation in the last block, with two parts where all others have six (shift, scale and gate of attention, then of the MLP). This block is `context_pre_only`: its text gives keys and values and is not updated. The embedding adds a **pooled** text vector $p$ to the time; Flux adds the scale of (7.23), too:
#
# $$e = \mathrm{MLP}_t\big(\mathrm{emb}(1000\,t)\big) + \mathrm{MLP}_p(p)\;\big[{}+ \mathrm{MLP}_w\big(\mathrm{emb}(1000\,w)\big)\big] \tag{7.27}$$
#
# with emb of (7.4). Three more things, no shape shows: $\varepsilon$ is $10^{-6}$, padding is read like text, and positions are the middle of a table in the file, column before row. **Flux** starts with such blocks, all of which update the text, and normalises queries and keys as ours do (SD3 does not, SD3.5 does). Then both streams become one, with attention and MLP side by side:
#
# $$h \leftarrow h + g\odot W\big[\mathrm{attn}(x);\ \mathrm{GELU}(Vx)\big], \qquad x = (1 + a)\odot\mathrm{LN}(h) + b \tag{7.28}$$
#
# with $b, a, g$ linear in silu$(e)$. No position is stored. **Rotary positions** (Su et al. 2021) turn the pairs of numbers of queries and keys, pair $k$ at position $i$ by $i\cdot10000^{-2k/d}$, so that their product knows the distance alone. Rows and columns have a part of the numbers each; for one of them,
#
# $$\langle R_i\,q,\; R_j\,k\rangle = \langle q,\; R_{j-i}\,k\rangle \tag{7.29}$$

# %%
def turned(x, i):                                                       # R_i of (7.29)
    angle = i * 10_000 ** (-torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turn = torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(pairs * turn).flatten(-2)

q, k = torch.randn(2, 16, generator=seeded(0)).double()
for i, j in ((2, 5), (12, 15), (2, 6)):
    print(f"query at {i}, key at {j}: {turned(q, i) @ turned(k, j):.6f}")

# %%
def single_block(h, e, net):                                            # (7.28)
    b, a, g = net.norm.linear(F.silu(e))[:, None].chunk(3, -1)
    x = (1 + a) * F.layer_norm(h, h.shape[-1:], eps=1e-6) + b
    hidden = F.gelu(net.proj_mlp(x), approximate="tanh")
    return h + g * net.proj_out(torch.cat([net.attn(x), hidden], -1))

try:
    from diffusers import FluxTransformer2DModel
except ImportError:
    print("diffusers is missing, so nothing is compared: pip install diffusers")
else:
    with torch.device("meta"):                                          # sizes, no numbers
        full = FluxTransformer2DModel(guidance_embeds=True)
    singles = full.single_transformer_blocks
    print(f"{len(full.transformer_blocks)} joint blocks, {len(singles)} single ones, "
          f"{count(full) / 1e9:.1f} billion parameters")
    block = type(singles[0])(32, 2, 16).double()
    c, x, e = (torch.randn(2, *k, generator=g).double() for k in ((5, 32), (9, 32), (32,)))
    with torch.no_grad():
        wanted = torch.cat(block(x, c, e), 1)                    # text first
        off = (single_block(torch.cat([c, x], 1), e, block) - wanted).abs().max()
    print(f"(7.10) of a single block, its attention theirs: {off / wanted.std():.1e}")

# %% [markdown]
# ## 7.16 Files that are something else · deeper
#
# What people have is often no diffusers folder. `load_published` looks at a file's names and says what it is. Each of these is made here, some bytes long:

# %%
folder = Path(tempfile.mkdtemp())

def refusal(path):
    """The sentence without what all have in common: the folder that is needed."""
    try:
        load_published(path)
    except (OSError, ValueError) as error:
        return str(error).replace(str(folder), ".").split(": a folder in the diffusers")[0]

# %%
for file, tensor in {"v1-5.safetensors": "model.diffusion_model.out.0.bias",
                     "style.safetensors": "unet.down_blocks.0.attn1.to_q.lora_A.weight",
                     "unet.safetensors": "down_blocks.0.resnets.0.norm1.bias",
                     "vae.safetensors": "encoder.conv_in.bias",
                     "clip.safetensors": "text_model.final_layer_norm.bias",
                     "other.safetensors": "colour"}.items():
    save_file({tensor: torch.ones(1)}, folder / file)
    print(refusal(folder / file))
(folder / "v1-4.ckpt").write_bytes(b"anything")
print(refusal(folder / "v1-4.ckpt"), refusal(folder / "nothing"), sep="\n")

# %% [markdown]
# The pickle is refused unopened: opening one runs whatever its maker wrote into it. A folder has its own ways to be incomplete:

# %%
sizes = {"in_channels": 4, "out_channels": 4, "layers_per_block": 1,
         "block_out_channels": [32]}
unet = {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"]}
text = {"vocab_size": 514, "max_position_embeddings": 77, "hidden_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
files = {"model_index.json": {}, "unet/config.json": sizes | unet,
         "vae/config.json": sizes | {"in_channels": 3, "latent_channels": 4},
         "text_encoder/config.json": text, "scheduler/scheduler_config.json": {},
         "tokenizer/vocab.json": BytePairTokenizer.learn(["a"], 514).vocabulary}
whole = folder / "sd"
for name, content in files.items():
    (whole / name).parent.mkdir(parents=True, exist_ok=True)
    (whole / name).write_text(json.dumps(content), encoding="utf-8")
(whole / "tokenizer/merges.txt").touch()

# %%
print("one part:", refusal(whole / "unet"))
print("no weights:", refusal(whole))
(whole / "unet/diffusion_pytorch_model.bin").write_bytes(b"anything")
print("a pickle in it:", refusal(whole))
pointer = whole / "unet/diffusion_pytorch_model.safetensors"
pointer.write_text("version https://git-lfs.github.com/spec/v1")
print("a pointer in place of the file:", refusal(whole))
(whole / "vae/config.json").unlink()
print("without the autoencoder:", refusal(whole))
shutil.rmtree(folder)

# %% [markdown]
# **What is printed.** Each sentence says what was found; where something helps, what to do.

# %% [markdown]
# ## 7.17 At full size · deeper
#
# A name map that is right for small networks can still fail at full size: a name that small networks do not have, a peak of memory that no laptop holds. So a tool writes a Stable Diffusion 1.5 of full size in the published layout, with random weights, loads it by `load_published`, and runs it (`python tools/full_size.py --against-diffusers`). The folder has what published folders have: half precision, the old names in the autoencoder's attention, and `position_ids`, a tensor of the text encoder that holds 0 to 76 and is not needed. The tool prints:
#
# | | |
# | --- | --- |
# | tensors, all mapped, all with the values of the file | 686 in the U-Net, 248 in the autoencoder, 196 in the text encoder |
# | parameters | 859,520,964, 83,653,863 and 123,060,480 |
# | on disk, in float16 | 2.13 GB |
# | largest memory of the process, computing in float32 | 7.4 GB |
# | multiply-adds of the U-Net, latent of 16 x 16 and 64 x 64 | 23 and 402 billion |
# | multiply-adds of the decoder, same latents | 78 and 1,257 billion |
# | largest difference from diffusers, one step at 16 x 16 | latent 7e-6, picture 2e-5 standard deviations |
#
# The weights alone are 4.3 GB in float32. Loading them reached 6.9 GB, probably because the mapped half-precision file and a second copy of the convolutions, in another memory order, are there for a moment; the comparison with the files added the rest, and the steps and the pictures nothing. Other forms load as well: new names, no `position_ids`, a U-Net in three files, a U-Net without its middle (`--attention new --no-position-ids --shards 3 --no-middle`: 640 tensors in the U-Net, a peak of 6.3 GB).
#
# One evaluation of the U-Net at 64 x 64 took 16 seconds of one core (AMD EPYC, float32, other programs beside it), the decoder's picture of 512 x 512 pixels 48. At 16 x 16 both took 2 to 3 seconds. So a picture with guidance in 25 steps is 50 evaluations, about a quarter of an hour on one core. A slow test computes the step at 16 x 16; no cell of this notebook computes at full size.
#
# **The real weights.** The next cell draws with Stable Diffusion 1.5. It fetches 2.13 GB once, from a pinned commit, and compares each file's SHA-256. On a CPU it takes about 7 GB of memory. The quarter of an hour is for one CPU core; on a GPU, 50 times 2 x 402 billion operations, divided by what the GPU computes in a second at most, are a lower bound, without the decoder. The weights have a licence of their own, CreativeML OpenRAIL-M: read what it forbids. The published pipeline also looks at each picture with a safety checker, and this cell does not. It has not been run for this page: set `FETCH` to `True`.

# %%
FETCH = False                                       # True: 2.13 GB, once
if FETCH:
    real, real_vae = load_published(fetch_published("stable-diffusion-1.5"), device)
    prompt = "a photo of an astronaut riding a horse"
    x = sampling.text_to_image(real, [prompt], scale=7.5, steps=25, vae=real_vae)
    plots.show(x, title=prompt)                     # (1, 3, 512, 512)
else:
    print("FETCH is False: nothing is fetched")

# %% [markdown]
# **Small, and published.** The test suite of diffusers loads tiny models from the hub, less than 40 MB. Their weights are random, so the picture is noise, and it takes seconds on any machine. They are stored as pickles. So this cell shows the refusal first, and then the way out: diffusers opens the pickle in torch's safe mode, which builds tensors and runs nothing else, and writes safetensors. It needs diffusers and transformers, and has not been run for this page either.

# %%
FETCH_TINY = False                                  # True: less than 40 MB, once
if FETCH_TINY:
    from diffusers import StableDiffusionPipeline

    folder = fetch_published("tiny-stable-diffusion")
    try:
        load_published(folder)
    except ValueError as error:
        print(error)
    with tempfile.TemporaryDirectory() as safe:
        parts = dict.fromkeys(("safety_checker", "feature_extractor"))      # not needed
        StableDiffusionPipeline.from_pretrained(folder, **parts).save_pretrained(safe)
        tiny, tiny_vae = load_published(safe, device)
        x = sampling.text_to_image(tiny, ["a cat"], vae=tiny_vae)
    print(f"{type(tiny.net).__name__}, {count(tiny):,} parameters: {tuple(x.shape)}")
else:
    print("FETCH_TINY is False: nothing is fetched")

# %% [markdown]
# ## 7.18 What we built
#
# A Stable Diffusion in about 1,200 lines: a byte-pair code, CLIP's text encoder, a U-Net with transformers in it, an autoencoder, a sampler that was there already; and a map of names, through which the published weights get in. In small it was trained on one core in two hours, and then taught a new head, to follow an outline, and to please a judge.
#
# **Three things to remember.** (1) A convention that is got wrong makes a picture that may look right. Compare numbers, block by block, at random weights, in float64. (2) What begins at zero changes nothing at first and learns all the same, as long as one of two factors is not zero: LoRA's $B$, a ControlNet's convolutions, the new channels of an inpainting model. (3) What a model is trained for gets better, and what is not measured may get worse. So measure something else, too, and say what was held out.
#
# **Terms.**
#
# | term | in one line |
# | --- | --- |
# | byte-pair encoding, merge | a code of frequent pieces of text, learned pair by pair |
# | padding, end token | what fills a row of ids; in Stable Diffusion 1.x the same token |
# | causal mask | a token attends to itself and to those before it |
# | spatial transformer, GEGLU | attention and an MLP on pixels as tokens; an MLP with a gate |
# | trailing, leading grid | the last, or the first step of each part of the training steps |
# | off, of two implementations | the largest difference from a reference, in standard deviations, (7.10) |
# | LoRA: adapter, rank, dial, merging | a low-rank change of weights; its size; its factor; adding it to them |
# | full fine-tuning | training all weights of a model that was trained before |
# | ControlNet, hint, zero convolution | a second encoder for a picture as condition; that picture; a layer that begins at 0 |
# | preference, reward, reference, DPO | which of two is liked; how much; the model before; (7.17), (7.18) |
# | Goodhart's law, best of $n$ | a measure that is a target fails as a measure; the judge's choice of $n$ samples |
# | textual inversion, DreamBooth, prior preservation (section 7.11) | one learned embedding; all weights for one subject; samples of the base mixed in |
# | guidance distillation (section 7.13) | a student told the scale, one evaluation a step |
# | pooled vector, rotary positions (section 7.15) | one vector of a whole text; positions as turns of queries and keys |
#
# | formula | source |
# | --- | --- |
# | (7.1) | Sennrich et al. 2016, *Neural Machine Translation of Rare Words with Subword Units* |
# | (7.2), (7.3) | Radford et al. 2021, *Learning Transferable Visual Models*; Hendrycks & Gimpel 2016, *Gaussian Error Linear Units* |
# | (7.4) to (7.7) | Ho et al. 2020; Rombach et al. 2022, *High-Resolution Image Synthesis with Latent Diffusion Models*; Shazeer 2020, *GLU Variants Improve Transformer* |
# | (7.8), (7.9) | Salimans & Ho 2022, *Progressive Distillation*; Lin et al. 2023, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, table 2 |
# | (7.11), (7.12) | Hu et al. 2022, *LoRA* |
# | (7.13), (7.14) | Zhang et al. 2023, *Adding Conditional Control to Text-to-Image Diffusion Models*; Mou et al. 2023, *T2I-Adapter* |
# | (7.15) to (7.18) | Bradley & Terry 1952; Rafailov et al. 2023, *Direct Preference Optimization*; Wallace et al. 2024, *Diffusion Model Alignment Using DPO*, eq. 14 |
# | (7.19), (7.20) | Rombach et al. 2022 |
# | (7.21), (7.22) | Gal et al. 2023, *An Image is Worth One Word*; Ruiz et al. 2023, *DreamBooth* |
# | (7.23) | Meng et al. 2023, *On Distillation of Guided Diffusion Models*; Jensen & Sadat 2025 (points of guided paths) |
# | (7.24), (7.25) | Esser et al. 2024, *Scaling Rectified Flow Transformers*, eq. 23; Lin et al. 2023 |
# | (7.27) to (7.29) | Esser et al. 2024; the code of Flux in diffusers; Su et al. 2021, *RoFormer* |
#
# (7.10) and (7.26) are ours. **Next:** part two of this lesson puts a model before people: applications, speed, memorisation, marking, cards, a service.
