"""Grouping of runs by method, names of methods, and their baselines."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from torchrl_recall.results.folders import Run, align
from torchrl_recall.results.names import split_method
from torchrl_recall.trainers.runs.resumption import LEAVES_THE_SAME

__all__ = ["DuplicateError", "Method", "baseline_of", "curve", "group_rows", "group_runs"]

# Prefixes of keys that do not influence a run, or that repeat another key.
_IGNORED = (
    *LEAVES_THE_SAME, "eval.interval", "eval.num_episodes", "device", "torch_threads",
    "seed", "host", "log_interval", "recall.name", "table_", "env.trace_length",
    "lr_of_host", "random_frames_of_host", "paying_frames_of_host",
)  # fmt: skip
_Keys = tuple[list[str], list[str]]  # of the host, and of traces
_TASK = ("env.",)
_TRACES = ("recall.", "backtracking.", "prioritized_replay.")  # keys that the group recall sets


class DuplicateError(ValueError):
    """Error of two folders with different runs of the same task, method and seed."""


@dataclass(frozen=True)
class Method:
    """Runs of one method in one task.

    Attributes:
        task: name of the task, with the settings in which tasks of this name differ.
        name: name of the method in its task: the group of ``recall`` and the settings in which runs
            differ. The host is added if there are several.
        across: name of the method in all tasks, with the settings in which runs of any task differ.
        recall: the group of ``recall``.
        kind: host and settings that the method shares with its baseline.
        runs: runs by seed.
    """

    task: str
    name: str
    across: str
    recall: str
    kind: tuple[str, str]
    runs: Mapping[int, Run]


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Group the runs of all seeds of the same task and method.

    Args:
        runs: runs in any order. Identical runs are used once.

    Returns:
        The methods.

    Raises:
        DuplicateError: two runs of one task, method and seed are not identical.
    """
    has_hosts = len({run.host for run in runs}) > 1
    methods: dict[tuple[str, str], Method] = {}
    for run, task, keys, anywhere in _labelled(runs):
        host = f"{run.host}:" if has_hosts else ""
        name, across = (
            host + run.recall + _label(run, of_host) + _label(run, of_traces)
            for of_host, of_traces in (keys, anywhere)
        )
        kind = (run.host, _label(run, keys[0]))
        method = methods.get((task, name)) or Method(task, name, across, run.recall, kind, {})
        if (other := method.runs.get(run.seed)) and not _identical(run, other):
            raise DuplicateError(_duplicate(method, run, other))
        methods[task, name] = replace(method, runs={run.seed: run} | dict(method.runs))
    return [
        replace(method, runs=dict(sorted(method.runs.items())))
        for _, method in sorted(
            methods.items(), key=lambda item: (item[0][0], item[1].recall != "none", item[0][1])
        )
    ]


def group_rows(rows: Iterable[Mapping[str, str]], metric: str) -> list[Method]:
    """Group rows in long form by method, in the order in which methods appear.

    Names of methods have the format of figures. For example, ``ppo:backtracking+gae.lmbda=0.9`` is
    the group ``backtracking`` beside PPO, with a setting of the host.

    Args:
        rows: rows of one figure, see :func:`~torchrl_recall.results.rows.read_rows`.
        metric: name of the metric. Frames to a target are read too.

    Returns:
        The methods.

    Examples:
        >>> from torchrl_recall.results.methods import group_rows
        >>> row = {"task": "Ant-v5", "method": "ppo:none", "seed": "3", "frames": "10"}
        >>> (method,) = group_rows([row | {"metric": "eval_return", "value": "2.5"}], "eval_return")
        >>> method.recall, method.kind, method.runs[3].evaluations
        ('none', ('ppo', ''), {10: 2.5})
    """
    found: dict[tuple[str, str], dict[int, dict[int, float]]] = {}
    aimed: dict[tuple[str, str, int], int | None] = {}
    for row in rows:
        key, seed = (row["task"], row["method"]), int(row["seed"])
        if row["metric"] == metric:
            of_seed = found.setdefault(key, {}).setdefault(seed, {})
            of_seed[int(row["frames"])] = float(row["value"])
        elif row["metric"] == "frames_to_target":
            aimed[*key, seed] = int(row["value"]) if row["value"] else None
    methods = []
    for (task, name), seeds in found.items():
        host, recall, settings = split_method(name)
        of_host = "".join(f"+{word}" for word in settings if not word.startswith(_TRACES))
        runs: dict[int, Run] = {}
        for seed, evaluations in sorted(seeds.items()):
            reached = aimed.get((task, name, seed))
            runs[seed] = Run(
                Path(f"{task}_{name}_{seed}"), task, host, recall, seed, {},
                dict(sorted(evaluations.items())), is_finished=True, holds=reached is not None,
                knows_target=(task, name, seed) in aimed, frames_to_target=reached,
            )  # fmt: skip
        methods.append(Method(task, name, name, recall, (host, of_host), runs))
    return methods


