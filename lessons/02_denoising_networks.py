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
# In lesson 1 the network was a box: noisy image and time in, noise out. Now we open it. You build the U-Net part by part, see what each part is for, and then look at measurements: what happens to the model when one part is left out or exchanged.
#
# **After this lesson you can** compute what a network sees and what it costs; write the time embedding, the residual block, attention and cross-attention, and know how to test them; put a U-Net and a diffusion transformer together; add a condition of your own; and read, and make, an ablation table.
#
# **You need** lesson 1, and `nn.Module`. **It takes** about 2 minutes to run on two CPU cores. The exercises are in `exercises/02_denoising_networks.ipynb`.
#
# **Our conventions.** Shapes are (B, C, H, W): batch, channels, height, width. Tokens are (B, N, C). The time $t$ is in [0, 1], 0 is data, 1 is noise. A network knows no schedule: it maps an image, a number and perhaps a condition to an image.

# %% tags=["setup"]
{{setup}}

# %%
import copy
import csv
import math
import torch
import torch.nn.functional as F
from torch import nn
from course_lib import Denoiser, DiT, Schedule, UNet
from course_lib.lab import cost, data, machine, plots, train
from course_lib.networks.dit import DiTBlock, positions_2d
from course_lib.networks.unet import AttentionBlock, CrossAttentionBlock, ResnetBlock, TimeEmbedding, attention

torch.manual_seed(0)
digits, labels = data.mnist("train")
schedule = Schedule.cosine()

# %% [markdown]
# ## 2.1 What a denoiser must see
#
# **How far must a network look to clean one pixel?** With little noise the neighbours are enough: a grey pixel in the middle of a white stroke is noise. With much noise the neighbours are noise, too, and only the whole image can tell which digit this might be. So a denoiser needs *fine detail* and *wide view* at once, and it needs to know how much noise there is.
#
# A convolution with a kernel of size $k$ sees $k$ pixels; a second one sees $k - 1$ more, and if the first one moved in steps of $s$ pixels (its *stride*), each of those counts $s$ times. So after $L$ layers with kernels $k_l$ and strides $s_l$, one output pixel depends on a square of side
#
# $$r = 1 + \sum_{l=1}^{L} (k_l - 1)\prod_{j<l} s_j \tag{2.1}$$
#
# and one convolution from $C_{\text{in}}$ to $C_{\text{out}}$ channels with an output of $H\times W$ pixels costs
#
# $$\text{multiply-adds} = H\,W\,C_{\text{in}}\,C_{\text{out}}\,k^2. \tag{2.2}$$
#
# Six 3x3 convolutions see a square of 13 x 13 pixels, less than half the width of our images. Strides are the cheap way to see more: halve height and width, and every later layer sees twice as far, at a quarter of the cost if the channels stay as many. (Usually they are doubled; then the cost stays the same.) But fine detail is gone. The *U-Net* (Ronneberger et al. 2015) goes down and comes up again, and lays what it knew on the way down beside what comes up. Let us measure what one output pixel sees, by its gradient:

# %%
def sees(net, size=28):
    """How strongly the middle output pixel depends on each input pixel: (size, size)"""
    x = torch.randn(8, 1, size, size, requires_grad=True)
    net(x)[:, :, size // 2, size // 2].sum().backward()
    strength = x.grad.abs().mean((0, 1))
    return strength / strength.max()

def woken(net):
    """Random weights in the layers that start at zero, so that everything shows."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.any():
            module.reset_parameters()
    return net

def no_norms(net):
    """Normalisation takes means over whole groups of pixels; out of the way, to see what the convolutions see."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return net

plain = nn.Sequential(*[nn.Conv2d(1 if k == 0 else 32, 1 if k == 5 else 32, 3, padding=1) for k in range(6)])
unet = no_norms(woken(UNet(1, widths=(32, 64))))
blind = copy.deepcopy(unet)
blind.middle[0].attend = None                                           # the same weights, but no attention
half = torch.full((8,), 0.5)
views = {"6 convolutions": sees(plain), "U-Net, no attention": sees(lambda x: blind(x, half)),
         "U-Net": sees(lambda x: unet(x, half))}

# %%
plots.maps({name: (v + 1e-9).log10() for name, v in views.items()}, low=-6, high=0,
           label="log10 of the gradient", title="What the middle pixel sees")
for name, v in views.items():
    print(f"{name:20} depends on {(v > 0).sum():3} of 784 pixels")
r, jump = 2, 2                                                          # the unfolded image: pixels of size 2
for kernel, stride in [(3, 1), (3, 1), (3, 1), (3, 2)] + 8 * [(3, 1)]:  # stem, one block, halving; then four blocks at the bottom
    r, jump = r + (kernel - 1) * jump, jump * stride
print(f"(2.1) down to the end of the bottom: {r} pixels")

# %% [markdown]
# **What the figure shows.** The six convolutions see a square of side 13, as (2.1) says. The U-Net, with sixteen 3x3 convolutions in a row, sees the whole image even without attention, most strongly the middle. Attention makes no difference that one could see: with random weights it looks everywhere a little, and what it is to look for must be learned. (The last printed line leaves out the way up; even so it gives more than the image's 28 pixels.)
#
# **Another cheap trick** stands at our network's door. `pixel_unshuffle` folds each square of 2x2 pixels into four channels: nothing is lost, and every layer after it works on a quarter of the places. (Cheap, but not free: section 2.9 measures the price in quality.)

# %%
toy = torch.arange(16.0).view(1, 1, 4, 4)
print(toy[0, 0], F.pixel_unshuffle(toy, 2)[0], sep="\n")
assert torch.equal(F.pixel_shuffle(F.pixel_unshuffle(toy, 2), 2), toy)
for patch in (1, 2):
    net = UNet(1, widths=(32, 64), patch=patch)
    print(f"patch {patch}: {cost.parameters(net):,} parameters, "
          f"{cost.multiply_adds(net, toy.new_zeros(1, 1, 28, 28), torch.zeros(1)) / 1e6:.0f} million multiply-adds an image")

# %% [markdown]
# ## 2.2 Telling the time
#
# **How does a network learn how much noise there is?** The number $t$ could be given as it is. But a network is smooth, and $t = 0.01$ and $t = 0.02$, which need quite different answers, are nearly the same number. So $t$ is first turned into many waves, from fast to slow, as positions are in a transformer (Vaswani et al. 2017), with $K = d/2$ frequencies:
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
    frequency = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))     # (dim / 2,)
    angle = 1000 * t[:, None] * frequency                                                  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)

