"""Comparison of models at equal compute: separate, with a joint trunk, an ensemble, a wider one.

    python benchmarks/figures/models.py seeds=5 tasks=[Pendulum-v1,Hopper-v5,HalfCheetah-v5] \
        frames=20000 updates=4000

SAC alone collects the data. A fifth of it, in blocks of 500 steps, is held out. Each kind trains a
backtracking model, a forward model and a reward model for as many seconds as the first kind takes
for ``updates`` steps of each. ``kinds=[separate,unstandardized]`` compares some of them, here with
a model in units of the environment (App. C). The reward head of a joint model reads s and a, and
other reward models read s' too. Landing errors are capped at twice the displacement. The farthest
state of a trace of 20 steps is in standard deviations of the data, a mean over traces from held-out
states. ``models.csv`` and a table go to ``out``.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import LazyTensorStorage, ReplayBuffer

from runs.evidence import options, run_missing
from runs.launchers import in_new_process, run_all
from runs.mujoco_runs import MUJOCO, run, words_of
from torchrl_recall import (
    BacktrackingModel,
    JointModel,
    MeasuredLength,
    RecallTraceGenerator,
    RewardModel,
)
from torchrl_recall.envs.backtracking_env import reverse_time
from torchrl_recall.forward_updates import ForwardUpdates
from torchrl_recall.model_updates import ModelUpdates, make_model_loss
from torchrl_recall.modules.standardization import ContinuousCodec
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.statistics import interval
from torchrl_recall.reward_updates import RewardUpdates
from torchrl_recall.trained.load import load_run
from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.runs.atomic import write_text

BLOCK = 500  # steps
NUM_ENDS = 50  # of each held-out block, from which traces begin
ROUND = 50  # updates at a time, as in a round of recall
KINDS: dict[str, dict[str, Any]] = {
    "separate": {},
    "joint": {},
    "ensemble of 5": {"num_models": 5},
    "256 cells": {"num_cells": [256, 256]},
    "unstandardized": {"standardize": False},
}
METRICS = (
    "steps", "log q(a|s')", "log q(s|a,s')", "log p(s'|s,a)", "reward error",
    "landing error, 1 step", "landing error, 5 steps", "landing error, 20 steps",
    "farthest state of a trace",
)  # fmt: skip
Quality = dict[tuple[str, str, str], list[float]]  # of each seed, by task, kind and metric


@dataclass
class Experience:
    """Data set as updates need it; all transitions count as good.

    Attributes:
        buffer: of all transitions.
    """

    buffer: ReplayBuffer

    def transitions(self) -> TensorDictBase:
        """Return all transitions."""
        return self.buffer.storage[: len(self.buffer)]


@dataclass
class Models:
    """Models of a kind, with the step that trains them all.

    Attributes:
        backward: the backtracking model.
        step: trains all for a step.
        forward_log_prob: of transitions.
        reward: writes the reward of transitions.
    """

    backward: BacktrackingModel
    step: Callable[[], None]
    forward_log_prob: Callable[[TensorDictBase], torch.Tensor]
    reward: Callable[[TensorDictBase], TensorDictBase]


def build(kind: str, specs: tuple, data: TensorDictBase) -> Models:
    """Build the models of a kind, with statistics of the data."""
    settings = {"action_scale": "learned", **KINDS[kind]}
    model_type = JointModel if kind == "joint" else BacktrackingModel
    backward = model_type.from_specs(*specs, **settings)
    backward.update_statistics(data)
    buffer = ReplayBuffer(storage=LazyTensorStorage(len(data)))
    buffer.extend(data)
    one_step: dict[str, Any] = {"num_updates": ROUND, "batch_size": 256, "lr": 1e-3}
    experience = Experience(buffer)
    train = ModelUpdates(make_model_loss(backward), **one_step)
    if isinstance(backward, JointModel):
        return Models(
            backward,
            lambda: _all(partial(train, experience, buffer)),
            backward.forward_log_prob,
            backward.predict_outcome,
        )
    cells = settings.get("num_cells", [128, 128])
    forward = BacktrackingModel.from_specs(*specs, num_cells=cells)
    reward = RewardModel(*specs, num_cells=cells)
    train_forward, train_reward = (
        ForwardUpdates(forward, **one_step), RewardUpdates(reward, **one_step)
    )  # fmt: skip
    train_forward.update_statistics(data)
    reward.update_statistics(data)
    key = forward.observation_key
    return Models(
        backward,
        lambda: _all(
            partial(train, experience, buffer),
            partial(train_forward, buffer),
            partial(train_reward, buffer),
        ),
        lambda rows: forward.state_predictor_log_prob(reverse_time(rows, observation_key=key)),
        reward,
    )


def _all(*steps: Callable[[], Any]) -> None:
    for step in steps:
        step()


def measure(
    run_dir: Path, seed: int, updates: int, kinds: Sequence[str]
) -> list[tuple[str, str, float]]:
    """Train some kinds on the data of a run; return kind, metric and value.

    They are kept in the run's folder, so that a stopped command continues behind them.
    """
    frames = json.loads((run_dir / "summary.json").read_text())["frames"]
    kept = run_dir / f"models_{frames}_{updates}_{'_'.join(kinds)}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    torch.set_num_threads(1)
    trained = load_run(run_dir, restore=("replay_buffer",))
    buffer = trained.parts.experience
    data = buffer.storage[: len(buffer)]
    keys = ["observation", "action", *(("next", k) for k in ("observation", "reward", "done", "terminated"))]  # noqa: E501  # fmt: skip
    data = data.select(*keys)[: len(data) // BLOCK * BLOCK].reshape(-1, BLOCK)
    held = torch.arange(len(data)) % 5 == 4
    learned, held_out = data[~held].reshape(-1), data[held]
    specs = (
        trained.parts.env.observation_spec_unbatched["observation"],
        trained.parts.env.action_spec_unbatched,
    )
    found, seconds = [], None
    for kind in kinds:
        torch.manual_seed(seed)
        models = build(kind, specs, learned)
        models.step()  # the first steps are not timed
        steps, begun = ROUND, time.process_time()
        while steps < updates if seconds is None else time.process_time() - begun < seconds:
            models.step()
            steps += ROUND
        seconds = seconds or time.process_time() - begun
        values = [steps, *held_out_quality(models, held_out)]
        found += [(kind, metric, value) for metric, value in zip(METRICS, values, strict=True)]
    write_text(kept, json.dumps(found))
    return found


@torch.no_grad()
def held_out_quality(models: Models, held_out: TensorDictBase) -> Iterator[float]:
    """Yield the metrics of held-out data ``[blocks, time]``."""
    rows, model = held_out.reshape(-1), models.backward
    for log_prob in (model.backward_policy_log_prob, model.state_predictor_log_prob, models.forward_log_prob):  # noqa: E501  # fmt: skip
        yield float(log_prob(rows).mean())
    reward = rows["next", "reward"]
    guess = models.reward(rows.clone())["next", "reward"]
    yield float((guess - reward).square().mean() / reward.var().clamp(min=1e-8))
    length = MeasuredLength(model, max_length=20, num_pieces=2000)
    length.observe(TensorDict.from_dict(held_out.to_dict(), batch_size=held_out.shape))
    for k in (1, 5, 20):
        yield float(length.relative_errors[k - 1])
    ends = held_out[:, -NUM_ENDS:].reshape(-1)["next"].select(model.observation_key)
    traces = RecallTraceGenerator(model, trace_length=20)(ends)
    assert isinstance(model.observations, ContinuousCodec)
    deviations = model.observations.normalize(traces[model.observation_key]).abs()
    yield float(deviations.amax((-1, -2)).mean())


def table(quality: Quality) -> str:
    """Format a row for each task and kind as Markdown."""
    lines = ["| task | models | " + " | ".join(METRICS) + " |", "|---|---|" + "---|" * len(METRICS)]
    for task, kind in dict.fromkeys((task, kind) for task, kind, _ in quality):
        cells = [str(interval(quality[task, kind, metric])) for metric in METRICS[1:]]
        steps = sum(quality[task, kind, METRICS[0]]) / len(quality[task, kind, METRICS[0]])
        lines.append(f"| {task} | {kind} | {steps:,.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    process.quiet()
    config = options(
        {
            **MUJOCO,
            "figure": "models",
            "out": "runs/models",
            "tasks": ["Pendulum-v1", "Hopper-v5", "HalfCheetah-v5"],
            "methods": ["none"],
            "frames": 20_000,
            "updates": 4_000,
            "kinds": [kind for kind in KINDS if kind != "unstandardized"],
        }
    )
    if unknown := set(config.kinds) - set(KINDS):
        sys.exit(f"kinds={sorted(unknown)} are unknown; take some of {list(KINDS)}.")
    done = {
        key: run_dir
        for key, run_dir in run_missing(
            config, partial(run, "sac"), partial(words_of, "sac")
        ).items()
        if (run_dir / "summary.json").exists()
    }
    if not done:
        sys.exit(f"no run in {config.out} has finished yet, so there is nothing to train on")
    calls = [
        partial(in_new_process, measure, run_dir, seed, config.updates, list(config.kinds))
        for (seed, _, _), run_dir in done.items()
    ]
    quality: Quality = defaultdict(list)
    rows = []
    for (seed, task, _), found in zip(done, run_all(config, calls), strict=True):
        for kind, metric, value in found:
            quality[task, kind, metric].append(value)
            rows.append((config.figure, task, kind, seed, config.frames, metric, value))
    write_rows(Path(config.out) / "models.csv", rows)
    print(table(quality))
