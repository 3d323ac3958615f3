"""Frames per second of each backend of the collectors, and workers with slow tasks."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import torch

from speed_parts.compilation import cores
from speed_parts.loops import CPU, TASK, configure
from speed_parts.measure import Rows, measure
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.tasks.collectors import make_collector
from torchrl_recall.trainers.tasks.gym import make_env

__all__ = ["collectors", "slow_tasks"]

FRAMES = 256  # frames of a batch, of all environments together
BACKENDS = ("vector", "parallel", "multi_sync", "distributed", "ray")


class Slow(gymnasium.Wrapper):
    """Task with slow steps, like those of a remote or a large simulator."""

    milliseconds = 0.0

    def __init__(self) -> None:
        super().__init__(gymnasium.make(TASK))

    def step(self, action):
        """Wait, and take a step."""
        time.sleep(self.milliseconds / 1e3)
        return self.env.step(action)


class Slow1(Slow):
    """A step takes 1 ms more."""

    milliseconds = 1.0


class Slow5(Slow):
    """A step takes 5 ms more."""

    milliseconds = 5.0


def collectors(rounds: int) -> Rows:
    """Measure milliseconds of a frame by each backend, with 1, 4 and 16 environments."""
    rows: Rows = []
    for num_envs in (1, 4, 16):
        for backend in BACKENDS:
            rows += _beside_step(f"{num_envs} environments", backend, num_envs, rounds)
    return rows


def slow_tasks(rounds: int) -> Rows:
    """Measure the same with four environments of a task whose steps take 0, 1 and 5 ms more."""
    rows: Rows = []
    for task in (Slow, Slow1, Slow5):
        for backend in BACKENDS:
            part = f"{task.milliseconds:g} ms more"
            entry_point = f"env.entry_point={__name__}:{task.__name__}"
            rows += _beside_step(part, backend, 4, rounds, entry_point)
    return rows


def _beside_step(part: str, backend: str, num_envs: int, rounds: int, *words: str) -> Rows:
    """Measure one backend and ``step`` in turns; workers of all backends would fill the memory."""
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        print("Ray is not installed and is left out; it is in the extra 'ray'")
        return []
    with cores(os.cpu_count() or 1), _found_by_workers():
        step, end_step = _batches("step", 1, *words)
        other, end_other = _batches(backend, num_envs, *words)
        try:
            for batch in (step, other, step, other):  # workers start; caches are warm
                batch()
            contestants = {"step": step, backend: other}
            return measure(f"collectors: {part}, {backend}", contestants, rounds, per=FRAMES)
        finally:
            end_step()
            end_other()


def _batches(
    backend: str, num_envs: int, *words: str
) -> tuple[Callable[[], object], Callable[[], None]]:
    """Make a function that collects a batch by SAC's policy, and one that closes the collector."""
    config = configure(
        "sac/sac_recall",
        f"env.name={TASK}",
        f"collector.backend={backend}",
        f"collector.num_envs={num_envs}",
        f"collector.frames_per_batch={FRAMES}",
        "compile=false",
        *words,
    )
    torch.manual_seed(0)
    env = make_env(TASK, seed=0, **config.env.making)
    collector = make_collector(env, SAC(env, config, CPU).explorer, config, CPU)
    batches = iter(collector)
    return lambda: next(batches), collector.shutdown


@contextmanager
def _found_by_workers() -> Iterator[None]:
    """Let Ray's workers import this module, because they do not get the path of this process."""
    before = os.environ.get("PYTHONPATH")
    folder = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [folder, str(Path(folder).parent), str(Path(folder) / "peers")]
    )
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
