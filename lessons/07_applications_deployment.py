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
# **Part II** takes a model to people. Afterwards you can say which of two dozen ways to make it faster are worth their errors; find out whether it returns its training data, and what guidance does to a skew in them; mark its pictures, and know how the mark is lost and forged; and put it behind a page with limits.
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
# | 7.18 Super-resolution | core | 10 | conditioning by concatenation; error against realism |
# | 7.19 A generator that classifies | core | 8 | shared noises; what robustness comes from |
# | 7.20 Synthetic data | core | 6 | when drawn digits help a classifier, and the leak |
# | 7.21 Generations on their own output | core | 8 | model collapse, and what stops it |
# | 7.22 The inference laboratory | core | 12 | one model, made fast in two dozen ways |
# | 7.23 Two halves | core | 10 | does a model make pictures, or return them? |
# | 7.24 Bias | core | 8 | what guidance does to a skew |
# | 7.25 Marking | core | 10 | a watermark in the noise: found, lost, forged |
# | 7.26 Cards and rules | core | 6 | what somebody must know who takes your model |
# | 7.27 A service | core | 10 | a page, limits, a queue, and what a picture costs |
# | 7.28 Anomalies | deeper | 8 | where likelihood fails |
# | 7.29 What accumulation keeps | deeper | 5 | a product for a sine |
# | 7.30 Eight bits, other programs | deeper | 5 | int8, ONNX Runtime, torch.compile |
# | 7.31 Was this picture in the training? | deeper | 6 | membership inference |
# | 7.32 Erased, and back again | deeper | 6 | how easily a concept returns |
# | 7.33 Filters | deeper | 5 | two error rates, and rare events |
# | 7.34 A signature in the file | deeper | 3 | C2PA |
# | 7.35 Rules and questions | deeper | 8 | with dates and sources |

# %% tags=["setup"]
{{setup}}

# %%
import copy
import csv
import hashlib
import io
import json
import math
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib import (
    Denoiser,
    Schedule,
    cfg,
    clip,
    ddim,
    ddim_invert,
    dpmpp,
    editing,
    last,
    sde,
    timesteps,
)
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
from course_lib.lab.evaluation import faults, features, inference, metrics, release
from course_lib.lab.evaluation.inpainted import known_error, seam
from course_lib.lab.evaluation.small_sets import nearest_ratio
from course_lib.lab.training.parts import load_control, load_inpainting
from course_lib.lab.training.published import load_published
from course_lib.lab.training.published_files import fetch_published
from course_lib.networks import int8
from course_lib.networks.stable_diffusion import layout, lora, sd3
from course_lib.networks.stable_diffusion.caching import CachedUNet
from course_lib.networks.stable_diffusion.inpainting import extra_channels
from course_lib.networks.stable_diffusion.inversion import add_word
from course_lib.networks.stable_diffusion.text_encoder import ClipTextEncoder
from course_lib.networks.stable_diffusion.tokenizer import BytePairTokenizer
from course_lib.networks.stable_diffusion.unet import (
    GEGLU,
    StableDiffusionUNet,
    StepEmbedding,
)
from course_lib.watermark import detect, marked_noise
from course_lib.web.limits import Limits
from course_lib.web.painter import Painter
from course_lib.web.refusal import Refused
from course_lib.web.service import Service

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

# %% [markdown]
# # Part I · Stable Diffusion, line by line
#
# ## 7.1 Mini-SD at work
#
# **Mini-SD** is the class that loads Stable Diffusion 1.5, with another configuration: a U-Net of two levels in place of four, a text encoder of two layers in place of twelve, a byte-pair code of 1,000 tokens in place of 49,408. It was trained on the latents of lesson 6's autoencoder, on 96,000 captioned figures (`python tools/recipes/train_mini_sd.py`). Ten heads are in none of its pictures and captions (the volcano of the last figure below is one); section 7.7 teaches it another. The autoencoder was trained on pictures with all heads.

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
# **What the table shows.** No part is more than 1.0 ± 0.5 points below `nouns`. 100 captions take 40 % of its time on two threads, text and decoder included (median of 3), a single one 86 % (median of 9). *New combinations* are of known parts, *new pairs* of two parts that never stood together. The captions of the training come in three wordings, because an earlier training on lesson 5's alone failed at the glasses of these captions (the recipe tells of it). One figure in two of the wordings:

# %%
print("lesson 5's:", noun_parts.captions(parts[:1], seed=1)[0])
print("here:      ", captions[0])

# %% [markdown]
# **From a picture.** Methods of lesson 5 work here, in the latents: noise a latent up to a level and denoise it under another caption (`sdedit`), or lead guidance away from a caption in place of the empty one (a **negative prompt**).

# %%
z = vae.to_latents(x[:4].to(device))                                    # (4, 8, 8, 8)
other = mini.net.tokenizer(noun_parts.plain_captions(parts[4:])).to(device)
guided = cfg(mini, 2.0, mini.net.null)
rows = {"before": x[:4]}
for strength in (0.02, 0.05, 0.1, 0.3):
    states = editing.sdedit(guided, mini.schedule, z, strength, 10, sampler=dpmpp,
                            generator=seeded(1), tokens=other)
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
# **What the figures show.** *Image to image*: at strength 0.02, the level of noise up to which the latent is taken, the old figure is there with pieces of the new one; at 0.1 the new one is there (the fourth head, a volcano, is one of the ten that it never saw), although most of the noised latent is the old figure's. In training caption and picture never disagreed, so probably nothing taught the network which of the two to believe. Guidance, $w=2$, may favour the caption. *Negative prompt*: the caption names no glasses. In these four pictures guidance away from black ones makes them lighter, and changes little else.
#
# ## 7.2 Text into vectors
#
# Lesson 5's tokenizer knows the words of its captions and no others. Stable Diffusion has to read anything that people type. **How do you make a vocabulary that can write every text, and writes common words short?** With **byte-pair encoding**, BPE (Sennrich et al. 2016). Start with the 256 bytes: they can write every text. Then look at the pair of neighbouring tokens that occurs most often in a large collection of texts,
#
# $$(a, b)^* = \arg\max_{(a, b)}\;\sum_{\text{words } u} n_u\,\big|\{k: u_k = a,\ u_{k+1} = b\}\big| \tag{7.1}$$
#
# with $n_u$ the number of times that the word $u$ occurs, and make it a token of its own. Repeat. Each merge makes the vocabulary larger by one and the texts shorter. A byte at the end of a word is another token than the same byte inside, written `a</w>`, so that a text can be put together again, but for capitals and spaces. CLIP's code has 49,408 tokens: 256 bytes, each inside a word and at its end, 48,894 merges, a start and an end. Ours has 1,000. Three merges of a toy, from ten words:

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
    for word in pieces.values():
        k = 0
        while k < len(word) - 1:
            if (word[k], word[k + 1]) == best:
                word[k:k + 2] = ["".join(best)]
            k += 1
    print(*(" ".join(word) for word in pieces.values()), sep=" | ")

# %% [markdown]
# A new text is encoded by the same merges in the order in which they were learned. The code of our captions is learned here, from 5,000 of them. Frequent words are whole, others are in pieces. (Capitals are made small. A letter such as ü is two bytes, each of which is shown by a sign.)

# %%
texts = data.nouns(20_000).captions
tokenizer = BytePairTokenizer.learn(texts[:5_000], 1_000, length=48)
print("first merges:", *("".join(pair) for pair in tokenizer.merges[:12]))
for text in ("a figure with red glasses", "a helicopter head", "Ünïcode, naïve"):
    print(f"{text!r}: ", *tokenizer.split(text))
lengths = torch.tensor([len(tokenizer.split(caption)) for caption in texts[:2_000]])
print(f"a caption has {lengths.float().mean():.1f} tokens, at most {lengths.max()}")

# %% [markdown]
# Rows of token ids have a fixed length, 77 in CLIP: start, the text, end, then **padding**. Three traps:
#
# - The padding is the end token in Stable Diffusion 1.x and another id, 0, in 2.x.
# - There is *no mask*: the padding is read like any token, and the wrong id changes the picture of every text that does not fill its row.
# - A longer text is cut. Ours says so:

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    row = tokenizer("a figure with " + "very " * 50 + "red glasses")
print(tuple(row.shape), "|", said[0].message)

# %% [markdown]
# **The text encoder** is one half of CLIP (Radford et al. 2021), a pair of networks that were trained to give a picture and its caption similar vectors, and different pairs different ones. (2.x reads the text half of OpenCLIP, another training of the same kind.) Stable Diffusion uses its text half, frozen, and reads *all* its token vectors, not only the one that CLIP compares with a picture. It is the transformer of lesson 5 with three oddities. It is **causal**, each token attends to itself and those before it:
#
# $$\mathrm{softmax}\Big(\tfrac1{\sqrt d}\,QK^\top + M\Big)V, \qquad M_{ij} = \begin{cases} 0 & j\le i\\ -\infty & j>i\end{cases} \tag{7.2}$$
#
# so the vector of the first word does not know the last. Its activation in 1.x is **quick-GELU**, which approximates $\mathrm{GELU}(x) = x\,\Phi(x)$ with the normal distribution function $\Phi$ by a logistic one; 2.x has the exact function:
#
# $$\text{quick-GELU}(x) = \frac{x}{1+e^{-1.702\,x}} \tag{7.3}$$
#
# And 2.x reads the *last but one* layer of its encoder. The published file of 2.x has only the first 23 of 24 layers, so the one that is wanted is the last in the file. To skip one more is a common fault.

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
# It is lesson 2's plan: encoder, middle, decoder, skip connections. What differs is in the blocks. **The time** enters as a step, $i = 0\dots T-1$ with $T = 1000$, and its embedding of size $2m$ has cosines first:
#
# $$\mathrm{emb}(i) = \big(\cos i\,\omega_k,\; \sin i\,\omega_k\big)_{k<m}, \qquad \omega_k = 10000^{-k/m} \tag{7.4}$$
#
# Lesson 2's has sines first and the exponent $k/(m-1)$, a *frequency shift* of 1. A network's weights fit only the embedding they were trained with; section 7.6 measures each of the two differences. Two layers make $e$ of it. In a block $e$ is **added** to the features of each channel, where lesson 2 had a scale and a shift (FiLM):
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
# With these, the whole network line by line, on the modules of the library:

# %%
def block(b, x, e):                                                     # (7.5), residual
    h = b.conv1(F.silu(b.norm1(x))) + b.emb(F.silu(e))[:, :, None, None]
    return b.shortcut(x) + b.conv2(F.silu(b.norm2(h)))

def transformer(t, x, c):                                               # (7.6)
    h = t.proj_in(t.norm(x)).flatten(2).transpose(1, 2)                 # (B, H W, C)
    tokens = t.norm1(h)
    h = h + t.self_attention(tokens, tokens)
    h = h + t.cross_attention(t.norm2(h), c)
    h = h + geglu(t.norm3(h), t.mlp)
    return x + t.proj_out(h.transpose(1, 2).reshape(x.shape))

def unet(net, x, i, c):
    """Latents x (B, 8, H, W), steps i (B,), the caption's vectors c (B, L, 128)"""
    e = net.time(i)                                                     # (7.4), two layers
    h = net.stem(x)
    skips = [h]

    def one(level, k, h):
        h = block(level.blocks[k], h, e)
        return transformer(level.transformers[k], h, c) if level.transformers else h

    for level in net.down:
        for k in range(len(level.blocks)):
            h = one(level, k, h)
            skips.append(h)
        if level.resample is not None:                                  # half the side
            h = level.resample(h)
            skips.append(h)
    h = block(net.middle.blocks[1], one(net.middle, 0, h), e)
    for level in net.up:
        for k in range(len(level.blocks)):
            h = one(level, k, torch.cat([h, skips.pop()], 1))
        if level.resample is not None:                                  # twice the side
            h = level.resample(h)
    return net.out(F.silu(net.norm(h)))

x, i = torch.randn(2, 8, 8, 8, generator=seeded(0)).to(device), torch.tensor([500.0, 20.0])
c = mini.net.encode(mini.net.tokenizer(captions[:2]).to(device), 2)["context"]
with torch.no_grad():
    ours = unet(mini.net.unet, x, i.to(device), c)
    off = (ours - mini.net.unet(x, i.to(device), c)).abs().max()
print(f"off by {off:.0e}, output {ours.std():.2f}")

# %% [markdown]
# The whole network is a class with the sizes as arguments. The published sizes are its defaults. Mini-SD has others: smaller ones, eight latent channels in place of four, rows of 48 tokens in place of 77; and it predicts $v$.

# %%
with torch.device("meta"):                                              # sizes, no numbers
    full = StableDiffusionUNet()
    clip_text = ClipTextEncoder()
count = lambda net: sum(p.numel() for p in net.parameters())
print(f"Stable Diffusion 1.5: {count(full):,} parameters in the U-Net, "
      f"{count(clip_text):,} in the text encoder")
rows = []
for k, level in enumerate(full.down):
    heads = full.config["num_heads"][k] if level.transformers else None
    rows.append({"level": k, "channels": full.config["widths"][k],
                 "latent of 64 x 64": f"{64 >> k} x {64 >> k}",
                 "heads": heads, "head size": heads and full.config["widths"][k] // heads,
                 "parameters": f"{count(level):,}"})
tables.table(rows, caption="The encoder of the U-Net")

