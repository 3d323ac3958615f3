"""Objective of the reward model."""

from __future__ import annotations

from contextlib import AbstractContextManager

from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from torch import Tensor
from torch.nn import functional as F
from torchrl.objectives import LossModule

from torchrl_recall.checks import require
from torchrl_recall.modules.joint_model import JointModel
from torchrl_recall.modules.reward_model import RewardModel
from torchrl_recall.objectives.backtracking import zero_masked

__all__ = ["RewardModelLoss", "outcome_errors"]


class RewardModelLoss(LossModule):
    r"""Prediction errors of a reward model on real transitions.

    .. math:: \mathbb{E} \left[ (\hat r - r)^2 / \sigma_r^2 \right], \qquad
        -\mathbb{E} \left[ \log \hat p(d) \right]

    The first term is ``loss_reward``, where :math:`\sigma_r` is the running standard deviation of
    rewards. The second is ``loss_termination``, where d is the terminal flag. The reward model
    learns from all experience, as the state predictor does.

    Args:
        reward_model: the model to train.

    Raises:
        TypeError: the model is not a :class:`~torchrl_recall.RewardModel`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import Bounded, Unbounded
        >>> from torchrl_recall import RewardModel, RewardModelLoss
        >>> model = RewardModel(Unbounded((3,)), Bounded(-1, 1, (2,)))
        >>> data = TensorDict({
        ...     "observation": torch.randn(64, 3), "action": torch.rand(64, 2),
        ...     "next": {
        ...         "observation": torch.randn(64, 3), "reward": torch.randn(64, 1),
        ...         "terminated": torch.zeros(64, 1, dtype=torch.bool),
        ...     },
        ... }, [64])
        >>> model.update_statistics(data)
        >>> sorted(RewardModelLoss(model)(data).keys())
        ['loss_reward', 'loss_termination']
    """

    reward_model: RewardModel
    reward_model_params: TensorDictParams
    target_reward_model_params: TensorDictParams
    out_keys = ["loss_reward", "loss_termination"]  # noqa: RUF012

    def __init__(self, reward_model: RewardModel) -> None:
        super().__init__()
        if not isinstance(reward_model, RewardModel):
            raise TypeError(
                f"RewardModelLoss trains a RewardModel, got {type(reward_model).__name__}."
            )
        self.in_keys = [*reward_model.in_keys, ("next", "reward"), ("next", "terminated")]
        self.reduction = "mean"
        self.convert_to_functional(reward_model, "reward_model")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        """Do nothing: the loss has no value estimator."""

    def _loss_mask_keys(self) -> tuple[NestedKey, ...]:
        return ("mask", *super()._loss_mask_keys())

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both errors.

        Args:
            tensordict: real transitions, any batch shape. ``"mask"`` may leave some out.

        Returns:
            ``loss_reward`` and ``loss_termination``, scalars.

        Raises:
            KeyError: an entry is missing.
            ValueError: the batch is empty.
        """
        data = zero_masked(tensordict, self._loss_mask_keys(), self.in_keys)
        with self._functional():
            errors = outcome_errors(self.reward_model, data)
        reward, termination = (self._reduce_loss(each, tensordict) for each in errors)
        return TensorDict({"loss_reward": reward, "loss_termination": termination})

    def _functional(self) -> AbstractContextManager:
        return self.reward_model_params.to_module(self.reward_model, preserve_module_state=False)


def outcome_errors(
    model: RewardModel | JointModel, tensordict: TensorDictBase
) -> tuple[Tensor, Tensor]:
    """Compute the prediction errors of each transition's reward and terminal flag.

    Args:
        model: the model that predicts reward and terminal flag.
        tensordict: real transitions, any batch shape.

    Returns:
        The squared error of the standardised reward, and the cross entropy of the terminal flag in
        nats; each has the batch's shape.
    """
    reward, logit = model.predict(tensordict)
    target = model.rewards.features(model.reward_of(tensordict))
    cure = "Collect it with the transitions; the model learns where episodes end."
    ended = require(tensordict, ("next", "terminated"), type(model).__name__, cure)
    ended = ended.to(logit.dtype).reshape(logit.shape)
    errors = (
        F.mse_loss(reward, target, reduction="none"),
        F.binary_cross_entropy_with_logits(logit, ended, reduction="none"),
    )
    return errors[0].squeeze(-1), errors[1].squeeze(-1)
