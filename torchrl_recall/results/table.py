"""Results of methods as Markdown tables: means, intervals and comparisons with a baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from torchrl_recall.results.folders import Run, align
from torchrl_recall.results.methods import Method, baseline_of, curve
from torchrl_recall.results.names import method_name, method_names
from torchrl_recall.results.statistics import (
    Interval,
    geometric_mean_ratio,
    interquartile_mean,
    interval,
    probability_of_improvement,
    quartiles,
    stratified_difference,
    stratified_interval,
)

__all__ = ["normalized_scores", "ratio_of_means", "rows", "table"]

Means = Mapping[int, float]  # means over training, by seed

READ = """\
A configuration is a group of `recall` with overrides, behind its host where there are several.
Intervals are bootstrap 95 % intervals over seeds; fewer than three seeds give their range. A row
goes up to the last evaluation that all of its seeds have reached, a comparison up to the last that
both have. A run that ended at its target keeps its last value. IQM is the interquartile mean. × is
the geometric mean of paired ratios of means over training, P the probability that a run has a
larger one; a comparison names its baseline. × fewer is the paired ratio of frames to the target, of
the baseline's to a method's."""
SCORES = """\
A score is the mean over training, 0 for the lowest and 1 for the highest run of a task, which is
the normalised area under the curve. IQM - is the difference of the IQM of scores."""


def rows(methods: Iterable[Method], metric: str, figure: str) -> Iterator[tuple]:
    """Yield rows in long form: all evaluations, and frames to the target if there is one.

    Args:
        methods: methods of all tasks.
        metric: name of the metric.
        figure: name of the collection.

    Yields:
        Rows of :data:`~torchrl_recall.results.rows.COLUMNS`.
    """
    for method in methods:
        for seed, run in method.runs.items():
            first = figure, method.task, method.name, seed
            for frames, value in run.evaluations.items():
                yield *first, frames, metric, value
            if run.knows_target and (run.is_finished or run.frames_to_target):
                yield *first, run.last_frames, "frames_to_target", run.frames_to_target


def table(methods: Sequence[Method], metric: str, *baselines: str | None, host: str = "") -> str:
    """Format the results of methods in each task, and over all tasks if there are several.

    Args:
        methods: methods of all tasks.
        metric: name of the metric.
        baselines: names of baselines, see :func:`~torchrl_recall.results.methods.baseline_of`; the
            host without recall by default.

    Keyword Args:
        host: host of methods that name none, if it is not that of their runs.

    Returns:
        The tables in Markdown.
    """
    names = baselines or (None,)
    host = host or next((method.kind[0] for method in methods), "")
    words = method_names(dict.fromkeys(n for m in methods for n in (m.name, m.across)), host)
    for name in names:  # a baseline that no method is called
        if name is not None:
            words.setdefault(name, method_name(name, host))
    bases = [[baseline_of(method, methods, name) for method in methods] for name in names]
    with_target = any(run.knows_target for method in methods for run in method.runs.values())
    head = [
        "task", "method", "configuration", "seeds", "steps", f"last {metric} [95 %]",
        "IQM of last [95 %]", "mean over training [95 %]",
    ]  # fmt: skip
    for name in names:
        head += [f"× {_called(name, words)} [95 %]", f"P(better{_than(name, words)}) [95 %]"]
    if with_target:
        head += ["reached target", "frames to target, median [quartiles]"]
        head += [f"× fewer{_than(name, words)} [95 %]" for name in names]
    lines = _head(head)
    for i, method in enumerate(methods):
        cells = [method.task, words[method.name], f"`{method.name}`", str(len(method.runs))]
        cells += _own(method, methods)
        for of_name in bases:
            cells += _compared(method, of_name[i])
        if with_target:
            cells += [*_reached(method), *(_fewer(method, of_name[i]) for of_name in bases)]
        lines.append(_line(cells))
    lines += _over_tasks(methods, dict(zip(names, bases, strict=True)), with_target, words)
    return "\n".join([*lines, "", READ])


def _own(method: Method, methods: Iterable[Method]) -> list[str]:
    """Return cells of steps, last values and means over training."""
    frames, values = curve(method, methods)
    if not frames:  # seeds were evaluated at different times
        return ["0", "", "", ""]
    last, means = list(values[:, -1]), list(values.mean(1))
    found = [interval(last), interval(last, interquartile_mean), interval(means)]
    return [f"{frames[-1]:,}", *map(str, found)]


def _compared(method: Method, base: Method | None) -> list[str]:
    """Return cells of the ratio to the baseline and of the probability of improvement."""
    if base is None or base.name == method.name:
        return ["", "" if base is None else "baseline"]
    ours, theirs = _means([method, base])
    if not ours:  # no evaluation in common
        return ["", ""]
    ratio = ratio_of_means([(method, base)])
    improvement = probability_of_improvement([list(ours.values())], [list(theirs.values())])
    return [_text(ratio), str(improvement)]


def ratio_of_means(pairs: Sequence[tuple[Method, Method]]) -> Interval | None:
    """Compute the paired ratio of means over training, of methods to their baselines.

    Args:
        pairs: a method and its baseline for each task.

    Returns:
        The geometric mean over tasks and seeds; None if a mean is not positive.
    """
    means = [_means(pair) for pair in pairs]
    return _ratio([each[0] for each in means], [each[1] for each in means])


def _means(methods: Sequence[Method]) -> list[Means]:
    """Compute means by seed, over the evaluations that all runs of some methods have in common."""
    runs = [run for method in methods for run in method.runs.values()]
    frames, values = align(runs)
    if not frames:
        return [{} for _ in methods]
    means = iter(values.mean(1).tolist())
    return [{seed: next(means) for seed in method.runs} for method in methods]


def _ratio(ours: Sequence[Means], theirs: Sequence[Means]) -> Interval | None:
    """Compute the paired ratio over some tasks; None if a mean is not positive."""
    seeds = sorted(set.intersection(*(set(each) for each in (*ours, *theirs))))
    if not seeds or min(each[seed] for each in (*ours, *theirs) for seed in seeds) <= 0:
        return None
    return geometric_mean_ratio(
        *([float(np.exp(np.mean([np.log(each[s]) for each in of]))) for s in seeds]
          for of in (ours, theirs))
    )  # fmt: skip


def _reached(method: Method) -> list[str]:
    """Return cells with the number of seeds that reached the target, and frames to the target."""
    found = [run.frames_to_target for run in _known(method).values()]
    if not found:
        return ["", ""]
    low, median, high = quartiles(found)
    reached = sum(frames is not None for frames in found)
    return [f"{reached} of {len(found)}", f"{median:,.0f} [{low:,.0f}, {high:,.0f}]"]


def _fewer(method: Method, base: Method | None) -> str:
    """Return a cell of the paired ratio of frames to the target."""
    if base is None or base.name == method.name:
        return ""
    ours, theirs = _needed(method, base)
    return _text(_ratio([theirs], [ours]))


def _known(method: Method) -> dict[int, Run]:
    """Return the runs by seed for which it is known whether they reached the target."""
    return {
        seed: run
        for seed, run in method.runs.items()
        if run.knows_target and (run.is_finished or run.frames_to_target)
    }


def _needed(method: Method, base: Method) -> tuple[Means, Means]:
    """Return frames to the target of method and baseline, for the seeds that both have.

    If one run of a pair ended without reaching the target, both count up to its end at most. The
    ratio is then never farther from one than the true ratio.
    """
    ours, theirs = _known(method), _known(base)
    needed: tuple[dict[int, float], dict[int, float]] = {}, {}
    for seed in sorted(set(ours) & set(theirs)):
        pair = ours[seed], theirs[seed]
        limit = min((r.last_frames for r in pair if not r.frames_to_target), default=math.inf)
        for of, run in zip(needed, pair, strict=True):
            of[seed] = float(min(run.frames_to_target or limit, limit))
    return needed


def _over_tasks(
    methods: Sequence[Method],
    bases: Mapping[str | None, Sequence[Method | None]],
    with_target: bool,
    words: Mapping[str, str],
) -> list[str]:
    """Return table lines of the methods that were run in all of several tasks."""
    tasks = list(dict.fromkeys(method.task for method in methods))
    scores = {task: normalized_scores([m for m in methods if m.task == task]) for task in tasks}
    names = list(dict.fromkeys(method.across for method in methods))
    names = [name for name in names if all(scores[task].get(name) for task in tasks)]
    if len(tasks) == 1 or not names:
        return []
    head = ["method", "configuration", "tasks", "runs", "IQM of scores [95 %]"]
    for base in bases:
        head += [f"IQM - {_called(base, words)} [95 %]", f"× {_called(base, words)} [95 %]"]
        head += [f"P(better{_than(base, words)}) [95 %]"]
        head += [f"× fewer{_than(base, words)} [95 %]"] if with_target else []
    lines = _head(head)
    for name in names:
        values = [list(scores[task][name].values()) for task in tasks]
        cells = [words[name], f"`{name}`", str(len(tasks)), str(sum(map(len, values)))]
        cells += [str(stratified_interval(values))]
        for of_name in bases.values():
            pairs = [
                (method, base) for method, base in zip(methods, of_name, strict=True)
                if method.across == name and base is not None
            ]  # fmt: skip
            if len(pairs) == len(tasks):
                below = [list(scores[base.task][base.across].values()) for _, base in pairs]
                cells += _compared_over_tasks(pairs, values, below, with_target)
            else:
                cells += [""] * (3 + with_target)
        lines.append(_line(cells))
    return ["", *lines, "", SCORES]


def _compared_over_tasks(
    pairs: Sequence[tuple[Method, Method]],
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    with_target: bool,
) -> list[str]:
    """Return cells of a method and its baseline over all tasks."""
    if all(base is method for method, base in pairs):
        return ["", "", "baseline", *([""] if with_target else [])]
    means = [_means(pair) for pair in pairs]
    both = [[list(each[i].values()) for each in means] for i in (0, 1)]
    cells = [str(stratified_difference(ours, theirs)), _text(ratio_of_means(pairs))]
    cells += [str(probability_of_improvement(*both))]
    if with_target:
        needed = [_needed(*pair) for pair in pairs]
        cells.append(_text(_ratio([n[1] for n in needed], [n[0] for n in needed])))
    return cells


def normalized_scores(methods: Sequence[Method]) -> dict[str, Means]:
    """Scale means over training to [0, 1], the normalised areas under the curves.

    Args:
        methods: methods of one task.

    Returns:
        The score of each seed, by the method's name in all tasks.
    """
    means = _means(methods)
    known = [value for each in means for value in each.values()]
    low, width = min(known, default=0.0), float(np.ptp(known)) if known else 0.0
    return {
        method.across: {seed: (x - low) / width if width else 0.5 for seed, x in each.items()}
        for method, each in zip(methods, means, strict=True)
    }


def _than(baseline: str | None, words: Mapping[str, str]) -> str:
    return "" if baseline is None else f" than {_called(baseline, words)}"


def _called(baseline: str | None, words: Mapping[str, str]) -> str:
    return "baseline" if baseline is None else words[baseline]


def _text(found: Interval | None) -> str:
    return "" if found is None else str(found)


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
