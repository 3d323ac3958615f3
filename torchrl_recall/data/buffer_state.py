"""State of a replay buffer with its written rows only."""

from __future__ import annotations

from typing import Any

import torch
from torchrl.data import ReplayBuffer, TensorStorage
from torchrl.data.replay_buffers.samplers import PrioritizedSampler

__all__ = ["BufferState"]


class BufferState:
    """State of a replay buffer, which holds its written rows only.

    With a ``LazyTensorStorage``, TorchRL's own ``buffer.state_dict()`` is as large as the full
    storage.

    Args:
        buffer: a buffer with a tensor storage. Its sampler is prioritised or has no state.

    Raises:
        TypeError: the buffer keeps its rows in a list.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.buffer_state import BufferState
        >>> saved, other = (ReplayBuffer(storage=LazyTensorStorage(1_000)) for _ in range(2))
        >>> _ = saved.extend(TensorDict({"reward": torch.zeros(3)}, [3]))
        >>> BufferState(saved).state_dict()["rows"].shape
        torch.Size([3])
        >>> BufferState(other).load_state_dict(BufferState(saved).state_dict())
        >>> len(other)
        3
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        if not isinstance(buffer.storage, TensorStorage):
            raise TypeError(
                f"rows are saved as tensors, not from the {type(buffer.storage).__name__} of this "
                "buffer; give it storage=LazyTensorStorage(...)."
            )
        self.buffer = buffer

    def state_dict(self) -> dict:
        """Return the rows, or None while empty, and the state of writer, transforms and sampler."""
        buffer = self.buffer
        state: dict[str, Any] = {
            "rows": buffer.storage[: len(buffer)].exclude("index").clone() if len(buffer) else None,
            "writer": buffer.writer.state_dict(),
            "transforms": dict(buffer._transform.state_dict()),
        }
        if isinstance(sampler := buffer.sampler, PrioritizedSampler):
            # TorchRL's own state of a sampler holds C++ trees, which only pickle can write.
            priorities = sampler._sum_tree[torch.arange(len(buffer))]
            state["priorities"] = torch.as_tensor(priorities).clone()
            state["max_priority"] = list(sampler._max_priority or (None, None))
        return state

    def load_state_dict(self, state: dict) -> None:
        """Restore the state of a buffer with the same settings.

        Args:
            state: the result of :meth:`state_dict`.

        Raises:
            ValueError: the rows do not fit into the buffer.
        """
        buffer, rows = self.buffer, state["rows"]
        if rows is not None and len(rows) > buffer.storage.max_size:
            raise ValueError(
                f"the saved buffer holds {len(rows)} rows, more than this one's "
                f"{buffer.storage.max_size}; build it with the size that it was saved with."
            )
        buffer.empty()
        if rows is not None:
            buffer.storage.set(range(len(rows)), rows)
        buffer.writer.load_state_dict(state["writer"])
        buffer._transform.load_state_dict(state["transforms"])
        if isinstance(sampler := buffer.sampler, PrioritizedSampler):
            index = torch.arange(len(buffer))
            sampler._sum_tree[index] = state["priorities"]
            sampler._min_tree[index] = state["priorities"]
            sampler._max_priority = tuple(state["max_priority"])
