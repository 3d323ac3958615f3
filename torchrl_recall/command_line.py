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
    """Parse a command line and run the command.

    Args:
        body: the command, called with the arguments without ``=`` and the options.
        options: names, types, ranges and defaults of the options.
        usage: text printed for ``--help``. Its first line is printed for a wrong command line too.

    Keyword Args:
        num_words: allowed numbers of arguments without ``=``.
        words: arguments of the command line; those of the process by default.

    Returns:
        The exit status: 0 on success, 2 for a wrong command line, and 1 if the command failed. One
        line on stderr gives the reason.

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
    except (ConfigError, CheckpointError, FloatingPointError, OSError) as error:
        print(f"{type(error).__name__}: {_line(error)}", file=sys.stderr)
        return 1
    return 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
