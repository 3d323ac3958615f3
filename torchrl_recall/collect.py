"""Collect run folders into one table, one picture and one file of rows.

python -m torchrl_recall.collect runs/* out=runs/collected baseline=none target=3000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from torchrl_recall.trainers.runs.process import say, write_whole

__all__ = ["main"]

HELP = """\
RUN is a run's folder, or a folder of runs such as a sweep's or a figure's.
Options are key=value:
  out=DIR          where results.csv, table.md and figure.png go (runs/collected)
  metric=NAME      column of metrics.csv (eval_return)
  baseline=NAME    method that others are compared with, or a group of recall beside the same
                   host (recall=none)
  target=NUMBER    count frames to two evaluations in a row that reach it (the runs' own target)
"""


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    paths: list[Path]
    out: Path = Path("runs/collected")
    metric: str = METRIC
    baseline: str | None = None
    target: float | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Collect the run folders that the command line names.

    Args:
        argv: words of the command line; None: those of the process.

    Raises:
        SystemExit: there is no run, two runs are the same seed, or a word cannot be understood.
    """
    try:
        _collect(_options(argv))
    except (DuplicateError, FolderError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m torchrl_recall.collect",
        usage="%(prog)s RUN [RUN ...] [key=value ...]",
        description="Collect run folders into one table, one picture and one file of rows.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="RUN", help=argparse.SUPPRESS)
    named: dict[str, str] = {}
    paths = []
    for word in parser.parse_args(argv).words:
        key, equals, value = word.partition("=")
        if equals and key in ("out", "metric", "baseline", "target"):
            named[key] = value
        elif Path(word).exists():
            paths.append(Path(word))
        else:
            parser.error(f"{word!r} is neither a folder nor out=, metric=, baseline= or target=")
    try:
        target = float(named["target"]) if "target" in named else None
    except ValueError:
        parser.error(f"target must be a number, got {named['target']!r}")
    out = Path(named.get("out", Options.out))
    return Options(paths, out, named.get("metric", METRIC), named.get("baseline"), target)


def _collect(options: Options) -> None:
    with plots_extra():  # before anything is read
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    runs, notes = _read(options)
    if not runs:
        cure = "name folders that recipes wrote: python -m torchrl_recall.collect runs/*"
        sys.exit("\n".join([*notes, f"there is no run to collect; {cure}"]))
    methods = group_runs(runs)
    known = {name for method in methods for name in (method.name, method.recall)}
    if options.baseline and options.baseline not in known:
        names = sorted({method.name for method in methods})
        sys.exit(f"baseline={options.baseline} is no method here; there are {', '.join(names)}")
    notes += [
        f"{run.folder} is not finished: seed {run.seed} of {method.name} in {method.task} counts "
        f"up to {run.last_frames:,} steps."
        for method in methods
        for run in method.runs.values()
        if not run.is_finished
    ]
    text = table(methods, options.metric, options.baseline)
    if notes:
        text += "\n\n" + "\n".join(f"- {note}" for note in notes)
    out = options.out
    write_rows(out / "results.csv", rows(methods, options.metric, out.name))
    write_whole(out / "table.md", text + "\n")
    _draw(methods, options)
    say(f"{text}\n\n{out / 'results.csv'}\n{out / 'table.md'}\n{out / 'figure.png'}")


def _read(options: Options) -> tuple[list[Run], list[str]]:
    """Read all runs; return them, and what is to be said of the folders without."""
    given = [path for path in options.paths if path.resolve() != options.out.resolve()]
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
    caption = f"Mean of {seeds} seeds, bootstrap 95 % intervals, each seed as a thin line."
    if any(run.holds for method in methods for run in method.runs.values()):
        caption += " Runs that ended at their target keep their last value."
    figure = draw_curves(curves, ylabel=options.metric)
    tasks = len({method.task for method in methods})
    save_figure(figure, options.out / "figure.png", caption, width=80 * min(4, tasks))


if __name__ == "__main__":
    main()
