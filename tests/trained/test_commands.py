"""The commands as they are typed: what they print, write and return."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from recipe_fixtures import one_thread
from setuptools import find_packages
from trained_fixtures import Runs

from torchrl_recall import export, from_pretrained, play
from torchrl_recall.traces import __main__ as traces

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAINS = {"play": play.main, "export": export.main, "traces": traces.main}


@pytest.fixture
def call(monkeypatch, capsys):
    """Type a command in this process; return status, stdout and stderr."""

    def typed(name: str, *words: object):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        status = MAINS[name]()
        return status, *capsys.readouterr()

    return typed


@pytest.mark.parametrize("name", MAINS)
def test_help_is_short(name, call):
    status, out, _ = call(name, "--help")
    assert status == 0
    assert out.startswith(f"usage: python -m torchrl_recall.{name} RUN")
    assert len(out.splitlines()) < 15


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("play", [], "0 arguments are given: none"),
        ("play", ["a", "b"], "2 arguments are given: a b"),
        ("play", ["a", "episode=3"], "'episode': unknown; did you mean episodes?"),
        ("play", ["a", "episodes=0"], "episodes must be positive, got 0"),
        ("play", ["a", "seed=[1"], "expected ',' or ']'"),
        ("play", ["a", "--video"], "unknown --video; options are written key=value"),
        ("export", ["a", "b", "c"], "3 arguments"),
        ("export", ["a", "out=b"], "'out': unknown"),
        ("traces", ["a", "dims=x"], "dims must be a list"),
        ("traces", ["a", "dims=[0,-1]"], "dims must be zero or more"),
    ],
)
def test_wrong_use_is_two_lines_and_status_2(name, words, told, call):
    status, out, err = call(name, *words)
    assert (status, out) == (2, "")
    usage, line = err.splitlines()
    assert usage.startswith(f"usage: python -m torchrl_recall.{name} RUN")
    assert told in line


@pytest.mark.parametrize("name", MAINS)
def test_a_folder_that_is_no_runs_is_one_line_and_status_1(name, call, tmp_path):
    status, out, err = call(name, tmp_path)
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"ConfigError: {tmp_path} is no folder of a run")


def test_a_damaged_run_is_one_line_and_status_1(runs: Runs, call, tmp_path):
    run_dir = shutil.copytree(runs("none")[0], tmp_path / "run")
    for folder in (run_dir / "checkpoints").iterdir():
        (folder / "state.json").write_text("{}")
    for name in MAINS:
        status, _, err = call(name, run_dir)
        assert status == 1
        assert err.splitlines()[-1].startswith("CheckpointError: none of the checkpoints")


def test_what_they_print_and_write(runs: Runs, call, tmp_path):
    run_dir, _ = runs("hopper")
    status, out, _ = call("play", run_dir, "episodes=2", "seed=3")
    rows = [line.split() for line in out.splitlines()[-3:]]
    assert status == 0
    mean = sum(float(row[1]) for row in rows[:2]) / 2
    assert rows[2][0] == "mean"
    assert float(rows[2][1]) == pytest.approx(mean, abs=0.006)
    assert call("export", run_dir, tmp_path / "out=1" / "hopper")[0] == 0
    assert from_pretrained(tmp_path / "out=1" / "hopper").backtracking_model is not None
    film = tmp_path / "film.png"
    status, out, _ = call("traces", run_dir, f"out={tmp_path / 'a.png'}", f"film={film}", "num=1")
    assert status == 0
    assert f"8 traces of 5 steps: {tmp_path / 'a.png'}" in out
    assert f"film: {film} (3 traces, 6 pictures each; the first 1 of qpos" in out
    assert film.exists()


def test_the_status_is_that_of_the_process(tmp_path):
    words = [sys.executable, "-m", "torchrl_recall.traces", str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, env=one_thread(), capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_each_script_of_the_wheel_is_there():
    scripts = PROJECT["project"]["scripts"]
    recipes = {path.stem for path in (ROOT / "recipes").glob("*_recall.py")}
    assert recipes <= {target.split(":")[0].split(".")[-1] for target in scripts.values()}
    for name, target in scripts.items():
        module, function = target.split(":")
        assert name.startswith("recall-")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_wheel_has_all_packages():
    named = set(PROJECT["tool"]["setuptools"]["packages"]) - {"torchrl_recall.recipes"}
    assert named == set(find_packages(str(ROOT), include=["torchrl_recall", "torchrl_recall.*"]))