t = torch.linspace(0, 1, 100)
torch.testing.assert_close(time_embedding(t, 64), TimeEmbedding(64)(t))
similarity = lambda e: F.cosine_similarity(e[:, None], e[None], dim=-1)                    # (100, 100)
plots.maps({"with the 1000": similarity(time_embedding(t, 64)), "without": similarity(time_embedding(t / 1000, 64))},
           high=1.0, label="cosine similarity", extent=(0, 1, 1, 0), xlabel="t", ylabel="t", title="How alike are two times?")
near = time_embedding(torch.tensor([0.01, 0.02, 0.9]), 64)
print("similarity of t = 0.01 to 0.02 and to 0.9, with the 1000:", similarity(near)[0, 1:].tolist())
print("                                           without it:",
      similarity(time_embedding(torch.tensor([1e-5, 2e-5, 9e-4]), 64))[0, 1:].tolist())

# %% [markdown]
# **What the figure shows.** With the 1000, the nearest times are most alike, and on the whole the likeness falls with distance: slow waves remember the coarse time, fast ones the fine. It falls with ups and downs; the stripes are waves that have come round again. Without it all times look nearly the same.
#
# **And the alternatives?** One could give the bare number, or *learn* a vector for each hundredth of the time, as for classes (`nn.Embedding`). Which of them prepares best what a network must find out? Take a quantity that it surely needs, the log-SNR, and fit it by a single linear layer from each embedding, at 1,000 random times. Then judge at 1,000 *other* times:

# %%
times, others = torch.rand(2, 1000) * 0.98 + 0.01

def fitted_error(embed):
    """embed: (N,) -> (N, d). Root mean square error of the best linear layer from embed(t) to the log-SNR, at other times."""
    A, B = (F.pad(embed(t), (0, 1), value=1.0).double() for t in (times, others))           # a column of ones: the bias
    weight = torch.linalg.solve(A.T @ A + 1e-3 * torch.eye(A.shape[1]), A.T @ schedule.log_snr(times))
    return (B @ weight - schedule.log_snr(others)).square().mean().sqrt()

print(f"the log-SNR itself has standard deviation {schedule.log_snr(others).std():.2f}")
for name, embed in {"the bare number": lambda t: t[:, None], "waves": lambda t: time_embedding(t, 64),
                    "waves without the 1000": lambda t: time_embedding(t / 1000, 64),
                    "a learned table of 100": lambda t: F.one_hot((100 * t).long(), 100).float(),
                    "a learned table of 1000": lambda t: F.one_hot((1000 * t).long(), 1000).float()}.items():
    print(f"{name:24} error {fitted_error(embed):.2f}")

# %% [markdown]
# A linear layer on a table is a free value for each entry: a staircase. With 100 entries the steps are coarse; with 1000, many entries were never trained, and know nothing. The waves are smooth where they should be and steep where they must be. (This is one linear layer. A whole network has more layers to help itself with; section 2.9 measures these choices in it.)
#
# In the network, two linear layers with a nonlinearity between them turn the waves $w(t)$ into the **embedding** $e$, and a class, if there is one, is added to it (section 2.7). It is $e$, once more through the nonlinearity, that every block receives.
#
# ## 2.3 The residual block
#
# The work is done by blocks of two 3x3 convolutions. Three things around them make them trainable.
#
# **Normalisation.** Each image's channels are taken in groups $G$; the numbers of a group, over all its channels and pixels, are brought to mean 0 and variance 1. Then a learned scale and shift per channel follow:
#
# $$\operatorname{norm}(h) = \frac{h - \mu_G}{\sqrt{v_G + 10^{-5}}}\,\gamma_c + \delta_c, \qquad \mu_G, v_G: \text{mean and variance of } h \text{ over the group} \tag{2.5}$$
#
# *Group* normalisation, unlike batch normalisation, does not mix images: at training time their noise levels differ, at sampling time they do not. **The nonlinearity** is SiLU, a ReLU with a smooth foot:
#
# $$\operatorname{SiLU}(z) = \frac{z}{1 + e^{-z}} \tag{2.6}$$
#
# **A way past.** The block's output is *added* to its input (through a 1x1 convolution, where the number of channels changes), and its last convolution starts at zero; so a new block changes nothing, and learns what to change. It can learn: the gradient of a layer's weights is made of what comes *in* and of what comes back from above, and neither is zero. Only two layers of zeros in a row would wait for each other for ever.
#
# **Where does the time go in?** Three ways are in use, all after the first convolution. *Add* a vector per channel, made from the embedding $e$ by a linear layer (Ho et al. 2020); *scale and shift* the normalised features by two such vectors (Dhariwal & Nichol 2021 call it adaptive group normalisation):
#
# $$h \leftarrow (1 + a(e))\,\operatorname{norm}(h) + b(e) \tag{2.7}$$
#
# or the same with a norm that has no $\gamma, \delta$ of its own, as transformers do it. Since $(1 + a)(\gamma z + \delta) + b$ is again a scale and a shift of $z$, the last two can express the same; we take (2.7).

# %%
h, e = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
norm, to_32, to_64 = nn.GroupNorm(2, 32), nn.Linear(128, 32), nn.Linear(128, 64)
scale, shift = to_64(e)[:, :, None, None].chunk(2, dim=1)               # (B, 32, 1, 1) each
added = norm(h + to_32(e)[:, :, None, None])
scaled = (1 + scale) * norm(h) + shift
adaptive = (1 + scale) * F.group_norm(h, 2) + shift
for name, result in {"added": added, "scaled and shifted": scaled, "adaptive": adaptive}.items():
    print(f"{name:19} two channels: mean {[round(v, 2) for v in result[0, :2].mean((1, 2)).tolist()]}, std {[round(v, 2) for v in result[0, :2].std((1, 2)).tolist()]}")

