"""Tables: formats by column, names of rows, an HTML table and aligned text."""
import numpy as np
import pytest
import torch

from course_lib.lab import tables

ROWS = [
    {"sampler": "ddim", "n": 10, "error": torch.tensor(0.12345), "fraction": np.float64(0.5)},
    {"sampler": "heun", "n": 2000, "error": 0.01, "fraction": 0.25},
]


@pytest.fixture
def displayed(monkeypatch):
    seen = []
    monkeypatch.setattr(tables.ipython, "display", lambda bundle, raw: seen.append(bundle))
    return seen


def test_cells_follow_their_formats():
    frame = tables.formatted(ROWS, {"error": ".3f", "fraction": ".0%"})
    assert (
        frame.values.tolist()
        == [["ddim", "10", "0.123", "50%"], ["heun", "2000", "0.010", "25%"]]
    )
    frame = tables.formatted(ROWS, ".2f")
    assert frame["error"].tolist() == ["0.12", "0.01"] and frame["n"].tolist() == ["10", "2000"]
    assert tables.formatted([{"n": 12345}], {"n": ","})["n"].tolist() == ["12,345"]


def test_a_dict_names_its_rows_and_missing_cells_are_empty():
    frame = tables.formatted({"a": {"x": 1.0}, "b": {"x": None, "y": True}}, index="row")
    assert frame.columns.tolist() == ["row", "x", "y"]
    assert frame.values.tolist() == [["a", "1", ""], ["b", "", "True"]]


def test_html_for_notebooks_and_text_for_everything_else(displayed):
    tables.table(ROWS, caption="two rows, n < 3,000")
    bundle = displayed[0]
    text = bundle["text/plain"].split("\n")
    assert text[0] == "two rows, n < 3,000" and len({len(line) for line in text[1:]}) == 1
    assert "<caption" in bundle["text/html"] and "n &lt; 3,000" in bundle["text/html"]
    assert bundle["text/html"].count("<tr") == 3


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        tables.table([])


@pytest.mark.parametrize("rows, formats, sentence", [
    ({"ddim": 3.2}, ".4g", "each a dict"),
    (ROWS, 2, "formats must be a string such as '.2f'"),
    (ROWS, {"eror": ".2f"}, "formats names {'eror'}, and the columns are"),
    (ROWS, "{:.2f}", "column 'error' must hold one number or string a cell"),
    ([{"x": torch.rand(3)}], ".2f", "column 'x' must hold one number or string a cell"),
])
def test_rows_and_formats_that_do_not_fit_are_refused(rows, formats, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        tables.formatted(rows, formats)
