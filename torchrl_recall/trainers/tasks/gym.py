"""Gymnasium tasks for the recipes: making them, and checking what they return."""

from __future__ import annotations

import importlib
from functools import partial

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TransformAction
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import DoubleToFloat, GymEnv, TransformedEnv

from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = ["DivergenceError", "check_finite", "longest_episode", "make_env"]


class DivergenceError(FloatingPointError):
    """The policy's weights are no longer numbers."""


def make_env(
    name: str,
    device: torch.device | None = None,
    *,
    clip_actions: bool = False,
    seed: int | None = None,
) -> TransformedEnv:
    """Make a task with a vector observation and a bounded continuous action.

    Args:
        name: a Gymnasium id such as ``Hopper-v5``.
        device: where its tensors are put; the CPU, where the physics is, by default.

    Keyword Args:
        clip_actions: whether the task clips actions beyond its bounds, as a Gaussian policy chooses
            them.
        seed: of the environment.

    Returns:
        The environment, its observations as float32.

    Raises:
        ConfigError: there is no such task, or its spaces are of another kind.
    """
    _spec(name)
    on_cpu = device is None or device.type == "cpu"  # no device then means no casts
    try:
        env = TransformedEnv(GymEnv(name, device=None if on_cpu else device), DoubleToFloat())
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"env.name={name!r} could not be made: {reason}") from error
    keys = list(env.observation_spec.keys(True, True))
    spec = env.observation_spec[keys[0]]
    if not spec.dtype.is_floating_point and len(spec.shape) >= 2:
        raise ConfigError(
            f"{name} observes pixels, {tuple(spec.shape)} of {spec.dtype}; this recipe needs a "
            "vector of floats. Encode them first, with torchrl's ToTensorImage and an encoder."
        )
    if keys != ["observation"]:
        raise ConfigError(
            f"{name} has the observations {keys}; this recipe needs the single entry "
            "'observation'. Join dict observations into one vector with torchrl's CatTensors."
        )
    if not spec.dtype.is_floating_point or len(spec.shape) != 1:
        raise ConfigError(
            f"{name} observes {tuple(spec.shape)} of {spec.dtype}; this recipe needs a vector of "
            "floats. Flatten arrays with torchrl's FlattenObservation."
        )
    space = env.base_env._env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        raise ConfigError(
            f"{name} has discrete actions ({type(space).__name__}); this recipe needs continuous "
            "ones."
        )
    if len(space.shape) != 1:
        raise ConfigError(
            f"the actions of {name} have the shape {space.shape}; this recipe needs a vector. "
            "Flatten them with gymnasium.wrappers.TransformAction."
        )
    if not space.is_bounded():
        raise ConfigError(
            f"the actions of {name} have no finite bounds, which this recipe needs. "
            "Bound them with gymnasium.wrappers.ClipAction or RescaleAction."
        )
    if not (space.high > space.low).all():
        raise ConfigError(
            f"an action of {name} has zero width: its low and high bounds are equal. Remove that "
            "dimension from the action space."
        )
    if clip_actions:
        clip = partial(np.clip, a_min=space.low, a_max=space.high)
        env.base_env._env = TransformAction(env.base_env._env, clip, space)
    if seed is not None:
        env.set_seed(seed)
    return env


def _spec(name: str) -> EnvSpec:
    """Return a task's spec; ``module:Task-v0`` imports the module first, as Gymnasium does."""
    module, _, task = name.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(task)
    except ImportError as error:
        raise ConfigError(
            f"env.name={name!r}: the module {module!r} cannot be imported: {error}. "
            "Install it, or put its folder into PYTHONPATH."
        ) from error
    except gymnasium.error.Error as error:
        raise ConfigError(
            f"env.name={name!r} is not a registered Gymnasium task: {error}. "
            "`gymnasium.pprint_registry()` lists those installed."
        ) from error


def longest_episode(name: str) -> int | None:
    """Return the time limit of a Gymnasium task, if it has one."""
    return _spec(name).max_episode_steps


def check_finite(data: TensorDictBase, *, env_name: str, frames: int) -> None:
    """Stop at the first NaN or infinity, and say whose it is.

    Args:
        data: what was just collected, with time as its last dimension.

    Keyword Args:
        env_name: for the error.
        frames: environment steps taken, for the error.

    Raises:
        DivergenceError: it was the policy that chose NaN.
        FloatingPointError: naming environment, step and key.
    """
    keys = [key for key in _IN_ORDER if data.get(key, None) is not None]
    if all(_is_finite(data.get(key)) for key in keys):
        return
    # The first in time is the cause; within a step the observation comes before the action.
    key = min(keys, key=lambda key: _first_bad(data.get(key), data.shape))
    if key == "action":
        raise DivergenceError(
            f"the policy chose NaN or infinity as an action within the {data.numel()} steps after "
            f"step {frames}: training has diverged, so nothing was saved. Lower optim.lr or "
            "recall.lr, or set recall.max_deviation."
        )
    raise FloatingPointError(
        f"{env_name} returned NaN or infinity in {key} within the {data.numel()} steps "
        f"after step {frames}. The run was saved up to there; mend the environment, then "
        "go on with resume=auto."
    )


# The entries of a step in the order in which they come about.
_IN_ORDER: tuple[NestedKey, ...] = (
    "observation",
    "action",
    ("next", "observation"),
    ("next", "reward"),
)


def _first_bad(tensor: Tensor, shape: torch.Size) -> int:
    """Return the first time step that is not finite; one beyond the last if all are."""
    bad = ~tensor.isfinite().reshape(*shape, -1).all(-1)
    steps = bad.reshape(-1, shape[-1]).any(0).nonzero()
    return int(steps[0]) if len(steps) else shape[-1]


def _is_finite(tensor: Tensor) -> bool:
    # A sum is faster, and finite only if all of its terms are; it may itself overflow.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
