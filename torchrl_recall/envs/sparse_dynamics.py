"""Dynamics of the small sparse tasks, for a batch of states in arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from gymnasium.spaces import Box

from torchrl_recall.envs.point_mass import PointMassEnv

__all__ = [
    "ROUNDING",
    "SPARSE_TASKS",
    "Dynamics",
    "PendulumTask",
    "PointTask",
    "from_angles",
    "on_circle",
]

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


class Dynamics(ABC):
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
class PointTask(Dynamics):
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
class PendulumTask(Dynamics):
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


SPARSE_TASKS: dict[str, Dynamics] = {
    "point_free4": PointTask(4, 0.15, 0.45, 0.5, 50),
    "point_free6": PointTask(6, 0.2, 0.7, 0.5, 50),
    "point_umaze": PointTask(2, 0.4, 0.2, (-2 / 3, 2 / 3), 50, maze="u"),
    "point_umaze_long": PointTask(2, 0.12, 0.2, (-2 / 3, 2 / 3), 300, maze="u"),
    "pendulum_swingup": PendulumTask(0.3, 2.0, 100),
}
