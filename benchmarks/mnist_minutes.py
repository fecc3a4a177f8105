"""How well does a class-conditional digit model draw after one minute, or three, on this machine;
and how fast does it train?

    python benchmarks/mnist_minutes.py                     both parts, 180 s of training
    python benchmarks/mnist_minutes.py --seconds 60 --picture digits.png
    python benchmarks/mnist_minutes.py --speed-only

Part 1 trains the same network with the course's loop and with a plain one (the loop that most
tutorials show: DataLoader, fp32, torch's default order of memory, AdamW as it comes, a Python loop
for the average of weights, loss.item() at every step), in turns, and prints the ratio of images per
second and the share of the machine's matrix rate. Part 2 trains with the course's loop, draws 2,000
digits in 20 steps at w = 2 (eta = 0) and at w = 1 (eta = 1), and prints class agreement and Fréchet
distance beside what 2,000 real training digits get. Both distances are to the 10,000 test digits.
"""
import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from course_lib import Denoiser, Schedule, UNet, cfg, clip, ddim, last, timesteps
from course_lib.lab import data, features, metrics, plots, profiling, train

BATCH = 64
COSINE = Schedule.cosine()
# where the digit is decided (lesson 1, 1.11), log-SNR N(-1, 2^2)
TIMES = train.normal_log_snr(COSINE, -1.0, 2.0)


def denoiser() -> Denoiser:
    """Pixels as they are, as in configs/mnist.toml."""
    torch.manual_seed(0)
    net = UNet(1, widths=(16, 32, 64), patch_size=1, num_classes=10)
    return Denoiser(net, COSINE, "v")


def plain_loop(x: Tensor, y: Tensor, seconds: float) -> float:
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


def course_loop(x: Tensor, y: Tensor, seconds: float) -> float:
    """Images per second of course_lib.lab.training."""
    task = train.Denoising(denoiser())
    batches = train.BatchSampler({"x0": x, "y": y}, BATCH, 0, torch.device("cpu"), task.draw)
    state = train.TrainState(task, batches, train.TrainConfig(seconds=seconds))
    while state.progress() < 1:
        state.advance()
    return state.step * BATCH / state.elapsed


def speed(x: Tensor, y: Tensor, rounds: int = 5, seconds: float = 6.0) -> None:
    for loop in (course_loop, plain_loop):                  # warm up
        loop(x, y, seconds / 3)
    pairs = [(course_loop(x, y, seconds), plain_loop(x, y, seconds)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in pairs)
    ours, plain = (statistics.median(column) for column in zip(*pairs))
    dtype = str(train.precision(torch.device("cpu"))).removeprefix("torch.")
    print(
        f"training images per second on the CPU, median of {rounds} turns of {seconds:.0f} s: "
        f"course loop {ours:,.0f} ({dtype}), plain fp32 loop {plain:,.0f}; "
        f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    utilisation(x[:BATCH], y[:BATCH], ours / BATCH)


def utilisation(x: Tensor, y: Tensor, steps_per_second: float, size: int = 1024) -> None:
    """What a step computes, beside the machine's own rate for a product of two matrices."""
    with FlopCounterMode(display=False) as counter:
        denoiser().loss(x, torch.rand(len(x)), y=y).mean().backward()
    work = counter.get_total_flops() / 1e9
    a = torch.randn(size, size, dtype=train.precision(torch.device("cpu")))
    [seconds] = profiling.median_seconds(lambda: a @ a)
    rate = 2 * size**3 / 1e9 / seconds
    done = work * steps_per_second
    print(
        f"a step of {len(x)} is {work:.1f} GFLOP: {done:,.0f} GFLOP/s, {done / rate:.0%} of the "
        f"{rate:,.0f} GFLOP/s of a matrix product"
    )


@torch.no_grad()
def draw(D: Denoiser, y: Tensor, scale: float, eta: float, steps: int = 20) -> Tensor:
    """One image per label y (N,), in `steps` steps of `ddim` with this guidance scale (eta = 1:
    ancestral sampling)."""
    schedule, device = D.schedule, train.default_device()
    g, parts = torch.Generator().manual_seed(1), []
    guided = clip(cfg(D, scale, {"y": 10}))
    with train.autocast():
        for labels in y.split(500):
            x = schedule.sample_prior((len(labels), 1, 28, 28), generator=g, device=device)
            ts = timesteps(schedule, steps)
            path = ddim(guided, schedule, x, ts, eta=eta, generator=g, y=labels.to(x.device))
            parts.append(last(path).cpu())
    return torch.cat(parts)


def quality(D: Denoiser, y_train: Tensor, n: int = 2000) -> None:
    """Agreement for evenly asked classes; distance for classes as frequent as in training."""
    even = torch.arange(10).repeat(n // 10)
    order = torch.randperm(len(y_train), generator=torch.Generator().manual_seed(0))
    natural = features.digit_features(draw(D, y_train[order[:n]], 1.0, eta=1.0))
    baseline = metrics.frechet_real_baseline(n)
    distance = metrics.frechet_distance(natural, features.features_of_test_split())
    agreement = metrics.class_agreement(draw(D, even, 2.0, eta=0.0), even)
    print(f"w = 2, 20 steps, eta = 0: class agreement {agreement:.4f} (n = {n})")
    print(
        f"w = 1, 20 steps, eta = 1: Fréchet distance {distance:.2f}; {n} real digits "
        f"{baseline:.2f}; ratio {distance / baseline:.2f}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--quality-only", action="store_true")
    parser.add_argument(
        "--optimizer",
        choices=("muon", "adamw"),
        default="muon",
        help="what moves the inner matrices",
    )
    parser.add_argument(
        "--batch", type=int, default=BATCH, help="images per step of the training in part 2"
    )
    parser.add_argument(
        "--times",
        choices=("normal", "even"),
        default="normal",
        help="normal: more of them where the digit is decided",
    )
    parser.add_argument("--turn", type=float, default=6.0, help="seconds of each turn in part 1")
    parser.add_argument("--picture", type=Path, help="save ten digits of each class, w = 2")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.picture:
        args.picture.parent.mkdir(parents=True, exist_ok=True)
    x, y = data.mnist("train")
    parameters = profiling.count_parameters(denoiser())
    print(f"{train.about_machine()}; {parameters / 1e6:.2f} M parameters")
    if not args.quality_only:
        speed(x, y, seconds=args.turn)
    if args.speed_only:
        return
    with tempfile.TemporaryDirectory() as runs:
        D = train.train(
            denoiser(),
            (x, y),
            seconds=args.seconds,
            batch_size=args.batch,
            muon_lr=0.02 if args.optimizer == "muon" else 0.0,
            time_sampler=None if args.times == "even" else TIMES,
            run_name=Path(runs) / "mnist",
        )
    seen = D.history[-1][0] * args.batch
    print(f"{seen:,} images seen in {args.seconds:.0f} s")
    quality(D, y)
    if args.picture:
        samples = draw(D, torch.arange(10).repeat_interleave(10), 2.0, eta=0.0)
        sheet = plots.Pillow.fromarray(plots.pixels(samples, columns=10, scale=2))
        sheet.save(args.picture)
        print(f"ten digits of each class, w = 2, 20 steps: {args.picture}")


if __name__ == "__main__":
    main()