# %% [markdown]
# **What the table shows.** The encoder has attention at three of four resolutions (the middle has it at the fourth), always with eight heads; so the heads have 40, 80 and 160 numbers. The configuration file calls the eight `attention_head_dim`. It is the *number* of heads: who takes the name at its word gets a network that loads without a complaint and draws wrong pictures (7.6). One more oddity that no shape betrays: the norm before a transformer has $\varepsilon = 10^{-6}$, all others $10^{-5}$. 2.x projects into the transformer by a linear layer, 1.x by a 1x1 convolution; both compute the same.
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
# **Which steps?** For $n$ steps our grid takes the last step of each of $n$ equal parts of the training steps (`trailing`), the published pipeline the first step of each, plus one (`leading` with offset 1; PNDM, the default of 1.x, makes the second of these twice):
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
# **What the pictures show.** The same figures, with other details. Every step of the leading grid is 98 lower, so it starts from noise that is too pure for its level. Who compares a reimplementation with the published pipeline must use its grid, and its end: its last step leads to the noise of step 0, and ours to none (`set_alpha_to_one`).
#
# ## 7.6 The fault board
#
# **How do you know that a reimplementation is right?** A picture that looks fine proves little, as the board below shows. So compare numbers with the reference, in float64, where rounding is $10^{-16}$, relative to how much the output varies:
#
# $$\mathrm{off}(f, g) = \frac{\max|f(x) - g(x)|}{\mathrm{std}\,g(x)} \tag{7.10}$$
#
# And compare at *random* weights, norms and biases included. A fresh norm has scale 1 and shift 0 (its *affine*), so two that are swapped cannot show. And a layer that begins at zero, as the last one of each transformer may, hides everything before it: it multiplies it by 0.
#
# Eighteen faults, each planted in a copy of mini-SD (trained, so that one can look at pictures), in float64. *Prediction*: (7.10) of $\hat x_0$ at $t=0.6$. *Latent*: of a picture's latent. *Picture*: of the decoded picture after 10 steps; for the encoder's fault, of a picture that is encoded and decoded. A zero says that the fault lies elsewhere. (Three faults are the autoencoder's. It is lesson 6's, grown: its encoder pads at the right and below only, a 1x1 convolution stands before its decoder, and its latents are scaled.) The first row has no fault: the hidden numbers of its MLPs stand in another order, so only the rounding differs.

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
# **What the board shows.** The right model is at rounding, $10^{-14}$. The smallest fault, an $\varepsilon$ in a norm, is at $10^{-6}$: eight digits above, and invisible. Of the eighteen pictures seven would pass for right: an $\varepsilon$, another GELU, a frequency shift, a step too high, a block taken twice, latents not scaled back, another grid. An eighth, another padding token, is a clean figure in another red. One picture does not show what they do. Others fail at sight: colours, noise, a caption that is ignored. Which block is wrong the number of the whole network does not say; the course's tests compare block by block, from the time embedding on.

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
plots.show({"the dozen": noun_parts.render(dozen)}, columns=6, title=dozen_captions[0])

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
    dozen_tokens = mini.net.tokenizer(dozen_captions)
    context = mini.net.encode(dozen_tokens, len(dozen))["context"]
before = digest(adapted.net.unet)
print(f"{fine_tune(adapted, factors, z, context)} steps; the base's digest is {before} "
      f"before and {digest(adapted.net.unet)} after")

# %% [markdown]
# **The dial.** Six new captions with a shark's head, one noise for each, the dial from 0 to 1.5:

# %%
parts = noun_parts.draw_parts(200, seed=5, split="test")                # new combinations
parts[:, HEAD] = SHARK
prompts = noun_parts.plain_captions(parts)
shown = {}
for dial in (0.0, 0.25, 0.5, 1.0, 1.5):
    lora.set_dial(adapted.net.unet, dial)
    shown[f"dial {dial}"] = sampling.text_to_image(adapted, prompts[:6], vae=vae)
shown["as asked for"] = noun_parts.render(parts[:6])
plots.show(shown, columns=6, title="Six captions with a shark's head")

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
# **What both tables show.** The head is right in all 200 pictures. No other part changed by more than two standard errors. New pictures are a little further from the dozen than held-out figures are; for the dozen's own captions the ratio is about a half. But one head proves little. The recipe teaches five of the ten (the other five are left to you), and beside LoRA trains *all* weights of the U-Net (**full fine-tuning**) for about the same time (`python tools/recipes/mini_sd_lora.py`). The dials 0.5 and 1.5 were measured for two heads, the lower rate for one. *Other heads*: figures that the base could draw before.

# %%
with open(storage.ASSETS / "mini_sd_lora.csv") as file:
    shipped = list(csv.DictReader(file))
REST = [part for part in noun_parts.PARTS if part != "head"]

def accuracies(method, rate, dial, prompts):
    """The head's, and the mean of the other parts': (heads taught, 2)"""
    kind = (method, str(rate), str(dial), prompts)
    found = [row for row in shipped
             if (row["method"], row["lr"], row["dial"], row["prompts"]) == kind]
    return torch.tensor([[float(row["head"]), mean(float(row[part]) for part in REST)]
                         for row in found])

# %%
kinds = {
    "base": ("base", 0.0, 0.0),
    "LoRA, dial 0.5": ("LoRA", 0.003, 0.5),
    "LoRA": ("LoRA", 0.003, 1.0),
    "LoRA, dial 1.5": ("LoRA", 0.003, 1.5),
    "LoRA, rate 0.001": ("LoRA", 0.001, 1.0),
    "all weights": ("all weights", 0.0002, 1.0),
}
rows = {}
for name, kind in kinds.items():
    new, others = accuracies(*kind, "new"), accuracies(*kind, "others")
    other = others.mean(0) if len(others) else (None, None)     # not for every dial
    rows[name] = {
        "heads": len(new), "new head": new[:, 0].mean(), "lowest": new[:, 0].min(),
        "its other parts": new[:, 1].mean(), "other heads": other[0],
        "their other parts": other[1],
    }
form = dict.fromkeys([*rows["base"]][1:], ".1%")
tables.table(rows, form, index="", caption="Accuracy, 200 prompts for each head")

# %% [markdown]
# **What the table shows.** All five heads are learned: right in each of 200 prompts, and the other parts of these prompts are no worse than before. With half the dial 57 % of the heads come out, with one and a half other parts go wrong. *Other* figures pay a price: their heads are right in 96 % after LoRA, 100 % before. Training all weights costs them less, 98 %: in this comparison LoRA is not the gentler way. Probably the reason is that no other figure was trained on; section 7.11 mixes some in. What LoRA saves is size.
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
    shown[name := f"shark {head}, faded {style}"] = x[:6]
    back = unfaded(x) if style else x
    right = attributes.attributes_correct(back, parts[:40])[:, HEAD].double()
    is_faded = far(x, faded(figures)) < far(x, figures)
    rows[name] = {"shark's head": right.mean(), "faded": is_faded.double().mean()}
plots.show(shown, columns=6, title="Two adapters")
tables.table(rows, ".0%", index="dials", caption="Of 40 pictures")

# %% [markdown]
# **What figure and table show.** Each adapter does its own part, and together both: the style shows in 34 of 40 bodies alone, and in 33 beside the head, about equal. *Faded* counts the pictures whose body is nearer to the faded body than to the body itself. A head is a file of 48 kB for anyone who has the base: many public variants of Stable Diffusion are passed on so. So is what somebody made of a real person's dozen photographs.

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
# **Mini-SD follows an outline.** Ours is smaller than the paper's copy of the encoder: it reads the hint alone, so it runs once a picture (as in T2I-Adapter, Mou et al. 2023). For each level it makes features $u$, and for each skip connection, and the middle, a zero layer of its own takes those of its level. It was trained with mini-SD frozen, by mini-SD's own loss. The captions name background and glasses; head, body and accessory are left to the outline. (It has no colours: bodies are right in 12 % with and without it.)

# %%
mini.net.control = load_control("mini_sd_control", mini)

def added(net, hint):
    """What is added to each skip connection, and to the middle: a list of Z u"""
    u = [net.blocks[0](net.stem(F.pixel_unshuffle(hint, net.factor)))]
    for down, block in zip(net.down, net.blocks[1:]):
        u.append(block(down(u[-1])))
    return [zero(u[level]) for zero, level in zip(net.zeros, net.places)]

card = mini.net.control.about["metrics"]
size = lambda net: f"{sum(p.numel() for p in net.parameters()):,}"
print(size(mini.net.control), "parameters beside", size(mini.net.unet), "of the U-Net;",
      mini.net.control.about["command"])

# %%
held = torch.tensor([noun_parts.index_of("head", name)
                     for name in mini.about["metrics"]["withheld"]])
parts = noun_parts.draw_parts(60, seed=12, split="test")
parts = parts[~torch.isin(parts[:, 3], held)][:40]                  # heads that it knows
real = noun_parts.render(parts)
hint = outline(real)                                                    # (40, 1, 32, 32)
with torch.no_grad():
    for mine, theirs in zip(added(mini.net.control, hint.to(device)),
                            mini.net.control(hint.to(device)), strict=True):
        torch.testing.assert_close(mine, theirs)
short = [f"a noun with {name['glasses']} glasses, {name['background']} background"
         for name in noun_parts.part_names(parts)]
tokens = {"tokens": mini.net.tokenizer(short)}
draw = lambda condition: sampling.sample_batches(
    mini, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae)
drawn = {"no hint": draw(tokens), "hint": draw(tokens | {"hint": hint})}
rows = {"the real figure": real, "its outline": 2 * hint - 1} | drawn
plots.show({name: x[:6] for name, x in rows.items()}, columns=6, title=short[0] + ", ...")

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
# **What figure and table show.** The outlines of the samples follow the hint. Of 500, F1 rises from 0.893 to 0.979, and reconstructions have 0.997: that is 83 ± 1 % of the way. The head, which no caption named, is right in 96 %, without the hint in hardly any: most heads are known by their outline. Heads that mini-SD never saw: 65 ± 1 % of the way, and hardly one is right. This one says *where*. Those heads were new to mini-SD and to the encoder of hints; which of the two fails was not tested.

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
# The mean of five DPO trainings is within about 0.001 of the optimum, single ones within 0.007, and none was told a reward. Ordinary training on the winners would give the last row, whatever $\beta$ is.
#
# **Without $\log p$.** By lesson 1, $\log p \ge -\mathbb E_{t,\epsilon}[\ell] + \text{const}$, with weighted denoising losses $\ell$. Put the bound in place of all four $\log p$. That is an approximation: a difference of bounds bounds nothing, and their gaps are dropped. Now a mean stands inside $-\log\mathrm{sigmoid}$, which is convex. By Jensen's inequality, taking the mean outside gives an upper bound; one time and one noise, the same for all four, estimate it:
#
# $$\mathcal L = -\log\mathrm{sigmoid}\Big(-\beta\big[(\ell_w - \ell_w^{\text{ref}}) - (\ell_l - \ell_l^{\text{ref}})\big]\Big) \tag{7.18}$$
#
# The weights are dropped, too, as in the simple loss. (Wallace et al. 2024, eq. 14; there each picture has its own noise.)
#
# **A flawed judge** prefers red: the mean of the red channel less that of the others. Of two pictures of one prompt it takes the redder one, without a coin. Prompts name background and glasses; all pictures of the study are drawn without guidance. *Distance* is the root mean square difference from the base's predictions. **Best of $n$** trains nothing: the base draws $n$ pictures, the judge picks one. Beside it: $\beta$ ten times as large. Controls: winners chosen by a coin, ordinary training on the winners. (Best of $n$ stands at distance 0, since its model is the base.) (`python tools/recipes/mini_sd_preference.py`)

# %%
with open(storage.ASSETS / "preference.csv") as file:
    rows = list(csv.DictReader(file))
paths = {}
for row in rows[1:]:
    start = [] if row["way"] == "best of n" else rows[:1]               # the base
    paths.setdefault((row["way"], row["seed"]), start[:]).append(row)

@plots.styled
def against_distance(measures):
    figure = plots.new_figure(9, 3.6)
    for axes, measure in zip(figure.subplots(1, len(measures)), measures):
        for (way, seed), path in paths.items():
            x, y, error = (np.array([float(row[name]) for row in path])
                           for name in ("distance", measure, f"{measure}_se"))
            label = f"{way}, seed {seed}" if way == "DPO" else way
            axes.errorbar(x, y, error, marker=".", label=label, capsize=2,
                          linestyle="none" if way == "best of n" else "-")
        axes.set(title=measure, xlabel="distance from the base")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    plots.display(figure, alt=" and ".join(measures) + " against the distance")

against_distance(["judge", "variety"])

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
# **What the figures show.** With 400 steps the judge's score rises from 0.13 to 0.67 with both seeds. The cool backgrounds have become grey, and by the nearer of the two colours all count as warm: 54 % are right, the share of the prompts that ask for warm. Glasses are right in 69 and 67 % (base 98 %); coin tosses alone bring them to 92 %. Four pictures of one prompt differ by 0.29 and 0.34 (base 0.47). The judge does not check whether parts are right. This is **Goodhart's law**: a measure that becomes a target ceases to be a good measure.
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
                                  resample=4, generator=seeded(9), tokens=tokens[:10]),
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
    for name in ("prediction replaced", "RePaint, 4"):
        less = (f"{part} {100 * m:+.1f} ± {100 * e:.1f}"
                for part, (m, e) in card[job]["paired"][name].items())
        print(f"{name} less nine channels, points, paired:", *less)

