"""Threads bound to their cores: during a training, and at no other time."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

linux = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="threads are bound on Linux, where there are two cores",
)
VARIABLES = ("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "MKL_NUM_THREADS")
TRAIN = """
import json, os, subprocess, sys
before = os.sched_getaffinity(0)
{first}
import course_lib
from course_lib import Denoiser, Schedule, threads
from course_lib.lab import train
import torch
from torch import nn


def cores():
    return [sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, t):
        large = torch.ones(1000, 1000)
        (large @ large).add(1).sum()                        # so large that all threads take part
        return self.linear(torch.cat([x, t[:, None]], 1))


seen = []


def look(D, done):
    seen.append([sorted(os.sched_getaffinity(0)), cores()])
    if {fails}:
        raise RuntimeError("planned")


D = Denoiser(Net(), Schedule.cosine(), "v")
try:
    train.train(D, torch.randn(64, 2), steps=2, batch_size=8, device="cpu", callback=look)
except RuntimeError as error:
    assert str(error) == "planned", error
child = "import os; print(len(os.sched_getaffinity(0)))"
print("@" + json.dumps({{
    "before": sorted(before), "after": sorted(os.sched_getaffinity(0)), "during": seen[0],
    "child": int(subprocess.check_output([sys.executable, "-c", child])),
    "left": [name for name in {variables} if name in os.environ and name not in {given}],
    "bound": threads.are_bound(), "said": train.about_machine()}}))
"""


def trained(first: str = "", fails: bool = False, **environment: str) -> dict:
    """What a training in a process of its own saw of its threads' cores."""
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    code = TRAIN.format(first=first, fails=fails, variables=VARIABLES, given=list(environment))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean | environment, capture_output=True,
        text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("@")[1])


@linux
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_each_thread_has_its_core_while_training(fails):
    found = trained(fails=fails)
    main, all_threads = found["during"]
    assert found["bound"] and "each on its own core while training" in found["said"]
    assert len(main) < len(found["before"])                 # the first thread: one core
    others = [cores for cores in all_threads if cores not in (main, found["before"])]
    assert others and all(not set(cores) & set(main) for cores in others)
    assert found["after"] == found["before"]                # and free again
    assert found["child"] == len(found["before"]) and found["left"] == []


@linux
@pytest.mark.parametrize(
    "first, environment",
    [("import torch", {}), ("", {"OMP_NUM_THREADS": "2"}), ("", {"OMP_PROC_BIND": "false"})],
    ids=["torch before", "own number of threads", "own binding"],
)
def test_who_chose_before_keeps_the_choice(first, environment):
    found = trained(first, **environment)
    assert not found["bound"] and "own core" not in found["said"]
    assert found["during"][0] == found["after"] == found["before"]


@linux
def test_fewer_threads_than_at_import_are_not_bound():
    """Two processes that share a machine by taking half of its threads must not share a core."""
    found = trained("import course_lib, torch; torch.set_num_threads(1)")
    assert not found["bound"] and found["during"][0] == found["before"]


def test_a_core_that_was_taken_away_changes_nothing(monkeypatch):
    from course_lib import threads
    monkeypatch.setattr(threads, "are_bound", lambda: True)
    monkeypatch.setattr(threads, "_FIRST_CORE", {10**4})
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before is None:
        pytest.skip("no affinity here")
    with threads.on_own_core():
        assert os.sched_getaffinity(0) == before
