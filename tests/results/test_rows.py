"""Rows in long form."""

from __future__ import annotations

from torchrl_recall.results.rows import COLUMNS, read_rows, write_rows


def test_rows_are_long_form(tmp_path):
    write_rows(tmp_path / "r.csv", [("2", "5_uniform", "none", 0, 64, "frames_to_target", None)])
    (row,) = read_rows(tmp_path / "r.csv")
    assert tuple(row) == COLUMNS == (
        "figure", "task", "method", "seed", "frames", "metric", "value",
    )  # fmt: skip
    assert row["value"] == ""
    assert not list(tmp_path.glob(".partial-*"))
