"""Assembly of trajectories whose parts have the same identifier."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_recall.data.dropped_steps import DroppedSteps
from torchrl_recall.data.step_order import StepOrder
from torchrl_recall.stateful import from_containers, to_containers

__all__ = ["StreamsById"]

_Key = tuple[int, int]  # row, or zero unless rows are workers; and identifier


class StreamsById:
    """Assembler of whole trajectories from parts with the same identifier, in any order.

    If one identifier is in two rows of a write, each worker has identifiers of its own, and rows
    count as workers from then on. See :class:`~torchrl_recall.data.streams.TrajectoryStreams`.

    Args:
        order: tells which steps follow each other.
        dropped: counts the steps that belong to no whole trajectory.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.dropped_steps import DroppedSteps
        >>> from torchrl_recall.data.step_order import StepOrder
        >>> from torchrl_recall.data.streams_by_id import StreamsById
        >>> streams = StreamsById(StepOrder(("next", "done")), DroppedSteps())
        >>> ids, done = torch.tensor([[0, 1, 0, 1]]), torch.tensor([[False, False, True, False]])
        >>> steps = TensorDict({"next": {"done": done}}, [1, 4])
        >>> [len(trajectory) for trajectory in streams.finished(steps, ids, None, capacity=10)]
        [2]
        >>> streams.num_open
        2
    """

    def __init__(self, order: StepOrder, dropped: DroppedSteps) -> None:
        self.order, self.dropped = order, dropped
        self._ids_of_rows = False
        # Of each unfinished trajectory, the oldest first: the number of steps that had been
        # written at its last one, and its steps.
        self._open: dict[_Key, tuple[int, TensorDictBase]] = {}
        self._num_written = 0
        self._last_in_row: dict[int, _Key] = {}
        self._done: set[_Key] = set()  # of the last write; a cut one may go on
        self._lost: set[_Key] = set()  # whose first steps were dropped
        self._renamed: set[_Key] = set()  # those that began under another identifier

    @property
    def num_open(self) -> int:
        """The number of stored steps of unfinished trajectories."""
        return sum(len(steps) for _, steps in self._open.values())

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories."""
        self._open, self._last_in_row = {}, {}
        self._done, self._lost, self._renamed = set(), set(), set()

    def finished(
        self, rows: TensorDictBase, ids: Tensor, mask: Tensor | None, capacity: int
    ) -> list[TensorDictBase]:
        """Add a write, and return the trajectories that it completes.

        Args:
            rows: transitions in order of time, shape ``[rows, time]``.
            ids: their identifiers, of the same shape.
            mask: marks real steps; None if all are.
            capacity: steps of the longest trajectory that can be kept.

        Returns:
            The completed trajectories, shape ``[time]`` each.
        """
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        if mask is None and not self._ids_of_rows:
            self._ids_of_rows = sum(len(row.unique()) for row in ids) > len(ids.unique())
        workers = torch.arange(len(ids), device=ids.device) * self._ids_of_rows
        steps = rows[valid]
        keys = torch.stack([workers.unsqueeze(1).expand_as(ids)[valid], ids[valid]], 1)
        last_in_row, self._last_in_row = self._last_in_row, {}
        done_before, self._done = self._done, set()
        self._num_written += len(steps)
        finished = []
        present = {(worker, number) for worker, number in keys.unique(dim=0).tolist()}
        for key in sorted(present):
            new = steps[(keys == torch.tensor(key, device=keys.device)).all(1)]
            last = last_in_row.get(key[0])
            if last is not None and last not in present and self._goes_on(last, new):
                self._renamed.add(key)
            _, held = self._open.pop(key, (0, None))
            # A restored part may lie on another device.
            own = new if held is None else torch.cat([held.to(ids.device), new])
            whole, rest = self._cut(key, own, key in done_before)
            finished += whole
            if not len(rest):
                self._done.add(key)
            elif len(rest) > capacity:
                self._lose(key, rest, f"was not done within the {capacity} steps that can be kept")
            else:
                self._open[key] = self._num_written, rest.clone()
        if mask is None:
            lasts = zip(workers.tolist(), ids[:, -1].tolist(), strict=True)
            self._last_in_row = {worker: (worker, number) for worker, number in lasts}
        self._lose_idle(capacity * len(rows))
        return finished

    def _cut(
        self, key: _Key, steps: TensorDictBase, after_done: bool
    ) -> tuple[list[TensorDictBase], TensorDictBase]:
        """Cut after each done flag; return whole trajectories, and the open part after the last."""
        begins, follows = self.order.begins(steps), self.order.follows(steps.unsqueeze(0))
        finished, start = [], 0
        for end in (self.order.done(steps).nonzero().squeeze(-1) + 1).tolist():
            cuts = [] if follows is None else (~follows[0, start : end - 1]).nonzero().tolist()
            first = start + 1 + cuts[-1][0] if cuts else start
            if begins is not None and begins[first]:
                whole = True
            elif first > start:
                whole = False
            elif start:  # after a done flag without a reset, or of another worker
                whole = begins is None or follows is None or bool(follows[0, start - 1])
            elif key in self._lost:
                whole = False
            else:
                whole = after_done or (begins is None and key not in self._renamed)
            self._renamed.discard(key)
            self._lost.discard(key)
            kept_from = first if whole else end
            if kept_from > start:
                reason = "a trajectory was cut, or its beginning not seen"
                self.dropped.add(kept_from - start, reason)
            if whole:
                finished.append(steps[first:end])
            start = end
        cuts = [] if follows is None else (~follows[0, start:]).nonzero().tolist()
        if cuts:  # what precedes a gap is never done
            first = start + 1 + cuts[-1][0]
            self._lose(key, steps[start:first], "was cut without a done flag")
            start = first
        return finished, steps[start:]

    def _goes_on(self, last: _Key, new: TensorDictBase) -> bool:
        """Return whether an unfinished trajectory continues under another identifier."""
        if last not in self._open:
            return False
        _, before = self._open[last]
        both = torch.cat([before[-1:].to(new.get(self.order.done_key).device), new[:1]])
        follows = self.order.follows(both.unsqueeze(0))
        return follows is not None and bool(follows.all())

    def _lose(self, key: _Key, steps: TensorDictBase, reason: str) -> None:
        """Drop the first steps of a trajectory, whose last ones may come yet."""
        self._lost.add(key)
        self.dropped.add(len(steps), f"trajectory {key[1]} {reason}")

    def _lose_idle(self, idle: int) -> None:
        """Drop trajectories without a recent step: those that were cut are never done."""
        while self._open:
            oldest, (written, steps) = next(iter(self._open.items()))
            if self._num_written - written < idle:
                break
            del self._open[oldest]
            self._lose(oldest, steps, f"was not done, and has none of the last {idle} steps")

    def state_dict(self) -> dict:
        """Return the unfinished trajectories as tensors and plain containers."""
        return {
            "ids_of_rows": self._ids_of_rows,
            "done_ids": [list(key) for key in sorted(self._done)],
            "renamed": [list(key) for key in sorted(self._renamed)],
            "last_in_row": [list(key) for key in self._last_in_row.values()],
            "lost_ids": [list(key) for key in sorted(self._lost)],
            "num_written": self._num_written,
            "by_id": [
                [list(key), to_containers(steps), written]
                for key, (written, steps) in self._open.items()
            ],
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._ids_of_rows, self._num_written = state["ids_of_rows"], state["num_written"]
        self._done = {_key(key) for key in state["done_ids"]}
        self._renamed = {_key(key) for key in state["renamed"]}
        self._last_in_row = {key[0]: _key(key) for key in state["last_in_row"]}
        self._lost = {_key(key) for key in state["lost_ids"]}
        self._open = {
            _key(key): (written, from_containers(steps)) for key, steps, written in state["by_id"]
        }


def _key(pair: list[int]) -> _Key:
    return pair[0], pair[1]
