"""Training speed idle and beside a busy process, for several ways in which OpenMP's threads wait.

    python benchmarks/under_load.py                  four settings, in turns, six minutes
    python benchmarks/under_load.py --rounds 1 --seconds 5

Two threads that share a step wait for each other at its end. By default the one that is early
spins, and keeps the core on which a third process, or the other thread, could run. Each line is the
median of the rounds; `kept` is beside the default's idle speed. GOMP is the OpenMP of torch on
Linux; it reads these variables once, when torch is imported.
"""
import argparse
import os
import statistics
import subprocess
import sys

CHILD = """
import sys, time, torch
from course_lib import Denoiser, Schedule, UNet
from course_lib.lab import data, train
from course_lib.lab.training.batches import BatchSampler
torch.manual_seed(0)
D = Denoiser(UNet(1, widths=(32, 64), num_classes=10), Schedule.cosine(), "v")
x, y = data.mnist("test")
task = train.Denoising(D)
batches = BatchSampler({"x0": x, "y": y}, 128, 0, torch.device("cpu"), task.draw)
state = train.TrainState(task, batches, train.TrainConfig(steps=10**6))
for _ in range(3):
    state.advance()
start, count = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[1]):
    state.advance()
    count += 128
print(count / (time.perf_counter() - start))
"""
SETTINGS = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def speed(seconds: float, setting: dict[str, str], busy: bool) -> float:
    """Images per second of a training in a process of its own, beside a busy one if asked for."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING} | setting
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, "-c", CHILD, str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = {(name, busy): [] for name in SETTINGS for busy in (False, True)}
    for _ in range(arguments.rounds):
        for name, busy in found:
            found[name, busy].append(speed(arguments.seconds, SETTINGS[name], busy))
    median = {key: statistics.median(values) for key, values in found.items()}
    base = median["default", False]
    print(f"{'images/s':14} {'idle':>8} {'kept':>6} {'beside one':>11} {'kept':>6}")
    for name in SETTINGS:
        idle, beside = median[name, False], median[name, True]
        print(f"{name:14} {idle:8.0f} {idle / base:6.0%} {beside:11.0f} {beside / base:6.0%}")


if __name__ == "__main__":
    main()
