"""SAC with hindsight replay, the off-policy control of the Goal GAN recipe."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import HERReplayBuffer, LazyTensorStorage, Storage

from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.envs import GoalEnv
from torchrl_recall.modules.state_values import StateValues
from torchrl_recall.stateful import Part, Stateful
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.trainers.schema import GoalGANRecallConfig
from torchrl_recall.trainers.tasks.devices import any_device

__all__ = ["HindsightSAC"]

_ACHIEVED = ("next", "achieved_goal")


class _Buffer(HERReplayBuffer):
    """Buffer that detects writes when it is full, which TorchRL 0.14.1 does not."""

    def _storage_cache_key(self, storage: Storage) -> tuple:
        return (self.write_count,)


class HindsightSAC(Stateful):
    """SAC on experience with hindsight goals, which were reached later in the same episode.

    The relabelling follows Andrychowicz et al., *Hindsight Experience Replay*, 2017, with TorchRL's
    buffer. A step that reaches its new goal is terminal.

    Args:
        env: environment that gives the specs, the goals of states, and the radius of a goal.
        config: configuration with ``sac``, ``hindsight`` and ``optim``.
        device: device of the networks.
    """

    def __init__(self, env: GoalEnv, config: GoalGANRecallConfig, device: torch.device) -> None:
        self.device, self.num_updates = device, config.sac.num_updates
        self.goal_of_state = any_device(env, env.goal_of_state)
        self.reached = any_device(env, env.reached)
        self.sac = SAC(env, config, device)
        self.actor, self.loss_module = self.sac.actor, self.sac.loss_module
        self.critic = StateValues(self.loss_module)
        batch = config.frames_per_batch
        # A multiple of whole batches, so that the oldest stored episode is whole too.
        size = max(1, config.hindsight.buffer_size // batch) * batch
        self.replay_buffer = _Buffer(
            self._reward,
            her_ratio=config.hindsight.ratio,
            achieved_goal_key=_ACHIEVED,
            storage=LazyTensorStorage(size, device="cpu"),  # torchrl indexes there
            batch_size=config.hindsight.batch_size,
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Store a batch of shape ``[num_envs, time]``, then take some steps of SAC.

        Args:
            data: episodes of shape ``[num_envs, time]``.

        Returns:
            Losses of the last step.
        """
        data = data.clone().set(_ACHIEVED, self.goal_of_state(data["next", "observation"]))
        data["next", "done"][:, -1] = True  # the next row in the buffer is of another environment
        self.replay_buffer.extend(data.reshape(-1).cpu())
        for _ in range(self.num_updates):
            losses = self.sac.update(self.replay_buffer.sample().to(self.device))
        return {f"sac/{key}": value for key, value in losses.items()}

    def _reward(self, relabelled: TensorDictBase) -> Tensor:
        following = relabelled["next"]
        reached = self.reached(following["observation"], following["desired_goal"])
        relabelled.set_(("next", "terminated"), reached)
        return reached.float()

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name weights, optimiser and experience."""
        return {"sac": self.sac, "experience": BufferState(self.replay_buffer)}
