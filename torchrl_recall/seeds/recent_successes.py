"""The most recent successes of many seeds (Alg. 1, line 5, batched)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.checks import at_least
from torchrl_recall.seeds.streams import SeedStreams

__all__ = ["RecentSuccesses"]


class RecentSuccesses:
    """Store of the last steps of each seed's most recent successes, in forward time.

    It is the batched form of ``TopKTrajectories(..., return_threshold=0)``, with separate successes
    for each seed. It also remembers the states that each seed has visited. An episode is a success
    if it terminates with a reward. The interface is that of
    :class:`~torchrl_recall.data.top_trajectories.TopTrajectories`.

    Args:
        num_seeds: first dimension of all data.
        num_envs: number of environments of each seed.
        num_trajectories: number of kept successes of each seed.
        length: number of kept steps of each success, the last ones.

    Keyword Args:
        num_states: number of states of the task.
        streams: random numbers of each seed.
        num_pairs: number of successes of each seed that :meth:`pairs` draws.

    Raises:
        ValueError: a number is below one.

    Examples:
        >>> from torchrl_recall.envs import FourRoomsEnv
        >>> from torchrl_recall.seeds.recent_successes import RecentSuccesses
        >>> from torchrl_recall.seeds import SeedStreams
        >>> successes = RecentSuccesses(
        ...     2, 4, 100, 10, num_states=25, streams=SeedStreams([0, 1])
        ... )
        >>> env = FourRoomsEnv(5, batch_size=[2, 4])
        >>> _ = successes.extend(env.rollout(200, break_when_any_done=False))
        >>> successes.sample(3).shape
        torch.Size([2, 3, 10])
    """

    keys = ("observation", "action", ("next", "observation"))

    def __init__(
        self,
        num_seeds: int,
        num_envs: int,
        num_trajectories: int,
        length: int,
        *,
        num_states: int,
        streams: SeedStreams,
        num_pairs: int = 1,
    ) -> None:
        at_least(1, num_seeds=num_seeds, num_envs=num_envs, num_pairs=num_pairs)
        at_least(1, num_trajectories=num_trajectories, length=length, num_states=num_states)
        self.num_seeds, self.num_trajectories, self.length = num_seeds, num_trajectories, length
        self.streams, self.num_pairs = streams, num_pairs
        self.count = torch.zeros(num_seeds, dtype=torch.long)  # all successes so far
        self.visited = torch.zeros(num_seeds, num_states, dtype=torch.bool)
        self._kept = self._empty(num_trajectories)
        self._kept["mask"] = torch.zeros(self._kept.shape, dtype=torch.bool)
        self._past = self._empty(num_envs)[..., 1:]

    @property
    def seen(self) -> Tensor:
        """Booleans of shape ``[num_seeds]``, True for seeds that have had a success."""
        return self.count > 0

    @property
    def ready(self) -> bool:
        """Always True, because dynamics are learned from all experience, before any success."""
        return True

    def extend(self, data: TensorDictBase) -> int:
        """Add new steps.

        Args:
            data: transitions of shape ``[num_seeds, num_envs, time]``. Each row continues its row
                of the last call. ``elapsed_steps`` is the number of earlier steps in the episode.

        Returns:
            The number of new frames of each seed.
        """
        self.visited.scatter_(1, data["next", "observation"].flatten(1), True)
        self._extend(data)
        return data.shape[1:].numel()

    def _extend(self, data: TensorDictBase) -> None:
        # A window of the last steps, so that a success is cut out of it wherever it began.
        window = TensorDict.cat([self._past, data.select(*self.keys)], -1)
        self._past = window[..., data.shape[-1] :].clone()
        success = data["next", "terminated"] & (data["next", "reward"] > 0)
        seed, time, row = success.squeeze(-1).transpose(1, 2).nonzero().unbind(-1)  # as they came
        if not len(seed):
            return
        # The last steps of each success; those before its episode are masked.
        steps = torch.arange(self.length)
        tails = window[seed.unsqueeze(-1), row.unsqueeze(-1), time.unsqueeze(-1) + steps]
        age = data["elapsed_steps"][seed, row, time].unsqueeze(-1)
        tails["mask"] = steps.flip(0) <= age
        # Each goes into its seed's next slot, and of more than there are slots only the newest.
        new = torch.bincount(seed, minlength=self.num_seeds)
        rank = torch.arange(len(seed)) - (new.cumsum(0) - new)[seed]
        newest = rank >= new[seed] - self.num_trajectories
        slot = (self.count[seed] + rank) % self.num_trajectories
        self._kept[seed[newest], slot[newest]] = tails[newest]
        self.count += new

    def demonstrate(self, trajectories: Sequence[TensorDictBase]) -> None:
        """Add the same successes to each seed, as if they were its own.

        Args:
            trajectories: cells and directions of whole successes, shape ``[time]`` each.

        Raises:
            ValueError: there are more than ``num_trajectories``, or one has no step.
        """
        if any(not len(trajectory) for trajectory in trajectories):
            raise ValueError("a demonstration has no step; leave it out.")
        if len(trajectories) > self.num_trajectories:
            raise ValueError(
                f"{len(trajectories)} demonstrations are more than the {self.num_trajectories} "
                "successes that are kept; raise num_trajectories="
                " (backtracking.num_trajectories)."
            )
        for trajectory in trajectories:
            seeds, slot = torch.arange(self.num_seeds), self.count % self.num_trajectories
            tail = trajectory[-self.length :]
            for key in self.keys:
                self._kept[key][seeds, slot, -len(tail) :] = tail[key]
            self._kept["mask"][seeds, slot] = torch.arange(self.length) >= self.length - len(tail)
            self.visited[:, trajectory["next", "observation"]] = True
            self.count += 1

    @property
    def waits_for(self) -> str:
        """An empty text, because the store is always ready."""
        return ""

    def flush(self) -> None:
        """Do nothing: steps are stored at once."""

    def drop_unfinished(self) -> None:
        """Do nothing: ``elapsed_steps`` of a success masks the steps before its episode."""

    def transitions(self) -> RecentSuccesses:
        """Return the store itself, from which batches are drawn."""
        return self

    def pairs(self) -> TensorDict:
        """Return ``num_pairs`` drawn successes per seed, ``[num_seeds * num_pairs, length]``."""
        return self.sample(self.num_pairs).reshape(-1, self.length)

    def sample(self, num: int) -> TensorDict:
        """Draw successes of each seed, uniformly with replacement.

        Args:
            num: number of successes of each seed.

        Returns:
            Trajectories of shape ``[num_seeds, num, length]``, with a ``mask`` of valid steps. The
            mask of a seed without a success is False everywhere.
        """
        have = self.count.clamp(max=self.num_trajectories).unsqueeze(-1)
        index = (self.streams.rand((self.num_seeds, num)) * have).long()
        return self._kept[torch.arange(self.num_seeds).unsqueeze(-1), index]

    def sample_transitions(self, num: int) -> TensorDict:
        """Draw successes of each seed, and one step of each success.

        Args:
            num: number of steps of each seed.

        Returns:
            Transitions of shape ``[num_seeds, num]``.
        """
        tails = self.sample(num)
        valid = tails["mask"].sum(-1)
        back = (self.streams.rand((self.num_seeds, num)) * valid).long()
        step = (self.length - 1 - back).unsqueeze(-1)
        seed, row = torch.arange(self.num_seeds)[:, None, None], torch.arange(num)[:, None]
        return tails[seed, row, step].squeeze(-1)

    def state_dict(self) -> dict:
        """Return successes, visited states and the last steps of each environment."""
        return {
            "count": self.count.clone(),
            "visited": self.visited.clone(),
            "kept": self._kept.clone().to_dict(),
            "past": self._past.clone().to_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.count = state["count"].clone()
        self.visited = state["visited"].clone()
        self._kept = TensorDict(state["kept"], batch_size=self._kept.shape).clone()
        self._past = TensorDict(state["past"], batch_size=self._past.shape).clone()

    def _empty(self, rows: int) -> TensorDict:
        shape = (self.num_seeds, rows, self.length)
        zeros = TensorDict({}, batch_size=shape)
        for key in self.keys:
            zeros.set(key, torch.zeros(shape, dtype=torch.long))
        return zeros
