"""Training of a forward model, beside that of the backtracking model."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer

from torchrl_recall.checks import at_least, positive
from torchrl_recall.data.top_trajectories import valid_steps
from torchrl_recall.envs.backtracking_env import reverse_time
from torchrl_recall.model_updates import ModelUpdates
from torchrl_recall.modules.backtracking_model import BacktrackingModel
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss
from torchrl_recall.stateful import Part, Stateful

__all__ = ["ForwardUpdates"]


class ForwardUpdates(Stateful):
    r"""Gradient steps of a forward model on all experience.

    .. math:: -\sum_t \log p(\Delta_t \mid a_t, s_t), \qquad \Delta_t = s_{t+1} - s_t

    A backtracking model that is trained on data reversed in time *is* a forward model of the same
    size. Only its state predictor is trained.

    Args:
        model: a backtracking model, q(s_t | a_t, s_{t+1}). Here its input s_{t+1} holds the state
            in which a step begins.

    Keyword Args:
        num_updates: steps in each round.
        batch_size: transitions in each step.
        lr: the learning rate.
        compile: whether steps are compiled.

    Raises:
        TypeError: the model has a forward head already.
        ValueError: a number is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, LazyTensorStorage, ReplayBuffer, Unbounded
        >>> from torchrl_recall import BacktrackingModel
        >>> from torchrl_recall.forward_updates import ForwardUpdates
        >>> model = BacktrackingModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {"observation": torch.randn(64, 3)},
        ... }, [64])
        >>> train_forward = ForwardUpdates(model, num_updates=5)
        >>> train_forward.update_statistics(data)
        >>> replay_buffer = ReplayBuffer(storage=LazyTensorStorage(100))
        >>> _ = replay_buffer.extend(data)
        >>> list(train_forward(replay_buffer))
        ['forward_model/loss_state_predictor']
    """

    def __init__(
        self,
        model: BacktrackingModel,
        *,
        num_updates: int = 50,
        batch_size: int = 256,
        lr: float = 1e-3,
        compile: bool = False,
    ) -> None:
        if isinstance(model, JointModel):
            raise TypeError(
                "a JointModel has a forward head, which JointLoss trains with all others. As a "
                "forward model alone take a BacktrackingModel; for an Agreement give Recall the "
                "same JointModel as its model."
            )
        at_least(0, num_updates=num_updates)
        at_least(1, batch_size=batch_size)
        positive(lr=lr)
        self.model = model
        self.steps = ModelUpdates(
            BacktrackingLoss(model),
            num_updates=num_updates,
            batch_size=batch_size,
            lr=lr,
            state_predictor_data="all",
            learns_policy=False,
            prepare=self._reverse,
            compile=compile,
        )

    def _reverse(self, data: TensorDictBase) -> TensorDictBase:
        return reverse_time(data, observation_key=self.model.observation_key)

    def update_statistics(self, data: TensorDictBase) -> None:
        """Add new transitions to the model's statistics; pass each transition once.

        Args:
            data: real transitions in forward time, any batch shape, environment units.
        """
        self.model.update_statistics(self._reverse(valid_steps(data).reshape(-1)))

    def __call__(self, replay_buffer: ReplayBuffer) -> dict[str, Tensor]:
        """Train for a round on all experience; return the detached mean of the loss."""
        losses = self.steps(None, replay_buffer)
        return {f"forward_model/{key.partition('/')[2]}": loss for key, loss in losses.items()}

    def stateful_parts(self) -> Mapping[str, Part]:
        """Name the model, with its statistics, and the optimiser."""
        return {"model": self.model, "steps": self.steps}
