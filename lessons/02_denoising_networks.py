# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 2 · Denoising networks
#
# {{badge}}
#
# In lesson 1 the network was a box: noisy image and time in, noise out. Now we open it. You build the U-Net part by part, learn what each part is for, and then look at measurements, an **ablation** study: what happens to the model when one part is left out or exchanged.
#
# **After this lesson you can** compute a network's receptive field and what it costs; write the time embedding, the residual block, self-attention and cross-attention, and know how to test them; put a U-Net and a diffusion transformer together; add a condition of your own; and read, and make, an ablation table.
#
# **You need** lesson 1, and `nn.Module`. **It takes** 2 to 3 minutes to run on two CPU cores. The exercises are in `exercises/02_denoising_networks.ipynb`.
#
# | section | | minutes | what it gives |
# | --- | --- | --- | --- |
# | 2.1 The receptive field | core | 8 | why a denoiser needs a wide view, and what it costs |
# | 2.2 The time embedding | core | 8 | how a network is given the noise level |
# | 2.3 The residual block | core | 12 | norm, shortcut, FiLM; what makes a deep network trainable |
# | 2.4 Attention | core | 10 | how one pixel uses another far away |
# | 2.4 Two refinements | deeper | 4 | RMS and QK normalisation |
# | 2.5 Downsampling and upsampling | core | 5 | checkerboards, and where they come from |
# | 2.6 The whole U-Net | core | 8 | the parts put together, with a picture |
# | 2.7 Conditioning | core | 8 | three ways for a condition to enter |
# | 2.7 Joint attention | deeper | 5 | text and image in one sequence |
# | 2.8 The diffusion transformer | core | 8 | patches, adaLN-Zero |
# | 2.8 Positions | deeper | 8 | sinusoids, tables, rotations, and how far they carry |
# | 2.9 An ablation | core | 12 | which parts earn their keep |
# | 2.9 Design rules | core | 4 | what large models choose, and who measured it |
# | 2.10 Looking inside | deeper | 6 | features and attention maps of a trained network |
#
# The core sections read well alone.
#
# **Our conventions.** Shapes are (B, C, H, W): batch, channels, height, width. Tokens are (B, N, C). The time $t$ is in [0, 1], 0 is data, 1 is noise. A network has no schedule inside: it maps an image, a number and perhaps a condition to an image.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import math

import pandas
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import Denoiser, DiT, Schedule, UNet
from course_lib.lab import data, plots, profiling, storage, tables, train
from course_lib.lab.notebook import diagrams
from course_lib.networks.dit import DiTBlock, sincos_position_embedding_2d
from course_lib.networks.layers import (
    AttentionBlock,
    CrossAttentionBlock,
    ResnetBlock,
    TimeEmbedding,
    attention,
)

torch.manual_seed(0)
digits, labels = data.mnist("train")
schedule = Schedule.cosine()

# %% [markdown]
# ## 2.1 The receptive field
#
# **How much of the image does a network need to clean one pixel?** With little noise the neighbours are enough: a grey pixel in the middle of a white stroke is noise. With much noise the neighbours are noise, too, and only the whole image can tell which digit this might be. So a denoiser needs *fine detail* and a *wide view* at once, and its input must say how much noise there is.
#
# The square of input pixels that one output pixel depends on is its **receptive field**. A convolution with a kernel of size $k$ covers $k$ pixels; a second one adds $k - 1$ more, and if the first one moved in steps of $s$ pixels (its *stride*), each of those counts $s$ times. So after $L$ layers with kernels $k_l$ and strides $s_l$, the receptive field is a square of side
#
# $$r = 1 + \sum_{l=1}^{L} (k_l - 1)\prod_{j<l} s_j \tag{2.1}$$
#
# and one convolution from $C_{\text{in}}$ to $C_{\text{out}}$ channels with an output of $H\times W$ pixels costs
#
# $$\text{multiply-adds} = H\,W\,C_{\text{in}}\,C_{\text{out}}\,k^2. \tag{2.2}$$
#
# Six 3x3 convolutions cover a square of 13 x 13 pixels, less than half the width of our images. Strides are the cheap way to cover more: halve height and width, and every later layer reaches twice as far, at a quarter of the cost if the channels stay as many. Usually they are doubled; then the cost stays the same. But fine detail is gone. The **U-Net** (Ronneberger et al. 2015) goes down in an **encoder** and comes up again in a **decoder**, and its **skip connections** concatenate the encoder's features to the decoder's. Let us measure the receptive field of one output pixel, by its gradient:

# %%
def input_gradient(net, size=28):
    """|d middle output pixel / d input pixel|, over its maximum: (size, size)"""
    x = torch.randn(8, 1, size, size, requires_grad=True)
    net(x)[:, :, size // 2, size // 2].sum().backward()
    strength = x.grad.abs().mean((0, 1))
    return strength / strength.max()

def without_zero_init(net):
    """Random weights in the layers that start at zero, so that everything shows."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()
    return net

def without_norms(net):
    """Without normalisation, whose means over groups of pixels hide the convolutions."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return net

# %%
widths = [1, 32, 32, 32, 32, 32, 1]
plain = nn.Sequential(*[
    nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:])
])
unet = without_norms(without_zero_init(UNet(1, widths=(32, 64))))
no_attention = copy.deepcopy(unet)                          # the same weights ...
no_attention.middle[0].attention = None                     # ... but no attention
half = torch.full((8,), 0.5)
fields = {
    "6 convolutions": input_gradient(plain),
    "U-Net, no attention": input_gradient(lambda x: no_attention(x, half)),
    "U-Net": input_gradient(lambda x: unet(x, half)),
}

# %%
plots.heatmaps({name: (v + 1e-9).log10() for name, v in fields.items()}, low=-6, high=0,
               label="log10 of the gradient", title="Receptive field of the middle pixel")
tables.table({name: {"pixels": (v > 0).sum()} for name, v in fields.items()},
             index="network",
             caption="Input pixels, of 784, that the middle output pixel depends on")

r, jump = 2, 2                                              # folded image: pixels of size 2
stem_and_encoder = [(3, 1), (3, 1), (3, 1), (3, 2)]         # stem, one block, downsampling
bottom = 8 * [(3, 1)]                                       # four blocks at the bottom
for kernel, stride in stem_and_encoder + bottom:
    r += (kernel - 1) * jump
    jump *= stride
print(f"(2.1) down to the end of the bottom: {r} pixels")

# %% [markdown]
# **What the figure shows.** The receptive field of the six convolutions is a square of side 13, as (2.1) says. That of the U-Net, with sixteen 3x3 convolutions in a row, is the whole image even without attention. Attention makes no difference that one could see: with random weights it takes a little from everywhere, and what to take must be learned. The last printed line leaves out the decoder; even so it gives more than the image's 28 pixels. These networks have random weights: read from the figure which pixels count at all, not how much.
#
# **Another cheap trick** is our network's first step. `pixel_unshuffle` (also called *space-to-depth*) folds each square of 2x2 pixels, a **patch**, into four channels: nothing is lost, and every layer after it works on a quarter of the pixels. Section 2.9 gives an idea of its price in quality.

# %%
toy = torch.arange(16.0).view(1, 1, 4, 4)
print(toy[0, 0], F.pixel_unshuffle(toy, 2)[0], sep="\n")
assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(toy, 2), 2), toy)

costs = {}
for patch_size in (1, 2):
    net = UNet(1, widths=(32, 64), patch_size=patch_size)
    multiply_adds = profiling.multiply_adds(net, torch.zeros(1, 1, 28, 28), torch.zeros(1))
    costs[patch_size] = {"parameters": profiling.count_parameters(net),
                         "multiply-adds (million)": multiply_adds / 1e6}
