"""Start and end of every recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pydantic import BaseModel

from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.runs.run import Run
from torchrl_recall.trainers.schema import ConfigError, validate

__all__ = ["launch"]

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def launch(train: Callable[[ConfigT], Run], cfg: DictConfig, schema: type[ConfigT]) -> float | None:
    """Check the configuration and train; a user's mistakes end in a line each, without a traceback.

    In a sweep (``-m``) a mistake is raised instead, so that the other jobs run and the sweep ends
    with a status that is not zero.

    Args:
        train: the recipe; returns its run.
        cfg: what Hydra composed.
        schema: the recipe's configuration.

    Returns:
        The final return, which a sweeper may maximise; None without an evaluation.

    Raises:
        SystemExit: a signal stopped the run, or, outside of a sweep, the user made a mistake.
    """
    try:
        with _memory_named():
            run = train(validate(cfg, schema))
    except (ConfigError, CheckpointError, FloatingPointError) as error:
        if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(f"{type(error).__name__}: {error}")
    if run.status:
        sys.exit(run.status)
    return run.final_return


@contextmanager
def _memory_named() -> Iterator[None]:
    """Say which values decide the memory of a run that has too little."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise ConfigError(
            f"the run needs more memory than there is ({str(error).splitlines()[0][:200]}). Lower "
            "replay_buffer.size, backtracking.buffer_size, num_cells, batch sizes or torch_threads."
        ) from error
