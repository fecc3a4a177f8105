# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lesson 5 · Exercises
#
# {{badge}}
#
# Nine questions, 26 points, about three and a half hours. Write your answer where it says `YOUR CODE HERE`, run the cell, then run the check below it. A check says *right*, *not yet* with a reason, or *not attempted*. `hint("5.1")` gives a hint, and a stronger one each time you call it; the last is nearly the answer. Nothing is lost by trying. The checks draw new numbers each time.
#
# As in the lesson, $t = 0$ is data and $t = 1$ is noise, a denoiser `D(x, t, **condition)` returns its x0-prediction $\hat x_0$, and $w = 1$ is no guidance. Equation and section numbers are the lesson's. Questions 5.1 to 5.4 need part I, 5.5 to 5.7 parts I and III, 5.8 and 5.9 part II. The core sections suffice for all but 5.4, which needs "The bell, integrated" in section 5.4.

# %% tags=["setup"]
{{setup}}

# %%
import warnings

import torch
from torch import nn

from course_lib import Schedule, clip, ddim, guidance, last, samplers, timesteps
from course_lib.checks import check, hint
from course_lib.lab import (
    attributes,
    data,
    features,
    metrics,
    noun_parts,
    plots,
    sampling,
    tables,
    train,
)
from course_lib.schedules import append_dims

# %%
torch.manual_seed(0)
# most tensors here are small and gain nothing from a second thread
torch.set_num_threads(1)
cosine = Schedule.cosine()
seeded = lambda k: torch.Generator().manual_seed(k)
digits = train.load("mnist_small", device="cpu")              # y: 0 to 9, and 10 for none

# %% [markdown]
# ## 5.1 Warm-up: drop labels, and captions (2 points, 10 minutes)
#
# Write section 5.1's `drop_labels` for both kinds of condition that this lesson has: labels `y` of shape (B,), and captions `y` of shape (B, L), whose tokens become *all* null when the caption is dropped. Each example is dropped with probability `p`, by a coin of its own. The coins come from `generator`, and `y` itself stays as it is.

# %% tags=["answer:5.1"]
def drop(y, null, p, generator):
    """y: (B,) labels or (B, L) tokens, integers -> like y

    null: the number for "none"; p: a probability, in [0, 1]
    """
    ### BEGIN SOLUTION
    # (B,) one coin for each example
    dropped = torch.rand(len(y), generator=generator) < p
    return torch.where(dropped.view(-1, *[1] * (y.ndim - 1)), null, y)
    ### END SOLUTION

# %% tags=["check:5.1"]
check("5.1", drop)
### BEGIN HIDDEN TESTS
assert check.passed("5.1")
### END HIDDEN TESTS

# %% tags=["solution"]
tokenizer = train.load("nouns", device="cpu").net.tokenizer
tokens = tokenizer(["a shark head", "blue glasses", "a green body", "a red tie"])
print("before:", tokenizer.decode(tokens))
print("after: ", tokenizer.decode(drop(tokens, 0, 0.5, seeded(2))))

# %% tags=["solution"]
batch = torch.zeros(128).long()
whole = [int(torch.rand(1, generator=seeded(k)) < 0.1) * 128 for k in range(1000)]
each = [int((drop(batch, 10, 0.1, seeded(k)) == 10).sum()) for k in range(1000)]
print(f"null labels in a batch of 128, over 1,000 batches: one coin for all "
      f"{sum(whole) / 1000:.1f} on average, none in {whole.count(0) / 1000:.0%}; "
      f"a coin each {sum(each) / 1000:.1f}, from {min(each)} to {max(each)}")

# %% [markdown] tags=["solution"]
# **Solution.** Both ways drop a tenth of the labels on average. But with one coin for all, nine steps of ten train nothing of the null label and every tenth nothing else, so the gradient jerks to and fro.

# %% [markdown]
# ## 5.2 Classifier-free guidance, from blank (3 points, 20 minutes)
#
# Derive (5.9) once more: start from Bayes' rule (5.4), and write $\nabla\log p_t(y\mid x)$ with two denoisers. Then write `cfg` for real use. It returns a denoiser. `null` may name only some of the conditions; the others (a size, a style) reach *both* evaluations unchanged. `w` is a number, or a function of $t$; $t$ is one number, as in samplers. (Both predictions may come from one evaluation of a doubled batch.) Where $w = 1$ the unconditional one would be multiplied by 0: evaluate only once there. The dictionaries that you are given stay as they are.