formats = {"parameters": ",", "multiply-adds (million)": ".0f"}
tables.table(costs, formats, index="patch_size",
             caption="UNet(1, widths=(32, 64)), for one image of 28 x 28")

# %% [markdown]
# ## 2.2 The time embedding
#
# **How is a network given the noise level?** The number $t$ could be given as it is. But a network is smooth, and $t = 0.01$ and $t = 0.02$, which need quite different outputs, are nearly the same number. So $t$ is first turned into many sinusoids, from fast to slow, as positions are in a transformer (**sinusoidal embedding**; Vaswani et al. 2017), with $K = d/2$ frequencies:
#
# $$w(t) = \big(\sin(1000\,t\,\omega_k),\ \cos(1000\,t\,\omega_k)\big)_{k=0}^{K-1}, \qquad \omega_k = 10\,000^{-k/(K-1)} \tag{2.3}$$
#
# The 1000 is there because the frequencies were made for step numbers, 0 to 999. How alike are two times now? By $\cos a\cos b + \sin a\sin b = \cos(a-b)$, only their distance matters:
#
# $$w(t)\cdot w(s) = \sum_k \cos\big(1000\,(t-s)\,\omega_k\big) \tag{2.4}$$
#
# Since $|w|^2 = K$ for every $t$, the cosine similarity, which the next figure shows, is this sum divided by $K$.

# %%
def time_embedding(t, dim):
    """t: (B,) in [0, 1] -> (B, dim)"""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
    angles = 1000 * t[:, None] * frequencies                # (B, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)

t = torch.linspace(0, 1, 100)
torch.testing.assert_close(time_embedding(t, 64), TimeEmbedding(64)(t))

# %%
embeddings = {"with the 1000": lambda t: time_embedding(t, 64),
              "without": lambda t: time_embedding(t / 1000, 64)}
similarity = lambda e: F.cosine_similarity(e[:, None], e[None], dim=-1)     # (N, N)
plots.heatmaps({name: similarity(embed(t)) for name, embed in embeddings.items()}, high=1.0,
               label="cosine similarity", extent=(0, 1, 1, 0), xlabel="t", ylabel="t",
               title="How alike are two times?")
rows = {}
for name, embed in embeddings.items():
    to_itself, near, far = similarity(embed(torch.tensor([0.01, 0.02, 0.9])))[0]
    rows[name] = {"0.02": near, "0.9": far}
tables.table(rows, ".6f", caption="Cosine similarity of t = 0.01 to another time")

# %% [markdown]
# **What the figure shows.** With the 1000, the nearest times are most alike, and on the whole the likeness falls with distance: slow sinusoids carry the coarse time, fast ones the fine. It falls with ups and downs; the stripes are sinusoids that have come round again. Without it all times look nearly the same.
#
# **And the alternatives?** One could give the bare number, or *learn* a vector for each hundredth of the time, as for classes (`nn.Embedding`). Which of them prepares best what a network must find out? Take a quantity that it surely needs, the log-SNR, and fit it by a single linear layer from each embedding (a **linear probe**). A training sees tens of thousands of times; here are 10,000 random ones, and once more only 1,000. Then measure the error at 1,000 *other* times:

# %%
times = torch.rand(10_000) * 0.98 + 0.01
others = torch.rand(1000) * 0.98 + 0.01

def probe_error(embed, times):
    """RMS error, at other times, of the best linear layer from embed(t) to the log-SNR.

    embed: (N,) -> (N, d)
    """
    # a column of ones: the bias
    A, A_others = (F.pad(embed(t), (0, 1), value=1.0).double() for t in (times, others))
    ridge = 1e-3 * torch.eye(A.shape[1])
    weight = torch.linalg.solve(A.T @ A + ridge, A.T @ schedule.log_snr(times))
    return (A_others @ weight - schedule.log_snr(others)).square().mean().sqrt()

probes = {
    "the bare number": lambda t: t[:, None],
    "sinusoids": lambda t: time_embedding(t, 64),
    "sinusoids without the 1000": lambda t: time_embedding(t / 1000, 64),
    "a learned table of 100": lambda t: F.one_hot((100 * t).long(), 100).float(),
    "a learned table of 1000": lambda t: F.one_hot((1000 * t).long(), 1000).float(),
}
std = schedule.log_snr(others).std()
rows = {name: {"10,000 times": probe_error(embed, times),
               "1,000 times": probe_error(embed, times[:1000])}
        for name, embed in probes.items()}
tables.table(rows, ".3f", index="embedding",
             caption="RMS error of a linear probe of the log-SNR, at 1,000 other times "
             f"(the log-SNR's own standard deviation: {std:.2f})")

# %% [markdown]
# A linear layer on a table is a free value for each entry: a staircase. With 100 entries the steps are coarse. With 1000 the table needs its examples: after 1,000 times a third of its entries were never trained, and it is bad; after 10,000 it is *better* than the sinusoids. So this probe is no reason for sinusoids. They need no choice of entries, and they carry over to times that were not seen. And it is one linear layer: section 2.9 measures these choices in a whole network.
#
# In the network, an **MLP** (multilayer perceptron: here two linear layers with a nonlinearity between them) turns the sinusoids $w(t)$ into the **embedding** $e$, and the embedding of a class, if there is one, is added to it (section 2.7). Every block receives $\operatorname{SiLU}(e)$; where nothing hangs on it we call that $e$, too.
#
# ## 2.3 The residual block
#
# The work is done by blocks of two 3x3 convolutions. Three things around them make them trainable.
#
# **Normalisation.** Each image's channels are taken in groups $G$; the numbers of a group, over all its channels and pixels, are brought to mean 0 and variance 1. Then a learned scale and shift per channel follow:
#
# $$\operatorname{norm}(h) = \frac{h - \mu_G}{\sqrt{v_G + 10^{-5}}}\,\gamma_c + \delta_c, \qquad \mu_G, v_G: \text{mean and variance of } h \text{ over the group} \tag{2.5}$$
#
# **Group normalisation**, unlike batch normalisation, does not mix images: at training time their noise levels differ, at sampling time they do not. **The nonlinearity** is SiLU, a ReLU with a smooth foot:
#
# $$\operatorname{SiLU}(z) = \frac{z}{1 + e^{-z}} \tag{2.6}$$
#
# **A residual connection**, or **shortcut**. The block's output is *added* to its input, and its last convolution starts at zero (**zero initialisation**); so a new block whose input and output have equal widths changes nothing, and learns what to change. Where the number of channels changes, the shortcut is a 1x1 convolution. It can learn: the gradient of a layer's weights is made of what comes *in* and of what comes back from above, and neither is zero. Only two layers of zeros in a row would wait for each other for ever.
#
# **Where does the time go in?** Three ways are in use, *Add* one number per channel, made from the embedding $e$ by a linear layer (Ho et al. 2020); *scale and shift* the normalised features by two such vectors (**FiLM**, feature-wise linear modulation, Perez et al. 2018; Dhariwal & Nichol 2021 call it **adaptive group normalisation**, AdaGN):
#
# $$h \leftarrow (1 + a(e))\,\operatorname{norm}(h) + b(e) \tag{2.7}$$
#
# or the same with a norm that has no $\gamma, \delta$ of its own, as transformers do it. Since $(1 + a)(\gamma z + \delta) + b$ is again a scale and a shift of $z$, the last two can express the same; we take (2.7).

