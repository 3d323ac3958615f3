"""A point mass in free space or in a U-maze (Sec. 6.3), batched, with goals that can be set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Composite, Unbounded
from torchrl.envs import EnvBase

__all__ = ["PointMassEnv"]

# The wall of the U: it leaves a corridor below, at the right end and above.
_WALL_LOW, _WALL_HIGH = (-1.0, -1 / 3), (1 / 3, 1 / 3)
_U_START = (-2 / 3, -2 / 3)


class PointMassEnv(EnvBase):
    r"""A point mass that is sent to goals, as a batched TorchRL environment.

    - *Seen*: ``observation``, the position in :math:`[-1, 1]^N`, and ``desired_goal``, the position
      to reach, of the same shape.
    - *Done*: ``action``, clipped to :math:`[-1, 1]^N`, moves the point by ``step_size`` times
      itself, one axis after the other; along an axis on which it would leave the box or enter the
      wall, it does not move.
    - *Rewarded*: 1 within ``goal_radius`` of the goal, else 0.
    - *Ends*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    ``maze="free"`` is the box, which episodes begin in the middle of. ``maze="u"``, for N = 2, has
    a wall from the left side to a third of the way from the right one, and episodes begin below it,
    in the corner to the left; the farthest goals are above it. Every episode's goal is drawn from
    those of :meth:`set_goals`, uniformly over all valid states until it is called; or it is the one
    that :meth:`assign_goals` gave its environment. All environments of the batch advance in the
    same tensor operations.

    The paper's point mass (Sec. 6.3 of Goyal et al., *Recall Traces*, ICLR 2019, after Held et al.,
    *Automatic Goal Generation*, 2018) is simulated by MuJoCo and its free space is a narrow part of
    a wide box. This one has no velocity, and its reverse dynamics are known: :meth:`reverse_step`.

    Args:
        dim: N.

    Keyword Args:
        maze: what stands in the way.
        step_size: the longest move along an axis.
        goal_radius: Euclidean distance at which a goal counts as reached;
            :math:`0.15 \sqrt{N / 2}` by default.
        max_steps: steps of an episode at most; 50 in free space, 100 in the maze by default.
        batch_size: of the environments.

    Raises:
        ValueError: a number is out of its range, the maze is not two-dimensional or unknown, or a
            start, goal or action is not valid.

    Examples:
        >>> import torch
        >>> from torchrl_recall.envs import PointMassEnv
        >>> env = PointMassEnv(2, maze="u", batch_size=[8])
        >>> env.set_goals(torch.tensor([[-0.6, 0.7], [0.7, 0.0]]))
        >>> rollout = env.rollout(100, break_when_any_done=False)
        >>> rollout["observation"].shape, rollout["desired_goal"].shape
        (torch.Size([8, 100, 2]), torch.Size([8, 100, 2]))
    """

    _supports_set_state = True

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
        super().__init__(batch_size=torch.Size(batch_size))
        if maze not in ("free", "u"):
            raise ValueError(f"maze must be 'free' or 'u', got {maze!r}.")
        if not isinstance(dim, int) or dim < 1 or (maze == "u" and dim != 2):
            least = "2 in the U-maze" if maze == "u" else "an integer of at least 1"
            raise ValueError(f"dim must be {least}, got {dim!r}.")
        if not 0 < step_size < 2 / 3:  # the wall is so thick, so that no step passes through it
            raise ValueError(f"step_size must be in (0, 2/3), got {step_size}.")
        goal_radius = 0.15 * (dim / 2) ** 0.5 if goal_radius is None else goal_radius
        if not goal_radius > 0:
            raise ValueError(f"goal_radius must be positive, got {goal_radius}.")
        max_steps = {"free": 50, "u": 100}[maze] if max_steps is None else max_steps
        if not isinstance(max_steps, int) or max_steps < 1:
            raise ValueError(f"max_steps must be an integer of at least 1, got {max_steps!r}.")
        self.dim, self.maze = dim, maze
        self.step_size, self.goal_radius, self.max_steps = step_size, goal_radius, max_steps
        self.start = torch.tensor(_U_START) if maze == "u" else torch.zeros(dim)
        self._goals: Tensor | None = None
        self._assigned = False
        shape = self.batch_size
        position = Bounded(-1, 1, shape=(*shape, dim))
        self.observation_spec = Composite(
            observation=position,
            desired_goal=position.clone(),
            step_count=Unbounded(shape=shape, dtype=torch.int64),
            shape=shape,
        )
        self.state_spec = self.observation_spec.clone()
        self.action_spec = position.clone()
        self.goal_spec = Bounded(-1, 1, shape=(dim,))
        self.reward_spec = Unbounded(shape=(*shape, 1))
        flag = Binary(1, shape=(*shape, 1), dtype=torch.bool)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=shape
        )

    def is_valid(self, states: Tensor) -> Tensor:
        """Whether positions are inside the box and outside the wall.

        Args:
            states: shape ``[*batch, dim]``.

        Returns:
            Booleans of shape ``[*batch]``.
        """
        valid = (states.abs() <= 1).all(-1)
        return valid & ~self._in_wall(states) if self.maze == "u" else valid

    def sample_states(self, num: int) -> Tensor:
        """Draw valid positions uniformly, shape ``[num, dim]``."""
        states = torch.empty(0, self.dim)
        while len(states) < num:  # the wall takes less than a quarter of the box
            drawn = 2 * torch.rand(2 * num, self.dim) - 1
            states = torch.cat([states, drawn[self.is_valid(drawn)]])
        return states[:num]

    def set_goals(self, goals: Tensor) -> None:
        """Draw the goals of episodes that begin from now on among these, uniformly.

        Args:
            goals: shape ``[num_goals, dim]``; a goal in the wall is one that cannot be reached.

        Raises:
            ValueError: there are none, they are not finite or have another dimension.
        """
        if goals.ndim != 2 or goals.shape[1] != self.dim or not len(goals):
            raise ValueError(
                f"goals must have the shape [num_goals, {self.dim}] of this environment's "
                f"positions, with at least one goal, got {tuple(goals.shape)}."
            )
        self._goals, self._assigned = _finite(goals), False

    def assign_goals(self, goals: Tensor) -> None:
        """Give each environment of the batch its own goal, for all episodes from now on.

        Args:
            goals: shape ``[*batch_size, dim]``; a goal in the wall is one that cannot be reached.

        Raises:
            ValueError: they have another shape or are not finite.
        """
        if goals.shape != (*self.batch_size, self.dim):
            raise ValueError(
                f"goals must have the shape {(*self.batch_size, self.dim)}, one for each "
                f"environment, got {tuple(goals.shape)}."
            )
        self._goals, self._assigned = _finite(goals), True

    def move(self, state: Tensor, action: Tensor) -> Tensor:
        """Where an action leads.

        Args:
            state: valid positions, shape ``[*batch, dim]``.
            action: in [-1, 1], same shape.

        Returns:
            Positions of the same shape.
        """
        step = self.step_size * action
        if self.maze == "free":  # each axis on its own
            moved = state + step
            return torch.where(moved.abs() <= 1, moved, state)
        for axis in range(self.dim):
            moved = self._along(state, step, axis)
            state = torch.where(self.is_valid(moved).unsqueeze(-1), moved, state)
        return state

    def reverse_step(self, next_state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """A state from which an action leads to a given one: the exact reverse dynamics.

        Along each axis the point has either moved, or stood still because it was blocked; where
        both are possible, one is drawn.

        Args:
            next_state: valid positions, shape ``[*batch, dim]``.
            action: in [-1, 1], same shape.

        Returns:
            Positions of the same shape, and whether the action leads from there to the given ones,
            shape ``[*batch]``: False where no such position was found.
        """
        state, step = next_state, self.step_size * action
        for axis in reversed(range(self.dim)):
            before = self._along(state, -step, axis)
            moved = self.is_valid(before)
            stood = ~self.is_valid(self._along(state, step, axis))
            both = torch.rand(moved.shape, device=moved.device) < 0.5
            back = moved & (both | ~stood)
            state = torch.where(back.unsqueeze(-1), before, state)
        led = (self.move(state, action) - next_state).abs().amax(-1) < 1e-5
        return state, led & self.is_valid(state)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        shape = self.batch_size
        goal = state = None
        if tensordict is not None and tensordict.get("_reset", None) is None:
            goal, state = (tensordict.get(key, None) for key in ("desired_goal", "observation"))
        if goal is None:
            goal = self._draw_goals()
        if state is None:
            state = self.start.expand(*shape, self.dim).clone()
        elif not self.is_valid(state).all():
            raise ValueError(
                "episodes cannot begin inside the wall or outside the box; check starts with "
                "is_valid, or draw them with sample_states."
            )
        false = torch.zeros(*shape, 1, dtype=torch.bool)
        out = {
            "observation": state,
            "desired_goal": goal,
            "step_count": torch.zeros(shape, dtype=torch.int64),
        }
        out |= {key: false.clone() for key in ("done", "terminated", "truncated")}
        return TensorDict(out, batch_size=shape)

    def _draw_goals(self) -> Tensor:
        shape = self.batch_size
        if self._goals is not None and self._assigned:
            return self._goals.clone()
        num = max(1, shape.numel())
        if self._goals is None:
            goals = self.sample_states(num)
        else:
            goals = self._goals[torch.randint(len(self._goals), (num,))]
        return goals.reshape(*shape, self.dim)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action, goal = tensordict.get("action"), tensordict.get("desired_goal")
        if not torch.compiler.is_compiling() and not action.isfinite().all():
            raise ValueError("an action is NaN or infinite; look for diverged weights.")
        state = self.move(tensordict.get("observation"), action.clamp(-1, 1))
        count = tensordict.get("step_count") + 1
        terminated = ((state - goal).norm(dim=-1) <= self.goal_radius).unsqueeze(-1)
        truncated = (count >= self.max_steps).unsqueeze(-1) & ~terminated
        out = {
            "observation": state,
            "desired_goal": goal,
            "step_count": count,
            "reward": terminated.float(),
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        return TensorDict(out, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)

    def _along(self, state: Tensor, step: Tensor, axis: int) -> Tensor:
        only = torch.zeros(self.dim, device=step.device)
        only[axis] = 1
        return state + step * only

    @staticmethod
    def _in_wall(states: Tensor) -> Tensor:
        low, high = (torch.tensor(x, device=states.device) for x in (_WALL_LOW, _WALL_HIGH))
        return ((states >= low) & (states <= high)).all(-1)


def _finite(goals: Tensor) -> Tensor:
    if not goals.isfinite().all():
        raise ValueError("the goals hold NaN or infinity; drop those.")
    return goals.detach().clone()
