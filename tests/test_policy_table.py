"""The table of policies: complete, and what its script counts is what it says."""
import csv
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import policies as benchmark  # noqa: E402

from course_lib.lab.data import obstacle  # noqa: E402

ROWS = list(csv.DictReader(benchmark.CSV.open()))
KEYS = ("policy", "chunk", "execute", "gust", "seed")


def test_every_row_is_there_once():
    wanted = {(name, str(chunk), str(execute), gust, str(seed))
              for name in (*benchmark.MODELS, benchmark.CALM) for chunk, execute in benchmark.CHUNKS
              for gust in ("0.0", "0.3") for seed in range(benchmark.SEEDS)}
    wanted |= {("expert", "1", "1", gust, str(seed))
               for gust in ("0.0", "0.3") for seed in range(benchmark.SEEDS)}
    found = [tuple(row[key] for key in KEYS) for row in ROWS]
    assert len(found) == len(set(found)) and set(found) == wanted
    assert {row["n"] for row in ROWS} == {"400"}
    for row in ROWS:
        assert 0 <= float(row["success"]) <= 1 and 0 <= float(row["left"]) <= 1


def test_models_are_of_about_equal_size():
    sizes = [int(row["parameters"]) for row in ROWS if row["chunk"] == "8"]
    assert min(sizes) > 0.8 * max(sizes)


def test_the_expert_is_still_the_tables():
    row = next(row for row in ROWS if row["policy"] == "expert" and row["gust"] == "0.0")
    again = benchmark.judged(obstacle.expert(400, int(row["seed"])))
    for name, value in again.items():
        assert float(row[name]) == pytest.approx(value, abs=1e-4)


def test_turns_are_counted_before_the_obstacle():
    n, L = 1, obstacle.LIMIT
    paths, actions = torch.zeros(n, L + 1, 2), torch.zeros(n, L, 2)
    paths[0, :4, 0], paths[0, 4:, 0] = -1, 0.5                          # four steps before it
    actions[0, :8, 1] = torch.tensor([1.0, -1, 1, 1, -1, 1, -1, 1])
    zeros = torch.zeros(n, dtype=torch.int64)
    episodes = obstacle.Episodes(paths, actions, paths[:, 0], zeros.bool(), zeros.bool(), zeros,
                                 zeros + 8)
    assert benchmark.turns(episodes) == 2
