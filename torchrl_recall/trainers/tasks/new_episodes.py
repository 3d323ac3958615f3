"""Collectors whose episodes are not saved, and the seeds of their environments."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from tensordict import TensorDictBase

from torchrl_recall.trainers.tasks.step_collector import RandomPhase

__all__ = ["NewEpisodes", "env_seeds"]


def env_seeds(seed: int, frames: int, num_envs: int) -> list[int]:
    """Return a seed for each environment; no two runs, and no resumed one, share any.

    Args:
        seed: of the run.
        frames: at which the environments begin.
        num_envs: how many.
    """
    return np.random.SeedSequence([seed, frames]).generate_state(num_envs).tolist()


class NewEpisodes(ABC):
    """A collector that begins new episodes when a run is resumed, and says so."""

    def __iter__(self) -> Iterator[TensorDictBase]:
        while (data := self.collect()) is not None:
            yield data

    @abstractmethod
    def collect(self) -> TensorDictBase | None:
        """Take a batch ``[num_envs, time]``; None at the end."""

    @abstractmethod
    def begin(self, frames: int) -> None:
        """Begin new episodes after some frames, with other random numbers than the first."""

    @abstractmethod
    def shutdown(self) -> None:
        """Close the environments, and end the processes."""

    def state_dict(self) -> dict:
        """Return nothing: the episodes are not saved."""
        return {}

    def more_state(self) -> dict[str, RandomPhase]:
        """Name nothing."""
        return {}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Count the frames already taken; new episodes begin.

        Returns:
            False.
        """
        self.begin(frames)
        warnings.warn(
            "the state of parallel environments is not saved: the resumed run starts new episodes "
            "and is not bitwise the uninterrupted one.",
            stacklevel=2,
        )
        return False
