"""Figure 15: SAC with traces of a trained and of an untrained model.

    python benchmarks/figures/figure_15.py seeds=3 first_seed=500 out=runs/figure_15

For the untrained model, the paper shows the best trace length of six; it does not say on which
seeds it was chosen. Here the length of each task has the largest mean return over training on
separate seeds, from ``first_tuning_seed`` on. Their runs and ``table.md`` are in ``out/tuning``.
Traces of both models are imitated. ``results.csv``, ``table.md`` and ``figure.png`` go to ``out``;
``collect=true`` makes them from the runs there are.
"""

import sys
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from runs.evidence import folders, options
from runs.mujoco_runs import DIVERGED, MUJOCO, Curves, collect, shared, show

DEFAULTS = {
    **MUJOCO,
    "figure": "15",
    "out": "runs/figure_15",
    "tasks": ["Walker2d-v5", "Ant-v5"],
    "methods": ["none", "imitation"],
    "untrained": "random_model",
    "lengths": [1, 2, 3, 4, 5, 10],
    "tuning_seeds": 2,
    "first_tuning_seed": 100,
    "frames": 50_000,
    "eval_interval": 5_000,
}


def changed(config: DictConfig, **changes: object) -> DictConfig:
    """Copy options with some of them changed."""
    return OmegaConf.merge(config, changes)  # type: ignore[return-value]


def find_diverged(tuning: DictConfig) -> set[tuple[str, str]]:
    """Return the tasks and methods of which a tuning run diverged."""
    return {
        (task, method)
        for (_, task, method), run_dir in folders(tuning).items()
        if (run_dir / DIVERGED).exists() and not (run_dir / "summary.json").exists()
    }


def best_length(
    curves: Curves, task: str, names: dict[str, int], diverged: set[tuple[str, str]]
) -> int:
    """Return the length of the largest mean return over training, of the tuning seeds.

    Lengths that diverged are last.
    """
    names = {name: length for name, length in names.items() if (task, name) not in diverged}
    if not names:
        sys.exit(f"{task}: tuning runs of every length diverged; lower recall.lr in untrained=.")
    of_task = {name: shared(curves[task, name]) for name in names if curves[task, name]}
    ends = {len(evaluations) for runs in of_task.values() for evaluations, _ in runs.values()}
    if len(of_task) < len(names) or len(ends) > 1:
        sys.exit(f"{task}: some tuning runs are missing or unfinished; leave collect=true out.")
    means = {
        name: np.mean([returns for _, returns in runs.values()]) for name, runs in of_task.items()
    }
    return names[max(means, key=means.__getitem__)]


def main() -> None:
    """Choose the lengths on tuning seeds, run missing jobs, and show the results."""
    config = options(DEFAULTS)
    tuned = set(range(config.first_tuning_seed, config.first_tuning_seed + config.tuning_seeds))
    if overlap := tuned & set(range(config.first_seed, config.first_seed + config.seeds)):
        sys.exit(f"seeds {sorted(overlap)} would choose and be shown; change first_tuning_seed.")
    names = {
        f"{config.untrained}+recall.trace_length={length}": length for length in config.lengths
    }
    tuning = changed(
        config,
        out=str(Path(config.out) / "tuning"),
        first_seed=config.first_tuning_seed,
        seeds=config.tuning_seeds,
        methods=list(names),
        figure=f"{config.figure}_tuning",
    )
    found = collect("sac", tuning)
    show("sac", tuning, found)
    curves: Curves = {}
    diverged = find_diverged(tuning)
    chosen = {task: best_length(found, task, names, diverged) for task in config.tasks}
    for task, length in chosen.items():
        untrained = f"{config.untrained}+recall.trace_length={length}"
        methods = [*config.methods, untrained]
        curves |= collect("sac", changed(config, tasks=[task], methods=methods))
    lengths = ", ".join(f"{length} in {task}" for task, length in chosen.items())
    note = f"Trace lengths of the untrained model, chosen on seeds {sorted(tuned)}: {lengths}."
    show("sac", config, curves, note)


if __name__ == "__main__":
    main()
