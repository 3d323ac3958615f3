"""The typed configuration of the recipes, and what makes one valid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = [
    "A2CRecallConfig",
    "ConfigError",
    "GoalGANRecallConfig",
    "OnPolicyRecallConfig",
    "PPORecallConfig",
    "SACRecallConfig",
    "TRPORecallConfig",
    "validate",
]


T = TypeVar("T")


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
class GoalTracesConfig(RecallConfig):
    """And where they may lead."""

    support_radius: float | None


@dataclass
class SACTracesConfig(RoundsConfig):
    """What a critic of state-action values allows besides."""

    temperature: float | None
    advantage_gate: bool


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
    recall: SACTracesConfig
    backtracking: BacktrackingConfig
    table_2: dict[str, int] = field(default_factory=dict)


@dataclass
class OnPolicyCollectorConfig:
    """Collection."""

    total_frames: int
    num_envs: int
    frames_per_batch: int


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
class OnPolicyRecallConfig:
    """What ``recipes/trpo_recall.py`` and ``recipes/ppo_recall.py`` share."""

    seed: int
    device: str
    torch_threads: int
    compile: bool | None
    run_dir: str
    resume: str
    env: EnvConfig
    collector: OnPolicyCollectorConfig
    replay_buffer: ExperienceConfig
    policy: PolicyConfig
    gae: GAEConfig
    optim: OptimConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    logger: LoggerConfig
    recall: RoundsConfig
    backtracking: BacktrackingConfig
    table_1: dict[str, int]


@dataclass
class TRPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/trpo_recall.py``."""

    trpo: TRPOConfig


@dataclass
class PPORecallConfig(OnPolicyRecallConfig):
    """Configuration of ``recipes/ppo_recall.py``."""

    ppo: PPOConfig


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
class GoalGANRecallConfig:
    """Configuration of ``recipes/goal_gan_recall.py``."""

    seed: int
    device: str
    torch_threads: int
    compile: bool | None
    run_dir: str
    resume: str
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
    checkpoint: CheckpointConfig
    logger: LoggerConfig
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


@dataclass
class FourRoomsConfig:
    """The four-room task."""

    size: int
    start: Any
    goal: list[int] | None
    slip: float
    max_steps: int | None


@dataclass
class A2CCollectorConfig:
    """Collection; frames are counted for each seed."""

    total_frames: int
    num_envs: int
    frames_per_env: int


@dataclass
class A2CConfig:
    """The host."""

    num_cells: int
    gamma: float
    lmbda: float
    entropy_coeff: float
    critic_coeff: float
    max_grad_norm: float


@dataclass
class A2CLoggerConfig:
    """Logging beside returns.csv."""

    backend: str
    interval: int


@dataclass
class A2CEvalConfig:
    """Exact evaluation."""

    interval: int
    target: float
    patience: int
    stop_at_target: bool


@dataclass
class FourRoomsRecallConfig:
    """Traces and their imitation."""

    name: str
    method: str
    interval: int
    num_updates: int
    batch_size: int
    lr: float
    num_traces: int
    trace_length: int
    high_value_states: str
    gate: bool
    loop_erasure: bool
    min_probability: float | None
    anneal_frames: int | None


@dataclass
class FourRoomsBacktrackingConfig:
    """The backtracking model and its data."""

    dynamics: str
    num_updates: int
    batch_size: int
    state_batch_size: int
    lr: float
    state_lr: float
    smoothing: float
    num_cells: int
    num_trajectories: int
    trajectory_length: int
    buffer_size: int


@dataclass
class PrioritizedReplayConfig:
    """Prioritised replay."""

    size: int
    batch_size: int
    alpha: float
    beta: float
    interval: int
    num_updates: int


@dataclass
class Table3Config:
    """What Table 3 gives for a size."""

    batch_size: int
    alpha: float