def baseline_of(method: Method, methods: Iterable[Method], name: str | None) -> Method | None:
    """Find the baseline of a method in its task.

    Args:
        method: the method.
        methods: all methods.
        name: name of the baseline, or its group of ``recall`` beside the same host. None takes the
            host without recall.

    Returns:
        The baseline; None if there is none.
    """
    others = [other for other in methods if other.task == method.task]
    named = next((other for other in others if other.name == name), None)
    if named and named.kind[0] == method.kind[0]:
        return named
    recall = "none" if name is None else name
    group = [m for m in others if m.recall == recall and m.kind[0] == method.kind[0]]
    same = [other for other in group if other.kind == method.kind]
    return next(iter(same or (group if len(group) == 1 else [])), named)


def curve(method: Method, methods: Iterable[Method]) -> tuple[list[int], NDArray]:
    """Return the evaluations that all seeds of a method have in common.

    Args:
        method: the method.
        methods: all methods. A run that ended at its target is continued with its last value up to
            the longest run of the task.

    Returns:
        Frames of the evaluations, and values of the metric, shape ``[seeds, evaluations]``.
    """
    beside = [run for other in methods if other.task == method.task for run in other.runs.values()]
    return align(list(method.runs.values()), beside)


def _labelled(runs: Sequence[Run]) -> Iterator[tuple[Run, str, _Keys, _Keys]]:
    """Yield each run with its task, and with keys that tell it apart there and in all tasks."""
    found: list[tuple[Run, str, _Keys]] = []
    for same_name in _parts(runs, lambda run: run.task):
        task_keys = _telling([same_name], _TASK)
        for of_task in _parts(same_name, partial(_task_and_host, keys=task_keys)):
            host_keys = _telling([of_task], None)
            for of_recall in _parts(of_task, lambda run: run.recall):
                parts = _parts(of_recall, partial(_label, keys=host_keys))
                # Settings of traces do not matter without traces.
                traces = [] if of_recall[0].recall == "none" else _telling(parts, _TRACES)
                for run in of_recall:
                    found.append((run, run.task + _label(run, task_keys), (host_keys, traces)))
    for run, task, keys in found:
        of_host = dict.fromkeys(key for _, _, others in found for key in others[0])
        of_traces = dict.fromkeys(
            key for other, _, others in found if other.recall == run.recall for key in others[1]
        )
        yield run, task, keys, (list(of_host), list(of_traces))


def _parts(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    """Split runs by a key."""
    parts: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        parts[key(run)].append(run)
    return list(parts.values())


def _telling(parts: list[list[Run]], prefixes: tuple[str, ...] | None) -> list[str]:
    """Choose the keys that tell apart runs of the same part.

    A key is chosen only if the keys before it do not suffice. Keys that some run lacks, for example
    because it is of another version, are ignored.

    Args:
        parts: groups of runs that are equal so far.
        prefixes: prefixes of the keys. None takes all keys but those of tasks and traces.
    """
    known = dict.fromkeys(key for part in parts for run in part for key in run.settings)
    chosen = []
    for key in known:
        is_special = key.startswith((*_TASK, *_TRACES))
        fits = not is_special if prefixes is None else key.startswith(prefixes)
        if not fits or (key.startswith(_IGNORED) and not _matters(key, parts)):
            continue
        finer = []
        for part in parts:
            values = {_word(run.settings[key]) for run in part if key in run.settings}
            differs = len(values) > 1
            finer += _parts(part, partial(_label, keys=[key])) if differs else [part]
        if len(finer) > len(parts):
            chosen.append(key)
            parts = finer
    return chosen


def _matters(key: str, parts: list[list[Run]]) -> bool:
    """Return whether a key that is ignored elsewhere changes these runs."""
    settings = [run.settings for part in parts for run in part]
    if key == "env.trace_length":  # the cap of measured lengths
        return any(each.get("recall.trace_length") == "auto" for each in settings)
    if key == "collector.total_frames":  # DQN's exploration follows it
        return any("dqn.annealed_fraction" in each for each in settings)
    return False


def _label(run: Run, keys: Iterable[str]) -> str:
    known = (key for key in keys if key in run.settings)
    return "".join(f"+{key}={_word(run.settings[key])}" for key in known)


def _task_and_host(run: Run, keys: Iterable[str]) -> tuple[str, str]:
    return _label(run, keys), run.host


def _word(value: Any) -> str:
    """Format a value as in an override of the command line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _identical(run: Run, other: Run) -> bool:
    """Return whether two folders hold the same run; settings that it does not read may differ."""
    unread = ("run_dir", "resume", *(_TRACES if run.recall == other.recall == "none" else ()))
    ours, theirs = (
        {key: value for key, value in each.settings.items() if not key.startswith(unread)}
        for each in (run, other)
    )
    return ours == theirs and run.evaluations == other.evaluations


def _duplicate(method: Method, run: Run, other: Run) -> str:
    keys = {**run.settings, **other.settings}
    differ = [key for key in keys if run.settings.get(key) != other.settings.get(key)]
    return (
        f"{other.folder} and {run.folder} both hold seed {run.seed} of {method.name} in "
        f"{method.task}, and are not the same run (they differ in "
        f"{', '.join(key for key in differ if key != 'run_dir') or 'their evaluations'}). "
        "Name only one of them."
    )
