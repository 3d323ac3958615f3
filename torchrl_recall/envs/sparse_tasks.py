"""Small sparse tasks in Gymnasium's interface, for experiments that take minutes.

In each task the reward is 1 at the goal and 0 elsewhere. Episodes end at the goal. They begin in
random states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector.utils import batch_space
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_recall.envs.point_mass import PointMassEnv

__all__ = ["SPARSE_TASKS", "SparseTask", "SparseTaskVector", "goal_rule"]

Array = np.ndarray


_OFF_CIRCLE = 0.1  # how far cosine and sine may be from the unit circle
ROUNDING = 1e-4  # rounding error of float32 at a bound


def from_angles(observation: Array, num: int) -> Array:
    """Replace cosines and sines of ``num`` angles at the front of observations by the angles."""
    cosines, sines = observation[..., 0 : 2 * num : 2], observation[..., 1 : 2 * num : 2]
    return np.concatenate([np.arctan2(sines, cosines), observation[..., 2 * num :]], -1)


def on_circle(observation: Array, num: int) -> Array:
    """Return True where cosine and sine of each of ``num`` angles are near the unit circle."""
    cosines, sines = observation[..., 0 : 2 * num : 2], observation[..., 1 : 2 * num : 2]
    return np.all(np.abs(np.hypot(cosines, sines) - 1) <= _OFF_CIRCLE, -1)


class _Dynamics(ABC):
    """Dynamics of a batch of states, in arrays."""

    max_steps: int

    @property
    @abstractmethod
    def observation_space(self) -> Box:
        """Return the space of observations."""

    @property
    @abstractmethod
    def action_space(self) -> Box:
        """Return the space of actions."""

    @abstractmethod
    def start(self, rng: np.random.Generator, num: int) -> Array:
        """Draw ``num`` states in which episodes begin."""

    @abstractmethod
    def move(self, state: Array, action: Array) -> Array:
        """Return the states that actions lead to."""

    @abstractmethod
    def reached(self, state: Array) -> Array:
        """Return True for states at the goal."""

    def observe(self, state: Array) -> Array:
        """Return the observations of states."""
        return state

    def state_of(self, observation: Array) -> Array:
        """Return the states of observations."""
        return observation

    def is_valid(self, observation: Array) -> Array:
        """Return True for observations of possible states."""
        space = self.observation_space
        inside = (observation >= space.low) & (observation <= space.high)
        return np.all(inside, -1)

    def sees_goal(self, observation: Array) -> Array:
        """Return True for observations at the goal."""
        return self.reached(self.state_of(observation))


@dataclass(frozen=True)
class PointTask(_Dynamics):
    """Dynamics of a point mass with one goal; see :class:`~torchrl_recall.envs.PointMassEnv`."""

    dim: int
    step_size: float
    goal_radius: float
    goal: float | tuple[float, ...]
    max_steps: int
    maze: Literal["free", "u"] = "free"

    @property
    def observation_space(self) -> Box:
        """Return the space of positions."""
        return Box(-1.0, 1.0, (self.dim,), np.float32)

    @property
    def action_space(self) -> Box:
        """Return the space of moves."""
        return Box(-1.0, 1.0, (self.dim,), np.float32)

    def start(self, rng: np.random.Generator, num: int) -> Array:
        """Draw positions outside the wall and the goal."""
        states = np.empty((0, self.dim), np.float32)
        while len(states) < num:
            drawn = rng.uniform(-1, 1, (2 * num + 8, self.dim)).astype(np.float32)
            valid = _space(self).is_valid(torch.from_numpy(drawn)).numpy()
            states = np.concatenate([states, drawn[valid & ~self.reached(drawn)]])
        return states[:num]

    def move(self, state: Array, action: Array) -> Array:
        """Move as the point mass does."""
        moved = _space(self).move(torch.from_numpy(state), torch.from_numpy(action))
        return moved.numpy()

    def is_valid(self, observation: Array) -> Array:
        """Return True in the box and outside the wall."""
        return _space(self).is_valid(torch.from_numpy(observation)).numpy()

    def reached(self, state: Array) -> Array:
        """Return True within the radius of the goal."""
        return np.linalg.norm(state - np.asarray(self.goal, np.float32), axis=-1) <= (
            self.goal_radius
        )


@lru_cache
def _space(task: PointTask) -> PointMassEnv:
    return PointMassEnv(task.dim, maze=task.maze, step_size=task.step_size)


@dataclass(frozen=True)
class PendulumTask(_Dynamics):
    """Dynamics of ``Pendulum-v1``, whose goal is to stand still upright; states: angle, speed."""

    angle: float
    speed: float
    max_steps: int

    @property
    def observation_space(self) -> Box:
        """Return the space of cosine, sine and speed."""
        high = np.array([1, 1, 8], np.float32)
        return Box(-high, high)

    @property
    def action_space(self) -> Box:
        """Return the space of torques, in units of half their range."""
        return Box(-1.0, 1.0, (1,), np.float32)

    def start(self, rng: np.random.Generator, num: int) -> Array:
        """Draw random angles and slow speeds, outside the goal."""
        states = np.empty((0, 2), np.float32)
        while len(states) < num:
            drawn = rng.uniform((-np.pi, -1), (np.pi, 1), (2 * num + 8, 2)).astype(np.float32)
            states = np.concatenate([states, drawn[~self.reached(drawn)]])
        return states[:num]

    def move(self, state: Array, action: Array) -> Array:
        """Integrate for 0.05 s, as Gymnasium does; an action of one is a torque of two."""
        angle, speed = state[..., 0], state[..., 1]
        torque = 2.0 * np.clip(action[..., 0], -1, 1)
        speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8, 8)
        angle = (angle + speed * 0.05 + np.pi) % (2 * np.pi) - np.pi
        return np.stack([angle, speed], -1).astype(np.float32)

    def reached(self, state: Array) -> Array:
        """Return True where the pendulum stands still upright."""
        return (np.abs(state[..., 0]) <= self.angle) & (np.abs(state[..., 1]) <= self.speed)

    def observe(self, state: Array) -> Array:
        """Return cosine and sine of the angle, and the speed."""
        angle = state[..., 0]
        return np.stack([np.cos(angle), np.sin(angle), state[..., 1]], -1)

    def state_of(self, observation: Array) -> Array:
        """Return the angle, computed from cosine and sine, and the speed."""
        return from_angles(observation, 1)

    def is_valid(self, observation: Array) -> Array:
        """Return True near the unit circle, at possible speeds."""
        return on_circle(observation, 1) & (np.abs(observation[..., 2]) <= 8 + ROUNDING)


SPARSE_TASKS: dict[str, _Dynamics] = {
    "point_free4": PointTask(4, 0.15, 0.45, 0.5, 50),
    "point_free6": PointTask(6, 0.2, 0.7, 0.5, 50),
    "point_umaze": PointTask(2, 0.4, 0.2, (-2 / 3, 2 / 3), 50, maze="u"),
    "point_umaze_long": PointTask(2, 0.12, 0.2, (-2 / 3, 2 / 3), 300, maze="u"),
    "pendulum_swingup": PendulumTask(0.3, 2.0, 100),
}


class SparseTask(gymnasium.Env):
    """Small sparse task, chosen by name.

    - ``point_free4``, ``point_free6``: a point in :math:`[-1, 1]^N`, whose goal is near 0.5 in each
      dimension.
    - ``point_umaze``, ``point_umaze_long``: the U-maze, with its goal at the end of the upper
      corridor. In the second task steps are a third as long.
    - ``pendulum_swingup``: ``Pendulum-v1``, whose goal is to stand still upright.

    The dynamics of the points are those of :class:`~torchrl_recall.envs.PointMassEnv`.

    Args:
        name: name of the task, see above.
        render_mode: must be None, because the tasks draw no pictures.

    Examples:
        >>> import gymnasium, torchrl_recall.envs
        >>> task = gymnasium.make("point_free4")
        >>> observation, _ = task.reset(seed=0)
        >>> _, reward, terminated, truncated, _ = task.step(task.action_space.sample())
        >>> observation.shape, reward, terminated
        ((4,), 0.0, False)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        self.name, self.render_mode = name, render_mode
        dynamics = SPARSE_TASKS[name]
        self.observation_space, self.action_space = (
            dynamics.observation_space,
            dynamics.action_space,
        )
        self.state = np.zeros((1, 1), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Array, dict]:
        """Begin an episode in a random state; see :meth:`gymnasium.Env.reset`.

        Keyword Args:
            seed: seed of the environment's random numbers; None continues them.
            options: ignored.

        Returns:
            The first observation, and an empty dictionary.
        """
        super().reset(seed=seed)
        dynamics = SPARSE_TASKS[self.name]
        self.state = dynamics.start(self.np_random, 1)
        return dynamics.observe(self.state)[0], {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict]:
        """Take a step; see :meth:`gymnasium.Env.step`.

        Args:
            action: action within ``action_space``.

        Returns:
            Observation, reward, terminated, truncated, and an empty dictionary.

        Raises:
            ValueError: the action is NaN or infinite.
        """
        _check_actions(action)
        dynamics = SPARSE_TASKS[self.name]
        self.state = dynamics.move(self.state, np.asarray(action, np.float32).clip(-1, 1)[None])
        reached = bool(dynamics.reached(self.state)[0])
        return dynamics.observe(self.state)[0], float(reached), reached, False, {}


