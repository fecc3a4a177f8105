# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (Part two of lesson 6; joins 06_advanced_techniques.py when both are finished.)

# %% tags=["setup"]
{{setup}}

# %%
import csv
import math

import torch
import torch.nn.functional as F

from course_lib import Denoiser, Schedule, cfg, dpmpp, last, timesteps
from course_lib.discrete import unmask
from course_lib.distillation import score_distillation, shadow
from course_lib.editing import inpaint
from course_lib.lab import (
    data,
    noun_parts,
    plots,
    policies,
    profiling,
    sampling,
    sounds,
    storage,
    tables,
    texts,
    train,
)
from course_lib.lab.data import caption_grammar, furniture, obstacle, percussion
from course_lib.lab.data.sudoku import every_sudoku, is_sudoku, sudoku_puzzles
from course_lib.lab.notebook import media
from course_lib.networks.actions import ActionNet, MixtureNet, RegressionNet
from course_lib.video import rollout

torch.manual_seed(0)
device = train.default_device()
seeded = lambda seed: torch.Generator().manual_seed(seed)

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
# | shapes | voxels; (B, points, 3) | a picture's denoiser; attention without positions | Gaussian | 6.21, 6.22 |
# | actions | (B, steps, 2), given what is seen | a small MLP | Gaussian | 6.23 |
#
# Each of the data sets here is small, smaller than MNIST by a factor of hundreds for sounds and shapes. **A small data set is copied easily, and copies look best.** So beside each score of samples stands the same score of real examples that the training never had, and a measure of how near the samples lie to the training set.
#
# ## 6.16 Text: masked diffusion
#
# A **token** is a word's number in a vocabulary. There is no mean of two words, so Gaussian noise has no meaning here. **What is noise for words?** Forgetting: at time $t$ each token of a text is replaced by a special token, the **mask** m, with probability $t$, independently of the others:
#
# $$q(x_t\mid x_0) = \prod_{i=1}^L\Big[(1-t)\,\mathbf 1[x_t^i = x_0^i] + t\,\mathbf 1[x_t^i = \mathrm m]\Big] \tag{6.36}$$
#
# At $t=0$ there is the text, at $t=1$ only masks. A masked token stays masked as $t$ rises: the mask is an **absorbing state** (Austin et al. 2021). In a small step $h$ a token that is still there is masked with probability $h/(1-t)$, because $(1-t)\big(1-\frac h{1-t}\big) = 1-t-h$. So with the function $\varphi$ of (6.16), now of texts, and with $x^{i\to\mathrm m}$ for the text whose place $i$ is masked,
#
# $$\frac d{dt}\,\mathbb E\,\varphi(x_t) = \mathbb E\sum_{i:\,x_t^i\ne\mathrm m}\frac1{1-t}\Big[\varphi(x_t^{i\to\mathrm m}) - \varphi(x_t)\Big] \tag{6.37}$$
#
# It is the same weak form with another generator: a drift moves a point, noise spreads it, and this one **jumps**. A generator is what every process has, whatever its states are.
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
# It is the cross-entropy of filling in masks, as BERT was trained, with the **weight $1/t$**. Without the weight it is no bound. Does the choice of the clock matter? If tokens are masked with probability $m(t)$ instead, the derivation gives the weight $m'/m$; substitute $u=m(t)$, and (6.40) is back. So a masking schedule changes the noise of the estimate and nothing else.
#
# **What is the bound?** Count the masked tokens. Given $t$, exactly $k$ certain places are masked and the others are not with probability $t^k(1-t)^{L-k}$, and
#
# $$\int_0^1\frac1t\,t^k(1-t)^{L-k}dt\;\binom Lk = \binom Lk\frac{(k-1)!\,(L-k)!}{L!} = \frac1k \tag{6.41}$$
#
# So each number $k$ of masks has the same total weight, and within it, the loss is the *mean* over masked tokens, for a random set of $k$ masked places. Now think of a model that writes the text token by token in a random order $\sigma$. When $k$ tokens are missing, they are a random set, and the next one is a random one of them. That is the same average:
#
# $$(6.40) = \mathbb E_\sigma\sum_{j=1}^L-\log p_\theta\big(x_0^{\sigma(j)}\,\big|\,x_0^{\sigma(1)},\dots,x_0^{\sigma(j-1)}\big) \tag{6.42}$$
#
# Masked diffusion is an **any-order autoregressive model**: its bound is the mean loss over all $L!$ orders of writing. An ordinary **autoregressive** model, such as GPT, has one order, left to right, and there its loss is no bound but the probability itself.
#
# **Two models of equal size.** The captions of our figures are a good test, because their grammar is known: every part is equally likely, wordings are drawn at random, and the probability of each caption can be computed (`caption_grammar.caption_log_prob`). Their entropy is 30.0 nats, so no model can need fewer nats per caption on average. The difference is the **excess**:
#
# $$\mathbb E\big[-\log p_\theta(x_0)\big] - H = \mathrm{KL}(p\,\|\,p_\theta) \ge 0 \tag{6.43}$$

