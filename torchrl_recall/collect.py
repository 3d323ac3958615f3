"""Collect run folders into one table, one picture and one file of rows.

python -m torchrl_recall.collect runs/* out=runs/collected baseline=none target=3000
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torchrl_recall.command_line import run_command
from torchrl_recall.results.extra import plots_extra
from torchrl_recall.results.folders import (
    METRIC,
    FolderError,
    Run,
    find_folders,
    read_folder,
)
from torchrl_recall.results.methods import DuplicateError, Method, curve, group_runs
from torchrl_recall.results.picture import draw_curves, save_figure
from torchrl_recall.results.rows import write_rows
from torchrl_recall.results.table import rows, table
from torchrl_recall.trainers.runs.atomic import write_text
from torchrl_recall.trainers.runs.process import say
from torchrl_recall.trainers.schema.group import ConfigError, Group
from torchrl_recall.trainers.schema.ranges import Number, Text

__all__ = ["main"]

USAGE = """\
usage: python -m torchrl_recall.collect RUN [RUN ...] [key=value ...]
Collect run folders into one table, one picture and one file of rows. RUN is a run's folder, or a
folder of runs such as a sweep's or a figure's.

out       where results.csv, table.md and figure.png go (runs/collected)
metric    column of metrics.csv (eval_return)
baseline  method that others are compared with (the host with recall=none)
target    count frames to two evaluations in a row that reach it (the runs' own target)"""


class Options(Group):
    """Options of the command."""

    out: Text = "runs/collected"
    metric: Text = METRIC
    baseline: Text | None = None
    target: Number | None = None


def main(words: Sequence[str] | None = None) -> int:
    """Collect the run folders that the command line names, and return the exit status.

    Args:
        words: arguments of the command line; None reads those of the process.
    """
    return run_command(_collect, Options, USAGE, num_words=range(1, sys.maxsize), words=words)


def _collect(words: Sequence[str], options: Options) -> None:
    try:
        with plots_extra():  # before anything is read
            import matplotlib  # noqa: F401
            import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error
    if missing := [word for word in words if not Path(word).exists()]:
        raise ConfigError(f"{', '.join(missing)}: no such folder; name folders that recipes wrote.")
    try:
        runs, notes = _read([Path(word) for word in words], options)
        methods = group_runs(runs)
    except (DuplicateError, FolderError) as error:
        raise ConfigError(str(error)) from error
    if not runs:
        cure = "name folders that recipes wrote: python -m torchrl_recall.collect runs/*"
        raise ConfigError(" ".join([*notes, f"There is no run to collect; {cure}"]))
    known = {name for method in methods for name in (method.name, method.recall)}
    if options.baseline and options.baseline not in known:
        names = sorted({method.name for method in methods})
        raise ConfigError(
            f"baseline={options.baseline} is no method here; there are {', '.join(names)}."
        )
    notes += [
        f"{run.folder} is not finished: seed {run.seed} of {method.name} in {method.task} counts "
        f"up to {run.last_frames:,} steps."
        for method in methods
        for run in method.runs.values()
        if not run.is_finished
    ]
    notes += [
        f"{run.folder} was prolonged ({', '.join(f'{n:,}' for n in run.total_frames)} steps): what "
        f"is annealed over a run had ended before, unlike in a run of {run.total_frames[-1]:,}."
        for method in methods
        for run in method.runs.values()
        if len(run.total_frames) > 1
    ]
    text = table(methods, options.metric, options.baseline)
    if notes:
        text += "\n\n" + "\n".join(f"- {note}" for note in notes)
    out = Path(options.out)
    write_rows(out / "results.csv", rows(methods, options.metric, out.name))
    write_text(out / "table.md", text + "\n")
    _draw(methods, options)
    say(f"{text}\n\n{out / 'results.csv'}\n{out / 'table.md'}\n{out / 'figure.png'}")


def _read(paths: Sequence[Path], options: Options) -> tuple[list[Run], list[str]]:
    """Return the runs in some folders, and a message for each folder without a run."""
    given = [path for path in paths if path.resolve() != Path(options.out).resolve()]
    folders, skipped = find_folders(given)
    runs = []
    for folder in folders:
        try:
            runs += read_folder(folder, options.metric, options.target)
        except FolderError as error:
            skipped[folder] = str(error)
    return runs, [f"{folder} {reason}; it was left out." for folder, reason in skipped.items()]


def _draw(methods: Sequence[Method], options: Options) -> None:
    curves = {(method.task, method.name): curve(method, methods) for method in methods}
    numbers = sorted({len(method.runs) for method in methods})
    seeds = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    caption = f"Mean of {seeds} seeds, bootstrap 95 % intervals."
    if any(run.holds for method in methods for run in method.runs.values()):
        caption += " Runs that ended at their target keep their last value."
    host = methods[0].kind[0]  # that of all, or each method names its own
    figure = draw_curves(curves, ylabel=options.metric, host=host)
    save_figure(figure, Path(options.out) / "figure.png", caption)


if __name__ == "__main__":
    sys.exit(main())
