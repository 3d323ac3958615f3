"""Runs of the four-room recipe behind figures 2, 3, 4, 14, 17 and 18, and their results.

A task is ``SIZE_START``, such as ``15_uniform``. A method is a group of ``recall``, which may carry
overrides of the recipe's configuration: ``exact+recall.trace_length=10``.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from runs.evidence import options, save
from runs.launchers import OPTIONS, run_all, run_command
from runs.swept import check_settings, find_swept
from torchrl_recall.results.picture import Times, draw_shares
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import Interval, paired_ratio, quartiles

ROOT = Path(__file__).parents[3]
DEFAULTS = {
    "seeds": 20,
    "first_seed": 0,
    "frames": 204_800,  # of each seed at most
    "stop_at_target": True,  # end a run once all its seeds are there
    "collect": False,  # use existing runs only
    **OPTIONS,
}


@dataclass
class Runs:
    """All seeds of a method in a task.

    Args:
        run_dir: folder of the run.
        seeds: seeds of the run.
        frames_to_target: frames to the target of each seed.
        frames: frames of the evaluations.
        returns: shares of the optimal return, shape ``[evaluations, seeds]``.
    """

    run_dir: Path
    seeds: list[int]
    frames_to_target: dict[int, int | None]
    frames: list[int]
    returns: np.ndarray


Results = dict[tuple[str, str], Runs]


def tasks_of(config: DictConfig) -> list[str]:
    """List every size with every start."""
    starts = [config.start] if isinstance(config.start, str) else config.start
    return [f"{size}_{start}" for start, size in itertools.product(starts, config.sizes)]


def job_of(
    task: str, method: str, seeds: Sequence[int], config: DictConfig
) -> tuple[Path, list[str]]:
    """Return the folder of a job, and the overrides of its recipe."""
    size, start = task.split("_", 1)
    recall, *overrides = method.split("+")
    name = f"{task}_{method}_{seeds[0]}-{seeds[-1]}"
    run_dir = Path(config.out) / re.sub(r"[^\w.\-+]+", "-", name)  # Hydra splits at =
    return run_dir, [
        f"recall={recall}", f"env.size={size}", f"env.start={start}",
        f"seeds=[{','.join(map(str, seeds))}]", f"collector.total_frames={config.frames}",
        *overrides, f"eval.stop_at_target={config.stop_at_target}",
    ]  # fmt: skip


def run(task: str, method: str, seeds: Sequence[int], config: DictConfig) -> Path:
    """Train the seeds in one process, or resume them; return the folder of the run."""
    run_dir, words = job_of(task, method, seeds, config)
    if config.sweeps and (found := find_swept(config.sweeps, "a2c", words)) is not None:
        return found
    if config.collect or (run_dir / "summary.json").exists():
        return run_dir
    script = str(ROOT / "recipes/a2c_recall.py")
    done = run_command([script, *words, f"run_dir={run_dir}", "resume=auto"])
    print(f"{task} {method}: {'done' if done.returncode == 0 else done.stderr[-2000:]}", flush=True)
    return run_dir


def read(run_dir: Path) -> Runs:
    """Read a finished run."""
    summary = json.loads((run_dir / "summary.json").read_text())
    seeds = list(summary["seed"])
    with (run_dir / "returns.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    frames = sorted({int(row["frames"]) for row in rows})
    returns = np.array([float(row["return"]) for row in rows]).reshape(len(frames), len(seeds))
    reached = dict(zip(seeds, summary["frames_to_target"], strict=True))
    return Runs(run_dir, seeds, reached, frames, returns)


def experiment(
    defaults: Mapping, methods: Callable[[DictConfig], Sequence[str]] = lambda c: c.methods
) -> tuple[DictConfig, Results]:
    """Run the missing jobs of a figure, and write its ``results.csv``.

    Args:
        defaults: the figure's own options, over :data:`DEFAULTS`.
        methods: of the options.
    """
    config = options({**DEFAULTS, **defaults})
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    wanted = list(itertools.product(tasks_of(config), methods(config)))
    if not config.collect:
        for task, method in wanted:
            run_dir, words = job_of(task, method, seeds, config)
            check_settings(run_dir, "a2c", words)
    calls = [partial(run, task, method, seeds, config) for task, method in wanted]
    folders = dict(zip(wanted, run_all(config, calls), strict=True))
    results = {k: read(path) for k, path in folders.items() if (path / "summary.json").exists()}
    if len(results) < len(folders) and not config.collect:
        sys.exit(1)  # those that failed have said why
    if not results:
        sys.exit(f"no run in {out} has finished yet, so there is nothing to show")
    write_rows(out / "results.csv", rows(config.figure, results))
    return config, results


def rows(figure: str, results: Results) -> Iterator[tuple]:
    """Yield rows in long form: frames to the target and every tenth evaluation."""
    for (task, method), runs in results.items():
        last = runs.frames[-1]
        for seed, frames in runs.frames_to_target.items():
            yield figure, task, method, seed, last, "frames_to_target", frames
        for frames, shares in zip(runs.frames, runs.returns, strict=True):
            if frames % 2_560 == 0 or frames == last:
                for seed, share in zip(runs.seeds, shares, strict=True):
                    yield figure, task, method, seed, frames, "return", share


def ratio(results: Results, task: str, baseline: str, method: str, limit: float) -> Interval:
    """Compute how many times fewer frames the method needs than the baseline."""
    to_target = (results[task, name].frames_to_target for name in (baseline, method))
    return paired_ratio(*to_target, limit=limit)


def table(results: Results, baseline: str, limit: float) -> str:
    """Format frames to the target, and paired ratios over a baseline, as Markdown."""
    lines = [
        "| task | method | converged | frames to target, median [quartiles] | "
        f"times faster than {baseline} [95 %] |",
        "|---|---|---|---|---|",
    ]
    for (task, method), runs in results.items():
        reached = runs.frames_to_target
        low, median, high = quartiles(reached.values())
        share = f"{sum(f is not None for f in reached.values())} of {len(reached)}"
        gain = ratio(results, task, baseline, method, limit) if (task, baseline) in results else ""
        lines.append(
            f"| {task} | {method} | {share} | {median:,.0f} [{low:,.0f}, {high:,.0f}] | {gain} |"
        )
    return "\n".join(lines)


def curves(config: DictConfig, results: Results, caption: str) -> None:
    """Draw ``figure.png``: a panel for each task, a line for each method."""
    times = {
        key: (list(runs.frames_to_target.values()), runs.frames[-1])
        for key, runs in results.items()
    }
    caption = f"{caption} {config.seeds} seeds."
    save(draw(times), Path(config.out) / "figure.png", caption)


def draw(times: Mapping[tuple[str, str], Times]) -> Figure:
    """Draw the share of seeds that have reached the target, against frames."""
    return draw_shares(times, ylabel="seeds at 0.9 of the optimum", host="a2c", log=True)
