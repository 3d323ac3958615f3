"""Command that evaluates a trained policy: ``python -m torchrl_recall.play RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from torchrl_recall.command_line import run_command
from torchrl_recall.trainers.schema.group import Group
from torchrl_recall.trainers.schema.ranges import Count, Seed, Text

__all__ = ["main"]

USAGE = """\
usage: python -m torchrl_recall.play RUN [episodes=10] [seed=0] [video=FILE.mp4]
Evaluate the deterministic policy of the run in the folder RUN.

episodes  how many, 10 by default
seed      of the task in the first episode, 0 by default
video     all episodes as .mp4 (pip install 'torchrl-recall[video]') or .gif"""


class Options(Group):
    """Options of the command."""

    episodes: Count = 10
    seed: Seed = 0
    video: Text | None = None


def main() -> int:
    """Run the command, and return its exit status."""
    return run_command(_play, Options, USAGE)


def _play(words: Sequence[str], options: Options) -> None:
    from torchrl_recall.trained.play import play
    from torchrl_recall.trainers.runs.process import say

    (run_dir,) = words
    video = None if options.video is None else Path(options.video)
    run, returns = play(run_dir, episodes=options.episodes, seed=options.seed, video=video)
    say(f"{run.parts.name}, recall={run.config.recall.name}, {run.frames:,} frames\n")
    say(f"{'episode':>9} {'return':>10}")
    for episode, value in enumerate(returns.tolist()):
        say(f"{episode:>9} {value:>10.2f}")
    say(f"{'mean':>9} {float(returns.mean()):>10.2f}")
    if video is not None:
        say(f"\nvideo: {video}")


if __name__ == "__main__":
    sys.exit(main())
