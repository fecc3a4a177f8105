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
# This lesson takes Stable Diffusion apart and puts it together again. Its parts are known: the autoencoder of lesson 6, the U-Net of lesson 2, the schedule of lesson 1, the samplers of lesson 4, the guidance and the captions of lesson 5. What is new is small, and most of it is *convention*: an order of two halves, a padding number, a step that counts from 1. A convention that is got wrong rarely shows in a picture and always in a number. So the lesson is about both, how the model works and how one knows that a reimplementation is right.
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
# | 7.13 Guidance in one pass | deeper | 3 | half the cost of a step |

# %% tags=["setup"]
{{setup}}

# %%
import copy
import time
import warnings

import torch
import torch.nn.functional as F

from course_lib import Schedule, cfg, ddim, dpmpp, last, timesteps
from course_lib.editing import sdedit
from course_lib.lab import (
    attributes,
    data,
    noun_parts,
    plots,
    profiling,
    sampling,
    tables,
    train,
)
from course_lib.lab.evaluation import faults
from course_lib.networks.stable_diffusion import layout, lora
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
# **What the table shows.** «Every part within three points; the time, text and decoder included.» The captions of the training come in three wordings. With lesson 5's alone a comma stands before every part but the head, and the glasses of these test captions have none. An earlier training of that kind, which is not kept, drew 70 % of the glasses right, beside 98 % and more of all other parts. Probably it found them by their comma: a network uses whatever tells parts apart in its captions.
#
# **From a picture.** Everything of lesson 5 works here, in the latents: noise a latent up to a level and denoise it under another caption (`sdedit`), or lead guidance away from a caption in place of the empty one (a **negative prompt**).

