"""Share, among tests of the TRPO and PPO recipes and their parts, tiny configurations and runs."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES, process_state_kept
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_recall.recipes import trpo_recall
from torchrl_recall.trainers.schema import PPORecallConfig, TRPORecallConfig, validate

CPU = torch.device("cpu")
CONFIG = RECIPES / "config" / "on_policy"
RECALLS = sorted(  # but for cloning, which needs demonstrations
    {path.stem for path in (CONFIG / "recall").glob("*.yaml")} - {"cloning"}
)
SCHEMAS = {"trpo": TRPORecallConfig, "ppo": PPORecallConfig}
TINY = {
    "collector.total_frames": 256,
    "collector.frames_per_batch": 64,
    "policy.num_cells": "[8,8]",
    "eval.interval": 128,
    "eval.num_episodes": 1,
    "checkpoint.interval": 64,
    "checkpoint.keep": 20,
    "logger.backend": "none",
    "recall.num_updates": 2,
    "recall.batch_size": 16,
    "recall.num_high_value_states": 4,
    "recall.state_batch_size": 64,
    "recall.trace_length": 5,
    "backtracking.num_cells": "[8,8]",
    "backtracking.num_updates": 2,
}
HOSTS = {"trpo": {"trpo.batch_size": 32, "trpo.num_epochs": 2}, "ppo": {"ppo.batch_size": 32}}


def tiny(host: str, recall: str = "backtracking", **changes) -> list[str]:
    """Overrides of a tiny run; dots in the keys of ``changes`` are double underscores."""
    values = TINY | HOSTS[host] | {k.replace("__", "."): v for k, v in changes.items()}
    if recall == "random_model":
        values["backtracking.num_updates"] = 0
    return [f"recall={recall}"] + [f"{key}={value}" for key, value in values.items()]


def configure(host: str, overrides: list[str]):
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        return validate(compose(f"{host}_recall", overrides), SCHEMAS[host])


def train(host: str, run_dir: Path, overrides: list[str]) -> int:
    """Run the recipe in this process; MuJoCo's log stays out of the working directory."""
    config = configure(host, [*overrides, f"run_dir='{run_dir}'"])
    with process_state_kept():
        os.chdir(run_dir.parent)
        return trpo_recall.train(config).status


def parts(host: str = "trpo", recall: str = "backtracking", **changes):
    """Compose what the recipe composes, for a tiny run."""
    torch.manual_seed(0)
    return trpo_recall.build(configure(host, tiny(host, recall, **changes)), CPU)


def experience(parts, n: int = 64):
    """Steps of the policy, the same in each call."""
    torch.manual_seed(1)
    parts.env.set_seed(1)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return parts.env.rollout(n, parts.host.actor, break_when_any_done=False)
