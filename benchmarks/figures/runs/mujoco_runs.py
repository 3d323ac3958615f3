"""Runs of the MuJoCo recipes behind figures 6, 7, 8, 15, 16 and 19, and of delayed reward.

A method is a group of ``recall``, which may carry overrides of the recipe's configuration, as
``none+compile=false`` does. A name before a colon, as in ``ppo:none``, selects another recipe than
the figure's own. ``sb3`` and ``sbx`` are the same algorithm of Stable-Baselines3 and of its version
in JAX (extra ``peers``), with the same hyper-parameters. Their host follows a plus, as in
``sbx+crossq``. A task may carry overrides too: ``Hopper-v5+env.delay=20``. Every run writes its
rows while it runs. A repeated command resumes unfinished runs.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from runs.evidence import Words, options, run_missing, save
from runs.launchers import OPTIONS, run_command
from torchrl_recall.results.methods import group_rows
from torchrl_recall.results.names import split_method
from torchrl_recall.results.picture import draw_curves
from torchrl_recall.results.rows import COLUMNS, write_rows
from torchrl_recall.results.table import table
from torchrl_recall.trainers.runs.atomic import write_text

__all__ = [
    "CAPTION",
    "DIVERGED",
    "MUJOCO",
    "VECTOR",
    "Curves",
    "collect",
    "draw",
    "experiment",
    "show",
]

ROOT = Path(__file__).parents[3]
MUJOCO = {
    "seeds": 5,
    "first_seed": 0,
    "frames": 200_704,
    "eval_interval": 10_000,
    "overrides": [],  # of the recipe, for all tasks and methods
    "collect": False,  # use existing runs only
    **OPTIONS,
}
VECTOR = ["collector.backend=vector", "collector.num_envs=16"]  # overrides for many cheap frames
CAPTION = "Return of the deterministic policy: mean and 95 % interval of up to {} seeds."
DIVERGED = "diverged.txt"  # in a run's folder: the error that ended it
PEERS = {"sb3": "stable_baselines3", "sbx": "sbx"}
Curve = tuple[list[int], list[float]]
Curves = dict[tuple[str, str], dict[int, Curve]]


def words_of(recipe: str, task: str, method: str, seed: int, config: DictConfig) -> Words | None:
    """Return the recipe of a job and its overrides; None for a peer."""
    host, recall, overrides = split_method(method)
    if recall in PEERS:
        return None
    task, *of_task = task.split("+")
    return host or recipe, [
        f"env.name={task}", f"recall={recall}", *config.overrides, *of_task, *overrides,
        f"seed={seed}",
        f"collector.total_frames={config.frames}", f"eval.interval={config.eval_interval}",
        "logger.backend=none",
    ]  # fmt: skip


def run(recipe: str, task: str, method: str, seed: int, config: DictConfig, run_dir: Path) -> None:
    """Train one seed, or resume it."""
    job = words_of(recipe, task, method, seed, config)
    if (run_dir / "summary.json").exists() or (job is None and (run_dir / "metrics.csv").exists()):
        return
    if job is None:
        host, library, others = split_method(method)
        if "+" in task or config.overrides:
            sys.exit(f"{method} takes no overrides; leave those of tasks and overrides= out.")
        command = [
            str(ROOT / "benchmarks/peers/sb3_peer.py"), f"--library={PEERS[library]}",
            f"--algorithm={'+'.join(others) or host or recipe}", f"--env={task}",
            f"--seed={seed}", f"--frames={config.frames}",
            f"--eval-interval={config.eval_interval}", f"--run-dir={run_dir}",
        ]  # fmt: skip
    else:
        recipe, words = job
        command = [str(ROOT / f"recipes/{recipe}_recall.py"), *words]
        command += [f"run_dir={run_dir}", "resume=auto"]
    done = run_command(command)
    if done.returncode:
        if "DivergenceError: " in done.stderr:
            write_text(run_dir / DIVERGED, done.stderr[-2000:])
        print(f"{run_dir.name} did not finish; its rows so far count. {done.stderr[-2000:]}")
    else:
        print(f"{run_dir.name}: done", flush=True)


def read(path: Path, frames: int) -> Curve:
    """Read frames and returns of the evaluations, up to a number of frames."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["frames"]) <= frames]
    return [int(row["frames"]) for row in rows], [float(row["eval_return"]) for row in rows]


def shared(seeds: dict[int, Curve]) -> dict[int, Curve]:
    """Keep the evaluations that all seeds have in common, so that unfinished runs compare."""
    common = set.intersection(*(set(frames) for frames, _ in seeds.values()))
    told = {
        seed: [(n, value) for n, value in zip(*rows, strict=True) if n in common]
        for seed, rows in seeds.items()
    }
    return {seed: ([n for n, _ in rows], [x for _, x in rows]) for seed, rows in told.items()}


def draw(recipe: str, curves: Curves) -> Figure:
    """Draw one panel for each task: the mean, its interval and every seed."""
    of_methods = {}
    for key, seeds in curves.items():
        told = shared(seeds).values()
        of_methods[key] = next(iter(told))[0], np.array([returns for _, returns in told])
    return draw_curves(of_methods, ylabel="return", host=recipe)


def collect(recipe: str, config: DictConfig) -> Curves:
    """Run missing jobs, unless ``collect`` is set, and read all evaluations.

    Args:
        recipe: ``sac``, ``trpo`` or ``ppo``, for methods that name no recipe.
        config: options, which override :data:`MUJOCO`.
    """
    curves: Curves = defaultdict(dict)
    for (seed, task, method), run_dir in run_missing(
        config, partial(run, recipe), partial(words_of, recipe)
    ).items():
        if (run_dir / "metrics.csv").exists():
            curves[task, method][seed] = read(run_dir / "metrics.csv", config.frames)
    return curves


def show(recipe: str, config: DictConfig, curves: Curves, note: str = "") -> None:
    """Write ``results.csv``, ``table.md`` and ``figure.png``, and print the table.

    Args:
        recipe: recipe of methods that name none.
        config: options with ``figure``, ``out`` and ``seeds``.
        curves: evaluations of every run.
        note: text below table and picture.

    Raises:
        SystemExit: there are no evaluations.
    """
    if not curves:
        sys.exit("no run has been evaluated yet, so there is nothing to show")
    out = Path(config.out)
    rows = [
        (config.figure, task, method, seed, frames, "eval_return", value)
        for (task, method), curve in curves.items()
        for seed, evaluations in curve.items()
        for frames, value in zip(*evaluations, strict=True)
    ]
    write_rows(out / "results.csv", rows)
    as_read = [dict(zip(COLUMNS, map(str, row), strict=True)) for row in rows]
    methods = group_rows(as_read, "eval_return")
    text = table(methods, "eval_return", "none", "self_imitation", host=recipe)
    text += f"\n\n{note}" if note else ""
    write_text(out / "table.md", text + "\n")
    caption = f"{CAPTION.format(config.seeds)} {note}"
    save(draw(recipe, curves), out / "figure.png", caption)
    print(text)


def experiment(recipe: str, defaults: Mapping[str, Any]) -> None:
    """Run the missing jobs of a figure, and show the results.

    Args:
        recipe: ``sac``, ``trpo`` or ``ppo``.
        defaults: the figure's own options, over :data:`MUJOCO`.
    """
    config = options({**MUJOCO, **defaults})
    show(recipe, config, collect(recipe, config))
