"""When recall is due, and how strong it is (Alg. 1, lines 8 to 13)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from torchrl_recall.checks import at_least

__all__ = ["Schedule"]


class Store(Protocol):
    """Trajectories that rounds learn from."""

    @property
    def ready(self) -> bool:
        """Say whether one has been better than another."""

    @property
    def waits_for(self) -> str:
        """Say what is missing until then."""

    def flush(self) -> None:
        """Write what has been gathered."""


class Schedule:
    r"""Count frames, say when a round is due, and what share of its strength annealing leaves.

    .. math:: \text{share} = \max(0, 1 - \text{frames} / \text{anneal\_frames})

    Rounds wait until one trajectory has been better than another. A warning names the reason where
    that takes long.

    Args:
        interval: frames between rounds.

    Keyword Args:
        start_frames: frames before which there are no rounds, such as the host's random ones.
        anneal_frames: frames at which the share has fallen linearly to zero; None keeps it at one.
        patience: frames without a round, or calls of :meth:`rounds` before any frame, after which a
            warning says what is missing.

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
        self.frames, self._last_round = 0, start_frames
        self.patience, self._idle_calls, self._warned = patience, 0, False
        self._ready: bool | None = None  # whether trajectories were, when a round was last due

    @property
    def share(self) -> float:
        """Return the share of a round's strength that annealing leaves, in [0, 1]."""
        if self.anneal_frames is None:
            return 1.0
        return max(0.0, 1.0 - self.frames / self.anneal_frames)

    @property
    def due(self) -> bool:
        """Say whether a round is due."""
        return self.frames - self._last_round >= self.interval

    def advance(self, num_frames: int) -> None:
        """Count frames."""
        self.frames += num_frames

    def rounds(
        self,
        trajectories: Store | None = None,
        *,
        while_waiting: bool = False,
        after_annealing: bool = False,
    ) -> Iterator[float]:
        """Yield the share of each round that is due, once trajectories are ready.

        Rounds that annealing ended, or that come before one trajectory has been better than
        another, are left out and not made up.

        Args:
            trajectories: those that a round learns from; without any, each due round counts.

        Keyword Args:
            while_waiting: yield rounds that are due before trajectories are ready too.
            after_annealing: yield zero for rounds that annealing ended.
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

        Empty if no round was due.
        """
        return {} if self._ready is None else {"recall/ready": torch.tensor(float(self._ready))}

    def _wait(self, reason: str) -> None:
        """Say once why nothing has been learned for long."""
        self._idle_calls += 1
        waited = self._idle_calls if not self.frames else self.frames
        if waited >= self.patience and not self._warned:
            self._warned = True
            warnings.warn(
                f"recall has learned nothing after {self.frames:,} frames: {reason}", stacklevel=4
            )

    def state_dict(self) -> dict:
        """Return how far the schedule is."""
        return {"frames": self.frames, "last_round": self._last_round}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.frames, self._last_round = state["frames"], state["last_round"]
