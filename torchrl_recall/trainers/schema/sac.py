"""Configuration of ``recipes/sac_recall.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    ConfigError,
    EnvConfig,
    EvalConfig,
    OptimConfig,
    RoundsConfig,
    RunConfig,
    SACConfig,
    check_envs,
)

__all__ = [
    "SACRecallConfig",
]


@dataclass
class CollectorConfig:
    """Collection."""

    total_frames: int
    num_envs: int
    frames_per_batch: int
    init_random_frames: int


@dataclass
class ReplayBufferConfig:
    """All experience."""

    size: int
    batch_size: int


@dataclass
class SACTracesConfig(RoundsConfig):
    """What a critic of state-action values allows besides."""

    temperature: float | None
    advantage_gate: bool


@dataclass
class SACRecallConfig(RunConfig):
    """Configuration of ``recipes/sac_recall.py``."""

    METHODS: ClassVar = ("recall", "none", "self_imitation")

    matmul_precision: str
    profile: bool
    env: EnvConfig
    collector: CollectorConfig
    replay_buffer: ReplayBufferConfig
    sac: SACConfig
    optim: OptimConfig
    eval: EvalConfig
    recall: SACTracesConfig
    backtracking: BacktrackingConfig
    table_2: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """What holds between values; a ConfigError otherwise."""
        if self.collector.init_random_frames >= self.collector.total_frames:
            raise ConfigError(
                f"collector.init_random_frames={self.collector.init_random_frames} leaves nothing "
                f"to learn from within collector.total_frames={self.collector.total_frames}."
            )
        check_envs(self.collector)
        for key, batch_size in (
            ("replay_buffer.batch_size", self.replay_buffer.batch_size),
            ("recall.batch_size", self.recall.batch_size),
            ("backtracking.batch_size", self.backtracking.batch_size),
        ):
            if self.replay_buffer.size < batch_size:
                raise ConfigError(
                    f"replay_buffer.size={self.replay_buffer.size} is smaller than "
                    f"{key}={batch_size}; raise one or lower the other."
                )
