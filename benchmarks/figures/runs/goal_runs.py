"""Runs of the Goal GAN recipe behind figures 5, 11, 12 and 13, and their results.

A task is a group of ``env``, such as ``point_free4``. A method is a group of ``recall``, which may
carry overrides of the recipe's configuration: ``backtracking+recall.trace_length=10``. A repeated
command resumes unfinished runs.
"""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig

from runs.evidence import Words, options, run_missing, save
from runs.four_rooms import Runs, table
from runs.launchers import OPTIONS, run_command
from torchrl_recall.results.names import method_names, task_name
from torchrl_recall.results.picture import Curve, draw_curves
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.trainers.tasks.coverage_maps import draw_map

__all__ = ["coverage_table", "curves", "experiment", "maps", "table"]

ROOT = Path(__file__).parents[3]
DEFAULTS = {
    "seeds": 12,
    "first_seed": 200,
    "frames": 1_800_000,
    "target": 0.63,  # coverage, Sec. 6.3
    "collect": False,  # use existing runs only
    **OPTIONS,
}
Results = dict[tuple[str, str], Runs]


def words_of(task: str, method: str, seed: int, config: DictConfig) -> Words:
    """Return the recipe of a job and its overrides."""
    recall, *overrides = method.split("+")
    return "goal_gan", [
        f"env={task}", f"recall={recall}", *overrides, f"seed={seed}",
        f"collector.total_frames={config.frames}", f"eval.target={config.target}",
    ]  # fmt: skip


def run(task: str, method: str, seed: int, config: DictConfig, run_dir: Path) -> None:
    """Train one seed, or resume it."""
    if (run_dir / "summary.json").exists():
        return
    recipe, words = words_of(task, method, seed, config)
    script = str(ROOT / f"recipes/{recipe}_recall.py")
    done = run_command([script, *words, f"run_dir={run_dir}", "resume=auto"])
    print(f"{run_dir.name}: {'done' if not done.returncode else done.stderr[-2000:]}", flush=True)


def read(run_dirs: Mapping[int, Path]) -> Runs:
    """Read the finished seeds of a method in a task."""
    reached, columns = {}, []
    frames: list[int] = []
    for seed, run_dir in run_dirs.items():
        reached[seed] = json.loads((run_dir / "summary.json").read_text())["frames_to_target"]
        with (run_dir / "coverage.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        frames = max(frames, [int(line["frames"]) for line in lines], key=len)
        columns.append([float(line["coverage"]) for line in lines])
    first = next(iter(run_dirs.values()))
    # Runs that ended at their target keep the coverage that they had.
    coverage = [column + column[-1:] * (len(frames) - len(column)) for column in columns]
    return Runs(first, list(run_dirs), reached, frames, np.array(coverage).T)


def experiment(defaults: Mapping[str, Any]) -> tuple[DictConfig, Results]:
    """Run the missing jobs of a figure, and write its ``results.csv``.

    Args:
        defaults: the figure's own options, over :data:`DEFAULTS`.
    """
    config = options({**DEFAULTS, **defaults})
    out, wanted = Path(config.out), run_missing(config, run, words_of)
    folders: dict[tuple[str, str], dict[int, Path]] = defaultdict(dict)
    for (seed, task, method), run_dir in wanted.items():
        if (run_dir / "summary.json").exists():
            folders[task, method][seed] = run_dir
    if not folders:
        sys.exit(f"no run in {out} has finished yet, so there is nothing to show")
    results = {key: read(run_dirs) for key, run_dirs in folders.items()}
    write_rows(out / "results.csv", rows(config.figure, results))
    return config, results


def rows(figure: str, results: Results) -> Iterator[tuple]:
    """Yield rows in long form: frames to the target, and coverage at every evaluation."""
    for (task, method), runs in results.items():
        for seed, frames in runs.frames_to_target.items():
            yield figure, task, method, seed, runs.frames[-1], "frames_to_target", frames
        for frames, coverage in zip(runs.frames, runs.returns, strict=True):
            for seed, value in zip(runs.seeds, coverage, strict=True):
                yield figure, task, method, seed, frames, "coverage", value


def coverage_table(results: Results) -> str:
    """Format coverage half-way and at the end as Markdown: mean, interval and each seed."""
    lines = ["| task | method | steps | coverage [95 %] | of each seed |", "|---|---|---|---|---|"]
    for (task, method), runs in results.items():
        for i in (len(runs.frames) // 2 - 1, -1):
            values = list(runs.returns[i])
            seeds = ", ".join(f"{value:.2f}" for value in values)
            found = interval(values)
            lines.append(f"| {task} | {method} | {runs.frames[i]:,} | {found} | {seeds} |")
    return "\n".join(lines)


def curves(config: DictConfig, results: Results, caption: str) -> None:
    """Draw ``figure.png``: a panel for each task, mean coverage and interval of each method."""
    found = {key: (runs.frames, runs.returns.T) for key, runs in results.items()}
    caption = f"{caption} {config.seeds} seeds, bootstrap 95 % intervals of the mean."
    save(draw(found, config.target), Path(config.out) / "figure.png", caption)


def draw(found: Mapping[tuple[str, str], Curve], target: float) -> Figure:
    """Draw mean coverage and its interval, with the level that is aimed at."""
    figure = draw_curves(found, ylabel="coverage", host="goal_gan", target=target)
    for axes in figure.axes:
        axes.set_ylim(0, 1.03)
    return figure


def maps(config: DictConfig, results: Results, caption: str, *, columns: int = 6) -> None:
    """Draw ``figure.png``: coverage through training, a row for each task and method."""
    figure = Figure(figsize=(2.4 * columns, 2.6 * len(results)), layout="constrained")
    panels = figure.subplots(len(results), columns, squeeze=False)
    names = method_names(dict.fromkeys(method for _, method in results), "goal_gan")
    for row, ((task, method), runs) in zip(panels, results.items(), strict=True):
        with (runs.run_dir / "coverage.csv").open(newline="") as file:
            header, *lines = list(csv.reader(file))
        goals = torch.tensor([[float(x) for x in name.split()] for name in header[2:]])
        chosen = np.linspace(0, len(lines) - 1, columns).round().astype(int)
        for axes, i in zip(row, chosen, strict=True):
            draw_map(axes, goals, int(lines[i][0]), torch.tensor([float(x) for x in lines[i][2:]]))
        words = "\n".join(textwrap.wrap(f"{task_name(task)}: {names[method]}", 18))
        row[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=9)
    save(figure, Path(config.out) / "figure.png", caption)
