"""The capstone's two notebooks: both run, and the worked example finds what its text says."""
import re
from pathlib import Path

import matplotlib
import nbformat
import pytest
import torch

from course_lib.checks.common import one_thread

FOLDER = Path(__file__).parents[1] / "docs/capstone"


def code(name: str) -> list[str]:
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def outputs(name: str) -> str:
    """What the stored notebook printed, and its tables."""
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    found = [out for cell in cells for out in cell.get("outputs", [])]
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in found)
    return "\n".join(str(o.get("text") or o.get("data", {}).get("text/html", "")) for o in found)


def executed(cells: list[str]) -> dict:
    names: dict = {}
    for cell in cells:
        exec(compile(cell, "capstone", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def no_windows():
    matplotlib.use("agg")
    threads = torch.get_num_threads()
    with one_thread(), torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def headings(name: str) -> list[str]:
    cells = nbformat.read(FOLDER / f"{name}.ipynb", 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.findall(r"^## (.*)$", text, re.M)


def test_the_template_runs_and_has_the_example_s_sections():
    executed(code("template"))
    assert headings("template") == headings("example") and len(headings("template")) == 6


def test_the_oracle_of_the_example():
    """Second order; the first-order method and the planted fault are not."""
    rows = executed(code("example")[:3])["rows"]
    order = {name: float(row["order, 64 to 128"]) for name, row in rows.items()}
    assert 1.8 < order["adams"] < 2.3
    assert 0.8 < order["adams, order 1"] < 1.3 and order["adams, wrong sign"] < 1.3


@pytest.mark.slow
def test_the_whole_example_runs_and_finds_its_numbers():
    """The distances of its table, to the digits that another machine may move."""
    names = executed(code("example"))
    stored = outputs("example")
    for (name, evaluations), distance in names["distance"].items():
        said = re.search(rf"{evaluations}</td>\s*<td[^>]*>{name}</td>\s*<td[^>]*>([\d.]+)", stored)
        assert said, (name, evaluations)
        assert abs(float(said[1]) - distance.mean().item()) < 0.1 * distance.mean().item() + 2e-4