# %% tags=["answer:5.2"]
def cfg(D, w, null):
    """D: (x, t, **condition) -> x0_hat; w: a number, or a function of t -> a denoiser

    null: a dict of the conditions that mean "none"
    """
    ### BEGIN SOLUTION
    def guided(x, t, **condition):
        weight = w(t) if callable(w) else w
        if weight == 1:
            return D(x, t, **condition)
        u, c = D(x, t, **condition | null), D(x, t, **condition)
        return u + weight * (c - u)
    return guided
    ### END SOLUTION

# %% tags=["check:5.2"]
check("5.2", cfg)
### BEGIN HIDDEN TESTS
assert check.passed("5.2")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, looked at.** From (5.4) and (5.3), $D_y - D_\varnothing = \frac{\sigma^2}{\alpha}\nabla\log p_t(y\mid x)$, and $w$ times this is what (5.6) adds to $D_\varnothing$. How quiet is the mistake of scales? The same noises with $w = 3$, and with the paper's formula and $s = 3$:

# %% tags=["solution"]
y, noise = torch.arange(10), cosine.sample_prior((10, 1, 28, 28), generator=seeded(1))

def paper(s):
    """The paper's formula, on its scale s."""
    return lambda x, t, **condition: (
        (1 + s) * digits(x, t, **condition) - s * digits(x, t, y=10)
    )

def run(D):
    return last(ddim(clip(D), cosine, noise, timesteps(cosine, 15), y=y))

rows = {f"w = {w:g}": run(cfg(digits, w, {"y": 10})) for w in (1.0, 3.0)}
rows |= {"s = 3": run(paper(3.0)), "w = 4": run(cfg(digits, 4.0, {"y": 10}))}
plots.show(rows, title="One noise in each column")
largest = lambda a, b: (rows[a] - rows[b]).abs().max()
print(f"s = 3 and w = 4 differ by {largest('s = 3', 'w = 4'):.1e}, "
      f"s = 3 and w = 3 by {largest('s = 3', 'w = 3'):.2f}")

# %% [markdown] tags=["solution"]
# **What the figure shows.** $s = 3$ is $w = 4$. It looks like $w = 3$ to anybody who does not compare, which is why the mistake survives.

# %% [markdown]
# ## 5.3 Bug hunt: a copied wrapper (3 points, 25 minutes)
#
# This class is meant to do both jobs: drop labels in training, guide when sampling.

# %%
class ClassifierFreeGuidance:
    def __init__(self, model, guidance_scale=7.5, unconditional_prob=0.1):
        self.model = model
        self.guidance_scale = guidance_scale
        self.unconditional_prob = unconditional_prob

    def forward(self, x, t, y=None):
        if y is None or self.training:
            if self.training and torch.rand(1) < self.unconditional_prob:
                y = None
            return self.model(x, t, y)
        uncond_pred = self.model(x, t, y=None)
        cond_pred = self.model(x, t, y=y)
        return uncond_pred + self.guidance_scale * (cond_pred - uncond_pred)

# %% [markdown]
# Experiment with it. Call it; look for its `training`; give its weights to an optimizer; put it into `ddim`. To go on at all, repair what is loud (below, `nn.Module` as a second parent), and then count which labels a network is given in training, and what `y=None` gives with a network that was trained with a null *label*:

# %%
class Louder(ClassifierFreeGuidance, nn.Module):
    def __init__(self, model, **options):
        nn.Module.__init__(self)
        ClassifierFreeGuidance.__init__(self, model, **options)