class SparseTaskVector(gymnasium.vector.VectorEnv):
    """Batch of environments of one :class:`SparseTask`, as ``gymnasium.make_vec`` makes it.

    An episode that has ended is reset in the same step.

    Args:
        num_envs: number of environments.
        name: name of the task, see :class:`SparseTask`.
        max_episode_steps: largest number of steps of an episode.
    """

    metadata: dict[str, Any] = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int, name: str, max_episode_steps: int | None = None) -> None:
        self.name, self.num_envs = name, num_envs
        dynamics = SPARSE_TASKS[name]
        self.max_steps = dynamics.max_steps if max_episode_steps is None else max_episode_steps
        self.single_observation_space = dynamics.observation_space
        self.single_action_space = dynamics.action_space
        self.observation_space = batch_space(dynamics.observation_space, num_envs)
        self.action_space = batch_space(dynamics.action_space, num_envs)

    def reset(self, *, seed: Any = None, options: dict | None = None) -> tuple[Array, dict]:
        """Begin all episodes; see :meth:`gymnasium.vector.VectorEnv.reset`.

        Keyword Args:
            seed: seed of the random numbers of all environments; None continues them.
            options: ignored.

        Returns:
            The first observations, shape ``[num_envs, *state_shape]``, and an empty dictionary.
        """
        super().reset(seed=seed)
        dynamics = SPARSE_TASKS[self.name]
        self.state = dynamics.start(self.np_random, self.num_envs)
        self.steps = np.zeros(self.num_envs, int)
        return dynamics.observe(self.state), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict]:
        """Take a step in each environment; see :meth:`gymnasium.vector.VectorEnv.step`.

        Args:
            actions: actions, shape ``[num_envs, *action_shape]``.

        Returns:
            Observations, rewards, terminated and truncated flags, and a dictionary of the last
            observations of ended episodes.

        Raises:
            ValueError: an action is NaN or infinite.
        """
        _check_actions(actions)
        dynamics = SPARSE_TASKS[self.name]
        self.state = dynamics.move(self.state, np.asarray(actions, np.float32).clip(-1, 1))
        self.steps += 1
        reached = dynamics.reached(self.state)
        truncated = (self.steps >= self.max_steps) & ~reached
        infos = {"final_obs": dynamics.observe(self.state)}
        if (done := reached | truncated).any():
            self.state = np.where(
                done[:, None], dynamics.start(self.np_random, self.num_envs), self.state
            )
            self.steps[done] = 0
        observed = dynamics.observe(self.state)
        return observed, reached.astype(np.float64), reached, truncated, infos


