"""Demonstrations: whole trajectories that are known to be good before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import next_key
from torchrl_recall.data.data_sets import DataSetError
from torchrl_recall.data.streams import TrajectoryStreams
from torchrl_recall.devices import device_of_data
from torchrl_recall.optim.batches import take_rows

__all__ = ["Demonstrations", "whole_trajectories"]


def whole_trajectories(
    data: TensorDictBase,
    *,
    observation_key: NestedKey = "observation",
    reward_key: NestedKey = "reward",
    done_key: NestedKey = "done",
) -> list[TensorDictBase]:
    """Cut transitions into whole trajectories; incomplete ones are left out.

    Args:
        data: transitions in order of time, shape ``[time]`` or ``[streams, time]``.

    Keyword Args:
        observation_key: key of the states.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, under ``"next"``.

    Returns:
        The whole trajectories, shape ``[time]`` each.

    Raises:
        DataSetError: the done flag or the reward is missing, no episode ends in the data, or a
            return is not finite.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.demonstrations import whole_trajectories
        >>> data = TensorDict({"next": {
        ...     "reward": torch.ones(6, 1), "done": (torch.arange(6) % 3 == 2).unsqueeze(-1),
        ... }}, [6])
        >>> [len(trajectory) for trajectory in whole_trajectories(data)]
        [3, 3]
    """
    if data.get(next_key(done_key), None) is None:
        raise DataSetError(
            f"the data have no {next_key(done_key)}, which marks the ends of episodes. Add it, or "
            "name the entry that does with done_key=."
        )
    if data.get(next_key(reward_key), None) is None:
        raise DataSetError(
            f"the data have no {next_key(reward_key)}, by which trajectories are ranked. Add it, "
            "or name the entry with reward_key=."
        )
    streams = TrajectoryStreams(next_key(done_key), observation_key)
    found = streams.finished(data, capacity=max(1, data.shape.numel()))
    if not found:
        raise DataSetError(
            f"no episode ends within the {data.shape.numel()} steps, so none is whole. Record "
            "until 'done' (`torchrl_recall.record RUN episodes=5`), or mark the ends of episodes."
        )
    if streams.num_open:
        warnings.warn(
            f"the last {streams.num_open} steps of the demonstrations are of an episode that does "
            "not end; they are left out.",
            stacklevel=2,
        )
    for number, trajectory in enumerate(found):
        total = trajectory.get(next_key(reward_key)).sum()
        if not total.isfinite():
            raise DataSetError(
                f"the return of episode {number} is {float(total)}, by which no trajectories can "
                "be ranked. Drop the episode, or mend its rewards."
            )
    return found


class Demonstrations:
    """Transitions of demonstrations, from which models learn beside the agent's own experience.

    The agent has not yet visited the states of demonstrations, so its own experience cannot teach
    a model how to reach them. The batches of the host do not change.

    Args:
        trajectories: whole trajectories, shape ``[time]`` each.

    Keyword Args:
        device: device of the stored transitions.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.demonstrations import Demonstrations
        >>> demonstrations = Demonstrations([TensorDict({"action": torch.ones(3, 1)}, [3])])
        >>> buffer = ReplayBuffer(storage=LazyTensorStorage(10))
        >>> _ = buffer.extend(TensorDict({"action": torch.zeros(2, 1)}, [2]))
        >>> both = demonstrations.beside(buffer)
        >>> len(both), both[torch.tensor([4, 0])]["action"].flatten()
        (5, tensor([0., 1.]))
    """

    def __init__(
        self, trajectories: Sequence[TensorDictBase], *, device: torch.device | None = None
    ) -> None:
        self.device = device
        rows = torch.cat(list(trajectories))
        self.rows = rows if device is None else rows.to(device)

    def beside(self, replay_buffer: ReplayBuffer) -> _Both:
        """Join the demonstrations with a replay buffer, to draw rows from both.

        Args:
            replay_buffer: all experience of the agent.

        Returns:
            A source that is indexed by row numbers, demonstrations first.
        """
        return _Both(self.rows, replay_buffer)

    def state_dict(self) -> dict:
        """Return the rows, so that a resumed run does not need their file again."""
        return {"rows": self.rows.clone()}

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        rows = state["rows"]
        self.rows = rows if self.device is None else rows.to(self.device)


class _Both:
    """Rows of demonstrations, then those of a replay buffer, with the entries that both have."""

    ndim = 1

    def __init__(self, rows: TensorDictBase, replay_buffer: ReplayBuffer) -> None:
        self.rows, self.replay_buffer = rows, replay_buffer

    @property
    def storage(self) -> _Both:
        """The object that is indexed for rows without transforms."""
        return self

    def __len__(self) -> int:
        return len(self.rows) + len(self.replay_buffer)

    def __getitem__(self, index: Tensor | slice) -> TensorDictBase:
        if isinstance(index, slice):
            index = torch.arange(*index.indices(len(self)))
        own = index < len(self.rows)
        demonstrated = self.rows[index[own].to(device_of_data(self.rows))]
        if own.all():
            return demonstrated
        rows = take_rows(self.replay_buffer, index[~own] - len(self.rows))
        keys = [key for key in demonstrated.keys(True, True) if key in rows.keys(True, True)]
        out = torch.cat([demonstrated.select(*keys), rows.select(*keys)])
        order = torch.cat([own.nonzero(), (~own).nonzero()]).squeeze(-1).argsort()
        return out[order.to(device_of_data(out))]