# %%
M = train.load("captions_masked", device)
A = train.load("captions_autoregressive", device)
x0 = caption_grammar.caption_tokens(200, seed=5)                        # (200, 32)
own = -caption_grammar.caption_log_prob(caption_grammar.draw_captions(200, seed=5))
with_error = lambda mean, error: f"{mean:.2f} ± {error:.2f}"
rows = {}
for name, model in {"masked diffusion": M, "autoregressive": A}.items():
    over = texts.nats(model, x0, draws=16) - own
    card = model.about["metrics"]
    rows[name] = {"parameters": f"{profiling.count_parameters(model):,}",
                  "200 captions": with_error(over.mean(), over.std() / 200**0.5),
                  f"{card['n']:,} captions": with_error(*card["excess"])}
tables.table(rows, index="model", caption="Excess nats per caption, (6.43)")

# %%
tokenizer = caption_grammar.caption_tokenizer()
for name, model in {"masked diffusion": M, "autoregressive": A}.items():
    print(name, *tokenizer.decode(texts.sample_tokens(model, 3, seed=1)), sep="\n    ")

def scores(of):
    """Validity, and the distance of each part's distribution from the known one."""
    return {"valid": f"{of['valid']:.1%}"} | {k: of[k] for k in noun_parts.PARTS}

rows = {}
for name, model in {"masked": M, "autoregressive": A}.items():
    for row in model.about["metrics"]["samples"]:
        order = f", {row['order']} order" if name == "masked" else ""
        rows[f"{name}, {row['steps']} steps{order}"] = scores(row)
rows["captions of the grammar (floor)"] = scores(M.about["metrics"]["real"])
tables.table(rows, ".3f", index="",
             caption=f"{card['n']:,} captions: valid, and the parts' distance")

# %% [markdown]
# «What the tables show.»
#
# **What can a masked model do that an autoregressive one cannot?** Fill in: keep any words, mask any others. A model that writes from left to right knows only what stands before. Mask the word for the head in a caption, and draw it 500 times. What may stand there is known: every head whose name is one word and fits the article, all equally likely.

# %%
caption = "a figure with a shark head and blue square glasses on a cool background " \
          "with a red body with a bling cheese on its shirt"
x0 = tokenizer([caption])
place = tokenizer([caption.replace("shark", "crab")]) != x0              # the one word
x = torch.where(place, M.mask_id, x0).expand(500, -1).to(device)
filled = last(unmask(M, x, [1, 0], M.mask_id, generator=seeded(0))).cpu()
assert (filled == x0)[:, ~place[0]].all()                               # the rest stays
heads = [caption_grammar.parse_caption(text) for text in tokenizer.decode(filled)]
drawn_heads = [parts["head"] for parts in heads if parts is not None]
print(f"{len(drawn_heads)} of 500 are valid; {len(set(drawn_heads))} different heads:")
print(*sorted(set(drawn_heads))[:12], "...")

# %% [markdown]
# «What is printed.»
#
# ## 6.17 Two tokens at once
#
# **What does it cost to reveal several tokens in one step?** Take a language of two sentences, "New York" and "San Francisco", each with probability 1/2, and the *perfect* denoiser: at each place, the true distribution given what is revealed. It is computed by listing all sentences.

