"""CrossQ's curves (Bhatt et al., 2024), many seeds at once on a GPU.

    python benchmarks/figures/crossq.py seeds=3 first_seed=500 out=runs/crossq device=cuda \
        tasks=[HalfCheetah-v4,Hopper-v4,Walker2d-v4] frames=100000

The host of ``recipes/sac_recall.py host=crossq recall=none`` with its settings, see
``runs/lockstep.py``; tasks take turns in one process, so that the physics of one runs beside the
gradient steps of the others. ``results.csv`` goes to ``out`` as rows come; a task whose rows are
complete is not run again. On a processor ``figure_7.py methods=[none+host=crossq]`` is faster.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from runs.evidence import options
from runs.lockstep import Lockstep
from runs.mujoco_runs import ROOT
from torchrl_recall.results.rows import read_rows, write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.trainers.runs.process import resolve_device
from torchrl_recall.trainers.schema import SACRecallConfig, validate

METHOD = "none+host=crossq"
SETTINGS = [  # of the recipe, that runs/lockstep.py reads
    "crossq.num_cells", "crossq.critic_num_cells", "crossq.gamma", "crossq.alpha_init",
    "crossq.adam_beta1", "crossq.policy_delay", "crossq.warmup_steps", "optim.lr",
    "collector.init_random_frames", "replay_buffer.batch_size", "eval.num_episodes",
]  # fmt: skip
DEFAULTS = {
    "figure": "crossq",
    "out": "runs/crossq",
    "tasks": ["HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"],
    "seeds": 3,
    "first_seed": 0,
    "frames": 100_000,
    "eval_interval": 10_000,
    "device": "auto",
    "settings": [],  # of the recipe, such as crossq.critic_num_cells=[256,256]
}


def configs_of(task: str, config: DictConfig) -> list[SACRecallConfig]:
    """Compose the recipe's configuration for every seed; exit at a setting that is not read."""
    if unread := [word for word in config.settings if word.split("=")[0] not in SETTINGS]:
        sys.exit(f"settings={unread} are not read here; there are {SETTINGS}")
    with initialize_config_dir(str(ROOT / "recipes/config/sac"), version_base="1.3"):
        words = [*config.settings, f"env.name={task}", "host=crossq", "recall=none"]
        words += [f"collector.total_frames={config.frames}", "compile=false"]
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        return [
            validate(compose("sac_recall", [*words, f"seed={seed}"]), SACRecallConfig)
            for seed in seeds
        ]


def main() -> None:
    """Run what is missing, and print returns."""
    config = options(DEFAULTS)
    path = Path(config.out) / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [tuple(row.values()) for row in read_rows(path)] if path.exists() else []
    ends = {row[:4] for row in rows if int(row[4]) == config.frames}
    runs = {
        task: {
            (config.figure, task, METHOD, str(config.first_seed + i)) for i in range(config.seeds)
        }
        for task in config.tasks
    }
    missing = [task for task in config.tasks if not runs[task] <= ends]
    again = set().union(*(runs[task] for task in missing))
    rows = [row for row in rows if row[:4] not in again]

    device = resolve_device(config.device)
    torch.set_float32_matmul_precision("medium")  # as the recipe's default
    lanes = [Lockstep(task, configs_of(task, config), device) for task in missing]
    for frames in range(1, config.frames + 1 if lanes else 1):
        for lane in lanes:
            lane.step()
        if frames % config.eval_interval and frames != config.frames:
            continue
        for lane in lanes:
            for seed, value in zip(lane.seeds, lane.evaluate(), strict=True):
                row = config.figure, lane.task, METHOD, str(seed), str(frames)
                rows.append((*row, "eval_return", repr(float(value))))
        write_rows(path, rows)
        print(f"{frames}: {[row[-1] for row in rows[-len(lanes) * config.seeds :]]}", flush=True)

    returns: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _, task, _, _, at, _, value in rows:
        returns[task, int(at)].append(float(value))
    for (task, step), values in sorted(returns.items()):
        print(f"| {task} | {step:,} | {interval(values)} |")


if __name__ == "__main__":
    main()
