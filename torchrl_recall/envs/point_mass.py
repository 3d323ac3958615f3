"""Point mass in free space or in a U-maze (Sec. 6.3), batched in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded

from torchrl_recall.checks import at_least
from torchrl_recall.envs.goal_env import GoalEnv

__all__ = ["PointMassEnv"]

# The wall of the U-maze, with a corridor below it, at its right end and above it.
_WALL_LOW, _WALL_HIGH = (-1.0, -1 / 3), (1 / 3, 1 / 3)
_U_START = (-2 / 3, -2 / 3)


class PointMassEnv(GoalEnv):
    r"""Point mass that has to reach goals, as a batched TorchRL environment.

    - *Observation*: ``observation``, the position in :math:`[-1, 1]^N`, and ``desired_goal``, the
      position to reach, of the same shape.
    - *Action*: ``action``, clipped to :math:`[-1, 1]^N`, moves the point by ``step_size * action``,
      one axis after the other. A move along an axis that would leave the box or enter the wall is
      not made.
    - *Reward*: 1 within ``goal_radius`` of the goal, else 0.
    - *End*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    ``maze="free"`` is an empty box, and episodes begin in its middle. ``maze="u"``, for N = 2, has
    a wall from the left side to two thirds of the width. Episodes begin in the corner to the left
    below the wall, and the farthest goals are above it. Goals are uniform until ``set_goals`` or
    ``assign_goals`` is called. All environments of the batch are stepped by the same tensor
    operations.

    The task follows Sec. 6.3 of Goyal et al., *Recall Traces*, ICLR 2019, and Held et al.,
    *Automatic Goal Generation*, 2018. Their point mass is simulated by MuJoCo, and its free space
    is a narrow part of a wide box. This one has no velocity, so that its reverse dynamics are known
    exactly; see :meth:`reverse_step`.

    Args:
        dim: N, the number of dimensions.

    Keyword Args:
        maze: ``"free"`` or ``"u"``, see above.
        step_size: the longest move along an axis.
        goal_radius: Euclidean distance at which a goal counts as reached;
            :math:`0.15 \sqrt{N / 2}` by default.
        max_steps: largest number of steps of an episode; 50 in free space and 100 in the maze by
            default.
        batch_size: batch shape of the environments.

    Raises:
        ValueError: a number is out of its range, the maze is unknown or not two-dimensional, or a
            first state, goal or action is not valid.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import PointMassEnv
        >>> env = PointMassEnv(2, maze="u", batch_size=[8])
        >>> env.set_goals(torch.tensor([[-0.6, 0.7], [0.7, 0.0]]))
        >>> rollout = env.rollout(100, break_when_any_done=False)
        >>> rollout["observation"].shape, rollout["desired_goal"].shape
        (torch.Size([8, 100, 2]), torch.Size([8, 100, 2]))
    """

    def __init__(
        self,
        dim: int = 2,
        *,
        maze: Literal["free", "u"] = "free",
        step_size: float = 0.1,
        goal_radius: float | None = None,
        max_steps: int | None = None,
        batch_size: Sequence[int] = (),
    ) -> None:
        if maze not in ("free", "u"):
            raise ValueError(f"maze must be 'free' or 'u', got {maze!r}.")
        at_least(1, dim=dim)
        if maze == "u" and dim != 2:
            raise ValueError(f"dim must be 2 in the U-maze, got {dim!r}.")
        if not 0 < step_size < 2 / 3:  # the thickness of the wall, which no step may jump
            raise ValueError(f"step_size must be in (0, 2/3), got {step_size}.")
        position = Bounded(-1, 1, shape=(dim,))
        super().__init__(
            position,
            position,
            position,
            goal_radius=0.15 * (dim / 2) ** 0.5 if goal_radius is None else goal_radius,
            max_steps={"free": 50, "u": 100}[maze] if max_steps is None else max_steps,
            batch_size=batch_size,
        )
        self.dim, self.maze, self.step_size = dim, maze, step_size
        self.start = torch.tensor(_U_START) if maze == "u" else torch.zeros(dim)

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for positions in the box and outside the wall, shape ``[*batch]``.

        Args:
            states: states of shape ``[*batch, dim]``, environment units.
        """
        valid = (states.abs() <= 1).all(-1)
        return valid & ~_in_wall(states) if self.maze == "u" else valid

    def goal_of_state(self, states: Tensor) -> Tensor:
        """Return the position itself.

        Args:
            states: states of shape ``[*batch, dim]``, environment units.
        """
        return states

    def state_of_goal(self, goals: Tensor) -> Tensor:
        """Return the position itself.

        Args:
            goals: goals of shape ``[num_goals, dim]``, environment units.
        """
        return goals

    def move(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the position that an action leads to.

        Args:
            state: valid positions, shape ``[*batch, dim]``.
            action: actions in [-1, 1], of the same shape.

        Returns:
            Positions of the same shape.
        """
        step = self.step_size * action
        if self.maze == "free":  # each axis on its own
            moved = state + step
            return torch.where(moved.abs() <= 1, moved, state)
        for axis in range(self.dim):
            moved = _along(state, step, axis)
            state = torch.where(self.is_valid(moved).unsqueeze(-1), moved, state)
        return state

    def reverse_step(self, next_state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a state from which an action leads to a given state: the exact reverse dynamics.

        Along each axis the point has either moved, or stood still because it was blocked. If both
        are possible, one of them is drawn.

        Args:
            next_state: valid positions, shape ``[*batch, dim]``.
            action: actions in [-1, 1], of the same shape.

        Returns:
            Positions of the same shape, and booleans of shape ``[*batch]``. A boolean is False if
            no position was found from which the action leads to the given one.
        """
        state, step = next_state, self.step_size * action
        for axis in reversed(range(self.dim)):
            before = _along(state, -step, axis)
            moved = self.is_valid(before)
            stood = ~self.is_valid(_along(state, step, axis))
            both = torch.rand(moved.shape, device=moved.device) < 0.5
            back = moved & (both | ~stood)
            state = torch.where(back.unsqueeze(-1), before, state)
        led = (self.move(state, action) - next_state).abs().amax(-1) < 1e-5
        return state, led & self.is_valid(state)

    def _begin(self, states: Tensor | None) -> dict[str, Tensor]:
        if states is None:
            states = self.start.expand(*self.batch_size, self.dim).clone()
        return {"observation": states}

    def _advance(self, tensordict: TensorDictBase, action: Tensor) -> dict[str, Tensor]:
        return {"observation": self.move(tensordict.get("observation"), action)}


def _along(state: Tensor, step: Tensor, axis: int) -> Tensor:
    only = torch.zeros(state.shape[-1], device=step.device)
    only[axis] = 1
    return state + step * only


def _in_wall(states: Tensor) -> Tensor:
    low, high = (torch.tensor(x, device=states.device) for x in (_WALL_LOW, _WALL_HIGH))
    return ((states >= low) & (states <= high)).all(-1)
