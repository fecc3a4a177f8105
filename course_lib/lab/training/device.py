"""What this machine can do: the device, its precision for training, and one line that says so."""
import contextlib
import os
import platform

import torch

from ... import threads, validate


def default_device() -> torch.device:
    """CUDA, else Apple's mps, else the CPU. `COURSE_DEVICE=cpu` overrides."""
    if "COURSE_DEVICE" in os.environ:
        return validate.device(os.environ["COURSE_DEVICE"])
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision(device: torch.device | str | None = None) -> torch.dtype:
    """The dtype to train in: bf16 where the hardware has it, fp16 on older CUDA, else fp32.

    Chosen by what the hardware has, never by a measurement, which a busy machine could turn: CUDA
    from capability 8.0 on (a T4 only emulates bf16), and CPUs with AVX512-BF16 or AMX.
    `COURSE_PRECISION=float32`, `bfloat16` or `float16` overrides; ValueError for another name.
    """
    try:
        device = default_device() if device is None else torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must be one, such as 'cpu' or 'cuda'; got {device!r}") from None
    if "COURSE_PRECISION" in os.environ:
        name = os.environ["COURSE_PRECISION"]
        if name not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"COURSE_PRECISION must be float32, bfloat16 or float16; got {name!r}"
            )
        return getattr(torch, name)
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if capable else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware. torch has only private names for it."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def autocast(
    device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> contextlib.AbstractContextManager:
    """A context in which networks compute in dtype, `precision(device)` unless given.

    Sums and samplers stay in fp32.
    """
    device = default_device() if device is None else validate.device(device)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be one of torch, such as torch.bfloat16; got {dtype!r}")
    dtype = precision(device) if dtype is None else dtype
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def about_machine() -> str:
    """One line: device, precision and versions, for the first cell of every notebook."""
    import ipywidgets

    import course_lib
    device = default_device()
    bound = ", each on its own core while training" if threads.are_bound() else ""
    where = f"{device.type}, {torch.get_num_threads()} threads{bound}"
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    dtype = str(precision(device)).removeprefix("torch.")
    return (
        f"course_lib {course_lib.__version__} on {where}, training in {dtype}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"ipywidgets {ipywidgets.__version__}"
    )