@dataclass
class A2CRecallConfig:
    """Configuration of ``recipes/a2c_recall.py``."""

    seeds: list[int]
    torch_threads: int
    run_dir: str
    resume: str
    env: FourRoomsConfig
    collector: A2CCollectorConfig
    a2c: A2CConfig
    optim: OptimConfig
    eval: A2CEvalConfig
    checkpoint: CheckpointConfig
    logger: A2CLoggerConfig
    recall: FourRoomsRecallConfig
    backtracking: FourRoomsBacktrackingConfig
    prioritized_replay: PrioritizedReplayConfig
    table_3: dict[str, Table3Config]


_CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "matmul_precision": ("highest", "high", "medium"),
    "resume": ("never", "auto"),
    "logger.backend": ("auto", "none", "tensorboard", "wandb", "mlflow", "trackio"),
    "host": ("trpo", "hindsight_sac"),
    "env.maze": ("free", "u"),
    "recall.high_value_states": ("rewarded", "value"),
    "backtracking.dynamics": ("exact", "learned"),
    "backtracking.state_predictor_data": ("all", "top"),
    "backtracking.action_scale": ("unit", "learned"),
}
_METHODS: dict[type, tuple[str, ...]] = {
    SACRecallConfig: ("recall", "none", "self_imitation"),
    OnPolicyRecallConfig: ("recall", "none", "self_imitation", "forward_model"),
    GoalGANRecallConfig: ("recall", "none", "self_imitation"),
    A2CRecallConfig: ("recall", "none", "self_imitation", "prioritized_replay"),
}
_AT_LEAST_ZERO = {
    "seed",
    "seeds",
    "env.slip",
    "env.start",
    "env.goal",
    "a2c.entropy_coeff",
    "ppo.entropy_coeff",
    "trpo.damping",
    "goal_gan.num_old",
    "goal_gan.min_success",
    "goal_gan.goal_noise",
    "hindsight.ratio",
    "prioritized_replay.beta",
    "collector.init_random_frames",
    "checkpoint.interval",
    "recall.num_updates",
    "recall.loop_erasure",
    "backtracking.num_updates",
    "backtracking.smoothing",
}
_ANY_NUMBER = {"backtracking.return_threshold"}
_AT_MOST_ONE = {
    "backtracking.smoothing",
    "a2c.gamma",
    "a2c.lmbda",
    "gae.gamma",
    "gae.lmbda",
    "ppo.clip_epsilon",
    "eval.target",
    "recall.min_probability",
    "goal_gan.min_success",
    "goal_gan.max_success",
    "hindsight.ratio",
    "sac.gamma",
    "sac.target_update_tau",
    "backtracking.state_fraction",
}


