"""Sculptures that cast a 3 from the front and a 7 from the side, by score distillation: 20 seeds.

    python benchmarks/sculptures.py

To course_lib/assets/sculptures.csv, and the sculptures of the first way, rounded to voxels that are
0 or 1 and packed into bits (numpy.packbits), to sculptures.safetensors beside it. Three ways to the
two shadows:

    distilled       voxels, pulled by what the denoiser `mnist_small` sees in their shadows
    without guidance  the same with w = 1
    fitted          voxels fitted to the two shadows of real digits of the same height, of the test
                    set: how well voxels can do
A shadow is right if the shipped classifier reads its digit. `rounded`: of voxels that are 0 or 1.
`variety` is the mean distance between two of the 20 shadows, root mean square per pixel; real
digits of the same class stand beside it.
"""
import argparse
import csv
import itertools

import numpy as np
import torch
from torch import Tensor

from course_lib import cfg
from course_lib.distillation import score_distillation, shadow
from course_lib.lab import data, storage, train

CSV = storage.ASSETS / "sculptures.csv"
DIGITS = (3, 7)                                 # from the front, from the side
SIZE = 28


def both_shadows(density: Tensor) -> Tensor:
    """(B, Z, Y, X) -> (2 B, 1, Y, X): the front ones, then the side ones."""
    return torch.cat([shadow(density, "front"), shadow(density, "side")])


def sculpt(pull, n: int, steps: int, seed: int, lr: float = 0.2) -> Tensor:
    """Densities (n, Z, Y, X) after `steps` of Adam on a loss of their shadows.

    pull: (shadows (2 n, 1, 28, 28), fraction of the steps done, generator) -> loss of each (2 n,)
    """
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, SIZE, SIZE, SIZE, generator=g) / 2 - 4).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=lr, betas=(0.9, 0.99))
    for k in range(steps):
        loss = pull(both_shadows(logits.sigmoid()), k / steps, g).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits.detach().sigmoid()


def distilled(n: int, steps: int, w: float, seed: int) -> Tensor:
    """By score distillation; the noise level is drawn evenly, up to one that falls by half."""
    D = train.load("mnist_small")
    guided = D if w == 1 else cfg(D, w, {"y": D.net.num_classes})
    y = torch.tensor(DIGITS).repeat_interleave(n)

    def pull(x: Tensor, done: float, g: torch.Generator) -> Tensor:
        t = 0.02 + 0.96 * (1 - done / 2) * torch.rand(len(x), generator=g)
        eps = torch.randn(x.shape, generator=g)
        return score_distillation(guided, D.schedule, x, t, eps, y=y)
    return sculpt(pull, n, steps, seed)


def same_height(n: int) -> Tensor:
    """n pairs of real digits whose ink begins and ends at the same rows: (2 n, 1, 28, 28)."""
    x, y = data.mnist("test")
    first = [group(x, y == digit) for digit in DIGITS]
    pairs = [pair for span in first[0] for pair in zip(first[0][span], first[1].get(span, []))]
    front, side = (x[[pair[k] for pair in pairs[:n]]] for k in (0, 1))
    return torch.cat([front, side])


def group(x: Tensor, chosen: Tensor) -> dict[tuple[int, int], list[int]]:
    """The chosen digits by their first and last row with ink."""
    groups: dict[tuple[int, int], list[int]] = {}
    for k in chosen.nonzero().flatten().tolist():
        rows = (x[k, 0] > 0).any(1).nonzero().flatten()
        groups.setdefault((rows[0].item(), rows[-1].item()), []).append(k)
    return groups


def fitted(n: int, steps: int, seed: int) -> Tensor:
    """Fitted to the shadows of real digits, by squared error."""
    target = same_height(n)
    return sculpt(lambda x, done, g: 20 * (x - target).square().flatten(1).mean(1), n, steps, seed)


@torch.no_grad()
def judged(density: Tensor) -> dict:
    """Which shadows are right, and how they vary."""
    read = train.load("mnist_classifier")
    n, y = len(density), torch.tensor(DIGITS).repeat_interleave(len(density))
    x, rounded = both_shadows(density), both_shadows((density > 0.5).float())
    right, again = ((read(part).argmax(1) == y).view(2, n) for part in (x, rounded))
    return {
        "n": n,
        "front": right[0].sum().item(),
        "side": right[1].sum().item(),
        "both": right.all(0).sum().item(),
        "both_rounded": again.all(0).sum().item(),
        "voxels": round((density > 0.5).double().sum((1, 2, 3)).mean().item(), 1),
        "variety_front": round(variety(x[:n]), 4),
        "variety_side": round(variety(x[n:]), 4),
    }


def variety(x: Tensor) -> float:
    """The mean root-mean-square distance of two images (n, 1, H, W)."""
    pairs = itertools.combinations(x.flatten(1), 2)
    return torch.stack([(a - b).square().mean().sqrt() for a, b in pairs]).mean().item()


def real(n: int) -> dict:
    """The variety of real digits, n of each class, of the test set."""
    x, y = data.mnist("test")
    front, side = (round(variety(x[y == digit][:n]), 4) for digit in DIGITS)
    return {"way": "real digits", "n": n, "variety_front": front, "variety_side": side}


def keep(density: Tensor) -> None:
    """Voxels that are 0 or 1, eight in a byte."""
    bits = torch.from_numpy(np.packbits((density > 0.5).numpy().reshape(len(density), -1), axis=1))
    about = {"command": "python benchmarks/sculptures.py", "shape": list(density.shape)}
    storage.save_tensors(CSV.with_suffix(".safetensors"), {"distilled": bits}, about)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    a = parser.parse_args()
    ways = {
        "distilled": lambda: distilled(a.n, a.steps, 4.0, 0),
        "without guidance": lambda: distilled(a.n, a.steps, 1.0, 0),
        "fitted": lambda: fitted(a.n, a.steps, 0),
    }
    rows, densities = [], {}
    for name, make in ways.items():
        density = make()
        densities[name] = density
        rows.append({"way": name, "steps": a.steps} | judged(density))
        print(rows[-1], flush=True)
    rows.append(real(a.n))
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    keep(densities["distilled"])


if __name__ == "__main__":
    main()