# %%
h = torch.randn(2, 32, 8, 8)
e = torch.randn(2, 128)
norm = nn.GroupNorm(2, 32)
to_32 = nn.Linear(128, 32)
to_64 = nn.Linear(128, 64)
scale, shift = to_64(e)[:, :, None, None].chunk(2, dim=1)   # (B, 32, 1, 1) each
results = {
    "added": norm(h + to_32(e)[:, :, None, None]),
    "scaled and shifted": (1 + scale) * norm(h) + shift,
    "scaled and shifted, plain norm": (1 + scale) * F.group_norm(h, 2) + shift,
}
rows = {}
for name, result in results.items():
    channels = result[0, :2]                                # (2, 8, 8)
    rows[name] = {f"mean {c}": channels[c].mean() for c in (0, 1)}
    rows[name] |= {f"std {c}": channels[c].std() for c in (0, 1)}
tables.table(rows, ".2f", caption="Two channels of one image, 8 x 8 pixels")

# %% [markdown]
# Adding moves the channels' means; scaling and shifting can also turn one up and another down. (The last two rows agree, because a new norm has $\gamma = 1$ and $\delta = 0$.) Now the whole block:

# %%
class MyResnetBlock(nn.Module):
    """x: (B, in_channels, H, W), emb: (B, emb_dim) -> (B, out_channels, H, W)"""

    def __init__(self, in_channels, out_channels, emb_dim):
        super().__init__()
        self.norm1 = nn.GroupNorm(in_channels // 16, in_channels)
        self.norm2 = nn.GroupNorm(out_channels // 16, out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))                           # (B, out, H, W)
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)  # (B, out, 1, 1)
        h = (1 + scale) * self.norm2(h) + shift                         # FiLM, (2.7)
        return self.shortcut(x) + self.conv2(F.silu(h))

# %%
diagrams.block(["norm", "SiLU", "3x3 conv", "norm, then\nFiLM (2.7)", "SiLU",
                "3x3 conv,\nstarts at 0"], (0, 5), 3, "A residual block")
x = torch.randn(2, 32, 8, 8)
emb = torch.randn(2, 128)
mine = MyResnetBlock(32, 32, 128)
assert torch.equal(mine(x, emb), x), "a new block of equal widths is the identity"
mine(x, emb).square().sum().backward()
assert mine.conv2.weight.grad.any(), "and yet it learns"

mine = without_zero_init(MyResnetBlock(32, 64, 128))
library = ResnetBlock(32, 64, 128)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x, emb), mine(x, emb))
print("course_lib's ResnetBlock agrees:", tuple(mine(x, emb).shape))

# %% [markdown]
# **Does it matter?** Send noise through twenty blocks, with norms and a shortcut, with one of the two, and with neither. The answer depends on the random weights, so take two kinds: PyTorch's default, which is small, and Kaiming's (He et al. 2015), made so that a layer after a ReLU keeps its variance. Look at the size of the numbers, and of the gradients that come back to the input.

# %%
def signal_and_gradient(blocks, x):
    """Standard deviation after each block, and that of the loss's gradient at the input."""
    x = x.clone().requires_grad_()
    h = x
    stds = []
    for block in blocks:
        h = block(h)
        stds.append(h.std().item())
    h.square().mean().backward()
    return torch.tensor(stds), x.grad.std().item()

def make_block(norms, shortcut, kaiming):
    """A block without time, with or without norms and a shortcut."""
    norm = lambda: nn.GroupNorm(2, 32) if norms else nn.Identity()

    def conv():
        layer = nn.Conv2d(32, 32, 3, padding=1)
        if kaiming:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return layer
    layers = nn.Sequential(norm(), nn.SiLU(), conv(), norm(), nn.SiLU(), conv())
    return lambda h: h + layers(h) if shortcut else layers(h)

# %%
torch.manual_seed(1)
kinds = {"neither": (False, False), "norms": (True, False),
         "shortcut": (False, True), "both": (True, True)}
panels, rows = {}, {name: {} for name in kinds}
for start, kaiming in {"PyTorch's weights": False, "Kaiming's weights": True}.items():
    panels[start] = {}
    for name, options in kinds.items():
        blocks = [make_block(*options, kaiming) for _ in range(20)]
        stds, gradient = signal_and_gradient(blocks, torch.randn(4, 32, 8, 8))
        panels[start][name] = stds
        rows[name][f"{start}: output"] = stds[-1]
        rows[name]["gradient" + " " * kaiming] = gradient
plots.panels(torch.arange(1, 21), panels, yscale="log", xlabel="block",
             ylabel="standard deviation", title="Noise on its way through twenty blocks")
tables.table(rows, ".1e", index="block with",
             caption="Standard deviation after twenty blocks; of the gradient at the input")

# %% [markdown]
# **What the figure shows.** With PyTorch's small weights and neither, what is left after two blocks comes almost only from the biases; that the signal is gone, the gradient shows. Either of the two then lets signal and gradient pass. With Kaiming's weights the shortcut *alone* lets the output grow with every block, and the gradient at the input is large, and with norms the size stays moderate. So a shortcut needs norms, or branches that start small, as zero initialisation makes them. Gradients of rows with outputs of different sizes cannot be compared closely: the loss is a mean square, and a larger output sends back a larger gradient.
#
# With both, the sum still grows with each block: variances add. EDM2 (Karras et al. 2024) *preserves magnitudes* instead: mix $a$ and $b$ with a weight $\tau$ and divide by the standard deviation that the mixture has if both are independent, with standard deviation 1,
#
# $$\operatorname{mix}(a, b, \tau) = \frac{(1-\tau)\,a + \tau\,b}{\sqrt{(1-\tau)^2 + \tau^2}} \tag{2.8}$$

# %%
def mix(a, b, tau):
    """(2.8): a weighted sum of standard deviation 1."""
    return ((1 - tau) * a + tau * b) / math.sqrt((1 - tau) ** 2 + tau**2)

a, b = torch.randn(2, 100_000)
print(f"standard deviation: a + b {(a + b).std():.3f}, "
      f"mix(a, b, 0.3) {mix(a, b, 0.3).std():.3f}")
h_sum = h_mix = torch.randn(100_000)
for _ in range(20):
    branch = torch.randn(100_000)
    h_sum = h_sum + branch
    h_mix = mix(h_mix, branch, 0.3)
print(f"after twenty of them: sums {h_sum.std():.2f}, mixtures {h_mix.std():.2f}")

# %% [markdown]
# ## 2.4 Attention
#
# **How can one pixel use another far away?** In **attention** every pixel, now called a **token**, makes three vectors of length $d$ from its channels: a **query** (what am I looking for?), a **key** (what am I?) and a **value** (what do I tell?). Each query is compared with all keys by a dot product, the results become weights that sum to one, and the weighted mean of the values is the output:
#
# $$\operatorname{attention}(Q, K, V) = \operatorname{softmax}\Big(\frac{QK^\top}{\sqrt d}\Big)\,V \tag{2.9}$$
#
# This is *scaled dot-product* attention; where queries, keys and values come from the same tokens, as here, it is called **self-attention**. The $\sqrt d$ keeps the softmax from saturating: if the entries of $q$ and $k$ are independent with mean 0 and variance 1, each product $q_ik_i$ has variance 1, and so
#
# $$\operatorname{Var}(q\cdot k) = \sum_{i=1}^d \operatorname{Var}(q_i k_i) = d \tag{2.10}$$

# %%
def my_attention(q, k, v):
    """q, k, v: (B, heads, N, d) -> (B, heads, N, d)"""
    scores = torch.einsum("bhid,bhjd->bhij", q, k)          # (B, heads, N, N)
    weights = (scores / math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)

