"""Where a step's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import wraps
from statistics import median
from typing import Any

from torchrl.data import ReplayBuffer

from torchrl_recall import Recall
from torchrl_recall.trainers.tasks.collectors import ParallelCollector, StepCollector
from torchrl_recall.trainers.runs.run import Run
from torchrl_recall.trainers.hosts.sac import SAC
from torchrl_recall.self_imitation import ImitationOfGoodPairs

__all__ = ["StepProfile", "profile_run"]


def profile_run(
    run: Run,
    collector: StepCollector | ParallelCollector,
    replay_buffer: ReplayBuffer,
    sac: SAC,
    recall: ImitationOfGoodPairs | None,
) -> StepProfile:
    """Time the parts of a SAC run that a frame or a round of recall goes through."""
    one_frame = run.config.collector.frames_per_batch == 1  # see collection.write
    parts: dict[str, tuple[Any, str]] = {
        "collect": (collector, "collect")
        if isinstance(collector, StepCollector)
        else (collector.collector, "rollout"),
        "write": (replay_buffer, "add" if one_frame else "extend"),
        "sample": (replay_buffer, "sample"),
        "update": (sac, "update"),
    }
    if recall is not None:
        parts["recall: write"] = recall, "take_in"
        if isinstance(recall, Recall):
            parts["recall: model"] = recall, "_train_model"
        parts["recall: pairs"] = recall, "_pairs"
        parts["recall: imitate"] = recall, "_imitate"
    parts["checkpoint"] = run, "save"
    return StepProfile((run, "advance"), parts)


class StepProfile:
    """Times methods of the recipe's objects, from outside its loop.

    Medians are reported, so compilation and other first calls do not count.

    Args:
        advance: the object and the name of its method that ends every pass of the loop and is
            given the number of its frames.
        parts: the same for each part, by the part's name.
    """

    def __init__(self, advance: tuple[Any, str], parts: Mapping[str, tuple[Any, str]]) -> None:
        self.frames = 0
        self._rests: list[float] = []  # of each pass, what no part took
        self._taken = 0.0
        self._calls: dict[str, list[float]] = {name: [] for name in parts}
        self._last = time.perf_counter()
        for name, (owner, method) in parts.items():
            setattr(owner, method, self._timed(getattr(owner, method), self._calls[name]))
        owner, method = advance
        setattr(owner, method, self._counted(getattr(owner, method)))

    def _timed(self, function: Callable, seconds: list[float]) -> Callable:
        @wraps(function)
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)
                self._taken += seconds[-1]

        return timed

    def _counted(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        def counted(num_frames: int) -> None:
            now = time.perf_counter()
            self._rests.append(now - self._last - self._taken)
            self._last, self._taken = now, 0.0
            self.frames += num_frames
            advance(num_frames)

        return counted

    def table(self) -> str:
        """Milliseconds per call and per frame; ``rest`` is what a usual pass spends elsewhere."""
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
