# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 6 · Exercises, second half
#
# (Joins 06_advanced_techniques_exercises.py: five questions, 19 points, about two hours and ten minutes. Its own header, set-up and summary cells go; the imports below are added to the first half's. All five need part III.)

# %% tags=["setup"]
{{setup}}

# %%
import math

import torch
import torch.nn.functional as F
from torch import nn

from course_lib import Schedule, last
from course_lib.checks import check, hint
from course_lib.discrete import MaskedDiffusion, mask_tokens, masked_nll, unmask
from course_lib.lab import tables, train, word_vectors
from course_lib.lab.data.sudoku import every_sudoku, is_sudoku
from course_lib.networks.tokens import TokenTransformer
from course_lib.samplers import step

# %%
torch.manual_seed(0)
torch.set_num_threads(1)
flow = Schedule.flow()
seeded = lambda k: torch.Generator().manual_seed(k)

# %% [markdown]
# ## 6.8 The sampler of masked diffusion, from blank (4 points, 25 minutes)
#
# Write one step of the reverse process of section 6.16, from the time $t$ to $s < t$. The denoiser `D(x, t)` takes texts (B, L) and a time for each, (B,). It returns logits (B, L, V) of the clean tokens. The mask `mask_id` is one of the V tokens, and has a logit that means nothing. Each masked token is revealed or not, independently of the others, with the probability that follows from (6.38). A revealed token is drawn from what the denoiser predicts for its place. Known tokens stay. `x` must stay as it is. Draw everything from `generator`, in float64 (the next question shows why).

# %% tags=["answer:6.8"]
def unmask_step(D, x, t, s, mask_id, generator):
    """x: (B, L) token ids at time t; t, s: numbers, s < t -> x at time s, (B, L)"""
    ### BEGIN SOLUTION
    logits = D(x, torch.full((len(x),), t)).double().clone()            # (B, L, V)
    logits[..., mask_id] = -torch.inf
    u = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    drawn = (logits - (-u.log()).log()).argmax(-1)                      # Gumbel's trick
    v = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return torch.where((x == mask_id) & (v < (t - s) / t), drawn, x)
    ### END SOLUTION

# %% tags=["check:6.8"]
check("6.8", unmask_step)
### BEGIN HIDDEN TESTS
assert check.passed("6.8")
### END HIDDEN TESTS

# %% [markdown]
# What do other probabilities do? Take all 288 solved Sudokus of 4 x 4 for a language, with its *perfect* denoiser. It lists the grids that fit what is known, and answers with the frequency of each number at each place.

# %%
grids = every_sudoku()                                      # (288, 16), numbers 0 to 3
MASK = 4
hot = F.one_hot(grids, 5).double().flatten(1)               # (288, 16 * 5)

def perfect(x, t):
    """log p of each number at each place, all 288 grids being equally likely: (B, 16, 5)"""
    known = F.one_hot(x, 5) * (x != MASK)[..., None]
    fits = known.double().flatten(1) @ hot.T == (x != MASK).sum(1, keepdim=True)
    p = fits.double() @ hot / fits.sum(1, keepdim=True).clamp(min=1)    # (B, 16 * 5)
    return p.clamp(min=1e-9).log().view(*x.shape, 5)

# %% [markdown] tags=["solution"]
# **Solution.** By (6.38) a masked token was already masked at $s$ with probability $s/t$. So it is revealed with probability $(t-s)/t$. Below, 16 steps with this probability and with three others that are easily written. A step of your function from 1 to $1-r$ reveals with probability $r$, and this denoiser does not look at the time.

# %% tags=["solution"]
rates = {"(t - s) / t": lambda t, s: (t - s) / t, "t - s": lambda t, s: t - s,
         "(t - s) / (1 - s)": lambda t, s: (t - s) / (1 - s), "s / t": lambda t, s: s / t}

def walk(rate, n):
    """The masks that are left on the way through n steps, and the share of solved grids"""
    x, g, row = torch.full((1000, 16), MASK), seeded(0), {}
    for k in range(n, 0, -1):
        t, s = k / n, (k - 1) / n
        x = unmask_step(perfect, x, 1.0, 1 - rate(t, s), MASK, g)
        if s in (0.75, 0.5, 0.25, 0.0):
            row[f"masked at {s:g}"] = (x == MASK).double().mean()
    return row | {"solved": is_sudoku(x, 2, 2).double().mean()}

