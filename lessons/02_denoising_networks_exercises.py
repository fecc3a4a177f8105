# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 2 · Exercises
#
# {{badge}}
#
# Nine questions, 25 points, about three hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("2.1")` gives a hint, and a stronger one each time you call it. Nothing is lost by trying.
#
# Names in `code` are those of the library: `ResnetBlock`, `TimeEmbedding`, `AttentionBlock` and `CrossAttentionBlock` from `course_lib.networks.layers`, `UNet` from `course_lib.networks.unet`, `DiTBlock` and `sincos_position_embedding_2d` from `course_lib.networks.dit`. You may look into it at any time, and compare with it; your answer should be your own. The core sections of the lesson suffice for all questions.

# %% tags=["setup"]
{{setup}}

# %%
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import Denoiser, Schedule, UNet
from course_lib.checks import check, hint
from course_lib.lab import data, plots, profiling, tables
from course_lib.networks.dit import DiTBlock, sincos_position_embedding_2d
from course_lib.networks.layers import ResnetBlock, TimeEmbedding, Upsample, zero_init

torch.manual_seed(0)
torch.set_num_threads(1)                                    # enough for networks this small
digits, _ = data.mnist("test")                              # (N, 1, 28, 28), in [-1, 1]

def randomise(net):
    """The same network with small random weights everywhere.

    Layers that start at zero hide mistakes.
    """
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net

# %% [markdown]
# ## 2.1 Warm-up: count the weights (2 points, 10 minutes)
#
# How many trainable numbers does `ResnetBlock(in_channels, out_channels, emb_dim)` have? Go through its `__init__` (in `course_lib/networks/layers.py`, or `MyResnetBlock` in section 2.3) and add them up, layer by layer, biases included. Compare with `profiling.count_parameters(ResnetBlock(32, 48, 20))`, but do not build a block or a layer in your answer (the check notices): the point is to see where the numbers sit.

# %% tags=["answer:2.1"]
def resnet_parameters(in_channels, out_channels, emb_dim):
    """-> the number of trainable parameters of a ResnetBlock, a whole number"""
    ### BEGIN SOLUTION
    norms = 2 * in_channels + 2 * out_channels
    conv1 = (9 * in_channels + 1) * out_channels
    conv2 = (9 * out_channels + 1) * out_channels
    embedding = (emb_dim + 1) * 2 * out_channels            # scale and shift per channel
    shortcut = (in_channels + 1) * out_channels if in_channels != out_channels else 0
    return norms + conv1 + conv2 + embedding + shortcut
    ### END SOLUTION

# %% tags=["check:2.1"]
check("2.1", resnet_parameters)
### BEGIN HIDDEN TESTS
assert check.passed("2.1")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** A convolution with a $k \times k$ kernel has $k^2 \cdot \text{in} \cdot \text{out}$ weights and $\text{out}$ biases, a linear layer $\text{in} \cdot \text{out}$ and $\text{out}$, a group norm a weight and a bias per channel, however many groups there are.

# %% tags=["solution"]
for shape in ((32, 48, 20), (24, 24, 10)):
    counted = profiling.count_parameters(ResnetBlock(*shape))
    print(shape, resnet_parameters(*shape), counted)

# %% [markdown]
# ## 2.2 Derivation: the receptive field (3 points, 15 minutes)
#
# The *receptive field* of a stack of convolutions is the width, in input pixels, of the window that one output pixel depends on. A stack is a list of one or more pairs (kernel, stride), first layer first; no kernel is smaller than its stride. Derive on paper what one more layer adds. (Section 2.1 has the result; here you find out why.) Write it as a formula: an answer that runs convolutions, of whatever library, is refused. Then check yourself by measuring: `seen` builds the stack in one dimension, takes one output pixel, and counts the input pixels that have a gradient.

# %%
def seen(layers):
    """The receptive field, measured.   layers: [(kernel, stride), ...]"""
    x = torch.zeros(1, 1, 600, requires_grad=True)
    h = x
    for kernel, stride in layers:
        h = F.conv1d(h, torch.ones(1, 1, kernel), stride=stride)
    h[0, 0, 0].backward()
    return (x.grad != 0).sum().item()

