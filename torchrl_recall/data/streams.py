"""Assembly of whole trajectories from writes that hold parts of them."""

from __future__ import annotations

import warnings

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.checks import next_key, unraveled
from torchrl_recall.stateful import from_containers, to_containers

__all__ = ["TrajectoryStreams", "same_states"]

_MASK, _IDS = ("collector", "mask"), ("collector", "traj_ids")
_COUNTS = "step_count", "elapsed_steps"


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
        self.done_key, self.observation_key = done_key, unraveled(observation_key)
        self.num_dropped = 0  # steps
        self._warned = False
        # Rows: writes since the oldest unfinished trajectory. For each row: where its unfinished
        # trajectory begins, whether it is too long to be kept, and whether a done flag precedes it.
        self._parts: list[TensorDictBase] = []
        self._starts = torch.zeros(0, dtype=torch.long)
        self._lost = torch.zeros(0, dtype=torch.bool)
        self._after_done = torch.zeros(0, dtype=torch.bool)
        self._before: TensorDictBase | None = None  # the last step before the first of the parts
        # Trajectories by identifier, preceded by the row if rows are workers: the number of steps
        # that had been written at their last one, and their steps. The oldest come first.
        self._ids_of_rows = False
        self._by_id: dict[tuple[int, int], tuple[int, TensorDictBase]] = {}
        self._num_written = 0
        self._lost_ids: set[tuple[int, int]] = set()  # whose first steps were dropped
        self._done_ids: set[tuple[int, int]] = set()  # of the last write; a cut one may go on
        self._last_in_row: dict[int, tuple[int, int]] = {}
        self._renamed: set[tuple[int, int]] = set()  # those that began under another identifier

    @property
    def num_open(self) -> int:
        """The number of stored steps of unfinished trajectories."""
        held = sum(len(steps) for _, steps in self._by_id.values())
        return held + sum(part.numel() for part in self._parts)

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories."""
        self._parts, self._before = [], None
        self._by_id, self._last_in_row = {}, {}
        self._done_ids, self._renamed, self._lost_ids = set(), set(), set()
        self._lost = torch.zeros_like(self._lost)

    def finished(self, data: TensorDictBase, capacity: int) -> list[TensorDictBase]:
        """Add a write, and return the trajectories that it completes.

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.
            capacity: steps of the longest trajectory that can be kept.

        Returns:
            The completed trajectories, shape ``[time]`` each, in the order in which they ended.
        """
        if not data.shape.numel():
            return []
        rows = data.reshape(-1, data.shape[-1])
        mask = data.get(_MASK, None)
        mask = None if mask is None else mask.reshape(rows.shape)
        ids = data.get(_IDS, None)
        if ids is not None:
            return self._finished_by_id(rows, ids.reshape(rows.shape), mask, capacity)
        if mask is not None:
            return self._finished_whole(rows, mask)
        return self._finished_rows(rows, capacity)

    def _finished_by_id(
        self, rows: TensorDictBase, ids: Tensor, mask: Tensor | None, capacity: int
    ) -> list[TensorDictBase]:
        valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        if mask is None and not self._ids_of_rows:
            self._ids_of_rows = sum(len(row.unique()) for row in ids) > len(ids.unique())
        finished = []
        done_ids, self._done_ids = self._done_ids, set()
        last_in_row, self._last_in_row = self._last_in_row, {}
        steps, row_of = rows[valid].exclude(_MASK), torch.arange(len(ids), device=ids.device)
        numbers = ids[valid]
        row_of = row_of.unsqueeze(1).expand_as(ids)[valid] * self._ids_of_rows
        keys = torch.stack([row_of, numbers], 1).unique(dim=0).tolist()
        present = {(row, number) for row, number in keys}
        self._num_written += len(steps)
        for row, number in sorted(present):
            key, device = (row, number), ids.device  # a restored part may lie elsewhere
            new = steps[(numbers == number) & (row_of == row)]
            _, before = self._by_id.get(last_in_row.get(row, key), (0, None))
            if last_in_row.get(row) not in (None, *present) and self._goes_on(before, new):
                self._renamed.add(key)
            _, held = self._by_id.pop(key, (0, None))
            own = new if held is None else torch.cat([held.to(device), new])
            begins, follows = self._begins(own), self._follows(own.unsqueeze(0))
            ends = (self._done(own).nonzero().squeeze(-1) + 1).tolist()
            start = 0
            for end in ends:
                cuts = [] if follows is None else (~follows[0, start : end - 1]).nonzero().tolist()
                first = start + 1 + cuts[-1][0] if cuts else start
                if begins is not None and begins[first]:
                    whole = True
                elif first > start:
                    whole = False
                elif start:  # after a done flag without a reset, or of another worker
                    whole = begins is None or follows is None or bool(follows[0, start - 1])
                elif key in self._lost_ids:
                    whole = False
                else:
                    whole = key in done_ids or (begins is None and key not in self._renamed)
                self._renamed.discard(key)
                self._lost_ids.discard(key)
                kept_from = first if whole else end
                if kept_from > start:
                    self._drop(kept_from - start, "a trajectory was cut, or its beginning not seen")
                if whole:
                    finished.append(own[first:end])
                start = end
            if start == len(own):
                self._done_ids.add(key)
            elif len(own) - start > capacity:
                reason = f"was not done within the {capacity} steps that can be kept"
                self._lose(key, own[start:], reason)
            else:
                self._by_id[key] = self._num_written, own[start:].clone()
        for row, line in enumerate(ids) if mask is None else ():
            row = row * self._ids_of_rows
            self._last_in_row[row] = (row, int(line[-1]))
        # Those that were cut without a done flag never end.
        idle = capacity * len(rows)
        while self._by_id:
            oldest, (written, held) = next(iter(self._by_id.items()))
            if self._num_written - written < idle:
                break
            del self._by_id[oldest]
            self._lose(oldest, held, f"was not done, and has none of the last {idle} steps")
        return finished

    def _lose(self, key: tuple[int, int], steps: TensorDictBase, reason: str) -> None:
        """Drop the first steps of a trajectory, whose last ones may come yet."""
        self._lost_ids.add(key)
        self._drop(len(steps), f"trajectory {key[1]} {reason}")

    def _goes_on(self, before: TensorDictBase | None, new: TensorDictBase) -> bool:
        """Return whether a trajectory continues under another identifier."""
        if before is None:
            return False
        both = torch.cat([before[-1:].to(new.get(self.done_key).device), new[:1]])
        follows = self._follows(both.unsqueeze(0))
        return follows is not None and bool(follows.all())

    def _finished_whole(self, rows: TensorDictBase, mask: Tensor) -> list[TensorDictBase]:
        finished = []
        for row, valid in zip(rows.unbind(0), mask.unbind(0), strict=True):
            whole = row[valid].exclude(_MASK)
            if not len(whole) or not self._done(whole)[-1]:
                self._drop(len(whole), "a trajectory with a mask is not done")
            elif (begin := self._begins(whole)) is not None and not begin[0]:
                self._drop(len(whole), "a trajectory with a mask does not begin an episode")
            else:
                finished.append(whole)
        return finished

    def _finished_rows(self, rows: TensorDictBase, capacity: int) -> list[TensorDictBase]:
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
        self._parts.append(rows.clone())
        finished = self._cut_rows() if self._done(rows).any() else []

        # An episode that is longer than the buffer cannot be kept, nor held until it ends.
        length = sum(part.shape[1] for part in self._parts)
        too_long = length - self._starts > capacity
        if too_long.any():
            steps = int((length - self._starts)[too_long].sum())
            self._drop(steps, f"an episode is longer than the {capacity} steps that can be kept")
            self._lost |= too_long
            self._starts[too_long] = length
            self._trim(self._window())
        return finished

    def _cut_rows(self) -> list[TensorDictBase]:
        """Cut each row after its done flags; return trajectories in the order of their ends."""
        window = self._window()
        done, begins, goes_on = self._done(window), self._begins(window), self._continues(window)
        breaks = ~goes_on
        breaks[:, 1:] &= ~done[:, :-1]
        finished = []
        for end, row in done.T.nonzero().tolist():
            start = int(self._starts[row])
            if end < start:
                continue
            self._starts[row] = end + 1
            known, self._after_done[row] = bool(self._after_done[row]), True
            if self._lost[row]:
                self._lost[row] = False
                continue
            cuts = breaks[row, start + 1 : end + 1].nonzero().squeeze(-1)
            first = start + 1 + int(cuts[-1]) if len(cuts) else start
            if begins is None:
                whole = first == start  # no sign that the stream began in mid-episode
            else:  # a task may go on after its done flag, without a reset
                goes_on_here = first == start and known and bool(goes_on[row, first])
                whole = bool(begins[row, first]) or goes_on_here
            kept_from = first if whole else end + 1
            if kept_from > start:
                self._drop(kept_from - start, "an episode was cut without a done flag")
            if whole:
                finished.append(window[row, first : end + 1])
        self._trim(window)
        return finished

    def _trim(self, window: TensorDictBase) -> None:
        """Drop the time steps before the oldest unfinished trajectory."""
        open_from = int(self._starts.min())
        if open_from:
            self._before = self._telling(window[:, open_from - 1 : open_from]).clone()
        self._parts = [window[:, open_from:].clone()] if open_from < window.shape[1] else []
        self._starts -= open_from

    def _window(self) -> TensorDictBase:
        """Join all writes since the oldest unfinished trajectory."""
        device = self._parts[-1].get(self.done_key).device  # a restored part may lie elsewhere
        return torch.cat([part.to(device) for part in self._parts], 1)  # type: ignore[return-value]

    def _done(self, data: TensorDictBase) -> Tensor:
        done = data.get(self.done_key)
        return done.reshape(*data.shape, done.shape[data.ndim :].numel()).any(-1)  # or no step

    def _count(self, data: TensorDictBase) -> Tensor | None:
        """Return the number of steps before each step in its episode; None if unknown."""
        counts = (data.get(key, None) for key in _COUNTS)
        return next((count for count in counts if count is not None), None)

    def _begins(self, data: TensorDictBase) -> Tensor | None:
        """Mark the steps that begin an episode; None if the data do not say."""
        if (count := self._count(data)) is not None:
            return (count.reshape(*data.shape, -1) == 0).all(-1)
        if (init := data.get("is_init", None)) is not None:
            return init.reshape(*data.shape, -1).any(-1)
        return None

    def _follows(self, window: TensorDictBase) -> Tensor | None:
        """Mark the steps that follow from the step before; None if the data do not say."""
        before, after = window[:, :-1], window[:, 1:]
        told = []
        if (count := self._count(window)) is not None:
            count = count.reshape(*window.shape, -1)
            told.append((count[:, 1:] == count[:, :-1] + 1).all(-1))
        elif (begins := self._begins(window)) is not None:
            told.append(~begins[:, 1:])
        state = after.get(self.observation_key, None)
        following = before.get(next_key(self.observation_key), None)
        if state is not None and following is not None and state.shape == following.shape:
            told.append(same_states(state, following, window.ndim))
        return torch.stack(told).all(0) if told else None

    def _continues(self, window: TensorDictBase) -> Tensor:
        """Mark the steps that follow from the step before, done or not, or may do so."""
        goes_on = torch.ones_like(self._done(window))
        steps, before = self._telling(window), self._before
        if before is not None and set(before.keys(True, True)) == set(steps.keys(True, True)):
            steps = torch.cat([before.to(goes_on.device), steps], 1)
        follows = self._follows(steps)  # type: ignore[arg-type]
        if follows is not None:
            goes_on[:, window.shape[1] - follows.shape[1] :] = follows
        return goes_on

    def _telling(self, data: TensorDictBase) -> TensorDict:
        """Select the entries that tell whether a step follows from the one before."""
        states = self.observation_key, next_key(self.observation_key)
        found = {key: data.get(key, None) for key in (*states, *_COUNTS, "is_init")}
        told = TensorDict({}, batch_size=data.shape)
        for key, value in found.items():
            if value is not None:
                told.set(key, value)
        return told

    def _drop(self, steps: int, reason: str) -> None:
        """Count dropped steps, and warn once with the reason."""
        self.num_dropped += steps
        if steps and not self._warned:
            self._warned = True
            warnings.warn(
                f"TopKTrajectories dropped {steps} steps: {reason}. Give data with "
                "('collector', 'traj_ids') (track_traj_ids=True), step_count or is_init (torchrl's "
                "StepCounter or InitTracker), mark cuts as done (set_truncated=True), or call "
                "drop_unfinished() after a reset. num_dropped counts all such steps.",
                stacklevel=2,
            )

    def state_dict(self) -> dict:
        """Return the unfinished trajectories as tensors and plain containers."""
        window = self._window() if self._parts else None
        return {
            "rows": None if window is None else to_containers(window),
            "starts": self._starts.clone(),
            "lost": self._lost.clone(),
            "after_done": self._after_done.clone(),
            "before": None if self._before is None else to_containers(self._before),
            "ids_of_rows": self._ids_of_rows,
            "done_ids": [list(key) for key in sorted(self._done_ids)],
            "renamed": [list(key) for key in sorted(self._renamed)],
            "last_in_row": [list(key) for key in self._last_in_row.values()],
            "lost_ids": [list(key) for key in sorted(self._lost_ids)],
            "num_written": self._num_written,
            "by_id": [
                [list(key), to_containers(steps), written]
                for key, (written, steps) in self._by_id.items()
            ],
            "num_dropped": self.num_dropped,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._parts = [] if state["rows"] is None else [from_containers(state["rows"])]
        self._starts, self._lost = state["starts"].clone(), state["lost"].clone()
        self._after_done = state["after_done"].clone()
        before = state["before"]
        self._before = None if before is None else from_containers(before)
        self._ids_of_rows, self._num_written = state["ids_of_rows"], state["num_written"]
        self._lost_ids = {_key(key) for key in state["lost_ids"]}
        self._by_id = {
            _key(key): (written, from_containers(steps)) for key, steps, written in state["by_id"]
        }
        self._done_ids = {_key(key) for key in state["done_ids"]}
        self._renamed = {_key(key) for key in state["renamed"]}
        self._last_in_row = {key[0]: _key(key) for key in state["last_in_row"]}
        self.num_dropped = state["num_dropped"]


def same_states(state: Tensor, following: Tensor, ndim: int) -> Tensor:
    """Mark states that are the same, up to rounding.

    Args:
        state: states of shape ``[*batch, *state_shape]``.
        following: states to compare with, of the same shape.
        ndim: number of dimensions of the batch.

    Returns:
        Booleans of the batch's shape. NaN equals NaN, and categories must be equal.
    """
    if not state.is_floating_point():
        same = state == following
    else:
        same = torch.isclose(state, following, rtol=1e-3, atol=1e-6, equal_nan=True)
    return same.flatten(ndim).all(-1) if same.ndim > ndim else same


def _key(pair: list[int]) -> tuple[int, int]:
    return pair[0], pair[1]
