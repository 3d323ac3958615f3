"""Configuration of ``recipes/a2c_recall.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Strict, Tag

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import (
    Backend,
    CheckpointConfig,
    OptimConfig,
    Resume,
    demonstrations_fit,
)
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    CountOrZero,
    Fraction,
    FractionOrZero,
    Positive,
    Seed,
    Text,
    Threads,
    TraceLength,
    multiples,
)

__all__ = [
    "A2CRecallConfig",
]


def _kind_of_start(value: Any) -> str:
    return "cell" if isinstance(value, list) else "room"


Start = Annotated[
    Annotated[Text, Strict(), Tag("room")] | Annotated[list[Seed], Tag("cell")],
    Discriminator(_kind_of_start),
]


class FourRoomsConfig(Group):
    """The four-room task."""

    size: Count
    start: Start
    goal: list[Seed] | None
    slip: AtLeastZero
    max_steps: Count | None


class A2CCollectorConfig(Group):
    """Collection; frames are counted for each seed."""

    total_frames: Count
    num_envs: Count
    frames_per_env: Count


class A2CConfig(Group):
    """Settings of actor-critic."""

    num_cells: Count
    gamma: Fraction
    lmbda: Fraction
    entropy_coeff: AtLeastZero
    critic_coeff: Positive
    max_grad_norm: Positive


class A2CLoggerConfig(Group):
    """Logging beside returns.csv."""

    backend: Backend
    interval: Count


class A2CEvalConfig(Group):
    """Exact evaluation."""

    interval: Count
    target: Fraction
    patience: Count
    stop_at_target: bool


class FourRoomsRecallConfig(Group):
    """Traces and their imitation."""

    name: Text
    method: Literal["recall", "none", "self_imitation", "prioritized_replay"]
    interval: Count
    num_updates: CountOrZero
    batch_size: Count
    lr: Positive
    num_traces: Count
    trace_length: TraceLength
    high_value_states: Literal["rewarded", "value"]
    gate: bool
    loop_erasure: bool
    min_probability: Fraction | None
    audit: CountOrZero | Literal["auto"]
    anneal_frames: Count | None
    demonstrations: Text | None

    def faults(self) -> Iterator[str]:
        """Refuse settings that would have no effect."""
        yield from demonstrations_fit(self, ("recall", "self_imitation"))
        uses_gate = self.method in ("recall", "self_imitation")
        if uses_gate and self.high_value_states == "rewarded" and not self.gate:
            yield (
                "recall.gate=false imitates before the first reward, when there are no rewarded "
                "states to begin at; set recall.high_value_states=value, or leave recall.gate=true."
            )


class FourRoomsBacktrackingConfig(Group):
    """The backtracking model and its data."""

    dynamics: Literal["exact", "learned"]
    num_updates: CountOrZero
    batch_size: Count
    state_batch_size: Count
    lr: Positive
    state_lr: Positive
    smoothing: FractionOrZero
    num_cells: Count
    num_trajectories: Count
    trajectory_length: Count
    buffer_size: Count


class PrioritizedReplayConfig(Group):
    """Prioritised replay."""

    size: Count
    batch_size: Count
    alpha: Positive
    beta: AtLeastZero
    interval: Count
    num_updates: Count

    def faults(self) -> Iterator[str]:
        """Refuse a batch that is larger than the buffer."""
        if self.size < self.batch_size:
            yield (
                f"prioritized_replay.size={self.size} is smaller than its batch_size="
                f"{self.batch_size}; raise one or lower the other."
            )


class Table3Config(Group):
    """A row of Table 3."""

    batch_size: Count
    alpha: Positive


class A2CRecallConfig(Group):
    """Configuration of ``recipes/a2c_recall.py``."""

    seeds: list[Seed]
    torch_threads: Threads
    run_dir: Text
    resume: Resume
    env: FourRoomsConfig
    collector: A2CCollectorConfig
    a2c: A2CConfig
    optim: OptimConfig
    eval: A2CEvalConfig
    checkpoint: CheckpointConfig
    logger: A2CLoggerConfig
    recall: FourRoomsRecallConfig
    backtracking: FourRoomsBacktrackingConfig
    prioritized_replay: PrioritizedReplayConfig
    table_3: dict[str, Table3Config]

    @property
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""
        return self.logger.interval

    def faults(self) -> Iterator[str]:
        """Refuse repeated seeds, and intervals that end between updates or evaluations."""
        if self.recall.min_probability is not None and self.backtracking.dynamics == "exact":
            yield (
                f"recall.min_probability={self.recall.min_probability} asks a learned state "
                "predictor, but backtracking.dynamics=exact has none; set one of them to null or "
                "learned."
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds={self.seeds} must name one seed or several different ones."
        batch = self.collector.num_envs * self.collector.frames_per_env
        uneven = {
            f"{key}={frames}": frames
            for key, frames in (
                ("eval.interval", self.eval.interval),
                ("logger.interval", self.logger.interval),
                ("collector.total_frames", self.collector.total_frames),
            )
            if frames % batch
        }
        if uneven:
            yield (
                f"{', '.join(uneven)} must be a multiple of the {batch} frames between updates, "
                "collector.num_envs * collector.frames_per_env; take "
                f"{', '.join(multiples(frames, batch) for frames in uneven.values())}."
            )
        elif self.logger.interval % self.eval.interval:
            yield (
                f"logger.interval={self.logger.interval} must be a multiple of "
                f"eval.interval={self.eval.interval}."
            )
