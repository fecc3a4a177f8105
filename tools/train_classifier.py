"""Train the digit classifier behind the course's metrics, from configs/mnist_classifier.toml; about five minutes on two cores.

    python tools/train_classifier.py [--out FILE]
"""
import argparse
import math
import sys
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.lab import machine
from course_lib.lab.checkpoint import save_tensors
from course_lib.lab.data import ASSETS, mnist
from course_lib.lab.metrics import DigitClassifier

CONFIG = Path(__file__).parents[1] / "configs/mnist_classifier.toml"


def augment(x: Tensor, c: dict, g: torch.Generator) -> Tensor:
    """Each digit a little turned, zoomed and moved: x (B, 1, 28, 28) -> the same shape."""
    between = lambda size: size * (2 * torch.rand(len(x), generator=g) - 1)             # (B,)
    angle, zoom = between(math.radians(c["degrees"])), 1 + between(c["zoom"])
    rows = [torch.stack([zoom * angle.cos(), -zoom * angle.sin(), 2 * between(c["shift"])], 1),
            torch.stack([zoom * angle.sin(), zoom * angle.cos(), 2 * between(c["shift"])], 1)]
    where = F.affine_grid(torch.stack(rows, 1), x.shape, align_corners=False)           # (B, 28, 28, 2)
    return F.grid_sample(x + 1, where, align_corners=False) - 1                         # outside the picture: black


@torch.no_grad()
def accuracy(net: DigitClassifier, x: Tensor, y: Tensor) -> float:
    net.eval()
    return torch.cat([net(part).argmax(1) for part in x.split(1000)]).eq(y).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "checkpoints/mnist_classifier.safetensors")
    out = parser.parse_args().out
    c = tomllib.loads(CONFIG.read_text())
    torch.manual_seed(c["seed"])
    g = torch.Generator().manual_seed(c["seed"])
    (x, y), (x_test, y_test) = mnist("train"), mnist("test")
    net, per_epoch = DigitClassifier(), len(x) // c["batch"]
    optimizer = torch.optim.AdamW(net.parameters(), lr=c["lr"], weight_decay=c["weight_decay"], fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, c["lr"], total_steps=c["epochs"] * per_epoch)
    for epoch in range(c["epochs"]):
        net.train()
        for rows in torch.randperm(len(x), generator=g)[: per_epoch * c["batch"]].split(c["batch"]):
            with machine.autocast("cpu"):
                loss = F.cross_entropy(net(augment(x[rows], c, g)), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        print(f"epoch {epoch + 1} of {c['epochs']}: test accuracy {accuracy(net, x_test, y_test):.4f}", flush=True)
    shipped = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in shipped.items()})
    header = {"net": {}, "about": {"data": "mnist", "config": c, "test_accuracy": accuracy(net, x_test, y_test),
                                   "command": "python tools/train_classifier.py"}}
    save_tensors(out, shipped, header)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, test accuracy {header['about']['test_accuracy']:.4f} as shipped in fp16")


if __name__ == "__main__":
    sys.exit(main())
