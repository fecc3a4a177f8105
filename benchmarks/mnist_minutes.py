"""How well does a class-conditional digit model draw after one minute, or three, on this machine; and how fast does it train?

    python benchmarks/mnist_minutes.py                     both parts, 180 s of training
    python benchmarks/mnist_minutes.py --seconds 60 --picture digits.png
    python benchmarks/mnist_minutes.py --speed-only

Part 1 trains the same network with the course's loop and with a plain one (the loop that most tutorials show: DataLoader,
fp32, torch's default order of memory, AdamW as it comes, a Python loop for the average of weights, loss.item() at every step), in turns, and prints the ratio
of images per second. Part 2 trains with the course's loop, draws 2,000 digits in 20 steps at w = 2 (eta = 0) and at w = 1 (eta = 1),
and prints class agreement and Fréchet distance beside what 2,000 real training digits get. Both distances are to the 10,000 test digits.
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from course_lib import Denoiser, Schedule, UNet, cfg, clip, ddim, grid, last
from course_lib.lab import data, machine, metrics, plots, train
from course_lib.lab.batches import Batches
from course_lib.lab.run import Run

BATCH = 128


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(UNet(1, widths=(32, 64), num_classes=10), Schedule.cosine(), "v")


def plain_loop(x: torch.Tensor, y: torch.Tensor, seconds: float) -> float:
    """Images per second of the tutorial's loop, the network in torch's default order of memory."""
    D = denoiser()
    D.net.memory_format = torch.contiguous_format
    D.to(memory_format=torch.contiguous_format)
    average = {name: p.detach().clone() for name, p in D.named_parameters()}
    optimizer = torch.optim.AdamW(D.parameters(), lr=1e-3)
    start, count = time.perf_counter(), 0
    for images, labels in DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True):
        loss = D.loss(images, torch.rand(len(images)), y=labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, p in D.named_parameters():
            average[name] = 0.999 * average[name] + 0.001 * p.detach()
        loss.item()
        count += len(images)
        if time.perf_counter() - start > seconds:
            break
    return count / (time.perf_counter() - start)


def course_loop(x: torch.Tensor, y: torch.Tensor, seconds: float) -> float:
    """Images per second of course_lib.lab.train."""
    batches = Batches({"x0": x, "y": y}, BATCH, 0.1, {"y": 10}, 0, torch.device("cpu"))
    run = Run(denoiser(), batches, 4e-3, 0.02, None, seconds)
    while run.progress() < 1:
        run.advance()
    return run.step * BATCH / run.elapsed


def speed(x: torch.Tensor, y: torch.Tensor, rounds: int = 5, seconds: float = 6.0) -> None:
    course_loop(x, y, 2.0), plain_loop(x, y, 2.0)               # warm up
    pairs = [(course_loop(x, y, seconds), plain_loop(x, y, seconds)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    ours, plain = (statistics.median(column) for column in zip(*pairs))
    dtype = str(machine.precision(torch.device("cpu"))).removeprefix("torch.")
    print(f"training images per second on the CPU, median of {rounds} turns of {seconds:.0f} s: course loop {ours:,.0f} ({dtype}), "
          f"plain fp32 loop {plain:,.0f}; ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


@torch.no_grad()
def draw(D: Denoiser, y: torch.Tensor, w: float, eta: float, steps: int = 20) -> torch.Tensor:
    """One image per label y (N,), in `steps` steps of `ddim` with guidance weight w (eta = 1: ancestral sampling)."""
    schedule, g, parts = D.schedule, torch.Generator().manual_seed(1), []
    with machine.autocast():
        for labels in y.split(500):
            x = schedule.prior((len(labels), 1, 28, 28), generator=g, device=machine.device())
            guided = clip(cfg(D, w, {"y": 10}))
            parts.append(last(ddim(guided, schedule, x, grid(schedule, steps), eta, g, y=labels.to(x.device))).cpu())
    return torch.cat(parts)


def quality(D: Denoiser, y_train: torch.Tensor, n: int = 2000) -> None:
    """Agreement for evenly asked classes; distance for classes as frequent as in the training set."""
    even = torch.arange(10).repeat(n // 10)
    natural = y_train[torch.randperm(len(y_train), generator=torch.Generator().manual_seed(0))[:n]]
    floor = metrics.frechet_floor(n)
    distance = metrics.frechet_distance(metrics.features(draw(D, natural, 1.0, eta=1.0)), metrics.test_features())
    print(f"w = 2, 20 steps, eta = 0: class agreement {metrics.class_agreement(draw(D, even, 2.0, eta=0.0), even):.4f} (n = {n})")
    print(f"w = 1, 20 steps, eta = 1: Fréchet distance {distance:.2f}; {n} real digits {floor:.2f}; ratio {distance / floor:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--quality-only", action="store_true")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon", help="what moves the inner matrices")
    parser.add_argument("--batch", type=int, default=BATCH, help="images per step of the training in part 2")
    parser.add_argument("--picture", type=Path, help="save ten digits of each class, w = 2")
    args = parser.parse_args()
    if args.picture:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
    x, y = data.mnist("train")
    print(f"{machine.about()}; {sum(p.numel() for p in denoiser().parameters()) / 1e6:.2f} M parameters")
    if not args.quality_only:
        speed(x, y)
    if args.speed_only:
        return
    with tempfile.TemporaryDirectory() as runs:
        D = train.train(denoiser(), (x, y), seconds=args.seconds, batch=args.batch, lr=4e-3,
                        muon_lr=0.02 if args.optimizer == "muon" else 0.0, out=Path(runs) / "mnist")
    quality(D, y)
    if args.picture:
        plots.Pillow.fromarray(plots.pixels(draw(D, torch.arange(10).repeat_interleave(10), 2.0, eta=0.0), columns=10, scale=2)).save(args.picture)
        print(f"ten digits of each class, w = 2, 20 steps: {args.picture}")


if __name__ == "__main__":
    main()