# %% [markdown]
# Adding moves the channels; scaling and shifting can also turn one up and another down. (The last two lines agree, because a new norm has $\gamma = 1$ and $\delta = 0$.) Now the whole block:

# %%
class MyResnetBlock(nn.Module):
    """x: (B, a, H, W), emb: (B, emb_dim) -> (B, b, H, W)"""

    def __init__(self, a, b, emb_dim):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(a // 16, a), nn.GroupNorm(b // 16, b)
        self.conv1, self.conv2 = nn.Conv2d(a, b, 3, padding=1), nn.Conv2d(b, b, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * b)
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()
        nn.init.zeros_(self.conv2.weight), nn.init.zeros_(self.conv2.bias)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x)))                           # (B, b, H, W)
        scale, shift = self.emb(emb)[:, :, None, None].chunk(2, dim=1)  # (B, b, 1, 1) each
        h = (1 + scale) * self.norm2(h) + shift                         # (2.7)
        return self.skip(x) + self.conv2(F.silu(h))

# %%
x, emb = torch.randn(2, 32, 8, 8), torch.randn(2, 128)
mine = MyResnetBlock(32, 32, 128)
assert torch.equal(mine(x, emb), x), "a new block of equal widths is the identity"
mine(x, emb).square().sum().backward()
assert mine.conv2.weight.grad.any(), "and yet it learns"
mine, library = woken(MyResnetBlock(32, 64, 128)), ResnetBlock(32, 64, 128)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x, emb), mine(x, emb))
print("course_lib's ResnetBlock agrees:", tuple(mine(x, emb).shape))

# %% [markdown]
# **Does it matter?** Send noise through twenty blocks with PyTorch's usual random weights, with norms and a way past, with one of the two, and with neither. Look at the size of the numbers, and of the gradients that come back to the entrance.

# %%
def through(blocks, x):
    """Standard deviation after each block, and of the gradient that comes back to the entrance."""
    x, sizes = x.clone().requires_grad_(), []
    h = x
    for block in blocks:
        h = block(h)
        sizes.append(h.std().item())
    h.square().mean().backward()
    return torch.tensor(sizes), x.grad.std().item()

def block(norms, past):
    """A residual block without time, with or without its two aids."""
    norm = lambda: nn.GroupNorm(2, 32) if norms else nn.Identity()
    parts = nn.Sequential(norm(), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), norm(), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1))
    return lambda h: h + parts(h) if past else parts(h)

torch.manual_seed(1)
kinds = {"neither": (False, False), "norms": (True, False), "a way past": (False, True), "both": (True, True)}
results = {name: through([block(*kind) for _ in range(20)], torch.randn(4, 32, 8, 8)) for name, kind in kinds.items()}
plots.curves(torch.arange(1, 21), {name: sizes for name, (sizes, _) in results.items()}, yscale="log",
             title="Noise on its way through twenty blocks", xlabel="block", ylabel="standard deviation")
for name, (_, gradient) in results.items():
    print(f"{name:11} gradient at the entrance: {gradient:.1e}")

# %% [markdown]
# **What the figure shows.** With neither, what is left after two blocks comes almost only from the biases; that the signal is gone, the gradient shows. Either of the two is enough to let signal and gradient pass. (The gradients of the three cannot be compared closely: the loss is a mean square, so a larger output also sends back a larger gradient.)
#
# With both, the sum still grows with each block: variances add. EDM2 (Karras et al. 2024) *preserves magnitudes* instead: mix $a$ and $b$ with a weight $\tau$ and divide by the standard deviation that the mixture has if both are independent, with standard deviation 1,,
#
# $$\operatorname{mix}(a, b, \tau) = \frac{(1-\tau)\,a + \tau\,b}{\sqrt{(1-\tau)^2 + \tau^2}} \tag{2.8}$$

# %%
a, b = torch.randn(2, 100_000)
mix = lambda a, b, tau: ((1 - tau) * a + tau * b) / math.sqrt((1 - tau) ** 2 + tau**2)
print(f"standard deviation: a + b {(a + b).std():.3f}, mix(a, b, 0.3) {mix(a, b, 0.3).std():.3f}")
h_sum = h_mix = torch.randn(100_000)
for _ in range(20):
    branch = torch.randn(100_000)
    h_sum, h_mix = h_sum + branch, mix(h_mix, branch, 0.3)
print(f"after twenty of them: sums {h_sum.std():.2f}, mixtures {h_mix.std():.2f}")

# %% [markdown]
# ## 2.4 Attention
#
# **How can a pixel ask a distant one?** In attention every place, now called a *token*, makes three vectors of length $d$ from its channels: a *query* (what am I looking for?), a *key* (what am I?) and a *value* (what do I tell?). Each query is compared with all keys by a dot product, the results become weights that sum to one, and the weighted mean of the values is the answer:
#
# $$\operatorname{attention}(Q, K, V) = \operatorname{softmax}\Big(\frac{QK^\top}{\sqrt d}\Big)\,V \tag{2.9}$$
#
# The $\sqrt d$ keeps the comparison from saturating: if the entries of $q$ and $k$ are independent with mean 0 and variance 1, each product $q_ik_i$ has variance 1, and so
#
# $$\operatorname{Var}(q\cdot k) = \sum_{i=1}^d \operatorname{Var}(q_i k_i) = d \tag{2.10}$$

# %%
def my_attention(q, k, v):
    """q, k, v: (B, heads, N, d) -> (B, heads, N, d)"""
    weight = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(q.shape[-1])     # (B, heads, N, N)
    return torch.einsum("bhij,bhjd->bhid", weight.softmax(-1), v)

q, k, v = torch.randn(3, 2, 4, 49, 16)
torch.testing.assert_close(my_attention(q, k, v), F.scaled_dot_product_attention(q, k, v))
torch.testing.assert_close(my_attention(q, k, v), attention(q, k, v))
print(f"variance of q.k: {(q * k).sum(-1).var():.1f} for d = 16")

