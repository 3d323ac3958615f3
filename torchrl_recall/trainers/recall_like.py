"""Define what recipes and trainers ask of recall, and of its controls."""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

__all__ = ["RecallLike"]


class RecallLike(Protocol):
    """Interface of recall and its controls, as a loop sees them."""

    def extend(self, data: TensorDictBase) -> None:
        """Offer new experience (Alg. 1, line 5)."""

    def step(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Learn, as often as a round is due (Alg. 1, lines 8 to 13)."""

    def transitions(self, num: int) -> TensorDictBase | None:
        """Draw transitions of traces for the host's critic; None where there are none."""

    def drop_unfinished(self) -> None:
        """Forget open trajectories."""

    def state_dict(self) -> dict:
        """Return the state."""

    def load_state_dict(self, state: dict, /) -> None:
        """Restore :meth:`state_dict`."""
