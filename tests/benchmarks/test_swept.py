"""Runs of a sweep that are those of a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from recipe_fixtures import tiny, train

FIGURES = Path(__file__).resolve().parents[2] / "benchmarks" / "figures"


@pytest.fixture
def find_swept(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    from runs.swept import _told, find_swept

    _told.cache_clear()
    yield find_swept
    for name in [name for name in sys.modules if name == "runs" or name.startswith("runs.")]:
        del sys.modules[name]


def test_a_run_of_the_same_settings_is_found(find_swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    words = tiny("none", env__name="Pendulum-v1", collector__total_frames=120)
    assert train(tmp_path / "sweep" / "job", words) == 0
    sweeps = [str(tmp_path / "sweep")]
    assert find_swept(sweeps, "sac", words) == tmp_path / "sweep" / "job"
    assert find_swept(sweeps, "sac", [*words, "logger.backend=none"]) is not None
    for other in ("seed=1", "sac.n_step=3", "eval.interval=60", "collector.total_frames=110"):
        assert find_swept(sweeps, "sac", [*words, other]) is None, other
    (tmp_path / "sweep" / "job" / "summary.json").unlink()
    find_swept.__globals__["_told"].cache_clear()
    assert find_swept(sweeps, "sac", words) is None  # it is not finished


def test_a_figure_refuses_its_own_runs_of_other_settings(find_swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_settings = find_swept.__globals__["check_settings"]
    words = tiny(env__name="Pendulum-v1", collector__total_frames=120)
    assert train(tmp_path / "job", words) == 0
    check_settings(tmp_path / "job", "sac", words)
    check_settings(tmp_path / "job", "sac", [*words, "logger.backend=none"])
    check_settings(tmp_path / "none", "sac", words)  # there is no run yet
    others = (
        "collector.total_frames=180", "collector.total_frames=100", "sac.n_step=3",
        "recall.anneal_frames=100", "eval.num_episodes=3", "seed=1",
    )  # fmt: skip
    for finished in (True, False):
        for other in others:
            with pytest.raises(SystemExit, match=other.partition("=")[0]) as refused:
                check_settings(tmp_path / "job", "sac", [*words, other])
            assert "collect=true" in str(refused.value)
        if finished:
            (tmp_path / "job" / "summary.json").unlink()


def test_a_figure_refuses_damaged_and_prolonged_runs(find_swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_settings = find_swept.__globals__["check_settings"]
    words = tiny("none", env__name="Pendulum-v1", collector__total_frames=120)
    assert train(tmp_path / "job", words) == 0
    words = [*words, "collector.total_frames=180"]
    assert train(tmp_path / "job", [*words, "resume=auto"]) == 0
    with pytest.raises(SystemExit, match="prolonged, 120 and 180 steps"):
        check_settings(tmp_path / "job", "sac", words)
    (tmp_path / "job" / "config.yaml").write_text("a: [1")
    with pytest.raises(SystemExit, match="job is damaged"):
        check_settings(tmp_path / "job", "sac", words)


def test_a_prolonged_run_or_one_of_other_versions_is_not_taken(find_swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    job, sweeps = tmp_path / "sweep" / "job", [str(tmp_path / "sweep")]
    words = tiny("none", env__name="Pendulum-v1", collector__total_frames=120)
    assert train(job, words) == 0
    text = (job / "summary.json").read_text()
    other = json.loads(text)
    other["versions"]["torch"] = "1.0"
    (job / "summary.json").write_text(json.dumps(other))
    assert find_swept(sweeps, "sac", words) is None
    (job / "summary.json").write_text(text)
    words = [*words, "collector.total_frames=180"]
    assert train(job, [*words, "resume=auto"]) == 0
    find_swept.__globals__["_told"].cache_clear()
    assert json.loads((job / "summary.json").read_text())["total_frames"] == [120, 180]
    assert find_swept(sweeps, "sac", words) is None


def test_folders_without_runs_are_named(find_swept, tmp_path):
    with pytest.raises(SystemExit, match="holds no run"):
        find_swept([str(tmp_path)], "sac", tiny("none"))
