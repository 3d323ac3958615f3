"""Whole trajectories out of writes that hold parts of them."""

from __future__ import annotations

import warnings

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.checks import next_key, unraveled

__all__ = ["TrajectoryStreams"]

_MASK, _IDS = ("collector", "mask"), ("collector", "traj_ids")


class TrajectoryStreams:
    """Join the parts of trajectories, and drop what never was one.

    Writes have the shape ``[time]`` or ``[batch, time]``. Parts of a trajectory are known by
    ``("collector", "traj_ids")`` where the data carry them, whatever their order. Without them each
    row is a stream that goes on where it stopped, or, with a ``("collector", "mask")``, a whole
    trajectory.

    A row that does not go on is cut. ``step_count`` or ``is_init`` show that if they are there;
    otherwise s_t must be the s_{t+1} of the step before it. Of a cut trajectory only a part that is
    known to begin an episode is kept. The first time that steps are dropped a warning says why.

    Args:
        done_key: where the end of a trajectory is, with ``"next"``.
        observation_key: where s_t is; s_{t+1} is the same key under ``"next"``.
    """

    def __init__(self, done_key: NestedKey, observation_key: NestedKey = "observation") -> None:
        self.done_key, self.observation_key = done_key, unraveled(observation_key)
        self.num_dropped = 0  # steps
        self._warned = False
        # Rows: writes since the oldest open trajectory. Of each row: where its open one begins,
        # whether that is too long to be kept, and whether a done flag came before it.
        self._parts: list[TensorDictBase] = []
        self._starts = torch.zeros(0, dtype=torch.long)
        self._lost = torch.zeros(0, dtype=torch.bool)
        self._after_done = torch.zeros(0, dtype=torch.bool)
        # Trajectories known by their identifier.
        self._by_id: dict[int, list[TensorDictBase]] = {}
        self._done_ids: set[int] = set()  # of the last write; a cut one may go on after its done

    @property
    def num_open(self) -> int:
        """Return the number of steps that are held."""
        held = sum(part.numel() for parts in self._by_id.values() for part in parts)
        return held + sum(part.numel() for part in self._parts)

    def drop_unfinished(self) -> None:
        """Forget open trajectories."""
        self._parts, self._by_id, self._done_ids = [], {}, set()
        self._lost = torch.zeros_like(self._lost)

    def finished(self, data: TensorDictBase, capacity: int) -> list[TensorDictBase]:
        """Take a write in, and return the trajectories that it completes.

        Args:
            data: shape ``[time]`` or ``[batch, time]``.
            capacity: steps of the longest trajectory that can be kept.
        """
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
        steps, ids = rows[valid].exclude(_MASK), ids[valid]
        finished = []
        device = ids.device  # a restored part may lie elsewhere
        done_ids, self._done_ids = self._done_ids, set()
        for number in ids.unique().tolist():
            open_parts = [part.to(device) for part in self._by_id.pop(number, [])]
            own = torch.cat([*open_parts, steps[ids == number]])
            begin = self._begins(own)
            ends = (self._done(own).nonzero().squeeze(-1) + 1).tolist()
            start = 0
            for end in ends:
                if begin is None or start or begin[0] or number in done_ids:
                    finished.append(own[start:end])
                else:
                    self._drop(end, "the trajectory was not seen from its beginning")
                start = end
            if start < len(own):
                self._by_id[number] = [own[start:].clone()]
            else:
                self._done_ids.add(number)
        # Those that were cut without a done flag never end: the oldest go first.
        while self._by_id and self.num_open > capacity * max(1, len(rows)):
            oldest = next(iter(self._by_id))
            self._drop(
                sum(part.numel() for part in self._by_id.pop(oldest)),
                f"trajectory {oldest} was not done within the {capacity} steps that can be kept",
            )
        return finished

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
        """Cut each row after its done flags, in the order in which trajectories ended."""
        window = self._window()
        done, begins, breaks = self._done(window), self._begins(window), self._breaks(window)
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
            whole = known if first == start else False
            if not whole and begins is not None:
                whole = bool(begins[row, first])
            elif not whole:
                whole = first == start  # nothing says that the stream began in mid-episode
            kept_from = first if whole else end + 1
            if kept_from > start:
                self._drop(kept_from - start, "an episode was cut without a done flag")
            if whole:
                finished.append(window[row, first : end + 1])
        self._trim(window)
        return finished

    def _trim(self, window: TensorDictBase) -> None:
        """Drop the time steps before the oldest open trajectory."""
        open_from = int(self._starts.min())
        self._parts = [window[:, open_from:].clone()] if open_from < window.shape[1] else []
        self._starts -= open_from

    def _window(self) -> TensorDictBase:
        """Join all writes since the oldest open trajectory."""
        device = self._parts[-1].get(self.done_key).device  # a restored part may lie elsewhere
        return torch.cat([part.to(device) for part in self._parts], 1)  # type: ignore[return-value]

    def _done(self, data: TensorDictBase) -> Tensor:
        return data.get(self.done_key).reshape(*data.shape, -1).any(-1)

    def _count(self, data: TensorDictBase) -> Tensor | None:
        """Return the steps before each in its episode, by TorchRL's counter or ours."""
        counts = (data.get(key, None) for key in ("step_count", "elapsed_steps"))
        return next((count for count in counts if count is not None), None)

    def _begins(self, data: TensorDictBase) -> Tensor | None:
        """Say which steps begin an episode; None where the data do not tell."""
        if (count := self._count(data)) is not None:
            return (count.reshape(*data.shape, -1) == 0).all(-1)
        if (init := data.get("is_init", None)) is not None:
            return init.reshape(*data.shape, -1).any(-1)
        return None

    def _breaks(self, window: TensorDictBase) -> Tensor:
        """Say which steps do not go on from the one before them, which was not done."""
        before, after = window[:, :-1], window[:, 1:]
        if (count := self._count(window)) is not None:
            count = count.reshape(*window.shape, -1)
            follows = (count[:, 1:] == count[:, :-1] + 1).all(-1)
        elif (begins := self._begins(window)) is not None:
            follows = ~begins[:, 1:]
        else:
            state = after.get(self.observation_key, None)
            following = before.get(next_key(self.observation_key), None)
            if state is None or following is None or state.shape != following.shape:
                return torch.zeros(window.shape, dtype=torch.bool)
            same = torch.isclose(state, following, rtol=1e-3, atol=1e-6, equal_nan=True)
            follows = same.reshape(*after.shape, -1).all(-1)
        breaks = ~follows & ~self._done(before)
        return torch.cat([torch.zeros_like(breaks[:, :1]), breaks], 1)

    def _drop(self, steps: int, reason: str) -> None:
        """Count dropped steps, and say once why."""
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
        """Return the open trajectories as tensors and plain containers."""
        window = self._window() if self._parts else None
        return {
            "rows": None if window is None else _plain(window),
            "starts": self._starts.clone(),
            "lost": self._lost.clone(),
            "after_done": self._after_done.clone(),
            "done_ids": sorted(self._done_ids),
            "by_id": [[number, _plain(torch.cat(p))] for number, p in self._by_id.items()],
            "num_dropped": self.num_dropped,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._parts = [] if state["rows"] is None else [_tensordict(state["rows"])]
        self._starts, self._lost = state["starts"].clone(), state["lost"].clone()
        self._after_done = state["after_done"].clone()
        self._by_id = {number: [_tensordict(plain)] for number, plain in state["by_id"]}
        self._done_ids = set(state["done_ids"])
        self.num_dropped = state["num_dropped"]


def _plain(data: TensorDictBase) -> dict:
    """Turn a tensordict into containers that a buffer's own ``dumps`` can write."""
    items = [(key, value.clone()) for key, value in data.items(True, True)]
    return {"items": items, "shape": list(data.shape)}


def _tensordict(plain: dict) -> TensorDict:
    """Undo :func:`_plain`."""
    data = TensorDict({}, batch_size=plain["shape"])
    for key, value in plain["items"]:
        data.set(tuple(key) if isinstance(key, list) else key, value.clone())
    return data