# %% [markdown]
# *Heads* do this several times side by side, each with its share of the channels, and so can look for several things. The block around it is short: normalise, make tokens of pixels, attend, add.

# %%
class MyAttentionBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W)"""

    def __init__(self, channels, heads=2):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(channels // 16, channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x):
        B, C, H, W = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)                        # (B, HW, C)
        qkv = self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads)   # split the channels ...
        q, k, v = qkv.permute(2, 0, 3, 1, 4)                                    # (B, heads, HW, d) each
        h = my_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)          # ... and join them again
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)

x = torch.randn(2, 64, 7, 7)
mine, library = MyAttentionBlock(64), AttentionBlock(64)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x), mine(x))
order = torch.randperm(49)
shuffled = lambda z: z.flatten(2)[:, :, order].view_as(z)
print(f"shuffle, then attend, against attend, then shuffle: {(mine(shuffled(x)) - shuffled(mine(x))).abs().max():.1e}")

# %% [markdown]
# The last line is the best test of an attention block: it has no idea of *where* a token is, so shuffling the pixels before or after must be the same. (Code that confuses tokens with channels fails it. In a U-Net the convolutions around know the places.)
#
# **Why only at 7x7?** With $N$ tokens of $C$ channels, the three linear maps and the last one cost $4NC^2$, and comparing and averaging cost
#
# $$2\,N^2 C \tag{2.11}$$
#
# multiply-adds: *quadratic* in the number of pixels.

# %%
block, sides = AttentionBlock(64), (7, 14, 28, 56)
images = {side: torch.randn(8, 64, side, side) for side in sides}
with torch.no_grad():
    taken = cost.seconds(*[lambda x=images[s]: block(x) for s in sides], rounds=3)
for side, second in zip(sides, taken):
    counted = cost.multiply_adds(block, images[side][:1])
    formula = 4 * side**2 * 64**2 + 2 * side**4 * 64
    print(f"{side:2} x {side:2}: {counted / 1e6:7.1f} million multiply-adds (formula {formula / 1e6:7.1f}), {1000 * second:7.1f} ms for 8 images")

# %% [markdown]
# Doubling the side makes attention up to sixteen times as expensive. So a U-Net attends at the bottom, where there are few pixels and each stands for a wide part of the image.
#
# Two refinements of large models, each in a line. *RMS normalisation* divides by the root of the mean square and subtracts no mean; and *QK normalisation* applies it to queries and keys, so that no dot product can run away. (Models that use it also learn a factor for the result, because logits of at most $\sqrt d$ could not concentrate on one token among many.)
#
# $$\operatorname{RMS}(z) = \frac{z}{\sqrt{\tfrac1d\sum_i z_i^2 + \varepsilon}}, \qquad |\operatorname{RMS}(q)\cdot\operatorname{RMS}(k)|/\sqrt d \le \sqrt d \tag{2.12}$$

# %%
q, k = torch.randn(2, 1000, 16)
entropy = lambda logits: -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
rms = lambda z: z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
for size in (1, 3, 10):
    plain, normed = (size * q) @ (size * k).T / 4, rms(size * q) @ rms(size * k).T / 4
    print(f"queries and keys {size:2} times as large: entropy of the weights {entropy(plain):.2f} nats, "
          f"with QK normalisation {entropy(normed):.2f} (of {math.log(1000):.2f})")

# %% [markdown]
# Where queries and keys grow, plain attention ends by looking at a single token; then a small change of a query no longer changes the weights, and hardly any gradient can pass. Normalised, it stays open.
#
# ## 2.5 Down, and up again
#
# Down goes a convolution with stride 2. **And up?** A *transposed* convolution seems natural: each input pixel paints its kernel into the larger image. Look at what it paints if the input is the same everywhere:

# %%
torch.manual_seed(0)
flat = torch.ones(1, 1, 8, 8)
three, four = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1), nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
nearest = lambda x: nn.functional.conv2d(F.interpolate(x, scale_factor=2.0), three.weight.detach(), padding=1)
results = {"transposed, 3x3": three(flat), "transposed, 4x4": four(flat), "enlarge, convolve": nearest(flat)}
inner = {name: y.detach()[:, :, 3:-3, 3:-3] for name, y in results.items()}
plots.maps({f"{name}\nspread {y.std():.3f}": y[0, 0] - y.mean() for name, y in inner.items()}, label="value - mean",
           title="A flat image, enlarged (inner part)")

# %% [markdown]
# **What the figure shows.** With a 3x3 kernel and stride 2 the painted kernels overlap unevenly: a pixel is painted once, twice or four times, depending on its place. A 4x4 kernel overlaps evenly (which is why Odena et al. advise it), but still four different sets of weights paint the four kinds of place, so a random start has a pattern, too, which training must remove. Enlarging first (each pixel becomes four) and convolving then leaves a flat image flat. That is what our `Upsample` does. (Whether it matters for the trained network, section 2.9 measures.)
#
# ## 2.6 The whole U-Net
#
# Now everything is there: `stem` (unfold, one convolution), stages down, two in the middle, the first with attention, stages up, `out`. Here is the forward pass, written out on the library's modules; the whole idea of the U is in `bridges`:

# %%
def my_forward(net, x, t, y):
    """What UNet.forward does, for a network with classes and no context."""
    emb = F.silu(net.time(t) + net.label(y))                            # (B, emb_dim)
    h, bridges = net.stem(F.pixel_unshuffle(x, net.patch)), []
    for layer in net.down:
        if isinstance(layer, nn.Conv2d):
            h = layer(h)                                                # halve height and width
        else:
            h = layer.block(h, emb)                                     # a ResnetBlock
            bridges.append(h)
    for stage in net.middle:
        h = stage.block(h, emb)
        h = stage.attend(h) if stage.attend is not None else h
    for layer in net.up:
        if hasattr(layer, "block"):
            h = layer.block(torch.cat([h, bridges.pop()], dim=1), emb)  # the last one pushed comes first
        else:
            h = layer(h)                                                # double height and width
    return F.pixel_shuffle(net.out(F.silu(net.norm(h))), net.patch)

net = woken(UNet(1, widths=(32, 64), num_classes=10))
x, t, y = torch.randn(3, 1, 28, 28), torch.rand(3), torch.tensor([3, 1, 4])
torch.testing.assert_close(my_forward(net, x, t, y), net(x, t, y))
print("the same")

# %%
rows = []
def note(name):
    return lambda module, inputs, output: rows.append((name, tuple(output.shape[1:]), cost.parameters(module)))
parts = {"time": net.time, "label": net.label, "stem": net.stem, **{f"down {k}": m for k, m in enumerate(net.down)}, **{f"middle {k}": m for k, m in enumerate(net.middle)},
         **{f"up {k}": m for k, m in enumerate(net.up)}, "out": net.out}
hooks = [module.register_forward_hook(note(name)) for name, module in parts.items()]
net(x, t, y)
for hook in hooks:
    hook.remove()
for name, shape, count in rows:
    print(f"{name:9} -> {str(shape):13} {count:8,} parameters")

# %% [markdown]
# ## 2.7 Conditions
#
# **How does a network learn what to draw?** There are three doors.
#
# *Added to the time.* A class is an entry of a table of vectors (`nn.Embedding`; `net.label(y)` in `my_forward`), added to the time's embedding; it reaches every block by (2.7). One more entry stands for "no class"; lesson 5 needs it.
#
# *Laid on top.* A condition that is itself an image (a mask, a sketch, a small version of the picture) is laid on top of the noisy image as further channels: `extra_channels`.
#
# *Looked at.* A condition with many parts, such as the words of a caption, is given as tokens, and each pixel asks all of them: *cross-attention*. The queries come from the pixels, keys and values from the words; nothing else differs from (2.9).

# %%
class MyCrossAttentionBlock(nn.Module):
    """x: (B, C, H, W), context: (B, L, context_dim) -> (B, C, H, W)"""

    def __init__(self, channels, context_dim, heads=2):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(channels // 16, channels)
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(context_dim, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x, context):
        B, C, H, W = x.shape
        split = lambda tokens: tokens.view(B, -1, self.heads, C // self.heads).transpose(1, 2)  # (B, heads, tokens, d)
        q = split(self.q(self.norm(x).flatten(2).transpose(1, 2)))              # a query from every pixel
        k, v = (split(part) for part in self.kv(context).chunk(2, dim=-1))      # a key and a value from every word
        h = my_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.proj(h).transpose(1, 2).view(B, C, H, W)

x7, words = torch.randn(2, 64, 7, 7), torch.randn(2, 5, 24)
mine, library = MyCrossAttentionBlock(64, 24), CrossAttentionBlock(64, 24)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x7, words), mine(x7, words))
print("CrossAttentionBlock agrees:", tuple(mine(x7, words).shape))

# %% [markdown]
# All three doors at once, in one U-Net. Which of them does the output notice?

# %%
net = woken(UNet(1, widths=(32, 64), num_classes=10, extra_channels=1, context_dim=24))
caption, sketch = torch.randn(3, 5, 24), torch.randn(3, 1, 28, 28)      # five words; an image
base = net(x, t, y, context=caption, extra=sketch)
for name, other in {"another class": net(x, t, (y + 1) % 10, context=caption, extra=sketch),
                    "another word": net(x, t, y, context=torch.cat([torch.randn(3, 1, 24), caption[:, 1:]], dim=1), extra=sketch),
                    "another sketch": net(x, t, y, context=caption, extra=-sketch),
                    "the words in another order": net(x, t, y, context=caption.flip(1), extra=sketch)}.items():
    print(f"{name:27} changes the output by {(other - base).abs().mean():.1e}")
alone = net(x[:1], t[:1], y[:1], context=caption[:1], extra=sketch[:1])
print(f"{'the other examples':27} change the output by {(alone - base[:1]).abs().mean():.1e}")

# %% [markdown]
# The last two lines are no mistake. Examples must not see each other, or a sample would depend on its neighbours in the batch. And cross-attention sees its tokens as a *set*; if order matters, as in "dog bites man", the tokens themselves must carry their places (a text encoder does that; lesson 5).
#
# **A bug hunt.** Splitting channels into heads is a reshape *and* a transpose. Here are two ways to do it, both of the right shape; the second is found in tutorials. Which is wrong, and how would you find out without being told?

# %%
def split_a(tokens, heads):
    B, L, C = tokens.shape
    return tokens.view(B, L, heads, C // heads).transpose(1, 2)         # (B, heads, L, d)

def split_b(tokens, heads):
    B, L, C = tokens.shape
    return tokens.reshape(B, heads, C // heads, L).transpose(2, 3)      # the same shape: (B, heads, L, d)

words, order = torch.randn(1, 6, 16), torch.tensor([3, 0, 5, 1, 4, 2])
for name, split in {"split_a": split_a, "split_b": split_b}.items():
    q = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    answer = lambda words: my_attention(q, split(words, 2), split(words, 2))
    print(f"{name}: shuffling the words changes the answer by {(answer(words[:, order]) - answer(words)).abs().max():.1e}")
split_heads = split_a                                                   # the right one

# %% [markdown]
# To attention, words are a set, so `split_b` is wrong. In memory the words lie one after the other. `split_b` cuts this row as if the channels did, so its "words" are mixtures of several. A *property that must hold* finds what shapes cannot.
#
# SD3 and Flux (Esser et al. 2024) go one step further: **joint attention**. Image and text tokens each have their own linear maps, but stand in one long list and all look at all, so that the text can change, too. It takes the place of a self-attention among the pixels *and* a cross-attention to the words; what does it cost beside these two?

# %%
def joint_attention(image, text, maps, heads=2):
    """image: (B, N, C), text: (B, L, C) -> the same shapes: every token looks at all N + L"""
    q, k, v = (torch.cat([split_heads(a, heads), split_heads(b, heads)], dim=2)                           # (B, heads, N + L, d)
               for a, b in zip(maps["image in"](image).chunk(3, -1), maps["text in"](text).chunk(3, -1)))
    joined = attention(q, k, v).transpose(1, 2).flatten(2)                                        # (B, N + L, C)
    return maps["image out"](joined[:, :image.shape[1]]), maps["text out"](joined[:, image.shape[1]:])

maps = {"image in": nn.Linear(64, 192), "text in": nn.Linear(64, 192), "image out": nn.Linear(64, 64), "text out": nn.Linear(64, 64)}
image, text = torch.randn(1, 49, 64), torch.randn(1, 12, 64)
pixels = image.transpose(1, 2).view(1, 64, 7, 7)
both = cost.multiply_adds(AttentionBlock(64), pixels) + cost.multiply_adds(CrossAttentionBlock(64, 64), pixels, text)
joint = cost.multiply_adds(lambda: joint_attention(image, text, maps))
print(f"multiply-adds: self- and cross-attention {both:,}, joint attention {joint:,}")
torch.testing.assert_close(joint_attention(image, text.flip(1), maps)[0], joint_attention(image, text, maps)[0])

# %% [markdown]
# ## 2.8 A transformer in place of the U
#
# The *diffusion transformer* (DiT; Peebles & Xie 2023) drops the U. The image is cut into patches, each patch becomes a token, and all layers have the same width. The condition enters by **adaLN-zero**: for each of a block's two halves $f$, attention and a small network applied to every token, the embedding chooses a scale, a shift, and a *gate* $g$ that starts at zero. Its norm is *layer* normalisation: each token by itself, over its $d$ numbers, as in (2.5) but without $\gamma$ and $\delta$:
#
# $$x \leftarrow x + g(e)\cdot f\big((1 + a(e))\operatorname{norm}(x) + b(e)\big) \tag{2.13}$$

# %%
class MyDiTBlock(nn.Module):
    """x: (B, N, dim), emb: (B, dim) -> (B, N, dim)"""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv, self.proj, self.emb = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, 6 * dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim))
        nn.init.zeros_(self.emb.weight), nn.init.zeros_(self.emb.bias)

    def forward(self, x, emb):
        b1, a1, g1, b2, a2, g2 = self.emb(emb)[:, None].chunk(6, dim=-1)                    # (B, 1, dim) each
        q, k, v = (split_heads(part, self.heads) for part in self.qkv((1 + a1) * self.norm(x) + b1).chunk(3, -1))
        x = x + g1 * self.proj(my_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + g2 * self.mlp((1 + a2) * self.norm(x) + b2)

x, emb = torch.randn(2, 49, 96), torch.randn(2, 96)
assert torch.equal(MyDiTBlock(96, 4)(x, emb), x), "a new block is the identity"
mine, library = woken(MyDiTBlock(96, 4)), DiTBlock(96, 4)
library.load_state_dict(mine.state_dict())
torch.testing.assert_close(library(x, emb), mine(x, emb))

# %% [markdown]
# Around the blocks there is little: cut the image into patches (`pixel_unshuffle` again) and make each a token; at the end a last norm, steered by $e$ like the others, and back from tokens to patches to pixels.

# %%
def my_dit(net, x, t, y):
    """What DiT.forward does.   x: (B, C, 28, 28) -> like x"""
    e = F.silu(net.time(t) + net.label(y))                                                  # (B, dim)
    tokens = F.pixel_unshuffle(x, net.patch).flatten(2).transpose(1, 2)                     # (B, 49, C * patch^2)
    h = net.stem(tokens) + net.positions                                                    # (B, 49, dim)
    for block in net.blocks:
        h = block(h, e)
    shift, scale = net.final(e)[:, None].chunk(2, dim=-1)
    patches = net.out((1 + scale) * net.norm(h) + shift).transpose(1, 2)                    # (B, C * patch^2, 49)
    return F.pixel_shuffle(patches.unflatten(2, (7, 7)), net.patch)

net = woken(DiT(1, 28, patch=4, dim=96, depth=2, heads=4, num_classes=10))
x28, t3, y3 = torch.randn(3, 1, 28, 28), torch.rand(3), torch.tensor([3, 1, 4])
torch.testing.assert_close(my_dit(net, x28, t3, y3), net(x28, t3, y3))
plots.show(positions_2d(7, 96).T.view(1, 96, 7, 7)[:, 0:96:6].transpose(0, 1), columns=8, width=5,
           title="Sixteen of the 96 waves that tell a token its place")

# %% [markdown]
# **What the figure shows.** A transformer does not know where a token is (section 2.4), so `net.positions` tells it: waves of the row (above) and of the column (below), four sines and then four cosines each, from fast to slow; the slow ones hardly move over seven places.
#
# **How should places be told?** Added waves are one way; a *learned* table is another; and most large models now *turn* queries and keys (*rotary* positions, Su et al. 2021). Take a pair of channels as a point in the plane, and turn it by an angle $\theta m$ at place $m$. If both points are turned by the same angle, their dot product stays the same. So it depends only on the difference of the places:
#
# $$\big(R_{\theta m}\,q\big)\cdot\big(R_{\theta n}\,k\big) = q\cdot R_{\theta (n-m)}\,k, \qquad R_\varphi = \begin{pmatrix}\cos\varphi & -\sin\varphi\\ \sin\varphi & \cos\varphi\end{pmatrix} \tag{2.14}$$
#
# A task that needs places: twelve tokens of random numbers in a row, and each is to say what its left neighbour holds. One layer of attention, 300 small steps:

# %%
def turned(x):
    """Rotary positions: pairs of channels turned by an angle that grows with the place.   x: (B, N, d) -> (B, N, d)"""
    angle = torch.arange(x.shape[1])[:, None] * 2.0 ** -torch.arange(x.shape[2] // 2)       # (N, d / 2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)

def error_of(table, turn=lambda x: x, tokens=12, dim=32):
    """The error of the left neighbour's content after 300 steps; 1 is what knowing nothing gets."""
    torch.manual_seed(0)
    stem, qkv, out = nn.Linear(8, dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, 8)
    learned = [p for part in (stem, qkv, out) for p in part.parameters()] + [table] * table.requires_grad
    optimizer = torch.optim.Adam(learned, lr=1e-2)
    for _ in range(300):
        x = torch.randn(32, tokens, 8)
        q, k, v = qkv(stem(x) + table).chunk(3, dim=-1)
        loss = (out(attention(turn(q), turn(k), v))[:, 1:] - x[:, :-1]).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return loss.item()

