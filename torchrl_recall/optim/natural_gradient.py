"""Conjugate gradients and divergences, of which a natural gradient step is made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict.nn import (
    CompositeDistribution,
)
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["conjugate_gradient", "kl_divergence"]


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 1e-10,
) -> tuple[Tensor, Tensor]:
    """Solve A x = b for a symmetric positive definite A known by its products.

    Args:
        product: from x to A x.
        b: shape ``[n]``.

    Keyword Args:
        iterations: at most so many products.
        tolerance: of the residual's norm, relative to that of b, at which to stop.

    Returns:
        x, and the norm of b - A x relative to that of b (zero for b = 0).

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.natural_gradient import conjugate_gradient
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.double)
        >>> x, residual = conjugate_gradient(matrix.mv, torch.tensor([1.0, 2.0]).double())
        >>> torch.allclose(matrix @ x, torch.tensor([1.0, 2.0]).double())
        True
    """
    x, residual, direction = torch.zeros_like(b), b, b
    start = square = b @ b
    for _ in range(iterations):
        if square <= tolerance**2 * start:
            break
        image = product(direction)
        length = square / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return x, (square / start).sqrt().nan_to_num(0.0)


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """The divergence of q from p for each state, in nats.

    Args:
        p: a distribution over actions, batch shape ``[num_states]``; composite ones are summed.
        q: another of the same kind.

    Returns:
        Shape ``[num_states]``.

    Raises:
        TypeError: the kind has no divergence in closed form.

    Examples:
        >>> import torch
        >>> from torchrl.modules import IndependentNormal
        >>> from torchrl_recall.optim.natural_gradient import kl_divergence
        >>> zero, one = torch.zeros(1, 2), torch.ones(1, 2)
        >>> kl_divergence(IndependentNormal(zero, one), IndependentNormal(one, one))
        tensor([1.])
    """
    if isinstance(p, CompositeDistribution) and isinstance(q, CompositeDistribution):
        parts = [kl_divergence(p.dists[name], q.dists[name]) for name in p.dists]
        return torch.stack(parts).sum(0)
    try:
        kl = torch.distributions.kl_divergence(p, q)
    except NotImplementedError as error:
        raise TypeError(
            f"{type(p).__name__} has no Kullback-Leibler divergence in closed form, which a trust "
            "region needs. Use a policy of IndependentNormal, TanhNormal, OneHotCategorical or "
            "Categorical, or register one with torch.distributions.register_kl."
        ) from error
    return kl.reshape(len(kl), -1).sum(1)  # some distributions have no event dimensions
