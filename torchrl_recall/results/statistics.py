"""Statistics behind claims, as rliable defines them (Agarwal et al., NeurIPS 2021).

Intervals are percentile bootstrap 95 % intervals over seeds. With fewer than three seeds, the range
replaces the interval.
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

_FEW = 3  # smallest number of seeds that is resampled


@dataclass(frozen=True)
class Interval:
    """Estimate with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.

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
        values: values of all runs.
        axis: axis of the runs.

    Returns:
        The mean, without that axis.

    Examples:
        >>> from torchrl_recall.results.statistics import interquartile_mean
        >>> float(interquartile_mean([0.0, 2.0, 4.0, 1_000.0]))
        3.0
    """
    with plots_extra():
        from scipy.stats import trim_mean
    return trim_mean(values, 0.25, axis=axis)


def interval(values: Sequence[float], statistic: Callable[..., NDArray] = np.mean) -> Interval:
    """Compute a statistic of the seeds with its bootstrap 95 % interval.

    Args:
        values: one value for each seed.
        statistic: function of values and ``axis``.

    Returns:
        The statistic and its interval, or its range with fewer than three seeds.

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

    The seeds of each task are resampled separately.

    Args:
        strata: the values of the seeds of each task.
        statistic: function of all values and ``axis``.

    Returns:
        The statistic and its interval. If a task has fewer than three seeds, the range replaces the
        interval: the statistic of the lowest and of the highest values of all tasks.

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
    """Compute the difference of a statistic between two methods, over several tasks.

    The seeds of each task and method are resampled separately.

    Args:
        ours: the values of the method's seeds in each task.
        theirs: the values of the baseline's seeds in each task.
        statistic: function of all values and ``axis``.

    Returns:
        The difference and its interval. With fewer than three seeds, the range of the lowest and
        highest values replaces the interval.

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
    r"""Compute the probability that a run of one method is better than a run of another.

    .. math:: P(X > Y) = \frac{1}{M} \sum_m \frac{1}{N K} \sum_{i,j} S(x_{m,i}, y_{m,j})

    Here *S* is 1 if *x* is larger, ½ if both are equal, and 0 if *x* is smaller (Agarwal et al.,
    2021, Sec. 4.3). The seeds of each task are resampled separately.

    Args:
        ours: the values of the method's *N* seeds in each of the *M* tasks.
        theirs: the values of the baseline's *K* seeds in each task.

    Returns:
        The probability and its interval. With fewer than three seeds, the range of single seeds
        replaces the interval.

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
    """Compare every value of x with every value of y: 1 if larger, ½ if equal, 0 if smaller."""
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

    If the ratio is above one, the method needs fewer frames. Runs with the same seed are paired. A
    run that did not reach the target counts as if it had reached it at the limit. The true ratio is
    then at least as far from one.

    Args:
        baseline: frames to the target for each seed; None if it was not reached.
        method: frames to the target for each seed; None if it was not reached.

    Keyword Args:
        limit: number of frames at which runs ended.

    Returns:
        The ratio and its interval.

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
        below: denominators, in the same order.

    Returns:
        The mean ratio and its interval.

    Examples:
        >>> from torchrl_recall.results.statistics import geometric_mean_ratio
        >>> str(geometric_mean_ratio([2, 4, 6], [1, 2, 3]))
        '2.00 [2.00, 2.00]'
    """
    found = interval([np.log(a / b) for a, b in zip(above, below, strict=True)])
    return Interval(*(float(np.exp(x)) for x in (found.value, found.low, found.high)))


def quartiles(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Compute the quartiles and the median of frames to the target.

    A quartile between two values is their mean. It is infinite if one of them is a failed seed.

    Args:
        values: frames to the target for each seed; None if it was not reached.

    Returns:
        The lower quartile, the median and the upper quartile.

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
    """Return the frames at which the target was reached, in two evaluations in a row.

    Args:
        frames: frames of the evaluations.
        values: values of the evaluations.
        target: smallest value that reaches the target.

    Returns:
        Frames of the first of the two evaluations; None if the target was not reached.

    Examples:
        >>> from torchrl_recall.results.statistics import frames_to_target
        >>> frames_to_target([10, 20, 30, 40], [0.9, 0.1, 0.9, 1.0], 0.9)
        30
    """
    reached = [value >= target for value in values]
    pairs = zip(frames, reached, reached[1:], strict=False)
    return next((number for number, now, then in pairs if now and then), None)
