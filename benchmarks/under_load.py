"""Training speed idle and beside a busy process: threads bound to their cores, and as torch has it.

    python benchmarks/under_load.py                  six settings, in turns, ten minutes
    python benchmarks/under_load.py --rounds 1 --seconds 5 --only default bound

Two threads that share a step wait for each other at its end. By default the one that is early
spins, and keeps the core on which a third process, or the other thread, could run. Each line is the
median of the rounds and their range; `kept` is beside the default's idle speed. `bound` is what
`course_lib.threads` does, the others are OpenMP's own settings, which torch reads when it is
imported.
"""
import argparse
import os
import statistics
import subprocess
import sys

CHILD = """
import sys, time
if sys.argv[2] != "bound":
    import torch
from course_lib import Denoiser, Schedule, UNet, threads
from course_lib.lab import data, train
from course_lib.lab.training.batches import BatchSampler
import torch
assert threads.are_bound() == (sys.argv[2] == "bound")
torch.manual_seed(0)
D = Denoiser(UNet(1, widths=(32, 64), num_classes=10), Schedule.cosine(), "v")
x, y = data.mnist("test")
task = train.Denoising(D)
batches = BatchSampler({"x0": x, "y": y}, 128, 0, torch.device("cpu"), task.draw)
state = train.TrainState(task, batches, train.TrainConfig(steps=10**6))
with threads.on_own_core():
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
    "bound": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
}
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES")
OTHERS = {
    "idle": None,
    "beside Python": "while True: pass",
    "beside torch": "import torch\na = torch.randn(700, 700)\nwhile True: a @ a",
}


def speed(seconds: float, name: str, other: str | None) -> float:
    """Images per second of a training in a process of its own, beside a busy one if asked for."""
    environment = {k: v for k, v in os.environ.items() if k not in WAITING}
    busy = subprocess.Popen([sys.executable, "-c", other], env=environment) if other else None
    try:
        command = [sys.executable, "-c", CHILD, str(seconds), name]
        environment |= SETTINGS[name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parser.parse_args()
    found = {(name, other): [] for name in arguments.only for other in OTHERS}
    for _ in range(arguments.rounds):
        for name, other in found:
            found[name, other].append(speed(arguments.seconds, name, OTHERS[other]))
    base = statistics.median(found[arguments.only[0], "idle"])
    print(f"{'images/s':12}" + "".join(f"{other:>28}" for other in OTHERS))
    for name in arguments.only:
        cells = ""
        for other in OTHERS:
            seen = found[name, other]
            middle = statistics.median(seen)
            cells += f"{middle:12.0f} ({min(seen):4.0f} to {max(seen):4.0f}){middle / base:5.0%}"
        print(f"{name:12}" + cells)


if __name__ == "__main__":
    main()
