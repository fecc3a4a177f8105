"""A small model of dequantised digits, trained for its likelihood, and its bits per dimension.

    python tools/recipes/mnist_likelihood.py
        trains (12 minutes on two idle cores), prints the numbers
    python tools/recipes/mnist_likelihood.py --ship
        ... and writes course_lib/assets/checkpoints/mnist_likelihood.safetensors

Uniform noise fills each grey level's bin. The loss is the variational bound's: squared errors of
eps, at noise levels drawn evenly in log-SNR. Two numbers are computed for the same test digits with
the same dequantisation: the probability-flow ODE's (one Hutchinson probe) and the bound's. What was
chosen is then changed: twice the steps, four probes, a smaller first level.
"""
import argparse
import json
import math

import torch
from torch import Tensor

from course_lib import Denoiser, Schedule, UNet, sde
from course_lib.lab import data, train
from course_lib.lab.storage import CHECKPOINTS
from course_lib.lab.training.batches import floats

NAME = "mnist_likelihood"
COMMAND = f"python tools/recipes/{NAME}.py --ship"
DELTA = 2 / 255                                             # from one grey level to the next
LEVELS = (15.0, -8.0)                                       # log-SNR, from clean to noisy
OPTIONS = {"steps": 5_000, "batch_size": 128, "seed": 0}
EDM = Schedule.edm()


def dequantised(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images of 256 levels in [-1, 1] with uniform noise in their bins."""
    return x + DELTA * (torch.rand(x.shape, generator=generator) - 0.5).to(x)


def draw(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    return batch | {"x0": dequantised(batch["x0"], generator)}


def even_log_snr(u: Tensor) -> Tensor:
    """Uniform numbers to times, evenly in log-SNR; larger numbers give noisier times."""
    high, low = LEVELS
    return EDM.t_from_log_snr(high + (low - high) * u.double()).to(u.dtype)


def eps_weight(log_snr: Tensor) -> Tensor:
    """The eps loss over EDM's: c_out^2 / sigma^2, sigma_data = 0.5. (Karras et al. 2022)"""
    variance = (-log_snr).exp()
    return 0.25 / (variance + 0.25)


def trained() -> Denoiser:
    torch.manual_seed(0)
    D = Denoiser(UNet(1, widths=(32, 64)), EDM, "edm", sigma_data=0.5)
    return train.train(
        D,
        {"x0": data.mnist("train")[0]},
        draw=draw,
        time_sampler=even_log_snr,
        loss_weight=eps_weight,
        data_range=None,
        run_name=NAME,
        **OPTIONS,
    )


def grid(steps: int, high: float = LEVELS[0]) -> Tensor:
    """A rising grid of times, even in log-SNR."""
    return EDM.t_from_log_snr(torch.linspace(high, LEVELS[1], steps + 1, dtype=torch.float64))


def to_bits(nats: Tensor, x: Tensor) -> Tensor:
    """-log p of dequantised images in nats as bits per dimension: (B,)"""
    return nats / x[0].numel() / math.log(2) - math.log2(DELTA)


def ode_bits(D: Denoiser, x: Tensor, steps: int = 50, probes: int = 1, high: float = 15.0,
             seed: int = 0) -> Tensor:
    """Bits per dimension of dequantised x under the probability-flow ODE, which starts at x."""
    g = torch.Generator().manual_seed(seed)
    parts = [
        -sde.log_likelihood(D, D.schedule, part, grid(steps, high), probes=probes, generator=g)
        for part in x.split(64)
    ]
    return to_bits(torch.cat(parts), x)


def bound_bits(D: Denoiser, x: Tensor, steps: int = 100, high: float = 15.0, seed: int = 0):
    """Bits per dimension of dequantised x by the variational bound."""
    g = torch.Generator().manual_seed(seed)
    parts = [
        sde.variational_bound(D, D.schedule, part, grid(steps, high), generator=g)
        for part in x.split(64)
    ]
    return to_bits(torch.cat(parts), x)


def card(D: Denoiser, n: int) -> dict:
    """Mean and standard error of the bits of n test digits, and what changes with each choice."""
    x = floats(data.mnist("test")[0][:n]).to(next(D.parameters()).device)
    x = dequantised(x, torch.Generator().manual_seed(1))
    numbers = lambda bits: [round(bits.mean().item(), 4), round((bits.std() / n**0.5).item(), 4)]
    ode, bound = ode_bits(D, x), bound_bits(D, x)
    others = {
        "ode, twice the steps": ode_bits(D, x, steps=100) - ode,
        "ode, four probes": ode_bits(D, x, probes=4) - ode,
        "ode, first log-SNR 13": ode_bits(D, x, high=13.0) - ode,
        "bound, twice the levels": bound_bits(D, x, steps=200) - bound,
        "bound, first log-SNR 13": bound_bits(D, x, high=13.0) - bound,
        "ode - bound": ode - bound,
    }
    return {
        "n": n,
        "ode": numbers(ode),
        "bound": numbers(bound),
        "differences": {name: numbers(bits) for name, bits in others.items()},
        "machine": train.about_machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    D = trained()
    if not D.done:
        raise SystemExit("stopped: the same command goes on from here")
    D.requires_grad_(False)
    numbers = card(D, arguments.n)
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        file = CHECKPOINTS / f"{NAME}.safetensors"
        about = {"data": "mnist", "steps": OPTIONS["steps"], "command": COMMAND}
        train.save(D, file, config=OPTIONS, metrics=numbers, **about)
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
