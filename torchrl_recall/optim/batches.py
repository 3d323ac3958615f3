"""Random batches of one run, and means of the losses over a round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer, ReplayBufferEnsemble

from torchrl_recall.checks import check_single_steps

__all__ = ["BatchSource", "Draws", "check_stored", "mean_losses", "take_rows"]

_AT_ONCE = 100  # batches that are in memory


class BatchSource(Protocol):
    """Interface of a source of random batches, for one run or for many seeds in one process."""

    def candidates(self, buffer: Any, num: int) -> TensorDictBase | None:
        """Draw transitions from which end states are chosen (l.10).

        Args:
            buffer: the replay buffer.
            num: largest number of transitions.

        Returns:
            Transitions of shape ``[num]`` or less; None if end states need no experience.
        """

    def batches(
        self, data: Any, num: int, size: int, keys: Sequence[NestedKey]
    ) -> Iterator[TensorDictBase]:
        """Draw batches of transitions (l.8-9).

        Args:
            data: good transitions, or a replay buffer.
            num: number of batches.
            size: transitions in each batch.
            keys: entries of the batches.

        Yields:
            The batches.
        """

    def pairs(
        self, traces: TensorDictBase, num: int, size: int, keys: Sequence[NestedKey]
    ) -> Iterator[TensorDictBase]:
        """Draw batches of unmasked pairs of traces (l.12-13).

        Args:
            traces: pairs of any batch shape, with or without a ``"mask"``.
            num: number of batches.
            size: pairs in each batch.
            keys: entries of the batches.

        Yields:
            The batches.
        """

    def total(self, loss: Tensor, weight: Tensor | None = None) -> Tensor:
        """Reduce the losses of a batch to one number.

        Args:
            loss: losses of a batch.
            weight: weights of its rows; None weights all equally.

        Returns:
            A scalar.
        """

    def state_dict(self) -> dict:
        """Return the state of the source's own random numbers."""

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""


