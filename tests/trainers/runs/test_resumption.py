"""Check what a resumed run may change, and the command that resumes it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from torchrl_recall.trainers.runs.resumption import (
    check_config,
    command,
    ended_at_target,
    finished,
)
from torchrl_recall.trainers.schema import ConfigError

CONFIG = {"seed": 0, "optim": {"lr": 1e-3}, "collector": {"total_frames": 100}, "resume": "never"}


def test_a_prolonged_run_has_the_same_configuration():
    longer = CONFIG | {"collector": {"total_frames": 200}, "resume": "auto"}
    check_config(longer, CONFIG, Path("run"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (CONFIG | {"seed": 1}, "seed: 0 was saved, 1 is asked for"),
        (CONFIG | {"optim": {"lr": 1e-4}}, "optim.lr: 0.001 was saved"),
        (CONFIG | {"extra": 3}, "extra: None was saved, 3"),
    ],
)
def test_another_configuration_is_refused_by_its_keys(changed, words):
    with pytest.raises(ConfigError, match=words):
        check_config(changed, CONFIG, Path("run"))


def test_the_command_can_be_copied(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["recipes/sac_recall.py", "seeds=[0,1]", "+run_dir=old", "resume=never"]
    monkeypatch.setattr(sys, "argv", argv)
    words = shlex.split(command(Path("a folder"), 500))
    assert words == [
        sys.executable, "recipes/sac_recall.py", "seeds=[0,1]", "collector.total_frames=500",
        "run_dir='a folder'", "resume=auto",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "folder",
    ["runs/a", "a b", "a=b,c", "it's", "x(1)[2]{3}", "back\\slash", "end\\", "q\\'x", '"d"', "a#b",
     "~/x", "übung/1", "null", "1e5", "true", " lead"],
)  # fmt: skip
def test_a_shell_and_hydra_both_take_the_command(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipes/sac_recall.py"])
    (word,) = [w for w in shlex.split(command(Path(folder), 5)) if w.startswith("run_dir=")]
    assert OverridesParser.create().parse_override(word).value() == folder


@pytest.mark.parametrize(
    ("reached", "stops", "ended"),
    [(50, True, True), (50, False, False), (None, True, False), ([50, 60], True, True),
     ([50, None], True, False), ([50, 60], False, False)],
)  # fmt: skip
def test_a_target_ends_a_run_that_may_stop_there(reached, stops, ended):
    config = CONFIG | {"eval": {"stop_at_target": stops}}
    assert ended_at_target({"frames_to_target": reached}, config) == ended


def test_the_command_past_a_target_leaves_the_target_out(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["r.py", "eval.target_return=5", "eval.stop_at_target=true", "eval.interval=9"]
    monkeypatch.setattr(sys, "argv", argv)
    assert "eval.target_return=5" in command(Path("x"), 5)
    words = shlex.split(command(Path("x"), 5, without_target=True))
    assert [word for word in words if word.startswith("eval.")] == ["eval.interval=9"]


def test_goals_of_the_evaluation_are_part_of_a_run():
    of_9, of_25 = (CONFIG | {"eval": {"num_goals": num}} for num in (9, 25))
    with pytest.raises(ConfigError, match=r"eval\.num_goals: 9 was saved, 25 is asked for"):
        check_config(of_25, of_9, Path("run"))


def test_more_patience_goes_on(tmp_path):
    config = CONFIG | {"eval": {"stop_at_target": True, "patience": 1}}
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    (tmp_path / "summary.json").write_text(json.dumps({"frames": 50, "frames_to_target": 50}))
    assert finished(config, tmp_path)["frames"] == 50
    assert finished(config | {"eval": {"stop_at_target": True, "patience": 5}}, tmp_path) is None
