"""Share, among tests of the four-room recipe and its parts, tiny configurations and runs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from recipe_fixtures import RECIPES, process_state_kept
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_recall.recipes import a2c_recall
from torchrl_recall.trainers.schema import A2CRecallConfig, validate

CONFIG = RECIPES / "config" / "four_rooms"
SCRIPT = RECIPES / "a2c_recall.py"
METHODS = sorted(path.stem for path in (CONFIG / "recall").glob("*.yaml"))
TINY = {
    "env.size": 5,
    "seeds": "[3,4]",
    "collector.total_frames": 512,
    "collector.frames_per_env": 8,
    "a2c.num_cells": 16,
    "eval.interval": 64,
    "logger.interval": 128,
    "checkpoint.interval": 128,
    "checkpoint.keep": 20,
    "recall.num_traces": 8,
    "recall.trace_length": 10,
    "recall.batch_size": 32,
    "backtracking.batch_size": 16,
    "backtracking.state_batch_size": 16,
    "backtracking.num_cells": 16,
    "prioritized_replay.batch_size": 32,
}


def configure(overrides: list[str]) -> A2CRecallConfig:
    with initialize_config_dir(config_dir=str(CONFIG), version_base="1.3"):
        return validate(compose("a2c_recall", overrides), A2CRecallConfig)


def tiny(method: str, **changes) -> list[str]:
    """Overrides of a tiny run; dots in the keys of ``changes`` are double underscores."""
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    if method == "per_table_3":
        values["prioritized_replay.interval"] = 2
    if method == "random_model":
        values["backtracking.num_updates"] = 0
    return [f"recall={method}"] + [f"{key}={value}" for key, value in values.items()]


def train(run_dir: Path, overrides: list[str]) -> int:
    with process_state_kept():
        return a2c_recall.train(configure([*overrides, f"run_dir='{run_dir}'"])).status


def parts(*overrides: str):
    """The configuration and what the recipe composes of it."""
    config = configure(list(overrides))
    return config, a2c_recall.build(config)


@torch.no_grad()
def experience(parts, steps: int):
    """Steps of all environments by the policy, each from a reset."""
    with set_exploration_type(ExplorationType.RANDOM):
        return parts.env.rollout(steps, parts.host.actor, break_when_any_done=False)


def returns(run_dir: Path) -> dict[int, list[tuple[int, float]]]:
    """Evaluations of each seed."""
    out: dict[int, list[tuple[int, float]]] = {}
    with (run_dir / "returns.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            out.setdefault(int(row["seed"]), []).append((int(row["frames"]), float(row["return"])))
    return out
