"""Collectors of environments in separate processes, by TorchRL's collectors."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import BaseCollector, Collector
from torchrl.envs import InitTracker, TransformedEnv

from torchrl_recall.trainers.runs import process
from torchrl_recall.trainers.schema import ConfigError
from torchrl_recall.trainers.tasks.new_episodes import NewEpisodes, env_seeds

__all__ = ["ParallelCollector", "WorkerCollector", "check_installed"]

Makers = list[Callable[[], TransformedEnv]]


class ParallelCollector(NewEpisodes):
    """TorchRL's collector of environments in separate processes, which are stepped together.

    Args:
        collector: a collector that yields batches of shape ``[num_envs, time]``.
        seed: seed of the environments; a resumed run derives another seed from it.
    """

    def __init__(self, collector: Collector, seed: int) -> None:
        self.collector = collector
        self.seed = seed
        collector.set_seed(env_seeds(seed, 0, 1)[0])
        collector.reset()  # TorchRL resets new environments before they have a seed

    def __iter__(self) -> Iterator[TensorDictBase]:
        self._batches = iter(self.collector)
        return super().__iter__()

    def collect(self) -> TensorDictBase | None:
        """Collect a batch of shape ``[num_envs, time]``; None at the end."""
        return next(self._batches, None)

    def begin(self, frames: int) -> None:
        """Begin new episodes after a number of frames."""
        self.collector.load_state_dict({"frames": frames, "iter": 0}, strict=False)
        self.collector.set_seed(env_seeds(self.seed, frames, 1)[0])  # else episodes would repeat
        self.collector.reset()

    def shutdown(self) -> None:
        """End the processes."""
        self.collector.shutdown(raise_on_error=False)  # a signal may have ended them already


def check_installed(backend: str) -> None:
    """Refuse a backend whose library is missing.

    Args:
        backend: name of the backend.

    Raises:
        ConfigError: the library is missing; the message names the extra.
    """
    if backend != "ray":
        return
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"collector.backend=ray needs Ray ({error}): pip install 'torchrl-recall[ray]'."
        ) from error


class WorkerCollector(NewEpisodes):
    """Collector of workers, each with an environment and a copy of the policy.

    Workers start at the first batch. Before each batch they receive the policy's weights, so all
    actions come from the current policy. Row i of a batch is worker i. Its ``is_init`` marks the
    worker's resets. TorchRL's ``("collector", "traj_ids")`` are left out, because they are not
    unique or not constant with workers.

    Args:
        backend: ``multi_sync``, ``distributed`` or ``ray``.
        make: function that makes the environment, with the argument ``seed``.
        actor: the policy.

    Keyword Args:
        num_envs: number of workers.
        frames_per_batch: number of frames in each batch, of all workers together.
        total_frames: number of frames at which the collector ends.
        init_random_frames: number of frames with random actions at the beginning, rounded up to
            whole batches.
        seed: seed of the workers.
        device: device of batches; workers are on the CPU.
    """

    def __init__(
        self,
        backend: str,
        make: Callable[..., TransformedEnv],
        actor: TensorDictModuleBase,
        *,
        num_envs: int,
        frames_per_batch: int,
        total_frames: int,
        init_random_frames: int,
        seed: int,
        device: torch.device,
    ) -> None:
        check_installed(backend)
        self.backend, self.make, self.actor, self.device = backend, make, actor, device
        self.num_envs, self.frames_per_batch = num_envs, frames_per_batch
        self.total_frames, self.init_random_frames = total_frames, init_random_frames
        self.seed, self.frames = seed, 0
        self._collector: Any = None

    def begin(self, frames: int) -> None:
        """Set the number of frames, and end all workers; new ones start at the next batch."""
        self.shutdown()
        self.frames = frames

    def collect(self) -> TensorDictBase | None:
        """Collect a batch by the current policy; None at the end.

        Raises:
            RuntimeError: a worker died.
        """
        if self.frames >= self.total_frames:
            return None
        if self._collector is None:
            self._start()
        self._policy.load_state_dict(self.actor.state_dict())
        try:
            self._collector.update_policy_weights_()
            data = next(self._batches)
        except Exception as error:
            raise RuntimeError(
                f"a worker of collector.backend={self.backend} failed or was ended; what it said "
                "itself is above. collector.backend=step takes the same steps in one process."
            ) from error
        self.frames += data.numel()
        return data.exclude("collector").contiguous().to(self.device)

    def _start(self) -> None:
        self._policy = copy.deepcopy(self.actor).to("cpu")
        seeds = env_seeds(self.seed, self.frames, self.num_envs)
        threads = torch.get_num_threads()
        makers: Makers = [partial(_make_worker_env, self.make, seed, threads) for seed in seeds]
        sizes = {
            "frames_per_batch": self.frames_per_batch,
            "total_frames": self._whole_batches(self.total_frames - self.frames),
            "init_random_frames": self._whole_batches(self.init_random_frames - self.frames),
        }
        random_state = process.rng_state_dict()  # TorchRL draws from it to try an environment
        with process.workers_ignore_signals():
            self._collector = _STARTERS[self.backend](makers, self._policy, sizes)
        torch.set_num_threads(threads)
        process.set_rng_state_dict(random_state)
        self._batches = iter(self._collector)

    def _whole_batches(self, frames: int) -> int:
        """Round up, because TorchRL's workers act at random in whole batches only."""
        return max(0, -(-frames // self.frames_per_batch)) * self.frames_per_batch

    def shutdown(self) -> None:
        """End the processes; a signal may have ended them already."""
        collector, self._collector = self._collector, None
        if collector is None:
            return
        with suppress(Exception):  # TorchRL's shutdown fails if workers have died
            collector.shutdown()
        for job in getattr(collector, "jobs", ()):
            job.kill()
        if self.backend == "distributed" and torch.distributed.is_initialized():
            with suppress(Exception):
                torch.distributed.destroy_process_group()


def _make_worker_env(
    make: Callable[..., TransformedEnv], seed: int, threads: int
) -> TransformedEnv:
    """Make a worker's environment, and seed its process, in which the policy draws too."""
    process.quiet()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    env = make(seed=seed)
    env.append_transform(InitTracker())
    return env


_QUIET = {"auto_register_policy_transforms": False}


def _start_multi_sync(makers: Makers, policy: Any, sizes: dict) -> BaseCollector:
    from torchrl.collectors import MultiSyncCollector

    threads = torch.get_num_threads()
    return MultiSyncCollector(
        makers, policy, cat_results="stack", num_threads=threads, **_QUIET, **sizes
    )


def _start_distributed(makers: Makers, policy: Any, sizes: dict) -> BaseCollector:
    from torchrl.collectors.distributed import DistributedCollector

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return DistributedCollector(
        makers,
        policy,
        sync=True,
        launcher="mp",
        backend="gloo",
        tcp_port=port,
        collector_kwargs=dict(_QUIET),
        **sizes,
    )


def _start_ray(makers: Makers, policy: Any, sizes: dict) -> BaseCollector:
    from torchrl.collectors.distributed import RayCollector

    # A cluster that RAY_ADDRESS names, or one of this process alone with a slot for each worker.
    address = os.environ.get("RAY_ADDRESS", "local")
    cluster: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address == "local":
        slots = max(len(makers), os.cpu_count() or 1)
        cluster |= {"num_cpus": slots, "include_dashboard": False}
    return RayCollector(
        makers,
        policy,
        sync=True,
        num_collectors=len(makers),
        ray_init_config=cluster,
        remote_configs={"num_cpus": 1, "num_gpus": 0},
        use_env_creator=False,
        collector_kwargs=[dict(_QUIET) for _ in makers],
        **sizes,
    )


_STARTERS: dict[str, Callable[[Makers, Any, dict], Any]] = {
    "multi_sync": _start_multi_sync,
    "distributed": _start_distributed,
    "ray": _start_ray,
}
