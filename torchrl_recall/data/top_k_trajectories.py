"""Transform that keeps the agent's best trajectories in a replay buffer (Alg. 1, line 5)."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer, TensorStorage
from torchrl.envs import Transform

from torchrl_recall.checks import at_least, next_key, require
from torchrl_recall.data.streams import TrajectoryStreams

__all__ = ["TopKTrajectories"]


class TopKTrajectories(Transform):
    r"""Replay-buffer transform that keeps the best whole trajectories and nothing else.

    The buffer holds the ``num_trajectories`` trajectories of highest return :math:`\sum_t r_t`
    among all that were ever written. Several rewards of one step are added up. Of two equal returns
    the newer one counts as higher. All other trajectories leave the buffer.

    A trajectory counts once it is done, whether it comes in one write or in many. Writes have the
    shape ``[time]`` or ``[batch, time]``, where each row is a stream. They may also hold whole
    trajectories, padded with a ``("collector", "mask")`` as ``trajs_per_batch`` makes them. Data of
    asynchronous collectors, or split by ``split_trajs=True``, must have
    ``("collector", "traj_ids")``. Steps that cannot form one trajectory are dropped with a warning;
    see :class:`~torchrl_recall.data.streams.TrajectoryStreams`.

    With ``return_threshold``, the buffer instead holds the most recent trajectories whose return
    exceeds the threshold. It is meant for random starts, with which a ranking by return would keep
    only the shortest trajectories.

    From Goyal et al., *Recall Traces*, ICLR 2019. Use it on a buffer that holds nothing else::

        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(10_000), batch_size=256, transform=TopKTrajectories(10)
        )

    Other transforms of that buffer go after it. Only writes are changed; samples pass through.

    Args:
        num_trajectories: k_traj, the number of trajectories to keep.

    Keyword Args:
        replay_buffer: the buffer that has this transform. The transform removes rows from it that
            are no longer among the best. By default it is looked up at the first write.
        return_threshold: return that trajectories must exceed, in units of reward; None ranks them
            by return.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key that marks the end of a trajectory, time-outs included, under ``"next"``.
        observation_key: key of the states. A state that differs from the preceding next state
            shows a gap in the data.

    Raises:
        ValueError: ``num_trajectories`` is below one, rewards are not finite, or the buffer keeps
            its rows in a list.
        KeyError: a reward or done flag is missing.
        RuntimeError: the transform is in an environment or in no buffer, or the buffer is shared
            between processes.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl_recall import TopKTrajectories
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100), batch_size=8, transform=TopKTrajectories(2),
        ... )
        >>> for reward in (1.0, 5.0, 3.0, 0.5):
        ...     _ = buffer.extend(TensorDict({"next": {
        ...         "reward": torch.tensor([[reward]]), "done": torch.tensor([[True]]),
        ...     }}, [1]))
        >>> sorted(buffer[:]["next", "reward"].flatten().tolist())
        [3.0, 5.0]
    """

    requires_shared_write_state = True  # torchrl then refuses ReplayBuffer(shared=True)

    def __init__(
        self,
        num_trajectories: int,
        *,
        replay_buffer: ReplayBuffer | None = None,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
        observation_key: NestedKey = "observation",
    ) -> None:
        super().__init__()
        at_least(1, num_trajectories=num_trajectories)
        self.num_trajectories = num_trajectories
        self.return_threshold = return_threshold
        self.reward_key = next_key(reward_key)
        self.done_key = next_key(done_key)
        self._buffer = None if replay_buffer is None else _checked(replay_buffer)
        self.trajectories_seen = 0
        self.lowest_return = float("inf")  # of all trajectories ever seen

        # The kept trajectories, oldest first; their rows are in the buffer, in this order.
        self._returns = torch.zeros(0, dtype=torch.float64)
        self._lengths = torch.zeros(0, dtype=torch.long)

        self.streams = TrajectoryStreams(self.done_key, observation_key)
        self.unstored: Sequence[NestedKey] = ()  # entries that only tell trajectories apart
        self._warned_long = False

    @property
    def replay_buffer(self) -> ReplayBuffer:
        """The buffer that has this transform."""
        if self._buffer is None:
            self._buffer = _checked(_buffer_with(self))
        return self._buffer

    @property
    def returns(self) -> Tensor:
        """The returns of the kept trajectories, oldest first, in units of reward."""
        return self._returns.clone()

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_buffer": None}  # a copy looks up its own buffer

    def drop_unfinished(self) -> None:
        """Forget unfinished trajectories, after an environment was reset in mid-episode."""
        self.streams.drop_unfinished()

    @property
    def best_return(self) -> float:
        """The highest kept return; minus infinity before the first trajectory."""
        return float(self._returns.max()) if len(self._returns) else -float("inf")

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the sample unchanged; only writes are changed.

        Args:
            tensordict: a sample of the buffer.
        """
        return tensordict

    def _call(self, *args, **kwargs) -> Any:
        raise RuntimeError(
            "TopKTrajectories filters writes to a replay buffer; append it to a buffer, "
            "not to an environment."
        )

    _reset = _call

    def transform_input_spec(self, input_spec):
        """Refuse environments.

        Args:
            input_spec: ignored.
        """
        return self._call(input_spec)

    transform_output_spec = transform_input_spec

    @torch.no_grad()
    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase | None:
        finished = self._finished(tensordict)
        if not finished:
            return None
        self._check_rows()

        # Rank the new trajectories among the stored ones.
        returns = torch.stack([self._return(trajectory) for trajectory in finished])
        stored = len(self._returns)
        all_returns = torch.cat([self._returns, returns])
        all_lengths = torch.cat([self._lengths, torch.tensor([len(t) for t in finished])])
        keep = self._choose(all_returns, all_lengths)
        self.trajectories_seen += len(finished)
        self.lowest_return = min(self.lowest_return, float(returns.min()))
        if not (keep >= stored).any():
            return None  # nothing new is good enough, and the buffer stays as it is

        # Replace the buffer's rows by those to keep: the buffer writes the rows returned here.
        rows: list[TensorDictBase] = []
        if (old := keep[keep < stored]).numel():
            data = self.replay_buffer.storage[: int(self._lengths.sum())]
            data = data.exclude("index", *self.unstored)
            trajectories = data.split(self._lengths.tolist())
            rows += [trajectories[i] for i in old.tolist()]
        new = [finished[i] for i in (keep[keep >= stored] - stored).tolist()]
        rows += [trajectory.exclude(*self.unstored) for trajectory in new]
        self._check_entries(rows)
        joined = torch.cat(rows) if len(rows) > 1 else rows[0].clone()
        self._returns, self._lengths = all_returns[keep], all_lengths[keep]
        self.replay_buffer.empty()
        return joined

    def _check_rows(self) -> None:
        """Forget trajectories if the buffer was emptied; refuse rows written by others."""
        rows, kept = len(self.replay_buffer), int(self._lengths.sum())
        if kept and not rows:
            self._returns, self._lengths = self._returns[:0], self._lengths[:0]
        elif rows != kept:
            raise ValueError(
                f"the buffer holds {rows} rows, but the best trajectories have {kept} steps. Use "
                "TopKTrajectories on a buffer that nothing else writes to."
            )

    def _check_entries(self, rows: list[TensorDictBase]) -> None:
        """Refuse rows with other entries than the stored ones, before the buffer is emptied."""
        stored = getattr(self.replay_buffer.storage, "_storage", None)
        first = stored if isinstance(stored, TensorDictBase) else rows[0]
        expected = _entries(first.exclude("index", *self.unstored), first.ndim)
        for row in rows:
            if (found := _entries(row, row.ndim)) != expected:
                differ = sorted(map(str, dict(set(found.items()) ^ set(expected.items()))))
                raise ValueError(
                    f"a trajectory's entries {differ} are not those of the trajectories before it: "
                    "one is missing, new, or of another shape or dtype. The buffer was left as it "
                    "is. Write the same entries each time; data.select(...) keeps some of them."
                )

    def _choose(self, returns: Tensor, lengths: Tensor) -> Tensor:
        """Return the indices of the trajectories to keep, oldest first."""
        # Best first, the newer of equals before the older.
        newest_first = torch.arange(len(returns) - 1, -1, -1)
        if self.return_threshold is None:
            order = newest_first[returns[newest_first].argsort(descending=True, stable=True)]
        else:
            order = newest_first[returns[newest_first] > self.return_threshold]
        order = order[: self.num_trajectories]

        # As many as the buffer has room for.
        capacity = self.replay_buffer.storage.max_size
        fits = lengths[order].cumsum(0) <= capacity
        if not fits.all():
            warnings.warn(
                f"the best {len(order)} trajectories hold {int(lengths[order].sum())} steps, more "
                f"than the buffer's {capacity}; keeping the best {int(fits.sum())}. Give the "
                "storage more room, or ask for fewer trajectories.",
                stacklevel=6,
            )
        return order[fits].sort().values

    def _return(self, trajectory: TensorDictBase) -> Tensor:
        """Sum the rewards of one trajectory."""
        total = trajectory.get(self.reward_key).sum().double().cpu()
        if not total.isfinite():
            raise ValueError(
                f"{self.reward_key!r} of a trajectory of {len(trajectory)} steps holds NaN or "
                "infinity, so it has no return; find the environment step that produced it."
            )
        return total

    def _finished(self, tensordict: TensorDictBase) -> list[TensorDictBase]:
        """Return the trajectories that this write completes and the buffer can hold."""
        for key in (self.reward_key, self.done_key):
            require(tensordict, key, "TopKTrajectories", "Name it with reward_key= or done_key=.")
        if not tensordict.ndim:
            raise ValueError(
                "TopKTrajectories needs a time dimension; write with extend(), not add()."
            )
        capacity = self.replay_buffer.storage.max_size
        # "index" is a row's place in the buffer that it was read from, which may be another one.
        finished = self.streams.finished(tensordict.exclude("index"), capacity)
        longest = max(map(len, finished), default=0)
        if longest > capacity and not self._warned_long:
            self._warned_long = True
            warnings.warn(
                f"a trajectory of {longest} steps does not fit into a buffer of {capacity} and is "
                f"dropped; give its storage room for {self.num_trajectories} trajectories.",
                stacklevel=2,
            )
        return [trajectory for trajectory in finished if len(trajectory) <= capacity]

    def get_extra_state(self) -> dict:
        """Return the state as tensors and plain containers; the kept rows are in the buffer."""
        return {
            "returns": self._returns.clone(),
            "lengths": self._lengths.clone(),
            "trajectories_seen": self.trajectories_seen,
            "lowest_return": self.lowest_return,
            "streams": self.streams.state_dict(),
        }

    def set_extra_state(self, state: dict) -> None:
        """Restore :meth:`get_extra_state`."""
        self._returns = state["returns"].clone()
        self._lengths = state["lengths"].clone()
        self.trajectories_seen = state["trajectories_seen"]
        self.lowest_return = state["lowest_return"]
        self.streams.load_state_dict(state["streams"])


