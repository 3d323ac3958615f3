"""Trace quality: the simulator's audit of recall traces, before and after each filter.

    python benchmarks/figures/trace_quality.py seeds=5 first_seed=300 out=runs/traces \
        tasks=[point_umaze,Hopper-v5] frames=225000 mujoco_frames=24576

A task is a group of ``env`` of ``goal_gan_recall.py``, or a task's name for ``trpo_recall.py``.
Models, end states and experience are those of the last checkpoints of the runs. Each filter gets
the same traces; ``none`` is without a filter. ``Disagreement`` and a measured length are audited
where the words of ``methods=`` have them. Pieces of real trajectories show the error that comes
from incomplete observations. On the point mass, the actions of traces are also replayed by its
exact reverse dynamics. ``trace_quality.csv`` and ``trace_quality.png`` go to ``out``; a table is
printed.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ReplayBuffer

from runs import goal_runs, mujoco_runs
from runs.evidence import Words, options, run_missing, save
from torchrl_recall import (
    Agreement,
    Disagreement,
    ExactDynamics,
    LoopErasure,
    NearVisited,
    Recall,
    TraceAuditor,
    WithinSupport,
)
from torchrl_recall.envs import GoalEnv, PointMassEnv
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.optim.batches import Draws
from torchrl_recall.results.names import (
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    ORANGE,
    SKY,
    SOLID,
    VERMILION,
    Look,
    task_name,
)
from torchrl_recall.results.picture import add_legend, finish
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.trained.load import TrainedRun
from torchrl_recall.trained.roll_out import path_of, roll_out
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.schema.parts import RecallConfig

GOAL_TASKS = Path(__file__).parents[2] / "recipes/config/goal_gan/env"
GOAL = ("point_umaze", "point_free4", "point_maze")
MUJOCO = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5")
NUM_VISITED = 4_096  # states that NearVisited looks at
NUM_TRACES = 256  # of each run
MIN_TRACES = 20  # smallest number of traces for a number; with fewer a dash is shown
CAPTION = "Recall traces put to the simulator; a filter is compared with uncut traces of its seeds."
PANELS = {"landing_error": "landing error, sd", "impossible": "share of impossible states"}
LOOKS = {  # of what is drawn; the table has all
    "none": Look("uncut traces", BLUE, SOLID),
    "WithinSupport": Look("WithinSupport", ORANGE, DASH_DOT),
    "NearVisited": Look("NearVisited", GREEN, DASHED),
    "Agreement": Look("Agreement", VERMILION, DASHED),
    "ExactDynamics": Look("the simulator as filter", SKY, SOLID),
    "real trajectories": Look("real trajectories", BLACK, DOTTED),
}
Filter = Callable[[TensorDictBase], TensorDictBase]
# By task, filter, length and metric; then by seed.
Quality = dict[tuple[str, str, int, str], dict[int, float]]


def of_task(task: str, config: DictConfig) -> tuple[bool, int]:
    """Return whether a task has goals, and for how many frames it is trained."""
    has_goals = (GOAL_TASKS / f"{task}.yaml").exists()
    return has_goals, config.frames if has_goals else config.mujoco_frames


def own_options(task: str, config: DictConfig) -> tuple[bool, DictConfig]:
    """Return whether a task has goals, and the options of its runs."""
    has_goals, frames = of_task(task, config)
    own = OmegaConf.merge(config, {"frames": frames})
    assert isinstance(own, DictConfig)
    return has_goals, own


def words_of(task: str, method: str, seed: int, config: DictConfig) -> Words | None:
    """Return the recipe of a job and its overrides."""
    has_goals, own = own_options(task, config)
    if has_goals:
        return goal_runs.words_of(task, method, seed, own)
    return mujoco_runs.words_of("trpo", task, method, seed, own)


def run(task: str, method: str, seed: int, config: DictConfig, run_dir: Path) -> None:
    """Train one seed, or resume it."""
    has_goals, own = own_options(task, config)
    if has_goals:
        goal_runs.run(task, method, seed, own, run_dir)
    else:
        mujoco_runs.run("trpo", task, method, seed, own, run_dir)


def filters(run: TrainedRun, tolerance: float) -> dict[str, Filter | None]:
    """Make the filters of a run, with its own judges and with radii from its experience."""
    recall, env = run.parts.recall, run.parts.env
    assert isinstance(recall, Recall)
    states = recall.model.observations
    assert isinstance(states, ContinuousCodec)
    goal_env = env if isinstance(env, GoalEnv) else None
    project = states.normalize if goal_env is None else goal_env.goal_of_state
    seen = Draws().candidates(run.parts.experience, 2 * NUM_VISITED)["observation"]
    visited, held_out = seen[torch.randperm(len(seen))].chunk(2)
    nearest = torch.cdist(project(held_out[:1_000]), project(visited)).amin(1)
    radius = float(nearest.quantile(0.95))  # which Agreement takes of errors
    assert isinstance(run.config.recall, RecallConfig)
    erase = run.config.recall.loop_erasure or 0.5
    judges = recall.train_filters.judges
    length = recall.measured_length
    return {
        "none": None,
        "WithinSupport": WithinSupport(states.normalize),
        "NearVisited": NearVisited(lambda: visited, radius, project=project),
        "LoopErasure": LoopErasure(erase, scale=states.scale),
        "Agreement": next((each for each in judges if isinstance(each, Agreement)), None),
        "Disagreement": next((each for each in judges if isinstance(each, Disagreement)), None),
        "measured length": None if length is None else partial(shorten, num_steps=int(length)),
        "ExactDynamics": ExactDynamics(simulated(run), tolerance, scale=states.scale),
    }


def shorten(traces: TensorDictBase, *, num_steps: int) -> TensorDictBase:
    """Mask all but the last steps of traces."""
    kept = torch.arange(traces.shape[1]) >= traces.shape[1] - num_steps
    return traces.set("mask", kept.expand(traces.shape).clone())


def simulated(run: TrainedRun) -> object:
    """Return the task for the simulator."""
    env = run.parts.env
    return env if isinstance(env, GoalEnv) else run.parts.evaluation.env  # type: ignore[attr-defined]


def exact(env: PointMassEnv, traces: TensorDictBase) -> TensorDictBase:
    """Replay the actions of traces by the exact reverse dynamics, as far as possible."""
    path, mask = [path_of(traces)[:, -1]], [torch.ones(len(traces), dtype=torch.bool)]
    for action in reversed(traces["action"].clamp(-1, 1).unbind(1)):
        state, led = env.reverse_step(path[0], action)
        path.insert(0, state)
        mask.insert(0, mask[0] & led)
    states = torch.stack(path, 1)
    return TensorDict(
        {
            "observation": states[:, :-1],
            "action": traces["action"],
            "next": {"observation": states[:, 1:]},
            "mask": torch.stack(mask[:-1], 1),
        },
        traces.shape,
    )


def real(experience: ReplayBuffer, num: int, length: int) -> TensorDictBase | None:
    """Return pieces of real trajectories, whose landing error comes from the observation alone."""
    data = experience[:].select("observation", "action", ("next", "observation"))
    goes_on = (data["next", "observation"][:-1] == data["observation"][1:]).all(-1)
    starts = goes_on.unfold(0, length - 1, 1).all(-1).nonzero()
    if not len(starts):
        return None
    chosen = starts[torch.linspace(0, len(starts) - 1, num).long()]
    return data[chosen + torch.arange(length)]


def measure(run_dir: Path, config: DictConfig) -> Iterator[tuple[str, int, str, float]]:
    """Yield filter, length, metric and value of a run's traces; length zero is the whole trace."""
    lengths = list(config.lengths)
    run, traces = roll_out(
        run_dir, num_states=config.num_traces, num_traces=1, trace_length=max(lengths)
    )
    torch.manual_seed(0)
    scale = run.needs_model().observations.scale
    audit = TraceAuditor(simulated(run), lengths=lengths, scale=scale)
    cut = {
        name: traces.copy() if module is None else module(traces.copy())
        for name, module in filters(run, config.tolerance).items()
        if module is not None or name == "none"
    }
    if (pieces := real(run.parts.experience, len(traces), max(lengths))) is not None:
        cut["real trajectories"] = pieces
    if isinstance(run.parts.env, PointMassEnv):
        cut["exact reverse dynamics"] = exact(run.parts.env, traces)
    for name, left in cut.items():
        mask = left.get("mask", torch.ones(left.shape, dtype=torch.bool))
        yield name, 0, "steps kept", float(mask.float().mean())
        for k, found in audit(left).items():
            values = asdict(found) | {"num_traces": found.num_traces / len(traces)}
            yield from ((name, k, metric, value) for metric, value in values.items())


