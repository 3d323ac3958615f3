"""Share, among tests of the Goal GAN recipe and its parts, tiny configurations and runs."""

from __future__ import annotations

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES, process_state_kept
from tensordict.nn import TensorDictModule

from torchrl_recall.recipes import goal_gan_recall
from torchrl_recall.trainers.schema import GoalGANRecallConfig, validate

CPU = torch.device("cpu")
CONFIG = RECIPES / "config" / "goal_gan"
RECALLS = sorted(path.stem for path in (CONFIG / "recall").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONFIG / "env").glob("*.yaml"))
TINY = {
    "compile": "false",
    "collector.total_frames": 960,
    "collector.num_rollouts": 2,
    "env.max_steps": 10,
    "env.goal_radius": 0.4,
    "goal_gan.num_new": 8,
    "goal_gan.num_old": 4,
    "goal_gan.num_updates": 2,
    "goal_gan.batch_size": 8,
    "policy.num_cells": "[8,8]",
    "trpo.batch_size": 32,
    "trpo.num_epochs": 2,
    "eval.interval": 240,
    "eval.num_goals": 16,
    "checkpoint.interval": 240,
    "checkpoint.keep": 20,
    "recall.num_updates": 2,
    "recall.batch_size": 16,
    "recall.num_high_value_states": 4,
    "recall.trace_length": 5,
    "recall.state_batch_size": 64,
    "backtracking.num_cells": "[8,8]",
    "backtracking.num_updates": 2,
}


def tiny(recall: str = "backtracking", task: str = "point_free2", **changes) -> list[str]:
    """Overrides of a tiny run; dots in the keys of ``changes`` are double underscores."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    if recall == "random_model":
        values["backtracking.num_updates"] = 0
    groups = [f"recall={recall}", f"env={task}"]
    return groups + [f"{key}={value}" for key, value in values.items()]


def configure(overrides: list[str]) -> GoalGANRecallConfig:
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        return validate(compose("goal_gan_recall", overrides), GoalGANRecallConfig)


def train(run_dir: Path, overrides: list[str]) -> int:
    config = configure([*overrides, f"run_dir='{run_dir}'"])
    with process_state_kept():
        return goal_gan_recall.train(config).status


def parts(recall: str = "backtracking", **changes):
    """Compose what the recipe composes, for a tiny run."""
    torch.manual_seed(0)
    return goal_gan_recall.build(configure(tiny(recall, **changes)), CPU)


def along(x: float) -> TensorDictModule:
    """A policy that always moves along the first dimension of the plane."""

    def act(observation):
        return torch.tensor([x, 0.0]).expand(*observation.shape[:-1], 2).clone()

    return TensorDictModule(act, ["observation"], ["action"])
