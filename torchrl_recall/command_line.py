"""Command lines of the form ``RUN [key=value ...]``, and their exit status."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from torchrl_recall.trainers.schema.group import ConfigError, Group
from torchrl_recall.trainers.schema.validation import validate

__all__ = ["run_command"]

_OPTION = re.compile(r"[a-z_]+=")  # a folder may be called runs/seed=0
OptionsT = TypeVar("OptionsT", bound=Group)


def run_command(
    body: Callable[[Sequence[str], OptionsT], None],
    options: type[OptionsT],
    usage: str,
    *,
    num_words: range = range(1, 2),
    words: Sequence[str] | None = None,
) -> int:
    """Read a command line, and do what it says.

    Args:
        body: is given the words without ``=``, and the options.
        options: their names, types, ranges and defaults.
        usage: is printed for ``--help``; its first line also where the command is used wrongly.

    Keyword Args:
        num_words: how many words without ``=`` there may be.
        words: of the command line; those of the process by default.

    Returns:
        The exit status: 0, 2 where the command was used wrongly, or 1 where it could not be done,
        which one line on stderr explains.

    Examples:
        >>> from torchrl_recall.command_line import run_command
        >>> from torchrl_recall.trainers.schema.group import Group
        >>> class Options(Group):
        ...     times: int = 1
        >>> def body(words, options):
        ...     print(*words * options.times)
        >>> run_command(body, Options, "usage: echo WORD [times=1]", words=["a", "times=2"])
        a a
        0
    """
    from torchrl_recall.trainers.runs.checkpoints import CheckpointError

    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        print(usage)
        return 0
    given = [word for word in words if _OPTION.match(word)]
    plain = [word for word in words if not _OPTION.match(word)]
    try:
        if flags := [word for word in plain if word.startswith("-")]:
            raise ConfigError(f"unknown {', '.join(flags)}; options are written key=value.")
        if len(plain) not in num_words:
            raise ConfigError(f"{len(plain)} arguments are given: {' '.join(plain) or 'none'}.")
        chosen = validate(OmegaConf.from_dotlist(given), options)
    except (ConfigError, OmegaConfBaseException, YAMLError) as error:
        print(f"{usage.splitlines()[0]}\n{_line(error)}", file=sys.stderr)
        return 2
    try:
        body(plain, chosen)
    except (ConfigError, CheckpointError, OSError) as error:
        print(f"{type(error).__name__}: {_line(error)}", file=sys.stderr)
        return 1
    return 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
