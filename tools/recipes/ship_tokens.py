"""Judge a finished model of tokens and, with --ship, make it a checkpoint of the course, its
numbers in its header.

    python -m course_lib.lab.training configs/captions_masked.toml
    python tools/recipes/ship_tokens.py captions_masked --ship
        captions: nats per caption beyond the grammar's own, on fresh captions, in pairs; valid
        captions and each part's distribution by steps; likewise captions_autoregressive
    python -m course_lib.lab.training configs/sudoku.toml
    python tools/recipes/ship_tokens.py sudoku --ship
        grids from nothing and puzzles with one solution, by steps and order; with remasking
"""
import argparse
import json
from pathlib import Path

import torch
from ship_modalities import trained
from torch import Tensor

from course_lib import last
from course_lib.discrete import Autoregressive, unmask
from course_lib.lab import storage, train
from course_lib.lab.data.caption_grammar import caption_log_prob, caption_tokens, draw_captions
from course_lib.lab.data.sudoku import is_sudoku, sudoku_puzzles
from course_lib.lab.evaluation import texts

FRESH = 1001                                    # a seed: training drew its captions with 0
seeded = lambda seed: torch.Generator().manual_seed(seed)
HIDDEN = 24                                     # places of a puzzle, of 36


def with_error(values: Tensor) -> list[float]:
    """Mean and standard error."""
    return [values.mean().item(), (values.std() / len(values) ** 0.5).item()]


def captions(model: texts.Model, n: int) -> dict:
    """Nats on n fresh captions beside the grammar's own, and n samples by steps and order."""
    own = -caption_log_prob(draw_captions(n, FRESH))
    found = texts.nats(model, caption_tokens(n, FRESH))
    choices = [(32, "random")]
    if not isinstance(model, Autoregressive):
        choices = [(k, order) for k in (4, 8, 16, 32) for order in ("random", "confidence")]
        choices += [(64, "random"), (128, "random")]
    rows = []
    for steps, order in choices:
        scores = texts.caption_scores(texts.sample_tokens(model, n, steps, order))
        rows.append({"steps": steps, "order": order} | scores)
    return {
        "n": n,
        "nats": with_error(found),
        "own": with_error(own),
        "excess": with_error(found - own),
        "samples": rows,
        "real": texts.caption_scores(caption_tokens(n, FRESH + 1)),
    }


def sudokus(model: texts.Model, n: int) -> dict:
    """The share of right grids from nothing, and of n puzzles that are solved."""
    grids, hidden = sudoku_puzzles(n, HIDDEN, seed=FRESH)
    rows = []
    for steps in (1, 2, 4, 8, 18, 36):
        for order in ("random", "confidence"):
            blank = is_sudoku(texts.sample_tokens(model, n, steps, order)).double()
            filled = texts.solve(model, grids, hidden, steps, order)
            solved = (filled == grids).all(1).double()
            rows.append({
                "steps": steps,
                "order": order,
                "valid": blank.mean().item(),
                "solved": solved.mean().item(),
            })
    return {"n": n, "hidden": HIDDEN, "samples": rows, "remasking": remasked(model, n // 2)}


def remasked(model: texts.Model, n: int) -> list[dict]:
    """The share of right grids from nothing with remasking, by its probability and steps."""
    L, rows = model.net.config["length"], []
    device = next(model.parameters()).device
    for r in (0.0, 0.05, 0.1):
        for steps in (18, 36, 72):
            ts = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
            blank, g = torch.full((n, L), model.mask_id, device=device), seeded(steps)
            x = last(unmask(model, blank, ts, model.mask_id, remasking=r, generator=g)).cpu()
            right = is_sudoku(x).double()
            rows.append({"r": r, "steps": steps, "n": n, "valid": with_error(right)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name")
    parser.add_argument("--n", type=int, default=2000)
    parser.add_argument("--ship", action="store_true")
    arguments = parser.parse_args()
    file: Path = train.runs_folder() / arguments.name / f"{arguments.name}.safetensors"
    model = train.load(file)
    judge = sudokus if model.about["data"] == "sudoku" else captions
    command = f"python tools/recipes/ship_tokens.py {arguments.name} --n {arguments.n}"
    numbers = judge(model, arguments.n) | trained(file.parent)
    numbers |= {"judged_by": command, "machine": train.about_machine()}
    print(json.dumps(numbers, indent=1))
    if arguments.ship:
        shipped = storage.CHECKPOINTS / file.name
        train.save(model, shipped, **model.about, metrics=numbers)
        print(f"{shipped}: {shipped.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