# %%
def exact_denoiser(texts, V):
    """The true distribution of each place, where all texts (S, L) are equally likely."""
    one_hot = F.one_hot(texts, V + 1).double()                          # (S, L, V + 1)

    def D(x, t):
        fits = ((x[:, None] == texts) | (x[:, None] == V)).all(2)       # (B, S)
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
# **What the table shows.** In one step half of the sentences name no city, with a denoiser that is perfect. Each place knows its own distribution, half York and half Francisco, and nothing of what its neighbour is about to draw. Tokens that are revealed together are drawn **independently, given what was there before**; the price is the divergence between the joint distribution and the product of its marginals, the **total correlation**
#
# $$\mathrm{KL}\Big(p(x^A\mid x_t)\,\Big\|\,\prod_{i\in A}p(x^i\mid x_t)\Big) = \sum_{i\in A}H(x^i\mid x_t) - H(x^A\mid x_t) \tag{6.44}$$
#
# here $2\log2-\log2 = \log2$ nats. No training removes it: it belongs to the step, as the error of a large step belongs to Euler's method. And captions hide it. Their parts are independent, so it costs nothing to reveal two *parts* at once.

# %% [markdown]
# **A puzzle makes it visible.** In a solved Sudoku every number depends on the others. Of 4 x 4 there are 288 grids, so the exact denoiser is a list again. All places are masked; the grid is filled in few steps or many, in random order or, in each step, where the drawn number is the most probable (**order of confidence**). A place has at most 16 steps to be alone in; with 48 two places rarely share one.

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
# **What the table shows.** One step at a time would always be right. In few steps nearly nothing is, although the denoiser is perfect. And the order of confidence does *not* help it: it is even a little worse. The surest numbers are often those that determine each other, and numbers that are already determined use up steps which could have separated the uncertain ones. Confidence is a remedy for something else, a denoiser that *errs*.
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
# «What the table shows.»
#
# ## 6.18 Revising, and a map · deeper
#
# A revealed token stays, right or wrong: the chain of (6.38) cannot revise. **Remasking** can (Wang et al. 2025). In each step a revealed token is masked again with some probability $r$, and more masked ones are revealed, so that the share of masks at $s$ is still $s$. The share that is revealed must be $1-s = (1-r)(1-t) + t\,\pi$, so a masked token is revealed with probability $\pi = \frac{(1-s)-(1-r)(1-t)}{t}$; $\pi\le1$ allows $r\le\frac s{1-t}$. With $r=0$ it is the step of 6.16. In `unmask` it is `remasking=`.

# %%
blank, rows = torch.full((200, 36), S.mask_id, device=device), {}
for r in (0.0, 0.02, 0.05, 0.1):
    for steps in (18, 36):
        ts = torch.linspace(1, 0, steps + 1)
        x = last(unmask(S, blank, ts, S.mask_id, remasking=r, generator=seeded(0))).cpu()
        right = is_sudoku(x).double()
        rows.setdefault(f"r = {r:g}", {})[f"{steps} steps"] = with_error(
            right.mean(), right.std() / 200**0.5)
tables.table(rows, index="remasking", caption="Share of valid grids from nothing, n = 200")

# %% [markdown]
# «What the table shows.»

# %% [markdown]
# **A map.** LLaDA (Nie et al. 2025) is this model with 8 billion parameters, trained on text from the web. **Block diffusion** (Arriola et al. 2025) goes from block to block as an autoregressive model and fills each block by diffusion: what is known can then be cached, and texts have any length. In all of them the number of tokens a step is the price of speed, by (6.44). Pictures can be tokens, too: a vector-quantised autoencoder gives each patch a number of a codebook, and MaskGIT (Chang et al. 2022) fills 256 such places in 8 steps, in order of confidence. Other discrete noise is possible: **uniform** noise replaces a token by any other one, and its chain can revise by itself; with equal training it usually has the looser bound (Austin et al. 2021).
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

# %%
V = train.load("moving_digits", device)
real = data.moving_digits(4, frames=16, seed=1, split="test").x          # (4, 16, 1, H, W)
ts = timesteps(V.schedule, 10)
clip = rollout(V, V.schedule, real[:, :2].to(device), ts, 14, 8, new=2, sampler=dpmpp,
               generator=seeded(0)).cpu().clamp(-1, 1)                  # (4, 16, ...)
frames = {}
for k in range(4):
    frames |= {f"real {k + 1}": real[k], f"continued {k + 1}": clip[k]}
plots.show(frames, columns=16, title="16 frames; of the continued clips two are given")

