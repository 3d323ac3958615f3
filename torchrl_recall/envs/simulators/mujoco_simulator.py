"""Simulator of MuJoCo tasks."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from torch import Tensor

from torchrl_recall.envs.simulators.gym_simulator import GymSimulator

__all__ = ["MuJoCoSimulator"]

_FALLEN = 0.2  # radians, at which InvertedPendulum-v5 ends
_OFF_UNIT = 0.1  # largest deviation of a quaternion from unit length, for imagined states
_FREE, _BALL = int(mujoco.mjtJoint.mjJNT_FREE), int(mujoco.mjtJoint.mjJNT_BALL)


class MuJoCoSimulator(GymSimulator):
    """Simulator of a MuJoCo task of Gymnasium, which can also draw states.

    Positions that the task does not observe, such as the distance covered, are set to zero.

    Args:
        task: a task whose observation begins with positions and velocities.

    Attributes:
        skipped: number of positions that are not observed.

    Raises:
        ValueError: the task is not such a task.

    Examples:
        >>> import gymnasium, torch
        >>> from torchrl_recall.envs import MuJoCoSimulator
        >>> simulator = MuJoCoSimulator(gymnasium.make("Hopper-v5"))
        >>> standing = torch.tensor([[1.25, *[0.0] * 10]])
        >>> simulator.is_valid(standing), simulator.replay(standing, torch.zeros(1, 5, 3)).shape
        (tensor([True]), torch.Size([1, 5, 11]))
    """

    _inner: Any

    def __init__(self, task: gymnasium.Env) -> None:
        inner: Any = task.unwrapped
        structure = getattr(inner, "observation_structure", {})
        self.skipped = structure.get("skipped_qpos", 0)
        self._num = structure.get("qpos", 0), structure.get("qvel", 0)
        model = getattr(inner, "model", None)
        self._is_whole = model is not None and (self.skipped + self._num[0], self._num[1]) == (
            getattr(model, "nq", None),
            getattr(model, "nv", None),
        )
        super().__init__(task)

    def _state_shapes(self) -> list[tuple[int, ...]]:
        return [*super()._state_shapes(), (sum(self._num),)]  # contact forces are not compared

    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state.

        Args:
            observation: the state, shape ``[observation_dim]``, environment units.

        Raises:
            ValueError: the observation has fewer entries than positions and velocities.
        """
        positions, velocities = self._num
        if len(observation) < positions + velocities:
            raise ValueError(
                f"{self.name} observes {positions} positions and {velocities} velocities, but a "
                f"state has {len(observation)} entries. Leave out the wrapper that drops some."
            )
        qpos = np.concatenate([np.zeros(self.skipped), observation[:positions]])
        mujoco.mj_resetData(self._inner.model, self._inner.data)  # what solved the step before
        self._inner.set_state(qpos, observation[positions : positions + velocities])

    def draw(self) -> np.ndarray:
        """Return an image of the present state, uint8, shape ``[height, width, 3]``."""
        picture: Any = self._task.render()
        return picture

    def coordinates(self, states: Tensor) -> Tensor:
        """Return positions and velocities, shape ``[*batch, dim]``.

        Args:
            states: states of shape ``[*batch, state_dim]``, environment units.
        """
        return states[..., : sum(self._num)]

    def _can_be(self, observation: np.ndarray) -> bool:
        if not self._has_unit_quaternions(observation):
            return False
        if isinstance(self._inner, InvertedPendulumEnv):  # its step has the rule
            return bool(abs(observation[1]) <= _FALLEN)
        if not getattr(self._inner, "_terminate_when_unhealthy", False):
            return True
        self.put(observation)
        return bool(self._inner.is_healthy)

    def _has_unit_quaternions(self, observation: np.ndarray) -> bool:
        """Return whether all observed quaternions are within 0.1 of unit length."""
        model = self._inner.model
        for kind, address in zip(model.jnt_type, model.jnt_qposadr, strict=True):
            if kind not in (_FREE, _BALL):
                continue
            after_place = 3 if kind == _FREE else 0
            first = address + after_place - self.skipped
            if abs(np.linalg.norm(observation[first : first + 4]) - 1) > _OFF_UNIT:
                return False
        return True

    def _check(self) -> None:
        if not self._is_whole:
            raise ValueError(self._refusal())
        super()._check()
