"""Train the digit classifier behind the course's metrics, from configs/mnist_classifier.toml.

    python tools/recipes/train_classifier.py [--out FILE]        about five minutes on two cores
    python tools/recipes/train_classifier.py --seconds 60 --out /tmp/classifier.safetensors
"""
import argparse
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.lab import train
from course_lib.lab.data import mnist
from course_lib.lab.storage import CHECKPOINTS
from course_lib.lab.training.config import override, read_config
from course_lib.networks.classifiers import DigitClassifier

CONFIG = Path(__file__).parents[2] / "configs/mnist_classifier.toml"
COMMAND = "python tools/recipes/train_classifier.py"


def augment(x: Tensor, options: dict, g: torch.Generator) -> Tensor:
    """Each digit a little turned, zoomed and moved: x (B, 1, 28, 28) -> the same shape."""
    def between(size: float) -> Tensor:
        return size * (2 * torch.rand(len(x), generator=g) - 1)             # (B,)
    angle, zoom = between(math.radians(options["degrees"])), 1 + between(options["zoom"])
    rows = [
        torch.stack([zoom * angle.cos(), -zoom * angle.sin(), 2 * between(options["shift"])], 1),
        torch.stack([zoom * angle.sin(), zoom * angle.cos(), 2 * between(options["shift"])], 1),
    ]
    maps = torch.stack(rows, 1).to(x.device)                                # (B, 2, 3)
    grid = F.affine_grid(maps, x.shape, align_corners=False)                # (B, 28, 28, 2)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1              # black outside


@torch.no_grad()
def accuracy(net: DigitClassifier) -> float:
    """On the 10,000 test digits."""
    x, y = mnist("test")
    device = next(net.parameters()).device
    logits = torch.cat([net(part.to(device)).cpu() for part in x.split(1000)])
    return logits.argmax(1).eq(y).double().mean().item()


def trained(config: dict) -> DigitClassifier:
    """Cross-entropy on digits that are turned, zoomed and moved anew in each batch."""
    options = config["augment"]
    torch.manual_seed(config["train"]["seed"])
    return train.train(
        DigitClassifier(),
        mnist("train"),
        draw=lambda batch, g: batch | {"x0": augment(batch["x0"], options, g)},
        callback=lambda net, done: print(f"{done:.0%}: test accuracy {accuracy(net):.4f}"),
        run_name=config["checkpoint"],
        **config["train"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=CHECKPOINTS / "mnist_classifier.safetensors")
    parser.add_argument("--steps", type=int, help="in place of the configuration's")
    parser.add_argument("--seconds", type=float, help="in place of the configuration's steps")
    given = vars(parser.parse_args())
    out = given.pop("out")
    config = read_config(CONFIG)
    lengths = {name: value for name, value in given.items() if value is not None}
    config["train"] = override(config["train"], lengths)
    net = trained(config)
    if not net.done:
        sys.exit("stopped: the same command goes on from here")
    about = {"data": config["data"], "config": config, "command": COMMAND}
    train.save(net, out, **about)
    shipped = accuracy(train.load(out))                     # of the weights in fp16
    train.save(net, out, **about, test_accuracy=shipped, machine=train.about_machine())
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, test accuracy {shipped:.4f} in fp16")


if __name__ == "__main__":
    main()