# %%
nothing = torch.zeros(12, 32)
for name, error in {"no positions": error_of(nothing), "added waves": error_of(TimeEmbedding(32)(torch.arange(12) / 1000)),
                    "a learned table": error_of(torch.zeros(12, 32, requires_grad=True)), "rotary": error_of(nothing, turned)}.items():
    print(f"{name:16} error {error:.1e}")

# %% [markdown]
# Without positions the best guess is the mean of the other tokens, with an error of $1 - 1/11 = 0.91$. All three ways solve the task; in these 300 steps the added waves come less close than the other two. They differ in what they can do beyond it: a learned table ends with its last entry, waves and turns go on. What positions are worth in a whole DiT, section 2.9 measures.
#
# **What does it cost?** A block with $N$ tokens of width $d$ needs $4Nd^2$ multiply-adds for attention's linear maps, $8Nd^2$ for the small network, which is four times as wide inside, and (2.11). (The map from the embedding adds $6d^2$ per image.)
#
# $$12\,N d^2 + 2\,N^2 d \tag{2.15}$$

# %%
counted = cost.multiply_adds(library, x[:1], emb[:1]) - 6 * 96**2       # without the map from the embedding
print(f"counted {counted:,}, formula {12 * 49 * 96**2 + 2 * 49**2 * 96:,}")
dit = DiT(1, 28, patch=4, dim=100, depth=5, heads=4, num_classes=10)
for name, net in {"U-Net": UNet(1, widths=(32, 64), num_classes=10), "DiT": dit}.items():
    adds = cost.multiply_adds(net, torch.zeros(1, 1, 28, 28), torch.zeros(1), 3)
    print(f"{name:6} {cost.parameters(net):9,} parameters, {adds / 1e6:.1f} million multiply-adds")