q, k, v = torch.randn(3, 2, 4, 49, 16)
torch.testing.assert_close(my_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
torch.testing.assert_close(my_attention(q, k, v), attention(q, k, v))
print(f"variance of q.k: {(q * k).sum(-1).var():.1f} for d = 16")

# %% [markdown]
# **Multi-head attention** does this several times in parallel: each **head** has its fraction of the channels and its own weights, so different heads can take values from different tokens. The block around it is short: normalise, make tokens of pixels, attend, add.

# %%
class MyAttentionBlock(nn.Module):
    """Multi-head self-attention with a shortcut.   (B, C, H, W) -> (B, C, H, W)"""

    def __init__(self, channels, num_heads=2):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(channels // 16, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x):
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)                # (B, HW, C)
        # split the channels into heads: (B, heads, HW, d) each ...
        qkv = self.qkv(tokens).view(B, H * W, 3, self.num_heads, C // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # ... and concatenate the heads again
        h = my_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)  # (B, HW, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)

# %%
diagrams.block(["norm", "tokens", "q, k, v", "attention\n(2.9)", "linear", "pixels"],
               (0, 5), title="An attention block")
x = torch.randn(2, 64, 7, 7)
mine = MyAttentionBlock(64)
library = AttentionBlock(64)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x), mine(x))

order = torch.randperm(49)
shuffled = lambda z: z.flatten(2)[:, :, order].view_as(z)
difference = (mine(shuffled(x)) - shuffled(mine(x))).abs().max()
print(f"shuffle, then attend, against attend, then shuffle: {difference:.1e}")

# %% [markdown]
# The last line is a *necessary* test of an attention block: nothing in it depends on *where* a token is, so shuffling the pixels before or after must be the same. It is **permutation-equivariant**. Code that confuses tokens with channels fails it. A 1x1 convolution passes, and so does a block whose last layer is zero, as the library's is at its start: so it is `mine`, with random weights, that is shuffled here.
#
# **Why only at 7x7?** With $N$ tokens of $C$ channels, the three linear maps and the last one cost $4NC^2$, and comparing and averaging cost
#
# $$2\,N^2 C \tag{2.11}$$
#
# multiply-adds: *quadratic* in the number of pixels.

# %%
block = AttentionBlock(64)
images = {side: torch.randn(8, 64, side, side) for side in (7, 14, 28, 56)}
with torch.no_grad():
    runs = [lambda x=x: block(x) for x in images.values()]
    seconds = profiling.median_seconds(*runs, rounds=3)
rows = {}
for (side, x), second in zip(images.items(), seconds):
    formula = 4 * side**2 * 64**2 + 2 * side**4 * 64
    rows[f"{side} x {side}"] = {"counted": profiling.multiply_adds(block, x[:1]) / 1e6,
                                "formula": formula / 1e6, "ms for 8 images": 1000 * second}
tables.table(rows, ".1f", index="image",
             caption="Attention, 64 channels: million multiply-adds for one image; time")

# %% [markdown]
# Doubling the side makes attention up to sixteen times as expensive. So a U-Net attends only at the levels that are small enough: Ho et al. at 16 x 16, Dhariwal & Nichol 2021 at 32, 16 and 8, ours in the bottleneck at 7 x 7.
#
# ### Two refinements · deeper
#
# Large models have two more, each in a line. **RMS normalisation** (RMSNorm) divides by the root of the mean square and subtracts no mean; and **QK normalisation** applies it to queries and keys, so that no dot product can run away. Models that use it also learn a factor for the result, because with few channels $d$ logits of at most $\sqrt d$ concentrate badly on one token among many.
#
# $$\operatorname{RMS}(z) = \frac{z}{\sqrt{\tfrac1d\sum_i z_i^2 + \varepsilon}}, \qquad |\operatorname{RMS}(q)\cdot\operatorname{RMS}(k)|/\sqrt d \le \sqrt d \tag{2.12}$$

# %%
def entropy(logits):
    """Mean entropy of the softmax over the last axis, in nats."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()

def rms(z):
    return z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()

q, k = torch.randn(2, 1000, 16)
rows = {}
for size in (1, 3, 10):
    plain = (size * q) @ (size * k).T / 4
    normed = rms(size * q) @ rms(size * k).T / 4
    rows[f"{size} times"] = {"plain": entropy(plain), "QK normalisation": entropy(normed)}
tables.table(rows, ".2f", index="queries and keys",
             caption="Entropy of the attention weights of 1,000 queries over 1,000 keys, "
             f"nats (at most {math.log(1000):.2f})")

# %% [markdown]
# Where queries and keys grow, plain attention ends by taking a single token; then a small change of a query no longer changes the weights, and hardly any gradient reaches queries and keys; that of the values still passes. Normalised, the weights stay spread.
#
# ## 2.5 Downsampling and upsampling
#
# Down goes a convolution with stride 2 (**downsampling**). **And up?** For **upsampling**, a **transposed convolution** seems natural: each input pixel paints its kernel into the larger image. Look at what it paints if the input is the same everywhere:

# %%
torch.manual_seed(0)
flat = torch.ones(1, 1, 8, 8)
three = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1)
four = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
nearest = F.interpolate(flat, scale_factor=2.0)
folded = nn.Conv2d(1, 4, 3, padding=1)                      # four channels for 2x2 pixels
results = {
    "transposed, 3x3": three(flat),
    "transposed, 4x4": four(flat),
    "conv, then pixel_shuffle": F.pixel_shuffle(folded(flat), 2),
    "nearest, then 3x3": F.conv2d(nearest, three.weight, padding=1),
}
inner = {name: y.detach()[0, 0, 3:-3, 3:-3] for name, y in results.items()}
plots.heatmaps({f"{name}\nspread {y.std():.3f}": y - y.mean() for name, y in inner.items()},
               label="value - mean", title="A flat image, upsampled (inner part)")

# %% [markdown]
# **What the figure shows.** With a 3x3 kernel and stride 2 the painted kernels overlap unevenly, in **checkerboard artifacts**: a pixel is painted once, twice or four times, depending on its position. A 4x4 kernel overlaps evenly, but still four different sets of weights paint the four kinds of position, so a random start has a pattern, too, which training must remove. A convolution followed by `pixel_shuffle`, our network's own last step, has four sets of weights just so. **Nearest-neighbour** upsampling first and convolving then leaves a flat image flat: Odena et al. propose it, with kernels that the stride divides as a partial help. Our `Upsample` does that. Section 2.9 measures whether it matters for the trained network.
#
# ## 2.6 The whole U-Net
#
# Now everything is there: `stem` (fold the patches, one convolution), the stages of the encoder (`down`), two in the **bottleneck** (`middle`), the first with attention, those of the decoder (`up`), and `out`. Here is the forward pass, written out on the library's modules; the whole idea of the U is in the skip connections, the list `skips`:

# %%
def my_forward(net, x, t, y):
    """What UNet.forward computes, for a network with classes and no context."""
    emb = F.silu(net.time(t) + net.label(y))                # (B, emb_dim)
    h = net.stem(F.pixel_unshuffle(x, net.patch_size))
    skips = []
    for layer in net.down:                                  # encoder
        if isinstance(layer, nn.Conv2d):
            h = layer(h)                                    # halve height and width
        else:
            h = layer.block(h, emb)                         # a ResnetBlock
            skips.append(h)
    for stage in net.middle:                                # bottleneck
        h = stage.block(h, emb)
        h = stage.attention(h) if stage.attention is not None else h
    for layer in net.up:                                    # decoder
        if hasattr(layer, "block"):
            h = torch.cat([h, skips.pop()], dim=1)          # last in, first out
            h = layer.block(h, emb)
        else:
            h = layer(h)                                    # double height and width
    return F.pixel_shuffle(net.out(F.silu(net.norm(h))), net.patch_size)

net = without_zero_init(UNet(1, widths=(32, 64), num_classes=10))
x, t, y = torch.randn(3, 1, 28, 28), torch.rand(3), torch.tensor([3, 1, 4])
torch.testing.assert_close(my_forward(net, x, t, y), net(x, t, y))
print("the same")
diagrams.unet(net, 28)

# %%
parts = {name: getattr(net, name) for name in ("time", "label", "stem", "norm", "out")}
for name in ("down", "middle", "up"):
    parts |= {f"{name} {k}": module for k, module in enumerate(getattr(net, name))}

rows = {}
def record(name):
    """A forward hook that notes a part's output shape and its parameters."""
    def hook(module, inputs, output):
        rows[name] = {"output": str(tuple(output.shape[1:])),
                      "parameters": profiling.count_parameters(module)}
    return hook

