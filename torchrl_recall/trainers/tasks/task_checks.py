"""Checks of a task: its spaces, and what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = [
    "check_continuous",
    "check_discrete",
    "check_observation_space",
    "entries_of",
    "returns_numbers",
]

# A larger array is an image.
_SMALL = 1_000


def entries_of(
    name: str, space: gymnasium.Space, observation_keys: Sequence[str] | None
) -> dict[str, gymnasium.Space]:
    """Return the spaces of an observation's entries by key; a single one has the key ''."""
    if not isinstance(space, Dict):
        if observation_keys is not None:
            raise ConfigError(
                f"env.observation_keys={list(observation_keys)}, but {name} observes a "
                f"{type(space).__name__}, not a Dict; use env.observation_keys=null."
            )
        return {"": space}
    if not observation_keys:
        raise ConfigError(
            f"{name} has the observations {list(space)}; name those to join into one vector with "
            f"env.observation_keys=[{','.join(space)}]."
        )
    if unknown := [key for key in observation_keys if key not in space.spaces]:
        raise ConfigError(
            f"env.observation_keys={list(observation_keys)}, but {name} has no observation "
            f"{unknown}; it has {list(space)}."
        )
    return {key: space[key] for key in observation_keys}


def check_observation_space(name: str, space: gymnasium.Space) -> None:
    """Refuse observations that cannot become one vector of numbers."""
    if isinstance(space, Discrete):
        return
    if not isinstance(space, Box):
        raise ConfigError(
            f"{name} observes a {type(space).__name__}; this recipe needs a vector of numbers. "
            "Turn it into one with gymnasium.wrappers.FlattenObservation."
        )
    size = int(np.prod(space.shape))
    if not size:
        raise ConfigError(
            f"{name} observes {space.shape} of {space.dtype}; this recipe needs at least one "
            "number."
        )
    if len(space.shape) >= 2 and size > _SMALL:
        raise ConfigError(
            f"{name} observes an image or as large an array, {space.shape} of {space.dtype}; this "
            "recipe needs a vector of numbers. Encode it first, with an encoder of your own "
            "(docs/pipelines/pixels.md), or gymnasium.wrappers.FlattenObservation."
        )


def check_discrete(name: str, space: gymnasium.Space) -> None:
    """Refuse actions that are not counted from 0."""
    if not isinstance(space, Discrete):
        raise ConfigError(
            f"the actions of {name} are {type(space).__name__}; this recipe needs discrete ones. "
            "sac_recall.py takes vectors of floats."
        )
    if space.start:
        raise ConfigError(
            f"the actions of {name} begin with {space.start}; this recipe counts from 0. Shift "
            "them with gymnasium.wrappers.TransformAction."
        )


def check_continuous(name: str, space: gymnasium.Space) -> None:
    """Refuse actions that are not a vector of floats with finite bounds."""
    if not isinstance(space, Box):
        discrete = isinstance(space, gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete)
        kind = "discrete actions" if discrete else "actions of another kind than a vector"
        raise ConfigError(
            f"{name} has {kind} ({type(space).__name__}); this recipe needs continuous ones."
            f"{' dqn_recall.py takes discrete ones.' if isinstance(space, Discrete) else ''}"
        )
    if not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(
            f"the actions of {name} are {space.dtype}; this recipe needs continuous ones. Take "
            "floats and round them with gymnasium.wrappers.TransformAction."
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


def returns_numbers(
    name: str, make: Callable[[], gymnasium.Env], keys: dict[str, gymnasium.Space]
) -> bool:
    """Try a task that is not part of Gymnasium once, on a temporary instance.

    Returns:
        Whether observations are arrays and rewards are numbers, so that no cast is needed.
    """
    with make() as task:
        parameters = inspect.signature(task.unwrapped.reset).parameters
        if not {"seed", "kwargs"} & set(parameters):
            raise ConfigError(
                f"reset() of {name} takes no seed; write it as Gymnasium does: "
                "def reset(self, *, seed=None, options=None), with super().reset(seed=seed)."
            )
        task.action_space.seed(0)
        returned = task.reset(seed=0)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ConfigError(
                f"reset() of {name} returns {_kind(returned)}, not (observation, info). Tasks of "
                "the old Gym interface are wrapped by shimmy's GymV21CompatibilityV0."
            )
        step = _without_makes_wrappers(task).step(task.action_space.sample())
        if not isinstance(step, tuple) or len(step) != 5:
            raise ConfigError(
                f"step() of {name} returns {_kind(step)}, not (observation, reward, terminated, "
                "truncated, info). Tasks of the old Gym interface are wrapped by shimmy's "
                "GymV21CompatibilityV0."
            )
    reward = np.asarray(step[1])
    if reward.size != 1 or reward.dtype.kind not in "biuf":
        raise ConfigError(
            f"the reward of {name} is {_kind(step[1])}; this recipe needs one number. Sum several "
            "with gymnasium.wrappers.TransformReward."
        )
    for key, space in keys.items():
        for observation in (returned[0], step[0]):
            value = observation[key] if key else observation
            if np.asarray(value).shape != space.shape:
                raise ConfigError(
                    f"{name} observes {_kind(value)}, but its observation space says "
                    f"{space.shape}. Mend the space or the observation."
                )
    return isinstance(step[0], np.ndarray) and not reward.ndim


def _without_makes_wrappers(task: gymnasium.Env) -> gymnasium.Env:
    """Remove the wrappers of ``gymnasium.make``, which fail if a step returns other than five."""
    while isinstance(task, TimeLimit | OrderEnforcing | PassiveEnvChecker):
        task = task.env
    return task


def _kind(value: Any) -> str:
    """Describe the type of a returned value in one or two words."""
    if isinstance(value, tuple):
        return f"{len(value)} values"
    shape = np.shape(value)
    return f"{type(value).__name__} of shape {shape}" if shape else repr(value)
