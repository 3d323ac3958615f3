"""Prioritised replay beside the actor-critic of the four rooms, a control without recall."""

from __future__ import annotations

from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer, TensorDictPrioritizedReplayBuffer

from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.seeds import SeedStreams
from torchrl_recall.trainers.hosts.a2c import A2C
from torchrl_recall.trainers.schema import A2CRecallConfig

__all__ = ["PrioritizedReplay"]


class PrioritizedReplay:
    r"""Control that takes actor-critic steps on transitions replayed by temporal-difference error.

    .. math:: \delta = r + \gamma V(s') - V(s), \qquad p \propto (|\delta| + \epsilon)^\alpha

    The advantage is :math:`\delta`; importance weights use :math:`\beta`.

    Args:
        a2c: the host.
        config: configuration with ``prioritized_replay`` and ``seeds``.
    """

    def __init__(self, a2c: A2C, config: A2CRecallConfig) -> None:
        self.a2c, self.config, self.gamma = a2c, config.prioritized_replay, config.a2c.gamma
        self.streams = SeedStreams(config.seeds, stream="replay")
        self.buffers = []
        for generator in self.streams.generators:
            buffer = TensorDictPrioritizedReplayBuffer(
                alpha=self.config.alpha,
                beta=self.config.beta,
                storage=LazyTensorStorage(self.config.size),
                batch_size=self.config.batch_size,
                priority_key="td_error",
            )
            buffer.set_rng(generator)
            self.buffers.append(buffer)
        self.iterations = 0

    def extend(self, data: TensorDictBase) -> None:
        """Write new experience into each seed's buffer (Alg. 1, line 5)."""
        keys = ("observation", "action", "next")
        for buffer, own in zip(self.buffers, data.select(*keys).flatten(1), strict=True):
            buffer.extend(own)

    def step(self, replay_buffer: ReplayBuffer | None = None) -> dict[str, Tensor]:
        """Take some steps of the host on replayed transitions.

        Args:
            replay_buffer: ignored, because each seed has its own prioritised buffer.

        Returns:
            No metrics.
        """
        self.iterations += 1
        if self.iterations % self.config.interval or len(self.buffers[0]) < self.config.batch_size:
            return {}
        for _ in range(self.config.num_updates):
            batch = TensorDict.stack([buffer.sample() for buffer in self.buffers])
            self.a2c.evaluate(batch)
            alive = ~batch["next", "terminated"]
            target = batch["next", "reward"] + self.gamma * alive * batch["next", "state_value"]
            batch["value_target"] = target
            batch["advantage"] = target - batch["state_value"]
            self.a2c.step(batch, batch["priority_weight"].reshape(batch.shape))
            batch["td_error"] = batch["advantage"].abs().squeeze(-1)
            for buffer, own in zip(self.buffers, batch, strict=True):
                buffer.update_tensordict_priority(own)
        return {}

    def transitions(self, num: int) -> None:
        """Return None."""

    def drop_unfinished(self) -> None:
        """Do nothing: transitions are replayed one by one."""

    def state_dict(self) -> dict:
        """Return experience, priorities and random numbers."""
        return {
            "buffers": [BufferState(buffer).state_dict() for buffer in self.buffers],
            "streams": self.streams.state_dict(),
            "iterations": self.iterations,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            BufferState(buffer).load_state_dict(saved)
        self.streams.load_state_dict(state["streams"])
        self.iterations = state["iterations"]
