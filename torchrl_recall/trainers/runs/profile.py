"""Times of the parts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from torchrl_recall.recall import Recall
from torchrl_recall.trainers.runs.parts import Parts

__all__ = ["Profile"]


class Profile:
    """Times of the parts of each frame and each round of recall, which ``profile=true`` prints.

    Medians are reported, so compilation and other first calls do not count.

    Args:
        run: the run; its checkpoints are timed too.
        parts: parts of a recipe whose host updates on batches of its replay buffer.
    """

    def __init__(self, run: Any, parts: Parts) -> None:
        self.frames = 0
        self._rests: list[float] = []  # seconds of each pass outside all parts
        self._taken = 0.0
        self._calls: dict[str, list[float]] = {}
        self._last = time.perf_counter()

        collector, buffer, recall = parts.collector, parts.replay_buffer, parts.recall
        self._time("collect", collector, "collect")
        self._time("write", parts, "add_frames")
        self._time("sample", buffer, "sample")
        self._time("update", parts.host, "update")
        if hasattr(recall, "trajectories"):
            self._time("recall: write", recall.trajectories, "flush")
        if getattr(recall, "imitate", None) is not None:
            self._time("recall: imitate", recall, "imitate")
        if isinstance(recall, Recall):
            self._time("recall: model", recall, "train_model")
            self._time("recall: states", recall, "high_value_states")
            self._time("recall: traces", recall, "generate")
            if recall.to_transitions is not None:
                self._time("recall: rows", recall, "to_transitions")
                self._time("recall: sample", recall, "transitions")
            if parts.audit is not None:
                self._time("recall: audit", parts, "audit")
            if recall.train_reward is not None:
                self._time("recall: reward", recall, "train_reward")
        self._time("checkpoint", run, "save")

    def _time(self, name: str, owner: Any, part: str) -> None:
        """Replace a public part of its owner by the same part with a timer."""
        setattr(
            owner, part, _Timed(getattr(owner, part), self._add(self._calls.setdefault(name, [])))
        )

    def _add(self, calls: list[float]) -> Callable[[float], None]:
        def add(seconds: float) -> None:
            calls.append(seconds)
            self._taken += seconds

        return add

    def end_pass(self, num_frames: int) -> None:
        """End a pass of the loop, and store the seconds outside all parts."""
        now = time.perf_counter()
        self._rests.append(now - self._last - self._taken)
        self._last, self._taken = now, 0.0
        self.frames += num_frames

    def table(self) -> str:
        """Format milliseconds per call and per frame, and the usual time outside all parts."""
        if not self._rests:
            return "no step was taken, so there is nothing to show"
        rows = [
            (name, len(calls), median(calls), median(calls) * len(calls) / self.frames)
            for name, calls in (self._calls | {"rest": self._rests}).items()
            if calls
        ]
        total = sum(row[3] for row in rows)
        lines = [f"{'part':<16} {'calls':>9} {'ms/call':>9} {'ms/frame':>9} {'share':>6}"]
        lines += [
            f"{name:<16} {calls:>9,} {1e3 * call:>9.3f} {1e3 * frame:>9.3f} {frame / total:>6.1%}"
            for name, calls, call, frame in rows
        ]
        lines.append(f"{'together':<16} {self.frames:>9,} {'':>9} {1e3 * total:>9.3f} {1:>6.0%}")
        return "\n".join(lines)


class _Timed:
    """Wrapper of a part that reports the seconds of each call."""

    def __init__(self, part: Callable, report: Callable[[float], None]) -> None:
        self._part, self._report = part, report

    def __call__(self, *args, **kwargs):
        start = time.perf_counter()
        try:
            return self._part(*args, **kwargs)
        finally:
            self._report(time.perf_counter() - start)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)