print("two 3x3 convolutions:", seen([(3, 1), (3, 1)]))
print("the second one halving:", seen([(3, 1), (3, 2)]))
print("the first one halving:", seen([(3, 2), (3, 1)]))

# %% tags=["answer:2.2"]
def receptive_field(layers):
    """layers: [(kernel, stride), ...] -> a whole number, by a formula"""
    ### BEGIN SOLUTION
    field, jump = 1, 1                                      # jump: input pixels apart
    for kernel, stride in layers:
        field += (kernel - 1) * jump
        jump *= stride
    return field
    ### END SOLUTION

# %% tags=["check:2.2"]
check("2.2", receptive_field)
### BEGIN HIDDEN TESTS
assert check.passed("2.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Before layer $n$, neighbours are $s_1 \cdots s_{n-1}$ input pixels apart: every stride so far has thinned them out. A kernel of $k_n$ covers $k_n$ neighbours, which have $k_n - 1$ gaps, so the window grows by $(k_n - 1)\, s_1 \cdots s_{n-1}$. The layer's own stride counts only from the next layer on. Without a layer the window is 1.
#
# Used on `UNet(1)`: the folding of 2 x 2 pixels is a kernel of 2 with a stride of 2, and a `ResnetBlock` has two 3x3 convolutions.

# %% tags=["solution"]
block = [(3, 1), (3, 1)]
parts = {"folding and first layer": [(2, 2), (3, 1)], "block of level 0": block,
         "downsampling": [(3, 2)], "block of level 1": block, "bottleneck": 2 * block}
layers, rows = [], {}
for name, part in parts.items():
    layers = layers + part
    rows[name] = {"formula": receptive_field(layers), "measured": seen(layers)}
tables.table(rows, index="up to and including", caption="Receptive field, input pixels")
flat = [(kernel, 1) for kernel, _ in layers]
print(f"the same without any stride: {receptive_field(flat)} of the image's 28 pixels")

# %% [markdown]
# ## 2.3 The time embedding, from blank (3 points, 15 minutes)
#
# Write the sines and cosines of `TimeEmbedding`. With `half = dim // 2`, the frequencies fall in equal ratios from 1 to 1/10000:
#
# $$f_k = 10000^{-k / (\text{half} - 1)}, \qquad k = 0, \dots, \text{half} - 1,$$
#
# and the angles are $1000\, t\, f_k$. First all sines, then all cosines. A widely used version returns `dim - 1` numbers when `dim` is odd, and divides by zero when `dim` is 2. Yours must refuse an odd `dim`, and one below 4, with a `ValueError`. (`TimeEmbedding` itself is good for comparing, and refused.)

# %% tags=["answer:2.3"]
def time_embedding(t, dim):
    """t: (B,) real numbers in [0, 1] -> (B, dim)"""
    ### BEGIN SOLUTION
    if dim < 4 or dim % 2:
        raise ValueError(f"dim must be even and at least 4; got {dim}")
    half = dim // 2
    frequencies = 10_000.0 ** (-torch.arange(half) / (half - 1))
    angles = 1000 * t[:, None] * frequencies                # (B, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
    ### END SOLUTION

# %% tags=["check:2.3"]
check("2.3", time_embedding)
### BEGIN HIDDEN TESTS
assert check.passed("2.3")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** How alike are the embeddings of two times? Near $t = 0.5$ the fast sinusoids tell apart what the slow ones cannot. Without the factor of 1000, all times look nearly the same.

# %% tags=["solution"]
times = torch.linspace(0, 1, 401)
alike = {}
for name, scale in {"with 1000 t": 1, "with t alone": 1 / 1000}.items():
    middle = time_embedding(torch.tensor([0.5]) * scale, 64)
    alike[name] = F.cosine_similarity(time_embedding(times * scale, 64), middle)
plots.curves(times, alike, title="Which times look like t = 0.5?", xlabel="t",
             ylabel="cosine similarity with t = 0.5")

# %% [markdown]
# ## 2.4 The skip connections of a U-Net, from blank (3 points, 20 minutes)
#
# You are given the parts of a U-Net in lists, and wire them:
#
# - `down`: pairs (block, shrink), from the first level to the deepest. The block's output is kept for a *skip connection*; what is shrunk goes on.
# - `middle`: blocks, one after the other.
# - `up`: pairs (grow, block), from the deepest level to the first. What comes up is grown, the kept output *of the same level* is concatenated to it along the channels (what comes up first, then the skip), and the block takes both.
#
# Call a block as `block(h, emb)`, the others as `shrink(h)` and `grow(h)`. Leave the three lists as they are, what is in them included. A gradient must reach `x` and `emb` by every way, the skips too.

# %% tags=["answer:2.4"]
def through(x, emb, down, middle, up):
    """x: (B, C, H, W), emb: (B, emb_dim) -> the output of the last block of `up`"""
    ### BEGIN SOLUTION
    h = x
    skips = []
    for block, shrink in down:
        h = block(h, emb)
        skips.append(h)
        h = shrink(h)
    for block in middle:
        h = block(h, emb)
    for grow, block in up:
        h = block(torch.cat([grow(h), skips.pop()], dim=1), emb)
    return h
    ### END SOLUTION

# %% tags=["check:2.4"]
check("2.4", through)
### BEGIN HIDDEN TESTS
assert check.passed("2.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** The parts of the library's `UNet`, wired by `through`, give the library's output. (Its deepest level does not shrink further, so an identity stands there.)

# %% tags=["solution"]
net = randomise(UNet(1, (16, 32)))
x, t = digits[:4], torch.rand(4)
stage = lambda part: lambda h, emb: part(h, emb, None, None)            # without a context
block0, shrink0, block1 = net.down
block2, grow0, block3 = net.up
h = through(
    net.stem(F.pixel_unshuffle(x, 2)),
    F.silu(net.time(t)),
    down=[(stage(block0), shrink0), (stage(block1), nn.Identity())],
    middle=[stage(part) for part in net.middle],
    up=[(nn.Identity(), stage(block2)), (grow0, stage(block3))],
)
torch.testing.assert_close(F.pixel_shuffle(net.out(F.silu(net.norm(h))), 2), net(x, t))
print("same output as UNet:", tuple(h.shape), "before the last layer")

# %% [markdown]
# ## 2.5 Bug hunt: channels that do not fit (3 points, 20 minutes)
#
# This decoder follows a tutorial. Each line looks sensible, and it crashes:

# %%
class TutorialDecoder(nn.Module):
    """One block per level, the deepest first; skips: a list, the deepest last."""

    def __init__(self, widths):
        super().__init__()
        self.grow = nn.ModuleList([nn.Identity()])
        self.blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            if level < len(widths) - 1:
                self.grow.append(nn.ConvTranspose2d(widths[level + 1], width, 2, stride=2))
            next_width = widths[max(level - 1, 0)]
            self.blocks.append(nn.Conv2d(2 * width, next_width, 3, padding=1))

    def forward(self, h, skips):
        for grow, block in zip(self.grow, self.blocks):
            h = block(torch.cat([grow(h), skips.pop()], dim=1))
        return h

# %%
def make_skips(widths, depth, size=16):
    """The encoder's outputs: depth skips per level, widths[level] channels each."""
    return [torch.randn(1, width, size // 2**level, size // 2**level)
            for level, width in enumerate(widths) for _ in range(depth)]

widths = (16, 40, 64)
try:
    TutorialDecoder(widths)(torch.randn(1, 64, 4, 4), make_skips(widths, depth=1))
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown]
# Find out which two layers narrow the same channels. In the repaired decoder below only the blocks narrow; upsampling is done by `F.interpolate`, which keeps the channels. It also has `depth` blocks per level, each with a skip connection of its own. Write the list of its blocks' channels, (in, out), in the order in which they are used. A block's output has its own level's `widths[level]` channels, and the bottleneck's has `widths[-1]`.

# %%
class Decoder(nn.Module):
    """pairs: (in, out) of the blocks, the deepest level first; depth: blocks per level"""

    def __init__(self, pairs, depth):
        super().__init__()
        self.depth = depth
        self.blocks = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)

    def forward(self, h, skips):
        for k, block in enumerate(self.blocks):
            if k and k % self.depth == 0:
                h = F.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, skips.pop()], dim=1))
        return h

