"""Rows of traces beside real ones in a host's critic loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensordict import NestedKey, TensorDictBase

from torchrl_recall.traces.transitions import join_rows

__all__ = ["with_traces"]

Losses = Callable[[TensorDictBase], TensorDictBase]


def with_traces(losses: Losses, keys: Sequence[NestedKey]) -> Callable[..., TensorDictBase]:
    r"""Let a critic's losses take rows of traces too.

    .. math:: \frac{1}{|\mathcal{B}|} \Big[ \sum_{\text{real}} \ell + \sum_{\text{traces}} \ell
        \Big]

    The sum is divided by the number of real rows :math:`|\mathcal{B}|`, so that these weigh what
    they weigh without traces.

    Args:
        losses: of the critic, a mean over rows.
        keys: entries that they read.

    Returns:
        A function of real rows and, if there are any, rows of traces.
    """

    def both(real: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        if traces is None:
            return losses(real)
        rows = join_rows(real, traces, keys)
        return losses(rows) * (len(rows) / len(real))

    return both
