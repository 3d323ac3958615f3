"""Runs of the SAC recipe in small sparse tasks behind ``critic.py``, and their results.

A method is a group of ``recall``, which may carry overrides: ``none+sac.n_step=3``. All seeds of a
method in a task run in one process, one after the other, and share compiled graphs; policy and
traces run eagerly. Up to the resulting rounding, each run is that of ``recipes/sac_recall.py`` with
the same settings. A repeated command runs the missing seeds.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from runs.evidence import folders, options, save
from runs.launchers import OPTIONS, in_new_process, run_all
from runs.swept import find_swept
from torchrl_recall.results.picture import draw_shares
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import Interval, geometric_mean_ratio

__all__ = ["DEFAULTS", "HOST", "experiment"]

ROOT = Path(__file__).parents[3]
DEFAULTS = {
    "figure": "critic",
    "out": "runs/critic",
    "tasks": ["point_free4", "point_free6", "point_umaze", "pendulum_swingup", "point_umaze_long"],
    "methods": ["none+sac.n_step=3", "backtracking+sac.n_step=3"],
    "seeds": 20,
    "first_seed": 0,
    "collect": False,  # use existing runs only
    **OPTIONS,  # a job is a method in a task
}
# The host of a prototype that was tuned in such tasks, small and fast: its targets follow quickly,
# its entropy coefficient is fixed, and it acts randomly until the first reward.
HOST = [
    "sac.num_cells=[64,64]", "sac.gamma=0.98", "sac.target_update_tau=0.05",
    "sac.alpha_init=0.002", "sac.fixed_alpha=true", "optim.lr=1e-3", "replay_buffer.batch_size=64",
    "collector.init_random_frames=200", "collector.random_until_reward=true",
    "collector.frames_per_batch=10",
    "backtracking.num_cells=[64,64]", "recall.reward=sparse",
]  # fmt: skip
RUN = [
    "compile=true", "resume=auto", "logger.backend=none", "checkpoint.interval=0",
    "eval.num_episodes=60", "eval.target_return=0.9",
]  # fmt: skip
# Frames at most, and between evaluations.
TASKS = {
    "point_free4": ["collector.total_frames=6000", "eval.interval=60"],
    "point_free6": ["collector.total_frames=6000", "eval.interval=60"],
    "point_umaze": ["collector.total_frames=4000", "eval.interval=60"],
    "pendulum_swingup": ["collector.total_frames=6000", "eval.interval=60"],
    "point_umaze_long": [
        "collector.total_frames=10000", "eval.interval=120", "sac.gamma=0.99",
    ],
    "mujoco_umaze": [
        "collector.total_frames=20000", "eval.interval=500", "eval.num_episodes=20",
        "sac.gamma=0.99",
    ],
    "mujoco_medium_maze": [
        "collector.total_frames=40000", "eval.interval=1000", "eval.num_episodes=20",
        "sac.gamma=0.99",
    ],
}  # fmt: skip
CAPTION = "Steps to a success of 0.9 in two evaluations in a row."
Key = tuple[str, str]


def words_of(task: str, method: str, seed: int) -> list[str]:
    """Return the overrides of a job."""
    recall, *overrides = method.split("+")
    words = [f"env.name={task}", f"recall={recall}", *HOST, *RUN, *TASKS.get(task, [])]
    return [*words, *overrides, f"seed={seed}"]


def run_seeds(task: str, method: str, run_dirs: dict[int, Path]) -> None:
    """Train the seeds of a method in a task, one after the other."""
    sys.path.insert(0, str(ROOT))
    from hydra import compose, initialize_config_dir

    from recipes import sac_recall
    from torchrl_recall.optim.compilation import shared_graphs
    from torchrl_recall.trainers.schema import SACRecallConfig, validate

    folder = str(ROOT / "recipes/config/sac")
    with initialize_config_dir(config_dir=folder, version_base="1.3"), shared_graphs() as begin_run:
        for seed, run_dir in run_dirs.items():
            if (run_dir / "summary.json").exists():
                continue
            words = [*words_of(task, method, seed), f"run_dir={run_dir}"]
            begin_run()
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                run = sac_recall.train(validate(compose("sac_recall", words), SACRecallConfig))
            if run.status:
                return
            shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    print(f"{task} {method}: done", flush=True)


def experiment(
    defaults: Mapping[str, Any] = DEFAULTS, prepare: Callable[[DictConfig], None] | None = None
) -> None:
    """Run missing jobs, then write ``results.csv`` and ``figure.png`` and print the tables.

    Args:
        defaults: the figure's options.
        prepare: called before the runs, such as to make their data.
    """
    config = options(defaults)
    run_dirs: dict[Key, dict[int, Path]] = defaultdict(dict)
    for (seed, task, method), run_dir in folders(config).items():
        swept = config.sweeps and find_swept(config.sweeps, "sac", words_of(task, method, seed))
        run_dirs[task, method][seed] = swept or run_dir
    if not config.collect:
        os.environ["OMP_NUM_THREADS"] = "1"
        if prepare is not None:
            prepare(config)
        calls = [partial(in_new_process, run_seeds, *key, dirs) for key, dirs in run_dirs.items()]
        run_all(config, calls)
    results = {
        key: {s: read(d) for s, d in dirs.items() if (d / "summary.json").exists()}
        for key, dirs in run_dirs.items()
    }
    if not any(results.values()):
        sys.exit(f"no run in {config.out} has finished yet, so there is nothing to show")
    write_rows(Path(config.out) / "results.csv", rows(config.figure, results))
    print(table(results, list(config.methods)))
    save(draw(results), Path(config.out) / "figure.png", CAPTION)


def read(run_dir: Path) -> dict[str, Any]:
    """Read frames to the target, frames at the end, seconds, and the success at each evaluation."""
    summary = json.loads((run_dir / "summary.json").read_text())
    with (run_dir / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {
        "frames_to_target": summary["frames_to_target"],
        "frames": summary["frames"],
        "wall_seconds": summary["wall_seconds"],
        "success": [(int(line["frames"]), float(line["eval_return"])) for line in lines],
    }


Runs = dict[int, dict[str, Any]]  # by seed
Results = dict[Key, Runs]


def rows(figure: str, results: Results) -> Iterable[Sequence]:
    """Yield rows in long form."""
    for (task, method), seeds in results.items():
        for seed, run in seeds.items():
            for metric in ("frames_to_target", "wall_seconds"):
                yield figure, task, method, seed, run["frames"], metric, run[metric]
            last = run["success"][-1][1]
            yield figure, task, method, seed, run["frames"], "final_success", last


def needed(run: dict[str, Any]) -> int:
    """Return frames to the target, or all frames of a run that did not reach it."""
    return run["frames_to_target"] or run["frames"]


def ratio(base: Sequence[Runs], runs: Sequence[Runs]) -> Interval:
    """Compute the paired ratio of frames, base / runs, of the means over some tasks."""
    seeds = sorted(set.intersection(*(set(each) for each in [*base, *runs])))
    above, below = (
        [float(np.exp(np.mean([np.log(needed(each[seed])) for each in of]))) for seed in seeds]
        for of in (base, runs)
    )
    return geometric_mean_ratio(above, below)


def table(results: Results, methods: list[str]) -> str:
    """Format frames to the target, and paired ratios to the first method, as Markdown."""
    tasks = list(dict.fromkeys(task for task, _ in results))
    lines = [
        f"| task | method | reached | frames (geometric mean) | × {methods[0]} [95 %] | s/run |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        base = results[task, methods[0]]
        for method in methods:
            if not (runs := results[task, method]) or not set(runs) & set(base):
                continue
            reached = sum(run["frames_to_target"] is not None for run in runs.values())
            mean = np.exp(np.mean([np.log(needed(run)) for run in runs.values()]))
            seconds = np.median([run["wall_seconds"] for run in runs.values()])
            lines.append(
                f"| {task} | {method} | {reached} of {len(runs)} | {mean:.0f} "
                f"| {ratio([base], [runs])} | {seconds:.0f} |"
            )
    bases = [results[task, methods[0]] for task in tasks]
    for method in methods if len(tasks) > 1 else []:
        of_tasks = [results[task, method] for task in tasks]
        if all(set(runs) & set(base) for runs, base in zip(of_tasks, bases, strict=True)):
            lines.append(f"| all | {method} | | | {ratio(bases, of_tasks)} | |")
    return "\n".join(lines)


def draw(results: Results) -> Figure:
    """Draw the share of seeds that have reached the target, against frames."""
    times = {
        key: ([run["frames_to_target"] for run in runs.values()], max_frames(runs))
        for key, runs in results.items()
        if runs
    }
    return draw_shares(times, host="sac")


def max_frames(runs: Runs) -> int:
    """Return frames at the end of the longest run."""
    return max(run["frames"] for run in runs.values())
