"""The table that benchmarks fill row by row."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from common.growing_table import Table


def test_rows_are_found_again(tmp_path):
    file = tmp_path / "table.csv"
    Table(file, "name", "scale").add(name="a", scale=1.0, loss=0.123456)
    table = Table(file, "name", "scale")
    assert ("a", 1.0) in table and ("a", 1) in table
    assert ("a", 1.5) not in table and ("b", 1.0) not in table
    assert table.rows == [{"name": "a", "scale": "1", "loss": "0.12346"}]


def test_a_later_row_may_have_more_columns(tmp_path):
    table = Table(tmp_path / "table.csv", "name")
    table.add(name="a")
    table.add(name="b", seconds=None, n=3)
    assert (tmp_path / "table.csv").read_text() == "name,seconds,n\na,,\nb,,3\n"