# %% tags=["answer:2.5"]
def up_channels(widths, depth):
    """widths: channels per level, first level first; depth: blocks per level

    -> [(in, out), ...], one for each block of the decoder
    """
    ### BEGIN SOLUTION
    pairs = []
    c = widths[-1]                                          # channels of what comes up
    for width in reversed(widths):
        for _ in range(depth):
            pairs.append((c + width, width))
            c = width
    return pairs
    ### END SOLUTION

# %% tags=["check:2.5"]
check("2.5", up_channels)
### BEGIN HIDDEN TESTS
assert check.passed("2.5")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** In the tutorial, the block of a level narrows to the next level's width, and the upsampling layer after it expects the level's own width and narrows again. Either may do it, but not both. `UNet` lets `Upsample` narrow, so it keeps the same running number `c`.

# %% tags=["solution"]
for depth in (1, 2):
    pairs = up_channels((16, 40, 64), depth)
    skips = make_skips((16, 40, 64), depth)
    h = Decoder(pairs, depth)(torch.randn(1, 64, 4, 4), skips)
    print(pairs, "->", tuple(h.shape))

# %% [markdown]
# ## 2.6 Bug hunt: attention that mixes tokens and channels (3 points, 20 minutes)
#
# Here is the heart of a multi-head cross-attention, as a tutorial writes it: every one of $N$ pixels attends to $L$ words. All shapes fit, and it trains.

