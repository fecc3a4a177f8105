"""Train the classifier that sees noise, from configs/mnist_noisy_classifier.toml.

    python tools/recipes/train_noisy_classifier.py [--out FILE]      about four minutes on one core
    python tools/recipes/train_noisy_classifier.py --seconds 60 --out /tmp/noisy.safetensors
"""
import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from course_lib import Schedule
from course_lib.lab import train
from course_lib.lab.data import mnist
from course_lib.lab.storage import CHECKPOINTS
from course_lib.lab.training.batches import Batch, Draw
from course_lib.lab.training.config import override, read_config
from course_lib.networks.classifiers import NoisyClassifier
from course_lib.schedules import randn_like

CONFIG = Path(__file__).parents[2] / "configs/mnist_noisy_classifier.toml"
COMMAND = "python tools/recipes/train_noisy_classifier.py"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.9)


@torch.no_grad()
def scores(net: NoisyClassifier, schedule: Schedule, level: float) -> dict[str, float]:
    """On test digits with noise of t = level: the accuracy, and the mean of -log p(y | x_t), which
    is log 10 = 2.30 for a guess."""
    x, y = mnist("test")
    x_t = schedule.perturb(x, torch.tensor(level), randn_like(x, torch.Generator().manual_seed(0)))
    device = next(net.parameters()).device
    logits = torch.cat([net(part.to(device), level).cpu() for part in x_t.split(1000)])
    accuracy = logits.argmax(1).eq(y).double().mean().item()
    return {"accuracy": accuracy, "negative_log_prob": F.cross_entropy(logits, y).item()}


def noise_at_any_time(schedule: Schedule) -> Draw:
    """The random inputs of the loss: one t in each of B equal slices of (0, 1], and x_t."""
    def draw(batch: Batch, g: torch.Generator) -> Batch:
        x0 = batch["x0"]
        slots = torch.arange(len(x0)) + torch.rand(len(x0), generator=g)
        t = (1 - slots / len(x0)).clamp(min=1e-6)                           # (B,)
        x_t = schedule.perturb(x0, t, randn_like(x0, g))
        return {"x": x_t, "t": t.to(x0.device), "y": batch["y"]}
    return draw


def trained(config: dict, schedule: Schedule) -> NoisyClassifier:
    """Cross-entropy on digits at every noise level."""
    def report(net: NoisyClassifier, done: float) -> None:
        print(f"{done:.0%}: test accuracy at t = 0.5 {scores(net, schedule, 0.5)['accuracy']:.4f}")
    torch.manual_seed(config["train"]["seed"])
    return train.train(
        NoisyClassifier(config["width"]),
        mnist("train"),
        draw=noise_at_any_time(schedule),
        callback=report,
        run_name=config["checkpoint"],
        **config["train"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = CHECKPOINTS / "mnist_noisy_classifier.safetensors"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--steps", type=int, help="in place of the configuration's")
    parser.add_argument("--seconds", type=float, help="in place of the configuration's steps")
    given = vars(parser.parse_args())
    out = given.pop("out")
    config = read_config(CONFIG)
    lengths = {name: value for name, value in given.items() if value is not None}
    config["train"] = override(config["train"], lengths)
    schedule = getattr(Schedule, config["schedule"])()
    net = trained(config, schedule)
    if not net.done:
        sys.exit("stopped: the same command goes on from here")
    about = {name: config[name] for name in ("data", "schedule")}
    about |= {"config": config, "command": COMMAND, "machine": train.about_machine()}
    train.save(net, out, **about)
    shipped = train.load(out)                               # the weights in fp16
    levels = {str(t): scores(shipped, schedule, t) for t in LEVELS}
    train.save(net, out, **about, test_at_t=levels)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
    for t, row in levels.items():
        print(f"t = {t}: accuracy {row['accuracy']:.4f}, -log p {row['negative_log_prob']:.3f}")


if __name__ == "__main__":
    main()
