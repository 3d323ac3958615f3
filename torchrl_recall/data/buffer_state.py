"""State of a replay buffer without the room it has not used yet."""

from __future__ import annotations

from torchrl.data import ReplayBuffer

__all__ = ["BufferState", "load_replay_buffer_state_dict", "replay_buffer_state_dict"]


def replay_buffer_state_dict(buffer: ReplayBuffer) -> dict:
    """What ``buffer.state_dict()`` holds, with the written rows only.

    TorchRL's own state of a ``LazyTensorStorage`` is as large as the storage may ever become.

    Args:
        buffer: a buffer with a tensor storage and a sampler without state.

    Returns:
        The rows as a tensordict (None while empty), and the writer's and transforms' state.
    """
    return {
        "rows": buffer.storage[: len(buffer)].exclude("index").clone() if len(buffer) else None,
        "writer": buffer.writer.state_dict(),
        "transforms": dict(buffer._transform.state_dict()),
    }


def load_replay_buffer_state_dict(buffer: ReplayBuffer, state: dict) -> None:
    """Restore :func:`replay_buffer_state_dict`.

    Args:
        buffer: built as the saved one was.
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
    """A buffer's state behind the usual two methods.

    Args:
        buffer: see :func:`replay_buffer_state_dict`.
    """

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.buffer = buffer

    def state_dict(self) -> dict:
        """See :func:`replay_buffer_state_dict`."""
        return replay_buffer_state_dict(self.buffer)

    def load_state_dict(self, state: dict) -> None:
        """See :func:`load_replay_buffer_state_dict`."""
        load_replay_buffer_state_dict(self.buffer, state)
