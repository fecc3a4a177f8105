"""A diffusion policy and two rivals round an obstacle: five seeds, 400 episodes each.

    python benchmarks/policies.py

Each model is trained for 1,500 steps of 128 on the demonstrations of 1,000 episodes, in half of
which a gust of 0.3 shows how to recover. Chunks of 8 actions, of which 8 or 1 are carried out
before the next look, and chunks of 1; without and with a gust. The expert itself stands beside
them, and regression on demonstrations without gusts. To course_lib/assets/policies.csv, a row for
each seed; about twelve minutes on two cores.
"""
import csv
import sys
from collections.abc import Callable

import torch
from torch import nn

from course_lib import Denoiser, Schedule
from course_lib.lab import policies, storage, train
from course_lib.lab.data import obstacle
from course_lib.networks.actions import ActionNet, MixtureNet, RegressionNet

CSV = storage.ASSETS / "policies.csv"
EPISODES, SEEDS, GUST = 400, 5, 0.3
TRAINING = {"steps": 1500, "batch_size": 128}
MODELS: dict[str, Callable[[int], nn.Module]] = {           # of about equal size
    "regression": lambda K: policies.Regression(RegressionNet(4, K, width=224)),
    "mixture density": lambda K: policies.MixtureDensity(MixtureNet(4, K, width=176)),
    "diffusion": lambda K: Denoiser(ActionNet(4, K), Schedule.cosine(), "edm"),
}
CHUNKS = ((8, 8), (8, 1), (1, 1))                           # actions of a chunk, carried out
CALM = "regression, calm"                                   # its demonstrations have no gusts


def trained(name: str, chunk: int, seed: int) -> tuple[nn.Module, obstacle.Policy]:
    """A model of the table and its policy. The demonstrations' seeds are not those of the worlds
    in which it is tested.
    """
    torch.manual_seed(seed)
    shown = obstacle.demonstrations(1000, 100 + seed, chunk, 0.0 if name == CALM else GUST)
    make = MODELS[name.removesuffix(", calm")]
    model = train.train(make(chunk), shown, seed=seed, device="cpu", **TRAINING)
    if not model.done:
        raise SystemExit("stopped: nothing was written")
    if name == "diffusion":
        return model, policies.diffusion_policy(model, model.schedule, steps=10)
    return model, model.sample


def judged(episodes: obstacle.Episodes) -> dict:
    """Success, the share of successes on the left, mean steps to the goal, changes of mind."""
    won = episodes.success
    return {
        "success": won.double().mean().item(),
        "left": (episodes.side[won] > 0).double().mean().item(),
        "steps": episodes.time[won].double().mean().item(),
        "turns": turns(episodes),
    }


def turns(episodes: obstacle.Episodes) -> float:
    """How often the vertical direction changes before the obstacle, a mean over the episodes."""
    up = episodes.actions[..., 1]
    steps = torch.arange(obstacle.LIMIT)
    before = episodes.paths[:, :-1, 0] < -obstacle.RADIUS
    before &= steps < episodes.time[:, None]
    turned = (up[:, 1:] * up[:, :-1] < 0) & before[:, 1:]
    return turned.sum(1).double().mean().item()


def rows_of(seed: int) -> list[dict]:
    """All rows of a seed."""
    rows = []

    def add(name: str, chunk: int, execute: int, gust: float, size: int, episodes) -> None:
        row = {"policy": name, "chunk": chunk, "execute": execute, "gust": gust, "seed": seed}
        row |= {"n": EPISODES, "parameters": size}
        row |= {k: round(v, 4) for k, v in judged(episodes).items()}
        print(row, flush=True)
        rows.append(row)
    for gust in (0.0, GUST):
        add("expert", 1, 1, gust, 0, obstacle.expert(EPISODES, seed, gust))
    for chunk in (8, 1):
        for name in (*MODELS, CALM):
            model, policy = trained(name, chunk, seed)
            size = sum(p.numel() for p in model.parameters())
            for gust in (0.0, GUST):
                for execute in [e for c, e in CHUNKS if c == chunk]:
                    options = {"execute": execute, "perturbation": gust}
                    episodes = obstacle.run(policy, EPISODES, seed, **options)
                    add(name, chunk, execute, gust, size, episodes)
    return rows


def main() -> None:
    if len(sys.argv) > 1:
        raise SystemExit(__doc__)
    rows = [row for seed in range(SEEDS) for row in rows_of(seed)]
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
