"""Pack the four official MNIST files into the one npz that the course ships.

    python tools/recipes/make_mnist.py
        torchvision downloads the files
    python tools/recipes/make_mnist.py --raw DIR
        DIR holds train-images-idx3-ubyte and its three siblings

Prints the digest that `course_lib/lab/data/digits.py` checks.
"""
import argparse
import hashlib
from pathlib import Path

import numpy as np

MD5 = {  # of the official files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file: 4 bytes of magic (the last is the number of dimensions), the sizes, then the
    bytes.
    """
    raw = path.read_bytes()
    if hashlib.md5(raw).hexdigest() != MD5[path.name]:
        raise SystemExit(f"{path} is not the official file: its digest differs; fetch it again")
    ndim = raw[3]
    shape = np.frombuffer(raw, ">i4", count=ndim, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", type=Path, help="folder with the four official files, unpacked")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[2] / "course_lib/assets/mnist.npz"
    )
    args = parser.parse_args()
    raw = args.raw
    if raw is None:
        from torchvision.datasets import MNIST
        MNIST("data", download=True)
        raw = Path("data/MNIST/raw")
    images, labels = "images-idx3-ubyte", "labels-idx1-ubyte"
    np.savez_compressed(
        args.out,
        x_train=read_idx(raw / f"train-{images}"),
        y_train=read_idx(raw / f"train-{labels}"),
        x_test=read_idx(raw / f"t10k-{images}"),
        y_test=read_idx(raw / f"t10k-{labels}"),
    )
    print(
        f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, sha256 "
        f"{hashlib.sha256(args.out.read_bytes()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
