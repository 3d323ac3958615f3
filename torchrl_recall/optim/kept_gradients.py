"""Gradients of an optimiser's parameters, left as another optimiser needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

__all__ = ["kept_gradients"]


@contextmanager
def kept_gradients(optimizer: Optimizer) -> Iterator[None]:
    """Take a step without a trace in the parameters' ``grad``.

    A host may optimise the same policy. Many hosts set gradients to zero after their step and not
    before it, as TorchRL's trainers do, so whatever is left in ``grad`` would be added to theirs.

    Args:
        optimizer: the optimiser that steps inside. Its gradients are None at the beginning.

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.kept_gradients import kept_gradients
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> (3 * weight).backward()
        >>> with kept_gradients(optimizer):
        ...     weight.square().backward()
        ...     optimizer.step()
        >>> weight.item(), weight.grad.item()
        (0.0, 3.0)
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = [parameter.grad for parameter in parameters]
    optimizer.zero_grad()
    try:
        yield
    finally:
        for parameter, grad in zip(parameters, held, strict=True):
            parameter.grad = grad
