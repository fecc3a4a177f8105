"""How fast are captioned nouns made?

The course's renderer beside Pillow, which lays the same parts on top of each other, in turns.

    python benchmarks/nouns.py
        half a minute; prints pictures per second of both, and their ratio in each round
"""
import statistics
import time

import numpy as np
import torch
from PIL import Image

from course_lib.lab import data, noun_parts, train

ROUNDS = 5
OURS = 20_000
THEIRS = 1000


def layers() -> list[list[Image.Image]]:
    """Each part as a picture with an alpha channel."""
    art = noun_parts.load_art()
    palette = ((art.palette.T + 1) * 127.5).round().byte().numpy()  # (colours, 3)
    def rgba(index):
        return Image.fromarray(
            np.dstack([palette[index], np.where(index > 0, 255, 0).astype(np.uint8)]), "RGBA"
        )
    return [[rgba(index) for index in art.layers[part].numpy()] for part in noun_parts.PARTS]


def by_pillow(parts: torch.Tensor, pictures: list[list[Image.Image]]) -> torch.Tensor:
    """(n, 5) -> (n, 3, 32, 32) in [-1, 1]"""
    out = []
    for row in parts.tolist():
        whole = pictures[0][row[0]]
        for part, k in zip(pictures[1:], row[1:]):
            whole = Image.alpha_composite(whole, part[k])
        out.append(np.asarray(whole.convert("RGB")))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float() / 127.5 - 1


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    pictures, parts = layers(), noun_parts.draw_parts(THEIRS)
    assert torch.allclose(by_pillow(parts[:50], pictures), noun_parts.render(parts[:50]), atol=1e-6)
    print(train.about_machine())
    rates = {"ours, with captions": [], "ours, pictures alone": [], "Pillow, pictures alone": []}
    many = noun_parts.draw_parts(OURS)
    for _ in range(ROUNDS):
        rates["ours, with captions"].append(OURS / seconds(lambda: data.nouns(OURS)))
        rates["ours, pictures alone"].append(OURS / seconds(lambda: noun_parts.render(many)))
        rates["Pillow, pictures alone"].append(THEIRS / seconds(lambda: by_pillow(parts, pictures)))
    for name, values in rates.items():
        print(
            f"{name:23} {statistics.median(values):9,.0f} pictures/s (median of {ROUNDS} rounds, "
            f"{min(values):,.0f} to {max(values):,.0f})"
        )
    ratios = [a / b for a, b in zip(rates["ours, pictures alone"], rates["Pillow, pictures alone"])]
    print(
        f"ours / Pillow, pictures alone: {statistics.median(ratios):.1f} ({min(ratios):.1f} to "
        f"{max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
