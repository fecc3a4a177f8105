# %% [markdown]
# ## 7.9 Preference
#
# **How do you train for what people like?** Show two pictures of one prompt, and keep which is preferred: the **winner** $w$, the **loser** $l$. The Bradley-Terry model gives a picture a **reward** $r$, and
#
# $$P(w\succ l) = \mathrm{sigmoid}(r_w - r_l) \tag{7.15}$$
#
# The model should have a high mean reward and stay near the **reference** $p_{\text{ref}}$ that it began as: maximise $\mathbb E_p[r] - \beta\,\mathrm{KL}(p\,\|\,p_{\text{ref}})$. Write both terms as one expectation, $-\beta\,\mathbb E_p\big[\log\frac{p}{p_{\text{ref}}\,e^{r/\beta}}\big]$. Up to a constant it is minus $\beta$ times a KL divergence, which is smallest where both are equal:
#
# $$p^*(x) \propto p_{\text{ref}}(x)\,e^{r(x)/\beta} \qquad\Longleftrightarrow\qquad r(x) = \beta\log\frac{p^*(x)}{p_{\text{ref}}(x)} + \text{const} \tag{7.16}$$
#
# So *the model is its own reward*. Put it into (7.15), where the constant cancels. Maximum likelihood of the preferences then needs neither a reward model nor sampling. This is **direct preference optimisation**, DPO (Rafailov et al. 2023):
#
# $$\mathcal L_{\text{DPO}} = -\log\mathrm{sigmoid}\Big(\beta\Big[\log\frac{p(w)}{p_{\text{ref}}(w)} - \log\frac{p(l)}{p_{\text{ref}}(l)}\Big]\Big) \tag{7.17}$$
#
# Five pictures with known rewards, and five times a million pairs:

# %%
import csv

import numpy as np

from course_lib.lab import storage

r = torch.tensor([0, 0.5, 1, 1.5, 2], dtype=torch.float64)
p_ref = torch.tensor([0.35, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64)
beta = 0.5
exact = p_ref * (r / beta).exp()                                        # (7.16)
exact = exact / exact.sum()

def preferences(seed, n=1_000_000):
    """How often picture i beat picture j, of n pairs drawn from p_ref: (5, 5)"""
    a, b = p_ref.multinomial(2 * n, True, generator=seeded(seed)).view(2, n)
    a_wins = torch.rand(n, generator=seeded(10 + seed)) < (r[a] - r[b]).sigmoid()  # (7.15)
    w, l = torch.where(a_wins, a, b), torch.where(a_wins, b, a)
    return (5 * w + l).bincount(minlength=25).view(5, 5)

# %%
def dpo(wins):
    """Train the five probabilities by (7.17)."""
    logits = p_ref.log().clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        ratio = logits.log_softmax(0) - p_ref.log()
        losses = -F.logsigmoid(beta * (ratio[:, None] - ratio))         # (w, l)
        loss = (wins * losses).sum() / wins.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.softmax(0).detach()

wins = [preferences(seed) for seed in range(5)]
trained = torch.stack([dpo(w) for w in wins])
winners = torch.stack([w.sum(1) / w.sum() for w in wins])
spread = lambda p: [f"{m:.3f} ± {s:.3f}" for m, s in zip(p.mean(0), p.std(0))]
rows = {"reference": [f"{p:.3f}" for p in p_ref],
        "optimum (7.16)": [f"{p:.3f}" for p in exact],
        "trained by (7.17)": spread(trained), "the winners": spread(winners)}
of_pictures = [f"r = {reward:g}" for reward in r]
tables.table({name: dict(zip(of_pictures, row)) for name, row in rows.items()}, index="",
             caption="Five pictures, beta = 0.5: mean and deviation of five draws")

# %% [markdown]
# DPO finds the optimum to about 0.001, and was told no reward. Ordinary training on the winners would give the last row, which no $\beta$ takes further.
#
# **Without $\log p$.** By lesson 1, $\log p \ge -\mathbb E_{t,\epsilon}[\ell] + \text{const}$, with weighted denoising losses $\ell$. Put the bound in place of all four $\log p$. That is an approximation: a difference of bounds bounds nothing, and their gaps are dropped. Now a mean stands inside $-\log\mathrm{sigmoid}$, which is convex. By Jensen's inequality, taking the mean outside gives an upper bound; one time and one noise, the same for all four, estimate it:
#
# $$\mathcal L = -\log\mathrm{sigmoid}\Big(-\beta\big[(\ell_w - \ell_w^{\text{ref}}) - (\ell_l - \ell_l^{\text{ref}})\big]\Big) \tag{7.18}$$
#
# The weights are dropped, too, as in the simple loss. (Wallace et al. 2024, eq. 14; there each picture has its own noise.)
#
# **A flawed judge** prefers red: the mean of the red channel less that of the others. Prompts name background and glasses. *Distance* is the root mean square difference from the base's predictions. **Best of $n$** trains nothing: the base draws $n$ pictures, the judge picks one. Controls: $\beta$ ten times as large, winners chosen by a coin, ordinary training on the winners. (`python tools/recipes/mini_sd_preference.py`)

# %%
with open(storage.ASSETS / "preference.csv") as file:
    rows = list(csv.DictReader(file))
paths = {}
for row in rows[1:]:
    start = [] if row["way"] == "best of n" else rows[:1]               # the base
    paths.setdefault((row["way"], row["seed"]), start[:]).append(row)

@plots.styled
def against_distance(measures):
    figure = plots.new_figure(10, 3.2)
    for axes, measure in zip(figure.subplots(1, len(measures)), measures):
        for (way, seed), path in paths.items():
            x, y, error = (np.array([float(row[name]) for row in path])
                           for name in ("distance", measure, f"{measure}_se"))
            label = f"{way}, seed {seed}" if way == "DPO" else way
            axes.errorbar(x, y, error, marker=".", label=label, capsize=2,
                          linestyle="none" if way == "best of n" else "-")
        axes.set(title=measure, xlabel="distance from the base")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    plots.display(figure, alt="judge, accuracy and variety against the distance")

against_distance(["judge", "background", "glasses", "variety"])

# %%
value = lambda row, name: f"{float(row[name]):.2f} ± {float(row[f'{name}_se']):.2f}"
shown = [row for row in rows
         if row["way"] in ("base", "DPO") or row["amount"] in ("16", "400")]
measures = ("judge", "background", "glasses", "variety", "distance")
tables.table([{"way": row["way"], "n or steps": row["amount"], "seed": row["seed"]}
              | {name: value(row, name) for name in measures} for row in shown],
             caption="500 pictures of 125 held-out prompts, standard errors over prompts")

# %%
with np.load(storage.ASSETS / "preference.npz") as pictures:
    plots.show({name.removesuffix(", 0"): torch.from_numpy(pictures[name]) / 127.5 - 1
                for name in pictures}, columns=6, title="The same six prompts and noises")

# %% [markdown]
# **What the figures show.** With 400 steps the judge's score rises from «...» to «...» and «...». Backgrounds are right in «...» and «...» % (base «...», guessing 50), glasses in «...» and «...» % (base «...»); four pictures of a prompt differ by «...» and «...» (base «...»). This is **Goodhart's law**: a measure that becomes a target ceases to be a good measure.
#
# Best of 16 reaches «...», with «...» % of the backgrounds; DPO after «...» steps «...», with «...» %. The larger $\beta$ stops at distance «...», score «...». Coin tosses move the model by «...», the judge by «...»: what reddens is the preference, not the training. Winners alone reach «...».