hooks = [module.register_forward_hook(record(name)) for name, module in parts.items()]
net(x, t, y)
for hook in hooks:
    hook.remove()
tables.table(rows, {"parameters": ","}, index="part",
             caption="The parts of UNet(1, widths=(32, 64), num_classes=10), in order")

# %% [markdown]
# ## 2.7 Conditioning
#
# **How does a condition enter the network?** There are three ways.
#
# *Added to the time embedding.* A class is an entry of a table of vectors (`nn.Embedding`; `net.label(y)` in `my_forward`), added to the time's embedding; it reaches every block by (2.7). One more entry stands for "no class"; lesson 5 needs it.
#
# *Concatenated along the channels.* A condition that is itself an image (a mask, a sketch, a small version of the picture) is concatenated to the noisy image as further channels (**channel concatenation**): `extra_channels`.
#
# *By cross-attention.* A condition with many parts, such as the words of a caption, is given as tokens, the **context**, and each pixel attends to all of them: **cross-attention**. The queries come from the pixels, keys and values from the words; nothing else differs from (2.9).

# %%
class MyCrossAttentionBlock(nn.Module):
    """x: (B, C, H, W), context: (B, L, context_dim) -> (B, C, H, W)"""

    def __init__(self, channels, context_dim, num_heads=2):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(channels // 16, channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(context_dim, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x, context):
        B, C, H, W = x.shape
        # a query for every pixel, a key and a value for every word
        q = self.split(self.q(self.norm(x).flatten(2).transpose(1, 2)))
        k, v = (self.split(part) for part in self.kv(context).chunk(2, dim=-1))
        h = my_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)

    def split(self, tokens):
        """(B, tokens, C) -> (B, heads, tokens, d)"""
        B, L, C = tokens.shape
        return tokens.view(B, L, self.num_heads, C // self.num_heads).transpose(1, 2)

# %%
x7 = torch.randn(2, 64, 7, 7)
words = torch.randn(2, 5, 24)
mine = MyCrossAttentionBlock(64, 24)
library = CrossAttentionBlock(64, 24)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x7, words), mine(x7, words))
print("CrossAttentionBlock agrees:", tuple(mine(x7, words).shape))

# %% [markdown]
# All three ways at once, in one U-Net. Does the output depend on each condition?

# %%
net = UNet(1, widths=(32, 64), num_classes=10, extra_channels=1, context_dim=24)
net = without_zero_init(net)
caption = torch.randn(3, 5, 24)                             # five words
sketch = torch.randn(3, 1, 28, 28)                          # an image
base = net(x, t, y, context=caption, extra=sketch)
other_word = torch.cat([torch.randn(3, 1, 24), caption[:, 1:]], dim=1)
outputs = {
    "another class": net(x, t, (y + 1) % 10, context=caption, extra=sketch),
    "another word": net(x, t, y, context=other_word, extra=sketch),
    "another sketch": net(x, t, y, context=caption, extra=-sketch),
    "the words in another order": net(x, t, y, context=caption.flip(1), extra=sketch),
    "without the other examples": net(x[:1], t[:1], y[:1], caption[:1], extra=sketch[:1]),
}
changes = {name: (out - base[: len(out)]).abs().mean() for name, out in outputs.items()}
tables.table({name: {"change": change} for name, change in changes.items()}, ".1e",
             caption="Mean absolute change of the output")

# %% [markdown]
# The last two rows are no mistake. The examples of a batch must not influence each other, or a sample would depend on its neighbours. And to cross-attention its tokens are a *set*; if order matters, as in "dog bites man", the tokens themselves must carry their positions (a text encoder does that; lesson 5).
#
# **A bug hunt.** Splitting channels into heads is a reshape *and* a transpose. Here are two ways to do it, both of the right shape; the second is found in tutorials. Which is wrong, and how would you find out without being told?

# %%
def split_a(tokens, num_heads):
    """(B, L, C) -> (B, heads, L, d)"""
    B, L, C = tokens.shape
    return tokens.view(B, L, num_heads, C // num_heads).transpose(1, 2)

def split_b(tokens, num_heads):
    """(B, L, C) -> (B, heads, L, d)"""
    B, L, C = tokens.shape
    return tokens.reshape(B, num_heads, C // num_heads, L).transpose(2, 3)

words = torch.randn(1, 6, 16)
order = torch.tensor([3, 0, 5, 1, 4, 2])
for name, split in {"split_a": split_a, "split_b": split_b}.items():
    q = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    output = lambda words: my_attention(q, split(words, 2), split(words, 2))
    change = (output(words[:, order]) - output(words)).abs().max()
    print(f"{name}: shuffling the words changes the output by {change:.1e}")
split_heads = split_a                                       # the right one

# %% [markdown]
# To attention, words are a set, so `split_b` is wrong. In memory the words lie one after the other. `split_b` cuts this row as if the channels did, so its "words" are mixtures of several. A *property that must hold* finds what shapes cannot.
#
# ### Joint attention · deeper
#
# Stable Diffusion 3 (Esser et al. 2024) goes one step further: **joint attention**. Image and text tokens each have their own linear maps, but are concatenated to one sequence in which all attend to all, so that the text can change, too. Flux does so in its first blocks; its later ones share one set of maps. It takes the place of a self-attention among the pixels *and* a cross-attention to the words; what does it cost beside these two?

# %%
def joint_attention(image, text, maps, num_heads=2):
    """Every token attends to all N + L.

    image: (B, N, C), text: (B, L, C) -> the same shapes
    """
    of_image = maps["image in"](image).chunk(3, -1)         # q, k, v: (B, N, C) each
    of_text = maps["text in"](text).chunk(3, -1)            # q, k, v: (B, L, C) each
    q, k, v = (                                             # (B, heads, N + L, d) each
        torch.cat([split_heads(a, num_heads), split_heads(b, num_heads)], dim=2)
        for a, b in zip(of_image, of_text)
    )
    joined = attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N + L, C)
    N = image.shape[1]
    return maps["image out"](joined[:, :N]), maps["text out"](joined[:, N:])

# %%
maps = {"image in": nn.Linear(64, 192), "text in": nn.Linear(64, 192),
        "image out": nn.Linear(64, 64), "text out": nn.Linear(64, 64)}
image, rows = torch.randn(1, 49, 64), {}
pixels = image.transpose(1, 2).view(1, 64, 7, 7)
for words in (12, 25, 77):
    text = torch.randn(1, words, 64)
    both = profiling.multiply_adds(AttentionBlock(64), pixels)
    both += profiling.multiply_adds(CrossAttentionBlock(64, 64), pixels, text)
    joint = profiling.multiply_adds(lambda: joint_attention(image, text, maps))
    rows[words] = {"self- and cross-attention": both, "joint attention": joint,
                   "ratio": joint / both}
tables.table(rows, {"self- and cross-attention": ",", "joint attention": ",",
                    "ratio": ".2f"}, index="text tokens", caption="Multiply-adds")
reordered = joint_attention(image, text.flip(1), maps)[0]
torch.testing.assert_close(reordered, joint_attention(image, text, maps)[0])

# %% [markdown]
# **What the table shows.** With few words joint attention is the cheaper one. With CLIP's 77 tokens it costs half as much again, here, where the image has only 49 pixels of 64 channels. By the same formulas the ratio falls to 1.02 for 1,024 pixels, and to 0.77 with 1,536 channels as well. For that it updates the text, too.
#
# ## 2.8 The diffusion transformer
#
# The **diffusion transformer** (DiT; Peebles & Xie 2023) drops the U. The image is **patchified**: it is cut into patches, each patch becomes a token, and all layers have the same width. The condition enters by **adaLN-Zero** (adaptive layer norm): for each of a block's two halves $f$, attention and an MLP applied to every token, the embedding chooses a scale, a shift, and a **gate** $g$ that starts at zero. Its norm is **layer normalisation**: each token by itself, over its $d$ numbers, as in (2.5) but without $\gamma$ and $\delta$:
#
# $$x \leftarrow x + g(e)\cdot f\big((1 + a(e))\operatorname{norm}(x) + b(e)\big) \tag{2.13}$$

# %%
class MyDiTBlock(nn.Module):
    """x: (B, N, dim), emb: (B, dim) -> (B, N, dim)"""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.emb = nn.Linear(dim, 6 * dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )
        nn.init.zeros_(self.emb.weight)
        nn.init.zeros_(self.emb.bias)

    def forward(self, x, emb):
        b1, a1, g1, b2, a2, g2 = self.emb(emb)[:, None].chunk(6, dim=-1)    # (B, 1, dim)
        qkv = self.qkv((1 + a1) * self.norm(x) + b1)                        # (B, N, 3 dim)
        q, k, v = (split_heads(part, self.num_heads) for part in qkv.chunk(3, -1))
        x = x + g1 * self.proj(my_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + g2 * self.mlp((1 + a2) * self.norm(x) + b2)

# %%
x, emb = torch.randn(2, 49, 96), torch.randn(2, 96)
assert torch.equal(MyDiTBlock(96, 4)(x, emb), x), "a new block is the identity"
mine = without_zero_init(MyDiTBlock(96, 4))
library = DiTBlock(96, 4)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x, emb), mine(x, emb))

