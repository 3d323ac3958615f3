"""Base class of environments with goals that an algorithm sets (Sec. 6.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Composite, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from torchrl_recall.checks import at_least, positive
from torchrl_recall.envs.episodes import done_spec, episode_begins, episode_continues, own_generator

__all__ = ["GoalEnv"]

_TRIES = 1_000  # draws of goals, all invalid, before giving up


class GoalEnv(EnvBase):
    """Batch of environments, each with a goal that an algorithm can set.

    - *Observation*: ``observation`` and ``desired_goal``.
    - *Action*: ``action``, clipped to its spec.
    - *Reward*: 1 within ``goal_radius`` of the goal, else 0.
    - *End*: ``terminated`` at the goal, ``truncated`` after ``max_steps`` steps.

    With ``set_state=True``, the tensordict of a reset may hold the first state and the goal, under
    ``observation`` and ``desired_goal``. A partial reset, which has ``_reset``, takes neither. A
    subclass defines valid states, the goal that a state reaches, and the effect of an action.

    Environments that one process makes draw the same numbers until ``set_seed`` gives them
    different seeds. That of ``SerialEnv`` and ``ParallelEnv`` does so for their copies.

    Args:
        observation_spec: spec of one environment's observation.
        action_spec: spec of one environment's action; actions are clipped to it.
        goal_spec: bounds of goals, shape ``[goal_dim]``, environment units.

    Keyword Args:
        goal_radius: Euclidean distance at which a goal counts as reached.
        max_steps: largest number of steps of an episode.
        hidden: specs of further state that a step needs, by key, for a single environment.
        batch_size: batch shape of the environments.

    Raises:
        ValueError: a number is out of its range; later, a first state, goal or action is not valid.

    Examples:
        A point on a line, which can be sent anywhere on it:

        >>> import torch
        >>> from torchrl.data import Bounded
        >>> from torchrl_recall.envs import GoalEnv
        >>> class Line(GoalEnv):
        ...     def is_valid(self, states):
        ...         return states.abs().squeeze(-1) <= 1
        ...     def goal_of_state(self, states):
        ...         return states
        ...     def state_of_goal(self, goals):
        ...         return goals
        ...     def _begin(self, states):
        ...         start = torch.zeros(*self.batch_size, 1)
        ...         return {"observation": start if states is None else states}
        ...     def _advance(self, tensordict, action):
        ...         return {"observation": (tensordict["observation"] + 0.1 * action).clamp(-1, 1)}
        >>> unit = Bounded(-1, 1, (1,))
        >>> env = Line(unit, unit, unit, goal_radius=0.1, max_steps=30, batch_size=[4])
        >>> env.set_goals(torch.tensor([[0.5]]))
        >>> env.rollout(30, break_when_any_done=False)["desired_goal"].unique()
        tensor([0.5000])
    """

    _supports_set_state = True

    def __init__(
        self,
        observation_spec: TensorSpec,
        action_spec: Bounded,
        goal_spec: Bounded,
        *,
        goal_radius: float,
        max_steps: int,
        hidden: dict[str, TensorSpec] | None = None,
        batch_size: Sequence[int] = (),
    ) -> None:
        super().__init__(batch_size=torch.Size(batch_size))
        positive(goal_radius=goal_radius)
        at_least(1, max_steps=max_steps)
        self.goal_spec, self.goal_radius, self.max_steps = goal_spec, goal_radius, max_steps
        self.generator = own_generator()
        self._goals: Tensor | None = None
        self._assigned = False
        shape = self.batch_size
        seen = {"observation": observation_spec, "desired_goal": goal_spec, **(hidden or {})}
        self.observation_spec = Composite(
            {key: spec.expand(*shape, *spec.shape).clone() for key, spec in seen.items()},
            elapsed_steps=Unbounded(shape=shape, dtype=torch.int64),
            shape=shape,
        )
        self.state_spec = self.observation_spec.clone()
        self.action_spec = action_spec.expand(*shape, *action_spec.shape).clone()
        self.reward_spec = Unbounded(shape=(*shape, 1))
        self.done_spec = done_spec(shape)

    @abstractmethod
    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for possible states, such as those outside walls.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.

        Returns:
            Booleans of shape ``[*batch]``.
        """

    @abstractmethod
    def goal_of_state(self, states: Tensor) -> Tensor:
        """Return the goal that a state reaches.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.

        Returns:
            Goals of shape ``[*batch, goal_dim]``, environment units.
        """

    @abstractmethod
    def state_of_goal(self, goals: Tensor) -> Tensor:
        """Return a state that reaches a goal: the decoder D.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``, environment units.

        Returns:
            States of shape ``[num_goals, state_dim]``, environment units.
        """

    @abstractmethod
    def _begin(self, states: Tensor | None) -> dict[str, Tensor]:
        """Return observation and hidden state at given states, or at the start of episodes."""

    @abstractmethod
    def _advance(self, tensordict: TensorDictBase, action: Tensor) -> dict[str, Tensor]:
        """Return observation and hidden state after an action."""

    def reached(self, states: Tensor, goals: Tensor) -> Tensor:
        """Return True for states within ``goal_radius`` of their goals.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
            goals: goals of shape ``[*batch, goal_dim]``, environment units.

        Returns:
            Booleans of shape ``[*batch, 1]``.
        """
        return (self.goal_of_state(states) - goals).norm(dim=-1, keepdim=True) <= self.goal_radius

    @torch.no_grad()
    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take sequences of actions from given states, without goals, rewards and episode ends.

        Args:
            states: valid states, shape ``[num, state_dim]``, environment units.
            actions: actions of shape ``[num, steps, action_dim]``, which are clipped to their spec.

        Returns:
            The states after each action, shape ``[num, steps, state_dim]``.

        Raises:
            ValueError: an action is not finite.
        """
        if not actions.isfinite().all():
            raise ValueError("an action is NaN or infinite; look for diverged weights.")
        if not actions.shape[1]:
            return states.new_empty(len(states), 0, *states.shape[1:])
        space, now, path = self.action_spec_unbatched.space, self._begin(states), []
        for action in actions.clamp(space.low, space.high).unbind(1):
            now = self._advance(TensorDict(now, [len(states)]), action)
            path.append(now["observation"])
        return torch.stack(path, 1)

    def coordinates(self, states: Tensor) -> Tensor:
        """Return the part of states that distances are computed on: here the whole state.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
        """
        return states

    def sample_goals(self, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw goals uniformly among those that are not inside a wall.

        Args:
            num: number of goals.

        Keyword Args:
            generator: source of random numbers; that of the environment by default.

        Returns:
            Goals of shape ``[num, goal_dim]``, environment units.

        Raises:
            ValueError: no goal is valid.
        """
        generator = self.generator if generator is None else generator
        low, high = self.goal_spec.space.low, self.goal_spec.space.high
        goals, tries = torch.empty(0, len(low)), 0
        while len(goals) < num:
            if not len(goals) and (tries := tries + 1) > _TRIES:
                raise ValueError(
                    f"is_valid was False for each of {_TRIES} times {2 * num} goals within "
                    "goal_spec; mend is_valid, state_of_goal or the bounds."
                )
            drawn = low + (high - low) * torch.rand(2 * num, len(low), generator=generator)
            goals = torch.cat([goals, drawn[self.is_valid(self.state_of_goal(drawn))]])
        return goals[:num]

    def set_goals(self, goals: Tensor) -> None:
        """Draw the goals of all later episodes uniformly from the given ones.

        Args:
            goals: goals of shape ``[num_goals, goal_dim]``. A goal inside a wall is never reached.

        Raises:
            ValueError: there are no goals, or they are not finite or have another dimension.
        """
        dim = self.goal_spec.shape[-1]
        if goals.ndim != 2 or goals.shape[1] != dim or not len(goals):
            raise ValueError(
                f"goals must have the shape [num_goals, {dim}] of this environment's goals, with "
                f"at least one goal, got {tuple(goals.shape)}."
            )
        self._goals, self._assigned = self._finite(goals), False

    def assign_goals(self, goals: Tensor) -> None:
        """Set one goal for each environment of the batch, in all later episodes.

        Args:
            goals: goals of shape ``[*batch_size, goal_dim]``. A goal inside a wall is never
                reached.

        Raises:
            ValueError: the goals have another shape or are not finite.
        """
        shape = (*self.batch_size, self.goal_spec.shape[-1])
        if goals.shape != shape:
            raise ValueError(
                f"goals must have the shape {shape}, one for each environment, got "
                f"{tuple(goals.shape)}."
            )
        self._goals, self._assigned = self._finite(goals), True

    def _draw_goals(self) -> Tensor:
        if self._goals is not None and self._assigned:
            return self._goals.clone()
        num = max(1, self.batch_size.numel())
        if self._goals is None:
            goals = self.sample_goals(num)
        else:
            goals = self._goals[torch.randint(len(self._goals), (num,), generator=self.generator)]
        return goals.reshape(*self.batch_size, -1)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs: Any) -> TensorDict:
        goal = states = None
        begins_there = kwargs.get("set_state") is not False
        if begins_there and tensordict is not None and tensordict.get("_reset", None) is None:
            goal, states = (tensordict.get(key, None) for key in ("desired_goal", "observation"))
        self._check_shape("observation", states)
        self._check_shape("desired_goal", goal)
        if states is not None:
            states = states.to(self.observation_spec["observation"].dtype)
        if states is not None and not self.is_valid(states).all():
            raise ValueError(
                "episodes cannot begin inside a wall or outside the bounds; check starts with "
                "is_valid, or decode goals of sample_goals with state_of_goal."
            )
        out = self._begin(states)
        out["desired_goal"] = self._draw_goals() if goal is None else self._finite(goal)
        out |= episode_begins(self.batch_size)
        return TensorDict(out, batch_size=self.batch_size)

    def _check_shape(self, key: str, value: Tensor | None) -> None:
        shape = self.observation_spec[key].shape
        if value is not None and value.shape != shape:
            raise ValueError(f"{key} must have the shape {tuple(shape)}, got {tuple(value.shape)}.")

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action, goal = tensordict.get("action"), tensordict.get("desired_goal")
        if not torch.compiler.is_compiling() and not action.isfinite().all():
            raise ValueError("an action is NaN or infinite; look for diverged weights.")
        low, high = self.action_spec.space.low, self.action_spec.space.high
        out = self._advance(tensordict, action.clamp(low, high))
        out["desired_goal"] = goal
        reached = self.reached(out["observation"], goal)
        out |= episode_continues(tensordict.get("elapsed_steps"), reached, self.max_steps)
        return TensorDict(out, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.generator.manual_seed(seed)

    def _finite(self, goals: Tensor) -> Tensor:
        """Return a copy of goals in the dtype of their spec."""
        if not goals.isfinite().all():
            raise ValueError("the goals hold NaN or infinity; drop those.")
        return goals.detach().to(self.goal_spec.dtype, copy=True)
