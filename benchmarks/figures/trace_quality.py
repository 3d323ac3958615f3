"""Trace quality: where a trace's actions lead from its first state, against its length.

    python benchmarks/figures/trace_quality.py seeds=5 first_seed=200 out=runs/figure_13 \
        frames=900000 tasks=[point_free4,point_umaze]

The runs are those of figures 12 and 13, if ``out`` and ``frames`` are the same. Traces end at
goals of the trained GAN. Their actions are replayed in the simulator from a state some steps before
the end. On the point mass its exact reverse dynamics are led back by the same actions.
``trace_quality.csv`` and ``trace_quality.png`` go to ``out``; a table is printed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from runs.evidence import options, run_missing, save
from runs.goal_runs import DEFAULTS, run
from tensordict import TensorDict
from torch import Tensor

from recipes.goal_gan_recall import build
from torchrl_recall import GoalGANStates, Recall
from torchrl_recall.envs import GoalEnv, PointMassEnv
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.trainers.runs import checkpoints, process
from torchrl_recall.trainers.schema.goal_gan import GoalGANRecallConfig
from torchrl_recall.trainers.schema.validation import validate
from torchrl_recall.trainers.tasks.goals import make_goal_env

METRICS = ("landing error", "displacement", "left the support", "exact landing error")
Quality = dict[tuple[str, int, str], list[float]]  # of each seed, by task, length and metric


def restore(run_dir: Path) -> tuple[GoalGANRecallConfig, GoalGANStates, Recall]:
    """Return the configuration of a run, its goals and its recall."""
    saved = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(saved, DictConfig)
    config = validate(saved, GoalGANRecallConfig)
    parts = build(config, torch.device("cpu"))
    recall = parts.recall
    if not isinstance(recall, Recall):
        sys.exit(f"{run_dir} has no backtracking model; give methods=[backtracking]")
    found = checkpoints.load_latest(run_dir / "checkpoints")
    if found is None:
        sys.exit(f"{run_dir} holds no checkpoint to read a model from")
    parts.curriculum.load_state_dict(found[1]["curriculum"])
    recall.load_state_dict(found[1]["recall"])
    assert isinstance(recall.high_value_states, GoalGANStates)
    return config, recall.high_value_states, recall


@torch.no_grad()
def replay(config: GoalGANRecallConfig, states: Tensor, actions: Tensor) -> Tensor:
    """Take actions ``[num, steps, action_dim]`` from states ``[num, state_dim]``."""
    env = make_goal_env(config, len(states))
    env.set_goals(env.goal_of_state(states))
    now = env.reset(TensorDict({"observation": states}, [len(states)]), set_state=True)
    for action in actions.unbind(1):
        now = env.step(now.set("action", action))["next"]
    return now["observation"]


def exact_start(env: PointMassEnv, ends: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the exact reverse dynamics; return the states, and whether they were possible."""
    states, led = ends, torch.ones(len(ends), dtype=torch.bool)
    for action in reversed(actions.unbind(1)):
        states, possible = env.reverse_step(states, action)
        led &= possible
    return states, led


def measure(run_dir: Path, num_traces: int, lengths: list[int]) -> Iterator[tuple[int, str, float]]:
    """Yield length, metric and value of a run's traces."""
    config, goals, recall = restore(run_dir)
    torch.manual_seed(config.seed)
    goals.num_states = num_traces
    ends = goals()["observation"]
    traces = recall.generate(TensorDict({"observation": ends}, [len(ends)]))
    assert recall.imitate is not None
    loss = recall.imitate.loss
    low, high = loss.action_low, loss.action_high
    env = make_goal_env(config, 1)
    for k in [k for k in lengths if k <= traces.shape[1]]:
        start, actions = traces["observation"][:, -k], traces["action"][:, -k:].clamp(low, high)
        valid = env.is_valid(start)
        yield k, "left the support", 1 - float(valid.float().mean())
        if valid.any():
            yield k, "displacement", distance(env, start[valid], ends[valid])
            end = replay(config, start[valid], actions[valid])
            yield k, "landing error", distance(env, end, ends[valid])
        if isinstance(env, PointMassEnv):
            exact, led = exact_start(env, ends, actions)
            end = replay(config, exact[led], actions[led])
            yield k, "exact landing error", distance(env, end, ends[led])


def distance(env: GoalEnv, states: Tensor, ends: Tensor) -> float:
    """Compute the mean Euclidean distance of goals."""
    return float((env.goal_of_state(states) - env.goal_of_state(ends)).norm(dim=-1).mean())


def table(quality: Quality) -> str:
    """Format a row for each task and length as Markdown."""
    lines = ["| task | steps | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for task, k in dict.fromkeys((task, k) for task, k, _ in quality):
        cells = (quality.get((task, k, metric)) for metric in METRICS)
        words = (str(interval(cell)) if cell else "" for cell in cells)
        lines.append(f"| {task} | {k} | " + " | ".join(words) + " |")
    return "\n".join(lines)


def draw(config: DictConfig, quality: Quality) -> None:
    """Draw ``trace_quality.png``: a panel for each task."""
    tasks = list(dict.fromkeys(task for task, _, _ in quality))
    figure = Figure(figsize=(4 * len(tasks), 3.4), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for color, metric in enumerate(("landing error", "displacement")):
            lengths = [k for name, k, shown in quality if (name, shown) == (task, metric)]
            bands = [interval(quality[task, k, metric]) for k in lengths]
            axes.plot(lengths, [b.value for b in bands], color=f"C{color}", label=metric)
            edges = [b.low for b in bands], [b.high for b in bands]
            axes.fill_between(lengths, *edges, color=f"C{color}", alpha=0.2)
        axes.set(title=task, xlabel="steps before the end state", ylim=(0, None))
        axes.set_ylabel("distance, environment units")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    caption = f"Replayed traces, {config.seeds} seeds."
    save(figure, Path(config.out) / "trace_quality.png", caption, width=65 * len(tasks))


if __name__ == "__main__":
    process.quiet()
    torch.set_num_threads(1)
    config = options(
        {
            **DEFAULTS,
            "out": "runs/trace_quality",
            "seeds": 5,
            "tasks": ["point_free4", "point_umaze"],
            "methods": ["backtracking"],
            "num_traces": 256,
            "lengths": [1, 2, 5, 10, 20, 50],
        }
    )
    quality: Quality = defaultdict(list)
    rows = []
    for (seed, task, method), run_dir in run_missing(config, run).items():
        if (run_dir / "summary.json").exists():
            for k, metric, value in measure(run_dir, config.num_traces, list(config.lengths)):
                quality[task, k, metric].append(value)
                name = f"{metric}, {k} steps"
                rows.append(("traces", task, method, seed, config.frames, name, value))
    if not rows:
        sys.exit(f"no run in {config.out} has finished yet, so there is nothing to show")
    write_rows(Path(config.out) / "trace_quality.csv", rows)
    draw(config, quality)
    print(table(quality))
