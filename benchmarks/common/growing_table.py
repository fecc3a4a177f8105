"""A table that benchmarks fill row by row: stopped, the same command goes on after the last row."""
import csv
import io
from pathlib import Path

from torch import Tensor

from course_lib.lab import storage


class Table:
    """A CSV file that grows row by row.

    keys: the columns whose values, together, name a row
    """

    def __init__(self, file: Path, *keys: str):
        self.file = file
        self.keys = keys
        self.rows = []
        if file.exists():
            with file.open() as stream:
                self.rows = list(csv.DictReader(stream))

    def __contains__(self, key: tuple) -> bool:
        wanted = [_text(value) for value in key]
        return any([row[name] for name in self.keys] == wanted for row in self.rows)

    def add(self, **row) -> None:
        """Write one more row, at once. Numbers have five digits; None is an empty cell."""
        self.rows.append({name: _text(value) for name, value in row.items()})
        columns = dict.fromkeys(name for each in self.rows for name in each)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        storage.write_text(self.file, text.getvalue())
        print(self.rows[-1], flush=True)


def _text(value) -> str:
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)
