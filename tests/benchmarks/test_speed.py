"""The speed benchmark runs; what it finds is for people to read."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "speed.py"


def speed(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SPEED), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_part_is_measured_in_turns(tmp_path):
    done = speed(tmp_path, "parts=[imitation]", "rounds=2", "out=out")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["bare graph", "compiled", "eager"]
    assert [(row["name"], row["round"]) for row in rows] == [(n, r) for r in "01" for n in names]
    assert all(float(row["ms"]) > 0 for row in rows)
    assert all(f"| {name} | " in done.stdout for name in names)


@pytest.mark.slow
def test_goals_are_measured(tmp_path):
    done = speed(tmp_path, "parts=[goals]", "rounds=1", "out=out")
    assert done.returncode == 0, done.stderr
    for name in ("U-maze", "450 at once", "its gradient steps"):
        assert f"| {name} | " in done.stdout


def test_unknown_words_are_refused(tmp_path):
    for word in ("rouns=2", "parts=[lop]"):
        done = speed(tmp_path, word)
        assert done.returncode == 1
        assert "there are" in done.stderr
