"""Weights on disk: safetensors with a JSON header that says what they are. Nothing is ever unpickled."""
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor


def save_tensors(file: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header to `file`, whole or not at all (an interruption leaves the old file)."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial = file.with_name(file.name + ".partial")
    save_file(tensors, partial, metadata={"course": json.dumps(header), "digest": _digest(tensors, json.dumps(header))})
    os.replace(partial, file)


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, header) of a file that `save_tensors` wrote.

    Raises FileNotFoundError, or OSError when the file is truncated, altered, or not one of ours.
    """
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    try:
        whole = file.read_bytes()                                       # at once: a running training may put a new file in its place
        tensors = load(whole)
        size = int.from_bytes(whole[:8], "little")                      # the format: 8 bytes of length, then a header in JSON
        text, digest = (json.loads(whole[8:8 + size]).get("__metadata__", {})[key] for key in ("course", "digest"))
        header = json.loads(text)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise OSError(f"{file} is not a whole checkpoint of this course ({error}): fetch or train it again") from error
    if _digest(tensors, text) != digest:
        raise OSError(f"{file} is damaged (its digest differs): fetch or train it again")
    return tensors, header


def _digest(tensors: dict[str, Tensor], header: str) -> str:
    total = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
