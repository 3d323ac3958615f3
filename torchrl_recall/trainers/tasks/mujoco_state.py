"""State of a MuJoCo task: all that decides how an episode goes on."""

from __future__ import annotations

import warnings

import gymnasium
import mujoco
import numpy as np
from torchrl.envs import TransformedEnv

__all__ = ["env_state_dict", "load_env_state_dict"]


# Not part of MuJoCo's integration state, but read by observations and rewards before the next
# step recomputes them.
_DERIVED = (
    "xpos", "xipos", "xquat", "cfrc_ext", "cinert", "cvel", "qfrc_actuator", "subtree_com",
)  # fmt: skip


def env_state_dict(env: TransformedEnv) -> dict | None:
    """Return all that decides how a MuJoCo task goes on; None for tasks that cannot be saved.

    Args:
        env: made by :func:`make_env`.

    Returns:
        MuJoCo's integration state and derived arrays, the task's random generator and the
        time-limit counter.
    """
    wrapped = env.base_env._env
    task = wrapped.unwrapped
    if not isinstance(getattr(task, "data", None), mujoco.MjData):
        return None
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(task.model, kind))
    mujoco.mj_getState(task.model, task.data, state, kind)
    time_limit = _time_limit(wrapped)
    return {
        "integration": state,
        "derived": {name: np.array(getattr(task.data, name)) for name in _DERIVED},
        "np_random": task.np_random.bit_generator.state,
        "elapsed_steps": None if time_limit is None else time_limit._elapsed_steps,
    }


def load_env_state_dict(env: TransformedEnv, state: dict | None) -> bool:
    """Restore :func:`env_state_dict` into a freshly reset environment.

    Args:
        env: made by :func:`make_env` and reset at least once.
        state: what was saved.

    Returns:
        Whether the environment goes on where it was; if not, a new episode begins.
    """
    if state is None:
        warnings.warn(
            f"{env.base_env._env.spec.id} is not a MuJoCo task, so its state could not be saved: "
            "the resumed run starts a new episode and is not bitwise the uninterrupted one.",
            stacklevel=2,
        )
        return False
    wrapped = env.base_env._env
    task = wrapped.unwrapped
    mujoco.mj_setState(
        task.model, task.data, state["integration"], mujoco.mjtState.mjSTATE_INTEGRATION
    )
    for name, value in state["derived"].items():
        getattr(task.data, name)[:] = value
    task.np_random.bit_generator.state = state["np_random"]
    if (time_limit := _time_limit(wrapped)) is not None:
        time_limit._elapsed_steps = state["elapsed_steps"]
    return True


def _time_limit(env: gymnasium.Env) -> gymnasium.wrappers.TimeLimit | None:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env
        env = env.env
    return None