# %% [markdown]
# ## 2.9 Which parts matter? A measurement
#
# Everything above sounded reasonable. So do many things that are not so. The table below changes **one thing at a time**, as far as that can be done (two rows with another patch have other levels and widths as well), and trains each network on the same examples (class-conditional MNIST, 32,000 of its 60,000 images, once; two seeds, the same learning rates for all). (*No zeros, no way past the blocks* is to be compared with *no zero initialisation*, not with the base: with zeros and without a way past nothing would ever pass. And the DiT is another network altogether, with as many multiply-adds and 1.7 times the parameters.) *Validation loss* is the mean squared error on test digits; the *Fréchet distance* is that of lesson 1 (500 samples). Lower is better for both; *gap* is the distance between the two seeds. It was made by `python benchmarks/ablations.py`, which takes an hour or two, and its rows are in `course_lib/assets/ablations.csv`.

# %%
table = {}
for r in csv.DictReader((data.ASSETS / "ablations.csv").open()):
    table.setdefault(r["variant"], []).append(r)
mean = lambda name, column: sum(float(r[column]) for r in table[name]) / len(table[name])
gap = lambda name, column: max(float(r[column]) for r in table[name]) - min(float(r[column]) for r in table[name])
print(f"{'variant':34} parameters  million m-a  validation loss (gap)  Fréchet distance (gap)")
for name in sorted(table, key=lambda name: mean(name, "validation_loss")):
    print(f"{name:34} {mean(name, 'parameters'):10,.0f} {mean(name, 'multiply_adds') / 1e6:12.1f} "
          f"{mean(name, 'validation_loss'):12.4f}  ({gap(name, 'validation_loss'):.4f}) "
          f"{mean(name, 'frechet_distance'):16.2f}  ({gap(name, 'frechet_distance'):.2f})")