def pool(
    quality: Quality, task: str, name: str, k: int, metric: str, num: int, *, of: str | None = None
) -> float:
    """Average seeds, weighted by their number of traces; not a number if there are too few traces.

    A filter may keep traces of some seeds only, and most of those of the best or worst model. What
    it does is therefore seen beside the values ``of="none"``, uncut traces, of the same seeds with
    the same weights.
    """
    values, shares = quality.get((task, name, k, metric), {}), traces_left(quality, task, name, k)
    impossible = quality.get((task, name, k, "impossible"), {})
    weights = {
        seed: num * shares[seed] * (1 if metric == "impossible" else 1 - impossible[seed])
        for seed in values
    }
    total = sum(weights.values())
    if total < MIN_TRACES:
        return math.nan
    values = quality[task, of or name, k, metric]
    return sum(weights[seed] * values[seed] for seed in weights) / total


def matched(quality: Quality, task: str, name: str, k: int, metric: str, num: int) -> float:
    """Scale the value of uncut traces by a filter's ratio to uncut traces of the same seeds."""
    uncut, cut = (pool(quality, task, each, k, metric, num) for each in ("none", name))
    alike = pool(quality, task, name, k, metric, num, of="none")
    return uncut * cut / alike if cut and alike else cut


def traces_left(quality: Quality, task: str, name: str, k: int) -> dict[int, float]:
    """Return each seed's share of traces that a filter kept at a length, if it kept any."""
    shares = quality.get((task, name, k, "num_traces"), {})
    return {seed: share for seed, share in shares.items() if share}


