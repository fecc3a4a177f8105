# %% [markdown]
# ## 7.10 Nine channels · deeper
#
# Lesson 5 inpainted with a model that had never seen a mask. Stable Diffusion's inpainting model was trained for it: its U-Net gets **nine channels**, the noisy latent (4), the mask at the latent's size (1), and the latent of the masked picture (4),
#
# $$\big[z_t;\; m;\; \mathrm{encode}(x\odot(1-m))\big] \tag{7.19}$$
#
# and everything else stays. It is channel concatenation (lesson 2), and needs a training of its own. It begins with the weights of the model without masks; the new channels' weights begin at zero, as in 7.8. Mini-SD's latent has 8 channels, so its inpainting U-Net has 8 + 1 + 8. It was trained on random rectangles; the file holds the U-Net alone, and the text encoder is mini-SD's.

# %%
mask = torch.zeros(1, 1, 32, 32)
mask[..., 21:, 9:23] = 1                                                # a body's place
parts = noun_parts.draw_parts(60, seed=13, split="test")
parts = parts[~torch.isin(parts[:, 3], held)][:40]
real = noun_parts.render(parts)
asked = parts.clone()
asked[:, 1:3] = parts.flip(0)[:, 1:3]               # another's body and accessory
wanted = noun_parts.render(asked)

def nine_channels(vae, x, m):                                           # (7.19), without z_t
    masked = vae.to_latents((x * (1 - m)).to(device))                   # (B, 8, 8, 8)
    small = F.max_pool2d(m, vae.factor).to(device)      # anew where any pixel is
    return torch.cat([small.expand(len(x), -1, -1, -1), masked], 1)

extra = nine_channels(vae, real, mask)
torch.testing.assert_close(extra, extra_channels(vae, real, mask))
inpainter = load_inpainting("mini_sd_inpaint", mini)
print(tuple(extra.shape), "beside z_t (40, 8, 8, 8): the first layer's weight is",
      tuple(inpainter.net.unet.stem.weight.shape))

# %% [markdown]
# The decoder changes *every* pixel a little, known ones too. So the original is pasted back:
#
# $$x_{\text{out}} = m\odot\mathrm{decode}(z_0) + (1-m)\odot x \tag{7.20}$$
#
# **Is the training worth it?** Beside it stand lesson 5's two tricks with mini-SD itself, in the latents: the prediction's known places replaced by the picture's latent, (5.25), and RePaint with four repetitions, (5.28). The caption asks for another body and accessory; all start from the same noise.

# %%
noise = mini.schedule.sample_prior((40, 8, 8, 8), generator=seeded(0)).to(device)
tokens = mini.net.tokenizer(noun_parts.plain_captions(asked)).to(device)
z, small, ts = vae.to_latents(real.to(device)), extra[:1, :1], timesteps(mini.schedule, 10)
guided, trained = (cfg(D, 2.0, D.net.null) for D in (mini, inpainter))
states = {
    "nine channels": dpmpp(trained, mini.schedule, noise, ts, tokens=tokens, extra=extra),
    "prediction replaced": dpmpp(editing.inpaint(guided, z, small), mini.schedule, noise, ts,
                                 tokens=tokens),
    "RePaint, 4": editing.repaint(guided, mini.schedule, noise[:10], z[:10], small, ts,
                                  resample=4, generator=seeded(0), tokens=tokens[:10]),
}
decoded = {name: vae.to_images(last(path)).cpu().clamp(-1, 1) for name, path in states.items()}
pasted = {name: torch.where(mask.bool(), x, real[:len(x)]) for name, x in decoded.items()}
rows = {"known": real * (1 - mask)} | pasted | {"asked for": wanted}
plots.show({name: x[:10] for name, x in rows.items()}, columns=10, title="Another shirt")

# %% [markdown]
# **What is measured.** *Right*: the body and the accessory that were asked for. *Known pixels*: the mean absolute error of the pixels outside the mask before (7.20), in [-1, 1]. *Seam*: over all pairs of neighbours with the mask's border between them, the mean absolute difference; less that of the real figure with the asked-for shirt. Pasting back must not be paid for by a visible border.

# %%
card = inpainter.about["metrics"]
rows = {}
for name in ("nine channels", "prediction replaced", "RePaint, 4", "reconstruction"):
    row = card[name]
    rows[name] = {"evaluations": row["evaluations"]} | {
        what: f"{row[what][0]:.1%} ± {row[what][1]:.1%}" for what in ("body", "accessory")
    } | {
        what: f"{row[what][0]:.4f} ± {row[what][1]:.4f}"
        for what in ("known pixels", "seam", "seam before pasting")
    }
tables.table(rows, caption=f"n = {card['n']}; {card['judged_by']}")

live = {}
for name in ("nine channels", "prediction replaced"):
    right = attributes.attributes_correct(pasted[name], asked).double().mean(0)
    excess = seam(pasted[name], mask) - seam(wanted, mask)
    live[name] = {"body": f"{right[1]:.0%}", "accessory": f"{right[2]:.0%}",
                  "known pixels": known_error(decoded[name], real, mask).mean(),
                  "seam": excess.mean(), "±": excess.std() / 40**0.5}
tables.table(live, ".4f", caption="n = 40, here")

# %% [markdown]
# **What figure and tables show.** «n = 500. The network with nine channels draws the asked-for body in ... %, the accessory in ... %; the trick, at the same 20 evaluations, in ... and ... %; RePaint, at 74, in ... %. The known pixels are off by ... before pasting, ... in the trick, and ... where a figure only goes through the autoencoder: so that part no sampler can mend, and (7.20) is needed with both. After pasting the seam is ... ± ... above that of real figures of ....» The trick needs no training and any mask works; the network had to be trained once, and reads the mask as it reads a caption.
