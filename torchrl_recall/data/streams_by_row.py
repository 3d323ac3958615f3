"""Assembly of trajectories from rows that continue in the next write."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_recall.data.dropped_steps import DroppedSteps
from torchrl_recall.data.step_order import StepOrder
from torchrl_recall.stateful import from_containers, to_containers

__all__ = ["StreamsByRow"]

_CUT = "an episode was cut without a done flag"


class StreamsByRow:
    """Assembler of whole trajectories from rows, each a stream that continues in the next write.

    See :class:`~torchrl_recall.data.streams.TrajectoryStreams`.

    Args:
        order: tells which steps follow each other.
        dropped: counts the steps that belong to no whole trajectory.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.dropped_steps import DroppedSteps
        >>> from torchrl_recall.data.step_order import StepOrder
        >>> from torchrl_recall.data.streams_by_row import StreamsByRow
        >>> streams = StreamsByRow(StepOrder(("next", "done")), DroppedSteps())
        >>> done = torch.tensor([[False, True, False], [False, False, False]])
        >>> steps = TensorDict({"next": {"done": done}}, [2, 3])
        >>> [len(trajectory) for trajectory in streams.finished(steps, capacity=10)]
        [2]
    """

    def __init__(self, order: StepOrder, dropped: DroppedSteps) -> None:
        self.order, self.dropped = order, dropped
        # Writes since the oldest unfinished trajectory. For each row: where its unfinished
        # trajectory begins, whether steps before it were dropped, and whether a done flag precedes
        # it.
        self._parts: list[TensorDictBase] = []
        self._starts = torch.zeros(0, dtype=torch.long)
        self._lost = torch.zeros(0, dtype=torch.bool)
        self._after_done = torch.zeros(0, dtype=torch.bool)
        self._before: TensorDictBase | None = None  # the last step before the first of the parts

    @property
    def num_open(self) -> int:
        """The number of stored steps since the oldest unfinished trajectory."""
        return sum(part.numel() for part in self._parts)

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories."""
        self._parts, self._before = [], None
        self._lost = torch.zeros_like(self._lost)
        self._after_done = torch.zeros_like(self._after_done)

    def finished(self, rows: TensorDictBase, capacity: int) -> list[TensorDictBase]:
        """Add a write, and return the trajectories that it completes.

        Args:
            rows: transitions in order of time, shape ``[rows, time]``.
            capacity: steps of the longest trajectory that can be kept.

        Returns:
            The completed trajectories, shape ``[time]`` each, in the order in which they ended.

        Raises:
            ValueError: the number of rows changed while trajectories are open.
        """
        if self._parts and len(rows) != len(self._starts):
            raise ValueError(
                f"this write has {len(rows)} rows, but trajectories of {len(self._starts)} rows "
                "are still open. Write every environment each time, or whole trajectories only."
            )
        if len(rows) != len(self._lost):
            self._lost = torch.zeros(len(rows), dtype=torch.bool)
            self._after_done = torch.zeros(len(rows), dtype=torch.bool)
            self._before = None
        if not self._parts:
            self._starts = torch.zeros(len(rows), dtype=torch.long)
        before = self.order.evidence(self._parts[-1][:, -1:]) if self._parts else self._before
        gaps = ~self._continues(rows, before)
        self._parts.append(rows.clone())
        finished = self._cut() if self.order.done(rows).any() else []
        self._drop_before(gaps)

        # An episode that is longer than the buffer cannot be kept, nor held until it ends.
        length = self._length
        too_long = length - self._starts > capacity
        if too_long.any():
            steps = int((length - self._starts)[too_long].sum())
            reason = f"an episode is longer than the {capacity} steps that can be kept"
            self.dropped.add(steps, reason)
            self._lost |= too_long
            self._starts[too_long] = length
            self._trim(self._window())
        return finished

    def _cut(self) -> list[TensorDictBase]:
        """Cut each row after its done flags; return trajectories in the order of their ends."""
        window = self._window()
        done, begins = self.order.done(window), self.order.begins(window)
        goes_on = self._continues(window, self._before)
        breaks = ~goes_on
        breaks[:, 1:] &= ~done[:, :-1]
        finished = []
        for end, row in done.T.nonzero().tolist():
            start = int(self._starts[row])
            if end < start:
                continue
            self._starts[row] = end + 1
            lost, self._lost[row] = bool(self._lost[row]), False
            known, self._after_done[row] = bool(self._after_done[row]) and not lost, True
            cuts = breaks[row, start + 1 : end + 1].nonzero().squeeze(-1)
            first = start + 1 + int(cuts[-1]) if len(cuts) else start
            if begins is None:
                whole = first == start and not lost  # no sign that it began in mid-episode
            else:  # a task may go on after its done flag, without a reset
                goes_on_here = first == start and known and bool(goes_on[row, first])
                whole = bool(begins[row, first]) or goes_on_here
            kept_from = first if whole else end + 1
            if kept_from > start:
                self.dropped.add(kept_from - start, _CUT)
            if whole:
                finished.append(window[row, first : end + 1])
        self._trim(window)
        return finished

    def _drop_before(self, gaps: Tensor) -> None:
        """Drop the steps of unfinished trajectories that come before a gap.

        Args:
            gaps: marks the steps of the newest write that do not follow from the step before.
        """
        place = torch.arange(gaps.shape[1]) + self._length - gaps.shape[1]
        gaps = gaps.cpu() & (place > self._starts.unsqueeze(1))
        if not gaps.any():
            return
        last = (place * gaps).amax(1)
        cut = last > 0
        self.dropped.add(int((last - self._starts)[cut].sum()), _CUT)
        self._starts = torch.where(cut, last, self._starts)
        self._after_done &= ~cut
        if self.order.begins(self._parts[-1]) is None:  # what follows a gap is lost too
            self._lost |= cut
        else:
            self._lost &= ~cut
        self._trim(self._window())

    def _continues(self, window: TensorDictBase, before: TensorDictBase | None) -> Tensor:
        """Mark the steps that follow from the step before, done or not, or may do so."""
        goes_on = torch.ones_like(self.order.done(window))
        steps = self.order.evidence(window)
        if before is not None and set(before.keys(True, True)) == set(steps.keys(True, True)):
            steps = torch.cat([before.to(goes_on.device), steps], 1)
        follows = self.order.follows(steps)  # type: ignore[arg-type]
        if follows is not None:
            goes_on[:, window.shape[1] - follows.shape[1] :] = follows
        return goes_on

    def _trim(self, window: TensorDictBase) -> None:
        """Drop the time steps before the oldest unfinished trajectory."""
        open_from = int(self._starts.min())
        if open_from:
            self._before = self.order.evidence(window[:, open_from - 1 : open_from]).clone()
        self._parts = [window[:, open_from:].clone()] if open_from < window.shape[1] else []
        self._starts -= open_from

    @property
    def _length(self) -> int:
        """The number of time steps since the oldest unfinished trajectory."""
        return sum(part.shape[1] for part in self._parts)

    def _window(self) -> TensorDictBase:
        """Join all writes since the oldest unfinished trajectory."""
        # A restored part may lie on another device.
        device = self._parts[-1].get(self.order.done_key).device
        return torch.cat([part.to(device) for part in self._parts], 1)  # type: ignore[return-value]

    def state_dict(self) -> dict:
        """Return the unfinished trajectories as tensors and plain containers."""
        return {
            "rows": to_containers(self._window()) if self._parts else None,
            "starts": self._starts.clone(),
            "lost": self._lost.clone(),
            "after_done": self._after_done.clone(),
            "before": None if self._before is None else to_containers(self._before),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._parts = [] if state["rows"] is None else [from_containers(state["rows"])]
        self._starts, self._lost = state["starts"].clone(), state["lost"].clone()
        self._after_done = state["after_done"].clone()
        before = state["before"]
        self._before = None if before is None else from_containers(before)
