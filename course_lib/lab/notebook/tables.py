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
    Raises ValueError for no rows.
    """
    frame = formatted(rows, formats, index)
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
) -> pandas.DataFrame:
    """The table's cells as strings, in a pandas DataFrame. Arguments as in `table`."""
    if isinstance(rows, Mapping):
        rows = [{index: name, **row} for name, row in rows.items()]
    if not rows:
        raise ValueError("a table needs at least one row")
    frame = pandas.DataFrame(list(rows)).astype(object)
    by_column = {} if isinstance(formats, str) else dict(formats)
    default = formats if isinstance(formats, str) else ".4g"
    for column in frame.columns:
        given = by_column.get(column)
        frame[column] = [_text(value, given, default) for value in frame[column]]
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