live = {}
for name in ("nine channels", "prediction replaced"):
    right = attributes.attributes_correct(pasted[name], asked).double().mean(0)
    excess = seam(pasted[name], mask) - seam(wanted, mask)
    live[name] = {"body": f"{right[1]:.0%}", "accessory": f"{right[2]:.0%}",
                  "known pixels": known_error(decoded[name], real, mask).mean(),
                  "seam": excess.mean(), "±": excess.std() / 40**0.5}
tables.table(live, ".3f", index="another shirt", caption="n = 40, here")

# %% [markdown]
# **What figure and tables show.** *Another shirt*, of 500 (the 40 here do not tell the methods apart): with nine channels the body is right in 97.0 ± 0.8 %, the accessory in 98.4 ± 0.6 %. Replacing the prediction, at the same 20 evaluations, is right in 3.2 ± 1.2 and 2.6 ± 0.7 points less (paired); RePaint, at 74, in no more. *Half a head*: the head is right in all 500 pictures with nine channels, in 97.6 ± 0.7 % by replacing, in 99.2 ± 0.4 % by RePaint at 37 evaluations. The glasses follow with 93, 87 and 95 %.
#
# Before pasting, the known pixels are off by 0.02 to 0.04. A figure that only goes through the autoencoder is off by 0.014 and 0.017: no sampler here does better, so all of them need (7.20). After pasting, the seams of the shirts differ from real ones by 0.014 at most, on 0.70. Those of the heads are 0.014, 0.034 and 0.023 stronger, on 0.22; the autoencoder alone makes 0.008 of it. The trick needs no training. The network had 1,400 more steps of it, a part of which may help without any mask; then it reads the mask as it reads a caption.

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
D.net.control = None                                        # of section 7.8
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
# **What can one vector say?** The subjects are six heads. Three are known to mini-SD; three were withheld from it. Each has a dozen pictures, whose captions call the head "sks" and name all other parts; then 100 prompts of new combinations. Controls: the head's own name, the word before its training, and, for the withheld heads, four new words in a row instead of one. *Copy* is the distance to the nearest of the dozen, in units of what real figures of the same prompts have: 0 would be a copy, 1 is as new as they are. (`python tools/recipes/mini_sd_subject.py`)

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
# **What table and figure show.** For two of three known heads one vector gets every head right, as the own name does. For the zebra it finds nothing in these 200 steps; why was not tested. The three withheld heads are not found by one vector at all. Four vectors lead nearest to the right head in 82, 100 and 76 % of the pictures. The figure shows how rough these heads are: a count of nearest heads is lenient. Still, a frozen U-Net was led towards heads that were in none of its pictures; one vector is too little for that, or 200 steps are. DreamBooth draws all of them, from the same dozens. No sign of copying: in the median its pictures are as far from the dozen as real ones (*copy* is 1.01 to 1.05). A *copy* far above that, 1.4 or more, goes with heads that are partly or wholly wrong.
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
# **What the table shows.** For "a noun" the base draws 54 different heads, DreamBooth 18 to 40, though the subject itself in 17 % of the pictures on average, and for two of the three hardly ever. The mean difference from the subject's figure falls from 0.47 to 0.35: the class has drifted towards the subject. With the prior it is 0.44, nearer to the base for all three, with 40 to 42 different heads (for one of them no gain); not as before. Its price is a second batch in every step, nearly twice the seconds. Heads that are asked for by their names do not suffer.
#
# **Which one?** A vector is 128 numbers, and touches nothing else. DreamBooth taught all three heads, and leaves a whole model for each. LoRA (section 7.7) lies between; in practice its factors are often trained by DreamBooth's loss. `save_word` writes the file that diffusers' `load_textual_inversion` reads.

# %% [markdown]
# ## 7.12 Afterwards
#
# Stable Diffusion 1.5 is of 2022. Since then:
#
# - **More conditions.** SDXL (Podell et al. 2023): a U-Net of 2.6 billion parameters, two text encoders; the picture's original size and crop are conditions.
# - **Transformers and flows.** Stable Diffusion 3 (Esser et al. 2024) and Flux (Black Forest Labs 2024): MM-DiT (section 6.5), the flow schedule, 16 latent channels, the time shift of equation (6.7).
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
# **What the table shows.** With 20 evaluations, the students of guided paths end nearer to the teacher's 100 steps than the teacher does itself, at each scale: they afford twice as many steps. At $w = 2$ both kinds of students are about equal. At $w = 8$ the three of noised data are further off than the three of guided paths, and no nearer than the teacher's ten steps (one of three just below, two above). The points differ between them, and the draws of weights and batches, of which there are three. This is a toy; Jensen and Sadat name the same mismatch in large models.
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
# **What the table shows.** A patch of 2 x 2 latents is a convolution in theirs, a linear layer in ours; three matrices of attention are one. Three layers have another order. `out` lists a patch's pixels first, ours its channels. `final` gives scale before shift, and so does the text's modulation in the last block, with two parts where all others have six (shift, scale and gate of attention, then of the MLP). This block is `context_pre_only`: its text gives keys and values and is not updated. The embedding adds a **pooled** text vector $p$ to the time; Flux [dev] adds the scale of (7.23), too:
#
# $$e = \mathrm{MLP}_t\big(\mathrm{emb}(1000\,t)\big) + \mathrm{MLP}_p(p)\;\big[{}+ \mathrm{MLP}_w\big(\mathrm{emb}(1000\,w)\big)\big] \tag{7.27}$$
#
# with emb of (7.4). Three more things, no shape shows: $\varepsilon$ is $10^{-6}$, padding is read like text, and positions are the middle of a table in the file, column before row. **Flux** starts with such blocks, all of which update the text, and normalises queries and keys as ours do (SD3 does not, SD3.5 does). Then both streams become one, with attention and MLP side by side (GELU in its tanh form):
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
# The pickle is refused unopened: opening one can run whatever its maker wrote into it. A folder has its own ways to be incomplete:

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
# **The real weights.** The next cell draws with Stable Diffusion 1.5. It fetches 2.13 GB once, from a pinned commit, and compares the SHA-256 of the three weight files. On a CPU it takes about 7 GB of memory. The quarter of an hour is for one CPU core; on a GPU the U-Net needs at least 50 x 2 x 402 billion operations, divided by the GPU's peak per second. The weights have a licence of their own, CreativeML OpenRAIL-M: read what it forbids. The published pipeline also looks at each picture with a safety checker, and this cell does not. It has not been run for this page: set `FETCH` to `True`.

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
# # Part II · From a model to a release
#
# A model that draws is not yet one that others can use. What follows takes models of this course to people, step by step: uses other than drawing, a shorter wait, what must be known before anybody gets the file, a mark, a card, a service. Many rows need more models or more pictures than five minutes allow. They are shipped, each with the command that measures it again.

# %% [markdown]
# ## 7.18 Super-resolution: near the truth, or like the real thing?
#
# Lesson 5 found digits of 28 x 28 pixels behind noisy ones of 7 x 7 (5.30), with a model that had never seen a small picture. An application trains for its task: the small picture, enlarged, is one more channel of the U-Net's input, `torch.cat([x_t, enlarged], 1)` (**conditioning by concatenation**; Saharia et al. 2021, SR3). The loss stays. By (5.1), with the measurement in the label's place, the model learns to draw from $p(x_0\mid y)$.
#
# **Which answer is best?** For the squared error it is the mean $m(y) = \mathbb E[x_0\mid y]$, which a network trained to regress $x_0$ from $y$ approaches in one evaluation. Given $y$, the truth and the draws of an exact sampler are independent draws of one distribution. All have the mean $m(y)$, so the cross terms vanish. For $\bar x_k$, the mean of $k$ draws, and for two draws $\hat x$ and $\hat x'$,
#
# $$\mathbb E\|x_0-\bar x_k\|^2 = \Big(1+\frac1k\Big)\,\mathbb E\|x_0-m(y)\|^2, \qquad \tfrac12\,\mathbb E\|\hat x-\hat x'\|^2 = \mathbb E\|x_0-m(y)\|^2 \tag{7.30}$$
#
# One exact draw is distributed like real pictures, and has twice the least error. (What one has to give up of the one for the other is the **perception-distortion tradeoff**; Blau & Michaeli 2018.) The second equation needs no truth: it says how wrong a sampler *believes* it is. If half the gap between its draws is smaller than half their error, it is too sure.

# %%
mini, vae = train.load("mini_sd", device), train.load("nouns_vae", device)
cosine = Schedule.cosine()

def number(text):
    try:
        return float(text)
    except ValueError:
        return text

def shipped(name):
    """The rows of a table by `python benchmarks/lesson7_applications.py all`."""
    with open(storage.ASSETS / f"lesson7_{name}.csv") as file:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]

def with_error(row, name, digits=3):
    value, error = row[name], row[f"{name}_se"]
    return "" if value == "" else f"{value:.{digits}f} ± {error:.{digits}f}"

# %% [markdown]
# In the table *shortest* is the smallest picture with these measurements, lesson 5's first answer; *another digit* is a real one of any kind. The residual is the distance of the answer's own small picture to the measured one, in units of the measurement's noise.

# %%
rows = {row["method"]: row for row in shipped("super_resolution")}
order = sorted(rows, key=lambda name: name.startswith("mean"))  # means last
tables.table({name: {"error": with_error(rows[name], "mse", 4),
                     "half the gap": with_error(rows[name], "half_gap", 4),
                     "residual / s": rows[name]["residual"],
                     "right digit": rows[name]["right"],
                     "Fréchet distance": rows[name]["frechet"]} for name in order},
             {"residual / s": ".1f", "right digit": ".1%", "Fréchet distance": ".1f"},
             index="method", caption=f"{rows['bicubic']['n']:.0f} test digits from 7 x 7; "
                                     "error: mean square of a pixel")

# %%
with np.load(storage.ASSETS / "lesson7_super_resolution.npz") as stored:
    kept = {name: torch.from_numpy(stored[name])[:, None] / 127.5 - 1 for name in stored}
truth, draws = kept["truth"], kept.pop("draws").view(8, -1, 1, 28, 28)
shown = {name: kept[name] for name in ("bicubic", "regression", "DPS", "PiGDM")}
shown |= {"concatenation": kept["concatenation"], "mean of 8": draws.mean(0),
          "truth": truth}
plots.show({name: x[:8] for name, x in shown.items()}, columns=8, title="From 7 x 7 pixels")

