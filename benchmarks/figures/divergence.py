"""Watch runs with imitated traces round by round, to find the first number that diverges.

    python benchmarks/figures/divergence.py seeds=3 first_seed=100 out=runs/divergence \
        tasks=[Hopper-v5] methods=[paper,imitation] frames=5000

A method is a group of ``recall`` with overrides; ``trpo:paper`` uses another recipe. Each round of
recall writes a row of largest and median values. A run ends when the recipe stops, at an action of
NaN. ``results.csv`` and ``figure.png`` go to ``out``; ``collect=true`` makes
them from the runs there are.
"""

from __future__ import annotations

import csv
import importlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tensordict import TensorDictBase

from runs.evidence import Words, options, run_missing, save
from runs.launchers import OPTIONS, in_new_process
from torchrl_recall.objectives.imitation import ImitationLoss
from torchrl_recall.results.names import looks, split_method
from torchrl_recall.results.picture import add_legend, finish
from torchrl_recall.results.rows import write_rows
from torchrl_recall.trainers.runs.atomic import write_text

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {
    "figure": "divergence",
    "out": "runs/divergence",
    "recipe": "sac",
    "tasks": ["Hopper-v5"],
    "methods": ["paper"],
    "seeds": 3,
    "first_seed": 100,
    "frames": 5_000,
    "compile": True,
    "collect": False,  # use existing runs only
    **OPTIONS,
}
WORDS = ["logger.backend=none", "checkpoint.interval=0"]
STEPS_BACK = (1, 5, 10, 20)
# What rounds show, in the order in which a round makes it.
SHOWN = (
    *(f"state, {steps} steps back" for steps in STEPS_BACK),
    "farthest state", "action", "scale", "smallest scale", "first loss_imitation",
    "loss_imitation", "worst pair", "worst pair within the data", "policy", "loss_qvalue",
)  # fmt: skip
DATA = 5.0  # standard deviations, where recipes/config/recall/base.yaml cuts traces
Row = dict[str, float]


class Watch:
    """Record of the numbers of each round of recall.

    Args:
        parts: parts of a recipe, whose ``recall`` generates and imitates traces.
    """

    def __init__(self, parts: Any) -> None:
        self.parts, self.rows = parts, list[Row]()
        self.round: Row = {}
        recall, host = parts.recall, parts.host
        self._policy = getattr(host, "policy", None) or host.actor
        self._each = ImitationLoss(self._policy, reduction="none")
        self._generate, self._steps = recall.generate, recall.imitate.steps
        recall.generate = self.generate
        recall.imitate.steps = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._steps, name)  # begin, observe and the state of the steps

    def generate(self, end_states: TensorDictBase) -> TensorDictBase:
        """Generate traces, and record their distance from the data and the policy's likelihood.

        States are in standard deviations of the data, and actions in units of half their range. The
        policy's scale is that of its Gaussian before squashing.
        """
        traces, model = self._generate(end_states), self.parts.recall.model
        states = model.observations.normalize(traces["observation"]).abs().amax(-1)
        for steps in STEPS_BACK:
            if steps <= states.shape[1]:
                self.round[f"state, {steps} steps back"] = float(states[:, -steps].median())
        self.round["farthest state"] = float(states.max())
        with torch.no_grad():
            dist = self._policy.get_dist(traces.select(*self._policy.in_keys))
        scale = dist.scale if hasattr(dist, "scale") else dist.base_dist.scale
        self.round |= {"scale": float(scale.median()), "smallest scale": float(scale.min())}
        with torch.no_grad():
            losses = self._each(traces)["loss_imitation"]
        self.round["worst pair"] = float(losses.max())
        if (near := states <= DATA).any():
            self.round["worst pair within the data"] = float(losses[near].max())
        low, high = model.action_spec.space.low, model.action_spec.space.high
        half, middle = (high - low) / 2, (high + low) / 2
        self.round["action"] = float(((traces["action"] - middle) / half).abs().median())
        return traces

    def __call__(self, pairs: TensorDictBase) -> TensorDictBase:
        """Take a step of imitation, and record its loss."""
        losses = self._steps(pairs)
        loss = float(losses["loss_imitation"])
        self.round.setdefault("first loss_imitation", loss)
        self.round["loss_imitation"] = max(loss, self.round.get("loss_imitation", loss))
        return losses

    def end(self, frames: int, metrics: dict[str, Any]) -> bool:
        """End a round, and return whether there was one."""
        if "loss_imitation" not in self.round:
            return False
        weights = [p for n, p in self.parts.host.loss_module.named_parameters() if "actor" in n]
        self.round |= {k.rpartition("/")[2]: float(v) for k, v in metrics.items() if "loss" in k
                       and not k.endswith("imitation")}  # fmt: skip
        self.round["policy"] = float(torch.cat([p.detach().flatten() for p in weights]).norm())
        self.rows.append({"frames": frames, **self.round})
        self.round = {}
        return True


