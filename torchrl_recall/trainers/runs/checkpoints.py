"""Atomic, verified checkpoints without pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from torchrl_recall.trainers.runs.packing import pack, unpack

__all__ = [
    "CheckpointError",
    "clean",
    "file_sha256",
    "load_latest",
    "save",
    "strange_files",
    "sync",
]

_FORMAT = "torchrl_recall checkpoint 11"
# Errors of reading a damaged or foreign file.
_DAMAGE = (
    SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError,
    RecursionError, StopIteration,
)  # fmt: skip
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


class CheckpointError(RuntimeError):
    """Error of a checkpoint that could not be written, or of a folder without an intact one.

    Examples:
        >>> from torchrl_recall import from_pretrained
        >>> from torchrl_recall.trainers.runs.checkpoints import CheckpointError
        >>> try:
        ...     from_pretrained("nowhere")
        ... except CheckpointError as error:
        ...     print(str(error).partition(".json")[0])
        nowhere was not exported: it has no config
    """


def save(directory: Path, frames: int, state: dict, *, keep: int = 2) -> Path:
    """Write a checkpoint, and delete old ones; after an error the old ones are unchanged.

    Tensors go to a safetensors file, everything else goes to JSON, and a manifest holds the SHA-256
    sums of both. The folder gets its name when it is complete.

    Args:
        directory: folder of the run's checkpoints.
        frames: number of frames, which names the checkpoint.
        state: nested dicts, lists and tuples of tensors, tensordicts, arrays, numbers, strings.

    Keyword Args:
        keep: number of checkpoints to keep.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints are intact.
        TypeError: the state holds an object of another type.
    """
    final = directory / f"{frames:012d}"
    temporary, aside = (directory / f".{kind}-{frames:012d}" for kind in ("writing", "replaced"))
    tensors: dict[str, torch.Tensor] = {}
    document = json.dumps(pack(state, tensors, "state"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / _TENSORS)
        (temporary / _STATE).write_text(document)
        manifest = {
            "format": _FORMAT,
            "frames": frames,
            "sha256": {name: file_sha256(temporary / name) for name in (_TENSORS, _STATE)},
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        if final.exists():  # written again: the old one stays until the new one has its name
            os.replace(final, aside)
        os.replace(temporary, final)
        sync(directory)
        shutil.rmtree(aside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint at {frames} frames could not be written to {directory}: {error}. "
            f"{_intact(directory)} Free some disk space, or lower checkpoint.keep, and go on with "
            "resume=auto."
        ) from error
    newest_first = _checkpoints(directory)
    # Newer ones were refused when this run was resumed.
    stale = [path for path in newest_first if int(path.name) > frames]
    for old in stale + [path for path in newest_first if path not in stale][keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_latest(directory: Path) -> tuple[int, dict] | None:
    """Read the newest intact checkpoint.

    Args:
        directory: folder of the run's checkpoints.

    Returns:
        Number of frames and state; None if there is no checkpoint.

    Raises:
        CheckpointError: there are checkpoints, but all of them are damaged or foreign.
    """
    folders = _checkpoints(directory)
    for folder in folders:
        try:
            return _load(folder)
        except CheckpointError as error:
            warnings.warn(f"{error} Trying the one before it.", stacklevel=2)
    if folders:
        raise CheckpointError(
            f"none of the checkpoints in {directory} can be trusted. Start again in another "
            "run_dir, or restore the folder from a backup."
        )
    return None


def clean(directory: Path) -> None:
    """Remove what a killed process left; only the owner of the run's lock may call it.

    Args:
        directory: folder of the run's checkpoints.
    """
    if not directory.is_dir():
        return
    for aside in directory.glob(".replaced-*"):
        final = directory / aside.name.removeprefix(".replaced-")
        if final.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, final)
    for temporary in directory.glob(".writing-*"):
        shutil.rmtree(temporary, ignore_errors=True)


def _load(folder: Path) -> tuple[int, dict]:
    if odd := strange_files(folder, {_TENSORS, _STATE, _MANIFEST}):
        raise CheckpointError(
            f"checkpoint {folder} is refused: {', '.join(odd)} is missing or not ours "
            "(pickles are never read)."
        )
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        known = manifest["format"] == _FORMAT
        digests, frames = dict(manifest["sha256"]), manifest["frames"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder} is refused: {_MANIFEST} is damaged.") from error
    if not known:
        raise CheckpointError(
            f"checkpoint {folder} is refused: its format is {manifest['format']!r}, "
            f"not {_FORMAT!r}. Finish that run with the version of torchrl_recall that began it."
        )
    if frames != int(folder.name):
        raise CheckpointError(
            f"checkpoint {folder} is refused: its manifest says {frames} frames, its name another."
        )
    for name in (_TENSORS, _STATE):
        if file_sha256(folder / name) != digests.get(name):
            raise CheckpointError(
                f"checkpoint {folder} is refused: {name} does not match its checksum in "
                f"{_MANIFEST}."
            )
    try:
        with safe_open(folder / _TENSORS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = unpack(json.loads((folder / _STATE).read_text()), tensors)
        if not isinstance(state, dict):
            raise TypeError(f"the state is a {type(state).__name__}")
    except _DAMAGE as error:
        raise CheckpointError(
            f"checkpoint {folder} is refused: its checksums are right, but it cannot be read: "
            f"{type(error).__name__}: {error}."
        ) from error
    return frames, state


def _intact(directory: Path) -> str:
    """Name the newest checkpoint that is left, for an error."""
    left = _checkpoints(directory)
    return f"The one at {int(left[0].name)} frames is intact." if left else "There is no older one."


def _checkpoints(directory: Path) -> list[Path]:
    """List the checkpoints, newest first."""
    if not directory.is_dir():
        return []
    return sorted(
        (p for p in directory.iterdir() if p.name.isdigit() and p.is_dir() and not p.is_symlink()),
        reverse=True,
    )


def strange_files(folder: Path, known: set[str]) -> list[str]:
    """List missing files and unknown entries of a folder: files, folders, links, devices.

    Args:
        folder: the folder.
        known: names of the expected files.

    Returns:
        The names.
    """
    files = {p.name for p in folder.iterdir() if p.is_file() and not p.is_symlink()}
    odd = {path.name for path in folder.iterdir()} - files
    return sorted(odd | (files ^ known))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
