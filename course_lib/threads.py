"""torch's threads, each on a core of its own while a training runs on the CPU (Linux only).

The threads that share a step wait for one another at its end. Beside another busy process the
operating system moves them about, often two to one core, and then each waits for the other. Bound
to their cores they do not (`benchmarks/under_load.py` measures both).

OpenMP reads its variables once, when torch is imported; so `course_lib` imports this module first.
Who sets one of them, or imports torch earlier, keeps what they chose.
"""
import contextlib
import os
import sys
from collections.abc import Iterator

BINDING = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
_CHOSEN = (*BINDING, "OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "MKL_NUM_THREADS")


def _bind() -> tuple[set[int] | None, int]:
    """Bind torch's further threads; returns the core left for the first one, and how many threads.

    The calling thread stays free and the variables are taken back, so that processes started later
    (data loaders, other programs) may use every core. (None, 0) where nothing was bound.
    """
    chosen = any(name in os.environ for name in _CHOSEN)
    if chosen or "torch" in sys.modules or not hasattr(os, "sched_setaffinity"):
        return None, 0
    everywhere = os.sched_getaffinity(0)
    os.environ.update(BINDING)
    try:
        import torch
        first = os.sched_getaffinity(0)
    finally:
        for name in BINDING:
            del os.environ[name]
        os.sched_setaffinity(0, everywhere)
    return (None, 0) if first == everywhere else (first, torch.get_num_threads())


_FIRST_CORE, _THREADS = _bind()


def are_bound() -> bool:
    """Whether `on_own_core` does anything: bound at import, and as many threads as then."""
    import torch
    return _FIRST_CORE is not None and torch.get_num_threads() == _THREADS


@contextlib.contextmanager
def on_own_core() -> Iterator[None]:
    """The calling thread keeps to the core that torch's other threads leave to it."""
    if not are_bound():
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, _FIRST_CORE)
    except OSError:                                         # taken from this process since
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