class Draws:
    """Source of random batches of one run, drawn uniformly by torch's global generator.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.optim.batches import Draws
        >>> traces = TensorDict({
        ...     "observation": torch.arange(4.0).reshape(2, 2, 1),
        ...     "mask": torch.tensor([[True, False], [False, False]]),
        ... }, [2, 2])
        >>> batches = list(Draws().pairs(traces, 3, 5, ["observation"]))
        >>> len(batches), batches[0]["observation"].flatten().tolist()
        (3, [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    def candidates(self, buffer: ReplayBuffer, num: int) -> TensorDictBase:
        """Draw at most ``num`` transitions without repeats, so that no state is chosen twice.

        Args:
            buffer: the replay buffer.
            num: largest number of transitions.

        Returns:
            Transitions of shape ``[num]`` or less.
        """
        _check_rows(buffer)
        return take_rows(buffer, torch.randint(len(buffer), (num,)).unique())

    def batches(
        self, data: TensorDictBase | ReplayBuffer, num: int, size: int, keys: Sequence[NestedKey]
    ) -> Iterator[TensorDictBase]:
        """Draw batches of transitions with replacement.

        A hundred batches at a time are read from the storage. The batch size and the priorities of
        a replay buffer are ignored.

        Args:
            data: transitions of shape ``[n]``, or a replay buffer.
            num: number of batches.
            size: transitions in each batch.
            keys: entries of the batches.

        Yields:
            Batches of shape ``[size]``.
        """
        _check_rows(data)
        parts = (
            (part, torch.randint(len(data), (part * size,)))
            for part in (min(_AT_ONCE, num - begin) for begin in range(0, num, _AT_ONCE))
        )
        return (
            batch
            for part, index in parts
            for batch in _selected(take_rows(data, index), keys).reshape(part, size).unbind(0)
        )

    def pairs(
        self, traces: TensorDictBase, num: int, size: int, keys: Sequence[NestedKey]
    ) -> Iterator[TensorDictBase]:
        """Draw batches of unmasked pairs with replacement; none if all pairs are masked.

        Args:
            traces: pairs of any batch shape, with or without a ``"mask"``.
            num: number of batches.
            size: pairs in each batch.
            keys: entries of the batches.

        Yields:
            Batches of shape ``[size]``.
        """
        mask = traces.get("mask", None)
        chosen = traces.reshape(-1) if mask is None else traces[mask]
        return self.batches(chosen, num, size, keys) if len(chosen) else iter(())

    def total(self, loss: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the loss unchanged, because its module has reduced it already.

        Args:
            loss: loss of a batch, a scalar.
            weight: ignored.
        """
        return loss

    def state_dict(self) -> dict:
        """Return an empty state: random numbers come from torch's global generator."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""


def _check_rows(data: TensorDictBase | ReplayBuffer | None) -> None:
    """Refuse to draw from no data, or from empty ones."""
    if data is None:
        raise TypeError("step() draws from the replay buffer of all experience; got None.")
    if not len(data):
        raise ValueError(
            "the replay buffer given to step() is empty; extend it with recall's data."
        )


def _selected(rows: TensorDictBase, keys: Sequence[NestedKey]) -> TensorDictBase:
    """Select entries of rows, and name those that are missing."""
    if missing := [key for key in keys if rows.get(key, None) is None]:
        found = sorted(map(str, rows.keys(True, True)))
        raise KeyError(
            f"a loss reads {missing}, which is not among {found}. "
            "Model, policy and data need the same names: build the model with observation_key= "
            "and action_key=."
        )
    return rows.select(*keys)


def take_rows(data: TensorDictBase | ReplayBuffer, index: Tensor) -> TensorDictBase:
    """Return rows by their indices; storages of shape ``[environments, time]`` are flattened.

    Args:
        data: rows, or a replay buffer, whose batch size and priorities are ignored.
        index: indices of rows, shape ``[num]``.

    Returns:
        The rows, shape ``[num]``.

    Raises:
        TypeError: the buffer is an ensemble of buffers, whose rows have no common index.
        ValueError: a row is a slice of time, padding, or a transition of several steps.
    """
    if isinstance(data, ReplayBufferEnsemble):
        raise TypeError(
            "recall draws rows by their numbers, which a ReplayBufferEnsemble does not have; give "
            "step() the one of its buffers that holds the agent's own experience."
        )
    storage = getattr(data, "storage", None)
    if storage is None or getattr(storage, "ndim", 1) == 1:
        rows = data[index]
    else:
        rows = storage.get(torch.unravel_index(index, storage.shape))
        rows = data._transform(rows)  # as indexing a buffer of one dimension does
    if rows.ndim != 1:
        raise ValueError(
            f"each row of the replay buffer has the shape {tuple(rows.shape[1:])}, where recall "
            "draws single transitions. Extend it with data.reshape(-1), or give its storage "
            f"ndim={rows.ndim}."
        )
    mask = rows.get(("collector", "mask"), None)
    if mask is not None and not mask.all():
        raise ValueError(
            "the replay buffer holds padding of whole trajectories, as trajs_per_batch makes it. "
            "Extend it with data[data['collector', 'mask']]."
        )
    check_single_steps(rows, "the replay buffer", "Give step() a buffer of single steps.")
    return rows


def mean_losses(losses: Sequence[TensorDictBase], prefix: str) -> dict[str, Tensor]:
    """Average each loss over the steps of a round, for the log.

    Args:
        losses: results of the steps, at least one.
        prefix: text before the slash in the name of each mean.

    Returns:
        The means by name.
    """
    columns = zip(*(step.values() for step in losses), strict=True)
    return {
        f"{prefix}/{key}": torch.stack(column).float().mean()
        for key, column in zip(losses[0].keys(), columns, strict=True)
    }


def check_stored(
    replay_buffer: ReplayBuffer, keys: Sequence[NestedKey], reader: str, cure: str
) -> None:
    """Refuse a replay buffer that lacks an entry.

    Args:
        replay_buffer: a buffer with at least one row.
        keys: keys of the needed entries.
        reader: name of the object that needs them, for the error.
        cure: advice about missing entries, for the error.

    Raises:
        KeyError: an entry is missing; the message names it and the cure.
    """
    known = take_rows(replay_buffer, torch.tensor([0])).keys(True, True)
    if missing := [key for key in keys if key not in known]:
        raise KeyError(
            f"{reader} learns from {missing}, which the replay buffer given to step() does not "
            f"hold. {cure}"
        )
