"""The job that this process runs, according to Hydra."""

from __future__ import annotations

import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

__all__ = ["is_alone", "launcher", "overrides", "words_of"]


def launcher() -> str | None:
    """Return the name of the launcher that runs this job of a sweep; None outside of a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return HydraConfig.get().runtime.choices["hydra/launcher"]


def is_alone() -> bool:
    """Return whether the command itself runs the job, instead of a worker process."""
    return launcher() in (None, "basic")


def overrides() -> list[str]:
    """Return the overrides of the command line; in a sweep, those of the job."""
    if launcher() is None:
        return sys.argv[1:]
    return words_of(HydraConfig.get().overrides.task)


def words_of(overrides: Any) -> list[str]:
    """Return overrides as they were written, without replacing interpolations."""
    words = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(words, list)
    return words