# %%
card = V.about["metrics"]
shown, rows = (2, 4, 7, 11, 15), {}
for row in card["clips"]:
    rows[row["way"]] = {f"frame {f + 1}": row["lost"][f] for f in shown}
tables.table(rows, ".1%", index="continued by",
             caption=f"{card['n']} test clips: another digit than in frame 1, or none")
rows = {}
for row in card["clips"]:
    mean = lambda values: sum(values) / len(values)
    parts = {"to frame 8": slice(1, 7), "frames 9 to 16": slice(7, 15)}
    rows[row["way"]] = {f"speed {name}": mean(row["speed"][part])
                        for name, part in parts.items()}
    rows[row["way"]] |= {f"deviation {name}": mean(row["speed_deviation"][part])
                         for name, part in parts.items()}
tables.table(rows, ".2f", index="continued by", caption="Pixels a frame")

# %% [markdown]
# «What figure and tables show.»
#
# ## 6.20 Sound
#
# A sound is a **waveform**: air pressure, 16,000 numbers a second. Ours are percussion **one-shots** of 0.512 s, tensors (B, 1, 8192). The network is the U-Net with convolutions along time (`SignalUNet`): kernels of (1, 5) in place of (3, 3), every level a quarter as long, the first layer folds 16 neighbouring samples into channels. It is lesson 2's class with two numbers changed and 60 lines in all; schedule, loss, loop and sampler are untouched.
#
# **The data are the problem.** There are 54 recordings of 40 sources: 21 kicks, 13 snares, 10 cymbals, 10 toms. And they are fewer than they seem. Six toms, "high", "mid" and "low", hard and soft, are *one* drum: at another pitch, their waveforms have a correlation of 0.98 and more. A split by file would have put the same drum on both sides, and the test would have been passed by copies. So recordings are grouped by source, sources are split, and only then are the training recordings **augmented**: resampled by up to three semitones, shifted by up to 4 ms, made brighter or duller, louder or softer, with either sign.

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
print("from left to right:", *classes)
media.players(sounds_of)
to_image = lambda db: (db.flip(1) / 60 + 1)[:, None].clamp(-1, 1)
plots.show({name: to_image(2 * sounds.log_mel(of) - 2 * sounds.log_mel(of).amax())
            for name, of in sounds_of.items()}, columns=4,
           title="Log-mel spectrograms: time to the right, pitch upwards")

# %% [markdown]
# **How near is too near?** For each sample take the distance to its nearest training recording or variant of one, in decibels between spectrograms, and divide by the median of the same distance for *held-out* recordings:
#
# $$r(x) = \frac{\min_{j\in\text{train}} d(x, x_j)}{\operatorname{median}_{k\in\text{held out}}\min_{j\in\text{train}} d(x_k, x_j)} \tag{6.47}$$
#
# Around 1 a sample is as new as a recording that was never seen, far below 1 it is a **near copy**. The ratio must be looked at beside the class. Who copies perfectly is classified perfectly.
#

# %%
rows = {}
for row in K.about["metrics"]["sounds"]:
    low, middle, high = row["ratio"]
    rows[row["set"]] = {
        "n": row["n"], "class right": f"{row['class'][0]:.1%} ± {row['class'][1]:.1%}",
        "ratio, median (10 to 90 %)": f"{middle:.2f} ({low:.2f} to {high:.2f})",
        "near copies": f"{row['near_copies']:.1%}",
        "loudness, dB": "{:.1f} ± {:.1f}".format(*row["loudness"]),
        "silent": row["silent"]}
tables.table(rows, index="", caption="Near copies: ratio below 0.5")

# %% [markdown]
# «What the table shows.»
#
# **The second half of a hit.** The first quarter of a held-out sound is known, the rest is drawn: lesson 5's `inpaint`, unchanged.

# %%
mask = torch.zeros(1, 1, 8192)
mask[..., 2048:] = 1
noise = torch.randn(4, 1, 8192, generator=seeded(2)).to(device)
y = torch.arange(4, device=device)
completed = last(dpmpp(inpaint(K, held_out.to(device), mask.to(device)), K.schedule, noise,
                       timesteps(K.schedule, 20), y=y)).cpu()
assert (completed[..., :2048] == held_out[..., :2048]).all()
media.players({"held out": held_out, "completed": completed.clamp(-1, 1)})

