"""Small sparse tasks in Gymnasium's interface, for experiments that take minutes.

In each task the reward is 1 at the goal and 0 elsewhere. Episodes end at the goal. They begin in
random states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from torchrl_recall.envs.sparse_dynamics import SPARSE_TASKS

__all__ = ["SparseTask", "SparseTaskVector", "goal_rule"]

Array = np.ndarray


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

    Raises:
        ValueError: there is no such task.

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
        if name not in SPARSE_TASKS:
            raise ValueError(f"there is no task {name!r}; take one of {', '.join(SPARSE_TASKS)}.")
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
