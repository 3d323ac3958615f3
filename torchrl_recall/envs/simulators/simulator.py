"""Interface of simulators."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Simulator"]


@runtime_checkable
class Simulator(Protocol):
    """Interface of a task that can be put into the states that it observes."""

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for possible states in which the episode has not ended.

        The ends that are known are listed at :func:`make_simulator`.

        Args:
            states: states of shape ``[num, *state_shape]``, environment units.

        Returns:
            Booleans of shape ``[num]``.
        """

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take sequences of actions from given states.

        Args:
            states: valid states, shape ``[num, *state_shape]``, environment units.
            actions: actions of shape ``[num, steps, *action_shape]``, which are clipped to their
                bounds.

        Returns:
            The states after each action, shape ``[num, steps, *state_shape]``.
        """

    def coordinates(self, states: Tensor) -> Tensor:
        """Return the part of states that distances are computed on, shape ``[*batch, dim]``.

        Args:
            states: states of shape ``[*batch, *state_shape]``, environment units.
        """
