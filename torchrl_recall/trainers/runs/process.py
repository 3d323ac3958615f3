"""Process of a run: device, random numbers, versions, lock of the folder, signals."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import mujoco
import torch
import torchrl
from torch import Tensor

from torchrl_recall.trainers.schema.parts import ConfigError

__all__ = [
    "StopSignal",
    "hand_on",
    "lock",
    "quiet",
    "resolve_device",
    "rng_state_dict",
    "say",
    "set_rng_state_dict",
    "versions",
    "weights_sha256",
    "workers_ignore_signals",
]


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of a name; ``auto`` is CUDA if available, and the CPU otherwise.

    Args:
        name: ``device`` of the configuration, or of a function.

    Raises:
        ConfigError: the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name} is unknown; use cpu, cuda or auto.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}, but torch sees no CUDA device; use device=cpu or auto.")
    return device


def quiet() -> None:
    """Silence messages of libraries that do not help a user."""
    torchrl.logger.setLevel("WARNING")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="tensordict|torchrl")
    mujoco.set_mju_user_warning(_warn_of_physics)  # in place of MUJOCO_LOG.TXT in every folder


def _warn_of_physics(message: str) -> None:
    """Turn MuJoCo's warnings about the simulation into Python warnings; drop those about XML."""
    if "deprecated" not in message.lower():
        warnings.warn(f"MuJoCo: {message}", stacklevel=2)


def say(text: str = "") -> None:
    """Print a line; a run continues if nothing reads its output any more."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # a closed pipe, or a closed file
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def versions() -> dict[str, str]:
    """Return the versions on which the exact weights of a run depend."""
    names = ("torchrl-recall", "torch", "torchrl", "tensordict", "gymnasium", "mujoco")
    return {name: importlib.metadata.version(name) for name in names} | {
        "python": sys.version.split()[0]
    }


def rng_state_dict() -> dict[str, Tensor]:
    """Return the state of torch's random generators; recipes draw from no other global ones."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state_dict(state: dict[str, Tensor]) -> None:
    """Restore :func:`rng_state_dict`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def weights_sha256(*state_dicts: dict[str, Tensor]) -> str:
    """Hash all weights; hashes are equal only if all bits are equal."""
    digest = hashlib.sha256()
    for state in state_dicts:
        for name, value in sorted(state.items()):
            if isinstance(value, Tensor):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Lock a run folder; the operating system releases the lock when the process ends.

    Args:
        run_dir: folder of the run.

    Yields:
        Nothing.

    Raises:
        ConfigError: another process is writing into the folder.
    """
    file = filelock.FileLock(run_dir / ".lock", blocking=False)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file.acquire()
    except filelock.Timeout as error:
        raise ConfigError(
            f"another run is writing into {run_dir}. Wait for it, or choose another run_dir."
        ) from error
    except OSError as error:
        raise ConfigError(f"run_dir={run_dir} is not a folder to write into: {error}") from error
    try:
        yield
    finally:
        file.release()


class StopNow(KeyboardInterrupt):
    """A signal where nothing is worth saving."""


class StopSignal:
    """Record of the signals by which terminals and schedulers end a run, so that it saves first.

    A second Ctrl-C ends the process at once. Python handles signals in the main thread only, so
    nothing is recorded in other threads. If submitit runs the process, it handles SIGTERM.

    Keyword Args:
        is_worker: whether the process is a worker, which leaves a second Ctrl-C to its parent.
        then: function that is called with each signal.

    Attributes:
        received: the first signal.
        at_once: whether a signal raises :class:`StopNow`, because nothing is worth saving yet.
    """

    NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")  # if the system has them

    def __init__(
        self, *, is_worker: bool = False, then: Callable[[int], None] | None = None
    ) -> None:
        self.received: signal.Signals | None = None
        self.at_once = False
        self._is_worker, self._then = is_worker, then
        self._previous: dict = {}
        if threading.current_thread() is threading.main_thread():
            for name in self.NAMES:
                number = getattr(signal, name, None)
                if number is None:
                    continue
                handler = signal.getsignal(number)
                if name == "SIGHUP" and handler is signal.SIG_IGN:
                    continue  # under nohup a run outlives its terminal
                if name == "SIGTERM" and _is_of_submitit(handler):
                    continue  # SLURM sends it with the signal to save, or just before the end
                self._previous[number] = signal.signal(number, self._remember)

    def restore(self) -> None:
        """Restore the earlier handlers of the signals."""
        _restore(self._previous)

    def _remember(self, number: int, frame) -> None:
        again = self.received is signal.SIGINT and number == signal.SIGINT
        if again and not self._is_worker:
            raise KeyboardInterrupt("a second Ctrl-C ends the run without a checkpoint")
        self.received = self.received or signal.Signals(number)
        if self._then is not None:
            self._then(number)
        if self.at_once:
            self.at_once = False  # a second signal must not break what ends the run
            raise StopNow(number)


def hand_on(number: int) -> None:
    """Pass a signal to submitit, if it handles the signal by requeueing the job."""
    if _is_of_submitit(signal.getsignal(number)):
        signal.raise_signal(number)


def _is_of_submitit(handler: object) -> bool:
    return type(getattr(handler, "__self__", None)).__module__.startswith("submitit.")


@contextmanager
def workers_ignore_signals() -> Iterator[None]:
    """Context in which new processes ignore Ctrl-C and other signals of a terminal.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for name in StopSignal.NAMES[1:] if (n := getattr(signal, name, None)) is not None]
    # Processes inherit the mask; signals to this process are handled after they have started.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _restore(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
