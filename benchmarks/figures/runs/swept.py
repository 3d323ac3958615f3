"""Comparison of the settings of finished runs with those that a figure asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pydantic import BaseModel

from torchrl_recall.results.folders import find_folders
from torchrl_recall.trainers import schema
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.resumption import finished, flat

__all__ = ["check_settings", "find_swept"]

CONFIG = Path(__file__).parents[3] / "recipes" / "config"
RECIPES: dict[str, tuple[str, type[BaseModel]]] = {
    "sac": ("sac", schema.SACRecallConfig),
    "trpo": ("on_policy", schema.TRPORecallConfig),
    "ppo": ("on_policy", schema.PPORecallConfig),
    "a2c": ("four_rooms", schema.A2CRecallConfig),
    "goal_gan": ("goal_gan", schema.GoalGANRecallConfig),
}


def find_swept(sweeps: Sequence[str], recipe: str, words: Sequence[str]) -> Path | None:
    """Find the finished run of a recipe with given settings.

    Args:
        sweeps: folders of runs.
        recipe: ``sac``, ``trpo``, ``ppo``, ``a2c`` or ``goal_gan``.
        words: overrides of its configuration, without ``run_dir``.

    Returns:
        The run's folder; None if no run is finished, or all differ.
    """
    config = _composed(recipe, words)
    asked = _telling(config)
    for folder, told in _told(tuple(sweeps)):
        if told != asked:
            continue
        try:
            summary = finished(config, folder)
        except schema.ConfigError:  # another setting differs
            continue
        if summary and _is_straight(summary):
            return folder
    return None


def check_settings(run_dir: Path, recipe: str, words: Sequence[str]) -> None:
    """Refuse a finished run of other settings.

    Args:
        run_dir: folder of the run.
        recipe: see :func:`find_swept`.
        words: see :func:`find_swept`.

    Raises:
        SystemExit: a setting that changes the rows differs.
    """
    if not (run_dir / "summary.json").exists():
        return
    config = _composed(recipe, words)
    asked, saved = _telling(config), _telling(_load(run_dir))
    different = sorted(key for key in asked | saved if asked.get(key) != saved.get(key))
    try:
        told = ", ".join(f"{key}={saved.get(key)}" for key in different)
        finished(config, run_dir)
    except schema.ConfigError as error:
        told = told or str(error)
    if told:
        sys.exit(
            f"{run_dir} holds a finished run of other settings: {told}. Take another out=, remove "
            "the folder, or make the figure of what is there with collect=true."
        )


def _composed(recipe: str, words: Sequence[str]) -> dict:
    """Return the configuration of a recipe."""
    group, config_type = RECIPES[recipe]
    with initialize_config_dir(config_dir=str(CONFIG / group), version_base="1.3"):
        return schema.validate(compose(f"{recipe}_recall", list(words)), config_type).model_dump()


def _load(folder: Path) -> dict:
    """Load the configuration of a run."""
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    return config


def _is_straight(summary: dict) -> bool:
    """Return whether a run was not prolonged, and was made by the installed versions.

    A prolonged run annealed over another span before, which its configuration does not show.
    """
    is_ours = summary.get("versions", process.versions()) == process.versions()
    return is_ours and len(summary.get("total_frames", [0])) == 1


@cache
def _told(sweeps: tuple[str, ...]) -> list[tuple[Path, dict]]:
    """Read the configurations of finished runs, once."""
    folders, skipped = find_folders([Path(sweep) for sweep in sweeps])
    if skipped:
        sys.exit(
            f"sweeps={list(sweeps)}: {', '.join(f'{path} {why}' for path, why in skipped.items())}"
        )
    return [
        (folder, _telling(_load(folder)))
        for folder in folders
        if (folder / "summary.json").exists() and (folder / "config.yaml").exists()
    ]


def _telling(config: dict) -> dict:
    """Select the settings that can change the rows of a figure."""
    told = ("env.", "seed", "recall.name", "collector.total_frames", "eval.")
    return {key: value for key, value in flat(config).items() if key.startswith(told)}
