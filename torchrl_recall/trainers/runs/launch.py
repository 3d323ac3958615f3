"""How every recipe starts and ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from omegaconf import DictConfig

from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.schema.validation import validate

__all__ = ["launch"]

T = TypeVar("T")


def launch(train: Callable[[T], int], cfg: DictConfig, schema: type[T]) -> int | str:
    """Check the configuration and train.

    Args:
        train: the recipe.
        cfg: what Hydra composed.
        schema: the recipe's dataclass.

    Returns:
        The exit status, or a line that says what the user can mend.
    """
    try:
        return train(validate(cfg, schema))
    except (ConfigError, CheckpointError, FloatingPointError) as error:
        return f"{type(error).__name__}: {error}"