rows = {name: walk(rate, 16) for name, rate in rates.items()}
rows["(t - s) / t, 64 steps"] = walk(rates["(t - s) / t"], 64)
tables.table(rows, ".1%", index="revealed with", caption="1,000 grids, 16 steps")

# %% [markdown] tags=["solution"]
# **What the table shows.** Only the right probability leaves a share $s$ of the tokens masked at $s$. With $t-s$, 36 % stay masked to the end, $(15/16)^{16}$. The other two reveal nearly everything in the first step: from $t=1$, $(t-s)/(1-s)$ is 1 and $s/t$ is $15/16$. Then no mask is left, every place has a number, and none of 1,000 grids is solved, with a perfect denoiser: tokens that are revealed together are drawn independently (section 6.17). This is the mistake to fear, since single tokens look right. For the same reason the right probability solves 64 % in 16 steps and 88 % in 64: the fewer steps, the more often two tokens share one.

# %% [markdown]
# ## 6.9 Bug hunt: a bound and its noise (5 points, 30 minutes)
#
# Two functions that were put together in a hurry, with bugs that such code has had elsewhere. The first is to estimate the bound (6.40), in nats *per token*: one time $t$ and one mask for each text. The second draws a token for each place by **Gumbel's trick**: if $u_i$ are independent and uniform in $(0, 1)$, the largest of the numbers $\log p_i - \log(-\log u_i)$ is number $i$ with probability $p_i$.

# %%
def copied_bound(D, x0, mask_id, generator):
    """D: (x, t) -> logits (B, L, V); x0: (B, L) -> the bound in nats per token, (B,)"""
    t = 1 - torch.rand(len(x0), generator=generator)                    # in (0, 1]
    masked = torch.rand(x0.shape, generator=generator) < t[:, None]     # (B, L)
    logits = D(torch.where(masked, mask_id, x0), t)
    nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")  # (B, L)
    return nll.mean(1)

def copied_draw(log_p, generator):
    """log_p: (..., V) -> a token for each place, (...)"""
    u = torch.rand(log_p.shape, generator=generator, dtype=torch.bfloat16)
    return (log_p - (-u.log()).log()).argmax(-1)

# %% [markdown]
# Two experiments. First the bound of the perfect denoiser of the Sudokus. By (6.42) it is the entropy of the language, $\log 288$ nats for 16 tokens. A network has logits for the mask, too, and at known places it says whatever it likes, since nobody trained it there. So has this one. Then the draw: from 254 words of equal probability, and from a thousand words with the probabilities of **Zipf's law**, $p_i\propto 1/i$.

# %%
def careless(x, t):
    """The perfect denoiser at masked places, as a network would have it elsewhere"""
    logits = perfect(x, t).where((x == MASK)[..., None], 0.0)
    logits[..., MASK] = -1.0
    return logits

def bound_of(function, n=20_000):
    x0 = grids[torch.randint(288, (n,), generator=seeded(1))]
    nats = function(careless, x0, MASK, seeded(0))
    return {"nats per token": nats.mean(), "standard error": nats.std() / n**0.5}

entropy = {"nats per token": math.log(288) / 16, "standard error": 0.0}
tables.table({"the entropy": entropy, "copied": bound_of(copied_bound)}, ".3f",
             caption="The bound of a perfect denoiser, 20,000 texts")

# %%
equal = torch.full((254,), 1 / 254)
zipf = 1 / torch.arange(1, 1001)
zipf = zipf / zipf.sum()

def shares_of(draw, n=10_000):
    first = draw(equal.log().expand(n, -1), seeded(0)) < 127
    rare = draw(zipf.log().expand(n, -1), seeded(1)) >= 500
    return {"first half of 254 equal words": first.double().mean(),
            "rarest half of 1,000": rare.double().mean()}

exact = {"first half of 254 equal words": 0.5, "rarest half of 1,000": zipf[500:].sum()}
tables.table({"exact": exact, "copied": shares_of(copied_draw)}, ".2%",
             caption="10,000 draws each")

# %% [markdown]
# There are four bugs, three in the first function and one in the second. Write both as they should be. `masked_bound` returns one estimate for each text; it masks each token with probability $t$, where $t$ is uniform in $(0, 1]$.

