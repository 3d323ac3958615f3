"""SAC with hindsight: the control of the Goal GAN recipe that learns off-policy."""

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
    """TorchRL 0.14.1 cannot tell whether a full buffer was written to: it compares tensors."""

    def _storage_cache_key(self, storage: Storage) -> tuple:
        return (self.write_count,)


class HindsightSAC(Stateful):
    """SAC on experience whose goals are those that were reached later in the same episode.

    After Andrychowicz et al., *Hindsight Experience Replay*, 2017, by TorchRL's buffer. A step that
    reaches its new goal ends there.

    Args:
        env: gives specs, goals of states and the radius of a goal.
        config: ``sac``, ``hindsight`` and ``optim``.
        device: where the networks are.
    """

    def __init__(self, env: GoalEnv, config: GoalGANRecallConfig, device: torch.device) -> None:
        self.device, self.num_updates = device, config.sac.num_updates
        self.goal_of_state = any_device(env, env.goal_of_state)
        self.reached = any_device(env, env.reached)
        self.sac = SAC(env, config, device)
        self.actor, self.loss_module = self.sac.actor, self.sac.loss_module
        self.critic = StateValues(self.loss_module)
        batch = config.frames_per_batch
        # Whole batches, so that the oldest episode that is left is whole too.
        size = max(1, config.hindsight.buffer_size // batch) * batch
        self.replay_buffer = _Buffer(
            self._reward,
            her_ratio=config.hindsight.ratio,
            achieved_goal_key=_ACHIEVED,
            storage=LazyTensorStorage(size, device="cpu"),  # torchrl indexes there
            batch_size=config.hindsight.batch_size,
        )

    def update(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Take a batch of shape ``[num_envs, time]`` in, then take some steps of SAC.

        Returns:
            Losses of the last step.
        """
        data = data.clone().set(_ACHIEVED, self.goal_of_state(data["next", "observation"]))
        data["next", "done"][:, -1] = True  # the rows that follow are another environment's
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
