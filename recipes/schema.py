"""The typed configuration of the recipes, and what makes one valid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["ConfigError", "SACRecallConfig", "validate"]


class ConfigError(ValueError):
    """A configuration that cannot be run; its message names the key and the cure."""


@dataclass
class EnvConfig:
    """The task."""

    name: str
    trace_length: int


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
class SACConfig:
    """The host."""

    num_cells: list[int]
    gamma: float
    target_update_tau: float
    alpha_init: float
    num_updates: int


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
class RecallConfig:
    """Traces and their imitation."""

    name: str
    method: str
    interval: int
    num_updates: int
    batch_size: int
    lr: float
    num_high_value_states: int
    num_traces: int
    trace_length: int
    temperature: float | None
    state_batch_size: int
    max_deviation: float | None
    loop_erasure: float | None
    advantage_gate: bool
    anneal_frames: int | None


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
class SACRecallConfig:
    """Configuration of ``recipes/sac_recall.py``."""

    seed: int
    device: str
    torch_threads: int
    matmul_precision: str
    compile: bool | None
    profile: bool
    run_dir: str
    resume: str
    env: EnvConfig
    collector: CollectorConfig
    replay_buffer: ReplayBufferConfig
    sac: SACConfig
    optim: OptimConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    recall: RecallConfig
    backtracking: BacktrackingConfig
    table_2: dict[str, int] = field(default_factory=dict)


_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "matmul_precision": ("highest", "high", "medium"),
    "resume": ("never", "auto"),
    "logger.backend": ("auto", "none", "tensorboard", "wandb", "mlflow", "trackio"),
    "recall.method": ("recall", "none", "self_imitation"),
    "backtracking.state_predictor_data": ("all", "top"),
    "backtracking.action_scale": ("unit", "learned"),
}
_AT_LEAST_ZERO = {
    "seed",
    "collector.init_random_frames",
    "checkpoint.interval",
    "recall.num_updates",
    "recall.loop_erasure",
    "backtracking.num_updates",
}
_ANY_NUMBER = {"backtracking.return_threshold"}
_AT_MOST_ONE = {"sac.gamma", "sac.target_update_tau", "backtracking.state_fraction"}


def validate(cfg: DictConfig) -> SACRecallConfig:
    """Check keys, types and ranges, and return the typed configuration.

    Args:
        cfg: what Hydra composed.

    Returns:
        The same values as dataclasses.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, is NaN, out of its
            range or not among the choices.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(SACRecallConfig), cfg)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"configuration key {key!r}: {reason}") from error
    assert isinstance(config, SACRecallConfig)
    for key, value in _leaves(OmegaConf.to_container(OmegaConf.structured(config))):
        _check(key, value)
    if config.collector.init_random_frames >= config.collector.total_frames:
        raise ConfigError(
            f"collector.init_random_frames={config.collector.init_random_frames} leaves nothing "
            f"to learn from within collector.total_frames={config.collector.total_frames}."
        )
    if config.collector.frames_per_batch % config.collector.num_envs:
        raise ConfigError(
            f"collector.frames_per_batch={config.collector.frames_per_batch} frames cannot be "
            f"shared by collector.num_envs={config.collector.num_envs} environments; make it a "
            "multiple."
        )
    for key in ("replay_buffer.batch_size", "recall.batch_size", "backtracking.batch_size"):
        batch_size = OmegaConf.select(cfg, key)
        if config.replay_buffer.size < batch_size:
            raise ConfigError(
                f"replay_buffer.size={config.replay_buffer.size} is smaller than "
                f"{key}={batch_size}; raise one or lower the other."
            )
    return config


def _leaves(node, prefix=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, prefix)
    else:
        yield prefix, node


def _check(key: str, value) -> None:
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ConfigError(f"{key} must be one of {', '.join(_CHOICES[key])}; got {value!r}.")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{key} is empty.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}.")
    if key in _ANY_NUMBER:
        return
    if value < 0 or (value == 0 and key not in _AT_LEAST_ZERO):
        least = "zero or more" if key in _AT_LEAST_ZERO else "positive"
        raise ConfigError(f"{key} must be {least}, got {value}.")
    if key in _AT_MOST_ONE and value > 1:
        raise ConfigError(f"{key} must be at most 1, got {value}.")