def table(quality: Quality, lengths: list[int], num: int) -> str:
    """Format a row for each task and filter as Markdown: all seeds' traces, at each length.

    Args:
        quality: what :func:`measure` yields.
        lengths: steps before the end state.
        num: traces of each seed, before filters.
    """
    steps = " / ".join(map(str, lengths))
    lines = [
        f"| task | filter | steps kept | traces (seeds) left at {steps} | impossible at {steps} "
        f"| landing error at {steps} | of the same seeds, uncut | displacement at {steps} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, name in dict.fromkeys((task, name) for task, name, *_ in quality):
        cells = [str(interval(list(quality[task, name, 0, "steps kept"].values())))]
        left = [traces_left(quality, task, name, k) for k in lengths]
        cells.append(" / ".join(f"{round(num * sum(x.values()))} ({len(x)})" for x in left))
        for metric, of in (
            ("impossible", name),
            ("landing_error", name),
            ("landing_error", "none"),
            ("displacement", name),
        ):
            found = [pool(quality, task, name, k, metric, num, of=of) for k in lengths]
            cells.append(" / ".join("-" if math.isnan(x) else f"{x:.2f}" for x in found))
        lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(quality: Quality, lengths: Sequence[int], num: int) -> Figure:
    """Draw landing errors of each task, and impossible states where there are some.

    Args:
        quality: what :func:`measure` yields.
        lengths: steps before the end state.
        num: traces of each seed, before filters.
    """
    tasks = list(dict.fromkeys(task for task, *_ in quality))
    places = [("landing_error", task) for task in tasks]
    for task in tasks:
        if np.nanmax([pool(quality, task, "none", k, "impossible", num) for k in lengths]) > 0.02:
            places.append(("impossible", task))
    columns = min(4, len(places))
    lines = -(-len(places) // columns)
    figure = Figure(figsize=(max(6.4, 2.2 * columns), 2.3 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in grid[len(places) :]:
        axes.set_axis_off()
    for axes, (metric, task) in zip(grid, places, strict=False):
        for name, look in LOOKS.items():
            values = [matched(quality, task, name, k, metric, num) for k in lengths]
            axes.plot(lengths, values, color=look.color, linestyle=look.line, linewidth=1.6)
        axes.set_title(f"{PANELS[metric]}\n{task_name(task)}", fontsize=9)
        axes.set_ylim(0, None)
        finish(axes, "steps before the end state", "")
    add_legend(figure, LOOKS.values())
    return figure


if __name__ == "__main__":
    process.quiet()
    torch.set_num_threads(1)
    config = options(
        {
            **goal_runs.DEFAULTS,
            "out": "runs/trace_quality",
            "seeds": 5,
            "frames": 225_000,
            "mujoco_frames": 24_576,
            "eval_interval": 50_000,
            "overrides": [],  # of TRPO's recipe
            "tasks": [*GOAL, *MUJOCO],
            "methods": ["backtracking+recall.agreement=0.95"],
            "num_traces": NUM_TRACES,
            "lengths": [1, 2, 5, 10, 20],
            "tolerance": 0.1,  # of the exact simulator as a filter, standard deviations
        }
    )
    quality: Quality = defaultdict(dict)
    rows = []
    for (seed, task, method), run_dir in run_missing(
        config, run, words_of, takes_sweeps=False
    ).items():
        if not (run_dir / "summary.json").exists():
            continue
        for name, k, metric, value in measure(run_dir, config):
            if not math.isnan(value):
                quality[task, name, k, metric][seed] = value
                label = f"{name}: {metric}, {k} steps" if k else f"{name}: {metric}"
                rows.append(("traces", task, method, seed, of_task(task, config)[1], label, value))
    if not rows:
        sys.exit(f"no run in {config.out} has finished yet, so there is nothing to show")
    write_rows(Path(config.out) / "trace_quality.csv", rows)
    save(
        draw(quality, config.lengths, config.num_traces),
        Path(config.out) / "trace_quality.png",
        CAPTION,
    )
    print(table(quality, list(config.lengths), config.num_traces))