# %% [markdown]
# **What the table shows.** Read each row against *base* (or the row that its name refers to), with the gap between seeds beside it. Roughly from large to small:
#
# - **Bridges** matter most by far, as section 2.1 expected.
# - **The transformer** is far behind the base after 32,000 images, with the same learning rates. Part of it may be its patches of 4: the U-Net with such patches is no better, though it is also smaller. Part may be that a transformer knows nothing of neighbours beforehand; this table does not separate the two. Without *positions* it is much worse still.
# - **Fine pixels.** The best network of all works on the pixels as they are (*patch 1*), with narrow layers where the image is large: about as many parameters as the base, 1.4 times the multiply-adds (and one level more, which may help, too). Spending more than that on width (*48, 96*) or on blocks (*depth 2*) buys less. Coarse patches of 4 are far worse, at 0.6 times the multiply-adds.
# - **A way past the blocks** and **a start at zero** keep the samples good in so short a training.
# - **Normalisation** is worth 6 per cent of the loss, *SiLU* over ReLU 2; *dropout* hurts here: it guards against learning images by heart, and a network that sees each image at most once cannot do that.
# - **Time** matters less than one would think. Without any, the loss is only 4 per cent higher and the Fréchet distance a quarter; presumably the network can guess the noise level from the image. The bare number and a learned table come within one per cent of the waves; the waves *without the 1000*, which look all alike (section 2.2), get only a quarter of what time is worth, less than the bare number, although the linear test of section 2.2 put them before it: that test did not foretell what a network needs. Scale and shift beat adding.
# - **Attention** at 14 x 14 as well lowers the loss by 2 per cent, as much as SiLU does, for a quarter more work; the Fréchet distance shows no difference beyond the seeds.
# - **Null results.** *Attention* at 7 x 7, *QK normalisation* and the *transposed convolution* change the loss by no more than the seeds do, and the Fréchet distance hardly, whatever section 2.5 made one fear. (On larger and richer images attention does pay: Dhariwal & Nichol 2021, table 1.)
#
# What this table cannot show is which network is best after a long training, or with learning rates of its own.
#
# **One row again, live**, with about half the images (and a loss at 8 noise levels, not 16, so compare these two with each other only). In the library, `UNet.join` is the `torch.cat` of `my_forward`. To take the bridges away, it is enough to put zeros in their place; the number of parameters stays the same.

