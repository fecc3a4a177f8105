# %% [markdown]
# ## 7.8 ControlNet
#
# A text says what is in a picture, hardly where. **How does a picture become a condition, without training the model again?** **ControlNet** (Zhang et al. 2023) freezes the U-Net and gives it a second encoder, which reads the **hint**: an outline, a pose, a depth map. Its features $u_k$ are added to the U-Net's skip connections $s_k$ through a **zero convolution**, a 1x1 convolution whose weight and bias begin at zero:
#
# $$s_k \leftarrow s_k + Z_k\,u_k, \qquad Z_k = 0 \text{ at first} \tag{7.13}$$
#
# So training begins at the model as it is, and no noise of fresh layers disturbs it. **Then why does anything learn?** Let $g = \partial\mathcal L/\partial s_k$ be the gradient that arrives. Then
#
# $$\frac{\partial\mathcal L}{\partial Z_k} = g\,u_k^\top \ne 0, \qquad \frac{\partial\mathcal L}{\partial u_k} = Z_k^\top g = 0 \tag{7.14}$$
#
# The zero layer has a gradient as soon as its *input* is not zero. Two steps of a toy, an encoder $u = Wh$ and a zero layer:

# %%
h, wanted = torch.randn(64, 3, generator=seeded(0)), torch.randn(64, 2, generator=seeded(1))
for name, W in {"W random": torch.randn(4, 3, generator=seeded(2)),
                "W zero, too": torch.zeros(4, 3)}.items():
    W, Z = W.requires_grad_(), torch.zeros(2, 4, requires_grad=True)
    print(name, end=":  ")
    for step in (1, 2):
        loss = (h @ W.T @ Z.T - wanted).square().mean()
        of_W, of_Z = torch.autograd.grad(loss, (W, Z))
        print(f"step {step}: |dZ| {of_Z.norm():.3f}, |dW| {of_W.norm():.3f}", end="   ")
        W, Z = (p.detach().sub(0.5 * d).requires_grad_() for p, d in ((W, of_W), (Z, of_Z)))
    print()

# %% [markdown]
# **What is printed.** The zero layer moves first, the encoder behind it from the second step on. If both began at zero, neither would ever move.
#
# **Mini-SD follows an outline.** Ours is smaller than the paper's copy of the encoder: it reads the hint alone, so it runs once a picture (as in T2I-Adapter, Mou et al. 2023). The captions omit what the outline shows: they name background and glasses, and not head, body and accessory.

# %%
mini.net.control = load_control("mini_sd_control", mini)
card = mini.net.control.about["metrics"]
print(f"{profiling.count_parameters(mini.net.control):,} parameters beside "
      f"{profiling.count_parameters(mini.net.unet):,};", mini.net.control.about["command"])
held = torch.tensor([noun_parts.index_of("head", name)
                     for name in mini.about["metrics"]["withheld"]])
parts = noun_parts.draw_parts(60, seed=12, split="test")
parts = parts[~torch.isin(parts[:, 3], held)][:40]                      # heads that it knows
real = noun_parts.render(parts)
hint = outline(real)                                                    # (40, 1, 32, 32)
short = [f"a noun with {name['glasses']} glasses, {name['background']} background"
         for name in noun_parts.part_names(parts)]
tokens = {"tokens": mini.net.tokenizer(short)}
draw = lambda condition: sampling.sample_batches(
    mini, sampling.SAMPLERS["dpmpp"], 10, condition, scale=2.0, vae=vae)
drawn = {"no hint": draw(tokens), "hint": draw(tokens | {"hint": hint})}
rows = {"the real figure": real, "its outline": 2 * hint - 1} | drawn
plots.show({name: x[:10] for name, x in rows.items()}, columns=10, title=short[0] + ", ...")

# %% [markdown]
# **How well?** The **F1** of two outlines is the harmonic mean of precision and recall, where a point within one pixel counts as found. Two numbers frame it. The baseline: samples without the hint, whose outlines agree as far as all figures are alike. The ceiling: the real figures through the autoencoder, which every sample has to pass.

# %%
with torch.no_grad():
    drawn["reconstruction"] = vae(real.to(device)).cpu().clamp(-1, 1)
rows, n, strange = {}, card["n"], card["withheld"]
for name, x in drawn.items():
    f1 = outline_f1(outline(x), hint)
    rows[name] = {
        "F1 of 40, here": f1.mean(), "±": f1.std() / 40**0.5,
        f"F1 of {n}, shipped": card["f1"][name][0], "± ": card["f1"][name][1],
        "head right": f"{card['right'][name]['head']:.0%}",
        "F1, withheld heads": strange["f1"][name][0], " ±": strange["f1"][name][1],
        "withheld head right": f"{strange['right'][name]['head']:.0%}",
    }
tables.table(rows, ".3f", caption=f"F1 of outlines, standard errors; {card['judged_by']}")
for name, (way, error) in {"known heads": card["way"], "withheld": strange["way"]}.items():
    print(f"{name}: {way:.0%} ± {error:.0%} of the way from no hint to the reconstruction")

# %% [markdown]
# **What figure and table show.** «The outline of the samples follows the hint: F1 rises from ... to ..., and the reconstruction has ...: that is ... % of the way. The head, which no caption named, is right in ... %, without the hint in ... %: most heads are known by their outline. Heads that mini-SD never saw: ... % of the way, and ... % right. ControlNet says *where*; what it has never seen, the frozen model cannot draw.»
