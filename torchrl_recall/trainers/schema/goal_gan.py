"""Configuration of ``recipes/goal_gan_recall.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    ExperienceConfig,
    GAEConfig,
    OptimConfig,
    PolicyConfig,
    RecallConfig,
    RunConfig,
    SACConfig,
    TRPOConfig,
)
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    CountOrZero,
    Fraction,
    FractionOrZero,
    Positive,
    Text,
    TraceLength,
)

__all__ = [
    "GoalGANRecallConfig",
]


class GoalTaskConfig(Group):
    """The task; null leaves a value to the task."""

    name: Text
    task: Text
    dim: Count | None
    maze: Literal["free", "u"] | None
    step_size: Positive | None
    goal_radius: Positive | None
    max_steps: Count
    trace_length: TraceLength

    def faults(self) -> Iterator[str]:
        """Refuse a task of another kind."""
        if self.task != "point_mass" and not self.task.startswith(("PointMaze", "AntMaze")):
            yield (
                f"env.task={self.task!r} must be point_mass or a maze of Gymnasium-Robotics, such "
                "as PointMaze_UMaze-v3; choose env=point_free4, env=point_maze or env=ant_maze."
            )


class GoalCollectorConfig(Group):
    """Collection for each set of goals."""

    total_frames: Count
    num_rollouts: Count
    num_batches: Count


class GoalGANConfig(Group):
    """The Goal GAN and its sets of goals."""

    num_new: Count
    num_old: CountOrZero
    min_success: FractionOrZero
    max_success: Fraction
    goal_noise: AtLeastZero
    num_updates: Count
    batch_size: Count
    lr: Positive
    generator_lr: Positive

    def faults(self) -> Iterator[str]:
        """Refuse bounds that no success rate can lie between."""
        if self.min_success >= self.max_success:
            yield (
                f"goal_gan.min_success={self.min_success} must be below "
                f"goal_gan.max_success={self.max_success}."
            )


class HindsightConfig(Group):
    """Experience with other goals, for ``host=hindsight_sac``."""

    buffer_size: Count
    batch_size: Count
    ratio: FractionOrZero


class CoverageConfig(Group):
    """Evaluation by the share of goals that are reached."""

    interval: Count
    num_goals: Count
    target: Fraction
    stop_at_target: bool


class GoalTracesConfig(RecallConfig):
    """Traces to goals, with a filter of states far from visited ones."""

    method: Literal["recall", "none", "self_imitation"]
    support_radius: Positive | None

    def faults(self) -> Iterator[str]:
        """Refuse demonstrations, because goals determine the end states."""
        if self.demonstrations is not None:
            yield (
                f"recall.demonstrations={self.demonstrations}: traces of this recipe end in goals "
                "of the Goal GAN, which demonstrations do not know. Leave it out, or take "
                "sac_recall.py in a task with one goal, such as env.name=point_umaze."
            )


class GoalGANRecallConfig(RunConfig):
    """Configuration of ``recipes/goal_gan_recall.py``."""

    host: Literal["trpo", "hindsight_sac"]
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
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""
        return self.eval.interval

    @property
    def num_goals(self) -> int:
        """The number of goals in one iteration."""
        return self.goal_gan.num_new + self.goal_gan.num_old

    @property
    def frames_per_batch(self) -> int:
        """The number of frames between two updates of the policy."""
        return self.num_goals * self.collector.num_rollouts * self.env.max_steps

    def faults(self) -> Iterator[str]:
        """Refuse a run that ends with the batch in which the first policy shows its goals."""
        if self.collector.total_frames <= self.frames_per_batch:
            yield (
                f"collector.total_frames={self.collector.total_frames} leaves nothing to learn "
                f"from: the Goal GAN is fitted to a first batch of {self.frames_per_batch} frames, "
                "(goal_gan.num_new + goal_gan.num_old) * collector.num_rollouts * env.max_steps. "
                f"Take more; eval.interval={self.eval.interval} frames lie between evaluations."
            )
