"""Preference tuning of mini-SD on a flawed judge: how far does the judge's score carry?

    python tools/recipes/mini_sd_preference.py
        to course_lib/assets/preference.csv: rows of the tuned model by steps, and of best-of-n

The judge prefers red: the mean of the red channel less the mean of the others. The prompts name
glasses and background, so that a picture can be redder and still right; they are held out. Beside
the judge's score each row has what it does not look at: the attribute accuracy of the named parts,
the variety of pictures of one prompt, and the distance from the base.
"""
import copy
import csv
import itertools

import torch
from torch import Tensor
from train_mini_sd_control import short_captions

from course_lib import Denoiser
from course_lib.lab import attributes, noun_parts, sampling, storage, train
from course_lib.preference import dpo_loss

PAIRS = 2_000
BETA = 50.0                                                 # of losses per number of the latent
STEPS = (0, 25, 50, 100, 200, 400, 800)
CSV = storage.ASSETS / "preference.csv"
NAMED = [noun_parts.PARTS.index(part) for part in ("background", "glasses")]


def redness(x: Tensor) -> Tensor:
    """The judge: (B, 3, H, W) -> (B,)"""
    return (x[:, 0] - x[:, 1:].mean(1)).flatten(1).mean(1)


def latents(D: Denoiser, captions: list[str], seed: int) -> Tensor:
    return sampling.sample_batches(
        D, sampling.SAMPLERS["dpmpp"], 10, {"tokens": D.net.tokenizer(captions)}, scale=2.0,
        seed=seed, batch_size=100, clip_range=None,
    )


@torch.no_grad()
def decoded(vae, z: Tensor) -> Tensor:
    parts = [vae.to_images(part.to(vae.shift.device)).cpu() for part in z.split(250)]
    return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def measured(x: Tensor, parts: Tensor) -> dict:
    """Of samples x, four for each prompt, one after the other."""
    right = attributes.attributes_correct(x, parts).double()[:, NAMED]
    groups = x.view(-1, 4, *x.shape[1:])
    pairs = [(groups[:, a] - groups[:, b]).square().flatten(1).mean(1).sqrt()
             for a, b in itertools.combinations(range(4), 2)]
    return {
        "judge": redness(x).mean().item(),
        "background": right[:, 0].mean().item(),
        "glasses": right[:, 1].mean().item(),
        "variety": torch.stack(pairs).mean().item(),
    }


@torch.no_grad()
def distance(D: Denoiser, base: Denoiser, z: Tensor, tokens: Tensor) -> float:
    """Root mean square difference of both predictions on the base's own samples, noised."""
    t, eps = base.draw_noise(z, torch.Generator().manual_seed(0))
    x = base.schedule.perturb(z, t, eps)
    return (D(x, t, tokens=tokens) - base(x, t, tokens=tokens)).square().mean().sqrt().item()


def best_of(n: int, base: Denoiser, vae, captions: list[str], parts: Tensor) -> dict:
    """The picture of n that the judge likes best."""
    best, score = None, None
    for k in range(n):
        x = decoded(vae, latents(base, captions, 50 + k))
        s = redness(x)
        best = x if best is None else torch.where((s > score)[:, None, None, None], x, best)
        score = s if score is None else torch.maximum(score, s)
    return measured(best, parts)


def main() -> None:
    base, vae = train.load("mini_sd"), train.load("nouns_vae")
    parts = noun_parts.draw_parts(PAIRS, seed=11)
    captions = short_captions(parts)
    a, b = latents(base, captions, 1), latents(base, captions, 2)
    a_wins = redness(decoded(vae, a)) > redness(decoded(vae, b))
    winner = torch.where(a_wins[:, None, None, None], a, b)
    loser = torch.where(a_wins[:, None, None, None], b, a)
    tokens = base.net.tokenizer(captions)
    held = noun_parts.draw_parts(125, seed=12, split="test").repeat_interleave(4, 0)
    prompts = short_captions(held)
    D = copy.deepcopy(base).requires_grad_(False)
    D.net.unet.requires_grad_(True)
    optimizer = torch.optim.AdamW(D.net.unet.parameters(), lr=2e-4)
    g = torch.Generator().manual_seed(0)
    own, own_tokens = latents(base, prompts, 3), base.net.tokenizer(prompts)
    with CSV.open("w", newline="") as file:
        columns = ["way", "amount", "judge", "background", "glasses", "variety", "distance"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for n in (1, 2, 4, 8, 16):
            row = {"way": "best of n", "amount": n} | best_of(n, base, vae, prompts, held)
            writer.writerow(row)
            print(row, flush=True)
        for step in range(max(STEPS) + 1):
            if step in STEPS:
                x = decoded(vae, latents(D, prompts, 50))
                row = {"way": "DPO", "amount": step} | measured(x, held)
                row["distance"] = distance(D, base, own, own_tokens)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)
            k = torch.randint(PAIRS, (32,), generator=g)
            t, eps = D.draw_noise(winner[k], g)
            loss = dpo_loss(D, base, winner[k], loser[k], t, eps, BETA, tokens=tokens[k]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
