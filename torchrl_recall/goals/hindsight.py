"""Goals of recall traces, for a goal-conditioned policy to imitate them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from torchrl_recall.checks import next_key, require

__all__ = ["HindsightGoal"]


class HindsightGoal(TensorDictModuleBase):
    """Transform that sets the desired goal of each recall trace to the goal it reaches.

    A recall trace shows how to reach its end state. The goals of the experience from which the
    model learned do not matter. The relabelling follows Andrychowicz et al., *Hindsight Experience
    Replay*, 2017.

    Args:
        goal_of_state: function that maps states ``[num_traces, state_dim]`` to goals
            ``[num_traces, goal_dim]``; None if states and goals are identical.

    Keyword Args:
        goal_key: key under which the goal is written.
        observation_key: key of the states.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall import HindsightGoal
        >>> path = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> traces = TensorDict(
        ...     {"observation": path[:, :-1], "next": {"observation": path[:, 1:]}}, [1, 2]
        ... )
        >>> HindsightGoal()(traces)["desired_goal"]
        tensor([[[3.],
                 [3.]]])
    """

    def __init__(
        self,
        goal_of_state: Callable[[Tensor], Tensor] | None = None,
        *,
        goal_key: NestedKey = "desired_goal",
        observation_key: NestedKey = "observation",
    ) -> None:
        super().__init__()
        self.goal_of_state = goal_of_state
        self.in_keys = [next_key(observation_key)]
        self.out_keys = [goal_key]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the goals of traces.

        Args:
            tensordict: traces of shape ``[num_traces, trace_length]``, environment units.

        Returns:
            The same tensordict with the goals.

        Raises:
            KeyError: the next state is missing.
            ValueError: the traces have another number of dimensions.
        """
        if tensordict.ndim != 2:
            raise ValueError(
                "HindsightGoal needs traces of shape [num_traces, trace_length], got "
                f"{tuple(tensordict.shape)}."
            )
        cure = "Rename the state with observation_key=."
        end = require(tensordict, self.in_keys[0], "HindsightGoal", cure)[:, -1]
        goal = end if self.goal_of_state is None else self.goal_of_state(end)
        steps = tensordict.shape[1]
        goals = goal.unsqueeze(1).expand(-1, steps, *goal.shape[1:])
        return tensordict.set(self.out_keys[0], goals.clone())