# %%
class NoBridges(UNet):
    @staticmethod
    def join(h, bridge):
        return torch.cat([h, torch.zeros_like(bridge)], dim=1)

@torch.no_grad()
def validation_loss(D, n=1000, levels=8):
    """On test digits, at fixed noise levels with fixed noise."""
    x, y = (part[:n].to(machine.device()) for part in data.mnist("test"))
    g, losses = torch.Generator().manual_seed(0), []
    for t in (torch.arange(levels) + 0.5) / levels:
        eps = torch.randn(x.shape, generator=g).to(x.device)
        losses.append(D.loss(x, t.expand(n), eps, y=y).mean())
    return torch.stack(losses).mean().item()

live = {}
for name, kind in {"base": UNet, "no bridges": NoBridges}.items():
    torch.manual_seed(0)
    D = Denoiser(kind(1, widths=(32, 64), num_classes=10), schedule, target="v")
    live[name] = train.train(D, (digits, labels), steps=120, out=f"02_{name.replace(' ', '_')}")
    print(f"{name}: validation loss {validation_loss(live[name]):.4f}")

# %% [markdown]
# ## 2.10 Looking inside
#
# **What do the parts of a trained network do?** Take the base network that you have just trained, show it a noisy 2 (and tell it so), and look at some of its features, and at where a pixel looks in the attention at 7 x 7.

# %%
net = live["base"].net.cpu()
noisy = schedule.perturb(digits[5:6], 0.5, torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(1)))
seen = {}
hooks = [m.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.detach()}))
         for name, m in {"first level": net.down[0], "bottom": net.middle[1], "last level": net.up[-1]}.items()]
hooks.append(net.middle[0].attend.register_forward_hook(lambda m, i, o: seen.update(input=i[0].detach())))
with torch.no_grad():
    out = net(noisy, torch.tensor([0.5]), 2)
for hook in hooks:
    hook.remove()
stretch = lambda f: 2 * (f - f.amin((1, 2), True)) / (f.amax((1, 2), True) - f.amin((1, 2), True) + 1e-6) - 1
rows = {name: F.interpolate(stretch(seen[name][0, :12])[:, None], size=28) for name in ("first level", "bottom", "last level")}
guess = live["base"].cpu()(noisy, 0.5, y=torch.tensor([2])).detach()
plots.show({"noisy": noisy.clamp(-1, 1), "guess": guess.clamp(-1, 1)}, columns=1, width=2.4, title="A noisy 2, and the guess")
plots.show(rows, columns=12, title="Twelve of its features on three levels")

# %%
attend = net.middle[0].attend
tokens = attend.norm(seen["input"]).flatten(2).transpose(1, 2)                               # (1, 49, C)
q, k, v = (split_heads(part, attend.heads) for part in attend.qkv(tokens).chunk(3, -1))
weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).detach()             # (1, heads, 49, 49)
with torch.no_grad():
    again = seen["input"] + attend.proj((weight @ v).transpose(1, 2).flatten(2)).transpose(1, 2).view_as(seen["input"])
    torch.testing.assert_close(again, attend(seen["input"]))                                 # these are the weights it uses
places = (8, 10, 24, 38, 40)                                                                 # of the 49
looks = 2 * weight[0, :, places].reshape(attend.heads, len(places), 1, 7, 7) / weight[0, :, places].max() - 1     # one scale for all
who = torch.eye(49)[list(places)].view(-1, 1, 7, 7) * 2 - 1
plots.show({"who asks": who} | {f"head {h}": looks[h] for h in range(attend.heads)}, columns=len(places), width=4.5,
           title="Where five places of the 7 x 7 look (bright: much)")
print(f"entropy of the weights, mean over all places: {[round(e, 2) for e in (-(weight * weight.log()).sum(-1)).mean((0, 2)).tolist()]} "
      f"nats a head; looking everywhere alike would be {math.log(49):.2f}")

# %% [markdown]
# **What the figures show.** The first level's features are the noisy image, filtered in several ways, the 2 shining through in some; at the bottom each pixel stands for a 4 x 4 patch and the features are coarse; on the last level two or three of the twelve show strokes, and the others still look like noise. After so short a training attention looks nearly everywhere alike, as the entropies say, and the table has said already that little depends on it here. In lesson 5, with captions, the maps will have something to tell.
#
# ## What we built
#
# The U-Net from its parts, each asserted equal to the library's; a transformer from its parts; conditions through three doors; three tests that find what shapes cannot; and a table that says which parts earn their keep.
#
# **Three things to remember.** (1) A denoiser needs fine detail and a wide view: go down, come up, and build bridges. (2) Test properties, not only shapes: attention does not know order, examples do not see each other, a new block is the identity. (3) An architecture is an opinion until it is measured, one change at a time, with the noise between seeds beside it.
#
# | formula | source |
# | --- | --- |
# | U-Net | Ronneberger et al. 2015; as a denoiser Ho et al. 2020 |
# | (2.3) | Vaswani et al. 2017, *Attention Is All You Need*, section 3.5; this spacing and order as in the code of Ho et al. 2020 |
# | (2.5) | Wu & He 2018, *Group Normalization* |
# | (2.6), (2.7) | Elfwing et al. 2017; Perez et al. 2018, *FiLM*; Dhariwal & Nichol 2021 |
# | (2.8) | Karras et al. 2024, *Analyzing and Improving the Training Dynamics of Diffusion Models*, eq. 88 |
# | (2.9), (2.10) | Vaswani et al. 2017, section 3.2; cross-attention in a U-Net: Rombach et al. 2022; joint attention: Esser et al. 2024 |
# | (2.12) | Zhang & Sennrich 2019; Henry et al. 2020 |
# | (2.13) | Peebles & Xie 2023, *Scalable Diffusion Models with Transformers*; start at zero: Goyal et al. 2017 |
# | (2.14) | Su et al. 2021, *RoFormer* |
# | checkerboards | Odena, Dumoulin & Olah 2016 |
#
# **Next:** lesson 3 trains these networks well, and finds out whether they are good.
