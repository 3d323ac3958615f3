"""Reading of run folders: the evaluations of each seed, with their settings."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from torchrl_recall.results.statistics import frames_to_target
from torchrl_recall.trainers.runs.checkpoints import CheckpointError, load_latest
from torchrl_recall.trainers.runs.resumption import flat

__all__ = ["METRIC", "FolderError", "Run", "align", "find_folders", "read_folder"]

METRIC = "eval_return"  # the metric that every run has
_DAMAGED = (
    OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error,
    OmegaConfBaseException, YAMLError,
)  # fmt: skip


class FolderError(ValueError):
    """Error of a folder without evaluations of a run; the message gives the reason."""


@dataclass(frozen=True)
class Run:
    """Evaluations of one seed of a run.

    Attributes:
        folder: folder of the run.
        task: ``env.name``, or size and start of the four rooms.
        host: name of the host algorithm.
        recall: name of the method, ``recall.name`` in the configuration.
        seed: the random seed.
        settings: the configuration, with dotted keys.
        evaluations: values of the metric, by frames.
        is_finished: whether the run has ended.
        holds: whether the run ended because it reached its target. Its last value then counts for
            all later frames too.
        knows_target: whether the run had a target.
        frames_to_target: number of frames after which the target was reached; None if it was not.
        total_frames: ``collector.total_frames`` of a prolonged run, all in turn.
    """

    folder: Path
    task: str
    host: str
    recall: str
    seed: int
    settings: Mapping[str, Any]
    evaluations: Mapping[int, float]
    is_finished: bool
    holds: bool
    knows_target: bool
    frames_to_target: int | None
    total_frames: tuple[int, ...] = ()

    @property
    def last_frames(self) -> int:
        """Number of frames at the last evaluation."""
        return next(reversed(list(self.evaluations)))

    def at(self, frames: int) -> float | None:
        """Return the metric after a number of frames.

        Args:
            frames: the number of frames.

        Returns:
            The value; None if it is unknown.
        """
        if self.holds and frames > self.last_frames:
            return self.evaluations[self.last_frames]
        return self.evaluations.get(frames)


def align(runs: Sequence[Run], beside: Sequence[Run] = ()) -> tuple[list[int], NDArray]:
    """Return the evaluations that all runs have in common.

    Args:
        runs: runs of a task, of any methods.
        beside: other runs of the task. A run that ended at its target is continued with its last
            value up to the longest of them.

    Returns:
        Frames of the evaluations, and values of the metric, shape ``[runs, evaluations]``.
    """
    known = {number for run in (*runs, *beside) for number in run.evaluations}
    frames = [n for n in sorted(known) if all(run.at(n) is not None for run in runs)]
    return frames, np.array([[run.at(number) for number in frames] for run in runs], dtype=float)


def find_folders(paths: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Find run folders among the given folders and inside them.

    Args:
        paths: folders of runs, of sweeps and of figures.

    Returns:
        The run folders, and a reason for each other folder.
    """
    found: dict[Path, None] = {}
    skipped = {}
    for path in paths:
        inside = {
            file.parent: None
            for name in ("config.yaml", "metrics.csv")
            for file in path.rglob(name)
            if ".hydra" not in file.parts
        }
        if not inside:
            skipped[path] = "holds no run, which has config.yaml and metrics.csv"
        found |= dict.fromkeys(sorted(inside))
    return list(found), skipped


