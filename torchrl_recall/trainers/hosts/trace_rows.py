"""Transitions of traces beside real ones in the loss of a host's critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensordict import NestedKey, TensorDictBase

from torchrl_recall.traces.transitions import join_rows

__all__ = ["with_traces"]

Losses = Callable[[TensorDictBase], TensorDictBase]


def with_traces(losses: Losses, keys: Sequence[NestedKey]) -> Callable[..., TensorDictBase]:
    r"""Extend the losses of a critic to transitions of traces.

    .. math:: \frac{1}{|\mathcal{B}|} \Big[ \sum_{\text{real}} \ell + \sum_{\text{traces}} \ell
        \Big]

    The sum is divided by the number of real transitions :math:`|\mathcal{B}|`, so that their weight
    does not depend on traces.

    Args:
        losses: losses of the critic, which are means over transitions.
        keys: entries that the losses read.

    Returns:
        A function of real transitions and, if there are any, transitions of traces.
    """

    def both(real: TensorDictBase, traces: TensorDictBase | None = None) -> TensorDictBase:
        if traces is None:
            return losses(real)
        rows = join_rows(real, traces, keys)
        return losses(rows) * (len(rows) / len(real))

    return both
