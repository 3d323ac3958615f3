"""The most recent successes of many seeds (Alg. 1, line 5, batched)."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_recall.seeds import SeedStreams

__all__ = ["RecentSuccesses"]


class RecentSuccesses:
    """The last steps of each seed's most recent rewarded episodes, in forward time.

    What ``TopKTrajectories(..., return_threshold=0)`` is to one buffer, for many seeds at once and
    without a loop over them. An episode counts when it terminates with a reward.

    Args:
        num_seeds: leading dimension of all data.
        num_envs: environments of each seed.
        num_trajectories: kept of each seed.
        length: steps kept of each, the last ones.
        streams: where draws come from.

    Raises:
        ValueError: a number is below one.

    Examples:
        >>> from torchrl_recall.envs import FourRoomsEnv
        >>> from torchrl_recall.seeds.recent_successes import RecentSuccesses
        >>> from torchrl_recall.seeds import SeedStreams
        >>> successes = RecentSuccesses(2, 4, 100, 10, streams=SeedStreams([0, 1]))
        >>> env = FourRoomsEnv(5, batch_size=[2, 4])
        >>> successes.extend(env.rollout(200, break_when_any_done=False))
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
        streams: SeedStreams,
    ) -> None:
        for name, value in (("num_trajectories", num_trajectories), ("length", length)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        self.num_seeds, self.num_trajectories, self.length = num_seeds, num_trajectories, length
        self.streams = streams
        self.count = torch.zeros(num_seeds, dtype=torch.long)  # of successes ever seen
        self._kept = self._empty(num_trajectories)
        self._kept["mask"] = torch.zeros(self._kept.shape, dtype=torch.bool)
        self._past = self._empty(num_envs)[..., 1:]

    @property
    def seen(self) -> Tensor:
        """Which seeds have had a success, shape ``[num_seeds]``."""
        return self.count > 0

    def extend(self, data: TensorDictBase) -> None:
        """Take new steps in.

        Args:
            data: shape ``[num_seeds, num_envs, time]``, each row going on where it stopped, with
                ``step_count``, the steps already taken in the episode.
        """
        window = TensorDict.cat([self._past, data.select(*self.keys)], -1)
        self._past = window[..., data.shape[-1] :].clone()
        success = data["next", "terminated"] & (data["next", "reward"] > 0)
        seed, time, row = success.squeeze(-1).transpose(1, 2).nonzero().unbind(-1)  # as they came
        if not len(seed):
            return
        steps = torch.arange(self.length)
        tails = window[seed.unsqueeze(-1), row.unsqueeze(-1), time.unsqueeze(-1) + steps]
        age = data["step_count"][seed, row, time].unsqueeze(-1)
        tails["mask"] = steps.flip(0) <= age
        new = torch.bincount(seed, minlength=self.num_seeds)
        rank = torch.arange(len(seed)) - (new.cumsum(0) - new)[seed]
        newest = rank >= new[seed] - self.num_trajectories
        slot = (self.count[seed] + rank) % self.num_trajectories
        self._kept[seed[newest], slot[newest]] = tails[newest]
        self.count += new

    def sample(self, num: int) -> TensorDict:
        """Draw trajectories of each seed, uniformly with replacement.

        Returns:
            Shape ``[num_seeds, num, length]``, with a ``mask`` of valid steps, which is empty for
            seeds without a success.
        """
        have = self.count.clamp(max=self.num_trajectories).unsqueeze(-1)
        index = (self.streams.rand((self.num_seeds, num)) * have).long()
        return self._kept[torch.arange(self.num_seeds).unsqueeze(-1), index]

    def sample_transitions(self, num: int) -> TensorDict:
        """Draw trajectories, and one step of each; shape ``[num_seeds, num]``."""
        tails = self.sample(num)
        valid = tails["mask"].sum(-1)
        back = (self.streams.rand((self.num_seeds, num)) * valid).long()
        step = (self.length - 1 - back).unsqueeze(-1)
        seed, row = torch.arange(self.num_seeds)[:, None, None], torch.arange(num)[:, None]
        return tails[seed, row, step].squeeze(-1)

    def state_dict(self) -> dict:
        """What is kept, and where each stream of steps is."""
        return {
            "count": self.count.clone(),
            "kept": self._kept.to_dict(),
            "past": self._past.to_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self.count = state["count"].clone()
        self._kept = TensorDict(state["kept"], batch_size=self._kept.shape)
        self._past = TensorDict(state["past"], batch_size=self._past.shape)

    def _empty(self, rows: int) -> TensorDict:
        shape = (self.num_seeds, rows, self.length)
        zeros = TensorDict({}, batch_size=shape)
        for key in self.keys:
            zeros.set(key, torch.zeros(shape, dtype=torch.long))
        return zeros
