"""Files and folders that are complete or not there: written beside, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from torchrl_recall.trainers.runs.checkpoints import CheckpointError, sync
from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = ["atomic_file", "atomic_folder", "check_writable", "write_text"]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Context that writes a file completely or not at all; a missing folder is made.

    Args:
        path: the file.

    Yields:
        A path beside it. What is written there gets the file's name at the end of the context,
        and is removed if the context raises an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")  # the format follows the end of the name
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all; a missing folder is made.

    Args:
        path: the file.
        text: its content.
    """
    with atomic_file(path) as partial:
        partial.write_text(text, newline="")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Context that writes a folder completely or not at all.

    Args:
        folder: the folder, which must not exist.

    Yields:
        An empty folder beside it, which gets its name at the end of the context.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        os.replace(partial, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} could not be written: {error}. Make room, or name another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_writable(key: str, path: Path) -> None:
    """Refuse a file or folder that could not be written, before any work is done.

    Args:
        key: name of the option, for the error.
        path: the file or folder.

    Raises:
        ConfigError: a folder above it is a file, or may not be written.
    """
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ConfigError(f"{key}={path}: {above} is a file, not a folder; take another {key}=.")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{key}={path}: {above} may not be written; take another {key}=.")
