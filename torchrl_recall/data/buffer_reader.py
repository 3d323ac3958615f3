"""Reading of new frames from a replay buffer into which a collector writes."""

from __future__ import annotations

from typing import cast

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ReplayBuffer, TensorStorage
from torchrl.data.replay_buffers.writers import RoundRobinWriter

__all__ = ["BufferReader"]


class BufferReader:
    """Reader of the rows that were written into a replay buffer since the last read.

    A collector with ``replay_buffer=`` writes into the buffer itself and yields None. Recall then
    gets its experience from the buffer::

        reader = BufferReader(replay_buffer)
        for _ in collector:
            recall.extend(reader.read())
            ...
            recall.step(replay_buffer)

    The buffer may hold rows of several environments. They are told apart by
    ``("collector", "traj_ids")``, which collectors add unless ``track_traj_ids=False``.

    Rows that are written between ``replay_buffer.empty()`` and the next read may not be told from
    later ones. So read right after a buffer is emptied, or make another reader.

    Args:
        replay_buffer: a buffer whose writer overwrites the oldest rows, as TorchRL's default does.

    Raises:
        ValueError: the buffer has another kind of writer, or keeps its rows in a list.

    Examples:
        >>> from torchrl.collectors import Collector
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl.envs import GymEnv
        >>> from torchrl_recall import BufferReader
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=32)
        >>> reader = BufferReader(replay_buffer)
        >>> collector = Collector(
        ...     GymEnv("Pendulum-v1"), frames_per_batch=100, total_frames=200,
        ...     replay_buffer=replay_buffer,
        ... )
        >>> [reader.read().shape for _ in collector]
        [torch.Size([100]), torch.Size([100])]
    """

    def __init__(self, replay_buffer: ReplayBuffer) -> None:
        self.replay_buffer = replay_buffer
        writer = replay_buffer.writer
        if not isinstance(writer, RoundRobinWriter):
            raise ValueError(
                f"BufferReader reads buffers that overwrite their oldest rows (RoundRobinWriter, "
                f"the default), not those of {type(writer).__name__}. Give what the collector "
                "yields to recall.extend() instead."
            )
        if not isinstance(replay_buffer.storage, TensorStorage):
            raise ValueError(
                f"BufferReader reads tensors, not the {type(replay_buffer.storage).__name__} of "
                "this buffer. Give it storage=LazyTensorStorage(...)."
            )
        self._read = replay_buffer.write_count

    def read(self) -> TensorDictBase:
        """Return the rows written since the last call, oldest first, as a copy.

        Returns:
            Rows of shape ``[num_rows]``. A storage of several dimensions gives
            ``[*batch, num_rows]``, where time is the last dimension.

        Raises:
            RuntimeError: some rows were overwritten before they could be read.
        """
        buffer = self.replay_buffer
        count = buffer.write_count
        new = count - self._read if count >= self._read else count  # if the buffer was emptied
        self._read = count
        if not new:
            return TensorDict({}, batch_size=[0])
        storage = buffer.storage
        kept = len(storage) if storage.ndim == 1 else storage.shape[0]
        if new > kept:
            raise RuntimeError(
                f"{new} rows were written since the last read, and the buffer holds {kept}: the "
                "others are overwritten, so that trajectories cannot be told whole. Read more "
                "often, or give the storage more room."
            )
        end = buffer.writer.state_dict()["_cursor"]
        index = torch.arange(end - new, end) % kept
        rows = cast(TensorDictBase, storage[index]).clone()
        return rows if storage.ndim == 1 else rows.transpose(0, storage.ndim - 1)

    def state_dict(self) -> dict:
        """Return the number of rows that are not read yet."""
        return {"unread": self.replay_buffer.write_count - self._read}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`, after the buffer was restored."""
        self._read = self.replay_buffer.write_count - state["unread"]
