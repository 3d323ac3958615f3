"""Configuration of ``recipes/offline_recall.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import EnvConfig, EvalConfig, ModelConfig, RunConfig
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    CountOrZero,
    Fraction,
    Positive,
    Text,
    TraceLength,
)

__all__ = ["OfflineRecallConfig", "OfflineTracesConfig"]

Share = Annotated[Positive, Field(lt=1)]


class GradientStepsConfig(Group):
    """Gradient steps of the host, which the log counts as frames."""

    total_frames: Count
    frames_per_batch: Count


class BatchConfig(Group):
    """The batch of each gradient step."""

    batch_size: Count


class IQLConfig(Group):
    """Settings of IQL."""

    num_cells: list[Count]
    gamma: Fraction
    target_update_tau: Fraction
    lr: Positive
    expectile: Share
    temperature: Positive


class CQLConfig(Group):
    """Settings of CQL."""

    num_cells: list[Count]
    gamma: Fraction
    target_update_tau: Fraction
    lr: Positive
    policy_lr: Positive
    min_q_weight: Positive
    num_random: Count


class TD3BCConfig(Group):
    """Settings of TD3+BC."""

    num_cells: list[Count]
    gamma: Fraction
    target_update_tau: Fraction
    lr: Positive
    policy_delay: Count
    policy_noise: AtLeastZero
    noise_clip: AtLeastZero
    alpha: Positive


class OfflineTracesConfig(Group):
    """Reverse rollouts, and their share of each batch."""

    name: Text
    method: Literal["recall", "none"]
    interval: Count
    end_states: Literal["return", "reward", "uniform"]
    temperature: Positive | None
    num_high_value_states: Count
    state_batch_size: Count
    num_traces: Count
    trace_length: TraceLength
    max_deviation: Positive | None
    agreement: Fraction | None
    share: Share
    buffer_size: Count
    reward_updates: Count
    audit: CountOrZero | Literal["auto"]


class OfflineBacktrackingConfig(ModelConfig):
    """The backtracking model, trained once before the host."""

    num_updates: CountOrZero
    batch_size: Count
    lr: Positive


class OfflineRecallConfig(RunConfig):
    """Configuration of ``recipes/offline_recall.py``."""

    data_set: Text
    env: EnvConfig
    collector: GradientStepsConfig
    replay_buffer: BatchConfig
    host: Literal["iql", "cql", "td3bc"]
    iql: IQLConfig
    cql: CQLConfig
    td3bc: TD3BCConfig
    eval: EvalConfig
    recall: OfflineTracesConfig
    backtracking: OfflineBacktrackingConfig

    @property
    def log_interval(self) -> int:
        """Return the gradient steps between rows of metrics.csv."""
        return self.eval.interval

    @property
    def of_host(self) -> IQLConfig | CQLConfig | TD3BCConfig:
        """The group of keys of the host."""
        return getattr(self, self.host)

    @property
    def num_transitions(self) -> int:
        """The number of transitions of traces in each batch."""
        return max(1, round(self.recall.share * self.replay_buffer.batch_size))

    def faults(self) -> Iterator[str]:
        """Refuse batches without real transitions, and agreement with an untrained model."""
        if self.recall.method == "none":
            return
        if self.num_transitions >= self.replay_buffer.batch_size:
            yield (
                f"recall.share={self.recall.share} leaves no real row in a batch of "
                f"replay_buffer.batch_size={self.replay_buffer.batch_size}; lower it."
            )
        if self.recall.agreement is not None and not self.backtracking.num_updates:
            yield (
                f"recall.agreement={self.recall.agreement} asks a forward model that "
                "backtracking.num_updates=0 leaves untrained; leave one of them out."
            )