# %%
def tutorial_attention(q, k, v, num_heads):
    """q: (B, N, C) from the pixels, k and v: (B, L, C) from the words -> (B, N, C)"""
    B, N, C = q.shape
    # heads, channels, tokens
    q, k, v = (x.reshape(B, num_heads, C // num_heads, -1) for x in (q, k, v))
    scores = torch.einsum("bhdn,bhdl->bhnl", q, k) / math.sqrt(C // num_heads)
    out = torch.einsum("bhnl,bhdl->bhdn", scores.softmax(dim=-1), v)
    return out.reshape(B, N, C)

# %% [markdown]
# To attention the words are a set: if keys and values are permuted *together*, nothing else may change. Test that. Then write the right version. Head $h$ takes the $d = C / \text{num\_heads}$ neighbouring channels from $h\,d$ to $h\,d + d - 1$, and its scores are divided by $\sqrt d$. (`course_lib.networks.layers.attention` is good for comparing, but it, torch's fused function and `nn.MultiheadAttention` are refused; `softmax` is fine.) It is part of a network: a gradient must reach `q`, `k` and `v`.

# %% tags=["answer:2.6"]
def cross_attention(q, k, v, num_heads):
    """q: (B, N, C), k and v: (B, L, C) -> (B, N, C)"""
    ### BEGIN SOLUTION
    B, N, C = q.shape
    d = C // num_heads
    split = lambda x: x.reshape(B, -1, num_heads, d).transpose(1, 2)
    q, k, v = (split(x) for x in (q, k, v))                 # (B, heads, tokens, d) each
    scores = q @ k.transpose(2, 3) / math.sqrt(d)           # (B, heads, N, L)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)
    ### END SOLUTION

# %% tags=["check:2.6"]
check("2.6", cross_attention)
### BEGIN HIDDEN TESTS
assert check.passed("2.6")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** `reshape` keeps the order of the numbers in memory and only cuts it anew. In (B, L, C) a word's channels lie side by side; cut as (heads, d, L), what the code takes for "channel 0 of all words" is really the first few channels of the first words. A shape cannot tell, a permutation can:

# %% tags=["solution"]
q = torch.randn(2, 49, 32)
k, v = torch.randn(2, 7, 32), torch.randn(2, 7, 32)
order = torch.randperm(7)
functions = {"the tutorial's": tutorial_attention, "mine": cross_attention}
rows = {}
for name, attention in functions.items():
    change = attention(q, k[:, order], v[:, order], 4) - attention(q, k, v, 4)
    rows[name] = {"change": change.abs().max()}
tables.table(rows, ".2g", index="attention",
             caption="Largest change of the output when the words are permuted")

# %% [markdown]
# ## 2.7 Experiment: does attention depend on where a pixel is? (2 points, 15 minutes)
#
# A block is *permutation-equivariant* if it makes no difference whether the tokens are shuffled before it or after it. Write a function that measures how far a block is from that: the largest absolute difference, over all numbers, between the block's output for shuffled tokens and its shuffled output.
#
# Then use it on the `DiTBlock` below, three times: as it is, `(plain, tokens)`; with `positions` added inside the block, `(lambda x: plain(x + positions), tokens)`, so that a place keeps its positional encoding whatever token comes to stand there; and with positions added to the tokens beforehand, `(plain, tokens + positions)`, so that they are shuffled along. What do the three numbers mean? (Why is `randomise` needed?)

# %%
dit = randomise(DiTBlock(64, num_heads=4))
emb = torch.randn(8, 64)
positions = sincos_position_embedding_2d(4, 64)             # (16, 64): of a 4 x 4 grid
tokens = torch.randn(8, 16, 64)
order = torch.randperm(16)

@torch.no_grad()
def plain(x):
    """The block without positions.   (8, 16, 64) -> (8, 16, 64)"""
    return dit(x, emb)

# %% tags=["answer:2.7"]
def equivariance_error(block, x, order):
    """block: (B, N, C) -> (B, N, C); x: (B, N, C) tokens; order: (N,) a permutation

    -> one number
    """
    ### BEGIN SOLUTION
    return (block(x[:, order]) - block(x)[:, order]).abs().max()
    ### END SOLUTION

# %% tags=["check:2.7"]
check("2.7", equivariance_error)
### BEGIN HIDDEN TESTS
assert check.passed("2.7")
### END HIDDEN TESTS

# %% [markdown]
# Add a cell here for your three measurements. **Your sentence** on what they mean (nobody marks it):

# %% tags=["solution"]
with_positions = lambda x: plain(x + positions)
new_block = lambda x: DiTBlock(64, num_heads=4)(x, emb)
errors = {
    "without positions": equivariance_error(plain, tokens, order),
    "with positions": equivariance_error(with_positions, tokens, order),
    "positions shuffled along": equivariance_error(plain, tokens + positions, order),
    "a new block, without positions": equivariance_error(new_block, tokens, order),
}
tables.table({name: {"error": error} for name, error in errors.items()}, ".1e",
             caption="Equivariance error of a DiTBlock, 16 tokens")

# %% [markdown] tags=["solution"]
# **Solution.** Without positions the error is rounding: nothing tells the block that two tokens were neighbours, and a shuffled image is as good as the image. Positional encodings tell it, and the outputs differ. If they are shuffled along, every token still carries its own position, and nothing has changed: the position is part of the token, not of the order in memory. A new block, with its gates at zero, is the identity, and the identity is equivariant whatever the attention inside does; a measurement on it would prove nothing.

# %% [markdown]
# ## 2.8 A new input: the thickness of the stroke (3 points, 25 minutes)
#
# Somebody wants to ask for thin and thick digits. Thickness is a real number per image, about 1 to 5 pixels:

# %%
def thickness_of(x):
    """Twice the ink over the length of its edge.

    x: (B, 1, H, W) in [-1, 1] -> (B,) pixels
    """
    ink = (x + 1) / 2
    edge = sum(ink.diff(dim=axis).abs().sum((1, 2, 3)) for axis in (2, 3))
    return 2 * ink.sum((1, 2, 3)) / edge

thickness = thickness_of(digits)
ranked = thickness.argsort()
plots.show(digits[ranked[torch.linspace(0, len(digits) - 1, 10).long()]],
           title=f"From {thickness.min():.1f} to {thickness.max():.1f} pixels")

# %% [markdown]
# Write a module that adds it to the embedding. `thickness_input(emb_dim)` returns an `nn.Module` that is called as `module(emb, thickness)`, with `emb` (B, emb_dim) and `thickness` (B,), and returns an embedding like `emb`: the sum of `emb` and a part that comes from the thickness alone. It must
#
# - return `emb` unchanged at the start, so that a network that was trained without it goes on as before;
# - let gradients through, to its own layers and to `emb`;
# - be able to learn, over all thicknesses from 1 to 5: also a curve, not only a straight line. (The check trains it for 300 small steps. What happens if *every* layer starts at zero?)

# %% tags=["answer:2.8"]
def thickness_input(emb_dim):
    """-> a module (emb: (B, emb_dim), thickness: (B,)) -> (B, emb_dim)"""
    ### BEGIN SOLUTION
    class ThicknessInput(nn.Module):
        def __init__(self):
            super().__init__()
            last = zero_init(nn.Linear(64, emb_dim))
            self.net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), last)

        def forward(self, emb, thickness):
            return emb + self.net(thickness[:, None])

    return ThicknessInput()
    ### END SOLUTION

# %% tags=["check:2.8"]
check("2.8", thickness_input)
### BEGIN HIDDEN TESTS
assert check.passed("2.8")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** The last layer starts at zero, so nothing is added; but its gradient is not zero, since what it is multiplied with is not. With two layers of zeros in a row, each would wait for the other for ever.
#
# A small U-Net from the parts of this sheet, trained for a few seconds on small digits. Evaluated at $t = 1$, where $x_t$ is pure noise, the best prediction of the image is the mean of all digits of that thickness. The second row shows these means.

# %% tags=["solution"]
class ThickNet(nn.Module):
    def __init__(self, width=16, emb_dim=64):
        super().__init__()
        pair = lambda a, b: nn.ModuleList([a, b])
        block = lambda a, b: ResnetBlock(a, b, emb_dim)
        self.time = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim))
        self.thickness = thickness_input(emb_dim)
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.out = nn.Conv2d(width, 1, 3, padding=1)
        shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down = nn.ModuleList([pair(block(width, width), shrink)])
        self.middle = nn.ModuleList([block(2 * width, 2 * width)])
        grow = Upsample(2 * width, width)
        self.up = nn.ModuleList([pair(grow, block(2 * width, width))])

    def forward(self, x, t, thickness):
        emb = F.silu(self.thickness(self.time(t), thickness))
        return self.out(through(self.stem(x), emb, self.down, self.middle, self.up))

