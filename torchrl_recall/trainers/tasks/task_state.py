"""State of a task, from which an episode continues."""

from __future__ import annotations

import hashlib
import warnings

import gymnasium
import mujoco
import numpy as np
from torchrl.envs import TransformedEnv

from torchrl_recall.trainers.tasks.python_state import load_python_state, python_state

__all__ = ["env_state_dict", "load_env_state_dict"]


def env_state_dict(env: TransformedEnv) -> dict:
    """Return the state from which a task continues, and the names of what cannot be saved.

    Args:
        env: environment of :func:`make_env`.

    Returns:
        State that the task and its wrappers keep in Python: random generators, time limits, running
        statistics. For a MuJoCo task also its integration state, derived arrays, and a hash of its
        model. Other tasks continue only if all of their attributes could be saved.
    """
    wrapped = env.base_env._env
    task = wrapped.unwrapped
    if not _is_mujoco(task):
        return {"python": python_state(wrapped)}
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(task.model, kind))
    mujoco.mj_getState(task.model, task.data, state, kind)
    return {
        "integration": state,
        "derived": {name: array.copy() for name, array in _arrays(task.data).items()},
        "model_sha256": _model_sha256(task.model),
        "python": python_state(wrapped),
    }


def load_env_state_dict(env: TransformedEnv, state: dict | None) -> bool:
    """Restore :func:`env_state_dict` into a freshly reset environment.

    Args:
        env: environment of :func:`make_env` that was reset at least once.
        state: the saved state.

    Returns:
        Whether the episode continues; if not, a new episode begins.
    """
    if state is None:
        return _lost(env.base_env._env, [])
    wrapped = env.base_env._env
    task = wrapped.unwrapped
    if not _is_mujoco(task):
        lost = load_python_state(wrapped, state["python"])
        return _lost(wrapped, lost) if lost else True
    mujoco.mj_setState(
        task.model, task.data, state["integration"], mujoco.mjtState.mjSTATE_INTEGRATION
    )
    arrays = _arrays(task.data)
    for name, value in state["derived"].items():
        if name in arrays and arrays[name].shape == value.shape:
            arrays[name][...] = value
    if lost := load_python_state(wrapped, state["python"]):
        warnings.warn(
            f"{', '.join(lost)} could not be saved, so the resumed run is not bitwise the "
            "uninterrupted one. Give the wrapper get_state() and set_state(state), which return "
            "and take numbers, arrays, lists and dicts.",
            stacklevel=2,
        )
    if _model_sha256(task.model) != state["model_sha256"]:
        warnings.warn(
            f"the physical model of {_name(wrapped)} was changed after it was made (a mass, a "
            "friction, ...), which is not saved: the resumed run is not bitwise the uninterrupted "
            "one.",
            stacklevel=2,
        )
    return True


def _arrays(data: mujoco.MjData) -> dict[str, np.ndarray]:
    """Return all arrays of a simulation.

    Most are no part of its integration state, but observations and rewards may read any of them
    before the next step computes them again. Those of constraints have as many rows as there are
    contacts.
    """
    named = {name: getattr(data, name) for name in dir(data) if not name.startswith("_")}
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    }


def _is_mujoco(task: gymnasium.Env) -> bool:
    return isinstance(getattr(task, "data", None), mujoco.MjData)


def _lost(env: gymnasium.Env, lost: list[str]) -> bool:
    """Warn that the episode does not continue."""
    what = f" ({', '.join(lost)})" if lost else ""
    warnings.warn(
        f"the state of {_name(env)} could not be saved and restored{what}: the resumed run starts "
        "a new episode and is not bitwise the uninterrupted one. Give the task get_state() and "
        "set_state(state), which return and take numbers, arrays, lists and dicts.",
        stacklevel=3,
    )
    return False


def _name(env: gymnasium.Env) -> str:
    return type(env.unwrapped).__name__ if env.spec is None else env.spec.id


def _model_sha256(model: mujoco.MjModel) -> str:
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()
