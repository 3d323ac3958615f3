"""Gymnasium tasks of the recipes, which are checked and observe one vector of floats."""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Literal, cast

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Discrete, flatten, flatten_space
from gymnasium.wrappers import RepeatAction, TimeLimit, TransformObservation

from torchrl_recall.trainers.entry_points import load_function
from torchrl_recall.trainers.schema.parts import ConfigError
from torchrl_recall.trainers.tasks.task_checks import (
    check_continuous,
    check_discrete,
    check_observation_space,
    entries_of,
    returns_numbers,
)

__all__ = ["Actions", "Backend", "is_one_hot", "longest_episode", "make_task"]

Actions = Literal["continuous", "discrete"]
Backend = Literal["gymnasium", "dm_control"]


def make_task(
    name: str,
    *,
    actions: Actions = "continuous",
    observation_keys: Sequence[str] | None = None,
    entry_point: str | None = None,
    backend: Backend = "gymnasium",
    render_mode: str | None = None,
) -> gymnasium.Env:
    """Make a Gymnasium task whose observation is one vector of floats.

    Integers, lists and the named entries of a Dict are converted to such a vector. A discrete
    observation becomes a one-hot vector. A small array, such as MiniGrid's symbols, is flattened.

    Args:
        name: a Gymnasium id such as ``Hopper-v5`` or ``module:Task-v0``, or domain and task of
            dm_control's suite, such as ``cartpole-swingup_sparse``.

    Keyword Args:
        actions: kind of actions that the recipe supports.
        observation_keys: entries of a Dict observation, concatenated in this order. By default all
            observations of a dm_control task are concatenated, in the order of their names.
        entry_point: ``module:function`` that returns the task, if it has no id. ``name`` is then
            used for folders and messages only.
        backend: library that has the task, ``gymnasium`` or ``dm_control``.
        render_mode: how the task is drawn, such as ``rgb_array``. For a task made by
            ``entry_point``, the function decides.

    Returns:
        The task.

    Raises:
        ConfigError: there is no such task, its observations are of another kind, it breaks
            Gymnasium's interface, or it cannot be drawn.
    """
    make = _maker(name, entry_point, backend, render_mode)
    task = make()
    if render_mode is not None:
        _check_drawn(name, task, render_mode)
    space = task.observation_space
    if backend == "dm_control" and observation_keys is None and isinstance(space, Dict):
        observation_keys = list(space)
    keys = entries_of(name, space, observation_keys)
    for part, entry in keys.items():
        check_observation_space(f"{name}{f'[{part!r}]' if part else ''}", entry)
    check = check_continuous if actions == "continuous" else check_discrete
    check(name, task.action_space)
    is_gymnasiums_own = _is_gymnasiums_own(task)
    numbers = True if is_gymnasiums_own else returns_numbers(name, make, keys)
    is_vector = isinstance(space, Box) and len(space.shape) == 1
    if not (numbers and is_vector and space.dtype in (np.float32, np.float64)):
        return _AsVector(task, keys)
    # A task that returns its own array would change observations that are not read yet.
    return task if is_gymnasiums_own else TransformObservation(task, np.array, space)


def _is_gymnasiums_own(task: gymnasium.Env) -> bool:
    """Return whether a task and all of its wrappers are Gymnasium's."""
    while isinstance(task, gymnasium.Wrapper) and type(task).__module__.startswith("gymnasium."):
        task = task.env
    return type(task).__module__.startswith("gymnasium.envs.")


def longest_episode(task: gymnasium.Env) -> int | None:
    """Return the time limit of a task in actions; None if it is unknown."""
    limit = None if task.spec is None else task.spec.max_episode_steps
    repeats = 1
    while isinstance(task, gymnasium.Wrapper) and not isinstance(task, TimeLimit):
        repeats *= task.num_repeats if isinstance(task, RepeatAction) else 1
        task = task.env
    return None if limit is None else math.ceil(limit / repeats)


def is_one_hot(task: gymnasium.Env) -> bool:
    """Return whether a task made here turns one discrete observation into a one-hot vector."""
    return isinstance(task, _AsVector) and isinstance(task.entries.get(""), Discrete)


