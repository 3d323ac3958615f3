"""Collectors of the recipes, chosen by the configuration."""

from __future__ import annotations

from functools import partial

import torch
from tensordict.nn import TensorDictModuleBase
from torchrl.collectors import Collector
from torchrl.envs import ExplorationType, ParallelEnv, TransformedEnv

from torchrl_recall.trainers.runs.process import workers_ignore_signals
from torchrl_recall.trainers.schema.dqn import DQNRecallConfig
from torchrl_recall.trainers.schema.on_policy import OnPolicyRecallConfig
from torchrl_recall.trainers.schema.sac import SACRecallConfig
from torchrl_recall.trainers.tasks.acting import make_policy
from torchrl_recall.trainers.tasks.gym import make_env
from torchrl_recall.trainers.tasks.new_episodes import NewEpisodes
from torchrl_recall.trainers.tasks.step_collector import StepCollector
from torchrl_recall.trainers.tasks.vector_collector import VectorCollector
from torchrl_recall.trainers.tasks.vector_task import make_vector
from torchrl_recall.trainers.tasks.workers import ParallelCollector, WorkerCollector

__all__ = ["make_collector"]


def make_collector(
    env: TransformedEnv,
    actor: TensorDictModuleBase,
    config: SACRecallConfig | OnPolicyRecallConfig | DQNRecallConfig,
    device: torch.device,
    *,
    init_random_frames: int = 0,
    random_until_reward: bool = False,
    clip_actions: bool = False,
) -> StepCollector | NewEpisodes:
    """Make the collector of a backend, for ``env`` itself or ``collector.num_envs`` copies.

    Args:
        env: the environment.
        actor: the policy.
        config: configuration with ``env``, ``collector`` and ``compile``.
        device: device of the tensors of the copies.

    Keyword Args:
        init_random_frames: number of frames with random actions at the beginning.
        random_until_reward: see
            :class:`~torchrl_recall.trainers.tasks.step_collector.StepCollector`.
        clip_actions: whether the copies clip actions, see
            :func:`~torchrl_recall.trainers.tasks.gym.make_env`.

    Returns:
        An iterable of batches of shape ``[time]`` or ``[num_envs, time]``.

    Raises:
        ConfigError: the backend is not installed.
    """
    backend, num_envs = config.collector.chosen_backend, config.collector.num_envs
    frames = {
        "frames_per_batch": config.collector.frames_per_batch,
        "total_frames": config.collector.total_frames,
        "init_random_frames": init_random_frames,
    }
    name, making, seed = config.env.name, config.env.making, config.seed
    if backend in ("step", "vector"):
        policy = make_policy(actor, ExplorationType.RANDOM, compile=bool(config.compile))
        if backend == "step":
            return StepCollector(
                env, policy, random_until_reward=random_until_reward, seed=seed, **frames
            )
        vector = make_vector(name, num_envs, making, clip_actions=clip_actions)
        return VectorCollector(vector, env, policy, seed=seed, **frames)
    if backend == "parallel":
        make_copy = partial(make_env, name, device, clip_actions=clip_actions, **making)
        with workers_ignore_signals():
            copies = ParallelEnv(num_envs, make_copy)
            collector = Collector(
                copies, actor, track_traj_ids=False, auto_register_policy_transforms=False, **frames
            )
            return ParallelCollector(collector, seed)
    make_one = partial(make_env, name, clip_actions=clip_actions, **making)
    return WorkerCollector(
        backend, make_one, actor, num_envs=num_envs, seed=seed, device=device, **frames
    )
