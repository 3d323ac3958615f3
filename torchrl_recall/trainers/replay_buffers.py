"""Replay buffer of a recipe, uniform or by priority."""

from __future__ import annotations

import torch
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer

from torchrl_recall.trainers.schema.sac import ReplayBufferConfig, SACReplayBufferConfig

__all__ = ["make_replay_buffer"]


def make_replay_buffer(config: ReplayBufferConfig, device: torch.device) -> ReplayBuffer:
    """Make the buffer of all experience.

    Args:
        config: configuration with ``size`` and ``batch_size``. With ``prioritized`` it has
            ``alpha`` and ``beta`` of Schaul et al., *Prioritized experience replay*, ICLR 2016.
        device: device of the stored transitions.

    Returns:
        The buffer.
    """
    storage = LazyTensorStorage(config.size, device=device)
    if not (isinstance(config, SACReplayBufferConfig) and config.prioritized):
        return ReplayBuffer(storage=storage, batch_size=config.batch_size)
    buffer = TensorDictPrioritizedReplayBuffer(
        alpha=config.alpha,
        beta=config.beta,
        storage=storage,
        batch_size=config.batch_size,
        priority_key="td_error",
    )
    if device.type == "cpu":  # instead of numpy's generator, whose state is not in checkpoints
        buffer.set_rng(torch.default_generator)
    return buffer
