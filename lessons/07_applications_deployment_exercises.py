# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 7 · Exercises
#
# {{badge}}
#
# Twelve questions, 38 points, about five and a half hours, and a project of your own at the end. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("7.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, $x_t = \alpha_t x_0 + \sigma_t\epsilon$ with standard deviations $\alpha$ and $\sigma$, and step $i = 0\dots T-1$ of a schedule of $T$ steps is the time $t = (i+1)/T$. Section numbers are the lesson's. Questions 7.1 to 7.7 need its first part, 7.8 to 7.12 its second. The core sections suffice for all. 7.4, 7.7 and 7.8 use mini-SD, 7.9 and 7.10 the small model of digits, and the others no trained model.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import math
import re
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from course_lib import Denoiser, Schedule, UNet, cfg, dpmpp, last, timesteps
from course_lib.checks import check, hint
from course_lib.checks import lesson07_release as release
from course_lib.checks import lesson07_service as small_service
from course_lib.checks.lesson07_board import FAULTS, planted
from course_lib.guidance import guidance_interval
from course_lib.lab import (
    attributes,
    data,
    features,
    metrics,
    noun_parts,
    plots,
    sampling,
    storage,
    tables,
    train,
)
from course_lib.lab.data.caption_grammar import draw_captions
from course_lib.lab.evaluation import faults
from course_lib.networks.stable_diffusion import layout, lora
from course_lib.networks.stable_diffusion.tokenizer import (
    END,
    SIGNS,
    START,
    BytePairTokenizer,
    split_words,
)
from course_lib.networks.stable_diffusion.unet import StableDiffusionUNet
from course_lib.watermark import marked_noise

# %%
torch.manual_seed(0)
# most tensors here are small and gain nothing from a second thread
torch.set_num_threads(1)
seeded = lambda k: torch.Generator().manual_seed(k)
randn = lambda *shape, seed: torch.randn(shape, generator=seeded(seed))

# %% [markdown]
# ## 7.1 The name map of one block (3 points, 20 minutes)
#
# A published tensor is found by its name (section 7.4). Below are the weights of one block of our U-Net and its transformer, and those of the same block in the published file, with their shapes. *Each side is sorted by itself*: a row is no pair. Five names from elsewhere in the network, with their partners, stand under it.

# %%
with torch.device("meta"):                                  # sizes, no numbers
    sd_1 = StableDiffusionUNet()
shapes = lambda state: {name: tuple(value.shape) for name, value in state.items()}
ours, theirs = shapes(sd_1.state_dict()), shapes(layout.to_published(sd_1))

def weights(shapes, start, parts):
    """(name, shape) of a block's weights, without the start that all have; sorted."""
    return sorted((name.removeprefix(start), str(shape)) for name, shape in shapes.items()
                  if name.startswith(start) and name.split(".")[2:4] in parts
                  and name.endswith("weight"))

left = weights(ours, "down.1.", (["blocks", "0"], ["transformers", "0"]))
right = weights(theirs, "down_blocks.1.", (["resnets", "0"], ["attentions", "0"]))
tables.table([{"ours, down.1. ...": a, "shape": b, "published, down_blocks.1. ...": c,
               "its shape": d} for (a, b), (c, d) in zip(left, right)],
             caption="Weights of the second level's first block, each side sorted alone")
examples = {
    "stem.weight": "conv_in.weight",
    "time.3.bias": "time_embedding.linear_2.bias",
    "down.0.resample.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "up.0.resample.conv.bias": "up_blocks.0.upsamplers.0.conv.bias",
    "middle.blocks.1.emb.bias": "mid_block.resnets.1.time_emb_proj.bias"}
for a, b in examples.items():
    print(f"{a:26s} {b}")

# %% [markdown]
# Write the map. It has to be right for all 686 tensors of this U-Net, biases included, and for U-Nets of other sizes: rules, no list. The two names that you cannot see here are `norm` and `out`, the last norm and the last convolution: `conv_norm_out` and `conv_out`. Do without `layout`.

# %% tags=["answer:7.1"]
def published_name(ours):
    """ "down.0.blocks.1.emb.bias" -> "down_blocks.0.resnets.1.time_emb_proj.bias" """
    ### BEGIN SOLUTION
    ends = {"stem": "conv_in", "out": "conv_out", "norm": "conv_norm_out",
            "time.1": "time_embedding.linear_1", "time.3": "time_embedding.linear_2"}
    layer, kind = ours.rsplit(".", 1)                       # kind: weight or bias
    if layer in ends:
        return f"{ends[layer]}.{kind}"
    name = re.sub(r"\.transformers\.(\d+)\.(norm\d|self|cross|mlp)",
                  r".attentions.\1.transformer_blocks.0.\2", ours)
    for old, new in (("down.", "down_blocks."), ("up.", "up_blocks."),
                     ("middle.", "mid_block."), (".blocks.", ".resnets."),
                     (".emb.", ".time_emb_proj."), (".shortcut.", ".conv_shortcut."),
                     (".resample.conv.", ".upsamplers.0.conv."),
                     (".resample.", ".downsamplers.0.conv."),
                     (".transformers.", ".attentions."), ("self_attention.", "attn1.to_"),
                     ("cross_attention.", "attn2.to_"), ("to_out.", "to_out.0."),
                     ("mlp.proj.", "ff.net.0.proj."), ("mlp.out.", "ff.net.2.")):
        name = name.replace(old, new)
    return name
    ### END SOLUTION

