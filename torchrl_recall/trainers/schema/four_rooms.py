"""Configuration of ``recipes/a2c_recall.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torchrl_recall.trainers.schema.parts import (
    CheckpointConfig,
    ConfigError,
    OptimConfig,
)

__all__ = [
    "A2CRecallConfig",
]


@dataclass
class FourRoomsConfig:
    """The four-room task."""

    size: int
    start: Any
    goal: list[int] | None
    slip: float
    max_steps: int | None


@dataclass
class A2CCollectorConfig:
    """Collection; frames are counted for each seed."""

    total_frames: int
    num_envs: int
    frames_per_env: int


@dataclass
class A2CConfig:
    """The host."""

    num_cells: int
    gamma: float
    lmbda: float
    entropy_coeff: float
    critic_coeff: float
    max_grad_norm: float


@dataclass
class A2CLoggerConfig:
    """Logging beside returns.csv."""

    backend: str
    interval: int


@dataclass
class A2CEvalConfig:
    """Exact evaluation."""

    interval: int
    target: float
    patience: int
    stop_at_target: bool


@dataclass
class FourRoomsRecallConfig:
    """Traces and their imitation."""

    name: str
    method: str
    interval: int
    num_updates: int
    batch_size: int
    lr: float
    num_traces: int
    trace_length: int
    high_value_states: str
    gate: bool
    loop_erasure: bool
    min_probability: float | None
    anneal_frames: int | None


@dataclass
class FourRoomsBacktrackingConfig:
    """The backtracking model and its data."""

    dynamics: str
    num_updates: int
    batch_size: int
    state_batch_size: int
    lr: float
    state_lr: float
    smoothing: float
    num_cells: int
    num_trajectories: int
    trajectory_length: int
    buffer_size: int


@dataclass
class PrioritizedReplayConfig:
    """Prioritised replay."""

    size: int
    batch_size: int
    alpha: float
    beta: float
    interval: int
    num_updates: int


@dataclass
class Table3Config:
    """What Table 3 gives for a size."""

    batch_size: int
    alpha: float


@dataclass
class A2CRecallConfig:
    """Configuration of ``recipes/a2c_recall.py``."""

    METHODS: ClassVar = ("recall", "none", "self_imitation", "prioritized_replay")

    seeds: list[int]
    torch_threads: int
    run_dir: str
    resume: str
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

    def check(self) -> None:
        """What holds between values; a ConfigError otherwise."""
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds} must name one seed or several different ones.")
        batch = self.collector.num_envs * self.collector.frames_per_env
        for key, interval in (
            ("eval.interval", self.eval.interval),
            ("logger.interval", self.logger.interval),
            ("collector.total_frames", self.collector.total_frames),
        ):
            if interval % batch:
                raise ConfigError(
                    f"{key}={interval} must be a multiple of the {batch} frames between updates, "
                    "collector.num_envs * collector.frames_per_env."
                )
        if self.logger.interval % self.eval.interval:
            raise ConfigError(
                f"logger.interval={self.logger.interval} must be a multiple of "
                f"eval.interval={self.eval.interval}."
            )
        replay = self.prioritized_replay
        if replay.size < replay.batch_size:
            raise ConfigError(
                f"prioritized_replay.size={replay.size} is smaller than its batch_size="
                f"{replay.batch_size}; raise one or lower the other."
            )
