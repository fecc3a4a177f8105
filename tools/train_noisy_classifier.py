"""Train the classifier that sees noise, from configs/mnist_noisy_classifier.toml; about four minutes on one core.

    python tools/train_noisy_classifier.py [--out FILE]
"""
import argparse
import sys
import tomllib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import Schedule
from course_lib.lab import machine
from course_lib.lab.checkpoint import save_tensors
from course_lib.lab.data import ASSETS, mnist
from course_lib.lab.features import NoisyClassifier

CONFIG = Path(__file__).parents[1] / "configs/mnist_noisy_classifier.toml"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.9)


@torch.no_grad()
def judged(net: NoisyClassifier, schedule: Schedule, x: Tensor, y: Tensor, t: float, seed: int = 0) -> dict[str, float]:
    """Accuracy on noisy digits of level t, and the mean of -log p(y | x_t): log 10 = 2.30 is knowing nothing."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    x_t, t = schedule.perturb(x, torch.tensor(t), noise), torch.tensor(t)
    logits = torch.cat([net(part, t) for part in x_t.split(1000)])
    return {"accuracy": logits.argmax(1).eq(y).double().mean().item(), "negative_log_prob": F.cross_entropy(logits, y).item()}


def trained(c: dict, schedule: Schedule, x: Tensor, y: Tensor) -> NoisyClassifier:
    """Cross-entropy on digits at every noise level: one t in each slice of (0, 1] per batch."""
    torch.manual_seed(c["seed"])
    g, net = torch.Generator().manual_seed(c["seed"]), NoisyClassifier(c["width"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=c["lr"], weight_decay=c["weight_decay"], fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, c["lr"], total_steps=c["steps"])
    for step in range(c["steps"]):
        rows = torch.randint(len(x), (c["batch"],), generator=g)
        t = (1 - (torch.arange(c["batch"]) + torch.rand(c["batch"], generator=g)) / c["batch"]).clamp(min=1e-6)     # (B,)
        x_t = schedule.perturb(x[rows], t, torch.randn(len(rows), *x.shape[1:], generator=g))
        with machine.autocast("cpu"):
            loss = F.cross_entropy(net(x_t, t), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1} of {c['steps']}: loss {loss.item():.4f}", flush=True)
    return net.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS / "checkpoints/mnist_noisy_classifier.safetensors")
    out = parser.parse_args().out
    c = tomllib.loads(CONFIG.read_text())
    schedule = getattr(Schedule, c["schedule"])()
    net = trained(c, schedule, *mnist("train"))
    shipped = {name: value.half() for name, value in net.state_dict().items()}
    net.load_state_dict({name: value.float() for name, value in shipped.items()})
    levels = {str(t): judged(net, schedule, *mnist("test"), t) for t in LEVELS}
    header = {"net": {"width": c["width"]}, "about": {"data": "mnist", "schedule": c["schedule"], "config": c, "test_at_t": levels,
                                                      "command": "python tools/train_noisy_classifier.py", "machine": machine.about()}}
    save_tensors(out, shipped, header)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")
    for t, numbers in levels.items():
        print(f"t = {t}: test accuracy {numbers['accuracy']:.4f}, -log p {numbers['negative_log_prob']:.3f}")


if __name__ == "__main__":
    sys.exit(main())
