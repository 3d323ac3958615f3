"""Assembly of whole trajectories from writes that hold parts of them."""

from __future__ import annotations

from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from torchrl_recall.data.dropped_steps import DroppedSteps
from torchrl_recall.data.step_order import StepOrder
from torchrl_recall.data.streams_by_id import StreamsById
from torchrl_recall.data.streams_by_row import StreamsByRow

__all__ = ["TrajectoryStreams"]

_MASK, _IDS = ("collector", "mask"), ("collector", "traj_ids")


class TrajectoryStreams:
    """Assembler of whole trajectories from the parts in several writes.

    Writes have the shape ``[time]`` or ``[batch, time]``. If the data have
    ``("collector", "traj_ids")``, parts with the same identifier form a trajectory, in any order.
    If one identifier is in two rows of a write, each worker has identifiers of its own, and rows
    count as workers from then on. Without identifiers, each row is a stream that continues in the
    next write. With a ``("collector", "mask")``, each row is a whole trajectory.

    A stream is cut where a step does not follow from the one before it. That is the case if s_t
    differs from the preceding s_{t+1}, or if ``step_count`` or ``is_init`` show it. A part of a cut
    trajectory is kept only if it begins an episode. A warning gives the reason when steps are
    dropped for the first time.

    Args:
        done_key: key that marks the end of a trajectory, including ``"next"``.
        observation_key: key of s_t; s_{t+1} is the same key under ``"next"``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.streams import TrajectoryStreams
        >>> states, done = torch.arange(4.0).unsqueeze(-1), torch.tensor([False, False, True])
        >>> following = {"observation": states[1:], "done": done.unsqueeze(-1)}
        >>> steps = TensorDict({"observation": states[:-1], "next": following}, [3])
        >>> streams = TrajectoryStreams(("next", "done"))
        >>> [len(streams.finished(part, capacity=10)) for part in (steps[:2], steps[2:])]
        [0, 1]
    """

    def __init__(self, done_key: NestedKey, observation_key: NestedKey = "observation") -> None:
        self._order, self._dropped = StepOrder(done_key, observation_key), DroppedSteps()
        self._by_id = StreamsById(self._order, self._dropped)
        self._by_row = StreamsByRow(self._order, self._dropped)
        self._checked = False  # whether a write was looked at for the order of its dimensions

    @property
    def num_dropped(self) -> int:
        """The number of steps that belong to no whole trajectory."""
        return self._dropped.count

    @property
    def num_open(self) -> int:
        """The number of stored steps of unfinished trajectories."""
        return self._by_id.num_open + self._by_row.num_open

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories."""
        self._by_id.drop_unfinished()
        self._by_row.drop_unfinished()

    def finished(self, data: TensorDictBase, capacity: int) -> list[TensorDictBase]:
        """Add a write, and return the trajectories that it completes.

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
            capacity: steps of the longest trajectory that can be kept.

        Returns:
            The completed trajectories, shape ``[time]`` each, in the order in which they ended.

        Raises:
            ValueError: the number of rows changed while trajectories are open, or the first write
                has the shape ``[time, batch]``.
        """
        if not data.shape.numel():
            return []
        rows = data.reshape(-1, data.shape[-1])
        mask = data.get(_MASK, None)
        if mask is None and not self._checked and min(rows.shape) > 1:
            self._check_order(rows)
            self._checked = True
        mask = None if mask is None else mask.reshape(rows.shape)
        ids = data.get(_IDS, None)
        if ids is not None:
            rows = rows.exclude(_MASK)
            return self._by_id.finished(rows, ids.reshape(rows.shape), mask, capacity)
        if mask is not None:
            return self._whole(rows, mask)
        return self._by_row.finished(rows, capacity)

    def _check_order(self, rows: TensorDictBase) -> None:
        """Refuse rows of which no step follows from the one before, if columns do."""
        goes_on = ~self._order.done(rows)
        in_row, in_column = self._order.follows(rows), self._order.follows(rows.transpose(0, 1))
        if in_row is None or in_column is None or (in_row & goes_on[:, :-1]).any():
            return
        in_column = in_column.T[goes_on[:-1]]
        if len(in_column) and in_column.float().mean() > 0.5:
            raise ValueError(
                f"experience of shape {tuple(rows.shape)} is in order of time along its first "
                "dimension, not along its last. Give [batch, time], as data.transpose(0, 1)."
            )

    def _whole(self, rows: TensorDictBase, mask: Tensor) -> list[TensorDictBase]:
        """Return the rows that are whole trajectories."""
        finished = []
        for row, valid in zip(rows.unbind(0), mask.unbind(0), strict=True):
            whole = row[valid].exclude(_MASK)
            if not len(whole) or not self._order.done(whole)[-1]:
                self._dropped.add(len(whole), "a trajectory with a mask is not done")
            elif (begin := self._order.begins(whole)) is not None and not begin[0]:
                self._dropped.add(len(whole), "a trajectory with a mask does not begin an episode")
            else:
                finished.append(whole)
        return finished

    def state_dict(self) -> dict:
        """Return the unfinished trajectories as tensors and plain containers."""
        parts = {**self._by_row.state_dict(), **self._by_id.state_dict()}
        return {**parts, "num_dropped": self.num_dropped}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._by_row.load_state_dict(state)
        self._by_id.load_state_dict(state)
        self._dropped.count = state["num_dropped"]
