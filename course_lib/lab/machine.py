"""What this machine can do: the device, the precision that pays there, and one line that says so."""
import contextlib
import os
import platform
import time
from functools import lru_cache

import torch


def device() -> torch.device:
    """CUDA, else Apple's mps, else the CPU. `COURSE_DEVICE=cpu` overrides."""
    if "COURSE_DEVICE" in os.environ:
        return torch.device(os.environ["COURSE_DEVICE"])
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(on: torch.device | None = None) -> torch.dtype:
    """The dtype to train in: bf16 where the hardware has it, fp16 on older CUDA (a T4 emulates bf16), else fp32.

    `COURSE_PRECISION=float32`, `bfloat16` or `float16` overrides.
    """
    on = device() if on is None else torch.device(on)
    if "COURSE_PRECISION" in os.environ:
        name = os.environ["COURSE_PRECISION"]
        if name not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"COURSE_PRECISION must be float32, bfloat16 or float16; got {name!r}")
        return getattr(torch, name)
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(on) >= (8, 0) else torch.float16
    return torch.bfloat16 if on.type == "cpu" and _bf16_pays_on_cpu() else torch.float32


def autocast(on: torch.device | None = None, dtype: torch.dtype | None = None) -> contextlib.AbstractContextManager:
    """A context in which networks compute in dtype, `precision(on)` unless given; sums and samplers stay in fp32."""
    on = device() if on is None else torch.device(on)
    dtype = precision(on) if dtype is None else dtype
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(on.type, dtype)


@lru_cache
def _bf16_pays_on_cpu() -> bool:
    """Times a typical convolution, forward and backward, in both precisions (a tenth of a second, once)."""
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        x, layer = torch.randn(64, 32, 14, 14), torch.nn.Conv2d(32, 32, 3, padding=1)

        def seconds(enabled: bool) -> float:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                layer(x).sum().backward()
            return time.perf_counter() - start

        pairs = [(seconds(True), seconds(False)) for _ in range(9)][2:]     # the first two only warm up
    return sorted(b for b, _ in pairs)[3] < 0.8 * sorted(f for _, f in pairs)[3]


def about() -> str:
    """One line: device, precision and versions, for the first cell of every notebook."""
    import ipywidgets

    import course_lib
    on = device()
    where = torch.cuda.get_device_name(on) if on.type == "cuda" else f"{on.type}, {torch.get_num_threads()} threads"
    return (f"course_lib {course_lib.__version__} on {where}, training in {str(precision(on)).removeprefix('torch.')}; "
            f"Python {platform.python_version()}, torch {torch.__version__}, ipywidgets {ipywidgets.__version__}")
