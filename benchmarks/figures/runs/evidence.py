"""Options, commands and folders of all figures."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from runs.launchers import run_all
from runs.swept import check_settings, find_swept
from torchrl_recall.results.picture import save_figure

__all__ = ["Words", "command", "folders", "options", "run_missing", "save"]

Words = tuple[str, list[str]]  # a recipe, and overrides of its configuration


def options(defaults: Mapping[str, Any]) -> DictConfig:
    """Read options of the command line over the defaults; exit at an unknown one."""
    config = OmegaConf.merge(OmegaConf.create(dict(defaults)), OmegaConf.from_cli())
    if unknown := set(config) - set(defaults):
        sys.exit(f"unknown keys {sorted(map(str, unknown))}; there are {sorted(defaults)}")
    assert isinstance(config, DictConfig)
    return config


def command() -> str:
    """Return the command that makes the figure, without the folder of its files."""
    where = ("out=", "collect=", "jobs=", "launcher", "sweeps=")
    words = [word for word in sys.argv[1:] if not word.startswith(where)]
    return " ".join([f"python benchmarks/figures/{Path(sys.argv[0]).name}", *words])


def folders(config: DictConfig) -> dict[tuple[int, str, str], Path]:
    """Name the folder of every seed, task and method.

    Args:
        config: ``out``, ``seeds``, ``first_seed``, ``tasks``, ``methods``.

    Returns:
        The folders by seed, task and method.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    return {
        (seed, task, method): out / re.sub(r"[^\w.\-+]+", "-", f"{task}_{method}_{seed}")
        for seed, task, method in itertools.product(seeds, config.tasks, config.methods)
    }  # Hydra splits at =


def run_missing(
    config: DictConfig,
    run: Callable[[str, str, int, DictConfig, Path], None],
    words: Callable[[str, str, int, DictConfig], Words | None],
    *,
    takes_sweeps: bool = True,
) -> dict[tuple[int, str, str], Path]:
    """Run every seed, task and method in a separate folder, several at a time, unless ``collect``.

    Args:
        config: options of :func:`folders` and :func:`run_all`, ``collect``, and ``sweeps``, folders
            of runs that are used if their settings match.
        run: function of task, method, seed, options and folder; it does not change a finished
            folder.
        words: function of task, method, seed and options that returns the recipe and its overrides,
            or None if no recipe is run. By them runs of ``sweeps`` are found, and folders with runs
            of other settings refused.

    Keyword Args:
        takes_sweeps: whether the figure can be made of runs of ``sweeps``.

    Returns:
        The folders by seed, task and method.

    Raises:
        SystemExit: a folder holds a run of other settings.
    """
    wanted = folders(config)
    if config.sweeps and not takes_sweeps:
        sys.exit("sweeps= is not for this figure, which reads more of a run than its rows.")
    for (seed, task, method), run_dir in wanted.items():
        if (job := words(task, method, seed, config)) is None:
            continue
        if swept := config.sweeps and find_swept(config.sweeps, *job):
            wanted[seed, task, method] = swept
        elif not config.collect:
            check_settings(run_dir, *job)
    if not config.collect:
        calls = [
            partial(run, task, method, seed, config, run_dir)
            for (seed, task, method), run_dir in wanted.items()
        ]
        run_all(config, calls)
    return wanted


def save(figure: Figure, path: Path, caption: str) -> None:
    """Write the picture with its caption; the command stands in the file's description."""
    save_figure(figure, path, caption, command=command())