# %% tags=["answer:6.9"]
def masked_bound(D, x0, mask_id, generator):
    """D: (x, t) -> logits (B, L, V); x0: (B, L) -> the bound in nats per token, (B,)"""
    ### BEGIN SOLUTION
    t = 1 - torch.rand(len(x0), generator=generator)
    masked = torch.rand(x0.shape, generator=generator) < t[:, None]
    logits = D(torch.where(masked, mask_id, x0), t).clone()
    logits[..., mask_id] = -torch.inf
    nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
    return torch.where(masked, nll, 0).sum(1) / t / x0.shape[1]
    ### END SOLUTION

def draw_tokens(log_p, generator):
    """log_p: (..., V) -> a token for each place, (...)"""
    ### BEGIN SOLUTION
    u = torch.rand(log_p.shape, generator=generator, dtype=torch.float64)
    return (log_p - (-u.log()).log()).argmax(-1)
    ### END SOLUTION

# %% tags=["check:6.9"]
check("6.9", (masked_bound, draw_tokens))
### BEGIN HIDDEN TESTS
assert check.passed("6.9")
### END HIDDEN TESTS

# %% tags=["solution"]
def variant(weight=True, masked_only=True, words_only=True, per_mask=False):
    """The bound with some of its parts"""
    def function(D, x0, mask_id, generator):
        t = 1 - torch.rand(len(x0), generator=generator)
        masked = torch.rand(x0.shape, generator=generator) < t[:, None]
        logits = D(torch.where(masked, mask_id, x0), t)
        logits[..., mask_id] += -torch.inf if words_only else 0.0
        nll = F.cross_entropy(logits.transpose(1, 2), x0, reduction="none")
        nll = torch.where(masked, nll, 0) if masked_only else nll
        count = masked.sum(1).clamp(min=1) if per_mask else x0.shape[1]
        return nll.sum(1) / count / (t if weight else 1)
    return function

variants = {"repaired": masked_bound, "only the weight is missing": variant(weight=False),
            "only known places are counted, too": variant(masked_only=False),
            "only the mask is in the softmax": variant(words_only=False),
            "mean over the masks, no weight": variant(weight=False, per_mask=True)}
rows = {"the entropy": entropy} | {name: bound_of(f) for name, f in variants.items()}
tables.table(rows, ".3f", caption="The bound of a perfect denoiser, 20,000 texts")
tables.table({"exact": exact, "repaired": shares_of(draw_tokens)}, ".2%",
             caption="10,000 draws each")

# %% [markdown] tags=["solution"]
# **Solution.** In the bound, (1) the mean runs over all places, but (6.40) is a sum over the masked ones, divided by $L$ for nats per token. Nobody trained what the network says elsewhere. (2) The weight $1/t$ is missing. (3) The mask is in the softmax, and takes probability that belongs to words. The table has each of them alone. Without the weight the number lies *below* the entropy, where no bound can be on average. With known places and the weight $1/t$ the mean does not even exist: $\int dt/t$ diverges at 0, and the standard error is large. The mask's logit costs 0.31 nats. Together they give 1.18, which could pass for the bound of a poor network: only a denoiser whose entropy is known betrays it.
#
# The last row is a line that is often seen, the mean over the masks of a text without any weight. It is nearly right. By (6.41) each number $k$ of masks has the same weight in the bound, and with $t$ uniform each $k$ from 0 to $L$ is equally likely. So the mean over the masks is $\frac L{L+1}$ of the bound per token on average, here 0.333: as a loss it is as good, but no bound. Divided by the masks of a whole batch, it is neither.
#
# In the draw, $u$ has 256 values in bfloat16. Of 254 equal words often two have the same $u$, and the first of them wins: 62 % for the first half. And $-\log(-\log u)$ is at most 5.5, so a word whose $\log p$ lies further below the winner's value is never drawn: of the rarest 500 words not one in 10,000 draws.
#
# **How much is lost?** A word of probability $q$ has to beat all others. The largest of *their* values is again a Gumbel variable, with $\log(1-q)$ added. So given its $u$ the word wins with probability $\exp\big(-\frac{1-q}q\cdot(-\log u)\big) = u^{(1-q)/q}$, and for exact $u$ that makes $\int_0^1u^{(1-q)/q}du = q$, as it should. If $u$ is a multiple of $\delta$ below 1, the integral becomes a sum, $\delta\sum_k(k\delta)^{(1-q)/q}$. For small $q$ its terms, from the last one on, are $\delta e^{-\delta/q}, \delta e^{-2\delta/q},\dots$, so what is left of $q$ is
#
# $$\frac{P(\text{drawn})}q \approx \frac{x}{e^x-1}, \qquad x = \frac\delta q$$
#
# with $\delta = 2^{-8}$ for bfloat16, $2^{-11}$ for float16, $2^{-24}$ for float32 and $2^{-53}$ for float64. First it is measured. Then 50,000 words of Zipf's law are drawn, once directly, and once as samplers in public code do it: the mask is one of the candidates, with probability $s/t$, and a word has $\frac{t-s}t\,p_i$. Its loss in float32 is computed by the formula. To measure it would take billions of draws.

