"""Gymnasium tasks for the recipes: construction, and checks of their data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import RepeatAction, TransformAction
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import OneHot, TensorSpec
from torchrl.envs import DoubleToFloat, EnvBase, GymWrapper, TransformedEnv

from torchrl_recall.trainers.tasks.delayed_reward import DelayedReward
from torchrl_recall.trainers.tasks.gym_task import Actions, Backend, is_one_hot, make_task

__all__ = ["DivergenceError", "check_finite", "make_env", "model_specs", "to_task"]


class DivergenceError(FloatingPointError):
    """Error of a policy or a model whose weights or outputs are NaN or infinite."""


def make_env(
    name: str,
    device: torch.device | None = None,
    *,
    clip_actions: bool = False,
    seed: int | None = None,
    actions: Actions = "continuous",
    observation_keys: Sequence[str] | None = None,
    entry_point: str | None = None,
    backend: Backend = "gymnasium",
    frame_skip: int = 1,
    delay: int | Literal["end"] | None = None,
    render_mode: str | None = None,
) -> TransformedEnv:
    """Make a task whose observation is a vector, and whose action is a bounded vector or discrete.

    Args:
        name: a Gymnasium id such as ``Hopper-v5``; see
            :func:`~torchrl_recall.trainers.tasks.gym_task.make_task`.
        device: device of the environment's tensors; by default the CPU, on which the physics runs.

    Keyword Args:
        clip_actions: whether actions are clipped to their bounds, as a Gaussian policy needs it.
        seed: seed of the environment.
        actions: kind of actions that the recipe supports; discrete ones are one-hot.
        observation_keys: entries of a Dict observation, concatenated in this order.
        entry_point: ``module:function`` that returns the task, if it has no id.
        backend: library that has the task, ``gymnasium`` or ``dm_control``.
        frame_skip: number of steps of the task that each action is repeated for. Their rewards are
            summed, and the last observation is seen.
        delay: number of actions between payments of rewards, or ``"end"``; see
            :class:`~torchrl_recall.trainers.tasks.delayed_reward.DelayedReward`.
        render_mode: how the task is drawn; see
            :func:`~torchrl_recall.trainers.tasks.gym_task.make_task`.

    Returns:
        The environment, whose observations are float32.

    Raises:
        ConfigError: there is no such task, or its spaces are of another kind.
    """
    task = make_task(
        name,
        actions=actions,
        observation_keys=observation_keys,
        entry_point=entry_point,
        backend=backend,
        render_mode=render_mode,
    )
    if frame_skip > 1:
        task = RepeatAction(task, frame_skip)
    if delay is not None:
        task = DelayedReward(task, delay)
    on_cpu = device is None or device.type == "cpu"  # without a device nothing is cast
    env = TransformedEnv(GymWrapper(task, device=None if on_cpu else device), DoubleToFloat())
    if clip_actions:
        space = cast(Box, task.action_space)
        clip = partial(np.clip, a_min=space.low, a_max=space.high)
        env.base_env._env = TransformAction(env.base_env._env, clip, space)
    if seed is not None:
        env.set_seed(seed)
    return env


def model_specs(env: TransformedEnv) -> tuple[TensorSpec, TensorSpec]:
    """Return the specs of observation and action as a backtracking model needs them.

    One-hot vectors of a task with discrete observations get a one-hot spec.

    Args:
        env: environment of :func:`make_env`.

    Returns:
        The specs of observation and action.
    """
    observation, action = env.observation_spec_unbatched, env.action_spec_unbatched
    if is_one_hot(env.base_env._env):
        num_states = observation["observation"].shape[-1]
        observation = OneHot(num_states, dtype=torch.float32, device=env.device)
    return observation, action


def to_task(env: EnvBase) -> Callable[[Tensor], Any]:
    """Return the function that converts actions of the policy to actions of the Gymnasium task."""
    if isinstance(env.action_spec_unbatched, OneHot):
        return lambda action: int(action.argmax(-1))
    return lambda action: action.cpu().numpy()


def check_finite(data: TensorDictBase, *, env_name: str, frames: int) -> None:
    """Stop the run at the first NaN or infinity in collected data, and name its cause.

    Args:
        data: newly collected data, with time as the last dimension.

    Keyword Args:
        env_name: name of the environment, for the error.
        frames: number of environment steps, for the error.

    Raises:
        DivergenceError: the policy chose NaN.
        FloatingPointError: the environment returned NaN or infinity; the message names step and
            key.
    """
    keys = [key for key in _IN_ORDER if data.get(key, None) is not None]
    if all(_is_finite(data.get(key)) for key in keys):
        _check_chosen(data, frames)
        return
    # The first in time is the cause; within a step the observation comes before the action.
    key = min(keys, key=lambda key: _first_bad(data.get(key), data.shape))
    if key == "action":
        raise _diverged("NaN or infinity as an action", data, frames)
    raise FloatingPointError(
        f"{env_name} returned NaN or infinity in {key} within the {data.numel()} steps "
        f"after step {frames}. Mend the environment. A run was saved up to there, and goes on with "
        "resume=auto."
    )


def _check_chosen(data: TensorDictBase, frames: int) -> None:
    """Refuse one-hot actions without a one, which TorchRL's argmax makes of NaN values."""
    action = data.get("action", None)
    if action is None or action.is_floating_point() or action.ndim == data.ndim:
        return  # no action, a vector, or an index, as in the four rooms: 0 is one too
    if not action.any(-1).all():
        raise _diverged("no action, for all values are NaN,", data, frames)


def _diverged(chosen: str, data: TensorDictBase, frames: int) -> DivergenceError:
    return DivergenceError(
        f"the policy chose {chosen} within the {data.numel()} steps after step {frames}: training "
        "has diverged, so nothing was saved. Lower optim.lr or recall.lr, or set "
        "recall.max_deviation."
    )


# The entries of a step in the order in which they are computed.
_IN_ORDER: tuple[NestedKey, ...] = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
)


def _first_bad(tensor: Tensor, shape: torch.Size) -> int:
    """Return the first time step that is not finite, or one after the last if all are finite."""
    bad = ~tensor.isfinite().reshape(*shape, -1).all(-1)
    steps = bad.reshape(-1, shape[-1]).any(0).nonzero()
    return int(steps[0]) if len(steps) else shape[-1]


def _is_finite(tensor: Tensor) -> bool:
    # A sum is faster, and finite only if all of its terms are; it may itself overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
