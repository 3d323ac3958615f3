"""State that a task and its wrappers keep in Python, such as running means of observations."""

from __future__ import annotations

import logging
import types
from collections import deque
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from gymnasium.envs.registration import EnvSpec

from torchrl_recall.trainers.runs.packing import MOST_BYTES

__all__ = ["load_python_state", "python_state"]


# Attributes that influence nothing, or that are saved elsewhere.
_NOT_STATE = (
    gymnasium.Space, EnvSpec, MujocoRenderer, mujoco.MjModel,
    types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, type,
    partial, logging.Logger,
)  # fmt: skip
_Known = dict[int, tuple[int, Any]]  # number and value of what can be changed in place, by id
_PLAIN = (type(None), bool, int, float, str)
_DEPTH = 8
_OWN = "get_state()"  # key of a layer's own state, instead of its attributes


class _CannotBeSavedError(Exception):
    """Error of an attribute of a type that checkpoints cannot hold."""


def python_state(env: gymnasium.Env) -> dict:
    """Return the state that a task and its wrappers keep in Python attributes.

    If a layer has ``get_state()`` and ``set_state(state)``, these are used. Of other layers,
    numbers, text, arrays, tensors, generators, containers and objects of these are saved. An object
    is saved if its attributes are its whole state, as for pickle. What has two names keeps both.

    Args:
        env: the task with its wrappers.

    Returns:
        ``layers``, outermost first, and ``unsaved``, the attributes that cannot be saved.
    """
    layers: list[dict] = []
    unsaved: list[str] = []
    known: _Known = {}
    for layer in _layers(env):
        name = type(layer).__name__
        asked = _has_protocol(layer)
        values = {_OWN: layer.get_state()} if asked else vars(layer)  # type: ignore[attr-defined]
        saved = {}
        for key, value in values.items():
            if key == "env" or (key == "data" and isinstance(value, mujoco.MjData)):
                continue  # the next layer, and what MuJoCo itself saves
            found = dict(known)
            try:
                saved[key] = _pack(value, _DEPTH, found)
                known = found
            except _CannotBeSavedError as error:
                unsaved.append(f"{name}.{key} ({error})")
        layers.append({"attributes": saved})
    return {"layers": layers, "unsaved": unsaved}


def load_python_state(env: gymnasium.Env, state: dict) -> list[str]:
    """Restore :func:`python_state`.

    Args:
        env: a task that was made in the same way.
        state: the saved state.

    Returns:
        Names of attributes that could not be saved or restored.
    """
    lost = list(state["unsaved"])
    known: dict[int, Any] = {}
    for layer, saved in zip(_layers(env), state["layers"], strict=True):
        for key, item in saved["attributes"].items():
            try:
                if key == _OWN:
                    layer.set_state(_unpack(item, None, known))  # type: ignore[attr-defined]
                else:
                    setattr(layer, key, _unpack(item, getattr(layer, key, None), known))
            except _CannotBeSavedError as error:
                lost.append(f"{type(layer).__name__}.{key} ({error})")
    return lost


def _layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def _has_protocol(layer: gymnasium.Env) -> bool:
    return all(callable(getattr(type(layer), name, None)) for name in ("get_state", "set_state"))


def _pack(value: Any, depth: int, known: _Known) -> dict:
    """Convert a value to plain containers that name its type.

    What can be changed in place also gets a number, by which later names of it refer to it.
    """
    if isinstance(value, np.number | np.bool_):  # of float32, later steps round as before
        return {"scalar": np.asarray(_supported(value))[()]}
    if isinstance(value, _PLAIN):
        return {"plain": value}
    if isinstance(value, _NOT_STATE):
        return {"present": None}
    if not depth:
        raise _CannotBeSavedError(f"{type(value).__name__}, nested too deep")
    if isinstance(value, Enum):
        return {"enum": [type(value).__qualname__, value.name]}
    if type(value) is tuple:
        return {"tuple": [_pack(item, depth - 1, known) for item in value]}
    if id(value) in known:
        return {"same": known[id(value)][0]}
    packed = _pack_mutable(value, depth, known)
    number = len(known)
    known[id(value)] = number, value  # a reference: another object must not get its id
    return packed | {"number": number}


def _pack_mutable(value: Any, depth: int, known: _Known) -> dict:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": _supported(value).copy()}
    if isinstance(value, torch.Tensor):
        return {"tensor": value.detach().clone()}
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if type(value) is list:
        return {"list": [_pack(item, depth - 1, known) for item in value]}
    if type(value) is deque:
        return {"deque": [value.maxlen, [_pack(item, depth - 1, known) for item in value]]}
    if type(value) is dict and all(isinstance(key, str | int | float) for key in value):
        return {"dict": {key: _pack(item, depth - 1, known) for key, item in value.items()}}
    if _is_its_attributes(value):
        attributes = {key: _pack(item, depth - 1, known) for key, item in vars(value).items()}
        return {"object": {"class": type(value).__qualname__, "attributes": attributes}}
    raise _CannotBeSavedError(type(value).__name__)


def _supported(value: Any) -> Any:
    """Return numbers that a checkpoint holds; refuse longer ones."""
    if value.dtype.itemsize > MOST_BYTES:
        raise _CannotBeSavedError(f"numbers of {value.dtype}")
    return value


def _is_its_attributes(value: Any) -> bool:
    """Return whether the attributes of an object are its whole state."""
    kind = type(value)
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, gymnasium.Env)
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__setattr__ is object.__setattr__  # frozen dataclasses refuse it
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )


def _unpack(packed: dict, present: Any, known: dict[int, Any]) -> Any:
    """Restore a value; objects and generators are changed in place."""
    packed = dict(packed)
    number = packed.pop("number", None)
    ((kind, value),) = packed.items()
    if kind == "same":
        if value not in known:
            raise _CannotBeSavedError("another name of what could not be restored")
        return known[value]
    restored = _restored(kind, value, present, known)
    if number is not None:
        known[number] = restored
    return restored


def _restored(kind: str, value: Any, present: Any, known: dict[int, Any]) -> Any:
    if kind == "present":
        return present
    if kind in ("list", "tuple", "deque"):
        longest, items = value if kind == "deque" else (None, value)
        before = list(present) if isinstance(present, list | tuple | deque) else []
        before += [None] * (len(items) - len(before))
        items = [_unpack(item, was, known) for item, was in zip(items, before, strict=False)]
        if kind == "deque":
            return deque(items, longest)
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        old = present if isinstance(present, dict) else {}
        return {key: _unpack(item, old.get(key), known) for key, item in value.items()}
    if kind == "object":
        if type(present).__qualname__ != value["class"]:
            raise _CannotBeSavedError("an object that is made after the first reset")
        for key, item in value["attributes"].items():
            setattr(present, key, _unpack(item, getattr(present, key, None), known))
        return present
    if kind == "enum":
        if type(present).__qualname__ != value[0]:
            raise _CannotBeSavedError("a member that is chosen after the first reset")
        return type(present)[value[1]]
    if kind == "generator":
        if not isinstance(present, np.random.Generator):
            raise _CannotBeSavedError("a generator that is made after the first reset")
        present.bit_generator.state = value
        return present
    return value
