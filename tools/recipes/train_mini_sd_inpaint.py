"""Train mini-SD's inpainting U-Net: latent, mask and masked latent as its input.

    python tools/recipes/train_mini_sd_inpaint.py
        to runs/mini_sd_inpaint; stopped, the same command goes on
    python tools/recipes/train_mini_sd_inpaint.py --judge --ship
        500 figures get another shirt, and 500 the hidden half of their head: is the part right, how
        far off are the known pixels before the original is pasted back, and what is the seam;
        beside lesson 5's sampling tricks; with --ship also
        course_lib/assets/checkpoints/mini_sd_inpaint.safetensors

It begins with mini-SD's weights; the new channels of the first layer begin at zero. The text
encoder stays mini-SD's.
"""
import argparse
import json
from typing import NamedTuple

import torch
from ship_mini_sd import known_parts
from torch import Tensor, nn
from train_mini_sd import EXAMPLES, three_wordings, without_withheld
from train_mini_sd_control import reconstructions, with_error

from course_lib import Denoiser, cfg, dpmpp, editing, last, timesteps
from course_lib.lab import attributes, data, noun_parts, storage, train
from course_lib.lab.evaluation.inpainted import known_error, seam
from course_lib.lab.training import parts as model_parts
from course_lib.lab.training.configured import to_latents
from course_lib.networks.stable_diffusion.inpainting import extra_channels, inpainting_net

OPTIONS = dict(
    steps=1_400, batch_size=48, lr=2e-3, muon_lr=0.01, p_drop=0.3, data_range=None, seed=0
)
ASKED = [noun_parts.PARTS.index(part) for part in ("body", "accessory")]
COMMAND = "python tools/recipes/train_mini_sd_inpaint.py"


