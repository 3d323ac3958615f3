"""Simulators of classic control and of the small sparse tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.spaces import Box
from torch import Tensor

from torchrl_recall.envs.simulators.gym_simulator import GymSimulator
from torchrl_recall.envs.sparse_dynamics import ROUNDING, SPARSE_TASKS, from_angles, on_circle
from torchrl_recall.envs.sparse_tasks import SparseTask

__all__ = ["NUM_ANGLES", "ClassicSimulator", "SparseTaskSimulator"]

# Angles that a task observes as cosine and sine, before all else.
NUM_ANGLES: dict[type, int] = {
    PendulumEnv: 1,
    AcrobotEnv: 2,
    CartPoleEnv: 0,
    MountainCarEnv: 0,
    Continuous_MountainCarEnv: 0,
}


class ClassicSimulator(GymSimulator):
    """Simulator of a task of classic control."""

    _inner: Any

    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state, shape ``[observation_dim]``."""
        self._inner.state = from_angles(observation, NUM_ANGLES[type(self._inner)])
        self._go_on()

    def _step(self, action: Tensor) -> np.ndarray:
        self._go_on()
        return super()._step(action)

    def _go_on(self) -> None:
        if isinstance(self._inner, CartPoleEnv):  # it warns of steps after a fall
            self._inner.steps_beyond_terminated = None

    def _can_be(self, observation: np.ndarray) -> bool:
        if isinstance(self._inner, CartPoleEnv):  # it ends well within its observation's bounds
            limits = self._inner.x_threshold, self._inner.theta_threshold_radians
            return bool((np.abs(observation[[0, 2]]) <= limits).all())
        num, space = NUM_ANGLES[type(self._inner)], self._task.observation_space
        assert isinstance(space, Box)
        rest = observation[2 * num :]  # cosine and sine have the circle
        low, high = space.low[2 * num :] - ROUNDING, space.high[2 * num :] + ROUNDING
        return bool(((rest >= low) & (rest <= high)).all() and on_circle(observation, num))


class SparseTaskSimulator(GymSimulator):
    """Simulator of a small sparse task."""

    _inner: SparseTask

    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state, shape ``[observation_dim]``."""
        dynamics = SPARSE_TASKS[self._inner.name]
        self._inner.state = dynamics.state_of(observation[None]).astype(np.float32)

    def _can_be(self, observation: np.ndarray) -> bool:
        return bool(SPARSE_TASKS[self._inner.name].is_valid(observation[None].astype(np.float32)))