# %% tags=["solution"]
def share_drawn(q, dtype, n=1_000_000):
    """How often a word of probability q is drawn, against four others, over q"""
    log_p = torch.tensor([q] + [(1 - q) / 4] * 4).log()
    u = torch.rand(n, 5, generator=seeded(0), dtype=dtype)
    return ((log_p - (-u.log()).log()).argmax(-1) == 0).double().mean() / q

def kept(q, step):
    """The same, by the formula, where u is a multiple of the step"""
    return (step / q) / torch.expm1(step / q)

rows = {}
for q in (0.1, 0.01, 0.003, 0.001):
    rows[f"q = {q}"] = {
        "bfloat16": share_drawn(q, torch.bfloat16), "formula": kept(torch.tensor(q), 2**-8),
        "float16": share_drawn(q, torch.float16), "formula ": kept(torch.tensor(q), 2**-11),
        "float64": share_drawn(q, torch.float64)}
tables.table(rows, ".2f", index="", caption="Frequency over q, a million draws")

# %% tags=["solution"]
words = 1 / torch.arange(1, 50_001).double()
words = words / words.sum()
ends = [0, 100, 1000, 10_000, 50_000]

def by_rank(p):
    return {f"{a + 1:,} to {b:,}": p[a:b].sum() for a, b in zip(ends, ends[1:])}