def _check_actions(actions: Array) -> None:
    if not np.isfinite(actions).all():
        raise ValueError("an action is NaN or infinite; look for diverged weights.")


def goal_rule(env: EnvBase) -> Callable[[TensorDictBase], TensorDictBase]:
    """Return the reward rule of a task, for imagined transitions (``recall.reward``).

    Args:
        env: TorchRL environment around a :class:`SparseTask`.

    Returns:
        A function that writes ``("next", "reward")`` and ``("next", "terminated")``.

    Raises:
        ValueError: the environment is another one.
    """
    inner = getattr(getattr(env, "base_env", env), "_env", None)
    task = getattr(inner, "unwrapped", None)
    if not isinstance(task, SparseTask):
        raise ValueError(
            f"goal_rule knows the goals of {sorted(SPARSE_TASKS)}; give the environment of one of "
            "these, or a rule of your own."
        )
    dynamics = SPARSE_TASKS[task.name]

    def reward(transitions: TensorDictBase) -> TensorDictBase:
        observed = transitions["next", "observation"]
        reached = dynamics.sees_goal(observed.cpu().numpy())
        ended = torch.from_numpy(reached).to(observed.device).unsqueeze(-1)
        transitions.set(("next", "reward"), ended.to(observed.dtype))
        return transitions.set(("next", "terminated"), ended)

    return reward


for _name, _dynamics in SPARSE_TASKS.items():
    if _name in gymnasium.registry:
        continue
    gymnasium.register(
        _name,
        entry_point="torchrl_recall.envs.sparse_tasks:SparseTask",
        vector_entry_point="torchrl_recall.envs.sparse_tasks:SparseTaskVector",
        max_episode_steps=_dynamics.max_steps,
        kwargs={"name": _name},
    )
