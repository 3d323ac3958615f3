"""Configuration of ``recipes/goal_gan_recall.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    ConfigError,
    ExperienceConfig,
    GAEConfig,
    OptimConfig,
    PolicyConfig,
    RecallConfig,
    RunConfig,
    SACConfig,
    TRPOConfig,
)

__all__ = [
    "GoalGANRecallConfig",
]


@dataclass
class GoalTaskConfig:
    """The task; what is null is the task's own."""

    name: str
    task: str
    dim: int | None
    maze: str | None
    step_size: float | None
    goal_radius: float | None
    max_steps: int
    trace_length: int


@dataclass
class GoalCollectorConfig:
    """Collection."""

    total_frames: int
    num_rollouts: int
    num_batches: int


@dataclass
class GoalGANConfig:
    """The goals."""

    num_new: int
    num_old: int
    min_success: float
    max_success: float
    goal_noise: float
    num_updates: int
    batch_size: int
    lr: float
    generator_lr: float


@dataclass
class HindsightConfig:
    """Experience with other goals, for the host that uses it."""

    buffer_size: int
    batch_size: int
    ratio: float


@dataclass
class CoverageConfig:
    """Evaluation."""

    interval: int
    num_goals: int
    target: float
    stop_at_target: bool


@dataclass
class GoalTracesConfig(RecallConfig):
    """And where they may lead."""

    support_radius: float | None


@dataclass
class GoalGANRecallConfig(RunConfig):
    """Configuration of ``recipes/goal_gan_recall.py``."""

    METHODS: ClassVar = ("recall", "none", "self_imitation")

    host: str
    env: GoalTaskConfig
    collector: GoalCollectorConfig
    replay_buffer: ExperienceConfig
    goal_gan: GoalGANConfig
    policy: PolicyConfig
    gae: GAEConfig
    trpo: TRPOConfig
    sac: SACConfig
    hindsight: HindsightConfig
    optim: OptimConfig
    eval: CoverageConfig
    recall: GoalTracesConfig
    backtracking: BacktrackingConfig

    @property
    def num_goals(self) -> int:
        """Goals tried at a time."""
        return self.goal_gan.num_new + self.goal_gan.num_old

    @property
    def frames_per_batch(self) -> int:
        """Frames between two updates of the policy."""
        return self.num_goals * self.collector.num_rollouts * self.env.max_steps

    def check(self) -> None:
        """What holds between values; a ConfigError otherwise."""
        if self.goal_gan.min_success >= self.goal_gan.max_success:
            raise ConfigError(
                f"goal_gan.min_success={self.goal_gan.min_success} must be below "
                f"goal_gan.max_success={self.goal_gan.max_success}."
            )
        if self.host == "hindsight_sac" and self.recall.method != "none":
            raise ConfigError(
                f"host=hindsight_sac is a control of its own and takes recall=none, not "
                f"recall={self.recall.name}; recall goes with host=trpo."
            )
        self.trpo.check()
