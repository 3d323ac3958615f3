"""Transform that keeps the agent's best trajectories in a replay buffer (Alg. 1, line 5)."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import Transform

from torchrl_recall.checks import at_least, next_key, require

__all__ = ["TopKTrajectories"]


class TopKTrajectories(Transform):
    r"""Replay-buffer transform that keeps the best whole trajectories and nothing else.

    The buffer holds the ``num_trajectories`` trajectories of highest return :math:`\sum_t r_t`
    among all that were ever written. The newer one wins a tie, and the others leave the buffer.

    A trajectory counts once it is done, written at once or spread over many writes. Writes have
    the shape ``[time]`` or ``[batch, time]``, where each row is a stream, or hold whole
    trajectories, padded with a ``("collector", "mask")`` as ``trajs_per_batch`` makes them. Streams
    must not be concatenated in time, nor split where they are not done (``split_trajs=True``).

    With ``return_threshold``, the buffer holds the most recent trajectories whose return exceeds
    it instead: with random starts, ranking by return keeps only trivially short trajectories.

    From Goyal et al., *Recall Traces*, ICLR 2019. Use it on a buffer that holds nothing else::

        buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=256)
        buffer.append_transform(TopKTrajectories(10, replay_buffer=buffer))

    Other transforms of that buffer go after it. It changes writes only: samples pass through.

    Args:
        num_trajectories: k_traj, number of trajectories to keep.

    Keyword Args:
        replay_buffer: the buffer that this transform is appended to. A transform cannot remove
            stored rows, so it must know the buffer.
        return_threshold: least return to exceed, in units of reward; None ranks by return.
        reward_key: key of the rewards, under ``"next"``.
        done_key: key of the flag that ends a trajectory, under ``"next"``; it covers time-outs.

    Raises:
        ValueError: ``num_trajectories`` is below one, rewards are NaN, or one trajectory is
            longer than the buffer.
        KeyError: a reward or done flag is missing.
        RuntimeError: the transform is put in an environment or the buffer is shared between
            processes.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl_recall import TopKTrajectories
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=8)
        >>> _ = buffer.append_transform(TopKTrajectories(2, replay_buffer=buffer))
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
        replay_buffer: ReplayBuffer,
        return_threshold: float | None = None,
        reward_key: NestedKey = "reward",
        done_key: NestedKey = "done",
    ) -> None:
        super().__init__()
        at_least(1, num_trajectories=num_trajectories)
        if getattr(replay_buffer, "shared", False):
            raise RuntimeError(
                "TopKTrajectories keeps write state that processes cannot share; use a buffer "
                "with shared=False."
            )
        self.num_trajectories = num_trajectories
        self.return_threshold = return_threshold
        self.reward_key = next_key(reward_key)
        self.done_key = next_key(done_key)
        self.replay_buffer = replay_buffer
        self.trajectories_seen = 0
        self.lowest_return = float("inf")  # of all trajectories ever seen

        # The kept trajectories, oldest first; their rows are in the buffer, in this order.
        self._returns = torch.zeros(0)
        self._lengths = torch.zeros(0, dtype=torch.long)

        # The open ones.
        self._unfinished: list[TensorDictBase] = []  # writes since the oldest open trajectory
        self._starts = torch.zeros(0, dtype=torch.long)  # where each row's open one begins

    @property
    def returns(self) -> Tensor:
        """Return the returns of the kept trajectories, oldest first."""
        return self._returns.clone()

    def drop_unfinished(self) -> None:
        """Forget open trajectories, for an environment that was reset in mid-episode."""
        self._unfinished = []

    @property
    def best_return(self) -> float:
        """Return the highest return kept, minus infinity before the first."""
        return float(self._returns.max()) if len(self._returns) else -float("inf")

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the sample: only writes are changed."""
        return tensordict

    def _call(self, *args, **kwargs) -> Any:
        raise RuntimeError(
            "TopKTrajectories filters writes to a replay buffer; append it to a buffer, "
            "not to an environment."
        )

    _reset = _call

    def transform_input_spec(self, input_spec):
        """Refuse environments."""
        return self._call(input_spec)

    transform_output_spec = transform_input_spec

    @torch.no_grad()
    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase | None:
        finished = self._finished(tensordict)
        if not finished:
            return None

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
            data = self.replay_buffer.storage[: int(self._lengths.sum())].exclude("index")
            trajectories = data.split(self._lengths.tolist())
            rows += [trajectories[i] for i in old.tolist()]
        rows += [finished[i] for i in (keep[keep >= stored] - stored).tolist()]
        self._returns, self._lengths = all_returns[keep], all_lengths[keep]
        self.replay_buffer.empty()
        return torch.cat(rows) if len(rows) > 1 else rows[0].clone()

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
        if (too_long := lengths > capacity).any():
            raise ValueError(
                f"a trajectory of {int(lengths[too_long][0])} steps does not fit into a buffer of "
                f"{capacity}; give its storage room for {self.num_trajectories} trajectories."
            )
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
        total = trajectory.get(self.reward_key).sum().float().cpu()
        if total.isnan():
            raise ValueError(
                f"{self.reward_key!r} of a trajectory of {len(trajectory)} steps holds NaN, so it "
                "has no return; find the environment step that produced it."
            )
        return total

    def _finished(self, tensordict: TensorDictBase) -> list[TensorDictBase]:
        """Split off the trajectories that this write completes; keep the rest for later."""
        for key in (self.reward_key, self.done_key):
            require(tensordict, key, "TopKTrajectories", "Name it with reward_key= or done_key=.")
        if not tensordict.ndim:
            raise ValueError(
                "TopKTrajectories needs a time dimension; write with extend(), not add()."
            )
        if (mask := tensordict.get(("collector", "mask"), None)) is not None:
            return self._finished_whole(tensordict, mask)

        # Append the write to those since the oldest open trajectory.
        data = tensordict.reshape(-1, tensordict.shape[-1])
        if self._unfinished and len(data) != len(self._starts):
            raise ValueError(
                f"this write has {len(data)} rows, but trajectories of {len(self._starts)} rows "
                "are still open. Write every environment each time, or whole trajectories only."
            )
        if not self._unfinished:
            self._starts = torch.zeros(len(data), dtype=torch.long)
        self._unfinished.append(data.clone())
        if not data.get(self.done_key).any():
            return []

        # Cut each row after its done flags, in the order in which trajectories ended.
        window = self._window()
        done = window.get(self.done_key).reshape(*window.shape, -1).any(-1)
        finished = []
        for end, row in done.T.nonzero().tolist():
            start = int(self._starts[row])
            if end >= start:
                finished.append(window[row, start : end + 1])
                self._starts[row] = end + 1

        # Drop the time steps before the oldest open trajectory.
        open_from = int(self._starts.min())
        self._unfinished = [window[:, open_from:].clone()] if open_from < window.shape[1] else []
        self._starts -= open_from
        return finished

    def _window(self) -> TensorDictBase:
        """Join all writes since the oldest open trajectory."""
        device = self._unfinished[-1].get(self.done_key).device  # a restored part may lie elsewhere
        return torch.cat([part.to(device) for part in self._unfinished], 1)  # type: ignore[return-value]

    def _finished_whole(self, tensordict: TensorDictBase, mask: Tensor) -> list[TensorDictBase]:
        """Remove the padding of whole trajectories; ignore those that are not done."""
        data, mask = tensordict.reshape(-1, tensordict.shape[-1]), mask.reshape(tensordict.shape)
        mask = mask.reshape(data.shape)
        return [
            whole.exclude(("collector", "mask"))
            for row, valid in zip(data.unbind(0), mask.unbind(0), strict=True)
            if len(whole := row[valid]) and whole.get(self.done_key)[-1].any()
        ]

    def get_extra_state(self) -> dict:
        """Return the state as tensors and plain containers; the kept rows are in the buffer."""
        unfinished: Any = self._window() if self._unfinished else None
        return {
            "returns": self._returns.clone(),
            "lengths": self._lengths.clone(),
            "starts": self._starts.clone(),
            "trajectories_seen": self.trajectories_seen,
            "lowest_return": self.lowest_return,
            "unfinished": None
            if unfinished is None
            else [(key, value.clone()) for key, value in unfinished.items(True, True)],
            "unfinished_shape": None if unfinished is None else list(unfinished.shape),
        }

    def set_extra_state(self, state: dict) -> None:
        """Restore :meth:`get_extra_state`."""
        self._returns = state["returns"].clone()
        self._lengths = state["lengths"].clone()
        self._starts = state["starts"].clone()
        self.trajectories_seen = state["trajectories_seen"]
        self.lowest_return = state["lowest_return"]
        self._unfinished = []
        if state["unfinished"] is not None:
            unfinished = TensorDict({}, batch_size=state["unfinished_shape"])
            for key, value in state["unfinished"]:
                unfinished.set(tuple(key) if isinstance(key, list) else key, value.clone())
            self._unfinished = [unfinished]
