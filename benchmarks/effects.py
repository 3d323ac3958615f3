"""Comparisons of methods on which the verdicts of claims.py rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from torchrl_recall.results.methods import Method, group_rows
from torchrl_recall.results.statistics import (
    Interval,
    geometric_mean_ratio,
    interval,
    probability_of_improvement,
    stratified_difference,
)
from torchrl_recall.results.table import normalized_scores, ratio_of_means

__all__ = ["KINDS", "Effect", "Number"]


@dataclass(frozen=True)
class Effect:
    """Comparison of a method with a baseline, in one task or over several.

    Attributes:
        kind: kind of comparison, a name in :data:`KINDS`.
        file: file of rows.
        figure: figure of the rows.
        tasks: one task, or all tasks that are compared together.
        method: method that is compared with the baseline.
        baseline: baseline in the same rows.
        says: text before the number.
        decides: whether the verdict depends on this comparison.
        metric: metric of ``values``, ``means``, ``scores`` and ``falls``.
    """

    kind: str
    file: str
    figure: str
    tasks: list[str]
    method: str
    baseline: str
    says: str = ""
    decides: bool = True
    metric: str = "eval_return"


@dataclass(frozen=True)
class Number:
    """Outcome of an effect.

    Attributes:
        text: text in the page.
        found: the interval; None for a count.
        neutral: value that means no effect.
    """

    text: str
    found: Interval | None
    neutral: float

    @property
    def side(self) -> int:
        """Return 1 or -1 if the interval is above or below the neutral value, and 0 otherwise."""
        if self.found is None:
            return 0
        return int(self.found.low > self.neutral) - int(self.found.high < self.neutral)


def _to_target(rows: list[dict[str, str]], task: str, name: str) -> dict[int, tuple[float, float]]:
    """Read frames to the target (infinite if it was not reached) and frames at the end, by seed."""
    return {
        int(row["seed"]): (float(row["value"] or math.inf), float(row["frames"]))
        for row in rows
        if (row["task"], row["method"], row["metric"]) == (task, name, "frames_to_target")
    }


def _times(effect: Effect, rows: list[dict[str, str]], task: str) -> dict[int, float]:
    """Compute how many times fewer frames the method needs, for the seeds that both have.

    If one run of a pair ended without reaching the target, both count up to its end at most.
    """
    ours, theirs = (_to_target(rows, task, name) for name in (effect.method, effect.baseline))
    times = {}
    for seed in sorted(set(ours) & set(theirs)):
        pair = ours[seed], theirs[seed]
        limit = min((end for needed, end in pair if math.isinf(needed)), default=math.inf)
        our_frames, their_frames = (min(needed, limit) for needed, _ in pair)
        times[seed] = their_frames / our_frames
    return times


def _fewer(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compute how many times fewer steps the method needs, over all tasks."""
    times = [_times(effect, rows, task) for task in effect.tasks]
    seeds = sorted(set.intersection(*map(set, times)))
    means = [float(np.exp(np.mean([np.log(each[seed]) for each in times]))) for seed in seeds]
    found = geometric_mean_ratio(means, [1.0] * len(means))
    return Number(f"{found} × fewer", found, 1.0)


def _growth(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compute how many times larger the gain is in the last task than in the first."""
    first, last = (_times(effect, rows, task) for task in (effect.tasks[0], effect.tasks[-1]))
    seeds = sorted(set(first) & set(last))
    found = geometric_mean_ratio([last[s] for s in seeds], [first[s] for s in seeds])
    return Number(f"{found} × the gain", found, 1.0)


def _reached(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Count the seeds that reached the target."""
    told = []
    for name in (effect.method, effect.baseline):
        values = [
            row["value"] for row in rows
            if row["method"] == name and row["metric"] == "frames_to_target"
        ]  # fmt: skip
        told.append(f"{sum(bool(value) for value in values)} of {len(values)}")
    return Number(" against ".join(told), None, 0.0)


def _values(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compare the last values of a metric, with the probability that a run's is larger."""
    lasts = []
    for name in (effect.method, effect.baseline):
        methods = {m.task: m for m in group_rows(rows, effect.metric) if m.name == name}
        of_tasks = [methods[task] for task in effect.tasks]
        lasts.append([[r.at(r.last_frames) or 0.0 for r in m.runs.values()] for m in of_tasks])
    ours, theirs = (interval([x for of_task in each for x in of_task]) for each in lasts)
    found = probability_of_improvement(*lasts)
    return Number(f"{ours} against {theirs}, P(larger) {found}", found, 0.5)


def _pairs(effect: Effect, rows: list[dict[str, str]]) -> list[tuple[Method, Method]]:
    methods = {(m.task, m.name): m for m in group_rows(rows, effect.metric)}
    return [(methods[t, effect.method], methods[t, effect.baseline]) for t in effect.tasks]


def _means(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compute the paired ratio of means over training."""
    found = ratio_of_means(_pairs(effect, rows))
    text = "a mean is not positive" if found is None else f"{found} × the mean over training"
    return Number(text, found, 1.0)


def _scores(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compute the difference of interquartile means of normalised areas under the curve.

    The lowest and the highest run of a task are taken from the two methods only.
    """
    scores = [normalized_scores(pair) for pair in _pairs(effect, rows)]
    ours, theirs = (
        [list(each[name].values()) for each in scores] for name in (effect.method, effect.baseline)
    )
    found = stratified_difference(ours, theirs)
    return Number(f"IQM of scores {found.value:+.2f} [{found.low:.2f}, {found.high:.2f}]", found, 0)


def _falls(effect: Effect, rows: list[dict[str, str]]) -> Number:
    """Compute how far the method ends below the highest point of its mean curve.

    The baseline is left out. A curve that ends at its highest point has a fall of zero.
    """
    of_method = [row for row in rows if row["method"] == effect.method]
    (curve,) = group_rows(of_method, effect.metric)
    frames = sorted(set.intersection(*(set(run.evaluations) for run in curve.runs.values())))
    means = [np.mean([run.evaluations[f] for run in curve.runs.values()]) for f in frames]
    peak, last = frames[int(np.argmax(means))], frames[-1]
    runs = curve.runs.values()
    found = interval([run.evaluations[peak] - run.evaluations[last] for run in runs])
    fall = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return Number(f"{max(means):.3f} after {peak:,} steps, and {fall} less at the end", found, 0.0)


KINDS: Mapping[str, Callable[[Effect, list[dict[str, str]]], Number]] = {
    "fewer": _fewer, "growth": _growth, "reached": _reached, "values": _values, "means": _means,
    "scores": _scores, "falls": _falls,
}  # fmt: skip
