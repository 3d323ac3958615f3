"""Adam optimiser of the trainable parameters of a module."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["make_adam"]


def make_adam(module: torch.nn.Module, lr: float, **options: Any) -> torch.optim.Adam:
    """Build an Adam optimiser of those parameters of a module that need gradients.

    Args:
        module: the module that holds the parameters, such as a loss module.
        lr: the learning rate.
        options: other arguments of :class:`torch.optim.Adam`; ``fused=True`` unless ``foreach`` is
            given.

    Returns:
        The optimiser.

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.adam import make_adam
        >>> make_adam(torch.nn.Linear(3, 2), 1e-3).param_groups[0]["lr"]
        0.001
    """
    options = options if "foreach" in options else {"fused": True, **options}
    return torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr, **options)
