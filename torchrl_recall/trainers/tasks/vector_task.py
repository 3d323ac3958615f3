"""Several environments of a Gymnasium task in this process, stepped together."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import ClipAction

from torchrl_recall.trainers.tasks.gym import make_env

__all__ = ["make_vector", "own_vector"]


def own_vector(name: str, making: dict[str, Any], num_envs: int) -> VectorEnv | None:
    """Make a task's own vector version.

    Args:
        name: a Gymnasium id.
        making: other arguments of :func:`~torchrl_recall.trainers.tasks.gym.make_env`. A vector
            version does not support them.
        num_envs: number of environments.

    Returns:
        The environments; None if the task has no vector version with continuous actions.
    """
    spec = gymnasium.registry.get(name)
    if spec is None or spec.vector_entry_point is None:
        return None
    if making["entry_point"] is not None or making["observation_keys"] is not None:
        return None
    if making.get("frame_skip", 1) > 1 or making.get("delay") is not None:
        return None
    vector = gymnasium.make_vec(name, num_envs, vectorization_mode="vector_entry_point")
    return vector if isinstance(vector.single_action_space, Box) else None


def make_vector(
    name: str, num_envs: int, making: dict[str, Any], *, clip_actions: bool = False
) -> VectorEnv:
    """Make several environments that are stepped together, and reset in the step of an end.

    The task's own vector version is used if it resets in the same step. Otherwise several single
    tasks are made, because other vector versions lose a step at each end of an episode.

    Args:
        name: name of the task.
        num_envs: number of environments.
        making: other arguments of :func:`~torchrl_recall.trainers.tasks.gym.make_env`.

    Keyword Args:
        clip_actions: whether actions are clipped to their bounds.

    Returns:
        The environments.
    """
    own = own_vector(name, making, num_envs)
    if own is not None and own.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP:
        return ClipAction(own) if clip_actions else own
    if own is not None:
        own.close()
    make = partial(_make_task, name, clip_actions=clip_actions, **making)
    return SyncVectorEnv([make] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def _make_task(name: str, **making: Any) -> gymnasium.Env:
    """Make the task as :func:`~torchrl_recall.trainers.tasks.gym.make_env` does."""
    env = make_env(name, **making)
    task = env.base_env._env
    task.made_for = env  # a reference: the environment closes the task when it is deleted
    return task
