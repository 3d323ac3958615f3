"""Measure the gain by reverse rollouts for an offline host, in a sparse task or on MuJoCo.

    python benchmarks/figures/offline.py seeds=5 first_seed=0 out=runs/offline host=iql
    python benchmarks/figures/offline.py task=Hopper-v5 tasks=[random,medium_replay,expert] \
        host=td3bc frames=10000 seeds=5 out=runs/offline_hopper

Makes the data sets ``tasks=`` of ``task`` where they are missing, as ``data_sets.py`` does. Trains
the host on each, alone, with traces of a trained model beside the data, and with traces of a random
one. Prints returns and paired differences; ``results.csv`` and ``figure.png`` go to ``out``;
``collect=true`` makes them from existing runs.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runs.critic_runs import ROOT
from runs.critic_runs import TASKS as SPARSE
from runs.data_sets import DATA, make_data_sets, task_words
from runs.evidence import folders, options, save
from runs.launchers import OPTIONS, in_new_process, run_all
from runs.swept import check_settings
from torchrl_recall.results.names import task_name
from torchrl_recall.results.picture import draw_curves
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval

DEFAULTS = {
    "figure": "offline",
    "out": "runs/offline",
    **DATA,
    "task": "point_free4",
    "host": "iql",
    "tasks": ["random", "expert", "replay"],  # data sets of data_sets.py
    "methods": ["none", "backtracking", "random_model"],
    "seeds": 5,
    "first_seed": 0,
    "frames": 2_000,  # gradient steps
    "collect": False,  # use existing runs only
    **OPTIONS,  # a job is a method on a data set
}
SMALL = [
    "replay_buffer.batch_size=64", "backtracking.num_cells=[64,64]", "backtracking.batch_size=64",
    "backtracking.num_updates=1000", "recall.reward_updates=1000", "recall.interval=200",
    "recall.num_high_value_states=500", "compile=false", "eval.num_episodes=60",
    "eval.interval=500",
]  # fmt: skip
RUN = ["resume=auto", "logger.backend=none", "checkpoint.interval=0"]
Key = tuple[str, str]
Runs = dict[int, dict[str, Any]]  # by seed


def words_of(
    data_set: Path, method: str, seed: int, host: str, task: str, frames: int
) -> list[str]:
    """Return the overrides of a job."""
    recall, *overrides = method.split("+")
    words = [f"data_set={data_set}", *task_words(task), f"host={host}"]
    words += [*RUN, f"collector.total_frames={frames}"]
    if task in SPARSE:
        words += [*SMALL, f"{host}.num_cells=[64,64]"]
    else:
        words += [f"eval.interval={max(100, frames // 4)}"]
    if recall == "random_model":
        words.append("backtracking.num_updates=0")
    return [*words, f"recall={recall}", *overrides, f"seed={seed}"]


def run_seeds(
    data_set: Path, method: str, run_dirs: dict[int, Path], host: str, task: str, frames: int
) -> None:
    """Train the seeds of a method on a data set, one after the other."""
    sys.path.insert(0, str(ROOT))
    from hydra import compose, initialize_config_dir

    from recipes import offline_recall
    from torchrl_recall.optim.compilation import shared_graphs
    from torchrl_recall.trainers.schema import OfflineRecallConfig, validate

    folder = str(ROOT / "recipes/config/offline")
    with initialize_config_dir(config_dir=folder, version_base="1.3"), shared_graphs() as begin_run:
        for seed, run_dir in run_dirs.items():
            if (run_dir / "summary.json").exists():
                continue
            words = words_of(data_set, method, seed, host, task, frames)
            words.append(f"run_dir={run_dir}")
            begin_run()
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
                config = validate(compose("offline_recall", words), OfflineRecallConfig)
                if offline_recall.train(config).status:
                    return
    print(f"{data_set.name} {method}: done", flush=True)


def read(run_dir: Path) -> dict[str, Any]:
    """Read the returns of all evaluations, and the seconds that they took."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    seconds = json.loads((run_dir / "summary.json").read_text())["wall_seconds"]
    curve = [(int(line["frames"]), float(line["eval_return"])) for line in lines]
    return {"curve": curve, "final_return": curve[-1][1], "wall_seconds": seconds}


def rows(figure: str, results: dict[Key, Runs]) -> Iterable[Sequence]:
    """Yield rows in long form."""
    for (data_set, method), seeds in results.items():
        for seed, run in seeds.items():
            for metric in ("final_return", "wall_seconds"):
                yield figure, data_set, method, seed, run["curve"][-1][0], metric, run[metric]


def table(results: dict[Key, Runs], baseline: str) -> str:
    """Format returns at the end, and paired differences to the host alone, as Markdown."""
    lines = [
        f"| data set | method | seeds | return [95 %] | minus {baseline} [95 %] | s/run |",
        "|---|---|---|---|---|---|",
    ]
    for (data_set, method), runs in results.items():
        if not runs:
            continue
        base, cell = results[data_set, baseline], ""
        found = interval([run["final_return"] for run in runs.values()])
        both = sorted(set(runs) & set(base))
        if both and method != baseline:
            gains = [runs[seed]["final_return"] - base[seed]["final_return"] for seed in both]
            gain = interval(gains)
            cell = f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        seconds = np.median([run["wall_seconds"] for run in runs.values()])
        lines.append(
            f"| {data_set} | {method} | {len(runs)} | {found.value:.2f} [{found.low:.2f}, "
            f"{found.high:.2f}] | {cell} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def draw(results: dict[Key, Runs], path: Path, task: str, host: str) -> None:
    """Draw the mean return over gradient steps, and each seed as a thin line."""
    curves = {
        (f"{data_set} data", method): (
            [step for step, _ in next(iter(runs.values()))["curve"]],
            np.array([[value for _, value in run["curve"]] for run in runs.values()]),
        )
        for (data_set, method), runs in results.items()
        if runs
    }
    figure = draw_curves(curves, ylabel="return", host=host, xlabel="gradient steps")
    sparse = "share of 60 episodes that reach the goal" if task in SPARSE else "return"
    told = f"{sparse}, mean, 95 % interval and each seed."
    save(figure, path, f"{task_name(task)}: {told}")


def main() -> None:
    """Run missing jobs, then write ``results.csv`` and ``figure.png`` and print the table."""
    config = options(DEFAULTS)
    run_dirs: dict[Key, dict[int, Path]] = defaultdict(dict)
    for (seed, data_set, method), run_dir in folders(config).items():
        run_dirs[data_set, method][seed] = run_dir
    if not config.collect:
        os.environ["OMP_NUM_THREADS"] = "1"
        data = make_data_sets(config, config.tasks)
        more = config.host, config.task, config.frames
        for (name, method), dirs in run_dirs.items():
            for seed, run_dir in dirs.items():
                words = words_of(data[name], method, seed, *more)
                check_settings(run_dir, "offline", words)
        calls = [
            partial(in_new_process, run_seeds, data[name], method, dirs, *more)
            for (name, method), dirs in run_dirs.items()
        ]
        run_all(config, calls)
    results = {
        key: {s: read(d) for s, d in dirs.items() if (d / "summary.json").exists()}
        for key, dirs in run_dirs.items()
    }
    if not any(results.values()):
        sys.exit(f"no run in {config.out} has finished yet, so there is nothing to show")
    write_rows(Path(config.out) / "results.csv", rows(config.figure, results))
    print(table(results, config.methods[0]))
    draw(results, Path(config.out) / "figure.png", config.task, config.host)


if __name__ == "__main__":
    main()