def read_folder(folder: Path, metric: str = METRIC, target: float | None = None) -> list[Run]:
    """Read all seeds of a run folder, finished or not.

    Args:
        folder: folder of a run of a recipe.
        metric: a column of ``metrics.csv``.
        target: value of the metric that replaces the run's target; None keeps the latter.

    Returns:
        One run for each seed; a run of the four rooms has many seeds in one folder.

    Raises:
        FolderError: the folder has no evaluations, or is damaged.
    """
    try:
        for name in ("config.yaml", "metrics.csv"):
            if not (folder / name).exists():
                raise FolderError(
                    "has not been evaluated yet"
                    if name == "metrics.csv"
                    else "is no run of a recipe: it has no config.yaml"
                )
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=True)
        if not isinstance(config, dict):
            raise FolderError("is no run of a recipe: its config.yaml has no keys")
        summary = {}
        if (folder / "summary.json").exists():
            summary = json.loads((folder / "summary.json").read_text())
        named = {str(key): value for key, value in config.items()}
        return _runs(folder, named, summary, metric, target)
    except FolderError:
        raise
    except CheckpointError as error:
        raise FolderError(f"cannot be read: {error}") from error
    except _DAMAGED as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise FolderError(f"is damaged or of another program ({reason})") from error


def _runs(
    folder: Path, config: dict[str, Any], summary: dict[str, Any], metric: str, target: float | None
) -> list[Run]:
    seeds = config["seeds"] if "seeds" in config else [config["seed"]]
    reached = summary.get("frames_to_target")
    reached = dict(zip(seeds, reached if isinstance(reached, list) else [reached], strict=False))
    may_stop = config.get("eval", {}).get("stop_at_target", True)
    holds = bool(summary) and may_stop and all(reached.get(seed) for seed in seeds)
    # Earlier versions kept the summary of an extended run until it ended again.
    is_finished = bool(summary) and (
        holds or summary["frames"] >= config["collector"]["total_frames"]
    )
    several = "seeds" in config
    if several and metric != METRIC:
        raise FolderError(f"holds many seeds, of which only {METRIC} is known for each")
    evaluations = (
        _of_many_seeds(folder, seeds, is_finished)
        if several
        else {seeds[0]: _of_one_seed(folder / "metrics.csv", metric)}
    )
    if not all(evaluations.values()):
        raise FolderError("has not been evaluated yet")
    if target is not None:
        reached = {
            seed: frames_to_target(found, list(found.values()), target)
            for seed, found in evaluations.items()
        }
        if holds and not all(reached.values()):
            raise FolderError(
                f"ended at its own target before it could reach target={target}; train it without "
                "one"
            )
    return [
        Run(
            folder=folder,
            task=_task(config["env"]),
            host=_host(config),
            recall=config["recall"]["name"],
            seed=seed,
            settings=flat(config),
            evaluations=evaluations[seed],
            is_finished=is_finished,
            holds=is_finished and holds,
            knows_target=target is not None or "frames_to_target" in summary,
            frames_to_target=reached.get(seed),
            total_frames=tuple(summary.get("total_frames", ())),
        )
        for seed in seeds
    ]


def _of_one_seed(path: Path, metric: str) -> dict[int, float]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and metric not in rows[0]:
        raise FolderError(f"has no metric {metric!r}; there are {', '.join(rows[0])}")
    return {int(row["frames"]): float(row[metric]) for row in rows if row[metric]}


def _of_many_seeds(
    folder: Path, seeds: list[int], is_finished: bool
) -> dict[int, dict[int, float]]:
    """Read ``returns.csv`` of a finished run, or the newest checkpoint of an unfinished one."""
    found: dict[int, dict[int, float]] = {seed: {} for seed in seeds}
    if is_finished:
        with (folder / "returns.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found[int(row["seed"])][int(row["frames"])] = float(row["return"])
    elif (checkpoint := load_latest(folder / "checkpoints")) is not None:
        evaluation = checkpoint[1]["evaluation"]
        for frames, values in zip(evaluation["frames"], evaluation["results"], strict=True):
            for seed, value in zip(seeds, values.tolist(), strict=True):
                found[seed][int(frames)] = value
    return found


def _task(env: dict[str, Any]) -> str:
    return env["name"] if "name" in env else f"{env['size']}_{env['start']}"


def _host(config: dict[str, Any]) -> str:
    named = config.get("host")
    if "goal_gan" in config and named == "trpo":
        return "goal_gan"
    known = [name for name in ("trpo", "ppo", "dqn", "a2c", "sac") if name in config]
    return named or known[0]
