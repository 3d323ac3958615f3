"""Base of collectors whose episodes are not saved, and seeds of their environments."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from tensordict import TensorDictBase

from torchrl_recall.trainers.tasks.step_collector import RandomPhase

__all__ = ["NewEpisodes", "env_seeds"]


def env_seeds(seed: int, frames: int, num_envs: int) -> list[int]:
    """Return a seed for each environment, which differs between runs and after a resumption.

    Args:
        seed: seed of the run.
        frames: number of frames at which the environments begin.
        num_envs: number of environments.

    Returns:
        The seeds.
    """
    return np.random.SeedSequence([seed, frames]).generate_state(num_envs).tolist()


class NewEpisodes(ABC):
    """Base of collectors that begin new episodes when a run is resumed, with a warning."""

    def __iter__(self) -> Iterator[TensorDictBase]:
        while (data := self.collect()) is not None:
            yield data

    @abstractmethod
    def collect(self) -> TensorDictBase | None:
        """Collect a batch of shape ``[num_envs, time]``; None at the end."""

    @abstractmethod
    def begin(self, frames: int) -> None:
        """Begin new episodes after a number of frames, with new random numbers."""

    @abstractmethod
    def shutdown(self) -> None:
        """Close the environments, and end the processes."""

    def state_dict(self) -> dict:
        """Return an empty state, because episodes are not saved."""
        return {}

    def more_state(self) -> dict[str, RandomPhase]:
        """Return no parts."""
        return {}

    def load_state_dict(self, state: dict | None, frames: int) -> bool:
        """Set the number of frames, and begin new episodes.

        Returns:
            False, because episodes do not continue.
        """
        self.begin(frames)
        warnings.warn(
            "the state of parallel environments is not saved: the resumed run starts new episodes "
            "and is not bitwise the uninterrupted one.",
            stacklevel=2,
        )
        return False
