"""Groups of keys that several recipes share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from torchrl_recall.trainers.schema.group import ConfigError, Group
from torchrl_recall.trainers.schema.ranges import (
    AtLeastZero,
    Count,
    CountOrZero,
    Fraction,
    Number,
    Positive,
    Seed,
    Text,
    Threads,
    TraceLength,
)

__all__ = [
    "Backend",
    "BacktrackingConfig",
    "CheckpointConfig",
    "CollectorBackend",
    "ConfigError",
    "CrossQConfig",
    "EnvConfig",
    "EvalConfig",
    "ExperienceConfig",
    "GAEConfig",
    "LoggerConfig",
    "ModelConfig",
    "OptimConfig",
    "PolicyConfig",
    "REDQConfig",
    "RecallConfig",
    "Resume",
    "RunConfig",
    "SACConfig",
    "SACHostConfig",
    "SharedBatchConfig",
    "TD3Config",
    "TRPOConfig",
    "TaskConfig",
    "demonstrations_fit",
]

Backend = Literal["auto", "none", "tensorboard", "wandb", "mlflow", "trackio"]
CollectorBackend = Literal["step", "vector", "parallel", "multi_sync", "distributed", "ray"]
Resume = Literal["never", "auto"]


class OptimConfig(Group):
    """The host's optimiser."""

    lr: Positive


class EvalConfig(Group):
    """Evaluation by whole episodes."""

    interval: Count
    num_episodes: Count
    max_steps: Count
    target_return: Number | None


class CheckpointConfig(Group):
    """When checkpoints are written, and how many are kept."""

    interval: CountOrZero
    keep: Count


class LoggerConfig(Group):
    """Logging beside metrics.csv."""

    backend: Backend


class RunConfig(Group):
    """Settings shared by recipes that train one seed on one device."""

    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    torch_threads: Threads
    compile: bool | None
    compile_from_frames: Count
    run_dir: Text
    resume: Resume
    checkpoint: CheckpointConfig
    logger: LoggerConfig

    @property
    @abstractmethod
    def log_interval(self) -> int:
        """Return the frames between rows of metrics.csv."""


class TaskConfig(Group):
    """A task."""

    name: Text
    observation_keys: list[Text] | None
    entry_point: Text | None
    trace_length: TraceLength

    @property
    def making(self) -> dict[str, Any]:
        """Return the arguments of ``make_env`` that say how to make the task."""
        return {"observation_keys": self.observation_keys, "entry_point": self.entry_point}


class EnvConfig(TaskConfig):
    """A task with continuous actions."""

    backend: Literal["gymnasium", "dm_control"]
    frame_skip: Count
    delay: Count | Literal["end"] | None

    @property
    def making(self) -> dict[str, Any]:
        """Return the arguments of ``make_env`` that say how to make the task."""
        own = {"backend": self.backend, "frame_skip": self.frame_skip, "delay": self.delay}
        return super().making | own

    def faults(self) -> Iterator[str]:
        """Refuse two settings that both determine the task."""
        if self.entry_point is not None and self.backend != "gymnasium":
            yield (
                f"env.entry_point={self.entry_point} makes the task itself; leave out "
                f"env.backend={self.backend}."
            )


class SharedBatchConfig(Group):
    """Collection of batches by several environments."""

    total_frames: Count
    num_envs: Count
    frames_per_batch: Count
    backend: CollectorBackend | None

    @property
    def chosen_backend(self) -> CollectorBackend:
        """The backend; by default it follows from the number of environments."""
        if self.backend is not None:
            return self.backend
        return "step" if self.num_envs == 1 else "parallel"

    def faults(self) -> Iterator[str]:
        """Refuse a batch that the environments cannot share."""
        if self.backend == "step" and self.num_envs > 1:
            yield (
                f"collector.backend=step steps one environment, but collector.num_envs="
                f"{self.num_envs}; take num_envs=1, or another backend."
            )
        if self.frames_per_batch % self.num_envs:
            yield (
                f"collector.frames_per_batch={self.frames_per_batch} frames cannot be shared by "
                f"collector.num_envs={self.num_envs} environments; make it a multiple."
            )


class SACConfig(Group):
    """Settings of soft actor-critic."""

    num_cells: list[Count]
    gamma: Fraction
    target_update_tau: Fraction
    alpha_init: Positive
    fixed_alpha: bool
    num_updates: Count


class SACHostConfig(SACConfig):
    """Settings of soft actor-critic as a host."""

    n_step: Count
    return_bound: bool