# %% [markdown]
# «What one hears.»
#
# ## 6.21 3-D: a sculpture with two shadows
#
# There is no large set of shapes as there is of pictures. **Can a picture model make a shape?** DreamFusion (Poole et al. 2023) takes a denoiser of pictures as a teacher: what is optimised is a shape, a picture of it is drawn by a differentiable renderer, and the denoiser says how the picture should change. We do it in small: $28^3$ voxels whose shadow from the front is a 3 and from the side a 7. Voxel $v$ stops the share $\rho_v$ of the light; along a ray
#
# $$\text{shadow} = 1 - \prod_{v\in\text{ray}}(1-\rho_v) \tag{6.48}$$
#
# **Score distillation.** Let $x(\theta)$ be the picture. Noise it, $x_t = \alpha x + \sigma\epsilon$, and let the denoiser predict the noise. If $x$ looks like data, $\hat\epsilon$ is $\epsilon$ on average; otherwise the difference says where the density of $x_t$ rises, because $\hat\epsilon = -\sigma\nabla\log q_t$ (lesson 1). Its negative is the direction to go, and the chain rule carries it to the parameters:
#
# $$\nabla_\theta\mathcal L = \mathbb E_{t,\epsilon}\Big[w(t)\,\big(\hat\epsilon(x_t, t) - \epsilon\big)\,\frac{\partial x}{\partial\theta}\Big] \tag{6.49}$$
#
# The network is not differentiated. What does it mean in our terms? $\hat\epsilon = (x_t - \alpha\hat x_0)/\sigma$ and $\epsilon = (x_t-\alpha x)/\sigma$, so
#
# $$\hat\epsilon - \epsilon = \frac\alpha\sigma\,(x - \hat x_0) \tag{6.50}$$
#
# The picture is pulled towards **what the denoiser sees in its noisy self**. `score_distillation` is the squared distance with this gradient, $\hat x_0$ held fixed.

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
# One sculpture from all sides, its voxels above one half:

# %%
media.turntable([media.voxel_points(density[k].detach().cpu()) for k in range(2)],
                columns=2, size=128, alt="two sculptures that turn")

# %% [markdown]
# Twenty seeds, longer, by `python benchmarks/sculptures.py`, judged by the digit classifier. Beside them the same without guidance; voxels that were fitted to the shadows of *real* digits, which shows what voxels can do; and how much two shadows of twenty differ, with real digits as the measure.

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
# **What the table shows.** All 20 sculptures cast both shadows, and so do 20 of 20 whose voxels are rounded to 0 or 1; the fit to real shadows has 19. Without guidance it is 11 of 20, with a ninth of the voxels: most of the others are nearly empty. And the price: two distilled threes differ by 0.37, two real ones by 0.64. Score distillation **seeks modes**. It climbs to a picture that is likely under every noise at once, it does not draw one from the distribution; the high guidance that it needs narrows it further.
#
# ## 6.22 Shapes as points
#
# A **point cloud** is a set of points on a surface, a tensor (B, P, 3). **In which order?** In none: the 512 points of a chair can be listed in any way, and a network that cared would have to learn the same chair in $512!$ versions. A function of sets should be **permutation-equivariant**: permute the input by any $\pi$, and the output is permuted alike,
#
# $$f(\pi x) = \pi f(x) \tag{6.51}$$
#
# Self-attention is so by itself: it takes sums over all tokens, and a sum has no order. It was the *position embedding* of lesson 2 that told tokens apart. So `PointTransformer` is lesson 2's DiT without positions; a point's coordinates are its token.

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
# The distance of two clouds is the **Chamfer distance**: from each point of one to the nearest point of the other, squared, averaged, both ways added,
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
                        "1-NNA, held out": interval(row["one_nna_held_out"])}
tables.table(rows, index="", caption="Chamfer distance, 95 % intervals")

