"""What several recipes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "BacktrackingConfig",
    "CheckpointConfig",
    "ConfigError",
    "EnvConfig",
    "EvalConfig",
    "ExperienceConfig",
    "GAEConfig",
    "LoggerConfig",
    "OptimConfig",
    "PolicyConfig",
    "RecallConfig",
    "RoundsConfig",
    "RunConfig",
    "SACConfig",
    "TRPOConfig",
    "check_envs",
]


class ConfigError(ValueError):
    """A configuration that cannot be run; its message names the key and the cure."""


@dataclass
class OptimConfig:
    """The host's optimiser."""

    lr: float


@dataclass
class EvalConfig:
    """Evaluation."""

    interval: int
    num_episodes: int


@dataclass
class CheckpointConfig:
    """Checkpoints."""

    interval: int
    keep: int


@dataclass
class LoggerConfig:
    """Logging beside metrics.csv."""

    backend: str


@dataclass
class RunConfig:
    """Of any recipe that trains one seed on a device."""

    seed: int
    device: str
    torch_threads: int
    compile: bool | None
    run_dir: str
    resume: str
    checkpoint: CheckpointConfig
    logger: LoggerConfig


@dataclass
class EnvConfig:
    """The task."""

    name: str
    trace_length: int


@dataclass
class SACConfig:
    """The host."""

    num_cells: list[int]
    gamma: float
    target_update_tau: float
    alpha_init: float
    num_updates: int


@dataclass
class RecallConfig:
    """Traces and their imitation."""

    name: str
    method: str
    num_updates: int
    batch_size: int
    lr: float
    max_kl: float | None
    num_high_value_states: int
    num_traces: int
    trace_length: int
    state_batch_size: int
    max_deviation: float | None
    loop_erasure: float | None
    anneal_frames: int | None


@dataclass
class RoundsConfig(RecallConfig):
    """And how often."""

    interval: int


@dataclass
class BacktrackingConfig:
    """The backtracking model and its data."""

    num_updates: int
    batch_size: int
    lr: float
    num_cells: list[int]
    num_trajectories: int
    return_threshold: float | None
    buffer_size: int
    state_fraction: float
    state_predictor_data: str
    action_scale: str
    clamp_actions: bool


@dataclass
class ExperienceConfig:
    """Room for experience."""

    size: int


@dataclass
class PolicyConfig:
    """Policy and critic."""

    num_cells: list[int]


@dataclass
class GAEConfig:
    """Generalised advantage estimation."""

    gamma: float
    lmbda: float


@dataclass
class TRPOConfig:
    """The host."""

    max_kl: float
    damping: float
    cg_iterations: int
    line_search_steps: int
    line_search_shrink: float
    fisher_subsampling: int
    num_epochs: int
    batch_size: int

    def check(self) -> None:
        """What holds of its values besides their ranges."""
        if self.line_search_shrink >= 1:
            raise ConfigError(f"trpo.line_search_shrink={self.line_search_shrink} must be below 1.")


class _Collector(Protocol):
    frames_per_batch: int
    num_envs: int


def check_envs(collector: _Collector) -> None:
    """Refuse a batch that environments cannot share."""
    if collector.frames_per_batch % collector.num_envs:
        raise ConfigError(
            f"collector.frames_per_batch={collector.frames_per_batch} frames cannot be shared by "
            f"collector.num_envs={collector.num_envs} environments; make it a multiple."
        )