# %% tags=["check:7.1"]
check("7.1", published_name)
### BEGIN HIDDEN TESTS
assert check.passed("7.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** What does a wrong map do? A name that the file does not have is reported at once. So take four maps that use every name of the file once, and exchange two. How many of the 686 tensors get one of another shape, in Stable Diffusion 1.5? And in a small U-Net, where all widths and the caption's vectors have the same size? Where every tensor fits, the network loads in silence; then how far is its output from the right one, in standard deviations as in (7.10), with random weights?

# %% tags=["solution"]
def randomised(net):
    """The network with random weights; none of them is 0 or 1."""
    g = seeded(0)
    for p in net.parameters():
        noise = torch.randn(p.shape, generator=g)
        p.data = noise / (p[0].numel() ** 0.5 if p.ndim > 1 else 2)
    return net.eval()

small = dict(widths=(32, 32), depth=1, context_dim=32, num_heads=4)
net = randomised(StableDiffusionUNet(**small))
inputs = randn(8, 4, 8, 8, seed=1), torch.arange(8) * 120.0, randn(8, 5, 32, seed=2)

def exchanged(a, b, where):
    """The map with two words of the published names exchanged, in names with a third."""
    swap = {a: b, b: a}
    def name_of(name):
        parts = published_name(name).split(".")
        return ".".join(swap.get(part, part) if where in parts else part for part in parts)
    return name_of

def misfits(name_of, net):
    """How many tensors of the file have another shape than the network's."""
    file = layout.to_published(net)
    return sum(value.shape != file[name_of(name)].shape
               for name, value in net.state_dict().items())

# %% tags=["solution"]
rows = {}
with torch.no_grad():
    wanted = net(*inputs)
    for a, b, where in (("norm1", "norm3", "attentions"), ("to_q", "to_k", "attn1"),
                        ("attn1", "attn2", "attentions"), ("conv1", "conv2", "resnets")):
        name_of = exchanged(a, b, where)
        count, off = misfits(name_of, net), ""
        if count == 0:
            other, file = StableDiffusionUNet(**small).eval(), layout.to_published(net)
            other.load_state_dict({name: file[name_of(name)] for name in net.state_dict()})
            off = f"{(other(*inputs) - wanted).abs().max() / wanted.std():.2f}"
        rows[f"{a} and {b}, in {where}"] = {"misfits in 1.5": misfits(name_of, sd_1),
                                            "in the small one": count, "off": off}
tables.table(rows, index="exchanged", caption="Of 686 tensors, and of "
             f"{len(net.state_dict())} in a small U-Net of equal widths")

# %% [markdown] tags=["solution"]
# **What the table shows.** In Stable Diffusion 1.5 two of the four are noticed: 64 and 28 tensors do not fit. But the three layer norms of a transformer have one shape, and so have the queries and keys of self-attention. Exchanged, they load without a complaint. In the small network the two attentions can be exchanged as well, since the caption's vectors are as long as the features there. Its output is then off by up to 0.04 to 0.48 standard deviations. So a file that loads is not yet a file that is read right: the comparison of numbers in section 7.6 finds what shapes cannot.

# %% [markdown]
# ## 7.2 LoRA, from blank (4 points, 25 minutes)
#
# Write (7.11) for one linear layer. `with_lora` gives back a layer, an `nn.Module`, that computes `linear(x)` plus the low-rank change, times `alpha / rank`. At the start it computes what `linear` does, as in the lesson: `up` is zero, `down` is drawn from `generator`. The two factors are the only parameters that ask for gradients; the base is frozen. `linear` itself computes afterwards what it did before. `x` has any number of dimensions, of which the last is the layer's input. A layer may have no bias.

# %% tags=["answer:7.2"]
def with_lora(linear, rank, alpha, generator):
    """linear: nn.Linear -> an nn.Module: linear(x) + alpha / rank (x down^T) up^T"""
    ### BEGIN SOLUTION
    class LowRankLinear(nn.Module):
        def __init__(self):
            super().__init__()
            m, n = linear.weight.shape
            self.linear = linear.requires_grad_(False)
            self.down = nn.Parameter(torch.randn(rank, n, generator=generator) / n**0.5)
            self.up = nn.Parameter(torch.zeros(m, rank))

        def forward(self, x):
            change = x @ self.down.T @ self.up.T            # (..., m)
            return self.linear(x) + alpha / rank * change

    return LowRankLinear()
    ### END SOLUTION

# %% tags=["check:7.2"]
check("7.2", with_lora)
### BEGIN HIDDEN TESTS
assert check.passed("7.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** A layer of $20\times16$ weights shall become another one, $W + \Delta$. The change $\Delta$ has rank 2, with the singular values 2 and 1. Nobody tells the adapter: it sees inputs and the right outputs, 500 batches of 256, with adapters of four ranks. A change of rank 1 can reach the larger singular value at best, and $1/\sqrt{2^2+1^2} = 45\,\%$ of $\Delta$ is left then (Eckart & Young 1936). In the last row both factors start at zero.

# %% tags=["solution"]
torch.manual_seed(0)
base = nn.Linear(16, 20)
U, V = (torch.linalg.qr(randn(n, 2, seed=n))[0] for n in (20, 16))
delta = U @ torch.tensor([2.0, 1.0]).diag() @ V.T           # (20, 16)

def adapt(rank, both_zero=False):
    """The change that was found, (20, 16), and the number of weights that were trained."""
    layer, g = with_lora(base, rank, rank, seeded(1)), seeded(2)
    factors = [p for p in layer.parameters() if p.requires_grad]
    if both_zero:
        for p in factors:
            p.data.zero_()
    optimizer = torch.optim.Adam(factors, lr=0.02)
    for _ in range(500):
        x = torch.randn(256, 16, generator=g)
        loss = (layer(x) - base(x) - x @ delta.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    one = torch.eye(16)
    return (layer(one) - base(one)).detach().T, sum(p.numel() for p in factors)

# %% tags=["solution"]
rows = {}
for name, options in {"rank 1": (1,), "rank 2": (2,), "rank 4": (4,), "rank 8": (8,),
                      "rank 2, both factors zero": (2, True)}.items():
    found, count = adapt(*options)
    sizes = torch.linalg.svdvals(found)[:4].tolist()
    rows[name] = {"weights trained": f"{count} of 320",
                  "left of the change": (found - delta).norm() / delta.norm(),
                  "its singular values": ", ".join(f"{s:.3f}" for s in sizes)}
tables.table(rows, {"left of the change": ".2%"}, index="adapter",
             caption="500 steps of Adam")

# %% [markdown] tags=["solution"]
# **What the table shows.** From rank 2 on the adapters find the change, and its rank: the third singular value is at most 0.001. With rank 1 the larger singular value is found, and 45 % of the change is left, the least possible. More rank costs weights and gains nothing here. With both factors zero nothing has moved after 500 steps, as (7.12) says. The toy is kind: its change has rank 2 exactly. That the change which a large model needs has a low rank is a hypothesis (Hu et al. 2022, section 4.1).

# %% [markdown]
# ## 7.3 Why does this prompt break the tokenizer? (2 points, 15 minutes)
#
# A byte-pair encoder that somebody wrote by hand. `tokenizer.rank` maps each pair of tokens that may be merged to its place among the merges, 0 for the one that was learned first. `tokenizer.vocabulary` maps a token to its id. `split_words(text)` gives the words of a text, in small letters.

# %%
def copied_encode(tokenizer, text):
    """-> tokenizer.length ids: start, the text, end, padding"""
    parts = []
    for word in split_words(text):
        signs = [*word[:-1], word[-1] + "</w>"]
        k = 0
        while k < len(signs) - 1:
            if (signs[k], signs[k + 1]) in tokenizer.rank:
                signs[k:k + 2] = [signs[k] + signs[k + 1]]
            else:
                k += 1
        parts += signs
    parts = [START, *parts, END][:tokenizer.length]
    parts += [tokenizer.pad] * (tokenizer.length - len(parts))
    return [tokenizer.vocabulary.get(part, tokenizer.vocabulary[END]) for part in parts]

# %%
warnings.filterwarnings("ignore", "a text has at most")     # the library says what it cuts
tokenizer = BytePairTokenizer.learn(draw_captions(300), 800, length=77)
rows = []
for text in ("a body", "a red bird", "a bear", "a blasé hat", "a red hat, " * 20):
    wanted, copied = tokenizer(text)[0].tolist(), copied_encode(tokenizer, text)
    row = {"text": text[:30], "first difference at": "", "right": "", "copied": ""}
    places = [k for k in range(77) if wanted[k] != copied[k]]
    if places:
        k = places[0]
        row |= {"first difference at": k, "right": tokenizer.tokens[wanted[k]],
                "copied": tokenizer.tokens[copied[k]]}
    rows.append(row)
tables.table(rows, caption="Rows of 77 ids, the library's and the copied encoder's")

# %% [markdown]
# There are three bugs, and each of the last three texts shows one. Write the encoder as it should be. `SIGNS` maps a byte, 0 to 255, to the sign that stands for it in the vocabulary; `text.encode()` gives the bytes of a text.

# %% tags=["answer:7.3"]
def encode(tokenizer, text):
    """-> tokenizer.length ids: start, the text, end, padding"""
    ### BEGIN SOLUTION
    parts = []
    for word in split_words(text):
        signs = [SIGNS[byte] for byte in word.encode()]
        signs[-1] += "</w>"
        while True:
            known = [k for k in range(len(signs) - 1)
                     if (signs[k], signs[k + 1]) in tokenizer.rank]
            if not known:
                break
            k = min(known, key=lambda k: tokenizer.rank[signs[k], signs[k + 1]])
            signs[k:k + 2] = [signs[k] + signs[k + 1]]
        parts += signs
    parts = [START, *parts[:tokenizer.length - 2], END]
    parts += [tokenizer.pad] * (tokenizer.length - len(parts))
    return [tokenizer.vocabulary[part] for part in parts]
    ### END SOLUTION

# %% tags=["check:7.3"]
check("7.3", encode)
### BEGIN HIDDEN TESTS
assert check.passed("7.3")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** (1) The pairs were merged in the order of the text. A code has to be written in the order in which it was learned: of all pairs that stand in the word, the one with the lowest rank. (2) The letters were looked up, and not their bytes. é has two bytes, and neither is the letter. Worse, the sign `é` *is* in the vocabulary: it stands for the byte 233. So nothing fails. Letters such as ł are not, and become an end token in the middle of the text. (3) The row was cut with the end in it, so a long text has none. How often does each of them show? 300 captions, as drawn, in a café, and twice each, and what `decode` makes of the ids.

# %% tags=["solution"]
def leftmost(tokenizer, word):
    signs, k = [SIGNS[byte] for byte in word.encode()], 0
    signs[-1] += "</w>"
    while k < len(signs) - 1:
        if (signs[k], signs[k + 1]) in tokenizer.rank:
            signs[k:k + 2] = [signs[k] + signs[k + 1]]
        else:
            k += 1
    return signs

def in_text_order(text):
    parts = [part for word in split_words(text) for part in leftmost(tokenizer, word)]
    parts = [START, *parts[:75], END]
    return [tokenizer.vocabulary[part] for part in [*parts, *[END] * (77 - len(parts))]]

captions = draw_captions(300, seed=1)
in_order, in_text = (sum(len(split(text)) for text in captions) / 300 for split in (
    tokenizer.split, lambda text: [part for word in split_words(text)
                                   for part in leftmost(tokenizer, word)]))
print(f"a caption has {in_order:.1f} tokens; merged in text order, {in_text:.1f}")
kinds = {"captions": captions, "in a café": ["in a café, " + text for text in captions],
         "twice the caption": [text + ", and " + text for text in captions]}
rows = []
for kind, texts in kinds.items():
    wanted = tokenizer(texts)
    for name, encoder in {"text order": in_text_order,
                          "all three bugs": lambda text: copied_encode(tokenizer, text),
                          "repaired": lambda text: encode(tokenizer, text)}.items():
        found = torch.tensor([encoder(text) for text in texts])
        same = [a == b for a, b in zip(tokenizer.decode(found), tokenizer.decode(wanted))]
        rows.append({"texts": kind, "encoder": name,
                     "other ids": (found != wanted).any(1).double().mean(),
                     "no end": (found != tokenizer.vocabulary[END]).all(1).double().mean(),
                     "decoded alike": torch.tensor(same).double().mean()})
tables.table(rows, ".1%", caption="300 texts of each kind")

# %% [markdown] tags=["solution"]
# **What is printed.** Merged in the order of the text, every caption has other ids, and 54 tokens on average in place of 30. Yet `decode` gives every caption back: the same text in another spelling, which the text encoder never saw in training. A test that only encodes and decodes passes it. With the letters looked up the same test fails on every café. A missing end shows on long texts alone, because short ones are padded with the end token: no caption lacks it, and every doubled caption does. Twice a caption is too long for 77 ids in text order, and is cut at another place, so it does not decode alike. So an encoder is compared with the reference's *ids*, on texts with accents and on texts that are too long.

# %% [markdown]
# ## 7.4 Three faults of the board, from pictures alone (3 points, 20 minutes)
#
# Mini-SD draws the first row below. Rows A, B and C are drawn by three copies of it, each with another planted fault. It is one of these six of section 7.6:
#
# | fault | what is wrong |
# | --- | --- |
# | `"text not causal"` | the text encoder has no causal mask: its first tokens see the later ones |
# | `"another padding token"` | the places of a row that no word needs hold another token than in training |
# | `"no final norm of the text"` | the text encoder's last layer norm is left out |
# | `"v taken for eps, or eps for v"` | the network's output is taken for the noise, and it is $v$ |
# | `"encoder padded on both sides"` | the encoder's strided convolutions get a border on all four sides, and not on two |
# | `"no convolution before the decoder"` | the 1x1 convolution between latent and decoder is left out |
#
# Each row has three pictures with long captions, one with the caption "a figure" and one with the empty caption. A column has the same noise in all rows. The last two columns are **round trips**: two pictures of the data, encoded and decoded. Which three faults are planted depends on `READER`. Put your name there, or what your instructor gave you.

# %%
READER = "Ada"

# %%
mini, vae = train.load("mini_sd", "cpu"), train.load("nouns_vae", "cpu")
long = noun_parts.plain_captions(noun_parts.draw_parts(3, seed=11, split="test"))
some = [*long, "a figure", ""]
two = noun_parts.render(noun_parts.draw_parts(2, seed=61))

def row(plant=None):
    """Five pictures drawn from noise, and two round trips: (7, 3, 32, 32)"""
    model = faults.Parts(mini, vae)                         # a copy
    if plant:
        plant(model)
    drawn = sampling.text_to_image(model.D, some, steps=6, vae=model.vae)
    return torch.cat([drawn, model.vae.to_images(model.vae.to_latents(two))])

right = row()
shown = {"right": right}
for letter, plant in planted(READER).items():
    shown[letter] = row(plant)
plots.show(shown, columns=7,
           title="Three captions, \"a figure\", no caption; two round trips")
print(*long, sep="\n")

# %% [markdown]
# Say for each row which fault it has, and why. A reason is one of these:
#
# | reason | what the row shows |
# | --- | --- |
# | `"first words"` | what a caption names first is lost, and most of what it names later is right; without a caption all is right |
# | `"few words"` | long captions are drawn nearly as before, short ones and the empty one are not |
# | `"no trace"` | of a long caption's picture neither shape nor colours are left, and the pictures of short captions are broken as well |
# | `"blobs"` | what is drawn from noise is blobs, with words or without, in the places and colours of the right picture |
# | `"round trips"` | what is drawn from noise is right, and only the round trips are broken |
# | `"all"` | everything is broken, the round trips as well |
# | `"noise left"` | the figures are right, under a rest of noise |
# | `"colours"` | all shapes are right, and all colours are too strong or too weak |

# %% tags=["answer:7.4"]
def diagnosis():
    """-> {"A": (fault, reason), "B": (fault, reason), "C": (fault, reason)}"""
    ### BEGIN SOLUTION
    return {"A": ("no final norm of the text", "no trace"),
            "B": ("another padding token", "few words"),
            "C": ("v taken for eps, or eps for v", "blobs")}
    ### END SOLUTION

# %% tags=["check:7.4"]
check("7.4", (READER, diagnosis))
### BEGIN HIDDEN TESTS
assert check.passed("7.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Do not ask first what a row looks like. Ask which of its columns are right, and what only the others use. A round trip reads no text, starts from no noise and takes no step, and all three rows have theirs right. So neither encoder nor decoder is at fault. Row B is right with long captions and wrong without words: what is changed stands where the words are not. Rows A and C are broken with words and without. In C the colours of the right picture are where they belong, so the caption was understood, and the steps went wrong. In A nothing of the long captions' pictures is left: they were not understood. Measured, for all six: the correlation of each picture with the right one of its column, over all pixels; 1 is right.

# %% tags=["solution"]
columns = ["long captions"] * 3 + ["a figure", "no caption"] + ["round trips"] * 2
known = {fault: shown[letter] for letter, (fault, _) in diagnosis().items()}
boards = {name: known[name] if name in known else row(faults.FAULTS[name])
          for name in FAULTS}
rows = {}
for name, board in boards.items():
    pairs = zip(board.flatten(1), right.flatten(1))
    found = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
    rows[name] = {column: sum(c for c, other in zip(found, columns) if other == column)
                  / columns.count(column) for column in columns}
tables.table(rows, ".2f", index="fault", caption="Correlation with the right pictures")

# %% [markdown] tags=["solution"]
# The first fault is not in Ada's rows. It has the subtlest sign, the *place* of a word in its caption. How far are the text's vectors from the right ones, in their standard deviations, by place?

# %% tags=["solution"]
plots.show({"right": right, "not causal": boards["text not causal"]}, columns=7)
broken = faults.Parts(mini, vae)
faults.FAULTS["text not causal"](broken)
tokens = mini.net.tokenizer(noun_parts.plain_captions(noun_parts.draw_parts(200, seed=12)))
vectors = mini.net.text(tokens)                                         # (200, 48, 128)
far_off = (broken.D.net.text(tokens) - vectors).square().mean(2).sqrt() / vectors.std()
ends = (tokens == mini.net.tokenizer.vocabulary[END]).int().argmax(1)   # the first one
thirds = torch.stack([torch.stack([
    part.mean() for part in off[1:end].tensor_split(3)] + [off[end:].mean()])
    for off, end in zip(far_off, ends)])                                # (200, 4)
tables.table([{"": name, "mean": column.mean(), "deviation": column.std()}
              for name, column in zip(("first third of the words", "second third",
                                       "last third", "end and padding"), thirds.T)],
             ".2f", caption="200 captions, text not causal")

# %% [markdown] tags=["solution"]
# **What the tables and the figure show.** Each fault has its own pattern of columns. Another padding token leaves 0.98 of the long captions' pictures, and 0.66 and 0.82 of the short ones. Without the norm 0.23 is left of long captions, and 0.40 of short ones. With $v$ taken for $\epsilon$ it is 0.71 with long captions, and 0.48 and 0.66 with short ones (one picture each). The two faults of the autoencoder are the only ones in which the round trips are wrong. And without the mask only the long captions suffer: the vectors of their first third are off by 0.59 standard deviations, those of the last third by 0.19. Probably that is why the head, which is named first, is lost in all three pictures, and the body is not. The six were chosen because their pictures differ. Most of the board's eighteen faults cannot be told like this, and some cannot be seen at all: that is why section 7.6 has numbers.

# %% [markdown]
# ## 7.5 The scheduler that is one step off (3 points, 20 minutes)
#
# A sampler needs three things for each of its $n$ steps: the step $i$ that the network is told, and the $\alpha$ and $\sigma$ of the level that $x$ has there. Both grids of (7.9) are wanted, for a schedule of $T$ steps. Here is a function from three sources, each of which had a convention of its own.

# %%
def copied_levels(schedule, n, spacing):
    """-> steps (n,) for the network, alpha (n,), sigma (n,)"""
    T = schedule.T
    if spacing == "trailing":
        steps = torch.arange(T, 0, -T / n).round().long()
    else:
        steps = torch.arange(n - 1, -1, -1) * (T // n)
    t = steps / T
    return steps, schedule.alpha(t), schedule.sigma(t)

# %% [markdown]
# Two tests. First what it says of the first and the last step. The published pipeline, with `timestep_spacing="leading"` and `steps_offset=1`, goes from 981 to 1 in 50 steps, and the network was trained on steps 0 to 999. Then a *perfect* network for two bumps in one dimension. Like a real one it is told the step, and it predicts the noise of that step's level. `sample` is DDIM; its start has the right level for the first of its steps, whatever that is.

# %%
sd = Schedule.scaled_linear()
bumps = data.GaussianMixture([[-1.0], [0.8]], 0.15, [0.3, 0.7])
exact = bumps.denoiser(sd)

def network(x, step):
    """eps of the level of step 0 ... 999"""
    t = (step.double() + 1) / sd.T
    t = t.clamp(max=1)                                      # a real one goes on beyond 999
    return (x - sd.alpha(t) * exact(x, t)) / sd.sigma(t)

def sample(levels, n, spacing):
    """4,000 numbers, by DDIM"""
    steps, alpha, sigma = levels(sd, n, spacing)
    x = alpha[0] * bumps.sample(4000, seed=1).double()
    x = x + sigma[0] * randn(4000, 1, seed=2).double()
    for k in range(n):
        eps = network(x, steps[k])
        x0 = (x - sigma[k] * eps) / alpha[k]
        x = alpha[k + 1] * x0 + sigma[k + 1] * eps if k < n - 1 else x0
    return x

# %%
def described(levels, n, spacing):
    steps, alpha, sigma = levels(sd, n, spacing)
    x = sample(levels, n, spacing)
    return {"steps": f"{int(steps[0])} ... {int(steps[-1])}", "first alpha": alpha[0],
            "last sigma": sigma[-1], "deviation of a bump": x[x > 0].std()}

for n in (50, 10):
    tables.table({f"copied, {spacing}": described(copied_levels, n, spacing)
                  for spacing in ("trailing", "leading")}, ".4f", index="",
                 caption=f"{n} steps; the bumps of the data have the deviation 0.15")

# %% [markdown]
# There are three bugs, of one step each. Write the function as it should be.

# %% tags=["answer:7.5"]
def levels(schedule, n, spacing):
    """spacing: "trailing" or "leading" -> steps for the network, alpha, sigma, (n,) each"""
    ### BEGIN SOLUTION
    T = schedule.T
    if spacing == "trailing":
        steps = torch.arange(T, 0, -T / n).round().long() - 1
    else:
        steps = torch.arange(n - 1, -1, -1) * (T // n) + 1
    t = (steps.double() + 1) / T
    return steps, schedule.alpha(t), schedule.sigma(t)
    ### END SOLUTION

# %% tags=["check:7.5"]
check("7.5", levels)
### BEGIN HIDDEN TESTS
assert check.passed("7.5")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** (1) Trailing: the last of $T$ steps has the number $T-1$. The levels were right, but the network was told one step more. (2) Leading: the offset of 1 was missing. (3) Step $i$ is the level $t=(i+1)/T$, and not $i/T$. On the trailing grid (1) and (3) cancel in the levels, which came out right; the network alone was told one step too many. Measured, one bug at a time: the deviation of a bump, and how far the samples are from those of the repaired function with the same noise.

# %% tags=["solution"]
def with_bug(shift_network=0, shift_steps=0):
    """levels, with the network told other steps, or with other steps."""
    def bugged(schedule, n, spacing):
        steps = levels(schedule, n, spacing)[0] + shift_steps
        t = (steps.double() + 1) / schedule.T
        return steps + shift_network, schedule.alpha(t), schedule.sigma(t)
    return bugged

bugs = {"repaired": with_bug(), "network told one step more": with_bug(1),
        "network told one step less": with_bug(-1), "no offset": with_bug(0, -1)}
for n in (50, 10):
    rows = []
    for spacing in ("trailing", "leading"):
        wanted = sample(levels, n, spacing)
        for name, bugged in bugs.items():
            if spacing == "leading" or name != "no offset":
                x = sample(bugged, n, spacing)
                rows.append({"grid": spacing, "": name,
                             "last sigma": bugged(sd, n, spacing)[2][-1],
                             "deviation of a bump": x[x > 0].std(),
                             "from the repaired": (x - wanted).square().mean().sqrt()})
    tables.table(rows, ".4f", caption=f"{n} steps, 4,000 numbers")

# %% [markdown] tags=["solution"]
# **What the tables show.** A step more or less moves a number by 0.002 to 0.008 (root mean square), 1 to 5 % of a bump's deviation. The deviation itself changes by 0.01 or less. Nobody would see that. The choice of the grid does more: with 50 steps the deviation is 0.113 on the trailing grid and 0.128 on the leading one, and 0.15 would be right. Probably that is the last step, which starts from $\sigma = 0.13$ on the one and from $0.04$ on the other. So a bug of one step hides behind larger errors that nobody calls a bug. It is found by comparing steps, $\alpha$ and $\sigma$ with the reference's, as the check does.

# %% [markdown]
# ## 7.6 Derivation: zero convolutions, or why does anything learn? (3 points, 20 minutes)
#
# A ControlNet's features $u$ reach the U-Net through a layer $Z$ that is zero (section 7.8). In small: $u = Wx$, with a layer $W$ behind $Z$, and $s = s_0 + Zu$. The loss $\mathcal L$ depends on $s$; the gradient that arrives, $g = \partial\mathcal L/\partial s$, stays the same. Derive the gradients of both layers, $\mathrm dZ$ and $\mathrm dW$, for any $Z$ and $W$. Then both take one step of gradient descent *at the same time*, with rate `lr`. Give the gradients before it and after it. The check calls your function with autograd switched off.

# %% tags=["answer:7.6"]
def two_steps(Z, W, x, g, lr):
    """Z (m, n), W (n, k), x (k,), g (m,) -> dZ, dW at first; dZ, dW after the step"""
    ### BEGIN SOLUTION
    dZ, dW = torch.outer(g, W @ x), torch.outer(Z.T @ g, x)
    Z, W = Z - lr * dZ, W - lr * dW
    return dZ, dW, torch.outer(g, W @ x), torch.outer(Z.T @ g, x)
    ### END SOLUTION

# %% tags=["check:7.6"]
check("7.6", two_steps)
### BEGIN HIDDEN TESTS
assert check.passed("7.6")
### END HIDDEN TESTS

# %% [markdown]
# What happens in the four cases $Z = 0$ or not, $W = 0$ or not? Which of them is a ControlNet's start, and which LoRA's, with $B$ for $Z$ and $A$ for $W$? Ask your function, and then train: $s = s_0 + Z\tanh(Wx)$, with the right $s$ from two other layers of the same sizes.

# %% tags=["solution"]
x, W, Z, g = (randn(*shape, seed=k) for k, shape in enumerate(((6,), (4, 6), (3, 4), (3,))))
kinds = {"Z = 0": (0 * Z, W), "W = 0": (Z, 0 * W), "both zero": (0 * Z, 0 * W),
         "neither": (Z, W)}
rows = {}
for name, start in kinds.items():
    sizes = [d.norm() for d in two_steps(*start, x, g, 0.1)]
    heads = "|dZ|", "|dW|", "|dZ| after a step", "|dW| after a step"
    rows[name] = dict(zip(heads, sizes))
tables.table(rows, ".2f", index="", caption="Gradients, lr = 0.1")

# %% tags=["solution"]
x = randn(256, 6, seed=10)
teacher = lambda x: torch.tanh(x @ randn(4, 6, seed=11).T) @ randn(3, 4, seed=12).T

def trained(starts, biases, steps=1000, lr=0.1):
    """How far s is from s_0 at the start, and the losses, relative to the wanted change.

    starts: k pairs Z, W, trained beside each other; biases: (k,), 1 where Z has a bias
    """
    Z, W = (torch.stack(layers) for layers in zip(*starts))         # (k, 3, 4), (k, 4, 6)
    parameters = [Z, W, torch.zeros(len(Z), 1, 3)]
    wanted, losses = teacher(x), []
    for _ in range(steps + 1):
        Z, W, b = parameters = [p.detach().requires_grad_() for p in parameters]
        change = torch.tanh(x @ W.mT) @ Z.mT + biases[:, None, None] * b    # (k, 256, 3)
        losses.append((change - wanted).square().mean((1, 2)))              # (k,)
        if len(losses) == 1:
            disturbed = change.detach().square().mean((1, 2))
        gradients = torch.autograd.grad(losses[-1].sum(), parameters)
        parameters = [p - lr * d for p, d in zip(parameters, gradients)]
    size = wanted.square().mean()
    return {"off at the start": (disturbed / size).sqrt(),
            "loss after 10 steps": losses[10] / size, "after 1,000": losses[-1] / size}

starts = kinds | {"both zero, Z with a bias": kinds["both zero"]}
columns = trained(starts.values(), torch.tensor([0.0] * 4 + [1.0]))
rows = {name: {head: column[k] for head, column in columns.items()}
        for k, name in enumerate(starts)}
tables.table(rows, ".3f", index="", caption="256 examples; a loss of 1 is that of s_0")

# %% [markdown] tags=["solution"]
# **Solution.** $\mathcal L$ depends on $Z$ by $s = s_0 + Zu$ alone, so $\mathrm dZ = g\,u^\top$. What reaches $u$ is $Z^\top g$, and $u = Wx$, so $\mathrm dW = Z^\top g\,x^\top$. With $Z = 0$ the first is not zero and the second is. After the step $Z$ is $-\eta\,g\,u^\top$, with $\eta$ the rate, and $\mathrm dW = -\eta\,|g|^2\,u\,x^\top$.
#
# **What the tables show.** $Z = 0$ with random $W$ is the start of a ControlNet, and of LoRA. $\mathrm dW$ is zero at first and not after a step, and in 1,000 steps the loss falls to 4 %. $W = 0$ with random $Z$ is its mirror image, and works as well. With both zero no gradient ever comes, and the loss stays where it was. A bias of $Z$, which a zero convolution has, does learn, but it is the same for every $x$: 0.7 % of the loss. With neither zero the network does not begin as it was: the output is off by more than the whole change that is wanted, and after ten steps the loss is still larger than without any change. After 1,000 steps it is about equal to the others (one draw each). So one zero is for the start, and a second one ends the training before it begins.

# %% [markdown]
# ## 7.7 Open: teach it something of yours (4 points, 45 minutes)
#
# Teach mini-SD one thing that it cannot draw, by LoRA (section 7.7): one of the ten heads that were withheld from it, a head that you drew, a style. A dozen training pictures of 32 x 32 suffice, and a minute of training. `lora.add_lora(D.net.unet, rank=8)` gives a copy of the model its factors, and `train.train` trains them, with `muon_lr=0`, since the matrices that Muon would move are frozen. Then measure, before and after, what you taught, what it cost elsewhere, and whether it copies. Return a dict:
#
# * `"thing"`: what you taught, in a sentence; `"word"`: the word or words that ask for it; `"better"`: `"higher"` or `"lower"`, which scores are the good ones.
# * `"training"`: a dict with `"captions"`, 4 or more, and `"pictures"` (m, 3, 32, 32) in [-1, 1].
# * `"asked"`: a dict with `"captions"`, at least 50 that ask for it and are none of the training's; `"before"` and `"after"`, the score of each caption's picture, drawn without the adapter and with it from the same noise; `"pictures"`, those drawn with it. A score is what you choose: right or wrong, a distance, a share.
# * `"others"`: the same for at least 50 captions that do not ask for it, without pictures.
# * `"gain"` and `"cost"`: by how much the mean score of the asked ones got better, and that of the others worse; `"gain error"` and `"cost error"`: the standard errors of these mean differences. The same caption and noise make a pair.
# * `"nearest"`: the median over the asked pictures of the distance to the nearest training picture, as root of the mean squared difference; `"nearest in training"`: the same of each training picture to the nearest *other* one; `"copies"`: the share of asked pictures that lie nearer to a training picture than the two nearest training pictures to each other.
#
# The check has no threshold for how good your adapter is. It computes the seven numbers anew from your lists and pictures, looks whether the captions are what they should be, and wants a gain of more than two standard errors. A cost is no fault; a cost that was not measured is.

# %% tags=["solution"]
DRAWING = """
 kkkkkkkkkk
kkkkrrrrkkkk
kkkrrrrrrkkk
kkkrrrrrrkkk
kkkkrrrrkkkk
kkkkkkkkkkkk
kkkyyyyyykkk
kkkyyyyyykkk
kkkyyyyyykkk
kkkkkkkkkkkk
kkkkggggkkkk
kkkggggggkkk
kkkggggggkkk
kkkkggggkkkk
kkkkkkkkkkkk
 kkkkkkkkkk""".strip("\n").splitlines()
INK = {"k": (-0.6, -0.6, -0.5), "r": (0.9, -0.8, -0.8), "y": (1.0, 0.6, -0.8),
       "g": (-0.8, 0.6, -0.4)}
light, inked = torch.zeros(3, 32, 32), torch.zeros(32, 32, dtype=torch.bool)
for y, line in enumerate(DRAWING, 5):
    for x, sign in enumerate(line, 10):
        if sign in INK:
            light[:, y, x] = torch.tensor(INK[sign])
            inked[y, x] = True

# %% tags=["solution"]
art = noun_parts.load_art()

def with_light(parts):
    """Figures with a traffic light for a head: (n, 5) -> (n, 3, 32, 32), and captions"""
    pictures = []
    for background, body, accessory, _, glasses in parts.tolist():
        index = art.layers["background"][background]
        for layer in (art.layers["body"][body], art.layers["accessory"][accessory]):
            index = torch.where(layer == 0, index, layer)
        x = torch.where(inked, light, art.palette[:, index.long()])
        layer = art.layers["glasses"][glasses]
        pictures.append(torch.where(layer == 0, x, art.palette[:, layer.long()]))
    plain = noun_parts.plain_captions(parts)
    return torch.stack(pictures), ["a traffic light" + text[text.index("-headed"):]
                                   for text in plain]

taught, taught_captions = with_light(noun_parts.draw_parts(12, seed=3))
asked, asked_captions = with_light(noun_parts.draw_parts(50, seed=5, split="test"))
other_parts = noun_parts.draw_parts(50, seed=6, split="test")
others, other_captions = (noun_parts.render(other_parts),
                          noun_parts.plain_captions(other_parts))

# %% tags=["solution"]
torch.manual_seed(0)
pupil = copy.deepcopy(mini).requires_grad_(False)
lora.add_lora(pupil.net.unet, rank=8)
pupil = train.train(pupil, {"x0": vae.to_latents(taught),
                            "tokens": pupil.net.tokenizer(taught_captions)},
                    steps=60, batch_size=12, lr=3e-3, muon_lr=0, data_range=None,
                    device="cpu")

def drawn(captions, dial):
    """At dial 0 the pupil is mini-SD itself."""
    D = pupil if dial else mini
    with parametrize.cached():                              # W + change, computed once
        return sampling.text_to_image(D, captions, steps=6, vae=vae)

def off(x, truth):
    """How far each picture is from the figure that its caption describes: (n,)"""
    return (x - truth).square().mean((1, 2, 3)).sqrt()

def far(x, y):
    """The same of each picture from each other one: (n, m)"""
    return torch.cdist(x.flatten(1).double(), y.flatten(1).double()) / 3072**0.5

sets = {"asked": (asked_captions, asked), "others": (other_captions, others)}
pictures = {(name, dial): drawn(captions, dial)
            for name, (captions, _) in sets.items() for dial in (0.0, 1.0)}
scores = {(name, dial): off(x, sets[name][1]) for (name, dial), x in pictures.items()}
shown = {"the dozen": taught[:10]}
for (name, dial), x in pictures.items():
    shown[f"{name}, {'after' if dial else 'before'}"] = x[:10]
plots.show(shown, columns=10, title="A traffic light")

# %% tags=["answer:7.7"]
def record():
    """-> a dict of what was taught, drawn and measured"""
    ### BEGIN SOLUTION
    mean = lambda d: {"": d.mean().item(), " error": (d.std() / len(d)**0.5).item()}
    changes = {"gain": scores["asked", 0.0] - scores["asked", 1.0],
               "cost": scores["others", 1.0] - scores["others", 0.0]}
    nearest = far(pictures["asked", 1.0], taught).amin(1)
    among = far(taught, taught).fill_diagonal_(torch.inf).amin(1)
    return {
        "thing": "a head that is a traffic light", "word": "traffic light",
        "better": "lower",
        "training": {"captions": taught_captions, "pictures": taught},
        "asked": {"captions": asked_captions, "pictures": pictures["asked", 1.0],
                  "before": scores["asked", 0.0], "after": scores["asked", 1.0]},
        "others": {"captions": other_captions, "before": scores["others", 0.0],
                   "after": scores["others", 1.0]},
        **{name + end: value for name, change in changes.items()
           for end, value in mean(change).items()},
        "nearest": nearest.median().item(), "nearest in training": among.median().item(),
        "copies": (nearest < among.min()).double().mean().item()}
    ### END SOLUTION

# %% tags=["check:7.7"]
check("7.7", record)
### BEGIN HIDDEN TESTS
assert check.passed("7.7")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, judged.** Three distances need something beside them. The score after: how far a round trip through the autoencoder alone is from the figures, which is the least that can be had. The nearest training picture: how far *new figures with the same head*, drawn by hand, are from the dozen. And what the adapter does with figures that have other parts in common: the attribute accuracy of the four parts besides the head.

# %% tags=["solution"]
measured = record()
once = vae.to_images(vae.to_latents(asked))
least = far(taught, taught).fill_diagonal_(torch.inf).min()
rows = {name: {"distance from the right figure": off(x, asked).mean(),
               "from the nearest of the dozen": far(x, taught).amin(1).median(),
               "copies": (far(x, taught).amin(1) < least).double().mean()}
        for name, x in {"before": pictures["asked", 0.0], "after": pictures["asked", 1.0],
                        "round trips of new figures": once, "new figures": asked}.items()}
tables.table(rows, {"copies": ".0%"}, index="", caption="50 captions with a traffic light")
print(*(f"{name} {measured[name]:.3f} +- {measured[name + ' error']:.3f}"
        for name in ("gain", "cost")), sep="; ")
right = {name: attributes.attributes_correct(x, other_parts).double().mean(0).tolist()
         for name, x in (("before", pictures["others", 0.0]),
                         ("after", pictures["others", 1.0]))}
tables.table({name: dict(zip(noun_parts.PARTS, row)) for name, row in right.items()}, ".0%",
             index="", caption="50 other captions: parts that are right")

# %% [markdown] tags=["solution"]
# **What the tables show.** After 60 steps the pictures are 0.20 from the right figures, before it was 0.37, and a round trip of the right figure is 0.12 from it. So the head is learned, and the figure's lights are not yet sharp. It does not copy: no picture is nearer to the dozen than two of the dozen to each other, and the pictures are further from it (0.36) than new figures are (0.29). That row is needed, since all these figures have one head, and lie near each other for that reason. The adapter cost something: the other captions' pictures are further off by 0.084, 14 standard errors. The accuracy of the parts shows little of that: 4 of 50 bodies and 2 of 50 glasses. In the last row of the figure the colours look stronger than before.

# %% [markdown]
# ## 7.8 Half of the evaluations (3 points, 25 minutes)
#
# The second part of the lesson begins here. Mini-SD is drawn from by five steps with guidance $w=2$: ten evaluations of the U-Net for each picture. Draw with *five*, and lose at most two points of attribute accuracy. The check does not look at a clock. It counts evaluations where the U-Net's first layer is, row by row, so a batch of $2B$ counts twice for each picture, and so does a step whose deeper features are cached. Then it draws 32 captions, with the same noise by your function and by `draw_today`, and compares the parts that are right (half a minute).

# %%
def draw_today(D, noise, tokens):
    """noise (B, 8, 8, 8), tokens (B, 48) -> latents (B, 8, 8, 8), by ten evaluations"""
    B = len(noise)
    nothing = D.net.encode(D.net.null["tokens"], B)
    text = D.net.encode(tokens, B)
    ts = timesteps(D.schedule, 5)
    return last(dpmpp(cfg(D, 2.0, nothing), D.schedule, noise, ts, **text))

# %% tags=["answer:7.8"]
def fast_draw(D, noise, tokens):
    """noise (B, 8, 8, 8), tokens (B, 48) -> latents (B, 8, 8, 8), by five evaluations"""
    ### BEGIN SOLUTION
    B = len(noise)
    nothing = D.net.encode(D.net.null["tokens"], B)
    text = D.net.encode(tokens, B)
    guided = cfg(D, guidance_interval(2.0, 0.9, 1.0), nothing)
    return last(dpmpp(guided, D.schedule, noise, timesteps(D.schedule, 4), **text))
    ### END SOLUTION

# %% tags=["check:7.8"]
check("7.8", fast_draw)
### BEGIN HIDDEN TESTS
assert check.passed("7.8")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, beside others.** Four steps, of which the first is guided: five evaluations. Others with at most five: no guidance and five steps, or one; two guided steps. The check's captions and noises, 32 pictures of five parts, with the standard error over pictures of the paired difference.

# %% tags=["solution"]
def drawn_with(steps, scale):
    def draw(D, noise, tokens):
        nothing = D.net.encode(D.net.null["tokens"], len(noise))
        text = D.net.encode(tokens, len(noise))
        guided = D if scale == 1 else cfg(D, scale, nothing)
        return last(dpmpp(guided, D.schedule, noise, timesteps(D.schedule, steps), **text))
    return draw

today, case, rows = release.right_parts().double(), release.latency_case(), {}
for name, draw_by in {"5 steps, no guidance": drawn_with(5, 1),
                      "1 step, no guidance": drawn_with(1, 1),
                      "2 guided steps": drawn_with(2, 2.0)}.items():
    latents, evaluations = release.counted(draw_by, case, torch.arange(len(today)))
    lost = 100 * (today - release.parts_of(case, latents).double())     # (32, 5)
    rows[name] = {"evaluations": evaluations, "points lost": lost.mean(),
                  "error": lost.mean(1).std() / len(lost)**0.5,
                  "most by": noun_parts.PARTS[int(lost.mean(0).argmax())]}
tables.table(rows, {"points lost": ".1f", "error": ".1f"}, index="",
             caption=f"Ten evaluations: {today.mean():.1%} of the parts are right")

# %% [markdown] tags=["solution"]
# **What the table shows.** Five steps without guidance lose nothing that 32 captions can show: the difference is within its standard error of zero. So the five evaluations that they save were guidance, and these captions, which name all five parts, did not need it. A single step without guidance loses about as little (section 7.22 says what it cannot do). Two guided steps lose 3.8 ± 1.4 points: few steps fail here *with* guidance. 32 pictures are few: two points are less than two standard errors. With 2,000 the error would be about $1.1\sqrt{32/2000} = 0.14$. What guidance changes beside the parts, such as variety, this test does not see.

# %% [markdown]
# ## 7.9 Break the watermark, mend it, forge it (4 points, 45 minutes)
#
# A service marks its digits by Gaussian Shading, with one mistake: all pictures have the same nonce, so the noises of all have the same signs. Below is what it does. `find` gives the p-value of each picture; a mark counts as found at $p\le10^{-6}$.

# %%
KEY, NONCE = 2024, 7
invert, draw = release.invert_digits, release.draw_digits   # x -> noise; noise, y -> x
find = lambda x: release.find_mark(x, KEY, NONCE)       # (n, 1, 28, 28) -> p-values (n,)
y = torch.arange(24) % 10
x = draw(marked_noise((24, 1, 28, 28), KEY, NONCE, generator=seeded(0)), y)
clean = draw(randn(24, 1, 28, 28, seed=1), y)
for name, pictures in (("marked", x), ("without a mark", clean)):
    p = find(pictures)
    print(f"{name}: {(p <= 1e-6).sum()} of 24 found, p from {p.min():.0e} to {p.max():.0e}")

# %% [markdown]
# Write four functions.
#
# * `p_value(agreeing, signs)`: the probability that at least so many of `signs` signs agree by chance, by hand, without `scipy`, also for the 3,072 signs of a colour picture.
# * `attack(x)`: marked digits (24, 1, 28, 28) in [-1, 1] to pictures that show the same digits, in which the mark is found in at most a quarter. You have no key, and need none.
# * `mended(x, find)`: a detector that a shift by one pixel does not fool. It asks `find` for nine shifts of `x`, by -1, 0 and 1 pixels along both axes, and returns *one* p-value for each picture, (n,), which is still right: a picture without a mark has a p-value of at most $u$ with probability at most $u$.
# * `forge(x, y, invert, draw)`: from 24 marked pictures `x`, new pictures of the digits `y` (16,), in which the mark is found. `invert(x)` gives the noise of pictures, `draw(noise, y)` pictures of a noise. You do not have the key.

# %% tags=["answer:7.9"]
def p_value(agreeing, signs):
    """P(Bin(signs, 1/2) >= agreeing), a float"""
    ### BEGIN SOLUTION
    ways = sum(math.comb(signs, k) for k in range(agreeing, signs + 1))
    return ways / 2**signs                                  # whole numbers up to here
    ### END SOLUTION

def attack(x):
    """(24, 1, 28, 28) -> the same digits, whose mark is not found"""
    ### BEGIN SOLUTION
    return x.roll(1, 3)
    ### END SOLUTION

def mended(x, find):
    """x (n, 1, 28, 28); find: pictures -> p-values (n,). -> p-values (n,)"""
    ### BEGIN SOLUTION
    tries = [x.roll((dy, dx), (2, 3)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    p = find(torch.cat(tries)).view(9, -1)                  # (9, n), in one batch
    return (9 * p.amin(0)).clamp(max=1)
    ### END SOLUTION

def forge(x, y, invert, draw):
    """x (24, 1, 28, 28) with the mark, y (16,) -> digits y with the mark (16, 1, 28, 28)"""
    ### BEGIN SOLUTION
    signs = torch.where(invert(x).sum(0) >= 0, 1.0, -1.0)   # (1, 28, 28)
    return draw(torch.randn(len(y), 1, 28, 28).abs() * signs, y)
    ### END SOLUTION

# %% tags=["check:7.9"]
check("7.9", (p_value, attack, mended, forge))
### BEGIN HIDDEN TESTS
assert check.passed("7.9")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** The attack against both detectors; the forgery from 24 pictures and from one. Last, the forgery against a service without the mistake, which gives each picture a nonce of its own.

# %% tags=["solution"]
torch.manual_seed(0)
wanted = torch.arange(16) * 3 % 10
own = torch.arange(24)
x_own = draw(marked_noise((24, 1, 28, 28), KEY, own, generator=seeded(0)), y)
shown = {"marked": x, "shifted": attack(x), "without a mark": clean,
         "forged from 24": forge(x, wanted, invert, draw),
         "forged from 1": forge(x[:1], wanted, invert, draw),
         "forged, own nonces": forge(x_own, wanted, invert, draw)}
rows = {}
for name, pictures in shown.items():
    nonces = own[:16] if "own" in name else NONCE
    p = release.find_mark(pictures, KEY, nonces)
    rows[name] = {"n": len(p), "found": f"{(p <= 1e-6).double().mean():.0%}",
                  "largest p": f"{p.max():.0e}", "mended, of 6": "", "largest": ""}
    if "forged" not in name:
        p = mended(pictures[:6], find)
        rows[name] |= {"mended, of 6": int((p <= 1e-6).sum()), "largest": f"{p.max():.0e}"}
tables.table(rows, index="pictures", caption="Found at 1e-6")
plots.show({name: pictures[:10] for name, pictures in shown.items()}, columns=10)

# %% [markdown] tags=["solution"]
# **What table and figure show.** The mark is found in all pictures, until they move by one pixel: then in none, and nobody sees the difference. The mended detector finds it again. Its nine tries cost a factor of nine in each p-value. The forgery needs no key: all 16 forged digits carry the mark, and all ten in the figure are those that were asked for. From a single picture 9 of 16 were marked in our run, and several of them show another digit than was asked for: one picture tells the signs only where its strokes are, and its noise contains its digit. What mends the forgery is a nonce for each picture. Then the signs of 24 pictures have nothing in common, and none is found. Against a forger who takes one marked picture and its nonce, and draws a digit like it, that is no help: a mark says which noise a picture came from, and not who drew it.

# %% [markdown]
# ## 7.10 A bias, measured and mitigated (3 points, 25 minutes)
#
# Pictures were drawn for $K$ prompts, and each was judged: has it an attribute that no prompt names? `y` (N,) is the prompt of each picture, 0 to $K-1$, and `a` (N,) says yes or no. Write three functions.
#
# * `skew(y, a, K)` returns two tensors of length $1+K$: the share of yes among all pictures and then given each prompt, and the standard errors of these shares.
# * `weights(y, a, K)` returns (N,): weights by which the pictures are shown, or trained on, so that yes and no are equally frequent *given each prompt*. They add up to 1, and each prompt keeps its share of the pictures. Where a prompt has pictures of one kind only, nothing can be balanced, and they have the weight $1/N$.
# * `effective(w)`: how many equally weighted pictures the weights are worth, $(\sum_i w_i)^2/\sum_i w_i^2$, for any positive weights (Kish 1965).

# %% tags=["answer:7.10"]
def skew(y, a, K):
    """y (N,) in 0 ... K - 1, a (N,) bool -> shares (1 + K,), standard errors (1 + K,)"""
    ### BEGIN SOLUTION
    groups = [a.double(), *(a[y == k].double() for k in range(K))]
    share = torch.stack([group.mean() for group in groups])
    n = torch.tensor([len(group) for group in groups])
    return share, (share * (1 - share) / n).sqrt()
    ### END SOLUTION

def weights(y, a, K):
    """-> (N,), sum 1: both kinds are equally frequent given each prompt"""
    ### BEGIN SOLUTION
    w = torch.full((len(y),), 1 / len(y), dtype=torch.float64)
    for k in range(K):
        kinds = [(y == k) & (a == kind) for kind in (False, True)]
        if all(kind.any() for kind in kinds):
            for kind in kinds:
                w[kind] = (y == k).sum() / len(y) / 2 / kind.sum()
    return w
    ### END SOLUTION

def effective(w):
    """-> the number of equal weights that tell as much"""
    ### BEGIN SOLUTION
    return w.sum()**2 / w.square().sum()
    ### END SOLUTION

# %% tags=["check:7.10"]
check("7.10", (skew, weights, effective))
### BEGIN HIDDEN TESTS
assert check.passed("7.10")
### END HIDDEN TESTS

# %% [markdown]
# Now measure one. The prompt is a digit, and the attribute is *heavy*: more ink than the median of MNIST's digits. Half of all training digits are heavy, but not half of the 1s. What do samples of the small model make of this skew, without guidance and with $w=3$? And what does the mitigation cost? (Your functions, and `sampling.sample_labels`.)

# %% tags=["solution"]
digits, labels = data.mnist("train")
ink = lambda x: x.double().mean((1, 2, 3))
limit = ink(digits[:10000]).median()
D, y = train.load("mnist_small", "cpu"), torch.tensor([0, 1, 7]).repeat_interleave(60)
sets = {"training": (labels[:10000], digits[:10000])}
for scale in (1.0, 3.0):
    drawn_digits, _, _ = sampling.sample_labels(D, sampling.SAMPLERS["dpmpp"], 8, y, scale)
    sets[f"samples, w = {scale:g}"] = y, drawn_digits
rows = {}
for name, (of, pictures) in sets.items():
    few = (of == 0) | (of == 1) | (of == 7)
    prompt = torch.tensor([0, 1, 0, 0, 0, 0, 0, 2, 0, 0])[of[few]]
    heavy = ink(pictures[few]) > limit
    share, error = skew(prompt, heavy, 3)
    w = weights(prompt, heavy, 3)
    rows[name] = {head: f"{p:.0%} ± {e:.1%}" for head, p, e in
                  zip(("the three", "0", "1", "7"), share, error)}
    rows[name] |= {"n": len(w), "worth, balanced": f"{effective(w):.0f}"}
tables.table(rows, index="heavy digits", caption="Share of heavy ones, standard error")

# %% [markdown] tags=["solution"]
# **What the table shows.** In the data 88 % of the 0s are heavy, 3 % of the 1s and 33 % of the 7s: the skew depends on the prompt. Samples without guidance have it too, within two standard errors. With $w=3$ it is another: no 1 is heavy, all 0s are, and of the 7s 73 % instead of 33 %. Probably guidance exaggerates what tells a digit from the others, and also its contrast, which is ink. An error of 0.0 % is no certainty: 60 pictures without an exception are compatible with 5 % exceptions. The mitigation costs pictures: at $w=1$ the 180 pictures are worth 28 after balancing, because one heavy 1 then counts as much as all light ones together. At $w=3$ they seem to be worth 165. That is not better, it is worse: 0s and 1s are of one kind each, and nothing could be balanced. Weights cannot replace what a model does not draw.

# %% [markdown]
# ## 7.11 What does the service leak? (3 points, 30 minutes)
#
# Here is the service in small: `ask(prompt, seed=None, scale=None)` returns an id, `look(id)` gives the seed and a "picture" (4, 4), `health()` says how it is, and `log` is a list of lines, which its owner reads. It raises `Refused` for a prompt of more than 60 letters, and for an unknown id. Seven things may be wrong with such a service. Through each of them something of one client reaches another, or the log:
#
# | leak | what is wrong |
# | --- | --- |
# | `"ids"` | the next id can be guessed from the last, and whoever has an id may look |
# | `"cache"` | a client gets a picture that was drawn for another, for another seed |
# | `"log"` | prompts stand in the log, drawn or refused |
# | `"generator"` | the seed that one client gave decides which seed the next is given |
# | `"errors"` | a refusal quotes another client's prompt or id |
# | `"health"` | `health()` shows a prompt or an id |
# | `"settings"` | a client who gives no scale gets one that depends on others' |

# %%
Refused = small_service.Refused
make = small_service.leaky(READER)                          # each make() is a new service
service = make()
id = service.ask("a cat", seed=1)
print(service.look(id)["seed"], service.health(), service.log)
try:
    service.look("no such id")
except Refused as refusal:
    print(refusal)

# %% [markdown]
# Three of the seven are in this one; which three depends on `READER`. Write a **probe**: a function that gets `make`, where each `make()` is a new service of one kind, and returns the names of the leaks it finds. Use only what a client or the owner of the log can do. The check tries your probe on services that leak in one way or in three, and on services that do not leak. To accuse one of these is as wrong as to miss a leak.

# %% tags=["answer:7.11"]
def probe(make):
    """make: () -> a new service. -> the set of names of its leaks"""
    ### BEGIN SOLUTION
    SECRET, found = "xylophone", set()
    letters = lambda id: re.sub(r"\d", "", id)
    number = lambda id: int(re.sub(r"\D", "", id) or 0)

    def refusal(ask, *arguments):
        try:
            ask(*arguments)
        except Refused as words:
            return str(words)

    service = make()
    ids = [service.ask(SECRET, seed=seed) for seed in (1, 2)]
    first, second = (service.look(id)["picture"] for id in ids)
    same_letters = letters(ids[0]) == letters(ids[1])
    if same_letters and number(ids[1]) - number(ids[0]) == 1:
        found.add("ids")
    if torch.equal(first, second):
        found.add("cache")
    told = [refusal(service.look, "none"), refusal(service.ask, 20 * "wrong")]
    for name, text in (("errors", told), ("health", service.health())):
        if any(word in str(text) for word in (SECRET, *ids)):
            found.add(name)
    if any(SECRET in line or "wrong" in line for line in service.log):
        found.add("log")

    seeds = []
    for service in (make(), make()):
        service.ask("a", seed=5)
        seeds.append(service.look(service.ask("b"))["seed"])
    if seeds[0] == seeds[1]:
        found.add("generator")

    alone, after = make(), make()
    after.ask("a", scale=7.0)
    pictures = [s.look(s.ask(SECRET, seed=3))["picture"] for s in (alone, after)]
    return found if torch.equal(*pictures) else found | {"settings"}
    ### END SOLUTION

# %% tags=["check:7.11"]
check("7.11", probe)
### BEGIN HIDDEN TESTS
assert check.passed("7.11")
### END HIDDEN TESTS

# %%
if check.passed("7.11"):
    print(sorted(probe(make)))

# %% [markdown] tags=["solution"]
# **Solution.** Ada's service leaks by errors, health and ids; the other four tests find nothing. Each test is two clients and one difference. Three of them need a second, fresh service or a second request, since a leak is what *depends* on somebody else: without that control the seed that a client gave itself, or the picture of the same prompt and seed, would be called a leak. The clean services are as important as the faulty ones. A probe that says yes to everything finds all faults, too.

# %% [markdown]
# ## 7.12 Write the card of a checkpoint of yours (3 points, 20 minutes)
#
# `about` is what a header says: `data`, `command`, `steps`, `seconds`, and `metrics`, in which `n` and `judged_by` stand beside the measures. A measure is a number, or a list of a number and its standard error. `said` is what a person adds: section, in small letters, to text. Any of all this may be missing. Write `model_card`, which returns a text:
#
# - the nine sections of Mitchell et al. 2019, in this order, each a line `## Section`;
# - *Model details* has `command`, `steps`, `seconds` and `judged_by`, *Training data* has `data`, *Quantitative analyses* a line for each measure, with its name, its value to at least three digits, its standard error, if there is one, to at least one digit, and `n = ...`;
# - the other six have the text that was said;
# - what is missing is called `not recorded`. No other number stands in the card.

# %%
SECTIONS = ("Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
            "Training data", "Quantitative analyses", "Ethical considerations",
            "Caveats and recommendations")

# %% tags=["answer:7.12"]
def model_card(about, said):
    """A header's `about` and what a person says -> the card, a text"""
    ### BEGIN SOLUTION
    def known(table, key):
        return "not recorded" if table.get(key) is None else table[key]

    def shown(value):
        if isinstance(value, list):
            return f"{value[0]:.4g} ± {value[1]:.3g}"
        return f"{value:.4g}"

    metrics = about.get("metrics", {})
    details = [f"{key}: {known(about, key)}" for key in ("command", "steps", "seconds")]
    text = {
        "Model details": "\n".join([*details, f"judged_by: {known(metrics, 'judged_by')}"]),
        "Training data": known(about, "data"),
        "Quantitative analyses": "\n".join(
            f"- {name}: {shown(value)}, n = {known(metrics, 'n')}"
            for name, value in metrics.items() if name not in ("n", "judged_by"))}
    pages = [f"## {section}\n{text.get(section) or known(said, section.lower())}\n"
             for section in SECTIONS]
    return "\n".join(pages)
    ### END SOLUTION

# %% tags=["check:7.12"]
check("7.12", model_card)
### BEGIN HIDDEN TESTS
assert check.passed("7.12")
### END HIDDEN TESTS

# %% [markdown]
# Now for a checkpoint of yours: any run of yours in `runs/`, or a few steps on digits. `train.save` keeps what you say about it in the header. Write the six texts before you look at the samples once more. Which of them was hardest to fill honestly?

# %% tags=["solution"]
torch.manual_seed(0)
D = Denoiser(UNet(1, widths=(16, 32), patch_size=2, num_classes=10), Schedule.cosine(), "v")
start = time.perf_counter()
D = train.train(D, data.mnist("train"), steps=20, batch_size=32, device="cpu")
seconds = time.perf_counter() - start
y = torch.arange(60) % 10
x, _, _ = sampling.sample_labels(D, sampling.SAMPLERS["dpmpp"], 5, y, scale=2.0)
agreement = metrics.class_agreement(x, y)
error = (agreement * (1 - agreement) / len(y)) ** 0.5
file = Path(tempfile.mkdtemp()) / "mine.safetensors"
train.save(D, file, data="mnist", command="this cell", seconds=round(seconds),
           metrics={"n": len(y), "class_agreement": [agreement, error],
                    "judged_by": "this cell, by mnist_classifier"})

# %% tags=["solution"]
said = {
    "intended use": "This exercise. Not for reading or forging handwriting.",
    "factors": "The digit; the writer, whom the data do not name.",
    "metrics": "The share of samples that the shipped classifier reads as asked for.",
    "evaluation data": "No data: samples alone, as many of each digit.",
    "caveats and recommendations": "Trained for 20 steps. The judge was trained on the "
    "same digits. Agreement at this guidance scale says nothing of variety."}
print(model_card(storage.load_header(file)["about"], said))

# %% [markdown] tags=["solution"]
# **What the card shows.** The steps are "not recorded", though the cell knew them: nobody passed them to `train.save`, and no file can tell afterwards. *Ethical considerations* is empty because nothing was said: the writers' consent is not known to us, and that would be the sentence to write. Agreement comes with an error and its n: 10 % ± 4 % of 60, and guessing has 10 %. So the card says in one line what this checkpoint is good for.

# %% [markdown]
# ## The capstone: a project of your own (no check, a rubric)
#
# Ten to twenty hours, alone or in pairs. Ask one question of a diffusion model that you trained, changed or sampled from yourself, and answer it with numbers that could have come out otherwise. Three that fit:
#
# * **Your own pictures.** Train on a few hundred pictures that you may use. Are the samples new, or copies? Compare with held-out pictures, as lesson 6 does.
# * **Your own modality.** Take data for which the course has no model: weather, chess positions, melodies, sensor data. Find a measure with a floor from real data against real data.
# * **Your own sampler.** Write a sampler or a wrapper of denoisers. Test it on an oracle, and measure it beside `dpmpp` at equal evaluations.
#
# [template.ipynb](../docs/capstone/template.ipynb) has the sections. [example.ipynb](../docs/capstone/example.ipynb) is a small worked one, a sampler in the angle between data and noise. It runs in a minute, so it is smaller than yours should be.
#
# | criterion | full | half | none |
# | --- | --- | --- | --- |
# | **Question** (3) | one question, and what the answer would change; the result that would refute it was written down before the run | a question, but any result would have fitted | a demonstration |
# | **Oracle** (5) | each new piece is tested where the right answer is known, and a planted fault fails that test | tested, but no fault was planted | "the samples look right" |
# | **Comparison** (5) | a baseline at equal cost, tuned as long as yours, from the same noises or with several seeds | a baseline at another cost, or untuned | none |
# | **Spread** (4) | each number has its n and its error, and stands beside its floor | errors in some places | single numbers |
# | **Data and rights** (3) | source, licence, consent, near copies measured; a card with the checkpoint | a source and a licence | not said |
# | **Reproduction** (3) | one command and fixed seeds give the numbers again, on another machine in the stated time | runs, with other numbers | does not run |
# | **Writing** (2) | no sentence says more than its cell shows; what failed is kept | one or two claims too many | conclusions without cells |
#
# 25 points. A negative answer that was measured well has all of them.

# %%
check.summary(7)
