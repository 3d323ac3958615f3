"""Share options, rows and the statistics behind claims among all figures."""

from __future__ import annotations

import csv
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from scipy.stats import bootstrap

from runs.launchers import run_all

__all__ = [
    "COLUMNS",
    "Interval",
    "command",
    "folders",
    "geometric_mean_ratio",
    "interval",
    "options",
    "paired_ratio",
    "quartiles",
    "read_rows",
    "run_missing",
    "save",
    "write_rows",
]

COLUMNS = ("figure", "task", "method", "seed", "frames", "metric", "value")


def options(defaults: Mapping[str, Any]) -> DictConfig:
    """Read options of the command line over the defaults; exit at an unknown one."""
    config = OmegaConf.merge(OmegaConf.create(dict(defaults)), OmegaConf.from_cli())
    if unknown := set(config) - set(defaults):
        sys.exit(f"unknown keys {sorted(map(str, unknown))}; there are {sorted(defaults)}")
    assert isinstance(config, DictConfig)
    return config


def command() -> str:
    """Return the command that makes the figure, without the folder of its files."""
    where = ("out=", "collect=", "jobs=", "launcher")
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
    config: DictConfig, run: Callable[[str, str, int, DictConfig, Path], None]
) -> dict[tuple[int, str, str], Path]:
    """Run every seed, task and method in a folder of its own, some at a time, unless ``collect``.

    Args:
        config: what :func:`folders` and :func:`run_all` read, and ``collect``.
        run: of task, method, seed, options and folder; leaves a finished folder as it is.

    Returns:
        The folders by seed, task and method.
    """
    wanted = folders(config)
    if not config.collect:
        calls = [
            partial(run, task, method, seed, config, run_dir)
            for (seed, task, method), run_dir in wanted.items()
        ]
        run_all(config, calls)
    return wanted


def write_rows(path: Path, rows: Iterable[Sequence]) -> None:
    """Write rows of :data:`COLUMNS`; None becomes an empty value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read what :func:`write_rows` wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save(figure: Figure, path: Path, caption: str, *, width: int = 160) -> None:
    """Write the picture, its caption with the command below it."""
    text = f"{caption} {command()}"
    figure.supxlabel(textwrap.fill(text, width), fontsize=7)
    figure.savefig(path, dpi=110)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if abs(self.value) >= 100 else 2
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interval(values: Sequence[float]) -> Interval:
    """Compute the mean with its bootstrap 95 % interval; few seeds give their range."""
    mean = float(np.mean(values))
    if len(values) < 3 or np.ptp(values) == 0:
        return Interval(mean, min(values), max(values))
    found = bootstrap((values,), np.mean, rng=np.random.default_rng(0), method="percentile")
    return Interval(mean, *(float(x) for x in found.confidence_interval))


def paired_ratio(
    baseline: Mapping[int, float | None], method: Mapping[int, float | None], *, limit: float
) -> Interval:
    """Compute the geometric mean over seeds of baseline / method, with its 95 % interval.

    Above one the method needs fewer frames. Seeds of both are paired; where one did not reach the
    target, it counts as if it had at the limit, so the true ratio is farther from one, or as far.

    Args:
        baseline: frames to the target for each seed; None where it was not reached.
        method: frames to the target for each seed; None where it was not reached.
        limit: frames at which runs ended.

    Raises:
        ValueError: the two have no seed in common.
    """
    seeds = sorted(set(baseline) & set(method))
    if not seeds:
        raise ValueError("no seed is in both the baseline and the method; run the same seeds.")
    return geometric_mean_ratio(
        [baseline[s] or limit for s in seeds], [method[s] or limit for s in seeds]
    )


def geometric_mean_ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Compute the geometric mean of ratios of pairs, with its bootstrap 95 % interval."""
    found = interval([np.log(a / b) for a, b in zip(above, below, strict=True)])
    return Interval(*(float(np.exp(x)) for x in (found.value, found.low, found.high)))


def quartiles(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Compute quartiles and median; infinite where seeds that failed decide them."""
    known = [np.inf if value is None else value for value in values]
    low, median, high = np.quantile(known, [0.25, 0.5, 0.75], method="nearest")
    return float(low), float(median), float(high)
