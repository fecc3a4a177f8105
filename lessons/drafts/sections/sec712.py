# %% [markdown]
# ## 7.12 Afterwards
#
# Stable Diffusion 1.5 is of 2022. What came after it, in the terms of this course:
#
# - **More conditions.** SDXL (Podell et al. 2023): a U-Net of 2.6 billion parameters, two text encoders; the picture's original size and crop are conditions, so small training pictures need not be thrown away.
# - **Transformers and flows.** Stable Diffusion 3 (Esser et al. 2024) and Flux (Black Forest Labs 2024) build on MM-DiT (section 6.5) and the flow schedule, with 16 latent channels and a time shift (6.7).
# - **Language models as text encoders.** Imagen's authors measured that a larger T5, trained on text alone, helps more than a larger U-Net (Saharia et al. 2022). SD3 and Flux read T5 beside CLIP, Qwen-Image (2025) a vision-language model.
# - **Fewer evaluations.** One a step by guidance distillation (Meng et al. 2023; Flux [dev]). Few steps by consistency (lesson 4) on latents (Luo et al. 2023), or by adversarial distillation, where a critic judges samples of one to four steps (Sauer et al. 2024, SDXL Turbo).
# - **Editing in context.** The given picture's tokens stand beside the noisy ones; no mask, no inversion (Flux Kontext, Black Forest Labs 2025).
# - **Hybrids.** One transformer predicts text token by token and denoises patches of pictures; measured against image tokens, it needs less than a third of the training (Zhou et al. 2024, Transfusion).
# - **An end that is noise.** With $\alpha_1 = 0.068$ Stable Diffusion draws medium brightness; a schedule with zero terminal SNR repairs it (Lin et al. 2023; section 3.6).
#
# These models change data, size and method at once: comparing two of them measures no single change.
#
# ## 7.13 Guidance in one pass · deeper
#
# Guidance costs two evaluations a step. **Guidance distillation** (Meng et al. 2023, first stage) trains a student that is told the scale $w$ (theirs is ours less one):
#
# $$D_{\text{student}}(x, t, c, w) \approx D(x, t, \varnothing) + w\,\big[D(x, t, c) - D(x, t, \varnothing)\big] \tag{7.23}$$
#
# The right side is a function of what the student is given. Nothing is averaged, so the smallest loss is 0. The price: $\varnothing$ is built in, so a negative prompt has no place. (`true_cfg_scale` of diffusers' Flux pipeline gives it one, for a second evaluation.)
#
# **On which points shall they agree?** Meng et al. take noised data. But guided paths leave the data (section 5.4), so Jensen and Sadat (2025) take points of guided paths. We compare both where the teacher is exact: the plane of section 5.4, and its left class.

# %%
from torch import nn

from course_lib import Denoiser

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
# Six students are trained at once, three seeds on either kind of points, all with the same times and scales. They predict $v$.

# %%
class Students(nn.Module):
    """x (6 B, 2), t and w (6 B,) -> v, by six small networks, B points each."""

    def __init__(self, hidden=64):
        super().__init__()
        sizes = (7, hidden, hidden, hidden, 2)
        pairs = list(zip(sizes, sizes[1:]))
        self.weights = nn.ParameterList(torch.randn(6, a, b) / a**0.5 for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(6, 1, b) for _, b in pairs)

    def forward(self, x, t, w):
        angles = t[:, None] * torch.tensor([1.0, 3.0])
        h = torch.cat([x, w[:, None].log2() / 3, angles.sin(), angles.cos()], 1).float()
        h = torch.baddbmm(self.biases[0], h.view(6, -1, 7), self.weights[0])
        for W, b in zip(self.weights[1:], self.biases[1:]):
            h = torch.baddbmm(b, F.silu(h), W)
        return h.flatten(0, 1)

