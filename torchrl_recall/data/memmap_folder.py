"""TorchRL's and TensorDict's layouts of a data set in memory-mapped files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.checks import next_key
from torchrl_recall.data.minari_file import DataSetError

__all__ = ["FLAGS", "KNOWN_BY", "MASK", "STEPS", "entry", "read_dump", "read_memmap"]

# Entries that tell which steps belong together.
KNOWN_BY: tuple[NestedKey, ...] = (
    "is_init", "step_count", "elapsed_steps", ("collector", "traj_ids"),
)  # fmt: skip
MASK = ("collector", "mask")
STEPS = "steps_to_next_obs"
FLAGS = ("done", "terminated", "truncated")


def read_dump(folder: Path, observation_keys: Sequence[str]) -> TensorDictBase:
    """Read the written rows of a replay buffer, oldest first.

    Args:
        folder: of ``replay_buffer.dumps``.
        observation_keys: entries of the state.

    Returns:
        Transitions of shape ``[time]`` or ``[streams, time]``.

    Raises:
        DataSetError: it is damaged, or its order cannot be told.
    """
    data = read_memmap(folder / "storage", observation_keys)
    told = _json(folder / "storage" / "storage_metadata.json")
    try:
        length = int(told["len"])
        writer = folder / "writer" / "metadata.json"
        cursor = int(_json(writer).get("cursor", 0)) if writer.is_file() else 0
    except (KeyError, TypeError, ValueError) as error:
        raise DataSetError(f"{folder}: its metadata are damaged ({error!r}).") from error
    num_rows = data.shape[0]
    if not 0 <= length <= data.shape.numel():
        raise DataSetError(f"{folder} says that it has {length} rows, but has {num_rows}.")
    if data.ndim == 1:
        return _oldest_first(data, length, cursor)
    if data.ndim > 2:
        raise DataSetError(
            f"{folder} has the shape {tuple(data.shape)}; [time, streams] or [trajectories, time] "
            "is expected. Flatten it to one of them."
        )
    found = {}  # layouts, by their share of steps that follow each other
    if length <= num_rows:  # an item is a trajectory
        items = _oldest_first(data, length, cursor)
        found["trajectories"] = items, _continuity(items, observation_keys)
    if length % data.shape[1] == 0:  # an item is a step of each stream
        streams = _oldest_first(data, length // data.shape[1], cursor).transpose(0, 1)
        found["streams"] = streams, _continuity(streams, observation_keys)
    shares = [share for _, share in found.values()]
    if not found or (len(found) == 2 and (shares[0] == shares[1] or max(shares) < 0.5)):
        raise DataSetError(
            f"{folder} has the shape {tuple(data.shape)} and {length} items, which may be whole "
            "trajectories, or steps of several environments: no order has steps that follow each "
            "other. Write it flat, data.reshape(-1).memmap(path)."
        )
    return max(found.values(), key=lambda each: each[1])[0]


def read_memmap(folder: Path, observation_keys: Sequence[str]) -> TensorDictBase:
    """Read the needed entries of a TensorDict on disk.

    Args:
        folder: of ``data.memmap``.
        observation_keys: entries of the state.

    Returns:
        The entries that there are, of the shape on disk.

    Raises:
        DataSetError: it is damaged.
    """
    meta = _json(folder / "meta.json")
    try:
        data = TensorDict({}, batch_size=[int(n) for n in meta["shape"]])
    except (KeyError, TypeError, ValueError) as error:
        raise DataSetError(f"{folder / 'meta.json'} names no shape ({error!r}).") from error
    if not data.ndim:
        raise DataSetError(f"{folder} has no time dimension.")
    wanted: list[NestedKey] = [*observation_keys, "action", *KNOWN_BY, MASK, STEPS]
    wanted += [next_key(key) for key in (*observation_keys, "reward", *FLAGS)]
    for key in wanted:
        parts = (key,) if isinstance(key, str) else key
        value = _read_tensor(folder.joinpath(*parts[:-1]), parts[-1])
        if value is None:
            continue
        if value.shape[: data.ndim] != data.shape:
            raise DataSetError(f"{folder}: {key} has the shape {tuple(value.shape)}.")
        data.set(key, value)
    return data


def entry(data: TensorDictBase, key: NestedKey) -> Tensor:
    """Return an entry.

    Args:
        data: transitions.
        key: of the entry.

    Returns:
        The entry.

    Raises:
        DataSetError: there is none.
    """
    value = data.get(key, None)
    if value is None:
        held = sorted(".".join((k,) if isinstance(k, str) else k) for k in data.keys(True, True))
        name = key if isinstance(key, str) else ".".join(key)
        raise DataSetError(
            f"there is no {name!r} among {held}. Rename the data's entries as TorchRL's "
            "environments do; entries of a Dict observation are named by env.observation_keys."
        )
    return value


def _oldest_first(data: TensorDictBase, num: int, cursor: int) -> TensorDictBase:
    """Return the written rows in the order in which they were written."""
    if num == data.shape[0] and 0 < cursor < num:  # the oldest follow the newest
        return cast(TensorDictBase, torch.cat([data[cursor:], data[:cursor]]))
    return data[:num]


def _continuity(data: TensorDictBase, observation_keys: Sequence[str]) -> float:
    """Return the share of steps ``[streams, time]`` whose next state is that of the next step."""
    key = next((k for k in observation_keys if data.get(k, None) is not None), "observation")
    state, following = entry(data, key), entry(data, ("next", key))
    num = (data.shape[0], data.shape[1] - 1)
    if not torch.Size(num).numel():
        return 0.0
    counts = torch.ones(num, dtype=torch.bool)
    for flag in FLAGS:
        if (ends := data.get(("next", flag), None)) is not None:
            counts &= ~ends[:, :-1].reshape(*num).bool()
    if (mask := data.get(MASK, None)) is not None:
        counts &= mask[:, 1:].reshape(*num)
    same = (following[:, :-1] == state[:, 1:]).reshape(*num, -1).all(-1)
    return float(same[counts].float().mean()) if counts.any() else 0.0


def _read_tensor(folder: Path, name: str) -> Tensor | None:
    """Read the array of an entry; return None if there is no such entry."""
    meta = folder / "meta.json"
    found = _json(meta).get(name) if meta.is_file() else None
    if not isinstance(found, dict) or "dtype" not in found:
        return None
    file = folder / f"{name}.memmap"
    try:
        dtype = getattr(torch, found["dtype"].removeprefix("torch."))
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"no type {found['dtype']}")
        shape = torch.Size([int(n) for n in found["shape"]])
        if file.stat().st_size != shape.numel() * dtype.itemsize:
            raise ValueError(f"{file.stat().st_size} bytes do not make {tuple(shape)} of {dtype}")
        if not shape.numel():
            return torch.zeros(shape, dtype=dtype)
        numbers = torch.from_file(str(file), shared=False, size=shape.numel(), dtype=dtype)
        return numbers.reshape(shape)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataSetError(f"{file} cannot be read: {error}. Make the data set again.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no keys")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise DataSetError(f"{path} cannot be read: {error}. Make the data set again.") from error
