"""Command that makes a data set of a run: ``python -m torchrl_recall.record RUN out=FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from torchrl_recall.command_line import run_command
from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.ranges import Count, Number, Seed, Text

__all__ = ["main"]

USAGE = """\
usage: python -m torchrl_recall.record RUN out=FOLDER frames=10000|episodes=5 [policy=trained] [...]
Write a data set of whole episodes of the task of the run in the folder RUN.

out            the data set's folder, which must not exist
frames         record until there are as many, and the episode ends
episodes       record as many instead
policy         trained, of the run; random actions, or replay: all that the run experienced
deterministic  take the policy's mean instead of sampling, false by default
min_return     drop episodes of a smaller return
seed           of the task and of the policy, 0 by default

recall.demonstrations=FOLDER and recipes/offline_recall.py data_set=FOLDER read it."""


class Options(Group):
    """Options of the command."""

    out: Text
    frames: Count | None = None
    episodes: Count | None = None
    policy: Literal["trained", "random", "replay"] = "trained"
    deterministic: bool = False
    min_return: Number | None = None
    seed: Seed = 0


def main() -> int:
    """Run the command, and return its exit status."""
    return run_command(_record, Options, USAGE)


def _record(words: Sequence[str], options: Options) -> None:
    from torchrl_recall.trained.record import record_run
    from torchrl_recall.trainers.runs.process import say

    (run_dir,) = words
    about = record_run(
        run_dir,
        options.out,
        policy=options.policy,
        frames=options.frames,
        episodes=options.episodes,
        deterministic=options.deterministic,
        min_return=options.min_return,
        seed=options.seed,
    )
    mean = about["mean_return"]
    told = "no whole episode" if mean is None else f"mean return {mean:.2f}"
    say(f"{about['frames']:,} frames, {about['episodes']} episodes, {told}: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