def _maker(
    name: str, entry_point: str | None, backend: Backend, render_mode: str | None
) -> Callable[[], gymnasium.Env]:
    """Return a function that makes the task, by its id or by a function of the user."""
    if backend == "dm_control":
        return _dm_control_maker(name)
    if entry_point is None:
        _spec(name)
        return lambda: _made(name, {} if render_mode is None else {"render_mode": render_mode})
    make = load_function(entry_point, key="env.entry_point")
    try:
        inspect.signature(make, follow_wrapped=False).bind()
    except TypeError as error:
        raise ConfigError(
            f"env.entry_point={entry_point!r} is called without arguments: {error}. Name a "
            "function that needs none."
        ) from error
    except ValueError:  # compiled code may hide its signature
        pass
    if name in gymnasium.registry:
        warnings.warn(
            f"env.entry_point={entry_point!r} makes the task, but env.name={name!r} is that of a "
            "registered one, under which its folder and results go. Give it a name of its own, "
            "such as env.name=mine.",
            stacklevel=2,
        )

    def checked() -> gymnasium.Env:
        task = make()
        if not isinstance(task, gymnasium.Env):
            raise ConfigError(
                f"env.entry_point={entry_point!r} returned a {type(task).__name__}, not a "
                "gymnasium.Env. Compose environments of TorchRL in a loop of your own."
            )
        return task

    return checked


def _dm_control_maker(name: str) -> Callable[[], gymnasium.Env]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a machine without a display
            from torchrl_recall.trainers.tasks.dm_control import NAMES, DMControlTask
    except ImportError as error:
        raise ConfigError(
            f"env.backend=dm_control needs dm_control and shimmy ({error}): "
            "pip install 'torchrl-recall[dm_control]'."
        ) from error
    if name not in NAMES:
        near = " or ".join(get_close_matches(name, NAMES, cutoff=0.0))
        raise ConfigError(f"env.name={name!r} is no task of dm_control's suite, such as {near}.")

    def make() -> gymnasium.Env:
        try:
            return DMControlTask(name)
        except AttributeError as error:  # it reads fields of MuJoCo's structures by name
            raise ConfigError(
                f"the installed dm_control does not work with MuJoCo {mujoco.__version__} "
                f"({error}): pip install 'mujoco<4'."
            ) from error

    return make


def _made(name: str, options: dict[str, Any]) -> gymnasium.Env:
    try:
        with warnings.catch_warnings():
            if options:  # refuse a render mode that the task lacks, of which Gymnasium only warns
                warnings.simplefilter("ignore")
            return gymnasium.make(name, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"env.name={name!r} could not be made: {reason}.{_newest(name)}"
        ) from error


def _check_drawn(name: str, task: gymnasium.Env, render_mode: str) -> None:
    can = task.metadata.get("render_modes", [])
    if task.render_mode != render_mode or render_mode not in can:
        raise ConfigError(
            f"{name} does not draw itself as {render_mode} (it knows {can or 'no way'}, and was "
            f"made with render_mode={task.render_mode}). Leave the picture out; a function in "
            f"env.entry_point can make its task with render_mode={render_mode!r}."
        )


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
            f"env.name={name!r} is not a registered Gymnasium task: {str(error).rstrip('.')}."
            f"{_newest(task)} `gymnasium.pprint_registry()` lists those installed."
        ) from error


def _newest(task: str) -> str:
    """Return advice to use the newest version of a task, if the given one is older."""
    family = [spec for spec in gymnasium.registry.values() if spec.version is not None]
    same = [spec for spec in family if spec.id.rpartition("-v")[0] == task.rpartition("-v")[0]]
    newest = max(same, key=lambda spec: spec.version or 0, default=None)
    return "" if newest is None or newest.id == task else f" The newest version is {newest.id}."


class _AsVector(gymnasium.Wrapper):
    """Wrapper that casts observations to one float32 vector, and rewards to numbers."""

    def __init__(self, task: gymnasium.Env, keys: dict[str, gymnasium.Space]) -> None:
        super().__init__(task)
        self.entries = keys
        boxes = [cast(Box, flatten_space(space)) for space in keys.values()]
        low, high = (np.concatenate([getattr(b, end) for b in boxes]) for end in ("low", "high"))
        self.observation_space = Box(low.astype(np.float32), high.astype(np.float32))

    def reset(self, **kwargs) -> tuple[np.ndarray, dict]:
        observation, info = self.env.reset(**kwargs)
        return self._vector(observation), info

    def step(self, action) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        number = float(np.asarray(reward).item())
        return self._vector(observation), number, terminated, truncated, info

    def _vector(self, observation: Any) -> np.ndarray:
        vectors = []
        for key, space in self.entries.items():
            part = observation[key] if key else observation
            part = flatten(space, part) if isinstance(space, Discrete) else part  # one-hot
            vectors.append(np.asarray(part, np.float32).ravel())
        return np.concatenate(vectors)
