"""Returns of real episodes, stored beside their transitions, as lower bounds of value targets."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.objectives.value import TD0Estimator

__all__ = ["RETURN_TO_GO", "BoundedTD0", "ReturnsToGo"]

RETURN_TO_GO = "return_to_go"


class BoundedTD0(TD0Estimator):
    r"""TorchRL's one-step or n-step target, bounded below by the return of the real episode.

    .. math:: y = \max \{ r + \gamma (1 - d) V(s'), \; G_t \}, \qquad
        G_t = \sum_{k \geq 0} \gamma^k r_{t+k}

    From He et al., *Learning to Play in a Day*, 2017, and Oh et al., *Self-Imitation Learning*,
    2018. The estimator needs no model, so it is a control for traces that train a critic. A
    transition without a known return keeps its usual target.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_recall.data.returns_to_go import BoundedTD0
        >>> target = BoundedTD0(gamma=0.9, value_network=None)
        >>> data = TensorDict({
        ...     "return_to_go": torch.tensor([[0.5], [-torch.inf]]),
        ...     "next": {
        ...         "reward": torch.zeros(2, 1), "done": torch.zeros(2, 1, dtype=torch.bool),
        ...         "terminated": torch.zeros(2, 1, dtype=torch.bool),
        ...     },
        ... }, [2])
        >>> target.value_estimate(data, next_value=torch.full((2, 1), 0.1))
        tensor([[0.5000],
                [0.0900]])
    """

    def value_estimate(self, tensordict: TensorDictBase, *args: Any, **kwargs: Any) -> Tensor:
        """Return the target, shape ``[*batch, 1]``; see the class.

        Args:
            tensordict: transitions with rewards, flags and, if known, returns, any batch shape.
            args: further arguments of TorchRL's estimator.
            kwargs: further arguments of TorchRL's estimator.
        """
        target = super().value_estimate(tensordict, *args, **kwargs)
        bound = tensordict.get(RETURN_TO_GO, None)
        return target if bound is None else torch.maximum(target, bound.reshape(target.shape))


class ReturnsToGo:
    r"""Writer of discounted returns into a replay buffer, once an episode has ended.

    Each transition gets the discounted sum of rewards from its step to the end of the episode. Its
    return is :math:`-\infty` until the episode ends, and stays so if the episode is cut off.
    Transitions of several steps, which enter the replay buffer late, get their return too.

    Args:
        replay_buffer: a buffer that overwrites its oldest rows.
        gamma: γ, the discount factor.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.returns_to_go import ReturnsToGo
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(10))
        >>> returns = ReturnsToGo(replay_buffer, gamma=0.5)
        >>> returns.extend(TensorDict({"next": {     # an episode, and one step of another
        ...     "reward": torch.ones(4, 1),
        ...     "done": torch.tensor([[False], [False], [True], [False]]),
        ...     "terminated": torch.tensor([[False], [False], [True], [False]]),
        ... }}, [4]))
        >>> replay_buffer[:]["return_to_go"].flatten()
        tensor([1.7500, 1.5000, 1.0000,   -inf])
    """

    def __init__(self, replay_buffer: ReplayBuffer, gamma: float) -> None:
        self.replay_buffer, self.gamma = replay_buffer, gamma
        self._rewards: list[float] = []  # of the unfinished episode
        self._returns: deque[float] = deque()  # of steps whose rows are not written yet
        self._rows: deque[int] = deque()  # written, in order, whose returns are not known yet

    def extend(self, data: TensorDictBase) -> None:
        """Write transitions into the buffer, and the returns of episodes that end.

        Args:
            data: transitions of one environment in order of time, shape ``[time]``.
        """
        unknown = torch.full((*data.shape, 1), -torch.inf, device=data["next", "reward"].device)
        index = self.replay_buffer.extend(data.copy().set(RETURN_TO_GO, unknown))
        self._rows.extend(torch.as_tensor(index).flatten().tolist())
        rewards, done, terminated = (
            data["next", key].flatten().tolist() for key in ("reward", "done", "terminated")
        )
        for reward, is_done, is_terminated in zip(rewards, done, terminated, strict=True):
            self._rewards.append(reward)
            if is_done:
                self._end(known=is_terminated)
        self._write()

    def _end(self, *, known: bool) -> None:
        """Compute the returns of the episode that has ended."""
        returns, total = [], 0.0
        for reward in reversed(self._rewards):
            total = reward + self.gamma * total
            returns.append(total if known else -torch.inf)
        self._returns.extend(reversed(returns))
        self._rewards = []

    def _write(self) -> None:
        """Write the returns of all steps whose row and return are both known."""
        num = min(len(self._rows), len(self._returns))
        if not num:
            return
        pairs = [(self._rows.popleft(), self._returns.popleft()) for _ in range(num)]
        newest = dict(pairs)  # a row that was overwritten gets the newer return,
        for row in self._rows:  # or none if its new episode has not ended
            newest.pop(row, None)
        rows, returns = torch.tensor(list(newest)).long(), torch.tensor(list(newest.values()))
        storage = self.replay_buffer.storage
        column = storage[: len(storage)][RETURN_TO_GO]  # a view: set() would count rows again
        column[rows.to(column.device)] = returns.unsqueeze(-1).to(column.device)

    def drop_unfinished(self) -> None:
        """Forget the unfinished episode; the returns of its transitions stay unknown."""
        self._rewards, self._returns, self._rows = [], deque(), deque()

    def state_dict(self) -> dict:
        """Return the rewards, returns and rows that are not written yet."""
        return {
            "rewards": list(self._rewards),
            "returns": list(self._returns),
            "rows": list(self._rows),
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore :meth:`state_dict`."""
        self._rewards = list(state["rewards"])
        self._returns, self._rows = deque(state["returns"]), deque(state["rows"])
