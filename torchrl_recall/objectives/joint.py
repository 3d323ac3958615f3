"""Objective of a joint model (App. G)."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor

from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.objectives.backtracking import BacktrackingLoss, zero_masked
from torchrl_recall.objectives.reward import outcome_errors

__all__ = ["JointLoss"]

_OUTCOME = ("next", "reward"), ("next", "terminated")


class JointLoss(BacktrackingLoss):
    r"""Losses of a joint model: likelihood backward and forward, reward and termination.

    .. math:: -\log q(a_t \mid s_{t+1}) - \log q(\Delta s_t \mid a_t, s_{t+1})
        - \log p(\Delta s_t \mid a_t, s_t) + (\hat r - r)^2 / \sigma_r^2 - \log \hat p(d)

    The first two terms are those of Eq. 2. The others are ``loss_forward_predictor``,
    ``loss_reward`` and ``loss_termination``, where d is the terminal flag. In
    :class:`~torchrl_recall.Recall`, all but the first term learn from all experience.

    Args:
        backtracking_model: the joint model to train.

    Keyword Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        TypeError: the model is not a :class:`~torchrl_recall.JointModel`.
        ValueError: the reduction is unknown.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import JointLoss, JointModel
        >>> model = JointModel.from_specs(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {
        ...         "observation": torch.randn(64, 3), "reward": torch.randn(64, 1),
        ...         "terminated": torch.zeros(64, 1, dtype=torch.bool),
        ...     },
        ... }, [64])
        >>> model.update_statistics(data)
        >>> loss = JointLoss(model)
        >>> sorted(loss(data).keys())[:3]
        ['loss_backward_policy', 'loss_forward_predictor', 'loss_reward']
    """

    out_keys = [  # noqa: RUF012
        *BacktrackingLoss.out_keys, "loss_forward_predictor", "loss_reward", "loss_termination",
    ]  # fmt: skip
    backtracking_model: JointModel

    def __init__(self, backtracking_model: JointModel, *, reduction: str = "mean") -> None:
        if not isinstance(backtracking_model, JointModel):
            raise TypeError(
                f"JointLoss trains a JointModel, got {type(backtracking_model).__name__}; train "
                "that with BacktrackingLoss."
            )
        super().__init__(backtracking_model, reduction=reduction)  # type: ignore[arg-type]

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        super()._forward_value_estimator_keys(**kwargs)
        self.in_keys = [*self.in_keys, *_OUTCOME]

    def _data(self, tensordict: TensorDictBase) -> TensorDictBase:
        data = super()._data(tensordict)
        if ("next", "reward") in data.keys(True):
            return data
        outcome = zero_masked(tensordict, self._loss_mask_keys(), _OUTCOME)
        return data.update(outcome.select(*_OUTCOME))  # of renamed keys, under the model's own

    def dynamics_losses(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        """Compute all terms but that of the backward policy.

        Args:
            tensordict: real transitions in forward time, any batch shape, environment units.

        Returns:
            The losses by name.
        """
        with self._functional_model() as model:
            data = self._data(tensordict)
            reward, termination = outcome_errors(model, data)
            errors = {
                "loss_forward_predictor": -model.forward_log_prob(data),
                "loss_reward": reward,
                "loss_termination": termination,
            }
        reduced = {name: self._reduce_loss(each, tensordict) for name, each in errors.items()}
        return super().dynamics_losses(tensordict) | reduced
