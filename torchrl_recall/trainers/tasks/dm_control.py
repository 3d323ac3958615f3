"""dm_control's suite as Gymnasium tasks, by Shimmy's wrapper (extra ``dm_control``)."""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
from dm_control import suite
from gymnasium.envs.registration import EnvSpec
from shimmy.dm_control_compatibility import DmControlCompatibilityV0

__all__ = ["NAMES", "DMControlTask"]

NAMES = tuple(f"{domain}-{task}" for domain, task in suite.ALL_TASKS)


class DMControlTask(DmControlCompatibilityV0):
    """Task of dm_control's suite, whose episodes can be saved and continued.

    Args:
        name: names of domain and task, such as ``cartpole-swingup_sparse``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(suite.load(*name.split("-", 1)))
        limit = None if math.isinf(self._env._step_limit) else math.ceil(self._env._step_limit)
        self._as_made = {key: value.copy() for key, value in self._model_arrays().items()}
        self.spec = EnvSpec(f"dm_control/{name}-v0", max_episode_steps=limit)

    @property
    def model(self) -> mujoco.MjModel:
        """Return MuJoCo's model, as Gymnasium's own tasks do."""
        return self._env.physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        """Return MuJoCo's data, as Gymnasium's own tasks do."""
        return self._env.physics.data.ptr

    def _model_arrays(self) -> dict[str, np.ndarray]:
        arrays = {key: getattr(self.model, key) for key in dir(self.model) if key[0] != "_"}
        return {
            key: value
            for key, value in arrays.items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }

    def get_state(self) -> dict[str, Any]:
        """Return state that is not MuJoCo's, such as the step count and random numbers.

        At each reset, some tasks move a target in the model or store it in the task.
        """
        changed = {
            key: value
            for key, value in self._model_arrays().items()
            if not np.array_equal(value, self._as_made[key])
        }
        return {
            "task": {key: value for key, value in vars(self._env.task).items() if key != "_random"},
            "model": changed,
            "random": self._env.task.random.get_state(legacy=False),
            "step_count": self._env._step_count,
            "reset_next_step": self._env._reset_next_step,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_state`, after MuJoCo's own state."""
        for key, value in self._model_arrays().items():
            value[...] = state["model"].get(key, self._as_made[key])
        mujoco.mj_step1(self.model, self.data)  # as dm_control does at the end of each step
        vars(self._env.task).update(state["task"])
        self._env.task.random.set_state(state["random"])
        self._env._step_count = state["step_count"]
        self._env._reset_next_step = state["reset_next_step"]
