"""Base of the simulators of Gymnasium tasks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

__all__ = ["GymSimulator"]


class GymSimulator(ABC):
    """Simulator of a task of Gymnasium, for one state at a time."""

    def __init__(self, task: gymnasium.Env) -> None:
        self._task, self._inner = task, task.unwrapped
        self.name = type(self._inner).__name__ if task.spec is None else task.spec.id
        self._check()

    @abstractmethod
    def put(self, observation: np.ndarray) -> None:
        """Put the simulator into an observed state, shape ``[observation_dim]``."""

    def is_valid(self, states: Tensor) -> Tensor:
        """Return True for possible states in which the episode has not ended, as far as known."""
        self._require("state", states.shape[1:], self._state_shapes())
        rows = states.detach().double().cpu().numpy()
        valid = [bool(np.isfinite(row).all()) and self._can_be(row) for row in rows]
        return torch.tensor(valid, dtype=torch.bool, device=states.device)

    @abstractmethod
    def _can_be(self, observation: np.ndarray) -> bool:
        """Return whether an episode can go on in a state that is finite."""

    def replay(self, states: Tensor, actions: Tensor) -> Tensor:
        """Take actions from states, and return the states after each."""
        self._require("state", states.shape[1:], self._state_shapes())
        if isinstance(self._task.action_space, Box):
            self._require("action", actions.shape[2:], [self._task.action_space.shape])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the physics may warn in imagined states
            paths = [self._replay(*row) for row in zip(states, actions, strict=True)]
        if not paths:
            return states.new_empty(*actions.shape[:2], *states.shape[1:])
        return torch.stack(paths).to(states)

    def coordinates(self, states: Tensor) -> Tensor:
        """Return the whole state."""
        return states

    def _state_shapes(self) -> list[tuple[int, ...]]:
        """List the shapes of states that the simulator understands; errors name the first."""
        return [self._task.observation_space.shape or ()]

    def _require(self, name: str, shape: Sequence[int], known: list[tuple[int, ...]]) -> None:
        """Refuse states or actions of another task."""
        if tuple(shape) not in known:
            raise ValueError(
                f"{self.name} has the {name} shape {known[0]}, the traces have {tuple(shape)}. "
                "Audit them by the task that their model has learned, with the observation space "
                "that it sees."
            )

    def _replay(self, state: Tensor, actions: Tensor) -> Tensor:
        self.put(state.detach().double().cpu().numpy())
        path = [self._step(action) for action in actions.detach().cpu()]
        return torch.from_numpy(np.array(path))

    def _step(self, action: Tensor) -> np.ndarray:
        return self._task.step(self._to_task(action))[0]

    def _to_task(self, action: Tensor) -> Any:
        space = self._task.action_space
        if isinstance(space, Discrete):  # one-hot, or a number
            return int(action.long().argmax(-1)) if action.ndim else int(action)
        assert isinstance(space, Box)
        return action.numpy().clip(space.low, space.high)

    def _check(self) -> None:
        """Refuse a task that continues differently after it is put into an observed state."""
        steps: list[Tensor] = []
        for is_put in (False, True):
            first, _ = self._task.reset(seed=0)
            self._task.action_space.seed(0)
            action = self._task.action_space.sample()
            try:
                if is_put:
                    self.put(np.asarray(first, np.float64))
                after = self._task.step(action)[0]
                steps.append(self.coordinates(torch.from_numpy(np.asarray(after, np.float64))))
            except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
                raise ValueError(self._refusal()) from error
        if steps[0].shape != steps[1].shape or not torch.allclose(steps[0], steps[1], atol=1e-4):
            raise ValueError(self._refusal())

    def _refusal(self) -> str:
        return (
            f"{self.name} cannot be put into the state that it observes. Take a MuJoCo task of "
            "Gymnasium whose observation begins with its positions and velocities, such as "
            "Hopper-v5, Walker2d-v5, HalfCheetah-v5 or Ant-v5, a task of classic control, or give "
            "the class of your task the methods of torchrl_recall.envs.Simulator."
        )
