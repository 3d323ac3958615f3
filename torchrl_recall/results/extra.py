"""Name the extra where an optional library is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["plots_extra"]


@contextmanager
def plots_extra() -> Iterator[None]:
    """Import libraries of the extra ``plots``.

    Raises:
        ModuleNotFoundError: a library is missing; the message says what to install.

    Examples:
        >>> from torchrl_recall.results.extra import plots_extra
        >>> with plots_extra():
        ...     from scipy.stats import bootstrap
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"results need {error.name}: pip install 'torchrl-recall[plots]'", name=error.name
        ) from error
