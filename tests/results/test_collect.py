"""Collection of folders that real runs wrote: finished, unfinished, foreign and doubled ones."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import four_rooms_fixtures as four_rooms
import pytest
import recipe_fixtures as sac
from results_fixtures import cells

from torchrl_recall.collect import main
from torchrl_recall.results.rows import read_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two methods of SAC with two seeds each, evaluated at 80 and 160 steps, and four rooms."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "sweep").mkdir()
    for recall in ("none", "self_imitation"):
        for seed in (0, 1):
            words = sac.tiny(recall, seed=seed, checkpoint__interval=0)
            assert sac.train(folder / "sweep" / f"{recall}_{seed}", words) == 0
    assert four_rooms.train(folder / "rooms", four_rooms.tiny("exact")) == 0
    return folder


@pytest.fixture
def runs(made, tmp_path, monkeypatch) -> Path:
    """A copy that a test may change, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs")
    return Path("runs")


def stop(folder: Path, rows: int) -> None:
    """Leave a folder as a run leaves it that was killed after some evaluations."""
    (folder / "summary.json").unlink()
    path = folder / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: 1 + rows]))


def collect(capsys, *words: str | Path) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words: str | Path) -> str:
    assert main([str(word) for word in words]) in (1, 2)
    return capsys.readouterr().err


def test_a_sweep_gives_rows_a_table_and_a_picture(runs, capsys):
    shown = collect(capsys, runs / "sweep", "out=found")
    rows = read_rows(Path("found/results.csv"))
    assert [tuple(row.values())[:6] for row in rows] == [
        ("found", "Hopper-v5", method, str(seed), frames, "eval_return")
        for method in ("none", "self_imitation")
        for seed in (0, 1)
        for frames in ("80", "160")
    ]
    by_folder = {
        (path.name, row["frames"]): row["eval_return"]
        for path in (runs / "sweep").iterdir()
        for row in sac.metrics(path)
    }
    assert {(f"{r['method']}_{r['seed']}", r["frames"]): r["value"] for r in rows} == by_folder
    last = [sac.summary(runs / "sweep" / f"none_{s}")["final_eval_return"] for s in (0, 1)]
    none = cells(shown, "Hopper-v5", "none")
    assert none[:2] == ["2", "160"]
    assert float(none[2].split()[0]) == pytest.approx(sum(last) / 2, abs=0.6)
    assert "[" in cells(shown, "Hopper-v5", "self_imitation")[-2]  # the ratio
    assert Path("found/table.md").read_text().strip() in shown
    assert Path("found/figure.png").stat().st_size > 10_000


def test_single_folders_are_the_same_as_the_folder_of_them(runs, capsys):
    collect(capsys, runs / "sweep", "out=found")
    collect(capsys, *sorted((runs / "sweep").iterdir(), reverse=True), "out=again/found")
    assert read_rows(Path("found/results.csv")) == read_rows(Path("again/found/results.csv"))


def test_many_seeds_of_one_folder_are_told_apart(runs, capsys):
    shown = collect(capsys, runs / "rooms", "out=found")
    rows = read_rows(Path("found/results.csv"))
    found = {
        (int(r["seed"]), int(r["frames"]), float(r["value"]))
        for r in rows if r["metric"] == "eval_return"
    }  # fmt: skip
    wanted = four_rooms.returns(runs / "rooms")
    assert found == {(seed, *each) for seed, of_seed in wanted.items() for each in of_seed}
    assert cells(shown, "5_uniform", "exact")[0] == "2"
    reached = [row["value"] for row in rows if row["metric"] == "frames_to_target"]
    wanted = sac.summary(runs / "rooms")["frames_to_target"]
    assert reached == ["" if frames is None else str(frames) for frames in wanted]


def test_unfinished_runs_count_as_far_as_they_go_and_are_named(runs, capsys):
    stop(runs / "sweep/none_1", 1)
    shown = collect(capsys, runs / "sweep", "out=found")
    assert "runs/sweep/none_1 is not finished" in shown
    assert "up to 80 steps" in shown
    assert cells(shown, "Hopper-v5", "none")[:2] == ["2", "80"]
    assert cells(shown, "Hopper-v5", "self_imitation")[:2] == ["2", "160"]
    assert "is not finished" in Path("found/table.md").read_text()


