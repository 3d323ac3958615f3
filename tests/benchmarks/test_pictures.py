"""Pictures of the results pages come from the rows beside them, and say methods in words."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "benchmarks" / "figures"
RESULTS = ROOT / "docs" / "results"
# Of more than the rows hold: maps and visits of runs, films and traces.
OF_RUNS = {"figure_11", "figure_12", "four_rooms_3", "film", "traces"}


@pytest.fixture(scope="module")
def pictures():
    sys.path.insert(0, str(FIGURES))
    import pictures

    yield pictures
    sys.path.remove(str(FIGURES))


def test_every_picture_has_its_rows_or_is_known_to_have_none(pictures):
    assert {path.stem for path in RESULTS.glob("*.png")} == set(pictures.PICTURES) | OF_RUNS


@pytest.mark.parametrize(
    "name", ["four_rooms_2", "four_rooms_18", "critic", "figure_6", "trace_audit"]
)
def test_a_picture_says_tasks_and_methods_in_words(pictures, name):
    source, draw, caption = pictures.PICTURES[name]
    figure = draw(pictures.rows_of(*source))
    told = [caption, *(axes.get_title() for axes in figure.axes)]
    told += [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(told) > 3
    assert not [words for words in told if re.search(r"[+=_]", words)]


def test_the_table_of_the_audit_is_that_of_its_rows(pictures):
    """The page shortens equal cells, and leaves out a task's name after its first row."""
    quality, lengths = pictures.audit_of(pictures.rows_of("trace_audit.csv", "traces", [], []))
    lines = pictures.trace_quality.table(quality, lengths, 256).splitlines()[2:]
    page = (RESULTS / "traces.md").read_text().partition("## All numbers")[2]
    shown = [line for line in page.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(shown) > 50
    for line, told in zip(lines, shown, strict=True):
        cells, ours = ([c.strip() for c in each.split("|")[3:-1]] for each in (line, told))
        for cell, short in zip(cells, ours, strict=True):
            number, each, _ = short.partition(" at each")
            assert cell == (" / ".join([number] * 5) if each or short == "-" else short)