def masks(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Random rectangles, 1 where the picture is drawn anew: (n, 1, size, size)"""
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g) * 0.6
    high = low + 0.25 + 0.35 * torch.rand(n, 2, generator=g)
    place = (torch.arange(size) + 0.5) / size
    inside = [(place >= low[:, k, None]) & (place < high[:, k, None]) for k in range(2)]
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def trained(D: Denoiser, vae: nn.Module) -> Denoiser:
    """The inpainting model of a finished run, or of one that is trained now."""
    figures = without_withheld(data.nouns(EXAMPLES // 4))
    mask = masks(len(figures.x))
    pairs = zip(figures.x.split(500), mask.split(500))
    batch = {
        "x0": to_latents(figures.x, "nouns_vae"),
        "tokens": D.net.tokenizer(three_wordings(figures)),
        "extra": torch.cat([extra_channels(vae, x, m).cpu() for x, m in pairs]),
    }
    model = Denoiser(inpainting_net(D.net), D.schedule, D.target)
    model.net.unet.requires_grad_(True)
    return train.train(model, batch, run_name="mini_sd_inpaint", **OPTIONS)


# ---- how good it is

class Job(NamedTuple):
    """Pictures of which a part is drawn anew.

    x, wanted: (n, 3, 32, 32), what is known and what is asked for; mask: (1, 1, 32, 32), 1 = drawn
    anew; parts: (n, 5), of wanted; captions: of wanted, or empty; scale: of guidance; judged: parts
    """

    x: Tensor
    wanted: Tensor
    mask: Tensor
    parts: Tensor
    captions: list[str]
    scale: float
    judged: tuple[str, ...]


def another_shirt(n: int) -> Job:
    """Another body and accessory are asked for; the mask covers a body."""
    parts, g = known_parts(n, "test"), torch.Generator().manual_seed(7)
    asked, mask = parts.clone(), torch.zeros(1, 1, 32, 32)
    for column in ASKED:
        count = len(noun_parts.load_art().layers[noun_parts.PARTS[column]])
        step = torch.randint(1, count, (n,), generator=g)
        asked[:, column] = (parts[:, column] + step) % count
    mask[..., 21:, 9:23] = 1
    x, wanted = noun_parts.render(parts), noun_parts.render(asked)
    captions = noun_parts.plain_captions(asked)
    return Job(x, wanted, mask, asked, captions, 2.0, ("body", "accessory"))


def half_a_head(n: int) -> Job:
    """The right half of the head is hidden, and no caption says what it was."""
    parts, mask = known_parts(n, "test"), torch.zeros(1, 1, 32, 32)
    mask[..., 4:21, 16:28] = 1
    x = noun_parts.render(parts)
    return Job(x, x, mask, parts, [""] * n, 1.0, ("head", "glasses"))


JOBS = {"another shirt": another_shirt, "half a head": half_a_head}


def redrawn(D: Denoiser, inpainter: Denoiser, vae: nn.Module, job: Job) -> dict:
    """Pictures before the original is pasted back, by method, with the evaluations of each.

    All methods start from the same noise. Reconstruction: what is asked for, through the
    autoencoder.
    """
    extra = torch.cat([extra_channels(vae, part, job.mask) for part in job.x.split(250)])
    z, small = to_latents(job.x, "nouns_vae").to(extra), extra[:1, :1]
    g, schedule = lambda seed: torch.Generator().manual_seed(seed), D.schedule
    noise = schedule.sample_prior(z.shape, generator=g(0), device=z.device)
    ts = timesteps(schedule, 10)
    tokens = {"tokens": D.net.tokenizer(job.captions).to(z.device)}
    guided = lambda D: D if job.scale == 1 else cfg(D, job.scale, D.net.null)
    drawn = {
        "nine channels": dpmpp(guided(inpainter), schedule, noise, ts, extra=extra, **tokens),
        "prediction replaced": dpmpp(
            editing.inpaint(guided(D), z, small), schedule, noise, ts, **tokens
        ),
        "RePaint, 4": editing.repaint(
            guided(D), schedule, noise, z, small, ts, resample=4, generator=g(1), **tokens
        ),
    }
    calls = {"nine channels": 10, "prediction replaced": 10, "RePaint, 4": 37}
    passes = 1 if job.scale == 1 else 2
    found = {name: (decoded(vae, last(path)), passes * calls[name])
             for name, path in drawn.items()}
    return found | {"reconstruction": (reconstructions(vae, job.wanted), 0)}


def decoded(vae: nn.Module, z: Tensor) -> Tensor:
    return torch.cat([vae.to_images(part).cpu() for part in z.split(250)]).clamp(-1, 1)


@torch.no_grad()
def judged(D: Denoiser, inpainter: Denoiser, vae: nn.Module, job: Job) -> dict:
    """By method: share of right parts after pasting, error of the known pixels before, the seam
    after pasting and before less that of the real picture; with standard errors. *paired*: the
    share of right parts less that with nine channels, by pictures.
    """
    real = seam(job.wanted, job.mask)
    rows, all_right = {"seam of real pictures": with_error(real), "paired": {}}, {}
    columns = {part: noun_parts.PARTS.index(part) for part in job.judged}
    for name, (x, evaluations) in redrawn(D, inpainter, vae, job).items():
        pasted = torch.where(job.mask.bool(), x, job.x)
        right = attributes.attributes_correct(pasted, job.parts).double()
        change = right - all_right.setdefault("nine channels", right)
        rows["paired"][name] = {part: with_error(change[:, k]) for part, k in columns.items()}
        rows[name] = {"evaluations": evaluations} | {
            part: with_error(right[:, k]) for part, k in columns.items()
        } | {
            "known pixels": with_error(known_error(x, job.x, job.mask)),
            "seam": with_error(seam(pasted, job.mask) - real),
            "seam before pasting": with_error(seam(x, job.mask) - real),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="mini_sd", help="a shipped model, or its file")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    D, vae = train.load(arguments.base), train.load("nouns_vae")
    model = trained(D, vae)
    if not arguments.judge and not arguments.ship:
        return
    numbers = {name: judged(D, model, vae, job(arguments.n)) for name, job in JOBS.items()}
    numbers |= {
        "n": arguments.n,
        "judged_by": f"{COMMAND} --judge --n {arguments.n}",
        "machine": train.about_machine(),
    }
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        ship(model, D, arguments.base, numbers)


def ship(model: Denoiser, D: Denoiser, base: str, numbers: dict) -> None:
    file = storage.CHECKPOINTS / "mini_sd_inpaint.safetensors"
    about = {
        "base": base,
        "command": COMMAND,
        "steps": model.history[-1][0],
        "options": OPTIONS,
        "metrics": numbers,
    }
    model_parts.save_inpainting(model, D, file, **about)
    print(f"{file}: {file.stat().st_size / 1e6:.3f} MB")


if __name__ == "__main__":
    main()
