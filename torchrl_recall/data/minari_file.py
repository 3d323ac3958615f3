"""Minari's layout of a data set in HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

__all__ = ["DataSetError", "find_minari", "read_minari"]

_EPISODE = "episode_"


class DataSetError(ValueError):
    """Error of a data set that cannot be used; its message gives the reason and the cure."""


def find_minari(path: Path) -> Path | None:
    """Return the HDF5 file of a Minari data set.

    Args:
        path: the folder of the data set, or an HDF5 file.

    Returns:
        The file; None if the path is no Minari data set.
    """
    if path.is_file():
        return path
    files = [path / "data" / "main_data.hdf5", path / "main_data.hdf5"]
    return next((file for file in files if file.is_file()), None)


def read_minari(file: Path, observation_keys: Sequence[str] | None = None) -> TensorDict:
    """Read all episodes, one after the other.

    Args:
        file: an HDF5 file with groups ``episode_0``, ``episode_1`` and so on. Each holds
            ``observations`` (one more than actions), ``actions``, ``rewards``, ``terminations`` and
            ``truncations``.
        observation_keys: entries of a Dict observation, concatenated in this order.

    Returns:
        Transitions of shape ``[time]`` with the entries of TorchRL's environments, and ``is_init``.

    Raises:
        DataSetError: h5py is missing, or the file is no such data set.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataSetError(f"{file} needs h5py: pip install 'torchrl-recall[offline]'.") from error
    try:
        with h5py.File(file, "r") as root:
            names = [name for name in root if name.startswith(_EPISODE)]
            _refuse_links(root, file)
            names.sort(key=lambda name: int(name.removeprefix(_EPISODE)))
            read = [_episode(root[name], name, observation_keys) for name in names]
            episodes = [episode for episode in read if len(episode)]  # some have no step
            if episodes:
                return torch.cat(episodes)  # type: ignore[return-value]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, DataSetError):
            raise
        raise DataSetError(f"{file} is no data set of Minari's: {error}.") from error
    raise DataSetError(f"{file} holds no group {_EPISODE}0 with steps, so it has no episode.")


def _refuse_links(group: Any, file: Path) -> None:
    """Refuse links, through which HDF5 would read another file."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        found = None if isinstance(link, h5py.ExternalLink) else group.get(name)
        outside = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
        if isinstance(link, h5py.ExternalLink) or outside:
            raise DataSetError(
                f"{file}: {group.name.rstrip('/')}/{name} is kept in another file. Write the data "
                "into one file (h5repack, or group.copy of h5py with expand_external=True)."
            )
        if isinstance(found, h5py.Group) and isinstance(link, h5py.HardLink):
            _refuse_links(found, file)


def _episode(group: Any, name: str, observation_keys: Sequence[str] | None) -> TensorDict:
    parts = "actions", "rewards", "terminations", "truncations"
    action, reward, terminated, truncated = (_tensor(group, part, name) for part in parts)
    states, num = _states(group, name, observation_keys), len(action)
    if len(states) != num + 1 or not len(reward) == len(terminated) == len(truncated) == num:
        raise DataSetError(
            f"{name} has {len(states)} observations, {num} actions and {len(reward)} rewards; "
            "there is one observation more than actions in Minari's layout."
        )
    begins = torch.zeros(num, 1, dtype=torch.bool)
    begins[:1] = True
    following = {
        "observation": states[1:],
        "reward": reward.unsqueeze(-1).flatten(1),
        "terminated": terminated.reshape(num, 1),
        "truncated": truncated.reshape(num, 1),
    }
    return TensorDict(
        {"observation": states[:-1], "action": action, "is_init": begins, "next": following}, [num]
    )


def _states(group: Any, name: str, observation_keys: Sequence[str] | None) -> Tensor:
    states = group.get("observations")
    if not hasattr(states, "keys"):  # one array
        return _tensor(group, "observations", name)
    if not observation_keys:
        raise DataSetError(
            f"{name} has the observations {list(states)}; name those to join into one vector with "
            f"env.observation_keys=[{','.join(states)}]."
        )
    entries = [_tensor(states, key, name) for key in observation_keys]
    return torch.cat([entry.reshape(len(entry), -1) for entry in entries], -1)


def _tensor(group: Any, part: str, name: str) -> Tensor:
    found = group.get(part)
    if found is None or hasattr(found, "keys"):
        raise DataSetError(
            f"{name} has no array {part!r} among {list(group)}; a data set of Minari's has "
            "observations, actions, rewards, terminations and truncations."
        )
    return torch.from_numpy(found[()])
