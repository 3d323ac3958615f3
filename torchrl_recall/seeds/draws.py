"""Random batches of many seeds in one process, with separate random numbers for each seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.seeds.recent_successes import RecentSuccesses
from torchrl_recall.seeds.streams import SeedStreams

__all__ = ["SeededDraws"]


class SeededDraws:
    """Source of random batches for many seeds at once.

    It replaces :class:`~torchrl_recall.optim.batches.Draws`. The first dimension of each batch is
    the seed. A seed without a success has a ``"weight"`` of zero, because no state is known to be
    good yet.

    Args:
        streams: random numbers of each seed.
        successes: store that knows which seeds have had a success.

    Keyword Args:
        gate: whether imitation waits for a success. The backward policy always waits.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.seeds import SeedStreams
        >>> from torchrl_recall.seeds.draws import SeededDraws
        >>> from torchrl_recall.seeds.recent_successes import RecentSuccesses
        >>> streams = SeedStreams([0, 1])
        >>> successes = RecentSuccesses(2, 4, 100, 10, num_states=25, streams=streams)
        >>> draws = SeededDraws(streams, successes)
        >>> traces = TensorDict({"observation": torch.arange(12).view(4, 3)}, [4, 3])
        >>> batch = next(draws.pairs(traces, num=1, size=5, keys=["observation"]))
        >>> batch.shape, batch["weight"].any().item()  # no seed has had a success
        (torch.Size([2, 5]), False)
    """

    def __init__(
        self, streams: SeedStreams, successes: RecentSuccesses, *, gate: bool = True
    ) -> None:
        self.streams, self.successes, self.gate = streams, successes, gate
        self.num_seeds = successes.num_seeds
        self._rows = torch.arange(self.num_seeds).unsqueeze(1)

    def candidates(self, buffer: object, num: int) -> None:
        """Return None: end states come from each seed's successes or visited states.

        Args:
            buffer: ignored.
            num: ignored.
        """

    def batches(
        self,
        data: RecentSuccesses | ReplayBuffer,
        num: int,
        size: int,
        keys: Sequence[NestedKey],
    ) -> Iterator[TensorDictBase]:
        """Draw ``num`` batches of shape ``[num_seeds, size]``.

        Args:
            data: a store of successes, or a buffer whose rows have shape ``[num_seeds]``.
            num: number of batches.
            size: transitions of each seed in a batch.
            keys: entries of the batches.

        Yields:
            Batches of shape ``[num_seeds, size]``; those of successes have a ``"weight"``.
        """
        for _ in range(num):
            if isinstance(data, RecentSuccesses):
                weight = data.seen.float().unsqueeze(1).expand(-1, size)
                batch = data.sample_transitions(size).select(*keys)
                yield batch.set("weight", weight)
            else:
                index = (self.streams.rand((self.num_seeds, size)) * len(data)).long()
                yield data[:][index, self._rows].select(*keys)

    def pairs(
        self, traces: TensorDictBase, num: int, size: int, keys: Sequence[NestedKey]
    ) -> Iterator[TensorDictBase]:
        """Draw ``num`` batches of unmasked pairs of each seed.

        Args:
            traces: shape ``[num_seeds * num_traces, trace_length]``, with traces of the same seed
                adjacent.
            num: number of batches.
            size: pairs of each seed in a batch.
            keys: entries of the batches.

        Yields:
            Batches of shape ``[num_seeds, size]``, with ``"weight"``.
        """
        traces = traces.reshape(self.num_seeds, -1)
        mask = traces.get("mask", None)
        if mask is None:
            mask = torch.ones(traces.shape, dtype=torch.bool)
        takes_part = mask.any(1) & self.successes.seen if self.gate else mask.any(1)
        weight = takes_part.unsqueeze(1).expand(-1, size).float()
        # The r-th unmasked pair is where the running count of unmasked pairs reaches r.
        rank = mask.cumsum(1)
        for _ in range(num):
            draw = self.streams.rand((self.num_seeds, size)) * rank[:, -1:]
            index = torch.searchsorted(rank, draw.long() + 1).clamp(max=traces.shape[1] - 1)
            yield traces.select(*keys)[self._rows, index].set("weight", weight)

    def total(self, loss: Tensor, weight: Tensor | None = None) -> Tensor:
        """Average losses over each seed's batch, and sum over seeds, so that seeds are independent.

        Args:
            loss: loss of each transition, shape ``[num_seeds, size]``.
            weight: weight of each transition, of the same shape; None weights all equally.

        Returns:
            A scalar.
        """
        return (loss if weight is None else loss * weight).mean(1).sum()

    def state_dict(self) -> dict:
        """Return the state of each seed's random numbers."""
        return self.streams.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.streams.load_state_dict(state)