def _buffer_with(transform: Transform) -> ReplayBuffer:
    """Find the buffer that has a transform, because TorchRL does not store it."""
    for candidate in gc.get_objects():
        if issubclass(type(candidate), ReplayBuffer):
            chain = vars(candidate).get("_transform")
            if chain is not None and any(member is transform for member in chain.modules()):
                return candidate
    raise RuntimeError(
        f"{type(transform).__name__} is in no replay buffer. Give it to one by transform= or by "
        "append_transform(), or name the buffer with replay_buffer=."
    )


def _checked(replay_buffer: ReplayBuffer) -> ReplayBuffer:
    if getattr(replay_buffer, "shared", False):
        raise RuntimeError(
            "TopKTrajectories keeps write state that processes cannot share; use a buffer "
            "with shared=False."
        )
    if not isinstance(replay_buffer.storage, TensorStorage):
        raise ValueError(
            f"TopKTrajectories reads its rows as tensors, not from the "
            f"{type(replay_buffer.storage).__name__} of this buffer. Give the buffer "
            "storage=LazyTensorStorage(...)."
        )
    return replay_buffer


def _entries(data: TensorDictBase, ndim: int) -> dict:
    """Describe the entries of rows: shape and dtype of each."""
    return {key: (value.shape[ndim:], value.dtype) for key, value in data.items(True, True)}
