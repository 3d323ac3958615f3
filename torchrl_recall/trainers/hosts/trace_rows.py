"""Rows of traces beside real ones in a host's critic loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torchrl.objectives import LossModule

__all__ = ["join_rows", "read_by", "with_traces"]

Losses = Callable[[TensorDictBase], TensorDictBase]


def read_by(loss_module: LossModule) -> list[NestedKey]:
    """Return the entries that a loss reads, with the number of steps that a target is away."""
    return [*loss_module.in_keys, "steps_to_next_obs"]


def join_rows(
    real: TensorDictBase, traces: TensorDictBase, keys: Sequence[NestedKey]
) -> TensorDict:
    """Join real rows and rows of traces, by what a loss reads of the real ones.

    Args:
        real: a batch from the replay buffer.
        traces: see :meth:`~torchrl_recall.Recall.transitions`.
        keys: entries that the loss reads; those that ``real`` lacks are left out.

    Returns:
        Shape ``[len(real) + len(traces)]``.

    Raises:
        KeyError: traces lack an entry that real rows have.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.trainers.hosts.trace_rows import join_rows
        >>> real = TensorDict({"action": torch.zeros(3, 1), "episode": torch.zeros(3)}, [3])
        >>> traces = TensorDict({"action": torch.ones(2, 1)}, [2])
        >>> join_rows(real, traces, ["action", "truncated"])["action"].flatten()
        tensor([0., 0., 0., 1., 1.])
    """
    rows = TensorDict({}, batch_size=[len(real) + len(traces)])
    for key in keys:
        own, imagined = real.get(key, None), traces.get(key, None)
        if own is None:
            continue
        if imagined is None:
            raise KeyError(
                f"real transitions have {key!r}, which the loss reads, but those of traces do not. "
                "Leave it out of the replay buffer, or write it in Recall(reward=...)."
            )
        rows.set(key, torch.cat([own, imagined.to(own.dtype)]))
    return rows


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
