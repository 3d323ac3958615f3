"""Errors that name the extra to install if an optional library is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["plots_extra"]


@contextmanager
def plots_extra() -> Iterator[None]:
    """Context in which libraries of the extra ``plots`` are imported.

    Yields:
        Nothing.

    Raises:
        ModuleNotFoundError: a library is missing; the message names the extra to install.

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