def validate(cfg: DictConfig, schema: type[T] = SACRecallConfig) -> T:  # type: ignore[assignment]
    """Check keys, types and ranges, and return the typed configuration.

    Args:
        cfg: what Hydra composed.
        schema: the recipe's dataclass.

    Returns:
        The same values as dataclasses.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, is NaN, out of its
            range or not among the choices.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), cfg)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0]
        raise ConfigError(f"configuration key {key!r}: {reason}") from error
    assert isinstance(config, schema)
    for key, value in _leaves(OmegaConf.to_container(OmegaConf.structured(config))):
        _check(key, value)
    for kind, methods in _METHODS.items():
        if isinstance(config, kind):
            _check_choice("recall.method", config.recall.method, methods)  # type: ignore[attr-defined]
    if isinstance(config, SACRecallConfig):
        _check_sac(config)
    if isinstance(config, OnPolicyRecallConfig):
        _check_on_policy(config)
    if isinstance(config, A2CRecallConfig):
        _check_a2c(config)
    if isinstance(config, GoalGANRecallConfig):
        _check_goal_gan(config)
    if isinstance(config, TRPORecallConfig | GoalGANRecallConfig):
        _check_trpo(config.trpo)
    return config


def _check_sac(config: SACRecallConfig) -> None:
    if config.collector.init_random_frames >= config.collector.total_frames:
        raise ConfigError(
            f"collector.init_random_frames={config.collector.init_random_frames} leaves nothing "
            f"to learn from within collector.total_frames={config.collector.total_frames}."
        )
    _check_envs(config.collector)
    for key, batch_size in (
        ("replay_buffer.batch_size", config.replay_buffer.batch_size),
        ("recall.batch_size", config.recall.batch_size),
        ("backtracking.batch_size", config.backtracking.batch_size),
    ):
        if config.replay_buffer.size < batch_size:
            raise ConfigError(
                f"replay_buffer.size={config.replay_buffer.size} is smaller than "
                f"{key}={batch_size}; raise one or lower the other."
            )


def _check_envs(collector: CollectorConfig | OnPolicyCollectorConfig) -> None:
    if collector.frames_per_batch % collector.num_envs:
        raise ConfigError(
            f"collector.frames_per_batch={collector.frames_per_batch} frames cannot be shared by "
            f"collector.num_envs={collector.num_envs} environments; make it a multiple."
        )


def _check_on_policy(config: OnPolicyRecallConfig) -> None:
    _check_envs(config.collector)
    batch = config.collector.frames_per_batch
    if config.collector.total_frames % batch:
        raise ConfigError(
            f"collector.total_frames={config.collector.total_frames} must be a multiple of "
            f"collector.frames_per_batch={batch}, the frames between two updates."
        )
    for name in ("trpo", "ppo"):
        host = getattr(config, name, None)
        if host is not None and batch % host.batch_size:
            raise ConfigError(
                f"{name}.batch_size={host.batch_size} must divide "
                f"collector.frames_per_batch={batch}, or an epoch ends in a smaller batch."
            )
    if config.replay_buffer.size < batch:
        raise ConfigError(
            f"replay_buffer.size={config.replay_buffer.size} is smaller than one batch, "
            f"collector.frames_per_batch={batch}."
        )


def _check_a2c(config: A2CRecallConfig) -> None:
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds={config.seeds} must name one seed or several different ones.")
    batch = config.collector.num_envs * config.collector.frames_per_env
    for key, interval in (
        ("eval.interval", config.eval.interval),
        ("logger.interval", config.logger.interval),
        ("collector.total_frames", config.collector.total_frames),
    ):
        if interval % batch:
            raise ConfigError(
                f"{key}={interval} must be a multiple of the {batch} frames between updates, "
                "collector.num_envs * collector.frames_per_env."
            )
    if config.logger.interval % config.eval.interval:
        raise ConfigError(
            f"logger.interval={config.logger.interval} must be a multiple of "
            f"eval.interval={config.eval.interval}."
        )
    replay = config.prioritized_replay
    if replay.size < replay.batch_size:
        raise ConfigError(
            f"prioritized_replay.size={replay.size} is smaller than its batch_size="
            f"{replay.batch_size}; raise one or lower the other."
        )


def _check_trpo(trpo: TRPOConfig) -> None:
    if trpo.line_search_shrink >= 1:
        raise ConfigError(f"trpo.line_search_shrink={trpo.line_search_shrink} must be below 1.")


def _check_goal_gan(config: GoalGANRecallConfig) -> None:
    if config.goal_gan.min_success >= config.goal_gan.max_success:
        raise ConfigError(
            f"goal_gan.min_success={config.goal_gan.min_success} must be below "
            f"goal_gan.max_success={config.goal_gan.max_success}."
        )
    if config.host == "hindsight_sac" and config.recall.method != "none":
        raise ConfigError(
            f"host=hindsight_sac is a control of its own and takes recall=none, not "
            f"recall={config.recall.name}; recall goes with host=trpo."
        )


def _leaves(node, prefix=""):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, prefix)
    else:
        yield prefix, node


def _check_choice(key: str, value, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(choices)}; got {value!r}.")


def _check(key: str, value) -> None:
    if key in _CHOICES and value is not None:  # null, where the type allows it
        _check_choice(key, value, _CHOICES[key])
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
