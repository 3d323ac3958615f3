"""Devices of modules and of tensordicts."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import nn

__all__ = ["device_of", "device_of_data"]


def device_of(module: nn.Module) -> torch.device | None:
    """Return the device of a module's parameters; None if it has none.

    Args:
        module: any module.

    Returns:
        The device of the first parameter.

    Examples:
        >>> import torch
        >>> from torchrl_recall.devices import device_of
        >>> device_of(torch.nn.Linear(2, 2))
        device(type='cpu')
        >>> device_of(torch.nn.Tanh()) is None
        True
    """
    return next((parameter.device for parameter in module.parameters()), None)


def device_of_data(data: TensorDictBase) -> torch.device:
    """Return the device of a tensordict's first entry, also where the tensordict names none.

    Args:
        data: a tensordict with at least one entry.

    Returns:
        The device.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.devices import device_of_data
        >>> device_of_data(TensorDict({"action": torch.zeros(3)}, [3]))
        device(type='cpu')
    """
    return next(iter(data.values(True, True))).device
