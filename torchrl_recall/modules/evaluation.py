"""Evaluation mode of networks for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode, and restore the mode of each part afterwards.

    With batch normalisation or dropout, a row would otherwise depend on the rest of its batch, and
    running statistics would move.

    Args:
        networks: networks to evaluate.

    Yields:
        Nothing.

    Examples:
        >>> import torch
        >>> from torchrl_recall.modules.evaluation import evaluating
        >>> norm = torch.nn.BatchNorm1d(2)
        >>> with evaluating(norm):
        ...     norm.training
        False
        >>> norm.training
        True
    """
    training = [module for network in networks for module in network.modules() if module.training]
    for module in training:  # a module's own way to set an attribute takes ten times as long
        object.__setattr__(module, "training", False)
    try:
        yield
    finally:
        for module in training:
            object.__setattr__(module, "training", True)
