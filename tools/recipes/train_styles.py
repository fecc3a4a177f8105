"""The judge of ink styles, and the denoiser that draws digits in the style of a picture, from
configs/mnist_styles.toml; nine minutes on one core, and two for the judge and the numbers.

    python tools/recipes/train_styles.py
        fits the judge, trains, prints the numbers
    python tools/recipes/train_styles.py --ship
        ... and writes both files of course_lib/assets/checkpoints/
"""
import argparse
import json
import tomllib
from pathlib import Path

import torch
from torch import Tensor

from course_lib import Denoiser, Schedule, clip, editing, guidance, last
from course_lib.lab import styles, train
from course_lib.lab.storage import ASSETS, save_tensors
from course_lib.networks.unet import UNet

CONFIG = Path(__file__).parents[2] / "configs/mnist_styles.toml"
COMMAND = "python tools/recipes/train_styles.py --ship"


def partners(style: Tensor, seed: int) -> Tensor:
    """For each picture the number of another one in the same style: style (N,) -> (N,)."""
    rows, g = torch.arange(len(style)), torch.Generator().manual_seed(seed)
    for k in range(len(styles.STYLES)):
        same = (style == k).nonzero()[:, 0]
        same = same[torch.randperm(len(same), generator=g)]
        rows[same] = same.roll(1)
    return rows


@torch.no_grad()
def new_judge(n: int = 20_000) -> styles.StyleClassifier:
    """The judge, fitted to n training digits."""
    x, _, style = styles.styled(n)
    return styles.fit_discriminants(
        torch.cat([styles.feature_statistics(part) for part in x.split(200)]), style
    )


def trained(c: dict) -> Denoiser:
    """Each training digit in one style, told the style of another digit."""
    x, _, style = styles.styled(60_000, c["seed"])
    context = styles.style_tokens(x)[partners(style, c["seed"])]                        # (N, 1, 8)
    torch.manual_seed(c["seed"])
    net = UNet(
        1,
        c["widths"],
        context_dim=context.shape[2],
        attention_levels=c["attention_levels"],
        patch_size=c["patch_size"],
    )
    D = Denoiser(net, getattr(Schedule, c["schedule"])(), c["target"])
    how = {name: c[name] for name in ("steps", "batch_size", "lr", "muon_lr", "p_drop", "seed")}
    return train.train(
        D, {"x0": x, "context": context}, null={"context": 0.0}, run_name=c["checkpoint"], **how
    )


@torch.no_grad()
def judges_accuracy(n: int = 8000) -> dict[str, float]:
    """How often the judge names the style of test digits, in each style and in all."""
    x, _, style = styles.styled(n, 1, "test")
    right = styles.style_of(x) == style
    return {
        name: right[style == k].double().mean().item() for k, name in enumerate(styles.STYLES)
    } | {"all": right.double().mean().item()}


def results(D: Denoiser, tasks: styles.Transfers, steps: int) -> dict[str, Tensor]:
    """What each way of section 5.20 makes of the tasks, after what no transfer makes."""
    own, asked = styles.style_tokens(tasks.content), styles.style_tokens(tasks.example)
    none = torch.zeros_like(asked)
    wanted = styles.style_features(tasks.example)
    free = editing.match_features(clip(D), D.schedule, styles.style_features, wanted, 2.0)
    guided = guidance.cfg(D, 2.0, {"context": none})

    def noise_and_back(denoiser, context: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(0)                # the same noise for all
        path = editing.sdedit(
            clip(denoiser), D.schedule, tasks.content, 0.7, steps, generator=g, context=context
        )
        return last(path)

    def inversion(D_down) -> Tensor:
        conditions = {"context": own}, {"context": asked}
        path = editing.ddim_edit(
            D, D.schedule, tasks.content, steps, *conditions, D_down=clip(D_down)
        )
        return last(path)
    return {
        "nothing": tasks.content,
        "another digit in the style": tasks.example,
        "the answer": tasks.answer,
        "noise and back, style ignored": noise_and_back(D, none),
        "noise and back, told the style": noise_and_back(D, asked),
        "training-free": noise_and_back(free, none),
        "inversion": inversion(D),
        "inversion, w = 2 on the way down": inversion(guided),
    }


def transferred(D: Denoiser, n: int = 200, steps: int = 12) -> dict[str, dict]:
    """Every way, scored on n transfers between test digits (styles.score); and on those between
    READABLE styles.
    """
    tasks = styles.transfers(n)
    near = styles.between(tasks)

    def scores(x: Tensor, kept: Tensor | slice) -> dict[str, float]:
        found = styles.score(x[kept], styles.subset(tasks, kept))
        return {key: round(value, 4) for key, value in found.items()}
    return {
        name: scores(x, slice(None)) | {"among_the_six": scores(x, near)}
        for name, x in results(D, tasks, steps).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    c, folder = tomllib.loads(CONFIG.read_text()), ASSETS / "checkpoints"
    if arguments.ship:
        save_tensors(
            folder / "mnist_style_judge.safetensors",
            new_judge()._asdict(),
            {"about": {"data": c["data"], "command": COMMAND}},
        )
        styles.style_classifier.cache_clear()
    card = {"judge": judges_accuracy(), "machine": train.about_machine()}
    print(json.dumps(card["judge"], indent=1))
    D = trained(c)
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    card["transfers"] = transferred(D.requires_grad_(False))
    print(json.dumps(card["transfers"], indent=1))
    if arguments.ship:
        file = folder / f"{c['checkpoint']}.safetensors"
        train.save(D, file, data=c["data"], config=c, command=COMMAND, metrics=card)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
