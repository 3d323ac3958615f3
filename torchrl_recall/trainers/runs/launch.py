"""Start and end of every recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from omegaconf import DictConfig
from pydantic import BaseModel

from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.schema import ConfigError, validate

__all__ = ["launch"]

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def launch(train: Callable[[ConfigT], int], cfg: DictConfig, schema: type[ConfigT]) -> None:
    """Check the configuration and train; a user's mistake ends in one line, not in a traceback.

    Args:
        train: the recipe; returns the exit status.
        cfg: what Hydra composed.
        schema: the recipe's configuration.

    Raises:
        SystemExit: with the status, or with a line that says what the user can mend.
    """
    try:
        sys.exit(train(validate(cfg, schema)))
    except (ConfigError, CheckpointError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
