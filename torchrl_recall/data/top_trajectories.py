"""The best trajectories of one run, in a buffer that recall reads (Alg. 1, line 5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_recall.checks import at_least, check_single_steps, next_key
from torchrl_recall.data.buffer_state import BufferState
from torchrl_recall.data.top_k_trajectories import TopKTrajectories

__all__ = ["TopTrajectories", "read_keys", "valid_steps"]


# Entries that tell where an episode begins, and which steps belong together.
_KNOWN_BY = (
    "is_init",
    "step_count",
    "elapsed_steps",
    ("collector", "traj_ids"),
    ("collector", "mask"),
)


class TopTrajectories:
    """Store of the best trajectories, which writes many frames at a time.

    Each write has a high fixed cost, so frames are gathered until there are ``write_every``.

    Args:
        num_trajectories: k_traj of :class:`~torchrl_recall.TopKTrajectories`.

    Keyword Args:
        buffer_size: capacity, in transitions.
        write_every: number of frames in each write.
        return_threshold: see :class:`~torchrl_recall.TopKTrajectories`.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, under ``"next"``.
        observation_key: key of the states. A state that differs from the preceding next state
            shows a gap in the data.
        keys: entries to keep; None keeps all. Entries that tell trajectories apart are always kept.
        device: device of the buffer.
        on_write: functions called with the data of each write, before it is stored, such as
            ``model.update_statistics``.

    Attributes:
        buffer: the replay buffer.
        filter: its :class:`~torchrl_recall.TopKTrajectories`.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.top_trajectories import TopTrajectories
        >>> trajectories = TopTrajectories(1, write_every=6)
        >>> trajectories.extend(TensorDict({                       # two episodes of three steps
        ...     "next": {
        ...         "reward": torch.arange(6.0).unsqueeze(-1),
        ...         "done": (torch.arange(6) % 3 == 2).unsqueeze(-1),
        ...     },
        ... }, [6]))
        6
        >>> trajectories.ready
        True
        >>> trajectories.transitions()["next", "reward"].flatten()
        tensor([3., 4., 5.])
    """

    def __init__(
        self,
        num_trajectories: int = 10,
        *,
        buffer_size: int = 100_000,
        write_every: int = 1,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        observation_key: NestedKey = "observation",
        keys: Sequence[NestedKey] | None = None,
        device: torch.device | None = None,
        on_write: Sequence[Callable[[TensorDictBase], None]] = (),
    ) -> None:
        at_least(1, buffer_size=buffer_size, write_every=write_every)
        device = torch.device("cpu") if device is None else device
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(buffer_size, device=device))
        self.filter = TopKTrajectories(
            num_trajectories,
            replay_buffer=self.buffer,
            return_threshold=return_threshold,
            reward_key=reward_key,
            done_key=done_key,
            observation_key=observation_key,
        )
        self.keys = None
        if keys is not None:
            own = {key[0] if isinstance(key, tuple) else key for key in _KNOWN_BY}
            read_names = {key[0] if isinstance(key, tuple) else key for key in keys}
            self.filter.unstored = sorted(own - read_names)
            read = [self.filter.reward_key, self.filter.done_key, next_key(observation_key)]
            self.keys = list(dict.fromkeys([*keys, observation_key, *read, *_KNOWN_BY]))
        self.buffer.append_transform(self.filter)
        self.write_every, self.on_write = write_every, list(on_write)
        self._gathered: list[TensorDictBase] = []
        self._num_gathered = 0

    @property
    def ready(self) -> bool:
        """Whether some trajectory is known to be good.

        A trajectory is known to be good if its return exceeds ``return_threshold``. Without a
        threshold, its return must exceed that of another trajectory.
        """
        if self.filter.return_threshold is not None:
            return len(self.filter.returns) > 0
        return self.filter.best_return > self.filter.lowest_return

    @property
    def waits_for(self) -> str:
        """The reason why trajectories are not ready, for a warning."""
        if not self.filter.trajectories_seen:
            return (
                f"no episode has ended; {self.filter.streams.num_open:,} steps of open ones are "
                "held. Give the task a time limit, or call extend() with whole episodes."
            )
        if self.filter.return_threshold is not None:
            return (
                f"none of {self.filter.trajectories_seen:,} trajectories had a return above "
                f"return_threshold={self.filter.return_threshold}."
            )
        return (
            f"all {self.filter.trajectories_seen:,} trajectories have the same return, so that "
            "none is better than another. Look at the rewards, or give return_threshold=."
        )

    def extend(self, data: TensorDictBase) -> int:
        """Offer new experience to the best trajectories.

        Args:
            data: transitions in order of time, shape ``[time]`` or ``[batch, time]``.

        Returns:
            The number of frames in ``data``, without padding.

        Raises:
            TypeError: ``data`` is not a tensordict, or None, as from a collector that writes to a
                replay buffer.
            ValueError: ``data`` has no time dimension, or transitions of several steps.
        """
        if data is None:
            raise TypeError(
                "there is no experience: a collector that is given replay_buffer= yields None. "
                "Make reader = BufferReader(replay_buffer) before the loop; offer reader.read()."
            )
        if not isinstance(data, TensorDictBase):
            raise TypeError(
                f"experience comes in a TensorDict, as collectors yield it, not in a "
                f"{type(data).__name__}."
            )
        if not data.ndim:
            raise ValueError(
                "experience needs a time dimension, [time] or [batch, time]; give a single step as "
                "data.unsqueeze(0)."
            )
        if not data.shape.numel():  # data.numel() is at least one
            return 0
        cure = "Give single steps, before a collector's postproc= or a buffer's MultiStepTransform."
        check_single_steps(data, "experience", cure)
        kept = data if self.keys is None else data.select(*self.keys, strict=False)
        device = self.buffer.storage.device
        kept = kept.clone()
        done = kept.get(self.filter.done_key, None)  # the filter names what is missing
        if done is not None and done.device != device:
            kept = kept.to(device)
        self._gathered.append(kept)
        num_frames = valid_steps(data).shape.numel()
        self._num_gathered += num_frames
        if self._num_gathered >= self.write_every:
            self.flush()
        return num_frames

    def demonstrate(self, trajectories: Sequence[TensorDictBase]) -> None:
        """Fill the store with whole trajectories that are known to be good.

        They count as good at once, so rounds need not wait for good trajectories of the agent.
        Later trajectories with higher returns replace them.

        Args:
            trajectories: whole trajectories, shape ``[time]`` each.

        Raises:
            TypeError: trajectories are joined in one tensordict.
            ValueError: there is no trajectory, one does not end or does not fit, or no return
                exceeds ``return_threshold``.
        """
        if isinstance(trajectories, TensorDictBase):
            raise TypeError(
                "demonstrations are a sequence of whole trajectories, [time] each, not one "
                "tensordict. Give whole_trajectories(data)."
            )
        if not trajectories:
            raise ValueError("there is no demonstration; give whole trajectories.")
        for trajectory in trajectories:
            done = trajectory.get(self.filter.done_key, None)  # the filter names what is missing
            if done is not None and not done[-1:].any():
                raise ValueError(
                    f"a demonstration of {len(trajectory)} steps does not end: its last "
                    f"{self.filter.done_key!r} is False. Give whole trajectories, as "
                    "whole_trajectories(data) finds them."
                )
        capacity = self.buffer.storage.max_size
        if (longest := max(map(len, trajectories))) > capacity:
            raise ValueError(
                f"a demonstration has {longest} steps, and the store has room for {capacity}. Give "
                "it more (buffer_size=, backtracking.buffer_size)."
            )
        for trajectory in trajectories:
            whole = trajectory.unsqueeze(0)
            mask = torch.ones(whole.shape, dtype=torch.bool, device=whole.device)
            self.extend(whole.copy().set(("collector", "mask"), mask))
        self.flush()
        if not len(self.filter.returns):
            raise ValueError(
                f"no demonstration has a return above {self.filter.return_threshold}; lower "
                "return_threshold= (backtracking.return_threshold), or give better ones."
            )
        self.filter.lowest_return = -math.inf

    def flush(self) -> None:
        """Write the gathered frames into the buffer."""
        gathered, self._gathered, self._num_gathered = self._gathered, [], 0
        for data in _joined(gathered):
            for function in self.on_write:
                function(data)
            self.buffer.extend(data)

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories, after an environment was reset in mid-episode."""
        self.flush()
        self.filter.drop_unfinished()

    def transitions(self) -> TensorDictBase:
        """Return all transitions of the best trajectories, ``[num_transitions]``.

        They are a view of the store, which its next write may change.
        """
        return self.buffer.storage[: len(self.buffer)]

    def pairs(self) -> TensorDictBase:
        """Return the pairs of the best trajectories, for imitation without a model."""
        return self.transitions()

    def state_dict(self) -> dict:
        """Return the buffer's state and the frames not written yet."""
        return {
            "buffer": BufferState(self.buffer).state_dict(),
            "gathered": [data.clone() for data in self._gathered],
            "num_gathered": self._num_gathered,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        BufferState(self.buffer).load_state_dict(state["buffer"])
        device = self.buffer.storage.device  # checkpoints are read onto the CPU
        self._gathered = [data.clone().to(device) for data in state["gathered"]]
        self._num_gathered = state["num_gathered"]


def read_keys(*readers: Any) -> list[NestedKey] | None:
    """List the entries that losses, critics and filters read, so that only these are kept.

    Args:
        readers: modules with ``in_keys``; None is skipped.

    Returns:
        The entries; None, which keeps all, if a reader has no ``in_keys``.
    """
    keys: list[NestedKey] = []
    for reader in readers:
        if reader is None:
            continue
        if getattr(reader, "in_keys", None) is None:
            return None
        keys += reader.in_keys
    return keys


def valid_steps(data: TensorDictBase) -> TensorDictBase:
    """Remove the padding of whole trajectories, as ``trajs_per_batch`` makes them.

    Args:
        data: transitions of any batch shape, with ``("collector", "mask")`` if they are padded.

    Returns:
        The unpadded transitions, shape ``[num]``; without a mask ``data`` itself.
    """
    mask = data.get(("collector", "mask"), None)
    return data if mask is None else data[mask.reshape(data.shape)]


def _joined(writes: list[TensorDictBase]) -> list[TensorDictBase]:
    """Join writes along time if they hold the same streams and no padding."""
    if len({data.shape[:-1] for data in writes}) != 1 or any(
        ("collector", "mask") in data.keys(True) for data in writes
    ):
        return writes
    return [torch.cat(writes, -1)]
