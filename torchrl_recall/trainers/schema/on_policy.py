"""Configuration of ``recipes/trpo_recall.py`` and ``recipes/ppo_recall.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    ConfigError,
    EnvConfig,
    EvalConfig,
    ExperienceConfig,
    GAEConfig,
    OptimConfig,
    PolicyConfig,
    RoundsConfig,
    RunConfig,
    TRPOConfig,
    check_envs,
)

__all__ = [
    "OnPolicyRecallConfig",
    "PPORecallConfig",
    "TRPORecallConfig",
]


@dataclass
class OnPolicyCollectorConfig:
    """Collection."""

    total_frames: int
    num_envs: int
    frames_per_batch: int


@dataclass
class PPOConfig:
    """The host."""

    clip_epsilon: float
    entropy_coeff: float
    critic_coeff: float
    max_grad_norm: float
    num_epochs: int
    batch_size: int


@dataclass
class OnPolicyRecallConfig(RunConfig):
    """What ``recipes/trpo_recall.py`` and ``recipes/ppo_recall.py`` share."""

    METHODS: ClassVar = ("recall", "none", "self_imitation", "forward_model")

    env: EnvConfig
    collector: OnPolicyCollectorConfig
    replay_buffer: ExperienceConfig
    policy: PolicyConfig
    gae: GAEConfig
    optim: OptimConfig
    eval: EvalConfig
    recall: RoundsConfig
    backtracking: BacktrackingConfig
    table_1: dict[str, int]

    def check(self) -> None:
        """What holds between values; a ConfigError otherwise."""
        check_envs(self.collector)
        batch = self.collector.frames_per_batch
        if self.collector.total_frames % batch:
            raise ConfigError(
                f"collector.total_frames={self.collector.total_frames} must be a multiple of "
                f"collector.frames_per_batch={batch}, the frames between two updates."
            )
        for name in ("trpo", "ppo"):
            host = getattr(self, name, None)
            if host is not None and batch % host.batch_size:
                raise ConfigError(
                    f"{name}.batch_size={host.batch_size} must divide "
                    f"collector.frames_per_batch={batch}, or an epoch ends in a smaller batch."
                )
        if self.replay_buffer.size < batch:
            raise ConfigError(
                f"replay_buffer.size={self.replay_buffer.size} is smaller than one batch, "
                f"collector.frames_per_batch={batch}."
            )


@dataclass
class TRPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/trpo_recall.py``."""

    trpo: TRPOConfig

    def check(self) -> None:
        """What holds between values; a ConfigError otherwise."""
        super().check()
        self.trpo.check()


@dataclass
class PPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/ppo_recall.py``."""

    ppo: PPOConfig
