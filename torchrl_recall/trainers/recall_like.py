"""Interface of recall and its controls, as recipes and trainers use them."""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

__all__ = ["RecallLike"]


class RecallLike(Protocol):
    """Interface of recall and its controls, as a loop sees them."""

    def extend(self, data: TensorDictBase) -> None:
        """Offer new experience (Alg. 1, line 5).

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
        """

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Run the rounds that are due (Alg. 1, lines 8 to 13).

        Args:
            replay_buffer: all experience.

        Returns:
            Metrics of the last round; empty if no round was due.
        """

    def transitions(self, num: int) -> TensorDictBase | None:
        """Draw transitions of traces for the host's critic.

        Args:
            num: number of transitions, drawn with replacement.

        Returns:
            Transitions of shape ``[num]``; None if there are none.
        """

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories."""

    def state_dict(self) -> dict:
        """Return the state."""

    def load_state_dict(self, state: dict, /) -> None:
        """Restore :meth:`state_dict`."""
