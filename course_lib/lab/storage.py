"""Files: what the course ships, and tensors with a header that says what they are.

Nothing is ever unpickled.
"""
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

ASSETS = Path(__file__).parents[1] / "assets"
CHECKPOINTS = ASSETS / "checkpoints"
PART = 1 << 24                                              # numbers that are hashed at once


def load_arrays(file: Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a shipped .npz file, after its digest was compared.

    Raises FileNotFoundError when it is missing, OSError when it is truncated or altered.
    """
    check_digest(file, sha256)
    with np.load(file) as arrays:
        return dict(arrays)


def check_digest(file: Path, sha256: str) -> None:
    """Raises OSError for a shipped file that is missing, truncated or altered, and says how to get
    it back.
    """
    remedy = "reinstall course_lib, or run `git checkout -- course_lib/assets` in the repository"
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is missing: {remedy}")
    if _file_digest(file, Path(file).stat().st_mtime_ns) != sha256:
        raise OSError(
            f"{file} is damaged (its SHA-256 differs: perhaps a truncated download): {remedy}"
        )


@lru_cache
def _file_digest(file: Path, modified: int) -> str:
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_tensors(file: Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a JSON header to a safetensors file, whole or not at all.

    An interruption leaves the old file. A digest of both is stored beside them.
    Raises OSError where it cannot be written, such as on a full disk.
    """
    file = Path(file)
    wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong:
        raise TypeError(f"only tensors can be saved; {wrong[0]} is none")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(header, default=_as_json)
    metadata = {"course": text, "digest": digest(tensors, text)}
    with _replacing(file) as partial:
        save_file(tensors, partial, metadata=metadata)


@contextlib.contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """A private name to write to, which takes the file's place once it is whole and on the disk.

    Raises OSError, and leaves no half file, where that fails.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"{file} could not be written: {reason}") from error
    finally:
        with contextlib.suppress(NotADirectoryError):
            partial.unlink(missing_ok=True)


def _as_json(value):
    """Numbers of torch and numpy, and paths, as JSON has them."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(
        f"the header is JSON, of numbers, texts and lists; it cannot hold a {type(value).__name__}"
    )


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises OSError where it cannot be written."""
    with _replacing(Path(file)) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def load_header(file: Path) -> dict:
    """The header of a file that `save_tensors` wrote; its tensors are not read, nor verified.

    Raises OSError where there is none.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            return json.loads((stored.metadata() or {})["course"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _not_whole(file, error) from error


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, header) of a file that `save_tensors` wrote.

    The tensors are mapped, not read at once.

    Raises FileNotFoundError, or OSError when the file is truncated, altered, or not one of ours.
    """
    file = Path(file)
    if not file.exists():
        raise FileNotFoundError(f"there is no checkpoint {file}")
    while True:
        before = _identity(file)
        try:
            return _load_mapped(file)
        except OSError:
            # a running training may have put a new file in its place meanwhile: read that one
            if _identity(file) == before:
                raise


def _identity(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _load_mapped(file: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(file, framework="pt") as stored:
            metadata = stored.metadata() or {}
            text, expected = metadata["course"], metadata["digest"]
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        header = json.loads(text)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _not_whole(file, error) from error
    if digest(tensors, text) != expected:
        raise OSError(f"{file} is damaged (its digest differs): fetch or train it again")
    return tensors, header


def _not_whole(file: Path, error: Exception) -> OSError:
    return OSError(
        f"{file} is not a whole checkpoint of this course ({error}): fetch or train it again"
    )


def digest(tensors: dict[str, Tensor], header: str = "") -> str:
    """The SHA-256 of tensors with their names, types and shapes, and of a text."""
    total = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.reshape(-1).split(PART):
            total.update(part.cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()