def watch(recipe: str, words: list[str], path: Path) -> None:
    """Train as a recipe does, and write the record of its rounds."""
    sys.path.insert(0, str(ROOT))
    from hydra import compose, initialize_config_dir

    from torchrl_recall.trainers import schema
    from torchrl_recall.trainers.runs.run import Run
    from torchrl_recall.trainers.tasks.gym import DivergenceError

    module = importlib.import_module(f"recipes.{recipe}_recall")
    folder = str(module.CONFIG)
    kind = getattr(schema, f"{recipe.upper()}RecallConfig")
    with initialize_config_dir(config_dir=folder, version_base="1.3"):
        config = schema.validate(compose(f"{recipe}_recall", words), kind)
    error: DivergenceError | None = None
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        try:
            with Run(config) as run:
                parts = run.resume(module.build(config, run.device))
                watched = Watch(parts)
                for data in run.frames_from(parts.collector):
                    metrics = module.learn(parts, data, config, run.frames)
                    run.metrics |= metrics
                    if watched.end(run.frames + data.numel(), metrics):
                        write(watched.rows, path.with_name("unfinished.csv"))
        except DivergenceError as found:
            error = found
    if not run.status:
        write(watched.rows, path, diverged_at=run.frames if error else None)


def write(rows: list[Row], path: Path, diverged_at: int | None = None) -> None:
    """Write rounds as CSV."""
    columns = dict.fromkeys(key for row in rows for key in row)
    text = [",".join(f'"{name}"' for name in (*columns, "diverged_at"))]
    for row in rows:
        cells = [row.get(name, math.nan) for name in columns]
        text.append(",".join(map(str, [*cells, diverged_at or ""])))
    write_text(path, "\n".join(text) + "\n")


def words_of(task: str, method: str, seed: int, config: Any) -> Words:
    """Return the recipe of a job and its overrides."""
    recipe, recall, overrides = split_method(method)
    words = [f"env.name={task}", f"recall={recall}", *WORDS, f"compile={config.compile}"]
    words += [f"collector.total_frames={config.frames}", f"eval.interval={config.frames}"]
    return recipe or config.recipe, [*words, *overrides, f"seed={seed}"]


def run(task: str, method: str, seed: int, config: Any, run_dir: Path) -> None:
    """Watch one seed in a separate process, unless its record exists."""
    if (run_dir / "rounds.csv").exists():
        return
    shutil.rmtree(run_dir, ignore_errors=True)  # of a run that was stopped
    recipe, words = words_of(task, method, seed, config)
    words.append(f"run_dir={run_dir}")
    in_new_process(watch, recipe, words, run_dir / "rounds.csv")
    print(f"{run_dir.name}: done", flush=True)


def rows(config: Any, rounds: dict[tuple[str, str, int], list[dict[str, str]]]) -> Iterator[tuple]:
    """Yield rows in long form, of every round."""
    for (task, method, seed), lines in rounds.items():
        for line in lines:
            for metric in (name for name in SHOWN if line.get(name)):
                value = float(line[metric])
                yield config.figure, task, method, seed, line["frames"], metric, f"{value:.4g}"
        last = lines[-1]
        end = last["diverged_at"] or None
        yield config.figure, task, method, seed, last["frames"], "diverged_at", end


def table(rounds: dict[tuple[str, str, int], list[dict[str, str]]]) -> str:
    """Format each value in the first and the last round, and its extremes, as Markdown."""
    lines = [
        "| task | method | seed | up to | NaN after | value | first | last | least | largest |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, method, seed), found in rounds.items():
        end = f"{found[-1]['frames']} | {found[-1]['diverged_at'] or '–'}"
        for name in SHOWN:
            if known := [float(row[name]) for row in found if row.get(name)]:
                numbers = [known[0], known[-1], min(known), max(known)]
                cells = " | ".join(f"{number:.2g}" for number in numbers)
                lines.append(f"| {task} | {method} | {seed} | {end} | {name} | {cells} |")
    return "\n".join(lines)


def draw(rounds: dict[tuple[str, str, int], list[dict[str, str]]], path: Path, recipe: str) -> None:
    """Draw a panel for each value, a line for each seed of a method."""
    panels = ("state, 20 steps back", "action", "smallest scale", "loss_imitation", "policy")
    shown = looks(dict.fromkeys(method for _, method, _ in rounds), recipe)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    *grid, last = figure.subplots(2, 3).flatten()
    last.set_axis_off()
    for axes, name in zip(grid, panels, strict=True):
        for (_, method, _), lines in rounds.items():
            known = [(int(line["frames"]), float(line[name])) for line in lines if line.get(name)]
            if known:
                look = shown[method]
                style = {"color": look.color, "linestyle": look.line, "linewidth": 1.0}
                axes.plot(*zip(*known, strict=True), **style)
        axes.set(title=name.replace("_", " "), yscale="log")
        finish(axes, "environment steps", "")
    add_legend(figure, shown.values())
    caption = (
        "Over a round's traces: medians, the smallest, and the largest loss; each seed a line."
    )
    save(figure, path, caption)


def main() -> None:
    """Run missing jobs, then write ``results.csv`` and ``figure.png`` and print a table."""
    config = options(DEFAULTS)
    rounds = {}
    for (seed, task, method), run_dir in run_missing(
        config, run, words_of, takes_sweeps=False
    ).items():
        if (run_dir / "rounds.csv").exists():
            with (run_dir / "rounds.csv").open(newline="") as file:
                rounds[task, method, seed] = list(csv.DictReader(file))
    write_rows(Path(config.out) / "results.csv", rows(config, rounds))
    print(table(rounds))
    draw(rounds, Path(config.out) / "figure.png", config.recipe)


if __name__ == "__main__":
    main()
