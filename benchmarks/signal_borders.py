"""What stands beside the ends of a signal: zeros, or its other end? Two short trainings of each.

    python benchmarks/signal_borders.py          # about 5 minutes of one core

The network of configs/drums.toml, 350 steps. Printed is the mean squared error of x0_hat at t = 0.5
in patches of 16 samples: the first, the last, and the mean of four in the middle, of 64 variants of
training recordings. Recordings are silent at both ends.
"""
import argparse

import torch
from torch import Tensor, nn

from course_lib import Denoiser, Schedule
from course_lib.lab import data, train
from course_lib.lab.data import percussion
from course_lib.networks.signal import SignalUNet

PATCH = 16
T = 0.5


def padded(mode: str) -> SignalUNet:
    """The network with this padding of its convolutions."""
    net = SignalUNet(1, widths=(32, 48, 64), patch_size=PATCH, num_classes=4)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size[1] > 1:
            layer.padding_mode = mode
    return net


def trained(mode: str, x: Tensor, y: Tensor, steps: int, seed: int) -> Denoiser:
    torch.manual_seed(seed)
    schedule = Schedule.cosine()
    how = {"steps": steps, "batch_size": 32, "lr": 4e-3, "muon_lr": 0.02, "seed": seed}
    sampler = train.normal_log_snr(schedule, 2.0, 3.0)
    D = Denoiser(padded(mode), schedule, "v")
    return train.train(D, {"x0": x, "y": y}, time_sampler=sampler, device="cpu", **how)


@torch.no_grad()
def errors(D: Denoiser, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of each patch: (patches,)"""
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    x0_hat = D(D.schedule.perturb(x, T, eps), T, y=y)
    return (x0_hat - x).square().mean((0, 1)).unflatten(0, (-1, PATCH)).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    real = data.drums("train")
    x, rows = percussion.augment(real.x, 2000)
    y = real.y[rows]
    for seed in range(arguments.seeds):
        for mode in ("zeros", "circular"):
            error = errors(trained(mode, x, y, arguments.steps, seed), x[:64], y[:64])
            middle = len(error) // 2
            of = {"first": error[0], "middle": error[middle - 2 : middle + 2].mean(),
                  "last": error[-1]}
            said = ", ".join(f"{name} {value:.4f}" for name, value in of.items())
            print(f"{mode}, seed {seed}: {said}", flush=True)


if __name__ == "__main__":
    main()
