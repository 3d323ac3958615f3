"""The host alone: a control."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

__all__ = ["NoRecall"]


class NoRecall:
    """Control without recall: the host learns alone, and recall draws no random number.

    Examples:
        >>> from torchrl_recall import NoRecall
        >>> NoRecall().step()
        {}
    """

    def extend(self, data: TensorDictBase) -> None:
        """Do nothing with new experience.

        Args:
            data: ignored.
        """

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Return no metrics.

        Args:
            replay_buffer: ignored.
        """
        return {}

    def transitions(self, num: int) -> None:
        """Return None.

        Args:
            num: ignored.
        """

    def drop_unfinished(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore nothing."""