# %% [markdown]
# «What the table shows.»
#
# ## 6.23 Actions
#
# A robot sees something and does something. **Is that not regression, from what is seen to what is done?** A point has to walk round a disc. The expert passes it on the left or on the right, by the toss of a coin. Regression by squared error learns the conditional mean,
#
# $$\arg\min_f\;\mathbb E\,\big|f(o) - a\big|^2 = \mathbb E[a\mid o] \tag{6.53}$$
#
# and the mean of left and right is straight ahead. A **diffusion policy** (Chi et al. 2023) draws the action instead: the data are **chunks**, the next $K$ actions, a denoiser predicts the clean chunk from a noisy one and the observation, and a sampler draws. A **mixture density network** (Bishop 1994) is the fair rival: a network that returns the weights, means and deviations of $M$ Gaussians, trained by $-\log p$:
#
# $$-\log\sum_{m=1}^M\pi_m(o)\,\mathcal N\big(a;\mu_m(o),\operatorname{diag}s_m(o)^2\big) \tag{6.54}$$
#
# All three are trained live, by the same loop on the same demonstrations, and then act in 400 worlds that they have not seen.

# %%
shown = obstacle.demonstrations(1000, seed=100, chunk=8, perturbation=0.3)
print({name: tuple(value.shape) for name, value in shown.items()})
models = {
    "regression": policies.Regression(RegressionNet(4, 8, width=224)),
    "mixture density": policies.MixtureDensity(MixtureNet(4, 8, width=176)),
    "diffusion": Denoiser(ActionNet(4, 8), Schedule.cosine(), "edm"),
}
for name, model in models.items():
    models[name] = train.train(model, shown, steps=1500, batch_size=128, device="cpu")

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

# %% [markdown]
# **What figure and table show.** «numbers» Regression walks straight at the disc where the start leaves both sides open, and succeeds where the start already leans to one side. The mixture and the diffusion policy go round, both ways about equally often.
#
# **How long should a chunk be?** Carried out blindly, eight actions cannot answer to what happens meanwhile. Here a **gust** blows the point up or down, once in an episode. Five seeds of training, 400 episodes each (`python benchmarks/policies.py`):

# %%
with open(storage.ASSETS / "policies.csv") as file:
    runs = list(csv.DictReader(file))

def of_seeds(policy, chunk, execute, gust, column):
    values = [float(row[column]) for row in runs
              if (row["policy"], row["chunk"], row["execute"], row["gust"])
              == (policy, chunk, execute, gust)]
    return torch.tensor(values)

rows = []
for policy in ("regression", "regression, calm", "mixture density", "diffusion"):
    for chunk, execute in (("8", "8"), ("8", "1"), ("1", "1")):
        row = {"policy": policy, "chunk": chunk, "carried out": execute}
        for name, gust in (("calm", "0.0"), ("gust", "0.3")):
            success = of_seeds(policy, chunk, execute, gust, "success")
            row[name] = f"{success.mean():.1%} ({success.min():.1%} to {success.max():.1%})"
        row["turns, calm"] = of_seeds(policy, chunk, execute, "0.0", "turns").mean()
        rows.append(row)
tables.table(rows, {"turns, calm": ".2f"}, caption="Success: mean and range of five seeds")

# %% [markdown]
# **What the table shows.** With whole chunks carried out, regression reaches the goal in 64 % of the calm episodes, the mixture in 96, diffusion in 99. With a look after every action all are near 100 %, *regression too*: a step off the axis makes one side likelier than the other, its mean leans that way, and the next look sees it further off. So it is not averaging alone that fails, it is averaging *blindly*. Demonstrations without gusts do not show what to do off the path ("regression, calm"): then regression fails with single actions as well, in the calm at 64 % (60 to 70 over five seeds), where demonstrations with gusts gave it all.
#
# Whole chunks answer late: under a gust all three lose, diffusion from 99 to 81 %. Looking at every step repairs it, and the policies **dither** instead: before the disc they change between up and down 1.5 times an episode, where whole chunks hardly ever do. Here this costs no success. Common practice lies between: predict a long chunk, carry out part of it.
#
# ## 6.24 What had to change
#
# «closing table: data, shape, network, parameters, target, metric with floor, seconds to train and to sample, lines»
#
# **Science.** The same denoisers work where the data are molecules and fields. RFdiffusion (Watson et al. 2023) draws protein backbones that were then made in the laboratory; AlphaFold 3 (Abramson et al. 2024) places all atoms of a complex by a diffusion model; GenCast (Price et al. 2025) draws weather forecasts for fifteen days on the sphere, and its ensemble was more skilful than that of the leading physical model on 97 % of the targets that were compared. What they add is geometry: networks that are equivariant to rotations, or live on a sphere.
