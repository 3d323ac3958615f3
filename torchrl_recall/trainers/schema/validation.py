"""Validation of a configuration that Hydra composed."""

from __future__ import annotations

from typing import TypeVar

from omegaconf import DictConfig, ListConfig
from pydantic import BaseModel, ValidationError

from torchrl_recall.trainers.schema.faults import faults_of
from torchrl_recall.trainers.schema.group import ConfigError
from torchrl_recall.trainers.schema.interpolation import drop_echoes, resolve

__all__ = ["validate"]

T = TypeVar("T", bound=BaseModel)


def validate(cfg: DictConfig | ListConfig, schema: type[T]) -> T:
    """Check keys, types and ranges, and return the typed configuration.

    Args:
        cfg: configuration that Hydra composed.
        schema: class of the recipe's configuration.

    Returns:
        The same values as an instance of ``schema``.

    Raises:
        ConfigError: keys are unknown or missing, or values are of a wrong type, not finite, out of
            range, not among the choices, or in conflict. The message names all of them.
    """
    values, faults, texts = resolve(cfg)
    try:
        config = schema.model_validate(values)
    except ValidationError as error:
        faults = faults_of(error, values, schema) | faults
    else:
        if not faults:
            return config
    lines = drop_echoes(faults, texts)
    if len(lines) == 1:
        raise ConfigError(lines[0])
    raise ConfigError("\n  ".join([f"{len(lines)} faults in the configuration:", *lines]))
