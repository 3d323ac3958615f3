"""Figure 7: SAC with recall traces against SAC, and against controls that the paper lacks.

    python benchmarks/figures/figure_7.py seeds=3 first_seed=0 out=runs/figure_7 \
        tasks=[Hopper-v5] methods=[none,backtracking,paper,self_imitation] frames=30000

Every run writes its rows as it goes; called again, the command goes on where it stopped. The
method ``sb3`` is Stable-Baselines3's SAC (extra ``peers``), so the same command checks the host:

    python benchmarks/figures/figure_7.py seeds=3 out=runs/host_check \
        tasks=[HalfCheetah-v5,Hopper-v5] methods=[none,sb3] frames=50000

A method may carry overrides of the recipe's configuration: ``none+compile=false`` is plain SAC with
eager updates.

``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes them from the runs there
are, without starting any.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from evidence import interval, options, save, write_rows
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
DEFAULTS = {
    "figure": "7",
    "seeds": 5,
    "first_seed": 0,
    "out": "runs/figure_7",
    "tasks": ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"],
    "methods": ["none", "backtracking", "self_imitation"],
    "frames": 30_000,
    "collect": False,
}
Curves = dict[tuple[str, str], dict[int, tuple[list[int], list[float]]]]


def run(task: str, method: str, seed: int, frames: int, run_dir: Path) -> None:
    """Train one seed, or go on with it."""
    if (run_dir / "summary.json").exists() or (
        method == "sb3" and (run_dir / "metrics.csv").exists()
    ):
        return
    if method == "sb3":
        command = [str(ROOT / "benchmarks/peers/sb3_sac.py"), "--env", task, "--seed", str(seed)]
        command += ["--frames", str(frames), "--out", str(run_dir.parent)]
    else:
        recall, *overrides = method.split("+")
        command = [str(ROOT / "recipes/sac_recall.py"), f"env.name={task}", f"recall={recall}"]
        command += overrides
        command += [f"seed={seed}", f"collector.total_frames={frames}", f"run_dir={run_dir}"]
        command += ["resume=auto", "logger.backend=none"]
    if subprocess.run([sys.executable, *command]).returncode:
        print(f"{task}, {method}, seed {seed} did not finish; its rows so far count")


def read(path: Path, frames: int) -> tuple[list[int], list[float]]:
    """Frames and returns of the evaluations, up to a number of frames."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["frames"]) <= frames]
    return [int(row["frames"]) for row in rows], [float(row["eval_return"]) for row in rows]


def shared(seeds: dict[int, tuple[list[int], list[float]]]) -> dict:
    """The evaluations that every seed has reached, so that unfinished runs compare."""
    length = min(len(frames) for frames, _ in seeds.values())
    return {seed: (rows[0][:length], rows[1][:length]) for seed, rows in seeds.items()}


def table(curves: Curves) -> str:
    """Markdown: final return and mean return over training, with intervals."""
    lines = [
        "| task | method | seeds | steps | last return [95 %] | mean over training [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for (task, method), seeds in curves.items():
        cells = []
        for summary in (lambda y: y[-1], np.mean):
            values = [float(summary(returns)) for _, returns in seeds.values()]
            found = interval(values)
            cells.append(f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}]")
        steps = next(iter(seeds.values()))[0][-1]
        lines.append(f"| {task} | {method} | {len(seeds)} | {steps:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(curves: Curves, path: Path, caption: str) -> None:
    """One panel for each task: the mean, its interval and every seed."""
    tasks = list(dict.fromkeys(task for task, _ in curves))
    figure = Figure(figsize=(5 * len(tasks), 4.2), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for color, ((name, method), seeds) in enumerate(curves.items()):
            if name != task:
                continue
            frames = next(iter(seeds.values()))[0]
            returns = np.array([r for _, r in seeds.values()])
            bands = [interval(list(column)) for column in returns.T]
            axes.plot(frames, returns.mean(0), color=f"C{color}", label=method)
            edges = [b.low for b in bands], [b.high for b in bands]
            axes.fill_between(frames, *edges, color=f"C{color}", alpha=0.2)
            axes.plot(frames, returns.T, color=f"C{color}", alpha=0.25, linewidth=0.7)
        axes.set(title=task, xlabel="environment steps", ylabel="return, deterministic policy")
        axes.legend()
        axes.grid(alpha=0.3)
    save(figure, path, caption, width=80 * len(tasks))


def main() -> None:
    """Run what is missing, then write results and picture."""
    config = options(DEFAULTS)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    curves: Curves = defaultdict(dict)
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        for task in config.tasks:
            for method in config.methods:
                run_dir = out / f"{task}_{method}_{seed}".replace("=", "-")  # Hydra splits at =
                if not config.collect:
                    run(task, method, seed, config.frames, run_dir)
                if (run_dir / "metrics.csv").exists():
                    curves[task, method][seed] = read(run_dir / "metrics.csv", config.frames)
    write_rows(
        out / "results.csv",
        (
            (config.figure, task, method, seed, frames, "eval_return", value)
            for (task, method), seeds in curves.items()
            for seed, rows in seeds.items()
            for frames, value in zip(*rows, strict=True)
        ),
    )
    if not curves:
        sys.exit("no run has been evaluated yet, so there is nothing to show")
    curves = {key: shared(seeds) for key, seeds in curves.items()}
    draw(curves, out / "figure.png", f"{config.seeds} seeds, bootstrap 95 % intervals.")
    print(table(curves))


if __name__ == "__main__":
    main()
