"""Statistics behind claims, as rliable defines them (Agarwal et al., NeurIPS 2021).

Intervals are percentile bootstrap 95 % intervals over seeds. Fewer than three seeds give a range in
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchrl_recall.results.extra import plots_extra

__all__ = [
    "Interval",
    "frames_to_target",
    "geometric_mean_ratio",
    "interquartile_mean",
    "interval",
    "paired_ratio",
    "probability_of_improvement",
    "quartiles",
    "stratified_difference",
    "stratified_interval",
]

_FEW = 3  # seeds, below which there is nothing to resample


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval.

    Examples:
        >>> from torchrl_recall.results.statistics import Interval
        >>> str(Interval(1.271, 1.22, 1.33))
        '1.27 [1.22, 1.33]'
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 0 if abs(self.value) >= 100 else 2
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def interquartile_mean(values: ArrayLike, axis: int = -1) -> NDArray:
    """Compute the mean without the lowest and the highest quarter.

    Args:
        values: of all runs.
        axis: of the runs.

    Examples:
        >>> from torchrl_recall.results.statistics import interquartile_mean
        >>> float(interquartile_mean([0.0, 2.0, 4.0, 1_000.0]))
        3.0
    """
    with plots_extra():
        from scipy.stats import trim_mean
    return trim_mean(values, 0.25, axis=axis)


def interval(values: Sequence[float], statistic: Callable[..., NDArray] = np.mean) -> Interval:
    """Compute a statistic of the seeds with its bootstrap 95 % interval; few give their range.

    Args:
        values: of each seed.
        statistic: of values and ``axis``.

    Examples:
        >>> from torchrl_recall.results.statistics import interval
        >>> str(interval([1.0, 4.0]))
        '2.50 [1.00, 4.00]'
    """
    if len(values) < _FEW or np.ptp(values) == 0:
        return Interval(float(statistic(values)), float(min(values)), float(max(values)))
    return stratified_interval([values], statistic)


def stratified_interval(
    strata: Sequence[Sequence[float]], statistic: Callable[..., NDArray] = interquartile_mean
) -> Interval:
    """Compute a statistic of several tasks with its stratified bootstrap 95 % interval.

    Seeds of each task are resampled by themselves.

    Args:
        strata: for each task the values of its seeds.
        statistic: of all values and ``axis``.

    Returns:
        Where a task has fewer than three seeds, its range takes the place of the interval: the
        statistic of the tasks' lowest and of their highest values.

    Examples:
        >>> from torchrl_recall.results.statistics import stratified_interval
        >>> str(stratified_interval([[0.0, 1.0], [0.5, 0.5]]))
        '0.50 [0.25, 0.75]'
    """

    def of_all(*samples: NDArray, axis: int = -1) -> NDArray:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    value = float(of_all(*map(np.asarray, strata)))
    if min(map(len, strata)) < _FEW:
        edges = [float(statistic([float(of(s)) for s in strata])) for of in (np.min, np.max)]
        return Interval(value, *edges)
    return _bootstrap(strata, of_all, value)


def stratified_difference(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    statistic: Callable[..., NDArray] = interquartile_mean,
) -> Interval:
    """Compute how far a statistic of one method is above that of another, over several tasks.

    Seeds of each task and method are resampled by themselves.

    Args:
        ours: for each task the values of its seeds, of the method.
        theirs: for each task the values of its seeds, of what it is compared with.
        statistic: of all values and ``axis``.

    Returns:
        The difference and its interval; where there are fewer than three seeds, the range that
        their lowest and highest values allow.

    Examples:
        >>> from torchrl_recall.results.statistics import stratified_difference
        >>> str(stratified_difference([[0.5, 0.7]], [[0.1, 0.3]]))
        '0.40 [0.20, 0.60]'
    """
    tasks = len(ours)

    def difference(*samples: NDArray, axis: int = -1) -> NDArray:
        above, below = (np.concatenate(part, axis=axis) for part in _halves(samples, tasks))
        return statistic(above, axis=axis) - statistic(below, axis=axis)

    samples = [np.asarray(values, dtype=float) for values in (*ours, *theirs)]
    value = float(difference(*samples))
    if min(map(len, samples)) < _FEW:
        (low, high), (least, most) = (
            [float(statistic([float(of(each)) for each in part])) for of in (np.min, np.max)]
            for part in _halves(samples, tasks)
        )
        return Interval(value, low - most, high - least)
    return _bootstrap(samples, difference, value)


def _halves(samples: Sequence[NDArray], tasks: int) -> tuple[Sequence[NDArray], Sequence[NDArray]]:
    return samples[:tasks], samples[tasks:]


def probability_of_improvement(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]
) -> Interval:
    r"""Compute how probable it is that a run of one method is better than a run of another.

    .. math:: P(X > Y) = \frac{1}{M} \sum_m \frac{1}{N K} \sum_{i,j} S(x_{m,i}, y_{m,j})

    where *S* is 1 if *x* is larger, ½ if both are equal and 0 if it is smaller (Agarwal et al.,
    2021, Sec. 4.3). Seeds of each task are resampled by themselves.

    Args:
        ours: for each of the *M* tasks the values of its *N* seeds, of the method.
        theirs: for each task the values of its *K* seeds, of what it is compared with.

    Returns:
        Its interval; where there are fewer than three seeds, the range of single seeds.

    Examples:
        >>> from torchrl_recall.results.statistics import probability_of_improvement
        >>> probability_of_improvement([[1.0, 4.0]], [[2.0, 3.0]]).value
        0.5
    """
    tasks = len(ours)

    def share(*samples: NDArray, axis: int = -1) -> NDArray:
        del axis  # the last
        pairs = zip(samples[:tasks], samples[tasks:], strict=True)
        return np.mean([_wins(x, y).mean((-1, -2)) for x, y in pairs], axis=0)

    samples = [np.asarray(values, dtype=float) for values in (*ours, *theirs)]
    value = float(share(*samples))
    if min(map(len, samples)) < _FEW:
        wins = [_wins(x, y) for x, y in zip(samples[:tasks], samples[tasks:], strict=True)]
        single = [np.concatenate([each.mean(-1), each.mean(-2)]) for each in wins]
        edges = [float(np.mean([of(each) for each in single])) for of in (np.min, np.max)]
        return Interval(value, *edges)
    return _bootstrap(samples, share, value)


def _wins(x: NDArray, y: NDArray) -> NDArray:
    """Compare every value of one with every value of the other: 1, ½ or 0."""
    return (np.sign(x[..., :, None] - y[..., None, :]) + 1) / 2


def _bootstrap(
    samples: Sequence[ArrayLike], statistic: Callable[..., NDArray], value: float
) -> Interval:
    with plots_extra():
        from scipy.stats import bootstrap
    found = bootstrap(
        tuple(samples),
        statistic,
        rng=np.random.default_rng(0),
        method="percentile",
        batch=1_000,  # all resamples of many seeds would fill the memory
    )
    return Interval(value, *(float(x) for x in found.confidence_interval))


def paired_ratio(
    baseline: Mapping[int, float | None], method: Mapping[int, float | None], *, limit: float
) -> Interval:
    """Compute the geometric mean over seeds of baseline / method, with its 95 % interval.

    Above one the method needs fewer frames. Seeds of both are paired; where one did not reach the
    target, it counts as if it had at the limit, so the true ratio is farther from one, or as far.

    Args:
        baseline: frames to the target for each seed; None where it was not reached.
        method: frames to the target for each seed; None where it was not reached.

    Keyword Args:
        limit: frames at which runs ended.

    Raises:
        ValueError: the two have no seed in common.

    Examples:
        >>> from torchrl_recall.results.statistics import paired_ratio
        >>> str(paired_ratio({0: 100, 1: None}, {0: 50, 1: 100}, limit=800))
        '4.00 [2.00, 8.00]'
    """
    seeds = sorted(set(baseline) & set(method))
    if not seeds:
        raise ValueError("no seed is in both the baseline and the method; run the same seeds.")
    return geometric_mean_ratio(
        [baseline[s] or limit for s in seeds], [method[s] or limit for s in seeds]
    )


def geometric_mean_ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Compute the geometric mean of ratios of pairs, with its bootstrap 95 % interval.

    Args:
        above: numerators, all positive.
        below: denominators, paired with them.

    Examples:
        >>> from torchrl_recall.results.statistics import geometric_mean_ratio
        >>> str(geometric_mean_ratio([2, 4, 6], [1, 2, 3]))
        '2.00 [2.00, 2.00]'
    """
    found = interval([np.log(a / b) for a, b in zip(above, below, strict=True)])
    return Interval(*(float(np.exp(x)) for x in (found.value, found.low, found.high)))


def quartiles(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Compute quartiles and median; infinite where seeds that failed decide them.

    Between two values it is their mean, as usual of medians.

    Examples:
        >>> from torchrl_recall.results.statistics import quartiles
        >>> quartiles([1, 2, 3, None])
        (1.5, 2.5, inf)
    """
    known = sorted(np.inf if value is None else float(value) for value in values)

    def quantile(share: float) -> float:
        place = share * len(known)
        if place != int(place):
            return known[int(place)]
        return (known[int(place) - 1] + known[int(place)]) / 2

    return quantile(0.25), quantile(0.5), quantile(0.75)


def frames_to_target(frames: Iterable[int], values: Sequence[float], target: float) -> int | None:
    """Return frames at the first of two evaluations in a row that reached the target.

    Args:
        frames: of the evaluations.
        values: found there.
        target: the least value that counts.

    Examples:
        >>> from torchrl_recall.results.statistics import frames_to_target
        >>> frames_to_target([10, 20, 30, 40], [0.9, 0.1, 0.9, 1.0], 0.9)
        30
    """
    reached = [value >= target for value in values]
    pairs = zip(frames, reached, reached[1:], strict=False)
    return next((number for number, now, then in pairs if now and then), None)
