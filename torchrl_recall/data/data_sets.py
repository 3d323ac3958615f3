"""Data sets of past experience: TorchRL's dumps and Minari's HDF5, read without unpickling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, OneHot, TensorSpec

from torchrl_recall.data.memmap_folder import (
    FLAGS,
    KNOWN_BY,
    MASK,
    STEPS,
    entry,
    read_dump,
    read_memmap,
)
from torchrl_recall.data.minari_file import DataSetError, find_minari, read_minari

__all__ = ["DataSetError", "conform", "read_data_set"]

_TOLERANCE = 1e-3  # share of an action's range; actions out of bounds by less are clamped


def read_data_set(
    path: str | Path,
    observation_spec: TensorSpec,
    action_spec: TensorSpec,
    *,
    observation_keys: Sequence[str] | None = None,
) -> TensorDict:
    """Read a data set, and check that it belongs to a task.

    Three layouts are read: the folder of TorchRL's ``replay_buffer.dumps(path)``, the folder of
    TensorDict's ``data.memmap(path)``, which ``torchrl_recall.record`` writes, and a Minari data
    set with its ``data/main_data.hdf5``. Nothing is unpickled. Arrays are read by the shapes that
    JSON or HDF5 gives, and other files are ignored.

    Args:
        path: the folder, or an HDF5 file.
        observation_spec: spec of one state, a vector.
        action_spec: spec of one action.

    Keyword Args:
        observation_keys: entries of the data that make up the state, concatenated in this order.

    Returns:
        Transitions in order of time, shape ``[time]`` or ``[streams, time]``, in environment units.
        They have ``observation`` and ``action``, and under ``next`` they have ``observation``,
        ``reward``, ``terminated`` and ``done``. Entries that tell trajectories apart are kept.

    Raises:
        DataSetError: there is no data set, it is damaged, or it belongs to another task.

    Examples:
        >>> import tempfile, torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyMemmapStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall.data.data_sets import read_data_set
        >>> flag = torch.zeros(4, 1, dtype=torch.bool)
        >>> data = TensorDict({
        ...     "observation": torch.randn(4, 3), "action": torch.rand(4, 2),
        ...     "next": {
        ...         "observation": torch.randn(4, 3), "reward": torch.ones(4, 1),
        ...         "terminated": flag, "done": flag,
        ...     },
        ... }, [4])
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = data.memmap(folder.name)
        >>> read_data_set(folder.name, Unbounded((3,)), Bounded(-1, 1, (2,))).shape
        torch.Size([4])
    """
    path = Path(path)
    if not path.exists():
        raise DataSetError(f"{path} does not exist. Name a data set's folder or HDF5 file.")
    keys = ["observation", *(observation_keys or [])]
    if (file := find_minari(path)) is not None:
        data = read_minari(file, observation_keys)
    elif (path / "storage" / "meta.json").is_file():
        data = read_dump(path, keys)
    elif (path / "meta.json").is_file():
        data = read_memmap(path, keys)
    else:
        raise DataSetError(
            f"{path} holds no data set. Expected are storage/meta.json (replay_buffer.dumps of "
            "TorchRL), meta.json (data.memmap of a TensorDict), data/main_data.hdf5 (Minari), or "
            "an .hdf5 file. `python -m torchrl_recall.record RUN out=FOLDER` makes one."
        )
    if (mask := data.get(MASK, None)) is not None:
        data = data[mask.reshape(data.shape).bool()].exclude(MASK)
    if not data.numel() or not data.shape.numel():
        raise DataSetError(f"{path} holds no step.")
    return conform(data, observation_spec, action_spec, observation_keys=observation_keys)


def conform(
    data: TensorDictBase,
    observation_spec: TensorSpec,
    action_spec: TensorSpec,
    *,
    observation_keys: Sequence[str] | None = None,
) -> TensorDict:
    """Bring transitions into the form that losses and models read, or refuse them.

    Args:
        data: transitions in order of time, shape ``[time]`` or ``[streams, time]``.
        observation_spec: spec of one state.
        action_spec: spec of one action.

    Keyword Args:
        observation_keys: see :func:`read_data_set`.

    Returns:
        The transitions with the entries of :func:`read_data_set`.

    Raises:
        DataSetError: an entry is missing, of another shape, not finite or out of bounds.
    """
    out = TensorDict({}, batch_size=data.shape)
    steps = data.get(STEPS, None)
    if steps is not None and (steps > 1).any():
        raise DataSetError(
            f"{int((steps > 1).sum())} transitions are of several steps (MultiStep), of which no "
            "model can learn s_t from s_{t+1}. Take a data set of single steps."
        )
    for prefix in ((), ("next",)):
        state = _state(data, prefix, observation_keys)
        out.set((*prefix, "observation"), _fit(state, observation_spec, data, "observation"))
    action = _fit(entry(data, "action"), action_spec, data, "action")
    out.set("action", _within(action, action_spec))
    reward = entry(data, ("next", "reward"))
    if reward.numel() != data.shape.numel():
        raise DataSetError(
            f"rewards have the shape {tuple(reward.shape[data.ndim :])} each; one number is "
            "expected. Sum them, or choose one."
        )
    out.set(("next", "reward"), reward.reshape(*data.shape, 1).float())
    flags = {key: data.get(("next", key), None) for key in FLAGS}
    flags = {key: f.reshape(*data.shape, 1).bool() for key, f in flags.items() if f is not None}
    if "terminated" not in flags or len(flags) < 2:
        raise DataSetError(
            f"of the ends of episodes there are {sorted(flags)} under 'next'; 'terminated' and "
            "'done' (or 'truncated') are needed. Write them as TorchRL's environments do."
        )
    done = flags.get("done", torch.zeros((), dtype=torch.bool)) | flags["terminated"]
    out.set(("next", "terminated"), flags["terminated"])
    out.set(("next", "done"), done | flags.get("truncated", torch.zeros_like(done)))
    for key, value in out.items(True, True):
        if value.is_floating_point() and not value.isfinite().all():
            name = key if isinstance(key, str) else ".".join(key)
            bad = int((~value.isfinite()).reshape(data.shape.numel(), -1).any(-1).sum())
            raise DataSetError(f"{name} is NaN or infinite in {bad} steps. Drop their episodes.")
    for key in KNOWN_BY:
        if (told := data.get(key, None)) is not None:
            out.set(key, told.clone())
    return out


def _state(
    data: TensorDictBase, prefix: tuple[str, ...], observation_keys: Sequence[str] | None
) -> Tensor:
    """Concatenate the named entries; recordings hold them joined, as ``observation``."""
    keys = [(*prefix, key) if prefix else key for key in observation_keys or ()]
    whole: NestedKey = (*prefix, "observation") if prefix else "observation"
    held = data.keys(True, True)
    if not keys or (whole in held and not all(key in held for key in keys)):
        return entry(data, whole)
    return torch.cat([entry(data, key).reshape(*data.shape, -1) for key in keys], -1)


def _fit(value: Tensor, spec: TensorSpec, data: TensorDictBase, name: str) -> Tensor:
    """Cast an entry to its spec; for a OneHot spec, indices become one-hot vectors."""
    shape = value.shape[data.ndim :]
    if not spec.dtype.is_floating_point and value.is_floating_point():
        if not (value == value.round()).all():
            raise DataSetError(
                f"{name} has numbers that are not whole, and the task's are categories. Take a "
                "data set of this task."
            )
        value = value.long()
    is_index = not value.is_floating_point() and value.dtype is not torch.bool
    if is_index and isinstance(spec, OneHot) and tuple(shape) in ((), (1,)):
        index = value.reshape(data.shape).long()
        _check_categories(index, spec.shape[-1], name)
        value = torch.nn.functional.one_hot(index, spec.shape[-1])
        shape = value.shape[data.ndim :]
    elif is_index and type(spec) is Categorical:
        _check_categories(value, int(spec.space.n), name)
    if shape != spec.shape:
        raise DataSetError(
            f"{name} has the shape {tuple(shape)}, the task's is {tuple(spec.shape)}. Take a data "
            "set of this task, or env.name and env.observation_keys of the data set's."
        )
    value = value.to(spec.dtype)
    if isinstance(spec, Categorical | OneHot):  # and their kinds of several parts
        known = spec.expand(*data.shape, *spec.shape).is_in(value)
        if type(spec) is OneHot and not known:
            raise DataSetError(f"{name} is no one-hot vector in some steps.")
        if not known:
            raise DataSetError(
                f"{name} has values that the task's {type(spec).__name__} does not have. Take a "
                "data set of this task."
            )
    return value


def _check_categories(index: Tensor, size: int, name: str) -> None:
    if ((index < 0) | (index >= size)).any():
        raise DataSetError(
            f"{name} reaches from {int(index.min())} to {int(index.max())}, but the task has "
            f"{size} of them, counted from 0."
        )


def _within(action: Tensor, spec: TensorSpec) -> Tensor:
    """Clamp actions that are out of bounds by rounding; refuse actions that are farther out."""
    if not isinstance(spec, Bounded):
        return action
    low, high = (getattr(spec.space, end).to("cpu") for end in ("low", "high"))
    slack = _TOLERANCE * (high - low).nan_to_num(posinf=0.0)
    beyond = ((action < low - slack) | (action > high + slack)).any(-1)
    if beyond.any():
        raise DataSetError(
            f"action is out of its bounds in {int(beyond.sum())} of {beyond.numel()} steps. Clip "
            "actions to what the task executed."
        )
    return torch.clamp(action, low, high)
