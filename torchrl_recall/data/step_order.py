"""The order of steps, as their states and counts tell it."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.checks import next_key, unraveled

__all__ = ["StepOrder", "same_states"]

_COUNTS = "step_count", "elapsed_steps"


class StepOrder:
    """Reader of which steps begin an episode, follow the one before, or end a trajectory.

    A step follows from the one before if s_t equals the preceding s_{t+1}, and if neither
    ``step_count`` nor ``is_init`` says otherwise.

    Args:
        done_key: key that marks the end of a trajectory, including ``"next"``.
        observation_key: key of s_t; s_{t+1} is the same key under ``"next"``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.step_order import StepOrder
        >>> states = torch.tensor([[0.0], [1.0], [5.0]])
        >>> steps = TensorDict({"observation": states, "next": {"observation": states + 1}}, [3])
        >>> StepOrder(("next", "done")).follows(steps.unsqueeze(0))
        tensor([[ True, False]])
    """

    def __init__(self, done_key: NestedKey, observation_key: NestedKey = "observation") -> None:
        self.done_key, self.observation_key = done_key, unraveled(observation_key)

    def done(self, steps: TensorDictBase) -> Tensor:
        """Mark the steps that end a trajectory."""
        done = steps.get(self.done_key)
        return done.reshape(*steps.shape, done.shape[steps.ndim :].numel()).any(-1)  # or no step

    def begins(self, steps: TensorDictBase) -> Tensor | None:
        """Mark the steps that begin an episode; None if the data do not say."""
        if (count := self._count(steps)) is not None:
            return (count.reshape(*steps.shape, -1) == 0).all(-1)
        if (init := steps.get("is_init", None)) is not None:
            return init.reshape(*steps.shape, -1).any(-1)
        return None

    def follows(self, rows: TensorDictBase) -> Tensor | None:
        """Mark the steps that follow from the step before; None if the data do not say.

        Args:
            rows: steps in order of time, shape ``[rows, time]``.

        Returns:
            Booleans of shape ``[rows, time - 1]``, of all steps but the first.
        """
        before, after = rows[:, :-1], rows[:, 1:]
        told = []
        if (count := self._count(rows)) is not None:
            count = count.reshape(*rows.shape, -1)
            told.append((count[:, 1:] == count[:, :-1] + 1).all(-1))
        elif (begins := self.begins(rows)) is not None:
            told.append(~begins[:, 1:])
        state = after.get(self.observation_key, None)
        following = before.get(next_key(self.observation_key), None)
        if state is not None and following is not None and state.shape == following.shape:
            told.append(same_states(state, following, rows.ndim))
        return torch.stack(told).all(0) if told else None

    def evidence(self, steps: TensorDictBase) -> TensorDict:
        """Select the entries that :meth:`follows` reads."""
        states = self.observation_key, next_key(self.observation_key)
        found = {key: steps.get(key, None) for key in (*states, *_COUNTS, "is_init")}
        told = TensorDict({}, batch_size=steps.shape)
        for key, value in found.items():
            if value is not None:
                told.set(key, value)
        return told

    def _count(self, steps: TensorDictBase) -> Tensor | None:
        """Return the number of steps before each step in its episode; None if unknown."""
        counts = (steps.get(key, None) for key in _COUNTS)
        return next((count for count in counts if count is not None), None)


def same_states(state: Tensor, following: Tensor, ndim: int) -> Tensor:
    """Mark states that are the same, up to rounding.

    Args:
        state: states of shape ``[*batch, *state_shape]``.
        following: states to compare with, of the same shape.
        ndim: number of dimensions of the batch.

    Returns:
        Booleans of the batch's shape. NaN equals NaN, and categories must be equal.
    """
    if not state.is_floating_point():
        same = state == following
    else:
        same = torch.isclose(state, following, rtol=1e-3, atol=1e-6, equal_nan=True)
    return same.flatten(ndim).all(-1) if same.ndim > ndim else same
