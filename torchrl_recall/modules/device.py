"""Device of a module's parameters."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["device_of"]


def device_of(module: nn.Module) -> torch.device | None:
    """Return the device of a module's parameters; None if it has none.

    Args:
        module: any module.

    Returns:
        The device of the first parameter.

    Examples:
        >>> import torch
        >>> from torchrl_recall.modules.device import device_of
        >>> device_of(torch.nn.Linear(2, 2))
        device(type='cpu')
        >>> device_of(torch.nn.Tanh()) is None
        True
    """
    return next((parameter.device for parameter in module.parameters()), None)
