"""Comparison of the settings of finished runs with those that a figure asks for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

from torchrl_recall.results.folders import find_folders
from torchrl_recall.trainers import schema
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.resumption import LEAVES_THE_SAME, finished, flat

__all__ = ["check_settings", "find_swept"]

CONFIG = Path(__file__).parents[3] / "recipes" / "config"
RECIPES: dict[str, tuple[str, type[BaseModel]]] = {
    "sac": ("sac", schema.SACRecallConfig),
    "trpo": ("on_policy", schema.TRPORecallConfig),
    "ppo": ("on_policy", schema.PPORecallConfig),
    "a2c": ("four_rooms", schema.A2CRecallConfig),
    "goal_gan": ("goal_gan", schema.GoalGANRecallConfig),
    "offline": ("offline", schema.OfflineRecallConfig),
}


def find_swept(sweeps: Sequence[str], recipe: str, words: Sequence[str]) -> Path | None:
    """Find the finished run of a recipe with given settings.

    Args:
        sweeps: folders of runs.
        recipe: ``sac``, ``trpo``, ``ppo``, ``a2c``, ``goal_gan`` or ``offline``.
        words: overrides of its configuration, without ``run_dir``.

    Returns:
        The run's folder; None if no run is finished, or all differ.
    """
    config = _composed(recipe, words)
    asked = flat(config)
    for folder, saved in _told(tuple(sweeps)):
        if _differ(asked, saved):
            continue
        summary = finished(config, folder)
        if summary and _is_straight(summary):
            return folder
    return None


def check_settings(run_dir: Path, recipe: str, words: Sequence[str]) -> None:
    """Refuse the run of a folder if its settings are others, or if it was prolonged.

    Args:
        run_dir: folder of the run, which may be unfinished or not be there.
        recipe: see :func:`find_swept`.
        words: see :func:`find_swept`.

    Raises:
        SystemExit: a setting that changes the rows differs.
    """
    if not (run_dir / "config.yaml").exists():
        return
    cure = (
        "Take another out=, remove the folder, or make the figure of what is there with "
        "collect=true."
    )
    try:
        saved = _load(run_dir)
        summary = run_dir / "summary.json"
        spans = _total_frames(json.loads(summary.read_text())) if summary.exists() else []
    except (OSError, ValueError, AssertionError, OmegaConfBaseException, YAMLError) as error:
        sys.exit(f"{run_dir} is damaged ({str(error).splitlines()[0]}). {cure}")
    differ = _differ(flat(_composed(recipe, words)), saved)
    if len(spans) > 1:
        differ.append(f"it was prolonged, {' and '.join(map(str, spans))} steps")
    if differ:
        sys.exit(f"{run_dir} holds a run of other settings: {'; '.join(differ)}. {cure}")


def _composed(recipe: str, words: Sequence[str]) -> dict:
    """Return the configuration of a recipe."""
    group, config_type = RECIPES[recipe]
    with initialize_config_dir(config_dir=str(CONFIG / group), version_base="1.3"):
        return schema.validate(compose(f"{recipe}_recall", list(words)), config_type).model_dump()


def _load(folder: Path) -> dict:
    """Load the settings of a run, with dotted keys."""
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    return flat(config)


def _differ(asked: dict, saved: dict) -> list[str]:
    """Name the settings that differ and can change the rows of a figure."""
    unsaid = ("compile",) if asked.get("compile") is None else ()
    return [
        f"{key}={saved.get(key)}, not {asked.get(key)}"
        for key in sorted({*asked, *saved})
        if asked.get(key) != saved.get(key)
        and (key == "collector.total_frames" or not key.startswith((*LEAVES_THE_SAME, *unsaid)))
    ]


def _is_straight(summary: dict) -> bool:
    """Return whether a run was not prolonged, and was made by the installed versions.

    A prolonged run annealed over another span before, which its configuration does not show.
    """
    is_ours = summary.get("versions", process.versions()) == process.versions()
    return is_ours and len(_total_frames(summary)) == 1


def _total_frames(summary: dict) -> list[int]:
    """Return the targets of a run, one for each time that it was prolonged."""
    return summary.get("total_frames", [0])


@cache
def _told(sweeps: tuple[str, ...]) -> list[tuple[Path, dict]]:
    """Read the configurations of finished runs, once."""
    folders, skipped = find_folders([Path(sweep) for sweep in sweeps])
    if skipped:
        sys.exit(
            f"sweeps={list(sweeps)}: {', '.join(f'{path} {why}' for path, why in skipped.items())}"
        )
    return [
        (folder, _load(folder))
        for folder in folders
        if (folder / "summary.json").exists() and (folder / "config.yaml").exists()
    ]