def drawn_words(dtype, n):
    """Frequencies of n draws from the 50,000 words"""
    counts, g = torch.zeros(50_000), seeded(0)
    for _ in range(n // 100):
        u = torch.rand(100, 50_000, generator=g, dtype=dtype)
        drawn = (words.log() - (-u.log()).log()).argmax(-1)
        counts += torch.bincount(drawn, minlength=50_000)
    return counts / n

def walked_words(N, step):
    """The same for N steps in which the mask competes, by the formula"""
    found, masked = torch.zeros_like(words), 1.0
    for k in range(N, 0, -1):                               # from t = k / N to (k - 1) / N
        drawn = words / k * kept(words / k, step)
        drawn = drawn / drawn.sum() if k == 1 else drawn    # no mask in the last step
        found, masked = found + masked * drawn, masked * (1 - drawn.sum())
    return found

# %% tags=["solution"]
rows = {"exact": by_rank(words)}
rows |= {"bfloat16, 500 draws": by_rank(drawn_words(torch.bfloat16, 500)),
         "float32, 2,500 draws": by_rank(drawn_words(torch.float32, 2500)),
         "float32, one draw, computed": by_rank(walked_words(1, 2**-24)),
         "float32, 100 steps, computed": by_rank(walked_words(100, 2**-24)),
         "float32, 1,000 steps, computed": by_rank(walked_words(1000, 2**-24)),
         "float64, 1,000 steps, computed": by_rank(walked_words(1000, 2**-53))}
tables.table(rows, ".1%", index="ranks", caption="Share of the text, 50,000 words")

# %% [markdown] tags=["solution"]
# **What the tables show.** The formula is within 0.03 of what was measured. In bfloat16 a direct draw loses nearly all words beyond the hundredth. In float32 it does no harm: the shares of 2,500 draws are within about two standard errors (at most one point each), and computed they differ by 0.1 points. But where the mask competes in each of 1,000 steps, most steps give a word less than a hundredth of its probability, and for rare words that is too little for 24 bits: the rarest 40,000 words fall from 14.1 % of the text to 2.7 %, and the hundred most frequent rise from 46 to 58 %. More steps make it worse. Zheng et al. (2024, *Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate categorical sampling*) found this in published samplers. They show that it lowers the effective temperature, and that scores which do not see the lost variety were flattered by it. float64 repairs it. To decide first *whether* a token is revealed, as in 6.8, avoids most of it: that is the row "one draw". The figures' captions hide it: a word of probability 1/254 loses less than 1 % in every step.

# %% [markdown]
# ## 6.10 Frames and space (4 points, 25 minutes)
#
# Two functions for clips (B, F, C, H, W). The first applies a layer to the frames of each place. `attend` takes sequences (N, F, C), such as an attention layer does, and returns (N, F, C). This version was copied, and every shape is right:

# %%
def copied_over_frames(attend, x):
    """attend: (N, F, C) -> (N, F, C), along the frames; x: (B, F, C, H, W) -> like x"""
    B, frames, C, H, W = x.shape
    return attend(x.reshape(B * H * W, frames, C)).reshape(x.shape)

mean = lambda h: h.mean(1, keepdim=True).expand_as(h)       # of all frames, for each
numbered = torch.arange(5.0)[None, :, None, None, None].expand(2, 5, 3, 4, 6)
per_frame = lambda x: dict(enumerate(x.mean((0, 2, 3, 4)).tolist()))
rows = {"before": per_frame(numbered), "wanted: the mean of all": per_frame(mean(numbered)),
        "copied": per_frame(copied_over_frames(mean, numbered)),
        "copied, a layer that changes nothing": per_frame(
            copied_over_frames(lambda h: h, numbered))}
tables.table(rows, ".2f", index="frame", caption="Frame k has the value k everywhere")

# %% [markdown]
# Repair it. The second function you write from blank: one step of DDIM, from the level $t$ to $s < t$, for new frames that follow *known* ones (section 6.19). The known frames are clean, and the denoiser has to be told so: `D(clip, times)` takes a time for each frame, (B, F). The known frames come first. `samplers.step(schedule, x, x0_hat, t, s)` is there.

# %% tags=["answer:6.10"]
def over_frames(attend, x):
    """attend: (N, F, C) -> (N, F, C), along the frames; x: (B, F, C, H, W) -> like x"""
    ### BEGIN SOLUTION
    h = x.permute(0, 3, 4, 1, 2)                            # (B, H, W, F, C)
    out = attend(h.flatten(0, 2))                           # (B H W, F, C)
    return out.reshape(h.shape).permute(0, 3, 4, 1, 2)      # the same permute leads back
    ### END SOLUTION

def next_frames(D, schedule, known, x, t, s):
    """known: (B, K, ...), clean; x: (B, n, ...) at level t; t, s: numbers

    D: (clip (B, K + n, ...), times (B, K + n)) -> x0_hat of the clip -> x at level s
    """
    ### BEGIN SOLUTION
    B, K, n = len(x), known.shape[1], x.shape[1]
    times = torch.cat([torch.zeros(B, K), torch.full((B, n), t)], 1).double()
    x0_hat = D(torch.cat([known, x], 1), times)[:, K:]
    return step(schedule, x, x0_hat, t, s)
    ### END SOLUTION

# %% tags=["check:6.10"]
check("6.10", (over_frames, next_frames))
### BEGIN HIDDEN TESTS
assert check.passed("6.10")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** A reshape reads the numbers in the order in which they lie in memory, and there the last dimension runs fastest. So the copied version cuts each clip into pieces of $F\cdot C$ neighbouring pixels of *one* frame, and mixes those. Neither a shape nor a layer that changes nothing reveals it.
#
# **And the times?** Here are clips of one pixel, whose frames are a Gaussian process with correlation 0.9 from frame to frame. Its exact denoiser is linear, for any times. Two frames are known, two follow, in 20 steps. Beside your function two mistakes: the clean frames are passed with the time $t$, as a network without times for each frame would have it; and the known frames get noise of level $t$, new in each step, so that the time $t$ is right for them.

# %% tags=["solution"]
number = torch.arange(4).double()
covariance = 0.9 ** (number[:, None] - number).abs()

def exact(clip, times):
    """x0_hat of the process; all clips have the same times"""
    alpha, sigma = flow.alpha(times[0]), flow.sigma(times[0])
    noisy = alpha[:, None] * covariance * alpha + torch.diag(sigma**2)
    return clip @ (covariance * alpha @ noisy.inverse()).T  # (B, 4)

def one_time(D, schedule, known, x, t, s, noisy=False):
    """The known frames at the time t, as they are or with noise of that level"""
    eps = torch.randn(known.shape, generator=g, dtype=known.dtype)
    past = schedule.perturb(known, t, eps) if noisy else known
    x0_hat = D(torch.cat([past, x], 1), torch.full((len(x), 4), t).double())[:, 2:]
    return step(schedule, x, x0_hat, t, s)

# %% tags=["solution"]
n, rows = 20_000, {}
noisy = lambda *arguments: one_time(*arguments, noisy=True)
for name, method, steps in (
        ("times 0 and t", next_frames, 20), ("times 0 and t, 100 steps", next_frames, 100),
        ("clean, time t for all", one_time, 20), ("noisy, time t for all", noisy, 20)):
    g = seeded(0)
    normal = lambda k: torch.randn(n, k, generator=g, dtype=torch.float64)
    known, x = (normal(4) @ torch.linalg.cholesky(covariance).T)[:, :2], normal(2)
    for k in range(steps, 0, -1):
        x = method(exact, flow, known, x, k / steps, (k - 1) / steps)
    r = torch.corrcoef(torch.cat([known, x], 1).T)
    rows[name] = {"last known, first new": r[1, 2], "first new, second new": r[2, 3],
                  "deviation of the first new": x[:, 0].std()}
rows["the process"] = dict(zip(rows["times 0 and t"], (0.9, 0.9, 1.0)))
tables.table(rows, ".3f", index="", caption="Correlations, 20,000 clips, 20 steps of DDIM")

# %% [markdown] tags=["solution"]
# **What the table shows.** With the times 0 and $t$ the new frames follow the known ones as the process does. What is missing in 20 steps is the steps' error, since 100 steps are nearer. If the clean frames are passed with the time $t$, the new frames agree with each other but follow the known ones less, 0.80 in place of 0.90. The denoiser takes a clean frame for a noisy one, so it trusts it too little, and undoes a scaling that was not there. With honest noise of level $t$ the times are right, and it is worse, 0.59, and the frames' deviation is too small: probably because the noise hides what is known while the level is high, where the new frames begin to take shape. So a time for each frame is more than a detail.

# %% [markdown]
# ## 6.11 A set has no order (3 points, 20 minutes)
#
# This network takes sets of points (B, P, 3), and returns a vector for each point. The points of a set have no order: a permuted list is the same set. So the outputs should be permuted in the same way, and stay the same otherwise. Such a network is called **permutation-equivariant**. This one is not:

# %%
class CopiedNet(nn.Module):
    """Points (B, P, 3) -> a vector for each, (B, P, 3)"""

    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Linear(3, dim)
        self.positions = nn.Parameter(0.1 * torch.randn(64, dim))
        self.mix = nn.Conv1d(dim, dim, 5, padding=2)
        self.out = nn.Sequential(
            nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 3))

    def forward(self, x):
        h = self.embed(x) + self.positions[: x.shape[1]]                # (B, P, dim)
        h = h + self.mix(h.transpose(1, 2)).transpose(1, 2)
        return self.out(h)