def test_unfinished_four_rooms_are_read_from_their_checkpoint(runs, capsys):
    folder = runs / "rooms"
    wanted = four_rooms.returns(folder)
    checkpoints = sorted((folder / "checkpoints").glob("0*"))
    for checkpoint in checkpoints[2:]:
        shutil.rmtree(checkpoint)
    (folder / "summary.json").unlink()
    (folder / "returns.csv").unlink()
    assert "up to 256 steps" in collect(capsys, folder, "out=found")
    rows = read_rows(Path("found/results.csv"))
    assert len(rows) == 2 * 256 // 64
    for row in rows:
        there = dict(wanted[int(row["seed"])])[int(row["frames"])]
        assert float(row["value"]) == pytest.approx(there, abs=1e-6)


def test_a_run_that_is_prolonged_is_not_finished(runs, capsys):
    config = runs / "sweep/none_0/config.yaml"
    config.write_text(config.read_text().replace("total_frames: 160", "total_frames: 320"))
    assert "runs/sweep/none_0 is not finished" in collect(capsys, runs / "sweep", "out=found")


def test_folders_that_are_no_runs_are_named_and_left_out(runs, capsys):
    (runs / "empty").mkdir()
    (runs / "foreign").mkdir()
    (runs / "foreign/metrics.csv").write_text("step,loss\n1,2\n")
    shutil.copytree(runs / "sweep/none_0", runs / "damaged")
    (runs / "damaged/config.yaml").write_text("seed: [\n")
    shutil.copytree(runs / "sweep/none_0", runs / "young")
    (runs / "young/metrics.csv").unlink()
    (runs / "notes.txt").write_text("no folder")
    shown = collect(capsys, *sorted(runs.iterdir()), "out=runs/collected")
    for name, reason in {
        "empty": "holds no run",
        "foreign": "no config.yaml",
        "damaged": "is damaged",
        "young": "not been evaluated yet",
        "notes.txt": "holds no run",
    }.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(f"- runs/{name} ")]
        assert reason in line
    again = collect(capsys, *sorted(runs.iterdir()), "out=runs/collected")
    assert again == shown  # what it wrote itself is no folder to complain of


def test_no_run_at_all_is_an_error(runs, capsys):
    (runs / "empty").mkdir()
    said = refused(capsys, runs / "empty")
    assert "runs/empty holds no run" in said
    assert "python -m torchrl_recall.collect runs/*" in said
    assert not Path("runs/collected").exists()


def test_two_runs_of_one_seed_are_refused_by_name(runs, capsys):
    shutil.copytree(runs / "sweep/none_0", runs / "copy")
    collect(capsys, runs / "sweep", runs / "copy", "out=found")  # identical: counts once
    assert len(read_rows(Path("found/results.csv"))) == 8
    path = runs / "copy/metrics.csv"
    path.write_text(path.read_text().rsplit("\n", 2)[0] + "\n")
    said = refused(capsys, runs / "sweep", runs / "copy", "out=other")
    assert "runs/sweep/none_0 and runs/copy both hold seed 0 of none in Hopper-v5" in said
    assert not Path("other").exists()


def test_another_metric_and_a_target_of_ones_own(runs, capsys):
    shown = collect(capsys, runs / "sweep", "metric=wall_seconds", "target=0", "out=found")
    assert "last wall_seconds" in shown
    assert cells(shown, "Hopper-v5", "none")[-3:-1] == ["2 of 2", "80 [80, 80]"]
    said = refused(capsys, runs / "sweep", "metric=entropi", "out=other")
    assert "has no metric 'entropi'; there are frames, wall_seconds, eval_return" in said


def test_another_baseline(runs, capsys):
    shown = collect(capsys, runs / "sweep", "baseline=self_imitation", "out=found")
    assert cells(shown, "Hopper-v5", "self_imitation")[-1] == "baseline"
    said = refused(capsys, runs / "sweep", "baseline=non", "out=other")
    assert "there are none, self_imitation" in said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("metrics=return", "did you mean metric?"),
        ("runs/missing", "runs/missing: no such folder"),
        ("target=high", "target"),
    ],
)
def test_a_mistake_of_the_command_line_is_named(word, said, runs, capsys):
    assert said in refused(capsys, runs / "sweep", word)


def test_missing_libraries_are_named_before_anything_is_written(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refused(capsys, runs / "sweep", "out=found")
    assert "pip install 'torchrl-recall[plots]'" in said
    assert not Path("found").exists()


def test_a_run_that_ended_at_its_target_counts_on(runs, capsys):
    """Make the folder of a run that reached its target at 80 steps."""
    folder = runs / "sweep/none_0"
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2]))
    summary = sac.summary(folder) | {"frames": 80, "frames_to_target": 80}
    (folder / "summary.json").write_text(json.dumps(summary))
    shown = collect(capsys, runs / "sweep", "out=found")
    assert "is not finished" not in shown
    assert cells(shown, "Hopper-v5", "none")[1] == "160"
