"""Launchers of a figure's jobs: threads, joblib, submitit or Ray.

``launcher=submitit_slurm launcher_options.timeout_min=600 launcher_options.slurm_partition=gpu``
passes options to submitit's executor; the log of each job is in ``out/submitit``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

__all__ = ["OPTIONS", "in_new_process", "run_all", "run_command"]

T = TypeVar("T")
OPTIONS: dict[str, Any] = {
    "jobs": os.cpu_count() or 1,  # at a time
    "launcher": "threads",  # threads | joblib | submitit_local | submitit_slurm | ray
    "launcher_options": {},  # of submitit
    "sweeps": [],  # folders of runs: those of the same settings are taken instead of being run
}
EXTRAS = {"joblib": "sweeps", "submitit": "sweeps", "ray": "ray"}  # which installs what
_running: set[subprocess.Popen] = set()


def run_all(config: DictConfig, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Make calls, several at a time, and return their results in the same order.

    Args:
        config: options of a figure, with :data:`OPTIONS` and ``out``.
        calls: the calls. Their functions must belong to modules that other processes can import.

    Returns:
        The results of the calls.

    Raises:
        SystemExit: the launcher is unknown or not installed.
    """
    engine = str(config.launcher).partition("_")[0]
    if engine in EXTRAS and importlib.util.find_spec(engine) is None:
        extra = EXTRAS[engine]
        sys.exit(f"launcher={config.launcher}: pip install 'torchrl-recall[{extra}]'")
    if config.launcher == "threads":
        with ThreadPoolExecutor(config.jobs) as pool:
            started = [pool.submit(call) for call in calls]
        return [future.result() for future in started]
    if config.launcher == "joblib":
        from joblib import Parallel, delayed

        return Parallel(n_jobs=config.jobs)(delayed(call)() for call in calls)
    if config.launcher == "ray":
        return _run_by_ray(config.jobs, calls)
    if config.launcher in ("submitit_local", "submitit_slurm"):
        return _run_by_submitit(config, calls)
    known = "threads, joblib, submitit_local, submitit_slurm and ray"
    sys.exit(f"launcher={config.launcher} is unknown; there are {known}.")


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a Python script to its end; a preempted job of submitit lets it save."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        _running.add(process)
        try:
            out, errors = process.communicate()
        finally:
            _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def in_new_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a new process, because torch's threads do not survive a fork."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


class _Requeued:
    """Call that submitit starts again after a preemption, after its script has saved.

    Args:
        call: the call.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self) -> Any:
        return self.call()

    def checkpoint(self) -> Any:
        """Return the same call, once its script has saved."""
        from submitit.helpers import DelayedSubmission

        for process in _running:
            process.terminate()
        for process in _running:
            with suppress(subprocess.TimeoutExpired):  # it is at its end, and waited for already
                process.communicate(timeout=100)
        return DelayedSubmission(self)


def _run_by_submitit(config: DictConfig, calls: Sequence[Callable[[], T]]) -> list[T]:
    import submitit

    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # which jobs inherit
    cluster = config.launcher.removeprefix("submitit_")
    executor = submitit.AutoExecutor(Path(config.out) / "submitit" / "%j", cluster=cluster)
    options: Any = {"timeout_min": 24 * 60, "name": config.figure}
    executor.update_parameters(**options | OmegaConf.to_container(config.launcher_options))  # type: ignore[operator]
    if cluster == "slurm":
        executor.update_parameters(slurm_array_parallelism=config.jobs)
    with executor.batch():  # an array of jobs
        started = [executor.submit(_Requeued(call)) for call in calls]
    return [job.result() for job in started]


def _run_by_ray(jobs: int, calls: Sequence[Callable[[], T]]) -> list[T]:
    import ray

    if started_here := not ray.is_initialized():
        here: dict[str, Any] = (
            {} if "RAY_ADDRESS" in os.environ else {"num_cpus": jobs, "include_dashboard": False}
        )
        ray.init(log_to_driver=False, **here)
    try:
        call_it: Any = ray.remote(lambda call: call())
        return ray.get([call_it.remote(call) for call in calls])
    finally:
        if started_here:
            ray.shutdown()
