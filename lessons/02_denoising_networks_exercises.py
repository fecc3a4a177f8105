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
# Nine questions, 26 points, about three hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("2.1")` gives a hint, and a stronger one each time you call it. Nothing is lost by trying.
#
# Names in `code` are those of the library: `ResnetBlock`, `TimeEmbedding`, `AttentionBlock`, `CrossAttentionBlock` and `UNet` from `course_lib.networks.unet`, `DiTBlock` and `positions_2d` from `course_lib.networks.dit`. You may look into it at any time, and compare with it; your answer should be your own.

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
from course_lib.lab import cost, data, plots
from course_lib.networks.dit import DiTBlock, positions_2d
from course_lib.networks.unet import ResnetBlock, TimeEmbedding, Upsample, zero

torch.manual_seed(0)
torch.set_num_threads(1)                                    # networks this small gain nothing from a second thread
digits, _ = data.mnist("test")                              # (N, 1, 28, 28), in [-1, 1]

def awake(net):
    """The same network with small random weights everywhere: layers that start at zero hide mistakes."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net

# %% [markdown]
# ## 2.1 Warm-up: count the weights (2 points, 10 minutes)
#
# How many trainable numbers does `ResnetBlock(in_channels, out_channels, emb_dim)` have? Go through its `__init__` (in `course_lib/networks/unet.py`, or `MyResnetBlock` in section 2.3) and add them up, layer by layer, biases included. Compare with `cost.parameters(ResnetBlock(32, 48, 20))`, but do not build a block in your answer: the point is to see where the numbers sit.

# %% tags=["answer:2.1"]
def resnet_parameters(in_channels, out_channels, emb_dim):
    """-> the number of trainable parameters of a ResnetBlock, a whole number"""
    ### BEGIN SOLUTION
    norms = 2 * in_channels + 2 * out_channels
    convolutions = (9 * in_channels + 1) * out_channels + (9 * out_channels + 1) * out_channels
    embedding = (emb_dim + 1) * 2 * out_channels            # a scale and a shift for each channel
    skip = (in_channels + 1) * out_channels if in_channels != out_channels else 0
    return norms + convolutions + embedding + skip
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
    print(shape, resnet_parameters(*shape), cost.parameters(ResnetBlock(*shape)))

# %% [markdown]
# ## 2.2 Derivation: how far does a pixel see? (3 points, 15 minutes)
#
# The *receptive field* of a stack of convolutions is the width, in input pixels, of the window that one output pixel depends on. A stack is a list of pairs (kernel, stride), first layer first; no kernel is smaller than its stride. Derive on paper what one more layer adds. (Section 2.1 has the result; here you write down why.) Then check yourself by measuring: `seen` builds the stack in one dimension, takes one output pixel, and counts the input pixels that have a gradient.

# %%
def seen(layers):
    """The receptive field, measured.   layers: [(kernel, stride), ...]"""
    x = torch.zeros(1, 1, 600, requires_grad=True)
    h = x
    for kernel, stride in layers:
        h = F.conv1d(h, torch.ones(1, 1, kernel), stride=stride)
    h[0, 0, 0].backward()
    return (x.grad != 0).sum().item()

print("two 3x3 convolutions:", seen([(3, 1), (3, 1)]), " the second one halving:", seen([(3, 1), (3, 2)]), " the first one halving:", seen([(3, 2), (3, 1)]))

# %% tags=["answer:2.2"]
def receptive_field(layers):
    """layers: [(kernel, stride), ...] -> a whole number, by a formula"""
    ### BEGIN SOLUTION
    field, jump = 1, 1                                      # jump: input pixels between two neighbours
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
block, halve = [(3, 1), (3, 1)], [(3, 2)]
way = {"folding and first layer": [(2, 2), (3, 1)], "block of level 0": block, "halving": halve, "block of level 1": block, "middle": 2 * block}
layers = []
for name, more in way.items():
    layers = layers + more
    print(f"{name:24} formula {receptive_field(layers):3d}, measured {seen(layers):3d}")
flat = [(kernel, 1) for kernel, _ in layers]
print(f"the same without any stride: {receptive_field(flat)} of the image's 28 pixels")

# %% [markdown]
# ## 2.3 The time embedding, from blank (3 points, 15 minutes)
#
# Write the sines and cosines of `TimeEmbedding`. With `half = dim // 2`, the frequencies fall in equal ratios from 1 to 1/10000:
#
# $$f_k = 10000^{-k / (\text{half} - 1)}, \qquad k = 0, \dots, \text{half} - 1,$$
#
# and the angles are $1000\, t\, f_k$. First all sines, then all cosines. A widely used version returns `dim - 1` numbers when `dim` is odd, and divides by zero when `dim` is 2. Yours must refuse an odd `dim`, and one below 4, with a `ValueError`.

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
# **Solution, looked at.** How alike are the embeddings of two times? Near $t = 0.5$ the fast waves tell apart what the slow ones cannot. Without the factor of 1000, all times look nearly the same.

# %% tags=["solution"]
times = torch.linspace(0, 1, 401)
alike = {"with 1000 t": F.cosine_similarity(time_embedding(times, 64), time_embedding(torch.tensor([0.5]), 64)),
         "with t alone": F.cosine_similarity(time_embedding(times / 1000, 64), time_embedding(torch.tensor([0.5]) / 1000, 64))}
plots.curves(times, alike, title="Which times look like t = 0.5?", xlabel="t", ylabel="cosine similarity with t = 0.5")

# %% [markdown]
# ## 2.4 The bridges of a U-Net, from blank (3 points, 20 minutes)
#
# You are given the parts of a U-Net in lists, and wire them:
#
# - `down`: pairs (block, shrink), from the first level to the deepest. The block's answer is remembered as a *bridge*; what is shrunk goes on.
# - `middle`: blocks, one after the other.
# - `up`: pairs (grow, block), from the deepest level to the first. What comes up is grown, the bridge *of the same level* is laid beside it on the channel axis (what comes up first, then the bridge), and the block takes both.
#
# Call a block as `block(h, emb)`, the others as `shrink(h)` and `grow(h)`. Leave the three lists as they are.

# %% tags=["answer:2.4"]
def through(x, emb, down, middle, up):
    """x: (B, C, H, W), emb: (B, emb_dim) -> what the last block of the way up answers"""
    ### BEGIN SOLUTION
    h, bridges = x, []
    for block, shrink in down:
        h = block(h, emb)
        bridges.append(h)
        h = shrink(h)
    for block in middle:
        h = block(h, emb)
    for grow, block in up:
        h = block(torch.cat([grow(h), bridges.pop()], dim=1), emb)
    return h
    ### END SOLUTION

# %% tags=["check:2.4"]
check("2.4", through)
### BEGIN HIDDEN TESTS
assert check.passed("2.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** The parts of the library's `UNet`, wired by `through`, give the library's answer. (Its deepest level does not shrink further, so an identity stands there.)

# %% tags=["solution"]
net, x, t = awake(UNet(1, (16, 32))), digits[:4], torch.rand(4)
stage = lambda part: lambda h, emb: part(h, emb, None, None)                    # without a context
(block0, shrink0, block1), (block2, grow0, block3) = net.down, net.up
h = through(net.stem(F.pixel_unshuffle(x, 2)), F.silu(net.time(t)),
            down=[(stage(block0), shrink0), (stage(block1), nn.Identity())], middle=[stage(part) for part in net.middle],
            up=[(nn.Identity(), stage(block2)), (grow0, stage(block3))])
torch.testing.assert_close(F.pixel_shuffle(net.out(F.silu(net.norm(h))), 2), net(x, t))
print("same answer as UNet:", tuple(h.shape), "before the last layer")

# %% [markdown]
# ## 2.5 Bug hunt: channels that do not fit (3 points, 20 minutes)
#
# This way up follows a tutorial. Each line looks sensible, and it crashes:

# %%
class TutorialDecoder(nn.Module):
    """One block per level, the deepest first; bridges: a list, the deepest last."""
    def __init__(self, widths):
        super().__init__()
        self.growths, self.blocks = nn.ModuleList([nn.Identity()]), nn.ModuleList()
        for level in reversed(range(len(widths))):
            if level < len(widths) - 1:
                self.growths.append(nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2))
            self.blocks.append(nn.Conv2d(2 * widths[level], widths[max(level - 1, 0)], 3, padding=1))

    def forward(self, h, bridges):
        for grow, block in zip(self.growths, self.blocks):
            h = block(torch.cat([grow(h), bridges.pop()], dim=1))
        return h

def bridges_of(widths, depth, size=16):
    """What the way down remembers: depth bridges per level, widths[level] channels each."""
    return [torch.randn(1, w, size // 2**level, size // 2**level) for level, w in enumerate(widths) for _ in range(depth)]

try:
    TutorialDecoder((16, 40, 64))(torch.randn(1, 64, 4, 4), bridges_of((16, 40, 64), depth=1))
except RuntimeError as error:
    print("RuntimeError:", error)

# %% [markdown]
# Find out which two layers narrow the same channels. In the repaired decoder below only the blocks narrow; growing is done by `F.interpolate`, which keeps the channels. It also has `depth` blocks per level, each with a bridge of its own. Write the list of its blocks' channels, (in, out), in the order in which they are used. A block answers with its own level's `widths[level]` channels, and the middle hands over `widths[-1]`.

# %%
class Decoder(nn.Module):
    """pairs: (in, out) of the blocks, the deepest level first; depth: blocks per level"""
    def __init__(self, pairs, depth):
        super().__init__()
        self.depth, self.blocks = depth, nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)

    def forward(self, h, bridges):
        for k, block in enumerate(self.blocks):
            if k and k % self.depth == 0:
                h = F.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, bridges.pop()], dim=1))
        return h

# %% tags=["answer:2.5"]
def up_channels(widths, depth):
    """widths: channels per level, first level first -> [(in, out), ...], one for each block on the way up"""
    ### BEGIN SOLUTION
    pairs, c = [], widths[-1]                               # c: channels of what comes up
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
# **Solution.** In the tutorial, the block of a level narrows to the next level's width, and the growing layer after it expects the level's own width and narrows again. Either may do it, but not both. `UNet` lets `Upsample` narrow, so it keeps the same running number `c`.

# %% tags=["solution"]
for widths, depth in (((16, 40, 64), 1), ((16, 40, 64), 2)):
    h = Decoder(up_channels(widths, depth), depth)(torch.randn(1, 64, 4, 4), bridges_of(widths, depth))
    print(up_channels(widths, depth), "->", tuple(h.shape))

# %% [markdown]
# ## 2.6 Bug hunt: attention that reads the words in pieces (3 points, 20 minutes)
#
# Here is the heart of a cross-attention, as a tutorial writes it: every one of $N$ pixels looks at $L$ words. All shapes fit, and it trains.

# %%
def tutorial_attention(q, k, v, heads):
    """q: (B, N, C) from the pixels, k and v: (B, L, C) from the words -> (B, N, C)"""
    B, N, C = q.shape
    q, k, v = (x.reshape(B, heads, C // heads, -1) for x in (q, k, v))          # heads, channels, tokens
    scores = torch.einsum("bhdn,bhdl->bhnl", q, k) / math.sqrt(C // heads)
    out = torch.einsum("bhnl,bhdl->bhdn", scores.softmax(dim=-1), v)
    return out.reshape(B, N, C)

# %% [markdown]
# To attention the words are a set: if keys and values change places *together*, nothing else may change. Test that. Then write the right version. Head $h$ takes the $d = C / \text{heads}$ neighbouring channels from $h\,d$ to $h\,d + d - 1$, and its scores are divided by $\sqrt d$. (`course_lib.networks.unet.attention` is good for comparing; write the softmax yourself.)

# %% tags=["answer:2.6"]
def cross_attention(q, k, v, heads):
    """q: (B, N, C), k and v: (B, L, C) -> (B, N, C)"""
    ### BEGIN SOLUTION
    B, N, C = q.shape
    q, k, v = (x.reshape(B, -1, heads, C // heads).transpose(1, 2) for x in (q, k, v))      # (B, heads, tokens, d)
    scores = q @ k.transpose(2, 3) / math.sqrt(C // heads)                                  # (B, heads, N, L)
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
q, k, v, order = torch.randn(2, 49, 32), torch.randn(2, 7, 32), torch.randn(2, 7, 32), torch.randperm(7)
for name, attend in (("the tutorial's", tutorial_attention), ("mine", cross_attention)):
    change = (attend(q, k[:, order], v[:, order], 4) - attend(q, k, v, 4)).abs().max()
    print(f"{name:15} changes by up to {change:.2g} when the words are permuted")

# %% [markdown]
# ## 2.7 Experiment: does attention know where a pixel is? (2 points, 15 minutes)
#
# A block is *permutation-equivariant* if it makes no difference whether the tokens are shuffled before it or after it. Write a function that measures how far a block is from that: the largest absolute difference, over all numbers, between the block's answer to shuffled tokens and its shuffled answer.
#
# Then use it on the `DiTBlock` below, three times: as it is, `(plain, tokens)`; with `positions` added inside the block, `(lambda x: plain(x + positions), tokens)`, so that a place keeps its position whatever token comes to stand there; and with positions added to the tokens beforehand, `(plain, tokens + positions)`, so that they are shuffled along. Write a sentence on what the three numbers mean. (Why is `awake` needed?)

# %%
dit, emb = awake(DiTBlock(64, heads=4)), torch.randn(8, 64)
positions = positions_2d(4, 64)                             # (16, 64): of a 4 x 4 grid
tokens, order = torch.randn(8, 16, 64), torch.randperm(16)

@torch.no_grad()
def plain(x):
    """The block without positions.   (8, 16, 64) -> (8, 16, 64)"""
    return dit(x, emb)

# %% tags=["answer:2.7"]
def equivariance_error(block, x, order):
    """block: (B, N, C) -> (B, N, C); x: (B, N, C) tokens; order: (N,) a permutation -> one number"""
    ### BEGIN SOLUTION
    return (block(x[:, order]) - block(x)[:, order]).abs().max()
    ### END SOLUTION

# %% tags=["check:2.7"]
check("2.7", equivariance_error)
### BEGIN HIDDEN TESTS
assert check.passed("2.7")
### END HIDDEN TESTS

# %% [markdown]
# Add a cell here for your three measurements, and one for your sentence.

# %% tags=["solution"]
print(f"without positions:                  {equivariance_error(plain, tokens, order):.1e}")
print(f"with positions:                     {equivariance_error(lambda x: plain(x + positions), tokens, order):.1e}")
print(f"positions shuffled with the tokens: {equivariance_error(plain, tokens + positions, order):.1e}")
print(f"not awake, without positions:       {equivariance_error(lambda x: DiTBlock(64, heads=4)(x, emb), tokens, order):.1e}")

# %% [markdown] tags=["solution"]
# **Solution.** Without positions the error is rounding: the block cannot know that two tokens were neighbours, and a shuffled image is as good as the image. With positions added it can, and the answers differ. If the positions are shuffled along, every token still carries its own place, and nothing has changed: the position is part of the token, not of the order in memory. A block that is not awake begins as the identity, and the identity is equivariant whatever the attention inside does; a measurement on it would prove nothing.

# %% [markdown]
# ## 2.8 A new input: the thickness of the stroke (3 points, 25 minutes)
#
# Somebody wants to ask for thin and thick digits. Thickness is a real number per image, about 1 to 5 pixels:

# %%
def thickness_of(x):
    """Twice the ink over the length of its edge.   x: (B, 1, H, W) in [-1, 1] -> (B,) pixels"""
    ink = (x + 1) / 2
    edge = ink.diff(dim=2).abs().sum((1, 2, 3)) + ink.diff(dim=3).abs().sum((1, 2, 3))
    return 2 * ink.sum((1, 2, 3)) / edge

thickness = thickness_of(digits)
ranked = thickness.argsort()
plots.show(digits[ranked[torch.linspace(0, len(digits) - 1, 10).long()]],
           title=f"From {thickness.min():.1f} to {thickness.max():.1f} pixels")

# %% [markdown]
# Write a module that adds it to the embedding. `thickness_input(emb_dim)` returns an `nn.Module` that is called as `module(emb, thickness)`, with `emb` (B, emb_dim) and `thickness` (B,), and returns an embedding like `emb`. It must
#
# - return `emb` unchanged at the start, so that a network that was trained without it goes on as before;
# - be able to learn: also a curve, not only a straight line. (The check trains it for 300 small steps. What happens if *every* layer starts at zero?)

# %% tags=["answer:2.8"]
def thickness_input(emb_dim):
    """-> a module (emb: (B, emb_dim), thickness: (B,)) -> (B, emb_dim)"""
    ### BEGIN SOLUTION
    class ThicknessInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), zero(nn.Linear(64, emb_dim)))

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
# A small U-Net from the parts of this sheet, trained for a few seconds on small digits. Asked at $t = 1$, where $x_t$ is pure noise, the best guess of the image is the mean of all digits of that thickness. The second row shows these means.

# %% tags=["solution"]
class ThickNet(nn.Module):
    def __init__(self, width=16, emb_dim=64):
        super().__init__()
        pair, block = lambda a, b: nn.ModuleList([a, b]), lambda a, b: ResnetBlock(a, b, emb_dim)
        self.time, self.thickness = nn.Sequential(TimeEmbedding(64), nn.Linear(64, emb_dim)), thickness_input(emb_dim)
        self.stem, self.out = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.down = nn.ModuleList([pair(block(width, width), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))])
        self.middle = nn.ModuleList([block(2 * width, 2 * width)])
        self.up = nn.ModuleList([pair(Upsample(2 * width, width), block(2 * width, width))])

    def forward(self, x, t, thickness):
        emb = F.silu(self.thickness(self.time(t), thickness))
        return self.out(through(self.stem(x), emb, self.down, self.middle, self.up))

# %% tags=["solution"]
torch.manual_seed(0)
D = Denoiser(ThickNet(), Schedule.cosine(), target="v")
optimizer, small = torch.optim.Adam(D.parameters(), lr=3e-3), F.avg_pool2d(digits, 2)
for step in range(200):
    i = torch.randint(len(small), (32,))
    loss = D.loss(small[i], torch.rand(32), thickness=thickness[i]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

asked = torch.linspace(1.5, 3.5, 9)
with torch.no_grad():
    guess = D(torch.randn(900, 1, 14, 14), 1.0, thickness=asked.repeat(100)).view(100, 9, 1, 14, 14).mean(0)    # over 100 noises
real = torch.stack([small[(thickness - s).abs() < 0.1].mean(0) for s in asked])
plots.show({"the network": guess, "mean digits": real}, title="Asked for 1.5 to 3.5 pixels: the thicker, the more ink, as in real digits")

# %% [markdown]
# ## 2.9 Stretch: the best network for the money (4 points, 40 minutes)
#
# You have 25 million multiply-adds for one image of 28 x 28, in a forward pass as `cost.multiply_adds` counts them. Choose a `UNet`: more width, more depth, more attention, or finer patches? Return its keyword arguments, without `channels`. The check wants at least two levels, at least one block per level, and between 85 and 100 % of the budget.
#
# Which choice is *good* only a measurement can say. `tried` trains a candidate for 30 small steps and returns its loss on digits that it was not trained on, with the same noise for all. Measure at least three candidates that use the budget, and return the best of them together with all your measurements.

# %%
def price(**settings):
    """Multiply-adds of UNet(1, **settings) for one digit; settings: widths, depth, attend, patch, heads, emb_dim, ..."""
    return cost.multiply_adds(UNet(1, **settings), torch.zeros(1, 1, 28, 28), torch.zeros(1))

for settings in (dict(widths=(16, 32)), dict(widths=(16, 32), depth=2), dict(widths=(16, 32), patch=1), dict(widths=(16, 32), attend=(True, True))):
    print(f"{price(**settings) / 1e6:5.1f} million  {settings}")

# %%
def tried(settings, seed=0, steps=30, batch=16):
    """Train UNet(1, **settings) on the first 8,000 digits; -> its loss on the last 300."""
    torch.manual_seed(seed)
    D = Denoiser(UNet(1, **settings), Schedule.cosine(), target="v")
    optimizer = torch.optim.Adam(D.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = D.loss(digits[torch.randint(8000, (batch,))], torch.rand(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(99)                                   # the same noise for every candidate
    with torch.no_grad():
        return D.loss(digits[-300:], torch.linspace(0, 1, 300)).mean().item()

# %% tags=["answer:2.9"]
def architecture():
    """-> (settings, measured): your UNet's keyword arguments, and [(settings, loss), ...] of all that you tried"""
    ### BEGIN SOLUTION
    candidates = dict(widths=(28, 56)), dict(widths=(22, 44), depth=2), dict(widths=(16, 24), patch=1)
    measured = [(settings, tried(settings)) for settings in candidates]
    return min(measured, key=lambda pair: pair[1])[0], measured
    ### END SOLUTION