class Embedding(nn.Module):
    """A toy network: a vector for each label, 10 for none. It counts the labels given."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 2)
        self.given = []

    def forward(self, x, t, y=None):
        self.given.append(0 if y is None else len(y))
        return x if y is None else x + self.table(y)

# %%
for attempt in ("wrapper(x, t, y)", "wrapper.forward(x, t, y)",
                "list(wrapper.parameters())",
                "Louder(net, unconditional_prob=0.3)(x, t, y)"):
    net = Embedding()
    names = {"wrapper": ClassifierFreeGuidance(net), "net": net, "Louder": Louder,
             "x": torch.zeros(8, 2), "t": 0.5, "y": torch.arange(8)}
    try:
        result = eval(attempt, names)
        print(f"{attempt}: fine")
    except Exception as error:
        print(f"{attempt}: {type(error).__name__}: {error}")
wrapper = Louder(net := Embedding(), unconditional_prob=0.3)
for _ in range(20):
    wrapper(torch.zeros(8, 2), 0.5, torch.arange(8))
print("labels given in 20 training steps of 8:", net.given)

# %% [markdown]
# Find what is wrong (there are five things), and write the class as it should be. It takes `(net, w, p, null)`, and calls the network as our denoisers are called, `net(x, t, y=labels)`. In training mode: one evaluation, each label dropped with probability `p` by a coin of its own (torch's own generator will do), dropped labels become the number `null`. After `.eval()`: (5.9), with at most two evaluations for each example, the null label for $D_\varnothing$, and no coins. Without `y`: the null label for everyone, one evaluation, no guidance. Nothing may cut the gradients of a training. A sampler calls it as `guided(x, t, y=y)`, and an optimizer must find the weights.

# %% tags=["answer:5.3"]
class Guided(nn.Module):
    """net: (x, t, y=labels) -> like x, where the label null means none; w: guidance in
    evaluation; p: how often a label is dropped in training
    """

    def __init__(self, net, w=7.5, p=0.1, null=10):
        ### BEGIN SOLUTION
        super().__init__()
        self.net = net
        self.w = w
        self.p = p
        self.null = null
        ### END SOLUTION

    def forward(self, x, t, y=None):
        ### BEGIN SOLUTION
        null = torch.full((len(x),), self.null, device=x.device)    # (B,)
        if y is None:
            return self.net(x, t, y=null)
        if self.training:
            dropped = torch.rand(len(x), device=x.device) < self.p
            return self.net(x, t, y=torch.where(dropped, null, y))
        u, c = self.net(x, t, y=null), self.net(x, t, y=y)
        return u + self.w * (c - u)
        ### END SOLUTION

# %% tags=["check:5.3"]
check("5.3", Guided)
### BEGIN HIDDEN TESTS
assert check.passed("5.3")
### END HIDDEN TESTS

# %% tags=["solution"]
guided = Guided(digits, w=3.0, null=10).eval()
torch.testing.assert_close(run(guided), rows["w = 3"])
without_y = last(ddim(clip(guided), cosine, noise, timesteps(cosine, 15)))
print(f"asked for 0 to 9: {metrics.class_agreement(rows['w = 3'], y):.0%} agree; "
      f"when y is not passed: {metrics.class_agreement(without_y, y):.0%}")

# %% [markdown] tags=["solution"]
# **Solution.** (1) The class is no `nn.Module`: it cannot be called, has no `training`, and no optimizer finds its network's weights. (2) The coin is thrown once for the whole batch. (3) "None" is the absence of a label, not a label: no vector is learnt for it, and nothing can be mixed within a batch. (4) So $D_\varnothing$ in evaluation is a network with one input missing. With an embedding that *adds* to the time's vector this runs without a word, and gives a prediction that was trained only by accident. (5) There is no error when `y` is not passed: the samplers it was written for call `model(x, t)`, and all that guidance is for stays unused. Ours must be given `y=y`, and `guidance.cfg` of the library raises an error when it is not.

# %% [markdown]
# ## 5.4 Derivation: guidance is not tempering (4 points, 35 minutes)
#
# Section 5.4 took $\mathcal N(0, 1)$ for all data. Let it be $\mathcal N(0, S^2)$ now, with the class $\mathcal N(m, s^2)$, $s < S$, in one dimension. Derive again: the mean and the standard deviation of the tempered density (5.12), and of what guidance samples, by an equation like (5.14) with $S$ in it. Return the four numbers, for any $w \ge 1$. The integral may stay an integral that you compute numerically; or you may let guidance run, since in this case a start $z$ ends on a straight line in $z$ (tolerance: 2 %).

# %% tags=["answer:5.4"]
def bells(w, m, s, S):
    """w >= 1, 0 < s < S -> tempered mean, tempered std, guided mean, guided std"""
    ### BEGIN SOLUTION
    v = 1 / (w / s**2 + (1 - w) / S**2)
    d = (S**2 - s**2) ** 0.5
    z = torch.linspace(0, d / s, 2001).double()               # z^2 = d^2 / (s^2 + r^2)
    integral = w / d * torch.trapezoid((1 + z**2) ** ((w - 1) / 2), z)
    width = s**w * S ** (1 - w)                               # h(0)
    return v * w * m / s**2, v**0.5, m * width * integral, width
    ### END SOLUTION

# %% tags=["check:5.4"]
check("5.4", bells)
### BEGIN HIDDEN TESTS
assert check.passed("5.4")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** The exponent of the tempered density is $-\frac{1-w}{2S^2}x^2 - \frac w{2s^2}(x-m)^2$, so $\frac1v = \frac w{s^2}+\frac{1-w}{S^2}$, and the mean is $v\,\frac{wm}{s^2}$. For guidance,
#
# $$\frac{d\bar x}{dr} = w\,\frac{r\,(\bar x-m)}{s^2+r^2} + (1-w)\,\frac{r\,\bar x}{S^2+r^2}, \qquad h(r) = (s^2+r^2)^{w/2}(S^2+r^2)^{(1-w)/2},$$
#
# and as in (5.15) $\bar x(0) = h(0)\,\big(z + m\int_0^\infty\frac{w\,r}{(s^2+r^2)\,h}dr\big)$ with $h(0) = s^wS^{1-w}$. With $q = s^2+r^2$, $d^2 = S^2-s^2$ and then $\zeta = d/\sqrt q$ the integral becomes
#
# $$\int_{s^2}^\infty\frac w2\,q^{-1-\frac w2}\,(q+d^2)^{\frac{w-1}2}\,dq = \frac wd\int_0^{d/s}(1+\zeta^2)^{\frac{w-1}2}\,d\zeta,$$
#
# which has no infinite end. Compared with running it, for $w = 3$:

# %% tags=["solution"]
w, m, s, S = 3.0, 1.0, 0.5, 1.5
bell = lambda mean, std: data.GaussianMixture([[mean]], std).denoiser(cosine)
both = lambda x, t, y: bell(m, s)(x, t) if y else bell(0.0, S)(x, t)
starts = torch.tensor([[0.0], [1.0]]).double()
ts = timesteps(cosine, 1000, start=0.999)
ends = last(ddim(guidance.cfg(both, w, {"y": 0}), cosine, starts, ts, y=1))[:, 0]
formulas = bells(w, m, s, S)
tables.table({"tempered, formulas": {"mean": formulas[0], "std": formulas[1]},
              "guided, formulas": {"mean": formulas[2], "std": formulas[3]},
              "guided, run": {"mean": ends[0], "std": ends[1] - ends[0]}}, ".4f",
             caption="w = 3")
ws = torch.linspace(1, 6, 26)
rows = [[float(number) for number in bells(w, m, s, S)] for w in ws.tolist()]
four = torch.tensor(rows).T
plots.panels(ws, {"mean": {"tempered": four[0], "guided": four[2]},
                  "standard deviation": {"tempered": four[1], "guided": four[3]}},
             title="Class N(1, 0.5²) in data N(0, 1.5²)", xlabel="w")

# %% [markdown] tags=["solution"]
# **What the figure shows.** At $w = 1$ both are the class. The tempered mean climbs towards $m S^2/(S^2-s^2) = 1.125$, where the ratio of the two bells is largest, and never passes it. The guided mean shoots past it, to 1.23 near $w = 2.6$, and comes back to it from above: for large $w$ only the upper end of the integral counts, and gives $m S^2/(S^2-s^2)$ again. The guided width falls like $(s/S)^w$, the tempered one like $1/\sqrt w$. So the longer one looks the more the means agree, and the less the widths.

# %% [markdown]
# ## 5.5 RePaint's step, from blank (3 points, 25 minutes)
#
# One step of RePaint (section 5.15), from level $t$ to $s < t$. Made `repeats` times: a step of ddim with $\eta = 0$ (you may call `samplers.step`); then the known part is replaced by a draw of what it is at the level where the step arrived; then, but not after the last time, the whole picture goes back up to $t$. The mask is 1 where the picture is drawn anew. Noise comes from `noise()`, which returns fresh noise like `x` at each call: one call for each replacement, one for each way up, in the order in which they come. (To $s = 0$ the step is made once, and the known part ends as it is, to the bit. Whether you call `noise()` there does not matter.)

# %% tags=["answer:5.5"]
def repaint_step(D, schedule, x, known, mask, t, s, repeats, noise):
    """D: (x, t) -> x0_hat; x: (B, ...) at level t; known: (1 or B, ...) data -> x_s

    mask: 1 = drawn anew; t, s: numbers (tensors); repeats: 1 or more
    """
    ### BEGIN SOLUTION
    repeats = repeats if s > 0 else 1
    for k in range(repeats):
        x = samplers.step(schedule, x, D(x, t), t, s)
        x = mask * x + (1 - mask) * schedule.perturb(known.expand_as(x), s, noise())
        if k < repeats - 1:
            ratio = schedule.alpha(t) / schedule.alpha(s)
            std = (schedule.sigma(t) ** 2 - (ratio * schedule.sigma(s)) ** 2).sqrt()
            x = append_dims(ratio, x) * x + append_dims(std, x) * noise()
    return x
    ### END SOLUTION

# %% tags=["check:5.5"]
check("5.5", repaint_step)
### BEGIN HIDDEN TESTS
assert check.passed("5.5")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used.** The lower half of ten test digits is known, no label is given. For comparison a widely copied version, which after the step to $s$ pastes the known part with the noise of level $t$, and nothing at all after the last step.

# %% tags=["solution"]
known, label = (part[:10] for part in data.mnist("test"))
mask = torch.zeros(1, 1, 28, 28)
mask[:, :, :14] = 1

def copied_step(D, schedule, x, known, mask, t, s, repeats, noise):
    x = samplers.step(schedule, x, D(x, t), t, s)
    if s == 0:
        return x
    return mask * x + (1 - mask) * schedule.perturb(known, t, noise())

def filled(step, repeats, n=15):
    g, ts = seeded(4), timesteps(cosine, n)
    noise = lambda: torch.randn(known.shape, generator=g)
    x = cosine.sample_prior(known.shape, generator=g)
    with torch.no_grad():
        for t, s in zip(ts[:-1], ts[1:]):
            x = step(clip(digits), cosine, x, known, mask, t, s, repeats, noise)
    return x

# %% tags=["solution"]
pictures = {"copied": filled(copied_step, 1), "1 repeat": filled(repaint_step, 1),
            "4 repeats": filled(repaint_step, 4)}
jump = lambda x: (x[:, :, 13] - x[:, :, 14]).abs().mean()
off = lambda x: (x - known)[:, :, 14:].square().mean().sqrt()
half = torch.where(mask.bool(), 0.0, known)
plots.show({"known": half} | pictures | {"the digit": known},
           title="The upper half, drawn anew")
rows = {name: {"known part off": off(x), "jump": jump(x)} for name, x in pictures.items()}
rows["real digits"] = {"known part off": None, "jump": jump(known)}
tables.table(rows, {"known part off": ".3f", "jump": ".2f"},
             caption="Ten digits: root mean square error of the known part; "
                     "jump across the border")

# %% [markdown] tags=["solution"]
# **What the figure shows.** The copied version changes what was known. With one repeat the known half is exact, but the new half hardly depends on it. Four repeats join them, for four times the evaluations.

# %% [markdown]
# ## 5.6 An edit that keeps what it can (2 points, 25 minutes)
#
# Lesson 4's exercise 4.8 edited between two arcs. Now for real models: conditions are dictionaries (such as `{"y": labels}`, but there may be more in them), both ways go between $t = 0$ and $t = 1$ on `timesteps(schedule, n)`, and the way down is guided with $w$ away from `null`, while the way up is not (section 5.19 says why). Return the edited data. `samplers.ddim_invert`, `samplers.ddim` and `guidance.cfg` may be called. The dictionaries stay as they are.

# %% tags=["answer:5.6"]
def edit(D, schedule, x0, before, after, n, w, null):
    """D: (x, t, **condition) -> x0_hat; x0: (B, ...) data -> (B, ...)

    before, after, null: dicts of conditions; n steps each way; w: guidance down
    """
    ### BEGIN SOLUTION
    ts = samplers.timesteps(schedule, n)
    noise = last(samplers.ddim_invert(D, schedule, x0, ts.flip(0), **before))
    return last(samplers.ddim(guidance.cfg(D, w, null), schedule, noise, ts, **after))
    ### END SOLUTION

# %% tags=["check:5.6"]
check("5.6", edit)
### BEGIN HIDDEN TESTS
assert check.passed("5.6")
### END HIDDEN TESTS

# %% [markdown]
# An experiment. In one dimension the paths of an ODE cannot cross: whoever starts further right ends further right. So with $w = 1$ an edit must send the 30 % quantile of one class to the 30 % quantile of the other, whatever the classes are. Take two classes of two bumps each, edit 400 points, and plot where each goes, together with the map from quantile to quantile. What does $w = 3$ do to it?

# %% tags=["solution"]
kinds = [data.GaussianMixture([[-1.0], [0.2]], [0.25, 0.15], [1.0, 2.0]),
         data.GaussianMixture([[-0.4], [1.1]], [0.3, 0.2], [2.0, 1.0])]
every = data.GaussianMixture(torch.cat([k.means for k in kinds]),
                             torch.cat([k.stds for k in kinds]),
                             torch.cat([k.weights for k in kinds]))
exact = lambda x, t, y: (*kinds, every)[y].denoiser(cosine)(x, t)
x0 = kinds[0].sample(400, seed=1).double().sort(0).values     # (400, 1)

def distribution_function(kind, x):
    """The fraction of the class that lies to the left of x."""
    below = torch.special.ndtr((x - kind.means[:, 0]) / kind.stds)
    return (kind.weights * below).sum(1, keepdim=True)

# %% tags=["solution"]
fine = torch.linspace(-3, 3, 6001).double()[:, None]
wanted = distribution_function(kinds[0], x0)[:, 0]
index = torch.searchsorted(distribution_function(kinds[1], fine)[:, 0], wanted)
quantile = fine[index, 0]
moved = {"quantile to quantile": quantile}
for w in (1.0, 3.0):
    x = edit(exact, cosine, x0, {"y": 0}, {"y": 1}, 100, w, {"y": 2})
    moved[f"w = {w:g}"] = x[:, 0]
plots.curves(x0[:, 0], moved, title="From one class to the other", xlabel="before",
             ylabel="after")
distance = (moved["w = 1"] - quantile).square().mean().sqrt()
kept = {name: bool((x.diff() >= 0).all()) for name, x in moved.items()}
print(f"w = 1: root mean square distance from the quantile map {distance:.3f} in 100 "
      f"steps; order kept: {kept['w = 1']}, with w = 3: {kept['w = 3']}")

# %% [markdown] tags=["solution"]
# **What the figure shows.** With $w = 1$ each point goes to its own quantile, up to the error of the steps, and the map is steep where the new class has a gap. With $w = 3$ the order is kept as well (it is an ODE still), but not the quantiles: the left tail, where the old class lives, is drawn in, and more points than belong there go to the right bump, where the old class never is. Guidance edits more, and keeps less.

# %% [markdown]
# ## 5.7 A classifier's gradient (3 points, 25 minutes)
#
# Write (5.6) for a classifier that returns *logits*: `classify(x, t)` is (B, K), made for noisy $x$, and class `y[i]` is wanted of example $i$. The denoiser that you return is called `(x, t)` by samplers, that is, without gradients, and with $t$ a number or of shape (B,). It must leave `x` as it was, and its result must not drag a graph along.

# %% tags=["answer:5.7"]
def steer(D, schedule, classify, y, w):
    """D: (x, t) -> x0_hat; y: (B,) classes; w: a number -> a denoiser (x, t)

    classify: (x, t) -> logits (B, K), differentiable
    """
    ### BEGIN SOLUTION
    def guided(x, t):
        with torch.enable_grad():
            x_in = x.detach().requires_grad_()
            # each example depends on its own x only
            log_p = classify(x_in, t).log_softmax(1).gather(1, y[:, None]).sum()
            grad, = torch.autograd.grad(log_p, x_in)
        factor = w * schedule.sigma(t) ** 2 / schedule.alpha(t)
        return D(x, t) + append_dims(factor, x) * grad
    return guided
    ### END SOLUTION

# %% tags=["check:5.7"]
check("5.7", steer)
### BEGIN HIDDEN TESTS
assert check.passed("5.7")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution, used** on the denoiser without labels. And a mistake that no error message reveals: the raw logit in place of its `log_softmax`.

# %% tags=["solution"]
noisy_classifier = features.noisy_digit_classifier()
unconditional = lambda x, t: digits(x, t, y=10)
classify = lambda x, t: noisy_classifier(x, t.to(x).expand(len(x)))
y = torch.arange(10).repeat(4)
start = cosine.sample_prior((40, 1, 28, 28), generator=seeded(0))

def raw(D, schedule, classify, y, w):
    """The same with a raw logit: exp(logit) takes the place of p."""
    def guided(x, t):
        with torch.enable_grad():
            x_in = x.detach().requires_grad_()
            logit = classify(x_in, t).gather(1, y[:, None]).sum()
            grad, = torch.autograd.grad(logit, x_in)
        factor = w * schedule.sigma(t) ** 2 / schedule.alpha(t)
        return D(x, t) + append_dims(factor, x) * grad
    return guided

# %% tags=["solution"]
runs = {"no guidance": (steer, 0.0), "w = 1": (steer, 1.0), "w = 3": (steer, 3.0),
        "raw, w = 1": (raw, 1.0), "raw, w = 3": (raw, 3.0)}
pictures = {}
for name, (guide, w) in runs.items():
    D = clip(guide(unconditional, cosine, classify, y, w))
    pictures[name] = last(ddim(D, cosine, start, timesteps(cosine, 15, start=0.99)))
rows = {name: {"agreement": metrics.class_agreement(x, y)} for name, x in pictures.items()}
tables.table(rows, ".0%", caption="How many of 40 are what was asked for")
plots.show({name: x[:10] for name, x in pictures.items()}, title="Asked for: 0 to 9")

# %% [markdown] tags=["solution"]
# **What the figure shows.** The raw logit is not refused by the eye, nor by the fraction of right digits, which is even higher. Its gradient lacks the part $-\sum_kp_k\nabla l_k$ of $\nabla\log p_y = \nabla l_y - \sum_kp_k\nabla l_k$, which takes the gradient back once the classifier is sure ($p_y$ near 1): the raw one never vanishes. So it is a stronger guidance at the same $w$, and no conditional denoiser at $w = 1$. Only an exact case can tell, such as the mixture that the check uses.

# %% [markdown]
# ## 5.8 Open: captions that fail (3 points, 25 minutes)
#
# Find a caption which a person could draw (from the five parts of a noun) and the model `nouns` cannot, and say why. Return four things: the caption; the five parts that a person would draw, as a dictionary of names from `noun_parts.load_art().names`; the one part that fails; and the reason, one of
#
# * `"unknown words"`: the caption has words that are not in the tokenizer's vocabulary;
# * `"two at once"`: the caption asks for two different ones of the same part, and there is room for one;
# * `"too long"`: the caption has more words than the network takes, though it names all five parts and nothing else;
# * `"known words"`: every word is in the vocabulary, the part is asked for once and by its name, and yet it is not drawn. (This one is hard. It is worth no more points, but more honour.)
#
# The check looks whether the reason fits the caption, and draws eight pictures (but of a caption that is too long). The part has failed if it is right in at most four of them. Parts that the caption does not mention may be anything. Try first, with pictures:

# %%
T = train.load("nouns", device="cpu")

def attempt(*captions, n=4):
    """n pictures for each caption, and the words that are not known."""
    repeated = [caption for caption in captions for _ in range(n)]
    with warnings.catch_warnings(action="ignore"):
        x = sampling.text_to_image(T, repeated)
    plots.captioned(x, repeated, columns=n)
    print({caption: T.net.tokenizer.unknown(caption) for caption in captions})

attempt("a shark-headed noun with blue glasses",
        "a figure with the head of a sea predator, blue glasses")

# %% tags=["answer:5.8"]
def impossible():
    """-> caption, parts, the part that fails, the reason

    parts: a dict with background, body, accessory, head and glasses
    """
    ### BEGIN SOLUTION
    parts = {"background": "cool", "body": "red", "accessory": "heart", "head": "shark",
             "glasses": "blue"}
    caption = "a figure with the head of a sea predator, blue glasses"
    return caption, parts, "head", "unknown words"
    ### END SOLUTION

# %% tags=["check:5.8"]
check("5.8", impossible)
### BEGIN HIDDEN TESTS
assert check.passed("5.8")
### END HIDDEN TESTS

# %% [markdown] tags=["solution"]
# **Solution.** To the tokenizer, "of", "sea" and "predator" are one and the same *unknown word*, as is any other that is not in its vocabulary of 480: the caption asks for "a head", and the model makes one up. It cannot connect predators of the sea with sharks, since it was trained on nothing but captions of nouns. Other families of failures: "no glasses" ("no" is not in the vocabulary, so the caption asks *for* glasses); "a green shark" (heads have their own colours, and no picture of the training ever coloured one); two heads, where there is room for one; and counting ("two" is in it, but only from "two goggles" and "two colour wool weave"). Here are two of them:

# %% tags=["solution"]
attempt("a shark-headed noun with a pizza head", "a panda head, no glasses", n=4)

# %% [markdown]
# ## 5.9 Stretch: parts, or pairs? (3 points, 25 minutes)
#
# Write the measurement behind section 5.11 as a function that evaluates *any* painter: `draw` takes a list of captions and returns pictures (N, 3, 32, 32). For each of the splits `"test"` and `"pairs"` take `n` different nouns, ask for them in the plain wording, and return the fraction of pictures in which each of the five parts is right (the **attribute accuracy**). The check's painters are not networks: they draw exactly what is asked, but for some parts that they get wrong on purpose.

# %% tags=["answer:5.9"]
def generalisation(draw, n):
    """draw: list of N captions -> pictures (N, 3, 32, 32); n: nouns of each split

    -> {"test": (5,), "pairs": (5,)}, columns as in noun_parts.PARTS
    """
    ### BEGIN SOLUTION
    accuracy = {}
    for split in ("test", "pairs"):
        parts = noun_parts.draw_parts(n, seed=11, split=split)      # (n, 5)
        x = draw(noun_parts.plain_captions(parts))
        accuracy[split] = attributes.attributes_correct(x, parts).float().mean(0)
    return accuracy
    ### END SOLUTION

# %% tags=["check:5.9"]
check("5.9", generalisation)
### BEGIN HIDDEN TESTS
assert check.passed("5.9")
### END HIDDEN TESTS

# %% [markdown]
# Now evaluate the model with it, and answer with numbers: *has it learnt parts, or pairs of parts?* How sure can you be with so few pictures? (With $n$ pictures a fraction $q$ is known up to about $\pm 2\sqrt{q(1-q)/n}$.)

# %% tags=["solution"]
def draw(captions):
    return sampling.text_to_image(T, captions, scale=2.0, steps=10)

rows = generalisation(draw, 8)
rows["chance"] = attributes.chance_accuracy(noun_parts.draw_parts(8, seed=11, split="test"))
tables.table({name: dict(zip(noun_parts.PARTS, row)) for name, row in rows.items()}, ".0%",
             caption="Attribute accuracy, 8 nouns each, w = 2")
print("two standard errors of a fraction of one half, with 8 pictures: "
      f"{2 * (0.25 / 8) ** 0.5:.0%}")

# %% [markdown] tags=["solution"]
# **Solution.** Compare the columns of head and glasses, and of body and accessory, between the rows: these are the pairs which the training never showed. With eight pictures a difference of less than 35 points means nothing; the lesson takes a hundred of each, and there two standard errors are 10 points at most. (A painter who had learnt whole pictures by heart would be near chance in both rows; one who had learnt pairs, in the second row only.)

# %%
check.summary(5)
