"""What makes a configuration valid."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.sac import SACRecallConfig

__all__ = ["validate"]


class _Config(Protocol):
    METHODS: ClassVar
    recall: Any

    def check(self) -> None: ...


T = TypeVar("T", bound=_Config)


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
    _check_choice("recall.method", config.recall.method, config.METHODS)
    config.check()
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