class TD3Config(Group):
    """Settings of TD3."""

    num_cells: list[Count]
    gamma: Fraction
    n_step: Count
    target_update_tau: Fraction
    policy_delay: Count
    policy_noise: AtLeastZero
    noise_clip: AtLeastZero
    exploration_noise: AtLeastZero
    imitation_scale: Positive
    num_updates: Count


class CrossQConfig(Group):
    """Settings of CrossQ."""

    num_cells: list[Count]
    critic_num_cells: list[Count]
    gamma: Fraction
    n_step: Count
    alpha_init: Positive
    adam_beta1: Annotated[AtLeastZero, Field(lt=1)]
    policy_delay: Count
    warmup_steps: Count
    num_updates: Count


class REDQConfig(Group):
    """Settings of REDQ."""

    num_cells: list[Count]
    gamma: Fraction
    n_step: Count
    target_update_tau: Fraction
    alpha_init: Positive
    num_qvalue_nets: Count
    sub_sample_len: Count
    num_updates: Count

    def faults(self) -> Iterator[str]:
        """Refuse targets of all critics or more; TorchRL would cut the number silently."""
        if self.sub_sample_len >= self.num_qvalue_nets:
            yield (
                f"redq.sub_sample_len={self.sub_sample_len} must be below "
                f"redq.num_qvalue_nets={self.num_qvalue_nets}."
            )


def demonstrations_fit(recall: Any, methods: Sequence[str]) -> Iterator[str]:
    """Refuse demonstrations that would have no effect, and cloning without demonstrations.

    Args:
        recall: configuration with ``method`` and ``demonstrations``.
        methods: methods that have a store of trajectories.

    Yields:
        A sentence for each fault.
    """
    if recall.demonstrations is not None and recall.method not in methods:
        yield (
            f"recall.demonstrations={recall.demonstrations} fills a store of trajectories, which "
            f"recall.method={recall.method} does not have; leave it out, or take a group whose "
            f"method is {', '.join(methods[:-1])} or {methods[-1]}."
        )
    if recall.method == "cloning" and recall.demonstrations is None:
        yield "recall=cloning imitates demonstrations; give recall.demonstrations=PATH."


class RecallConfig(Group):
    """Settings of traces and their imitation that all recipes but the four rooms' share."""

    name: Text
    num_updates: CountOrZero
    batch_size: Count
    lr: Positive
    max_kl: Positive | None
    num_high_value_states: Count
    num_traces: Count
    trace_length: TraceLength | Literal["auto"]
    max_landing_error: Positive
    state_batch_size: Count
    max_deviation: Positive | None
    loop_erasure: AtLeastZero | None
    agreement: Fraction | None
    disagreement: Fraction | None
    audit: CountOrZero | Literal["auto"]
    anneal_frames: Count | None
    demonstrations: Text | None

    def faults(self) -> Iterator[str]:
        """Refuse demonstrations that would have no effect, and cloning without demonstrations."""
        yield from demonstrations_fit(self, ("recall", "self_imitation", "cloning"))


class ModelConfig(Group):
    """Networks of a backtracking model."""

    num_models: Count
    num_cells: list[Count]
    action_scale: Literal["unit", "learned"]
    clamp_actions: bool
    standardize: bool

    @property
    def networks(self) -> dict[str, Any]:
        """Keyword arguments of :meth:`~torchrl_recall.BacktrackingModel.from_specs`."""
        return {key: getattr(self, key) for key in ModelConfig.model_fields}


class BacktrackingConfig(ModelConfig):
    """The backtracking model and its data."""

    bootstrap: bool
    joint: bool
    num_updates: CountOrZero
    batch_size: Count
    lr: Positive
    num_trajectories: Count
    return_threshold: Number | None
    buffer_size: Count
    state_fraction: Fraction
    state_predictor_data: Literal["all", "top"]


class ExperienceConfig(Group):
    """Buffer of experience."""

    size: Count


class PolicyConfig(Group):
    """Policy and critic."""

    num_cells: list[Count]


class GAEConfig(Group):
    """Generalised advantage estimation."""

    gamma: Fraction
    lmbda: Fraction


class TRPOConfig(Group):
    """Settings of TRPO and its critic."""

    max_kl: Positive
    damping: AtLeastZero
    cg_iterations: Count
    line_search_steps: Count
    line_search_shrink: Annotated[Positive, Field(lt=1)]
    fisher_subsampling: Count
    num_epochs: Count
    batch_size: Count
