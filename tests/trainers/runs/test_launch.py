"""Start and end of every recipe: its status, or one line that says what to mend."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

import pytest
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES, compose_config, process_state_kept, summary, tiny

from torchrl_recall.recipes import sac_recall
from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.runs.launch import launch
from torchrl_recall.trainers.runs.no_effect import warn_of_no_effect
from torchrl_recall.trainers.schema import (
    A2CRecallConfig,
    ConfigError,
    OfflineRecallConfig,
    PPORecallConfig,
    SACRecallConfig,
    TRPORecallConfig,
    validate,
)
from torchrl_recall.trainers.tasks.gym import DivergenceError


@dataclass
class Ended:
    """A run that has ended."""

    status: int = 0
    final_return: float | None = 1.5


def start(train, *overrides: str):
    return launch(train, compose_config([*tiny(), *overrides]), SACRecallConfig)


def end_of(train, *overrides: str):
    """Return the status that the process would exit with."""
    with pytest.raises(SystemExit) as exit:
        start(train, *overrides)
    return exit.value.code


def test_a_finished_run_returns_its_final_return():
    assert start(lambda config: Ended()) == 1.5
    assert start(lambda config: Ended(final_return=None)) is None


def test_a_stopped_run_ends_with_its_status():
    assert end_of(lambda config: Ended(status=143)) == 143


def test_a_real_run_returns_its_final_return(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs into the working directory
    words = ["collector.total_frames=70", f"run_dir={tmp_path / 'run'}"]
    with process_state_kept():
        found = start(sac_recall.train, *words)
    assert found == summary(tmp_path / "run")["final_eval_return"]


def test_the_recipe_gets_its_typed_configuration():
    seen = []
    start(lambda config: seen.append(config) or Ended(), "seed=7")
    (config,) = seen
    assert type(config) is SACRecallConfig
    assert config.seed == 7


@pytest.mark.parametrize(
    "kind", [ConfigError, CheckpointError, FloatingPointError, DivergenceError]
)
def test_what_a_user_can_mend_is_one_line(kind):
    def train(config):
        raise kind("this went wrong.")

    assert end_of(train) == f"{kind.__name__}: this went wrong."


def test_a_wrong_configuration_never_trains():
    code = end_of(lambda config: pytest.fail("trained"), "optim.lr=-1")
    assert code.startswith("ConfigError: optim.lr must be positive")


def test_a_fault_of_the_program_keeps_its_traceback():
    def train(config):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        launch(train, compose_config(tiny()), SACRecallConfig)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["host=td3", "sac.n_step=3"], r"sac\.n_step has no effect with host=td3"),
        (["recall=imitation", "recall.reward=sparse"], r"recall\.reward has no effect with"),
        (["recall=none", "recall.num_updates=3"], r"recall\.num_updates has no effect with"),
        (["recall=none", "backtracking.lr=0.1"], r"backtracking\.lr has no effect with"),
        (["recall=self_imitation", "recall.num_traces=2"], r"num_traces has no effect with"),
        (["recall=self_imitation", "backtracking.lr=0.1"], r"backtracking\.lr has no effect with"),
        (["recall.max_landing_error=0.2"], r"trace_length=5; take auto"),
    ],
)  # fmt: skip
def test_settings_that_nothing_reads_are_warned_of(words, reason, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipes/sac_recall.py", *words])
    config = compose_config([*tiny(), *words])
    with pytest.warns(UserWarning, match=reason):
        launch(lambda config: Ended(), config, SACRecallConfig)


@pytest.mark.parametrize(
    "words",
    [
        ["host=td3", "td3.n_step=3"], ["recall.reward=sparse"], ["recall=none"],
        ["recall=self_imitation", "recall.num_updates=3", "backtracking.num_trajectories=5"],
        ["recall.trace_length=auto", "recall.max_landing_error=0.2"],
    ],
)  # fmt: skip
def test_settings_that_are_read_are_not(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipes/sac_recall.py", *words])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(lambda config: Ended(), *words)


def warned(folder: str, name: str, schema: type, *words: str) -> list[str]:
    config = str(RECIPES / "config" / folder)
    with initialize_config_dir(config_dir=config, version_base="1.3"):
        configuration = validate(compose(name, list(words)), schema)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        patch.setattr(sys, "argv", ["recipes/recipe.py", *words])
        warn_of_no_effect(configuration)
    return [str(each.message).partition(" has no effect")[0] for each in found]


A2C = "four_rooms", "a2c_recall", A2CRecallConfig
SAC = "sac", "sac_recall", SACRecallConfig


@pytest.mark.parametrize(
    ("recipe", "words", "unread"),
    [
        (("on_policy", "trpo_recall", TRPORecallConfig), ["recall.lr=0.1"], "recall.lr"),
        (
            ("on_policy", "ppo_recall", PPORecallConfig),
            ["recall.max_kl=null", "recall.lr=0.1"],
            None,
        ),
        (
            ("offline", "offline_recall", OfflineRecallConfig),
            ["data_set=x", "recall.temperature=3"],
            "recall.temperature",
        ),
        (SAC, ["recall.end_states=reward", "recall.temperature=3"], "recall.temperature"),
        (SAC, ["replay_buffer.alpha=0.9"], "replay_buffer.alpha"),
        (SAC, ["replay_buffer.prioritized=true", "replay_buffer.alpha=0.9", "recall=none"], None),
        (SAC, ["backtracking.num_trajectories=3"], "backtracking.num_trajectories"),
        (SAC, ["backtracking.num_trajectories=3", "recall.actions=backward_policy"], None),
        (SAC, ["recall=imitation", "backtracking.clamp_actions=false"], None),
        (SAC, ["recall=random_model", "backtracking.lr=0.1"], "backtracking.lr"),
        (A2C, ["recall=self_imitation", "recall.trace_length=4"], "recall.trace_length"),
        (A2C, ["recall=self_imitation", "backtracking.lr=0.1"], "backtracking.lr"),
        (A2C, ["recall=self_imitation", "recall.num_traces=4"], None),
        (A2C, ["recall=prioritized_replay", "recall.lr=0.5"], "recall.lr"),
        (A2C, ["recall=prioritized_replay", "prioritized_replay.size=9999"], None),
        (A2C, ["prioritized_replay.size=9999"], "prioritized_replay.size"),
        (A2C, ["recall=exact", "backtracking.state_lr=0.1"], "backtracking.state_lr"),
        (A2C, ["recall=exact", "backtracking.lr=0.1"], None),
    ],
)
def test_settings_of_every_recipe_that_are_not_read(recipe, words, unread):
    assert warned(*recipe, *words) == ([] if unread is None else [unread])
