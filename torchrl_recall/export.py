"""Command that exports policy and model of a run: ``python -m torchrl_recall.export RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torchrl_recall.command_line import run_command
from torchrl_recall.trainers.schema.group import Group

__all__ = ["main"]

USAGE = """\
usage: python -m torchrl_recall.export RUN [FOLDER]
Write policy and backtracking model of the run in the folder RUN, with what builds them again.

FOLDER  must not exist; RUN/pretrained by default

torchrl_recall.from_pretrained(FOLDER) loads it."""


class Options(Group):
    """Options of the command, which has none."""


def main() -> int:
    """Run the command, and return its exit status."""
    return run_command(_export, Options, USAGE, num_words=range(1, 3))


def _export(words: Sequence[str], options: Options) -> None:
    from torchrl_recall.trained.export import export_run
    from torchrl_recall.trainers.runs.process import say

    folder = export_run(*words)
    say(f"exported to {folder}; load it by torchrl_recall.from_pretrained({str(folder)!r})")


if __name__ == "__main__":
    sys.exit(main())
