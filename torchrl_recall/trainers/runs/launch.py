"""Start and end of every recipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from omegaconf import DictConfig

from torchrl_recall.trainers.runs import job, process
from torchrl_recall.trainers.runs.checkpoints import CheckpointError
from torchrl_recall.trainers.runs.no_effect import warn_of_no_effect
from torchrl_recall.trainers.runs.resumption import command, ended_at_target, finished
from torchrl_recall.trainers.runs.run import Config, Run
from torchrl_recall.trainers.runs.run_dirs import run_dir_of, settle
from torchrl_recall.trainers.runs.sweeps import StoppedJob
from torchrl_recall.trainers.schema import ConfigError, validate

__all__ = ["launch"]

ConfigT = TypeVar("ConfigT", bound=Config)
_stopped = 0  # exit status of a job of this process that a signal stopped


def launch(train: Callable[[ConfigT], Run], cfg: DictConfig, schema: type[ConfigT]) -> float | None:
    """Check the configuration and train; mistakes of the user print one line without a traceback.

    In a sweep (``-m``) a mistake raises an error instead, so that other jobs run and the sweep ends
    with a status that is not zero. With ``resume=auto`` a finished run is not changed.

    Args:
        train: function of the recipe, which returns its run.
        cfg: configuration that Hydra composed.
        schema: class of the recipe's configuration.

    Returns:
        The final return, which a sweeper may maximise; None without an evaluation.

    Raises:
        SystemExit: a signal stopped the run, or the user made a mistake outside a sweep.
        StoppedJob: a signal stopped the run in a worker of a sweep.
    """
    global _stopped
    if _stopped:
        raise StoppedJob(_stopped)
    try:
        with _memory_named():
            config = validate(cfg, schema)
            config.run_dir = run_dir_of(cfg, config.run_dir)
            warn_of_no_effect(config)
            if config.resume == "auto":
                run_dir = settle(config)
                if not (run_dir / "config.yaml").exists():
                    process.say(f"there is no run in {run_dir} yet; a new one begins")
                if (summary := finished(config.model_dump(), run_dir)) is not None:
                    process.say(f"finished before: {run_dir / 'summary.json'}")
                    at_target = ended_at_target(summary, config.model_dump())
                    going_on = command(run_dir, 2 * summary["frames"], without_target=at_target)
                    process.say(f"to go on: {going_on}")
                    return summary.get("final_eval_return")
            run = train(config)
    except (ConfigError, CheckpointError, FloatingPointError) as error:
        if job.launcher() is not None:
            raise
        sys.exit(f"{type(error).__name__}: {error}")
    status = run.status
    if job.launcher() is not None:  # a signal that came when the run had ended is for the sweep
        status = status or run.signalled
    if status:
        process.hand_on(status - 128)
        if job.is_alone():
            sys.exit(status)
        _stopped = status
        raise StoppedJob(status)
    return run.final_return


@contextmanager
def _memory_named() -> Iterator[None]:
    """Name the settings that need the most memory, if memory is too small."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):
            raise
        raise ConfigError(
            f"the run needs more memory than there is ({str(error).splitlines()[0][:200]}). Lower "
            "replay_buffer.size, backtracking.buffer_size, num_cells, batch sizes or torch_threads."
        ) from error