# %% [markdown]
# Around the blocks there is little: patchify the image (`pixel_unshuffle` again) and make each patch a token; at the end a last norm, modulated by $e$ like the others, and back from tokens to patches to pixels.

# %%
def my_dit(net, x, t, y):
    """What DiT.forward computes.   x: (B, C, 28, 28) -> like x"""
    e = F.silu(net.time(t) + net.label(y))                              # (B, dim)
    patches = F.pixel_unshuffle(x, net.patch_size).flatten(2)           # (B, C patch^2, 49)
    h = net.stem(patches.transpose(1, 2)) + net.positions               # (B, 49, dim)
    for block in net.blocks:
        h = block(h, e)
    shift, scale = net.final(e)[:, None].chunk(2, dim=-1)
    h = net.out((1 + scale) * net.norm(h) + shift)                      # (B, 49, C patch^2)
    return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (7, 7)), net.patch_size)

net = DiT(1, 28, patch_size=4, dim=96, depth=2, num_heads=4, num_classes=10)
net = without_zero_init(net)
x28, t3, y3 = torch.randn(3, 1, 28, 28), torch.rand(3), torch.tensor([3, 1, 4])
torch.testing.assert_close(my_dit(net, x28, t3, y3), net(x28, t3, y3))

channels = sincos_position_embedding_2d(7, 96).T.view(96, 1, 7, 7)
plots.show(channels[::6], columns=8, width=5,
           title="Sixteen of the 96 channels of the positional encoding")

# %% [markdown]
# **What the figure shows.** Nothing in a transformer depends on where a token is (section 2.4), so a **positional encoding** (or position embedding), `net.positions`, is added to the tokens: sinusoids of the row (above) and of the column (below), four sines and then four cosines each, from fast to slow; the slow ones hardly move over seven positions.
#
# **What does it cost?** A block with $N$ tokens of width $d$ needs $4Nd^2$ multiply-adds for attention's linear maps, $8Nd^2$ for the MLP, which is four times as wide inside, and (2.11). The map from the embedding adds $6d^2$ per image.
#
# $$12\,N d^2 + 2\,N^2 d \tag{2.14}$$

# %%
counted = profiling.multiply_adds(library, x[:1], emb[:1])
counted -= 6 * 96**2                                        # the map from the embedding
print(f"counted {counted:,}, formula {12 * 49 * 96**2 + 2 * 49**2 * 96:,}")

nets = {"U-Net": UNet(1, widths=(32, 64), num_classes=10),
        "DiT": DiT(1, 28, patch_size=4, dim=100, depth=5, num_heads=4, num_classes=10)}
image = torch.zeros(1, 1, 28, 28)
costs = {}
for name, net in nets.items():
    multiply_adds = profiling.multiply_adds(net, image, torch.zeros(1), 3)
    costs[name] = {"parameters": profiling.count_parameters(net),
                   "multiply-adds (million)": multiply_adds / 1e6}
tables.table(costs, {"parameters": ",", "multiply-adds (million)": ".1f"}, index="network",
             caption="For one image of 28 x 28")

# %% [markdown]
# ### Positions · deeper
#
# **Which positional encoding?** Added sinusoids are one way; a *learned* table is another; and most large models now *turn* queries and keys (**rotary position embedding**, RoPE, Su et al. 2021). Take a pair of channels as a point in the plane, and turn it by an angle $\theta m$ at position $m$. If both points are turned by the same angle, their dot product stays the same. So it depends only on the difference of the positions:
#
# $$\big(R_{\theta m}\,q\big)\cdot\big(R_{\theta n}\,k\big) = q\cdot R_{\theta (n-m)}\,k, \qquad R_\varphi = \begin{pmatrix}\cos\varphi & -\sin\varphi\\ \sin\varphi & \cos\varphi\end{pmatrix} \tag{2.15}$$
#
# A task that needs positions: twelve tokens of random numbers in a row, and each is to output the content of its left neighbour. One layer of attention, 300 small steps. And afterwards the same network is given *longer* rows, with positions that it never saw:

