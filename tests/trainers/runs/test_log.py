"""Check what a run writes as it goes: metrics, an optional logger, a table and a picture."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from torchrl_recall.trainers.runs.log import RunLog, installed
from torchrl_recall.trainers.schema import ConfigError

SUMMARY = {"env": "Task", "recall": "none", "seed": 3}


def read(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_frames_seconds_and_what_was_measured(tmp_path, capsys):
    log = RunLog(tmp_path, 200, backend="none")
    log.write(100, {"eval_return": 1.5, "loss": 2.0})
    (row,) = read(tmp_path)
    assert list(row) == ["frames", "wall_seconds", "eval_return", "loss"]
    assert (row["frames"], row["eval_return"], row["loss"]) == ("100", "1.5", "2.0")
    assert float(row["wall_seconds"]) >= 0
    assert "100 / 200 steps | return      1.50 |" in capsys.readouterr().out


def test_a_metric_that_comes_later_gets_its_column(tmp_path):
    log = RunLog(tmp_path, 200, backend="none")
    log.write(100, {"eval_return": 1.0})
    log.write(200, {"eval_return": 2.0, "recall/kept": 0.5})
    assert [row["recall/kept"] for row in read(tmp_path)] == ["", "0.5"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]  # nothing half-written


def test_a_resumed_run_drops_later_rows_and_goes_on_with_its_time(tmp_path):
    log = RunLog(tmp_path, 300, backend="none")
    for frames in (100, 200, 300):
        log.write(frames, {"eval_return": frames / 100})
    again = RunLog(tmp_path, 300, backend="none", frames=200, wall_seconds=50.0)
    assert [row["frames"] for row in again.rows] == ["100", "200"]
    assert 50 <= again.wall_seconds < 60
    assert again.steps_per_second(200) == pytest.approx(4, rel=0.2)
    again.write(300, {"eval_return": 9.0})
    assert [row["eval_return"] for row in read(tmp_path)] == ["1.0", "2.0", "9.0"]


def test_an_evaluation_that_was_made_up_for_twice_has_one_row(tmp_path):
    log = RunLog(tmp_path, 300, backend="none")
    for value, frames in enumerate((100, 200, 200)):
        log.write(frames, {"eval_return": value})
    assert [(row["frames"], row["eval_return"]) for row in read(tmp_path)] == [
        ("100", "0"), ("200", "2")
    ]  # fmt: skip


def test_the_end_leaves_a_summary_a_table_and_a_picture(tmp_path, capsys):
    log = RunLog(tmp_path, 200, backend="none")
    log.write(1_000, {"eval_return": 1.25})
    log.finish(SUMMARY)
    assert json.loads((tmp_path / "summary.json").read_text()) == SUMMARY
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert f"summary: {tmp_path / 'summary.json'}" in out
    (line,) = [
        line for line in out.splitlines() if line.split()[:1] == ["1,000"] and "|" not in line
    ]
    assert line.split()[2] == "1.25"


def test_without_a_plotting_library_there_is_no_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    RunLog(tmp_path, 200, backend="none").finish(SUMMARY)
    assert not (tmp_path / "curve.png").exists()
    assert "pip install 'torchrl-recall[plots]'" in capsys.readouterr().out


@pytest.mark.parametrize(("backend", "extra"), [("wandb", "wandb"), ("tensorboard", "plots")])
def test_a_logger_that_is_not_installed_is_named(tmp_path, monkeypatch, backend, extra):
    monkeypatch.setitem(sys.modules, backend, None)
    with pytest.raises(ConfigError, match=rf"logger\.backend={backend} .*\[{extra}\]"):
        RunLog(tmp_path, 200, backend=backend)


def test_auto_does_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    RunLog(tmp_path, 200, backend="auto").write(100, {"eval_return": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_what_is_installed(monkeypatch):
    assert installed("torch")
    assert not installed("no_such_library")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not installed("matplotlib")


def test_tensorboard_forgets_what_a_killed_run_wrote_before_its_first_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for returns in ((1.0, 2.0), (3.0,)):
        log = RunLog(tmp_path, 200, backend="tensorboard")
        for i, value in enumerate(returns):
            log.write(100 * (i + 1), {"eval_return": value})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("eval_return")]
    assert found == [(100, 3.0)]
