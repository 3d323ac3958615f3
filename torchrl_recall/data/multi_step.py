"""Transitions of several steps."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.envs.transforms import MultiStepTransform

from torchrl_recall.devices import device_of_data

__all__ = ["MultiStep"]


class MultiStep(MultiStepTransform):
    r"""TorchRL's ``MultiStepTransform`` with correct flags and a state that is saved.

    .. math:: r_t^{(n)} = \sum_{k=0}^{n-1} \gamma^k r_{t+k}

    A transition enters the replay buffer n steps later. Its next observation is that of n steps
    later, and value estimators discount by γ to the power ``steps_to_next_obs``. At the end of an
    episode transitions span fewer steps. In TorchRL 0.14.1, ``terminated`` and ``done`` are those
    of the first step, so targets may bootstrap from a terminal state. Here they are those of the
    last step.

    Args:
        n_steps: n, the number of steps of a transition.
        gamma: γ, the discount factor.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, ReplayBuffer
        >>> from torchrl_recall.data.multi_step import MultiStep
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(10))
        >>> _ = replay_buffer.append_transform(MultiStep(2, 0.5))
        >>> _ = replay_buffer.extend(TensorDict({
        ...     "observation": torch.arange(4.0).unsqueeze(-1),
        ...     "next": {
        ...         "observation": torch.arange(1.0, 5.0).unsqueeze(-1),
        ...         "reward": torch.ones(4, 1),
        ...         "done": torch.tensor([[False], [False], [True], [False]]),
        ...     },
        ... }, [4]))
        >>> replay_buffer[:]["next", "observation"].flatten()
        tensor([2., 3.])
        >>> replay_buffer[:]["next", "reward"].flatten()
        tensor([1.5000, 1.5000])
        >>> replay_buffer[:]["next", "done"].flatten()
        tensor([False,  True])
    """

    def __init__(self, n_steps: int, gamma: float) -> None:
        super().__init__(n_steps, gamma, done_keys=[])  # flags named here would be the first step's
        self._restored = False

    def drop_unfinished(self) -> None:
        """Forget the steps of unfinished transitions, after a reset in mid-episode."""
        self._buffer = None

    def get_extra_state(self) -> dict[str, Any]:
        """Return the steps of unfinished transitions."""
        return {"window": None if self._buffer is None else self._buffer.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_extra_state`."""
        self._buffer, self._restored = state["window"], True

    def _append_tensordict(self, data: TensorDictBase) -> TensorDictBase:
        if self._restored and self._buffer is not None:  # checkpoints are read onto the CPU
            self._buffer = self._buffer.to(device_of_data(data))
        self._restored = False
        return super()._append_tensordict(data)
