"""Damage a run's folder, terminal or memory, and check what it does and says."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import mujoco
import pytest
from recipe_fixtures import (
    command,
    compose_config,
    metrics,
    one_thread,
    process_state_kept,
    summary,
    tiny,
    train,
)

from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.atomic import write_text
from torchrl_recall.trainers.runs.launch import launch
from torchrl_recall.trainers.runs.log import RunLog
from torchrl_recall.trainers.schema import ConfigError, SACRecallConfig

SHORT = tiny("none", collector__total_frames=80, env__name="Pendulum-v1")
LONGER = tiny("none", env__name="Pendulum-v1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, SHORT)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.filterwarnings("ignore:Pendulum")
@pytest.mark.parametrize(
    "damage",
    [
        os.urandom(300),
        b"a,b\n1,2\n",
        b"frames,wall_seconds,eval_return\n80,1.0\n",
        b"frames,wall_seconds,eval_return\n80,1.0,x\n",
    ],
    ids=["noise", "other columns", "cut row", "no number"],
)
def test_a_table_that_is_no_table_is_put_aside(damage, run):
    (run / "metrics.csv").write_bytes(damage)
    with pytest.warns(UserWarning, match=r"no table of metrics.*metrics.csv.damaged"):
        train(run, [*LONGER, "resume=auto"])
    assert (run / "metrics.csv.damaged").read_bytes() == damage
    assert [row["frames"] for row in metrics(run)] == ["160"]


@pytest.mark.parametrize("damage", ["a: [", "compile: tr\n  \x00", "- 1\n"])
def test_a_configuration_that_cannot_be_read_asks_whether_it_was_compiled(damage, run):
    (run / "config.yaml").write_text(damage)
    changes = [*LONGER, "compile=null", "resume=auto"]
    with pytest.raises(ConfigError, match=r"config.yaml cannot be read .*compile=true or"):
        train(run, changes)


@pytest.mark.filterwarnings("ignore:Pendulum")
def test_a_summary_that_is_no_json_is_written_again(run):
    (run / "summary.json").write_text("{cut")
    train(run, [*LONGER, "resume=auto"])
    assert summary(run)["frames"] == 160


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "run" / "config.yaml" / "x").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot be written into"):
        train(tmp_path / "run", SHORT)


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    (tmp_path / "run").mkdir()
    log = RunLog(tmp_path / "run", 200, backend="none")
    log.write(100, {"eval_return": 1.0})
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(UserWarning, match="was deleted while the run was writing"):
        log.write(200, {"eval_return": 2.0})
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert [row["frames"] for row in csv.DictReader(file)] == ["100", "200"]


@pytest.mark.parametrize("closed", ["pipe", "file"])
def test_a_run_ends_well_although_nobody_reads_it(closed, tmp_path):
    own = tiny("imitation", collector__total_frames=80, env__name="Pendulum-v1")
    words = command(*own, run_dir=tmp_path / "run")  # all of its settings are read
    if closed == "file":
        words = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
        done = subprocess.run(words, env=one_thread(), timeout=120, stderr=subprocess.PIPE)
    else:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            words, env=one_thread(), timeout=120, stdout=write, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert summary(tmp_path / "run")["frames"] == 80


def test_files_are_never_seen_half_written(tmp_path, monkeypatch):
    write_text(tmp_path / "deep" / "file", "before")

    def full(self, *args, **kwargs):
        with self.open("w") as file:
            file.write("aft")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(tmp_path / "deep" / "file", "after")
    assert (tmp_path / "deep" / "file").read_text() == "before"
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize("key", ["replay_buffer.size", "sac.num_cells"])
def test_too_little_memory_is_one_line(key, tmp_path):
    value = "[100000000,100000000]" if "cells" in key else 10**12
    overrides = [*SHORT, f"{key}={value}", f"run_dir='{tmp_path / 'run'}'"]
    with process_state_kept(), pytest.raises(SystemExit) as exit:
        launch(sac_recall.train, compose_config(overrides), SACRecallConfig)
    said = exit.value.code
    assert str(said).startswith("ConfigError: the run needs more memory than there is")
    assert "replay_buffer.size" in str(said)


def test_a_logger_that_is_missing_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed; pip install"):
        train(tmp_path / "run", [*SHORT, "logger.backend=mlflow"])
    assert not (tmp_path / "run").exists()


def test_loggers_show_the_configuration(tmp_path):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    train(tmp_path / "run", [*SHORT, "logger.backend=tensorboard"])
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    shown = {
        key
        for name in events.Runs()
        for plugin in ("hparams",)
        for metadata in events.PluginRunToTagToContent(plugin).get(name, {}).values()
        for key in ("env.name", "sac.gamma", "collector.total_frames")
        if key.encode() in metadata
    }
    assert shown == {"env.name", "sac.gamma", "collector.total_frames"}


def test_mujoco_warns_through_python_and_leaves_no_file(tmp_path, monkeypatch):
    import gymnasium

    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    try:
        process.quiet()
        task = gymnasium.make("Hopper-v5").unwrapped
        task.reset()
        task.data.qpos[:] = 1e30
        with pytest.warns(UserWarning, match="MuJoCo: Nan, Inf or huge value"):
            mujoco.mj_step(task.model, task.data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            process._warn_of_physics("the attribute is deprecated")
    finally:
        mujoco.set_mju_user_warning(before)
    assert not list(tmp_path.iterdir())