torch.manual_seed(0)
net, updates = Students(), 1200
optimizer, kind = torch.optim.AdamW(net.parameters()), torch.tensor([0, 1] * 3)[:, None]
for k in range(updates):
    optimizer.param_groups[0]["lr"] = 0.01 * (1 - k / updates)
    i = torch.randint(33 * n, (6, 128))
    v = net(points[kind, i].flatten(0, 1), t[i.flatten()], w[i.flatten()])
    loss = 6 * (v - wanted[kind, i].flatten(0, 1)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% [markdown]
# **One evaluation against two.** How far do samples end from those of the teacher's 200 steps, from the same 1,000 noises?

# %%
student, start = Denoiser(net, cosine, "v"), torch.randn(1000, 2, generator=seeded(9))
grid = lambda n: timesteps(cosine, n, start=0.999)
rms = lambda a, b: (a - b).square().sum(-1).mean(-1).sqrt()
rows = {}
for scale in (1.0, 2.0, 4.0, 8.0):
    ends = {n: last(ddim(teacher(scale), cosine, start, grid(n), y=1)) for n in (10, 20, 200)}
    with torch.no_grad():
        told = torch.full((6000,), scale)
        x = last(ddim(student, cosine, start.repeat(6, 1), grid(20), w=told)).view(6, 1000, 2)
    row = {f"teacher, {2 * n}": f"{rms(ends[n], ends[200]):.3f}" for n in (20, 10)}
    for k, name in enumerate(("noised data", "guided paths")):
        off = rms(x[k::2], ends[200])
        row[f"students of {name}, 20"] = ", ".join(f"{value:.3f}" for value in off)
    rows[f"w = {scale:g}"] = row
tables.table(rows, index="evaluations:",
             caption="Distance to the teacher's 200 steps (root mean square); students: 3 seeds")

# %% [markdown]
# **What the table shows.** «...»
#
# ## 7.14 The time shift, and the schedule's end · deeper
#
# Section 6.3 shifted the time so that large pictures are destroyed as much as small ones. Why by this formula? Let a large picture have each pixel of a small one $s^2$ times. Their mean is $(1-t)\,x_0 + t\,\bar\epsilon$ with $\operatorname{Var}\bar\epsilon = 1/s^2$. So the log SNR after averaging is $2\log s$ higher. To take that away, ask for the time $t'$ whose mean is as noisy as one pixel at $t$:
#
# $$\frac{s\,(1-t')}{t'} = \frac{1-t}{t} \quad\Longleftrightarrow\quad t' = \frac{s\,t}{1+(s-1)\,t}, \qquad \log\mathrm{SNR}(t') = \log\mathrm{SNR}(t) - 2\log s \tag{7.24}$$
#
# SD3 takes $s = 3$ at 1,024 pixels, chosen by people who compared pictures, not derived (Esser et al. 2024). Flux computes $s$ from the number of tokens.

# %%
import math

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
# **What the figure shows.** «...»
#
# **The end.** The flow ends in pure noise, `scaled_linear` does not. Lin et al. shift and stretch $\sqrt{\bar\alpha}$, so that the last is 0 and the first stays:
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
    return {"largest log SNR left": schedule.log_snr(1.0), "rho": rho, "mean": b.mean(),
            "by (7.26)": m * (1 - rho), "deviation": b.std(),
            "by (7.26) ": s * (1 - rho**2).sqrt()}

rows = {f"{name}, d = {d:,}": brightness(schedule, d)
        for name, schedule in ends.items() for d in (64, 4096)}
tables.table(rows, ".3f", caption="10,000 exact samples; the data have mean -0.8, deviation 0.3")

# %% [markdown]
# **What the table shows.** «...»
#
# ## 7.15 SD3's and Flux's layout · deeper
#
# SD3's blocks are lesson 6's `JointBlock`, to the last digit. Below, a tiny random SD3 of diffusers is given to `sd3.from_published`, in float64, with each norm and bias random, too.

# %%
from course_lib.networks.stable_diffusion import sd3

config = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
              attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
              caption_projection_dim=32, pooled_projection_dim=20, pos_embed_max_size=12)
try:
    from diffusers import SD3Transformer2DModel
except ImportError:
    print("diffusers is missing, so nothing is compared: pip install diffusers")
else:
    theirs, g = SD3Transformer2DModel(**config).double(), seeded(0)
    for p in theirs.parameters():
        scale = 0.3 if p.ndim == 1 else p[0].numel() ** -0.5
        p.data = scale * torch.randn(p.shape, generator=g, dtype=torch.float64)
    tensors = theirs.state_dict()
    net = sd3.from_published(config, tensors)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    rows = [{"ours": ours, "shape": str(shapes[ours]), "published": " + ".join(parts),
             "shape ": str(tuple(tensors[parts[0]].shape))}
            for ours, parts in sd3.names_of(net).items()
            if ours.endswith("weight") and not ours.startswith(("blocks.0", "blocks.1"))]
    tables.table(rows, caption="The ends, and the last block")
    x, t = torch.randn(2, 4, 8, 8, generator=g).double(), torch.tensor([0.2, 1.0]).double()
    context, pooled = (torch.randn(2, *k, generator=g).double() for k in ((5, 24), (20,)))
    with torch.no_grad():
        wanted = theirs(x, context, pooled, 1000 * t).sample
        off = (net(x, t, context, pooled) - wanted).abs().max() / wanted.std()
    print(f"{len(tensors)} tensors; (7.10) of the output: {off:.1e}")

# %% [markdown]
# **What had to be turned.** «...»
