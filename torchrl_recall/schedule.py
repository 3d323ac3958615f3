"""When recall is due, and how strong it is (Alg. 1, lines 8 to 13)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from torchrl_recall.checks import at_least

__all__ = ["Schedule"]

_IDLE_CALLS = 100


class Store(Protocol):
    """Interface of a store of trajectories, as a schedule needs it."""

    @property
    def ready(self) -> bool:
        """Whether one trajectory has had a higher return than another."""

    @property
    def waits_for(self) -> str:
        """The reason why trajectories are not ready, for a warning."""

    def flush(self) -> None:
        """Write the gathered data into the store."""


class Schedule:
    r"""Schedule of rounds: when one is due, and how strong annealing leaves it.

    The strength of a round is

    .. math:: \text{share} = \max(0, 1 - \text{frames} / \text{anneal\_frames})

    Rounds wait until one trajectory has had a higher return than another. If that takes long, a
    warning gives the reason.

    Args:
        interval: frames between rounds.

    Keyword Args:
        start_frames: number of frames before the first round, for example while the host acts at
            random.
        anneal_frames: number of frames over which the share falls linearly to zero; None keeps it
            at one.
        patience: number of frames without a round after which a warning is given. Before any frame
            it is given after a hundred calls of :meth:`rounds`.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> from torchrl_recall.schedule import Schedule
        >>> schedule = Schedule(50, anneal_frames=400)
        >>> schedule.advance(100)
        >>> list(schedule.rounds())
        [0.75, 0.75]
        >>> list(schedule.rounds())
        []
    """

    def __init__(
        self,
        interval: int,
        *,
        start_frames: int = 0,
        anneal_frames: int | None = None,
        patience: int = 20_000,
    ) -> None:
        at_least(1, interval=interval, anneal_frames=1 if anneal_frames is None else anneal_frames)
        at_least(0, start_frames=start_frames)
        self.interval, self.anneal_frames = interval, anneal_frames
        self.frames, self.start_frames, self._last_round = 0, start_frames, start_frames
        self.patience, self._idle_calls, self._warned = patience, 0, False
        self._ready: bool | None = None  # whether trajectories were ready for the last due round

    @property
    def share(self) -> float:
        """The share of a round's strength that annealing leaves, in [0, 1]."""
        if self.anneal_frames is None:
            return 1.0
        return max(0.0, 1.0 - self.frames / self.anneal_frames)

    @property
    def due(self) -> bool:
        """Whether a round is due."""
        return self.frames - self._last_round >= self.interval

    def advance(self, num_frames: int) -> None:
        """Add to the number of frames.

        Args:
            num_frames: frames collected since the last call.
        """
        self.frames += num_frames

    def rounds(
        self,
        trajectories: Store | None = None,
        *,
        while_waiting: bool = False,
        after_annealing: bool = False,
    ) -> Iterator[float]:
        """Yield the share of each round that is due, once trajectories are ready.

        Rounds after the end of annealing are left out. So are rounds that are due before
        trajectories are ready, and they are not made up later.

        Args:
            trajectories: the store that a round learns from; without one, no round waits.

        Keyword Args:
            while_waiting: whether to yield rounds that are due before trajectories are ready.
            after_annealing: whether to yield zero for each round after the end of annealing.

        Yields:
            The share of each round's strength, in [0, 1].
        """
        self._ready = None
        if trajectories is not None and self.due:
            trajectories.flush()
        elif not self.frames:
            self._wait("extend() was never called with experience.")
        while self.due:
            self._last_round += self.interval
            if not (share := self.share) and not after_annealing:
                continue
            self._ready = trajectories is None or trajectories.ready
            if trajectories is None or self._ready:
                yield share
            else:
                self._wait(trajectories.waits_for)
                if while_waiting:
                    yield share

    @property
    def metrics(self) -> dict[str, Tensor]:
        """Return ``recall/ready``: 1 if trajectories were ready, 0 if a due round waits.

        The dictionary is empty if no round was due.
        """
        return {} if self._ready is None else {"recall/ready": torch.tensor(float(self._ready))}

    def _wait(self, reason: str) -> None:
        """Warn once why no round has begun for long."""
        self._idle_calls += 1
        if self.frames:
            long = self.frames - self.start_frames >= self.patience
        else:
            long = self._idle_calls >= _IDLE_CALLS
        if long and not self._warned:
            self._warned = True
            warnings.warn(
                f"recall has learned nothing after {self.frames:,} frames: {reason}", stacklevel=4
            )

    def state_dict(self) -> dict:
        """Return the counts of frames and rounds."""
        return {"frames": self.frames, "last_round": self._last_round}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.frames, self._last_round = state["frames"], state["last_round"]