def order_error(net, x):
    """The largest change of the outputs by a permutation, over their deviation"""
    order = torch.randperm(x.shape[1], generator=seeded(1))
    with torch.no_grad():
        y = net(x)
        return (net(x[:, order]) - y[:, order]).abs().max() / y.std()

print(f"copied: {order_error(CopiedNet(), torch.randn(8, 32, 3, generator=seeded(0))):.2g}")

# %% [markdown]
# Make it equivariant, for any number of points. Each point's output must still depend on the other points of its set, and on no other set of the batch. It must be continuous, too: no sorting. The check draws all weights anew.

# %% tags=["answer:6.11"]
class SetNet(nn.Module):
    """Points (B, P, 3) -> a vector for each, (B, P, 3), in any order"""

    def __init__(self, dim=32):
        super().__init__()
        ### BEGIN SOLUTION
        self.embed = nn.Linear(3, dim)
        self.mix = nn.Linear(dim, dim)
        self.out = nn.Sequential(
            nn.SiLU(), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 3))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        h = self.embed(x)                                               # (B, P, dim)
        h = h + self.mix(h.mean(1, keepdim=True))
        return self.out(h)
        ### END SOLUTION

# %% tags=["check:6.11"]
check("6.11", SetNet)
### BEGIN HIDDEN TESTS
assert check.passed("6.11")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** Two layers know the list: the positions, and the convolution, which mixes neighbours in the list. A mean over the points (dimension 1) mixes all points and knows no order (Zaheer et al. 2017, Deep sets). A maximum does (Qi et al. 2017, PointNet), and so does attention without positions. An MLP for each point is equivariant as well, and *blind*: a point knows nothing of its set.
#
# **What is it worth to see the others?** Sets of 32 points around a centre of their own, with noise of level 0.5. To denoise a point one should know the centre, and the set tells it. All is Gaussian, so the least possible error is known: from one point, from five, from all.

