"""Functions of the user that a configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torchrl_recall.trainers.schema.group import ConfigError

__all__ = ["load_function"]


def load_function(path: str, *, key: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        path: name of the function, as ``module:function``.

    Keyword Args:
        key: key of the configuration, for the error.

    Returns:
        The function.

    Raises:
        ConfigError: there is no such function.

    Examples:
        >>> from torchrl_recall.trainers.entry_points import load_function
        >>> load_function("math:sqrt", key="env.entry_point")(9)
        3.0
    """
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}={path!r} cannot be imported: {error}. Write module:function, "
            "and put the module's folder into PYTHONPATH."
        ) from error