# %%
error = lambda x: (x - truth).square().flatten(-3).mean(-1)             # of each digit
gap = draws.var(0).flatten(1).mean(1)                       # half of two draws', (7.30)
for k in (1, 2, 4, 8):
    found = error(draws.view(8 // k, k, *truth.shape).mean(1)).mean()
    wanted = (1 + 1 / k) * gap.mean()
    print(f"mean of {k}: {found:.4f}, by (7.30) from the gaps {wanted:.4f}")
changes = {"half the error less half the gap": error(draws).mean(0) / 2 - gap,
           "mean of 8 less regression": error(draws.mean(0)) - error(kept["regression"])}
for name, change in changes.items():
    print(f"{name}: {change.mean():+.4f} ± {change.std() / len(change) ** 0.5:.4f}")
grey = lambda x: (x.abs() < 0.8).double().mean((1, 2, 3))   # neither paper nor ink
tables.table({name: {"grey": f"{grey(x).mean():.1%} ± {grey(x).std() / len(x) ** 0.5:.1%}"}
              for name, x in (kept | {"mean of 8": draws.mean(0)}).items()},
             index="method", caption=f"Grey pixels, {len(truth)} digits")

# %% [markdown]
# **What the tables and the figure show.** One draw of the conditional model has 1.65 times the error of the network that regresses, and means of draws fall as (7.30) says. The mean of eight is a little better than the regression (-0.0029 ± 0.0014, 60 digits, paired). Half the gap of two draws, 0.0386 ± 0.0006, is about half their error, 0.0397 ± 0.0008: the model is about as unsure as it should be, perhaps a little too sure. Lesson 5's samplers, which never trained for the task, have errors 1.4 times as large as the draw's, and more digits become others (87 % right, beside 95 %).
#
# And realism? The Fréchet distance does not decide: it compares features of a classifier, and to these a mean of eight draws (1.6) is no further from real digits than one draw (2.2); other real digits have 0.8. The share of grey pixels does: 8.7 % in a draw and 8.4 % in the truth, 12.8 % in a mean of eight, 14.5 % in the regression. A number for realism measures what its features see. (So does the judge of digits: it reads 13 % of the bicubic ones, a reader nearly all.)
#
# ## 7.19 A generator that classifies
#
# **Can a model that draws digits read them?** With classes equally frequent, Bayes says $p(y\mid x_0)\propto p(x_0\mid y)$, and a weighted denoising loss bounds $-\log p(x_0\mid y)$ (6.35). So noise the digit, denoise it under each label, and take the label with the smallest loss (Li et al. 2023; Clark & Jaini 2023):
#
# $$\hat y = \arg\min_y\,\sum_{j=1}^J \ell_y(t_j, \epsilon_j), \qquad \ell_y(t, \epsilon) = \big\|v - \hat v(\alpha_t x_0+\sigma_t\epsilon,\ t,\ y)\big\|^2 \tag{7.31}$$
#
# (Our loss in $v$ weighs the levels otherwise than the bound: a heuristic.) This is a **generative classifier**. It is not *zero-shot*, as it was trained with labels. The noise changes a loss more than the label does, and only differences decide:
#
# $$\operatorname{Var}(\ell_a-\ell_b) = \operatorname{Var}\ell_a + \operatorname{Var}\ell_b - 2\operatorname{Cov}(\ell_a, \ell_b) \tag{7.32}$$
#
# Two classes that share their noises have a large covariance.

# %%
small = train.load("mnist_small", "cpu")

def class_losses(D, x, t, noises, shared=True):
    """The loss of each digit x (N, ...) under each label: (N, noises, 10)"""
    losses = []
    for seed in range(noises):
        for y in range(10):
            g = seeded(seed if shared else 10 * seed + y)
            eps = torch.randn(x.shape, generator=g)
            label = torch.full((len(x),), y)
            losses.append(D.loss(x, torch.full((len(x),), t), eps, y=label))
    return torch.stack(losses, 1).view(len(x), noises, 10)

x, y = (part[:40] for part in data.mnist("test"))
other = (y + 1) % 10
rows = {}
with torch.no_grad():
    for name in ("shared", "each its own"):
        losses = class_losses(small, x, 0.5, 8, name == "shared")
        each = torch.arange(40)
        right, wrong = losses[each, :, y], losses[each, :, other]           # (40, 8)
        gap = wrong - right
        std = lambda z: z.var(1).mean().sqrt()              # over noises
        rows[name] = {"std of one loss": std(right), "of the difference": std(gap),
                      "mean difference": gap.mean(),
                      "right, 8 noises": (losses.sum(1).argmin(1) == y).double().mean()}
tables.table(rows, {"right, 8 noises": ".0%"}, index="noises",
             caption="Two labels of 40 digits at t = 0.5")

# %%
noises = {(row["looks"], row["noises"]): row for row in shipped("classifier_noises")}
tables.table([{"noises": f"{J:.0f}", "shared": with_error(noises[J, "shared"], "accuracy"),
               "each class its own": with_error(noises[J, "own"], "accuracy")}
              for J in sorted({J for J, _ in noises})],
             caption=f"Accuracy on {noises[1, 'own']['n']:.0f} test digits")

# %% [markdown]
# **Is it worth ten networks' work for each noise?** Its fame is robustness: what was not in the training should mislead it less. Beside it stands the course's digit classifier, which was trained on turned and moved digits; and lesson 5's *noise-aware* classifier, which was trained without these, but with noise. Asked at the same times, with eight noises as the generator, it is the control: does the generator win by being one, or by the noise? (*One look*: at the clean picture, once.)

# %%
rows = {}
for row in shipped("classifier"):
    text = f"{row['accuracy']:.0%}"
    if row["method"] != "classifier":
        text += f" ({100 * row['gain']:+.0f} ± {100 * row['gain_half']:.0f})"
    rows.setdefault(row["shift"], {})[row["method"]] = text
tables.table(rows, index="what is done",
             caption=f"Accuracy on {row['n']:.0f} test digits; in brackets the difference "
                     "to the classifier, points, paired, 95 %")

# %% [markdown]
# **What the tables show.** With shared noises the difference of two losses has less than half the deviation that it has with noises of their own, and eight noises read 94.5 ± 1.6 % of the digits, 85.5 ± 2.5 % without sharing (there the times are spread over (0, 1); live all are 0.5). Under shift the generative classifier is *not* the robust one. It beats the ordinary classifier where there is noise, and where a hole is cut out; so does the noise-aware control, by as much or more. Everywhere else it reads no more digits than either. So on these digits generating is not needed for it; probably the training with noise is what helps.
#
# ## 7.20 Synthetic data
#
# **A classifier has 50 labelled digits of each class. Do drawn ones help?** The usual mistake hides in the generator. `mnist_small` saw 60,000 labels; whoever lets it draw for a classifier "with 500 labels" has brought them in. Live, with the nearest neighbour in pixels:

# %%
x, y = data.mnist("train")
test, answer = (part[:1000] for part in data.mnist("test"))
few = torch.cat([torch.where(y == k)[0][:50] for k in range(10)])
asked = torch.arange(500) % 10
drawn, *_ = sampling.sample_labels(small, sampling.SAMPLERS["dpmpp"], 10, asked, 1.5)

def nearest(known, labels):
    found = torch.cdist(test.flatten(1), known.flatten(1)).argmin(1)
    return (labels[found] == answer).double().mean().item()

both = torch.cat([x[few], drawn]), torch.cat([y[few], asked])
print(f"500 labelled digits: {nearest(x[few], y[few]):.1%}; with 500 more, by a model "
      f"that saw 60,000: {nearest(*both):.1%}")

# %% [markdown]
# An honest generator sees what the classifier may see: these 500 digits; or, in another row, first all 60,000 without labels, then these. It has two rivals that draw nothing: **augmentation** (turning, zooming, moving), and **pseudo-labels**, 1,000 other digits with the labels that the plain classifier gives them. All rows take equally many steps; where anything is added, half of each batch are the 500, on average.

# %%
runs = {}
for row in shipped("labels"):
    runs.setdefault(row["method"], []).append(row)
plain = [row["accuracy"] for row in runs["500 labels"]]

def summary(found):
    """Means over the seeds; the gain, paired, with Student's 95 % interval."""
    gain = [100 * (row["accuracy"] - base) for row, base in zip(found, plain)]
    half = 2.776 * stdev(gain) / len(gain) ** 0.5
    def of(name, form):
        return f"{mean(row[name] for row in found):{form}}" if found[0][name] != "" else ""
    return {"accuracy": of("accuracy", ".1%"),
            "gain, points": f"{mean(gain):+.1f} ± {half:.1f}" if any(gain) else "",
            "labels right": of("labels_right", ".1%"), "newness": of("nearest", ".2f")}

named = {"the same, augmented": "synthetic, augmented"}
tables.table({named.get(name, name): summary(found) for name, found in runs.items()},
             index="examples",
             caption=f"{len(plain)} seeds, {row['n']:.0f} test digits; newness: "
                     "distance to the nearest of the 500, test digits 1")

# %% [markdown]
# **What the table shows.** No honest generator helps. From the 500 it changes nothing (-0.7 ± 1.3 points); its digits are as new as real ones, and the course's classifier reads a fifth of them as another digit than was asked for. With the unlabelled digits it is a third, and the classifier loses 3.3 points; why these labels are worse was not tested. Without any real digit it loses ten. Augmentation, which draws nothing, brings 5.3, about as much as 1,000 more labels (4.3), and with synthetic digits beside it less than alone. The one generator that helps is the leak: 1.7 points, though 60,000 labels are behind it. Larger generators, trained elsewhere on other data, are another case; then their data have to be named.
#
# ## 7.21 Generations on their own output
#
# What models draw comes back as training data. **What happens to a model that learns from itself?** Take the simplest: a bell, fitted to $n$ numbers. The fitted variance (divisor $n$) is on average $1-\frac1n$ of the true one. The next $n$ numbers are drawn from the fit. After $g$ fits, when each generation **replaces** the data,
#
# $$\mathbb E\,\sigma_g^2 = \Big(1-\frac1n\Big)^g\sigma_0^2 \to 0 \tag{7.33}$$
#
# Nothing is wrong with the model or the sampler: finite samples alone lose the tails (**model collapse**; Shumailov et al. 2024). If the data **accumulate**, real ones included, something remains (Gerstgrasser et al. 2024; how much, in 7.29).

# %%
def next_data(way, pool):
    """pool: the real examples, then each generation's samples -> what is trained on next"""
    return {"replace": pool[-1], "accumulate": torch.cat(pool)}[way]

def bells(way, n=20, chains=4000, generations=30):
    """The mean fitted variance of each generation, 1 at first; fits to data (n, chains)."""
    g = seeded(0)
    pool, path = [torch.randn(n, chains, generator=g)], []
    for _ in range(generations):
        x = next_data(way, pool)
        fitted = x.var(0, correction=0)
        path.append(fitted.mean())
        new = torch.randn(n, chains, generator=g)
        pool.append(x.mean(0) + fitted.sqrt() * new)
    return torch.stack(path)

g = torch.arange(1, 31)
toy = {way: bells(way) for way in ("replace", "accumulate")}
plots.curves(g, toy | {"(7.33)": (1 - 1 / 20) ** g}, xlabel="fits", ylabel="variance",
             title="A bell that is fitted to its own samples (n = 20)", ylim=(0, 1))

# %% [markdown]
# **And digits?** Generation 0 is `mnist_small`. Each later one goes on from its parent's weights, for 100 steps on 500 digits (*accumulate*: on all so far). Two controls: *real*, with fresh real digits each time, shows what going on with the training does; *resampled* has no model at all, each generation draws from the last one's digits with replacement.

# %%
rows = shipped("generations")
last_one = int(max(row["generation"] for row in rows))
ways = dict.fromkeys(row["way"] for row in rows)

def path(way, name):
    """Mean over the chains, and their standard deviation, of each generation."""
    found = [[row[name] for row in rows if (row["way"], row["generation"]) == (way, g)]
             for g in range(last_one + 1)]
    return torch.tensor(found).mean(1), torch.tensor(found).std(1)

shown = {"Fréchet distance": "frechet", "recall": "recall", "variety": "variety"}
means, stds = ({title: {way: path(way, name)[k] for way in ways}
                for title, name in shown.items()} for k in (0, 1))
chains = len({row["seed"] for row in rows})
plots.panels(torch.arange(last_one + 1), means, errors=stds, xlabel="generation",
             title=f"{chains} chains, {rows[0]['n']:.0f} digits each")
with np.load(storage.ASSETS / "lesson7_generations.npz") as stored:
    drawn = {way: torch.from_numpy(stored[way])[:, None] / 127.5 - 1 for way in stored}
plots.show(drawn, columns=20, title=f"Generation {last_one}")

# %% [markdown]
# **What the figures show.** *Replace*: in five generations the distance rises from 1.6 to 11.3 ± 1.2, recall falls from 0.89 to 0.57, variety from 0.60 to 0.45. *Accumulate* ends at 4.5 ± 0.3, with a recall of 0.84; whether it goes on rising, five generations cannot say. *Real* stays near 2: the training itself costs little. *Resampled* begins with 500 real digits and no model. Its recall falls as far as by replacing (0.79 to 0.50): that is what finite samples alone take. Its variety hardly falls. So the narrowing of what is left is the model's part.

# %% [markdown]
# ## 7.22 The inference laboratory
#
# **Where does the time of a picture go?** Into the text encoder once, into the decoder once, and into $N$ evaluations of the U-Net, where guidance counts twice:
#
# $$T = T_{\text{text}} + N\,T_{\text{U-Net}} + T_{\text{decoder}} \tag{7.34}$$
#
# So there are two kinds of savings, and in the middle term they multiply: fewer evaluations, and cheaper ones. A saving is worth no more than what it touches. If a fraction $f$ of the time becomes $s$ times faster, the whole becomes
#
# $$\frac{T_{\text{before}}}{T_{\text{after}}} = \frac1{1-f+f/s} \tag{7.35}$$
#
# times faster (**Amdahl's law**): an infinitely fast decoder that takes a tenth of the time gains 11 %. Three savings, beside the solvers of lesson 4:
#
# - **Guidance in one pass**: both predictions are one batch of $2B$. The work is the same, each layer is called half as often.
# - **Guidance in an interval** (section 5.6): where $w = 1$, one evaluation is enough.
# - **Cached features** (DeepCache, Ma et al. 2024). Let $h_k$ be what arrives at one of the decoder's last blocks at step $k$, from all deeper layers. It changes little from one step to the next. So at some steps take the last one that was computed,
#
# $$h_k \approx h_j, \qquad j \le k \text{ the last full step} \tag{7.36}$$
#
# and compute only the outermost layers, whose skip connections are fresh.
#
# **Nothing may be faster by being another thing.** Each has its check: guidance in one pass must draw the same picture, and the cache must *be* the U-Net where nothing is cached. The last row is the approximation itself. `fresh` is the number of the outermost blocks that are computed at every step.

# %%
row = noun_parts.draw_parts(4, seed=11, split="test")
tokens = mini.net.tokenizer(noun_parts.plain_captions(row)).to(device)
noise = mini.schedule.sample_prior((4, 8, 8, 8), generator=seeded(0)).to(device)
text = mini.net.encode(tokens, 4)
none = mini.net.encode(mini.net.null["tokens"].to(device), 1)
four = {"context": none["context"].expand(4, -1, -1)}

def cached(interval):
    return inference.with_unet(mini, CachedUNet(mini.net.unet, interval, fresh=2))

def draw(guided, steps=10):
    ts = timesteps(mini.schedule, steps)
    return vae.to_images(last(dpmpp(guided, mini.schedule, noise, ts, **text))).cpu()

plain = draw(cfg(mini, 2.0, four))
rows = {"one pass": draw(inference.batched_cfg(mini, 2.0, none)),
        "cached, interval 1": draw(inference.batched_cfg(cached(1), 2.0, none)),
        "cached, interval 2": draw(inference.batched_cfg(cached(2), 2.0, none))}
for name, x in rows.items():
    print(f"{name}: pictures differ by {(x - plain).square().mean().sqrt():.1e}")

# %% [markdown]
# **The laboratory** (`python benchmarks/lesson7_speed.py`) draws the same captions from the same noises with every row. The *default* is lesson 5's: 10 steps of DPM-Solver++(2M), $w=2$, in two passes. The *naive reference* takes 50 steps of DDIM. Most rows change one thing of lesson 5's default. A cache needs guidance in one pass, Heun has its own grid, and the last rows change several things. Latencies are taken in turns (one, two and consistent steps in another run); *faster* is the mean ratio to the default in the same round, with its standard error. *Touched* is the share of the default's multiply-adds that a row leaves out or does in another way. *Worst part* is the part whose accuracy falls most against the default, in points, with the standard error of the paired difference. *Distance* is that to 60 steps from the same noise; where the ODE is another one, it would mean nothing.

# %%
with open(storage.ASSETS / "lesson7_speed.csv") as file:
    speed = {row["row"]: row for row in csv.DictReader(file)}

def worst(row):
    """The part that loses most, and by how much."""
    if not row["n"]:
        return ""
    part = min(noun_parts.PARTS, key=lambda part: float(row[f"{part}_diff"]))
    if float(row[f"{part}_diff"]) >= 0:
        return "none"
    return f"{part} {float(row[f'{part}_diff']):+.1f} ± {float(row[f'{part}_se']):.1f}"

shown_as = lambda text, form: f"{float(text):{form}}" if text else ""
naive = speed["naive reference"]

def faster(row, B):
    """The mean ratio to the default in one round, with its standard error."""
    return f"{float(row[f'faster_{B}']):.1f} ± {float(row[f'faster_se_{B}']):.1f}"

# %%
lab = {}
for name, row in speed.items():
    if row["note"]:
        print(f"{name}: not measured. {row['note']}")
    elif row["median_1"]:
        lab[name] = {"evaluations": row["evaluations"],
                     "touched": shown_as(row["touched"], ".0%"),
                     "batch 1, ms": 1e3 * float(row["median_1"]),
                     "95 %": 1e3 * float(row["p95_1"]), "faster": faster(row, 1),
                     "batch 64, s": float(row["median_64"]), "faster ": faster(row, 64),
                     "n": row["n"], "worst part": worst(row),
                     "distance": shown_as(row["distance"], ".3f")}
lab_form = {"batch 1, ms": ".0f", "95 %": ".0f", "batch 64, s": ".2f"}
timed = f"{naive['rounds_1']} rounds of batch 1, {naive['rounds_64']} of batch 64"
core = ("naive reference", "lesson 5's default", "guidance in one pass",
        "empty text encoded once", "every 2nd step cached", "ONNX Runtime", "bf16",
        "no guidance", "7 steps", "5 steps", "3 steps", "3 steps, guided in the first",
        "5 steps, not guided", "5 steps, not guided, ONNX Runtime",
        "3 steps, guided in the first, cached", "3 steps, not guided, cached",
        "2 steps, not guided", "1 step, not guided", "consistent, 1 step")
tables.table({name: lab[name] for name in core if name in lab}, lab_form, index="",
             caption=f"{timed}; faster: times the default")

# %% [markdown]
# **What the table shows.** *Fewer evaluations* bring most. Without guidance ten remain of twenty, in half the time, and no part loses more than 0.6 ± 0.3 points. **Even one unguided evaluation loses hardly anything** (accessory -0.4 ± 0.2), 12.9 ± 0.3 times as fast. These captions name every part, so hardly anything is left to draw, and the mean of what is left is the picture. Few steps *with* guidance fail sooner: at three steps the body loses 7 points, and with guidance in the first step alone nothing. The consistent student (lesson 4; 800 steps of training) is worse than no student: its single evaluation loses 3.4 ± 0.9 points of the body.
#
# *Cheaper evaluations* help a single picture, which probably does not fill the cores: one pass for both predictions makes it 1.2 ± 0.05 times as fast (a row that saves 1 % of the work has 1.2 ± 0.07), a cache at every second step as well 1.7 times, ONNX Runtime 2.0 times. For 64 at once one pass brings nothing and ONNX Runtime little (two rounds). bf16 is *slower*, six times at batch 64 (`lscpu` lists no bf16). All rows stand in 7.30.
#
# **Is one step enough, then?** Ask with captions that leave something open. *Colour* is the mean difference of a pixel's largest and smallest channel, in the body.

# %%
row = noun_parts.draw_parts(60, seed=12, split="test")
row = row[~torch.isin(row[:, HEAD], held)][:40]                         # known heads
named = noun_parts.part_names(row)
texts = {"all": noun_parts.plain_captions(row),
         "head": [f"{noun_parts.article(n['head'])}{n['head']}-headed noun" for n in named]}
colour = lambda x: (x.amax(1) - x.amin(1))[:, 21:, 9:23].mean((1, 2))
pictures = {"real figures": noun_parts.render(row)}
ways = {"all, 1 step": ("all", 1, 1.0), "head, 1 step": ("head", 1, 1.0),
        "head, 3 steps": ("head", 3, 1.0), "head, 10 guided": ("head", 10, 2.0)}
for name, (what, steps, w) in ways.items():
    pictures[name] = sampling.text_to_image(mini, texts[what], steps=steps, scale=w,
                                            vae=vae)
plots.show({name: x[:6] for name, x in pictures.items()}, columns=6,
           title="Captions that name all parts, or the head alone")
rows = {}
for name, x in pictures.items():
    right, c = attributes.attributes_correct(x, row)[:, HEAD].double(), colour(x)
    rows[name] = {"head right": f"{right.mean():.0%}",
                  "colour": f"{c.mean():.2f} ± {c.std() / len(c) ** 0.5:.2f}"}
tables.table(rows, index="captions", caption=f"{len(row)} pictures a row, standard errors")

# %% [markdown]
# **What the figure shows.** With all parts named one evaluation draws what is asked for. With the head alone, it draws the mean of all bodies, which is grey; three unguided steps decide for one, in colours between those and the real ones. The laboratory's measure cannot see this, because its captions name everything. So a table of speed says what is lost of what it measures.
#
# **Together.** Three unguided steps with a cache need 3 evaluations in place of 20, which alone would make 6.7 times; they are 6.2 ± 0.4 times as fast for one picture and 5.8 ± 0.3 for 64. ONNX Runtime makes five unguided steps 1.6 times as fast for one picture. New methods like to be compared with a naive reference: beside it three cached steps have "28 times". But one unguided step, which changes no program, has 57:

# %%
fastest = ("5 steps, not guided", "3 steps, not guided, cached", "1 step, not guided")
for name in fastest:
    for B in (1, 64):
        seconds = float(speed[name][f"median_{B}"])
        each = float(speed[name][f"unet_ms_{B}"]) / 1e3
        unet = each * int(speed[name]["evaluations"]) * B
        print(f"{name}, batch {B}: {float(naive[f'median_{B}']) / seconds:.0f} times the "
              f"naive reference, {faster(speed[name], B)} times the default; "
              f"U-Net {unet / seconds:.0%} of it")

# %% [markdown]
# ## 7.23 May it be released? Two halves
#
# **Does a model make pictures, or return them?** Split the digits into two halves that share none, train a model on $n$ digits of each, and let both draw from the *same noises*. A model that returns what it was shown can only return its own half's, and two such models are strangers. If both have learned one and the same distribution, they have learned the same denoiser, and so the same map from noise to picture: they are twins (Kadkhodaie et al. 2024). Their **pair correlation** is that of the pixels of two pictures $a$, $b$ from one noise,
#
# $$\rho(a, b) = \frac{\langle a-\bar a,\; b-\bar b\rangle}{\|a-\bar a\|\,\|b-\bar b\|} \tag{7.37}$$
#
# It needs two baselines, since all digits look a little alike: pairs from different noises, and among them those of the same label. And it needs the share of **near-copies**: samples nearer to the training set than 99 % of held-out digits,
#
# $$\min_j\|x - x_j\| < d_{0.01}, \qquad P\Big(\min_j\|x_{\text{held out}} - x_j\| < d_{0.01}\Big) = 0.01 \tag{7.38}$$
#
# counted for the model's own half and for the other one, which it never saw. (`python benchmarks/lesson7_release.py halves`)

# %%
def rows_of(name):
    """The rows of a table of `benchmarks/lesson7_release.py`."""
    with open(storage.ASSETS / f"lesson7_{name}.csv") as file:
        return list(csv.DictReader(file))

def measured(row, name, form=".2f"):
    return f"{float(row[name]):{form}} ± {float(row[name + '_se']):{form}}"

rows = [{"models": row["kind"], "n": f"{int(row['n']):,}",
         "same noise": measured(row, "same_noise"), "other noise": row["other_noise"][:5],
         "same label": row["same_label"][:5],
         "near own half": measured(row, "near_own", ".1%"),
         "near the other": measured(row, "near_other", ".1%"),
         "held out": measured(row, "floor", ".1%")} for row in rows_of("halves")]
tables.table(rows, caption=f"{rows_of('halves')[0]['pairs']} pairs a row: correlation; "
                           "shares of near-copies")

# %%
kept = dict(np.load(storage.ASSETS / "lesson7_halves.npz"))
as_x = lambda pictures: torch.from_numpy(pictures).float() / 127.5 - 1
sizes = sorted(int(name[2:]) for name in kept if name.startswith("a_"))
shown = {}
for n in (*sizes[:2], sizes[-1]):
    shown |= {f"n = {n:,}: one half": as_x(kept[f"a_{n}"]),
              f"n = {n:,}: the other": as_x(kept[f"b_{n}"]),
              f"n = {n:,}: nearest of the first": as_x(kept[f"nearest_{n}"])}
plots.show(shown, columns=8, title="The same eight noises")

# %% [markdown]
# **What table and figure show.** With 50 digits each the two models are nearly strangers: their pairs correlate at 0.49, little more than pairs of one label (0.43), and 79 % of their samples are near-copies of their own half. A second training on the *same* 50 has 0.70: so not all of the difference is the data's. With 500 they are twins (0.88), and no sample is a near-copy; of held-out digits 1.4 % are. So samples lie further off than real digits do, and many are broken: to be no copy is not to be good. All were trained alike, 1,500 steps of 32; longer training may move the border.
#
# **One picture, many times.** Large data sets hold some pictures a thousand times, and most of what was found in samples of Stable Diffusion were such pictures (Carlini et al. 2023, who searched among them). Here 15 pictures stand 10, 100 or 1,000 times among 5,000 others. A near-copy of such a picture is a sample nearer to it than every one of 10,000 held-out digits. The control is the model of the same 5,000 without them. (*Of held-out digits*: others, so a number above 0 for several pictures.)

# %%
rows = [{"model": row["model"], "each": row["copies"], "pictures": row["pictures"],
         "of the training": float(row["in_training"]),
         "of the samples": f"{float(row['in_samples']):.2%} ± {float(row['se']):.2%}",
         "of held-out digits": float(row["floor"])} for row in rows_of("duplicates")]
form = {"of the training": ".1%", "of held-out digits": ".2%"}
tables.table(rows, form, caption=f"Near-copies, {rows_of('duplicates')[0]['n']} samples")

# %% [markdown]
# **What the table shows.** The picture that stands there a thousand times is 15 % of the training and comes out in 15.5 ± 0.8 % of the samples. Those that stand there a hundred times each are 6 % together, and come out in 0.9 %; ten times, in none of 2,000. Without the copies, the same pictures come out in at most one sample. So what is found depends on how often a picture was *seen*, and removing duplicates is the first thing to do.

# %% [markdown]
# ## 7.24 Bias, and what guidance does to it
#
# **A skew in the data comes back in the samples. Larger, or smaller?** Let $a$ be something that the prompt does not name, with the share $p$ in all data and $q$ under this prompt. If guidance tempered the shares of $a$ alone, as where the noise still hides everything else, it would make of them
#
# $$\operatorname{logit} p_w = (1-w)\,\operatorname{logit} p + w\,\operatorname{logit} q, \qquad \operatorname{logit} p = \log\frac p{1-p} \tag{7.39}$$
#
# (The tempered density (5.12) of whole pictures would leave $q$ as it is here, where a picture shows its prompt.) So two skews behave in two ways. One that is the same **everywhere** has $p = q$ and stays as it is at any $w$. One that depends on **the prompt** has $p \ne q$ and grows: $p = 0.5$, $q = 0.8$ become 0.94 at $w = 2$. Two arms test it. Figures have ten heads; 80 % have blue glasses and the others red ones, either under every head, or under the first five heads, while under the others 80 % are red. The prompt names the head. (`python benchmarks/lesson7_release.py bias`)

# %%
rows = {}
for row in rows_of("bias"):
    key = f"{row['arm']}: {row['mitigation']}, w = {float(row['scale']):g}"
    rows.setdefault(key, []).append(row)
table = {}
for key, seeds in rows.items():
    p, q, others = {"e": (0.8, 0.8, 0.8), "g": (0.5, 0.8, 0.2)}[key[0]]
    none, w = seeds[0]["mitigation"] == "none", float(seeds[0]["scale"])
    table[key] = {
        "blue, first five heads": ", ".join(f"{float(r['blue_first']):.0%}" for r in seeds),
        "the others": ", ".join(f"{float(r['blue_second']):.0%}" for r in seeds),
        "by (7.39)": ", ".join(f"{release.tempered_share(p, share, w):.0%}"
                               for share in (q, others)) if none else "",
        "between": ", ".join(f"{float(r['between']):.0%}" for r in seeds),
        "head right": ", ".join(f"{float(r['head_right']):.0%}" for r in seeds
                                if r["head_right"])}
tables.table(table, index="arm, mitigation, guidance",
             caption=f"Two trainings a row, {rows_of('bias')[0]['n']} figures each")

# %% [markdown]
# **What the table shows.** *Everywhere* is as (7.39) says: guidance changes nothing beyond the spread of the two trainings. *Given the prompt* is so in part. Under the first five heads 92 and 89 % become 99 and 100 % at $w = 4$. Under the others 13 % become 17 % in one training and 1 % in the other, where (7.39) says 0. What the formula does not know is the network: without guidance, without a label even, it has 90 % where the data have 80. A fifth of its figures lie *between* the two colours and count for the nearer one.
#
# **Two mitigations.** *Name it*: the service adds the attribute to the prompt, half of the time each. That costs nothing and mends only what somebody thought of. *Train on*, with balanced data, which somebody has to find. Naming gives half and half, exactly, and at most one blend in 300. 100 steps on balanced figures (the training had 500) bring 47 to 77 %, with more blends in most rows.
#
# **And ours?** Mini-SD's figures were drawn with either background at even odds, for every head. Does it keep to that where a caption names none, also under strong guidance?

# %%
drawn = noun_parts.draw_parts(60, seed=31, split="test")
silent = [f"{noun_parts.article(row['head'])}{row['head']}-headed noun with "
          f"{row['glasses']} glasses" for row in noun_parts.part_names(drawn)]
art = noun_parts.load_art()
two = art.palette[:, art.layers["background"][:, 0, 0].long()]          # (3, 2)
for scale in (1.0, 4.0):
    x = sampling.text_to_image(mini, silent, scale=scale, steps=6, vae=vae)
    far = (x[:, :, :2, :2].flatten(2).mean(2)[..., None] - two).square().sum(1)
    first = (far.argmin(1) == 0).double()
    print(f"w = {scale:g}: {art.names['background'][0]} in {first.mean():.0%} of {len(x)}, "
          f"± {first.std() / len(x) ** 0.5:.0%}")

# %% [markdown]
# **What is printed.** Within two standard errors of one half at both scales, as it should be: in its training no other part depended on the background. Sixty pictures would not show a skew of five points.

# %% [markdown]
# ## 7.25 Marking: a watermark in the noise
#
# **How can somebody tell later that your model made a picture?** A note in the file is lost when the picture is saved anew. **Gaussian Shading** (Yang et al. 2024) adds nothing. A sampler starts from noise, and a deterministic one can be run backwards (DDIM inversion, section 4.4). So put the mark into the *signs* of that noise. A secret key and a **nonce**, a number that is used once, give a stream of bits $b$ that looks random to everybody else:
#
# $$z_i = (2\,b_i - 1)\,|n_i|, \qquad n_i\sim\mathcal N(0, 1) \tag{7.40}$$
#
# $b_i$ is 0 or 1 with probability 1/2, so $z$ is standard normal noise: each picture by itself is distributed as without the mark. To detect it, invert the picture, and count the signs that agree with the key's bits. In a picture without the mark, each sign agrees with probability 1/2. Of $m$ signs $K$ agree, and
#
# $$p = P\big(\mathrm{Bin}(m, \tfrac12)\ge K\big) \tag{7.41}$$
#
# is the **p-value**, exact whatever the picture shows. A detector with 99 % detection at 1 % false positives would accuse 10,000 of a million innocent pictures; so ask for $p\le10^{-6}$. With 256 signs, 167 must agree.

# %%
KEY, n = 2024, 100
start = cosine.t_from_log_snr(2 * math.log(2)).item()       # where sigma / alpha = 1/2
ts_up = torch.cat([torch.zeros(1), torch.linspace(start, 1, 8)]).double()
asked, nonces = torch.arange(n) % 10, torch.arange(n)
no_label = torch.full((n,), 10)

def drawn_from(z, labels, w=1.0):
    """Digits from standard normal noise z (n, 1, 28, 28), rounded to bytes."""
    guided = clip(cfg(small, w, {"y": no_label}))
    x = last(dpmpp(guided, cosine, z, timesteps(cosine, 20), y=labels))
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1

def noise_of(x):
    """The noise that digits were drawn from, as far as it can be found without a label."""
    return last(ddim_invert(small, cosine, x, ts_up, y=no_label))

z = marked_noise((n, 1, 28, 28), KEY, nonces, generator=seeded(0))
marked = drawn_from(z, asked)
plain = drawn_from(torch.randn(z.shape, generator=seeded(0)), asked)

# %%
signs = noise_of(marked).sign()                             # a forger's: no key, no nonce
own = torch.randn(z.shape, generator=seeded(3)).abs()
others = (asked + 5) % 10
forged = drawn_from(signs * own, others, w=2.0)             # other digits
noisy = marked + 0.1 * torch.randn(z.shape, generator=seeded(4))
rows = {}
for name, x, key in (("marked", marked, KEY), ("without a mark", plain, KEY),
                     ("marked, another key", marked, KEY + 1),
                     ("marked, noise of 0.1", noisy, KEY),
                     ("forged, without the key", forged, KEY)):
    found = detect(noise_of(x), key, nonces, min_abs=0.4)
    rows[name] = {"signs counted": found.signs.double().mean(),
                  "agree": (found.agreeing / found.signs).mean(),
                  "detected at 1e-2": (found.p_value <= 1e-2).double().mean(),
                  "at 1e-6": (found.p_value <= 1e-6).double().mean()}
tables.table(rows, {"signs counted": ".0f", "agree": ".1%", "detected at 1e-2": ".0%",
                    "at 1e-6": ".0%"}, index="pictures", caption=f"{n} digits")
plots.show({"marked": marked[:10], "forged": forged[:10]}, columns=10)
agreement = metrics.class_agreement(forged, others)
print(f"read as the digit that the forger wanted: {agreement:.0%}")

# %% [markdown]
# **What is shown.** The mark is found in each of the 100 digits, with about 91 of 784 signs counted; without it, or with another key, in none. Noise of 0.1 hides it in most at $10^{-6}$. Only signs count where the inverted noise is at least 0.4, because plain places of a picture keep little of it. The inversion begins with one long step, to $\sigma/\alpha = \frac12$; of several starts this one found the most. The *forged* digits are drawn by somebody who has the marked ones and the model, but no key. Inverted, their signs kept, and other digits drawn from them with $w = 2$: 74 of 100 are read as the digit that was wanted, and about half are "detected" at $10^{-6}$. (In the table below it is a fifth: there the marked digits, too, are drawn with $w=2$.) A mark says "from this noise", and not "this picture is ours".
#
# Attacks, with the numbers of pictures in the first caption (forged figures, and figures with captions, a fifth of it), and the price in variety (100 pictures; photographs 64). Mini-SD's are drawn without a caption. *Real* are digits, and pixel figures for both other models (`python benchmarks/watermarks.py mini_sd`, `mnist_small`, `cifar10`):

# %%
with open(storage.ASSETS / "watermarks.csv") as file:
    table = {(row["model"], row["row"]): row for row in csv.DictReader(file)}
models = list(dict.fromkeys(model for model, _ in table))

def share(model, name, level="detected_1e6"):
    row = table.get((model, name))
    return f"{float(row[level]):.1%}" if row else ""

names = ("clean", "noise 0.02", "noise 0.1", "JPEG 90", "JPEG 50", "crop and resize",
         "regenerated", "forged, signs kept")
sizes = ", ".join(f"{model} {table[model, 'clean']['n']}" for model in models)
tables.table({name: {model: share(model, name) for model in models} for name in names},
             index="pictures", caption=f"Detected at 1e-6; n: {sizes}")
nulls = {name: {model: share(model, name, "detected_1e2") for model in models}
         for name in ("another key", "real", "drawn by mnist", "drawn by nouns")}
nulls["by (7.41)"] = {model: f"{float(table[model, 'real']['level_1e2']):.1%}"
                      for model in models}
tables.table(nulls, index="no mark of this key", caption="Detected at 1e-2")

# %%
tables.table({f"{k} of 5 parts named": {
    f"w = {w}{end}": share("mini_sd", f"{k} parts named, w = {w}{end}")
    for w in (1, 2) for end in ("", ", known")} for k in (1, 3, 5)},
    index="mini-SD's caption", caption="Detected at 1e-6; known: to the inversion, too")
one = [f"one subject, {kind}" for kind in ("unmarked", "fresh nonces", "one nonce")]
one += [f"one caption of 5 parts, w = {w}" for w in (1, 2)]
tables.table({name: {model: float(table[model, name]["variety"])
                     for model in models if (model, name) in table} for name in one},
             ".3f", index="pictures", caption="Distance of two: the price in variety")

# %% [markdown]
# **What the tables show.** Clean, digits and mini-SD's figures without a caption are found, in 99 and 97 %, and after weak noise. After JPEG 90 digits are found (99 %), figures of 32 x 32 colour pixels in 62 %. Cropping and resizing moves every pixel and defeats the detector, nearly; so does regeneration, which noises the picture and denoises it again. Photographs hold the mark best: only cropping hides it, in half of them, and a forger keeps it in all. Where there is no mark, the rate at $10^{-2}$ is as (7.41) says: a little below 1 %, since a count is a whole number.
#
# The third table has the surprise: **a mark needs room**. The more parts a caption names, and the stronger the guidance, the fewer marks are found. A part of that is the detector's ignorance: with one part named and $w=1$, 5.5 % become 57 % if the inversion knows the caption. With five parts hardly any is found even then. Two pictures of one such caption differ by 0.01, so probably too little is left for the noise to decide. Mini-SD's service, at $w=2$ with captions, cannot be protected in this way. The photographs are drawn under a label at $w=1$, and 826 of their signs are counted (digits: 91). The last table is the price: with one nonce for all, digits of one subject share their signs, and differ by 0.37 in place of 0.59. **Tree-ring** marks (Wen et al. 2023) put a ring into the noise's Fourier transform instead; the noise is then no longer Gaussian.

# %% [markdown]
# ## 7.26 Cards and rules
#
# **What must somebody know who takes your model?** A **model card** (Mitchell et al. 2019) says what a model is, what it is for and what not, on which data it was trained and judged, how well it does, for whom it does worse. A **data sheet** (Gebru et al. 2021) asks the same of data: who is in them, who was asked, under which licence. `python tools/cards.py` writes one for every file that this course ships ([docs/cards](../docs/cards/README.md)). Numbers come from the files; what nobody wrote down is called "not recorded". How much is in our own headers?

# %%
def recorded(about):
    """What the header of a checkpoint says: {what: yes or no}."""
    metrics = about.get("metrics", {})
    seconds = metrics.get("training", metrics).get("seconds", about.get("seconds"))
    return {"its command": "command" in about,
            "its data": "data" in about or "source" in about,
            "a measured number": any(k == "metrics" or k[:5] == "test_" for k in about),
            "the seconds of its training": isinstance(seconds, int | float),
            "the date": "date" in about,
            "what it is for, its limits, who was asked": "intended_use" in about}

abouts = [storage.load_header(file).get("about", {})
          for file in sorted(storage.CHECKPOINTS.glob("*.safetensors"))
          if file.stem != "mini_sd_faded"]                  # an adapter: diffusers' header
rows = {what: {"headers": sum(recorded(about)[what] for about in abouts),
               "of": len(abouts)} for what in recorded({})}
tables.table(rows, index="says", caption="The headers of the shipped checkpoints")

# %% [markdown]
# **What the table shows.** A program writes down what it knows: the command, the data. Fewer headers say how long the training took, none says when. None says what the model is for or who was asked. A person writes that (`tools/cards.toml`), or nobody.
#
# **Licences** travel with data. MNIST's is **share-alike**, CC BY-SA 3.0: who passes on an *adaptation* must use the same licence. Are trained weights one? That is not settled; our cards say so, and list all data behind a model, also through a teacher or an autoencoder. CC BY asks that makers be named, CC0 asks nothing, CIFAR-10 states no licence. A licence is the author's **consent**, not that of the people shown: a card has a line for each.
#
# **Disclosure.** Say that a picture was made by a model, in the file and beside it. Rules ask for that, too; they have dates: section 7.35.

# %% [markdown]
# ## 7.27 A service
#
# **What is between a model and people who use it?** `make app` starts mini-SD behind a web page at http://127.0.0.1:7860: prompt, negative prompt, seed, steps, guidance, sampler, image-to-image, inpainting with a brush (by the nine channels of (7.19)), a preview of the prediction while it draws. No other machine can reach it, and it reaches none: no analytics, no fonts or scripts from elsewhere. The same service answers JSON. Its parts are small (`course_lib/web/`), and can be used without the page:

# %%
def drawn(service, **fields):
    """Ask, and look until it is done: what a client does."""
    id = service.ask(fields)
    while (seen := service.look(id))["state"] in ("waiting", "drawing"):
        time.sleep(0.05)
    return seen

painter = Painter(mini, vae, name="mini_sd")
with Service(painter, Limits(steps=20, queue=4)) as service:
    seen = drawn(service, prompt="a frog-headed noun with magenta glasses", seed=7)
    picture = Image.open(io.BytesIO(seen["pictures"][0]))
    print(seen["state"], picture.size, picture.text)
    for fields in ({"prompt": "a" * 1000}, {"steps": 10**9}, {"guidance": float("nan")},
                   {"sampler": "../../etc/passwd"}, {"seed": -1}, {"file": "/etc/passwd"}):
        try:
            service.ask(fields)
        except Refused as refusal:
            print(refusal)

# %% [markdown]
# **What is printed.** The picture's file has the settings it was drawn with. Each refusal is one sentence, and none of these requests reached the network. Four rules of the service, each with its reason:
#
# - **Everything has a limit.** Prompt, steps, batch, the size of what is sent, the queue, the time to wait and to draw.
# - **One request draws, the others wait.** A queue that is full refuses at once.
# - **Nothing of one client reaches another.** A request is known by a random id alone; its prompt is forgotten once it is drawn, but for the note in the client's own picture, and the log has no prompts.
# - **A client that has left costs nothing.** Who does not look for ten seconds is given up, in the middle of a drawing, too.
#
# **Does it hold?** `python benchmarks/service.py` sends 20 requests at once, then 60, then 20 with 20 and with 60 hostile clients beside them: nonsense, huge numbers, path names, connections that die or send two bytes a second. Each client of the table asks for one picture of 10 steps; the queue holds 16, and a turn must come within 60 s (then it is drawn). On two idle cores:
#
# | clients at once | served | refused | served: median, 95 %, longest |
# | --- | --- | --- | --- |
# | 20 | 17 | 3 | 5.0, 8.3, 8.3 s |
# | 60 | 17 | 43 | 3.9, 7.3, 7.3 s |
# | 20, and 20 hostile | 14 | 6 | 11.5, 13.9, 13.9 s |
# | 20, and 60 hostile | 9 | 11 | 12.0, 13.7, 13.7 s |
#
# All others got a refusal in one sentence. Nobody got another's picture, no hostile client anything but a refusal or a cut line, the log had no word of a prompt, and the service came to rest.
#
# **What does a picture cost?** A machine costs $c$ an hour and draws a picture in $s$ seconds; it is busy a fraction $u$ of the time:
#
# $$\text{cost of 1,000 pictures} = \frac{1000\,s\,c}{3600\,u} \tag{7.42}$$

# %%
seconds = mini.about["metrics"]["seconds"]                              # of the header
for row in seconds:
    each = row["mini_sd"] / row["batch"]
    print(f"batch {row['batch']}: {each:.3f} s a picture; at a price of 0.10 an hour "
          f"and u = 0.5, {1000 * each * 0.10 / 3600 / 0.5:.4f} for 1,000")

# %% [markdown]
# Batches lower $s$, and clients wait while they fill. With many clients one puts a server in front that does this, such as NVIDIA Triton or Ray Serve. `Containerfile` describes a container (not tried: no container engine was at hand).

# %% [markdown]
# ## 7.28 Anomalies, and where likelihood fails · deeper
#
# **Is this picture a digit at all?** A service would like to refuse others. One thinks of the likelihood: what has a low density must be strange. Lesson 6's `mnist_likelihood` gives each picture its bits per dimension, by the bound (6.35). How well a score $s$ tells the odd from the normal is the **AUROC**, the probability that it puts an odd one higher:
#
# $$\mathrm{AUROC} = P(s_{\text{odd}} > s_{\text{normal}}) + \tfrac12 P(s_{\text{odd}} = s_{\text{normal}}) \tag{7.43}$$
#
# $\frac12$ is a coin, 1 perfect; below $\frac12$ the score takes the odd ones for the more normal.

# %%
Q = train.load("mnist_likelihood", "cpu")
digits = data.mnist("test")[0][:32]
order = torch.rand(32, 784, generator=seeded(5)).argsort(1)
kinds = {"digits": digits, "black": torch.full_like(digits, -1), "black on white": -digits,
         "pixels shuffled": digits.flatten(1).gather(1, order).view_as(digits)}

def bits(x):
    """Bits per dimension of pictures of 256 levels: (N,)"""
    ts = Q.schedule.t_from_log_snr(torch.linspace(15, -8, 21, dtype=torch.float64))
    noisy = x + 2 / 255 * (torch.rand(x.shape, generator=seeded(1)) - 0.5)
    nats = sde.variational_bound(Q, Q.schedule, noisy, ts, generator=seeded(0))
    return nats / 784 / np.log(2) - np.log2(2 / 255)

def auroc(normal, odd):
    """(7.43)"""
    above, equal = (odd[:, None] > normal), (odd[:, None] == normal)
    return (above.double() + 0.5 * equal.double()).mean()

found = {name: bits(x) for name, x in kinds.items()}
tables.table({name: {"bits": b.mean(), "std": b.std(), "AUROC": auroc(found["digits"], b)}
              for name, b in found.items()}, ".2f", index="pictures",
             caption="Bits per dimension, 32 pictures of each kind")

# %% [markdown]
# A black picture has fewer bits than any digit: to the model it is *more* likely. No mistake: the density at a point and the probability of a region are two things. High-dimensional data lie where density times volume is large, not where the density is largest (a bell in 784 dimensions is highest at its mean, and its draws lie about 28 deviations away). Three repairs: distance from the *usual* number of bits, to either side (**typicality**; Nalisnick et al. 2019); the bits less those of a picture that is as complex, as a general compressor measures it (Serrà et al. 2020),
#
# $$S(x) = -\log_2 p(x) - L_{\text{PNG}}(x) \tag{7.44}$$
#
# and the error of denoising, which asks what the model can restore. Two scores without a diffusion model stand beside them: the PNG's length alone, and the distance to the nearest training digit.

# %%
rows = {row["kind"]: row for row in shipped("anomaly")}
scores = ("bits", "two-sided", "bits - PNG", "denoising", "PNG", "nearest")
tables.table({kind: {name: with_error(row, name, 2) for name in scores}
              for kind, row in rows.items()}, index="kind",
             caption=f"AUROC against test digits, {rows['digits']['n']:.0f} of each")

# %% [markdown]
# **What the table shows.** By its bits, a blank picture, a dot and half a digit look *more* normal than digits: 0.00 to 0.12. The first two repairs turn these three around, to 0.83 and more. But less the PNG, two digits in one picture pass (0.39); and the error of denoising fails at the blank one and at the dot. The distance to the nearest training digit, without any model, fails at these two as well, and at faint digits. The two-sided score alone is at least 0.82 for every kind of anomaly. Which kinds are asked about decides which score wins. Choosing one by a table of anomalies is choosing for these anomalies.
#
# ## 7.29 What accumulation keeps · deeper
#
# **Why does accumulating stop the fall?** After $k-1$ batches the pool has $N = (k-1)n$ numbers, the mean $m$ and the fitted variance $s^2$. A new batch of $n$ is drawn from this fit. Sums of squares around the mean add up, as in any analysis of variance: $N s^2$ of the pool; within the batch, on average $(n-1)s^2$; and between the two means, $\frac{Nn}{N+n}$ times their squared distance, which is $\frac{s^2}n$ on average. Together, divided by $N + n = kn$:
#
# $$\mathbb E\,s_k^2 = s_{k-1}^2\,\frac{N + n - 1 + \frac N{N+n}}{N+n} = s_{k-1}^2\Big(1-\frac1{n\,k^2}\Big) \tag{7.45}$$
#
# (since $1 - \frac N{N+n} = \frac1k$). The first fit to $n$ real numbers has $1-\frac1n$, the case $k=1$. So after $g$ fits, with Euler's product for the sine,
#
# $$\mathbb E\,\sigma_g^2 = \sigma_0^2\prod_{k=1}^g\Big(1-\frac1{n\,k^2}\Big) \;\longrightarrow\; \sigma_0^2\,\frac{\sin(\pi/\sqrt n)}{\pi/\sqrt n} \tag{7.46}$$
#
# For large $n$ that is a loss of $\frac{\pi^2}{6n}$, whatever the number of generations. (Gerstgrasser et al. 2024 find the same $\pi^2/6$ for the error of linear regression.)

# %%
factors = 1 - 1 / (20 * torch.arange(1, 31) ** 2.0)
z = np.pi / 20**0.5
print(f"after 30 fits to n = 20: measured {toy['accumulate'][-1]:.3f}, by (7.46) "
      f"{factors.prod():.3f}, at last {np.sin(z) / z:.3f}; "
      f"replaced {toy['replace'][-1]:.3f}, by (7.33) {(1 - 1 / 20) ** 30:.3f}")

# %% [markdown]
# ## 7.30 Eight bits, and other programs · deeper
#
# **A smaller number format** saves memory where the weights are kept in it, and time where the hardware multiplies it. **Symmetric int8** keeps for each row of a weight matrix a scale and whole numbers:
#
# $$W_{ij} \approx s_i\,q_{ij}, \qquad s_i = \frac{\max_j|W_{ij}|}{127}, \qquad q_{ij} = \operatorname{round}\frac{W_{ij}}{s_i} \tag{7.47}$$
#
# **Weight-only**: $q$ is stored, $s\,q$ multiplied in float. **Dynamic**: the inputs become int8 as well, with a scale of their own at each call, and the product is one of whole numbers.

# %%
W = mini.net.unet.middle.transformers[0].mlp.proj.weight.detach().cpu()
q, s = int8.quantize_int8(W)
off = (q * s - W).abs()
print(f"{tuple(W.shape)}: {W.numel() * 4:,} bytes, as int8 {q.numel() + 4 * s.numel():,}; "
      f"off by at most {(off / s).max():.2f} s, in all by "
      f"{off.square().mean().sqrt() / W.std():.1%} of the weights' spread")
names = ("lesson 5's default", "bf16", "int8 weights", "int8, dynamic", "ONNX Runtime",
         "torch.compile")
rows = {name: {"touched": shown_as(row["touched"], ".0%"),
               "U-Net, ms each, batch 1": shown_as(row["unet_ms_1"], ".2f"),
               "batch 64": shown_as(row["unet_ms_64"], ".2f"),
               "MB": shown_as(row["megabytes"], ".1f"),
               "worst part": worst(row), "note": row["note"]}
        for name, row in speed.items() if name in names}
tables.table(rows, index="", caption="The same 20 evaluations, computed in other ways")

# %%
tables.table(lab, lab_form, index="", caption=f"All rows; {timed}")

# %% [markdown]
# **What the table shows.** Int8 touches the linear layers alone, 28 % of the multiply-adds: the others are convolutions, attention's products, and the parts outside the U-Net (6 %). Weight-only saves a quarter of the memory and no time, probably since each product first makes floats of the weights. Dynamic int8 is slower at batch 1, probably because to find each layer's scale costs more than its product saves, and hardly faster at 64. torch.compile and ONNX Runtime fuse small operations, and save most at batch 1, probably since calls, and not products, are the time there. On another machine the order may be another one.
#
# **All rows.** Heun on its own grid fails at five steps; solver and grid were changed together, so the row does not say which of them fails. A student of half the width, taught for 800 steps, loses 88 points of its accessories: too small, or taught too briefly. ONNX Runtime makes five unguided steps faster. With a guided first step its U-Net is faster, too, but the whole takes 90 ms in place of 70; why, these rows do not say.

# %% [markdown]
# ## 7.31 Was this picture in the training? · deeper
#
# **Membership inference.** A model's loss is a little lower on what it was trained on. As a score it is poor: easy digits have a low loss, too, whoever saw them. A **reference** model that saw neither members nor non-members says how hard a picture is, and is subtracted (Watson et al. 2022):
#
# $$s(x) = \mathcal L_{\text{reference}}(x) - \mathcal L(x) \tag{7.48}$$
#
# with the same times and noises in both. How well it tells members from others is the AUROC (7.43), the probability that a member scores higher. An accusation needs more: a threshold, fixed on *other* non-members so that one in a hundred is accused wrongly. And members and non-members must come from one pool. MNIST's test digits have other writers; whoever takes them as non-members measures handwriting as well. (`python benchmarks/lesson7_release.py membership`)

# %%
rows = [{"n": f"{int(row['n']):,}", "score": row["score"], "non-members": row["others"],
         "AUC": f"{float(row['auc']):.3f} ± {float(row['se']):.3f}",
         "members found": float(row["tpr"]), "wrongly accused": float(row["fpr"])}
        for row in rows_of("membership")]
form = dict.fromkeys(["members found", "wrongly accused"], ".1%")
tables.table(rows, form, caption="Models of n digits; the threshold aims at 1 %")

kept = np.load(storage.ASSETS / "lesson7_membership.npz")
loss = {name: torch.from_numpy(kept[f"{name}_500"]) for name in ("members", "pool")}
s = {name: release.membership_scores(own, other) for name, (own, other) in loss.items()}
by_hand = auroc(s["pool"], s["members"])                    # (7.43)
assert abs(by_hand - release.auc(s["members"], s["pool"])) < 1e-9
print(f"n = 500, calibrated, {len(s['pool']):,} of the pool: {by_hand:.3f} "
      "(the table: half of them)")

# %% [markdown]
# **What the table shows.** For a model of 500 digits the loss alone tells members from others hardly better than a coin (0.56). Calibrated by the reference it is right in three pairs of four; but at the threshold of an accusation it finds one member in twenty. For 5,000 digits nothing is left but 0.527 ± 0.013. With test writers in place of the pool both scores by the loss alone fall by 0.03: their digits are a little easier, which is probably handwriting, and not membership.

# %% [markdown]
# ## 7.32 Erased, and back again · deeper
#
# **Can a concept be taken out of a trained model?** **ESD** (Gandikota et al. 2023) trains the prompt $c$ to mean what guidance *away* from it means in the frozen model $D^*$:
#
# $$D(x, t, c) \;\leftarrow\; D^*(x, t, \varnothing) - \eta\,\big[D^*(x, t, c) - D^*(x, t, \varnothing)\big] \tag{7.49}$$
#
# Here the label 7 of `mnist_small` is erased, with $\eta = 1$, on the model's own samples; the other labels keep their predictions. Then one asks at the other doors: without a label, and from a real 7 that is noised to $t = 0.6$. And 20 real digits are shown to it: sevens; to a network that was trained without any 7, for comparison; and, to the erased model, any others. (`python benchmarks/lesson7_release.py erasure`)

# %%
doors = {"asked": "asked for a 7", "no_label": "without a label",
         "from_a_seven": "from a noised 7", "others_right": "other labels right"}
rows = {row["model"]: {text: measured(row, name, ".0%") for name, text in doors.items()}
        for row in rows_of("erasure") if not row["shown"]}
tables.table(rows, index="model", caption="Sevens among the samples")
curves, errors = {}, {}
of = {}
for row in rows_of("erasure"):
    if row["shown"]:
        of.setdefault(f"{row['model']}, shown {row['shown']}", []).append(row)
for name, found in of.items():
    steps = sorted({int(row["steps"]) for row in found})
    hits = [[float(row["asked"]) for row in found if int(row["steps"]) == k] for k in steps]
    curves[name] = torch.tensor(hits).mean(1)
    errors[name] = torch.tensor(hits).std(1)
plots.curves(torch.tensor(steps), curves, errors=errors, xlabel="steps of 64",
             ylabel="sevens", title="Asked for a 7, after showing 20 digits; three seeds")

# %% [markdown]
# **What table and figure show.** Asked for a 7, the erased model draws one in 2 % (100 % before), and the other labels are unharmed. From a noised 7 it draws sevens as before; but so does the network that never saw one, so this door says nothing of what a model knows: at $t=0.6$ the picture still shows in the noise. The figure does. After 20 steps on 20 real sevens, 98 % are back, with all three seeds. The network without sevens draws none after 40 such steps, and other digits bring none back. So the 7 was probably hidden, and not gone (the other network was trained for 800 steps, `mnist_small` for 5,000). Without a label it draws fewer sevens, too, 1 % in place of 8, which nobody asked for.

# %% [markdown]
# ## 7.33 Filters, and their two error rates · deeper
#
# **Can a service refuse what it must not draw?** A filter on prompts reads words; section 7.32 has other doors. A filter on pictures is a classifier, and errs in two ways: it **misses** a fraction $m$ of what it should refuse, and **refuses falsely** a fraction $f$ of the rest. A threshold trades one for the other. What a refusal is worth depends on how rare the forbidden is. If a fraction $\pi$ of the requests is, the refusals that are right are
#
# $$\frac{\pi\,(1-m)}{\pi\,(1-m) + (1-\pi)\,f} \tag{7.50}$$
#
# of all. Let 7 be forbidden. The filter is the course's digit classifier; clean digits are the easy case, turned and noisy ones come from somebody who wants to pass.

# %%
x, y = (part[:2000] for part in data.mnist("test"))
is_seven = y == 7
noisy = x + 0.3 * torch.randn(x.shape, generator=seeded(0))
attacks = {"clean": x, "noise of 0.3": noisy.clamp(-1, 1), "upside down": x.flip(2, 3)}

def right_refusals(pi, m, f):                               # (7.50)
    return pi * (1 - m) / (pi * (1 - m) + (1 - pi) * f)

rows = {}
for name, pictures in attacks.items():
    p = features.digit_probabilities(pictures)[:, 7]
    for threshold in (0.001, 0.01, 0.5) if name == "clean" else (0.5,):
        refused = p > threshold
        missed, falsely = (~refused[is_seven]).sum(), refused[~is_seven].sum()
        m, f = missed / is_seven.sum(), falsely / (~is_seven).sum()
        known = missed < is_seven.sum() and falsely > 0     # else (7.50) is a guess
        rows[f"{name}, p > {threshold}"] = {
            "missed": f"{missed} of {is_seven.sum()}",
            "refused falsely": f"{falsely} of {(~is_seven).sum():,}",
            "right refusals, if 1 in 10": right_refusals(0.1, m, f) if known else None,
            "1 in 1,000": right_refusals(0.001, m, f) if known else None}
tables.table(rows, dict.fromkeys(["right refusals, if 1 in 10", "1 in 1,000"], ".0%"),
             index="filter", caption="The filter: the classifier's probability of a 7")

# %% [markdown]
# **What the table shows.** On clean digits a threshold of 0.5 is nearly perfect. (None of 1,795 refused falsely: so $f$ is below 0.2 % with 95 % confidence, three in 1,795, and not zero.) At 0.001 nothing was missed, and nineteen of twenty refusals would be wrong if one request in a thousand asks for a 7. Whoever wants to pass, passes: with noise of 0.3 all sevens, upside down 202 of 205. Rates that were measured on clean pictures say nothing of these.
#
# ## 7.34 A signature in the file · deeper
#
# **C2PA** is a standard for a signed note in the file: who made it, with what. Change one byte, and the signature is wrong. Save the picture anew, and the note is gone, without a trace. `python tools/recipes/sign_c2pa.py` signs a digit with `c2pa-python` and reads four files. Signed, it is *valid*, made by a *trained algorithmic medium*, by somebody on no list of trust. With one byte of a pixel changed, it is *invalid*: the hash does not match. Opened and saved anew, there is *no manifest*, and the pixels are the same. The signature makes 31 kB of 1.5 kB.

# %% [markdown]
# ## 7.35 Rules, and questions without a single answer · deeper
#
# This is no legal advice. The table was written from what was known in **November 2025**; the last column says what to look up before you rely on a row.
#
# | rule | what it says | date and source | check |
# | --- | --- | --- | --- |
# | EU, AI Act, article 50(2) | The **provider** of a system that generates pictures, sound, video or text marks the output in a machine-readable way, so that it can be detected as artificial: effective, interoperable, robust and reliable, as far as technically feasible. Not where it only assists ordinary editing. | Regulation (EU) 2024/1689, in force since 1 August 2024; article 50 applies from 2 August 2026 (article 113) | the next row |
# | ..., the "digital omnibus" | The Commission *proposes* to give systems that were on the market before 2 August 2026 until 2 February 2027 for 50(2). | proposal of 19 November 2025 | whether, and how, it was adopted; whether the code of practice on marking is there |
# | ..., article 50(4) | The **deployer**, who uses such a system, discloses a **deep fake**. In evidently artistic or satirical work it is enough to say that it was generated, in a way that does not spoil the work. | as 50(2) | |
# | ..., article 50(1), (5) | Who talks to a system is told that it is one, unless that is obvious. All this clearly, and at the latest at the first encounter. | as 50(2) | |
# | ..., article 2(12) | A free and open-source licence exempts from much of the Act, not from article 50. | as 50(2) | |
# | ..., article 53(1) | Providers of *general-purpose* models keep a copyright policy and publish a summary of the training data: a data sheet by law. | applies from 2 August 2025 | whether your model is one (mini-SD is hardly) |
# | C2PA | No law, a technical standard: a signed statement in the file about where it comes from. Who removes it leaves no trace (section 7.34). | version 1.0, January 2022 | the current version |
# | US Copyright Office, part 2 | Works need a human author. Prompts alone, as systems are today, do not give enough control. | report of 29 January 2025, no law | later cases |
# | ..., part 3 | Training on protected works may be fair use or not, case by case. | pre-publication version, 9 May 2025, no law | the final version; later cases |
# | ..., part 1 | A federal law on digital replicas of persons is recommended; protection of an artist's style is not. | report of 31 July 2024, no law | |
# | US, Take It Down Act | Intimate pictures of people published without their consent are a crime, generated ones as well; platforms remove them within 48 hours of a valid request. | signed 19 May 2025; platforms have a year for their procedure | |
# | Getty Images v Stability AI, England | The weights of Stable Diffusion are no "infringing copy", since they do not store the works; trade marks were infringed to a small extent, by generated watermarks. The claim about training itself had been dropped. | High Court, [2025] EWHC 2863 (Ch), 4 November 2025 | appeal? |
# | GEMA v OpenAI, Munich | Song texts that a language model has memorised *are* reproduced in its weights. | Landgericht München I, 11 November 2025, 42 O 14139/24 | appeal? |
#
# Two courts, one week apart, on what weights are. The facts differed: pictures that could not be shown to be stored, and texts that came out word for word. So the measurements of this part, near copies and duplicates, are what such a dispute is about.
#
# **Deep fakes.** The Act's term (article 3(60)) means content that resembles existing persons, objects, places or events and would falsely appear authentic. A pixel figure is none. A face or a voice of a real person can be, whatever the licence of the data says.
#
# **Style.** Copyright protects works, not a style as such. That does not make it fair to train an adapter on a living person's dozen pictures and to sell what it draws under their name; names and marks have rules of their own.
#
# **Who is what?** With section 7.27's service you would be a provider: mark what comes out (metadata, a C2PA signature, each lost when the picture is saved anew; Gaussian Shading only where a caption leaves room, 7.25). Who puts such a picture on a page is a deployer: the caption says so.
#
# **Five questions, each with more than one answer that can be defended.**
#
# 1. The people who wrote MNIST's digits were, as far as we know, never asked. Nothing names them, and everyone uses the digits. What would have to be in the pictures for your answer to change: a signature, a face, an illness?
# 2. Lesson 6 measured near copies among samples of drums and shapes, beside held-out data. At what share of near copies are weights a copy of their data: any, more than held-out data have, half? Would the share change which licence you give them?
# 3. Two adapters, each trained on a dozen pictures by one artist. One artist has chosen CC0, the other has said no on their page. The mathematics is the same. What may you publish: the pictures, the adapter, the recipe?
# 4. A watermark detector has a false-positive rate of one in a million, and somebody can forge the mark. A student's drawing is flagged. What should follow from it, and who should be told of the rate?
# 5. Weights that you released contain one person's photographs, and the person asks you to take them out. Others have downloaded the file. What do you owe: a new file, a note on the card, a retraining, nothing that helps? What could you have done before?

# %% [markdown]
# ## 7.36 What we built
#
# **Part I.** A Stable Diffusion in a folder of short files: a byte-pair code, CLIP's text encoder, a U-Net with transformers in it, an autoencoder, a sampler that was there already; and a map of names, through which the published weights get in. In small it was trained on one core, and then taught a new head, to follow an outline, and to please a judge.
#
# **Part II.** Applications, each beside what does it without a diffusion model. A table of what makes a model fast. What a model keeps of its data, what guidance does to a skew, how well a mark holds. Cards of all models, and a service on this machine.
#
# **Six things to remember.** (1) A convention that is got wrong makes a picture that may look right. Compare numbers, block by block, at random weights, in float64. (2) What begins at zero changes nothing at first and learns all the same, as long as one of two factors is not zero: LoRA's $B$, a ControlNet's convolutions, the new channels of an inpainting model. (3) What a model is trained for gets better, and what is not measured may get worse. So measure something else, too, and say what was held out. (4) A comparison needs the plain rival and the tuned one: augmentation beside synthetic data, few steps beside a new method. (5) A rate needs its null: twins need strangers, near-copies need held-out data, a mark needs pictures without it. (6) What protects against accidents does not protect against somebody who tries: marks are forged, filters passed, concepts brought back.
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
# | conditioning by concatenation | the condition as more channels of the input |
# | perception-distortion tradeoff | nearer to the truth on average, or more like real pictures |
# | generative classifier | the label whose denoising loss is smallest |
# | model collapse | what repeated training on own samples loses |
# | latency, median, 95th percentile | the time of one answer; of half, of all but one in twenty |
# | near-copy, pair correlation | nearer to the training than nearly all held-out data; of two models from one noise |
# | watermark, key, nonce, p-value | a mark; a secret; a number used once; the chance of such a count without the mark |
# | model card, data sheet | what is said about a model, about data |
# | AUROC, typicality (section 7.28) | how well a score separates; a usual score rather than a large density |
# | membership inference (section 7.31) | was this example in the training? |
# | misses, false refusals (section 7.33) | the two errors of a filter |
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
# | (7.30) | Blau & Michaeli 2018, *The Perception-Distortion Tradeoff*; Saharia et al. 2021, *SR3* |
# | (7.31), (7.32) | Li et al. 2023, *Your Diffusion Model is Secretly a Zero-Shot Classifier*; Clark & Jaini 2023 |
# | (7.33), (7.45), (7.46) | Shumailov et al. 2024, *AI models collapse when trained on recursively generated data*; Gerstgrasser et al. 2024 |
# | (7.35) | Amdahl 1967 |
# | (7.36) | Ma et al. 2024, *DeepCache* |
# | (7.37), (7.38) | Kadkhodaie et al. 2024, *Generalization in diffusion models arises from geometry-adaptive harmonic representations*; Carlini et al. 2023, *Extracting Training Data from Diffusion Models* |
# | (7.40), (7.41) | Yang et al. 2024, *Gaussian Shading* |
# | (7.43), (7.44) | Nalisnick et al. 2019; Serrà et al. 2020, *Input complexity and out-of-distribution detection* |
# | (7.47) | as in PyTorch's torchao |
# | (7.48) | Watson et al. 2022, *On the Importance of Difficulty Calibration in Membership Inference Attacks* |
# | (7.49) | Gandikota et al. 2023, *Erasing Concepts from Diffusion Models* |
#
# (7.10) and (7.26) are ours; (7.34), (7.39), (7.42) and (7.50) are arithmetic. **Next:** a project of your own. The sheet ends with three, a template and a worked example.
