"""Rows in long form, the file format of the results of all runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from torchrl_recall.trainers.runs.atomic import write_text

__all__ = ["COLUMNS", "read_rows", "write_rows"]

COLUMNS = ("figure", "task", "method", "seed", "frames", "metric", "value")


def write_rows(path: Path, rows: Iterable[Sequence]) -> None:
    """Write rows of :data:`COLUMNS` as CSV; None is written as an empty value.

    Args:
        path: the CSV file.
        rows: values in the order of the columns.

    Examples:
        >>> import tempfile, pathlib
        >>> from torchrl_recall.results.rows import read_rows, write_rows
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "results.csv"
        >>> write_rows(path, [("7", "Hopper-v5", "none", 0, 5_000, "eval_return", 153.4)])
        >>> read_rows(path)[0]["value"]
        '153.4'
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_text(path, table.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read rows that :func:`write_rows` wrote.

    Args:
        path: the CSV file.

    Returns:
        Each row as texts by the name of the column; a missing value is an empty text.

    Examples:
        >>> import tempfile, pathlib
        >>> from torchrl_recall.results.rows import read_rows, write_rows
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "results.csv"
        >>> write_rows(path, [("7", "Hopper-v5", "none", 0, 5_000, "eval_return", None)])
        >>> [(row["task"], row["value"]) for row in read_rows(path)]
        [('Hopper-v5', '')]
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