# %% tags=["solution"]
def sets(n, seed):
    """Clean points and noisy ones, (n, 32, 3) each"""
    g = seeded(seed)
    draw = lambda *shape: torch.randn(shape, generator=g)
    x0 = draw(n, 1, 3) + 0.3 * draw(n, 32, 3)
    return x0, 0.5 * x0 + 0.5 * draw(n, 32, 3)

def least_error(P):
    """The variance of a coordinate, given P noisy points of its set"""
    C = torch.ones(P, P) + 0.09 * torch.eye(P)
    noisy = 0.25 * C + 0.25 * torch.eye(P)
    return (C - 0.25 * C @ noisy.inverse() @ C)[0, 0]

class Blind(SetNet):
    def forward(self, x):
        return self.out(self.embed(x))

def trained(net, steps=300):
    x0, x = sets(64 * steps, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for clean, noisy in zip(x0.split(64), x.split(64)):
        optimizer.zero_grad()
        (net(noisy) - clean).square().mean().backward()
        optimizer.step()
    return net

# %% tags=["solution"]
x0, x = sets(4000, seed=1)
rows = {}
kinds = {"copied": (CopiedNet, 5), "blind": (Blind, 1), "SetNet": (SetNet, 32)}
for name, (kind, P) in kinds.items():
    torch.manual_seed(0)
    net = trained(kind())
    with torch.no_grad():
        error = (net(x) - x0).square().mean()
    rows[name] = {"points seen": P, "least error": least_error(P), "squared error": error,
                  "change by a permutation": order_error(net, x)}
tables.table(rows, {"least error": ".4f", "squared error": ".4f",
                    "change by a permutation": ".1e"},
             caption="4,000 new sets of 32 points; 300 steps of training")

# %% [markdown] tags=["solution"]
# **What the table shows.** SetNet comes within 3 % of the least error that is possible from all 32 points. The blind network is equivariant to the last digit, and stays near what one point tells, more than four times as much. The copied network sees five neighbours in the list (fewer at its ends), and comes near what five points tell. And its outputs change with the order, by up to 2.3 times their deviation.

# %% [markdown]
# ## 6.12 Open: a text of your own (3 points, 30 minutes)
#
# Train a small masked diffusion on texts of your own: names, places, lines of a poem, recipes, sequences of chords. It takes at least 50 short texts, all different; a few hundred are better. The list `word_vectors.load_vectors().index` has 4,731 English words, in case you have none at hand. Hold out every fifth text of the sorted list, `sorted(texts)[::5]`, and train on the others, for a minute at most. Then measure, and return a dict:
#
# * `"texts"`: the list of strings; `"encode"`: a function from a list of texts to token ids (N, L) int64, padded to one length; `"model"`: the trained `MaskedDiffusion`.
# * `"bound"`: the bound (6.40) of the held-out texts, in nats per token, from at least 8,000 draws of $t$ and masks in all.
# * `"by place"`: what a model would have that looks at nothing but the place: the mean of $-\log p$ over the tokens of the held-out texts, in nats. Here $p$ is the token's frequency at this place in the training texts, with 1 added to each count (and no mask).
# * `"near"`: of 500 samples or more, drawn by `unmask` in 30 even steps, the share that differs from some training text in one token at most. `"near held out"`: the same share of the held-out texts. It is what copying has to be compared with.
#
# The check computes all four numbers anew, from your texts and your model. It wants them right, the bound below "by place" by more than two standard errors, and samples that differ from each other. What you trained on it cannot see.

# %% tags=["solution"]
texts = sorted(w for w in word_vectors.load_vectors().index
               if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 10)
L, mask_id = 10, 27

def encode(texts):
    """Letters are 1 to 26, and 0 fills up to ten ("`" stands before "a"): (N, 10)"""
    return torch.tensor([[ord(c) - 96 for c in text.ljust(L, "`")] for text in texts])

def decode(tokens):
    return ["".join(chr(96 + k) for k in row).replace("`", "") for row in tokens.tolist()]

ids = encode(texts)
held = torch.arange(len(ids)) % 5 == 0
train_x, held_x = ids[~held], ids[held]
torch.manual_seed(0)
net = TokenTransformer(28, L, dim=32, depth=2)
model = train.train(MaskedDiffusion(net, mask_id), {"x0": train_x}, steps=800,
                    batch_size=64, lr=4e-3, device="cpu")

# %% tags=["solution"]
@torch.no_grad()
def bound(x0, times=16):
    """The bound of each text in nats per token, (N,), a mean over evenly spread t"""
    g, nats = seeded(0), 0.0
    for k in range(times):
        t = (k + 1 - torch.rand(len(x0), generator=g).double()) / times
        x = mask_tokens(x0, t, mask_id, g)
        nats = nats + masked_nll(model(x, t), x0, x, t, mask_id) / L / times
    return nats

def distance(x):
    """In how many tokens each text differs from the nearest training text; which one"""
    return (x[:, None] != train_x).sum(2).min(1)

counts = F.one_hot(train_x, 27).sum(0).double() + 1         # (L, 27)
log_p = (counts / counts.sum(1, keepdim=True)).log()
by_place = -log_p.gather(1, held_x.T).mean(0)               # (N,)
samples = last(unmask(model, torch.full((500, L), mask_id), torch.linspace(1, 0, 31),
                      mask_id, generator=seeded(1)))
share = lambda x, most: (distance(x).values <= most).double().mean().item()

# %% tags=["answer:6.12"]
def report():
    """-> a dict with texts, encode, model, bound, by place, near, near held out"""
    ### BEGIN SOLUTION
    return {"texts": texts, "encode": encode, "model": model,
            "bound": bound(held_x).mean().item(), "by place": by_place.mean().item(),
            "near": share(samples, 1), "near held out": share(held_x, 1)}
    ### END SOLUTION

# %% tags=["check:6.12"]
check("6.12", report)
### BEGIN HIDDEN TESTS
assert check.passed("6.12")
### END HIDDEN TESTS

# %% tags=["solution"]
nats = bound(held_x).double()
gain = by_place - nats
print(f"{len(texts):,} words, {len(held_x)} held out. Nats per token: {nats.mean():.2f}, "
      f"by place {by_place.mean():.2f}, difference {gain.mean():.3f}, its standard error "
      f"{gain.std() / len(gain)**0.5:.3f}; training words {bound(train_x[::4]).mean():.2f}")
tables.table({name: {"copies": share(x, 0), "near": share(x, 1)} for name, x in
              {"500 samples": samples, "held-out words": held_x}.items()}, ".0%",
             caption="Share that differs from a training word in no letter, in one at most")
which = decode(train_x[distance(samples[:12]).indices])
pairs = zip(decode(samples[:12]), which)
tables.table([{"sample": a, "nearest training word": b} for a, b in pairs])

# %% [markdown] tags=["solution"]
# **What the tables show.** The bound is 0.23 nats per letter below "by place", 17 standard errors. For training words it is about the same, 1.79 and 1.81, so there is no sign of memorising. 1 % of the samples are training words, and 15 % differ from one in a letter at most. Of real words that were held out 49 % do, and they were not copied: a word has relatives. So this model hardly copies: its samples lie further from the training words than real words do. It is the second row that says so; 15 % alone would mean nothing.

# %%
check.summary(6)
