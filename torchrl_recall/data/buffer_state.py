"""State of a replay buffer, of its written rows only."""

from __future__ import annotations

from torchrl.data import ReplayBuffer

__all__ = ["BufferState", "load_replay_buffer_state_dict", "replay_buffer_state_dict"]


def replay_buffer_state_dict(buffer: ReplayBuffer) -> dict:
    """Return the state of a buffer, with its written rows only.

    TorchRL's ``buffer.state_dict()`` of a ``LazyTensorStorage`` is as large as the full storage.

    Args:
        buffer: a buffer with a tensor storage and a sampler without state.

    Returns:
        The rows as a tensordict (None while empty), and the writer's and transforms' state.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.buffer_state import replay_buffer_state_dict
        >>> buffer = ReplayBuffer(storage=LazyTensorStorage(1_000), batch_size=8)
        >>> _ = buffer.extend(TensorDict({"reward": torch.zeros(3)}, [3]))
        >>> replay_buffer_state_dict(buffer)["rows"].shape
        torch.Size([3])
    """
    return {
        "rows": buffer.storage[: len(buffer)].exclude("index").clone() if len(buffer) else None,
        "writer": buffer.writer.state_dict(),
        "transforms": dict(buffer._transform.state_dict()),
    }


def load_replay_buffer_state_dict(buffer: ReplayBuffer, state: dict) -> None:
    """Restore :func:`replay_buffer_state_dict`.

    Args:
        buffer: a buffer of the same settings as the saved one.
        state: the saved state.

    Raises:
        ValueError: the rows do not fit into the buffer.
    """
    rows = state["rows"]
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


class BufferState:
    """Replay buffer seen as an object with ``state_dict`` and ``load_state_dict``.

    Args:
        buffer: see :func:`replay_buffer_state_dict`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.buffer_state import BufferState
        >>> saved, other = (ReplayBuffer(storage=LazyTensorStorage(9)) for _ in range(2))
        >>> _ = saved.extend(TensorDict({"reward": torch.zeros(3)}, [3]))
        >>> BufferState(other).load_state_dict(BufferState(saved).state_dict())
        >>> len(other)
        3
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer

    def state_dict(self) -> dict:
        """Return the state; see :func:`replay_buffer_state_dict`."""
        return replay_buffer_state_dict(self.buffer)

    def load_state_dict(self, state: dict) -> None:
        """Restore a state; see :func:`load_replay_buffer_state_dict`."""
        load_replay_buffer_state_dict(self.buffer, state)
