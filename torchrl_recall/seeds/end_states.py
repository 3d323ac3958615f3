"""End states of many seeds in one process (Alg. 1, line 10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.seeds.recent_successes import RecentSuccesses
from torchrl_recall.traces.high_value_states import HighValueStates

__all__ = ["SuccessStates", "VisitedStates"]


class SuccessStates(HighValueStates):
    """Source of states in which successes ended, one for each seed.

    A seed without a success gets a visited state, so that a trace can be generated. Such a trace
    should not be imitated.

    Args:
        successes: store of the successes of all seeds.
    """

    def __init__(self, successes: RecentSuccesses) -> None:
        super().__init__(successes.num_seeds)
        self.successes = successes

    def forward(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        """Draw one end state for each seed.

        Args:
            tensordict: ignored.

        Returns:
            End states of shape ``[num_seeds]``.
        """
        successes = self.successes
        ends = successes.sample(1)["next", "observation"][:, 0, -1]
        states = torch.where(successes.seen, ends, successes.visited.int().argmax(1))
        return TensorDict({"observation": states}, [successes.num_seeds])


class VisitedStates(HighValueStates):
    r"""Source of the visited state of highest value, one for each seed (Alg. 2, line 6).

    .. math:: \arg\max_{s \text{ visited}} V(s)

    Args:
        values: function that returns V(s), shape ``[num_seeds, num_states]``. It is called each
            time.
        successes: store that knows which states each seed has visited.
    """

    def __init__(self, values: Callable[[], Tensor], successes: RecentSuccesses) -> None:
        super().__init__(successes.num_seeds)
        self.values, self.successes = values, successes

    def forward(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        """Choose one end state for each seed.

        Args:
            tensordict: ignored.

        Returns:
            End states of shape ``[num_seeds]``.
        """
        values = self.values().nan_to_num(nan=-torch.inf)  # NaN is never the best
        states = values.masked_fill(~self.successes.visited, -torch.inf).argmax(1)
        return TensorDict({"observation": states}, [self.successes.num_seeds])
