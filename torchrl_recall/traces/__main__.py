"""Command that draws recall traces of a run: ``python -m torchrl_recall.traces RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torchrl_recall.command_line import run_command
from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.ranges import Count, CountOrZero, Seed, Text, TraceLength

__all__ = ["main"]

USAGE = """\
usage: python -m torchrl_recall.traces RUN [dims=[0,1]] [out=FILE.png] [film=FILE.png] [...]
Draw recall traces of the run in the folder RUN, to end states that its own source chooses.

dims    of the state: two are a plane, another number is drawn over time; [0,1] by default
out     the picture; RUN/traces.png by default
film    the simulator in states of the traces, for MuJoCo tasks
states  end states, 8 by default
num     traces to each of them, 4 by default
length  steps of a trace; the run's recall.trace_length by default
seed    of the random numbers, 0 by default"""


class Options(Group):
    """Options of the command."""

    dims: list[CountOrZero] = [0, 1]  # noqa: RUF012
    out: Text | None = None
    film: Text | None = None
    states: Count = 8
    num: Count = 4
    length: TraceLength | None = None
    seed: Seed = 0


def main() -> int:
    """Run the command, and return its exit status."""
    return run_command(_draw, Options, USAGE)


def _draw(words: Sequence[str], options: Options) -> None:
    from torchrl_recall.trained.draw import check_drawing, draw_traces
    from torchrl_recall.trained.film import draw_film
    from torchrl_recall.trained.roll_out import roll_out
    from torchrl_recall.trainers.runs.process import say

    (run_dir,) = words
    out = Path(run_dir) / "traces.png" if options.out is None else Path(options.out)
    check_drawing("out", out)
    if options.film is not None:
        check_drawing("film", Path(options.film))
    run, traces = roll_out(
        run_dir,
        num_states=options.states,
        num_traces=options.num,
        trace_length=options.length,
        seed=options.seed,
    )
    draw_traces(run, traces, options.dims, options.num, out)
    say(f"{len(traces)} traces of {traces.shape[1]} steps: {out}")
    if options.film is not None:
        told = draw_film(run, traces, Path(options.film), num_traces=options.num)
        say(f"film: {options.film} ({told})")


if __name__ == "__main__":
    sys.exit(main())
