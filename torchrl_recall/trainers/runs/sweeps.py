"""Sweeps: checks before the first job, signals, and jobs that fail."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from contextlib import suppress
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from torchrl_recall.trainers.runs import job, process
from torchrl_recall.trainers.runs.run_dirs import named, names_a_folder, parse
from torchrl_recall.trainers.schema import ConfigError

__all__ = ["StoppedJob", "SweepCallback", "check_sweep"]


class StoppedJob(Exception):
    """Error of a job in a worker that a signal stopped, after it saved a checkpoint.

    Args:
        status: exit status, 128 + n for signal n.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class SweepCallback(Callback):
    """Hydra callback of every recipe. The command makes it, and workers get a copy.

    If joblib's workers run the jobs, signals are passed to them, so that every job saves.
    """

    def __init__(self) -> None:
        self.program = sys.argv[0]

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a sweep whose jobs would share a folder or could not be requeued."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        params = OmegaConf.select(config, "hydra.sweeper.params") or {}
        words = [
            *job.words_of(config.hydra.overrides.task),
            *(f"{key}={params[key]}" for key in params),
        ]
        try:
            check_sweep(config, words, launcher)
        except ConfigError as error:
            sys.exit(f"ConfigError: {error}")
        if launcher == "joblib":
            process.StopSignal(then=_tell_workers)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell a worker the name of the command, so that its job can print how to resume it."""
        sys.argv[0] = self.program

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Print a failure at once; Hydra alone would print one of them after the last job."""
        if config.hydra.mode != RunMode.MULTIRUN or job_return.status != JobStatus.FAILED:
            return
        try:
            _ = job_return.return_value  # Hydra says which
        except StoppedJob as stopped:
            job_return.return_value = SystemExit(stopped.status)  # exit status of the sweep
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def check_sweep(config: DictConfig, words: list[str], launcher: str) -> None:
    """Refuse a sweep if two of its jobs would share a folder, or if it could not be requeued.

    Args:
        config: configuration that Hydra composed, without the overrides of the sweep.
        words: the overrides of the sweep.
        launcher: Hydra's name of the launcher.

    Raises:
        ConfigError: the sweep is refused; the message names the cure.
    """
    given = {override.key_or_group: override for override in parse(words)}
    swept = [key for key, override in given.items() if override.is_sweep_override()]
    if (own := given.get("run_dir")) is None:
        already = named(config)
        for key in swept:
            if not names_a_folder(key) and key not in already:
                raise ConfigError(
                    f"{key} is swept, but names no folder, since a run may go on with another: "
                    f"the jobs would share one. Name them, as in run_dir='runs/${{{key}}}'."
                )
    else:
        text = "" if own.is_sweep_override() else str(own.value())
        others = [key for key in swept if key != "run_dir"]
        missing = [k for k in others if not {f"${{{k}}}", f"${{{k}.name}}"} & _interpolated(text)]
        if missing and "${hydra:job" not in text:
            cure = "_".join(f"${{{key}}}" for key in others)
            raise ConfigError(
                f"run_dir does not name {', '.join(missing)}, so that jobs would share a folder. "
                f"Leave it out, or name what is swept, as in run_dir='runs/{cure}'."
            )
    resume = given["resume"].value() if "resume" in given else config.resume
    if launcher.startswith("submitit") and resume != "auto":
        raise ConfigError(
            f"hydra/launcher={launcher} starts a job again that was preempted or timed out, which "
            "only a run that is resumed survives. Add resume=auto."
        )


def _interpolated(text: str) -> set[str]:
    return set(re.findall(r"\$\{[\w.]+\}", text))


def _tell_workers(number: int) -> None:
    workers = multiprocessing.active_children()
    if not workers:  # nothing has begun
        sys.exit(128 + number)
    for worker in workers:
        if worker.pid is not None:
            with suppress(ProcessLookupError):  # it has just gone
                os.kill(worker.pid, number)