# %%
z = vae.to_latents(x[:4].to(device))                                    # (4, 8, 8, 8)
other = mini.net.tokenizer(noun_parts.plain_captions(parts[4:])).to(device)
guided = cfg(mini, 2.0, mini.net.null)
rows = {"before": x[:4]}
for strength in (0.02, 0.05, 0.1, 0.3):
    states = sdedit(guided, mini.schedule, z, strength, 10, sampler=dpmpp,
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
# **What the figures show.** *Image to image*: at strength 0.02 the old figure stands under a few new colours, at 0.1 the new one is there, although its latent still had the old one in it, with a log SNR of 2.1. In training caption and picture never disagreed, so nothing taught the network which of the two to believe; probably it takes the caption, which is never noisy. *Negative prompt*: the caption names no glasses. In these four pictures guidance away from black ones makes them lighter, and changes little else.
#
# ## 7.2 Text into vectors
#
# Lesson 5's tokenizer knows the words of its captions and no others. Stable Diffusion has to read anything that people type. **How do you make a vocabulary that can write every text, and writes common words short?** With **byte-pair encoding**, BPE (Sennrich et al. 2016). Start with the 256 bytes: they can write every text. Then look at the pair of neighbouring tokens that occurs most often in a large collection of texts,
#
# $$(a, b)^* = \arg\max_{(a, b)}\;\sum_{\text{words } u} n_u\,\big|\{k: u_k = a,\ u_{k+1} = b\}\big| \tag{7.1}$$
#
# with $n_u$ the number of times that the word $u$ occurs, and make it a token of its own. Repeat. Each merge makes the vocabulary larger by one and the texts shorter. A byte at the end of a word is another token than the same byte inside, written `a</w>`, so that a text can be put together again. CLIP's code has 512 + 48,894 + 2 = 49,408 tokens; the last two are start and end. Ours has 1,000. Three of its first merges, from ten words:

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
# A new text is encoded by the same merges in the order in which they were learned. The code of our captions is learned here, from 20,000 of them; the first look at it shows whole words where they are frequent, and pieces where they are not:

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
# **The text encoder** is one half of CLIP (Radford et al. 2021), a pair of networks that were trained to give a picture and its caption similar vectors. Stable Diffusion uses its text half, frozen, and reads *all* its token vectors, not the one that CLIP compares. It is the transformer of lesson 5 with three oddities. It is **causal**, each token attends to itself and those before it:
#
# $$\mathrm{softmax}\Big(\tfrac1{\sqrt d}\,QK^\top + M\Big)V, \qquad M_{ij} = \begin{cases} 0 & j\le i\\ -\infty & j>i\end{cases} \tag{7.2}$$
#
# so the vector of the first word does not know the last. Its activation in 1.x is **quick-GELU**, which approximates $\mathrm{GELU}(x) = x\,\Phi(x)$ with the normal distribution function $\Phi$ by a logistic one; 2.x has the exact function:
#
# $$\text{quick-GELU}(x) = \frac{x}{1+e^{-1.702\,x}} \tag{7.3}$$
#
# And 2.x reads the *last but one* layer of its encoder. The published file of 2.x has 23 of 24 layers, so the one that is wanted is its last; who skips another one has read too much into the paper.

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
# **What is printed.** Start, "a" and "red" have the same vectors in both texts; everything from the third word on differs, *the padding too*. Where a prompt says something at its end, only the padding after it can carry that to the whole: it is read for a reason.
#
# ## 7.3 The U-Net, line by line
#
# It is lesson 2's plan: encoder, middle, decoder, skip connections. What differs is in the blocks. **The time** enters as a step, $i = 0\dots T-1$ with $T = 1000$, and its embedding has cosines first:
#
# $$\mathrm{emb}(i) = \big(\cos i\,\omega_k,\; \sin i\,\omega_k\big)_{k<h}, \qquad \omega_k = 10000^{-k/h} \tag{7.4}$$
#
# with $h$ half its size. Lesson 2's has sines first and the exponent $k/(h-1)$. Neither is better; a network trained with one is useless with the other. In a block the embedding is **added** to the features of each channel, where lesson 2 had a scale and a shift (FiLM):
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
# The whole network is a class with the sizes as arguments. The published ones are its defaults, and mini-SD's are smaller; nothing else differs.

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
# **What the table shows.** Attention at three of four resolutions, always eight heads; so the heads have 40, 80 and 160 numbers. The configuration file calls the eight `attention_head_dim`. It is the *number* of heads: who takes the name at its word gets a network that loads without a complaint and draws noise. Two more oddities that no shape betrays: the norm before a transformer has $\varepsilon = 10^{-6}$, all others $10^{-5}$; and 2.x projects into the transformer by a linear layer, 1.x by a 1x1 convolution, which computes the same.
#
# ## 7.4 Names and files
#
# The published weights are a folder with one file for each network and a small configuration beside it. **A tensor is found by its name**, and the names are those of the code that wrote them. So we need a map, ours to theirs. A dozen substitutions do for the U-Net:

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
# The schedule is `Schedule.scaled_linear()`: $\sqrt\beta$ in a straight line, $T = 1000$ steps, our $t = (i+1)/T$. Not all of the picture is gone at its end, $\alpha_1 = 0.068$. The network predicts $\epsilon$ in 1.x and in the small 2.x, and $v$ in 2.x at 768 pixels: the file `scheduler_config.json` says which. Both are the same knowledge. From $x = \alpha x_0 + \sigma\epsilon$ and $v = \alpha\epsilon - \sigma x_0$ with $\alpha^2+\sigma^2 = 1$,
#
# $$\hat\epsilon = \alpha\,\hat v + \sigma\,x, \qquad \hat x_0 = \alpha\,x - \sigma\,\hat v \tag{7.8}$$
#
# **Which steps?** For $n$ steps our grid takes the last step of each of $n$ equal parts of the training steps (`trailing`), the published pipeline the first step of each, plus one (`leading` with offset 1):
#
# $$i_k = \Big\lfloor\frac{(n-k)\,T}{n}\Big\rceil - 1 \quad\text{(trailing)}, \qquad i_k = (n-1-k)\Big\lfloor\frac Tn\Big\rfloor + 1 \quad\text{(leading)},\qquad k = 0\dots n-1 \tag{7.9}$$
#
# So with 50 steps leading starts at step 981 of 999, though it starts from pure noise, and its last step is made from 1, not from 19. The offset of one is in the original code, and all pictures that people know of this model were drawn with it.

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
# **What the pictures show.** The same figures, with other details: the first step and the last differ. Neither is wrong; they are two discretisations of one ODE. But who compares a reimplementation with the published pipeline must use its grid.
#
# ## 7.6 The fault board
#
# **How do you know that a reimplementation is right?** A picture that looks fine proves little, as the board below shows. So compare numbers with the reference, in float64, where rounding is $10^{-16}$, relative to how much the output varies:
#
# $$\mathrm{off}(f, g) = \frac{\max|f(x) - g(x)|}{\mathrm{std}\,g(x)} \tag{7.10}$$
#
# And compare at *random* weights, norms and biases included. A fresh group norm has scale 1 and shift 0, so swapped affines, or an $\varepsilon$ that is off, cannot show.
#
# Eighteen faults of public implementations, each planted in a copy of mini-SD, in float64. *Prediction*: (7.10) of the network's output at $t=0.6$. *Latent*: of a picture's latent. *Picture*: of the decoded picture after 10 steps. The first row has no fault: the hidden numbers of its MLPs stand in another order, so only the rounding differs.

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
#
# ## 7.7 Adapters: LoRA
#
# **How do you teach a large model one more thing, on a laptop?** Freeze it, and learn a small change of its weights. **LoRA** (low-rank adaptation, Hu et al. 2022) gives each chosen weight matrix $W$ of size $m\times n$ two thin factors, $B$ of size $m\times r$ and $A$ of size $r\times n$:
#
# $$W' = W + \lambda\,\frac{\alpha}{r}\,BA \tag{7.11}$$
#
# $\lambda$ is the **dial**: 0 is the model as it was, 1 as it was trained. A change of rank $r$ has $r(m+n)$ numbers in place of $mn$. The factor $\alpha/r$ keeps the size of the change about the same for every rank. **How does it start?** With $G$ the gradient of the loss by $W'$, the chain rule gives
#
# $$\frac{\partial\mathcal L}{\partial B} = \frac\alpha r\,G A^\top, \qquad \frac{\partial\mathcal L}{\partial A} = \frac\alpha r\,B^\top G \tag{7.12}$$
#
# $B = 0$ makes the adapted model begin as the base. $A$ is random: if both were zero, both gradients would be, for ever. At the first step only $B$ moves, from the second on both.

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
# **A new head.** Ten heads were in no picture and no caption of mini-SD's training; the shark is one of them. A dozen pictures of figures with a shark's head, with their captions, and 45 seconds. The same once more with all weights in place of the factors (**full fine-tuning**).

# %%
HEAD = noun_parts.PARTS.index("head")
shark = noun_parts.load_art().names["head"].index("shark")
parts = noun_parts.draw_parts(12, seed=3)
parts[:, HEAD] = shark
dozen = noun_parts.render(parts)
dozen_captions = noun_parts.plain_captions(parts)
z = vae.to_latents(dozen.to(device))                                    # (12, 8, 8, 8)
plots.show({"the dozen": dozen}, columns=12)

def fine_tune(D, parameters, seconds, lr):
    """Train some parameters on the dozen for so long; returns the steps."""
    optimizer, g = torch.optim.AdamW(parameters, lr), seeded(0)
    tokens = D.net.tokenizer(dozen_captions).to(device)
    start, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = lr * (1 - share)
        k = torch.randint(12, (24,), generator=g)
        t, eps = D.draw_noise(z[k], g)
        loss = D.loss(z[k], t.to(device), eps.to(device), tokens=tokens[k]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    return steps

# %%
adapted, full = copy.deepcopy(D), copy.deepcopy(D)
factors = lora.add_lora(adapted.net.unet, rank=8)
print(f"{sum(p.numel() for p in factors):,} numbers in the adapter, "
      f"{profiling.count_parameters(D.net.unet):,} in the U-Net")
print(fine_tune(adapted, factors, 45, 3e-3), "steps of the adapter")
full.net.unet.requires_grad_(True)
print(fine_tune(full, list(full.net.unet.parameters()), 45, 1e-4), "steps of all weights")

# %%
def judged(D, head=None, n=50):
    """Attribute accuracy on new combinations, with this head or with trained ones."""
    parts = noun_parts.draw_parts(n, seed=5, split="test")
    if head is not None:
        parts[:, HEAD] = head
    x = sampling.text_to_image(D, noun_parts.plain_captions(parts), vae=vae)
    right = attributes.attributes_correct(x, parts).double().mean(0)
    return x, dict(zip(noun_parts.PARTS, right.tolist()))

rows, shown = {}, {}
for dial in (0.0, 0.5, 1.0, 1.5):
    lora.set_dial(adapted.net.unet, dial)
    shown[f"dial {dial}"], rows[f"shark, dial {dial}"] = judged(adapted, shark)
lora.set_dial(adapted.net.unet, 1.0)
shown["all weights"], rows["shark, all weights"] = judged(full, shark)
rows["other heads, base"] = judged(D)[1]
rows["other heads, dial 1"] = judged(adapted)[1]
rows["other heads, all weights"] = judged(full)[1]
plots.show({name: x[:10] for name, x in shown.items()}, columns=10, title="Ten captions")
tables.table(rows, ".0%", index="", caption="Attribute accuracy, n = 50")

# %% [markdown]
# «What figure and table show; copy check; the adapter as a file, in diffusers; 200 prompts, shipped»
#
# ## 7.8 ControlNet
#
# A text says what is in a picture, hardly where. **How does a picture become a condition, without training the model again?** **ControlNet** (Zhang et al. 2023) freezes the U-Net and gives it a second encoder, which reads the hint, an outline or a pose. What it finds is added to the U-Net's skip connections through a **zero convolution**, a 1x1 convolution whose weight and bias begin at zero:
#
# $$s_k \leftarrow s_k + Z_k\,u_k, \qquad Z_k = 0 \text{ at first} \tag{7.13}$$
#
# with $u_k$ the second encoder's features. So training begins at the model as it is, and no noise of fresh layers disturbs it. **Then why does anything learn?** Let $g = \partial\mathcal L/\partial s_k$ be the gradient that arrives. Then
#
# $$\frac{\partial\mathcal L}{\partial Z_k} = g\,u_k^\top \ne 0, \qquad \frac{\partial\mathcal L}{\partial u_k} = Z_k^\top g = 0 \tag{7.14}$$
#
# The zero layer itself has a gradient as soon as its *input* is not zero. After one step it is no longer zero, and the encoder behind it begins to learn.

# %% [markdown]
# «hint, shipped adapter, F1 between chance and ceiling»
#
# ## 7.9 Preference
#
# **How do you train for what people like?** Show them two pictures of one prompt, and keep which one was preferred: the **winner** $w$ and the **loser** $l$. The Bradley-Terry model says that a picture has a **reward** $r$, and
#
# $$P(w\succ l) = \mathrm{sigmoid}(r_w - r_l) \tag{7.15}$$
#
# One wants a model with a high mean reward that stays near the **reference** $p_{\text{ref}}$ it began with: maximise $\mathbb E_p[r] - \beta\,\mathrm{KL}(p\,\|\,p_{\text{ref}})$. Write both terms as one expectation, $-\beta\,\mathbb E_p\big[\log\frac{p}{p_{\text{ref}}\,e^{r/\beta}}\big]$. Up to a constant it is minus $\beta$ times a KL divergence, which is smallest where both are equal:
#
# $$p^*(x) \propto p_{\text{ref}}(x)\,e^{r(x)/\beta} \qquad\Longleftrightarrow\qquad r(x) = \beta\log\frac{p^*(x)}{p_{\text{ref}}(x)} + \text{const} \tag{7.16}$$
#
# So *the model is its own reward*. Put it into (7.15); the constant cancels in the difference, and maximum likelihood of the preferences needs neither a reward model nor sampling. This is **direct preference optimisation**, DPO (Rafailov et al. 2023):
#
# $$\mathcal L_{\text{DPO}} = -\log\mathrm{sigmoid}\Big(\beta\Big[\log\frac{p(w)}{p_{\text{ref}}(w)} - \log\frac{p(l)}{p_{\text{ref}}(l)}\Big]\Big) \tag{7.17}$$
#
# A diffusion model does not give $\log p$, but lesson 1's bound is a mean of denoising losses $\ell$. Put $-\ell$ at one random time in place of $\log p$, with the same time and noise for all four (Wallace et al. 2024):
#
# $$\mathcal L = -\log\mathrm{sigmoid}\Big(-\beta\big[(\ell_w - \ell_w^{\text{ref}}) - (\ell_l - \ell_l^{\text{ref}})\big]\Big) \tag{7.18}$$
#
# Because $-\log\mathrm{sigmoid}$ is convex, Jensen's inequality makes this an upper bound of (7.17) with the bounds put in for $\log p$.

# %% [markdown]
# «the Goodhart curve»
#
# ## 7.10 Nine channels · deeper
#
# Lesson 5 inpainted with a model that had never seen a mask. Stable Diffusion's inpainting model was trained for it: its U-Net gets **nine channels**, the noisy latent, the mask at the latent's size, and the latent of the masked picture,
#
# $$\big[z_t;\; m;\; \mathrm{encode}(x\odot(1-m))\big] \tag{7.19}$$
#
# and everything else stays. It is channel concatenation (lesson 2), and needs a training of its own. The decoder changes *every* pixel a little, known ones too. So the original is pasted back:
#
# $$x_{\text{out}} = m\odot\mathrm{decode}(z_0) + (1-m)\odot x \tag{7.20}$$
#
# «inpainting U-Net beside the sampling trick: error before pasting, seam»
#
# ## 7.11 One word, one subject · deeper
#
# Two older ways to teach a subject. **Textual inversion** (Gal et al. 2023) freezes everything and learns *one vector*, the embedding $e_*$ of a new token, by the ordinary loss:
#
# $$e_* = \arg\min_e\;\mathbb E\,\big\|\epsilon - \hat\epsilon\big(x_t, t, c(e)\big)\big\|^2 \tag{7.21}$$
#
# It can only ask for what the model can draw already. **DreamBooth** (Ruiz et al. 2023) trains all weights on a few pictures of one subject with a rare word. The class word then drifts towards the subject, so pictures that the base draws for the class are mixed in (**prior preservation**):
#
# $$\mathcal L = \mathcal L_{\text{subject}} + \lambda\,\mathcal L_{\text{class, drawn by the base}} \tag{7.22}$$
#
# «shipped»
#
# ## 7.12 Afterwards
#
# Stable Diffusion 1.5 is of 2022. What has changed since, in the terms of this course:
#
# - **Larger, and with more conditions.** SDXL (Podell et al. 2023) has a U-Net of 2.6 billion parameters and two text encoders; the picture's original size and crop are conditions, so that small training pictures need not be thrown away.
# - **Transformers and flows.** Stable Diffusion 3 (Esser et al. 2024) and Flux are MM-DiTs (section 6.5) under the flow schedule, with latents of 16 channels and the shift (6.7) for high resolutions.
# - **Language models as text encoders.** A caption's meaning is read better by a model that was trained on text alone: T5 in SD3 and Flux, a vision-language model in Qwen-Image (2025).
# - **Few steps.** Consistency models (lesson 4) on latents; adversarial distillation (Sauer et al. 2024, SDXL Turbo), in which a critic judges one-step samples.
# - **Editing in context.** The picture to be edited is a part of the token sequence, beside the noisy one; no mask, no inversion (Flux Kontext, 2025).
# - **Hybrids.** One transformer writes text token by token and denoises patches of pictures (Zhou et al. 2024, Transfusion).
#
# One repair was small: with $\alpha_1 = 0.068$ the model never learnt to start from pure noise, and could not draw a black picture; a schedule that ends at an SNR of zero, with $v$-prediction, mends that (Lin et al. 2023; lesson 3).
#
# ## 7.13 Guidance in one pass · deeper
#
# Guidance costs two evaluations a step. **Guidance distillation** (Meng et al. 2023) trains a student that is told the scale $w$ and predicts at once what the teacher's two evaluations give:
#
# $$D_{\text{student}}(x, t, c, w) \approx D(x, t, \varnothing) + w\,\big[D(x, t, c) - D(x, t, \varnothing)\big] \tag{7.23}$$
#
# Half the cost; the price is that a negative prompt no longer has a place where it could enter.