# %% tags=["solution"]
torch.manual_seed(0)
D = Denoiser(ThickNet(), Schedule.cosine(), target="v")
optimizer = torch.optim.Adam(D.parameters(), lr=3e-3)
small = F.avg_pool2d(digits, 2)
for _ in range(200):
    i = torch.randint(len(small), (32,))
    loss = D.loss(small[i], torch.rand(32), thickness=thickness[i]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% tags=["solution"]
asked = torch.linspace(1.5, 3.5, 9)
with torch.no_grad():
    x0_hat = D(torch.randn(900, 1, 14, 14), 1.0, thickness=asked.repeat(100))
mean_x0_hat = x0_hat.view(100, 9, 1, 14, 14).mean(0)        # over 100 noises
real = torch.stack([small[(thickness - s).abs() < 0.1].mean(0) for s in asked])
plots.show({"the network": mean_x0_hat, "mean digits": real},
           title="Conditioned on 1.5 to 3.5 pixels: the thicker, the more ink, "
           "as in real digits")

# %% [markdown]
# ## 2.9 Stretch: the best network for the money (3 points, 40 minutes)
#
# You have 25 million multiply-adds for one image of 28 x 28, in a forward pass as `profiling.multiply_adds` counts them. Choose a `UNet`: more width, more depth, more attention, or finer patches? Return its keyword arguments, without `channels`. The check wants at least two levels, at least one block per level, and between 85 and 100 % of the budget.
#
# Which choice is *good* only a measurement can say. `measured_loss` trains a candidate for 30 small steps and returns its loss on digits that it was not trained on, with the same noise for all. Measure at least three candidates that use the budget, and return the best of these together with all your measurements. (Candidates outside the budget may be among them; they do not count. The check trains your choice once more, for about five seconds.)

# %%
def price(**settings):
    """Multiply-adds of UNet(1, **settings) for one digit.

    settings: widths, depth, attention_levels, patch_size, num_heads, emb_dim, ...
    """
    image, t = torch.zeros(1, 1, 28, 28), torch.zeros(1)
    return profiling.multiply_adds(UNet(1, **settings), image, t)

rows = []
for change in ({}, {"depth": 2}, {"patch_size": 1}, {"attention_levels": (True, True)}):
    settings = dict(widths=(16, 32)) | change
    rows.append({"settings": str(settings), "million": price(**settings) / 1e6})
tables.table(rows, ".1f", caption="Multiply-adds for one image of 28 x 28")

# %%
def measured_loss(settings, seed=0, steps=30, batch_size=16):
    """Train UNet(1, **settings) on the first 8,000 digits; -> its loss on the last 300."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(1, **settings), Schedule.cosine(), target="v")
    optimizer = torch.optim.Adam(D.parameters(), lr=3e-3)
    for _ in range(steps):
        x0 = digits[torch.randint(8000, (batch_size,))]
        loss = D.loss(x0, torch.rand(batch_size)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(99)                                   # the same noise for all
    with torch.no_grad():
        return D.loss(digits[-300:], torch.linspace(0, 1, 300)).mean().item()

# %% tags=["answer:2.9"]
def architecture():
    """-> (settings, measured)

    settings: your UNet's keyword arguments
    measured: [(settings, loss), ...] of all that you tried
    """
    ### BEGIN SOLUTION
    candidates = [dict(widths=(28, 56)), dict(widths=(22, 44), depth=2),
                  dict(widths=(16, 24), patch_size=1)]
    measured = [(settings, measured_loss(settings)) for settings in candidates]
    return min(measured, key=lambda pair: pair[1])[0], measured
    ### END SOLUTION

# %% tags=["check:2.9"]
check("2.9", architecture)
### BEGIN HIDDEN TESTS
assert check.passed("2.9")
### END HIDDEN TESTS

# %% tags=["solution"]
candidates = {"wide": dict(widths=(28, 56)), "deep": dict(widths=(22, 44), depth=2),
              "fine": dict(widths=(16, 24), patch_size=1)}
rows = {}
for name, settings in candidates.items():
    start = time.perf_counter()
    losses = [measured_loss(settings, seed=seed) for seed in (1, 2)]
    seconds = (time.perf_counter() - start) / 2
    rows[name] = {"million": price(**settings) / 1e6, "loss, seed 1": losses[0],
                  "loss, seed 2": losses[1], "seconds": seconds, "settings": str(settings)}
formats = {"million": ".1f", "loss, seed 1": ".2f", "loss, seed 2": ".2f", "seconds": ".1f"}
tables.table(rows, formats,
             caption="Million multiply-adds, and the loss of two more seeds, per network")

# %% [markdown] tags=["solution"]
# **Solution, one of many.** Three ways to spend the same multiply-adds: wide blocks, more blocks, or narrow blocks that work on every pixel (`patch_size=1`). The fine one learned fastest by far, with every seed. (A likely reason: what is learned first is to copy the noise, pixel by pixel, and there folded pixels are in the way.) Wide and deep lie closer to each other than their seeds do, so nothing can be said about these two.
#
# What thirty steps do not show: which network is best once each is trained to its end; whether each would like another learning rate; how the samples look. (The table of section 2.9 has a row of `patch_size=1`, called *patch 1*, after 250 steps: there, too, it is the best, for 1.4 times the multiply-adds.) And multiply-adds are not seconds: look at the times, too, on your own machine.

# %%
check.summary(2)
