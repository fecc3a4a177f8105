"""np.savez_compressed, but the same arrays give the same bytes each time, so that an asset can be
checked by making it again.

    python tools/recipes/npz.py course_lib/assets/nouns.npz
        what is in such a file, its size and its SHA-256
"""
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np


def write(file: Path, arrays: dict[str, np.ndarray]) -> str:
    """Write arrays to `file`, with fixed dates; returns what `about` says of it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (2026, 1, 1, 0, 0, 0)),
                buffer.getvalue(),
                zipfile.ZIP_DEFLATED,
            )
    return about(file)


def about(file: Path) -> str:
    return (
        f"{file}: {file.stat().st_size / 1e3:.0f} kB, sha256 "
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}"
    )


if __name__ == "__main__":
    for name, array in np.load(sys.argv[1]).items():
        print(f"{name:20} {array.dtype} {array.shape}")
    print(about(Path(sys.argv[1])))
