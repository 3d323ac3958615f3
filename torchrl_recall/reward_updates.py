"""Training of the reward model, beside that of the backtracking model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import at_least, positive
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.objectives.reward import RewardModelLoss
from torchrl_recall.optim.adam import make_adam
from torchrl_recall.optim.batches import BatchSource, Draws, check_stored, mean_losses
from torchrl_recall.optim.gradient_step import make_update
from torchrl_recall.stateful import Part, Stateful

__all__ = ["RewardUpdates"]


class RewardUpdates(Stateful):
    """Gradient steps of a reward model on all experience.

    Args:
        model: the reward model.

    Keyword Args:
        num_updates: steps in each round.
        batch_size: transitions in each step.
        lr: the learning rate.
        draws: the source of random batches.
        compile: whether steps are compiled.

    Raises:
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall import RewardModel
        >>> from torchrl_recall.reward_updates import RewardUpdates
        >>> model = RewardModel(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {
        ...         "observation": torch.randn(64, 3), "reward": torch.randn(64, 1),
        ...         "terminated": torch.zeros(64, 1, dtype=torch.bool),
        ...     },
        ... }, [64])
        >>> model.update_statistics(data)
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(100))
        >>> _ = replay_buffer.extend(data)
        >>> sorted(RewardUpdates(model, num_updates=5)(replay_buffer))
        ['reward_model/loss_reward', 'reward_model/loss_termination']
    """

    def __init__(
        self,
        model: RewardModel,
        *,
        num_updates: int = 50,
        batch_size: int = 256,
        lr: float = 1e-3,
        draws: BatchSource | None = None,
        compile: bool = False,
    ) -> None:
        at_least(0, num_updates=num_updates)
        at_least(1, batch_size=batch_size)
        positive(lr=lr)
        self.model, self.loss = model, RewardModelLoss(model)
        self.num_updates, self.batch_size = num_updates, batch_size
        self.draws: BatchSource = Draws() if draws is None else draws
        self.optimizer = make_adam(self.loss, lr)
        self._update = make_update(self.loss, self.optimizer, compile=compile)

    def __call__(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train for a round on all experience; return detached means of the losses."""
        if not self.num_updates:
            return {}
        cure = "Keep them in it, or give Recall(reward=...) a rule of your own."
        check_stored(replay_buffer, self.loss.in_keys, "the reward model", cure)
        size = self.num_updates, self.batch_size
        batches = self.draws.batches(replay_buffer, *size, self.loss.in_keys)
        return mean_losses([self._update(batch) for batch in batches], "reward_model")

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the model, with its statistics, and the optimiser."""
        return {"model": self.model, "optimizer": self.optimizer}
