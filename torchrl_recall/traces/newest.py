"""Stores of what the newest round of traces gave."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from torchrl_recall.devices import device_of_data

__all__ = ["FreshTransitions", "NewestTraces"]


class FreshTransitions:
    """Store of the transitions of the newest round of traces.

    Transitions of earlier rounds are dropped, because an older model and critic made them. If
    filters keep a tenth of a round, a tenth of the draws give transitions. So what is cut weighs
    nothing, and the few kept transitions are not learned over and over.

    Args:
        device: device of restored transitions; checkpoints are read onto the CPU.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.traces.newest import FreshTransitions
        >>> fresh = FreshTransitions()
        >>> fresh.sample(2) is None
        True
        >>> fresh.replace(TensorDict({"action": torch.ones(5, 1)}, [5]))
        >>> fresh.sample(2)["action"].flatten()
        tensor([1., 1.])
        >>> fresh.replace(TensorDict({"action": torch.ones(5, 1)}, [5]), share=0.5)
        >>> [fresh.sample(2) is None for _ in range(4)]
        [True, False, True, False]
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.rows: TensorDictBase | None = None
        self.device = device
        self.share, self._due = 1.0, 0.0

    def replace(self, rows: TensorDictBase, share: float = 1.0) -> None:
        """Replace the stored transitions by those of a new round, if there are any.

        Args:
            rows: transitions of shape ``[num]``.
            share: share of the round that filters kept, which is that of draws that give rows.
        """
        self.share = share
        if len(rows):
            self.rows = rows

    def sample(self, num: int) -> TensorDictBase | None:
        """Draw stored transitions.

        Args:
            num: number of transitions, drawn with replacement.

        Returns:
            Transitions of shape ``[num]``; None before the first round, and for the share of draws
            that filters cut.
        """
        if self.rows is None:
            return None
        self._due += self.share
        if self._due < 1:
            return None
        self._due -= 1
        device = device_of_data(self.rows)
        return self.rows[torch.randint(len(self.rows), (num,), device=device)]

    def state_dict(self) -> dict:
        """Return the transitions, and what decides which draws give some."""
        rows = None if self.rows is None else self.rows.clone()
        return {"rows": rows, "share": self.share, "due": self._due}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        rows = state["rows"]
        self.rows = rows if rows is None or self.device is None else rows.to(self.device)
        self.share, self._due = state["share"], state["due"]


class NewestTraces(FreshTransitions):
    """Store of a few of the newest traces, as they are before any filter.

    Args:
        device: device of restored traces; checkpoints are read onto the CPU.

    Attributes:
        num: largest number of stored traces; they are evenly spaced over end states.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.traces.newest import NewestTraces
        >>> newest = NewestTraces()
        >>> newest.replace(TensorDict({"action": torch.ones(100, 5, 1)}, [100, 5]))
        >>> newest.rows.shape
        torch.Size([25, 5])
    """

    def __init__(self, device: torch.device | None = None) -> None:
        super().__init__(device)
        self.num = 32

    def replace(self, rows: TensorDictBase, share: float = 1.0) -> None:
        """Replace the stored traces by some of a new round.

        Args:
            rows: traces of shape ``[num_traces, trace_length]``.
            share: see :class:`FreshTransitions`.
        """
        super().replace(rows[:: max(1, -(-len(rows) // self.num))].clone(), share)