# %% tags=["check:2.9"]
check("2.9", architecture)
### BEGIN HIDDEN TESTS
assert check.passed("2.9")
### END HIDDEN TESTS

# %% tags=["solution"]
for name, settings in {"wide": dict(widths=(28, 56)), "deep": dict(widths=(22, 44), depth=2), "fine": dict(widths=(16, 24), patch=1)}.items():
    start = time.perf_counter()
    first, second = tried(settings, seed=1), tried(settings, seed=2)
    print(f"{name}  {price(**settings) / 1e6:.1f} million  loss {first:.2f} and {second:.2f} (two more seeds)  {(time.perf_counter() - start) / 2:4.1f} s  {settings}")

# %% [markdown] tags=["solution"]
# **Solution, one of many.** Three ways to spend the same multiply-adds: wide blocks, more blocks, or narrow blocks that see every pixel (`patch=1`). The fine one learned fastest by far, with every seed. (A likely reason: what is learned first is to copy the noise, pixel by pixel, and there folded pixels are in the way.) Wide and deep lie closer to each other than their seeds do, so nothing can be said about these two.
#
# What thirty steps do not show: which network is best once each is trained to its end; whether each would like another learning rate; how the samples look. (The table of lesson 2.9 has a row of `patch=1` after 250 steps: there, too, it is the best, for 1.4 times the multiply-adds.) And multiply-adds are not seconds: look at the times, too, on your own machine.

# %%
check.summary(2)
