"""Conjugate gradients and divergences: the parts of a natural-gradient step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict.nn import CompositeDistribution
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
    """Solve A x = b for a symmetric positive definite A, of which only products are known.

    Args:
        product: function that maps x to A x.
        b: right-hand side, shape ``[n]``.

    Keyword Args:
        iterations: largest number of products.
        tolerance: norm of the residual, relative to the norm of b, at which iterations stop.

    Returns:
        x, shape ``[n]``, and the norm of b - A x relative to the norm of b (zero for b = 0).

    Examples:
        >>> import torch
        >>> from torchrl_recall.optim.natural_gradient import conjugate_gradient
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.double)
        >>> x, residual = conjugate_gradient(matrix.mv, torch.tensor([1.0, 2.0]).double())
        >>> torch.allclose(matrix @ x, torch.tensor([1.0, 2.0]).double())
        True
    """
    # Invariant: residual = b - A x, and directions are conjugate: d_i' A d_j = 0 for i != j.
    x, residual, direction = torch.zeros_like(b), b, b
    start = square = b @ b
    for _ in range(iterations):
        if square <= tolerance**2 * start:
            break
        # The exact minimum of x' A x / 2 - b' x along the direction.
        image = product(direction)
        length = square / (direction @ image)
        x = x + length * direction
        residual = residual - length * image
        # The next direction: the new residual, made conjugate to the last one.
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return x, (square / start).sqrt().nan_to_num(0.0)


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """Compute the Kullback-Leibler divergence of q from p for each state, in nats.

    Args:
        p: a distribution over actions, batch shape ``[num_states]``. For a composite distribution
            the divergences of its parts are summed.
        q: another distribution of the same kind.

    Returns:
        Divergences of shape ``[num_states]``.

    Raises:
        TypeError: this kind of distribution has no divergence in closed form.

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
