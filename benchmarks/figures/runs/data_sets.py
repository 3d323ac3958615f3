"""Agents of our own, and data sets recorded with them, as Fu et al. (2020) made theirs.

``random`` holds random actions, ``medium`` and ``expert`` episodes of an agent early and late in
its training, ``medium_replay`` and ``replay`` all that the agent had seen by then.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runs.critic_runs import HOST, ROOT
from runs.critic_runs import TASKS as SPARSE
from runs.launchers import run_command
from torchrl_recall.trainers.runs.atomic import write_text

__all__ = ["DATA", "KINDS", "make_data_sets", "task_words"]

DATA: dict[str, Any] = {
    "task": "Hopper-v5",  # with overrides of its configuration after a plus
    "medium": 40_000,  # frames of the agents; those of small sparse tasks end at a target
    "expert": 100_000,
    "agent": "none",  # a method of SAC, as in none+sac.num_cells=[64,64]
    "recorded": None,  # frames of a data set; null: 20,000, in small sparse tasks 5,000 and 1,000
    "data": "runs/data_sets",  # holds a folder for each task
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # the agent, and what of it is kept
    "random": ("medium", {"policy": "random"}),
    "medium": ("medium", {"policy": "trained"}),
    "medium_replay": ("medium", {"policy": "replay"}),
    "expert": ("expert", {"policy": "trained"}),
    "replay": ("expert", {"policy": "replay"}),
}
AGENT = 1_000  # the seed of agents and data
_SPARSE_FRAMES = {"random": 5_000, "trained": 1_000}
_SPARSE_AGENT = [
    *HOST, "sac.n_step=1", "collector.total_frames=6000", "eval.interval=100",
    "eval.num_episodes=60", "eval.target_return=0.5", "compile=false",
]  # fmt: skip


def task_words(task: str) -> list[str]:
    """Return the overrides that a task stands for: its name, and what follows its plus signs."""
    name, *overrides = task.split("+")
    return [f"env.name={name}", *overrides]


def data_folder(config: DictConfig) -> Path:
    """Return the folder of the task's data sets, and of the agents behind them."""
    return Path(config.data) / re.sub(r"[^\w.\-+]+", "-", config.task)  # Hydra splits at =


def make_data_sets(config: DictConfig, names: Sequence[str]) -> dict[str, Path]:
    """Train missing agents, and record missing data sets.

    Args:
        config: options :data:`DATA`.
        names: data sets, each one of :data:`KINDS`.

    Returns:
        The folder of each data set.
    """
    from torchrl_recall.trained.record import record_run

    if unknown := [name for name in names if name not in KINDS]:
        sys.exit(f"there are no data sets {unknown}; there are {list(KINDS)}.")
    _check_settings(config)
    made = {name: data_folder(config) / name for name in names}
    for name, folder in made.items():
        if folder.exists():
            continue
        stage, kind = KINDS[name]
        if config.task in SPARSE:
            if stage == "medium" and name != "random":
                sys.exit(f"{config.task} has no medium agent: its data are random, expert, replay.")
            stage = "expert"
        if kind["policy"] != "replay":
            usual = _SPARSE_FRAMES[kind["policy"]] if config.task in SPARSE else 20_000
            kind = kind | {"frames": config.recorded or usual, "seed": AGENT}
        record_run(_agent(config, stage), folder, **kind)
    return made


def _check_settings(config: DictConfig) -> None:
    """Note with which settings the data of a task are made, and refuse others later."""
    path = data_folder(config) / "settings.json"
    wanted = {key: config[key] for key in ("agent", "medium", "expert", "recorded")}
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted) + "\n")
    elif (made := json.loads(path.read_text())) != wanted:
        sys.exit(f"{path.parent} was made with {made}. Give the same, or another folder by data=.")


def _agent(config: DictConfig, stage: str) -> Path:
    """Return a trained agent; the expert is the medium one, trained on."""
    folder = data_folder(config) / "agents" / stage
    if (folder / "summary.json").exists():
        return folder
    recall, *overrides = config.agent.split("+")
    words = [*task_words(config.task), f"recall={recall}", *overrides, f"seed={AGENT}"]
    if config.task in SPARSE:
        words += _SPARSE_AGENT
    else:
        words += [f"collector.total_frames={config[stage]}", "eval.interval=10000"]
        if stage == "expert" and not folder.exists():
            partial = folder.with_name(".copying")
            shutil.rmtree(partial, ignore_errors=True)
            unfinished = shutil.ignore_patterns("summary.json")
            shutil.copytree(_agent(config, "medium"), partial, ignore=unfinished).rename(folder)
    words += ["logger.backend=none", "resume=auto", f"run_dir={folder}"]
    done = run_command([str(ROOT / "recipes/sac_recall.py"), *words])
    if done.returncode:
        sys.exit(done.stderr)
    return folder
