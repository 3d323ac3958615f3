"""Configuration of ``recipes/sac_recall.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.parts import (
    BacktrackingConfig,
    CrossQConfig,
    EnvConfig,
    EvalConfig,
    OptimConfig,
    RecallConfig,
    REDQConfig,
    RunConfig,
    SACHostConfig,
    SharedBatchConfig,
    TD3Config,
)
from torchrl_recall.trainers.schema.ranges import AtLeastZero, Count, CountOrZero, Positive, Text

if TYPE_CHECKING:
    from torchrl_recall.trainers.schema.dqn import DQNRecallConfig

__all__ = [
    "CollectorConfig",
    "ReplayBufferConfig",
    "SACRecallConfig",
    "SACReplayBufferConfig",
    "SACTracesConfig",
    "batches_fit",
]


class CollectorConfig(SharedBatchConfig):
    """Collection that begins with random actions."""

    init_random_frames: CountOrZero
    random_until_reward: bool

    def faults(self) -> Iterator[str]:
        """Refuse a run of random actions alone, and a batch that cannot be shared."""
        yield from super().faults()
        if self.init_random_frames >= self.total_frames:
            yield (
                f"collector.init_random_frames={self.init_random_frames} leaves nothing to learn "
                f"from within collector.total_frames={self.total_frames}."
            )
        if self.random_until_reward and self.chosen_backend != "step":
            yield (
                "collector.random_until_reward=true looks at each step of one environment; take "
                f"collector.num_envs=1 and collector.backend=step, not {self.chosen_backend}."
            )


class ReplayBufferConfig(Group):
    """Buffer of all experience."""

    size: Count
    batch_size: Count


class SACReplayBufferConfig(ReplayBufferConfig):
    """Buffer of all experience, with or without prioritised sampling."""

    prioritized: bool
    alpha: AtLeastZero
    beta: AtLeastZero


def batches_fit(config: SACRecallConfig | DQNRecallConfig) -> Iterator[str]:
    """Refuse batches that are larger than the replay buffer."""
    size = config.replay_buffer.size
    larger = [
        f"{key}.batch_size={batch_size}"
        for key, batch_size in (
            ("replay_buffer", config.replay_buffer.batch_size),
            ("recall", config.recall.batch_size),
            ("backtracking", config.backtracking.batch_size),
        )
        if size < batch_size
    ]
    if larger:
        yield (
            f"replay_buffer.size={size} is smaller than {', '.join(larger)}; "
            "raise it or lower the others."
        )


class SACTracesConfig(RecallConfig):
    """Traces and their use, for hosts with a critic of state-action values."""

    method: Literal["recall", "none", "self_imitation", "cloning", "forward_dyna"]
    use: Literal["policy", "critic", "both"]
    interval: Count
    end_states: Literal["value", "return", "reward", "uniform"]
    temperature: Positive | None
    actions: Literal["backward_policy", "uniform", "policy"]
    reward: Text
    num_transitions: Count
    advantage_gate: bool

    @property
    def learns_dynamics(self) -> bool:
        """Whether a model learns from single steps."""
        return self.method in ("recall", "forward_dyna")

    @property
    def feeds_critic(self) -> bool:
        """Whether a critic learns from imagined transitions."""
        return self.method == "forward_dyna" or (self.method == "recall" and self.use != "policy")

    def faults(self) -> Iterator[str]:
        """Refuse end states, actions and rewards that a critic cannot learn from."""
        yield from super().faults()
        if self.reward not in ("sparse", "learned") and ":" not in self.reward:
            yield (
                f"recall.reward={self.reward} must be sparse, learned, or module:function, which "
                "is called with the environment and returns the rule."
            )
        if self.method == "forward_dyna" and self.reward == "sparse":
            yield (
                "recall.reward=sparse takes the reward of a trace from its real end state, which "
                "what a forward model imagines does not have; take learned, or module:function."
            )
        if (self.actions == "policy") != (self.method == "forward_dyna") and (
            self.actions != "uniform" and self.method in ("recall", "forward_dyna")
        ):
            other = "policy" if self.method == "forward_dyna" else "backward_policy"
            yield (
                f"recall.actions={self.actions} is not of recall.method={self.method}; take "
                f"{other} or uniform."
            )
        if self.method == "recall" and self.use != "policy" and self.end_states == "value":
            yield (
                f"recall.use={self.use} needs end states that carry their reward; take "
                "recall.end_states=return, reward or uniform."
            )
        if self.method == "recall" and self.use == "critic" and self.advantage_gate:
            yield (
                "recall.advantage_gate=true cuts imitated traces, which recall.use=critic has not; "
                "take false, or recall.use=both."
            )
        if self.method == "recall" and self.use != "critic" and self.actions == "uniform":
            yield (
                f"recall.use={self.use} imitates traces, which uniform actions are not worth; take "
                "recall.actions=backward_policy."
            )


class SACRecallConfig(RunConfig):
    """Configuration of ``recipes/sac_recall.py``."""

    matmul_precision: Literal["highest", "high", "medium"]
    profile: bool
    env: EnvConfig
    collector: CollectorConfig
    replay_buffer: SACReplayBufferConfig
    host: Literal["sac", "crossq", "redq", "td3"]
    lr_of_host: dict[str, Positive] = Field(default_factory=dict)
    random_frames_of_host: dict[str, CountOrZero] = Field(default_factory=dict)
    paying_frames_of_host: dict[str, Count] = Field(default_factory=dict)
    sac: SACHostConfig
    crossq: CrossQConfig
    redq: REDQConfig
    td3: TD3Config
    optim: OptimConfig
    eval: EvalConfig
    recall: SACTracesConfig
    backtracking: BacktrackingConfig
    table_2: dict[str, Count] = Field(default_factory=dict)

    @property
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""
        return self.eval.interval

    @property
    def of_host(self) -> SACHostConfig | CrossQConfig | REDQConfig | TD3Config:
        """The group of keys of the host."""
        return getattr(self, self.host)

    def faults(self) -> Iterator[str]:
        """Refuse batches that are larger than the replay buffer, and mixed streams of steps."""
        yield from batches_fit(self)
        n_step, collector = self.of_host.n_step, self.collector
        if self.host == "redq" and n_step > 1:
            yield (
                f"redq.n_step={n_step}: TorchRL's REDQLoss does not tell its targets how many "
                "steps away they are; take redq.n_step=1, or another host."
            )
        if n_step > 1 and collector.num_envs > 1:
            yield (
                f"{self.host}.n_step={n_step} joins steps that follow each other, which those of "
                f"collector.num_envs={collector.num_envs} environments do not; take one."
            )
        if n_step > 1 and collector.init_random_frames <= n_step:
            yield (
                f"collector.init_random_frames={collector.init_random_frames} must be above "
                f"{self.host}.n_step={n_step}: until then no transition is complete."
            )
        if self.replay_buffer.prioritized and self.host != "sac":
            yield f"replay_buffer.prioritized=true is of host=sac, not of host={self.host}."
        if self.replay_buffer.prioritized and self.recall.feeds_critic:
            yield (
                f"replay_buffer.prioritized=true does not go with recall={self.recall.name}: rows "
                "of traces have no priority. Take recall=none, imitation or self_imitation."
            )
        if self.host == "sac" and self.sac.return_bound and collector.num_envs > 1:
            yield "sac.return_bound=true follows the episodes of one environment; take num_envs=1."
        if self.host == "crossq" and self.replay_buffer.batch_size < 2:
            yield (
                f"replay_buffer.batch_size={self.replay_buffer.batch_size} has no variance, by "
                "which host=crossq normalises; take at least 2."
            )
