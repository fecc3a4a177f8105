"""Tables of results: shown as HTML in a notebook, as aligned text everywhere else."""
import html
from collections.abc import Mapping, Sequence

import pandas
from IPython import display as ipython

Row = Mapping[str, object]


def table(
    rows: Sequence[Row] | Mapping[str, Row],
    formats: str | Mapping[str, str] = ".4g",
    caption: str = "",
    index: str = "",
) -> None:
    """Display rows as a table.

    rows:    dicts with the same keys, one for each row, or a dict of such dicts whose keys name the
             rows
    formats: of numbers, as in an f-string: one for all columns, or one by column
             (".4g" for the others); strings, and whole numbers without a format of their own, are
             shown as they are
    caption: above the table: what it holds, with n and units; index: the heading of the rows' names
    Raises TypeError or ValueError for no rows, and for formats that do not fit.
    """
    frame = formatted(rows, formats, index, caption)
    text = frame.to_string(index=False)
    if caption:
        text = f"{caption}\n{text}"
    ipython.display(
        {"text/html": _html(frame, caption), "text/plain": text},
        raw=True,
    )


def formatted(
    rows: Sequence[Row] | Mapping[str, Row],
    formats: str | Mapping[str, str] = ".4g",
    index: str = "",
    caption: str = "",
) -> pandas.DataFrame:
    """The table's cells as strings, in a pandas DataFrame. Arguments as in `table`."""
    named = isinstance(rows, Mapping)
    cells = list(rows.values() if named else rows)
    if not cells or not all(isinstance(row, Mapping) and row for row in cells):
        raise ValueError("a table needs at least one row, each a dict, column: value")
    for name, text in (("caption", caption), ("index", index)):
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string; got {text!r}")
    if named:
        cells = [{index: name, **row} for name, row in zip(rows, cells)]
    frame = pandas.DataFrame(cells).astype(object)
    if not isinstance(formats, (str, Mapping)):
        raise TypeError(f"formats must be a string such as '.2f', or a dict of them; got {formats}")
    by_column = {} if isinstance(formats, str) else dict(formats)
    if strange := set(by_column) - set(frame.columns):
        raise ValueError(f"formats names {strange}, and the columns are {list(frame.columns)}")
    default = formats if isinstance(formats, str) else ".4g"
    for column in frame.columns:
        given = by_column.get(column)
        try:
            frame[column] = [_text(value, given, default) for value in frame[column]]
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"column {column!r} must hold one number or string a cell, for a format such as "
                f"'.2f'; got {given or default!r}: {error}"
            ) from None
    return frame


def _text(value: object, given: str | None, default: str) -> str:
    """One cell: a number by its format, missing as an empty cell, anything else as it is."""
    if hasattr(value, "item") and getattr(value, "numel", lambda: 1)() == 1:
        value = value.item()                                # a tensor or a numpy number
    if value is None or value != value and given is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return format(value, given or "")
    return format(value, given or default)


def _html(frame: pandas.DataFrame, caption: str) -> str:
    """The frame as an HTML table, numbers to the right, with its caption above."""
    body = frame.to_html(index=False, border=0, justify="right")
    if not caption:
        return body
    head, rest = body.split(">", 1)
    title = f'<caption style="caption-side: top; text-align: left">{html.escape(caption)}</caption>'
    return f"{head}>{title}{rest}"