# %%
def rotary(x):
    """Each pair of channels turned by an angle that grows with the position: (B, N, d)."""
    frequencies = 2.0 ** -torch.arange(x.shape[2] // 2)
    angles = torch.arange(x.shape[1])[:, None] * frequencies            # (N, d / 2)
    a, b = x.chunk(2, dim=-1)
    turned_a = a * angles.cos() - b * angles.sin()
    turned_b = a * angles.sin() + b * angles.cos()
    return torch.cat([turned_a, turned_b], dim=-1)

# %%
def neighbour_errors(encode, rotate=lambda x: x, seed=0, dim=32):
    """Errors of the left neighbour's content after 300 steps, in rows of several lengths.

    encode: n -> (n, dim), added to the tokens; rotate: of queries and keys
    """
    torch.manual_seed(seed)
    layers = nn.ModuleList([nn.Linear(8, dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, 8)])
    stem, qkv, out = layers
    table = encode(12)
    learned = [*layers.parameters()] + [table] * table.requires_grad

    def error(x):
        q, k, v = qkv(stem(x) + encode(x.shape[1])).chunk(3, dim=-1)
        predicted = out(attention(rotate(q), rotate(k), v))             # (32, n, 8)
        return (predicted[:, 1:] - x[:, :-1]).square().mean()

    optimizer = torch.optim.Adam(learned, lr=1e-2)
    for _ in range(300):
        loss = error(torch.randn(32, 12, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lengths = (12,) if table.requires_grad else (12, 16, 24, 48)
    with torch.no_grad():
        return {n: error(torch.randn(256, n, 8)).item() for n in lengths}

# %%
entries = torch.zeros(12, 32, requires_grad=True)
kinds = {
    "none": [lambda n: torch.zeros(n, 32)],
    "added sinusoids": [lambda n: TimeEmbedding(32)(torch.arange(n) / 1000)],
    "a learned table": [lambda n: entries],
    "rotary": [lambda n: torch.zeros(n, 32), rotary],
}
rows = {}
for name, how in kinds.items():
    found = []
    for seed in range(3):
        entries.data.zero_()
        found.append(neighbour_errors(*how, seed=seed))
    rows[name] = {f"{n} tokens": " to ".join(
        f"{limit(f[n] for f in found):.1e}" for limit in (min, max)) for n in found[0]}
tables.table(rows, index="positional encoding",
             caption="Mean squared error after 300 steps with 12 tokens, three seeds; "
             "a zero output has 1")

# %% [markdown]
# Without positions the best prediction is the mean of the other tokens, with an error of $1 - 1/11 = 0.91$. All three ways solve the task at the length they were trained with. Beyond it a learned table has no entries. The *formulas* of sinusoids and rotations go on, but what the network learned with them does not carry far: with four more tokens the error of added sinusoids is 0.3, a third of what no positions give; rotations stay below 0.01 at twice the length and have 0.2 to 0.4 at four times. What positions are worth in a whole DiT, section 2.9 measures.
#
# ## 2.9 Which parts matter? An ablation
#
# Everything above sounded reasonable. So do many things that are not so. An **ablation** takes parts out, or exchanges them, and compares with a **baseline**, here called *base*. The table below changes **one thing at a time**, as far as that can be done: two rows with another patch size have other levels and widths as well. Each network is trained with two **seeds**, once on 32,000 images of class-conditional MNIST, for one seed the same for all networks, with the same learning rates and a tenth of the labels dropped. Two rows are to be read with care: *no zero initialisation, no shortcuts* is to be compared with *no zero initialisation*, since with zeros and without shortcuts nothing would ever pass; and the DiT is another network altogether, with as many multiply-adds and 1.7 times the parameters.
#
# The networks predict **v**, a mixture of noise and image that lesson 3 explains; *validation loss* is the mean squared error of that prediction on 1,000 test digits at 16 noise levels. The *Fréchet distance* is that of lesson 1, of 500 samples in 20 steps. Lower is better for both. The seeds' own spread is pooled from all networks whose loss is at most a tenth above the base's, since some much worse ones vary far more: with two seeds each, the standard deviation of one run is the root of the mean of gap²/2. The difference of two rows, each a mean of two seeds, has the same deviation. The table was made by `python benchmarks/ablations.py`, which takes about an hour.

# %%
runs = pandas.read_csv(storage.ASSETS / "ablations.csv").groupby("variant")
mean, gap = runs.mean(), runs.max() - runs.min()            # over the two seeds
near = mean.validation_loss < 1.1 * mean.validation_loss["base"]
spread = ((gap[["validation_loss", "frechet_distance"]][near] ** 2) / 2).mean() ** 0.5
rows = {}
for name in mean.sort_values("validation_loss").index:
    rows[name] = {
        "parameters": mean.parameters[name],
        "multiply-adds (million)": mean.multiply_adds[name] / 1e6,
        "validation loss": mean.validation_loss[name],
        "Fréchet distance": mean.frechet_distance[name],
    }
formats = {"parameters": ",.0f", "multiply-adds (million)": ".1f",
           "validation loss": ".4f", "Fréchet distance": ".2f"}
tables.table(rows, formats, index="variant",
             caption="Ablations: 250 steps of 128 images, the mean of two seeds")
print(f"standard deviation of a difference, pooled over {near.sum()} rows: loss "
      f"{spread.validation_loss:.4f}, distance {spread.frechet_distance:.2f}")

# %% [markdown]
# **What the table shows.** Read each row against *base*, or the row that its name refers to; a difference below three of the printed deviations says nothing. Roughly from large to small:
#
# - **Skip connections** matter most by far, as section 2.1 expected.
# - **The transformer** is far behind the base after 32,000 images, with the same learning rates. Part of it may be its patches of 4: the U-Net with such patches is no better, though it is also smaller. Part may be that a transformer has no **inductive bias** towards neighbours, as a convolution has; this table does not separate the two. Without *positions* it is much worse still.
# - **Fine pixels.** The best network of all works on the pixels as they are (*patch 1*), with narrow layers where the image is large: about as many parameters as the base, 1.4 times the multiply-adds, and one level more, which may help, too. Spending more than that on width (*48, 96*) or on blocks (*depth 2*) buys less. Coarse patches of 4 are far worse, at 0.6 times the multiply-adds.
# - **Shortcuts** around the blocks and **zero initialisation** keep the samples good in so short a training.
# - **Normalisation** is worth 6 per cent of the loss. *SiLU* scores 2 per cent lower than ReLU, and *dropout* 2 per cent higher than none; both differences are under three deviations, so they are hints. Dropout guards against learning images by heart (**overfitting**), which a network that sees each image at most once cannot do.
# - **Time** matters less than one would think. Without any, the loss is only 4 per cent higher; presumably the network can infer the noise level from the image. The bare number and a learned table come within one per cent of the sinusoids; the sinusoids *without the 1000*, which look all alike (section 2.2), do worse than with it. Whether they are worse than the bare number, which the linear probe of section 2.2 put behind them, two seeds cannot say. Nor whether scale and shift (FiLM) beat adding: 2 per cent, under three deviations.
# - **Attention** in every block, four more of them, two at each size, lowers the loss by 2 per cent for a quarter more work. That is a hint as well, and the Fréchet distance shows no difference.
# - **Null results.** *Attention* at 7 x 7, *QK normalisation* (queries and keys divided by their size) and the *transposed convolution* change the loss by no more than the seeds do, and the Fréchet distance hardly. The transposed convolution is one of 4x4 in one place; the 3x3 of section 2.5 was not trained. On larger and richer images *more* attention levels do pay: Dhariwal & Nichol 2021, table 1, compare several with one.
#
# What this table cannot show is which network is best after a long training, or with learning rates of its own.
#
# **Design rules.** What large U-Nets choose, and where it was measured. *Channels*: a multiple of the first level's, 1, 2, 3, 4 from top to bottom (Dhariwal & Nichol 2021), so that a level costs as much as the one above or less: 1, 1, 9/16, 1/4 by (2.2). *Blocks*: two or three a level; depth is worth less than width at equal time (the same, section 3). *Heads*: more of them help (their table 2); 64 channels each gave most for the time. *Attention levels*: those of 32 x 32 pixels and below. *Resolution*: each doubling adds a level and needs noisier schedules (lesson 3); *simple diffusion* (Hoogeboom et al. 2023) puts most blocks where the image has 16 x 16 pixels. *Latents*: beyond some 64 x 64 pixels most models work on the numbers of an autoencoder (lesson 6). *Scaling*: a transformer's quality follows its multiply-adds (Peebles & Xie 2023, figure 8).
#
# **One row again, live**, with about half the images and a loss at 8 noise levels: compare these two with each other only. In the library, `UNet.concat_skip` is the `torch.cat` of `my_forward`. To take the skip connections away, it is enough to put zeros in their place; the number of parameters stays the same.

# %%
class NoSkips(UNet):
    @staticmethod
    def concat_skip(h, skip):
        return torch.cat([h, torch.zeros_like(skip)], dim=1)

@torch.no_grad()
def validation_loss(D, n=1000, levels=8):
    """On test digits, at fixed noise levels with fixed noise."""
    x, y = (part[:n].to(train.default_device()) for part in data.mnist("test"))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for t in (torch.arange(levels) + 0.5) / levels:
        eps = torch.randn(x.shape, generator=generator).to(x.device)
        losses.append(D.loss(x, t.expand(n), eps, y=y).mean())
    return torch.stack(losses).mean().item()

live = {}
for name, network in {"base": UNet, "no skip connections": NoSkips}.items():
    torch.manual_seed(0)
    D = Denoiser(network(1, widths=(32, 64), num_classes=10), schedule, target="v")
    run_name = f"02_{name.replace(' ', '_')}"
    live[name] = train.train(D, (digits, labels), steps=120, run_name=run_name)
    print(f"{name}: validation loss {validation_loss(live[name]):.4f}")

# %% [markdown]
# ## 2.10 Looking inside · deeper
#
# **What do the parts of a trained network do?** Take the base network that you have just trained, give it a noisy 2 (and the label 2), and look at the **x0-prediction** `x0_hat`, at some of its features, and at the **attention map** of a pixel at 7 x 7: its weights.

# %%
net = live["base"].net.cpu()
eps = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
noisy = schedule.perturb(digits[5:6], 0.5, eps)

seen = {}
def keep(name):
    """A forward hook that keeps a layer's output, and its input."""
    def hook(module, inputs, output):
        seen[name] = output.detach()
        seen[f"{name}: input"] = inputs[0].detach()
    return hook

layers = {"first level": net.down[0], "bottleneck": net.middle[1], "last level": net.up[-1],
          "attention": net.middle[0].attention}
hooks = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
with torch.no_grad():
    net(noisy, torch.tensor([0.5]), 2)
for hook in hooks:
    hook.remove()

# %%
def stretch(features):
    """Each channel of (C, H, W) scaled to [-1, 1]."""
    low, high = features.amin((1, 2), True), features.amax((1, 2), True)
    return 2 * (features - low) / (high - low + 1e-6) - 1

rows = {}
for name in ("first level", "bottleneck", "last level"):
    twelve = stretch(seen[name][0, :12])                    # (12, H, W)
    rows[name] = F.interpolate(twelve[:, None], size=28)
x0_hat = live["base"].cpu()(noisy, 0.5, y=torch.tensor([2])).detach()
plots.show({"noisy": noisy.clamp(-1, 1), "x0_hat": x0_hat.clamp(-1, 1)}, columns=1,
           width=2.4, title="A noisy 2, and x0_hat")
plots.show(rows, columns=12, title="Twelve of its features on three levels")

# %%
block = net.middle[0].attention
h = seen["attention: input"]                                # (1, C, 7, 7)
with torch.no_grad():
    tokens = block.norm(h).flatten(2).transpose(1, 2)       # (1, 49, C)
    qkv = block.qkv(tokens).chunk(3, -1)
    q, k, v = (split_heads(part, block.num_heads) for part in qkv)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])       # (1, heads, 49, 49)
    weights = scores.softmax(-1)
    # these are the weights that the block uses:
    attended = block.proj((weights @ v).transpose(1, 2).flatten(2)) # (1, 49, C)
    torch.testing.assert_close(h + attended.transpose(1, 2).view_as(h), block(h))

# %%
queries = [8, 10, 24, 38, 40]                               # five of the 49 positions
positions = 2 * torch.eye(49)[queries].view(-1, 1, 7, 7) - 1
chosen = weights[0, :, queries]                             # (heads, 5, 49)
maps = (2 * chosen / chosen.max() - 1).view(-1, 5, 1, 7, 7) # one scale for all
plots.show({"query": positions} | {f"head {k}": head for k, head in enumerate(maps)},
           columns=len(queries), width=4.5,
           title="Attention maps (bright: a large weight)")

entropies = -(weights * weights.log()).sum(-1).mean((0, 2)) # (heads,)
rows = {f"head {k}": {"entropy": value} for k, value in enumerate(entropies)}
rows["equal weights"] = {"entropy": math.log(49)}
tables.table(rows, ".2f",
             caption="Entropy of the attention weights, mean over 49 pixels, nats")

# %% [markdown]
# **What the figures show.** The first level's features are the noisy image, filtered in several ways, the 2 shining through in some; in the bottleneck each pixel stands for a 4 x 4 patch and the features are coarse; on the last level two or three of the twelve show strokes, and the others still look like noise. After so short a training the attention maps are nearly uniform, as the entropies say, and the table has said already that little depends on attention here. In lesson 5, with captions, the maps will have something to tell.
#
# ## What we built
#
# The U-Net from its parts, each asserted equal to the library's; a transformer from its parts; conditions that enter in three ways; three tests that find what shapes cannot; and a table that says which parts earn their keep.
#
# **Three things to remember.** (1) Fine detail and a wide view must both reach the output: by skip connections in a U-Net, by keeping all tokens in a transformer. (2) Test properties, not only shapes: attention does not depend on order, examples do not influence each other, a new block is the identity. (3) An architecture is an opinion until it is measured, one change at a time, with the seeds' spread beside it.
#
# | term | in one line |
# | --- | --- |
# | receptive field | the input pixels that an output pixel depends on, (2.1) |
# | U-Net: encoder, bottleneck, decoder | down, the smallest level, up again |
# | skip connection | encoder features, concatenated to the decoder's |
# | patch, space-to-depth | a square of pixels folded into channels |
# | sinusoidal embedding | a number as sines and cosines of many frequencies, (2.3) |
# | linear probe | a linear layer that shows what a representation offers |
# | group, layer, RMS normalisation | mean and variance of a group, of a token; no mean subtracted |
# | residual connection, shortcut | a block's input is added to its output |
# | zero initialisation | the last layer of a branch starts at zero |
# | FiLM, adaptive group norm (AdaGN) | scale and shift chosen by the condition, (2.7) |
# | attention: query, key, value, head | weighted means of values, (2.9); several in parallel |
# | self-, cross-, joint attention | tokens of one kind; queries of one, keys of another; all in one sequence |
# | permutation-equivariant | shuffling before or after is the same |
# | checkerboard artifacts | a pattern of period 2 that upsampling paints |
# | channel concatenation, context | a condition as further channels; as tokens |
# | diffusion transformer (DiT), patchify, adaLN-Zero | patches as tokens; scale, shift and gate by the condition, starting at zero |
# | positional encoding, rotary (RoPE) | what tells a token's place; as a rotation of queries and keys |
# | ablation, baseline, seed | one part changed; what it is compared with; a repetition's random numbers |
#
# | formula | source |
# | --- | --- |
# | U-Net | Ronneberger et al. 2015; as a denoiser Song & Ermon 2019 (a relative, RefineNet), Ho et al. 2020 |
# | (2.3) | Vaswani et al. 2017, *Attention Is All You Need*, section 3.5; this spacing and order as in the code of Ho et al. 2020 |
# | (2.5) | Wu & He 2018, *Group Normalization* |
# | (2.6), (2.7) | Elfwing et al. 2017; Perez et al. 2018, *FiLM*; Dhariwal & Nichol 2021 |
# | (2.8) | Karras et al. 2024, *Analyzing and Improving the Training Dynamics of Diffusion Models*, eq. 88 |
# | (2.9), (2.10) | Vaswani et al. 2017, section 3.2; cross-attention in a U-Net: Rombach et al. 2022; joint attention: Esser et al. 2024 |
# | (2.12) | Zhang & Sennrich 2019; Henry et al. 2020 |
# | (2.13) | Peebles & Xie 2023, *Scalable Diffusion Models with Transformers*; start at zero: Goyal et al. 2017 |
# | (2.15) | Su et al. 2021, *RoFormer* |
# | checkerboards | Odena, Dumoulin & Olah 2016 |
#
# **Next:** lesson 3 trains these networks well, and finds out whether they are good.
