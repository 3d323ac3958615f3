"""Configuration of ``recipes/trpo_recall.py`` and ``recipes/ppo_recall.py``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    EnvConfig,
    EvalConfig,
    ExperienceConfig,
    GAEConfig,
    OptimConfig,
    PolicyConfig,
    RecallConfig,
    RunConfig,
    SharedBatchConfig,
    TRPOConfig,
)
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    Fraction,
    Positive,
    multiples,
)

__all__ = [
    "OnPolicyRecallConfig",
    "PPORecallConfig",
    "TRPORecallConfig",
]


class OnPolicyCollectorConfig(SharedBatchConfig):
    """Collection of the batch for each update."""

    def faults(self) -> Iterator[str]:
        """Refuse a run that ends within a batch, and a batch that cannot be shared."""
        yield from super().faults()
        if self.total_frames % self.frames_per_batch:
            yield (
                f"collector.total_frames={self.total_frames} must be a multiple of "
                f"collector.frames_per_batch={self.frames_per_batch}, the frames between two "
                f"updates. Take {multiples(self.total_frames, self.frames_per_batch)}."
            )


class PPOConfig(Group):
    """Settings of PPO."""

    clip_epsilon: Fraction
    entropy_coeff: AtLeastZero
    critic_coeff: Positive
    max_grad_norm: Positive
    num_epochs: Count
    batch_size: Count


class OnPolicyTracesConfig(RecallConfig):
    """Traces, their imitation, and the frames between rounds."""

    method: Literal["recall", "none", "self_imitation", "cloning", "forward_model"]
    interval: Count


class OnPolicyRecallConfig(RunConfig):
    """Keys shared by ``recipes/trpo_recall.py`` and ``recipes/ppo_recall.py``."""

    env: EnvConfig
    collector: OnPolicyCollectorConfig
    replay_buffer: ExperienceConfig
    policy: PolicyConfig
    gae: GAEConfig
    optim: OptimConfig
    eval: EvalConfig
    recall: OnPolicyTracesConfig
    backtracking: BacktrackingConfig
    table_1: dict[str, Count]

    @property
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""
        return self.eval.interval

    @abstractmethod
    def _minibatch(self) -> tuple[str, int]:
        """The key and the value of the host's batch size."""

    def faults(self) -> Iterator[str]:
        """Refuse sizes that do not fit the batch between two updates."""
        batch = self.collector.frames_per_batch
        key, size = self._minibatch()
        if batch % size:
            yield (
                f"{key}={size} must divide collector.frames_per_batch={batch}, or an epoch ends "
                "in a smaller batch."
            )
        if self.replay_buffer.size < batch:
            yield (
                f"replay_buffer.size={self.replay_buffer.size} is smaller than one batch, "
                f"collector.frames_per_batch={batch}."
            )


class TRPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/trpo_recall.py``."""

    trpo: TRPOConfig

    def _minibatch(self) -> tuple[str, int]:
        return "trpo.batch_size", self.trpo.batch_size


class PPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/ppo_recall.py``."""

    ppo: PPOConfig

    def _minibatch(self) -> tuple[str, int]:
        return "ppo.batch_size", self.ppo.batch_size
