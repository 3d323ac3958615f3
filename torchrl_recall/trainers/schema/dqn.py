"""Configuration of ``recipes/dqn_recall.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
)
from torchrl_recall.trainers.schema.ranges import (
    Count,
    Fraction,
    FractionOrZero,
    Positive,
)
from torchrl_recall.trainers.schema.sac import (
    CollectorConfig,
    ReplayBufferConfig,
    SACTracesConfig,
    batches_fit,
)

__all__ = ["DQNRecallConfig"]


class DiscreteEnvConfig(TaskConfig):
    """A task with discrete actions."""

    @property
    def making(self) -> dict[str, Any]:
        """Return the arguments of ``make_env`` that say how to make the task."""
        return super().making | {"actions": "discrete"}


class DQNConfig(Group):
    """Settings of deep Q-learning."""

    num_cells: list[Count]
    gamma: Fraction
    num_updates: Count
    target_update_interval: Count
    max_grad_norm: Positive | None
    eps_init: FractionOrZero
    eps_end: FractionOrZero
    annealed_fraction: Fraction
    imitation_temperature: Positive

    def faults(self) -> Iterator[str]:
        """Refuse exploration that grows."""
        if self.eps_end > self.eps_init:
            yield (
                f"dqn.eps_end={self.eps_end} is above dqn.eps_init={self.eps_init}; exploration "
                "falls from the latter to the former."
            )


class DQNRecallConfig(RunConfig):
    """Configuration of ``recipes/dqn_recall.py``."""

    env: DiscreteEnvConfig
    collector: CollectorConfig
    replay_buffer: ReplayBufferConfig
    dqn: DQNConfig
    optim: OptimConfig
    eval: EvalConfig
    recall: SACTracesConfig
    backtracking: BacktrackingConfig

    @property
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""
        return self.eval.interval

    def faults(self) -> Iterator[str]:
        """Refuse batches that are larger than the replay buffer."""
        yield from batches_fit(self)
        if self.recall.method == "forward_dyna":
            yield "recall.method=forward_dyna is of sac_recall.py; take another group of recall."
