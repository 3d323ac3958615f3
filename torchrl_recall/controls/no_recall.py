"""The host alone: a control."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

__all__ = ["NoRecall"]


class NoRecall:
    """The host alone: no part of recall is built, and no random number is drawn for it.

    Examples:
        >>> from torchrl_recall import NoRecall
        >>> NoRecall().step()
        {}
    """

    def extend(self, data: TensorDictBase) -> None:
        """Do nothing with new experience."""

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Return no metrics."""
        return {}

    def transitions(self, num: int) -> None:
        """Return nothing."""

    def drop_unfinished(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore nothing."""
